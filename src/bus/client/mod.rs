//! A process's end of the bus.

use std::{future::Future, io, os::fd::OwnedFd, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

mod application;
mod attachment;
mod function;
mod message;
mod presence;
mod subscription;

pub use self::{
    application::Hosted,
    attachment::{Attachment, AttachmentError},
    function::Offered,
    message::Message,
    presence::PresenceEvents,
    subscription::{Cut, Overflow, Subscribe, Subscription},
};
use super::{
    control::Ask,
    error::BusError,
    id::{MasterId, ProcessId},
    payload::Payload,
    peer::Peer,
    stream::Stream,
    to::{Balance, To},
};

/// A process's place on the bus.
#[derive(Clone, Debug)]
pub struct Bus {}

#[allow(unused_variables, clippy::unused_async, clippy::todo)]
impl Bus {
    /// Takes over a process's end of a line. Inside a runtime.
    pub(crate) fn connect(line: OwnedFd) -> io::Result<Self> {
        todo!()
    }

    /// Who this process is.
    pub async fn id(&self) -> Result<ProcessId, BusError> {
        todo!()
    }

    /// The process above.
    pub async fn parent(&self) -> Result<Option<ProcessId>, BusError> {
        todo!()
    }

    /// The master at the top.
    pub async fn grand_master(&self) -> Result<MasterId, BusError> {
        todo!()
    }

    /// Is this process it?
    pub async fn is_grand_master(&self) -> Result<bool, BusError> {
        todo!()
    }

    /// To whoever has subscribed.
    pub fn publish(&self, topic: &str, payload: impl Into<Payload>) -> Result<(), BusError> {
        todo!()
    }

    /// To these, if they have subscribed.
    pub fn send(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
    ) -> Result<(), BusError> {
        todo!()
    }

    /// To everybody else.
    pub fn broadcast(&self, topic: &str, payload: impl Into<Payload>) -> Result<(), BusError> {
        todo!()
    }

    /// To all above.
    pub fn bubble(&self, topic: &str, payload: impl Into<Payload>) -> Result<(), BusError> {
        todo!()
    }

    /// Waits until all has gone into the line.
    pub async fn flush(&self) -> Result<(), BusError> {
        todo!()
    }

    /// Listens.
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscription, BusError> {
        todo!()
    }

    /// Listens, in other ways.
    pub fn subscription(&self, pattern: &str) -> Subscribe {
        todo!()
    }

    /// Asks.
    pub async fn request(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
        deadline: Duration,
    ) -> Result<Message, BusError> {
        todo!()
    }

    /// Who is there.
    pub async fn peers(&self) -> Result<Vec<Peer>, BusError> {
        todo!()
    }

    /// Comings and goings.
    pub async fn presence(&self) -> Result<PresenceEvents, BusError> {
        todo!()
    }

    /// Hosts an application.
    pub async fn host(
        &self,
        application: &str,
        description: impl Serialize,
    ) -> Result<Hosted, BusError> {
        todo!()
    }

    /// Who hosts it.
    pub async fn hosts(
        &self,
        application: &str,
        filter: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Peer>, BusError> {
        todo!()
    }

    /// Tells an application.
    pub fn tell(&self, application: &str, payload: impl Into<Payload>) -> Result<(), BusError> {
        todo!()
    }

    /// Calls an application.
    pub async fn call(
        &self,
        application: &str,
        action: &str,
        payload: impl Into<Payload>,
        deadline: Duration,
    ) -> Result<Message, BusError> {
        todo!()
    }

    /// Calls one, by this balance.
    pub async fn call_with(
        &self,
        balance: Balance,
        application: &str,
        action: &str,
        payload: impl Into<Payload>,
        deadline: Duration,
    ) -> Result<Message, BusError> {
        todo!()
    }

    /// Offers a function.
    pub async fn offer<A, R, E, F>(
        &self,
        name: &str,
        function: impl Fn(A) -> F + Send + Sync + 'static,
    ) -> Result<Offered, BusError>
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        E: std::fmt::Display + Send + 'static,
        F: Future<Output = Result<R, E>> + Send + 'static,
    {
        todo!()
    }

    /// Runs one on a process.
    pub async fn run_in_node<A, R>(
        &self,
        process: ProcessId,
        function: &str,
        arguments: &A,
        deadline: Duration,
    ) -> Result<R, BusError>
    where
        A: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        todo!()
    }

    /// A stream of bytes to another process.
    pub async fn open_stream(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
        deadline: Duration,
    ) -> Result<Stream, BusError> {
        todo!()
    }

    /// With a descriptor.
    pub fn send_attached(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
        attachment: Attachment,
    ) -> Result<(), AttachmentError> {
        todo!()
    }

    /// With a descriptor, and waits for the answer.
    pub async fn request_attached(
        &self,
        to: impl Into<To>,
        topic: &str,
        payload: impl Into<Payload>,
        attachment: Attachment,
        deadline: Duration,
    ) -> Result<Message, AttachmentError> {
        todo!()
    }

    /// Says something to the hub, without an answer; with a descriptor, or not (`Ask::Branch`).
    pub(crate) fn ask(&self, ask: &Ask, attached: Option<OwnedFd>) -> Result<(), BusError> {
        todo!()
    }
}
