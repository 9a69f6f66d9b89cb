//! The listener group: all sockets bound to one address, and the program that steers between them.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    dispatch::{
        mode::{Arm, Mode},
        steering,
    },
    error::{Error, Result},
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
}

impl ListenerGroup {
    /// Binds `address` with one listener to share and `seats` to own. The sockets are non-blocking;
    /// what they accept has TCP_NODELAY set, inherited without a system call.
    ///
    /// # Errors
    /// The address is in use, not ours, or not permitted.
    pub fn bind(address: SocketAddr, seats: usize) -> Result<Self> {
        let refused = |error| Error::runtime(format!("cannot listen on {address}"), error);
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
        let group = Self {
            address: bound,
            members,
        };
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

    /// The address that it is bound to, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The listener that master and workers share.
    pub fn shared(&self) -> BorrowedFd<'_> {
        self.members[0].as_fd()
    }

    /// The listener of the `place`-th seat, if there are that many.
    pub fn own(&self, place: usize) -> Option<BorrowedFd<'_>> {
        self.members.get(1 + place).map(AsFd::as_fd)
    }

    /// Seats that own a listener.
    pub fn seats(&self) -> usize {
        self.members.len() - 1
    }

    /// Points the group's program at where new connections go: in `reuseport` to the listeners of
    /// the seats in `places`, in the other modes to the shared one.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    pub fn steer(&self, arm: Arm, places: impl Iterator<Item = usize>) -> io::Result<()> {
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
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_tcp_nodelay(true)?;
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
}
