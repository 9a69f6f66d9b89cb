//! Messages that bring a descriptor.

use std::{fmt, os::fd::OwnedFd, sync::Arc, time::Duration};

use super::{
    super::{
        error::{BusError, Failure},
        frame::{Attached, Kind, Space},
        payload::Payload,
        stream::{self, Stream},
        to::To,
    },
    Bus,
    message::Message,
    outgoing::{Parcel, Words},
    request::{Question, Unanswered},
    shared::{check_payload, check_to, check_topic},
};

/// A descriptor that goes along with a message, to one receiver on the same machine.
#[derive(Debug)]
pub struct Attachment {
    kind: Attached,
    fd: OwnedFd,
}

/// A message with an attachment was not sent, or has no answer.
#[derive(Debug)]
#[non_exhaustive]
pub struct AttachmentError {
    /// Why.
    pub error: BusError,
    /// What was attached, if nobody has taken it: it can be used as before. `None`: nobody knows whether
    /// the receiver has it, for it has ended or did not answer in time.
    pub attachment: Option<Attachment>,
}

impl Attachment {
    pub(super) fn new(kind: Attached, fd: OwnedFd) -> Self {
        Self { kind, fd }
    }

    /// A connection, with its client at the other end.
    pub fn connection(socket: impl Into<OwnedFd>) -> Self {
        Self::new(Attached::Connection, socket.into())
    }

    /// A listening socket.
    pub fn listener(socket: impl Into<OwnedFd>) -> Self {
        Self::new(Attached::Listener, socket.into())
    }

    /// A datagram socket.
    pub fn datagram(socket: impl Into<OwnedFd>) -> Self {
        Self::new(Attached::Datagram, socket.into())
    }

    /// What it is, as the sender says: whoever uses it looks.
    pub fn kind(&self) -> Attached {
        self.kind
    }

    /// The descriptor, non-blocking or not as the sender had it.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl fmt::Display for AttachmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for AttachmentError {}

impl From<AttachmentError> for BusError {
    fn from(error: AttachmentError) -> Self {
        error.error
    }
}

impl Bus {
    /// Sends a message with a descriptor, and does not wait for anything. If nobody listens, or several
    /// do, it is closed on the way and nobody is told; see [`request_attached`](Self::request_attached).
    ///
    /// # Errors
    /// As [`send`](Self::send), [`BusError::Full`] also if 64 descriptors wait to be sent already; what
    /// was attached comes back with it.
    pub fn send_attached(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
        attachment: Attachment,
    ) -> Result<(), AttachmentError> {
        match check_topic(topic) {
            Ok(()) => self.send_attached_reserved(to, topic, payload, attachment),
            Err(error) => Err(given_back(error, attachment)),
        }
    }

    /// The same, also to one of the library's own topics, which begin with `$`.
    ///
    /// # Errors
    /// As [`send_attached`](Self::send_attached).
    pub(crate) fn send_attached_reserved(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
        attachment: Attachment,
    ) -> Result<(), AttachmentError> {
        let (to, payload) = (to.into(), payload.into());
        let Attachment { kind, fd } = attachment;
        let parcel = Parcel::new(fd);
        let sound = check_to(&to).and_then(|()| check_payload(&payload.bytes));
        let said = sound.and_then(|()| {
            self.shared().outgoing.say(Words {
                kind: Kind::Event,
                space: Space::Topic,
                encoding: payload.encoding,
                id: 0,
                deadline: 0,
                to: &to,
                name: topic,
                payload: &payload.bytes,
                attached: Some((kind, Arc::clone(&parcel))),
            })
        });
        said.map_err(|error| AttachmentError {
            error,
            attachment: parcel.take().map(|fd| Attachment { kind, fd }),
        })
    }

    /// Sends a request with a descriptor, and waits for the answer, `deadline` at the most. This process
    /// keeps it open until it is answered: if nobody was there to take it, or the receiver had no room
    /// for it or refused it, it comes back and can be used as before.
    ///
    /// Exactly one process must be meant, on this machine.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    ///
    /// # Panics
    /// As [`request`](Self::request).
    pub async fn request_attached(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
        attachment: Attachment,
        deadline: Duration,
    ) -> Result<Message, AttachmentError> {
        match check_topic(topic) {
            Ok(()) => {
                self.request_attached_reserved(to, topic, payload, attachment, deadline)
                    .await
            }
            Err(error) => Err(given_back(error, attachment)),
        }
    }

    /// The same, also to one of the library's own topics, which begin with `$`.
    ///
    /// # Errors
    /// As [`request_attached`](Self::request_attached).
    pub(crate) async fn request_attached_reserved(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
        attachment: Attachment,
        deadline: Duration,
    ) -> Result<Message, AttachmentError> {
        let Attachment { kind, fd } = attachment;
        let parcel = Withdrawn(Parcel::new(fd));
        let parcel = &parcel.0;
        let question = Question {
            space: Space::Topic,
            to: to.into(),
            name: topic,
            payload: payload.into(),
            attached: Some((kind, Arc::clone(parcel))),
            deadline,
        };
        let unanswered = match self.put(question).await {
            Ok(message) => return Ok(message),
            Err(unanswered) => unanswered,
        };
        let fd = match &unanswered {
            Unanswered::Here(_) => parcel.take(),
            Unanswered::There(error) if is_untouched(error) => parcel.take(),
            Unanswered::There(_) => None,
            // It may be in the hands of the receiver, if it has gone at all.
            Unanswered::Unknown(_) => parcel.withdraw(),
        };
        Err(AttachmentError {
            error: unanswered.into_error(),
            attachment: fd.map(|fd| Attachment { kind, fd }),
        })
    }

    /// Opens a stream of bytes to another process on this machine: a request that brings one end of it,
    /// which the receiver takes by [`Message::accept_stream`]. The bytes do not go through the master.
    ///
    /// # Errors
    /// [`BusError::Io`]: no more open files. Others as [`request`](Self::request).
    ///
    /// # Panics
    /// As [`request`](Self::request).
    ///
    /// ```no_run
    /// # async fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
    /// # use std::time::Duration;
    /// # use pointsman::bus::{BusError, To};
    /// use tokio::io::AsyncWriteExt;
    /// let mut copy = bus.open_stream(To::Worker(1), "copy", "", Duration::from_secs(1)).await?;
    /// copy.write_all(b"as much as you like").await?;
    /// copy.shutdown().await?;
    /// # Ok(()) }
    /// ```
    pub async fn open_stream(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
        deadline: Duration,
    ) -> Result<Stream, BusError> {
        let (ours, theirs) = stream::pair()?;
        let theirs = Attachment::new(Attached::Stream, theirs);
        let answer = self
            .request_attached(to, topic, payload, theirs, deadline)
            .await?;
        Ok(Stream::new(ours, answer.from())?)
    }
}

/// Has the receiver surely left alone what came along, if this is the answer?
fn is_untouched(error: &BusError) -> bool {
    use Failure::{Expired, NoHost, NoListener, Overflow, Refused, Unroutable};
    // `Gone`: it may have had it.
    matches!(
        error,
        BusError::Failed(
            Unroutable | NoListener | NoHost | Overflow | Expired | Refused,
            _
        )
    )
}

fn given_back(error: BusError, attachment: Attachment) -> AttachmentError {
    AttachmentError {
        error,
        attachment: Some(attachment),
    }
}

/// A parcel that is not sent any more, if it has not been, when its sender gives up.
struct Withdrawn(Arc<Parcel>);

impl Drop for Withdrawn {
    fn drop(&mut self) {
        drop(self.0.withdraw());
    }
}
