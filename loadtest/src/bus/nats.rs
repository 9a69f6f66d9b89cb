//! An actor on NATS: the official client, as it comes.

use std::path::PathBuf;

use anyhow::{Context, Result};
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;

use super::actor::{Inbox, Line, act};

/// An actor on NATS, a process of its own
#[derive(Debug, Args)]
pub(crate) struct NatsActor {
    /// Where the server listens
    server: String,
    /// Where orders come from
    socket: PathBuf,
    /// Which of the actors it is
    seat: u16,
}

impl NatsActor {
    pub(crate) fn run(&self) -> Result<()> {
        // As a worker of ours has it: one thread.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .context("cannot set up the runtime")?;
        runtime.block_on(async {
            let client = async_nats::connect(&self.server)
                .await
                .with_context(|| format!("no NATS at {}", self.server))?;
            act(client, self.seat, &self.socket).await
        })
    }
}

impl Line for Client {
    type Inbox = Subscriber;

    async fn publish(&self, topic: &'static str, payload: Bytes) -> Result<()> {
        Ok(Client::publish(self, topic, payload).await?)
    }

    async fn flush(&self) -> Result<()> {
        Ok(Client::flush(self).await?)
    }

    async fn subscribe(&self, topic: &'static str) -> Result<Subscriber> {
        Ok(Client::subscribe(self, topic).await?)
    }

    async fn request(&self, topic: &'static str, payload: Bytes) -> Result<Bytes> {
        Ok(Client::request(self, topic, payload).await?.payload)
    }

    async fn reply(&self, to: Message, payload: Bytes) -> Result<()> {
        let inbox = to.reply.context("it wants no answer")?;
        Ok(Client::publish(self, inbox, payload).await?)
    }
}

impl Inbox for Subscriber {
    type Letter = Message;

    async fn next(&mut self) -> Option<Message> {
        StreamExt::next(self).await
    }

    fn payload(letter: &Message) -> Bytes {
        letter.payload.clone()
    }
}
