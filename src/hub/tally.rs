//! What the hub has counted, by name: counters go on through an upgrade.

use std::collections::BTreeMap;

use super::core::{Counter, Counters, FAILURES, Lost};

/// Counts by name; what is there at present is not among them.
pub(crate) type Tally = BTreeMap<String, u64>;

/// The name of what waited for a line that closed.
pub(super) const LOST_WITH_THE_LINE: &str = "lost closed";

/// The counts so far.
pub(super) fn tally(counters: &Counters) -> Tally {
    let named = named(counters).into_iter();
    named.map(|(name, n)| (name, n.count())).collect()
}

/// Goes on from `tally`, for a hub that has not begun yet.
pub(super) fn resume(counters: &Counters, tally: &Tally) {
    for (name, counter) in named(counters) {
        counter.set(tally.get(&name).copied().unwrap_or(0));
    }
}

fn named(counters: &Counters) -> Vec<(String, &Counter)> {
    let mut named = vec![
        ("received".into(), &counters.received),
        ("delivered".into(), &counters.delivered),
        ("bytes".into(), &counters.bytes),
        ("malformed".into(), &counters.malformed),
        ("cut".into(), &counters.cut),
        ("facts_ignored".into(), &counters.facts_ignored),
    ];
    for reason in Lost::ALL {
        named.push((format!("lost {}", reason.label()), counters.lost(reason)));
    }
    for (failure, label) in FAILURES {
        named.push((format!("failed {label}"), counters.failures(failure)));
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_where_they_were() {
        let before = Counters::default();
        for (i, (_, counter)) in named(&before).into_iter().enumerate() {
            counter.add(i as u64 + 1);
        }
        let carried = tally(&before);
        assert_eq!(carried.len(), named(&before).len(), "two have one name");
        let after = Counters::default();
        resume(&after, &carried);
        assert_eq!(tally(&after), carried);
        assert_eq!(after.received.count(), 1);
        assert!(carried.contains_key(LOST_WITH_THE_LINE));
        // An older binary may not have known them all.
        resume(&after, &Tally::new());
        assert!(tally(&after).values().all(|n| *n == 0));
    }
}
