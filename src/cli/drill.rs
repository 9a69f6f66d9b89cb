//! `pointsman drill`: faults on purpose, under load, and what the clients saw.

use std::{io::Write, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use crate::{
    Mode,
    config::usable_cores,
    drill::{self, Kind, Modes, Plan, Running},
    error::{Error, Result},
};

/// Prove that no client notices: drive real traffic, kill, stop, restart, reload, upgrade or switch
/// under it, and print how every single request ended.
#[derive(Debug, Args)]
#[command(after_help = "\
Faults:
  kill     SIGKILL to any worker, at any moment; half of them stand still before, with connections
           that they have not claimed. Only what they had claimed may be lost, and all of it must
           be counted.
  stop     SIGSTOP to any worker for half a second. Nobody may be lost, and at most 5 new
           connections may have to wait for it. With --healthy: no fault, but a busy machine.
  restart  All workers are replaced, one after the other.
  reload   The configuration is read again: good ones, and as many broken ones, which must change
           nothing.
  upgrade  The binary is replaced in place by itself; for every two of these one upgrade to a file
           that is no good, which must change nothing.
  switch   Mode and policy change every 100 ms.

Every request ends in one of: right; retried (a kept connection was closed before the answer, and
the request went well over a fresh one); wrong; reset; refused; limbo (nothing within 2 s); void
(limbo, or slow, while a client that asks the drill's own upstream directly waited for more than
0.5 s: the machine was slow, and more than 2 % of those show nothing either way).

Without --control the drill starts a cluster of its own, with an upstream of its own, on free ports
of 127.0.0.1. With --control it is done to the instance that runs there: to real users, if there are
any. Requests are then GET / only, its configuration file is left alone, and whether a request was
served twice cannot be known.

Examples:
  pointsman drill kill
  pointsman drill switch --count 1000 --seed 7
  pointsman drill stop --mode reuseport --json
  pointsman drill restart --control /run/pointsman/control.sock --target 127.0.0.1:8080

Exit codes: 0 every promise was kept, 1 one was broken or the drill was interrupted, 2 wrong usage.")]
pub(super) struct Drill {
    /// What to do to the cluster.
    #[arg(value_enum)]
    fault: Fault,

    /// How often [default: kill 100, stop 20, restart 30, reload 30, upgrade 20, switch 200].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: Option<u64>,

    /// All choices follow from this number [default: a new one each time; it is printed].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// In this mode, or in "all" of them in turn [default: all; with --control the one in force].
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,

    /// Clients that keep their connection; half as many open one for each request, and do not wait
    /// for the answers to earlier ones.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,

    /// Workers of the drill's own cluster [default: 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=32), conflicts_with = "control")]
    workers: Option<u16>,

    /// Do nothing for this long, all modes together, while the machine is busy: no worker may be
    /// taken for stuck. For "stop" only.
    #[arg(long, value_name = "SECONDS", value_parser = super::serve::seconds)]
    healthy: Option<Duration>,

    /// The control socket of a running instance.
    #[arg(long, value_name = "PATH", requires = "target")]
    control: Option<PathBuf>,

    /// Where that instance listens.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "control")]
    target: Option<SocketAddr>,

    /// Print the ledger as one JSON object, every fault included.
    #[arg(long)]
    json: bool,

    /// Write that JSON object to a file too.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Fault {
    Kill,
    Stop,
    Restart,
    Reload,
    Upgrade,
    Switch,
}

impl Drill {
    fn plan(&self) -> Result<Plan> {
        let (kind, usual) = match self.fault {
            Fault::Kill => (Kind::Kill, 100),
            Fault::Stop if self.healthy.is_some() => (Kind::Healthy, 0),
            Fault::Stop => (Kind::Stop, 20),
            Fault::Restart => (Kind::Restart, 30),
            Fault::Reload => (Kind::Reload, 30),
            Fault::Upgrade => (Kind::Upgrade, 20),
            Fault::Switch => (Kind::Switch, 200),
        };
        match (self.healthy, kind, self.count) {
            (Some(_), Kind::Healthy, None) | (None, _, _) => {}
            (Some(_), Kind::Healthy, Some(_)) => {
                return Err(Error::usage(
                    "--healthy makes no fault, so there is nothing to --count: leave one of them out",
                ));
            }
            (Some(_), _, _) => {
                return Err(Error::usage(format!(
                    "--healthy is for the drill 'stop', not '{}'",
                    kind.name()
                )));
            }
        }
        let running = match (&self.control, self.target) {
            (Some(control), Some(target)) => Some(Running {
                control: control.clone(),
                target,
            }),
            _ => None,
        };
        let modes = match (self.mode.as_deref(), &running) {
            (None, Some(_)) => Modes::AsItIs,
            (None | Some("all"), _) => Modes::All,
            (Some(name), _) => {
                let mode = name.parse::<Mode>();
                Modes::One(mode.map_err(|error| Error::usage(format!("{error}, or all")))?)
            }
        };
        Ok(Plan {
            kind,
            count: self.count.map_or(usual, |count| count as usize),
            seed: self.seed.unwrap_or_else(any_seed),
            modes,
            clients: self.clients as usize,
            workers: self.workers.unwrap_or(4),
            healthy: self.healthy.unwrap_or_default(),
            running,
        })
    }

    pub(super) fn run(self) -> Result<()> {
        let plan = self.plan()?;
        let name = plan.kind.name();
        crate::notice(format_args!(
            "drill {name}: seed {}, on {} cores",
            plan.seed,
            usable_cores()
        ));
        let report = drill::run(&plan)?;
        let text = if self.json {
            report.json(false) + "\n"
        } else {
            report.table()
        };
        // A closed pipe changes nothing about the verdict.
        let _ = std::io::stdout().write_all(text.as_bytes());
        if let Some(path) = &self.save {
            std::fs::write(path, report.json(true) + "\n").map_err(|error| {
                Error::runtime(format!("cannot write {}", path.display()), error)
            })?;
        }
        let Some(verdict) = report.verdict() else {
            return Ok(());
        };
        for line in report.log() {
            crate::notice(format_args!("cluster: {line}"));
        }
        Err(Error::failed(format!("drill {name}: {verdict}")))
    }
}

/// Another one each time, and short enough to be typed again.
pub(super) fn any_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| u64::from(now.subsec_nanos()) % 1_000_000)
}
