//! Processes' ends at real lines around a real [`Core`], in one process: what the words of the bus come to.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::Hasher,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicUsize, atomic::Ordering::SeqCst},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::core::{Core, Counters, Limits, Loads, Newcomer, PortId};
use crate::{
    bus::{
        Balance, Bus, BusError, Departure, Failure, MasterId, Payload, Presence, ProcessId, Role,
        Stream, To,
        frame::MAX_PACKET,
        line::{self, Arrival, Line},
    },
    sys::clock::monotonic_ns,
};

const LONG: Duration = Duration::from_secs(60);

/// A hub without a thread of its own: a task for each line.
#[derive(Clone)]
struct Hub {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    core: Core<OwnedFd>,
    ports: HashMap<PortId, Arc<Port>>,
}

struct Port {
    line: Line,
    /// There is room in the line again.
    room: Notify,
}

struct Idle;

impl Loads for Idle {
    fn load(&self, _number: u32) -> u64 {
        0
    }

    fn is_stuck(&self, _number: u32) -> bool {
        false
    }
}

impl Hub {
    fn new() -> Self {
        let core = Core::new(
            MasterId(1),
            "here".into(),
            1,
            Limits::default(),
            Arc::new(Counters::default()),
        );
        let ports = HashMap::new();
        Self {
            inner: Arc::new(Mutex::new(Inner { core, ports })),
        }
    }

    /// A new worker, in this seat.
    fn worker(&self, seat: u16) -> (Bus, ProcessId) {
        let (theirs, process) = self.seat(seat);
        (Bus::connect(theirs).expect("a bus"), process)
    }

    /// The other end of a new worker's line.
    fn seat(&self, seat: u16) -> (OwnedFd, ProcessId) {
        let (ours, theirs) = line::pair().expect("a pair");
        let port = Arc::new(Port {
            line: Line::new(ours).expect("a line"),
            room: Notify::new(),
        });
        let role = Role::Worker {
            seat,
            generation: 1,
        };
        let mut inner = self.inner();
        let (id, process) = inner.core.join(Newcomer::Process {
            role,
            pid: 1,
            number: None,
            parent: None,
        });
        inner.ports.insert(id, Arc::clone(&port));
        drop(inner);
        tokio::spawn(self.clone().serve(id, port));
        (theirs, process.expect("a process"))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic")
    }

    async fn serve(self, id: PortId, port: Arc<Port>) {
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            self.send();
            tokio::select! {
                ready = port.line.readable() => ready.expect("a runtime"),
                () = port.room.notified() => {
                    port.line.writable().await.expect("a runtime");
                    let mut inner = self.inner();
                    inner.send_to(id);
                    continue;
                }
            }
            let mut inner = self.inner();
            match port.line.try_receive(&mut buffer) {
                Arrival::Empty => {}
                Arrival::Packet(size, attached) => inner
                    .core
                    .receive(id, &buffer[..size], attached, monotonic_ns(), &Idle)
                    .expect("what our own ends say is sound"),
                Arrival::Damaged(_) => panic!("damaged"),
                Arrival::Closed => {
                    inner.core.closed(id);
                    inner.ports.remove(&id);
                    drop(inner);
                    self.send();
                    return;
                }
            }
        }
    }

    fn send(&self) {
        let mut inner = self.inner();
        while let Some(id) = inner.core.next_dirty() {
            inner.send_to(id);
        }
    }

    /// The end of a worker, by this signal.
    fn kill(&self, process: ProcessId) {
        self.inner().core.leave(process, Departure::Signal(9));
        self.send();
    }
}

