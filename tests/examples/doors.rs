//! `examples/hello.rs`, `axum.rs`, `echo.rs` and `vip.rs`: each answers, also when a worker is killed.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
};

use nix::sys::signal::Signal;

use crate::{
    Example,
    harness::{DEADLINE, kill, until},
};

/// The number that follows a word.
fn number(text: &str, word: &str) -> i32 {
    let (_, after) = text
        .split_once(&format!("{word} "))
        .unwrap_or_else(|| panic!("no {word}: {text}"));
    let end = after
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(after.len());
    after[..end].parse().expect("a number")
}

/// Kills the worker that has given this answer, and waits for another in its seat.
fn survives(answer: &str, mut again: impl FnMut() -> Option<String>) {
    let (seat, pid) = (number(answer, "worker"), number(answer, "process"));
    kill(pid, Signal::SIGKILL);
    until("its successor answers", || {
        let answer = again()?;
        (number(&answer, "worker") == seat && number(&answer, "process") != pid).then_some(())
    });
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";

#[test]
fn hello_says_hello() {
    let hello = Example::start("hello");
    let answer = hello.get("/");
    assert!(answer.contains("\r\n\r\nhello from worker "), "{answer}");
    survives(&answer, || hello.try_ask(REQUEST));
}

#[test]
fn axum_says_what_any_of_its_workers_was_told() {
    let axum = Example::start("axum");
    let answer = axum.get("/");
    assert!(answer.contains("hello from worker "), "{answer}");
    let set = "POST /greeting HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 12\r\n\r\ngood evening";
    assert!(axum.ask(set).starts_with("HTTP/1.1 202 "));
    let mut told = std::collections::BTreeSet::new();
    until("all workers say so", || {
        let answer = axum.get("/");
        if answer.contains("good evening from") {
            told.insert(number(&answer, "worker"));
        }
        (told.len() == 4).then_some(())
    });
    survives(&answer, || axum.try_ask(REQUEST));
}

/// A connection from this address to an example that says something first.
fn connect_from(example: &Example, host: Ipv4Addr) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let own = SocketAddr::new(IpAddr::V4(host), 0);
    socket.bind(&own.into()).expect("a loopback address");
    socket
        .connect(&example.address.into())
        .expect("nobody is refused");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    stream
}

#[test]
fn echo_says_the_same() {
    let echo = Example::start("echo");
    let greet = || {
        let mut conn = BufReader::new(connect_from(&echo, Ipv4Addr::LOCALHOST));
        let mut greeting = String::new();
        conn.read_line(&mut greeting).ok()?;
        Some((conn, greeting)).filter(|(_, greeting)| !greeting.is_empty())
    };
    let (mut conn, greeting) = greet().expect("a greeting");
    for n in 0..100 {
        let said = format!("line {n}\n");
        conn.get_mut()
            .write_all(said.as_bytes())
            .expect("it listens");
        let mut heard = String::new();
        conn.read_line(&mut heard).expect("an answer");
        assert_eq!(heard, said);
    }
    survives(&greeting, || greet().map(|(_, greeting)| greeting));
    // Its own worker was that one.
    let mut rest = String::new();
    assert!(
        conn.read_line(&mut rest).is_err() || rest.is_empty(),
        "{rest}"
    );
}

#[test]
fn vips_are_served_by_the_special_worker() {
    let vip = Example::start("vip");
    let special = Ipv4Addr::new(127, 0, 0, 9);
    let ask = |host| {
        let mut answer = String::new();
        connect_from(&vip, host).read_to_string(&mut answer).ok()?;
        Some(answer).filter(|answer| !answer.is_empty())
    };
    let mut moved = 0;
    for _ in 0..30 {
        let answer = ask(special).expect("an answer");
        assert!(
            answer.starts_with("special priority: worker 0, "),
            "{answer}"
        );
        moved += usize::from(answer.contains("moved here by "));
        let answer = ask(Ipv4Addr::LOCALHOST).expect("an answer");
        assert!(answer.starts_with("normal priority: worker "), "{answer}");
        assert!([1, 2].contains(&number(&answer, "worker")), "{answer}");
        moved += usize::from(answer.contains("moved here by "));
    }
    // Three workers get them in turn: two of three must be moved, or one.
    assert!(moved > 0, "nothing was moved");
    survives(&ask(special).expect("an answer"), || ask(special));
}
