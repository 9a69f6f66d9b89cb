//! What goes through NATS: a sign of life or a packet, in an envelope that says from which sitting of which
//! master to which of which other. Pure.
//!
//! ```text
//! envelope = "PMB" | version u8 | kind u8 | signed u8 | 0 u16
//!          | from: master u64, sitting u64 | to: master u64, sitting u64 | counter u64
//!          | body | HMAC-SHA-256 of all before it, if signed
//! ```
//!
//! All numbers are little-endian. A *sitting* is a master's time on NATS from one connect to the next: a
//! number that grows. Whatever is meant for one master names its sitting too, so nothing of an earlier one
//! can be played again, whoever has recorded it; within a sitting the counter sees to that.

use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::bus::{MasterId, frame, topic::is_reserved};

const MAGIC: [u8; 4] = *b"PMB\x01";
const HEADER: usize = 48;
const SIGNATURE: usize = 32;
/// The largest sign of life: so many processes are more than one master has.
const MAX_SIGN: usize = 64 * 1024;

/// The largest envelope, in bytes.
pub(crate) const MAX_ENVELOPE: usize = HEADER + frame::MAX_PACKET + SIGNATURE;

/// What an envelope holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A [`Sign`].
    Sign = 1,
    /// Frames.
    Packet = 2,
}

/// One sitting of one master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sitting {
    pub(crate) master: MasterId,
    pub(crate) number: u64,
}

/// An envelope, read where it lies, its signature checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) kind: Kind,
    pub(crate) from: Sitting,
    /// `None`: to all.
    pub(crate) to: Option<Sitting>,
    /// Counts, from 1, what its sender has sent there in this sitting.
    pub(crate) counter: u64,
    pub(crate) body: &'a [u8],
}

/// What a master says of itself, to all at every beat, and to one whom it has just heard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sign {
    /// When it first started, nanoseconds since 1970 by its own clock.
    pub(crate) born: u64,
    /// Of what its hub knows of its processes: who has another has missed something.
    pub(crate) version: u64,
    /// Take it for gone after so many milliseconds without a word.
    pub(crate) expiry_ms: u64,
    /// To one master: it has been heard to speak to this sitting; false asks for that.
    pub(crate) heard: bool,
    /// Open connections of its processes, by number.
    pub(crate) loads: Vec<(u32, u64)>,
}

/// Why an envelope goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// It is none, or what is in it is not what it says.
    Malformed,
    /// It is not signed, though all must be.
    Unsigned,
    /// Its signature is wrong, or there is no secret here to check it with.
    Forged,
    /// It was here before.
    Replayed,
    /// It is of an earlier sitting of either.
    Stale,
    /// It is for another.
    Misdirected,
    /// Too many masters are known already.
    Crowded,
    /// It was to go to a master that cannot be reached, or NATS cannot.
    Down,
    /// It came faster than it could be taken.
    Slow,
    /// It is larger than the server lets through.
    Large,
    /// It never arrived: the next one did.
    Lost,
    /// Another master says it that has our name.
    Namesake,
}

impl Dropped {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 12] = [
        Self::Malformed,
        Self::Unsigned,
        Self::Forged,
        Self::Replayed,
        Self::Stale,
        Self::Misdirected,
        Self::Crowded,
        Self::Down,
        Self::Slow,
        Self::Large,
        Self::Lost,
        Self::Namesake,
    ];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsigned => "unsigned",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::Misdirected => "misdirected",
            Self::Crowded => "crowded",
            Self::Down => "down",
            Self::Slow => "slow",
            Self::Large => "large",
            Self::Lost => "lost",
            Self::Namesake => "namesake",
        }
    }
}

/// What all masters that believe each other know. Shown nowhere.
#[derive(Clone)]
pub(crate) struct Secret(hmac::Key);

impl Secret {
    /// From what is in the file; the prefix makes it another for each bus.
    pub(crate) fn new(secret: &[u8], prefix: &str) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let own = hmac::sign(&root, format!("pointsman bus {prefix}").as_bytes());
        Self(hmac::Key::new(hmac::HMAC_SHA256, own.as_ref()))
    }
}

/// Writes an envelope.
pub(crate) fn seal(envelope: &Envelope<'_>, secret: Option<&Secret>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + envelope.body.len() + SIGNATURE);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[envelope.kind as u8, u8::from(secret.is_some()), 0, 0]);
    // No master is number 0: that would be all.
    let nobody = Sitting {
        master: MasterId(0),
        number: 0,
    };
    for sitting in [envelope.from, envelope.to.unwrap_or(nobody)] {
        bytes.extend_from_slice(&sitting.master.0.to_le_bytes());
        bytes.extend_from_slice(&sitting.number.to_le_bytes());
    }
    bytes.extend_from_slice(&envelope.counter.to_le_bytes());
    bytes.extend_from_slice(envelope.body);
    if let Some(Secret(key)) = secret {
        let signature = hmac::sign(key, &bytes);
        bytes.extend_from_slice(signature.as_ref());
    }
    bytes
}

