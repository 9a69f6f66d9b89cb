//! One message ↔ its bytes, pure. The same between a process and its hub and between hubs.
//!
//! ```text
//! frame = length u32, of all of it   | kind u8 | space u8 | encoding u8 | attached u8
//!       | sequence u64               | from: master u64, number u32
//!       | length of to u16, of name u8, masters on the path u8
//!       | id u64                     | deadline u64
//!       | to | name | path: master u64 × n | payload
//! ```
//!
//! All numbers are little-endian. A *packet* is what goes through a line at once: one or more frames. A
//! frame with something attached has a packet of its own, and its descriptor with it.

use std::fmt;

use super::{
    id::{MasterId, ProcessId},
    to::{Balance, To},
};

/// The largest payload, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// The largest frame, in bytes.
pub const MAX_FRAME: usize = HEADER + MAX_TO + 255 + 8 * MAX_PATH + MAX_PAYLOAD;
/// The largest packet, in bytes: small frames are put together up to this.
pub const MAX_PACKET: usize = MAX_FRAME;
/// The most processes that one message names.
pub const MAX_NAMED: usize = 64;
/// The most masters that a message may come through.
pub const MAX_PATH: usize = 16;

/// What a frame has before its address, in bytes.
pub(crate) const HEADER: usize = 48;
/// The longest address, in bytes.
pub(crate) const MAX_TO: usize = 2 + 12 * MAX_NAMED;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A message that wants no answer.
    Event = 1,
    /// A message that wants one: a [`Reply`](Self::Reply) or [`Failure`](Self::Failure) with its id.
    Request = 2,
    /// The answer to the request with its id.
    Reply = 3,
    /// Why the request with its id gets none: a [`Failure`](super::error::Failure).
    Failure = 4,
    /// From a process to its hub: an [`Ask`](super::control::Ask). With an id it is answered.
    Ask = 5,
    /// From a hub to its process: a [`Tell`](super::control::Tell).
    Tell = 6,
    /// From hub to hub: a [`Fact`](super::control::Fact).
    Fact = 7,
}

/// What the name of a message is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Space {
    /// A topic: whoever has subscribed to it gets the message.
    Topic = 0,
    /// An application, and after a slash what it is asked to do.
    Application = 1,
    /// A function.
    Function = 2,
}

/// How a payload is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// Bytes that mean what sender and receiver have agreed upon.
    Raw = 0,
    /// JSON (RFC 8259).
    Json = 1,
    /// MessagePack, structures as maps: compact, and still readable by whoever does not know the type.
    Compact = 2,
}

/// What the descriptor is that comes with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Attached {
    /// There is none.
    Nothing = 0,
    /// One end of a stream between two processes.
    Stream = 1,
    /// A connection, with its client at the other end.
    Connection = 2,
    /// A listening socket.
    Listener = 3,
    /// A datagram socket.
    Datagram = 4,
    /// A line to the hub of another master, with [`Ask::Branch`](super::control::Ask::Branch).
    Line = 5,
}

/// Everything about a frame but its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is for.
    pub kind: Kind,
    /// What the name names.
    pub space: Space,
    /// How the payload is to be read.
    pub encoding: Encoding,
    /// The descriptor that comes along.
    pub attached: Attached,
    /// Counts, from 1, what the hub had for this receiver: a number that is left out is a message that
    /// was lost.
    pub sequence: u64,
    /// Who sent it, as the sender's hub says.
    pub from: ProcessId,
    /// Of a request, counted by the sender; of an answer, that of the request. 0: none.
    pub id: u64,
    /// When it is too late for it, on the monotonic clock of this machine, nanoseconds. 0: never.
    pub deadline: u64,
}

/// A frame, read where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// All but its texts and bytes.
    pub header: Header,
    /// To whom, in bytes.
    pub to: &'a [u8],
    /// The topic, application or function.
    pub name: &'a str,
    /// The masters that it has come through, 8 bytes each, first the sender's own.
    pub path: &'a [u8],
    /// What it says.
    pub payload: &'a [u8],
    /// All of it.
    pub bytes: &'a [u8],
}

