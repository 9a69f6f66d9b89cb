//! The thread that talks to NATS. It has a runtime of its own for each sitting: when that is over, so is
//! everything that async-nats has kept for later, which would come too late. It waits for nobody in the hub
//! but in one way: what comes faster than the hub takes it is lost, and counted.

use std::{
    cell::{Cell, RefCell},
    io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::{Client, ConnectOptions, ServerAddr};
use tokio::{
    runtime::Builder,
    sync::{Mutex, mpsc},
    time::{Instant, sleep_until},
};

use super::{
    counters::Counters,
    envelope::{Dropped, Sign},
    roster::Roster,
    secrets,
    sitting::{End, Talk, attend, signed},
};
use crate::{
    bus::MasterId,
    config::BusOptions,
    error::{Error, Result},
    notice,
    random::Random,
    sys::{child::hold_signals, clock::monotonic_ns},
};

/// Packets that may wait to be sent, and news that may wait for the hub.
const WAITING: usize = 64;
/// How long after the first failure, and how long at the most, the next try is made.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where orders come in.
pub(super) struct Inbox {
    beats: mpsc::Receiver<Sign>,
    orders: mpsc::Receiver<Order>,
}

impl Inbox {
    /// The next order; a beat before all others. `None`: the hub has ended.
    pub(super) async fn next(&mut self) -> Option<Order> {
        tokio::select! {
            biased;
            beat = self.beats.recv() => beat.map(Order::Beat),
            order = self.orders.recv() => order,
        }
    }
}

/// What the hub orders.
#[derive(Debug)]
pub(super) enum Order {
    /// Say to all that we are there, and so.
    Beat(Sign),
    /// Send these frames to this master.
    Packet(MasterId, Vec<u8>),
    /// The hub has cut the link to this one.
    Unlink(MasterId),
}

/// What the hub is told.
#[derive(Debug)]
pub(super) enum News {
    /// There is a link to this master.
    Opens(MasterId),
    /// Something may have been missed on it.
    Renews(MasterId),
    /// What this master says of itself.
    Sign(MasterId, Sign),
    /// Frames from this master, deadlines by our clock.
    Packet(MasterId, Vec<u8>),
    /// Nothing has been heard of this master for too long.
    Silent(MasterId),
}

/// The hub's end.
pub(super) struct Ends {
    /// What to say at a beat. One may wait, and none of them behind packets.
    pub(super) beats: mpsc::Sender<Sign>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) news: mpsc::Receiver<News>,
}

/// What is the same in all sittings.
pub(super) struct Shared {
    options: BusOptions,
    pub(super) me: MasterId,
    pub(super) roster: RefCell<Roster>,
    pub(super) counters: Arc<Counters>,
    pub(super) news: mpsc::Sender<News>,
    /// What was last said of us.
    sign: RefCell<Option<Sign>>,
}

/// Starts the thread, for the master `me`, which first started at `born`.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn start(
    options: BusOptions,
    me: MasterId,
    born: u64,
    counters: Arc<Counters>,
) -> io::Result<Ends> {
    let (beats, beats_in) = mpsc::channel(1);
    let (orders, orders_in) = mpsc::channel(WAITING);
    let inbox = Inbox {
        beats: beats_in,
        orders: orders_in,
    };
    let (news, outbox) = mpsc::channel(WAITING);
    thread::Builder::new().name("nats".into()).spawn(move || {
        // They are for the main thread, which may hand them on to another binary.
        hold_signals();
        let shared = Shared {
            options,
            me,
            roster: RefCell::new(Roster::new(me, born)),
            counters,
            news,
            sign: RefCell::new(None),
        };
        // However it ends.
        let _gone = Gone(shared.counters.clone());
        if let Err(error) = run(&shared, inbox) {
            notice(format_args!("bus: NATS cannot be used: {error}"));
        }
    })?;
    Ok(Ends {
        beats,
        orders,
        news: outbox,
    })
}

