//! A bus with its actors, all in processes of their own, and what they use.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pointsman::processes::{Delta, Snapshot};
use pointsman::scoreboard::histogram;

use super::actor::{PUBLISHER, SUBSCRIBERS};
use super::script::{Actor, Count, Offer, Order, Said};
use crate::guard::{Guard, Interrupt, POLL};
use crate::ports::Ports;
use crate::programs::ourselves;

/// How many actors there are.
pub(crate) const ACTORS: u16 = 1 + SUBSCRIBERS.len() as u16;
/// How long all may take to be there.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// When nothing has come for so long, nothing will.
const SILENCE: Duration = Duration::from_millis(500);
/// Between two questions how far subscribers are.
const LOOK: Duration = Duration::from_millis(50);
/// A subscriber tells the publisher that it has seen another so many.
const ACK: u64 = 1024;

/// Which bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Nats,
}

/// A bus and its actors.
pub(crate) struct Stage {
    pub(crate) name: String,
    actors: Vec<Actor>,
    /// The actors' processes.
    pids: Vec<i32>,
    programs: Vec<Guard>,
    block: u64,
}

/// What was measured of a block.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// Messages that reached a subscriber, or requests that were answered.
    pub(crate) done: u64,
    /// Those that did not.
    pub(crate) lost: u64,
    pub(crate) disordered: u64,
    pub(crate) delta: Delta,
    pub(crate) latency: histogram::Snapshot,
}

impl Stage {
    /// Starts everything in a folder of its own, and waits until all actors are on the bus. Ours has other
    /// workers too, that answer HTTP on port `http`, if there is one.
    pub(crate) fn start(
        kind: Kind,
        name: &str,
        dir: &Path,
        ports: &mut Ports,
        http: Option<u16>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        fs::create_dir(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let socket = dir.join("orders");
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen at {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let mut stage = Self {
            name: name.to_owned(),
            actors: Vec::new(),
            pids: Vec::new(),
            programs: Vec::new(),
            block: 0,
        };
        match kind {
            Kind::Ours => {
                let mut command = Command::new(ourselves()?);
                command.arg("bus-cluster").arg(&socket);
                if let Some(port) = http {
                    command.args(["--http", &port.to_string()]);
                }
                stage.spawn("bus-cluster", command, dir)?;
            }
            Kind::Nats => stage.start_nats(&socket, dir, ports, interrupt)?,
        }
        stage.greet_all(&listener, interrupt, dir)?;
        Ok(stage)
    }

    /// The server as it comes, and a process for each actor.
    fn start_nats(
        &mut self,
        socket: &Path,
        dir: &Path,
        ports: &mut Ports,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let port = ports.next()?.to_string();
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &port]);
        self.spawn("nats-server", command, dir)?;
        let deadline = Instant::now() + READY_DEADLINE;
        while std::net::TcpStream::connect(("127.0.0.1", port.parse()?)).is_err() {
            self.check_alive(dir)?;
            if Instant::now() > deadline {
                bail!("nats-server does not listen:\n{}", log(dir, "nats-server"));
            }
            interrupt.sleep(POLL)?;
        }
        for seat in 0..ACTORS {
            let mut command = Command::new(ourselves()?);
            command
                .arg("bus-nats")
                .arg(format!("nats://127.0.0.1:{port}"));
            command.arg(socket).arg(seat.to_string());
            self.spawn(&format!("actor-{seat}"), command, dir)?;
        }
        Ok(())
    }

    fn spawn(&mut self, name: &str, mut command: Command, dir: &Path) -> Result<()> {
        let log = File::create(log_path(dir, name)).context("cannot create a log")?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share a log")?)
            .stderr(log);
        self.programs.push(Guard::spawn(name, &mut command)?);
        Ok(())
    }

    fn check_alive(&mut self, dir: &Path) -> Result<()> {
        for program in &mut self.programs {
            if let Some(status) = program.ended()? {
                let name = program.name().to_owned();
                bail!("{name} has ended ({status}):\n{}", log(dir, &name));
            }
        }
        Ok(())
    }

