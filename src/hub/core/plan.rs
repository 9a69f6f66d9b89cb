//! To whom a message goes: those in the address who want it.

use super::{
    Core, HubLink, Loads,
    balance::application_of,
    interest::{Wanted, Who},
    pending::Target,
};
use crate::bus::{
    Balance, Failure, MasterId, ProcessId, To,
    frame::{Frame, MAX_PATH, Malformed, Space},
};

/// To whom a message goes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Our own processes, by the slots of their ports.
    pub(super) own: Vec<u32>,
    /// Processes of other masters, by name, with the links that lead there.
    pub(super) named: Vec<(u32, ProcessId)>,
    /// The links behind which whoever wants it gets it.
    pub(super) links: Vec<u32>,
    /// The masters there of which somebody wants it, with their links.
    pub(super) owners: Vec<(MasterId, u32)>,
    /// The link that it goes through next, and what is left of its route.
    pub(super) route: Option<(u32, Vec<ProcessId>)>,
    /// Those by name who do not get it, and why.
    pub(super) missing: Vec<(ProcessId, Failure)>,
    /// Why, if nobody gets it.
    pub(super) why: Option<Failure>,
}

/// Who is meant by an address that says how they stand to the sender.
enum Circle {
    Everyone,
    Siblings(ProcessId),
    Children,
    These(Vec<ProcessId>),
}

/// The one process that an address names, if it is such an address. Takes no memory.
#[inline]
pub(super) fn only(to: &[u8]) -> Option<ProcessId> {
    let [9, 1, rest @ ..] = to else {
        return None;
    };
    let (master, number) = rest.split_first_chunk::<8>()?;
    Some(ProcessId {
        master: MasterId(u64::from_le_bytes(*master)),
        number: u32::from_le_bytes(number.try_into().ok()?),
    })
}

impl Plan {
    /// Nobody gets it.
    pub(super) fn clear(&mut self) {
        self.own.clear();
        self.named.clear();
        self.links.clear();
        self.owners.clear();
        self.route = None;
        self.missing.clear();
        self.why = None;
    }

    /// How many get it; a master whose hub finds out counts as one.
    pub(super) fn count(&self) -> usize {
        self.own.len() + self.named.len() + self.owners.len() + usize::from(self.route.is_some())
    }

    fn miss(&mut self, process: ProcessId, why: Failure) {
        self.missing.push((process, why));
        // Somebody who is there but does not listen says more than somebody who is not.
        if self.why != Some(Failure::NoListener) {
            self.why = Some(why);
        }
    }
}

impl<A> Core<A> {
    /// Plans a message of one of our own processes.
    pub(super) fn plan_from_here(
        &mut self,
        sender: ProcessId,
        frame: &Frame<'_>,
        loads: &dyn Loads,
        plan: &mut Plan,
    ) -> Result<(), Malformed> {
        if let Some(process) = only(frame.to) {
            return self.plan_one(process, frame, None, plan);
        }
        match To::decode(frame.to)? {
            To::Subscribers => self.plan_subscribers(frame, None, plan),
            To::Everyone => self.plan_circle(sender, frame, &Circle::Everyone, plan),
            To::Siblings => match self.roster.parent(sender) {
                Some(parent) => self.plan_circle(sender, frame, &Circle::Siblings(parent), plan),
                None => nobody(plan),
            },
            To::Children => self.plan_circle(sender, frame, &Circle::Children, plan),
            To::Ancestors => {
                let above = self.roster.ancestors(sender);
                self.plan_circle(sender, frame, &Circle::These(above), plan)
            }
            To::Parent => {
                let parent = self.roster.parent(sender);
                self.plan_circle(
                    sender,
                    frame,
                    &Circle::These(parent.into_iter().collect()),
                    plan,
                )
            }
            To::Worker(seat) => {
                let worker = self.roster.in_seat(seat);
                self.plan_circle(
                    sender,
                    frame,
                    &Circle::These(worker.into_iter().collect()),
                    plan,
                )
            }
            To::GrandMaster => {
                let top = self.roster.grand_master().process();
                self.plan_circle(sender, frame, &Circle::These(vec![top]), plan)
            }
            To::Processes(processes) => self.plan_processes(&processes, frame, None, plan),
            To::Route(route) => self.plan_route(route, frame, plan),
            To::Host(balance) => self.plan_host(sender, balance, frame, loads, plan),
        }
    }

