//! The public door: one program, run again for each worker.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use crate::{
    bus::{Departure, Overflow},
    config::{
        self, BusOptions, BusOverflow, ClusterConfig, ConnectionTimeouts, ControlSocket, Listen,
        Settings,
    },
    dispatch::{
        load::LoadSignal,
        mode::Mode,
        pins::{Network, Pin, WorkerGroup},
        policy::{Policy, Prefixes},
    },
    error::{Error, Result},
    master::{self, Companions, Hooks, Master, Plan, Ready, WorkerProcess},
    sys::{
        child::{inherited_channel, is_born_with_channel},
        exec::has_luggage,
    },
    worker::{self, Application, Conn, Protocol, Worker},
};

/// A master and its workers, about to be started.
///
/// [`serve`](Self::serve) starts this same program again for every worker, and there the same call
/// hosts the application instead. Nothing before it needs to know which of the two it is in.
///
/// ```no_run
/// use std::convert::Infallible;
///
/// use http_body_util::Full;
/// use hyper::{Request, Response, body::{Bytes, Incoming}};
/// use tower_service::Service;
///
/// #[derive(Clone)]
/// struct Hello(u16);
///
/// impl Service<Request<Incoming>> for Hello {
///     type Response = Response<Full<Bytes>>;
///     type Error = Infallible;
///     type Future = std::future::Ready<Result<Self::Response, Infallible>>;
///
///     fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
///         std::task::Poll::Ready(Ok(()))
///     }
///
///     fn call(&mut self, _: Request<Incoming>) -> Self::Future {
///         let text = format!("hello from worker {}\n", self.0);
///         std::future::ready(Ok(Response::new(Full::from(text))))
///     }
/// }
///
/// fn main() -> pointsman::Result<()> {
///     pointsman::Cluster::new()
///         .listen("127.0.0.1:8080")
///         .workers(4)
///         .serve(|worker| async move { Hello(worker.id()) })
/// }
/// ```
#[derive(Default)]
pub struct Cluster {
    config: ClusterConfig,
    mode: Option<Mode>,
    policy: Option<Policy>,
    load_signal: Option<LoadSignal>,
    application: String,
    endpoints: Vec<String>,
    hooks: Hooks,
    /// For listening at both together; see [`port`](Self::port).
    host: Option<String>,
    port: Option<u16>,
    /// Processes that serve, of whatever kind; see [`nodes`](Self::nodes).
    nodes: Option<u16>,
    /// The first thing that was asked for and cannot be; told by `serve`.
    refused: Option<Error>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// A cluster that listens nowhere yet, with one worker for each core that this process may use,
    /// mode `handoff` and policy `least-loaded`.
    pub fn new() -> Self {
        Self::default()
    }

    /// A cluster that is to run by `settings`.
    pub(crate) fn from_settings(settings: Settings) -> Self {
        let Settings {
            cluster: config,
            application,
            endpoints,
        } = settings;
        let policy = config.arm.policy();
        Self {
            mode: Some(config.arm.mode()),
            policy,
            // Elsewhere it has no say, and says nothing.
            load_signal: (policy == Some(Policy::LeastLoaded)).then_some(config.load_signal),
            config,
            application,
            endpoints,
            ..Self::default()
        }
    }

    /// Asks `source` for the settings anew whenever the master is told to reload.
    pub(crate) fn reload_with(
        mut self,
        source: impl FnMut() -> Result<Settings> + 'static,
    ) -> Self {
        self.hooks.source = Some(Box::new(source));
        self
    }

    /// The file that the settings were read from, for whoever asks for the status.
    pub(crate) fn config_file(mut self, path: Option<PathBuf>) -> Self {
        self.hooks.config_file = path;
        self
    }

    /// What the program keeps beside the cluster, and what of it an upgrade must pass on.
    pub(crate) fn companions(mut self, companions: Option<Rc<dyn Companions>>) -> Self {
        self.hooks.companions = companions;
        self
    }

    /// Listens on `address` too, at most 16 in all: `127.0.0.1:8080`, `[::]:8080`, `localhost:8080`;
    /// port 0 takes any free one. `systemd:NAME` is the listener that was passed under this name by
    /// whoever started the program (sd_listen_fds(3)).
    pub fn listen(mut self, address: impl AsRef<str>) -> Self {
        match listen(address.as_ref()) {
            Ok(listen) => self.config.listen.push(listen),
            Err(error) => _ = self.refused.get_or_insert(error),
        }
        self
    }

