//! How the kernel schedules a thread.

use std::io;

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Lets the calling thread, and whatever it starts from now on, run on these cores only.
///
/// # Errors
/// There is no core of this number, or none of them may be used.
pub fn run_on(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The cores that the calling thread may run on.
///
/// # Errors
/// As `sched_getaffinity(2)`.
pub fn cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let is_in = |core: &usize| set.is_set(*core).unwrap_or(false);
    Ok((0..CpuSet::count()).filter(is_in).collect())
}

/// Makes the calling thread one that does not interrupt others when it wakes (`SCHED_BATCH`,
/// sched(7)). It needs no privilege, and on a machine with an idle core nothing changes.
///
/// # Errors
/// As `sched_setscheduler(2)`.
pub fn do_not_interrupt_others() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: a plain system call that reads `parameters`, about the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
