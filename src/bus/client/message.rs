//! A message that has come, and how it is answered.

use std::{
    fmt,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{
    super::{
        error::{BusError, Failure},
        frame::{self, Encoding, Frame, Kind, Space},
        id::{MasterId, ProcessId},
        payload::{self, Payload},
        stream::Stream,
        to::To,
    },
    attachment::Attachment,
    inbox::Item,
    outgoing::Words,
    shared::{Shared, check_payload},
};

/// A message that has come.
///
/// One that is a [request](Self::is_request) is answered with [`reply`](Self::reply),
/// [`refuse`](Self::refuse) or [`accept_stream`](Self::accept_stream). If the last copy of it is dropped
/// without, whoever waits is told that at once ([`Failure::Refused`]) and does not wait in vain.
///
/// What came in one packet lies in one piece of memory, up to 115 KiB, that is free when the last
/// message, or [`bytes`](Self::bytes) of one, has been dropped: copy what you keep for long.
#[derive(Clone)]
pub struct Message {
    /// The frame, whole and sound.
    bytes: Bytes,
    missed: u64,
    packet: PacketTag,
    /// Of a request, or one that brought a descriptor.
    errand: Option<Arc<Errand>>,
}

/// The packet that a message came in: its number and its size. Size 0: it has left it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PacketTag {
    pub(super) number: u64,
    pub(super) size: u32,
}

impl Message {
    /// The `frame` of the `packet` with this tag.
    #[inline]
    pub(super) fn new(frame: &Frame<'_>, packet: &Bytes, tag: PacketTag) -> Self {
        Self {
            bytes: packet.slice_ref(frame.bytes),
            missed: 0,
            packet: tag,
            errand: None,
        }
    }

    /// It wants an answer, or has brought something.
    pub(super) fn with_errand(mut self, shared: &Arc<Shared>, attached: Option<OwnedFd>) -> Self {
        let header = self.frame().header;
        let request = (header.kind == Kind::Request).then_some(Request {
            requester: header.from,
            id: header.id,
            deadline: header.deadline,
        });
        self.errand = Some(Arc::new(Errand {
            shared: Arc::clone(shared),
            request,
            fate: AtomicU8::new(UNHEARD),
            attachment: Mutex::new(attached.map(|fd| Attachment::new(header.attached, fd))),
            taken: AtomicBool::new(false),
        }));
        self
    }

    /// Who sent it, as the sender's hub says: nobody can pass for another.
    pub fn from(&self) -> ProcessId {
        self.frame().header.from
    }

    /// To whom it was sent, as far as it is known here: what has come from another master says whom it
    /// is for by name.
    pub fn to(&self) -> To {
        To::decode(self.frame().to).unwrap_or(To::Subscribers)
    }

    /// The topic that it was published to; of a message for an application or function, its
    /// [name](Self::name).
    pub fn topic(&self) -> &str {
        self.name()
    }

    /// The topic, `application` or `application/action`, or function.
    pub fn name(&self) -> &str {
        self.frame().name
    }

    /// What the name is the name of.
    pub fn space(&self) -> Space {
        self.frame().header.space
    }

    /// What an application is asked to do: what follows the slash in the [name](Self::name). Empty if
    /// nothing does.
    pub fn action(&self) -> &str {
        self.name().split_once('/').map_or("", |(_, action)| action)
    }

    /// The masters that it has come through, first the sender's own; none if that is this process's
    /// too.
    pub fn path(&self) -> Vec<MasterId> {
        self.frame().masters().collect()
    }

    /// How many messages were lost just before it, at the most. Those that this subscription had no
    /// room for are counted exactly. Those that the hub had no room for count for every subscription
    /// of this process, for nobody knows whose they were.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// How the payload is to be read.
    pub fn encoding(&self) -> Encoding {
        self.frame().header.encoding
    }

    /// The payload, as it came. No copy: it keeps all that came with it in memory.
    pub fn bytes(&self) -> Bytes {
        self.bytes.slice_ref(self.frame().payload)
    }

    /// The payload and how it is to be read, to be sent on. No copy, as [`bytes`](Self::bytes).
    pub fn payload(&self) -> Payload {
        Payload {
            encoding: self.encoding(),
            bytes: self.bytes(),
        }
    }

