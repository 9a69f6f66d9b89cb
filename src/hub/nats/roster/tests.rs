//! Masters in one room, who hear each other, except what is lost.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::hub::nats::envelope::{open, seal};

const SECOND: u64 = 1_000_000_000;
const BEAT: u64 = 2 * SECOND;

/// One master, and what it has been told.
struct Master {
    roster: Roster,
    links: Vec<Link>,
    packets: Vec<Vec<u8>>,
    gone: bool,
}

/// Masters that hear each other, except what is lost.
struct Room {
    masters: Vec<Master>,
    /// What is under way, for one of them.
    air: VecDeque<(usize, Vec<u8>)>,
    now: u64,
}

fn sign(roster: &Roster, heard: bool) -> Vec<u8> {
    let sign = Sign {
        born: roster.born,
        version: 0,
        expiry_ms: 7_000,
        heard,
        loads: Vec::new(),
    };
    sign.encode()
}

impl Room {
    /// Masters with these names, in their first sittings.
    fn new(names: &[u64]) -> Self {
        let masters = names.iter().enumerate().map(|(i, name)| Master {
            roster: Roster::new(MasterId(*name), i as u64),
            links: Vec::new(),
            packets: Vec::new(),
            gone: false,
        });
        let mut room = Self {
            masters: masters.collect(),
            air: VecDeque::new(),
            now: SECOND,
        };
        for i in 0..names.len() {
            room.masters[i].roster.sit_down(10 + i as u64);
        }
        room
    }

    fn send(&mut self, from: usize, kind: Kind, to: Option<Sitting>, counter: u64, body: &[u8]) {
        let envelope = Envelope {
            kind,
            from: self.masters[from].roster.here(),
            to,
            counter,
            body,
        };
        let bytes = seal(&envelope, None);
        for (i, other) in self.masters.iter().enumerate() {
            let subject = to.is_none_or(|to| to.master == other.roster.me);
            if i != from && !other.gone && subject {
                self.air.push_back((i, bytes.clone()));
            }
        }
    }

    fn beat(&mut self, from: usize) {
        let roster = &mut self.masters[from].roster;
        let (counter, body) = (roster.beat(), sign(roster, false));
        self.send(from, Kind::Sign, None, counter, &body);
    }

    fn speak(&mut self, from: usize, to: usize, text: &[u8]) -> bool {
        let name = self.masters[to].roster.me;
        let Some((there, counter)) = self.masters[from].roster.address(name) else {
            return false;
        };
        self.send(from, Kind::Packet, Some(there), counter, text);
        true
    }

    /// One of those that are under way arrives.
    fn deliver(&mut self) -> bool {
        let Some((to, bytes)) = self.air.pop_front() else {
            return false;
        };
        let _ = self.hear(to, &bytes);
        true
    }

    fn hear(&mut self, to: usize, bytes: &[u8]) -> Result<(), Dropped> {
        let envelope = open(bytes, None).expect("we sealed it");
        let master = &mut self.masters[to];
        let heard = master.roster.receive(&envelope, self.now)?;
        master.links.extend(heard.link);
        master.gone |= heard.usurper;
        if envelope.kind == Kind::Packet {
            master.packets.push(envelope.body.to_vec());
        }
        if let Some((whom, yes)) = heard.greet {
            let counter = master.roster.greeting(whom.master);
            let body = sign(&master.roster, yes);
            self.send(to, Kind::Sign, Some(whom), counter, &body);
        }
        Ok(())
    }

    fn settle(&mut self) {
        while self.deliver() {}
    }

    fn met(names: &[u64]) -> Self {
        let mut room = Self::new(names);
        for i in 0..names.len() {
            room.beat(i);
        }
        room.settle();
        for master in &mut room.masters {
            assert_eq!(master.links, vec![Link::Opens; names.len() - 1]);
            master.links.clear();
        }
        room
    }
}

#[test]
fn one_beat_is_enough_to_meet() {
    let mut room = Room::new(&[1, 2]);
    room.beat(0);
    room.settle();
    assert_eq!(room.masters[0].links, [Link::Opens]);
    assert_eq!(room.masters[1].links, [Link::Opens]);
    assert!(room.speak(0, 1, b"a") && room.speak(1, 0, b"b"));
    room.settle();
    assert_eq!(room.masters[1].packets, [b"a"]);
    assert_eq!(room.masters[0].packets, [b"b"]);
}

#[test]
fn a_recording_proves_nothing() {
    // A beat that was recorded, of a master that is not there any more.
    let mut room = Room::new(&[1, 2]);
    room.beat(0);
    let (_, beat) = room.air.pop_front().expect("a beat");
    room.masters[0].gone = true;
    assert_eq!(room.hear(1, &beat), Ok(()));
    room.settle();
    assert_eq!(room.masters[1].links, []);
    assert!(!room.speak(1, 0, b"a"));
    assert_eq!(room.hear(1, &beat), Err(Dropped::Replayed));
}

