//! Reports for people: a page and a table.

use std::fmt::Write as _;

use crate::control::{BusReport, StatusReport, WorkerReport, WorkersReport};

/// The page of `ctl status`.
pub(super) fn status(report: &StatusReport) -> String {
    let mut page = format!(
        "pointsman {}, process {}, {} for {}",
        report.version,
        report.pid,
        report.state,
        duration(report.uptime_seconds)
    );
    if report.upgrades > 0 {
        let _ = write!(page, ", {}", count(report.upgrades, "upgrade"));
    }
    page.push('\n');
    let mut row = |name: &str, text: &str| _ = writeln!(page, "{name:<12} {text}");

    row("mode", &arm(&report.mode, &report.policy));
    let mut workers = format!("{} of {} ready", report.workers_ready, report.workers);
    for (n, what) in [
        (report.workers_hung, "hung"),
        (report.workers_draining, "draining"),
        (report.crash_loops, "in a crash loop"),
    ] {
        if n > 0 {
            let _ = write!(workers, ", {n} {what}");
        }
    }
    row("workers", &workers);
    let widest = report.listeners.iter().map(|l| l.address.chars().count());
    let widest = widest.max().unwrap_or(0);
    for (i, listener) in report.listeners.iter().enumerate() {
        let name = if i == 0 { "listening" } else { "" };
        let (address, open) = (&listener.address, listener.connections_open);
        row(name, &format!("{address:<widest$}  {open} open"));
    }
    row("admin", report.admin.as_deref().unwrap_or("off"));
    row(
        "connections",
        &format!(
            "{} open, {} lost with a worker, {} handed on to a second worker",
            report.connections_open, report.connections_lost, report.connections_redispatched
        ),
    );
    if let Some(bus) = &report.bus {
        row("bus", &on_the_bus(bus));
    }
    if let Some(file) = &report.reload.file {
        row("configured", &file.display().to_string());
    }
    if report.reload.count > 0 {
        let reloads = count(report.reload.count, "reload");
        let text = match (&report.reload.error, report.reload.successful) {
            (_, true) => format!("{reloads}, the last one worked"),
            (None, false) => format!("{reloads}, the last one failed and changed nothing"),
            (Some(why), false) => {
                format!("{reloads}, the last one failed and changed nothing: {why}")
            }
        };
        row("reloaded", &text);
    }
    if let Some(failure) = &report.last_failure {
        row("last failure", failure);
    }
    if let Some(operation) = &report.operation {
        row("in progress", operation);
    }
    page
}

fn on_the_bus(bus: &BusReport) -> String {
    if !bus.up {
        return "closed: its hub has ended".into();
    }
    let mut text = match bus.processes {
        1 => "1 process".into(),
        n => format!("{n} processes"),
    };
    if bus.hubs > 0 {
        let _ = write!(text, ", {}", count(bus.hubs, "other hub"));
    }
    let _ = write!(
        text,
        ", {}, {} lost",
        count(bus.messages, "message"),
        bus.lost
    );
    text
}

/// The table of `ctl workers`.
pub(super) fn workers(report: &WorkersReport) -> String {
    let mut page = format!(
        "{}, listening on {}\n\n",
        arm(&report.mode, &report.policy),
        report.listeners.join(" ")
    );
    let heads = [
        "WORKER",
        "PID",
        "GEN",
        "STATE",
        "OPEN",
        "IN FLIGHT",
        "LOAD",
        "RESTARTS",
        "HUNG",
        "CPU",
        "",
    ];
    let rows = report.workers.iter().map(|worker| {
        [
            worker.worker.clone(),
            worker.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
            worker.generation.to_string(),
            worker.state.clone(),
            worker.connections_open.to_string(),
            worker.requests_in_flight.to_string(),
            worker.load.to_string(),
            worker.restarts.to_string(),
            worker.hung.to_string(),
            format!("{:.1} s", worker.cpu_seconds),
            remark(worker),
        ]
    });
    // Words to the left, numbers to the right.
    page.push_str(&table(heads, rows.collect(), &[0, 3, 10]));
    if !report.draining.is_empty() {
        page.push_str("\nDraining:\n");
        let heads = ["WORKER", "PID", "GEN", "OPEN", "IN FLIGHT", "KILLED IN"];
        let rows = report.draining.iter().map(|worker| {
            [
                worker.worker.clone(),
                worker.pid.to_string(),
                worker.generation.to_string(),
                worker.connections_open.to_string(),
                worker.requests_in_flight.to_string(),
                format!("{:.0} s", worker.seconds_left.max(0.0).ceil()),
            ]
        });
        page.push_str(&table(heads, rows.collect(), &[0]));
    }
    page
}

/// What else there is to know about a worker.
fn remark(worker: &WorkerReport) -> String {
    let mut remarks = Vec::new();
    if let Some(group) = &worker.group {
        remarks.push(format!("group {group}"));
    }
    if worker.crash_loop > 0 {
        remarks.push(format!(
            "{} in a row",
            count(worker.crash_loop.into(), "death")
        ));
    }
    if let Some(seconds) = worker.respawn_in_seconds {
        remarks.push(format!("started again in {:.1} s", seconds.max(0.0)));
    }
    remarks.join(", ")
}

