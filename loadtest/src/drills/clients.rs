//! Clients of a drill: they send by a plan that waits for nobody, and write down what became of every
//! request. Half of the requests come over connections that stay, each client's own; half bring a
//! connection each.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::upstream::{HOST, SMALL, small_body};

/// Clients that keep their connections.
const KEPT: u32 = 32;
/// A head and the small body fit into this.
const ROOM: usize = 8 * 1024;

/// What clients do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traffic {
    pub(super) port: u16,
    /// Requests a second, of both kinds together.
    pub(super) rate: f64,
    pub(super) duration: Duration,
    /// How long an answer may take.
    pub(super) patience: Duration,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    /// No connection could be made.
    Refused,
    /// The connection ended before the answer did.
    Reset,
    /// No answer in time.
    TimedOut,
    /// Another answer than the upstream's.
    Wrong,
}

/// A request, with times since the clients began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Attempt {
    /// Over a connection that stays.
    pub(super) kept: bool,
    /// When it was to be sent.
    pub(super) planned: Duration,
    /// From then until its fate was known.
    pub(super) took: Duration,
    pub(super) fate: Fate,
}

/// All requests.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) attempts: Vec<Attempt>,
    /// Kept connections that were found closed before the next request was sent: no harm to a client
    /// that looks.
    pub(super) lost_idle: u64,
}

/// When the clients send, relative to their beginning. Pure.
#[derive(Debug, Clone, Copy)]
struct Timetable {
    /// Between two requests of the same client.
    period: Duration,
    duration: Duration,
}

impl Timetable {
    /// Of kept client `n` of [`KEPT`]: the clients take turns.
    fn of_client(self, n: u32) -> impl Iterator<Item = Duration> {
        let first = self.period * n / KEPT;
        (0..)
            .map(move |turn: u32| first + self.period * turn)
            .take_while(move |at| *at < self.duration)
    }

    /// Of those that bring a connection each: halfway between the others.
    fn of_newcomers(self) -> impl Iterator<Item = Duration> {
        let step = self.period / KEPT;
        (0..)
            .map(move |turn: u32| step / 2 + step * turn)
            .take_while(move |at| *at < self.duration)
    }
}

impl Traffic {
    fn timetable(&self) -> Timetable {
        Timetable {
            period: Duration::from_secs_f64(f64::from(KEPT) * 2.0 / self.rate),
            duration: self.duration,
        }
    }

    /// Sends all of it, and waits for the last fate. Within a `LocalSet`.
    pub(super) async fn run(self, began: Instant) -> Result<Ledger> {
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let mut clients = JoinSet::new();
        for n in 0..KEPT {
            clients.spawn_local(self.client(n, began, Rc::clone(&ledger)));
        }
        for planned in self.timetable().of_newcomers() {
            sleep_until(began + planned).await;
            let ledger = Rc::clone(&ledger);
            clients.spawn_local(async move {
                let fate = self.ask(&mut None, false).await;
                self.note(&ledger, false, began, planned, fate);
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended?;
        }
        Ok(ledger.take())
    }

    /// A client with a connection of its own: one that does not answer keeps it waiting.
    async fn client(self, n: u32, began: Instant, ledger: Rc<RefCell<Ledger>>) {
        let mut connection = None;
        for planned in self.timetable().of_client(n) {
            sleep_until(began + planned).await;
            if connection.as_ref().is_some_and(has_ended) {
                ledger.borrow_mut().lost_idle += 1;
                connection = None;
            }
            // Behind one that is not answered, others are given up before they are sent.
            let fate = match began.elapsed() < planned + self.patience {
                true => self.ask(&mut connection, true).await,
                false => Fate::TimedOut,
            };
            if fate != Fate::Answered {
                connection = None;
            }
            self.note(&ledger, true, began, planned, fate);
        }
    }

    fn note(
        &self,
        ledger: &RefCell<Ledger>,
        kept: bool,
        began: Instant,
        planned: Duration,
        fate: Fate,
    ) {
        let took = began.elapsed().saturating_sub(planned);
        ledger.borrow_mut().attempts.push(Attempt {
            kept,
            planned,
            took,
            fate,
        });
    }

    /// One request over `connection`, which is made if there is none.
    async fn ask(self, connection: &mut Option<TcpStream>, keep: bool) -> Fate {
        let exchange = async {
            let stream = match connection {
                Some(stream) => stream,
                None => match TcpStream::connect(("127.0.0.1", self.port)).await {
                    Ok(stream) => connection.insert(stream),
                    Err(_) => return Fate::Refused,
                },
            };
            match exchange(stream, keep).await {
                Ok(true) => Fate::Answered,
                Ok(false) => Fate::Wrong,
                Err(_) => Fate::Reset,
            }
        };
        timeout(self.patience, exchange)
            .await
            .unwrap_or(Fate::TimedOut)
    }
}

/// Whether the other side has closed a connection that nothing is expected on.
fn has_ended(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Sends a request and reads its answer. `false`: it is not the upstream's.
async fn exchange(stream: &mut TcpStream, keep: bool) -> std::io::Result<bool> {
    stream.set_nodelay(true)?;
    let connection = if keep { "" } else { "Connection: close\r\n" };
    let request = format!("GET {SMALL} HTTP/1.1\r\nHost: {HOST}\r\n{connection}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; ROOM];
    let mut held = 0;
    loop {
        match stream.read(&mut buffer[held..]).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            more => held += more,
        }
        if let Some(right) = judge(&buffer[..held]) {
            return Ok(right);
        }
        if held == ROOM {
            return Ok(false);
        }
    }
}

/// Is this the answer? `None`: it is not complete.
fn judge(bytes: &[u8]) -> Option<bool> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    let length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some(false),
    };
    if answer.code != Some(200) {
        return Some(false);
    }
    let (body, expected) = (&bytes[length..], small_body());
    let announced = answer
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"));
    if announced.is_some_and(|header| header.value != b"100") {
        return Some(false);
    }
    (body.len() >= expected.len()).then(|| body == expected.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_even_and_halves_the_rate() {
        let traffic = Traffic {
            port: 0,
            rate: 640.0,
            duration: Duration::from_secs(2),
            patience: Duration::from_secs(1),
        };
        let table = traffic.timetable();
        let kept: usize = (0..KEPT).map(|n| table.of_client(n).count()).sum();
        assert_eq!(kept, 640);
        assert_eq!(table.of_newcomers().count(), 640);
        let times: Vec<Duration> = table.of_client(31).collect();
        assert_eq!(times[1] - times[0], Duration::from_millis(100));
        assert!(times.last().is_some_and(|last| *last < traffic.duration));
    }

    #[test]
    fn only_the_upstreams_answer_is_right() {
        let right = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
            small_body()
        );
        assert_eq!(judge(right.as_bytes()), Some(true));
        assert_eq!(judge(&right.as_bytes()[..right.len() - 1]), None);
        assert_eq!(judge(&right.as_bytes()[..20]), None);
        assert_eq!(judge(right.replace("200", "502").as_bytes()), Some(false));
        assert_eq!(
            judge(right.replace("hundred", "HUNDRED").as_bytes()),
            Some(false)
        );
        let empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(judge(empty), Some(false));
        assert_eq!(judge(b"nonsense\r\n\r\n"), Some(false));
    }
}
