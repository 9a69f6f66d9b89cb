//! HTTP of a cluster while its bus is flooded, and while it is not. The flood is between workers that serve
//! nobody: what is measured is what the others and the dispatcher suffer from it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pointsman::compare::Drive;
use pointsman::load::{Order, Scenario, driver::Load};
use pointsman::processes::{self, Process, Snapshot, Usage};

use super::Bus;
use super::stage::{Kind, Measured, Stage};
use crate::guard::{Interrupt, POLL};
use crate::ports::Ports;
use crate::probe;

/// The arms: the first is the base, the second is its twin. In the third, neighbours take as much of the
/// machine as a flood does, and use no bus: what that costs is not the bus's doing.
pub(super) const ARMS: [&str; 4] = [
    "silent bus",
    "silent bus again",
    "busy neighbours",
    "flooded bus",
];
const BUSY: usize = 2;
const FLOODED: usize = 3;
/// Threads that a flood keeps busy: who publishes, the hub, who receives.
const THREADS: usize = 3;
/// How long the cluster may take to answer.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The cluster.
pub(super) struct Ground {
    stage: Stage,
    target: SocketAddr,
    /// The workers that serve.
    workers: Vec<Process>,
}

impl Ground {
    pub(super) fn start(
        bus: &Bus,
        dir: &Path,
        ports: &mut Ports,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        if !bus.pointsman.is_file() {
            bail!(
                "there is no {}, which brings the load: cargo build --release, or --pointsman PATH",
                bus.pointsman.display()
            );
        }
        let port = ports.next()?;
        let stage = Stage::start(Kind::Ours, "http", dir, ports, Some(port), interrupt)?;
        let deadline = Instant::now() + READY_DEADLINE;
        while let Err(error) = probe::get(port, "/") {
            if Instant::now() > deadline {
                return Err(error.context("the cluster does not answer"));
            }
            interrupt.sleep(POLL)?;
        }
        let root = stage.root();
        let workers: Vec<Process> = processes::tree(root)?
            .into_iter()
            .filter(|process| process.pid != root && !stage.is_actor(process.pid))
            .collect();
        Ok(Self {
            stage,
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            workers,
        })
    }

    /// A block of load.
    pub(super) fn block(&mut self, bus: &Bus, arm: usize, round: u32) -> Result<Measured> {
        match arm {
            BUSY => self.stage.spin(THREADS)?,
            FLOODED => self.stage.flood(bus.size())?,
            _ => {}
        }
        let measured = self.load(bus, round);
        match arm {
            BUSY => _ = self.stage.rest(THREADS)?,
            FLOODED if self.stage.rest(1)? == 0 => bail!("nothing was published"),
            _ => {}
        }
        measured
    }

    fn load(&self, bus: &Bus, round: u32) -> Result<Measured> {
        let duration = Duration::from_secs_f64(bus.block);
        let order = Order {
            target: self.target,
            host: "loadtest".to_owned(),
            scenario: Scenario::Keepalive,
            path: "/".to_owned(),
            slow_path: "/".to_owned(),
            clients: bus.clients,
            addresses: 1,
            drive: Drive::Closed,
            poisson: false,
            warm_up: duration / 4,
            duration,
            timeout: TIMEOUT,
            // The same for all arms of a round.
            seed: bus.seed.wrapping_add(u64::from(round)),
        };
        let mut load = Load::start(&bus.pointsman, &order, None)?;
        load.wait_begun()?;
        let (workers, dispatcher) = (self.snapshots()?, self.dispatcher()?);
        let outcome = load.wait_ended()?;
        let mut used = Usage {
            cpu_ns: self.dispatcher()?.saturating_sub(dispatcher),
            ..Usage::default()
        };
        for (later, earlier) in self.snapshots()?.iter().zip(&workers) {
            let worker = later.since(earlier).used;
            used.cpu_ns += worker.cpu_ns;
            used.waited_ns += worker.waited_ns;
            used.wakeups += worker.wakeups;
            used.preempted += worker.preempted;
        }
        let mut measured = Measured {
            seconds: outcome.seconds,
            done: outcome.requests,
            lost: outcome.errors.total(),
            latency: outcome.latency,
            ..Measured::default()
        };
        measured.delta.used = used;
        Ok(measured)
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let of = |process: &Process| Ok(Snapshot::of(process.pid, &[*process])?);
        self.workers.iter().map(of).collect()
    }

    /// The CPU time of the master's dispatcher thread so far, nanoseconds.
    fn dispatcher(&self) -> Result<u64> {
        let threads = format!("/proc/{}/task", self.stage.root());
        for thread in fs::read_dir(&threads).context(threads)?.flatten() {
            let path = thread.path();
            if fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "dispatcher") {
                let text = fs::read_to_string(path.join("schedstat"))?;
                let time = text.split(' ').next().and_then(|time| time.parse().ok());
                return time.context("schedstat is not as expected");
            }
        }
        bail!("the master has no dispatcher")
    }
}