    /// Listens on this port of the [`host`](Self::host), of all IPv4 addresses (`0.0.0.0`) if none is given;
    /// 0 takes any free one. It is one more way to say [`listen`](Self::listen), for one address.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Listens on this address or name, IPv4 or IPv6, at the [`port`](Self::port), 80 if none is given.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Has this many processes serve in all: so many workers, or one fewer where the
    /// [master serves](Self::master_listen) too. It replaces [`workers`](Self::workers).
    pub fn nodes(mut self, nodes: u16) -> Self {
        self.nodes = Some(nodes);
        self
    }

    /// Runs this many workers, 1 to 128.
    pub fn workers(mut self, workers: u16) -> Self {
        self.config.workers = Some(workers);
        self
    }

    /// The most workers that there may ever be, at most 128; as many as there are by default. For so
    /// many, listeners are made at the start.
    pub fn max_workers(mut self, workers: u16) -> Self {
        self.config.max_workers = Some(workers);
        self
    }

    /// How connections reach the workers.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Which worker gets a connection, in modes that have a say in it.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// How much of an address the policy `remote-address` looks at.
    pub fn prefixes(mut self, prefixes: Prefixes) -> Self {
        self.config.prefixes = prefixes;
        self
    }

    /// What the policy `least-loaded` goes by; open connections by default.
    pub fn load_signal(mut self, signal: LoadSignal) -> Self {
        self.load_signal = Some(signal);
        self
    }

    /// Asks the policies that are not in force, too, whom they would have picked, and shows in
    /// `/metrics` how even that would have been; on by default. Only in mode `handoff`.
    pub fn shadow(mut self, on: bool) -> Self {
        self.config.shadow = on;
        self
    }

    /// Keeps `workers` workers for clients that are [pinned](Self::pin) to the group `name`; everybody else
    /// goes to those that are in no group, of which there must be one at least. Groups have the first
    /// seats, in the order in which they are given; [`Worker::group`] tells a worker which it is in. Only
    /// in mode `handoff`, where the master chooses for every connection.
    pub fn worker_group(mut self, name: impl AsRef<str>, workers: u16) -> Self {
        match WorkerGroup::new(name.as_ref(), workers) {
            Ok(group) => self.config.pins.groups.push(group),
            Err(error) => _ = self.refused.get_or_insert(Error::usage(error.to_string())),
        }
        self
    }

    /// Sends clients from `network` (`192.0.2.0/24`, `2001:db8::/32`, `192.0.2.1`) to the workers of
    /// `group`, and nowhere else: while none of these is ready they wait, up to 256 of them, and more are
    /// turned away. The longest prefix wins.
    pub fn pin(mut self, network: impl AsRef<str>, group: impl Into<String>) -> Self {
        match network.as_ref().parse::<Network>() {
            Ok(from) => self.config.pins.rules.push(Pin {
                from,
                to: group.into(),
            }),
            Err(error) => _ = self.refused.get_or_insert(Error::usage(error.to_string())),
        }
        self
    }

    /// The master serves too, as one more worker. A fault in the application then takes the master
    /// with it, and all workers after it: for small machines and experiments.
    pub fn master_serves(mut self, serves: bool) -> Self {
        self.config.master_serves = serves;
        self
    }

    /// The same as [`master_serves`](Self::master_serves).
    pub fn master_listen(self, listens: bool) -> Self {
        self.master_serves(listens)
    }

    /// Starts workers that have ended again; on by default. Otherwise the seat of a worker that has
    /// ended, for whatever reason, stays empty (`dead` in `/workers`) until somebody fills it: `ctl
    /// restart`, or an upgrade.
    pub fn restart_children(mut self, restart: bool) -> Self {
        self.config.restart_children = restart;
        self
    }

    /// Binds each worker to a core of its own, in turn.
    pub fn pin_cpus(mut self, pin: bool) -> Self {
        self.config.pin_cpus = pin;
        self
    }

    /// Serves `/metrics`, `/status`, `/workers`, `/healthz` and `/readyz` on `address`.
    pub fn admin(mut self, address: impl AsRef<str>) -> Self {
        match resolve("admin address", address.as_ref()) {
            Ok(address) => self.config.admin = Some(address),
            Err(error) => _ = self.refused.get_or_insert(error),
        }
        self
    }

