//! What a guest is told: one JSON object per line, its kind in the field `event`.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shown::Shown;
use crate::bus::{BusError, Departure, Failure, MasterId, Peer, Presence, ProcessId};

/// A line for a guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The first line.
    Welcome {
        /// The version of this protocol.
        protocol: u32,
        /// The guest itself.
        you: ProcessId,
        /// The one above it, which is the master that it has asked.
        parent: Option<ProcessId>,
        /// The master at the top of the tree.
        grand_master: ProcessId,
        /// The longest line that it may send, in bytes.
        max_line: usize,
    },
    /// What was asked for with this id is done.
    Ok {
        /// The order's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Value>,
    },
    /// The answer to what was asked with this id.
    Reply {
        /// The order's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Value>,
        /// Whose answer it is; not said of a function's result.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<ProcessId>,
        /// What it says.
        #[serde(flatten)]
        payload: Shown,
    },
    /// Who is there.
    Peers {
        /// The order's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Value>,
        /// All of them, the guest included.
        peers: Vec<Peer>,
    },
    /// Somebody says something.
    Message {
        /// Who.
        from: ProcessId,
        /// What about.
        #[serde(flatten)]
        what: What,
        /// Names the message in the answer that its sender waits for; without it nobody waits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ticket: Option<u64>,
        /// So many messages before this one are lost: the guest was too slow.
        #[serde(default, skip_serializing_if = "is_zero")]
        missed: u64,
        /// The masters that it has come through, first the sender's own.
        path: Vec<MasterId>,
        /// What it says.
        #[serde(flatten)]
        payload: Shown,
    },
    /// Somebody has come, changed or gone.
    Presence {
        /// `online`, `ready`, `changed` or `offline`.
        what: String,
        /// Who.
        peer: Box<Peer>,
        /// Why it is gone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Departure>,
        /// So many events before this one are lost: the guest was too slow, and may ask for all peers.
        #[serde(default, skip_serializing_if = "is_zero")]
        missed: u64,
    },
    /// Something did not work. Nothing else ends over it.
    Error {
        /// The order's that it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Value>,
        /// For programs, in one word.
        reason: String,
        /// For people.
        error: String,
    },
    /// The last line.
    Bye {
        /// May the guest come back at once? It may when the master becomes another binary.
        again: bool,
        /// Why it is the last.
        error: String,
    },
}

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum What {
    /// A topic that the guest has subscribed to.
    Topic {
        /// It.
        topic: String,
        /// The pattern by which it has: a message that several match comes once for each.
        pattern: String,
    },
    /// An application that the guest hosts.
    Application {
        /// Its name.
        application: String,
        /// What it is asked to do; nothing in particular if it is empty.
        action: String,
    },
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Event {
    /// Tells of a coming or going, before which so many others are lost.
    pub(crate) fn presence(presence: Presence, missed: u64) -> Self {
        let (what, peer, reason) = match presence {
            Presence::Online(peer) => ("online", peer, None),
            Presence::Ready(peer) => ("ready", peer, None),
            Presence::Changed(peer) => ("changed", peer, None),
            Presence::Offline { peer, reason } => ("offline", peer, Some(reason)),
        };
        Self::Presence {
            what: what.into(),
            peer: Box::new(peer),
            reason,
            missed,
        }
    }

    /// Why the order with this id did not work.
    pub(crate) fn error(id: Option<Value>, error: &BusError) -> Self {
        Self::Error {
            id,
            reason: reason(error).into(),
            error: error.to_string(),
        }
    }
}

/// The word for that there is no bus any more.
pub(crate) const CLOSED: &str = "closed";

/// An error in one word, for programs.
fn reason(error: &BusError) -> &'static str {
    match error {
        BusError::Failed(failure, _) => match failure {
            Failure::Unroutable => "unroutable",
            Failure::NoListener => "no-listener",
            Failure::NoHost => "no-host",
            Failure::Overflow => "overflow",
            Failure::Gone => "gone",
            Failure::Expired => "expired",
            Failure::Refused => "refused",
        },
        BusError::Full => "full",
        BusError::Invalid(_) => "invalid",
        BusError::Payload(_) => "payload",
        BusError::Closed => CLOSED,
        BusError::Io(_) => "io",
    }
}

