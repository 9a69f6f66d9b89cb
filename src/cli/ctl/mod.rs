//! `pointsman ctl`: asks a running master, and tells it what to do.

mod bus;
mod compare;
mod explain;
pub(super) mod show;

use std::{
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    Arm, Mode, Policy,
    control::{Line, Verb, client},
    dispatch::decision::KEPT,
    error::{Error, Result},
    scoreboard::MAX_WORKERS,
};

/// Ask a running master how it is, or tell it what to do, over its control socket.
#[derive(Debug, Args)]
#[command(after_help = "\
The master is found by itself if only one of yours is running. Otherwise --control or the variable
POINTSMAN_CONTROL names its socket. A master has it where `serve --control` says, or as PID.sock in
$RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/pointsman, /tmp/pointsman-UID or /run/pointsman.
Only the master's own user and root may use it.

What takes time is waited for; how far it is goes to standard error, the result to standard output.

Signals to the master do the same:
  SIGHUP                    reload
  SIGUSR2                   upgrade
  SIGTERM, SIGQUIT, SIGINT  stop; a second one is faster

Examples:
  pointsman ctl status
  pointsman ctl workers
  pointsman ctl workers set 8
  pointsman ctl mode hybrid round-robin
  pointsman ctl drain 2
  pointsman ctl explain --last 1
  pointsman ctl upgrade /usr/local/bin/pointsman
  pointsman ctl compare --block 10s --rounds 12
  pointsman ctl bus subscribe 'room.>'
  pointsman ctl --json status | jq .connections_open
  pointsman ctl --control /run/pointsman/control.sock stop

Exit codes: 0 it worked, 1 it failed or was refused, 2 wrong usage, 3 there is no master.")]
pub(super) struct Ctl {
    /// The master's control socket [default: $POINTSMAN_CONTROL, or the only one that answers].
    #[arg(long, global = true, value_name = "PATH")]
    control: Option<PathBuf>,

    /// Print what the master says as JSON: a report, or one line for each step.
    #[arg(long, global = true)]
    json: bool,

    /// Do not wait until it is done.
    #[arg(long, global = true)]
    no_wait: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show how the master is, where it listens and what it does.
    Status,
    /// Show the workers, or change their number.
    Workers {
        #[command(subcommand)]
        change: Option<Change>,
    },
    /// Show to which workers the last connections went, and why.
    Explain {
        /// How many; 1 shows every worker that could have been chosen.
        #[arg(
            long,
            value_name = "N",
            default_value = "10",
            value_parser = clap::value_parser!(u16).range(1..=KEPT as i64)
        )]
        last: u16,
    },
    /// Dispatch in another mode from now on. No connection is lost.
    Mode {
        /// handoff, hybrid, shared or reuseport.
        mode: Mode,
        /// round-robin, least-loaded or remote-address [default: least-loaded, in handoff and hybrid;
        /// the other modes take none].
        policy: Option<Policy>,
    },
    /// Give a worker nothing new, let it finish, and fill its seat again.
    Drain {
        /// Its seat, as `workers` shows it.
        #[arg(value_parser = clap::value_parser!(u16).range(..MAX_WORKERS as i64))]
        worker: u16,
    },
    /// Replace all workers one after the other, each successor ready before its predecessor drains.
    Restart,
    /// Read the configuration again; if anything in it is wrong, change nothing.
    Reload,
    /// Become another binary in place: same process id, no connection lost. A binary that does not
    /// start with the present configuration changes nothing.
    Upgrade {
        /// The binary [default: the one at the path from which this master was started].
        path: Option<PathBuf>,
    },
    /// Accept nothing for now: connections wait in the kernel.
    Pause,
    /// Accept again.
    Resume,
    /// Finish what is open, then end; done when the process is gone.
    Stop,
    Compare(compare::Compare),
    Bus(bus::Bus),
    /// Show what the last comparison said: the same as `compare show`.
    Comparison,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Run this many workers.
    Set {
        /// 1 to 128, and no more than --max-workers, if that was given.
        #[arg(value_parser = clap::value_parser!(u16).range(1..=MAX_WORKERS as i64))]
        count: u16,
    },
}

