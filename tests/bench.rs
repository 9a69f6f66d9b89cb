//! `pointsman bench`, as a user runs it: short blocks, few arms. Nothing here depends on how fast anything
//! is, but for a difference that is planted and as large as a barn door.

mod harness;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use harness::{Demo, children, is_running, is_true, kill, until};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

/// Each of them takes the whole machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.arg("bench").args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary under test")
}

#[track_caller]
fn reports(output: &Output) -> Vec<Value> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{stderr}"))
}

#[track_caller]
fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .map_or_else(|| panic!("{value} is no list"), Vec::as_slice)
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn make(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bench-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const ARMS: [&str; 4] = [
    "handoff/least-loaded",
    "handoff/least-loaded, again",
    "shared",
    "reuseport",
];

/// Five rounds of these, closed and open.
const SHORT: [&str; 10] = [
    "--arms",
    "handoff:least-loaded,shared,reuseport",
    "--rounds",
    "5",
    "--block",
    "200ms",
    "--clients",
    "8",
    "--seed",
    "7",
];

/// Every arm in every round and drive, once each, nothing failed.
#[track_caller]
fn is_whole(report: &Value, arms: usize, drives: &[&str]) {
    let comparison = &report["comparison"];
    assert_eq!(comparison["ending"]["ending"], "complete");
    assert_eq!(comparison["rounds"], 5);
    let blocks = list(&comparison["blocks"]);
    assert_eq!(blocks.len(), 5 * arms * drives.len());
    let mut orders: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for block in blocks {
        assert_eq!(block["errors"], 0, "{block}");
        assert!(number(&block["requests"]) > 0.0, "{block}");
        assert!(number(&block["used"]["cpu_ns"]) > 0.0, "{block}");
        assert!(number(&block["seconds"]) > 0.0, "{block}");
        assert!(drives.contains(&block["drive"]["drive"].as_str().unwrap_or_default()));
        let round = block["round"].as_u64().expect("a number");
        let order = orders.entry(round).or_default();
        let arm = block["arm"].as_u64().expect("a number");
        if order.last() != Some(&arm) {
            order.push(arm);
        }
        assert_eq!(block["position"], order.len(), "{block}");
    }
    for order in orders.values() {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        let all: Vec<u64> = (0..arms as u64).collect();
        assert_eq!(sorted, all, "each arm once in every round");
    }
    let first: Vec<u64> = orders.values().map(|order| order[0]).collect();
    assert!(
        first.iter().any(|arm| *arm != first[0]),
        "the order changes: {first:?}"
    );
}

#[test]
fn every_arm_is_measured_in_every_round_and_all_of_it_is_written() {
    let _alone = alone();
    let folder = Folder::make("whole");
    let csv = folder.file("rows.csv");
    fs::create_dir_all(&folder.0).expect("a folder");
    let to = ["--json", "--csv", &csv, "--report", &folder.file("report")];
    let scenarios = ["--scenario", "keepalive,per-connection"];
    let output = run(&[&SHORT[..], &to, &scenarios].concat());
    let reports = reports(&output);
    assert_eq!(reports.len(), 2);
    let mut rows = 0;
    for (report, scenario) in reports.iter().zip(["keepalive", "per-connection"]) {
        let comparison = &report["comparison"];
        assert_eq!(comparison["scenario"], scenario);
        assert_eq!(comparison["source"], "bench");
        let arms = list(&comparison["arms"]);
        let names: Vec<&str> = arms.iter().filter_map(|arm| arm["name"].as_str()).collect();
        assert_eq!(names, ARMS);
        is_whole(report, 4, &["closed", "open"]);
        assert_eq!(list(&report["summary"]["arms"]).len(), 4);
        let here = &comparison["circumstances"];
        assert_eq!(here["seed"], 7);
        let command = here["command"].as_str().expect("text");
        assert!(command.starts_with("pointsman bench --arms"), "{command}");
        for block in list(&comparison["blocks"]) {
            let open = list(&block["open"]);
            assert!(!open.is_empty(), "nobody looked: {block}");
            assert!(open.iter().all(|open| list(&open["by_worker"]).len() >= 2));
            // In the others the master helps out only where a worker has no time to accept.
            let handoffs = list(&block["handoff"]["buckets"]).len();
            assert!(handoffs > 0 || number(&block["arm"]) >= 2.0, "{block}");
        }
        let kept = folder.file(&format!("report/comparison-{scenario}.json"));
        let kept: Value = serde_json::from_slice(&fs::read(kept).expect("written")).expect("JSON");
        assert_eq!(kept, *report);
        let one = folder.file(&format!("report/blocks-{scenario}.csv"));
        assert_eq!(
            fs::read_to_string(one).expect("written").lines().count(),
            41
        );
        rows += 40;
    }
    let written = fs::read_to_string(&csv).expect("written");
    assert_eq!(
        written.lines().count(),
        rows + 1,
        "one head, a row for each block"
    );
    let page = fs::read_to_string(folder.file("report/index.html")).expect("written");
    for name in ARMS {
        assert!(page.contains(name), "{name}");
    }
}

#[test]
fn a_planted_delay_is_found_and_its_twin_is_not() {
    let _alone = alone();
    // 20 ms, four of them one after the other at each upstream: beyond whatever a busy machine does.
    let output = run(&[
        "--arms",
        "handoff,shared",
        "--scenario",
        "keepalive",
        "--loop",
        "closed",
        "--rounds",
        "6",
        "--block",
        "300ms",
        "--clients",
        "8",
        "--seed",
        "7",
        "--json",
        "--plant",
        "shared=20000",
    ]);
    let report = &reports(&output)[0];
    let notes = report["comparison"]["circumstances"]["notes"].to_string();
    assert!(notes.contains("On purpose shared"), "{notes}");
    let arms = list(&report["summary"]["arms"]);
    let contrast = |arm: usize| &arms[arm]["latency_p50"];
    assert_eq!(contrast(2)["verdict"], "worse", "{:#}", contrast(2));
    assert_eq!(contrast(1)["verdict"], "no-difference", "{:#}", contrast(1));
}

#[test]
fn an_upstream_of_ones_own_is_asked_for_ones_own_path() {
    let _alone = alone();
    let demo = Demo::start("mine");
    let output = run(&[
        "--arms",
        "hybrid/round-robin",
        "--upstream",
        &demo.url(),
        "--path",
        "/status?code=204",
        "--slow-path",
        "/slow?ms=1",
        "--scenario",
        "mixed",
        "--rounds",
        "5",
        "--block",
        "100ms",
        "--clients",
        "4",
        "--rate",
        "200",
    ]);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stdout.contains("hybrid/round-robin"), "{stdout}");
    assert!(stderr.contains("mixed"), "progress is told: {stderr}");

    // Nothing is measured where answers are none.
    let output = run(&[
        "--upstream",
        &demo.url(),
        "--path",
        "/status?code=500",
        "--scenario",
        "keepalive",
        "--rounds",
        "5",
        "--block",
        "100ms",
        "--clients",
        "4",
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("2xx"), "{stderr}");
    assert!(output.stdout.is_empty());
}

/// How long a short run may take on a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(120);

/// A run that goes on beside the test. Dropping it ends it.
struct Running {
    pid: i32,
    ended: mpsc::Receiver<Output>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let child = command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary under test");
        let pid = child.id() as i32;
        let (end, ended) = mpsc::channel();
        thread::spawn(move || child.wait_with_output().map(|output| end.send(output)));
        Self { pid, ended }
    }

    /// Waits until it has its cluster, its upstreams and a load.
    #[track_caller]
    fn await_load(&self) -> Vec<i32> {
        until("a load runs", || {
            let all = family(self.pid);
            is_true(all.iter().any(|pid| is_load(*pid))).map(|()| all)
        })
    }

    #[track_caller]
    fn wait(self) -> (Option<i32>, String, String) {
        let output = self.ended.recv_timeout(PATIENCE).expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.ended.try_recv(), Err(mpsc::TryRecvError::Empty)) {
            // A test that failed; it may end by itself this very moment.
            let _ = nix::sys::signal::kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// All descendants of a process.
fn family(parent: i32) -> Vec<i32> {
    let mut all = Vec::new();
    for (child, _) in children(parent) {
        all.push(child);
        all.extend(family(child));
    }
    all
}

fn is_load(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|byte| *byte == 0).nth(1) == Some(b"load"))
}

