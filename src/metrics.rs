//! Every metric: its name, its help text, and how it is read off the scoreboard at the moment of the
//! scrape. No worker is asked, so none is disturbed and none can keep a scrape waiting.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use prometheus::{
    core::{Collector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{
    dispatch::mode::Arm,
    scoreboard::{CLASSES, HANDOFF_ERRORS, Row, State, histogram::Snapshot},
    status::{Seat, SeatStatus, Status},
};

/// A metric's name and help text.
struct Name(&'static str, &'static str);

const CONNECTIONS: Name = Name(
    "pointsman_connections_total",
    "Connections that a worker took.",
);
const CONNECTIONS_OPEN: Name = Name("pointsman_connections_open", "Connections open now.");
const REQUESTS: Name = Name(
    "pointsman_requests_total",
    "Requests ended, by status class; aborted: the client was gone before it had a response.",
);
const IN_FLIGHT: Name = Name(
    "pointsman_requests_in_flight",
    "Requests begun and not ended.",
);
const REQUEST_DURATION: Name = Name(
    "pointsman_request_duration_seconds",
    "From a request's head read to its response handed to the connection.",
);
const BYTES: Name = Name(
    "pointsman_bytes_total",
    "Bytes from (in) and to (out) clients, heads included.",
);
const UPSTREAM_FAILURES: Name = Name(
    "pointsman_upstream_failures_total",
    "Requests that failed by the upstream's fault, by listener and arm.",
);
const MODE_ACTIVE: Name = Name(
    "pointsman_mode_active_seconds_total",
    "Time for which this mode and policy was in force.",
);
const MODE_CPU: Name = Name(
    "pointsman_mode_cpu_seconds_total",
    "CPU time of master and workers while this mode and policy was in force.",
);
const MODE_THROUGHPUT: Name = Name(
    "pointsman_mode_throughput_requests_per_second",
    "Requests ended under this mode and policy per second that it was in force.",
);
const HANDOFFS: Name = Name(
    "pointsman_handoffs_total",
    "Connections handed over and claimed.",
);
const HANDOFF_BATCHES: Name = Name(
    "pointsman_handoff_batches_total",
    "Messages in which connections were handed over; handoffs per batch say how well batching works.",
);
const HANDOFF_DURATION: Name = Name(
    "pointsman_handoff_duration_seconds",
    "From accepted by the master to claimed by the worker.",
);
const REDISPATCHED: Name = Name(
    "pointsman_handoff_redispatched_total",
    "Connections that went to another worker because the first had not claimed them.",
);
const HANDOFF_ERRORS_TOTAL: Name = Name(
    "pointsman_handoff_errors_total",
    "Hand-overs that failed, by reason.",
);
const LOST: Name = Name(
    "pointsman_connections_lost_total",
    "Connections that a worker had claimed and that died with it.",
);
const TURNED_AWAY: Name = Name(
    "pointsman_connections_turned_away_total",
    "Connections closed unserved because no descriptor or memory was left for them.",
);
const TIMED_OUT: Name = Name(
    "pointsman_connections_timed_out_total",
    "Connections closed because the client was idle or slow beyond the limit.",
);
const ACCEPT_ERRORS: Name = Name(
    "pointsman_accept_errors_total",
    "Accepts that failed: connection, by its own fault; exhausted, for want of descriptors or memory.",
);
const WORKER_UP: Name = Name("pointsman_worker_up", "Is there a process in the seat?");
const WORKER_READY: Name = Name(
    "pointsman_worker_ready",
    "Does the worker take connections?",
);
const WORKER_CONNECTIONS: Name = Name(
    "pointsman_worker_connections_open",
    "Connections open now, by worker.",
);
const WORKER_RESTARTS: Name = Name(
    "pointsman_worker_restarts_total",
    "Respawns, by what ended the process before.",
);
const WORKER_CPU: Name = Name(
    "pointsman_worker_cpu_seconds_total",
    "CPU time of all processes that were ever in the seat.",
);
const IMBALANCE: Name = Name(
    "pointsman_worker_imbalance_ratio",
    "Open connections of the busiest ready worker over the mean; 1 is perfect, 0 means none is open.",
);
const UPSTREAM_REQUESTS: Name = Name(
    "pointsman_upstream_requests_total",
    "Requests forwarded, by status class of the answer; aborted: none came.",
);
const UPSTREAM_OPEN: Name = Name(
    "pointsman_upstream_connections_open",
    "Connections to the endpoint, in use or kept.",
);
const UPSTREAM_CONNECTIONS: Name = Name(
    "pointsman_upstream_connections_total",
    "Connections opened to the endpoint.",
);
const UPSTREAM_CONNECT_FAILURES: Name = Name(
    "pointsman_upstream_connection_failures_total",
    "Connections to the endpoint that were refused, timed out or broke.",
);
const UPSTREAM_REUSE: Name = Name(
    "pointsman_upstream_connection_reuse_ratio",
    "Share of forwarded requests that went over a connection that had served before.",
);
const BUILD_INFO: Name = Name(
    "pointsman_build_info",
    "Always 1; the version is in the label.",
);

/// Reads the scoreboard when scraped.
pub(crate) struct ScoreboardCollector {
    status: Status,
    description: Desc,
}

impl ScoreboardCollector {
    /// A collector for one cluster.
    pub(crate) fn new(status: Status) -> Self {
        // `prometheus` wants a description to tell collectors apart; the families carry their own.
        let Name(name, help) = BUILD_INFO;
        let description = Desc::new(name.into(), help.into(), Vec::new(), HashMap::new())
            .expect("a constant name without labels is valid");
        Self {
            status,
            description,
        }
    }
}

impl Collector for ScoreboardCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut page = Page::default();
        self.traffic(&mut page);
        self.handoffs(&mut page);
        self.modes(&mut page);
        self.workers(&mut page);
        self.upstreams(&mut page);
        page.gauge(&BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        page.families
    }
}

