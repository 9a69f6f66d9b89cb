//! Intake: the doors by which connections come into a worker. Whichever door it was, what comes out
//! is an [`Accepted`](crate::conn::Accepted), and from there on all go the same way.

mod handed;
mod own;
mod shared;

use std::{io, os::fd::OwnedFd, rc::Rc};

use tokio::task::JoinHandle;

use self::{
    handed::HandedDoor,
    own::{OwnDoor, Swept},
    shared::SharedDoor,
};
use super::serve::{Host, Protocol};
use crate::{
    channel::Inlet,
    dispatch::mode::{Arm, Mode},
};

/// Held by the task or thread of a door: a door that panics ends the process, which the master
/// replaces. Nobody would come in by it any more, and the worker would still look ready.
struct Hinge;

impl Drop for Hinge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::notice(format_args!("a worker can take no more connections"));
            std::process::exit(1);
        }
    }
}

/// All doors of one worker, open.
pub(super) struct Intake<P> {
    host: Host<P>,
    handed: (Rc<HandedDoor<P>>, JoinHandle<()>),
    own: Vec<(Rc<OwnDoor<P>>, JoinHandle<()>)>,
    shared: Option<SharedDoor>,
}

impl<P: Protocol> Intake<P> {
    /// Opens the door for what the master hands over, which stays open in every mode.
    pub(super) fn open(host: &Host<P>, inlet: Inlet) -> Self {
        let handed = Rc::new(HandedDoor::new(host.clone(), inlet));
        let running = tokio::task::spawn_local({
            let door = handed.clone();
            async move {
                let _hinge = Hinge;
                // It ends when the master has no more for this worker, which the master will say, or
                // is gone, which the control line will show.
                door.run().await;
            }
        });
        Self {
            host: host.clone(),
            handed: (handed, running),
            own: Vec::new(),
            shared: None,
        }
    }

    /// Closes the doors by which the worker accepts by itself, and opens those of `arm`: one for each
    /// of `listeners`, where the mode has workers accept by themselves. What waits behind a door that
    /// is closed is not lost: the master holds its listener too.
    ///
    /// # Errors
    /// As `epoll_create(2)`, `epoll_ctl(2)` or for want of a thread.
    pub(super) async fn reopen(
        &mut self,
        arm: Arm,
        listeners: Vec<(u8, OwnedFd)>,
    ) -> io::Result<()> {
        self.close_own().await;
        match arm.mode() {
            Mode::Handoff => {}
            _ if listeners.is_empty() => {}
            Mode::Reuseport => {
                for (id, listener) in listeners {
                    let door = Rc::new(OwnDoor::new(self.host.clone(), id, arm, listener)?);
                    let running = tokio::task::spawn_local({
                        let door = door.clone();
                        async move {
                            let _hinge = Hinge;
                            door.run().await;
                        }
                    });
                    self.own.push((door, running));
                }
            }
            Mode::Hybrid | Mode::Shared => {
                self.shared = Some(SharedDoor::open(self.host.clone(), arm, listeners)?);
            }
        }
        Ok(())
    }

    /// Closes every door, after a last look at what waits behind it: that is already ours.
    pub(super) async fn close(mut self) {
        let (door, running) = &self.handed;
        running.abort();
        door.sweep();
        self.close_own().await;
    }

    async fn close_own(&mut self) {
        for (door, running) in self.own.drain(..) {
            running.abort();
            while let Swept::More = door.sweep() {}
        }
        if let Some(door) = self.shared.take() {
            door.close().await;
        }
    }
}
