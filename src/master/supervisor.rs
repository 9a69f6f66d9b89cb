//! The supervisor: what there is, and what to do about what happens. Workers are born in `birth`, told
//! where to accept in `doors`, and ended in `stop`; what is done at somebody's request is in `operations`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io,
    rc::Rc,
    time::Duration,
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
    dispatcher::{DispatcherHandle, Report, Rules},
    guests::Guests,
    hooks::{HookBoard, guard},
    notify::Notifier,
    operations::Halt,
    process::{Birth, Event, Leap, Process, departure, reason},
};
use crate::{
    config::{Listen, Settings},
    control::{Asked, Verb, path::Bound},
    error::{Error, Result},
    hub::HubHandle,
    listener::Groups,
    notice,
    scoreboard::{Scoreboard, State},
    status::{Seat, Status},
    sys::{
        child::{Exit, admit_signals, hold_signals, pass_on},
        clock::monotonic_ns,
    },
    worker::EXIT_UNFIT,
};

/// How long the dispatcher may take to say that it is there.
const PING_DEADLINE: Duration = Duration::from_secs(1);
/// How long a signal may be on its way from the kernel to whoever acts on it.
const LAST_SIGNALS: Duration = Duration::from_millis(2);
/// How soon a request to stop that came in the midst of an upgrade is looked at again.
const STOP_AGAIN: Duration = Duration::from_millis(10);
/// How long a worker's control line may be full before the worker is left to hear later.
pub(super) const TELL_DEADLINE: Duration = Duration::from_millis(200);

/// What belongs to the control runtime. Shared between its tasks; no borrow is held across an await.
pub(super) struct Supervisor {
    pub(super) board: Scoreboard,
    pub(super) status: Status,
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// Where signals put what they ask for.
    pub(super) ask: mpsc::UnboundedSender<Asked>,
    /// For the dispatcher, should another be started.
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) state: RefCell<ClusterState>,
    /// Told after every change of `state`.
    pub(super) changed: Notify,
    /// Who is told of workers' coming and going.
    pub(super) hooks: HookBoard,
    /// Who is on the bus by way of the control socket.
    pub(super) guests: Guests,
    /// The middle of the bus.
    pub(super) hub: HubHandle,
    /// The service manager, if there is one.
    pub(super) notifier: Option<Rc<Notifier>>,
}

/// The cluster as it is.
pub(super) struct ClusterState {
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
    /// The dispatcher is to end, or has ended, for another binary to go on.
    pub(super) frozen: bool,
    pub(super) processes: BTreeMap<Birth, Process>,
    pub(super) backoff: HashMap<u16, Backoff>,
    /// The end of the latest process in each seat.
    pub(super) last_ends: HashMap<u16, (Birth, Exit)>,
    pub(super) births: Birth,
    /// Counts changes of the workers' doors.
    pub(super) epoch: u64,
    /// Somebody asked to stop in the midst of an upgrade.
    pub(super) stop_wanted: bool,
    /// What signals asked for while something else was under way.
    pub(super) later: Vec<Asked>,
    /// Ends the comparison that goes on, if one does.
    pub(super) comparing: Option<Rc<Halt>>,
}

/// Everything that the control runtime waits for.
pub(super) struct Inbox {
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    pub(super) reports: mpsc::UnboundedReceiver<Report>,
    pub(super) asked: mpsc::UnboundedReceiver<Asked>,
}

/// The signals that the master acts on.
pub(super) struct Signals {
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
    pub(super) async fn stop(&mut self) {
        while self.next().await.0 != Verb::Stop {}
    }
}

/// The signal that asks for it.
fn signal_of(verb: &Verb) -> nix::sys::signal::Signal {
    use nix::sys::signal::Signal;
    match verb {
        Verb::Reload => Signal::SIGHUP,
        Verb::Upgrade { .. } => Signal::SIGUSR2,
        _ => Signal::SIGTERM,
    }
}

