//! The clients: some keep their connections, some open one for each request, and each of them writes
//! down how every attempt ended.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    ledger::{Ledger, Notable, Outcome, SLOW},
    origin::{Served, Wish},
};
use crate::{
    random::Random,
    rig::wire::{Answer, End, Idle, Link},
};

/// Nothing within this long is limbo.
const LIMBO: Duration = Duration::from_secs(2);
/// The longest pause of a client between two attempts.
const THINK: Duration = Duration::from_millis(16);
/// How long a long answer takes: less than [`SLOW`].
const LONG_ANSWER: Duration = Duration::from_millis(200);
/// Notes kept for each leg: enough to see what went wrong, whatever did.
const MAX_NOTABLES: usize = 1000;
/// Requests of one client that opens connections that may wait for their answers.
const MAX_UNDER_WAY: usize = 500;

/// A time in which the yardstick waited for more than this is one in which the machine stood still.
const STANDSTILL: Duration = Duration::from_millis(500);

/// What the clients of one leg have written down.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How all attempts ended.
    pub(super) ledger: Ledger,
    /// Those that failed or took long.
    pub(super) notables: Vec<Notable>,
    /// Connections that were begun.
    pub(super) opened: u64,
    /// Of those, whose first exchange has ended.
    pub(super) known: u64,
    /// Attempts that the machine may be to blame for: that is known when the yardstick is back.
    pending: Vec<Notable>,
    /// When the machine stood still: from, to.
    standstills: Vec<(f64, f64)>,
    /// Up to when that is known.
    judged: f64,
}

impl Tally {
    /// One more attempt.
    fn note(&mut self, attempt: Notable) {
        if attempt.outcome.excused(is_slow(&attempt)) == attempt.outcome {
            self.write(attempt);
        } else {
            self.pending.push(attempt);
        }
    }

    fn write(&mut self, attempt: Notable) {
        self.ledger.count(attempt.outcome);
        let is_notable = is_slow(&attempt) || attempt.outcome != Outcome::Right;
        if is_notable && self.notables.len() < MAX_NOTABLES {
            self.notables.push(attempt);
        }
    }

    /// The yardstick has come from `from` to `to`, `waited` seconds of it for an answer or a turn on
    /// a core.
    fn judge(&mut self, from: f64, to: f64, waited: f64) {
        if waited > STANDSTILL.as_secs_f64() {
            self.standstills.push((from, to));
        }
        self.judged = to;
        for mut attempt in std::mem::take(&mut self.pending) {
            let meets = |&(from, to): &(f64, f64)| attempt.begun <= to && attempt.ended >= from;
            if self.standstills.iter().any(meets) {
                attempt.outcome = attempt.outcome.excused(is_slow(&attempt));
            }
            self.write(attempt);
        }
    }
}

fn is_slow(attempt: &Notable) -> bool {
    attempt.ended - attempt.begun > SLOW.as_secs_f64()
}

/// A tally that the clients write and the drill reads.
#[derive(Debug, Default, Clone)]
pub(super) struct Tallies(Arc<Mutex<Tally>>);

impl Tallies {
    /// Looks or writes.
    pub(super) fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How all attempts so far ended.
    pub(super) fn ledger(&self) -> Ledger {
        self.lock().ledger
    }
}

/// What clients are to do.
#[derive(Debug, Clone)]
pub(super) struct Load {
    /// Where they connect.
    pub(super) target: SocketAddr,
    /// An upstream of the drill's own, for the yardstick.
    pub(super) upstream: SocketAddr,
    /// Clients that keep their connection.
    pub(super) keep_alive: usize,
    /// Clients that open one for each request.
    pub(super) per_connection: usize,
    /// Do some answers take longer than it takes to replace a worker?
    pub(super) long_answers: bool,
    /// Who counts requests at the upstream; `None`: it is not ours, and gets `GET /`.
    pub(super) served: Option<Arc<Served>>,
    /// Where they write down what happened.
    pub(super) tallies: Tallies,
    /// When the drill began.
    pub(super) clock: Instant,
}

