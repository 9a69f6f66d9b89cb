//! What a comparison says, held against data of which the truth is known. All chance comes from fixed seeds, so
//! each of these tests passes always or never.

use pointsman::{
    compare::{
        Arm, ArmSummary, Block, Circumstances, Comparison, Drive, Ending, Source, Summary, Verdict,
        order,
        statistics::{Basis, estimate},
    },
    processes::Usage,
    random::Random,
    scoreboard::histogram::Snapshot,
};

/// Intervals are tried this often.
const TRIALS: u64 = 1000;
/// Between these the share of intervals that hold the truth must lie.
const HONEST: std::ops::RangeInclusive<f64> = 0.93..=0.97;

/// By Box and Muller.
fn normal(random: &mut Random) -> f64 {
    (-2.0 * random.unit().ln()).sqrt() * (std::f64::consts::TAU * random.unit()).cos()
}

fn exponential(random: &mut Random) -> f64 {
    -random.unit().ln()
}

/// How often the interval around `rounds` numbers holds `truth`.
fn coverage(rounds: usize, truth: f64, draw: impl Fn(&mut Random) -> f64) -> f64 {
    let mut random = Random::new(2026);
    let holds = (0..TRIALS).filter(|trial| {
        let numbers: Vec<f64> = (0..rounds).map(|_| draw(&mut random)).collect();
        let found = estimate(&numbers, *trial).expect("there are numbers");
        assert!(matches!(found.basis, Basis::Sound { .. }), "{found:?}");
        (found.low..=found.high).contains(&truth)
    });
    holds.count() as f64 / TRIALS as f64
}

fn honest(what: &str, sizes: &[usize], truth: f64, draw: impl Fn(&mut Random) -> f64) {
    for rounds in sizes {
        let share = coverage(*rounds, truth, &draw);
        println!("{what}, {rounds} rounds: {:.1} %", share * 100.0);
        assert!(HONEST.contains(&share), "{what}, {rounds} rounds: {share}");
    }
}

#[test]
fn the_interval_holds_the_truth_of_well_behaved_numbers() {
    honest("normal", &[8, 12, 20, 30], 0.05, |r| {
        0.05 + 0.02 * normal(r)
    });
}

#[test]
fn the_interval_holds_the_truth_of_skewed_numbers() {
    for rounds in [8, 12, 30] {
        // What is estimated is the mean of what lies between two quantiles: this share is cut off at either end.
        let cut = f64::from(rounds * 15 / 100) / f64::from(rounds);
        let middle = |quantile: &dyn Fn(f64) -> f64| {
            let steps = 2_000;
            let share = |step| cut + (1.0 - 2.0 * cut) * (f64::from(step) + 0.5) / f64::from(steps);
            (0..steps).map(|step| quantile(share(step))).sum::<f64>() / f64::from(steps)
        };
        let truth = middle(&|share| -(1.0 - share).ln());
        honest("exponential", &[rounds as usize], truth, exponential);
        let truth = middle(&|share| (0.5 * normal_quantile(share)).exp());
        honest("log-normal", &[rounds as usize], truth, |r| {
            (0.5 * normal(r)).exp()
        });
    }
}

/// By bisection of the distribution's integral, which is summed from the middle.
fn normal_quantile(share: f64) -> f64 {
    let below = |z: f64| {
        let steps = 200;
        let width = z / f64::from(steps);
        let density = |step| {
            let at: f64 = (f64::from(step) + 0.5) * width;
            (-at * at / 2.0).exp() / std::f64::consts::TAU.sqrt()
        };
        0.5 + (0..steps).map(density).sum::<f64>() * width
    };
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..30 {
        let middle = (low + high) / 2.0;
        match below(middle) < share {
            true => low = middle,
            false => high = middle,
        }
    }
    low
}

#[test]
fn the_interval_holds_the_truth_where_one_round_in_twenty_goes_wrong() {
    honest("outliers", &[8, 12, 30], -0.03, |r| {
        let wrong = if r.unit() < 0.05 { 10.0 } else { 1.0 };
        -0.03 + 0.02 * wrong * normal(r)
    });
}

#[test]
fn the_interval_holds_the_truth_where_both_arms_are_held_up_at_random() {
    honest("held up", &[8, 12, 30], 0.0, |r| {
        0.1 * (exponential(r) - exponential(r))
    });
}

#[test]
fn with_five_to_seven_rounds_the_interval_is_nearly_as_honest() {
    for rounds in 5..8 {
        let share = coverage(rounds, 0.0, normal);
        println!("normal, {rounds} rounds: {:.1} %", share * 100.0);
        assert!((0.92..=0.97).contains(&share), "{rounds} rounds: {share}");
    }
}

/// A machine that gets slower or faster all the time, and arms that are so many times as fast as they might be.
struct Machine {
    random: Random,
    noise: f64,
    log_speed: f64,
}

impl Machine {
    fn new(seed: u64, noise: f64) -> Self {
        Self {
            random: Random::new(seed),
            noise,
            log_speed: 0.0,
        }
    }

    /// A comparison of arms, of which the second is the first once more.
    fn compare(&mut self, rounds: u32, speeds: &[f64]) -> Comparison {
        let mut comparison = Comparison {
            source: Source::Bench,
            scenario: "keepalive".to_owned(),
            load: "made up".to_owned(),
            circumstances: Circumstances {
                seed: 7,
                ..Circumstances::default()
            },
            arms: (0..speeds.len())
                .map(|arm| Arm {
                    name: format!("arm {arm}"),
                    twin_of: (arm == 1).then_some(0),
                    configuration: None,
                })
                .collect(),
            blocks: Vec::new(),
            rounds,
            ending: Ending::Complete,
        };
        for round in 1..=rounds {
            for (place, arm) in order(round, speeds.len()).into_iter().enumerate() {
                let block = self.block(arm, round, place as u32 + 1, speeds[arm]);
                comparison.blocks.push(block);
            }
        }
        comparison
    }

