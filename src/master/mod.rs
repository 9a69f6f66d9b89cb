//! The master process: binds, starts the workers, accepts, picks, hands over, supervises and answers
//! the admin interface and the control socket. It never reads a byte of a request, and survives
//! anything a worker does.
//!
//! Three threads: the [`dispatcher`], the [`hub`] of the bus, and the control runtime with everything else.

mod admin;
mod backoff;
mod birth;
mod control;
mod dispatcher;
mod doors;
mod explain;
mod guests;
mod handle;
mod hooks;
mod notify;
mod operations;
mod places;
mod process;
mod reports;
mod stop;
mod supervisor;

use std::{
    collections::BTreeMap, future::Future, io, os::fd::OwnedFd, path::PathBuf, rc::Rc, sync::Arc,
    time::Duration,
};

use tokio::sync::{Notify, mpsc};

pub(crate) use self::hooks::WorkerHooks;
use self::{
    admin::Admin,
    dispatcher::Rules,
    guests::Guests,
    hooks::{HookBoard, guard},
    notify::Notifier,
    operations::ResumedProcesses,
    supervisor::{ClusterState, Inbox, Supervisor},
};
pub use self::{handle::Master, hooks::WorkerProcess};
use crate::{
    config::{ClusterConfig, ControlSocket, Listen, Settings},
    control::path::Bound,
    error::{Error, Result},
    hub::{self, Carried, HubHandle},
    listener::{Groups, ListenerGroup},
    scoreboard::Scoreboard,
    status::Status,
    sys::{
        activation::{self, Passed},
        child, exec, orphans, privileges,
    },
};

/// What the master runs with, all of it checked.
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) hooks: Hooks,
}

/// What the program that runs the master has to say in it.
#[derive(Default)]
pub(crate) struct Hooks {
    /// Where the settings come from anew when told to reload; `None`: they are for life.
    pub(crate) source: Option<Source>,
    /// The file that they were read from, if there is one.
    pub(crate) config_file: Option<PathBuf>,
    /// Called with the addresses once every worker is ready.
    pub(crate) on_ready: Option<OnReady>,
    /// Called with the master's handle before any worker is started.
    pub(crate) on_master: Vec<OnMaster>,
    /// Called when workers come and go.
    pub(crate) workers: WorkerHooks,
    /// What the program keeps beside the cluster.
    pub(crate) companions: Option<Rc<dyn Companions>>,
}

/// Something beside the cluster that must survive an upgrade.
pub(crate) trait Companions {
    /// What the next binary is to know of it, and its descriptors.
    ///
    /// # Errors
    /// No descriptor is left.
    fn pack(&self) -> io::Result<(String, Vec<OwnedFd>)>;
}

/// Where a cluster can be reached, told to [`Cluster::on_ready`](crate::Cluster::on_ready).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ready {
    /// The addresses that it listens on, in the order in which they were asked for, with real ports.
    pub listen: Vec<std::net::SocketAddr>,
    /// The address of the admin interface, with its real port.
    pub admin: Option<std::net::SocketAddr>,
    /// The path of the control socket.
    pub control: Option<PathBuf>,
    /// Worker processes.
    pub workers: u16,
}

/// Reads the settings anew and checks all of them.
pub(crate) type Source = Box<dyn FnMut() -> Result<Settings>>;

/// What is to be done with the master's handle.
pub(crate) type OnMaster = Box<dyn FnOnce(Master)>;

/// What is to be done once every worker is ready.
pub(crate) type OnReady = Box<dyn FnOnce(&Ready)>;

/// Runs a worker inside the master, on a thread of its own, over this end of a control line.
pub(crate) type ServeHere = Box<dyn FnOnce(OwnedFd) -> io::Result<()> + Send>;

