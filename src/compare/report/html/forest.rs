//! Ratios with their intervals, a line for each arm; what is noise is shaded.

use super::{
    super::{
        super::{Contrast, Verdict, words::Measure},
        figures,
    },
    svg::{drawing, escaped, log_ticks, rule, text, ticks},
};

const WIDTH: f64 = 860.0;
const ROW: f64 = 28.0;
const TOP: f64 = 26.0;
const NAMES: f64 = 205.0;
const FIGURES: f64 = 190.0;
/// From here on the axis has the steps of a logarithmic one.
const WIDE: f64 = 2.5;

/// One arm against the base.
pub(super) struct Row<'a> {
    pub(super) name: &'a str,
    pub(super) twin: bool,
    pub(super) contrast: &'a Contrast,
}

/// The ratios of `rows` to `base`, or nothing where there are none.
pub(super) fn forest(
    measure: Measure,
    base: &str,
    rows: &[Row<'_>],
    floor: Option<f64>,
) -> Option<String> {
    if rows.is_empty() {
        return None;
    }
    let (low, high) = reach(rows, floor);
    let (left, right) = (NAMES, WIDTH - FIGURES);
    let bottom = TOP + ROW * rows.len() as f64;
    let x = |ratio: f64| {
        left + (right - left) * (ratio.clamp(low, high) / low).ln() / (high / low).ln()
    };
    let mut content = String::new();
    if let Some(floor) = floor {
        let (from, to) = (x(1.0 / (1.0 + floor)), x(1.0 + floor));
        content += &format!(
            "<rect class=\"band\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>noise floor: \
             what two equal arms differ by</title></rect>",
            to - from,
            bottom - TOP
        );
    }
    let marks = Some(log_ticks(low, high)).filter(|marks| high / low > WIDE && marks.len() > 2);
    let marks = marks.unwrap_or_else(|| ticks(low, high, 7));
    for mark in marks {
        content += &rule("grid", (x(mark), TOP), (x(mark), bottom));
        content += &text("tick", (x(mark), bottom + 17.0), "middle", &label(mark));
    }
    content += &rule("one", (x(1.0), TOP - 6.0), (x(1.0), bottom));
    content += &text(
        "tick",
        (x(1.0), TOP - 11.0),
        "middle",
        &format!("as {}", figures::short(base, 30)),
    );
    let (less, more) = if measure.more_is_better() {
        ("worse", "better")
    } else {
        ("better", "worse")
    };
    content += &text("tick", (left, bottom + 36.0), "start", &format!("← {less}"));
    content += &text("tick", (right, bottom + 36.0), "end", &format!("{more} →"));
    for (i, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        content += &entry(row, y, &x, (low, high));
    }
    let title = format!(
        "{} against {base}: ratio and 95 % interval of each arm",
        measure.name()
    );
    Some(drawing(WIDTH, bottom + 44.0, &title, &content))
}

/// What the axis must hold. An interval that reaches very far is cut, so that the others can be seen.
fn reach(rows: &[Row<'_>], floor: Option<f64>) -> (f64, f64) {
    let ratios = rows.iter().map(|row| row.contrast.ratio);
    let (nearest, farthest) = ratios.fold((1.0f64, 1.0f64), |(a, b), r| (a.min(r), b.max(r)));
    let noise = 1.0 + floor.unwrap_or(0.0).min(1.0);
    let lows = rows.iter().map(|row| row.contrast.low.max(nearest / 1.5));
    let highs = rows.iter().map(|row| row.contrast.high.min(farthest * 1.5));
    let low = lows.fold(1.0 / noise, f64::min).min(0.99);
    let high = highs.fold(noise, f64::max).max(1.01);
    let room = (high / low).powf(0.06);
    (low / room, high * room)
}

/// A ratio on the axis.
fn label(ratio: f64) -> String {
    let short = format!("{ratio:.3}");
    match short.trim_end_matches('0') {
        whole if whole.ends_with('.') => format!("{whole}0"),
        digits => digits.to_owned(),
    }
}

fn entry(row: &Row<'_>, y: f64, x: &impl Fn(f64) -> f64, axis: (f64, f64)) -> String {
    let contrast = row.contrast;
    let (class, word) = match contrast.verdict {
        Verdict::Better => ("better", "better"),
        Verdict::Worse => ("worse", "worse"),
        Verdict::NoDifference if row.twin => ("same", "noise"),
        Verdict::NoDifference => ("same", "no difference"),
        Verdict::TooLittle => ("same", "too few rounds"),
    };
    let (from, at, to) = (x(contrast.low), x(contrast.ratio), x(contrast.high));
    let figures_text = figures::ratio(contrast);
    let mut entry = format!(
        "<g><title>{}: {figures_text}, {word}</title>",
        escaped(row.name)
    );
    entry += &text(
        "",
        (NAMES - 12.0, y + 4.5),
        "end",
        &figures::short(row.name, 27),
    );
    let whisker = format!("whisker {class}");
    entry += &rule(&whisker, (from, y), (to, y));
    entry += &end(&whisker, (from, y), contrast.low < axis.0, 6.0);
    entry += &end(&whisker, (to, y), contrast.high > axis.1, -6.0);
    // Shapes tell verdicts apart where colours do not.
    entry += &match contrast.verdict {
        Verdict::Better => {
            format!("<circle class=\"mark {class}\" cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"5\"/>")
        }
        Verdict::Worse => format!(
            "<rect class=\"mark {class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\"/>",
            at - 4.5,
            y - 4.5
        ),
        _ => format!("<circle class=\"mark {class}\" cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"),
    };
    entry += &text(
        "",
        (WIDTH - FIGURES + 16.0, y + 4.5),
        "start",
        &figures_text,
    );
    entry + "</g>"
}

/// The end of an interval, or, where the axis does not reach that far, an arrow; `inwards` is the way back.
fn end(class: &str, at: (f64, f64), is_cut: bool, inwards: f64) -> String {
    let (x, y) = at;
    if !is_cut {
        return rule(class, (x, y - 5.0), (x, y + 5.0));
    }
    rule(class, (x, y), (x + inwards, y - 5.0)) + &rule(class, (x, y), (x + inwards, y + 5.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(low: f64, ratio: f64, high: f64) -> String {
        let contrast = Contrast {
            ratio,
            low,
            high,
            rounds: 12,
            verdict: Verdict::NoDifference,
        };
        let row = Row {
            name: "other",
            twin: false,
            contrast: &contrast,
        };
        forest(Measure::Cpu, "base", &[row], None).expect("a row")
    }

    #[test]
    fn an_interval_that_is_cut_ends_in_arrows() {
        let slanted = |chart: &str| {
            let field = |line: &str, name: &str| {
                let (_, rest) = line.split_once(&format!(" {name}=\"")).expect("a place");
                rest.split('"').next().map(str::to_owned)
            };
            let lines = chart.split("<line class=\"whisker").skip(1);
            let is_slanted = |line: &&str| {
                field(line, "x1") != field(line, "x2") && field(line, "y1") != field(line, "y2")
            };
            lines.filter(is_slanted).count()
        };
        assert_eq!(slanted(&chart(0.9, 1.0, 1.1)), 0);
        assert_eq!(slanted(&chart(0.1, 1.0, 1.1)), 2);
        assert_eq!(slanted(&chart(0.1, 1.0, 10.0)), 4);
    }

    #[test]
    fn an_axis_has_more_than_one_number() {
        // Beyond the half, and short of twice.
        let chart = chart(0.56, 0.95, 1.56);
        let numbers = chart.matches("<line class=\"grid\"").count();
        assert!(numbers > 2, "{chart}");
    }
}
