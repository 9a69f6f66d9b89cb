//! What hubs tell each other of who is there and what is wanted, and what processes are told of it.

use super::{
    Core, HubLink,
    interest::Who,
    pending::Target,
    ports::{own_frame, tell_frame},
    roster::{Gathering, Owner},
};
use crate::bus::{
    Departure, Failure, MasterId, Peer, Presence, ProcessId,
    control::{Fact, Tell, What},
    frame::{Frame, Kind, Malformed},
    topic::{is_pattern, words},
};

/// Masters that one link may lead to.
const MOST_OWNERS: usize = 4_096;
/// Processes that one master may have.
const MOST_PEERS: usize = 16_384;
/// Patterns that somebody of one master may want.
const MOST_WANTS: usize = 1 << 18;
/// Bytes that what is told of one master at once may take.
const MOST_BYTES: usize = 16 << 20;
/// How deep a description may go.
const DEPTH: usize = 64;

/// Reads what a process or hub says of itself.
///
/// # Errors
/// It is none of what it should be.
pub(super) fn read<'a, T: serde::Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Malformed> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(payload);
    reader.set_max_depth(DEPTH);
    T::deserialize(&mut reader).map_err(|_| Malformed::Payload)
}

/// The bytes that a peer's record takes.
pub(super) fn record_size(peer: &Peer) -> usize {
    rmp_serde::to_vec_named(peer).map_or(usize::MAX, |bytes| bytes.len())
}

impl<A> Core<A> {
    /// Tells all other hubs what is so with our own processes.
    pub(super) fn announce(&mut self, what: What) {
        let owner = self.roster.own_mut();
        owner.version += 1;
        let version = owner.version;
        self.pass_on(None, &fact_of(self.me, version, what));
    }

    /// Tells those who watch.
    pub(super) fn tell_presence(&mut self, presence: Presence) {
        let watches = |slot: &u32| self.ports.process(*slot).is_some_and(|one| one.watches);
        let watchers: Vec<u32> = self.slots.values().copied().filter(watches).collect();
        if watchers.is_empty() {
            return;
        }
        let frame = tell_frame(self.me.process(), &Tell::Presence(presence));
        for slot in watchers {
            self.push(slot, &frame, self.me.process(), None).ok();
        }
    }

    /// Another hub was met: it is asked for all that it knows, and told all that we know.
    pub(super) fn greet(&mut self, slot: u32) {
        self.inquire(slot);
        self.tell_everything(slot);
    }

    /// What a hub says came by the link in this slot.
    pub(super) fn hear(
        &mut self,
        slot: u32,
        link: HubLink,
        frame: &Frame<'_>,
    ) -> Result<(), Malformed> {
        let Fact {
            owner,
            version,
            what,
        } = read(frame.payload)?;
        if matches!(what, What::Inquiry) {
            self.answer_inquiry(slot, link, owner);
            return Ok(());
        }
        if matches!(what, What::Anew)
            && let Some(hub) = self.ports.hub_mut(slot)
        {
            hub.asked = false;
        }
        if !self.listens_to(slot, owner, &what) {
            return Ok(());
        }
        match what {
            What::Anew => {
                let known = self.roster.admit(owner, slot);
                let dropped = known.gathering.replace(Gathering::new(version));
                self.roster
                    .weigh(owner, |all| all.saturating_sub(weight_of(&dropped)));
            }
            What::Lost(why) => self.lose(owner, why),
            what => {
                check(owner, &what, self.limits.record_bytes)?;
                let known = self.roster.admit(owner, slot);
                if known.peers.len() > MOST_PEERS || known.wants.len() > MOST_WANTS {
                    return Err(Malformed::Forbidden);
                }
                let dropped = known.gathering.take_if(|one| one.version != version);
                let more = match &known.gathering {
                    Some(_) => weight(&what),
                    None => 0,
                };
                match &mut known.gathering {
                    Some(gathering) if matches!(what, What::Complete) => {
                        let gathering = std::mem::take(gathering);
                        known.gathering = None;
                        self.replace(owner, slot, gathering);
                    }
                    Some(gathering) => gathering.add(what, more)?,
                    None => self.learn(owner, slot, version, what, frame.payload),
                }
                self.roster.weigh(owner, |all| {
                    (all + more).saturating_sub(weight_of(&dropped))
                });
                if self.roster.is_told_too_much(slot) {
                    return Err(Malformed::Forbidden);
                }
            }
        }
        Ok(())
    }

