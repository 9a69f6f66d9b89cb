//! The tables, and the raw rows.

use std::fmt::Write as _;

use serde::Serialize;

use crate::bench::{Block, Plan, Scenario};
use crate::stats::{self, ByRound, Spread};
use crate::wrk::Errors;

/// The arm that Pointsman's other modes are held against: the same proxy without any hand-over.
const BASE: &str = "pointsman:reuseport";

/// Under this share of a core, the load was the bottleneck: requests/s say nothing of the proxy.
const SATURATED: f64 = 0.9;

/// From this share of a core on, taken by something else, a block counts as disturbed. The
/// kernel's ticks, from which the share is known, are a few percent coarse themselves.
const DISTURBED: f64 = 0.1;

/// What was run, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Setup {
    pub(crate) plan: Plan,
    pub(crate) workers: u32,
    pub(crate) machine: Vec<String>,
    pub(crate) versions: Vec<String>,
    pub(crate) skipped: Vec<String>,
}

/// The whole of a run as it goes to `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    /// Every measured block has been run.
    pub(crate) complete: bool,
    pub(crate) setup: &'a Setup,
    pub(crate) summary: Vec<Summary>,
    pub(crate) blocks: &'a [Block],
}

/// An arm in a scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    scenario: Scenario,
    arm: String,
    rounds: usize,
    cpu_us_per_request: Spread,
    /// Paired by round; absent where the reference was not measured.
    ratio_to_nginx: Option<Spread>,
    ratio_to_haproxy: Option<Spread>,
    ratio_to_base: Option<Spread>,
    /// In µs/request.
    difference_to_base: Option<Spread>,
    requests_per_second: Spread,
    context_switches_per_request: Spread,
    busy: Spread,
    /// Blocks during which something else took a good share of either core.
    disturbed_rounds: usize,
    /// The largest such share.
    foreign_max: f64,
    errors: Errors,
    lost_threads: usize,
}

/// Summaries of all scenarios and arms that have blocks, in the order of `arms`.
pub(crate) fn summarise(blocks: &[Block], arms: &[String]) -> Vec<Summary> {
    Scenario::ALL
        .iter()
        .flat_map(|scenario| {
            arms.iter()
                .filter_map(|arm| summary(blocks, *scenario, arm))
        })
        .collect()
}

fn summary(blocks: &[Block], scenario: Scenario, arm: &str) -> Option<Summary> {
    let mine: Vec<&Block> = select(blocks, scenario, arm).collect();
    let of = |value: fn(&Block) -> f64| {
        stats::spread(&mine.iter().map(|block| value(block)).collect::<Vec<_>>())
    };
    let costs = costs(blocks, scenario, arm);
    let ratio_to =
        |reference: &str| stats::ratio(&costs, &self::costs(blocks, scenario, reference));
    let pointsman = arm.starts_with("pointsman");
    let mut errors = Errors::default();
    mine.iter().for_each(|block| errors += block.errors);
    Some(Summary {
        scenario,
        arm: arm.to_owned(),
        rounds: mine.len(),
        cpu_us_per_request: of(|block| block.cpu_us_per_request)?,
        ratio_to_nginx: ratio_to("nginx"),
        ratio_to_haproxy: ratio_to("haproxy"),
        ratio_to_base: pointsman.then(|| ratio_to(BASE)).flatten(),
        difference_to_base: pointsman
            .then(|| stats::difference(&costs, &self::costs(blocks, scenario, BASE)))
            .flatten(),
        requests_per_second: of(|block| block.requests_per_second)?,
        context_switches_per_request: of(|block| block.context_switches_per_request)?,
        busy: of(|block| block.busy)?,
        disturbed_rounds: mine
            .iter()
            .filter(|block| foreign(block) >= DISTURBED)
            .count(),
        foreign_max: mine.iter().map(|block| foreign(block)).fold(0.0, f64::max),
        errors,
        lost_threads: mine.iter().map(|block| block.lost_threads).sum(),
    })
}

