//! One sitting: from a connect to NATS to its end, whatever ends it.

use std::{cell::Cell, time::Duration};

use async_nats::{Client, Event, PublishErrorKind, Subscriber, client::PublishError};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{Mutex, mpsc};

use super::{
    envelope::{self, Dropped, Envelope, Kind, Secret, Sign, Sitting},
    roster::Link,
    thread::{Inbox, News, Order, Shared},
};
use crate::{bus::MasterId, notice, sys::clock::monotonic_ns};

/// How long what was to be sent may take to be on its way, at the most, before the connection counts as
/// dead: a server that takes nothing any more is none.
const STALLED: Duration = Duration::from_secs(10);

/// A connection, and what is said through it.
pub(super) struct Talk<'a> {
    pub(super) client: Client,
    pub(super) secret: Option<Secret>,
    pub(super) shared: &'a Shared,
    /// Who speaks: what is counted first must go first, for what comes after it is not heard any more.
    pub(super) turn: Mutex<()>,
    /// A packet was too large for the server, and that has been said.
    pub(super) told_large: Cell<bool>,
}

/// Why a sitting ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The connection is gone.
    Disconnected,
    /// An elder has our name.
    Namesake,
    /// The hub has ended.
    HubGone,
}

impl Talk<'_> {
    /// Takes in what comes from both subjects.
    pub(super) async fn listen(&self, mut hubs: Subscriber, mut own: Subscriber) -> End {
        loop {
            let message = tokio::select! {
                message = own.next() => message,
                message = hubs.next() => message,
            };
            let Some(message) = message else {
                return End::Disconnected;
            };
            let heard = envelope::open(&message.payload, self.secret.as_ref())
                .and_then(|envelope| self.hear(&message.payload, &envelope));
            match heard {
                Err(why) => {
                    self.shared.counters.lose(why, 1);
                    if why == Dropped::Crowded && self.shared.roster.borrow().is_worn() {
                        return End::Disconnected;
                    }
                }
                Ok(heard) => {
                    if let Some(end) = self.follow(heard).await {
                        return end;
                    }
                }
            }
        }
    }

    /// What follows from an envelope: news for the hub, and perhaps a greeting.
    fn hear(&self, bytes: &Bytes, envelope: &Envelope<'_>) -> Result<Follow, Dropped> {
        let now = monotonic_ns();
        let master = envelope.from.master;
        let heard = self.shared.roster.borrow_mut().receive(envelope, now)?;
        if heard.lost > 0 {
            self.shared.counters.lose(Dropped::Lost, heard.lost);
        }
        if master == self.shared.me {
            self.shared.counters.lose(Dropped::Namesake, 1);
            return Ok(Follow {
                news: Vec::new(),
                greet: heard.greet,
                usurper: heard.usurper,
            });
        }
        let mut news = Vec::new();
        match heard.link {
            Some(Link::Opens) => news.push(News::Opens(master)),
            Some(Link::Renews) => news.push(News::Renews(master)),
            None => {}
        }
        if let Some(sign) = heard.sign {
            news.push(News::Sign(master, sign));
        }
        if envelope.kind == Kind::Packet {
            let mut packet = bytes.slice_ref(envelope.body).to_vec();
            envelope::arriving(&mut packet, now)?;
            news.push(News::Packet(master, packet));
        }
        Ok(Follow {
            news,
            greet: heard.greet,
            usurper: heard.usurper,
        })
    }

    async fn follow(&self, follow: Follow) -> Option<End> {
        if follow.usurper {
            return Some(End::Namesake);
        }
        if let Some((whom, heard)) = follow.greet {
            // Before the news: it opens the link there, which what the hub says next needs.
            if self.greet(whom, heard).await.is_none() {
                return Some(End::Disconnected);
            }
        }
        for news in follow.news {
            if self.shared.news.send(news).await.is_err() {
                return Some(End::HubGone);
            }
        }
        self.shared.count_masters();
        None
    }

    /// Does what the hub orders. What others know us by goes before all that waits.
    pub(super) async fn speak(&self, inbox: &mut Inbox) -> End {
        loop {
            let sent = match inbox.next().await {
                None => return End::HubGone,
                Some(Order::Beat(sign)) => {
                    if let Some(end) = self.shared.note_beat(sign).await {
                        return end;
                    }
                    self.beat().await
                }
                Some(Order::Packet(master, packet)) => self.send(master, packet).await,
                Some(Order::Unlink(master)) => {
                    self.shared.roster.borrow_mut().unlink(master);
                    Some(())
                }
            };
            if sent.is_none() {
                return End::Disconnected;
            }
        }
    }

    /// Says to all that this master is there. `None`: the connection is gone.
    pub(super) async fn beat(&self) -> Option<()> {
        let Some(body) = self.shared.sign(false) else {
            return Some(());
        };
        let _turn = self.turn.lock().await;
        let counter = self.shared.roster.borrow_mut().beat();
        let subject = self.shared.subject_of_all();
        self.publish(subject, Kind::Sign, None, counter, &body)
            .await
    }

    async fn greet(&self, whom: Sitting, heard: bool) -> Option<()> {
        let Some(body) = self.shared.sign(heard) else {
            return Some(());
        };
        let _turn = self.turn.lock().await;
        let counter = self.shared.roster.borrow_mut().greeting(whom.master);
        let subject = self.shared.subject_of(whom.master);
        self.publish(subject, Kind::Sign, Some(whom), counter, &body)
            .await
    }

    async fn send(&self, master: MasterId, mut packet: Vec<u8>) -> Option<()> {
        let _turn = self.turn.lock().await;
        let address = self.shared.roster.borrow_mut().address(master);
        let Some((there, counter)) = address else {
            self.shared.counters.lose(Dropped::Down, 1);
            return Some(());
        };
        envelope::leaving(&mut packet, monotonic_ns());
        let subject = self.shared.subject_of(master);
        self.publish(subject, Kind::Packet, Some(there), counter, &packet)
            .await
    }

    async fn publish(
        &self,
        subject: String,
        kind: Kind,
        to: Option<Sitting>,
        counter: u64,
        body: &[u8],
    ) -> Option<()> {
        let envelope = Envelope {
            kind,
            from: self.shared.roster.borrow().here(),
            to,
            counter,
            body,
        };
        let bytes = envelope::seal(&envelope, self.secret.as_ref());
        let length = bytes.len();
        let sent = self.client.publish(subject, bytes.into());
        match tokio::time::timeout(STALLED, sent).await {
            Ok(Ok(())) => Some(()),
            Ok(Err(error)) => self.unsent(&error, length),
            Err(_) => None,
        }
    }

    /// Is the connection to blame, or the packet?
    fn unsent(&self, error: &PublishError, length: usize) -> Option<()> {
        if error.kind() != PublishErrorKind::MaxPayloadExceeded {
            return None;
        }
        self.shared.counters.lose(Dropped::Large, 1);
        if !self.told_large.replace(true) {
            notice(format_args!(
                "bus: the NATS server takes no message of {length} bytes: raise its max_payload to \
                 {} or more",
                envelope::MAX_ENVELOPE
            ));
        }
        Some(())
    }
}

/// What is to be done about an envelope.
struct Follow {
    news: Vec<News>,
    greet: Option<(Sitting, bool)>,
    usurper: bool,
}

/// Waits until the connection has ended, and counts and says what else happens to it.
pub(super) async fn attend(shared: &Shared, events: &mut mpsc::UnboundedReceiver<Event>) -> End {
    let mut told: Option<String> = None;
    while let Some(event) = events.recv().await {
        match event {
            Event::Disconnected | Event::Closed => break,
            Event::SlowConsumer(_) => shared.counters.lose(Dropped::Slow, 1),
            Event::ServerError(error) => {
                let text = error.to_string();
                // A server says the same of each message.
                if told.as_ref() != Some(&text) {
                    notice(format_args!("bus: the NATS server says: {text}"));
                    told = Some(text);
                }
            }
            _ => {}
        }
    }
    End::Disconnected
}

/// Says who this is: for [`Shared::sign`].
pub(super) fn signed(sign: &Sign, heard: bool) -> Vec<u8> {
    Sign {
        heard,
        ..sign.clone()
    }
    .encode()
}
