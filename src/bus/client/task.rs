//! The task at the line: sends what waits, takes in what comes.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    super::{
        error::Failure,
        frame::{self, Attached, Kind, MAX_PACKET},
        line::{Arrival, Line},
    },
    incoming::Afterwards,
    message::{Message, PacketTag},
    outgoing::Sent,
    shared::Shared,
};

/// Bytes that are taken in before others on this thread get their turn, and the kernel is asked what
/// they have to do.
const BYTES_PER_TURN: usize = 16 * 1024;
/// Packets, likewise.
const PACKETS_PER_TURN: usize = 32;

/// Why the task ends, or not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing more at present.
    Idle,
    /// There is more.
    More,
    /// The line is closed.
    Closed,
}

/// Serves the line until it closes, or until all handles are gone and what they have said is sent.
pub(super) async fn serve(shared: Arc<Shared>, line: Line) {
    // However this ends, also with its runtime, nobody is to wait for it.
    let _closes = Closes(&shared);
    let mut end = End {
        buffer: vec![0; MAX_PACKET],
        after: Afterwards::default(),
    };
    let mut sent = Sent::All;
    loop {
        // What came before the other end was closed is still heard.
        if sent != Sent::Closed {
            sent = shared.outgoing.send(&line);
        }
        if sent == Sent::All && shared.outgoing.is_leaving() {
            return;
        }
        let received = end.receive(&shared, &line);
        match received {
            Turn::Closed => return,
            Turn::More => {
                tokio::task::yield_now().await;
                continue;
            }
            Turn::Idle if sent == Sent::Turn => {
                tokio::task::yield_now().await;
                continue;
            }
            Turn::Idle => {}
        }
        let alive = tokio::select! {
            biased;
            () = shared.outgoing.wake.notified() => true,
            ready = line.readable() => ready.is_ok(),
            ready = line.writable(), if sent == Sent::Full => ready.is_ok(),
        };
        if !alive {
            return;
        }
    }
}

/// What the task reuses.
struct End {
    buffer: Vec<u8>,
    after: Afterwards,
}

impl End {
    /// Takes in what is there, up to a turn's worth.
    fn receive(&mut self, shared: &Arc<Shared>, line: &Line) -> Turn {
        let (mut bytes, mut resets) = (0, 0);
        for _ in 0..PACKETS_PER_TURN {
            let (size, attached) = match line.try_receive(&mut self.buffer) {
                Arrival::Empty => return Turn::Idle,
                // An other end that has left something unread says so before it gives what it had sent.
                Arrival::Closed if resets == 0 => {
                    resets = 1;
                    continue;
                }
                Arrival::Closed => return Turn::Closed,
                Arrival::Damaged(size) => {
                    self.damaged(shared, size);
                    continue;
                }
                Arrival::Packet(size, attached) => (size, attached),
            };
            let packet = Bytes::copy_from_slice(&self.buffer[..size]);
            let understood = shared
                .incoming()
                .packet(shared, &packet, attached, &mut self.after);
            self.after.settle();
            if let Err(malformed) = understood {
                crate::notice(format_args!(
                    "the bus is given up: the hub sent {malformed}"
                ));
                return Turn::Closed;
            }
            bytes += size;
            if bytes >= BYTES_PER_TURN {
                break;
            }
        }
        Turn::More
    }

    /// A packet whose descriptor this process had no room for. Whoever sent it keeps it.
    fn damaged(&mut self, shared: &Arc<Shared>, size: usize) {
        let packet = Bytes::copy_from_slice(&self.buffer[..size.min(MAX_PACKET)]);
        for frame in frame::frames(&packet).map_while(Result::ok) {
            let tag = PacketTag { number: 0, size: 0 };
            if frame.header.kind == Kind::Request && frame.header.attached != Attached::Nothing {
                let message = Message::new(&frame, &packet, tag).with_errand(shared, None);
                let text = "no more open files for what came along";
                // Without a bus nobody waits for it.
                let _ = message.fail(Failure::Overflow, text);
            }
        }
    }
}

/// Ends everybody's waiting.
struct Closes<'a>(&'a Shared);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
