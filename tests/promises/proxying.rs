//! What the upstream and the client get to see.

use std::net::Ipv4Addr;

use crate::harness::{
    Answer, Client, Demo, Pointsman, get, until,
    upstream::{Deaf, Refusing, Request, Upstream, Wire, chunked},
};

/// A request with nothing special about it.
const PLAIN: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

/// What the upstream gets when a client sends `request`.
#[track_caller]
fn received(request: impl AsRef<[u8]>) -> Request {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(request).expect("an open connection");
    let mut wire = upstream.accept();
    let request = wire.request();
    wire.answer("fine");
    assert_eq!(client.read_answer(false).expect("an answer").text(), "fine");
    request
}

/// What a client gets for `request`, which must not reach any upstream.
#[track_caller]
fn refused(request: &str) -> Answer {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(request).expect("an open connection");
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!(
        proxy.metric("pointsman_upstream_connections_total", &[]),
        0.0
    );
    assert!(upstream.try_accept().is_none());
    answer
}

/// What a client gets when the upstream answers a plain request with `response`, and then another
/// answer, to see that both connections are in order.
#[track_caller]
fn relayed(request: &str, response: impl AsRef<[u8]>) -> Answer {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(request).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.send(response);
    let answer = final_answer(&mut client, request.starts_with("HEAD"));
    serves_on(&mut client, &mut wire);
    answer
}

/// The first answer that is not merely informational.
#[track_caller]
fn final_answer(client: &mut Client, headless: bool) -> Answer {
    for _ in 0..10 {
        let answer = client.read_answer(headless).expect("an answer");
        if answer.status >= 200 || answer.status == 101 {
            return answer;
        }
    }
    panic!("ten informational answers");
}

/// Both the client's and the upstream's connection serve one more request.
#[track_caller]
fn serves_on(client: &mut Client, wire: &mut Wire) {
    client.send(PLAIN).expect("an open connection");
    wire.request();
    wire.answer("once more");
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "once more"));
}

#[test]
fn many_requests_share_one_connection_on_either_side() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1"]);
    let mut client = Client::connect(proxy.address());
    for i in 0..100 {
        let body = client
            .get(&format!("/status?code=200&body={i}"))
            .expect("an answer");
        assert_eq!(body.text(), i.to_string());
    }
    assert_eq!(proxy.metric("pointsman_connections_total", &[]), 1.0);
    assert_eq!(proxy.metric("pointsman_connections_open", &[]), 1.0);
    assert_eq!(
        proxy.metric("pointsman_upstream_connections_total", &[]),
        1.0
    );
    assert_eq!(
        proxy.metric("pointsman_upstream_connection_reuse_ratio", &[]),
        0.99
    );
    assert_eq!(
        proxy.metric("pointsman_requests_total", &["code=\"2xx\""]),
        100.0
    );
}

#[test]
fn one_clients_upstream_connection_serves_the_next_client() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1"]);
    for _ in 0..10 {
        assert_eq!(get(proxy.address(), "/").status, 200);
    }
    assert_eq!(proxy.metric("pointsman_connections_total", &[]), 10.0);
    assert_eq!(
        proxy.metric("pointsman_upstream_connections_total", &[]),
        1.0
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1"]);
    let mut client = Client::connect(proxy.address());
    // The earlier, the slower: in order only if somebody sees to it.
    let requests: String = (0..10)
        .map(|i| {
            format!(
                "GET /slow?ms={}&i={i} HTTP/1.1\r\nhost: test\r\n\r\n",
                20 - 2 * i
            )
        })
        .collect();
    client.send(requests).expect("an open connection");
    for i in 0..10 {
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!(answer.text(), format!("one took {} ms\n", 20 - 2 * i));
    }
}

#[test]
fn a_client_that_speaks_http_1_0_gets_one_answer_per_connection() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client
        .send("GET /old HTTP/1.0\r\nhost: test\r\n\r\n")
        .expect("open");
    let mut wire = upstream.accept();
    assert_eq!(wire.request().line, "GET /old HTTP/1.1");
    wire.answer("fine");
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
    assert_eq!(client.rest(), b"");
    // That the client's connection ends is no reason to end the upstream's.
    serves_on(&mut Client::connect(proxy.address()), &mut wire);
}

#[test]
fn a_client_that_speaks_http_1_0_and_asks_for_it_keeps_its_connection() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "1"]);
    let mut client = Client::connect(proxy.address());
    for _ in 0..5 {
        client
            .send("GET / HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n")
            .expect("an open connection");
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!(answer.text(), "hello from one\n");
        assert_eq!(answer.field("connection"), Some("keep-alive"));
    }
    assert_eq!(proxy.metric("pointsman_connections_total", &[]), 1.0);
}

#[test]
fn a_client_that_speaks_http_1_0_never_sees_chunks() {
    for connection in ["", "connection: keep-alive\r\n"] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client
            .send(format!("GET / HTTP/1.0\r\nhost: test\r\n{connection}\r\n"))
            .expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        wire.send(chunked(b"the end is where it closes", 5));
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!(answer.field("transfer-encoding"), None);
        assert_eq!(answer.text(), "the end is where it closes");
    }
}

