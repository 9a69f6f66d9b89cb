//! Writing a head and a small body in one plain `send`.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

/// What is joined at most, in bytes.
const SMALL: usize = 1024;

/// Writes several pieces at once: small ones joined, large ones as they are.
///
/// `writev` goes a longer way through the kernel than `send`, even with a single piece; joining a head
/// and a body of a hundred bytes costs less than that, and copying a large body much more.
#[inline]
pub(crate) fn poll_write_pieces<W: AsyncWrite>(
    socket: Pin<&mut W>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return socket.poll_write(cx, piece);
    }
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    if total > SMALL {
        return socket.poll_write_vectored(cx, pieces);
    }
    let mut joined = [0; SMALL];
    let mut end = 0;
    for piece in pieces {
        joined[end..end + piece.len()].copy_from_slice(piece);
        end += piece.len();
    }
    socket.poll_write(cx, &joined[..end])
}
