//! Descriptors that go along, and come back.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A connection and its client.
fn connection() -> (Attachment, UnixStream) {
    let (server, client) = UnixStream::pair().expect("a pair");
    (Attachment::connection(server), client)
}

/// Is the client's connection still somebody's?
fn is_open(client: &mut UnixStream) -> bool {
    client.set_nonblocking(true).expect("a socket");
    match client.read(&mut [0]) {
        Ok(0) => false,
        Ok(_) => panic!("nobody should have said anything"),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            true
        }
    }
}

fn speaks(fd: OwnedFd, client: &mut UnixStream) {
    UnixStream::from(fd).write_all(b"hello").expect("open");
    let mut said = [0; 5];
    client.set_nonblocking(false).expect("a socket");
    client.read_exact(&mut said).expect("said");
    assert_eq!(&said, b"hello");
}

#[tokio::test]
async fn a_connection_goes_to_who_takes_it_and_is_nobodys_here() {
    let (mut hub, bus) = Hub::new().await;
    let (connection, mut client) = connection();
    let (answer, ()) = tokio::join!(
        bus.request_attached(OTHER, "vip", "why", connection, LONG),
        async {
            let heard = hub.hear().await;
            assert_eq!(heard.header.attached, Attached::Connection);
            assert_eq!(
                (heard.header.kind, &*heard.payload),
                (Kind::Request, &b"why"[..])
            );
            hub.answer(heard.header.id, Kind::Reply, b"taken");
            speaks(heard.attached.expect("it came along"), &mut client);
        }
    );
    assert_eq!(&*answer.expect("taken").bytes(), b"taken");
    assert!(!is_open(&mut client));
}

#[tokio::test]
async fn what_nobody_took_comes_back_and_what_somebody_may_have_does_not() {
    let (mut hub, bus) = Hub::new().await;
    for (failure, back) in [
        (Failure::Unroutable, true),
        (Failure::NoListener, true),
        (Failure::NoHost, true),
        (Failure::Overflow, true),
        (Failure::Expired, true),
        (Failure::Refused, true),
        (Failure::Gone, false),
    ] {
        let (connection, mut client) = connection();
        let (answer, ()) = tokio::join!(
            bus.request_attached(OTHER, "vip", "", connection, LONG),
            async {
                let heard = hub.hear().await;
                hub.fail(heard.header.id, failure);
            }
        );
        let failed = answer.expect_err("not taken");
        assert!(matches!(failed.error, BusError::Failed(said, _) if said == failure));
        assert_eq!(failed.attachment.is_some(), back, "{failure:?}");
        match failed.attachment {
            Some(connection) => {
                assert_eq!(connection.kind(), Attached::Connection);
                speaks(connection.into_fd(), &mut client);
            }
            None => assert!(!is_open(&mut client)),
        }
    }
    for topic in ["a..b", "$connection"] {
        let (connection, mut client) = connection();
        let failed = bus
            .request_attached(OTHER, topic, "", connection, LONG)
            .await;
        let back = failed
            .expect_err("no topic")
            .attachment
            .expect("never sent");
        speaks(back.into_fd(), &mut client);
        let (connection, mut client) = self::connection();
        let failed = bus.send_attached(OTHER, topic, "", connection);
        let back = failed
            .expect_err("no topic")
            .attachment
            .expect("never sent");
        speaks(back.into_fd(), &mut client);
    }
}

#[tokio::test]
async fn too_late_it_comes_back_only_if_it_has_not_left() {
    let (mut hub, bus) = Hub::new().await;
    let short = Duration::from_millis(3);
    let (gone, mut client) = connection();
    let failed = bus.request_attached(OTHER, "vip", "", gone, short).await;
    assert!(failed.expect_err("nobody answers").attachment.is_none());
    let heard = hub.hear().await;
    speaks(heard.attached.expect("it has left"), &mut client);
    // The line is full now, and this waits behind.
    let said = fill(&bus);
    let (kept, mut client) = connection();
    let failed = bus.request_attached(OTHER, "vip", "", kept, short).await;
    assert!(matches!(&failed, Err(failed) if matches!(failed.error, BusError::Full)));
    speaks(
        failed
            .expect_err("full")
            .attachment
            .expect("back")
            .into_fd(),
        &mut client,
    );
    let heard = 8;
    for _ in 0..heard {
        hub.hear().await;
    }
    let (kept, mut client) = connection();
    let failed = bus.request_attached(OTHER, "vip", "", kept, short).await;
    let failed = failed.expect_err("nobody answers");
    assert!(matches!(
        failed.error,
        BusError::Failed(Failure::Expired, _)
    ));
    let back = failed.attachment.expect("it has not left");
    speaks(back.into_fd(), &mut client);
    for _ in heard..said {
        assert_eq!(hub.hear().await.name, "t");
    }
    bus.publish("mark", "").expect("room");
    assert_eq!(
        hub.hear().await.name,
        "mark",
        "what was taken back is not sent"
    );
}

