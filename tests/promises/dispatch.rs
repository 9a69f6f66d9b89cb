//! Every mode and policy: who gets which connection.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
};

use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
use pointsman::{Arm, LoadSignal, Mode, Policy};

use crate::harness::{
    Client, Demo, Gate, Lcg, Pointsman, flags_of, get, is_running, is_true, kill, until,
};

fn start(demo: &Demo, workers: usize, arm: Arm) -> Pointsman {
    let workers = workers.to_string();
    let flags = [&["--workers", &workers][..], &flags_of(arm)].concat();
    Pointsman::start(&[&demo.url()], &flags)
}

fn arm(mode: Mode, policy: Option<Policy>) -> Arm {
    Arm::new(mode, policy).expect("a valid arm")
}

/// Opens a connection and makes sure that a worker serves it.
#[track_caller]
fn hold(proxy: &Pointsman) -> Client {
    let mut client = Client::connect(proxy.address());
    let answer = client.get("/").expect("an answer");
    assert_eq!(answer.text(), "hello from one\n");
    client
}

/// Waits until exactly `n` connections are open; how many each worker has.
#[track_caller]
fn spread(proxy: &Pointsman, n: usize) -> Vec<u64> {
    until("the closes have been counted", || {
        let open = proxy.each_worker("connections_open");
        (open.iter().sum::<u64>() == n as u64).then_some(open)
    })
}

/// The busiest worker's share over the mean.
fn peak(open: &[u64]) -> f64 {
    let most = *open.iter().max().expect("a worker") as f64;
    most / (open.iter().sum::<u64>() as f64 / open.len() as f64)
}

/// Sends a body of its own to `/echo` and sees that it comes back.
#[track_caller]
fn echo(client: &mut Client, text: &str, more: &str) {
    let length = text.len();
    let request = format!(
        "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n{more}\r\n{text}"
    );
    client.send(request).expect("an open connection");
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, text));
}

#[test]
fn every_arm_answers_right_and_counts_exactly_what_clients_did() {
    const THREADS: usize = 4;
    const KEPT: usize = 5;
    const REQUESTS: usize = 20;
    const SINGLE: usize = 25;
    let demo = Demo::start("one");
    for arm in Arm::ALL {
        let proxy = start(&demo, 3, arm);
        let address = proxy.address();
        thread::scope(|scope| {
            for t in 0..THREADS {
                scope.spawn(move || {
                    let mut kept: Vec<Client> =
                        (0..KEPT).map(|_| Client::connect(address)).collect();
                    for r in 0..REQUESTS {
                        for (c, client) in kept.iter_mut().enumerate() {
                            echo(client, &format!("{arm} {t} {c} {r}"), "");
                        }
                    }
                    for s in 0..SINGLE {
                        let mut client = Client::connect(address);
                        echo(
                            &mut client,
                            &format!("{arm} {t} {s}"),
                            "connection: close\r\n",
                        );
                    }
                });
            }
        });
        until("every connection is closed", || {
            is_true(proxy.metric("pointsman_connections_open", &[]) == 0.0)
        });
        let connections = (THREADS * (KEPT + SINGLE)) as f64;
        let requests = (THREADS * (KEPT * REQUESTS + SINGLE)) as f64;
        let mode = format!("mode=\"{}\"", arm.mode());
        let policy = format!("policy=\"{}\"", arm.policy_name());
        for (name, labels, n) in [
            ("pointsman_connections_total", vec![], connections),
            ("pointsman_requests_total", vec!["code=\"2xx\""], requests),
            ("pointsman_requests_total", vec![], requests),
            ("pointsman_request_duration_seconds_count", vec![], requests),
            ("pointsman_requests_in_flight", vec![], 0.0),
            ("pointsman_connections_lost_total", vec![], 0.0),
            ("pointsman_handoff_errors_total", vec![], 0.0),
            ("pointsman_upstream_failures_total", vec![], 0.0),
        ] {
            assert_eq!(proxy.metric(name, &labels), n, "{arm}: {name} {labels:?}");
        }
        // All of it under this arm's labels.
        for (name, n) in [
            ("pointsman_connections_total", connections),
            ("pointsman_requests_total", requests),
        ] {
            let labelled = proxy.metric(name, &[mode.as_str(), policy.as_str()]);
            assert_eq!(labelled, n, "{arm}: {name}");
        }
        let by_worker = proxy.each_worker("connections_handed_over");
        let by_themselves = proxy.each_worker("connections_self_accepted");
        let taken: u64 = by_worker.iter().chain(&by_themselves).sum();
        assert_eq!(taken as f64, connections, "{arm}");
    }
}

