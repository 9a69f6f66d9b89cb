//! Large, slow and broken bodies; time-outs.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::Duration,
};

use crate::harness::{
    Answer, Client, Demo, Pointsman, until,
    upstream::{Upstream, chunked, pattern, rest_of},
};

/// Large enough to fill every buffer on the way many times.
const LARGE: usize = 10 << 20;
/// Much more than memory may grow by.
const HUGE: usize = 200 << 20;
/// What memory may grow by: the buffers of one connection, and whatever the allocator keeps.
const FEW: usize = 8 << 20;

const PLAIN: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

/// Both ways in which a body can say where it ends.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunked,
}

const FRAMINGS: [Framing; 2] = [Framing::Length, Framing::Chunked];

impl Framing {
    /// A whole request.
    fn request(self, line: &str, body: &[u8]) -> Vec<u8> {
        let mut request = format!("{line} HTTP/1.1\r\nhost: test\r\n").into_bytes();
        match self {
            Self::Length => {
                request.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
                request.extend_from_slice(body);
            }
            Self::Chunked => {
                request.extend(b"transfer-encoding: chunked\r\n\r\n");
                // A size that divides neither the body nor any buffer.
                request.extend(chunked(body, 60_007));
            }
        }
        request
    }
}

/// FNV-1a, 64 bits: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Sends all of `bytes` from a thread of its own while `then` runs.
fn sending<T>(stream: &TcpStream, bytes: &[u8], then: impl FnOnce() -> T) -> T {
    let mut stream = stream.try_clone().expect("a socket");
    thread::scope(|scope| {
        // An error is the proxy's hanging up, which `then` sees too.
        scope.spawn(move || _ = stream.write_all(bytes));
        then()
    })
}

/// Resident memory of a process, bytes.
#[track_caller]
fn resident(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("a size").parse::<usize>().expect("a number") << 10
}

/// Where a counter has come to when it no longer moves.
#[track_caller]
fn stalled(what: &str, counter: &AtomicUsize) -> usize {
    let (mut last, mut looks) = (0, 0);
    until(what, || {
        let now = counter.load(Relaxed);
        looks = if now == last && now > 0 { looks + 1 } else { 0 };
        last = now;
        (looks == 100).then_some(now)
    })
}

#[test]
fn a_large_request_arrives_whole() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1"]);
    let body = pattern(LARGE);
    let expected = format!(
        "{{\"bytes\":{LARGE},\"fnv1a64\":\"{:016x}\"}}\n",
        fnv1a64(&body)
    );
    let mut client = Client::connect(proxy.address());
    for framing in FRAMINGS {
        client
            .send(framing.request("POST /hash", &body))
            .expect("an open connection");
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!(answer.text(), expected, "{framing:?}");
    }
}

#[test]
fn a_large_answer_arrives_whole() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1"]);
    let body = pattern(LARGE);
    let mut client = Client::connect(proxy.address());
    let answer = client.get(&format!("/bytes?n={LARGE}")).expect("an answer");
    assert_eq!(
        answer.field("content-length"),
        Some(LARGE.to_string().as_str())
    );
    assert!(answer.body == body);
    let answer = client
        .get(&format!("/bytes?n={LARGE}&chunked=1"))
        .expect("an answer");
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
    assert!(answer.body == body);
    assert_eq!(
        proxy.metric("pointsman_upstream_connections_total", &[]),
        1.0
    );
}

#[test]
fn a_large_body_flows_both_ways_at_once() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1"]);
    let body = pattern(LARGE);
    for framing in FRAMINGS {
        let mut client = Client::connect(proxy.address());
        let socket = client.socket().try_clone().expect("a socket");
        let request = framing.request("POST /echo", &body);
        let answer = sending(&socket, &request, || client.read_answer(false)).expect("an answer");
        assert_eq!(answer.status, 200);
        assert!(
            answer.body == body,
            "{framing:?}: {} bytes",
            answer.body.len()
        );
    }
}

