//! The listener group: all sockets bound to one address, and the program that steers between them.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::{
    dispatch::{
        mode::{Arm, Mode},
        steering,
    },
    error::{Error, Result, describe},
    sys::reuseport,
};

/// How many connections may wait in one listener. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// One SO_REUSEPORT group, made and owned by the master: the shared listener and one for every seat.
/// All of them listen, always; which one receives new connections is decided by a program in the
/// kernel, so that changing the mode is one `setsockopt` and loses nothing.
#[derive(Debug)]
pub struct ListenerGroup {
    address: SocketAddr,
    /// Member 0 is the shared listener, member 1 + i belongs to seat i of this group's seats.
    members: Vec<Socket>,
    /// The shared listener by a second descriptor: one epoll set can watch it twice.
    shared_again: OwnedFd,
    /// It takes nothing new, and goes when what has arrived is accepted.
    closing: AtomicBool,
    /// Why seats have no listeners of their own, and the way out, if they could not be made.
    alone: Option<String>,
}

/// The groups of a master, by listener number. Numbers are never used again for another address: they
/// are columns of the scoreboard.
pub type Groups = Arc<[Option<Arc<ListenerGroup>>]>;

impl ListenerGroup {
    /// Binds `address` with one listener to share and `seats` to own. The sockets are non-blocking;
    /// what they accept has TCP_NODELAY set, inherited without a system call.
    ///
    /// # Errors
    /// The address is in use, not ours, or not permitted.
    pub fn bind(address: SocketAddr, seats: usize) -> Result<Self> {
        let refused = |error: io::Error| {
            let way_out = match (error.kind(), address.port()) {
                (io::ErrorKind::PermissionDenied, 1..1024) => {
                    " (ports below 1024 take CAP_NET_BIND_SERVICE, a start as root, or a passed socket)"
                }
                _ => "",
            };
            Error::runtime(format!("cannot listen on {address}{way_out}"), error)
        };
        // SO_REUSEPORT would let us join the group of another instance of ourselves unseen, and
        // share its connections. A socket without it finds out whether the address is free.
        if address.port() != 0 {
            socket(address, false).map_err(refused)?;
        }
        let shared = socket(address, true).map_err(refused)?;
        let bound = shared.local_addr().map_err(refused)?;
        let bound = bound
            .as_socket()
            .ok_or_else(|| refused(io::ErrorKind::InvalidData.into()))?;
        let mut members = vec![shared];
        for _ in 0..seats {
            members.push(socket(bound, true).map_err(refused)?);
        }
        let group = Self::of(bound, members).map_err(refused)?;
        // Members count in the order in which they begin to listen. Until the program is attached,
        // the kernel would spread over those that listen already: attach it to the first alone.
        for (i, member) in group.members.iter().enumerate() {
            member.listen(BACKLOG).map_err(refused)?;
            if i == 0 {
                reuseport::attach(member.as_fd(), &steering::to_shared()).map_err(refused)?;
            }
        }
        Ok(group)
    }

    fn of(address: SocketAddr, members: Vec<Socket>) -> io::Result<Self> {
        Ok(Self {
            address,
            shared_again: members[0].as_fd().try_clone_to_owned()?,
            members,
            closing: AtomicBool::new(false),
            alone: None,
        })
    }

    /// The group whose listening sockets are `members`, as [`members`](Self::members) gave them.
    ///
    /// # Errors
    /// There is none, or no descriptor is left.
    pub fn resume(
        address: SocketAddr,
        members: Vec<OwnedFd>,
        alone: Option<String>,
    ) -> io::Result<Self> {
        if members.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let members = members.into_iter().map(Socket::from).collect();
        Ok(Self {
            alone,
            ..Self::of(address, members)?
        })
    }

    /// Why seats have no listeners of their own, if they have none.
    pub fn alone(&self) -> Option<&str> {
        self.alone.as_deref()
    }

    /// All its sockets: the shared listener, and those of the seats.
    pub fn members(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.members.iter().map(AsFd::as_fd)
    }

    /// This group with at least `seats` seats. The sockets that are there stay as they are.
    ///
    /// # Errors
    /// The kernel admits only sockets of the user who made the first ones, and privileged ports only to
    /// the privileged.
    pub fn grow(&self, seats: usize) -> Result<Self> {
        let refused = |error| {
            Error::runtime(
                format!(
                    "cannot make listeners for {seats} workers on {}",
                    self.address
                ),
                error,
            )
        };
        let mut members = self
            .members
            .iter()
            .map(Socket::try_clone)
            .collect::<io::Result<Vec<_>>>()
            .map_err(refused)?;
        while members.len() <= seats {
            let member = sibling(&self.members[0], self.address).map_err(refused)?;
            member.listen(BACKLOG).map_err(refused)?;
            members.push(member);
        }
        Self::of(self.address, members).map_err(refused)
    }

