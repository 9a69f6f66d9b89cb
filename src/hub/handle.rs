//! What the rest of the master asks of the hub. Nobody ever waits for it: a hub that has ended drops
//! what it is told, and with it the line that came along, so that whoever is at its other end sees a
//! bus that is closed.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc::UnboundedSender, oneshot},
    time::timeout,
};

use super::{
    core::Counters,
    nats,
    tally::{self, Tally},
};
use crate::{
    bus::{Departure, MasterId, Peer, ProcessId, Role, control::Ask, line},
    scoreboard::RowRef,
};

/// How long the hub may take to answer a question.
const ANSWER: Duration = Duration::from_secs(1);

/// A handle on the hub. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HubHandle {
    pub(super) me: MasterId,
    /// The number of the next process.
    pub(super) next: Arc<AtomicU32>,
    pub(super) orders: UnboundedSender<Order>,
    pub(super) counters: Arc<Counters>,
    pub(super) nats: Arc<nats::Counters>,
    pub(super) alive: Arc<AtomicBool>,
}

/// A process that comes to the hub.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) number: u32,
    pub(super) role: Role,
    pub(super) pid: i32,
    /// Where its load is seen.
    pub(super) row: Option<RowRef>,
    pub(super) line: OwnedFd,
    /// What it had asked of the hub before this one; `None`: it is new.
    pub(super) wishes: Option<Vec<Ask>>,
}

/// What the hub is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Somebody comes.
    Join(Arrival),
    /// It is ready.
    Ready(u32),
    /// It has ended.
    Leave(u32, Departure),
    /// Who is there?
    Peers(oneshot::Sender<Vec<Peer>>),
    /// Pass on what waits, for so long at the most, and then touch no line: another binary is about to
    /// take them over. Answered when that is so.
    Freeze(Duration, oneshot::Sender<()>),
    /// Not after all.
    Thaw,
    /// The lines, to be carried over, and how many messages wait for them.
    Lines(mpsc::Sender<Lines>),
    /// Fail as nobody ever should.
    #[cfg(test)]
    Panic,
}

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// A process's of this master, by number.
    Process(u32),
    /// The hub's of a master that this process has started.
    Below(ProcessId),
    /// The hub's of the master above.
    Above,
    /// The hub's of a master that was met on NATS.
    Met(MasterId),
}

/// The hub's ends of its lines, duplicated, each with what its process has asked for, and how many
/// messages wait for them.
pub(super) type Lines = (Vec<CarriedLine>, u64);

/// One line, for another binary.
#[derive(Debug)]
pub(crate) struct CarriedLine {
    pub(crate) whose: Whose,
    pub(crate) line: OwnedFd,
    /// What the process has asked of the hub.
    pub(crate) wishes: Vec<Ask>,
}

/// What a hub is to know of the one that was in this process before.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) me: MasterId,
    /// The number of the next process.
    pub(crate) next: u32,
    /// What it has counted.
    pub(crate) tally: Tally,
    /// The lines. Those of its processes are not the hub's to take up: the supervisor
    /// [`resume`](HubHandle::resume)s them.
    pub(crate) links: Vec<CarriedLine>,
}

impl HubHandle {
    /// The master's name on the bus.
    pub(crate) fn me(&self) -> MasterId {
        self.me
    }

    /// What the hub has counted.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What has been counted on the way through NATS.
    pub(crate) fn nats(&self) -> &Arc<nats::Counters> {
        &self.nats
    }

    /// Does the hub still go on?
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    /// A process has started; `line` is the hub's end of the one that it was born with, `row` where its
    /// load is seen.
    pub(crate) fn join(
        &self,
        role: Role,
        pid: i32,
        row: Option<RowRef>,
        line: OwnedFd,
    ) -> ProcessId {
        self.admit(Arrival {
            number: self.next.fetch_add(1, Relaxed),
            role,
            pid,
            row,
            line,
            wishes: None,
        })
    }

    /// A process goes on that has had this number before, and has asked for this.
    pub(crate) fn resume(
        &self,
        number: u32,
        role: Role,
        pid: i32,
        row: Option<RowRef>,
        line: OwnedFd,
        wishes: Vec<Ask>,
    ) -> ProcessId {
        self.admit(Arrival {
            number,
            role,
            pid,
            row,
            line,
            wishes: Some(wishes),
        })
    }

    fn admit(&self, arrival: Arrival) -> ProcessId {
        let number = arrival.number;
        self.order(Order::Join(arrival));
        ProcessId {
            master: self.me,
            number,
        }
    }

    /// A process is ready.
    pub(crate) fn ready(&self, process: ProcessId) {
        self.order(Order::Ready(process.number));
    }

    /// A process has ended.
    pub(crate) fn leave(&self, process: ProcessId, why: Departure) {
        self.order(Order::Leave(process.number, why));
    }

    /// A line for somebody who came in by the control socket, whose process id is `pid`. It is gone when
    /// it closes the line.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub(crate) fn guest(&self, pid: i32) -> io::Result<OwnedFd> {
        let (ours, theirs) = line::pair()?;
        self.join(Role::Guest, pid, None, ours);
        Ok(theirs)
    }

    /// A line for the master itself, which is process number 0. One at a time.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub(crate) fn own(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = line::pair()?;
        let pid = std::process::id() as i32;
        self.admit(Arrival {
            number: 0,
            role: Role::Master,
            pid,
            row: None,
            line: ours,
            wishes: None,
        });
        Ok(theirs)
    }

    /// Who is on the bus; nobody, if the hub has ended.
    pub(crate) async fn peers(&self) -> Vec<Peer> {
        let (done, answer) = oneshot::channel();
        self.order(Order::Peers(done));
        match timeout(ANSWER, answer).await {
            Ok(Ok(peers)) => peers,
            _ => Vec::new(),
        }
    }

    /// Passes on what waits for processes, for up to `limit`, and touches no line from then on. What
    /// still waits after that is lost if another binary takes over, and counted.
    pub(crate) async fn freeze(&self, limit: Duration) {
        let (done, answer) = oneshot::channel();
        self.order(Order::Freeze(limit, done));
        let _ = timeout(limit + ANSWER, answer).await;
    }

    /// Goes on after a [`freeze`](Self::freeze), or begins: a hub that goes on where another was touches
    /// no line before all are there.
    pub(crate) fn thaw(&self) {
        self.order(Order::Thaw);
    }

    /// What another binary is to know of this hub. Blocks for a moment; there are no lines if the hub has
    /// ended. What still waits for somebody counts as lost.
    pub(crate) fn pack(&self) -> Carried {
        let (done, answer) = mpsc::channel();
        self.order(Order::Lines(done));
        let (links, waiting) = answer.recv_timeout(ANSWER).unwrap_or_default();
        let mut tally = tally::tally(&self.counters);
        tally.extend(self.nats.tally());
        *tally.entry(tally::LOST_WITH_THE_LINE.into()).or_default() += waiting;
        Carried {
            me: self.me,
            next: self.next.load(Relaxed),
            tally,
            links,
        }
    }

    pub(super) fn order(&self, order: Order) {
        // A thread that has ended drops what it is told, which ends the waits above.
        let _ = self.orders.send(order);
    }
}
