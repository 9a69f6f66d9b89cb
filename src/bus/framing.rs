//! Values over a stream of bytes, one after the other.

use std::{fmt, io};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{self, Decoder, Encoder};

use super::{error::BusError, frame::Encoding, payload};

/// The largest value, in bytes, unless something else is said.
const LARGEST: usize = 1024 * 1024;
/// What `multi-node` has before and after each value. Neither is part of any UTF-8 text of JSON: control
/// characters are escaped in it, and no character has 0xFF in it.
const BEGIN: u8 = 0x00;
const END: u8 = 0xFF;
/// Bytes of a length.
const PREFIX: usize = 4;

/// Values over a stream of bytes: [`send`](Self::send) one here, have it come out of
/// [`next`](Self::next) there. Over a [`Stream`](super::Stream), a TCP connection or anything else that
/// reads and writes.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
/// use pointsman::bus::Framed;
/// let (here, there) = tokio::io::duplex(64);
/// let (mut here, mut there) = (Framed::length_prefixed(here), Framed::length_prefixed(there));
/// here.send(&("three", 3)).await.expect("sent");
/// let said: Option<(String, u8)> = there.next().await.expect("come");
/// assert_eq!(said, Some(("three".into(), 3)));
/// # });
/// ```
#[derive(Debug)]
pub struct Framed<S> {
    inner: codec::Framed<S, Codec>,
    encoding: Encoding,
}

/// Why a value did not go or come.
#[derive(Debug)]
#[non_exhaustive]
pub enum FrameError {
    /// A value of so many bytes, of at most so many. When it came: the stream is of no use any more.
    TooLarge(u64, usize),
    /// This byte stood where a value was to begin: the other end does not frame as this one does. The
    /// stream is of no use any more.
    Garbage(u8),
    /// The stream has ended in the middle of a value.
    Cut,
    /// A value cannot be written, or is not what it was taken for. The next may be.
    Value(BusError),
    /// The stream itself has failed.
    Io(io::Error),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    /// Each value as JSON, with its length before it: 4 bytes, big-endian.
    pub fn length_prefixed(stream: S) -> Self {
        Self::new(stream, Form::LengthPrefixed, Encoding::Json)
    }

    /// Each value as JSON, with a byte 0x00 before it and a byte 0xFF after it: what the Node project
    /// `multi-node` speaks.
    pub fn multi_node(stream: S) -> Self {
        Self::new(stream, Form::MultiNode, Encoding::Json)
    }

    fn new(stream: S, form: Form, encoding: Encoding) -> Self {
        let codec = Codec {
            form,
            largest: LARGEST,
            looked_at: 0,
        };
        Self {
            inner: codec::Framed::new(stream, codec),
            encoding,
        }
    }

    /// MessagePack instead of JSON, where lengths go before values: smaller and faster. Both ends must
    /// say so. `multi-node` knows JSON only, and stays with it.
    #[must_use]
    pub fn compact(self) -> Self {
        let encoding = match self.inner.codec().form {
            Form::LengthPrefixed => Encoding::Compact,
            Form::MultiNode => Encoding::Json,
        };
        Self { encoding, ..self }
    }

    /// The largest value that is sent or taken, in bytes; 1 MiB unless something else is said, 4 GiB at
    /// the most.
    #[must_use]
    pub fn largest(mut self, bytes: usize) -> Self {
        self.inner.codec_mut().largest = bytes.min(u32::MAX as usize);
        self
    }

