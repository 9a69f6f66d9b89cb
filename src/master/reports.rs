//! What the master says about itself, to the admin interface and to the control socket: read off the
//! scoreboard and the status, so that no worker is asked.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Duration};

use super::control::Reports;
use crate::{
    compare,
    control::{
        BusReport, DrainReport, ListenerReport, LiveArm, LiveReport, LiveWorker, StatusReport,
        WorkerReport, WorkersReport,
    },
    dispatch::mode::Arm,
    hub::{HubHandle, Lost},
    scoreboard::{CLASSES, MAX_LISTENERS, Row, State, histogram::Snapshot},
    status::{Seat, SeatStatus, Status, imbalance, since},
    sys::clock::monotonic_ns,
};

fn get(number: &std::sync::atomic::AtomicU64) -> u64 {
    number.load(Relaxed)
}

fn seconds_until(moment: u64) -> f64 {
    Duration::from_nanos(moment.saturating_sub(monotonic_ns())).as_secs_f64()
}

impl Reports for Status {
    fn status(&self) -> StatusReport {
        let known = self.lock();
        let rows: Vec<&Row> = self.board.occupied().collect();
        let count = |state| rows.iter().filter(|row| row.state() == state).count() as u16;
        let open_on = |listener: usize| {
            let traffic = rows.iter().flat_map(|row| {
                Arm::ALL.map(|arm| {
                    let traffic = row.traffic(listener as u8, arm);
                    get(&traffic.connections).saturating_sub(get(&traffic.closed))
                })
            });
            traffic.sum()
        };
        let state = match (known.stopping, known.paused, known.started) {
            (true, ..) => "stopping",
            (_, true, _) => "paused",
            (_, _, false) => "starting",
            _ => "running",
        };
        StatusReport {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id() as i32,
            state: state.into(),
            mode: known.arm.mode().name().into(),
            policy: known.arm.policy_name().into(),
            uptime_seconds: since(known.started_at).as_secs_f64(),
            upgrades: known.upgrades,
            workers: known.workers,
            workers_ready: count(State::Ready),
            workers_hung: count(State::Hung),
            workers_draining: count(State::Draining),
            crash_loops: known
                .seats
                .iter()
                .filter(|(number, seat)| **number < known.workers && seat.deaths_in_a_row() > 0)
                .count() as u16,
            listeners: known
                .listeners
                .iter()
                .take(MAX_LISTENERS)
                .enumerate()
                .filter(|(_, listener)| listener.open)
                .map(|(number, listener)| ListenerReport {
                    address: listener.address.clone(),
                    connections_open: open_on(number),
                })
                .collect(),
            admin: known.admin.map(|address| address.to_string()),
            operation: known.operation.clone(),
            last_failure: known.last_failure.clone(),
            reload: known.reload.clone(),
            connections_open: rows.iter().map(|row| row.open()).sum(),
            connections_lost: known.lost,
            connections_redispatched: get(&self.board.dispatcher().redispatched),
            bus: self.hub().map(bus),
        }
    }

    fn workers(&self) -> WorkersReport {
        let known = self.lock();
        let seats = known
            .seats
            .iter()
            .filter(|(number, seat)| known.is_in_use(**number, seat));
        let workers = seats.map(|(number, seat)| WorkerReport {
            group: known.group_of(*number).map(String::from),
            ..self.worker(*number, seat)
        });
        let draining = self
            .board
            .occupied()
            .filter(|row| row.state() == State::Draining)
            .map(|row| DrainReport {
                worker: Seat::label(get(&row.birth.seat) as u16),
                pid: get(&row.birth.pid) as i32,
                generation: get(&row.birth.generation),
                connections_open: row.open(),
                requests_in_flight: get(&row.work.in_flight),
                seconds_left: seconds_until(get(&row.birth.drain_until)),
            });
        WorkersReport {
            mode: known.arm.mode().name().into(),
            policy: known.arm.policy_name().into(),
            listeners: known
                .listeners
                .iter()
                .filter(|listener| listener.open)
                .map(|listener| listener.address.clone())
                .collect(),
            workers: workers.collect(),
            draining: draining.collect(),
        }
    }

