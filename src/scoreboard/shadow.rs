//! What shadow policies would have made of the connections of one worker, see
//! [`dispatch::shadow`](crate::dispatch::shadow).
//!
//! A connection is with one worker in fact, and in the shadow of every other policy perhaps with another.
//! It is counted in the row of the worker that has it in fact, in the columns of those that the shadows
//! named: up by the dispatcher when it is picked, down by the worker when it closes. So it cannot be
//! counted twice wherever it is sent, and what dies with a process is gone with its row. What a shadow
//! policy would have open at one worker is the sum over the rows of all that take connections.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::{
    Row, SEATS,
    count::{add, subtract},
};
use crate::{
    dispatch::shadow::{Picks, Shadow},
    sys::shm::shared_struct,
};

/// By rule, in the order of [`Shadow::ALL`], and by seat.
type Columns = [[AtomicU64; SEATS]; Shadow::ALL.len()];

shared_struct! {
    /// The shadows of the connections of one worker process.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct ShadowColumns {
        /// Handed over and not taken back. Written by the dispatcher.
        assigned: Columns,
        /// What the worker writes.
        closed: Closed,
    }
}

shared_struct! {
    /// What the worker counts.
    #[derive(Debug)]
    #[repr(align(128))]
    struct Closed {
        /// Connections counted below: tells whether there is anything new.
        count: AtomicU64,
        by: Columns,
    }
}

impl ShadowColumns {
    /// Dispatcher: a connection was picked for this worker.
    #[inline]
    pub fn assign(&self, picks: Picks) {
        for (column, seat) in picks.all() {
            if let Some(number) = self.assigned[column].get(seat) {
                add(number, 1);
            }
        }
    }

    /// Dispatcher: it was taken back.
    #[inline]
    pub fn take_back(&self, picks: Picks) {
        for (column, seat) in picks.all() {
            if let Some(number) = self.assigned[column].get(seat) {
                subtract(number, 1);
            }
        }
    }

    /// Worker: a connection is closed. Only one thread of a worker may say so.
    #[inline]
    pub fn close(&self, picks: Picks) {
        if picks.is_none() {
            return;
        }
        for (column, seat) in picks.all() {
            if let Some(number) = self.closed.by[column].get(seat) {
                add(number, 1);
            }
        }
        // Last, so that whoever sees it sees what it stands for.
        let count = self.closed.count.load(Relaxed);
        self.closed.count.store(count.wrapping_add(1), Release);
    }

    /// Of this worker's connections, those that `seat` would have open under this rule.
    pub fn open(&self, shadow: Shadow, seat: u16) -> u64 {
        let (column, seat) = (shadow as usize, usize::from(seat));
        let number = |of: &Columns| of[column].get(seat).map_or(0, |n| n.load(Relaxed));
        // In this order: what is closed was assigned before, so this is never below zero for long.
        let closed = number(&self.closed.by);
        number(&self.assigned).saturating_sub(closed)
    }

    /// Back to zero, for the next process.
    pub(super) fn clear(&self) {
        self.closed.count.store(0, Relaxed);
        let both = self.assigned.iter().chain(&self.closed.by);
        both.flatten().for_each(|n| n.store(0, Relaxed));
    }
}

/// Keeps the loads of one shadow up to date, looking only at rows in which something has closed.
#[derive(Debug)]
pub struct ShadowLoads {
    column: usize,
    seen: Vec<Seen>,
}

/// What was seen of one row.
#[derive(Debug)]
struct Seen {
    count: u64,
    /// By candidate.
    closed: Vec<u64>,
}

impl ShadowLoads {
    /// Of nobody yet.
    pub fn new(shadow: Shadow) -> Self {
        Self {
            column: shadow as usize,
            seen: Vec::new(),
        }
    }

    /// Counts anew. `rows` are those of the candidates, and `loads` becomes what each would have open.
    pub fn count<'a>(
        &mut self,
        rows: impl Iterator<Item = (u16, &'a Row)> + Clone,
        loads: &mut [u32],
    ) {
        let seats = || rows.clone().map(|(seat, _)| usize::from(seat));
        self.seen.clear();
        loads.fill(0);
        for (_, row) in rows.clone() {
            let (assigned, closed) = (&row.shadow.assigned, &row.shadow.closed);
            let mut seen = Seen {
                count: closed.count.load(Acquire),
                closed: Vec::new(),
            };
            for (seat, load) in seats().zip(&mut *loads) {
                let ended = closed.by[self.column][seat].load(Relaxed);
                let begun = assigned[self.column][seat].load(Relaxed);
                *load = load.saturating_add(begun.saturating_sub(ended) as u32);
                seen.closed.push(ended);
            }
            self.seen.push(seen);
        }
    }

