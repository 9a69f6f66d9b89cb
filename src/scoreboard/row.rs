//! What is counted, and where: the rows of the scoreboard.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{count::add, histogram::Histogram, shadow::ShadowColumns};
use crate::{dispatch::mode::Arm, sys::shm::shared_struct};

/// Status classes that responses are counted by.
pub const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "aborted"];
/// The class of a request whose client was gone before it had a response.
pub const ABORTED: usize = 5;

/// The class of a status code.
pub fn class(status: u16) -> usize {
    usize::from(status / 100).clamp(1, 5) - 1
}

/// The most listeners.
pub const MAX_LISTENERS: usize = 16;
/// The most upstream endpoints that have counters of their own.
pub const MAX_ENDPOINTS: usize = 64;

shared_struct! {
    /// What the dispatcher counts that belongs to no one worker.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Dispatcher {
        /// Connections that went to a second worker because the first did not claim them.
        pub redispatched: AtomicU64,
        /// Hand-overs that failed, by [`HANDOFF_ERRORS`].
        pub errors: [AtomicU64; HANDOFF_ERRORS.len()],
        /// Connections closed because no descriptor was left for them.
        pub turned_away: AtomicU64,
        /// Accepts that failed by the connection's own fault.
        pub accept_failed: AtomicU64,
        /// 1 while shadow policies are asked about every connection.
        pub shadows: AtomicU64,
        /// Connections closed because too many waited already for a worker of their group.
        pub crowded_out: AtomicU64,
    }
}

/// Why a hand-over failed.
pub const HANDOFF_ERRORS: [&str; 5] = [
    "channel_full",
    "channel_broken",
    "kernel_refused",
    "malformed",
    "gave_up",
];

/// An index into [`HANDOFF_ERRORS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandoffError {
    /// The channel had no room.
    ChannelFull = 0,
    /// The worker's end was gone.
    ChannelBroken = 1,
    /// The kernel would not take more descriptors in flight, or had no memory.
    KernelRefused = 2,
    /// The worker could not read the batch: truncated, or not as announced.
    Malformed = 3,
    /// Several workers could not read the batch that it was in; it was closed.
    GaveUp = 4,
}

shared_struct! {
    /// What one worker process counts.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Row {
        /// Written by the master at birth and death.
        pub birth: Birth,
        /// Written by both, see [`claim`](super::claim).
        pub claim: ClaimLine,
        /// Written by the dispatcher.
        pub dispatched: Dispatched,
        /// Written by the worker's threads.
        pub work: Work,
        /// Written by the dispatcher and by the worker, each its part.
        pub shadow: ShadowColumns,
        /// Accept to claim.
        pub handoff_duration: Histogram,
        /// By upstream endpoint.
        pub endpoints: [Endpoint; MAX_ENDPOINTS],
        /// By listener and arm.
        pub traffic: [[Traffic; Arm::ALL.len()]; MAX_LISTENERS],
    }
}

shared_struct! {
    /// Who is in the row.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Birth {
        /// Process id; 0: the row is free.
        pub pid: AtomicU64,
        /// The seat it holds.
        pub seat: AtomicU64,
        /// Counts births in the seat.
        pub generation: AtomicU64,
        /// A [`State`].
        pub state: AtomicU64,
        /// While draining: when it will be killed, monotonic nanoseconds.
        pub drain_until: AtomicU64,
    }
}

shared_struct! {
    /// The claim word, alone on its cache lines.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct ClaimLine {
        /// See [`claim`](super::claim).
        pub word: AtomicU64,
    }
}

shared_struct! {
    /// What the dispatcher counts for a worker.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Dispatched {
        /// Connections handed over, counted before they are sent.
        pub assigned: AtomicU64,
        /// Of those, taken back.
        pub revoked: AtomicU64,
        /// The number of the last connection sent; written before the message is, so that a worker
        /// that has claimed this number knows that its channel is empty.
        pub sent: AtomicU64,
        /// Batches sent.
        pub batches: AtomicU64,
        /// How often the worker was found stuck.
        pub hung: AtomicU64,
    }
}

