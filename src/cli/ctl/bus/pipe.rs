//! `ctl bus pipe`: the protocol over standard input and output.

use std::{
    future::pending,
    io::{self, Read},
    path::PathBuf,
    thread,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::show::{Unread, put};
use crate::{
    control::bus::{Event, Guest, Hears},
    error::{Error, Result},
};

/// What is read at once, in bytes.
const PIECE: usize = 16 * 1024;

/// Passes lines on, both ways, until standard input has ended and all that was asked is answered, or the
/// master says good-bye.
///
/// # Errors
/// The master has said good-bye, or has gone without.
pub(super) async fn run(path: PathBuf) -> Result<()> {
    let mut guest = Guest::join(path).await?;
    if !print_line(guest.welcome())? {
        return Ok(());
    }
    let mut said = standard_input()?;
    let (hears, says) = guest.both();
    let mut finished = false;
    let passed_on = async {
        while let Some(piece) = said.recv().await {
            // An error: the other side will notice.
            if says.say_bytes(&piece).await.is_err() {
                pending::<()>().await;
            }
        }
        finished = true;
        says.finish().await;
    };
    // Neither waits for the other: a master that is not read from does not read. It ends when the master
    // has hung up, whatever standard input may still bring.
    let heard = tokio::select! {
        heard = print_all(hears) => heard,
        never = async { passed_on.await; pending().await } => never,
    };
    match heard {
        Err(_) if finished => Ok(()),
        outcome => outcome,
    }
}

/// Prints what comes.
async fn print_all(hears: &mut Hears) -> Result<()> {
    loop {
        let (event, line) = hears.next().await?;
        if !print_line(&line)? {
            return Ok(());
        }
        if let Event::Bye { error, .. } = event {
            return Err(Error::failed(error));
        }
    }
}

/// False: nobody reads it.
fn print_line(line: &Bytes) -> Result<bool> {
    match put(&[line, &b"\n"[..]].concat()) {
        Ok(()) => Ok(true),
        Err(Unread::Gone) => Ok(false),
        Err(Unread::Failed(error)) => Err(error),
    }
}

/// Standard input, read on a thread of its own, which ends with the process.
fn standard_input() -> Result<mpsc::Receiver<Vec<u8>>> {
    let (pieces, said) = mpsc::channel(1);
    let read = move || {
        let mut input = io::stdin().lock();
        loop {
            let mut piece = vec![0; PIECE];
            match input.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    piece.truncate(n);
                    if pieces.blocking_send(piece).is_err() {
                        return;
                    }
                }
            }
        }
    };
    let thread = thread::Builder::new().name("stdin".into()).spawn(read);
    thread.map_err(|error| Error::runtime("cannot read standard input", error))?;
    Ok(said)
}
