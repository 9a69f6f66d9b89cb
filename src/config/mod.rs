//! What was written, and the validated plain data that it means.
//!
//! Everything here is checked once, by the master, and then sent to the workers as it is: a worker
//! never reads a flag or a file.

mod bus;
mod endpoint;
mod nats;
mod pins;
mod refusal;
mod reload;

use std::{
    net::SocketAddr, num::NonZeroU16, os::unix::ffi::OsStrExt, path::PathBuf, time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::{
    bus::{BusConfig, BusOverflow},
    endpoint::{Address, Endpoint},
    nats::{BusOptions, USUAL_PREFIX},
    refusal::Refusal,
};
use crate::{
    dispatch::{
        load::LoadSignal,
        mode::{Arm, Mode},
        pins::Pins,
        policy::{Policy, Prefixes},
    },
    error::{Error, Result},
    scoreboard::{MAX_ENDPOINTS, MAX_LISTENERS, MAX_WORKERS},
};

/// All that a master runs by: what a reload reads anew, and an upgrade passes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What the cluster is to be.
    pub cluster: ClusterConfig,
    /// What the application asked for, in its own words.
    pub application: String,
    /// The names under which its upstream endpoints are counted, in its own order.
    pub endpoints: Vec<String>,
}

/// Where a listener comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listen {
    /// Bound by us; port 0 takes any free one.
    Address(SocketAddr),
    /// Passed by whoever started us (`LISTEN_FDS`, sd_listen_fds(3)), by its name.
    Passed(String),
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Passed(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// Where the control socket is.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlSocket {
    /// At the usual place, under a name of its own for each master.
    #[default]
    Usual,
    /// There.
    At(PathBuf),
    /// Nowhere.
    Off,
}

/// What a cluster is to be, checked by [`validate`](Self::validate).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// Nobody said where to listen, and whoever started us passed listeners: all of those it is.
    /// [`listen`](Self::listen) is empty then.
    pub listen_passed: bool,
    /// Worker processes; `None`: one for each core that this process may use.
    pub workers: Option<u16>,
    /// The most workers that there may ever be: listeners for so many are made at the start, while
    /// there are privileges to make them. `None`: as many as there are workers.
    pub max_workers: Option<u16>,
    /// How connections reach them.
    pub arm: Arm,
    /// How much of an address the policy `remote-address` looks at.
    pub prefixes: Prefixes,
    /// What the policy `least-loaded` goes by.
    pub load_signal: LoadSignal,
    /// Are shadow policies asked about every connection?
    pub shadow: bool,
    /// Worker groups, and the clients that are pinned to them.
    #[serde(default)]
    pub pins: Pins,
    /// Does the master serve too, as one more worker?
    pub master_serves: bool,
    /// Is each worker bound to a core of its own?
    pub pin_cpus: bool,
    /// Where `/metrics`, `/healthz`, `/readyz` and `/workers` are served; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// How long workers may take to finish what is open when the cluster stops.
    pub drain_timeout: Duration,
    /// How long a connection may stay idle, and how long a request's head may take.
    pub timeouts: ConnectionTimeouts,
    /// How a worker that is stuck is told from one that is busy, and what becomes of it.
    pub hang: HangLimits,
    /// The longest pause before a worker that keeps dying is started again.
    pub backoff_limit: Duration,
    /// Are workers that have ended started again at all?
    #[serde(default = "yes")]
    pub restart_children: bool,
    /// Where commands are taken.
    pub control: ControlSocket,
    /// The user to become once everything is bound.
    pub user: Option<String>,
    /// The group to become; `None`: the user's own.
    pub group: Option<String>,
    /// The limit of open files of every process; `None`: as many as are allowed.
    pub nofile: Option<u64>,
    /// What the bus is to be.
    #[serde(default)]
    pub bus: BusConfig,
}

/// What older binaries mean that do not say.
fn yes() -> bool {
    true
}