/// Nothing is connected any more once it is dropped.
struct Gone(Arc<Counters>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.set_connected(false);
        self.0.set_masters(0);
    }
}

/// Sits down again and again, until the hub has ended, or there is no place for two of the same name.
fn run(shared: &Shared, mut inbox: Inbox) -> io::Result<()> {
    let mut patience = Patience::new(shared.me);
    loop {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let end = runtime.block_on(sit(shared, &mut inbox, &mut patience));
        shared.counters.set_connected(false);
        // A name that is being looked up is not waited for.
        runtime.shutdown_background();
        match end {
            End::Disconnected => {}
            End::HubGone => return Ok(()),
            End::Namesake => {
                notice(format_args!(
                    "bus: ANOTHER MASTER HAS THE NAME OF THIS ONE, {}, and had it first: was this \
                     machine copied while it ran? This master has left NATS; restart it to come back",
                    shared.me
                ));
                let runtime = Builder::new_current_thread().build()?;
                return runtime.block_on(leave(shared, inbox));
            }
        }
    }
}

/// Has left for good: links end, and nothing is sent.
async fn leave(shared: &Shared, mut inbox: Inbox) -> io::Result<()> {
    let linked = shared.roster.borrow_mut().clear();
    for master in linked {
        let _ = shared.news.send(News::Silent(master)).await;
    }
    shared.counters.set_masters(0);
    while let Some(order) = inbox.next().await {
        if matches!(order, Order::Packet(..)) {
            shared.counters.lose(Dropped::Down, 1);
        }
    }
    Ok(())
}

/// From nothing, through a connection, to its end.
async fn sit(shared: &Shared, inbox: &mut Inbox, patience: &mut Patience) -> End {
    let pause = sleep_until(Instant::now() + patience.pause());
    if let Err(end) = meanwhile(shared, inbox, pause).await {
        return end;
    }
    let (events, mut seen) = mpsc::unbounded_channel();
    let connected = match meanwhile(shared, inbox, connect(&shared.options, events)).await {
        Err(end) => return end,
        Ok(connected) => connected,
    };
    let (client, secret) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            patience.failed(&error);
            return End::Disconnected;
        }
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.map_or(0, |passed| passed.as_nanos() as u64);
    shared.roster.borrow_mut().sit_down(since);
    let subscribed = async {
        let own = client.subscribe(shared.subject_of(shared.me)).await.ok()?;
        let hubs = client.subscribe(shared.subject_of_all()).await.ok()?;
        Some((own, hubs))
    };
    let Some((own, hubs)) = subscribed.await else {
        return End::Disconnected;
    };
    patience.succeeded(shared);
    let talk = Talk {
        client,
        secret,
        shared,
        turn: Mutex::new(()),
        told_large: Cell::new(false),
    };
    tokio::select! {
        end = attend(shared, &mut seen) => end,
        end = talk.listen(hubs, own) => end,
        end = async {
            match talk.beat().await {
                Some(()) => talk.speak(inbox).await,
                None => End::Disconnected,
            }
        } => end,
    }
}

/// Waits for `done` without a connection: who is silent is noticed, and what is to be sent is dropped, for it
/// would come too late.
async fn meanwhile<T>(
    shared: &Shared,
    inbox: &mut Inbox,
    done: impl Future<Output = T>,
) -> std::result::Result<T, End> {
    let mut done = std::pin::pin!(done);
    loop {
        let order = tokio::select! {
            biased;
            done = &mut done => return Ok(done),
            order = inbox.next() => order,
        };
        match order {
            None => return Err(End::HubGone),
            Some(Order::Packet(..)) => shared.counters.lose(Dropped::Down, 1),
            Some(Order::Unlink(master)) => shared.roster.borrow_mut().unlink(master),
            Some(Order::Beat(sign)) => {
                if let Some(end) = shared.note_beat(sign).await {
                    return Err(end);
                }
            }
        }
    }
}

