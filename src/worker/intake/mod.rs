//! Intake: the doors by which connections come into a worker. Whichever door it was, what comes out
//! is a [`Conn`](crate::conn::Conn), and from there on all go the same way.

mod handed;
mod own;
mod shared;

use std::{io, os::fd::OwnedFd, rc::Rc, sync::Arc};

use tokio::{sync::Notify, task::JoinHandle};

use self::{
    handed::HandedDoor,
    own::{OwnDoor, Swept},
    shared::SharedDoor,
};
use super::{app::Application, serve::Host};
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
pub(super) struct Intake<A> {
    handed: (Rc<HandedDoor<A>>, JoinHandle<()>),
    own: Vec<(Rc<OwnDoor<A>>, JoinHandle<()>)>,
    shared: Option<SharedDoor>,
    /// Told when the master's end of the hand-over line is closed.
    orphaned: Arc<Notify>,
}

impl<A: Application> Intake<A> {
    /// Opens the door for what the master hands over, always, and one for each of `listeners` where
    /// the mode has workers accept by themselves.
    pub(super) fn open(
        host: &Host<A>,
        inlet: Inlet,
        arm: Arm,
        listeners: Vec<(u8, OwnedFd)>,
    ) -> io::Result<Self> {
        let orphaned = Arc::new(Notify::new());
        let handed = Rc::new(HandedDoor::new(host.clone(), inlet));
        let running = tokio::task::spawn_local({
            let (door, orphaned) = (handed.clone(), orphaned.clone());
            async move {
                let _hinge = Hinge;
                door.run().await;
                orphaned.notify_one();
            }
        });
        let (mut own, mut shared) = (Vec::new(), None);
        match arm.mode() {
            Mode::Handoff => {}
            Mode::Reuseport => {
                for (id, listener) in listeners {
                    let door = Rc::new(OwnDoor::new(host.clone(), id, arm, listener)?);
                    let running = tokio::task::spawn_local({
                        let door = door.clone();
                        async move {
                            let _hinge = Hinge;
                            door.run().await;
                        }
                    });
                    own.push((door, running));
                }
            }
            Mode::Hybrid | Mode::Shared => {
                shared = Some(SharedDoor::open(host.clone(), arm, listeners)?);
            }
        }
        Ok(Self {
            handed: (handed, running),
            own,
            shared,
            orphaned,
        })
    }

    /// Waits until the master is gone.
    pub(super) async fn closed(&self) {
        self.orphaned.notified().await;
    }

    /// Closes every door, after a last look at what waits behind it: that is already ours.
    pub(super) async fn close(self) {
        let (door, running) = self.handed;
        running.abort();
        door.sweep();
        for (door, running) in self.own {
            running.abort();
            while let Swept::More = door.sweep() {}
        }
        if let Some(door) = self.shared {
            door.close().await;
        }
    }
}
