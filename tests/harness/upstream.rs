//! An upstream that says, byte by byte, what a test tells it to. Nothing happens on its own: the test
//! plays both the client and the upstream, so there is only one order of events.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{DEADLINE, Pointsman, until};

/// A listening socket that a proxy is told to forward to.
pub struct Upstream {
    listener: Socket,
    path: Option<PathBuf>,
    /// Accepted, and silent so far: the proxy's probes, mostly.
    silent: Mutex<Vec<Socket>>,
}

/// One connection of the proxy's, seen from the upstream.
pub struct Wire {
    socket: Socket,
    /// Received and not yet asked for.
    ahead: Vec<u8>,
}

/// A request as it came over the wire.
#[derive(Debug)]
pub struct Request {
    /// The request line.
    pub line: String,
    /// Names in lower case, values as they came, in their order.
    pub fields: Vec<(String, String)>,
    /// The body, de-chunked.
    pub body: Vec<u8>,
}

impl Request {
    /// All values of a field, in their order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let values = self.fields.iter().filter(|(n, _)| n == name);
        values.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field that came once.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times", all.len());
        all.first().copied()
    }
}

fn bound(domain: Domain, address: &SockAddr) -> Socket {
    let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
    socket.bind(address).expect("a free address");
    socket
}

fn any_port() -> Socket {
    let address: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    bound(Domain::IPV4, &address.into())
}

impl Upstream {
    /// Listens on a free port.
    pub fn start() -> Self {
        Self::listening(any_port(), None)
    }

    /// Listens on a Unix socket.
    pub fn unix() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "pointsman-{}-{}.sock",
            process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        let address = SockAddr::unix(&path).expect("a short path");
        Self::listening(bound(Domain::UNIX, &address), Some(path))
    }

    fn listening(listener: Socket, path: Option<PathBuf>) -> Self {
        listener.listen(128).expect("a bound socket");
        listener.set_nonblocking(true).expect("a socket");
        Self {
            listener,
            path,
            silent: Mutex::default(),
        }
    }

    /// What `--upstream` takes.
    pub fn url(&self) -> String {
        match &self.path {
            Some(path) => format!("unix:{}", path.display()),
            None => url_of(&self.listener),
        }
    }

    /// A proxy with one worker, and so with one pool, in front of it.
    #[track_caller]
    pub fn proxied(&self, arguments: &[&str]) -> Pointsman {
        Pointsman::start(&[&self.url()], &[&["--workers", "1"], arguments].concat())
    }

    /// The next connection over which something is sent.
    #[track_caller]
    pub fn accept(&self) -> Wire {
        until("the proxy sends something over a new connection", || {
            self.try_accept()
        })
    }

    /// The next connection over which something has been sent already.
    pub fn try_accept(&self) -> Option<Wire> {
        let mut silent = self.silent.lock().expect("nobody panics here");
        while let Ok((socket, _)) = self.listener.accept() {
            socket.set_nonblocking(true).expect("a socket");
            silent.push(socket);
        }
        let mut i = 0;
        while i < silent.len() {
            let mut byte = [std::mem::MaybeUninit::uninit()];
            match silent[i].peek(&mut byte) {
                Ok(1..) => return Some(Wire::over(silent.remove(i))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => i += 1,
                // It was only a look whether anybody is here.
                Ok(_) | Err(_) => drop(silent.remove(i)),
            }
        }
        None
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Wire {
    fn over(socket: Socket) -> Self {
        socket.set_nonblocking(false).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
        socket.set_write_timeout(Some(DEADLINE)).expect("a socket");
        Self {
            socket,
            ahead: Vec::new(),
        }
    }

    /// Sends bytes, and fails the test if the proxy no longer takes them.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("an open connection");
    }

    /// Sends bytes.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// Answers 200 with a body of a known length.
    #[track_caller]
    pub fn answer(&mut self, body: &str) {
        self.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
    }

    /// Reads more; 0 at the end.
    fn more(&mut self) -> std::io::Result<usize> {
        let mut buffer = [0; 64 * 1024];
        let n = self.socket.read(&mut buffer)?;
        self.ahead.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// The next bytes, up to and with `end`.
    #[track_caller]
    pub fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = find(&self.ahead, end) {
                return self.ahead.drain(..at + end.len()).collect();
            }
            let n = self.more().expect("more from the proxy");
            let so_far = String::from_utf8_lossy(&self.ahead);
            assert!(n > 0, "the proxy closed after {so_far:?}");
        }
    }

    /// The next `n` bytes.
    #[track_caller]
    pub fn read_exact(&mut self, n: usize) -> Vec<u8> {
        while self.ahead.len() < n {
            let got = self.more().expect("more from the proxy");
            assert!(
                got > 0,
                "the proxy closed {} bytes early",
                n - self.ahead.len()
            );
        }
        self.ahead.drain(..n).collect()
    }

    /// The next request's head; its body is left where it is.
    #[track_caller]
    pub fn head(&mut self) -> Request {
        let head = String::from_utf8(self.read_until(b"\r\n\r\n")).expect("text");
        let mut lines = head.trim_end().split("\r\n");
        let line = lines.next().expect("a request line").to_owned();
        let fields = lines
            .map(|line| line.split_once(':').expect("a field"))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        Request {
            line,
            fields,
            body: Vec::new(),
        }
    }

    /// The next request, its body as its framing says.
    #[track_caller]
    pub fn request(&mut self) -> Request {
        let mut request = self.head();
        request.body = if request.field("transfer-encoding").is_some() {
            assert_eq!(request.field("transfer-encoding"), Some("chunked"));
            assert_eq!(request.field("content-length"), None, "framed twice");
            self.chunked()
        } else {
            let length = request.field("content-length").unwrap_or("0");
            self.read_exact(length.parse().expect("a length"))
        };
        request
    }

    /// A chunked body.
    #[track_caller]
    pub fn chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = String::from_utf8(self.read_until(b"\r\n")).expect("a chunk's size");
            let size = usize::from_str_radix(line.trim_end(), 16).expect("a chunk's size");
            let chunk = self.read_exact(size + 2);
            assert!(chunk.ends_with(b"\r\n"), "a chunk ends with its line");
            if size == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    /// Everything up to the proxy's closing the connection. That it does is waited for.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.more() {
                Ok(1..) => {}
                Ok(_) => break,
                Err(error) if is_timeout(&error) => panic!("the proxy keeps the connection open"),
                // Closing while something is unread is a reset.
                Err(_) => break,
            }
        }
        std::mem::take(&mut self.ahead)
    }

    /// Says that no more comes from this side.
    pub fn end(&self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Closes the connection in the rudest way.
    pub fn reset(self) {
        self.socket
            .set_linger(Some(Duration::ZERO))
            .expect("a socket");
    }
}