    /// Plans a message that came by a link.
    pub(super) fn plan_from_afar(
        &mut self,
        came_by: u32,
        frame: &Frame<'_>,
        plan: &mut Plan,
    ) -> Result<(), Malformed> {
        if let Some(process) = only(frame.to) {
            return self.plan_one(process, frame, Some(came_by), plan);
        }
        match To::decode(frame.to)? {
            // Whoever sent it to everyone is not here.
            To::Subscribers | To::Everyone => self.plan_subscribers(frame, Some(came_by), plan),
            To::Processes(processes) => self.plan_processes(&processes, frame, Some(came_by), plan),
            To::Route(route) => self.plan_route(route, frame, plan),
            // These have been made out by the sender's hub.
            _ => Err(Malformed::To),
        }
    }

    fn plan_subscribers(
        &mut self,
        frame: &Frame<'_>,
        came_by: Option<u32>,
        plan: &mut Plan,
    ) -> Result<(), Malformed> {
        plan.why = Some(Failure::NoListener);
        let found;
        let wanted = match frame.header.space {
            Space::Topic => self.interest.of(frame.name).ok_or(Malformed::Name)?,
            space => {
                found = self.who_has(space, frame.name);
                &found
            }
        };
        plan.own.extend(&wanted.own);
        plan.links.extend(&wanted.links);
        plan.owners.extend(&wanted.owners);
        if let Some(came_by) = came_by {
            plan.links.retain(|&link| self.may_cross(came_by, link));
            plan.owners
                .retain(|&(_, link)| self.may_cross(came_by, link));
        }
        Ok(())
    }

    /// Those of a circle around the sender that want it.
    fn plan_circle(
        &mut self,
        sender: ProcessId,
        frame: &Frame<'_>,
        circle: &Circle,
        plan: &mut Plan,
    ) -> Result<(), Malformed> {
        let found;
        let wanted = match frame.header.space {
            Space::Topic => self.interest.of(frame.name).ok_or(Malformed::Name)?,
            space => {
                found = self.who_has(space, frame.name);
                &found
            }
        };
        let ports = &self.ports;
        let here = wanted.own.iter().copied().filter(|&slot| {
            ports.process(slot).is_some_and(|process| match circle {
                Circle::Everyone => process.id != sender,
                Circle::Siblings(parent) => process.parent == Some(*parent) && process.id != sender,
                Circle::Children => process.parent == Some(sender),
                Circle::These(these) => these.contains(&process.id),
            })
        });
        plan.own.extend(here);
        plan.why = Some(Failure::NoListener);
        if matches!(circle, Circle::Everyone) {
            plan.links.extend(&wanted.links);
            plan.owners.extend(&wanted.owners);
            return Ok(());
        }
        if wanted.owners.is_empty() && !plan.own.is_empty() {
            return Ok(());
        }
        let everybody: Vec<ProcessId> = match circle {
            Circle::Everyone => Vec::new(),
            Circle::Siblings(parent) => {
                let all = self.roster.children(*parent);
                all.filter(|one| *one != sender).collect()
            }
            Circle::Children => self.roster.children(sender).collect(),
            Circle::These(these) => these.clone(),
        };
        if everybody.is_empty() {
            plan.why = Some(Failure::Unroutable);
        }
        let want = |process: &ProcessId| {
            let there = wanted
                .owners
                .iter()
                .find(|(owner, _)| *owner == process.master);
            there.map(|(_, link)| (*link, *process))
        };
        plan.named.extend(everybody.iter().filter_map(want));
        Ok(())
    }

    fn plan_processes(
        &mut self,
        processes: &[ProcessId],
        frame: &Frame<'_>,
        came_by: Option<u32>,
        plan: &mut Plan,
    ) -> Result<(), Malformed> {
        plan.why = Some(Failure::Unroutable);
        for (place, process) in processes.iter().enumerate() {
            // Nobody gets it twice.
            if !processes[..place].contains(process) {
                self.plan_one(*process, frame, came_by, plan)?;
            }
        }
        Ok(())
    }

    fn plan_one(
        &mut self,
        process: ProcessId,
        frame: &Frame<'_>,
        came_by: Option<u32>,
        plan: &mut Plan,
    ) -> Result<(), Malformed> {
        if process.master == self.me {
            match self.listens(process, frame)? {
                Ok(slot) => plan.own.push(slot),
                Err(why) => plan.miss(process, why),
            }
            return Ok(());
        }
        let link = self.roster.link_to(process.master);
        match link.filter(|&link| came_by.is_none_or(|from| self.may_cross(from, link))) {
            Some(link) if self.roster.peer(process).is_some() => plan.named.push((link, process)),
            _ => plan.miss(process, Failure::Unroutable),
        }
        Ok(())
    }

