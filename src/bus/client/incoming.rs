//! What comes through the line, and for whom.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Waker,
};

use bytes::Bytes;
use serde_json::Value;
use slab::Slab;
use tokio::sync::oneshot;

use super::{
    super::{
        control::{Ask, Tell},
        error::{BusError, Failure},
        frame::{self, Frame, Kind, Malformed, Space},
        payload,
        peer::Peer,
    },
    inbox::{Inbox, Outcome},
    interest::{Interest, Targets},
    message::{Message, PacketTag},
    presence::News,
    shared::{Place, Shared, You},
};

/// Whoever waits for something to come.
pub(super) struct Incoming {
    pub(super) interest: Interest,
    /// What this process hosts, with its description.
    pub(super) applications: HashMap<String, (Value, Arc<Inbox<Message>>)>,
    pub(super) functions: HashMap<String, Arc<Inbox<Message>>>,
    pub(super) watchers: Slab<Arc<Inbox<News>>>,
    waiting: HashMap<u64, Waiting>,
    last_id: u64,
    /// The sequence number of the last frame that was counted.
    sequence: u64,
    packets: u64,
    closed: bool,
}

/// Who waits for the answer with a certain id.
#[derive(Debug)]
enum Waiting {
    /// One who has sent a request.
    Reply(oneshot::Sender<Result<Message, BusError>>),
    /// One who has asked the hub for something, which is asked again if the hub forgets.
    Done(Ask, oneshot::Sender<Result<(), BusError>>),
    /// One who has asked who is there, and has heard of these so far.
    Peers(Vec<Peer>, oneshot::Sender<Result<Vec<Peer>, BusError>>),
}

/// What is to be done when no lock is held any more: wakers and whatever is dropped may run code that
/// comes back here.
#[derive(Debug, Default)]
pub(super) struct Afterwards {
    wakers: Vec<Waker>,
    lost: Vec<Message>,
    answers: Vec<(Waiting, Result<Option<Message>, BusError>)>,
    /// Those who get no answer any more.
    unanswered: Vec<Waiting>,
}

impl Afterwards {
    /// Does it, and is empty again.
    pub(super) fn settle(&mut self) {
        self.lost.clear();
        self.unanswered.clear();
        for (waiting, answer) in self.answers.drain(..) {
            waiting.end(answer);
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    fn outcome(&mut self, outcome: Outcome<Message>, shared: &Shared) {
        self.wakers.extend(outcome.waker);
        if !outcome.lost.is_empty() {
            let lost = outcome.lost.len() as u64;
            shared.tally.lost_here.fetch_add(lost, Relaxed);
            self.lost.extend(outcome.lost);
        }
    }
}

impl Waiting {
    /// Whoever waited may have given up meanwhile.
    fn end(self, answer: Result<Option<Message>, BusError>) {
        match (self, answer) {
            (Self::Reply(signal), Ok(Some(message))) => drop(signal.send(Ok(message))),
            (Self::Reply(_), Ok(None)) => {}
            (Self::Done(_, signal), answer) => drop(signal.send(answer.map(|_| ()))),
            (Self::Peers(peers, signal), answer) => drop(signal.send(answer.map(|_| peers))),
            (Self::Reply(signal), Err(error)) => drop(signal.send(Err(error))),
        }
    }
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            interest: Interest::new(),
            applications: HashMap::new(),
            functions: HashMap::new(),
            watchers: Slab::new(),
            waiting: HashMap::new(),
            last_id: 0,
            sequence: 0,
            packets: 0,
            closed: false,
        }
    }

    /// Whoever sends a request gets the answer there; `say` says it, with the id that it gets. The hub
    /// wants ids to come in order, so nobody else may say anything with an id in between.
    ///
    /// # Errors
    /// [`BusError::Closed`], or that of `say`.
    pub(super) fn request(
        &mut self,
        say: impl FnOnce(u64) -> Result<(), BusError>,
    ) -> Result<(u64, oneshot::Receiver<Result<Message, BusError>>), BusError> {
        let (signal, answer) = oneshot::channel();
        let id = self.wait(Waiting::Reply(signal), say)?;
        Ok((id, answer))
    }