/// A port that refuses connections as long as this lives: bound, so nobody else gets it, and not
/// listening.
pub struct Refusing(Socket);

impl Refusing {
    /// Takes one.
    pub fn start() -> Self {
        Self(any_port())
    }

    /// What `--upstream` takes.
    pub fn url(&self) -> String {
        url_of(&self.0)
    }

    /// The port begins to answer.
    pub fn listen(self) -> Upstream {
        Upstream::listening(self.0, None)
    }
}

/// A port that neither accepts nor refuses: its queue is full.
pub struct Deaf {
    listener: Socket,
    _queue: Vec<Socket>,
}

impl Deaf {
    /// Takes one and fills its queue.
    pub fn start() -> Self {
        let listener = any_port();
        listener.listen(0).expect("a bound socket");
        let address = listener.local_addr().expect("bound");
        let queue: Vec<_> = (0..4)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                socket.set_nonblocking(true).expect("a socket");
                let _ = socket.connect(&address);
                socket
            })
            .collect();
        // The last one waits in vain, and so will whoever comes next.
        let last = queue.last().expect("four");
        assert!(last.peer_addr().is_err(), "the queue has room for four");
        Self {
            listener,
            _queue: queue,
        }
    }

    /// What `--upstream` takes.
    pub fn url(&self) -> String {
        url_of(&self.listener)
    }
}

fn url_of(socket: &Socket) -> String {
    let address = socket.local_addr().expect("bound");
    format!("http://{}", address.as_socket().expect("an IP socket"))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Reads until the other end closes or resets, which is waited for.
#[track_caller]
pub fn rest_of(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if is_timeout(&error) => panic!("the proxy keeps the connection open"),
        Ok(_) | Err(_) => bytes,
    }
}

/// A body in chunks of `size` bytes.
pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(body.len() + body.len() / size * 10 + 16);
    for chunk in body.chunks(size) {
        text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

/// The first `n` bytes of what the demo's `/bytes` sends.
pub fn pattern(n: usize) -> Vec<u8> {
    (0..n as u64).map(pointsman::demo::pattern_byte).collect()
}
