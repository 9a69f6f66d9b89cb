//! A cluster of ours, in a process of its own.

use std::{
    ffi::OsString,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Arena, Look};
use crate::{
    compare,
    control::{Verb, WorkerReport, client},
    dispatch::mode::Arm,
    error::{Error, Result},
    rig::{Folder, Subject},
    sys::schedule,
};

/// How long the connections of one arm may take to go before the next begins.
const GOODBYE: Duration = Duration::from_secs(5);
/// Between two looks at that.
const PAUSE: Duration = Duration::from_millis(5);

/// What the cluster is to be.
#[derive(Debug, Clone)]
pub struct OwnPlan {
    /// What is compared, the base first.
    pub arms: Vec<Arm>,
    /// Worker processes.
    pub workers: u16,
    /// Where requests go.
    pub upstreams: Vec<String>,
    /// The cores that it may use; none: all that we may.
    pub cores: Vec<usize>,
}

/// One cluster, for all arms: a mode is switched while it runs. Dropping it ends it.
#[derive(Debug)]
pub struct Own {
    /// Ended before its folder goes.
    subject: Subject,
    folder: Folder,
    control: PathBuf,
    ways: Vec<Arm>,
    arms: Vec<compare::Arm>,
    /// What is in force.
    way: Arm,
}

/// `ways` as they are compared: the base comes once more, as the second.
pub fn arms(ways: &[Arm]) -> Vec<compare::Arm> {
    let mut arms: Vec<compare::Arm> = ways.iter().copied().map(compare::Arm::ours).collect();
    if let Some(twin) = arms.first().map(compare::Arm::twin) {
        arms.insert(1, twin);
    }
    arms
}

impl Own {
    /// Starts it and waits until all workers are ready. Must be called on the main thread.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(plan: &OwnPlan) -> Result<Self> {
        let folder = Folder::make()?;
        let control = folder.file("control.sock");
        let base = plan.arms.first().copied();
        let base = base.ok_or_else(|| Error::usage("there is nothing to compare"))?;
        let mut flags: Vec<OsString> = Vec::new();
        let workers = plan.workers.to_string();
        let usual = [
            ("--listen", "127.0.0.1:0"),
            ("--admin", "127.0.0.1:0"),
            ("--workers", &workers),
            ("--mode", base.mode().name()),
        ];
        for (flag, value) in usual {
            flags.extend([flag.into(), value.into()]);
        }
        if let Some(policy) = base.policy() {
            flags.extend(["--policy".into(), policy.name().into()]);
        }
        for upstream in &plan.upstreams {
            flags.extend(["--upstream".into(), upstream.into()]);
        }
        flags.extend(["--control".into(), control.clone().into()]);
        let subject = on_cores(&plan.cores, Subject::start(&flags, control.clone())).await?;
        subject.settled(usize::from(plan.workers)).await?;
        let mut ways = plan.arms.clone();
        ways.insert(1, base);
        Ok(Self {
            subject,
            folder,
            control,
            arms: arms(&plan.arms),
            ways,
            way: base,
        })
    }

    /// Waits until all connections have gone whose clients have, those included that no worker has claimed yet.
    async fn quiet(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let report = client::workers(&self.control).await?;
            let held = |w: &WorkerReport| w.connections_open.max(u64::from(w.load));
            let open: u64 = report.workers.iter().map(held).sum();
            if open == 0 {
                return Ok(());
            }
            if begun.elapsed() > GOODBYE {
                // An upstream that takes this long, most likely; the next arm has to bear it.
                crate::notice(format_args!(
                    "bench: {open} connections are still open {} s after their clients have gone",
                    GOODBYE.as_secs()
                ));
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// The folder that goes with it, for whoever ends this process without dropping it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The last lines that the cluster wrote.
    pub fn log(&self) -> Vec<String> {
        self.subject.log()
    }
}

/// Does `what` while this thread may run on these cores only, which what it starts inherits. None: all that
/// it may use now.
async fn on_cores<T>(cores: &[usize], what: impl Future<Output = Result<T>>) -> Result<T> {
    if cores.is_empty() {
        return what.await;
    }
    let list: Vec<String> = cores.iter().map(usize::to_string).collect();
    let failed = |error| Error::runtime(format!("cannot run on cores {}", list.join(",")), error);
    let before = schedule::cores().map_err(failed)?;
    schedule::run_on(cores).map_err(failed)?;
    let done = what.await;
    schedule::run_on(&before).map_err(failed)?;
    done
}

impl Arena for Own {
    fn arms(&self) -> &[compare::Arm] {
        &self.arms
    }

    async fn enter(&mut self, arm: usize) -> Result<()> {
        // First, or what the last arm has accepted would count for this one.
        self.quiet().await?;
        let way = self.ways[arm];
        if self.way != way {
            let (mode, policy) = (way.mode(), way.policy());
            self.subject.ask(&Verb::Mode { mode, policy }).await?;
            self.way = way;
        }
        Ok(())
    }

    fn target(&self, _: usize) -> SocketAddr {
        self.subject.target
    }

    fn root(&self, _: usize) -> i32 {
        self.subject.pid
    }

    async fn look(&mut self, _: usize) -> Result<Look> {
        let live = client::live(&self.control).await?;
        let workers = live.workers.iter();
        Ok(Look {
            open_by_worker: workers.map(|w| w.worker.connections_open).collect(),
            handoff: live.handoff,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_comes_twice_and_every_arm_says_how_to_choose_it() {
        let ways = [Arm::ALL[1], Arm::ALL[6]];
        let arms = arms(&ways);
        let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
        let twin = "handoff/least-loaded, again";
        assert_eq!(names, ["handoff/least-loaded", twin, "shared"]);
        let twins: Vec<_> = arms.iter().map(|arm| arm.twin_of).collect();
        assert_eq!(twins, [None, Some(0), None]);
        let lines = arms[0].configuration.as_deref();
        assert_eq!(
            lines,
            Some("mode = \"handoff\"\npolicy = \"least-loaded\"\n")
        );
        assert_eq!(
            arms[2].configuration.as_deref(),
            Some("mode = \"shared\"\n")
        );
    }
}