#[test]
fn a_request_without_a_host_from_a_client_that_speaks_http_1_0_has_one_upstream() {
    // RFC 9112, section 3.2: every HTTP/1.1 request has one, be it empty.
    let request = received("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(request.line, "GET / HTTP/1.1");
    assert!(request.field("host").is_some(), "{request:?}");
}

#[test]
fn fields_of_the_clients_connection_end_at_the_proxy() {
    let request = received(
        "GET / HTTP/1.1\r\nhost: test\r\nconnection: keep-alive, X-Named\r\nconnection: x-other\r\n\
         keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nproxy-authorization: secret\r\n\
         te: trailers\r\ntrailer: x-sum\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\
         x-named: 1\r\nx-other: 1\r\nx-kept: 1\r\n\r\n",
    );
    let names: Vec<_> = request
        .fields
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for gone in [
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "x-named",
        "x-other",
    ] {
        assert!(!names.contains(&gone), "{gone} is among {names:?}");
    }
    assert_eq!(request.field("x-kept"), Some("1"));
    assert_ne!(request.field("connection"), Some("close"));
}

#[test]
fn fields_of_the_upstreams_connection_end_at_the_proxy() {
    let answer = relayed(
        PLAIN,
        "HTTP/1.1 200 OK\r\nconnection: keep-alive, X-Named\r\nkeep-alive: timeout=5\r\n\
         proxy-authenticate: basic\r\nproxy-connection: keep-alive\r\ntrailer: x-sum\r\n\
         upgrade: h2c\r\nx-named: 1\r\nx-kept: 1\r\ncontent-length: 2\r\n\r\nok",
    );
    for gone in [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "trailer",
        "upgrade",
        "x-named",
    ] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    assert_eq!(answer.field("x-kept"), Some("1"));
    assert_eq!(answer.text(), "ok");
}

#[test]
fn the_upstream_learns_the_clients_real_address_scheme_and_host() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let source = Ipv4Addr::new(127, 0, 0, 77).into();
    let mut client = Client::connect_from(source, proxy.address());
    client
        .send("GET / HTTP/1.1\r\nHost: shop.test:81\r\n\r\n")
        .expect("an open connection");
    let request = upstream.accept().request();
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.77"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.field("x-forwarded-host"), Some("shop.test:81"));
    assert_eq!(request.field("host"), Some("shop.test:81"));
}

#[test]
fn what_a_client_claims_about_itself_is_dropped() {
    let request = received(
        "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 10.0.0.1\r\nx-forwarded-for: 10.0.0.2\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 443\r\n\
         X-Forwarded-Prefix: /admin\r\nX-Real-IP: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n\
         Connection: X-Forwarded-For\r\n\r\n",
    );
    // `field` fails where a field came twice.
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.field("x-forwarded-host"), Some("test"));
    for gone in [
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-real-ip",
        "forwarded",
    ] {
        assert_eq!(request.field(gone), None, "{gone}");
    }
}

#[test]
fn a_repeated_request_is_introduced_like_the_first() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(PLAIN).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.answer("warm");
    client.read_answer(false).expect("an answer");

    client
        .send(
            "GET /again?x=1 HTTP/1.1\r\nhost: test\r\nx-one: 1\r\nx-two: 2\r\nx-one: 3\r\n\
             x-forwarded-for: 10.0.0.1\r\n\r\n",
        )
        .expect("an open connection");
    let first = wire.request();
    drop(wire);
    let mut wire = upstream.accept();
    let second = wire.request();
    wire.answer("fine");
    assert_eq!(client.read_answer(false).expect("an answer").text(), "fine");

    assert_eq!(first.line, "GET /again?x=1 HTTP/1.1");
    assert_eq!(second.line, first.line);
    assert_eq!(second.all("x-one"), ["1", "3"]);
    let sorted = |request: &Request| {
        let mut fields = request.fields.clone();
        // Stable: the order within a name stays.
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        fields
    };
    assert_eq!(sorted(&second), sorted(&first));
}

