//! Tells the service manager how we are: sd_notify(3).
//!
//! A datagram for each piece of news, written straight to the socket: it never blocks, and if nobody
//! listens nothing is wrong here. Whoever takes this process's place by `exec` finds the same
//! variables and goes on.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    rc::Rc,
    time::Duration,
};

use crate::sys::clock::monotonic_ns;

/// The line to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: UnixDatagram,
    /// Looked up at each message: the service manager may have been started anew.
    manager: SocketAddr,
}

impl Notifier {
    /// The service manager that `NOTIFY_SOCKET` names. `None`: there is none, or it is not of a kind
    /// that can be spoken to.
    pub(crate) fn from_env() -> Option<Self> {
        Self::to(&std::env::var_os("NOTIFY_SOCKET")?)
            .inspect_err(|error| {
                crate::notice(format_args!("cannot tell the service manager: {error}"));
            })
            .ok()
    }

    /// `@` stands for the zero byte that an abstract address begins with.
    fn to(address: &OsStr) -> io::Result<Self> {
        let manager = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("NOTIFY_SOCKET is {address:?}, neither /PATH nor @NAME"),
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, manager })
    }

    /// All is ready; `status` says what, in one line. Also when a reload is done.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// A reload has begun. To be followed by [`ready`](Self::ready), also if it is refused.
    pub(crate) fn reloading(&self) {
        let now = monotonic_ns() / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// We are ending.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=Finishing what is open");
    }

    /// We are alive. To be said every [`watchdog_interval`].
    pub(crate) fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// Says that we are alive for as long as the runtime runs and `is_alive` says so, through a drain
    /// too: silence is what the service manager is to notice. Nothing to do if it does not want to know.
    pub(crate) async fn keep_alive(self: Rc<Self>, is_alive: impl AsyncFn() -> bool) {
        let Some(every) = watchdog_interval() else {
            return;
        };
        let mut turns = tokio::time::interval(every);
        loop {
            turns.tick().await;
            if is_alive().await {
                self.watchdog();
            }
        }
    }

    fn send(&self, message: &str) {
        // A manager that does not read, or is gone, is no reason to stop serving.
        let _ = self.socket.send_to_addr(message.as_bytes(), &self.manager);
    }
}

/// A line break would begin another variable.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// How often the service manager is to be told that we are alive: twice in the time after which it
/// takes us for dead. `None`: it does not want to know.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    interval(
        variable("WATCHDOG_USEC").as_deref(),
        variable("WATCHDOG_PID").as_deref(),
        std::process::id(),
    )
}

fn interval(limit: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let limit: u64 = limit?.parse().ok().filter(|n| *n > 1)?;
    Some(Duration::from_micros(limit / 2))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn received(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let n = manager.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    #[test]
    fn a_manager_at_a_path_hears_everything_in_its_words() {
        let path: PathBuf =
            std::env::temp_dir().join(format!("pointsman-notify-{}", std::process::id()));
        let manager = UnixDatagram::bind(&path).expect("bind");
        let notifier = Notifier::to(path.as_os_str()).expect("a path");
        notifier.ready("4 workers\nMAINPID=1");
        assert_eq!(received(&manager), "READY=1\nSTATUS=4 workers MAINPID=1");
        let before = monotonic_ns() / 1000;
        notifier.reloading();
        let text = received(&manager);
        let stamp = text
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .expect("a time");
        assert!((before..=monotonic_ns() / 1000).contains(&stamp.parse().expect("a number")));
        notifier.stopping();
        assert!(received(&manager).starts_with("STOPPING=1\nSTATUS="));
        notifier.watchdog();
        assert_eq!(received(&manager), "WATCHDOG=1");
        // A manager that is gone, and one that does not read, are put up with.
        std::fs::remove_file(&path).expect("there");
        notifier.watchdog();
        drop(manager);
        notifier.stopping();
    }

    #[test]
    fn a_manager_without_a_path_is_heard_and_one_that_does_not_read_holds_nobody_up() {
        let name = format!("pointsman-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("short enough");
        let manager = UnixDatagram::bind_addr(&address).expect("bind");
        let notifier = Notifier::to(OsStr::new(&format!("@{name}"))).expect("a name");
        for _ in 0..100_000 {
            notifier.watchdog();
        }
        assert_eq!(received(&manager), "WATCHDOG=1");
    }

    #[test]
    fn an_address_that_is_none_is_refused_by_name() {
        for address in ["", "vsock:2:1234", "relative"] {
            let error = Notifier::to(OsStr::new(address)).expect_err(address);
            assert!(error.to_string().contains("NOTIFY_SOCKET"), "{error}");
        }
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_and_only_by_whom_it_watches() {
        let half = Some(Duration::from_secs(5));
        assert_eq!(interval(Some("10000000"), None, 7), half);
        assert_eq!(interval(Some("10000000"), Some("7"), 7), half);
        assert_eq!(interval(Some("10000000"), Some("8"), 7), None);
        assert_eq!(interval(Some("10000000"), Some("me"), 7), None);
        assert_eq!(interval(Some("soon"), None, 7), None);
        assert_eq!(interval(Some("0"), None, 7), None);
        assert_eq!(interval(None, None, 7), None);
    }
}
