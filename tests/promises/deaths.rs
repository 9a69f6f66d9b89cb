//! What happens to connections when processes die.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use nix::sys::signal::Signal::{self, SIGABRT, SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use pointsman::{Arm, Mode, Policy};

use crate::harness::{
    Client, Demo, Gate, PATIENT, Pointsman, children, flags_of, get, is_running, is_true, kill,
    until,
};

fn start(upstream: &str, workers: usize, mode: Mode) -> Pointsman {
    let workers = workers.to_string();
    Pointsman::start(&[upstream], &["--workers", &workers, "--mode", mode.name()])
}

fn lost(proxy: &Pointsman) -> f64 {
    proxy.metric("pointsman_connections_lost_total", &[])
}

/// Sends `signal` to the worker in `seat` and waits until a successor is ready; its generation.
#[track_caller]
fn replace(proxy: &Pointsman, seat: usize, signal: Signal) -> u64 {
    let before = proxy.workers()["workers"][seat].clone();
    kill(before["pid"].as_i64().expect("a worker") as i32, signal);
    until("a successor is ready", || {
        let now = proxy.workers()["workers"][seat].clone();
        (now["generation"] != before["generation"] && now["state"] == "ready")
            .then(|| now["generation"].as_u64().expect("a number"))
    })
}

// ------------------------------------------------------------------------------ under load

/// What clients saw who opened connections one after the other, from several threads.
#[derive(Debug, Default)]
struct Seen {
    answered: u64,
    failed: u64,
}

/// Opens connections until told to stop. A connection may fail once it is open; a wrong answer or a
/// refused connection is never right.
fn storm(address: SocketAddr, thread: usize, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Relaxed) {
        let client = Client::try_connect(address);
        let mut client = client.expect("a new connection is never refused");
        let text = format!("{thread}: {}", seen.answered + seen.failed);
        let length = text.len();
        let request = format!(
            "POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{text}"
        );
        match client
            .send(request)
            .and_then(|()| client.read_answer(false))
        {
            Ok(answer) => {
                assert_eq!((answer.status, answer.text()), (200, text));
                seen.answered += 1;
            }
            Err(error) => {
                // Nothing hangs: a connection that died with its worker was closed.
                assert!(
                    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "no answer and no close"
                );
                seen.failed += 1;
            }
        }
    }
    seen
}

/// Kills one worker after the other, `kills` times, each after some more traffic, and waits for
/// each successor. Calls `look` all the while.
fn under_fire(proxy: &Pointsman, kills: usize, mut look: impl FnMut() + Send) -> Seen {
    let (stop, looked_enough) = (AtomicBool::new(false), AtomicBool::new(false));
    let total = |proxy: &Pointsman| proxy.metric("pointsman_requests_total", &["2xx"]);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|t| {
                let (address, stop) = (proxy.address(), &stop);
                scope.spawn(move || storm(address, t, stop))
            })
            .collect();
        let looking = scope.spawn(|| {
            while !looked_enough.load(Relaxed) {
                look();
            }
        });
        let guard = StopOnPanic([&stop, &looked_enough]);
        let seats = proxy.worker_pids().len();
        for i in 0..kills {
            let goal = total(proxy) + 100.0;
            until("traffic flows", || is_true(total(proxy) >= goal));
            replace(proxy, i % seats, SIGKILL);
        }
        let goal = total(proxy) + 100.0;
        until("traffic flows", || is_true(total(proxy) >= goal));
        drop(guard);
        looking.join().expect("nothing odd was seen");
        let mut all = Seen::default();
        for client in clients {
            let seen = client
                .join()
                .expect("clients saw nothing that is never right");
            all.answered += seen.answered;
            all.failed += seen.failed;
        }
        all
    })
}

/// Ends the threads that look at these, so that a test that fails does not wait for ever.
struct StopOnPanic<'a>([&'a AtomicBool; 2]);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|stop| stop.store(true, Relaxed));
    }
}

