//! How far it is: a bar on a terminal, else a line now and then.

use std::{
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

use crate::{bench::Progress, cli::ctl::show};

/// Between two lines where there is no terminal.
const BETWEEN: Duration = Duration::from_secs(10);
/// Cells of the bar.
const CELLS: usize = 20;

/// Shows progress on standard error.
pub(super) struct Bar {
    is_terminal: bool,
    scenarios: usize,
    /// When a line was written last.
    told: Option<Instant>,
}

impl Bar {
    pub(super) fn new(scenarios: usize) -> Self {
        Self {
            is_terminal: stderr().is_terminal(),
            scenarios,
            told: None,
        }
    }

    /// Shows how far it is with the `index`th scenario; `later`: what the ones after it take.
    pub(super) fn show(
        &mut self,
        index: usize,
        scenario: &str,
        progress: &Progress,
        later: Duration,
    ) {
        let left = progress.left + later;
        if self.is_terminal {
            let done = (index as f64 + progress.done) / self.scenarios.max(1) as f64;
            let line = format!("{} {}", bar(done), words(scenario, progress, left));
            // Back to the beginning, nothing left over of a longer line, and no second line in a narrow terminal.
            let text = format!("\r\x1b[?7l{line}\x1b[K\x1b[?7h");
            let _ = stderr().write_all(text.as_bytes());
        } else if self.told.is_none_or(|told| told.elapsed() >= BETWEEN) {
            self.told = Some(Instant::now());
            crate::notice(format_args!("{}", words(scenario, progress, left)));
        }
    }

    /// Makes room for what comes next.
    pub(super) fn clear(&self) {
        if self.is_terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn bar(done: f64) -> String {
    let full = (done.clamp(0.0, 1.0) * CELLS as f64) as usize;
    let (full, empty) = ("█".repeat(full), "░".repeat(CELLS - full));
    format!("{full}{empty} {:3.0} %", done * 100.0)
}

fn words(scenario: &str, progress: &Progress, left: Duration) -> String {
    let name = &progress.name;
    let time = show::duration(left.as_secs_f64());
    match (progress.round, progress.rounds) {
        (0, _) => format!("{time} left, {scenario}, trial: {name}"),
        (round, None) => format!("{time} left, {scenario}, round {round}: {name}"),
        (round, Some(rounds)) => format!("{time} left, {scenario}, {round}/{rounds}: {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_a_terminal_and_says_what_is_left() {
        let mut progress = Progress {
            round: 12,
            rounds: Some(12),
            arm: 0,
            name: "handoff/least-loaded, again".into(),
            done: 0.5,
            left: Duration::from_secs(80),
        };
        let line = words("per-connection", &progress, Duration::from_secs(200));
        // What stands to the right is cut off where there is no room for it.
        assert!(
            line.starts_with("3 min 20 s left, per-connection, 12/12: h")
                && line.ends_with("again"),
            "{line}"
        );
        let whole = format!("{} {line}", bar(0.5));
        assert!(whole.chars().count() <= 100, "{whole}");
        assert!(whole.starts_with("██████████░░░░░░░░░░  50 % "), "{whole}");
        progress.round = 0;
        let line = words("bodies", &progress, Duration::from_secs(4000));
        assert!(
            line.contains("trial") && line.starts_with("1 h 6 min left"),
            "{line}"
        );
    }
}
