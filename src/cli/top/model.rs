//! What is known of a running master: its newest report, and what happened between that and the one
//! before. Pure: time comes with the reports.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::{
    compare,
    control::{LiveArm, LiveReport, LiveWorker},
    scoreboard::histogram::Snapshot,
};

/// Points of history kept: more than any terminal has columns.
const HISTORY: usize = 512;

/// What is known of the master.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Its newest report; `None`: there was none yet.
    pub(super) now: Option<LiveReport>,
    /// What happened between the last two reports; `None`: there were no two in a row.
    pub(super) totals: Option<Totals>,
    /// Each seat of the newest report, in its order.
    pub(super) workers: Vec<Worker>,
    /// The last of what [`Totals`] said, oldest first.
    pub(super) history: VecDeque<Point>,
    /// The comparison that it makes or made last.
    pub(super) comparison: Option<compare::Report>,
    /// Why it does not answer, and how often it was asked in vain; `None`: it answers.
    pub(super) lost: Option<(String, u32)>,
    /// Is the newest report from before a pause? A mean over that is no rate of now.
    rested: bool,
}

/// What happened in one stretch of time. Rates are per second.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Totals {
    /// Requests ended.
    pub(super) requests: f64,
    /// Of these, answered with 5xx, or not at all; what a comparison counts as failed, too.
    pub(super) errors: f64,
    /// Connections that workers took.
    pub(super) connections: f64,
    /// Bytes from clients.
    pub(super) received: f64,
    /// Bytes to clients.
    pub(super) sent: f64,
    /// CPU time of master and workers, percent of one core.
    pub(super) cpu: f64,
    /// Median duration of the requests.
    pub(super) p50: Option<Duration>,
    /// What one request in a hundred exceeds.
    pub(super) p99: Option<Duration>,
    /// What one hand-over in a hundred exceeds.
    pub(super) handoff_p99: Option<Duration>,
}

/// One point of history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// Requests a second.
    pub(super) requests: f64,
    /// What one request in a hundred exceeded; `None`: there were none.
    pub(super) p99: Option<Duration>,
}

/// What one seat did in the stretch of time. Rates are per second; `None`: there is nothing to tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Worker {
    /// Requests ended.
    pub(super) requests: Option<f64>,
    /// CPU time, percent of one core.
    pub(super) cpu: Option<f64>,
}

/// What one mode and policy came to since the start of the master.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Arm {
    /// Requests for each second in which it was in force.
    pub(super) requests: Option<f64>,
    /// CPU time of master and workers for each request, microseconds.
    pub(super) cpu_us: Option<f64>,
    /// Median duration of its requests.
    pub(super) p50: Option<Duration>,
    /// What one of them in a hundred exceeded.
    pub(super) p99: Option<Duration>,
}

impl Model {
    /// Takes an answer.
    pub(super) fn hear(&mut self, (report, comparison): (LiveReport, Option<compare::Report>)) {
        self.comparison = comparison;
        self.take(report);
    }

    fn take(&mut self, report: LiveReport) {
        let before = self.now.take();
        let rested = std::mem::take(&mut self.rested);
        let before =
            before.filter(|before| goes_on(before, &report) && self.lost.is_none() && !rested);
        let seconds = before.as_ref().map(|before| report.at - before.at);
        self.totals = before
            .as_ref()
            .zip(seconds)
            .map(|(before, seconds)| Totals::between(before, &report, seconds));
        let known: HashMap<&str, &LiveWorker> = before
            .iter()
            .flat_map(|before| &before.workers)
            .map(|worker| (worker.worker.worker.as_str(), worker))
            .collect();
        let rates = report.workers.iter().map(|worker| {
            let earlier = known.get(worker.worker.worker.as_str()).copied();
            Worker::since(earlier, worker, seconds)
        });
        self.workers = rates.collect();
        if let Some(totals) = &self.totals {
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(Point {
                requests: totals.requests,
                p99: totals.p99,
            });
        }
        self.now = Some(report);
        self.lost = None;
    }

    /// Nobody has looked for a while.
    pub(super) fn rest(&mut self) {
        self.rested = true;
    }

    /// The master did not answer. What it said last stays, but nothing that claims to be of this moment.
    pub(super) fn lose(&mut self, why: String) {
        let tries = self.lost.as_ref().map_or(0, |(_, tries)| *tries);
        self.lost = Some((why, tries.saturating_add(1)));
        self.totals = None;
        self.workers.fill(Worker::default());
    }
}

/// Does `after` go on counting where `before` was? Not if another master answers now.
fn goes_on(before: &LiveReport, after: &LiveReport) -> bool {
    let sum = |report: &LiveReport| report.requests.values().sum::<u64>();
    before.status.pid == after.status.pid
        && after.at > before.at
        && after.connections >= before.connections
        && sum(after) >= sum(before)
}

