//! What has to be known of the machine to make sense of the numbers, and on which cores what runs.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use pointsman::machine::CoreTime;
use pointsman::processes::Snapshot;
use pointsman::sys::schedule;

/// The cores that this thread may use.
pub(crate) fn cores() -> Result<Vec<usize>> {
    schedule::cores().context("cannot ask for the usable cores")
}

/// Lets this thread, and what it starts from now on, run on `cores` only.
pub(crate) fn stay_on(cores: &[usize]) -> Result<()> {
    schedule::run_on(cores).with_context(|| format!("cannot run on the cores {cores:?}"))
}

/// Does `work` on `cores`: what it starts stays there, and this thread comes back.
pub(crate) fn on_cores<T>(cores: Option<&[usize]>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(cores) = cores else {
        return work();
    };
    let before = self::cores()?;
    stay_on(cores)?;
    let done = work();
    stay_on(&before)?;
    done
}

/// What the whole machine has done since it started, and what of it was ours.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    time: CoreTime,
    /// Everything that we have started and that is still there, and we.
    ours: Snapshot,
    /// What we have started and awaited.
    ended: Duration,
    at: Instant,
}

/// Who had the machine's time, as shares of all of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shares {
    /// The hypervisor gave it to somebody else.
    pub(crate) stolen: f64,
    /// Programs of this machine that are not ours.
    pub(crate) others: f64,
}

impl Machine {
    pub(crate) fn look() -> Result<Self> {
        let usage =
            getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot read the children's usage")?;
        let ended = usage.user_time() + usage.system_time();
        Ok(Self {
            time: CoreTime::now().context("/proc/stat is not as expected")?,
            ours: Snapshot::take(Pid::this().as_raw()).context("our own usage")?,
            ended: Duration::from_micros(ended.num_microseconds().try_into().unwrap_or(0)),
            at: Instant::now(),
        })
    }

    /// Who had the time since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Shares {
        let ours = Duration::from_nanos(self.ours.since(&earlier.ours).used.cpu_ns)
            + self.ended.saturating_sub(earlier.ended);
        let wall = self.at.duration_since(earlier.at).as_secs_f64() * self.time.cores() as f64;
        let (stolen, busy) = self.time.shares_since(&earlier.time);
        Shares {
            stolen,
            others: (busy - ours.as_secs_f64() / wall.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0),
        }
    }
}

/// The commit of the working tree, and whether there is more in it than was committed.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}, with uncommitted changes"),
    }
}

/// The day, as `2026-11-20`, `seconds` after 1970 began.
pub(crate) fn day(seconds: u64) -> String {
    // Counted from 1 March of the year 0: leap days then come last (Howard Hinnant, chrono-compatible
    // low-level date algorithms).
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

/// What a person should know before they believe the numbers.
pub(crate) fn warnings() -> Vec<String> {
    let mut warnings = Vec::new();
    // A connection per request leaves one in TIME_WAIT behind: thousands a second, each on a port that
    // Linux gives out again at once only if it may (the default for loopback).
    let reuse = fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse");
    if reuse.is_ok_and(|value| value.trim() == "0") {
        warnings.push(
            "net.ipv4.tcp_tw_reuse is 0: per-connection blocks may run out of ports; watch for errors"
                .to_owned(),
        );
    }
    let busy = fs::read_to_string("/proc/loadavg").ok().and_then(|text| {
        let load: f64 = text.split(' ').next()?.parse().ok()?;
        (load > 0.5).then_some(load)
    });
    if let Some(load) = busy {
        warnings.push(format!(
            "the machine was not idle when this began: a load of {load:.2} in the last minute"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_looked_at() {
        let before = Machine::look().expect("there is /proc");
        let shares = Machine::look().expect("there is /proc").since(&before);
        assert!((0.0..=1.0).contains(&shares.others) && (0.0..=1.0).contains(&shares.stolen));
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_164_800, "2024-02-29"),
            (1_709_251_200, "2024-03-01"),
            (1_767_225_599, "2025-12-31"),
            (1_795_132_800, "2026-11-20"),
        ] {
            assert_eq!(day(seconds), expected);
        }
    }

    #[test]
    fn what_is_started_elsewhere_stays_there_and_we_come_back() {
        let all = cores().expect("there are some");
        let one = [all[all.len() - 1]];
        let seen = on_cores(Some(&one), cores).expect("one of ours");
        assert_eq!(seen, one);
        assert_eq!(cores().expect("there are some"), all);
        assert!(on_cores(Some(&[usize::MAX]), cores).is_err());
    }
}
