//! Child processes, held by pidfd: signals and exit reports can never hit a recycled pid.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        signal::Signal,
        socket::{SockType, getsockopt, sockopt},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use super::{activation::NOT_FOR_CHILDREN, orphans::Ours};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(Signal),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "{signal}"),
        }
    }
}

/// A running or not yet reaped child.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    /// As process 1 we reap strangers too, but not this one.
    _ours: Ours,
}

/// The environment variable that tells a new process which descriptor was left open for it.
pub const INHERITED: &str = "POINTSMAN_CHANNEL";

/// The same for the line to the bus of whoever started a program that may be a master itself, see
/// [`leave_open`].
pub const UPLINK: &str = "POINTSMAN_BUS";

impl Child {
    /// Starts `command` with `channel` as the one descriptor, besides the standard three, that
    /// outlives `exec`; its number is in the variable [`INHERITED`]. The child ignores what a terminal
    /// sends to the whole group (SIGINT, SIGQUIT, SIGHUP) from its first instruction: only the master
    /// may act on it. What a service manager tells the master by variables is not told to the child.
    ///
    /// # Errors
    /// As `fork(2)`, `execve(2)` and `pidfd_open(2)`.
    pub fn spawn(mut command: Command, channel: OwnedFd) -> io::Result<Self> {
        let number = channel.as_raw_fd();
        command.env(INHERITED, format!("{number}:{}", std::process::id()));
        for variable in NOT_FOR_CHILDREN.into_iter().chain([UPLINK]) {
            command.env_remove(variable);
        }
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; close_range, fcntl
        // and signal are, and nothing here allocates or locks.
        unsafe {
            command.pre_exec(move || {
                // Whatever else is open here, by whoever's mistake, is not the child's business.
                // Kernels before 5.11 do not know the flag; then what is not marked leaks, as ever.
                libc::syscall(
                    libc::SYS_close_range,
                    3,
                    u32::MAX,
                    libc::CLOSE_RANGE_CLOEXEC,
                );
                if libc::fcntl(number, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
                    libc::signal(signal, libc::SIG_IGN);
                }
                Ok(())
            });
        }
        let (mut child, ours) = Ours::spawn(&mut command)?;
        let pid = Pid::from_raw(child.id() as i32);
        match pidfd_open(pid.as_raw()) {
            Ok(pidfd) => Ok(Self {
                pid,
                pidfd,
                _ours: ours,
            }),
            Err(error) => {
                // Nobody could watch it: it must not live on unseen.
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    /// A child that this process has already, started before it became the present program.
    ///
    /// # Errors
    /// As `pidfd_open(2)`.
    pub fn resume(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid);
        Ok(Self {
            // Not reaped by anybody else, so the number is still its.
            pidfd: pidfd_open(pid.as_raw())?,
            _ours: Ours::adopt(pid.as_raw()),
            pid,
        })
    }

    /// Ends it at once and reaps it.
    pub fn end(&self) {
        let _ = self
            .signal(Signal::SIGKILL)
            .and_then(|()| self.wait().map(drop));
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends `signal`. A child that has ended already is no error.
    ///
    /// # Errors
    /// As `pidfd_send_signal(2)`.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: a plain system call on a descriptor that we own; the null siginfo means "as kill(2)".
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal as i32,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(result) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until the child has ended and reaps it.
    ///
    /// # Errors
    /// As `waitid(2)`.
    pub fn wait(&self) -> io::Result<Exit> {
        loop {
            match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Ok(WaitStatus::Exited(_, code)) => return Ok(Exit::Code(code)),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Exit::Signal(signal)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reaps the child if it has ended. Before this the process is a zombie, and
    /// [`cpu_time`](super::clock::cpu_time) can still be asked for its last figure.
    ///
    /// # Errors
    /// As `waitid(2)`.
    pub fn try_reap(&self) -> io::Result<Option<Exit>> {
        let status = waitid(
            Id::PIDFd(self.pidfd.as_fd()),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
        )?;
        Ok(match status {
            WaitStatus::Exited(_, code) => Some(Exit::Code(code)),
            WaitStatus::Signaled(_, signal, _) => Some(Exit::Signal(signal)),
            _ => None,
        })
    }
}

/// Readable once the child has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

/// Names this process after its program. Run through `/proc/self/exe`, it would be shown as "exe" by
/// top, perf and the like.
pub fn call_by_program_name() {
    let name = std::env::args().next().unwrap_or_default();
    let program = name
        .split(" [")
        .next()
        .and_then(|path| path.rsplit('/').next());
    if let Some(Ok(name)) = program.map(std::ffi::CString::new) {
        // Only a name: if the kernel will not have it, nothing is lost.
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// A descriptor for the process `pid`, readable once it has ended.
///
/// # Errors
/// As `pidfd_open(2)`.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the number returned is a new descriptor that nobody else knows.
    // It is close-on-exec by definition.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Leaves `line` open for the process that `command` starts, a master perhaps, which finds it by
/// [`inherited_uplink`]. It is closed here when `command` is dropped. For one process only: a second one
/// would listen to the same line.
pub fn leave_open(command: &mut Command, line: OwnedFd) {
    let number = line.as_raw_fd();
    command.env(UPLINK, format!("{number}:{}", std::process::id()));
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; fcntl is, and nothing here
    // allocates or locks.
    unsafe {
        command.pre_exec(
            move || match libc::fcntl(line.as_raw_fd(), libc::F_SETFD, 0) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            },
        );
    }
}

/// Was this process born by [`Child::spawn`]? Adopts nothing.
pub fn is_born_with_channel() -> bool {
    matches!(birth(INHERITED), Some(Ok((number, parent))) if is_channel(number) || Pid::parent().as_raw() == parent)
}

/// What `variable` says: descriptor and parent. `None`: there is no such variable.
fn birth(variable: &str) -> Option<Result<(RawFd, i32), String>> {
    let value = std::env::var(variable).ok()?;
    let parsed = value
        .split_once(':')
        .and_then(|(fd, parent)| Some((fd.parse().ok()?, parent.parse().ok()?)));
    Some(parsed.ok_or(value))
}

/// The channel that [`Child::spawn`] left open for this process, if it was born that way.
///
/// The variable stays in the environment (removing it would race with other threads), so it names
/// the parent too: a worker's own children inherit the text but not the descriptor, and see by their
/// parent's pid that it is not meant for them.
///
/// # Errors
/// The variable is meant for this process but names no channel, or was asked for twice.
pub fn inherited_channel() -> io::Result<Option<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);

    let refused = |what: &str| {
        let text = format!("{INHERITED} {what}; it is for worker processes only, unset it");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    };
    let (number, parent) = match birth(INHERITED) {
        None => return Ok(None),
        Some(Err(value)) => return refused(&format!("is '{value}', not DESCRIPTOR:PARENT")),
        Some(Ok(birth)) => birth,
    };
    if is_channel(number) {
        if TAKEN.swap(true, Ordering::AcqRel) {
            return refused("was taken already: call serve once per process");
        }
        // SAFETY: open and a channel (checked above), left open by our parent for exactly this
        // purpose, and adopted once.
        let channel = unsafe { OwnedFd::from_raw_fd(number) };
        fcntl(&channel, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        return Ok(Some(channel));
    }
    if Pid::parent().as_raw() == parent {
        return refused("names no open channel");
    }
    Ok(None)
}

/// The line that [`leave_open`] left open for this process, the first time that it is asked for.
/// `None` too if it was meant for somebody else: whoever is started by this process inherits the
/// variable, but not the descriptor, and has another parent.
///
/// # Errors
/// As `fcntl(2)`.
pub fn inherited_uplink() -> io::Result<Option<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);

    let Some(Ok((number, parent))) = birth(UPLINK) else {
        return Ok(None);
    };
    let ours = Pid::parent().as_raw() == parent && is_channel(number);
    if !ours || TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(None);
    }
    // SAFETY: open and a line (checked above), left open by our parent for exactly this purpose, and
    // adopted once.
    let line = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&line, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(Some(line))
}

fn is_channel(number: RawFd) -> bool {
    // SAFETY: borrowed only to ask whether it is open and a seqpacket socket; nothing is owned yet.
    number > 2
        && getsockopt(
            &unsafe { BorrowedFd::borrow_raw(number) },
            sockopt::SockType,
        )
        .is_ok_and(|kind| kind == SockType::SeqPacket)
}

/// Holds back all signals from this thread: they wait, or go to another.
pub fn hold_signals() {
    use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
    // Fails only if asked for something that does not exist.
    let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None);
}

/// Sends a signal to this process that it has heard and not acted on. While signals are held back it
/// waits for whoever runs here next.
pub fn pass_on(signal: Signal) {
    // Fails only for a signal that does not exist.
    let _ = nix::sys::signal::kill(Pid::this(), signal);
}

/// Lets signals through that another program in this process held back, see
/// [`become_program`](super::exec::become_program).
pub fn admit_signals() {
    use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
    // Fails only if asked for something that does not exist.
    let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::all()), None);
}
