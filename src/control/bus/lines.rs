//! Bytes as they come → whole lines. One that is too long is told once and left out, whatever it holds:
//! memory is bounded, and the next line is as good as any.

use bytes::{Buf, Bytes, BytesMut};

/// What is read at once, in bytes.
const PIECE: usize = 16 * 1024;

/// Bytes that have come and are no whole line yet.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    /// So many of them hold no end of a line.
    seen: usize,
    /// The line that they belong to was too long.
    skips: bool,
    most: usize,
}

/// A line was longer than it may be, and is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Lines {
    /// Of up to `most` bytes each.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    /// Where what comes is to be put.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < PIECE / 4 {
            self.buffer.reserve(PIECE);
        }
        &mut self.buffer
    }

    /// The next line, without its end (`\n` or `\r\n`).
    pub(crate) fn next(&mut self) -> Option<Result<Bytes, TooLong>> {
        loop {
            let end = self.buffer[self.seen..].iter().position(|b| *b == b'\n');
            let Some(end) = end.map(|end| self.seen + end) else {
                // One more: the end may be of two bytes.
                let long = self.skips || self.buffer.len() > self.most + 1;
                if long {
                    self.buffer.clear();
                }
                self.seen = self.buffer.len();
                let told = std::mem::replace(&mut self.skips, long);
                return (long && !told).then_some(Err(TooLong));
            };
            let mut line = self.buffer.split_to(end);
            self.buffer.advance(1);
            self.seen = 0;
            if std::mem::take(&mut self.skips) {
                continue;
            }
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            return Some(match line.len() > self.most {
                true => Err(TooLong),
                false => Ok(line.freeze()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Result<&[u8], TooLong> = Err(TooLong);

    /// What comes out of `pieces` with lines of up to five bytes.
    fn lines(pieces: &[&[u8]]) -> Vec<Result<Vec<u8>, TooLong>> {
        let mut lines = Lines::new(5);
        let mut out = Vec::new();
        for piece in pieces {
            lines.room().extend_from_slice(piece);
            while let Some(line) = lines.next() {
                out.push(line.map(|line| line.to_vec()));
            }
            assert!(lines.buffer.len() <= 6, "bounded");
        }
        out
    }

    #[test]
    fn lines_end_where_they_end() {
        let owned = |expected: &[Result<&[u8], TooLong>]| -> Vec<_> {
            let owned = expected.iter().map(|line| line.map(<[u8]>::to_vec));
            owned.collect()
        };
        for (text, expected) in [
            (&b"a\nb\r\n\nc"[..], &[Ok(&b"a"[..]), Ok(b"b"), Ok(b"")][..]),
            (b"12345\n12345\r\n", &[Ok(b"12345"), Ok(b"12345")]),
            (b"123456\nb\n", &[LONG, Ok(b"b")]),
            (b"123456\r\nb\n", &[LONG, Ok(b"b")]),
            (b"0123456789012345678\nb\n", &[LONG, Ok(b"b")]),
            (b"\xff\x00\n", &[Ok(b"\xff\x00")]),
            (b"01234567890123456789", &[LONG]),
        ] {
            assert_eq!(lines(&[text]), owned(expected), "{text:?}");
            let bytes: Vec<_> = text.chunks(1).collect();
            assert_eq!(lines(&bytes), owned(expected), "{text:?}, byte by byte");
        }
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_up_makes_no_difference(
            text in "[ab\r\n]{0,60}", cuts in prop::collection::vec(1..8_usize, 0..40),
        ) {
            let mut rest = text.as_bytes();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(lines(&pieces), lines(&[text.as_bytes()]));
        }
    }
}
