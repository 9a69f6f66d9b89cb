//! A guest's stay: its lines are read and done in order, and what the bus has for it is written as lines.
//!
//! Nothing here grows without bounds. What is to be written is; above [`ENOUGH`] neither orders are read
//! nor messages taken, so that a guest that does not read cannot make others write for it: its orders wait
//! in its socket, its messages in its subscriptions, where the oldest are lost and counted.

use std::{
    collections::{BTreeMap, HashMap},
    future::{Future, pending},
    pin::Pin,
    rc::Rc,
    time::Duration,
};

use bytes::{BufMut, BytesMut};
use futures_util::{
    FutureExt, Stream, StreamExt,
    stream::{AbortHandle, FuturesUnordered, SelectAll, abortable, once},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::watch,
    task::yield_now,
    time::timeout,
};

use super::{Farewell, errand, told_to_leave};
use crate::{
    bus::{Bus, BusError, Cut, Message, Presence, PresenceEvents},
    control::bus::{
        CLOSED, Errand, Event, Lines, MAX_LINE, NoOrder, Op, Order, PROTOCOL, Shown, TooLong, What,
    },
};

/// What may wait to be written, in bytes, before nothing more is read or taken.
const ENOUGH: usize = 64 * 1024;
/// Patterns that a guest may have subscribed to, and applications that it may host, together.
const MAX_HEARD: usize = 1024;
/// Answers that a guest may wait for at once.
const MAX_WAITING: usize = 256;
/// Messages that a guest may have left unanswered: then the oldest is refused.
const MAX_TICKETS: usize = 256;
/// How long the hub may take to say who the guest is.
const WELCOME: Duration = Duration::from_secs(10);
/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_millis(500);
/// Orders that are done before others on this thread have their turn.
const TURN: usize = 32;

/// One guest.
pub(super) struct Session<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    bus: Bus,
    lines: Lines,
    /// The guest says nothing more.
    heard_all: bool,
    /// It hears nothing any more; what it has said before it went is done all the same.
    deaf: bool,
    /// What is to be written: whole lines, the first of which may have been begun.
    out: BytesMut,
    /// What has been subscribed to and what is hosted.
    heard: SelectAll<Heard>,
    subscribed: HashMap<String, AbortHandle>,
    hosted: HashMap<String, AbortHandle>,
    presence: Option<PresenceEvents>,
    /// Presence events that the guest knows to be lost.
    presence_missed: u64,
    /// What will be said when others have answered.
    waiting: FuturesUnordered<Waiting>,
    /// Messages that wait for the guest's answer.
    tickets: BTreeMap<u64, Message>,
    next_ticket: u64,
}

/// A subscription, or an application that is hosted.
type Heard = Pin<Box<dyn Stream<Item = Tidings>>>;

/// An answer that is waited for.
type Waiting = Pin<Box<dyn Future<Output = Event>>>;

/// What a subscription or an application has brought.
enum Tidings {
    /// A message, and the pattern by which it came, or none.
    Message(Message, Option<Rc<str>>),
    /// The guest was too slow for what has this name, and it was cut.
    Cut(Rc<str>, Cut),
    /// The bus has ended.
    Over,
}

/// Why a stay ends.
#[derive(Debug)]
enum End {
    /// The guest has left, or cannot be written to.
    Left,
    /// There is no bus any more, or not for this guest.
    Closed,
    /// All guests have to leave.
    Dismissed(Farewell),
}

impl<S: AsyncRead + AsyncWrite> Session<S> {
    /// Somebody at the other end of `stream`, with this end of the bus.
    pub(super) fn new(stream: S, bus: Bus) -> Self {
        let (reader, writer) = split(stream);
        Self {
            reader,
            writer,
            bus,
            lines: Lines::new(MAX_LINE),
            heard_all: false,
            deaf: false,
            out: BytesMut::new(),
            heard: SelectAll::new(),
            subscribed: HashMap::new(),
            hosted: HashMap::new(),
            presence: None,
            presence_missed: 0,
            waiting: FuturesUnordered::new(),
            tickets: BTreeMap::new(),
            next_ticket: 1,
        }
    }

