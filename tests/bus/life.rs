//! Births, deaths, restarts, upgrades and hangs, as the bus sees them.

use std::net::TcpListener;

use nix::sys::signal::Signal::{SIGKILL, SIGTERM, SIGUSR2};
use serde_json::{Value, json};

use super::{
    cluster::{Cluster, Worker},
    runner::Test,
};
use crate::harness::{descriptors, is_true, kill, until};

pub const TESTS: &[Test] = &[
    (
        "a_message_reaches_who_has_subscribed",
        a_message_reaches_who_has_subscribed,
    ),
    (
        "a_killed_worker_is_seen_to_go_by_its_signal",
        a_killed_worker_is_seen_to_go_by_its_signal,
    ),
    (
        "an_exit_is_seen_with_its_code",
        an_exit_is_seen_with_its_code,
    ),
    (
        "respawns_leave_nothing_behind",
        respawns_leave_nothing_behind,
    ),
    (
        "a_worker_that_is_replaced_leaves_in_peace",
        a_worker_that_is_replaced_leaves_in_peace,
    ),
    (
        "an_upgrade_keeps_what_was_asked_for",
        an_upgrade_keeps_what_was_asked_for,
    ),
    ("a_hung_worker_gets_no_calls", a_hung_worker_gets_no_calls),
    (
        "a_master_that_serves_is_on_the_bus_too",
        a_master_that_serves_is_on_the_bus_too,
    ),
    (
        "a_branch_is_on_the_bus_of_the_trunk",
        a_branch_is_on_the_bus_of_the_trunk,
    ),
    ("an_idle_bus_wakes_nobody", an_idle_bus_wakes_nobody),
];

fn subscribe(worker: &Worker, pattern: &str) {
    worker.ok(json!({ "do": "subscribe", "pattern": pattern }));
}

fn publish(worker: &Worker, topic: &str, payload: &str) {
    worker.ok(json!({ "do": "publish", "topic": topic, "payload": payload }));
}

/// What `presence` says of `id` in an event, by its kind: `online`, `ready`, `changed`, `offline`.
fn of<'a>(event: &'a Value, kind: &str, id: &str) -> Option<&'a Value> {
    let what = &event["presence"][kind];
    let peer = if kind == "offline" {
        &what["peer"]
    } else {
        what
    };
    (peer["id"] == id).then_some(what)
}

fn a_message_reaches_who_has_subscribed() {
    let cluster = Cluster::start(3);
    let [a, b, c] = [0, 1, 2].map(|seat| cluster.worker(seat));
    subscribe(&b, "room.*");
    subscribe(&c, "hall.*");
    publish(&a, "room.7", "hello");
    b.receives("room.7", "hello");
    publish(&a, "hall.7", "there");
    c.receives("hall.7", "there");
    assert!(b.got("hall.7").is_empty() && c.got("room.7").is_empty());
    // The master and three workers; all of them ready, with the machine's name.
    let peers = cluster.lists(&a, 4);
    let node = &peers[0]["node"];
    assert!(!node.as_str().expect("text").is_empty());
    for peer in &peers {
        assert_eq!(peer["node"], *node, "{peers:?}");
    }
    until("all are ready", || {
        let peers = cluster.lists(&a, 4);
        let workers = peers
            .iter()
            .filter(|peer| peer["role"]["worker"].is_object());
        is_true(workers.filter(|peer| peer["ready"] == true).count() == 3)
    });
    assert_eq!(cluster.metric("pointsman_bus_up"), 1.0);
    assert_eq!(cluster.metric("pointsman_bus_processes"), 4.0);
    assert_eq!(cluster.report("/status")["bus"]["processes"], 4);
}