/// Reads an envelope and checks its signature.
///
/// # Errors
/// It is not one, or not one to be believed.
pub(crate) fn open<'a>(bytes: &'a [u8], secret: Option<&Secret>) -> Result<Envelope<'a>, Dropped> {
    let head: &[u8; HEADER] = bytes.first_chunk().ok_or(Dropped::Malformed)?;
    if head[..4] != MAGIC || head[6..8] != [0, 0] || bytes.len() > MAX_ENVELOPE {
        return Err(Dropped::Malformed);
    }
    let body = match (head[5], secret) {
        (0, None) => &bytes[HEADER..],
        (0, Some(_)) => return Err(Dropped::Unsigned),
        (1, None) => return Err(Dropped::Forged),
        (1, Some(Secret(key))) => {
            let (said, signature) = bytes
                .split_last_chunk::<SIGNATURE>()
                .filter(|(said, _)| said.len() >= HEADER)
                .ok_or(Dropped::Malformed)?;
            hmac::verify(key, said, signature).map_err(|_| Dropped::Forged)?;
            &said[HEADER..]
        }
        _ => return Err(Dropped::Malformed),
    };
    let kind = match head[4] {
        1 if body.len() <= MAX_SIGN => Kind::Sign,
        2 => Kind::Packet,
        _ => return Err(Dropped::Malformed),
    };
    let u64_at = |i: usize| u64::from_le_bytes(head[i..i + 8].try_into().expect("8 bytes"));
    let sitting = |i: usize| Sitting {
        master: MasterId(u64_at(i)),
        number: u64_at(i + 8),
    };
    let (from, to) = (sitting(8), sitting(24));
    let to = (to.master.0 != 0).then_some(to);
    if from.master.0 == 0 || (kind == Kind::Packet && to.is_none()) {
        return Err(Dropped::Malformed);
    }
    Ok(Envelope {
        kind,
        from,
        to,
        counter: u64_at(40),
        body,
    })
}

impl Sign {
    /// As the body of an envelope.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // MessagePack has a way to say each of these.
        rmp_serde::to_vec(self).expect("numbers can be written")
    }

    /// From the body of an envelope.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Dropped> {
        rmp_serde::from_slice(body).map_err(|_| Dropped::Malformed)
    }
}

/// Makes deadlines, which are times by this machine's monotonic clock, the time that is left, for who has
/// another clock.
pub(crate) fn leaving(packet: &mut [u8], now: u64) {
    // 0 would be no deadline.
    each_deadline(packet, |deadline| deadline.saturating_sub(now).max(1));
}

/// Makes the time that is left a time by this machine's monotonic clock. The way here counts for nothing.
///
/// # Errors
/// These are no frames, or there are some that speak of something attached, which NATS cannot carry.
pub(crate) fn arriving(packet: &mut [u8], now: u64) -> Result<(), Dropped> {
    for frame in frame::frames(packet) {
        let frame = frame.map_err(|_| Dropped::Malformed)?;
        // Reserved topics are for what is attached.
        if frame.header.attached != frame::Attached::Nothing || is_reserved(frame.name) {
            return Err(Dropped::Malformed);
        }
    }
    each_deadline(packet, |left| left.saturating_add(now));
    Ok(())
}

