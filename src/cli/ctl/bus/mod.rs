//! `pointsman ctl bus`: the bus of a running master for people and for shell scripts.

mod host;
mod listen;
mod pipe;
mod show;

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{json, print};
use crate::{
    bus::{ProcessId, frame::MAX_PAYLOAD, topic},
    cli::duration::duration,
    control::bus::{Event, Guest, Refusal, Shown, balance, line, whom},
    error::{Error, Result},
};

/// Talk with the workers of a running master, and with whoever else is on its bus.
#[derive(Debug, Args)]
#[command(after_help = "\
A message is bytes. PAYLOAD goes as it is, '-' stands for what comes from standard input, and with \
--encoding json it must be JSON, and is said to be.

WHOM is subscribers, everyone, siblings (the workers, for whoever comes in here), children, parent, \
ancestors, grand-master, worker:SEAT, or the id of a process as `peers` shows it.

Examples:
  pointsman ctl bus publish room.7.said 'good morning'
  pointsman ctl bus subscribe 'room.*.said' | jq -r .text
  pointsman ctl bus request cache.size --to worker:0
  echo '{\"to\":\"en\"}' | pointsman ctl bus call translator/translate - --encoding json
  pointsman ctl bus host clock -- date
  pointsman ctl bus run flush --on 4f2a000000000001:3 '[\"sessions\"]'
  pointsman ctl bus peers

docs/bus.md has the rest, and the protocol behind it, which any language can speak.

Exit codes: 0 it worked, 1 it failed (nobody hosts it, no answer in time, …), 2 wrong usage, 3 there is \
no master.")]
pub(super) struct Bus {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say something on a topic.
    Publish {
        /// What about: words with dots between them.
        topic: String,
        #[command(flatten)]
        saying: Saying,
        /// To whom, of those who listen to the topic.
        #[arg(long, value_name = "WHOM", default_value = "subscribers")]
        to: String,
    },
    /// Print what is said on topics, a line of JSON for each message.
    Subscribe {
        /// Topics, in which * stands for one word, and > at the end for one or more.
        #[arg(required = true, value_name = "PATTERN")]
        patterns: Vec<String>,
        #[command(flatten)]
        until: Until,
    },
    /// Ask something on a topic, and print the answer.
    Request {
        /// What about.
        topic: String,
        #[command(flatten)]
        saying: Saying,
        /// Whom, of those who listen to the topic. If several answer, the first answer counts.
        #[arg(long, value_name = "WHOM", default_value = "subscribers")]
        to: String,
        #[command(flatten)]
        patience: Patience,
    },
    /// Say something to an application.
    Tell {
        /// Which, and after a slash what it is to do.
        #[arg(value_name = "APPLICATION[/ACTION]")]
        application: String,
        #[command(flatten)]
        saying: Saying,
    },
    /// Ask an application something, and print the answer.
    Call {
        /// Which, and after a slash what it is to do.
        #[arg(value_name = "APPLICATION[/ACTION]")]
        application: String,
        #[command(flatten)]
        saying: Saying,
        /// Which of those who host it: least-loaded, round-robin or random.
        #[arg(long, value_name = "HOW", default_value = "least-loaded")]
        balance: String,
        #[command(flatten)]
        patience: Patience,
    },
    /// Have a process run one of its functions, and print the result.
    Run {
        /// The function's name.
        function: String,
        /// Which process.
        #[arg(long, value_name = "PROCESS")]
        on: ProcessId,
        /// What the function is given, as JSON [default: null].
        arguments: Option<String>,
        #[command(flatten)]
        patience: Patience,
    },
    Host(host::Host),
    /// Show who is on the bus, and what they host and offer.
    Peers,
    /// Print who comes, changes and goes.
    Watch {
        #[command(flatten)]
        until: Until,
    },
    /// Speak the protocol of docs/bus.md over standard input and output: a program that can start another
    /// needs no more to be on the bus.
    Pipe,
}

/// What is said.
#[derive(Debug, Args)]
struct Saying {
    /// What is said; '-': what comes from standard input [default: nothing].
    payload: Option<OsString>,
    /// What it is.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = As::Raw)]
    encoding: As,
}

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum As {
    /// Bytes as they are.
    Raw,
    /// JSON, and nothing else.
    Json,
}

