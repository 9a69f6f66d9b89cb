//! What `top` looks like: pictures of the whole, in `frames/`, as a terminal would show them.

use std::time::Duration;

use ratatui::{Terminal, backend::TestBackend, style::Color};

use super::{
    draw::{draw, page},
    model::{Model, tests::report},
    view::{Column, View},
};
use crate::{
    compare::{
        self, Arm, ArmSummary, Circumstances, Comparison, Contrast, Ending, Recommendation, Source,
        Summary, Verdict,
    },
    control::{DrainReport, LiveReport},
};

fn view() -> View {
    View::new(Duration::from_secs(1), false)
}

/// Two answers, two seconds apart, between which 4,000 requests were answered.
fn busy(workers: u16) -> Model {
    let mut model = Model::default();
    model.hear((report(100.0, 10_000, workers), None));
    model.hear((report(102.0, 14_000, workers), None));
    model
}

fn picture(model: &Model, view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
    terminal
        .draw(|frame| draw(frame, model, view))
        .expect("in memory");
    let buffer = terminal.backend().buffer();
    let lines = (0..height).map(|y| {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        line.trim_end().to_owned() + "\n"
    });
    lines.collect()
}

/// It looks as in `frames/NAME.txt`. Read when it is needed, so that a new picture needs no new build.
#[track_caller]
fn assert_picture(shown: &str, name: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/top/frames");
    let expected = std::fs::read_to_string(format!("{folder}/{name}.txt")).expect("a picture");
    assert!(shown == expected, "shown:\n{shown}\nexpected:\n{expected}");
}

#[test]
fn wide() {
    let shown = picture(&busy(4), &view(), 120, 24);
    assert_picture(&shown, "wide");
}

#[test]
fn tall_with_history_operation_and_somebody_draining() {
    let mut model = busy(2);
    for i in 0..30 {
        let mut next = report(103.0 + i as f64, 14_000 + 200 * i * i, 2);
        next.status.operation = Some("restart: 1 of 2 replaced".into());
        next.workers[1].worker.state = "hung".into();
        next.workers[1].worker.hung = 3;
        next.draining.push(DrainReport {
            worker: "0".into(),
            pid: 77,
            generation: 1,
            connections_open: 5,
            requests_in_flight: 1,
            seconds_left: 11.2,
        });
        model.hear((next, None));
    }
    let shown = picture(&model, &view(), 100, 30);
    assert_picture(&shown, "tall");
}

#[test]
fn narrow() {
    let shown = picture(&busy(12), &view(), 40, 10);
    assert_picture(&shown, "narrow");
}

#[test]
fn nothing_to_tell_yet_and_nothing_to_do() {
    let mut model = Model::default();
    model.hear((report(100.0, 0, 2), None));
    let shown = picture(&model, &view(), 80, 12);
    assert_picture(&shown, "first");
    model.hear((report(101.0, 0, 2), None));
    let shown = picture(&model, &view(), 80, 12);
    assert_picture(&shown, "idle");
}

#[test]
fn gone_and_paused() {
    let mut model = busy(2);
    model.lose("no master answers at /run/x.sock: it has ended and left its socket behind".into());
    let paused = View {
        paused: true,
        ..view()
    };
    let shown = picture(&model, &paused, 80, 12);
    assert_picture(&shown, "gone");
}

#[test]
fn another_master_with_smaller_counters_shows_no_rates_at_first() {
    let mut model = busy(2);
    model.hear((report(1.0, 500, 2), None));
    let shown = picture(&model, &view(), 80, 12);
    assert!(shown.contains("requests -"), "{shown}");
    model.hear((report(2.0, 700, 2), None));
    let shown = picture(&model, &view(), 80, 12);
    assert!(shown.contains("requests 200/s"), "{shown}");
}

#[test]
fn a_comparison_is_shown_with_its_intervals() {
    let mut model = busy(2);
    model.comparison = Some(comparison(Ending::Running));
    let shown = picture(&model, &view(), 120, 30);
    assert_picture(&shown, "comparison");
    model.comparison = Some(comparison(Ending::Complete));
    let shown = picture(&model, &view(), 120, 30);
    assert!(
        shown.contains("complete") && shown.contains("Take shared"),
        "{shown}"
    );
}

#[test]
fn help_lies_over_the_picture() {
    let help = View {
        help: true,
        ..view()
    };
    let shown = picture(&busy(4), &help, 80, 20);
    assert_picture(&shown, "help");
}

#[test]
fn one_page_for_a_pipe() {
    let plain = View {
        plain: true,
        ..view()
    };
    let mut model = busy(3);
    model.comparison = Some(comparison(Ending::Complete));
    assert_picture(&page(&model, &plain, 100), "once");
}

