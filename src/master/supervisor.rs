//! The supervisor: spawns workers, waits until they are ready, reaps and replaces them, and ends
//! them in the right order. What it does at somebody's request is in `operations`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    process::Command,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc},
    task::spawn_local,
    time::{sleep, timeout},
};

use super::{
    Admin, Companions, OnReady, Ready, ServeHere, Source,
    backoff::Backoff,
    dispatcher::{DispatcherHandle, Recruit, Report, Rules},
    notify::Notifier,
    process::{Birth, Event, Process, core_for, reason},
};
use crate::{
    channel::{Control, Doors, Inheritance, ToWorker, handover_line},
    config::{Listen, Settings},
    control::{Asked, Verb, path::Bound},
    dispatch::mode::Mode,
    error::{Error, Result},
    listener::Groups,
    notice,
    scoreboard::{Scoreboard, State},
    status::{Seat, Status},
    sys::{
        child::{Child, Exit},
        clock::monotonic_ns,
        fdpass,
        readiness::watch_child,
    },
    worker::EXIT_UNFIT,
};

/// How long the dispatcher may take to see everything claimed when stopping.
const HANDOVER_DEADLINE: Duration = Duration::from_secs(2);
/// How long connections have to finish after a second signal to stop.
const HURRY: Duration = Duration::from_secs(1);
/// How long the dispatcher may take to say that it is there.
const PING_DEADLINE: Duration = Duration::from_secs(1);
/// How long connections that are being established get to arrive when stopping.
const LAST_ARRIVALS: Duration = Duration::from_millis(50);
/// How long a worker's control line may be full before the worker is left to hear later.
const TELL_DEADLINE: Duration = Duration::from_millis(200);

/// What belongs to the control runtime. Shared between its tasks; no borrow is held across an await.
pub(super) struct Supervisor {
    pub(super) board: Scoreboard,
    pub(super) status: Status,
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// For the dispatcher, should another be started.
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) state: RefCell<Cluster>,
    /// Told after every change of `state`.
    pub(super) changed: Notify,
    /// The service manager, if there is one.
    pub(super) notifier: Option<Rc<Notifier>>,
}

/// The cluster as it is.
pub(super) struct Cluster {
    pub(super) settings: Settings,
    /// Where settings are read anew.
    pub(super) source: Option<Source>,
    /// What connections are dispatched by: at first as the settings say, later as somebody asked.
    pub(super) rules: Rules,
    pub(super) groups: Groups,
    /// Which listener of the settings each group is for.
    pub(super) listening: BTreeMap<usize, Listen>,
    pub(super) admin: Option<Admin>,
    pub(super) control: Option<Bound>,
    pub(super) companions: Option<Rc<dyn Companions>>,
    pub(super) dispatcher: Rc<DispatcherHandle>,
    pub(super) processes: BTreeMap<Birth, Process>,
    pub(super) backoff: HashMap<u16, Backoff>,
    /// The end of the latest process in each seat.
    pub(super) last_ends: HashMap<u16, (Birth, Exit)>,
    pub(super) births: Birth,
    /// Counts changes of the workers' doors.
    pub(super) epoch: u64,
}

/// Everything that the control runtime waits for.
pub(super) struct Inbox {
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    pub(super) reports: mpsc::UnboundedReceiver<Report>,
    pub(super) asked: mpsc::UnboundedReceiver<Asked>,
    /// Where signals put what they ask for.
    pub(super) ask: mpsc::UnboundedSender<Asked>,
}

/// The signals that the master acts on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user2: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen =
            |kind| signal(kind).map_err(|error| Error::runtime("cannot listen for signals", error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
            user2: listen(SignalKind::user_defined2())?,
        })
    }

    /// Waits until a signal asks for something.
    async fn next(&mut self) -> (Verb, &'static str) {
        tokio::select! {
            _ = self.terminate.recv() => (Verb::Stop, "SIGTERM"),
            _ = self.interrupt.recv() => (Verb::Stop, "SIGINT"),
            _ = self.quit.recv() => (Verb::Stop, "SIGQUIT"),
            _ = self.hangup.recv() => (Verb::Reload, "SIGHUP"),
            _ = self.user2.recv() => (Verb::Upgrade { path: None }, "SIGUSR2"),
        }
    }

    /// Waits until a signal asks to stop.
    async fn stop(&mut self) {
        while self.next().await.0 != Verb::Stop {}
    }
}

