//! The channels between master and one worker, typed: connections one way, control both ways.
//!
//! Two seqpacket lines, so that neither end ever mixes up who reads: the hand-over line belongs to
//! the dispatcher thread and the worker's intake, the control line to the master's control runtime
//! and the worker's boot. Every message is received whole or not at all.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::{Context, Poll, Waker},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    config::ConnectionTimeouts,
    dispatch::{
        mode::Arm,
        wire::{self, Entry, MAX_BATCH, MAX_BYTES},
    },
    sys::{fdpass, readiness::watch},
};

/// The dispatcher's end of the hand-over line.
#[derive(Debug)]
pub struct Outlet {
    socket: OwnedFd,
    /// Reused for every batch.
    bytes: Vec<u8>,
}

/// The worker's end of the hand-over line.
#[derive(Debug)]
pub struct Inlet {
    socket: AsyncFd<OwnedFd>,
}

/// Where an [`Inlet`] puts the message that it takes. Reused for every message.
#[derive(Debug)]
pub struct Letterbox {
    bytes: Box<[u8; MAX_BYTES]>,
    descriptors: Vec<OwnedFd>,
}

impl Default for Letterbox {
    fn default() -> Self {
        Self {
            bytes: Box::new([0; MAX_BYTES]),
            descriptors: Vec::with_capacity(MAX_BATCH),
        }
    }
}

/// Makes a hand-over line. The second end becomes an [`Inlet`] in the process that receives it.
///
/// # Errors
/// As `socketpair(2)`.
pub fn handover_line() -> io::Result<(Outlet, OwnedFd)> {
    let (ours, theirs) = fdpass::pair()?;
    Ok((Outlet::from_socket(ours), theirs))
}

impl Outlet {
    /// Takes over the dispatcher's end of a line that is there already.
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self {
            socket,
            bytes: Vec::with_capacity(MAX_BYTES),
        }
    }

    /// Sends one batch: entries and their descriptors, numbered from `first`. Never blocks.
    ///
    /// # Errors
    /// As [`fdpass::send`].
    ///
    /// # Panics
    /// With no entry or more than [`MAX_BATCH`].
    pub fn send<'a>(
        &mut self,
        first: u32,
        batch: impl ExactSizeIterator<Item = (Entry, BorrowedFd<'a>)> + Clone,
    ) -> io::Result<()> {
        wire::encode(
            first,
            batch.clone().map(|(entry, _)| entry),
            &mut self.bytes,
        );
        fdpass::send(
            self.socket.as_fd(),
            &self.bytes,
            batch.map(|(_, socket)| socket),
        )
    }
}

/// What the worker's end of the hand-over line brought.
#[derive(Debug)]
pub enum Arrival<'a> {
    /// A batch: its descriptors are in the same order as its entries.
    Batch(wire::Batch<'a>, std::vec::Drain<'a, OwnedFd>),
    /// Bytes or descriptors that are no batch; the descriptors are closed.
    Malformed,
    /// Nothing more at present.
    Empty,
    /// The master closed its end, or is dead.
    Closed,
}

impl Inlet {
    /// Takes over the worker's end. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The runtime cannot register it.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: watch(socket, Interest::READABLE)?,
        })
    }

    /// Waits until something may be there; it stays so until [`clear_ready`](Self::clear_ready).
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket
            .readable()
            .await
            .map(|mut guard| guard.retain_ready())
    }

    /// Takes one message, if there is one.
    pub fn receive<'a>(&self, letterbox: &'a mut Letterbox) -> Arrival<'a> {
        let Letterbox { bytes, descriptors } = letterbox;
        descriptors.clear();
        let received = match fdpass::receive(self.socket.as_fd(), &mut bytes[..], descriptors) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Arrival::Empty,
            Err(_) => return Arrival::Closed,
        };
        if received.bytes == 0 && descriptors.is_empty() {
            return Arrival::Closed;
        }
        match wire::decode(&bytes[..received.bytes]) {
            Ok(batch) if !received.truncated && batch.len() == descriptors.len() => {
                Arrival::Batch(batch, descriptors.drain(..))
            }
            _ => {
                descriptors.clear();
                Arrival::Malformed
            }
        }
    }

    /// Declares the line empty, so that [`readable`](Self::readable) waits for the next message
    /// instead of looking once more. A message that arrives meanwhile is not missed: the kernel
    /// reports each arrival anew (edge-triggered), and the runtime only hears of it afterwards.
    pub fn clear_ready(&self) {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(mut guard)) = self.socket.poll_read_ready(&mut context) {
            guard.clear_ready();
        }
    }
}