#[test]
fn an_absolute_target_is_cut_to_its_path_and_names_the_host() {
    for (target, path, host) in [
        ("http://shop.test:81/a/b?c=d", "/a/b?c=d", "shop.test:81"),
        ("http://shop.test", "/", "shop.test"),
        ("http://shop.test?x", "/?x", "shop.test"),
    ] {
        let request = received(format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n"));
        assert_eq!(request.line, format!("GET {path} HTTP/1.1"));
        assert_eq!(request.field("host"), Some(host));
        assert_eq!(request.field("x-forwarded-host"), Some(host));
    }
}

#[test]
fn a_target_is_passed_on_as_it_was_written() {
    for target in [
        "/a%2Fb/../c//d?x=%20&y=a+b&&",
        "/?",
        "/%0d%0aset-cookie:x",
        "/;p=1,2",
    ] {
        let request = received(format!("GET {target} HTTP/1.1\r\nhost: test\r\n\r\n"));
        assert_eq!(request.line, format!("GET {target} HTTP/1.1"));
    }
    let request = received("OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(request.line, "OPTIONS * HTTP/1.1");
}

#[test]
fn a_request_without_a_host_is_refused() {
    let answer = refused("GET / HTTP/1.1\r\nx: 1\r\n\r\n");
    assert_eq!(answer.status, 400);
    assert_eq!(answer.field("connection"), Some("close"));
}

#[test]
fn a_request_with_two_hosts_is_refused_even_if_they_agree() {
    for target in ["/", "http://test/"] {
        for second in ["other", "test"] {
            let request = format!("GET {target} HTTP/1.1\r\nhost: test\r\nHost: {second}\r\n\r\n");
            assert_eq!(refused(&request).status, 400, "{request}");
        }
    }
}

#[test]
fn nothing_behind_a_refused_request_is_taken_for_another() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client
        .send(format!("GET / HTTP/1.1\r\nx: 1\r\n\r\n{PLAIN}"))
        .expect("an open connection");
    assert_eq!(client.read_answer(false).expect("an answer").status, 400);
    assert_eq!(client.rest(), b"");
    assert!(upstream.try_accept().is_none());
}

#[test]
fn a_connection_field_that_names_what_frames_the_message_is_refused() {
    for name in ["host", "content-length", "transfer-encoding"] {
        let answer = refused(&format!(
            "GET / HTTP/1.1\r\nhost: test\r\nconnection: {name}\r\n\r\n"
        ));
        assert_eq!(answer.status, 400, "{name}");
    }
}

#[test]
fn connect_and_trace_end_at_the_proxy() {
    for request in [
        "CONNECT other.test:443 HTTP/1.1\r\nhost: other.test:443\r\n\r\n",
        "TRACE / HTTP/1.1\r\nhost: test\r\ncookie: secret\r\n\r\n",
    ] {
        let answer = refused(request);
        assert_eq!(answer.status, 405, "{request}");
        let allow = answer.field("allow").expect("what is allowed");
        assert!(allow.contains("get") && !allow.contains("trace"), "{allow}");
        assert!(!answer.text().contains("secret"));
    }
}

#[test]
fn an_answer_to_head_keeps_its_length_and_has_no_body() {
    let answer = relayed(
        "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n",
    );
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("content-length"), Some("1234"));
}

#[test]
fn an_answer_to_head_without_a_length_gets_none() {
    for framing in ["", "transfer-encoding: chunked\r\n"] {
        let answer = relayed(
            "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n",
            format!("HTTP/1.1 200 OK\r\n{framing}x: 1\r\n\r\n"),
        );
        assert_eq!(answer.field("content-length"), None, "after {framing:?}");
        assert_eq!(answer.field("x"), Some("1"));
    }
}

#[test]
fn a_204_has_neither_body_nor_length() {
    let answer = relayed(PLAIN, "HTTP/1.1 204 No Content\r\nx: 1\r\n\r\n");
    assert_eq!(answer.status, 204);
    assert_eq!(answer.field("content-length"), None);
    assert_eq!(answer.field("transfer-encoding"), None);
}

#[test]
fn a_304_may_say_a_length_and_has_no_body() {
    for (length, expected) in [("content-length: 1234\r\n", Some("1234")), ("", None)] {
        let answer = relayed(
            PLAIN,
            format!("HTTP/1.1 304 Not Modified\r\n{length}etag: \"x\"\r\n\r\n"),
        );
        assert_eq!(answer.status, 304);
        assert_eq!(answer.field("content-length"), expected);
    }
}

#[test]
fn a_body_of_any_method_is_forwarded_with_its_framing() {
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND",
    ] {
        let head = format!("{method} / HTTP/1.1\r\nhost: test\r\n");
        let request = received(format!("{head}content-length: 5\r\n\r\nhello"));
        assert_eq!(request.field("content-length"), Some("5"), "{method}");
        assert_eq!(request.field("transfer-encoding"), None, "{method}");
        assert_eq!(request.body, b"hello", "{method}");

        let request = received(format!(
            "{head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ));
        assert_eq!(
            request.field("transfer-encoding"),
            Some("chunked"),
            "{method}"
        );
        assert_eq!(request.field("content-length"), None, "{method}");
        assert_eq!(request.body, b"hello", "{method}");
    }
}

#[test]
fn a_body_of_no_bytes_leaves_nothing_to_wait_for() {
    for framing in [
        "content-length: 0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let request = received(format!("{method} / HTTP/1.1\r\nhost: test\r\n{framing}"));
            assert_eq!(request.body, b"", "{method} {framing}");
        }
    }
    let request = received("POST / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(request.body, b"");
}

#[test]
fn what_follows_a_body_is_the_next_request() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client
        .send(
            "POST /1 HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello\
             POST /2 HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n\
             GET /3 HTTP/1.1\r\nhost: test\r\n\r\n",
        )
        .expect("an open connection");
    let mut wire = upstream.accept();
    for (line, body) in [
        ("POST /1 HTTP/1.1", "hello"),
        ("POST /2 HTTP/1.1", "world"),
        ("GET /3 HTTP/1.1", ""),
    ] {
        let request = wire.request();
        assert_eq!(request.line, line);
        assert_eq!(request.body, body.as_bytes());
        wire.answer(line);
        assert_eq!(client.read_answer(false).expect("an answer").text(), line);
    }
}

