//! What the master says about itself.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use crate::scoreboard::histogram::Snapshot;

/// `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// Of the master's binary.
    pub(crate) version: String,
    /// The master's process id: it stays the same through upgrades.
    pub(crate) pid: i32,
    /// `starting`, `running`, `paused`, `stopping`.
    pub(crate) state: String,
    /// How connections reach the workers now.
    pub(crate) mode: String,
    /// By which policy; `none` where the mode takes none.
    pub(crate) policy: String,
    /// Since the first start, upgrades included.
    pub(crate) uptime_seconds: f64,
    /// How often the binary was replaced.
    pub(crate) upgrades: u64,
    /// Workers that there should be.
    pub(crate) workers: u16,
    /// Workers that take connections.
    pub(crate) workers_ready: u16,
    /// Workers that are stuck at present.
    pub(crate) workers_hung: u16,
    /// Earlier generations that finish what they hold.
    pub(crate) workers_draining: u16,
    /// Seats whose workers keep dying.
    pub(crate) crash_loops: u16,
    /// Where it listens.
    pub(crate) listeners: Vec<ListenerReport>,
    /// Where the admin interface is.
    pub(crate) admin: Option<String>,
    /// What is being done at somebody's request, in words.
    pub(crate) operation: Option<String>,
    /// Why the last thing that was done at somebody's request failed, if it did.
    pub(crate) last_failure: Option<String>,
    /// The configuration file and what became of the last reload.
    pub(crate) reload: ReloadReport,
    /// Connections open now.
    pub(crate) connections_open: u64,
    /// Connections that died with their worker.
    pub(crate) connections_lost: u64,
    /// Connections that went to a second worker because the first did not claim them.
    pub(crate) connections_redispatched: u64,
    /// The bus; `None`: this binary knows none.
    #[serde(default)]
    pub(crate) bus: Option<BusReport>,
}

/// The bus, as the master's hub sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BusReport {
    /// The master's name on the bus.
    pub(crate) master: String,
    /// Does the hub go on?
    pub(crate) up: bool,
    /// Processes on it, of all masters.
    pub(crate) processes: u64,
    /// Other hubs that this one has a way to.
    pub(crate) hubs: u64,
    /// Messages and answers that came in.
    pub(crate) messages: u64,
    /// Those that went out, once for each receiver.
    pub(crate) deliveries: u64,
    /// Those that did not get to somebody that they were for.
    pub(crate) lost: u64,
    /// Bytes that wait to be taken.
    pub(crate) queued_bytes: u64,
}

/// One address that is listened on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ListenerReport {
    /// With its real port.
    pub(crate) address: String,
    /// Connections open now that came by it.
    pub(crate) connections_open: u64,
}

/// What became of the last reload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReloadReport {
    /// The configuration file, if there is one. What is no UTF-8 in its path is shown as U+FFFD.
    #[serde(serialize_with = "lossily")]
    pub(crate) file: Option<PathBuf>,
    /// Reloads asked for, the failed ones included.
    pub(crate) count: u64,
    /// Was the last one (or the start) carried out?
    pub(crate) successful: bool,
    /// Why not.
    pub(crate) error: Option<String>,
}

/// A path for people to read: a report must not fail by a name.
fn lossily<S: Serializer>(file: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    let shown = file.as_ref().map(|path| path.display().to_string());
    shown.serialize(to)
}

/// `GET /workers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WorkersReport {
    /// How connections reach the workers now.
    pub(crate) mode: String,
    /// By which policy; `none` where the mode takes none.
    pub(crate) policy: String,
    /// The addresses that are listened on.
    pub(crate) listeners: Vec<String>,
    /// One for every seat, in their order: the newest process in it.
    pub(crate) workers: Vec<WorkerReport>,
    /// Earlier processes that finish what they hold.
    pub(crate) draining: Vec<DrainReport>,
}

/// One seat and the process in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WorkerReport {
    /// The seat's number, or `master`.
    pub(crate) worker: String,
    /// `None`: there is no process now.
    pub(crate) pid: Option<i32>,
    /// Counts births in the seat.
    pub(crate) generation: u64,
    /// The worker group that it is in; `None`: it is one for everybody else.
    #[serde(default)]
    pub(crate) group: Option<String>,
    /// `starting`, `ready`, `hung`, `draining` or `dead`.
    pub(crate) state: String,
    /// Is its loop waiting for something to do?
    pub(crate) parked: bool,
    /// Connections that it holds.
    pub(crate) connections_open: u64,
    /// Connections that it has or is about to get: what `least-loaded` goes by.
    pub(crate) load: u32,
    /// Requests begun and not ended.
    pub(crate) requests_in_flight: u64,
    /// Connections handed to it by the master, claimed or not; this process only.
    pub(crate) connections_assigned: u64,
    /// Of those, claimed; this process only.
    pub(crate) connections_handed_over: u64,
    /// Connections that it accepted by itself; this process only.
    pub(crate) connections_self_accepted: u64,
    /// CPU time of all processes that were ever in the seat.
    pub(crate) cpu_seconds: f64,
    /// Processes that were in the seat before and ended by themselves or by force.
    pub(crate) restarts: u64,
    /// How often a process in the seat was found stuck.
    pub(crate) hung: u64,
    /// Deaths in a row, none of them after a healthy life.
    pub(crate) crash_loop: u32,
    /// When the seat will be filled again, if it is empty.
    pub(crate) respawn_in_seconds: Option<f64>,
}

