//! The asking end: a guest on the bus of a running master.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    time::{Instant, sleep, timeout},
};

use super::{Event, Lines, PROTOCOL, UPGRADE, line};
use crate::{
    control::client::{foreign, lost, upgraded},
    error::{Error, Result},
};

/// How long the first line may take.
const FIRST_LINE: Duration = Duration::from_secs(10);
/// How long a master may be away before it is given up.
const ABSENCE: Duration = Duration::from_secs(60);
/// Between two attempts to find it again.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest line of a master: the list of all processes that it knows.
const MAX_LINE: usize = 64 << 20;

/// A connection to a master's bus.
pub(crate) struct Guest {
    path: PathBuf,
    hears: Hears,
    says: Says,
    welcome: Bytes,
}

/// What comes from the master.
pub(crate) struct Hears {
    path: PathBuf,
    reader: ReadHalf<TokioIo<Upgraded>>,
    lines: Lines,
}

/// What goes to the master.
pub(crate) struct Says {
    path: PathBuf,
    writer: WriteHalf<TokioIo<Upgraded>>,
}

impl Guest {
    /// Becomes a guest of the master at `path`.
    ///
    /// # Errors
    /// Nobody is there, or may not be asked, or is of another version, or has too many guests.
    pub(crate) async fn join(path: PathBuf) -> Result<Self> {
        let (reader, writer) = split(upgraded(&path, "/bus", UPGRADE).await?);
        let mut hears = Hears {
            path: path.clone(),
            reader,
            lines: Lines::new(MAX_LINE),
        };
        let first = timeout(FIRST_LINE, hears.next_line()).await;
        let welcome = first.map_err(|_| lost(&path))??;
        match serde_json::from_slice(&welcome) {
            Ok(Event::Welcome { protocol, .. }) if protocol == PROTOCOL => {}
            Ok(Event::Bye { error, .. }) => return Err(Error::failed(error)),
            _ => return Err(foreign(&path)),
        }
        let says = Says {
            path: path.clone(),
            writer,
        };
        Ok(Self {
            path,
            hears,
            says,
            welcome,
        })
    }

    /// Becomes a guest once more after the master has gone away to become another binary.
    ///
    /// # Errors
    /// It has not come back for a minute: as [`join`](Self::join).
    pub(crate) async fn rejoin(self) -> Result<Self> {
        let path = self.path.clone();
        drop(self);
        let begun = Instant::now();
        loop {
            match Self::join(path.clone()).await {
                Err(_) if begun.elapsed() < ABSENCE => sleep(PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    /// The first line of the master, which says who this guest is.
    pub(crate) fn welcome(&self) -> &Bytes {
        &self.welcome
    }

    /// Both directions, for tasks that do not wait for each other.
    pub(crate) fn both(&mut self) -> (&mut Hears, &mut Says) {
        (&mut self.hears, &mut self.says)
    }

    /// Gives an order that has an outcome, and waits for that, whatever else comes.
    ///
    /// # Errors
    /// The master has gone; inside: it did not work.
    pub(crate) async fn ask(&mut self, mut order: Value) -> Result<Result<Event, Refusal>> {
        order["id"] = json!(1);
        self.says.say(&order).await?;
        loop {
            match self.hears.next().await?.0 {
                Event::Error { reason, error, .. } => return Ok(Err(Refusal { reason, error })),
                Event::Bye { error, .. } => return Err(Error::failed(error)),
                event @ (Event::Ok { .. } | Event::Reply { .. } | Event::Peers { .. }) => {
                    return Ok(Ok(event));
                }
                Event::Welcome { .. } | Event::Message { .. } | Event::Presence { .. } => {}
            }
        }
    }
}

impl Says {
    /// Says a line.
    ///
    /// # Errors
    /// The master has gone.
    pub(crate) async fn say(&mut self, order: &Value) -> Result<()> {
        self.say_bytes(&line(order)).await
    }

    /// Says what may be several lines, or part of one.
    ///
    /// # Errors
    /// The master has gone.
    pub(crate) async fn say_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let said = self.writer.write_all(bytes).await;
        said.map_err(|_| lost(&self.path))
    }

    /// Says that nothing more will be said: the master answers what it was asked, and hangs up.
    pub(crate) async fn finish(&mut self) {
        // An error: it has hung up already.
        let _ = self.writer.shutdown().await;
    }
}

impl Hears {
    /// The next event, and the line that it came as. May be given up at any time; nothing is lost.
    ///
    /// # Errors
    /// The master has gone without a last word, or what it says is no event.
    pub(crate) async fn next(&mut self) -> Result<(Event, Bytes)> {
        let line = self.next_line().await?;
        let event = serde_json::from_slice(&line).map_err(|_| foreign(&self.path))?;
        Ok((event, line))
    }

    async fn next_line(&mut self) -> Result<Bytes> {
        loop {
            if let Some(line) = self.lines.next() {
                return line.map_err(|_| foreign(&self.path));
            }
            match self.reader.read_buf(self.lines.room()).await {
                Ok(0) | Err(_) => return Err(lost(&self.path)),
                Ok(_) => {}
            }
        }
    }
}

/// Why an order did not work.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// In one word, for programs.
    pub(crate) reason: String,
    /// For people.
    pub(crate) error: String,
}
