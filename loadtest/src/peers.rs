//! Starting the upstream and each proxy under test, and making sure that they do the same work.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::arm::Arm;
use crate::guard::{Guard, Interrupt, POLL};
use crate::probe;

const UPSTREAM_CONF: &str = include_str!("../peers/upstream.conf");
/// A whole 64 KiB answer fits into one buffer: for bodies, half the CPU time of the defaults.
const NGINX_TUNED: &str =
    "proxy_buffer_size 8k; proxy_buffers 4 64k; proxy_busy_buffers_size 128k;";
const NGINX_CONF: &str = include_str!("../peers/nginx.conf");
const HAPROXY_CFG: &str = include_str!("../peers/haproxy.cfg");

/// How long a server may take until it answers rightly.
const READY_DEADLINE: Duration = Duration::from_secs(10);

/// Path of the small answer.
pub(crate) const SMALL: &str = "/";
/// Path of the large answer.
pub(crate) const LARGE: &str = "/64k";
const LARGE_BYTES: usize = 65_536;

/// The body of the small answer: 100 bytes.
fn small_body() -> String {
    "All of the hundred bytes of this small answer come through the proxy as they left the upstream"
        .chars()
        .chain(std::iter::repeat('.'))
        .take(100)
        .collect()
}

/// The body of the large answer: no two stretches of it alike, so that nothing can be swapped.
fn large_body() -> Vec<u8> {
    (0..LARGE_BYTES / 8)
        .flat_map(|word| format!("{word:07}\n").into_bytes())
        .collect()
}

/// Where what is needed to start a server comes from.
pub(crate) struct Site<'a> {
    /// Scratch directory; each server gets one of its own in it.
    pub(crate) dir: &'a Path,
    pub(crate) pointsman: &'a Path,
    pub(crate) workers: u32,
    pub(crate) connections: u32,
    pub(crate) proxy_core: usize,
    pub(crate) load_core: usize,
}

/// A server that runs, and answers on a port.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) port: u16,
    guard: Guard,
    log: PathBuf,
}

impl Server {
    /// The process whose descendants make up the server.
    pub(crate) fn pid(&self) -> i32 {
        self.guard.pid()
    }

    /// An error, with the end of its log, if the server has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.guard.ended()? {
            bail!(
                "{} has ended ({status}); it said:\n{}",
                self.name,
                tail(&self.log)
            );
        }
        Ok(())
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

/// Starts the upstream on the load core.
pub(crate) fn start_upstream(
    site: &Site<'_>,
    ports: &mut Ports,
    interrupt: &Interrupt,
) -> Result<Server> {
    let files = site.dir.join("files");
    fs::create_dir(&files).with_context(|| format!("cannot create {}", files.display()))?;
    let file = files.join(LARGE.trim_start_matches('/'));
    fs::write(&file, large_body()).with_context(|| format!("cannot write {}", file.display()))?;

    let name = "upstream";
    let dir = server_dir(site.dir, name)?;
    let port = ports.next()?;
    let conf = fill(
        UPSTREAM_CONF,
        &[
            ("DIR", &dir.display().to_string()),
            ("FILES", &files.display().to_string()),
            ("PORT", &port.to_string()),
            ("SMALL", &small_body()),
        ],
    )?;
    let arguments = nginx_arguments(&dir, &conf)?;
    let mut server = start(name, "nginx", &arguments, site.load_core, &dir, port)?;
    server.wait_ready(interrupt, check_bodies)?;
    Ok(server)
}

/// Starts a proxy on the proxy core, and checks that it does what is going to be measured.
pub(crate) fn start_proxy(
    arm: &Arm,
    label: &str,
    site: &Site<'_>,
    upstream: u16,
    ports: &mut Ports,
    interrupt: &Interrupt,
) -> Result<Server> {
    let dir = server_dir(site.dir, &label.replace([':', '#', '/'], "_"))?;
    let port = ports.next()?;
    let common = [
        ("DIR", dir.display().to_string()),
        ("PORT", port.to_string()),
        ("UPSTREAM", upstream.to_string()),
        ("WORKERS", site.workers.to_string()),
        // One for each connection of the load, or some would be opened anew for each request.
        ("KEEPALIVE", site.connections.max(128).to_string()),
    ];
    let common: Vec<(&str, &str)> = common.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let (program, arguments) = match arm {
        Arm::Nginx { tuned } => {
            let mut values = common.clone();
            values.push(("BUFFERS", if *tuned { NGINX_TUNED } else { "" }));
            (
                "nginx".into(),
                nginx_arguments(&dir, &fill(NGINX_CONF, &values)?)?,
            )
        }
        Arm::Haproxy => {
            let path = write_conf(&dir, "haproxy.cfg", &fill(HAPROXY_CFG, &common)?)?;
            // -db: stay in the foreground.
            ("haproxy".into(), vec!["-db".into(), "-f".into(), path])
        }
        Arm::Pointsman { mode, policy } => {
            let admin = ports.next()?;
            let mut arguments: Vec<String> = vec![
                "serve".into(),
                "--listen".into(),
                format!("127.0.0.1:{port}"),
                "--upstream".into(),
                format!("http://127.0.0.1:{upstream}"),
                "--workers".into(),
                site.workers.to_string(),
                "--mode".into(),
                mode.clone(),
                "--admin".into(),
                format!("127.0.0.1:{admin}"),
            ];
            if let Some(policy) = policy {
                arguments.extend(["--policy".into(), policy.clone()]);
            }
            (site.pointsman.display().to_string(), arguments)
        }
    };
    let mut server = start(label, &program, &arguments, site.proxy_core, &dir, port)?;
    server.wait_ready(interrupt, |port| {
        check_bodies(port).and_then(|()| check_reuse(port))
    })?;
    if !probe_text(port, "/seen")?.contains("forwarded-for=127.0.0.1 ") {
        eprintln!("note: {label} sends no X-Forwarded-For: it does a little less than the others");
    }
    Ok(server)
}