    fn block(&mut self, arm: usize, round: u32, position: u32, speed: f64) -> Block {
        // By 1 % or so from block to block, and down all in all: more than what is looked for.
        self.log_speed += 0.01 * normal(&mut self.random) - 0.003;
        let mut noisy = || (self.log_speed + self.noise * normal(&mut self.random)).exp();
        let requests = (50_000.0 * speed * noisy()) as u64;
        let cpu_us_per_request = 40.0 / speed / noisy();
        Block {
            arm,
            round,
            position,
            drive: Drive::Closed,
            began: 0.0,
            seconds: 1.0,
            requests,
            errors: 0,
            connections: 64,
            used: Usage {
                cpu_ns: (cpu_us_per_request * 1000.0 * requests as f64) as u64,
                ..Usage::default()
            },
            lost_threads: 0,
            latency: Snapshot::default(),
            handoff: Snapshot::default(),
            open: Vec::new(),
            own_share: 1.0,
        }
    }
}

fn throughput(arm: &ArmSummary) -> Verdict {
    arm.throughput.expect("it ran in every round").verdict
}

/// In how many of `trials` comparisons of twelve rounds `what` holds.
fn share(trials: u64, noise: f64, speeds: &[f64], what: impl Fn(&Summary) -> bool) -> f64 {
    let holds = (0..trials).filter(|seed| {
        let comparison = Machine::new(*seed, noise).compare(12, speeds);
        what(&comparison.summarise())
    });
    holds.count() as f64 / trials as f64
}

#[test]
fn the_interval_holds_the_truth_on_a_machine_that_drifts() {
    let truth: f64 = 1.05;
    let share = share(TRIALS, 0.02, &[1.0, 1.0, truth], |summary| {
        let found = summary.arms[2].throughput.expect("it ran in every round");
        (found.low..=found.high).contains(&truth)
    });
    println!("drift, 12 rounds: {:.1} %", share * 100.0);
    assert!(HONEST.contains(&share), "{share}");
}

#[test]
fn a_planted_difference_is_found() {
    // Of a ratio of two blocks the noise is 2 %, and the machine's drift comes on top.
    let block = 0.02 / std::f64::consts::SQRT_2;
    let found = share(200, block, &[1.0, 1.0, 0.95], |summary| {
        throughput(&summary.arms[2]) == Verdict::Worse
    });
    println!(
        "5 % slower, ratios 2 % off: found in {:.1} %",
        found * 100.0
    );
    assert!(found >= 0.95, "{found}");
    // With 2 % for each block, and no floor to get over.
    let found = (0..200).filter(|seed| {
        let mut comparison = Machine::new(*seed, 0.02).compare(12, &[1.0, 0.95]);
        comparison.arms[1].twin_of = None;
        throughput(&comparison.summarise().arms[1]) == Verdict::Worse
    });
    let found = found.count() as f64 / 200.0;
    println!(
        "5 % slower, blocks 2 % off, no twin: found in {:.1} %",
        found * 100.0
    );
    assert!(found >= 0.95, "{found}");
}

#[test]
fn equal_arms_are_rarely_called_different() {
    let different = |summary: &Summary| throughput(&summary.arms[1]) != Verdict::NoDifference;
    // The twin is never: what it shows is the noise.
    assert_eq!(share(100, 0.02, &[1.0, 1.0], different), 0.0);
    let third = share(400, 0.02, &[1.0, 1.0, 1.0], |summary| {
        throughput(&summary.arms[2]) != Verdict::NoDifference
    });
    println!(
        "equal arms, with a floor: different in {:.1} %",
        third * 100.0
    );
    assert!(third <= 0.05, "{third}");
    let floorless = (0..400).filter(|seed| {
        let mut comparison = Machine::new(*seed, 0.02).compare(12, &[1.0, 1.0]);
        comparison.arms[1].twin_of = None;
        different(&comparison.summarise())
    });
    let floorless = floorless.count() as f64 / 400.0;
    println!(
        "equal arms, without a floor: different in {:.1} %",
        floorless * 100.0
    );
    assert!((0.02..=0.075).contains(&floorless), "{floorless}");
}

#[test]
fn the_best_of_many_equal_arms_is_not_recommended() {
    let speeds = [1.0; 10];
    let fooled = (0..100).filter(|seed| {
        let mut comparison = Machine::new(1000 + seed, 0.02).compare(12, &speeds);
        // Without a floor the correction for many comparisons is all there is.
        comparison.arms[1].twin_of = None;
        comparison.summarise().recommendation.arm != Some(0)
    });
    let fooled = fooled.count();
    println!("nine equal arms: one of them recommended in {fooled} of 100");
    assert!(fooled <= 8, "{fooled}");
}

#[test]
fn a_better_arm_among_many_is_recommended() {
    let speeds = [1.0, 1.0, 1.0, 1.1, 1.0, 0.95, 1.0, 1.0, 1.0];
    let right = share(100, 0.02, &speeds, |summary| {
        summary.recommendation.arm == Some(3)
    });
    println!(
        "10 % better, one of eight: recommended in {:.0} %",
        right * 100.0
    );
    assert!(right >= 0.95, "{right}");
}
