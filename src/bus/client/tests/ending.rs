//! The hub forgets, the line ends, the handles go.

use super::*;

#[tokio::test]
async fn who_this_is_the_hub_says() {
    let (mut hub, bus) = Hub::new().await;
    let early = tokio::spawn({
        let bus = bus.clone();
        async move { bus.id().await }
    });
    others().await;
    assert!(!early.is_finished());
    hub.welcome();
    assert_eq!(within(early).await.expect("no panic").expect("said"), ME);
    assert_eq!(bus.parent().await.expect("said"), Some(process(0)));
    assert_eq!(bus.grand_master().await.expect("said"), process(0));
    assert!(!bus.is_grand_master().await.expect("said"));
    // It has another one above from now on.
    let above = ProcessId {
        master: MasterId(9),
        number: 4,
    };
    hub.tell(&Tell::Welcome {
        you: process(0),
        parent: Some(above),
        grand_master: above.master,
    });
    within(async {
        while bus.parent().await.expect("said") != Some(above) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        bus.grand_master().await.expect("said"),
        above.master.process()
    );
}

#[tokio::test]
async fn a_hub_that_has_forgotten_everything_is_asked_for_it_again() {
    let (mut hub, bus) = Hub::new().await;
    hub.welcome();
    bus.id().await.expect("said");
    let mut said = subscribed(&mut hub, bus.subscription("a.*"), "a.*").await;
    let _twice = subscribed(&mut hub, bus.subscription("a.*"), "a.*").await;
    let _exact = subscribed(&mut hub, bus.subscription("b"), "b").await;
    let (hosted, ()) = tokio::join!(
        bus.host("app", 1),
        hub.grant(Ask::Host("app".into(), 1.into()))
    );
    let function = |(): ()| async { Ok::<_, String>(()) };
    let (offered, ()) = tokio::join!(bus.offer("f", function), hub.grant(Ask::Offer("f".into())));
    let (watched, ()) = tokio::join!(bus.presence(), hub.grant(Ask::Watch(true)));
    let (_hosted, _offered) = (hosted.expect("granted"), offered.expect("granted"));
    let watched = watched.expect("granted");
    drop(subscribed(&mut hub, bus.subscription("gone"), "gone").await);
    assert_eq!(hub.hear_ask().await.0, Ask::Unsubscribe("gone".into()));
    // These were on the way when it forgot.
    let request = tokio::spawn({
        let bus = bus.clone();
        async move { bus.request(OTHER, "q", "", LONG).await }
    });
    let request_id = hub.hear().await.header.id;
    let peers = tokio::spawn({
        let bus = bus.clone();
        async move { bus.peers().await }
    });
    let (_, old) = hub.hear_ask().await;
    let page = Payload::compact(&[peer(process(9), None)]).expect("peers");
    hub.say(Kind::Reply, Space::Topic, "", old, &page);
    let opening = tokio::spawn({
        let bus = bus.clone();
        async move { bus.subscribe("c").await }
    });
    hub.hear_ask().await;

    hub.welcome();
    let (mut again, mut answered) = (Vec::new(), 0);
    while answered < 2 {
        let (ask, id) = hub.hear_ask().await;
        match &ask {
            Ask::Peers => {
                assert!(id > old, "ids come in order");
                let page = Payload::compact(&[peer(process(1), None)]).expect("peers");
                hub.say(Kind::Reply, Space::Topic, "", id, &page);
            }
            Ask::Subscribe(pattern) if pattern == "c" && id != 0 => {}
            _ => {
                assert_eq!(id, 0, "nobody waits for {ask:?}");
                again.push(format!("{ask:?}"));
                continue;
            }
        }
        hub.answer(id, Kind::Reply, b"");
        answered += 1;
    }
    again.sort();
    let expected = [
        r#"Host("app", Number(1))"#,
        r#"Offer("f")"#,
        r#"Subscribe("a.*")"#,
        r#"Subscribe("b")"#,
        r#"Subscribe("c")"#,
        "Watch(true)",
    ];
    assert_eq!(again, expected);
    let peers = within(peers).await.expect("no panic").expect("answered");
    assert_eq!(
        peers.len(),
        1,
        "those that the old one told of do not count: {peers:?}"
    );
    assert_eq!(peers[0].id, process(1));
    within(opening).await.expect("no panic").expect("granted");
    hub.answer(request_id, Kind::Reply, b"still");
    let answer = within(request).await.expect("no panic").expect("answered");
    assert_eq!(&*answer.bytes(), b"still");
    hub.event("a.x", "on");
    assert_eq!(text(&mut said).await, "on");
    assert_eq!(
        watched.missed(),
        1,
        "nobody told of what happened meanwhile"
    );
}

/// Everything that can wait, waiting.
async fn everybody_waits(bus: &Bus, hub: &mut Hub) -> Vec<tokio::task::JoinHandle<bool>> {
    let closed = |error: &BusError| matches!(error, BusError::Closed);
    let mut said = subscribed(hub, bus.subscription("a"), "a").await;
    let (hosted, ()) = tokio::join!(
        bus.host("app", ()),
        hub.grant(Ask::Host("app".into(), ().into()))
    );
    let mut hosted = hosted.expect("granted");
    let (watched, ()) = tokio::join!(bus.presence(), hub.grant(Ask::Watch(true)));
    let mut watched = watched.expect("granted");
    let all = [
        bus.clone(),
        bus.clone(),
        bus.clone(),
        bus.clone(),
        bus.clone(),
        bus.clone(),
    ];
    let [one, two, three, four, five, six] = all;
    vec![
        tokio::spawn(async move { said.next().await.is_none() }),
        tokio::spawn(async move { hosted.next().await.is_none() }),
        tokio::spawn(async move { watched.next().await.is_none() }),
        tokio::spawn(async move { one.id().await.is_err_and(|e| closed(&e)) }),
        tokio::spawn(async move { two.peers().await.is_err_and(|e| closed(&e)) }),
        tokio::spawn(async move {
            let answer = three.request(OTHER, "q", "", LONG).await;
            answer.is_err_and(|e| closed(&e))
        }),
        tokio::spawn(async move { four.subscribe("b").await.is_err_and(|e| closed(&e)) }),
        tokio::spawn(async move {
            fill(&five);
            five.flush().await.is_err_and(|e| closed(&e))
        }),
        tokio::spawn(async move {
            six.closed().await;
            true
        }),
    ]
}

#[tokio::test]
async fn a_line_that_ends_ends_all_waiting() {
    let (mut hub, bus) = Hub::new().await;
    let waiting = everybody_waits(&bus, &mut hub).await;
    others().await;
    assert!(waiting.iter().all(|one| !one.is_finished()));
    drop(hub);
    for (i, one) in waiting.into_iter().enumerate() {
        assert!(within(one).await.expect("no panic"), "{i}");
    }
    assert!(matches!(bus.publish("t", ""), Err(BusError::Closed)));
    assert!(matches!(bus.flush().await, Err(BusError::Closed)));
    assert!(matches!(bus.subscribe("x").await, Err(BusError::Closed)));
    assert!(matches!(bus.host("x", ()).await, Err(BusError::Closed)));
    assert!(matches!(bus.presence().await, Err(BusError::Closed)));
    assert!(matches!(bus.peers().await, Err(BusError::Closed)));
    assert!(matches!(
        bus.request(OTHER, "q", "", LONG).await,
        Err(BusError::Closed)
    ));
    assert!(matches!(
        bus.open_stream(OTHER, "q", "", LONG).await,
        Err(BusError::Closed)
    ));
    within(bus.closed()).await;
}

#[test]
fn a_runtime_that_ends_ends_all_waiting() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
    let (serving, using) = (runtime(), runtime());
    let (mut hub, bus) = serving.block_on(Hub::new());
    let opening = using.spawn({
        let bus = bus.clone();
        async move { bus.subscribe("a").await }
    });
    using.block_on(others());
    serving.block_on(hub.hear_ask());
    drop(hub.line);
    // The line's other end closes, and nobody is left to notice.
    drop(serving);
    let opened = using.block_on(within(opening)).expect("no panic");
    assert!(matches!(opened, Err(BusError::Closed)), "{opened:?}");
    assert!(matches!(bus.publish("t", ""), Err(BusError::Closed)));
}