#[test]
fn round_robin_is_exact() {
    let demo = Demo::start("one");
    for workers in 1..=4 {
        let proxy = start(&demo, workers, arm(Mode::Handoff, Some(Policy::RoundRobin)));
        for k in 1..=10 {
            for _ in 0..workers {
                assert_eq!(get(proxy.address(), "/").status, 200);
            }
            let got = proxy.each_worker("connections_handed_over");
            assert_eq!(got, vec![k; workers], "after {k} rounds");
        }
    }
}

#[test]
fn least_loaded_evens_out_whatever_closes() {
    const HELD: usize = 200;
    let demo = Demo::start("one");
    let proxy = start(&demo, 4, arm(Mode::Handoff, Some(Policy::LeastLoaded)));
    let mut random = Lcg(7);
    let mut held: Vec<Client> = (0..HELD).map(|_| hold(&proxy)).collect();
    for phase in 0..8 {
        let open = spread(&proxy, HELD);
        let (most, least) = (open.iter().max(), open.iter().min());
        let apart = most.expect("a worker") - least.expect("a worker");
        assert!(apart <= 2, "phase {phase}: {open:?}");
        let leaving = 20 + random.below(HELD / 2);
        for _ in 0..leaving {
            held.swap_remove(random.below(held.len()));
        }
        // Until these are counted the workers only seem busy.
        spread(&proxy, HELD - leaving);
        held.extend((0..leaving).map(|_| hold(&proxy)));
    }
    spread(&proxy, HELD);
}

#[test]
fn modes_in_which_workers_accept_from_one_listener_spread_held_connections() {
    const HELD: usize = 200;
    let demo = Demo::start("one");
    let arms = [
        arm(Mode::Shared, None),
        arm(Mode::Hybrid, Some(Policy::LeastLoaded)),
        arm(Mode::Hybrid, Some(Policy::RoundRobin)),
    ];
    for arm in arms {
        let proxy = start(&demo, 4, arm);
        let _held: Vec<Client> = (0..HELD).map(|_| hold(&proxy)).collect();
        let open = spread(&proxy, HELD);
        assert!(peak(&open) <= 1.3, "{arm}: {open:?}");
    }
}

#[test]
fn in_hybrid_mode_the_master_and_the_workers_share_the_accepting() {
    let demo = Demo::start("one");
    let proxy = start(&demo, 4, arm(Mode::Hybrid, None));
    let _held: Vec<Client> = (0..200).map(|_| hold(&proxy)).collect();
    let handed: u64 = proxy.each_worker("connections_handed_over").iter().sum();
    let accepted: u64 = proxy.each_worker("connections_self_accepted").iter().sum();
    assert_eq!(handed + accepted, 200);
    assert!(
        handed > 0 && accepted > 0,
        "{handed} handed over, {accepted} self-accepted"
    );
}

#[test]
fn in_reuseport_mode_every_worker_gets_some() {
    let demo = Demo::start("one");
    for workers in [2, 4] {
        let proxy = start(&demo, workers, arm(Mode::Reuseport, None));
        for _ in 0..400 {
            assert_eq!(get(proxy.address(), "/").status, 200);
        }
        let got = proxy.each_worker("connections_self_accepted");
        // The master accepts for a seat until its dispatcher has heard that the worker is ready.
        let handed: u64 = proxy.each_worker("connections_handed_over").iter().sum();
        assert_eq!(got.iter().sum::<u64>() + handed, 400);
        // Far from even by luck is one thing; left out is another.
        assert!(got.iter().all(|n| *n > 10), "{got:?}");
    }
}

// ------------------------------------------------------------------------- remote-address

fn source(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, n).into()
}

fn get_from(source: IpAddr, address: SocketAddr) {
    let mut client = Client::connect_from(source, address);
    assert_eq!(client.get("/").expect("an answer").status, 200);
}

/// Connections handed to each worker, those before it in its seat included.
fn handed_over(proxy: &Pointsman) -> Vec<f64> {
    let metrics = proxy.metrics();
    (0..)
        .map_while(|seat| metrics.get(&format!("pointsman_handoffs_total{{worker=\"{seat}\"}}")))
        .copied()
        .collect()
}

