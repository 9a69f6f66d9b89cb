//! The scoreboard: one table in shared memory, a row for every worker process, written by all and
//! read by the dispatcher, the workers and `/metrics`. Plain atomics, no pointers, no locks; one
//! writer per number, the claim word excepted. Publishing costs a store, never a system call.

pub mod claim;
pub mod count;
pub mod histogram;

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use self::{count::add, histogram::Histogram};
use crate::{
    dispatch::mode::Arm,
    sys::shm::{Mapping, shared_struct},
};

/// The most workers that one master runs, the master's own seat not counted.
pub const MAX_WORKERS: usize = 128;
/// Seats: places for a worker. The last one is the master's, which serves too if asked to.
pub const SEATS: usize = MAX_WORKERS + 1;
/// The most listeners.
pub const MAX_LISTENERS: usize = 8;
/// The most upstream endpoints that have counters of their own.
pub const MAX_ENDPOINTS: usize = 64;
/// Rows for processes: two for every seat, so that a successor can start before the old one ends.
const PROCESS_ROWS: usize = 2 * SEATS;

/// Status classes that responses are counted by.
pub const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "aborted"];
/// The class of a request whose client was gone before it had a response.
pub const ABORTED: usize = 5;

/// The class of a status code.
pub fn class(status: u16) -> usize {
    usize::from(status / 100).clamp(1, 5) - 1
}

const MAGIC: u64 = 0x504f_494e_5453_4d01; // "POINTSM", layout 1

shared_struct! {
    /// The whole table. Fresh memory is zero and pages that nobody touches cost nothing, so the
    /// room for the largest cluster is always there.
    #[derive(Debug)]
    struct Board {
        magic: AtomicU64,
        /// Rows of `processes` that were ever occupied: how far a reader has to look.
        rows_used: AtomicU64,
        /// What the dispatcher counts that belongs to no one worker.
        dispatcher: Dispatcher,
        /// What the processes in each seat before the present ones have counted.
        retired: [Row; SEATS],
        /// One for every process.
        processes: [Row; PROCESS_ROWS],
    }
}

shared_struct! {
    /// What the dispatcher counts that belongs to no one worker.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Dispatcher {
        /// Connections that went to a second worker because the first did not claim them.
        pub redispatched: AtomicU64,
        /// Hand-overs that failed, by [`HANDOFF_ERRORS`].
        pub errors: [AtomicU64; HANDOFF_ERRORS.len()],
        /// Connections closed because no descriptor was left for them.
        pub turned_away: AtomicU64,
        /// Accepts that failed by the connection's own fault.
        pub accept_failed: AtomicU64,
    }
}

/// Why a hand-over failed.
pub const HANDOFF_ERRORS: [&str; 5] = [
    "channel_full",
    "channel_broken",
    "kernel_refused",
    "malformed",
    "gave_up",
];

/// An index into [`HANDOFF_ERRORS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandoffError {
    /// The channel had no room.
    ChannelFull = 0,
    /// The worker's end was gone.
    ChannelBroken = 1,
    /// The kernel would not take more descriptors in flight, or had no memory.
    KernelRefused = 2,
    /// The worker could not read the batch: truncated, or not as announced.
    Malformed = 3,
    /// Too many workers in a row died with it unclaimed; it was closed.
    GaveUp = 4,
}

shared_struct! {
    /// What one worker process counts.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Row {
        /// Written by the master at birth and death.
        pub birth: Birth,
        /// Written by both, see [`claim`].
        pub claim: ClaimLine,
        /// Written by the dispatcher.
        pub dispatched: Dispatched,
        /// Written by the worker's threads.
        pub work: Work,
        /// Accept to claim.
        pub handoff_duration: Histogram,
        /// By upstream endpoint.
        pub endpoints: [Endpoint; MAX_ENDPOINTS],
        /// By listener and arm.
        pub traffic: [[Traffic; Arm::ALL.len()]; MAX_LISTENERS],
    }
}

shared_struct! {
    /// Who is in the row.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Birth {
        /// Process id; 0: the row is free.
        pub pid: AtomicU64,
        /// The seat it holds.
        pub seat: AtomicU64,
        /// Counts births in the seat.
        pub generation: AtomicU64,
        /// A [`State`].
        pub state: AtomicU64,
    }
}

shared_struct! {
    /// The claim word, alone on its cache lines.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct ClaimLine {
        /// See [`claim`].
        pub word: AtomicU64,
    }
}

shared_struct! {
    /// What the dispatcher counts for a worker.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Dispatched {
        /// Connections handed over, counted before they are sent.
        pub assigned: AtomicU64,
        /// Of those, taken back.
        pub revoked: AtomicU64,
        /// The number of the last connection sent; written before the message is, so that a worker
        /// that has claimed this number knows that its channel is empty.
        pub sent: AtomicU64,
        /// Batches sent.
        pub batches: AtomicU64,
    }
}