/// When a worker counts as stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HangLimits {
    /// For how long it must not have moved, though it could, before it gets nothing new.
    pub after: Duration,
    /// For how long before it is killed and replaced.
    pub kill: Duration,
}

impl Default for HangLimits {
    fn default() -> Self {
        Self {
            after: Duration::from_millis(50),
            kill: Duration::from_secs(30),
        }
    }
}

/// How long a client may take. Start from the default and set what you want otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConnectionTimeouts {
    /// Between requests, before the connection is closed.
    pub idle: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// While a request is under way: between two pieces of its body, or of its response taken.
    pub stall: Duration,
}

impl Default for ConnectionTimeouts {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            head: Duration::from_secs(10),
            stall: Duration::from_secs(30),
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            listen_passed: false,
            workers: None,
            arm: Arm::ALL[1],
            prefixes: Prefixes::default(),
            load_signal: LoadSignal::default(),
            shadow: true,
            pins: Pins::default(),
            master_serves: false,
            pin_cpus: false,
            admin: None,
            drain_timeout: Duration::from_secs(30),
            timeouts: ConnectionTimeouts::default(),
            max_workers: None,
            hang: HangLimits::default(),
            backoff_limit: Duration::from_secs(30),
            restart_children: true,
            control: ControlSocket::default(),
            user: None,
            group: None,
            nofile: None,
            bus: BusConfig::default(),
        }
    }
}

impl ClusterConfig {
    /// The user to become, found in this machine's database.
    pub fn identity(&self) -> Result<Option<crate::sys::privileges::Identity>> {
        let found = self
            .user
            .as_deref()
            .map(|user| crate::sys::privileges::look_up(user, self.group.as_deref()));
        found.transpose().map_err(|e| Error::usage(e.to_string()))
    }

    /// Checks everything that can be checked without touching the machine and fills in what was
    /// left open. Returns the number of workers.
    ///
    /// # Errors
    /// A usage error that names the culprit.
    pub fn validate(&self) -> Result<NonZeroU16> {
        Ok(self.check()?)
    }

