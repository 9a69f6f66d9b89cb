//! Sockets that are passed to us by whoever started us: `LISTEN_FDS`, sd_listen_fds(3).

use std::{
    io,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use socket2::{Domain, Protocol, SockRef, Type};

/// The variables that pass sockets. They name this process, so a binary that takes its place by
/// `exec` must not see them: what they describe has been taken.
pub const VARIABLES: [&str; 4] = [
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// Every variable by which a service manager talks to the process that it started, and to that
/// process alone: children are started without them.
pub const NOT_FOR_CHILDREN: [&str; 7] = [
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// The first descriptor that is passed; the others follow without a gap.
const FIRST: RawFd = 3;

/// What a socket is called if nobody gave it a name.
const NAMELESS: &str = "unknown";

/// A listening TCP socket that was passed to us.
#[derive(Debug)]
pub struct Passed {
    /// Its name (`FileDescriptorName=` of the socket unit). Several may have the same.
    pub name: String,
    /// The socket, close-on-exec from now on.
    pub socket: OwnedFd,
}

/// Were sockets passed to this very process? Takes nothing.
pub fn is_meant_for_us() -> bool {
    matches!(announced(), Ok(names) if !names.is_empty())
}

/// Takes the sockets that were passed to this process, in their order; none if they are meant for
/// another. To be called early, while nothing else can have been opened under their numbers.
///
/// # Errors
/// A variable makes no sense, a descriptor is not open or is no listening TCP socket, or they were
/// taken before. The text names the descriptor and its name.
pub fn passed() -> io::Result<Vec<Passed>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);

    let names = announced().map_err(invalid)?;
    if !names.is_empty() && TAKEN.swap(true, Ordering::AcqRel) {
        return Err(invalid("the sockets of LISTEN_FDS were taken already"));
    }
    names
        .into_iter()
        .zip(FIRST..)
        .map(|(name, number)| take(number, name))
        .collect()
}

/// The names of the sockets that are meant for this process.
fn announced() -> Result<Vec<String>, String> {
    let variable = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
    read(
        std::process::id(),
        variable("LISTEN_PID").as_deref(),
        variable("LISTEN_FDS").as_deref(),
        variable("LISTEN_FDNAMES").as_deref(),
    )
}

fn read(
    own_pid: u32,
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
) -> Result<Vec<String>, String> {
    let (Some(pid), Some(count)) = (pid, count) else {
        return Ok(Vec::new());
    };
    let meant_for: u32 = pid
        .parse()
        .map_err(|_| format!("LISTEN_PID is '{pid}', not a process id"))?;
    if meant_for != own_pid {
        return Ok(Vec::new());
    }
    // No limit of open files lets more through than the kernel's own (fs.nr_open, below 2^30).
    let count: usize = count
        .parse()
        .ok()
        .filter(|n| *n < 1 << 20)
        .ok_or_else(|| format!("LISTEN_FDS is '{count}', not a number of descriptors"))?;
    let Some(names) = names else {
        return Ok(vec![NAMELESS.into(); count]);
    };
    let names: Vec<String> = names.split(':').map(Into::into).collect();
    match names.len() == count || (count == 0 && names == [""]) {
        true => Ok(names.into_iter().take(count).collect()),
        false => Err(format!(
            "LISTEN_FDNAMES has {} names for the {count} descriptors of LISTEN_FDS",
            names.len()
        )),
    }
}

/// Makes `number` ours, if it is what it must be.
fn take(number: RawFd, name: String) -> io::Result<Passed> {
    let refused = |what: &str| {
        Err(invalid(format!(
            "descriptor {number} (named '{name}') of LISTEN_FDS {what}"
        )))
    };
    // SAFETY: only asks whether the number is open; nothing is read or written.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return refused("is not open");
    }
    // SAFETY: it is open (asked above), and stays so while it is looked at: this process, which has
    // taken nothing over yet, does not know the number and so does not close it.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    let socket = SockRef::from(&socket);
    let Ok(kind) = socket.r#type() else {
        return refused("is not a socket");
    };
    let inet = matches!(socket.domain(), Ok(Domain::IPV4 | Domain::IPV6));
    if kind != Type::STREAM || !inet || !matches!(socket.protocol(), Ok(Some(Protocol::TCP))) {
        return refused("is not a TCP socket (ListenStream= with a port makes one)");
    }
    if !matches!(socket.is_listener(), Ok(true)) {
        return refused("does not listen: is it a connection? Then set Accept=no");
    }
    // SAFETY: open and a listening socket (checked above), left open by whoever started us for
    // exactly this purpose; `passed` runs once, so nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(Passed { name, socket })
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.into())
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::{
            fd::{AsRawFd, IntoRawFd},
            unix::net::UnixListener,
        },
    };

    use super::*;

    fn names(pid: &str, count: &str, names: Option<&str>) -> Result<Vec<String>, String> {
        read(7, Some(pid), Some(count), names)
    }

    #[test]
    fn sockets_are_named_and_only_those_for_this_process_count() {
        assert_eq!(
            names("7", "2", Some("web:")),
            Ok(vec!["web".into(), String::new()])
        );
        assert_eq!(names("7", "2", None), Ok(vec!["unknown".into(); 2]));
        assert_eq!(names("8", "2", Some("a:b")), Ok(vec![]));
        assert_eq!(names("7", "0", Some("")), Ok(vec![]));
        assert_eq!(read(7, None, Some("1"), None), Ok(vec![]));
        assert_eq!(read(7, Some("7"), None, None), Ok(vec![]));
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused_by_name() {
        for (pid, count, text, culprit) in [
            ("seven", "1", None, "LISTEN_PID is 'seven'"),
            ("7", "many", None, "LISTEN_FDS is 'many'"),
            ("7", "-1", None, "LISTEN_FDS is '-1'"),
            ("7", "99999999999", None, "LISTEN_FDS is '99999999999'"),
            ("7", "2", Some("web"), "1 names for the 2 descriptors"),
        ] {
            let error = names(pid, count, text).expect_err(culprit);
            assert!(error.contains(culprit), "{error}");
        }
    }

    #[test]
    fn a_listening_tcp_socket_is_taken_and_does_not_outlive_exec() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).expect("a descriptor");
        let number = listener.into_raw_fd();
        let passed = take(number, "web".into()).expect("a listener");
        assert_eq!(
            (passed.name.as_str(), passed.socket.as_raw_fd()),
            ("web", number)
        );
        let flags = fcntl(&passed.socket, FcntlArg::F_GETFD).expect("open");
        assert_eq!(flags, FdFlag::FD_CLOEXEC.bits());
    }

    #[test]
    fn anything_else_is_refused_with_its_number_and_name() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let path = std::env::temp_dir().join(format!("pointsman-{}.sock", std::process::id()));
        let unix = UnixListener::bind(&path).expect("bind");
        std::fs::remove_file(&path).expect("there");
        let (pipe, _end) = io::pipe().expect("a pipe");
        for (number, why) in [
            (stream.as_raw_fd(), "does not listen"),
            (udp.as_raw_fd(), "is not a TCP socket"),
            (unix.as_raw_fd(), "is not a TCP socket"),
            (pipe.as_raw_fd(), "is not a socket"),
            (1_000_000, "is not open"),
        ] {
            let error = take(number, "web".into()).expect_err(why).to_string();
            let expected = format!("descriptor {number} (named 'web') of LISTEN_FDS {why}");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
