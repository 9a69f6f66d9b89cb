//! Framings under bytes that come in any pieces, and other ones than were sent.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn codec(form: Form, largest: usize) -> Codec {
    Codec {
        form,
        largest,
        looked_at: 0,
    }
}

/// What comes out when `bytes` come in pieces of these sizes, and then the end.
fn decoded(codec: &mut Codec, bytes: &[u8], pieces: &[usize]) -> Vec<Result<Bytes, String>> {
    let (mut buffer, mut rest, mut values) = (BytesMut::new(), bytes, Vec::new());
    let mut sizes = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(1).clamp(1, rest.len());
        buffer.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(value)) => values.push(Ok(value)),
                Ok(None) => break,
                Err(error) => {
                    values.push(Err(error.to_string()));
                    return values;
                }
            }
        }
    }
    match codec.decode_eof(&mut buffer) {
        Ok(Some(value)) => values.push(Ok(value)),
        Ok(None) => {}
        Err(error) => values.push(Err(error.to_string())),
    }
    values
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![Just(Form::LengthPrefixed), Just(Form::MultiNode)]
}

proptest! {
    #[test]
    fn values_come_out_as_they_went_in_however_the_bytes_are_cut(
        form in form(),
        texts in prop::collection::vec(any::<String>(), 0..20),
        pieces in prop::collection::vec(1_usize..70, 1..20),
    ) {
        let mut codec = codec(form, LARGEST);
        let mut bytes = BytesMut::new();
        let values: Vec<_> = texts.iter().map(|text| serde_json::to_vec(text).expect("a text")).collect();
        for value in &values {
            codec.encode(value.clone(), &mut bytes).expect("small enough");
        }
        let came = decoded(&mut codec, &bytes, &pieces);
        prop_assert_eq!(came, values.into_iter().map(|value| Ok(value.into())).collect::<Vec<_>>());
    }

    #[test]
    fn a_stream_that_is_cut_gives_what_was_whole_and_says_so(
        form in form(),
        texts in prop::collection::vec("[a-z]{0,30}", 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut codec = codec(form, LARGEST);
        let (mut bytes, mut ends) = (BytesMut::new(), vec![0]);
        for text in &texts {
            codec.encode(text.as_bytes().to_vec(), &mut bytes).expect("small enough");
            ends.push(bytes.len());
        }
        let at = cut.index(bytes.len());
        let came = decoded(&mut codec, &bytes[..at], &[7]);
        let whole = ends.iter().filter(|end| **end <= at).count() - 1;
        let damaged = usize::from(!ends.contains(&at));
        prop_assert_eq!(came.len(), whole + damaged);
        prop_assert_eq!(came.iter().filter(|one| one.is_err()).count(), damaged);
    }

    #[test]
    fn no_bytes_panic_or_give_more_than_is_allowed(
        form in form(),
        bytes in prop::collection::vec(prop_oneof![Just(BEGIN), Just(END), any::<u8>()], 0..300),
        pieces in prop::collection::vec(1_usize..50, 1..5),
    ) {
        for value in decoded(&mut codec(form, 20), &bytes, &pieces).into_iter().flatten() {
            prop_assert!(value.len() <= 20);
        }
    }
}

#[tokio::test]
async fn the_bytes_are_those_that_other_programs_write() {
    let (stream, mut other) = tokio::io::duplex(1000);
    let mut framed = Framed::multi_node(stream).compact();
    framed
        .send(&serde_json::json!({ "a": "ÿ\u{0}" }))
        .await
        .expect("sent");
    framed.send(&1).await.expect("sent");
    let expected = b"\x00{\"a\":\"\xc3\xbf\\u0000\"}\xff\x001\xff";
    let mut bytes = vec![0; expected.len()];
    other.read_exact(&mut bytes).await.expect("open");
    assert_eq!(bytes, expected);
    other
        .write_all(b"\x00[1, 2]\xff\x00null\xff")
        .await
        .expect("open");
    assert_eq!(framed.next().await.expect("sound"), Some(vec![1, 2]));
    assert_eq!(
        framed.next::<Option<u8>>().await.expect("sound"),
        Some(None)
    );

    let (stream, mut other) = tokio::io::duplex(1000);
    let mut framed = Framed::length_prefixed(stream);
    framed.send("abc").await.expect("sent");
    let mut bytes = vec![0; 9];
    other.read_exact(&mut bytes).await.expect("open");
    assert_eq!(bytes, b"\0\0\0\x05\"abc\"");
    other.write_all(b"\0\0\0\x01").await.expect("open");
    other.write_all(b"7").await.expect("open");
    drop(other);
    assert_eq!(framed.next().await.expect("sound"), Some(7));
    assert_eq!(framed.next::<u8>().await.expect("the end"), None);
}

#[tokio::test]
async fn compact_values_go_between_two_who_both_say_so() {
    let (here, there) = tokio::io::duplex(16);
    let mut here = Framed::length_prefixed(here).compact();
    let mut there = Framed::length_prefixed(there).compact();
    let value = vec![(1.5, "one and a half".to_owned()), (2.0, "two".to_owned())];
    let (sent, came) = tokio::join!(here.send(&value), there.next::<Vec<(f64, String)>>());
    sent.expect("sent");
    assert_eq!(came.expect("sound"), Some(value));
}

#[tokio::test]
async fn a_value_of_another_kind_costs_itself_only() {
    let (here, there) = tokio::io::duplex(1000);
    let (mut here, mut there) = (Framed::multi_node(here), Framed::multi_node(there));
    here.send("a text").await.expect("sent");
    here.send(&2).await.expect("sent");
    let odd = there.next::<u32>().await;
    assert!(matches!(odd, Err(FrameError::Value(_))), "{odd:?}");
    assert_eq!(there.next::<u32>().await.expect("sound"), Some(2));
}

#[tokio::test]
async fn what_is_too_large_is_not_sent_and_not_taken() {
    let (here, there) = tokio::io::duplex(1000);
    let mut here = Framed::length_prefixed(here).largest(10);
    let long = here.send("a long text").await;
    assert!(
        matches!(long, Err(FrameError::TooLarge(13, 10))),
        "{long:?}"
    );
    here.send("short").await.expect("nothing was sent before");
    let mut there = Framed::length_prefixed(there).largest(5);
    let long = there.next::<String>().await;
    assert!(matches!(long, Err(FrameError::TooLarge(7, 5))), "{long:?}");
    assert_eq!(there.next::<String>().await.expect("the end"), None);
    // Nobody waits for the end of what is too large already.
    let (mut here, there) = tokio::io::duplex(1000);
    here.write_all(b"\x00\"aaaaaaaaaa").await.expect("open");
    let endless = Framed::multi_node(there).largest(10).next::<String>().await;
    assert!(
        matches!(endless, Err(FrameError::TooLarge(11, 10))),
        "{endless:?}"
    );
}

#[tokio::test]
async fn another_framing_is_noticed() {
    let (here, there) = tokio::io::duplex(1000);
    let (mut here, mut there) = (Framed::length_prefixed(here), Framed::multi_node(there));
    // A length begins with zeroes, as a value does; the next one tells.
    here.send("text").await.expect("sent");
    drop(here);
    there.next::<String>().await.expect_err("no end");
    let (mut here, there) = tokio::io::duplex(1000);
    here.write_all(b"GET / HTTP/1.1\r\n").await.expect("open");
    let mut there = Framed::multi_node(there);
    let garbage = there.next::<String>().await;
    assert!(
        matches!(garbage, Err(FrameError::Garbage(b'G'))),
        "{garbage:?}"
    );
    assert_eq!(there.next::<String>().await.expect("given up"), None);
}