    /// As [`validate`](Self::validate), and says which setting is to blame.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn check(&self) -> Result<NonZeroU16, Refusal> {
        self.check_listen()?;
        let workers = self.check_workers()?;
        self.check_pins(workers.get())?;
        self.check_limits()?;
        self.check_names()?;
        self.bus.check()?;
        Ok(workers)
    }

    fn check_listen(&self) -> Result<(), Refusal> {
        if self.listen.is_empty() && !self.listen_passed {
            return Err(Refusal::new(
                &["listen"],
                "nothing to listen on: give at least one address (--listen 127.0.0.1:8080)",
            ));
        }
        if self.listen.len() > MAX_LISTENERS {
            return Err(Refusal::of(
                &["listen"],
                MAX_LISTENERS,
                format!(
                    "{} addresses to listen on: at most {MAX_LISTENERS} are possible",
                    self.listen.len()
                ),
            ));
        }
        for (i, address) in self.listen.iter().enumerate() {
            let any_port = matches!(address, Listen::Address(a) if a.port() == 0);
            if !any_port && self.listen[..i].contains(address) {
                return Err(Refusal::of(
                    &["listen"],
                    i,
                    format!("{address} is to be listened on twice"),
                ));
            }
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<NonZeroU16, Refusal> {
        let workers = self.workers.unwrap_or_else(usable_cores);
        let Some(workers) =
            NonZeroU16::new(workers).filter(|n| usize::from(n.get()) <= MAX_WORKERS)
        else {
            return Err(Refusal::new(
                &["workers"],
                format!("{workers} workers: it takes 1 to {MAX_WORKERS}"),
            ));
        };
        let refused = |message| Err(Refusal::new(&["max-workers", "workers"], message));
        match self.max_workers {
            Some(most) if usize::from(most) > MAX_WORKERS => refused(format!(
                "max-workers {most}: at most {MAX_WORKERS} are possible"
            )),
            Some(most) if most < workers.get() => refused(format!(
                "max-workers {most} is below the number of workers, {workers}"
            )),
            _ => Ok(workers),
        }
    }

    fn check_limits(&self) -> Result<(), Refusal> {
        let HangLimits { after, kill } = self.hang;
        if after < SHORTEST_HANG {
            return Err(Refusal::new(
                &["hang-after"],
                format!(
                    "hang-after {} s: less than {} s would take busy workers for stuck ones",
                    after.as_secs_f64(),
                    SHORTEST_HANG.as_secs_f64()
                ),
            ));
        }
        if kill <= after {
            return Err(Refusal::new(
                &["hang-kill", "hang-after"],
                format!(
                    "hang-kill {} s is not above hang-after, {} s",
                    kill.as_secs_f64(),
                    after.as_secs_f64()
                ),
            ));
        }
        match self.nofile {
            Some(limit) if limit < FEWEST_FILES => Err(Refusal::new(
                &["nofile"],
                format!("nofile {limit}: it takes at least {FEWEST_FILES}"),
            )),
            _ => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), Refusal> {
        if let ControlSocket::At(path) = &self.control {
            // sockaddr_un holds 108 bytes, the last one zero.
            match path.as_os_str().as_bytes() {
                [] => {
                    return Err(Refusal::new(
                        &["control"],
                        "control: a path is missing, or 'off'",
                    ));
                }
                [_, rest @ ..] if rest.len() > 106 => {
                    return Err(Refusal::new(
                        &["control"],
                        format!(
                            "control '{}': the path of a Unix socket has at most 107 bytes",
                            path.display()
                        ),
                    ));
                }
                _ => {}
            }
        }
        if self.user.as_deref() == Some("") {
            return Err(Refusal::new(&["user"], "user: a name is missing"));
        }
        match (&self.user, self.group.as_deref()) {
            (_, Some("")) => Err(Refusal::new(&["group"], "group: a name is missing")),
            (None, Some(group)) => Err(Refusal::new(
                &["group"],
                format!("group '{group}' without a user: say which user to become, too"),
            )),
            _ => Ok(()),
        }
    }
}

/// Shorter, and the clock's ticks and other processes would make workers look stuck.
const SHORTEST_HANG: Duration = Duration::from_millis(10);

/// With less than this no process of ours could start.
const FEWEST_FILES: u64 = 64;

/// Puts together how to dispatch: what is left open is `handoff` and `least-loaded`, by open
/// connections.
///
/// # Errors
/// A policy or a load signal was given that nobody would consult.
pub fn dispatch(
    mode: Option<Mode>,
    policy: Option<Policy>,
    signal: Option<LoadSignal>,
) -> Result<(Arm, LoadSignal), Refusal> {
    let arm = Arm::new(mode.unwrap_or(Mode::Handoff), policy)
        .map_err(|error| Refusal::new(&["policy", "mode"], error.to_string()))?;
    match (signal, arm.policy()) {
        (None, _) => Ok((arm, LoadSignal::default())),
        (Some(signal), Some(Policy::LeastLoaded)) => Ok((arm, signal)),
        (Some(signal), _) => Err(Refusal::new(
            &["load-signal", "policy", "mode"],
            format!(
                "load signal '{signal}' has no say in {arm}: only the policy 'least-loaded' goes by it"
            ),
        )),
    }
}

/// The cores that this process may use: its affinity and its control group's quota respected.
pub fn usable_cores() -> u16 {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS) as u16)
}

/// What the built-in reverse proxy is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProxyConfig {
    /// Where requests go.
    pub endpoints: Vec<Endpoint>,
    /// How long an endpoint may take.
    pub timeouts: UpstreamTimeouts,
    /// Idle connections that one worker keeps to one endpoint.
    pub idle_connections: usize,
    /// Are interim responses (1xx other than 100 and 101) passed on to clients?
    pub interim_responses: bool,
}

