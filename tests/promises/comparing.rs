//! Comparisons on live traffic: the arms take turns, clients notice nothing, and whatever ends it, the mode
//! that was there is back.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGKILL};
use pointsman::Arm;
use serde_json::Value;

use crate::harness::{
    Answer, Client, Demo, Finished, Pointsman, children, descriptors, is_true, kill, place::Place,
    until,
};

/// A guard that never minds: for tests in which nothing goes wrong but the machine's load.
const LENIENT: [&str; 4] = ["--max-error-rate", "1", "--max-p99", "100000"];

/// A comparison that never has the mode in force that was there, and lasts longer than any test.
const LONG: [&str; 7] = [
    "compare",
    "--arms",
    "shared,reuseport",
    "--block",
    "200ms",
    "--rounds",
    "300",
];

/// Clients that ask again and again until they are told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    answered: Arc<AtomicU64>,
}

impl Traffic {
    /// `kept` clients with a connection that they keep, and `fresh` that open one for each request. Each
    /// answer must come, and `check` must like it.
    fn start(address: SocketAddr, kept: usize, fresh: usize, check: fn(&Answer)) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let client = |keeps: bool| {
            let (stop, answered) = (stop.clone(), answered.clone());
            thread::spawn(move || {
                let mut client = Client::connect(address);
                while !stop.load(Relaxed) {
                    let answer = client.get("/").expect("an answer");
                    check(&answer);
                    answered.fetch_add(1, Relaxed);
                    if !keeps || answer.field("connection") == Some("close") {
                        client = Client::connect(address);
                    }
                    // The machine is for others, too; nothing depends on how long.
                    thread::park_timeout(Duration::from_millis(1));
                }
            })
        };
        let clients = (0..kept + fresh).map(|i| client(i < kept)).collect();
        Self {
            stop,
            clients,
            answered,
        }
    }

    /// Ends it; how many were answered.
    #[track_caller]
    fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        for client in self.clients {
            client
                .join()
                .expect("every request was answered as it must be");
        }
        self.answered.load(Relaxed)
    }
}

fn is_fine(answer: &Answer) {
    assert_eq!(answer.status, 200);
}

/// `/comparison`, if there is one.
fn comparison(proxy: &Pointsman) -> Option<Value> {
    let answer = proxy.admin("/comparison");
    (answer.status == 200).then(|| serde_json::from_slice(&answer.body).expect("JSON"))
}

/// Blocks that were measured so far.
fn blocks(report: &Value) -> &[Value] {
    report["comparison"]["blocks"].as_array().expect("a list")
}

fn ending(report: &Value) -> &str {
    let ending = &report["comparison"]["ending"]["ending"];
    ending.as_str().expect("a word")
}

fn mode(place: &Place) -> String {
    let status = place.report("status");
    let word = |name: &str| status[name].as_str().expect("a word").to_owned();
    format!("{}/{}", word("mode"), word("policy"))
}

/// Waits until blocks have been measured, and the old mode is not in force.
#[track_caller]
fn await_blocks(proxy: &Pointsman, n: usize) {
    until("some blocks are measured", || {
        is_true(blocks(&comparison(proxy)?).len() >= n)
    });
}

/// `ctl` that is not waited for; somebody reads what it says.
struct Asking {
    pid: i32,
    end: JoinHandle<Finished>,
}

impl Asking {
    fn begin(place: &Place, arguments: &[&str]) -> Self {
        let socket = place.socket();
        let child = crate::harness::spawn(&[&["ctl", "--control", &socket], arguments].concat());
        let pid = child.id() as i32;
        let end = thread::spawn(move || {
            let output = child.wait_with_output().expect("our child");
            let text = |bytes| String::from_utf8(bytes).expect("text");
            Finished {
                code: output.status.code(),
                stdout: text(output.stdout),
                stderr: text(output.stderr),
            }
        });
        Self { pid, end }
    }

    /// Waits until it has ended; `None` as its exit code: a signal ended it.
    #[track_caller]
    fn ended(self) -> Finished {
        until("ctl ends", || is_true(self.end.is_finished()));
        self.end.join().expect("it speaks UTF-8")
    }
}

/// The same with fractions to nine digits: those behind may change when a number is read and written again.
fn rounded(mut value: Value) -> Value {
    match &mut value {
        Value::Number(n) if n.is_f64() => {
            value = format!("{:.8e}", n.as_f64().expect("it is one")).into();
        }
        Value::Array(all) => all.iter_mut().for_each(|v| *v = rounded(v.take())),
        Value::Object(all) => all.values_mut().for_each(|v| *v = rounded(v.take())),
        _ => {}
    }
    value
}

