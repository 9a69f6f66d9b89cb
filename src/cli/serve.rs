//! `pointsman serve`: the reverse proxy.

use std::{fmt::Write as _, time::Duration};

use clap::Args;

use super::demo::DemoUpstreams;
use crate::{
    Cluster, Mode, Policy, Prefixes, Ready,
    config::{ConnectionTimeouts, Endpoint, ProxyConfig, UpstreamTimeouts, usable_cores},
    error::{Error, Result},
    is_worker,
    proxy::Proxy,
    scoreboard::MAX_WORKERS,
};

/// Run the reverse proxy: accept HTTP connections, dispatch them to worker processes, forward their
/// requests to the upstreams.
#[derive(Debug, Args)]
#[command(after_help = "\
Modes, and when to use which:
  handoff    The master accepts and hands each connection to the worker that the policy picks.
             Even load and full control; costs a few microseconds per connection. The default.
  hybrid     As handoff, but a worker whose load is at or below the mean also takes connections
             by itself, which spares them the hand-over.
  shared     Workers take connections from one listener, whoever has waited longest first.
  reuseport  Each worker has its own listener and a hash in the kernel chooses. The cheapest per
             connection, and the least even: for many short connections.

Policies, for handoff and hybrid:
  least-loaded    The worker with the fewest open connections. The default.
  round-robin     Each worker in turn, exactly.
  remote-address  The same client address always to the same worker.

Signals:
  SIGTERM, SIGINT  Take what has arrived, listen no more, finish what is open, exit 0.
                   A second one ends at once.

Examples:
  pointsman serve --demo
  pointsman serve --listen 0.0.0.0:8080 --upstream http://127.0.0.1:3000
  pointsman serve --listen 127.0.0.1:8080 --upstream http://127.0.0.1:3000 \\
      --upstream unix:/run/app.sock --workers 4 --mode handoff --policy least-loaded \\
      --admin 127.0.0.1:9900")]
pub(super) struct Serve {
    /// Address to listen on; repeat for several (at most 8). Port 0 takes any free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: Vec<String>,

    /// Where requests go: http://HOST:PORT or unix:/PATH; repeat for several, which then take turns.
    #[arg(long, value_name = "URL", conflicts_with = "demo")]
    upstream: Vec<String>,

    /// Start demo upstreams beside the proxy and say what to try.
    #[arg(long)]
    demo: bool,

    /// Worker processes, 1 to 128 [default: the cores that this process may use].
    #[arg(long, value_name = "N")]
    workers: Option<u64>,

    /// How connections reach the workers: handoff, hybrid, shared or reuseport.
    #[arg(long, value_name = "MODE", default_value = "handoff")]
    mode: String,

    /// Which worker gets a connection: round-robin, least-loaded or remote-address
    /// [default: least-loaded in handoff and hybrid; the other modes take none].
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,

    /// What least-loaded goes by: connections (open), requests (in flight) or busy (share of the
    /// worker's time) [default: connections].
    #[arg(long, value_name = "SIGNAL")]
    load_signal: Option<String>,

    /// The part of an IPv4 address that remote-address looks at.
    #[arg(long, value_name = "BITS", default_value_t = 32)]
    remote_prefix_v4: u8,

    /// The part of an IPv6 address that remote-address looks at.
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    remote_prefix_v6: u8,

    /// Where /metrics, /workers, /healthz and /readyz are served, or "off".
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9900")]
    admin: String,

    /// The master serves requests too, as one more worker.
    #[arg(long)]
    master_serves: bool,

    /// Bind each worker to a core of its own.
    #[arg(long)]
    pin_cpus: bool,

    /// How long open requests may take to finish when stopping.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    drain_timeout: Duration,

    /// How long a client may be idle between requests.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    idle_timeout: Duration,

    /// How long a client may take to send a request's head.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    head_timeout: Duration,

    /// How long a client may pause within a request's body, or in taking a response.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    stall_timeout: Duration,

    /// How long an upstream may take to accept a connection.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    connect_timeout: Duration,

    /// How long an upstream may take to begin its answer.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    first_byte_timeout: Duration,

    /// How long an upstream may pause within an answer's body.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    body_idle_timeout: Duration,

    /// How long an unused connection to an upstream is kept.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    upstream_idle_timeout: Duration,

    /// How long a tunnel (WebSocket) may carry nothing. Once one end has closed its side, the other
    /// has --body-idle-timeout.
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    tunnel_idle_timeout: Duration,

    /// Pass on interim responses, such as 103 Early Hints. Costs a few allocations for each request.
    #[arg(long)]
    interim_responses: bool,

    /// Unused connections that each worker keeps to each upstream.
    #[arg(long, value_name = "N", default_value_t = 256)]
    upstream_idle_connections: usize,
}

/// A duration above zero and up to a day, in seconds; fractions are fine.
fn seconds(text: &str) -> std::result::Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|s| *s > 0.0 && *s <= 86_400.0)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "not a number of seconds above 0 and up to 86400".into())
}

