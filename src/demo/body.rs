//! The bodies the demo app answers with, and the hash it takes of those it is sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};

/// The most a `/bytes` answer hands to hyper at once.
const CHUNK: usize = 64 * 1024;

/// The period of the pattern. A prime: no power of two divides evenly into it, so a block lost,
/// repeated or swapped on the way shifts the pattern and shows.
const PERIOD: usize = 251;

/// One chunk, whatever the offset it begins at.
static PATTERN: [u8; CHUNK + PERIOD] = {
    let mut pattern = [0; CHUNK + PERIOD];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = (at % PERIOD) as u8;
        at += 1;
    }
    pattern
};

/// The byte at `offset` of any `/bytes` answer.
#[must_use]
pub fn pattern_byte(offset: u64) -> u8 {
    (offset % PERIOD as u64) as u8
}

/// An answer's body. An enum rather than a box: the plain answers should cost no allocation.
pub(super) enum Body {
    /// All there is; empty once sent.
    Whole(Bytes),
    /// The pattern from `at` to `end`; `sized` tells hyper how much, and so sets `Content-Length`.
    Pattern { at: u64, end: u64, sized: bool },
    /// The request's own body, handed on frame by frame.
    Echo(Incoming),
}

impl Body {
    /// `length` bytes of the pattern.
    pub(super) fn pattern(length: u64, sized: bool) -> Self {
        Self::Pattern {
            at: 0,
            end: length,
            sized,
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(whole: T) -> Self {
        Self::Whole(whole.into())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let next = match self.get_mut() {
            Self::Whole(whole) => std::mem::take(whole),
            Self::Pattern { at, end, .. } => {
                let start = pattern_byte(*at) as usize;
                let length = (*end - *at).min(CHUNK as u64);
                *at += length;
                Bytes::from_static(&PATTERN[start..start + length as usize])
            }
            Self::Echo(incoming) => return Pin::new(incoming).poll_frame(cx),
        };
        Poll::Ready((!next.is_empty()).then(|| Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_empty(),
            // Without a size even nothing is to be sent chunked, so hyper must not see it coming.
            Self::Pattern { at, end, sized } => *sized && at == end,
            Self::Echo(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.len() as u64),
            Self::Pattern { at, end, sized } if *sized => SizeHint::with_exact(*end - *at),
            Self::Pattern { .. } => SizeHint::default(),
            Self::Echo(incoming) => incoming.size_hint(),
        }
    }
}

/// FNV-1a, 64 bits, by Fowler, Noll and Vo: <http://www.isthe.com/chongo/tech/comp/fnv/>, whose
/// basis and prime these are (also in the Internet-Draft draft-eastlake-fnv). Not cryptographic:
/// it tells a body changed by accident, which is all the tests ask of it.
pub(super) struct Fnv1a64(u64);

impl Fnv1a64 {
    pub(super) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(super) fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[test]
    fn fnv1a_agrees_with_its_authors() {
        for (text, hash) in [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
        ] {
            let mut fnv = Fnv1a64::new();
            fnv.update(text.as_bytes());
            assert_eq!(fnv.finish(), hash, "{text:?}");
        }
    }

    #[tokio::test]
    async fn the_pattern_runs_on_over_chunk_edges() {
        for length in [0, 1, 250, 251, 252, 65_535, 65_536, 65_537, 300_000] {
            let mut body = Body::pattern(length, true);
            let mut at = 0;
            while let Some(frame) = body.frame().await {
                let data = frame.expect("a pattern").into_data().expect("only data");
                assert!(!data.is_empty() && data.len() <= CHUNK);
                for byte in data {
                    assert_eq!(byte, pattern_byte(at), "at {at} of {length}");
                    at += 1;
                }
            }
            assert_eq!(at, length);
        }
    }
}