/// Clients at work, on a thread of their own. Dropping it ends them at once.
#[derive(Debug)]
pub(super) struct Traffic {
    /// Says `true` when clients are to finish; gone: to end at once.
    stop: Option<watch::Sender<bool>>,
    finished: oneshot::Receiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Traffic {
    /// Starts the clients.
    pub(super) fn start(load: Load, random: Random) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let (done, finished) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("clients".into())
            .spawn(move || {
                let (tallies, clock) = (load.tallies.clone(), load.clock);
                let load = Rc::new(load);
                let mut sender = stopped.clone();
                let all = tokio::task::LocalSet::new();
                let work = all.run_until(async {
                    let mut clients = JoinSet::new();
                    let mut first = Client {
                        load: load.clone(),
                        keeps: true,
                        random,
                        stopped,
                        link: None,
                        opened: 0.0,
                        port: 0,
                    };
                    for i in 0..load.keep_alive + load.per_connection {
                        first.keeps = i < load.keep_alive;
                        let client = first.another();
                        if client.keeps {
                            clients.spawn_local(client.keep_on());
                        } else {
                            clients.spawn_local(client.open_on());
                        }
                    }
                    let random = first.random.fork();
                    let yardstick = tokio::task::spawn_local(yardstick(load.clone(), random));
                    while clients.join_next().await.is_some() {}
                    let end = load.clock.elapsed().as_secs_f64();
                    judged(&load.tallies, end).await;
                    yardstick.abort();
                });
                runtime.block_on(async {
                    let dropped = async { while sender.changed().await.is_ok() {} };
                    tokio::select! {
                        () = work => {}
                        () = dropped => {}
                    }
                });
                // Clients that were broken off have left what nobody will judge any more.
                let mut tally = tallies.lock();
                let (from, to) = (tally.judged, clock.elapsed().as_secs_f64());
                if !tally.pending.is_empty() {
                    tally.judge(from, to, to - from);
                }
                drop(tally);
                let _ = done.send(());
            })?;
        Ok(Self {
            stop: Some(stop),
            finished,
            thread: Some(thread),
        })
    }

