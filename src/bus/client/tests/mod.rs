//! A process's end against a hub that a test plays: what goes over the line, frame by frame.

use std::{collections::VecDeque, future::Future, os::fd::OwnedFd, time::Duration};

use serde::Serialize;

use super::{
    super::{
        control::{Ask, Tell},
        error::{BusError, Failure},
        frame::{self, Attached, Encoding, Header, Kind, MAX_PACKET, Space},
        id::{MasterId, ProcessId},
        line::{self, Arrival, Line},
        payload::Payload,
        peer::{Departure, Peer, Presence, Role},
        to::{Balance, To},
    },
    *,
};

mod asking;
mod attaching;
mod ending;
mod hearing;
mod hostile;
mod keeping;
mod offering;
mod saying;

/// The process whose end is tested.
const ME: ProcessId = process(3);
/// Another.
const OTHER: ProcessId = process(5);

const fn process(number: u32) -> ProcessId {
    ProcessId {
        master: MasterId(7),
        number,
    }
}

/// The hub's end of a line.
struct Hub {
    line: Line,
    packets: usize,
    heard: VecDeque<Heard>,
    sequence: u64,
}

/// A frame that came.
#[derive(Debug)]
struct Heard {
    header: Header,
    to: To,
    name: String,
    payload: Vec<u8>,
    attached: Option<OwnedFd>,
}

impl Hub {
    /// A line with nothing said yet.
    async fn new() -> (Self, Bus) {
        let (ours, theirs) = line::pair().expect("a pair");
        let hub = Self {
            line: Line::new(ours).expect("a line"),
            packets: 0,
            heard: VecDeque::new(),
            sequence: 0,
        };
        // Before that the runtime has not looked whether there is room.
        hub.line.writable().await.expect("a runtime");
        (hub, Bus::connect(theirs).expect("a bus"))
    }

    /// The next frame.
    async fn hear(&mut self) -> Heard {
        within(async {
            loop {
                if let Some(heard) = self.heard.pop_front() {
                    return heard;
                }
                assert!(self.read(), "the line is closed");
                if self.heard.is_empty() {
                    self.line.readable().await.expect("a runtime");
                }
            }
        })
        .await
    }

    /// Reads one packet, if one is there. False: nothing more will be.
    fn read(&mut self) -> bool {
        let mut buffer = vec![0; MAX_PACKET];
        match self.line.try_receive(&mut buffer) {
            Arrival::Empty => true,
            Arrival::Closed => false,
            Arrival::Damaged(size) => panic!("a damaged packet of {size} bytes"),
            Arrival::Packet(size, mut attached) => {
                self.packets += 1;
                for frame in frame::frames(&buffer[..size]) {
                    let frame = frame.expect("a sound frame");
                    self.heard.push_back(Heard {
                        header: frame.header,
                        to: To::decode(frame.to).expect("an address"),
                        name: frame.name.into(),
                        payload: frame.payload.to_vec(),
                        attached: attached.take(),
                    });
                }
                true
            }
        }
    }

    /// Waits until the process has closed its end; what it said before is in `heard`.
    async fn gone(&mut self) {
        within(async {
            while self.read() {
                if self.line.readable().await.is_err() {
                    return;
                }
            }
        })
        .await;
    }

    /// The next frame, which asks the hub for something; and the id of the answer.
    async fn hear_ask(&mut self) -> (Ask, u64) {
        let heard = self.hear().await;
        assert_eq!(heard.header.kind, Kind::Ask, "{heard:?}");
        let ask = rmp_serde::from_slice(&heard.payload).expect("an ask");
        (ask, heard.header.id)
    }

    /// Hears this asked, and answers that it is so.
    async fn grant(&mut self, expected: Ask) {
        let (ask, id) = self.hear_ask().await;
        assert_eq!(ask, expected);
        self.answer(id, Kind::Reply, b"");
    }

    /// Sends one frame, counted.
    fn say(&mut self, kind: Kind, space: Space, name: &str, id: u64, payload: &Payload) {
        let packet = self.frame(kind, space, name, id, 0, payload);
        self.send(&packet, None);
    }

