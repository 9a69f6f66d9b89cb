//! Every metric's name and help text.

/// A metric's name and help text.
pub(super) struct Name(pub(super) &'static str, pub(super) &'static str);

pub(super) const CONNECTIONS: Name = Name(
    "pointsman_connections_total",
    "Connections that a worker took.",
);
pub(super) const CONNECTIONS_OPEN: Name =
    Name("pointsman_connections_open", "Connections open now.");
pub(super) const REQUESTS: Name = Name(
    "pointsman_requests_total",
    "Requests ended, by status class; aborted: the client was gone before it had a response.",
);
pub(super) const IN_FLIGHT: Name = Name(
    "pointsman_requests_in_flight",
    "Requests begun and not ended.",
);
pub(super) const REQUEST_DURATION: Name = Name(
    "pointsman_request_duration_seconds",
    "From a request's head read to its response handed to the connection.",
);
pub(super) const BYTES: Name = Name(
    "pointsman_bytes_total",
    "Bytes from (in) and to (out) clients, heads included.",
);
pub(super) const UPSTREAM_FAILURES: Name = Name(
    "pointsman_upstream_failures_total",
    "Requests that failed by the upstream's fault, by listener and arm.",
);
pub(super) const MODE_ACTIVE: Name = Name(
    "pointsman_mode_active_seconds_total",
    "Time for which this mode and policy was in force.",
);
pub(super) const MODE_CPU: Name = Name(
    "pointsman_mode_cpu_seconds_total",
    "CPU time of master and workers while this mode and policy was in force.",
);
pub(super) const MODE_THROUGHPUT: Name = Name(
    "pointsman_mode_throughput_requests_per_second",
    "Requests ended on connections that this mode and policy brought, per second that it was in force.",
);
pub(super) const HANDOFFS: Name = Name(
    "pointsman_handoffs_total",
    "Connections handed over and claimed.",
);
pub(super) const HANDOFF_BATCHES: Name = Name(
    "pointsman_handoff_batches_total",
    "Messages in which connections were handed over; handoffs per batch say how well batching works.",
);
pub(super) const HANDOFF_DURATION: Name = Name(
    "pointsman_handoff_duration_seconds",
    "From accepted by the master to claimed by the worker.",
);
pub(super) const REDISPATCHED: Name = Name(
    "pointsman_handoff_redispatched_total",
    "Connections that went to another worker because the first had not claimed them.",
);
pub(super) const HANDOFF_ERRORS_TOTAL: Name = Name(
    "pointsman_handoff_errors_total",
    "Hand-overs that failed, by reason.",
);
pub(super) const LOST: Name = Name(
    "pointsman_connections_lost_total",
    "Connections that a worker had claimed and that died with it.",
);
pub(super) const MOVED: Name = Name(
    "pointsman_connections_moved_total",
    "Connections moved by hand: in, from another process or made by the application; out, to another process; doubt, nobody knows whether the other has taken it.",
);
pub(super) const TURNED_AWAY: Name = Name(
    "pointsman_connections_turned_away_total",
    "Connections closed unserved because no descriptor or memory was left for them, or too many waited for the workers that they are pinned to.",
);
pub(super) const TIMED_OUT: Name = Name(
    "pointsman_connections_timed_out_total",
    "Connections closed because the client was idle or slow beyond the limit.",
);
pub(super) const ACCEPT_ERRORS: Name = Name(
    "pointsman_accept_errors_total",
    "Accepts that failed: connection, by its own fault; exhausted, for want of descriptors or memory.",
);
pub(super) const WORKER_UP: Name = Name("pointsman_worker_up", "Is there a process in the seat?");
pub(super) const WORKER_READY: Name = Name(
    "pointsman_worker_ready",
    "Does the worker take connections?",
);
pub(super) const WORKER_CONNECTIONS: Name = Name(
    "pointsman_worker_connections_open",
    "Connections open now, by worker.",
);
pub(super) const WORKER_RESTARTS: Name = Name(
    "pointsman_worker_restarts_total",
    "Respawns, by what ended the process before.",
);
pub(super) const WORKER_CPU: Name = Name(
    "pointsman_worker_cpu_seconds_total",
    "CPU time of all processes that were ever in the seat.",
);
pub(super) const IMBALANCE: Name = Name(
    "pointsman_worker_imbalance_ratio",
    "Open connections of the busiest ready worker over the mean; 1 is perfect, 0 means none is open.",
);
pub(super) const SHADOW_CONNECTIONS: Name = Name(
    "pointsman_shadow_connections_open",
    "Connections that each ready worker would have open now had this policy picked; only in mode handoff, and of the connections picked in it.",
);
pub(super) const SHADOW_IMBALANCE: Name = Name(
    "pointsman_shadow_imbalance_ratio",
    "What pointsman_worker_imbalance_ratio would be now had this policy picked; only in mode handoff.",
);
pub(super) const UPSTREAM_REQUESTS: Name = Name(
    "pointsman_upstream_requests_total",
    "Requests forwarded, by status class of the answer; aborted: none came.",
);
pub(super) const UPSTREAM_OPEN: Name = Name(
    "pointsman_upstream_connections_open",
    "Connections to the endpoint, in use or kept.",
);
pub(super) const UPSTREAM_CONNECTIONS: Name = Name(
    "pointsman_upstream_connections_total",
    "Connections opened to the endpoint.",
);
pub(super) const UPSTREAM_CONNECT_FAILURES: Name = Name(
    "pointsman_upstream_connection_failures_total",
    "Connections to the endpoint that were refused, timed out or broke.",
);
pub(super) const UPSTREAM_REUSE: Name = Name(
    "pointsman_upstream_connection_reuse_ratio",
    "Share of forwarded requests that went over a connection that had served before.",
);
pub(super) const WORKER_HUNG: Name = Name(
    "pointsman_worker_hung_total",
    "How often the worker was found stuck and got nothing new until it moved.",
);
pub(super) const WORKER_CRASH_LOOP: Name = Name(
    "pointsman_worker_crash_loop",
    "Deaths in a row, none of them after a healthy life; above 0 the seat is filled again with growing pauses.",
);
pub(super) const WORKERS_DRAINING: Name = Name(
    "pointsman_workers_draining",
    "Processes that take nothing new and finish what they hold.",
);
pub(super) const RELOADS: Name = Name(
    "pointsman_config_reloads_total",
    "Reloads of the configuration asked for, the failed ones included.",
);
pub(super) const RELOAD_SUCCESSFUL: Name = Name(
    "pointsman_config_last_reload_successful",
    "Was the last reload, or the start, carried out?",
);
pub(super) const UPGRADES: Name = Name(
    "pointsman_upgrades_total",
    "How often the binary was replaced in place.",
);
pub(super) const LOG_LINES_DROPPED: Name = Name(
    "pointsman_log_lines_dropped_total",
    "Lines that the master could not write because nobody took them.",
);
pub(super) const PAUSED: Name = Name(
    "pointsman_paused",
    "Is nothing accepted for now, because somebody asked for it?",
);
pub(super) const BUS_UP: Name = Name("pointsman_bus_up", "Does the bus's hub go on?");
pub(super) const BUS_MESSAGES: Name = Name(
    "pointsman_bus_messages_total",
    "Messages and answers that the hub got, from processes and from other hubs.",
);
pub(super) const BUS_DELIVERIES: Name = Name(
    "pointsman_bus_deliveries_total",
    "Messages and answers that the hub put into a queue, once for each receiver.",
);
pub(super) const BUS_BYTES: Name = Name(
    "pointsman_bus_bytes_total",
    "Bytes of what the hub put into queues, heads included.",
);
pub(super) const BUS_LOST: Name = Name(
    "pointsman_bus_lost_total",
    "Messages and answers that did not get to somebody that they were for, by reason.",
);
pub(super) const BUS_FAILURES: Name = Name(
    "pointsman_bus_failures_total",
    "Requests that failed, by what their senders were told.",
);
pub(super) const BUS_MALFORMED: Name = Name(
    "pointsman_bus_malformed_total",
    "Packets that were none; each costs who sent it its place on the bus.",
);
pub(super) const BUS_CUT: Name = Name(
    "pointsman_bus_cut_total",
    "Processes cut off because too much waited for them.",
);
pub(super) const BUS_FACTS_IGNORED: Name = Name(
    "pointsman_bus_facts_ignored_total",
    "Facts about a master that did not come by the way it is known by.",
);
pub(super) const BUS_PROCESSES: Name = Name(
    "pointsman_bus_processes",
    "Processes on the bus, of all masters.",
);
pub(super) const BUS_HUBS: Name = Name(
    "pointsman_bus_hubs",
    "Other hubs that this one has a way to.",
);
pub(super) const BUS_QUEUED: Name = Name(
    "pointsman_bus_queued_bytes",
    "Bytes that wait to be taken, for all processes and hubs.",
);
pub(super) const BUS_NATS_CONNECTED: Name = Name(
    "pointsman_bus_nats_connected",
    "Is there a connection to a NATS server?",
);
pub(super) const BUS_NATS_MASTERS: Name = Name(
    "pointsman_bus_nats_masters",
    "Other masters that were met on NATS and are there.",
);
pub(super) const BUS_NATS_RECONNECTS: Name = Name(
    "pointsman_bus_nats_reconnects_total",
    "Connects to a NATS server, but for the first.",
);
pub(super) const BUS_NATS_DROPPED: Name = Name(
    "pointsman_bus_nats_dropped_total",
    "What was to go through NATS, or came through it, and went no further, by reason.",
);
pub(super) const BUILD_INFO: Name = Name(
    "pointsman_build_info",
    "Always 1; the version is in the label.",
);