    /// Serves the guest until it leaves, or has to. What it has not answered then fails.
    pub(super) async fn run(mut self, mut farewell: watch::Receiver<Option<Farewell>>) {
        let end = tokio::select! {
            biased;
            why = told_to_leave(&mut farewell) => End::Dismissed(why),
            end = self.stay() => end,
        };
        let (again, error) = match end {
            End::Left => {
                // What it has said goes out, too.
                let _ = timeout(LAST_LINES, self.bus.flush()).await;
                return;
            }
            End::Dismissed(why) => (why == Farewell::Upgrade, why.to_string()),
            End::Closed => (
                false,
                "the bus is closed: its hub has ended, or has cut this guest off".into(),
            ),
        };
        self.tell(&Event::Bye { again, error });
        let last_words = async {
            while !self.out.is_empty() && self.writer.write_buf(&mut self.out).await? > 0 {}
            self.writer.shutdown().await
        };
        // Whoever does not read it has to do without.
        let _ = timeout(LAST_LINES, last_words).await;
    }

    async fn stay(&mut self) -> End {
        if let Err(end) = self.welcome().await {
            return end;
        }
        loop {
            if let Err(end) = self.obey_all().await {
                return end;
            }
            let answered = self.waiting.is_empty() && self.out.is_empty();
            if self.heard_all && (answered || self.deaf) {
                return End::Left;
            }
            if let Err(end) = self.go_on().await {
                return end;
            }
        }
    }

    /// Says who the guest is.
    async fn welcome(&mut self) -> Result<(), End> {
        let bus = &self.bus;
        let known = async {
            Ok::<_, BusError>((
                bus.id().await?,
                bus.parent().await?,
                bus.grand_master().await?,
            ))
        };
        let Ok(Ok((you, parent, grand_master))) = timeout(WELCOME, known).await else {
            return Err(End::Closed);
        };
        self.tell(&Event::Welcome {
            protocol: PROTOCOL,
            you,
            parent,
            grand_master,
            max_line: MAX_LINE,
        });
        Ok(())
    }

