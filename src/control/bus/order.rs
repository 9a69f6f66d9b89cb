//! What a guest says: one JSON object per line, what it wants in the field `op`.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::shown::Shown;
use crate::bus::{Balance, Payload, ProcessId, To};

/// How long an answer is waited for where nothing is said, in seconds.
const USUAL_DEADLINE: f64 = 5.0;
/// The shortest and the longest time for an answer, in seconds.
const DEADLINES: std::ops::RangeInclusive<f64> = 0.001..=86_400.0;
/// The longest text for an id, in bytes: it comes back in the answer.
const MAX_ID: usize = 128;

/// The longest reason why a line is no order, in characters.
const MAX_WHY: usize = 300;

/// A line of a guest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order {
    /// Comes back in the answer. Without it nothing is said of what has worked and has no result.
    pub(crate) id: Option<Value>,
    /// What to do.
    pub(crate) op: Op,
}

/// What a guest can ask for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    /// What is done once, and over then.
    Errand(Errand),
    /// Hear what is said on these topics.
    Subscribe(String),
    /// Not any more.
    Unsubscribe(String),
    /// Host an application.
    Host {
        /// Its name.
        application: String,
        /// What others may know of it.
        description: Value,
    },
    /// Not any more.
    Unhost(String),
    /// Answer the message with this ticket.
    Reply {
        /// The message's.
        ticket: u64,
        /// What the answer says.
        payload: Payload,
    },
    /// Refuse to answer the message with this ticket.
    Refuse {
        /// The message's.
        ticket: u64,
        /// Why.
        error: String,
    },
    /// Tell of comings and goings from now on.
    Watch,
    /// Not any more.
    Unwatch,
}

/// What takes no more than the bus, and is over when it is done: a plain HTTP request will do for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Errand {
    /// Say something on a topic.
    Publish {
        /// To whom.
        to: To,
        /// What about.
        topic: String,
        /// What.
        payload: Payload,
    },
    /// Ask something on a topic.
    Request {
        /// Whom.
        to: To,
        /// What about.
        topic: String,
        /// What.
        payload: Payload,
        /// How long the answer may take.
        deadline: Duration,
    },
    /// Say something to an application.
    Tell {
        /// Which, and after a slash what it is to do.
        application: String,
        /// What.
        payload: Payload,
    },
    /// Ask an application something.
    Call {
        /// Which.
        application: String,
        /// What it is to do; nothing in particular if it is empty.
        action: String,
        /// What is asked.
        payload: Payload,
        /// Which of its hosts gets it.
        balance: Balance,
        /// How long the answer may take.
        deadline: Duration,
    },
    /// Have a process run one of its functions.
    Run {
        /// Which process.
        process: ProcessId,
        /// The function's name.
        function: String,
        /// What it is given.
        arguments: Value,
        /// How long it may take.
        deadline: Duration,
    },
    /// Tell who is there.
    Peers,
}

/// A line is no order: its id, as far as it has one, and why not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NoOrder {
    /// The id that the answer is to have.
    pub(crate) id: Option<Value>,
    /// In words.
    pub(crate) why: String,
}

/// The names of all orders.
const OPS: [&str; 14] = [
    "publish",
    "subscribe",
    "unsubscribe",
    "request",
    "tell",
    "call",
    "run",
    "host",
    "unhost",
    "reply",
    "refuse",
    "peers",
    "watch",
    "unwatch",
];

impl Order {
    /// Reads a line.
    ///
    /// # Errors
    /// It is no order.
    pub(crate) fn read(line: &[u8]) -> Result<Self, NoOrder> {
        let none = |error| NoOrder::new(None, format!("this line is no JSON object: {error}"));
        Self::of(serde_json::from_slice(line).map_err(none)?)
    }

    /// Reads the fields of an object.
    ///
    /// # Errors
    /// They are no order.
    pub(crate) fn of(fields: Map<String, Value>) -> Result<Self, NoOrder> {
        let mut fields = Fields(fields);
        let id = fields.id().map_err(|why| NoOrder::new(None, why))?;
        match fields.op() {
            Ok(op) => Ok(Self { id, op }),
            Err(why) => Err(NoOrder::new(id, why)),
        }
    }
}

impl NoOrder {
    fn new(id: Option<Value>, mut why: String) -> Self {
        // It may hold what came, however long that is.
        if let Some((end, _)) = why.char_indices().nth(MAX_WHY) {
            why.truncate(end);
            why.push('…');
        }
        Self { id, why }
    }
}

