//! Applications and functions.

use serde::Deserialize;

use super::*;

#[tokio::test]
async fn an_application_hears_what_it_is_told_and_asked() {
    let (mut hub, bus) = Hub::new().await;
    let description = serde_json::json!({ "colour": "red" });
    let (hosted, ()) = tokio::join!(
        bus.host("paint", &description),
        hub.grant(Ask::Host("paint".into(), description.clone()))
    );
    let mut hosted = hosted.expect("granted");
    assert_eq!(hosted.application(), "paint");
    let again = bus.host("paint", ()).await;
    assert!(matches!(again, Err(BusError::Invalid(_))), "{again:?}");
    hub.say(Kind::Event, Space::Application, "paint", 0, &"told".into());
    hub.say(
        Kind::Request,
        Space::Application,
        "paint/over/it",
        3,
        &"asked".into(),
    );
    hub.say(Kind::Request, Space::Application, "print", 4, &"".into());
    let told = within(hosted.next()).await.expect("open").expect("not cut");
    assert_eq!(
        (told.action(), told.name(), told.space()),
        ("", "paint", Space::Application)
    );
    let asked = within(hosted.next()).await.expect("open").expect("not cut");
    assert_eq!((asked.action(), asked.name()), ("over/it", "paint/over/it"));
    asked.reply("done").expect("room");
    assert_eq!(hub.hear_failure(4).await.0, Failure::NoListener);
    let heard = hub.hear().await;
    assert_eq!((heard.header.kind, heard.header.id), (Kind::Reply, 3));
    let blue = serde_json::json!("blue");
    let (described, ()) = tokio::join!(
        hosted.describe("blue"),
        hub.grant(Ask::Host("paint".into(), blue.clone()))
    );
    described.expect("granted");
    hub.welcome();
    assert_eq!(hub.hear_ask().await, (Ask::Host("paint".into(), blue), 0));
    drop(hosted);
    assert_eq!(hub.hear_ask().await, (Ask::Unhost("paint".into()), 0));
}

