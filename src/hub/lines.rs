//! The lines to processes and to other hubs, and what goes through them. One task for each reads; what
//! is to be sent goes at once, and where there is no room a second task waits for it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, spawn_local, yield_now},
    time::timeout,
};

use super::{
    core::{Core, Counters, HubLink, Loads, Lost, Newcomer, PortId},
    handle::{Arrival, CarriedLine, Lines, Whose},
};
use crate::{
    bus::{
        Departure, MasterId, ProcessId,
        frame::{MAX_PACKET, Malformed},
        line::{self, Line},
        queue::Queue,
    },
    notice,
    scoreboard::{Row, RowRef, State},
    sys::{clock::monotonic_ns, fdpass::is_full},
};

/// Packets taken from one line before what they say is passed on, and others have their turn.
const BURST: usize = 16;
/// Packets that are still taken from the line of a process that has ended.
const LAST_WORDS: usize = 1024;

/// The hub and its lines. Shared by the tasks of its thread; no borrow is held across an await.
pub(super) struct Hub {
    me: MasterId,
    core: RefCell<Core<OwnedFd>>,
    ports: RefCell<HashMap<PortId, Rc<Port>>>,
    /// The ports of this master's processes.
    of_processes: RefCell<HashMap<u32, PortId>>,
    rows: Rows,
    /// Where packets are read to.
    packet: RefCell<Box<[u8]>>,
    counters: std::sync::Arc<Counters>,
    stage: Cell<Stage>,
    /// Told when lines may be read again, after a freeze.
    thawed: Notify,
    /// Told when a line has room again.
    relieved: Notify,
    /// Told when a task has panicked.
    broken: Notify,
}

/// How far a freeze has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// All is as usual.
    Running,
    /// Nothing is read any more.
    Emptying,
    /// Nothing is sent any more.
    Frozen,
}

/// The hub's end of a line.
struct Port {
    whose: Whose,
    way: Way,
    /// Does a task wait for room?
    full: Cell<bool>,
    tasks: RefCell<Vec<AbortHandle>>,
}

/// By which way packets go to whoever is at the other end of a port.
pub(super) enum Way {
    /// Through a line.
    Line(Line),
    /// In some other way.
    Gateway(Rc<dyn Gateway>),
}

/// A way to another hub that is no line.
pub(super) trait Gateway {
    /// Takes a packet.
    ///
    /// # Errors
    /// `WouldBlock`: there is no room at present; [`Hub::relieve`] is to be called when there is. Others:
    /// the way has ended.
    fn send(&self, packet: &[u8]) -> io::Result<()>;
}

/// What the hub sees of its processes on the scoreboard.
#[derive(Default)]
struct Rows(RefCell<HashMap<u32, RowRef>>);

impl Loads for Rows {
    fn load(&self, number: u32) -> u64 {
        self.0.borrow().get(&number).map_or(0, |row| row.open())
    }

    fn is_stuck(&self, number: u32) -> bool {
        let rows = self.0.borrow();
        rows.get(&number)
            .is_some_and(|row| Row::state(row) == State::Hung)
    }
}

/// Held by every task: one that panics ends the hub, which may be in the midst of anything.
pub(super) struct Fuse(pub(super) Rc<Hub>);

impl Drop for Fuse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.notify_one();
        }
    }
}

/// What came of reading from a line.
enum Taken {
    /// There may be more.
    More,
    /// There is no more at present.
    All,
    /// The line has ended.
    End,
}

/// What came of sending through a line.
enum Sent {
    All,
    /// There is no room for the rest.
    Full,
    /// There was no room before, and somebody waits for it.
    Waits,
    /// Nobody listens at the other end any more.
    Deaf,
    /// The hub has cut it off.
    End,
}