    /// Waits for whatever comes next, and acts on it.
    async fn go_on(&mut self) -> Result<(), End> {
        let has_room = self.out.len() < ENOUGH;
        tokio::select! {
            written = self.writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                match written {
                    Ok(0) | Err(_) => {
                        self.deaf = true;
                        self.out = BytesMut::new();
                    }
                    Ok(_) if self.out.is_empty() && self.out.capacity() > 4 * ENOUGH => {
                        self.out = BytesMut::new();
                    }
                    Ok(_) => {}
                }
            }
            read = self.reader.read_buf(self.lines.room()), if has_room && !self.heard_all => {
                match read {
                    Ok(0) => self.heard_all = true,
                    Ok(_) => {}
                    Err(_) => return Err(End::Left),
                }
            }
            Some(tidings) = self.heard.next(), if has_room => {
                self.pass_on(tidings)?;
                // Several in one go, where they are there.
                while self.out.len() < ENOUGH
                    && let Some(Some(tidings)) = self.heard.next().now_or_never()
                {
                    self.pass_on(tidings)?;
                }
            }
            Some(event) = self.waiting.next(), if has_room => self.tell_outcome(&event)?,
            presence = next(&mut self.presence), if has_room => self.tell_presence(presence)?,
        }
        Ok(())
    }

    /// Does all whole lines that have come.
    async fn obey_all(&mut self) -> Result<(), End> {
        let mut done = 0;
        while self.out.len() < ENOUGH
            && let Some(line) = self.lines.next()
        {
            match line {
                Ok(line) if line.iter().all(u8::is_ascii_whitespace) => {}
                Ok(line) => match Order::read(&line) {
                    Ok(order) => self.obey(order).await?,
                    Err(NoOrder { id, why }) => self.fault(id, "order", why),
                },
                Err(TooLong) => {
                    let why = format!("a line of more than {MAX_LINE} bytes was left out");
                    self.fault(None, "line", why);
                }
            }
            done += 1;
            if done % TURN == 0 {
                yield_now().await;
            }
        }
        Ok(())
    }

    async fn obey(&mut self, Order { id, op }: Order) -> Result<(), End> {
        let done = match op {
            Op::Errand(errand) if errand::is_quick(&errand) => {
                errand::run(&self.bus, errand).await.map(drop)
            }
            Op::Errand(errand) => return self.begin(id, errand),
            Op::Subscribe(pattern) => self.subscribe(pattern).await,
            Op::Unsubscribe(pattern) => end(&mut self.subscribed, &pattern),
            Op::Host {
                application,
                description,
            } => self.host(application, description).await,
            Op::Unhost(application) => end(&mut self.hosted, &application),
            Op::Reply { ticket, payload } => {
                let message = self.ticket(ticket);
                message.and_then(|message| message.reply(payload))
            }
            Op::Refuse { ticket, error } => {
                let message = self.ticket(ticket);
                message.and_then(|message| message.refuse(&error))
            }
            Op::Watch => self.watch().await,
            Op::Unwatch => {
                self.presence = None;
                Ok(())
            }
        };
        match (done, id) {
            // Nobody asked to be told.
            (Ok(()), None) => {}
            (Ok(()), id) => self.tell(&Event::Ok { id }),
            (Err(error), id) => self.tell_outcome(&Event::error(id, &error))?,
        }
        Ok(())
    }

    /// Begins what others have to answer.
    fn begin(&mut self, id: Option<Value>, errand: Errand) -> Result<(), End> {
        if self.waiting.len() >= MAX_WAITING {
            let why = format!("{MAX_WAITING} answers are waited for already, which is the most");
            self.fault(id, "limit", why);
            return Ok(());
        }
        let bus = self.bus.clone();
        let mut waiting: Waiting = Box::pin(async move {
            match errand::run(&bus, errand).await {
                Ok(outcome) => outcome.into_event(id),
                Err(error) => Event::error(id, &error),
            }
        });
        // It is said here and now, so that it keeps its place among the orders.
        match (&mut waiting).now_or_never() {
            Some(event) => self.tell_outcome(&event),
            None => {
                self.waiting.push(waiting);
                Ok(())
            }
        }
    }

    async fn subscribe(&mut self, pattern: String) -> Result<(), BusError> {
        if self.subscribed.contains_key(&pattern) {
            return Ok(());
        }
        self.has_ears()?;
        let subscription = self.bus.subscribe(&pattern).await?;
        let name: Rc<str> = pattern.as_str().into();
        let handle = self.listen(subscription.map(move |heard| match heard {
            Ok(message) => Tidings::Message(message, Some(name.clone())),
            Err(cut) => Tidings::Cut(name.clone(), cut),
        }));
        self.subscribed.insert(pattern, handle);
        Ok(())
    }

    async fn host(&mut self, application: String, description: Value) -> Result<(), BusError> {
        if self.hosted.contains_key(&application) {
            return Err(BusError::Invalid(format!(
                "{application} is hosted by you already: unhost it first"
            )));
        }
        self.has_ears()?;
        let hosted = self.bus.host(&application, description).await?;
        let name: Rc<str> = application.as_str().into();
        let handle = self.listen(hosted.map(move |heard| match heard {
            Ok(message) => Tidings::Message(message, None),
            Err(cut) => Tidings::Cut(name.clone(), cut),
        }));
        self.hosted.insert(application, handle);
        Ok(())
    }

    fn has_ears(&self) -> Result<(), BusError> {
        match self.subscribed.len() + self.hosted.len() < MAX_HEARD {
            true => Ok(()),
            false => Err(BusError::Invalid(format!(
                "more than {MAX_HEARD} patterns and applications are too many for one guest"
            ))),
        }
    }

    /// Takes tidings from here too, until the handle is told to end it.
    fn listen(&mut self, heard: impl Stream<Item = Tidings> + 'static) -> AbortHandle {
        let to_its_end = heard.chain(once(async { Tidings::Over }));
        let (heard, handle) = abortable(to_its_end);
        self.heard.push(Box::pin(heard));
        handle
    }

    async fn watch(&mut self) -> Result<(), BusError> {
        if self.presence.is_none() {
            self.presence = Some(self.bus.presence().await?);
            self.presence_missed = 0;
        }
        Ok(())
    }

    /// The message that waits for the guest's answer under this number.
    fn ticket(&mut self, ticket: u64) -> Result<Message, BusError> {
        self.tickets.remove(&ticket).ok_or_else(|| {
            BusError::Invalid(format!(
                "no message waits for an answer under the ticket {ticket}: each is good for one, and the oldest go when more than {MAX_TICKETS} wait"
            ))
        })
    }

    fn pass_on(&mut self, tidings: Tidings) -> Result<(), End> {
        match tidings {
            Tidings::Message(message, pattern) => self.tell_message(message, pattern),
            Tidings::Cut(name, cut) => {
                self.subscribed.remove(&*name);
                self.hosted.remove(&*name);
                self.fault(None, "cut", format!("{name}: {cut}"));
            }
            Tidings::Over => return Err(End::Closed),
        }
        Ok(())
    }

    fn tell_message(&mut self, message: Message, pattern: Option<Rc<str>>) {
        let what = match pattern {
            Some(pattern) => What::Topic {
                topic: message.topic().into(),
                pattern: pattern.as_ref().into(),
            },
            None => What::Application {
                application: message.name().split('/').next().unwrap_or_default().into(),
                action: message.action().into(),
            },
        };
        let event = Event::Message {
            from: message.from(),
            what,
            ticket: message.is_request().then_some(self.next_ticket),
            missed: message.missed(),
            path: message.path(),
            payload: Shown::of(message.encoding(), &message.bytes()),
        };
        self.tell(&event);
        if message.is_request() {
            self.tickets.insert(self.next_ticket, message);
            self.next_ticket += 1;
            if self.tickets.len() > MAX_TICKETS
                && let Some((_, oldest)) = self.tickets.pop_first()
            {
                // That its sender has gone is no fault of ours.
                let _ = oldest.refuse("it was left unanswered, and others came after it");
            }
        }
    }

    fn tell_presence(&mut self, presence: Option<Presence>) -> Result<(), End> {
        let (Some(presence), Some(events)) = (presence, &self.presence) else {
            return Err(End::Closed);
        };
        let missed = events.missed();
        let event = Event::presence(presence, missed - self.presence_missed);
        self.presence_missed = missed;
        self.tell(&event);
        Ok(())
    }

    /// Tells what has come of an order. That there is no bus any more is the end.
    fn tell_outcome(&mut self, event: &Event) -> Result<(), End> {
        self.tell(event);
        match event {
            Event::Error { reason, .. } if reason == CLOSED => Err(End::Closed),
            _ => Ok(()),
        }
    }

    fn fault(&mut self, id: Option<Value>, reason: &str, error: String) {
        self.tell(&Event::Error {
            id,
            reason: reason.into(),
            error,
        });
    }

    fn tell(&mut self, event: &Event) {
        if self.deaf {
            return;
        }
        serde_json::to_writer((&mut self.out).writer(), event).expect("plain data, into memory");
        self.out.put_u8(b'\n');
    }
}

/// The next coming or going, if somebody wants to know.
async fn next(events: &mut Option<PresenceEvents>) -> Option<Presence> {
    match events {
        Some(events) => events.next().await,
        None => pending().await,
    }
}

/// Ends what has this name; it may have ended by itself.
fn end(heard: &mut HashMap<String, AbortHandle>, name: &str) -> Result<(), BusError> {
    if let Some(handle) = heard.remove(name) {
        handle.abort();
    }
    Ok(())
}