#[test]
fn a_killed_worker_costs_at_most_what_is_counted_as_lost() {
    const KILLS: usize = 6;
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let proxy = start(&demo.url(), 3, mode);
        let seen = under_fire(&proxy, KILLS, || {
            assert_eq!(proxy.admin("/healthz").status, 200, "{mode}");
        });
        let lost = lost(&proxy);
        assert!(
            seen.failed as f64 <= lost,
            "{mode}: {seen:?}, {lost} counted as lost"
        );
        assert!(seen.answered >= 100, "{mode}: {seen:?}");
        let restarts = proxy.metric("pointsman_worker_restarts_total", &["killed"]);
        assert_eq!(restarts, KILLS as f64, "{mode}");
        // Everybody who was not lost was served, and nobody twice.
        until("all is counted", || {
            is_true(proxy.metric("pointsman_connections_open", &[]) == 0.0)
        });
        let turned_away = proxy.metric("pointsman_connections_turned_away_total", &[]);
        let gave_up = proxy.metric("pointsman_handoff_errors_total", &["gave_up"]);
        assert_eq!((turned_away, gave_up), (0.0, 0.0), "{mode}");
        let taken = proxy.metric("pointsman_connections_total", &[]);
        assert!(
            taken <= (seen.answered + seen.failed) as f64,
            "{mode}: {seen:?}, {taken} taken"
        );
    }
}

#[test]
fn no_counter_ever_goes_down_through_deaths() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let proxy = start(&demo.url(), 2, mode);
        let mut highest: BTreeMap<String, f64> = BTreeMap::new();
        let mut samples = 0;
        under_fire(&proxy, 4, || {
            samples += 1;
            for (series, value) in proxy.metrics() {
                let name = series.split('{').next().expect("a name");
                if !["_total", "_count", "_bucket", "_sum"]
                    .iter()
                    .any(|suffix| name.ends_with(suffix))
                {
                    continue;
                }
                let before = highest.insert(series.clone(), value).unwrap_or(0.0);
                assert!(
                    value >= before,
                    "{mode}: {series} went from {before} to {value}"
                );
            }
        });
        assert!(samples > 10, "{samples} looks at /metrics");
        let counted = |name: &str| highest.keys().any(|series| series.starts_with(name));
        assert!(counted("pointsman_requests_total{"));
        assert!(counted("pointsman_request_duration_seconds_bucket{"));
        assert!(counted("pointsman_worker_cpu_seconds_total{"));
    }
}

// ------------------------------------------------------------------------------ successors

#[test]
fn a_dead_worker_is_replaced_and_what_ended_it_is_counted() {
    for mode in Mode::ALL {
        let proxy = start("http://127.0.0.1:9", 2, mode);
        let other = proxy.worker_pids()[1];
        for (generation, (signal, reason)) in
            (2..).zip([(SIGKILL, "killed"), (SIGABRT, "crash"), (SIGTERM, "exit")])
        {
            let before = proxy.worker_pids()[0];
            assert_eq!(replace(&proxy, 0, signal), generation, "{mode}");
            let after = proxy.worker_pids()[0];
            assert_ne!(after, before);
            assert!(is_running(after) && !is_running(before), "{mode}");
            let counted = |reason: &str| {
                let reason = format!("reason=\"{reason}\"");
                proxy.metric(
                    "pointsman_worker_restarts_total",
                    &[&reason, "worker=\"0\""],
                )
            };
            assert_eq!(counted(reason), 1.0, "{mode}, {signal}");
            assert_eq!(proxy.each_worker("restarts"), [generation - 1, 0]);
        }
        assert_eq!(
            proxy.worker_pids()[1],
            other,
            "the other one was left alone"
        );
        assert_eq!(proxy.each_worker("generation"), [4, 1]);
        let here = children(proxy.pid());
        assert_eq!(here.len(), 2, "{here:?}");
        assert!(here.iter().all(|(_, state)| *state != 'Z'), "{here:?}");
    }
}

#[test]
fn a_crash_loop_backs_off_for_all_to_see() {
    let proxy = start("http://127.0.0.1:9", 2, Mode::Handoff);
    for death in 1..=4 {
        replace(&proxy, 0, SIGKILL);
        assert_eq!(proxy.each_worker("crash_loop"), [death, 0]);
    }
    let log = proxy.log();
    let waits: Vec<f64> = log
        .lines()
        .filter_map(|line| line.split_once("successor starts in "))
        .map(|(_, wait)| wait.trim_end_matches(" s").parse().expect("seconds"))
        .collect();
    assert_eq!(waits.len(), 4, "{log}");
    // Each twice the one before, less a quarter at most.
    assert!(waits.windows(2).all(|w| w[0] < w[1]), "{waits:?}");
}

// ------------------------------------------------------------------- ends that nobody asked for

