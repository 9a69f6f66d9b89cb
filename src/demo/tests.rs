//! Each route over real sockets. Whatever is awaited is awaited with a deadline, never slept for.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{
    ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocket};
use tokio_tungstenite::tungstenite::{self, Message};

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("nothing within the deadline")
}

/// A running demo app.
struct Demo {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<io::Result<()>>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn field(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().expect("ASCII"))
    }

    fn is_refused(&self, start: &str) {
        assert_eq!(self.status, StatusCode::BAD_REQUEST);
        assert!(self.text().starts_with(start), "{:?}", self.text());
        assert_eq!(self.text().lines().count(), 1);
    }
}

impl Demo {
    async fn start() -> Self {
        Self::start_within(GRACE).await
    }

    async fn start_within(grace: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve_within(listener, "one", stopped, grace).await
        });
        Self {
            address,
            stop,
            served,
        }
    }

    async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.address))
            .await
            .expect("a connection")
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let io = TokioIo::new(self.connect().await);
        within(async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
                .await
                .expect("a handshake");
            let connection = tokio::spawn(connection);
            let (head, body) = sender
                .send_request(request)
                .await
                .expect("an answer")
                .into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            connection.abort();
            assert_eq!(
                head.headers.get("x-upstream").expect("on every answer"),
                "one"
            );
            Answer {
                status: head.status,
                headers: head.headers,
                body,
            }
        })
        .await
    }

    async fn ask(&self, method: Method, target: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "demo")
            .body(Full::new(body.into()))
            .expect("a request");
        self.send(request).await
    }

    async fn get(&self, target: &str) -> Answer {
        self.ask(Method::GET, target, "").await
    }

    /// A `HEAD` has to say what the `GET` says, without the body.
    async fn head_is_like_get(&self, target: &str) {
        let get = self.get(target).await;
        let head = self.ask(Method::HEAD, target, "").await;
        assert_eq!(head.status, get.status, "{target}");
        assert_eq!(head.body, "", "{target}");
        assert_eq!(
            head.field(CONTENT_LENGTH),
            get.field(CONTENT_LENGTH),
            "{target}"
        );
        assert_eq!(
            head.field(CONTENT_TYPE),
            get.field(CONTENT_TYPE),
            "{target}"
        );
    }
}

/// Runs `talk` with a WebSocket to `/ws`. It blocks, in a thread of its own.
async fn websocket<T: Send + 'static>(
    address: SocketAddr,
    talk: impl FnOnce(WebSocket<std::net::TcpStream>) -> T + Send + 'static,
) -> T {
    let talk = tokio::task::spawn_blocking(move || {
        let stream = std::net::TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let (socket, response) =
            tungstenite::client(format!("ws://{address}/ws"), stream).expect("a handshake");
        assert_eq!(response.headers()["x-upstream"], "one");
        talk(socket)
    });
    within(talk).await.expect("no panic")
}

/// Reads until what came ends with `end`, and returns all of it.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    within(async {
        while !read.ends_with(end.as_bytes()) {
            let so_far = String::from_utf8_lossy(&read).into_owned();
            let more = stream.read_buf(&mut read).await.expect("more");
            assert_ne!(more, 0, "ended before {end:?}: {so_far:?}");
        }
    })
    .await;
    String::from_utf8(read).expect("UTF-8")
}

#[tokio::test]
async fn the_root_greets_in_one_line() {
    let demo = Demo::start().await;
    let answer = demo.get("/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.text(), "hello from one\n");
    assert_eq!(answer.field(CONTENT_LENGTH), Some("15"));
    assert_eq!(
        answer.field(CONTENT_TYPE),
        Some("text/plain; charset=utf-8")
    );

    let answer = demo.ask(Method::POST, "/", "x").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.field(ALLOW), Some("GET, HEAD"));
}

#[tokio::test]
async fn the_root_is_a_page_for_a_browser() {
    let demo = Demo::start().await;
    let request = Request::get("/")
        .header(ACCEPT, "application/xhtml+xml, Text/HTML;q=0.9")
        .header("x-forwarded-for", "<b>192.0.2.1</b>")
        .header("x-forwarded-proto", "https")
        .header("x-other", "unshown")
        .body(Full::default())
        .expect("a request");
    let answer = demo.send(request).await;
    assert_eq!(answer.field(CONTENT_TYPE), Some("text/html; charset=utf-8"));
    let page = answer.text();
    assert!(page.contains("<strong>one</strong>"));
    assert!(page.contains("&lt;b&gt;192.0.2.1&lt;/b&gt;"));
    assert!(page.contains("x-forwarded-proto"));
    assert!(!page.contains("<b>") && !page.contains("unshown"));
    for route in [
        "slow?ms=",
        "spin?us=",
        "bytes?n=",
        "headers",
        "status?code=",
    ] {
        assert!(page.contains(&format!("href=\"{route}")), "{route}");
    }
}