#[test]
fn an_answer_may_begin_before_its_request_has_ended() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client
        .send("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
        .expect("an open connection");
    let mut wire = upstream.accept();
    wire.head();
    wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    assert!(client.read_head().expect("a head").contains(" 200 "));
    // From now on word by word, each only after the other side has answered the last.
    for i in 0..10 {
        client
            .send(format!("5\r\nping{i}\r\n"))
            .expect("an open connection");
        assert_eq!(wire.read_exact(10), format!("5\r\nping{i}\r\n").as_bytes());
        wire.send(format!("5\r\npong{i}\r\n"));
        let pong = client.read_exact(10).expect("an echo");
        assert_eq!(pong, format!("5\r\npong{i}\r\n").as_bytes());
    }
    client.send("0\r\n\r\n").expect("an open connection");
    assert_eq!(wire.read_exact(5), b"0\r\n\r\n");
    wire.send("0\r\n\r\n");
    assert_eq!(client.read_exact(5).expect("the end"), b"0\r\n\r\n");
}

/// What a client gets that uploads more than fits into all buffers on the way to an upstream that
/// refuses it unread; which then hangs up, if it is `rude`, or leaves that to the proxy. The client
/// reads while it writes, if it is `attentive`, or else afterwards.
#[track_caller]
fn refused_upload(request: &[u8], attentive: bool, rude: bool) -> Answer {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    let socket = client.socket().try_clone().expect("a socket");
    let (answer, wire) = thread::scope(|scope| {
        let refusing = scope.spawn(|| {
            let mut wire = upstream.accept();
            wire.head();
            wire.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 8\r\n\r\ntoo much");
            // Kept, unread, until the answer is there.
            (!rude).then_some(wire)
        });
        let answer = if attentive {
            sending(&socket, request, || client.read_answer(false))
        } else {
            let _ = client.send(request);
            client.read_answer(false)
        };
        (answer, refusing.join().expect("a refusal"))
    });
    if let Some(mut wire) = wire {
        assert!(
            wire.rest().len() < request.len(),
            "it was sent all the same"
        );
    }
    // What was left unsaid must not stand before the next request.
    let mut next = Client::connect(proxy.address());
    next.send(PLAIN).expect("an open connection");
    let mut wire = upstream.accept();
    assert_eq!(wire.request().line, "GET / HTTP/1.1");
    wire.answer("next");
    assert_eq!(next.read_answer(false).expect("an answer").text(), "next");
    answer.expect("the refusal")
}

#[test]
fn an_upload_that_is_refused_halfway_gets_the_refusal() {
    for framing in FRAMINGS {
        let request = framing.request("POST /", &pattern(4 * LARGE));
        for attentive in [true, false] {
            let answer = refused_upload(&request, attentive, false);
            assert_eq!((answer.status, answer.text().as_str()), (413, "too much"));
        }
    }
}

#[test]
fn an_upload_that_is_refused_by_hanging_up_gets_the_refusal() {
    let request = Framing::Length.request("POST /", &pattern(4 * LARGE));
    // Over and over: whether the answer or the broken connection is seen first is up to chance.
    for round in 0..20 {
        let answer = refused_upload(&request, round % 2 == 0, true);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (413, "too much"),
            "round {round}"
        );
    }
}

#[test]
fn a_client_that_stops_reading_holds_the_upstream_back() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let pid = proxy.worker_pids()[0];
    let block = pattern(251 << 10);
    let blocks = HUGE / block.len();
    let sent = AtomicUsize::new(0);
    thread::scope(|scope| {
        // Owned here, so that a failure closes it and nobody waits for anybody.
        let mut client = Client::connect(proxy.address());
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        let before = resident(pid);
        scope.spawn({
            let (block, sent) = (&block, &sent);
            move || {
                wire.request();
                let length = blocks * block.len();
                wire.send(format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"
                ));
                for _ in 0..blocks {
                    wire.send(block);
                    sent.fetch_add(block.len(), Relaxed);
                }
            }
        });
        client.read_head().expect("a head");
        let sent = stalled("the upstream can send no more", &sent);
        // What fits into four sockets' buffers is on its way.
        assert!(sent < HUGE / 4, "{sent} bytes went nowhere");
        let grown = resident(pid).saturating_sub(before);
        assert!(grown < FEW, "{grown} bytes more for {sent}");
        for n in 0..blocks {
            let got = client.read_exact(block.len()).expect("the rest");
            assert!(got == block, "block {n}");
        }
        let grown = resident(pid).saturating_sub(before);
        assert!(grown < FEW, "{grown} bytes more");
    });
}

