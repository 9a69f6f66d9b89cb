//! Workers that stand still: who notices, who waits for them, and what becomes of them.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use pointsman::{Arm, Mode};

use crate::harness::{
    Client, Demo, Pointsman, all_are_answered, flags_of, get, is_running, is_true, knock,
    place::Place, resume, stop, until,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

/// In a turn where there is a policy: so it is certain that everybody's turn comes.
fn start(upstream: &str, workers: usize, mode: Mode, more: &[&str]) -> Pointsman {
    let workers = workers.to_string();
    let mut flags = vec!["--workers", &workers, "--mode", mode.name()];
    if matches!(mode, Mode::Handoff | Mode::Hybrid) {
        flags.extend(["--policy", "round-robin"]);
    }
    flags.extend(more);
    Pointsman::start(&[upstream], &flags)
}

/// New clients come, and each is answered, until `condition` holds.
#[track_caller]
fn clients_come_until(proxy: &Pointsman, what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || {
        assert_eq!(get(proxy.address(), "/").status, 200, "until {what}");
        is_true(condition())
    });
}

fn hung(proxy: &Pointsman, seat: usize) -> f64 {
    let worker = format!("worker=\"{seat}\"");
    proxy.metric("pointsman_worker_hung_total", &[&worker])
}

fn lost(proxy: &Pointsman) -> f64 {
    proxy.metric("pointsman_connections_lost_total", &[])
}

/// Waits, by a clock that the cluster itself keeps and shows, until `seconds` have gone by. Meanwhile
/// clients come.
#[track_caller]
fn clients_come_for(proxy: &Pointsman, seconds: f64) {
    let clock = || proxy.metric("pointsman_mode_active_seconds_total", &[]);
    let end = clock() + seconds;
    clients_come_until(proxy, "some time has gone by", || clock() >= end);
}

#[test]
fn a_worker_that_stands_still_gets_nothing_new_until_it_moves() {
    let demo = Demo::start("one");
    for mode in [Mode::Handoff, Mode::Hybrid, Mode::Reuseport] {
        let proxy = start(&demo.url(), 3, mode, &[]);
        let pids = proxy.worker_pids();
        stop(pids[0]);
        clients_come_until(&proxy, "it is found stuck", || proxy.state(0) == "hung");
        assert_eq!(hung(&proxy, 0), 1.0, "{mode}");
        assert_eq!(
            (proxy.state(1), proxy.state(2)),
            ("ready".into(), "ready".into())
        );
        let ready = proxy.metric("pointsman_worker_ready", &["worker=\"0\""]);
        assert_eq!(ready, 0.0, "{mode}");

        let before = (
            proxy.taken()[0],
            proxy.each_worker("connections_assigned")[0],
        );
        let mut clients = knock(&proxy, 30, REQUEST);
        all_are_answered(&mut clients, mode.name());
        let after = (
            proxy.taken()[0],
            proxy.each_worker("connections_assigned")[0],
        );
        assert_eq!(before, after, "{mode}: it was given some");
        assert_eq!(proxy.state(0), "hung", "{mode}: nobody says otherwise");

        resume(pids[0]);
        until("it is ready again", || is_true(proxy.state(0) == "ready"));
        let taken = proxy.taken()[0];
        clients_come_until(&proxy, "it serves again", || proxy.taken()[0] > taken);
        assert_eq!(proxy.worker_pids(), pids, "{mode}: all are still the same");
        assert_eq!(proxy.each_worker("generation"), [1, 1, 1]);
        let hung = [0, 1, 2].map(|seat| hung(&proxy, seat));
        assert_eq!((hung, lost(&proxy)), ([1.0, 0.0, 0.0], 0.0), "{mode}");
    }
}

#[test]
fn in_shared_a_worker_that_stands_still_owes_nothing_and_keeps_nobody_waiting() {
    let demo = Demo::start("one");
    let proxy = start(&demo.url(), 3, Mode::Shared, &[]);
    let pids = proxy.worker_pids();
    stop(pids[0]);
    let before = proxy.each_worker("connections_self_accepted")[0];
    for _ in 0..5 {
        all_are_answered(&mut knock(&proxy, 10, REQUEST), "one stands still");
    }
    assert_eq!(proxy.each_worker("connections_self_accepted")[0], before);
    resume(pids[0]);
    clients_come_until(&proxy, "it serves again", || {
        proxy.state(0) == "ready" && proxy.each_worker("connections_self_accepted")[0] > before
    });
    assert_eq!(proxy.worker_pids(), pids);
    assert_eq!(lost(&proxy), 0.0);
}