#[track_caller]
fn all_end(pids: &[i32]) {
    assert!(
        pids.len() >= 5,
        "a master, two workers, upstreams, a load: {pids:?}"
    );
    until("nothing is left running", || {
        is_true(pids.iter().all(|pid| !is_running(*pid)))
    });
}

const LONG: [&str; 8] = [
    "--arms",
    "handoff,shared",
    "--scenario",
    "keepalive",
    "--duration",
    "1h",
    "--clients",
    "8",
];

#[test]
fn an_interrupt_ends_it_with_what_there_is() {
    let _alone = alone();
    let folder = Folder::make("interrupt");
    let blocks = folder.file("rows.csv");
    fs::create_dir_all(&folder.0).expect("a folder");
    let running =
        Running::start(&[&LONG[..], &["--block", "100ms", "--json", "--csv", &blocks]].concat());
    let mut seen = running.await_load();
    // Beyond the trial: each of its few blocks has a load of its own.
    let mut loads = std::collections::BTreeSet::new();
    until("a few blocks are measured", || {
        seen = family(running.pid);
        loads.extend(seen.iter().copied().filter(|pid| is_load(*pid)));
        is_true(loads.len() > 12)
    });
    kill(running.pid, Signal::SIGINT);
    let (status, stdout, stderr) = running.wait();
    assert_eq!(status, Some(0), "{stderr}");
    let reports: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}\n{stderr}"));
    let comparison = &reports[0]["comparison"];
    assert_eq!(comparison["ending"]["ending"], "interrupted");
    let measured = list(&comparison["blocks"]).len();
    assert!(measured > 0 && measured < 100, "{measured}");
    let rows = fs::read_to_string(&blocks).expect("written");
    assert_eq!(rows.lines().count(), measured + 1);
    all_end(&seen);
}

