//! Becoming another binary in place: same process id, listeners, counters and running workers.
//!
//! 1. *Trial*: the new binary is run as a worker, with the present configuration, on a scoreboard of
//!    its own, and is shown what it would be given. It must become ready, and end when told to.
//! 2. *Freeze*: the dispatcher lets go of all that it has accepted, and ends. Connections wait in the
//!    kernel; workers that accept by themselves go on.
//! 3. *Exec*. If that fails, the dispatcher is started again and nothing has changed.
//! 4. The new binary takes up what is there ([`resume`]) and replaces the workers by its own. If it
//!    cannot take it up, it becomes the old binary again, from a descriptor.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    pin::pin,
    process::{Command, Stdio},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::Teller;
use crate::{
    bus::{MasterId, ProcessId, Role, control::Ask, line},
    channel::{Control, Doors, Inheritance, Outlet, ToMaster, ToWorker, handover_line},
    config::{Listen, Settings},
    control::{EXEC_LINE, path::Bound},
    error::{Error, Result},
    hub::{self, CarriedLine, Tally, Whose},
    listener::{Groups, ListenerGroup},
    master::{
        Admin, Holdings, Hooks,
        dispatcher::{self, Recruit, Rules},
        guests::Farewell,
        process::{Birth, Event, Leap, Process},
        supervisor::{ClusterState, Supervisor},
    },
    notice,
    scoreboard::{Scoreboard, State},
    status::{Seat, Status},
    sys::{
        child::{Child, Exit, admit_signals},
        clock::monotonic_ns,
        exec::{self, Luggage},
        fdpass, privileges,
        readiness::watch_child,
    },
};

/// What is carried over is of this shape. One more with every change that an older binary could not
/// read.
const FORMAT: u32 = 1;
/// How long a trial may take.
const TRIAL_DEADLINE: Duration = Duration::from_secs(10);
/// How long the dispatcher may take to let go.
const FREEZE_DEADLINE: Duration = Duration::from_secs(2);
/// For how long what waits on the bus is still passed on. What waits longer is lost.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What one binary passes on to the next. Descriptors are named by their place in the luggage.
#[derive(Serialize, Deserialize)]
struct Carried {
    format: u32,
    /// Of the binary that packed it.
    version: String,
    settings: Settings,
    rules: Rules,
    board: usize,
    status: serde_json::Value,
    groups: Vec<CarriedGroup>,
    processes: Vec<CarriedProcess>,
    births: Birth,
    epoch: u64,
    /// The listener of the admin interface.
    admin: Option<usize>,
    /// The control socket: listener, lock, path.
    control: Option<(usize, usize, PathBuf)>,
    /// Whatever the program keeps beside the cluster, and its descriptors.
    companions: Option<(String, Vec<usize>)>,
    /// The bus, if the binary that packed it knew one.
    #[serde(default)]
    bus: Option<CarriedBus>,
    /// The binary that packed it, should the next one not manage.
    previous: usize,
    /// Is it the previous one that unpacks it?
    came_back: Option<String>,
}

/// Who this master is on the bus, and the lines that are not its workers'.
#[derive(Serialize, Deserialize)]
struct CarriedBus {
    me: MasterId,
    next: u32,
    #[serde(default)]
    tally: Tally,
    /// To the hubs of masters that these processes have started.
    below: Vec<(ProcessId, usize)>,
    /// To the hub of the master above.
    above: Option<usize>,
}

