//! A client's connection, as plain as can be: what matters here is exactly how an exchange ended, and
//! a full client library would hide that.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How an exchange ended.
#[derive(Debug)]
pub(crate) enum End {
    /// With a whole answer.
    Answer(Answer),
    /// The connection ended before the first byte of an answer.
    Silence,
    /// The connection ended in the midst of an answer.
    Cut,
}

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// May no further request be sent on this connection?
    pub(crate) closes: bool,
    /// The body, without its chunks.
    pub(crate) body: Vec<u8>,
}

/// What a connection looks like between two requests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Open and silent.
    Open,
    /// The other end has closed it.
    Closed,
    /// It holds bytes that nobody asked for.
    Unasked,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Answers that came over it.
    pub(crate) served: u64,
}

impl Link {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            served: 0,
        })
    }

    /// Our port: which connection it was, should one have to look at a packet trace.
    pub(crate) fn port(&self) -> u16 {
        self.stream.local_addr().map_or(0, |address| address.port())
    }

    /// Looks without waiting.
    pub(crate) fn look(&mut self) -> Idle {
        if !self.buffer.is_empty() {
            return Idle::Unasked;
        }
        match self.stream.try_read(&mut [0; 1]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Idle::Open,
            Ok(1..) => Idle::Unasked,
            Ok(0) | Err(_) => Idle::Closed,
        }
    }

    /// Sends `request` and reads what comes back.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> End {
        // A write may fail although an answer waits to be read: reading decides.
        let _ = self.stream.write_all(request).await;
        loop {
            match parse(&self.buffer, false) {
                Parsed::Whole(answer, length) => {
                    self.buffer.drain(..length);
                    self.served += 1;
                    return End::Answer(answer);
                }
                Parsed::Part => {}
                Parsed::Nonsense => return End::Cut,
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(1..) => {}
                Ok(0) if self.buffer.is_empty() => return End::Silence,
                Err(_) if self.buffer.is_empty() => return End::Silence,
                Err(_) => return End::Cut,
                // Only where nothing else says so does the end of the connection end the answer.
                Ok(0) => {
                    return match parse(&self.buffer, true) {
                        Parsed::Whole(answer, _) => End::Answer(answer),
                        Parsed::Part | Parsed::Nonsense => End::Cut,
                    };
                }
            }
        }
    }
}

/// The page at `path`, for looking at the admin interface.
pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut link = Link::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    match link.exchange(request.as_bytes()).await {
        End::Answer(answer) if answer.status == 200 => Ok(answer.body),
        End::Answer(answer) => Err(io::Error::other(format!("status {}", answer.status))),
        End::Silence | End::Cut => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// What a buffer holds.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// An answer, and how long it is.
    Whole(Answer, usize),
    /// The beginning of one.
    Part,
    /// No HTTP.
    Nonsense,
}

/// Reads an answer from the beginning of `bytes`; `ended`: no more will come.
fn parse(bytes: &[u8], ended: bool) -> Parsed {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Parsed::Part;
    };
    let Ok(head) = std::str::from_utf8(&bytes[..end]) else {
        return Parsed::Nonsense;
    };
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .filter(|line| line.starts_with("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1)?.parse::<u16>().ok());
    let Some(status) = status else {
        return Parsed::Nonsense;
    };
    let begin = end + 4;
    if (100..200).contains(&status) {
        // An interim response; the real one follows.
        return match parse(&bytes[begin..], ended) {
            Parsed::Whole(answer, length) => Parsed::Whole(answer, begin + length),
            other => other,
        };
    }
    let (mut length, mut chunked, mut closes) = (None, false, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => match value.parse::<usize>() {
                Ok(n) => length = Some(n),
                Err(_) => return Parsed::Nonsense,
            },
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => closes |= value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let body = &bytes[begin..];
    let whole = |body: Vec<u8>, length: usize, closes: bool| {
        let answer = Answer {
            status,
            closes,
            body,
        };
        Parsed::Whole(answer, begin + length)
    };
    match length {
        _ if matches!(status, 204 | 304) => whole(Vec::new(), 0, closes),
        _ if chunked => match unchunk(body) {
            Ok(Some((content, length))) => whole(content, length, closes),
            Ok(None) => Parsed::Part,
            Err(()) => Parsed::Nonsense,
        },
        Some(length) if body.len() >= length => whole(body[..length].to_vec(), length, closes),
        Some(_) => Parsed::Part,
        None if ended => whole(body.to_vec(), body.len(), true),
        None => Parsed::Part,
    }
}

/// The content of a chunked body and how long it stands there, if it is all there.
fn unchunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ()> {
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&bytes[at..at + end]).map_err(drop)?;
        let size = size.split(';').next().unwrap_or(size).trim();
        let size = usize::from_str_radix(size, 16).map_err(drop)?;
        let begin = at + end + 2;
        let Some(chunk) = begin
            .checked_add(size + 2)
            .and_then(|end| bytes.get(begin..end))
        else {
            return Ok(None);
        };
        if !chunk.ends_with(b"\r\n") {
            return Err(());
        }
        content.extend_from_slice(&chunk[..size]);
        at = begin + size + 2;
        if size == 0 {
            return Ok(Some((content, at)));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, closes: bool, body: &str) -> Answer {
        Answer {
            status,
            closes,
            body: body.into(),
        }
    }

    #[test]
    fn an_answer_is_whole_only_with_its_last_byte() {
        let cases = [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                answer(200, false, "hi"),
            ),
            (
                "HTTP/1.1 502 Bad\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                answer(502, true, ""),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n1;x=y\r\n!\r\n0\r\n\r\n",
                answer(200, false, "hi!"),
            ),
            (
                "HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 204 None\r\n\r\n",
                answer(204, false, ""),
            ),
        ];
        for (text, expected) in cases {
            for end in 0..text.len() {
                let part = &text.as_bytes()[..end];
                assert_eq!(parse(part, false), Parsed::Part, "{text} up to {end}");
                let cut = parse(part, true);
                assert!(!matches!(cut, Parsed::Whole(..)), "{text} cut at {end}");
            }
            let more = format!("{text}HTTP/1.1");
            assert_eq!(
                parse(more.as_bytes(), false),
                Parsed::Whole(expected, text.len())
            );
        }
    }

    #[test]
    fn the_end_of_the_connection_ends_an_answer_without_a_length() {
        let text = b"HTTP/1.0 200 OK\r\n\r\nhello";
        assert_eq!(parse(text, false), Parsed::Part);
        let whole = Parsed::Whole(answer(200, true, "hello"), text.len());
        assert_eq!(parse(text, true), whole);
    }

    #[test]
    fn what_is_no_http_is_no_answer() {
        for text in [
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert_eq!(parse(text.as_bytes(), false), Parsed::Nonsense, "{text}");
        }
    }
}