#[test]
fn a_second_interrupt_waits_for_nobody() {
    let _alone = alone();
    let running = Running::start(&LONG);
    let seen = running.await_load();
    let is_master = |pid: &&i32| !children(**pid).is_empty();
    let master = *seen.iter().find(is_master).expect("it has workers");
    // It would be waited for.
    harness::stop(master);
    kill(running.pid, Signal::SIGINT);
    until("the load is gone", || {
        is_true(!family(running.pid).iter().any(|pid| is_load(*pid)))
    });
    let folder = std::env::temp_dir().join(format!("pointsman-rig-{}-0", running.pid));
    assert!(folder.exists());
    kill(running.pid, Signal::SIGINT);
    let (status, stdout, stderr) = running.wait();
    harness::resume(master);
    assert!(!folder.exists());
    assert_eq!(status, Some(130), "{stderr}");
    // That is what it says when it has ended everything in order.
    assert!(!stderr.contains("before anything"), "{stderr}");
    assert_eq!(stdout, "");
    all_end(&seen);
}

#[test]
fn an_interrupt_before_anything_is_measured_says_so() {
    let _alone = alone();
    let running = Running::start(&LONG);
    let seen = running.await_load();
    kill(running.pid, Signal::SIGTERM);
    let (status, stdout, stderr) = running.wait();
    assert_eq!(status, Some(130), "{stderr}");
    assert_eq!(stdout, "");
    assert!(stderr.contains("before anything was measured"), "{stderr}");
    all_end(&seen);
}

