//! How processes and hubs come and go.

use super::{
    Core, PortId,
    interest::Who,
    ports::{End, ProcessEnd},
};
use crate::bus::{
    Departure, Failure, Peer, ProcessId, Role,
    control::{Tell, What},
};

impl<A> Core<A> {
    pub(super) fn join_process(
        &mut self,
        role: Role,
        pid: i32,
        number: Option<u32>,
        parent: Option<ProcessId>,
    ) -> (PortId, ProcessId) {
        let was_there = number.is_some();
        let number = match role {
            Role::Master => 0,
            _ => number
                .filter(|&number| number > 0)
                .unwrap_or(self.next_number),
        };
        self.next_number = self.next_number.max(number.saturating_add(1));
        let id = ProcessId {
            master: self.me,
            number,
        };
        if let Some(&slot) = self.slots.get(&number) {
            self.close_process(slot, id);
        }
        let parent = match number {
            0 => self.roster.parent(id),
            _ => Some(parent.unwrap_or(self.me.process())),
        };
        let port = self.ports.open(End::Process(ProcessEnd {
            id,
            parent,
            patterns: Default::default(),
            watches: false,
            // All, until it has made a request that this hub has seen.
            unseen_below: if was_there { u64::MAX } else { 0 },
        }));
        self.slots.insert(number, port.slot);
        self.welcome(port.slot);
        if number > 0 {
            let peer = Peer {
                id,
                role,
                parent,
                node: self.node.clone(),
                pid,
                // Nobody says of a guest when it is.
                ready: role == Role::Guest,
                applications: Default::default(),
                functions: Vec::new(),
                load: 0,
            };
            let before = self.roster.own_mut().peers.insert(number, peer.clone());
            self.announce(What::Up(peer.clone()));
            self.show(before.as_ref(), peer);
        }
        self.settle();
        (port, id)
    }

    /// Tells a process who it is and who is above it.
    pub(super) fn welcome(&mut self, slot: u32) {
        let grand_master = self.roster.grand_master();
        let above = self.roster.parent(self.me.process());
        let Some(process) = self.ports.process_mut(slot) else {
            return;
        };
        if process.id.is_master() {
            process.parent = above;
        }
        let tell = Tell::Welcome {
            you: process.id,
            parent: process.parent,
            grand_master,
        };
        self.ports
            .welcome(slot, self.me.process(), tell, &self.counters);
    }

    /// The line of a process that stays listed has ended: it hosts and offers nothing any more.
    pub(super) fn withdraw(&mut self, slot: u32, id: ProcessId) {
        self.close_process(slot, id);
        self.amend(id, |peer| {
            peer.applications.clear();
            peer.functions.clear();
        })
        .ok();
    }

    /// Nothing goes to this process any more.
    pub(super) fn close_process(&mut self, slot: u32, id: ProcessId) {
        self.slots.remove(&id.number);
        let Some(port) = self.ports.close(slot, &self.counters) else {
            return;
        };
        if let End::Process(process) = port.end {
            for pattern in process.patterns {
                self.unwant(&pattern, slot);
            }
        }
        self.forget_requests(|requester, _, _| requester == id);
        self.end_requests(|target| target.is_process(id));
    }

    /// Nothing comes from this hub any more, nor from those behind it.
    pub(super) fn close_link(&mut self, slot: u32, why: Departure, was_above: bool) {
        let behind = self.roster.behind(slot);
        for owner in behind {
            self.lose(owner, why);
        }
        for (requester, id) in self.ports.drop_routed(slot, &self.counters) {
            let me = self.me.process();
            self.fail_request_of(requester, id, me, Failure::Gone, "");
        }
        self.ports.close(slot, &self.counters);
        self.forget_requests(|_, by, _| by == slot);
        if was_above {
            self.put_below(None);
        }
    }

    /// The process that is above this master is another, or none, from now on.
    pub(super) fn put_below(&mut self, parent: Option<ProcessId>) {
        let me = self.me.process();
        self.amend(me, |peer| peer.parent = parent).ok();
        self.regroup();
    }

    pub(super) fn unwant(&mut self, pattern: &str, slot: u32) {
        if self.interest.remove(pattern, Who::Own(slot)) {
            self.announce(What::WantsNot(pattern.to_owned()));
        }
    }
}
