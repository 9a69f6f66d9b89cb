//! Drills: the product proves its promise upon itself, and these tests read the ledger.
//!
//! Each runs `pointsman drill` as a user would, with the counts that the promise names, and looks at
//! every number by itself: the drill's own verdict is not taken on trust.

use std::{
    process::{Command, Output},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

/// Drills share the machine badly: clients that have to wait two seconds for a turn on a core would
/// be in limbo for no fault of the cluster's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let output = command.arg("drill").args(arguments).output();
    output.expect("the binary under test")
}

/// Runs a drill and returns its ledger, once it has kept what every drill must keep.
#[track_caller]
fn drill(arguments: &[&str]) -> Value {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // One seed, so that two runs differ by what the machine does and nothing else.
    let all = [arguments, &["--seed", "20261120", "--json"]].concat();
    let output = run(&all);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}\n{}", String::from_utf8_lossy(&output.stderr));
    });
    let broken: Vec<&Value> = list(&report["promises"])
        .iter()
        .filter(|promise| promise["held"] != true)
        .collect();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(broken.is_empty(), "{broken:#?}\n{stderr}");
    assert_eq!(
        (output.status.code(), &report["held"]),
        (Some(0), &Value::Bool(true))
    );
    assert_eq!(report["seed"], 20_261_120);

    for way in ["wrong", "refused", "limbo"] {
        assert_eq!(number(&report["ledger"][way]), 0, "{way}\n{report:#}");
    }
    for leg in list(&report["legs"]) {
        assert_eq!(leg["served_twice"], 0, "{leg:#}");
        assert_eq!(leg["open_after"], 0, "{leg:#}");
        assert_eq!(leg["after"]["zombies"], 0, "{leg:#}");
        for held in ["descriptors", "processes"] {
            let (before, after) = (&leg["before"][held], &leg["after"][held]);
            assert!(number(before) > 0, "{held}\n{leg:#}");
            assert!(number(after) <= number(before), "{held}\n{leg:#}");
        }
        let ledger = &leg["ledger"];
        let ends = [
            "right", "retried", "wrong", "reset", "refused", "limbo", "void",
        ];
        let ended: u64 = ends.iter().map(|end| number(&ledger[end])).sum();
        assert_eq!(
            ended,
            number(&ledger["attempts"]),
            "each has one end: {ledger:#}"
        );
        assert!(number(&ledger["right"]) >= 100, "no load: {ledger:#}");
    }
    report
}

#[track_caller]
fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .map_or_else(|| panic!("{value} is no list"), Vec::as_slice)
}

/// All faults, in their order.
fn faults(report: &Value) -> Vec<&Value> {
    list(&report["legs"])
        .iter()
        .flat_map(|leg| list(&leg["faults"]))
        .collect()
}

/// Faults whose names begin like that.
fn count(report: &Value, name: &str) -> usize {
    let is_it = |fault: &&&Value| fault["fault"].as_str().is_some_and(|f| f.starts_with(name));
    faults(report).iter().filter(is_it).count()
}

fn modes(report: &Value) -> Vec<&str> {
    let legs = list(&report["legs"]).iter();
    legs.filter_map(|leg| leg["mode"].as_str()).collect()
}

const ALL_MODES: [&str; 4] = ["handoff", "hybrid", "shared", "reuseport"];

#[track_caller]
fn nothing_failed(report: &Value) {
    for leg in list(&report["legs"]) {
        assert_eq!(
            (number(&leg["lost"]), number(&leg["restarts"])),
            (0, 0),
            "{leg:#}"
        );
    }
    for way in ["reset", "retried"] {
        assert_eq!(number(&report["ledger"][way]), 0, "{way}\n{report:#}");
    }
}

#[test]
fn a_hundred_workers_are_killed_and_whatever_is_lost_is_counted() {
    let report = drill(&["kill", "--count", "100"]);
    assert_eq!(count(&report, "SIGKILL to worker "), 100);
    assert_eq!(modes(&report), ALL_MODES);
    for leg in list(&report["legs"]) {
        let ledger = &leg["ledger"];
        let cut = number(&ledger["reset"]) + number(&ledger["retried"]);
        assert!(cut <= number(&leg["lost"]), "{cut} lost\n{leg:#}");
        assert_eq!(number(&leg["restarts"]), 25, "{leg:#}");
    }
    // Or the faults met nobody, or nobody whom the dispatcher had to save.
    let unclaimed = |fault: &&Value| fault["facts"]["unclaimed"].as_u64().unwrap_or(0);
    assert!(faults(&report).iter().map(unclaimed).sum::<u64>() > 0);
    let lost: u64 = list(&report["legs"])
        .iter()
        .map(|leg| number(&leg["lost"]))
        .sum();
    assert!(lost > 0, "{report:#}");
}

