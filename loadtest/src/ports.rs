//! Free ports for servers.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// Free ports, outside of those that the kernel gives to outgoing connections: there, some
/// connection of the load could sit on a port before the server that is to listen on it.
pub(crate) struct Ports {
    next: u16,
    end: u16,
}

impl Ports {
    pub(crate) fn new() -> Self {
        let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .and_then(|range| range.split_ascii_whitespace().next()?.parse().ok())
            .unwrap_or(32_768);
        let end = if ephemeral > 12_000 {
            ephemeral
        } else {
            u16::MAX
        };
        // Two runs at once start at different places, as a courtesy; bind decides.
        let first = 10_000 + u16::try_from(std::process::id() % 1_000).expect("less than 1000");
        Self { next: first, end }
    }

    pub(crate) fn next(&mut self) -> Result<u16> {
        while self.next < self.end {
            let port = self.next;
            self.next += 1;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no free port on 127.0.0.1 below {}", self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_not_given_twice() {
        let mut ports = Ports::new();
        let first = ports.next().expect("a free port");
        assert_ne!(first, ports.next().expect("another"));
    }
}
