//! The door to the shared listener (modes `shared` and `hybrid`).
//!
//! A thread of its own waits, because tokio registers a shared listener without `EPOLLEXCLUSIVE`:
//! every worker would wake for every connection. The thread's private epoll set registers it
//! exclusively, so that a connection wakes one worker; and registers it anew after each accept,
//! which puts this worker at the end of the kernel's queue: first in, first out. Left where it is,
//! the same worker would be woken first every time (the pile-up that epoll is known for; `man 7
//! epoll` does not promise an order, `__wake_up_common` in kernel/sched/wait.c walks from the head).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
    thread,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Hinge,
    own::{EXHAUSTED_REST, take},
};
use crate::{
    conn::Accepted,
    dispatch::mode::{Arm, Mode},
    scoreboard::RowRef,
    sys::{
        clock::monotonic_ns,
        schedule::do_not_interrupt_others,
        socket::{AcceptError, waiting},
    },
    worker::{
        rest::{Rest, may_accept},
        serve::{Host, Protocol},
    },
};

/// Connections accepted by the thread that the loop has not seen yet. Small: behind a loop that is
/// busy or stuck the thread stops accepting, and the kernel gives the connections to others.
const QUEUE: usize = 8;

/// How long the loop may not have moved before the thread takes nothing for it.
const LAG_MS: u8 = 10;
const LAG: u64 = LAG_MS as u64 * 1_000_000;

/// The event that is no listener: somebody rang.
const BELL: u64 = u64::MAX;

/// The open door: a thread that accepts and a task that welcomes.
pub(super) struct SharedDoor {
    rest: Rest,
    welcoming: JoinHandle<()>,
}

impl SharedDoor {
    pub(super) fn open<P: Protocol>(
        host: Host<P>,
        arm: Arm,
        listeners: Vec<(u8, OwnedFd)>,
    ) -> io::Result<Self> {
        let (sender, mut queue) = mpsc::channel(QUEUE);
        let rest = host.rest().clone();
        rest.prepare(arm.mode());
        let waiter = Waiter {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            listeners,
            row: host.worker().row().clone(),
            arm,
            rest: rest.clone(),
            queue: sender,
        };
        waiter
            .epoll
            .add(&*rest.bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let (at_the_door, arrived) = std::sync::mpsc::channel();
        thread::Builder::new()
            .name("accept".into())
            .spawn(move || {
                // As the dispatcher: it shall not interrupt the loop that it feeds.
                let _hinge = Hinge;
                let _ = do_not_interrupt_others();
                if let Err(error) = waiter.run(at_the_door) {
                    // A worker that accepts nothing must not look alive: the master replaces it.
                    crate::notice(format_args!("a worker can accept no more: {error}"));
                    std::process::exit(1);
                }
            })?;
        // Ready is said only by a worker that stands in the queue. An error has said so already.
        let _ = arrived.recv();
        let welcoming = tokio::task::spawn_local(async move {
            let _hinge = Hinge;
            while let Some(conn) = queue.recv().await {
                host.welcome(conn);
            }
        });
        Ok(Self { rest, welcoming })
    }

    /// Stops accepting and welcomes what the thread has already taken.
    pub(super) async fn close(self) {
        self.rest.stopping.store(true, Release);
        self.rest.ring();
        // Ends when the thread has dropped its end of the queue and the queue is empty.
        let _ = self.welcoming.await;
    }
}

/// The thread's side.
struct Waiter {
    epoll: Epoll,
    listeners: Vec<(u8, OwnedFd)>,
    row: RowRef,
    arm: Arm,
    rest: Rest,
    queue: mpsc::Sender<Accepted>,
}

/// Is the thread in the kernel's queue for connections, and if not, why?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stance {
    /// It waits for a connection.
    Waiting,
    /// The worker has more than its share: it looks again when that changes.
    Loaded,
    /// The loop would not look at what is taken for it: it looks again soon.
    Behind,
}