#[test]
fn trailers_end_at_the_proxy() {
    let request = received(
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\nx-trailer: 1\r\nhost: evil.test\r\n\r\n",
    );
    assert_eq!(request.body, b"hello");
    let answer = relayed(
        PLAIN,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n",
    );
    assert_eq!(answer.text(), "hello");
}

#[test]
fn an_answer_of_unknown_length_is_chunked() {
    let chunks = chunked(b"hello", 2);
    let mut response = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    response.extend(chunks);
    let answer = relayed(PLAIN, response);
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.field("content-length"), None);
    assert_eq!(answer.text(), "hello");
}

#[test]
fn an_answer_that_ends_with_its_connection_is_chunked() {
    for version in ["1.0", "1.1"] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.send(format!("HTTP/{version} 200 OK\r\nx: 1\r\n\r\nhello"));
        drop(wire);
        let answer = client.read_answer(false).expect("an answer");
        assert!(answer.head.starts_with("http/1.1 200"), "{}", answer.head);
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.text(), "hello");
        serves_on_elsewhere(&mut client, &upstream);
    }
}

/// The client's connection serves one more request, over a new connection to the upstream.
#[track_caller]
fn serves_on_elsewhere(client: &mut Client, upstream: &Upstream) {
    client.send(PLAIN).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.answer("elsewhere");
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "elsewhere"));
}

#[test]
fn repeated_fields_of_an_answer_stay_apart_and_in_order() {
    let answer = relayed(
        PLAIN,
        "HTTP/1.1 200 OK\r\nset-cookie: a=1; path=/\r\nset-cookie: b=2, 3\r\nset-cookie: a=4\r\n\
         content-length: 0\r\n\r\n",
    );
    let cookies: Vec<_> = answer
        .head
        .lines()
        .filter_map(|line| line.strip_prefix("set-cookie: "))
        .collect();
    assert_eq!(cookies, ["a=1; path=/", "b=2, 3", "a=4"]);
}

#[test]
fn every_status_passes_unchanged() {
    for status in [200, 201, 206, 301, 404, 418, 500, 503, 599] {
        let answer = relayed(
            PLAIN,
            format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 4\r\n\r\nbody"),
        );
        assert_eq!((answer.status, answer.text().as_str()), (status, "body"));
    }
}

/// A request whose body the client holds back until it is asked for.
const EXPECTING: &str =
    "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

#[test]
fn the_client_is_asked_for_its_body_when_the_upstream_asks() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(EXPECTING).expect("an open connection");
    let mut wire = upstream.accept();
    assert_eq!(wire.head().field("expect"), Some("100-continue"));
    wire.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.read_answer(false).expect("an answer").status, 100);
    client.send("hello").expect("an open connection");
    assert_eq!(wire.read_exact(5), b"hello");
    wire.answer("got it");
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "got it"));
    serves_on(&mut client, &mut wire);
}

#[test]
fn the_client_is_not_asked_for_its_body_when_the_upstream_has_answered() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(EXPECTING).expect("an open connection");
    let mut wire = upstream.accept();
    wire.head();
    wire.send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno");
    // The first that comes, so there was no 100 before.
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (401, "no"));
    // The upstream still waits for a body: nothing else may be sent there.
    assert_eq!(wire.rest(), b"");
    assert_eq!(client.rest(), b"");
    assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 0.0);
}

#[test]
fn an_upstream_that_never_asks_for_the_body_gets_it_all_the_same() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(EXPECTING).expect("an open connection");
    let mut wire = upstream.accept();
    wire.head();
    assert_eq!(client.read_answer(false).expect("an answer").status, 100);
    client.send("hello").expect("an open connection");
    assert_eq!(wire.read_exact(5), b"hello");
    wire.answer("got it");
    assert_eq!(
        client.read_answer(false).expect("an answer").text(),
        "got it"
    );
    serves_on(&mut client, &mut wire);
}

#[test]
fn early_hints_do_not_stand_in_for_the_answer() {
    let answer = relayed(
        PLAIN,
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n\
         HTTP/1.1 102 Processing\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
}

#[test]
fn a_switch_of_protocols_that_nobody_asked_for_is_a_fault() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(PLAIN).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.send(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
    );
    assert_eq!(client.read_answer(false).expect("an answer").status, 502);
    assert_eq!(wire.rest(), b"");
    serves_on_elsewhere(&mut client, &upstream);
}

/// A proxy and a client that have had one answer over a connection, which is kept.
struct Warm {
    upstream: Upstream,
    proxy: Pointsman,
    client: Client,
    wire: Wire,
}

