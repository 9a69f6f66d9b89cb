//! What one pick costs, by policy and number of workers; and what it costs to keep shadows and to
//! remember the decision.

use std::{
    collections::VecDeque,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pointsman::{
    Arm, LoadSignal, Mode, Policy, Prefixes,
    dispatch::{
        decision::{Decision, Decisions},
        policy::{Candidate, Picker},
        shadow::{Picks, Shadow, Shadows},
    },
    scoreboard::{Row, RowRef, Scoreboard, shadow::ShadowLoads},
};

/// Connections come, as the policy picks, and go, in turn, so that loads differ and keep moving.
struct Site {
    picker: Picker,
    candidates: Vec<Candidate>,
    came: u32,
}

impl Site {
    fn new(policy: Policy, workers: u16) -> Self {
        let candidate = |seat| Candidate {
            seat,
            ready: true,
            load: 1_000,
        };
        Self {
            picker: Picker::new(policy, Prefixes::default()),
            candidates: (0..workers).map(candidate).collect(),
            came: 0,
        }
    }

    fn arrival(&mut self) -> usize {
        self.came = self.came.wrapping_add(1);
        let peer = IpAddr::V4(Ipv4Addr::from(self.came));
        let picked = self.picker.pick(black_box(peer), &self.candidates);
        let picked = picked.expect("all are ready");
        self.candidates[picked].load += 1;
        let leaving = self.came as usize % self.candidates.len();
        let load = &mut self.candidates[leaving].load;
        *load = load.saturating_sub(1);
        picked
    }
}

fn policy(c: &mut Criterion) {
    for policy in Policy::ALL {
        let mut group = c.benchmark_group(format!("pick/{policy}"));
        group.throughput(Throughput::Elements(1));
        for workers in [2, 4, 8, 16, 32, 64] {
            let mut site = Site::new(policy, workers);
            let mut picked: Vec<_> = (0..4_096).map(|_| site.arrival()).collect();
            picked.sort_unstable();
            picked.dedup();
            assert_eq!(
                picked.len(),
                usize::from(workers),
                "{policy} leaves some out"
            );
            group.bench_function(BenchmarkId::new("workers", workers), |b| {
                b.iter(|| site.arrival());
            });
        }
        group.finish();
    }
}

/// A site with shadows: all that is done for them over the life of a connection, by the dispatcher and
/// by the worker. (Here both are one thread: what it costs the caches that they are two is not in it.)
struct Shaded {
    site: Site,
    policy: Policy,
    shadows: Shadows,
    loads: ShadowLoads,
    rows: Vec<RowRef>,
    /// Open connections: the worker, and what the rules picked.
    open: VecDeque<(usize, Picks)>,
}

/// Connections that are open.
const OPEN: usize = 1_000;
/// Connections between two looks at what has closed. The dispatcher looks once a millisecond; this is a
/// site of 4,000 connections a second.
const LOOK: u32 = 4;

impl Shaded {
    fn new(policy: Policy, workers: u16) -> Self {
        let board = Scoreboard::create().expect("a scoreboard");
        let mut shaded = Self {
            site: Site::new(policy, workers),
            policy,
            shadows: Shadows::new(Prefixes::default()),
            loads: ShadowLoads::new(Shadow::LeastLoaded),
            rows: (0..workers)
                .map(|seat| board.occupy(seat, 1).expect("a row"))
                .collect(),
            open: VecDeque::new(),
        };
        shaded
            .shadows
            .set_candidates((0..workers).map(|seat| Some(seat.into())));
        let rows = rows(&shaded.rows);
        shaded.loads.count(rows, &mut shaded.shadows.loads);
        while shaded.open.len() < OPEN {
            let picked = shaded.site.arrival();
            shaded.shade(picked);
        }
        shaded
    }

    fn shade(&mut self, picked: usize) {
        let peer = (Ipv4Addr::from(self.site.came), self.site.came as u16).into();
        let in_force = Some((Shadow::of(self.policy), picked));
        let picks = self
            .shadows
            .pick(black_box(peer), &self.site.candidates, in_force);
        self.rows[picked].shadow.assign(picks);
        self.open.push_back((picked, picks));
    }

    /// One comes, and the oldest goes.
    fn connection(&mut self, picked: usize) {
        self.shade(picked);
        let (worker, picks) = self.open.pop_front().expect("many are open");
        self.rows[worker].shadow.close(picks);
        let looks = self.policy != Policy::LeastLoaded && self.site.came.is_multiple_of(LOOK);
        if looks {
            let rows = rows(&self.rows);
            self.loads.update(rows, &mut self.shadows.loads);
        }
    }
}

fn rows(rows: &[RowRef]) -> impl Iterator<Item = (u16, &Row)> + Clone {
    (0..).zip(rows.iter().map(|row| -> &Row { row }))
}

fn shadow(c: &mut Criterion) {
    for policy in Policy::ALL {
        let mut group = c.benchmark_group(format!("shadow/{policy}"));
        group.throughput(Throughput::Elements(1));
        for workers in [4, 16, 64] {
            let mut shaded = Shaded::new(policy, workers);
            group.bench_function(BenchmarkId::new("workers", workers), |b| {
                let mut next = 0;
                b.iter(|| {
                    // In turn, as cheap as can be: only the shadows are measured.
                    next = (next + 1) % usize::from(workers);
                    shaded.site.came = shaded.site.came.wrapping_add(1);
                    shaded.connection(next);
                });
            });
            let open: u64 = shaded
                .rows
                .iter()
                .flat_map(|row| (0..workers).map(|seat| row.shadow.open(Shadow::KernelHash, seat)))
                .sum();
            assert_eq!(open, OPEN as u64, "nothing is lost or counted twice");
        }
        group.finish();
    }
}

fn remember(c: &mut Criterion) {
    let mut group = c.benchmark_group("remember");
    group.throughput(Throughput::Elements(1));
    for workers in [4, 16, 64] {
        let mut site = Site::new(Policy::LeastLoaded, workers);
        let mut decisions = Decisions::default();
        let arm = Arm::new(Mode::Handoff, None).expect("a valid arm");
        group.bench_function(BenchmarkId::new("workers", workers), |b| {
            b.iter(|| {
                site.came = site.came.wrapping_add(1);
                let decision = Decision {
                    at: site.came.into(),
                    peer: (Ipv4Addr::from(site.came), 1).into(),
                    listener: 0,
                    arm,
                    prefixes: Prefixes::default(),
                    signal: LoadSignal::default(),
                    again: false,
                    turn: site.picker.turn(),
                    chosen: 0,
                    shadows: Picks::NONE,
                    sorter: None,
                };
                decisions.record(black_box(decision), &site.candidates);
            });
        });
        black_box(decisions.last(1));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .without_plots()
        // A tenth of the default: the resampling would take longer than the measuring.
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700));
    targets = policy, shadow, remember
}
criterion_main!(benches);
