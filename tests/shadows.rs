//! What shadow policies promise: each does in the shadow what it would do in force.

use std::net::{IpAddr, SocketAddr};

use pointsman::{
    Policy, Prefixes,
    dispatch::{
        policy::{Candidate, Picker},
        shadow::{Picks, Shadow, Shadows},
        steering,
    },
};
use proptest::{collection::vec, prelude::*, sample::Index};

/// Something that happens at a site.
#[derive(Debug, Clone)]
enum Event {
    Arrival(SocketAddr),
    /// One of those that are open closes.
    Close(Index),
    /// A worker gets ready, or is so no more.
    Turns(Index, bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => any::<SocketAddr>().prop_map(Event::Arrival),
        3 => any::<Index>().prop_map(Event::Close),
        1 => any::<(Index, bool)>().prop_map(|(worker, ready)| Event::Turns(worker, ready)),
    ];
    vec(event, 1..300)
}

/// Seats with gaps, up to the master's own.
fn workers() -> impl Strategy<Value = Vec<Candidate>> {
    let seats: Vec<u16> = (0..10).chain([40, 127, 128]).collect();
    prop::sample::subsequence(seats, 1..=8).prop_map(|seats| {
        let candidate = |seat| Candidate {
            seat,
            ready: true,
            load: 0,
        };
        seats.into_iter().map(candidate).collect()
    })
}

fn shadows_of(workers: &[Candidate]) -> Shadows {
    let mut shadows = Shadows::new(Prefixes::default());
    shadows.set_candidates(workers.iter().map(|worker| Some(place(worker.seat))));
    shadows
}

/// Where a worker's own listener is in the kernel's group: the master's comes first.
fn place(seat: u16) -> usize {
    if seat == 128 {
        0
    } else {
        usize::from(seat) + 1
    }
}

/// How far apart the loads are.
fn spread(loads: &[u32]) -> u32 {
    let (most, least) = (loads.iter().max(), loads.iter().min());
    most.zip(least).map_or(0, |(most, least)| most - least)
}

fn index_of(workers: &[Candidate], seat: u16) -> usize {
    let found = workers.iter().position(|worker| worker.seat == seat);
    found.expect("a candidate")
}

proptest! {
    #[test]
    fn a_shadow_does_what_its_policy_does(workers in workers(), events in events()) {
        for policy in Policy::ALL {
            let mut real = workers.clone();
            let mut picker = Picker::new(policy, Prefixes::default());
            // Not told what is picked in fact.
            let mut shadows = shadows_of(&workers);
            let mut open: Vec<(usize, Picks)> = Vec::new();
            for event in &events {
                match event {
                    Event::Arrival(peer) => {
                        let picked = picker.pick(peer.ip(), &real);
                        let picks = shadows.pick(*peer, &real, None);
                        let seat = picked.map(|i| real[i].seat);
                        prop_assert_eq!(picks.seat(Shadow::of(policy)), seat, "{}", policy);
                        if let Some(picked) = picked {
                            real[picked].load += 1;
                            open.push((picked, picks));
                        }
                    }
                    Event::Close(which) if !open.is_empty() => {
                        let (picked, picks) = open.swap_remove(which.index(open.len()));
                        real[picked].load -= 1;
                        let seat = picks.seat(Shadow::LeastLoaded).expect("somebody was ready");
                        shadows.loads[index_of(&workers, seat)] -= 1;
                    }
                    Event::Close(_) => {}
                    Event::Turns(which, ready) => real[which.index(workers.len())].ready = *ready,
                }
            }
            if policy == Policy::LeastLoaded {
                let loads: Vec<u32> = real.iter().map(|worker| worker.load).collect();
                prop_assert_eq!(&shadows.loads, &loads);
            }
        }
    }

    #[test]
    fn the_policy_in_force_is_taken_at_its_word(
        workers in workers(), peer: SocketAddr, picked: Index
    ) {
        let picked = picked.index(workers.len());
        for shadow in Shadow::ALL {
            let mut shadows = shadows_of(&workers);
            let picks = shadows.pick(peer, &workers, Some((shadow, picked)));
            prop_assert_eq!(picks.seat(shadow), Some(workers[picked].seat));
            prop_assert_eq!(picks.all().count(), Shadow::ALL.len());
            prop_assert_eq!(Picks::from_bytes(picks.to_bytes()), picks);
            prop_assert_eq!(shadows.loads.iter().sum::<u32>(), 1);
        }
    }

    #[test]
    fn least_loaded_is_even_in_the_shadow_of_one_client(
        workers in workers(), address: IpAddr, n in 1..500_u16
    ) {
        // One address, so that in fact every connection goes to the same worker.
        let mut picker = Picker::new(Policy::RemoteAddress, Prefixes::default());
        let (mut shadows, mut held) = (shadows_of(&workers), vec![0; workers.len()]);
        for port in 0..n {
            let picked = picker.pick(address, &workers).expect("all are ready");
            held[picked] += 1;
            let in_force = Some((Shadow::RemoteAddress, picked));
            shadows.pick((address, port).into(), &workers, in_force);
            prop_assert!(spread(&shadows.loads) <= 1, "{:?}", shadows.loads);
        }
        prop_assert_eq!(held.iter().max(), Some(&u32::from(n)));
        prop_assert_eq!(shadows.loads.iter().sum::<u32>(), u32::from(n));
    }

    #[test]
    fn the_kernels_hash_knows_neither_loads_nor_who_is_busy(
        workers in workers(), peer: SocketAddr, ready in vec(any::<bool>(), 8),
        members in vec(any::<bool>(), 8)
    ) {
        let mut real = workers.clone();
        real.iter_mut().zip(ready).for_each(|(worker, ready)| worker.ready = ready);
        let mut shadows = Shadows::new(Prefixes::default());
        let places = workers.iter().zip(&members);
        shadows.set_candidates(places.map(|(worker, m)| m.then_some(place(worker.seat))));
        let picked = shadows.pick(peer, &real, None).seat(Shadow::KernelHash);
        let members = workers.iter().zip(members).filter(|(_, member)| *member);
        let mut seats: Vec<u16> = members.map(|(worker, _)| worker.seat).collect();
        seats.sort_unstable_by_key(|seat| place(*seat));
        let place = (steering::hash(peer) as usize).checked_rem(seats.len());
        prop_assert_eq!(picked, place.map(|place| seats[place]));
    }
}
