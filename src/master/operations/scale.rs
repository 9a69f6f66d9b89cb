//! Changing the number of workers.

use std::{sync::Arc, time::Duration};

use super::Teller;
use crate::{
    error::{Error, Result},
    listener::Groups,
    master::supervisor::Supervisor,
    scoreboard::{MAX_WORKERS, State},
};

impl Supervisor {
    /// Runs `count` workers from now on.
    pub(super) async fn scale(&self, count: u16, teller: &Teller) -> Result<String> {
        if count == 0 || usize::from(count) > MAX_WORKERS {
            return Err(Error::usage(format!(
                "{count} workers: it takes 1 to {MAX_WORKERS}"
            )));
        }
        let before = self.status.lock().workers;
        if count > before {
            self.make_room(count).await?;
        }
        self.status.lock().workers = count;
        let mut births = Vec::new();
        for number in 0..count {
            let seat = self.state.borrow().seat(number);
            if self.state.borrow().holder(seat).is_some() {
                continue;
            }
            match self.spawn(seat).await {
                Ok(birth) => births.push((seat, birth)),
                Err(error) => {
                    self.respawn_later(seat, Duration::ZERO);
                    return Err(Error::failed(format!("{error}; it is tried again")));
                }
            }
        }
        let mut failure = None;
        for (seat, birth) in births {
            match self.await_ready(seat, birth).await {
                Ok(()) => teller.say(format!("worker {} is ready", seat.number)),
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            return Err(Error::failed(format!(
                "{error}; there are to be {count} workers, and it is tried again"
            )));
        }
        for number in count..before {
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
        Ok(match (before, count) {
            (before, count) if count < before => {
                format!("{count} workers; the others finish what they hold")
            }
            _ => format!("{count} workers"),
        })
    }

    /// Sees to it that every group has a listener for each of `workers` workers.
    async fn make_room(&self, workers: u16) -> Result<()> {
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