    /// How long workers may take to finish what is open when the cluster stops; 30 s by default.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.config.drain_timeout = limit;
        self
    }

    /// For how long a worker must be stuck before it gets no new connections; 50 ms by default, at
    /// least 10 ms.
    pub fn hang_after(mut self, limit: Duration) -> Self {
        self.config.hang.after = limit;
        self
    }

    /// For how long a worker must be stuck before it is killed and replaced; 30 s by default.
    pub fn hang_kill(mut self, limit: Duration) -> Self {
        self.config.hang.kill = limit;
        self
    }

    /// The longest pause before a worker that keeps dying is started again; 30 s by default.
    pub fn backoff_limit(mut self, limit: Duration) -> Self {
        self.config.backoff_limit = limit;
        self
    }

    /// Takes commands on a Unix socket at `path`, or nowhere with `None`. By default it is at the
    /// usual place, under a name of its own.
    pub fn control(mut self, path: Option<PathBuf>) -> Self {
        self.config.control = path.map_or(ControlSocket::Off, ControlSocket::At);
        self
    }

    /// Becomes this user, by name or number, once everything is bound.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.config.user = Some(user.into());
        self
    }

    /// Becomes this group, and not the user's own. It takes a [`user`](Self::user), too.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.config.group = Some(group.into());
        self
    }

    /// The limit of open files of every process, at least 64; as many as are allowed by default.
    pub fn nofile(mut self, limit: u64) -> Self {
        self.config.nofile = Some(limit);
        self
    }

    /// What this machine is called on the bus; its host name by default.
    pub fn node(mut self, name: impl Into<String>) -> Self {
        self.config.bus.node = Some(name.into());
        self
    }

    /// How many bytes of messages may wait for one process that is too slow, 256 KiB to 1 GiB; 4 MiB by
    /// default. Then it loses the oldest, or with [`Overflow::Cut`] its place on the bus.
    pub fn bus_queue(mut self, bytes: u64, overflow: Overflow) -> Self {
        self.config.bus.queue = bytes;
        self.config.bus.overflow = match overflow {
            Overflow::Cut => BusOverflow::Cut,
            Overflow::LoseOldest => BusOverflow::LoseOldest,
        };
        self
    }

    /// Meets other masters, so that their processes are on one bus.
    pub fn bus(mut self, options: BusOptions) -> Self {
        self.config.bus.nats = Some(options);
        self
    }

    /// How long clients may take.
    pub fn timeouts(mut self, timeouts: ConnectionTimeouts) -> Self {
        self.config.timeouts = timeouts;
        self
    }

    /// What the application in each worker is to know, in its own words: the master's validated
    /// configuration. Workers read it with [`Worker::application`]. At most about 100 KiB.
    pub fn application(mut self, text: impl Into<String>) -> Self {
        self.application = text.into();
        self
    }

    /// Calls `hook` in the master, once, when all workers are ready.
    pub fn on_ready(mut self, hook: impl FnOnce(&Ready) + 'static) -> Self {
        self.hooks.on_ready = Some(Box::new(hook));
        self
    }

    /// Calls `hook` in the master before it starts any worker, with the [`Master`]'s handle: its place on the
    /// bus, and the way to move connections to workers. A binary that takes the master over in an upgrade calls
    /// its own hook, with workers there already.
    pub fn on_master(mut self, hook: impl FnOnce(Master) + 'static) -> Self {
        self.hooks.on_master.push(Box::new(hook));
        self
    }

    /// Calls `hook` in the master whenever a worker process has been started, which does not say that it
    /// is [ready](Self::on_ready). All hooks are called in the master's control thread, inside a tokio
    /// runtime of one thread: they must not block, and may `spawn_local`. One that panics costs nothing else.
    pub fn on_worker_start(mut self, hook: impl FnMut(&WorkerProcess) + 'static) -> Self {
        self.hooks.workers.start.push(Box::new(hook));
        self
    }

    /// Calls `hook` in the master, after [`on_worker_start`](Self::on_worker_start), whenever the process
    /// that has been started is not the first in its seat: one before it has ended, or is to be replaced.
    pub fn on_worker_restart(mut self, hook: impl FnMut(&WorkerProcess) + 'static) -> Self {
        self.hooks.workers.restart.push(Box::new(hook));
        self
    }

    /// Calls `hook` in the master whenever a worker process has ended, with its exit code
    /// ([`Departure::Exit`]) or the signal that ended it ([`Departure::Signal`]).
    pub fn on_worker_stop(mut self, hook: impl FnMut(&WorkerProcess, Departure) + 'static) -> Self {
        self.hooks.workers.stop.push(Box::new(hook));
        self
    }

    /// Is this process the master, or going to be? False in a worker: [`serve`](Self::serve) hosts the
    /// application there.
    pub fn is_master(&self) -> bool {
        !is_worker()
    }

    /// In the master: starts the workers and runs until SIGTERM or SIGINT, then drains. In a worker:
    /// hosts what `factory` makes until the master says to drain. Returns when that is done.
    ///
    /// Signals are the cluster's from this call on. It must be called on the main thread and once.
    ///
    /// # Errors
    /// What was asked for cannot be, or an address cannot be had, or no worker can start; in a
    /// worker, what it was born with is broken.
    pub fn serve<F, Fut, A>(self, factory: F) -> Result<()>
    where
        F: FnOnce(Worker) -> Fut + Send + 'static,
        Fut: Future<Output = A> + 'static,
        A: Application,
    {
        self.run(worker::http(factory))
    }

    /// As [`serve`](Self::serve), for any protocol on TCP: `handler` gets every connection as it was
    /// accepted, in whatever mode, and has it until it drops it.
    ///
    /// What `handler` returns is dropped, a `Result` too: whatever goes wrong with a connection ends it alone,
    /// a panic included.
    ///
    /// ```no_run
    /// use pointsman::{Cluster, Conn};
    /// use tokio::io::{copy, split};
    ///
    /// async fn echo(conn: Conn) -> std::io::Result<u64> {
    ///     let (mut reader, mut writer) = split(conn);
    ///     copy(&mut reader, &mut writer).await
    /// }
    ///
    /// fn main() -> pointsman::Result<()> {
    ///     Cluster::new().listen("127.0.0.1:7000").serve_connections(echo)
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_connections<H, Served>(self, handler: H) -> Result<()>
    where
        H: Fn(Conn) -> Served + Send + 'static,
        Served: Future + 'static,
    {
        self.serve_connections_with(|_| async { handler })
    }

    /// As [`serve_connections`](Self::serve_connections), where a worker has something to get ready first:
    /// `factory` makes its handler, and no connection comes before it has.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_connections_with<F, Fut, H, Served>(self, factory: F) -> Result<()>
    where
        F: FnOnce(Worker) -> Fut + Send + 'static,
        Fut: Future<Output = H> + 'static,
        H: Fn(Conn) -> Served + 'static,
        Served: Future + 'static,
    {
        self.run(worker::raw(factory))
    }

    /// Is the master, or becomes a worker that hosts what `factory` makes.
    fn run<F, Fut, P>(self, factory: F) -> Result<()>
    where
        F: FnOnce(Worker) -> Fut + Send + 'static,
        Fut: Future<Output = P> + 'static,
        P: Protocol,
    {
        let channel = inherited_channel()
            .map_err(|error| Error::runtime("cannot tell whether this is a worker", error))?;
        match channel {
            Some(line) => worker::main(line, factory, master::examine),
            None if is_resuming() => master::resume(self.hooks),
            None => master::run(self.plan()?, master::serve_here(factory)),
        }
    }

    fn plan(self) -> Result<Plan> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let (arm, load_signal) = config::dispatch(self.mode, self.policy, self.load_signal)?;
        let mut cluster = ClusterConfig {
            arm,
            load_signal,
            ..self.config
        };
        if self.host.is_some() || self.port.is_some() {
            let host = self.host.as_deref().unwrap_or("0.0.0.0");
            cluster.listen.push(at(host, self.port.unwrap_or(80))?);
        }
        if let Some(nodes) = self.nodes {
            cluster.workers = Some(workers_of(nodes, &cluster)?);
        }
        Ok(Plan {
            settings: Settings {
                cluster,
                application: self.application,
                endpoints: self.endpoints,
            },
            hooks: self.hooks,
        })
    }
}

