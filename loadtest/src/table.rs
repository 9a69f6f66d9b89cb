//! The tables of a run, as Markdown. Everything in them comes from the run's folder.

use std::fmt::Write as _;

use pointsman::compare::{ArmSummary, Contrast, Ending, Report, Verdict};

use crate::drills::{Drills, Fault, Record};
use crate::rundir::Run;

/// What stands in a cell of which nothing is known.
const NOTHING: &str = "–";

/// The scenarios that stand on the front page, where they were measured.
const FRONT: [&str; 3] = ["per-connection", "keepalive", "bodies"];

/// What the front page shows: cost in the plainest scenarios, what should make one doubt, and what failures do.
pub(crate) fn short(run: &Run) -> String {
    let is_front = |report: &&Report| FRONT.contains(&report.comparison.scenario.as_str());
    let front: Vec<&Report> = run.reports.iter().filter(is_front).collect();
    let mut text = circumstances(run);
    if !front.is_empty() {
        cost(&mut text, &front);
        complaints(&mut text, run, &front);
    }
    ended(text, run)
}

/// Everything that the run says: cost, throughput, latency, doubts and failures.
pub(crate) fn full(run: &Run) -> String {
    let all: Vec<&Report> = run.reports.iter().collect();
    let mut text = circumstances(run);
    if !all.is_empty() {
        cost(&mut text, &all);
        throughput(&mut text, &all);
        latencies(&mut text, &all);
        complaints(&mut text, run, &all);
    }
    ended(text, run)
}

/// Where and with what it was measured.
fn circumstances(run: &Run) -> String {
    let mut text = String::new();
    let about = &run.about;
    let _ = writeln!(
        text,
        "{}, {} cores, {}; {}. {}\n",
        about.processor,
        about.cores,
        about.kernel,
        about.placement,
        versions(run),
    );
    if !run.about.missing.is_empty() {
        let names: Vec<&str> = run.about.missing.keys().map(String::as_str).collect();
        let _ = writeln!(text, "Missing in this run: {}.\n", names.join(", "));
    }
    text
}

/// `text` and the drills, with one end of line at the end.
fn ended(mut text: String, run: &Run) -> String {
    if let Some(drills) = &run.drills {
        failures(&mut text, drills);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Each version once.
fn versions(run: &Run) -> String {
    let mut versions: Vec<&str> = Vec::new();
    for version in run.about.versions.values() {
        if !versions.contains(&version.as_str()) {
            versions.push(version);
        }
    }
    match versions.is_empty() {
        true => String::new(),
        false => format!("{}.", versions.join(", ")),
    }
}

/// How a comparison ended, if not as planned.
pub(crate) fn ending(ending: &Ending) -> String {
    match ending {
        Ending::Complete => "as planned".to_owned(),
        Ending::Running => "it was still going on".to_owned(),
        Ending::Interrupted => "somebody ended it".to_owned(),
        Ending::Guarded { why } | Ending::Failed { why } => why.clone(),
    }
}

/// The arms' names, in the order in which the reports have them.
fn names<'a>(reports: &[&'a Report]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for arm in reports.iter().flat_map(|report| &report.summary.arms) {
        if !names.contains(&arm.name.as_str()) {
            names.push(&arm.name);
        }
    }
    names
}

/// A table with a row for each arm and a column for each scenario.
fn by_scenario(reports: &[&Report], cell: impl Fn(&Report, &ArmSummary) -> String) -> String {
    let mut head = vec![String::new()];
    head.extend(
        reports
            .iter()
            .map(|report| report.comparison.scenario.clone()),
    );
    let mut cells = vec![head];
    for name in names(reports) {
        let mut row = vec![name.to_owned()];
        row.extend(reports.iter().map(|report| {
            let arm = report.summary.arms.iter().find(|arm| arm.name == name);
            arm.map_or_else(|| NOTHING.to_owned(), |arm| cell(report, arm))
        }));
        cells.push(row);
    }
    align(&cells)
}

