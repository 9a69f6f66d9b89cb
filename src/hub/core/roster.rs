//! Who is there, of all masters, and how they stand in the tree.

use std::collections::{BTreeMap, BTreeSet};

use crate::bus::{MasterId, Peer, ProcessId, Role};

/// About how many bytes may be told of other masters, all together.
const MOST_TOLD: usize = 64 << 20;

/// All masters that are known, with their processes.
#[derive(Debug)]
pub(super) struct Roster {
    me: MasterId,
    owners: BTreeMap<MasterId, Owner>,
    /// What [`Owner::takes`] is for all of them.
    told: usize,
}

/// A master, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Owner {
    /// The slot of the link that leads to it; `None`: it is this one.
    pub(super) link: Option<u32>,
    /// The last of its facts.
    pub(super) version: u64,
    /// Its processes, by number; itself as number 0.
    pub(super) peers: BTreeMap<u32, Peer>,
    /// What somebody there wants; of this master itself the index of interest knows.
    pub(super) wants: BTreeSet<Box<str>>,
    /// What has come since [`What::Anew`](crate::bus::control::What::Anew).
    pub(super) gathering: Option<Gathering>,
    /// About how many bytes it takes to know all that has been told of it.
    pub(super) takes: usize,
    /// Another link that has something to say about it, not listened to while this one lasts.
    pub(super) rival: Option<u32>,
}

/// A master as it is told anew, until that is complete.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Its processes, by number.
    pub(super) peers: BTreeMap<u32, Peer>,
    /// What somebody there wants.
    pub(super) wants: BTreeSet<Box<str>>,
    /// The version that all of it has.
    pub(super) version: u64,
    /// About how many bytes this takes.
    pub(super) bytes: usize,
}

impl Roster {
    /// A roster that knows nobody but this master.
    pub(super) fn new(me: Peer) -> Self {
        let id = me.id.master;
        let own = Owner {
            peers: BTreeMap::from([(0, me)]),
            ..Owner::default()
        };
        Self {
            me: id,
            owners: BTreeMap::from([(id, own)]),
            told: 0,
        }
    }

    /// This master.
    pub(super) fn own(&self) -> &Owner {
        &self.owners[&self.me]
    }

    /// This master.
    pub(super) fn own_mut(&mut self) -> &mut Owner {
        self.owners.get_mut(&self.me).expect("it is never removed")
    }

    /// A master that is known.
    pub(super) fn owner(&self, id: MasterId) -> Option<&Owner> {
        self.owners.get(&id)
    }

    /// A master that is known.
    pub(super) fn owner_mut(&mut self, id: MasterId) -> Option<&mut Owner> {
        self.owners.get_mut(&id)
    }

    /// A master that was not known is, from now on, by way of this link.
    pub(super) fn admit(&mut self, id: MasterId, link: u32) -> &mut Owner {
        self.owners.entry(id).or_insert_with(|| Owner {
            link: Some(link),
            ..Owner::default()
        })
    }

    /// Forgets a master, but never this one.
    pub(super) fn remove(&mut self, id: MasterId) -> Option<Owner> {
        if id == self.me {
            return None;
        }
        self.weigh(id, |_| 0);
        self.owners.remove(&id)
    }

    /// What has been told of this master takes so many bytes from now on, if it took so many before.
    pub(super) fn weigh(&mut self, id: MasterId, bytes: impl FnOnce(usize) -> usize) {
        if let Some(owner) = self.owners.get_mut(&id) {
            let now = bytes(owner.takes);
            self.told = self.told - owner.takes + now;
            owner.takes = now;
        }
    }

    /// Have those behind this link told more than their share, if all links together have told too much?
    pub(super) fn is_told_too_much(&self, link: u32) -> bool {
        if self.told <= MOST_TOLD {
            return false;
        }
        let links: BTreeSet<_> = self.owners.values().filter_map(|one| one.link).collect();
        let there = self.owners.values().filter(|one| one.link == Some(link));
        there.map(|one| one.takes).sum::<usize>() > MOST_TOLD / links.len().max(1)
    }

    /// All masters, this one among them.
    pub(super) fn owners(&self) -> impl Iterator<Item = (MasterId, &Owner)> {
        self.owners.iter().map(|(id, owner)| (*id, owner))
    }

    /// The masters that this link leads to.
    pub(super) fn behind(&self, link: u32) -> Vec<MasterId> {
        let there = self.owners().filter(|(_, owner)| owner.link == Some(link));
        there.map(|(id, _)| id).collect()
    }

    /// How many masters this link leads to.
    pub(super) fn count_behind(&self, link: u32) -> usize {
        self.owners()
            .filter(|(_, owner)| owner.link == Some(link))
            .count()
    }

    /// The link to a master; `None`: it is unknown, or this one.
    pub(super) fn link_to(&self, id: MasterId) -> Option<u32> {
        self.owners.get(&id)?.link
    }

    /// A process that is there.
    pub(super) fn peer(&self, id: ProcessId) -> Option<&Peer> {
        self.owners.get(&id.master)?.peers.get(&id.number)
    }

    /// Everybody.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.owners.values().flat_map(|owner| owner.peers.values())
    }

    /// How many are there.
    pub(super) fn count(&self) -> usize {
        self.owners.values().map(|owner| owner.peers.len()).sum()
    }

    /// The process one up. One that is gone still had its master above it.
    pub(super) fn parent(&self, id: ProcessId) -> Option<ProcessId> {
        match self.peer(id) {
            Some(peer) => peer.parent,
            None if id.is_master() => None,
            None => Some(id.master.process()),
        }
    }

    /// The parent, its parent, and so on. Ends even if somebody claims to be above themselves.
    pub(super) fn ancestors(&self, id: ProcessId) -> Vec<ProcessId> {
        let mut all = Vec::new();
        let mut at = id;
        while let Some(parent) = self.parent(at)
            && parent != id
            && !all.contains(&parent)
            && all.len() < 2 * crate::bus::frame::MAX_PATH
        {
            all.push(parent);
            at = parent;
        }
        all
    }

    /// Those right below.
    pub(super) fn children(&self, id: ProcessId) -> impl Iterator<Item = ProcessId> {
        let below = self.peers().filter(move |peer| peer.parent == Some(id));
        below.map(|peer| peer.id)
    }

    /// The worker of this master that is in this seat: the last that was born there and is ready, or the
    /// last if none is. A successor that has just begun listens to nothing yet.
    pub(super) fn in_seat(&self, wanted: u16) -> Option<ProcessId> {
        let born = |peer: &Peer| match peer.role {
            Role::Worker { seat, generation } if seat == wanted => {
                Some((peer.ready, generation, peer.id))
            }
            _ => None,
        };
        let all = self.own().peers.values().filter_map(born);
        all.max().map(|(_, _, id)| id)
    }

    /// The master at the top of the tree that this one is in.
    pub(super) fn grand_master(&self) -> MasterId {
        let above = self.ancestors(self.me.process());
        above.last().map_or(self.me, |top| top.master)
    }
}
