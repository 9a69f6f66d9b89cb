//! The duties of process 1: reaping children that it never had.
//!
//! In a container the master is process 1. The kernel gives it every process there whose parent has
//! died, and such a process stays a zombie until it is reaped. Those that we started ourselves are
//! reaped through their pidfds, by whoever wants to know how they ended: they must be left alone.

use std::{
    io,
    process::{self, Command},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::{
    sys::wait::{WaitPidFlag, waitpid},
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

/// The children that are waited for elsewhere. A list, not a set: a pid can come again before the one
/// that had it first is forgotten.
static OURS: Mutex<Vec<i32>> = Mutex::new(Vec::new());

fn ours() -> MutexGuard<'static, Vec<i32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that is waited for elsewhere, for as long as this lives.
#[derive(Debug)]
pub struct Ours(i32);

impl Ours {
    /// Starts `command`. Nobody is reaped as unknown meanwhile: a child that ends as soon as it is
    /// born could be, before it is on the list.
    pub(super) fn spawn(command: &mut Command) -> io::Result<(process::Child, Self)> {
        let mut ours = ours();
        let child = command.spawn()?;
        let pid = child.id() as i32;
        ours.push(pid);
        Ok((child, Self(pid)))
    }

    /// A child that was started before this program took the place of another by `exec`.
    pub fn adopt(pid: i32) -> Self {
        ours().push(pid);
        Self(pid)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let mut ours = ours();
        if let Some(at) = ours.iter().position(|pid| *pid == self.0) {
            ours.swap_remove(at);
        }
    }
}

/// Is the child `pid` waited for elsewhere?
pub fn is_ours(pid: i32) -> bool {
    ours().contains(&pid)
}

/// Is this process number 1, to whom the kernel gives the orphans?
pub fn is_init() -> bool {
    process::id() == 1
}

/// Reaps every child that has ended and is not `known`; how many. Never one that is known: whoever
/// waits for that one would be told that there is no such child.
pub fn reap_unknown(known: &dyn Fn(i32) -> bool) -> usize {
    // Asking the kernel for "any child that has ended" would show a known one over and over, for as
    // long as nobody reaps it, and hide the others behind it. So it is asked pid by pid.
    zombies()
        .filter(|pid| !known(*pid))
        .filter(|pid| waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)).is_ok())
        .count()
}

/// Our children that have ended and are not reaped.
fn zombies() -> impl Iterator<Item = i32> {
    let own = process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(move |pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name stands in parentheses and may hold anything, parentheses too.
        let mut fields = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        fields.next() == Some("Z") && fields.next().and_then(|p| p.parse().ok()) == Some(own)
    })
}

/// Reaps orphans for as long as the runtime runs. For process 1 only: in any other, a child that is
/// unknown here is somebody's.
///
/// # Errors
/// The signal SIGCHLD cannot be listened for.
pub async fn keep_reaping() -> io::Result<()> {
    let mut died = signal(SignalKind::child())?;
    loop {
        // First a look, for what ended before there was anybody to listen.
        reap_unknown(&is_ours);
        if died.recv().await.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn end_of(child: &process::Child) {
        let begun = Instant::now();
        while !zombies().any(|pid| pid == child.id() as i32) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it never ended");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_known_child_is_left_to_whoever_waits_for_it() {
        let (mut known, guard) = Ours::spawn(&mut Command::new("true")).expect("true(1)");
        let mut other = Command::new("true").spawn().expect("true(1)");
        end_of(&known);
        end_of(&other);
        let of_this_test = [known.id() as i32, other.id() as i32];
        // Other tests of this process have children of their own.
        let reaped = reap_unknown(&|pid| is_ours(pid) || !of_this_test.contains(&pid));
        assert_eq!(reaped, 1);
        assert!(other.wait().is_err(), "it was reaped");
        assert!(known.wait().expect("not reaped").success());
        assert!(is_ours(known.id() as i32));
        drop(guard);
        assert!(!is_ours(known.id() as i32));
    }
}
