//! Presence.
use super::super::peer::Presence;
/// Comings and goings, until it is dropped. Also a `futures_util::Stream`.
#[derive(Debug)]
pub struct PresenceEvents {}
#[allow(unused_variables, clippy::unused_async, clippy::todo)]
impl PresenceEvents {
    /// The next; `None`: the bus is closed.
    pub async fn next(&mut self) -> Option<Presence> {
        todo!()
    }
    /// How many events have been lost so far: who keeps a list asks for all peers again.
    pub fn missed(&self) -> u64 {
        todo!()
    }
}
impl futures_util::Stream for PresenceEvents {
    type Item = Presence;
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        todo!()
    }
}
