//! What the control runtime knows about the cluster beyond the scoreboard: who is in which seat, what
//! ended them, how long each arm was in force.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    compare::Report,
    control::ReloadReport,
    dispatch::{mode::Arm, pins::Sorter, shadow::Shadow},
    hub::HubHandle,
    scoreboard::{MAX_ENDPOINTS, MAX_LISTENERS, Row, SEATS, Scoreboard, State},
    sys::clock::{cpu_time, monotonic_ns},
};

/// A worker that lived this long is healthy: should it die, its successor starts at once.
pub(crate) const HEALTHY: Duration = Duration::from_secs(10);

/// A place for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    /// Its number on the scoreboard and in labels.
    pub(crate) number: u16,
    /// Which of a listener group's own listeners is its.
    pub(crate) place: usize,
}

impl Seat {
    /// The seat of the `number`-th worker. `master_serves`: the master's own seat has the first place.
    pub(crate) fn of_worker(number: u16, master_serves: bool) -> Self {
        Self {
            number,
            place: usize::from(number) + usize::from(master_serves),
        }
    }

    /// The master's own seat, when it serves too.
    pub(crate) fn of_master() -> Self {
        Self {
            number: SEATS as u16 - 1,
            place: 0,
        }
    }

    /// Is it the master's own?
    pub(crate) fn is_masters(self) -> bool {
        Self::is_masters_number(self.number)
    }

    /// Is this the number of the master's own?
    pub(crate) fn is_masters_number(number: u16) -> bool {
        usize::from(number) == SEATS - 1
    }

    /// Its name in labels and messages.
    pub(crate) fn label(number: u16) -> String {
        if usize::from(number) == SEATS - 1 {
            "master".into()
        } else {
            number.to_string()
        }
    }
}

/// Shared between the supervisor, which writes, and the admin interface, which reads. Both are on the
/// control runtime's one thread, so the lock is never waited for; `prometheus` wants its collectors
/// `Sync`.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    /// The counters.
    pub(crate) board: Scoreboard,
    hub: Arc<OnceLock<HubHandle>>,
    inner: Arc<Mutex<Inner>>,
}

/// What the supervisor writes. It outlives the binary: an upgrade passes it on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Inner {
    /// By seat number.
    pub(crate) seats: BTreeMap<u16, SeatStatus>,
    /// Worker processes that there should be.
    pub(crate) workers: u16,
    /// The addresses of the listeners, by number; an empty text where there is none now.
    pub(crate) listeners: Vec<ListenerStatus>,
    /// The names of the upstream endpoints, by column of the scoreboard; those of earlier
    /// configurations keep theirs.
    pub(crate) endpoints: Vec<String>,
    /// Where the admin interface is.
    pub(crate) admin: Option<SocketAddr>,
    /// Connections that died with their worker.
    pub(crate) lost: u64,
    /// The arm in force.
    pub(crate) arm: Arm,
    /// The worker groups, where there are any. Made from the settings, and so not passed on.
    #[serde(skip)]
    pub(crate) sorter: Option<Arc<Sorter>>,
    /// Were all workers ready once?
    pub(crate) started: bool,
    /// Is nothing accepted for now?
    pub(crate) paused: bool,
    /// Is the cluster on its way out?
    pub(crate) stopping: bool,
    /// What is being done at somebody's request.
    pub(crate) operation: Option<String>,
    /// Why the last thing that was done at somebody's request failed, if it did.
    pub(crate) last_failure: Option<String>,
    /// What became of the last reload.
    pub(crate) reload: ReloadReport,
    /// The comparison that goes on, or the last one.
    #[serde(default)]
    pub(crate) comparison: Option<Report>,
    /// How often the binary was replaced.
    pub(crate) upgrades: u64,
    /// When the first binary started, monotonic nanoseconds.
    pub(crate) started_at: u64,
    /// Monotonic nanoseconds.
    in_force_since: u64,
    /// CPU time of all processes when the arm came into force.
    cpu_before: Duration,
    earlier: Vec<Usage>,
}

/// One listener number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerStatus {
    /// With its real port.
    pub(crate) address: String,
    /// Is it listened on now?
    pub(crate) open: bool,
}

/// What an arm used while it was in force.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// How long it was in force.
    pub(crate) active: Duration,
    /// CPU time of master and workers meanwhile.
    pub(crate) cpu: Duration,
}

