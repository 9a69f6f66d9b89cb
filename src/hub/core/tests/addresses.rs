//! Every address reaches exactly those that it should, in a tree of three masters.
//!
//! ```text
//! top: a (seat 0), b (seat 1), guest        master line t
//! b has started mid: c (0), d (1)           master line m
//! d has started low: e (0), f (1)           master line l
//! ```

use super::rig::{Draft, Net, STUCK};
use crate::bus::{
    Balance, Departure, Failure, MasterId, ProcessId, To, control::Ask, frame::Kind, frame::Space,
};

struct Tree {
    net: Net,
    t: usize,
    a: usize,
    b: usize,
    guest: usize,
    m: usize,
    c: usize,
    d: usize,
    l: usize,
    e: usize,
    f: usize,
}

fn tree() -> Tree {
    let mut net = Net::default();
    let (top, mid, low) = (net.hub(), net.hub(), net.hub());
    let t = net.master(top);
    let (a, b) = (net.worker(top, 0), net.worker(top, 1));
    let guest = net.guest(top);
    let m = net.master(mid);
    let (c, d) = (net.worker(mid, 0), net.worker(mid, 1));
    let l = net.master(low);
    let (e, f) = (net.worker(low, 0), net.worker(low, 1));
    net.branch(b, mid);
    net.branch(d, low);
    net.pump();
    for process in 0..net.processes.len() {
        net.subscribe(process, "said.*");
    }
    net.pump();
    for process in 0..net.processes.len() {
        net.take(process, Kind::Event);
    }
    Tree {
        net,
        t,
        a,
        b,
        guest,
        m,
        c,
        d,
        l,
        e,
        f,
    }
}

#[test]
fn every_address_reaches_exactly_its_own() {
    let mut x = tree();
    let all = [x.t, x.a, x.b, x.guest, x.m, x.c, x.d, x.l, x.e, x.f];
    let but = |one: usize| {
        all.iter()
            .copied()
            .filter(|p| *p != one)
            .collect::<Vec<_>>()
    };
    let ids = |x: &Tree, some: &[usize]| -> Vec<ProcessId> {
        some.iter().map(|p| x.net.id(*p)).collect()
    };
    let to_two = To::Processes(ids(&x, &[x.a, x.f, x.a]));
    let around = To::Route(ids(&x, &[x.a, x.m, x.e, x.c]));
    for (sender, to, expected) in [
        (x.e, To::Subscribers, all.to_vec()),
        (x.e, To::Everyone, but(x.e)),
        (x.a, To::Everyone, but(x.a)),
        (x.e, To::Siblings, vec![x.f]),
        (x.a, To::Siblings, vec![x.b, x.guest]),
        (x.e, To::Ancestors, vec![x.t, x.b, x.m, x.d, x.l]),
        (x.c, To::Ancestors, vec![x.t, x.b, x.m]),
        (x.t, To::Ancestors, vec![]),
        (x.e, To::Parent, vec![x.l]),
        (x.l, To::Parent, vec![x.d]),
        (x.t, To::Children, vec![x.a, x.b, x.guest]),
        (x.b, To::Children, vec![x.m]),
        (x.a, To::Children, vec![]),
        (x.l, To::Children, vec![x.e, x.f]),
        (x.a, To::Worker(1), vec![x.b]),
        (x.l, To::Worker(1), vec![x.f]),
        (x.a, To::Worker(9), vec![]),
        (x.f, To::GrandMaster, vec![x.t]),
        (x.t, To::GrandMaster, vec![x.t]),
        (x.c, to_two, vec![x.a, x.f]),
        (x.f, around, vec![x.c]),
    ] {
        x.net.publish(sender, to.clone(), "said.it", b"!");
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(x.net.reached(), expected, "{to:?} from {sender}");
    }
}

#[test]
fn whoever_does_not_listen_gets_nothing() {
    let mut x = tree();
    x.net.publish(x.a, To::Everyone, "unsaid.it", b"!");
    assert_eq!(x.net.reached(), [] as [usize; 0]);
    x.net.ask(x.f, &Ask::Unsubscribe("said.*".into()));
    x.net.pump();
    x.net.publish(x.e, To::Siblings, "said.it", b"!");
    assert_eq!(x.net.reached(), [] as [usize; 0]);
}

#[test]
fn the_hub_says_who_sent_it_and_by_what_way_it_came() {
    let mut x = tree();
    x.net.publish(x.a, x.net.id(x.f), "said.it", b"!");
    x.net.pump();
    x.net.publish(x.e, x.net.id(x.f), "said.it", b"!");
    x.net.pump();
    let got = x.net.take(x.f, Kind::Event);
    let [afar, near] = &got[..] else {
        panic!("{got:?}");
    };
    assert_eq!(
        (afar.header.from, near.header.from),
        (x.net.id(x.a), x.net.id(x.e))
    );
    assert_eq!(afar.path, [MasterId(100), MasterId(101)]);
    assert!(near.path.is_empty());
    assert_eq!(near.to, To::from(x.net.id(x.f)));
}

#[test]
fn a_seat_belongs_to_who_was_born_there_last() {
    let mut x = tree();
    let next = x.net.worker(0, 1);
    x.net.subscribe(next, "said.it");
    x.net.publish(x.a, To::Worker(1), "said.it", b"!");
    assert_eq!(x.net.reached(), [next]);
}

