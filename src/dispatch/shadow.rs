//! Shadow policies: what the policies that are not in force would have picked.
//!
//! Every arrival is also given to the other policies' pickers, and counted for the worker that each of
//! them names, until it closes. What comes together so are the connections that each worker *would* have
//! open had that policy been in force, from the traffic that is there and no other. The connection goes
//! where the policy in force says; a shadow only counts. The counting itself is in
//! [`scoreboard`](crate::scoreboard); this is the picking.
//!
//! A shadow passes over whom the policy in force would pass over: a worker that is full or stuck in fact
//! is so for all of them.

use std::net::SocketAddr;

use super::{
    policy::{Candidate, LeastLoaded, Policy, Prefixes, RemoteAddress, RoundRobin},
    steering,
};

/// A rule of which a shadow is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shadow {
    /// [`Policy::RoundRobin`].
    RoundRobin,
    /// [`Policy::LeastLoaded`], which here always goes by open connections.
    LeastLoaded,
    /// [`Policy::RemoteAddress`].
    RemoteAddress,
    /// The kernel's hash: what mode `reuseport` would do.
    KernelHash,
}

impl Shadow {
    /// Every rule, in the order of the columns in which they are counted.
    pub const ALL: [Self; 4] = [
        Self::RoundRobin,
        Self::LeastLoaded,
        Self::RemoteAddress,
        Self::KernelHash,
    ];

    /// The shadow of a policy.
    pub const fn of(policy: Policy) -> Self {
        match policy {
            Policy::RoundRobin => Self::RoundRobin,
            Policy::LeastLoaded => Self::LeastLoaded,
            Policy::RemoteAddress => Self::RemoteAddress,
        }
    }

    /// Its name in labels and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => Policy::RoundRobin.name(),
            Self::LeastLoaded => Policy::LeastLoaded.name(),
            Self::RemoteAddress => Policy::RemoteAddress.name(),
            Self::KernelHash => "kernel-hash",
        }
    }
}

/// The seats that the rules name for one connection. It travels with the connection, so that whoever
/// closes it knows where to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picks([u8; Shadow::ALL.len()]);

/// Nobody was picked. No seat has this number.
const NOBODY: u8 = u8::MAX;

impl Picks {
    /// No rule was asked.
    pub const NONE: Self = Self([NOBODY; Shadow::ALL.len()]);

    /// Was no rule asked?
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// The seat that this rule names.
    pub fn seat(self, shadow: Shadow) -> Option<u16> {
        let seat = self.0[shadow as usize];
        (seat != NOBODY).then_some(seat.into())
    }

    /// All that were named: the rule's column, and the seat.
    pub fn all(self) -> impl Iterator<Item = (usize, usize)> {
        let columns = self.0.into_iter().enumerate();
        columns
            .filter(|(_, seat)| *seat != NOBODY)
            .map(|(column, seat)| (column, seat.into()))
    }

    /// As it travels.
    pub fn to_bytes(self) -> [u8; Shadow::ALL.len()] {
        self.0
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. Any bytes are picks: what is no seat's number
    /// counts for nobody.
    pub fn from_bytes(bytes: [u8; Shadow::ALL.len()]) -> Self {
        Self(bytes)
    }

    fn set(&mut self, shadow: Shadow, seat: u16) {
        self.0[shadow as usize] = u8::try_from(seat).unwrap_or(NOBODY);
    }
}

/// The pickers of all rules, with what each of them remembers.
#[derive(Debug, Clone)]
pub struct Shadows {
    round_robin: RoundRobin,
    least_loaded: LeastLoaded,
    remote_address: RemoteAddress,
    /// Who would have a listener of its own in mode `reuseport`, in the order of these: the place of the
    /// listener, and the index of the candidate.
    members: Vec<(usize, usize)>,
    /// The connections that each candidate would have open under `least-loaded`.
    pub loads: Vec<u32>,
}

impl Shadows {
    /// Fresh pickers, for no worker yet.
    pub fn new(prefixes: Prefixes) -> Self {
        Self {
            round_robin: RoundRobin::default(),
            least_loaded: LeastLoaded::default(),
            remote_address: RemoteAddress::new(prefixes),
            members: Vec::new(),
            loads: Vec::new(),
        }
    }

    /// From now on these are the candidates; of each the place of the listener from which the kernel would
    /// have it take connections, if it would. (The master's own is the first of all, and its seat the last.)
    /// They begin with no load.
    pub fn set_candidates(&mut self, places: impl Iterator<Item = Option<usize>>) {
        self.members.clear();
        self.loads.clear();
        for (i, place) in places.enumerate() {
            self.loads.push(0);
            self.members.extend(place.map(|place| (place, i)));
        }
        self.members.sort_unstable();
    }

    /// What every rule picks for a connection from `peer`. `in_force` has picked already: for its own
    /// rule that pick is taken, not made again. `candidates` are those of
    /// [`set_candidates`](Self::set_candidates), in ascending order of seat.
    #[inline]
    pub fn pick(
        &mut self,
        peer: SocketAddr,
        candidates: &[Candidate],
        in_force: Option<(Shadow, usize)>,
    ) -> Picks {
        let mut picks = Picks::NONE;
        for shadow in Shadow::ALL {
            let picked = match in_force {
                Some((rule, picked)) if rule == shadow => Some(picked),
                _ => self.ask(shadow, peer, candidates),
            };
            let Some(picked) = picked else { continue };
            picks.set(shadow, candidates[picked].seat);
            if shadow == Shadow::LeastLoaded
                && let Some(load) = self.loads.get_mut(picked)
            {
                *load = load.saturating_add(1);
            }
        }
        picks
    }

    #[inline]
    fn ask(&mut self, shadow: Shadow, peer: SocketAddr, candidates: &[Candidate]) -> Option<usize> {
        match shadow {
            Shadow::RoundRobin => self.round_robin.pick(candidates),
            Shadow::LeastLoaded => {
                let loads = &self.loads;
                let load = |i: usize, _: &Candidate| loads.get(i).copied().unwrap_or(0);
                self.least_loaded.pick_by(candidates, load)
            }
            Shadow::RemoteAddress => self.remote_address.pick(peer.ip(), candidates),
            Shadow::KernelHash => {
                let members = u32::try_from(self.members.len()).ok()?;
                let place = steering::hash(peer).checked_rem(members)?;
                let (_, i) = self.members[place as usize];
                Some(i).filter(|i| *i < candidates.len())
            }
        }
    }
}
