//! The starting end of a load: the process, the order to it, and what it says.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::fd::AsFd,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tokio::io::Interest;

use super::{Order, Outcome, Said};
use crate::{
    error::{Error, Result},
    sys::{readiness::watch, tie},
};

/// A load under way. It ends with this, or with the thread that started it.
///
/// Whoever has a runtime awaits [`begun`](Self::begun) and [`ended`](Self::ended); whoever has none
/// calls [`wait_begun`](Self::wait_begun) and [`wait_ended`](Self::wait_ended).
#[derive(Debug)]
pub struct Load {
    child: Child,
    /// The load ends when this does.
    _input: ChildStdin,
    output: BufReader<ChildStdout>,
    line: Vec<u8>,
}

impl Load {
    /// Starts `program load`, only on these cores if any are named, and gives it its order. It begins
    /// at once.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(program: &Path, order: &Order, cpus: Option<&[usize]>) -> Result<Self> {
        let failed = |error| {
            let what = format!("cannot start the load, '{} load'", program.display());
            Error::runtime(what, error)
        };
        let mut command = Command::new(program);
        command.arg("load");
        if let Some(cpus) = cpus {
            let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
            command.arg("--cpus").arg(cpus.join(","));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        tie::to_us(&mut command);
        let mut child = command.spawn().map_err(failed)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut load = Self {
            _input: input.expect("it was asked for"),
            output: BufReader::new(output.expect("it was asked for")),
            child,
            line: Vec::new(),
        };
        let mut line = serde_json::to_vec(order).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        load._input.write_all(&line).map_err(failed)?;
        Ok(load)
    }

    /// The load's process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits until it is measured.
    ///
    /// # Errors
    /// The load cannot be done, or its process has ended.
    pub async fn begun(&mut self) -> Result<()> {
        let said = self.said().await?;
        expect_begun(said)
    }

    /// Waits until it is over. Its connections stay until it is dropped.
    ///
    /// # Errors
    /// As [`begun`](Self::begun).
    pub async fn ended(&mut self) -> Result<Outcome> {
        let said = self.said().await?;
        expect_ended(said)
    }

    /// [`begun`](Self::begun) for those who have no runtime.
    ///
    /// # Errors
    /// As [`begun`](Self::begun).
    pub fn wait_begun(&mut self) -> Result<()> {
        let said = self.wait_said()?;
        expect_begun(said)
    }

    /// [`ended`](Self::ended) for those who have no runtime.
    ///
    /// # Errors
    /// As [`begun`](Self::begun).
    pub fn wait_ended(&mut self) -> Result<Outcome> {
        let said = self.wait_said()?;
        expect_ended(said)
    }

    async fn said(&mut self) -> Result<Said> {
        let failed = |error| Error::runtime("cannot hear what the load says", error);
        loop {
            if self.output.buffer().is_empty() {
                let output = self.output.get_ref().as_fd();
                let output = output.try_clone_to_owned().map_err(failed)?;
                let watched = watch(output, Interest::READABLE).map_err(failed)?;
                // Held no longer than this: the pipe is read by nobody else.
                drop(watched.readable().await.map_err(failed)?);
            }
            if self.take().map_err(failed)? {
                return self.understand();
            }
        }
    }

    fn wait_said(&mut self) -> Result<Said> {
        let failed = |error| Error::runtime("cannot hear what the load says", error);
        while !self.take().map_err(failed)? {}
        self.understand()
    }

    /// Takes what is there, or waits until something is. True: it was the end of a line, or of all.
    fn take(&mut self) -> io::Result<bool> {
        let there = self.output.fill_buf()?;
        let end = there.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(there.len(), |end| end + 1);
        let is_over = there.is_empty() || end.is_some();
        self.line.extend_from_slice(&there[..taken]);
        self.output.consume(taken);
        Ok(is_over)
    }

    fn understand(&mut self) -> Result<Said> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let how = match self.child.wait() {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            return Err(Error::failed(format!(
                "the load ended before it was over ({how}); what it wrote above says why"
            )));
        }
        serde_json::from_slice(&line).map_err(|error| {
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end().escape_debug();
            Error::failed(format!("the load said '{line}': {error}"))
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn expect_begun(said: Said) -> Result<()> {
    match said {
        Said::Begun => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn expect_ended(said: Said) -> Result<Outcome> {
    match said {
        Said::Ended(outcome) => Ok(outcome),
        other => Err(unexpected(other)),
    }
}

fn unexpected(said: Said) -> Error {
    match said {
        Said::Failed { error } => Error::failed(error),
        Said::Begun | Said::Ended(_) => {
            Error::failed("the load said 'begun' or 'ended' when it was not to: ask in that order")
        }
    }
}
