//! `ctl bus host`: an application that is a command, run for each message.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use clap::Args;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

use super::{add, explained, parsed, too_large};
use crate::{
    bus::frame::MAX_PAYLOAD,
    control::{
        bus::{Event, Guest, Hears, Refusal, Shown, What},
        client,
    },
    error::{Error, Result},
    notice,
};

/// Calls that wait for their turn; more are refused.
const MAX_WAITING: usize = 256;

/// The longest reason for which a call is refused, in characters.
const MAX_REASON: usize = 300;

/// Be an application: run a command for each message that comes for it.
#[derive(Debug, Args)]
#[command(after_help = "\
The command gets the payload on its standard input, and who asks for what in POINTSMAN_APPLICATION, \
POINTSMAN_ACTION and POINTSMAN_FROM. What it prints is the answer. If it ends with another code than 0 \
the call is refused with the last line of what it wrote to standard error.

Examples:
  pointsman ctl bus host clock -- date
  pointsman ctl bus host upper --at-once 4 --description '{\"lang\":\"en\"}' -- tr a-z A-Z")]
pub(super) struct Host {
    /// The application's name.
    application: String,
    /// What others may know of it, as JSON.
    #[arg(long, value_name = "JSON", default_value = "null")]
    description: String,
    /// How many commands may run at once.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    at_once: u16,
    /// End after so many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// The command.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// A message on its way to a command.
struct Call {
    /// Names it in the answer; `None`: none is wanted.
    ticket: Option<u64>,
    application: String,
    action: String,
    from: String,
    payload: Shown,
}

/// Why a stay is over.
enum Over {
    /// As many messages as were wanted have been answered.
    Done,
    /// The master has gone, but may come back.
    Away,
}

impl Host {
    /// Looks at what can be seen to be wrong without a master.
    ///
    /// # Errors
    /// The description is no JSON.
    pub(super) fn check(&self) -> Result<()> {
        parsed(self.description.as_bytes(), "--description").map(drop)
    }

    /// Hosts it, with the master at `path`, until it has answered as many messages as it is to.
    ///
    /// # Errors
    /// It may not be hosted, or the master has gone.
    pub(super) async fn run(mut self, path: PathBuf) -> Result<()> {
        let mut guest = Guest::join(path.clone()).await?;
        let mut again = "";
        loop {
            match self.stay(&mut guest, &path, again).await? {
                Over::Done => {
                    // The answers are heard before the master hangs up.
                    let (hears, says) = guest.both();
                    says.finish().await;
                    while hears.next().await.is_ok() {}
                    return Ok(());
                }
                Over::Away => {
                    notice(format_args!(
                        "the master has gone; waiting for it to come back"
                    ));
                    guest = guest.rejoin().await?;
                    again = " again";
                }
            }
        }
    }

    async fn stay(&mut self, guest: &mut Guest, path: &Path, again: &str) -> Result<Over> {
        let (hears, says) = guest.both();
        let (orders, mut to_say) = mpsc::unbounded_channel();
        let answering = self.answer(hears, orders, path, again);
        let saying = async {
            while let Some(order) = to_say.recv().await {
                // An error: the other side will notice.
                if says.say(&order).await.is_err() {
                    return;
                }
            }
        };
        // Neither waits for the other: a master that is not read from does not read.
        tokio::join!(answering, saying).0
    }

    /// Runs the command for each message, and puts what is to be said into `orders`.
    async fn answer(
        &mut self,
        hears: &mut Hears,
        orders: mpsc::UnboundedSender<Value>,
        path: &Path,
        again: &str,
    ) -> Result<Over> {
        let description = parsed(self.description.as_bytes(), "--description")?;
        // Nobody takes it any more: the master has gone, which is heard, too.
        let say = |order: Value| _ = orders.send(order);
        say(json!({
            "op": "host", "application": self.application, "description": description, "id": 0,
        }));
        let mut running = JoinSet::new();
        let mut waiting = VecDeque::new();
        loop {
            while running.len() < usize::from(self.at_once)
                && let Some(call) = waiting.pop_front()
            {
                let command = self.command_for(&call, path);
                running.spawn_blocking(move || answer_to(command, call));
            }
            let enough = self.count == Some(0);
            if enough && running.is_empty() && waiting.is_empty() {
                return Ok(Over::Done);
            }
            tokio::select! {
                Some(done) = running.join_next() => match done {
                    Ok(Some(order)) => say(order),
                    Ok(None) => {}
                    Err(error) => return Err(Error::failed(error.to_string())),
                },
                heard = hears.next() => {
                    let Ok((event, _)) = heard else {
                        return Ok(Over::Away);
                    };
                    match call_in(event, &self.application, again)? {
                        Heard::Call(call) if enough || waiting.len() >= MAX_WAITING => {
                            let error = "too many calls wait for this application";
                            say(json!({"op": "refuse", "ticket": call.ticket, "error": error}));
                        }
                        Heard::Call(call) => {
                            waiting.push_back(call);
                            self.count = self.count.map(|count| count - 1);
                        }
                        Heard::Nothing => {}
                        Heard::Away => return Ok(Over::Away),
                    }
                }
            }
        }
    }

