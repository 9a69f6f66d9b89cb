//! Subscriptions.
use super::{super::error::BusError, message::Message};
/// What one has subscribed to, until it is dropped. Also a `futures_util::Stream`.
#[derive(Debug)]
pub struct Subscription {}
#[allow(unused_variables, clippy::unused_async, clippy::todo)]
impl Subscription {
    /// The next message; `None`: the bus is closed.
    pub async fn next(&mut self) -> Option<Result<Message, Cut>> {
        todo!()
    }
    /// What was subscribed to.
    pub fn pattern(&self) -> &str {
        todo!()
    }
}
impl futures_util::Stream for Subscription {
    type Item = Result<Message, Cut>;
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        todo!()
    }
}
/// How to subscribe.
#[derive(Debug)]
#[must_use]
pub struct Subscribe {}
#[allow(unused_variables, clippy::unused_async, clippy::todo)]
impl Subscribe {
    /// How many messages may wait; default 1,024.
    pub fn queue(self, messages: usize) -> Self {
        todo!()
    }
    /// What happens when more come.
    pub fn overflow(self, overflow: Overflow) -> Self {
        todo!()
    }
    /// Subscribes.
    pub async fn open(self) -> Result<Subscription, BusError> {
        todo!()
    }
}
/// What happens when more comes than may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The oldest are lost.
    #[default]
    LoseOldest,
    /// The subscription ends.
    Cut,
}
/// The subscription has been cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Messages lost.
    pub missed: u64,
}
impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the subscription was cut: {} messages were lost",
            self.missed
        )
    }
}
impl std::error::Error for Cut {}
