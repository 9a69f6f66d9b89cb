//! What the hub does for a message, by kind, without its lines: no system call is in these figures.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pointsman::{HubWorkbench, bus::To};

/// Frames of a hundred bytes that a publisher's line brings at once.
const EVENTS: usize = 128;

/// Every event goes to three queues.
fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("bus hub/deliver");
    for (name, to) in [
        ("subscribers", To::Subscribers),
        ("siblings", To::Siblings),
        ("everyone", To::Everyone),
    ] {
        let mut bench = HubWorkbench::new(3, EVENTS, 100, &to);
        assert!(
            bench.publish() > 3 * EVENTS * 100,
            "everybody gets everything"
        );
        group.throughput(Throughput::Elements(3 * EVENTS as u64));
        group.bench_function(name, |b| b.iter(|| black_box(bench.publish())));
    }
    group.finish();
}

/// There and back.
fn request(c: &mut Criterion) {
    let mut group = c.benchmark_group("bus hub/request");
    let mut bench = HubWorkbench::new(1, 0, 100, &To::Subscribers);
    assert!(bench.request() > 200, "the reply comes back");
    group.throughput(Throughput::Elements(1));
    group.bench_function("request and reply", |b| {
        b.iter(|| black_box(bench.request()))
    });
    group.finish();
}

/// Somebody subscribes and changes its mind, while thousands of others stay subscribed; and what the next
/// message then costs, as who gets it has to be found again.
fn interest(c: &mut Criterion) {
    let mut group = c.benchmark_group("bus hub/interest");
    for patterns in [10, 10_000] {
        let mut bench = HubWorkbench::new(2, 1, 100, &To::Subscribers);
        for pattern in 0..patterns {
            bench.subscribe(1, &format!("room.{pattern}.*"));
        }
        let mut next = 0;
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("change among {patterns}"), |b| {
            b.iter(|| {
                next += 1;
                let pattern = format!("room.{next}.>");
                bench.subscribe(2, &pattern);
                bench.unsubscribe(2, &pattern);
                black_box(bench.publish())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fan_out, request, interest);
criterion_main!(benches);
