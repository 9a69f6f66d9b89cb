//! Options and hooks of the library.

use nix::sys::signal::Signal;

use crate::{
    harness::{kill, until},
    running::{Running, command},
};

pub fn nodes_count_the_master() {
    let running = Running::start("nodes", "handoff");
    let workers = running.workers();
    let names: Vec<_> = workers
        .iter()
        .map(|w| w["worker"].as_str().expect("text"))
        .collect();
    assert_eq!(names, ["0", "1", "master"]);
    // The master, and each worker, which hosts in the same call; and the factory of all three was called.
    let printed = running.printed();
    let count = |line: &str| printed.iter().filter(|l| *l == line).count();
    assert_eq!((count("is_master true"), count("is_master false")), (1, 2));
    let made = printed.iter().filter(|l| l.starts_with("made ")).count();
    assert_eq!(made, 3, "{printed:?}");
    // All of them serve.
    for worker in &workers {
        let pid = worker["pid"].as_i64().expect("there");
        until("each has a connection", || {
            running
                .connect()
                .ask("who")
                .ends_with(&format!(" {pid}"))
                .then_some(())
        });
    }
}

pub fn what_cannot_be_is_refused() {
    for (program, culprit) in [
        ("one-node", "nodes 1: the master is one of them"),
        ("no-node", "nodes 0: it takes at least 1"),
        ("both", "nodes and workers both"),
    ] {
        let output = command(program, "handoff").output().expect("this program");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(culprit), "{said}");
    }
}

pub fn hooks_hear_of_starts_and_ends() {
    let mut running = Running::start("hooks", "handoff");
    let pid = |seat: u16| -> i32 {
        let who = running.connect_to(seat).ask("who");
        who.split(' ')
            .nth(1)
            .expect("a pid")
            .parse()
            .expect("a number")
    };
    for seat in 0..2 {
        assert_eq!(
            running.line(&format!("start {seat} ")),
            format!("start {seat} 1 {}", pid(seat))
        );
    }
    assert!(!running.printed().iter().any(|l| l.starts_with("restart")));
    kill(pid(0), Signal::SIGKILL);
    assert_eq!(running.line("stop 0"), "stop 0 1 Signal(9)");
    assert_eq!(running.line("restart 0"), "restart 0 2");
    assert_eq!(running.line("start 0 2"), format!("start 0 2 {}", pid(0)));
    running.connect_to(1).say("exit");
    assert_eq!(running.line("stop 1"), "stop 1 1 Exit(3)");
    running.line("start 1 2");
    running.connect_to(1);
    running.terminate();
    assert!(running.wait().success());
    running.line("stop 0 2 Exit(0)");
    running.line("stop 1 2 Exit(0)");
    // One of the hooks panics each time.
    running.line("pointsman: a hook has panicked");
}

pub fn workers_hear_that_they_drain() {
    let mut running = Running::start("hooks", "handoff");
    running.connect_to(0);
    running.connect_to(1);
    running.terminate();
    assert!(running.wait().success());
    running.line("drain 0");
    running.line("drain 1");
}

pub fn an_empty_seat_stays_empty() {
    let running = Running::start("no-restart", "handoff");
    let who = running.connect_to(1).ask("who");
    let pid = who
        .split(' ')
        .nth(1)
        .expect("a pid")
        .parse()
        .expect("a number");
    kill(pid, Signal::SIGKILL);
    assert_eq!(running.line("stop 1"), "stop 1 1 Signal(9)");
    let said = running.line("pointsman: worker 1 ");
    assert!(said.ends_with("its seat stays empty"), "{said}");
    let seat = until("the status says so", || {
        running
            .workers()
            .into_iter()
            .nth(1)
            .filter(|w| w["state"] == "dead")
    });
    assert!(
        seat["pid"].is_null() && seat["respawn_in_seconds"].is_null(),
        "{seat}"
    );
    // The other goes on alone.
    for _ in 0..8 {
        assert!(running.connect().ask("who").starts_with("0 "));
    }
    assert!(!running.printed().iter().any(|l| l.starts_with("restart")));
}
