//! What the bytes of a hand-over promise: what is written is read, and nothing else is.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use pointsman::{
    Arm,
    dispatch::{
        shadow::Picks,
        wire::{Entry, MAX_BATCH, MAX_BYTES, Malformed, decode, encode},
    },
};
use proptest::{collection::vec, prelude::*, sample::select};

// The layout as the module documents it, said once more: a change of either is a change of the
// protocol and has to be one of the version.
const HEADER: usize = 8;
const ENTRY: usize = 40;
const VERSION_AT: usize = 2;
const COUNT_AT: usize = 3;
const FAMILY_AT: usize = 26;
const ARM_AT: usize = 28;

fn peer() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<(Ipv4Addr, u16)>().prop_map(|(ip, port)| SocketAddrV4::new(ip, port).into());
    // The flow label is not handed over: nothing in HTTP has a use for it.
    let v6 = any::<(Ipv6Addr, u16, u32)>()
        .prop_map(|(ip, port, scope)| SocketAddrV6::new(ip, port, 0, scope).into());
    prop_oneof![v4, v6]
}

fn entry() -> impl Strategy<Value = Entry> {
    let parts = (
        any::<u64>(),
        peer(),
        any::<u8>(),
        select(&Arm::ALL),
        any::<[u8; 4]>(),
    );
    parts.prop_map(|(accepted_at, peer, listener, arm, shadows)| Entry {
        accepted_at,
        peer,
        listener,
        arm,
        shadows: Picks::from_bytes(shadows),
    })
}

fn batch() -> impl Strategy<Value = (u32, Vec<Entry>)> {
    (any::<u32>(), vec(entry(), 1..=MAX_BATCH))
}

fn encoded(first: u32, entries: &[Entry]) -> Vec<u8> {
    // What was in the buffer before must not matter: it is reused for every batch.
    let mut bytes = vec![0xff; 5];
    encode(first, entries.iter().copied(), &mut bytes);
    bytes
}

/// What has to become of a batch whose byte `at` now holds `value`.
fn verdict(at: usize, value: u8, intact: &[u8]) -> Result<(), Malformed> {
    let arms = Arm::ALL.len() as u8;
    match at {
        0..=VERSION_AT => Err(Malformed::Version),
        COUNT_AT if value == 0 || usize::from(value) > MAX_BATCH => Err(Malformed::Count),
        COUNT_AT if value != intact[COUNT_AT] => Err(Malformed::Length),
        COUNT_AT..HEADER => Ok(()),
        _ => match (at - HEADER) % ENTRY {
            FAMILY_AT if ![4, 6].contains(&value) => Err(Malformed::Entry),
            ARM_AT if value >= arms => Err(Malformed::Entry),
            _ => Ok(()),
        },
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read((first, entries) in batch()) {
        let bytes = encoded(first, &entries);
        prop_assert!(bytes.len() <= MAX_BYTES);
        let batch = decode(&bytes).expect("a batch");
        prop_assert_eq!((batch.first(), batch.len()), (first, entries.len()));
        prop_assert_eq!(batch.entries().collect::<Vec<_>>(), entries);
    }

    #[test]
    fn no_part_of_a_batch_is_a_batch((first, entries) in batch()) {
        let bytes = encoded(first, &entries);
        for length in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..length]).err(), Some(Malformed::Length), "{}", length);
        }
    }

    #[test]
    fn a_batch_with_anything_behind_it_is_refused(
        (first, entries) in batch(), more in vec(any::<u8>(), 1..3 * ENTRY)
    ) {
        let mut bytes = encoded(first, &entries);
        bytes.extend(more);
        prop_assert_eq!(decode(&bytes).err(), Some(Malformed::Length));
    }

    #[test]
    fn one_wrong_byte_spoils_its_own_entry_at_most(
        (first, entries) in batch(), at: prop::sample::Index, change in 1..=u8::MAX
    ) {
        let intact = encoded(first, &entries);
        let at = at.index(intact.len());
        let mut bytes = intact.clone();
        bytes[at] ^= change;
        let decoded = decode(&bytes);
        prop_assert_eq!(decoded.map(|_| ()), verdict(at, bytes[at], &intact), "byte {}", at);
        if let Ok(batch) = decoded {
            prop_assert_eq!(batch.first() == first, at >= HEADER);
            let spoiled = at.checked_sub(HEADER).map(|at| at / ENTRY);
            for (i, (got, sent)) in batch.entries().zip(&entries).enumerate() {
                prop_assert!(spoiled == Some(i) || got == *sent, "entry {}", i);
            }
        }
    }

    #[test]
    fn hostile_bytes_are_refused_or_are_a_whole_batch(
        noise in vec(any::<u8>(), 0..=MAX_BYTES + ENTRY),
        count in 0..=MAX_BATCH as u8 + 1,
        right in 0..3,
    ) {
        let mut bytes = noise;
        // Noise alone never gets past the header, so some cases are given a right one with the
        // right length, and some of these the right family and arm in every entry.
        if right > 0 {
            bytes.resize(HEADER + usize::from(count) * ENTRY, 4);
            bytes[..COUNT_AT].copy_from_slice(&encoded(0, &[SAMPLE])[..COUNT_AT]);
            bytes[COUNT_AT] = count;
        }
        if right > 1 {
            for entry in bytes[HEADER..].chunks_mut(ENTRY) {
                (entry[FAMILY_AT], entry[ARM_AT]) = (4 + entry[0] % 2 * 2, entry[1] % 8);
            }
        }
        let decoded = decode(&bytes);
        if right > 1 && (1..=MAX_BATCH).contains(&usize::from(count)) {
            prop_assert!(decoded.is_ok());
        }
        if let Ok(batch) = decoded {
            let entries: Vec<_> = batch.entries().collect();
            prop_assert_eq!(entries.len(), usize::from(count));
            let again = encoded(batch.first(), &entries);
            let again = decode(&again).expect("it was one before");
            prop_assert_eq!(again.entries().collect::<Vec<_>>(), entries);
        }
    }
}

const SAMPLE: Entry = Entry {
    accepted_at: 0x0102_0304_0506_0708,
    peer: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 0x1234)),
    listener: 3,
    arm: Arm::ALL[5],
    shadows: Picks::NONE,
};

#[test]
fn the_layout_is_the_documented_one() {
    let bytes = encoded(0x0a0b_0c0d, &[SAMPLE]);
    let expected = [
        &b"TP"[..],
        &[2, 1, 0x0d, 0x0c, 0x0b, 0x0a],
        &[8, 7, 6, 5, 4, 3, 2, 1],
        &[192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x34, 0x12, 4, 3, 5, 0, 0, 0],
        &[0, 0, 0, 0],
        &[255; 4],
    ];
    assert_eq!(bytes, expected.concat());
}

#[test]
fn the_largest_batch_fills_the_largest_message_exactly() {
    assert_eq!(encoded(1, &[SAMPLE; MAX_BATCH]).len(), MAX_BYTES);
}

#[test]
#[should_panic(expected = "a batch of 0")]
fn a_batch_of_none_is_never_written() {
    encoded(1, &[]);
}

#[test]
#[should_panic(expected = "a batch of 65")]
fn a_batch_of_too_many_is_never_written() {
    encoded(1, &[SAMPLE; MAX_BATCH + 1]);
}
