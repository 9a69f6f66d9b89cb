//! Masters' threads on a real NATS server.

mod identities;

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::{runtime::Builder, time::timeout};

use super::{
    counters::Counters,
    envelope::{Dropped, Sign},
    server::NatsServer,
    thread::{Ends, News, Order, start},
};
use crate::{
    bus::{
        Encoding, MasterId, ProcessId, To,
        frame::{self, Attached, Header, Kind, Space},
    },
    config::BusOptions,
    sys::clock::monotonic_ns,
};

const DEADLINE: Duration = Duration::from_secs(30);
/// Once in a test's while.
const BEAT: Duration = Duration::from_millis(100);

/// The thread of one master, and the hub's end.
struct Master {
    id: MasterId,
    ends: Ends,
    counters: Arc<Counters>,
}

impl Master {
    async fn new(id: u64, options: BusOptions) -> Self {
        let (id, counters) = (MasterId(id), Arc::<Counters>::default());
        let born = monotonic_ns();
        let options = options.beat(BEAT);
        let ends = start(options, id, born, counters.clone()).expect("a thread");
        let signs = ends.beats.clone();
        tokio::spawn(async move {
            let mut beats = tokio::time::interval(BEAT);
            loop {
                beats.tick().await;
                let sign = Sign {
                    born,
                    version: 5,
                    expiry_ms: 350,
                    heard: false,
                    loads: vec![(1, 2)],
                };
                if signs.send(sign).await.is_err() {
                    break;
                }
            }
        });
        Self { id, ends, counters }
    }

    async fn order(&self, order: Order) {
        let sent = timeout(DEADLINE, self.ends.orders.send(order)).await;
        assert!(matches!(sent, Ok(Ok(()))), "the thread takes no order");
    }

    async fn say(&self, to: &Self, text: &str) {
        self.order(Order::Packet(to.id, packet(self.id, text, 0)))
            .await;
    }

    /// The next news that `wanted` makes something of. Others are left out.
    async fn news<T>(&mut self, what: &str, mut wanted: impl FnMut(News) -> Option<T>) -> T {
        let found = async {
            loop {
                let news = self.ends.news.recv().await.expect("the thread has ended");
                if let Some(found) = wanted(news) {
                    return found;
                }
            }
        };
        match timeout(DEADLINE, found).await {
            Ok(found) => found,
            Err(_) => panic!("no news of {what}"),
        }
    }

    async fn opens(&mut self, other: u64) {
        let opens = |news| matches!(news, News::Opens(MasterId(id)) if id == other).then_some(());
        self.news("a link", opens).await;
    }

    /// What the next message says.
    async fn hears(&mut self) -> String {
        let heard = |news| match news {
            News::Packet(_, packet) => Some(text(&packet)),
            _ => None,
        };
        self.news("a message", heard).await
    }

    /// Waits until something is so. News that come meanwhile are not looked at.
    async fn until(&mut self, what: &str, mut so: impl FnMut(&Counters) -> bool) {
        let waited = async {
            while !so(&self.counters) {
                // Signs of life come all the time.
                let look = tokio::time::sleep(Duration::from_millis(5));
                tokio::select! {
                    _ = self.ends.news.recv() => {}
                    () = look => {}
                }
            }
        };
        assert!(
            timeout(DEADLINE, waited).await.is_ok(),
            "in vain until {what}"
        );
    }
}

/// Runs a test.
fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test);
}

fn packet(from: MasterId, text: &str, deadline: u64) -> Vec<u8> {
    let header = Header {
        kind: Kind::Event,
        space: Space::Topic,
        encoding: Encoding::Raw,
        attached: Attached::Nothing,
        sequence: 1,
        from: ProcessId {
            master: from,
            number: 1,
        },
        id: 0,
        deadline,
    };
    let mut bytes = Vec::new();
    frame::encode(
        &header,
        &To::Everyone,
        "a",
        &[from],
        text.as_bytes(),
        &mut bytes,
    );
    bytes
}

fn text(packet: &[u8]) -> String {
    let frame = frame::decode(packet).expect("a frame");
    String::from_utf8(frame.payload.into()).expect("text")
}

