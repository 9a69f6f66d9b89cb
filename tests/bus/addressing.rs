//! Who gets what is addressed to whom, in a tree of trees, where everybody listens to everything: three
//! masters below each other, whose own code is on the bus as well.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    cluster::{Cluster, Worker},
    program::MASTER,
    runner::Test,
};
use crate::harness::{is_true, until};

pub const TESTS: &[Test] = &[
    (
        "each_address_reaches_those_it_means_and_nobody_else",
        each_address_reaches_those_it_means_and_nobody_else,
    ),
    (
        "a_request_is_answered_by_one_of_those_it_means",
        a_request_is_answered_by_one_of_those_it_means,
    ),
    (
        "an_application_is_found_near_first",
        an_application_is_found_near_first,
    ),
];

/// The root, `R`, has the workers `r0` to `r2`. `r1` has started the branch `B` with `b0` and `b1`, and
/// `b0` the twig `T` with `t0`.
struct Tree {
    all: BTreeMap<&'static str, Worker>,
    /// In the order in which they are to end.
    _clusters: [Cluster; 3],
}

impl Tree {
    #[track_caller]
    fn grow() -> Self {
        let root = Cluster::shaped("workers=3 master-speaks=true");
        let below = |worker: &Worker, workers: u16| {
            let cluster = Cluster::desk();
            worker.ok(json!({
                "do": "branch",
                "desk": cluster.desk_address(),
                "shape": format!("workers={workers} master-speaks=true"),
            }));
            cluster.ready();
            cluster
        };
        let branch = below(&root.worker(1), 2);
        let twig = below(&branch.worker(0), 1);
        let all = BTreeMap::from([
            ("R", root.worker(MASTER)),
            ("r0", root.worker(0)),
            ("r1", root.worker(1)),
            ("r2", root.worker(2)),
            ("B", branch.worker(MASTER)),
            ("b0", branch.worker(0)),
            ("b1", branch.worker(1)),
            ("T", twig.worker(MASTER)),
            ("t0", twig.worker(0)),
        ]);
        let tree = Self {
            all,
            _clusters: [twig, branch, root],
        };
        for (name, worker) in &tree.all {
            worker.ok(json!({ "do": "subscribe", "pattern": "said.>" }));
            worker.ok(json!({ "do": "subscribe", "pattern": "own", "then": "hold" }));
            worker.ok(json!({ "do": "subscribe", "pattern": "asked", "then": "echo" }));
            worker.ok(json!({ "do": "subscribe", "pattern": format!("only.{name}") }));
        }
        // What each wants has come round when each gets what each says.
        for speaker in tree.all.values() {
            for listener in tree.all.values() {
                until("everybody hears everybody", || {
                    publish(speaker, "said.hello", &speaker.id);
                    let got = listener.got("said.hello");
                    is_true(got.contains(&speaker.id))
                });
            }
        }
        tree
    }

    fn ids(&self, names: &str) -> String {
        let ids = names.split_whitespace().map(|name| &*self.all[name].id);
        ids.collect::<Vec<_>>().join(" ")
    }

    /// Sends to an address that means these, and says who has got it. Whoever else would get it has when
    /// they get what is said after it: the messages of one sender come in order. By a route they may come
    /// later, so those who are meant are waited for.
    #[track_caller]
    fn reached(
        &self,
        sender: &str,
        to: &str,
        meant: &BTreeSet<&str>,
        mark: &str,
    ) -> BTreeSet<&'static str> {
        let sender = &self.all[sender];
        let say = |to: &str, topic: &str| {
            sender.ok(json!({ "do": "send", "to": to, "topic": topic, "payload": mark }));
        };
        say(to, "said.it");
        for name in meant {
            self.all[name].receives("said.it", mark);
        }
        let everybody = self.all.keys().copied().collect::<Vec<_>>().join(" ");
        say(&self.ids(&everybody), "said.after");
        for worker in self.all.values() {
            worker.receives("said.after", mark);
        }
        let got = self.all.iter().filter(|(name, worker)| {
            let all = worker.got("said.it");
            let times = all.iter().filter(|payload| *payload == mark).count();
            assert!(times <= 1, "{name} gets {mark} {times} times");
            times == 1
        });
        got.map(|(name, _)| *name).collect()
    }
}

fn publish(worker: &Worker, topic: &str, payload: &str) {
    worker.ok(json!({ "do": "publish", "topic": topic, "payload": payload }));
}

