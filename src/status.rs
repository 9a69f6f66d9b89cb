//! What the control runtime knows about the cluster beyond the scoreboard: who is in which seat, what
//! ended them, how long each arm was in force.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::{
    dispatch::mode::Arm,
    scoreboard::{SEATS, Scoreboard},
    sys::clock::cpu_time,
};

/// A place for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seat {
    /// Its number on the scoreboard and in labels.
    pub(crate) number: u16,
    /// Which of a listener group's own listeners is its.
    pub(crate) place: usize,
}

impl Seat {
    /// The master's own seat, when it serves too, behind those of `workers` workers.
    pub(crate) fn of_master(workers: u16) -> Self {
        Self {
            number: SEATS as u16 - 1,
            place: usize::from(workers),
        }
    }

    /// Is it the master's own?
    pub(crate) fn is_masters(self) -> bool {
        usize::from(self.number) == SEATS - 1
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
    /// The addresses of the listeners, by number.
    pub(crate) listeners: Arc<[String]>,
    /// The names of the upstream endpoints, by number.
    pub(crate) endpoints: Arc<[String]>,
    /// Worker processes that there should be.
    pub(crate) workers: u16,
    inner: Arc<Mutex<Inner>>,
}

/// What the supervisor writes.
#[derive(Debug)]
pub(crate) struct Inner {
    /// By seat number.
    pub(crate) seats: BTreeMap<u16, SeatStatus>,
    /// Connections that died with their worker.
    pub(crate) lost: u64,
    /// The arm in force.
    pub(crate) arm: Arm,
    /// Is the cluster on its way out?
    pub(crate) stopping: bool,
    in_force_since: Instant,
    /// CPU time of all processes when the arm came into force.
    cpu_before: Duration,
    earlier: [Usage; Arm::ALL.len()],
}

/// What an arm used while it was in force.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Usage {
    /// How long it was in force.
    pub(crate) active: Duration,
    /// CPU time of master and workers meanwhile.
    pub(crate) cpu: Duration,
}

/// One seat's history.
#[derive(Debug, Default, Clone)]
pub(crate) struct SeatStatus {
    /// The process in it now.
    pub(crate) pid: Option<i32>,
    /// Births.
    pub(crate) generation: u64,
    /// CPU time of all earlier processes.
    pub(crate) retired_cpu: Duration,
    /// Respawns by what ended the process before.
    pub(crate) restarts: BTreeMap<&'static str, u64>,
    /// Deaths in a row without a healthy life between.
    pub(crate) crash_loop: u32,
}

impl SeatStatus {
    /// CPU time of all processes that were ever in the seat.
    pub(crate) fn cpu(&self) -> Duration {
        self.retired_cpu + self.pid.and_then(cpu_time).unwrap_or_default()
    }
}

impl Status {
    /// A cluster with `workers` seats, none of them filled yet, in which `arm` is in force.
    pub(crate) fn new(
        board: Scoreboard,
        workers: u16,
        arm: Arm,
        listeners: Arc<[String]>,
        endpoints: Arc<[String]>,
    ) -> Self {
        let inner = Inner {
            seats: BTreeMap::new(),
            lost: 0,
            arm,
            stopping: false,
            in_force_since: Instant::now(),
            cpu_before: Duration::ZERO,
            earlier: Default::default(),
        };
        Self {
            board,
            listeners,
            endpoints,
            workers,
            inner: Arc::new(Mutex::new(inner)),
        }
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
    /// The process in `seat` is gone; `cpu` is all that it used.
    pub(crate) fn vacate(&mut self, seat: Seat, cpu: Duration) {
        let seat = self.seats.entry(seat.number).or_default();
        seat.pid = None;
        seat.retired_cpu += cpu;
    }

    /// CPU time of the master and of all workers there ever were.
    pub(crate) fn cpu(&self) -> Duration {
        let workers: Duration = self
            .seats
            .values()
            // The master's own seat has the master's pid: count it once.
            .filter(|seat| seat.pid != Some(own_pid()))
            .map(SeatStatus::cpu)
            .sum();
        workers + cpu_time(own_pid()).unwrap_or_default()
    }

    /// What each arm has used so far, the one in force up to now.
    pub(crate) fn usage(&self) -> impl Iterator<Item = (Arm, Usage)> {
        let mut usage = self.earlier;
        let present = &mut usage[self.arm.index()];
        present.active += self.in_force_since.elapsed();
        present.cpu += self.cpu().saturating_sub(self.cpu_before);
        Arm::ALL.into_iter().zip(usage)
    }
}

fn own_pid() -> i32 {
    std::process::id() as i32
}
