//! What a worker can say to its hub that none would: it costs its own place on the bus, if anything.

use std::os::fd::RawFd;

use nix::{
    errno::Errno,
    sys::{
        signal::Signal::SIGKILL,
        socket::{MsgFlags, send as send_packet},
    },
};
use pointsman::{
    bus::{
        Attached, Encoding, ProcessId, Space, To,
        frame::{self, Header, Kind},
    },
    sys::child::INHERITED,
};
use serde_json::json;

use super::{
    cluster::{Cluster, Worker},
    runner::Test,
    slow::resident,
};
use crate::harness::{is_true, kill, until};

pub const TESTS: &[Test] = &[
    (
        "what_makes_no_sense_costs_whoever_sent_it_the_bus_and_nobody_else_anything",
        what_makes_no_sense_costs_whoever_sent_it_the_bus_and_nobody_else_anything,
    ),
    ("nobody_speaks_as_another", nobody_speaks_as_another),
    (
        "answers_that_nobody_reads_are_bounded",
        answers_that_nobody_reads_are_bounded,
    ),
];

/// What is no packet, or none that a worker may send.
const NONSENSE: [&str; 8] = [
    "noise",
    "cut short",
    "length",
    "tag",
    "topic",
    "fact",
    "descriptor",
    "travelled",
];

/// In the worker: puts packets into its line to the hub, behind the library's back.
pub fn send(what: &str, victim: Option<ProcessId>, times: u64) -> u64 {
    let line = line();
    for id in 1..=times {
        let packet = packet(what, victim, id);
        loop {
            match send_packet(line, &packet, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EAGAIN) => std::thread::yield_now(),
                Err(_) => return id - 1,
                Ok(_) => break,
            }
        }
    }
    times
}

/// The line to the hub: the last of those that a worker is given by way of the one that it is born with.
fn line() -> RawFd {
    let born_with = std::env::var(INHERITED).expect("a worker");
    let born_with = born_with.split(':').next().and_then(|n| n.parse().ok());
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("Linux");
    let packets = sockets.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(4);
        (words.next() == Some("0005")).then(|| words.nth(1))?
    });
    let packets: Vec<String> = packets.map(|inode| format!("socket:[{inode}]")).collect();
    let ours = std::fs::read_dir("/proc/self/fd").expect("Linux");
    let lines = ours.filter_map(|one| {
        let one = one.ok()?;
        let name = std::fs::read_link(one.path()).ok()?;
        let is_line = packets
            .iter()
            .any(|line| name.to_str() == Some(line.as_str()));
        is_line.then(|| one.file_name().to_str()?.parse().ok())?
    });
    let given = lines.filter(|number: &RawFd| Some(*number) != born_with);
    given.max().expect("there is one")
}

fn packet(what: &str, victim: Option<ProcessId>, id: u64) -> Vec<u8> {
    let mut header = Header {
        kind: Kind::Event,
        space: Space::Topic,
        encoding: Encoding::Raw,
        attached: Attached::Nothing,
        sequence: 0,
        from: victim.unwrap_or("0000000000000000:0".parse().expect("an id")),
        id: 0,
        deadline: 0,
    };
    let (mut to, mut topic, mut path) = (To::Subscribers, "news", Vec::new());
    match what {
        "fact" => header.kind = Kind::Fact,
        "descriptor" => header.attached = Attached::Connection,
        "topic" => topic = "no..topic",
        "travelled" => path.push(header.from.master()),
        // An answer to what was never asked of this process.
        "answer" => {
            (header.kind, header.id) = (Kind::Reply, id);
            to = To::Processes(vec![header.from]);
        }
        "to nobody" => {
            (header.kind, header.id) = (Kind::Request, id);
            to = To::Processes(vec![header.from]);
        }
        _ => {}
    }
    let mut bytes = Vec::new();
    frame::encode(&header, &to, topic, &path, b"forged", &mut bytes);
    match what {
        "noise" => bytes = (0..500u32).map(|i| (i * 7 % 251) as u8).collect(),
        "cut short" => bytes.truncate(20),
        "length" => bytes[0..4].copy_from_slice(&u32::MAX.to_le_bytes()),
        "tag" => bytes[4] = 200,
        _ => {}
    }
    bytes
}

