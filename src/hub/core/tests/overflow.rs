//! What happens to those who do not read, and that it happens to nobody else.

use proptest::prelude::*;

use super::{
    super::{Limits, Lost},
    rig::{Draft, Net},
};
use crate::bus::{
    Departure, Failure, To,
    control::{Ask, Tell},
    frame::{Attached, Kind, MAX_PACKET},
};

/// As little as can be set.
fn small() -> Limits {
    Limits {
        queue_bytes: MAX_PACKET,
        ..Limits::default()
    }
}

fn flood(net: &mut Net, sender: usize, messages: usize) {
    for message in 0..messages {
        net.publish(
            sender,
            To::Subscribers,
            "flood",
            message.to_string().as_bytes(),
        );
        if message % 100 == 0 {
            net.pump();
        }
    }
    net.pump();
}

#[test]
fn who_does_not_read_loses_the_oldest_and_sees_how_many() {
    let mut net = Net::default();
    let hub = net.hub_with(small());
    let [sender, slow, swift] = [0, 1, 2].map(|seat| net.worker(hub, seat));
    net.subscribe(slow, "flood");
    net.subscribe(swift, "flood");
    net.pump();
    net.processes[slow].is_stopped = true;
    flood(&mut net, sender, 10_000);
    let all: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    assert_eq!(net.events(swift), all, "nobody else is harmed");
    assert_eq!(net.processes[swift].missed, 0);
    let port = net.processes[slow].port;
    assert!(net.hubs[hub].core.queue(port).unwrap().bytes() <= MAX_PACKET);
    assert_eq!(net.hubs[hub].core.next_dirty(), None);
    assert!(net.hubs[hub].counters.queued_bytes.count() <= MAX_PACKET as u64);
    net.wake(slow);
    let got = net.events(slow);
    assert_eq!(
        got[..],
        all[all.len() - got.len()..],
        "the newest, in order"
    );
    let missed = net.processes[slow].missed;
    assert_eq!(missed as usize + got.len(), all.len());
    assert_eq!(net.hubs[hub].counters.lost(Lost::Overflow).count(), missed);
}

#[test]
fn or_is_cut_where_that_is_wanted() {
    let mut net = Net::default();
    let hub = net.hub_with(Limits {
        overflow: crate::config::BusOverflow::Cut,
        ..small()
    });
    let [sender, slow, swift] = [0, 1, 2].map(|seat| net.worker(hub, seat));
    net.subscribe(slow, "flood");
    net.subscribe(swift, "flood");
    net.pump();
    net.processes[slow].is_stopped = true;
    flood(&mut net, sender, 2_000);
    assert!(net.processes[slow].was_cut && !net.processes[swift].was_cut);
    assert_eq!(net.events(swift).len(), 2_000);
    assert_eq!(net.hubs[hub].counters.cut.count(), 1);
    let port = net.processes[slow].port;
    assert!(net.hubs[hub].core.queue(port).is_none());
    net.hubs[hub].core.closed(port);
    assert_eq!(
        net.hubs[hub].core.interest.size(),
        2,
        "one entry and its count: the other's"
    );
    // It stays listed: its process is there.
    assert_eq!(net.peers(hub).len(), 4);
}

#[test]
fn a_request_that_makes_room_fails() {
    let mut net = Net::default();
    let hub = net.hub_with(small());
    let [sender, slow] = [0, 1].map(|seat| net.worker(hub, seat));
    net.subscribe(slow, "flood");
    net.pump();
    net.processes[slow].is_stopped = true;
    let early = net.request(sender, net.id(slow), "flood");
    flood(&mut net, sender, 2_000);
    let failures = net.take(sender, Kind::Failure);
    let [failure] = &failures[..] else {
        panic!("{failures:?}")
    };
    assert_eq!(
        (failure.header.id, failure.failure()),
        (early, Some(Failure::Overflow))
    );
    assert_eq!(net.hubs[hub].core.pending.len(), 0);
    let late = net.request(sender, net.id(slow), "flood");
    net.wake(slow);
    let requests = net.take(slow, Kind::Request);
    assert_eq!(requests[0].header.id, late);
    net.reply(slow, &requests[0], b"at last");
    net.pump();
    assert_eq!(net.take(sender, Kind::Reply)[0].payload, b"at last");
}

#[test]
fn acknowledgements_and_ends_of_requests_are_not_lost() {
    let mut net = Net::default();
    let hub = net.hub_with(small());
    let [sender, slow, third] = [0, 1, 2].map(|seat| net.worker(hub, seat));
    net.subscribe(third, "do.it");
    net.pump();
    net.processes[slow].is_stopped = true;
    let subscribed = net.ask(slow, &Ask::Subscribe("flood".into()));
    let answered = net.request(slow, net.id(third), "do.it");
    let emptily = net.request(slow, net.id(third), "do.it");
    let forsaken = net.request(slow, net.id(third), "do.it");
    net.pump();
    let requests = net.take(third, Kind::Request);
    net.reply(third, &requests[0], b"something");
    net.reply(third, &requests[1], b"");
    net.leave(third, Departure::Exit(0));
    flood(&mut net, sender, 5_000);
    net.wake(slow);
    let got = std::mem::take(&mut net.processes[slow].got);
    let of = |id: u64| {
        let mine: Vec<_> = got.iter().filter(|one| one.header.id == id).collect();
        assert_eq!(mine.len(), 1, "{id}");
        (mine[0].header.kind, mine[0].failure())
    };
    assert_eq!(of(subscribed), (Kind::Reply, None));
    assert_eq!(
        of(answered),
        (Kind::Failure, Some(Failure::Gone)),
        "its content is lost, and what came along was taken"
    );
    assert_eq!(of(emptily), (Kind::Reply, None));
    assert_eq!(of(forsaken), (Kind::Failure, Some(Failure::Gone)));
}

