//! The whole way, with what is there wherever this is built: a short comparison, a drill, the folder that they leave,
//! and the table that goes from there into a README. Nothing is said of speed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Runs `loadtest`. Everything that it starts inherits `TMPDIR`, by which it can be found.
fn loadtest(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(arguments)
        .current_dir(home)
        .env("TMPDIR", home)
        // Whatever peers are installed here, this is not about them.
        .env("PATH", "/nonexistent")
        .output()
        .expect("loadtest can be started")
}

/// Runs `loadtest peers`, and returns the folder that it leaves and what it said on standard error.
fn peers(home: &Path, arguments: &[&str]) -> (PathBuf, String) {
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
    let output = loadtest(home, &all);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(left_behind(home), Vec::<String>::new());
    (home.join("runs/smoke"), said)
}

/// Command lines of processes that were started from `home` and are still there.
fn left_behind(home: &Path) -> Vec<String> {
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
        .map(|process| fs::read_to_string(process.path().join("cmdline")).unwrap_or_default())
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
    let (run, said) = peers(
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
    let output = loadtest(home.path(), &["splice", "runs/smoke"]);
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
    let (run, _) = peers(
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
        let output = loadtest(home.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(culprit),
            "{arguments:?}: {said}"
        );
    }
}
