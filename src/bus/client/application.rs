//! Applications: found by their name, wherever they are hosted.

use std::{
    collections::hash_map::Entry,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use serde::Serialize;
use serde_json::Value;

use super::{
    super::{
        control::Ask,
        error::BusError,
        frame::{Kind, Space},
        payload::Payload,
        peer::{DEEPEST, Peer, is_flat},
        to::{Balance, To},
    },
    Bus,
    inbox::Inbox,
    message::Message,
    request::{Question, Unanswered},
    shared::{MAX_NAME_AND_ACTION, check_name},
    subscription::{Cut, Overflow, QUEUE, poll_messages},
};

/// An application that this process hosts, until this is dropped: what it is told and asked. Also a
/// [`futures_util::Stream`]. Up to 1,024 messages wait; when more come the oldest are lost, and whoever
/// waits for an answer to one of those is told.
#[derive(Debug)]
pub struct Hosted {
    bus: Bus,
    application: String,
    inbox: Arc<Inbox<Message>>,
}

impl Bus {
    /// Hosts an application, described in whatever way those who look for [hosts](Self::hosts) of it
    /// understand; when this returns, everybody can find it here.
    ///
    /// # Errors
    /// [`BusError::Invalid`]: the name is none, this process hosts it already, or the description is nested
    /// more than 32 deep. [`BusError::Payload`]: JSON has no way to say it. [`BusError::Failed`]: the hub
    /// refuses it, for it is too large, say. [`BusError::Closed`].
    ///
    /// ```no_run
    /// # async fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
    /// # use pointsman::bus::Payload;
    /// let mut thumbnails = bus.host("thumbnails", serde_json::json!({ "formats": ["png"] })).await?;
    /// while let Some(Ok(message)) = thumbnails.next().await {
    ///     match message.action() {
    ///         "size" => message.reply("120x90")?,
    ///         other => message.refuse(&format!("{other} is nothing that thumbnails can do"))?,
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn host(
        &self,
        application: &str,
        description: impl Serialize,
    ) -> Result<Hosted, BusError> {
        check_name(application)?;
        let description = described(description)?;
        let (hosted, known) = {
            let shared = self.shared();
            let mut incoming = shared.incoming();
            if incoming.applications.contains_key(application) {
                let text = format!("this process hosts {application} already");
                return Err(BusError::Invalid(text));
            }
            let ask = Ask::Host(application.into(), description.clone());
            let known = incoming.ask(shared, ask)?;
            let inbox = Arc::new(Inbox::new(QUEUE, Overflow::LoseOldest));
            let hosting = (description, Arc::clone(&inbox));
            incoming.applications.insert(application.into(), hosting);
            drop(incoming);
            let hosted = Hosted {
                bus: self.clone(),
                application: application.into(),
                inbox,
            };
            (hosted, known)
        };
        known.await.unwrap_or(Err(BusError::Closed))?;
        Ok(hosted)
    }

    /// Those that host an application, with a description that `filter` likes.
    ///
    /// # Errors
    /// As [`peers`](Self::peers).
    pub async fn hosts(
        &self,
        application: &str,
        filter: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Peer>, BusError> {
        let mut peers = self.peers().await?;
        peers.retain(|peer| peer.applications.get(application).is_some_and(&filter));
        Ok(peers)
    }

    /// Tells an application something: this process if it hosts it, else one of this master's, else one
    /// elsewhere, the least loaded first. Whether anybody heard is not said: see [`call`](Self::call).
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn tell(&self, application: &str, payload: impl Into<Payload>) -> Result<(), BusError> {
        check_name(application)?;
        let to = To::Host(Balance::default());
        self.say(
            Kind::Event,
            Space::Application,
            &to,
            application,
            &payload.into(),
        )
    }

    /// Asks an application to do something (`action` may be empty), and waits for the answer, `deadline`
    /// at the most. The same process gets it that [`tell`](Self::tell) would tell.
    ///
    /// # Errors
    /// As [`request`](Self::request); [`Failure::NoHost`](super::super::Failure::NoHost) if nobody hosts
    /// it.
    ///
    /// # Panics
    /// As [`request`](Self::request).
    pub async fn call(
        &self,
        application: &str,
        action: &str,
        payload: impl Into<Payload>,
        deadline: Duration,
    ) -> Result<Message, BusError> {
        self.call_with(Balance::default(), application, action, payload, deadline)
            .await
    }

    /// The same, where several host it chosen by this rule.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    ///
    /// # Panics
    /// As [`request`](Self::request).
    pub async fn call_with(
        &self,
        balance: Balance,
        application: &str,
        action: &str,
        payload: impl Into<Payload>,
        deadline: Duration,
    ) -> Result<Message, BusError> {
        check_name(application)?;
        let name = match action {
            "" => application.to_owned(),
            action => format!("{application}/{action}"),
        };
        if name.len() > MAX_NAME_AND_ACTION {
            return Err(BusError::Invalid(format!(
                "{name:?}: application and action together are at most {MAX_NAME_AND_ACTION} bytes"
            )));
        }
        self.put(Question {
            space: Space::Application,
            to: To::Host(balance),
            name: &name,
            payload: payload.into(),
            attached: None,
            deadline,
        })
        .await
        .map_err(Unanswered::into_error)
    }
}

impl Hosted {
    /// Waits for the next message. An error says that some were lost and that this has ended, which does
    /// not happen at present; `None`: the bus is closed.
    pub async fn next(&mut self) -> Option<Result<Message, Cut>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Its name.
    pub fn application(&self) -> &str {
        &self.application
    }

    /// Describes it otherwise; when this returns, the hub knows.
    ///
    /// # Errors
    /// As [`Bus::host`]; it is described as before then.
    pub async fn describe(&self, description: impl Serialize) -> Result<(), BusError> {
        let description = described(description)?;
        let ask = Ask::Host(self.application.clone(), description.clone());
        self.bus.have(ask).await?;
        let mut incoming = self.bus.shared().incoming();
        if let Some((known, _)) = incoming.applications.get_mut(&self.application) {
            *known = description;
        }
        Ok(())
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Cut>>> {
        poll_messages(&self.inbox, &self.bus.shared().tally, cx)
    }
}

impl Stream for Hosted {
    type Item = Result<Message, Cut>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        let shared = self.bus.shared();
        let mut incoming = shared.incoming();
        let name = std::mem::take(&mut self.application);
        if let Entry::Occupied(hosting) = incoming.applications.entry(name) {
            let (name, _) = hosting.remove_entry();
            // Without a bus nobody knows of it anyway.
            let _ = shared.ask(&Ask::Unhost(name), 0);
        }
        drop(incoming);
        // Whoever waits for an answer to one of these is told.
        drop(self.inbox.discard());
    }
}

fn described(description: impl Serialize) -> Result<Value, BusError> {
    let description =
        serde_json::to_value(description).map_err(|error| BusError::Payload(error.to_string()))?;
    // The hub would not read one that is much deeper, and take this process for a hostile one.
    match is_flat(&description, DEEPEST) {
        true => Ok(description),
        false => Err(BusError::Invalid(format!(
            "a description is nested {DEEPEST} deep at the most"
        ))),
    }
}
