//! How long to wait before a worker that died is started again. Pure.

use std::time::Duration;

use crate::status::HEALTHY;

const FIRST: Duration = Duration::from_millis(100);

/// Exponential back-off of one seat: 0.1 s, 0.2 s … up to a limit, each up to a quarter shorter so that seats
/// that die together do not come back together.
#[derive(Debug, Default, Clone)]
pub(super) struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// As it was after so many [`deaths`](Self::deaths).
    pub(super) fn resume(deaths: u32) -> Self {
        Self { deaths }
    }

    /// The wait after a worker that lived for `lifetime`, `limit` at most. `jitter` is any number, best
    /// a random one.
    pub(super) fn after(&mut self, lifetime: Duration, limit: Duration, jitter: u64) -> Duration {
        if lifetime >= HEALTHY {
            self.deaths = 0;
            return Duration::ZERO;
        }
        let wait = FIRST.saturating_mul(1 << self.deaths.min(9)).min(limit);
        self.deaths = self.deaths.saturating_add(1);
        wait - wait.mul_f64((jitter % 1024) as f64 / 4096.0)
    }

    /// Deaths in a row, none of them after a healthy life.
    pub(super) fn deaths(&self) -> u32 {
        self.deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn waits_double_up_to_half_a_minute_and_start_over_after_a_healthy_life() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12)
            .map(|_| backoff.after(Duration::ZERO, LIMIT, 0).as_millis())
            .collect();
        assert_eq!(
            waits,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000
            ]
        );
        assert_eq!(backoff.after(HEALTHY, LIMIT, 0), Duration::ZERO);
        assert_eq!(backoff.after(Duration::ZERO, LIMIT, 0), FIRST);
    }

    #[test]
    fn jitter_only_shortens_and_by_a_quarter_at_most() {
        for jitter in [0, 1, 512, 1023, u64::MAX] {
            let wait = Backoff::default().after(Duration::ZERO, LIMIT, jitter);
            assert!(wait <= FIRST && wait >= FIRST.mul_f64(0.75), "{wait:?}");
        }
    }
}
