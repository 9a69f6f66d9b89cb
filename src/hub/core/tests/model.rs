//! Random clusters, against what a naive reading of the addresses says.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::rig::{Got, Net};
use crate::bus::{Departure, ProcessId, Role, To, control::Ask, frame::Kind, topic::matches};

const HUBS: usize = 4;
const PATTERNS: [&str; 8] = ["a", "b", "a.b", "a.*", "*.b", "a.>", ">", "a.b.c"];
const TOPICS: [&str; 5] = ["a", "b", "a.b", "a.b.c", "b.b"];

#[derive(Debug, Clone)]
enum Step {
    Join(usize),
    Guest(usize),
    Leave(usize),
    /// The hub is started by this process, if neither would be above itself.
    Branch(usize, usize),
    Cut(usize),
    Subscribe(usize, usize),
    Unsubscribe(usize, usize),
    /// Carry packets.
    Pump,
    Send(usize, usize, usize, Vec<usize>),
    Request(usize, usize, usize, Vec<usize>),
    /// Whoever has been asked answers, or does not.
    Answer(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let any = 0usize..64;
    let some = prop::collection::vec(0usize..64, 0..4);
    let message = (any.clone(), 0usize..11, 0..TOPICS.len(), some);
    prop_oneof![
        3 => (0..HUBS).prop_map(Step::Join),
        1 => (0..HUBS).prop_map(Step::Guest),
        1 => any.clone().prop_map(Step::Leave),
        3 => (any.clone(), 0..HUBS).prop_map(|(process, hub)| Step::Branch(process, hub)),
        1 => any.clone().prop_map(Step::Cut),
        6 => (any.clone(), 0..PATTERNS.len()).prop_map(|(p, n)| Step::Subscribe(p, n)),
        2 => (any.clone(), 0..PATTERNS.len()).prop_map(|(p, n)| Step::Unsubscribe(p, n)),
        4 => Just(Step::Pump),
        8 => message.clone().prop_map(|(a, b, c, d)| Step::Send(a, b, c, d)),
        4 => message.prop_map(|(a, b, c, d)| Step::Request(a, b, c, d)),
        3 => (any, proptest::bool::ANY).prop_map(|(process, says)| Step::Answer(process, says)),
    ]
}

/// What a naive reader knows.
#[derive(Default)]
struct Model {
    /// Those that are there, with what they want.
    wants: BTreeMap<usize, BTreeSet<usize>>,
    /// The process that has started the master of each hub.
    above: BTreeMap<usize, usize>,
    wires: BTreeMap<usize, usize>,
    asked: Vec<(usize, u64)>,
}

struct World {
    net: Net,
    model: Model,
    sent: u64,
}

impl World {
    fn new() -> Self {
        let mut net = Net::default();
        let mut model = Model::default();
        for _ in 0..HUBS {
            let hub = net.hub();
            let master = net.master(hub);
            model.wants.insert(master, BTreeSet::new());
        }
        Self {
            net,
            model,
            sent: 0,
        }
    }

    fn is_master(&self, process: usize) -> bool {
        self.net.id(process).is_master()
    }

    /// Some process that is there.
    fn pick(&self, n: usize) -> usize {
        let there: Vec<usize> = self.model.wants.keys().copied().collect();
        there[n % there.len()]
    }

    fn parent(&self, process: usize) -> Option<usize> {
        let hub = self.net.processes[process].hub;
        match self.is_master(process) {
            true => self.model.above.get(&hub).copied(),
            false => Some(hub),
        }
    }

    fn ancestors(&self, process: usize) -> Vec<usize> {
        std::iter::successors(self.parent(process), |one| self.parent(*one)).collect()
    }

    /// The tree that a process is in, by its top.
    fn top(&self, process: usize) -> usize {
        self.ancestors(process).last().copied().unwrap_or(process)
    }

