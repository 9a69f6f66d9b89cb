//! What this process has to say: frames written straight into packets, and who waits for them to go.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use super::super::{
    error::BusError,
    frame::{self, Attached, Encoding, HEADER, Header, Kind, Space},
    id::{MasterId, ProcessId},
    line::Line,
    queue::Queue,
    to::To,
};
use crate::sys::fdpass::is_full;

/// So many bytes may wait to be sent. What the hub holds for this process comes on top.
const LIMIT: usize = 4 * 1024 * 1024;
/// So many descriptors may: each is an open file of this process.
const DESCRIPTORS: usize = 64;
/// Packets that are sent before others on this thread get their turn.
const PACKETS_PER_TURN: usize = 16;

/// The way out.
pub(super) struct Outgoing {
    waiting: Mutex<Waiting>,
    /// Calls the task that sends.
    pub(super) wake: Notify,
}

struct Waiting {
    queue: Queue<Arc<Parcel>>,
    /// The task has been called and has not come yet: one call for all that is said until then.
    called: bool,
    /// Bytes said so far.
    said: u64,
    /// Who waits until so many bytes have gone, in order.
    flushes: VecDeque<(u64, oneshot::Sender<()>)>,
    /// The last handle is gone: what waits still goes, nothing else.
    leaving: bool,
    closed: bool,
}

/// A descriptor on its way into the line. The sender keeps hold of it as well, in case it comes to
/// nothing.
#[derive(Debug)]
pub(super) struct Parcel {
    contents: Mutex<Contents>,
}

#[derive(Debug)]
struct Contents {
    /// `None`: taken back.
    fd: Option<OwnedFd>,
    /// It has gone into the line, and whoever reads it there may do with it as they like.
    sent: bool,
}

impl Parcel {
    pub(super) fn new(fd: OwnedFd) -> Arc<Self> {
        let contents = Contents {
            fd: Some(fd),
            sent: false,
        };
        Arc::new(Self {
            contents: Mutex::new(contents),
        })
    }

    /// Takes it back, whether it has been sent or not; it will not be any more.
    pub(super) fn take(&self) -> Option<OwnedFd> {
        self.contents().fd.take()
    }

    /// Takes it back if it has not been sent.
    pub(super) fn withdraw(&self) -> Option<OwnedFd> {
        let mut contents = self.contents();
        match contents.sent {
            true => None,
            false => contents.fd.take(),
        }
    }

