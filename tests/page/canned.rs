//! Reports that no master would make so soon: comparisons in all their states, and the worst of everything.

use pointsman::{compare::Report, scoreboard::histogram::Snapshot};
use serde_json::{Value, json};

/// What must stay text wherever it turns up.
pub const HOSTILE: &str = "<img src=x onerror=\"window.broken=1\"><script>window.broken=1</script>";

/// A comparison of `arms` arms, with `blocks` blocks of it made, and every kind of verdict.
pub fn comparison(arms: usize, blocks: usize, ending: &Value, name: &str) -> Value {
    let contrast = |ratio: f64, half: f64, verdict: &str| {
        json!({ "ratio": ratio, "low": ratio * (1.0 - half), "high": ratio * (1.0 + half),
                "rounds": 12, "verdict": verdict })
    };
    let kinds = [
        (1.004, 0.012, "no-difference"),
        (1.082, 0.021, "better"),
        (0.91, 0.03, "worse"),
        (1.31, 0.4, "too-little"),
    ];
    let arm_of = |i: usize| {
        if i == 0 {
            name.to_owned()
        } else {
            format!("{name} {i}")
        }
    };
    let summaries: Vec<Value> = (0..arms)
        .map(|i| {
            let (ratio, half, verdict) = kinds[i % kinds.len()];
            let against = (i > 0).then(|| contrast(ratio, half, verdict));
            let inverse = (i > 0).then(|| contrast(1.0 / ratio, half, verdict));
            json!({
                "name": arm_of(i), "twin_of": (i == 1).then_some(0),
                "requests": 120_000 - i, "errors": if i == 3 { 7 } else { 0 },
                "requests_per_second": 5_000.0 * ratio, "cpu_us_per_request": 81.5 / ratio,
                "p50": 0.0011, "p90": 0.002, "p99": 0.0042 / ratio, "p999": null,
                "busiest_over_mean": 1.2, "open_deviation": 0.4,
                "handoff_p50": 0.00004, "handoff_p99": 0.0003,
                "run_queue_us_per_request": 3.1, "wakeups_per_request": 0.8,
                "preempted_per_request": 0.01, "own_share": 1.0,
                "throughput": against, "cpu": inverse, "latency_p50": null,
                "latency_p99": if i == 2 { Value::Null } else { json!(inverse) },
                "words": if i > 1 { format!("{verdict}: in words, by {ratio}") } else { String::new() },
            })
        })
        .collect();
    let measured: Vec<Value> = (0..blocks)
        .map(|i| {
            json!({
                "arm": i % arms, "round": i / arms + 1, "position": i % arms + 1,
                "drive": { "drive": "live" }, "began": 10 * i, "seconds": 10.0, "requests": 50_000,
                "errors": 0, "connections": 12,
                "used": { "cpu_ns": 1, "waited_ns": 0, "wakeups": 0, "preempted": 0 },
                "lost_threads": 0, "latency": Snapshot::default(), "handoff": Snapshot::default(),
                "open": [], "own_share": 1.0,
            })
        })
        .collect();
    let report = json!({
        "comparison": {
            "source": "live", "scenario": "live", "load": format!("as it came, to {name}"),
            "circumstances": { "version": "0.1.0", "command": name, "seed": 7,
                "began": 1_795_000_000, "processor": name, "cores": 2, "kernel": name, "notes": [] },
            "arms": (0..arms)
                .map(|i| json!({ "name": arm_of(i), "twin_of": (i == 1).then_some(0), "configuration": null }))
                .collect::<Vec<_>>(),
            "blocks": measured, "rounds": 12, "ending": ending,
        },
        "summary": {
            "arms": summaries,
            "floor": { "throughput": 0.014, "cpu": 0.011, "p50": null, "p99": 0.05 },
            "recommendation": {
                "arm": (arms > 2).then_some(2),
                "text": format!("{name} 2: it takes 8 % less CPU time for a request than {name}."),
                "configuration": "mode = 'handoff'\npolicy = 'least-loaded'",
            },
        },
    });
    // If this no longer is what the master sends, the test shows nothing.
    let checked: Report = serde_json::from_value(report).expect("a report");
    json!(checked)
}

/// Makes the worst of a real `/live`: every text is hostile, every number large, and there are as many
/// workers as there can be.
pub fn extreme(live: &mut Value) {
    live["at"] = json!(1e9);
    for key in [
        "version",
        "state",
        "mode",
        "policy",
        "operation",
        "last_failure",
    ] {
        live["status"][key] = json!(HOSTILE);
    }
    live["status"]["listeners"] = json!([{ "address": HOSTILE, "connections_open": u64::MAX }]);
    live["status"]["reload"] =
        json!({ "file": HOSTILE, "count": 3, "successful": false, "error": HOSTILE });
    live["status"]["uptime_seconds"] = json!(1e9);
    live["requests"]["5xx"] = json!(u64::MAX);
    live["imbalance"] = json!(128.0);
    live["latency"] = json!({ "sum_ns": u64::MAX, "buckets": [[0, 1], [431, u64::MAX]] });
    let worker = live["workers"][0].clone();
    live["workers"] = (0..128)
        .map(|i| {
            let mut worker = worker.clone();
            worker["worker"] = json!(if i == 0 {
                HOSTILE.into()
            } else {
                i.to_string()
            });
            worker["state"] = json!(["ready", "hung", "starting", "draining", HOSTILE][i % 5]);
            worker["connections_open"] = json!(i * i);
            worker["crash_loop"] = json!(i % 2);
            worker["respawn_in_seconds"] = if i % 3 == 0 { json!(1.5) } else { Value::Null };
            worker
        })
        .collect();
    live["draining"] = json!([{ "worker": HOSTILE, "pid": 9, "generation": 1,
        "connections_open": 3, "requests_in_flight": 2, "seconds_left": 28.5 }]);
    live["arms"] = json!([{ "mode": HOSTILE, "policy": HOSTILE, "active_seconds": 0.0,
        "cpu_seconds": 1e9, "connections": u64::MAX, "requests": u64::MAX,
        "latency": { "sum_ns": 0, "buckets": [] } }]);
}
