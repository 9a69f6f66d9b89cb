//! The scoreboard: one table in shared memory, a row for every worker process, written by all and
//! read by the dispatcher, the workers and `/metrics`. Plain atomics, no pointers, no locks; one
//! writer per number, the claim word excepted. Publishing costs a store, never a system call.

pub mod claim;
pub mod count;
pub mod histogram;
pub mod shadow;

mod row;

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

pub use self::row::*;
use crate::sys::shm::{Mapping, shared_struct};

/// The most workers that one master runs, the master's own seat not counted.
pub const MAX_WORKERS: usize = 128;
/// Seats: places for a worker. The last one is the master's, which serves too if asked to.
pub const SEATS: usize = MAX_WORKERS + 1;
/// Rows for processes: two for every seat, so that a successor can start before the old one ends.
const PROCESS_ROWS: usize = 2 * SEATS;

const MAGIC: u64 = 0x504f_494e_5453_4d04; // "POINTSM", layout 4: one more with every change

shared_struct! {
    /// The whole table. Fresh memory is zero and pages that nobody touches cost nothing, so the
    /// room for the largest cluster is always there.
    #[derive(Debug)]
    struct Board {
        magic: AtomicU64,
        /// Rows of `processes` that were ever occupied: how far a reader has to look.
        rows_used: AtomicU64,
        /// Counts how often all connections were asked to begin anew.
        renewals: AtomicU64,
        /// What the dispatcher counts that belongs to no one worker.
        dispatcher: Dispatcher,
        /// What the processes in each seat before the present ones have counted.
        retired: [Row; SEATS],
        /// One for every process.
        processes: [Row; PROCESS_ROWS],
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

    /// Asks every connection that is open now to begin anew: its next response says that it will be
    /// closed. Only the master does.
    pub fn renew(&self) {
        count::add(&self.0.renewals, 1);
    }

    /// How often that was asked for. A connection that began when it was less often is to go.
    #[inline]
    pub fn renewals(&self) -> u64 {
        self.0.renewals.load(Relaxed)
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
        let lost = self.lost();
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
    use super::{count::add, *};
    use crate::dispatch::mode::Arm;

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
