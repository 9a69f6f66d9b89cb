//! What one pick costs, by policy and number of workers.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pointsman::{
    Policy, Prefixes,
    dispatch::policy::{Candidate, Picker},
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

criterion_group! {
    name = benches;
    config = Criterion::default()
        .without_plots()
        // A tenth of the default: the resampling would take longer than the measuring.
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700));
    targets = policy
}
criterion_main!(benches);