impl Cluster {
    /// The seat of the `number`-th worker.
    pub(super) fn seat(&self, number: u16) -> Seat {
        Seat::of_worker(number, self.settings.cluster.master_serves)
    }

    /// The newest process in a seat that is not on its way out.
    pub(super) fn holder(&self, seat: Seat) -> Option<&Process> {
        self.processes
            .values()
            .rev()
            .find(|p| p.seat == seat && !p.drains())
    }

    /// The process in a row of the scoreboard.
    fn in_row(&self, row: usize) -> Option<&Process> {
        self.processes.values().find(|p| p.row.index() == row)
    }

    /// What a worker in `seat` is to accept from by itself, and under what name.
    fn doors(&self, seat: Seat) -> (Doors, Vec<io::Result<OwnedFd>>) {
        let arm = self.rules.arm;
        let (listeners, descriptors) = self
            .groups
            .iter()
            .enumerate()
            .filter(|_| !self.rules.paused)
            .filter_map(|(number, group)| {
                let group = group.as_ref().filter(|group| !group.is_closing())?;
                let listener = match arm.mode() {
                    Mode::Handoff => None,
                    Mode::Hybrid | Mode::Shared => Some(group.shared()),
                    Mode::Reuseport => group.own(seat.place),
                };
                listener.map(|l| (number as u8, l.try_clone_to_owned()))
            })
            .unzip();
        let doors = Doors {
            epoch: self.epoch,
            arm,
            listeners,
        };
        (doors, descriptors)
    }
}

impl Supervisor {
    /// Fills the seats, keeps them filled, and empties them when told to stop.
    pub(super) async fn run(
        self: Rc<Self>,
        mut inbox: Inbox,
        ready: Ready,
        on_ready: Option<OnReady>,
        serve_here: Option<ServeHere>,
    ) -> Result<()> {
        let mut signals = Signals::listen()?;
        // An upgrade holds them back until somebody listens.
        crate::sys::child::admit_signals();
        if !self.status.lock().started {
            for number in 0..ready.workers {
                let seat = self.state.borrow().seat(number);
                self.spawn(seat).await?;
            }
            if let Some(serve_here) = serve_here {
                self.serve_in_master(Seat::of_master(), serve_here).await?;
            }
        }
        self.keep_watchdog_fed();
        let mut announced = Some((ready, on_ready)).filter(|_| !self.status.lock().started);
        loop {
            tokio::select! {
                Some(event) = inbox.events.recv() => match event {
                    // Not before everything else is acted on.
                    Event::Leap(_) if !inbox.events.is_empty() => _ = self.events.send(event),
                    Event::Leap(leap) => self.leap(*leap),
                    event => self.handle(event).await?,
                },
                Some(report) = inbox.reports.recv() => self.heed(report),
                Some(asked) = inbox.asked.recv() => {
                    if asked.verb == Verb::Stop {
                        self.say_stopping(&asked);
                        break;
                    }
                    self.begin(asked);
                }
                (verb, name) = signals.next() => {
                    let (answer, _) = mpsc::unbounded_channel();
                    let asked = Asked { verb, by: name.into(), answer };
                    let _ = inbox.ask.send(asked);
                }
            }
            self.changed.notify_waiters();
            if announced.is_some() && self.all_ready() {
                self.status.lock().started = true;
                self.notify_ready();
                if let Some((ready, Some(tell))) = announced.take() {
                    tell(&ready);
                }
            }
        }
        self.notifier.iter().for_each(|n| n.stopping());
        tokio::select! {
            () = self.stop(&mut inbox) => {}
            () = self.hurry(&mut signals) => self.kill_all(),
        }
        Ok(())
    }

    /// Tells the service manager that all is well.
    pub(super) fn notify_ready(&self) {
        if let Some(notifier) = &self.notifier {
            let (arm, workers) = {
                let status = self.status.lock();
                (status.arm, status.workers)
            };
            notifier.ready(&format!("{workers} workers, mode {arm}"));
        }
    }

