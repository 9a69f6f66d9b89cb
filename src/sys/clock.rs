//! Clocks: monotonic time that all processes share, and the CPU time of any process.

use std::time::Duration;

use nix::{
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// `CLOCK_MONOTONIC` in nanoseconds. The same clock in every process of this machine, so that a
/// worker can subtract the time at which the master accepted. Answered by the vDSO: no system call.
#[inline]
pub fn monotonic_ns() -> u64 {
    // CLOCK_MONOTONIC exists on every Linux; the call has no other way to fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
    })
}

/// CPU time, user and system, that all threads of `pid` have used so far, the ended ones too
/// (`clock_getcpuclockid(3)`). `None` once the process has been reaped.
///
/// Works on a zombie, which is how the last figure of a dead worker is read before it is reaped.
pub fn cpu_time(pid: i32) -> Option<Duration> {
    let clock = nix::time::clock_getcpuclockid(Pid::from_raw(pid)).ok()?;
    clock_gettime(clock).ok().map(Duration::from)
}

/// What a thread is doing, as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Could it run, or does it?
    pub doing: Doing,
    /// For how long it has been on a core in all, nanoseconds.
    pub ran_ns: u64,
}

/// The states of a thread that matter here (`man 5 proc_pid_stat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Runs, or waits for a core.
    Running,
    /// Waits for something to happen.
    Waiting,
    /// Stopped by a signal or a debugger.
    Stopped,
}

/// What thread `thread` of process `pid` is doing. `None` once it is gone.
pub fn activity(pid: i32, thread: i32) -> Option<Activity> {
    let read = |what| std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/{what}")).ok();
    // The name stands in parentheses and may hold anything, parentheses too.
    let stat = read("stat")?;
    let doing = match stat.rsplit_once(") ")?.1.chars().next()? {
        'R' => Doing::Running,
        'T' | 't' => Doing::Stopped,
        _ => Doing::Waiting,
    };
    let ran_ns = read("schedstat")?.split(' ').next()?.parse().ok()?;
    Some(Activity { doing, ran_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_grows_with_work() {
        let pid = std::process::id() as i32;
        let before = cpu_time(pid).expect("own process");
        let mut x = 0_u64;
        while cpu_time(pid).expect("own process") == before {
            x = std::hint::black_box(x.wrapping_add(1));
        }
        assert!(cpu_time(pid).expect("own process") > before);
    }

    #[test]
    fn a_thread_that_works_is_seen_to_run_and_a_gone_one_is_not() {
        let (pid, thread) = (std::process::id() as i32, nix::unistd::gettid().as_raw());
        let seen = activity(pid, thread).expect("this thread");
        assert_eq!(seen.doing, Doing::Running);
        let mut x = 0_u64;
        while activity(pid, thread).expect("this thread").ran_ns == seen.ran_ns {
            x = std::hint::black_box(x.wrapping_add(1));
        }
        assert_eq!(activity(pid, i32::MAX - 1), None);
    }

    #[test]
    fn a_process_that_does_not_exist_has_no_cpu_time() {
        assert_eq!(cpu_time(i32::MAX - 1), None);
    }
}