#[tokio::test]
async fn slow_takes_its_time() {
    let demo = Demo::start().await;
    let begun = Instant::now();
    let answer = demo.get("/slow?ms=60").await;
    assert!(begun.elapsed() >= Duration::from_millis(60));
    assert_eq!(answer.text(), "one took 60 ms\n");
    for bad in ["/slow", "/slow?ms=60001", "/slow?ms=-1", "/slow?ms=soon"] {
        demo.get(bad).await.is_refused("ms: want a whole number");
    }
}

#[tokio::test]
async fn spin_keeps_everybody_waiting() {
    let demo = Demo::start().await;
    let begun = Instant::now();
    let (first, second) = tokio::join!(demo.get("/spin?us=50000"), demo.get("/spin?us=50000"));
    // One after the other: what spins does not yield.
    assert!(begun.elapsed() >= Duration::from_millis(100));
    for answer in [first, second, demo.get("/spin?us=0").await] {
        assert_eq!(answer.text(), "hello from one\n");
    }
    for bad in ["/spin", "/spin?us=100001", "/spin?us=-1"] {
        demo.get(bad).await.is_refused("us: want a whole number");
    }
}

#[tokio::test]
async fn bytes_are_the_pattern() {
    let demo = Demo::start().await;
    for length in [0_usize, 1, 65_536, 1_000_003] {
        let expected: Vec<u8> = (0..length as u64).map(pattern_byte).collect();

        let answer = demo.get(&format!("/bytes?n={length}")).await;
        assert_eq!(answer.field(CONTENT_LENGTH), Some(&*length.to_string()));
        assert!(answer.body == expected, "{length}");

        let answer = demo.get(&format!("/bytes?n={length}&chunked=1")).await;
        assert_eq!(answer.field(CONTENT_LENGTH), None);
        assert_eq!(answer.field(TRANSFER_ENCODING), Some("chunked"));
        assert!(answer.body == expected, "{length} chunked");
    }
    demo.get("/bytes?n=1073741825")
        .await
        .is_refused("n: want a whole number");
    demo.get("/bytes").await.is_refused("n: want");
    demo.get("/bytes?n=1&chunked=maybe")
        .await
        .is_refused("chunked: want 0 or 1");
}

#[tokio::test]
async fn head_is_answered_everywhere() {
    let demo = Demo::start().await;
    for target in [
        "/",
        "/slow?ms=0",
        "/spin?us=0",
        "/slow?ms=x",
        "/bytes?n=0",
        "/bytes?n=1073741824x",
        "/bytes?n=100000",
        "/bytes?n=10&chunked=1",
        "/echo",
        "/hash",
        "/status?code=503",
        "/status?code=204",
        "/status?code=205",
        "/status?code=500&body=",
        "/ws",
        "/nowhere",
    ] {
        demo.head_is_like_get(target).await;
    }
    let most = demo.ask(Method::HEAD, "/bytes?n=1073741824", "").await;
    assert_eq!(most.field(CONTENT_LENGTH), Some("1073741824"));
    // One letter more than the GET: it names the method.
    let get = demo.get("/headers").await;
    let head = demo.ask(Method::HEAD, "/headers", "").await;
    let longer = (get.body.len() + 1).to_string();
    assert_eq!(head.field(CONTENT_LENGTH), Some(&*longer));
}

#[tokio::test]
async fn echo_gives_a_body_back_whole() {
    let demo = Demo::start().await;
    let body: Bytes = (0..8 << 20).map(pattern_byte).collect();
    let request = Request::put("/echo")
        .header(CONTENT_TYPE, "image/x-pattern")
        .body(Full::new(body.clone()))
        .expect("a request");
    let answer = demo.send(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.field(CONTENT_TYPE), Some("image/x-pattern"));
    assert_eq!(answer.field(CONTENT_LENGTH), Some("8388608"));
    assert!(answer.body == body);

    let answer = demo.get("/echo").await;
    assert_eq!(answer.field(CONTENT_TYPE), None);
    assert_eq!(answer.body, "");
}

/// Begins an echo that goes on for as long as the caller likes.
async fn begin_echo(stream: &mut TcpStream) {
    let head = "POST /echo HTTP/1.1\r\nhost: demo\r\ntransfer-encoding: chunked\r\n\r\n";
    let begun = format!("{head}5\r\nfirst\r\n");
    within(stream.write_all(begun.as_bytes()))
        .await
        .expect("room");
    read_until(stream, "\r\n\r\n5\r\nfirst\r\n").await;
}