impl ClusterState {
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
    pub(super) fn in_row(&self, row: usize) -> Option<&Process> {
        self.processes.values().find(|p| p.row.index() == row)
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
        admit_signals();
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
                    Event::Leap(leap) => self.prepare_leap(leap, &inbox, &mut signals).await,
                    event => self.handle(event).await?,
                },
                Some(report) = inbox.reports.recv() => self.heed(report),
                Some(asked) = inbox.asked.recv() => {
                    if asked.verb == Verb::Stop && self.state.borrow().frozen {
                        // Nothing could be handed over now.
                        self.stop_after_freeze(asked);
                    } else if asked.verb == Verb::Stop {
                        self.say_stopping(&asked);
                        break;
                    } else {
                        self.begin(asked);
                    }
                }
                (verb, name) = signals.next() => {
                    self.ask(verb, name);
                }
            }
            self.changed.notify_waiters();
            if announced.is_some() && self.all_ready() {
                self.status.lock().started = true;
                self.notify_ready();
                if let Some((ready, Some(tell))) = announced.take() {
                    guard(|| tell(&ready));
                }
            }
        }
        self.notifier.iter().for_each(|n| n.stopping());
        tokio::select! {
            () = self.stop(&mut inbox) => {}
            () = self.hurry(&mut signals) => self.kill_all(),
        }
        // Nobody is left to see those end that were killed.
        let state = self.state.borrow();
        for process in state.processes.values() {
            self.take_leave(process, Exit::Signal(nix::sys::signal::Signal::SIGKILL));
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

    /// Becomes another binary, unless something has happened that this one has to act on first. What
    /// signals ask for besides stopping is passed on.
    async fn prepare_leap(&self, leap: Box<Leap>, inbox: &Inbox, signals: &mut Signals) {
        // From here on a signal waits for the next binary; one that came before is here in a moment.
        hold_signals();
        sleep(LAST_SIGNALS).await;
        let mut stop = self.state.borrow().stop_wanted;
        while let Ok((verb, name)) = timeout(Duration::ZERO, signals.next()).await {
            match verb {
                Verb::Stop => {
                    stop = true;
                    self.ask(verb, name);
                }
                verb => pass_on(signal_of(&verb)),
            }
        }
        if stop {
            admit_signals();
            leap.refuse(io::Error::other("somebody asked to stop"));
        } else if !inbox.events.is_empty() {
            admit_signals();
            let _ = self.events.send(Event::Leap(leap));
        } else {
            for asked in self.state.borrow_mut().later.drain(..) {
                pass_on(signal_of(&asked.verb));
            }
            self.leap(*leap);
        }
    }

    /// Asks for what a signal asks for.
    fn ask(&self, verb: Verb, signal: &str) {
        let _ = self.ask.send(Asked {
            verb,
            by: signal.into(),
            answer: None,
        });
    }

    /// Asks to stop again in a moment: the upgrade in the midst of which it came is given up.
    fn stop_after_freeze(&self, asked: Asked) {
        self.state.borrow_mut().stop_wanted = true;
        let ask = self.ask.clone();
        spawn_local(async move {
            sleep(STOP_AGAIN).await;
            let _ = ask.send(asked);
        });
    }

    /// Waits until `check` gives a value; it is asked after every change.
    pub(super) async fn until<T>(&self, mut check: impl FnMut(&ClusterState) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(value) = check(&self.state.borrow()) {
                return value;
            }
            changed.await;
        }
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
                    seat.number < status.workers
                        && state.settings.cluster.restart_children
                        && state.holder(seat).is_none()
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
        let predecessors: Vec<Birth> = {
            let mut state = self.state.borrow_mut();
            let Some(process) = state.processes.get_mut(&birth) else {
                return;
            };
            if process.drains() {
                return;
            }
            process.row.set_state(State::Ready);
            process.bus.iter().for_each(|id| self.hub.ready(*id));
            let seat = process.seat;
            // One that is still starting is relieved, too: it would have older settings.
            let before = |p: &&Process| p.seat == seat && p.birth < birth && !p.drains();
            let predecessors = state.processes.values().filter(before);
            let instead_of = predecessors
                .clone()
                .find(|p| p.serves())
                .map(|p| p.row.index());
            let predecessors = predecessors.map(|p| p.birth).collect();
            // A dispatcher that is frozen ends, and would drop the line.
            if !state.frozen
                && let Some(recruit) = state.processes.get_mut(&birth).and_then(Process::recruit)
            {
                state.dispatcher.join(recruit, instead_of);
            }
            predecessors
        };
        self.steer();
        for predecessor in predecessors {
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
        self.take_leave(&process, exit);
        let (seat, lifetime, pid) = (process.seat, process.born.elapsed(), process.pid());
        let unready = process.outlet.is_some();
        self.steer();
        dispatcher.leave(process.row.index()).await;
        let lost = process.row.clone().retire();
        let (succeeded, killed_for, restart) = {
            let state = self.state.borrow();
            let restart = state.settings.cluster.restart_children;
            (state.holder(seat).is_some(), process.killed_for, restart)
        };
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
        if !restart {
            notice(format_args!(
                "worker {} (pid {pid}) ended after {:.1} s with {exit}, {lost} connections lost; its seat stays empty",
                seat.number,
                lifetime.as_secs_f64(),
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

    /// Tells the bus, and whoever else wants to know, that a worker has ended.
    pub(super) fn take_leave(&self, process: &Process, exit: Exit) {
        if let Some(id) = process.bus {
            self.hub.leave(id, departure(exit));
        }
        self.hooks.stopped(process, departure(exit));
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

    pub(super) fn respawn_later(&self, seat: Seat, lifetime: Duration) -> Duration {
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
    pub(super) fn end_of(state: &ClusterState, seat: Seat, birth: Birth) -> Option<Exit> {
        let (latest, exit) = state.last_ends.get(&seat.number)?;
        (*latest == birth).then_some(*exit)
    }
}
