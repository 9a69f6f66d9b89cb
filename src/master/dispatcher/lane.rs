//! A lane: the dispatcher's side of one worker. What was picked for it this turn, and what was sent
//! and not yet seen to be claimed, with the master's own copy of every descriptor.

use std::{
    collections::VecDeque,
    io,
    os::fd::AsFd,
    sync::atomic::Ordering::{Acquire, Release},
    time::{Duration, Instant},
};

use super::{
    Recruit,
    hang::{Verdict, Vigil},
};
use crate::{
    channel::Outlet,
    conn::Conn,
    dispatch::{
        load::{BusyShare, LoadSignal},
        pins,
        wire::MAX_BATCH,
    },
    scoreboard::{HandoffError, RowRef, claim, count::add},
    status::Seat,
};

/// How long a worker is passed over that is full or could not read a batch: for want of descriptors,
/// most likely, of which it will have some again when connections end.
const REST: Duration = Duration::from_millis(20);

/// A connection that is the master's until a worker has claimed it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) conn: Conn,
    /// It was sent to a worker that did not claim it.
    pub(super) taken_back: bool,
    /// How many workers could not read the batch that it was in.
    pub(super) unreadable: u8,
    /// When it was sent, monotonic nanoseconds.
    pub(super) sent_at: u64,
    /// The worker group that it is for, as far as that was looked up.
    pub(super) group: usize,
}

impl Held {
    /// A connection just accepted.
    pub(super) fn new(conn: Conn) -> Self {
        Self {
            conn,
            taken_back: false,
            unreadable: 0,
            sent_at: 0,
            group: pins::REST,
        }
    }
}

pub(super) struct Lane {
    pub(super) seat: Seat,
    pub(super) row: RowRef,
    outlet: Outlet,
    /// The number of the next connection to be sent.
    next: u32,
    /// Picked, not sent yet.
    batch: Vec<Held>,
    /// Sent and not seen to be claimed. The last one has number `next - 1`.
    sent: VecDeque<Held>,
    /// How many connections it may have unclaimed: less than [`MAX_BATCH`] after a batch that it could
    /// not read, and more again with each that it can.
    window: usize,
    /// The worker's end is gone; its death will be reported.
    broken: bool,
    /// The last message did not get through, or could not be read: others go first until then.
    rests_until: Option<Instant>,
    busy: BusyShare,
    /// Is it stuck?
    pub(super) vigil: Vigil,
    /// It was reported to have been stuck for too long.
    pub(super) overdue: bool,
    /// Since when connections wait in the worker's own listener and it takes none, monotonic
    /// nanoseconds, and how many it had taken then.
    pub(super) queued_since: Option<(u64, u64)>,
}

impl Lane {
    /// A worker that is stuck if it could have moved and has not for `hung_after`.
    pub(super) fn new(recruit: Recruit, hung_after: Duration) -> Self {
        let Recruit {
            seat,
            row,
            outlet,
            next,
        } = recruit;
        Self {
            seat,
            row,
            outlet,
            next,
            batch: Vec::with_capacity(MAX_BATCH),
            sent: VecDeque::with_capacity(MAX_BATCH),
            window: MAX_BATCH,
            broken: false,
            rests_until: None,
            busy: BusyShare::default(),
            vigil: Vigil::new(hung_after),
            overdue: false,
            queued_since: None,
        }
    }

    /// Gives back the line to the worker. Nothing may be outstanding.
    pub(super) fn into_recruit(self) -> Recruit {
        Recruit {
            seat: self.seat,
            row: self.row,
            outlet: self.outlet,
            next: self.next,
        }
    }

    /// Is the worker stuck?
    #[inline]
    pub(super) fn is_hung(&self) -> bool {
        matches!(self.vigil.verdict(), Verdict::Hung(_))
    }

    /// Since when the oldest connection that was sent has not been claimed, monotonic nanoseconds.
    #[inline]
    pub(super) fn unclaimed_since(&self) -> Option<u64> {
        self.sent.front().map(|held| held.sent_at)
    }

    /// Does it take its time? Then others go first, if there are any.
    #[inline]
    pub(super) fn is_slow(&self, now: u64) -> bool {
        self.vigil.verdict() != Verdict::Well
            || self
                .unclaimed_since()
                .is_some_and(|since| now.saturating_sub(since) > self.vigil.patience())
    }

