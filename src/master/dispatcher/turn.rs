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
use tokio::sync::oneshot;

use super::{Command, Rules};
use crate::{
    conn::Conn,
    dispatch::{
        load::LoadSignal,
        mode::{Arm, Mode},
        policy::{Candidate, Picker},
        wire::MAX_BATCH,
    },
    listener::ListenerGroup,
    master::lane::{Held, Lane},
    scoreboard::{HandoffError, Scoreboard, count::add},
    sys::{
        clock::monotonic_ns,
        socket::{AcceptError, accept, classify, waiting},
    },
};

/// Connections accepted from one listener in one turn, so that settling and sending get theirs.
const TURN: usize = 4 * MAX_BATCH;
/// How soon the claim words are looked at again while anything is outstanding.
const SETTLE: TimeSpec = TimeSpec::new(0, 1_000_000);
/// How long accepting rests when descriptors or memory have run out.
const EXHAUSTED_REST_MS: u8 = 50;
const EXHAUSTED_REST: Duration = Duration::from_millis(EXHAUSTED_REST_MS as u64);
/// How often a connection may be in a batch that a worker cannot read, for want of descriptors, before
/// it is given up. Each time the worker is passed over for a while and its batches grow smaller, so this
/// is seconds. Workers that die with it unclaimed do not count: they never looked at it, so it is not
/// what killed them.
const MAX_UNREADABLE: u8 = 100;

/// The event that is no listener: a command has come.
const BELL: u64 = u64::MAX;
/// The event that is no listener: it is time to look at the claim words.
const TIMER: u64 = u64::MAX - 1;

/// One listener of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spot {
    group: usize,
    /// The place of the seat that owns it; `None`: the shared listener.
    place: Option<usize>,
}

impl Spot {
    fn event(self) -> u64 {
        (self.group as u64) << 32 | self.place.map_or(0, |p| p as u64 + 1)
    }

    fn from_event(event: u64) -> Self {
        let place = (event as u32).checked_sub(1).map(|p| p as usize);
        Self {
            group: (event >> 32) as usize,
            place,
        }
    }

    fn listener(self, groups: &[ListenerGroup]) -> Option<BorrowedFd<'_>> {
        let group = groups.get(self.group)?;
        self.place
            .map_or(Some(group.shared()), |place| group.own(place))
    }
}

pub(super) struct Dispatcher {
    epoll: Epoll,
    timer: TimerFd,
    timer_set: bool,
    inbox: mpsc::Receiver<Command>,
    bell: Arc<EventFd>,
    groups: Arc<[ListenerGroup]>,
    board: Scoreboard,
    arm: Arm,
    picker: Picker,
    signal: LoadSignal,
    /// In ascending order of seat, as policies want them.
    lanes: Vec<Lane>,
    /// The lanes as the policy sees them, index by index; fresh at the start of a turn.
    candidates: Vec<Candidate>,
    /// Taken back from a worker, waiting for another.
    orphans: VecDeque<Held>,
    /// The listeners in the epoll set.
    watched: Vec<Spot>,
    /// What they were chosen for: was anybody ready, and which roster?
    watched_for: (bool, u64),
    /// Counts changes of `lanes`.
    roster: u64,
    /// Descriptors or memory have run out: nothing is accepted until then.
    resting_until: Option<Instant>,
    /// Held in reserve for the day when none is left: closing it lets one connection in to be
    /// turned away, instead of spinning on a listener that stays readable.
    spare: Option<OwnedFd>,
    stopping: Option<oneshot::Sender<()>>,
    abandoned: bool,
}