#[derive(Serialize, Deserialize)]
struct CarriedGroup {
    number: usize,
    listen: Listen,
    address: SocketAddr,
    members: Vec<usize>,
    alone: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct CarriedProcess {
    birth: Birth,
    seat: Seat,
    row: usize,
    pid: i32,
    age: Duration,
    control: usize,
    /// The hand-over line and the number of the next connection on it, while the worker has one.
    outlet: Option<(usize, u32)>,
    told: Option<u64>,
    opened: u64,
    killed_for: Option<String>,
    /// Its place on the bus.
    #[serde(default)]
    bus: Option<CarriedEnd>,
}

/// A worker's place on the bus.
#[derive(Serialize, Deserialize)]
struct CarriedEnd {
    number: u32,
    /// The hub's end of its line.
    line: usize,
    /// What it has asked of the hub.
    #[serde(default)]
    wishes: Vec<Ask>,
}

/// Collects descriptors and says where each is.
#[derive(Default)]
struct Packer(Vec<OwnedFd>);

impl Packer {
    fn put(&mut self, descriptor: impl AsFd) -> io::Result<usize> {
        self.0.push(descriptor.as_fd().try_clone_to_owned()?);
        Ok(self.0.len() - 1)
    }
}

impl Supervisor {
    /// Becomes the binary at `path`, or the one now at the path of this one. Returns only if that
    /// fails.
    pub(super) async fn upgrade(
        self: &Rc<Self>,
        path: Option<PathBuf>,
        teller: &Teller,
    ) -> Result<String> {
        if self.state.borrow().settings.cluster.master_serves {
            return Err(Error::usage(
                "no upgrade while the master serves (--master-serves): the connections that it holds would be lost; restart",
            ));
        }
        let path = match path {
            Some(path) => path,
            None => own_path()?,
        };
        teller.say(format!("trying {}", path.display()));
        self.try_out(&path).await?;
        teller.say("it is fit; handing over what has been accepted");
        let dispatcher = self.state.borrow().dispatcher.clone();
        self.state.borrow_mut().frozen = true;
        let Some(recruits) = dispatcher.freeze(FREEZE_DEADLINE).await else {
            self.thaw();
            return Err(Error::failed(
                "workers did not take in time what had been accepted for them; nothing has changed",
            ));
        };
        teller.say(EXEC_LINE);
        self.guests.dismiss(Farewell::Upgrade);
        // On its way to whoever asked, and to the guests.
        sleep(Duration::from_millis(20)).await;
        self.hub.freeze(LAST_WORDS).await;
        // The rest happens when all that the workers' lines have brought so far is acted on; what they
        // bring after that stays in the lines.
        let (failed, failure) = oneshot::channel();
        let leap = Leap {
            path: path.clone(),
            recruits,
            failed,
        };
        let _ = self.events.send(Event::Leap(Box::new(leap)));
        let (error, recruits) = failure
            .await
            .map_err(|_| Error::failed("the supervisor has ended"))?;
        self.guests.readmit();
        if let Err(error) = self.start_dispatcher(recruits) {
            // A master that accepts nothing must not look alive.
            notice(format_args!("{error}"));
            std::process::exit(1);
        }
        Err(Error::runtime(
            format!("cannot become {}; nothing has changed", path.display()),
            error,
        ))
    }

    /// Becomes another binary, or tells why not.
    pub(in crate::master) fn leap(&self, leap: Leap) {
        let error = match self.pack(&leap.recruits) {
            Ok(luggage) => exec::become_program(&leap.path, luggage).0,
            Err(error) => error,
        };
        admit_signals();
        leap.refuse(error);
    }

    /// The dispatcher goes on: it gets to know those that became ready meanwhile.
    fn thaw(&self) {
        let mut state = self.state.borrow_mut();
        state.frozen = false;
        for recruit in latecomers(&mut state) {
            state.dispatcher.join(recruit, None);
        }
    }

    /// Goes on with the dispatcher after all.
    fn start_dispatcher(&self, mut recruits: Vec<Recruit>) -> Result<()> {
        self.hub.thaw();
        let mut state = self.state.borrow_mut();
        state.frozen = false;
        // Meanwhile some may have died or begun to drain, others have become ready.
        recruits.retain(|recruit| {
            let mut processes = state.processes.values();
            let row = recruit.row.index();
            processes.any(|p| p.row.index() == row && p.outlet.is_none() && p.serves())
        });
        recruits.extend(latecomers(&mut state));
        judge_anew(&state);
        let dispatcher = dispatcher::start(
            state.groups.clone(),
            self.board.clone(),
            state.rules.clone(),
            recruits,
            self.reports.clone(),
        )
        .map_err(|error| Error::runtime("cannot start the dispatcher again", error))?;
        state.dispatcher = Rc::new(dispatcher);
        drop(state);
        self.steer();
        Ok(())
    }

