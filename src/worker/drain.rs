//! Drain: telling every open connection to finish.

use std::{
    cell::{Cell, RefCell},
    task::{Context, Waker},
};

use slab::Slab;

/// Knows every open connection's task, so that all can be woken once. Connections look at a flag
/// when they are polled, which costs nothing while nobody drains.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// Until when connections on which nothing happens are kept, monotonic nanoseconds; `None` while
    /// nobody drains.
    begun: Cell<Option<u64>>,
    tasks: RefCell<Slab<Waker>>,
}

/// A connection's place in the list; dropping it leaves the list.
#[derive(Debug)]
pub(super) struct Place<'a> {
    drain: &'a Drain,
    key: usize,
}

impl Drain {
    /// Registers the task of a connection.
    #[inline]
    pub(super) fn enter(&self, cx: &Context<'_>) -> Place<'_> {
        Place {
            drain: self,
            key: self.tasks.borrow_mut().insert(cx.waker().clone()),
        }
    }

    /// Should connections finish, and until when may they be idle? Monotonic nanoseconds.
    #[inline]
    pub(super) fn begun(&self) -> Option<u64> {
        self.begun.get()
    }

    /// Tells all connections to finish, those on which nothing happens by `grace`.
    pub(super) fn begin(&self, grace: u64) {
        self.begun.set(Some(grace));
        for (_, task) in &*self.tasks.borrow() {
            task.wake_by_ref();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.drain.tasks.borrow_mut().remove(self.key);
    }
}
