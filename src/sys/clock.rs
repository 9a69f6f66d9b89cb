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
    fn a_process_that_does_not_exist_has_no_cpu_time() {
        assert_eq!(cpu_time(i32::MAX - 1), None);
    }
}