    /// Asks the hub for something; its answer comes there.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub(super) fn ask(
        &mut self,
        shared: &Shared,
        ask: Ask,
    ) -> Result<oneshot::Receiver<Result<(), BusError>>, BusError> {
        let (signal, done) = oneshot::channel();
        let words = ask.clone();
        self.wait(Waiting::Done(ask, signal), |id| shared.ask(&words, id))?;
        Ok(done)
    }

    /// Asks the hub who is there; its answer comes there.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub(super) fn ask_for_peers(
        &mut self,
        shared: &Shared,
    ) -> Result<oneshot::Receiver<Result<Vec<Peer>, BusError>>, BusError> {
        let (signal, peers) = oneshot::channel();
        self.wait(Waiting::Peers(Vec::new(), signal), |id| {
            shared.ask(&Ask::Peers, id)
        })?;
        Ok(peers)
    }

    /// Nobody waits for the answer to this any more.
    pub(super) fn forget(&mut self, id: u64) {
        self.waiting.remove(&id);
    }

    /// Ends everybody who waits for anything.
    pub(super) fn close(&mut self) -> Afterwards {
        self.closed = true;
        let mut after = Afterwards::default();
        after
            .unanswered
            .extend(std::mem::take(&mut self.waiting).into_values());
        after
            .wakers
            .extend(self.inboxes().filter_map(|inbox| inbox.close()));
        let watchers = self.watchers.iter();
        after
            .wakers
            .extend(watchers.filter_map(|(_, inbox)| inbox.close()));
        after
    }

    /// Is there no bus any more?
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Is no answer outstanding?
    #[cfg(test)]
    pub(super) fn waits_for_nothing(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A packet, with what came with it.
    ///
    /// # Errors
    /// It makes no sense: this process and its hub do not speak the same language.
    pub(super) fn packet(
        &mut self,
        shared: &Arc<Shared>,
        packet: &Bytes,
        mut attached: Option<OwnedFd>,
        after: &mut Afterwards,
    ) -> Result<(), Malformed> {
        self.packets += 1;
        let tag = PacketTag {
            number: self.packets,
            size: packet.len() as u32,
        };
        let mut last: Option<(&str, Targets)> = None;
        let mut frames = 0;
        for frame in frame::frames(packet) {
            let frame = frame?;
            frames += 1;
            self.count(&frame, shared, after);
            match frame.header.kind {
                Kind::Event | Kind::Request => {}
                Kind::Reply | Kind::Failure => {
                    let message = Message::new(&frame, packet, tag);
                    self.answer(&frame, message, after)?;
                    continue;
                }
                Kind::Tell => {
                    self.tell(&frame, shared, after)?;
                    continue;
                }
                Kind::Ask | Kind::Fact => return Err(Malformed::Forbidden),
            }
            let mut message = Message::new(&frame, packet, tag);
            let has_descriptor = frame.header.attached != frame::Attached::Nothing;
            if frame.header.kind == Kind::Request || has_descriptor {
                let descriptor = has_descriptor.then(|| attached.take()).flatten();
                message = message.with_errand(shared, descriptor);
            }
            if frame.header.space == Space::Topic {
                // Messages of one topic come in flocks.
                let targets = match &last {
                    Some((topic, targets)) if *topic == frame.name => targets,
                    _ => {
                        &last
                            .insert((frame.name, self.interest.targets(frame.name)))
                            .1
                    }
                };
                deliver(message, targets, shared, after);
            } else {
                let target = self.target(&frame);
                deliver(message, target.as_slice(), shared, after);
            }
        }
        shared.tally.received.fetch_add(frames, Relaxed);
        Ok(())
    }

    /// Whose application or function this is.
    fn target(&self, frame: &Frame<'_>) -> Option<Arc<Inbox<Message>>> {
        let inbox = match frame.header.space {
            Space::Application => {
                let name = frame
                    .name
                    .split_once('/')
                    .map_or(frame.name, |(name, _)| name);
                self.applications.get(name).map(|(_, inbox)| inbox)
            }
            _ => self.functions.get(frame.name),
        };
        inbox.cloned()
    }

    /// Notes how many frames are missing before this one.
    fn count(&mut self, frame: &Frame<'_>, shared: &Shared, after: &mut Afterwards) {
        let sequence = frame.header.sequence;
        let lost = sequence.saturating_sub(self.sequence.saturating_add(1));
        // A Welcome begins a new count.
        let begins = frame.header.kind == Kind::Tell && sequence == 1;
        if sequence == 0 || (sequence <= self.sequence && !begins) {
            return;
        }
        self.sequence = sequence;
        if lost == 0 {
            return;
        }
        shared.tally.lost_on_the_way.fetch_add(lost, Relaxed);
        let cut = self.inboxes().filter_map(|inbox| inbox.skip(lost));
        let watchers = self
            .watchers
            .iter()
            .filter_map(|(_, inbox)| inbox.skip(lost));
        after.wakers.extend(cut.chain(watchers));
    }

    /// The answer to something that was asked. Nobody may wait for it any more.
    fn answer(
        &mut self,
        frame: &Frame<'_>,
        message: Message,
        after: &mut Afterwards,
    ) -> Result<(), Malformed> {
        let Some(mut waiting) = self.waiting.remove(&frame.header.id) else {
            return Ok(());
        };
        let answer = match (frame.header.kind, &mut waiting) {
            (Kind::Failure, _) => {
                let (failure, text) = Failure::decode(frame.payload);
                Err(BusError::Failed(failure, text))
            }
            (_, Waiting::Peers(peers, _)) if !frame.payload.is_empty() => {
                match payload::decode::<Vec<Peer>>(frame.header.encoding, frame.payload) {
                    Ok(more) if !more.is_empty() => {
                        peers.extend(more);
                        self.waiting.insert(frame.header.id, waiting);
                        return Ok(());
                    }
                    Ok(_) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            _ => Ok(Some(message)),
        };
        after.answers.push((waiting, answer));
        Ok(())
    }

    fn tell(
        &mut self,
        frame: &Frame<'_>,
        shared: &Shared,
        after: &mut Afterwards,
    ) -> Result<(), Malformed> {
        let Ok(tell) = payload::decode::<Tell>(frame.header.encoding, frame.payload) else {
            // News of a kind that a later version knows.
            return Ok(());
        };
        match tell {
            Tell::Welcome {
                you,
                parent,
                grand_master,
            } => {
                let you = You {
                    id: you,
                    parent,
                    grand_master,
                };
                let before = shared.place.send_replace(Place {
                    you: Some(you),
                    closed: false,
                });
                if before.you.is_some() {
                    // What happened while the hub had forgotten whom to tell, nobody has heard.
                    let watchers = self.watchers.iter();
                    after
                        .wakers
                        .extend(watchers.filter_map(|(_, inbox)| inbox.skip(1)));
                }
                self.ask_again(shared);
            }
            Tell::Presence(presence) => {
                let length = frame.payload.len();
                let news = News { presence, length };
                for (_, inbox) in &self.watchers {
                    let outcome = inbox.push(news.clone());
                    after.wakers.extend(outcome.waker);
                }
            }
        }
        Ok(())
    }

    /// The hub may have forgotten all that this process has asked for. What is asked for twice is had
    /// once.
    fn ask_again(&mut self, shared: &Shared) {
        let patterns = self.interest.patterns();
        let subscribed = patterns.map(|pattern| Ask::Subscribe(pattern.to_string()));
        let applications = self.applications.iter();
        let hosted = applications.map(|(name, (what, _))| Ask::Host(name.clone(), what.clone()));
        let offered = self.functions.keys().map(|name| Ask::Offer(name.clone()));
        let watched = (!self.watchers.is_empty()).then_some(Ask::Watch(true));
        for ask in subscribed.chain(hosted).chain(offered).chain(watched) {
            // There is no bus any more, or there was an answer once and is none now.
            let _ = shared.ask(&ask, 0);
        }
        let (mut unanswered, kept): (HashMap<_, _>, HashMap<_, _>) =
            std::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|(_, waiting)| !matches!(waiting, Waiting::Reply(_)));
        self.waiting = kept;
        for waiting in unanswered.drain().map(|(_, waiting)| waiting) {
            let (ask, waiting) = match waiting {
                Waiting::Done(ask, signal) => (ask.clone(), Waiting::Done(ask, signal)),
                Waiting::Peers(_, signal) => (Ask::Peers, Waiting::Peers(Vec::new(), signal)),
                Waiting::Reply(_) => continue,
            };
            // Closed: whoever waits hears of it when `waiting` is dropped.
            let _ = self.wait(waiting, |id| shared.ask(&ask, id));
        }
    }

    fn wait(
        &mut self,
        waiting: Waiting,
        say: impl FnOnce(u64) -> Result<(), BusError>,
    ) -> Result<u64, BusError> {
        if self.closed {
            return Err(BusError::Closed);
        }
        self.last_id += 1;
        say(self.last_id)?;
        self.waiting.insert(self.last_id, waiting);
        Ok(self.last_id)
    }

    /// All that messages come into.
    fn inboxes(&self) -> impl Iterator<Item = &Arc<Inbox<Message>>> {
        let applications = self.applications.values().map(|(_, inbox)| inbox);
        let all = self.interest.inboxes().chain(applications);
        all.chain(self.functions.values())
    }
}

/// Puts a message into each of these.
#[inline]
fn deliver(
    message: Message,
    targets: &[Arc<Inbox<Message>>],
    shared: &Shared,
    after: &mut Afterwards,
) {
    let Some((last, others)) = targets.split_last() else {
        shared.tally.unheard.fetch_add(1, Relaxed);
        after.lost.push(message);
        return;
    };
    for inbox in others {
        after.outcome(inbox.push(message.clone()), shared);
    }
    after.outcome(last.push(message), shared);
}