#[test]
fn nothing_is_heard_twice_or_out_of_order() {
    let mut room = Room::met(&[1, 2]);
    assert!(room.speak(0, 1, b"a") && room.speak(0, 1, b"b"));
    let [(_, a), (_, b)] = [0, 1].map(|i| room.air[i].clone());
    room.settle();
    for old in [&a, &b] {
        assert_eq!(room.hear(1, old), Err(Dropped::Replayed));
    }
    // Nor in another sitting.
    room.masters[1].roster.sit_down(100);
    for old in [&a, &b] {
        assert_eq!(room.hear(1, old), Err(Dropped::Stale));
    }
    assert_eq!(room.masters[1].packets, [b"a", b"b"]);
    // Nor by another than it was for.
    let mut other = Room::met(&[1, 3]);
    assert_eq!(other.hear(1, &a), Err(Dropped::Misdirected));
}

#[test]
fn who_is_silent_is_gone_until_it_is_heard_again() {
    let mut room = Room::met(&[1, 2]);
    let mut silent = Vec::new();
    for _ in 0..4 {
        assert_eq!(silent, []);
        room.now += BEAT;
        silent = room.masters[0].roster.silent(room.now, BEAT);
    }
    assert_eq!(silent, [MasterId(2)]);
    assert_eq!(room.masters[0].roster.linked(), 0);
    assert!(!room.speak(0, 1, b"a"));
    // The other has not noticed: what it says goes nowhere until it beats.
    assert!(room.speak(1, 0, b"b"));
    room.settle();
    assert_eq!(room.masters[0].links, []);
    room.beat(1);
    room.settle();
    assert_eq!(room.masters[0].links, [Link::Opens]);
    assert_eq!(room.masters[1].links, []);
    assert!(room.speak(1, 0, b"c"));
    room.settle();
    assert_eq!(room.masters[0].packets, [b"c"]);
}

#[test]
fn who_stood_still_does_not_take_the_others_for_gone() {
    let mut room = Room::met(&[1, 2]);
    let roster = &mut room.masters[0].roster;
    assert_eq!(roster.silent(room.now, BEAT), []);
    room.now += 100 * SECOND;
    assert_eq!(roster.silent(room.now, BEAT), []);
    room.now += 100 * SECOND;
    assert_eq!(roster.silent(room.now, BEAT), []);
    // But not for ever.
    let mut beats = (0..).map(|i| room.now + i * BEAT);
    let silent = beats.by_ref().take(20).find_map(|now| {
        let silent = roster.silent(now, BEAT);
        (!silent.is_empty()).then_some(silent)
    });
    assert_eq!(silent, Some(vec![MasterId(2)]));
}

#[test]
fn another_sitting_renews_the_link() {
    let mut room = Room::met(&[1, 2]);
    room.masters[0].roster.sit_down(50);
    assert!(!room.speak(0, 1, b"a"), "not met in this one yet");
    assert!(room.speak(1, 0, b"b"), "it does not know yet");
    room.beat(0);
    room.settle();
    for master in &mut room.masters {
        assert_eq!(master.links, [Link::Renews]);
        assert_eq!(master.packets, [b""; 0]);
        assert_eq!(master.roster.linked(), 1);
    }
    assert!(room.speak(0, 1, b"c") && room.speak(1, 0, b"d"));
    room.settle();
    assert_eq!(room.masters[1].packets, [b"c"]);
    assert_eq!(room.masters[0].packets, [b"d"]);
}

#[test]
fn sittings_grow_even_if_the_clock_goes_back() {
    let mut roster = Roster::new(MasterId(1), 0);
    roster.sit_down(100);
    roster.sit_down(50);
    assert_eq!(roster.here().number, 101);
}

#[test]
fn what_was_lost_is_counted_and_renews_the_link_once() {
    let mut room = Room::met(&[1, 2]);
    for text in [b"a", b"b", b"c", b"d", b"e"] {
        assert!(room.speak(0, 1, text));
    }
    room.air.drain(1..3);
    let d = room.air[1].1.clone();
    assert!(room.deliver());
    let heard = {
        let envelope = open(&d, None).expect("sealed");
        room.masters[1].roster.receive(&envelope, room.now)
    };
    assert_eq!(heard.map(|heard| (heard.lost, heard.link)), Ok((2, None)));
    room.beat(0);
    room.beat(0);
    room.settle();
    assert_eq!(room.masters[1].links, [Link::Renews]);
}

#[test]
fn a_link_that_was_cut_opens_with_the_next_beat() {
    let mut room = Room::met(&[1, 2]);
    room.masters[1].roster.unlink(MasterId(1));
    assert!(room.speak(0, 1, b"a"));
    room.settle();
    assert!(room.masters[1].packets.is_empty() && room.masters[1].links.is_empty());
    room.beat(0);
    room.settle();
    assert_eq!(room.masters[1].links, [Link::Opens]);
}

#[test]
fn the_younger_of_two_with_one_name_goes() {
    for elder_speaks_first in [true, false] {
        let mut room = Room::new(&[7, 7]);
        room.beat(usize::from(!elder_speaks_first));
        room.settle();
        assert_eq!([false, true], [0, 1].map(|i| room.masters[i].gone));
    }
}

