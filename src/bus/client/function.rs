//! Functions.
/// A function that this process offers, until it is dropped.
#[derive(Debug)]
pub struct Offered {}