/// Why bytes are no frame. Whoever sent them is not to be listened to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A length does not fit what is there, or is over a limit.
    Length,
    /// A kind, space, encoding or attachment that there is not.
    Tag,
    /// The name is not UTF-8.
    Name,
    /// The addressing makes no sense.
    To,
    /// The descriptor that it speaks of has not come, or one that it does not speak of has.
    Attached,
    /// Something that whoever sent it may not say.
    Forbidden,
    /// What a process and its hub, or two hubs, tell each other, and it says nothing.
    Payload,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a length does not fit",
            Self::Tag => "an unknown kind, space, encoding or attachment",
            Self::Name => "a name that is no text",
            Self::To => "an address that makes no sense",
            Self::Attached => "a descriptor too many or too few",
            Self::Forbidden => "something that it may not say",
            Self::Payload => "words that make no sense",
        })
    }
}

impl std::error::Error for Malformed {}

/// Appends a frame to `bytes`.
///
/// # Panics
/// If the name, path or payload is over its limit: whoever makes messages checks that.
pub fn encode(
    header: &Header,
    to: &To,
    name: &str,
    path: &[MasterId],
    payload: &[u8],
    bytes: &mut Vec<u8>,
) {
    let start = bytes.len();
    assert!(path.len() <= MAX_PATH && payload.len() <= MAX_PAYLOAD);
    bytes.extend_from_slice(&[0; HEADER]);
    to.encode(bytes);
    let to_length = bytes.len() - start - HEADER;
    bytes.extend_from_slice(name.as_bytes());
    for master in path {
        bytes.extend_from_slice(&master.0.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    let length = bytes.len() - start;
    let head = &mut bytes[start..start + HEADER];
    head[0..4].copy_from_slice(&(length as u32).to_le_bytes());
    head[4] = header.kind as u8;
    head[5] = header.space as u8;
    head[6] = header.encoding as u8;
    head[7] = header.attached as u8;
    head[8..16].copy_from_slice(&header.sequence.to_le_bytes());
    head[16..24].copy_from_slice(&header.from.master.0.to_le_bytes());
    head[24..28].copy_from_slice(&header.from.number.to_le_bytes());
    head[28..30].copy_from_slice(&(to_length as u16).to_le_bytes());
    head[30] = u8::try_from(name.len()).expect("names are checked where messages are made");
    head[31] = path.len() as u8;
    head[32..40].copy_from_slice(&header.id.to_le_bytes());
    head[40..48].copy_from_slice(&header.deadline.to_le_bytes());
}

/// Appends `frame` to `bytes` as it goes on to another hub: `to` instead of its own address, and one more
/// master on its path.
///
/// # Panics
/// If its path is as long as it may be: whoever passes it on looks.
pub(crate) fn relay(frame: &Frame<'_>, to: &To, hop: MasterId, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    assert!(frame.path.len() < 8 * MAX_PATH);
    bytes.extend_from_slice(&frame.bytes[..HEADER]);
    to.encode(bytes);
    let to_length = bytes.len() - start - HEADER;
    bytes.extend_from_slice(frame.name.as_bytes());
    bytes.extend_from_slice(frame.path);
    bytes.extend_from_slice(&hop.0.to_le_bytes());
    bytes.extend_from_slice(frame.payload);
    let length = bytes.len() - start;
    let head = &mut bytes[start..start + HEADER];
    head[0..4].copy_from_slice(&(length as u32).to_le_bytes());
    head[28..30].copy_from_slice(&(to_length as u16).to_le_bytes());
    head[31] += 1;
}

/// Puts another sequence number into an encoded frame.
pub fn set_sequence(frame: &mut [u8], sequence: u64) {
    frame[8..16].copy_from_slice(&sequence.to_le_bytes());
}

/// Puts another sender into an encoded frame: nobody is believed who says who they are.
pub fn set_from(frame: &mut [u8], from: ProcessId) {
    frame[16..24].copy_from_slice(&from.master.0.to_le_bytes());
    frame[24..28].copy_from_slice(&from.number.to_le_bytes());
}

/// Puts another deadline into an encoded frame.
pub fn set_deadline(frame: &mut [u8], deadline: u64) {
    frame[40..48].copy_from_slice(&deadline.to_le_bytes());
}

/// Reads the first frame of `bytes`.
///
/// # Errors
/// There is none.
#[inline]
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>, Malformed> {
    let head: &[u8; HEADER] = bytes.first_chunk().ok_or(Malformed::Length)?;
    let u64_at = |i: usize| u64::from_le_bytes(head[i..i + 8].try_into().expect("8 bytes"));
    let u32_at = |i: usize| u32::from_le_bytes(head[i..i + 4].try_into().expect("4 bytes"));
    let length = u32_at(0) as usize;
    let to = usize::from(u16::from_le_bytes([head[28], head[29]]));
    let (name, hops) = (usize::from(head[30]), usize::from(head[31]));
    let payload_at = HEADER + to + name + 8 * hops;
    let fits = to <= MAX_TO && hops <= MAX_PATH && payload_at <= length;
    if !fits || length > bytes.len() || length - payload_at > MAX_PAYLOAD {
        return Err(Malformed::Length);
    }
    let bytes = &bytes[..length];
    let (to, rest) = bytes[HEADER..].split_at(to);
    let (name, rest) = rest.split_at(name);
    let (path, payload) = rest.split_at(8 * hops);
    Ok(Frame {
        header: Header {
            kind: kind(head[4])?,
            space: space(head[5])?,
            encoding: encoding(head[6])?,
            attached: attached(head[7])?,
            sequence: u64_at(8),
            from: ProcessId {
                master: MasterId(u64_at(16)),
                number: u32_at(24),
            },
            id: u64_at(32),
            deadline: u64_at(40),
        },
        to,
        name: std::str::from_utf8(name).map_err(|_| Malformed::Name)?,
        path,
        payload,
        bytes,
    })
}

/// Reads the frames of a packet, one after the other. After an error there is nothing more.
pub fn frames(mut packet: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if packet.is_empty() {
            return None;
        }
        let frame = decode(packet);
        packet = match &frame {
            Ok(frame) => &packet[frame.bytes.len()..],
            Err(_) => &[],
        };
        Some(frame)
    })
}

