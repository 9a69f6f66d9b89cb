//! Actors on our bus: the workers of a cluster.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming};
use pointsman::Cluster;
use pointsman::bus::{Bus, BusError, Message, Payload, Subscription, To};
use tokio::task::spawn_local;
use tower_service::Service;

use super::actor::{Inbox, Line, act};
use super::stage::ACTORS;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that may wait at a subscriber: as many as async-nats has by default.
const QUEUE: usize = 65_536;

/// Workers that answer HTTP, where there are any.
const HTTP_WORKERS: u16 = 2;

/// A cluster whose workers are actors, a process of its own
#[derive(Debug, Args)]
pub(crate) struct BusCluster {
    /// Where orders come from
    socket: PathBuf,
    /// Has other workers too, that are no actors and answer HTTP on this port
    #[arg(long, value_name = "PORT")]
    http: Option<u16>,
}

impl BusCluster {
    /// The master, and each of its workers too.
    pub(crate) fn run(&self) -> Result<()> {
        let socket = self.socket.clone();
        let mut cluster = Cluster::new().control(None);
        cluster = match self.http {
            None => cluster.listen("127.0.0.1:0").workers(ACTORS),
            // A group has the first seats. Nobody comes from that address.
            Some(port) => cluster
                .listen(format!("127.0.0.1:{port}"))
                .workers(ACTORS + HTTP_WORKERS)
                .worker_group("actors", ACTORS)
                .pin("127.255.255.254/32", "actors"),
        };
        cluster.serve(move |worker| async move {
            let seat = worker.id();
            if seat < ACTORS {
                let bus = worker.bus();
                spawn_local(async move {
                    if let Err(error) = act(bus, seat, &socket).await {
                        eprintln!("actor {seat}: {error:#}");
                    }
                    // Whoever gives orders sees that nobody listens any more.
                    std::process::exit(1);
                });
            }
            Hello
        })?;
        Ok(())
    }
}

/// Answers every request alike.
#[derive(Debug, Clone, Copy)]
struct Hello;

impl Service<Request<Incoming>> for Hello {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Incoming>) -> Self::Future {
        ready(Ok(Response::new(Full::from("hello\n"))))
    }
}

impl Line for Bus {
    type Inbox = Subscription;

    async fn publish(&self, topic: &'static str, payload: Bytes) -> Result<()> {
        loop {
            match Bus::publish(self, topic, Payload::raw(payload.clone())) {
                Err(BusError::Full) => Bus::flush(self).await?,
                done => return Ok(done?),
            }
        }
    }

    async fn flush(&self) -> Result<()> {
        Ok(Bus::flush(self).await?)
    }

    async fn subscribe(&self, topic: &'static str) -> Result<Subscription> {
        Ok(self.subscription(topic).queue(QUEUE).open().await?)
    }

    async fn request(&self, topic: &'static str, payload: Bytes) -> Result<Bytes> {
        let asked = Payload::raw(payload);
        let answer = Bus::request(self, To::Subscribers, topic, asked, PATIENCE).await?;
        Ok(answer.bytes().clone())
    }

    async fn reply(&self, to: Message, payload: Bytes) -> Result<()> {
        Ok(to.reply(Payload::raw(payload))?)
    }
}

impl Inbox for Subscription {
    type Letter = Message;

    async fn next(&mut self) -> Option<Message> {
        // None of these subscriptions is one that may be cut.
        Subscription::next(self).await?.ok()
    }

    fn payload(letter: &Message) -> Bytes {
        letter.bytes()
    }
}
