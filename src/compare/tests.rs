//! Judgements of made-up comparisons.

use std::time::Duration;

use super::*;
use crate::random::Random;

/// One with these arms and no blocks yet.
pub(super) fn comparison(arms: &[&str]) -> Comparison {
    Comparison {
        source: Source::Bench,
        scenario: "keepalive".to_owned(),
        load: "small answers".to_owned(),
        circumstances: Circumstances::default(),
        arms: arms
            .iter()
            .map(|name| Arm {
                name: (*name).to_owned(),
                twin_of: None,
                configuration: Some(format!("mode = \"{name}\"\n")),
            })
            .collect(),
        blocks: Vec::new(),
        rounds: 12,
        ending: Ending::Complete,
    }
}

/// One second in which 1,000 requests took 40 ms of CPU time and 1 ms each.
pub(super) fn block(arm: usize, round: u32) -> Block {
    let mut latency = Snapshot::default();
    (0..1000).for_each(|_| latency.record(Duration::from_millis(1)));
    Block {
        arm,
        round,
        position: arm as u32 + 1,
        drive: Drive::Closed,
        began: f64::from(round),
        seconds: 1.0,
        requests: 1000,
        errors: 0,
        connections: 10,
        used: Usage {
            cpu_ns: 40_000_000,
            ..Usage::default()
        },
        lost_threads: 0,
        latency,
        handoff: Snapshot::default(),
        open: Vec::new(),
        own_share: 1.0,
    }
}

/// Twelve rounds in which each arm does so many times as well as the first: requests a second, CPU time for a
/// request, latency. Blocks differ by a few parts in a hundred, one way and the other.
fn measured(arms: &[(&str, f64, f64, f64)]) -> Comparison {
    let names: Vec<&str> = arms.iter().map(|arm| arm.0).collect();
    let mut comparison = comparison(&names);
    let mut random = Random::new(5);
    for round in 1..=12 {
        for (place, arm) in order(round, arms.len()).into_iter().enumerate() {
            let (_, throughput, cpu, latency) = arms[arm];
            let mut noise = || 1.0 + 0.02 * random.unit();
            let latency = latency * noise();
            let requests = (2000.0 * throughput * noise()) as u64;
            let mut snapshot = Snapshot::default();
            for i in 0..requests {
                let share = i as f64 / requests as f64;
                snapshot.record(Duration::from_secs_f64(
                    0.001 * latency / (1.0 - share).powf(0.3),
                ));
            }
            comparison.blocks.push(Block {
                position: place as u32 + 1,
                requests,
                used: Usage {
                    cpu_ns: (40_000.0 * cpu * noise() * requests as f64) as u64,
                    ..Usage::default()
                },
                latency: snapshot,
                ..block(arm, round)
            });
        }
    }
    comparison
}

fn with_twin(mut comparison: Comparison) -> Comparison {
    comparison.arms[1].twin_of = Some(0);
    comparison
}

/// A base, its twin, and an arm that takes less CPU time.
pub(super) fn made_up() -> Comparison {
    with_twin(measured(&[BASE, TWIN, ("thrifty", 1.0, 0.9, 1.0)]))
}

const BASE: (&str, f64, f64, f64) = ("base", 1.0, 1.0, 1.0);
const TWIN: (&str, f64, f64, f64) = ("base again", 1.0, 1.0, 1.0);

fn advice(comparison: &Comparison) -> Recommendation {
    comparison.summarise().recommendation
}

#[test]
fn an_arm_that_takes_less_cpu_is_chosen_and_its_configuration_shown() {
    let comparison = with_twin(measured(&[
        BASE,
        TWIN,
        ("thrifty", 1.0, 0.9, 1.0),
        ("slow", 0.9, 1.0, 1.0),
    ]));
    let Summary {
        arms,
        floor,
        recommendation,
    } = comparison.summarise();
    let cpu = arms[2].cpu.expect("it ran in every round");
    assert_eq!((cpu.verdict, cpu.rounds), (Verdict::Better, 12));
    assert!(
        cpu.low <= 0.9 && cpu.high >= 0.9 && cpu.high < 0.95,
        "{cpu:?}"
    );
    assert_eq!(
        arms[2].throughput.expect("likewise").verdict,
        Verdict::NoDifference
    );
    assert_eq!(
        arms[3].throughput.expect("likewise").verdict,
        Verdict::Worse
    );
    assert_eq!(
        arms[1].cpu.expect("likewise").verdict,
        Verdict::NoDifference
    );
    assert!(arms[0].cpu.is_none());
    assert!(
        floor
            .and_then(|f| f.cpu)
            .is_some_and(|cpu| 0.0 < cpu && cpu < 0.03),
        "{floor:?}"
    );
    assert_eq!(recommendation.arm, Some(2));
    assert_eq!(
        recommendation.configuration.as_deref(),
        Some("mode = \"thrifty\"\n")
    );
    let text = &recommendation.text;
    assert!(text.starts_with("Choose thrifty: 1"), "{text}");
    assert!(
        text.contains("less CPU for each request") && text.contains("p99 latency no different"),
        "{text}"
    );
    assert!(
        arms[3].words.contains("worse than base: 1") && arms[3].words.contains("fewer requests"),
        "{}",
        arms[3].words
    );
}