#[test]
fn a_recording_of_oneself_is_no_namesake() {
    let mut room = Room::new(&[7, 8]);
    room.beat(0);
    let (_, own) = room.air.pop_front().expect("a beat");
    assert_eq!(room.hear(0, &own), Err(Dropped::Replayed));
    // Of an earlier sitting: it is greeted, and nobody answers.
    room.masters[0].roster.sit_down(99);
    assert_eq!(room.hear(0, &own), Ok(()));
    room.settle();
    assert!(!room.masters[0].gone);
}

#[test]
fn a_crowd_is_bounded_and_passes() {
    let mut roster = Roster::new(MasterId(1), 0);
    roster.sit_down(1);
    let from = |name: u64| {
        let mut other = Roster::new(MasterId(name), 0);
        other.sit_down(1);
        let hour = Sign {
            expiry_ms: *EXPIRY_MS.end(),
            ..Sign::decode(&sign(&other, false)).expect("a sign")
        };
        let body = hour.encode();
        let envelope = Envelope {
            kind: Kind::Sign,
            from: other.here(),
            to: None,
            counter: 1,
            body: &body,
        };
        seal(&envelope, None)
    };
    let hear = |roster: &mut Roster, name: u64, now: u64| {
        let bytes = from(name);
        roster
            .receive(&open(&bytes, None).expect("sealed"), now)
            .map(|_| ())
    };
    for name in 2..MOST as u64 + 2 {
        assert_eq!(hear(&mut roster, name, 1), Ok(()));
    }
    assert_eq!(hear(&mut roster, 9_999, 1), Err(Dropped::Crowded));
    assert_eq!(roster.silent(9 * SECOND, BEAT), []);
    assert_eq!(hear(&mut roster, 9_999, 1), Err(Dropped::Crowded));
    // However long they say that they stay.
    assert_eq!(roster.silent(11 * SECOND, BEAT), []);
    assert_eq!(hear(&mut roster, 9_999, 1), Ok(()));
}

#[test]
fn those_who_have_gone_take_no_room_for_ever() {
    let mut roster = Roster::new(MasterId(1), 0);
    roster.sit_down(1);
    let hear = |roster: &mut Roster, name: u64| {
        let mut other = Roster::new(MasterId(name), 0);
        other.sit_down(1);
        let body = sign(&other, true);
        let envelope = Envelope {
            kind: Kind::Sign,
            from: other.here(),
            to: Some(roster.here()),
            counter: 1,
            body: &body,
        };
        roster.receive(&envelope, 1).map(|_| ())
    };
    for name in 2..MOST as u64 + 2 {
        assert_eq!(hear(&mut roster, name), Ok(()));
    }
    assert_eq!(hear(&mut roster, 9_999), Err(Dropped::Crowded));
    assert!(!roster.is_worn(), "all of them are there");
    assert_eq!(roster.silent(8 * SECOND, BEAT).len(), MOST);
    // What they have said could still be said again in this sitting.
    assert_eq!(hear(&mut roster, 2), Err(Dropped::Replayed));
    assert_eq!(hear(&mut roster, 9_999), Err(Dropped::Crowded));
    assert!(roster.is_worn());
    roster.sit_down(2);
    assert!(!roster.is_worn());
    assert_eq!(hear(&mut roster, 9_999), Ok(()));
}

proptest! {
    /// Whatever is lost, repeated or swapped, whoever beats and sits down anew: each hears what the other
    /// has said at most once and in order, and once all is quiet again both have met.
    #[test]
    fn order_and_once_hold_whatever_happens(
        steps in proptest::collection::vec((0u8..9, 0usize..3, 0usize..3), 1..200),
    ) {
        let mut room = Room::new(&[1, 2, 3]);
        let mut said = 0u64;
        for (step, a, b) in steps {
            match step {
                0 => room.beat(a),
                1 | 2 if a != b => {
                    said += 1;
                    room.speak(a, b, &[&[a as u8], &said.to_be_bytes()[..]].concat());
                }
                3 => _ = room.air.pop_front(),
                4 => room.air.extend(room.air.front().cloned()),
                5 => {
                    let length = room.air.len();
                    if length > 1 {
                        room.air.swap(a % length, b % length);
                    }
                }
                6 => {
                    let next = room.masters[a].roster.sitting + 1;
                    room.masters[a].roster.sit_down(next);
                }
                7 => {
                    room.now += SECOND;
                    _ = room.masters[a].roster.silent(room.now, BEAT);
                }
                _ => _ = room.deliver(),
            }
        }
        room.settle();
        for master in &room.masters {
            for sender in 0..3 {
                let of_one = master.packets.iter().filter(|text| text[0] == sender);
                prop_assert!(of_one.is_sorted_by(|one, next| one < next));
            }
        }
        for _ in 0..2 {
            for i in 0..3 {
                room.beat(i);
            }
            room.settle();
        }
        for i in 0..3 {
            prop_assert_eq!(room.masters[i].roster.linked(), 2);
            for j in 0..3 {
                prop_assert!(i == j || room.speak(i, j, b"x"));
            }
        }
    }
}
