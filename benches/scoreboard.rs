//! What publishing and reading cost on the table in shared memory.

use std::{
    hint::black_box,
    sync::atomic::{
        AtomicBool,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pointsman::{
    Arm,
    scoreboard::{
        Row, RowRef, Scoreboard, State,
        claim::{claim, claimed},
        count::{add, subtract},
        histogram::{Histogram, Snapshot},
    },
};

fn row() -> RowRef {
    let board = Scoreboard::create().expect("shared memory");
    board.occupy(0, 1).expect("a fresh table has free rows")
}

/// The stores that a worker makes for one request on a kept connection, as in `worker/account.rs`;
/// without reading the clock, which is not the table's.
fn count_request(row: &Row, now: u64, took: u64) {
    let traffic = row.traffic(0, Arm::ALL[0]);
    add(&traffic.received, 100);
    row.work.loop_entered.store(now, Relaxed);
    add(&row.work.in_flight, 1);
    add(&traffic.sent, 300);
    add(&traffic.requests[1], 1);
    traffic.request_duration.record(took);
    subtract(&row.work.in_flight, 1);
}

/// Durations that wander over the buckets, as real ones do.
fn next_duration(previous: u64) -> u64 {
    (previous.wrapping_mul(5) + 1) % 1_048_573
}

fn counting(c: &mut Criterion) {
    let row = row();
    let (mut counted, mut took) = (0_u64, 1);
    c.bench_function("scoreboard/count_request", |b| {
        b.iter(|| {
            counted += 1;
            took = next_duration(took);
            count_request(black_box(&row), counted, took);
        });
    });
    let traffic = row.traffic(0, Arm::ALL[0]);
    let mut durations = Snapshot::default();
    durations.add(&traffic.request_duration);
    assert_eq!(traffic.requests[1].load(Relaxed), counted);
    assert_eq!(
        (durations.count(), row.work.in_flight.load(Relaxed)),
        (counted, 0)
    );
}

fn snapshot_of(histogram: &Histogram) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.add(histogram);
    snapshot
}

fn snapshots(c: &mut Criterion) {
    let mut group = c.benchmark_group("scoreboard/snapshot");
    for writers in [0, 1] {
        let row = row();
        let histogram = &row.handoff_duration;
        (0..1_000).for_each(|ns| histogram.record(ns * 1_000));
        let stop = AtomicBool::new(false);
        let written = thread::scope(|scope| {
            let writer = (writers > 0).then(|| {
                scope.spawn(|| {
                    let (mut took, mut written) = (1, 0);
                    while !stop.load(Relaxed) {
                        took = next_duration(took);
                        histogram.record(took);
                        written += 1;
                    }
                    written
                })
            });
            group.bench_function(BenchmarkId::new("writers", writers), |b| {
                b.iter(|| snapshot_of(black_box(histogram)));
            });
            stop.store(true, SeqCst);
            writer.map_or(0, |writer| {
                writer.join().expect("the writer does not panic")
            })
        });
        assert_eq!(
            snapshot_of(histogram).count(),
            1_000 + written,
            "a count was lost"
        );
    }
    group.finish();
}

fn mean_load(c: &mut Criterion) {
    let mut group = c.benchmark_group("scoreboard/mean_load");
    for rows in [2, 4, 8, 16, 32, 64] {
        let board = Scoreboard::create().expect("shared memory");
        for seat in 0..rows {
            let row = board.occupy(seat, 1).expect("room for 64");
            row.set_state(State::Ready);
            add(&row.work.self_accepted, 10 + u64::from(seat));
        }
        // The mean of 10, 11, …, rounded up.
        assert_eq!(board.mean_load(), 10 + u32::from(rows) / 2);
        group.bench_function(BenchmarkId::new("rows", rows), |b| {
            b.iter(|| black_box(&board).mean_load());
        });
    }
    group.finish();
}

fn claiming(c: &mut Criterion) {
    let mut group = c.benchmark_group("scoreboard/claim");
    for size in [1, 64] {
        let row = row();
        let mut next = 1_u32;
        group.throughput(Throughput::Elements(u64::from(size)));
        group.bench_function(BenchmarkId::new("uncontended_batch_of", size), |b| {
            b.iter(|| {
                let refused = claim(black_box(&row.claim.word), next, size);
                assert_eq!(refused, 0, "nothing is ever revoked here");
                next = next.wrapping_add(size);
            });
        });
        assert_eq!(claimed(&row.claim.word), next.wrapping_sub(1));
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
        .measurement_time(Duration::from_secs(1));
    targets = counting, snapshots, mean_load, claiming
}
criterion_main!(benches);
