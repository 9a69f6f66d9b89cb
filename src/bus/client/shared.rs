//! What all handles of one place on the bus share, and what may be said there.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::watch;

use super::{
    super::{
        control::Ask,
        error::BusError,
        frame::{Attached, Encoding, Kind, MAX_NAMED, MAX_PATH, MAX_PAYLOAD, Space},
        id::{MasterId, ProcessId},
        to::To,
        topic::{self, is_reserved},
    },
    incoming::Incoming,
    outgoing::{Outgoing, Parcel, Words},
};

/// What the handles share with the task at the line. Where both locks are needed that of `incoming` is
/// taken first; no code of a user is run under either.
pub(super) struct Shared {
    pub(super) outgoing: Outgoing,
    incoming: Mutex<Incoming>,
    /// Who this process is, once the hub has said so.
    pub(super) place: watch::Sender<Place>,
    pub(super) tally: Tally,
}

/// What the hub has said of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) you: Option<You>,
    pub(super) closed: bool,
}

/// Who a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct You {
    pub(super) id: ProcessId,
    pub(super) parent: Option<ProcessId>,
    pub(super) grand_master: MasterId,
}

/// What has been counted since the line was taken over.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) received: AtomicU64,
    pub(super) lost_on_the_way: AtomicU64,
    pub(super) lost_here: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) unheard: AtomicU64,
}

/// What a process has had of the bus, as [`Bus::counts`](super::Bus::counts) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Frames that have come through the line: messages, answers and news.
    pub received: u64,
    /// Those that have not, for the hub had no room for them.
    pub lost_on_the_way: u64,
    /// Messages that a subscription had no room for.
    pub lost_here: u64,
    /// Requests that nobody here looked at in time.
    pub late: u64,
    /// Messages for which nobody listened here any more when they came.
    pub unheard: u64,
}

impl Tally {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            received: self.received.load(Relaxed),
            lost_on_the_way: self.lost_on_the_way.load(Relaxed),
            lost_here: self.lost_here.load(Relaxed),
            late: self.late.load(Relaxed),
            unheard: self.unheard.load(Relaxed),
        }
    }
}

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        let place = Place {
            you: None,
            closed: false,
        };
        Arc::new(Self {
            outgoing: Outgoing::new(),
            incoming: Mutex::new(Incoming::new()),
            place: watch::Sender::new(place),
            tally: Tally::default(),
        })
    }

    pub(super) fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing will come or go any more: whoever waits for anything is told so.
    pub(super) fn close(&self) {
        self.outgoing.close();
        let mut ended = self.incoming().close();
        // Woken and dropped without the lock.
        ended.settle();
        self.place.send_modify(|place| place.closed = true);
    }

    /// Says something to the hub. An `id` gets an answer.
    pub(super) fn ask(&self, ask: &Ask, id: u64) -> Result<(), BusError> {
        self.ask_with(ask, id, None)
    }

    /// The same, with a descriptor.
    pub(super) fn ask_with(
        &self,
        ask: &Ask,
        id: u64,
        attached: Option<(Attached, Arc<Parcel>)>,
    ) -> Result<(), BusError> {
        let payload = rmp_serde::to_vec_named(ask).map_err(|e| BusError::Payload(e.to_string()))?;
        check_payload(&payload)?;
        self.outgoing.say(Words {
            kind: Kind::Ask,
            space: Space::Topic,
            encoding: Encoding::Compact,
            id,
            deadline: 0,
            to: &To::Parent,
            name: "",
            payload: &payload,
            attached,
        })
    }
}

/// May this be sent?
///
/// # Errors
/// [`BusError::Invalid`]: it is too large.
pub(super) fn check_payload(payload: &[u8]) -> Result<(), BusError> {
    match payload.len() {
        ..=MAX_PAYLOAD => Ok(()),
        size => Err(BusError::Invalid(format!(
            "a message of {size} bytes, of at most {MAX_PAYLOAD}: send it by a stream"
        ))),
    }
}

/// May this be published to?
///
/// # Errors
/// [`BusError::Invalid`]: it is no topic.
#[inline]
pub(super) fn check_topic(topic: &str) -> Result<(), BusError> {
    if is_reserved(topic) {
        return Err(reserved(topic));
    }
    match topic::is_topic(topic) {
        true => Ok(()),
        false => Err(BusError::Invalid(format!(
            "{topic:?} is no topic: words with dots between them, without * or >, at most 255 bytes"
        ))),
    }
}

/// May this be subscribed to?
///
/// # Errors
/// [`BusError::Invalid`]: it is no pattern.
pub(super) fn check_pattern(pattern: &str) -> Result<(), BusError> {
    match topic::is_pattern(pattern) {
        true => Ok(()),
        false => Err(BusError::Invalid(format!(
            "{pattern:?} is no pattern: words with dots between them, * for one word, > for all that \
             follow, at most 255 bytes"
        ))),
    }
}

/// This one is for the library itself.
pub(super) fn reserved(topic: &str) -> BusError {
    BusError::Invalid(format!(
        "{topic:?}: names that begin with $ are this library's own"
    ))
}

/// May an application or function be called so?
///
/// # Errors
/// [`BusError::Invalid`]: it may not.
pub(super) fn check_name(name: &str) -> Result<(), BusError> {
    if is_reserved(name) {
        return Err(reserved(name));
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    match name.len() {
        1..=MAX_NAME if !name.contains(odd) => Ok(()),
        _ => Err(BusError::Invalid(format!(
            "{name:?} is no name: 1 to {MAX_NAME} bytes without a space or a slash"
        ))),
    }
}

/// The longest name of an application or function, in bytes.
const MAX_NAME: usize = 127;
/// The longest name and action together, with the slash.
pub(super) const MAX_NAME_AND_ACTION: usize = 255;

/// Can a message go there?
///
/// # Errors
/// [`BusError::Invalid`]: it names nobody, or too many.
#[inline]
pub(super) fn check_to(to: &To) -> Result<(), BusError> {
    let (named, most) = match to {
        To::Processes(processes) => (processes.len(), MAX_NAMED),
        To::Route(processes) => (processes.len(), MAX_PATH),
        _ => return Ok(()),
    };
    match named {
        0 => Err(BusError::Invalid("an address that names nobody".into())),
        _ if named > most => Err(BusError::Invalid(format!(
            "an address that names {named} processes, of at most {most}"
        ))),
        _ => Ok(()),
    }
}
