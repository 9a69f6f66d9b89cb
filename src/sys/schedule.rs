//! How the kernel schedules a thread.

use std::io;

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