shared_struct! {
    /// What a worker counts.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Work {
        /// When its loop was last entered, monotonic nanoseconds: the time that all work of this
        /// turn may use as "now".
        pub loop_entered: AtomicU64,
        /// 1 while its loop waits for something to do.
        pub parked: AtomicU64,
        /// The thread that runs its loop; 0: it is not running yet.
        pub loop_thread: AtomicU64,
        /// When its loop last stopped waiting, monotonic nanoseconds.
        pub unparked_at: AtomicU64,
        /// For how long its loop did not wait, up to the last time that it began to, nanoseconds.
        pub busy_ns: AtomicU64,
        /// Connections claimed from the master.
        pub claimed: AtomicU64,
        /// Connections that it accepted itself.
        pub self_accepted: AtomicU64,
        /// Connections closed.
        pub closed: AtomicU64,
        /// Connections that it is claiming at this moment: owned, perhaps, and not counted yet.
        pub claiming: AtomicU64,
        /// The same for the one that it is accepting itself.
        pub accepting: AtomicU64,
        /// Requests begun and not ended.
        pub in_flight: AtomicU64,
        /// Connections that came handed over but revoked, closed unread.
        pub refused: AtomicU64,
        /// Messages on the channel that were no batch.
        pub malformed: AtomicU64,
        /// 1 from such a message on until the master has revoked all that is unclaimed: until then
        /// nothing may be claimed, or the lost batch would count as claimed with the next one.
        /// Raised by the worker, lowered by the dispatcher.
        pub broken: AtomicU64,
        /// Accepts that failed for want of descriptors or memory.
        pub accept_exhausted: AtomicU64,
        /// Connections that a timeout closed.
        pub timed_out: AtomicU64,
    }
}

shared_struct! {
    /// What happened on one listener while one arm was in force.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Traffic {
        /// Connections that began.
        pub connections: AtomicU64,
        /// Connections that ended.
        pub closed: AtomicU64,
        /// Requests answered, by [`CLASSES`].
        pub requests: [AtomicU64; CLASSES.len()],
        /// Bytes from clients.
        pub received: AtomicU64,
        /// Bytes to clients.
        pub sent: AtomicU64,
        /// Requests that failed by the upstream's fault.
        pub upstream_failures: AtomicU64,
        /// From the request's head read to its response gone to the socket.
        pub request_duration: Histogram,
    }
}

shared_struct! {
    /// What one worker did with one upstream endpoint.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Endpoint {
        /// Responses, by [`CLASSES`]; `aborted`: none came.
        pub requests: [AtomicU64; CLASSES.len()],
        /// Connections opened.
        pub opened: AtomicU64,
        /// Connections closed.
        pub closed: AtomicU64,
        /// Requests that went over a connection that had served before.
        pub reused: AtomicU64,
        /// Connections refused, timed out or broken.
        pub failures: AtomicU64,
    }
}

/// How far a worker process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// No process.
    Free = 0,
    /// Born, not ready yet.
    Starting = 1,
    /// Takes connections.
    Ready = 2,
    /// Takes nothing new, finishes what is open.
    Draining = 3,
    /// Is stuck, and gets nothing until it moves.
    Hung = 4,
}

impl State {
    /// Its name in `/workers`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Hung => "hung",
        }
    }
}

impl Row {
    /// How far the process is.
    pub fn state(&self) -> State {
        match self.birth.state.load(Relaxed) {
            1 => State::Starting,
            2 => State::Ready,
            3 => State::Draining,
            4 => State::Hung,
            _ => State::Free,
        }
    }

    /// Only the master sets this.
    pub fn set_state(&self, state: State) {
        self.birth.state.store(state as u64, Relaxed);
    }

    /// Connections that the worker has or is about to get: assigned or self-accepted, minus taken
    /// back, minus closed.
    #[inline]
    pub fn load(&self) -> u32 {
        let opened = self.dispatched.assigned.load(Relaxed) + self.work.self_accepted.load(Relaxed);
        let ended = self.dispatched.revoked.load(Relaxed) + self.work.closed.load(Relaxed);
        // The numbers are read one after the other while they move: never below zero.
        opened.saturating_sub(ended).min(u64::from(u32::MAX)) as u32
    }

    /// Requests in flight, and connections on their way that may bring more.
    pub fn request_load(&self) -> u32 {
        let handed = self.dispatched.assigned.load(Relaxed);
        let arrived = self.dispatched.revoked.load(Relaxed) + self.work.claimed.load(Relaxed);
        let load = self.work.in_flight.load(Relaxed) + handed.saturating_sub(arrived);
        load.min(u64::from(u32::MAX)) as u32
    }

    /// For how long the worker's loop has been busy in all, up to `now`; nanoseconds.
    pub fn busy(&self, now: u64) -> u64 {
        let before = self.work.busy_ns.load(Relaxed);
        match self.work.parked.load(Relaxed) {
            0 => before + now.saturating_sub(self.work.unparked_at.load(Relaxed)),
            _ => before,
        }
    }

    /// Connections that the worker owns now: what dies with it.
    pub fn open(&self) -> u64 {
        let owned = self.work.claimed.load(Relaxed) + self.work.self_accepted.load(Relaxed);
        owned.saturating_sub(self.work.closed.load(Relaxed))
    }