impl Inner {
    fn send_to(&mut self, id: PortId) {
        let (Some(port), Some(queue)) = (self.ports.get(&id), self.core.queue(id)) else {
            return;
        };
        while let Some((packet, attached)) = queue.front() {
            match port.line.try_send(packet, attached.map(AsFd::as_fd)) {
                Ok(()) => queue.pop(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    port.room.notify_one();
                    return;
                }
                // It is read to its end, and then it is closed.
                Err(_) => return,
            }
        }
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(LONG, what).await;
    waited.expect("it should not take so long")
}

#[tokio::test]
async fn what_is_published_comes_to_all_who_want_it_in_order() {
    let hub = Hub::new();
    let (publisher, id) = hub.worker(0);
    let mut listeners = Vec::new();
    for seat in 1..4 {
        let (bus, _) = hub.worker(seat);
        listeners.push(bus.subscribe("tick.*").await.expect("granted"));
        let (idle, _) = hub.worker(seat + 10);
        listeners.push(idle.subscribe("tock").await.expect("granted"));
    }
    const TICKS: u32 = 20_000;
    let reading: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(i, mut listener)| {
            tokio::spawn(async move {
                let (mut next, mut missed) = (0, 0);
                if i % 2 == 1 {
                    return (0, 0);
                }
                while next + missed < TICKS {
                    let message = listener.next().await.expect("open").expect("not cut");
                    let number: u32 = message.decode().expect("a number");
                    assert_eq!(message.from(), id);
                    assert_eq!(number - (next + missed), message.missed() as u32);
                    missed += message.missed() as u32;
                    next += 1;
                }
                (next, missed)
            })
        })
        .collect();
    for i in 0..TICKS {
        let tick = Payload::compact(&i).expect("a number");
        publisher.publish("tick.x", tick).expect("room");
        if i % 500 == 0 {
            publisher.flush().await.expect("open");
            tokio::task::yield_now().await;
        }
    }
    for (i, one) in reading.into_iter().enumerate() {
        let (came, missed) = within(one).await.expect("no panic");
        let expected = if i % 2 == 0 { TICKS } else { 0 };
        assert_eq!(came + missed, expected);
    }
}

#[tokio::test]
async fn requests_calls_and_functions_find_whom_they_are_for() {
    let hub = Hub::new();
    let ((asker, _), (other, other_id)) = (hub.worker(0), hub.worker(1));
    assert_eq!(other.id().await.expect("said"), other_id);
    let mut asked = other.subscribe("double").await.expect("granted");
    let mut hosted = other.host("paint", "red").await.expect("granted");
    let _offered = other
        .offer("add", |(a, b): (i32, i32)| async move {
            a.checked_add(b).ok_or("too much")
        })
        .await
        .expect("granted");
    let _panics = other
        .offer("fall", |(): ()| async {
            if true {
                panic!("over")
            } else {
                Ok::<(), String>(())
            }
        })
        .await
        .expect("granted");
    tokio::spawn(async move {
        while let Some(Ok(message)) = asked.next().await {
            let number: i64 = message.decode().expect("a number");
            message
                .reply(Payload::compact(&(2 * number)).expect("a number"))
                .expect("room");
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = hosted.next().await {
            message.reply(message.action().to_owned()).expect("room");
        }
    });
    for to in [
        To::from(other_id),
        To::Worker(1),
        To::Siblings,
        To::Subscribers,
        To::Everyone,
    ] {
        let number = Payload::compact(&21).expect("a number");
        let answer = within(asker.request(to, "double", number, LONG))
            .await
            .expect("answered");
        assert_eq!(
            (answer.from(), answer.decode::<i64>().expect("a number")),
            (other_id, 42)
        );
    }
    let answer = within(asker.call_with(Balance::Random, "paint", "over", "", LONG)).await;
    assert_eq!(&*answer.expect("answered").bytes(), b"over");
    let hosts = asker
        .hosts("paint", |colour| colour == "red")
        .await
        .expect("answered");
    assert_eq!(
        hosts.iter().map(|peer| peer.id).collect::<Vec<_>>(),
        [other_id]
    );
    assert!(
        asker
            .hosts("paint", |colour| colour == "blue")
            .await
            .expect("answered")
            .is_empty()
    );
    let run = async |a: i32, b: i32| {
        within(asker.run_in_node::<(i32, i32), i32>(other_id, "add", &(a, b), LONG)).await
    };
    assert_eq!(run(1, 2).await.expect("run"), 3);
    let failed = run(i32::MAX, 1).await.expect_err("too much");
    assert!(matches!(&failed, BusError::Failed(Failure::Refused, text) if text == "too much"));
    let fallen = asker.run_in_node::<(), ()>(other_id, "fall", &(), LONG);
    let fallen = within(fallen).await.expect_err("it panics");
    assert!(matches!(&fallen, BusError::Failed(Failure::Refused, text) if text.contains("over")));
    assert_eq!(run(3, 4).await.expect("it goes on"), 7);
    for (to, topic, expected) in [
        (To::Worker(7), "double", Failure::Unroutable),
        (To::from(other_id), "triple", Failure::NoListener),
    ] {
        let failed = within(asker.request(to, topic, "", LONG))
            .await
            .expect_err("nobody");
        assert!(
            matches!(failed, BusError::Failed(failure, _) if failure == expected),
            "{failed:?}"
        );
    }
    let failed = within(asker.call("print", "", "", LONG))
        .await
        .expect_err("nobody");
    assert!(
        matches!(failed, BusError::Failed(Failure::NoHost, _)),
        "{failed:?}"
    );
}

#[tokio::test]
async fn whoever_waits_for_one_who_dies_is_told_and_all_who_watch() {
    let hub = Hub::new();
    let ((asker, _), (other, other_id)) = (hub.worker(0), hub.worker(1));
    let mut events = asker.presence().await.expect("granted");
    let mut asked = other.subscribe("q").await.expect("granted");
    let waiting = tokio::spawn({
        let asker = asker.clone();
        async move { asker.request(other_id, "q", "", LONG).await }
    });
    let question = within(asked.next()).await.expect("open").expect("not cut");
    hub.kill(other_id);
    let failed = within(waiting)
        .await
        .expect("no panic")
        .expect_err("it has died");
    assert!(
        matches!(failed, BusError::Failed(Failure::Gone, _)),
        "{failed:?}"
    );
    let gone = within(async {
        loop {
            if let Some(Presence::Offline { peer, reason }) = events.next().await {
                return (peer.id, reason);
            }
        }
    });
    assert_eq!(gone.await, (other_id, Departure::Signal(9)));
    let peers = asker.peers().await.expect("answered");
    assert!(peers.iter().all(|peer| peer.id != other_id));
    drop(question);
}

#[tokio::test]
async fn a_subscription_that_is_gone_costs_nobody_anything() {
    let hub = Hub::new();
    let ((bus, _), (other, other_id)) = (hub.worker(0), hub.worker(1));
    for i in 0..100 {
        let topic = format!("t.{}", i % 7);
        let mut one = other.subscribe(&topic).await.expect("granted");
        let two = other.subscribe("t.*").await.expect("granted");
        bus.publish(&topic, "x").expect("room");
        within(one.next()).await.expect("open").expect("not cut");
        drop((one, two));
        // Asks go in order, so this is answered when nothing is subscribed to any more.
        other.peers().await.expect("answered");
        let failed = within(bus.request(other_id, &topic, "", LONG))
            .await
            .expect_err("nobody");
        assert!(
            matches!(failed, BusError::Failed(Failure::NoListener, _)),
            "{failed:?}"
        );
    }
    assert_eq!(other.counts().unheard, 0);
}

/// What a stream is expected to bring: so many bytes, other ones for each seed.
struct Bytes {
    seed: u64,
    left: usize,
}

impl Bytes {
    fn next(&mut self, room: usize) -> Option<Vec<u8>> {
        let size = room.min(self.left);
        self.left -= size;
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            // Any sequence that is not the same everywhere.
            self.seed = self
                .seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            bytes.extend_from_slice(&self.seed.rotate_left(17).to_le_bytes());
        }
        bytes.truncate(size);
        (size > 0).then_some(bytes)
    }
}

