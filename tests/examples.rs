//! The examples, run as anybody would run them: real processes, asked by real clients.

mod harness;

#[path = "examples/chat.rs"]
mod chat;
#[path = "examples/doors.rs"]
mod doors;
#[path = "examples/sessions.rs"]
mod sessions;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;

use crate::harness::{DEADLINE, kill, until};

/// An example that runs. Dropping it ends it.
pub struct Example {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Example {
    /// Starts it on a free port, and waits until all its workers are ready.
    #[track_caller]
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &["127.0.0.1:0"])
    }

    /// The same with arguments of its own; it has to say where it listens.
    #[track_caller]
    pub fn start_with(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("example {name}: {error}"));
        let mut told = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut told).expect("text");
        let address = told.trim().rsplit([' ', '/']).next();
        let address = address.and_then(|address| address.parse().ok());
        let Some(address) = address else {
            let ended = child.wait();
            panic!("example {name} said {told:?} ({ended:?})");
        };
        Self { child, address }
    }

    /// The answer to a request that ends its connection.
    #[track_caller]
    pub fn ask(&self, request: &str) -> String {
        self.try_ask(request).expect("an answer")
    }

    /// `None`: the connection was cut.
    #[track_caller]
    pub fn try_ask(&self, request: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).expect("nobody is refused");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    }

    /// The answer to a plain request.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
        ))
    }

    /// Sends the master a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.child.id() as i32, signal);
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
        }
        until("the example ends", || self.child.try_wait().ok().flatten());
    }
}

/// Cargo builds examples with the tests, into a folder beside them.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let profile = test.parent().and_then(|deps| deps.parent());
    profile.expect("a folder").join("examples").join(name)
}
