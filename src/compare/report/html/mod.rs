//! One page that shows one or several comparisons: nothing to load, nothing to run, readable in light and dark,
//! on a phone and on paper.

mod connections;
mod forest;
mod latency;
mod svg;

use self::{
    forest::{Row, forest},
    svg::escaped,
};
use super::{
    super::{ArmSummary, Comparison, Contrast, Report, Source, Verdict, words::Measure},
    figures::{CLOSED, NONE, circumstances, number, ratio, time},
};

/// The page forbids itself to load or run anything.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// One page with a section for each of `reports`.
pub fn html(reports: &[Report]) -> String {
    let title = match reports.first().map(|report| report.comparison.source) {
        Some(Source::Live) => "Dispatch modes on live traffic",
        Some(Source::Peers) => "Pointsman and its peers",
        Some(Source::Bench) | None => "Dispatch modes on this machine",
    };
    let style = include_str!("style.css");
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"/>\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"{POLICY}\"/>\n<meta name=\"referrer\" content=\"no-referrer\"/>\n<title>{title}</title>\n\
         <style>\n{style}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n"
    );
    page += "<p class=\"soft\">Every arm ran once in each round, in an order that changes from round to round. Ratios \
             are taken within a round, so that a machine that is slow for a while is slow for all.</p>\n";
    if reports.len() > 1 {
        page += &overview(reports);
    }
    page += "</header>\n<main>\n";
    for (i, report) in reports.iter().enumerate() {
        page += &section(i, report);
    }
    page + "</main>\n</body>\n</html>\n"
}

/// What to do, scenario by scenario.
fn overview(reports: &[Report]) -> String {
    let rows = reports.iter().enumerate().map(|(i, report)| {
        format!(
            "<tr><td><a href=\"#scenario-{i}\">{}</a></td><td class=\"words\">{}</td></tr>\n",
            escaped(&report.comparison.scenario),
            prose(&advice(report).0)
        )
    });
    let rows: String = rows.collect();
    format!(
        "<div class=\"wide\"><table>\n<tr><th>scenario</th><th style=\"text-align:left\">what to do</th></tr>\n{rows}</table></div>\n"
    )
}

fn section(i: usize, report: &Report) -> String {
    let Report {
        comparison,
        summary,
    } = report;
    let mut section = format!(
        "<section id=\"scenario-{i}\" aria-labelledby=\"title-{i}\">\n<h2 id=\"title-{i}\">{}</h2>\n<p class=\"soft\">{}</p>\n",
        escaped(&comparison.scenario),
        escaped(&comparison.load)
    );
    let (what, why) = advice(report);
    section += &format!("<div class=\"advice\"><p>{}</p>", prose(&what));
    if !why.is_empty() {
        section += &format!("<p class=\"why\">{}</p>", prose(why));
    }
    if let Some(lines) = &summary.recommendation.configuration {
        section += &format!("<pre>{}</pre>", escaped(lines.trim_end()));
    }
    section += "</div>\n";
    section += &charts(report);
    section += "<h3>Every arm in words</h3>\n";
    section += &table(&summary.arms, &["arm", "what can be said"], |arm| {
        vec![format!("<td class=\"words\">{}</td>", prose(&arm.words))]
    });
    section += &figures_of(report);
    section += &where_and_how(comparison);
    section + "</section>\n"
}

/// Sentences: a number stays with its sign.
fn prose(text: &str) -> String {
    escaped(&text.replace(" %", "\u{a0}%"))
}

/// What to do, in a sentence, and the sentences after that.
fn advice(report: &Report) -> (String, &str) {
    let text = &report.summary.recommendation.text;
    text.split_once(". ")
        .map_or((text.clone(), ""), |(what, why)| (format!("{what}."), why))
}

fn charts(report: &Report) -> String {
    let Report {
        comparison,
        summary,
    } = report;
    let mut charts = String::new();
    for (measure, heading) in [
        (Measure::Throughput, "Requests a second"),
        (Measure::Cpu, "CPU time for a request"),
        (
            Measure::P99,
            "Latency that one request in a hundred exceeds",
        ),
    ] {
        let rows = summary.arms.iter().filter_map(|arm| {
            Some(Row {
                name: &arm.name,
                twin: arm.twin_of.is_some(),
                contrast: arm.contrast(measure)?,
            })
        });
        let rows: Vec<Row<'_>> = rows.collect();
        let base = summary.arms.first().map_or("", |base| &base.name);
        let floor = summary.floor.and_then(|floor| floor.of(measure));
        if let Some(chart) = forest(measure, base, &rows, floor) {
            let shaded = if floor.is_some() {
                " Shaded: the noise floor, what two equal arms differ by."
            } else {
                ""
            };
            let caption = format!(
                "Ratio to {} with its 95 % interval; where that goes on beyond the chart, an arrow. Filled circle: better; square: worse; open circle: no \
                 difference can be told.{shaded}",
                escaped(base)
            );
            charts += &figure(heading, "wide", &chart, &caption);
        }
    }
    if let Some(chart) = latency::by_percentile(comparison) {
        let caption = match comparison.is_closed() {
            true => format!("All requests of an arm together. {CLOSED}"),
            false => {
                "All requests of an arm together, those of planned arrivals where there were any."
                    .to_owned()
            }
        };
        charts += &figure("Latency by percentile", "wide", &chart, &caption);
    }
    let evenness: Vec<Option<f64>> = summary
        .arms
        .iter()
        .map(|arm| arm.busiest_over_mean)
        .collect();
    if let Some(many) = connections::over_time(comparison, &evenness) {
        charts += "<h3>Open connections of each worker</h3>\n";
        charts += &many;
        charts += "<p class=\"soft\">A line for each worker, in one block of each arm. Where lines lie on each \
                   other, the spread is even. Busiest by mean: all blocks.</p>\n";
    }
    charts
}