    /// This process is there, or otherwise than `before`: whoever watches is told.
    pub(super) fn show(&mut self, before: Option<&Peer>, peer: Peer) {
        self.hosts.forget();
        let presence = match before {
            None => Presence::Online(peer),
            Some(before) if !before.ready && peer.ready => Presence::Ready(peer),
            Some(_) => Presence::Changed(peer),
        };
        self.tell_presence(presence);
    }

    /// A process is gone: nobody waits for its answers, nor it for any.
    pub(super) fn mourn(&mut self, peer: Peer, reason: Departure) {
        self.hosts.forget();
        let id = peer.id;
        self.end_requests(|target| target.is_process(id));
        self.forget_requests(|requester, _, _| requester == id);
        self.tell_presence(Presence::Offline { peer, reason });
    }

    /// A master is out of reach, with all its processes.
    pub(super) fn lose(&mut self, id: MasterId, why: Departure) {
        let Some(owner) = self.roster.remove(id) else {
            return;
        };
        let link = owner
            .link
            .expect("only this master has none, and is not removed");
        for pattern in &owner.wants {
            self.interest.remove(pattern, Who::Afar(id, link));
        }
        self.end_requests(|target| match target {
            Target::Process(process) | Target::Routed(process) => process.master == id,
            Target::Owner(owner) => owner == id,
        });
        self.forget_requests(|requester, _, _| requester.master == id);
        for peer in owner.peers.into_values() {
            self.mourn(peer, why);
        }
        self.pass_on(Some(link), &fact_of(id, owner.version, What::Lost(why)));
        if let Some(rival) = owner.rival {
            self.inquire(rival);
        }
        self.regroup();
    }

    /// Asks the hub behind a link to tell all that it knows, if it has not been asked.
    pub(super) fn inquire(&mut self, slot: u32) {
        let me = self.me;
        if let Some(hub) = self.ports.hub_mut(slot)
            && !std::mem::replace(&mut hub.asked, true)
        {
            let payload = fact_of(me, 0, What::Inquiry);
            self.push_fact(slot, &payload);
        }
    }

    /// Who is at the top may have changed: our processes are told.
    pub(super) fn regroup(&mut self) {
        let top = (
            self.roster.parent(self.me.process()),
            self.roster.grand_master(),
        );
        if self.told == top {
            return;
        }
        self.told = top;
        let slots: Vec<u32> = self.slots.values().copied().collect();
        for slot in slots {
            self.welcome(slot);
        }
    }

    /// Is a fact from there about this master to be believed?
    fn listens_to(&mut self, slot: u32, owner: MasterId, what: &What) -> bool {
        if owner == self.me {
            self.counters.facts_ignored.add(1);
            return false;
        }
        if let Some(known) = self.roster.owner_mut(owner) {
            let is_its_way = known.link == Some(slot);
            if !is_its_way {
                known.rival = Some(slot);
                self.counters.facts_ignored.add(1);
            }
            return is_its_way;
        }
        match what {
            What::Anew if self.roster.count_behind(slot) < MOST_OWNERS => true,
            What::Anew => {
                self.counters.facts_ignored.add(1);
                false
            }
            What::Lost(_) => false,
            _ => {
                // Its beginning was missed.
                self.inquire(slot);
                false
            }
        }
    }

