//! Serving: what all connections of a worker have in common, whatever is spoken on them.

use std::{
    cell::Cell,
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{Worker, account::Account, moved::Moved, rest::Rest};
use crate::{conn::Accepted, sys::clock::monotonic_ns};

/// What a worker speaks with its clients: [`Http`](super::http::Http) with an application, or
/// [`Raw`](super::raw::Raw), whatever the user's own code speaks.
pub(crate) trait Protocol: Sized + 'static {
    /// Starts serving a connection that is counted as taken and has an account. Whatever goes wrong
    /// with it later ends it alone.
    ///
    /// # Errors
    /// The runtime cannot register the socket; it is closed.
    fn serve(
        host: &Host<Self>,
        conn: Accepted,
        account: Arc<Account>,
        moved: Option<Moved>,
    ) -> io::Result<()>;

    /// Tells connections to finish.
    fn drain(&self, worker: &Worker);
}

/// Serves connections by the worker's protocol. Cheap to clone.
pub(crate) struct Host<P>(Rc<Inner<P>>);

struct Inner<P> {
    worker: Worker,
    protocol: P,
    rest: Rest,
    ticks: Cell<u32>,
}

impl<P> Clone for Host<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Protocol> Host<P> {
    pub(super) fn new(worker: &Worker, protocol: P, rest: Rest) -> Self {
        Self(Rc::new(Inner {
            worker: worker.clone(),
            protocol,
            rest,
            ticks: Cell::new(0),
        }))
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.0.worker
    }

    pub(super) fn protocol(&self) -> &P {
        &self.0.protocol
    }

    pub(super) fn rest(&self) -> &Rest {
        &self.0.rest
    }

    /// Tells every connection to finish, and waits until none is open, tunnels included.
    pub(super) async fn drain(&self) {
        let worker = &self.0.worker;
        worker.ledger.begin_to_drain();
        worker.begin_to_drain();
        self.0.protocol.drain(worker);
        // Whoever waits for this has a turn, even if nothing is open.
        tokio::task::yield_now().await;
        worker.ledger.all_closed().await;
    }

    /// Starts serving `conn`, which the caller has counted as taken. Whatever goes wrong with it ends
    /// it alone.
    pub(super) fn welcome(&self, conn: Accepted) {
        let account = self.open_account(&conn);
        // Should it fail, the account has counted the close already.
        let _ = P::serve(self, conn, account, None);
    }

    /// The same for one that another process has moved here.
    ///
    /// # Errors
    /// The runtime cannot register it; it is closed.
    pub(super) fn welcome_moved(&self, conn: Accepted, moved: Moved) -> io::Result<()> {
        let account = self.open_account(&conn);
        P::serve(self, conn, account, Some(moved))
    }

    fn open_account(&self, conn: &Accepted) -> Arc<Account> {
        let origin = (conn.listener, conn.arm);
        Account::open(&self.0.worker.ledger, origin, conn.shadows)
    }

    /// Keeps the loop's "now" from growing old: tokio's hooks, which set it, are not called while
    /// tasks are always ready to run.
    #[inline]
    pub(super) fn tick(&self) {
        let inner = &*self.0;
        let ticks = inner.ticks.get().wrapping_add(1);
        inner.ticks.set(ticks);
        if ticks.is_multiple_of(TICKS) {
            let work = &inner.worker.row().work;
            work.loop_entered.store(monotonic_ns(), Relaxed);
        }
    }
}

/// Polls of connections between two looks at the clock in a loop that never rests.
pub(super) const TICKS: u32 = 16;
