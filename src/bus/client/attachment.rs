//! Attachments.
use super::super::{error::BusError, frame::Attached};
use std::os::fd::OwnedFd;
/// A descriptor that goes along with a message.
#[derive(Debug)]
pub struct Attachment {}
#[allow(unused_variables, clippy::unused_async, clippy::todo)]
impl Attachment {
    /// A connection.
    pub fn connection(socket: impl Into<OwnedFd>) -> Self {
        todo!()
    }
    /// A listening socket.
    pub fn listener(socket: impl Into<OwnedFd>) -> Self {
        todo!()
    }
    /// A datagram socket.
    pub fn datagram(socket: impl Into<OwnedFd>) -> Self {
        todo!()
    }
    /// What it is.
    pub fn kind(&self) -> Attached {
        todo!()
    }
    /// The descriptor.
    pub fn into_fd(self) -> OwnedFd {
        todo!()
    }
}
/// A message with an attachment was not sent, or not taken.
#[derive(Debug)]
pub struct AttachmentError {
    /// Why.
    pub error: BusError,
    /// The attachment, if the receiver surely has not taken it.
    pub attachment: Option<Attachment>,
}