async fn end_echo(stream: &mut TcpStream) {
    within(stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n"))
        .await
        .expect("room");
    read_until(stream, "6\r\nsecond\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn echo_answers_before_the_body_ends() {
    let demo = Demo::start().await;
    let mut stream = demo.connect().await;
    begin_echo(&mut stream).await;
    end_echo(&mut stream).await;
}

#[tokio::test]
async fn hash_counts_and_hashes() {
    let demo = Demo::start().await;
    for method in [Method::POST, Method::PUT] {
        let answer = demo.ask(method, "/hash", "foobar").await;
        assert_eq!(answer.field(CONTENT_TYPE), Some("application/json"));
        assert_eq!(
            answer.text(),
            "{\"bytes\":6,\"fnv1a64\":\"85944171f73967e8\"}\n"
        );
    }
    let answer = demo
        .ask(Method::POST, "/hash", vec![b'x'; 3_000_000])
        .await
        .json();
    assert_eq!(answer["bytes"], 3_000_000);
    assert_eq!(answer["fnv1a64"].as_str().map(str::len), Some(16));

    let answer = demo.get("/hash").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.field(ALLOW), Some("POST, PUT"));
}

#[tokio::test]
async fn headers_are_shown_as_they_came() {
    let demo = Demo::start().await;
    let mut stream = demo.connect().await;
    let request = b"PATCH /headers?a=%20b HTTP/1.1\r\nHost: demo\r\nX-Two: b\r\nX-One: 1\r\n\
        X-Two: a\r\nX-Latin: caf\xe9\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
    within(stream.write_all(request)).await.expect("room");
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer))
        .await
        .expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let expected = concat!(
        r#"{"method":"PATCH","target":"/headers?a=%20b","version":"HTTP/1.1","headers":["#,
        r#"["host","demo"],["x-two","b"],["x-two","a"],["x-one","1"],["x-latin","café"],"#,
        r#"["content-length","4"],["connection","close"]]}"#
    );
    assert_eq!(body, expected);
}

#[tokio::test]
async fn status_is_as_asked() {
    let demo = Demo::start().await;
    for code in [200, 201, 301, 404, 418, 500, 503, 599] {
        let answer = demo.get(&format!("/status?code={code}")).await;
        assert_eq!(answer.status, code);
        assert!(answer.text().starts_with(&code.to_string()));
    }
    let answer = demo
        .ask(
            Method::POST,
            "/status?code=500&body=oh+dear%21",
            "unread by the app",
        )
        .await;
    assert_eq!((answer.status.as_u16(), answer.text()), (500, "oh dear!"));
    for bad in ["", "?code=", "?code=99", "?code=101", "?code=600"] {
        demo.get(&format!("/status{bad}"))
            .await
            .is_refused("code: want a whole number from 200 to 599");
    }
}