impl Warm {
    #[track_caller]
    fn up() -> Self {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.answer("warm");
        assert_eq!(client.read_answer(false).expect("an answer").text(), "warm");
        Self {
            upstream,
            proxy,
            client,
            wire,
        }
    }
}

const POST: &str = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello";
const PUT: &str = "PUT / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello";
const EMPTY_POST: &str = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n";

/// Returns when the worker has seen whatever had arrived at its sockets before: it has taken another
/// connection since, and served it without an upstream.
#[track_caller]
fn let_it_look(proxy: &Pointsman) {
    let mut client = Client::connect(proxy.address());
    client
        .send("TRACE / HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect("an open connection");
    assert_eq!(client.read_answer(false).expect("an answer").status, 405);
}

#[test]
fn a_kept_connection_that_the_upstream_has_closed_is_not_used() {
    for request in [PLAIN, POST, EMPTY_POST] {
        let Warm {
            upstream,
            proxy,
            mut client,
            wire,
        } = Warm::up();
        drop(wire);
        let_it_look(&proxy);
        client.send(request).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.answer("fresh");
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "fresh"));
        assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 0.0);
    }
}

#[test]
fn a_kept_connection_that_is_closed_at_the_same_moment_costs_no_repeatable_request() {
    for _ in 0..5 {
        let Warm {
            upstream,
            proxy: _proxy,
            mut client,
            wire,
        } = Warm::up();
        drop(wire);
        serves_on_elsewhere(&mut client, &upstream);
    }
}

#[test]
fn a_kept_connection_that_is_closed_at_the_same_moment_makes_nothing_happen_twice() {
    for request in [POST, EMPTY_POST] {
        let Warm {
            upstream,
            proxy,
            mut client,
            wire,
        } = Warm::up();
        drop(wire);
        client.send(request).expect("an open connection");
        let fresh = until("it is sent or given up", || {
            let given_up = proxy.metric("pointsman_requests_total", &["code=\"5xx\""]) > 0.0;
            let wire = upstream.try_accept();
            (given_up || wire.is_some()).then_some(wire)
        });
        match fresh {
            Some(mut wire) => {
                wire.request();
                wire.answer("fresh");
                assert_eq!(
                    client.read_answer(false).expect("an answer").text(),
                    "fresh"
                );
            }
            None => {
                assert_eq!(client.read_answer(false).expect("an answer").status, 502);
                assert!(
                    upstream.try_accept().is_none(),
                    "sent again after it was given up"
                );
            }
        }
    }
}

#[test]
fn a_request_that_may_be_repeated_is_when_a_kept_connection_breaks() {
    for rude in [false, true] {
        for method in ["GET", "HEAD", "DELETE"] {
            let Warm {
                upstream,
                proxy,
                mut client,
                mut wire,
            } = Warm::up();
            client
                .send(format!("{method} /x HTTP/1.1\r\nhost: test\r\n\r\n"))
                .expect("an open connection");
            assert_eq!(wire.request().line, format!("{method} /x HTTP/1.1"));
            if rude {
                wire.reset()
            } else {
                drop(wire)
            }
            let mut wire = upstream.accept();
            assert_eq!(wire.request().line, format!("{method} /x HTTP/1.1"));
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: fresh\r\n\r\n");
            let answer = client.read_answer(method == "HEAD").expect("an answer");
            assert_eq!(answer.field("x"), Some("fresh"));
            assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 0.0);
        }
    }
}

#[test]
fn a_request_that_may_not_be_repeated_is_never_sent_twice() {
    for request in [POST, PUT, EMPTY_POST] {
        let Warm {
            upstream,
            proxy,
            mut client,
            mut wire,
        } = Warm::up();
        client.send(request).expect("an open connection");
        wire.request();
        drop(wire);
        assert_eq!(
            client.read_answer(false).expect("an answer").status,
            502,
            "{request}"
        );
        assert!(upstream.try_accept().is_none(), "{request}");
        assert_eq!(
            proxy.metric("pointsman_upstream_connections_total", &[]),
            1.0
        );
        serves_on_elsewhere(&mut client, &upstream);
    }
}

#[test]
fn a_request_is_repeated_only_once() {
    let Warm {
        upstream,
        proxy,
        mut client,
        mut wire,
    } = Warm::up();
    client.send(PLAIN).expect("an open connection");
    wire.request();
    drop(wire);
    let mut wire = upstream.accept();
    wire.request();
    drop(wire);
    assert_eq!(client.read_answer(false).expect("an answer").status, 502);
    assert!(upstream.try_accept().is_none());
    assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 1.0);
}

#[test]
fn a_fresh_connection_that_breaks_is_a_fault() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(PLAIN).expect("an open connection");
    upstream.accept().request();
    assert_eq!(client.read_answer(false).expect("an answer").status, 502);
    assert!(upstream.try_accept().is_none());
    serves_on_elsewhere(&mut client, &upstream);
}

