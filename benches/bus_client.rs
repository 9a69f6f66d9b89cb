//! What a message costs a process that says it, and one that hears it: the other end of the line is a
//! thread that does as little as it can, so most of what is seen is our own end.

use std::{
    hint::black_box,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pointsman::{
    bus::{
        Attached, Bus, Encoding, MasterId, Payload, ProcessId, Space, To,
        control::Ask,
        frame::{self, Header, Kind, MAX_PACKET},
    },
    sys::fdpass,
};

/// Messages that are said, or come, in one go.
const BATCH: usize = 1000;
/// Bytes of each.
const PAYLOAD: [u8; 100] = [7; 100];

fn wait(line: &OwnedFd, what: PollFlags) {
    let mut ask = [PollFd::new(line.as_fd(), what)];
    poll(&mut ask, PollTimeout::NONE).expect("poll");
}

/// The next packet; `None`: the other end is closed.
fn receive(line: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match fdpass::receive(line.as_fd(), buffer, &mut Vec::new()) {
            Ok(received) if received.bytes > 0 => return Some(received.bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(line, PollFlags::POLLIN);
            }
            _ => return None,
        }
    }
}

fn send(line: &OwnedFd, packet: &[u8]) {
    while let Err(error) = fdpass::send(line.as_fd(), packet, std::iter::empty()) {
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        wait(line, PollFlags::POLLOUT);
    }
}

fn encoded(kind: Kind, name: &str, id: u64, sequence: u64, payload: &[u8], packet: &mut Vec<u8>) {
    let from: ProcessId = "00000000000000aa:1".parse().expect("an id");
    let header = Header {
        kind,
        space: Space::Topic,
        encoding: Encoding::Raw,
        attached: Attached::Nothing,
        sequence,
        from,
        id,
        deadline: 0,
    };
    let no_path: [MasterId; 0] = [];
    frame::encode(&header, &To::Subscribers, name, &no_path, payload, packet);
}

/// Grants what is asked for, answers requests with their payload, and passes over everything else.
fn answer(line: &OwnedFd) {
    let (mut buffer, mut packet) = (vec![0; MAX_PACKET], Vec::new());
    while let Some(size) = receive(line, &mut buffer) {
        packet.clear();
        for frame in frame::frames(&buffer[..size]) {
            let frame = frame.expect("sound");
            match frame.header.kind {
                Kind::Ask | Kind::Request if frame.header.id > 0 => {
                    encoded(
                        Kind::Reply,
                        "",
                        frame.header.id,
                        0,
                        frame.payload,
                        &mut packet,
                    );
                }
                _ => {}
            }
        }
        if !packet.is_empty() {
            send(line, &packet);
        }
    }
}

/// Sends [`BATCH`] messages whenever it hears something that it is not asked for.
fn flood(line: &OwnedFd) {
    let (mut buffer, mut packets, mut packet) = (vec![0; MAX_PACKET], Vec::new(), Vec::new());
    for _ in 0..BATCH {
        encoded(Kind::Event, "room.7.said", 0, 0, &PAYLOAD, &mut packet);
        if packet.len() > 32_000 {
            packets.push(std::mem::take(&mut packet));
        }
    }
    packets.push(packet);
    while let Some(size) = receive(line, &mut buffer) {
        for frame in frame::frames(&buffer[..size]) {
            let frame = frame.expect("sound");
            if frame.header.kind == Kind::Ask {
                let ask: Ask = rmp_serde::from_slice(frame.payload).expect("an ask");
                black_box(ask);
                let mut granted = Vec::new();
                encoded(Kind::Reply, "", frame.header.id, 0, b"", &mut granted);
                send(line, &granted);
            } else {
                packets.iter().for_each(|packet| send(line, packet));
            }
        }
    }
}

/// A process's end, and the thread that plays its hub.
fn bus(hub: fn(&OwnedFd)) -> (Bus, std::thread::JoinHandle<()>) {
    let (ours, theirs) = fdpass::pair().expect("a pair");
    let hub = std::thread::spawn(move || hub(&ours));
    (Bus::connect(theirs).expect("a bus"), hub)
}

fn client(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = c.benchmark_group("bus client");
    group.measurement_time(Duration::from_secs(3));

    let (answering, hub) = runtime.block_on(async { bus(answer) });
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("publish 1,000 of 100 bytes and flush", |b| {
        b.iter(|| {
            runtime.block_on(async {
                for _ in 0..BATCH {
                    let said = answering.publish(black_box("room.7.said"), &PAYLOAD[..]);
                    said.expect("room");
                }
                answering.flush().await.expect("open");
            });
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("request and reply of 100 bytes", |b| {
        b.iter(|| {
            let payload = Payload::from(&PAYLOAD[..]);
            let answer = answering.request(To::Parent, "echo", payload, Duration::from_secs(10));
            runtime.block_on(answer).expect("answered");
        });
    });
    drop(answering);
    runtime.block_on(tokio::task::yield_now());
    hub.join().expect("no panic");

    let (flooded, hub) = runtime.block_on(async { bus(flood) });
    let mut said = runtime.block_on(async {
        let said = flooded.subscription("room.*.said").queue(2 * BATCH);
        said.open().await.expect("granted")
    });
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("hear 1,000 of 100 bytes", |b| {
        b.iter(|| {
            runtime.block_on(async {
                flooded.publish("more", "").expect("room");
                for _ in 0..BATCH {
                    let message = said.next().await.expect("open").expect("not cut");
                    black_box(message.bytes());
                }
            });
        });
    });
    drop((said, flooded));
    runtime.block_on(tokio::task::yield_now());
    hub.join().expect("no panic");
    group.finish();
}

criterion_group!(benches, client);
criterion_main!(benches);