fn a_killed_worker_is_seen_to_go_by_its_signal() {
    let cluster = Cluster::start(2);
    let (a, b) = (cluster.worker(0), cluster.worker(1));
    a.ok(json!({ "do": "watch" }));
    // What it has said last still counts, and comes before the news of its end.
    subscribe(&a, "last.words");
    publish(&b, "last.words", "farewell");
    kill(b.pid, SIGKILL);
    let reason = a.hears("its end is told", |event| {
        of(event, "offline", &b.id).map(|what| what["reason"].clone())
    });
    assert_eq!(reason, json!({ "signal": SIGKILL as i32 }));
    assert_eq!(a.got("last.words"), ["farewell"]);
    // Its successor is another process, online and then ready.
    let next = cluster.successor(&b);
    assert_ne!(next.id, b.id);
    let online = a.hears("the next comes", |e| of(e, "online", &next.id).cloned());
    assert_eq!(online["role"]["worker"]["seat"], 1);
    assert_eq!(online["role"]["worker"]["generation"], 2);
    assert_eq!(online["pid"], next.pid);
    a.hears("and is ready", |event| {
        of(event, "ready", &next.id).cloned()
    });
    // What is for the dead does not reach the successor.
    let told = a.tell(json!({ "do": "request", "to": b.id, "topic": "x" }));
    assert!(told.expect_err("nobody").contains("nobody is there"));
}

fn an_exit_is_seen_with_its_code() {
    let cluster = Cluster::start(2);
    let (a, b) = (cluster.worker(0), cluster.worker(1));
    a.ok(json!({ "do": "watch" }));
    // Whoever waits for an answer hears at once that none comes.
    b.ok(json!({ "do": "subscribe", "pattern": "deaf", "then": "hold" }));
    let request = json!({ "do": "request", "to": b.id, "topic": "deaf", "ms": 600_000 });
    let waiting = a.begin(request);
    b.hears("the request is there", |event| {
        (event["got"]["topic"] == "deaf").then_some(())
    });
    b.begin(json!({ "do": "exit", "code": 3 }));
    let reason = a.hears("its end is told", |event| {
        of(event, "offline", &b.id).map(|what| what["reason"].clone())
    });
    assert_eq!(reason, json!({ "exit": 3 }));
    let error = a.answer(waiting).expect_err("nobody answers");
    assert!(error.contains("ended before it answered"), "{error}");
}

/// How often a worker is to be respawned: as often as somebody says, or a number that does not take
/// long.
fn respawns() -> u64 {
    let asked_for = std::env::var("BUS_TEST_RESPAWNS").ok();
    asked_for.map_or(200, |n| n.parse().expect("a number"))
}

fn respawns_leave_nothing_behind() {
    let cluster = Cluster::shaped("workers=2 backoff=1");
    let a = cluster.worker(0);
    subscribe(&a, "alive");
    let mut mortal = cluster.worker(1);
    let mut before = None;
    for cycle in 0..respawns() {
        subscribe(&mortal, "topic.>");
        subscribe(&mortal, &format!("own.{cycle}"));
        mortal.ok(json!({ "do": "host", "application": "app", "description": {} }));
        publish(&mortal, "alive", &cycle.to_string());
        a.receives("alive", &cycle.to_string());
        // The first ones warm it up: what is kept for reuse is there from then on.
        if cycle == 20 {
            before = Some(descriptors(cluster.pid()));
        }
        kill(mortal.pid, SIGKILL);
        mortal = cluster.successor(&mortal);
    }
    cluster.lists(&a, 3);
    until("the master has as many descriptors as before", || {
        let now = descriptors(cluster.pid());
        is_true(before.is_some_and(|before| now <= before))
    });
    // Nobody is left who would want it: whoever asks is told so.
    let told = a.tell(json!({ "do": "call", "application": "app" }));
    assert!(told.expect_err("nobody hosts it").contains("hosts"));
    let before = cluster.metric("pointsman_bus_deliveries_total");
    publish(&a, "topic.x", "nobody listens");
    publish(&a, "own.0", "nobody listens");
    // Only what the commands themselves cost: nothing was delivered.
    let after = cluster.metric("pointsman_bus_deliveries_total");
    assert_eq!(after - before, 0.0);
    assert_eq!(cluster.metric("pointsman_bus_processes"), 3.0);
    assert_eq!(cluster.metric("pointsman_bus_queued_bytes"), 0.0);
}

fn a_worker_that_is_replaced_leaves_in_peace() {
    let cluster = Cluster::start(2);
    let (a, b) = (cluster.worker(0), cluster.worker(1));
    a.ok(json!({ "do": "watch" }));
    kill(b.pid, SIGTERM);
    let next = cluster.successor(&b);
    let reason = a.hears("its end is told", |event| {
        of(event, "offline", &b.id).map(|what| what["reason"].clone())
    });
    assert_eq!(reason, json!({ "exit": 0 }));
    subscribe(&next, "news");
    publish(&a, "news", "for the next");
    next.receives("news", "for the next");
}