#[test]
fn what_is_no_answer_is_a_fault() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "HTTP/1.1 99999 No\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nconnection: content-length\r\ncontent-length: 1\r\n\r\na",
        "\0\0\0\0\r\n\r\n",
    ] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.send(garbage);
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!(answer.status, 502, "after {garbage:?}");
        assert!(!answer.text().contains("SSH"));
        assert_eq!(wire.rest(), b"", "after {garbage:?}");
        serves_on_elsewhere(&mut client, &upstream);
    }
}

/// Bytes that must never reach a client.
const POISON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";

/// An upstream sends `response`, which has more in it than the answer to `request`; neither the same
/// client nor the next gets it.
#[track_caller]
fn contained(request: &str, response: &str, later: &str) {
    for same in [true, false] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client.send(request).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.send(response);
        let headless = request.starts_with("HEAD");
        assert_eq!(
            client.read_answer(headless).expect("an answer").status / 100,
            2
        );
        // Refused, if the proxy has seen already that something is wrong.
        let _ = wire.try_send(later);
        if !later.is_empty() {
            let_it_look(&proxy);
        }
        let mut other = Client::connect(proxy.address());
        let next = if same { &mut client } else { &mut other };
        serves_on_elsewhere(next, &upstream);
        // That nothing else is sent over it is part of the promise.
        assert_eq!(wire.rest(), b"");
    }
}

#[test]
fn bytes_behind_an_answer_never_reach_a_client() {
    contained(
        PLAIN,
        &format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{POISON}"),
        "",
    );
}

#[test]
fn bytes_behind_a_chunked_answer_never_reach_a_client() {
    contained(
        PLAIN,
        &format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{POISON}"
        ),
        "",
    );
}

#[test]
fn bytes_behind_an_answer_without_a_body_never_reach_a_client() {
    contained(
        PLAIN,
        &format!("HTTP/1.1 204 No Content\r\n\r\n{POISON}"),
        "",
    );
    contained(
        PLAIN,
        &format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n{POISON}"),
        "",
    );
}

#[test]
fn a_body_behind_an_answer_to_head_never_reaches_a_client() {
    contained(
        "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n",
        &format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{POISON}",
            POISON.len()
        ),
        "",
    );
}

#[test]
fn bytes_on_an_unused_connection_never_reach_a_client() {
    contained(
        PLAIN,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        POISON,
    );
}

#[test]
fn an_upstream_that_refuses_the_connection_is_a_502() {
    let upstream = Refusing::start();
    let proxy = Pointsman::start(&[&upstream.url()], &["--workers", "1"]);
    let mut client = Client::connect(proxy.address());
    assert_eq!(client.get("/").expect("an answer").status, 502);
    assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 1.0);
    assert_eq!(
        proxy.metric("pointsman_upstream_connection_failures_total", &[]),
        1.0
    );
    // Once it is there, it is used.
    serves_on_elsewhere(&mut client, &upstream.listen());
}

#[test]
fn an_upstream_that_does_not_accept_in_time_is_a_504() {
    let upstream = Deaf::start();
    let proxy = Pointsman::start(
        &[&upstream.url()],
        &["--workers", "1", "--connect-timeout", "0.2"],
    );
    let mut client = Client::connect(proxy.address());
    for failures in [1.0, 2.0] {
        assert_eq!(client.get("/").expect("an answer").status, 504);
        assert_eq!(
            proxy.metric("pointsman_upstream_failures_total", &[]),
            failures
        );
    }
}

#[test]
fn an_upstream_that_does_not_answer_in_time_is_a_504() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--first-byte-timeout", "0.3"]);
    let mut client = Client::connect(proxy.address());
    for (request, failures) in [(PLAIN, 1.0), (POST, 2.0)] {
        client.send(request).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        assert_eq!(client.read_answer(false).expect("an answer").status, 504);
        // A late answer must find nobody.
        assert_eq!(wire.rest(), b"");
        assert_eq!(
            proxy.metric("pointsman_upstream_failures_total", &[]),
            failures
        );
    }
    serves_on_elsewhere(&mut client, &upstream);
}

#[test]
fn a_request_that_timed_out_is_not_repeated_over_another_connection() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--first-byte-timeout", "0.3"]);
    let mut client = Client::connect(proxy.address());
    client.send(PLAIN).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.answer("warm");
    client.read_answer(false).expect("an answer");
    client.send(PLAIN).expect("an open connection");
    wire.request();
    assert_eq!(client.read_answer(false).expect("an answer").status, 504);
    assert!(upstream.try_accept().is_none());
}

#[test]
fn a_dead_upstream_beside_a_live_one_costs_no_request() {
    let dead = Refusing::start();
    let live = Demo::start("live");
    let proxy = Pointsman::start(&[&dead.url(), &live.url()], &["--workers", "2"]);
    for i in 0..20 {
        assert_eq!(
            get(proxy.address(), "/").text(),
            "hello from live\n",
            "request {i}"
        );
    }
    let mut client = Client::connect(proxy.address());
    for _ in 0..10 {
        client
            .send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello")
            .expect("an open connection");
        assert_eq!(
            client.read_answer(false).expect("an answer").text(),
            "hello"
        );
    }
    assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 0.0);
    let endpoint = |url: &str| format!("endpoint=\"{}\"", &url["http://".len()..]);
    let failures = |url: &str| {
        proxy.metric(
            "pointsman_upstream_connection_failures_total",
            &[&endpoint(url)],
        )
    };
    assert!(failures(&dead.url()) >= 1.0);
    assert_eq!(failures(&live.url()), 0.0);
}

