//! How much memory what waits may hold.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::noop_waker_ref;

use super::{
    super::{
        inbox::{Inbox, Item, Next},
        message::PacketTag,
    },
    *,
};

/// Messages of so many bytes each that came in one packet of this number.
fn came(number: u64, messages: usize, bytes: usize) -> (Vec<Message>, Bytes) {
    let header = Header {
        kind: Kind::Event,
        space: Space::Topic,
        encoding: Encoding::Raw,
        attached: Attached::Nothing,
        sequence: 1,
        from: OTHER,
        id: 0,
        deadline: 0,
    };
    let mut packet = Vec::new();
    for _ in 0..messages {
        frame::encode(
            &header,
            &To::Subscribers,
            "a",
            &[],
            &vec![number as u8; bytes],
            &mut packet,
        );
    }
    let packet = Bytes::from(packet);
    let tag = PacketTag {
        number,
        size: packet.len() as u32,
    };
    let frames = frame::frames(&packet).map(|frame| frame.expect("sound"));
    (
        frames
            .map(|frame| Message::new(&frame, &packet, tag))
            .collect(),
        packet,
    )
}

fn next(inbox: &Inbox<Message>) -> Option<(Message, u64)> {
    match inbox.poll(&Context::from_waker(noop_waker_ref())) {
        Poll::Ready(Next::Item(message, missed)) => Some((message, missed)),
        Poll::Ready(other) => panic!("{other:?}"),
        Poll::Pending => None,
    }
}

#[test]
fn few_messages_of_many_packets_do_not_keep_the_packets() {
    let inbox = Inbox::new(100_000, Overflow::LoseOldest);
    let mut packets = Vec::new();
    for number in 0..2000 {
        // One of 300 is for this subscription.
        let (mut messages, packet) = came(number, 300, 60);
        let outcome = inbox.push(messages.swap_remove(150));
        assert!(
            outcome.lost.is_empty(),
            "each needs some hundred bytes only"
        );
        packets.push(packet);
    }
    let kept: usize = packets
        .into_iter()
        .filter(|packet| !packet.is_unique())
        .count();
    assert!(
        kept <= 4 * 1024 * 1024 / (300 * 100),
        "{kept} packets are kept"
    );
    for number in 0..2000 {
        let (message, missed) = next(&inbox).expect("it waits");
        assert_eq!(
            (&*message.bytes(), missed),
            (&vec![number as u8; 60][..], 0)
        );
    }
    assert!(next(&inbox).is_none());
}

#[test]
fn a_packet_counts_once_and_until_its_last_message_has_gone() {
    let inbox = Inbox::new(100_000, Overflow::LoseOldest);
    // 4 MiB hold these, if each packet counts once.
    for number in 0..100 {
        for message in came(number, 300, 60).0 {
            assert!(inbox.push(message).lost.is_empty());
        }
    }
    let (first, _) = next(&inbox).expect("it waits");
    assert!(first.packet().is_some(), "nothing had to be copied");
    for i in 1..30_000 {
        let (_, missed) = next(&inbox).expect("it waits");
        assert_eq!(missed, 0, "{i}");
    }
    // All is free again.
    for number in 0..60 {
        let (mut messages, _) = came(number, 1, 65_000);
        assert!(inbox.push(messages.remove(0)).lost.is_empty());
    }
}

#[test]
fn large_messages_are_lost_by_their_size() {
    let inbox = Inbox::new(100_000, Overflow::LoseOldest);
    let mut lost = 0;
    for number in 0..200 {
        let (mut messages, _) = came(number, 1, 65_000);
        lost += inbox.push(messages.remove(0)).lost.len();
    }
    let (message, missed) = next(&inbox).expect("it waits");
    assert_eq!((missed as usize, inbox.all_missed() as usize), (lost, lost));
    assert_eq!(&*message.bytes(), &vec![lost as u8; 65_000][..]);
    let held = (200 - lost) * 65_000;
    assert!(
        (3_900_000..=4 * 1024 * 1024).contains(&held),
        "{held} bytes are held"
    );
}

#[test]
fn of_what_is_lost_before_anybody_looks_nothing_is_forgotten() {
    let inbox = Inbox::new(1, Overflow::LoseOldest);
    for number in 0..5 {
        inbox.push(came(number, 1, 1).0.remove(0));
        assert!(inbox.skip(10).is_none());
    }
    let (_, missed) = next(&inbox).expect("it waits");
    assert_eq!(
        missed, 44,
        "4 of its own and 40 that were lost on the way before it"
    );
    inbox.push(came(9, 1, 1).0.remove(0));
    assert_eq!(next(&inbox).expect("it waits").1, 10);
    assert_eq!(inbox.all_missed(), 54);
}