    fn answer_inquiry(&mut self, slot: u32, link: HubLink, asker: MasterId) {
        self.tell_everything(slot);
        // After the facts, so that the newcomer knows who is above it when it hears of it.
        if let HubLink::Below(process) = link {
            let tell = Tell::Welcome {
                you: asker.process(),
                parent: Some(process),
                grand_master: self.roster.grand_master(),
            };
            let frame = tell_frame(self.me.process(), &tell);
            self.ports
                .push_fact(slot, &frame, self.me.process(), &self.counters);
        }
    }

    /// One more fact about a master.
    fn learn(&mut self, id: MasterId, slot: u32, version: u64, what: What, payload: &[u8]) {
        let Some(owner) = self.roster.owner_mut(id) else {
            return;
        };
        if version <= owner.version {
            return;
        }
        let missed = version - owner.version > 1;
        owner.version = version;
        let who = Who::Afar(id, slot);
        let (mut more, mut less) = (weight(&what), 0);
        match what {
            What::Up(peer) => {
                let before = owner.peers.insert(peer.id.number, peer.clone());
                less = before.as_ref().map_or(0, weight_of_peer);
                if before.as_ref() != Some(&peer) {
                    self.show(before.as_ref(), peer);
                }
            }
            What::Down(process, why) => {
                if let Some(peer) = owner.peers.remove(&process.number) {
                    less = weight_of_peer(&peer);
                    self.mourn(peer, why);
                }
            }
            What::Wants(pattern) => {
                if owner.wants.insert(pattern.as_str().into()) {
                    self.interest.add(&pattern, who);
                } else {
                    more = 0;
                }
            }
            What::WantsNot(pattern) => {
                if owner.wants.remove(pattern.as_str()) {
                    less = weight_of_pattern(&pattern);
                    self.interest.remove(&pattern, who);
                }
            }
            What::Anew | What::Complete | What::Lost(_) | What::Inquiry => {}
        }
        // Not quite the same as before: loads have been noted since.
        self.roster
            .weigh(id, |all| (all + more).saturating_sub(less));
        self.pass_on(Some(slot), payload);
        if missed {
            self.inquire(slot);
        }
        self.regroup();
    }

    /// All about a master has been told anew.
    fn replace(&mut self, id: MasterId, slot: u32, gathering: Gathering) {
        let Some(owner) = self.roster.owner_mut(id) else {
            return;
        };
        owner.version = gathering.version;
        let bytes = gathering.bytes;
        let mut before = std::mem::replace(&mut owner.peers, gathering.peers.clone());
        let wanted = std::mem::replace(&mut owner.wants, gathering.wants.clone());
        for pattern in wanted.difference(&gathering.wants) {
            self.interest.remove(pattern, Who::Afar(id, slot));
        }
        for pattern in gathering.wants.difference(&wanted) {
            self.interest.add(pattern, Who::Afar(id, slot));
        }
        for (number, peer) in gathering.peers {
            let before = before.remove(&number);
            if before.as_ref() != Some(&peer) {
                self.show(before.as_ref(), peer);
            }
        }
        for peer in before.into_values() {
            self.mourn(peer, Departure::Silent);
        }
        self.roster.weigh(id, |_| bytes);
        let facts = self
            .roster
            .owner(id)
            .map(|owner| all_about(id, owner, None));
        for fact in facts.into_iter().flatten() {
            self.pass_on(Some(slot), &fact);
        }
        self.regroup();
    }

    /// Tells all that we know to the hub behind a link, but what we know from there.
    fn tell_everything(&mut self, slot: u32) {
        let mut facts = Vec::new();
        for (id, owner) in self.roster.owners() {
            let ours = owner.link.is_none().then(|| self.interest.ours());
            let there = owner.link == Some(slot);
            let met = |slot| matches!(self.ports.link(slot), Some(HubLink::Nats(_)));
            // Those who meet on NATS tell each other.
            if there || (met(slot) && owner.link.is_some_and(met)) {
                continue;
            }
            match ours {
                Some(ours) => {
                    let wants = ours.map(Box::from).collect();
                    facts.extend(all_about(id, owner, Some(wants)));
                }
                None => facts.extend(all_about(id, owner, None)),
            }
        }
        for fact in facts {
            self.push_fact(slot, &fact);
        }
    }