/// One seat's history.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct SeatStatus {
    /// The processes in it now, the newest last. The others are on their way out.
    pub(crate) pids: Vec<i32>,
    /// Births.
    pub(crate) generation: u64,
    /// CPU time of all earlier processes.
    pub(crate) retired_cpu: Duration,
    /// Respawns by what ended the process before.
    pub(crate) restarts: BTreeMap<String, u64>,
    /// Deaths in a row without a healthy life between, when it was last filled.
    pub(crate) crash_loop: u32,
    /// When it was last filled, monotonic nanoseconds.
    #[serde(default)]
    pub(crate) filled_at: u64,
    /// When it will be filled again, monotonic nanoseconds; `None`: it is filled, or will not be.
    pub(crate) respawn_at: Option<u64>,
}

impl SeatStatus {
    /// CPU time of all processes that were ever in the seat.
    pub(crate) fn cpu(&self) -> Duration {
        let present = self.pids.iter().filter_map(|pid| cpu_time(*pid));
        self.retired_cpu + present.sum::<Duration>()
    }

    /// Deaths in a row, none of them after a healthy life; 0 again once there is one that is healthy.
    pub(crate) fn deaths_in_a_row(&self) -> u32 {
        let is_healthy = self.respawn_at.is_none() && since(self.filled_at) >= HEALTHY;
        if is_healthy { 0 } else { self.crash_loop }
    }

    /// The newest process in it.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.pids.last().copied()
    }
}

impl Status {
    /// A cluster with `workers` seats, none of them filled yet, in which `arm` is in force.
    pub(crate) fn new(board: Scoreboard, workers: u16, arm: Arm) -> Self {
        let now = monotonic_ns();
        let inner = Inner {
            seats: BTreeMap::new(),
            workers,
            listeners: Vec::new(),
            endpoints: Vec::new(),
            admin: None,
            lost: 0,
            arm,
            sorter: None,
            started: false,
            paused: false,
            stopping: false,
            operation: None,
            last_failure: None,
            reload: ReloadReport {
                successful: true,
                ..ReloadReport::default()
            },
            comparison: None,
            upgrades: 0,
            started_at: now,
            in_force_since: now,
            cpu_before: Duration::ZERO,
            earlier: vec![Usage::default(); Arm::ALL.len()],
        };
        Self::resume(board, inner)
    }