shared_struct! {
    /// What a worker counts.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Work {
        /// When its loop was last entered, monotonic nanoseconds: the time that all work of this
        /// turn may use as "now".
        pub loop_entered: AtomicU64,
        /// 1 while its loop waits for something to do.
        pub parked: AtomicU64,
        /// Connections claimed from the master.
        pub claimed: AtomicU64,
        /// Connections that it accepted itself. Written by two threads.
        pub self_accepted: AtomicU64,
        /// Connections closed.
        pub closed: AtomicU64,
        /// Requests begun and not ended.
        pub in_flight: AtomicU64,
        /// Connections that came handed over but revoked, closed unread.
        pub refused: AtomicU64,
        /// Messages on the channel that were no batch.
        pub malformed: AtomicU64,
        /// 1 from such a message on until the master has revoked all that is unclaimed: until then
        /// nothing may be claimed, or the lost batch would count as claimed with the next one.
        /// Raised by the worker, lowered by the dispatcher.
        pub broken: AtomicU64,
        /// Accepts that failed for want of descriptors or memory. Written by two threads.
        pub accept_exhausted: AtomicU64,
        /// Connections that a timeout closed.
        pub timed_out: AtomicU64,
    }
}

shared_struct! {
    /// What happened on one listener while one arm was in force.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Traffic {
        /// Connections that began.
        pub connections: AtomicU64,
        /// Connections that ended.
        pub closed: AtomicU64,
        /// Requests answered, by [`CLASSES`].
        pub requests: [AtomicU64; CLASSES.len()],
        /// Bytes from clients.
        pub received: AtomicU64,
        /// Bytes to clients.
        pub sent: AtomicU64,
        /// Requests that failed by the upstream's fault.
        pub upstream_failures: AtomicU64,
        /// From the request's head read to its response gone to the socket.
        pub request_duration: Histogram,
    }
}

shared_struct! {
    /// What one worker did with one upstream endpoint.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Endpoint {
        /// Responses, by [`CLASSES`]; `aborted`: none came.
        pub requests: [AtomicU64; CLASSES.len()],
        /// Connections opened.
        pub opened: AtomicU64,
        /// Connections closed.
        pub closed: AtomicU64,
        /// Requests that went over a connection that had served before.
        pub reused: AtomicU64,
        /// Connections refused, timed out or broken.
        pub failures: AtomicU64,
    }
}

/// How far a worker process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// No process.
    Free = 0,
    /// Born, not ready yet.
    Starting = 1,
    /// Takes connections.
    Ready = 2,
    /// Takes nothing new, finishes what is open.
    Draining = 3,
}

impl State {
    /// Its name in `/workers`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

impl Row {
    /// How far the process is.
    pub fn state(&self) -> State {
        match self.birth.state.load(Relaxed) {
            1 => State::Starting,
            2 => State::Ready,
            3 => State::Draining,
            _ => State::Free,
        }
    }

    /// Only the master sets this.
    pub fn set_state(&self, state: State) {
        self.birth.state.store(state as u64, Relaxed);
    }

    /// Connections that the worker has or is about to get: assigned or self-accepted, minus taken
    /// back, minus closed.
    #[inline]
    pub fn load(&self) -> u32 {
        let opened = self.dispatched.assigned.load(Relaxed) + self.work.self_accepted.load(Relaxed);
        let ended = self.dispatched.revoked.load(Relaxed) + self.work.closed.load(Relaxed);
        // The numbers are read one after the other while they move: never below zero.
        opened.saturating_sub(ended).min(u64::from(u32::MAX)) as u32
    }

    /// Connections that the worker owns now: what dies with it.
    pub fn open(&self) -> u64 {
        let owned = self.work.claimed.load(Relaxed) + self.work.self_accepted.load(Relaxed);
        owned.saturating_sub(self.work.closed.load(Relaxed))
    }

    /// The counters of a listener under an arm.
    #[inline]
    pub fn traffic(&self, listener: u8, arm: Arm) -> &Traffic {
        &self.traffic[usize::from(listener) % MAX_LISTENERS][arm.index()]
    }

