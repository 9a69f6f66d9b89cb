//! The asking end: a guest on the bus of a running master.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
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
    stream: TokioIo<Upgraded>,
    lines: Lines,
    welcome: Bytes,
}

impl Guest {
    /// Becomes a guest of the master at `path`.
    ///
    /// # Errors
    /// Nobody is there, or may not be asked, or is of another version, or has too many guests.
    pub(crate) async fn join(path: PathBuf) -> Result<Self> {
        let mut guest = Self {
            stream: upgraded(&path, "/bus", UPGRADE).await?,
            path,
            lines: Lines::new(MAX_LINE),
            welcome: Bytes::new(),
        };
        let first = timeout(FIRST_LINE, guest.next_line()).await;
        guest.welcome = first.map_err(|_| lost(&guest.path))??;
        match serde_json::from_slice(&guest.welcome) {
            Ok(Event::Welcome { protocol, .. }) if protocol == PROTOCOL => Ok(guest),
            Ok(Event::Bye { error, .. }) => Err(Error::failed(error)),
            _ => Err(foreign(&guest.path)),
        }
    }

    /// Becomes a guest once more after the master has gone away to become another binary.
    ///
    /// # Errors
    /// It has not come back for a minute: as [`join`](Self::join).
    pub(crate) async fn rejoin(self) -> Result<Self> {
        let Self { path, stream, .. } = self;
        drop(stream);
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

    /// Says a line.
    ///
    /// # Errors
    /// The master has gone.
    pub(crate) async fn say(&mut self, order: &Value) -> Result<()> {
        self.say_bytes(&line(order)).await
    }

    /// Says what may be several lines, or parts of one.
    ///
    /// # Errors
    /// The master has gone.
    pub(crate) async fn say_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let said = self.stream.write_all(bytes).await;
        said.map_err(|_| lost(&self.path))
    }

    /// The next event, and the line that it came as.
    ///
    /// # Errors
    /// The master has gone without a last word, or what it says is no event.
    pub(crate) async fn next(&mut self) -> Result<(Event, Bytes)> {
        let line = self.next_line().await?;
        let event = serde_json::from_slice(&line).map_err(|_| foreign(&self.path))?;
        Ok((event, line))
    }

    /// Gives an order that has an outcome, and waits for that. Must not be subscribed to anything.
    ///
    /// # Errors
    /// It did not work, or the master has gone.
    pub(crate) async fn ask(&mut self, mut order: Value) -> Result<Result<Event, Refusal>> {
        order["id"] = json!(1);
        self.say(&order).await?;
        loop {
            match self.next().await?.0 {
                Event::Error { reason, error, .. } => return Ok(Err(Refusal { reason, error })),
                Event::Bye { error, .. } => return Err(Error::failed(error)),
                event @ (Event::Ok { .. } | Event::Reply { .. } | Event::Peers { .. }) => {
                    return Ok(Ok(event));
                }
                // Not asked for.
                Event::Welcome { .. } | Event::Message { .. } | Event::Presence { .. } => {}
            }
        }
    }

    /// The next line, whatever it says. May be given up at any time; nothing is lost.
    ///
    /// # Errors
    /// The master has gone, or the line is longer than any.
    pub(crate) async fn next_line(&mut self) -> Result<Bytes> {
        loop {
            if let Some(line) = self.lines.next() {
                return line.map_err(|_| foreign(&self.path));
            }
            match self.stream.read_buf(self.lines.room()).await {
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
