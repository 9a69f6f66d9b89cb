//! Requests, and what is asked of the hub.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    super::{
        control::Ask,
        error::{BusError, Failure},
        frame::{Attached, Kind, Space},
        payload::Payload,
        peer::Peer,
        to::To,
    },
    Bus,
    message::Message,
    outgoing::{Parcel, Words},
    shared::{Shared, check_payload, check_to, check_topic},
};
use crate::sys::clock::monotonic_ns;

/// A request to be.
pub(super) struct Question<'a> {
    pub(super) space: Space,
    pub(super) to: To,
    pub(super) name: &'a str,
    pub(super) payload: Payload,
    pub(super) attached: Option<(Attached, Arc<Parcel>)>,
    pub(super) deadline: Duration,
}

impl Bus {
    /// Sends a request and waits for the answer, `deadline` at the most. If it goes to several, the
    /// first answer counts, and it fails when the last of them has failed. Dropping the future is giving
    /// up on it.
    ///
    /// # Errors
    /// [`BusError::Failed`]: nobody is there, or listens, or had room for it; whoever had it has ended,
    /// or refused it; or there was no answer in time ([`Failure::Expired`]), and then nobody knows
    /// whether it has been acted upon. Others as [`send`](Bus::send).
    ///
    /// # Panics
    /// Outside a tokio runtime, or in one without timers.
    ///
    /// ```no_run
    /// # async fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
    /// # use std::time::Duration;
    /// # use pointsman::bus::To;
    /// let second = Duration::from_secs(1);
    /// let answer = bus.request(To::GrandMaster, "time.now", "", second).await?;
    /// println!("{} says {:?}", answer.from(), answer.bytes());
    /// # Ok(()) }
    /// ```
    pub async fn request(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
        deadline: Duration,
    ) -> Result<Message, BusError> {
        check_topic(topic)?;
        self.put(Question {
            space: Space::Topic,
            to: to.into(),
            name: topic,
            payload: payload.into(),
            attached: None,
            deadline,
        })
        .await
        .map_err(Unanswered::into_error)
    }

    /// Who is there: all that this process can reach, itself included.
    ///
    /// # Errors
    /// [`BusError::Closed`], and [`BusError::Payload`] if the hub speaks another language.
    pub async fn peers(&self) -> Result<Vec<Peer>, BusError> {
        let peers = self.shared().incoming().ask_for_peers(self.shared())?;
        peers.await.unwrap_or(Err(BusError::Closed))
    }

    /// Puts a question, and waits for the answer.
    pub(super) async fn put(&self, question: Question<'_>) -> Result<Message, Unanswered> {
        check_to(&question.to).map_err(Unanswered::Here)?;
        check_payload(&question.payload.bytes).map_err(Unanswered::Here)?;
        let (waiter, answer) = self.question(&question).map_err(Unanswered::Here)?;
        let answer = tokio::time::timeout(question.deadline, answer).await;
        drop(waiter);
        match answer {
            Ok(Ok(Ok(message))) => Ok(message),
            Ok(Ok(Err(error))) => Err(Unanswered::There(error)),
            Ok(Err(_closed)) => Err(Unanswered::Unknown(BusError::Closed)),
            Err(_elapsed) => Err(Unanswered::Unknown(BusError::Failed(
                Failure::Expired,
                String::new(),
            ))),
        }
    }

    fn question(
        &self,
        question: &Question<'_>,
    ) -> Result<(Waiter<'_>, oneshot::Receiver<Result<Message, BusError>>), BusError> {
        let shared = self.shared();
        let time = u64::try_from(question.deadline.as_nanos()).unwrap_or(u64::MAX);
        let deadline = monotonic_ns().saturating_add(time);
        let (id, answer) = shared.incoming().request(|id| {
            shared.outgoing.say(Words {
                kind: Kind::Request,
                space: question.space,
                encoding: question.payload.encoding,
                id,
                deadline,
                to: &question.to,
                name: question.name,
                payload: &question.payload.bytes,
                attached: question.attached.clone(),
            })
        })?;
        Ok((Waiter { shared, id }, answer))
    }

    /// Asks the hub for something, and waits until it has it.
    pub(super) async fn have(&self, ask: Ask) -> Result<(), BusError> {
        let done = self.shared().incoming().ask(self.shared(), ask)?;
        done.await.unwrap_or(Err(BusError::Closed))
    }
}

/// Why a question has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// It was not sent.
    Here(BusError),
    /// The hub or the receiver says so.
    There(BusError),
    /// Nobody knows what became of it.
    Unknown(BusError),
}

impl Unanswered {
    pub(super) fn into_error(self) -> BusError {
        match self {
            Self::Here(error) | Self::There(error) | Self::Unknown(error) => error,
        }
    }
}

/// Somebody waits for an answer; not any more when this is dropped.
struct Waiter<'a> {
    shared: &'a Arc<Shared>,
    id: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.shared.incoming().forget(self.id);
    }
}