fn base<'a>(reports: &[&'a Report]) -> &'a str {
    let first = reports
        .first()
        .and_then(|report| report.summary.arms.first());
    first.map_or("the first", |arm| arm.name.as_str())
}

fn cost(text: &mut String, reports: &[&Report]) {
    let base = base(reports);
    let _ = writeln!(
        text,
        "**CPU time for a request**, microseconds, in closed loop; below it the ratio to {base} in the same \
         round with its 95 % interval. ≈: no difference can be told.\n"
    );
    let table = by_scenario(reports, |report, arm| {
        let cost = number(arm.cpu_us_per_request, |cost| format!("{cost:.1}"));
        with_ratio(report, arm, cost, arm.cpu)
    });
    text.push_str(&table);
}

fn throughput(text: &mut String, reports: &[&Report]) {
    let base = base(reports);
    let _ = writeln!(
        text,
        "\n**Requests a second**, in closed loop, and the ratio to {base}. One core carries load and upstream: \
         what comes near `direct` was limited by these.\n"
    );
    let table = by_scenario(reports, |report, arm| {
        let rate = number(arm.requests_per_second, |rate| format!("{rate:.0}"));
        with_ratio(report, arm, rate, arm.throughput)
    });
    text.push_str(&table);
}

fn with_ratio(
    report: &Report,
    arm: &ArmSummary,
    value: String,
    contrast: Option<Contrast>,
) -> String {
    let is_base = report
        .summary
        .arms
        .first()
        .is_some_and(|base| base.name == arm.name);
    match contrast {
        Some(contrast) if !is_base => format!("{value}<br>{}", ratio(contrast)),
        _ => value,
    }
}

fn ratio(contrast: Contrast) -> String {
    let Contrast {
        ratio, low, high, ..
    } = contrast;
    match contrast.verdict {
        Verdict::TooLittle => format!("({ratio:.2}×)"),
        Verdict::NoDifference => format!("≈ {ratio:.2}× [{low:.2}–{high:.2}]"),
        Verdict::Better | Verdict::Worse => format!("{ratio:.2}× [{low:.2}–{high:.2}]"),
    }
}

fn latencies(text: &mut String, reports: &[&Report]) {
    let _ = writeln!(
        text,
        "\n**Latency**, milliseconds, in open loop at the same rate for all, from the planned moment: \
         median / 99 % / 99.9 %.\n"
    );
    let table = by_scenario(reports, |_, arm| {
        let cell = |quantile| number(quantile, milliseconds);
        format!("{} / {} / {}", cell(arm.p50), cell(arm.p99), cell(arm.p999))
    });
    text.push_str(&table);
}

/// What should make a reader doubt.
fn complaints(text: &mut String, run: &Run, reports: &[&Report]) {
    let mut lines = run.about.disturbances.clone();
    for report in reports {
        let (comparison, summary) = (&report.comparison, &report.summary);
        if comparison.ending != Ending::Complete {
            lines.push(format!(
                "{} did not end as planned: {}.",
                comparison.scenario,
                ending(&comparison.ending)
            ));
        }
        for arm in summary.arms.iter().filter(|arm| arm.errors > 0) {
            lines.push(format!(
                "{}: {} requests of {} failed, of {}.",
                comparison.scenario,
                arm.errors,
                arm.name,
                arm.errors + arm.requests
            ));
        }
    }
    if !lines.is_empty() {
        let _ = writeln!(text, "\nNot clean:\n");
        for line in lines {
            let _ = writeln!(text, "- {line}");
        }
    }
}

