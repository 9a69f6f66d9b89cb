//! Judgements of made-up comparisons.

use std::time::Duration;

use super::*;

/// One with these arms and no blocks yet.
pub(super) fn comparison(arms: &[&str]) -> Comparison {
    Comparison {
        source: Source::Bench,
        scenario: "keepalive".to_owned(),
        load: "small answers".to_owned(),
        circumstances: Circumstances::default(),
        arms: arms
            .iter()
            .map(|name| Arm {
                name: (*name).to_owned(),
                twin_of: None,
                configuration: Some(format!("mode = \"{name}\"\n")),
            })
            .collect(),
        blocks: Vec::new(),
        rounds: 12,
        ending: Ending::Complete,
    }
}

/// One second in which 1,000 requests took 40 ms of CPU time and 1 ms each.
pub(super) fn block(arm: usize, round: u32) -> Block {
    let mut latency = Snapshot::default();
    (0..1000).for_each(|_| latency.record(Duration::from_millis(1)));
    Block {
        arm,
        round,
        position: arm as u32 + 1,
        drive: Drive::Closed,
        began: f64::from(round),
        seconds: 1.0,
        requests: 1000,
        errors: 0,
        connections: 10,
        used: Usage {
            cpu_ns: 40_000_000,
            ..Usage::default()
        },
        lost_threads: 0,
        latency,
        handoff: Snapshot::default(),
        open: Vec::new(),
        own_share: 1.0,
    }
}