fn foreign(block: &Block) -> f64 {
    block.foreign_on_proxy_core.max(block.foreign_on_load_core)
}

fn select<'a>(
    blocks: &'a [Block],
    scenario: Scenario,
    arm: &'a str,
) -> impl Iterator<Item = &'a Block> {
    blocks
        .iter()
        .filter(move |block| block.scenario == scenario && block.arm == arm)
}

fn costs(blocks: &[Block], scenario: Scenario, arm: &str) -> Vec<ByRound> {
    select(blocks, scenario, arm)
        .map(|block| (block.round, block.cpu_us_per_request))
        .collect()
}

/// What was run and where, then a table for each scenario.
pub(crate) fn text(setup: &Setup, summaries: &[Summary]) -> String {
    let mut text = String::new();
    let plan = &setup.plan;
    let _ = writeln!(
        text,
        "{} rounds of {} s, {} connections, {} worker(s); proxies on core {}, load and upstream on core {}",
        plan.rounds, plan.seconds, plan.connections, setup.workers, plan.proxy_core, plan.load_core
    );
    for line in setup.machine.iter().chain(&setup.versions) {
        let _ = writeln!(text, "{line}");
    }
    for reason in &setup.skipped {
        let _ = writeln!(text, "skipped: {reason}");
    }
    for scenario in Scenario::ALL {
        let rows: Vec<&Summary> = summaries
            .iter()
            .filter(|summary| summary.scenario == scenario)
            .collect();
        if !rows.is_empty() {
            let _ = write!(
                text,
                "\n## {}: {}\n\n{}",
                scenario.name(),
                scenario.description(),
                table(&rows)
            );
            notes(&mut text, &rows);
        }
    }
    text
}

fn table(rows: &[&Summary]) -> String {
    let with_base = rows.iter().any(|row| row.difference_to_base.is_some());
    let mut head = vec!["arm", "CPU µs/request", "vs nginx", "vs haproxy"];
    if with_base {
        head.extend(["vs reuseport", "µs over reuseport"]);
    }
    head.extend(["requests/s", "switches/request", "core busy", "errors"]);
    let mut cells: Vec<Vec<String>> = vec![head.into_iter().map(str::to_owned).collect()];
    for row in rows {
        let mut line = vec![
            row.arm.clone(),
            with_range(row.cpu_us_per_request, "", 2),
            ratio(row.ratio_to_nginx),
            ratio(row.ratio_to_haproxy),
        ];
        if with_base {
            line.push(ratio(row.ratio_to_base));
            line.push(match row.difference_to_base {
                Some(spread) => format!(
                    "{:+.2} [{:+.2}–{:+.2}]",
                    spread.median, spread.min, spread.max
                ),
                None => "–".to_owned(),
            });
        }
        line.extend([
            format!("{:.0}", row.requests_per_second.median),
            format!("{:.3}", row.context_switches_per_request.median),
            format!("{:.0}%", row.busy.median * 100.0),
            row.errors.to_string(),
        ]);
        cells.push(line);
    }
    align(&cells)
}

fn notes(text: &mut String, rows: &[&Summary]) {
    let idle: Vec<&str> = rows
        .iter()
        .filter(|row| row.busy.median < SATURATED)
        .map(|row| row.arm.as_str())
        .collect();
    if !idle.is_empty() {
        let _ = writeln!(
            text,
            "\nThe load, not the proxy, was the bottleneck for {}: do not compare its requests/s.",
            idle.join(", ")
        );
    }
    let disturbed: usize = rows.iter().map(|row| row.disturbed_rounds).sum();
    if disturbed > 0 {
        let most = rows.iter().map(|row| row.foreign_max).fold(0.0, f64::max);
        let _ = writeln!(
            text,
            "\nNot clean: something else ran on the two cores during {disturbed} of {} blocks \
             (up to {:.0}% of a core).",
            rows.iter().map(|row| row.rounds).sum::<usize>(),
            most * 100.0
        );
    }
    for row in rows {
        if row.errors.total() > 0 {
            let _ = writeln!(
                text,
                "\nNot clean: {} had errors ({}).",
                row.arm, row.errors
            );
        }
        if row.lost_threads > 0 {
            let _ = writeln!(
                text,
                "\nNot clean: {} threads of {} ended during a block; their CPU time is missing in part.",
                row.lost_threads, row.arm
            );
        }
    }
}

