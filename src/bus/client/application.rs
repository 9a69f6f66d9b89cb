//! Applications.
use super::{super::error::BusError, message::Message, subscription::Cut};
use serde::Serialize;
/// An application that this process hosts, until it is dropped. Also a `futures_util::Stream`.
#[derive(Debug)]
pub struct Hosted {}
#[allow(unused_variables, clippy::unused_async, clippy::todo)]
impl Hosted {
    /// The next message for it.
    pub async fn next(&mut self) -> Option<Result<Message, Cut>> {
        todo!()
    }
    /// Describes it otherwise.
    pub async fn describe(&self, description: impl Serialize) -> Result<(), BusError> {
        todo!()
    }
}
impl futures_util::Stream for Hosted {
    type Item = Result<Message, Cut>;
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        todo!()
    }
}