    /// Says to the service manager, for as long as it is so, that both threads are alive.
    fn keep_watchdog_fed(self: &Rc<Self>) {
        if let Some(notifier) = self.notifier.clone() {
            let this = self.clone();
            spawn_local(notifier.keep_alive(async move || {
                let (dispatcher, stopping) = {
                    let stopping = this.status.lock().stopping;
                    (this.state.borrow().dispatcher.clone(), stopping)
                };
                // When stopping, and in an upgrade, the dispatcher ends before the master does.
                stopping || timeout(PING_DEADLINE, dispatcher.ping()).await.is_ok()
            }));
        }
    }

    fn all_ready(&self) -> bool {
        let wanted = self.status.lock().workers;
        let state = self.state.borrow();
        let is_ready = |seat| {
            state
                .holder(seat)
                .is_some_and(|p| p.row.state() == State::Ready)
        };
        (0..wanted).all(|number| is_ready(state.seat(number)))
            && (!state.settings.cluster.master_serves || is_ready(Seat::of_master()))
    }

    /// Waits until `check` gives a value; it is asked after every change.
    pub(super) async fn until<T>(&self, mut check: impl FnMut(&Cluster) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(value) = check(&self.state.borrow()) {
                return value;
            }
            changed.await;
        }
    }

    /// Makes everything that a worker in `seat` is born with, and leaves it in the returned control
    /// line's pipe before the worker exists.
    async fn prepare(&self, seat: Seat) -> io::Result<(Process, OwnedFd)> {
        let (generation, columns) = {
            let (mut status, state) = (self.status.lock(), self.state.borrow());
            let names = &state.settings.endpoints;
            let columns = names
                .iter()
                .filter_map(|name| status.endpoint_column(name))
                .collect();
            let seat = status.seats.entry(seat.number).or_default();
            seat.generation += 1;
            (seat.generation, columns)
        };
        let row = self
            .board
            .occupy(seat.number, generation)
            .ok_or_else(|| io::Error::other("too many earlier workers still drain"))?;
        let made = async {
            let (ours, theirs) = fdpass::pair()?;
            let control = Rc::new(Control::new(ours)?);
            let (outlet, inlet) = handover_line()?;
            let (inheritance, listeners) = {
                let state = self.state.borrow();
                let config = &state.settings.cluster;
                let (doors, listeners) = state.doors(seat);
                let core = config.pin_cpus.then(|| core_for(seat.place)).flatten();
                let inheritance = Inheritance {
                    seat: seat.number,
                    generation,
                    row: row.index(),
                    core,
                    doors,
                    timeouts: config.timeouts,
                    drain_timeout: config.drain_timeout,
                    endpoints: columns,
                    application: state.settings.application.clone(),
                };
                (inheritance, listeners)
            };
            let listeners = listeners.into_iter().collect::<io::Result<Vec<_>>>()?;
            let epoch = inheritance.doors.epoch;
            let mut descriptors = vec![self.board.as_fd(), inlet.as_fd()];
            descriptors.extend(listeners.iter().map(AsFd::as_fd));
            control
                .send(&ToWorker::Inheritance(inheritance), &descriptors)
                .await?;
            Ok((control, outlet, theirs, epoch))
        };
        match made.await {
            Ok((control, outlet, theirs, epoch)) => {
                let birth = {
                    let mut state = self.state.borrow_mut();
                    state.births += 1;
                    state.births
                };
                let process = Process {
                    birth,
                    seat,
                    row,
                    born: Instant::now(),
                    control,
                    outlet: Some(outlet),
                    told: Some(epoch),
                    opened: epoch,
                    killed_for: None,
                    child: None,
                    watch: Vec::new(),
                };
                Ok((process, theirs))
            }
            Err(error) => {
                row.retire();
                Err(error)
            }
        }
    }

    /// Starts a worker process in `seat`: this same program, run again.
    pub(super) async fn spawn(&self, seat: Seat) -> Result<Birth> {
        let failed = |error| Error::runtime(format!("cannot start worker {}", seat.number), error);
        let (mut process, line) = self.prepare(seat).await.map_err(failed)?;
        let mut arguments = std::env::args_os();
        // Shown by ps, so that an operator can tell the workers from the master.
        let mut name = arguments.next().unwrap_or_default();
        name.push(format!(" [worker {}]", seat.number));
        let mut command = Command::new("/proc/self/exe");
        command.arg0(name).args(arguments);
        let spawned = Child::spawn(command, line)
            .and_then(watch_child)
            .map(Rc::new);
        let child = match spawned {
            Ok(child) => child,
            Err(error) => {
                process.row.clone().retire();
                return Err(failed(error));
            }
        };
        let pid = child.get_ref().pid();
        self.install(&mut process, pid);
        process.adopt(child, &self.events, &self.status);
        let birth = process.birth;
        self.state.borrow_mut().processes.insert(birth, process);
        Ok(birth)
    }

    /// Makes a thread of the master one more worker.
    async fn serve_in_master(&self, seat: Seat, serve_here: ServeHere) -> Result<()> {
        let failed = |error| Error::runtime("cannot serve in the master", error);
        let (mut process, line) = self.prepare(seat).await.map_err(failed)?;
        let pid = std::process::id() as i32;
        self.install(&mut process, pid);
        let (events, birth) = (self.events.clone(), process.birth);
        let status = self.status.clone();
        thread::Builder::new()
            .name("master-serves".into())
            .spawn(move || {
                let served = catch_unwind(AssertUnwindSafe(|| serve_here(line)));
                let exit = match served {
                    Ok(Ok(())) => Exit::Code(0),
                    Ok(Err(error)) => {
                        notice(format_args!("the master no longer serves: {error}"));
                        Exit::Code(1)
                    }
                    Err(_) => {
                        notice(format_args!("the master no longer serves: it panicked"));
                        Exit::Code(1)
                    }
                };
                status.lock().vacate(seat, pid, Duration::ZERO);
                let _ = events.send(Event::Ended { birth, exit });
            })
            .map_err(failed)?;
        self.state.borrow_mut().processes.insert(birth, process);
        Ok(())
    }

    fn install(&self, process: &mut Process, pid: i32) {
        process.row.birth.pid.store(pid as u64, Relaxed);
        let mut status = self.status.lock();
        let seat = status.seats.entry(process.seat.number).or_default();
        seat.pids.push(pid);
        seat.respawn_at = None;
        seat.filled_at = monotonic_ns();
        process.listen(&self.events);
    }

    /// An unfit worker ends the start; later it only costs its seat.
    async fn handle(&self, event: Event) -> Result<()> {
        match event {
            Event::Ready { birth } => self.welcome(birth).await,
            Event::Leaving { birth } => self.drain(birth).await,
            Event::Opened { birth, epoch } => {
                let retell = {
                    let mut state = self.state.borrow_mut();
                    let process = state.processes.get_mut(&birth);
                    process.is_some_and(|process| {
                        process.opened = epoch;
                        process.told.is_none()
                    })
                };
                if retell {
                    self.tell_doors(birth).await;
                }
            }
            Event::Ended { birth, exit } => self.bury(birth, exit).await?,
            Event::Leap(_) => {}
            Event::Respawn { seat } => {
                let wanted = {
                    let (status, state) = (self.status.lock(), self.state.borrow());
                    seat.number < status.workers && state.holder(seat).is_none()
                };
                if wanted && let Err(error) = self.spawn(seat).await {
                    notice(format_args!("{error}; trying again"));
                    self.respawn_later(seat, Duration::ZERO);
                }
            }
        }
        Ok(())
    }

    /// A worker is ready: it gets connections, and its predecessor in the seat, if there is one, is
    /// relieved in the same moment and drains.
    async fn welcome(&self, birth: Birth) {
        let predecessor = {
            let mut state = self.state.borrow_mut();
            let Some(process) = state.processes.get_mut(&birth) else {
                return;
            };
            if process.drains() {
                return;
            }
            process.row.set_state(State::Ready);
            let (seat, row) = (process.seat, process.row.clone());
            let outlet = process.outlet.take();
            let predecessor = state
                .processes
                .values()
                .find(|p| p.seat == seat && p.birth < birth && p.serves());
            let instead_of = predecessor.map(|p| p.row.index());
            let predecessor = predecessor.map(|p| p.birth);
            if let Some(outlet) = outlet {
                let recruit = Recruit {
                    seat,
                    row,
                    outlet,
                    next: 1,
                };
                state.dispatcher.join(recruit, instead_of);
            }
            predecessor
        };
        self.steer();
        if let Some(predecessor) = predecessor {
            self.drain(predecessor).await;
        }
    }

    /// What the dispatcher saw happen to a worker.
    fn heed(&self, report: Report) {
        let (Report::Hung { row } | Report::Moves { row } | Report::Overdue { row }) = report;
        let mut state = self.state.borrow_mut();
        let Some(birth) = state.in_row(row).map(|p| p.birth) else {
            return;
        };
        let limit = state.settings.cluster.hang;
        let Some(process) = state.processes.get_mut(&birth) else {
            return;
        };
        let name = Seat::label(process.seat.number);
        let pid = process.pid();
        match report {
            Report::Hung { .. } if process.row.state() == State::Ready => {
                process.row.set_state(State::Hung);
                notice(format_args!(
                    "worker {name} (pid {pid}) is stuck: it gets no connections until it moves"
                ));
            }
            Report::Moves { .. } if process.row.state() == State::Hung => {
                process.row.set_state(State::Ready);
                notice(format_args!("worker {name} (pid {pid}) moves again"));
                if process.told.is_none() {
                    // It could not be told while it was stuck.
                    let _ = self.events.send(Event::Opened {
                        birth,
                        epoch: process.opened,
                    });
                }
            }
            Report::Overdue { .. } if process.row.state() == State::Hung => {
                notice(format_args!(
                    "worker {name} (pid {pid}) has been stuck for {} s: killing it",
                    limit.kill.as_secs_f64()
                ));
                process.killed_for = Some("hung");
                process.kill();
            }
            _ => return,
        }
        drop(state);
        self.steer();
    }

    /// Tells every worker where to accept from now on, and waits until those that can have done so.
    /// Who is stuck hears it when it moves.
    pub(super) async fn open_doors(&self) {
        let (epoch, births) = {
            let mut state = self.state.borrow_mut();
            state.epoch += 1;
            let alive = state.processes.values().filter(|p| !p.drains());
            let births: Vec<_> = alive.map(|p| p.birth).collect();
            (state.epoch, births)
        };
        for birth in births {
            self.tell_doors(birth).await;
        }
        let opened = self.until(|state| {
            let behind = |p: &Process| p.row.state() == State::Ready && p.opened < epoch;
            (!state.processes.values().any(behind)).then_some(())
        });
        let _ = timeout(Duration::from_secs(1), opened).await;
    }

    /// Tells one worker where to accept. A line that stays full belongs to a worker that is stuck.
    async fn tell_doors(&self, birth: Birth) {
        let (doors, listeners, control) = {
            let state = self.state.borrow();
            let Some(process) = state.processes.get(&birth).filter(|p| !p.drains()) else {
                return;
            };
            let (doors, listeners) = state.doors(process.seat);
            (doors, listeners, process.control.clone())
        };
        let epoch = doors.epoch;
        let told = match listeners.into_iter().collect::<io::Result<Vec<_>>>() {
            Ok(listeners) => {
                let descriptors: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
                let doors = ToWorker::Doors(doors);
                let sent = control.send(&doors, &descriptors);
                timeout(TELL_DEADLINE, sent)
                    .await
                    .is_ok_and(|sent| sent.is_ok())
            }
            Err(_) => false,
        };
        if let Some(process) = self.state.borrow_mut().processes.get_mut(&birth) {
            process.told = told.then_some(epoch);
        }
    }

    /// Drains one worker: it leaves the set, what it has not claimed goes to others, and only then
    /// is it told. If it takes too long it is killed. Its end fills the seat again, unless a successor
    /// is there.
    pub(super) async fn drain(&self, birth: Birth) {
        let (row, dispatcher) = {
            let state = self.state.borrow();
            let Some(process) = state.processes.get(&birth) else {
                return;
            };
            if process.drains() {
                return;
            }
            process.row.set_state(State::Draining);
            (process.row.index(), state.dispatcher.clone())
        };
        self.steer();
        dispatcher.leave(row).await;
        let (control, limit) = {
            let state = self.state.borrow();
            let Some(process) = state.processes.get(&birth) else {
                return;
            };
            (
                process.control.clone(),
                state.settings.cluster.drain_timeout,
            )
        };
        // A worker that is gone needs no telling, and one that is stuck will not hear.
        let _ = timeout(TELL_DEADLINE, control.send(&ToWorker::Drain, &[])).await;
        if let Some(process) = self.state.borrow_mut().processes.get_mut(&birth) {
            process.must_end_within(limit);
        }
        self.changed.notify_waiters();
    }

    /// A worker is dead. First nothing new goes its way, then what it had not claimed goes to
    /// others, then its counters are kept, and only then is its seat filled again.
    async fn bury(&self, birth: Birth, exit: Exit) -> Result<()> {
        let (process, dispatcher, was_draining) = {
            let mut state = self.state.borrow_mut();
            let dispatcher = state.dispatcher.clone();
            let Some(process) = state.processes.remove(&birth) else {
                return Ok(());
            };
            state.last_ends.insert(process.seat.number, (birth, exit));
            let was_draining = process.drains();
            process.row.set_state(State::Draining);
            (process, dispatcher, was_draining)
        };
        let (seat, lifetime, pid) = (process.seat, process.born.elapsed(), process.pid());
        let unready = process.outlet.is_some();
        self.steer();
        dispatcher.leave(process.row.index()).await;
        let lost = process.row.clone().retire();
        let (succeeded, killed_for) = (
            self.state.borrow().holder(seat).is_some(),
            process.killed_for,
        );
        drop(process);
        let (stopping, started, wanted) = {
            let mut status = self.status.lock();
            status.lost += lost;
            let wanted = seat.is_masters() || seat.number < status.workers;
            if wanted && !unready && !status.stopping {
                let why = match killed_for {
                    Some(why) => why,
                    None if succeeded && was_draining => "replaced",
                    None => reason(exit),
                };
                let entry = status.seats.entry(seat.number).or_default();
                *entry.restarts.entry(why.into()).or_default() += 1;
            }
            (status.stopping, status.started, wanted)
        };
        if stopping || seat.is_masters() || !wanted || succeeded {
            return Ok(());
        }
        if exit == Exit::Code(i32::from(EXIT_UNFIT)) {
            if !started {
                self.kill_all();
                return Err(Error::failed(format!(
                    "worker {} cannot start",
                    seat.number
                )));
            }
            notice(format_args!(
                "worker {} will not be started again",
                seat.number
            ));
            return Ok(());
        }
        if was_draining && exit == Exit::Code(0) {
            // As it was asked to.
            let _ = self.events.send(Event::Respawn { seat });
            return Ok(());
        }
        let wait = self.respawn_later(seat, lifetime);
        let connections = if lost == 1 {
            "connection"
        } else {
            "connections"
        };
        notice(format_args!(
            "worker {} (pid {pid}) ended after {:.1} s with {exit}, {lost} {connections} lost; its successor starts in {:.1} s",
            seat.number,
            lifetime.as_secs_f64(),
            wait.as_secs_f64(),
        ));
        Ok(())
    }

    /// Fills a seat that was waiting to be filled when another binary was here.
    pub(super) fn respawn_after_upgrade(&self, seat: Seat) {
        let at = {
            let status = self.status.lock();
            status.seats.get(&seat.number).and_then(|s| s.respawn_at)
        };
        let wait = at.map_or(0, |at| at.saturating_sub(monotonic_ns()));
        let events = self.events.clone();
        spawn_local(async move {
            sleep(Duration::from_nanos(wait)).await;
            let _ = events.send(Event::Respawn { seat });
        });
    }

    fn respawn_later(&self, seat: Seat, lifetime: Duration) -> Duration {
        let (wait, deaths) = {
            let mut state = self.state.borrow_mut();
            let limit = state.settings.cluster.backoff_limit;
            let backoff = state.backoff.entry(seat.number).or_default();
            let wait = backoff.after(lifetime, limit, monotonic_ns());
            (wait, backoff.deaths())
        };
        {
            let mut status = self.status.lock();
            let entry = status.seats.entry(seat.number).or_default();
            entry.crash_loop = deaths;
            entry.respawn_at = Some(monotonic_ns() + wait.as_nanos() as u64);
        }
        let events = self.events.clone();
        spawn_local(async move {
            sleep(wait).await;
            let _ = events.send(Event::Respawn { seat });
        });
        wait
    }

    /// How the latest process in a seat ended, if that was `birth`.
    pub(super) fn end_of(state: &Cluster, seat: Seat, birth: Birth) -> Option<Exit> {
        let (latest, exit) = state.last_ends.get(&seat.number)?;
        (*latest == birth).then_some(*exit)
    }

    /// Points every group's program at the seats whose workers are ready.
    pub(super) fn steer(&self) {
        let state = self.state.borrow();
        for group in state.groups.iter().flatten() {
            let ready = state
                .processes
                .values()
                .filter(|p| p.row.state() == State::Ready && !state.rules.paused);
            let mut places: Vec<usize> = ready.map(|p| p.seat.place).collect();
            places.sort_unstable();
            places.dedup();
            if let Err(error) = group.steer(state.rules.arm, places.into_iter()) {
                notice(format_args!("cannot steer {}: {error}", group.address()));
            }
        }
    }

    /// Ends everything in order: take what has arrived, listen no more, let the workers finish.
    async fn stop(&self, inbox: &mut Inbox) {
        let limit = self.state.borrow().settings.cluster.drain_timeout;
        let begun = Instant::now();
        let open: u64 = {
            let state = self.state.borrow();
            state.processes.values().map(|p| p.row.open()).sum()
        };
        if open > 0 {
            notice(format_args!(
                "stopping: {open} open connections have up to {} s to finish",
                limit.as_secs_f64()
            ));
        }
        self.status.lock().stopping = true;
        {
            let state = self.state.borrow();
            state
                .groups
                .iter()
                .flatten()
                .for_each(|group| group.close());
            let until = monotonic_ns() + limit.as_nanos() as u64;
            for process in state.processes.values() {
                process.row.set_state(State::Draining);
                process.row.birth.drain_until.store(until, Relaxed);
            }
        }
        self.steer();
        sleep(LAST_ARRIVALS.min(limit / 4)).await;
        self.hand_over_the_rest(inbox, limit.min(HANDOVER_DEADLINE))
            .await;
        let controls: Vec<_> = {
            let mut state = self.state.borrow_mut();
            state.groups = Arc::from([]);
            state
                .processes
                .values()
                .map(|p| p.control.clone())
                .collect()
        };
        for control in controls {
            // A worker that is gone needs no telling.
            let _ = timeout(TELL_DEADLINE, control.send(&ToWorker::Drain, &[])).await;
        }
        while !self.state.borrow().processes.is_empty() {
            let left = limit.saturating_sub(begun.elapsed());
            match timeout(left, inbox.events.recv()).await {
                Ok(Some(Event::Ended { birth, .. })) => {
                    let ended = self.state.borrow_mut().processes.remove(&birth);
                    if let Some(process) = ended {
                        process.row.clone().retire();
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => {
                    let cut: u64 = {
                        let state = self.state.borrow();
                        state.processes.values().map(|p| p.row.open()).sum()
                    };
                    notice(format_args!(
                        "drain deadline of {} s passed: cutting {cut} connections",
                        limit.as_secs_f64()
                    ));
                    return self.kill_all();
                }
            }
        }
    }

    /// Lets the dispatcher accept and hand over what has arrived, and end. A worker that does not
    /// claim must not keep the others from hearing that it is over: after `limit` it ends anyway.
    async fn hand_over_the_rest(&self, inbox: &mut Inbox, limit: Duration) {
        let dispatcher = self.state.borrow().dispatcher.clone();
        let mut stopped = pin!(dispatcher.stop());
        let mut out_of_time = pin!(sleep(limit));
        loop {
            tokio::select! {
                () = &mut stopped => return,
                () = &mut out_of_time => return dispatcher.abandon(),
                Some(event) = inbox.events.recv() => {
                    // What a worker that dies now has not claimed still goes to another.
                    if let Event::Ended { birth, .. } = event {
                        let ended = self.state.borrow_mut().processes.remove(&birth);
                        if let Some(process) = ended {
                            dispatcher.leave(process.row.index()).await;
                            process.row.clone().retire();
                        }
                    }
                }
            }
        }
    }

    /// Returns when the rest is to be cut off: some time after a second signal to stop, or at once after
    /// a third.
    async fn hurry(&self, signals: &mut Signals) {
        signals.stop().await;
        let open: u64 = {
            let state = self.state.borrow();
            state.processes.values().map(|p| p.row.open()).sum()
        };
        notice(format_args!(
            "stopping faster: {open} open connections have {} s to finish",
            HURRY.as_secs_f64()
        ));
        let _ = timeout(HURRY, signals.stop()).await;
    }

    fn kill_all(&self) {
        self.state
            .borrow()
            .processes
            .values()
            .for_each(Process::kill);
    }
}