    /// The status that another binary of this cluster has passed on.
    pub(crate) fn resume(board: Scoreboard, inner: Inner) -> Self {
        Self {
            board,
            hub: Arc::default(),
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// From now on the bus is shown, too.
    pub(crate) fn show_bus(&self, hub: HubHandle) {
        // It is there for as long as the binary is.
        let _ = self.hub.set(hub);
    }

    /// The middle of the bus, once there is one.
    pub(crate) fn hub(&self) -> Option<&HubHandle> {
        self.hub.get()
    }

    /// What the next binary is to know.
    ///
    /// # Errors
    /// None that can happen to plain data.
    pub(crate) fn copy(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(&*self.lock())
    }

    /// The rows that count for one seat: its processes now, and all before them.
    pub(crate) fn rows(&self, seat: u16) -> impl Iterator<Item = &Row> {
        let present = self
            .board
            .occupied()
            .filter(move |row| row.birth.seat.load(Relaxed) == u64::from(seat));
        std::iter::once(self.board.retired(seat)).chain(present)
    }

    /// What each shadow policy would have open at each ready worker, by seat. `None`: no shadow is kept.
    pub(crate) fn shadows(&self) -> Option<Vec<(Shadow, BTreeMap<u16, u64>)>> {
        if self.board.dispatcher().shadows.load(Relaxed) == 0 {
            return None;
        }
        // The kernel's hash knows nothing of worker groups.
        let grouped = self.lock().sorter.is_some();
        // As the dispatcher sees it: what drains is out of the game, with all that it holds.
        let rows: Vec<&Row> = self
            .board
            .occupied()
            .filter(|row| matches!(row.state(), State::Ready | State::Hung))
            .collect();
        let ready = rows.iter().filter(|row| row.state() == State::Ready);
        let seats: Vec<u16> = ready
            .map(|row| row.birth.seat.load(Relaxed) as u16)
            .collect();
        let open = |shadow, seat| rows.iter().map(|row| row.shadow.open(shadow, seat)).sum();
        let of = |shadow| {
            let seats = seats.iter().map(|seat| (*seat, open(shadow, *seat)));
            (shadow, seats.collect())
        };
        let kept = Shadow::ALL.into_iter();
        let kept = kept.filter(|shadow| !grouped || *shadow != Shadow::KernelHash);
        Some(kept.map(of).collect())
    }

    /// Looks or writes. Never held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Poisoned only if a writer panicked between two plain assignments; what is there is whole.
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    /// Process `pid` in `seat` is gone; `cpu` is all that it used.
    pub(crate) fn vacate(&mut self, seat: Seat, pid: i32, cpu: Duration) {
        let seat = self.seats.entry(seat.number).or_default();
        seat.pids.retain(|known| *known != pid);
        seat.retired_cpu += cpu;
    }

    /// Is there to be a worker in this seat, or is there one still? Not so in a seat that was given up, of
    /// which only the history is left.
    pub(crate) fn is_in_use(&self, number: u16, seat: &SeatStatus) -> bool {
        number < self.workers || Seat::is_masters_number(number) || !seat.pids.is_empty()
    }

    /// The worker group that a seat is in; `None`: it is one for everybody else.
    pub(crate) fn group_of(&self, seat: u16) -> Option<&str> {
        let sorter = self.sorter.as_ref()?;
        sorter.name(sorter.group_of_seat(seat))
    }

    /// CPU time of the master and of all workers there ever were.
    pub(crate) fn cpu(&self) -> Duration {
        let workers: Duration = self
            .seats
            .values()
            // The master's own seat has the master's pid: count it once.
            .filter(|seat| seat.pid() != Some(own_pid()))
            .map(SeatStatus::cpu)
            .sum();
        workers + cpu_time(own_pid()).unwrap_or_default()
    }

    /// What each arm has used so far, the one in force up to now.
    pub(crate) fn usage(&self) -> impl Iterator<Item = (Arm, Usage)> {
        let mut usage = self.earlier.clone();
        if let Some(present) = usage.get_mut(self.arm.index()) {
            present.active += since(self.in_force_since);
            present.cpu += self.cpu().saturating_sub(self.cpu_before);
        }
        Arm::ALL.into_iter().zip(usage)
    }

    /// From now on `arm` is in force.
    pub(crate) fn switch(&mut self, arm: Arm) {
        self.earlier = self.usage().map(|(_, usage)| usage).collect();
        self.arm = arm;
        self.in_force_since = monotonic_ns();
        self.cpu_before = self.cpu();
    }

    /// The scoreboard's column for the endpoint called `name`: the one that it had before, or a new
    /// one. `None`: there is no more.
    pub(crate) fn endpoint_column(&mut self, name: &str) -> Option<u8> {
        let column = self.endpoints.iter().position(|known| known == name);
        let column = column.or_else(|| {
            let free = self.endpoints.len();
            (free < MAX_ENDPOINTS).then(|| {
                self.endpoints.push(name.to_owned());
                free
            })
        });
        column.map(|column| column as u8)
    }

    /// The number for a listener on `address`: the one that it had before, or a new one. `None`: there
    /// is no more.
    pub(crate) fn listener_number(&mut self, address: SocketAddr) -> Option<usize> {
        let address = address.to_string();
        let number = self.listeners.iter().position(|l| l.address == address);
        number.or_else(|| {
            let free = self.listeners.len();
            (free < MAX_LISTENERS).then(|| {
                self.listeners.push(ListenerStatus {
                    address,
                    open: false,
                });
                free
            })
        })
    }
}

fn own_pid() -> i32 {
    std::process::id() as i32
}

/// The busiest of workers by their mean, of the connections that each has open; 0 if all are.
pub(crate) fn imbalance(open: &[u64]) -> f64 {
    let sum: u64 = open.iter().sum();
    let busiest = open.iter().copied().max().unwrap_or(0);
    if sum == 0 {
        return 0.0;
    }
    busiest as f64 * open.len() as f64 / sum as f64
}

/// The time since a moment, monotonic nanoseconds.
pub(crate) fn since(moment: u64) -> Duration {
    Duration::from_nanos(monotonic_ns().saturating_sub(moment))
}
