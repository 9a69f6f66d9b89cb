//! How each program is started: its configuration, as its own experts would write it, and its command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::arm::Arm;

const NGINX_CONF: &str = include_str!("../peers/nginx.conf");
/// A whole 64 KiB answer fits into one buffer: for bodies, half the CPU time of the defaults.
const NGINX_TUNED: &str =
    "proxy_buffer_size 8k; proxy_buffers 4 64k; proxy_busy_buffers_size 128k;";
const HAPROXY_CFG: &str = include_str!("../peers/haproxy.cfg");
const ENVOY_YAML: &str = include_str!("../peers/envoy.yaml");
const CADDYFILE: &str = include_str!("../peers/Caddyfile");
const NODE_JS: &str = include_str!("../peers/node.js");

/// What a program is started with.
pub(crate) struct Launch<'a> {
    /// A folder of its own.
    pub(crate) dir: &'a Path,
    /// Where sockets go.
    pub(crate) sockets: &'a Path,
    /// Where clients connect.
    pub(crate) port: u16,
    /// For one that wants another port, to be asked how it is.
    pub(crate) admin: u16,
    /// Where requests go.
    pub(crate) upstream: u16,
    pub(crate) workers: u32,
    /// Connections of the load.
    pub(crate) connections: u32,
}

impl Launch<'_> {
    /// The command line of an arm, with its configuration written to its folder.
    pub(crate) fn command(&self, arm: Arm, program: &Path) -> Result<Command> {
        let (port, upstream) = (self.port.to_string(), self.upstream.to_string());
        let workers = self.workers.to_string();
        let mut command = Command::new(program);
        match arm {
            Arm::Nginx { .. } => {
                let conf = self.file(arm, "nginx.conf", NGINX_CONF)?;
                // -e: what goes wrong before the configuration is read goes to our log too.
                let command = command.arg("-p").arg(self.dir).arg("-c").arg(conf);
                command.args(["-e", "stderr"]);
            }
            Arm::Haproxy => {
                let conf = self.file(arm, "haproxy.cfg", HAPROXY_CFG)?;
                // -W: a master that watches; without -D it stays in the foreground.
                command.arg("-W").arg("-f").arg(conf);
            }
            Arm::Envoy => {
                let conf = self.file(arm, "envoy.yaml", ENVOY_YAML)?;
                command
                    .arg("-c")
                    .arg(conf)
                    .args(["--concurrency", &workers]);
                command.args(["--disable-hot-restart", "--log-level", "error"]);
            }
            Arm::Caddy => {
                let conf = self.file(arm, "Caddyfile", CADDYFILE)?;
                command
                    .args(["run", "--adapter", "caddyfile", "--config"])
                    .arg(conf)
                    // It would look for a place in the home directory.
                    .env("XDG_CONFIG_HOME", self.dir)
                    .env("XDG_DATA_HOME", self.dir)
                    .env("GOMAXPROCS", &workers);
            }
            Arm::Node { round_robin } => {
                let scheduling = if round_robin { "rr" } else { "shared" };
                command
                    .arg(self.file(arm, "node.js", NODE_JS)?)
                    .args([&port, &upstream, &workers, scheduling])
                    .env("NODE_ENV", "production");
            }
            Arm::Relay => {
                command.args(["relay", &port, &upstream]);
            }
            Arm::Pointsman(ours) => self.ours(ours, &mut command),
            Arm::Direct => bail!("there is nothing to start for {arm}"),
        }
        Ok(command)
    }

    /// Pointsman as it is installed: no tuning but what is compared.
    fn ours(&self, arm: pointsman::Arm, command: &mut Command) {
        command
            .args(["serve", "--workers", &self.workers.to_string()])
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(["--upstream", &format!("http://127.0.0.1:{}", self.upstream)])
            .args(["--admin", &format!("127.0.0.1:{}", self.admin)])
            .arg("--control")
            .arg(self.sockets.join(format!("control-{}", self.port)))
            .args(["--mode", arm.mode().name()]);
        if let Some(policy) = arm.policy() {
            command.args(["--policy", policy.name()]);
        }
    }

    /// Writes a configuration.
    fn file(&self, arm: Arm, name: &str, template: &str) -> Result<PathBuf> {
        let tuned = arm == Arm::Nginx { tuned: true };
        let values = [
            ("DIR", self.dir.display().to_string()),
            ("PORT", self.port.to_string()),
            ("UPSTREAM", self.upstream.to_string()),
            ("WORKERS", self.workers.to_string()),
            // One for each connection of the load, or some would be opened anew for each request.
            ("KEEPALIVE", self.connections.max(128).to_string()),
            ("BUFFERS", if tuned { NGINX_TUNED } else { "" }.to_owned()),
        ];
        let path = self.dir.join(name);
        fs::write(&path, fill(template, &values)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Puts values where the template has `@KEY@`.
fn fill(template: &str, values: &[(&str, String)]) -> Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_or_refused() {
        let filled = |text| fill(text, &[("X", "1@".to_owned())]);
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
        let values = ["DIR", "PORT", "UPSTREAM", "WORKERS", "KEEPALIVE", "BUFFERS"]
            .map(|k| (k, "7".to_owned()));
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
