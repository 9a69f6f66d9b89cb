//! Processes that end when their guard goes, and the wish of a person to stop early.

use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use pointsman::{processes, sys::tie};

/// How often anything here looks again; all of it runs on the load core.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// How long a process may take to end on its own before it is killed.
const TERM_DEADLINE: Duration = Duration::from_secs(5);

/// Set by Ctrl-C and its kin. A flag, not an exit, so that every guard still runs.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .with_context(|| format!("cannot catch signal {signal}"))?;
        }
        Ok(Self(flag))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Completes when it is set.
    pub(crate) async fn wait(&self) {
        while !self.is_set() {
            tokio::time::sleep(POLL * 5).await;
        }
    }

    /// Sleeps, unless interrupted.
    pub(crate) fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(POLL));
        }
    }
}

/// A child process, with all its descendants, that does not outlive this value.
pub(crate) struct Guard {
    child: Child,
    name: String,
}

impl Guard {
    /// Starts `command` in a process group of its own: Ctrl-C then reaches this program only,
    /// which ends the others in its own order. Should it be killed itself, they are told to end.
    /// For the main thread.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        tie::to_us(command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name} ({:?})", command.get_program()))?;
        Ok(Self {
            child,
            name: name.to_owned(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("Linux process ids fit an i32")
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot ask after {}", self.name))
    }

    /// Waits for the end; `false` when `deadline` came first.
    fn wait_until(&mut self, deadline: Instant) -> bool {
        loop {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Seen before the end: afterwards they are nobody's descendants.
        let family = processes::family(self.pid()).unwrap_or_default();
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            // Whoever a drill has stopped hears nothing before it goes on.
            for process in &family {
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGCONT);
            }
            if !self.wait_until(Instant::now() + TERM_DEADLINE) {
                eprintln!(
                    "{}: still there {} s after SIGTERM: killed",
                    self.name,
                    TERM_DEADLINE.as_secs()
                );
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        for process in family {
            // The start time makes sure that the id has not passed to someone else.
            let alive =
                processes::process(process.pid).is_some_and(|now| now.started == process.started);
            if alive && process.pid != self.pid() {
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_takes_the_descendants_with_it() {
        let guard = Guard::spawn(
            "shell",
            Command::new("sh").args(["-c", "sleep 600 & sleep 600 & wait"]),
        )
        .expect("there is a shell");
        let end = Instant::now() + TERM_DEADLINE;
        let family = loop {
            let family = processes::tree(guard.pid()).expect("/proc can be read");
            if family.len() == 3 || Instant::now() > end {
                break family;
            }
            sleep(POLL);
        };
        assert_eq!(family.len(), 3, "{family:?}");
        drop(guard);
        let end = Instant::now() + TERM_DEADLINE;
        let alive = |process: &processes::Process| {
            processes::process(process.pid)
                .is_some_and(|now| now.started == process.started && !now.zombie)
        };
        while family.iter().any(alive) {
            assert!(Instant::now() < end, "someone of {family:?} is still alive");
            sleep(POLL);
        }
    }
}