impl Frame<'_> {
    /// The masters that it has come through, first the sender's own.
    pub fn masters(&self) -> impl DoubleEndedIterator<Item = MasterId> + '_ {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        self.path
            .chunks_exact(8)
            .map(move |bytes| MasterId(number(bytes)))
    }
}

fn kind(tag: u8) -> Result<Kind, Malformed> {
    Ok(match tag {
        1 => Kind::Event,
        2 => Kind::Request,
        3 => Kind::Reply,
        4 => Kind::Failure,
        5 => Kind::Ask,
        6 => Kind::Tell,
        7 => Kind::Fact,
        _ => return Err(Malformed::Tag),
    })
}

fn space(tag: u8) -> Result<Space, Malformed> {
    Ok(match tag {
        0 => Space::Topic,
        1 => Space::Application,
        2 => Space::Function,
        _ => return Err(Malformed::Tag),
    })
}

fn encoding(tag: u8) -> Result<Encoding, Malformed> {
    Ok(match tag {
        0 => Encoding::Raw,
        1 => Encoding::Json,
        2 => Encoding::Compact,
        _ => return Err(Malformed::Tag),
    })
}

fn attached(tag: u8) -> Result<Attached, Malformed> {
    Ok(match tag {
        0 => Attached::Nothing,
        1 => Attached::Stream,
        2 => Attached::Connection,
        3 => Attached::Listener,
        4 => Attached::Datagram,
        5 => Attached::Line,
        _ => return Err(Malformed::Tag),
    })
}

