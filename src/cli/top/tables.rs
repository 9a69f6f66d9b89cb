//! The tables: workers, arms, the comparison.

use std::cmp::Ordering;

use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

use super::{
    draw::paint_with,
    grid::{self, Column as GridColumn},
    model::{Arm, Model, Worker},
    text::{NOTHING, count, cut, lasted, short_or_nothing, wrapped},
    view::{Column, View},
};
use crate::{
    cli::ctl::show,
    compare::{Contrast, Ending, Report, Verdict},
    control::{LiveReport, LiveWorker},
};

/// The workers, sorted, and as many lines as there is room for.
pub(super) fn workers(
    model: &Model,
    now: &LiveReport,
    view: &View,
    width: usize,
    height: usize,
) -> Vec<Line<'static>> {
    let mut seats: Vec<_> = now.workers.iter().zip(&model.workers).collect();
    let largest_first = view.sort.largest_first() != view.reversed;
    // What is equal stays in the order of the seats.
    seats.sort_by(|a, b| match by_column(view.sort, *a, *b) {
        order if largest_first => order.reverse(),
        order => order,
    });
    let mark = if view.reversed { '▲' } else { '▼' };
    let columns: Vec<_> = Column::ALL
        .iter()
        .map(|column| {
            let head = match *column == view.sort && !view.plain {
                true => format!("{}{mark}", column.head()),
                false => column.head().into(),
            };
            grid_column(*column, head)
        })
        .collect();
    let rows: Vec<_> = seats.iter().map(|seat| row(*seat, view)).collect();
    let most = now.workers.iter().map(|w| w.worker.connections_open).max();
    let bar = |i: usize, room: usize| {
        let open = seats[i].0.worker.connections_open;
        (!view.plain && room >= 8).then(|| {
            let text = bar(open, most.unwrap_or(0), room.min(40));
            Span::styled(text, paint_with(view, Color::Cyan))
        })
    };
    let (head, body) = grid::lines(&columns, &rows, width, bar);
    let room = height.saturating_sub(1 + now.draining.len()).max(1);
    // Nobody should look at an empty table because there are fewer workers than there were.
    let skipped = view.skipped.min(body.len().saturating_sub(room));
    let hidden = body.len().saturating_sub(skipped + room);
    let mut lines = vec![head];
    lines.extend(body.into_iter().skip(skipped).take(room));
    if hidden > 0 && lines.len() > 1 {
        let last = lines.len() - 1;
        lines[last] = Line::raw(format!("… {} more (Down)", hidden + 1));
    }
    lines.extend(now.draining.iter().map(|worker| {
        let text = format!(
            "draining: worker {} (pid {}, generation {}), {} open, killed in {:.0} s",
            worker.worker,
            worker.pid,
            worker.generation,
            worker.connections_open,
            worker.seconds_left.max(0.0).ceil()
        );
        Line::styled(cut(&text, width), paint_with(view, Color::Yellow))
    }));
    lines
}

fn grid_column(column: Column, head: String) -> GridColumn {
    match column {
        Column::Worker => GridColumn::words(head, 0, 7),
        Column::Pid => GridColumn::numbers(head, 7, 7),
        Column::Generation => GridColumn::numbers(head, 8, 4),
        Column::State => GridColumn::words(head, 1, 8),
        Column::Open => GridColumn::numbers(head, 2, 5),
        Column::InFlight => GridColumn::numbers(head, 6, 9),
        Column::Requests => GridColumn::numbers(head, 3, 6),
        Column::Cpu => GridColumn::numbers(head, 4, 6),
        Column::Restarts => GridColumn::numbers(head, 9, 9),
        Column::Hung => GridColumn::numbers(head, 5, 5),
    }
}

fn row((seat, rates): (&LiveWorker, &Worker), view: &View) -> Vec<Span<'static>> {
    let worker = &seat.worker;
    let colour = match worker.state.as_str() {
        "ready" => Color::Green,
        "hung" | "dead" => Color::Red,
        _ => Color::Yellow,
    };
    let notable = |n: u64| {
        let style = if n > 0 {
            paint_with(view, Color::Red)
        } else {
            Style::new()
        };
        Span::styled(n.to_string(), style)
    };
    vec![
        Span::raw(worker.worker.clone()),
        Span::raw(
            worker
                .pid
                .map_or_else(|| NOTHING.into(), |pid| pid.to_string()),
        ),
        Span::raw(worker.generation.to_string()),
        Span::styled(worker.state.clone(), paint_with(view, colour)),
        Span::raw(count(worker.connections_open)),
        Span::raw(count(worker.requests_in_flight)),
        Span::raw(short_or_nothing(rates.requests)),
        Span::raw(
            rates
                .cpu
                .map_or_else(|| NOTHING.into(), |cpu| format!("{cpu:.0}")),
        ),
        Span::raw(worker.restarts.to_string()),
        notable(worker.hung),
    ]
}

