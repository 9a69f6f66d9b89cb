//! Requests end: by the first answer, or by the last failure.

use super::{
    super::{Limits, Newcomer},
    rig::{Draft, Net},
};
use crate::bus::{Departure, Failure, Role, To, control::Ask, frame::Kind};

struct Pair {
    net: Net,
    /// Of the first hub, and of the one below.
    here: [usize; 3],
    there: [usize; 2],
    wire: usize,
}

fn pair() -> Pair {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub()];
    let here = [0, 1, 2].map(|seat| net.worker(hubs[0], seat));
    let there = [0, 1].map(|seat| net.worker(hubs[1], seat));
    let wire = net.branch(here[2], hubs[1]);
    for one in [here[1], here[2], there[0], there[1]] {
        net.subscribe(one, "do.it");
    }
    net.pump();
    Pair {
        net,
        here,
        there,
        wire,
    }
}

impl Pair {
    /// The failures that the requester has got.
    fn failures(&mut self) -> Vec<(u64, Failure)> {
        self.net.pump();
        let got = self.net.take(self.here[0], Kind::Failure);
        got.iter()
            .map(|one| (one.header.id, one.failure().unwrap()))
            .collect()
    }

    fn is_over(&self) {
        for hub in &self.net.hubs {
            assert_eq!(hub.core.pending.len(), 0);
            assert!(hub.core.ports.iter().all(|(_, port)| port.requests == 0));
        }
    }
}

#[test]
fn a_request_to_nobody_fails_at_once() {
    let mut x = pair();
    let me = x.here[0];
    let nobody = crate::bus::ProcessId {
        number: 99,
        ..x.net.id(me)
    };
    let stranger = crate::bus::MasterId(9).process();
    for (to, topic, expected) in [
        (To::from(nobody), "do.it", Failure::Unroutable),
        (To::from(stranger), "do.it", Failure::Unroutable),
        (To::Worker(7), "do.it", Failure::Unroutable),
        (To::Children, "do.it", Failure::Unroutable),
        (
            To::Route(vec![stranger, nobody]),
            "do.it",
            Failure::Unroutable,
        ),
        (To::Siblings, "do.that", Failure::NoListener),
        (To::Subscribers, "do.that", Failure::NoListener),
        (To::Everyone, "do.that", Failure::NoListener),
        (
            To::from(x.net.id(x.here[1])),
            "do.that",
            Failure::NoListener,
        ),
        (
            To::from(x.net.id(x.there[1])),
            "do.that",
            Failure::NoListener,
        ),
        (
            To::Processes(vec![nobody, x.net.id(x.there[1])]),
            "do.that",
            Failure::NoListener,
        ),
        (To::Processes(vec![]), "do.it", Failure::Unroutable),
    ] {
        let id = x.net.request(me, to.clone(), topic);
        assert_eq!(x.failures(), [(id, expected)], "{to:?}");
    }
    x.is_over();
}

#[test]
fn the_first_reply_wins_and_the_others_are_unasked() {
    for to in [To::Siblings, To::Subscribers, To::Everyone] {
        let mut x = pair();
        let id = x.net.request(x.here[0], to.clone(), "do.it");
        x.net.pump();
        let mut replied = 0;
        for one in [x.there[1], x.here[1], x.here[2], x.there[0]] {
            if let [request] = &x.net.take(one, Kind::Request)[..] {
                x.net.reply(one, request, b"done");
                x.net.pump();
                replied += 1;
            }
        }
        let replies = x.net.take(x.here[0], Kind::Reply);
        let [reply] = &replies[..] else {
            panic!("{to:?}: {replies:?}");
        };
        assert!(replied > 1 && reply.header.id == id, "{to:?}");
        assert_eq!(
            x.net.hubs[0]
                .counters
                .lost(super::super::Lost::Unasked)
                .count()
                + x.net.hubs[1]
                    .counters
                    .lost(super::super::Lost::Unasked)
                    .count(),
            replied - 1
        );
        x.is_over();
    }
}

#[test]
fn it_fails_when_the_last_has_failed() {
    let mut x = pair();
    let everybody = [x.here[1], x.there[0], x.here[2], x.there[1]];
    let id = x.net.request(x.here[0], To::Everyone, "do.it");
    x.net.pump();
    for (place, one) in everybody.into_iter().enumerate() {
        assert_eq!(x.failures(), [], "{place}");
        // Some refuse, some end.
        let request = x.net.take(one, Kind::Request).remove(0);
        match place % 2 {
            0 => x.net.refuse(one, &request),
            _ => x.net.leave(one, Departure::Signal(9)),
        }
    }
    assert_eq!(x.failures(), [(id, Failure::Gone)]);
    x.is_over();
}