#[test]
fn an_upstream_that_stops_reading_holds_the_client_back() {
    for framing in FRAMINGS {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let pid = proxy.worker_pids()[0];
        let block = pattern(251 << 10);
        let blocks = HUGE / block.len();
        let length = blocks * block.len();
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            let mut client = Client::connect(proxy.address());
            let mut socket = client.socket().try_clone().expect("a socket");
            let before = resident(pid);
            scope.spawn({
                let (block, sent) = (&block, &sent);
                move || -> std::io::Result<()> {
                    let (field, before, after) = match framing {
                        Framing::Length => (format!("content-length: {length}"), String::new(), ""),
                        Framing::Chunked => (
                            "transfer-encoding: chunked".into(),
                            format!("{:x}\r\n", block.len()),
                            "\r\n",
                        ),
                    };
                    write!(socket, "POST / HTTP/1.1\r\nhost: test\r\n{field}\r\n\r\n")?;
                    for _ in 0..blocks {
                        socket.write_all(before.as_bytes())?;
                        socket.write_all(block)?;
                        socket.write_all(after.as_bytes())?;
                        sent.fetch_add(block.len(), Relaxed);
                    }
                    if !after.is_empty() {
                        socket.write_all(b"0\r\n\r\n")?;
                    }
                    Ok(())
                }
            });
            let mut wire = upstream.accept();
            wire.head();
            let sent = stalled("the client can send no more", &sent);
            assert!(sent < HUGE / 4, "{sent} bytes went nowhere");
            let grown = resident(pid).saturating_sub(before);
            assert!(grown < FEW, "{framing:?}: {grown} bytes more for {sent}");
            match framing {
                Framing::Length => {
                    for n in 0..blocks {
                        assert!(wire.read_exact(block.len()) == block, "block {n}");
                    }
                }
                Framing::Chunked => {
                    let body = wire.chunked();
                    assert_eq!(body.len(), length);
                    assert!(body.chunks(block.len()).all(|got| got == block));
                }
            }
            let grown = resident(pid).saturating_sub(before);
            assert!(grown < FEW, "{framing:?}: {grown} bytes more");
            wire.answer("at last");
            assert_eq!(
                client.read_answer(false).expect("an answer").text(),
                "at last"
            );
        });
    }
}

/// A third of a second, told by a client that is closed for being idle.
const TICK: [&str; 2] = ["--idle-timeout", "0.3"];

#[track_caller]
fn tick(proxy: &Pointsman) {
    assert_eq!(Client::connect(proxy.address()).rest(), b"");
}

#[test]
fn an_upload_may_take_longer_than_the_upstream_may_to_answer() {
    // The upstream's time begins when it has all of the request.
    let upstream = Upstream::start();
    let limits = ["--first-byte-timeout", "1", "--head-timeout", "1"];
    let proxy = upstream.proxied(&[&TICK, &limits[..]].concat());
    let mut client = Client::connect(proxy.address());
    client
        .send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\n")
        .expect("an open connection");
    let mut wire = upstream.accept();
    wire.head();
    for _ in 0..5 {
        tick(&proxy);
        client.send("x").expect("an open connection");
        assert_eq!(wire.read_exact(1), b"x");
    }
    wire.answer("patient");
    assert_eq!(
        client.read_answer(false).expect("an answer").text(),
        "patient"
    );
}

#[test]
fn an_upstream_that_stops_within_its_answer_is_given_up() {
    for (framing, end) in [
        ("content-length: 100", "hello"),
        ("transfer-encoding: chunked", "hello\r\n"),
    ] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&["--body-idle-timeout", "0.3"]);
        let mut client = Client::connect(proxy.address());
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        let size = if end == "hello" { "" } else { "5\r\n" };
        wire.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{size}{end}"));
        assert!(client.read_head().expect("a head").contains(" 200 "));
        let body = String::from_utf8(client.rest()).expect("text");
        assert!(body.ends_with(end), "{body:?}");
        assert_eq!(wire.rest(), b"");
        assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 1.0);
    }
}