#[test]
fn workers_whose_master_is_killed_finish_and_end_and_the_port_is_free() {
    for mode in Mode::ALL {
        let gate = Gate::start();
        let mut proxy = start(&gate.url(), 2, mode);
        let workers = proxy.worker_pids();
        let mut idle = Client::connect(proxy.address());
        assert_eq!(idle.get("/").expect("an answer").text(), Gate::FREE);
        let mut busy = Client::connect(proxy.address());
        busy.send("GET /held HTTP/1.1\r\nhost: test\r\n\r\n")
            .expect("an open connection");
        gate.await_held(1);

        proxy.signal(SIGKILL);
        assert_eq!(proxy.wait().code(), None);
        assert_eq!(idle.read_to_end().expect("a clean close"), b"", "{mode}");
        gate.open();
        let answer = busy.read_answer(false).expect("an answer");
        assert_eq!(answer.text(), Gate::HELD, "{mode}");
        until("the workers are gone", || {
            is_true(!workers.iter().any(|pid| is_running(*pid)))
        });
        let taken = TcpListener::bind(proxy.address());
        assert!(taken.is_ok(), "{mode}: {taken:?}");
    }
}

#[test]
fn a_worker_that_stands_still_when_its_master_is_killed_does_not_keep_the_port() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let mut proxy = Pointsman::start(
            &[&demo.url()],
            &[
                "--workers",
                "2",
                "--mode",
                mode.name(),
                "--drain-timeout",
                "1",
            ],
        );
        let (address, workers) = (proxy.address(), proxy.worker_pids());
        kill(workers[0], SIGSTOP);
        proxy.signal(SIGKILL);
        assert_eq!(proxy.wait().code(), None);
        until("the workers are gone", || {
            is_true(!workers.iter().any(|pid| is_running(*pid)))
        });
        let taken = TcpListener::bind(address);
        assert!(taken.is_ok(), "{mode}: {taken:?}");
    }
}

#[test]
fn a_worker_told_to_end_by_others_finishes_first_and_is_replaced() {
    for mode in Mode::ALL {
        let gate = Gate::start();
        let proxy = start(&gate.url(), 2, mode);
        let mut busy = Client::connect(proxy.address());
        busy.send("GET /held HTTP/1.1\r\nhost: test\r\n\r\n")
            .expect("an open connection");
        gate.await_held(1);
        let in_flight = proxy.each_worker("requests_in_flight");
        let seat = in_flight
            .iter()
            .position(|n| *n == 1)
            .expect("a busy worker");
        kill(proxy.worker_pids()[seat], SIGTERM);
        until("it drains", || {
            is_true(proxy.workers()["workers"][seat]["state"] == "draining")
        });
        let taken = || {
            let report = &proxy.workers()["workers"][seat];
            report["connections_handed_over"]
                .as_u64()
                .expect("a number")
                + report["connections_self_accepted"]
                    .as_u64()
                    .expect("a number")
        };
        let before = taken();
        for _ in 0..10 {
            assert_eq!(get(proxy.address(), "/").text(), Gate::FREE, "{mode}");
        }
        assert_eq!(taken(), before, "{mode}: it takes connections still");
        gate.open();
        let answer = busy.read_answer(false).expect("an answer");
        assert_eq!(answer.text(), Gate::HELD, "{mode}");
        until("its successor is ready", || {
            let report = &proxy.workers()["workers"][seat];
            is_true(report["generation"] == 2 && report["state"] == "ready")
        });
        let exits = proxy.metric("pointsman_worker_restarts_total", &["exit"]);
        assert_eq!(exits, 1.0, "{mode}");
        assert_eq!(lost(&proxy), 0.0, "{mode}");
    }
}

#[test]
fn a_worker_told_to_end_under_load_loses_nothing() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let proxy = start(&demo.url(), 2, mode);
        let stop = AtomicBool::new(false);
        let seen: Vec<Seen> = thread::scope(|scope| {
            let clients: Vec<_> = (0..3)
                .map(|t| {
                    let (address, stop) = (proxy.address(), &stop);
                    scope.spawn(move || storm(address, t, stop))
                })
                .collect();
            let guard = StopOnPanic([&stop, &stop]);
            for round in 0..3 {
                replace(&proxy, round % 2, SIGTERM);
            }
            drop(guard);
            let joined = clients.into_iter().map(|c| c.join());
            joined
                .map(|seen| seen.expect("clients saw nothing that is never right"))
                .collect()
        });
        assert!(seen.iter().all(|s| s.failed == 0), "{mode}: {seen:?}");
        assert!(seen.iter().any(|s| s.answered > 0), "{mode}: {seen:?}");
        assert_eq!(lost(&proxy), 0.0, "{mode}");
    }
}