impl Hub {
    /// A hub without lines. `resumes`: it touches none before it is [thawed](Self::thaw).
    pub(super) fn new(
        me: MasterId,
        core: Core<OwnedFd>,
        counters: std::sync::Arc<Counters>,
        resumes: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            me,
            core: RefCell::new(core),
            ports: RefCell::default(),
            of_processes: RefCell::default(),
            rows: Rows::default(),
            packet: RefCell::new(vec![0; MAX_PACKET].into()),
            counters,
            stage: Cell::new(match resumes {
                true => Stage::Frozen,
                false => Stage::Running,
            }),
            thawed: Notify::new(),
            relieved: Notify::new(),
            broken: Notify::new(),
        })
    }

    /// Returns when a task has panicked.
    pub(super) async fn broken(&self) {
        self.broken.notified().await;
    }

    /// A process has a line from now on.
    pub(super) fn join(self: &Rc<Self>, arrival: Arrival) {
        let Arrival {
            number,
            role,
            pid,
            row,
            line,
            wishes,
        } = arrival;
        if let Some(row) = row {
            self.rows.0.borrow_mut().insert(number, row);
        }
        // The master itself may ask for a line again.
        let before = self.of_processes.borrow_mut().remove(&number);
        if let Some(before) = before {
            self.close(before);
        }
        let port = {
            let mut core = self.core.borrow_mut();
            core.count_from(number);
            let (port, _) = core.join(Newcomer::Process {
                role,
                pid,
                // One that is new has the next one, which is this.
                number: wishes.is_some().then_some(number),
                parent: None,
            });
            core.grant(number, wishes.unwrap_or_default());
            port
        };
        self.of_processes.borrow_mut().insert(number, port);
        self.open(port, Whose::Process(number), line);
    }

    /// The hub at the other end of `line` is a neighbour from now on.
    pub(super) fn link_line(self: &Rc<Self>, link: HubLink, whose: Whose, line: OwnedFd) {
        let (port, _) = self.core.borrow_mut().join(Newcomer::Hub(link));
        self.open(port, whose, line);
    }

    /// This process is ready.
    pub(super) fn ready(self: &Rc<Self>, number: u32) {
        let process = self.process(number);
        self.core.borrow_mut().ready(process);
        self.flush();
    }

    /// This process has ended. What it has said last counts still.
    pub(super) fn leave(self: &Rc<Self>, number: u32, why: Departure) {
        let port = self.of_processes.borrow_mut().remove(&number);
        if let Some(id) = port
            && self.stage.get() == Stage::Running
        {
            let port = self.ports.borrow().get(&id).cloned();
            for _ in 0..LAST_WORDS / BURST {
                match &port {
                    Some(port) if matches!(self.take_in(id, port), Taken::More) => {}
                    _ => break,
                }
            }
        }
        self.core.borrow_mut().leave(self.process(number), why);
        self.rows.0.borrow_mut().remove(&number);
        if let Some(port) = port {
            self.close(port);
        }
        self.flush();
    }

    /// Reads nothing more, sends what waits for up to `limit`, and then sends nothing more. What still
    /// waits counts as lost only if nobody thaws the hub.
    pub(super) async fn freeze(self: &Rc<Self>, limit: Duration) {
        self.stage.set(Stage::Emptying);
        self.flush();
        let emptied = async {
            while self.ports.borrow().values().any(|port| port.full.get()) {
                self.relieved.notified().await;
            }
        };
        let _ = timeout(limit, emptied).await;
        self.stage.set(Stage::Frozen);
    }

    /// Goes on.
    pub(super) fn thaw(self: &Rc<Self>) {
        self.stage.set(Stage::Running);
        self.thawed.notify_waiters();
        let ports: Vec<PortId> = self.ports.borrow().keys().copied().collect();
        for port in ports {
            self.relieve(port);
        }
        self.flush();
    }

    /// The hub's ends of all lines, duplicated, and how many messages wait for them.
    pub(super) fn lines(&self) -> Lines {
        let (ports, mut core) = (self.ports.borrow(), self.core.borrow_mut());
        let waiting = ports
            .keys()
            .map(|port| core.queue(*port).map_or(0, |q| q.frames()));
        let waiting = waiting.sum::<usize>() as u64;
        let lines = ports.values().filter_map(|port| match &port.way {
            Way::Line(line) => Some(CarriedLine {
                whose: port.whose,
                line: line.duplicate().ok()?,
                wishes: match port.whose {
                    Whose::Process(number) => core.wishes(number),
                    Whose::Below(_) | Whose::Above | Whose::Met(_) => Vec::new(),
                },
            }),
            Way::Gateway(_) => None,
        });
        (lines.collect(), waiting)
    }

    /// There is room again in the way to this port.
    pub(super) fn relieve(self: &Rc<Self>, id: PortId) {
        let port = self.ports.borrow().get(&id).cloned();
        let Some(port) = port else { return };
        port.full.set(false);
        if self.stage.get() != Stage::Frozen {
            let sent = self.send(id, &port);
            self.settle(id, &port, sent);
        }
        self.relieved.notify_waiters();
    }

    /// A packet has come by a way that is no line.
    ///
    /// # Errors
    /// It is none. The port is closed.
    pub(super) fn arrived(self: &Rc<Self>, id: PortId, packet: &[u8]) -> Result<(), Malformed> {
        let now = monotonic_ns();
        let taken = {
            let mut core = self.core.borrow_mut();
            core.receive(id, packet, None, now, &self.rows)
        };
        if let Err(why) = taken {
            let port = self.ports.borrow().get(&id).cloned();
            if let Some(port) = port {
                self.say_cut(&port, why);
            }
            self.close(id);
        }
        self.flush();
        taken
    }

    /// A hub is a neighbour from now on, by a way that is no line.
    pub(super) fn link(
        self: &Rc<Self>,
        link: HubLink,
        whose: Whose,
        way: Rc<dyn Gateway>,
    ) -> PortId {
        let (port, _) = self.core.borrow_mut().join(Newcomer::Hub(link));
        let new = Port::new(whose, Way::Gateway(way));
        self.ports.borrow_mut().insert(port, Rc::new(new));
        self.flush();
        port
    }

    /// The version of what this hub says of its own processes.
    pub(super) fn version(&self) -> u64 {
        self.core.borrow().version()
    }

    /// A master says that its facts have this version: it is asked for what was missed.
    pub(super) fn heard(self: &Rc<Self>, id: PortId, master: MasterId, version: u64) {
        self.core.borrow_mut().heard(id, master, version);
        self.flush();
    }

    /// Open connections of our own processes, by number.
    pub(super) fn loads(&self) -> Vec<(u32, u64)> {
        let rows = self.rows.0.borrow();
        rows.iter()
            .map(|(number, row)| (*number, row.open()))
            .collect()
    }

    /// Open connections of another master's processes, by number, as it says.
    pub(super) fn note_loads(&self, master: MasterId, loads: impl Iterator<Item = (u32, u64)>) {
        self.core.borrow_mut().note_loads(master, loads);
    }

    /// This port's line is closed.
    pub(super) fn close(self: &Rc<Self>, id: PortId) {
        let Some(port) = self.ports.borrow_mut().remove(&id) else {
            return;
        };
        port.tasks.borrow().iter().for_each(AbortHandle::abort);
        if let Whose::Process(number) = port.whose {
            let mut of_processes = self.of_processes.borrow_mut();
            if of_processes.get(&number) == Some(&id) {
                of_processes.remove(&number);
            }
        }
        self.core.borrow_mut().closed(id);
    }

    /// Sends what there is to send.
    pub(super) fn flush(self: &Rc<Self>) {
        if self.stage.get() == Stage::Frozen {
            return;
        }
        loop {
            let Some(id) = self.core.borrow_mut().next_dirty() else {
                return;
            };
            let port = self.ports.borrow().get(&id).cloned();
            let Some(port) = port else { continue };
            let sent = self.send(id, &port);
            self.settle(id, &port, sent);
        }
    }

    fn process(&self, number: u32) -> ProcessId {
        ProcessId {
            master: self.me,
            number,
        }
    }

    /// Begins to read from a line.
    fn open(self: &Rc<Self>, id: PortId, whose: Whose, line: OwnedFd) {
        match Line::new(line) {
            Ok(line) => {
                let port = Rc::new(Port::new(whose, Way::Line(line)));
                self.ports.borrow_mut().insert(id, port.clone());
                let task = spawn_local(self.clone().read(id, port.clone()));
                port.tasks.borrow_mut().push(task.abort_handle());
            }
            Err(error) => {
                notice(format_args!("a process has no bus: {error}"));
                self.core.borrow_mut().closed(id);
            }
        }
        self.flush();
    }

    /// Takes in what comes through a line until it ends.
    async fn read(self: Rc<Self>, id: PortId, port: Rc<Port>) {
        let _fuse = Fuse(self.clone());
        let Way::Line(line) = &port.way else { return };
        loop {
            if self.stage.get() != Stage::Running {
                self.thawed.notified().await;
                continue;
            }
            if line.readable().await.is_err() {
                break;
            }
            if self.stage.get() != Stage::Running {
                continue;
            }
            match self.take_in(id, &port) {
                Taken::More => yield_now().await,
                Taken::All => {}
                Taken::End => break,
            }
        }
        self.close(id);
        self.flush();
    }

    /// Takes in some packets, and passes on what they say.
    fn take_in(self: &Rc<Self>, id: PortId, port: &Port) -> Taken {
        let Way::Line(line) = &port.way else {
            return Taken::End;
        };
        let mut taken = Taken::More;
        let mut branches = false;
        {
            let (mut core, mut packet) = (self.core.borrow_mut(), self.packet.borrow_mut());
            let now = monotonic_ns();
            for _ in 0..BURST {
                match line.try_receive(&mut packet) {
                    line::Arrival::Packet(length, attached) => {
                        branches |= attached.is_some();
                        let packet = &packet[..length];
                        if let Err(why) = core.receive(id, packet, attached, now, &self.rows) {
                            self.say_cut(port, why);
                            taken = Taken::End;
                            break;
                        }
                    }
                    line::Arrival::Damaged(length) => core.damaged(id, &packet[..length]),
                    line::Arrival::Empty => {
                        taken = Taken::All;
                        break;
                    }
                    line::Arrival::Closed => {
                        taken = Taken::End;
                        break;
                    }
                }
            }
        }
        if branches {
            self.adopt_branches();
        }
        self.flush();
        taken
    }

    fn say_cut(&self, port: &Port, why: Malformed) {
        match port.whose {
            Whose::Process(number) => notice(format_args!(
                "process {} is cut off from the bus: it sent {why}",
                self.process(number)
            )),
            Whose::Below(process) => notice(format_args!(
                "the master that {process} has started is cut off from the bus: it sent {why}"
            )),
            Whose::Above => notice(format_args!(
                "cut off from the bus of the master above: it sent {why}"
            )),
            Whose::Met(master) => notice(format_args!(
                "master {master}, met on NATS, is not listened to until it beats again: it sent {why}"
            )),
        }
    }

    /// Looks after the lines that processes have asked it to.
    fn adopt_branches(self: &Rc<Self>) {
        let branches = self.core.borrow_mut().branches();
        for (process, line) in branches {
            self.link_line(HubLink::Below(process), Whose::Below(process), line);
        }
    }

    /// Sends what waits for a port, as far as there is room.
    fn send(&self, id: PortId, port: &Port) -> Sent {
        let mut core = self.core.borrow_mut();
        loop {
            match core.queue(id) {
                // It was cut off.
                None => return Sent::End,
                Some(queue) if queue.is_empty() => return Sent::All,
                Some(_) if port.full.get() => return Sent::Waits,
                // An emptied queue has room for what was owed to it.
                Some(queue) => match self.send_all(queue, port) {
                    Sent::All => {}
                    sent => return sent,
                },
            }
        }
    }

    fn send_all(&self, queue: &mut Queue<OwnedFd>, port: &Port) -> Sent {
        while let Some((packet, attached)) = queue.front() {
            let sent = match &port.way {
                Way::Line(line) => line.try_send(packet, attached.map(AsFd::as_fd)),
                Way::Gateway(gateway) => gateway.send(packet),
            };
            match sent {
                Ok(()) => queue.pop(),
                Err(error) if is_full(&error) => return Sent::Full,
                // Too many descriptors are on their way (ETOOMANYREFS, unix(7)): it costs this one.
                Err(error) if attached.is_some() && is_of_attachment(&error) => {
                    self.counters.lost(Lost::Attachment).add(1);
                    queue.pop();
                }
                Err(_) => return Sent::Deaf,
            }
        }
        Sent::All
    }

    /// Does what is left to do after sending.
    fn settle(self: &Rc<Self>, id: PortId, port: &Rc<Port>, sent: Sent) {
        match (sent, &port.way) {
            (Sent::All | Sent::Waits, _) => {}
            (Sent::Full, Way::Line(_)) => {
                port.full.set(true);
                let task = spawn_local(self.clone().wait_for_room(id, port.clone()));
                let mut tasks = port.tasks.borrow_mut();
                tasks.truncate(1);
                tasks.push(task.abort_handle());
            }
            (Sent::Full, Way::Gateway(_)) => port.full.set(true),
            // What it has said before it went is still to be read; the reader finds the end.
            (Sent::Deaf, Way::Line(_)) => port.full.set(true),
            (Sent::Deaf, Way::Gateway(_)) | (Sent::End, _) => self.close(id),
        }
    }

    async fn wait_for_room(self: Rc<Self>, id: PortId, port: Rc<Port>) {
        let _fuse = Fuse(self.clone());
        if let Way::Line(line) = &port.way {
            // An error: the line has ended, and sending will say so.
            let _ = line.writable().await;
        }
        self.relieve(id);
        self.flush();
    }
}

impl Port {
    fn new(whose: Whose, way: Way) -> Self {
        Self {
            whose,
            way,
            full: Cell::new(false),
            tasks: RefCell::default(),
        }
    }
}

/// Is it only the descriptor that could not go?
fn is_of_attachment(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(libc::ETOOMANYREFS) || code == Some(libc::EBADF)
}
