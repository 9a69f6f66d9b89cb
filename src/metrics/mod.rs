//! The metrics: how each is read off the scoreboard at the moment of the scrape. No worker is asked, so none is disturbed and none can keep a scrape waiting.

mod bus;
mod names;
mod page;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use self::{
    names::*,
    page::{Label, Page},
};
use crate::{
    dispatch::mode::Arm,
    scoreboard::{self, CLASSES, HANDOFF_ERRORS, Row, State, histogram::Snapshot},
    status::{Seat, SeatStatus, Status, imbalance},
};

/// What can end a process whose seat is filled again: the value of the `reason` label.
pub(crate) const RESTART_REASONS: [&str; 6] =
    ["exit", "error", "killed", "crash", "hung", "replaced"];

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
        self.shadows(&mut page);
        self.operations(&mut page);
        self.upstreams(&mut page);
        self.bus(&mut page);
        page.gauge(&BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        page.families
    }
}

impl ScoreboardCollector {
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
                .status
                .rows(*seat)
                .map(|row| get(&row.work.in_flight))
                .sum::<u64>();
        }
        let listeners = self.status.lock().listeners.clone();
        for (id, listener) in listeners.iter().enumerate() {
            let arm_now = listener.open.then_some(arm_now);
            let listener = listener.address.as_str();
            for arm in Arm::ALL {
                let mut durations = Snapshot::default();
                let mut sums = TrafficSums::default();
                for (seat, _) in &seats {
                    let label = Seat::label(*seat);
                    let mut connections = 0;
                    for row in self.status.rows(*seat) {
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
                    if connections > 0 || Some(arm) == arm_now {
                        let labels = arm_labels(listener, arm, &[("worker", &label)]);
                        page.counter(&CONNECTIONS, &labels, connections as f64);
                    }
                }
                if sums.connections == 0 && Some(arm) != arm_now {
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
                self.status.rows(seat).map(|r| get(of(r))).sum::<u64>() as f64
            };
            page.counter(&HANDOFFS, &labels, sum(|r| &r.work.claimed));
            page.counter(&HANDOFF_BATCHES, &labels, sum(|r| &r.dispatched.batches));
            page.counter(&TIMED_OUT, &labels, sum(|r| &r.work.timed_out));
            for (direction, n) in [
                ("in", sum(|r| &r.work.moved_in)),
                ("out", sum(|r| &r.work.moved_out)),
                ("doubt", sum(|r| &r.work.moved_in_doubt)),
            ] {
                page.counter(&MOVED, &[labels[0], ("direction", direction)], n);
            }
            self.status
                .rows(seat)
                .for_each(|row| durations.add(&row.handoff_duration));
        }
        page.histogram(&HANDOFF_DURATION, &[], &durations);
        let dispatcher = self.status.board.dispatcher();
        page.counter(&REDISPATCHED, &[], get(&dispatcher.redispatched) as f64);
        for (reason, n) in HANDOFF_ERRORS.iter().zip(&dispatcher.errors) {
            page.counter(&HANDOFF_ERRORS_TOTAL, &[("reason", reason)], get(n) as f64);
        }
        page.counter(&LOST, &[], self.status.lock().lost as f64);
        let turned_away = get(&dispatcher.turned_away) + get(&dispatcher.crowded_out);
        page.counter(&TURNED_AWAY, &[], turned_away as f64);
        let exhausted: u64 = self
            .seats()
            .iter()
            .flat_map(|(seat, _)| self.status.rows(*seat))
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
                .flat_map(|(seat, _)| self.status.rows(*seat))
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
        let mut open_of_ready = Vec::new();
        for (seat, status) in self.seats() {
            let label = Seat::label(seat);
            let labels = [("worker", label.as_str())];
            let row = self
                .status
                .board
                .occupied()
                .filter(|row| row.birth.seat.load(Relaxed) == u64::from(seat))
                .max_by_key(|row| row.birth.generation.load(Relaxed));
            // While a successor starts, its predecessor takes connections.
            let mut in_seat = self
                .status
                .board
                .occupied()
                .filter(|row| row.birth.seat.load(Relaxed) == u64::from(seat));
            let is_ready = in_seat.any(|row| row.state() == State::Ready);
            let open = row.map_or(0, Row::open);
            // A seat that was given up is not one whose worker is missing.
            if self.status.lock().is_in_use(seat, &status) {
                page.gauge(
                    &WORKER_UP,
                    &labels,
                    f64::from(u8::from(!status.pids.is_empty())),
                );
                page.gauge(&WORKER_READY, &labels, f64::from(u8::from(is_ready)));
                page.gauge(&WORKER_CONNECTIONS, &labels, open as f64);
                page.gauge(
                    &WORKER_CRASH_LOOP,
                    &labels,
                    f64::from(status.deaths_in_a_row()),
                );
            }
            for reason in RESTART_REASONS {
                let n = status.restarts.get(reason).copied().unwrap_or(0);
                let labels = [("worker", label.as_str()), ("reason", reason)];
                page.counter(&WORKER_RESTARTS, &labels, n as f64);
            }
            page.counter(&WORKER_CPU, &labels, status.cpu().as_secs_f64());
            let hung = self
                .status
                .rows(seat)
                .map(|row| get(&row.dispatched.hung))
                .sum::<u64>();
            page.counter(&WORKER_HUNG, &labels, hung as f64);
            if is_ready {
                open_of_ready.push(open);
            }
        }
        let draining = self
            .status
            .board
            .occupied()
            .filter(|row| row.state() == State::Draining)
            .count();
        page.gauge(&WORKERS_DRAINING, &[], draining as f64);
        page.gauge(&IMBALANCE, &[], imbalance(&open_of_ready));
    }

    /// Where no shadow is kept nothing is shown: 0 would say that none is needed.
    fn shadows(&self, page: &mut Page) {
        for (shadow, open) in self.status.shadows().into_iter().flatten() {
            for (seat, open) in &open {
                let label = Seat::label(*seat);
                let labels = [("policy", shadow.name()), ("worker", label.as_str())];
                page.gauge(&SHADOW_CONNECTIONS, &labels, *open as f64);
            }
            let open: Vec<u64> = open.into_values().collect();
            let ratio = imbalance(&open);
            page.gauge(&SHADOW_IMBALANCE, &[("policy", shadow.name())], ratio);
        }
    }

    fn operations(&self, page: &mut Page) {
        let status = self.status.lock();
        let reload = &status.reload;
        page.counter(&RELOADS, &[], reload.count as f64);
        page.gauge(
            &RELOAD_SUCCESSFUL,
            &[],
            f64::from(u8::from(reload.successful)),
        );
        let dropped = get(&crate::ALL_LINES_DROPPED);
        page.counter(&LOG_LINES_DROPPED, &[], dropped as f64);
        page.counter(&UPGRADES, &[], status.upgrades as f64);
        page.gauge(&PAUSED, &[], f64::from(u8::from(status.paused)));
    }

    fn upstreams(&self, page: &mut Page) {
        let seats = self.seats();
        let endpoints = self.status.lock().endpoints.clone();
        for (i, endpoint) in endpoints.iter().enumerate() {
            let labels = [("upstream", "default"), ("endpoint", endpoint.as_str())];
            let rows = || {
                seats
                    .iter()
                    .flat_map(|(seat, _)| self.status.rows(*seat))
                    .map(|row| &row.endpoints[i])
            };
            let mut total = 0;
            for (c, class) in CLASSES.iter().enumerate() {
                let n: u64 = rows().map(|e| get(&e.requests[c])).sum();
                total += n;
                let labels = [labels[0], labels[1], ("code", class)];
                page.counter(&UPSTREAM_REQUESTS, &labels, n as f64);
            }
            let sum = |of: fn(&scoreboard::Endpoint) -> &AtomicU64| {
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

fn arm_labels<'a>(listener: &'a str, arm: Arm, more: &[Label<'a>]) -> Vec<Label<'a>> {
    let mut labels = vec![
        ("listener", listener),
        ("mode", arm.mode().name()),
        ("policy", arm.policy_name()),
    ];
    labels.extend_from_slice(more);
    labels
}
