//! Policies: which worker gets the next connection.
//!
//! A policy is a pure function of the peer, the candidates and its own state. It never sees a
//! socket, a clock or a random number, so the same inputs always give the same picks.

mod explain;
mod least_loaded;
mod remote_address;
mod round_robin;

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

pub use self::{
    explain::{Explanation, Score, Why},
    least_loaded::LeastLoaded,
    remote_address::{Prefixes, PrefixesOutOfRange, RemoteAddress},
    round_robin::RoundRobin,
};
use super::name::UnknownName;

/// The rule by which the master picks a worker.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Policy {
    /// Each ready worker in turn, exactly.
    RoundRobin,
    /// The worker with the fewest open connections; ties rotate.
    #[default]
    LeastLoaded,
    /// The same client address always to the same worker, by rendezvous hashing.
    RemoteAddress,
}

impl Policy {
    /// Every policy, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::LeastLoaded, Self::RemoteAddress];

    /// Its name in flags, metrics and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastLoaded => "least-loaded",
            Self::RemoteAddress => "remote-address",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| UnknownName::new("policy", text, Self::ALL.map(Self::name)))
    }
}

/// A worker as a policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its seat: stays the same when the process in it is replaced.
    pub seat: u16,
    /// May it be given a connection now? One that starts, drains, hangs, is dead or whose channel
    /// is full may not.
    pub ready: bool,
    /// Connections assigned or self-accepted minus closed, those just picked for it included.
    pub load: u32,
}

/// A policy with the state that it keeps between picks.
#[derive(Debug, Clone)]
pub enum Picker {
    /// See [`RoundRobin`].
    RoundRobin(RoundRobin),
    /// See [`LeastLoaded`].
    LeastLoaded(LeastLoaded),
    /// See [`RemoteAddress`].
    RemoteAddress(RemoteAddress),
}

impl Picker {
    /// A fresh picker; `prefixes` matter to [`Policy::RemoteAddress`] only.
    pub fn new(policy: Policy, prefixes: Prefixes) -> Self {
        match policy {
            Policy::RoundRobin => Self::RoundRobin(RoundRobin::default()),
            Policy::LeastLoaded => Self::LeastLoaded(LeastLoaded::default()),
            Policy::RemoteAddress => Self::RemoteAddress(RemoteAddress::new(prefixes)),
        }
    }

    /// The picker that [`turn`](Self::turn) was asked of, as it was then.
    pub fn at(policy: Policy, prefixes: Prefixes, turn: u16) -> Self {
        let mut picker = Self::new(policy, prefixes);
        match &mut picker {
            Self::RoundRobin(policy) => policy.next = turn,
            Self::LeastLoaded(policy) => policy.next = turn,
            Self::RemoteAddress(_) => {}
        }
        picker
    }

    /// All that it remembers between picks: the first seat that has its turn now. 0 where it
    /// remembers nothing.
    #[inline]
    pub fn turn(&self) -> u16 {
        match self {
            Self::RoundRobin(policy) => policy.next,
            Self::LeastLoaded(policy) => policy.next,
            Self::RemoteAddress(_) => 0,
        }
    }

    /// The index in `candidates` of the worker for `peer`; `None` if no candidate is ready. The
    /// caller counts the connection to that candidate's load before it picks again, so that a burst
    /// cannot herd.
    #[inline]
    pub fn pick(&mut self, peer: IpAddr, candidates: &[Candidate]) -> Option<usize> {
        match self {
            Self::RoundRobin(policy) => policy.pick(candidates),
            Self::LeastLoaded(policy) => policy.pick(candidates),
            Self::RemoteAddress(policy) => policy.pick(peer, candidates),
        }
    }
}