/// The fields of an object that have not been looked at yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn op(mut self) -> Result<Op, String> {
        let name: String = self.must("op")?;
        let op = self
            .op_named(&name)
            .map_err(|why| format!("{name}: {why}"))?;
        match self.0.keys().next() {
            None => Ok(op),
            Some(field) => Err(format!("{name}: there is no field `{field}`")),
        }
    }

    fn op_named(&mut self, name: &str) -> Result<Op, String> {
        Ok(match name {
            "publish" => Op::Errand(Errand::Publish {
                to: self.to()?.unwrap_or(To::Subscribers),
                topic: self.must("topic")?,
                payload: self.payload()?,
            }),
            "subscribe" => Op::Subscribe(self.must("pattern")?),
            "unsubscribe" => Op::Unsubscribe(self.must("pattern")?),
            "request" => Op::Errand(Errand::Request {
                to: self.to()?.unwrap_or(To::Subscribers),
                topic: self.must("topic")?,
                payload: self.payload()?,
                deadline: self.deadline()?,
            }),
            "tell" => Op::Errand(Errand::Tell {
                application: self.application_and_action()?,
                payload: self.payload()?,
            }),
            "call" => Op::Errand(Errand::Call {
                application: self.must("application")?,
                action: self.may("action")?.unwrap_or_default(),
                payload: self.payload()?,
                balance: self.balance()?,
                deadline: self.deadline()?,
            }),
            "run" => Op::Errand(Errand::Run {
                process: self.must("process")?,
                function: self.must("function")?,
                arguments: self.0.remove("payload").unwrap_or_default(),
                deadline: self.deadline()?,
            }),
            "peers" => Op::Errand(Errand::Peers),
            "host" => Op::Host {
                application: self.must("application")?,
                description: self.0.remove("description").unwrap_or_default(),
            },
            "unhost" => Op::Unhost(self.must("application")?),
            "reply" => Op::Reply {
                ticket: self.must("ticket")?,
                payload: self.payload()?,
            },
            "refuse" => Op::Refuse {
                ticket: self.must("ticket")?,
                error: self.may("error")?.unwrap_or_default(),
            },
            "watch" => Op::Watch,
            "unwatch" => Op::Unwatch,
            _ => return Err(format!("there is no such op; there are {}", OPS.join(", "))),
        })
    }

    /// A text or a number; `null` is none.
    fn id(&mut self) -> Result<Option<Value>, String> {
        match self.0.remove("id") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.len() > MAX_ID => {
                Err(format!("`id`: more than {MAX_ID} bytes"))
            }
            Some(id @ (Value::String(_) | Value::Number(_))) => Ok(Some(id)),
            Some(_) => Err("`id`: neither a text nor a number".into()),
        }
    }

    /// The field of this name, if it is there.
    fn may<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(value) = self.0.remove(name) else {
            return Ok(None);
        };
        match serde_json::from_value(value) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(format!("`{name}`: {error}")),
        }
    }

    /// The field of this name, which must be there.
    fn must<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, String> {
        self.may(name)?
            .ok_or_else(|| format!("the field `{name}` is missing"))
    }

    fn application_and_action(&mut self) -> Result<String, String> {
        let application: String = self.must("application")?;
        Ok(match self.may::<String>("action")? {
            Some(action) if !action.is_empty() => format!("{application}/{action}"),
            _ => application,
        })
    }

    /// What is said, in one of three ways; nothing is said without them.
    fn payload(&mut self) -> Result<Payload, String> {
        let json = self.0.remove("payload").map(Shown::Payload);
        let text = self.may("text")?.map(Shown::Text);
        let bytes = self.may("base64")?.map(Shown::Base64);
        let mut given = [json, text, bytes].into_iter().flatten();
        match (given.next(), given.next()) {
            (None, _) => Ok(Payload::raw("")),
            (Some(shown), None) => shown.payload(),
            (Some(_), Some(_)) => Err("one of `payload`, `text` and `base64`, not several".into()),
        }
    }

    fn deadline(&mut self) -> Result<Duration, String> {
        let seconds = self.may("deadline")?.unwrap_or(USUAL_DEADLINE);
        match DEADLINES.contains(&seconds) {
            true => Ok(Duration::from_secs_f64(seconds)),
            false => Err("`deadline`: seconds, from 0.001 to 86400".into()),
        }
    }

    fn balance(&mut self) -> Result<Balance, String> {
        match self.may::<String>("balance")?.as_deref() {
            None => Ok(Balance::default()),
            Some(name) => balance(name).map_err(|why| format!("`balance`: {why}")),
        }
    }

    fn to(&mut self) -> Result<Option<To>, String> {
        const WANTED: &str = "`to`: a word such as \"siblings\", the id of a process, {\"worker\": SEAT}, {\"processes\": [ID, …]} or {\"route\": [ID, …]}";
        let wrong = |error| format!("{WANTED}: {error}");
        let to = match self.0.remove("to") {
            None => return Ok(None),
            Some(Value::String(text)) => whom(&text)?,
            Some(Value::Object(mut fields)) if fields.len() == 1 => {
                let mut take = |name| fields.remove(name);
                if let Some(seat) = take("worker") {
                    To::Worker(serde_json::from_value(seat).map_err(wrong)?)
                } else if let Some(processes) = take("processes") {
                    To::Processes(serde_json::from_value(processes).map_err(wrong)?)
                } else if let Some(route) = take("route") {
                    To::Route(serde_json::from_value(route).map_err(wrong)?)
                } else {
                    return Err(WANTED.into());
                }
            }
            Some(_) => return Err(WANTED.into()),
        };
        Ok(Some(to))
    }
}

