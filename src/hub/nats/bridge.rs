//! Between the hub and the thread that talks to NATS: a task of the hub's.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    rc::Rc,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{
        Notify,
        mpsc::{Sender, error::TrySendError},
    },
    time::{MissedTickBehavior, interval},
};

use super::{
    counters::Counters,
    envelope::{Dropped, Sign},
    thread::{self, News, Order},
};
use crate::{
    bus::MasterId,
    config::BusOptions,
    hub::{
        core::{HubLink, PortId},
        handle::Whose,
        lines::{Fuse, Gateway, Hub},
    },
};

/// No version that a hub's facts ever have.
const NO_VERSION: u64 = u64::MAX;

/// Meets other masters for as long as the hub lives.
///
/// # Errors
/// There is no thread to be had.
pub(in crate::hub) async fn meet(
    hub: Rc<Hub>,
    me: MasterId,
    options: BusOptions,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let born = SystemTime::now().duration_since(UNIX_EPOCH);
    let born = born.map_or(0, |passed| passed.as_nanos() as u64);
    let mut beat = interval(options.beat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let expiry_ms = options.expires_after().as_millis() as u64;
    let mut ends = thread::start(options, me, born, counters.clone())?;
    let bridge = Bridge {
        hub,
        counters,
        full: Rc::default(),
        beats: ends.beats,
        orders: ends.orders,
        ports: HashMap::new(),
    };
    // Should it panic, the hub may be in the midst of anything.
    let _fuse = Fuse(bridge.hub.clone());
    bridge.run(&mut beat, &mut ends.news, born, expiry_ms).await;
    Ok(())
}

struct Bridge {
    hub: Rc<Hub>,
    counters: Arc<Counters>,
    full: Rc<Full>,
    beats: Sender<Sign>,
    orders: Sender<Order>,
    ports: HashMap<MasterId, PortId>,
}

/// The ports that wait for room.
#[derive(Default)]
struct Full {
    masters: RefCell<Vec<MasterId>>,
    some: Notify,
}

/// The way to one master.
struct Way {
    master: MasterId,
    orders: Sender<Order>,
    full: Rc<Full>,
}

impl Gateway for Way {
    fn send(&self, packet: &[u8]) -> io::Result<()> {
        match self.orders.try_reserve() {
            Ok(room) => {
                room.send(Order::Packet(self.master, packet.to_vec()));
                Ok(())
            }
            Err(TrySendError::Full(())) => {
                self.full.masters.borrow_mut().push(self.master);
                self.full.some.notify_one();
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(TrySendError::Closed(())) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Bridge {
    async fn run(
        mut self,
        beat: &mut tokio::time::Interval,
        news: &mut tokio::sync::mpsc::Receiver<News>,
        born: u64,
        expiry_ms: u64,
    ) {
        loop {
            let full = self.full.clone();
            let orders = self.orders.clone();
            let room = async {
                if full.masters.borrow().is_empty() {
                    full.some.notified().await;
                }
                orders.reserve().await.is_ok()
            };
            tokio::select! {
                _ = beat.tick() => self.beat(born, expiry_ms),
                news = news.recv() => match news {
                    Some(news) => self.take(news),
                    // The thread has said why.
                    None => break,
                },
                open = room => {
                    if open {
                        self.relieve();
                    }
                }
            }
        }
        for port in std::mem::take(&mut self.ports).into_values() {
            self.hub.close(port);
        }
        self.hub.flush();
    }

    /// Has it said that this master is there.
    fn beat(&self, born: u64, expiry_ms: u64) {
        let sign = Sign {
            born,
            version: self.hub.version(),
            expiry_ms,
            heard: false,
            loads: self.hub.loads(),
        };
        // If the last one still waits, the connection stands still.
        let _ = self.beats.try_send(sign);
    }

    fn take(&mut self, news: News) {
        match news {
            News::Opens(master) => self.open(master),
            News::Renews(master) => {
                if let Some(port) = self.ports.get(&master) {
                    self.hub.heard(*port, master, NO_VERSION);
                }
            }
            News::Sign(master, sign) => {
                if let Some(port) = self.ports.get(&master) {
                    self.hub.heard(*port, master, sign.version);
                    self.hub.note_loads(master, sign.loads.into_iter());
                }
            }
            News::Packet(master, packet) => self.deliver(master, &packet),
            News::Silent(master) => self.close(master),
        }
    }

    fn open(&mut self, master: MasterId) {
        // One that is cut has been closed without a word from here.
        self.close(master);
        let way = Way {
            master,
            orders: self.orders.clone(),
            full: self.full.clone(),
        };
        let link = HubLink::Nats(master);
        let port = self.hub.link(link, Whose::Met(master), Rc::new(way));
        self.ports.insert(master, port);
    }

    fn deliver(&mut self, master: MasterId, packet: &[u8]) {
        let Some(port) = self.ports.get(&master) else {
            return self.counters.lose(Dropped::Down, 1);
        };
        if self.hub.arrived(*port, packet).is_err() {
            self.counters.lose(Dropped::Malformed, 1);
            self.ports.remove(&master);
            // Should there be no room for this, the link opens anew when the other has been silent.
            let _ = self.orders.try_send(Order::Unlink(master));
        }
    }

    fn close(&mut self, master: MasterId) {
        if let Some(port) = self.ports.remove(&master) {
            self.hub.close(port);
            self.hub.flush();
        }
    }

    /// There is room again: each that waits for it goes on, in turn.
    fn relieve(&self) {
        for master in self.full.masters.take() {
            if let Some(port) = self.ports.get(&master) {
                self.hub.relieve(*port);
            }
        }
    }
}
