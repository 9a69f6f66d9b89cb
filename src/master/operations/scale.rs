//! Changing the number of workers.

use std::{ops::Range, sync::Arc};

use super::Teller;
use crate::{
    error::{Error, Result},
    listener::Groups,
    master::supervisor::Supervisor,
    scoreboard::{MAX_WORKERS, State},
};

fn workers(count: u16) -> String {
    match count {
        1 => "1 worker".into(),
        n => format!("{n} workers"),
    }
}

impl Supervisor {
    /// Runs `count` workers from now on.
    pub(super) async fn scale(&self, count: u16, teller: &Teller) -> Result<String> {
        if count == 0 || usize::from(count) > MAX_WORKERS {
            return Err(Error::usage(format!(
                "{count} workers: it takes 1 to {MAX_WORKERS}"
            )));
        }
        let most = self.state.borrow().settings.cluster.max_workers;
        if let Some(most) = most.filter(|most| count > *most) {
            return Err(Error::usage(format!(
                "{count} workers: --max-workers admits {most}"
            )));
        }
        self.state
            .borrow()
            .settings
            .cluster
            .check_groups_of(count)?;
        self.try_scale(count, teller)
            .await
            .map_err(|error| Error::failed(format!("{error}; nothing has changed")))
    }

    /// The same for a number that is possible. If it fails, there are as many as before.
    pub(super) async fn try_scale(&self, count: u16, teller: &Teller) -> Result<String> {
        let before = self.status.lock().workers;
        if count > before {
            self.make_room(count).await?;
        }
        self.status.lock().workers = count;
        if let Err(error) = self.fill(0..count, teller).await {
            self.status.lock().workers = before;
            self.empty(before..count, teller).await;
            return Err(error);
        }
        self.empty(count..before, teller).await;
        Ok(match (before, count) {
            (before, count) if count < before => {
                format!("{}; the others finish what they hold", workers(count))
            }
            _ => workers(count),
        })
    }

    /// Starts a worker in each of these seats that is empty, one after the other.
    async fn fill(&self, seats: Range<u16>, teller: &Teller) -> Result<()> {
        for number in seats {
            let seat = self.state.borrow().seat(number);
            if self.state.borrow().holder(seat).is_none() {
                let birth = self.spawn(seat).await?;
                teller.say(format!("worker {number} starts"));
                self.await_ready(seat, birth).await?;
            }
        }
        Ok(())
    }

    /// Drains the workers in these seats.
    async fn empty(&self, seats: Range<u16>, teller: &Teller) {
        for number in seats {
            let birth = {
                let state = self.state.borrow();
                let seat = state.seat(number);
                state.holder(seat).map(|process| process.birth)
            };
            if let Some(birth) = birth {
                teller.say(format!("worker {number} takes nothing new"));
                self.drain(birth).await;
            }
        }
    }

    /// Sees to it that every group has a listener for each of `workers` workers.
    pub(super) async fn make_room(&self, workers: u16) -> Result<()> {
        let (groups, dispatcher) = {
            let state = self.state.borrow();
            let seats = usize::from(workers) + usize::from(state.settings.cluster.master_serves);
            let short =
                |group: &crate::listener::ListenerGroup| group.seats() > 0 && group.seats() < seats;
            if !state.groups.iter().flatten().any(|group| short(group)) {
                return Ok(());
            }
            let groups = state
                .groups
                .iter()
                .map(|group| match group {
                    Some(group) if short(group) => {
                        group.grow(seats).map(|group| Some(Arc::new(group)))
                    }
                    other => Ok(other.clone()),
                })
                .collect::<Result<Groups>>()
                .map_err(|error| {
                    Error::failed(format!(
                        "{error}; start with --max-workers {workers} to have them made at the start"
                    ))
                })?;
            (groups, state.dispatcher.clone())
        };
        self.state.borrow_mut().groups = groups.clone();
        dispatcher.set_groups(groups).await;
        Ok(())
    }

    /// Waits until the process of this birth is ready, or has died trying.
    pub(super) async fn await_ready(&self, seat: crate::status::Seat, birth: u64) -> Result<()> {
        self.until(|state| {
            if let Some(process) = state.processes.get(&birth) {
                return (process.row.state() != State::Starting).then_some(Ok(()));
            }
            let how = Self::end_of(state, seat, birth)
                .map_or_else(|| "an unknown end".into(), |exit| exit.to_string());
            Some(Err(Error::failed(format!(
                "worker {} died before it was ready, with {how}",
                seat.number
            ))))
        })
        .await
    }
}
