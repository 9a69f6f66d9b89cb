//! A worker process as the supervisor holds it, and the tasks that watch it.

use std::{
    io,
    path::PathBuf,
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_local},
    time::sleep,
};

use super::dispatcher::Recruit;
use crate::{
    bus::{Departure, ProcessId, Role},
    channel::{Control, Outlet, ToMaster},
    notice,
    scoreboard::{RowRef, State},
    status::{Seat, Status},
    sys::{
        child::{Child, Exit},
        clock::{cpu_time, monotonic_ns},
    },
};

/// How long a worker may take to become ready before it is killed and tried again.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// Counts the processes of a master, so that none is ever taken for another.
pub(super) type Birth = u64;

/// What happens to workers.
#[derive(Debug)]
pub(super) enum Event {
    /// It takes connections.
    Ready { birth: Birth },
    /// It was told to end by somebody else.
    Leaving { birth: Birth },
    /// It accepts by the doors of this epoch.
    Opened { birth: Birth, epoch: u64 },
    /// Its process has ended and been reaped.
    Ended { birth: Birth, exit: Exit },
    /// This seat may be filled again.
    Respawn { seat: Seat },
    /// The master is to become another binary, when nothing else is left to act on.
    Leap(Box<Leap>),
}

/// The last step of an upgrade: all is ready for it.
#[derive(Debug)]
pub(super) struct Leap {
    pub(super) path: PathBuf,
    pub(super) recruits: Vec<Recruit>,
    /// Told why not, with the lines.
    pub(super) failed: oneshot::Sender<(io::Error, Vec<Recruit>)>,
}

impl Leap {
    /// Not now.
    pub(super) fn refuse(self, error: io::Error) {
        let _ = self.failed.send((error, self.recruits));
    }
}

/// A worker process.
pub(super) struct Process {
    pub(super) birth: Birth,
    pub(super) seat: Seat,
    pub(super) row: RowRef,
    pub(super) born: Instant,
    pub(super) control: Rc<Control>,
    /// What it is called on the bus; `None`: it was started by a binary that knew no bus.
    pub(super) bus: Option<ProcessId>,
    /// Handed to the dispatcher when the worker is ready.
    pub(super) outlet: Option<Outlet>,
    /// The doors of this epoch it was told of last, and could be.
    pub(super) told: Option<u64>,
    /// The doors of this epoch it has opened.
    pub(super) opened: u64,
    /// Why it was killed, if it was by us.
    pub(super) killed_for: Option<&'static str>,
    /// `None` for the worker that is a thread of the master.
    pub(super) child: Option<Rc<AsyncFd<Child>>>,
    /// Waits for its readiness and its end.
    pub(super) watch: Vec<JoinHandle<()>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.watch.iter().for_each(JoinHandle::abort);
    }
}

impl Process {
    /// What the dispatcher is to know of it, once.
    pub(super) fn recruit(&mut self) -> Option<Recruit> {
        Some(Recruit {
            seat: self.seat,
            row: self.row.clone(),
            outlet: self.outlet.take()?,
            next: 1,
        })
    }

    /// What it is on the bus.
    pub(super) fn role(&self) -> Role {
        Role::Worker {
            seat: self.seat.number,
            generation: self.row.birth.generation.load(Relaxed),
        }
    }

    /// Its process id.
    pub(super) fn pid(&self) -> i32 {
        self.row.birth.pid.load(Relaxed) as i32
    }

    /// Does it serve, or would if it moved?
    pub(super) fn serves(&self) -> bool {
        matches!(self.row.state(), State::Ready | State::Hung)
    }

    /// Is it on its way out?
    pub(super) fn drains(&self) -> bool {
        self.row.state() == State::Draining
    }

    /// Begins to listen to what the worker says.
    pub(super) fn listen(&mut self, events: &mpsc::UnboundedSender<Event>) {
        let (control, birth) = (self.control.clone(), self.birth);
        self.watch
            .push(spawn_local(listen(control, birth, events.clone())));
    }

