//! How a worker comes into the world: everything that it is born with is ready before it is.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use super::{
    ServeHere,
    process::{Birth, Event, Process, core_for},
    supervisor::Supervisor,
};
use crate::{
    bus::line,
    channel::{Control, Inheritance, ToWorker, handover_line},
    error::{Error, Result},
    notice,
    status::Seat,
    sys::{
        child::{Child, Exit},
        clock::monotonic_ns,
        fdpass,
        readiness::watch_child,
    },
};

/// A worker that is about to be.
struct Unborn {
    process: Process,
    /// The worker's end of the control line.
    line: OwnedFd,
    /// The hub's end of the line to the hub.
    hubs: OwnedFd,
}

impl Supervisor {
    /// Makes everything that a worker in `seat` is born with, and leaves it in the returned control
    /// line's pipe before the worker exists.
    async fn prepare(&self, seat: Seat) -> io::Result<Unborn> {
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
            let (hubs, bus) = line::pair()?;
            let (inheritance, listeners) = {
                let state = self.state.borrow();
                let config = &state.settings.cluster;
                let (doors, listeners) = state.doors(seat);
                let core = config.pin_cpus.then(|| core_for(seat.place)).flatten();
                let inheritance = Inheritance {
                    seat: seat.number,
                    generation,
                    group: config.group_of(seat.number),
                    row: row.index(),
                    core,
                    doors,
                    timeouts: config.timeouts,
                    drain_timeout: config.drain_timeout,
                    endpoints: columns,
                    application: state.settings.application.clone(),
                    bus: true,
                };
                (inheritance, listeners)
            };
            let listeners = listeners.into_iter().collect::<io::Result<Vec<_>>>()?;
            let epoch = inheritance.doors.epoch;
            let mut descriptors = vec![self.board.as_fd(), inlet.as_fd(), bus.as_fd()];
            descriptors.extend(listeners.iter().map(AsFd::as_fd));
            control
                .send(&ToWorker::Inheritance(inheritance), &descriptors)
                .await?;
            Ok((control, outlet, theirs, hubs, epoch))
        };
        match made.await {
            Ok((control, outlet, line, hubs, epoch)) => {
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
                    bus: None,
                    outlet: Some(outlet),
                    told: Some(epoch),
                    opened: epoch,
                    killed_for: None,
                    child: None,
                    watch: Vec::new(),
                };
                Ok(Unborn {
                    process,
                    line,
                    hubs,
                })
            }
            Err(error) => {
                row.retire();
                Err(error)
            }
        }
    }

    /// Starts a worker process in `seat`: this same program, run again.
    pub(super) async fn spawn(&self, seat: Seat) -> Result<Birth> {
        if self.status.lock().stopping {
            return Err(Error::failed("the cluster is stopping"));
        }
        let failed = |error| Error::runtime(format!("cannot start worker {}", seat.number), error);
        let Unborn {
            mut process,
            line,
            hubs,
        } = self.prepare(seat).await.map_err(failed)?;
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
        self.install(&mut process, pid, hubs);
        process.adopt(child, &self.events, &self.status);
        let birth = process.birth;
        self.state.borrow_mut().processes.insert(birth, process);
        Ok(birth)
    }

    /// Makes a thread of the master one more worker.
    pub(super) async fn serve_in_master(&self, seat: Seat, serve_here: ServeHere) -> Result<()> {
        let failed = |error| Error::runtime("cannot serve in the master", error);
        let Unborn {
            mut process,
            line,
            hubs,
        } = self.prepare(seat).await.map_err(failed)?;
        let pid = std::process::id() as i32;
        self.install(&mut process, pid, hubs);
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

    fn install(&self, process: &mut Process, pid: i32, hubs: OwnedFd) {
        process.row.birth.pid.store(pid as u64, Relaxed);
        let role = process.role();
        process.bus = Some(self.hub.join(role, pid, Some(process.row.clone()), hubs));
        let mut status = self.status.lock();
        let seat = status.seats.entry(process.seat.number).or_default();
        seat.pids.push(pid);
        seat.respawn_at = None;
        seat.filled_at = monotonic_ns();
        process.listen(&self.events);
    }
}
