//! What counts as a worker's load.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::name::UnknownName;

/// What the policy `least-loaded` goes by. Connections handed over and not yet claimed always
/// count, so that a burst cannot herd.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LoadSignal {
    /// Open connections.
    #[default]
    Connections,
    /// Requests in flight: for kept connections that are mostly idle.
    Requests,
    /// The share of time for which the worker's loop was busy: for requests of very unequal cost.
    Busy,
}

impl LoadSignal {
    /// Every signal, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Connections, Self::Requests, Self::Busy];

    /// Its name in flags and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Busy => "busy",
        }
    }
}

impl fmt::Display for LoadSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LoadSignal {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|signal| signal.name() == text)
            .ok_or_else(|| UnknownName::new("load signal", text, Self::ALL.map(Self::name)))
    }
}

/// The share of time for which a worker was busy, from a counter of busy time that is looked at now
/// and then.
#[derive(Debug, Default, Clone)]
pub struct BusyShare {
    /// When the counter was looked at last, and what it said; nanoseconds.
    looked: u64,
    busy: u64,
    /// Thousandths of the time between the last two looks.
    permille: u32,
    /// Connections picked for the worker since.
    picked: u32,
}

/// How far two looks are apart at the least, nanoseconds: shorter and chance would decide.
const WINDOW: u64 = 10_000_000;
/// What a connection picked since the last look counts, in thousandths of the worker's time.
const PICKED: u32 = 10;

impl BusyShare {
    /// The load: thousandths of busy time, and something for each connection picked since that was
    /// measured. `now` and `busy` (the counter) are nanoseconds.
    pub fn load(&mut self, now: u64, busy: u64) -> u32 {
        let window = now.saturating_sub(self.looked);
        if window >= WINDOW {
            let share = busy.saturating_sub(self.busy).saturating_mul(1000) / window;
            self.permille = share.min(1000) as u32;
            (self.looked, self.busy, self.picked) = (now, busy, 0);
        }
        self.permille
            .saturating_add(self.picked.saturating_mul(PICKED))
    }

    /// A connection was picked for the worker.
    pub fn picked(&mut self) {
        self.picked = self.picked.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_that_of_the_window_and_picks_count_until_the_next_look() {
        let mut share = BusyShare::default();
        let (second, start) = (1_000_000_000, 5_000_000_000);
        share.load(start, 0);
        assert_eq!(share.load(start + second, second / 4), 250);
        share.picked();
        share.picked();
        assert_eq!(
            share.load(start + second + 1, second),
            270,
            "too soon to look again"
        );
        assert_eq!(share.load(start + 2 * second, second / 4), 0, "idle since");
        assert_eq!(
            share.load(start + 3 * second, 9 * second),
            1000,
            "never more than all"
        );
    }

    #[test]
    fn names_parse_back() {
        for signal in LoadSignal::ALL {
            assert_eq!(signal.name().parse(), Ok(signal));
        }
        assert!(
            "cpu"
                .parse::<LoadSignal>()
                .expect_err("unknown")
                .to_string()
                .contains("busy")
        );
    }
}