fn by_column(
    column: Column,
    (a, a_rates): (&LiveWorker, &Worker),
    (b, b_rates): (&LiveWorker, &Worker),
) -> Ordering {
    let number = |rate: Option<f64>| rate.unwrap_or(-1.0);
    let (x, y) = (&a.worker, &b.worker);
    match column {
        // `master` stands behind the numbers.
        Column::Worker => {
            let seat = |name: &str| name.parse::<u16>().unwrap_or(u16::MAX);
            seat(&x.worker).cmp(&seat(&y.worker))
        }
        Column::Pid => x.pid.cmp(&y.pid),
        Column::Generation => x.generation.cmp(&y.generation),
        Column::State => x.state.cmp(&y.state),
        Column::Open => x.connections_open.cmp(&y.connections_open),
        Column::InFlight => x.requests_in_flight.cmp(&y.requests_in_flight),
        Column::Requests => number(a_rates.requests).total_cmp(&number(b_rates.requests)),
        Column::Cpu => number(a_rates.cpu).total_cmp(&number(b_rates.cpu)),
        Column::Restarts => x.restarts.cmp(&y.restarts),
        Column::Hung => x.hung.cmp(&y.hung),
    }
}

/// A bar of `open` eighths of blocks, where `most` would fill `room`.
fn bar(open: u64, most: u64, room: usize) -> String {
    if most == 0 {
        return String::new();
    }
    let eighths = (open as f64 / most as f64 * room as f64 * 8.0).round() as usize;
    let part = match eighths % 8 {
        0 => None,
        n => char::from_u32(0x2590 - n as u32),
    };
    "█".repeat(eighths / 8).chars().chain(part).collect()
}

/// An arm: its name, whether it is in force, for how many seconds it was, and what it came to.
pub(super) type ArmRow = (String, bool, f64, Arm);

/// The arms, side by side.
pub(super) fn arms(rows: &[ArmRow], view: &View, width: usize) -> Vec<Line<'static>> {
    let columns = [
        GridColumn::words("ARM (since start)", 0, 0),
        GridColumn::numbers("IN FORCE", 4, 9),
        GridColumn::numbers("REQ/S", 1, 6),
        GridColumn::numbers("CPU/REQ", 2, 8),
        GridColumn::numbers("P50", 5, 7),
        GridColumn::numbers("P99", 3, 7),
    ];
    let rows: Vec<_> = rows
        .iter()
        .map(|(name, in_force, seconds, arm)| {
            let (mark, style) = match in_force {
                true => (
                    "*",
                    paint_with(view, Color::Cyan).add_modifier(Modifier::BOLD),
                ),
                false => (" ", Style::new()),
            };
            vec![
                Span::styled(format!("{mark} {name}"), style),
                Span::raw(show::duration(*seconds)),
                Span::raw(short_or_nothing(arm.requests)),
                Span::raw(
                    arm.cpu_us
                        .map_or_else(|| NOTHING.into(), |us| format!("{us:.0} µs")),
                ),
                Span::raw(lasted(arm.p50)),
                Span::raw(lasted(arm.p99)),
            ]
        })
        .collect();
    let (head, body) = grid::lines(&columns, &rows, width, |_, _| None);
    std::iter::once(head).chain(body).collect()
}

/// The comparison: how far it is, and each arm against the first.
pub(super) fn comparison(report: &Report, view: &View, width: usize) -> Vec<Line<'static>> {
    let Report {
        comparison,
        summary,
    } = report;
    let (planned, done) = (
        comparison.rounds as usize * comparison.arms.len(),
        comparison.blocks.len(),
    );
    let state = match &comparison.ending {
        Ending::Running => "running".into(),
        Ending::Complete => "complete".into(),
        Ending::Interrupted => "ended before its time".into(),
        Ending::Guarded { why } => format!("ended by the guard: {why}"),
        Ending::Failed { why } => format!("failed: {why}"),
    };
    let progress = format!(
        "COMPARISON  {}, block {done} of {planned}: {state}",
        comparison.scenario
    );
    let style = Style::new().add_modifier(Modifier::BOLD);
    let columns = [
        GridColumn::words("ARM", 0, 0),
        GridColumn::numbers("REQ/S", 3, 6),
        GridColumn::numbers("CPU/REQ", 4, 8),
        GridColumn::words("CPU/REQ BY BASE", 1, 0),
        GridColumn::words("P99 BY BASE", 2, 0),
    ];
    let rows: Vec<_> = summary
        .arms
        .iter()
        .map(|arm| {
            let cpu = arm.cpu_us_per_request;
            vec![
                Span::raw(arm.name.clone()),
                Span::raw(short_or_nothing(arm.requests_per_second)),
                Span::raw(cpu.map_or_else(|| NOTHING.into(), |us| format!("{us:.0} µs"))),
                contrast(arm.cpu, view),
                contrast(arm.latency_p99, view),
            ]
        })
        .collect();
    let (head, body) = grid::lines(&columns, &rows, width, |_, _| None);
    let progress = Line::styled(cut(&progress, width), style);
    let mut lines = vec![progress, head];
    lines.extend(body);
    if comparison.ending != Ending::Running {
        let text = wrapped(&summary.recommendation.text, width);
        lines.extend(text.into_iter().map(Line::raw));
    }
    lines
}

/// `0.95 [0.93–0.98] better`; less is better in both columns, and the verdict knows.
fn contrast(contrast: Option<Contrast>, view: &View) -> Span<'static> {
    let Some(contrast) = contrast else {
        return Span::raw(NOTHING);
    };
    let (word, style) = match contrast.verdict {
        Verdict::Better => ("better", paint_with(view, Color::Green)),
        Verdict::Worse => ("worse", paint_with(view, Color::Red)),
        Verdict::NoDifference => ("no difference", Style::new()),
        Verdict::TooLittle => ("too few rounds", Style::new()),
    };
    let Contrast {
        ratio, low, high, ..
    } = contrast;
    Span::styled(format!("{ratio:.2} [{low:.2}–{high:.2}] {word}"), style)
}
