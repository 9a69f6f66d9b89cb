//! `pointsman check`: would `serve` accept this?

use std::io::Write;

use clap::Args;

use super::serve::{Given, Serve};
use crate::{
    config::{ControlSocket, Settings, usable_cores},
    error::Result,
};

/// Check a configuration file, or flags, and start nothing. Exit code 0: `serve` would accept them;
/// 2: it would not, and the message says where and why.
#[derive(Debug, Args)]
#[command(after_help = "\
It takes the flags of `serve`, and they win over the file as they do there.

Whether addresses are free and users exist shows only at the start.

Examples:
  pointsman check -c pointsman.toml
  pointsman check -c pointsman.toml --mode shared")]
pub(super) struct Check {
    #[command(flatten)]
    given: Given,
}

impl Check {
    pub(super) fn run(self) -> Result<()> {
        let serve = self.given.serve()?;
        let settings = serve.settings_alone()?;
        let what = match self.given.file() {
            Some(file) => file.display().to_string(),
            None => "command line".into(),
        };
        let text = format!("{what}: ok\n{}", summary(&serve, &settings));
        // Whoever hung up has read enough.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(())
    }
}

/// What would run, in a few lines.
fn summary(serve: &Serve, settings: &Settings) -> String {
    let cluster = &settings.cluster;
    let listen = if cluster.listen_passed {
        "every listener that was passed".into()
    } else {
        join(&cluster.listen)
    };
    let mut dispatch = cluster.arm.mode().to_string();
    if let Some(policy) = cluster.arm.policy() {
        dispatch.push_str(&format!(", policy {policy}"));
    }
    let mut workers = match cluster.workers {
        Some(workers) => workers.to_string(),
        None => format!("{}, one for each usable core", usable_cores()),
    };
    if let Some(most) = cluster.max_workers {
        workers.push_str(&format!(", at most {most}"));
    }
    if cluster.master_serves {
        workers.push_str(", and the master serves");
    }
    let upstream = if serve.is_demo() {
        "demo".into()
    } else {
        settings.endpoints.join(", ")
    };
    let admin = cluster
        .admin
        .map_or_else(|| "off".into(), |admin| admin.to_string());
    let control = match &cluster.control {
        ControlSocket::Usual => "at the usual place".into(),
        ControlSocket::At(path) => path.display().to_string(),
        ControlSocket::Off => "off".into(),
    };
    [
        ("listen", listen),
        ("mode", dispatch),
        ("workers", workers),
        ("upstream", upstream),
        ("admin", admin),
        ("control", control),
    ]
    .map(|(name, value)| format!("  {name:<9} {value}\n"))
    .concat()
}

fn join(items: &[impl ToString]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}
