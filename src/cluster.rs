//! The public door: one program, run again for each worker.

use std::{
    future::Future,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use crate::{
    config::{ClusterConfig, ConnectionTimeouts, Listen},
    dispatch::{
        load::LoadSignal,
        mode::{Arm, Mode},
        policy::{Policy, Prefixes},
    },
    error::{Error, Result},
    master::{self, OnReady, Plan, Ready},
    sys::child::{inherited_channel, is_born_with_channel},
    worker::{self, Application, Worker},
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
    on_ready: Option<OnReady>,
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

    /// Listens on `address` too, at most 8 in all: `127.0.0.1:8080`, `[::]:8080`, `localhost:8080`;
    /// port 0 takes any free one.
    pub fn listen(mut self, address: impl AsRef<str>) -> Self {
        match resolve("listen address", address.as_ref()) {
            Ok(address) => self.config.listen.push(Listen::Address(address)),
            Err(error) => _ = self.refused.get_or_insert(error),
        }
        self
    }

    /// Runs this many workers, 1 to 128.
    pub fn workers(mut self, workers: u16) -> Self {
        self.config.workers = Some(workers);
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

    /// The master serves too, as one more worker. A fault in the application then takes the master
    /// with it, and all workers after it: for small machines and experiments.
    pub fn master_serves(mut self, serves: bool) -> Self {
        self.config.master_serves = serves;
        self
    }

    /// Binds each worker to a core of its own, in turn.
    pub fn pin_cpus(mut self, pin: bool) -> Self {
        self.config.pin_cpus = pin;
        self
    }

    /// Serves `/metrics`, `/workers`, `/healthz` and `/readyz` on `address`.
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

    /// The names under which the built-in proxy's endpoints are counted.
    pub(crate) fn endpoints(mut self, names: Vec<String>) -> Self {
        self.endpoints = names;
        self
    }

    /// Calls `hook` in the master, once, when all workers are ready.
    pub fn on_ready(mut self, hook: impl FnOnce(&Ready) + 'static) -> Self {
        self.on_ready = Some(Box::new(hook));
        self
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
        let channel = inherited_channel()
            .map_err(|error| Error::runtime("cannot tell whether this is a worker", error))?;
        match channel {
            Some(line) => worker::main(line, factory),
            None => master::run(self.plan()?, master::serve_here(factory)),
        }
    }

    fn plan(self) -> Result<Plan> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let arm = Arm::new(self.mode.unwrap_or(Mode::Handoff), self.policy)
            .map_err(|error| Error::usage(error.to_string()))?;
        let load_signal = match (self.load_signal, arm.policy()) {
            (None, _) => LoadSignal::default(),
            (Some(signal), Some(Policy::LeastLoaded)) => signal,
            (Some(signal), _) => {
                return Err(Error::usage(format!(
                    "load signal '{signal}' has no say in {arm}: only the policy 'least-loaded' goes by it"
                )));
            }
        };
        let config = ClusterConfig {
            arm,
            load_signal,
            ..self.config
        };
        Ok(Plan {
            config,
            application: self.application,
            endpoints: self.endpoints,
            on_ready: self.on_ready,
        })
    }
}

/// Is this process a worker that a cluster has started? True before [`Cluster::serve`] as well, for
/// programs whose flags only the master should look at.
pub fn is_worker() -> bool {
    is_born_with_channel()
}

fn resolve(what: &str, text: &str) -> Result<SocketAddr> {
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