fn an_upgrade_keeps_what_was_asked_for() {
    let cluster = Cluster::shaped("workers=2 patient=true");
    let (a, b) = (cluster.worker(0), cluster.worker(1));
    a.ok(json!({ "do": "watch" }));
    subscribe(&a, "from.*");
    b.ok(json!({ "do": "subscribe", "pattern": "numbers", "then": "count" }));
    a.ok(json!({ "do": "subscribe", "pattern": "deaf", "then": "hold" }));
    b.ok(json!({ "do": "host", "application": "app", "description": { "kind": "x" } }));
    b.ok(json!({ "do": "offer", "function": "sum" }));
    // A request that is answered only afterwards, and a stream of messages from before to after.
    let waiting = b.begin(json!({ "do": "request", "to": a.id, "topic": "deaf", "ms": 600_000 }));
    a.hears("the request is there", |event| {
        (event["got"]["topic"] == "deaf").then_some(())
    });
    let counted = cluster.metric("pointsman_bus_messages_total");
    kill(cluster.pid(), SIGUSR2);
    let mut sent = 0;
    let mut is_over = || -> Option<()> {
        let times = 500;
        a.ok(json!({
            "do": "publish", "topic": "numbers", "payload": "", "first": sent + 1, "times": times,
        }));
        sent += times;
        // So many fit into any queue; more are not sent before these have come.
        until("they have come", || {
            let counted = b.ok(json!({ "do": "counted", "pattern": "numbers" }));
            is_true(counted["last"][&a.id] == sent)
        });
        is_true(cluster.report("/status")["upgrades"] == 1)
    };
    until("another binary is there", &mut is_over);
    is_over();
    let counted_by_b = b.ok(json!({ "do": "counted", "pattern": "numbers" }));
    assert_eq!(counted_by_b["messages"], sent, "{counted_by_b}");
    assert_eq!(counted_by_b["disorder"], 0);
    // The old workers are there until their successors are ready, which is when we say so. What they
    // have asked for still holds, and no message was lost.
    publish(&b, "from.old", "1");
    a.receives("from.old", "1");
    let call = json!({ "do": "call", "application": "app", "action": "go", "payload": "x" });
    assert_eq!(a.ok(call)["from"], b.id);
    let sum = json!({ "do": "run", "on": b.id, "function": "sum", "numbers": [1, 2, 3] });
    assert_eq!(a.ok(sum)["result"], 6);
    a.ok(json!({ "do": "answer", "payload": "at last" }));
    let answer = b.answer(waiting).expect("it was only late");
    assert_eq!(answer["payload"], "at last");
    // The successors are on the same bus, under the same master, and not taken for anybody else.
    let next_a = cluster.successor(&a);
    assert_eq!(next_a.master(), a.master());
    assert!(number(&next_a) > number(&b), "{} {}", next_a.id, b.id);
    next_a.ok(json!({ "do": "be-ready" }));
    let next_b = cluster.successor(&b);
    // It listens to nothing yet: who is meant by its seat is still the one before.
    b.ok(json!({ "do": "subscribe", "pattern": "seat", "then": "echo" }));
    let ask = json!({ "do": "request", "to": "worker 1", "topic": "seat" });
    assert_eq!(next_a.ok(ask)["from"], b.id);
    next_b.ok(json!({ "do": "be-ready" }));
    subscribe(&next_b, "from.*");
    publish(&next_a, "from.after", "2");
    next_b.receives("from.after", "2");
    until("the old ones have gone", || {
        is_true(a.is_over() && b.is_over())
    });
    cluster.lists(&next_a, 3);
    // What was counted goes on.
    assert!(cluster.metric("pointsman_bus_messages_total") > counted);
}

/// Which of all that its master has had.
fn number(worker: &Worker) -> u32 {
    let (_, number) = worker.id.split_once(':').expect("an id");
    number.parse().expect("a number")
}

