//! One client: its connection, and the request on it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
};

use nix::sys::epoll::EpollFlags;

use crate::load::{
    Order, Scenario,
    answer::{Answer, Progress},
    tally::{Ask, Fault},
};

/// Full buffers read from one client before others have their turn.
const READS: usize = 16;

/// The requests that clients send, made once.
#[derive(Debug)]
pub(super) struct Requests {
    usual: Vec<u8>,
    slow: Vec<u8>,
}

impl Requests {
    pub(super) fn new(order: &Order) -> Self {
        let close = match order.scenario {
            Scenario::PerConnection | Scenario::Bursts => "Connection: close\r\n",
            _ => "",
        };
        let host = &order.host;
        let request =
            |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{close}\r\n").into_bytes();
        Self {
            usual: request(&order.path),
            slow: request(&order.slow_path),
        }
    }
}

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It has no connection.
    Absent,
    /// It waits for its connection.
    Opening,
    /// It has one, and nothing to do.
    Idle,
    /// It has sent its request, or does as soon as it can.
    Asking,
    /// It has its answer, and the server is to close the connection: whoever closes first has to keep
    /// the ports for a minute (TIME_WAIT), and clients would run out of them.
    Parting,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) state: State,
    /// Since when, monotonic clock, nanoseconds; of a request: since it was sent.
    pub(super) since: u64,
    stream: Option<TcpStream>,
    /// Connections so far: tells what is meant for an earlier one.
    pub(super) generation: u32,
    /// Has this connection come about?
    pub(super) connected: bool,
    /// Has there been an answer on it?
    pub(super) used: bool,
    /// What has happened to it and was not all attended to.
    pub(super) pending: EpollFlags,
    /// It is to be closed when the request under way is answered.
    pub(super) leaving: bool,
    pub(super) ask: Ask,
    written: usize,
    answer: Answer,
    /// Its place among those that are free, while it is.
    pub(super) place: Option<u32>,
}

/// What an event has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is more to come.
    Waiting,
    /// There is more to read, and it is others' turn.
    Unfinished,
    /// The connection is there.
    Opened,
    /// The answer is, and the connection can be used again.
    Answered,
    /// The answer is, and the server closes the connection.
    AnsweredLast,
    /// The answer is, and the connection has ended.
    AnsweredAndEnded,
    /// A kept connection was closed before any of the answer came: the server had closed it by then.
    Outdated,
    /// The request has failed.
    Failed(Fault),
    /// The connection has ended, with no request on it.
    Ended,
    /// Something came that nobody has asked for.
    Unasked,
}

impl Client {
    /// A client with no connection yet.
    pub(super) fn new() -> Self {
        Self {
            state: State::Absent,
            since: 0,
            stream: None,
            generation: 0,
            connected: false,
            used: false,
            pending: EpollFlags::empty(),
            leaving: false,
            ask: Ask::default(),
            written: 0,
            answer: Answer::default(),
            place: None,
        }
    }

    /// Takes a connection that was begun at `now`.
    pub(super) fn take(&mut self, stream: TcpStream, now: u64) {
        self.stream = Some(stream);
        self.connected = false;
        self.used = false;
        self.leaving = false;
        self.pending = EpollFlags::empty();
        self.since = now;
    }

    /// Closes the connection.
    pub(super) fn hang_up(&mut self) {
        self.stream = None;
        self.state = State::Absent;
    }

    /// Sends the request, if there is a connection; else it is sent when there is.
    pub(super) fn ask(&mut self, requests: &Requests) -> Step {
        self.answer.reset();
        self.written = 0;
        self.since = self.ask.sent;
        self.state = State::Asking;
        self.send(requests)
    }

    /// The status of the answer.
    pub(super) fn status(&self) -> u16 {
        self.answer.status()
    }