#[tokio::test]
async fn a_line_that_ends_gives_back_what_has_not_left() {
    let (hub, bus) = Hub::new().await;
    fill(&bus);
    hub.line.readable().await.expect("a runtime");
    others().await;
    let (connection, mut client) = connection();
    let asked = bus.request_attached(OTHER, "vip", "", connection, LONG);
    let mut asked = std::pin::pin!(asked);
    use futures_util::FutureExt;
    // Some has gone into the line by now, so there is room for this.
    assert!((&mut asked).now_or_never().is_none(), "it waits");
    drop(hub);
    let failed = within(asked).await.expect_err("closed");
    assert!(matches!(failed.error, BusError::Closed), "{failed:?}");
    speaks(
        failed.attachment.expect("it has not left").into_fd(),
        &mut client,
    );
}

#[tokio::test]
async fn more_descriptors_than_may_wait_stay_here() {
    let (mut hub, bus) = Hub::new().await;
    let mut clients = Vec::new();
    let refused = loop {
        let (connection, client) = connection();
        clients.push(client);
        if let Err(refused) = bus.send_attached(OTHER, "vip", "", connection) {
            break refused;
        }
    };
    assert!(matches!(refused.error, BusError::Full));
    assert_eq!(clients.len(), 65);
    let mut last = clients.pop().expect("the last");
    speaks(refused.attachment.expect("back").into_fd(), &mut last);
    for client in &mut clients {
        speaks(hub.hear().await.attached.expect("it came along"), client);
    }
    let (connection, _client) = connection();
    bus.send_attached(OTHER, "vip", "", connection)
        .expect("room again");
}

/// A message with one end of a stream for whoever listens to `topic`; the other end.
fn offered(hub: &mut Hub, topic: &str, id: u64) -> tokio::net::UnixStream {
    let (ours, theirs) = super::super::super::stream::pair().expect("a pair");
    let mut packet = hub.frame(Kind::Request, Space::Topic, topic, id, 0, &"".into());
    packet[7] = Attached::Stream as u8;
    hub.send(&packet, Some(theirs));
    tokio::net::UnixStream::from_std(ours.into()).expect("a stream")
}

#[tokio::test]
async fn a_stream_is_taken_by_one_and_refused_without_harm() {
    let (mut hub, bus) = Hub::new().await;
    let mut asked = subscribed(&mut hub, bus.subscription("copy"), "copy").await;
    let mut other_end = offered(&mut hub, "copy", 1);
    let message = within(asked.next()).await.expect("open").expect("not cut");
    let copy = message.clone();
    let mut stream = message.accept_stream().expect("one came");
    assert_eq!(stream.peer(), OTHER);
    assert!(
        matches!(copy.accept_stream(), Err(BusError::Invalid(_))),
        "only once"
    );
    assert_eq!(hub.hear().await.header.kind, Kind::Reply);
    stream.write_all(b"bytes").await.expect("open");
    stream.shutdown().await.expect("open");
    let mut said = Vec::new();
    other_end.read_to_end(&mut said).await.expect("half closed");
    assert_eq!(said, b"bytes");
    other_end
        .write_all(b"still")
        .await
        .expect("the other half is open");
    drop(other_end);
    said.clear();
    stream.read_to_end(&mut said).await.expect("open");
    assert_eq!(said, b"still");

    let mut other_end = offered(&mut hub, "copy", 2);
    let message = within(asked.next()).await.expect("open").expect("not cut");
    message.refuse("no").expect("room");
    assert_eq!(hub.hear_failure(2).await.0, Failure::Refused);
    assert_eq!(other_end.read(&mut [0]).await.expect("closed"), 0);

    hub.request("copy", 3);
    let message = within(asked.next()).await.expect("open").expect("not cut");
    assert!(
        matches!(message.accept_stream(), Err(BusError::Invalid(_))),
        "none came"
    );
}

#[tokio::test]
async fn whoever_takes_and_does_not_answer_may_be_using_it() {
    let (mut hub, bus) = Hub::new().await;
    let mut asked = subscribed(&mut hub, bus.subscription("copy"), "copy").await;
    let _other_end = offered(&mut hub, "copy", 1);
    let message = within(asked.next()).await.expect("open").expect("not cut");
    let taken = message.take_attachment().expect("it came along");
    assert_eq!(taken.kind(), Attached::Stream);
    assert!(message.take_attachment().is_none());
    drop(message);
    assert_eq!(hub.hear_failure(1).await.0, Failure::Gone);
    // Whoever does neither is not.
    let mut other_end = offered(&mut hub, "copy", 2);
    drop(within(asked.next()).await);
    assert_eq!(hub.hear_failure(2).await.0, Failure::Refused);
    assert_eq!(other_end.read(&mut [0]).await.expect("closed"), 0);
}

#[tokio::test]
async fn opening_a_stream_sends_the_other_end() {
    let (mut hub, bus) = Hub::new().await;
    let (stream, theirs) = tokio::join!(bus.open_stream(OTHER, "copy", "name", LONG), async {
        let heard = hub.hear().await;
        assert_eq!(heard.header.attached, Attached::Stream);
        assert_eq!(&*heard.payload, b"name");
        hub.answer(heard.header.id, Kind::Reply, b"");
        heard.attached.expect("one end")
    });
    let mut stream = stream.expect("taken");
    assert_eq!(stream.peer(), OTHER);
    let mut theirs = tokio::net::UnixStream::from_std(theirs.into()).expect("a stream");
    stream.write_all(b"over").await.expect("open");
    let mut said = [0; 4];
    theirs.read_exact(&mut said).await.expect("open");
    assert_eq!(&said, b"over");
}
