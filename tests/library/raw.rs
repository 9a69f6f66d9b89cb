//! Raw connections, in every mode.

use nix::sys::signal::Signal;
use pointsman::Mode;

use crate::{
    harness::kill,
    running::{Lines, Running},
};

/// Whoever brings them, they are served, counted, and counted as closed.
pub fn in_every_mode() {
    for mode in Mode::ALL {
        let running = Running::start("raw", mode.name());
        let mut conns: Vec<Lines> = (0..20).map(|_| running.connect()).collect();
        for (i, conn) in conns.iter_mut().enumerate() {
            assert_eq!(
                conn.ask(&format!("hello {i}")),
                format!("hello {i}"),
                "{mode}"
            );
            let about = format!("{} 0", conn.local_address());
            assert_eq!(conn.ask("about"), about, "{mode}");
        }
        assert_eq!(running.metric("pointsman_connections_open"), 20.0, "{mode}");
        let open: u64 = running
            .workers()
            .iter()
            .filter_map(|w| w["connections_open"].as_u64())
            .sum();
        assert_eq!(open, 20, "{mode}");
        let said: usize = (0..20).map(|i| format!("hello {i}\nabout\n").len()).sum();
        assert_eq!(bytes(&running, "in"), said as f64, "{mode}");
        assert!(bytes(&running, "out") > said as f64, "{mode}");
        drop(conns);
        running.nothing_is_open();
        assert_eq!(
            running.metric("pointsman_connections_total"),
            20.0,
            "{mode}"
        );
    }
}

fn bytes(running: &Running, direction: &str) -> f64 {
    let page = crate::harness::get(running.admin, "/metrics").text();
    page.lines()
        .filter(|l| {
            l.starts_with("pointsman_bytes_total{") && l.contains(&format!("\"{direction}\""))
        })
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(_, value)| value.parse::<f64>().expect("a number"))
        .sum()
}

pub fn a_panic_costs_one_connection() {
    let running = Running::start("raw", "handoff");
    let mut stays = running.connect_to(0);
    let who = stays.ask("who");
    for _ in 0..3 {
        let mut conn = running.connect_to(0);
        assert_eq!(conn.ask("panic"), "");
    }
    // In the same process as before.
    assert_eq!(stays.ask("who"), who);
    assert_eq!(running.connect_to(0).ask("who"), who);
    drop(stays);
    running.nothing_is_open();
}

/// The handler has returned, and its connection lives on in a task or thread of its own.
pub fn other_tasks_and_threads_count_too() {
    let running = Running::start("raw", "shared");
    let mut conns: Vec<Lines> = (0..16).map(|_| running.connect()).collect();
    for (i, conn) in conns.iter_mut().enumerate() {
        let whose = if i % 2 == 0 { "task" } else { "thread" };
        assert_eq!(conn.ask(whose), "taken");
    }
    for conn in &mut conns {
        assert_eq!(conn.ask("x"), "x");
    }
    assert_eq!(running.metric("pointsman_connections_open"), 16.0);
    drop(conns);
    running.nothing_is_open();
    assert_eq!(running.metric("pointsman_connections_total"), 16.0);
}

/// Who listens to it can say goodbye; who does not is cut at the deadline.
pub fn drain_is_told_and_ends() {
    let mut running = Running::start("hurried", "handoff");
    let (mut polite, mut deaf) = (running.connect(), running.connect());
    assert_eq!(polite.ask("drain"), "waiting");
    assert_eq!(deaf.ask("stay"), "staying");
    running.terminate();
    assert_eq!(polite.hear(), "bye");
    assert_eq!(polite.hear(), "");
    assert_eq!(deaf.hear(), "");
    assert!(running.wait().success());
    assert!(
        running
            .line("pointsman: drain deadline")
            .contains("cutting 1 connection")
    );
}

pub fn what_a_killed_worker_held_is_counted() {
    let running = Running::start("raw", "handoff");
    let mut conns: Vec<Lines> = (0..3).map(|_| running.connect_to(1)).collect();
    let who = conns[0].ask("who");
    let pid = who
        .split(' ')
        .nth(1)
        .expect("a pid")
        .parse()
        .expect("a number");
    kill(pid, Signal::SIGKILL);
    for conn in &mut conns {
        assert_eq!(conn.hear(), "");
    }
    running.connect_to(1);
    running.nothing_is_open();
    assert_eq!(running.metric("pointsman_connections_lost_total"), 3.0);
}
