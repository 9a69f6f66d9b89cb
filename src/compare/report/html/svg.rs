//! What charts are drawn with. Colours stand in the style sheet (those of Okabe and Ito, which people with any
//! kind of colour vision can tell apart), and every line has dashes of its own besides.

/// Dashes, by arm.
const DASHES: [&str; 9] = [
    "none",
    "2 3",
    "10 2",
    "6 3",
    "8 3 2 3",
    "4 2",
    "14 3 3 3",
    "1 2",
    "8 2 2 2 2 2",
];
/// Colours in the style sheet: `--a0` and on.
const COLOURS: usize = 9;

/// Text in HTML or SVG, be it an attribute's.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            // HTML has no way to say these.
            c if c.is_control() && !c.is_whitespace() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// How the line of series `i` looks.
pub(super) fn stroke(i: usize) -> String {
    let (colour, dashes) = (i % COLOURS, DASHES[i % DASHES.len()]);
    format!("style=\"stroke:var(--a{colour})\" stroke-dasharray=\"{dashes}\"")
}

/// A drawing of this size, with what it shows for those who cannot see it.
pub(super) fn drawing(width: f64, height: f64, title: &str, content: &str) -> String {
    let title = escaped(title);
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>{content}</svg>\n"
    )
}

/// A line through `points`.
pub(super) fn line(points: &[(f64, f64)], class: &str, series: usize, title: &str) -> String {
    let points: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    format!(
        "<polyline class=\"{class}\" {} points=\"{}\"><title>{}</title></polyline>",
        stroke(series),
        points.join(" "),
        escaped(title)
    )
}

/// A straight line.
pub(super) fn rule(class: &str, from: (f64, f64), to: (f64, f64)) -> String {
    format!(
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    )
}

/// Text at a place; `anchor` is `start`, `middle` or `end`.
pub(super) fn text(class: &str, at: (f64, f64), anchor: &str, text: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
        at.0,
        at.1,
        escaped(text)
    )
}

/// Round numbers between `low` and `high`, at most `most` of them: 1, 2 or 5 with zeros.
pub(super) fn ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let span = high - low;
    if !(span > 0.0 && span.is_finite()) {
        return vec![low];
    }
    let rough = span / most.max(1) as f64;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|s| s * magnitude)
        .into_iter()
        .find(|step| *step >= rough);
    let step = step.unwrap_or(span);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Round numbers for a logarithmic axis: 1, 2 and 5 with zeros; over more than three decades 1 alone.
pub(super) fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let digits: &[f64] = if high / low > 1000.0 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let all = decades.flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)));
    all.filter(|tick| (low * 0.999..=high * 1.001).contains(tick))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let shown = |ticks: Vec<f64>| {
            ticks
                .iter()
                .map(|t| format!("{t:.2}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(shown(ticks(0.93, 1.12, 6)), "0.95 1.00 1.05 1.10");
        assert_eq!(shown(ticks(0.0, 10.0, 5)), "0.00 2.00 4.00 6.00 8.00 10.00");
        assert_eq!(ticks(1.0, 1.0, 5), [1.0]);
        assert_eq!(ticks(f64::NAN, 1.0, 5).len(), 1);
        assert_eq!(shown(log_ticks(0.3, 6.0)), "0.50 1.00 2.00 5.00");
        assert_eq!(log_ticks(0.0001, 10.0).len(), 6);
    }

    #[test]
    fn nothing_gets_out_of_its_quotes() {
        assert_eq!(
            escaped("<b a='\"&\u{7}"),
            "&lt;b a=&#39;&quot;&amp;\u{fffd}"
        );
    }
}
