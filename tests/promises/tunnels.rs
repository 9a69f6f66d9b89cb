//! WebSocket and other upgrades.

use std::{io::Write, net::TcpStream, thread};

use nix::sys::signal::Signal::SIGTERM;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::harness::{
    Client, Demo, Pointsman, until,
    upstream::{Upstream, Wire, pattern, rest_of},
};

const PLAIN: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nhost: test\r\nconnection: keep-alive, Upgrade\r\nupgrade: foo\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n";

/// A client's WebSocket through the proxy.
#[track_caller]
fn websocket(proxy: &Pointsman) -> WebSocket<TcpStream> {
    let stream = Client::connect(proxy.address())
        .socket()
        .try_clone()
        .expect("a socket");
    let (socket, response) = tungstenite::client("ws://test/ws", stream).expect("a handshake");
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["x-upstream"], "one");
    socket
}

/// A tunnel for the protocol foo, from a client to the upstream's end.
#[track_caller]
fn tunnel(upstream: &Upstream, proxy: &Pointsman) -> (Client, Wire) {
    let mut client = Client::connect(proxy.address());
    client.send(UPGRADE).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.send(SWITCHED);
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!(answer.status, 101);
    (client, wire)
}

/// Bytes pass both ways.
#[track_caller]
fn passes(client: &mut Client, wire: &mut Wire) {
    client.send("ping").expect("an open tunnel");
    assert_eq!(wire.read_exact(4), b"ping");
    wire.send("pong");
    assert_eq!(client.read_exact(4).expect("an open tunnel"), b"pong");
}

/// Waits until neither a client's nor an upstream's connection is open.
#[track_caller]
fn nothing_is_open(proxy: &Pointsman) {
    for name in [
        "pointsman_connections_open",
        "pointsman_upstream_connections_open",
    ] {
        until(name, || (proxy.metric(name, &[]) == 0.0).then_some(()));
    }
}

#[test]
fn a_websocket_echoes_through_the_proxy() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1"]);
    let mut socket = websocket(&proxy);
    let long: String = "0123456789abcdef".repeat(1 << 16);
    for message in [
        Message::text("hello"),
        Message::text(""),
        Message::text(long),
        Message::binary(pattern(1 << 20)),
        Message::text("still here"),
    ] {
        socket.send(message.clone()).expect("an open WebSocket");
        let echo = socket.read().expect("an open WebSocket");
        assert!(
            echo == message,
            "{} bytes for {}",
            echo.len(),
            message.len()
        );
    }
    socket.close(None).expect("an open WebSocket");
    // The echo of the close, and then the end.
    assert!(socket.read().expect("a close").is_close());
    assert!(matches!(
        socket.read(),
        Err(tungstenite::Error::ConnectionClosed)
    ));
    drop(socket);
    nothing_is_open(&proxy);
    assert_eq!(
        proxy.metric("pointsman_requests_total", &["code=\"1xx\""]),
        1.0
    );
}

#[test]
fn many_websockets_are_told_apart() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "2"]);
    let mut sockets: Vec<_> = (0..20).map(|_| websocket(&proxy)).collect();
    for (i, socket) in sockets.iter_mut().enumerate() {
        socket
            .send(Message::text(i.to_string()))
            .expect("an open WebSocket");
    }
    for (i, socket) in sockets.iter_mut().enumerate() {
        let echo = socket.read().expect("an open WebSocket");
        assert_eq!(echo, Message::text(i.to_string()));
    }
    assert_eq!(proxy.metric("pointsman_connections_open", &[]), 20.0);
    drop(sockets);
    nothing_is_open(&proxy);
}

#[test]
fn any_protocol_may_be_switched_to() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(UPGRADE).expect("an open connection");
    let mut wire = upstream.accept();
    let request = wire.request();
    assert_eq!(request.line, "GET /chat HTTP/1.1");
    assert_eq!(request.field("upgrade"), Some("foo"));
    let connection = request.field("connection").map(str::to_lowercase);
    assert_eq!(connection.as_deref(), Some("upgrade"));
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    // The first words of the new protocol come together with the consent.
    wire.send(format!("{SWITCHED}welcome"));
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!(answer.status, 101);
    assert_eq!(answer.field("upgrade"), Some("foo"));
    assert_eq!(answer.field("connection"), Some("upgrade"));
    assert_eq!(client.read_exact(7).expect("an open tunnel"), b"welcome");
    passes(&mut client, &mut wire);
    // What looks like HTTP is none any more.
    client.send(PLAIN).expect("an open tunnel");
    assert_eq!(wire.read_exact(PLAIN.len()), PLAIN.as_bytes());
    wire.send("HTTP/1.1 500 No\r\n\r\n");
    assert_eq!(
        client.read_exact(19).expect("an open tunnel"),
        b"HTTP/1.1 500 No\r\n\r\n"
    );
}

