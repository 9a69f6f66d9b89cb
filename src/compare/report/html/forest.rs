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
        let (from, to) = (x(1.0 - floor.min(0.99)), x(1.0 + floor));
        content += &format!(
            "<rect class=\"band\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>noise floor: \
             what two equal arms differ by</title></rect>",
            to - from,
            bottom - TOP
        );
    }
    let marks = if high / low > WIDE {
        log_ticks(low, high)
    } else {
        ticks(low, high, 7)
    };
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
        content += &entry(row, y, &x);
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
    let floor = floor.unwrap_or(0.0).min(0.5);
    let lows = rows.iter().map(|row| row.contrast.low.max(nearest / 1.5));
    let highs = rows.iter().map(|row| row.contrast.high.min(farthest * 1.5));
    let low = lows.fold(1.0 - floor, f64::min).min(0.99);
    let high = highs.fold(1.0 + floor, f64::max).max(1.01);
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

fn entry(row: &Row<'_>, y: f64, x: &impl Fn(f64) -> f64) -> String {
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
    entry += &rule(&whisker, (from, y - 5.0), (from, y + 5.0));
    entry += &rule(&whisker, (to, y - 5.0), (to, y + 5.0));
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