#[test]
fn the_end_of_whoever_was_asked_ends_the_request() {
    let mut x = pair();
    let me = x.here[0];
    let near = x.net.request(me, x.net.id(x.here[1]), "do.it");
    let far = x.net.request(me, x.net.id(x.there[0]), "do.it");
    let beyond = x.net.request(me, x.net.id(x.there[1]), "do.it");
    x.net.pump();
    x.net.leave(x.here[1], Departure::Exit(1));
    assert_eq!(x.failures(), [(near, Failure::Gone)]);
    x.net.leave(x.there[0], Departure::Exit(1));
    assert_eq!(x.failures(), [(far, Failure::Gone)]);
    let wire = x.wire;
    x.net.cut(wire);
    assert_eq!(x.failures(), [(beyond, Failure::Gone)]);
    x.is_over();
}

#[test]
fn an_answer_passes_before_the_end_of_who_gave_it() {
    let mut x = pair();
    x.net.request(x.here[0], x.net.id(x.there[0]), "do.it");
    x.net.pump();
    let request = x.net.take(x.there[0], Kind::Request).remove(0);
    x.net.reply(x.there[0], &request, b"last words");
    x.net.leave(x.there[0], Departure::Exit(0));
    x.net.pump();
    let got = std::mem::take(&mut x.net.processes[x.here[0]].got);
    let kinds: Vec<Kind> = got.iter().map(|one| one.header.kind).collect();
    assert_eq!(kinds.last(), Some(&Kind::Reply));
    assert!(!kinds.contains(&Kind::Failure));
    x.is_over();
}

#[test]
fn only_who_was_asked_may_answer() {
    let mut x = pair();
    x.net.request(x.here[0], x.net.id(x.there[0]), "do.it");
    x.net.pump();
    let request = x.net.take(x.there[0], Kind::Request).remove(0);
    for forger in [x.here[1], x.there[1]] {
        x.net.reply(forger, &request, b"trust me");
        x.net.refuse(forger, &request);
        x.net.pump();
    }
    x.net.reply(x.there[0], &request, b"true");
    x.net.pump();
    let replies = x.net.take(x.here[0], Kind::Reply);
    assert_eq!(replies.last().unwrap().payload, b"true");
    assert_eq!(
        replies
            .iter()
            .filter(|one| one.payload == b"trust me")
            .count(),
        0
    );
    x.is_over();
}

#[test]
fn what_is_too_late_is_not_delivered() {
    let mut x = pair();
    x.net.now = 1_000;
    for to in [To::from(x.net.id(x.here[1])), To::Subscribers] {
        let mut draft = Draft::event(to, "do.it", b"");
        (draft.kind, draft.id, draft.deadline) = (Kind::Request, 5, 999);
        x.net.send(x.here[0], &draft);
        assert_eq!(x.failures(), [(5, Failure::Expired)]);
    }
    assert_eq!(x.net.take(x.here[1], Kind::Request).len(), 0);
    // On the way, too.
    let mut draft = Draft::event(x.net.id(x.there[1]), "do.it", b"");
    (draft.kind, draft.id, draft.deadline) = (Kind::Request, 6, 1_001);
    x.net.send(x.here[0], &draft);
    x.net.now = 2_000;
    assert_eq!(x.failures(), [(6, Failure::Expired)]);
    x.is_over();
}

#[test]
fn too_many_requests_are_not_remembered_but_late_ones_make_room() {
    let mut net = Net::default();
    let hub = net.hub_with(Limits {
        requests: 3,
        ..Limits::default()
    });
    let (one, other) = (net.worker(hub, 0), net.worker(hub, 1));
    net.subscribe(other, "do.it");
    net.pump();
    let mut draft = Draft::event(net.id(other), "do.it", b"");
    draft.kind = Kind::Request;
    for (id, deadline, now, fails) in [
        (1, 10, 0, false),
        (2, 20, 0, false),
        (3, 0, 0, false),
        (4, 50, 5, true),
        (5, 50, 15, false),
    ] {
        (draft.id, draft.deadline, net.now) = (id, deadline, now);
        net.send(one, &draft);
        net.pump();
        let failures = net.take(one, Kind::Failure);
        assert_eq!(
            failures
                .iter()
                .any(|got| got.failure() == Some(Failure::Overflow)),
            fails,
            "{id}"
        );
    }
}

