//! Who does not keep up, and everybody else.

use serde_json::{Value, json};

use super::{
    cluster::{Cluster, Worker},
    runner::Test,
};
use crate::harness::{get, is_true, resume, stop, until};

pub const TESTS: &[Test] = &[(
    "one_who_stands_still_costs_others_nothing_and_sees_what_it_has_missed",
    one_who_stands_still_costs_others_nothing_and_sees_what_it_has_missed,
)];

/// Memory of a process that is in use, in bytes.
pub fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    1024 * number.expect("a number").parse::<u64>().expect("a number")
}

fn counted(worker: &Worker) -> Value {
    worker.ok(json!({ "do": "counted", "pattern": "flood.*" }))
}

fn one_who_stands_still_costs_others_nothing_and_sees_what_it_has_missed() {
    // Two megabytes a round; a queue holds four.
    const ROUNDS: u64 = 30;
    const ROUND: u64 = 2000;
    const TOTAL: u64 = ROUNDS * ROUND;
    let cluster = Cluster::shaped("workers=3 hang-kill=600000");
    let [a, good, still] = [0, 1, 2].map(|seat| cluster.worker(seat));
    for worker in [&good, &still] {
        worker.ok(json!({
            "do": "subscribe", "pattern": "flood.*", "then": "count", "queue": TOTAL,
        }));
    }
    good.ok(json!({ "do": "subscribe", "pattern": "asked", "then": "echo" }));
    let padding = "x".repeat(1000);
    let round = |number: u64| {
        a.ok(json!({
            "do": "publish", "topic": "flood.all", "payload": padding,
            "first": number * ROUND + 1, "times": ROUND,
        }));
        until("the one that keeps up has all of it", || {
            is_true(counted(&good)["last"][&a.id] == (number + 1) * ROUND)
        });
    };
    // What the master needs for such rounds at all.
    round(0);
    until("both have it", || {
        is_true(counted(&still)["last"][&a.id] == ROUND)
    });
    let lost = || cluster.metric(r#"pointsman_bus_lost_total{reason="overflow"}"#);
    assert_eq!(lost(), 0.0);
    let before = resident(cluster.pid());
    stop(still.pid);
    for number in 1..ROUNDS {
        round(number);
        // The others' requests are answered, too, and clients are served.
        let ask = json!({ "do": "request", "to": good.id, "topic": "asked", "payload": "?" });
        assert_eq!(a.ok(ask)["payload"], "echo ?");
    }
    // What waits for it is bounded, and so is what that takes: a queue, and some for the pieces that it
    // is made of, of sixty megabytes that were sent.
    let waiting = cluster.metric("pointsman_bus_queued_bytes");
    assert!((1e6..=4.2e6).contains(&waiting), "{waiting} bytes wait");
    let grown = resident(cluster.pid()).saturating_sub(before);
    assert!(grown < 16_000_000, "the master has grown by {grown} bytes");
    let by_hub = lost();
    assert!(by_hub > 0.0);
    let fine = counted(&good);
    let said = [&fine["messages"], &fine["missed"], &fine["disorder"]];
    assert_eq!(said, [&json!(TOTAL), &json!(0), &json!(0)], "{fine}");

    resume(still.pid);
    until("it has the last of them", || {
        is_true(counted(&still)["last"][&a.id] == TOTAL)
    });
    let late = counted(&still);
    let number = |name: &str| late[name].as_u64().expect("a number");
    // None twice, none out of order, and it knows exactly how many there were.
    assert_eq!(number("messages") + number("missed"), TOTAL, "{late}");
    assert_eq!((number("disorder"), number("cut")), (0, 0));
    assert_eq!(number("missed") as f64, by_hub);
    assert_eq!(lost(), by_hub);
    assert_eq!(get(cluster.listen(), "/").text(), "served\n");
    // And from now on it misses nothing.
    round(ROUNDS);
    until("it keeps up again", || {
        is_true(counted(&still)["last"][&a.id] == TOTAL + ROUND)
    });
    assert_eq!(counted(&still)["missed"], late["missed"]);
}
