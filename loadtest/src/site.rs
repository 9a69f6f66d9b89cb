//! Starting the upstream and each proxy under test, and making sure that they do the same work.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::arm::Arm;
use crate::guard::{Guard, Interrupt, POLL};
use crate::launch::Launch;
use crate::machine;
use crate::ports::Ports;
use crate::probe;
use crate::programs::{Programs, ourselves};
use crate::upstream::{LARGE, SEEN, SLOW, SMALL, large_body, small_body};

/// How long a server may take until it answers rightly.
const READY_DEADLINE: Duration = Duration::from_secs(15);

/// What servers are started with.
pub(crate) struct Site<'a> {
    /// Scratch directory; each server gets one of its own in it.
    pub(crate) dir: &'a Path,
    /// Where sockets go, whose paths must be short: the scratch directory itself.
    pub(crate) sockets: &'a Path,
    pub(crate) programs: &'a Programs,
    /// Of each proxy.
    pub(crate) workers: u32,
    /// Connections of the load.
    pub(crate) connections: u32,
    /// Where the proxies run.
    pub(crate) proxy_cores: Option<&'a [usize]>,
    /// Where load and upstream run.
    pub(crate) load_cores: Option<&'a [usize]>,
    pub(crate) interrupt: &'a Interrupt,
}

/// A server that runs, and answers on a port.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) port: u16,
    /// The process whose descendants make up the server.
    pub(crate) pid: i32,
    /// `None`: it is another one's process.
    guard: Option<Guard>,
    log: PathBuf,
}

impl Server {
    /// An error, with the end of its log, if the server has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        let Some(guard) = &mut self.guard else {
            return Ok(());
        };
        if let Some(status) = guard.ended()? {
            bail!(
                "{} has ended ({status}); it said:\n{}",
                self.name,
                tail(&self.log)
            );
        }
        Ok(())
    }

    /// An error if it does not answer as it did before it was measured.
    pub(crate) fn check_answers(&mut self) -> Result<()> {
        self.check_alive()?;
        check_bodies(self.port).with_context(|| format!("{} answers wrongly", self.name))
    }

    /// Waits until `probe` is content with the server.
    fn wait_ready(
        &mut self,
        interrupt: &Interrupt,
        probe: impl Fn(u16) -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            self.check_alive()?;
            let Err(error) = probe(self.port) else {
                return Ok(());
            };
            if Instant::now() > deadline {
                return Err(error.context(format!(
                    "{} does not answer rightly after {} s; it said:\n{}",
                    self.name,
                    READY_DEADLINE.as_secs(),
                    tail(&self.log)
                )));
            }
            interrupt.sleep(POLL)?;
        }
    }
}

impl Site<'_> {
    /// Starts the upstream on the load's cores.
    pub(crate) fn start_upstream(&self, ports: &mut Ports) -> Result<Server> {
        let port = ports.next()?;
        let dir = self.folder("upstream")?;
        let mut command = Command::new(ourselves()?);
        command.args(["upstream", &port.to_string()]);
        let mut server = start("upstream", command, self.load_cores, &dir, port)?;
        server.wait_ready(self.interrupt, check_bodies)?;
        Ok(server)
    }

    /// Starts what `arm` names on the proxies' cores, and checks that it does what is going to be
    /// measured. `label` tells it from another one of its kind.
    pub(crate) fn start(
        &self,
        arm: Arm,
        label: &str,
        upstream: &Server,
        ports: &mut Ports,
    ) -> Result<Server> {
        if arm == Arm::Direct {
            return Ok(Server {
                name: label.to_owned(),
                port: upstream.port,
                pid: upstream.pid,
                guard: None,
                log: upstream.log.clone(),
            });
        }
        let dir = self.folder(&label.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))?;
        let port = ports.next()?;
        let launch = Launch {
            dir: &dir,
            sockets: self.sockets,
            port,
            admin: ports.next()?,
            upstream: upstream.port,
            workers: self.workers,
            connections: self.connections,
        };
        let command = launch.command(arm, &self.programs.find(arm)?)?;
        let mut server = start(label, command, self.proxy_cores, &dir, port)?;
        server.wait_ready(self.interrupt, |port| {
            check_bodies(port)?;
            if arm.is_http_proxy() {
                check_reuse(port)?;
                check_forwarded_for(port)?;
            }
            Ok(())
        })?;
        Ok(server)
    }

    /// A folder of a server's own.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }
}

fn start(
    name: &str,
    mut command: Command,
    cores: Option<&[usize]>,
    dir: &Path,
    port: u16,
) -> Result<Server> {
    let log = dir.join("log");
    let out = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(out.try_clone().context("cannot share a log")?)
        .stderr(out);
    let guard = machine::on_cores(cores, || Guard::spawn(name, &mut command))?;
    Ok(Server {
        name: name.to_owned(),
        port,
        pid: guard.pid(),
        guard: Some(guard),
        log,
    })
}

/// What every arm has to answer.
fn check_bodies(port: u16) -> Result<()> {
    let same = |path: &str, expected: &[u8]| match probe::get(port, path)? == expected {
        true => Ok(()),
        false => Err(anyhow!("the body of {path} is not what the upstream sends")),
    };
    same(SMALL, small_body().as_bytes())?;
    same(LARGE, &large_body())?;
    same(&format!("{SLOW}1"), small_body().as_bytes())
}

/// The comparison is one of proxies that keep their connections to the upstream.
fn check_reuse(port: u16) -> Result<()> {
    probe_text(port, SEEN)?;
    let seen = probe_text(port, SEEN)?;
    match seen
        .rsplit_once("reused=")
        .and_then(|(_, count)| count.parse::<u64>().ok())
    {
        Some(count) if count > 1 => Ok(()),
        Some(_) => bail!("it opens a new connection to the upstream for each request"),
        None => bail!("the body of {SEEN} is {seen:?}"),
    }
}

/// One that told the upstream less would do less. (Envoy names this machine's own address for a client
/// on loopback.)
fn check_forwarded_for(port: u16) -> Result<()> {
    let seen = probe_text(port, SEEN)?;
    let client = seen
        .strip_prefix("forwarded-for=")
        .and_then(|rest| rest.split(' ').next());
    match client.map(str::parse::<std::net::IpAddr>) {
        Some(Ok(_)) => Ok(()),
        _ => bail!("it does not tell the upstream whom it forwards for: {seen:?}"),
    }
}

fn probe_text(port: u16, path: &str) -> Result<String> {
    String::from_utf8(probe::get(port, path)?).with_context(|| format!("body of {path}"))
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    match lines.len() {
        0 => "(nothing)".to_owned(),
        count => lines[count.saturating_sub(10)..].join("\n"),
    }
}
