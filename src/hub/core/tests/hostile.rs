//! Whatever comes through a line costs at most that line.

use proptest::prelude::*;

use super::{
    super::{HubLink, Newcomer},
    rig::{Draft, Net},
};
use crate::bus::{
    MasterId, ProcessId, To,
    control::{Ask, Fact, What},
    frame::{Attached, Kind, Malformed, Space},
};

fn draft(kind: Kind, payload: Vec<u8>) -> Draft {
    let mut draft = Draft::event(To::Subscribers, "said.it", &payload);
    draft.kind = kind;
    draft.id = 3;
    draft
}

#[test]
fn what_a_process_may_not_say_cuts_it_off() {
    let words = |ask: &Ask| rmp_serde::to_vec_named(ask).unwrap();
    let mut bad = Vec::new();
    for kind in [Kind::Tell, Kind::Fact] {
        bad.push((draft(kind, Vec::new()), None, Malformed::Forbidden));
    }
    bad.push((
        draft(Kind::Ask, b"what?".to_vec()),
        None,
        Malformed::Payload,
    ));
    bad.push((
        draft(Kind::Ask, words(&Ask::Branch)),
        None,
        Malformed::Attached,
    ));
    bad.push((
        draft(Kind::Ask, words(&Ask::Peers)),
        Some(1),
        Malformed::Attached,
    ));
    let mut nested = vec![0x81, 0xa4];
    nested.extend_from_slice(b"Host\x92\xa1x");
    nested.extend(vec![0x91; 50_000]);
    bad.push((draft(Kind::Ask, nested), None, Malformed::Payload));
    let mut one = draft(Kind::Request, Vec::new());
    one.id = 0;
    bad.push((one, None, Malformed::Forbidden));
    let mut one = draft(Kind::Event, Vec::new());
    one.name = "said..it".into();
    bad.push((one, None, Malformed::Name));
    for kind in [Kind::Event, Kind::Request, Kind::Reply, Kind::Failure] {
        let mut one = draft(kind, Vec::new());
        one.name = "$connection".into();
        bad.push((one, None, Malformed::Forbidden));
    }
    let mut one = draft(Kind::Event, Vec::new());
    one.attached = Attached::Stream;
    bad.push((one, None, Malformed::Attached));
    let mut one = draft(Kind::Event, Vec::new());
    one.attached = Attached::Line;
    bad.push((one, Some(4), Malformed::Attached));
    bad.push((draft(Kind::Event, Vec::new()), Some(4), Malformed::Attached));
    let mut one = draft(Kind::Event, Vec::new());
    (one.to, one.space) = (To::Host(Default::default()), Space::Topic);
    bad.push((one, None, Malformed::To));
    bad.push((draft(Kind::Reply, Vec::new()), None, Malformed::To));
    for (draft, attached, expected) in bad {
        let mut net = Net::default();
        let hub = net.hub();
        let worker = net.worker(hub, 0);
        let guest = net.guest(hub);
        let packet = draft.encode();
        assert_eq!(net.raw(guest, &packet, attached), Err(expected));
        assert_eq!(
            net.raw(guest, &packet, attached),
            Ok(()),
            "nobody listens any more"
        );
        assert_eq!(net.hubs[hub].counters.malformed.count(), 1);
        let port = net.processes[guest].port;
        net.hubs[hub].core.closed(port);
        assert_eq!(net.peers(hub).len(), 2);
        net.subscribe(worker, "fine");
        net.pump();
        assert!(!net.take(worker, Kind::Reply).is_empty());
    }
}

#[test]
fn versions_may_be_any_number() {
    let mut net = Net::default();
    let (hub, other) = (net.hub(), net.hub());
    let wire = net.meet(hub, other);
    net.pump();
    let (_, port) = net.end_of(wire, 0);
    let loads = super::rig::Given::default();
    for (version, what) in [
        (u64::MAX - 1, What::Anew),
        (u64::MAX - 1, What::Complete),
        (u64::MAX, What::Wants("a".into())),
        (0, What::Wants("b".into())),
        (u64::MAX, What::Wants("c".into())),
    ] {
        let owner = MasterId(101);
        let fact = Fact {
            owner,
            version,
            what,
        };
        let packet = draft(Kind::Fact, rmp_serde::to_vec_named(&fact).unwrap()).encode();
        let core = &mut net.hubs[hub].core;
        assert_eq!(core.receive(port, &packet, None, 0, &loads), Ok(()));
    }
    assert_eq!(net.hubs[hub].core.interest.size(), 1);
}