fn failures(text: &mut String, drills: &Drills) {
    let rate = drills.rate;
    let workers = drills.workers;
    let _ = writeln!(
        text,
        "\n**A worker is killed** (SIGKILL, one of {workers}, under {rate:.0} requests a second, half of them on \
         kept connections; sums and slowest of all repetitions). Where there is one process, that one is \
         killed, and nobody restarts it here as an init system would.\n"
    );
    let mut cells = vec![head(&[
        "",
        "made of",
        "requests failed",
        "idle connections lost",
        "new process after",
        "all served as before after",
    ])];
    for records in grouped(drills, Fault::Kill) {
        let sum = |value: fn(&Record) -> u64| records.iter().map(|r| value(r)).sum::<u64>();
        cells.push(vec![
            records[0].arm.clone(),
            records[0].architecture.clone(),
            format!("{} of {}", sum(Record::failed), sum(|r| r.requests)),
            sum(|r| r.lost_idle).to_string(),
            slowest(&records, |r| r.replaced_after, "never"),
            slowest(
                &records,
                |r| r.served_after,
                &format!("not within {} s", drills.watched_for),
            ),
        ]);
    }
    text.push_str(&align(&cells));
    let _ = writeln!(
        text,
        "\n**A worker is stopped** (SIGSTOP for {} s, one of {workers}; the whole process where workers are \
         threads). Clients wait for up to 10 s. Quantiles are of what was answered, in milliseconds.\n",
        drills.stopped_for
    );
    let mut cells = vec![head(&[
        "",
        "requests failed",
        "waited > 1 s on kept connections",
        "waited > 1 s on new ones",
        "99 %",
        "longest",
    ])];
    for records in grouped(drills, Fault::Stop) {
        let sum = |value: fn(&Record) -> u64| records.iter().map(|r| value(r)).sum::<u64>();
        let share = |long: u64, all: u64| match all {
            0 => NOTHING.to_owned(),
            all => format!("{:.1} %", long as f64 * 100.0 / all as f64),
        };
        let whole = if records[0].whole { " (whole)" } else { "" };
        let kept = sum(|r| r.kept);
        cells.push(vec![
            format!("{}{whole}", records[0].arm),
            format!("{} of {}", sum(Record::failed), sum(|r| r.requests)),
            share(sum(|r| r.long_kept), kept),
            share(sum(|r| r.long_new), sum(|r| r.requests) - kept),
            worst(&records, |r| r.p99),
            worst(&records, |r| r.max),
        ]);
    }
    text.push_str(&align(&cells));
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The repetitions of each arm's drill, arms in the order in which they came.
fn grouped(drills: &Drills, fault: Fault) -> Vec<Vec<&Record>> {
    let mut groups: Vec<Vec<&Record>> = Vec::new();
    for record in drills.records.iter().filter(|record| record.fault == fault) {
        match groups.iter_mut().find(|group| group[0].arm == record.arm) {
            Some(group) => group.push(record),
            None => groups.push(vec![record]),
        }
    }
    groups
}

/// The largest of all; `never` if one has none.
fn slowest(records: &[&Record], time: fn(&Record) -> Option<f64>, never: &str) -> String {
    let times: Option<Vec<f64>> = records.iter().map(|record| time(record)).collect();
    match times {
        None => never.to_owned(),
        Some(times) => format!("{:.0} ms", times.into_iter().fold(0.0, f64::max) * 1e3),
    }
}

/// The largest of those that have one.
fn worst(records: &[&Record], time: fn(&Record) -> Option<f64>) -> String {
    let times = records.iter().filter_map(|record| time(record));
    number(times.reduce(f64::max), milliseconds)
}

fn number(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| NOTHING.to_owned(), show)
}

