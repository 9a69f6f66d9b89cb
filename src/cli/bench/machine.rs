//! Is this machine fit for measuring?

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::time::sleep;

use super::Cores;
use crate::{
    config::usable_cores,
    error::{Error, Result},
    machine::CoreTime,
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
    let before = CoreTime::now()?;
    sleep(LOOK).await;
    let now = CoreTime::now()?;
    let (stolen, busy) = now.shares_since(&before);
    let busy = (stolen + busy) * now.cores() as f64;
    if busy > BEARABLE * cores {
        crate::notice(format_args!(
            "bench: other programs keep {busy:.1} of {cores:.0} cores busy; what they take differs from \
             block to block and widens every interval"
        ));
    }
    Some(busy)
}

#[cfg(test)]
mod tests {
    use super::*;

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
