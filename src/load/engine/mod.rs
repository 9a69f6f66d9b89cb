//! The machine: one thread, one epoll set, all clients.
//!
//! Connections are watched for edges, once for their life, so an exchange is one wait, one read and
//! one write. Times are kept by a timer descriptor of nanoseconds; it is set only when something is
//! due that no answer will bring.

mod alarms;
mod client;
mod dial;
mod steps;

use std::os::fd::BorrowedFd;

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};

use self::{
    alarms::{Alarms, What},
    client::{Client, Requests, State, Step},
    dial::Dial,
};
use super::{
    Order, Outcome, Scenario,
    plan::Plan,
    tally::{Ask, Fault, Tally},
};
use crate::{
    compare::Drive,
    error::{Error, Result},
    random::Random,
    sys::clock::monotonic_ns,
};

/// Events taken at once.
const EVENTS: usize = 128;
/// What is read at once: an answer of 64 KiB and its head.
const BUFFER: usize = 80 * 1024;
/// How long the server may take to close a connection that it said it would close.
const PARTING_NS: u64 = 1_000_000_000;
/// The longest time between two looks for requests that take too long.
const LOOK_NS: u64 = 100_000_000;
/// Events that are no client's.
const TIMER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

/// Everything that a block of load needs.
pub(super) struct Engine {
    way: Way,
    order: Order,
    requests: Requests,
    dial: Dial,
    epoll: Epoll,
    timer: TimerFd,
    /// When the timer is to go off; 0: it need not.
    armed: u64,
    clients: Vec<Client>,
    /// Clients that may be given an arrival, in open load.
    free: Vec<u32>,
    /// Since when there is one.
    free_since: u64,
    plan: Option<Plan>,
    alarms: Alarms,
    /// Clients with more to read, whose turn has ended.
    unfinished: Vec<u64>,
    /// Of the burst under way, in closed load.
    burst_left: usize,
    random: Random,
    tally: Tally,
    buffer: Box<[u8]>,
    /// When the load began. Moments are of the monotonic clock, nanoseconds.
    start: u64,
    /// When measuring begins, or, once it has, when it ends.
    boundary: u64,
    measuring: bool,
    /// When to look for what takes too long.
    look_at: u64,
}

/// What a client does when it has nothing under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It sends the next request.
    Chain,
    /// It rests on its open connection for a while.
    Rest,
    /// It waits until all others have their answers too.
    Burst,
    /// It waits for an arrival, with an open connection or without one.
    Plan { keeps: bool },
}

impl Way {
    fn of(order: &Order) -> Self {
        let one_each = one_each(order.scenario);
        match (order.drive, order.scenario) {
            (Drive::Open { .. }, _) => Self::Plan { keeps: !one_each },
            (_, Scenario::LongLived) => Self::Rest,
            (_, Scenario::Bursts) => Self::Burst,
            _ => Self::Chain,
        }
    }
}

/// Does each request have a connection of its own?
fn one_each(scenario: Scenario) -> bool {
    matches!(scenario, Scenario::PerConnection | Scenario::Bursts)
}

/// What the machine says when a moment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    None,
    End,
}