fn with_range(spread: Spread, unit: &str, digits: usize) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:.digits$}{unit} [{min:.digits$}–{max:.digits$}]")
}

fn ratio(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| with_range(spread, "×", 3))
}

/// A Markdown table that can be read as it is: names to the left, numbers to the right.
fn align(cells: &[Vec<String>]) -> String {
    let columns = cells.first().map_or(0, Vec::len);
    let width = |column: usize| {
        cells
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, line) in cells.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(*width + 1);
                let _ = if column == 0 {
                    write!(text, "|{dashes}-")
                } else {
                    write!(text, "|{dashes}:")
                };
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(arm: &str, round: u32, cpu_us_per_request: f64) -> Block {
        Block {
            scenario: Scenario::PerConnection,
            round,
            position: 1,
            arm: arm.to_owned(),
            requests: 1000,
            requests_per_second: 500.0,
            cpu_ns: 0,
            cpu_us_per_request,
            context_switches: 10,
            context_switches_per_request: 0.01,
            busy: 0.5,
            foreign_on_proxy_core: 0.0,
            foreign_on_load_core: 0.0,
            errors: Errors::default(),
            lost_threads: 0,
        }
    }

    fn sample() -> Vec<Summary> {
        let blocks = [
            block("nginx", 1, 20.0),
            block("nginx", 2, 40.0),
            block(BASE, 1, 10.0),
            block(BASE, 2, 20.0),
            block("pointsman:handoff:least-loaded", 1, 12.0),
            block("pointsman:handoff:least-loaded", 2, 22.0),
        ];
        let arms = ["nginx", BASE, "pointsman:handoff:least-loaded"].map(str::to_owned);
        summarise(&blocks, &arms)
    }

    #[test]
    fn ratios_are_paired_and_missing_references_stay_missing() {
        let summaries = sample();
        assert_eq!(summaries.len(), 3);
        assert_eq!(
            summaries[1]
                .ratio_to_nginx
                .expect("nginx was measured")
                .median,
            0.5
        );
        assert!(summaries[1].ratio_to_haproxy.is_none());
        assert!(
            summaries[0].difference_to_base.is_none(),
            "only for pointsman"
        );
        let handoff = summaries[2]
            .difference_to_base
            .expect("the base was measured");
        assert_eq!((handoff.median, handoff.min, handoff.max), (2.0, 2.0, 2.0));
    }

    #[test]
    fn the_table_is_a_table() {
        let summaries = sample();
        let rows: Vec<&Summary> = summaries.iter().collect();
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        let bars = |line: &str| line.matches('|').count();
        assert!(
            lines.iter().all(|line| bars(line) == bars(lines[0])),
            "{text}"
        );
        assert!(lines[4].contains("+2.00 [+2.00–+2.00]"), "{text}");
    }

    #[test]
    fn errors_do_not_hide() {
        let mut bad = block("nginx", 1, 1.0);
        bad.errors.connect = 3;
        bad.lost_threads = 1;
        bad.foreign_on_load_core = 0.5;
        let summaries = summarise(&[bad], &["nginx".to_owned()]);
        let mut text = String::new();
        notes(&mut text, &summaries.iter().collect::<Vec<_>>());
        assert!(
            text.contains("3 connect") && text.contains("1 threads"),
            "{text}"
        );
    }
}