    /// Takes no new connection from now on: what knocks goes unheard. Those that are being
    /// established still arrive.
    pub fn close(&self) {
        self.closing.store(true, Relaxed);
        let deaf: Vec<_> = steering::no_new()
            .into_iter()
            .map(|i| SockFilter::new(i.code, i.jump_true, i.jump_false, i.k))
            .collect();
        for member in &self.members {
            // Not everywhere may everybody set a filter. The other way also misses those that are just
            // being established.
            let closed = member
                .attach_filter(&deaf)
                .or_else(|_| reuseport::deafen(member, true));
            if let Err(error) = closed {
                crate::notice(format_args!("cannot close {}: {error}", self.address));
            }
        }
    }

    /// Was it closed?
    pub fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// How many connections wait to be accepted.
    pub fn waiting(&self) -> u32 {
        self.members()
            .map(|member| crate::sys::socket::waiting(member).unwrap_or(0))
            .sum()
    }

    /// Makes a group of a socket that listens already, passed to us as `name`: it becomes the shared
    /// listener, with whatever waits in it, and `seats` more are made to own. Where the kernel lets
    /// nobody join it, which is so if it was made by another user, it stays alone: see
    /// [`allows`](Self::allows).
    ///
    /// # Errors
    /// Not one socket but none or several, or it will not be set up.
    pub fn adopt(name: &str, sockets: Vec<OwnedFd>, seats: usize) -> Result<Self> {
        let shared = match <[OwnedFd; 1]>::try_from(sockets) {
            Ok([socket]) => Socket::from(socket),
            Err(sockets) if sockets.is_empty() => {
                return Err(Error::usage(format!(
                    "no socket named '{name}' was passed to us (LISTEN_FDS): does the socket unit say FileDescriptorName={name}?"
                )));
            }
            Err(sockets) => {
                return Err(Error::usage(format!(
                    "{} sockets named '{name}' were passed to us (LISTEN_FDS): give each a socket unit and a FileDescriptorName= of its own",
                    sockets.len()
                )));
            }
        };
        let refused =
            |error| Error::runtime(format!("cannot listen on passed socket '{name}'"), error);
        let address = shared.local_addr().map_err(refused)?;
        let address = address
            .as_socket()
            .ok_or_else(|| refused(io::ErrorKind::InvalidData.into()))?;
        shared.set_nonblocking(true).map_err(refused)?;
        shared.set_tcp_nodelay(true).map_err(refused)?;
        // These may be set on a socket that listens already: others can join from then on. But
        // connections that wait have those of its birth, and one without SO_REUSEADDR (which every
        // service manager sets) keeps others from the address.
        shared.set_reuse_address(true).map_err(refused)?;
        shared.set_reuse_port(true).map_err(refused)?;
        let mut group = Self::of(address, vec![shared]).map_err(refused)?;
        if let Err(error) = group.fill(seats) {
            group.alone = Some(format!(
                "workers cannot have listeners of their own beside the passed socket '{name}' ({}): was it made by another user, or without SO_REUSEADDR? \
                 Take another mode, have pointsman bind {address} itself, or start it as that user (as root: with --user)",
                describe(&error)
            ));
        }
        Ok(group)
    }

    /// Makes `seats` listeners beside the shared one, which listens already.
    fn fill(&mut self, seats: usize) -> io::Result<()> {
        let shared = &self.members[0];
        let own = (0..seats)
            .map(|_| sibling(shared, self.address))
            .collect::<io::Result<Vec<_>>>()?;
        // Without SO_REUSEPORT from birth it is no group yet, and can be given no program: that is
        // possible only once the first has joined, who would receive connections meanwhile that
        // nobody accepts. It is made deaf for so long; whoever knocks then knocks again.
        let is_group = match reuseport::attach(shared.as_fd(), &steering::to_shared()) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => false,
            attached => attached.map(|()| true)?,
        };
        for (i, member) in own.iter().enumerate() {
            let first = i == 0 && !is_group;
            if first {
                reuseport::deafen(member, true)?;
            }
            member.listen(BACKLOG)?;
            if first {
                reuseport::attach(shared.as_fd(), &steering::to_shared())?;
                reuseport::deafen(member, false)?;
            }
        }
        self.members.extend(own);
        Ok(())
    }

    /// The address that it is bound to, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The listener that master and workers share.
    pub fn shared(&self) -> BorrowedFd<'_> {
        self.members[0].as_fd()
    }

    /// The same, under another descriptor.
    pub fn shared_again(&self) -> BorrowedFd<'_> {
        self.shared_again.as_fd()
    }

    /// The listener of the `place`-th seat, if there are that many.
    pub fn own(&self, place: usize) -> Option<BorrowedFd<'_>> {
        self.members.get(1 + place).map(AsFd::as_fd)
    }

    /// Seats that own a listener.
    pub fn seats(&self) -> usize {
        self.members.len() - 1
    }

    /// Can it dispatch that way?
    ///
    /// # Errors
    /// A usage error that says why it cannot, and the way out.
    pub fn allows(&self, mode: Mode) -> Result<()> {
        match (&self.alone, mode) {
            (Some(why), Mode::Reuseport) => Err(Error::usage(why.as_str())),
            _ => Ok(()),
        }
    }

    /// Points the group's program at where new connections go: in `reuseport` to the listeners of
    /// the seats in `places`, in the other modes to the shared one.
    ///
    /// # Errors
    /// As `setsockopt(2)`; or the group does not [allow](Self::allows) the mode.
    pub fn steer(&self, arm: Arm, places: impl Iterator<Item = usize>) -> io::Result<()> {
        self.allows(arm.mode())
            .map_err(|error| io::Error::new(io::ErrorKind::Unsupported, error))?;
        if self.seats() == 0 {
            // Nothing to choose from, and a socket alone may be no group at all.
            return Ok(());
        }
        let program = match arm.mode() {
            Mode::Reuseport => {
                let members: Vec<u32> = places
                    .filter(|p| *p + 1 < self.members.len())
                    .map(|p| p as u32 + 1)
                    .collect();
                steering::by_hash(&members)
            }
            Mode::Handoff | Mode::Hybrid | Mode::Shared => steering::to_shared(),
        };
        reuseport::attach(self.shared(), &program)
    }
}

