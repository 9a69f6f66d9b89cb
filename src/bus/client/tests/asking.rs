//! Requests, theirs and ours.

use super::*;
use crate::sys::clock::monotonic_ns;

#[tokio::test]
async fn a_request_gets_its_answer_and_no_other() {
    let (mut hub, bus) = Hub::new().await;
    let one = bus.request(OTHER, "time", Payload::compact(&1).expect("1"), LONG);
    let other = bus.request(To::Siblings, "place", "", LONG);
    let (one, other, ()) = tokio::join!(one, other, async {
        let (first, second) = (hub.hear().await, hub.hear().await);
        assert_eq!(
            (first.name.as_str(), second.name.as_str()),
            ("time", "place")
        );
        assert_eq!((first.to, second.to), (To::from(OTHER), To::Siblings));
        assert_eq!(first.header.encoding, Encoding::Compact);
        let (first, second) = (first.header, second.header);
        assert_eq!((first.kind, second.kind), (Kind::Request, Kind::Request));
        assert!(
            0 < first.id && first.id < second.id,
            "the hub wants them in order"
        );
        assert!(first.deadline > monotonic_ns());
        // Nobody waits for these.
        hub.answer(0, Kind::Reply, b"for nobody");
        hub.answer(u64::MAX, Kind::Failure, b"");
        hub.answer(second.id, Kind::Reply, b"here");
        hub.answer(first.id, Kind::Reply, b"now");
        hub.answer(first.id, Kind::Reply, b"again");
    });
    let (one, other) = (one.expect("answered"), other.expect("answered"));
    assert_eq!(
        (&*one.bytes(), &*other.bytes()),
        (&b"now"[..], &b"here"[..])
    );
    assert_eq!(one.from(), OTHER);
}

#[tokio::test]
async fn a_request_fails_as_the_hub_says_with_its_text() {
    let (mut hub, bus) = Hub::new().await;
    for failure in [
        Failure::Unroutable,
        Failure::NoListener,
        Failure::Gone,
        Failure::Overflow,
    ] {
        let (answer, ()) = tokio::join!(bus.request(OTHER, "t", "", LONG), async {
            let id = hub.hear().await.header.id;
            hub.fail(id, failure);
        });
        match answer {
            Err(BusError::Failed(said, text)) => {
                assert_eq!((said, text.as_str()), (failure, "so it is"));
            }
            other => panic!("{other:?}"),
        }
    }
    // Of a kind that a later hub knows.
    let (answer, ()) = tokio::join!(bus.request(OTHER, "t", "", LONG), async {
        let id = hub.hear().await.header.id;
        hub.answer(id, Kind::Failure, &[200, b'h', b'm']);
    });
    let failed = answer.expect_err("failed");
    assert!(matches!(&failed, BusError::Failed(Failure::Refused, text) if text == "hm"));
}

#[tokio::test]
async fn a_request_without_an_answer_fails_in_time_and_leaves_nothing() {
    let (mut hub, bus) = Hub::new().await;
    let answer = bus.request(OTHER, "t", "", Duration::from_millis(3)).await;
    assert!(
        matches!(answer, Err(BusError::Failed(Failure::Expired, _))),
        "{answer:?}"
    );
    let id = hub.hear().await.header.id;
    // Given up by whoever asked.
    let given_up =
        tokio::time::timeout(Duration::from_millis(3), bus.request(OTHER, "t", "", LONG));
    given_up.await.expect_err("no answer");
    assert!(bus.shared().incoming().waits_for_nothing());
    hub.answer(id, Kind::Reply, b"late");
    let (answer, ()) = tokio::join!(bus.request(OTHER, "t", "", LONG), async {
        hub.hear().await;
        let id = hub.hear().await.header.id;
        hub.answer(id, Kind::Reply, b"in time");
    });
    assert_eq!(&*answer.expect("answered").bytes(), b"in time");
}