fn figure(heading: &str, class: &str, chart: &str, caption: &str) -> String {
    format!(
        "<h3>{heading}</h3>\n<figure><div class=\"{class}\">{chart}</div><figcaption>{caption}</figcaption></figure>\n"
    )
}

/// The numbers behind the charts.
fn figures_of(report: &Report) -> String {
    let arms = &report.summary.arms;
    let mut tables = String::from("<h3>Capacity and cost</h3>\n");
    tables += &table(
        arms,
        &[
            "arm",
            "requests/s",
            "ratio",
            "CPU µs/request",
            "ratio",
            "requests",
            "errors",
        ],
        |arm| {
            vec![
                cell(&number(arm.requests_per_second)),
                against(arm.throughput.as_ref()),
                cell(&number(arm.cpu_us_per_request)),
                against(arm.cpu.as_ref()),
                cell(&number(Some(arm.requests as f64))),
                cell(&number(Some(arm.errors as f64))),
            ]
        },
    );
    tables += "<h3>Latency</h3>\n";
    tables += &table(
        arms,
        &["arm", "p50", "ratio", "p90", "p99", "ratio", "p99.9"],
        |arm| {
            vec![
                cell(&time(arm.p50)),
                against(arm.latency_p50.as_ref()),
                cell(&time(arm.p90)),
                cell(&time(arm.p99)),
                against(arm.latency_p99.as_ref()),
                cell(&time(arm.p999)),
            ]
        },
    );
    tables += "<h3>Workers</h3>\n";
    let mut headings = vec![
        "arm",
        "busiest/mean",
        "std. dev.",
        "hand-over p50",
        "p99",
        "waited µs",
        "wake-ups",
        "forced",
    ];
    let live = report.comparison.source == Source::Live;
    if live {
        headings.push("own connections");
    }
    tables += &table(arms, &headings, |arm| {
        let mut cells = vec![
            cell(&number(arm.busiest_over_mean)),
            cell(&number(arm.open_deviation)),
            cell(&time(arm.handoff_p50)),
            cell(&time(arm.handoff_p99)),
            cell(&number(arm.run_queue_us_per_request)),
            cell(&number(arm.wakeups_per_request)),
            cell(&number(arm.preempted_per_request)),
        ];
        if live {
            cells.push(cell(&arm.own_share.map_or(NONE.to_owned(), |share| {
                format!("{:.0} %", share * 100.0)
            })));
        }
        cells
    });
    tables
        + "<p class=\"soft\">Busiest by mean and standard deviation are of the workers' open connections. Waited (for a \
           core), wake-ups and forced switches are for each request.</p>\n"
}

/// A row for each arm; what `cells` gives is HTML.
fn table(
    arms: &[ArmSummary],
    headings: &[&str],
    cells: impl Fn(&ArmSummary) -> Vec<String>,
) -> String {
    let words = headings.len() == 2;
    let headings = headings.iter().enumerate().map(|(i, heading)| match i {
        1 if words => format!("<th style=\"text-align:left\">{heading}</th>"),
        _ => format!("<th>{heading}</th>"),
    });
    let headings: String = headings.collect();
    let rows = arms.iter().map(|arm| {
        format!(
            "<tr><td>{}</td>{}</tr>\n",
            escaped(&arm.name),
            cells(arm).concat()
        )
    });
    let rows: String = rows.collect();
    format!("<div class=\"wide\"><table>\n<tr>{headings}</tr>\n{rows}</table></div>\n")
}

fn cell(text: &str) -> String {
    format!("<td>{}</td>", escaped(text))
}

fn against(contrast: Option<&Contrast>) -> String {
    let Some(contrast) = contrast else {
        return cell(NONE);
    };
    let class = match contrast.verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::NoDifference | Verdict::TooLittle => "same",
    };
    format!(
        "<td class=\"{class}\" title=\"{}\">{}</td>",
        contrast.verdict.word(),
        escaped(&ratio(contrast))
    )
}