/// Everything that the master holds, before its runtime lives.
struct Holdings {
    settings: Settings,
    rules: Rules,
    board: Scoreboard,
    status: Status,
    groups: Groups,
    /// Which listener of the configuration each group is for, by number.
    listening: BTreeMap<usize, Listen>,
    admin: Option<Admin>,
    control: Option<Bound>,
    hub: HubHandle,
    /// Workers that are there already.
    resumed: Option<ResumedProcesses>,
}

/// Runs the master until it is told to stop. `serve_here` is used if the master serves too.
///
/// # Errors
/// The configuration is wrong, an address cannot be had, or the first workers say that they are
/// unfit.
pub(crate) fn run(plan: Plan, serve_here: ServeHere) -> Result<()> {
    let Plan { settings, hooks } = plan;
    let config = &settings.cluster;
    let workers = config.validate()?.get();
    let seats = seats_to_make(config, workers);
    limit_descriptors(config.nofile, config.listen.len(), seats)?;
    let identity = config.identity()?;
    let (groups, listening) = bind(config, seats)?;
    let admin = config.admin.map(Admin::bind).transpose()?;
    // A path that somebody chose may be where only the present user may write; the usual place is
    // the other user's own.
    let mut control = match (&config.control, &identity) {
        (ControlSocket::Usual, Some(_)) => None,
        (socket, _) => Bound::open(socket)?,
    };
    if let Some(identity) = &identity {
        if let Some(control) = &control {
            let (user, group) = (identity.uid, identity.gid);
            control.give_to(user, group).map_err(|error| {
                Error::runtime(
                    format!("cannot give the control socket to {identity}"),
                    error,
                )
            })?;
        }
        // Before any other thread; after everything that takes privileges.
        privileges::drop_to(identity)
            .map_err(|error| Error::runtime(format!("cannot become {identity}"), error))?;
        if config.control == ControlSocket::Usual {
            control = Bound::open(&config.control)?;
        }
    }
    if let Some(options) = &config.bus.nats {
        // As whom they are read again at each connect.
        hub::nats::check(options)?;
    }
    let hub = start_hub(config, None)?;
    let board = Scoreboard::create()
        .map_err(|error| Error::runtime("cannot make the scoreboard in shared memory", error))?;
    let status = Status::new(board.clone(), workers, config.arm);
    let mut numbered: Vec<Option<Arc<ListenerGroup>>> = Vec::new();
    let mut names = BTreeMap::new();
    {
        let mut status = status.lock();
        for (group, listen) in groups.into_iter().zip(listening) {
            let number = status.listener_number(group.address());
            let number = number.expect("no more listeners than the configuration admits");
            numbered.resize(numbered.len().max(number + 1), None);
            numbered[number] = Some(Arc::new(group));
            names.insert(number, listen);
            status.listeners[number].open = true;
        }
        for name in &settings.endpoints {
            status.endpoint_column(name);
        }
        status.admin = admin.as_ref().map(Admin::address);
        status.reload.file = hooks.config_file.clone();
    }
    let rules = rules_of(&settings, false);
    status.lock().sorter = rules.sorter.clone();
    let holdings = Holdings {
        rules,
        settings,
        board,
        status,
        groups: numbered.into(),
        listening: names,
        admin,
        control,
        hub,
        resumed: None,
    };
    let serve_here = holdings
        .settings
        .cluster
        .master_serves
        .then_some(serve_here);
    live(holdings, hooks, serve_here, false)
}

/// Goes on where another binary in this process has left off, if one has.
///
/// # Errors
/// What it left cannot be taken up, or is gone.
pub(crate) fn resume(hooks: Hooks) -> Result<()> {
    let failed = |error| Error::runtime("cannot take over from the binary before", error);
    let luggage = exec::take_luggage().map_err(failed)?;
    let luggage = luggage.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    operations::resume(luggage, hooks)
}

/// In a trial: could this binary take up what it is shown?
///
/// # Errors
/// It could not.
pub(crate) fn examine(sample: OwnedFd) -> io::Result<()> {
    operations::examine(sample)
}