/// How long an answer is waited for.
#[derive(Debug, Args)]
struct Patience {
    /// How long the answer may take.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

/// When to end; without any of it, never.
#[derive(Debug, Args)]
struct Until {
    /// End after so many lines.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time: exit code 1 if --count has not been reached by then.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

impl Bus {
    /// Looks at what can be seen to be wrong without a master.
    ///
    /// # Errors
    /// It makes no sense.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::usage(why));
        match &self.command {
            Command::Publish { topic, to, .. } | Command::Request { topic, to, .. } => {
                if !topic::is_topic(topic) {
                    return wrong(format!(
                        "'{topic}' is no topic: words with dots between them, without blanks, '*' and '>'"
                    ));
                }
                whom(to)
                    .map(drop)
                    .or_else(|why| wrong(format!("--to: {why}")))
            }
            Command::Subscribe { patterns, .. } => {
                match patterns.iter().find(|pattern| !topic::is_pattern(pattern)) {
                    None => Ok(()),
                    Some(pattern) => wrong(format!(
                        "'{pattern}' is no pattern: words with dots between them, '*' for one word, '>' at the end for one or more"
                    )),
                }
            }
            Command::Call { balance: name, .. } => {
                let known = balance(name).map(drop);
                known.or_else(|why| wrong(format!("--balance: {why}")))
            }
            Command::Run {
                arguments: Some(arguments),
                ..
            } => parsed(arguments.as_bytes(), "ARGUMENTS").map(drop),
            Command::Host(host) => host.check(),
            _ => Ok(()),
        }
    }

    /// Does it, with the master at `path`.
    ///
    /// # Errors
    /// It does not work, or nobody is there.
    pub(super) async fn run(self, path: PathBuf, as_json: bool) -> Result<()> {
        match self.command {
            Command::Publish { topic, saying, to } => {
                let order = json!({"op": "publish", "topic": topic, "to": to});
                tell(path, saying.said_in(order)?).await
            }
            Command::Tell {
                application,
                saying,
            } => {
                let (application, action) = parts(&application);
                let order = json!({"op": "tell", "application": application, "action": action});
                tell(path, saying.said_in(order)?).await
            }
            Command::Request {
                topic,
                saying,
                to,
                patience,
            } => {
                let order = json!({"op": "request", "topic": topic, "to": to});
                ask(path, patience.added_to(saying.said_in(order)?), as_json).await
            }
            Command::Call {
                application,
                saying,
                balance,
                patience,
            } => {
                let (application, action) = parts(&application);
                let order = json!({
                    "op": "call", "application": application, "action": action, "balance": balance,
                });
                ask(path, patience.added_to(saying.said_in(order)?), as_json).await
            }
            Command::Run {
                function,
                on,
                arguments,
                patience,
            } => {
                let arguments = arguments.as_deref().unwrap_or("null");
                let arguments = parsed(arguments.as_bytes(), "ARGUMENTS")?;
                let order = json!({
                    "op": "run", "function": function, "process": on, "payload": arguments,
                });
                ask(path, patience.added_to(order), as_json).await
            }
            Command::Peers => peers(path, as_json).await,
            Command::Subscribe { patterns, until } => {
                listen::subscribe(path, &patterns, &until).await
            }
            Command::Watch { until } => listen::watch(path, &until, as_json).await,
            Command::Host(host) => host.run(path).await,
            Command::Pipe => pipe::run(path).await,
        }
    }
}

impl Saying {
    /// Puts it into an order.
    fn said_in(self, mut order: Value) -> Result<Value> {
        let bytes = match self.payload {
            None => return Ok(order),
            Some(payload) if payload == "-" => standard_input()?,
            Some(payload) => payload.as_bytes().to_vec(),
        };
        if bytes.len() > MAX_PAYLOAD {
            return Err(Error::usage(too_large()));
        }
        let shown = match self.encoding {
            As::Json => Shown::Payload(parsed(&bytes, "PAYLOAD")?),
            As::Raw => Shown::raw(&bytes),
        };
        add(&mut order, shown);
        Ok(order)
    }
}

/// Puts what is said into an order.
fn add(order: &mut Value, shown: Shown) {
    match shown {
        Shown::Payload(value) => order["payload"] = value,
        Shown::Text(text) => order["text"] = text.into(),
        Shown::Base64(text) => order["base64"] = text.into(),
    }
}

impl Patience {
    /// Puts it into an order.
    fn added_to(&self, mut order: Value) -> Value {
        order["deadline"] = json!(self.timeout.as_secs_f64());
        order
    }
}

/// All that comes, up to more than a payload may have.
fn standard_input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = io::stdin()
        .lock()
        .take(MAX_PAYLOAD as u64 + 1)
        .read_to_end(&mut bytes);
    read.map_err(|error| Error::runtime("cannot read standard input", error))?;
    Ok(bytes)
}