type Connected = (Client, Option<super::envelope::Secret>);

async fn connect(
    options: &BusOptions,
    events: mpsc::UnboundedSender<async_nats::Event>,
) -> Result<Connected> {
    let credentials = secrets::read(options)?;
    let urls = options.urls().map_err(Error::from)?;
    let servers: Vec<ServerAddr> = urls
        .iter()
        .map(|url| {
            url.parse()
                .map_err(|error| Error::usage(format!("bus '{url}': {error}")))
        })
        .collect::<Result<_>>()?;
    let connect: ConnectOptions = credentials.connect.event_callback(move |event| {
        let _ = events.send(event);
        std::future::ready(())
    });
    let client = connect.connect(servers).await.map_err(|error| {
        Error::failed(format!("no NATS server at {}: {error}", urls.join(" or ")))
    })?;
    Ok((client, credentials.secret))
}

/// How long to wait before the next connect, and what has been said of it.
struct Patience {
    random: Random,
    failures: u32,
    sittings: u64,
    /// When the last sitting began, if nobody has waited since.
    since: Option<Instant>,
    /// What was said last, so that it is said once.
    told: Option<String>,
}

impl Patience {
    fn new(me: MasterId) -> Self {
        Self {
            // Names are drawn: no two masters wait for equally long.
            random: Random::new(me.0),
            failures: 0,
            sittings: 0,
            since: None,
            told: None,
        }
    }

    /// At first none; then up to twice as long after each failure, at random, so that masters that have
    /// lost the same server do not come back all at once.
    fn pause(&mut self) -> Duration {
        match self.since.take() {
            // A server that soon throws us out is no better than none.
            Some(since) if since.elapsed() < LONGEST_PAUSE => self.failures += 1,
            Some(_) => self.failures = 0,
            None if self.failures == 0 => return Duration::ZERO,
            None => {}
        }
        let limit = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10));
        self.random.time_up_to(limit.min(LONGEST_PAUSE))
    }

    fn failed(&mut self, error: &Error) {
        self.failures = self.failures.saturating_add(1);
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            notice(format_args!(
                "bus: {text}; this machine's own bus is unharmed, and it is tried again"
            ));
            self.told = Some(text);
        }
    }

    fn succeeded(&mut self, shared: &Shared) {
        shared.counters.set_connected(true);
        if self.sittings > 0 {
            shared.counters.count_reconnect();
        }
        self.sittings += 1;
        self.since = Some(Instant::now());
        self.told = None;
        notice(format_args!(
            "bus: on NATS as master {}, under '{}'",
            shared.me, shared.options.prefix
        ));
    }
}

impl Shared {
    /// Where all masters say that they are there.
    pub(super) fn subject_of_all(&self) -> String {
        format!("{}.hubs", self.options.prefix)
    }

    /// Where this master is spoken to.
    pub(super) fn subject_of(&self, master: MasterId) -> String {
        format!("{}.hub.{master}", self.options.prefix)
    }

    /// What is to be said of us; `None`: the hub has not told yet.
    pub(super) fn sign(&self, heard: bool) -> Option<Vec<u8>> {
        let sign = self.sign.borrow();
        sign.as_ref().map(|sign| signed(sign, heard))
    }

    /// The hub says what is to be said of us; that is the time to look who is silent.
    pub(super) async fn note_beat(&self, sign: Sign) -> Option<End> {
        self.sign.replace(Some(sign));
        let every = self.options.beat.as_nanos() as u64;
        let silent = self.roster.borrow_mut().silent(monotonic_ns(), every);
        for master in silent {
            if self.news.send(News::Silent(master)).await.is_err() {
                return Some(End::HubGone);
            }
        }
        self.count_masters();
        None
    }

    pub(super) fn count_masters(&self) {
        self.counters.set_masters(self.roster.borrow().linked());
    }
}
