//! What the master does at somebody's request, one thing at a time. Each is a plain sequence that
//! awaits what the supervisor's loop makes happen.

mod compare;
mod reload;
mod roll;
mod scale;
mod switch;
mod upgrade;

use std::{rc::Rc, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::{sync::mpsc::UnboundedSender, task::spawn_local, time::timeout};

pub(super) use self::{
    compare::Halt,
    upgrade::{ResumedProcesses, companions, examine, resume},
};
use super::supervisor::Supervisor;
use crate::{
    control::{Asked, Line, Verb},
    dispatch::mode::Arm,
    error::{Error, Result},
    notice,
    sys::clock::monotonic_ns,
};

/// Tells whoever asked for an operation, if he can be told and still listens.
#[derive(Clone)]
pub(super) struct Teller(Option<UnboundedSender<Line>>);

impl Teller {
    /// Nobody listens.
    fn nobody() -> Self {
        Self(None)
    }

    /// Says how far it is.
    fn say(&self, text: impl Into<String>) {
        self.tell(Line::Progress { text: text.into() });
    }

    fn tell(&self, line: Line) {
        if let Some(answer) = &self.0 {
            let _ = answer.send(line);
        }
    }

    /// Has whoever listened gone?
    fn is_gone(&self) -> bool {
        self.0.as_ref().is_some_and(UnboundedSender::is_closed)
    }

    /// Waits until whoever listens has gone; for ever if nobody ever did.
    async fn gone(&self) {
        match &self.0 {
            Some(answer) => answer.closed().await,
            None => std::future::pending().await,
        }
    }
}

/// A verb in the words of a log line.
fn describe(verb: &Verb) -> String {
    match verb {
        Verb::Mode { mode, policy } => match policy {
            Some(policy) => format!("mode {mode} {policy}"),
            None => format!("mode {mode}"),
        },
        Verb::Workers { count } => format!("workers set {count}"),
        Verb::Drain { worker } => format!("drain {worker}"),
        Verb::Upgrade { path: Some(path) } => format!("upgrade {}", path.display()),
        Verb::CompareStop => "compare stop".into(),
        other => other.name().into(),
    }
}

impl Supervisor {
    /// Begins what was asked for, unless something else is under way.
    pub(super) fn begin(self: &Rc<Self>, asked: Asked) {
        if asked.verb == Verb::CompareStop {
            return self.end_comparison(asked);
        }
        let Asked { verb, by, answer } = asked;
        let what = describe(&verb);
        let in_the_way = {
            let status = self.status.lock();
            match &status.operation {
                Some(operation) => Some(format!("'{operation}' is under way")),
                None if !status.started => Some("the cluster is still starting".into()),
                None => None,
            }
        };
        if let Some(why) = in_the_way {
            if answer.is_none() {
                // Nobody could be told to try again.
                notice(format_args!("{what} ({by}): later, {why}"));
                let later = &mut self.state.borrow_mut().later;
                later.retain(|asked| asked.verb != verb);
                later.push(Asked { verb, by, answer });
                return;
            }
            notice(format_args!("{what} ({by}): refused, {why}"));
            let comparing = self.state.borrow().comparing.is_some();
            let error = match comparing {
                true => format!(
                    "{why}: end it with 'pointsman ctl compare stop', or try again when it is done"
                ),
                false => format!("{why}: try again when it is done"),
            };
            Teller(answer).tell(Line::Failed { error, busy: true });
            return;
        }
        notice(format_args!("{what} ({by}) begins"));
        self.status.lock().operation = Some(what.clone());
        let this = self.clone();
        spawn_local(async move {
            let teller = Teller(answer);
            // A task of its own: should it panic, the next operation must still find the way free.
            let work = spawn_local({
                let (this, teller) = (this.clone(), teller.clone());
                async move { this.carry_out(verb, &teller).await }
            });
            let outcome = work.await.unwrap_or_else(|_| {
                Err(Error::failed(
                    "it panicked, which is our fault: please report it",
                ))
            });
            this.over(&outcome);
            let line = match outcome {
                Ok(text) => {
                    notice(format_args!("{what} ({by}): {text}"));
                    Line::Done { text }
                }
                Err(error) => {
                    notice(format_args!("{what} ({by}) failed: {error}"));
                    Line::Failed {
                        error: error.to_string(),
                        busy: false,
                    }
                }
            };
            teller.tell(line);
        });
    }

    /// What was asked for is done, or has failed.
    fn over(&self, outcome: &Result<String>) {
        let mut status = self.status.lock();
        status.operation = None;
        status.last_failure = outcome.as_ref().err().map(ToString::to_string);
        drop(status);
        self.state.borrow_mut().comparing = None;
        self.changed.notify_waiters();
        self.notify_ready();
        for asked in self.state.borrow_mut().later.drain(..) {
            let _ = self.ask.send(asked);
        }
    }

    /// Answers whoever asked to stop. Nobody waits for the end on this line: it ends with the master.
    pub(super) fn say_stopping(&self, asked: &Asked) {
        notice(format_args!("stopping ({})", asked.by));
        let text = String::from("stopping");
        Teller(asked.answer.clone()).tell(Line::Done { text });
    }

    async fn carry_out(self: &Rc<Self>, verb: Verb, teller: &Teller) -> Result<String> {
        match verb {
            Verb::Mode { mode, policy } => {
                let arm =
                    Arm::new(mode, policy).map_err(|error| Error::usage(error.to_string()))?;
                let rules = self.state.borrow().rules.clone();
                self.switch(super::dispatcher::Rules { arm, ..rules })
                    .await?;
                Ok(format!("mode {arm}"))
            }
            Verb::Pause | Verb::Resume => {
                let paused = verb == Verb::Pause;
                let rules = self.state.borrow().rules.clone();
                self.switch(super::dispatcher::Rules { paused, ..rules })
                    .await?;
                Ok(match paused {
                    true => "paused: new connections wait in the kernel".into(),
                    false => "accepting".into(),
                })
            }
            Verb::Workers { count } => self.scale(count, teller).await,
            Verb::Drain { worker } => self.drain_worker(worker, teller).await,
            Verb::Restart => self.roll(teller).await,
            Verb::Reload => self.reload(teller).await,
            Verb::Upgrade { path } => self.upgrade(path, teller).await,
            Verb::Compare(plan) => self.compare(plan, teller).await,
            // These are done at once, whatever else is under way.
            Verb::CompareStop => Ok("the comparison ends".into()),
            Verb::Stop => Ok("stopping".into()),
        }
    }

    /// Replaces one worker, its successor first, and waits until it has finished what it held.
    async fn drain_worker(&self, number: u16, teller: &Teller) -> Result<String> {
        let (seat, birth) = {
            let (workers, state) = (self.status.lock().workers, self.state.borrow());
            let seat = state.seat(number);
            let holder = state.holder(seat).filter(|_| number < workers);
            let Some(process) = holder else {
                return Err(Error::usage(format!(
                    "there is no worker {number} to drain: workers are numbered 0 to {}",
                    workers.saturating_sub(1)
                )));
            };
            (seat, process.birth)
        };
        let successor = self.spawn(seat).await?;
        self.await_ready(seat, successor).await?;
        teller.say(format!(
            "worker {number} takes nothing new, its successor is ready"
        ));
        loop {
            let ended = self.until(|state| (!state.processes.contains_key(&birth)).then_some(()));
            if timeout(Duration::from_secs(1), ended).await.is_ok() {
                break;
            }
            let state = self.state.borrow();
            if let Some(process) = state.processes.get(&birth) {
                let until = process.row.birth.drain_until.load(Relaxed);
                let left = Duration::from_nanos(until.saturating_sub(monotonic_ns()));
                teller.say(format!(
                    "{} connections open, {:.0} s left",
                    process.row.open(),
                    left.as_secs_f64()
                ));
            }
        }
        Ok(format!("worker {number} drained"))
    }
}