#[test]
fn what_is_better_and_worse_at_once_is_a_trade_and_not_chosen() {
    let comparison = with_twin(measured(&[BASE, TWIN, ("thrifty", 1.0, 0.9, 1.5)]));
    let advice = advice(&comparison);
    assert_eq!(advice.arm, Some(0));
    assert!(
        advice.text.contains("thrifty would give 1") && advice.text.contains("higher p99 latency"),
        "{}",
        advice.text
    );
}

#[test]
fn where_nothing_saves_cpu_a_lower_p99_decides_and_where_nothing_differs_the_base_stays() {
    let quick = advice(&with_twin(measured(&[
        BASE,
        TWIN,
        ("quick", 1.0, 1.0, 0.6),
    ])));
    assert_eq!(quick.arm, Some(2));
    assert!(quick.text.contains("lower p99 latency"), "{}", quick.text);
    let same = advice(&with_twin(measured(&[BASE, TWIN, ("same", 1.0, 1.0, 1.0)])));
    assert_eq!(same.arm, Some(0));
    assert!(
        same.text
            .starts_with("Stay with base: nothing here is better by more than the noise"),
        "{}",
        same.text
    );
    assert!(
        same.text
            .contains("two equal arms differ by up to: throughput"),
        "{}",
        same.text
    );
}

#[test]
fn arms_that_are_better_alike_are_named_together() {
    let arms = [
        BASE,
        TWIN,
        ("one", 1.0, 0.9, 1.0),
        ("other", 1.0, 0.9, 1.0),
        ("half", 1.0, 0.95, 1.0),
    ];
    let advice = advice(&with_twin(measured(&arms)));
    assert!(matches!(advice.arm, Some(2 | 3)), "{advice:?}");
    assert!(
        advice
            .text
            .contains("No difference can be told between it and o"),
        "{}",
        advice.text
    );
    assert!(
        advice
            .text
            .contains("half is better than base too, but by less."),
        "{}",
        advice.text
    );
}

#[test]
fn an_arm_whose_requests_fail_is_out_and_a_base_that_fails_is_left() {
    let mut comparison = with_twin(measured(&[BASE, TWIN, ("thrifty", 1.0, 0.8, 1.0)]));
    let fail = |comparison: &mut Comparison, arm| {
        let blocks = comparison
            .blocks
            .iter_mut()
            .filter(|block| block.arm == arm);
        blocks.for_each(|block| block.errors = 50);
    };
    fail(&mut comparison, 2);
    let staying = advice(&comparison);
    assert_eq!(staying.arm, Some(0));
    assert!(
        staying
            .text
            .contains("Out, because requests failed: thrifty (2.4 %)."),
        "{}",
        staying.text
    );
    let mut comparison = with_twin(measured(&[BASE, TWIN, ("dear", 1.0, 1.2, 1.0)]));
    fail(&mut comparison, 0);
    fail(&mut comparison, 1);
    let leaving = advice(&comparison);
    assert_eq!(leaving.arm, Some(2));
    assert!(
        leaving
            .text
            .starts_with("Choose dear: 2.4 % of the requests to base failed"),
        "{}",
        leaving.text
    );
}

#[test]
fn where_all_fail_it_is_said_and_a_base_that_answers_nothing_is_left() {
    let mut comparison = with_twin(measured(&[BASE, TWIN, ("other", 1.0, 1.0, 1.0)]));
    for block in &mut comparison.blocks {
        block.errors = block.requests / 9;
    }
    let all = advice(&comparison);
    assert!(
        all.text
            .contains("With every arm requests failed, at least 10 % of them"),
        "{}",
        all.text
    );
    let nothing = |arm: usize, comparison: &mut Comparison| {
        for block in comparison.blocks.iter_mut().filter(|b| b.arm == arm) {
            (block.errors, block.requests) = (1000, 0);
        }
    };
    let mut comparison = with_twin(measured(&[BASE, TWIN, ("other", 1.0, 1.0, 1.0)]));
    nothing(0, &mut comparison);
    nothing(1, &mut comparison);
    let leaving = advice(&comparison);
    assert_eq!(leaving.arm, Some(2), "{}", leaving.text);
    assert!(
        leaving
            .text
            .starts_with("Choose other: 100 % of the requests to base failed"),
        "{}",
        leaving.text
    );
    nothing(2, &mut comparison);
    let none = advice(&comparison);
    assert_eq!(none.arm, None, "{}", none.text);
    assert!(
        none.text.contains("at least 100 % of them"),
        "{}",
        none.text
    );
}

