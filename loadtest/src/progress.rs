//! How far it is, on standard error: one line that changes on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two lines where they stay.
const SELDOM: Duration = Duration::from_secs(10);

/// Tells a person what is going on and how long it is going to take.
pub(crate) struct Progress {
    terminal: bool,
    told: Option<Instant>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            told: None,
        }
    }

    /// `what` is going on, and all in all it still takes `left`.
    pub(crate) fn say(&mut self, what: &str, left: Duration) {
        let line = line(what, left);
        // Nobody may be reading; that is no reason to stop.
        let _ = match self.terminal {
            true => write!(std::io::stderr(), "\r\x1b[K{line}"),
            false if self.told.is_none_or(|told| told.elapsed() >= SELDOM) => {
                self.told = Some(Instant::now());
                writeln!(std::io::stderr(), "{line}")
            }
            false => Ok(()),
        };
    }

    /// What follows stands on a line of its own.
    pub(crate) fn end(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, left: Duration) -> String {
    let left = left.as_secs();
    format!("[{:>3}:{:02} left] {what}", left / 60, left % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_time_left() {
        let shown = line("nginx", Duration::from_secs(125));
        assert_eq!(shown, "[  2:05 left] nginx");
    }
}