impl Ctl {
    pub(super) fn run(self) -> Result<()> {
        let verb = self.command.verb()?;
        if let Command::Bus(bus) = &self.command {
            // Here too, before anybody is looked for.
            bus.check()?;
        }
        if self.no_wait && verb.is_none() {
            return Err(Error::usage(
                "--no-wait: there is nothing to wait for, or nothing but that; leave it out",
            ));
        }
        let path = match self.control {
            Some(path) => path,
            None => client::find()?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::runtime("cannot start a runtime", error))?;
        runtime.block_on(async {
            match (verb, self.command) {
                (Some(verb @ Verb::Compare(_)), _) if !self.no_wait => {
                    compare::run(&path, &verb, self.json).await
                }
                (None, Command::Compare(_) | Command::Comparison) => {
                    compare::show(&path, self.json).await
                }
                (None, Command::Bus(bus)) => bus.run(path, self.json).await,
                (Some(verb), _) => tell(&path, &verb, self.json, self.no_wait).await,
                (None, Command::Workers { .. }) => {
                    let report = client::workers(&path).await?;
                    print(&if self.json {
                        json(&report)?
                    } else {
                        show::workers(&report)
                    })
                }
                (None, Command::Explain { last }) => {
                    let report = client::decisions(&path, last.into()).await?;
                    print(&if self.json {
                        json(&report)?
                    } else {
                        explain::decisions(&report)
                    })
                }
                (None, _) => {
                    let report = client::status(&path).await?;
                    print(&if self.json {
                        json(&report)?
                    } else {
                        show::status(&report)
                    })
                }
            }
        })
    }
}

impl Command {
    /// What the master is to do; `None` where it is only asked.
    fn verb(&self) -> Result<Option<Verb>> {
        Ok(Some(match self {
            Self::Status
            | Self::Workers { change: None }
            | Self::Explain { .. }
            | Self::Comparison
            | Self::Bus(_) => return Ok(None),
            Self::Workers {
                change: Some(Change::Set { count }),
            } => Verb::Workers { count: *count },
            Self::Mode { mode, policy } => {
                // The master would say so too, but that it is wrong is certain here.
                Arm::new(*mode, *policy).map_err(|error| Error::usage(error.to_string()))?;
                Verb::Mode {
                    mode: *mode,
                    policy: *policy,
                }
            }
            Self::Drain { worker } => Verb::Drain { worker: *worker },
            Self::Restart => Verb::Restart,
            Self::Reload => Verb::Reload,
            Self::Upgrade { path } => Verb::Upgrade {
                path: path.as_deref().map(absolute).transpose()?,
            },
            Self::Pause => Verb::Pause,
            Self::Resume => Verb::Resume,
            Self::Stop => Verb::Stop,
            Self::Compare(compare) => return compare.verb(),
        }))
    }
}

/// The master's working directory is another.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Error::runtime(format!("where is {}", path.display()), error))
}

async fn tell(path: &Path, verb: &Verb, as_json: bool, no_wait: bool) -> Result<()> {
    if no_wait {
        let text = client::begin(path, verb).await?;
        return print(&if as_json {
            json_line(&Line::Done { text })
        } else {
            text + "\n"
        });
    }
    // What was begun goes on even if nobody reads about it; that is told in the end.
    let mut printed = Ok(());
    let done = client::ask(path, verb, |line| match line {
        line if as_json => {
            if printed.is_ok() {
                printed = print(&json_line(line));
            }
        }
        Line::Progress { text } => crate::notice(format_args!("{text}")),
        Line::Done { .. } | Line::Failed { .. } => {}
    })
    .await?;
    if as_json {
        printed
    } else {
        print(&(done + "\n"))
    }
}

fn json(report: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(report)
        .map(|text| text + "\n")
        .map_err(|error| Error::failed(format!("cannot show the report as JSON: {error}")))
}

fn json_line(line: &Line) -> String {
    serde_json::to_string(line).expect("text and truth values only") + "\n"
}