    fn plan_route(
        &mut self,
        route: Vec<ProcessId>,
        frame: &Frame<'_>,
        plan: &mut Plan,
    ) -> Result<(), Malformed> {
        let Some(last) = route.last().copied() else {
            return nobody(plan);
        };
        if route.len() > MAX_PATH {
            return Err(Malformed::To);
        }
        let here = route.iter().take_while(|one| one.master == self.me).count();
        // On the way of a route it is the hub that says so: the last one may be far from here.
        let me = self.me.process();
        if route.iter().any(|one| self.roster.peer(*one).is_none()) {
            plan.miss(me, Failure::Unroutable);
        } else if here == route.len() {
            return self.plan_one(last, frame, None, plan);
        } else {
            let left = route[here..].to_vec();
            match self.roster.link_to(left[0].master) {
                Some(link) => plan.route = Some((link, left)),
                None => plan.miss(me, Failure::Unroutable),
            }
        }
        Ok(())
    }

    fn plan_host(
        &mut self,
        sender: ProcessId,
        balance: Balance,
        frame: &Frame<'_>,
        loads: &dyn Loads,
        plan: &mut Plan,
    ) -> Result<(), Malformed> {
        if frame.header.space != Space::Application {
            return Err(Malformed::To);
        }
        let application = application_of(frame.name);
        let host = self
            .hosts
            .pick(application, sender, balance, &self.roster, loads);
        match host {
            Some(host) => self.plan_one(host, frame, None, plan),
            None => {
                plan.why = Some(Failure::NoHost);
                Ok(())
            }
        }
    }

    /// The slot of a process of ours, if it is to be told what goes by this name; or why it is not.
    #[inline]
    fn listens(
        &mut self,
        process: ProcessId,
        frame: &Frame<'_>,
    ) -> Result<Result<u32, Failure>, Malformed> {
        let Some(&slot) = self.slots.get(&process.number) else {
            let is_known = self.roster.peer(process).is_some();
            return Ok(Err(if is_known {
                Failure::Gone
            } else {
                Failure::Unroutable
            }));
        };
        let listens = match frame.header.space {
            Space::Topic => {
                let wanted = self.interest.of(frame.name).ok_or(Malformed::Name)?;
                wanted.own.contains(&slot)
            }
            space => self
                .roster
                .peer(process)
                .is_some_and(|peer| has(peer, space, frame.name)),
        };
        Ok(if listens {
            Ok(slot)
        } else {
            Err(Failure::NoListener)
        })
    }

    /// Everybody who hosts this application, or offers this function.
    fn who_has(&self, space: Space, name: &str) -> Wanted {
        let mut wanted = Wanted::default();
        for peer in self.roster.peers().filter(|peer| has(peer, space, name)) {
            if peer.id.master == self.me {
                let slot = self.slots.get(&peer.id.number);
                slot.into_iter()
                    .for_each(|slot| wanted.add(Who::Own(*slot)));
            } else if let Some(link) = self.roster.link_to(peer.id.master) {
                wanted.add(Who::Afar(peer.id.master, link));
            }
        }
        wanted
    }

    /// Is this link one that descriptors cannot go through?
    pub(super) fn is_far(&self, link: u32) -> bool {
        matches!(self.ports.link(link), Some(HubLink::Nats(_)))
    }

    /// Those who may answer a request that is sent so.
    pub(super) fn targets(&self, plan: &Plan) -> Vec<Target> {
        let own = plan.own.iter().filter_map(|&slot| self.ports.process(slot));
        let own = own.map(|process| Target::Process(process.id));
        let named = plan
            .named
            .iter()
            .map(|(_, process)| Target::Process(*process));
        let owners = plan.owners.iter().map(|(owner, _)| Target::Owner(*owner));
        let route = plan.route.iter().filter_map(|(_, route)| route.last());
        let route = route.map(|process| Target::Routed(*process));
        own.chain(named).chain(owners).chain(route).collect()
    }
}

fn nobody(plan: &mut Plan) -> Result<(), Malformed> {
    plan.why = Some(Failure::Unroutable);
    Ok(())
}

fn has(peer: &crate::bus::Peer, space: Space, name: &str) -> bool {
    match space {
        Space::Topic => false,
        Space::Application => peer.applications.contains_key(application_of(name)),
        Space::Function => {
            let place = peer
                .functions
                .binary_search_by(|one| one.as_str().cmp(name));
            place.is_ok()
        }
    }
}