    /// Runs `path` as a worker and shows it what it would be given.
    async fn try_out(&self, path: &Path) -> Result<()> {
        let unfit = |why: String| {
            Error::failed(format!(
                "{} is not fit: {why}; nothing has changed",
                path.display()
            ))
        };
        let failed = |error: io::Error| unfit(crate::error::describe(&error));
        let sample = self
            .pack(&[])
            .and_then(|luggage| exec::sample(&luggage.words))
            .map_err(failed)?;
        let board = Scoreboard::create().map_err(failed)?;
        let row = board.occupy(0, 1).ok_or_else(|| unfit("no row".into()))?;
        let (_outlet, inlet) = handover_line().map_err(failed)?;
        let (ours, theirs) = fdpass::pair().map_err(failed)?;
        let control = Control::new(ours).map_err(failed)?;
        // A bus of its own, on which it is alone: nobody is to take it for one of ours.
        let hub = hub::start(hub::Plan::default()).map_err(failed)?;
        let (hubs, bus) = line::pair().map_err(failed)?;
        let role = Role::Worker {
            seat: 0,
            generation: 1,
        };
        hub.join(role, 0, None, hubs);
        let trial = ToWorker::Trial(self.trial_inheritance(row.index()));
        let descriptors = [board.as_fd(), inlet.as_fd(), bus.as_fd(), sample.as_fd()];
        control.send(&trial, &descriptors).await.map_err(failed)?;
        drop(bus);
        let (said, stderr) = io::pipe().map_err(failed)?;
        // What it has started may hold the other end open, and nobody here may wait for that.
        fcntl(&said, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| failed(error.into()))?;
        let mut arguments = std::env::args_os();
        let mut name = arguments.next().unwrap_or_default();
        name.push(" [trial]");
        let mut command = Command::new(path);
        command
            .arg0(name)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let child = Child::spawn(command, theirs)
            .and_then(watch_child)
            .map_err(failed)?;
        let ended = async {
            loop {
                let mut ready = child.readable().await?;
                if let Some(exit) = child.get_ref().try_reap()? {
                    return Ok::<_, io::Error>(exit);
                }
                ready.clear_ready();
            }
        };
        let trial = async {
            let mut ended = pin!(ended);
            // Its end alone says so too: what it has started may hold its end of the line open.
            let said = tokio::select! {
                biased;
                said = control.receive::<ToMaster>() => said,
                exit = &mut ended => return Err(exit),
            };
            match said {
                Ok(Some((ToMaster::Ready, _))) => {
                    let _ = control.send(&ToWorker::Drain, &[]).await;
                    Ok(ended.await)
                }
                _ => Err(ended.await),
            }
        };
        let outcome = timeout(TRIAL_DEADLINE, trial).await;
        let last_word = || {
            // All that a pipe holds.
            let mut text = vec![0; 64 * 1024];
            let n = (&said).read(&mut text).unwrap_or(0);
            let text = String::from_utf8_lossy(&text[..n]).into_owned();
            let last = text.lines().rev().find(|line| !line.trim().is_empty());
            last.map_or_else(String::new, |line| format!(" ({line})"))
        };
        match outcome {
            Ok(Ok(Ok(Exit::Code(0)))) => Ok(()),
            Ok(Ok(Ok(exit))) => Err(unfit(format!("it ended with {exit}{}", last_word()))),
            Ok(Err(Ok(exit))) => Err(unfit(format!(
                "it ended with {exit} before it was ready{}",
                last_word()
            ))),
            Ok(Ok(Err(error)) | Err(Err(error))) => Err(failed(error)),
            Err(_) => {
                child.get_ref().end();
                Err(unfit(format!("it was not ready within {TRIAL_DEADLINE:?}")))
            }
        }
    }