impl Waiter {
    fn run(mut self, at_the_door: std::sync::mpsc::Sender<()>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 16];
        let mut stance = self.take_stance(None)?;
        drop(at_the_door);
        while !self.rest.stopping.load(Acquire) {
            stance = self.take_stance(Some(stance))?;
            let timeout = match stance {
                Stance::Behind => EpollTimeout::from(LAG_MS),
                Stance::Waiting | Stance::Loaded => EpollTimeout::NONE,
            };
            let n = match self.epoll.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..n] {
                match event.data() {
                    BELL => _ = self.rest.bell.read(),
                    // Left to others, or to the dispatcher, which looks after connections that nobody
                    // takes.
                    _ if self.loop_is_behind() => break,
                    place => {
                        if !self.accept_one(place as usize)? {
                            return Ok(());
                        }
                        self.leave(place as usize)?;
                        self.join(place as usize)?;
                    }
                }
            }
        }
        if stance == Stance::Waiting {
            for place in 0..self.listeners.len() {
                self.leave_for_good(place)?;
            }
        }
        Ok(())
    }

    /// Joins or leaves the queue of those who wait for a connection.
    fn take_stance(&mut self, before: Option<Stance>) -> io::Result<Stance> {
        let stance = if self.loop_is_behind() {
            Stance::Behind
        } else if self.arm.mode() == Mode::Hybrid {
            self.weigh()
        } else {
            Stance::Waiting
        };
        let was_waiting = before == Some(Stance::Waiting);
        if (stance == Stance::Waiting) != was_waiting {
            for place in 0..self.listeners.len() {
                match stance {
                    Stance::Waiting => self.join(place)?,
                    Stance::Loaded => self.leave_for_good(place)?,
                    // Whoever comes now would wait for this loop: better for another worker, or
                    // for the master, which looks after connections that nobody takes.
                    Stance::Behind => self.leave(place)?,
                }
            }
        }
        Ok(stance)
    }

    /// Mode `hybrid`: has the worker its share already?
    fn weigh(&self) -> Stance {
        let mut open = may_accept(&self.row);
        self.rest.resting.store(!open, Release);
        if !open {
            // The load may have moved before anybody saw the flag.
            fence(SeqCst);
            open = may_accept(&self.row);
            self.rest.resting.store(!open, Release);
        }
        if open {
            Stance::Waiting
        } else {
            Stance::Loaded
        }
    }

    /// Is the loop stuck or busy, so that it would not look at a connection that is taken for it? One
    /// that waits will wake for it.
    fn loop_is_behind(&self) -> bool {
        let work = &self.row.work;
        work.parked.load(Relaxed) == 0
            && monotonic_ns().saturating_sub(work.loop_entered.load(Relaxed)) > LAG
    }

    fn join(&self, place: usize) -> nix::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        self.epoll.add(
            &self.listeners[place].1,
            EpollEvent::new(flags, place as u64),
        )
    }

    fn leave(&self, place: usize) -> nix::Result<()> {
        self.epoll.delete(&self.listeners[place].1)
    }

    /// Leaves the queue, and takes the connection for which the kernel may just have woken this thread
    /// and nobody else: the others would sleep on.
    fn leave_for_good(&mut self, place: usize) -> io::Result<()> {
        self.leave(place)?;
        if waiting(self.listeners[place].1.as_fd())? > 0 {
            self.accept_one(place)?;
        }
        Ok(())
    }

    /// Takes one connection. False: the loop is gone.
    fn accept_one(&mut self, place: usize) -> io::Result<bool> {
        let (id, listener) = &self.listeners[place];
        match take(listener, &self.row, *id, self.arm) {
            Ok(conn) => {
                if self.queue.blocking_send(conn).is_err() {
                    return Ok(false);
                }
            }
            Err(AcceptError::Exhausted) => thread::sleep(EXHAUSTED_REST),
            Err(AcceptError::Empty | AcceptError::Connection) => {}
        }
        Ok(true)
    }
}