    /// Lets every client finish what it has begun and close its connection.
    pub(super) async fn stop(mut self) {
        if let Some(stop) = &self.stop {
            let _ = stop.send(true);
        }
        // Every attempt has its limit, so this has one too.
        let _ = (&mut self.finished).await;
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One client.
struct Client {
    load: Rc<Load>,
    keeps: bool,
    random: Random,
    stopped: watch::Receiver<bool>,
    link: Option<Link>,
    /// When the connection was opened.
    opened: f64,
    /// Its port on our side.
    port: u16,
}

/// A request, and how its answer is known to be right.
struct Request {
    text: Vec<u8>,
    /// `None`: any answer but the proxy's own regrets.
    answer: Option<Vec<u8>>,
}

/// How one sending of a request went.
enum Sent {
    Done(Outcome, String),
    /// A kept connection was closed before the first byte of an answer.
    Outdated,
}

impl Client {
    /// One request after the other over one connection.
    async fn keep_on(mut self) {
        while !*self.stopped.borrow_and_update() {
            self.attempt().await;
            self.pause().await;
        }
    }

    /// A request on a connection of its own every now and then, whether those before were answered or
    /// not. If it waited for them, a worker that stands still would soon have stopped all of the load.
    async fn open_on(mut self) {
        let mut under_way = JoinSet::new();
        while !*self.stopped.borrow_and_update() {
            while under_way.try_join_next().is_some() {}
            if under_way.len() < MAX_UNDER_WAY {
                let mut client = self.another();
                under_way.spawn_local(async move { client.attempt().await });
            }
            self.pause().await;
        }
        while under_way.join_next().await.is_some() {}
    }

    async fn pause(&mut self) {
        let pause = self.random.time_up_to(THINK);
        let _ = timeout(pause, self.stopped.changed()).await;
    }

    /// One more like this one, with a connection of its own.
    fn another(&mut self) -> Self {
        Self {
            load: self.load.clone(),
            keeps: self.keeps,
            random: self.random.fork(),
            stopped: self.stopped.clone(),
            link: None,
            opened: 0.0,
            port: 0,
        }
    }

    fn now(&self) -> f64 {
        self.load.clock.elapsed().as_secs_f64()
    }

    /// One request of one client, to its end.
    async fn attempt(&mut self) {
        let begun = self.now();
        let unasked = match self.link.as_mut().map(Link::look) {
            None | Some(Idle::Open) => false,
            // Closed between two requests: that is what keeping means, and no attempt of ours.
            Some(Idle::Closed) => {
                self.link = None;
                false
            }
            Some(Idle::Unasked) => true,
        };
        let first = self.link.is_none();
        let (outcome, detail) = if unasked {
            self.link = None;
            (Outcome::Wrong, "an answer that nobody asked for".into())
        } else {
            match self.send().await {
                Sent::Done(outcome, detail) => (outcome, detail),
                Sent::Outdated => match self.send().await {
                    Sent::Done(Outcome::Right, _) => (Outcome::Retried, String::new()),
                    Sent::Done(outcome, detail) => (outcome, format!("{detail} (sent twice)")),
                    // A fresh connection is never outdated.
                    Sent::Outdated => (Outcome::Reset, String::new()),
                },
            }
        };
        let notable = Notable {
            opened: self.opened,
            begun,
            ended: self.now(),
            first,
            keeps: self.keeps,
            port: self.port,
            outcome,
            detail,
        };
        if !self.keeps || !matches!(outcome, Outcome::Right | Outcome::Retried) {
            self.link = None;
        }
        self.load.tallies.lock().note(notable);
    }

    /// Sends one request, over the kept connection if there is one. Each sending is a request of its
    /// own to the upstream: it is the proxy that must not repeat one.
    async fn send(&mut self) -> Sent {
        let request = self.request();
        let kept = self.link.take();
        let fresh = kept.is_none();
        if fresh {
            self.opened = self.now();
            self.load.tallies.lock().opened += 1;
        }
        let (target, port) = (self.load.target, &mut self.port);
        let exchange = async {
            let mut link = match kept {
                Some(link) => link,
                None => Link::connect(target).await?,
            };
            *port = link.port();
            let end = link.exchange(&request.text).await;
            io::Result::Ok((link, end))
        };
        let exchanged = timeout(LIMBO, exchange).await;
        if fresh {
            self.load.tallies.lock().known += 1;
        }
        let (link, end) = match exchanged {
            Err(_) => {
                let how = if fresh { "a new" } else { "a kept" };
                return Sent::Done(Outcome::Limbo, format!("on {how} connection"));
            }
            Ok(Err(error)) => return Sent::Done(Outcome::Refused, crate::error::describe(&error)),
            Ok(Ok(exchanged)) => exchanged,
        };
        match end {
            End::Silence if !fresh => Sent::Outdated,
            End::Silence => Sent::Done(Outcome::Reset, "before an answer".into()),
            End::Cut => Sent::Done(Outcome::Reset, "in the midst of an answer".into()),
            End::Answer(answer) => {
                let wrong = request.what_is_wrong_with(&answer);
                if !answer.closes {
                    self.link = Some(link);
                }
                match wrong {
                    None => Sent::Done(Outcome::Right, String::new()),
                    Some(detail) => Sent::Done(Outcome::Wrong, detail),
                }
            }
        }
    }

    fn request(&mut self) -> Request {
        let target = self.load.target;
        // Some say beforehand that they will not keep the connection; some just hang up.
        let close = if !self.keeps && self.random.once_in(2) {
            "connection: close\r\n"
        } else {
            ""
        };
        let Some(served) = &self.load.served else {
            let text = format!("GET / HTTP/1.1\r\nhost: {target}\r\n{close}\r\n");
            return Request {
                text: text.into(),
                answer: None,
            };
        };
        // Some are slow and some are large, so that faults meet them half way.
        let delay = if self.load.long_answers && self.random.once_in(50) {
            LONG_ANSWER
        } else if self.random.once_in(5) {
            Duration::from_millis(1 + self.random.below(20) as u64)
        } else {
            Duration::ZERO
        };
        let padding = if self.random.once_in(40) { 200_000 } else { 0 };
        let wish = Wish {
            number: served.number(),
            delay,
            padding,
        };
        let body = wish.text();
        let length = body.len();
        let text = format!(
            "POST /drill HTTP/1.1\r\nhost: {target}\r\ncontent-length: {length}\r\n{close}\r\n{body}"
        );
        Request {
            text: text.into(),
            answer: Some(wish.answer()),
        }
    }
}

impl Request {
    fn what_is_wrong_with(&self, answer: &Answer) -> Option<String> {
        let right = match &self.answer {
            Some(expected) => answer.status == 200 && answer.body == *expected,
            None => answer.status < 500,
        };
        let begin = || String::from_utf8_lossy(&answer.body[..answer.body.len().min(80)]);
        (!right).then(|| format!("status {}: {}", answer.status, begin().trim_end()))
    }
}

/// A client that asks an upstream of the drill's own, with nobody between. It shares core, thread and
/// pace with the others: where it waits too, it was not the cluster that made them wait.
async fn yardstick(load: Rc<Load>, mut random: Random) {
    let now = || load.clock.elapsed().as_secs_f64();
    // A number that nobody was given, and hence one that nobody counts.
    let wish = Wish {
        number: u64::MAX,
        delay: Duration::ZERO,
        padding: 0,
    };
    let (body, host) = (wish.text(), load.upstream);
    let length = body.len();
    let request =
        format!("POST /drill HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n{body}");
    let mut kept = None;
    let mut from = now();
    loop {
        let pause = random.time_up_to(THINK);
        sleep(pause).await;
        let exchange = async {
            let mut link = match kept.take() {
                Some(link) => link,
                None => Link::connect(host).await?,
            };
            let end = link.exchange(request.as_bytes()).await;
            io::Result::Ok((link, end))
        };
        if let Ok(Ok((link, End::Answer(_)))) = timeout(LIMBO, exchange).await {
            kept = Some(link);
        }
        let to = now();
        let waited = to - from - pause.as_secs_f64();
        load.tallies.lock().judge(from, to, waited);
        from = to;
    }
}

/// Waits until it is known how every attempt counts that ended before `at`.
pub(super) async fn judged(tallies: &Tallies, at: f64) {
    while tallies.lock().judged < at {
        sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until clients have had `more` right answers than when `ledger` was taken.
pub(super) async fn flows(tallies: &Tallies, ledger: Ledger, more: u64) {
    while tallies.ledger().right < ledger.right + more {
        sleep(Duration::from_millis(2)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::drill::origin::Origin;

    /// Runs clients against `target` until `enough`, and says how their attempts ended.
    fn clients(target: SocketAddr, keeps: bool, enough: impl Fn(&Ledger) -> bool) -> Tally {
        let tallies = Tallies::default();
        let origin = Origin::start().expect("an upstream");
        let load = Load {
            target: if target.port() == 0 {
                origin.address
            } else {
                target
            },
            upstream: origin.address,
            keep_alive: usize::from(keeps),
            per_connection: usize::from(!keeps),
            long_answers: false,
            served: Some(origin.served.clone()),
            tallies: tallies.clone(),
            clock: Instant::now(),
        };
        let traffic = Traffic::start(load, Random::new(1)).expect("clients");
        let begun = Instant::now();
        while !enough(&tallies.ledger()) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{tallies:?}");
            thread::park_timeout(Duration::from_millis(2));
        }
        drop(traffic);
        std::mem::take(&mut *tallies.lock())
    }

    /// A server that does `deed` with each connection, once a request has come.
    fn server(deed: impl Fn(&mut std::net::TcpStream, usize) + Send + 'static) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            for (i, stream) in listener.incoming().enumerate() {
                let mut stream = stream.expect("a connection");
                let mut request = [0; 1000];
                if matches!(stream.read(&mut request), Ok(1..)) {
                    deed(&mut stream, i);
                }
            }
        });
        address
    }

    const OURS: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn an_upstream_that_answers_rightly_leaves_nothing_to_note() {
        for keeps in [true, false] {
            let tally = clients(OURS, keeps, |ledger| ledger.attempts >= 100);
            assert_eq!(tally.ledger.right, tally.ledger.attempts, "{tally:?}");
        }
    }

    #[test]
    fn each_way_to_fail_is_told_from_the_others() {
        let closes = server(|_, _| {});
        assert!(clients(closes, true, |l| l.reset >= 3).ledger.right == 0);
        let cuts = server(|stream, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1 0 0\n");
        });
        assert!(clients(cuts, false, |l| l.reset >= 3).ledger.right == 0);
        let lies = server(|stream, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n1 0 0\n");
        });
        let tally = clients(lies, false, |l| l.wrong >= 3);
        // By chance the very number that is right may have been among them.
        assert!(tally.ledger.right <= 1 && tally.ledger.wrong >= 3);
        let nobody = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("bound")
        };
        let tally = clients(nobody, true, |l| l.refused >= 3);
        assert_eq!(tally.ledger.refused, tally.ledger.attempts);
        assert_eq!(tally.notables[0].outcome, Outcome::Refused);
    }

    #[test]
    fn a_server_that_says_nothing_leaves_a_client_in_limbo() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let tally = clients(address, false, |l| l.limbo >= 1);
        // Should the machine have stood still, it may be to blame for some.
        let in_vain = tally.ledger.limbo + tally.ledger.void;
        assert_eq!(tally.ledger.attempts, in_vain);
        assert!(tally.notables[0].first && tally.notables[0].ended >= LIMBO.as_secs_f64());
    }

    #[test]
    fn clients_that_wait_together_with_the_yardstick_blame_nobody() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let nobody = listener.local_addr().expect("bound");
        let tallies = Tallies::default();
        let load = Load {
            target: nobody,
            upstream: nobody,
            keep_alive: 1,
            per_connection: 0,
            long_answers: false,
            served: None,
            tallies: tallies.clone(),
            clock: Instant::now(),
        };
        let traffic = Traffic::start(load, Random::new(1)).expect("clients");
        let begun = Instant::now();
        while tallies.ledger().attempts == 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{tallies:?}");
            thread::park_timeout(Duration::from_millis(2));
        }
        drop(traffic);
        let ledger = tallies.ledger();
        assert_eq!((ledger.void, ledger.limbo), (ledger.attempts, 0));
        assert_eq!(tallies.lock().notables[0].outcome, Outcome::Void);
    }

    #[test]
    fn only_what_met_a_standstill_of_the_machine_is_void() {
        let attempt = |begun, ended, outcome| Notable {
            opened: begun,
            begun,
            ended,
            first: true,
            keeps: false,
            port: 1,
            outcome,
            detail: String::new(),
        };
        let (right, limbo, reset) = (Outcome::Right, Outcome::Limbo, Outcome::Reset);
        for (begun, ended, outcome, waited, expected) in [
            (1.0, 3.0, limbo, 0.6, Outcome::Void),
            (4.2, 6.2, limbo, 0.6, Outcome::Void),
            (1.0, 3.0, limbo, 0.4, limbo),
            (0.0, 2.4, limbo, 0.6, limbo),
            (2.6, 2.9, right, 0.6, Outcome::Void),
            (2.6, 2.7, right, 0.6, right),
            (1.0, 3.0, reset, 0.6, reset),
        ] {
            let mut tally = Tally::default();
            tally.judge(0.0, 2.5, 0.0);
            tally.judge(2.5, 4.3, waited);
            tally.note(attempt(begun, ended, outcome));
            tally.judge(4.3, 6.3, 0.1);
            let mut ledger = Ledger::default();
            ledger.count(expected);
            assert_eq!(tally.ledger, ledger, "{begun} {ended} {outcome:?} {waited}");
        }
        // What is not known yet counts as nothing yet.
        let mut tally = Tally::default();
        tally.note(attempt(0.0, 2.0, limbo));
        assert_eq!(tally.ledger.attempts, 0);
        tally.judge(0.0, 2.1, 0.0);
        assert_eq!(tally.ledger.limbo, 1);
    }

    #[test]
    fn a_kept_connection_that_closes_under_a_request_is_tried_anew_once() {
        let origin = Origin::start().expect("an upstream");
        let upstream = origin.address;
        // Passes one request on for each connection, reads the next one and hangs up.
        let proxy = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = proxy.local_addr().expect("bound");
        thread::spawn(move || {
            for client in proxy.incoming() {
                let mut client = client.expect("a connection");
                let mut server = std::net::TcpStream::connect(upstream).expect("the upstream");
                let (mut from, mut to) = (
                    client.try_clone().expect("a socket"),
                    server.try_clone().expect("a socket"),
                );
                thread::spawn(move || std::io::copy(&mut server, &mut client));
                let mut request = [0; 1000];
                let n = from.read(&mut request).expect("a request");
                to.write_all(&request[..n]).expect("the upstream");
                let _ = from.read(&mut request);
                let _ = from.shutdown(std::net::Shutdown::Both);
                let _ = to.shutdown(std::net::Shutdown::Both);
            }
        });
        let tallies = Tallies::default();
        let load = Load {
            target: address,
            upstream,
            keep_alive: 1,
            per_connection: 0,
            long_answers: false,
            served: Some(origin.served.clone()),
            tallies: tallies.clone(),
            clock: Instant::now(),
        };
        let traffic = Traffic::start(load, Random::new(1)).expect("clients");
        let begun = Instant::now();
        while tallies.ledger().retried < 5 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{tallies:?}");
            thread::park_timeout(Duration::from_millis(2));
        }
        drop(traffic);
        let ledger = tallies.ledger();
        assert_eq!(
            (ledger.failed(), origin.served.twice()),
            (0, 0),
            "{ledger:?}"
        );
    }
}
