//! Processes that run out of descriptors: nobody hangs for it, and all is well when there are some
//! again.

use std::{io::ErrorKind, process::Command};

use pointsman::Mode;

use crate::harness::{Client, Demo, Pointsman, descriptors, get, is_true, resume, stop, until};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

/// Lets a process have descriptors below `limit` only, of those that it opens from now on; what it has
/// open stays.
#[track_caller]
fn allow(pid: i32, limit: u64) {
    let (pid, limit) = (pid.to_string(), format!("--nofile={limit}:"));
    let done = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    assert!(done.expect("util-linux is installed").success());
}

/// The limit that it has.
fn limit(pid: i32) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("alive");
    let files = limits.lines().find(|l| l.starts_with("Max open files"));
    let soft = files.and_then(|line| line.split_whitespace().nth(3));
    soft.and_then(|n| n.parse().ok()).expect("a number")
}

fn knock(proxy: &Pointsman, n: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..n).map(|_| Client::connect(proxy.address())).collect();
    for client in &mut clients {
        client.send(REQUEST).expect("an open connection");
    }
    clients
}

fn errors(proxy: &Pointsman, reason: &str) -> f64 {
    let reason = format!("reason=\"{reason}\"");
    proxy.metric("pointsman_handoff_errors_total", &[&reason])
}

#[test]
fn what_a_worker_without_descriptors_cannot_take_goes_to_another() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let mut flags = vec!["--workers", "2", "--mode", mode.name()];
        if mode == Mode::Handoff {
            flags.extend(["--policy", "round-robin"]);
        }
        let proxy = Pointsman::start(&[&demo.url()], &flags);
        let pids = proxy.worker_pids();
        until("each has served", || {
            assert_eq!(get(proxy.address(), "/").status, 200, "{mode}");
            is_true(proxy.taken().iter().all(|n| *n > 0))
        });
        let (before, plenty) = (proxy.taken()[0], limit(pids[0]));
        allow(pids[0], 4);
        for round in 0..3 {
            for (i, client) in knock(&proxy, 10).iter_mut().enumerate() {
                let answer = client.read_answer(false);
                let answer = answer.unwrap_or_else(|e| panic!("{mode}, {round}, {i}: {e}"));
                assert_eq!(answer.status, 200, "{mode}");
            }
        }
        assert_eq!(proxy.taken()[0], before, "{mode}: with what?");
        if mode == Mode::Handoff {
            assert!(errors(&proxy, "malformed") > 0.0);
            assert!(proxy.metric("pointsman_handoff_redispatched_total", &[]) > 0.0);
        }
        allow(pids[0], plenty);
        until("it takes connections again", || {
            assert_eq!(get(proxy.address(), "/").status, 200, "{mode}");
            is_true(proxy.taken()[0] > before)
        });
        assert_eq!(proxy.worker_pids(), pids, "{mode}");
        let lost = proxy.metric("pointsman_connections_lost_total", &[]);
        assert_eq!((lost, errors(&proxy, "gave_up")), (0.0, 0.0), "{mode}");
    }
}

#[test]
fn a_master_without_descriptors_turns_some_away_and_keeps_the_others() {
    const CLIENTS: usize = 40;
    let demo = Demo::start("one");
    // Its only worker stands still, for longer than anybody minds, so the master has to hold what it
    // accepts.
    let flags = [
        "--workers",
        "1",
        "--hang-after",
        "3000",
        "--hang-kill",
        "4000",
    ];
    let proxy = Pointsman::start(&[&demo.url()], &flags);
    let (worker, plenty) = (proxy.worker_pids()[0], limit(proxy.pid()));
    stop(worker);
    // The lowest that is free is always the next, so there are hardly any gaps.
    allow(proxy.pid(), descriptors(proxy.pid()) as u64 + 10);
    let mut clients = knock(&proxy, CLIENTS);
    let turned_away = |client: &Client| {
        let socket = client.socket();
        socket.set_nonblocking(true).expect("a socket");
        let seen = socket.peek(&mut [0]);
        socket.set_nonblocking(false).expect("a socket");
        match seen {
            Err(error) => error.kind() != ErrorKind::WouldBlock,
            Ok(n) => n == 0,
        }
    };
    until("somebody is turned away", || {
        is_true(clients.iter().any(turned_away))
    });
    allow(proxy.pid(), plenty);
    resume(worker);
    let mut answered = 0;
    for client in &mut clients {
        match client.read_answer(false) {
            Ok(answer) => {
                assert_eq!(answer.status, 200);
                answered += 1;
            }
            // Not by silence.
            Err(error) => assert!(
                !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                "{error}"
            ),
        }
    }
    let count = proxy.metric("pointsman_connections_turned_away_total", &[]);
    assert!(count >= 1.0);
    assert_eq!(f64::from(answered) + count, CLIENTS as f64);
    let exhausted = proxy.metric("pointsman_accept_errors_total", &["exhausted"]);
    assert_eq!(exhausted, count);
    assert_eq!(proxy.metric("pointsman_connections_lost_total", &[]), 0.0);
    for _ in 0..20 {
        assert_eq!(get(proxy.address(), "/").status, 200);
    }
    assert_eq!(proxy.worker_pids(), [worker]);
}
