//! A process's end of the bus.
//!
//! | file | what is there |
//! | --- | --- |
//! | `mod`, `request`, `application`, `function`, `attachment` | what a process can say |
//! | `subscription`, `presence`, `message`, `inbox` | what it hears |
//! | `shared`, `outgoing`, `incoming`, `interest` | what all its handles share |
//! | `task` | the task that serves the line |

use std::{fmt, io, os::fd::OwnedFd, sync::Arc};

use self::{
    outgoing::{Parcel, Words},
    shared::{Shared, You, check_payload, check_to, check_topic},
};
use super::{
    control::Ask,
    error::BusError,
    frame::{Attached, Kind, Space},
    id::ProcessId,
    line::Line,
    payload::Payload,
    to::To,
};

mod application;
mod attachment;
mod function;
mod inbox;
mod incoming;
mod interest;
mod message;
mod outgoing;
mod presence;
mod request;
mod shared;
mod subscription;
mod task;
#[cfg(test)]
mod tests;

pub use self::{
    application::Hosted,
    attachment::{Attachment, AttachmentError},
    function::Offered,
    message::Message,
    presence::PresenceEvents,
    shared::Counts,
    subscription::{Cut, Overflow, Subscribe, Subscription},
};

/// A process's place on the bus. Clones are the same place; when the last of them, and the last
/// subscription and the like that came from it, is dropped, what has been said is sent and the process
/// leaves.
///
/// Any task on any thread may use it. It never blocks a thread: what is said waits in memory, at most
/// 4 MiB of it, until the line takes it, and what comes waits with those who asked for it.
///
/// Messages from one process to another come in the order in which they were sent, each at most once.
/// Whoever does not keep up loses the oldest, and sees how many ([`Message::missed`]); nobody else is
/// slowed by it.
///
/// ```no_run
/// # async fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
/// use pointsman::bus::{Payload, To};
/// let mut said = bus.subscribe("room.*.said").await?;
/// bus.publish("room.7.said", Payload::json(&("ann", "hello"))?)?;
/// while let Some(Ok(message)) = said.next().await {
///     let (who, what): (String, String) = message.decode()?;
///     println!("{who}, in {}: {what}", message.topic());
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Bus {
    handle: Arc<Handle>,
}

