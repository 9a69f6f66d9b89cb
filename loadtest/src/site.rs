//! Starting the upstream and each proxy under test, and making sure that they do the same work.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::arm::Arm;
use crate::guard::{Guard, Interrupt, POLL};
use crate::machine;
use crate::ports::Ports;
use crate::probe;
use crate::programs::{Programs, ourselves};
use crate::upstream::{LARGE, SEEN, SLOW, SMALL, large_body, small_body};

const NGINX_CONF: &str = include_str!("../peers/nginx.conf");
/// A whole 64 KiB answer fits into one buffer: for bodies, half the CPU time of the defaults.
const NGINX_TUNED: &str =
    "proxy_buffer_size 8k; proxy_buffers 4 64k; proxy_busy_buffers_size 128k;";
const HAPROXY_CFG: &str = include_str!("../peers/haproxy.cfg");
const ENVOY_YAML: &str = include_str!("../peers/envoy.yaml");
const CADDYFILE: &str = include_str!("../peers/Caddyfile");
const NODE_JS: &str = include_str!("../peers/node.js");

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
        let command = self.command(arm, &dir, port, upstream.port, ports)?;
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

    /// The command line of an arm, with its configuration written to `dir`.
    fn command(
        &self,
        arm: Arm,
        dir: &Path,
        port: u16,
        upstream: u16,
        ports: &mut Ports,
    ) -> Result<Command> {
        let keepalive = self.connections.max(128).to_string();
        let (port, upstream) = (port.to_string(), upstream.to_string());
        let workers = self.workers.to_string();
        let folder = dir.display().to_string();
        let tuned = matches!(arm, Arm::Nginx { tuned: true });
        let values = [
            ("DIR", folder.as_str()),
            ("PORT", &port),
            ("UPSTREAM", &upstream),
            ("WORKERS", &workers),
            // One for each connection of the load, or some would be opened anew for each request.
            ("KEEPALIVE", &keepalive),
            ("BUFFERS", if tuned { NGINX_TUNED } else { "" }),
        ];
        let file = |name: &str, template: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, fill(template, &values)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        };
        let mut command = Command::new(self.programs.find(arm)?);
        match arm {
            Arm::Nginx { .. } => {
                let conf = file("nginx.conf", NGINX_CONF)?;
                // -e: what goes wrong before the configuration is read goes to our log too.
                command
                    .arg("-p")
                    .arg(dir)
                    .arg("-c")
                    .arg(conf)
                    .args(["-e", "stderr"]);
            }
            Arm::Haproxy => {
                // -W: a master that watches; without -D it stays in the foreground.
                command
                    .arg("-W")
                    .arg("-f")
                    .arg(file("haproxy.cfg", HAPROXY_CFG)?);
            }
            Arm::Envoy => {
                command
                    .arg("-c")
                    .arg(file("envoy.yaml", ENVOY_YAML)?)
                    .args([
                        "--concurrency",
                        &workers,
                        "--disable-hot-restart",
                        "--log-level",
                        "error",
                    ]);
            }
            Arm::Caddy => {
                command
                    .args(["run", "--adapter", "caddyfile", "--config"])
                    .arg(file("Caddyfile", CADDYFILE)?)
                    // It would look for a place in the home directory.
                    .env("XDG_CONFIG_HOME", dir)
                    .env("XDG_DATA_HOME", dir)
                    .env("GOMAXPROCS", &workers);
            }
            Arm::Node { round_robin } => {
                let scheduling = if round_robin { "rr" } else { "shared" };
                command
                    .arg(file("node.js", NODE_JS)?)
                    .args([&port, &upstream, &workers, scheduling])
                    .env("NODE_ENV", "production");
            }
            Arm::Relay => {
                command.args(["relay", &port, &upstream]);
            }
            Arm::Pointsman(ours) => {
                let admin = ports.next()?;
                command
                    .args(["serve", "--workers", &workers])
                    .args(["--listen", &format!("127.0.0.1:{port}")])
                    .args(["--upstream", &format!("http://127.0.0.1:{upstream}")])
                    .args(["--admin", &format!("127.0.0.1:{admin}")])
                    .arg("--control")
                    .arg(self.sockets.join(format!("control-{port}")))
                    .args(["--mode", ours.mode().name()]);
                if let Some(policy) = ours.policy() {
                    command.args(["--policy", policy.name()]);
                }
            }
            Arm::Direct => bail!("there is nothing to start for {arm}"),
        }
        Ok(command)
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

/// Puts values where the template has `@KEY@`.
fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('@') {
        text.push_str(before);
        let length = after
            .find(|c: char| !c.is_ascii_uppercase())
            .unwrap_or(after.len());
        let (key, end) = after.split_at(length);
        match end.strip_prefix('@') {
            Some(end) if !key.is_empty() => {
                let (_, value) = values
                    .iter()
                    .find(|(name, _)| *name == key)
                    .ok_or_else(|| anyhow!("a template has @{key}@, which has no value"))?;
                text.push_str(value);
                rest = end;
            }
            // Some other use of the sign.
            _ => {
                text.push('@');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    Ok(text)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_or_refused() {
        let filled = |text| fill(text, &[("X", "1@")]);
        assert_eq!(filled("a @X@ b @X@c").expect("all known"), "a 1@ b 1@c");
        assert_eq!(
            filled("\"@type\" @ a@b @@").expect("no keys"),
            "\"@type\" @ a@b @@"
        );
        let error = filled("a @X@ b @YES@").expect_err("an unknown key");
        assert!(error.to_string().contains("@YES@"));
    }

    #[test]
    fn every_template_has_what_it_needs() {
        let values =
            ["DIR", "PORT", "UPSTREAM", "WORKERS", "KEEPALIVE", "BUFFERS"].map(|k| (k, "7"));
        for template in [NGINX_CONF, HAPROXY_CFG, ENVOY_YAML, CADDYFILE, NODE_JS] {
            let text = fill(template, &values).expect("all known");
            assert!(!text.contains("@PORT@"));
        }
        assert!(
            fill(ENVOY_YAML, &values)
                .expect("all known")
                .contains("\"@type\"")
        );
    }
}