#[test]
fn equal_arms_that_differ_are_told() {
    let told = "two equal arms differ by more than chance explains, ";
    let usual = advice(&made_up());
    assert!(!usual.text.contains(told), "{}", usual.text);
    let odd = ("base again", 1.0, 0.8, 1.0);
    let comparison = with_twin(measured(&[BASE, odd, ("other", 1.0, 0.9, 1.0)]));
    let advice = advice(&comparison);
    assert_eq!(advice.arm, Some(0), "{}", advice.text);
    let (_, what) = advice.text.split_once(told).expect("it is told");
    assert!(what.contains("less CPU for each request"), "{what}");
}

#[test]
fn half_is_as_far_from_equal_as_twice() {
    // The same data, seen from either side: what is noise one way is noise the other way.
    for (lean, cpu, wanted) in [
        (0.66, 1.45, Verdict::NoDifference),
        (1.0 / 0.66, 1.45, Verdict::NoDifference),
        (0.66, 1.6, Verdict::Worse),
        (1.0 / 0.66, 1.6, Verdict::Worse),
        (0.66, 1.0 / 1.6, Verdict::Better),
        (1.0 / 0.66, 1.0 / 1.6, Verdict::Better),
    ] {
        let twin = ("base again", 1.0, lean, 1.0);
        let comparison = with_twin(measured(&[BASE, twin, ("other", 1.0, cpu, 1.0)]));
        let found = comparison.summarise().arms[2].cpu.expect("twelve rounds");
        assert_eq!(found.verdict, wanted, "{lean} {cpu}: {found:?}");
    }
}

#[test]
fn too_few_rounds_say_nothing_and_missing_blocks_are_left_out() {
    let mut comparison = with_twin(measured(&[BASE, TWIN, ("thrifty", 1.0, 0.9, 1.0)]));
    comparison.blocks.retain(|block| block.round <= 4);
    let summary = comparison.summarise();
    assert_eq!(
        summary.arms[2].cpu.expect("four rounds").verdict,
        Verdict::TooLittle
    );
    assert_eq!(summary.recommendation.arm, None);
    assert_eq!(summary.floor.expect("there is a twin").cpu, None);

    let mut comparison = with_twin(measured(&[BASE, TWIN, ("thrifty", 1.0, 0.9, 1.0)]));
    comparison
        .blocks
        .retain(|block| !(block.arm == 0 && block.round % 3 == 0));
    let cpu = comparison.summarise().arms[2].cpu.expect("eight rounds");
    assert_eq!((cpu.rounds, cpu.verdict), (8, Verdict::Better));
}

#[test]
fn nothing_equal_or_broken_claims_a_difference_or_panics() {
    for comparison in [
        comparison(&[]),
        comparison(&["alone"]),
        comparison(&["a", "b"]),
    ] {
        assert_eq!(advice(&comparison).arm, None);
    }
    // All ratios are the same, and not 1.
    let mut equal = comparison(&["a", "b"]);
    for round in 1..=12 {
        equal.blocks.push(block(0, round));
        equal.blocks.push(Block {
            requests: 2000,
            ..block(1, round)
        });
    }
    let summary = equal.summarise();
    assert_eq!(
        summary.arms[1].throughput.map(|c| c.verdict),
        Some(Verdict::NoDifference)
    );
    assert_eq!(summary.recommendation.arm, Some(0));
    // No requests, no time, no numbers; an arm and a twin that are not there.
    let mut broken = comparison(&["a", "b", "c"]);
    broken.arms[2].twin_of = Some(9);
    for round in 1..=12 {
        broken.blocks.push(Block {
            requests: 0,
            ..block(0, round)
        });
        broken.blocks.push(Block {
            seconds: 0.0,
            ..block(1, round)
        });
        broken.blocks.push(Block {
            seconds: f64::NAN,
            own_share: f64::NAN,
            ..block(2, round)
        });
        broken.blocks.push(block(7, round));
        broken.blocks.push(Block {
            open: vec![Open {
                at: 0.0,
                by_worker: vec![],
            }],
            ..block(1, round)
        });
    }
    let report = broken.report();
    assert!(
        report
            .summary
            .arms
            .iter()
            .all(|arm| arm.throughput.is_none())
    );
    assert_ne!(report.summary.recommendation.arm, Some(1));
}

