//! What one request takes from the client's side, through the real binary: on a kept connection and
//! on a connection of its own, for every arm, and straight to the upstream as control.
//!
//! Latency of a lone client. What a request costs under load is measured by `loadtest`.

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::{net::SocketAddr, time::Duration};

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group,
    criterion_main, measurement::WallTime,
};
use harness::{Answer, Client, Demo, Pointsman, get};
use pointsman::Arm;

const WORKERS: &str = "2";

#[track_caller]
fn check(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert_eq!(answer.body, b"hello from bench\n");
}

fn requests(group: &mut BenchmarkGroup<'_, WallTime>, arm: &str, address: SocketAddr) {
    let mut client = Client::connect(address);
    group.bench_function(BenchmarkId::new("kept_connection", arm), |b| {
        b.iter(|| check(&client.get("/").expect("an answer")));
    });
    drop(client);
    group.bench_function(BenchmarkId::new("own_connection", arm), |b| {
        b.iter(|| check(&get(address, "/")));
    });
}

fn end_to_end(c: &mut Criterion) {
    let demo = Demo::start("bench");
    let mut group = c.benchmark_group(format!("end_to_end/workers={WORKERS}"));
    group.throughput(Throughput::Elements(1));
    // The same number of requests in every sample: they take long enough to be timed in small lots.
    group.sampling_mode(SamplingMode::Flat);
    requests(&mut group, "direct_control", demo.address);
    for arm in Arm::ALL {
        let mut arguments = vec!["--workers", WORKERS, "--mode", arm.mode().name()];
        if let Some(policy) = arm.policy() {
            arguments.extend(["--policy", policy.name()]);
        }
        let pointsman = Pointsman::start(&[&demo.url()], &arguments);
        requests(&mut group, &arm.to_string(), pointsman.address());
        let labels = [
            &*format!("mode=\"{}\"", arm.mode()),
            &*format!("policy=\"{}\"", arm.policy_name()),
        ];
        let served = pointsman.metric("pointsman_requests_total", &labels);
        assert!(served > 0.0, "{arm} was not what served");
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .without_plots()
        // A tenth of the default: the resampling would take longer than the measuring.
        .nresamples(10_000)
        .sample_size(50)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = end_to_end
}
criterion_main!(benches);