/// What the master tells a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Everything that the worker owns, once, first of all. The descriptors that come along are, in
    /// this order: the scoreboard, the hand-over line, the line to the hub, and those of `doors`.
    Inheritance(Inheritance),
    /// The same, to a binary that is to show that it could take this one's place: one more descriptor
    /// holds what it would be given.
    Trial(Inheritance),
    /// Accept there from now on, and nowhere else. The descriptors that come along are those of the
    /// listeners. Answered by [`ToMaster::Opened`].
    Doors(Doors),
    /// Take nothing new, finish what is open, exit 0.
    Drain,
}

/// What a worker is born with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inheritance {
    /// Its seat, from 0.
    pub seat: u16,
    /// Counts births in the seat, from 1.
    pub generation: u64,
    /// The worker group that it is in.
    #[serde(default)]
    pub group: Option<String>,
    /// Its row of the scoreboard.
    pub row: usize,
    /// The core to which it binds itself.
    pub core: Option<usize>,
    /// Where it accepts by itself.
    pub doors: Doors,
    /// How long clients may take.
    pub timeouts: ConnectionTimeouts,
    /// How long it may take to finish what it holds, once the master is gone.
    pub drain_timeout: Duration,
    /// The scoreboard's column for each of the application's upstream endpoints, in its own order.
    pub endpoints: Vec<u8>,
    /// What the application asked for, in its own words.
    pub application: String,
    /// Does a line to the hub come along? Not from a master that knows no bus yet.
    #[serde(default)]
    pub bus: bool,
}

/// Where and how a worker accepts by itself. One descriptor follows for each listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doors {
    /// Counts the changes, so that an answer says which one it is to.
    pub epoch: u64,
    /// Under which mode and policy.
    pub arm: Arm,
    /// The numbers of the listeners; empty where the worker only takes what it is handed.
    pub listeners: Vec<u8>,
}

/// What a worker tells the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMaster {
    /// It takes connections from now on.
    Ready,
    /// It was told to end by somebody else, and asks to be drained.
    Leaving,
    /// It accepts by the doors of this epoch now, and no others.
    Opened {
        /// As in [`Doors::epoch`].
        epoch: u64,
    },
}

