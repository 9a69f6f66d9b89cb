//! CPU time and context switches of a whole proxy, read from `/proc`.
//!
//! A proxy is a process and all its descendants, with all their threads. The CPU time is the first
//! field of `schedstat`: nanoseconds, where `stat` counts in ticks of the clock.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result, bail};

/// A process as the tree knows it. The start time tells it from a later one of the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) started: u64,
    /// Ended, but not yet asked after by its parent.
    pub(crate) zombie: bool,
}

/// What a thread has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_ns: u64,
    pub(crate) switches: u64,
}

/// What each thread of a proxy had used at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    threads: HashMap<i32, Usage>,
}

/// What a proxy used between two snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) used: Usage,
    /// Threads that ended in between, whose last share of time is therefore missing.
    pub(crate) lost_threads: usize,
}

impl Snapshot {
    /// Reads all threads of `root` and its descendants.
    pub(crate) fn take(root: i32) -> Result<Self> {
        let mut threads = HashMap::new();
        for process in tree(root)? {
            let tasks = match fs::read_dir(format!("/proc/{}/task", process.pid)) {
                Ok(tasks) => tasks,
                Err(_) if process.pid != root => continue,
                Err(error) => bail!("process {root} has ended: {error}"),
            };
            for task in tasks.flatten() {
                let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                let path = task.path();
                let (Some(schedstat), Some(status)) = (
                    read_if_there(&path.join("schedstat"))?,
                    read_if_there(&path.join("status"))?,
                ) else {
                    continue; // It ended while we looked.
                };
                let usage = Usage {
                    cpu_ns: parse_schedstat(&schedstat)
                        .with_context(|| format!("{}/schedstat", path.display()))?,
                    switches: parse_switches(&status)
                        .with_context(|| format!("{}/status", path.display()))?,
                };
                threads.insert(tid, usage);
            }
        }
        if threads.is_empty() {
            bail!("process {root} has no threads left");
        }
        Ok(Self { threads })
    }

    /// What was used since `earlier`; a thread that is new since then counts in full.
    pub(crate) fn since(&self, earlier: &Self) -> Delta {
        let mut delta = Delta::default();
        for (tid, now) in &self.threads {
            let before = earlier.threads.get(tid).copied().unwrap_or_default();
            delta.used.cpu_ns += now.cpu_ns.saturating_sub(before.cpu_ns);
            delta.used.switches += now.switches.saturating_sub(before.switches);
        }
        delta.lost_threads = earlier
            .threads
            .keys()
            .filter(|tid| !self.threads.contains_key(tid))
            .count();
        delta
    }
}

/// `root` and all its descendants.
pub(crate) fn tree(root: i32) -> Result<Vec<Process>> {
    Ok(descendants(root, &all()?))
}

/// As [`tree`], with those of the process group that `root` leads: they may have lost the parent
/// that would tell whose they are.
pub(crate) fn family(root: i32) -> Result<Vec<Process>> {
    let all = all()?;
    let mut family = descendants(root, &all);
    for process in all {
        if process.group == root && !family.contains(&process) {
            family.push(process);
        }
    }
    Ok(family)
}

fn all() -> Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")
        .context("cannot list /proc")?
        .flatten()
    {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        all.extend(process(pid));
    }
    Ok(all)
}

/// The process of this id, if there is one.
pub(crate) fn process(pid: i32) -> Option<Process> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn descendants(root: i32, all: &[Process]) -> Vec<Process> {
    let mut family: HashSet<i32> = HashSet::from([root]);
    // Ids do not grow from parent to child once they have wrapped: go on until nobody is added.
    loop {
        let before = family.len();
        for process in all {
            if family.contains(&process.parent) {
                family.insert(process.pid);
            }
        }
        if family.len() == before {
            break;
        }
    }
    all.iter()
        .filter(|process| family.contains(&process.pid))
        .copied()
        .collect()
}

/// A thread's files vanish with it (not found) or while being read (no such process).
fn read_if_there(path: &std::path::Path) -> Result<Option<String>> {
    const NO_SUCH_PROCESS: i32 = nix::errno::Errno::ESRCH as i32;
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if error.kind() == ErrorKind::NotFound
                || error.raw_os_error() == Some(NO_SUCH_PROCESS) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// `pid (name) state parent group … started …`; the name may hold blanks and brackets of its own.
fn parse_stat(text: &str) -> Option<Process> {
    let (head, tail) = text.rsplit_once(')')?;
    let (pid, _) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    Some(Process {
        pid: pid.trim().parse().ok()?,
        zombie: *fields.first()? == "Z",
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// `nanoseconds-on-cpu nanoseconds-waiting timeslices`.
fn parse_schedstat(text: &str) -> Result<u64> {
    text.split_ascii_whitespace()
        .next()
        .and_then(|field| field.parse().ok())
        .with_context(|| format!("not a schedstat line: {text:?}"))
}

/// Voluntary and involuntary switches together.
fn parse_switches(status: &str) -> Result<u64> {
    let mut sum = 0;
    for name in ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"] {
        sum += status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|value| value.trim().parse::<u64>().ok())
            .with_context(|| format!("no {name} line"))?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_a_hostile_name() {
        let text = "42 (a) b (c)) S 7 40 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 2\n";
        assert_eq!(
            parse_stat(text),
            Some(Process {
                pid: 42,
                parent: 7,
                group: 40,
                started: 98765,
                zombie: false,
            })
        );
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn schedstat_is_the_first_field() {
        assert_eq!(
            parse_schedstat("123456789 5 6\n").expect("a good line"),
            123_456_789
        );
        assert!(parse_schedstat("").is_err());
    }

    #[test]
    fn switches_are_both_kinds() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        assert_eq!(parse_switches(status).expect("both lines"), 695);
        assert!(parse_switches("voluntary_ctxt_switches:\t150\n").is_err());
    }

    #[test]
    fn descendants_are_found_in_any_order() {
        let process = |pid, parent| Process {
            pid,
            parent,
            group: 0,
            started: 0,
            zombie: false,
        };
        let all = [
            process(5, 9),
            process(9, 20),
            process(20, 1),
            process(30, 1),
        ];
        let pids: Vec<i32> = descendants(20, &all).iter().map(|p| p.pid).collect();
        assert_eq!(pids, [5, 9, 20]);
    }

    #[test]
    fn a_delta_counts_new_threads_and_tells_of_lost_ones() {
        let usage = |cpu_ns, switches| Usage { cpu_ns, switches };
        let before = Snapshot {
            threads: HashMap::from([(1, usage(100, 10)), (2, usage(50, 5))]),
        };
        let after = Snapshot {
            threads: HashMap::from([(1, usage(160, 12)), (3, usage(7, 1))]),
        };
        assert_eq!(
            after.since(&before),
            Delta {
                used: usage(67, 3),
                lost_threads: 1
            }
        );
    }

    #[test]
    fn own_threads_can_be_read() {
        let own = i32::try_from(std::process::id()).expect("a process id fits");
        let before = Snapshot::take(own).expect("this process is alive");
        let mut sum = 0u64;
        for i in 0..5_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(i));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        let delta = Snapshot::take(own)
            .expect("this process is alive")
            .since(&before);
        assert!(delta.used.cpu_ns > 0, "{delta:?}");
    }
}