#[test]
fn two_upstreams_take_turns() {
    let (one, two) = (Demo::start("one"), Demo::start("two"));
    let proxy = Pointsman::start(&[&one.url(), &two.url()], &["--workers", "1"]);
    let mut client = Client::connect(proxy.address());
    let mut hello = || client.get("/").expect("an answer").text();
    let names = [hello(), hello(), hello(), hello()];
    assert_ne!(names[0], names[1]);
    assert_eq!(names[..2], names[2..]);
}

#[test]
fn what_upstreams_answer_and_fail_to_answer_is_counted() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    for response in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "garbage\r\n\r\n",
        "",
    ] {
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.send(response);
        drop(wire);
        client.read_answer(false).expect("an answer");
    }
    for (code, count) in [
        ("2xx", 1.0),
        ("3xx", 1.0),
        ("4xx", 1.0),
        ("5xx", 1.0),
        ("aborted", 2.0),
    ] {
        let label = format!("code=\"{code}\"");
        let counted = proxy.metric("pointsman_upstream_requests_total", &[&label]);
        assert_eq!(counted, count, "{code}");
    }
    // A 503 of the upstream's own is an answer.
    assert_eq!(proxy.metric("pointsman_upstream_failures_total", &[]), 2.0);
    assert_eq!(
        proxy.metric("pointsman_requests_total", &["code=\"5xx\""]),
        3.0
    );
}

#[test]
fn an_upstream_may_be_a_unix_socket() {
    let upstream = Upstream::unix();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client.send(POST).expect("an open connection");
    let mut wire = upstream.accept();
    let request = wire.request();
    assert_eq!(request.body, b"hello");
    assert_eq!(request.field("host"), Some("test"));
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    wire.answer("from a file");
    assert_eq!(
        client.read_answer(false).expect("an answer").text(),
        "from a file"
    );
    serves_on(&mut client, &mut wire);
}

#[test]
fn a_missing_unix_socket_is_a_502() {
    let path = Upstream::unix().url();
    let proxy = Pointsman::start(&[&path], &["--workers", "1"]);
    assert_eq!(get(proxy.address(), "/").status, 502);
}

#[test]
fn a_connection_that_the_upstream_wants_closed_is_not_used_again() {
    for response in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.send(response);
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!(answer.status / 100, 2);
        // The upstream's wish concerns its own connection, not the client's.
        assert_eq!(answer.field("connection"), None);
        assert_eq!(wire.rest(), b"", "after {response:?}");
        serves_on_elsewhere(&mut client, &upstream);
        let open = || proxy.metric("pointsman_upstream_connections_open", &[]) == 1.0;
        until("only the new connection is open", || open().then_some(()));
    }
}

#[test]
fn an_answer_that_breaks_off_is_not_ended_in_order() {
    for (response, end) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello",
            "hello",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "hello\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nhello",
            "hello\r\n",
        ),
    ] {
        for rude in [false, true] {
            let upstream = Upstream::start();
            let proxy = upstream.proxied(&[]);
            let mut client = Client::connect(proxy.address());
            client.send(PLAIN).expect("an open connection");
            let mut wire = upstream.accept();
            wire.request();
            wire.send(response);
            let head = client.read_head().expect("a head");
            assert!(head.starts_with("http/1.1 200"), "{head}");
            if rude {
                wire.reset()
            } else {
                drop(wire)
            }
            let body = String::from_utf8(client.rest()).expect("text");
            // What came may be lost at a reset, but no end may have been made up.
            assert!(
                body.is_empty() && rude || body.ends_with(end),
                "{body:?} for {response:?}"
            );
            let failures = || proxy.metric("pointsman_upstream_failures_total", &[]) == 1.0;
            until("the failure is counted", || failures().then_some(()));
            serves_on_elsewhere(&mut Client::connect(proxy.address()), &upstream);
        }
    }
}

#[test]
fn an_answer_framed_twice_is_delivered_whole_or_not_at_all() {
    for length in [2, 5, 100] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n"
        ));
        let answer = client.read_answer(false).expect("an answer");
        // RFC 9112, section 6.3: the chunks count, and nobody behind us may be told otherwise.
        if answer.status == 200 {
            assert_eq!(answer.text(), "hello", "content-length {length}");
            assert_eq!(answer.field("content-length"), None);
        } else {
            assert_eq!(answer.status, 502);
        }
        // Nor may the connection be used again: its other user might have counted differently.
        assert_eq!(wire.rest(), b"");
        serves_on_elsewhere(&mut client, &upstream);
    }
}