#[test]
fn a_hub_may_speak_only_for_those_behind_it() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub(), net.hub()];
    let workers = hubs.map(|hub| net.worker(hub, 0));
    net.branch(workers[0], hubs[1]);
    let wire = net.meet(hubs[0], hubs[2]);
    net.subscribe(workers[0], ">");
    net.pump();
    net.events(workers[0]);
    let known = net.peers(0);
    let (_, port) = net.end_of(wire, 0);
    let say = |net: &mut Net, packet: &[u8]| {
        let loads = super::rig::Given::default();
        net.hubs[0].core.receive(port, packet, None, 0, &loads)
    };
    // As somebody of the first hub, of the second, of nobody's.
    for master in [100, 101, 7] {
        let mut draft = Draft::event(net.id(workers[0]), "said.it", b"forged");
        let worker = net.id(workers[0]);
        for to in [To::Subscribers, worker.into(), To::Route(vec![worker])] {
            draft.to = to;
            let mut packet = draft.encode();
            crate::bus::frame::set_from(&mut packet, MasterId(master).process());
            assert_eq!(say(&mut net, &packet), Ok(()));
        }
    }
    assert_eq!(net.reached(), [0; 0]);
    assert_eq!(
        net.hubs[0]
            .counters
            .lost(super::super::Lost::Stranger)
            .count(),
        9
    );
    // That somebody of the first is gone, or of the second; that somebody of its own is of the second.
    for (owner, process) in [(100, 100), (101, 101), (102, 101)] {
        let process = MasterId(process).process();
        let what = What::Down(process, crate::bus::Departure::Exit(0));
        let fact = Fact {
            owner: MasterId(owner),
            version: 99,
            what,
        };
        let packet = draft(Kind::Fact, rmp_serde::to_vec_named(&fact).unwrap()).encode();
        let expected = if owner == 102 {
            Err(Malformed::Forbidden)
        } else {
            Ok(())
        };
        assert_eq!(say(&mut net, &packet), expected);
    }
    net.pump();
    assert_eq!(net.peers(0), known);
    for kind in [Kind::Ask, Kind::Tell] {
        let wire = net.meet(hubs[0], hubs[2]);
        let (_, port) = net.end_of(wire, 0);
        let packet = draft(kind, Vec::new()).encode();
        let loads = super::rig::Given::default();
        let got = net.hubs[0].core.receive(port, &packet, None, 0, &loads);
        assert_eq!(got, Err(Malformed::Forbidden));
    }
}

#[test]
fn what_hubs_tell_takes_no_more_than_there_is_room_for() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub(), net.hub()];
    let worker = net.worker(hubs[1], 0);
    net.meet(hubs[0], hubs[1]);
    let wire = net.meet(hubs[0], hubs[2]);
    net.subscribe(worker, "fine");
    net.pump();
    let known = net.peers(0);
    let (_, port) = net.end_of(wire, 0);
    let owner = MasterId(102);
    let loads = super::rig::Given::default();
    let told = (1..9_000).find(|number| {
        let mut peer = known[0].clone();
        peer.id = ProcessId {
            master: owner,
            number: *number,
        };
        peer.node = "n".repeat(30_000);
        let fact = Fact {
            owner,
            version: 100 + u64::from(*number),
            what: What::Up(peer),
        };
        let packet = draft(Kind::Fact, rmp_serde::to_vec_named(&fact).unwrap()).encode();
        let core = &mut net.hubs[0].core;
        core.receive(port, &packet, None, 0, &loads) == Err(Malformed::Forbidden)
    });
    assert!(told.is_some_and(|told| told > 1_000), "{told:?}");
    net.hubs[0].core.closed(port);
    let mut left = known;
    left.retain(|peer| peer.id.master != owner);
    assert_eq!(net.peers(0), left, "the others are as they were");
}