impl ScoreboardCollector {
    /// The rows that count for one seat: its processes now, and all before them.
    fn rows(&self, seat: u16) -> impl Iterator<Item = &Row> {
        let board = &self.status.board;
        let present = board
            .occupied()
            .filter(move |row| row.birth.seat.load(Relaxed) == u64::from(seat));
        std::iter::once(board.retired(seat)).chain(present)
    }

    fn seats(&self) -> Vec<(u16, SeatStatus)> {
        self.status
            .lock()
            .seats
            .iter()
            .map(|(n, s)| (*n, s.clone()))
            .collect()
    }

    /// Everything that is counted by listener, mode and policy.
    fn traffic(&self, page: &mut Page) {
        let seats = self.seats();
        let arm_now = self.status.lock().arm;
        let mut in_flight = 0;
        for (seat, _) in &seats {
            in_flight += self
                .rows(*seat)
                .map(|row| get(&row.work.in_flight))
                .sum::<u64>();
        }
        for (id, listener) in self.status.listeners.iter().enumerate() {
            for arm in Arm::ALL {
                let mut durations = Snapshot::default();
                let mut sums = TrafficSums::default();
                for (seat, _) in &seats {
                    let label = Seat::label(*seat);
                    let mut connections = 0;
                    for row in self.rows(*seat) {
                        let t = row.traffic(id as u8, arm);
                        connections += get(&t.connections);
                        if get(&t.connections) == 0 {
                            continue;
                        }
                        sums.closed += get(&t.closed);
                        sums.received += get(&t.received);
                        sums.sent += get(&t.sent);
                        sums.failures += get(&t.upstream_failures);
                        for (sum, n) in sums.requests.iter_mut().zip(&t.requests) {
                            *sum += get(n);
                        }
                        durations.add(&t.request_duration);
                    }
                    sums.connections += connections;
                    if connections > 0 || arm == arm_now {
                        let labels = arm_labels(listener, arm, &[("worker", &label)]);
                        page.counter(&CONNECTIONS, &labels, connections as f64);
                    }
                }
                if sums.connections == 0 && arm != arm_now {
                    continue;
                }
                let labels = arm_labels(listener, arm, &[]);
                // The two are read one after the other while they move.
                let open = sums.connections.saturating_sub(sums.closed);
                page.gauge(&CONNECTIONS_OPEN, &labels, open as f64);
                for (class, n) in CLASSES.iter().zip(sums.requests) {
                    let labels = arm_labels(listener, arm, &[("code", class)]);
                    page.counter(&REQUESTS, &labels, n as f64);
                }
                for (direction, n) in [("in", sums.received), ("out", sums.sent)] {
                    let labels = arm_labels(listener, arm, &[("direction", direction)]);
                    page.counter(&BYTES, &labels, n as f64);
                }
                page.counter(&UPSTREAM_FAILURES, &labels, sums.failures as f64);
                page.histogram(&REQUEST_DURATION, &labels, &durations);
            }
        }
        page.gauge(&IN_FLIGHT, &[], in_flight as f64);
    }

