//! Where workers accept by themselves, and where the kernel sends new connections.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    process::{Birth, Process},
    supervisor::{ClusterState, Supervisor, TELL_DEADLINE},
};
use crate::{
    channel::{Doors, ToWorker},
    dispatch::mode::Mode,
    notice,
    scoreboard::State,
    status::Seat,
};

impl ClusterState {
    /// What a worker in `seat` is to accept from by itself, and under what name.
    pub(super) fn doors(&self, seat: Seat) -> (Doors, Vec<io::Result<OwnedFd>>) {
        let arm = self.rules.arm;
        let (listeners, descriptors) = self
            .groups
            .iter()
            .enumerate()
            .filter(|_| !self.rules.paused)
            .filter_map(|(number, group)| {
                let group = group.as_ref().filter(|group| !group.is_closing())?;
                let listener = match arm.mode() {
                    Mode::Handoff => None,
                    Mode::Hybrid | Mode::Shared => Some(group.shared()),
                    Mode::Reuseport => group.own(seat.place),
                };
                listener.map(|l| (number as u8, l.try_clone_to_owned()))
            })
            .unzip();
        let doors = Doors {
            epoch: self.epoch,
            arm,
            listeners,
        };
        (doors, descriptors)
    }
}

impl Supervisor {
    /// Tells every worker where to accept from now on, and waits until those that can have done so.
    /// Who is stuck hears it when it moves.
    pub(super) async fn open_doors(&self) {
        let (epoch, births) = {
            let mut state = self.state.borrow_mut();
            state.epoch += 1;
            let alive = state.processes.values().filter(|p| !p.drains());
            let births: Vec<_> = alive.map(|p| p.birth).collect();
            (state.epoch, births)
        };
        for birth in births {
            self.tell_doors(birth).await;
        }
        let opened = self.until(|state| {
            let behind = |p: &Process| p.row.state() == State::Ready && p.opened < epoch;
            (!state.processes.values().any(behind)).then_some(())
        });
        let _ = timeout(Duration::from_secs(1), opened).await;
    }

    /// Tells one worker where to accept. A line that stays full belongs to a worker that is stuck.
    pub(super) async fn tell_doors(&self, birth: Birth) {
        let (doors, listeners, control) = {
            let state = self.state.borrow();
            let Some(process) = state.processes.get(&birth).filter(|p| !p.drains()) else {
                return;
            };
            let (doors, listeners) = state.doors(process.seat);
            (doors, listeners, process.control.clone())
        };
        let epoch = doors.epoch;
        let told = match listeners.into_iter().collect::<io::Result<Vec<_>>>() {
            Ok(listeners) => {
                let descriptors: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
                let doors = ToWorker::Doors(doors);
                let sent = control.send(&doors, &descriptors);
                timeout(TELL_DEADLINE, sent)
                    .await
                    .is_ok_and(|sent| sent.is_ok())
            }
            Err(_) => false,
        };
        if let Some(process) = self.state.borrow_mut().processes.get_mut(&birth) {
            process.told = told.then_some(epoch);
        }
    }

    /// Points every group's program at the seats whose workers are ready.
    pub(super) fn steer(&self) {
        let state = self.state.borrow();
        for group in state.groups.iter().flatten() {
            let ready = state
                .processes
                .values()
                .filter(|p| p.row.state() == State::Ready && !state.rules.paused);
            let mut places: Vec<usize> = ready.map(|p| p.seat.place).collect();
            places.sort_unstable();
            places.dedup();
            if let Err(error) = group.steer(state.rules.arm, places.into_iter()) {
                notice(format_args!("cannot steer {}: {error}", group.address()));
            }
        }
    }
}