fn where_and_how(comparison: &Comparison) -> String {
    let here = &comparison.circumstances;
    let mut text = String::from("<h3>Where and how</h3>\n<dl>\n");
    let mut entry = |name: &str, value: &str| {
        if !value.is_empty() {
            text += &format!("<dt>{name}</dt><dd>{}</dd>\n", escaped(value));
        }
    };
    entry("machine", &circumstances(comparison));
    entry("began", &date(here.began));
    here.notes.iter().for_each(|note| entry("note", note));
    text += "</dl>\n";
    if !here.command.is_empty() {
        text += &format!("<pre>{}</pre>\n", escaped(&here.command));
    }
    text
}

/// `2026-11-20 12:30 UTC`; nothing for 0.
fn date(seconds: u64) -> String {
    if seconds == 0 {
        return String::new();
    }
    let (mut days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!(
        "{year}-{month:02}-{:02} {:02}:{:02} UTC",
        days + 1,
        minutes / 60,
        minutes % 60
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            Ending, Open,
            tests::{comparison, made_up},
        },
        *,
    };

    /// Every tag is closed by its own, and every attribute has its quotes.
    fn assert_balanced(page: &str) {
        let mut open = Vec::new();
        let mut rest = page
            .strip_prefix("<!DOCTYPE html>")
            .expect("it says what it is");
        while let Some((_, tag)) = rest.split_once('<') {
            let (tag, after) = tag.split_once('>').expect("a tag ends");
            rest = after;
            assert!(
                !tag.contains('<') && tag.matches('"').count() % 2 == 0,
                "<{tag}>"
            );
            match (tag.strip_prefix('/'), tag.ends_with('/')) {
                (Some(name), _) => assert_eq!(open.pop(), Some(name)),
                (None, true) => {}
                (None, false) => open.push(tag.split_whitespace().next().expect("a name")),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    /// With all that can be shown.
    fn everything() -> Report {
        let mut comparison = made_up();
        for block in &mut comparison.blocks {
            let look = |at| Open {
                at,
                by_worker: vec![3, 4 + u64::from(block.round)],
            };
            block.open = vec![look(0.0), look(0.5), look(1.0)];
        }
        comparison.circumstances.command = "pointsman bench --seed 7".to_owned();
        comparison
            .circumstances
            .notes
            .push("Nothing else ran.".to_owned());
        comparison.report()
    }

    #[test]
    fn a_page_loads_nothing_runs_nothing_and_closes_its_tags() {
        let page = html(&[everything(), everything()]);
        assert_balanced(&page);
        for sign in [
            "http:", "https:", "src=", "<script", "@import", "url(", "NaN", "inf",
        ] {
            assert!(!page.contains(sign), "{sign}");
        }
        for heading in [
            "Requests a second",
            "CPU time for a request",
            "Latency by percentile",
            "Open connections of each worker",
            "Workers",
            "Where and how",
        ] {
            assert_eq!(
                page.matches(&format!("<h3>{heading}</h3>")).count(),
                2,
                "{heading}"
            );
        }
        assert!(page.contains("pointsman bench --seed 7") && page.contains("Nothing else ran."));
        assert!(page.contains("noise floor") && page.contains("default-src 'none'"));
    }

    #[test]
    fn names_from_a_configuration_cannot_become_tags() {
        let hostile = "<script>alert(\"1\")</script>&'";
        let mut comparison = everything().comparison;
        for arm in &mut comparison.arms {
            arm.name += hostile;
            arm.configuration = Some(hostile.to_owned());
        }
        comparison.scenario = hostile.to_owned();
        comparison.load = hostile.to_owned();
        comparison.circumstances.command = hostile.to_owned();
        comparison.circumstances.notes.push(hostile.to_owned());
        comparison.ending = Ending::Failed {
            why: hostile.to_owned(),
        };
        let names: Vec<String> = comparison
            .arms
            .iter()
            .map(|arm| escaped(&arm.name))
            .collect();
        let page = html(&[comparison.report()]);
        assert_balanced(&page);
        assert!(!page.contains("<script") && !page.contains("alert(\"1\")"));
        assert!(names.iter().all(|name| page.contains(name)));
    }

    #[test]
    fn a_page_stands_even_where_there_is_next_to_nothing() {
        assert_balanced(&html(&[]));
        let empty = || comparison(&[]).report();
        let alone = comparison(&["alone"]).report();
        let mut few = everything().comparison;
        few.blocks.truncate(4);
        few.blocks[0].open.clear();
        let page = html(&[empty(), alone, few.report()]);
        assert_balanced(&page);
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn dates_know_of_leap_years() {
        assert_eq!(date(0), "");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_795_175_400), "2026-11-20 11:50 UTC");
        assert_eq!(date(1_798_761_599), "2026-12-31 23:59 UTC");
    }
}