impl Totals {
    fn between(before: &LiveReport, after: &LiveReport, seconds: f64) -> Self {
        let rate =
            |of: fn(&LiveReport) -> u64| of(after).saturating_sub(of(before)) as f64 / seconds;
        let failed = |report: &LiveReport| -> u64 {
            let of = |class| report.requests.get(class).copied().unwrap_or(0);
            of("5xx") + of("aborted")
        };
        let latency = after.latency.since(&before.latency);
        Self {
            requests: rate(|report| report.requests.values().sum()),
            errors: failed(after).saturating_sub(failed(before)) as f64 / seconds,
            connections: rate(|report| report.connections),
            received: rate(|report| report.received),
            sent: rate(|report| report.sent),
            cpu: 100.0 * (after.cpu_seconds - before.cpu_seconds).max(0.0) / seconds,
            p50: latency.quantile(0.5),
            p99: latency.quantile(0.99),
            handoff_p99: after.handoff.since(&before.handoff).quantile(0.99),
        }
    }
}

impl Worker {
    fn since(earlier: Option<&LiveWorker>, now: &LiveWorker, seconds: Option<f64>) -> Self {
        let Some((earlier, seconds)) = earlier.zip(seconds) else {
            return Self::default();
        };
        let requests = now.requests.saturating_sub(earlier.requests);
        let cpu = now.worker.cpu_seconds - earlier.worker.cpu_seconds;
        Self {
            requests: Some(requests as f64 / seconds),
            cpu: Some(100.0 * cpu.max(0.0) / seconds),
        }
    }
}