/// Writes a result. That nobody reads it to the end is the reader's affair (`ctl status | head -1`).
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::runtime("cannot write the result", error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::control::ComparePlan;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        ctl: Ctl,
    }

    fn parse(line: &str) -> std::result::Result<Ctl, String> {
        Arguments::try_parse_from(line.split(' '))
            .map(|arguments| arguments.ctl)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_command_becomes_its_verb() {
        let verb = |line: &str| {
            let ctl = parse(line).expect(line);
            ctl.command.verb().expect(line)
        };
        assert_eq!(verb("ctl status"), None);
        assert_eq!(verb("ctl workers"), None);
        assert_eq!(verb("ctl explain --last 256"), None);
        assert_eq!(verb("ctl workers set 3"), Some(Verb::Workers { count: 3 }));
        assert_eq!(
            verb("ctl mode hybrid round-robin"),
            Some(Verb::Mode {
                mode: Mode::Hybrid,
                policy: Some(Policy::RoundRobin)
            })
        );
        assert_eq!(verb("ctl drain 0"), Some(Verb::Drain { worker: 0 }));
        assert_eq!(
            verb("ctl upgrade /new"),
            Some(Verb::Upgrade {
                path: Some("/new".into())
            })
        );
        let Some(Verb::Upgrade { path: Some(path) }) = verb("ctl upgrade new") else {
            panic!("an upgrade");
        };
        assert!(path.is_absolute());
        for (line, expected) in [
            ("ctl upgrade", Verb::Upgrade { path: None }),
            ("ctl restart", Verb::Restart),
            ("ctl reload", Verb::Reload),
            ("ctl pause", Verb::Pause),
            ("ctl resume", Verb::Resume),
            ("ctl stop", Verb::Stop),
            ("ctl compare", Verb::Compare(ComparePlan::default())),
            ("ctl compare stop", Verb::CompareStop),
        ] {
            assert_eq!(verb(line), Some(expected));
        }
        assert_eq!(verb("ctl compare show"), None);
        assert_eq!(verb("ctl comparison"), None);
        let line = "ctl compare --arms shared,hybrid --block 250ms --rounds 3 --max-error-rate 0.5 --max-p99 9 --renew";
        let plan = ComparePlan {
            arms: vec!["shared".into(), "hybrid/least-loaded".into()],
            block_ms: 250,
            rounds: 3,
            max_error_rate: 0.5,
            max_p99: 9.0,
            renew: true,
            unattended: false,
        };
        assert_eq!(verb(line), Some(Verb::Compare(plan)));
    }

    #[test]
    fn flags_may_stand_before_and_behind() {
        for line in [
            "ctl --json --control /x --no-wait stop",
            "ctl stop --json --control /x --no-wait",
        ] {
            let ctl = parse(line).expect(line);
            assert!(
                ctl.json && ctl.no_wait && ctl.control.is_some_and(|path| path == Path::new("/x"))
            );
        }
    }

    #[test]
    fn nonsense_is_refused_before_anybody_is_asked() {
        for (line, why) in [
            ("ctl", "Usage"),
            ("ctl fly", "fly"),
            ("ctl workers set 0", "1..=128"),
            ("ctl workers set 129", "1..=128"),
            ("ctl drain 128", "128"),
            ("ctl explain --last 0", "1..=256"),
            ("ctl explain --last 257", "1..=256"),
            ("ctl mode fast", "known: handoff"),
            ("ctl mode hybrid fast", "known: round-robin"),
            ("ctl compare --arms shared,fast", "known: handoff"),
            ("ctl compare --arms reuseport/round-robin", "unknown arm"),
            ("ctl compare --block 10", "unit"),
            ("ctl compare --rounds many", "invalid"),
            ("ctl compare --rounds 3 stop", "cannot be used with"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
        let ctl = parse("ctl mode shared round-robin").expect("two names");
        assert!(ctl.command.verb().expect_err("no say").is_usage());
        for line in [
            "ctl compare --block 1ms",
            "ctl compare --rounds 0",
            "ctl compare --max-error-rate 7",
            "ctl compare --max-p99 0.5",
            "ctl compare --arms shared,shared",
        ] {
            let ctl = parse(line).expect(line);
            assert!(ctl.command.verb().expect_err(line).is_usage());
        }
        let ctl = parse("ctl --no-wait status").expect("words");
        assert!(ctl.run().expect_err("nothing to wait for").is_usage());
    }
}
