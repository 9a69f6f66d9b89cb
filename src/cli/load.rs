//! `pointsman load`: the clients of a benchmark.

use clap::Args;

use crate::{
    error::{Error, Result},
    load,
    sys::schedule,
};

/// Be the clients of a benchmark: read an order, one line of JSON, from standard input, and write
/// what came of it to standard output. It ends with its standard input.
#[derive(Debug, Args)]
pub(super) struct Load {
    /// The cores that it may use: numbers from 0, with commas in between.
    #[arg(long, value_name = "CORE,…", value_delimiter = ',')]
    cpus: Vec<usize>,
}

impl Load {
    pub(super) fn run(self) -> Result<()> {
        if !self.cpus.is_empty() {
            schedule::run_on(&self.cpus).map_err(|error| {
                let cores: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
                let what = format!("--cpus {}: not on this machine", cores.join(","));
                Error::runtime(what, error)
            })?;
        }
        load::run()
    }
}