fn a_hung_worker_gets_no_calls() {
    let cluster = Cluster::shaped("workers=3 hang-kill=600000");
    let [a, b, c] = [0, 1, 2].map(|seat| cluster.worker(seat));
    for host in [&b, &c] {
        host.ok(json!({ "do": "host", "application": "app", "description": {} }));
    }
    let gate = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let until_address = gate.local_addr().expect("bound").to_string();
    b.begin(json!({ "do": "block", "until": until_address }));
    let (held, _) = gate.accept().expect("it is stuck now");
    // Somebody must be waiting for it before the master can tell.
    until("it is seen to hang", || {
        let _ = std::net::TcpStream::connect(cluster.listen());
        let workers = cluster.report("/workers");
        is_true(workers["workers"][1]["state"] == "hung")
    });
    for _ in 0..10 {
        let call = json!({ "do": "call", "application": "app", "action": "go", "payload": "x" });
        assert_eq!(a.ok(call)["from"], c.id);
    }
    drop(held);
    until("it takes calls again", || {
        let call = json!({ "do": "call", "application": "app", "action": "go", "payload": "x" });
        is_true(a.ok(call)["from"] == b.id)
    });
}

fn a_master_that_serves_is_on_the_bus_too() {
    let cluster = Cluster::shaped("workers=1 master-serves=true");
    // The master's own seat comes after all that workers may have.
    let (a, masters) = (cluster.worker(0), cluster.worker(128));
    assert_eq!(masters.pid, cluster.pid());
    subscribe(&masters, "x");
    publish(&a, "x", "hello");
    masters.receives("x", "hello");
    cluster.lists(&a, 3);
}

fn a_branch_is_on_the_bus_of_the_trunk() {
    let trunk = Cluster::start(2);
    let (a, b) = (trunk.worker(0), trunk.worker(1));
    a.ok(json!({ "do": "watch" }));
    let below = Cluster::desk();
    let shape = "workers=2";
    let command = json!({ "do": "branch", "desk": below.desk_address(), "shape": shape });
    let pid = b.ok(command)["pid"].as_i64().expect("a number") as i32;
    let (x, y) = (below.worker(0), below.worker(1));
    assert_ne!(x.master(), a.master());
    // Three of the trunk, three of the branch; each sees all.
    for worker in [&a, &b, &x, &y] {
        trunk.lists(worker, 6);
    }
    let masters = format!("{}:0", x.master());
    until("the branch hangs where it was started", || {
        let peers = trunk.lists(&a, 6);
        let master = peers.iter().find(|peer| peer["id"] == masters)?;
        is_true(master["parent"] == b.id)
    });
    assert_eq!(x.hello["parent"], masters);
    subscribe(&x, "down");
    publish(&a, "down", "to the branch");
    x.receives("down", "to the branch");
    subscribe(&a, "up");
    publish(&y, "up", "to the trunk");
    a.receives("up", "to the trunk");
    assert!(x.got("up").is_empty() && b.got("up").is_empty());
    // A message from below passes all above it.
    subscribe(&b, "bubble");
    y.ok(json!({ "do": "send", "to": "ancestors", "topic": "bubble", "payload": "!" }));
    b.receives("bubble", "!");
    // Its parent's end does not cut it off; its own does.
    kill(b.pid, SIGKILL);
    trunk.successor(&b);
    publish(&a, "down", "still there");
    x.receives("down", "still there");
    kill(pid, SIGTERM);
    a.hears("the branch goes", |event| {
        of(event, "offline", &masters).map(|_| ())
    });
    trunk.lists(&a, 3);
}

/// Switches of context of all threads of a process, by the kernel's count.
fn switches(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let status = tasks.filter_map(|task| {
        let path = task.ok()?.path().join("status");
        std::fs::read_to_string(path).ok()
    });
    let of = |status: String| -> u64 {
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        let counts = lines.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok());
        counts.sum()
    };
    status.map(of).sum()
}

fn an_idle_bus_wakes_nobody() {
    let cluster = Cluster::start(2);
    let (a, b) = (cluster.worker(0), cluster.worker(1));
    subscribe(&b, "x");
    publish(&a, "x", "hello");
    b.receives("x", "hello");
    let processes = [cluster.pid(), a.pid, b.pid];
    let all = || processes.map(switches);
    // Half a second in which nobody has done anything, found within the deadline: a timer would keep
    // any from being so.
    until("nobody wakes up for half a second", || {
        let before = all();
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        is_true(before == all())
    });
}