/// Is this process a worker that a cluster has started? True before [`Cluster::serve`] as well, for
/// programs whose flags only the master should look at.
pub fn is_worker() -> bool {
    is_born_with_channel()
}

/// Is this process a master that another binary has just been? Then [`Cluster::serve`] goes on with the
/// configuration that it had.
pub(crate) fn is_resuming() -> bool {
    has_luggage()
}

/// Where to listen, in two words.
fn at(host: &str, port: u16) -> Result<Listen> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(Listen::Address(SocketAddr::new(address, port))),
        Err(_) => resolve("host", &format!("{host}:{port}")).map(Listen::Address),
    }
}

/// How many of `nodes` are workers.
fn workers_of(nodes: u16, cluster: &ClusterConfig) -> Result<u16> {
    if cluster.workers.is_some() {
        return Err(Error::usage(
            "nodes and workers both say how many there are: give one of them",
        ));
    }
    let masters = u16::from(cluster.master_serves);
    nodes.checked_sub(masters).filter(|n| *n > 0).ok_or_else(|| {
        Error::usage(match masters {
            0 => "nodes 0: it takes at least 1".into(),
            _ => format!(
                "nodes {nodes}: the master is one of them, and it takes at least 1 worker besides (nodes 2)"
            ),
        })
    })
}