const EVERYBODY: &str = "R r0 r1 r2 B b0 b1 T t0";

fn each_address_reaches_those_it_means_and_nobody_else() {
    let tree = Tree::grow();
    let id = |names: &str| tree.ids(names);
    let route = |names: &str| format!("route {}", tree.ids(names));
    let forms: Vec<(&str, String, &str)> = vec![
        ("r0", "subscribers".into(), EVERYBODY),
        ("t0", "subscribers".into(), EVERYBODY),
        ("r0", "everyone".into(), "R r1 r2 B b0 b1 T t0"),
        ("b1", "everyone".into(), "R r0 r1 r2 B b0 T t0"),
        ("T", "everyone".into(), "R r0 r1 r2 B b0 b1 t0"),
        ("r0", "siblings".into(), "r1 r2"),
        ("b0", "siblings".into(), "b1"),
        ("t0", "siblings".into(), ""),
        ("R", "siblings".into(), ""),
        ("B", "siblings".into(), ""),
        ("r0", "ancestors".into(), "R"),
        ("b1", "ancestors".into(), "B r1 R"),
        ("t0", "ancestors".into(), "T b0 B r1 R"),
        ("R", "ancestors".into(), ""),
        ("r2", "parent".into(), "R"),
        ("B", "parent".into(), "r1"),
        ("t0", "parent".into(), "T"),
        ("R", "parent".into(), ""),
        ("R", "children".into(), "r0 r1 r2"),
        ("r1", "children".into(), "B"),
        ("r0", "children".into(), ""),
        ("B", "children".into(), "b0 b1"),
        ("b0", "children".into(), "T"),
        ("R", "worker 2".into(), "r2"),
        ("b0", "worker 1".into(), "b1"),
        ("t0", "worker 0".into(), "t0"),
        ("t0", "worker 1".into(), ""),
        ("r0", "grand-master".into(), "R"),
        ("t0", "grand-master".into(), "R"),
        ("R", "grand-master".into(), "R"),
        ("r0", id("t0"), "t0"),
        ("t0", id("r2"), "r2"),
        ("b1", id("r0 t0 b1 r0"), "r0 t0 b1"),
        ("r0", route("r1 B b0 T t0"), "t0"),
        ("t0", route("b0 r1 r2"), "r2"),
        ("b1", route("t0 r0 b0"), "b0"),
    ];
    for (number, (sender, to, expected)) in forms.iter().enumerate() {
        let expected: BTreeSet<&str> = expected.split_whitespace().collect();
        let reached = tree.reached(sender, to, &expected, &format!("{number}"));
        assert_eq!(reached, expected, "{sender} to {to}");
    }
    // Whoever is meant and does not listen gets nothing, and nobody else does in their place.
    let r0 = &tree.all["r0"];
    r0.ok(json!({ "do": "send", "to": "everyone", "topic": "only.t0", "payload": "x" }));
    tree.all["t0"].receives("only.t0", "x");
    tree.reached("r0", "everyone", &BTreeSet::new(), "and then");
    for (name, worker) in tree.all.iter().filter(|(name, _)| **name != "t0") {
        assert!(worker.got("only.t0").is_empty(), "{name}");
    }
    // It says where it has been.
    let path = tree.all["t0"].hears("what was sent", |event| {
        let got = &event["got"];
        (got["topic"] == "only.t0").then(|| got["path"].clone())
    });
    let masters = [r0.master(), tree.all["b0"].master()];
    assert_eq!(path, json!(masters));
    // Nobody who has stopped listening gets anything.
    tree.all["t0"].ok(json!({ "do": "unsubscribe", "pattern": "only.t0" }));
    until("the hub of the sender knows", || {
        let ask = json!({ "do": "request", "to": tree.all["t0"].id, "topic": "only.t0" });
        is_true(
            r0.tell(ask)
                .is_err_and(|error| error.contains("not listen")),
        )
    });
}