#[tokio::test]
async fn names_of_the_librarys_own_are_for_nobody_else() {
    let (_hub, bus) = Hub::new().await;
    let offered = bus.offer("$sum", |(): ()| async { Ok::<_, String>(()) });
    for outcome in [
        within(bus.host("$paint", ())).await.map(drop),
        bus.tell("$paint", ""),
        within(bus.call("$paint", "", "", LONG)).await.map(drop),
        within(offered).await.map(drop),
        within(bus.run_in_node::<_, ()>(OTHER, "$sum", &(), LONG)).await,
    ] {
        assert!(matches!(outcome, Err(BusError::Invalid(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn what_the_hub_refuses_is_not_kept() {
    let (mut hub, bus) = Hub::new().await;
    let (hosted, ()) = tokio::join!(bus.host("app", ()), async {
        let (_, id) = hub.hear_ask().await;
        hub.fail(id, Failure::Refused);
    });
    assert!(matches!(hosted, Err(BusError::Failed(Failure::Refused, _))));
    assert_eq!(hub.hear_ask().await.0, Ask::Unhost("app".into()));
    let (subscription, ()) = tokio::join!(bus.subscribe("a"), async {
        let (_, id) = hub.hear_ask().await;
        hub.fail(id, Failure::Refused);
    });
    subscription.expect_err("refused");
    assert_eq!(hub.hear_ask().await.0, Ask::Unsubscribe("a".into()));
    hub.welcome();
    bus.publish("mark", "").expect("room");
    assert_eq!(hub.hear().await.name, "mark", "nothing is asked for again");
}

#[tokio::test]
async fn a_call_names_the_application_and_what_it_is_to_do() {
    let (mut hub, bus) = Hub::new().await;
    let call = bus.call_with(Balance::Random, "paint", "over", "it", LONG);
    let (answer, ()) = tokio::join!(call, async {
        let heard = hub.hear().await;
        assert_eq!(heard.to, To::Host(Balance::Random));
        assert_eq!(
            (heard.header.kind, heard.name.as_str()),
            (Kind::Request, "paint/over")
        );
        hub.answer(heard.header.id, Kind::Reply, b"done");
    });
    assert_eq!(&*answer.expect("answered").bytes(), b"done");
    let (answer, ()) = tokio::join!(bus.call("paint", "", "", LONG), async {
        let heard = hub.hear().await;
        assert_eq!(heard.name, "paint");
        hub.fail(heard.header.id, Failure::NoHost);
    });
    assert!(matches!(answer, Err(BusError::Failed(Failure::NoHost, _))));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sum {
    left: i64,
    right: i64,
}

/// Has the function called with these arguments, and gives what is answered.
async fn called(hub: &mut Hub, name: &str, id: u64, arguments: &Payload) -> Heard {
    hub.say(Kind::Request, Space::Function, name, id, arguments);
    let heard = hub.hear().await;
    assert_eq!((heard.header.id, &heard.to), (id, &To::from(OTHER)));
    heard
}

#[tokio::test]
async fn a_function_is_run_and_its_failures_are_its_callers() {
    let (mut hub, bus) = Hub::new().await;
    let add = |Sum { left, right }: Sum| async move {
        assert!(left < 1000, "too much for me");
        left.checked_add(right)
            .filter(|sum| *sum >= 0)
            .ok_or("negative")
    };
    let (offered, ()) = tokio::join!(bus.offer("add", add), hub.grant(Ask::Offer("add".into())));
    let offered = offered.expect("granted");
    assert_eq!(offered.name(), "add");
    let again = bus
        .offer("add", |(): ()| async { Ok::<_, String>(()) })
        .await;
    assert!(matches!(again, Err(BusError::Invalid(_))), "{again:?}");
    let of = |left, right| Payload::compact(&Sum { left, right }).expect("arguments");
    let failure = |heard: &Heard| {
        assert_eq!(heard.header.kind, Kind::Failure, "{heard:?}");
        Failure::decode(&heard.payload)
    };
    let panics = called(&mut hub, "add", 1, &of(1000, 1)).await;
    let (failed, text) = failure(&panics);
    assert_eq!(failed, Failure::Refused);
    assert!(
        text.contains("panicked") && text.contains("too much for me"),
        "{text}"
    );
    let refused = called(&mut hub, "add", 2, &of(1, -2)).await;
    assert_eq!(failure(&refused), (Failure::Refused, "negative".into()));
    let odd = called(&mut hub, "add", 3, &"no sum".into()).await;
    assert!(failure(&odd).1.contains("arguments"), "{odd:?}");
    let unknown = called(&mut hub, "divide", 4, &of(1, 0)).await;
    assert_eq!(failure(&unknown).0, Failure::NoListener);
    let done = called(&mut hub, "add", 5, &of(1, 2)).await;
    assert_eq!(
        (done.header.kind, done.header.encoding),
        (Kind::Reply, Encoding::Compact)
    );
    assert_eq!(
        rmp_serde::from_slice::<i64>(&done.payload).expect("a number"),
        3
    );
    drop(offered);
    assert_eq!(hub.hear_ask().await, (Ask::Withdraw("add".into()), 0));
    let withdrawn = called(&mut hub, "add", 6, &of(1, 2)).await;
    assert_eq!(failure(&withdrawn).0, Failure::NoListener);
}

#[tokio::test]
async fn calls_run_side_by_side_and_those_begun_end_after_the_offer() {
    let (mut hub, bus) = Hub::new().await;
    let gate = std::sync::Arc::new(tokio::sync::Barrier::new(3));
    let wait = {
        let gate = std::sync::Arc::clone(&gate);
        move |(): ()| {
            let gate = std::sync::Arc::clone(&gate);
            async move {
                gate.wait().await;
                Ok::<_, String>("through")
            }
        }
    };
    let (offered, ()) = tokio::join!(
        bus.offer("wait", wait),
        hub.grant(Ask::Offer("wait".into()))
    );
    let unit = Payload::compact(&()).expect("nothing");
    hub.say(Kind::Request, Space::Function, "wait", 1, &unit);
    hub.say(Kind::Request, Space::Function, "wait", 2, &unit);
    within(async {
        while std::sync::Arc::strong_count(&gate) < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(offered);
    assert_eq!(hub.hear_ask().await.0, Ask::Withdraw("wait".into()));
    gate.wait().await;
    for _ in 0..2 {
        assert_eq!(hub.hear().await.header.kind, Kind::Reply);
    }
}

#[tokio::test]
async fn a_result_is_what_the_function_gave() {
    let (mut hub, bus) = Hub::new().await;
    let sum = Sum { left: 1, right: 2 };
    let run = bus.run_in_node::<_, Vec<i64>>(OTHER, "both", &sum, LONG);
    let (result, ()) = tokio::join!(run, async {
        let heard = hub.hear().await;
        assert_eq!(
            (heard.header.space, heard.name.as_str()),
            (Space::Function, "both")
        );
        assert_eq!(heard.to, To::from(OTHER));
        let said: Sum = rmp_serde::from_slice(&heard.payload).expect("a sum");
        assert_eq!(said, Sum { left: 1, right: 2 });
        let result = Payload::compact(&[1, 2]).expect("numbers");
        hub.say(Kind::Reply, Space::Topic, "", heard.header.id, &result);
    });
    assert_eq!(result.expect("run"), [1, 2]);
    let run = bus.run_in_node::<_, String>(OTHER, "both", &sum, LONG);
    let (result, ()) = tokio::join!(run, async {
        let id = hub.hear().await.header.id;
        hub.say(
            Kind::Reply,
            Space::Topic,
            "",
            id,
            &Payload::compact(&1).expect("1"),
        );
    });
    assert!(matches!(result, Err(BusError::Payload(_))), "{result:?}");
}