/// Which worker serves a client at `source`?
#[track_caller]
fn worker_of(source: IpAddr, proxy: &Pointsman) -> usize {
    let before = handed_over(proxy);
    get_from(source, proxy.address());
    let after = handed_over(proxy);
    let more: Vec<usize> = (0..after.len())
        .filter(|i| after[*i] > before[*i])
        .collect();
    assert_eq!(more.len(), 1, "{before:?} {after:?}");
    more[0]
}

#[test]
fn remote_address_keeps_a_client_at_its_worker_and_spreads_clients() {
    let demo = Demo::start("one");
    let proxy = start(&demo, 4, arm(Mode::Handoff, Some(Policy::RemoteAddress)));
    let workers: Vec<usize> = (1..=32).map(|n| worker_of(source(n), &proxy)).collect();
    let again: Vec<usize> = (1..=32).map(|n| worker_of(source(n), &proxy)).collect();
    assert_eq!(workers, again);
    let used: BTreeSet<_> = workers.iter().collect();
    assert_eq!(used.len(), 4, "{workers:?}");
}

#[test]
fn clients_that_share_the_prefix_share_the_worker() {
    let demo = Demo::start("one");
    let flags = [
        &["--workers", "4", "--remote-prefix-v4", "24"][..],
        &flags_of(arm(Mode::Handoff, Some(Policy::RemoteAddress))),
    ]
    .concat();
    let proxy = Pointsman::start(&[&demo.url()], &flags);
    let workers: BTreeSet<usize> = (1..=16).map(|n| worker_of(source(n), &proxy)).collect();
    assert_eq!(workers.len(), 1, "{workers:?}");
}

#[test]
fn a_dead_worker_moves_only_its_own_clients_and_they_return_with_it() {
    const SOURCES: std::ops::RangeInclusive<u8> = 1..=24;
    let demo = Demo::start("one");
    let proxy = start(&demo, 4, arm(Mode::Handoff, Some(Policy::RemoteAddress)));
    let home: Vec<usize> = SOURCES.map(|n| worker_of(source(n), &proxy)).collect();
    let victim = home[0];
    let is_dead = || proxy.workers()["workers"][victim]["pid"].is_null();
    let is_ready = || proxy.workers()["workers"][victim]["state"] == "ready";
    // Every death keeps the seat empty for twice as long. Look as often as it takes to see where all
    // clients go meanwhile.
    let mut unseen: BTreeSet<u8> = SOURCES.collect();
    for _ in 0..8 {
        if unseen.is_empty() {
            break;
        }
        until("the worker is there", || is_true(is_ready()));
        kill(proxy.worker_pids()[victim], SIGKILL);
        until("it is dead", || is_true(is_dead()));
        for n in unseen.clone() {
            let worker = worker_of(source(n), &proxy);
            if !is_dead() {
                break;
            }
            let its = home[usize::from(n - 1)];
            if its == victim {
                assert_ne!(worker, victim, "127.0.0.{n} goes to a dead worker");
            } else {
                assert_eq!(worker, its, "127.0.0.{n} moves for no reason");
            }
            unseen.remove(&n);
        }
    }
    assert!(
        unseen.is_empty(),
        "never seen while it was dead: {unseen:?}"
    );
    until("the worker is back", || is_true(is_ready()));
    let back: Vec<usize> = SOURCES.map(|n| worker_of(source(n), &proxy)).collect();
    assert_eq!(back, home);
}

// ------------------------------------------------------------------------- nobody there

#[test]
fn connections_wait_while_no_worker_is_ready() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        for workers in 1..=4 {
            let proxy = start(&demo, workers, arm(mode, None));
            assert_eq!(get(proxy.address(), "/").status, 200);
            spread(&proxy, 0);
            let pids = proxy.worker_pids();
            pids.iter().for_each(|pid| kill(*pid, SIGKILL));
            // Some come before the master knows, some after.
            let mut waiting: Vec<Client> =
                (0..8).map(|_| Client::connect(proxy.address())).collect();
            until("the master knows", || {
                is_true(proxy.worker_pids().iter().all(|pid| !pids.contains(pid)))
            });
            waiting.extend((0..8).map(|_| Client::connect(proxy.address())));
            for client in &mut waiting {
                client
                    .send("GET / HTTP/1.1\r\nhost: test\r\n\r\n")
                    .unwrap_or_else(|error| panic!("{mode}, {workers} workers: {error}"));
            }
            for (i, client) in waiting.iter_mut().enumerate() {
                let answer = client.read_answer(false);
                let answer = answer.unwrap_or_else(|error| {
                    panic!(
                        "{mode}, {workers} workers, connection {i}: {error}; {:?}",
                        proxy
                            .metrics()
                            .into_iter()
                            .filter(|(name, n)| *n > 0.0
                                && (name.contains("lost") || name.contains("handoff_err")))
                            .collect::<Vec<_>>()
                    )
                });
                assert_eq!(answer.text(), "hello from one\n");
            }
            let lost = proxy.metric("pointsman_connections_lost_total", &[]);
            assert_eq!(lost, 0.0, "{mode}, {workers} workers");
        }
    }
}

