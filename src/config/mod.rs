//! What was written, and the validated plain data that it means.
//!
//! Everything here is checked once, by the master, and then sent to the workers as it is: a worker
//! never reads a flag or a file.

mod endpoint;

use std::{net::SocketAddr, num::NonZeroU16, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::endpoint::{Address, Endpoint};
use crate::{
    dispatch::{load::LoadSignal, mode::Arm, policy::Prefixes},
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
    /// Where commands are taken.
    pub control: ControlSocket,
    /// The user to become once everything is bound.
    pub user: Option<String>,
    /// The group to become; `None`: the user's own.
    pub group: Option<String>,
    /// The limit of open files of every process; `None`: as many as are allowed.
    pub nofile: Option<u64>,
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
            workers: None,
            arm: Arm::ALL[1],
            prefixes: Prefixes::default(),
            load_signal: LoadSignal::default(),
            master_serves: false,
            pin_cpus: false,
            admin: None,
            drain_timeout: Duration::from_secs(30),
            timeouts: ConnectionTimeouts::default(),
            max_workers: None,
            hang: HangLimits::default(),
            backoff_limit: Duration::from_secs(30),
            control: ControlSocket::default(),
            user: None,
            group: None,
            nofile: None,
        }
    }
}

impl ClusterConfig {
    /// Checks everything that can be checked without touching the machine and fills in what was
    /// left open. Returns the number of workers.
    ///
    /// # Errors
    /// A usage error that names the culprit.
    pub fn validate(&self) -> Result<NonZeroU16> {
        if self.listen.is_empty() {
            return Err(Error::usage(
                "nothing to listen on: give at least one address (--listen 127.0.0.1:8080)",
            ));
        }
        if self.listen.len() > MAX_LISTENERS {
            return Err(Error::usage(format!(
                "{} addresses to listen on: at most {MAX_LISTENERS} are possible",
                self.listen.len()
            )));
        }
        for (i, address) in self.listen.iter().enumerate() {
            let any_port = matches!(address, Listen::Address(a) if a.port() == 0);
            if !any_port && self.listen[..i].contains(address) {
                return Err(Error::usage(format!(
                    "{address} is to be listened on twice"
                )));
            }
        }
        let workers = self.workers.unwrap_or_else(usable_cores);
        NonZeroU16::new(workers)
            .filter(|n| usize::from(n.get()) <= MAX_WORKERS)
            .ok_or_else(|| Error::usage(format!("{workers} workers: it takes 1 to {MAX_WORKERS}")))
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
    pub fn new(endpoints: Vec<Endpoint>) -> Result<Self> {
        if endpoints.is_empty() {
            return Err(Error::usage(
                "no upstream: say where requests go (--upstream http://127.0.0.1:3000), or try --demo",
            ));
        }
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(Error::usage(format!(
                "{} upstream endpoints: at most {MAX_ENDPOINTS} are possible",
                endpoints.len()
            )));
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            if endpoints[..i].contains(endpoint) {
                return Err(Error::usage(format!("upstream {endpoint} is given twice")));
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
        refused(config(&["127.0.0.1:0"; 9], 1), "9 addresses");
        refused(config(&["127.0.0.1:0"], 0), "0 workers");
        refused(config(&["127.0.0.1:0"], 129), "129 workers");
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
    fn what_is_left_open_is_filled_in() {
        let open = ClusterConfig {
            workers: None,
            ..config(&["127.0.0.1:0", "127.0.0.1:0"], 1)
        };
        assert_eq!(open.validate().expect("valid").get(), usable_cores());
    }
}
