//! The end of one worker or of all, in the order that loses nothing.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::{
    task::spawn_local,
    time::{sleep, timeout},
};

use super::{
    process::{Birth, Event, Process},
    supervisor::{Inbox, Signals, Supervisor, TELL_DEADLINE},
};
use crate::{channel::ToWorker, notice, scoreboard::State, sys::clock::monotonic_ns};

/// How long the dispatcher may take to see everything claimed when stopping.
const HANDOVER_DEADLINE: Duration = Duration::from_secs(2);
/// How long connections have to finish after a second signal to stop.
const HURRY: Duration = Duration::from_secs(1);
/// How long connections that are being established get to arrive when stopping.
const LAST_ARRIVALS: Duration = Duration::from_millis(50);

impl Supervisor {
    /// Drains one worker: it leaves the set, what it has not claimed goes to others, and only then
    /// is it told. If it takes too long it is killed. Its end fills the seat again, unless a successor
    /// is there.
    pub(super) async fn drain(&self, birth: Birth) {
        let (row, dispatcher) = {
            let state = self.state.borrow();
            let Some(process) = state.processes.get(&birth) else {
                return;
            };
            if process.drains() {
                return;
            }
            process.row.set_state(State::Draining);
            (process.row.index(), state.dispatcher.clone())
        };
        self.steer();
        dispatcher.leave(row).await;
        let (control, limit) = {
            let state = self.state.borrow();
            let Some(process) = state.processes.get(&birth) else {
                return;
            };
            (
                process.control.clone(),
                state.settings.cluster.drain_timeout,
            )
        };
        if let Some(process) = self.state.borrow_mut().processes.get_mut(&birth) {
            // One that is stuck hears it when it moves, if its line is full not before.
            process.watch.push(spawn_local(async move {
                let _ = control.send(&ToWorker::Drain, &[]).await;
            }));
            process.must_end_within(limit);
        }
        self.changed.notify_waiters();
    }

    /// Ends everything in order: take what has arrived, listen no more, let the workers finish.
    pub(super) async fn stop(&self, inbox: &mut Inbox) {
        let limit = self.state.borrow().settings.cluster.drain_timeout;
        let begun = Instant::now();
        let open: u64 = {
            let state = self.state.borrow();
            state.processes.values().map(|p| p.row.open()).sum()
        };
        if open > 0 {
            notice(format_args!(
                "stopping: {open} open connections have up to {} s to finish",
                limit.as_secs_f64()
            ));
        }
        self.status.lock().stopping = true;
        // A comparison ends, and leaves the rest to us.
        self.changed.notify_waiters();
        {
            let state = self.state.borrow();
            state
                .groups
                .iter()
                .flatten()
                .for_each(|group| group.close());
            let until = monotonic_ns() + limit.as_nanos() as u64;
            for process in state.processes.values() {
                process.row.set_state(State::Draining);
                process.row.birth.drain_until.store(until, Relaxed);
            }
        }
        self.steer();
        sleep(LAST_ARRIVALS.min(limit / 4)).await;
        self.hand_over_the_rest(inbox, limit.min(HANDOVER_DEADLINE))
            .await;
        let controls: Vec<_> = {
            let mut state = self.state.borrow_mut();
            state.groups = Arc::from([]);
            state
                .processes
                .values()
                .map(|p| p.control.clone())
                .collect()
        };
        for control in controls {
            // A worker that is gone needs no telling.
            let _ = timeout(TELL_DEADLINE, control.send(&ToWorker::Drain, &[])).await;
        }
        while !self.state.borrow().processes.is_empty() {
            let left = limit.saturating_sub(begun.elapsed());
            match timeout(left, inbox.events.recv()).await {
                Ok(Some(Event::Ended { birth, exit })) => {
                    let ended = self.state.borrow_mut().processes.remove(&birth);
                    if let Some(process) = ended {
                        self.take_leave(&process, exit);
                        process.row.clone().retire();
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => {
                    let cut: u64 = {
                        let state = self.state.borrow();
                        state.processes.values().map(|p| p.row.open()).sum()
                    };
                    notice(format_args!(
                        "drain deadline of {} s passed: cutting {cut} connections",
                        limit.as_secs_f64()
                    ));
                    return self.kill_all();
                }
            }
        }
    }

    /// Lets the dispatcher accept and hand over what has arrived, and end. A worker that does not
    /// claim must not keep the others from hearing that it is over: after `limit` it ends anyway.
    async fn hand_over_the_rest(&self, inbox: &mut Inbox, limit: Duration) {
        let dispatcher = self.state.borrow().dispatcher.clone();
        let mut stopped = pin!(dispatcher.stop());
        let mut out_of_time = pin!(sleep(limit));
        loop {
            tokio::select! {
                () = &mut stopped => return,
                () = &mut out_of_time => return dispatcher.abandon(),
                Some(event) = inbox.events.recv() => {
                    // What a worker that dies now has not claimed still goes to another.
                    if let Event::Ended { birth, exit } = event {
                        let ended = self.state.borrow_mut().processes.remove(&birth);
                        if let Some(process) = ended {
                            self.take_leave(&process, exit);
                            dispatcher.leave(process.row.index()).await;
                            process.row.clone().retire();
                        }
                    }
                }
            }
        }
    }

    /// Returns when the rest is to be cut off: some time after a second signal to stop, or at once after
    /// a third.
    pub(super) async fn hurry(&self, signals: &mut Signals) {
        signals.stop().await;
        let open: u64 = {
            let state = self.state.borrow();
            state.processes.values().map(|p| p.row.open()).sum()
        };
        notice(format_args!(
            "stopping faster: {open} open connections have {} s to finish",
            HURRY.as_secs_f64()
        ));
        let _ = timeout(HURRY, signals.stop()).await;
    }

    pub(super) fn kill_all(&self) {
        self.state
            .borrow()
            .processes
            .values()
            .for_each(Process::kill);
    }
}
