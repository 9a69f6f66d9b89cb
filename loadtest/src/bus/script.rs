//! What actors are told to do, and what they say of it: a line of JSON each, over a Unix socket that has
//! nothing to do with either bus.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pointsman::compare::Drive;
use pointsman::scoreboard::histogram::Snapshot;
use serde::{Deserialize, Serialize};

/// How long an actor may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an actor is told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Count from now on what belongs to this block.
    Expect {
        block: u64,
        /// The messages that it will have.
        messages: u64,
        /// Tell the publisher after so many how far it is; 0: never.
        ack: u64,
    },
    /// Publish a block.
    Publish {
        block: u64,
        messages: u64,
        /// Of a payload, bytes.
        size: usize,
        /// As many may be under way that the slowest subscriber has not seen.
        window: Option<u64>,
        /// So many a second.
        rate: Option<f64>,
    },
    /// Say what has come by now.
    Count,
    /// Ask the one that answers, again and again, and wait for each answer.
    Ask { requests: u64, size: usize },
    /// Keep publishing from now on.
    Flood { size: usize },
    /// Keep a core busy from now on, with nothing.
    Spin,
    /// Stop that, or the flood.
    Rest,
}

/// What an actor says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Said {
    /// Here I am, and on the bus.
    Hello { seat: u16, pid: i32 },
    /// The order was understood, and is being followed.
    Understood,
    /// All messages of the block have been passed on.
    Published { began_ns: u64 },
    /// See [`Order::Count`].
    Counted(Count),
    /// All have been answered, or not.
    Asked {
        began_ns: u64,
        ended_ns: u64,
        answered: u64,
        failed: u64,
        latency: Snapshot,
    },
    /// Messages of the flood; none of a spin.
    Rested { messages: u64 },
    /// It did not work.
    Failed(String),
}

/// What a subscriber has seen of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) received: u64,
    /// Left out between two that came.
    pub(crate) missed: u64,
    /// Came after one that was sent later.
    pub(crate) disordered: u64,
    /// Was the last one among them?
    pub(crate) complete: bool,
    /// When the latest came, monotonic.
    pub(crate) last_ns: u64,
}

/// How messages of a broadcast are offered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Offer {
    /// As fast as it goes without losing any.
    Window(u64),
    /// So many a second.
    Rate(f64),
    /// As fast as it goes.
    Flat,
}

impl Offer {
    /// The same in the words of a comparison.
    pub(crate) fn drive(self) -> Drive {
        match self {
            Self::Rate(rate) => Drive::Open { rate },
            Self::Window(_) | Self::Flat => Drive::Closed,
        }
    }
}

/// The directing end of an actor.
pub(crate) struct Actor {
    lines: BufReader<UnixStream>,
}

impl Actor {
    /// An actor that has just come in, its seat and its process.
    pub(crate) fn greet(stream: UnixStream) -> Result<(u16, i32, Self)> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut actor = Self {
            lines: BufReader::new(stream),
        };
        match actor.hear()? {
            Said::Hello { seat, pid } => Ok((seat, pid, actor)),
            said => bail!("an actor began with {said:?}"),
        }
    }

    pub(crate) fn tell(&mut self, order: Order) -> Result<()> {
        let mut line = serde_json::to_vec(&order)?;
        line.push(b'\n');
        let stream = self.lines.get_mut();
        stream.write_all(&line).context("an actor has ended")
    }

    pub(crate) fn hear(&mut self) -> Result<Said> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line);
        if read.context("an actor says nothing")? == 0 {
            bail!("an actor has ended: look at what it wrote");
        }
        match serde_json::from_str(&line).context("an actor talks nonsense")? {
            Said::Failed(why) => bail!("an actor: {why}"),
            said => Ok(said),
        }
    }

    /// Tells, and hears the answer.
    pub(crate) fn ask(&mut self, order: Order) -> Result<Said> {
        self.tell(order)?;
        self.hear()
    }
}
