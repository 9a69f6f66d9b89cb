//! Masters below a process: a tree of trees.

use std::{io, process::Command};

use super::{client::Bus, control::Ask, error::BusError, line};
use crate::sys::child::leave_open;

impl Bus {
    /// Makes the cluster that `command` is about to start a branch of this one: its master's bus is
    /// joined with ours, this process is its parent, and messages go both ways. The program is one that
    /// calls [`Cluster::serve`](crate::Cluster::serve), or `pointsman serve`; any other takes no notice.
    ///
    /// The hubs talk to each other by themselves: this process may be as busy as it likes, and the
    /// branch stays on the bus should it end. One call is good for one start.
    ///
    /// ```no_run
    /// # async fn start(bus: pointsman::bus::Bus) -> std::io::Result<()> {
    /// let mut command = std::process::Command::new("pointsman");
    /// command.args(["serve", "--upstream", "http://127.0.0.1:3000"]);
    /// bus.branch(&mut command)?;
    /// let _branch = command.spawn()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// No descriptor is left, or the bus is closed.
    pub fn branch(&self, command: &mut Command) -> io::Result<()> {
        let (ours, theirs) = line::pair()?;
        self.ask(&Ask::Branch, Some(ours))
            .map_err(|error| match error {
                BusError::Io(error) => error,
                error => io::Error::new(io::ErrorKind::NotConnected, error),
            })?;
        leave_open(command, theirs);
        Ok(())
    }
}
