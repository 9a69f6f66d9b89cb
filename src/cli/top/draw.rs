//! The picture. A pure function of what is known and how it is looked at.

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Clear, Paragraph, Sparkline, Widget},
};

use super::{
    model::{Arm, Model, Point},
    tables,
    text::{NOTHING, count, cut, interval, lasted, short},
    view::{Column, View},
};
use crate::{
    cli::ctl::show,
    control::{LiveArm, LiveReport},
};

/// What `top` shows on the terminal.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, view: &View) {
    paint(frame.buffer_mut(), model, view);
}

/// The same as one page of text, `width` columns wide and as long as it must be.
pub(super) fn page(model: &Model, view: &View, width: u16) -> String {
    let report = model.now.as_ref();
    let rows = report.map_or(0, |now| now.workers.len() + now.arms.len());
    let compared = model
        .comparison
        .as_ref()
        .map_or(0, |c| c.comparison.arms.len());
    // Far more than the few lines besides; what is empty at the end is left out.
    let height = u16::try_from(rows + compared + 60).unwrap_or(u16::MAX);
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    paint(&mut buffer, model, view);
    let mut text = String::new();
    for y in 0..height {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

fn paint(buffer: &mut Buffer, model: &Model, view: &View) {
    let area = buffer.area;
    let width = usize::from(area.width);
    let mut page = Page { left: area };
    if !view.plain {
        let footer = page.bottom(1);
        keys(view, width).render(footer, buffer);
    }
    page.top(head(model, view, width), 3, buffer);
    let Some(now) = &model.now else {
        if view.help {
            help(view, area, buffer);
        }
        return;
    };
    // Whoever has few lines wants the workers most of all.
    let tall = page.left.height >= 16 || view.plain;
    page.top(totals(model, now, width), if tall { 6 } else { 2 }, buffer);
    if tall {
        let compared = model.comparison.as_ref();
        let compared = compared.map(|report| tables::comparison(report, view, width));
        let arms = arms(now, view, width);
        let rows = now.workers.len() + 2;
        // A table is shown if half of the page, or what the workers need, is left for them.
        let room = |page: &Page, lines: usize| {
            let left = usize::from(page.left.height).saturating_sub(lines + 1);
            view.plain || left >= rows.min(usize::from(area.height / 2))
        };
        if room(&page, arms.len()) {
            page.gap();
            page.top(arms, u16::MAX, buffer);
        }
        if let Some(lines) = compared.filter(|lines| room(&page, lines.len())) {
            page.gap();
            page.top(lines, u16::MAX, buffer);
        }
        if !view.plain && room(&page, 4) && !model.history.is_empty() {
            page.gap();
            history(model, view, page.take(3), buffer);
        }
        page.gap();
    }
    let lines = tables::workers(model, now, view, width, page.left.height.into());
    page.top(lines, u16::MAX, buffer);
    if view.help {
        help(view, area, buffer);
    }
}

/// What is left of the picture, filled from the top and from the bottom.
struct Page {
    left: Rect,
}

impl Page {
    fn take(&mut self, height: u16) -> Rect {
        let height = height.min(self.left.height);
        let taken = Rect {
            height,
            ..self.left
        };
        self.left.y += height;
        self.left.height -= height;
        taken
    }

    fn bottom(&mut self, height: u16) -> Rect {
        let height = height.min(self.left.height);
        self.left.height -= height;
        let y = self.left.y + self.left.height;
        Rect {
            y,
            height,
            ..self.left
        }
    }

    fn top(&mut self, lines: Vec<Line<'static>>, most: u16, buffer: &mut Buffer) {
        let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(most);
        let area = self.take(height);
        Paragraph::new(lines).render(area, buffer);
    }

    fn gap(&mut self) {
        self.take(1);
    }
}

/// Colours, where there may be some.
pub(super) fn paint_with(view: &View, colour: Color) -> Style {
    if view.colour {
        Style::new().fg(colour)
    } else {
        Style::new()
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// Who it is, how it dispatches, what it does; and that it is gone, if it is.
fn head(model: &Model, view: &View, width: usize) -> Vec<Line<'static>> {
    let mut first = Vec::new();
    if let Some(now) = &model.now {
        let status = &now.status;
        let state = match (&model.lost, status.state.as_str()) {
            (Some(_), _) => Span::styled("gone", paint_with(view, Color::Red).patch(bold())),
            (None, "running") => Span::styled("running", paint_with(view, Color::Green)),
            (None, other) => Span::styled(other.to_owned(), paint_with(view, Color::Yellow)),
        };
        let arm = show::arm(&status.mode, &status.policy);
        // On a narrow terminal how it does comes before who it is.
        let whole = width >= 76;
        if whole {
            let name = format!("pointsman {}  ", status.version);
            first.push(Span::styled(name, bold()));
        }
        first.extend([
            state,
            Span::raw("  "),
            Span::styled(arm, paint_with(view, Color::Cyan).patch(bold())),
            Span::raw(format!(
                "  {}/{} ready",
                status.workers_ready, status.workers
            )),
        ]);
        if whole {
            let up = show::duration(status.uptime_seconds);
            first.push(Span::raw(format!("  up {up}")));
        }
    } else {
        first.push(Span::styled("pointsman", bold()));
    }
    if view.paused {
        first.insert(
            0,
            Span::styled("PAUSED  ", paint_with(view, Color::Yellow).patch(bold())),
        );
    }
    let first = Line::from(first);
    [first]
        .into_iter()
        .chain(news(model, view, width))
        .collect()
}

/// What somebody should know besides: that it does not answer, what it is doing, what went wrong.
fn news(model: &Model, view: &View, width: usize) -> Option<Line<'static>> {
    let status = model.now.as_ref().map(|now| &now.status);
    let operation = status.and_then(|status| status.operation.as_ref());
    let failure = status.and_then(|status| status.last_failure.as_ref());
    let (text, colour) = match (&model.lost, operation, failure) {
        (Some((why, tries)), ..) => (format!("no answer ({tries}): {why}"), Color::Red),
        (None, Some(operation), _) => (format!("in progress: {operation}"), Color::Yellow),
        (None, None, Some(failure)) => (format!("last failure: {failure}"), Color::Red),
        (None, None, None) => return None,
    };
    let style = paint_with(view, colour);
    Some(Line::styled(cut(&text, width), style))
}

/// The numbers of the whole, as many on a line as there is room for.
fn totals(model: &Model, now: &LiveReport, width: usize) -> Vec<Line<'static>> {
    let totals = model.totals.as_ref();
    let rate = |of: fn(&super::model::Totals) -> f64, unit: &str| match totals {
        Some(totals) => format!("{}{unit}", short(of(totals))),
        None => NOTHING.into(),
    };
    let imbalance = match now.imbalance {
        0.0 => NOTHING.into(),
        ratio => format!("{ratio:.2}"),
    };
    let items = [
        ("requests", rate(|t| t.requests, "/s")),
        ("errors", rate(|t| t.errors, "/s")),
        ("p50", lasted(totals.and_then(|t| t.p50))),
        ("p99", lasted(totals.and_then(|t| t.p99))),
        (
            "CPU",
            totals.map_or(NOTHING.into(), |t| format!("{:.0} %", t.cpu)),
        ),
        ("connections", rate(|t| t.connections, "/s")),
        ("open", count(now.status.connections_open)),
        ("in flight", count(now.requests_in_flight)),
        ("busiest/mean", imbalance),
        ("hand-over p99", lasted(totals.and_then(|t| t.handoff_p99))),
        ("in", rate(|t| t.received, "B/s")),
        ("out", rate(|t| t.sent, "B/s")),
        ("lost", now.status.connections_lost.to_string()),
        (
            "redispatched",
            now.status.connections_redispatched.to_string(),
        ),
    ];
    let mut lines: Vec<(usize, Vec<Span<'static>>)> = Vec::new();
    for (name, value) in items {
        let text = format!("{value:<8}");
        let needed = name.chars().count() + 1 + text.chars().count() + 1;
        match lines.last_mut() {
            Some((used, spans)) if *used + needed <= width + 2 => {
                *used += needed;
                spans.extend(item(name, text));
            }
            _ => lines.push((needed, item(name, text).into())),
        }
    }
    lines
        .into_iter()
        .map(|(_, spans)| Line::from(spans))
        .collect()
}

fn item(name: &str, value: String) -> [Span<'static>; 3] {
    let dim = Style::new().add_modifier(Modifier::DIM);
    [
        Span::styled(format!("{name} "), dim),
        Span::styled(value, bold()),
        Span::raw(" "),
    ]
}

/// Every mode and policy that was ever in force, side by side.
fn arms(now: &LiveReport, view: &View, width: usize) -> Vec<Line<'static>> {
    let is_now = |arm: &LiveArm| arm.mode == now.status.mode && arm.policy == now.status.policy;
    let rows: Vec<_> = now
        .arms
        .iter()
        .map(|arm| {
            (
                show::arm(&arm.mode, &arm.policy),
                is_now(arm),
                arm.active_seconds,
                Arm::of(arm),
            )
        })
        .collect();
    tables::arms(&rows, view, width)
}

/// The last minutes as two rows of bars.
fn history(model: &Model, view: &View, area: Rect, buffer: &mut Buffer) {
    let half = area.width / 2;
    let left = Rect {
        width: half.saturating_sub(1),
        ..area
    };
    let right = Rect {
        x: area.x + half,
        width: area.width - half,
        ..area
    };
    let p99 = |point: &Point| point.p99.map_or(0.0, |p99| p99.as_secs_f64() * 1e6);
    bars(
        model,
        "requests/s",
        |p| p.requests,
        |n| short(n as f64),
        view,
        left,
        buffer,
    );
    let text = |us| lasted(Some(std::time::Duration::from_micros(us)));
    bars(model, "p99", p99, text, view, right, buffer);
}

fn bars(
    model: &Model,
    name: &str,
    of: impl Fn(&Point) -> f64,
    text: impl Fn(u64) -> String,
    view: &View,
    area: Rect,
    buffer: &mut Buffer,
) {
    if area.height < 2 || area.width < 10 {
        return;
    }
    let points = model.history.iter().rev().take(area.width.into());
    let mut points: Vec<u64> = points.map(|point| of(point).round() as u64).collect();
    points.reverse();
    let most = points.iter().copied().max().unwrap_or(0);
    let head = format!("{name}, at most {}", text(most));
    Line::styled(cut(&head, area.width.into()), bold()).render(Rect { height: 1, ..area }, buffer);
    let area = Rect {
        y: area.y + 1,
        height: area.height - 1,
        ..area
    };
    Sparkline::default()
        .data(&points)
        .max(most.max(1))
        .style(paint_with(view, Color::Cyan))
        .render(area, buffer);
}

fn keys(view: &View, width: usize) -> Line<'static> {
    let sorted = if view.reversed { " reversed" } else { "" };
    let text = format!(
        "q quit  p {}  s sort by {}{sorted}  r reverse  +/- every {}  ? help",
        if view.paused { "go on" } else { "pause" },
        view.sort.head(),
        interval(view.interval),
    );
    Line::styled(cut(&text, width), Style::new().add_modifier(Modifier::DIM))
}