    fn handoffs(&self, page: &mut Page) {
        let mut durations = Snapshot::default();
        for (seat, _) in self.seats() {
            let label = Seat::label(seat);
            let labels = [("worker", label.as_str())];
            let sum = |of: fn(&Row) -> &AtomicU64| {
                self.rows(seat).map(|r| get(of(r))).sum::<u64>() as f64
            };
            page.counter(&HANDOFFS, &labels, sum(|r| &r.work.claimed));
            page.counter(&HANDOFF_BATCHES, &labels, sum(|r| &r.dispatched.batches));
            page.counter(&TIMED_OUT, &labels, sum(|r| &r.work.timed_out));
            self.rows(seat)
                .for_each(|row| durations.add(&row.handoff_duration));
        }
        page.histogram(&HANDOFF_DURATION, &[], &durations);
        let dispatcher = self.status.board.dispatcher();
        page.counter(&REDISPATCHED, &[], get(&dispatcher.redispatched) as f64);
        for (reason, n) in HANDOFF_ERRORS.iter().zip(&dispatcher.errors) {
            page.counter(&HANDOFF_ERRORS_TOTAL, &[("reason", reason)], get(n) as f64);
        }
        page.counter(&LOST, &[], self.status.lock().lost as f64);
        page.counter(&TURNED_AWAY, &[], get(&dispatcher.turned_away) as f64);
        let exhausted: u64 = self
            .seats()
            .iter()
            .flat_map(|(seat, _)| self.rows(*seat))
            .map(|row| get(&row.work.accept_exhausted))
            .sum();
        let failed = get(&dispatcher.accept_failed);
        for (reason, n) in [
            ("connection", failed),
            ("exhausted", exhausted + get(&dispatcher.turned_away)),
        ] {
            page.counter(&ACCEPT_ERRORS, &[("reason", reason)], n as f64);
        }
    }

    fn modes(&self, page: &mut Page) {
        let usage: Vec<_> = self.status.lock().usage().collect();
        for (arm, usage) in usage {
            if usage.active == Duration::ZERO {
                continue;
            }
            let labels = [("mode", arm.mode().name()), ("policy", arm.policy_name())];
            let requests: u64 = self
                .seats()
                .iter()
                .flat_map(|(seat, _)| self.rows(*seat))
                .flat_map(|row| row.traffic.iter().map(|t| &t[arm.index()]))
                .flat_map(|t| &t.requests)
                .map(get)
                .sum();
            let active = usage.active.as_secs_f64();
            page.counter(&MODE_ACTIVE, &labels, active);
            page.counter(&MODE_CPU, &labels, usage.cpu.as_secs_f64());
            page.gauge(&MODE_THROUGHPUT, &labels, requests as f64 / active);
        }
    }

    fn workers(&self, page: &mut Page) {
        let (mut busiest, mut sum, mut ready) = (0, 0, 0_u32);
        for (seat, status) in self.seats() {
            let label = Seat::label(seat);
            let labels = [("worker", label.as_str())];
            let row = self
                .status
                .board
                .occupied()
                .filter(|row| row.birth.seat.load(Relaxed) == u64::from(seat))
                .max_by_key(|row| row.birth.generation.load(Relaxed));
            let is_ready = row.is_some_and(|row| row.state() == State::Ready);
            let open = row.map_or(0, Row::open);
            page.gauge(
                &WORKER_UP,
                &labels,
                f64::from(u8::from(status.pid.is_some())),
            );
            page.gauge(&WORKER_READY, &labels, f64::from(u8::from(is_ready)));
            page.gauge(&WORKER_CONNECTIONS, &labels, open as f64);
            for reason in ["exit", "error", "killed", "crash"] {
                let n = status.restarts.get(reason).copied().unwrap_or(0);
                let labels = [("worker", label.as_str()), ("reason", reason)];
                page.counter(&WORKER_RESTARTS, &labels, n as f64);
            }
            page.counter(&WORKER_CPU, &labels, status.cpu().as_secs_f64());
            if is_ready {
                busiest = busiest.max(open);
                sum += open;
                ready += 1;
            }
        }
        let mean = sum as f64 / f64::from(ready.max(1));
        let imbalance = if sum == 0 { 0.0 } else { busiest as f64 / mean };
        page.gauge(&IMBALANCE, &[], imbalance);
    }

