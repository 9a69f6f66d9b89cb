//! A worker process: born with one descriptor, it receives its inheritance, hosts an application,
//! takes connections by its doors and drains when told to, or when the master is gone.
//!
//! One current-thread runtime, no work stealing, nothing shared but the scoreboard.

mod account;
mod alarm;
mod app;
mod drain;
mod http;
mod intake;
mod interim;
mod moved;
mod moving;
mod raw;
mod rest;
mod serve;

use std::{
    cell::RefCell,
    future::Future,
    io,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

pub(crate) use self::{
    account::Interim,
    alarm::Alarm,
    moved::{Label, hand_connection},
    moving::send_listener,
    serve::Protocol,
};
use self::{account::Ledger, http::Http, intake::Intake, raw::Raw, rest::Rest, serve::Host};
pub use self::{
    app::{Application, Peer, ServiceFn, service_fn},
    moved::{Moved, NotMoved},
    moving::ReceivedListeners,
    raw::Conn,
};
use crate::{
    bus::Bus,
    channel::{Control, Inheritance, Inlet, ToMaster, ToWorker},
    config::ConnectionTimeouts,
    error::{Error, Result},
    scoreboard::{RowRef, Scoreboard, count::add},
    sys::{clock::monotonic_ns, fdpass},
};

/// The exit code of a worker that cannot start and should not be tried again (`EX_CONFIG`,
/// sysexits.h).
pub(crate) const EXIT_UNFIT: u8 = 78;

/// How long what a worker has published last may take to go when it ends, and what is on its way to it to
/// be sent back.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A worker, as the application that it hosts sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Worker {
    inheritance: Arc<Inheritance>,
    row: RowRef,
    ledger: Arc<Ledger>,
    /// Is it to end?
    draining: watch::Sender<bool>,
    bus: Bus,
}

impl Worker {
    /// Its seat, from 0. A respawned worker has the seat of the one before.
    pub fn id(&self) -> u16 {
        self.inheritance.seat
    }

    /// How many workers, this one included, have been born in its seat.
    pub fn generation(&self) -> u64 {
        self.inheritance.generation
    }

    /// Is the worker to end, when what is open is finished? It gets nothing new any more.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Waits until the worker is to end. What is still open at the drain timeout is cut.
    pub async fn draining(&self) {
        // We hold a sender: it cannot be gone.
        let _ = self
            .draining
            .subscribe()
            .wait_for(|draining| *draining)
            .await;
    }

    /// Calls `hook` when the worker is to end: it gets no new connections any more, and those that are
    /// open have up to the drain timeout. At once, if it is to end already. What the hook publishes still goes
    /// out. A second hook does not replace the first; one that panics costs nothing else.
    ///
    /// # Panics
    /// In another thread than the worker's.
    pub fn on_drain(&self, hook: impl FnOnce() + 'static) {
        assert!(
            self.ledger.is_own_thread(),
            "on_drain is for the worker's own thread"
        );
        if self.is_draining() {
            hook();
        } else {
            ON_DRAIN.with_borrow_mut(|hooks| hooks.push(Box::new(hook)));
        }
    }

    fn begin_to_drain(&self) {
        self.draining.send_replace(true);
        for hook in ON_DRAIN.take() {
            if catch_unwind(AssertUnwindSafe(hook)).is_err() {
                crate::notice(format_args!(
                    "a hook has panicked; the worker goes on draining"
                ));
            }
        }
    }

    /// The worker group that it is in, see [`Cluster::worker_group`](crate::Cluster::worker_group); `None`:
    /// it is one for everybody else.
    pub fn group(&self) -> Option<&str> {
        self.inheritance.group.as_deref()
    }

    /// What [`Cluster::application`](crate::Cluster::application) was given, as the master validated it.
    pub fn application(&self) -> &str {
        &self.inheritance.application
    }

    /// Its place on the bus, by which it talks to the other processes.
    pub fn bus(&self) -> Bus {
        self.bus.clone()
    }

    /// The scoreboard's column for the application's `i`-th upstream endpoint.
    pub(crate) fn endpoint_column(&self, i: usize) -> usize {
        self.inheritance
            .endpoints
            .get(i)
            .map_or(i, |column| usize::from(*column))
    }

    /// How long clients may take.
    pub(crate) fn timeouts(&self) -> &ConnectionTimeouts {
        &self.inheritance.timeouts
    }

    /// Its row of the scoreboard.
    pub(crate) fn row(&self) -> &RowRef {
        &self.row
    }

    /// When the present turn of the loop began or its latest request ended, monotonic nanoseconds: "now"
    /// for everything that need not be exact, without asking the clock.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.row.work.loop_entered.load(Relaxed)
    }
}