/// Sends that, and gives its hash.
async fn send(mut half: impl AsyncWriteExt + Unpin, seed: u64, sent: Arc<AtomicUsize>) -> u64 {
    let mut bytes = Bytes {
        seed,
        left: STREAMED,
    };
    let mut hash = DefaultHasher::new();
    while let Some(piece) = bytes.next(60_000) {
        hash.write(&piece);
        let mut rest = &*piece;
        while !rest.is_empty() {
            let taken = half.write(rest).await.expect("open");
            sent.fetch_add(taken, SeqCst);
            rest = &rest[taken..];
        }
    }
    half.shutdown().await.expect("open");
    hash.finish()
}

/// Reads to the end, slowly: in small pieces, and never more than `most` bytes behind the sender.
async fn receive(mut half: impl AsyncReadExt + Unpin, sent: Arc<AtomicUsize>, most: usize) -> u64 {
    let (mut hash, mut buffer) = (DefaultHasher::new(), vec![0; 60_000]);
    let mut received = 0;
    loop {
        // Others have their turns meanwhile, so the sender would run ahead if nothing held it.
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        let behind = sent.load(SeqCst) - received;
        assert!(behind <= most, "{behind} bytes wait somewhere");
        let mut piece = 0;
        // The same pieces as they were made of, for the hash.
        while piece < buffer.len() {
            match half.read(&mut buffer[piece..]).await.expect("open") {
                0 => break,
                n => piece += n,
            }
        }
        received += piece;
        if piece == 0 {
            assert_eq!(received, STREAMED);
            return hash.finish();
        }
        hash.write(&buffer[..piece]);
    }
}

/// Bytes each way.
const STREAMED: usize = 100_000_000;