/// Packets that make sense, from a process or from a hub.
fn sensible(seed: usize) -> Vec<u8> {
    let master = MasterId(101);
    let ask = |ask| draft(Kind::Ask, rmp_serde::to_vec_named(&ask).unwrap()).encode();
    let fact = |version, what| {
        let fact = Fact {
            owner: master,
            version,
            what,
        };
        draft(Kind::Fact, rmp_serde::to_vec_named(&fact).unwrap()).encode()
    };
    match seed % 12 {
        0 => ask(Ask::Subscribe("a.*".into())),
        1 => ask(Ask::Host("shop".into(), serde_json::json!({"a": [1, "b"]}))),
        2 => ask(Ask::Offer("grind".into())),
        3 => ask(Ask::Peers),
        4 => ask(Ask::Watch(true)),
        5 => draft(Kind::Event, vec![7; 40]).encode(),
        6 => {
            let mut one = draft(Kind::Request, vec![7; 40]);
            one.to = To::Route(vec![master.process(), MasterId(100).process()]);
            one.encode()
        }
        7 => {
            let mut one = draft(Kind::Reply, vec![7; 4]);
            one.to = MasterId(100).process().into();
            one.encode()
        }
        8 => fact(1, What::Inquiry),
        9 => fact(2, What::Anew),
        10 => fact(2, What::Wants("a.b".into())),
        _ => fact(2, What::Complete),
    }
}

proptest! {
    #[test]
    fn spoilt_packets_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        seeds in prop::collection::vec(0usize..12, 1..8),
        from_hub in any::<bool>(),
        attached in prop::option::of(0u32..9),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut net = Net::default();
        let (hub, other) = (net.hub(), net.hub());
        let worker = net.worker(hub, 0);
        let wire = net.meet(hub, other);
        net.subscribe(worker, "fine");
        net.pump();
        let mut packet: Vec<u8> = seeds.iter().flat_map(|seed| sensible(*seed)).collect();
        for (place, byte) in changes {
            let place = place.index(packet.len());
            packet[place] = byte;
        }
        // Sometimes its end is missing.
        let length = packet.len() + 200;
        packet.truncate(cut.index(length).max(1));
        let hostile = net.guest(hub);
        let port = if from_hub { net.end_of(wire, 0).1 } else { net.processes[hostile].port };
        let loads = super::rig::Given::default();
        let core = &mut net.hubs[hub].core;
        if core.receive(port, &packet, attached, 5, &loads).is_err() {
            core.closed(port);
        }
        net.publish(worker, To::Subscribers, "fine", b"!");
        net.processes.truncate(1);
        while let Some(port) = net.hubs[hub].core.next_dirty() {
            if port == net.processes[worker].port {
                let text = net.hubs[hub].core.queue(port).unwrap().bytes();
                prop_assert!(text > 0);
            }
        }
    }
}

#[test]
fn a_process_has_only_so_many_masters_below_it() {
    let mut net = Net::default();
    let hub = net.hub();
    let (a, b) = (net.worker(hub, 0), net.worker(hub, 1));
    let ask = |net: &mut Net, process: usize, line: u32| {
        let words = rmp_serde::to_vec_named(&Ask::Branch).unwrap();
        let mut branch = draft(Kind::Ask, words);
        branch.attached = Attached::Line;
        net.raw(process, &branch.encode(), Some(line)).unwrap();
        net.hubs[hub].core.branches()
    };
    let mut ports = Vec::new();
    for line in 0..200 {
        for (process, line) in ask(&mut net, a, line) {
            let below = Newcomer::Hub(HubLink::Below(process));
            ports.push((line, net.hubs[hub].core.join(below).0));
        }
    }
    // Those that came first; others may have as many, and for one that goes there may be another.
    assert!(ports.iter().map(|(line, _)| *line).eq(0..64));
    assert_eq!(ask(&mut net, b, 7), [(net.id(b), 7)]);
    net.hubs[hub].core.closed(ports[5].1);
    assert_eq!(ask(&mut net, a, 8), [(net.id(a), 8)]);
}
