//! `loadtest bus` the whole way, with a real nats-server: every delivery is counted, and the folder is there.
//! Nothing is said of speed.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn both_buses_deliver_everything_and_leave_a_folder() {
    let home = tempfile::tempdir().expect("a folder");
    let load = Path::new(env!("CARGO_BIN_EXE_loadtest")).with_file_name("pointsman");
    assert!(
        load.is_file(),
        "there is no {}: cargo build --workspace first",
        load.display()
    );
    // Servers stand in sbin, which is not in everybody's PATH.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args([
            "bus",
            "--rounds",
            "5",
            "--messages",
            "2000",
            "--requests",
            "30",
        ])
        .args([
            "--rate",
            "2000",
            "--idle",
            "1",
            "--block",
            "0.1",
            "--clients",
            "4",
        ])
        .args(["--out", "runs", "--name", "smoke", "--pointsman"])
        .arg(load)
        .current_dir(home.path())
        .env("TMPDIR", home.path())
        .env("PATH", path)
        .output()
        .expect("loadtest can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let run = home.path().join("runs/smoke");
    let read = |name: String| fs::read_to_string(run.join(&name)).expect(&name);
    for scenario in ["broadcast", "paced", "requests", "flat-out", "http"] {
        let arms = if scenario == "http" { 4 } else { 3 };
        let told: Value =
            serde_json::from_str(&read(format!("comparison-{scenario}.json"))).expect("JSON");
        let blocks = told["comparison"]["blocks"].as_array().expect("a list");
        assert_eq!(blocks.len(), arms * 5, "{scenario}");
        for block in blocks {
            assert!(block["requests"].as_u64() > Some(0), "{scenario}: {block}");
            assert!(
                block["used"]["cpu_ns"].as_u64() > Some(0),
                "{scenario}: {block}"
            );
            // Only who publishes as fast as they can may lose something.
            if scenario != "flat-out" {
                assert_eq!(block["errors"], 0, "{scenario}: {block}");
            }
        }
        if scenario == "broadcast" {
            assert!(blocks.iter().all(|block| block["requests"] == 3 * 2000));
        }
        assert_eq!(
            read(format!("blocks-{scenario}.csv")).lines().count(),
            1 + arms * 5
        );
    }
    let readme = read("README.md".to_owned());
    assert!(
        readme.contains("| floor |") && readme.contains("| idle |"),
        "{readme}"
    );
}
