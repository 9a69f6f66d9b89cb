//! Raw rows, one for each block: RFC 4180, with a header.

use std::borrow::Cow;

use super::super::{
    Block, Comparison, Drive,
    summary::{busiest_over_mean, deviation},
};

/// Times are in seconds unless a name says otherwise; what is not known is empty.
///
/// `drive` is `closed`, `open` (then `rate` is the planned requests a second) or `live`; `began` counts from the
/// comparison's start, `seconds` is how long was measured; the columns to `lost_threads` are what all processes
/// of the program used; latencies are of this block alone, `handoff` is from accepted to claimed; `open_mean`,
/// `busiest_over_mean` and `open_deviation` are means over the looks at open connections.
const HEADER: [&str; 29] = [
    "scenario",
    "arm",
    "twin_of",
    "round",
    "position",
    "drive",
    "rate",
    "began",
    "seconds",
    "requests",
    "errors",
    "connections",
    "requests_per_second",
    "cpu_ns",
    "run_queue_ns",
    "wakeups",
    "preempted",
    "lost_threads",
    "cpu_us_per_request",
    "p50",
    "p90",
    "p99",
    "p999",
    "handoff_p50",
    "handoff_p99",
    "open_mean",
    "busiest_over_mean",
    "open_deviation",
    "own_share",
];

/// The blocks of `comparison` in the order in which they were measured.
pub fn csv(comparison: &Comparison) -> String {
    let mut text = HEADER.join(",") + "\r\n";
    for block in &comparison.blocks {
        let row = row(comparison, block);
        let fields: Vec<Cow<'_, str>> = row.iter().map(|field| quoted(field)).collect();
        text += &fields.join(",");
        text += "\r\n";
    }
    text
}

fn row(comparison: &Comparison, block: &Block) -> [String; 29] {
    let arm = comparison.arms.get(block.arm);
    let name = |arm: usize| {
        comparison
            .arms
            .get(arm)
            .map_or_else(String::new, |arm| arm.name.clone())
    };
    let known = |number: Option<f64>| {
        number
            .filter(|n| n.is_finite())
            .map_or_else(String::new, |n| n.to_string())
    };
    let (drive, rate) = match block.drive {
        Drive::Closed => ("closed", None),
        Drive::Open { rate } => ("open", Some(rate)),
        Drive::Live => ("live", None),
    };
    let requests = block.requests as f64;
    let looks: Vec<[f64; 3]> = block
        .open
        .iter()
        .filter_map(|look| look_at(&look.by_worker))
        .collect();
    let mean = |which: usize| {
        let sum: f64 = looks.iter().map(|look| look[which]).sum();
        known(Some(sum / looks.len() as f64))
    };
    let used = &block.used;
    [
        comparison.scenario.clone(),
        name(block.arm),
        arm.and_then(|arm| arm.twin_of)
            .map_or_else(String::new, name),
        block.round.to_string(),
        block.position.to_string(),
        drive.to_owned(),
        known(rate),
        known(Some(block.began)),
        known(Some(block.seconds)),
        block.requests.to_string(),
        block.errors.to_string(),
        block.connections.to_string(),
        known(Some(requests / block.seconds)),
        used.cpu_ns.to_string(),
        used.waited_ns.to_string(),
        used.wakeups.to_string(),
        used.preempted.to_string(),
        block.lost_threads.to_string(),
        known(Some(used.cpu_ns as f64 / 1000.0 / requests)),
        known(block.latency.interpolated(0.5)),
        known(block.latency.interpolated(0.9)),
        known(block.latency.interpolated(0.99)),
        known(block.latency.interpolated(0.999)),
        known(block.handoff.interpolated(0.5)),
        known(block.handoff.interpolated(0.99)),
        mean(0),
        mean(1),
        mean(2),
        known(Some(block.own_share)),
    ]
}

/// The mean of the workers' open connections, the busiest's by it, and their standard deviation.
fn look_at(by_worker: &[u64]) -> Option<[f64; 3]> {
    let mean = by_worker.iter().sum::<u64>() as f64 / by_worker.len() as f64;
    (mean > 0.0).then(|| {
        [
            mean,
            busiest_over_mean(by_worker, mean),
            deviation(by_worker, mean),
        ]
    })
}

fn quoted(field: &str) -> Cow<'_, str> {
    match field.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")).into(),
        false => field.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            Open,
            tests::{block, comparison},
        },
        *,
    };

    /// Fields of all rows; knows of quotes, and of lines that go on within them.
    fn parse(text: &str) -> Vec<Vec<String>> {
        let (mut rows, mut row, mut field, mut within) =
            (Vec::new(), Vec::new(), String::new(), false);
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '"' if within && letters.peek() == Some(&'"') => field.extend(letters.next()),
                '"' => within = !within,
                ',' if !within => row.push(std::mem::take(&mut field)),
                '\r' if !within => {
                    assert_eq!(letters.next(), Some('\n'));
                    row.push(std::mem::take(&mut field));
                    rows.push(std::mem::take(&mut row));
                }
                letter => field.push(letter),
            }
        }
        assert!(field.is_empty() && row.is_empty() && !within);
        rows
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let mut comparison = comparison(&["plain", "with, \"quotes\"\r\nand lines"]);
        comparison.arms[1].twin_of = Some(0);
        comparison.blocks.push(block(0, 1));
        comparison.blocks.push(Block {
            drive: Drive::Open { rate: 250.5 },
            requests: 0,
            open: vec![Open {
                at: 0.0,
                by_worker: vec![3, 1],
            }],
            ..block(1, 1)
        });
        let rows = parse(&csv(&comparison));
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.len() == HEADER.len()));
        let field = |row: usize, name: &str| {
            let column = HEADER.iter().position(|h| *h == name).expect("a column");
            rows[row][column].as_str()
        };
        assert_eq!(
            (field(1, "arm"), field(1, "drive"), field(1, "rate")),
            ("plain", "closed", "")
        );
        assert_eq!(
            (
                field(1, "requests_per_second"),
                field(1, "cpu_us_per_request")
            ),
            ("1000", "40")
        );
        assert_eq!(field(2, "arm"), "with, \"quotes\"\r\nand lines");
        assert_eq!((field(2, "twin_of"), field(2, "rate")), ("plain", "250.5"));
        assert_eq!(
            (
                field(2, "open_mean"),
                field(2, "busiest_over_mean"),
                field(2, "open_deviation")
            ),
            ("2", "1.5", "1")
        );
        assert_eq!(
            (field(2, "cpu_us_per_request"), field(1, "open_mean")),
            ("", "")
        );
    }
}
