//! The upstream behind every proxy of the comparison: as cheap as can be, so that it is not the
//! bottleneck of the core that it shares with the load. Answers are prepared; a connection is kept for
//! as long as the proxy keeps it.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// What all clients ask for in `Host`, those that check and those that measure: a proxy may have another answer for
/// another host.
pub(crate) const HOST: &str = "loadtest.example";
/// Path of the small answer: 100 bytes.
pub(crate) const SMALL: &str = "/";
/// Path of the large answer: 64 KiB.
pub(crate) const LARGE: &str = "/64k";
/// Path of an answer that takes its time: the small one, after as many milliseconds.
pub(crate) const SLOW: &str = "/slow?ms=";
/// Path of an answer that tells what the proxy said: the client's address, and the number of this request
/// on its connection.
pub(crate) const SEEN: &str = "/seen";

const LARGE_BYTES: usize = 65_536;
/// The longest head of a request.
const HEAD: usize = 16 * 1024;
/// Connections that may wait to be accepted.
pub(crate) const BACKLOG: u32 = 4096;

/// Runs the upstream (used by the other commands).
#[derive(Debug, Args)]
pub(crate) struct Upstream {
    /// Port on 127.0.0.1
    port: u16,
}

/// The body of the small answer.
pub(crate) fn small_body() -> String {
    "All of the hundred bytes of this small answer come through the proxy as they left the upstream"
        .chars()
        .chain(std::iter::repeat('.'))
        .take(100)
        .collect()
}

/// The body of the large answer: no two stretches of it alike, so that nothing can be swapped.
pub(crate) fn large_body() -> Vec<u8> {
    (0..LARGE_BYTES / 8)
        .flat_map(|word| format!("{word:07}\n").into_bytes())
        .collect()
}

impl Upstream {
    /// Serves until it is ended.
    pub(crate) fn run(&self) -> Result<()> {
        alone(async {
            let listener = listen(self.port)?;
            let answers = Rc::new(Answers::prepare());
            loop {
                // Out of descriptors, say: the next connection may fare better.
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let answers = Rc::clone(&answers);
                // An error is the end of that connection, and of nothing else.
                tokio::task::spawn_local(async move { serve(stream, &answers).await.ok() });
            }
        })
    }
}

/// Runs one thread's worth of tasks.
pub(crate) fn alone(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot set up the runtime")?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// Listens on a port of 127.0.0.1.
pub(crate) fn listen(port: u16) -> Result<TcpListener> {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let bind = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| format!("cannot listen on {address}"))
}

/// Whole answers, each in two forms: the connection stays, or it does not.
struct Answers {
    small: [Vec<u8>; 2],
    large: [Vec<u8>; 2],
}

impl Answers {
    fn prepare() -> Self {
        let both = |body: &[u8]| [false, true].map(|close| answer("200 OK", body, close));
        Self {
            small: both(small_body().as_bytes()),
            large: both(&large_body()),
        }
    }
}

fn answer(status: &str, body: &[u8], close: bool) -> Vec<u8> {
    let connection = if close { "Connection: close\r\n" } else { "" };
    let length = body.len();
    let mut whole = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{connection}\r\n"
    )
    .into_bytes();
    whole.extend_from_slice(body);
    whole
}

/// What a request wants.
#[derive(Debug, PartialEq, Eq)]
struct Wish<'a> {
    path: &'a str,
    forwarded_for: String,
    close: bool,
    /// It is nothing that we answer.
    bad: bool,
    /// Bytes of its head.
    length: usize,
}

/// The first request in `bytes`, once its head is complete.
fn wish(bytes: &[u8]) -> Result<Option<Wish<'_>>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes).context("a bad request")? else {
        return Ok(None);
    };
    let mut wish = Wish {
        path: request.path.unwrap_or_default(),
        forwarded_for: String::new(),
        close: request.version == Some(0),
        bad: request.method != Some("GET"),
        length,
    };
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("connection") {
            wish.close |= header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("x-forwarded-for") {
            wish.forwarded_for = String::from_utf8_lossy(header.value).into_owned();
        } else if header.name.eq_ignore_ascii_case("transfer-encoding")
            || header.name.eq_ignore_ascii_case("content-length") && header.value != b"0"
        {
            wish.bad = true;
        }
    }
    Ok(Some(wish))
}

/// Answers what comes over one connection, in turn.
async fn serve(mut stream: TcpStream, answers: &Answers) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; HEAD];
    let mut held = 0;
    let mut count = 0u64;
    loop {
        let Some(wish) = wish(&buffer[..held])? else {
            if held == HEAD {
                anyhow::bail!("a head of more than {HEAD} bytes");
            }
            match stream.read(&mut buffer[held..]).await? {
                0 => return Ok(()),
                more => held += more,
            }
            continue;
        };
        count += 1;
        let close = wish.close || wish.bad;
        let form = usize::from(close);
        match wish.path {
            _ if wish.bad => {
                let whole = answer("400 Bad Request", b"only GET, without a body\n", true);
                stream.write_all(&whole).await?;
            }
            SMALL => stream.write_all(&answers.small[form]).await?,
            LARGE => stream.write_all(&answers.large[form]).await?,
            SEEN => {
                let told = format!("forwarded-for={} reused={count}", wish.forwarded_for);
                stream
                    .write_all(&answer("200 OK", told.as_bytes(), close))
                    .await?;
            }
            path => match path.strip_prefix(SLOW).map(str::parse) {
                Some(Ok(milliseconds)) => {
                    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                    stream.write_all(&answers.small[form]).await?;
                }
                _ => {
                    let whole = answer("404 Not Found", b"no such path\n", close);
                    stream.write_all(&whole).await?;
                }
            },
        }
        if close {
            stream.shutdown().await?;
            return Ok(());
        }
        let used = wish.length;
        buffer.copy_within(used..held, 0);
        held -= used;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_their_sizes() {
        assert_eq!(small_body().len(), 100);
        assert_eq!(large_body().len(), LARGE_BYTES);
    }

    #[test]
    fn a_request_says_what_it_wants_once_it_is_complete() {
        let text = b"GET /seen HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 127.0.0.1\r\n\r\nGET";
        assert_eq!(wish(&text[..40]).expect("no error yet"), None);
        let got = wish(text).expect("good").expect("complete");
        assert_eq!((got.path, got.close, got.bad), (SEEN, false, false));
        assert_eq!(got.forwarded_for, "127.0.0.1");
        assert_eq!(got.length, text.len() - 3);
        assert!(wish(b"\x16\x03\x01 nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn old_and_closing_clients_are_told_to_go_and_bodies_refused() {
        let all = |text: &[u8]| {
            let wish = wish(text).expect("good").expect("complete");
            (wish.close, wish.bad)
        };
        assert_eq!(all(b"GET / HTTP/1.0\r\n\r\n"), (true, false));
        assert_eq!(
            all(b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n"),
            (true, false)
        );
        assert_eq!(
            all(b"GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\n"),
            (false, true)
        );
        assert_eq!(all(b"POST / HTTP/1.1\r\n\r\n"), (false, true));
    }
}
