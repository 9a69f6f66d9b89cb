//! What it costs to hand over connections in a batch, by the size of the batch: send, receive,
//! close what was received. Beside it, as control, the same bytes through a pipe.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pointsman::{
    Arm,
    dispatch::wire::{Entry, MAX_BATCH, MAX_BYTES, encode},
    sys::fdpass,
};

/// Accepted connections, and the clients that keep them open.
fn connections(n: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let connect = |_| {
        let client = TcpStream::connect(address).expect("it listens");
        (listener.accept().expect("it has come").0, client)
    };
    (0..n).map(connect).unzip()
}

/// What the master would say about the connections.
fn batch(connections: &[TcpStream]) -> Vec<u8> {
    let entry = |connection: &TcpStream| Entry {
        accepted_at: 1,
        peer: connection.peer_addr().expect("connected"),
        listener: 0,
        arm: Arm::ALL[0],
        shadows: pointsman::dispatch::shadow::Picks::NONE,
    };
    let mut bytes = Vec::new();
    encode(1, connections.iter().map(entry), &mut bytes);
    bytes
}

fn handover(c: &mut Criterion) {
    let (connections, _clients) = connections(MAX_BATCH);
    let (master, worker) = fdpass::pair().expect("a socket pair");
    let (from, to) = nix::unistd::pipe().expect("a pipe");
    let (mut from, mut to) = (File::from(from), File::from(to));
    let mut buffer = [0; MAX_BYTES];
    let mut received: Vec<OwnedFd> = Vec::with_capacity(MAX_BATCH);

    let mut group = c.benchmark_group("handover");
    for size in [1, 2, 4, 8, 16, 32, 64] {
        let connections = &connections[..size];
        let bytes = batch(connections);
        // Per connection: what a larger batch saves is then seen at once.
        group.throughput(Throughput::Elements(size as u64));

        let mut pass = |received: &mut Vec<OwnedFd>| {
            let sockets = connections.iter().map(AsFd::as_fd);
            fdpass::send(master.as_fd(), &bytes, sockets).expect("the line is empty");
            fdpass::receive(worker.as_fd(), &mut buffer, received).expect("it was sent")
        };
        let message = pass(&mut received);
        assert_eq!((message.bytes, message.truncated), (bytes.len(), false));
        let peer = |socket: TcpStream| socket.peer_addr().expect("connected");
        let got = received.drain(..).map(|fd| peer(fd.into()));
        let sent = connections
            .iter()
            .map(|c| c.peer_addr().expect("connected"));
        assert!(
            got.eq(sent),
            "other connections arrived, or in another order"
        );
        group.bench_function(BenchmarkId::new("descriptors", size), |b| {
            b.iter(|| {
                pass(&mut received);
                received.clear();
            });
        });

        let mut write_and_read = || {
            to.write_all(&bytes).expect("the pipe is empty");
            from.read_exact(&mut buffer[..bytes.len()])
                .expect("it was written");
        };
        write_and_read();
        group.bench_function(BenchmarkId::new("pipe_control", size), |b| {
            b.iter(&mut write_and_read);
        });
        assert_eq!(&buffer[..bytes.len()], bytes);
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
    targets = handover
}
criterion_main!(benches);