#[test]
fn connections_wait_through_several_deaths_of_the_only_worker() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let proxy = start(&demo, 1, arm(mode, None));
        for _ in 0..3 {
            kill(proxy.worker_pids()[0], SIGKILL);
            let mut client = Client::connect(proxy.address());
            let answer = client.get("/").expect("an answer once a worker is back");
            assert_eq!(answer.text(), "hello from one\n", "{mode}");
        }
    }
}

#[test]
fn connections_survive_that_all_workers_die_before_the_master_sees_any_of_it() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let proxy = start(&demo, 4, arm(mode, None));
        for round in 0..3 {
            let pids = until("all workers are ready", || {
                is_true(proxy.admin("/readyz").text().starts_with("4 of"))?;
                Some(proxy.worker_pids())
            });
            proxy.signal(SIGSTOP);
            pids.iter().for_each(|pid| kill(*pid, SIGKILL));
            until("all are dead", || {
                is_true(!pids.iter().any(|pid| is_running(*pid)))
            });
            let mut clients: Vec<Client> =
                (0..4).map(|_| Client::connect(proxy.address())).collect();
            proxy.signal(SIGCONT);
            for client in &mut clients {
                let answer = client.get("/").unwrap_or_else(|error| {
                    panic!(
                        "{mode}, round {round}: {error}, gave up on {}",
                        proxy.metric("pointsman_handoff_errors_total", &["gave_up"])
                    )
                });
                assert_eq!(answer.text(), "hello from one\n", "{mode}");
            }
        }
    }
}

/// Opens a connection and leaves it idle; which worker has it.
fn idle(proxy: &Pointsman, held: &mut Vec<Client>) -> usize {
    let before = proxy.each_worker("connections_open");
    let mut client = Client::connect(proxy.address());
    assert_eq!(client.get("/").expect("an answer").text(), Gate::FREE);
    held.push(client);
    let after = until("the request has been counted as ended", || {
        let settled = proxy.metric("pointsman_requests_in_flight", &[]) <= 1.0;
        settled.then(|| proxy.each_worker("connections_open"))
    });
    let grown = (0..after.len()).find(|i| after[*i] > before[*i]);
    grown.expect("some worker has it")
}

#[test]
fn where_requests_count_an_idle_worker_with_many_connections_comes_before_a_working_one_with_one() {
    let gate = Gate::start();
    let flags = ["--workers", "2", "--load-signal", "requests"];
    let proxy = Pointsman::start(&[&gate.url()], &flags);
    let mut working = Client::connect(proxy.address());
    working
        .send("GET /held HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect("an open connection");
    gate.await_held(1);
    let busy = proxy.each_worker("requests_in_flight");
    let mut held = Vec::new();
    for _ in 0..8 {
        let worker = idle(&proxy, &mut held);
        assert_eq!(busy[worker], 0, "{busy:?}");
    }
    gate.open();
    let answer = working.read_answer(false).expect("an answer");
    assert_eq!(answer.text(), Gate::HELD);
}

#[test]
fn every_load_signal_spreads_over_all_workers() {
    let demo = Demo::start("one");
    for signal in LoadSignal::ALL {
        let flags = ["--workers", "4", "--load-signal", signal.name()];
        let proxy = Pointsman::start(&[&demo.url()], &flags);
        let _held: Vec<Client> = (0..40).map(|_| hold(&proxy)).collect();
        let open = proxy.each_worker("connections_open");
        assert!(open.iter().all(|n| *n > 0), "{signal}: {open:?}");
        assert_eq!(open.iter().sum::<u64>(), 40, "{signal}: {open:?}");
    }
}
