//! What a client does next.

use std::net::TcpStream;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::{
    Ask, Engine, Fault, LOOK_NS, PARTING_NS, Scenario, State, Step, Way,
    alarms::{Alarm, What},
    dial::NoConnection,
    monotonic_ns, nanoseconds, one_each, token,
};
use crate::{
    error::{Error, Result},
    load::plan::SLOW_ONE_IN,
};

/// How long a client waits after a failure: a server that is down is not to be stormed.
const PAUSE_NS: u64 = 10_000_000;
/// How long a client of [`Scenario::LongLived`] thinks, on average.
const THINK_NS: f64 = 100e6;
/// How long its connection is there, on average.
const LIFE_NS: f64 = 2e9;

impl Engine {
    /// Acts on what has happened to a client.
    #[inline]
    pub(super) fn after(&mut self, i: usize, step: Step, now: u64) -> Result<()> {
        let client = &mut self.clients[i];
        match step {
            Step::Waiting | Step::Unfinished => Ok(()),
            Step::Opened => self.at_rest(i, now),
            Step::Answered | Step::AnsweredLast | Step::AnsweredAndEnded => {
                match client.status() {
                    200..=299 => self.tally.right(client.ask, now),
                    _ => self.tally.wrong(Fault::Status, client.ask, now),
                }
                let parts = step == Step::AnsweredLast || one_each(self.order.scenario);
                if step == Step::AnsweredAndEnded || client.leaving {
                    client.hang_up();
                } else if parts {
                    client.state = State::Parting;
                    client.since = now;
                    return Ok(());
                } else {
                    client.state = State::Idle;
                }
                self.at_rest(i, now)
            }
            Step::Outdated => {
                client.hang_up();
                self.open(i, now, true)
            }
            Step::Failed(fault) => {
                self.tally.wrong(fault, client.ask, now);
                self.give_up(i, now);
                Ok(())
            }
            Step::Unasked => {
                self.tally.wrong(Fault::Malformed, client.ask, now);
                self.give_up(i, now);
                Ok(())
            }
            // Closed before it was of any use: not to be opened again and again.
            Step::Ended if !client.used => {
                self.give_up(i, now);
                Ok(())
            }
            Step::Ended => {
                client.hang_up();
                self.disengage(i);
                self.at_rest(i, now)
            }
        }
    }

    /// A client has nothing under way.
    pub(super) fn at_rest(&mut self, i: usize, now: u64) -> Result<()> {
        let is_open = self.clients[i].state == State::Idle;
        match self.way {
            Way::Chain => {
                let ask = self.ask_now(now);
                self.ask(i, ask)
            }
            Way::Plan { keeps: true } | Way::Rest if !is_open => self.open(i, now, false),
            Way::Plan { .. } => {
                self.release(i, now);
                Ok(())
            }
            Way::Rest => {
                let think = self.random.exponential(THINK_NS);
                self.alarm(i, now + think, What::Ask);
                Ok(())
            }
            Way::Burst => {
                self.burst_left -= 1;
                if self.burst_left == 0 {
                    self.burst()?;
                }
                Ok(())
            }
        }
    }

    /// All clients at once. None of them comes to rest in here: who fails waits.
    pub(super) fn burst(&mut self) -> Result<()> {
        self.burst_left = self.clients.len();
        for i in 0..self.clients.len() {
            let ask = self.ask_now(monotonic_ns());
            self.ask(i, ask)?;
        }
        Ok(())
    }

    /// A request that nobody has planned.
    fn ask_now(&mut self, now: u64) -> Ask {
        let slow = self.order.scenario == Scenario::Mixed && self.random.below(SLOW_ONE_IN) == 0;
        Ask {
            planned: now,
            sent: now,
            slow,
        }
    }

    /// Sends a request, over the open connection or a new one.
    pub(super) fn ask(&mut self, i: usize, ask: Ask) -> Result<()> {
        let client = &mut self.clients[i];
        client.ask = ask;
        if client.state != State::Idle {
            return self.open(i, ask.sent, true);
        }
        match client.ask(&self.requests) {
            Step::Waiting => Ok(()),
            step => self.after(i, step, ask.sent),
        }
    }