#[test]
fn what_a_stuck_worker_had_not_claimed_goes_to_others_and_is_served_once() {
    const CLIENTS: usize = 20;
    let demo = Demo::start("one");
    for arm in Arm::ALL
        .into_iter()
        .filter(|arm| arm.mode() == Mode::Handoff)
    {
        let flags = [&["--workers", "2"][..], &flags_of(arm)].concat();
        let proxy = Pointsman::start(&[&demo.url()], &flags);
        let pids = proxy.worker_pids();
        // By their address all may go to one worker: to the one that stands still then.
        let victim = {
            assert_eq!(get(proxy.address(), "/").status, 200);
            until("somebody has served", || {
                proxy.taken().iter().position(|n| *n == 1)
            })
        };
        stop(pids[victim]);
        let mut clients = knock(&proxy, CLIENTS, REQUEST);
        all_are_answered(&mut clients, &format!("{arm}"));
        assert_eq!(proxy.state(victim), "hung", "{arm}");
        let redispatched = proxy.metric("pointsman_handoff_redispatched_total", &[]);
        assert!(redispatched >= 1.0, "{arm}");
        let status = redispatched;
        assert_eq!(proxy.taken()[victim], 1, "{arm}: it claims none");
        resume(pids[victim]);
        until("it is ready again", || {
            is_true(proxy.state(victim) == "ready")
        });
        // What was sent to it is in its line still; it must leave that alone.
        drop(clients);
        until("every connection is closed", || {
            is_true(proxy.metric("pointsman_connections_open", &[]) == 0.0)
        });
        let count = |name, labels: &[&str]| proxy.metric(name, labels);
        let all = (CLIENTS + 1) as f64;
        assert_eq!(count("pointsman_connections_total", &[]), all, "{arm}");
        assert_eq!(count("pointsman_requests_total", &["2xx"]), all, "{arm}");
        assert_eq!(
            count("pointsman_handoff_redispatched_total", &[]),
            status,
            "{arm}"
        );
        assert_eq!((proxy.worker_pids(), lost(&proxy)), (pids, 0.0), "{arm}");
    }
}

#[test]
fn what_waits_in_the_listener_of_a_stuck_worker_is_answered_by_others() {
    let demo = Demo::start("one");
    let proxy = start(&demo.url(), 2, Mode::Reuseport, &[]);
    let pids = proxy.worker_pids();
    stop(pids[0]);
    // The kernel tosses a coin for each: one in a thousand million runs has none for the stopped one.
    let mut clients = knock(&proxy, 30, REQUEST);
    all_are_answered(&mut clients, "one stands still");
    assert_eq!(proxy.taken()[0], 0);
    let rescued = proxy.each_worker("connections_handed_over")[1];
    assert!(rescued > 0, "none came by way of the master");
    assert_eq!(proxy.state(0), "hung");
    resume(pids[0]);
    clients_come_until(&proxy, "it serves again", || {
        proxy.each_worker("connections_self_accepted")[0] > 0
    });
    assert_eq!((proxy.worker_pids(), lost(&proxy)), (pids, 0.0));
}

