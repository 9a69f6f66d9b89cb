//! The bytes that travel beside descriptors in a hand-over: header ↔ bytes, pure.
//!
//! ```text
//! batch   = magic u16 | version u8 | count u8 | first sequence number u32 | count × entry
//! entry   = accepted at, monotonic ns u64 | peer address 16 bytes | peer port u16
//!           | family u8 (4, 6) | listener u8 | arm u8 | zero u8 × 3 | IPv6 scope id u32
//!           | the seats that shadow policies named u8 × 4, 255: none
//! ```
//!
//! All numbers are little-endian. Descriptor i of the message belongs to entry i.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use super::{
    mode::Arm,
    shadow::{Picks, Shadow},
};

/// The most connections in one batch, and the most that one worker may have unclaimed.
pub const MAX_BATCH: usize = 64;

/// The largest encoded batch, in bytes.
pub const MAX_BYTES: usize = HEADER + MAX_BATCH * ENTRY;

const MAGIC: u16 = 0x5054; // "TP", the points
const VERSION: u8 = 2;
const HEADER: usize = 8;
const ENTRY: usize = 40;
const SHADOWS: usize = Shadow::ALL.len();

/// What is said about one handed-over connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When the master accepted it, monotonic clock, nanoseconds.
    pub accepted_at: u64,
    /// The client.
    pub peer: SocketAddr,
    /// Which of the configured listeners it came in by.
    pub listener: u8,
    /// The mode and policy that brought it.
    pub arm: Arm,
    /// Where shadow policies would have sent it.
    pub shadows: Picks,
}

/// Why bytes are not a batch. A worker that sees one closes the descriptors that came along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Too short for what it claims, or too long.
    Length,
    /// Not a batch, or one of another version of the protocol.
    Version,
    /// A count of zero or over [`MAX_BATCH`].
    Count,
    /// An entry holds an unknown family or arm.
    Entry,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "its length does not fit its count",
            Self::Version => "it has an unknown magic number or version",
            Self::Count => "its count is out of range",
            Self::Entry => "an entry holds an unknown family or arm",
        })
    }
}

impl std::error::Error for Malformed {}

/// Writes a batch into `bytes`, replacing what is there. The first entry has sequence number
/// `first`, the next ones count up from it, wrapping.
///
/// # Panics
/// With no entry or more than [`MAX_BATCH`].
pub fn encode(first: u32, entries: impl ExactSizeIterator<Item = Entry>, bytes: &mut Vec<u8>) {
    let count = entries.len();
    assert!((1..=MAX_BATCH).contains(&count), "a batch of {count}");
    bytes.clear();
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&[VERSION, count as u8]);
    bytes.extend_from_slice(&first.to_le_bytes());
    for entry in entries {
        let (address, family, scope) = match entry.peer {
            SocketAddr::V4(a) => {
                let mut padded = [0; 16];
                padded[..4].copy_from_slice(&a.ip().octets());
                (padded, 4, 0)
            }
            SocketAddr::V6(a) => (a.ip().octets(), 6, a.scope_id()),
        };
        bytes.extend_from_slice(&entry.accepted_at.to_le_bytes());
        bytes.extend_from_slice(&address);
        bytes.extend_from_slice(&entry.peer.port().to_le_bytes());
        bytes.extend_from_slice(&[family, entry.listener, entry.arm.index() as u8, 0, 0, 0]);
        bytes.extend_from_slice(&scope.to_le_bytes());
        bytes.extend_from_slice(&entry.shadows.to_bytes());
    }
}

/// A batch that has been checked whole: its entries can be read without failing.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    first: u32,
    entries: &'a [[u8; ENTRY]],
}

/// Reads a batch.
///
/// # Errors
/// Any byte that is not as [`encode`] writes it, except padding and what the family does not use. Never panics,
/// whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<Batch<'_>, Malformed> {
    let (header, body) = bytes
        .split_first_chunk::<HEADER>()
        .ok_or(Malformed::Length)?;
    let [m0, m1, version, count, s0, s1, s2, s3] = *header;
    if u16::from_le_bytes([m0, m1]) != MAGIC || version != VERSION {
        return Err(Malformed::Version);
    }
    let count = usize::from(count);
    if !(1..=MAX_BATCH).contains(&count) {
        return Err(Malformed::Count);
    }
    let (entries, rest) = body.as_chunks::<ENTRY>();
    if entries.len() != count || !rest.is_empty() {
        return Err(Malformed::Length);
    }
    if entries.iter().any(|entry| read(entry).is_none()) {
        return Err(Malformed::Entry);
    }
    Ok(Batch {
        first: u32::from_le_bytes([s0, s1, s2, s3]),
        entries,
    })
}

impl Batch<'_> {
    /// The sequence number of the first entry.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// How many connections the batch holds, 1 to [`MAX_BATCH`].
    #[allow(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entries in order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> {
        self.entries
            .iter()
            .map(|entry| read(entry).expect("checked by decode"))
    }
}

fn read(entry: &[u8; ENTRY]) -> Option<Entry> {
    let (accepted_at, rest) = entry.split_first_chunk::<8>()?;
    let (address, rest) = rest.split_first_chunk::<16>()?;
    let (rest, shadows) = rest.split_last_chunk::<SHADOWS>()?;
    let [p0, p1, family, listener, arm, _, _, _, s0, s1, s2, s3] = *rest.first_chunk()?;
    let port = u16::from_le_bytes([p0, p1]);
    let peer = match family {
        4 => {
            let [a, b, c, d, ..] = *address;
            SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
        }
        6 => {
            let scope = u32::from_le_bytes([s0, s1, s2, s3]);
            SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(*address), port, 0, scope))
        }
        _ => return None,
    };
    Some(Entry {
        accepted_at: u64::from_le_bytes(*accepted_at),
        peer,
        listener,
        arm: Arm::from_index(usize::from(arm))?,
        shadows: Picks::from_bytes(*shadows),
    })
}
