//! Load: the clients of a benchmark, in a process of its own. Whoever wants load starts
//! `pointsman load`, writes an [`Order`] as one line of JSON to its standard input, and reads [`Said`]
//! lines from its standard output. End of file on its input ends it, and nothing else does: when all is said, its
//! connections stay until then. [`driver`] is the starting end.
//!
//! One thread and one epoll set drive all clients, with nothing allocated for a request: on a small
//! machine the load shares its cores with what it measures, so what it costs is noise.

mod answer;
mod check;
pub mod driver;
mod engine;
mod plan;
mod run;
mod scenario;
mod tally;

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::check::MAX_RATE;
pub(crate) use self::run::run;
pub use self::scenario::Scenario;
use crate::{compare::Drive, scoreboard::histogram::Snapshot};

/// One block of load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Where clients connect.
    pub target: SocketAddr,
    /// The `Host` field.
    pub host: String,
    /// What kind.
    pub scenario: Scenario,
    /// The path of a usual request.
    pub path: String,
    /// The path of a slow one, in [`Scenario::Mixed`].
    pub slow_path: String,
    /// Clients at once.
    pub clients: u32,
    /// Addresses that they come from, of 127.0.0.0/8 where the target is there: `remote-address` tells
    /// clients apart by them. 1: leave it to the kernel.
    pub addresses: u32,
    /// How requests come.
    pub drive: Drive,
    /// For open load: are arrivals a Poisson process? Else they are evenly spaced.
    pub poisson: bool,
    /// Before measuring begins: connections are opened, caches filled.
    pub warm_up: Duration,
    /// For how long it is measured.
    pub duration: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// All chance in it comes from this.
    pub seed: u64,
}

/// What the load says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "kebab-case")]
pub enum Said {
    /// From now on it is measured.
    Begun,
    /// It is no longer.
    Ended(Outcome),
    /// It cannot be done.
    Failed {
        /// Why, and the way out.
        error: String,
    },
}

/// What came of a block of load. Only what was answered, or failed, while it was measured counts; to
/// the latencies of open load only what was planned then, too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// For how long it was measured, seconds.
    pub seconds: f64,
    /// Right answers.
    pub requests: u64,
    /// What went wrong.
    pub errors: Errors,
    /// Connections opened.
    pub connections: u64,
    /// Closed load: from sent to answered. Open load: from the planned moment to answered; what was planned and
    /// has no answer at the end counts with the time that it has waited. So does, in both, what timed out: it
    /// took at least that long.
    pub latency: Snapshot,
    /// From sent to answered. Where the request opens its connection, it is sent when that begins.
    pub service: Snapshot,
    /// Open load: what the load itself was late by, from the planned moment, or from when a client was free if
    /// that was later, to sent.
    #[serde(default)]
    pub lag: Snapshot,
    /// Open load: planned while it was measured, and not answered at its end.
    pub unanswered: u64,
}

/// Requests that went wrong, by what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// No connection could be made.
    pub connect: u64,
    /// The connection ended before the answer did.
    pub closed: u64,
    /// No answer in time.
    pub timeout: u64,
    /// An answer that was no 2xx.
    pub status: u64,
    /// Something that is no HTTP answer.
    pub malformed: u64,
}

impl Errors {
    /// All of them.
    pub fn total(self) -> u64 {
        self.connect + self.closed + self.timeout + self.status + self.malformed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little of everything.
    pub(super) fn order() -> Order {
        Order {
            target: SocketAddr::from(([127, 0, 0, 1], 80)),
            host: "localhost".into(),
            scenario: Scenario::Keepalive,
            path: "/".into(),
            slow_path: "/slow?ms=20".into(),
            clients: 4,
            addresses: 1,
            drive: Drive::Closed,
            poisson: false,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            seed: 1,
        }
    }
}