    /// Opens a connection, and sends the client's request over it if there is one.
    fn open(&mut self, i: usize, now: u64, asks: bool) -> Result<()> {
        let stream = match self.dial.begin(i) {
            Ok(stream) => stream,
            Err(NoConnection::Impossible(error)) => return Err(error),
            Err(NoConnection::Refused) => {
                let step = Step::Failed(Fault::Connect);
                return self.after(i, step, now);
            }
        };
        self.watch(i, stream, now)?;
        if self.order.scenario == Scenario::LongLived {
            self.rest_of_life(i, now);
        }
        let client = &mut self.clients[i];
        if !asks {
            client.state = State::Opening;
            return Ok(());
        }
        // On one machine the connection is often there already.
        let step = client.ask(&self.requests);
        if client.connected {
            self.tally.opened();
        }
        match step {
            Step::Waiting => Ok(()),
            step => self.after(i, step, now),
        }
    }

    /// Gives a client a connection, and watches it.
    pub(super) fn watch(&mut self, i: usize, stream: TcpStream, now: u64) -> Result<()> {
        let client = &mut self.clients[i];
        client.generation = client.generation.wrapping_add(1);
        let interest = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        let event = EpollEvent::new(interest, token(i, client.generation));
        self.epoll
            .add(&stream, event)
            .map_err(|errno| Error::runtime("cannot watch a connection", errno.into()))?;
        client.take(stream, now);
        Ok(())
    }

    /// Closes a connection that is of no use, and lets its client go on a little later.
    fn give_up(&mut self, i: usize, now: u64) {
        self.clients[i].hang_up();
        self.disengage(i);
        self.alarm(i, now + PAUSE_NS, What::GoOn);
    }

    /// A client may be given an arrival.
    fn release(&mut self, i: usize, now: u64) {
        if self.free.is_empty() {
            self.free_since = now;
        }
        self.clients[i].place = Some(self.free.len() as u32);
        self.free.push(i as u32);
    }

    /// A client that is free is so no longer.
    pub(super) fn engage(&mut self, i: usize) {
        let Some(place) = self.clients[i].place.take() else {
            return;
        };
        self.free.swap_remove(place as usize);
        if let Some(moved) = self.free.get(place as usize) {
            self.clients[*moved as usize].place = Some(place);
        }
    }

    /// As [`engage`](Self::engage), for a client that may not have been free.
    fn disengage(&mut self, i: usize) {
        if self.clients[i].place.is_some() {
            self.engage(i);
        }
    }

    /// Does what is due now.
    #[inline]
    pub(super) fn ring(&mut self, now: u64) -> Result<()> {
        while let Some(alarm) = self.alarms.due(now) {
            let i = alarm.client as usize;
            let client = &mut self.clients[i];
            if client.generation != alarm.generation {
                continue;
            }
            match (alarm.what, client.state) {
                (What::GoOn, State::Absent) => self.at_rest(i, now)?,
                (What::Ask, State::Idle) => {
                    let ask = self.ask_now(monotonic_ns());
                    self.ask(i, ask)?;
                }
                (What::Leave, State::Idle) => {
                    client.hang_up();
                    self.disengage(i);
                    self.at_rest(i, now)?;
                }
                (What::Leave, State::Asking | State::Opening) => client.leaving = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// Something is to happen to a client, unless it has another connection by then.
    pub(super) fn alarm(&mut self, i: usize, at: u64, what: What) {
        self.alarms.set(Alarm {
            at,
            client: i as u32,
            generation: self.clients[i].generation,
            what,
        });
    }

    /// Decides how long a connection is to be there.
    pub(super) fn rest_of_life(&mut self, i: usize, now: u64) {
        let life = self.random.exponential(LIFE_NS);
        self.alarm(i, now + life, What::Leave);
    }

    /// Looks for what takes too long.
    #[inline]
    pub(super) fn look(&mut self, now: u64) -> Result<()> {
        if now < self.look_at {
            return Ok(());
        }
        self.look_at = now + self.look_gap();
        let limit = nanoseconds(self.order.timeout);
        for i in 0..self.clients.len() {
            let client = &self.clients[i];
            let waited = now.saturating_sub(client.since);
            let step = match client.state {
                State::Asking if waited >= limit && client.connected => {
                    Step::Failed(Fault::Timeout)
                }
                State::Asking | State::Opening if waited >= limit => Step::Failed(Fault::Connect),
                State::Parting if waited >= PARTING_NS => Step::Ended,
                _ => continue,
            };
            self.after(i, step, now)?;
        }
        Ok(())
    }

    /// Between two looks.
    pub(super) fn look_gap(&self) -> u64 {
        (nanoseconds(self.order.timeout) / 8).clamp(1_000_000, LOOK_NS)
    }
}