#[test]
fn an_answer_may_take_long_as_long_as_it_goes_on() {
    let upstream = Upstream::start();
    let limits = ["--body-idle-timeout", "1", "--first-byte-timeout", "1"];
    let proxy = upstream.proxied(&[&TICK, &limits[..]].concat());
    let mut client = Client::connect(proxy.address());
    client.send(PLAIN).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    client.read_head().expect("a head");
    for _ in 0..5 {
        tick(&proxy);
        wire.send("x");
        assert_eq!(client.read_exact(1).expect("a byte"), b"x");
    }
}

#[test]
fn a_client_may_pause_longer_than_the_upstream_may() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[&TICK, &["--body-idle-timeout", "0.6"][..]].concat());
    let body = pattern(LARGE * 4);
    thread::scope(|scope| {
        let mut client = Client::connect(proxy.address());
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        scope.spawn({
            let body = &body;
            move || {
                wire.request();
                wire.send(format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                ));
                // Refused, if the proxy has lost its patience; the other end says so.
                let _ = wire.try_send(body);
            }
        });
        client.read_head().expect("a head");
        for half in body.chunks(body.len() / 2) {
            (0..3).for_each(|_| tick(&proxy));
            assert!(client.read_exact(half.len()).expect("the rest") == half);
        }
    });
}

#[test]
fn a_client_that_goes_away_takes_its_upstream_connection_along() {
    // While it waits, while it is answered, while it uploads.
    for (request, response) in [
        (PLAIN, ""),
        (PLAIN, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello"),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello",
            "",
        ),
    ] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client.send(request).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.send(response);
        if !response.is_empty() {
            client.read_head().expect("a head");
        }
        drop(client);
        assert_eq!(wire.rest(), b"", "{request:?} {response:?}");
        let open = || proxy.metric("pointsman_connections_open", &[]);
        until("the connection is counted as closed", || {
            (open() == 0.0).then_some(())
        });
        let open = || proxy.metric("pointsman_upstream_connections_open", &[]);
        until("the upstream's too", || (open() == 0.0).then_some(()));
        assert_eq!(proxy.metric("pointsman_requests_in_flight", &[]), 0.0);
        // It was not the upstream's fault.
        assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 0.0);
    }
}

#[test]
fn an_upload_that_breaks_off_is_not_ended_in_order() {
    for (head, body, arrived) in [
        ("content-length: 100", "hello", "hello"),
        (
            "transfer-encoding: chunked",
            "5\r\nhello\r\n",
            "5\r\nhello\r\n",
        ),
    ] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client
            .send(format!(
                "POST / HTTP/1.1\r\nhost: test\r\n{head}\r\n\r\n{body}"
            ))
            .expect("an open connection");
        let mut wire = upstream.accept();
        wire.head();
        assert_eq!(wire.read_exact(arrived.len()), arrived.as_bytes());
        drop(client);
        assert_eq!(wire.rest(), b"", "{head}");
        assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 0.0);
    }
}

#[test]
fn an_upload_that_is_no_longer_http_is_the_clients_fault() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client
        .send("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .expect("an open connection");
    let mut wire = upstream.accept();
    wire.head();
    assert_eq!(wire.read_exact(10), b"5\r\nhello\r\n");
    client.send("not a size\r\n").expect("an open connection");
    assert_eq!(client.read_answer(false).expect("an answer").status, 400);
    assert_eq!(client.rest(), b"");
    assert_eq!(wire.rest(), b"");
    assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 0.0);
}

#[test]
fn a_client_that_says_nothing_is_closed_in_silence() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1", "--idle-timeout", "0.5"]);
    // From the start, and between requests.
    for requests in [0, 3] {
        let mut client = Client::connect(proxy.address());
        for _ in 0..requests {
            assert_eq!(client.get("/").expect("an answer").status, 200);
        }
        assert_eq!(client.rest(), b"");
    }
    assert_eq!(
        proxy.metric("pointsman_connections_timed_out_total", &[]),
        2.0
    );
    assert_eq!(proxy.metric("pointsman_requests_total", &[]), 3.0);
}

#[test]
fn a_client_that_waits_for_its_answer_is_not_idle() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--idle-timeout", "0.2", "--head-timeout", "0.2"]);
    let mut client = Client::connect(proxy.address());
    client.send(PLAIN).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    // Others are closed for being idle meanwhile.
    for _ in 0..3 {
        assert_eq!(Client::connect(proxy.address()).rest(), b"");
    }
    wire.answer("at last");
    assert_eq!(
        client.read_answer(false).expect("an answer").text(),
        "at last"
    );
}

