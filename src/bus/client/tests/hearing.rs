//! What a process hears.

use futures_util::StreamExt;

use super::*;

#[tokio::test]
async fn a_subscription_is_in_force_when_it_returns_and_ends_when_it_is_dropped() {
    let (mut hub, bus) = Hub::new().await;
    let opening = tokio::spawn({
        let bus = bus.clone();
        async move { bus.subscribe("room.*.said").await }
    });
    let (ask, id) = hub.hear_ask().await;
    assert_eq!(ask, Ask::Subscribe("room.*.said".into()));
    others().await;
    assert!(!opening.is_finished(), "the hub has not said yes");
    hub.answer(id, Kind::Reply, b"");
    // Right behind the answer, before anybody here has looked.
    hub.event("room.7.said", "first");
    let mut said = opening.await.expect("no panic").expect("granted");
    assert_eq!(said.pattern(), "room.*.said");
    let message = within(said.next()).await.expect("open").expect("not cut");
    assert_eq!((message.from(), message.topic()), (OTHER, "room.7.said"));
    assert_eq!(message.payload(), "first".into());
    assert!(!message.is_request() && message.missed() == 0 && message.path().is_empty());
    hub.event("elsewhere", "not for it");
    hub.event("room.8.said", "second");
    assert_eq!(text(&mut said).await, "second");
    assert_eq!(bus.counts().unheard, 1);
    drop(said);
    let (ask, id) = hub.hear_ask().await;
    assert_eq!((ask, id), (Ask::Unsubscribe("room.*.said".into()), 0));
}

#[tokio::test]
async fn a_pattern_is_given_up_with_its_last_subscription() {
    let (mut hub, bus) = Hub::new().await;
    for pattern in ["a", "a.*"] {
        let one = subscribed(&mut hub, bus.subscription(pattern), pattern).await;
        let other = subscribed(&mut hub, bus.subscription(pattern), pattern).await;
        drop(one);
        bus.publish("mark", "").expect("room");
        assert_eq!(hub.hear().await.name, "mark", "one is left");
        drop(other);
        let (ask, _) = hub.hear_ask().await;
        assert_eq!(ask, Ask::Unsubscribe(pattern.into()));
    }
}

#[tokio::test]
async fn all_that_match_get_a_message_and_nobody_twice() {
    let (mut hub, bus) = Hub::new().await;
    let mut all = Vec::new();
    for pattern in ["a.b", "a.b", "a.*", ">", "a.c"] {
        all.push(subscribed(&mut hub, bus.subscription(pattern), pattern).await);
    }
    hub.event("a.b", "1");
    hub.event("a.c", "2");
    // What comes later is remembered no differently.
    hub.event("a.b", "3");
    let expected: [&[&str]; 5] = [
        &["1", "3"],
        &["1", "3"],
        &["1", "2", "3"],
        &["1", "2", "3"],
        &["2"],
    ];
    for (subscription, expected) in all.iter_mut().zip(expected) {
        for one in expected {
            assert_eq!(
                text(subscription).await,
                **one,
                "{}",
                subscription.pattern()
            );
        }
        assert!(
            next_now(subscription).is_none(),
            "{}",
            subscription.pattern()
        );
    }
}

#[tokio::test]
async fn the_librarys_own_topics_are_nobody_elses() {
    let (mut hub, bus) = Hub::new().await;
    let mut wide = subscribed(&mut hub, bus.subscription(">"), ">").await;
    hub.request("$connection", 4);
    assert_eq!(hub.hear_failure(4).await.0, Failure::NoListener);
    let own = bus.subscription("$connection").reserved();
    let mut own = subscribed(&mut hub, own, "$connection").await;
    hub.event("$connection", "own");
    hub.event("x", "wide");
    assert_eq!(text(&mut own).await, "own");
    assert_eq!(text(&mut wide).await, "wide");
    assert!(next_now(&mut wide).is_none());
}

#[tokio::test]
async fn a_subscription_may_end_where_its_messages_are_read() {
    let (mut hub, bus) = Hub::new().await;
    let mut said = subscribed(&mut hub, bus.subscription("a"), "a").await;
    let other = subscribed(&mut hub, bus.subscription("b"), "b").await;
    let reader = tokio::spawn(async move {
        let first = said.next().await.expect("open").expect("not cut");
        drop(other);
        drop(said);
        first.bytes()
    });
    hub.event("a", "one");
    hub.event("a", "two");
    assert_eq!(&*within(reader).await.expect("no panic"), b"one");
    assert_eq!(hub.hear_ask().await.0, Ask::Unsubscribe("b".into()));
    assert_eq!(hub.hear_ask().await.0, Ask::Unsubscribe("a".into()));
    let mut again = subscribed(&mut hub, bus.subscription("a"), "a").await;
    hub.event("a", "three");
    assert_eq!(text(&mut again).await, "three");
}

