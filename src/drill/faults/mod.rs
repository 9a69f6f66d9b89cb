//! The faults, one file for each kind. Each injects one, waits until the cluster is as it should be
//! again, and says what it found.

mod hogs;
mod kill;
mod reload;
mod restart;
mod stop;
mod switch;
mod upgrade;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use self::upgrade::Binaries;
pub(super) use self::{
    reload::{Files, take_up},
    switch::verb,
};
use super::traffic::Tallies;
use crate::{
    control::{WorkerReport, WorkersReport},
    dispatch::mode::Arm,
    error::{Error, Result},
    random::Random,
    rig::{Subject, processes, state_and_parent},
};

/// One thing to do to the cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    /// Kill a worker.
    Kill,
    /// Stop a worker for a while.
    Stop,
    /// Do nothing for this long, beside a busy machine.
    Healthy(Duration),
    /// Replace all workers.
    Restart,
    /// Reload, a good configuration: the file as it is in a cluster of somebody else's.
    Reload,
    /// Reload, a configuration that is broken in this way.
    BrokenReload(usize),
    /// Upgrade to the same binary.
    Upgrade,
    /// Upgrade to a binary that is bad in this way.
    BadUpgrade(usize),
    /// Switch to this arm.
    Switch(Arm),
}

/// Where faults are injected.
pub(super) struct Site<'a> {
    pub(super) subject: &'a Subject,
    pub(super) tallies: &'a Tallies,
    pub(super) random: &'a mut Random,
    /// When the drill began.
    pub(super) clock: Instant,
    /// The configuration file of the drill's own cluster.
    pub(super) files: Option<&'a mut Files>,
}

/// What came of a fault.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What was done.
    pub(super) fault: String,
    /// What was counted.
    pub(super) facts: BTreeMap<&'static str, u64>,
    /// What went otherwise than it should.
    pub(super) broken: Vec<String>,
}

impl Findings {
    fn of(fault: impl Into<String>) -> Self {
        Self {
            fault: fault.into(),
            ..Self::default()
        }
    }

    /// Notes `what` unless `held`.
    fn hold(&mut self, held: bool, what: impl FnOnce() -> String) {
        if !held {
            self.broken.push(what());
        }
    }
}

impl Site<'_> {
    fn now(&self) -> f64 {
        self.clock.elapsed().as_secs_f64()
    }

    /// Any worker that is ready.
    async fn any_worker(&mut self) -> Result<WorkerReport> {
        let report = self.subject.workers().await?;
        let mut ready: Vec<&WorkerReport> = processes(&report)
            .filter(|worker| worker.state == "ready")
            .collect();
        if ready.is_empty() {
            return Err(Error::failed("no worker is ready"));
        }
        let chosen = self.random.below(ready.len());
        Ok(ready.swap_remove(chosen).clone())
    }
}

/// Does it, and waits until the cluster is as it should be again.
///
/// # Errors
/// The cluster does not answer, or does not recover: no further fault would show anything.
pub(super) async fn inject(step: Step, site: &mut Site<'_>) -> Result<Findings> {
    match step {
        Step::Kill => kill::inject(site).await,
        Step::Stop => stop::inject(site).await,
        Step::Healthy(time) => hogs::inject(site, time).await,
        Step::Restart => restart::inject(site).await,
        Step::Reload => reload::good(site).await,
        Step::BrokenReload(way) => reload::broken(site, way).await,
        Step::Upgrade => upgrade::good(site).await,
        Step::BadUpgrade(way) => upgrade::bad(site, &Binaries::make()?, way).await,
        Step::Switch(arm) => switch::inject(site, arm).await,
    }
}

/// How many ways there are to break a configuration.
pub(super) const BROKEN_RELOADS: usize = reload::WAYS.len();
/// How many ways there are to be a bad binary.
pub(super) const BAD_UPGRADES: usize = upgrade::WAYS.len();

/// Sends `signal` to a worker.
fn send(worker: &WorkerReport, signal: Signal) -> Result<()> {
    let pid = worker.pid.unwrap_or_default();
    // 0 would be everybody in our process group.
    let sent = match pid {
        1.. => signal::kill(Pid::from_raw(pid), signal),
        _ => Err(nix::errno::Errno::ESRCH),
    };
    sent.map_err(|errno| {
        let what = format!(
            "cannot send {signal} to worker {} (pid {pid})",
            worker.worker
        );
        Error::runtime(what, errno.into())
    })
}

/// A worker that stands still; it goes on when this is dropped, whatever happens.
struct Stopped<'a>(&'a WorkerReport);

impl<'a> Stopped<'a> {
    fn stop(worker: &'a WorkerReport) -> Result<Self> {
        send(worker, Signal::SIGSTOP)?;
        Ok(Self(worker))
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // It may have been killed for standing still; that will be found out.
        let _ = send(self.0, Signal::SIGCONT);
    }
}

/// Do all threads of `pid` stand still? A signal takes its time to reach them.
fn stands_still(pid: i32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let mut states = tasks.flatten().map(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        state_and_parent(&stat).map(|(state, _)| state)
    });
    states.all(|state| matches!(state, Some('T') | None))
}

/// Can `pid` do nothing any more, whether anybody has reaped it or not?
fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let state = stat.and_then(|stat| state_and_parent(&stat));
    state.is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

/// What is in `report` of `worker`'s seat.
fn seat_of<'a>(report: &'a WorkersReport, worker: &WorkerReport) -> Option<&'a WorkerReport> {
    report.workers.iter().find(|w| w.worker == worker.worker)
}

/// What must not change when something is refused.
#[derive(Debug, PartialEq)]
struct Standing {
    arm: String,
    workers: Vec<(String, Option<i32>, u64)>,
}

impl Standing {
    fn of(report: &WorkersReport) -> Self {
        let who = |w: &WorkerReport| (w.worker.clone(), w.pid, w.generation);
        Self {
            arm: format!("{}/{}", report.mode, report.policy),
            // The master's own seat stays whatever happens.
            workers: processes(report).map(who).collect(),
        }
    }

    /// Workers of `before` that are here still.
    fn left_of(&self, before: &Self) -> usize {
        let pids = before.workers.iter().filter_map(|(_, pid, _)| *pid);
        pids.filter(|pid| self.workers.iter().any(|(_, now, _)| *now == Some(*pid)))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread};

    use super::*;

    #[test]
    fn a_process_is_known_to_move_stand_still_or_be_no_more() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("a child");
        let pid = child.id() as i32;
        let becomes = |what: &str, is: fn(i32) -> bool| {
            let begun = Instant::now();
            while !is(pid) {
                assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
                thread::park_timeout(Duration::from_millis(1));
            }
        };
        assert!(!stands_still(pid) && !has_ended(pid));
        signal::kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("our child");
        becomes("stopped", stands_still);
        assert!(!has_ended(pid));
        signal::kill(Pid::from_raw(pid), Signal::SIGKILL).expect("our child");
        becomes("dead", has_ended);
        child.wait().expect("our child");
        assert!(has_ended(pid));
    }

    #[test]
    fn a_worker_that_stayed_or_changed_is_noticed() {
        let standing = |pids: [i32; 2]| Standing {
            arm: "handoff/least-loaded".into(),
            workers: pids
                .iter()
                .enumerate()
                .map(|(i, pid)| (i.to_string(), Some(*pid), 1))
                .collect(),
        };
        let before = standing([10, 11]);
        assert_eq!(standing([12, 13]).left_of(&before), 0);
        assert_eq!(standing([12, 11]).left_of(&before), 1);
        assert_eq!(standing([10, 11]), before);
        assert_ne!(standing([10, 12]), before);
    }
}
