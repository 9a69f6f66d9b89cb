//! The dispatcher: the thread that accepts and hands over, and the control runtime's handle on it.
//! The loop itself is in `turn`.

mod turn;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use self::turn::Dispatcher;
use crate::{
    channel::Outlet,
    dispatch::{load::LoadSignal, mode::Arm, policy::Prefixes},
    listener::ListenerGroup,
    scoreboard::{RowRef, Scoreboard},
    status::Seat,
    sys::schedule::do_not_interrupt_others,
};

/// What the control runtime asks of the dispatcher.
pub(in crate::master) enum Command {
    /// A worker is ready.
    Join {
        seat: Seat,
        row: RowRef,
        outlet: Outlet,
    },
    /// The worker with this row is dead: take back what it has not claimed and look after its
    /// listeners. The sender is dropped when that is done.
    Leave {
        row: usize,
        done: oneshot::Sender<()>,
    },
    /// Accept what waits, hand it over, and end. The sender is dropped when all is claimed.
    Stop { done: oneshot::Sender<()> },
    /// End at once.
    Abandon,
}

/// The control runtime's handle on the dispatcher thread.
#[derive(Debug)]
pub(in crate::master) struct DispatcherHandle {
    commands: mpsc::Sender<Command>,
    bell: Arc<EventFd>,
}

impl DispatcherHandle {
    /// A worker is ready: it gets connections from now on.
    pub(in crate::master) fn join(&self, seat: Seat, row: RowRef, outlet: Outlet) {
        self.command(Command::Join { seat, row, outlet });
    }

    /// A worker is dead. Returns once nothing of it is held any more.
    pub(in crate::master) async fn leave(&self, row: usize) {
        let (done, left) = oneshot::channel();
        self.command(Command::Leave { row, done });
        let _ = left.await;
    }

    /// Ends the thread, after everything that waits has been accepted and claimed by a worker.
    pub(in crate::master) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        self.command(Command::Stop { done });
        let _ = stopped.await;
    }

    /// Ends the thread now: what nobody has claimed is closed.
    pub(in crate::master) fn abandon(&self) {
        self.command(Command::Abandon);
    }

    fn command(&self, command: Command) {
        // A thread that has ended drops what it is told, which ends the waits above.
        let _ = self.commands.send(command);
        let _ = self.bell.write(1);
    }
}

/// What the dispatcher decides by.
#[derive(Debug, Clone, Copy)]
pub(in crate::master) struct Rules {
    pub(in crate::master) arm: Arm,
    pub(in crate::master) prefixes: Prefixes,
    pub(in crate::master) signal: LoadSignal,
}

/// Starts the thread.
///
/// # Errors
/// No epoll set, event descriptor or thread to be had.
pub(in crate::master) fn start(
    groups: Arc<[ListenerGroup]>,
    board: Scoreboard,
    rules: Rules,
) -> io::Result<DispatcherHandle> {
    let (commands, inbox) = mpsc::channel();
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let bell = Arc::new(EventFd::from_flags(flags)?);
    let dispatcher = Dispatcher::new(groups, board, rules, inbox, bell.clone())?;
    thread::Builder::new()
        .name("dispatcher".into())
        .spawn(move || {
            prefer_batches();
            let ended = catch_unwind(AssertUnwindSafe(|| dispatcher.run()));
            let why = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it panicked".into(),
            };
            // A master that accepts nothing must not look alive: whoever supervises it shall see.
            crate::notice(format_args!("the dispatcher cannot go on: {why}"));
            std::process::exit(1);
        })?;
    Ok(DispatcherHandle { commands, bell })
}

/// A new connection would otherwise interrupt the worker that shares the core, for a batch of one.
/// Left waiting until that worker pauses, connections gather, and a batch is cheaper for both sides.
/// Where a core is idle the thread still runs at once.
fn prefer_batches() {
    if let Err(error) = do_not_interrupt_others() {
        crate::notice(format_args!(
            "hand-overs will come in smaller batches: {error}"
        ));
    }
}
