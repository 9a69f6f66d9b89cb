//! What has come for one subscription and has not been looked at yet: bounded, by number and by the
//! memory that it holds.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::subscription::Overflow;

/// So much memory may be held by what waits, in bytes.
const MEMORY: usize = 4 * 1024 * 1024;

/// Something that comes in packets.
pub(super) trait Item {
    /// Which packet it is a part of, and how large that is: the whole of it stays as long as any part
    /// is held. `None`: it has its own memory.
    fn packet(&self) -> Option<(u64, usize)>;
    /// The bytes that it needs itself.
    fn size(&self) -> usize;
    /// Copies it out of its packet.
    fn settle(&mut self);
    /// It goes because there are too many; whoever waits for an answer is told so.
    fn overflowed(&self);
}

/// What waits, and who waits for it.
pub(super) struct Inbox<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    waiting: VecDeque<Waiting<T>>,
    limit: usize,
    overflow: Overflow,
    /// Memory that is held.
    memory: usize,
    /// Lost since the last that came.
    missed: u64,
    /// Lost in all.
    all_missed: u64,
    end: Option<End>,
    waker: Option<Waker>,
}

struct Waiting<T> {
    item: T,
    /// Memory that is free when it has gone: of all that came in one packet the last stands for the
    /// packet, the others for nothing.
    memory: usize,
    /// Lost just before it.
    missed: u64,
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The bus is closed.
    Closed,
    /// Too much waited; this was lost.
    Cut { missed: u64 },
    /// That has been said.
    Said,
}

/// What is next.
#[derive(Debug)]
pub(super) enum Next<T> {
    /// This, and so many have been lost just before it.
    Item(T, u64),
    /// Nothing more: too much waited, and so many were lost.
    Cut(u64),
    /// Nothing more.
    End,
}

/// What came of putting something in.
#[derive(Debug)]
pub(super) struct Outcome<T> {
    /// To be woken, when no lock is held.
    pub(super) waker: Option<Waker>,
    /// What had to go for it, or itself: to be dropped when no lock is held.
    pub(super) lost: Vec<T>,
}

impl<T: Item> Inbox<T> {
    pub(super) fn new(limit: usize, overflow: Overflow) -> Self {
        Self {
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                limit: limit.max(1),
                overflow,
                memory: 0,
                missed: 0,
                all_missed: 0,
                end: None,
                waker: None,
            }),
        }
    }

    /// Puts one in.
    pub(super) fn push(&self, item: T) -> Outcome<T> {
        let mut inner = self.inner();
        let mut lost = Vec::new();
        if inner.end.is_some() {
            lost.push(item);
            return Outcome { waker: None, lost };
        }
        inner.append(item);
        if inner.memory > MEMORY {
            inner.settle();
        }
        while inner.waiting.len() > inner.limit || inner.memory > MEMORY {
            if inner.overflow == Overflow::Cut {
                lost.extend(inner.drop_newest());
                inner.cut(1);
                break;
            }
            lost.extend(inner.drop_oldest());
        }
        Outcome {
            waker: inner.waker.take(),
            lost,
        }
    }

    /// So many have been lost on the way here, and nobody knows which.
    pub(super) fn skip(&self, lost: u64) -> Option<Waker> {
        let mut inner = self.inner();
        if inner.end.is_some() {
            return None;
        }
        if inner.overflow == Overflow::Cut {
            inner.cut(lost);
            return inner.waker.take();
        }
        inner.missed += lost;
        inner.all_missed += lost;
        None
    }

    /// Nothing more will come; what waits can still be taken.
    pub(super) fn close(&self) -> Option<Waker> {
        let mut inner = self.inner();
        inner.end.get_or_insert(End::Closed);
        inner.waker.take()
    }

    /// Nobody will look any more: what waits is handed back, and nothing is taken.
    pub(super) fn discard(&self) -> Vec<T> {
        let mut inner = self.inner();
        inner.end = Some(End::Said);
        inner.memory = 0;
        let waiting = std::mem::take(&mut inner.waiting);
        waiting.into_iter().map(|one| one.item).collect()
    }

    /// Takes the oldest.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Next<T>> {
        let mut inner = self.inner();
        if let Some(one) = inner.waiting.pop_front() {
            inner.memory -= one.memory;
            return Poll::Ready(Next::Item(one.item, one.missed));
        }
        match inner.end {
            Some(End::Cut { missed }) => {
                inner.end = Some(End::Said);
                Poll::Ready(Next::Cut(missed))
            }
            Some(End::Closed | End::Said) => Poll::Ready(Next::End),
            None => {
                let same = |waker: &Waker| waker.will_wake(cx.waker());
                if !inner.waker.as_ref().is_some_and(same) {
                    inner.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// How many have been lost so far.
    pub(super) fn all_missed(&self) -> u64 {
        self.inner().all_missed
    }

    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What waits is nobody's business.
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl<T: Item> Inner<T> {
    fn append(&mut self, item: T) {
        let (packet, size) = match item.packet() {
            Some((packet, size)) => (Some(packet), size),
            None => (None, item.size()),
        };
        let together = |before: &&mut Waiting<T>| {
            packet.is_some() && before.item.packet().map(|(packet, _)| packet) == packet
        };
        let memory = match self.waiting.back_mut().filter(together) {
            // It stands for the packet now.
            Some(before) => std::mem::take(&mut before.memory),
            None => {
                self.memory += size;
                size
            }
        };
        self.waiting.push_back(Waiting {
            item,
            memory,
            missed: std::mem::take(&mut self.missed),
        });
    }

    /// Copies all that waits out of packets that hold much else: few messages of many packets are
    /// waiting here. Those in front of one that has been copied have been, too.
    fn settle(&mut self) {
        for one in self.waiting.iter_mut().rev() {
            if one.item.packet().is_none() {
                break;
            }
            one.item.settle();
            self.memory = self.memory - one.memory + one.item.size();
            one.memory = one.item.size();
        }
    }

    /// Whoever is next now hears that one more was lost before it.
    fn drop_oldest(&mut self) -> Option<T> {
        let oldest = self.waiting.pop_front()?;
        self.memory -= oldest.memory;
        oldest.item.overflowed();
        self.all_missed += 1;
        let missed = oldest.missed + 1;
        match self.waiting.front_mut() {
            Some(next) => next.missed += missed,
            None => self.missed += missed,
        }
        Some(oldest.item)
    }

    fn drop_newest(&mut self) -> Option<T> {
        let newest = self.waiting.pop_back()?;
        self.memory -= newest.memory;
        newest.item.overflowed();
        Some(newest.item)
    }

    fn cut(&mut self, lost: u64) {
        self.all_missed += lost;
        self.end = Some(End::Cut { missed: lost });
    }
}