    fn trial_inheritance(&self, row: usize) -> Inheritance {
        let state = self.state.borrow();
        let config = &state.settings.cluster;
        Inheritance {
            seat: 0,
            generation: 1,
            group: None,
            row,
            core: None,
            doors: Doors {
                epoch: 0,
                arm: state.rules.arm,
                listeners: Vec::new(),
            },
            timeouts: config.timeouts,
            drain_timeout: config.drain_timeout,
            endpoints: (0..state.settings.endpoints.len() as u8).collect(),
            application: state.settings.application.clone(),
            bus: true,
        }
    }

    /// Everything that the next binary needs, with descriptors of its own.
    fn pack(&self, recruits: &[Recruit]) -> io::Result<Luggage> {
        let state = self.state.borrow();
        let mut packer = Packer::default();
        let mut groups = Vec::new();
        for (number, group) in state.groups.iter().enumerate() {
            let (Some(group), Some(listen)) = (group, state.listening.get(&number)) else {
                continue;
            };
            groups.push(CarriedGroup {
                number,
                listen: listen.clone(),
                address: group.address(),
                members: group
                    .members()
                    .map(|member| packer.put(member))
                    .collect::<io::Result<_>>()?,
                alone: group.alone().map(str::to_owned),
            });
        }
        let hub::Carried {
            me,
            next,
            tally,
            links,
        } = self.hub.pack();
        let mut bus = CarriedBus {
            me,
            next,
            tally,
            below: Vec::new(),
            above: None,
        };
        let mut lines = BTreeMap::new();
        for link in links {
            match link.whose {
                Whose::Process(number) => _ = lines.insert(number, link),
                Whose::Below(process) => bus.below.push((process, packer.put(link.line)?)),
                Whose::Above => bus.above = Some(packer.put(link.line)?),
                Whose::Met(_) => {}
            }
        }
        let mut processes = Vec::new();
        for process in state.processes.values() {
            let number = process.bus.map(ProcessId::number);
            let link = number.and_then(|number| lines.remove(&number));
            let recruit = recruits
                .iter()
                .find(|r| r.row.index() == process.row.index());
            let outlet = match (recruit, &process.outlet) {
                (Some(recruit), _) => Some((&recruit.outlet, recruit.next)),
                (None, Some(outlet)) => Some((outlet, 1)),
                (None, None) => None,
            };
            processes.push(CarriedProcess {
                birth: process.birth,
                seat: process.seat,
                row: process.row.index(),
                pid: process.pid(),
                age: process.born.elapsed(),
                control: packer.put(&*process.control)?,
                outlet: match outlet {
                    Some((outlet, next)) => Some((packer.put(outlet)?, next)),
                    None => None,
                },
                told: process.told,
                opened: process.opened,
                killed_for: process.killed_for.map(str::to_owned),
                bus: match (number, link) {
                    (Some(number), Some(link)) => Some(CarriedEnd {
                        number,
                        line: packer.put(link.line)?,
                        wishes: link.wishes,
                    }),
                    _ => None,
                },
            });
        }
        let companions = match &state.companions {
            Some(companions) => {
                let (words, descriptors) = companions.pack()?;
                let places = descriptors
                    .into_iter()
                    .map(|descriptor| packer.put(descriptor))
                    .collect::<io::Result<_>>()?;
                Some((words, places))
            }
            None => None,
        };
        let carried = Carried {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            settings: state.settings.clone(),
            rules: state.rules.clone(),
            board: packer.put(&self.board)?,
            status: self.status.copy()?,
            groups,
            processes,
            births: state.births,
            epoch: state.epoch,
            admin: match &state.admin {
                Some(admin) => Some(packer.put(admin)?),
                None => None,
            },
            control: match &state.control {
                Some(bound) => {
                    let (listener, lock) = bound.descriptors();
                    let path = bound.path().to_owned();
                    Some((packer.put(listener)?, packer.put(lock)?, path))
                }
                None => None,
            },
            companions,
            bus: Some(bus),
            previous: packer.put(std::fs::File::open("/proc/self/exe")?)?,
            came_back: None,
        };
        Ok(Luggage {
            words: serde_json::to_vec(&carried)?,
            descriptors: packer.0,
        })
    }
}

/// Those that became ready while the dispatcher was frozen.
fn latecomers(state: &mut ClusterState) -> Vec<Recruit> {
    let ready = state.processes.values_mut().filter(|p| p.serves());
    ready.filter_map(Process::recruit).collect()
}

/// A dispatcher that begins knows nobody to be stuck, and will say so of those that are.
fn judge_anew(state: &ClusterState) {
    let hung = |p: &&Process| p.row.state() == State::Hung;
    for process in state.processes.values().filter(hung) {
        process.row.set_state(State::Ready);
    }
}

/// Where this binary was started from. A package manager that has replaced it since has left the new
/// one there.
fn own_path() -> Result<PathBuf> {
    let path = std::env::current_exe()
        .map_err(|error| Error::runtime("cannot tell which binary this is", error))?;
    let text = path.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(before) => PathBuf::from(before),
        None => path,
    })
}