    /// Sends a value, and waits until the stream has taken it. If the future is dropped, the rest of the
    /// value goes before the next.
    ///
    /// # Errors
    /// [`FrameError::Value`] and [`FrameError::TooLarge`]: nothing of it was sent.
    /// [`FrameError::Io`]: nobody knows.
    pub async fn send<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), FrameError> {
        let bytes = match self.encoding {
            Encoding::Compact => rmp_serde::to_vec_named(value).map_err(unreadable)?,
            Encoding::Json | Encoding::Raw => serde_json::to_vec(value).map_err(unreadable)?,
        };
        self.inner.send(bytes).await
    }

    /// Waits for the next value. `None`: the stream has ended after the last. No value is lost if the
    /// future is dropped.
    ///
    /// # Errors
    /// As the variants of [`FrameError`] say; after anything but [`FrameError::Value`] there is nothing
    /// more.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        match self.inner.next().await {
            None => Ok(None),
            Some(Err(error)) => Err(error),
            Some(Ok(bytes)) => payload::decode(self.encoding, &bytes)
                .map(Some)
                .map_err(FrameError::Value),
        }
    }

    /// The stream again. What it has brought and was not asked for is lost.
    pub fn into_inner(self) -> S {
        self.inner.into_inner()
    }
}

fn unreadable(error: impl fmt::Display) -> FrameError {
    FrameError::Value(BusError::Payload(error.to_string()))
}

/// How a value is told from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    LengthPrefixed,
    MultiNode,
}

/// Frames ↔ bytes.
#[derive(Debug)]
struct Codec {
    form: Form,
    largest: usize,
    /// So many bytes of a value have been looked at for its end.
    looked_at: usize,
}

impl Codec {
    fn fits(&self, size: u64) -> Result<usize, FrameError> {
        match usize::try_from(size) {
            Ok(fitting) if fitting <= self.largest => Ok(fitting),
            _ => Err(FrameError::TooLarge(size, self.largest)),
        }
    }

    /// Room is made as bytes come, not as a length says that they will.
    fn after_length(&self, bytes: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = bytes.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = self.fits(u64::from(u32::from_be_bytes(*length)))?;
        if bytes.len() < PREFIX + length {
            return Ok(None);
        }
        bytes.advance(PREFIX);
        Ok(Some(bytes.split_to(length).freeze()))
    }

    fn between_marks(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        match bytes.first() {
            None => return Ok(None),
            Some(&BEGIN) => {}
            Some(&other) => return Err(FrameError::Garbage(other)),
        }
        let value = &bytes[1..];
        let end = value[self.looked_at..].iter().position(|byte| *byte == END);
        let Some(end) = end.map(|end| self.looked_at + end) else {
            self.looked_at = value.len();
            // One more than may be, and there is no end to it yet.
            self.fits(value.len() as u64)?;
            return Ok(None);
        };
        self.looked_at = 0;
        self.fits(end as u64)?;
        bytes.advance(1);
        let value = bytes.split_to(end).freeze();
        bytes.advance(1);
        Ok(Some(value))
    }
}

impl Decoder for Codec {
    type Item = Bytes;
    type Error = FrameError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        match self.form {
            Form::LengthPrefixed => self.after_length(bytes),
            Form::MultiNode => self.between_marks(bytes),
        }
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        match self.decode(bytes)? {
            Some(value) => Ok(Some(value)),
            None if bytes.is_empty() => Ok(None),
            None => Err(FrameError::Cut),
        }
    }
}

impl Encoder<Vec<u8>> for Codec {
    type Error = FrameError;

    fn encode(&mut self, value: Vec<u8>, bytes: &mut BytesMut) -> Result<(), FrameError> {
        let length = self.fits(value.len() as u64)?;
        bytes.reserve(length + PREFIX);
        match self.form {
            Form::LengthPrefixed => {
                bytes.put_u32(length as u32);
                bytes.extend_from_slice(&value);
            }
            Form::MultiNode => {
                bytes.put_u8(BEGIN);
                bytes.extend_from_slice(&value);
                bytes.put_u8(END);
            }
        }
        Ok(())
    }
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(size, largest) => {
                write!(f, "a value of {size} bytes or more, of at most {largest}")
            }
            Self::Garbage(byte) => write!(
                f,
                "{byte:#04x} where a value was to begin: the other end frames otherwise"
            ),
            Self::Cut => f.write_str("the stream has ended in the middle of a value"),
            Self::Value(error) => error.fmt(f),
            Self::Io(error) => f.write_str(&crate::error::describe(error)),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests;
