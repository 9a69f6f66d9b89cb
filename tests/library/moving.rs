//! Connections and listeners that one process moves to another.

use nix::sys::signal::Signal;

use crate::{
    harness::{get, kill, resume, stop, until},
    running::{Lines, Running},
};

/// Of all workers together.
fn sum(running: &Running, field: &str) -> u64 {
    let workers = running.workers();
    workers
        .iter()
        .map(|w| w[field].as_u64().expect("a number"))
        .sum()
}

fn pid_of(conn: &mut Lines) -> i32 {
    let who = conn.ask("who");
    who.split(' ')
        .nth(1)
        .expect("a pid")
        .parse()
        .expect("a number")
}

pub fn a_connection_goes_on_elsewhere() {
    for mode in ["handoff", "shared", "reuseport"] {
        let running = Running::start("raw", mode);
        let mut conns: Vec<Lines> = (0..10).map(|_| running.connect_to(0)).collect();
        for conn in &mut conns {
            let (about, id) = (conn.ask("about"), conn.ask("id"));
            assert_eq!(conn.ask("moved"), "no");
            conn.say("move 1 for you");
            // It is the same connection, from the same client and by the same listener.
            assert_eq!(conn.ask("moved"), format!("{id} for you"), "{mode}");
            assert!(conn.ask("who").starts_with("1 "), "{mode}");
            assert_eq!(conn.ask("about"), about, "{mode}");
        }
        // Those who found their worker at the second try have gone by now.
        until("only these are open", || {
            (running.metric("pointsman_connections_open") == 10.0).then_some(())
        });
        assert_eq!(sum(&running, "connections_moved_out"), 10, "{mode}");
        assert_eq!(sum(&running, "connections_moved_in"), 10, "{mode}");
        assert_eq!((running.moved("in"), running.moved("out")), (10.0, 10.0));
        let open = |seat: usize| running.workers()[seat]["connections_open"].clone();
        assert_eq!((open(0), open(1)), (0.into(), 10.into()), "{mode}");
        // And back again, twice, and to the worker where it is.
        for conn in &mut conns[..3] {
            for seat in ["0", "1", "0", "0"] {
                conn.say(&format!("move {seat} again"));
                assert!(conn.ask("who").starts_with(seat), "{mode}");
            }
        }
        drop(conns);
        running.nothing_is_open();
        assert_eq!(sum(&running, "connections_moved_in_doubt"), 0, "{mode}");
        assert_eq!(
            running.metric("pointsman_connections_lost_total"),
            0.0,
            "{mode}"
        );
    }
}

pub fn what_nobody_has_read_comes_along() {
    let running = Running::start("sniff", "handoff");
    for seat in ["0", "1", "1", "0"] {
        let mut conn = running.connect();
        conn.say(&format!("{seat} was the first\nwho"));
        assert_eq!(conn.hear(), format!("{seat} was the first"));
        assert!(conn.hear().starts_with(&format!("{seat} ")));
        assert!(conn.ask("moved").ends_with(" sniffed"));
    }
    running.nothing_is_open();
}

pub fn who_cannot_be_reached_gives_it_back() {
    let running = Running::start("raw", "handoff");
    let mut conn = running.connect_to(0);
    let who = conn.ask("who");
    // No such worker; more than fits into a message.
    assert_eq!(conn.ask("move 7 x"), "not moved");
    running.line("not moved: nobody is there");
    assert_eq!(
        conn.ask(&format!("move 1 {}", "x".repeat(65_536))),
        "not moved"
    );
    assert_eq!(conn.ask("who"), who);
    drop(conn);
    running.nothing_is_open();
    assert_eq!(sum(&running, "connections_moved_out"), 0);
    assert_eq!(sum(&running, "connections_moved_in_doubt"), 0);
}

/// It may have taken it, for all that the sender knows: the client is cut, but never served twice.
pub fn a_receiver_that_stands_still() {
    let running = Running::start("raw", "handoff");
    let mut there = running.connect_to(1);
    let pid = pid_of(&mut there);
    let mut conn = running.connect_to(0);
    stop(pid);
    conn.say("move 1 x");
    let said = running.line("not moved: ");
    assert!(said.contains("nobody knows"), "{said}");
    // Then it is too late for it.
    resume(pid);
    assert_eq!(conn.hear(), "");
    assert_eq!(there.ask("still there"), "still there");
    until("it is counted", || {
        (sum(&running, "connections_moved_in_doubt") == 1).then_some(())
    });
    assert_eq!((running.moved("doubt"), running.moved("in")), (1.0, 0.0));
    assert_eq!(sum(&running, "connections_moved_in"), 0);
    drop(there);
    running.nothing_is_open();
}