    fn upstreams(&self, page: &mut Page) {
        let seats = self.seats();
        for (i, endpoint) in self.status.endpoints.iter().enumerate() {
            let labels = [("upstream", "default"), ("endpoint", endpoint.as_str())];
            let rows = || {
                seats
                    .iter()
                    .flat_map(|(seat, _)| self.rows(*seat))
                    .map(|row| &row.endpoints[i])
            };
            let mut total = 0;
            for (c, class) in CLASSES.iter().enumerate() {
                let n: u64 = rows().map(|e| get(&e.requests[c])).sum();
                total += n;
                let labels = [labels[0], labels[1], ("code", class)];
                page.counter(&UPSTREAM_REQUESTS, &labels, n as f64);
            }
            let sum = |of: fn(&crate::scoreboard::Endpoint) -> &AtomicU64| {
                rows().map(|e| get(of(e))).sum::<u64>()
            };
            let (opened, closed) = (sum(|e| &e.opened), sum(|e| &e.closed));
            page.counter(&UPSTREAM_CONNECTIONS, &labels, opened as f64);
            page.gauge(
                &UPSTREAM_OPEN,
                &labels,
                opened.saturating_sub(closed) as f64,
            );
            page.counter(
                &UPSTREAM_CONNECT_FAILURES,
                &labels,
                sum(|e| &e.failures) as f64,
            );
            let ratio = if total == 0 {
                0.0
            } else {
                sum(|e| &e.reused) as f64 / total as f64
            };
            page.gauge(&UPSTREAM_REUSE, &labels, ratio);
        }
    }
}

#[derive(Default)]
struct TrafficSums {
    connections: u64,
    closed: u64,
    received: u64,
    sent: u64,
    failures: u64,
    requests: [u64; CLASSES.len()],
}

fn get(number: &AtomicU64) -> u64 {
    number.load(Relaxed)
}

type Label<'a> = (&'static str, &'a str);

fn arm_labels<'a>(listener: &'a str, arm: Arm, more: &[Label<'a>]) -> Vec<Label<'a>> {
    let mut labels = vec![
        ("listener", listener),
        ("mode", arm.mode().name()),
        ("policy", arm.policy_name()),
    ];
    labels.extend_from_slice(more);
    labels
}

/// The families of one scrape, in the order in which they are first written.
#[derive(Default)]
struct Page {
    families: Vec<MetricFamily>,
}

impl Page {
    fn counter(&mut self, name: &Name, labels: &[Label<'_>], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.push(name, MetricType::COUNTER, metric);
    }

    fn gauge(&mut self, name: &Name, labels: &[Label<'_>], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_gauge(gauge);
        self.push(name, MetricType::GAUGE, metric);
    }

    fn histogram(&mut self, name: &Name, labels: &[Label<'_>], snapshot: &Snapshot) {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(snapshot.count());
        histogram.set_sample_sum(snapshot.sum().as_secs_f64());
        let buckets = snapshot.cumulative().map(|(bound, below)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound.as_secs_f64());
            bucket.set_cumulative_count(below);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.push(name, MetricType::HISTOGRAM, metric);
    }

    fn push(&mut self, Name(name, help): &Name, kind: MetricType, metric: Metric) {
        let family = match self.families.iter_mut().position(|f| f.name() == *name) {
            Some(i) => &mut self.families[i],
            None => {
                let mut family = MetricFamily::default();
                family.set_name((*name).into());
                family.set_help((*help).into());
                family.set_field_type(kind);
                self.families.push(family);
                self.families.last_mut().expect("just pushed")
            }
        };
        family.mut_metric().push(metric);
    }
}

fn pairs(labels: &[Label<'_>]) -> Vec<LabelPair> {
    let pair = |(name, value): &Label<'_>| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    labels.iter().map(pair).collect()
}