    /// May one more connection be picked for it?
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        !self.broken
            && !self.is_hung()
            && self.rests_until.is_none()
            && self.batch.len() + self.sent.len() < self.window
    }

    /// Is anything sent that nobody is known to have claimed?
    #[inline]
    pub(super) fn is_outstanding(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Must it be looked at again soon, even if nothing happens?
    #[inline]
    pub(super) fn is_owed_a_look(&self) -> bool {
        self.is_outstanding() || self.rests_until.is_some()
    }

    /// Picks a connection for this worker. Counted as its load from now on, before it is sent, so
    /// that a burst cannot herd.
    #[inline]
    pub(super) fn push(&mut self, held: Held) {
        add(&self.row.dispatched.assigned, 1);
        self.row.shadow.assign(held.conn.shadows);
        self.busy.picked();
        self.batch.push(held);
    }

    /// Sends what was picked in one message. If that fails, says why and gives the connections
    /// back: they are the caller's to pick another worker for. `now` is monotonic nanoseconds.
    pub(super) fn send(&mut self, now: u64) -> Result<(), (HandoffError, Vec<Held>)> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let end = self.next.wrapping_add(self.batch.len() as u32);
        // Announced before it is sent, so that a worker that has claimed this number knows that
        // there is no more.
        self.row
            .dispatched
            .sent
            .store(u64::from(end.wrapping_sub(1)), Release);
        let batch = self
            .batch
            .iter()
            .map(|held| (held.conn.entry(), held.conn.socket.as_fd()));
        match self.outlet.send(self.next, batch) {
            Ok(()) => {
                self.next = end;
                self.sent.extend(self.batch.drain(..).map(|held| Held {
                    sent_at: now,
                    ..held
                }));
                add(&self.row.dispatched.batches, 1);
                Ok(())
            }
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::WouldBlock => HandoffError::ChannelFull,
                    io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::NotConnected
                    | io::ErrorKind::ConnectionRefused => HandoffError::ChannelBroken,
                    // ETOOMANYREFS, ENOBUFS, ENOMEM.
                    _ => HandoffError::KernelRefused,
                };
                self.broken = why == HandoffError::ChannelBroken;
                self.rests_until = Some(Instant::now() + REST);
                let back = std::mem::replace(&mut self.batch, Vec::with_capacity(MAX_BATCH));
                self.count_back(&back);
                Err((why, back))
            }
        }
    }

    /// Lets go of what the worker has claimed: closes the master's copies. If the worker says that
    /// a batch reached it broken, all that is unclaimed is returned instead, revoked.
    #[inline]
    pub(super) fn settle(&mut self) -> Option<Vec<Held>> {
        if self
            .rests_until
            .is_some_and(|until| Instant::now() >= until)
        {
            self.rests_until = None;
        }
        if self.row.work.broken.load(Acquire) == 1 {
            self.rests_until = Some(Instant::now() + REST);
            self.window = (self.window / 2).max(1);
            let mut back = self.take_back();
            back.iter_mut().for_each(|held| held.unreadable += 1);
            // In this order: what the worker receives after it sees this was sent after the
            // revocation, or is refused by it.
            self.row.work.broken.store(0, Release);
            return Some(back);
        }
        self.release(claim::claimed(&self.row.claim.word));
        None
    }

    /// Revokes everything that is not claimed; it is the caller's again.
    pub(super) fn take_back(&mut self) -> Vec<Held> {
        let claimed = claim::revoke(&self.row.claim.word, self.next.wrapping_sub(1));
        self.release(claimed);
        let mut back: Vec<Held> = self.sent.drain(..).collect();
        back.iter_mut().for_each(|held| held.taken_back = true);
        back.append(&mut self.batch);
        self.count_back(&back);
        back
    }

    /// These are the worker's no more.
    fn count_back(&self, back: &[Held]) {
        add(&self.row.dispatched.revoked, back.len() as u64);
        for held in back {
            self.row.shadow.take_back(held.conn.shadows);
        }
    }

    /// Closes our copies of everything up to number `claimed`.
    fn release(&mut self, claimed: u32) {
        let first = self.next.wrapping_sub(self.sent.len() as u32);
        let done = (0..self.sent.len() as u32)
            .take_while(|i| claim::is_claimed(claimed, first.wrapping_add(*i)))
            .count();
        self.sent.drain(..done);
        self.window = (self.window + done).min(MAX_BATCH);
    }

    /// The worker's load by a signal, at `now` (monotonic nanoseconds).
    #[inline]
    pub(super) fn load(&mut self, signal: LoadSignal, now: u64) -> u32 {
        match signal {
            LoadSignal::Connections => self.row.load(),
            LoadSignal::Requests => self.row.request_load(),
            LoadSignal::Busy => self.busy.load(now, self.row.busy(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::OwnedFd, sync::atomic::Ordering::Relaxed};

    use super::*;
    use crate::{
        channel::handover_line,
        dispatch::{mode::Arm, shadow::Picks},
        scoreboard::{Scoreboard, claim::claim},
        sys::fdpass,
    };

    struct Fixture {
        lane: Lane,
        /// The worker's end.
        line: Option<OwnedFd>,
        listener: TcpListener,
    }

    impl Fixture {
        fn new() -> Self {
            let board = Scoreboard::create().expect("scoreboard");
            let (outlet, line) = handover_line().expect("line");
            let recruit = Recruit {
                seat: Seat {
                    number: 0,
                    place: 0,
                },
                row: board.occupy(0, 1).expect("row"),
                outlet,
                next: 1,
            };
            let lane = Lane::new(recruit, Duration::from_millis(50));
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            Self {
                lane,
                line: Some(line),
                listener,
            }
        }

        fn push(&mut self, n: usize) {
            for _ in 0..n {
                let socket = OwnedFd::from(self.listener.try_clone().expect("dup"));
                let peer = self.listener.local_addr().expect("address");
                let conn = Conn {
                    socket,
                    peer,
                    listener: 0,
                    arm: Arm::ALL[0],
                    shadows: Picks::NONE,
                    accepted_at: 0,
                };
                self.lane.push(Held::new(conn));
            }
        }

        fn received(&self) -> usize {
            let (mut bytes, mut fds) = ([0; crate::dispatch::wire::MAX_BYTES], Vec::new());
            let line = self.line.as_ref().expect("open").as_fd();
            while fdpass::receive(line, &mut bytes, &mut fds).is_ok_and(|r| r.bytes > 0) {}
            fds.len()
        }
    }

    #[test]
    fn the_window_is_full_until_the_worker_claims() {
        let mut f = Fixture::new();
        f.push(MAX_BATCH);
        assert!(!f.lane.has_room());
        f.lane.send(0).expect("sent");
        assert!(f.lane.settle().is_none());
        assert!(!f.lane.has_room() && f.lane.is_outstanding());
        assert_eq!(f.received(), MAX_BATCH);
        assert_eq!(claim(&f.lane.row.claim.word, 1, 10), 0);
        assert!(f.lane.settle().is_none());
        assert_eq!(f.lane.sent.len(), MAX_BATCH - 10);
        assert!(f.lane.has_room());
        assert_eq!(f.lane.row.load(), MAX_BATCH as u32);
    }

    #[test]
    fn what_a_dead_worker_had_not_claimed_comes_back() {
        let mut f = Fixture::new();
        f.push(3);
        f.lane.send(0).expect("sent");
        assert_eq!(claim(&f.lane.row.claim.word, 1, 3), 0);
        f.push(2);
        f.lane.send(0).expect("sent");
        f.push(1);
        assert_eq!(f.lane.take_back().len(), 3, "two sent, one only picked");
        assert!(!f.lane.is_outstanding());
        assert_eq!(
            f.lane.row.load(),
            3,
            "the claimed ones are still the worker's"
        );
        assert_eq!(claim(&f.lane.row.claim.word, 4, 2), 2, "too late");
    }

    #[test]
    fn a_worker_that_could_not_read_a_batch_gets_everything_taken_back() {
        let mut f = Fixture::new();
        f.push(2);
        f.lane.send(0).expect("sent");
        f.lane.row.work.broken.store(1, Relaxed);
        assert_eq!(f.lane.settle().expect("taken back").len(), 2);
        assert_eq!(f.lane.window, MAX_BATCH / 2);
        assert_eq!(f.lane.row.work.broken.load(Relaxed), 0);
        assert_eq!(claim(&f.lane.row.claim.word, 1, 2), 2, "refused");
    }

    #[test]
    fn a_channel_whose_other_end_is_gone_gives_the_batch_back_and_takes_no_more() {
        let mut f = Fixture::new();
        f.line = None;
        f.push(2);
        let (why, back) = f.lane.send(0).expect_err("broken");
        assert_eq!((why, back.len()), (HandoffError::ChannelBroken, 2));
        assert!(!f.lane.has_room());
        assert_eq!(f.lane.row.load(), 0);
    }

    #[test]
    fn a_full_channel_gives_the_batch_back_and_stays_usable() {
        let mut f = Fixture::new();
        // Claimed at once on the scoreboard, but never read from the line: the line fills up.
        let mut first = 1;
        let full = loop {
            f.push(MAX_BATCH);
            match f.lane.send(0) {
                Ok(()) => assert_eq!(claim(&f.lane.row.claim.word, first, MAX_BATCH as u32), 0),
                Err(full) => break full,
            }
            first += MAX_BATCH as u32;
            assert!(f.lane.settle().is_none());
        };
        assert_eq!(
            (full.0, full.1.len()),
            (HandoffError::ChannelFull, MAX_BATCH)
        );
        assert!(f.received() > 0);
        assert!(!f.lane.has_room(), "it is passed over for a while");
        f.push(1);
        f.lane.send(0).expect("room again");
    }
}