thread_local! {
    /// What is to be done when the worker that this thread is drains.
    static ON_DRAIN: RefCell<Vec<Box<dyn FnOnce()>>> = const { RefCell::new(Vec::new()) };
}

/// The whole life of a worker process.
///
/// # Errors
/// As [`run`]. What would be the same at the next try ends the process with [`EXIT_UNFIT`].
pub(crate) fn main<F, Fut, P>(
    line: OwnedFd,
    factory: F,
    examine: fn(OwnedFd) -> io::Result<()>,
) -> Result<()>
where
    F: FnOnce(Worker) -> Fut,
    Fut: Future<Output = P>,
    P: Protocol,
{
    crate::sys::child::call_by_program_name();
    crate::sys::privileges::disarm()
        .map_err(|error| Error::runtime("worker cannot give up its privileges", error))?;
    crate::sys::tie::end_after_parent()
        .map_err(|error| Error::runtime("worker cannot be tied to its master", error))?;
    run(line, factory, examine).map_err(|error| {
        let unfit = error.kind() == io::ErrorKind::InvalidData;
        let error = Error::runtime("worker", error);
        if unfit {
            crate::notice(format_args!("{error}"));
            std::process::exit(i32::from(EXIT_UNFIT));
        }
        error
    })
}

/// Speaks HTTP, with what `factory` makes to answer.
pub(crate) fn http<F, Fut, A>(
    factory: F,
) -> impl FnOnce(Worker) -> Pin<Box<dyn Future<Output = Http<A>>>> + Send + 'static
where
    F: FnOnce(Worker) -> Fut + Send + 'static,
    Fut: Future<Output = A> + 'static,
    A: Application,
{
    |worker| Box::pin(async move { Http::new(&worker, factory(worker.clone()).await) })
}

/// Gives connections as they are to the function that `factory` makes.
pub(crate) fn raw<F, Fut, H, Served>(
    factory: F,
) -> impl FnOnce(Worker) -> Pin<Box<dyn Future<Output = Raw<H>>>> + Send + 'static
where
    F: FnOnce(Worker) -> Fut + Send + 'static,
    Fut: Future<Output = H> + 'static,
    H: Fn(Conn) -> Served + 'static,
    Served: Future + 'static,
{
    |worker| Box::pin(async move { Raw(factory(worker).await) })
}

/// Runs the worker until it has drained. `factory` makes what it speaks; `examine` looks, in a trial,
/// at what this binary would be given to take the master's place.
///
/// # Errors
/// The inheritance is broken, or the runtime cannot be made.
pub(crate) fn run<F, Fut, P>(
    line: OwnedFd,
    factory: F,
    examine: fn(OwnedFd) -> io::Result<()>,
) -> io::Result<()>
where
    F: FnOnce(Worker) -> Fut,
    Fut: Future<Output = P>,
    P: Protocol,
{
    let Some((inheritance, mut descriptors, is_trial)) = inherit(&line)? else {
        return Ok(());
    };
    if is_trial && let Some(luggage) = descriptors.pop() {
        examine(luggage)?;
    }
    crate::sys::tie::outlive_parent_by(inheritance.drain_timeout);
    let mut descriptors = descriptors.into_iter();
    let mut next = |what| {
        descriptors.next().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("no {what} inherited"))
        })
    };
    let board = Scoreboard::open(next("scoreboard")?)?;
    let handover = next("hand-over line")?;
    let hub = inheritance
        .bus
        .then(|| next("line to the hub"))
        .transpose()?;
    let listeners = inheritance
        .doors
        .listeners
        .iter()
        .map(|id| Ok((*id, next("listener")?)))
        .collect::<io::Result<Vec<_>>>()?;
    let row = board.row(inheritance.row).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "no such row of the scoreboard")
    })?;
    if let Some(core) = inheritance.core {
        bind_to_core(core)?;
    }

    let runtime = runtime(&row)?;
    runtime.block_on(async {
        let rest = Rest::new()?;
        let worker = Worker {
            inheritance: Arc::new(inheritance),
            ledger: Ledger::new(row.clone(), rest.clone()),
            row,
            draining: watch::Sender::new(false),
            bus: bus(hub)?,
        };
        // Before anything can be told of this worker's being there.
        let terminate = signal(SignalKind::terminate())?;
        let control = Control::new(line)?;
        let protocol = factory(worker.clone()).await;
        let host = Host::new(&worker, protocol, rest);
        let mut intake = Intake::open(&host, Inlet::new(handover)?);
        intake
            .reopen(worker.inheritance.doors.arm, listeners)
            .await?;
        let taking = moving::take_moved(&host).await;
        control.send(&ToMaster::Ready, &[]).await?;

        let deadline = told_to_drain(&control, terminate, &mut intake)
            .await?
            .then_some(worker.inheritance.drain_timeout);
        // New connections first, then the open ones: none is taken that would be cut at once.
        intake.close().await;
        let drained = host.drain();
        match deadline {
            // The master counts the time, and kills whoever takes too long.
            None => drained.await,
            Some(limit) => _ = tokio::time::timeout(limit, drained).await,
        }
        // What it has published last is not to end with it, nor what is being moved here.
        let last = async {
            taking.end(&worker.bus).await;
            worker.bus.flush().await
        };
        let _ = tokio::time::timeout(LAST_WORDS, last).await;
        Ok(())
    })
}

