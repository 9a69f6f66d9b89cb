//! What is counted on the way through NATS. Written by its thread and the hub's, read by whoever shows
//! metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::envelope::Dropped;
use crate::hub::tally::Tally;

/// What has been counted since the master began, and what is there now.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// 1 while there is a connection to a NATS server.
    connected: AtomicU64,
    /// Connects, but for the first.
    reconnects: AtomicU64,
    /// Masters that there is a link to.
    masters: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
}

impl Counters {
    /// Is there a connection to a NATS server? 0 or 1.
    pub(crate) fn connected(&self) -> u64 {
        self.connected.load(Relaxed)
    }

    /// How often it has come back.
    pub(crate) fn reconnects(&self) -> u64 {
        self.reconnects.load(Relaxed)
    }

    /// How many other masters are there.
    pub(crate) fn masters(&self) -> u64 {
        self.masters.load(Relaxed)
    }

    /// Envelopes that went no further, for this reason.
    pub(crate) fn dropped(&self, why: Dropped) -> u64 {
        self.dropped[why as usize].load(Relaxed)
    }

    /// What an upgrade carries on, by name.
    pub(in crate::hub) fn tally(&self) -> Tally {
        let named = self.named().into_iter();
        named
            .map(|(name, count)| (name, count.load(Relaxed)))
            .collect()
    }

    /// Goes on from `tally`.
    pub(in crate::hub) fn resume(&self, tally: &Tally) {
        for (name, count) in self.named() {
            count.store(tally.get(&name).copied().unwrap_or(0), Relaxed);
        }
    }

    fn named(&self) -> Vec<(String, &AtomicU64)> {
        let dropped = Dropped::ALL.into_iter();
        let mut named: Vec<_> = dropped
            .map(|why| (format!("nats {}", why.name()), &self.dropped[why as usize]))
            .collect();
        named.push(("nats reconnects".into(), &self.reconnects));
        named
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected.into(), Relaxed);
    }

    pub(super) fn count_reconnect(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }

    pub(super) fn set_masters(&self, masters: usize) {
        self.masters.store(masters as u64, Relaxed);
    }

    pub(super) fn lose(&self, why: Dropped, count: u64) {
        self.dropped[why as usize].fetch_add(count, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_where_they_were() {
        let before = Counters::default();
        for why in Dropped::ALL {
            before.lose(why, why as u64 + 2);
        }
        before.count_reconnect();
        let carried = before.tally();
        assert_eq!(carried.len(), Dropped::ALL.len() + 1, "two have one name");
        let after = Counters::default();
        after.resume(&carried);
        assert_eq!(after.tally(), carried);
        assert_eq!(
            (after.reconnects(), after.dropped(Dropped::Unsigned)),
            (1, 3)
        );
    }
}
