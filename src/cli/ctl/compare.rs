//! `pointsman ctl compare`: has a running master compare modes on its traffic, and shows what came of it.

use std::{path::Path, pin::pin, time::Duration};

use clap::{Args, Subcommand};
use tokio::signal::ctrl_c;

use super::print;
use crate::{
    Arm,
    cli::duration::duration,
    compare::{Report, report},
    control::{ComparePlan, Line, Verb, client},
    error::{Error, Result},
};

/// Compare modes and policies on the traffic that there is: each in turn, in short blocks, several rounds.
/// No connection is lost, and at the end the mode that was there is back.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Each round visits every arm once, in an order that changes. The base runs twice in each round: what the \
two differ by is noise, and the verdicts allow for it.

It ends early, with the old mode back at once, when clients fare worse than --max-error-rate or \
--max-p99 allow (exit code 1), on Ctrl-C or when this process goes away (not with --no-wait), and on \
'compare stop'. Until then the master refuses what else would change it, but for 'stop'.

A mode dispatches connections, and those that are kept open outlast a block: the share of requests \
that came over an arm's own connections is told. Short-lived connections tell most; for others there is \
--renew.

Examples:
  pointsman ctl compare
  pointsman ctl compare --arms handoff/least-loaded,shared,reuseport --block 30s --rounds 20
  pointsman ctl --no-wait compare --block 2m
  pointsman ctl compare show
  pointsman ctl --json compare show | jq .summary.recommendation"
)]
pub(super) struct Compare {
    /// What to compare, the base first: handoff/least-loaded, hybrid/round-robin, shared, reuseport …
    /// [default: what is in force, then everything else].
    #[arg(long, value_name = "ARM,ARM…", value_delimiter = ',')]
    arms: Vec<Arm>,

    /// How long each is in force at a time. The first tenth, up to a second, is not measured.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    block: Duration,

    /// How often each has its turn. With fewer than 5 little can be said.
    #[arg(long, value_name = "N", default_value_t = 12)]
    rounds: u32,

    /// End it when more than this share of the requests in a block fails, beyond what has lately failed with
    /// the base, and chance cannot explain it. 1: never.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    max_error_rate: f64,

    /// End it when the latency that one request in a hundred exceeds is, for more than a moment, more than this
    /// many times the base's and 5 ms above it, and chance cannot explain it.
    #[arg(long, value_name = "TIMES", default_value_t = 2.0)]
    max_p99: f64,

    /// Ask clients to connect anew at the beginning of each block, so that the mode under test also
    /// dispatches those that keep their connections: each open connection is closed after its next
    /// answer, which says so. Costs clients a connection for each block.
    #[arg(long)]
    renew: bool,

    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show what the last comparison said, or what is known so far of the one that goes on.
    Show,
    /// End the comparison that goes on. The mode that was there before is back when this returns.
    Stop,
}

impl Compare {
    /// What the master is to do; `None`: it is only asked.
    ///
    /// # Errors
    /// What was asked for makes no sense.
    pub(super) fn verb(&self) -> Result<Option<Verb>> {
        match self.what {
            Some(What::Show) => Ok(None),
            Some(What::Stop) => Ok(Some(Verb::CompareStop)),
            None => {
                let plan = ComparePlan {
                    arms: self.arms.iter().map(ToString::to_string).collect(),
                    block_ms: self.block.as_millis() as u64,
                    rounds: self.rounds,
                    max_error_rate: self.max_error_rate,
                    max_p99: self.max_p99,
                    renew: self.renew,
                    unattended: false,
                };
                // The master would say so too, but that it is wrong is certain here.
                plan.check()?;
                Ok(Some(Verb::Compare(plan)))
            }
        }
    }
}

/// Shows the last comparison.
pub(super) async fn show(path: &Path, as_json: bool) -> Result<()> {
    print(&shown(&client::comparison(path).await?, as_json)?)
}

fn shown(report: &Report, as_json: bool) -> Result<String> {
    if as_json {
        // On one line: with a line for every bucket of every histogram nobody could read it.
        serde_json::to_string(report)
            .map(|text| text + "\n")
            .map_err(|error| Error::failed(format!("cannot show the comparison as JSON: {error}")))
    } else {
        Ok(report::table(report))
    }
}

/// Has the master do what `verb` says, which is a comparison, and shows what came of it, even if that was
/// ended before its time.
pub(super) async fn run(path: &Path, verb: &Verb, as_json: bool) -> Result<()> {
    let mut begun = false;
    let outcome = until_over(path, verb, |line| {
        if let Line::Progress { text } = line {
            begun = true;
            crate::notice(format_args!("{text}"));
        }
    })
    .await;
    // What was refused has left the last one's report where it was.
    if begun {
        match client::comparison(path).await {
            Ok(report) => print(&shown(&report, as_json)?)?,
            Err(error) if outcome.is_ok() => return Err(error),
            Err(_) => {}
        }
    }
    let text = outcome?;
    crate::notice(format_args!("{text}"));
    Ok(())
}

/// Waits until the comparison is over. Ctrl-C ends it, and what is known is shown; the second one does not
/// wait for that.
async fn until_over(path: &Path, verb: &Verb, on_line: impl FnMut(&Line)) -> Result<String> {
    let mut asked = pin!(client::ask(path, verb, on_line));
    tokio::select! {
        outcome = &mut asked => return outcome,
        _ = ctrl_c() => {}
    }
    crate::notice(format_args!(
        "ending it: the mode that was there is put back"
    ));
    let ended = async {
        // That there is nothing to end any more is no fault.
        let _ = client::ask(path, &Verb::CompareStop, |_| ()).await;
        asked.await
    };
    tokio::select! {
        outcome = ended => outcome,
        _ = ctrl_c() => Err(Error::failed(
            "not waited for: 'pointsman ctl status' tells whether the mode is back",
        )),
    }
}
