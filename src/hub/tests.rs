//! A hub's thread with real lines, in one process.

use std::{os::fd::OwnedFd, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::{
    bus::{Bus, Departure, Presence, ProcessId, Role, frame::MAX_PACKET, line},
    config::{BusConfig, BusOverflow},
    sys::fdpass,
};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(30);

const ROLE: Role = Role::Worker {
    seat: 0,
    generation: 1,
};

fn hub() -> HubHandle {
    start(Plan::default()).expect("a hub")
}

/// A process of the hub's.
fn process(hub: &HubHandle) -> (ProcessId, OwnedFd) {
    let (ours, theirs) = line::pair().expect("a line");
    (hub.join(ROLE, 1, None, ours), theirs)
}

fn bus(hub: &HubHandle) -> (ProcessId, Bus) {
    let (id, line) = process(hub);
    (id, Bus::connect(line).expect("inside a runtime"))
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { timeout(DEADLINE, test).await.expect("in time") })
}

#[test]
fn a_hub_that_panics_closes_the_bus_and_nothing_else() {
    run(async {
        let hub = hub();
        let (a, bus) = bus(&hub);
        assert_eq!(bus.id().await.expect("a hub"), a);
        let mut subscription = bus.subscribe("x").await.expect("a hub");
        assert!(hub.is_alive());
        hub.order(handle::Order::Panic);
        assert!(subscription.next().await.is_none(), "the bus is closed");
        bus.closed().await;
        // Nobody who comes later waits for anything, either.
        let (_, late) = self::bus(&hub);
        assert!(late.id().await.is_err());
        hub.ready(a);
        hub.leave(a, Departure::Exit(0));
        hub.freeze(Duration::from_secs(600)).await;
        assert!(hub.pack().links.is_empty());
        // The thread says so when it has put everything away.
        while hub.is_alive() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn nonsense_costs_who_sent_it_its_line() {
    run(async {
        let hub = hub();
        let (good, bus) = bus(&hub);
        let mut presence = bus.presence().await.expect("a hub");
        let (bad, line) = process(&hub);
        fdpass::send(
            std::os::fd::AsFd::as_fd(&line),
            &[7; 100],
            std::iter::empty(),
        )
        .expect("sent");
        let bad_bus = Bus::connect(line).expect("inside a runtime");
        bad_bus.closed().await;
        assert_eq!(hub.counters().malformed.count(), 1);
        // It is still a process, until somebody says otherwise.
        hub.leave(bad, Departure::Signal(9));
        loop {
            match presence.next().await.expect("a hub") {
                Presence::Offline { peer, reason } => {
                    assert_eq!((peer.id, reason), (bad, Departure::Signal(9)));
                    break;
                }
                other => drop(other),
            }
        }
        assert_eq!(bus.id().await.expect("a hub"), good);
    });
}

#[test]
fn a_process_that_does_not_read_costs_nobody_else() {
    run(async {
        let hub = start(Plan {
            config: BusConfig {
                queue: 256 * 1024,
                overflow: BusOverflow::Cut,
                ..BusConfig::default()
            },
            ..Plan::default()
        })
        .expect("a hub");
        let (_, bus) = bus(&hub);
        // One that subscribes and then looks at nothing.
        let (lazy, lazy_line) = process(&hub);
        let duplicate = lazy_line.try_clone().expect("a descriptor");
        let subscribing = std::thread::spawn(move || {
            run(async {
                let lazy = Bus::connect(duplicate).expect("inside a runtime");
                lazy.subscribe("flood").await.expect("a hub")
            })
        });
        // Its task has ended with its runtime, and what it has subscribed to still stands.
        let _subscription = subscribing.join().expect("no panic");
        let mut eager = bus.subscribe("flood").await.expect("a hub");
        let payload = vec![b'x'; 8 * 1024];
        let mut published = 0;
        while hub.counters().cut.count() == 0 {
            bus.publish("flood", &payload[..]).expect("room");
            bus.flush().await.expect("a hub");
            published += 1;
            let message = eager.next().await.expect("a hub").expect("not cut");
            assert_eq!(message.missed(), 0);
            assert_eq!(message.bytes().len(), payload.len());
        }
        // What the kernel holds for it, and what the hub does.
        assert!(published * payload.len() > 256 * 1024, "{published}");
        let mut presence = bus.presence().await.expect("a hub");
        hub.leave(lazy, Departure::Exit(0));
        let gone = presence.next().await.expect("a hub");
        assert!(matches!(gone, Presence::Offline { peer, .. } if peer.id == lazy));
        drop(lazy_line);
    });
}

#[test]
fn another_binary_goes_on_where_this_one_was() {
    run(async {
        let hub = hub();
        let ((a, one), (b, two)) = (bus(&hub), bus(&hub));
        hub.ready(a);
        let mut got = two.subscribe("a.*").await.expect("a hub");
        let _hosted = two.host("app", "described").await.expect("a hub");
        one.publish("a.1", "before").expect("room");
        let first = got.next().await.expect("a hub").expect("not cut");
        assert_eq!(&first.bytes()[..], b"before");

        hub.freeze(Duration::from_secs(1)).await;
        // Said while nobody listens.
        one.publish("a.2", "meanwhile").expect("room");
        one.flush().await.expect("a line");
        let carried = hub.pack();
        assert_eq!((carried.me, carried.next), (hub.me(), b.number() + 1));
        assert_eq!(carried.links.len(), 2);
        let (received, tally) = (hub.counters().received.count(), carried.tally.clone());
        let lines: Vec<CarriedLine> = carried.links;
        drop(hub);
        let next = start(Plan {
            carried: Some(Carried {
                links: Vec::new(),
                ..carried
            }),
            ..Plan::default()
        })
        .expect("a hub");
        assert!(next.counters().received.count() >= received && !tally.is_empty());
        // The sender first: it must not be heard before the other is there.
        let mut lines = lines;
        lines.sort_by_key(|line| line.whose != Whose::Process(a.number()));
        for CarriedLine {
            whose,
            line,
            wishes,
        } in lines
        {
            let Whose::Process(number) = whose else {
                panic!("no other line is there")
            };
            next.resume(number, ROLE, 1, None, line, wishes);
        }
        next.thaw();
        let second = got.next().await.expect("a hub").expect("not cut");
        assert_eq!(&second.bytes()[..], b"meanwhile");
        assert_eq!(second.from(), a);
        let hosts = one.hosts("app", |_| true).await.expect("a hub");
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0].id, b);
        // The next process is not taken for one that was there before.
        let (c, _line) = process(&next);
        assert_eq!(c.number(), b.number() + 1);
    });
}

#[test]
fn a_freeze_that_comes_to_nothing_loses_nothing() {
    run(async {
        let hub = hub();
        let ((_, one), (_, two)) = (bus(&hub), bus(&hub));
        let mut got = two.subscribe("x").await.expect("a hub");
        hub.freeze(Duration::from_secs(1)).await;
        one.publish("x", "meanwhile").expect("room");
        one.flush().await.expect("a line");
        let (late, line) = process(&hub);
        drop(hub.pack());
        hub.thaw();
        let message = got.next().await.expect("a hub").expect("not cut");
        assert_eq!(&message.bytes()[..], b"meanwhile");
        let late_bus = Bus::connect(line).expect("inside a runtime");
        assert_eq!(late_bus.id().await.expect("a hub"), late);
    });
}

#[test]
fn a_guest_and_the_master_have_a_place_of_their_own() {
    run(async {
        let hub = hub();
        let own = Bus::connect(hub.own().expect("a line")).expect("inside a runtime");
        assert_eq!(own.id().await.expect("a hub"), hub.me().process());
        let guest = Bus::connect(hub.guest(77).expect("a line")).expect("inside a runtime");
        let id = guest.id().await.expect("a hub");
        let peers = own.peers().await.expect("a hub");
        let peer = peers.iter().find(|peer| peer.id == id).expect("listed");
        assert_eq!((peer.role, peer.pid), (Role::Guest, 77));
        let mut presence = own.presence().await.expect("a hub");
        drop(guest);
        let gone = presence.next().await.expect("a hub");
        assert!(
            matches!(&gone, Presence::Offline { peer, reason: Departure::Left } if peer.id == id),
            "{gone:?}"
        );
    });
}

#[test]
fn the_largest_packets_pass() {
    run(async {
        let hub = hub();
        let ((_, one), (_, two)) = (bus(&hub), bus(&hub));
        let mut got = two.subscribe("x").await.expect("a hub");
        let payload = vec![3; crate::bus::frame::MAX_PAYLOAD];
        assert!(payload.len() < MAX_PACKET);
        one.publish("x", &payload[..]).expect("room");
        let message = got.next().await.expect("a hub").expect("not cut");
        assert_eq!(message.bytes()[..], payload[..]);
    });
}
