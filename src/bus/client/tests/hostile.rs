//! A hub that has lost its mind must not take the process with it.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    super::{incoming::Afterwards, shared::Shared},
    *,
};

/// Frames of every kind that a hub sends, and some that it does not.
fn sound() -> Vec<Vec<u8>> {
    let payloads = [
        Payload::raw("x"),
        Payload::compact(&Tell::Welcome {
            you: ME,
            parent: None,
            grand_master: MasterId(1),
        })
        .expect("a tell"),
        Payload::compact(&Tell::Presence(Presence::Online(peer(OTHER, Some("a")))))
            .expect("a tell"),
        Payload::compact(&[peer(OTHER, Some("a"))]).expect("peers"),
    ];
    let kinds = [
        Kind::Event,
        Kind::Request,
        Kind::Reply,
        Kind::Failure,
        Kind::Ask,
        Kind::Tell,
        Kind::Fact,
    ];
    let mut frames = Vec::new();
    for kind in kinds {
        for payload in &payloads {
            for id in [0, 1, 2, 3] {
                let header = Header {
                    kind,
                    space: [Space::Topic, Space::Application, Space::Function][id as usize % 3],
                    encoding: payload.encoding,
                    attached: Attached::Nothing,
                    sequence: id,
                    from: OTHER,
                    id,
                    deadline: 0,
                };
                let mut bytes = Vec::new();
                frame::encode(&header, &To::from(ME), "a", &[], &payload.bytes, &mut bytes);
                frames.push(bytes);
            }
        }
    }
    frames
}

/// A process that has something of everything.
fn shared() -> Arc<Shared> {
    let shared = Shared::new();
    let mut incoming = shared.incoming();
    for pattern in ["a", "*", ">"] {
        let inbox = inbox::Inbox::new(2, Overflow::LoseOldest);
        incoming.interest.add(pattern.into(), Arc::new(inbox));
    }
    let inbox = || Arc::new(inbox::Inbox::new(2, Overflow::Cut));
    incoming
        .applications
        .insert("a".into(), (().into(), inbox()));
    incoming.functions.insert("a".into(), inbox());
    let watcher = inbox::Inbox::new(2, Overflow::LoseOldest);
    incoming.watchers.insert(Arc::new(watcher));
    incoming.ask(&shared, Ask::Watch(true)).expect("open");
    incoming.ask_for_peers(&shared).expect("open");
    incoming.request(|_| Ok(())).expect("open");
    drop(incoming);
    shared
}

proptest! {
    #[test]
    fn whatever_the_hub_sends_nothing_panics(
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<Option<(u16, u8)>>()), 1..8),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let (frames, shared) = (sound(), shared());
        let mut packet = Vec::new();
        for (pick, damage) in picks {
            let mut frame = pick.get(&frames).clone();
            if let Some((at, to)) = damage {
                let at = usize::from(at) % frame.len();
                frame[at] = to;
            }
            packet.extend(frame);
        }
        if !whole {
            packet.truncate(cut.index(packet.len()) + 1);
        }
        let mut after = Afterwards::default();
        let packet = Bytes::from(packet);
        // Understood or not: it returns.
        let _ = shared.incoming().packet(&shared, &packet, None, &mut after);
        after.settle();
        shared.close();
    }
}

#[tokio::test]
async fn a_hub_that_makes_no_sense_is_left() {
    for nonsense in [
        vec![1; 100],
        vec![0; 48],
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
    ] {
        let (mut hub, bus) = Hub::new().await;
        let mut said = subscribed(&mut hub, bus.subscription("a"), "a").await;
        hub.send(&nonsense, None);
        assert!(within(said.next()).await.is_none());
        assert!(matches!(bus.publish("t", ""), Err(BusError::Closed)));
        hub.gone().await;
    }
}

#[tokio::test]
async fn news_of_a_later_kind_is_passed_over() {
    let (mut hub, bus) = Hub::new().await;
    let mut said = subscribed(&mut hub, bus.subscription("a"), "a").await;
    #[derive(Serialize)]
    enum Later {
        Weather { rain: bool },
    }
    let news = Payload::compact(&Later::Weather { rain: true }).expect("news");
    hub.say(Kind::Tell, Space::Topic, "", 0, &news);
    hub.event("a", "after");
    assert_eq!(text(&mut said).await, "after");
}
