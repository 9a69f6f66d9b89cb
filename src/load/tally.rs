//! What came of the requests, while it is measured.

use std::time::Duration;

use super::Outcome;

/// A request on its way. Moments are of the monotonic clock, nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ask {
    /// When it was due. In closed load that is when it was sent.
    pub(super) planned: u64,
    /// When its client began with it.
    pub(super) sent: u64,
    /// Is it one that takes the upstream long?
    pub(super) slow: bool,
}

/// What can go wrong with a request; each has its number in [`Errors`](super::Errors).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Connect,
    Closed,
    Timeout,
    Status,
    Malformed,
}

/// Counts. What comes in before measuring begins is counted too, and forgotten when it does.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// When measuring began.
    begun: u64,
    outcome: Outcome,
}

impl Tally {
    /// From now on it is measured.
    pub(super) fn begin(&mut self, now: u64) {
        *self = Self {
            begun: now,
            outcome: Outcome::default(),
        };
    }

    /// A connection has come about.
    pub(super) fn opened(&mut self) {
        self.outcome.connections += 1;
    }

    /// A request is sent `lag` nanoseconds after it could have been.
    pub(super) fn late(&mut self, lag: u64) {
        self.outcome.lag.record(Duration::from_nanos(lag));
    }

    /// An answer as it should be.
    #[inline]
    pub(super) fn right(&mut self, ask: Ask, now: u64) {
        let service = Duration::from_nanos(now.saturating_sub(ask.sent));
        self.outcome.requests += 1;
        self.outcome.service.record(service);
        self.waited(ask, now);
    }

    /// Something else.
    pub(super) fn wrong(&mut self, fault: Fault, ask: Ask, now: u64) {
        let errors = &mut self.outcome.errors;
        let count = match fault {
            Fault::Connect => &mut errors.connect,
            Fault::Closed => &mut errors.closed,
            Fault::Timeout => &mut errors.timeout,
            Fault::Status => &mut errors.status,
            Fault::Malformed => &mut errors.malformed,
        };
        *count += 1;
        if fault == Fault::Timeout {
            self.waited(ask, now);
        }
    }

    /// The end has come before an answer.
    pub(super) fn unanswered(&mut self, planned: u64, now: u64) {
        if planned >= self.begun {
            self.outcome.unanswered += 1;
            let waited = Duration::from_nanos(now.saturating_sub(planned));
            self.outcome.latency.record(waited);
        }
    }

    /// What came of it all.
    pub(super) fn end(self, now: u64) -> Outcome {
        let measured = Duration::from_nanos(now.saturating_sub(self.begun));
        Outcome {
            seconds: measured.as_secs_f64(),
            ..self.outcome
        }
    }

    /// In closed load a request that was under way when measuring began counts too: at any moment as
    /// many are under way. In open load it would bring along a queue that had built up before.
    #[inline]
    fn waited(&mut self, ask: Ask, now: u64) {
        if ask.planned == ask.sent || ask.planned >= self.begun {
            let waited = Duration::from_nanos(now.saturating_sub(ask.planned));
            self.outcome.latency.record(waited);
        }
    }
}