/// Whom a word means: that of an address, the id of a process, or `worker:SEAT`.
///
/// # Errors
/// Nobody; the text says what would do.
pub(crate) fn whom(text: &str) -> Result<To, String> {
    Ok(match text {
        "subscribers" => To::Subscribers,
        "everyone" => To::Everyone,
        "siblings" => To::Siblings,
        "ancestors" => To::Ancestors,
        "parent" => To::Parent,
        "children" => To::Children,
        "grand-master" => To::GrandMaster,
        text => {
            let seat = text.strip_prefix("worker:").and_then(|s| s.parse().ok());
            let process = text.parse::<ProcessId>().ok();
            seat.map(To::Worker)
                .or(process.map(To::from))
                .ok_or_else(|| {
                    format!(
                        "`{text}` is nobody; there are subscribers, everyone, siblings, ancestors, parent, children, grand-master, worker:SEAT and the ids of processes"
                    )
                })?
        }
    })
}

/// The balance of this name.
///
/// # Errors
/// There is none; the text says which there are.
pub(crate) fn balance(name: &str) -> Result<Balance, String> {
    match name {
        "least-loaded" => Ok(Balance::LeastLoaded),
        "round-robin" => Ok(Balance::RoundRobin),
        "random" => Ok(Balance::Random),
        _ => Err(format!(
            "there is no `{name}`; there are least-loaded, round-robin and random"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn op(line: Value) -> Op {
        let read = Order::read(line.to_string().as_bytes());
        read.unwrap_or_else(|why| panic!("{line}: {why:?}")).op
    }

    fn errand(line: Value) -> Errand {
        match op(line) {
            Op::Errand(errand) => errand,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_order_is_read() {
        let (five, half) = (Duration::from_secs(5), Duration::from_millis(500));
        let id: ProcessId = "000000000000001f:3".parse().expect("an id");
        let word = |to: &str| match errand(json!({"op": "publish", "topic": "t", "to": to})) {
            Errand::Publish { to, .. } => to,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            errand(json!({"op": "publish", "topic": "t", "payload": null})),
            Errand::Publish {
                to: To::Subscribers,
                topic: "t".into(),
                payload: Payload::json(&()).expect("null"),
            }
        );
        for (name, to) in [
            ("subscribers", To::Subscribers),
            ("everyone", To::Everyone),
            ("siblings", To::Siblings),
            ("ancestors", To::Ancestors),
            ("parent", To::Parent),
            ("children", To::Children),
            ("grand-master", To::GrandMaster),
            ("worker:2", To::Worker(2)),
            ("000000000000001f:3", To::from(id)),
        ] {
            assert_eq!(word(name), to);
        }
        for (to, expected) in [
            (json!({"worker": 2}), To::Worker(2)),
            (json!({"processes": [id, id]}), To::Processes(vec![id, id])),
            (json!({"route": [id]}), To::Route(vec![id])),
        ] {
            assert_eq!(
                errand(
                    json!({"op": "request", "to": to, "topic": "t", "text": "x", "deadline": 0.5})
                ),
                Errand::Request {
                    to: expected,
                    topic: "t".into(),
                    payload: "x".into(),
                    deadline: half,
                }
            );
        }
        assert_eq!(
            errand(json!({"op": "tell", "application": "a", "action": "b", "base64": "AA=="})),
            Errand::Tell {
                application: "a/b".into(),
                payload: Payload::raw(vec![0]),
            }
        );
        assert_eq!(
            errand(json!({"op": "call", "application": "a", "balance": "random"})),
            Errand::Call {
                application: "a".into(),
                action: String::new(),
                payload: Payload::raw(""),
                balance: Balance::Random,
                deadline: five,
            }
        );
        assert_eq!(
            errand(json!({"op": "run", "process": id, "function": "f", "payload": [1]})),
            Errand::Run {
                process: id,
                function: "f".into(),
                arguments: json!([1]),
                deadline: five,
            }
        );
        assert_eq!(
            op(json!({"op": "host", "application": "a", "description": {"x": 1}})),
            Op::Host {
                application: "a".into(),
                description: json!({"x": 1}),
            }
        );
        assert_eq!(
            op(json!({"op": "refuse", "ticket": 3, "error": "no"})),
            Op::Refuse {
                ticket: 3,
                error: "no".into(),
            }
        );
        assert_eq!(
            op(json!({"op": "unsubscribe", "pattern": "a.>"})),
            Op::Unsubscribe("a.>".into())
        );
        assert_eq!(op(json!({"op": "peers"})), Op::Errand(Errand::Peers));
    }

    #[test]
    fn ids_are_kept_even_where_the_order_makes_no_sense() {
        for id in [json!(1), json!("x"), json!(1.5)] {
            let read = Order::read(json!({"op": "watch", "id": id}).to_string().as_bytes());
            assert_eq!(read.expect("an order").id, Some(id.clone()));
            let read = Order::read(json!({"op": "fly", "id": id}).to_string().as_bytes());
            assert_eq!(read.expect_err("no order").id, Some(id));
        }
        let read = Order::read(br#"{"op":"watch","id":null}"#).expect("an order");
        assert_eq!(read.id, None);
    }

    #[test]
    fn nonsense_is_told_what_it_is() {
        let deep = format!(r#"{{"op":{}"#, "[".repeat(100_000));
        let long = format!(r#"{{"op":"watch","id":"{}"}}"#, "x".repeat(MAX_ID + 1));
        for (line, why) in [
            ("", "no JSON object"),
            ("[]", "no JSON object"),
            ("{", "no JSON object"),
            ("\u{0}", "no JSON object"),
            (&deep, "recursion"),
            (&long, "`id`"),
            (r#"{"op":"watch","id":[]}"#, "`id`"),
            ("{}", "`op` is missing"),
            (r#"{"op":1}"#, "`op`"),
            (r#"{"op":"fly"}"#, "there are publish, subscribe"),
            (
                r#"{"op":"publish"}"#,
                "publish: the field `topic` is missing",
            ),
            (r#"{"op":"publish","topic":1}"#, "`topic`: invalid type"),
            (r#"{"op":"publish","topic":"t","x":1}"#, "no field `x`"),
            (
                r#"{"op":"publish","topic":"t","text":"","payload":1}"#,
                "not several",
            ),
            (r#"{"op":"publish","topic":"t","base64":"x"}"#, "`base64`"),
            (r#"{"op":"publish","topic":"t","to":"nobody"}"#, "`nobody`"),
            (r#"{"op":"publish","topic":"t","to":7}"#, "`to`"),
            (r#"{"op":"publish","topic":"t","to":{"worker":-1}}"#, "`to`"),
            (
                r#"{"op":"publish","topic":"t","to":{"worker":1,"route":[]}}"#,
                "`to`",
            ),
            (r#"{"op":"publish","topic":"t","to":{"seat":1}}"#, "`to`"),
            (r#"{"op":"request","topic":"t","deadline":0}"#, "`deadline`"),
            (
                r#"{"op":"request","topic":"t","deadline":1e300}"#,
                "`deadline`",
            ),
            (
                r#"{"op":"call","application":"a","balance":"x"}"#,
                "`balance`",
            ),
            (r#"{"op":"run","process":"x","function":"f"}"#, "`process`"),
            (r#"{"op":"reply","ticket":-1}"#, "`ticket`"),
            (r#"{"op":"peers","payload":1}"#, "no field `payload`"),
        ] {
            let error = Order::read(line.as_bytes()).expect_err(why);
            assert!(error.why.contains(why), "{why}: {}", error.why);
        }
        assert!(Order::read(b"\xff").is_err());
        let long = json!({"op": "publish", "topic": "t", "to": "é".repeat(100_000)}).to_string();
        let error = Order::read(long.as_bytes()).expect_err("no order");
        assert_eq!(error.why.chars().count(), MAX_WHY + 1);
    }
}
