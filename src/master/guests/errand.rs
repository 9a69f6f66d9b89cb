//! What takes no more than the bus, and is over when it is done.

use serde_json::Value;

use crate::{
    bus::{Bus, BusError, Message, Peer, ProcessId},
    control::bus::{Errand, Event, Shown},
};

/// What has come of an errand.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is done, and there is nothing more to say.
    Done,
    /// Somebody has answered this; of a function's result nobody is named.
    Answered(Option<ProcessId>, Shown),
    /// These are there.
    Peers(Vec<Peer>),
}

impl Outcome {
    /// What the guest is told of the order with this id.
    pub(super) fn into_event(self, id: Option<Value>) -> Event {
        match self {
            Self::Done => Event::Ok { id },
            Self::Answered(from, payload) => Event::Reply { id, from, payload },
            Self::Peers(peers) => Event::Peers { id, peers },
        }
    }
}

/// Is this over at once, so that what comes after it can wait for it?
pub(super) fn is_quick(errand: &Errand) -> bool {
    matches!(errand, Errand::Publish { .. } | Errand::Tell { .. })
}

/// Runs it. Where too much waits to be sent, it waits, too: whoever gives orders faster than the bus takes
/// them is slowed down.
///
/// # Errors
/// It does not work.
pub(super) async fn run(bus: &Bus, errand: Errand) -> Result<Outcome, BusError> {
    loop {
        match attempt(bus, &errand).await {
            Err(BusError::Full) => bus.flush().await?,
            outcome => return outcome,
        }
    }
}

/// Runs it if there is room for it.
async fn attempt(bus: &Bus, errand: &Errand) -> Result<Outcome, BusError> {
    let answered = |message: Message| {
        let payload = Shown::of(message.encoding(), &message.bytes());
        Outcome::Answered(Some(message.from()), payload)
    };
    Ok(match errand {
        Errand::Publish { to, topic, payload } => {
            bus.send(to.clone(), topic, payload.clone())?;
            Outcome::Done
        }
        Errand::Tell {
            application,
            payload,
        } => {
            bus.tell(application, payload.clone())?;
            Outcome::Done
        }
        Errand::Request {
            to,
            topic,
            payload,
            deadline,
        } => {
            let asked = bus.request(to.clone(), topic, payload.clone(), *deadline);
            answered(asked.await?)
        }
        Errand::Call {
            application,
            action,
            payload,
            balance,
            deadline,
        } => {
            let asked = bus.call_with(*balance, application, action, payload.clone(), *deadline);
            answered(asked.await?)
        }
        Errand::Run {
            process,
            function,
            arguments,
            deadline,
        } => {
            let result = bus.run_in_node(*process, function, arguments, *deadline);
            Outcome::Answered(None, Shown::Payload(result.await?))
        }
        Errand::Peers => Outcome::Peers(bus.peers().await?),
    })
}
