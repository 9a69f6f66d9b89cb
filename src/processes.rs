//! What a program has used: CPU time, time spent waiting for a core, and context switches, of a process
//! and all its descendants with all their threads, read from `/proc`.
//!
//! The first two are fields of `schedstat` (Documentation/scheduler/sched-stats.rst): nanoseconds, where
//! `stat` counts in ticks of the clock.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A process as the tree knows it. The start time tells it from a later one of the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// The leader of its process group.
    pub group: i32,
    /// Clock ticks since the machine booted.
    pub started: u64,
    /// Ended, but not yet asked after by its parent.
    pub zombie: bool,
}

/// What threads have used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Time on a core.
    pub cpu_ns: u64,
    /// Time in which they could have run and no core was free for them.
    pub waited_ns: u64,
    /// Switches of their own will: they had nothing to do. As many wake-ups followed.
    pub wakeups: u64,
    /// Switches by force: somebody else's turn.
    pub preempted: u64,
}

/// What each thread of a program had used at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    threads: HashMap<i32, Usage>,
}

/// What a program used between two snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta {
    /// By all threads.
    pub used: Usage,
    /// Threads that ended in between, whose last share is therefore missing.
    pub lost_threads: usize,
}

impl Snapshot {
    /// Reads all threads of `root` and its descendants.
    ///
    /// # Errors
    /// There is no such process, or `/proc` is not as it should be.
    pub fn take(root: i32) -> Result<Self> {
        Self::of(root, &tree(root)?)
    }

    /// The same of a tree that is known already: quicker by the time that it takes to look at every process
    /// of the machine.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn of(root: i32, tree: &[Process]) -> Result<Self> {
        let mut threads = HashMap::new();
        for process in tree {
            let tasks = match fs::read_dir(format!("/proc/{}/task", process.pid)) {
                Ok(tasks) => tasks,
                Err(_) if process.pid != root => continue,
                Err(error) => {
                    return Err(Error::runtime(format!("process {root} has ended"), error));
                }
            };
            for task in tasks.flatten() {
                let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                if let Some(usage) = usage(&task.path())? {
                    threads.insert(tid, usage);
                }
            }
        }
        if threads.is_empty() {
            return Err(Error::failed(format!("process {root} has no threads left")));
        }
        Ok(Self { threads })
    }

    /// With the threads that only `other` knows.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        for (tid, usage) in other.threads {
            self.threads.entry(tid).or_insert(usage);
        }
        self
    }

    /// What was used since `earlier`; a thread that is new since then counts in full.
    pub fn since(&self, earlier: &Self) -> Delta {
        let mut delta = Delta::default();
        for (tid, now) in &self.threads {
            let before = earlier.threads.get(tid).copied().unwrap_or_default();
            let used = &mut delta.used;
            used.cpu_ns += now.cpu_ns.saturating_sub(before.cpu_ns);
            used.waited_ns += now.waited_ns.saturating_sub(before.waited_ns);
            used.wakeups += now.wakeups.saturating_sub(before.wakeups);
            used.preempted += now.preempted.saturating_sub(before.preempted);
        }
        let gone = |tid: &&i32| !self.threads.contains_key(tid);
        delta.lost_threads = earlier.threads.keys().filter(gone).count();
        delta
    }
}

/// `None`: the thread ended while we looked.
fn usage(task: &Path) -> Result<Option<Usage>> {
    let unreadable =
        |what: &str| Error::failed(format!("{}/{what} is not as expected", task.display()));
    let read = |what: &str| {
        read_if_there(&task.join(what)).map_err(|error| {
            Error::runtime(format!("cannot read {}/{what}", task.display()), error)
        })
    };
    let (Some(schedstat), Some(status)) = (read("schedstat")?, read("status")?) else {
        return Ok(None);
    };
    let (cpu_ns, waited_ns) = parse_schedstat(&schedstat).ok_or_else(|| unreadable("schedstat"))?;
    let (wakeups, preempted) = parse_switches(&status).ok_or_else(|| unreadable("status"))?;
    Ok(Some(Usage {
        cpu_ns,
        waited_ns,
        wakeups,
        preempted,
    }))
}

/// `root` and all its descendants.
///
/// # Errors
/// `/proc` cannot be listed.
pub fn tree(root: i32) -> Result<Vec<Process>> {
    Ok(descendants(root, &all()?))
}

/// As [`tree`], with those of the process group that `root` leads: they may have lost the parent
/// that would tell whose they are.
///
/// # Errors
/// As [`tree`].
pub fn family(root: i32) -> Result<Vec<Process>> {
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
    let entries =
        fs::read_dir("/proc").map_err(|error| Error::runtime("cannot list /proc", error))?;
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter_map(process).collect())
}

/// The process of this id, if there is one.
pub fn process(pid: i32) -> Option<Process> {
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
    let is_family = |process: &&Process| family.contains(&process.pid);
    all.iter().filter(is_family).copied().collect()
}

/// A thread's files vanish with it (not found) or while being read (no such process).
fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    const NO_SUCH_PROCESS: i32 = nix::errno::Errno::ESRCH as i32;
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if error.kind() == ErrorKind::NotFound
                || error.raw_os_error() == Some(NO_SUCH_PROCESS) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
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

/// `nanoseconds-on-a-core nanoseconds-waiting timeslices`.
fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_ascii_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Voluntary switches, and involuntary ones.
fn parse_switches(status: &str) -> Option<(u64, u64)> {
    let find = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    };
    Some((
        find("voluntary_ctxt_switches:")?,
        find("nonvoluntary_ctxt_switches:")?,
    ))
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
    fn schedstat_begins_with_time_run_and_time_waited() {
        assert_eq!(parse_schedstat("123456789 5 6\n"), Some((123_456_789, 5)));
        assert_eq!(parse_schedstat("1"), None);
    }

    #[test]
    fn switches_are_of_two_kinds() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        assert_eq!(parse_switches(status), Some((150, 545)));
        assert_eq!(parse_switches("voluntary_ctxt_switches:\t150\n"), None);
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
        let usage = |cpu_ns, wakeups| Usage {
            cpu_ns,
            wakeups,
            ..Usage::default()
        };
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
    fn what_one_snapshot_does_not_know_comes_from_the_other() {
        let of = |threads: &[(i32, u64)]| Snapshot {
            threads: threads
                .iter()
                .map(|(tid, cpu_ns)| {
                    let usage = Usage {
                        cpu_ns: *cpu_ns,
                        ..Usage::default()
                    };
                    (*tid, usage)
                })
                .collect(),
        };
        let both = of(&[(1, 10), (2, 20)]).or(of(&[(2, 25), (3, 30)]));
        assert_eq!(both.threads, of(&[(1, 10), (2, 20), (3, 30)]).threads);
    }

    #[test]
    fn own_threads_can_be_read() {
        let own = i32::try_from(std::process::id()).expect("a process id fits");
        let before = Snapshot::take(own).expect("this process is alive");
        let mut sum = 0u64;
        while Snapshot::take(own)
            .expect("alive")
            .since(&before)
            .used
            .cpu_ns
            == 0
        {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(Snapshot::take(i32::MAX).is_err());
    }
}