#[test]
fn every_arm_has_its_turn_and_nobody_notices() {
    let (place, demo) = (Place::new("turns"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let quiet = || (descriptors(proxy.pid()), children(proxy.pid()).len());
    let before = quiet();
    assert_eq!(proxy.admin("/comparison").status, 404);
    assert!(
        place
            .refuses(&["compare", "show"])
            .contains("nothing has been compared")
    );
    let pids = proxy.worker_pids();
    let traffic = Traffic::start(proxy.address(), 3, 2, is_fine);

    let flags = ["--json", "compare", "--block", "200ms", "--rounds", "2"];
    let asking = Asking::begin(&place, &[&flags[..], &LENIENT].concat());
    until("its course can be followed", || {
        let report = comparison(&proxy)?;
        is_true(ending(&report) == "running" && !blocks(&report).is_empty())
    });
    let done = asking.ended();
    assert_eq!(done.code, Some(0), "{done:?}");
    for text in ["round 1 of 2: ", "round 2 of 2: ", " s left", "as before"] {
        assert!(done.stderr.contains(text), "{text}: {done:?}");
    }
    let report: Value = serde_json::from_str(&done.stdout).expect("a report and nothing else");
    assert_eq!(ending(&report), "complete");
    let arms = report["comparison"]["arms"].as_array().expect("a list");
    let names: Vec<&str> = arms.iter().filter_map(|arm| arm["name"].as_str()).collect();
    let base = ["handoff/least-loaded", "handoff/least-loaded, again"];
    assert_eq!(names[..2], base, "the base and its twin");
    assert_eq!(arms[1]["twin_of"], 0);
    for arm in Arm::ALL {
        assert!(
            names.contains(&arm.to_string().as_str()),
            "{arm}: {names:?}"
        );
    }
    assert_eq!((names.len(), blocks(&report).len()), (9, 18));
    for (arm, name) in names.iter().enumerate() {
        let of_arm: Vec<&Value> = blocks(&report).iter().filter(|b| b["arm"] == arm).collect();
        let rounds: Vec<_> = of_arm.iter().filter_map(|b| b["round"].as_u64()).collect();
        assert_eq!(rounds, [1, 2], "{name}");
        let sum = |field: &str| of_arm.iter().filter_map(|b| b[field].as_u64()).sum::<u64>();
        assert!(sum("requests") > 0 && sum("connections") > 0, "{name}");
        assert_eq!(sum("errors"), 0, "{name}");
        for block in of_arm {
            assert!(block["used"]["cpu_ns"].as_u64() > Some(0), "{block}");
            assert_eq!(
                block["open"][0]["by_worker"].as_array().map(Vec::len),
                Some(2)
            );
            let share = block["own_share"].as_f64().expect("a number");
            // What keeps its connection was dispatched by the base, before anything began.
            let most = if arm < 2 { 1.0 } else { 0.999 };
            assert!((0.0..=most).contains(&share), "{name}: {share}");
        }
    }
    assert_eq!(report["summary"]["arms"].as_array().map(Vec::len), Some(9));

    assert_eq!(mode(&place), "handoff/least-loaded");
    assert!(traffic.end() > 0);
    assert_eq!(
        comparison(&proxy).map(rounded),
        Some(rounded(report.clone()))
    );
    for asked in [
        &["--json", "comparison"][..],
        &["compare", "show", "--json"],
    ] {
        let shown: Value = serde_json::from_str(&place.works(asked)).expect("JSON");
        assert_eq!(rounded(shown), rounded(report.clone()));
    }
    let table = place.works(&["compare", "show"]);
    for arm in Arm::ALL {
        assert!(table.contains(&arm.to_string()), "{arm}: {table}");
    }
    assert_eq!(proxy.worker_pids(), pids);
    assert_eq!(proxy.metric("pointsman_connections_lost_total", &[]), 0.0);
    until("nothing is left behind", || {
        let after = quiet();
        is_true(after.0 <= before.0 && after.1 == before.1)
    });
}

#[test]
fn clients_that_keep_their_connections_move_to_the_arm_under_test_if_asked_to() {
    let (place, demo) = (Place::new("renews"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let traffic = Traffic::start(proxy.address(), 4, 0, is_fine);
    until("all are there", || {
        is_true(proxy.metric("pointsman_connections_open", &[]) == 4.0)
    });
    let plan = [
        "compare",
        "--arms",
        "shared,hybrid",
        "--rounds",
        "2",
        "--block",
    ];
    let opened = || proxy.metric("pointsman_connections_total", &[]);
    place.works(&[&plan[..], &["200ms"], &LENIENT].concat());
    let report = comparison(&proxy).expect("a report");
    for block in blocks(&report) {
        assert_eq!(block["own_share"], 0.0, "nobody has moved: {block}");
    }
    assert_eq!(opened(), 4.0);

    place.works(&[&plan[..], &["1s", "--renew"], &LENIENT].concat());
    let report = comparison(&proxy).expect("a report");
    for block in blocks(&report) {
        let share = block["own_share"].as_f64();
        assert!(share > Some(0.5), "everybody has moved: {block}");
    }
    // Once in each of six blocks, and no more.
    assert!(opened() <= 4.0 + 6.0 * 4.0, "{}", opened());
    traffic.end();
    assert_eq!(proxy.metric("pointsman_connections_lost_total", &[]), 0.0);
}

#[test]
fn metrics_compare_modes_without_our_help() {
    let (place, demo) = (Place::new("rates"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let traffic = Traffic::start(proxy.address(), 0, 3, is_fine);
    let names = [
        "pointsman_requests_total",
        "pointsman_mode_active_seconds_total",
        "pointsman_mode_cpu_seconds_total",
        "pointsman_connections_total",
        "pointsman_request_duration_seconds_count",
    ];
    let arms = [("shared", "none"), ("hybrid", "round-robin")];
    let read = || {
        arms.map(|(mode, policy)| {
            let labels = [format!("mode=\"{mode}\""), format!("policy=\"{policy}\"")];
            names.map(|name| proxy.metric(name, &[&labels[0], &labels[1]]))
        })
    };
    let before = read();
    let plan = [
        "compare",
        "--arms",
        "shared,hybrid/round-robin",
        "--block",
        "500ms",
    ];
    let rounds = ["--rounds", "2"];
    place.works(&[&plan[..], &rounds, &LENIENT].concat());
    let after = read();
    for (i, arm) in arms.iter().enumerate() {
        let increase = |n: usize| after[i][n] - before[i][n];
        for (n, name) in names.iter().enumerate() {
            assert!(increase(n) > 0.0, "{arm:?}: {name}");
        }
        // Four blocks of half a second for the base, two for the other.
        let least = if i == 0 { 2.0 } else { 1.0 };
        assert!(increase(1) >= least, "{arm:?}: {} s", increase(1));
        let rate = increase(0) / increase(1);
        assert!(rate.is_finite() && rate > 0.0, "{arm:?}: {rate}/s");
    }
    traffic.end();
}

#[test]
fn while_it_goes_on_all_else_is_refused_and_stop_ends_it() {
    let (place, demo) = (Place::new("busy"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let nothing = place.refuses(&["compare", "stop"]);
    assert!(nothing.contains("nothing to end"), "{nothing}");

    assert_eq!(
        place.works(&[&["--no-wait"], &LONG[..]].concat()),
        "begun\n"
    );
    await_blocks(&proxy, 2);
    let status = place.report("status");
    let operation = status["operation"].as_str().expect("something goes on");
    assert!(operation.starts_with("compare: round"), "{operation}");
    assert_ne!(status["mode"], "handoff");
    for asked in [
        &["mode", "hybrid"][..],
        &["workers", "set", "3"],
        &["drain", "0"],
        &["restart"],
        &["reload"],
        &["upgrade"],
        &["pause"],
        &["compare"],
    ] {
        let why = place.refuses(asked);
        assert!(why.contains("ctl compare stop"), "{asked:?}: {why}");
    }
    proxy.signal(SIGHUP);
    until("the signal waits", || {
        is_true(proxy.log().contains("reload (SIGHUP): later"))
    });
    assert_eq!(place.report("status")["reload"]["count"], 0);

    let said = place.works(&["compare", "stop"]);
    assert!(said.contains("handoff/least-loaded"), "{said}");
    let status = until("what the signal asked for is done", || {
        let status = place.settled();
        (status["reload"]["count"] == 1).then_some(status)
    });
    assert_eq!(status["last_failure"], Value::Null);
    assert_eq!(mode(&place), "handoff/least-loaded");
    assert_eq!(
        ending(&comparison(&proxy).expect("a report")),
        "interrupted"
    );
    place.refuses(&["compare", "stop"]);
    // And the way is free for the next.
    place.works(&[
        "compare", "--arms", "shared", "--block", "100ms", "--rounds", "1",
    ]);
    assert_eq!(ending(&comparison(&proxy).expect("a report")), "complete");
}

#[test]
fn when_whoever_asked_goes_away_the_mode_is_put_back() {
    let (place, demo) = (Place::new("leaves"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "2", "--policy", "round-robin"]);
    let asking = Asking::begin(&place, &LONG);
    await_blocks(&proxy, 2);
    assert_ne!(mode(&place), "handoff/round-robin");
    kill(asking.pid, SIGKILL);
    assert_eq!(asking.ended().code, None);
    place.settled();
    assert_eq!(mode(&place), "handoff/round-robin");
    assert_eq!(
        ending(&comparison(&proxy).expect("a report")),
        "interrupted"
    );
    assert!(proxy.log().contains("whoever asked has gone"));

    // Ctrl-C shows what there is.
    let asking = Asking::begin(&place, &LONG);
    until("it has begun anew", || {
        let report = comparison(&proxy)?;
        is_true(ending(&report) == "running" && blocks(&report).len() >= 2)
    });
    kill(asking.pid, SIGINT);
    let done = asking.ended();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("reuseport"), "{done:?}");
    assert!(done.stderr.contains("somebody ended it"), "{done:?}");
    assert_eq!(place.report("status")["operation"], Value::Null);
    assert_eq!(mode(&place), "handoff/round-robin");
}

#[test]
fn a_master_that_is_told_to_stop_stops() {
    let (place, demo) = (Place::new("stops"), Demo::start("a"));
    let mut proxy = place.start(&demo.url(), &["--workers", "2"]);
    let asking = Asking::begin(&place, &LONG);
    await_blocks(&proxy, 1);
    place.works(&["stop"]);
    assert!(proxy.wait().success());
    let done = asking.ended();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("the master stops"), "{done:?}");
}

/// An upstream that does as it is told: answers at once, late, or with an error.
struct Moody {
    address: SocketAddr,
    fails: Arc<AtomicBool>,
    /// Milliseconds.
    delay: Arc<AtomicU64>,
}

impl Moody {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let this = Self {
            address: listener.local_addr().expect("bound"),
            fails: Arc::default(),
            delay: Arc::default(),
        };
        let (fails, delay) = (this.fails.clone(), this.delay.clone());
        // Threads end with their connections, the accepting one with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (fails, delay) = (fails.clone(), delay.clone());
                thread::spawn(move || Self::serve(stream, &fails, &delay));
            }
        });
        this
    }

    fn serve(mut stream: TcpStream, fails: &AtomicBool, delay: &AtomicU64) {
        let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
        while let Some(Ok(_)) = lines.next() {
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|l| !l.is_empty()))
            {}
            thread::sleep(Duration::from_millis(delay.load(Relaxed)));
            let status = match fails.load(Relaxed) {
                true => "500 Internal Server Error",
                false => "200 OK",
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Has the guard end a comparison: `worsen` is called once the base is known well enough.
#[track_caller]
fn guarded(name: &str, clients: usize, limits: &[&str], worsen: impl Fn(&Moody)) -> String {
    let (place, moody) = (Place::new(name), Moody::start());
    let proxy = place.start(&moody.url(), &["--workers", "2"]);
    let traffic = Traffic::start(proxy.address(), clients, 0, |answer| {
        assert!([200, 500].contains(&answer.status), "{answer:?}");
    });
    let plan = ["compare", "--arms", "shared,reuseport", "--block", "2s"];
    let rounds = ["--rounds", "100"];
    let asking = Asking::begin(&place, &[&plan[..], &rounds, limits].concat());
    until("the base is known", || {
        let report = comparison(&proxy)?;
        let of_base = blocks(&report)
            .iter()
            .filter(|b| b["arm"].as_u64() < Some(2));
        let requests: u64 = of_base.filter_map(|b| b["requests"].as_u64()).sum();
        // On a machine that is busy enough the guard may see what is no fault of ours.
        let is_over = asking.end.is_finished();
        is_true(requests >= 250 || is_over)
    });
    worsen(&moody);
    let done = asking.ended();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(
        done.stdout.contains("reuseport"),
        "what there is is shown: {done:?}"
    );
    let why = done.stderr.lines().last().expect("it says why").to_owned();
    assert!(why.contains("mode handoff/least-loaded is back"), "{why}");
    assert_eq!(mode(&place), "handoff/least-loaded");
    let report = comparison(&proxy).expect("a report");
    assert_eq!(ending(&report), "guarded");
    let in_report = report["comparison"]["ending"]["why"].as_str();
    assert!(why.contains(in_report.expect("a sentence")), "{why}");
    assert!(place.report("status")["last_failure"].is_string());
    traffic.end();
    why
}

#[test]
fn the_guard_ends_it_when_requests_fail() {
    let why = guarded("fails", 4, &["--max-p99", "100000"], |moody| {
        moody.fails.store(true, Relaxed);
    });
    assert!(why.contains("--max-error-rate allows 1.0 %"), "{why}");
}

#[test]
fn the_guard_ends_it_when_answers_take_longer() {
    let why = guarded("slows", 64, &["--max-p99", "3"], |moody| {
        moody.delay.store(300, Relaxed);
    });
    assert!(why.contains("--max-p99 allows 3 times"), "{why}");
}

#[test]
fn a_worker_that_dies_meanwhile_is_replaced_and_the_comparison_goes_on() {
    let (place, demo) = (Place::new("dies"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let flags = ["--no-wait", "compare", "--arms", "shared,handoff,reuseport"];
    let length = ["--block", "150ms", "--rounds", "10"];
    place.works(&[&flags[..], &length, &LENIENT].concat());
    await_blocks(&proxy, 2);
    let before = proxy.worker_pids();
    kill(before[0], SIGKILL);
    until("there is another", || {
        let now = proxy.worker_pids();
        is_true(now[0] > 0 && now[0] != before[0] && proxy.state(0) == "ready")
    });
    place.settled();
    let report = comparison(&proxy).expect("a report");
    assert_eq!((ending(&report), blocks(&report).len()), ("complete", 40));
    assert_eq!(proxy.worker_pids()[1], before[1]);
    assert_eq!(mode(&place), "handoff/least-loaded");
    for _ in 0..20 {
        assert_eq!(crate::harness::get(proxy.address(), "/").status, 200);
    }
}

#[test]
fn without_traffic_it_says_that_nothing_can_be_said() {
    let (place, demo) = (Place::new("idle"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "1"]);
    let plan = ["compare", "--arms", "hybrid,shared", "--block", "100ms"];
    let done = place.ctl(&[&plan[..], &["--rounds", "6"]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("no request came"), "{done:?}");
    assert!(done.stdout.contains("hybrid/least-loaded"), "{done:?}");
    let report = comparison(&proxy).expect("a report");
    assert_eq!(report["summary"]["recommendation"]["arm"], Value::Null);
    for arm in report["summary"]["arms"].as_array().expect("a list") {
        assert_eq!((&arm["requests"], &arm["p99"]), (&0.into(), &Value::Null));
    }
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let (place, demo) = (Place::new("nonsense"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "1"]);
    for (arguments, code, why) in [
        (&["--arms", "fast"][..], 2, "unknown arm 'fast'"),
        (&["--arms", ""], 2, "unknown arm ''"),
        (
            &["--arms", "shared/round-robin"],
            2,
            "unknown arm 'shared/round-robin'",
        ),
        (&["--arms", "shared,shared"], 2, "named twice"),
        (&["--block", "10"], 2, "unit"),
        (&["--block", "10ms"], 2, "100 ms"),
        (&["--block", "2h"], 2, "3600 s"),
        (&["--rounds", "0"], 2, "one at least"),
        (&["--rounds", "-1"], 2, "-1"),
        (&["--rounds", "1000"], 1, "1000 are the most"),
        (&["--max-error-rate", "2"], 2, "0 to 1"),
        (&["--max-p99", "0"], 2, "1 or more"),
        (&["--max-p99", "NaN"], 2, "1 or more"),
        (&["show", "stop"], 2, "stop"),
    ] {
        let done = place.ctl(&[&["compare"], arguments].concat());
        assert_eq!(done.code, Some(code), "{arguments:?}: {done:?}");
        assert!(done.stderr.contains(why), "{arguments:?}: {done:?}");
        assert!(done.stdout.is_empty(), "{arguments:?}: {done:?}");
    }
    // Others may ask without our `ctl`.
    for (body, why) in [
        (r#"{"arms":["fast"]}"#, "unknown arm"),
        (r#"{"arms":"shared"}"#, "compare:"),
        (r#"{"rounds":0}"#, "one at least"),
        (r#"{"block":"10s"}"#, "unknown field `block`"),
        (r#"{"block_ms":-1}"#, "compare:"),
    ] {
        let answer = place.post("compare", body);
        assert!(
            answer.contains("failed") && answer.contains(why),
            "{body}: {answer}"
        );
    }
    place.works(&["pause"]);
    let why = place.refuses(&["compare"]);
    assert!(why.contains("ctl resume"), "{why}");
    place.works(&["resume"]);
    assert_eq!(mode(&place), "handoff/least-loaded");
    assert_eq!(comparison(&proxy), None);
}