/// The last one to go says good-bye.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.outgoing.leave();
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = *self.shared().place.borrow();
        let id = place.you.map(|you| you.id.to_string());
        f.debug_struct("Bus")
            .field("id", &id)
            .field("closed", &place.closed)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// Takes over a process's end of a line, and serves it on the runtime that this is called in: when
    /// that ends, the bus is [`BusError::Closed`].
    ///
    /// # Errors
    /// The runtime cannot register the line.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[doc(hidden)]
    pub fn connect(line: OwnedFd) -> io::Result<Self> {
        let line = Line::new(line)?;
        let shared = Shared::new();
        tokio::spawn(task::serve(Arc::clone(&shared), line));
        Ok(Self {
            handle: Arc::new(Handle { shared }),
        })
    }

    /// Who this process is.
    ///
    /// # Errors
    /// [`BusError::Closed`]: the hub has gone before it said so.
    pub async fn id(&self) -> Result<ProcessId, BusError> {
        self.you().await.map(|you| you.id)
    }

    /// The process above this one in the tree. `None` for the grand master itself.
    ///
    /// # Errors
    /// As [`id`](Self::id).
    pub async fn parent(&self) -> Result<Option<ProcessId>, BusError> {
        self.you().await.map(|you| you.parent)
    }

    /// The master at the top of the tree.
    ///
    /// # Errors
    /// As [`id`](Self::id).
    pub async fn grand_master(&self) -> Result<ProcessId, BusError> {
        self.you().await.map(|you| you.grand_master.process())
    }

    /// Is this process the master at the top of the tree?
    ///
    /// # Errors
    /// As [`id`](Self::id).
    pub async fn is_grand_master(&self) -> Result<bool, BusError> {
        let you = self.you().await?;
        Ok(you.id == you.grand_master.process())
    }

    /// Publishes: whoever has subscribed to `topic` gets it, wherever they are; this process too, if it
    /// has. Never waits, and makes no system call: what is said until the task at the line has its turn
    /// goes out together.
    ///
    /// # Errors
    /// [`BusError::Invalid`]: the topic is none, or the payload is over 64 KiB. [`BusError::Full`]: 4 MiB
    /// wait to be sent already; [`flush`](Self::flush) waits for room. [`BusError::Closed`].
    ///
    /// ```no_run
    /// # fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
    /// bus.publish("cache.dropped", "user:17")?;
    /// # Ok(()) }
    /// ```
    pub fn publish(&self, topic: &str, payload: impl Into<Payload>) -> Result<(), BusError> {
        self.send(To::Subscribers, topic, payload)
    }

    /// Sends to these, as far as they have subscribed to `topic`.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`BusError::Invalid`] for an address that names nobody, or more
    /// than 64 processes, or a route of more than 16. Whether anybody got it is not said: see
    /// [`request`](Self::request).
    ///
    /// ```no_run
    /// # fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
    /// # use pointsman::bus::To;
    /// bus.send(To::Siblings, "session.ended", "17")?;
    /// bus.send(To::Worker(0), "sweep", "")?;
    /// # Ok(()) }
    /// ```
    pub fn send(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
    ) -> Result<(), BusError> {
        check_topic(topic)?;
        self.say(
            Kind::Event,
            Space::Topic,
            &to.into(),
            topic,
            &payload.into(),
        )
    }

    /// Sends to everybody else who has subscribed: [`To::Everyone`].
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn broadcast(&self, topic: &str, payload: impl Into<Payload>) -> Result<(), BusError> {
        self.send(To::Everyone, topic, payload)
    }

    /// Sends to the parent, its parent and so on to the grand master, as far as they have subscribed:
    /// [`To::Ancestors`].
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn bubble(&self, topic: &str, payload: impl Into<Payload>) -> Result<(), BusError> {
        self.send(To::Ancestors, topic, payload)
    }

    /// Waits until all that has been said by now has gone into the line: before a process ends, or when
    /// there was no room for more.
    ///
    /// # Errors
    /// [`BusError::Closed`]: it never will.
    ///
    /// ```no_run
    /// # async fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
    /// # use pointsman::bus::BusError;
    /// for step in 0..1_000_000 {
    ///     while let Err(BusError::Full) = bus.publish("progress", step.to_string()) {
    ///         bus.flush().await?;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn flush(&self) -> Result<(), BusError> {
        match self.shared().outgoing.flushed()? {
            Some(flushed) => flushed.await.map_err(|_| BusError::Closed),
            None => Ok(()),
        }
    }

    /// Listens to what is published to `pattern`; when this returns, the hub knows. Dropping the
    /// subscription ends it.
    ///
    /// # Errors
    /// [`BusError::Invalid`]: the pattern is none. [`BusError::Failed`]: the hub refuses more.
    /// [`BusError::Closed`].
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscription, BusError> {
        self.subscription(pattern).open().await
    }

    /// The same, with a word on how much may wait and what happens when more comes.
    ///
    /// ```no_run
    /// # async fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
    /// # use pointsman::bus::Overflow;
    /// let orders = bus.subscription("order.>").queue(100).overflow(Overflow::Cut).open().await?;
    /// # Ok(()) }
    /// ```
    pub fn subscription(&self, pattern: &str) -> Subscribe {
        Subscribe::new(self.clone(), pattern)
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        self.shared().tally.counts()
    }

    /// Waits until there is no bus any more: the master has ended or has cut this process off, or the
    /// runtime that served the line is gone.
    pub async fn closed(&self) {
        let mut place = self.shared().place.subscribe();
        // An error would mean the same.
        let _ = place.wait_for(|place| place.closed).await;
    }

    /// Says something to the hub, without an answer; a line to be looked after is attached
    /// ([`Ask::Branch`]).
    ///
    /// # Errors
    /// [`BusError::Closed`], and [`BusError::Full`] if 64 descriptors wait to be sent already.
    pub(crate) fn ask(&self, ask: &Ask, line: Option<OwnedFd>) -> Result<(), BusError> {
        let attached = line.map(|line| (Attached::Line, Parcel::new(line)));
        self.shared().ask_with(ask, 0, attached)
    }

    /// Sends a message that has no answer.
    fn say(
        &self,
        kind: Kind,
        space: Space,
        to: &To,
        name: &str,
        payload: &Payload,
    ) -> Result<(), BusError> {
        check_to(to)?;
        check_payload(&payload.bytes)?;
        self.shared().outgoing.say(Words {
            kind,
            space,
            encoding: payload.encoding,
            id: 0,
            deadline: 0,
            to,
            name,
            payload: &payload.bytes,
            attached: None,
        })
    }

    /// What the hub says of this process, as soon as it has.
    async fn you(&self) -> Result<You, BusError> {
        let mut place = self.shared().place.subscribe();
        let known = place.wait_for(|place| place.you.is_some() || place.closed);
        let known = known.await.map_err(|_| BusError::Closed)?;
        known.you.ok_or(BusError::Closed)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}
