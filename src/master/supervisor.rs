//! The supervisor: spawns workers, waits until they are ready, reaps and replaces them, and ends
//! them in the right order.

use std::{
    collections::HashMap,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    process::Command,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::spawn_local,
    time::{sleep, timeout},
};

use super::{
    Plan, Ready, ServeHere,
    backoff::Backoff,
    dispatcher::DispatcherHandle,
    process::{Event, Process, core_for, reason},
};
use crate::{
    channel::{Control, Doors, Inheritance, ToWorker, handover_line},
    dispatch::mode::Mode,
    error::{Error, Result},
    listener::ListenerGroup,
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

pub(super) struct Supervisor {
    plan: Plan,
    groups: Arc<[ListenerGroup]>,
    board: Scoreboard,
    dispatcher: DispatcherHandle,
    status: Status,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
    /// How many there are to be filled.
    seats: usize,
    /// By row.
    processes: HashMap<usize, Process>,
    backoff: HashMap<u16, Backoff>,
    generations: HashMap<u16, u64>,
}

impl Supervisor {
    pub(super) fn new(
        plan: Plan,
        groups: Arc<[ListenerGroup]>,
        board: Scoreboard,
        dispatcher: DispatcherHandle,
        status: Status,
    ) -> Self {
        let (events, inbox) = mpsc::unbounded_channel();
        Self {
            plan,
            groups,
            board,
            dispatcher,
            status,
            events,
            inbox,
            seats: 0,
            processes: HashMap::new(),
            backoff: HashMap::new(),
            generations: HashMap::new(),
        }
    }

    /// Fills the seats, keeps them filled, and empties them when told to stop.
    pub(super) async fn run(mut self, ready: Ready, serve_here: ServeHere) -> Result<()> {
        let no_signals = |error| Error::runtime("cannot listen for signals", error);
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        self.seats = usize::from(ready.workers) + usize::from(self.plan.config.master_serves);
        for number in 0..ready.workers {
            self.spawn(Seat {
                number,
                place: usize::from(number),
            })
            .await?;
        }
        if self.plan.config.master_serves {
            self.serve_in_master(Seat::of_master(ready.workers), serve_here)
                .await?;
        }
        let mut ready = Some(ready);
        loop {
            tokio::select! {
                Some(event) = self.inbox.recv() => self.handle(event, ready.is_some()).await?,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
            if ready.is_some() && self.all_ready() {
                let told = ready.take().zip(self.plan.on_ready.take());
                told.into_iter().for_each(|(ready, tell)| tell(&ready));
            }
        }
        tokio::select! {
            () = self.stop() => {}
            _ = terminate.recv() => self.kill_all(),
            _ = interrupt.recv() => self.kill_all(),
        }
        Ok(())
    }

    fn all_ready(&self) -> bool {
        self.processes.len() == self.seats
            && self
                .processes
                .values()
                .all(|p| p.row.state() == State::Ready)
    }

    /// Makes everything that a worker in `seat` is born with, and leaves it in the returned control
    /// line's pipe before the worker exists.
    async fn prepare(&mut self, seat: Seat) -> io::Result<(Process, std::os::fd::OwnedFd)> {
        let generation = self.generations.entry(seat.number).or_default();
        *generation += 1;
        let row = self
            .board
            .occupy(seat.number, *generation)
            .ok_or_else(|| io::Error::other("no free row on the scoreboard"))?;
        let made = async {
            let (ours, theirs) = fdpass::pair()?;
            let control = Rc::new(Control::new(ours)?);
            let (outlet, inlet) = handover_line()?;
            let arm = self.plan.config.arm;
            let (ids, listeners): (Vec<u8>, Vec<_>) = self
                .groups
                .iter()
                .enumerate()
                .filter_map(|(id, group)| {
                    let listener = match arm.mode() {
                        Mode::Handoff => None,
                        Mode::Hybrid | Mode::Shared => Some(group.shared()),
                        Mode::Reuseport => group.own(seat.place),
                    };
                    listener.map(|l| (id as u8, l))
                })
                .unzip();
            let inheritance = Inheritance {
                seat: seat.number,
                generation: *generation,
                row: row.index(),
                core: self
                    .plan
                    .config
                    .pin_cpus
                    .then(|| core_for(seat.place))
                    .flatten(),
                doors: Doors {
                    arm,
                    listeners: ids,
                },
                timeouts: self.plan.config.timeouts,
                application: self.plan.application.clone(),
            };
            let mut descriptors = vec![self.board.as_fd(), inlet.as_fd()];
            descriptors.extend(listeners);
            control
                .send(&ToWorker::Inheritance(inheritance), &descriptors)
                .await?;
            Ok((control, outlet, theirs))
        };
        match made.await {
            Ok((control, outlet, theirs)) => {
                let born = Instant::now();
                let (child, watch) = (None, Vec::new());
                let outlet = Some(outlet);
                Ok((
                    Process {
                        seat,
                        row,
                        born,
                        control,
                        outlet,
                        child,
                        watch,
                    },
                    theirs,
                ))
            }
            Err(error) => {
                row.retire();
                Err(error)
            }
        }
    }

    /// Starts a worker process in `seat`: this same program, run again.
    async fn spawn(&mut self, seat: Seat) -> Result<()> {
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
        self.processes.insert(process.row.index(), process);
        Ok(())
    }

    /// Makes a thread of the master one more worker.
    async fn serve_in_master(&mut self, seat: Seat, serve_here: ServeHere) -> Result<()> {
        let failed = |error| Error::runtime("cannot serve in the master", error);
        let (mut process, line) = self.prepare(seat).await.map_err(failed)?;
        self.install(&mut process, std::process::id() as i32);
        let (events, row) = (self.events.clone(), process.row.index());
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
                status.lock().vacate(seat, Duration::ZERO);
                let _ = events.send(Event::Ended { row, exit });
            })
            .map_err(failed)?;
        self.processes.insert(row, process);
        Ok(())
    }

    fn install(&mut self, process: &mut Process, pid: i32) {
        process
            .row
            .birth
            .pid
            .store(pid as u64, std::sync::atomic::Ordering::Relaxed);
        let mut status = self.status.lock();
        let seat = status.seats.entry(process.seat.number).or_default();
        seat.pid = Some(pid);
        seat.generation = self.generations[&process.seat.number];
        process.listen(&self.events);
    }

    /// `starting`: an unfit worker ends the start; later it only costs its seat.
    async fn handle(&mut self, event: Event, starting: bool) -> Result<()> {
        match event {
            Event::Ready { row } => {
                let Some(process) = self.processes.get_mut(&row) else {
                    return Ok(());
                };
                process.row.set_state(State::Ready);
                if let Some(outlet) = process.outlet.take() {
                    self.dispatcher
                        .join(process.seat, process.row.clone(), outlet);
                }
                self.steer();
            }
            Event::Leaving { row } => self.drain(row).await,
            Event::Ended { row, exit } => self.bury(row, exit, starting).await?,
            Event::Respawn { seat } => {
                if let Err(error) = self.spawn(seat).await {
                    notice(format_args!("{error}; trying again"));
                    self.respawn_later(seat, Duration::ZERO);
                }
            }
        }
        Ok(())
    }

    /// Drains one worker: it leaves the set, what it has not claimed goes to others, and only then
    /// is it told. If it takes too long it is killed. Its end fills the seat again.
    async fn drain(&mut self, row: usize) {
        let Some(process) = self.processes.get(&row) else {
            return;
        };
        if process.row.state() == State::Draining {
            return;
        }
        process.row.set_state(State::Draining);
        self.steer();
        self.dispatcher.leave(row).await;
        let Some(process) = self.processes.get_mut(&row) else {
            return;
        };
        // A worker that is gone needs no telling.
        let _ = process.control.send(&ToWorker::Drain, &[]).await;
        process.must_end_within(self.plan.config.drain_timeout);
    }

    /// A worker is dead. First nothing new goes its way, then what it had not claimed goes to
    /// others, then its counters are kept, and only then is its seat filled again.
    async fn bury(&mut self, row: usize, exit: Exit, starting: bool) -> Result<()> {
        let Some(process) = self.processes.remove(&row) else {
            return Ok(());
        };
        let (seat, lifetime) = (process.seat, process.born.elapsed());
        process.row.set_state(State::Draining);
        self.steer();
        self.dispatcher.leave(row).await;
        let pid = process
            .row
            .birth
            .pid
            .load(std::sync::atomic::Ordering::Relaxed);
        let lost = process.row.clone().retire();
        drop(process);
        let stopping = {
            let mut status = self.status.lock();
            status.lost += lost;
            status.stopping
        };
        if stopping || seat.is_masters() {
            return Ok(());
        }
        if exit == Exit::Code(i32::from(EXIT_UNFIT)) {
            if starting {
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
        let mut status = self.status.lock();
        let entry = status.seats.entry(seat.number).or_default();
        *entry.restarts.entry(reason(exit)).or_default() += 1;
        Ok(())
    }

    fn respawn_later(&mut self, seat: Seat, lifetime: Duration) -> Duration {
        let backoff = self.backoff.entry(seat.number).or_default();
        let wait = backoff.after(lifetime, monotonic_ns());
        self.status
            .lock()
            .seats
            .entry(seat.number)
            .or_default()
            .crash_loop = backoff.deaths();
        let events = self.events.clone();
        spawn_local(async move {
            sleep(wait).await;
            let _ = events.send(Event::Respawn { seat });
        });
        wait
    }

    /// Points every group's program at the seats whose workers are ready.
    fn steer(&self) {
        for group in &*self.groups {
            let ready = self
                .processes
                .values()
                .filter(|p| p.row.state() == State::Ready);
            let mut places: Vec<usize> = ready.map(|p| p.seat.place).collect();
            places.sort_unstable();
            if let Err(error) = group.steer(self.plan.config.arm, places.into_iter()) {
                notice(format_args!("cannot steer {}: {error}", group.address()));
            }
        }
    }

    /// Ends everything in order: take what has arrived, listen no more, let the workers finish.
    async fn stop(&mut self) {
        let limit = self.plan.config.drain_timeout;
        let begun = Instant::now();
        let open: u64 = self.processes.values().map(|p| p.row.open()).sum();
        if open > 0 {
            notice(format_args!(
                "stopping: {open} open connections have up to {} s to finish",
                limit.as_secs_f64()
            ));
        }
        self.status.lock().stopping = true;
        for process in self.processes.values() {
            process.row.set_state(State::Draining);
        }
        self.steer();
        self.hand_over_the_rest(limit.min(HANDOVER_DEADLINE)).await;
        self.groups = Arc::from([]);
        for process in self.processes.values() {
            // A worker that is gone needs no telling.
            let _ = process.control.send(&ToWorker::Drain, &[]).await;
        }
        while !self.processes.is_empty() {
            let left = limit.saturating_sub(begun.elapsed());
            match timeout(left, self.inbox.recv()).await {
                Ok(Some(Event::Ended { row, .. })) => {
                    if let Some(process) = self.processes.remove(&row) {
                        process.row.clone().retire();
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => {
                    let cut: u64 = self.processes.values().map(|p| p.row.open()).sum();
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
    async fn hand_over_the_rest(&mut self, limit: Duration) {
        let mut stopped = pin!(self.dispatcher.stop());
        let mut out_of_time = pin!(sleep(limit));
        loop {
            tokio::select! {
                () = &mut stopped => return,
                () = &mut out_of_time => return self.dispatcher.abandon(),
                Some(event) = self.inbox.recv() => {
                    // What a worker that dies now has not claimed still goes to another.
                    if let Event::Ended { row, .. } = event
                        && let Some(process) = self.processes.remove(&row)
                    {
                        self.dispatcher.leave(row).await;
                        process.row.clone().retire();
                    }
                }
            }
        }
    }

    fn kill_all(&self) {
        self.processes.values().for_each(Process::kill);
    }
}
