//! `examples/chat.rs`: rooms reach across workers, and survive one of them.

use std::{collections::BTreeSet, net::TcpStream};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    self, Message, WebSocket, protocol::frame::coding::CloseCode,
};

use crate::{
    Example,
    harness::{DEADLINE, kill, until},
};

/// Somebody in a room.
struct Guest {
    socket: WebSocket<TcpStream>,
    worker: u64,
    process: i32,
}

impl Guest {
    fn enter(chat: &Example, room: &str) -> Self {
        let stream = TcpStream::connect(chat.address).expect("nobody is refused");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        let url = format!("ws://{}/room/{room}", chat.address);
        let (socket, _) = tungstenite::client(url, stream).expect("a handshake");
        let mut guest = Self {
            socket,
            worker: 0,
            process: 0,
        };
        let place = guest.hear();
        guest.worker = place["worker"].as_u64().expect("a seat");
        guest.process = place["process"].as_i64().expect("a process id") as i32;
        guest
    }

    fn say(&mut self, text: &str) {
        let said = json!({"who": "guest", "text": text});
        let sent = self.socket.send(Message::text(said.to_string()));
        sent.expect("the worker listens");
    }

    fn hear(&mut self) -> Value {
        let text = self.socket.read().expect("it is told").into_text();
        serde_json::from_str(&text.expect("text")).expect("JSON")
    }

    #[track_caller]
    fn hears(&mut self, text: &str) {
        assert_eq!(self.hear(), json!({"who": "guest", "text": text}));
    }

    /// The worker is gone, and with it the connection.
    fn is_cut(&mut self) {
        let ended = self.socket.read();
        assert!(
            matches!(&ended, Err(_) | Ok(Message::Close(_))),
            "{ended:?}"
        );
    }
}

/// Guests of one room until they are at `workers` different ones.
fn spread(chat: &Example, room: &str, workers: usize) -> Vec<Guest> {
    let mut guests: Vec<Guest> = Vec::new();
    until("guests are at several workers", || {
        guests.push(Guest::enter(chat, room));
        let seats: BTreeSet<u64> = guests.iter().map(|guest| guest.worker).collect();
        (seats.len() >= workers).then_some(())
    });
    guests
}

#[test]
fn what_is_said_in_a_room_is_heard_there_by_all_and_nowhere_else() {
    let chat = Example::start("chat");
    let mut room = spread(&chat, "lobby", 3);
    let mut elsewhere = spread(&chat, "attic", 3);
    for n in 0..20 {
        let text = format!("message {n}");
        let speaker = n % room.len();
        room[speaker].say(&text);
        room.iter_mut().for_each(|guest| guest.hears(&text));
    }
    // The first thing that they hear in the attic is what is said there.
    elsewhere[0].say("boo");
    elsewhere.iter_mut().for_each(|guest| guest.hears("boo"));
}

#[test]
fn a_worker_that_is_killed_takes_only_its_own_with_it() {
    let chat = Example::start("chat");
    let mut room = spread(&chat, "lobby", 3);
    let (seat, process) = (room[0].worker, room[0].process);
    kill(process, Signal::SIGKILL);
    let (mut lost, mut left): (Vec<Guest>, Vec<Guest>) =
        room.drain(..).partition(|guest| guest.worker == seat);
    lost.iter_mut().for_each(Guest::is_cut);
    left[0].say("who is left?");
    left.iter_mut()
        .for_each(|guest| guest.hears("who is left?"));
    // Whoever comes to its successor is in the same room.
    let mut back = until("somebody is in the seat again", || {
        let guest = Guest::enter(&chat, "lobby");
        (guest.worker == seat).then_some(guest)
    });
    assert_ne!(back.process, process);
    back.say("I am back");
    back.hears("I am back");
    left.iter_mut().for_each(|guest| guest.hears("I am back"));
}

#[test]
fn a_cluster_that_stops_tells_its_guests_so() {
    let chat = Example::start("chat");
    let mut guest = Guest::enter(&chat, "lobby");
    chat.signal(Signal::SIGTERM);
    match guest.socket.read() {
        Ok(Message::Close(frame)) => {
            let code = frame.map_or(CloseCode::Normal, |frame| frame.code);
            assert_eq!(code, CloseCode::Normal);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let chat = Example::start("chat");
    let mut guest = Guest::enter(&chat, "lobby");
    guest.socket.send(Message::text("hello")).expect("sent");
    let error = guest.hear()["error"].to_string();
    assert!(error.contains("wanted"), "{error}");
    for name in ["a.b", "*", "%3E", "a%20b"] {
        let answer = chat.get(&format!("/room/{name}"));
        assert!(!answer.starts_with("HTTP/1.1 101"), "{name}: {answer}");
        let stream = TcpStream::connect(chat.address).expect("nobody is refused");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        let url = format!("ws://{}/room/{name}", chat.address);
        assert!(tungstenite::client(url, stream).is_err(), "{name}");
    }
    assert!(chat.get("/").contains("<title>Chat</title>"));
}
