//! `pointsman serve`: the reverse proxy.

mod given;
mod settings;

use std::{fmt::Write as _, path::PathBuf, rc::Rc, time::Duration};

use clap::Args;

pub(super) use self::given::Given;
use self::given::Origin;
use super::demo::DemoUpstreams;
use crate::{
    Cluster, Ready,
    cluster::is_resuming,
    config::{Endpoint, USUAL_PREFIX, UpstreamTimeouts},
    error::Result,
    is_worker,
    master::{Companions, companions},
    proxy::Proxy,
};

/// Run the reverse proxy: accept HTTP connections, dispatch them to worker processes, forward their
/// requests to the upstreams.
#[derive(Debug, Args)]
#[command(after_help = "\
Configuration file:
  TOML. Every long flag is a key of the same name (mode = \"shared\", drain-timeout = 10,
  demo = true); one that may be repeated takes a list. A flag given here wins over the file.
  `pointsman check -c FILE` says whether a file is in order.

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

Worker groups, for handoff:
  Clients that are pinned to a group go to its workers, by the policy, and everybody else to the
  rest. In a file: worker-group = { special = 1 }, pin = [{ from = \"192.0.2.0/24\", to = \"special\" }].

Signals:
  SIGTERM, SIGINT, SIGQUIT
           Take what has arrived, listen no more, finish what is open, exit 0. A second one
           gives what is open one more second, a third ends at once.
  SIGHUP   Read the configuration again, check all of it, and go by it.
  SIGUSR2  Become the binary that is now at the path of this one, in place.
  `pointsman ctl` does the same and more, and says what came of it.

Examples:
  pointsman serve --demo
  pointsman serve -c pointsman.toml
  pointsman serve --listen 0.0.0.0:8080 --upstream http://127.0.0.1:3000
  pointsman serve --listen 127.0.0.1:8080 --upstream http://127.0.0.1:3000 \\
      --upstream unix:/run/app.sock --workers 4 --mode handoff --policy least-loaded \\
      --admin 127.0.0.1:9900")]
pub(super) struct Serve {
    /// Read what is not given here from this file.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where what came from the file stands there.
    #[arg(skip)]
    origin: Origin,

    /// Address to listen on; repeat for several (at most 16). Port 0 takes any free port; systemd:NAME
    /// is the listener passed under this name [default: all that were passed (LISTEN_FDS), else
    /// 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS:PORT")]
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

    /// The most workers that there may ever be, while it runs [default: as many as there are].
    #[arg(long, value_name = "N")]
    max_workers: Option<u64>,

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

    /// A group of workers for clients that are pinned to it, and for nobody else; repeat for several. In
    /// handoff only.
    #[arg(long, value_name = "NAME=WORKERS")]
    worker_group: Vec<String>,

    /// Clients of a network go to a worker group, and wait for it if none of it is ready; repeat for
    /// several. The longest prefix wins.
    #[arg(long, value_name = "NETWORK=GROUP")]
    pin: Vec<String>,

    /// The part of an IPv4 address that remote-address looks at.
    #[arg(long, value_name = "BITS", default_value_t = 32)]
    remote_prefix_v4: u8,

    /// The part of an IPv6 address that remote-address looks at.
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    remote_prefix_v6: u8,

    /// Ask the other policies, too, whom they would have picked, and show in /metrics how even that
    /// would have been: on or off. Only in handoff, where the master sees every connection.
    #[arg(long, value_name = "ON|OFF", default_value = "on")]
    shadow: String,

    /// Where a page for browsers, /metrics, /status, /workers, /healthz and /readyz are served, or
    /// "off".
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9900")]
    admin: String,

    /// Where a master takes commands, a Unix socket, or "off" [default: the usual place].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// Become this user once everything is bound.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Become this group [default: the user's own].
    #[arg(long, value_name = "NAME")]
    group: Option<String>,

    /// The limit of open files of every process [default: as many as are allowed].
    #[arg(long, value_name = "N")]
    nofile: Option<u64>,

    /// What this machine is called on the bus [default: its host name].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// The bytes that may wait on the bus for one process.
    #[arg(long, value_name = "BYTES", default_value_t = 4 * 1024 * 1024)]
    bus_queue: u64,

    /// What becomes of a process for which more waits: it loses the oldest messages (lose-oldest), or
    /// is cut off from the bus (cut).
    #[arg(long, value_name = "WHAT", default_value = "lose-oldest")]
    bus_overflow: String,

    /// The master serves requests too, as one more worker.
    #[arg(long)]
    master_serves: bool,

    /// Bind each worker to a core of its own.
    #[arg(long)]
    pin_cpus: bool,

    /// How long open requests may take to finish when stopping.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    drain_timeout: Duration,

    /// For how long a worker must be stuck before it gets no new connections.
    #[arg(long, value_name = "SECONDS", default_value = "0.05", value_parser = seconds)]
    hang_after: Duration,

    /// For how long a worker must be stuck before it is killed and replaced.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    hang_kill: Duration,

    /// The longest pause before a worker that keeps dying is started again.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    backoff_limit: Duration,

    /// Meet other masters on these NATS servers, so that their processes are on one bus:
    /// nats://HOST:PORT or tls://HOST:PORT (4222 if no port is given); repeat for several, of which any
    /// will do.
    #[arg(long, value_name = "URL")]
    bus: Vec<String>,

    /// Which masters meet: those with the same prefix, which all subjects begin with.
    #[arg(long, value_name = "WORDS", default_value = USUAL_PREFIX)]
    bus_prefix: String,

    /// Who this is to the NATS server.
    #[arg(long, value_name = "NAME")]
    bus_user: Option<String>,

    /// The file that holds the password of --bus-user. Nobody else may read it, nor the others that
    /// hold secrets.
    #[arg(long, value_name = "FILE")]
    bus_password_file: Option<PathBuf>,

    /// The file that holds a token, instead.
    #[arg(long, value_name = "FILE")]
    bus_token_file: Option<PathBuf>,

    /// The file that holds the seed of an NKey, instead.
    #[arg(long, value_name = "FILE")]
    bus_nkey_file: Option<PathBuf>,

    /// The credentials file, a JWT and the seed of its NKey, instead.
    #[arg(long, value_name = "FILE")]
    bus_credentials: Option<PathBuf>,

    /// The certificates that NATS servers must be signed by [default: those that this machine trusts].
    #[arg(long, value_name = "FILE")]
    bus_ca: Option<PathBuf>,

    /// The certificate to show to the NATS server.
    #[arg(long, value_name = "FILE")]
    bus_cert: Option<PathBuf>,

    /// The file that holds the key of --bus-cert.
    #[arg(long, value_name = "FILE")]
    bus_key: Option<PathBuf>,

    /// The file that holds what all masters that are to believe each other know, 16 bytes or more.
    #[arg(long, value_name = "FILE")]
    bus_secret_file: Option<PathBuf>,

    /// How often to tell other masters that this one is there.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    bus_beat: Duration,

    /// After how long without a word the others take this one for gone [default: 3.5 beats].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    bus_expiry: Option<Duration>,

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
pub(super) fn seconds(text: &str) -> std::result::Result<Duration, String> {
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

/// Runs what was given.
pub(super) fn run(given: Given) -> Result<()> {
    if is_worker() {
        // It has the same command line, which only the master acts on: what the master made of
        // it, and of the file, is in the inheritance.
        return Cluster::new().serve(host);
    }
    if is_resuming() {
        return resume(given);
    }
    let serve = given.serve()?;
    // Checked in full before anything is started.
    let mut settings = serve.settings_alone()?;
    let demo = serve
        .demo
        .then(DemoUpstreams::start)
        .transpose()?
        .map(Rc::new);
    let demo_endpoints = demo.as_ref().map(|demo| demo.endpoints().clone());
    if let Some(endpoints) = &demo_endpoints {
        settings = serve.settings(Some(endpoints))?;
    }
    let endpoints = settings.endpoints.clone();
    let config_file = serve.config.clone();
    let demo_runs = demo.is_some();
    let cluster = Cluster::from_settings(settings)
        .config_file(config_file)
        .companions(demo.clone().map(|demo| demo as Rc<dyn Companions>))
        .reload_with(move || given.serve()?.settings(demo_endpoints.as_deref()))
        .on_ready(move |ready| {
            crate::notice(format_args!("{}", announcement(ready, &endpoints)));
            if demo_runs {
                crate::notice(format_args!("{}", super::demo::invitation(ready)));
            } else {
                warn_of_unreachable(endpoints);
            }
        });
    let served = cluster.serve(host);
    drop(demo);
    served
}

/// Goes on where the binary before has left off, with the configuration that it had.
fn resume(given: Given) -> Result<()> {
    let demo = match companions() {
        Some((words, descriptors)) => Some(Rc::new(DemoUpstreams::resume(&words, descriptors)?)),
        None => None,
    };
    let endpoints = demo.as_ref().map(|demo| demo.endpoints().clone());
    Cluster::new()
        .companions(demo.map(|demo| demo as Rc<dyn Companions>))
        .reload_with(move || given.serve()?.settings(endpoints.as_deref()))
        .serve(host)
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
fn warn_of_unreachable(endpoints: Vec<String>) {
    tokio::task::spawn_local(async move {
        // They are shown as they are read.
        for endpoint in endpoints.iter().flat_map(|text| text.parse::<Endpoint>()) {
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