#[test]
fn nothing_outlives_it_when_it_is_killed() {
    let _alone = alone();
    let running = Running::start(&LONG);
    let seen = running.await_load();
    kill(running.pid, Signal::SIGKILL);
    let (status, _, _) = running.wait();
    assert_eq!(status, None, "by a signal");
    all_end(&seen);
}

#[test]
fn a_worker_that_dies_does_not_end_it() {
    let _alone = alone();
    let running = Running::start(
        &[
            &SHORT[..],
            &["--scenario", "keepalive", "--loop", "closed", "--json"],
        ]
        .concat(),
    );
    let seen = running.await_load();
    let worker = seen.iter().copied().find(|pid| {
        let parent = harness::process(*pid).map(|(parent, _)| parent);
        parent.is_some_and(|parent| parent != running.pid && seen.contains(&parent))
    });
    kill(worker.expect("a worker"), Signal::SIGKILL);
    let (status, stdout, stderr) = running.wait();
    assert_eq!(status, Some(0), "{stderr}");
    let reports: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(reports[0]["comparison"]["ending"]["ending"], "complete");
    assert_eq!(list(&reports[0]["comparison"]["blocks"]).len(), 20);
}

#[test]
fn a_master_that_dies_ends_it_with_what_there_is() {
    let _alone = alone();
    let running = Running::start(&[&LONG[..], &["--block", "100ms", "--json"]].concat());
    running.await_load();
    let mut loads = std::collections::BTreeSet::new();
    let master = until("a few blocks are measured", || {
        let all = family(running.pid);
        loads.extend(all.iter().copied().filter(|pid| is_load(*pid)));
        let is_master = |pid: &&i32| !children(**pid).is_empty();
        is_true(loads.len() > 12).and_then(|()| all.iter().find(is_master).copied())
    });
    kill(master, Signal::SIGKILL);
    let (status, stdout, stderr) = running.wait();
    assert_eq!(status, Some(1), "{stderr}");
    let reports: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}\n{stderr}"));
    let ending = &reports[0]["comparison"]["ending"];
    assert_eq!(ending["ending"], "failed", "{ending}");
    assert!(!list(&reports[0]["comparison"]["blocks"]).is_empty());
}

#[test]
fn nonsense_is_refused_before_anything_is_started() {
    let table: [(&[&str], &str); 23] = [
        (&["--arms", "fast"], "known: handoff"),
        (&["--arms", "shared/least-loaded"], "shared/least-loaded"),
        (&["--arms", "shared,shared"], "twice"),
        (&["--scenario", "quick"], "known: per-connection"),
        (&["--scenario", "mixed,mixed"], "twice"),
        (&["--duration", "20s"], "--duration"),
        (&["--duration", "soon"], "5m"),
        (&["--rounds", "4"], "at least 5"),
        (&["--rounds", "5", "--duration", "5m"], "--rounds"),
        (&["--clients", "0"], "--clients"),
        (&["--clients", "1000000"], "ulimit"),
        (&["--workers", "0"], "--workers"),
        (&["--rate", "0"], "--rate"),
        (&["--rate", "2000000"], "to 1000000"),
        (&["--rate", "9", "--loop", "closed"], "--rate"),
        (&["--upstream", "https://127.0.0.1"], "TLS"),
        (&["--path", "/x"], "--upstream"),
        (
            &["--upstream", "127.0.0.1:1", "--path", "x"],
            "begins with /",
        ),
        (
            &["--upstream", "127.0.0.1:1", "--scenario", "mixed"],
            "--slow-path",
        ),
        (
            &["--upstream", "127.0.0.1:1", "--scenario", "bodies"],
            "--path",
        ),
        (
            &["--plant", "reuseport=5", "--arms", "shared"],
            "not compared",
        ),
        (&["--proxy-cpus", "3-1"], "0,2-3"),
        (&["--load-cpus", "1022"], "may run on"),
    ];
    for (arguments, culprit) in table {
        let output = run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(culprit), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn results_that_could_not_be_written_are_told_at_once() {
    let output = run(&["--csv", "/nowhere/rows.csv"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("/nowhere/rows.csv"), "{stderr}");
}