fn too_large() -> String {
    format!(
        "a payload has at most {} KiB: say where it is instead",
        MAX_PAYLOAD / 1024
    )
}

fn parsed(bytes: &[u8], what: &str) -> Result<Value> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::usage(format!("{what}: this is no JSON: {error}")))
}

/// An application, and what it is to do.
fn parts(application: &str) -> (&str, &str) {
    application.split_once('/').unwrap_or((application, ""))
}

/// Gives an order that has no answer.
async fn tell(path: PathBuf, order: Value) -> Result<()> {
    let mut guest = Guest::join(path).await?;
    let what = subject(&order);
    let done = guest.ask(order).await?;
    done.map(drop).map_err(|refusal| explained(&what, refusal))
}

/// Gives an order that has an answer, and prints that.
async fn ask(path: PathBuf, order: Value, as_json: bool) -> Result<()> {
    let mut guest = Guest::join(path).await?;
    let what = subject(&order);
    let done = guest.ask(order).await?;
    match done.map_err(|refusal| explained(&what, refusal))? {
        event if as_json => write(&line(&event)),
        Event::Reply { payload, .. } => write(&show::answer(payload)?),
        _ => Ok(()),
    }
}

async fn peers(path: PathBuf, as_json: bool) -> Result<()> {
    let mut guest = Guest::join(path).await?;
    match guest
        .ask(json!({"op": "peers"}))
        .await?
        .map_err(|refusal| explained("peers", refusal))?
    {
        Event::Peers { peers, .. } if as_json => print(&json(&peers)?),
        Event::Peers { peers, .. } => print(&show::peers(&peers)),
        _ => Ok(()),
    }
}

/// What an order is about.
fn subject(order: &Value) -> String {
    let names = ["topic", "application", "function"];
    let name = names.iter().find_map(|name| order[name].as_str());
    name.unwrap_or_default().to_owned()
}

/// Why it did not work with `what`, and the way out.
fn explained(what: &str, refusal: Refusal) -> Error {
    let Refusal { reason, error } = refusal;
    // Whoever refuses says it in words of its own.
    let error = format!("{what}: {}", show::plain(&error));
    let way_out = match reason.as_str() {
        "no-host" | "no-listener" | "unroutable" => {
            "'pointsman ctl bus peers' shows who is there and what they host"
        }
        "expired" => "--timeout TIME waits longer",
        "invalid" => return Error::usage(error),
        _ => return Error::failed(error),
    };
    Error::failed(format!("{error}: {way_out}"))
}

