//! Benchmarks: several ways to serve the same load, measured in turn, with clients of our own.
//!
//! An [`Arena`] is what is measured: it knows its arms and how to enter one. [`Own`] is a cluster of ours,
//! whose arms are modes and policies. [`run()`] goes round by round through the arms as a [`Plan`] says
//! and fills a [`Comparison`](crate::compare::Comparison); what that says is `compare`'s to tell.

mod arena;
mod own;
mod plan;
mod run;

pub use self::{
    arena::{Arena, Look},
    own::{Own, OwnPlan, arms},
    plan::{Extent, FEWEST_ROUNDS, Loops, Plan, Planted},
    run::{Frame, Progress, run},
};
