//! Opening connections.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    error::{Error, Result, describe},
    load::Order,
};

/// The first of the addresses that clients have where each is to have its own. Others use the
/// addresses below.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([127, 10, 0, 1]);

/// Where connections go, and where from.
#[derive(Debug)]
pub(super) struct Dial {
    target: SocketAddr,
    addresses: u32,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// The target does not want it.
    Refused,
    /// None can be made from here, whatever the target does.
    Impossible(Error),
}

impl Dial {
    pub(super) fn new(order: &Order) -> Self {
        Self {
            target: order.target,
            addresses: order.addresses,
        }
    }

    /// Begins a connection for this client. Nothing has to be said to the kernel about small writes: a
    /// client writes once and then waits, so nothing of its own is ever unacknowledged.
    pub(super) fn begin(&self, client: usize) -> Result<TcpStream, NoConnection> {
        let socket = self.socket(client)?;
        socket
            .set_nonblocking(true)
            .map_err(|error| self.classify(&error))?;
        match socket.connect(&self.target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            Err(error) => return Err(self.classify(&error)),
        }
        Ok(socket.into())
    }

    /// Opens the first connection, and waits until it is there.
    ///
    /// # Errors
    /// Nobody is there.
    pub(super) fn first(&self, limit: Duration) -> Result<TcpStream> {
        let unreachable = |error: &io::Error| {
            Error::failed(format!(
                "no connection to {}: {}; is something listening there?",
                self.target,
                describe(error)
            ))
        };
        let socket = self.socket(0).map_err(|none| match none {
            NoConnection::Impossible(error) => error,
            NoConnection::Refused => unreachable(&io::ErrorKind::ConnectionRefused.into()),
        })?;
        socket
            .connect_timeout(&self.target.into(), limit)
            .map_err(|error| match self.classify(&error) {
                NoConnection::Impossible(error) => error,
                NoConnection::Refused => unreachable(&error),
            })?;
        socket
            .set_nonblocking(true)
            .map_err(|error| unreachable(&error))?;
        Ok(socket.into())
    }

    fn socket(&self, client: usize) -> Result<Socket, NoConnection> {
        let kind = Type::STREAM.cloexec();
        let socket = Socket::new_raw(Domain::for_address(self.target), kind, Some(Protocol::TCP))
            .map_err(|error| self.classify(&error))?;
        if self.addresses > 1 {
            let address = Ipv4Addr::from(FIRST_ADDRESS + client as u32 % self.addresses);
            // The port is chosen when the target is known: else two connections from one address
            // could never share one (IP_BIND_ADDRESS_NO_PORT, ip(7)).
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)
                .map_err(|errno| self.classify(&errno.into()))?;
            socket
                .bind(&SocketAddr::from((IpAddr::V4(address), 0)).into())
                .map_err(|error| self.classify(&error))?;
        }
        Ok(socket)
    }

    fn classify(&self, error: &io::Error) -> NoConnection {
        use nix::libc::{EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
        let why = match error.raw_os_error() {
            Some(EADDRNOTAVAIL) => format!(
                "no source port is left for connections to {}: \
                 name more addresses or fewer connections, or widen net.ipv4.ip_local_port_range",
                self.target
            ),
            Some(EMFILE | ENFILE) => {
                "no descriptor is left for a connection: name fewer clients, or raise the limit (ulimit -n)"
                    .into()
            }
            Some(ENOBUFS | ENOMEM) => "the kernel has no memory left for a connection".into(),
            _ => return NoConnection::Refused,
        };
        NoConnection::Impossible(Error::failed(why))
    }
}

#[cfg(test)]
mod tests {
    use nix::libc::{EADDRNOTAVAIL, ECONNREFUSED, EMFILE};

    use super::*;

    #[test]
    fn what_the_target_does_not_want_is_told_from_what_cannot_be_done_here() {
        let dial = Dial::new(&crate::load::tests::order());
        let why = |errno| match dial.classify(&io::Error::from_raw_os_error(errno)) {
            NoConnection::Impossible(error) => error.to_string(),
            NoConnection::Refused => String::new(),
        };
        assert!(why(EADDRNOTAVAIL).contains("source port"));
        assert!(why(EMFILE).contains("descriptor"));
        assert_eq!(why(ECONNREFUSED), "");
    }
}