// -------------------------------------------------------------------------- not claimed yet

/// Two workers in turn, the first one stopped with half of `n` connections handed to it; the
/// connections, their requests sent.
fn with_unclaimed(demo: &Demo, n: usize) -> (Pointsman, Vec<Client>) {
    let arm = Arm::new(Mode::Handoff, Some(Policy::RoundRobin)).expect("a valid arm");
    // So long that nobody takes the worker for stuck while the test looks at it.
    let flags = [&PATIENT[..], &flags_of(arm)].concat();
    let proxy = Pointsman::start(&[&demo.url()], &flags);
    kill(proxy.worker_pids()[0], SIGSTOP);
    until("the worker is stopped", || {
        let pid = proxy.worker_pids()[0];
        is_true(crate::harness::process(pid).is_some_and(|(_, state)| state == 'T'))
    });
    let mut clients: Vec<Client> = (0..n).map(|_| Client::connect(proxy.address())).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client
            .send(format!(
                "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\n{i:4}"
            ))
            .expect("an open connection");
    }
    until("half of them are handed to the stopped worker", || {
        is_true(proxy.each_worker("load") == [n as u64 / 2, n as u64 / 2])
    });
    assert_eq!(proxy.each_worker("connections_open")[0], 0, "unclaimed");
    (proxy, clients)
}

#[track_caller]
fn all_answered(clients: &mut [Client]) {
    for (i, client) in clients.iter_mut().enumerate() {
        let answer = client
            .read_answer(false)
            .unwrap_or_else(|error| panic!("connection {i}: {error}"));
        assert_eq!(answer.text(), format!("{i:4}"));
    }
}

#[test]
fn what_a_dead_worker_had_not_claimed_goes_to_another() {
    let demo = Demo::start("one");
    for n in [2, 8, 100] {
        let (proxy, mut clients) = with_unclaimed(&demo, n);
        kill(proxy.worker_pids()[0], SIGKILL);
        all_answered(&mut clients);
        let redispatched = proxy.metric("pointsman_handoff_redispatched_total", &[]);
        assert_eq!(redispatched, n as f64 / 2.0);
        assert_eq!(lost(&proxy), 0.0);
        // Nobody has a connection twice.
        drop(clients);
        until("every connection is closed", || {
            is_true(proxy.metric("pointsman_connections_open", &[]) == 0.0)
        });
        let taken = proxy.metric("pointsman_connections_total", &[]);
        assert_eq!(taken, n as f64);
        let answered = proxy.metric("pointsman_requests_total", &["2xx"]);
        assert_eq!(answered, n as f64);
    }
}

#[test]
fn what_nobody_claimed_is_not_given_up_however_many_workers_die_of_something_else() {
    const WORKERS: usize = 4;
    let demo = Demo::start("one");
    let arm = Arm::new(Mode::Handoff, Some(Policy::RoundRobin)).expect("a valid arm");
    let flags = [&["--workers", "4"][..], &flags_of(arm)].concat();
    let proxy = Pointsman::start(&[&demo.url()], &flags);
    let pids = proxy.worker_pids();
    pids.iter().for_each(|pid| kill(*pid, SIGSTOP));
    let mut client = Client::connect(proxy.address());
    client
        .send("GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect("an open connection");
    for (seat, pid) in pids.into_iter().enumerate() {
        until("the connection is handed to the next worker", || {
            is_true(proxy.each_worker("load")[seat] == 1)
        });
        kill(pid, SIGKILL);
    }
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!(answer.text(), "hello from one\n");
    let redispatched = proxy.metric("pointsman_handoff_redispatched_total", &[]);
    assert_eq!((redispatched, lost(&proxy)), (WORKERS as f64, 0.0));
}

#[test]
fn a_worker_that_only_paused_keeps_what_was_handed_to_it() {
    let demo = Demo::start("one");
    let (proxy, mut clients) = with_unclaimed(&demo, 8);
    kill(proxy.worker_pids()[0], SIGCONT);
    all_answered(&mut clients);
    assert_eq!(proxy.each_worker("connections_handed_over"), [4, 4]);
    let redispatched = proxy.metric("pointsman_handoff_redispatched_total", &[]);
    assert_eq!((redispatched, lost(&proxy)), (0.0, 0.0));
}