#[test]
fn requests_that_were_under_way_when_the_hub_changed_are_answered() {
    let mut net = Net::default();
    let hub = net.hub();
    let resumed = |number| Newcomer::Process {
        role: Role::Worker {
            seat: 0,
            generation: 1,
        },
        pid: 5,
        number: Some(number),
        parent: None,
    };
    let (one, other) = (net.join(hub, resumed(4)), net.join(hub, resumed(9)));
    assert_eq!(net.worker(hub, 1), 2);
    assert_eq!(net.id(2).number(), 10, "numbers go on");
    net.subscribe(other, "do.it");
    net.pump();
    let answer = |net: &mut Net, id| {
        let mut draft = Draft::event(net.id(one), "", b"yes");
        (draft.kind, draft.id) = (Kind::Reply, id);
        net.send(other, &draft);
        net.pump();
        net.take(one, Kind::Reply).len()
    };
    assert_eq!(answer(&mut net, 17), 1, "asked by way of the hub before");
    let mut draft = Draft::event(net.id(other), "do.it", b"");
    (draft.kind, draft.id) = (Kind::Request, 18);
    net.send(one, &draft);
    assert_eq!(answer(&mut net, 17), 1);
    assert_eq!(answer(&mut net, 18), 1);
    assert_eq!(answer(&mut net, 18), 0, "once");
    assert_eq!(answer(&mut net, 19), 0, "never asked");
}

#[test]
fn what_cannot_be_had_is_refused_with_a_reason() {
    let mut net = Net::default();
    let hub = net.hub_with(Limits {
        subscriptions: 2,
        applications: 1,
        functions: 1,
        ..Limits::default()
    });
    let worker = net.worker(hub, 0);
    let large = serde_json::json!("x".repeat(33 << 10));
    // All that the hub takes in has to pass on to others, who read no deeper than it does.
    let deep = |depth| (0..depth).fold(serde_json::json!(1), |value, _| serde_json::json!([value]));
    let other = net.hub();
    net.meet(hub, other);
    for (ask, refused) in [
        (Ask::Host("deep".into(), deep(33)), true),
        (Ask::Host("shop".into(), deep(32)), false),
        (Ask::Subscribe("a".into()), false),
        (Ask::Subscribe("a".into()), false),
        (Ask::Subscribe("b.>".into()), false),
        (Ask::Subscribe("c".into()), true),
        (Ask::Unsubscribe("a".into()), false),
        (Ask::Subscribe("c".into()), false),
        (Ask::Subscribe(">.c".into()), true),
        (Ask::Host("shop".into(), large), true),
        (Ask::Host("a/b".into(), serde_json::Value::Null), true),
        (Ask::Host("$shop".into(), serde_json::Value::Null), true),
        (Ask::Host("shop".into(), serde_json::Value::Null), false),
        (Ask::Host("mill".into(), serde_json::Value::Null), true),
        (Ask::Offer("$grind".into()), true),
        (Ask::Offer("grind".into()), false),
        (Ask::Offer("grind".into()), false),
        (Ask::Offer("bake".into()), true),
        (Ask::Withdraw("grind".into()), false),
        (Ask::Offer("bake".into()), false),
    ] {
        let id = net.ask(worker, &ask);
        net.pump();
        let got = std::mem::take(&mut net.processes[worker].got);
        let answer = got.iter().find(|got| got.header.id == id).unwrap();
        let expected = if refused {
            Some(Failure::Refused)
        } else {
            None
        };
        assert_eq!(answer.failure(), expected, "{ask:?}");
        assert_eq!(answer.payload.len() > 1, refused, "{ask:?}");
    }
    assert_eq!(net.peers(other), net.peers(hub), "it is known elsewhere");
}

#[test]
fn peers_are_listed_whole() {
    let mut net = Net::default();
    let hub = net.hub();
    let worker = net.worker(hub, 0);
    for seat in 1..200 {
        let one = net.worker(hub, seat);
        net.ask(
            one,
            &Ask::Host("shop".into(), serde_json::json!("x".repeat(1_000))),
        );
    }
    net.loads.0.insert(1, 44);
    net.pump();
    net.take(worker, Kind::Reply);
    let id = net.ask(worker, &Ask::Peers);
    net.pump();
    let replies = net.take(worker, Kind::Reply);
    assert!(replies.len() > 2 && replies.iter().all(|one| one.header.id == id));
    let (last, some) = replies.split_last().unwrap();
    assert!(last.payload.is_empty());
    let listed: Vec<crate::bus::Peer> = some
        .iter()
        .flat_map(|one| rmp_serde::from_slice::<Vec<_>>(&one.payload).unwrap())
        .collect();
    assert_eq!(listed.len(), 201);
    assert_eq!(listed[1].load, 44);
}