#[test]
fn a_head_that_comes_byte_by_byte_is_not_waited_for() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1", "--head-timeout", "0.5"]);
    // As the first request, and after another.
    for requests in [0, 1] {
        let mut client = Client::connect(proxy.address());
        for _ in 0..requests {
            assert_eq!(client.get("/").expect("an answer").status, 200);
        }
        client
            .send("GET / HTTP/1.1\r\nhost: test\r\nx-slow: ")
            .expect("an open connection");
        let mut socket = client.socket();
        let patience = Duration::from_millis(20);
        socket.set_read_timeout(Some(patience)).expect("a socket");
        // It is kept busy all the time, so that only a limit on the whole can end this.
        until("the proxy hangs up", || {
            let _ = socket.write_all(b"x");
            match socket.read(&mut [0; 1024]) {
                Ok(0) => Some(()),
                Ok(n) => panic!("{n} bytes in answer to half a head"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(_) => Some(()),
            }
        });
    }
    assert_eq!(
        proxy.metric("pointsman_connections_timed_out_total", &[]),
        2.0
    );
    // Half a head is no request.
    assert_eq!(proxy.metric("pointsman_requests_total", &[]), 1.0);
}

#[test]
fn every_byte_from_and_to_clients_is_counted() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "2"]);
    let body = pattern(LARGE);
    let (mut sent, mut got) = (0, 0);
    for request in [
        b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".to_vec(),
        b"HEAD /bytes?n=1000 HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".to_vec(),
        b"GET /bytes?n=3000000&chunked=1 HTTP/1.0\r\nhost: test\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nx: no host\r\n\r\n".to_vec(),
        b"this is not HTTP\r\n\r\n".to_vec(),
        Framing::Length.request("POST /echo", &body),
        Framing::Chunked.request("POST /echo", &body),
    ] {
        let last = "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        let closing = !request.starts_with(b"POST");
        let client = Client::connect(proxy.address());
        let socket = client.socket();
        let all = [&request, if closing { "" } else { last }.as_bytes()].concat();
        let answer = sending(socket, &all, || rest_of(socket));
        assert!(answer.starts_with(b"HTTP/1."));
        sent += all.len();
        got += answer.len();
    }
    let counted = |direction| {
        let label = format!("direction=\"{direction}\"");
        proxy.metric("pointsman_bytes_total", &[&label])
    };
    assert_eq!(counted("in"), sent as f64);
    assert_eq!(counted("out"), got as f64);
}

#[test]
fn a_client_that_stalls_within_its_request_is_told_and_closed() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--stall-timeout", "0.3"]);
    let mut client = Client::connect(proxy.address());
    client
        .send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhal")
        .expect("an open connection");
    let mut wire = upstream.accept();
    wire.head();
    assert_eq!(wire.read_exact(3), b"hal");
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!(answer.status, 408);
    assert_eq!(client.rest(), b"");
    assert_eq!(
        wire.rest(),
        b"",
        "nothing is made up for the upstream either"
    );
    assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 0.0);
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_closed() {
    let demo = Demo::start("one");
    let flags = ["--workers", "1", "--stall-timeout", "0.3"];
    let proxy = Pointsman::start(&[&demo.url()], &flags);
    let mut client = Client::connect(proxy.address());
    client
        .send("GET /bytes?n=300000000 HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect("an open connection");
    client.read_head().expect("the answer has begun");
    until("the proxy gives it up", || {
        let gone = proxy.metric("pointsman_connections_open", &[]) == 0.0;
        gone.then_some(())
    });
    assert_eq!(
        proxy.metric("pointsman_connections_timed_out_total", &[]),
        1.0
    );
    assert_eq!(proxy.metric("pointsman_requests_in_flight", &[]), 0.0);
    drop(client);
}

#[test]
fn what_came_of_an_answer_that_breaks_off_reaches_the_client() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client
        .send("GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal");
    drop(wire);
    let head = client.read_head().expect("a head");
    assert!(head.contains("content-length: 10"), "{head}");
    assert_eq!(client.rest(), b"hal");
}