    /// The counters of a listener under an arm.
    #[inline]
    pub fn traffic(&self, listener: u8, arm: Arm) -> &Traffic {
        &self.traffic[usize::from(listener) % MAX_LISTENERS][arm.index()]
    }

    /// The most connections that can have died with the process: those that it owned, and those
    /// that it was just taking.
    pub fn lost(&self) -> u64 {
        self.open() + self.work.claiming.load(Relaxed) + self.work.accepting.load(Relaxed)
    }

    /// Adds all monotonic counters of `other`: what a dead process counted goes into its seat's
    /// retired row, so that no counter ever goes down.
    pub(super) fn fold(&self, other: &Self) {
        let from = |mine: &AtomicU64, theirs: &AtomicU64| add(mine, theirs.load(Relaxed));
        let all = |mine: &[AtomicU64], theirs: &[AtomicU64]| {
            mine.iter().zip(theirs).for_each(|(m, t)| from(m, t));
        };
        from(&self.dispatched.assigned, &other.dispatched.assigned);
        from(&self.dispatched.revoked, &other.dispatched.revoked);
        from(&self.dispatched.batches, &other.dispatched.batches);
        from(&self.dispatched.hung, &other.dispatched.hung);
        from(&self.work.claimed, &other.work.claimed);
        from(&self.work.self_accepted, &other.work.self_accepted);
        from(&self.work.closed, &other.work.closed);
        from(&self.work.refused, &other.work.refused);
        from(&self.work.malformed, &other.work.malformed);
        from(&self.work.accept_exhausted, &other.work.accept_exhausted);
        from(&self.work.timed_out, &other.work.timed_out);
        self.handoff_duration.fold(&other.handoff_duration);
        for (mine, theirs) in self.endpoints.iter().zip(&other.endpoints) {
            if theirs.opened.load(Relaxed) + theirs.failures.load(Relaxed) > 0 {
                all(&mine.requests, &theirs.requests);
                from(&mine.opened, &theirs.opened);
                // With the process its connections are closed, counted or not.
                add(&mine.closed, theirs.opened.load(Relaxed));
                from(&mine.reused, &theirs.reused);
                from(&mine.failures, &theirs.failures);
            }
        }
        for (mine, theirs) in self
            .traffic
            .iter()
            .flatten()
            .zip(other.traffic.iter().flatten())
        {
            if theirs.connections.load(Relaxed) > 0 {
                from(&mine.connections, &theirs.connections);
                add(&mine.closed, theirs.connections.load(Relaxed));
                all(&mine.requests, &theirs.requests);
                from(&mine.received, &theirs.received);
                from(&mine.sent, &theirs.sent);
                from(&mine.upstream_failures, &theirs.upstream_failures);
                mine.request_duration.fold(&theirs.request_duration);
            }
        }
    }

    /// Back to zero, for the next process.
    pub(super) fn clear(&self) {
        let zero = |numbers: &[&AtomicU64]| numbers.iter().for_each(|n| n.store(0, Relaxed));
        let (b, d, w) = (&self.birth, &self.dispatched, &self.work);
        zero(&[
            &b.seat,
            &b.generation,
            &b.state,
            &b.drain_until,
            &self.claim.word,
        ]);
        if d.assigned.load(Relaxed) > 0 {
            self.shadow.clear();
        }
        zero(&[&d.assigned, &d.revoked, &d.sent, &d.batches, &d.hung]);
        zero(&[
            &w.loop_entered,
            &w.loop_thread,
            &w.unparked_at,
            &w.busy_ns,
            &w.parked,
            &w.claimed,
            &w.self_accepted,
            &w.closed,
        ]);
        zero(&[
            &w.broken,
            &w.claiming,
            &w.accepting,
            &w.in_flight,
            &w.refused,
            &w.malformed,
            &w.accept_exhausted,
            &w.timed_out,
        ]);
        self.handoff_duration.clear();
        for e in &self.endpoints {
            if e.opened.load(Relaxed) + e.failures.load(Relaxed) > 0 {
                e.requests.iter().for_each(|n| n.store(0, Relaxed));
                zero(&[&e.opened, &e.closed, &e.reused, &e.failures]);
            }
        }
        for t in self.traffic.iter().flatten() {
            if t.connections.load(Relaxed) > 0 {
                t.requests.iter().for_each(|n| n.store(0, Relaxed));
                zero(&[
                    &t.connections,
                    &t.closed,
                    &t.received,
                    &t.sent,
                    &t.upstream_failures,
                ]);
                t.request_duration.clear();
            }
        }
        zero(&[&b.pid]);
    }
}
