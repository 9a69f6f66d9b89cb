//! Stand-ins until the real ones are merged.
use crate::{
    error::Result,
    load::{Order, Outcome},
};
use std::path::Path;

pub(super) struct Load;

impl Load {
    pub(super) fn start(_: &Path, _: &Order, _: Option<&[usize]>) -> Result<Self> {
        Ok(Self)
    }
    pub(super) async fn begun(&mut self) -> Result<()> {
        Ok(())
    }
    pub(super) async fn ended(&mut self) -> Result<Outcome> {
        Ok(Outcome::default())
    }
}

pub mod report {
    use crate::compare::*;
    pub fn table(_: &Report) -> String {
        String::new()
    }
    pub fn csv(_: &Comparison) -> String {
        String::new()
    }
    pub fn html(_: &[Report]) -> String {
        String::new()
    }
}
