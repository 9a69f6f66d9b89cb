use proptest::prelude::*;

use super::*;

/// What comes of `bytes` in one piece.
fn whole(bytes: &[u8]) -> Result<(Progress, u16, bool), Malformed> {
    let mut answer = Answer::default();
    let progress = answer.feed(bytes)?;
    Ok((progress, answer.status(), answer.closes()))
}

#[test]
fn answers_of_every_kind_are_known_to_be_whole() {
    for (bytes, status, closes) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            200,
            false,
        ),
        (
            "HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: Close\r\n\r\n",
            503,
            true,
        ),
        ("HTTP/1.1 204 None\r\n\r\n", 204, false),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
            200,
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: a, close\r\ncontent-length: 0\r\n\r\n",
            200,
            true,
        ),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", 200, true),
        (
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx",
            200,
            false,
        ),
        (
            "HTTP/1.1 103 Hint\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            200,
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
            200,
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n",
            200,
            false,
        ),
    ] {
        assert_eq!(
            whole(bytes.as_bytes()),
            Ok((Progress::Whole, status, closes)),
            "{bytes}"
        );
    }
}

#[test]
fn what_is_no_answer_is_refused() {
    for bytes in [
        "garbage\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 101 Switch\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 020 OK\r\n\r\n",
        // More than was asked for.
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxy",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nx",
        // Chunks that are none.
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\nx",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxy",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    ] {
        assert_eq!(whole(bytes.as_bytes()), Err(Malformed), "{bytes}");
    }
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection_and_no_other_does() {
    let mut rest = Answer::default();
    let fed = rest.feed(b"HTTP/1.1 200 OK\r\n\r\nhello");
    assert_eq!(fed, Ok(Progress::Partial));
    assert!(rest.ends_here() && rest.closes());
    let mut cut = Answer::default();
    let fed = cut.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello");
    assert_eq!(fed, Ok(Progress::Partial));
    assert!(!cut.ends_here() && cut.begun());
    cut.reset();
    assert!(!cut.ends_here() && !cut.begun());
}

/// Feeds `piece` over and over; gives how often that went well.
fn flood(start: &[u8], piece: &[u8]) -> (usize, Answer) {
    let mut answer = Answer::default();
    assert_eq!(answer.feed(start), Ok(Progress::Partial));
    let times = (0..1000).take_while(|_| answer.feed(piece).is_ok()).count();
    (times, answer)
}

#[test]
fn no_flood_is_kept() {
    let field = b"x-filler: 0123456789012345678901234567890123456789\r\n";
    let (times, answer) = flood(b"HTTP/1.1 200 OK\r\n", &field.repeat(10));
    assert!(times < 1000);
    assert!(answer.held.len() <= MAX_HEAD);

    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let (times, answer) = flood(&[chunked.as_slice(), b"1;"].concat(), &[b'x'; 100]);
    assert!(times < 1000, "an extension without end");
    assert!(answer.held.is_empty());
    let (times, _) = flood(&[chunked.as_slice(), b"0\r\n"].concat(), &[b'x'; 100]);
    assert!(times < 1000, "a trailer without end");
    // A body without end is no fault of form, but costs nothing either.
    let (times, answer) = flood(
        &[chunked.as_slice(), b"fffffffffffffff\r\n"].concat(),
        field,
    );
    assert_eq!((times, answer.held.len()), (1000, 0));
}

/// An answer, and whether it closes.
fn answers() -> impl Strategy<Value = (Vec<u8>, u16, bool)> {
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    let chunks = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..80), 0..5);
    (
        200..600_u16,
        any::<bool>(),
        body,
        chunks,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(status, closes, body, chunks, chunked, hint)| {
            // What has no body by its status is another test's.
            let status = if status == 304 || status == 204 {
                200
            } else {
                status
            };
            let mut bytes = Vec::new();
            if hint {
                bytes.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            bytes.extend(format!("HTTP/1.1 {status} Some Reason\r\nserver: x\r\n").bytes());
            if closes {
                bytes.extend(b"Connection: close\r\n");
            }
            if chunked {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in chunks {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            } else {
                bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
                bytes.extend(body);
            }
            (bytes, status, closes)
        })
}

proptest! {
    #[test]
    fn any_split_of_an_answer_parses_the_same(
        (bytes, status, closes) in answers(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut answer = Answer::default();
        let mut last = Ok(Progress::Partial);
        for (i, cut) in cuts.windows(2).enumerate() {
            if last == Ok(Progress::Whole) {
                prop_assert_eq!(cut[0], bytes.len(), "whole too early, before piece {}", i);
            }
            last = answer.feed(&bytes[cut[0]..cut[1]]);
        }
        prop_assert_eq!(last, Ok(Progress::Whole));
        prop_assert_eq!((answer.status(), answer.closes()), (status, closes));
    }

    #[test]
    fn no_bytes_make_it_panic_or_hold_more_than_a_head(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
        chunked in any::<bool>(),
    ) {
        let mut answer = Answer::default();
        if chunked {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            prop_assert_eq!(answer.feed(head), Ok(Progress::Partial));
        }
        for piece in pieces {
            if answer.feed(&piece).is_err() {
                break;
            }
            prop_assert!(answer.held.len() <= MAX_HEAD);
        }
    }
}