    /// Adds all monotonic counters of `other`: what a dead process counted goes into its seat's
    /// retired row, so that no counter ever goes down.
    fn fold(&self, other: &Self) {
        let from = |mine: &AtomicU64, theirs: &AtomicU64| add(mine, theirs.load(Relaxed));
        let all = |mine: &[AtomicU64], theirs: &[AtomicU64]| {
            mine.iter().zip(theirs).for_each(|(m, t)| from(m, t));
        };
        from(&self.dispatched.assigned, &other.dispatched.assigned);
        from(&self.dispatched.revoked, &other.dispatched.revoked);
        from(&self.dispatched.batches, &other.dispatched.batches);
        from(&self.work.claimed, &other.work.claimed);
        from(&self.work.self_accepted, &other.work.self_accepted);
        from(&self.work.closed, &other.work.closed);
        from(&self.work.refused, &other.work.refused);
        from(&self.work.malformed, &other.work.malformed);
        from(&self.work.accept_exhausted, &other.work.accept_exhausted);
        from(&self.work.timed_out, &other.work.timed_out);
        self.handoff_duration.fold(&other.handoff_duration);
        for (mine, theirs) in self.endpoints.iter().zip(&other.endpoints) {
            if theirs.opened.load(Relaxed) + theirs.failures.load(Relaxed) > 0 {
                all(&mine.requests, &theirs.requests);
                from(&mine.opened, &theirs.opened);
                // With the process its connections are closed, counted or not.
                add(&mine.closed, theirs.opened.load(Relaxed));
                from(&mine.reused, &theirs.reused);
                from(&mine.failures, &theirs.failures);
            }
        }
        for (mine, theirs) in self
            .traffic
            .iter()
            .flatten()
            .zip(other.traffic.iter().flatten())
        {
            if theirs.connections.load(Relaxed) > 0 {
                from(&mine.connections, &theirs.connections);
                add(&mine.closed, theirs.connections.load(Relaxed));
                all(&mine.requests, &theirs.requests);
                from(&mine.received, &theirs.received);
                from(&mine.sent, &theirs.sent);
                from(&mine.upstream_failures, &theirs.upstream_failures);
                mine.request_duration.fold(&theirs.request_duration);
            }
        }
    }