    /// Makes `child` this process, and begins to wait for its readiness and its end.
    pub(super) fn adopt(
        &mut self,
        child: Rc<AsyncFd<Child>>,
        events: &mpsc::UnboundedSender<Event>,
        status: &Status,
    ) {
        let (birth, seat) = (self.birth, self.seat);
        let (status, events) = (status.clone(), events.clone());
        self.watch.push(spawn_local(reap(
            child.clone(),
            birth,
            seat,
            status,
            events,
        )));
        if self.row.state() == State::Starting {
            self.watch.push(spawn_local(insist_on_ready(
                child.clone(),
                self.row.clone(),
            )));
        }
        self.child = Some(child);
    }

    /// It takes nothing new from now on, and is killed if it is still there after `limit`.
    pub(super) fn must_end_within(&mut self, limit: Duration) {
        let until = monotonic_ns() + limit.as_nanos() as u64;
        self.row.birth.drain_until.store(until, Relaxed);
        if let Some(child) = self.child.clone() {
            self.watch.push(spawn_local(insist_on_end(child, limit)));
        }
    }

    /// Kills it. A worker that is a thread of the master cannot be killed.
    pub(super) fn kill(&self) {
        if let Some(child) = &self.child
            && let Err(error) = child.get_ref().signal(Signal::SIGKILL)
        {
            notice(format_args!(
                "cannot kill worker {}: {error}",
                self.seat.number
            ));
        }
    }
}

/// Passes on what the worker says.
async fn listen(control: Rc<Control>, birth: Birth, events: mpsc::UnboundedSender<Event>) {
    while let Ok(Some((message, _))) = control.receive::<ToMaster>().await {
        let _ = events.send(match message {
            ToMaster::Ready => Event::Ready { birth },
            ToMaster::Leaving => Event::Leaving { birth },
            ToMaster::Opened { epoch } => Event::Opened { birth, epoch },
        });
    }
}

/// Waits until the process ends, reaps it, and in the same breath puts its CPU time among that of the
/// seat's earlier processes, so that no scrape sees it missing.
async fn reap(
    child: Rc<AsyncFd<Child>>,
    birth: Birth,
    seat: Seat,
    status: Status,
    events: mpsc::UnboundedSender<Event>,
) {
    let process = child.get_ref();
    loop {
        let Ok(mut ready) = child.readable().await else {
            return;
        };
        let cpu = cpu_time(process.pid()).unwrap_or_default();
        match process.try_reap() {
            Ok(Some(exit)) => {
                status.lock().vacate(seat, process.pid(), cpu);
                let _ = events.send(Event::Ended { birth, exit });
                return;
            }
            Ok(None) => ready.clear_ready(),
            Err(error) => {
                notice(format_args!("cannot reap pid {}: {error}", process.pid()));
                return;
            }
        }
    }
}

/// Kills a worker that does not become ready in time, so that it is replaced like any that died.
async fn insist_on_ready(child: Rc<AsyncFd<Child>>, row: RowRef) {
    sleep(READY_DEADLINE).await;
    if row.state() == State::Starting {
        notice(format_args!(
            "pid {} did not become ready in {READY_DEADLINE:?}",
            child.get_ref().pid()
        ));
        let _ = child.get_ref().signal(Signal::SIGKILL);
    }
}

/// Kills a worker that does not finish draining in time.
async fn insist_on_end(child: Rc<AsyncFd<Child>>, limit: Duration) {
    sleep(limit).await;
    notice(format_args!(
        "pid {} did not drain in {limit:?}",
        child.get_ref().pid()
    ));
    let _ = child.get_ref().signal(Signal::SIGKILL);
}

/// What the bus is told of how a worker has ended.
pub(super) fn departure(exit: Exit) -> Departure {
    match exit {
        Exit::Code(code) => Departure::Exit(code),
        Exit::Signal(signal) => Departure::Signal(signal as i32),
    }
}

/// The value of the `reason` label of restarts.
pub(super) fn reason(exit: Exit) -> &'static str {
    match exit {
        Exit::Code(0) => "exit",
        Exit::Code(_) => "error",
        Exit::Signal(Signal::SIGKILL) => "killed",
        Exit::Signal(_) => "crash",
    }
}

/// The core for the `place`-th seat: round the cores that this process may use.
pub(super) fn core_for(place: usize) -> Option<usize> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok()?;
    let usable: Vec<usize> = (0..nix::sched::CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .collect();
    usable.get(place % usable.len().max(1)).copied()
}
