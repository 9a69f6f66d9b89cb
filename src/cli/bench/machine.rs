//! Is this machine fit for measuring?

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::time::sleep;

use super::Cores;
use crate::{
    config::usable_cores,
    error::{Error, Result},
    sys::schedule,
};

/// For how long we look at what others do.
const LOOK: Duration = Duration::from_millis(300);
/// Others may keep so much of the cores that we may use busy before it is told.
const BEARABLE: f64 = 0.1;
/// Descriptors of a process beside those of connections.
const OTHER_FILES: u64 = 128;

/// May processes of ours have as many files open as so many clients need?
///
/// # Errors
/// They may not.
pub(super) fn has_room(clients: u32) -> Result<()> {
    // A worker that has got all connections needs another one to the upstream for each.
    let wanted = 2 * u64::from(clients) + OTHER_FILES;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|error| Error::runtime("cannot ask for the limit of open files", error.into()))?;
    if wanted <= hard {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{clients} clients need up to {wanted} open files in one worker, and the hard limit is {hard}: \
         raise that (ulimit -Hn), or ask for fewer --clients"
    )))
}

/// May we run on these cores?
///
/// # Errors
/// Not on all of them.
pub(super) fn has_cores(flag: &str, wanted: Option<&Cores>) -> Result<()> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let ours = schedule::cores()
        .map_err(|error| Error::runtime("cannot ask for the cores of this process", error))?;
    if wanted.0.iter().all(|core| ours.contains(core)) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{flag} {wanted}: this process may run on {} only",
        Cores(ours)
    )))
}

/// Says what would make a measurement worse, and returns how many cores others keep busy, if that can
/// be known.
pub(super) async fn others() -> Option<f64> {
    let cores = f64::from(usable_cores());
    if cores < 2.0 {
        crate::notice(format_args!(
            "bench: with one core, clients and upstreams take what the proxy needs: believe the CPU time per \
             request rather than the throughput"
        ));
    }
    let before = Ticks::now()?;
    sleep(LOOK).await;
    let busy = Ticks::now()?.busy_since(&before);
    if busy > BEARABLE * cores {
        crate::notice(format_args!(
            "bench: other programs keep {busy:.1} of {cores:.0} cores busy; what they take differs from \
             block to block and widens every interval"
        ));
    }
    Some(busy)
}

/// What all cores have done so far, in ticks of the clock: the first line of `/proc/stat` (proc_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ticks {
    idle: u64,
    all: u64,
    cores: usize,
}

impl Ticks {
    fn now() -> Option<Self> {
        Self::read(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    fn read(text: &str) -> Option<Self> {
        let first = text.lines().next()?.strip_prefix("cpu ")?;
        let fields: Vec<u64> = first
            .split_ascii_whitespace()
            .map_while(|field| field.parse().ok())
            // user nice system idle iowait irq softirq steal; guests are counted in user already.
            .take(8)
            .collect();
        let is_core = |line: &&str| {
            let name = line.strip_prefix("cpu").unwrap_or("");
            name.starts_with(|c: char| c.is_ascii_digit())
        };
        Some(Self {
            idle: fields.get(3)? + fields.get(4)?,
            all: fields.iter().sum(),
            cores: text.lines().filter(is_core).count(),
        })
    }

    /// How many cores were busy in between.
    fn busy_since(&self, earlier: &Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        let idle = self.idle.saturating_sub(earlier.idle);
        match all {
            0 => 0.0,
            all => all.saturating_sub(idle) as f64 / all as f64 * self.cores as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_cores_are_read_from_ticks() {
        let text = "cpu  10 0 10 70 10 0 0 0 5 5\ncpu0 5 0 5 35 5 0 0 0 0 0\ncpu1 5 0 5 35 5 0 0 0 0 0\nintr 1\n";
        let early = Ticks::read(text).expect("a first line");
        assert_eq!((early.idle, early.all, early.cores), (80, 100, 2));
        let late = Ticks {
            idle: 105,
            all: 200,
            cores: 2,
        };
        assert_eq!(late.busy_since(&early), 1.5);
        assert_eq!(early.busy_since(&early), 0.0);
        assert_eq!(Ticks::read("intr 1"), None);
        assert!(Ticks::now().is_some());
    }

    #[test]
    fn more_clients_than_files_are_refused() {
        assert!(has_room(1).is_ok());
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is one");
        if let Ok(many) = u32::try_from(hard) {
            let error = has_room(many)
                .expect_err("twice that does not fit")
                .to_string();
            assert!(error.contains("ulimit"), "{error}");
        }
    }
}
