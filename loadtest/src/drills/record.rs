//! What a drill has shown. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clients::{Attempt, Fate, Ledger};
use crate::arm::Arm;

/// An answer that took no longer was served as if nothing were the matter.
const USUAL: Duration = Duration::from_millis(100);
/// Somebody who waits for longer notices.
const LONG: Duration = Duration::from_secs(1);
/// If something is still amiss so shortly before the end, service has not come back.
const LAST: Duration = Duration::from_millis(500);

/// What is done to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Stop,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Kill => "a worker is killed",
            Self::Stop => "a worker is stopped",
        }
    }
}

/// All drills of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drills {
    /// Workers (or threads) of each proxy.
    pub(crate) workers: u32,
    /// Requests a second.
    pub(crate) rate: f64,
    /// For how long a stopped worker stood still, seconds.
    pub(crate) stopped_for: f64,
    /// For how long clients went on after a kill, seconds.
    pub(crate) watched_for: f64,
    pub(crate) records: Vec<Record>,
}

/// When what happened, since the clients began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) struck: Duration,
    /// A process took the place of the killed one.
    pub(crate) replaced: Option<Duration>,
    pub(crate) ended: Duration,
}

/// What clients saw in one drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) arm: String,
    /// What the proxy is made of.
    pub(crate) architecture: String,
    pub(crate) fault: Fault,
    /// There was no worker process beside others: the whole proxy failed.
    pub(crate) whole: bool,
    pub(crate) requests: u64,
    pub(crate) refused: u64,
    /// Connections that ended with a request under way.
    pub(crate) reset: u64,
    pub(crate) timed_out: u64,
    pub(crate) wrong: u64,
    /// Kept connections that ended with none under way: the client opens another.
    pub(crate) lost_idle: u64,
    /// Of all requests on kept connections, those that took more than a second.
    pub(crate) long_kept: u64,
    /// Requests on kept connections.
    pub(crate) kept: u64,
    /// Of all requests on connections of their own, those that took more than a second.
    pub(crate) long_new: u64,
    /// From planned to answered, seconds, of those answered that were planned after the fault.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
    /// From the fault to a new process, seconds.
    pub(crate) replaced_after: Option<f64>,
    /// From the fault to the last moment for which a request was planned that then failed or took longer
    /// than usual, seconds; `None`: things were still amiss at the end.
    pub(crate) served_after: Option<f64>,
}

impl Record {
    pub(super) fn of(arm: Arm, fault: Fault, times: &Times, whole: bool, ledger: &Ledger) -> Self {
        let attempts = &ledger.attempts;
        let count =
            |is: &dyn Fn(&Attempt) -> bool| attempts.iter().filter(|a| is(a)).count() as u64;
        let fate = |fate: Fate| count(&|attempt| attempt.fate == fate);
        let mut took: Vec<f64> = attempts
            .iter()
            .filter(|attempt| attempt.fate == Fate::Answered && attempt.planned >= times.struck)
            .map(|attempt| attempt.took.as_secs_f64())
            .collect();
        took.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let rank = (q * took.len() as f64).ceil() as usize;
            took.get(rank.saturating_sub(1)).copied()
        };
        // A request that was under way when the fault came was planned before it.
        let amiss = attempts
            .iter()
            .filter(|attempt| attempt.fate != Fate::Answered || attempt.took > USUAL)
            .map(|attempt| attempt.planned)
            .max();
        Self {
            arm: arm.to_string(),
            architecture: arm.architecture().to_owned(),
            fault,
            whole,
            requests: attempts.len() as u64,
            refused: fate(Fate::Refused),
            reset: fate(Fate::Reset),
            timed_out: fate(Fate::TimedOut),
            wrong: fate(Fate::Wrong),
            lost_idle: ledger.lost_idle,
            long_kept: count(&|attempt| attempt.kept && attempt.took > LONG),
            kept: count(&|attempt| attempt.kept),
            long_new: count(&|attempt| !attempt.kept && attempt.took > LONG),
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: took.last().copied(),
            replaced_after: times
                .replaced
                .map(|at| at.saturating_sub(times.struck).as_secs_f64()),
            served_after: match amiss {
                None => Some(0.0),
                Some(last) if last + LAST > times.ended => None,
                Some(last) => Some(last.saturating_sub(times.struck).as_secs_f64()),
            },
        }
    }

    /// Requests that were not answered as they should be.
    pub(crate) fn failed(&self) -> u64 {
        self.refused + self.reset + self.timed_out + self.wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(attempts: &[(bool, u64, u64, Fate)]) -> Ledger {
        let attempt = |&(kept, planned, took, fate)| Attempt {
            kept,
            planned: Duration::from_millis(planned),
            took: Duration::from_millis(took),
            fate,
        };
        Ledger {
            attempts: attempts.iter().map(attempt).collect(),
            lost_idle: 2,
        }
    }

    const TIMES: Times = Times {
        struck: Duration::from_millis(1000),
        replaced: Some(Duration::from_millis(1030)),
        ended: Duration::from_millis(4000),
    };

    #[test]
    fn what_clients_saw_is_counted_by_kind() {
        let ledger = ledger(&[
            (true, 500, 1, Fate::Answered),
            (true, 999, 5, Fate::Reset),
            (false, 1010, 1, Fate::Refused),
            (false, 1200, 1500, Fate::Answered),
            (true, 3000, 2, Fate::Answered),
        ]);
        let arm = "nginx".parse().expect("a good name");
        let record = Record::of(arm, Fault::Kill, &TIMES, false, &ledger);
        assert_eq!((record.requests, record.kept, record.failed()), (5, 3, 2));
        assert_eq!((record.refused, record.reset, record.lost_idle), (1, 1, 2));
        assert_eq!((record.long_kept, record.long_new), (0, 1));
        assert_eq!((record.p50, record.max), (Some(0.002), Some(1.5)));
        assert_eq!(record.replaced_after, Some(0.03));
        assert_eq!(record.served_after, Some(0.2));
    }

    #[test]
    fn service_that_does_not_come_back_is_not_called_back() {
        let arm = "envoy".parse().expect("a good name");
        let gone = ledger(&[
            (true, 500, 1, Fate::Answered),
            (true, 3900, 1, Fate::Refused),
        ]);
        let record = Record::of(arm, Fault::Kill, &TIMES, true, &gone);
        assert_eq!(record.served_after, None);
        assert_eq!(record.p99, None);
        let untouched = ledger(&[(true, 3900, 1, Fate::Answered)]);
        let record = Record::of(arm, Fault::Kill, &TIMES, true, &untouched);
        assert_eq!(record.served_after, Some(0.0));
    }
}
