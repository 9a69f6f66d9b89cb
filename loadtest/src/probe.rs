//! One request by hand, to see that a proxy answers what the upstream said before it is measured.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::upstream::HOST;

const TIMEOUT: Duration = Duration::from_secs(2);

/// The body of the answer to `GET path`, which has to be a 200 of the length it announces.
pub(crate) fn get(port: u16, path: &str) -> Result<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("no complete answer to {path}"))?;
    body(&answer).with_context(|| format!("answer to {path}"))
}

fn body(answer: &[u8]) -> Result<Vec<u8>> {
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("no end of the head")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let body = &answer[end + 4..];
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if status.split_ascii_whitespace().nth(1) != Some("200") {
        bail!("{status:?} instead of 200");
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .context("no Content-Length, though the upstream sends one")?;
    if length != body.len() {
        bail!("{} bytes, though {length} were announced", body.len());
    }
    Ok(body.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_a_good_answer() {
        let got = body(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc");
        assert_eq!(got.expect("a good answer"), b"abc");
    }

    #[test]
    fn bad_answers_say_what_is_bad() {
        for (answer, complaint) in [
            (
                &b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"[..],
                "502",
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
                "3 bytes",
            ),
            (b"HTTP/1.1 200 OK\r\n\r\nabc", "Content-Length"),
            (b"HTTP/1.1 200 OK\r\n", "end of the head"),
        ] {
            let error = body(answer).expect_err("a bad answer").to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