/// Replaces the deadlines that there are, up to what is no frame.
fn each_deadline(mut packet: &mut [u8], change: impl Fn(u64) -> u64) {
    while let Ok(frame) = frame::decode(packet) {
        let (length, deadline) = (frame.bytes.len(), frame.header.deadline);
        if deadline != 0 {
            frame::set_deadline(packet, change(deadline));
        }
        packet = &mut packet[length..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bus::{
        Encoding, ProcessId, To,
        frame::{Attached, Header, Space},
    };

    fn sittings() -> impl Strategy<Value = Sitting> {
        (1u64.., any::<u64>()).prop_map(|(master, number)| Sitting {
            master: MasterId(master),
            number,
        })
    }

    fn packet(deadlines: &[u64], attached: Attached) -> Vec<u8> {
        let mut bytes = Vec::new();
        let from = ProcessId {
            master: MasterId(1),
            number: 2,
        };
        for deadline in deadlines {
            let header = Header {
                kind: frame::Kind::Request,
                space: Space::Topic,
                encoding: Encoding::Raw,
                attached,
                sequence: 3,
                from,
                id: 4,
                deadline: *deadline,
            };
            frame::encode(&header, &To::Everyone, "a", &[], b"text", &mut bytes);
        }
        bytes
    }

    fn deadlines(packet: &[u8]) -> Vec<u64> {
        let frames = frame::frames(packet);
        frames.map(|f| f.expect("sound").header.deadline).collect()
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened_alike(
            from in sittings(),
            to in proptest::option::of(sittings()),
            counter in any::<u64>(),
            body in proptest::collection::vec(any::<u8>(), 0..200),
            secret in proptest::option::of(any::<[u8; 16]>()),
        ) {
            let kind = if to.is_some() { Kind::Packet } else { Kind::Sign };
            let envelope = Envelope { kind, from, to, counter, body: &body };
            let secret = secret.map(|secret| Secret::new(&secret, "p"));
            let bytes = seal(&envelope, secret.as_ref());
            prop_assert_eq!(open(&bytes, secret.as_ref()), Ok(envelope));
        }

        #[test]
        fn no_byte_of_a_signed_one_can_be_changed(
            from in sittings(),
            to in sittings(),
            body in proptest::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let envelope = Envelope { kind: Kind::Packet, from, to: Some(to), counter: 1, body: &body };
            let secret = Secret::new(b"a secret of ours", "p");
            let mut bytes = seal(&envelope, Some(&secret));
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(open(&bytes, Some(&secret)).is_err());
            // Nor can any be left out or added.
            bytes[at] ^= flip;
            prop_assert!(open(&bytes[..bytes.len() - 1], Some(&secret)).is_err());
            bytes.push(0);
            prop_assert!(open(&bytes, Some(&secret)).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            now in any::<u64>(),
        ) {
            let mut sound = MAGIC.to_vec();
            sound.extend_from_slice(&bytes);
            for bytes in [&bytes, &sound] {
                let _ = open(bytes, None);
                let _ = open(bytes, Some(&Secret::new(b"a secret of ours", "p")));
                let _ = Sign::decode(bytes);
                let _ = arriving(&mut bytes.clone(), now);
            }
        }

        #[test]
        fn deadlines_are_the_time_left_on_the_way(
            now_here in 1u64..1 << 50,
            now_there in 1u64..1 << 50,
            left in proptest::collection::vec(0u64..1 << 40, 1..5),
        ) {
            let mut bytes = packet(&left.iter().map(|l| if *l == 0 { 0 } else { now_here + l }).collect::<Vec<_>>(), Attached::Nothing);
            leaving(&mut bytes, now_here);
            prop_assert_eq!(&deadlines(&bytes), &left);
            prop_assert_eq!(arriving(&mut bytes, now_there), Ok(()));
            let there = left.iter().map(|l| if *l == 0 { 0 } else { now_there + l });
            prop_assert_eq!(deadlines(&bytes), there.collect::<Vec<_>>());
        }
    }

    #[test]
    fn whoever_has_another_secret_or_prefix_or_none_is_not_believed() {
        let from = Sitting {
            master: MasterId(1),
            number: 2,
        };
        let envelope = Envelope {
            kind: Kind::Sign,
            from,
            to: None,
            counter: 1,
            body: &[],
        };
        let secret = Secret::new(b"a secret of ours", "p");
        let signed = seal(&envelope, Some(&secret));
        for other in [
            Secret::new(b"one of theirs...", "p"),
            Secret::new(b"a secret of ours", "q"),
        ] {
            assert_eq!(open(&signed, Some(&other)), Err(Dropped::Forged));
        }
        assert_eq!(open(&signed, None), Err(Dropped::Forged));
        let plain = seal(&envelope, None);
        assert_eq!(open(&plain, Some(&secret)), Err(Dropped::Unsigned));
    }

    #[test]
    fn a_deadline_that_has_passed_stays_one() {
        let mut bytes = packet(&[5], Attached::Nothing);
        leaving(&mut bytes, 9);
        assert_eq!(deadlines(&bytes), [1]);
    }

    #[test]
    fn nothing_that_speaks_of_something_attached_comes_in() {
        for attached in [Attached::Connection, Attached::Line] {
            let mut bytes = packet(&[1, 1], attached);
            assert_eq!(arriving(&mut bytes, 9), Err(Dropped::Malformed));
        }
    }

    #[test]
    fn nothing_comes_in_by_a_reserved_topic() {
        let mut bytes = packet(&[0], Attached::Nothing);
        assert_eq!(arriving(&mut bytes, 9), Ok(()));
        let name = bytes
            .iter()
            .position(|byte| *byte == b'a')
            .expect("its topic");
        bytes[name] = b'$';
        assert_eq!(arriving(&mut bytes, 9), Err(Dropped::Malformed));
    }

    #[test]
    fn reasons_stand_in_their_order() {
        for (i, reason) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i, "{}", reason.name());
        }
    }
}