    fn live(&self) -> LiveReport {
        let status = self.status();
        let WorkersReport {
            workers, draining, ..
        } = self.workers();
        let (usage, seats, cpu, at) = {
            let known = self.lock();
            let seats: Vec<u16> = known.seats.keys().copied().collect();
            let usage: Vec<_> = known.usage().collect();
            (usage, seats, known.cpu(), since(known.started_at))
        };
        let mut totals = Totals::default();
        let mut arms: Vec<LiveArm> = usage
            .iter()
            .map(|(arm, usage)| LiveArm {
                mode: arm.mode().name().into(),
                policy: arm.policy_name().into(),
                active_seconds: usage.active.as_secs_f64(),
                cpu_seconds: usage.cpu.as_secs_f64(),
                connections: 0,
                requests: 0,
                latency: Snapshot::default(),
            })
            .collect();
        let mut by_seat = BTreeMap::new();
        for seat in seats {
            let (mut connections, mut requests) = (0, 0);
            for row in self.rows(seat) {
                totals.add(row);
                for (arm, traffic) in row.traffic.iter().flat_map(|t| t.iter().enumerate()) {
                    if get(&traffic.connections) == 0 {
                        continue;
                    }
                    let answered: u64 = traffic.requests.iter().map(get).sum();
                    connections += get(&traffic.connections);
                    requests += answered;
                    totals.received += get(&traffic.received);
                    totals.sent += get(&traffic.sent);
                    for (sum, n) in totals.requests.iter_mut().zip(&traffic.requests) {
                        *sum += get(n);
                    }
                    arms[arm].connections += get(&traffic.connections);
                    arms[arm].requests += answered;
                    arms[arm].latency.add(&traffic.request_duration);
                }
            }
            by_seat.insert(Seat::label(seat), (connections, requests));
        }
        let mut latency = Snapshot::default();
        arms.iter().for_each(|arm| latency.merge(&arm.latency));
        arms.retain(|arm| arm.active_seconds > 0.0 || arm.connections > 0);
        let ready = workers.iter().filter(|worker| worker.state == "ready");
        let open: Vec<u64> = ready.map(|worker| worker.connections_open).collect();
        LiveReport {
            at: at.as_secs_f64(),
            status,
            requests: CLASSES
                .map(String::from)
                .into_iter()
                .zip(totals.requests)
                .collect(),
            requests_in_flight: totals.in_flight,
            connections: by_seat.values().map(|(connections, _)| connections).sum(),
            handoffs: totals.handoffs,
            received: totals.received,
            sent: totals.sent,
            cpu_seconds: cpu.as_secs_f64(),
            imbalance: imbalance(&open),
            latency,
            handoff: totals.handoff,
            arms,
            workers: workers
                .into_iter()
                .map(|worker| {
                    let (connections, requests) =
                        by_seat.get(&worker.worker).copied().unwrap_or_default();
                    LiveWorker {
                        worker,
                        connections,
                        requests,
                    }
                })
                .collect(),
            draining,
        }
    }

    fn comparison(&self) -> Option<compare::Report> {
        self.lock().comparison.clone()
    }
}

fn bus(hub: &HubHandle) -> BusReport {
    let counters = hub.counters();
    BusReport {
        master: hub.me().to_string(),
        up: hub.is_alive(),
        processes: counters.processes.count(),
        hubs: counters.hubs.count(),
        messages: counters.received.count(),
        deliveries: counters.delivered.count(),
        lost: Lost::ALL
            .iter()
            .map(|why| counters.lost(*why).count())
            .sum(),
        queued_bytes: counters.queued_bytes.count(),
    }
}

/// What is counted by rows, over all of them.
#[derive(Default)]
struct Totals {
    requests: [u64; CLASSES.len()],
    in_flight: u64,
    handoffs: u64,
    received: u64,
    sent: u64,
    handoff: Snapshot,
}

impl Totals {
    fn add(&mut self, row: &Row) {
        self.in_flight += get(&row.work.in_flight);
        self.handoffs += get(&row.work.claimed);
        self.handoff.add(&row.handoff_duration);
    }
}

impl Status {
    fn worker(&self, number: u16, seat: &SeatStatus) -> WorkerReport {
        let in_seat = |row: &&Row| get(&row.birth.seat) == u64::from(number);
        let row = self
            .board
            .occupied()
            .filter(in_seat)
            .max_by_key(|row| get(&row.birth.generation));
        let retired = get(&self.board.retired(number).dispatched.hung);
        let hung: u64 = self
            .board
            .occupied()
            .filter(in_seat)
            .map(|row| get(&row.dispatched.hung))
            .sum();
        let count = |of: fn(&Row) -> u64| row.map_or(0, of);
        WorkerReport {
            worker: Seat::label(number),
            pid: seat.pid(),
            generation: seat.generation,
            group: None,
            state: row.map_or("dead", |row| row.state().name()).into(),
            parked: count(|row| get(&row.work.parked)) == 1,
            connections_open: count(Row::open),
            load: row.map_or(0, Row::load),
            requests_in_flight: count(|row| get(&row.work.in_flight)),
            connections_assigned: count(|row| get(&row.dispatched.assigned)),
            connections_handed_over: count(|row| get(&row.work.claimed)),
            connections_self_accepted: count(|row| get(&row.work.self_accepted)),
            cpu_seconds: seat.cpu().as_secs_f64(),
            restarts: seat.restarts.values().sum(),
            hung: retired + hung,
            crash_loop: seat.deaths_in_a_row(),
            respawn_in_seconds: seat.respawn_at.map(seconds_until),
        }
    }
}