    fn command_for(&self, call: &Call, path: &Path) -> Command {
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .env("POINTSMAN_APPLICATION", &call.application)
            .env("POINTSMAN_ACTION", &call.action)
            .env("POINTSMAN_FROM", &call.from)
            .env(client::VARIABLE, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// What an event is to a host.
enum Heard {
    Call(Call),
    Nothing,
    Away,
}

fn call_in(event: Event, name: &str, again: &str) -> Result<Heard> {
    Ok(match event {
        Event::Message {
            from,
            what:
                What::Application {
                    application,
                    action,
                },
            ticket,
            payload,
            ..
        } => Heard::Call(Call {
            ticket,
            application,
            action,
            from: from.to_string(),
            payload,
        }),
        Event::Ok { .. } => {
            notice(format_args!("hosting {name}{again}"));
            Heard::Nothing
        }
        // Of the order to host.
        Event::Error {
            id: Some(_),
            reason,
            error,
        } => return Err(explained(name, Refusal { reason, error })),
        // Of an answer that came too late, say.
        Event::Error { error, .. } => {
            notice(format_args!("{name}: {error}"));
            Heard::Nothing
        }
        Event::Bye { again: true, .. } => Heard::Away,
        Event::Bye { error, .. } => return Err(Error::failed(error)),
        _ => Heard::Nothing,
    })
}

/// Runs a command; what is to be said of it.
fn answer_to(command: Command, call: Call) -> Option<Value> {
    let Call {
        ticket,
        application,
        payload,
        ..
    } = call;
    let outcome = printed_by(command, payload);
    let Some(ticket) = ticket else {
        if let Err(error) = outcome {
            notice(format_args!("{application}: {error}"));
        }
        return None;
    };
    Some(match outcome {
        Ok(bytes) => {
            let mut order = json!({"op": "reply", "ticket": ticket});
            add(&mut order, Shown::raw(&bytes));
            order
        }
        Err(error) => json!({"op": "refuse", "ticket": ticket, "error": error}),
    })
}

/// Runs a command, and returns what it has printed.
fn printed_by(mut command: Command, payload: Shown) -> std::result::Result<Vec<u8>, String> {
    let bytes = match payload {
        Shown::Payload(value) => value.to_string().into_bytes(),
        other => other.payload()?.bytes().to_vec(),
    };
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: io::Error| format!("{program}: {}", crate::error::describe(&error));
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A thread of its own: the command may print before it has read everything. One that does not
        // want to know is right as well.
        std::thread::spawn(move || _ = stdin.write_all(&bytes));
    }
    // Read beside it, so that one that complains much is not held up.
    let complaints = child.stderr.take().map(|stderr| {
        std::thread::spawn(move || {
            let mut end = Vec::new();
            let _ = keep_end(stderr, &mut end);
            end
        })
    });
    let mut printed = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let most = MAX_PAYLOAD as u64 + 1;
        stdout
            .take(most)
            .read_to_end(&mut printed)
            .map_err(failed)?;
    }
    if printed.len() > MAX_PAYLOAD {
        // It may never end by itself. An error: it has already.
        let _ = child.kill();
        child.wait().map_err(failed)?;
        return Err(too_large());
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(printed);
    }
    let complaints = complaints.and_then(|thread| thread.join().ok());
    Err(last_words(
        &program,
        status,
        &complaints.unwrap_or_default(),
    ))
}

/// Reads all there is, and keeps the last of it, a few kilobytes.
fn keep_end(mut from: impl Read, end: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 4096];
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        end.extend_from_slice(&piece[..read]);
        end.drain(..end.len().saturating_sub(2 * piece.len()));
    }
}

/// Why a command has failed, as it says itself.
fn last_words(program: &str, status: ExitStatus, stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    match last {
        Some(line) => line.chars().take(MAX_REASON).collect(),
        None => format!("{program}: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, payload: Shown) -> std::result::Result<Vec<u8>, String> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        printed_by(command, payload)
    }

    #[test]
    fn a_command_gets_the_payload_and_its_output_is_the_answer() {
        for (payload, expected) in [
            (Shown::Text("a\n".into()), &b"a\n"[..]),
            (Shown::Payload(json!({"a": 1})), b"{\"a\":1}"),
            (Shown::Base64("/wA=".into()), b"\xff\x00"),
        ] {
            assert_eq!(sh("cat", payload).as_deref(), Ok(expected));
        }
        // One that does not read, and one that prints more than a pipe holds before it reads.
        let much = Shown::Text("x".repeat(MAX_PAYLOAD));
        assert_eq!(
            sh("echo hello", much.clone()).as_deref(),
            Ok(&b"hello\n"[..])
        );
        // One that would never end, or never stop to print.
        for script in ["yes | head -c 200000; cat", "exec yes"] {
            let error = sh(script, much.clone()).expect_err("too much");
            assert!(error.contains("64 KiB"), "{error}");
        }
    }

    #[test]
    fn a_command_that_fails_has_the_last_word() {
        for (script, expected) in [
            (
                "echo first >&2; echo no such word >&2; exit 3",
                "no such word",
            ),
            (
                "yes | head -c 300000 >&2; echo at last >&2; exit 3",
                "at last",
            ),
            ("exit 3", "/bin/sh: exit status: 3"),
            ("kill -9 $$", "/bin/sh: signal: 9 (SIGKILL)"),
        ] {
            let error = sh(script, Shown::Text(String::new())).expect_err(script);
            assert_eq!(error, expected);
        }
        let mut absent = Command::new("/nonexistent/program");
        absent.stdin(Stdio::piped());
        let error = printed_by(absent, Shown::Text(String::new())).expect_err("nothing there");
        assert!(error.contains("/nonexistent/program"), "{error}");
    }
}
