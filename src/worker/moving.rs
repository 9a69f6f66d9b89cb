//! Moving sockets by hand: from one process to another, with a message.

use std::{io, os::fd::AsFd, sync::atomic::Ordering::Relaxed, time::Duration};

use socket2::Socket;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::{
    Worker,
    account::Account,
    moved::{CONNECTION, LISTENER, Label, Moved, NotMoved, hand_connection, hand_to, read},
    raw::Conn,
    serve::{Host, Protocol},
};
use crate::{
    bus::{Attached, Attachment, Bus, BusError, Message, Payload, ProcessId, Subscription, To},
    conn::Accepted,
    dispatch::shadow::Picks,
};

/// A topic that nobody sends to.
const NOTHING: &str = "$nothing";

/// How long a worker that begins waits to be reachable for moved connections; without a bus it serves, too.
const BUS_PATIENCE: Duration = Duration::from_secs(1);

impl Worker {
    /// Moves a connection to another process, with a message: a worker of this master
    /// ([`To::Worker`]), or whatever else the address names, as long as it is one process on this machine.
    /// There it is served by whatever that worker serves with, as if it had come in there, and the handler
    /// finds the message in [`Conn::message`], the application in [`Peer::message`](crate::Peer::message).
    ///
    /// The client notices nothing. What has been read from the connection does not come along: look
    /// with [`Conn::peek`] before you move it, or put what you have read into the message.
    ///
    /// # Errors
    /// If the receiver surely has not taken it, the connection is in the error and can be used as
    /// before: nobody is there ([`Failure::Unroutable`](crate::bus::Failure::Unroutable)), it has ended or is about
    /// to ([`Failure::Refused`](crate::bus::Failure::Refused)), it has too much to do
    /// ([`Failure::Overflow`](crate::bus::Failure::Overflow)), the message is over about 64,000 bytes. A receiver that
    /// dies at that moment, or does not answer within 5 s, leaves nobody knowing: see [`NotMoved::conn`]; so does
    /// whoever drops this future before it is done. That is counted (`pointsman_connections_moved_total`), as is
    /// what was moved.
    ///
    /// ```no_run
    /// use pointsman::{Conn, bus::To};
    ///
    /// async fn serve(conn: Conn) {
    ///     let worker = conn.worker().clone();
    ///     if worker.id() != 0 && conn.peer().ip().is_loopback() {
    ///         match worker.send_connection(To::Worker(0), conn, "from this machine").await {
    ///             Ok(()) => {}
    ///             Err(error) => eprintln!("not moved: {error}"),
    ///         }
    ///     }
    /// }
    /// ```
    pub async fn send_connection(
        &self,
        to: impl Into<To>,
        conn: Conn,
        message: impl Into<Payload>,
    ) -> Result<(), NotMoved<Conn>> {
        // Ours stays open until it is taken.
        let copy = match conn.as_fd().try_clone_to_owned() {
            Ok(copy) => copy,
            Err(error) => return Err(NotMoved::back(error.into(), conn)),
        };
        let socket = Attachment::connection(copy);
        let label = Label::new(conn.raw_peer(), Some(conn.account().origin()));
        let undecided = Undecided(Some(conn.account()));
        match hand_connection(&self.bus, to.into(), socket, label, message.into()).await {
            Ok(()) => {
                undecided.decide();
                conn.account().moved();
                Ok(())
            }
            Err(failed) if failed.attachment.is_some() => {
                undecided.decide();
                Err(NotMoved::back(failed.error, conn))
            }
            Err(failed) => Err(NotMoved::lost(failed.error)),
        }
    }

    /// Makes a connection that the user's own code has accepted or made one of the worker's: it is
    /// counted, under listener 0, the worker waits for it when it drains, and it can be
    /// [moved](Self::send_connection). `TCP_NODELAY` is set.
    ///
    /// # Errors
    /// It is not connected.
    pub fn adopt(&self, stream: TcpStream) -> io::Result<Conn> {
        let peer = stream.peer_addr()?;
        stream.set_nodelay(true)?;
        self.row.work.moved_in.fetch_add(1, Relaxed);
        let origin = (0, self.inheritance.doors.arm);
        let account = Account::open(&self.ledger, origin, Picks::NONE);
        Ok(Conn::new(peer, stream, account, self.clone(), None))
    }

    /// Passes a listening socket to another process on this machine, with a message. From then on both
    /// processes accept from it: drop your own to leave it to the other. Returns when the receiver has
    /// taken it from its [`received_listeners`](Self::received_listeners).
    ///
    /// # Errors
    /// The receiver has not taken it, for the same reasons as in
    /// [`send_connection`](Self::send_connection), or it does not ask for listeners
    /// ([`Failure::NoListener`](crate::bus::Failure::NoListener)); no more open files.
    pub async fn send_listener(
        &self,
        to: impl Into<To>,
        listener: impl AsFd,
        message: impl Into<Payload>,
    ) -> Result<(), BusError> {
        send_listener(&self.bus(), to.into(), listener, message.into()).await
    }

    /// The listening sockets that others [pass](Self::send_listener) to this process from now on.
    ///
    /// # Errors
    /// There is no bus.
    pub async fn received_listeners(&self) -> Result<ReceivedListeners, BusError> {
        let arrivals = self.bus().subscription(LISTENER).reserved().open().await?;
        Ok(ReceivedListeners(arrivals))
    }
}

