//! How it is looked at: what the keys change.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// The intervals that `+` and `-` step through.
const STEPS: [Duration; 8] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

/// The columns of the workers' table, by any of which it can be sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// The seat.
    Worker,
    /// The process id.
    Pid,
    /// Which birth in the seat it is.
    Generation,
    /// What it is doing.
    State,
    /// Connections that it holds.
    Open,
    /// Requests begun and not ended.
    InFlight,
    /// Requests a second.
    Requests,
    /// Percent of a core.
    Cpu,
    /// Processes that were in the seat before.
    Restarts,
    /// How often it was found stuck.
    Hung,
}

impl Column {
    /// All of them, from left to right.
    pub(super) const ALL: [Self; 10] = [
        Self::Worker,
        Self::Pid,
        Self::Generation,
        Self::State,
        Self::Open,
        Self::InFlight,
        Self::Requests,
        Self::Cpu,
        Self::Restarts,
        Self::Hung,
    ];

    /// What stands above it.
    pub(super) const fn head(self) -> &'static str {
        match self {
            Self::Worker => "WORKER",
            Self::Pid => "PID",
            Self::Generation => "GEN",
            Self::State => "STATE",
            Self::Open => "OPEN",
            Self::InFlight => "IN FLIGHT",
            Self::Requests => "REQ/S",
            Self::Cpu => "CPU %",
            Self::Restarts => "RESTARTS",
            Self::Hung => "HUNG",
        }
    }

    /// Does the largest come first, unless it is reversed? So where one looks for the busiest.
    pub(super) const fn largest_first(self) -> bool {
        !matches!(
            self,
            Self::Worker | Self::Pid | Self::Generation | Self::State
        )
    }

    fn step(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|column| *column == self);
        Self::ALL[(at.unwrap_or(0) + by) % Self::ALL.len()]
    }
}

/// How it is looked at.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// What the workers are sorted by.
    pub(super) sort: Column,
    /// The other way round?
    pub(super) reversed: bool,
    /// Does the picture stand still?
    pub(super) paused: bool,
    /// Are the keys explained?
    pub(super) help: bool,
    /// Between two looks at the master.
    pub(super) interval: Duration,
    /// Workers left out above the first that is shown.
    pub(super) skipped: usize,
    /// May there be colours?
    pub(super) colour: bool,
    /// Is it one frame for a file or a pipe, to which nothing happens any more?
    pub(super) plain: bool,
}

/// What a key asks for beyond another look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing.
    Stay,
    /// To end.
    Quit,
}

impl View {
    /// As it is at the start.
    pub(super) fn new(interval: Duration, colour: bool) -> Self {
        Self {
            sort: Column::Worker,
            reversed: false,
            paused: false,
            help: false,
            interval,
            skipped: 0,
            colour,
            plain: false,
        }
    }

    /// Does what a key says, where there are `workers` to scroll through.
    pub(super) fn on(&mut self, key: KeyEvent, workers: usize) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Stay;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd') => Wish::Quit,
                _ => Wish::Stay,
            };
        }
        match key.code {
            // Whoever reads the help wants to leave that first.
            KeyCode::Esc | KeyCode::Char('q') if self.help => self.help = false,
            KeyCode::Esc | KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Char('s' | '>' | '.') | KeyCode::Right => self.sort_by(self.sort.step(1)),
            KeyCode::Char('<' | ',') | KeyCode::Left => {
                self.sort_by(self.sort.step(Column::ALL.len() - 1));
            }
            KeyCode::Char(digit @ '1'..='9') => {
                self.sort_by(Column::ALL[digit as usize - '1' as usize]);
            }
            KeyCode::Char('0') => self.sort_by(Column::Hung),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('+' | '=') => {
                let next = STEPS.iter().find(|step| **step > self.interval);
                self.interval = next.copied().unwrap_or(self.interval);
            }
            KeyCode::Char('-') => {
                let next = STEPS.iter().rev().find(|step| **step < self.interval);
                self.interval = next.copied().unwrap_or(self.interval);
            }
            KeyCode::Down => self.skipped = (self.skipped + 1).min(workers.saturating_sub(1)),
            KeyCode::Up => self.skipped = self.skipped.saturating_sub(1),
            KeyCode::PageDown => {
                self.skipped = (self.skipped + 10).min(workers.saturating_sub(1));
            }
            KeyCode::PageUp => self.skipped = self.skipped.saturating_sub(10),
            KeyCode::Home => self.skipped = 0,
            _ => {}
        }
        Wish::Stay
    }

    fn sort_by(&mut self, column: Column) {
        self.sort = column;
        self.reversed = false;
        self.skipped = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View::new(Duration::from_secs(1), false)
    }

    fn press(view: &mut View, code: KeyCode) -> Wish {
        view.on(KeyEvent::new(code, KeyModifiers::NONE), 4)
    }

    #[test]
    fn every_column_can_be_sorted_by() {
        let mut view = view();
        let mut seen = Vec::new();
        for _ in Column::ALL {
            seen.push(view.sort);
            assert_eq!(press(&mut view, KeyCode::Char('s')), Wish::Stay);
        }
        assert_eq!(
            (seen.as_slice(), view.sort),
            (&Column::ALL[..], Column::Worker)
        );
        press(&mut view, KeyCode::Char('<'));
        assert_eq!(view.sort, Column::Hung);
        press(&mut view, KeyCode::Char('r'));
        assert!(view.reversed);
        press(&mut view, KeyCode::Char('7'));
        assert_eq!((view.sort, view.reversed), (Column::Requests, false));
    }

    #[test]
    fn the_interval_has_ends() {
        let mut view = view();
        press(&mut view, KeyCode::Char('+'));
        assert_eq!(view.interval, Duration::from_secs(2));
        for _ in STEPS {
            press(&mut view, KeyCode::Char('-'));
        }
        assert_eq!(view.interval, STEPS[0]);
        for _ in STEPS {
            press(&mut view, KeyCode::Char('+'));
        }
        assert_eq!(view.interval, STEPS[STEPS.len() - 1]);
        // One that is none of the steps.
        view.interval = Duration::from_millis(1500);
        press(&mut view, KeyCode::Char('-'));
        assert_eq!(view.interval, Duration::from_secs(1));
    }

    #[test]
    fn there_are_several_ways_out_and_the_help_is_left_first() {
        let mut view = view();
        assert_eq!(press(&mut view, KeyCode::Char('q')), Wish::Quit);
        assert_eq!(press(&mut view, KeyCode::Esc), Wish::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut view, KeyCode::Char('?'));
        assert!(view.help);
        assert_eq!(view.on(interrupt, 4), Wish::Quit);
        assert_eq!(press(&mut view, KeyCode::Esc), Wish::Stay);
        assert!(!view.help);
        press(&mut view, KeyCode::Char('p'));
        assert!(view.paused);
        press(&mut view, KeyCode::Char(' '));
        assert!(!view.paused);
    }

    #[test]
    fn one_cannot_scroll_beyond_the_last_worker() {
        let mut view = view();
        press(&mut view, KeyCode::PageDown);
        assert_eq!(view.skipped, 3);
        press(&mut view, KeyCode::Down);
        assert_eq!(view.skipped, 3);
        press(&mut view, KeyCode::PageUp);
        press(&mut view, KeyCode::Up);
        assert_eq!(view.skipped, 0);
    }
}