    /// What the payload says, as a `T`. Raw bytes are taken for JSON.
    ///
    /// # Errors
    /// [`BusError::Payload`]: it is no `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, BusError> {
        let frame = self.frame();
        payload::decode(frame.header.encoding, frame.payload)
    }

    /// Does the sender wait for an answer?
    pub fn is_request(&self) -> bool {
        self.frame().header.kind == Kind::Request
    }

    /// Answers. Only the first answer of a process counts; later ones go nowhere, nor do answers to a
    /// message that is no request.
    ///
    /// # Errors
    /// [`BusError::Invalid`]: over 64 KiB. [`BusError::Full`]: too much waits to be sent; try again
    /// after [`Bus::flush`](super::Bus::flush). [`BusError::Closed`].
    pub fn reply(&self, payload: impl Into<Payload>) -> Result<(), BusError> {
        let Payload { encoding, bytes } = payload.into();
        check_payload(&bytes)?;
        match &self.errand {
            Some(errand) => errand.answer(Kind::Reply, encoding, &bytes),
            None => Ok(()),
        }
    }

    /// Answers that it cannot be done: whoever waits gets [`Failure::Refused`] with this text, of which
    /// no more than 4 KiB go along. What came [attached](Self::take_attachment) goes back to its sender,
    /// so do not refuse what you have begun to use.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn refuse(&self, text: &str) -> Result<(), BusError> {
        self.fail(Failure::Refused, text)
    }

    /// Takes the other end of a stream that is [offered](super::Bus::open_stream), and answers. To be
    /// called inside a runtime.
    ///
    /// # Errors
    /// [`BusError::Invalid`]: no stream came with it, or it has been taken. [`BusError::Io`]: the
    /// runtime cannot register it. Others as [`reply`](Self::reply).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn accept_stream(&self) -> Result<Stream, BusError> {
        let none = || BusError::Invalid("no stream came with this message".into());
        if self.frame().header.attached != frame::Attached::Stream {
            return Err(none());
        }
        let end = self.take_attachment().ok_or_else(none)?;
        let stream = match Stream::new(end.into_fd(), self.from()) {
            Ok(stream) => stream,
            Err(error) => {
                self.fail(Failure::Refused, &crate::error::describe(&error))?;
                return Err(error.into());
            }
        };
        self.reply(Payload::raw(Bytes::new()))?;
        Ok(stream)
    }

    /// What came along with it; only the first who asks gets it.
    pub fn take_attachment(&self) -> Option<Attachment> {
        let errand = self.errand.as_ref()?;
        let attachment = errand.attachment();
        if attachment.is_some() {
            errand.taken.store(true, SeqCst);
        }
        attachment
    }

    /// Is it too late for it?
    pub(super) fn is_late(&self, now: impl FnOnce() -> u64) -> bool {
        let request = self.errand.as_ref().and_then(|errand| errand.request);
        request.is_some_and(|request| request.deadline != 0 && request.deadline < now())
    }

    /// Whoever waits for the answer is told so when the last copy is dropped, unless a copy fares
    /// better.
    pub(super) fn mark(&self, fate: u8) {
        if let Some(errand) = &self.errand {
            errand.fate.fetch_max(fate, SeqCst);
        }
    }

    /// It is shown, and this was lost before it.
    pub(super) fn shown(mut self, missed: u64) -> Self {
        self.mark(SHOWN);
        self.missed = missed;
        self
    }

    /// Answers that there will be no answer.
    pub(super) fn fail(&self, failure: Failure, text: &str) -> Result<(), BusError> {
        match &self.errand {
            Some(errand) => {
                errand.answer(Kind::Failure, Encoding::Raw, &failure.encode(text))?;
                // Nobody here has it any more, if nobody has taken it.
                drop(errand.attachment());
                Ok(())
            }
            None => Ok(()),
        }
    }

    #[inline]
    fn frame(&self) -> Frame<'_> {
        frame::decode(&self.bytes).expect("it was sound when it came")
    }
}

impl Item for Message {
    fn packet(&self) -> Option<(u64, usize)> {
        let PacketTag { number, size } = self.packet;
        (size > 0).then_some((number, size as usize))
    }

    fn size(&self) -> usize {
        self.bytes.len()
    }

    fn settle(&mut self) {
        self.bytes = Bytes::copy_from_slice(&self.bytes);
        self.packet.size = 0;
    }

    fn overflowed(&self) {
        self.mark(OVERFLOWED);
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = self.frame();
        f.debug_struct("Message")
            .field("from", &format_args!("{}", frame.header.from))
            .field("name", &frame.name)
            .field("kind", &frame.header.kind)
            .field("encoding", &frame.header.encoding)
            .field("bytes", &frame.payload.len())
            .finish_non_exhaustive()
    }
}

/// Nobody has seen it: whoever it was for does not listen any more.
const UNHEARD: u8 = 0;
/// There was no room for it.
pub(super) const OVERFLOWED: u8 = 1;
/// Nobody looked in time.
pub(super) const LATE: u8 = 2;
/// Somebody has it.
const SHOWN: u8 = 3;
/// Somebody has answered.
const ANSWERED: u8 = 4;

/// What all copies of a message share: one answer, one attachment.
struct Errand {
    shared: Arc<Shared>,
    request: Option<Request>,
    /// How the best of its copies fared.
    fate: AtomicU8,
    attachment: Mutex<Option<Attachment>>,
    taken: AtomicBool,
}

/// Who waits for the answer.
#[derive(Debug, Clone, Copy)]
struct Request {
    requester: ProcessId,
    id: u64,
    deadline: u64,
}

impl Errand {
    /// Answers, unless somebody has.
    fn answer(&self, kind: Kind, encoding: Encoding, payload: &[u8]) -> Result<(), BusError> {
        let Some(request) = self.request else {
            return Ok(());
        };
        let before = self.fate.swap(ANSWERED, SeqCst);
        if before == ANSWERED {
            return Ok(());
        }
        let said = self.shared.outgoing.say(Words {
            kind,
            space: Space::Topic,
            encoding,
            id: request.id,
            deadline: 0,
            to: &To::from(request.requester),
            name: "",
            payload,
            attached: None,
        });
        if said.is_err() {
            // It can be tried again.
            self.fate.store(before, SeqCst);
        }
        said
    }

    fn attachment(&self) -> Option<Attachment> {
        self.attachment
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        let (failure, text) = match self.fate.load(SeqCst) {
            ANSWERED => return,
            UNHEARD => (Failure::NoListener, ""),
            OVERFLOWED => (Failure::Overflow, ""),
            LATE => (Failure::Expired, ""),
            // What came along may be in use: nobody must think that it was not taken.
            _ if self.taken.load(SeqCst) => {
                (Failure::Gone, "what came along was taken, no answer given")
            }
            _ => (Failure::Refused, "dropped without an answer"),
        };
        // There may be no bus any more.
        let _ = self.answer(Kind::Failure, Encoding::Raw, &failure.encode(text));
    }
}
