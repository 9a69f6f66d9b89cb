//! What the policies promise, each against a model simple enough to be seen to be right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pointsman::{
    Policy, Prefixes,
    dispatch::{
        pins::{Network, Pin, Pins, REST, Sorter, WorkerGroup},
        policy::{Candidate, LeastLoaded, Picker, RemoteAddress, RoundRobin},
    },
};
use proptest::{collection::vec, prelude::*, sample::subsequence};

/// Candidates that are all ready, with loads of 0 to 4, so that ties are common. Seats have gaps
/// and go up to the highest number there is.
fn all_ready() -> impl Strategy<Value = Vec<Candidate>> {
    let seats: Vec<u16> = (0..15)
        .chain([40, 41, 128, u16::MAX - 1, u16::MAX])
        .collect();
    subsequence(seats, 1..=12).prop_flat_map(|seats| {
        vec(0..5_u32, seats.len()).prop_map(move |loads| {
            let seats = seats.iter().zip(loads);
            seats
                .map(|(seat, load)| Candidate {
                    seat: *seat,
                    ready: true,
                    load,
                })
                .collect()
        })
    })
}

/// The same workers from pick to pick, with other readiness and loads each time, and the peer.
fn turns() -> impl Strategy<Value = Vec<(IpAddr, Vec<Candidate>)>> {
    all_ready().prop_flat_map(|candidates| {
        let turn = (
            any::<IpAddr>(),
            vec((any::<bool>(), 0..5_u32), candidates.len()),
        );
        vec(turn, 1..60).prop_map(move |turns| {
            let now = |states: Vec<(bool, u32)>| {
                let with = |(c, (ready, load)): (&Candidate, _)| Candidate { ready, load, ..*c };
                candidates.iter().zip(states).map(with).collect()
            };
            turns
                .into_iter()
                .map(|(peer, states)| (peer, now(states)))
                .collect()
        })
    })
}

/// How far round the circle of seats `seat` lies behind `last`, the seat picked before: 1 is next.
fn distance(last: Option<u16>, seat: u16) -> u32 {
    let turn = last.map_or(0, |last| last.wrapping_add(1));
    u32::from(seat.wrapping_sub(turn)) + 1
}

/// A worker's readiness changes while the others stay as they are.
fn with_ready(candidates: &[Candidate], index: usize, ready: bool) -> Vec<Candidate> {
    let mut changed = candidates.to_vec();
    changed[index].ready = ready;
    changed
}

/// `address` with the bits behind its first `length` exchanged for those of `noise`.
fn with_noise_behind(address: IpAddr, length: u8, noise: u128) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(a) & !host | noise as u32 & host))
        }
        IpAddr::V6(a) => {
            let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(a) & !host | noise & host))
        }
    }
}

/// Networks that often lie in each other: few bits differ.
fn network() -> impl Strategy<Value = Network> {
    (client(), 0..=128_u8).prop_map(|(address, length)| {
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = length.min(width);
        let first = with_noise_behind(address, length, 0);
        Network::new(first, length).expect("nothing is set behind the prefix")
    })
}

/// Clients that are often in the same networks, of both kinds, and of a third that is the first in fact.
fn client() -> impl Strategy<Value = IpAddr> {
    let few = || (0..4_u32, 0..4_u32).prop_map(|(high, low)| high << 30 | low);
    prop_oneof![
        few().prop_map(|bits| IpAddr::V4(bits.into())),
        few().prop_map(|bits| IpAddr::V6(
            (u128::from(bits) << 96 | u128::from(bits) | 1 << 64).into()
        )),
        few().prop_map(|bits| IpAddr::V6(Ipv4Addr::from(bits).to_ipv6_mapped())),
        any::<IpAddr>(),
    ]
}

/// Up to four groups and some pins to them, of each network one.
fn pins() -> impl Strategy<Value = Pins> {
    vec(1..4_u16, 1..=4).prop_flat_map(|sizes| {
        let groups: Vec<WorkerGroup> = sizes
            .iter()
            .enumerate()
            .map(|(i, n)| WorkerGroup::new(&format!("g{i}"), *n).expect("a fine name"))
            .collect();
        vec((network(), 0..sizes.len()), 0..12).prop_map(move |rules| {
            let mut pins = Pins {
                groups: groups.clone(),
                rules: Vec::new(),
            };
            for (from, group) in rules {
                if pins.rules.iter().all(|pin| pin.from != from) {
                    let to = format!("g{group}");
                    pins.rules.push(Pin { from, to });
                }
            }
            pins
        })
    })
}