impl Engine {
    /// Prepares everything.
    ///
    /// # Errors
    /// The kernel has no descriptor or memory left.
    pub(super) fn new(order: &Order) -> Result<Self> {
        let failed = |errno: Errno| Error::runtime("cannot prepare the load", errno.into());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )
        .map_err(failed)?;
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll
            .add(&timer, EpollEvent::new(edge, TIMER))
            .map_err(failed)?;
        let clients = order.clients as usize;
        Ok(Self {
            way: Way::of(order),
            order: order.clone(),
            requests: Requests::new(order),
            dial: Dial::new(order),
            epoll,
            timer,
            armed: 0,
            clients: (0..clients).map(|_| Client::new()).collect(),
            free: Vec::with_capacity(clients),
            free_since: 0,
            plan: Plan::new(order),
            alarms: Alarms::default(),
            unfinished: Vec::new(),
            burst_left: 0,
            // Not the plan's, or its answers would be about its moments.
            random: Random::new(!order.seed),
            tally: Tally::default(),
            buffer: vec![0; BUFFER].into(),
            start: 0,
            boundary: 0,
            measuring: false,
            look_at: 0,
        })
    }

    /// Does it all. `begun` is called when measuring begins. `None`: `stop` came to its end before. Connections
    /// are closed when the machine is dropped, not before.
    ///
    /// # Errors
    /// There is nobody at the target, or no port or descriptor left for connections; or `begun`'s.
    pub(super) fn run(
        &mut self,
        stop: BorrowedFd<'_>,
        mut begun: impl FnMut() -> Result<()>,
    ) -> Result<Option<Outcome>> {
        let failed = |errno: Errno| Error::runtime("cannot wait for answers", errno.into());
        match self
            .epoll
            .add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))
        {
            // A file has no end to wait for.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let mut moment = self.begin(&mut begun)?;
        let mut events = [EpollEvent::empty(); EVENTS];
        while moment != Moment::End {
            let now = monotonic_ns();
            moment = self.pass(now, &mut begun)?;
            if moment == Moment::End {
                break;
            }
            self.look(now)?;
            self.ring(now)?;
            self.dispatch(now)?;
            let patience = if self.unfinished.is_empty() {
                self.arm()?;
                EpollTimeout::NONE
            } else {
                EpollTimeout::ZERO
            };
            let count = match self.epoll.wait(&mut events, patience) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            let unfinished = std::mem::take(&mut self.unfinished);
            for event in &events[..count] {
                match event.data() {
                    TIMER => self.armed = 0,
                    STOP if has_ended(stop) => return Ok(None),
                    STOP => {}
                    token => moment = self.event(token, event.events(), &mut begun)?,
                }
                if moment == Moment::End {
                    break;
                }
            }
            for token in unfinished {
                if moment != Moment::End {
                    moment = self.go_on(token, &mut begun)?;
                }
            }
        }
        Ok(Some(self.end()))
    }

    /// Opens the first connection and starts the clients.
    fn begin(&mut self, begun: &mut impl FnMut() -> Result<()>) -> Result<Moment> {
        let stream = self.dial.first(self.order.timeout)?;
        let now = monotonic_ns();
        self.start = now;
        self.free_since = now;
        self.boundary = now + nanoseconds(self.order.warm_up);
        self.look_at = now + self.look_gap();
        // Where nothing comes before measuring, it begins before anything is sent.
        let moment = self.pass(now, begun)?;
        self.watch(0, stream, now)?;
        let first = &mut self.clients[0];
        first.connected = true;
        first.state = State::Idle;
        self.tally.opened();
        if self.way == (Way::Plan { keeps: false }) {
            // It would lie there until somebody happens to take it.
            first.hang_up();
        }
        let count = self.clients.len();
        match self.order.scenario {
            Scenario::LongLived => {
                self.rest_of_life(0, now);
                self.at_rest(0, now)?;
                let warm_up = nanoseconds(self.order.warm_up) as u128;
                for i in 1..count {
                    let after = warm_up * i as u128 / count as u128;
                    self.alarm(i, now + after as u64, What::GoOn);
                }
            }
            Scenario::Bursts if self.way == Way::Burst => self.burst()?,
            _ => {
                for i in 0..count {
                    self.at_rest(i, now)?;
                }
            }
        }
        Ok(moment)
    }

    /// Has measuring begun by now, or has it ended?
    #[inline]
    fn pass(&mut self, now: u64, begun: &mut impl FnMut() -> Result<()>) -> Result<Moment> {
        if now < self.boundary {
            return Ok(Moment::None);
        }
        if self.measuring {
            self.boundary = now;
            return Ok(Moment::End);
        }
        self.measuring = true;
        self.tally.begin(now);
        self.boundary = now + nanoseconds(self.order.duration);
        begun()?;
        Ok(Moment::None)
    }

    /// What came of it, counted up to the moment at which it ended.
    fn end(&mut self) -> Outcome {
        let end = self.boundary;
        if let Some(mut plan) = self.plan.take() {
            let asking = |client: &&Client| client.state == State::Asking;
            for client in self.clients.iter().filter(asking) {
                self.tally.unanswered(client.ask.planned, end);
            }
            while self.start + plan.next_at() < end {
                self.tally.unanswered(self.start + plan.take().at, end);
            }
        }
        std::mem::take(&mut self.tally).end(end)
    }

    /// Gives arrivals that are due to clients that are free.
    #[inline]
    fn dispatch(&mut self, now: u64) -> Result<()> {
        while !self.free.is_empty()
            && let Some(plan) = &mut self.plan
            && self.start + plan.next_at() <= now
        {
            let arrival = plan.take();
            let planned = self.start + arrival.at;
            // Any of them: real clients do not take turns.
            let i = self.free[self.random.below(self.free.len())] as usize;
            self.engage(i);
            let sent = monotonic_ns();
            self.tally
                .late(sent.saturating_sub(planned.max(self.free_since)));
            self.ask(
                i,
                Ask {
                    planned,
                    sent,
                    slow: arrival.slow,
                },
            )?;
        }
        Ok(())
    }

    /// Sets the timer to when something is due that no answer brings.
    #[inline]
    fn arm(&mut self) -> Result<()> {
        let mut next = self.boundary.min(self.look_at);
        if let Some(at) = self.alarms.next_at() {
            next = next.min(at);
        }
        if let (Some(plan), false) = (&self.plan, self.free.is_empty()) {
            next = next.min(self.start + plan.next_at());
        }
        if next == self.armed {
            return Ok(());
        }
        self.armed = next;
        let at = TimeSpec::from_duration(std::time::Duration::from_nanos(next));
        self.timer
            .set(
                Expiration::OneShot(at),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            )
            .map_err(|errno| Error::runtime("cannot set a timer", errno.into()))
    }

    /// Attends to a client whose turn had ended.
    fn go_on(&mut self, token: u64, begun: &mut impl FnMut() -> Result<()>) -> Result<Moment> {
        let client = &mut self.clients[token as u32 as usize];
        let happened = std::mem::replace(&mut client.pending, EpollFlags::empty());
        // An event may have been faster.
        if happened.is_empty() {
            return Ok(Moment::None);
        }
        self.event(token, happened, begun)
    }

    /// Attends to a client's event.
    #[inline]
    fn event(
        &mut self,
        token: u64,
        happened: EpollFlags,
        begun: &mut impl FnMut() -> Result<()>,
    ) -> Result<Moment> {
        let (i, generation) = (token as u32 as usize, (token >> 32) as u32);
        let client = &mut self.clients[i];
        if client.generation != generation {
            return Ok(Moment::None);
        }
        let was_connected = client.connected;
        let happened = happened | client.pending;
        let step = client.advance(happened, &self.requests, &mut self.buffer);
        if step == Step::Unfinished && client.pending.is_empty() {
            self.unfinished.push(token);
        }
        client.pending = match step {
            Step::Unfinished => happened,
            _ => EpollFlags::empty(),
        };
        let is_new = client.connected && !was_connected;
        let now = monotonic_ns();
        let moment = self.pass(now, begun)?;
        if moment == Moment::None {
            if is_new {
                self.tally.opened();
            }
            self.after(i, step, now)?;
            self.dispatch(now)?;
        }
        Ok(moment)
    }
}

/// The token of a client's connection in the epoll set.
fn token(client: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | client as u64
}

/// Has whoever gave the order gone? What else they say is of no interest.
fn has_ended(stop: BorrowedFd<'_>) -> bool {
    match nix::unistd::read(stop, &mut [0; 256]) {
        Ok(n) => n == 0,
        Err(errno) => !matches!(errno, Errno::EAGAIN | Errno::EINTR),
    }
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}