    fn greet_all(
        &mut self,
        listener: &UnixListener,
        interrupt: &Interrupt,
        dir: &Path,
    ) -> Result<()> {
        let deadline = Instant::now() + READY_DEADLINE;
        let mut seated = Vec::new();
        while seated.len() < usize::from(ACTORS) {
            match listener.accept() {
                Ok((stream, _)) => seated.push(Actor::greet(stream)?),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.check_alive(dir)?;
                    if Instant::now() > deadline {
                        let log = log(dir, self.programs[0].name());
                        bail!(
                            "{}: {} actors of {ACTORS} came:\n{log}",
                            self.name,
                            seated.len()
                        );
                    }
                    interrupt.sleep(POLL)?;
                }
                Err(error) => return Err(error).context("no orders can be given"),
            }
        }
        seated.sort_by_key(|(seat, ..)| *seat);
        if !seated.iter().map(|(seat, ..)| *seat).eq(0..ACTORS) {
            bail!("{}: an actor came twice", self.name);
        }
        for (_, pid, actor) in seated {
            self.pids.push(pid);
            self.actors.push(actor);
        }
        Ok(())
    }

    /// What all processes of this bus have used so far.
    pub(crate) fn used(&self) -> Result<Snapshot> {
        let mut all = Snapshot::default();
        for program in &self.programs {
            all = all.or(Snapshot::take(program.pid())?);
        }
        Ok(all)
    }

    /// One block of a broadcast.
    pub(crate) fn broadcast(
        &mut self,
        messages: u64,
        size: usize,
        offer: Offer,
    ) -> Result<Measured> {
        self.block += 1;
        let block = self.block;
        let (window, rate, ack) = match offer {
            Offer::Window(window) => (Some(window), None, ACK.min(window / 4).max(1)),
            Offer::Rate(rate) => (None, Some(rate), 0),
            Offer::Flat => (None, None, 0),
        };
        for seat in SUBSCRIBERS {
            let expect = Order::Expect {
                block,
                messages,
                ack,
            };
            self.actors[usize::from(seat)].ask(expect)?;
        }
        let earlier = self.used()?;
        let order = Order::Publish {
            block,
            messages,
            size,
            window,
            rate,
        };
        let Said::Published { began_ns } = self.actors[usize::from(PUBLISHER)].ask(order)? else {
            bail!("{}: the publisher says something else", self.name);
        };
        let counts = self.counts()?;
        let delta = self.used()?.since(&earlier);
        let of = |what: fn(&Count) -> u64| counts.iter().map(what).sum::<u64>();
        let last_ns = counts.iter().map(|count| count.last_ns).max().unwrap_or(0);
        let done = of(|count| count.received);
        let lost = (messages * SUBSCRIBERS.len() as u64).saturating_sub(done);
        let missed = of(|count| count.missed);
        if counts.iter().all(|count| count.complete) && missed != lost {
            bail!(
                "{}: {lost} messages were lost, and {missed} were seen to be missing",
                self.name
            );
        }
        Ok(Measured {
            seconds: last_ns.saturating_sub(began_ns) as f64 * 1e-9,
            done,
            lost,
            disordered: of(|count| count.disordered),
            delta,
            ..Measured::default()
        })
    }

    /// What subscribers have, once that is everything or nothing comes any more.
    fn counts(&mut self) -> Result<Vec<Count>> {
        let mut changed = Instant::now();
        let mut before: Vec<Count> = Vec::new();
        loop {
            let mut counts = Vec::new();
            for seat in SUBSCRIBERS {
                match self.actors[usize::from(seat)].ask(Order::Count)? {
                    Said::Counted(count) => counts.push(count),
                    said => bail!("{}: a subscriber says {said:?}", self.name),
                }
            }
            if counts.iter().all(|count| count.complete) {
                return Ok(counts);
            }
            if counts != before {
                changed = Instant::now();
                before = counts;
            } else if changed.elapsed() > SILENCE {
                return Ok(before);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// One block of requests, one after the other.
    pub(crate) fn ask(&mut self, requests: u64, size: usize) -> Result<Measured> {
        let earlier = self.used()?;
        let order = Order::Ask { requests, size };
        let said = self.actors[usize::from(PUBLISHER)].ask(order)?;
        let delta = self.used()?.since(&earlier);
        let Said::Asked {
            began_ns,
            ended_ns,
            answered,
            failed,
            latency,
        } = said
        else {
            bail!("{}: the one that asks says {said:?}", self.name);
        };
        Ok(Measured {
            seconds: ended_ns.saturating_sub(began_ns) as f64 * 1e-9,
            done: answered,
            lost: failed,
            delta,
            latency,
            ..Measured::default()
        })
    }

    /// The publisher begins to publish without end, to one subscriber.
    pub(crate) fn flood(&mut self, size: usize) -> Result<()> {
        self.actors[usize::from(PUBLISHER)].ask(Order::Flood { size })?;
        Ok(())
    }

    /// So many actors each keep a core busy, and say nothing.
    pub(crate) fn spin(&mut self, actors: usize) -> Result<()> {
        for actor in &mut self.actors[..actors] {
            actor.ask(Order::Spin)?;
        }
        Ok(())
    }

    /// So many actors stop that, or a flood; how many messages there were.
    pub(crate) fn rest(&mut self, actors: usize) -> Result<u64> {
        let mut all = 0;
        for actor in &mut self.actors[..actors] {
            match actor.ask(Order::Rest)? {
                Said::Rested { messages } => all += messages,
                said => bail!("{}: an actor says {said:?}", self.name),
            }
        }
        Ok(all)
    }

    /// The master, or the server.
    pub(crate) fn root(&self) -> i32 {
        self.programs[0].pid()
    }

    /// Is this process an actor?
    pub(crate) fn is_actor(&self, pid: i32) -> bool {
        self.pids.contains(&pid)
    }

    /// What is used while nothing is done at all.
    pub(crate) fn idle(&self, time: Duration, interrupt: &Interrupt) -> Result<Delta> {
        let earlier = self.used()?;
        interrupt.sleep(time)?;
        Ok(self.used()?.since(&earlier))
    }
}

fn log_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.log"))
}

/// What a program wrote.
fn log(dir: &Path, name: &str) -> String {
    fs::read_to_string(log_path(dir, name)).unwrap_or_default()
}