/// One end of a control line.
#[derive(Debug)]
pub struct Control {
    socket: AsyncFd<OwnedFd>,
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The largest control message, in bytes; the socket's send buffer holds more.
const MAX_CONTROL: usize = 128 * 1024;

impl Control {
    /// Takes over one end. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The runtime cannot register it.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: watch(socket, Interest::READABLE | Interest::WRITABLE)?,
        })
    }

    /// Sends a message with descriptors, waiting for room.
    ///
    /// # Errors
    /// The other end is gone, or the message is over 128 KiB.
    pub async fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_CONTROL {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "control message over 128 KiB",
            ));
        }
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                fdpass::send(socket.as_fd(), &bytes, fds.iter().copied())
            })
            .await
    }

    /// Waits for the next message. `None`: the other end is closed.
    ///
    /// # Errors
    /// The message is truncated or not an `M`; its descriptors are closed.
    pub async fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MAX_CONTROL];
        let mut descriptors = Vec::new();
        let received = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                fdpass::receive(socket.as_fd(), &mut bytes, &mut descriptors)
            })
            .await;
        let received = match received {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            received => received?,
        };
        if received.truncated {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "control message truncated",
            ));
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        Ok(Some((
            serde_json::from_slice(&bytes[..received.bytes])?,
            descriptors,
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;

    fn entries(n: usize) -> impl ExactSizeIterator<Item = Entry> + Clone {
        (0..n).map(|i| Entry {
            accepted_at: i as u64,
            peer: ([127, 0, 0, 1], i as u16).into(),
            listener: 0,
            arm: Arm::ALL[0],
            shadows: crate::dispatch::shadow::Picks::NONE,
        })
    }

    /// The bytes of a batch.
    fn batch(n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        wire::encode(1, entries(n), &mut bytes);
        bytes
    }

    /// A pipe's end to send, and the other to find out whether anybody has it still.
    fn pipe() -> (OwnedFd, File) {
        let (read, write) = nix::unistd::pipe().expect("pipe");
        (write, File::from(read))
    }

    fn on_a_runtime<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(test)
    }

    /// What a worker makes of `bytes` that come with `n` descriptors. They are closed by then, unless
    /// it is a batch.
    fn arrives(bytes: &[u8], n: usize) -> Option<usize> {
        on_a_runtime(async {
            let (outlet, inlet) = handover_line().expect("line");
            let inlet = Inlet::new(inlet).expect("a runtime");
            let (sent, mut kept) = pipe();
            let descriptors = std::iter::repeat_n(sent.as_fd(), n);
            fdpass::send(outlet.socket.as_fd(), bytes, descriptors).expect("sent");
            drop(sent);
            let mut letterbox = Letterbox::default();
            inlet.readable().await.expect("a runtime");
            let arrived = match inlet.receive(&mut letterbox) {
                Arrival::Batch(batch, sockets) => {
                    assert_eq!((batch.len(), sockets.len()), (n, n));
                    return Some(n);
                }
                Arrival::Malformed => None,
                other => panic!("{other:?}"),
            };
            // The end of the file: nobody has the other end any more. It would block otherwise.
            assert_eq!(kept.read(&mut [0]).expect("the end"), 0);
            // And the line is as good as before.
            let (sent, _kept) = pipe();
            fdpass::send(outlet.socket.as_fd(), &batch(1), [sent.as_fd()].into_iter())
                .expect("sent");
            let next = inlet.receive(&mut letterbox);
            assert!(matches!(next, Arrival::Batch(..)), "{next:?}");
            arrived
        })
    }

    #[test]
    fn a_batch_comes_with_as_many_descriptors_as_it_says() {
        for n in [1, 2, MAX_BATCH] {
            assert_eq!(arrives(&batch(n), n), Some(n));
        }
    }

    #[test]
    fn a_wrong_number_of_descriptors_is_no_batch_and_all_of_them_are_closed() {
        for (said, came) in [
            (2, 0),
            (2, 1),
            (1, 2),
            (MAX_BATCH, MAX_BATCH - 1),
            (1, MAX_BATCH),
        ] {
            assert_eq!(
                arrives(&batch(said), came),
                None,
                "{said} said, {came} came"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_batch_or_too_many_are_none_and_their_descriptors_are_closed() {
        let mut truncated = batch(3);
        truncated.pop();
        let mut longer = batch(MAX_BATCH);
        longer.push(0);
        for (bytes, came) in [(b"x".to_vec(), 1), (truncated, 3), (longer, MAX_BATCH)] {
            assert_eq!(arrives(&bytes, came), None, "{} bytes", bytes.len());
        }
    }

    #[test]
    fn a_control_message_that_is_none_is_an_error_and_its_descriptors_are_closed() {
        on_a_runtime(async {
            let (ours, theirs) = fdpass::pair().expect("pair");
            let control = Control::new(theirs).expect("a runtime");
            for bytes in [
                &b"{}"[..],
                b"\xff",
                b"{\"Doors\":",
                &[b' '; MAX_CONTROL + 1],
            ] {
                let (sent, mut kept) = pipe();
                fdpass::send(ours.as_fd(), bytes, [sent.as_fd()].into_iter()).expect("sent");
                drop(sent);
                let error = control.receive::<ToWorker>().await.expect_err("no message");
                assert_eq!(kept.read(&mut [0]).expect("the end"), 0, "{error}");
            }
            let drain = serde_json::to_vec(&ToWorker::Drain).expect("plain data");
            fdpass::send(ours.as_fd(), &drain, std::iter::empty()).expect("sent");
            let next = control.receive::<ToWorker>().await.expect("a message");
            assert_eq!(next.map(|(message, _)| message), Some(ToWorker::Drain));
        });
    }

    #[test]
    fn a_control_message_that_is_too_large_is_not_sent() {
        on_a_runtime(async {
            let (ours, _theirs) = fdpass::pair().expect("pair");
            let control = Control::new(ours).expect("a runtime");
            let error = control.send(&"x".repeat(MAX_CONTROL), &[]).await;
            assert_eq!(
                error.expect_err("refused").kind(),
                io::ErrorKind::InvalidInput
            );
        });
    }
}