#[test]
fn much_may_come_together_with_the_consent() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(UPGRADE).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    let welcome = pattern(1 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            wire.send([SWITCHED.as_bytes(), &welcome].concat());
            wire.end();
        });
        assert_eq!(client.read_answer(false).expect("an answer").status, 101);
        assert!(client.read_to_end().expect("an orderly end") == welcome);
    });
}

#[test]
fn what_the_client_sends_ahead_waits_for_the_consent() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client
        .send(format!("{UPGRADE}ahead"))
        .expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.send(SWITCHED);
    assert_eq!(client.read_answer(false).expect("an answer").status, 101);
    assert_eq!(wire.read_exact(5), b"ahead");
    passes(&mut client, &mut wire);
}

#[test]
fn a_tunnel_carries_much_both_ways_at_once() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let (client, mut wire) = tunnel(&upstream, &proxy);
    let much = pattern(10 << 20);
    thread::scope(|scope| {
        // Nobody waits for anybody: the upstream sends back what it gets, as it gets it.
        scope.spawn(|| {
            for piece in much.chunks(64 << 10) {
                assert!(wire.read_exact(piece.len()) == piece);
                wire.send(piece);
            }
            wire.end();
        });
        let mut socket = client.socket().try_clone().expect("a socket");
        let much = &much;
        scope.spawn(move || socket.write_all(much).expect("an open tunnel"));
        assert!(rest_of(client.socket()) == *much);
    });
}

#[test]
fn a_refused_upgrade_is_an_answer_like_any_other() {
    for status in [200, 400, 426, 503] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client.send(UPGRADE).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.send(format!(
            "HTTP/1.1 {status} Whatever\r\nconnection: upgrade\r\nupgrade: bar\r\ncontent-length: 2\r\n\r\nno"
        ));
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (status, "no"));
        assert_ne!(answer.field("connection"), Some("close"));
        // On both sides.
        client.send(PLAIN).expect("an open connection");
        assert_eq!(wire.request().field("upgrade"), None);
        wire.answer("fine");
        assert_eq!(client.read_answer(false).expect("an answer").text(), "fine");
    }
}

#[test]
fn an_upgrade_to_h2c_is_not_passed_on() {
    for protocol in ["h2c", "H2C", "websocket, h2c"] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client
            .send(format!(
                "GET / HTTP/1.1\r\nhost: test\r\nconnection: Upgrade, HTTP2-Settings\r\n\
                 upgrade: {protocol}\r\nhttp2-settings: AAMAAABk\r\n\r\n"
            ))
            .expect("an open connection");
        let mut wire = upstream.accept();
        let request = wire.request();
        assert_eq!(request.field("upgrade"), None);
        assert_eq!(request.field("http2-settings"), None);
        assert_eq!(request.field("connection"), None);
        wire.answer("fine");
        assert_eq!(client.read_answer(false).expect("an answer").text(), "fine");
        client.send(PLAIN).expect("an open connection");
        wire.request();
        wire.answer("again");
        assert_eq!(
            client.read_answer(false).expect("an answer").text(),
            "again"
        );
    }
}

#[test]
fn an_upgrade_that_the_connection_field_does_not_name_is_none() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client
        .send("GET / HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\n\r\n")
        .expect("an open connection");
    let mut wire = upstream.accept();
    assert_eq!(wire.request().field("upgrade"), None);
    wire.send(SWITCHED);
    assert_eq!(client.read_answer(false).expect("an answer").status, 502);
}

#[test]
fn an_upgrade_with_a_body_is_refused() {
    for body in [
        "content-length: 5\r\n\r\nhello",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client
            .send(format!(
                "POST / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: foo\r\n{body}"
            ))
            .expect("an open connection");
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!(answer.status, 400);
        assert_eq!(answer.field("connection"), Some("close"));
        assert_eq!(client.rest(), b"");
        assert!(upstream.try_accept().is_none());
    }
}