/// A process on its way out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DrainReport {
    /// The seat's number, or `master`.
    pub(crate) worker: String,
    /// Its process id.
    pub(crate) pid: i32,
    /// Which birth in the seat it was.
    pub(crate) generation: u64,
    /// Connections that it holds still.
    pub(crate) connections_open: u64,
    /// Requests begun and not ended.
    pub(crate) requests_in_flight: u64,
    /// Before it is killed.
    pub(crate) seconds_left: f64,
}

/// `GET /live`: the counters since the start, for whoever looks again and again and takes the
/// differences. None of them ever goes down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LiveReport {
    /// When this was read: seconds since the first start.
    pub(crate) at: f64,
    /// What `GET /status` says.
    pub(crate) status: StatusReport,
    /// Requests answered, by status class: `1xx` … `5xx`, `aborted`.
    pub(crate) requests: BTreeMap<String, u64>,
    /// Requests begun and not ended.
    pub(crate) requests_in_flight: u64,
    /// Connections that workers took.
    pub(crate) connections: u64,
    /// Connections handed over by the master and claimed.
    pub(crate) handoffs: u64,
    /// Bytes from clients.
    pub(crate) received: u64,
    /// Bytes to clients.
    pub(crate) sent: u64,
    /// CPU time of master and workers.
    pub(crate) cpu_seconds: f64,
    /// The busiest ready worker's open connections by the mean; 0: none is open.
    pub(crate) imbalance: f64,
    /// How long requests took.
    pub(crate) latency: Snapshot,
    /// From accepted by the master to claimed by the worker.
    pub(crate) handoff: Snapshot,
    /// One for every mode and policy that was ever in force.
    pub(crate) arms: Vec<LiveArm>,
    /// One for every seat.
    pub(crate) workers: Vec<LiveWorker>,
    /// Earlier processes that finish what they hold.
    pub(crate) draining: Vec<DrainReport>,
}

/// What was counted under one mode and policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LiveArm {
    /// The mode.
    pub(crate) mode: String,
    /// The policy; `none` where the mode takes none.
    pub(crate) policy: String,
    /// For how long it was in force.
    pub(crate) active_seconds: f64,
    /// CPU time of master and workers meanwhile.
    pub(crate) cpu_seconds: f64,
    /// Connections that it brought.
    pub(crate) connections: u64,
    /// Requests answered on these.
    pub(crate) requests: u64,
    /// How long they took.
    pub(crate) latency: Snapshot,
}

/// `GET /decisions?last=N`: which worker was given a connection, and why, the newest first. It names
/// clients, so only the control socket tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DecisionsReport {
    /// How connections reach the workers now.
    pub(crate) mode: String,
    /// By which policy; `none` where the mode takes none.
    pub(crate) policy: String,
    /// Who else chooses in this mode, in words; such connections are not among the decisions.
    pub(crate) others: Option<String>,
    /// The master's last decisions.
    pub(crate) decisions: Vec<DecisionReport>,
}

/// One connection and the worker that it was given to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DecisionReport {
    /// How long ago the connection was accepted.
    pub(crate) seconds_ago: f64,
    /// The client's address.
    pub(crate) client: String,
    /// The address that it came in by.
    pub(crate) listener: String,
    /// The mode that was in force.
    pub(crate) mode: String,
    /// The policy by which the worker was picked.
    pub(crate) policy: String,
    /// What `load` counts: `connections`, `requests` or `busy`; only for `least-loaded`.
    pub(crate) load_signal: Option<String>,
    /// Had another worker been given it before, and not taken it?
    pub(crate) redispatched: bool,
    /// The worker that was picked.
    pub(crate) worker: String,
    /// Why, in words.
    pub(crate) why: String,
    /// The network that pins the client to a worker group; `None`: none does.
    #[serde(default)]
    pub(crate) pin: Option<String>,
    /// That worker group.
    #[serde(default)]
    pub(crate) group: Option<String>,
    /// All that could have been picked.
    pub(crate) candidates: Vec<CandidateReport>,
    /// Which worker each shadow policy would have picked; empty where none was asked.
    pub(crate) shadows: BTreeMap<String, String>,
}

/// A worker as the policy saw it. What the policy does not look at is left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CandidateReport {
    /// Its seat's number, or `master`.
    pub(crate) worker: String,
    /// Could it be given a connection?
    pub(crate) ready: bool,
    /// Its load; the smallest wins.
    pub(crate) load: Option<u32>,
    /// How many have their turn before it; the smallest wins, after the load.
    pub(crate) turn: Option<usize>,
    /// Its weight for this client, 0 to 1; the largest wins.
    pub(crate) weight: Option<f64>,
    /// Was it picked?
    pub(crate) chosen: bool,
}

/// One seat and what all processes in it have counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LiveWorker {
    /// What `GET /workers` says.
    #[serde(flatten)]
    pub(crate) worker: WorkerReport,
    /// Connections taken.
    pub(crate) connections: u64,
    /// Requests answered.
    pub(crate) requests: u64,
}