#[tokio::test]
async fn a_stream_carries_a_hundred_megabytes_each_way_and_holds_little() {
    let hub = Hub::new();
    let ((opener, opener_id), (other, other_id)) = (hub.worker(0), hub.worker(1));
    let mut offered = other.subscribe("copy").await.expect("granted");
    let accepting = tokio::spawn(async move {
        let message = offered.next().await.expect("open").expect("not cut");
        message.accept_stream().expect("one came")
    });
    let near = within(opener.open_stream(other_id, "copy", "", LONG))
        .await
        .expect("taken");
    let far: Stream = within(accepting).await.expect("no panic");
    assert_eq!((near.peer(), far.peer()), (other_id, opener_id));
    // The master is not in the way: neither has a bus any more.
    drop((opener, other, hub));
    let (near_in, near_out) = tokio::io::split(near);
    let (far_in, far_out) = tokio::io::split(far);
    let (there, back) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks = [
        tokio::spawn(send(near_out, 1, Arc::clone(&there))),
        tokio::spawn(receive(far_in, there, 1_000_000)),
        tokio::spawn(send(far_out, 2, Arc::clone(&back))),
        tokio::spawn(receive(near_in, back, 1_000_000)),
    ];
    let mut hashes = Vec::new();
    for task in tasks {
        hashes.push(within(task).await.expect("no panic"));
    }
    assert_eq!(hashes[0], hashes[1]);
    assert_eq!(hashes[2], hashes[3]);
    assert_ne!(hashes[0], hashes[2]);
}

#[tokio::test]
async fn a_stream_that_is_refused_or_for_nobody_is_an_error() {
    let hub = Hub::new();
    let ((opener, _), (other, other_id)) = (hub.worker(0), hub.worker(1));
    let mut offered = other.subscribe("copy").await.expect("granted");
    tokio::spawn(async move {
        while let Some(Ok(message)) = offered.next().await {
            message.refuse("busy").expect("room");
        }
    });
    let refused = within(opener.open_stream(other_id, "copy", "", LONG)).await;
    let refused = refused.expect_err("refused");
    assert!(matches!(&refused, BusError::Failed(Failure::Refused, text) if text == "busy"));
    let nobody = within(opener.open_stream(To::Worker(9), "copy", "", LONG)).await;
    assert!(
        matches!(nobody, Err(BusError::Failed(Failure::Unroutable, _))),
        "{nobody:?}"
    );
}

#[tokio::test]
async fn one_who_stops_reading_loses_the_oldest_and_slows_nobody() {
    let hub = Hub::new();
    let ((publisher, _), (good, _)) = (hub.worker(0), hub.worker(1));
    let mut reading = good
        .subscription("t")
        .queue(1_000_000)
        .open()
        .await
        .expect("granted");
    // A process of which nothing moves but in `elsewhere`.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    let (end, _) = hub.seat(2);
    let (runtime, mut late) = elsewhere(move || {
        let late = runtime.block_on(async {
            let slow = Bus::connect(end).expect("a bus");
            slow.subscription("t").queue(1_000_000).open().await
        });
        (runtime, late.expect("granted"))
    })
    .await;
    const SAID: u64 = 20_000;
    let read = Arc::new(AtomicUsize::new(0));
    let good = tokio::spawn({
        let read = Arc::clone(&read);
        async move {
            for i in 0..SAID {
                let message = reading.next().await.expect("open").expect("not cut");
                assert_eq!(
                    (&message.bytes()[..8], message.missed()),
                    (&i.to_le_bytes()[..], 0)
                );
                read.fetch_add(1, SeqCst);
            }
        }
    });
    for i in 0..SAID {
        // Neither waits for the one that has stopped.
        within(async {
            while i as usize > read.load(SeqCst) + 1000 && !good.is_finished() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let mut text = i.to_le_bytes().to_vec();
        text.resize(1000, 0);
        while let Err(BusError::Full) = publisher.publish("t", text.clone()) {
            publisher.flush().await.expect("open");
        }
    }
    within(good).await.expect("no panic");
    // It goes on, and sees exactly what it has not seen.
    let (came, missed) = elsewhere(move || {
        runtime.block_on(async move {
            let (mut came, mut missed, mut last) = (0, 0, None);
            while came + missed < SAID {
                let message = within(late.next()).await.expect("open").expect("not cut");
                let number: [u8; 8] = message.bytes()[..8].try_into().expect("8 bytes");
                let number = u64::from_le_bytes(number);
                assert_eq!(number, last.map_or(0, |last| last + 1) + message.missed());
                last = Some(number);
                came += 1;
                missed += message.missed();
            }
            (came, missed)
        })
    })
    .await;
    assert_eq!(came + missed, SAID);
    assert!(
        missed > SAID / 2,
        "20 MB do not fit into 4 MiB: {missed} were lost"
    );
}

/// Runs it on a thread of its own.
async fn elsewhere<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(what).await.expect("no panic")
}