    /// Back to zero, for the next process.
    fn clear(&self) {
        let zero = |numbers: &[&AtomicU64]| numbers.iter().for_each(|n| n.store(0, Relaxed));
        let (b, d, w) = (&self.birth, &self.dispatched, &self.work);
        zero(&[&b.seat, &b.generation, &b.state, &self.claim.word]);
        zero(&[&d.assigned, &d.revoked, &d.sent, &d.batches]);
        zero(&[
            &w.loop_entered,
            &w.parked,
            &w.claimed,
            &w.self_accepted,
            &w.closed,
        ]);
        zero(&[
            &w.broken,
            &w.in_flight,
            &w.refused,
            &w.malformed,
            &w.accept_exhausted,
            &w.timed_out,
        ]);
        self.handoff_duration.clear();
        for e in &self.endpoints {
            if e.opened.load(Relaxed) + e.failures.load(Relaxed) > 0 {
                e.requests.iter().for_each(|n| n.store(0, Relaxed));
                zero(&[&e.opened, &e.closed, &e.reused, &e.failures]);
            }
        }
        for t in self.traffic.iter().flatten() {
            if t.connections.load(Relaxed) > 0 {
                t.requests.iter().for_each(|n| n.store(0, Relaxed));
                zero(&[
                    &t.connections,
                    &t.closed,
                    &t.received,
                    &t.sent,
                    &t.upstream_failures,
                ]);
                t.request_duration.clear();
            }
        }
        zero(&[&b.pid]);
    }
}

/// The table, mapped into this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scoreboard(Arc<Mapping<Board>>);

impl Scoreboard {
    /// Makes a new, zeroed table. The master does this once.
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`.
    pub fn create() -> io::Result<Self> {
        let board: Mapping<Board> = Mapping::create("pointsman-scoreboard")?;
        board.magic.store(MAGIC, Relaxed);
        Ok(Self(Arc::new(board)))
    }

    /// Maps the master's table into a worker.
    ///
    /// # Errors
    /// It is not a table of this layout: master and worker are different builds.
    pub fn open(memory: OwnedFd) -> io::Result<Self> {
        let board: Mapping<Board> = Mapping::open(memory)?;
        if board.magic.load(Relaxed) != MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the scoreboard has another layout: master and worker are different builds",
            ));
        }
        Ok(Self(Arc::new(board)))
    }

    /// Takes a free row for a process about to be born in `seat`. `None`: all are taken.
    pub fn occupy(&self, seat: u16, generation: u64) -> Option<RowRef> {
        let index = self
            .0
            .processes
            .iter()
            .position(|row| row.state() == State::Free)?;
        let row = RowRef {
            board: self.clone(),
            index,
        };
        self.0.rows_used.fetch_max(index as u64 + 1, Relaxed);
        row.birth.seat.store(u64::from(seat), Relaxed);
        row.birth.generation.store(generation, Relaxed);
        row.set_state(State::Starting);
        Some(row)
    }

    /// The row with this index; `None` if there is none.
    pub fn row(&self, index: usize) -> Option<RowRef> {
        (index < PROCESS_ROWS).then(|| RowRef {
            board: self.clone(),
            index,
        })
    }

    /// Every row that a process holds.
    pub fn occupied(&self) -> impl Iterator<Item = &Row> {
        let used = self.0.rows_used.load(Relaxed) as usize;
        self.0
            .processes
            .iter()
            .take(used)
            .filter(|row| row.state() != State::Free)
    }

    /// The dispatcher's own counters.
    pub fn dispatcher(&self) -> &Dispatcher {
        &self.0.dispatcher
    }

    /// What the earlier processes in `seat` counted.
    ///
    /// # Panics
    /// `seat` is not below [`SEATS`].
    pub fn retired(&self, seat: u16) -> &Row {
        &self.0.retired[usize::from(seat)]
    }

    /// The mean load of the ready workers, rounded up; 0 with none.
    pub fn mean_load(&self) -> u32 {
        let (sum, n) = self
            .occupied()
            .filter(|row| row.state() == State::Ready)
            .fold((0_u64, 0), |(sum, n), row| {
                (sum + u64::from(row.load()), n + 1)
            });
        if n == 0 { 0 } else { sum.div_ceil(n) as u32 }
    }
}

impl AsFd for Scoreboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One row of the scoreboard, with the table that it is in.
#[derive(Debug, Clone)]
pub struct RowRef {
    board: Scoreboard,
    index: usize,
}

impl RowRef {
    /// Its index, by which another process finds it.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The table that it is in.
    pub fn board(&self) -> &Scoreboard {
        &self.board
    }

    /// Folds what the process counted into its seat's retired row and frees the row. Only the
    /// master may, once the process is reaped and the dispatcher has let go of it.
    ///
    /// Returns the connections that died with the process.
    pub fn retire(self) -> u64 {
        let lost = self.open();
        let seat = self.birth.seat.load(Relaxed) as u16;
        self.board.retired(seat).fold(&self);
        self.clear();
        lost
    }
}

impl Deref for RowRef {
    type Target = Row;

    #[inline]
    fn deref(&self) -> &Row {
        &self.board.0.processes[self.index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_counted_stays_in_its_seat_and_its_row_is_clean() {
        let board = Scoreboard::create().expect("create");
        let row = board.occupy(3, 1).expect("free");
        let index = row.index();
        row.set_state(State::Ready);
        add(&row.dispatched.assigned, 5);
        add(&row.work.claimed, 5);
        add(&row.work.closed, 3);
        let arm = Arm::ALL[1];
        add(&row.traffic(2, arm).connections, 5);
        add(&row.traffic(2, arm).requests[1], 9);
        row.traffic(2, arm).request_duration.record(1_000_000);
        assert_eq!((row.load(), row.open()), (2, 2));

        assert_eq!(row.retire(), 2, "two connections were open");
        let retired = board.retired(3);
        assert_eq!(retired.traffic(2, arm).requests[1].load(Relaxed), 9);
        assert_eq!(
            retired.traffic(2, arm).closed.load(Relaxed),
            5,
            "none is open any more"
        );
        let mut durations = histogram::Snapshot::default();
        durations.add(&retired.traffic(2, arm).request_duration);
        assert_eq!(durations.count(), 1);

        let next = board.occupy(3, 2).expect("free again");
        assert_eq!(
            (next.index(), next.load(), next.claim.word.load(Relaxed)),
            (index, 0, 0)
        );
        assert_eq!(next.traffic(2, arm).requests[1].load(Relaxed), 0);
    }

    #[test]
    fn a_worker_sees_what_the_master_wrote() {
        let board = Scoreboard::create().expect("create");
        let row = board.occupy(0, 7).expect("free");
        let other =
            Scoreboard::open(board.as_fd().try_clone_to_owned().expect("dup")).expect("open");
        let seen = other.row(row.index()).expect("exists");
        assert_eq!(seen.birth.generation.load(Relaxed), 7);
        assert!(other.row(PROCESS_ROWS).is_none());
    }

    #[test]
    fn the_mean_counts_ready_workers_only() {
        let board = Scoreboard::create().expect("create");
        assert_eq!(board.mean_load(), 0);
        for (seat, load, state) in [
            (0, 3, State::Ready),
            (1, 4, State::Ready),
            (2, 90, State::Draining),
        ] {
            let row = board.occupy(seat, 1).expect("free");
            add(&row.work.self_accepted, load);
            row.set_state(state);
        }
        assert_eq!(board.mean_load(), 4, "3.5 rounded up");
    }
}