#[tokio::test]
async fn a_reader_that_falls_behind_has_the_latest_and_sees_the_gap() {
    let (mut hub, bus) = Hub::new().await;
    let slow = bus.subscription("a").queue(3);
    let mut slow = subscribed(&mut hub, slow, "a").await;
    let mut fast = subscribed(&mut hub, bus.subscription("a"), "a").await;
    for i in 0..10 {
        hub.event("a", &i.to_string());
    }
    for i in 0..10 {
        assert_eq!(text(&mut fast).await, i.to_string());
    }
    for (expected, missed) in [("7", 7), ("8", 0), ("9", 0)] {
        let message = within(slow.next()).await.expect("open").expect("not cut");
        assert_eq!(
            (&*message.bytes(), message.missed()),
            (expected.as_bytes(), missed)
        );
    }
    assert_eq!((slow.missed(), fast.missed()), (7, 0));
    assert_eq!(bus.counts().lost_here, 7);
}

#[tokio::test]
async fn a_reader_that_would_rather_begin_anew_is_cut() {
    let (mut hub, bus) = Hub::new().await;
    let careful = bus.subscription("a").queue(3).overflow(Overflow::Cut);
    let mut careful = subscribed(&mut hub, careful, "a").await;
    let mut other = subscribed(&mut hub, bus.subscription("a"), "a").await;
    for i in 0..10 {
        hub.event("a", &i.to_string());
    }
    for i in 0..10 {
        assert_eq!(text(&mut other).await, i.to_string());
    }
    for expected in ["0", "1", "2"] {
        assert_eq!(text(&mut careful).await, expected);
    }
    let cut = within(careful.next()).await.expect("said once");
    assert_eq!(cut.expect_err("cut").missed, 1);
    assert!(within(careful.next()).await.is_none());
}

#[tokio::test]
async fn what_was_lost_on_the_way_is_seen_by_all_and_cuts_the_careful() {
    let (mut hub, bus) = Hub::new().await;
    hub.welcome();
    bus.id().await.expect("said");
    let mut easy = subscribed(&mut hub, bus.subscription("a"), "a").await;
    let careful = bus.subscription("b").overflow(Overflow::Cut);
    let mut careful = subscribed(&mut hub, careful, "b").await;
    hub.event("a", "before");
    hub.sequence += 5;
    hub.event("a", "after");
    assert_eq!(text(&mut easy).await, "before");
    let after = within(easy.next()).await.expect("open").expect("not cut");
    assert_eq!((&*after.bytes(), after.missed()), (&b"after"[..], 5));
    let cut = within(careful.next()).await.expect("said once");
    assert_eq!(cut.expect_err("cut").missed, 5);
    assert_eq!(bus.counts().lost_on_the_way, 5);
    // A hub that has forgotten begins to count anew.
    hub.welcome();
    hub.event("a", "again");
    let again = within(easy.next()).await.expect("open").expect("not cut");
    assert_eq!(again.missed(), 0);
}

#[tokio::test]
async fn comings_and_goings_are_told_to_all_who_watch_until_they_do_not() {
    let (mut hub, bus) = Hub::new().await;
    let granted = async {
        hub.grant(Ask::Watch(true)).await;
        hub.grant(Ask::Watch(true)).await;
    };
    let (mut one, mut other, ()) = tokio::join!(
        async { bus.presence().await.expect("granted") },
        async { bus.presence().await.expect("granted") },
        granted
    );
    let online = Presence::Online(peer(OTHER, None));
    let offline = Presence::Offline {
        peer: peer(OTHER, None),
        reason: Departure::Signal(9),
    };
    hub.tell(&Tell::Presence(online.clone()));
    hub.tell(&Tell::Presence(offline.clone()));
    assert_eq!(within(one.next()).await, Some(online.clone()));
    assert_eq!(within(StreamExt::next(&mut one)).await, Some(offline));
    drop(one);
    assert_eq!(within(other.next()).await, Some(online));
    hub.sequence += 2;
    hub.tell(&Tell::Presence(Presence::Ready(peer(OTHER, None))));
    within(other.next()).await.expect("open");
    within(other.next()).await.expect("open");
    assert_eq!(other.missed(), 2);
    drop(other);
    assert_eq!(hub.hear_ask().await.0, Ask::Watch(false));
}

/// What is there without waiting.
fn next_now(subscription: &mut Subscription) -> Option<Message> {
    use futures_util::FutureExt;
    subscription.next().now_or_never().flatten()?.ok()
}