#[test]
fn a_request_framed_twice_reaches_nobody_who_could_read_it_otherwise() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    client
        .send(
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\
             transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .expect("an open connection");
    let served = until("it is forwarded or refused", || {
        let refused = proxy.metric("pointsman_requests_total", &["code=\"4xx\""]) > 0.0;
        let wire = upstream.try_accept();
        (refused || wire.is_some()).then_some(wire)
    });
    if let Some(mut wire) = served {
        let request = wire.request();
        assert_eq!(request.field("content-length"), None);
        assert_eq!(request.body, b"hello");
        wire.answer("fine");
        assert_eq!(client.read_answer(false).expect("an answer").text(), "fine");
    } else {
        assert_eq!(client.read_answer(false).expect("an answer").status, 400);
    }
}

#[test]
fn an_answer_with_an_endless_head_is_a_fault() {
    for fields in [
        "x: 1\r\n".repeat(1000),
        format!("x: {}\r\n", "y".repeat(1 << 20)),
    ] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&[]);
        let mut client = Client::connect(proxy.address());
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        let _ = wire.try_send(format!(
            "HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n"
        ));
        assert_eq!(client.read_answer(false).expect("an answer").status, 502);
        assert_eq!(wire.rest(), b"");
        serves_on_elsewhere(&mut client, &upstream);
    }
}

#[test]
fn it_does_not_matter_how_the_bytes_are_split() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&[]);
    let mut client = Client::connect(proxy.address());
    let request = "POST /x HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n\
                   2\r\nhe\r\n3;ext=1\r\nllo\r\n0\r\n\r\n";
    for byte in request.bytes() {
        client.send([byte]).expect("an open connection");
    }
    let mut wire = upstream.accept();
    let request = wire.request();
    assert_eq!(request.line, "POST /x HTTP/1.1");
    assert_eq!(request.body, b"hello");
    let response = "HTTP/1.1 200 OK\r\nx: 1\r\ntransfer-encoding: chunked\r\n\r\n\
                    2\r\nwo\r\n3\r\nrld\r\n0\r\n\r\n";
    for byte in response.bytes() {
        wire.send([byte]);
    }
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "world"));
    serves_on(&mut client, &mut wire);
}

#[test]
fn no_more_connections_are_kept_than_asked_for() {
    for (kept, arguments) in [
        (0, ["--upstream-idle-connections", "0"]),
        (1, ["--upstream-idle-connections", "1"]),
    ] {
        let upstream = Upstream::start();
        let proxy = upstream.proxied(&arguments);
        let mut open: Vec<_> = (0..3)
            .map(|_| {
                let mut client = Client::connect(proxy.address());
                client.send(PLAIN).expect("an open connection");
                let mut wire = upstream.accept();
                wire.request();
                (client, wire)
            })
            .collect();
        assert_eq!(
            proxy.metric("pointsman_upstream_connections_open", &[]),
            3.0
        );
        for (client, wire) in &mut open {
            wire.answer("fine");
            assert_eq!(client.read_answer(false).expect("an answer").text(), "fine");
        }
        until("the others are closed", || {
            let open = proxy.metric("pointsman_upstream_connections_open", &[]);
            (open == f64::from(kept)).then_some(())
        });
    }
}

#[test]
fn an_unused_upstream_connection_is_closed_in_time() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--upstream-idle-timeout", "0.1"]);
    let mut client = Client::connect(proxy.address());
    client.send(PLAIN).expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.answer("fine");
    assert_eq!(client.read_answer(false).expect("an answer").text(), "fine");
    assert_eq!(wire.rest(), b"");
    until("the close is counted", || {
        (proxy.metric("pointsman_upstream_connections_open", &[]) == 0.0).then_some(())
    });
    serves_on_elsewhere(&mut client, &upstream);
}

#[test]
fn early_hints_reach_a_client_at_once_if_asked_for() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--interim-responses"]);
    let mut client = Client::connect(proxy.address());
    for _ in 0..3 {
        client.send(PLAIN).expect("an open connection");
        let mut wire = upstream.accept();
        wire.request();
        wire.send(
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: x-a\r\nx-a: 1\r\n\r\n",
        );
        // It is there before the final response is made.
        let hints = client.read_head().expect("early hints");
        assert!(hints.starts_with("http/1.1 103 early hints\r\n"), "{hints}");
        assert!(hints.contains("link: </a.css>\r\n"), "{hints}");
        assert!(!hints.contains("x-a"), "{hints}");
        // And another one together with it.
        wire.send(
            "HTTP/1.1 103 Early Hints\r\nlink: </b.css>\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        );
        assert!(
            client
                .read_head()
                .expect("early hints")
                .contains("</b.css>")
        );
        let answer = client.read_answer(false).expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
}

#[test]
fn a_client_that_speaks_http_1_0_gets_no_early_hints() {
    let upstream = Upstream::start();
    let proxy = upstream.proxied(&["--interim-responses"]);
    let mut client = Client::connect(proxy.address());
    client
        .send("GET / HTTP/1.0\r\nhost: test\r\n\r\n")
        .expect("an open connection");
    let mut wire = upstream.accept();
    wire.request();
    wire.send("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
    wire.answer("ok");
    let answer = client.read_answer(false).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
}
