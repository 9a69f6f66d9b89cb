//! The hub's thread: it does what it is ordered to, and everything else is done by the tasks of its
//! lines.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
};

use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    sync::mpsc::{self, UnboundedReceiver},
    task::spawn_local,
};

use super::{
    core::{Core, Counters, HubLink, Limits},
    handle::{Carried, HubHandle, Order, Whose},
    lines::Hub,
    nats,
    tally::{self, Tally},
};
use crate::{bus::MasterId, config::BusConfig, notice, sys::child::hold_signals};

/// What a hub is to begin with.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) config: BusConfig,
    /// The line to the hub of the master above, if there is one.
    pub(crate) above: Option<OwnedFd>,
    /// What the hub that was in this process before has left.
    pub(crate) carried: Option<Carried>,
}

/// Starts the thread.
///
/// # Errors
/// No randomness or thread to be had. What fails on the thread itself is said there.
pub(crate) fn start(plan: Plan) -> io::Result<HubHandle> {
    let Plan {
        config,
        above,
        carried,
    } = plan;
    let resumes = carried.is_some();
    let (me, next, tally, links) = match carried {
        Some(carried) => (carried.me, carried.next, carried.tally, carried.links),
        None => (draw()?, 1, Tally::new(), Vec::new()),
    };
    let links = links.into_iter().map(|link| (link.whose, link.line));
    let links = links
        .chain(above.map(|line| (Whose::Above, line)))
        .collect();
    let (orders, inbox) = mpsc::unbounded_channel();
    let handle = HubHandle {
        me,
        next: Arc::new(AtomicU32::new(next)),
        orders,
        counters: Arc::default(),
        nats: Arc::default(),
        alive: Arc::new(AtomicBool::new(true)),
    };
    tally::resume(&handle.counters, &tally);
    handle.nats.resume(&tally);
    let (counters, alive) = (handle.counters.clone(), handle.alive.clone());
    let nats = handle.nats.clone();
    thread::Builder::new().name("hub".into()).spawn(move || {
        // They are for the main thread, which may hand them on to another binary.
        hold_signals();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            run(me, next, &config, (counters, nats), links, resumes, inbox)
        }));
        alive.store(false, Relaxed);
        let why = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".into(),
        };
        notice(format_args!(
            "the bus is closed: its hub cannot go on ({why}); serving goes on without it"
        ));
    })?;
    Ok(handle)
}

fn run(
    me: MasterId,
    next: u32,
    config: &BusConfig,
    (counters, nats): (Arc<Counters>, Arc<nats::Counters>),
    links: Vec<(Whose, OwnedFd)>,
    resumes: bool,
    inbox: UnboundedReceiver<Order>,
) -> io::Result<()> {
    let limits = Limits {
        queue_bytes: usize::try_from(config.queue).unwrap_or(usize::MAX),
        overflow: config.overflow,
        ..Limits::default()
    };
    let pid = std::process::id() as i32;
    let mut core = Core::new(me, config.node_name(), pid, limits, counters.clone());
    core.count_from(next);
    let runtime: LocalRuntime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let hub = Hub::new(me, core, counters, resumes);
        let has_above = links.iter().any(|(whose, _)| *whose == Whose::Above);
        for (whose, line) in links {
            match whose {
                Whose::Below(process) => hub.link_line(HubLink::Below(process), whose, line),
                Whose::Above => hub.link_line(HubLink::Above, whose, line),
                Whose::Process(_) | Whose::Met(_) => {}
            }
        }
        match &config.nats {
            // It is for the one at the top to meet others, or they would meet twice.
            Some(_) if has_above => notice(format_args!(
                "'bus' is not used here: the master above is the one that meets others on NATS"
            )),
            Some(options) => {
                let meet = nats::meet(hub.clone(), me, options.clone(), nats);
                spawn_local(async {
                    if let Err(error) = meet.await {
                        notice(format_args!("bus: NATS cannot be used: {error}"));
                    }
                });
            }
            None => {}
        }
        obey(&hub, inbox).await
    })
}

/// Does as it is told until nobody can tell it anything any more.
async fn obey(hub: &Rc<Hub>, mut inbox: UnboundedReceiver<Order>) -> io::Result<()> {
    loop {
        let order = tokio::select! {
            biased;
            () = hub.broken() => return Err(io::Error::other("a task of it panicked")),
            order = inbox.recv() => order,
        };
        match order {
            None => return Ok(()),
            Some(Order::Join(arrival)) => hub.join(arrival),
            Some(Order::Ready(number)) => hub.ready(number),
            Some(Order::Leave(number, why)) => hub.leave(number, why),
            Some(Order::Freeze(limit, done)) => {
                hub.freeze(limit).await;
                let _ = done.send(());
            }
            Some(Order::Thaw) => hub.thaw(),
            Some(Order::Lines(done)) => _ = done.send(hub.lines()),
            #[cfg(test)]
            Some(Order::Panic) => panic!("as the test wants"),
        }
    }
}

/// A name that no other master has.
fn draw() -> io::Result<MasterId> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    // 0 is nobody.
    Ok(MasterId(u64::from_le_bytes(bytes).max(1)))
}
