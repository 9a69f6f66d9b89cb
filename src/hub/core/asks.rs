//! What a process asks of its hub.

use super::{
    Core, HubLink, Loads, Lost,
    facts::{read, record_size},
    interest::Who,
    ports::own_frame,
};
use crate::bus::{
    Failure, Peer, ProcessId, To,
    control::{Ask, What},
    frame::{Attached, Frame, Kind, Malformed},
    peer::{DEEPEST, is_flat},
    topic::{is_pattern, is_reserved, is_topic, words},
};

/// The most words of a pattern with a wildcard: each takes a place of its own.
const MOST_WORDS: usize = 16;
/// The longest name of an application or function, in bytes: what an application is asked to do stands
/// behind its name, and both have 255.
const LONGEST_NAME: usize = 128;
/// Masters below one process whose lines are looked after: each costs an open file of the master.
const MOST_BRANCHES: usize = 64;
/// Bytes of peers that are listed in one answer.
const LISTED: usize = 24 << 10;

impl<A> Core<A> {
    /// A process asks for something.
    pub(super) fn ask(
        &mut self,
        slot: u32,
        process: ProcessId,
        frame: &Frame<'_>,
        attached: Option<A>,
        loads: &dyn Loads,
    ) -> Result<(), Malformed> {
        let ask: Ask = read(frame.payload)?;
        let id = frame.header.id;
        let line = frame.header.attached == Attached::Line;
        if attached.is_some() != (ask == Ask::Branch) || attached.is_some() != line {
            return Err(Malformed::Attached);
        }
        let done = match ask {
            Ask::Subscribe(pattern) => self.subscribe(slot, &pattern),
            Ask::Unsubscribe(pattern) => {
                self.unsubscribe(slot, &pattern);
                Ok(())
            }
            Ask::Host(application, description) => self.host(process, application, description),
            Ask::Unhost(application) => self.amend(process, |peer| {
                peer.applications.remove(&application);
            }),
            Ask::Offer(function) => self.offer(process, function),
            Ask::Withdraw(function) => self.amend(process, |peer| {
                peer.functions.retain(|one| *one != function);
            }),
            Ask::Watch(watches) => {
                if let Some(process) = self.ports.process_mut(slot) {
                    process.watches = watches;
                }
                Ok(())
            }
            Ask::Peers => {
                self.list_peers(slot, process, id, loads);
                return Ok(());
            }
            Ask::Branch => self.branch(process, attached),
        };
        if id != 0 {
            let outcome = done.as_ref().err().map(|text| (Failure::Refused, &**text));
            let me = self.me.process();
            self.ports
                .push_outcome(slot, process, me, id, outcome, &self.counters);
        }
        Ok(())
    }

    /// Changes what is known about a process of ours, and says so to everybody.
    ///
    /// # Errors
    /// There would be too much to know.
    pub(super) fn amend(
        &mut self,
        process: ProcessId,
        change: impl FnOnce(&mut Peer),
    ) -> Result<(), String> {
        let most = self.limits.record_bytes;
        let Some(peer) = self.roster.own_mut().peers.get_mut(&process.number) else {
            return Ok(());
        };
        let mut after = peer.clone();
        change(&mut after);
        if after == *peer {
            return Ok(());
        }
        if record_size(&after) > most {
            return Err(format!(
                "what is known about one process has at most {most} bytes"
            ));
        }
        let before = std::mem::replace(peer, after.clone());
        self.announce(What::Up(after.clone()));
        self.show(Some(&before), after);
        Ok(())
    }

    pub(super) fn subscribe(&mut self, slot: u32, pattern: &str) -> Result<(), String> {
        if !is_pattern(pattern) {
            return Err(format!("{pattern:?} is no pattern"));
        }
        if !is_topic(pattern) && words(pattern).count() > MOST_WORDS {
            return Err(format!(
                "a pattern with * or > has at most {MOST_WORDS} words"
            ));
        }
        let most = self.limits.subscriptions;
        let Some(process) = self.ports.process_mut(slot) else {
            return Ok(());
        };
        if process.patterns.contains(pattern) {
            return Ok(());
        }
        if process.patterns.len() >= most {
            return Err(format!("a process has at most {most} subscriptions"));
        }
        process.patterns.insert(pattern.into());
        if self.interest.add(pattern, Who::Own(slot)) {
            self.announce(What::Wants(pattern.to_owned()));
        }
        Ok(())
    }

    fn unsubscribe(&mut self, slot: u32, pattern: &str) {
        if let Some(process) = self.ports.process_mut(slot)
            && process.patterns.remove(pattern)
        {
            self.unwant(pattern, slot);
        }
    }

    pub(super) fn host(
        &mut self,
        process: ProcessId,
        application: String,
        description: serde_json::Value,
    ) -> Result<(), String> {
        check_name(&application)?;
        if !is_flat(&description, DEEPEST) {
            return Err(format!(
                "a description is nested {DEEPEST} deep at the most"
            ));
        }
        let most = self.limits.applications;
        let known = self.roster.peer(process).map(|peer| &peer.applications);
        if known.is_some_and(|all| all.len() >= most && !all.contains_key(&application)) {
            return Err(format!("a process hosts at most {most} applications"));
        }
        self.amend(process, |peer| {
            peer.applications.insert(application, description);
        })
    }

    pub(super) fn offer(&mut self, process: ProcessId, function: String) -> Result<(), String> {
        check_name(&function)?;
        let most = self.limits.functions;
        let known = self.roster.peer(process).map(|peer| &peer.functions);
        if known.is_some_and(|all| all.len() >= most && !all.contains(&function)) {
            return Err(format!("a process offers at most {most} functions"));
        }
        self.amend(process, |peer| {
            // In order, to be found fast.
            if let Err(place) = peer.functions.binary_search(&function) {
                peer.functions.insert(place, function);
            }
        })
    }

    fn branch(&mut self, process: ProcessId, line: Option<A>) -> Result<(), String> {
        let there = self.ports.hubs();
        let there = there.filter(|(_, link)| *link == HubLink::Below(process));
        let new = self.branches.iter().filter(|(by, _)| *by == process);
        if there.count() + new.count() >= MOST_BRANCHES {
            self.counters.lost(Lost::Attachment).add(1);
            return Err(format!(
                "a process has at most {MOST_BRANCHES} masters below it"
            ));
        }
        self.branches.extend(line.map(|line| (process, line)));
        Ok(())
    }

    fn list_peers(&mut self, slot: u32, process: ProcessId, id: u64, loads: &dyn Loads) {
        let mut peers = self.peers(loads).into_iter().peekable();
        let (me, to) = (self.me.process(), To::from(process));
        while peers.peek().is_some() {
            let mut some = Vec::new();
            let mut bytes = 0;
            while bytes < LISTED
                && let Some(peer) = peers.next()
            {
                bytes += record_size(&peer);
                some.push(peer);
            }
            let payload = rmp_serde::to_vec_named(&some).expect("our own words can be written");
            let frame = own_frame(Kind::Reply, me, &to, id, &payload);
            self.push(slot, &frame, me, None).ok();
        }
        self.ports
            .push_outcome(slot, process, me, id, None, &self.counters);
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if is_reserved(name) {
        return Err("names that begin with $ are the library's own".into());
    }
    let odd = |c: char| c == '/' || c.is_control() || c.is_whitespace();
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(odd) {
        return Err(format!(
            "a name has 1 to {LONGEST_NAME} bytes, and no space or slash in it"
        ));
    }
    Ok(())
}
