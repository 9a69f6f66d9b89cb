//! What is measured.

use std::{future::Future, net::SocketAddr};

use crate::{compare, error::Result, scoreboard::histogram::Snapshot};

/// Something that serves the same requests in several ways, the arms, one at a time or each at an address of
/// its own. The load and the upstreams are not part of it.
pub trait Arena {
    /// What is compared. The first is the base.
    fn arms(&self) -> &[compare::Arm];

    /// Makes this arm the one that serves, and returns once it does and nobody of the last block is connected any
    /// more. It is called before each block, also if the arm is the same as before.
    ///
    /// # Errors
    /// It cannot be.
    fn enter(&mut self, arm: usize) -> impl Future<Output = Result<()>>;

    /// Where clients of this arm connect.
    fn target(&self, arm: usize) -> SocketAddr;

    /// The process whose tree is the program under test: what is used by it is counted.
    fn root(&self, arm: usize) -> i32;

    /// What the program says about itself, a few times a second. One that says nothing returns the default.
    ///
    /// # Errors
    /// It does not answer.
    fn look(&mut self, arm: usize) -> impl Future<Output = Result<Look>>;
}

/// What a program says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Open connections, by worker; empty: not known.
    pub open_by_worker: Vec<u64>,
    /// All hand-overs so far: from accepted by the master to claimed by the worker.
    pub handoff: Snapshot,
}
