//! Subscriptions.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use tokio::task::coop::poll_proceed;

use super::{
    super::{control::Ask, error::BusError, topic},
    Bus,
    inbox::{Inbox, Next},
    message::{LATE, Message},
    shared::{Tally, check_pattern, reserved},
};
use crate::sys::clock::monotonic_ns;

/// Messages that may wait, unless something else is said.
pub(super) const QUEUE: usize = 1024;

/// What has been subscribed to, until this is dropped. Also a [`futures_util::Stream`].
#[derive(Debug)]
pub struct Subscription {
    bus: Bus,
    pattern: Arc<str>,
    inbox: Arc<Inbox<Message>>,
    key: usize,
}

impl Subscription {
    /// Waits for the next message. An error says that the subscription has been [cut](Overflow::Cut);
    /// `None`: that has been said, or the bus is closed. No message is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Message, Cut>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// What was subscribed to.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Messages that have been lost so far, at the most: see [`Message::missed`].
    pub fn missed(&self) -> u64 {
        self.inbox.all_missed()
    }

    /// The bus that it came from.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Cut>>> {
        poll_messages(&self.inbox, &self.bus.shared().tally, cx)
    }
}

impl Stream for Subscription {
    type Item = Result<Message, Cut>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let shared = self.bus.shared();
        let mut incoming = shared.incoming();
        if incoming.interest.remove(self.key) {
            // In the same breath, so that a new subscription to the same is not taken back. Without a bus
            // there is none to take back.
            let _ = shared.ask(&Ask::Unsubscribe(self.pattern.to_string()), 0);
        }
        drop(incoming);
        // Whoever waits for an answer to one of these is told.
        drop(self.inbox.discard());
    }
}

/// The next message for somebody who can be shown it. Requests that come too late are not.
pub(super) fn poll_messages(
    inbox: &Inbox<Message>,
    tally: &Tally,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Message, Cut>>> {
    // Under a flood there is always another message; others on this thread have their turns all the same.
    let turn = ready!(poll_proceed(cx));
    let next = next_message(inbox, tally, cx);
    if next.is_ready() {
        turn.made_progress();
    }
    next
}

fn next_message(
    inbox: &Inbox<Message>,
    tally: &Tally,
    cx: &Context<'_>,
) -> Poll<Option<Result<Message, Cut>>> {
    loop {
        match inbox.poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Next::End) => return Poll::Ready(None),
            Poll::Ready(Next::Cut(missed)) => return Poll::Ready(Some(Err(Cut { missed }))),
            Poll::Ready(Next::Item(message, _)) if message.is_late(monotonic_ns) => {
                tally.late.fetch_add(1, Relaxed);
                message.mark(LATE);
            }
            Poll::Ready(Next::Item(message, missed)) => {
                return Poll::Ready(Some(Ok(message.shown(missed))));
            }
        }
    }
}

/// How to subscribe; [`open`](Self::open) does.
#[derive(Debug)]
#[must_use = "nothing is subscribed to before `open`"]
pub struct Subscribe {
    bus: Bus,
    pattern: String,
    queue: usize,
    overflow: Overflow,
    reserved: bool,
}

impl Subscribe {
    pub(super) fn new(bus: Bus, pattern: &str) -> Self {
        Self {
            bus,
            pattern: pattern.into(),
            queue: QUEUE,
            overflow: Overflow::default(),
            reserved: false,
        }
    }

    /// How many messages may wait for whoever reads the subscription; 1,024 unless something else is
    /// said, and never none. Nor do they ever hold more than 4 MiB of memory.
    pub fn queue(self, messages: usize) -> Self {
        Self {
            queue: messages,
            ..self
        }
    }

    /// What happens when more come.
    pub fn overflow(self, overflow: Overflow) -> Self {
        Self { overflow, ..self }
    }

    /// For one of the library's own topics, which begin with `$`.
    pub(crate) fn reserved(self) -> Self {
        Self {
            reserved: true,
            ..self
        }
    }

    /// Subscribes; when this returns, the hub knows.
    ///
    /// # Errors
    /// As [`Bus::subscribe`].
    pub async fn open(self) -> Result<Subscription, BusError> {
        check_pattern(&self.pattern)?;
        if topic::is_reserved(&self.pattern) && !self.reserved {
            return Err(reserved(&self.pattern));
        }
        let (subscription, known) = {
            let shared = self.bus.shared();
            let mut incoming = shared.incoming();
            let known = incoming.ask(shared, Ask::Subscribe(self.pattern.clone()))?;
            let inbox = Arc::new(Inbox::new(self.queue, self.overflow));
            let pattern: Arc<str> = self.pattern.into();
            // Before the hub knows: the first message may come right behind its answer.
            let key = incoming
                .interest
                .add(Arc::clone(&pattern), Arc::clone(&inbox));
            drop(incoming);
            let subscription = Subscription {
                bus: self.bus,
                pattern,
                inbox,
                key,
            };
            (subscription, known)
        };
        known.await.unwrap_or(Err(BusError::Closed))?;
        Ok(subscription)
    }
}

/// What happens when more messages come than may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest are lost, and the next that is read [says](Message::missed) how many: whoever falls
    /// behind has the latest.
    #[default]
    LoseOldest,
    /// The subscription ends with an error once those that wait have been read, for whoever would rather
    /// begin anew than go on with a gap. It ends too when something was lost on the way to this process
    /// that may have been for it.
    Cut,
}

/// A subscription has ended, for it could not take all that came ([`Overflow::Cut`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// Messages that were lost by then, at the most; more may have been since.
    pub missed: u64,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missed = self.missed;
        write!(
            f,
            "the subscription was cut, for it has lost {missed} messages"
        )
    }
}

impl std::error::Error for Cut {}