#[test]
fn a_worker_that_does_not_come_back_is_killed_and_replaced_but_not_before_its_time() {
    const LIMIT: Duration = Duration::from_secs(1);
    let demo = Demo::start("one");
    for mode in [Mode::Handoff, Mode::Hybrid, Mode::Reuseport] {
        let proxy = start(&demo.url(), 2, mode, &["--hang-kill", "1"]);
        // A client that the worker has claimed, and that dies with it.
        let mut held = Vec::new();
        let claimed = until("the first worker holds a client", || {
            let mut client = Client::connect(proxy.address());
            client.get("/").expect("an answer");
            held.push(client);
            let open = proxy.each_worker("connections_open")[0];
            (open > 0).then_some(open)
        });
        let pids = proxy.worker_pids();
        let stopped = Instant::now();
        stop(pids[0]);
        clients_come_until(&proxy, "it is replaced", || {
            if is_running(pids[0]) {
                return false;
            }
            assert!(
                stopped.elapsed() >= LIMIT,
                "{mode}: {:?}",
                stopped.elapsed()
            );
            proxy.each_worker("generation")[0] == 2 && proxy.state(0) == "ready"
        });
        let restarts = |why: &str| {
            let why = format!("reason=\"{why}\"");
            proxy.metric("pointsman_worker_restarts_total", &[&why, "worker=\"0\""])
        };
        assert_eq!((restarts("hung"), restarts("killed")), (1.0, 0.0), "{mode}");
        assert_eq!((hung(&proxy, 0), hung(&proxy, 1)), (1.0, 0.0), "{mode}");
        assert_eq!(proxy.worker_pids()[1], pids[1], "{mode}");
        assert_eq!(lost(&proxy), claimed as f64, "{mode}: what it had claimed");
        let mut cut = 0;
        for client in &mut held {
            cut += u64::from(client.get("/").is_err());
        }
        assert_eq!(cut, claimed, "{mode}: the others keep their clients");
        let taken = proxy.taken()[0];
        clients_come_until(&proxy, "its successor serves", || proxy.taken()[0] > taken);
    }
}

#[test]
fn a_worker_that_moves_in_time_is_not_killed_however_often_it_stands_still() {
    let demo = Demo::start("one");
    let proxy = start(&demo.url(), 2, Mode::Handoff, &["--hang-kill", "1.5"]);
    let pids = proxy.worker_pids();
    // Together they are far beyond the limit.
    for times in 1..=5 {
        stop(pids[0]);
        clients_come_until(&proxy, "it is found stuck", || proxy.state(0) == "hung");
        clients_come_for(&proxy, 0.5);
        resume(pids[0]);
        until("it is ready again", || is_true(proxy.state(0) == "ready"));
        assert_eq!(hung(&proxy, 0), f64::from(times));
    }
    assert_eq!(proxy.worker_pids(), pids);
    let restarts = proxy.metric("pointsman_worker_restarts_total", &[]);
    assert_eq!((restarts, lost(&proxy)), (0.0, 0.0));
}

#[test]
fn clients_that_say_nothing_do_not_make_a_healthy_worker_look_stuck() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let proxy = start(&demo.url(), 2, mode, &["--hang-after", "0.02"]);
        let silent: Vec<Client> = (0..100).map(|_| Client::connect(proxy.address())).collect();
        // Some begin, and do not go on.
        let mut halves: Vec<Client> = (0..20).map(|_| Client::connect(proxy.address())).collect();
        for half in &mut halves {
            half.send("GET / HTT").expect("an open connection");
        }
        clients_come_for(&proxy, 1.0);
        assert_eq!((hung(&proxy, 0), hung(&proxy, 1)), (0.0, 0.0), "{mode}");
        assert_eq!(
            (proxy.state(0), proxy.state(1)),
            ("ready".into(), "ready".into())
        );
        drop((silent, halves));
    }
}

#[test]
fn while_all_workers_stand_still_nobody_is_refused_and_all_are_answered_in_the_end() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let proxy = start(&demo.url(), 2, mode, &[]);
        let pids = proxy.worker_pids();
        pids.iter().for_each(|pid| stop(*pid));
        let mut clients = knock(&proxy, 20, REQUEST);
        if mode != Mode::Reuseport {
            // There the kernel may have sent all to one.
            until("both are found stuck", || {
                is_true(proxy.state(0) == "hung" && proxy.state(1) == "hung")
            });
        } else {
            until("one is found stuck", || {
                is_true(proxy.state(0) == "hung" || proxy.state(1) == "hung")
            });
        }
        clients.extend(knock(&proxy, 20, REQUEST));
        for client in &mut clients {
            // Nobody was answered, and nobody was turned away.
            let socket = client.socket();
            socket.set_nonblocking(true).expect("a socket");
            let waiting = socket.peek(&mut [0]).expect_err("silence").kind();
            assert_eq!(waiting, ErrorKind::WouldBlock, "{mode}");
            socket.set_nonblocking(false).expect("a socket");
        }
        pids.iter().for_each(|pid| resume(*pid));
        all_are_answered(&mut clients, mode.name());
        until("both are ready", || {
            is_true(proxy.state(0) == "ready" && proxy.state(1) == "ready")
        });
        assert_eq!((proxy.worker_pids(), lost(&proxy)), (pids, 0.0), "{mode}");
        let turned_away = proxy.metric("pointsman_connections_turned_away_total", &[]);
        assert_eq!(turned_away, 0.0, "{mode}");
    }
}