#[test]
fn workers_come_in_the_order_that_was_asked_for() {
    let mut model = busy(4);
    let now = model.now.as_mut().expect("a report");
    for (seat, state) in ["ready", "hung", "dead", "ready"].into_iter().enumerate() {
        let worker = &mut now.workers[seat].worker;
        worker.state = state.into();
        worker.generation = 4 - seat as u64 / 2;
        worker.hung = u64::from(seat == 1);
        worker.requests_in_flight = 10 + seat as u64;
    }
    for (i, cpu) in [40.0, 10.0, 90.0].into_iter().enumerate() {
        model.workers[i].cpu = Some(cpu);
        model.workers[i].requests = Some(100.0 - cpu);
    }
    // Of this one nothing is known: it has come just now.
    model.workers[3].cpu = None;
    model.workers[3].requests = None;
    let order = |sort, reversed| {
        let view = View {
            sort,
            reversed,
            ..view()
        };
        let shown = picture(&model, &view, 120, 24);
        let lines = shown.lines().skip_while(|line| !line.starts_with("WORKER"));
        let seats = lines.skip(1).filter_map(|line| line.split(' ').next());
        seats.take(4).collect::<String>()
    };
    for (sort, straight, reversed) in [
        (Column::Worker, "0123", "3210"),
        (Column::Pid, "3210", "0123"),
        (Column::Generation, "2301", "0123"),
        (Column::State, "2103", "0312"),
        (Column::Open, "0123", "3210"),
        (Column::InFlight, "3210", "0123"),
        (Column::Requests, "1023", "3201"),
        (Column::Cpu, "2013", "3102"),
        (Column::Restarts, "3210", "0123"),
        (Column::Hung, "1023", "0231"),
    ] {
        assert_eq!(order(sort, false), straight, "{sort:?}");
        assert_eq!(order(sort, true), reversed, "{sort:?} reversed");
    }
}

#[test]
fn workers_that_do_not_fit_can_be_scrolled_to() {
    let model = busy(40);
    let shown = picture(&model, &view(), 80, 20);
    assert!(shown.contains(" more (Down)"), "{shown}");
    let end = View {
        skipped: 39,
        ..view()
    };
    let shown = picture(&model, &end, 80, 20);
    assert!(
        shown.contains("\n39 ") && !shown.contains("more"),
        "{shown}"
    );
}

#[test]
fn no_size_is_too_small() {
    let mut model = busy(12);
    model.comparison = Some(comparison(Ending::Running));
    for help in [false, true] {
        let view = View { help, ..view() };
        for width in 0..70 {
            for height in 0..30 {
                picture(&model, &view, width, height);
                picture(&Model::default(), &view, width, height);
            }
        }
    }
}

#[test]
fn without_colours_there_are_none() {
    let coloured = |colour| {
        let view = View { colour, ..view() };
        let mut terminal = Terminal::new(TestBackend::new(100, 30)).expect("in memory");
        let model = busy(3);
        terminal
            .draw(|frame| draw(frame, &model, &view))
            .expect("in memory");
        let cells = terminal.backend().buffer().content.iter();
        cells
            .filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
            .count()
    };
    assert_eq!(coloured(false), 0);
    assert!(coloured(true) > 0);
}

#[test]
fn any_master_can_be_shown() {
    // All that may be missing is, and names are longer than one would think.
    let mut model = Model::default();
    let mut strange: LiveReport = report(0.0, 0, 0);
    strange.status.operation = Some("µ".repeat(300));
    strange.arms.clear();
    strange.imbalance = 0.0;
    model.hear((strange, None));
    let shown = picture(&model, &view(), 60, 20);
    assert!(
        shown.contains("0/0 ready") && shown.contains("µ…"),
        "{shown}"
    );
}

fn comparison(ending: Ending) -> compare::Report {
    let contrast = |ratio: f64, verdict| {
        Some(Contrast {
            ratio,
            low: ratio - 0.02,
            high: ratio + 0.03,
            rounds: 6,
            verdict,
        })
    };
    let summary = |name: &str, twin_of, cpu, latency_p99| ArmSummary {
        name: name.into(),
        twin_of,
        requests: 60_000,
        errors: 0,
        requests_per_second: Some(1234.5),
        cpu_us_per_request: Some(61.0),
        p50: Some(2e-4),
        p90: Some(3e-4),
        p99: Some(5e-3),
        p999: Some(7e-3),
        busiest_over_mean: Some(1.1),
        open_deviation: Some(2.0),
        handoff_p50: None,
        handoff_p99: None,
        run_queue_us_per_request: None,
        wakeups_per_request: None,
        preempted_per_request: None,
        own_share: Some(1.0),
        throughput: None,
        cpu,
        latency_p50: None,
        latency_p99,
        words: String::new(),
    };
    let arm = |name: &str, twin_of| Arm {
        name: name.into(),
        twin_of,
        configuration: None,
    };
    compare::Report {
        comparison: Comparison {
            source: Source::Live,
            scenario: "live".into(),
            load: "live traffic".into(),
            circumstances: Circumstances::default(),
            arms: vec![
                arm("handoff/least-loaded", None),
                arm("handoff/least-loaded, again", Some(0)),
                arm("shared", None),
            ],
            blocks: Vec::new(),
            rounds: 12,
            ending,
        },
        summary: Summary {
            arms: vec![
                summary("handoff/least-loaded", None, None, None),
                summary(
                    "handoff/least-loaded, again",
                    Some(0),
                    contrast(1.01, Verdict::NoDifference),
                    contrast(0.99, Verdict::TooLittle),
                ),
                summary(
                    "shared",
                    None,
                    contrast(0.87, Verdict::Better),
                    contrast(1.2, Verdict::Worse),
                ),
            ],
            floor: None,
            recommendation: Recommendation {
                arm: Some(2),
                text: "Take shared: 13 % less CPU for a request. All else is too close to call, and this is so long that it \
                       takes more than one line."
                    .into(),
                configuration: None,
            },
        },
    }
}