/// Free ports, outside of those that the kernel gives to outgoing connections: there, some
/// connection of the load could sit on a port before the server that is to listen on it.
pub(crate) struct Ports {
    next: u16,
    end: u16,
}

impl Ports {
    pub(crate) fn new() -> Self {
        let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .and_then(|range| range.split_ascii_whitespace().next()?.parse().ok())
            .unwrap_or(32_768);
        let end = if ephemeral > 12_000 {
            ephemeral
        } else {
            u16::MAX
        };
        // Two runs at once start at different places, as a courtesy; bind decides.
        let first = 10_000 + u16::try_from(std::process::id() % 1_000).expect("less than 1000");
        Self { next: first, end }
    }

    fn next(&mut self) -> Result<u16> {
        while self.next < self.end {
            let port = self.next;
            self.next += 1;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no free port on 127.0.0.1 below {}", self.end)
    }
}

/// Whether there is a program of that name to run.
pub(crate) fn find_program(program: &Path) -> Result<PathBuf> {
    if program.components().count() > 1 {
        return program
            .is_file()
            .then(|| program.to_owned())
            .with_context(|| format!("there is no {}", program.display()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Where distributions put servers; not everybody's PATH has it.
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{} is not installed", program.display()))
}

fn start(
    name: &str,
    program: &str,
    arguments: &[String],
    core: usize,
    dir: &Path,
    port: u16,
) -> Result<Server> {
    let program = find_program(Path::new(program))?;
    let log = dir.join("log");
    let out = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut command = Command::new("taskset");
    command
        .args(["-c", &core.to_string()])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(out.try_clone().context("cannot share a log")?)
        .stderr(out);
    Ok(Server {
        name: name.to_owned(),
        port,
        guard: Guard::spawn(name, &mut command)?,
        log,
    })
}

fn nginx_arguments(dir: &Path, conf: &str) -> Result<Vec<String>> {
    let conf = write_conf(dir, "nginx.conf", conf)?;
    // -e: what goes wrong before the configuration is read goes to our log too.
    let prefix = dir.display().to_string();
    Ok(vec![
        "-p".into(),
        prefix,
        "-c".into(),
        conf,
        "-e".into(),
        "stderr".into(),
    ])
}

fn write_conf(dir: &Path, name: &str, text: &str) -> Result<String> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.display().to_string())
}

fn server_dir(base: &Path, name: &str) -> Result<PathBuf> {
    let dir = base.join(name);
    fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Puts values where the template has `@KEY@`.
fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut text = template.to_owned();
    for (key, value) in values {
        text = text.replace(&format!("@{key}@"), value);
    }
    match text.split('@').nth(1) {
        None => Ok(text),
        Some(key) => Err(anyhow!("a template has @{key}@, which has no value")),
    }
}

fn check_bodies(port: u16) -> Result<()> {
    if probe::get(port, SMALL)? != small_body().as_bytes() {
        bail!("the body of {SMALL} is not what the upstream sends");
    }
    if probe::get(port, LARGE)? != large_body() {
        bail!("the body of {LARGE} is not what the upstream sends");
    }
    Ok(())
}

/// The comparison is one of proxies that keep their connections to the upstream.
fn check_reuse(port: u16) -> Result<()> {
    probe_text(port, "/seen")?;
    let seen = probe_text(port, "/seen")?;
    match seen
        .rsplit_once("reused=")
        .and_then(|(_, count)| count.parse::<u64>().ok())
    {
        Some(count) if count > 1 => Ok(()),
        Some(_) => bail!("it opens a new connection to the upstream for each request"),
        None => bail!("the body of /seen is {seen:?}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_their_sizes() {
        assert_eq!(small_body().len(), 100);
        assert_eq!(large_body().len(), LARGE_BYTES);
    }

    #[test]
    fn templates_are_filled_or_refused() {
        assert_eq!(
            fill("a @X@ b @X@", &[("X", "1")]).expect("all known"),
            "a 1 b 1"
        );
        assert!(fill("a @X@ b @Y@", &[("X", "1")]).is_err());
    }

    #[test]
    fn ports_are_not_given_twice() {
        let mut ports = Ports::new();
        let first = ports.next().expect("a free port");
        assert_ne!(first, ports.next().expect("another"));
    }

    #[test]
    fn missing_programs_are_named() {
        let error = find_program(Path::new("no-such-proxy")).expect_err("there is none");
        assert!(error.to_string().contains("no-such-proxy"));
        assert!(find_program(Path::new("sh")).is_ok());
        assert!(find_program(Path::new("no/such/pointsman")).is_err());
    }
}