/// Counts a connection of which nobody knows whether another process has taken it; also if the sender
/// does not wait until it is known.
struct Undecided<'a>(Option<&'a Account>);

impl Undecided<'_> {
    fn decide(mut self) {
        self.0 = None;
    }
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        if let Some(account) = self.0 {
            account.doubtful();
        }
    }
}

/// See [`Worker::send_listener`].
pub(crate) async fn send_listener(
    bus: &Bus,
    to: To,
    listener: impl AsFd,
    message: Payload,
) -> Result<(), BusError> {
    let copy = listener.as_fd().try_clone_to_owned()?;
    let address = Socket::from(copy.try_clone()?).local_addr()?;
    let address = address
        .as_socket()
        .ok_or_else(|| BusError::Invalid("a listener that is not for TCP".into()))?;
    let (label, socket) = (Label::new(address, None), Attachment::listener(copy));
    hand_to(bus, to, LISTENER, socket, label, message)
        .await
        .map_err(BusError::from)
}

/// The listening sockets that come to this process, until it is dropped.
#[derive(Debug)]
pub struct ReceivedListeners(Subscription);

impl ReceivedListeners {
    /// Waits for the next one, and tells its sender that it is taken. Up to 5 s may pass until this is called;
    /// then the sender has given up. `None`: there is no bus any more.
    pub async fn next(&mut self) -> Option<(TcpListener, Moved)> {
        loop {
            let message = self.0.next().await?.ok()?;
            match take_listener(&message) {
                Ok((listener, moved)) => {
                    // If nobody hears it, the sender does not know whether it was taken; we do.
                    let _ = message.reply("");
                    return Some((listener, moved));
                }
                Err(why) => _ = message.refuse(&why),
            }
        }
    }
}

fn take_listener(message: &Message) -> Result<(TcpListener, Moved), String> {
    let (_, moved) = read(message).ok_or("it says what nobody understands")?;
    let socket = take_socket(message, Attached::Listener)?;
    let listener = TcpListener::from_std(socket.into()).map_err(in_words)?;
    Ok((listener, moved))
}

/// The socket that came along.
fn take_socket(message: &Message, kind: Attached) -> Result<Socket, String> {
    let attachment = message.take_attachment().ok_or("nothing came along")?;
    if attachment.kind() != kind {
        return Err("something else came along".into());
    }
    let socket = Socket::from(attachment.into_fd());
    // The sender's runtime has seen to it, or the user's has not.
    socket.set_nonblocking(true).map_err(in_words)?;
    Ok(socket)
}

fn in_words(error: io::Error) -> String {
    crate::error::describe(&error)
}

/// Takes connections that are moved to this worker, until there is no bus any more or it [ends](Self::end).
pub(super) struct Taking {
    over: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Taking {
    /// Takes no more, and waits until nothing is on its way here: whoever has sent something gets it back,
    /// and nothing ends with the worker.
    pub(super) async fn end(self, bus: &Bus) {
        drop(self.over);
        // It cannot be aborted, and has nothing to panic about.
        let _ = self.task.await;
        // What the hub sent before it heard of that comes before its answer to this.
        let _ = bus.subscription(NOTHING).reserved().open().await;
    }
}

/// Begins to.
pub(super) async fn take_moved<P: Protocol>(host: &Host<P>) -> Taking {
    let (reachable, is_reachable) = oneshot::channel();
    let (over, mut is_over) = oneshot::channel::<()>();
    let receiver = host.clone();
    let task = tokio::task::spawn_local(async move {
        let bus = receiver.worker().bus();
        let Ok(me) = bus.id().await else { return };
        let Ok(mut arrivals) = bus.subscription(CONNECTION).reserved().open().await else {
            return;
        };
        let _ = reachable.send(());
        loop {
            let message = tokio::select! {
                Some(Ok(message)) = arrivals.next() => message,
                _ = &mut is_over => return,
            };
            match receiver.take(&message, me) {
                // If nobody hears it, the sender does not know whether it was taken, and lets go of it.
                Ok(()) => _ = message.reply(""),
                Err(why) => _ = message.refuse(&why),
            }
        }
    });
    let _ = tokio::time::timeout(BUS_PATIENCE, is_reachable).await;
    Taking { over, task }
}

impl<P: Protocol> Host<P> {
    /// Serves the connection that came along.
    fn take(&self, message: &Message, me: ProcessId) -> Result<(), String> {
        if self.worker().ledger.is_draining() {
            return Err("the worker is about to end".into());
        }
        let (label, moved) = read(message).ok_or("it says what nobody understands")?;
        let socket = take_socket(message, Attached::Connection)?;
        let row = self.worker().row();
        // Another master's listeners have other numbers.
        let is_ours = message.from().master == me.master;
        let (listener, arm) = label
            .origin
            .filter(|_| is_ours)
            .unwrap_or((0, self.worker().inheritance.doors.arm));
        let conn = Accepted {
            socket: socket.into(),
            peer: label.peer,
            listener,
            arm,
            shadows: Picks::NONE,
            accepted_at: 0,
        };
        row.work.moved_in.fetch_add(1, Relaxed);
        let taken = self.welcome_moved(conn, moved).map_err(in_words);
        self.rest().load_moved(row);
        taken
    }
}
