//! What has to be known of the machine to make sense of the numbers.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;

use crate::arm::Arm;
use crate::peers::find_program;

/// Moves this program to `core`, out of the way of the proxies.
pub(crate) fn pin_self(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("cannot run on core {core} (--load-core)"))
}

/// How busy a core has been since the machine started, in ticks of the kernel's own clock.
///
/// Coarse, but it sees everything that runs on the core, a stolen share included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CoreTime {
    busy: u64,
    all: u64,
}

impl CoreTime {
    pub(crate) fn read(core: usize) -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&text, core).with_context(|| format!("/proc/stat has no core {core}"))
    }

    /// Share of the time since `earlier` that the core was busy.
    pub(crate) fn busy_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        if all == 0 {
            return 0.0;
        }
        self.busy.saturating_sub(earlier.busy) as f64 / all as f64
    }

    /// `cpuN user nice system idle iowait irq softirq steal …`; what follows is in these already.
    fn parse(text: &str, core: usize) -> Option<Self> {
        let name = format!("cpu{core}");
        let fields: Vec<u64> = text
            .lines()
            .map(str::split_ascii_whitespace)
            .find_map(|mut fields| (fields.next() == Some(&name)).then_some(fields))?
            .take(8)
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        let all = fields.iter().sum();
        let idle = fields.get(3)? + fields.get(4)?;
        Some(Self {
            busy: all - idle,
            all,
        })
    }
}

/// CPU time of all ended and awaited children of this program.
pub(crate) fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot read the children's usage")?;
    let time = usage.user_time() + usage.system_time();
    Ok(Duration::from_micros(
        u64::try_from(time.num_microseconds()).unwrap_or(0),
    ))
}

/// Processor and kernel, a line each.
pub(crate) fn describe() -> Vec<String> {
    let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let (_, model) = text
            .lines()
            .find(|line| line.starts_with("model name"))?
            .split_once(':')?;
        Some(format!("processor: {}", model.trim()))
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
        .ok()
        .map(|release| format!("kernel: {}", release.trim()));
    processor.into_iter().chain(kernel).collect()
}

/// What each program says of its version.
pub(crate) fn versions(arms: &[Arm], pointsman: &Path) -> Vec<String> {
    let has = |wanted: fn(&Arm) -> bool| arms.iter().any(wanted);
    // nginx is always there: it is the upstream.
    let mut programs = vec![(Path::new("wrk"), "-v"), (Path::new("nginx"), "-v")];
    if has(|arm| *arm == Arm::Haproxy) {
        programs.push((Path::new("haproxy"), "-v"));
    }
    if has(|arm| matches!(arm, Arm::Pointsman { .. })) {
        programs.push((pointsman, "--version"));
    }
    programs
        .into_iter()
        .filter_map(|(program, option)| {
            let output = Command::new(find_program(program).ok()?)
                .arg(option)
                .output()
                .ok()?;
            // nginx says it on stderr; wrk goes on with its usage.
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            let line = said.lines().find(|line| !line.trim().is_empty())?;
            Some(line.trim().to_owned())
        })
        .collect()
}

/// A connection per request leaves one in TIME_WAIT behind: thousands a second, each on a port
/// that Linux gives out again at once only if it may (the default for loopback).
pub(crate) fn warn_of_few_ports() {
    let reuse = fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse");
    if reuse.is_ok_and(|value| value.trim() == "0") {
        eprintln!(
            "note: net.ipv4.tcp_tw_reuse is 0: per-connection blocks may run out of ports; \
             watch for connect errors"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_and_waiting() {
        let before =
            "cpu 9 9 9 9 9 9 9 9 0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\ncpu1 10 0 10 70 10 0 0 0 5 0\n";
        let after = "cpu0 9 9 9 9 9 9 9 9 0 0\ncpu1 20 0 20 120 20 10 5 5 9 0\n";
        let core = |text| CoreTime::parse(text, 1).expect("core 1 is there");
        let share = core(after).busy_since(core(before));
        assert!((share - 0.4).abs() < 1e-9, "{share}");
        assert_eq!(core(after).busy_since(core(after)), 0.0);
        assert_eq!(CoreTime::parse(after, 2), None);
    }
}