    /// Tells a fact to all hubs but the one that it came from.
    fn pass_on(&mut self, came_by: Option<u32>, payload: &[u8]) {
        let links: Vec<u32> = self.links_beyond(came_by).collect();
        for slot in links {
            self.push_fact(slot, payload);
        }
    }

    fn push_fact(&mut self, slot: u32, payload: &[u8]) {
        let me = self.me.process();
        let frame = own_frame(Kind::Fact, me, &crate::bus::To::Subscribers, 0, payload);
        self.ports.push_fact(slot, &frame, me, &self.counters);
    }

    /// Requests that nobody is left for have failed.
    pub(super) fn end_requests(&mut self, gone: impl Fn(Target) -> bool) {
        for ((requester, id), slot) in self.pending.forsaken(gone) {
            self.ports.release(slot);
            self.fail_request(requester, id, self.me.process(), Failure::Gone, "");
        }
    }

    /// Requests that nobody waits for any more are forgotten.
    pub(super) fn forget_requests(&mut self, is_over: impl Fn(ProcessId, u32, u64) -> bool) {
        let ports = &mut self.ports;
        self.pending.forget(is_over, |slot| ports.release(slot));
    }
}

impl Gathering {
    fn new(version: u64) -> Self {
        Self {
            version,
            ..Self::default()
        }
    }

    /// One more fact, of this weight.
    fn add(&mut self, what: What, bytes: usize) -> Result<(), Malformed> {
        self.bytes += bytes;
        if self.bytes > MOST_BYTES {
            return Err(Malformed::Forbidden);
        }
        match what {
            What::Up(peer) => drop(self.peers.insert(peer.id.number, peer)),
            What::Wants(pattern) => drop(self.wants.insert(pattern.into())),
            _ => {}
        }
        Ok(())
    }
}

/// About how many bytes it takes to know this.
fn weight(what: &What) -> usize {
    match what {
        What::Up(peer) => weight_of_peer(peer),
        What::Wants(pattern) => weight_of_pattern(pattern),
        _ => 0,
    }
}

fn weight_of_peer(peer: &Peer) -> usize {
    64 + record_size(peer)
}

fn weight_of_pattern(pattern: &str) -> usize {
    64 + 32 * words(pattern).count()
}

fn weight_of(gathering: &Option<Gathering>) -> usize {
    gathering.as_ref().map_or(0, |one| one.bytes)
}

/// Is it about somebody of that master's, and within bounds?
fn check(owner: MasterId, what: &What, record_bytes: usize) -> Result<(), Malformed> {
    match what {
        What::Up(peer) if peer.id.master != owner => Err(Malformed::Forbidden),
        What::Up(peer) if record_size(peer) > record_bytes => Err(Malformed::Length),
        What::Down(process, _) if process.master != owner => Err(Malformed::Forbidden),
        What::Wants(pattern) | What::WantsNot(pattern) if !is_pattern(pattern) => {
            Err(Malformed::Name)
        }
        _ => Ok(()),
    }
}

fn fact_of(owner: MasterId, version: u64, what: What) -> Vec<u8> {
    let fact = Fact {
        owner,
        version,
        what,
    };
    rmp_serde::to_vec_named(&fact).expect("our own words can be written")
}

/// All that there is to say about a master.
fn all_about(
    id: MasterId,
    owner: &Owner,
    wants: Option<std::collections::BTreeSet<Box<str>>>,
) -> Vec<Vec<u8>> {
    let wants = wants.as_ref().unwrap_or(&owner.wants);
    let peers = owner.peers.values().cloned().map(What::Up);
    let wants = wants.iter().map(|pattern| What::Wants(pattern.to_string()));
    let all = std::iter::once(What::Anew).chain(peers).chain(wants);
    let all = all.chain(std::iter::once(What::Complete));
    all.map(|what| fact_of(id, owner.version, what)).collect()
}