fn a_request_is_answered_by_one_of_those_it_means() {
    let tree = Tree::grow();
    let from = |answer: &Value| {
        let found = tree.all.iter().find(|(_, one)| answer["from"] == *one.id);
        *found.expect("one of them").0
    };
    for (sender, to, expected) in [
        ("r0", "siblings".to_owned(), "r1 r2"),
        ("t0", "ancestors".into(), "T b0 B r1 R"),
        ("b0", "parent".into(), "B"),
        ("r1", "children".into(), "B"),
        ("t0", "grand-master".into(), "R"),
        ("b0", "worker 1".into(), "b1"),
        ("r0", tree.ids("t0"), "t0"),
        ("b1", tree.ids("r2 t0"), "r2 t0"),
        ("t0", format!("route {}", tree.ids("b0 r1 r2")), "r2"),
        ("r0", "everyone".into(), "R r1 r2 B b0 b1 T t0"),
        ("r0", "subscribers".into(), EVERYBODY),
    ] {
        let ask = json!({ "do": "request", "to": to, "topic": "asked", "payload": "?" });
        let answer = tree.all[sender].ok(ask);
        assert_eq!(answer["payload"], "echo ?");
        let who = from(&answer);
        assert!(expected.split(' ').any(|one| one == who), "{to}: {who}");
    }
    // Nobody is meant, or nobody listens: that is said at once, and not when time is up.
    let long = 600_000;
    for (sender, to, why) in [
        ("R", "siblings".to_owned(), "nobody is there"),
        ("R", "parent".into(), "nobody is there"),
        ("r0", "children".into(), "nobody is there"),
        ("t0", "worker 1".into(), "nobody is there"),
        ("r0", format!("{}9", tree.ids("t0")), "nobody is there"),
    ] {
        let ask = json!({ "do": "request", "to": to, "topic": "asked", "ms": long });
        let error = tree.all[sender].tell(ask).expect_err("nobody");
        assert!(error.contains(why), "{sender} to {to}: {error}");
    }
    for to in ["everyone", "siblings", "grand-master"] {
        let ask = json!({ "do": "request", "to": to, "topic": "nothing", "ms": long });
        let error = tree.all["r0"].tell(ask).expect_err("nobody");
        assert!(error.contains("not listen"), "{to}: {error}");
    }
    // Whoever was asked, three masters away, dies.
    let ask = json!({ "do": "request", "to": tree.ids("t0"), "topic": "own", "ms": long });
    let waiting = tree.all["r0"].begin(ask);
    tree.all["t0"].hears("the request is there", |event| {
        (event["got"]["topic"] == "own").then_some(())
    });
    tree.all["t0"].begin(json!({ "do": "exit", "code": 1 }));
    let error = tree.all["r0"].answer(waiting).expect_err("it has died");
    assert!(error.contains("ended before it answered"), "{error}");
}

fn an_application_is_found_near_first() {
    let tree = Tree::grow();
    let host = |name: &str| {
        tree.all[name].ok(json!({
            "do": "host", "application": "app", "description": { "at": name },
        }));
    };
    let call = |sender: &str| {
        let call = json!({
            "do": "call", "application": "app", "action": "go", "payload": "x",
            "balance": "round-robin",
        });
        let answer = tree.all[sender].tell(call)?;
        let found = tree.all.iter().find(|(_, one)| answer["from"] == *one.id);
        Ok::<_, String>(*found.expect("one of them").0)
    };
    assert!(call("r2").expect_err("nobody").contains("hosts"));
    host("t0");
    // It is the only one, wherever one is.
    for sender in ["r0", "B", "t0"] {
        until("it is known", || is_true(call(sender) == Ok("t0")));
    }
    host("r0");
    host("r1");
    // One's own master's, in turn; elsewhere any.
    let calls: Vec<_> = (0..20).map(|_| call("r2").expect("answered")).collect();
    for host in ["r0", "r1"] {
        assert_eq!(calls.iter().filter(|one| **one == host).count(), 10);
    }
    // Oneself first of all, and of others' hosts each has its turn.
    assert!((0..10).all(|_| call("r1") == Ok("r1") && call("t0") == Ok("t0")));
    until("all three are in turn", || {
        let called: BTreeSet<_> = (0..6).filter_map(|_| call("b1").ok()).collect();
        is_true(called == BTreeSet::from(["r0", "r1", "t0"]))
    });
    tree.all["r2"].ok(json!({ "do": "tell", "application": "app", "payload": "told" }));
    until("one of them is told", || {
        let told = ["r0", "r1"].map(|name| tree.all[name].got("app").len());
        is_true(told.iter().sum::<usize>() > 0)
    });
    for name in ["r0", "r1"] {
        tree.all[name].ok(json!({ "do": "unhost", "application": "app" }));
    }
    until("they are not known any more", || {
        is_true(call("r2") == Ok("t0"))
    });
}
