//! A report for terminals: a hundred columns are enough.

use super::{
    super::{ArmSummary, Contrast, Report, Source},
    figures::{CLOSED, NONE, circumstances, number, ratio, short, sign, time},
};

/// Longer names are cut.
const LONGEST_NAME: usize = 27;
/// Sentences are broken here.
const WIDTH: usize = 98;

/// Verdicts, latencies, how evenly connections were spread, what is noise, every arm in words, and what to do.
pub fn table(report: &Report) -> String {
    let Report {
        comparison,
        summary,
    } = report;
    let mut text = wrapped(&format!("{}: {}", comparison.scenario, comparison.load), "");
    text += &wrapped(&circumstances(comparison), "");
    for note in &comparison.circumstances.notes {
        text += &wrapped(note, "  ");
    }
    text.push('\n');
    text += &columns(
        &summary.arms,
        &[
            "arm",
            "requests/s",
            "against base",
            "CPU µs/req",
            "against base",
        ],
        |arm| {
            vec![
                number(arm.requests_per_second),
                against(arm.throughput.as_ref()),
                number(arm.cpu_us_per_request),
                against(arm.cpu.as_ref()),
            ]
        },
    );
    text += "+ better, - worse, = no difference can be told, ? too few rounds; [95 % interval]\n\n";
    text += &columns(
        &summary.arms,
        &["latency", "p50", "p90", "p99", "p99.9", "p99 against base"],
        |arm| {
            vec![
                time(arm.p50),
                time(arm.p90),
                time(arm.p99),
                time(arm.p999),
                against(arm.latency_p99.as_ref()),
            ]
        },
    );
    if comparison.is_closed() {
        text += &wrapped(CLOSED, "");
    }
    text.push('\n');
    text += &workers(report);
    if let Some(floor) = summary
        .floor
        .map(|floor| floor.words())
        .filter(|words| !words.is_empty())
    {
        text += &wrapped(
            &format!("Noise floor, what two equal arms differ by: {floor}."),
            "",
        );
        text.push('\n');
    }
    for arm in &summary.arms {
        text += &wrapped(&format!("{}: {}.", arm.name, arm.words), "  ");
    }
    text.push('\n');
    text += &wrapped(&summary.recommendation.text, "");
    if let Some(lines) = &summary.recommendation.configuration {
        text.push('\n');
        lines
            .lines()
            .for_each(|line| text += &format!("    {line}\n"));
    }
    text
}

/// How evenly connections were spread, and what that cost.
fn workers(report: &Report) -> String {
    let live = report.comparison.source == Source::Live;
    let mut headings = vec![
        "workers",
        "busiest",
        "spread",
        "hand-over",
        "its p99",
        "waited",
        "wake-ups",
        "forced",
        "errors",
    ];
    if live {
        headings.push("own");
    }
    let table = columns(&report.summary.arms, &headings, |arm| {
        let mut fields = vec![
            number(arm.busiest_over_mean),
            number(arm.open_deviation),
            time(arm.handoff_p50),
            time(arm.handoff_p99),
            number(arm.run_queue_us_per_request),
            number(arm.wakeups_per_request),
            number(arm.preempted_per_request),
            arm.errors.to_string(),
        ];
        if live {
            fields.push(
                arm.own_share
                    .map_or(NONE.to_owned(), |share| format!("{:.0} %", share * 100.0)),
            );
        }
        fields
    });
    let mut legend = "busiest: the busiest worker's open connections by the mean; spread: their standard deviation; \
                      waited: µs for a core, wake-ups and forced switches: each for a request"
        .to_owned();
    if live {
        legend += "; own: requests over connections that the arm itself had dispatched";
    }
    table + &wrapped(&legend, "") + "\n"
}

fn against(contrast: Option<&Contrast>) -> String {
    contrast.map_or(NONE.to_owned(), |c| {
        format!("{} {}", sign(c.verdict), ratio(c))
    })
}

/// A line for each arm, names to the left and the rest to the right.
fn columns(
    arms: &[ArmSummary],
    headings: &[&str],
    fields: impl Fn(&ArmSummary) -> Vec<String>,
) -> String {
    let mut lines = vec![headings.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()];
    lines.extend(arms.iter().map(|arm| {
        let name = short(&one_line(&arm.name), LONGEST_NAME).into_owned();
        [vec![name], fields(arm)].concat()
    }));
    let width = |i: usize| {
        lines
            .iter()
            .map(|line| line[i].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let fields = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (field, width))| match i {
                0 => format!("{field:<width$}"),
                _ => format!("{field:>width$}"),
            });
        text += fields.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// `text` in lines that are short enough; all but the first begin with `indent`.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    // A number stays with its sign.
    let text = one_line(text).replace(" %", "\u{a0}%");
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &line;
            lines.push('\n');
            line = indent.to_owned();
        } else if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    (lines + &line + "\n").replace('\u{a0}', " ")
}

/// A name from a configuration file may hold anything, and a terminal obeys some of it.
fn one_line(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            Drive,
            tests::{comparison, made_up},
        },
        *,
    };

    #[test]
    fn a_small_comparison_looks_like_this() {
        let shown = table(&made_up().report());
        assert_eq!(shown, include_str!("table.golden.txt"), "\n{shown}");
    }

    #[test]
    fn lines_are_short_and_names_obey_nobody() {
        let mut comparison = made_up();
        comparison.source = Source::Live;
        for block in &mut comparison.blocks {
            block.drive = Drive::Live;
            block.own_share = 0.2;
            block.errors = 123_456;
        }
        for arm in &mut comparison.arms {
            arm.name += "\u{1b}[2J\nwith a name that is much too long for any table";
        }
        let shown = table(&comparison.report());
        for line in shown.lines() {
            assert!(line.chars().count() <= 110, "{line}");
            assert!(!line.contains('\u{1b}'), "{line}");
        }
    }

    #[test]
    fn a_table_stands_even_where_there_is_next_to_nothing() {
        assert!(table(&comparison(&[]).report()).contains("Nothing was compared."));
        assert!(
            table(&comparison(&["alone"]).report()).contains("Nothing was compared with alone.")
        );
    }
}