/// A bound socket that does not listen yet.
fn socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = unbound(address, reuse_port)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn unbound(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// A bound socket that can join the group of `shared`, and does not listen yet. Whoever made that one
/// chose more than its address, and the kernel groups only what is alike.
fn sibling(shared: &Socket, address: SocketAddr) -> io::Result<Socket> {
    let socket = unbound(address, true)?;
    if address.is_ipv6() {
        socket.set_only_v6(shared.only_v6()?)?;
        socket.set_freebind_v6(shared.freebind_v6()?)?;
    } else {
        socket.set_freebind_v4(shared.freebind_v4()?)?;
    }
    if let Some(device) = shared.device()? {
        socket.bind_device(Some(&device))?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::{dispatch::policy::Policy, sys::socket::accept};

    fn waiting(group: &ListenerGroup) -> Vec<usize> {
        let members = (0..group.members.len()).map(|i| group.members[i].as_fd());
        members
            .map(|m| std::iter::from_fn(|| accept(m).ok()).count())
            .collect()
    }

    #[test]
    fn the_program_decides_which_member_receives() {
        let group = ListenerGroup::bind("127.0.0.1:0".parse().expect("address"), 3).expect("bind");
        let connect = |n| -> Vec<TcpStream> {
            (0..n)
                .map(|_| TcpStream::connect(group.address()).expect("connect"))
                .collect()
        };
        let _held = connect(20);
        assert_eq!(
            waiting(&group),
            [20, 0, 0, 0],
            "the shared listener from the start"
        );

        let reuseport = Arm::new(Mode::Reuseport, None).expect("valid");
        group.steer(reuseport, [0, 2].into_iter()).expect("steer");
        let _held = connect(200);
        let got = waiting(&group);
        assert_eq!((got[0], got[2], got[1] + got[3]), (0, 0, 200), "{got:?}");
        assert!(got[1] > 50 && got[3] > 50, "{got:?}");

        let handoff = Arm::new(Mode::Handoff, Some(Policy::RoundRobin)).expect("valid");
        group.steer(handoff, 0..3).expect("steer");
        let _held = connect(20);
        assert_eq!(waiting(&group), [20, 0, 0, 0]);
    }

    #[test]
    fn an_address_in_use_is_refused_by_name_even_by_another_instance_of_ours() {
        let first = ListenerGroup::bind("127.0.0.1:0".parse().expect("address"), 1).expect("bind");
        let error = ListenerGroup::bind(first.address(), 1).expect_err("in use");
        assert_eq!(
            error.to_string(),
            format!(
                "cannot listen on {}: address already in use",
                first.address()
            )
        );
        assert!(!error.is_usage());
    }
    fn connect(address: SocketAddr, n: usize) -> Vec<TcpStream> {
        (0..n)
            .map(|_| TcpStream::connect(address).expect("connect"))
            .collect()
    }

    /// A socket as a service manager would pass it.
    fn passed(address: &str, reuse_port: bool) -> OwnedFd {
        let address: SocketAddr = address.parse().expect("address");
        let kind = Type::STREAM.cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, None).expect("socket");
        socket.set_reuse_address(true).expect("set");
        socket.set_reuse_port(reuse_port).expect("set");
        if address.is_ipv6() {
            socket.set_only_v6(true).expect("set");
        }
        socket.bind(&address.into()).expect("bind");
        socket.listen(128).expect("listen");
        socket.into()
    }

    fn address_of(socket: &OwnedFd) -> SocketAddr {
        let address = socket2::SockRef::from(socket).local_addr().expect("bound");
        address.as_socket().expect("TCP")
    }

    #[test]
    fn a_passed_socket_becomes_a_group_and_what_waits_in_it_stays() {
        for (address, reuse_port) in [
            ("127.0.0.1:0", false),
            ("127.0.0.1:0", true),
            ("[::1]:0", false),
            ("0.0.0.0:0", false),
        ] {
            let socket = passed(address, reuse_port);
            let address = address_of(&socket);
            let _early = connect(address, 7);
            let group = ListenerGroup::adopt("web", vec![socket], 3).expect("adopt");
            assert_eq!(
                (group.address(), group.seats(), &group.alone),
                (address, 3, &None)
            );
            let _held = connect(address, 20);
            assert_eq!(waiting(&group), [27, 0, 0, 0], "{address} {reuse_port}");

            // Each member is reached by its own place.
            let reuseport = Arm::new(Mode::Reuseport, None).expect("valid");
            for place in 0..3 {
                group
                    .steer(reuseport, std::iter::once(place))
                    .expect("steer");
                let _held = connect(address, 20);
                let mut expected = [0; 4];
                expected[1 + place] = 20;
                assert_eq!(waiting(&group), expected, "{address} {reuse_port}");
            }
            let handoff = Arm::new(Mode::Handoff, Some(Policy::RoundRobin)).expect("valid");
            group.steer(handoff, 0..3).expect("steer");
            let _held = connect(address, 20);
            assert_eq!(waiting(&group), [20, 0, 0, 0]);
            assert!(group.members[0].tcp_nodelay().expect("a socket"));
        }
    }

    #[test]
    fn nothing_goes_astray_while_a_passed_socket_becomes_a_group() {
        use std::sync::{Barrier, atomic::AtomicBool, atomic::Ordering};

        // The moment is short: were it not deaf, one round in ten shows a connection gone astray.
        for _ in 0..10 {
            let socket = passed("127.0.0.1:0", false);
            let address = address_of(&socket);
            let (done, knocking) = (AtomicBool::new(false), Barrier::new(2));
            std::thread::scope(|scope| {
                let knocker = scope.spawn(|| {
                    let mut held = connect(address, 1);
                    knocking.wait();
                    while !done.load(Ordering::Acquire) && held.len() < 100 {
                        held.extend(connect(address, 1));
                    }
                    held
                });
                knocking.wait();
                let group = ListenerGroup::adopt("web", vec![socket], 8).expect("adopt");
                done.store(true, Ordering::Release);
                let held = knocker.join().expect("no panic");
                let mut expected = vec![0; 9];
                expected[0] = held.len();
                assert_eq!(waiting(&group), expected);
            });
        }
    }

    #[test]
    fn a_socket_of_another_user_stays_alone_and_says_so_where_it_matters() {
        let socket = passed("127.0.0.1:0", false);
        let address = address_of(&socket);
        let stranger = nix::unistd::Uid::from_raw(4_123_456);
        if nix::unistd::fchown(&socket, Some(stranger), None).is_err() {
            // Only root can make a socket another user's.
            assert!(!nix::unistd::Uid::effective().is_root());
            return;
        }
        let _early = connect(address, 7);
        let group = ListenerGroup::adopt("web", vec![socket], 3).expect("adopt");
        assert_eq!(group.seats(), 0);
        assert!(group.own(0).is_none());
        let handoff = Arm::new(Mode::Handoff, Some(Policy::RoundRobin)).expect("valid");
        group.steer(handoff, 0..3).expect("nothing to choose");
        let _held = connect(address, 20);
        assert_eq!(waiting(&group), [27]);
        let reuseport = Arm::new(Mode::Reuseport, None).expect("valid");
        let error = group.steer(reuseport, 0..3).expect_err("no members");
        assert!(
            error.to_string().contains("'web' (address already in use)"),
            "{error}"
        );
        assert!(
            group
                .allows(Mode::Reuseport)
                .expect_err("no members")
                .is_usage()
        );
        assert!(group.allows(Mode::Shared).is_ok());
    }

    #[test]
    fn none_or_several_sockets_of_one_name_are_refused() {
        let error = ListenerGroup::adopt("web", vec![], 1).expect_err("none");
        assert!(error.is_usage() && error.to_string().contains("no socket named 'web'"));
        let two = vec![passed("127.0.0.1:0", true), passed("127.0.0.1:0", true)];
        let error = ListenerGroup::adopt("web", two, 1).expect_err("two");
        assert!(error.is_usage() && error.to_string().contains("2 sockets named 'web'"));
    }
}
