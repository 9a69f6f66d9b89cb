//! A server that answers as a test says, and remembers what it was asked.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// A right answer.
pub const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// Runs until it is dropped.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it has seen.
    pub seen: Arc<Seen>,
    stopped: Arc<AtomicBool>,
}

/// What a server has seen.
#[derive(Default)]
pub struct Seen {
    connections: AtomicUsize,
    gone: AtomicUsize,
    requests: AtomicUsize,
    slow: AtomicUsize,
    closing: AtomicUsize,
    addresses: Mutex<HashSet<IpAddr>>,
}

impl Seen {
    /// Connections accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Of those, that have ended.
    pub fn gone(&self) -> usize {
        self.gone.load(Relaxed)
    }

    /// Requests received.
    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// Of those, for a path that begins with `/slow`.
    pub fn slow(&self) -> usize {
        self.slow.load(Relaxed)
    }

    /// Of those, with `Connection: close`.
    pub fn closing(&self) -> usize {
        self.closing.load(Relaxed)
    }

    /// Where they came from.
    pub fn addresses(&self) -> HashSet<IpAddr> {
        self.addresses.lock().expect("nobody panics").clone()
    }
}

/// A request that came.
#[derive(Clone, Copy)]
pub struct Request {
    /// Of all, from 1.
    pub number: usize,
    /// Of those on its connection, from 1.
    pub on_connection: usize,
}

/// What the server does with a connection after an answer.
#[derive(Clone, Copy, PartialEq)]
pub enum Then {
    /// It waits for another request.
    Keep,
    /// It closes it.
    Close,
}

impl Server {
    /// Answers every request with what `answer` gives or writes.
    pub fn start(answer: impl Fn(Request, &mut TcpStream) -> Then + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        socket2::SockRef::from(&listener)
            .listen(4096)
            .expect("room for a burst");
        let address = listener.local_addr().expect("bound");
        let (seen, stopped) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
        let (its, until, answer) = (seen.clone(), stopped.clone(), Arc::new(answer));
        thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                if until.load(Relaxed) {
                    break;
                }
                its.connections.fetch_add(1, Relaxed);
                its.addresses
                    .lock()
                    .expect("nobody panics")
                    .insert(peer.ip());
                let (its, answer) = (its.clone(), answer.clone());
                // Ends when the client has closed the connection.
                thread::spawn(move || {
                    serve(stream, &its, &*answer);
                    its.gone.fetch_add(1, Relaxed);
                });
            }
        });
        Self {
            address,
            seen,
            stopped,
        }
    }

    /// Gives every request the same answer, and closes if it was asked to.
    pub fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, stream| match stream.write_all(&answer) {
            Ok(()) => Then::Keep,
            Err(_) => Then::Close,
        })
    }
}

fn serve(stream: TcpStream, seen: &Seen, answer: &dyn Fn(Request, &mut TcpStream) -> Then) {
    let mut output = stream.try_clone().expect("a descriptor");
    let mut input = BufReader::new(stream);
    let mut on_connection = 0;
    let (mut line, mut slow, mut closing) = (String::new(), false, false);
    loop {
        line.clear();
        if !matches!(input.read_line(&mut line), Ok(1..)) {
            return;
        }
        slow |= line.starts_with("GET /slow");
        closing |= line.eq_ignore_ascii_case("connection: close\r\n");
        if line != "\r\n" {
            continue;
        }
        on_connection += 1;
        seen.slow.fetch_add(usize::from(slow), Relaxed);
        seen.closing.fetch_add(usize::from(closing), Relaxed);
        let request = Request {
            number: seen.requests.fetch_add(1, Relaxed) + 1,
            on_connection,
        };
        if answer(request, &mut output) == Then::Close || closing {
            return;
        }
        slow = false;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}