#[test]
fn an_open_tunnel_counts_as_an_open_connection() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[
        "--idle-timeout",
        "0.3",
        "--head-timeout",
        "0.3",
        "--body-idle-timeout",
        "0.3",
    ]);
    let (mut client, mut wire) = tunnel(&upstream, &proxy);
    // No request is under way, and yet none of the time-outs is for a tunnel: others run into them.
    for _ in 0..2 {
        assert_eq!(Client::connect(proxy.address()).rest(), b"");
    }
    until("only the tunnel is open", || {
        (proxy.metric("pointsman_connections_open", &[]) == 1.0).then_some(())
    });
    assert_eq!(
        proxy.metric("pointsman_upstream_connections_open", &[]),
        1.0
    );
    assert_eq!(proxy.metric("pointsman_requests_in_flight", &[]), 0.0);
    assert_eq!(proxy.each_worker("connections_open"), [1]);
    passes(&mut client, &mut wire);
    // It ends with the client,
    drop(client);
    assert_eq!(wire.rest(), b"");
    drop(wire);
    nothing_is_open(&proxy);
    // or with the upstream.
    let (mut client, wire) = tunnel(&upstream, &proxy);
    drop(wire);
    assert_eq!(client.rest(), b"");
    drop(client);
    nothing_is_open(&proxy);
}

#[test]
fn a_tunnel_that_is_reset_ends_on_both_sides() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let (mut client, wire) = tunnel(&upstream, &proxy);
    wire.reset();
    assert_eq!(client.rest(), b"");
    // The client still holds its end.
    nothing_is_open(&proxy);
    let (client, mut wire) = tunnel(&upstream, &proxy);
    socket2::SockRef::from(client.socket())
        .set_linger(Some(std::time::Duration::ZERO))
        .expect("a socket");
    drop(client);
    assert_eq!(wire.rest(), b"");
    nothing_is_open(&proxy);
}

#[test]
fn one_side_of_a_tunnel_may_go_on_when_the_other_has_ended() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let (mut client, mut wire) = tunnel(&upstream, &proxy);
    client.send("over").expect("an open tunnel");
    client
        .socket()
        .shutdown(std::net::Shutdown::Write)
        .expect("an open tunnel");
    assert_eq!(wire.rest(), b"over");
    wire.send("and out");
    assert_eq!(client.read_exact(7).expect("an open tunnel"), b"and out");
    drop(wire);
    assert_eq!(client.rest(), b"");
    nothing_is_open(&proxy);
}

#[test]
fn a_tunnels_upstream_connection_serves_nobody_else() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let (mut client, mut wire) = tunnel(&upstream, &proxy);
    let mut other = Client::connect(proxy.address());
    other.send(PLAIN).expect("an open connection");
    let mut fresh = upstream.accept();
    fresh.request();
    fresh.answer("fine");
    assert_eq!(other.read_answer(false).expect("an answer").text(), "fine");
    passes(&mut client, &mut wire);
    drop(client);
    assert_eq!(wire.rest(), b"");
}

#[test]
fn the_bytes_of_a_tunnel_are_counted() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let counted = |direction| {
        let label = format!("direction=\"{direction}\"");
        proxy.metric("pointsman_bytes_total", &[&label])
    };
    let mut client = Client::connect(proxy.address());
    client.send(UPGRADE).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.send(SWITCHED);
    let answer = client.read_answer(false).expect("an answer");
    for _ in 0..10 {
        passes(&mut client, &mut wire);
    }
    let received = UPGRADE.len() + 40;
    // The empty line is not in `head`.
    let sent = answer.head.len() + 2 + 40;
    assert_eq!(counted("in"), received as f64);
    // Bytes are counted when the kernel has taken them, and the client is as quick.
    until("the last word is counted", || {
        (counted("out") >= sent as f64).then_some(())
    });
    drop((client, wire));
    nothing_is_open(&proxy);
    assert_eq!(
        [counted("in"), counted("out")],
        [received as f64, sent as f64]
    );
}

#[test]
fn a_stop_cuts_a_tunnel_at_the_deadline_and_not_before() {
    let upstream = Upstream::start();
    let mut proxy = upstream.proxied(&["--drain-timeout", "3"]);
    let (mut client, mut wire) = tunnel(&upstream, &proxy);
    proxy.signal(SIGTERM);
    until("nobody listens any more", || {
        TcpStream::connect(proxy.address()).is_err().then_some(())
    });
    passes(&mut client, &mut wire);
    assert_eq!(client.rest(), b"");
    assert_eq!(wire.rest(), b"");
    assert!(proxy.wait().success(), "{}", proxy.log());
    assert!(proxy.log().contains("drain deadline"), "{}", proxy.log());
}

