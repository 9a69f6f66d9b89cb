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
    carry_out().or_else(|error| {
        say(&Said::Failed {
            error: error.to_string(),
        })
    })
}

fn carry_out() -> Result<()> {
    let order = order()?;
    check::check(&order)?;
    let mut engine = Engine::new(&order)?;
    let Some(outcome) = engine.run(io::stdin().as_fd(), || say(&Said::Begun))? else {
        // Whoever gave the order has gone.
        return Ok(());
    };
    say(&Said::Ended(outcome))?;
    // To see its clients go is work for the server, and what that costs is read now: they stay until we are told
    // to go. An error is an end as well.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    drop(engine);
    Ok(())
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