/// Whoever is served is served by one, and nobody waits for ever.
pub fn a_receiver_that_is_killed() {
    let running = Running::start("raw", "handoff");
    let mut there = running.connect_to(1);
    let pid = pid_of(&mut there);
    let mut conns: Vec<Lines> = (0..20).map(|_| running.connect_to(0)).collect();
    for (i, conn) in conns.iter_mut().enumerate() {
        if i == 10 {
            kill(pid, Signal::SIGKILL);
        }
        conn.say("move 1 x");
    }
    let mut served = 0;
    for conn in &mut conns {
        match conn.try_ask("who").as_deref() {
            // Told that it was not moved, it is where it was.
            Some("not moved") => assert!(conn.hear().starts_with("0 ")),
            Some("") | None => continue,
            Some(who) => assert!(who.starts_with("1 "), "{who}"),
        }
        served += 1;
    }
    assert_eq!(there.hear(), "");
    println!("{served} of 20 were served");
    drop(conns);
    running.nothing_is_open();
    assert_eq!(running.connect_to(1).ask("on"), "on");
}

pub fn a_listener_and_its_connections() {
    let running = Running::start("listeners", "handoff");
    let mut asking = running.connect_to(0);
    let said = asking.ask("listen");
    let (address, sent) = said.split_once(' ').expect("two words");
    assert_eq!(sent, "Ok(())");
    assert_eq!(running.line("listener 1"), "listener 1 b\"yours\"");
    let mut conn = Lines::connect(address.parse().expect("an address"));
    assert!(conn.ask("who").starts_with("1 "));
    assert_eq!(conn.ask("nodelay"), "true");
    // It counts as any other, and can be moved as any other.
    assert_eq!(running.workers()[1]["connections_open"], 1);
    conn.say("move 0 over");
    assert!(conn.ask("who").starts_with("0 "));
    drop((conn, asking));
    running.nothing_is_open();
    // Nobody has asked for listeners here.
    let deaf = Running::start("raw", "handoff");
    let said = deaf.connect_to(0).ask("listen");
    assert!(said.contains("Err(Failed(NoListener"), "{said}");
}

/// A connection that a worker accepted by itself is served by the other's application.
pub fn to_an_application() {
    let running = Running::start("http", "handoff");
    let own = running.line("own ");
    let answer = get(own[4..].parse().expect("an address"), "/");
    assert_eq!(answer.text(), "1 Some(b\"by hand\")");
    let answer = get(running.address, "/");
    assert!(answer.text().ends_with(" None"), "{}", answer.text());
    running.nothing_is_open();
    assert_eq!(running.metric("pointsman_requests_total"), 2.0);
}

pub fn from_the_master() {
    let running = Running::start("master", "handoff");
    let own = running.line("own ");
    let mut conn = Lines::connect(own[4..].parse().expect("an address"));
    let who = conn.ask("who");
    assert!(who.starts_with("1 "), "{who}");
    let moved = conn.ask("moved");
    assert!(moved.ends_with(" from above"), "{moved}");
    assert_eq!(conn.ask("nodelay"), "true");
    running.line(&format!("there {who}"));
    drop(conn);
    running.nothing_is_open();
}

/// Its client is cut, or served by the other, and that is counted.
pub fn a_sender_that_does_not_wait() {
    let running = Running::start("raw", "handoff");
    let mut there = running.connect_to(1);
    let pid = pid_of(&mut there);
    let mut conn = running.connect_to(0);
    stop(pid);
    conn.say("forsake");
    until("it is counted", || {
        (running.moved("doubt") == 1.0).then_some(())
    });
    resume(pid);
    assert!(
        conn.try_ask("who")
            .is_none_or(|who| who.is_empty() || who.starts_with("1 "))
    );
    drop((conn, there));
    running.nothing_is_open();
}

/// Whatever is moved to a worker that ends is served by it, or by its successor, or stays where it was.
pub fn a_receiver_that_drains() {
    let running = Running::start("raw", "handoff");
    for round in 0..5 {
        let pid = pid_of(&mut running.connect_to(1));
        let mut conns: Vec<Lines> = (0..20).map(|_| running.connect_to(0)).collect();
        for (i, conn) in conns.iter_mut().enumerate() {
            if i == 10 {
                kill(pid, Signal::SIGTERM);
            }
            conn.say("move 1 x");
        }
        for conn in &mut conns {
            let who = conn.ask("who");
            let is_served = match who.as_str() {
                "not moved" => conn.hear().starts_with("0 "),
                who => who.starts_with("1 "),
            };
            assert!(is_served, "{round}: {who}");
        }
    }
    assert_eq!(running.moved("doubt"), 0.0);
    running.nothing_is_open();
}