impl To {
    /// How many bytes [`encode`](Self::encode) appends.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Processes(processes) | Self::Route(processes) => 2 + 12 * processes.len(),
            Self::Worker(_) => 3,
            Self::Host(_) => 2,
            _ => 1,
        }
    }

    /// Appends it to `bytes`.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        let mut named = |tag: u8, processes: &[ProcessId]| {
            assert!(
                processes.len() <= MAX_NAMED,
                "checked where messages are made"
            );
            bytes.extend_from_slice(&[tag, processes.len() as u8]);
            for process in processes {
                bytes.extend_from_slice(&process.master.0.to_le_bytes());
                bytes.extend_from_slice(&process.number.to_le_bytes());
            }
        };
        match self {
            Self::Processes(processes) => named(9, processes),
            Self::Route(processes) => named(10, processes),
            Self::Subscribers => bytes.push(1),
            Self::Everyone => bytes.push(2),
            Self::Siblings => bytes.push(3),
            Self::Ancestors => bytes.push(4),
            Self::Parent => bytes.push(5),
            Self::Children => bytes.push(6),
            Self::Worker(seat) => {
                bytes.push(7);
                bytes.extend_from_slice(&seat.to_le_bytes());
            }
            Self::GrandMaster => bytes.push(8),
            Self::Host(balance) => bytes.extend_from_slice(&[11, *balance as u8]),
        }
    }

    /// Reads what [`encode`](Self::encode) has written.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let named = |processes: &[u8]| {
            let (count, rest) = processes.split_first().ok_or(Malformed::To)?;
            let (count, whole) = (usize::from(*count), rest.chunks_exact(12));
            if count > MAX_NAMED || whole.len() != count || !whole.remainder().is_empty() {
                return Err(Malformed::To);
            }
            Ok(whole
                .map(|one| ProcessId {
                    master: MasterId(u64::from_le_bytes(one[..8].try_into().expect("8 bytes"))),
                    number: u32::from_le_bytes(one[8..].try_into().expect("4 bytes")),
                })
                .collect())
        };
        Ok(match bytes {
            [1] => Self::Subscribers,
            [2] => Self::Everyone,
            [3] => Self::Siblings,
            [4] => Self::Ancestors,
            [5] => Self::Parent,
            [6] => Self::Children,
            [7, low, high] => Self::Worker(u16::from_le_bytes([*low, *high])),
            [8] => Self::GrandMaster,
            [9, rest @ ..] => Self::Processes(named(rest)?),
            [10, rest @ ..] => Self::Route(named(rest)?),
            [11, 0] => Self::Host(Balance::LeastLoaded),
            [11, 1] => Self::Host(Balance::RoundRobin),
            [11, 2] => Self::Host(Balance::Random),
            _ => return Err(Malformed::To),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn process() -> impl Strategy<Value = ProcessId> {
        (any::<u64>(), any::<u32>()).prop_map(|(master, number)| ProcessId {
            master: MasterId(master),
            number,
        })
    }

    fn address() -> impl Strategy<Value = To> {
        let some = || prop::collection::vec(process(), 0..=MAX_NAMED);
        prop_oneof![
            Just(To::Subscribers),
            Just(To::Everyone),
            Just(To::Siblings),
            Just(To::Ancestors),
            Just(To::Parent),
            Just(To::Children),
            Just(To::GrandMaster),
            any::<u16>().prop_map(To::Worker),
            some().prop_map(To::Processes),
            some().prop_map(To::Route),
            Just(To::Host(Balance::LeastLoaded)),
            Just(To::Host(Balance::RoundRobin)),
            Just(To::Host(Balance::Random)),
        ]
    }

    fn header() -> impl Strategy<Value = Header> {
        let tags = (1u8..8, 0u8..3, 0u8..3, 0u8..6);
        let numbers = (any::<u64>(), process(), any::<u64>(), any::<u64>());
        (tags, numbers).prop_map(|((k, s, e, a), (sequence, from, id, deadline))| Header {
            kind: kind(k).expect("there is one"),
            space: space(s).expect("there is one"),
            encoding: encoding(e).expect("there is one"),
            attached: attached(a).expect("there is one"),
            sequence,
            from,
            id,
            deadline,
        })
    }

    prop_compose! {
        /// Everything that goes into a frame.
        fn parts()(
            header in header(),
            to in address(),
            name in "[a-zé.]{0,80}",
            path in prop::collection::vec(any::<u64>().prop_map(MasterId), 0..=MAX_PATH),
            payload in prop::collection::vec(any::<u8>(), 0..400),
        ) -> (Header, To, String, Vec<MasterId>, Vec<u8>) {
            (header, to, name, path, payload)
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(all in prop::collection::vec(parts(), 1..5)) {
            let mut packet = Vec::new();
            for (header, to, name, path, payload) in &all {
                encode(header, to, name, path, payload, &mut packet);
            }
            let mut count = 0;
            for (frame, (header, to, name, path, payload)) in frames(&packet).zip(&all) {
                let frame = frame.expect("we wrote it");
                prop_assert_eq!(&frame.header, header);
                prop_assert_eq!(To::decode(frame.to), Ok(to.clone()));
                prop_assert_eq!(frame.name, name);
                prop_assert_eq!(&frame.masters().collect::<Vec<_>>(), path);
                prop_assert_eq!(frame.payload, payload);
                count += 1;
            }
            prop_assert_eq!(count, all.len());
        }

        #[test]
        fn what_is_put_in_later_is_there(parts in parts(), from in process(), number in any::<u64>()) {
            let (header, to, name, path, payload) = parts;
            let mut bytes = Vec::new();
            encode(&header, &to, &name, &path, &payload, &mut bytes);
            set_from(&mut bytes, from);
            set_sequence(&mut bytes, number);
            set_deadline(&mut bytes, !number);
            let expected = Header { from, sequence: number, deadline: !number, ..header };
            let mut again = Vec::new();
            encode(&expected, &to, &name, &path, &payload, &mut again);
            prop_assert_eq!(bytes, again);
        }

        #[test]
        fn what_is_relayed_has_one_more_master_on_its_path(parts in parts(), to in address(), hop in any::<u64>()) {
            let (header, before, name, mut path, payload) = parts;
            path.truncate(MAX_PATH - 1);
            let mut bytes = Vec::new();
            encode(&header, &before, &name, &path, &payload, &mut bytes);
            let frame = decode(&bytes).expect("we wrote it");
            let mut relayed = vec![1, 2, 3];
            relay(&frame, &to, MasterId(hop), &mut relayed);
            path.push(MasterId(hop));
            let mut expected = vec![1, 2, 3];
            encode(&header, &to, &name, &path, &payload, &mut expected);
            prop_assert_eq!(relayed, expected);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for frame in frames(&bytes).flatten() {
                let _ = To::decode(frame.to);
            }
        }

        #[test]
        fn spoilt_frames_are_read_or_refused(
            parts in parts(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            missing in 0usize..60,
        ) {
            let (header, to, name, path, payload) = parts;
            let mut bytes = Vec::new();
            encode(&header, &to, &name, &path, &payload, &mut bytes);
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes.truncate(bytes.len().saturating_sub(missing));
            let mut read = 0;
            for frame in frames(&bytes).flatten() {
                read += frame.bytes.len();
                let _ = To::decode(frame.to);
            }
            prop_assert!(read <= bytes.len());
        }
    }

    #[test]
    fn the_largest_frame_is_no_larger_than_it_says() {
        let header = Header {
            kind: Kind::Event,
            space: Space::Topic,
            encoding: Encoding::Raw,
            attached: Attached::Nothing,
            sequence: 1,
            from: MasterId(1).process(),
            id: 0,
            deadline: 0,
        };
        let to = To::Route(vec![MasterId(1).process(); MAX_NAMED]);
        let path = [MasterId(2); MAX_PATH];
        let mut bytes = Vec::new();
        let (name, payload) = ("n".repeat(255), vec![0; MAX_PAYLOAD]);
        encode(&header, &to, &name, &path, &payload, &mut bytes);
        assert_eq!(bytes.len(), MAX_FRAME);
        assert!(decode(&bytes).is_ok());
        // Nothing is allocated for what a length claims.
        bytes[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&bytes), Err(Malformed::Length));
        assert_eq!(decode(&[]), Err(Malformed::Length));
    }
}
