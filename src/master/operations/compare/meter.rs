//! What happened in a block: the scoreboard read twice, and the difference.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use crate::{
    compare::{Block, Drive, Open},
    dispatch::mode::Arm,
    error::Result,
    processes,
    scoreboard::{ABORTED, State, histogram::Snapshot},
    status::Status,
};

/// Where requests that were answered with a 5xx are counted.
const SERVER_ERROR: usize = 4;

/// What was counted up to one moment, by all rows, the earlier processes' included, so that no worker's
/// death makes a difference negative.
#[derive(Debug, Clone, Default)]
struct Tally {
    /// All requests that ended, however they did.
    requests: u64,
    /// Of those, the ones over connections that the arm under test has dispatched.
    own: u64,
    server_errors: u64,
    aborted: u64,
    upstream_failures: u64,
    connections: u64,
    latency: Snapshot,
    handoff: Snapshot,
}

impl Tally {
    fn take(status: &Status, arm: Arm) -> Self {
        let seats: Vec<u16> = status.lock().seats.keys().copied().collect();
        let mut tally = Self::default();
        for row in seats.iter().flat_map(|seat| status.rows(*seat)) {
            tally.handoff.add(&row.handoff_duration);
            for (column, traffic) in row.traffic.iter().flat_map(|t| t.iter().enumerate()) {
                let connections = traffic.connections.load(Relaxed);
                if connections == 0 {
                    continue;
                }
                let classes: Vec<u64> = traffic.requests.iter().map(|n| n.load(Relaxed)).collect();
                let requests: u64 = classes.iter().sum();
                tally.connections += connections;
                tally.requests += requests;
                tally.server_errors += classes[SERVER_ERROR];
                tally.aborted += classes[ABORTED];
                tally.upstream_failures += traffic.upstream_failures.load(Relaxed);
                tally.latency.add(&traffic.request_duration);
                if column == arm.index() {
                    tally.own += requests;
                }
            }
        }
        tally
    }
}

/// One block that is being measured.
pub(super) struct Meter {
    status: Status,
    dispatch: Arm,
    /// What is known from the start, and what was looked at in between.
    block: Block,
    began: Instant,
    tally: Tally,
    used: processes::Snapshot,
}

impl Meter {
    /// Begins to measure. `dispatch` is what is in force; `block` says which block it is.
    ///
    /// # Errors
    /// `/proc` is not as it should be.
    pub(super) fn begin(status: &Status, dispatch: Arm, block: Block) -> Result<Self> {
        let used = used(status)?;
        Ok(Self {
            tally: Tally::take(status, dispatch),
            began: Instant::now(),
            status: status.clone(),
            dispatch,
            block,
            used,
        })
    }

    /// Notes what each worker has open now, unless that was noted just now: `apart` is about how long ago it
    /// should have been.
    pub(super) fn look(&mut self, apart: Duration) {
        let at = self.began.elapsed().as_secs_f64();
        // Timers are a little early or late.
        let least = 0.9 * apart.as_secs_f64();
        if self.block.open.last().is_some_and(|o| at - o.at < least) {
            return;
        }
        let by_worker = open_by_worker(&self.status);
        self.block.open.push(Open { at, by_worker });
    }

    /// What was counted so far; what processes have used is left out.
    pub(super) fn so_far(&self) -> Block {
        let now = Tally::take(&self.status, self.dispatch);
        let before = &self.tally;
        let difference = |of: fn(&Tally) -> u64| of(&now).saturating_sub(of(before));
        let all = difference(|t| t.requests);
        let answered_5xx = difference(|t| t.server_errors);
        let failed_upstream = difference(|t| t.upstream_failures);
        // A failure of the upstream's before its answer began was answered with a 5xx and is among those; one
        // after that is not. Which were which is not counted: this is what it was at least.
        let errors = answered_5xx.max(failed_upstream) + difference(|t| t.aborted);
        Block {
            seconds: self.began.elapsed().as_secs_f64(),
            requests: all.saturating_sub(errors),
            errors: errors.min(all),
            connections: difference(|t| t.connections),
            latency: now.latency.since(&before.latency),
            handoff: now.handoff.since(&before.handoff),
            own_share: match all {
                0 => 0.0,
                all => difference(|t| t.own) as f64 / all as f64,
            },
            ..self.block.clone()
        }
    }