/// In a trial: could this binary take up what it is shown?
///
/// # Errors
/// `InvalidData`, in words for the operator.
pub(in crate::master) fn examine(sample: OwnedFd) -> io::Result<()> {
    let words = exec::read_sample(sample)?;
    read(&words).map(drop)
}

fn read(words: &[u8]) -> io::Result<Carried> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    #[derive(Deserialize)]
    struct Head {
        format: u32,
        version: String,
    }
    let head: Head = serde_json::from_slice(words).map_err(|error| invalid(error.to_string()))?;
    if head.format != FORMAT {
        return Err(invalid(format!(
            "version {} cannot take over from version {}: restart instead",
            env!("CARGO_PKG_VERSION"),
            head.version
        )));
    }
    let carried: Carried =
        serde_json::from_slice(words).map_err(|error| invalid(error.to_string()))?;
    carried
        .settings
        .cluster
        .validate()
        .map_err(|error| invalid(error.to_string()))?;
    Ok(carried)
}

/// Takes up what another binary has left in this process.
///
/// # Errors
/// It cannot be taken up. The other binary takes it up again then, if that is possible at all.
pub(in crate::master) fn resume(luggage: Luggage, hooks: Hooks) -> Result<()> {
    let failed = |error| Error::runtime("cannot take over from the binary before", error);
    let carried = read(&luggage.words).map_err(failed)?;
    if carried.settings.cluster.user.is_some() {
        privileges::close_again().map_err(failed)?;
    }
    let came_back = carried.came_back.clone();
    let holdings = match unpack(&luggage, carried) {
        Ok(holdings) => holdings,
        Err(error) if came_back.is_none() => return Err(go_back(luggage, error)),
        Err(error) => return Err(failed(error)),
    };
    drop(luggage);
    match &came_back {
        None => holdings.status.lock().upgrades += 1,
        Some(why) => {
            notice(format_args!("the other binary could not take over: {why}"));
            holdings.status.lock().last_failure = Some(why.clone());
        }
    }
    crate::master::live(holdings, hooks, None, came_back.is_none())
}

/// The binary before shall go on.
fn go_back(luggage: Luggage, why: io::Error) -> Error {
    let failed = Error::runtime("cannot take over from the binary before", why);
    let Ok(mut carried) = read(&luggage.words) else {
        return failed;
    };
    carried.came_back = Some(failed.to_string());
    let Some(previous) = luggage.descriptors.get(carried.previous) else {
        return failed;
    };
    let path = exec::path_of(previous);
    if let Ok(words) = serde_json::to_vec(&carried) {
        exec::become_program(&path, Luggage { words, ..luggage });
    }
    failed
}

