//! What the program that runs the master wants to be told of its workers.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering::Relaxed,
};

use super::process::Process;
use crate::{bus::Departure, notice, scoreboard::Row};

/// A worker process, as its master sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerProcess {
    /// Its seat, from 0: [`Worker::id`](crate::Worker::id). The master that serves too has seat 128.
    pub id: u16,
    /// How many workers, this one included, have been born in its seat.
    pub generation: u64,
    /// Its process id; the master's own for the worker that is a thread of it.
    pub pid: i32,
}

/// To be called with a worker.
type Tell = Box<dyn FnMut(&WorkerProcess)>;
/// To be called with a worker and how it has ended.
type TellEnd = Box<dyn FnMut(&WorkerProcess, Departure)>;

/// Called in the master's control runtime when workers come and go, in the order in which they were
/// given.
#[derive(Default)]
pub(crate) struct WorkerHooks {
    pub(crate) start: Vec<Tell>,
    pub(crate) restart: Vec<Tell>,
    pub(crate) stop: Vec<TellEnd>,
}

impl WorkerHooks {
    /// Tells that a worker process has begun.
    fn started(&mut self, worker: &WorkerProcess) {
        self.start
            .iter_mut()
            .for_each(|tell| guard(|| tell(worker)));
        if worker.generation > 1 {
            let tell_all = self.restart.iter_mut();
            tell_all.for_each(|tell| guard(|| tell(worker)));
        }
    }

    /// Tells that one has ended.
    fn stopped(&mut self, worker: &WorkerProcess, why: Departure) {
        let tell_all = self.stop.iter_mut();
        tell_all.for_each(|tell| guard(|| tell(worker, why)));
    }
}

/// The hooks, where the supervisor reaches them.
#[derive(Default)]
pub(super) struct HookBoard(RefCell<WorkerHooks>);

impl HookBoard {
    pub(super) fn new(hooks: WorkerHooks) -> Self {
        Self(RefCell::new(hooks))
    }

    pub(super) fn started(&self, process: &Process) {
        self.0.borrow_mut().started(&describe(&process.row));
    }

    pub(super) fn stopped(&self, process: &Process, why: Departure) {
        self.0.borrow_mut().stopped(&describe(&process.row), why);
    }
}

/// The worker in a row of the scoreboard.
pub(super) fn describe(row: &Row) -> WorkerProcess {
    let birth = &row.birth;
    WorkerProcess {
        id: birth.seat.load(Relaxed) as u16,
        generation: birth.generation.load(Relaxed),
        pid: birth.pid.load(Relaxed) as i32,
    }
}

/// Calls a hook of the user's: a fault in it must not take the master, and all workers, with it.
pub(super) fn guard(hook: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(hook)).is_err() {
        notice(format_args!("a hook has panicked; the cluster goes on"));
    }
}