/// Anything as a line.
pub(crate) fn line(what: &impl Serialize) -> Bytes {
    let mut line = BytesMut::new().writer();
    serde_json::to_writer(&mut line, what).expect("plain data, into memory");
    let mut line = line.into_inner();
    line.put_u8(b'\n');
    line.freeze()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bus::Role;

    const MASTER: MasterId = MasterId(0x1f);

    #[test]
    fn every_event_is_what_the_page_says_and_is_read_back() {
        let you = ProcessId {
            master: MASTER,
            number: 3,
        };
        let peer = Peer {
            id: you,
            role: Role::Guest,
            parent: Some(MASTER.process()),
            node: "n".into(),
            pid: 9,
            ready: true,
            applications: [("a".into(), json!({"v": 1}))].into(),
            functions: vec![],
            load: 0,
        };
        let shown = json!({
            "id": "000000000000001f:3", "role": "guest", "parent": "000000000000001f:0", "node": "n",
            "pid": 9, "ready": true, "applications": {"a": {"v": 1}}, "functions": [], "load": 0,
        });
        let gone = Presence::Offline {
            peer: peer.clone(),
            reason: Departure::Signal(9),
        };
        let message = |what, ticket, missed| Event::Message {
            from: you,
            what,
            ticket,
            missed,
            path: vec![MASTER],
            payload: Shown::Text("x".into()),
        };
        let topic = What::Topic {
            topic: "a.b".into(),
            pattern: "a.*".into(),
        };
        let application = What::Application {
            application: "a".into(),
            action: String::new(),
        };
        for (event, expected) in [
            (
                Event::Welcome {
                    protocol: 1,
                    you,
                    parent: Some(MASTER.process()),
                    grand_master: MASTER.process(),
                    max_line: 5,
                },
                json!({"event": "welcome", "protocol": 1, "you": "000000000000001f:3",
                    "parent": "000000000000001f:0", "grand_master": "000000000000001f:0", "max_line": 5}),
            ),
            (
                Event::Ok { id: Some(json!(7)) },
                json!({"event": "ok", "id": 7}),
            ),
            (
                Event::Reply {
                    id: Some(json!("x")),
                    from: Some(you),
                    payload: Shown::Payload(json!([1])),
                },
                json!({"event": "reply", "id": "x", "from": "000000000000001f:3", "payload": [1]}),
            ),
            (
                Event::Peers {
                    id: None,
                    peers: vec![peer],
                },
                json!({"event": "peers", "peers": [shown]}),
            ),
            (
                message(topic, None, 2),
                json!({"event": "message", "from": "000000000000001f:3", "topic": "a.b",
                    "pattern": "a.*", "missed": 2, "path": ["000000000000001f"], "text": "x"}),
            ),
            (
                message(application, Some(4), 0),
                json!({"event": "message", "from": "000000000000001f:3", "application": "a",
                    "action": "", "ticket": 4, "path": ["000000000000001f"], "text": "x"}),
            ),
            (
                Event::presence(gone, 0),
                json!({"event": "presence", "what": "offline", "peer": shown, "reason": {"signal": 9}}),
            ),
            (
                Event::error(None, &BusError::Failed(Failure::NoHost, "a".into())),
                json!({"event": "error", "reason": "no-host", "error": "nobody hosts this application: a"}),
            ),
            (
                Event::Bye {
                    again: true,
                    error: "e".into(),
                },
                json!({"event": "bye", "again": true, "error": "e"}),
            ),
        ] {
            let text = line(&event);
            assert_eq!(text.iter().filter(|b| **b == b'\n').count(), 1);
            let read: Value = serde_json::from_slice(&text).expect("JSON");
            assert_eq!(read, expected);
            let read: Event = serde_json::from_slice(&text).expect("the same");
            assert_eq!(read, event);
        }
    }
}