    /// Takes off what has closed since. The rows and seats are those of the last [`count`](Self::count);
    /// what was assigned since, the caller has added.
    pub fn update<'a>(
        &mut self,
        rows: impl Iterator<Item = (u16, &'a Row)> + Clone,
        loads: &mut [u32],
    ) {
        let seats = rows.clone().map(|(seat, _)| usize::from(seat));
        for (seen, (_, row)) in self.seen.iter_mut().zip(rows) {
            let closed = &row.shadow.closed;
            let count = closed.count.load(Acquire);
            if seen.count == count {
                continue;
            }
            seen.count = count;
            let numbers = seats.clone().map(|seat| &closed.by[self.column][seat]);
            for ((number, before), load) in numbers.zip(&mut seen.closed).zip(&mut *loads) {
                let now = number.load(Relaxed);
                *load = load.saturating_sub(now.wrapping_sub(*before) as u32);
                *before = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dispatch::policy::{Candidate, Prefixes},
        dispatch::shadow::Shadows,
        scoreboard::{RowRef, Scoreboard},
    };

    /// What the rules would pick for a few connections among four workers.
    fn some_picks(n: u16) -> Vec<Picks> {
        let candidates = [0, 1, 2, 3].map(|seat| Candidate {
            seat,
            ready: true,
            load: 0,
        });
        let mut shadows = Shadows::new(Prefixes::default());
        shadows.set_candidates(candidates.iter().map(|c| Some(c.seat.into())));
        let peers = (0..n).map(|i| ([192, 0, 2, i as u8], 1000 + i).into());
        peers
            .map(|peer| shadows.pick(peer, &candidates, None))
            .collect()
    }

    fn rows() -> Vec<(u16, RowRef)> {
        let board = Scoreboard::create().expect("scoreboard");
        let row = |seat| (seat, board.occupy(seat, 1).expect("row"));
        (0..4).map(row).collect()
    }

    fn total(rows: &[(u16, RowRef)]) -> u64 {
        let seats = 0..SEATS as u16;
        let open = |shadow| {
            let seats = seats.clone();
            rows.iter()
                .flat_map(move |(_, row)| seats.clone().map(move |s| row.shadow.open(shadow, s)))
        };
        Shadow::ALL.into_iter().flat_map(open).sum()
    }

    #[test]
    fn loads_kept_up_are_those_counted_anew_and_all_closed_is_zero() {
        let rows = rows();
        let all = || rows.iter().map(|(seat, row)| (*seat, &**row));
        let mut kept = ShadowLoads::new(Shadow::LeastLoaded);
        let (mut loads, mut anew) = ([0; 4], [0; 4]);
        kept.count(all(), &mut loads);
        let picks = some_picks(100);
        for (i, picks) in picks.iter().enumerate() {
            // In fact they go round, in the shadow elsewhere.
            rows[i % 4].1.shadow.assign(*picks);
            let seat = picks.seat(Shadow::LeastLoaded).expect("all are ready");
            loads[usize::from(seat)] += 1;
            if i % 3 == 0 {
                rows[i % 4].1.shadow.close(*picks);
            }
            if i % 7 == 0 {
                kept.update(all(), &mut loads);
                ShadowLoads::new(Shadow::LeastLoaded).count(all(), &mut anew);
                assert_eq!(loads, anew, "after {i}");
            }
        }
        assert_eq!(total(&rows), 4 * 66, "four rules each");
        for (i, picks) in picks.iter().enumerate().filter(|(i, _)| i % 3 > 0) {
            rows[i % 4].1.shadow.close(*picks);
        }
        kept.update(all(), &mut loads);
        assert_eq!((loads, total(&rows)), ([0; 4], 0));
    }

    #[test]
    fn what_is_taken_back_counts_where_it_goes_next_and_nowhere_else() {
        let rows = rows();
        let picks = some_picks(1)[0];
        rows[0].1.shadow.assign(picks);
        rows[0].1.shadow.take_back(picks);
        rows[1].1.shadow.assign(picks);
        assert_eq!(total(&rows), 4);
        assert_eq!(total(&rows[..1]), 0);
    }

    #[test]
    fn a_dead_worker_takes_its_shadows_with_it() {
        let rows = rows();
        for picks in some_picks(5) {
            add(&rows[2].1.dispatched.assigned, 1);
            rows[2].1.shadow.assign(picks);
        }
        assert_eq!(total(&rows), 20);
        rows[2].1.clone().retire();
        assert_eq!(total(&rows), 0);
    }

    #[test]
    fn bytes_that_name_no_seat_count_nowhere() {
        let rows = rows();
        let picks = Picks::from_bytes([200, 129, 255, 254]);
        rows[0].1.shadow.assign(picks);
        rows[0].1.shadow.close(picks);
        assert_eq!(total(&rows), 0);
    }
}