fn plain(server: &NatsServer) -> BusOptions {
    BusOptions::nats(server.url("nats"))
}

async fn met(one: BusOptions, other: BusOptions) -> (Master, Master) {
    let mut a = Master::new(1, one).await;
    let mut b = Master::new(2, other).await;
    a.opens(2).await;
    b.opens(1).await;
    (a, b)
}

#[test]
fn two_masters_meet_and_talk_in_order() {
    run(async {
        let server = NatsServer::start();
        let (mut a, mut b) = met(plain(&server), plain(&server)).await;
        for i in 0..100 {
            a.say(&b, &i.to_string()).await;
            if i % 10 == 0 {
                b.say(&a, &i.to_string()).await;
            }
            assert_eq!(b.hears().await, i.to_string());
        }
        for i in (0..100).step_by(10) {
            assert_eq!(a.hears().await, i.to_string());
        }
        assert_eq!((a.counters.connected(), a.counters.masters()), (1, 1));
        let loads = |news| match news {
            News::Sign(MasterId(2), sign) => Some((sign.version, sign.loads)),
            _ => None,
        };
        assert_eq!(a.news("a sign of life", loads).await, (5, vec![(1, 2)]));
    });
}

#[test]
fn deadlines_are_the_time_left() {
    run(async {
        let server = NatsServer::start();
        let (a, mut b) = met(plain(&server), plain(&server)).await;
        let deadline = monotonic_ns() + 60_000_000_000;
        let bytes = packet(a.id, "in time", deadline);
        a.order(Order::Packet(b.id, bytes)).await;
        let arrived = |news| match news {
            News::Packet(_, packet) => {
                Some(frame::decode(&packet).expect("a frame").header.deadline)
            }
            _ => None,
        };
        // The same clock here: what the way took is all that has been added.
        let there = b.news("a message", arrived).await;
        assert!(there >= deadline && there < deadline + DEADLINE.as_nanos() as u64);
    });
}

#[test]
fn other_prefixes_are_another_bus() {
    run(async {
        let server = NatsServer::start();
        let (_a, b) = met(plain(&server), plain(&server)).await;
        let mut c = Master::new(3, plain(&server).prefix("other")).await;
        let mut d = Master::new(4, plain(&server).prefix("other")).await;
        c.opens(4).await;
        d.opens(3).await;
        let whose = |news| match news {
            News::Sign(master, _) => Some(master),
            other => panic!("{other:?}"),
        };
        assert_eq!(c.news("a beat", whose).await, MasterId(4));
        assert_eq!((b.counters.masters(), c.counters.masters()), (1, 1));
    });
}

#[test]
fn whoever_has_not_the_secret_is_not_heard_and_counted() {
    run(async {
        let server = NatsServer::start();
        let right = server.secret("right", "the secret that we share\n");
        let wrong = server.secret("wrong", "a secret of somebody else\n");
        let with = |file| plain(&server).secret_file(file);
        let (mut a, b) = met(with(&right), with(&right)).await;
        let mut c = Master::new(3, with(&wrong)).await;
        let mut d = Master::new(4, plain(&server)).await;
        c.until("c has heard them", |n| n.dropped(Dropped::Forged) > 0)
            .await;
        d.until("d has heard them", |n| n.dropped(Dropped::Forged) > 0)
            .await;
        a.until("they were heard", |n| {
            n.dropped(Dropped::Forged) > 0 && n.dropped(Dropped::Unsigned) > 0
        })
        .await;
        let masters = [&a, &b, &c, &d].map(|master| master.counters.masters());
        assert_eq!(masters, [1, 1, 0, 0]);
    });
}

