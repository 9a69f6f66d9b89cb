//! What hubs tell each other: who is there, who is above, what is wanted.

use super::rig::{Draft, Given, Net};
use crate::bus::{
    Departure, Failure, Peer, Presence, ProcessId, Role, To,
    control::{Ask, Tell},
    frame::Kind,
};

fn names(peers: &[Peer]) -> Vec<String> {
    peers.iter().map(|peer| peer.id.to_string()).collect()
}

/// All hubs know the same.
fn agree(net: &Net) -> Vec<Peer> {
    let known = net.peers(0);
    for hub in 1..net.hubs.len() {
        assert_eq!(names(&net.peers(hub)), names(&known), "hub {hub}");
        assert_eq!(net.peers(hub), known, "hub {hub}");
    }
    known
}

#[test]
fn a_chain_of_masters_knows_all_of_itself() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub(), net.hub(), net.hub()];
    let workers = hubs.map(|hub| net.worker(hub, 0));
    // From the middle, so that whoever joins has something to tell already.
    net.branch(workers[1], hubs[2]);
    net.pump();
    net.branch(workers[0], hubs[1]);
    net.branch(workers[2], hubs[3]);
    net.pump();
    let known = agree(&net);
    assert_eq!(known.len(), 8);
    let parent = |id: ProcessId| known.iter().find(|peer| peer.id == id).unwrap().parent;
    for (below, worker) in [(1, 0), (2, 1), (3, 2)] {
        let above = Some(net.id(workers[worker]));
        assert_eq!(parent(net.hubs[hubs[below]].id.process()), above);
    }
    assert_eq!(parent(net.hubs[0].id.process()), None);
    // The last welcome tells who is at the top.
    let tells = net.take(workers[3], Kind::Tell);
    let mut top = tells.iter().filter_map(|got| match got.tell() {
        Some(Tell::Welcome {
            grand_master,
            you,
            parent,
        }) => Some((grand_master, you, parent)),
        _ => None,
    });
    let me = net.id(workers[3]);
    assert_eq!(
        top.next_back(),
        Some((net.hubs[0].id, me, Some(me.master().process())))
    );
}

#[test]
fn whoever_watches_is_told_who_comes_and_goes() {
    let mut net = Net::default();
    let (top, below) = (net.hub(), net.hub());
    let (watcher, starter) = (net.worker(top, 0), net.worker(top, 1));
    net.branch(starter, below);
    net.pump();
    net.ask(watcher, &Ask::Watch(true));
    net.pump();
    net.presence(watcher);
    let worker = net.worker(below, 0);
    let id = net.id(worker);
    net.hubs[below].core.ready(id);
    net.ask(worker, &Ask::Host("shop".into(), serde_json::json!(1)));
    net.ask(worker, &Ask::Host("shop".into(), serde_json::json!(1)));
    net.leave(worker, Departure::Signal(9));
    net.pump();
    let told = net.presence(watcher);
    let [
        Presence::Online(online),
        Presence::Ready(ready),
        Presence::Changed(changed),
        Presence::Offline { peer, reason },
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert!(
        [online, ready, changed, peer]
            .iter()
            .all(|peer| peer.id == id)
    );
    assert!(!online.ready && ready.ready && changed.applications.contains_key("shop"));
    assert_eq!(*reason, Departure::Signal(9));
    assert!(matches!(peer.role, Role::Worker { seat: 0, .. }));
    // Not any more, once it does not want to be.
    net.ask(watcher, &Ask::Watch(false));
    net.worker(below, 1);
    net.pump();
    assert_eq!(net.presence(watcher), []);
    agree(&net);
}

#[test]
fn who_is_out_of_reach_is_gone_and_comes_back() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub(), net.hub()];
    let workers = hubs.map(|hub| net.worker(hub, 0));
    let wire = net.branch(workers[0], hubs[1]);
    net.branch(workers[1], hubs[2]);
    net.pump();
    net.ask(workers[0], &Ask::Watch(true));
    net.subscribe(workers[2], "said.it");
    net.pump();
    net.presence(workers[0]);
    net.cut(wire);
    net.pump();
    let gone = net.presence(workers[0]);
    assert_eq!(gone.len(), 4, "{gone:?}");
    assert!(gone.iter().all(|one| matches!(
        one,
        Presence::Offline {
            reason: Departure::Left,
            ..
        }
    )));
    assert_eq!(
        (net.peers(0).len(), net.peers(1).len(), net.peers(2).len()),
        (2, 4, 4)
    );
    // The one below is at the top now, and its workers know.
    let tell = net
        .take(workers[2], Kind::Tell)
        .last()
        .and_then(|got| got.tell());
    let Some(Tell::Welcome { grand_master, .. }) = tell else {
        panic!("{tell:?}");
    };
    assert_eq!(grand_master, net.hubs[1].id);
    net.publish(workers[0], To::Subscribers, "said.it", b"!");
    assert_eq!(net.reached(), [0; 0]);
    // Something changes meanwhile.
    net.leave(workers[1], Departure::Exit(0));
    let next = net.worker(hubs[1], 0);
    net.branch(workers[0], hubs[1]);
    net.pump();
    assert_eq!(agree(&net).len(), 6);
    net.publish(next, To::Ancestors, "said.it", b"!");
    net.publish(workers[0], To::Subscribers, "said.it", b"!");
    assert_eq!(net.reached(), [workers[2]]);
}