    /// The block.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(super) fn end(self) -> Result<Block> {
        let mut block = self.so_far();
        let delta = used(&self.status)?.since(&self.used);
        block.used = delta.used;
        block.lost_threads = delta.lost_threads;
        Ok(block)
    }
}

/// A block of which nothing is known yet but which one it is; `began` is since the comparison did.
pub(super) fn blank(arm: usize, round: u32, position: u32, began: Duration) -> Block {
    Block {
        arm,
        round,
        position,
        drive: Drive::Live,
        began: began.as_secs_f64(),
        seconds: 0.0,
        requests: 0,
        errors: 0,
        connections: 0,
        used: processes::Usage::default(),
        lost_threads: 0,
        latency: Snapshot::default(),
        handoff: Snapshot::default(),
        open: Vec::new(),
        own_share: 0.0,
    }
}

/// What master and workers have used. Nobody else below the master: demo upstreams are not its work.
fn used(status: &Status) -> Result<processes::Snapshot> {
    let master = std::process::id() as i32;
    let mut pids = vec![master];
    let known = status.lock();
    pids.extend(known.seats.values().flat_map(|seat| &seat.pids));
    drop(known);
    let ours: Vec<_> = pids.into_iter().filter_map(processes::process).collect();
    processes::Snapshot::of(master, &ours)
}

/// Open connections of each worker that takes some, in the order of their seats.
fn open_by_worker(status: &Status) -> Vec<u64> {
    let mut open: Vec<(u64, u64)> = status
        .board
        .occupied()
        .filter(|row| matches!(row.state(), State::Ready | State::Hung))
        .map(|row| (row.birth.seat.load(Relaxed), row.open()))
        .collect();
    open.sort_unstable();
    open.into_iter().map(|(_, open)| open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::{Scoreboard, count::add};

    fn cluster() -> (Status, crate::scoreboard::RowRef) {
        let board = Scoreboard::create().expect("memory");
        let status = Status::new(board.clone(), 1, Arm::ALL[0]);
        status.lock().seats.entry(0).or_default();
        let row = board.occupy(0, 1).expect("free");
        row.set_state(State::Ready);
        (status, row)
    }

    #[test]
    fn a_block_is_what_was_counted_while_it_lasted_whoever_died_in_between() {
        let (status, row) = cluster();
        let (own, other) = (Arm::ALL[6], Arm::ALL[0]);
        let count = |row: &crate::scoreboard::RowRef, arm, class: usize, n: u64| {
            let traffic = row.traffic(1, arm);
            add(&traffic.connections, n);
            add(&traffic.requests[class], n);
            for _ in 0..n {
                traffic.request_duration.record(1_000_000);
            }
        };
        count(&row, other, 1, 50);
        let meter = Meter::begin(&status, own, blank(3, 2, 1, Duration::from_secs(5)));
        let mut meter = meter.expect("we are alive");
        count(&row, own, 1, 30);
        count(&row, other, 1, 50);
        add(&row.work.self_accepted, 7);
        meter.look(Duration::ZERO);
        meter.look(Duration::from_secs(60));
        row.retire();
        let next = status.board.occupy(0, 2).expect("free");
        count(&next, own, 4, 10);
        count(&next, own, ABORTED, 10);
        // Three of the ten 5xx were the upstream's fault, and are not counted twice.
        add(&next.traffic(1, own).upstream_failures, 3);
        let block = meter.end().expect("we are alive still");
        assert_eq!((block.arm, block.round, block.began), (3, 2, 5.0));
        assert_eq!((block.requests, block.errors), (80, 20));
        assert_eq!((block.connections, block.latency.count()), (100, 100));
        assert_eq!(block.own_share, 0.5);
        assert_eq!(block.open.len(), 1, "the second came too soon");
        assert_eq!(block.open[0].by_worker, [7]);
        assert!(block.seconds > 0.0);
    }

    #[test]
    fn without_traffic_nothing_is_divided_by_zero() {
        let (status, _row) = cluster();
        let meter = Meter::begin(&status, Arm::ALL[0], blank(0, 1, 1, Duration::ZERO));
        let block = meter.and_then(Meter::end).expect("we are alive");
        assert_eq!((block.requests, block.errors, block.own_share), (0, 0, 0.0));
    }
}