    /// Sends it, unless it has been taken back.
    fn send(&self, packet: &[u8], line: &Line) -> io::Result<()> {
        let mut contents = self.contents();
        if let Some(fd) = &contents.fd {
            line.try_send(packet, Some(fd.as_fd()))?;
            contents.sent = true;
        }
        Ok(())
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A frame to be.
#[derive(Debug)]
pub(super) struct Words<'a> {
    pub(super) kind: Kind,
    pub(super) space: Space,
    pub(super) encoding: Encoding,
    pub(super) id: u64,
    /// Monotonic clock, nanoseconds; 0: never.
    pub(super) deadline: u64,
    pub(super) to: &'a To,
    pub(super) name: &'a str,
    pub(super) payload: &'a [u8],
    /// What the descriptor is, and it.
    pub(super) attached: Option<(Attached, Arc<Parcel>)>,
}

/// What a [`send`](Outgoing::send) came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing waits any more.
    All,
    /// There is more, and room for it: it is somebody else's turn now.
    Turn,
    /// The line is full.
    Full,
    /// Nobody is at the other end.
    Closed,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                queue: Queue::new(LIMIT),
                called: false,
                said: 0,
                flushes: VecDeque::new(),
                leaving: false,
                closed: false,
            }),
            wake: Notify::new(),
        }
    }

    /// Puts a frame with the others that wait. Never waits itself.
    ///
    /// # Errors
    /// [`BusError::Full`] and [`BusError::Closed`].
    #[inline]
    pub(super) fn say(&self, words: Words<'_>) -> Result<(), BusError> {
        let size = HEADER + words.to.size() + words.name.len() + words.payload.len();
        let mut waiting = self.waiting();
        if waiting.closed || waiting.leaving {
            return Err(BusError::Closed);
        }
        if !waiting.has_room(words.kind, size, words.attached.is_some()) {
            return Err(BusError::Full);
        }
        let (attached, parcel) = words.attached.unzip();
        let header = Header {
            kind: words.kind,
            space: words.space,
            encoding: words.encoding,
            attached: attached.unwrap_or(Attached::Nothing),
            sequence: 0,
            from: NOBODY,
            id: words.id,
            deadline: words.deadline,
        };
        waiting.queue.push(size, parcel, |bytes| {
            frame::encode(&header, words.to, words.name, &[], words.payload, bytes);
        });
        waiting.said += size as u64;
        let call = !std::mem::replace(&mut waiting.called, true);
        drop(waiting);
        if call {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// When all that has been said by now has gone; the sender of the signal is dropped if it never
    /// will. `None`: nothing waits.
    ///
    /// # Errors
    /// [`BusError::Closed`].
    pub(super) fn flushed(&self) -> Result<Option<oneshot::Receiver<()>>, BusError> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(BusError::Closed);
        }
        if waiting.queue.is_empty() {
            return Ok(None);
        }
        let (signal, flushed) = oneshot::channel();
        let said = waiting.said;
        waiting.flushes.push_back((said, signal));
        Ok(Some(flushed))
    }

    /// Sends what waits, as far as there is room in the line.
    pub(super) fn send(&self, line: &Line) -> Sent {
        let mut waiting = self.waiting();
        waiting.called = false;
        for _ in 0..PACKETS_PER_TURN {
            let Some((packet, parcel)) = waiting.queue.front() else {
                return Sent::All;
            };
            let has_parcel = parcel.is_some();
            let sent = match parcel {
                None => line.try_send(packet, None),
                Some(parcel) => parcel.send(packet, line),
            };
            match sent {
                Ok(()) => waiting.gone(),
                Err(error) if is_full(&error) => return Sent::Full,
                // The kernel may not let another descriptor on its way. Whoever sent it gets it back when
                // there is no answer.
                Err(error) if has_parcel && !is_end(&error) => waiting.gone(),
                Err(_) => return Sent::Closed,
            }
        }
        match waiting.queue.is_empty() {
            true => Sent::All,
            false => Sent::Turn,
        }
    }

    /// Nothing more will be said; the task is called to send the rest and go.
    pub(super) fn leave(&self) {
        self.waiting().leaving = true;
        self.wake.notify_one();
    }

    /// Is that so?
    pub(super) fn is_leaving(&self) -> bool {
        self.waiting().leaving
    }

    /// The line is gone: nothing that waits will be sent.
    pub(super) fn close(&self) {
        let (queue, flushes) = {
            let mut waiting = self.waiting();
            waiting.closed = true;
            let queue = std::mem::replace(&mut waiting.queue, Queue::new(0));
            (queue, std::mem::take(&mut waiting.flushes))
        };
        // Descriptors are closed and waiters woken without the lock.
        drop((queue, flushes));
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that panics is done under this lock but what ends the process's part in the bus.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does it say that nobody is at the other end?
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

/// The hub puts in who really sent it.
const NOBODY: ProcessId = ProcessId {
    master: MasterId(0),
    number: 0,
};

impl Waiting {
    /// May a frame of this kind and size come on top of what waits?
    fn has_room(&self, kind: Kind, size: usize, attached: bool) -> bool {
        if attached && self.queue.attached() >= DESCRIPTORS {
            return false;
        }
        match kind {
            // Each is made once, or somebody waits for it before they ask for more.
            Kind::Ask => true,
            // Whoever waits for an answer shall not suffer for a flood of messages.
            Kind::Reply | Kind::Failure => self.queue.bytes() + size <= 2 * LIMIT,
            _ => self.queue.has_room(size),
        }
    }

    /// The packet in front is in the line.
    fn gone(&mut self) {
        self.queue.pop();
        let gone = self.said - self.queue.bytes() as u64;
        while self.flushes.front().is_some_and(|(at, _)| *at <= gone) {
            if let Some((_, signal)) = self.flushes.pop_front() {
                // Whoever waited may have given up.
                let _ = signal.send(());
            }
        }
    }
}