    /// Does what there is to do after an event.
    #[inline]
    pub(super) fn advance(
        &mut self,
        happened: EpollFlags,
        requests: &Requests,
        buffer: &mut [u8],
    ) -> Step {
        let readable = happened.intersects(
            EpollFlags::EPOLLIN
                | EpollFlags::EPOLLRDHUP
                | EpollFlags::EPOLLHUP
                | EpollFlags::EPOLLERR,
        );
        let ended = happened.intersects(ENDED);
        match self.state {
            State::Asking => {
                if !self.connected || self.written < self.request(requests).len() {
                    let step = self.send(requests);
                    if step != Step::Waiting {
                        return step;
                    }
                }
                if readable {
                    self.receive(ended, buffer)
                } else {
                    Step::Waiting
                }
            }
            State::Opening => self.look_whether_open(ended),
            State::Idle if readable => self.look_whether_closed(buffer),
            State::Parting if ended => Step::Ended,
            State::Idle | State::Parting | State::Absent => Step::Waiting,
        }
    }

    fn request<'a>(&self, requests: &'a Requests) -> &'a [u8] {
        if self.ask.slow {
            &requests.slow
        } else {
            &requests.usual
        }
    }

    fn send(&mut self, requests: &Requests) -> Step {
        let request = self.request(requests);
        let Some(stream) = &mut self.stream else {
            return Step::Waiting;
        };
        while self.written < request.len() {
            match stream.write(&request[self.written..]) {
                Ok(n) => {
                    self.written += n;
                    self.connected = true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Not connected yet, or the server does not read.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.broken(),
            }
        }
        Step::Waiting
    }

    #[inline]
    fn receive(&mut self, ended: bool, buffer: &mut [u8]) -> Step {
        let Some(stream) = &mut self.stream else {
            return Step::Waiting;
        };
        for _ in 0..READS {
            match stream.read(buffer) {
                Ok(0) if self.answer.ends_here() => return Step::AnsweredAndEnded,
                Ok(0) => return self.broken(),
                Ok(n) => match self.answer.feed(&buffer[..n]) {
                    Ok(Progress::Whole) => {
                        self.used = true;
                        return match (ended, self.answer.closes()) {
                            (true, _) => Step::AnsweredAndEnded,
                            (false, true) => Step::AnsweredLast,
                            (false, false) => Step::Answered,
                        };
                    }
                    // It was less than there was room for: that was all, and what comes from now
                    // on is another event (epoll(7)). If the connection has ended, that comes yet.
                    Ok(Progress::Partial) if n < buffer.len() && !ended => return Step::Waiting,
                    Ok(Progress::Partial) => {}
                    Err(_) => return Step::Failed(Fault::Malformed),
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Step::Waiting,
                Err(_) => return self.broken(),
            }
        }
        Step::Unfinished
    }

    /// The connection ended before the answer did.
    fn broken(&self) -> Step {
        if !self.connected {
            Step::Failed(Fault::Connect)
        } else if self.used && !self.answer.begun() {
            Step::Outdated
        } else {
            Step::Failed(Fault::Closed)
        }
    }

    fn look_whether_open(&mut self, ended: bool) -> Step {
        let error = self.stream.as_ref().map(TcpStream::take_error);
        if !matches!(error, Some(Ok(None))) {
            return Step::Failed(Fault::Connect);
        }
        self.connected = true;
        self.state = State::Idle;
        if ended { Step::Ended } else { Step::Opened }
    }

    fn look_whether_closed(&mut self, buffer: &mut [u8]) -> Step {
        let read = self.stream.as_mut().map(|stream| stream.read(buffer));
        match read {
            Some(Ok(0)) => Step::Ended,
            // "Request timeout": how some servers take leave of a client that has nothing to ask.
            Some(Ok(n)) if buffer[..n].starts_with(b"HTTP/1.1 408") => Step::Ended,
            Some(Ok(_)) => Step::Unasked,
            Some(Err(error)) if would_wait(&error) => Step::Waiting,
            Some(Err(_)) | None => Step::Ended,
        }
    }
}

/// The server sends no more, or the connection is broken.
const ENDED: EpollFlags = EpollFlags::EPOLLRDHUP
    .union(EpollFlags::EPOLLHUP)
    .union(EpollFlags::EPOLLERR);

fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
