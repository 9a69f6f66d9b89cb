//! The whole way, with what is there wherever this is built: a short comparison, a drill, the folder that they leave,
//! and the table that goes from there into a README. Nothing is said of speed.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// `loadtest`. Everything that it starts inherits `TMPDIR`, by which it can be found.
fn loadtest(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command
        .args(arguments)
        .current_dir(home)
        .env("TMPDIR", home)
        // Whatever peers are installed here, this is not about them.
        .env("PATH", "/nonexistent");
    command
}

/// `loadtest peers`, whose folder is going to be `runs/smoke`.
fn peers(home: &Path, arguments: &[&str]) -> Command {
    let pointsman = Path::new(env!("CARGO_BIN_EXE_loadtest")).with_file_name("pointsman");
    assert!(
        pointsman.is_file(),
        "there is no {}: cargo build --workspace first",
        pointsman.display()
    );
    let pointsman = pointsman.to_str().expect("a path of plain letters");
    let mut all = vec![
        "peers",
        "--pointsman",
        pointsman,
        "--peers",
        "nowhere",
        "--unpinned",
    ];
    all.extend(["--out", "runs", "--name", "smoke"]);
    all.extend(arguments);
    loadtest(home, &all)
}

fn output(mut command: Command) -> Output {
    command.output().expect("loadtest can be started")
}

/// Runs `loadtest peers` to its end, and returns the folder that it leaves and what it said on standard error.
fn run(home: &Path, arguments: &[&str]) -> (PathBuf, String) {
    let output = output(peers(home, arguments));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let left = there(home);
    assert!(left.is_empty(), "{left:?}");
    (home.join("runs/smoke"), said)
}

/// Runs `loadtest peers` until `enough`, which is told what processes there are, and then interrupts it: it ends and
/// leaves nobody behind.
fn interrupted(home: &Path, arguments: &[&str], mut enough: impl FnMut(&[(i32, String)]) -> bool) {
    let mut command = peers(home, arguments);
    let running = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let running = running.expect("loadtest can be started");
    let deadline = Instant::now() + Duration::from_secs(120);
    while !enough(&there(home)) {
        assert!(Instant::now() < deadline, "{:?}", there(home));
        sleep(Duration::from_millis(20));
    }
    let pid = i32::try_from(running.id()).expect("process ids fit");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("it is ours");
    let output = running.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert!(
        !said.contains("after SIGTERM"),
        "not all ended when asked to: {said}"
    );
    let left = there(home);
    assert!(left.is_empty(), "{left:?}");
}

/// Ids and command lines of processes that were started from `home` and are still there.
fn there(home: &Path) -> Vec<(i32, String)> {
    let mark = format!("TMPDIR={}", home.display());
    let processes = fs::read_dir("/proc").expect("there is /proc");
    processes
        .flatten()
        .filter(|process| {
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
        })
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let line = fs::read_to_string(process.path().join("cmdline")).ok()?;
            Some((pid, line))
        })
        .collect()
}

