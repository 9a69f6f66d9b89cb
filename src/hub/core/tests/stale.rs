//! Nothing stays behind of those who have gone.

use super::rig::{Draft, Net};
use crate::bus::{Departure, To, control::Ask, frame::Kind, frame::Space};

/// The sizes of all that a hub keeps.
fn sizes(net: &Net, hub: usize) -> [usize; 6] {
    let core = &net.hubs[hub].core;
    [
        core.interest.size(),
        core.pending.len(),
        core.slots.len(),
        core.roster.count(),
        core.ports.iter().count(),
        core.ports.iter().map(|(_, port)| port.requests).sum(),
    ]
}

#[test]
fn a_thousand_workers_come_and_go_and_leave_nothing() {
    let mut net = Net::default();
    let (top, below) = (net.hub(), net.hub());
    let starter = net.worker(top, 0);
    net.branch(starter, below);
    net.subscribe(starter, "do.it");
    net.pump();
    let before = [sizes(&net, top), sizes(&net, below)];
    for cycle in 0..1_000 {
        let worker = net.worker(below, 0);
        for pattern in ["do.it", "a.*.b", "a.>", "a.*.c.d"] {
            net.subscribe(worker, pattern);
        }
        net.ask(worker, &Ask::Host("shop".into(), serde_json::json!(cycle)));
        net.ask(worker, &Ask::Offer("grind".into()));
        net.ask(worker, &Ask::Watch(true));
        net.pump();
        net.request(worker, net.id(starter), "do.it");
        net.request(starter, net.id(worker), "a.b");
        net.request(starter, To::Subscribers, "do.it");
        net.publish(starter, To::Subscribers, "a.x.b", b"");
        let mut draft = Draft::event(To::Host(Default::default()), "shop", b"");
        draft.space = Space::Application;
        net.send(starter, &draft);
        net.pump();
        if cycle % 2 == 0 {
            let port = net.processes[worker].port;
            net.hubs[below].core.closed(port);
        }
        net.leave(worker, Departure::Signal(9));
        // The one that stays has asked itself, too.
        for request in net.take(starter, Kind::Request) {
            net.reply(starter, &request, b"");
        }
        net.pump();
        net.take(starter, Kind::Reply);
        net.processes.truncate(1);
    }
    assert_eq!([sizes(&net, top), sizes(&net, below)], before);
    net.publish(starter, To::Subscribers, "a.x.b", b"");
    assert_eq!(net.reached(), [0; 0]);
    assert_eq!(net.peers(below).len(), 3);
}

#[test]
fn a_port_that_is_closed_is_nobody_elses() {
    let mut net = Net::default();
    let hub = net.hub();
    let gone = net.guest(hub);
    let port = net.processes[gone].port;
    net.hubs[hub].core.closed(port);
    let next = net.guest(hub);
    assert_ne!(net.processes[next].port, port);
    assert!(net.hubs[hub].core.queue(port).is_none());
    net.raw(gone, b"not even bytes", None).unwrap();
    net.hubs[hub].core.closed(port);
    assert_eq!(net.peers(hub).len(), 2);
}
