//! Processes that must not outlive who started them, or not for long.

use std::{
    io,
    os::unix::process::CommandExt,
    process::Command,
    sync::atomic::{AtomicI32, AtomicU32, Ordering},
    time::Duration,
};

/// How long this process may go on without its parent, seconds; see [`outlive_parent_by`].
static LIMIT: AtomicU32 = AtomicU32::new(30);

/// Who started this process.
static PARENT: AtomicI32 = AtomicI32::new(0);

/// Sets how long this process may go on once its parent is gone.
pub fn outlive_parent_by(limit: Duration) {
    let seconds = limit.as_secs_f64().ceil() as u32;
    LIMIT.store(seconds.saturating_add(1), Ordering::Relaxed);
}

/// From now on this process is ended by SIGALRM some time after the thread that started it has ended
/// (prctl(2), `PR_SET_PDEATHSIG`): a backstop for one that is stuck and would keep ports busy for
/// ever. Whoever is well sees the end of its parent by other means, and ends by itself before that.
///
/// The parent's end comes as SIGCONT, which even a stopped process gets.
///
/// # Errors
/// As `sigaction(2)` and `prctl(2)`.
pub fn end_after_parent() -> io::Result<()> {
    extern "C" fn continued(_: libc::c_int) {
        // SAFETY: getppid and alarm are async-signal-safe, and so is loading an atomic.
        unsafe {
            if libc::getppid() != PARENT.load(Ordering::Relaxed) {
                libc::alarm(LIMIT.load(Ordering::Relaxed));
            }
        }
    }
    let handler = continued as extern "C" fn(libc::c_int);
    // SAFETY: an all-zero sigaction is valid; the handler does only what a handler may (above).
    unsafe {
        PARENT.store(libc::getppid(), Ordering::Relaxed);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        if libc::sigaction(libc::SIGCONT, &raw const action, std::ptr::null_mut()) < 0
            || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT) < 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Makes the child of `command` get SIGTERM when the thread that starts it ends (prctl(2),
/// `PR_SET_PDEATHSIG`), by SIGKILL too, so that nothing is left running behind. Start it from the
/// main thread. In a process group of its own it does not hear the terminal's Ctrl-C.
pub fn to_us(command: &mut Command) {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl and getppid are,
    // and nothing here allocates or locks.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) < 0 {
                return Err(io::Error::last_os_error());
            }
            // Had we ended before it was set, nobody would ever tell the child.
            match u32::try_from(libc::getppid()) {
                Ok(now) if now == parent => Ok(()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        });
    }
}