    fn frame(
        &mut self,
        kind: Kind,
        space: Space,
        name: &str,
        id: u64,
        deadline: u64,
        payload: &Payload,
    ) -> Vec<u8> {
        self.sequence += 1;
        let header = Header {
            kind,
            space,
            encoding: payload.encoding,
            attached: Attached::Nothing,
            sequence: self.sequence,
            from: OTHER,
            id,
            deadline,
        };
        let mut bytes = Vec::new();
        frame::encode(
            &header,
            &To::from(ME),
            name,
            &[],
            &payload.bytes,
            &mut bytes,
        );
        bytes
    }

    fn send(&mut self, packet: &[u8], attached: Option<OwnedFd>) {
        let attached = attached.as_ref().map(std::os::fd::AsFd::as_fd);
        self.line.try_send(packet, attached).expect("room");
    }

    fn event(&mut self, topic: &str, text: &str) {
        self.say(Kind::Event, Space::Topic, topic, 0, &text.into());
    }

    fn request(&mut self, topic: &str, id: u64) {
        self.say(Kind::Request, Space::Topic, topic, id, &"".into());
    }

    fn answer(&mut self, id: u64, kind: Kind, payload: &[u8]) {
        self.say(kind, Space::Topic, "", id, &payload.into());
    }

    fn fail(&mut self, id: u64, failure: Failure) {
        self.answer(id, Kind::Failure, &failure.encode("so it is"));
    }

    fn tell(&mut self, tell: &Tell) {
        let payload = Payload::compact(tell).expect("a tell");
        self.say(Kind::Tell, Space::Topic, "", 0, &payload);
    }

    /// What a hub says that knows nothing yet.
    fn welcome(&mut self) {
        self.sequence = 0;
        self.tell(&Tell::Welcome {
            you: ME,
            parent: Some(process(0)),
            grand_master: ME.master,
        });
    }

    /// Expects that the request with this id fails so.
    async fn hear_failure(&mut self, id: u64) -> (Failure, String) {
        let heard = self.hear().await;
        assert_eq!(heard.header.kind, Kind::Failure, "{heard:?}");
        assert_eq!(heard.header.id, id);
        assert_eq!(heard.to, To::from(OTHER));
        Failure::decode(&heard.payload)
    }
}

/// Subscribes while the hub grants it.
async fn subscribed(hub: &mut Hub, subscribe: Subscribe, pattern: &str) -> Subscription {
    let granted = hub.grant(Ask::Subscribe(pattern.into()));
    let (subscription, ()) = tokio::join!(within(subscribe.open()), granted);
    subscription.expect("granted")
}

/// Says more than there is room for.
fn fill(bus: &Bus) -> usize {
    let mut said = 0;
    for size in [60_000, 4000, 100, 0] {
        while bus.publish("t", vec![0; size]).is_ok() {
            said += 1;
        }
    }
    assert!(matches!(bus.publish("t", ""), Err(BusError::Full)));
    said
}

/// The text of the next message.
async fn text(subscription: &mut Subscription) -> String {
    let message = within(subscription.next()).await;
    let message = message.expect("not closed").expect("not cut");
    String::from_utf8(message.bytes().to_vec()).expect("a text")
}

/// Waits for it, but not for ever.
async fn within<T>(what: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(20), what).await;
    waited.expect("it should not take so long")
}

/// Has everybody else on this thread their turn, until nobody has anything to do that does not wait for
/// the line.
async fn others() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

fn peer(id: ProcessId, application: Option<&str>) -> Peer {
    Peer {
        id,
        role: Role::Worker {
            seat: 0,
            generation: 1,
        },
        parent: Some(process(0)),
        node: "here".into(),
        pid: 1,
        ready: true,
        applications: application
            .map(|name| (name.to_owned(), serde_json::json!({ "size": id.number })))
            .into_iter()
            .collect(),
        functions: Vec::new(),
        load: 0,
    }
}