fn publish(worker: &Worker, payload: &str) {
    worker.ok(json!({ "do": "publish", "topic": "news", "payload": payload }));
}

fn what_makes_no_sense_costs_whoever_sent_it_the_bus_and_nobody_else_anything() {
    let cluster = Cluster::shaped("workers=3 backoff=1");
    let (a, b, mut hacked) = (cluster.worker(0), cluster.worker(1), cluster.worker(2));
    b.ok(json!({ "do": "subscribe", "pattern": "news" }));
    for (number, what) in NONSENSE.iter().enumerate() {
        hacked.ok(json!({ "do": "subscribe", "pattern": "kept", "then": "hold" }));
        let ask = json!({ "do": "request", "to": hacked.id, "topic": "kept", "ms": 600_000 });
        let waiting = a.begin(ask);
        hacked.hears("the request is there", |event| {
            (event["got"]["topic"] == "kept").then_some(())
        });
        hacked.ok(json!({ "do": "hack", "what": what }));
        // Whoever waits for it is told, and it is told, too.
        let error = a.answer(waiting).expect_err("it has no bus any more");
        assert!(
            error.contains("ended before it answered"),
            "{what}: {error}"
        );
        until("it sees that it has no bus", || {
            let said = hacked.tell(json!({ "do": "peers" }));
            is_true(said.is_err_and(|error| error.contains("closed")))
        });
        let log = cluster.log();
        let line = format!("process {} is cut off from the bus", hacked.id);
        assert!(log.contains(&line), "{what}: {log}");
        let malformed = cluster.metric("pointsman_bus_malformed_total");
        assert_eq!(malformed, (number + 1) as f64, "{what}");
        // It goes on serving; the others go on talking.
        assert!(!hacked.is_over());
        publish(&a, what);
        b.receives("news", what);
        kill(hacked.pid, SIGKILL);
        hacked = cluster.successor(&hacked);
    }
    assert_eq!(b.got("news"), NONSENSE);
}

fn nobody_speaks_as_another() {
    let cluster = Cluster::start(3);
    let (a, b, forger) = (cluster.worker(0), cluster.worker(1), cluster.worker(2));
    b.ok(json!({ "do": "subscribe", "pattern": "news" }));
    forger.ok(json!({ "do": "hack", "what": "event", "victim": a.id }));
    b.receives("news", "forged");
    let from = b.hears("what was forged", |event| {
        event["got"]["from"].as_str().map(str::to_owned)
    });
    assert_eq!(from, forger.id);
    // Nor does anybody answer for another, whatever id they guess.
    b.ok(json!({ "do": "subscribe", "pattern": "kept", "then": "hold" }));
    let ask = json!({ "do": "request", "to": b.id, "topic": "kept", "ms": 600_000 });
    let waiting = a.begin(ask);
    b.hears("the request is there", |event| {
        (event["got"]["topic"] == "kept").then_some(())
    });
    forger.ok(json!({ "do": "hack", "what": "answer", "victim": a.id, "times": 1000 }));
    until("the hub has seen all of them", || {
        let unasked = cluster.metric(r#"pointsman_bus_lost_total{reason="unasked"}"#);
        is_true(unasked == 1000.0)
    });
    b.ok(json!({ "do": "answer", "payload": "true" }));
    let answer = a.answer(waiting).expect("from who was asked");
    assert_eq!(
        (&answer["payload"], &answer["from"]),
        (&json!("true"), &json!(b.id))
    );
}

fn answers_that_nobody_reads_are_bounded() {
    let cluster = Cluster::start(2);
    let (a, b) = (cluster.worker(0), cluster.worker(1));
    let nobody = format!("{}:4000000000", a.master());
    let before = resident(cluster.pid());
    // It reads nothing while it sends: each is answered by a failure that has to wait somewhere.
    let times = 1_000_000;
    let hack = json!({ "do": "hack", "what": "to nobody", "victim": nobody, "times": times });
    assert_eq!(a.ok(hack), times);
    let grown = resident(cluster.pid()).saturating_sub(before);
    assert!(grown < 24_000_000, "the master has grown by {grown} bytes");
    // It was only a nuisance to itself.
    b.ok(json!({ "do": "subscribe", "pattern": "news" }));
    publish(&a, "there");
    b.receives("news", "there");
}