/// Reads where to listen.
///
/// # Errors
/// A usage error that names it.
pub(crate) fn listen(text: &str) -> Result<Listen> {
    match text.strip_prefix("systemd:") {
        // As sd_listen_fds_with_names(3) has it: names are joined by colons.
        Some(name) if name.is_empty() || name.contains(':') => Err(Error::usage(format!(
            "listen address '{text}': a name is missing (systemd:web, as FileDescriptorName= has it)"
        ))),
        Some(name) => Ok(Listen::Passed(name.into())),
        None => resolve("listen address", text).map(Listen::Address),
    }
}

/// Finds the address that `text` stands for; `what` it is, the error says.
///
/// # Errors
/// A usage error that names it.
pub(crate) fn resolve(what: &str, text: &str) -> Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if !text.contains(':') {
        return Err(Error::usage(format!(
            "{what} '{text}': a port is missing (127.0.0.1:8080)"
        )));
    }
    let mut found = text.to_socket_addrs().map_err(|error| {
        Error::usage(format!(
            "{what} '{text}': {}",
            crate::error::describe(&error)
        ))
    })?;
    found
        .next()
        .ok_or_else(|| Error::usage(format!("{what} '{text}' stands for no address")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arm;

    #[test]
    fn settings_become_a_plan_as_they_are() {
        for arm in Arm::ALL {
            let busy = arm.policy() == Some(Policy::LeastLoaded);
            let settings = Settings {
                cluster: ClusterConfig {
                    listen: vec![Listen::Passed("web".into())],
                    arm,
                    load_signal: if busy {
                        LoadSignal::Busy
                    } else {
                        LoadSignal::default()
                    },
                    max_workers: Some(9),
                    ..ClusterConfig::default()
                },
                application: "text".into(),
                endpoints: vec!["a:1".into()],
            };
            let plan = Cluster::from_settings(settings.clone())
                .config_file(Some("f".into()))
                .plan()
                .expect("valid");
            assert_eq!(plan.settings, settings);
            assert_eq!(plan.hooks.config_file, Some("f".into()));
        }
    }

    #[test]
    fn groups_and_pins_are_part_of_the_plan_or_refused() {
        let cluster = || Cluster::new().listen("systemd:web").workers(3);
        let good = cluster()
            .pin("192.0.2.0/24", "special")
            .worker_group("special", 2);
        let plan = good.plan().expect("valid");
        assert!(plan.settings.cluster.check().is_ok());
        assert_eq!(
            plan.settings.cluster.group_of(1).as_deref(),
            Some("special")
        );
        assert_eq!(plan.settings.cluster.group_of(2), None);
        for (bad, culprit) in [
            (cluster().worker_group("a b", 1), "'a b'"),
            (cluster().worker_group("none", 0), "'none'"),
            (cluster().pin("192.0.2.1/24", "special"), "192.0.2.1/24"),
        ] {
            let error = bad.plan().err().expect(culprit).to_string();
            assert!(error.contains(culprit), "{error}");
        }
    }

    #[test]
    fn a_signal_that_has_no_say_is_still_refused() {
        let cluster = Cluster::new()
            .listen("systemd:web")
            .mode(Mode::Shared)
            .load_signal(LoadSignal::Busy);
        let error = cluster.plan().err().expect("no say").to_string();
        assert!(
            error.contains("'busy'") && error.contains("shared"),
            "{error}"
        );
        let error = Cluster::new()
            .listen("systemd:")
            .plan()
            .err()
            .expect("no name");
        assert!(error.to_string().contains("'systemd:'"), "{error}");
    }
}