#[test]
fn masters_that_meet_tell_each_other_and_no_third() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub(), net.hub()];
    let workers = hubs.map(|hub| net.worker(hub, 0));
    // Two have heard of a middle one, but not of each other.
    net.meet(hubs[0], hubs[1]);
    let wire = net.meet(hubs[1], hubs[2]);
    for worker in workers {
        net.subscribe(worker, "said.it");
    }
    net.pump();
    net.reached();
    assert_eq!(
        (net.peers(0).len(), net.peers(1).len(), net.peers(2).len()),
        (4, 6, 4)
    );
    net.publish(workers[0], To::Subscribers, "said.it", b"!");
    assert_eq!(net.reached(), [workers[0], workers[1]]);
    // All three.
    net.meet(hubs[0], hubs[2]);
    net.pump();
    agree(&net);
    net.publish(workers[0], To::Everyone, "said.it", b"!");
    assert_eq!(net.reached(), [workers[1], workers[2]]);
    net.publish(workers[0], net.id(workers[2]), "said.it", b"!");
    assert_eq!(net.reached(), [workers[2]]);
    // Nobody is above anybody.
    net.publish(workers[0], To::GrandMaster, "said.it", b"!");
    assert_eq!(net.reached(), [0; 0]);
    net.cut(wire);
    net.pump();
    assert_eq!(
        (net.peers(0).len(), net.peers(1).len(), net.peers(2).len()),
        (6, 4, 4)
    );
}

#[test]
fn a_tree_meets_another() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub(), net.hub(), net.hub()];
    let workers = hubs.map(|hub| net.worker(hub, 0));
    net.branch(workers[0], hubs[1]);
    net.branch(workers[2], hubs[3]);
    net.meet(hubs[0], hubs[2]);
    for worker in workers {
        net.subscribe(worker, "said.*");
    }
    net.pump();
    assert_eq!(agree(&net).len(), 8);
    net.publish(workers[1], To::Subscribers, "said.it", b"!");
    assert_eq!(net.reached(), workers);
    let request = net.request(workers[1], net.id(workers[3]), "said.it");
    net.pump();
    let asked = net.take(workers[3], Kind::Request);
    assert_eq!(
        asked[0].path,
        [net.hubs[1].id, net.hubs[0].id, net.hubs[2].id]
    );
    net.reply(workers[3], &asked[0], b"yes");
    net.pump();
    let replies = net.take(workers[1], Kind::Reply);
    let reply = replies.iter().find(|got| got.header.id == request).unwrap();
    assert_eq!(
        (reply.header.from, &reply.payload[..]),
        (net.id(workers[3]), &b"yes"[..])
    );
}

#[test]
fn a_master_is_believed_by_one_way_and_found_by_another_when_that_ends() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub()];
    let workers = hubs.map(|hub| net.worker(hub, 0));
    let first = net.meet(hubs[0], hubs[1]);
    net.pump();
    net.meet(hubs[0], hubs[1]);
    net.subscribe(workers[1], "said.it");
    net.pump();
    assert!(net.hubs[0].counters.facts_ignored.count() > 0);
    net.publish(workers[0], To::Subscribers, "said.it", b"!");
    assert_eq!(net.reached(), [workers[1]], "once, over two wires");
    net.cut(first);
    net.pump();
    assert_eq!(agree(&net).len(), 4);
    net.publish(workers[0], To::Subscribers, "said.it", b"!");
    assert_eq!(net.reached(), [workers[1]]);
}