/// `handoff, least-loaded`; the mode alone where it takes no policy.
pub(in crate::cli) fn arm(mode: &str, policy: &str) -> String {
    match policy {
        "none" => mode.into(),
        policy => format!("{mode}, {policy}"),
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `4 s`, `12 min 4 s`, `3 h 12 min`, `2 d 3 h`: two units are enough for anybody.
pub(in crate::cli) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let first = units
        .iter()
        .position(|(size, _)| seconds >= *size)
        .unwrap_or(3);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, name) in &units[first..units.len().min(first + 2)] {
        let n = rest / size;
        rest %= size;
        if n > 0 || parts.is_empty() {
            parts.push(format!("{n} {name}"));
        }
    }
    parts.join(" ")
}

/// Columns two spaces apart; those named in `words` to the left, the others to the right.
pub(super) fn table<const N: usize>(
    heads: [&str; N],
    rows: Vec<[String; N]>,
    words: &[usize],
) -> String {
    let mut widths = heads.map(|head| head.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut page = String::new();
    for row in std::iter::once(heads.map(String::from)).chain(rows) {
        let mut line = String::new();
        for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = if words.contains(&i) {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        page.push_str(line.trim_end());
        page.push('\n');
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{DrainReport, ListenerReport, ReloadReport};

    fn worker(name: &str, state: &str) -> WorkerReport {
        WorkerReport {
            worker: name.into(),
            pid: Some(4243),
            generation: 1,
            group: None,
            state: state.into(),
            parked: true,
            connections_open: 12,
            load: 13,
            requests_in_flight: 3,
            connections_assigned: 100,
            connections_handed_over: 99,
            connections_self_accepted: 0,
            cpu_seconds: 12.34,
            restarts: 0,
            hung: 0,
            crash_loop: 0,
            respawn_in_seconds: None,
        }
    }

    #[test]
    fn the_table_is_aligned_and_shows_what_is_on_its_way_out() {
        let mut report = WorkersReport {
            mode: "handoff".into(),
            policy: "least-loaded".into(),
            listeners: vec!["127.0.0.1:8080".into()],
            workers: vec![
                worker("0", "ready"),
                WorkerReport {
                    group: Some("special".into()),
                    pid: None,
                    crash_loop: 3,
                    respawn_in_seconds: Some(1.55),
                    restarts: 17,
                    ..worker("master", "dead")
                },
            ],
            draining: Vec::new(),
        };
        let table = "\
handoff, least-loaded, listening on 127.0.0.1:8080

WORKER   PID  GEN  STATE  OPEN  IN FLIGHT  LOAD  RESTARTS  HUNG     CPU
0       4243    1  ready    12          3    13         0     0  12.3 s
master     -    1  dead     12          3    13        17     0  12.3 s  group special, 3 deaths in a row, started again in 1.6 s
";
        assert_eq!(workers(&report), table);
        report.draining.push(DrainReport {
            worker: "1".into(),
            pid: 99,
            generation: 4,
            connections_open: 2,
            requests_in_flight: 1,
            seconds_left: 28.2,
        });
        let draining = "
Draining:
WORKER  PID  GEN  OPEN  IN FLIGHT  KILLED IN
1        99    4     2          1       29 s
";
        assert_eq!(workers(&report), format!("{table}{draining}"));
    }

    #[test]
    fn the_page_says_what_is_so_and_leaves_out_what_is_not() {
        let mut report = StatusReport {
            version: "0.1.0".into(),
            pid: 4242,
            state: "running".into(),
            mode: "shared".into(),
            policy: "none".into(),
            uptime_seconds: 11_520.5,
            upgrades: 0,
            workers: 4,
            workers_ready: 4,
            workers_hung: 0,
            workers_draining: 0,
            crash_loops: 0,
            listeners: vec![
                ListenerReport {
                    address: "127.0.0.1:8080".into(),
                    connections_open: 7,
                },
                ListenerReport {
                    address: "[::1]:80".into(),
                    connections_open: 5,
                },
            ],
            admin: None,
            operation: None,
            last_failure: None,
            reload: ReloadReport::default(),
            connections_open: 12,
            connections_lost: 0,
            connections_redispatched: 3,
            bus: Some(BusReport {
                master: "00000000000000ab".into(),
                up: true,
                processes: 5,
                hubs: 1,
                messages: 7,
                deliveries: 9,
                lost: 0,
                queued_bytes: 0,
            }),
        };
        assert_eq!(
            status(&report),
            "\
pointsman 0.1.0, process 4242, running for 3 h 12 min
mode         shared
workers      4 of 4 ready
listening    127.0.0.1:8080  7 open
             [::1]:80        5 open
admin        off
connections  12 open, 0 lost with a worker, 3 handed on to a second worker
bus          5 processes, 1 other hub, 7 messages, 0 lost
"
        );
        report.upgrades = 1;
        report.workers_hung = 1;
        report.crash_loops = 2;
        report.operation = Some("restart: 1 of 4 replaced".into());
        report.reload = ReloadReport {
            file: Some("/etc/p.toml".into()),
            count: 2,
            successful: false,
            error: Some("line 3: unknown key 'wrkers'".into()),
        };
        let page = status(&report);
        for text in [
            "3 h 12 min, 1 upgrade\n",
            "4 of 4 ready, 1 hung, 2 in a crash loop\n",
            "configured   /etc/p.toml\n",
            "reloaded     2 reloads, the last one failed and changed nothing: line 3: unknown key 'wrkers'\n",
            "in progress  restart: 1 of 4 replaced\n",
        ] {
            assert!(page.contains(text), "{text}\n{page}");
        }
    }

    #[test]
    fn durations_have_at_most_two_units() {
        for (seconds, text) in [
            (0.4, "0 s"),
            (59.9, "59 s"),
            (60.0, "1 min"),
            (3600.0, "1 h"),
            (3_661.0, "1 h 1 min"),
            (100_000.0, "1 d 3 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
