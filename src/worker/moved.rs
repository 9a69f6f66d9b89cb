//! What comes along with a socket that another process has moved here, and how it travels.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    bus::{Attachment, AttachmentError, Bus, BusError, Encoding, Message, Payload, ProcessId, To},
    dispatch::mode::Arm,
};

/// The topic of a connection that is moved.
pub(crate) const CONNECTION: &str = "$connection";
/// The topic of a listener that is passed.
pub(crate) const LISTENER: &str = "$listener";
/// How long the receiver has to take a socket.
const DEADLINE: Duration = Duration::from_secs(5);

/// What another process has sent along with a connection or a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    from: ProcessId,
    message: Payload,
}

impl Moved {
    /// Who has sent it, as the master of that process says.
    pub fn from(&self) -> ProcessId {
        self.from
    }

    /// What it has to say about it; empty if nothing.
    pub fn message(&self) -> &Payload {
        &self.message
    }
}

/// A socket that could not be moved.
#[derive(Debug)]
#[non_exhaustive]
pub struct NotMoved<C> {
    /// Why.
    pub error: BusError,
    /// The socket, as it was, if the receiver surely has not taken it. `None`: nobody knows whether it has,
    /// for it has ended or has not answered in time. Then it is closed here, so that it is never served
    /// twice; if the receiver has not taken it, its client is cut.
    pub conn: Option<C>,
}

impl<C> std::fmt::Display for NotMoved<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)?;
        match self.conn {
            Some(_) => Ok(()),
            None => f.write_str("; nobody knows whether the connection was taken"),
        }
    }
}

impl<C: std::fmt::Debug> std::error::Error for NotMoved<C> {}

impl<C> NotMoved<C> {
    /// Nobody has taken it.
    pub(crate) fn back(error: BusError, conn: C) -> Self {
        let conn = Some(conn);
        Self { error, conn }
    }

    /// Nobody knows whether it was taken.
    pub(crate) fn lost(error: BusError) -> Self {
        Self { error, conn: None }
    }
}

/// What the receiver is to know of a socket, besides the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    /// The client, as seen when the connection was accepted.
    pub(crate) peer: SocketAddr,
    /// The listener and the arm that brought it; `None`: it is none of the cluster's.
    pub(crate) origin: Option<(u8, Arm)>,
    encoding: u8,
}

impl Label {
    pub(crate) fn new(peer: SocketAddr, origin: Option<(u8, Arm)>) -> Self {
        Self {
            peer,
            origin,
            encoding: 0,
        }
    }
}

/// Asks `to` to take a socket, and waits until it has.
pub(crate) async fn hand_to(
    bus: &Bus,
    to: To,
    topic: &str,
    socket: Attachment,
    label: Label,
    message: Payload,
) -> Result<(), AttachmentError> {
    let payload = pack(label, &message);
    bus.request_attached_reserved(to, topic, payload, socket, DEADLINE)
        .await
        .map(drop)
}

/// The same for a connection.
pub(crate) async fn hand_connection(
    bus: &Bus,
    to: To,
    socket: Attachment,
    label: Label,
    message: Payload,
) -> Result<(), AttachmentError> {
    hand_to(bus, to, CONNECTION, socket, label, message).await
}

/// Reads what [`hand_to`] has sent.
pub(crate) fn read(message: &Message) -> Option<(Label, Moved)> {
    let (label, payload) = unpack(&message.bytes())?;
    let moved = Moved {
        from: message.from(),
        message: payload,
    };
    Some((label, moved))
}

/// `length of the label u16, little-endian | label, in MessagePack | message`
fn pack(label: Label, message: &Payload) -> Payload {
    let label = Label {
        encoding: message.encoding() as u8,
        ..label
    };
    let head = rmp_serde::to_vec(&label).expect("plain data");
    let mut bytes = Vec::with_capacity(2 + head.len() + message.bytes().len());
    bytes.extend_from_slice(&(head.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(message.bytes());
    Payload::raw(bytes)
}

fn unpack(bytes: &bytes::Bytes) -> Option<(Label, Payload)> {
    let length = usize::from(u16::from_le_bytes(*bytes.first_chunk()?));
    let head = bytes.get(2..2 + length)?;
    let label: Label = rmp_serde::from_slice(head).ok()?;
    let encoding = match label.encoding {
        0 => Encoding::Raw,
        1 => Encoding::Json,
        2 => Encoding::Compact,
        _ => return None,
    };
    let message = Payload {
        encoding,
        bytes: bytes.slice(2 + length..),
    };
    Some((label, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let origin = Some((3, Arm::ALL[2]));
        let label = Label::new("[::1]:80".parse().expect("an address"), origin);
        for message in [
            Payload::from(""),
            Payload::from("vip"),
            Payload::json(&["a", "b"]).expect("JSON"),
            Payload::compact(&("a", 1)).expect("plain"),
        ] {
            let (unpacked, payload) = unpack(pack(label, &message).bytes()).expect("sound");
            assert_eq!((unpacked.peer, unpacked.origin), (label.peer, origin));
            assert_eq!(payload, message);
        }
    }

    #[test]
    fn anything_else_is_nothing() {
        let label = Label::new("1.2.3.4:5".parse().expect("an address"), None);
        let sound = pack(label, &Payload::from("")).bytes().clone();
        for end in 0..sound.len() {
            assert!(unpack(&sound.slice(..end)).is_none(), "{end}");
        }
        assert!(unpack(&bytes::Bytes::from_static(&[0xff; 8])).is_none());
        assert!(unpack(&bytes::Bytes::from_static(&[1, 0, 0xc1])).is_none());
    }
}