fn help(view: &View, area: Rect, buffer: &mut Buffer) {
    let columns: Vec<String> = Column::ALL
        .iter()
        .zip("1234567890".chars())
        .map(|(column, key)| format!("{key} {}", column.head()))
        .collect();
    let text = [
        "s >    sort by the next column".to_owned(),
        "<      sort by the one before".into(),
        format!("       {}", columns[..5].join("  ")),
        format!("       {}", columns[5..].join("  ")),
        "r      the other way round".into(),
        "up/dn  scroll the workers".into(),
        "p      pause, go on".into(),
        format!("+ -    interval, now {}", interval(view.interval)),
        "q Esc  leave the help, then top".into(),
        String::new(),
        "Arms count since the master's start.".into(),
        "All else is of the last interval.".into(),
    ];
    let widest = text
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0) as u16;
    let (width, height) = (
        area.width.min(widest + 4),
        area.height.min(text.len() as u16),
    );
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    Clear.render(place, buffer);
    let style = Style::new().add_modifier(Modifier::REVERSED);
    let room = usize::from(width);
    let lines = text.map(|line| {
        let line = cut(&format!("  {line}"), room);
        Line::styled(format!("{line:<room$}"), style)
    });
    Paragraph::new(lines.to_vec()).render(place, buffer);
}
