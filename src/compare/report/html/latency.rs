//! Latency by percentile: both axes logarithmic, so that the slowest request in ten thousand has as much room as
//! the slowest in ten.

use super::{
    super::{super::Comparison, figures},
    svg::{drawing, line, log_ticks, rule, text},
};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 622.0;
/// Where names stand, a line apart.
const NAMES: f64 = 660.0;
const LINE: f64 = 17.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 330.0;
/// One request in so many is slower: from half of them to one in ten thousand.
const RAREST: f64 = 4.0;
const MARKS: [(f64, &str); 5] = [
    (0.5, "50 %"),
    (0.9, "90 %"),
    (0.99, "99 %"),
    (0.999, "99.9 %"),
    (0.9999, "99.99 %"),
];

/// A line for each arm, or nothing where no latency is known.
pub(super) fn by_percentile(comparison: &Comparison) -> Option<String> {
    let curves: Vec<Vec<(f64, f64)>> = (0..comparison.arms.len())
        .map(|arm| curve(comparison, arm))
        .collect();
    let values = || curves.iter().flatten().map(|(_, seconds)| *seconds);
    let low = values().min_by(f64::total_cmp)? / 1.15;
    let high = values().max_by(f64::total_cmp)? * 1.15;
    let rarest = curves
        .iter()
        .flatten()
        .map(|(rarity, _)| *rarity)
        .fold(1.0, f64::max);
    let first = rarity(0.5);
    let x = |rarity: f64| LEFT + (RIGHT - LEFT) * (rarity - first) / (rarest - first);
    let y = |seconds: f64| BOTTOM - (BOTTOM - TOP) * (seconds / low).ln() / (high / low).ln();
    let mut content = String::new();
    for tick in log_ticks(low, high) {
        content += &rule("grid", (LEFT, y(tick)), (RIGHT, y(tick)));
        content += &text("tick", (LEFT - 8.0, y(tick) + 4.0), "end", &axis_time(tick));
    }
    for (q, name) in MARKS.iter().filter(|(q, _)| rarity(*q) <= rarest + 1e-6) {
        content += &rule("grid", (x(rarity(*q)), TOP), (x(rarity(*q)), BOTTOM));
        content += &text("tick", (x(rarity(*q)), BOTTOM + 18.0), "middle", name);
    }
    content += &text(
        "tick",
        ((LEFT + RIGHT) / 2.0, BOTTOM + 40.0),
        "middle",
        "so many of the requests took no longer",
    );
    let mut ends = Vec::new();
    for (i, curve) in curves
        .iter()
        .enumerate()
        .filter(|(_, curve)| !curve.is_empty())
    {
        let points: Vec<(f64, f64)> = curve
            .iter()
            .map(|(rarity, seconds)| (x(*rarity), y(*seconds)))
            .collect();
        let quantile = |q| figures::time(comparison.pooled_latency(i).interpolated(q));
        let name = &comparison.arms[i].name;
        let title = format!("{name}: p50 {}, p99 {}", quantile(0.5), quantile(0.99));
        content += &line(&points, "series", i, &title);
        ends.extend(points.last().map(|end| (i, *end)));
    }
    content += &names(comparison, ends);
    Some(drawing(
        WIDTH,
        HEIGHT,
        "Latency by percentile, a line for each arm",
        &content,
    ))
}

/// The arms' names in the order in which their lines end, as near to those as there is room.
fn names(comparison: &Comparison, mut ends: Vec<(usize, (f64, f64))>) -> String {
    ends.sort_by(|a, b| a.1.1.total_cmp(&b.1.1));
    let mut places: Vec<f64> = ends.iter().map(|(_, (_, y))| *y).collect();
    // Down until none is too near to the one above, then up from the bottom likewise.
    for i in 1..places.len() {
        places[i] = places[i].max(places[i - 1] + LINE);
    }
    let mut limit = HEIGHT - 12.0;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - LINE;
    }
    let entries = ends.iter().zip(places).map(|((arm, end), place)| {
        let name = figures::short(&comparison.arms[*arm].name, 25);
        let from = rule("grid", *end, (NAMES - 24.0, place));
        let sample = line(
            &[(NAMES - 24.0, place), (NAMES - 5.0, place)],
            "series",
            *arm,
            &name,
        );
        from + &sample + &text("", (NAMES, place + 4.5), "start", &name)
    });
    entries.collect()
}

/// How rare it is to be slower, and how slow that is.
fn curve(comparison: &Comparison, arm: usize) -> Vec<(f64, f64)> {
    const STEPS: u32 = 48;
    let latency = comparison.pooled_latency(arm);
    let first = rarity(0.5);
    let steps =
        (0..=STEPS).map(|step| first + (RAREST - first) * f64::from(step) / f64::from(STEPS));
    let points =
        steps.map_while(|rarity| Some((rarity, latency.interpolated(1.0 - 10f64.powf(-rarity))?)));
    points.filter(|(_, seconds)| *seconds > 0.0).collect()
}

/// 1 for nine in ten, 2 for 99 in a hundred.
fn rarity(q: f64) -> f64 {
    -(1.0 - q).log10()
}

/// Of a round number, without zeros behind the point.
fn axis_time(seconds: f64) -> String {
    let (number, unit) = match seconds {
        s if s < 0.999e-3 => (s * 1e6, "µs"),
        s if s < 0.999 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", (number * 1000.0).round() / 1000.0)
}
