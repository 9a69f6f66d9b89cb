//! Messages.
use super::{
    super::{
        error::BusError,
        frame::{Encoding, Space},
        id::{MasterId, ProcessId},
        payload::Payload,
        stream::Stream,
        to::To,
    },
    attachment::Attachment,
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
/// A message.
#[derive(Debug, Clone)]
pub struct Message {}
#[allow(unused_variables, clippy::todo)]
impl Message {
    /// Who sent it.
    pub fn from(&self) -> ProcessId {
        todo!()
    }
    /// To whom.
    pub fn to(&self) -> To {
        todo!()
    }
    /// The topic.
    pub fn topic(&self) -> &str {
        todo!()
    }
    /// The topic, application with action, or function.
    pub fn name(&self) -> &str {
        todo!()
    }
    /// What the name is of.
    pub fn space(&self) -> Space {
        todo!()
    }
    /// What an application is asked to do; empty if nothing in particular.
    pub fn action(&self) -> &str {
        todo!()
    }
    /// The masters that it has come through, first the sender's own.
    pub fn path(&self) -> Vec<MasterId> {
        todo!()
    }
    /// How many were lost just before it, at the most.
    pub fn missed(&self) -> u64 {
        todo!()
    }
    /// How the payload is to be read.
    pub fn encoding(&self) -> Encoding {
        todo!()
    }
    /// The payload.
    pub fn bytes(&self) -> Bytes {
        todo!()
    }
    /// The payload.
    pub fn payload(&self) -> Payload {
        todo!()
    }
    /// The payload as a type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, BusError> {
        todo!()
    }
    /// Does the sender wait for an answer?
    pub fn is_request(&self) -> bool {
        todo!()
    }
    /// Answers.
    pub fn reply(&self, payload: impl Into<Payload>) -> Result<(), BusError> {
        todo!()
    }
    /// Answers that it cannot be.
    pub fn refuse(&self, text: &str) -> Result<(), BusError> {
        todo!()
    }
    /// Takes the other end of a stream, and answers. Inside a runtime.
    pub fn accept_stream(&self) -> Result<Stream, BusError> {
        todo!()
    }
    /// The descriptor that came along; the first time only.
    pub fn take_attachment(&self) -> Option<Attachment> {
        todo!()
    }
}