impl Dispatcher {
    pub(super) fn new(
        groups: Arc<[ListenerGroup]>,
        board: Scoreboard,
        rules: Rules,
        inbox: mpsc::Receiver<Command>,
        bell: Arc<EventFd>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        Ok(Self {
            epoll,
            timer,
            timer_set: false,
            inbox,
            bell,
            groups,
            board,
            arm: rules.arm,
            picker: Picker::new(rules.arm.policy().unwrap_or_default(), rules.prefixes),
            signal: rules.signal,
            lanes: Vec::new(),
            candidates: Vec::new(),
            orphans: VecDeque::new(),
            watched: Vec::new(),
            watched_for: (false, 0),
            roster: 0,
            resting_until: None,
            spare: spare(),
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
        loop {
            self.set_timer()?;
            let timeout = match self.resting_until {
                Some(_) => EpollTimeout::from(EXHAUSTED_REST_MS),
                None => EpollTimeout::NONE,
            };
            let n = match self.epoll.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            self.settle();
            self.refresh();
            self.place_orphans();
            for event in &events[..n] {
                match event.data() {
                    BELL => self.obey(),
                    TIMER => {
                        self.timer.wait()?;
                        self.timer_set = false;
                    }
                    event => self.accept_from(Spot::from_event(event))?,
                }
            }
            if self.stopping.is_some() {
                self.accept_everywhere()?;
            }
            self.send();
            if self.is_finished() {
                return Ok(());
            }
            self.watch()?;
        }
    }

    /// Sees to it that the thread looks again soon if anything is owed.
    ///
    /// A timer that is left running, rather than a timeout on every wait: arming a timer is one of
    /// the dearest things to ask of a virtual machine's kernel, and under load the next turn comes
    /// sooner anyway.
    fn set_timer(&mut self) -> io::Result<()> {
        // Orphans alone owe nothing while nobody could take them: who can will ring.
        let owed = self.stopping.is_some()
            || self.lanes.iter().any(Lane::is_owed_a_look)
            || !self.orphans.is_empty() && self.lanes.iter().any(Lane::has_room);
        if owed && !self.timer_set {
            self.timer
                .set(Expiration::OneShot(SETTLE), TimerSetTimeFlags::empty())?;
            self.timer_set = true;
        }
        Ok(())
    }

    /// Closes our copies of what workers have claimed.
    fn settle(&mut self) {
        for lane in &mut self.lanes {
            if let Some(back) = lane.settle() {
                count_error(&self.board, HandoffError::Malformed);
                self.orphans.extend(back);
            }
        }
    }

    /// Looks at every worker as the policy will see it this turn.
    fn refresh(&mut self) {
        // No policy but one needs to know loads, which are read from memory that workers write; and
        // only one signal needs to know the time.
        let by_load = matches!(self.picker, Picker::LeastLoaded(_));
        let now = match self.signal {
            LoadSignal::Busy => monotonic_ns(),
            _ => 0,
        };
        self.candidates.clear();
        self.candidates
            .extend(self.lanes.iter_mut().map(|lane| Candidate {
                seat: lane.seat.number,
                ready: lane.has_room(),
                load: if by_load {
                    lane.load(self.signal, now)
                } else {
                    0
                },
            }));
    }

    fn place_orphans(&mut self) {
        while let Some(held) = self.orphans.pop_front() {
            if held.unreadable > MAX_UNREADABLE {
                count_error(&self.board, HandoffError::GaveUp);
            } else if let Err(held) = self.assign(held) {
                self.orphans.push_front(held);
                return;
            }
        }
    }

    /// Picks a worker for a connection; gives it back if none is ready.
    #[inline]
    fn assign(&mut self, held: Held) -> Result<(), Held> {
        let Some(i) = self.picker.pick(held.conn.peer.ip(), &self.candidates) else {
            return Err(held);
        };
        if held.taken_back {
            add(&self.board.dispatcher().redispatched, 1);
        }
        self.lanes[i].push(held);
        self.candidates[i].load += 1;
        self.candidates[i].ready = self.lanes[i].has_room();
        Ok(())
    }

    fn anybody_ready(&self) -> bool {
        self.candidates.iter().any(|c| c.ready)
    }

    /// Accepts from one listener until nobody waits, no worker is ready, or the turn is long enough.
    fn accept_from(&mut self, spot: Spot) -> io::Result<()> {
        let groups = self.groups.clone();
        let Some(listener) = spot.listener(&groups) else {
            return Ok(());
        };
        for _ in 0..(waiting(listener)? as usize).min(TURN) {
            if !self.anybody_ready() {
                break;
            }
            match accept(listener) {
                Ok((socket, peer)) => {
                    let conn = Conn {
                        socket,
                        peer,
                        listener: spot.group as u8,
                        arm: self.arm,
                        accepted_at: monotonic_ns(),
                    };
                    if let Err(held) = self.assign(Held {
                        conn,
                        taken_back: false,
                        unreadable: 0,
                    }) {
                        self.orphans.push_back(held);
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
        if self.arm.mode() == Mode::Hybrid && self.watched.contains(&spot) {
            self.epoll.delete(listener)?;
            self.epoll.add(listener, self.registration(spot))?;
        }
        Ok(())
    }

    fn accept_everywhere(&mut self) -> io::Result<()> {
        for group in 0..self.groups.len() {
            self.accept_from(Spot { group, place: None })?;
            for place in 0..self.groups[group].seats() {
                self.accept_from(Spot {
                    group,
                    place: Some(place),
                })?;
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
    fn send(&mut self) {
        for lane in &mut self.lanes {
            if let Err((why, back)) = lane.send() {
                count_error(&self.board, why);
                self.orphans.extend(back);
            }
        }
    }

    fn obey(&mut self) {
        let _ = self.bell.read();
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Join { seat, row, outlet } => {
                    let place = self
                        .lanes
                        .partition_point(|lane| lane.seat.number <= seat.number);
                    self.lanes.insert(place, Lane::new(seat, row, outlet));
                    self.roster += 1;
                }
                Command::Leave { row, done } => {
                    self.let_go(row);
                    drop(done);
                }
                Command::Stop { done } => self.stopping = Some(done),
                Command::Abandon => self.abandoned = true,
            }
        }
        self.refresh();
    }

    /// A worker is dead: what it had not claimed goes to others, and so does what waits where only
    /// it, or a thread of it that was about to wake, would have accepted.
    fn let_go(&mut self, row: usize) {
        if let Some(i) = self.lanes.iter().position(|lane| lane.row.index() == row) {
            let mut lane = self.lanes.remove(i);
            self.roster += 1;
            self.orphans.extend(lane.take_back());
        }
        self.refresh();
        self.place_orphans();
        if self.arm.mode() == Mode::Shared {
            for group in 0..self.groups.len() {
                // Errors here are those of epoll_ctl, which this mode does not use.
                let _ = self.accept_from(Spot { group, place: None });
            }
        }
    }

    /// Has everything been handed over that ever will be?
    fn is_finished(&self) -> bool {
        self.abandoned
            || self.stopping.is_some()
                && (self.lanes.is_empty()
                    || self.orphans.is_empty() && !self.lanes.iter().any(Lane::is_outstanding))
    }

    /// Puts into the epoll set what this thread has to accept from now: nothing while no worker is
    /// ready, so that connections wait in the backlog and are not refused.
    fn watch(&mut self) -> io::Result<()> {
        if self
            .resting_until
            .is_some_and(|until| Instant::now() >= until)
        {
            self.resting_until = None;
        }
        let open = self.resting_until.is_none() && self.lanes.iter().any(Lane::has_room);
        if (open, self.roster) == self.watched_for {
            return Ok(());
        }
        self.watched_for = (open, self.roster);
        let wanted = if open { self.wanted() } else { Vec::new() };
        for spot in self.watched.drain(..) {
            if let Some(listener) = spot.listener(&self.groups) {
                self.epoll.delete(listener)?;
            }
        }
        for spot in &wanted {
            if let Some(listener) = spot.listener(&self.groups) {
                self.epoll.add(listener, self.registration(*spot))?;
            }
        }
        self.watched = wanted;
        Ok(())
    }

    /// The shared listener where the mode has the master accept; and, in `reuseport`, the listener
    /// of every seat that has no ready worker: what is queued there would be lost.
    fn wanted(&self) -> Vec<Spot> {
        if self.arm.mode() == Mode::Shared {
            return Vec::new();
        }
        let mut spots = Vec::new();
        for (group, members) in self.groups.iter().enumerate() {
            spots.push(Spot { group, place: None });
            if self.arm.mode() == Mode::Reuseport {
                let deserted =
                    |place: &usize| !self.lanes.iter().any(|lane| lane.seat.place == *place);
                let places = (0..members.seats()).filter(deserted);
                spots.extend(places.map(|place| Spot {
                    group,
                    place: Some(place),
                }));
            }
        }
        spots
    }

    fn registration(&self, spot: Spot) -> EpollEvent {
        let exclusive = match self.arm.mode() {
            Mode::Hybrid => EpollFlags::EPOLLEXCLUSIVE,
            _ => EpollFlags::empty(),
        };
        EpollEvent::new(EpollFlags::EPOLLIN | exclusive, spot.event())
    }
}

fn count_error(board: &Scoreboard, why: HandoffError) {
    add(&board.dispatcher().errors[why as usize], 1);
}

fn spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