/// How long an upstream endpoint may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamTimeouts {
    /// To accept a connection.
    pub connect: Duration,
    /// From the request sent to the head of the response.
    pub first_byte: Duration,
    /// Between two pieces of a response's body.
    pub body_idle: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// How long a tunnel may carry nothing.
    pub tunnel_idle: Duration,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            body_idle: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
        }
    }
}

impl ProxyConfig {
    /// A configuration with the usual limits.
    ///
    /// # Errors
    /// No endpoint, more than can be counted, or one twice.
    pub fn new(endpoints: Vec<Endpoint>) -> Result<Self, Refusal> {
        if endpoints.is_empty() {
            return Err(Refusal::new(
                &["upstream"],
                "no upstream: say where requests go (--upstream http://127.0.0.1:3000), or try --demo",
            ));
        }
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(Refusal::of(
                &["upstream"],
                MAX_ENDPOINTS,
                format!(
                    "{} upstream endpoints: at most {MAX_ENDPOINTS} are possible",
                    endpoints.len()
                ),
            ));
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            if endpoints[..i].contains(endpoint) {
                return Err(Refusal::of(
                    &["upstream"],
                    i,
                    format!("upstream {endpoint} is given twice"),
                ));
            }
        }
        Ok(Self {
            endpoints,
            timeouts: UpstreamTimeouts::default(),
            idle_connections: 256,
            interim_responses: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &[&str], workers: u16) -> ClusterConfig {
        let listen = listen
            .iter()
            .map(|a| Listen::Address(a.parse().expect("address")))
            .collect();
        ClusterConfig {
            listen,
            workers: Some(workers),
            ..ClusterConfig::default()
        }
    }

    #[test]
    fn each_mistake_is_refused_with_its_culprit() {
        let refused = |c: ClusterConfig, culprit: &str| {
            let error = c.validate().expect_err(culprit);
            assert!(
                error.is_usage() && error.to_string().contains(culprit),
                "{error}"
            );
        };
        refused(config(&[], 1), "--listen");
        refused(config(&["127.0.0.1:80", "127.0.0.1:80"], 1), "127.0.0.1:80");
        refused(config(&["127.0.0.1:0"; 17], 1), "17 addresses");
        refused(config(&["127.0.0.1:0"], 0), "0 workers");
        refused(config(&["127.0.0.1:0"], 129), "129 workers");
        let with = |change: fn(&mut ClusterConfig)| {
            let mut config = config(&["127.0.0.1:0"], 4);
            change(&mut config);
            config
        };
        refused(with(|c| c.max_workers = Some(3)), "max-workers 3");
        refused(with(|c| c.max_workers = Some(129)), "max-workers 129");
        refused(
            with(|c| c.hang.after = Duration::from_millis(9)),
            "hang-after 0.009 s",
        );
        refused(with(|c| c.hang.kill = c.hang.after), "hang-kill 0.05 s");
        refused(with(|c| c.nofile = Some(63)), "nofile 63");
        refused(with(|c| c.group = Some("www".into())), "group 'www'");
        refused(with(|c| c.user = Some(String::new())), "user");
        let long = |c: &mut ClusterConfig| {
            c.control = ControlSocket::At(format!("/{}", "x".repeat(107)).into());
        };
        refused(with(long), "107 bytes");
        refused(
            with(|c| c.listen = vec![Listen::Passed("web".into()); 2]),
            "systemd:web",
        );
        assert!(ProxyConfig::new(vec![]).is_err());
        let twice = vec!["http://a:1".parse().expect("valid"); 2];
        assert!(
            ProxyConfig::new(twice)
                .expect_err("twice")
                .to_string()
                .contains("a:1")
        );
    }

    #[test]
    fn what_stands_at_a_limit_is_accepted() {
        let config = ClusterConfig {
            max_workers: Some(4),
            hang: HangLimits {
                after: Duration::from_millis(10),
                kill: Duration::from_millis(11),
            },
            nofile: Some(64),
            user: Some("www".into()),
            group: Some("www".into()),
            control: ControlSocket::At(format!("/{}", "x".repeat(106)).into()),
            ..config(&["127.0.0.1:0"], 4)
        };
        assert_eq!(config.validate().expect("valid").get(), 4);
        let passed = ClusterConfig {
            listen: Vec::new(),
            listen_passed: true,
            ..config
        };
        assert_eq!(passed.validate().expect("valid").get(), 4);
    }

    #[test]
    fn a_policy_or_signal_that_nobody_would_consult_is_refused() {
        let (arm, signal) = dispatch(None, None, None).expect("the usual");
        assert_eq!(arm.to_string(), "handoff/least-loaded");
        assert_eq!(signal, LoadSignal::Connections);
        let error = dispatch(Some(Mode::Shared), Some(Policy::RoundRobin), None);
        assert_eq!(error.expect_err("no say").settings[0], "policy");
        for (mode, policy) in [
            (Mode::Shared, None),
            (Mode::Handoff, Some(Policy::RoundRobin)),
        ] {
            let error = dispatch(Some(mode), policy, Some(LoadSignal::Busy));
            assert_eq!(error.expect_err("no say").settings[0], "load-signal");
        }
        assert!(dispatch(Some(Mode::Hybrid), None, Some(LoadSignal::Busy)).is_ok());
    }

    #[test]
    fn settings_survive_being_written_and_read() {
        let settings = Settings {
            cluster: ClusterConfig {
                listen: vec![
                    Listen::Address("[::1]:80".parse().expect("address")),
                    Listen::Passed("web".into()),
                ],
                listen_passed: false,
                workers: Some(3),
                max_workers: Some(9),
                arm: Arm::new(Mode::Hybrid, Some(Policy::RemoteAddress)).expect("valid"),
                prefixes: Prefixes::new(24, 48).expect("valid"),
                load_signal: LoadSignal::Busy,
                shadow: false,
                pins: Pins {
                    groups: vec!["special=2".parse().expect("a group")],
                    rules: vec!["2001:db8::/32=special".parse().expect("a pin")],
                },
                master_serves: true,
                restart_children: false,
                pin_cpus: true,
                admin: Some("127.0.0.1:9900".parse().expect("address")),
                drain_timeout: Duration::from_millis(1500),
                timeouts: ConnectionTimeouts {
                    idle: Duration::from_secs(1),
                    head: Duration::from_secs(2),
                    stall: Duration::from_nanos(3),
                },
                hang: HangLimits {
                    after: Duration::from_millis(20),
                    kill: Duration::from_secs(4),
                },
                backoff_limit: Duration::from_secs(5),
                control: ControlSocket::At("/run/p.sock".into()),
                user: Some("www".into()),
                group: Some("www-data".into()),
                nofile: Some(1024),
                bus: BusConfig {
                    node: Some("web-1".into()),
                    queue: 1024 * 1024,
                    overflow: BusOverflow::Cut,
                    nats: Some(BusOptions::nats("nats://a").token_file("/t")),
                },
            },
            application: "{\"a\": 1}".into(),
            endpoints: vec!["unix:/run/app.sock".into()],
        };
        let text = serde_json::to_string(&settings).expect("plain data");
        let read: Settings = serde_json::from_str(&text).expect("as written");
        assert_eq!(read, settings);
        for control in [ControlSocket::Usual, ControlSocket::Off] {
            let mut settings = settings.clone();
            settings.cluster.control = control;
            let text = serde_json::to_string(&settings).expect("plain data");
            let read: Settings = serde_json::from_str(&text).expect("as written");
            assert_eq!(read, settings);
        }
    }

    #[test]
    fn what_is_left_open_is_filled_in() {
        let open = ClusterConfig {
            workers: None,
            ..config(&["127.0.0.1:0", "127.0.0.1:0"], 1)
        };
        assert_eq!(open.validate().expect("valid").get(), usable_cores());
    }
}