#[test]
fn latency_is_that_of_planned_arrivals_where_there_are_any() {
    let mut comparison = measured(&[BASE, ("quick", 1.0, 1.0, 1.0)]);
    let open = comparison.blocks.clone().into_iter().map(|mut block| {
        block.drive = Drive::Open { rate: 500.0 };
        if block.arm == 1 {
            block.latency = Snapshot::default();
            let us = 400 + u64::from(block.round);
            (0..500).for_each(|_| block.latency.record(Duration::from_micros(us)));
        }
        block
    });
    let open: Vec<Block> = open.collect();
    comparison.blocks.extend(open);
    let summary = comparison.summarise();
    assert!(
        summary.arms[1].p50.is_some_and(|p50| p50 < 0.0005),
        "{:?}",
        summary.arms[1].p50
    );
    assert_eq!(
        summary.arms[1].latency_p50.map(|c| c.verdict),
        Some(Verdict::Better)
    );
    let p99 = |arm| comparison.pooled_latency(arm).interpolated(0.99);
    assert_eq!(p99(1), summary.arms[1].p99);
    // What could be, not what was planned.
    assert_eq!(summary.arms[1].throughput.map(|c| c.rounds), Some(12));
    assert_eq!(p99(5), None);
}

#[test]
fn an_arm_that_does_not_keep_up_with_planned_arrivals_is_told() {
    let mut comparison = measured(&[BASE, ("full", 1.0, 1.0, 1.0)]);
    for block in &mut comparison.blocks {
        block.drive = Drive::Open { rate: 2000.0 };
        if block.arm == 1 {
            block.requests = block.latency.count() * 6 / 10;
        }
    }
    let arms = comparison.summarise().arms;
    let told = |arm: usize| arms[arm].words.contains("kept up with 60 % of the planned");
    assert!(!told(0) && told(1), "{} {}", arms[0].words, arms[1].words);
}

#[test]
fn on_live_traffic_it_is_said_whose_connections_they_were_and_demand_is_no_gain() {
    let mut comparison = with_twin(measured(&[BASE, TWIN, ("more", 1.3, 1.0, 1.0)]));
    comparison.source = Source::Live;
    for block in &mut comparison.blocks {
        block.drive = Drive::Live;
        block.own_share = 0.25;
    }
    let summary = comparison.summarise();
    let words = "most of its requests (75 %) came over connections that other arms had dispatched";
    assert!(
        summary.arms[2].words.contains(words),
        "{}",
        summary.arms[2].words
    );
    assert_eq!(summary.recommendation.arm, Some(0));
    assert!(
        summary
            .recommendation
            .text
            .contains("Up to 75 % of an arm's requests")
    );
    comparison.ending = Ending::Guarded {
        why: "errors rose to 3 %".to_owned(),
    };
    for (arm, recommended, text) in [
        (2, Some(0), "clients fared worse: errors rose to 3 %"),
        (0, None, "fared worse with base itself"),
        (1, None, "fared worse with base itself"),
    ] {
        comparison.blocks.last_mut().expect("some").arm = arm;
        let guarded = advice(&comparison);
        assert_eq!(guarded.arm, recommended, "{arm}");
        assert_eq!(guarded.configuration.is_some(), recommended.is_some());
        assert!(guarded.text.contains(text), "{}", guarded.text);
    }
}

#[test]
fn unevenness_is_pointed_out_where_another_arm_is_even() {
    let mut comparison = with_twin(measured(&[BASE, TWIN, ("even", 1.0, 1.0, 1.0)]));
    for block in &mut comparison.blocks {
        let by_worker = if block.arm == 2 {
            vec![10, 11, 10, 9]
        } else {
            vec![30, 5, 5, 0]
        };
        block.open = vec![
            Open {
                at: 0.1,
                by_worker: vec![0, 1, 0, 0],
            },
            Open { at: 0.5, by_worker },
        ];
    }
    comparison.ending = Ending::Interrupted;
    comparison.rounds = 20;
    let summary = comparison.summarise();
    assert_eq!(summary.arms[0].busiest_over_mean, Some(3.0));
    assert!(
        summary.arms[2]
            .open_deviation
            .is_some_and(|d| (d - 0.5_f64.sqrt()).abs() < 1e-9)
    );
    let text = summary.recommendation.text;
    assert!(
        text.contains("held 3.0 times the mean with base, 1.1 times with even"),
        "{text}"
    );
    assert!(
        text.ends_with("It was ended early: 12 of 20 rounds."),
        "{text}"
    );
}

#[test]
fn a_report_comes_back_from_json() {
    let mut comparison = with_twin(measured(&[BASE, TWIN, ("thrifty", 1.0, 0.9, 1.0)]));
    comparison.ending = Ending::Failed {
        why: "it broke".to_owned(),
    };
    let report = comparison.report();
    let json = serde_json::to_string(&report).expect("plain data");
    let back = serde_json::from_str::<Report>(&json).expect("ours");
    // All but the last digit of some numbers, so: what it says in turn.
    assert_eq!(back.comparison, report.comparison);
    assert_eq!(back.summary.recommendation, report.summary.recommendation);
    assert_eq!(back.clone().comparison.summarise(), report.summary);
}