/// With as many digits as mean something.
fn milliseconds(seconds: f64) -> String {
    match seconds * 1e3 {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

/// A Markdown table that can be read as it is: names to the left, numbers to the right.
fn align(cells: &[Vec<String>]) -> String {
    let columns = cells.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = cells.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, line) in cells.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "| {cell:<width$} "),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(*width + 1);
                let _ = match column {
                    0 => write!(text, "|{dashes}-"),
                    _ => write!(text, "|{dashes}:"),
                };
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pointsman::compare::{Arm, Block, Comparison, Drive, Source};
    use std::time::Duration;

    use crate::rundir::About;

    fn block(arm: usize, round: u32, drive: Drive, cost: u64) -> Block {
        let mut block = Block {
            arm,
            round,
            position: 1,
            drive,
            began: f64::from(round),
            seconds: 1.0,
            requests: 1000,
            errors: 0,
            connections: 10,
            used: Default::default(),
            lost_threads: 0,
            latency: Default::default(),
            handoff: Default::default(),
            open: Vec::new(),
            own_share: 1.0,
        };
        // A little noise, so that intervals have a width.
        block.used.cpu_ns = 1000 * (cost + u64::from(round * 37 % 5) * 10);
        for _ in 0..100 {
            block.latency.record(Duration::from_micros(cost / 10));
        }
        block
    }

    /// A run with two arms and a twin, six rounds, and drills of one arm.
    pub(crate) fn sample() -> Run {
        let costs = [
            ("nginx", 20_000),
            ("nginx, again", 20_000),
            ("relay", 10_000),
        ];
        let mut blocks = Vec::new();
        for round in 1..=6 {
            for (arm, (_, cost)) in costs.iter().enumerate() {
                blocks.push(block(arm, round, Drive::Closed, *cost));
                blocks.push(block(arm, round, Drive::Open { rate: 500.0 }, *cost));
            }
        }
        blocks[4].errors = 3;
        let comparison = Comparison {
            source: Source::Peers,
            scenario: "keepalive".to_owned(),
            load: "some load".to_owned(),
            circumstances: Default::default(),
            arms: costs
                .iter()
                .enumerate()
                .map(|(index, (name, _))| Arm {
                    name: (*name).to_owned(),
                    twin_of: (index == 1).then_some(0),
                    configuration: None,
                })
                .collect(),
            blocks,
            rounds: 6,
            ending: Ending::Complete,
        };
        let record = Record {
            arm: "nginx".to_owned(),
            architecture: "made of something".to_owned(),
            fault: Fault::Kill,
            whole: false,
            requests: 1600,
            refused: 1,
            reset: 2,
            timed_out: 0,
            wrong: 0,
            lost_idle: 16,
            long_kept: 0,
            kept: 800,
            long_new: 0,
            p50: Some(0.000_5),
            p99: Some(0.012),
            max: Some(1.25),
            replaced_after: Some(0.004),
            served_after: None,
        };
        let stopped = Record {
            fault: Fault::Stop,
            long_kept: 80,
            ..record.clone()
        };
        Run {
            about: About {
                began: 1_795_132_800,
                commit: "abc1234".to_owned(),
                command: "loadtest peers".to_owned(),
                processor: "Some CPU".to_owned(),
                cores: 2,
                kernel: "Linux 6".to_owned(),
                seed: 1,
                placement: "one worker somewhere".to_owned(),
                versions: [("nginx".to_owned(), "nginx 1".to_owned())].into(),
                missing: [("envoy".to_owned(), "it is not installed".to_owned())].into(),
                disturbances: vec!["keepalive: others had 9 % of it.".to_owned()],
                notes: vec!["A note.".to_owned()],
            },
            reports: vec![comparison.report()],
            drills: Some(Drills {
                workers: 2,
                rate: 400.0,
                stopped_for: 3.0,
                watched_for: 3.0,
                records: vec![record.clone(), record, stopped],
            }),
        }
    }

    #[test]
    fn everything_that_a_reader_needs_is_there() {
        let text = full(&sample());
        for part in [
            "Missing in this run: envoy",
            "nginx 1.",
            "others had 9 %",
            "20.0",
            "0.50× [",
            "3 requests of relay failed",
            "6 of 3200",
            "32 |",
            "4 ms",
            "not within 3 s",
            "10.0 %",
            "1250",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn tables_are_tables() {
        let text = full(&sample());
        let mut columns = None;
        let mut tables = 0;
        for line in text.lines() {
            if !line.starts_with('|') {
                columns = None;
                continue;
            }
            let bars = line.matches('|').count();
            tables += u32::from(columns.is_none());
            assert_eq!(*columns.get_or_insert(bars), bars, "{line}");
        }
        assert_eq!(tables, 5, "{text}");
    }

    #[test]
    fn milliseconds_have_the_digits_that_mean_something() {
        let shown: Vec<String> = [0.000_123, 0.0123, 1.25].map(milliseconds).into();
        assert_eq!(shown, ["0.12", "12.3", "1250"]);
    }
}
