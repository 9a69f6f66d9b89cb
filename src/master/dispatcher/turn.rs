//! The hot loop: accept, pick, hand over.
//!
//! One turn: settle what workers have claimed, accept until nobody waits (bounded), pick a worker
//! for each connection, send **one message per worker**. No acknowledgement ever comes: the claim
//! words say what has arrived, and are looked at each turn, and every millisecond while anything is
//! outstanding. With nothing to do the thread sleeps without a timeout.

use std::{
    collections::VecDeque,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::EventFd,
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::{
    Command, Recruit, Report, Rules,
    health::{Alert, LOOK_AT_ALL},
    lane::{Held, Lane},
    shade::Shade,
    share::Shares,
    watch::{BELL, Spot, TIMER, Watched, Which},
};
use crate::{
    conn::Conn,
    dispatch::{
        decision::{Decision, Decisions},
        mode::Mode,
        pins::REST,
        policy::{Candidate, Picker},
        shadow::Picks,
        wire::MAX_BATCH,
    },
    listener::Groups,
    scoreboard::{HandoffError, Scoreboard, count::add},
    sys::{
        clock::monotonic_ns,
        socket::{AcceptError, accept, classify, waiting},
    },
};

/// Connections accepted from one listener in one turn, so that settling and sending get theirs.
const TURN: usize = 4 * MAX_BATCH;
/// How soon the claim words are looked at again while anything is outstanding, nanoseconds.
const SETTLE: u64 = 1_000_000;
/// How often workers are looked at while connections are open and nothing else happens.
const QUIET_LOOK_MS: u16 = 1000;
/// How long accepting rests when descriptors or memory have run out.
const EXHAUSTED_REST_MS: u8 = 50;
const EXHAUSTED_REST: Duration = Duration::from_millis(EXHAUSTED_REST_MS as u64);
/// How often a connection may be in a batch that a worker cannot read, for want of descriptors, before
/// it is given up. Each time the worker is passed over for a while and its batches grow smaller, so this
/// is seconds. Workers that die with it unclaimed do not count: they never looked at it, so it is not
/// what killed them.
const MAX_UNREADABLE: u8 = 100;

pub(super) struct Dispatcher {
    pub(super) epoll: Epoll,
    timer: TimerFd,
    /// When the timer goes off, monotonic nanoseconds; `None`: it does not.
    timer_due: Option<u64>,
    inbox: mpsc::Receiver<Command>,
    bell: Arc<EventFd>,
    pub(super) reports: UnboundedSender<Report>,
    pub(super) groups: Groups,
    pub(super) board: Scoreboard,
    pub(super) rules: Rules,
    /// The pickers, and whom each may choose among.
    pub(super) shares: Shares,
    /// What other policies would do.
    shade: Shade,
    /// What was decided last.
    decisions: Decisions,
    /// In ascending order of seat, as policies want them.
    pub(super) lanes: Vec<Lane>,
    /// The lanes as the policy sees them, index by index; fresh at the start of a turn.
    candidates: Vec<Candidate>,
    /// Taken back from a worker, waiting for another.
    pub(super) orphans: VecDeque<Held>,
    /// What is in the epoll set.
    pub(super) watched: Watched,
    /// Counts changes of whatever decides what is to be in the epoll set.
    pub(super) version: u64,
    pub(super) alert: Alert,
    /// When workers were last looked at, monotonic nanoseconds.
    pub(super) looked_at: u64,
    /// Connections that this thread has accepted.
    pub(super) accepted: u64,
    /// Descriptors or memory have run out: nothing is accepted until then.
    pub(super) resting_until: Option<Instant>,
    /// Held in reserve for the day when none is left: closing it lets one connection in to be
    /// turned away, instead of spinning on a listener that stays readable.
    spare: Option<OwnedFd>,
    pub(super) freezing: Option<oneshot::Sender<Vec<Recruit>>>,
    stopping: Option<oneshot::Sender<()>>,
    abandoned: bool,
}

impl Dispatcher {
    pub(super) fn new(
        groups: Groups,
        board: Scoreboard,
        rules: Rules,
        inbox: mpsc::Receiver<Command>,
        bell: Arc<EventFd>,
        reports: UnboundedSender<Report>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        Ok(Self {
            epoll,
            timer,
            timer_due: None,
            inbox,
            bell,
            reports,
            groups,
            shares: Shares::new(&rules),
            shade: Shade::new(&rules, &board),
            decisions: Decisions::default(),
            board,
            rules,
            lanes: Vec::new(),
            candidates: Vec::new(),
            orphans: VecDeque::new(),
            watched: Watched::default(),
            version: 0,
            alert: Alert::default(),
            looked_at: 0,
            accepted: 0,
            resting_until: None,
            spare: spare(),
            freezing: None,
            stopping: None,
            abandoned: false,
        })
    }

    /// Turns until told to stop and done.
    ///
    /// # Errors
    /// The epoll set, the timer or a listener is broken: nothing can be done about it here.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        let mut now = monotonic_ns();
        loop {
            let timeout = self.set_timer(now)?;
            let n = match self.epoll.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            now = monotonic_ns();
            self.settle();
            self.look_if_due(now)?;
            self.refresh(now);
            self.place_orphans();
            for event in &events[..n] {
                match event.data() {
                    BELL => self.obey(now)?,
                    TIMER => {
                        self.timer.wait()?;
                        self.timer_due = None;
                    }
                    event => {
                        let spot = Spot::from_event(event);
                        if self.watched.observed.contains(&spot) {
                            self.somebody_came(spot, now);
                        } else {
                            self.accept_from(spot)?;
                        }
                    }
                }
            }
            if self.stopping.is_some() {
                self.accept_everywhere()?;
            }
            self.send(now);
            if self.is_finished() {
                return Ok(());
            }
            if self
                .resting_until
                .is_some_and(|until| Instant::now() >= until)
            {
                self.resting_until = None;
            }
            self.watch()?;
        }
    }

    /// Sees to it that the thread looks again in time if anything is owed. Returns how long it may
    /// sleep besides.
    ///
    /// A timer that is left running, rather than a timeout on every wait: arming a timer is one of
    /// the dearest things to ask of a virtual machine's kernel, and under load the next turn comes
    /// sooner anyway.
    fn set_timer(&mut self, now: u64) -> io::Result<EpollTimeout> {
        // Orphans alone owe nothing while nobody could take them: who can will ring.
        let owed = self.stopping.is_some()
            || self.lanes.iter().any(Lane::is_owed_a_look)
            || self.could_place();
        let after = match (owed.then_some(SETTLE), self.next_look()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if let Some(after) = after
            && self.timer_due.is_none_or(|due| now + after < due)
        {
            let spec = TimeSpec::from_duration(Duration::from_nanos(after));
            self.timer
                .set(Expiration::OneShot(spec), TimerSetTimeFlags::empty())?;
            self.timer_due = Some(now + after);
        }
        Ok(if self.resting_until.is_some() {
            EpollTimeout::from(EXHAUSTED_REST_MS)
        } else if self.timer_due.is_none() && self.anything_open() {
            // A worker that is stuck while nobody new comes is still to be noticed.
            EpollTimeout::from(QUIET_LOOK_MS)
        } else {
            EpollTimeout::NONE
        })
    }

    /// Looks at the workers if it is time to.
    fn look_if_due(&mut self, now: u64) -> io::Result<()> {
        let every = self.next_look().unwrap_or(LOOK_AT_ALL);
        // A timer that goes off a little early must not make it miss its look.
        if now.saturating_sub(self.looked_at) + 500_000 >= every {
            self.look(now)?;
        }
        Ok(())
    }

    /// Closes our copies of what workers have claimed.
    fn settle(&mut self) {
        for lane in &mut self.lanes {
            if let Some(back) = lane.settle() {
                count_error(&self.board, HandoffError::Malformed);
                self.shade.recount();
                self.orphans.extend(back);
            }
        }
    }

    /// Looks at every worker as the policy will see it this turn.
    pub(super) fn refresh(&mut self, now: u64) {
        // No policy but one needs to know loads, which are read from memory that workers write.
        let by_load = matches!(self.shares.pickers[REST], Picker::LeastLoaded(_));
        let signal = self.rules.signal;
        self.candidates.clear();
        for lane in &mut self.lanes {
            let ready = lane.has_room() && !lane.is_slow(now);
            self.candidates.push(Candidate {
                seat: lane.seat.number,
                ready,
                load: if by_load { lane.load(signal, now) } else { 0 },
            });
        }
        let lanes = &self.lanes;
        let has_room = |i: usize| lanes[i].has_room();
        self.shares
            .split(&self.rules, &mut self.candidates, has_room);
        self.shade
            .refresh(lanes, &self.shares.among, self.version, now);
    }

    /// Picks a worker for a connection that was with another, unless it was with too many.
    pub(super) fn place(&mut self, held: Held) -> Result<(), Held> {
        if held.unreadable > MAX_UNREADABLE {
            count_error(&self.board, HandoffError::GaveUp);
            return Ok(());
        }
        self.assign(held)
    }

    /// Picks a worker for a connection; gives it back if none is ready.
    #[inline]
    fn assign(&mut self, mut held: Held) -> Result<(), Held> {
        let peer = held.conn.peer.ip();
        let (group, share) = self.share_of(peer);
        held.group = group;
        let (first, among) = (share.start, &self.candidates[share]);
        let picker = &mut self.shares.pickers[group];
        let turn = picker.turn();
        let Some(chosen) = picker.pick(peer, among) else {
            return Err(held);
        };
        held.conn.shadows = self.shade.pick(group, held.conn.peer, among, chosen);
        let decision = Decision {
            at: held.conn.accepted_at,
            peer: held.conn.peer,
            listener: held.conn.listener,
            arm: self.rules.arm,
            prefixes: self.rules.prefixes,
            signal: self.rules.signal,
            again: held.taken_back,
            turn,
            chosen,
            shadows: held.conn.shadows,
            sorter: self.rules.sorter.clone(),
        };
        self.decisions.record(decision, among);
        let i = first + chosen;
        if held.taken_back {
            add(&self.board.dispatcher().redispatched, 1);
        }
        self.lanes[i].push(held);
        self.candidates[i].load += 1;
        self.candidates[i].ready = self.lanes[i].has_room();
        Ok(())
    }

    /// Is there somebody for a connection that comes now, or can it wait?
    fn may_accept(&self) -> bool {
        self.candidates.iter().any(|c| c.ready) && !self.is_crowded()
    }

    /// Accepts from one listener until nobody waits, no worker is ready, or the turn is long enough.
    pub(super) fn accept_from(&mut self, spot: Spot) -> io::Result<()> {
        let groups = self.groups.clone();
        let Some(listener) = spot.listener(&groups) else {
            return Ok(());
        };
        for _ in 0..(waiting(listener)? as usize).min(TURN) {
            if !self.may_accept() {
                break;
            }
            match accept(listener) {
                Ok((socket, peer)) => {
                    self.accepted += 1;
                    let conn = Conn {
                        socket,
                        peer,
                        listener: spot.group as u8,
                        arm: self.rules.arm,
                        shadows: Picks::NONE,
                        accepted_at: monotonic_ns(),
                    };
                    if let Err(held) = self.assign(Held::new(conn)) {
                        self.let_wait(held);
                    }
                }
                Err(error) => match classify(&error) {
                    AcceptError::Empty => break,
                    AcceptError::Connection => add(&self.board.dispatcher().accept_failed, 1),
                    AcceptError::Exhausted => {
                        self.turn_one_away(listener);
                        break;
                    }
                },
            }
        }
        // In hybrid mode the workers wait in the same queue: go to its end.
        let queues = self.rules.arm.mode() == Mode::Hybrid && spot.which == Which::Shared;
        if queues && self.watched.accepted_from.contains(&spot) {
            self.epoll.delete(listener)?;
            self.epoll.add(listener, self.registration(spot))?;
        }
        Ok(())
    }

    fn accept_everywhere(&mut self) -> io::Result<()> {
        let groups = self.groups.clone();
        for (group, members) in groups.iter().enumerate() {
            let Some(members) = members else { continue };
            let own = (0..members.seats()).map(Which::Own);
            for which in std::iter::once(Which::Shared).chain(own) {
                self.accept_from(Spot { group, which })?;
            }
        }
        Ok(())
    }

    /// No descriptor is left: lets one client know by a close rather than by silence, and rests.
    fn turn_one_away(&mut self, listener: BorrowedFd<'_>) {
        drop(self.spare.take());
        if accept(listener).is_ok() {
            add(&self.board.dispatcher().turned_away, 1);
        }
        self.spare = spare();
        self.resting_until = Some(Instant::now() + EXHAUSTED_REST);
    }

    /// One message to each worker for which something was picked.
    fn send(&mut self, now: u64) {
        for lane in &mut self.lanes {
            if let Err((why, back)) = lane.send(now) {
                count_error(&self.board, why);
                self.shade.recount();
                self.orphans.extend(back);
            }
        }
    }

    fn obey(&mut self, now: u64) -> io::Result<()> {
        let _ = self.bell.read();
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Join {
                    recruit,
                    instead_of,
                } => {
                    if let Some(row) = instead_of {
                        self.dismiss(row);
                    }
                    let place = self
                        .lanes
                        .partition_point(|lane| lane.seat.number <= recruit.seat.number);
                    let lane = Lane::new(recruit, self.rules.hang.after);
                    self.lanes.insert(place, lane);
                    self.version += 1;
                }
                Command::Leave { row, done } => {
                    self.let_go(row, now)?;
                    drop(done);
                }
                Command::Rules { rules, done } => {
                    self.go_by(rules);
                    let _ = done.send(());
                }
                Command::Groups { groups, done } => {
                    self.replace_groups(groups);
                    let _ = done.send(());
                }
                Command::Decisions { last, done } => {
                    let _ = done.send(self.decisions.last(last));
                }
                Command::Ping { done } => _ = done.send(()),
                Command::Freeze { done } => self.freezing = Some(done),
                Command::Thaw => self.freezing = None,
                Command::Stop { done } => self.stopping = Some(done),
                Command::Abandon => self.abandoned = true,
            }
        }
        self.refresh(now);
        self.place_orphans();
        Ok(())
    }

    pub(super) fn go_by(&mut self, rules: Rules) {
        let same_picks = (rules.arm, rules.prefixes) == (self.rules.arm, self.rules.prefixes);
        if !same_picks || rules.sorter != self.rules.sorter {
            self.shares = Shares::new(&rules);
        }
        for lane in &mut self.lanes {
            lane.vigil.judge_by(rules.hang.after);
        }
        self.shade.go_by(&rules, &self.board);
        self.rules = rules;
        self.calm();
        self.version += 1;
    }

    /// Listeners that are in both stay as they are.
    fn replace_groups(&mut self, groups: Groups) {
        // Out of the epoll set while they can still be named.
        for spot in self
            .watched
            .accepted_from
            .iter()
            .chain(&self.watched.observed)
        {
            if let Some(listener) = spot.listener(&self.groups) {
                let _ = self.epoll.delete(listener);
            }
        }
        self.watched = Watched::default();
        self.groups = groups;
        self.version += 1;
    }

    /// Takes a worker off the list. What it had not claimed waits for another.
    fn dismiss(&mut self, row: usize) {
        if let Some(i) = self.lanes.iter().position(|lane| lane.row.index() == row) {
            let mut lane = self.lanes.remove(i);
            self.orphans.extend(lane.take_back());
            self.version += 1;
        }
    }

    /// A worker is dead or drains: what it had not claimed goes to others, and so does what waits where
    /// only it, or a thread of it that was about to wake, would have accepted.
    fn let_go(&mut self, row: usize, now: u64) -> io::Result<()> {
        self.dismiss(row);
        self.refresh(now);
        self.place_orphans();
        if self.rules.arm.mode() == Mode::Shared && !self.rules.paused {
            self.take_over_shared()?;
        }
        Ok(())
    }

    /// Has everything been handed over that ever will be?
    fn is_finished(&mut self) -> bool {
        if self.freezing.is_none() && self.stopping.is_none() {
            return self.abandoned;
        }
        let settled = self.orphans.is_empty() && !self.lanes.iter().any(Lane::is_outstanding);
        if settled && let Some(done) = self.freezing.take() {
            let recruits = self.lanes.drain(..).map(Lane::into_recruit).collect();
            let Err(recruits) = done.send(recruits) else {
                return true;
            };
            // Nobody waits for it any more, and is about to say so.
            let hung_after = self.rules.hang.after;
            let lanes = recruits.into_iter().map(|r| Lane::new(r, hung_after));
            self.lanes.extend(lanes);
            self.version += 1;
        }
        let claimed = !self.lanes.iter().any(Lane::is_outstanding);
        self.abandoned
            || self.stopping.is_some()
                && (self.lanes.is_empty() || settled || claimed && self.waits_in_vain())
    }
}

fn count_error(board: &Scoreboard, why: HandoffError) {
    add(&board.dispatcher().errors[why as usize], 1);
}

fn spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
