//! The load's process: reads its order, does it, and says what came of it.

use std::{
    io::{self, BufRead, Read, Write},
    os::fd::AsFd,
};

use super::{Order, Said, check, engine::Engine};
use crate::error::{Error, Result};

/// More than any order takes.
const MAX_ORDER: u64 = 64 * 1024;

/// Carries out the order that comes in on standard input. That it cannot be done is said like
/// everything else, on standard output.
///
/// # Errors
/// Nobody is there to be told.
pub(crate) fn run() -> Result<()> {
    let said = match carry_out() {
        Ok(Some(said)) => said,
        // Whoever gave the order has gone.
        Ok(None) => return Ok(()),
        Err(error) => Said::Failed {
            error: error.to_string(),
        },
    };
    say(&said)
}

fn carry_out() -> Result<Option<Said>> {
    let order = order()?;
    check::check(&order)?;
    let outcome = Engine::new(&order)?.run(io::stdin().as_fd(), || say(&Said::Begun))?;
    Ok(outcome.map(Said::Ended))
}

fn order() -> Result<Order> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .take(MAX_ORDER)
        .read_line(&mut line)
        .map_err(|error| Error::runtime("no order on standard input", error))?;
    serde_json::from_str(&line).map_err(|error| {
        Error::usage(format!(
            "standard input holds no order, one line of JSON: {error}"
        ))
    })
}

fn say(said: &Said) -> Result<()> {
    let mut line = serde_json::to_vec(said)
        .map_err(|error| Error::runtime("cannot be said as JSON", error.into()))?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output
        .write_all(&line)
        .and_then(|()| output.flush())
        .map_err(|error| Error::runtime("nobody reads standard output", error))
}