/// The length of a network's prefix.
fn length(network: Network) -> u8 {
    let text = network.to_string();
    let (_, length) = text.split_once('/').expect("as networks are shown");
    length.parse().expect("a number")
}

proptest! {
    #[test]
    fn the_longest_prefix_that_holds_a_client_says_to_which_group_he_goes(
        pins in pins(), clients in vec(client(), 1..40)
    ) {
        let sorter = Sorter::new(&pins).expect("there are groups");
        for client in clients {
            let holding = pins.rules.iter().filter(|pin| pin.from.holds(client));
            let expected = holding.max_by_key(|pin| length(pin.from));
            prop_assert_eq!(sorter.pin_of(client), expected, "{}", client);
            let name = sorter.name(sorter.group_of(client));
            prop_assert_eq!(name, expected.map(|pin| &*pin.to), "{}", client);
        }
    }

    #[test]
    fn every_seat_is_in_one_group_and_groups_have_as_many_as_they_should(
        pins in pins(), candidates in all_ready()
    ) {
        let sorter = Sorter::new(&pins).expect("there are groups");
        let mut among = Vec::new();
        sorter.split(&candidates, &mut among);
        prop_assert_eq!(among.len(), sorter.groups());
        for (i, candidate) in candidates.iter().enumerate() {
            let group = sorter.group_of_seat(candidate.seat);
            let others = among.iter().filter(|others| others.contains(&i)).count();
            prop_assert!(others == 1 && among[group].contains(&i), "seat {}", candidate.seat);
        }
        for (i, group) in pins.groups.iter().enumerate() {
            let seats = (0..=u16::MAX).filter(|seat| sorter.group_of_seat(*seat) == i + 1);
            prop_assert_eq!(seats.count(), usize::from(group.workers));
        }
        prop_assert_eq!(sorter.group_of_seat(u16::MAX), REST, "the master's own seat is the last");
    }

    #[test]
    fn within_its_group_a_client_is_treated_as_if_there_were_no_other(
        pins in pins(), clients in vec(client(), 1..60), candidates in all_ready()
    ) {
        let sorter = Sorter::new(&pins).expect("there are groups");
        let mut among = Vec::new();
        sorter.split(&candidates, &mut among);
        for policy in Policy::ALL {
            let pickers = || vec![Picker::new(policy, Prefixes::default()); sorter.groups()];
            let (mut mixed, mut alone) = (pickers(), pickers());
            let pick = |pickers: &mut [Picker], client: IpAddr| {
                let group = sorter.group_of(client);
                let share = &candidates[among[group].clone()];
                let picked = pickers[group].pick(client, share);
                picked.map(|i| share[i].seat)
            };
            let all: Vec<_> = clients.iter().map(|c| (*c, pick(&mut mixed, *c))).collect();
            for (group, share) in among.iter().enumerate() {
                for (client, seat) in all.iter().filter(|(c, _)| sorter.group_of(*c) == group) {
                    prop_assert_eq!(*seat, pick(&mut alone, *client));
                    prop_assert!(seat.is_none_or(|seat| sorter.group_of_seat(seat) == group));
                    prop_assert_eq!(seat.is_none(), share.is_empty());
                }
            }
        }
    }

    #[test]
    fn every_policy_picks_a_ready_worker_and_none_only_if_none_is(turns in turns()) {
        for policy in Policy::ALL {
            let mut picker = Picker::new(policy, Prefixes::default());
            prop_assert_eq!(picker.pick(turns[0].0, &[]), None);
            for (peer, candidates) in &turns {
                match picker.pick(*peer, candidates) {
                    Some(i) => prop_assert!(candidates[i].ready, "{policy}: {candidates:?}"),
                    None => prop_assert!(candidates.iter().all(|c| !c.ready), "{policy}"),
                }
            }
        }
    }

    #[test]
    fn an_explanation_names_who_was_picked_and_scores_everybody(turns in turns()) {
        for policy in Policy::ALL {
            let mut picker = Picker::new(policy, Prefixes::default());
            for (peer, candidates) in &turns {
                // All that is kept of the picker, until somebody asks.
                let turn = picker.turn();
                let picked = picker.pick(*peer, candidates);
                let before = Picker::at(policy, Prefixes::default(), turn);
                let explanation = before.explain(*peer, candidates);
                prop_assert_eq!(explanation.chosen, picked, "{}", policy);
                prop_assert_eq!(explanation.scores.len(), candidates.len());
                let words = explanation.why.words(|i| candidates[i].seat.to_string());
                prop_assert_eq!(picked.is_none(), words == "no worker was ready", "{}", words);
            }
        }
    }

    #[test]
    fn the_same_inputs_give_the_same_picks(turns in turns()) {
        for policy in Policy::ALL {
            let picks = || {
                let mut picker = Picker::new(policy, Prefixes::default());
                turns.iter().map(|(peer, now)| picker.pick(*peer, now)).collect::<Vec<_>>()
            };
            prop_assert_eq!(picks(), picks());
        }
    }

    #[test]
    fn round_robin_gives_everyone_the_same_number(
        candidates in all_ready(), rounds in 1..10_usize
    ) {
        let mut policy = RoundRobin::default();
        let mut picked = vec![0; candidates.len()];
        for _ in 0..rounds * candidates.len() {
            picked[policy.pick(&candidates).expect("all are ready")] += 1;
        }
        prop_assert!(picked.iter().all(|n| *n == rounds), "{picked:?}");
    }

    #[test]
    fn round_robin_goes_on_to_the_next_ready_seat_whoever_comes_and_goes(
        turns in vec(all_ready().prop_flat_map(|c| {
            let n = c.len();
            (Just(c), vec(any::<bool>(), n))
        }), 1..60)
    ) {
        let mut policy = RoundRobin::default();
        let mut last = None;
        for (mut candidates, ready) in turns {
            candidates.iter_mut().zip(ready).for_each(|(c, ready)| c.ready = ready);
            let picked = policy.pick(&candidates).map(|i| candidates[i].seat);
            let ready = candidates.iter().filter(|c| c.ready);
            let expected = ready.map(|c| c.seat).min_by_key(|seat| distance(last, *seat));
            prop_assert_eq!(picked, expected, "after {:?}", last);
            last = picked.or(last);
        }
    }

    #[test]
    fn under_round_robin_a_ready_worker_waits_for_one_pick_of_each_other_at_most(
        turns in turns()
    ) {
        let mut policy = RoundRobin::default();
        let mut waited = vec![0; turns[0].1.len()];
        for (_, candidates) in &turns {
            let picked = policy.pick(candidates);
            for (i, candidate) in candidates.iter().enumerate() {
                let passed_over = candidate.ready && picked != Some(i);
                waited[i] = if passed_over { waited[i] + 1 } else { 0 };
                prop_assert!(waited[i] < candidates.len(), "seat {}", candidate.seat);
            }
        }
    }

    #[test]
    fn least_loaded_picks_a_smallest_load_and_of_equals_the_next_in_turn(turns in turns()) {
        let mut policy = LeastLoaded::default();
        let mut last = None;
        for (_, candidates) in &turns {
            let picked = policy.pick(candidates).map(|i| candidates[i].seat);
            let ready = candidates.iter().filter(|c| c.ready);
            let expected = ready.min_by_key(|c| (c.load, distance(last, c.seat))).map(|c| c.seat);
            prop_assert_eq!(picked, expected, "after {:?}", last);
            last = picked.or(last);
        }
    }

    #[test]
    fn among_equal_loads_every_worker_has_its_turn(mut candidates in all_ready(), load: u32) {
        candidates.iter_mut().for_each(|c| c.load = load);
        let mut policy = LeastLoaded::default();
        let picks = candidates.iter().filter_map(|_| policy.pick(&candidates));
        let mut picked: Vec<_> = picks.collect();
        picked.sort_unstable();
        prop_assert!(picked.into_iter().eq(0..candidates.len()));
    }

    #[test]
    fn least_loaded_evens_out_whatever_it_begins_with(mut candidates in all_ready()) {
        let spread = |candidates: &[Candidate]| {
            let loads = || candidates.iter().map(|c| c.load);
            loads().max().zip(loads().min()).map_or(0, |(most, least)| most - least)
        };
        let mut policy = LeastLoaded::default();
        let missing: u32 = candidates.iter().map(|c| 4 - c.load).sum();
        for arrival in 0..missing + 50 {
            let before = spread(&candidates);
            let picked = policy.pick(&candidates).expect("all are ready");
            candidates[picked].load += 1;
            let now = spread(&candidates);
            prop_assert!(now <= before.max(1), "from {before} to {now}");
            prop_assert!(arrival < missing || now <= 1, "still {now} apart");
        }
    }

    #[test]
    fn the_same_client_goes_to_the_same_worker_whatever_the_loads(
        peer: IpAddr, others: Vec<IpAddr>, candidates in all_ready(), loads in vec(0..9_u32, 12)
    ) {
        let mut policy = Picker::new(Policy::RemoteAddress, Prefixes::default());
        let picked = policy.pick(peer, &candidates);
        for other in others {
            policy.pick(other, &candidates);
        }
        let mut later = candidates;
        later.iter_mut().zip(loads).for_each(|(c, load)| c.load = load);
        prop_assert_eq!(policy.pick(peer, &later), picked);
    }

    #[test]
    fn a_lost_worker_moves_only_its_own_clients_and_they_come_back_with_it(
        peers in vec(any::<IpAddr>(), 1..200), candidates in all_ready(), lost: prop::sample::Index
    ) {
        let policy = RemoteAddress::new(Prefixes::default());
        let lost = lost.index(candidates.len());
        let without = with_ready(&candidates, lost, false);
        let mut gone = candidates.clone();
        let seat = gone.remove(lost).seat;
        let back = with_ready(&without, lost, true);
        for peer in peers {
            let picked_of = |now: &[Candidate]| policy.pick(peer, now).map(|i| now[i].seat);
            let (before, during) = (picked_of(&candidates), picked_of(&without));
            prop_assert!(before == during || before == Some(seat), "{peer} moved for nothing");
            prop_assert_eq!(during, picked_of(&gone), "not ready and not there are the same");
            prop_assert_eq!(before, picked_of(&back));
        }
    }

    #[test]
    fn addresses_in_one_prefix_share_a_worker(
        v4 in 0..=32_u8, v6 in 0..=128_u8, peer: IpAddr, noise: u128, candidates in all_ready()
    ) {
        let policy = RemoteAddress::new(Prefixes::new(v4, v6).expect("in range"));
        let neighbour = with_noise_behind(peer, if peer.is_ipv4() { v4 } else { v6 }, noise);
        // An address that an IPv6 prefix turns into a mapped IPv4 one is another kind of client.
        let as_it_is = |address: IpAddr| address.to_canonical() == address;
        prop_assume!(as_it_is(peer) && as_it_is(neighbour));
        prop_assert_eq!(policy.pick(peer, &candidates), policy.pick(neighbour, &candidates));
    }

    #[test]
    fn an_ipv4_client_that_came_by_ipv6_is_the_same_client(
        v4 in 0..=32_u8, peer: Ipv4Addr, candidates in all_ready()
    ) {
        let policy = RemoteAddress::new(Prefixes::new(v4, 64).expect("in range"));
        let mapped = IpAddr::V6(peer.to_ipv6_mapped());
        prop_assert_eq!(policy.pick(mapped, &candidates), policy.pick(peer.into(), &candidates));
    }

    #[test]
    fn many_clients_spread_evenly(base: u64, step in 0..16_u32, n in 2..=16_u16, v4_wide: bool) {
        const CLIENTS: u16 = 4_096;
        let candidates: Vec<_> =
            (0..n).map(|seat| Candidate { seat, ready: true, load: 0 }).collect();
        // Neighbouring networks, which differ in a few bits only: what real clients look like.
        let (policy, client): (_, Box<dyn Fn(u16) -> IpAddr>) = if v4_wide {
            let prefix = 32 - step as u8;
            let client = move |i| Ipv4Addr::from((base as u32).wrapping_add(u32::from(i) << step));
            (Prefixes::new(prefix, 64), Box::new(move |i| client(i).into()))
        } else {
            let net = move |i| u128::from(base.wrapping_add(u64::from(i) << step));
            (Prefixes::new(32, 64), Box::new(move |i| Ipv6Addr::from(net(i) << 64 | 1).into()))
        };
        let policy = RemoteAddress::new(policy.expect("in range"));
        let mut clients = vec![0_u16; candidates.len()];
        for i in 0..CLIENTS {
            clients[policy.pick(client(i), &candidates).expect("all are ready")] += 1;
        }
        // At 16 workers this is eight standard deviations: chance does not get there.
        let fair = CLIENTS / n;
        prop_assert!(clients.iter().all(|c| c.abs_diff(fair) < fair / 2), "{clients:?}");
    }
}