/// Writes bytes as they are.
fn write(bytes: &[u8]) -> Result<()> {
    match show::put(bytes) {
        Ok(()) | Err(show::Unread::Gone) => Ok(()),
        Err(show::Unread::Failed(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        bus: Bus,
    }

    fn parse(line: &[&str]) -> std::result::Result<Bus, String> {
        let arguments = std::iter::once("bus").chain(line.iter().copied());
        Arguments::try_parse_from(arguments)
            .map(|arguments| arguments.bus)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_another_process_says_is_nothing_that_a_terminal_obeys() {
        let refusal = Refusal {
            reason: "refused".into(),
            error: "no\u{1b}[31m\n".into(),
        };
        assert_eq!(explained("a", refusal).to_string(), "a: no?[31m?");
    }

    #[test]
    fn sensible_lines_are_taken() {
        for line in [
            &["publish", "a.b"][..],
            &["publish", "a.b", "-", "--encoding", "json"],
            &["publish", "a.b", "x", "--to", "worker:3"],
            &["publish", "a.b", "x", "--to", "000000000000001f:3"],
            &["subscribe", "a.*", ">", "--count", "2", "--timeout", "1s"],
            &["request", "a", "--timeout", "500ms"],
            &["tell", "a/b", "x"],
            &["call", "a/b", "x", "--balance", "random"],
            &["run", "f", "--on", "000000000000001f:3", "[1]"],
            &["host", "a", "--count", "1", "--", "tr", "a-z", "A-Z"],
            &["peers"],
            &["watch", "--count", "1"],
            &["pipe"],
        ] {
            let bus = parse(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            bus.check()
                .unwrap_or_else(|error| panic!("{line:?}: {error}"));
        }
    }

    #[test]
    fn nonsense_is_refused_before_anybody_is_asked() {
        for (line, why) in [
            (&["publish", "a b"][..], "no topic"),
            (&["publish", "a.*"], "no topic"),
            (&["publish", "a", "--to", "nobody"], "--to"),
            (&["request", "a", "--to", "1:2"], "--to"),
            (&["subscribe", ">.a"], "no pattern"),
            (&["call", "a", "--balance", "fair"], "--balance"),
            (
                &["run", "f", "--on", "000000000000001f:3", "{"],
                "ARGUMENTS",
            ),
            (
                &["host", "a", "--description", "{", "--", "date"],
                "--description",
            ),
        ] {
            let bus = parse(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            let error = bus.check().expect_err(why);
            assert!(
                error.is_usage() && error.to_string().contains(why),
                "{error}"
            );
        }
        for (line, why) in [
            (&["fly"][..], "fly"),
            (&["subscribe"], "PATTERN"),
            (&["subscribe", "a", "--count", "0"], "0"),
            (&["host", "a"], "COMMAND"),
            (&["host", "a", "date"], "date"),
            (&["run", "f"], "--on"),
            (&["run", "f", "--on", "7"], "16 hexadecimal"),
            (&["publish", "a", "x", "--encoding", "xml"], "xml"),
            (&["request", "a", "--timeout", "5"], "unit"),
        ] {
            let error = parse(line).expect_err(why);
            assert!(error.contains(why), "{line:?}: {error}");
        }
    }

    #[test]
    fn what_is_said_goes_into_the_order_as_it_is() {
        let said = |payload: Option<&[u8]>, encoding| {
            use std::os::unix::ffi::OsStringExt;
            let payload = payload.map(|bytes| OsString::from_vec(bytes.to_vec()));
            Saying { payload, encoding }.said_in(json!({"op": "publish"}))
        };
        for (payload, encoding, expected) in [
            (None, As::Raw, json!({"op": "publish"})),
            (
                Some(&b""[..]),
                As::Raw,
                json!({"op": "publish", "text": ""}),
            ),
            (
                Some(b"{\"a\":1}"),
                As::Raw,
                json!({"op": "publish", "text": "{\"a\":1}"}),
            ),
            (
                Some(b"{\"a\":1}"),
                As::Json,
                json!({"op": "publish", "payload": {"a": 1}}),
            ),
            (
                Some(b"\xff"),
                As::Raw,
                json!({"op": "publish", "base64": "/w=="}),
            ),
        ] {
            assert_eq!(said(payload, encoding).expect("sound"), expected);
        }
        let large = vec![b'x'; MAX_PAYLOAD + 1];
        for error in [said(Some(b"{"), As::Json), said(Some(&large), As::Raw)] {
            assert!(error.expect_err("nonsense").is_usage());
        }
    }

    #[test]
    fn errors_name_the_way_out() {
        for (reason, code, way_out) in [
            ("no-host", 1, "ctl bus peers"),
            ("expired", 1, "--timeout"),
            ("invalid", 2, "what"),
            ("refused", 1, "what"),
        ] {
            let error = explained(
                "a",
                Refusal {
                    reason: reason.into(),
                    error: "what".into(),
                },
            );
            assert_eq!(error.exit_code(), code, "{reason}");
            assert!(error.to_string().contains(way_out), "{error}");
        }
    }
}