    /// An address, and whom it means.
    fn address(&self, sender: usize, kind: usize, some: &[usize]) -> (To, Vec<usize>) {
        let all = self.model.wants.keys().copied();
        let reach = |one: &usize| self.top(*one) == self.top(sender);
        let all: Vec<usize> = all.filter(reach).collect();
        let below = |parent: Option<usize>| -> Vec<usize> {
            let there = all.iter().copied();
            there
                .filter(|one| parent.is_some() && self.parent(*one) == parent)
                .collect()
        };
        let named: Vec<usize> = some.iter().map(|n| self.pick(*n)).collect();
        let ids = |some: &[usize]| some.iter().map(|one| self.net.id(*one)).collect::<Vec<_>>();
        let mut others = all.clone();
        others.retain(|one| *one != sender);
        match kind {
            0 => (To::Subscribers, all),
            1 => (To::Everyone, others),
            2 => {
                let mut siblings = below(self.parent(sender));
                siblings.retain(|one| *one != sender);
                (To::Siblings, siblings)
            }
            3 => (To::Ancestors, self.ancestors(sender)),
            4 => (To::Parent, self.parent(sender).into_iter().collect()),
            5 => (To::Children, below(Some(sender))),
            6 => (To::GrandMaster, vec![self.top(sender)]),
            7 => (To::Worker(0), self.in_seat(sender)),
            8 if named.iter().all(|one| all.contains(one)) => (
                To::Route(ids(&named)),
                named.last().copied().into_iter().collect(),
            ),
            8 => (To::Route(ids(&named)), Vec::new()),
            _ => {
                let to = To::Processes(ids(&named));
                let mut meant: Vec<usize> =
                    named.into_iter().filter(|one| all.contains(one)).collect();
                meant.sort_unstable();
                meant.dedup();
                (to, meant)
            }
        }
    }

    fn in_seat(&self, sender: usize) -> Vec<usize> {
        let hub = self.net.processes[sender].hub;
        let there = self.model.wants.keys().copied();
        let workers = there.filter(|one| {
            let peers = self.net.peers(hub);
            let role = peers.iter().find(|peer| peer.id == self.net.id(*one));
            self.net.processes[*one].hub == hub
                && role.is_some_and(|peer| matches!(peer.role, Role::Worker { .. }))
        });
        workers.max().into_iter().collect()
    }

    fn listens(&self, process: usize, topic: &str) -> bool {
        let wants = &self.model.wants[&process];
        wants
            .iter()
            .any(|pattern| matches(PATTERNS[*pattern], topic))
    }

    fn leave(&mut self, process: usize) {
        self.model.wants.remove(&process);
        self.net.leave(process, Departure::Exit(1));
    }

    fn take_step(&mut self, step: &Step) {
        match step {
            Step::Join(hub) => {
                let worker = self.net.worker(*hub, 0);
                self.model.wants.insert(worker, BTreeSet::new());
            }
            Step::Guest(hub) => {
                let guest = self.net.guest(*hub);
                self.model.wants.insert(guest, BTreeSet::new());
            }
            Step::Leave(n) => {
                let process = self.pick(*n);
                // Those who have started a master stay, in this model.
                let has_started = self.model.above.values().any(|one| *one == process);
                if !self.is_master(process) && !has_started {
                    self.leave(process);
                }
            }
            Step::Branch(n, hub) => {
                let process = self.pick(*n);
                let is_free = !self.model.above.contains_key(hub);
                if is_free && !self.is_master(process) && self.top(process) != *hub {
                    self.model.above.insert(*hub, process);
                    let wire = self.net.branch(process, *hub);
                    self.model.wires.insert(*hub, wire);
                    self.net.pump();
                }
            }
            Step::Cut(n) => {
                let wires: Vec<usize> = self.model.wires.keys().copied().collect();
                if let Some(&hub) = wires.get(n % wires.len().max(1)) {
                    let wire = self.model.wires.remove(&hub).unwrap();
                    self.model.above.remove(&hub);
                    self.net.cut(wire);
                    self.net.pump();
                }
            }
            Step::Subscribe(n, pattern) => {
                let process = self.pick(*n);
                self.net.subscribe(process, PATTERNS[*pattern]);
                self.model.wants.get_mut(&process).unwrap().insert(*pattern);
            }
            Step::Unsubscribe(n, pattern) => {
                let process = self.pick(*n);
                self.net
                    .ask(process, &Ask::Unsubscribe(PATTERNS[*pattern].to_owned()));
                self.model.wants.get_mut(&process).unwrap().remove(pattern);
            }
            Step::Pump => self.net.pump(),
            Step::Send(n, kind, topic, some) => self.check_event(*n, *kind, TOPICS[*topic], some),
            Step::Request(n, kind, topic, some) => {
                let sender = self.pick(*n);
                let (to, _) = self.address(sender, *kind, some);
                let id = self.net.request(sender, to, TOPICS[*topic]);
                self.model.asked.push((sender, id));
            }
            Step::Answer(n, says) => self.answer(self.pick(*n), *says),
        }
    }