#[test]
fn a_seat_belongs_to_a_successor_from_when_that_is_ready() {
    let mut x = tree();
    let reaches = |x: &mut Tree| {
        x.net.publish(x.b, To::Worker(0), "said.it", b"!");
        x.net.reached()
    };
    let (before, id) = (x.a, x.net.id(x.a));
    x.net.hubs[0].core.ready(id);
    let next = x.net.worker(0, 0);
    x.net.subscribe(next, "said.*");
    x.net.pump();
    assert_eq!(reaches(&mut x), [before]);
    let id = x.net.id(next);
    x.net.hubs[0].core.ready(id);
    x.net.pump();
    assert_eq!(reaches(&mut x), [next]);
    x.net.leave(next, Departure::Exit(1));
    x.net.pump();
    assert_eq!(reaches(&mut x), [before]);
}

fn call(x: &mut Tree, sender: usize, balance: Balance) -> Vec<usize> {
    let mut draft = Draft::event(To::Host(balance), "shop/buy", b"!");
    draft.space = Space::Application;
    x.net.send(sender, &draft);
    x.net.reached()
}

#[test]
fn an_application_is_found_near_first() {
    let mut x = tree();
    let host = |x: &mut Tree, process| {
        x.net.ask(
            process,
            &Ask::Host("shop".into(), serde_json::json!({"size": 3})),
        );
        x.net.pump();
    };
    let (a, b) = (x.a, x.b);
    assert_eq!(call(&mut x, a, Balance::RoundRobin), [0; 0]);
    let (f, guest) = (x.f, x.guest);
    host(&mut x, f);
    assert_eq!(
        call(&mut x, a, Balance::LeastLoaded),
        [x.f],
        "it is all there is"
    );
    host(&mut x, b);
    host(&mut x, guest);
    // In turn.
    let mut turns: Vec<usize> = (0..4)
        .flat_map(|_| call(&mut x, a, Balance::RoundRobin))
        .collect();
    assert_eq!(turns[..2], turns[2..]);
    turns.sort_unstable();
    assert_eq!(turns, [x.b, x.b, x.guest, x.guest]);
    // By load, and never one that does not turn.
    let (b_number, guest_number) = (x.net.id(b).number(), x.net.id(guest).number());
    x.net.loads.0.insert(b_number, 3);
    assert_eq!(call(&mut x, a, Balance::LeastLoaded), [x.guest]);
    x.net.loads.0.insert(guest_number, STUCK);
    assert_eq!(call(&mut x, a, Balance::RoundRobin), [x.b]);
    x.net.loads.0.insert(b_number, STUCK);
    assert_eq!(
        call(&mut x, a, Balance::Random),
        [x.f],
        "elsewhere they turn"
    );
    // Oneself before all others.
    assert_eq!(call(&mut x, b, Balance::LeastLoaded), [x.b]);
    // Only while it is hosted.
    for process in [x.f, x.guest, x.b] {
        x.net.ask(process, &Ask::Unhost("shop".into()));
    }
    x.net.pump();
    assert_eq!(call(&mut x, a, Balance::LeastLoaded), [0; 0]);
    let mut draft = Draft::event(To::Host(Balance::Random), "shop/buy", b"?");
    (draft.kind, draft.space, draft.id) = (Kind::Request, Space::Application, 77);
    x.net.send(x.a, &draft);
    x.net.pump();
    let failures = x.net.take(x.a, Kind::Failure);
    assert_eq!(failures[0].failure(), Some(Failure::NoHost));
}

#[test]
fn an_application_or_function_is_no_topic() {
    let mut x = tree();
    x.net
        .ask(x.f, &Ask::Host("said.it".into(), serde_json::Value::Null));
    x.net.ask(x.c, &Ask::Offer("said.it".into()));
    x.net.pump();
    let mut draft = Draft::event(To::Everyone, "said.it", b"!");
    draft.space = Space::Application;
    x.net.send(x.a, &draft);
    assert_eq!(x.net.reached(), [x.f]);
    draft.space = Space::Function;
    x.net.send(x.a, &draft);
    assert_eq!(x.net.reached(), [x.c]);
    draft.to = To::from(x.net.id(x.d));
    (draft.kind, draft.id) = (Kind::Request, 9);
    x.net.send(x.a, &draft);
    x.net.pump();
    assert_eq!(
        x.net.take(x.a, Kind::Failure)[0].failure(),
        Some(Failure::NoListener)
    );
}

#[test]
fn a_seat_is_its_predecessors_until_the_successor_is_ready() {
    let mut net = Net::default();
    let hub = net.hub();
    let [sender, old, new] = [0, 1, 1].map(|seat| net.worker(hub, seat));
    for worker in [old, new] {
        net.subscribe(worker, "said.it");
    }
    let (old_id, new_id) = (net.id(old), net.id(new));
    net.hubs[hub].core.ready(old_id);
    net.pump();
    net.publish(sender, To::Worker(1), "said.it", b"1");
    net.pump();
    assert_eq!((net.events(old).len(), net.events(new).len()), (1, 0));
    net.hubs[hub].core.ready(new_id);
    net.publish(sender, To::Worker(1), "said.it", b"2");
    net.pump();
    assert_eq!((net.events(old).len(), net.events(new).len()), (0, 1));
}
