//! Free ports for servers.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// The lowest port that is given.
const FIRST: u32 = 10_000;
/// A run needs fewer ports than this.
const ROOM: u16 = 200;
/// How far apart two runs start whose processes were started one after the other.
const APART: u32 = 97;

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
        // Two runs at once, whose ids are neighbours, start at different places, as a courtesy; bind decides.
        let first =
            FIRST + std::process::id().wrapping_mul(APART) % (u32::from(end - ROOM) - FIRST);
        let first = u16::try_from(first).expect("less than the end");
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
