//! What a process says.

use super::*;

#[tokio::test]
async fn what_is_said_in_one_turn_goes_in_one_packet_in_order() {
    let (mut hub, bus) = Hub::new().await;
    for i in 0..100 {
        bus.publish("a.b", i.to_string()).expect("room");
    }
    for i in 0..100 {
        let heard = hub.hear().await;
        assert_eq!(heard.header.kind, Kind::Event);
        assert_eq!(heard.header.space, Space::Topic);
        assert_eq!(heard.header.id, 0);
        assert_eq!((heard.to, heard.name.as_str()), (To::Subscribers, "a.b"));
        assert_eq!(heard.payload, i.to_string().as_bytes());
    }
    assert_eq!(hub.packets, 1);
}

#[tokio::test]
async fn every_address_arrives_as_it_was_meant() {
    let (mut hub, bus) = Hub::new().await;
    bus.broadcast("t", "").expect("room");
    bus.bubble("t", "").expect("room");
    let others = [
        To::Siblings,
        To::Worker(4),
        To::Route(vec![ME, OTHER]),
        To::from(OTHER),
    ];
    for to in others.clone() {
        bus.send(to, "t", Payload::json(&1).expect("json"))
            .expect("room");
    }
    bus.tell("app", "x").expect("room");
    for to in [To::Everyone, To::Ancestors].into_iter().chain(others) {
        assert_eq!(hub.hear().await.to, to);
    }
    let heard = hub.hear().await;
    assert_eq!(heard.to, To::Host(Balance::LeastLoaded));
    assert_eq!(
        (heard.header.space, heard.name.as_str()),
        (Space::Application, "app")
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_it_is_sent() {
    let (_hub, bus) = Hub::new().await;
    let invalid = |said: Result<(), BusError>| {
        assert!(matches!(said, Err(BusError::Invalid(_))), "{said:?}");
    };
    for topic in ["", "a..b", "a.*", "a b", "$connection", &"x".repeat(256)] {
        invalid(bus.publish(topic, ""));
        let asked = bus.request(To::Parent, topic, "", LONG).await;
        invalid(asked.map(|_| ()));
    }
    for pattern in ["", "a..b", "a.>.b", "$connection"] {
        invalid(bus.subscribe(pattern).await.map(|_| ()));
    }
    invalid(bus.publish("t", vec![0; frame::MAX_PAYLOAD + 1]));
    invalid(bus.send(To::Processes(Vec::new()), "t", ""));
    invalid(bus.send(To::Processes(vec![ME; 65]), "t", ""));
    invalid(bus.send(To::Route(vec![ME; 17]), "t", ""));
    for name in ["", "a/b", "a b", &"x".repeat(128)] {
        invalid(bus.tell(name, ""));
        invalid(bus.host(name, ()).await.map(|_| ()));
        let called = bus.call(name, "x", "", LONG).await;
        invalid(called.map(|_| ()));
    }
    let called = bus.call("a", &"x".repeat(254), "", LONG).await;
    invalid(called.map(|_| ()));
    bus.publish("t", vec![0; frame::MAX_PAYLOAD])
        .expect("just fits");
}

#[tokio::test]
async fn too_much_is_not_taken_and_flushing_makes_room() {
    let (mut hub, bus) = Hub::new().await;
    let mut said = 0_u32;
    while bus.publish("t", said.to_le_bytes().repeat(1000)).is_ok() {
        said += 1;
    }
    assert!(said > 900, "4 MiB hold more than {said} times 4 kB");
    assert!(matches!(
        bus.publish("t", vec![0; 4000]),
        Err(BusError::Full)
    ));
    let small = fill(&bus);
    let waiting = bus.request(To::Parent, "t", "", LONG);
    assert!(matches!(within(waiting).await, Err(BusError::Full)));
    let flushed = tokio::spawn({
        let bus = bus.clone();
        async move { bus.flush().await }
    });
    others().await;
    assert!(
        !flushed.is_finished(),
        "the line takes some hundred kB at the most"
    );
    for i in 0..said {
        assert_eq!(hub.hear().await.payload, i.to_le_bytes().repeat(1000));
    }
    for _ in 0..small {
        hub.hear().await;
    }
    within(flushed)
        .await
        .expect("no panic")
        .expect("all is gone");
    bus.publish("t", "").expect("room again");
    assert_eq!(hub.hear().await.payload, b"");
}

#[tokio::test]
async fn answers_and_wishes_find_room_where_messages_do_not() {
    let (mut hub, bus) = Hub::new().await;
    let mut asked = subscribed(&mut hub, bus.subscription("q"), "q").await;
    hub.request("q", 9);
    let question = within(asked.next()).await.expect("open").expect("not cut");
    let said = fill(&bus);
    question.reply("yes").expect("room for an answer");
    let wish = tokio::spawn({
        let bus = bus.clone();
        async move { bus.subscribe("more").await }
    });
    for _ in 0..said {
        assert_eq!(hub.hear().await.header.kind, Kind::Event);
    }
    assert_eq!(hub.hear().await.header.kind, Kind::Reply);
    hub.grant(Ask::Subscribe("more".into())).await;
    within(wish).await.expect("no panic").expect("granted");
}