/// Binds all that is to be listened on. Returns the groups, and which listener each is for.
fn bind(config: &ClusterConfig, seats: usize) -> Result<(Vec<ListenerGroup>, Vec<Listen>)> {
    let mut passed = activation::passed().map_err(|error| Error::usage(error.to_string()))?;
    let listening = if config.listen_passed {
        let mut names: Vec<_> = passed
            .iter()
            .map(|p| Listen::Passed(p.name.clone()))
            .collect();
        names.dedup();
        names
    } else {
        config.listen.clone()
    };
    if listening.is_empty() {
        return Err(Error::failed(
            "nothing to listen on: no listener was passed (LISTEN_FDS)",
        ));
    }
    let mut take = |name: &str| {
        let named = passed.extract_if(.., |p: &mut Passed| p.name == name);
        named.map(|p| p.socket).collect()
    };
    let groups = listening
        .iter()
        .map(|listen| match listen {
            Listen::Address(address) => ListenerGroup::bind(*address, seats),
            Listen::Passed(name) => {
                let group = ListenerGroup::adopt(name, take(name), seats)?;
                group.allows(config.arm.mode()).map(|()| group)
            }
        })
        .collect::<Result<_>>()?;
    Ok((groups, listening))
}

/// Brings the master to life with all that it holds. `take_over`: it takes the place of another binary,
/// whose workers are to be replaced.
fn live(
    holdings: Holdings,
    hooks: Hooks,
    serve_here: Option<ServeHere>,
    take_over: bool,
) -> Result<()> {
    let Holdings {
        settings,
        rules,
        board,
        status,
        groups,
        listening,
        admin,
        control,
        hub,
        mut resumed,
    } = holdings;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| Error::runtime("cannot start the control runtime", error))?;
    let (reports, heard) = mpsc::unbounded_channel();
    let recruits = resumed.as_mut().map(ResumedProcesses::recruits);
    let dispatcher = dispatcher::start(
        groups.clone(),
        board.clone(),
        rules.clone(),
        recruits.unwrap_or_default(),
        reports.clone(),
    )
    .map_err(|error| Error::runtime("cannot start the dispatcher", error))?;
    runtime.block_on(async {
        let (events, happened) = mpsc::unbounded_channel();
        let (ask, asked) = mpsc::unbounded_channel();
        if orphans::is_init() {
            tokio::task::spawn_local(orphans::keep_reaping());
        }
        let admin = admin.map(|admin| admin.serve(&status)).transpose()?;
        let ready = Ready {
            listen: listening
                .keys()
                .filter_map(|number| groups.get(*number)?.as_ref())
                .map(|group| group.address())
                .collect(),
            admin: admin.as_ref().map(Admin::address),
            control: control.as_ref().map(|bound| bound.path().to_owned()),
            workers: status.lock().workers,
        };
        let commands = match &control {
            Some(bound) => {
                let failed = |error| {
                    let what = format!("cannot take commands at {}", bound.path().display());
                    Error::runtime(what, error)
                };
                Some(bound.listener().map_err(failed)?)
            }
            None => None,
        };
        let cluster = ClusterState {
            settings,
            source: hooks.source,
            companions: hooks.companions,
            rules,
            groups,
            listening,
            admin,
            control,
            dispatcher: Rc::new(dispatcher),
            frozen: false,
            processes: BTreeMap::new(),
            backoff: backoffs(&status),
            last_ends: Default::default(),
            births: 0,
            epoch: 0,
            stop_wanted: false,
            later: Vec::new(),
            comparing: None,
        };
        status.show_bus(hub.clone());
        let known: Rc<dyn control::Reports> = Rc::new(status.clone());
        let guests = Guests::new({
            let hub = hub.clone();
            Box::new(move |pid| hub.guest(pid))
        });
        let supervisor = Rc::new(Supervisor {
            board,
            status,
            events,
            ask: ask.clone(),
            reports,
            state: cluster.into(),
            changed: Notify::new(),
            hooks: HookBoard::new(hooks.workers),
            guests: guests.clone(),
            hub,
            notifier: Notifier::from_env().map(Rc::new),
        });
        let desk = commands
            .map(|listener| control::serve(listener, known, supervisor.explainer(), ask, guests));
        let inbox = Inbox {
            events: happened,
            reports: heard,
            asked,
        };
        let resumes = resumed.is_some();
        if let Some(resumed) = resumed {
            resumed
                .settle(&supervisor)
                .map_err(|error| Error::runtime("cannot look after the workers", error))?;
        }
        if !hooks.on_master.is_empty() {
            let master = Master::new(&supervisor.hub, &supervisor.board)
                .map_err(|error| Error::runtime("the master cannot join the bus", error))?;
            for hook in hooks.on_master {
                guard(|| hook(master.clone()));
            }
        }
        let running = supervisor
            .clone()
            .run(inbox, ready, hooks.on_ready, serve_here);
        if resumes {
            supervisor.take_up(take_over);
        }
        let outcome = running.await;
        if let Some(desk) = desk {
            desk.finish(Duration::from_secs(1)).await;
        }
        outcome
    })
}

