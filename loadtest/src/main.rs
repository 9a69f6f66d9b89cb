//! Pointsman against its peers, and against itself, on one core.
//!
//! All proxies run at once; blocks of load go to one after the other, round by round, and the CPU
//! time that the proxy took is divided by the requests that it answered. See `README.md`.

mod arm;
mod bench;
mod guard;
mod machine;
mod peers;
mod probe;
mod proc;
mod report;
mod stats;
mod wrk;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::arm::Arm;
use crate::bench::{Plan, Scenario};
use crate::guard::Interrupt;
use crate::peers::{Ports, Server, Site};
use crate::report::{Document, Setup};

/// Measures Pointsman against its peers.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare CPU time per request with nginx, HAProxy and Pointsman's own modes
    Peers(Peers),
}

#[derive(Debug, Args)]
struct Peers {
    /// The Pointsman to measure
    #[arg(long, value_name = "PATH", default_value = "target/release/pointsman")]
    pointsman: PathBuf,
    /// Measured blocks of each arm in each scenario
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of a block
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Connections that the load keeps busy
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2048))]
    connections: u32,
    /// The kind of load
    #[arg(long, value_enum, default_value = "all")]
    scenario: Choice,
    /// What to compare: nginx, nginx:tuned, haproxy, pointsman:MODE or pointsman:MODE:POLICY
    ///
    /// Naming an arm twice shows the noise between equals.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "pointsman:reuseport,pointsman:handoff:least-loaded,nginx,nginx:tuned,haproxy,\
                         pointsman:shared,pointsman:hybrid:least-loaded"
    )]
    arms: Vec<Arm>,
    /// Workers (HAProxy: threads) of each proxy, all on the one core
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Write the raw rows to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The core of the proxies
    #[arg(long, default_value_t = 0)]
    proxy_core: usize,
    /// The core of the load generator and the upstream
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

/// A scenario, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    One(Scenario),
    All,
}

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::One(Scenario::Keepalive),
            Self::One(Scenario::PerConnection),
            Self::One(Scenario::Bodies),
            Self::All,
        ]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::One(scenario) => scenario.to_possible_value(),
            Self::All => Some(clap::builder::PossibleValue::new("all").help("One after the other")),
        }
    }
}

fn main() -> ExitCode {
    let Command::Peers(peers) = Cli::parse().command;
    match compare(&peers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Peers) -> Result<()> {
    let interrupt = Interrupt::install()?;
    if options.proxy_core == options.load_core {
        bail!("--proxy-core and --load-core must differ: the load would take the proxy's time");
    }
    for program in ["taskset", "wrk", "nginx"] {
        peers::find_program(Path::new(program))
            .context("the load and the upstream need taskset, wrk and nginx")?;
    }
    // Opened now: a path that cannot be written should not be found out minutes later.
    let json = options.json.as_deref().map(create).transpose()?;
    let (arms, skipped) = installed(&options.arms, &options.pointsman);
    if arms.is_empty() {
        bail!("none of the arms can be run");
    }
    machine::pin_self(options.load_core)?;

    let dir = tempfile::Builder::new()
        .prefix("loadtest-")
        // Started by root, workers of nginx give up root's rights and must still get in.
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .context("cannot create a scratch directory")?;
    let site = Site {
        dir: dir.path(),
        pointsman: &options.pointsman,
        workers: options.workers,
        connections: options.connections,
        proxy_core: options.proxy_core,
        load_core: options.load_core,
    };
    let mut ports = Ports::new();
    // Declared after the directory, so that they end before it goes; the upstream last of them.
    let upstream = peers::start_upstream(&site, &mut ports, &interrupt)?;
    let labels = arm::labels(&arms);
    let mut servers: Vec<Server> = Vec::new();
    for (arm, label) in arms.iter().zip(&labels) {
        servers.push(peers::start_proxy(
            arm,
            label,
            &site,
            upstream.port,
            &mut ports,
            &interrupt,
        )?);
    }

    let setup = Setup {
        plan: Plan {
            scenarios: match options.scenario {
                Choice::One(scenario) => vec![scenario],
                Choice::All => Scenario::ALL.to_vec(),
            },
            rounds: options.rounds,
            seconds: options.seconds,
            connections: options.connections,
            proxy_core: options.proxy_core,
            load_core: options.load_core,
        },
        workers: options.workers,
        machine: machine::describe(),
        versions: machine::versions(&arms, &options.pointsman),
        skipped,
    };
    if setup.plan.scenarios.contains(&Scenario::PerConnection) {
        machine::warn_of_few_ports();
    }

    let mut blocks = Vec::new();
    let result = bench::run(
        &setup.plan,
        &mut servers,
        &upstream,
        &interrupt,
        &mut blocks,
    );
    drop(servers);
    drop(upstream);

    let summary = report::summarise(&blocks, &labels);
    if !blocks.is_empty() {
        let mut out = std::io::stdout().lock();
        write!(out, "{}", report::text(&setup, &summary)).context("cannot write the tables")?;
    }
    if let Some((path, file)) = json {
        let document = Document {
            complete: result.is_ok(),
            setup: &setup,
            summary,
            blocks: &blocks,
        };
        write_json(file, &document).with_context(|| format!("cannot write {}", path.display()))?;
    }
    result
}

/// The arms whose program is there, and why the others are left out.
fn installed(arms: &[Arm], pointsman: &Path) -> (Vec<Arm>, Vec<String>) {
    let mut there = Vec::new();
    let mut skipped = Vec::new();
    for arm in arms {
        let found = peers::find_program(match arm {
            Arm::Nginx { .. } => Path::new("nginx"),
            Arm::Haproxy => Path::new("haproxy"),
            Arm::Pointsman { .. } => pointsman,
        });
        match found {
            Ok(_) => there.push(arm.clone()),
            Err(error) => {
                let hint = match arm {
                    Arm::Pointsman { .. } => " (cargo build --release, or --pointsman PATH)",
                    _ => "",
                };
                eprintln!("skipping {arm}: {error}{hint}");
                skipped.push(format!("{arm}: {error}"));
            }
        }
    }
    (there, skipped)
}

fn create(path: &Path) -> Result<(&Path, File)> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok((path, file))
}

fn write_json(file: File, document: &Document<'_>) -> Result<()> {
    let mut out = BufWriter::new(file);
    serde_json::to_writer_pretty(&mut out, document)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["loadtest", "peers"]).expect("all has defaults");
        let Command::Peers(peers) = cli.command;
        assert_eq!(peers.arms.len(), 7);
        assert_eq!(peers.scenario, Choice::All);
    }
}