#[tokio::test]
async fn a_status_without_a_body_keeps_the_connection_in_step() {
    let demo = Demo::start().await;
    let mut stream = demo.connect().await;
    for code in [204, 304] {
        let request = format!("GET /status?code={code}&body=no HTTP/1.1\r\nhost: demo\r\n\r\n");
        within(stream.write_all(request.as_bytes()))
            .await
            .expect("room");
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
    within(stream.write_all(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n"))
        .await
        .expect("room");
    let answer = read_until(&mut stream, "hello from one\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn an_unknown_route_lists_the_known() {
    let demo = Demo::start().await;
    let answer = demo.get("/nowhere").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.text().lines().count(), 1);
    for route in [
        "/slow?ms=N",
        "/spin?us=N",
        "/bytes?n=N",
        "/echo",
        "/hash",
        "/headers",
        "/ws",
    ] {
        assert!(answer.text().contains(route), "{route}");
    }
}

#[tokio::test]
async fn ws_echoes() {
    let demo = Demo::start().await;
    let ended = websocket(demo.address, |mut socket| {
        let large: Bytes = (0..1 << 20).map(pattern_byte).collect();
        for message in [
            Message::text("hello"),
            Message::text(""),
            Message::binary(vec![0, 255]),
            Message::binary(large),
        ] {
            socket.send(message.clone()).expect("sent");
            assert!(socket.read().expect("an echo") == message);
        }
        socket.send(Message::Ping("are you".into())).expect("sent");
        assert_eq!(
            socket.read().expect("a pong"),
            Message::Pong("are you".into())
        );

        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "enough".into(),
        };
        socket.close(Some(frame.clone())).expect("sent");
        assert_eq!(
            socket.read().expect("an answer"),
            Message::Close(Some(frame))
        );
        socket.read()
    });
    let ended = ended.await;
    assert!(
        matches!(ended, Err(tungstenite::Error::ConnectionClosed)),
        "{ended:?}"
    );
}

#[tokio::test]
async fn ws_says_what_it_could_not_read() {
    use std::io::Write as _;
    let demo = Demo::start().await;
    for (frame, expected) in [
        // A client has to mask.
        (&b"\x81\x01a"[..], CloseCode::Protocol),
        // Masked with zeroes, and not UTF-8.
        (b"\x81\x81\0\0\0\0\xff", CloseCode::Invalid),
    ] {
        let closed = websocket(demo.address, move |mut socket| {
            socket.get_mut().write_all(frame).expect("sent");
            socket.read()
        });
        match closed.await.expect("a frame") {
            Message::Close(Some(close)) => assert_eq!(close.code, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn ws_needs_an_upgrade() {
    let demo = Demo::start().await;
    let answer = demo.get("/ws").await;
    assert_eq!(answer.status, StatusCode::UPGRADE_REQUIRED);
    assert_eq!(answer.field(UPGRADE), Some("websocket"));
    assert_eq!(answer.field("sec-websocket-version"), Some("13"));

    let handshake = |version: &str| {
        Request::get("/ws")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", version)
            .body(Full::default())
            .expect("a request")
    };
    let answer = demo.send(handshake("8")).await;
    assert_eq!(answer.status, StatusCode::UPGRADE_REQUIRED);
    let answer = demo.send(handshake("13")).await;
    answer.is_refused("sec-websocket-key is missing");

    let answer = demo.ask(Method::POST, "/ws", "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_stop_lets_what_has_begun_end() {
    let demo = Demo::start().await;
    let mut unused = demo.connect().await;
    let mut idle = demo.connect().await;
    within(idle.write_all(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n"))
        .await
        .expect("room");
    read_until(&mut idle, "hello from one\n").await;
    let mut busy = demo.connect().await;
    begin_echo(&mut busy).await;

    demo.stop.send(()).expect("it serves");
    let mut rest = Vec::new();
    for stream in [&mut unused, &mut idle] {
        within(stream.read_to_end(&mut rest)).await.expect("an end");
        assert_eq!(rest, b"");
    }
    assert!(
        within(TcpStream::connect(demo.address)).await.is_err(),
        "it still listens"
    );
    end_echo(&mut busy).await;
    within(busy.read_to_end(&mut rest)).await.expect("an end");
    assert_eq!(rest, b"");
    within(demo.served)
        .await
        .expect("no panic")
        .expect("no error");
}

#[tokio::test]
async fn a_stop_closes_websockets() {
    let Demo {
        address,
        stop,
        served,
    } = Demo::start().await;
    websocket(address, |mut socket| {
        socket.send(Message::text("hello")).expect("sent");
        socket.read().expect("an echo");
        stop.send(()).expect("it serves");
        match socket.read().expect("a frame") {
            Message::Close(Some(close)) => assert_eq!(close.code, CloseCode::Away),
            other => panic!("{other:?}"),
        }
        // Reading on sends the answer, and sees the end.
        let ended = socket.read();
        assert!(
            matches!(ended, Err(tungstenite::Error::ConnectionClosed)),
            "{ended:?}"
        );
    })
    .await;
    within(served).await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let demo = Demo::start_within(Duration::from_millis(20)).await;
    let mut busy = demo.connect().await;
    begin_echo(&mut busy).await;
    demo.stop.send(()).expect("it serves");
    within(demo.served)
        .await
        .expect("no panic")
        .expect("no error");
    let mut rest = Vec::new();
    // An end or a reset: both are one.
    let _ = within(busy.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn dropping_the_server_drops_its_connections() {
    let demo = Demo::start().await;
    let mut busy = demo.connect().await;
    begin_echo(&mut busy).await;
    demo.served.abort();
    let mut rest = Vec::new();
    let _ = within(busy.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_name_has_to_fit_in_a_field() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let refused = within(serve(listener, "one\r\ntwo", std::future::pending())).await;
    assert_eq!(
        refused.expect_err("a bad name").kind(),
        io::ErrorKind::InvalidInput
    );
}

#[test]
fn only_lasting_accept_errors_pause() {
    for (code, pause) in [
        (libc::EMFILE, Some(ACCEPT_PAUSE)),
        (libc::ENFILE, Some(ACCEPT_PAUSE)),
        (libc::ENOBUFS, Some(ACCEPT_PAUSE)),
        (libc::ECONNABORTED, None),
        (libc::EINTR, None),
    ] {
        assert_eq!(accept_pause(&io::Error::from_raw_os_error(code)), pause);
    }
}