fn unpack(luggage: &Luggage, carried: Carried) -> io::Result<Holdings> {
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing");
    let take = |place: usize| {
        let descriptor = luggage.descriptors.get(place).ok_or_else(missing)?;
        descriptor.try_clone()
    };
    let board = Scoreboard::open(take(carried.board)?)?;
    let mut groups: Vec<Option<Arc<ListenerGroup>>> = Vec::new();
    let mut listening = std::collections::BTreeMap::new();
    for group in carried.groups {
        let members = group
            .members
            .into_iter()
            .map(take)
            .collect::<io::Result<_>>()?;
        groups.resize(groups.len().max(group.number + 1), None);
        groups[group.number] = Some(Arc::new(ListenerGroup::resume(
            group.address,
            members,
            group.alone,
        )?));
        listening.insert(group.number, group.listen);
    }
    let groups: Groups = groups.into();
    let mut processes = Vec::new();
    for process in carried.processes {
        let row = board
            .row(process.row)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no such row"))?;
        processes.push(Resumed {
            row,
            control: take(process.control)?,
            outlet: match process.outlet {
                Some((place, next)) => Some((Outlet::from_socket(take(place)?), next)),
                None => None,
            },
            bus: match &process.bus {
                Some(end) => Some(take(end.line)?),
                None => None,
            },
            child: Child::resume(process.pid)?,
            carried: process,
        });
    }
    let admin = match carried.admin {
        Some(place) => Some(Admin::on(TcpListener::from(take(place)?))?),
        None => None,
    };
    let control = match carried.control {
        Some((listener, lock, path)) => Some(Bound::from_parts(take(listener)?, take(lock)?, path)),
        None => None,
    };
    let sorter = carried.settings.cluster.sorter().map(Arc::new);
    let status = Status::resume(board.clone(), serde_json::from_value(carried.status)?);
    status.lock().sorter = sorter.clone();
    // Last of all: a hub that has begun to listen cannot be taken back.
    let carried_bus = match carried.bus {
        Some(CarriedBus {
            me,
            next,
            tally,
            below,
            above,
        }) => {
            let below = below.into_iter().map(|(p, place)| (Whose::Below(p), place));
            let links = below.chain(above.map(|place| (Whose::Above, place)));
            Some(hub::Carried {
                me,
                next,
                tally,
                links: links
                    .map(|(whose, place)| {
                        Ok(CarriedLine {
                            whose,
                            line: take(place)?,
                            wishes: Vec::new(),
                        })
                    })
                    .collect::<io::Result<_>>()?,
            })
        }
        None => None,
    };
    let hub = crate::master::start_hub(&carried.settings.cluster, carried_bus)
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Holdings {
        hub,
        status,
        board,
        groups,
        listening,
        settings: carried.settings,
        rules: Rules {
            sorter,
            ..carried.rules
        },
        admin,
        control,
        resumed: Some(ResumedProcesses {
            processes,
            births: carried.births,
            epoch: carried.epoch,
        }),
    })
}

/// The companions that another binary has left, for whoever keeps them.
pub(in crate::master) fn companions(luggage: &Luggage) -> Option<(String, Vec<OwnedFd>)> {
    let carried = read(&luggage.words).ok()?;
    let (words, places) = carried.companions?;
    let descriptors = places
        .into_iter()
        .map(|place| luggage.descriptors.get(place)?.try_clone().ok())
        .collect::<Option<_>>()?;
    Some((words, descriptors))
}

/// A worker that another binary has started.
struct Resumed {
    carried: CarriedProcess,
    row: crate::scoreboard::RowRef,
    control: OwnedFd,
    outlet: Option<(Outlet, u32)>,
    bus: Option<OwnedFd>,
    child: Child,
}