#[test]
fn a_stop_ends_when_the_last_tunnel_does() {
    let upstream = Upstream::start();
    let mut proxy = upstream.proxied(&["--drain-timeout", "60"]);
    let (mut client, mut wire) = tunnel(&upstream, &proxy);
    proxy.signal(SIGTERM);
    until("nobody listens any more", || {
        TcpStream::connect(proxy.address()).is_err().then_some(())
    });
    passes(&mut client, &mut wire);
    drop((client, wire));
    assert!(proxy.wait().success(), "{}", proxy.log());
    assert!(!proxy.log().contains("drain deadline"), "{}", proxy.log());
}

#[test]
fn an_upgrade_asked_for_by_http_1_0_is_ignored() {
    // RFC 9110, section 7.8.
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client
        .send(UPGRADE.replace("HTTP/1.1", "HTTP/1.0"))
        .expect("an open connection");
    let mut wire = upstream.accept();
    assert_eq!(wire.request().field("upgrade"), None);
    wire.answer("fine");
    assert_eq!(client.read_answer(false).expect("an answer").text(), "fine");
}

#[test]
fn an_upgrade_over_a_kept_connection_that_breaks_is_asked_for_again() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(PLAIN).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.answer("warm");
    assert_eq!(client.read_answer(false).expect("an answer").text(), "warm");
    client.send(UPGRADE).expect("an open connection");
    assert_eq!(wire.request().field("upgrade"), Some("foo"));
    drop(wire);
    let mut wire = upstream.accept();
    let request = wire.request();
    assert_eq!(request.field("upgrade"), Some("foo"));
    assert_eq!(
        request
            .field("connection")
            .map(str::to_lowercase)
            .as_deref(),
        Some("upgrade")
    );
    wire.send(SWITCHED);
    assert_eq!(client.read_answer(false).expect("an answer").status, 101);
    passes(&mut client, &mut wire);
}

#[test]
fn a_tunnel_may_begin_on_connections_that_have_served_before() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(PLAIN).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.answer("warm");
    assert_eq!(client.read_answer(false).expect("an answer").text(), "warm");
    client.send(UPGRADE).expect("an open connection");
    wire.request();
    wire.send(SWITCHED);
    assert_eq!(client.read_answer(false).expect("an answer").status, 101);
    passes(&mut client, &mut wire);
    drop((client, wire));
    nothing_is_open(&proxy);
}

#[test]
fn a_tunnel_that_carries_nothing_is_closed_in_time() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--tunnel-idle-timeout", "0.5"]);
    let (mut client, mut wire) = tunnel(&upstream, &proxy);
    passes(&mut client, &mut wire);
    assert_eq!(client.rest(), b"");
    assert_eq!(wire.rest(), b"");
    // Both ends are still held.
    nothing_is_open(&proxy);
}

#[test]
fn a_tunnel_stays_as_long_as_one_side_says_something() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--tunnel-idle-timeout", "1", "--idle-timeout", "0.3"]);
    let (mut client, mut wire) = tunnel(&upstream, &proxy);
    for turn in 0..6 {
        // A third of a second, told by a client that is closed for being idle.
        assert_eq!(Client::connect(proxy.address()).rest(), b"");
        if turn % 2 == 0 {
            client.send("x").expect("an open tunnel");
            assert_eq!(wire.read_exact(1), b"x");
        } else {
            wire.send("y");
            assert_eq!(client.read_exact(1).expect("an open tunnel"), b"y");
        }
    }
}

#[test]
fn an_end_of_a_tunnel_that_outlives_the_other_in_silence_is_closed_in_time() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--body-idle-timeout", "0.3"]);
    // The upstream is gone, and the client says nothing.
    let (client, wire) = tunnel(&upstream, &proxy);
    drop(wire);
    nothing_is_open(&proxy);
    drop(client);
    // The client is gone, and the upstream says nothing.
    let (client, wire) = tunnel(&upstream, &proxy);
    drop(client);
    nothing_is_open(&proxy);
    drop(wire);
}

#[test]
fn an_end_of_a_tunnel_that_was_quiet_for_long_still_has_time_to_answer() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--body-idle-timeout", "1", "--idle-timeout", "0.3"]);
    let (mut client, mut wire) = tunnel(&upstream, &proxy);
    for _ in 0..5 {
        assert_eq!(Client::connect(proxy.address()).rest(), b"");
    }
    client
        .socket()
        .shutdown(std::net::Shutdown::Write)
        .expect("an open tunnel");
    assert_eq!(wire.rest(), b"");
    wire.send("and out");
    assert_eq!(client.read_exact(7).expect("an open tunnel"), b"and out");
}