    /// Sends one event and sees that it reaches whom it should.
    fn check_event(&mut self, n: usize, kind: usize, topic: &str, some: &[usize]) {
        self.net.pump();
        let sender = self.pick(n);
        let (to, meant) = self.address(sender, kind, some);
        let mut expected: Vec<usize> = meant
            .into_iter()
            .filter(|one| self.listens(*one, topic))
            .collect();
        expected.sort_unstable();
        let marks: Vec<usize> = self.net.processes.iter().map(|one| one.got.len()).collect();
        self.sent += 1;
        self.net
            .publish(sender, to.clone(), topic, &self.sent.to_le_bytes());
        self.net.pump();
        let mut reached = Vec::new();
        for (process, mark) in marks.into_iter().enumerate() {
            for got in &self.net.processes[process].got[mark..] {
                assert_eq!(
                    (got.header.kind, got.header.from),
                    (Kind::Event, self.net.id(sender))
                );
                reached.push(process);
            }
        }
        assert_eq!(reached, expected, "{to:?} from {sender} on {topic}");
    }

    fn answer(&mut self, process: usize, says: bool) {
        self.net.pump();
        for request in self.requests(process) {
            match says {
                true => self.net.reply(process, &request, b"yes"),
                false => self.net.refuse(process, &request),
            }
        }
    }

    /// Those that a process has not answered.
    fn requests(&mut self, process: usize) -> Vec<Got> {
        let got = &mut self.net.processes[process].got;
        let is_one = |one: &Got| one.header.kind == Kind::Request;
        let requests = got.iter().filter(|one| is_one(one)).cloned().collect();
        got.retain(|one| !is_one(one));
        requests
    }

    /// Everybody but those who ask ends, and then every request has ended, exactly once.
    fn finish(&mut self) {
        self.net.pump();
        let asking: BTreeSet<usize> = self.model.asked.iter().map(|(who, _)| *who).collect();
        let there: Vec<usize> = self.model.wants.keys().copied().collect();
        for process in there {
            if !asking.contains(&process) && !self.is_master(process) {
                self.leave(process);
            } else {
                self.answer(process, process % 2 == 0);
            }
        }
        self.net.pump();
        for (sender, id) in std::mem::take(&mut self.model.asked) {
            if !self.model.wants.contains_key(&sender) {
                continue;
            }
            let got = &self.net.processes[sender].got;
            let ends = got.iter().filter(|one| {
                one.header.id == id && matches!(one.header.kind, Kind::Reply | Kind::Failure)
            });
            assert_eq!(ends.count(), 1, "request {id} of {sender}");
        }
        for (place, process) in self.net.processes.iter().enumerate() {
            assert_eq!(process.missed, 0, "{place}");
            assert!(!process.was_cut, "{place}");
            self.in_order(&process.got);
        }
        for hub in &self.net.hubs {
            assert_eq!(hub.core.pending.len(), 0);
            assert_eq!(
                hub.core.slots.len(),
                hub.core.ports.iter().count() - hub.core.ports.hubs().count()
            );
        }
    }

    /// Events of one sender come in the order in which it sent them.
    fn in_order(&self, got: &[Got]) {
        let mut last: BTreeMap<ProcessId, u64> = BTreeMap::new();
        for one in got.iter().filter(|one| one.header.kind == Kind::Event) {
            let count = u64::from_le_bytes(one.payload[..].try_into().unwrap());
            let before = last.insert(one.header.from, count);
            assert!(before.is_none_or(|before| before < count));
        }
    }
}

proptest! {
    #[test]
    fn random_clusters_do_what_a_naive_reader_expects(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.take_step(step);
        }
        world.finish();
    }
}