/// The workers that another binary has started, on their way into the supervisor.
pub(in crate::master) struct ResumedProcesses {
    processes: Vec<Resumed>,
    births: Birth,
    epoch: u64,
}

impl ResumedProcesses {
    /// The dispatcher's ends of the lines to those that take connections.
    pub(in crate::master) fn recruits(&mut self) -> Vec<Recruit> {
        let serving = self
            .processes
            .iter_mut()
            .filter(|p| matches!(p.row.state(), State::Ready | State::Hung));
        serving
            .filter_map(|process| {
                let (outlet, next) = process.outlet.take()?;
                Some(Recruit {
                    seat: process.carried.seat,
                    row: process.row.clone(),
                    outlet,
                    next,
                })
            })
            .collect()
    }

    /// Puts them where the supervisor looks after them.
    ///
    /// # Errors
    /// The runtime cannot watch one.
    pub(in crate::master) fn settle(self, supervisor: &Supervisor) -> io::Result<()> {
        let limit = supervisor.state.borrow().settings.cluster.drain_timeout;
        for resumed in self.processes {
            let carried = resumed.carried;
            let bus = resumed.bus;
            let mut process = Process {
                birth: carried.birth,
                seat: carried.seat,
                row: resumed.row,
                born: Instant::now()
                    .checked_sub(carried.age)
                    .unwrap_or_else(Instant::now),
                control: Rc::new(Control::new(resumed.control)?),
                bus: None,
                outlet: resumed.outlet.map(|(outlet, _)| outlet),
                told: carried.told,
                opened: carried.opened,
                killed_for: carried.killed_for.map(|_| "hung"),
                child: None,
                watch: Vec::new(),
            };
            if let Some((end, line)) = carried.bus.zip(bus) {
                let (role, row) = (process.role(), Some(process.row.clone()));
                let pid = process.pid();
                let id = supervisor
                    .hub
                    .resume(end.number, role, pid, row, line, end.wishes);
                if matches!(process.row.state(), State::Ready | State::Hung) {
                    supervisor.hub.ready(id);
                }
                process.bus = Some(id);
            }
            process.listen(&supervisor.events);
            let child = Rc::new(watch_child(resumed.child)?);
            process.adopt(child, &supervisor.events, &supervisor.status);
            if process.drains() {
                let until = process.row.birth.drain_until.load(Relaxed);
                let left = Duration::from_nanos(until.saturating_sub(monotonic_ns()));
                process.must_end_within(left.min(limit));
            }
            let mut state = supervisor.state.borrow_mut();
            state.processes.insert(process.birth, process);
        }
        supervisor.hub.thaw();
        let mut state = supervisor.state.borrow_mut();
        judge_anew(&state);
        state.births = self.births;
        state.epoch = self.epoch;
        Ok(())
    }
}

impl Supervisor {
    /// What is left to do once another binary has been taken over from: fill the seats that were
    /// waiting to be, and replace the workers by this binary's own.
    pub(in crate::master) fn take_up(self: &Rc<Self>, replace: bool) {
        let waiting: Vec<Seat> = {
            let (status, state) = (self.status.lock(), self.state.borrow());
            (0..status.workers)
                .map(|number| state.seat(number))
                .filter(|seat| state.holder(*seat).is_none())
                .collect()
        };
        for seat in waiting {
            self.respawn_after_upgrade(seat);
        }
        if !replace {
            self.status.lock().operation = None;
            return;
        }
        self.status.lock().operation = Some("upgrade: replacing the workers".into());
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let outcome = this.roll(&Teller::nobody()).await;
            this.over(&outcome);
            match outcome {
                Ok(text) => notice(format_args!("upgraded: {text}")),
                Err(error) => notice(format_args!(
                    "upgraded, but the workers are those of the binary before: {error}"
                )),
            }
        });
    }
}