impl Arm {
    /// What `arm` came to.
    pub(super) fn of(arm: &LiveArm) -> Self {
        let quantile = |q| Snapshot::quantile(&arm.latency, q);
        Self {
            requests: (arm.active_seconds > 0.0).then(|| arm.requests as f64 / arm.active_seconds),
            cpu_us: (arm.requests > 0).then(|| 1e6 * arm.cpu_seconds / arm.requests as f64),
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::control::{ReloadReport, StatusReport, WorkerReport};

    /// A report of a master with `workers` seats after `at` seconds in which it has answered `requests`,
    /// seat 0 most of them.
    pub(in super::super) fn report(at: f64, requests: u64, workers: u16) -> LiveReport {
        let mut latency = Snapshot::default();
        for i in 0..requests {
            latency.record(Duration::from_micros(if i % 50 == 0 { 5000 } else { 200 }));
        }
        let arm = |mode: &str, policy: &str, requests| LiveArm {
            mode: mode.into(),
            policy: policy.into(),
            active_seconds: at / 2.0,
            cpu_seconds: requests as f64 * 60e-6,
            connections: requests / 10,
            requests,
            latency: match requests {
                0 => Snapshot::default(),
                _ => latency.clone(),
            },
        };
        LiveReport {
            at,
            status: StatusReport {
                version: "0.1.0".into(),
                pid: 4242,
                state: "running".into(),
                mode: "handoff".into(),
                policy: "least-loaded".into(),
                uptime_seconds: at,
                upgrades: 0,
                workers,
                workers_ready: workers,
                workers_hung: 0,
                workers_draining: 0,
                crash_loops: 0,
                listeners: Vec::new(),
                admin: None,
                operation: None,
                last_failure: None,
                reload: ReloadReport::default(),
                connections_open: 30,
                connections_lost: 0,
                connections_redispatched: 0,
                bus: None,
            },
            requests: [
                ("2xx".into(), requests - requests / 100),
                ("5xx".into(), requests / 100),
            ]
            .into(),
            requests_in_flight: 7,
            connections: requests / 10,
            handoffs: requests / 10,
            received: requests * 100,
            sent: requests * 2000,
            cpu_seconds: requests as f64 * 60e-6,
            imbalance: 1.5,
            latency: latency.clone(),
            handoff: latency.clone(),
            arms: vec![
                arm("handoff", "least-loaded", requests),
                arm("shared", "none", 0),
            ],
            workers: (0..workers).map(|seat| worker(seat, requests)).collect(),
            draining: Vec::new(),
        }
    }

    fn worker(seat: u16, requests: u64) -> LiveWorker {
        let share = u64::from(seat) + 2;
        LiveWorker {
            worker: WorkerReport {
                worker: seat.to_string(),
                pid: Some(9000 - 7 * i32::from(seat)),
                generation: 1,
                group: None,
                state: "ready".into(),
                parked: false,
                connections_open: 30 / share,
                load: 3,
                requests_in_flight: 7 / share,
                connections_assigned: 9,
                connections_handed_over: 9,
                connections_self_accepted: 0,
                cpu_seconds: requests as f64 * 50e-6 / share as f64,
                restarts: u64::from(seat),
                hung: 0,
                crash_loop: 0,
                respawn_in_seconds: None,
            },
            connections: requests / 10 / share,
            requests: requests / share,
        }
    }

    #[test]
    fn rates_are_differences_by_the_time_between() {
        let mut model = Model::default();
        model.take(report(10.0, 10_000, 2));
        assert_eq!(model.totals, None, "one report says nothing of rates");
        assert_eq!(model.workers[0], Worker::default());
        model.take(report(12.0, 14_000, 2));
        let totals = model.totals.clone().expect("two reports");
        assert_eq!(totals.requests, 2000.0);
        assert_eq!(totals.errors, 20.0);
        assert_eq!(totals.connections, 200.0);
        assert_eq!(totals.sent, 4e6);
        assert!((totals.cpu - 12.0).abs() < 1e-9, "{}", totals.cpu);
        let (p50, p99) = (totals.p50.expect("requests"), totals.p99.expect("requests"));
        assert!(p50 >= Duration::from_micros(200) && p50 < Duration::from_micros(220));
        assert!(p99 >= Duration::from_millis(5) && p99 < Duration::from_micros(5400));
        assert_eq!(model.workers[0].requests, Some(1000.0));
        assert!(
            model.workers[0]
                .cpu
                .is_some_and(|cpu| (cpu - 5.0).abs() < 1e-9)
        );
        assert_eq!(model.history.len(), 1);
    }

    #[test]
    fn a_request_without_an_answer_is_an_error_too() {
        let mut model = Model::default();
        model.take(report(10.0, 1000, 1));
        let mut after = report(12.0, 1000, 1);
        after.requests.insert("aborted".into(), 30);
        model.take(after);
        let totals = model.totals.expect("two reports");
        assert_eq!((totals.requests, totals.errors), (15.0, 15.0));
    }

    #[test]
    fn latencies_are_those_of_the_interval_only() {
        let mut model = Model::default();
        model.take(report(10.0, 10_000, 1));
        let mut quiet = report(11.0, 10_000, 1);
        quiet.latency.record(Duration::from_secs(1));
        model.take(quiet);
        let totals = model.totals.expect("two reports");
        assert!(totals.p50.is_some_and(|p50| p50 >= Duration::from_secs(1)));
        assert_eq!(totals.handoff_p99, None, "there was none");
    }

    #[test]
    fn another_master_begins_anew() {
        let restarted = |change: fn(&mut LiveReport)| {
            let mut model = Model::default();
            model.take(report(10.0, 1000, 1));
            let mut next = report(11.0, 1500, 1);
            change(&mut next);
            model.take(next);
            model.totals.is_none() && model.history.is_empty()
        };
        assert!(!restarted(|_| ()));
        assert!(restarted(|report| report.status.pid = 7));
        assert!(restarted(|report| report.at = 3.0));
        assert!(restarted(|report| report.connections = 2));
        assert!(restarted(|report| report.requests.clear()));
    }

    #[test]
    fn a_master_that_is_gone_has_no_rates_and_may_come_back() {
        let mut model = Model::default();
        model.take(report(10.0, 1000, 1));
        model.take(report(11.0, 2000, 1));
        model.lose("gone".into());
        model.lose("still gone".into());
        assert_eq!(model.lost, Some(("still gone".into(), 2)));
        assert_eq!(
            (model.totals.clone(), &model.workers[0]),
            (None, &Worker::default())
        );
        model.take(report(20.0, 9000, 1));
        assert_eq!((model.lost.clone(), model.totals.clone()), (None, None));
        model.take(report(21.0, 9500, 1));
        assert_eq!(model.totals.expect("two in a row").requests, 500.0);
    }

    #[test]
    fn a_mean_over_a_pause_is_not_shown_as_a_rate() {
        let mut model = Model::default();
        model.take(report(10.0, 1000, 1));
        model.rest();
        model.take(report(610.0, 9000, 1));
        assert_eq!((&model.totals, model.history.len()), (&None, 0));
        assert_eq!(model.workers[0], Worker::default());
        model.take(report(611.0, 9500, 1));
        assert_eq!(model.totals.expect("two in a row").requests, 500.0);
    }

    #[test]
    fn an_arm_is_judged_by_the_time_for_which_it_was_in_force() {
        let report = report(10.0, 1000, 1);
        let arm = Arm::of(&report.arms[0]);
        assert_eq!(arm.requests, Some(200.0));
        assert!(arm.cpu_us.is_some_and(|us| (us - 60.0).abs() < 1e-9));
        let idle = LiveArm {
            active_seconds: 0.0,
            latency: Snapshot::default(),
            ..report.arms[1].clone()
        };
        let idle = Arm::of(&idle);
        assert_eq!((idle.requests, idle.cpu_us, idle.p99), (None, None, None));
    }

    #[test]
    fn history_is_bounded() {
        let mut model = Model::default();
        for i in 0..HISTORY as u64 + 10 {
            model.take(report(i as f64 + 1.0, i, 1));
        }
        assert_eq!(model.history.len(), HISTORY);
    }
}
