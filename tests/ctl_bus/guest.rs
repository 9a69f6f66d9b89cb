//! A guest of the bus as a program in any language would be one: a Unix socket and lines of JSON.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use serde_json::Value;

use crate::harness::{DEADLINE, place::Place, until};

/// What a guest asks for first.
pub const ENTER: &str =
    "GET /bus HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: pointsman-bus\r\n\r\n";

/// A guest.
pub struct Guest {
    /// Its connection.
    pub stream: BufReader<UnixStream>,
    /// Its id.
    pub you: String,
}

impl Guest {
    /// Comes in.
    #[track_caller]
    pub fn join(place: &Place) -> Self {
        Self::try_join(place).unwrap_or_else(|answer| panic!("{answer}"))
    }

    /// Comes in, or returns why it may not.
    #[track_caller]
    pub fn try_join(place: &Place) -> Result<Self, String> {
        let stream = UnixStream::connect(place.socket()).expect("a master");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        stream.set_write_timeout(Some(DEADLINE)).expect("a socket");
        (&stream).write_all(ENTER.as_bytes()).expect("sent");
        let mut guest = Self {
            stream: BufReader::new(stream),
            you: String::new(),
        };
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let n = guest.stream.read_line(&mut head).expect("an answer");
            assert!(n > 0, "{head}");
        }
        if !head.starts_with("HTTP/1.1 101 ") {
            let mut why = String::new();
            guest.stream.read_line(&mut why).expect("a reason");
            return Err(head + &why);
        }
        let welcome = guest.next();
        assert_eq!(welcome["event"], "welcome", "{welcome}");
        guest.you = welcome["you"].as_str().expect("an id").to_owned();
        Ok(guest)
    }

    /// Says bytes.
    #[track_caller]
    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("sent");
    }

    /// Says a line.
    #[track_caller]
    pub fn say(&mut self, order: Value) {
        self.say_bytes(format!("{order}\n").as_bytes());
    }

    /// The next line, whatever it is.
    #[track_caller]
    pub fn next(&mut self) -> Value {
        self.try_next().expect("another line")
    }

    /// The next line; `None`: the master has hung up.
    #[track_caller]
    pub fn try_next(&mut self) -> Option<Value> {
        let mut line = String::new();
        let n = self.stream.read_line(&mut line).expect("a line in time");
        (n > 0).then(|| serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")))
    }

    /// The next line that is such an event.
    #[track_caller]
    pub fn next_of(&mut self, event: &str) -> Value {
        loop {
            let next = self.next();
            if next["event"] == event {
                return next;
            }
            assert_ne!(next["event"], "error", "{next}");
        }
    }

    /// The next line that is an error.
    #[track_caller]
    pub fn next_error(&mut self) -> Value {
        loop {
            let next = self.next();
            if next["event"] == "error" {
                return next;
            }
        }
    }

    /// Gives an order and waits for what comes of it; nothing else may come before.
    #[track_caller]
    pub fn ask(&mut self, mut order: Value) -> Value {
        order["id"] = "asked".into();
        self.say(order);
        let answer = self.next();
        assert_eq!(answer["id"], "asked", "{answer}");
        answer
    }

    /// The same, where it must work.
    #[track_caller]
    pub fn does(&mut self, order: Value) {
        let answer = self.ask(order);
        assert_eq!(answer["event"], "ok", "{answer}");
    }
}

/// A program that goes on until it is dropped.
pub struct Running {
    child: Child,
    /// What it has printed, on a thread of its own.
    printed: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    input: Option<ChildStdin>,
}

impl Running {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program");
        let printed = Arc::new(Mutex::new(Vec::new()));
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let lines = printed.clone();
        let reader = thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                lines.lock().expect("no panic").push(line);
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            printed,
            reader: Some(reader),
        }
    }

    /// Starts `pointsman ctl bus` for the master at `place`.
    #[track_caller]
    pub fn ctl_bus(place: &Place, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command.args(["ctl", "--control", &place.socket(), "bus"]);
        Self::start(command.args(arguments))
    }

    /// The lines that it has printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.printed.lock().expect("no panic").clone()
    }

    /// Has it ended?
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }

    /// The exit code that it ends with by itself, all that it has printed read.
    #[track_caller]
    pub fn code(&mut self) -> Option<i32> {
        drop(self.input.take());
        let status = until("the program ends", || {
            self.child.try_wait().expect("our child")
        });
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        status.code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