#[test]
fn twenty_workers_stand_still_and_nobody_new_waits_for_them() {
    let report = drill(&["stop", "--count", "20"]);
    assert_eq!(count(&report, "SIGSTOP to worker "), 20);
    assert_eq!(modes(&report), ALL_MODES);
    nothing_failed(&report);
    for fault in faults(&report) {
        let facts = &fault["facts"];
        assert!(number(&facts["new_and_slow"]) <= 5, "{fault:#}");
        assert!(number(&facts["given"]) <= 5, "{fault:#}");
    }
}

#[test]
fn a_healthy_worker_is_not_evicted_however_busy_the_machine_is() {
    let report = drill(&["stop", "--healthy", "60"]);
    assert_eq!(modes(&report), ALL_MODES);
    nothing_failed(&report);
    for leg in list(&report["legs"]) {
        assert_eq!(number(&leg["hung"]), 0, "{leg:#}");
    }
}

#[test]
fn thirty_rolling_restarts_cost_nobody_anything() {
    let report = drill(&["restart", "--count", "30"]);
    assert_eq!(count(&report, "rolling restart"), 30);
    assert_eq!(modes(&report), ALL_MODES);
    nothing_failed(&report);
}

#[test]
fn fifty_restarts_of_one_cluster_leave_nothing_behind() {
    // Descriptors, memory, processes: looked at in every drill, and here after more than a few.
    let report = drill(&["restart", "--count", "50", "--mode", "handoff"]);
    assert_eq!(count(&report, "rolling restart"), 50);
    assert_eq!(modes(&report), ["handoff"]);
}

#[test]
fn thirty_reloads_take_effect_and_thirty_broken_ones_change_nothing() {
    let report = drill(&["reload", "--count", "30"]);
    let good = count(&report, "reload with 2 workers") + count(&report, "reload with 3 workers");
    assert_eq!((good, faults(&report).len()), (30, 60));
    for way in [
        "a syntax error",
        "an unknown key",
        "an unknown mode",
        "a policy without a say",
        "an address that is not ours",
        "an address in use",
        "no workers",
        "a broken upstream",
        "2 MiB",
        "a wrong type",
        "no UTF-8",
        "no file",
        "a directory",
    ] {
        assert!(count(&report, &format!("reload with {way}")) >= 2, "{way}");
    }
    nothing_failed(&report);
}

#[test]
fn twenty_upgrades_cost_nobody_anything_and_ten_bad_ones_change_nothing() {
    let report = drill(&["upgrade", "--count", "20"]);
    assert_eq!(count(&report, "upgrade to the same binary"), 20);
    assert_eq!(faults(&report).len(), 30);
    for way in ["crashes", "hangs", "refuses", "is something else"] {
        assert!(
            count(&report, &format!("upgrade to one that {way}")) >= 1,
            "{way}"
        );
    }
    nothing_failed(&report);
}

#[test]
fn two_hundred_switches_under_load_cost_nobody_anything() {
    let report = drill(&["switch", "--count", "200"]);
    assert_eq!(count(&report, "switch to "), 200);
    for arm in pointsman::Arm::ALL {
        assert!(count(&report, &format!("switch to {arm}")) >= 24, "{arm}");
    }
    nothing_failed(&report);
}

#[test]
fn nonsense_is_refused_before_anything_is_started() {
    let table: [(&[&str], &str); 7] = [
        (&["jump"], "jump"),
        (&["kill", "--count", "0"], "--count"),
        (&["kill", "--mode", "fast"], "fast"),
        (&["kill", "--healthy", "9"], "--healthy"),
        (&["stop", "--healthy", "9", "--count", "3"], "--count"),
        (&["kill", "--control", "/run/x.sock"], "--target"),
        (&["kill", "--workers", "1"], "--workers"),
    ];
    for (arguments, culprit) in table {
        let output = run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(culprit), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}
