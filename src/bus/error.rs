//! What can go wrong with a message.

use std::{fmt, io};

/// Why a request gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Failure {
    /// Nobody is there by this address.
    Unroutable = 1,
    /// Whoever is there does not listen to this topic, application or function.
    NoListener = 2,
    /// Nobody hosts this application.
    NoHost = 3,
    /// The receiver has too much waiting already.
    Overflow = 4,
    /// The receiver has ended before it answered, or its answer was lost on the way: nobody knows what it
    /// has done.
    Gone = 5,
    /// It was too late when the receiver came to it.
    Expired = 6,
    /// The receiver could not make sense of it, or failed: the text that it sends along says how.
    Refused = 7,
}

impl Failure {
    /// As it travels.
    pub(crate) fn from_tag(tag: u8) -> Option<Self> {
        Some(match tag {
            1 => Self::Unroutable,
            2 => Self::NoListener,
            3 => Self::NoHost,
            4 => Self::Overflow,
            5 => Self::Gone,
            6 => Self::Expired,
            7 => Self::Refused,
            _ => return None,
        })
    }

    /// The payload of a frame that says so: the tag, then `text`, as much of it as there is room for.
    pub(crate) fn encode(self, text: &str) -> Vec<u8> {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = vec![self as u8];
        bytes.extend_from_slice(&text.as_bytes()[..end]);
        bytes
    }

    /// Reads what [`encode`](Self::encode) has written. A failure of a kind that a later version knows
    /// is a refusal.
    pub(crate) fn decode(payload: &[u8]) -> (Self, String) {
        let (tag, text) = payload.split_first().unwrap_or((&0, &[]));
        let failure = Self::from_tag(*tag).unwrap_or(Self::Refused);
        (failure, String::from_utf8_lossy(text).into_owned())
    }
}

/// The longest text that goes with a failure, in bytes.
const MAX_TEXT: usize = 4096;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unroutable => "nobody is there by this address",
            Self::NoListener => "whoever is there does not listen to this",
            Self::NoHost => "nobody hosts this application",
            Self::Overflow => "the receiver has too much waiting already",
            Self::Gone => "the receiver has ended before it answered, or the answer was lost",
            Self::Expired => "no answer in time",
            Self::Refused => "the receiver has refused it",
        })
    }
}

/// What a call on the bus can fail with.
#[derive(Debug)]
#[non_exhaustive]
pub enum BusError {
    /// The hub or the receiver says so, with what the receiver has to say about it.
    Failed(Failure, String),
    /// So many messages wait to be sent that this one was not taken: [`Bus::flush`](super::Bus::flush)
    /// waits for room.
    Full,
    /// A topic, pattern, name or address that cannot be, or a payload over 64 KiB: the text says what.
    Invalid(String),
    /// The payload is not what it was taken for.
    Payload(String),
    /// There is no bus any more: the master has ended, or has cut this process off.
    Closed,
    /// The machine did not let it happen.
    Io(io::Error),
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure, text) if text.is_empty() => failure.fmt(f),
            Self::Failed(failure, text) => write!(f, "{failure}: {text}"),
            Self::Full => f.write_str("too many messages wait to be sent"),
            Self::Invalid(text) => f.write_str(text),
            Self::Payload(text) => write!(f, "the payload cannot be read: {text}"),
            Self::Closed => f.write_str("the bus is closed"),
            Self::Io(error) => f.write_str(&crate::error::describe(error)),
        }
    }
}

impl std::error::Error for BusError {}

impl From<io::Error> for BusError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