fn json(path: &Path) -> Value {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_comparison_leaves_everything_that_is_needed_to_judge_it() {
    let home = tempfile::tempdir().expect("a folder");
    let (run, said) = run(
        home.path(),
        &[
            "--arms",
            "pointsman:handoff,relay,envoy,direct",
            "--scenario",
            "keepalive",
            "--rounds",
            "5",
            "--block",
            "0.3",
            "--drills",
            "0",
        ],
    );
    assert!(said.contains("MISSING") && said.contains("envoy"), "{said}");

    let report = json(&run.join("comparison-keepalive.json"));
    let names: Vec<&str> = report["comparison"]["arms"]
        .as_array()
        .expect("arms")
        .iter()
        .map(|arm| arm["name"].as_str().expect("a name"))
        .collect();
    let ours = "pointsman:handoff";
    assert_eq!(names, [ours, &format!("{ours}, again"), "relay", "direct"]);
    let blocks = report["comparison"]["blocks"].as_array().expect("blocks");
    assert_eq!(blocks.len(), 4 * 5 * 2, "arms, rounds, loops");
    for block in blocks {
        assert!(block["requests"].as_u64() > Some(0), "{block}");
        assert_eq!(block["errors"], 0, "{block}");
        assert!(block["used"]["cpu_ns"].as_u64() > Some(0), "{block}");
    }
    let recommended = &report["summary"]["recommendation"];
    assert!(recommended["arm"].is_null(), "{recommended}");

    let rows = fs::read_to_string(run.join("blocks-keepalive.csv")).expect("there are rows");
    assert_eq!(rows.lines().count(), 1 + blocks.len());
    assert!(fs::read_to_string(run.join("report.html")).is_ok_and(|page| page.contains("relay")));
    let readme = fs::read_to_string(run.join("README.md")).expect("there is a README");
    assert!(readme.contains("**Missing**: envoy"), "{readme}");

    let front = "above\n<!-- loadtest:begin none -->\n<!-- loadtest:end -->\nbelow\n";
    fs::write(home.path().join("README.md"), front).expect("ours");
    let output = output(loadtest(home.path(), &["splice", "runs/smoke"]));
    assert!(output.status.success(), "{output:?}");
    let front = fs::read_to_string(home.path().join("README.md")).expect("it is still there");
    assert!(
        front.contains("loadtest:begin runs/smoke") && front.ends_with("below\n"),
        "{front}"
    );
    assert!(front.contains("| relay"), "{front}");
}

#[test]
fn drills_tell_what_clients_saw() {
    let home = tempfile::tempdir().expect("a folder");
    let (run, _) = run(
        home.path(),
        &[
            "--arms",
            "pointsman:handoff,relay",
            "--only-drills",
            "--drills",
            "1",
        ],
    );
    let drills = json(&run.join("drills.json"));
    let records = drills["records"].as_array().expect("records");
    let faults: Vec<&str> = records
        .iter()
        .map(|r| r["fault"].as_str().expect("a fault"))
        .collect();
    assert_eq!(faults, ["kill", "stop"], "one arm, each fault once");
    for record in records {
        assert!(record["requests"].as_u64() > Some(1000), "{record}");
        // The other worker, and the master, were there all the time.
        assert_eq!(record["refused"], 0, "{record}");
        assert_eq!(record["wrong"], 0, "{record}");
        assert_eq!(record["whole"], false, "{record}");
    }
    assert!(
        records[0]["lost_idle"].as_u64() > Some(0),
        "somebody's connection was there: {records:?}"
    );
    assert!(records[0]["replaced_after"].is_f64(), "{records:?}");
    assert!(
        records[1]["long_kept"].as_u64() > Some(0),
        "somebody waited: {records:?}"
    );
}

#[test]
fn whoever_interrupts_a_comparison_keeps_what_was_measured() {
    let home = tempfile::tempdir().expect("a folder");
    let mut loads = HashSet::new();
    interrupted(
        home.path(),
        &[
            "--arms",
            "relay,direct",
            "--scenario",
            "keepalive",
            "--rounds",
            "500",
            "--block",
            "0.2",
        ],
        |processes| {
            let load = |(_, line): &&(i32, String)| line.ends_with("\0load\0");
            loads.extend(processes.iter().filter(load).map(|(pid, _)| *pid));
            // Two in the trial, and then one for each block.
            loads.len() > 5
        },
    );
    let run = home.path().join("runs/smoke");
    let report = json(&run.join("comparison-keepalive.json"));
    assert_eq!(report["comparison"]["ending"]["ending"], "interrupted");
    let blocks = report["comparison"]["blocks"].as_array().expect("blocks");
    assert!(!blocks.is_empty());
    let readme = fs::read_to_string(run.join("README.md")).expect("there is a README");
    for part in ["did not end as planned: interrupted", "**Not complete**"] {
        assert!(readme.contains(part), "{part} is missing in {readme}");
    }
}

#[test]
fn whoever_interrupts_a_drill_leaves_nobody_standing_still() {
    let home = tempfile::tempdir().expect("a folder");
    let stands = |(pid, _): &(i32, String)| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    interrupted(
        home.path(),
        &["--arms", "pointsman:shared", "--only-drills"],
        |processes| processes.iter().any(stands),
    );
}

#[test]
fn nonsense_is_refused_by_name() {
    let home = tempfile::tempdir().expect("a folder");
    for (arguments, culprit) in [
        (&["peers", "--arms", "apache"][..], "apache"),
        (&["peers", "--scenario", "nothing"], "nothing"),
        (
            &["peers", "--arms", "relay,relay", "--unpinned"],
            "relay is named twice",
        ),
        (
            &[
                "peers",
                "--arms",
                "relay",
                "--unpinned",
                "--pointsman",
                "no/such",
            ],
            "no/such",
        ),
        (&["splice", "no/such/run"], "README.md"),
    ] {
        let output = output(loadtest(home.path(), arguments));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(culprit),
            "{arguments:?}: {said}"
        );
    }
}
