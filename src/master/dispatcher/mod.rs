//! The dispatcher: the thread that accepts and hands over, and the control runtime's handle on it.
//! The loop itself is in `turn`, a worker as it sees it in `lane`, what it has in the kernel's epoll set in `watch`, who is stuck in
//! `hang` and `health`, whom it may choose among in `share`, and what other policies would have done in
//! `shade`.

mod hang;
mod health;
mod lane;
mod shade;
mod share;
mod turn;
mod watch;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc::UnboundedSender, oneshot},
    time::timeout,
};

use self::turn::Dispatcher;
use crate::{
    channel::Outlet,
    config::HangLimits,
    dispatch::{decision::Recorded, load::LoadSignal, mode::Arm, pins::Sorter, policy::Prefixes},
    listener::Groups,
    scoreboard::{RowRef, Scoreboard},
    status::Seat,
    sys::{child::hold_signals, schedule::do_not_interrupt_others},
};

/// A worker that takes connections, as the dispatcher gets to know it.
#[derive(Debug)]
pub(in crate::master) struct Recruit {
    pub(in crate::master) seat: Seat,
    pub(in crate::master) row: RowRef,
    pub(in crate::master) outlet: Outlet,
    /// The number of the next connection to be handed to it, 1 for a new one.
    pub(in crate::master) next: u32,
}

/// What the control runtime asks of the dispatcher. Where there is a `done`, it is answered, or
/// dropped, when that is so.
pub(in crate::master) enum Command {
    /// A worker is ready. It takes the place of another, perhaps, with no moment between.
    Join {
        recruit: Recruit,
        instead_of: Option<usize>,
    },
    /// The worker with this row gets nothing more: take back what it has not claimed and look after
    /// its listeners.
    Leave {
        row: usize,
        done: oneshot::Sender<()>,
    },
    /// Decide by these from now on.
    Rules {
        rules: Rules,
        done: oneshot::Sender<()>,
    },
    /// Accept from these listeners and no others.
    Groups {
        groups: Groups,
        done: oneshot::Sender<()>,
    },
    /// Tell the last decisions, this many at the most, the newest first.
    Decisions {
        last: usize,
        done: oneshot::Sender<Vec<Recorded>>,
    },
    /// Say that you are there.
    Ping { done: oneshot::Sender<()> },
    /// Accept no more and, when all is claimed, end and give back the lines to the workers.
    Freeze { done: oneshot::Sender<Vec<Recruit>> },
    /// Not after all.
    Thaw,
    /// Accept what waits, hand it over, and end. The sender is dropped when all is claimed.
    Stop { done: oneshot::Sender<()> },
    /// End at once.
    Abandon,
}

/// What the dispatcher sees happen to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::master) enum Report {
    /// It is stuck, and gets nothing for now.
    Hung { row: usize },
    /// It moves again.
    Moves { row: usize },
    /// It has been stuck for too long.
    Overdue { row: usize },
}

/// The control runtime's handle on the dispatcher thread.
#[derive(Debug)]
pub(in crate::master) struct DispatcherHandle {
    commands: mpsc::Sender<Command>,
    bell: Arc<EventFd>,
}

impl DispatcherHandle {
    /// A worker is ready: it gets connections from now on, and `instead_of` (a row) gets none.
    pub(in crate::master) fn join(&self, recruit: Recruit, instead_of: Option<usize>) {
        self.command(Command::Join {
            recruit,
            instead_of,
        });
    }

    /// A worker gets nothing more. Returns once nothing of it is held any more.
    pub(in crate::master) async fn leave(&self, row: usize) {
        self.ask(|done| Command::Leave { row, done }).await;
    }

    /// Returns once connections are dispatched by `rules`.
    pub(in crate::master) async fn set_rules(&self, rules: Rules) {
        self.ask(|done| Command::Rules { rules, done }).await;
    }

    /// Returns once connections are accepted from `groups` and no others.
    pub(in crate::master) async fn set_groups(&self, groups: Groups) {
        self.ask(|done| Command::Groups { groups, done }).await;
    }

    /// The last decisions, `last` at the most, the newest first. `None`: the thread has ended.
    pub(in crate::master) async fn decisions(&self, last: usize) -> Option<Vec<Recorded>> {
        self.ask(|done| Command::Decisions { last, done }).await
    }

    /// Is the thread alive? Returns once it has answered.
    pub(in crate::master) async fn ping(&self) -> bool {
        self.ask(|done| Command::Ping { done }).await.is_some()
    }

    /// Ends the thread once all that was accepted is claimed, and gives back the workers' lines.
    /// `None`: that is not so within `limit`, and the thread goes on; or it has ended otherwise.
    pub(in crate::master) async fn freeze(&self, limit: Duration) -> Option<Vec<Recruit>> {
        let (done, mut answer) = oneshot::channel();
        self.command(Command::Freeze { done });
        if let Ok(recruits) = timeout(limit, &mut answer).await {
            return recruits.ok();
        }
        // It may answer in this very moment: then the lines are here, or they would close. If they are
        // not, it can answer no more, and goes on.
        answer.close();
        let recruits = answer.try_recv().ok();
        if recruits.is_none() {
            self.command(Command::Thaw);
        }
        recruits
    }

    /// Ends the thread, after everything that waits has been accepted and claimed by a worker.
    pub(in crate::master) async fn stop(&self) {
        self.ask(|done| Command::Stop { done }).await;
    }

    /// Ends the thread now: what nobody has claimed is closed.
    pub(in crate::master) fn abandon(&self) {
        self.command(Command::Abandon);
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.command(command(done));
        answer.await.ok()
    }

    fn command(&self, command: Command) {
        // A thread that has ended drops what it is told, which ends the waits above.
        let _ = self.commands.send(command);
        let _ = self.bell.write(1);
    }
}

/// What the dispatcher decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::master) struct Rules {
    pub(in crate::master) arm: Arm,
    pub(in crate::master) prefixes: Prefixes,
    pub(in crate::master) signal: LoadSignal,
    pub(in crate::master) hang: HangLimits,
    /// Are shadow policies asked about every connection?
    pub(in crate::master) shadow: bool,
    /// Who goes to which worker group; `None`: there are none. Made from the settings, and so not
    /// carried over.
    #[serde(skip)]
    pub(in crate::master) sorter: Option<Arc<Sorter>>,
    /// Nothing is accepted for now.
    pub(in crate::master) paused: bool,
}

/// Starts the thread.
///
/// # Errors
/// No epoll set, event descriptor or thread to be had.
pub(in crate::master) fn start(
    groups: Groups,
    board: Scoreboard,
    rules: Rules,
    recruits: Vec<Recruit>,
    reports: UnboundedSender<Report>,
) -> io::Result<DispatcherHandle> {
    let (commands, inbox) = mpsc::channel();
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let bell = Arc::new(EventFd::from_flags(flags)?);
    let dispatcher = Dispatcher::new(groups, board, rules, inbox, bell.clone(), reports)?;
    thread::Builder::new()
        .name("dispatcher".into())
        .spawn(move || {
            // They are for the main thread, which may hand them on to another binary.
            hold_signals();
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
    let handle = DispatcherHandle { commands, bell };
    for recruit in recruits {
        handle.join(recruit, None);
    }
    Ok(handle)
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
