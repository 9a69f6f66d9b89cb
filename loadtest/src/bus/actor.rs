//! A process on a bus that does what it is told. The same code on either bus: what differs is a [`Line`].
//!
//! Seat 0 publishes and asks; seats 1 to 3 have subscribed, and seat 1 answers, too.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use nix::unistd::Pid;
use pointsman::scoreboard::histogram::Snapshot;
use pointsman::sys::clock::monotonic_ns;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{MissedTickBehavior, interval};

use super::script::{Count, Order, Said};

/// Who subscribes.
pub(crate) const SUBSCRIBERS: [u16; 3] = [1, 2, 3];
/// Who publishes and asks.
pub(crate) const PUBLISHER: u16 = 0;
/// Who answers.
const ANSWERER: u16 = 1;

const BROADCAST: &str = "load.broadcast";
const ACK: &str = "load.ack";
const ASK: &str = "load.ask";
const FLOOD: &str = "load.flood";
/// The publisher lets others have a turn after so many messages, as a program that does other things too
/// would.
const TURN: u64 = 64;
/// What a payload begins with: the block and the place in it.
const HEAD: usize = 16;
/// Between two goes of a publisher that keeps to a rate.
const TICK: Duration = Duration::from_millis(1);

/// One end of a bus.
pub(crate) trait Line: Clone + 'static {
    type Inbox: Inbox;

    /// Sends to all that have subscribed; waits where the bus says that too much is under way.
    fn publish(&self, topic: &'static str, payload: Bytes) -> impl Future<Output = Result<()>>;
    /// Waits until all that was published has left the process.
    fn flush(&self) -> impl Future<Output = Result<()>>;
    /// Begins to receive.
    fn subscribe(&self, topic: &'static str) -> impl Future<Output = Result<Self::Inbox>>;
    /// Asks, and waits for the answer.
    fn request(&self, topic: &'static str, payload: Bytes) -> impl Future<Output = Result<Bytes>>;
    /// Answers.
    fn reply(
        &self,
        to: <Self::Inbox as Inbox>::Letter,
        payload: Bytes,
    ) -> impl Future<Output = Result<()>>;
}

/// What has been subscribed to.
pub(crate) trait Inbox: 'static {
    type Letter;

    /// The next message; `None`: there will be no more.
    fn next(&mut self) -> impl Future<Output = Option<Self::Letter>>;
    /// What it says.
    fn payload(letter: &Self::Letter) -> Bytes;
}

/// Takes orders at `socket` until whoever gives them is gone. Runs in a local runtime.
///
/// # Errors
/// The bus or the socket does not work.
pub(crate) async fn act<L: Line>(line: L, seat: u16, socket: &Path) -> Result<()> {
    let tally = Rc::new(Tally::default());
    let acks = Rc::new(Acks::default());
    if SUBSCRIBERS.contains(&seat) {
        let inbox = line.subscribe(BROADCAST).await?;
        spawn_local(receive(line.clone(), inbox, seat, tally.clone()));
    }
    if seat == ANSWERER {
        let inbox = line.subscribe(ASK).await?;
        spawn_local(answer(line.clone(), inbox));
        let inbox = line.subscribe(FLOOD).await?;
        spawn_local(swallow(inbox));
    }
    if seat == PUBLISHER {
        let inbox = line.subscribe(ACK).await?;
        spawn_local(hear_acks::<L>(inbox, acks.clone()));
    }
    // Subscriptions are in force at the other end before anybody counts on them.
    line.flush().await?;

    let stream = UnixStream::connect(socket)
        .await
        .context("nobody gives orders")?;
    let (orders, mut said) = stream.into_split();
    let mut orders = BufReader::new(orders).lines();
    let mut say = Said::Hello {
        seat,
        pid: Pid::this().as_raw(),
    };
    let mut labour = None;
    loop {
        let mut text = serde_json::to_vec(&say)?;
        text.push(b'\n');
        said.write_all(&text).await?;
        let Some(order) = orders.next_line().await? else {
            return Ok(());
        };
        let order = serde_json::from_str(&order)?;
        say = match obey(&line, order, &tally, &acks, &mut labour).await {
            Ok(say) => say,
            Err(error) => Said::Failed(format!("{error:#}")),
        };
    }
}

async fn obey<L: Line>(
    line: &L,
    order: Order,
    tally: &Tally,
    acks: &Acks,
    labour: &mut Option<Labour>,
) -> Result<Said> {
    Ok(match order {
        Order::Expect {
            block,
            messages,
            ack,
        } => {
            tally.expect(block, messages, ack);
            Said::Understood
        }
        Order::Publish {
            block,
            messages,
            size,
            window,
            rate,
        } => {
            acks.expect(block);
            let began_ns = monotonic_ns();
            let payload = Payload::new(block, size);
            match rate {
                Some(rate) => publish_at(line, messages, rate, payload).await?,
                None => publish(line, messages, window, payload, acks).await?,
            }
            line.flush().await?;
            Said::Published { began_ns }
        }
        Order::Count => Said::Counted(tally.count.get()),
        Order::Ask { requests, size } => ask(line, requests, size).await,
        Order::Flood { size } => {
            *labour = Some(Labour::flood(line.clone(), size));
            Said::Understood
        }
        Order::Spin => {
            *labour = Some(Labour::spin());
            Said::Understood
        }
        Order::Rest => match labour.take() {
            Some(labour) => Said::Rested {
                messages: labour.stop(),
            },
            None => bail!("nothing is being done"),
        },
    })
}

/// The bytes of a block's messages.
struct Payload(Vec<u8>);

impl Payload {
    fn new(block: u64, size: usize) -> Self {
        let mut bytes = vec![b'.'; size.max(HEAD)];
        bytes[..8].copy_from_slice(&block.to_le_bytes());
        Self(bytes)
    }

    /// Those of the message in this place.
    fn at(&mut self, sequence: u64) -> Bytes {
        self.0[8..HEAD].copy_from_slice(&sequence.to_le_bytes());
        Bytes::copy_from_slice(&self.0)
    }
}

/// The block and the place in it.
fn head(payload: &[u8]) -> Option<(u64, u64)> {
    let (block, rest) = payload.split_first_chunk()?;
    let sequence = rest.first_chunk()?;
    Some((u64::from_le_bytes(*block), u64::from_le_bytes(*sequence)))
}

async fn publish<L: Line>(
    line: &L,
    messages: u64,
    window: Option<u64>,
    mut payload: Payload,
    acks: &Acks,
) -> Result<()> {
    for sequence in 0..messages {
        if let Some(window) = window {
            while sequence >= acks.least() + window {
                acks.news.notified().await;
            }
        }
        line.publish(BROADCAST, payload.at(sequence)).await?;
        if sequence % TURN == TURN - 1 {
            yield_now().await;
        }
    }
    Ok(())
}

async fn publish_at<L: Line>(
    line: &L,
    messages: u64,
    rate: f64,
    mut payload: Payload,
) -> Result<()> {
    let began = monotonic_ns();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sequence = 0;
    while sequence < messages {
        ticks.tick().await;
        let due = ((monotonic_ns() - began) as f64 * 1e-9 * rate) as u64;
        while sequence < due.min(messages) {
            line.publish(BROADCAST, payload.at(sequence)).await?;
            sequence += 1;
        }
    }
    Ok(())
}

async fn ask<L: Line>(line: &L, requests: u64, size: usize) -> Said {
    let began_ns = monotonic_ns();
    let mut latency = Snapshot::default();
    let mut payload = Payload::new(0, size);
    let (mut answered, mut failed) = (0, 0);
    for sequence in 0..requests {
        let asked = payload.at(sequence);
        let began = monotonic_ns();
        // A right answer is the question again.
        match line.request(ASK, asked.clone()).await {
            Ok(answer) if answer == asked => {
                latency.record(Duration::from_nanos(monotonic_ns() - began));
                answered += 1;
            }
            _ => failed += 1,
        }
    }
    Said::Asked {
        began_ns,
        ended_ns: monotonic_ns(),
        answered,
        failed,
        latency,
    }
}

/// Work without end.
enum Labour {
    /// Messages.
    Flood {
        sent: Rc<Cell<u64>>,
        task: JoinHandle<()>,
    },
    /// Nothing, as fast as it goes.
    Spin(Arc<AtomicBool>),
}

impl Labour {
    fn flood<L: Line>(line: L, size: usize) -> Self {
        let sent = Rc::new(Cell::new(0));
        let counted = sent.clone();
        let task = spawn_local(async move {
            let mut payload = Payload::new(0, size);
            while line.publish(FLOOD, payload.at(counted.get())).await.is_ok() {
                counted.set(counted.get() + 1);
                if counted.get().is_multiple_of(TURN) {
                    yield_now().await;
                }
            }
        });
        Self::Flood { sent, task }
    }

    fn spin() -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let told = enough.clone();
        std::thread::spawn(move || {
            while !told.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        Self::Spin(enough)
    }

    /// How many messages there were.
    fn stop(self) -> u64 {
        match self {
            Self::Flood { sent, task } => {
                task.abort();
                sent.get()
            }
            Self::Spin(enough) => {
                enough.store(true, Relaxed);
                0
            }
        }
    }
}

/// What has come of the present block.
#[derive(Default)]
struct Tally {
    block: Cell<u64>,
    messages: Cell<u64>,
    ack: Cell<u64>,
    acked: Cell<u64>,
    next: Cell<u64>,
    count: Cell<Count>,
}

impl Tally {
    fn expect(&self, block: u64, messages: u64, ack: u64) {
        self.block.set(block);
        self.messages.set(messages);
        self.ack.set(ack);
        self.acked.set(0);
        self.next.set(0);
        self.count.set(Count::default());
    }

    /// Counts a message. Some: the publisher is to be told that everything before this has come.
    fn record(&self, payload: &[u8]) -> Option<u64> {
        let (_, sequence) = head(payload).filter(|(block, _)| *block == self.block.get())?;
        let mut count = self.count.get();
        count.received += 1;
        match sequence.checked_sub(self.next.get()) {
            Some(missed) => {
                count.missed += missed;
                self.next.set(sequence + 1);
            }
            None => count.disordered += 1,
        }
        let is_last = sequence + 1 == self.messages.get();
        if is_last || sequence % TURN == 0 {
            count.last_ns = monotonic_ns();
        }
        count.complete |= is_last;
        self.count.set(count);
        let due = self.ack.get() > 0 && sequence + 1 >= self.acked.get() + self.ack.get();
        due.then(|| {
            self.acked.set(sequence + 1);
            sequence + 1
        })
    }
}

async fn receive<L: Line>(line: L, mut inbox: L::Inbox, seat: u16, tally: Rc<Tally>) {
    while let Some(letter) = inbox.next().await {
        if let Some(seen) = tally.record(&L::Inbox::payload(&letter)) {
            let mut ack = Vec::with_capacity(HEAD + 2);
            ack.extend_from_slice(&tally.block.get().to_le_bytes());
            ack.extend_from_slice(&seen.to_le_bytes());
            ack.extend_from_slice(&seat.to_le_bytes());
            if line.publish(ACK, ack.into()).await.is_err() {
                return;
            }
        }
    }
}

async fn answer<L: Line>(line: L, mut inbox: L::Inbox) {
    while let Some(letter) = inbox.next().await {
        let payload = L::Inbox::payload(&letter);
        if line.reply(letter, payload).await.is_err() {
            return;
        }
    }
}

async fn swallow<I: Inbox>(mut inbox: I) {
    while inbox.next().await.is_some() {}
}

/// How far each subscriber is.
#[derive(Default)]
struct Acks {
    block: Cell<u64>,
    seen: RefCell<[u64; SUBSCRIBERS.len()]>,
    news: Notify,
}

impl Acks {
    fn expect(&self, block: u64) {
        self.block.set(block);
        *self.seen.borrow_mut() = Default::default();
    }

    /// Everybody has seen what comes before this.
    fn least(&self) -> u64 {
        self.seen.borrow().iter().copied().min().unwrap_or(0)
    }
}

async fn hear_acks<L: Line>(mut inbox: L::Inbox, acks: Rc<Acks>) {
    while let Some(letter) = inbox.next().await {
        let payload = L::Inbox::payload(&letter);
        let seat = payload.get(HEAD..).and_then(|rest| rest.first_chunk());
        let (Some((block, seen)), Some(seat)) = (head(&payload), seat) else {
            continue;
        };
        let place = SUBSCRIBERS
            .iter()
            .position(|known| *known == u16::from_le_bytes(*seat));
        if let Some(place) = place.filter(|_| block == acks.block.get()) {
            acks.seen.borrow_mut()[place] = seen;
            acks.news.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_comes_late_or_belongs_elsewhere_is_counted_as_that() {
        let tally = Tally::default();
        tally.expect(7, 10, 4);
        let mut payload = Payload::new(7, 100);
        let mut seen = |sequence| tally.record(&payload.at(sequence));
        assert_eq!([0, 1, 2].map(&mut seen), [None; 3]);
        assert_eq!(seen(3), Some(4));
        assert_eq!([6, 5].map(&mut seen), [None; 2]);
        assert_eq!(seen(9), Some(10));
        assert_eq!(tally.record(&Payload::new(6, 100).at(0)), None);
        assert_eq!(tally.record(b"short"), None);
        let count = tally.count.get();
        assert_eq!((count.received, count.missed), (7, 4));
        assert_eq!((count.disordered, count.complete), (1, true));
    }

    #[test]
    fn payloads_have_the_size_that_was_asked_for() {
        let bytes = Payload::new(3, 100).at(5);
        assert_eq!((bytes.len(), head(&bytes)), (100, Some((3, 5))));
    }
}