/// The first worker stands still while the mode changes through all of them and ends at `last`;
/// `noticed`: that is known by then.
fn hears_of_it_when_it_moves(last: Mode, noticed: bool) {
    let (place, demo) = (
        Place::new(&format!("late-{last}-{noticed}")),
        Demo::start("one"),
    );
    let first = if last == Mode::Handoff {
        "shared"
    } else {
        "handoff"
    };
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let pids = proxy.worker_pids();
    place.works(&["mode", first]);
    if noticed {
        place.works(&["mode", "handoff", "round-robin"]);
    }
    stop(pids[0]);
    if noticed {
        clients_come_until(&proxy, "it is found stuck", || proxy.state(0) == "hung");
    }
    let others = Mode::ALL.into_iter().filter(|mode| *mode != last);
    for mode in others.chain([last]) {
        place.works(&["mode", mode.name()]);
        for _ in 0..5 {
            assert_eq!(get(proxy.address(), "/").status, 200, "{mode}");
        }
    }
    resume(pids[0]);
    until("it is ready", || is_true(proxy.state(0) == "ready"));
    let taken = || {
        let mode = format!("mode=\"{last}\"");
        proxy.metric("pointsman_connections_total", &["worker=\"0\"", &mode])
    };
    let accepted = || proxy.each_worker("connections_self_accepted")[0];
    let before = (taken(), accepted());
    clients_come_until(&proxy, "it serves in the mode that is in force", || {
        // By its own door, where it has one.
        taken() > before.0 && (last == Mode::Handoff || accepted() > before.1)
    });
    assert_eq!((proxy.worker_pids(), lost(&proxy)), (pids, 0.0), "{last}");
}

#[test]
fn a_worker_that_is_known_to_stand_still_hears_of_a_new_mode_when_it_moves() {
    for last in Mode::ALL {
        hears_of_it_when_it_moves(last, true);
    }
}

#[test]
fn a_worker_of_whom_nobody_knows_that_it_stands_still_hears_of_a_new_mode_when_it_moves() {
    for last in Mode::ALL {
        hears_of_it_when_it_moves(last, false);
    }
}

#[test]
fn a_worker_whose_line_is_full_of_old_modes_ends_up_in_the_present_one() {
    let (place, demo) = (Place::new("full"), Demo::start("one"));
    let arm = ["--workers", "2", "--policy", "round-robin"];
    let proxy = place.start(&demo.url(), &arm);
    let pids = proxy.worker_pids();
    stop(pids[0]);
    clients_come_until(&proxy, "it is found stuck", || proxy.state(0) == "hung");
    // A line holds somewhat less than three hundred messages.
    for i in 0..310 {
        let policy = ["round-robin", "remote-address"][i % 2];
        let body = format!("{{\"mode\":\"handoff\",\"policy\":\"{policy}\"}}");
        let answer = place.post("mode", &body);
        assert!(answer.contains("\"done\""), "{answer}");
    }
    assert!(
        place
            .post("mode", "{\"mode\":\"reuseport\"}")
            .contains("\"done\"")
    );
    for _ in 0..5 {
        assert_eq!(get(proxy.address(), "/").status, 200);
    }
    resume(pids[0]);
    clients_come_until(&proxy, "it accepts by itself", || {
        proxy.each_worker("connections_self_accepted")[0] > 0
    });
    assert_eq!((proxy.worker_pids(), lost(&proxy)), (pids, 0.0));
}