/// Starts the middle of the bus, as the settings say; `carried`: of another binary's.
fn start_hub(config: &ClusterConfig, carried: Option<Carried>) -> Result<HubHandle> {
    let failed = |error| Error::runtime("cannot start the bus", error);
    // What was left for the first binary in this process is not for the next one.
    let above = match carried {
        None => child::inherited_uplink().map_err(failed)?,
        Some(_) => None,
    };
    let plan = hub::Plan {
        config: config.bus.clone(),
        above,
        carried,
    };
    hub::start(plan).map_err(failed)
}

/// The back-off of each seat, as far as it was known before.
fn backoffs(status: &Status) -> std::collections::HashMap<u16, backoff::Backoff> {
    let seats = &status.lock().seats;
    seats
        .iter()
        .map(|(number, seat)| (*number, backoff::Backoff::resume(seat.crash_loop)))
        .collect()
}

/// What the dispatcher is to go by, as the settings say.
fn rules_of(settings: &Settings, paused: bool) -> Rules {
    let config = &settings.cluster;
    Rules {
        arm: config.arm,
        prefixes: config.prefixes,
        signal: config.load_signal,
        hang: config.hang,
        shadow: config.shadow,
        sorter: config.sorter().map(Arc::new),
        paused,
    }
}

/// For how many seats listeners are made.
fn seats_to_make(config: &ClusterConfig, workers: u16) -> usize {
    let most = config.max_workers.unwrap_or(workers).max(workers);
    usize::from(most) + usize::from(config.master_serves)
}

/// Every connection costs descriptors: takes what the hard limit allows, or what was asked for
/// (workers inherit it), and refuses to start where not even the cluster's own would fit.
fn limit_descriptors(wanted: Option<u64>, listeners: usize, seats: usize) -> Result<()> {
    let (limit, _) =
        privileges::limit_descriptors(wanted).map_err(|error| Error::usage(error.to_string()))?;
    // Lines, pidfds and listeners, and some for runtimes, the scoreboard and a first connection.
    let needed = 40 + listeners * (seats + 2) + 5 * seats;
    if limit < needed as u64 {
        return Err(Error::failed(format!(
            "the limit of open files is {limit}: this takes at least {needed} (ulimit -Hn), or fewer workers"
        )));
    }
    Ok(())
}

/// Boxes what [`run`] needs to serve in the master itself.
pub(crate) fn serve_here<F, Fut, P>(factory: F) -> ServeHere
where
    F: FnOnce(crate::Worker) -> Fut + Send + 'static,
    Fut: Future<Output = P> + 'static,
    P: crate::worker::Protocol,
{
    Box::new(move |line| crate::worker::run(line, factory, examine))
}

/// The companions that another binary has left, see [`Companions::pack`]. To be asked before
/// [`resume`].
pub(crate) fn companions() -> Option<(String, Vec<OwnedFd>)> {
    exec::peek_luggage(operations::companions)
}