#[tokio::test]
async fn what_came_before_the_end_is_heard() {
    let (mut hub, bus) = Hub::new().await;
    let mut said = subscribed(&mut hub, bus.subscription("a"), "a").await;
    // The hub does not read this.
    bus.publish("t", "").expect("room");
    bus.flush().await.expect("sent");
    for i in 0..100 {
        hub.event("a", &i.to_string());
    }
    drop(hub);
    // There is something to be sent, too, which fails first.
    bus.publish("t", "").expect("nobody knows yet");
    for i in 0..100 {
        assert_eq!(text(&mut said).await, i.to_string());
    }
    assert!(within(said.next()).await.is_none());
}

#[tokio::test]
async fn the_last_handle_sends_what_was_said_and_leaves() {
    let (mut hub, bus) = Hub::new().await;
    let said = subscribed(&mut hub, bus.subscription("a"), "a").await;
    let clone = bus.clone();
    drop(bus);
    drop(clone);
    // A subscription is a place on the bus, too.
    hub.event("a", "still there");
    let reader = tokio::spawn(async move {
        let mut said = said;
        (text(&mut said).await, said)
    });
    let (text, said) = within(reader).await.expect("no panic");
    assert_eq!(text, "still there");
    let (asked, question) = {
        let bus = said.bus().clone();
        let mut asked = subscribed(&mut hub, bus.subscription("q"), "q").await;
        hub.request("q", 1);
        let question = within(asked.next()).await.expect("open").expect("not cut");
        for i in 0..2000 {
            bus.publish("t", vec![i as u8; 1000]).expect("room");
        }
        (asked, question)
    };
    drop((said, asked));
    hub.gone().await;
    let texts = hub
        .heard
        .iter()
        .filter(|heard| heard.header.kind == Kind::Event);
    assert_eq!(texts.count(), 2000);
    assert!(matches!(question.reply("too late"), Err(BusError::Closed)));
}
