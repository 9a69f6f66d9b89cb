//! Open connections of every worker over time: a small chart for each arm, all with the same axes.

use super::{
    super::super::{Block, Comparison},
    svg::{drawing, escaped, line, rule, text, ticks},
};

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 38.0;
const RIGHT: f64 = 294.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 126.0;

/// A chart for each arm of which workers were looked at, or nothing where none was.
pub(super) fn over_time(comparison: &Comparison, evenness: &[Option<f64>]) -> Option<String> {
    let shown: Vec<(usize, &Block)> = (0..comparison.arms.len())
        .filter_map(|arm| Some((arm, fullest(comparison, arm)?)))
        .collect();
    let looks = || shown.iter().flat_map(|(_, block)| &block.open);
    let most = looks()
        .flat_map(|look| &look.by_worker)
        .max()
        .copied()?
        .max(1) as f64
        * 1.08;
    let longest = looks()
        .map(|look| look.at)
        .filter(|at| at.is_finite())
        .fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let charts = shown.iter().map(|(arm, block)| {
        let name = escaped(&comparison.arms[*arm].name);
        let even = evenness.get(*arm).copied().flatten();
        let even = even.map_or_else(String::new, |even| {
            format!("<span>busiest {even:.2} × mean</span>")
        });
        format!(
            "<figure><figcaption>{name} {even}</figcaption>{}</figure>\n",
            chart(&comparison.arms[*arm].name, block, most, longest)
        )
    });
    Some(format!(
        "<div class=\"many\">\n{}</div>\n",
        charts.collect::<String>()
    ))
}

/// The block of `arm` in which workers were looked at most often; of several the last.
fn fullest(comparison: &Comparison, arm: usize) -> Option<&Block> {
    let blocks = comparison
        .blocks_of(arm)
        .filter(|block| block.open.len() > 1);
    blocks.max_by_key(|block| block.open.len())
}

fn chart(name: &str, block: &Block, most: f64, longest: f64) -> String {
    let x = |at: f64| LEFT + (RIGHT - LEFT) * at.clamp(0.0, longest) / longest;
    let y = |open: f64| BOTTOM - (BOTTOM - TOP) * open / most;
    let mut content = String::new();
    for tick in ticks(0.0, most, 5) {
        content += &rule("grid", (LEFT, y(tick)), (RIGHT, y(tick)));
        content += &text(
            "tick",
            (LEFT - 6.0, y(tick) + 4.0),
            "end",
            &tick.to_string(),
        );
    }
    for tick in ticks(0.0, longest, 4) {
        let anchor = if x(tick) > RIGHT - 12.0 {
            "end"
        } else {
            "middle"
        };
        let tick_text = format!("{} s", (tick * 1000.0).round() / 1000.0);
        content += &text("tick", (x(tick), BOTTOM + 17.0), anchor, &tick_text);
    }
    let workers = block
        .open
        .iter()
        .map(|look| look.by_worker.len())
        .max()
        .unwrap_or(0);
    for worker in 0..workers {
        let points = block.open.iter().filter_map(|look| {
            let open = *look.by_worker.get(worker)?;
            look.at.is_finite().then(|| (x(look.at), y(open as f64)))
        });
        let points: Vec<(f64, f64)> = points.collect();
        // The first two colours are a base's and a twin's.
        content += &line(
            &points,
            "series thin",
            worker + 2,
            &format!("worker {worker}"),
        );
    }
    let title = format!("{name}: open connections of each of {workers} workers over time");
    drawing(WIDTH, HEIGHT, &title, &content)
}