#[test]
fn a_welcome_is_not_lost() {
    let mut net = Net::default();
    let (top, below) = (net.hub(), net.hub_with(small()));
    let starter = net.worker(top, 0);
    let [sender, slow] = [0, 1].map(|seat| net.worker(below, seat));
    net.subscribe(slow, "flood");
    net.pump();
    net.take(slow, Kind::Tell);
    net.processes[slow].is_stopped = true;
    flood(&mut net, sender, 1_000);
    net.branch(starter, below);
    net.pump();
    flood(&mut net, sender, 5_000);
    net.wake(slow);
    let tells = net.take(slow, Kind::Tell);
    let tell = tells.last().and_then(|got| got.tell());
    assert!(
        matches!(tell, Some(Tell::Welcome { grand_master, .. }) if grand_master == net.hubs[top].id)
    );
}

#[test]
fn descriptors_that_wait_are_few() {
    let mut net = Net::default();
    let hub = net.hub();
    let [sender, slow] = [0, 1].map(|seat| net.worker(hub, seat));
    net.subscribe(slow, "take.it");
    net.pump();
    net.processes[slow].is_stopped = true;
    let mut draft = Draft::event(net.id(slow), "take.it", b"");
    (draft.kind, draft.attached) = (Kind::Request, Attached::Connection);
    for id in 1..=70 {
        draft.id = id;
        net.raw(sender, &draft.encode(), Some(id as u32)).unwrap();
    }
    net.pump();
    let failures = net.take(sender, Kind::Failure);
    assert_eq!(
        failures.iter().map(|one| one.header.id).collect::<Vec<_>>(),
        [65, 66, 67, 68, 69, 70]
    );
    assert!(
        failures
            .iter()
            .all(|one| one.failure() == Some(Failure::Overflow))
    );
    net.wake(slow);
    let got = net.take(slow, Kind::Request);
    assert!(
        got.iter()
            .all(|one| one.attached == Some(one.header.id as u32))
    );
    assert_eq!(got.len(), 64);
}

#[test]
fn a_hub_that_does_not_read_gets_no_more_but_all_facts() {
    let mut net = Net::default();
    let (top, below) = (net.hub_with(small()), net.hub());
    let [sender, starter] = [0, 1].map(|seat| net.worker(top, seat));
    let far = net.worker(below, 0);
    let wire = net.branch(starter, below);
    net.subscribe(far, "flood");
    net.pump();
    net.events(far);
    for message in 0..2_000 {
        net.publish(
            sender,
            To::Subscribers,
            "flood",
            message.to_string().as_bytes(),
        );
    }
    // Not even something small fits.
    net.publish(sender, To::Subscribers, "flood", b"");
    let request = net.request(sender, net.id(far), "flood");
    let group = net.request(sender, To::Subscribers, "flood");
    let newcomer = net.worker(top, 2);
    let (hub, port) = net.end_of(wire, 0);
    assert!(net.hubs[hub].core.queue(port).unwrap().bytes() <= MAX_PACKET + 1_000);
    net.pump();
    let failures: Vec<_> = net
        .take(sender, Kind::Failure)
        .iter()
        .map(|one| (one.header.id, one.failure()))
        .collect();
    assert_eq!(
        failures,
        [
            (request, Some(Failure::Overflow)),
            (group, Some(Failure::Overflow))
        ]
    );
    let mut got = net.events(far);
    let all = got.len() as u64;
    got.retain(|text| !text.is_empty());
    assert_eq!(
        got,
        (0..got.len()).map(|n| n.to_string()).collect::<Vec<_>>(),
        "the oldest here"
    );
    assert_eq!(
        all + net.hubs[top].counters.lost(Lost::Overflow).count(),
        2_003
    );
    assert!(
        net.peers(below)
            .iter()
            .any(|peer| peer.id == net.id(newcomer))
    );
}

proptest! {
    /// Whoever reads now and then sees exactly how many it has missed, and everything else in order.
    #[test]
    fn gaps_are_as_long_as_what_was_lost(
        messages in prop::collection::vec((0usize..20_000, prop::bool::weighted(0.1)), 1..80),
    ) {
        let mut net = Net::default();
        let hub = net.hub_with(small());
        let [sender, slow] = [0, 1].map(|seat| net.worker(hub, seat));
        net.subscribe(slow, "flood");
        net.pump();
        net.processes[slow].is_stopped = true;
        let mut got = Vec::new();
        for (number, (bytes, reads)) in messages.iter().enumerate() {
            let mut payload = format!("{number} ").into_bytes();
            payload.resize(payload.len() + bytes, b'.');
            net.publish(sender, To::Subscribers, "flood", &payload);
            let port = net.processes[slow].port;
            prop_assert!(net.hubs[hub].core.queue(port).unwrap().bytes() <= MAX_PACKET);
            if *reads || number + 1 == messages.len() {
                net.wake(slow);
                net.processes[slow].is_stopped = true;
                for text in net.events(slow) {
                    let number = text.split_once(' ').unwrap().0;
                    got.push(number.parse::<usize>().unwrap());
                }
            }
        }
        prop_assert!(got.is_sorted_by(|one, next| one < next));
        prop_assert_eq!(got.last(), Some(&(messages.len() - 1)));
        let missed = net.processes[slow].missed as usize;
        prop_assert_eq!(got.len() + missed, messages.len());
        prop_assert_eq!(net.hubs[hub].counters.lost(Lost::Overflow).count(), missed as u64);
    }
}