#[test]
fn facts_that_were_lost_are_asked_for() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub()];
    let wire = net.meet(hubs[0], hubs[1]);
    net.pump();
    // What the second says goes astray for a while.
    let (hub, port) = net.end_of(wire, 1);
    let worker = net.worker(hubs[1], 0);
    net.subscribe(worker, "said.it");
    while net.hubs[hub].core.queue(port).is_some_and(|queue| {
        queue.pop();
        !queue.is_empty()
    }) {}
    net.pump();
    assert_eq!(net.peers(0).len(), 2);
    let next = net.worker(hubs[1], 1);
    net.pump();
    assert_eq!(agree(&net).len(), 4);
    // Or the last of it, and only its sign of life says so.
    let (hub, port) = net.end_of(wire, 1);
    net.leave(next, Departure::Exit(3));
    net.hubs[hub].core.queue(port).unwrap().pop();
    net.pump();
    assert_eq!(net.peers(0).len(), 4);
    let (master, version) = (net.hubs[1].id, net.hubs[1].core.version());
    let (_, back) = net.end_of(wire, 0);
    net.hubs[0].core.heard(back, master, version);
    net.pump();
    assert_eq!(agree(&net).len(), 3);
    // Two that know all of each other have nothing more to say.
    let before = net.hubs[0].core.version();
    net.hubs[0].core.heard(back, master, version);
    assert_eq!(net.hubs[0].core.next_dirty(), None);
    assert_eq!(net.hubs[0].core.version(), before);
}

#[test]
fn loads_of_others_are_as_they_say() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub()];
    let workers = hubs.map(|hub| net.worker(hub, 0));
    net.meet(hubs[0], hubs[1]);
    net.pump();
    let (master, number) = (net.hubs[1].id, net.id(workers[1]).number());
    net.hubs[0]
        .core
        .note_loads(master, [(number, 5), (77, 1)].into_iter());
    net.loads.0.insert(1, 9);
    let peers = net.hubs[0].core.peers(&Given([(1, 9)].into()));
    let loads: Vec<u64> = peers.iter().map(|peer| peer.load).collect();
    assert_eq!(loads, [0, 9, 0, 5]);
}

#[test]
fn a_descriptor_goes_through_a_tree_but_not_over_nats() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub(), net.hub()];
    let workers = hubs.map(|hub| net.worker(hub, 0));
    net.branch(workers[0], hubs[1]);
    net.meet(hubs[0], hubs[2]);
    for worker in workers {
        net.subscribe(worker, "take.it");
    }
    net.pump();
    let mut draft = Draft::event(net.id(workers[1]), "take.it", b"");
    (draft.kind, draft.id) = (Kind::Request, 7);
    draft.attached = crate::bus::frame::Attached::Stream;
    net.raw(workers[0], &draft.encode(), Some(44)).unwrap();
    net.pump();
    assert_eq!(net.take(workers[1], Kind::Request)[0].attached, Some(44));
    draft.to = net.id(workers[2]).into();
    draft.id = 8;
    net.raw(workers[0], &draft.encode(), Some(45)).unwrap();
    net.pump();
    assert_eq!(
        net.take(workers[0], Kind::Failure)[0].failure(),
        Some(Failure::Refused)
    );
    // To several it cannot go either.
    draft.to = To::Subscribers;
    draft.id = 9;
    net.raw(workers[0], &draft.encode(), Some(46)).unwrap();
    net.pump();
    assert_eq!(
        net.take(workers[0], Kind::Failure)[0].failure(),
        Some(Failure::Refused)
    );
    assert_eq!(net.take(workers[2], Kind::Request).len(), 0);
}

#[test]
fn the_line_of_a_branch_is_given_out_once() {
    let mut net = Net::default();
    let hub = net.hub();
    let worker = net.worker(hub, 0);
    let mut draft = Draft::event(
        To::Parent,
        "",
        &rmp_serde::to_vec_named(&Ask::Branch).unwrap(),
    );
    (draft.kind, draft.id) = (Kind::Ask, 5);
    draft.attached = crate::bus::frame::Attached::Line;
    net.raw(worker, &draft.encode(), Some(3)).unwrap();
    assert_eq!(net.hubs[hub].core.branches(), [(net.id(worker), 3)]);
    assert_eq!(net.hubs[hub].core.branches(), []);
    net.pump();
    assert_eq!(net.take(worker, Kind::Reply)[0].header.id, 5);
}

#[test]
fn who_was_between_is_passed_over_once_it_is_gone() {
    let mut net = Net::default();
    let hubs = [net.hub(), net.hub()];
    let master = net.master(hubs[0]);
    let (starter, other) = (net.worker(hubs[0], 0), net.worker(hubs[0], 1));
    let below = net.worker(hubs[1], 0);
    net.branch(starter, hubs[1]);
    net.subscribe(master, "said.it");
    net.subscribe(other, "said.it");
    net.pump();
    net.leave(starter, Departure::Signal(9));
    net.pump();
    net.publish(below, To::Ancestors, "said.it", b"!");
    assert_eq!(net.reached(), [master]);
    net.publish(below, To::GrandMaster, "said.it", b"!");
    assert_eq!(net.reached(), [master]);
}
