//! The door for connections that the master hands over: receive, claim, welcome.

use std::{
    cell::RefCell,
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
};

use crate::{
    channel::{Arrival, Inlet, Letterbox},
    conn::Accepted,
    scoreboard::{claim::claim, count::add},
    sys::clock::monotonic_ns,
    worker::serve::{Host, Protocol},
};

pub(super) struct HandedDoor<P> {
    host: Host<P>,
    inlet: Inlet,
    letterbox: RefCell<Letterbox>,
}

impl<P: Protocol> HandedDoor<P> {
    pub(super) fn new(host: Host<P>, inlet: Inlet) -> Self {
        Self {
            host,
            inlet,
            letterbox: RefCell::default(),
        }
    }

    /// Takes what comes until the master's end is closed.
    pub(super) async fn run(&self) {
        while self.inlet.readable().await.is_ok() && self.sweep() {}
    }

    /// Takes everything that is there now. False: the master's end is closed.
    pub(super) fn sweep(&self) -> bool {
        let row = self.host.worker().row();
        let mut letterbox = self.letterbox.borrow_mut();
        loop {
            let (batch, sockets) = match self.inlet.receive(&mut letterbox) {
                Arrival::Batch(batch, sockets) => (batch, sockets),
                Arrival::Malformed => {
                    add(&row.work.malformed, 1);
                    row.work.broken.store(1, Release);
                    continue;
                }
                Arrival::Empty => {
                    self.inlet.clear_ready();
                    return true;
                }
                Arrival::Closed => return false,
            };
            if row.work.broken.load(Acquire) == 1 {
                // The master will revoke this one too; dropping the sockets closes them unread.
                add(&row.work.refused, batch.len() as u64);
                continue;
            }
            let (first, count) = (batch.first(), batch.len() as u32);
            // Before any byte is looked at: from here on these are ours, or never were.
            row.work.claiming.store(u64::from(count), Relaxed);
            let refused = claim(&row.claim.word, first, count);
            let claimed_at = monotonic_ns();
            add(&row.work.claimed, u64::from(count - refused));
            row.work.claiming.store(0, Relaxed);
            add(&row.work.refused, u64::from(refused));
            for (entry, socket) in batch.entries().zip(sockets).skip(refused as usize) {
                row.handoff_duration
                    .record(claimed_at.saturating_sub(entry.accepted_at));
                self.host.welcome(Accepted::handed_over(socket, entry));
            }
            self.host.rest().load_moved(row);
            // If that was the last batch announced, asking the kernel whether there is more would
            // be a system call for nothing.
            let last = first.wrapping_add(count).wrapping_sub(1);
            if row.dispatched.sent.load(Relaxed) as u32 == last {
                self.inlet.clear_ready();
                return true;
            }
        }
    }
}