#[tokio::test]
async fn who_is_asked_answers_once() {
    let (mut hub, bus) = Hub::new().await;
    let mut asked = subscribed(&mut hub, bus.subscription("q"), "q").await;
    hub.request("q", 11);
    let question = within(asked.next()).await.expect("open").expect("not cut");
    assert!(question.is_request());
    question
        .reply(Payload::json(&[1]).expect("json"))
        .expect("room");
    question.reply("once more").expect("goes nowhere");
    question.refuse("or rather not").expect("goes nowhere");
    drop(question);
    let heard = hub.hear().await;
    assert_eq!((heard.header.kind, heard.header.id), (Kind::Reply, 11));
    assert_eq!(
        (heard.to, heard.header.encoding),
        (To::from(OTHER), Encoding::Json)
    );
    assert_eq!(heard.payload, b"[1]");
    hub.request("q", 12);
    let question = within(asked.next()).await.expect("open").expect("not cut");
    question.refuse("not today").expect("room");
    let (failure, text) = hub.hear_failure(12).await;
    assert_eq!((failure, text.as_str()), (Failure::Refused, "not today"));
    // An answer to what is no question.
    hub.event("q", "");
    let event = within(asked.next()).await.expect("open").expect("not cut");
    event.reply("thanks").expect("goes nowhere");
    drop(event);
    bus.publish("mark", "").expect("room");
    assert_eq!(hub.hear().await.name, "mark");
}

#[tokio::test]
async fn nobody_waits_for_an_answer_that_nobody_will_give() {
    let (mut hub, bus) = Hub::new().await;
    hub.request("q", 1);
    assert_eq!(hub.hear_failure(1).await.0, Failure::NoListener);
    let narrow = bus.subscription("q").queue(1);
    let mut narrow = subscribed(&mut hub, narrow, "q").await;
    hub.request("q", 2);
    hub.request("q", 3);
    assert_eq!(hub.hear_failure(2).await.0, Failure::Overflow);
    drop(within(narrow.next()).await);
    assert_eq!(hub.hear_failure(3).await.0, Failure::Refused);
    let late = hub.frame(Kind::Request, Space::Topic, "q", 4, 1, &"".into());
    hub.send(&late, None);
    let shown = tokio::spawn(async move {
        let shown = narrow.next().await;
        (shown, narrow)
    });
    assert_eq!(hub.hear_failure(4).await.0, Failure::Expired);
    hub.event("q", "in time");
    let (shown, narrow) = within(shown).await.expect("no panic");
    assert_eq!(&*shown.expect("open").expect("not cut").bytes(), b"in time");
    assert_eq!(bus.counts().late, 1);
    // Nobody has looked when the subscription ends.
    hub.request("q", 5);
    within(async {
        while bus.counts().received < 7 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(narrow);
    assert_eq!(hub.hear_ask().await.0, Ask::Unsubscribe("q".into()));
    assert_eq!(hub.hear_failure(5).await.0, Failure::NoListener);
}

#[tokio::test]
async fn of_several_who_are_asked_the_one_that_answers_counts() {
    let (mut hub, bus) = Hub::new().await;
    let full = bus.subscription("q").queue(1);
    let full = subscribed(&mut hub, full, "q").await;
    let mut idle = subscribed(&mut hub, bus.subscription("q"), "q").await;
    let mut able = subscribed(&mut hub, bus.subscription(">"), ">").await;
    hub.request("q", 1);
    hub.request("q", 2);
    for id in [1, 2] {
        drop(within(idle.next()).await);
        let question = within(able.next()).await.expect("open").expect("not cut");
        question.reply(id.to_string()).expect("room");
        let heard = hub.hear().await;
        assert_eq!((heard.header.kind, heard.header.id), (Kind::Reply, id));
    }
    drop((full, idle, able));
    for _ in 0..2 {
        assert_eq!(hub.hear().await.header.kind, Kind::Ask, "no second answer");
    }
}

#[tokio::test]
async fn peers_come_in_pieces() {
    let (mut hub, bus) = Hub::new().await;
    let (peers, ()) = tokio::join!(bus.hosts("app", |what| what["size"] != 5), async {
        let (ask, id) = hub.hear_ask().await;
        assert_eq!(ask, Ask::Peers);
        for page in [
            vec![peer(process(4), Some("app")), peer(process(5), Some("app"))],
            vec![peer(process(6), None), peer(process(7), Some("app"))],
        ] {
            let page = Payload::compact(&page).expect("peers");
            hub.say(Kind::Reply, Space::Topic, "", id, &page);
        }
        hub.answer(id, Kind::Reply, b"");
    });
    let ids: Vec<u32> = peers
        .expect("answered")
        .iter()
        .map(|peer| peer.id.number)
        .collect();
    assert_eq!(ids, [4, 7]);
}
