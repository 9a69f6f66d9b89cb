//! What the hub itself says, as frames, and what it looks for in those of others.

use crate::bus::{
    Encoding, Failure, ProcessId, To,
    control::Tell,
    frame::{self, Attached, Frame, Header, Kind, Space},
};

/// Is it something that one process had to say to another?
pub(super) fn is_message(frame: &Frame<'_>) -> bool {
    matches!(frame.header.kind, Kind::Event | Kind::Request | Kind::Reply)
}

/// Is nothing lost if only its id is kept?
pub(super) fn is_bare(frame: &Frame<'_>) -> bool {
    frame.payload.is_empty() && frame.header.attached == Attached::Nothing
}

/// A frame of the hub itself.
pub(in crate::hub::core) fn own_frame(
    kind: Kind,
    from: ProcessId,
    to: &To,
    id: u64,
    payload: &[u8],
) -> Vec<u8> {
    let header = Header {
        kind,
        space: Space::Topic,
        encoding: match kind {
            Kind::Failure => Encoding::Raw,
            _ => Encoding::Compact,
        },
        attached: Attached::Nothing,
        sequence: 0,
        from,
        id,
        deadline: 0,
    };
    let mut bytes = Vec::with_capacity(128 + payload.len());
    frame::encode(&header, to, "", &[], payload, &mut bytes);
    bytes
}

/// Tells a process something.
pub(in crate::hub::core) fn tell_frame(hub: ProcessId, tell: &Tell) -> Vec<u8> {
    let payload = rmp_serde::to_vec_named(tell).expect("our own words can be written");
    own_frame(Kind::Tell, hub, &To::Subscribers, 0, &payload)
}

pub(super) fn acknowledgement_frame(from: ProcessId, to: ProcessId, id: u64) -> Vec<u8> {
    own_frame(Kind::Reply, from, &To::from(to), id, &[])
}

pub(super) fn failure_frame(
    from: ProcessId,
    to: ProcessId,
    id: u64,
    failure: Failure,
    text: &str,
) -> Vec<u8> {
    let mut payload = vec![failure as u8];
    payload.extend_from_slice(text.as_bytes());
    own_frame(Kind::Failure, from, &To::from(to), id, &payload)
}

/// What an encoded failure says.
pub(in crate::hub::core) fn failure_of(frame: &Frame<'_>) -> Failure {
    let tag = frame.payload.first().copied().unwrap_or_default();
    Failure::from_tag(tag).unwrap_or(Failure::Refused)
}

pub(super) fn welcome_of(frame: &Frame<'_>) -> Option<Tell> {
    let tell = rmp_serde::from_slice(frame.payload).ok()?;
    matches!(tell, Tell::Welcome { .. }).then_some(tell)
}