/// What each worker hosts.
async fn host(worker: crate::Worker) -> Proxy {
    match Proxy::new(&worker) {
        Ok(proxy) => proxy,
        Err(error) => {
            crate::notice(format_args!("worker {}: {error}", worker.id()));
            std::process::exit(i32::from(crate::worker::EXIT_UNFIT));
        }
    }
}

impl Serve {
    pub(super) fn run(self) -> Result<()> {
        if is_worker() {
            // It has the same command line, which only the master acts on: what the master made of
            // it is in the inheritance.
            return Cluster::new().serve(host);
        }
        let usage = |error: &dyn std::fmt::Display| Error::usage(error.to_string());
        let mode: Mode = self.mode.parse().map_err(|e| usage(&e))?;
        let policy: Option<Policy> = self
            .policy
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(|e| usage(&e))?;
        let prefixes =
            Prefixes::new(self.remote_prefix_v4, self.remote_prefix_v6).map_err(|e| usage(&e))?;
        // Checked in full before anything is started.
        crate::Arm::new(mode, policy).map_err(|e| usage(&e))?;
        let written = self.upstream.iter().map(|text| text.parse::<Endpoint>());
        let mut endpoints = written
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|e| usage(&e))?;
        let demo = self.demo.then(DemoUpstreams::start).transpose()?;
        if let Some(demo) = &demo {
            endpoints.clone_from(demo.endpoints());
        }
        let mut proxy = ProxyConfig::new(endpoints)?;
        proxy.timeouts = UpstreamTimeouts {
            connect: self.connect_timeout,
            first_byte: self.first_byte_timeout,
            body_idle: self.body_idle_timeout,
            idle: self.upstream_idle_timeout,
            tunnel_idle: self.tunnel_idle_timeout,
        };
        proxy.idle_connections = self.upstream_idle_connections;
        proxy.interim_responses = self.interim_responses;
        let application = serde_json::to_string(&proxy)
            .map_err(|error| Error::failed(format!("cannot pass the configuration on: {error}")))?;

        let names: Vec<String> = proxy.endpoints.iter().map(Endpoint::to_string).collect();
        let workers = match self.workers {
            Some(n) => u16::try_from(n).map_err(|_| too_many_workers(n))?,
            None => usable_cores(),
        };
        let mut cluster = Cluster::new()
            .workers(workers)
            .mode(mode)
            .prefixes(prefixes)
            .master_serves(self.master_serves)
            .pin_cpus(self.pin_cpus)
            .drain_timeout(self.drain_timeout)
            .timeouts(ConnectionTimeouts {
                idle: self.idle_timeout,
                head: self.head_timeout,
                stall: self.stall_timeout,
            })
            .application(application)
            .endpoints(names.clone());
        if let Some(policy) = policy {
            cluster = cluster.policy(policy);
        }
        if let Some(signal) = &self.load_signal {
            cluster = cluster.load_signal(signal.parse().map_err(|e| usage(&e))?);
        }
        for address in &self.listen {
            cluster = cluster.listen(address);
        }
        if self.admin != "off" {
            cluster = cluster.admin(&self.admin);
        }
        let demo_runs = demo.is_some();
        let cluster = cluster.on_ready(move |ready| {
            crate::notice(format_args!("{}", announcement(ready, &names)));
            if demo_runs {
                crate::notice(format_args!("{}", super::demo::invitation(ready)));
            } else {
                warn_of_unreachable(proxy.endpoints);
            }
        });
        let served = cluster.serve(host);
        drop(demo);
        served
    }
}

fn too_many_workers(n: u64) -> Error {
    Error::usage(format!("{n} workers: it takes 1 to {MAX_WORKERS}"))
}

fn announcement(ready: &Ready, upstreams: &[String]) -> String {
    let mut text = String::from("listening on");
    for address in &ready.listen {
        let _ = write!(text, " http://{address}");
    }
    let workers = if ready.workers == 1 {
        "worker"
    } else {
        "workers"
    };
    let _ = write!(
        text,
        ", {} {workers}, upstream {}",
        ready.workers,
        upstreams.join(" ")
    );
    if let Some(admin) = ready.admin {
        let _ = write!(text, ", admin http://{admin}");
    }
    text
}

/// Tells, and no more, which upstreams do not answer now: they may well come later.
fn warn_of_unreachable(endpoints: Vec<Endpoint>) {
    tokio::task::spawn_local(async move {
        for endpoint in endpoints {
            let limit = UpstreamTimeouts::default().connect;
            let why = match tokio::time::timeout(limit, Proxy::probe(&endpoint)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => crate::error::describe(&error),
                Err(_) => "no answer".into(),
            };
            crate::notice(format_args!(
                "warning: upstream {endpoint} is unreachable ({why}); its requests get 502 until it is back"
            ));
        }
    });
}
