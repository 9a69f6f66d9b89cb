//! Comings and goings.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::Stream;

use super::{
    super::{control::Ask, error::BusError, peer::Presence},
    Bus,
    inbox::{Inbox, Item, Next},
    subscription::{Overflow, QUEUE},
};

/// Comings and goings of processes, until this is dropped. Also a [`futures_util::Stream`].
#[derive(Debug)]
pub struct PresenceEvents {
    bus: Bus,
    inbox: Arc<Inbox<News>>,
    key: usize,
}

impl Bus {
    /// Tells of processes that come, become ready, change what they host or offer, and go, from now on.
    /// Who is there already [`peers`](Bus::peers) says: ask after this has returned, and nobody is
    /// overlooked.
    ///
    /// # Errors
    /// [`BusError::Closed`].
    ///
    /// ```no_run
    /// # async fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
    /// # use pointsman::bus::Presence;
    /// let mut events = bus.presence().await?;
    /// while let Some(event) = events.next().await {
    ///     if let Presence::Offline { peer, reason } = event {
    ///         println!("{} is gone: {reason:?}", peer.id);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn presence(&self) -> Result<PresenceEvents, BusError> {
        let (events, known) = {
            let shared = self.shared();
            let mut incoming = shared.incoming();
            let known = incoming.ask(shared, Ask::Watch(true))?;
            let inbox = Arc::new(Inbox::new(QUEUE, Overflow::LoseOldest));
            let key = incoming.watchers.insert(Arc::clone(&inbox));
            drop(incoming);
            let bus = self.clone();
            (PresenceEvents { bus, inbox, key }, known)
        };
        known.await.unwrap_or(Err(BusError::Closed))?;
        Ok(events)
    }
}

impl PresenceEvents {
    /// Waits for the next. `None`: the bus is closed.
    pub async fn next(&mut self) -> Option<Presence> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// How many events have been lost so far, at the most, because they were not read or the hub had no
    /// room for them. Whoever keeps a list, and sees this grow, asks for all [`peers`](Bus::peers) again.
    pub fn missed(&self) -> u64 {
        self.inbox.all_missed()
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<Presence>> {
        self.inbox.poll(cx).map(|next| match next {
            Next::Item(news, _) => Some(news.presence),
            Next::Cut(_) | Next::End => None,
        })
    }
}

impl Stream for PresenceEvents {
    type Item = Presence;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

impl Drop for PresenceEvents {
    fn drop(&mut self) {
        let shared = self.bus.shared();
        let mut incoming = shared.incoming();
        incoming.watchers.remove(self.key);
        if incoming.watchers.is_empty() {
            // Without a bus nothing comes anyway.
            let _ = shared.ask(&Ask::Watch(false), 0);
        }
    }
}

/// An event, as it waits.
#[derive(Debug, Clone)]
pub(super) struct News {
    pub(super) presence: Presence,
    /// Its length on the way here, in bytes.
    pub(super) length: usize,
}

impl Item for News {
    fn packet(&self) -> Option<(u64, usize)> {
        None
    }

    fn size(&self) -> usize {
        // A parsed description takes some times the memory of its text.
        8 * self.length
    }

    fn settle(&mut self) {}

    fn overflowed(&self) {}
}