/// Does as the master says until it says to drain (false), or is gone (true): then the worker must
/// count the time itself. A signal is passed on to the master, which sees to it that nothing new comes
/// this way before it says to drain.
///
/// # Errors
/// A door cannot be opened: the worker would accept nothing and still look ready.
async fn told_to_drain<P: Protocol>(
    control: &Control,
    mut terminate: Signal,
    intake: &mut Intake<P>,
) -> io::Result<bool> {
    loop {
        let told = tokio::select! {
            message = control.receive::<ToWorker>() => message,
            _ = terminate.recv() => {
                if control.send(&ToMaster::Leaving, &[]).await.is_err() {
                    return Ok(true);
                }
                continue;
            }
        };
        match told {
            Ok(Some((ToWorker::Doors(doors), listeners))) => {
                let listeners = doors.listeners.into_iter().zip(listeners).collect();
                intake.reopen(doors.arm, listeners).await?;
                let opened = ToMaster::Opened { epoch: doors.epoch };
                if control.send(&opened, &[]).await.is_err() {
                    return Ok(true);
                }
            }
            Ok(Some(_)) => return Ok(false),
            Ok(None) | Err(_) => return Ok(true),
        }
    }
}

/// The bus at the other end of `line`; without one, a bus that is closed.
fn bus(line: Option<OwnedFd>) -> io::Result<Bus> {
    let line = match line {
        Some(line) => line,
        None => crate::bus::line::pair()?.0,
    };
    Bus::connect(line)
}

/// Waits for the first message, before there is a runtime. `None`: the master is gone already.
fn inherit(line: &OwnedFd) -> io::Result<Option<(Inheritance, Vec<OwnedFd>, bool)>> {
    let mut bytes = vec![0; 128 * 1024];
    let mut descriptors = Vec::new();
    poll(
        &mut [PollFd::new(line.as_fd(), PollFlags::POLLIN)],
        PollTimeout::NONE,
    )?;
    let received = fdpass::receive(line.as_fd(), &mut bytes, &mut descriptors)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let broken = |why: &str| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("broken inheritance: {why}"),
        )
    };
    if received.truncated {
        return Err(broken("truncated; is the limit of open files too low?"));
    }
    match serde_json::from_slice(&bytes[..received.bytes])? {
        ToWorker::Inheritance(inheritance) => Ok(Some((inheritance, descriptors, false))),
        ToWorker::Trial(inheritance) => Ok(Some((inheritance, descriptors, true))),
        ToWorker::Drain | ToWorker::Doors(_) => Err(broken("something else came first")),
    }
}

fn bind_to_core(core: usize) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(core)?;
    Ok(nix::sched::sched_setaffinity(
        nix::unistd::Pid::from_raw(0),
        &set,
    )?)
}

/// A runtime that writes to the row when its loop waits and when it goes on, so that the master
/// sees a worker that is stuck, and an idle worker costs no wake-up for it.
fn runtime(row: &RowRef) -> io::Result<LocalRuntime> {
    let (entering, parking) = (row.clone(), row.clone());
    row.work.loop_entered.store(monotonic_ns(), Relaxed);
    row.work.unparked_at.store(monotonic_ns(), Relaxed);
    let thread = nix::unistd::gettid().as_raw() as u64;
    row.work.loop_thread.store(thread, Relaxed);
    Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .on_thread_unpark(move || {
            let (work, now) = (&entering.work, monotonic_ns());
            work.loop_entered.store(now, Relaxed);
            work.unparked_at.store(now, Relaxed);
            work.parked.store(0, Relaxed);
        })
        .on_thread_park(move || {
            let work = &parking.work;
            let busy = monotonic_ns().saturating_sub(work.unparked_at.load(Relaxed));
            work.parked.store(1, Relaxed);
            add(&work.busy_ns, busy);
        })
        .build_local(LocalOptions::default())
}