#[test]
fn what_was_recorded_is_not_heard_again() {
    run(async {
        let server = NatsServer::start();
        let secret = server.secret("secret", "the secret that we share\n");
        let spy = async_nats::ConnectOptions::new().no_echo();
        let spy = spy.connect(server.url("nats")).await.expect("nats");
        let mut all = spy.subscribe("pointsman.>").await.expect("subscribed");
        spy.flush().await.expect("flushed");
        let with = || plain(&server).secret_file(&secret);
        let (a, mut b) = met(with(), with()).await;
        a.say(&b, "once").await;
        assert_eq!(b.hears().await, "once");
        a.say(&b, "last").await;
        assert_eq!(b.hears().await, "last");
        // Everything that went to b, once more; and nonsense.
        let own = format!("pointsman.hub.{}", b.id);
        let mut recorded = Vec::new();
        let is_packet = |bytes: &bytes::Bytes| bytes[4] == super::envelope::Kind::Packet as u8;
        while recorded.iter().filter(|bytes| is_packet(bytes)).count() < 2 {
            let message = timeout(DEADLINE, all.next())
                .await
                .expect("all that was said");
            let message = message.expect("a subscription");
            if message.subject.as_str() == own {
                recorded.push(message.payload);
            }
        }
        let again = recorded.len() as u64;
        assert!(again >= 3, "a greeting and two messages, at least: {again}");
        for bytes in recorded {
            spy.publish(own.clone(), bytes).await.expect("sent");
        }
        spy.publish(own, "nonsense".into()).await.expect("sent");
        spy.flush().await.expect("flushed");
        b.until("all is dropped", |n| {
            n.dropped(Dropped::Replayed) >= again && n.dropped(Dropped::Malformed) == 1
        })
        .await;
        a.say(&b, "new").await;
        assert_eq!(b.hears().await, "new");
    });
}

#[test]
fn a_server_that_comes_late_or_back_is_found_and_gets_nothing_old() {
    run(async {
        let mut server = NatsServer::prepare();
        server.configure("");
        let options = plain(&server);
        let mut a = Master::new(1, options.clone()).await;
        let mut b = Master::new(2, options).await;
        a.say(&b, "before there was a server").await;
        a.until("it is dropped", |n| n.dropped(Dropped::Down) == 1)
            .await;
        assert_eq!(a.counters.connected(), 0);
        server.start_again();
        a.opens(2).await;
        b.opens(1).await;
        server.kill();
        a.until("it notices", |n| n.connected() == 0).await;
        b.until("it notices", |n| n.connected() == 0).await;
        a.say(&b, "while there was none").await;
        a.until("it is dropped", |n| n.dropped(Dropped::Down) == 2)
            .await;
        let silent = |news| matches!(news, News::Silent(_)).then_some(());
        a.news("silence", silent).await;
        b.news("silence", silent).await;
        server.start_again();
        a.opens(2).await;
        b.opens(1).await;
        a.say(&b, "now").await;
        assert_eq!(b.hears().await, "now");
        assert_eq!(a.counters.reconnects(), 1);
    });
}

#[test]
fn a_short_absence_of_the_server_only_renews_links() {
    run(async {
        let mut server = NatsServer::start();
        let (mut a, mut b) = met(plain(&server), plain(&server)).await;
        server.kill();
        server.start_again();
        let renews = |news| match news {
            News::Renews(_) => Some(true),
            // The machine was that slow.
            News::Opens(_) => Some(false),
            _ => None,
        };
        a.news("a link", renews).await;
        b.news("a link", renews).await;
        a.say(&b, "still").await;
        assert_eq!(b.hears().await, "still");
    });
}

#[test]
fn of_two_with_one_name_the_younger_leaves() {
    run(async {
        let server = NatsServer::start();
        let mut elder = Master::new(7, plain(&server)).await;
        elder.until("it is there", |n| n.connected() == 1).await;
        let mut younger = Master::new(7, plain(&server)).await;
        let gone = |n: &Counters| n.dropped(Dropped::Namesake) > 0 && n.connected() == 0;
        younger.until("it has come and gone", gone).await;
        assert_eq!(elder.counters.connected(), 1);
        // What it was to say is dropped, and it does not come back.
        younger.say(&elder, "I").await;
        younger
            .until("it is silent", |n| n.dropped(Dropped::Down) == 1)
            .await;
        assert_eq!(
            (younger.counters.connected(), younger.counters.reconnects()),
            (0, 0)
        );
    });
}
