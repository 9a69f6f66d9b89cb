//! `pointsman top`: a running master at a glance, in a terminal.
//!
//! `source` asks the master, `model` makes rates of two answers in a row, `view` knows what keys have
//! changed, `draw` makes the picture of both, and `screen` is the terminal in which that happens.

mod draw;
#[cfg(test)]
mod frames;
mod grid;
mod model;
mod screen;
mod source;
mod tables;
mod text;
mod view;

use std::{
    env,
    io::{self, ErrorKind, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use self::{model::Model, source::Source, view::View};
use crate::{
    cli::duration::or_seconds,
    error::{Error, Result},
};

/// Width of a page that goes nowhere in particular.
const PAGE_WIDTH: u16 = 100;

/// Watch a running master in the terminal: rates, latency, workers, every mode and policy so far.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --control and --admin the master is found by itself, as `pointsman ctl` finds it.
An admin interface may be on another machine; a control socket is for the master's own user.

Errors are answers with 5xx, and requests whose client went away before there was one. A request counts \
to the arm that brought its connection: where clients keep theirs, an earlier arm goes on counting, and \
looks better than it was.

Keys: s < > 0-9 sort the workers   r reverse   p pause   + - interval   ? help   q quit

Examples:
  pointsman top
  pointsman top --interval 500ms
  pointsman top --admin http://127.0.0.1:9900
  pointsman top --once | grep hung

The variable NO_COLOR does without colours.

Exit codes: 0 left as asked, 1 it failed, 2 wrong usage, 3 there is no master.")]
pub(super) struct Top {
    /// The master's control socket [default: $POINTSMAN_CONTROL, or the only one that answers].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// Ask an admin interface instead.
    #[arg(long, value_name = "URL", conflicts_with = "control")]
    admin: Option<String>,

    /// Between two looks: 1s, 500ms; rates are of this time.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// Print one page of plain text, of one interval, and end. Needs no terminal.
    #[arg(long)]
    once: bool,
}

impl Top {
    pub(super) fn run(self) -> Result<()> {
        let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        if !self.once && !terminal {
            return Err(Error::usage(
                "top needs a terminal to draw on and read keys from; --once prints one page anywhere",
            ));
        }
        let source = Source::choose(self.control, self.admin.as_deref())?;
        let colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let view = View::new(self.interval, colour);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::runtime("cannot start a runtime", error))?;
        runtime.block_on(async {
            if self.once {
                once(source, view).await
            } else {
                screen::show(source, view).await
            }
        })
    }
}

async fn once(mut source: Source, view: View) -> Result<()> {
    let mut model = Model::default();
    model.hear(source.ask().await?);
    tokio::time::sleep(view.interval).await;
    model.hear(source.ask().await?);
    let width = match ratatui::crossterm::terminal::size() {
        Ok((width, _)) if io::stdout().is_terminal() => width,
        _ => PAGE_WIDTH,
    };
    let view = View {
        plain: true,
        ..view
    };
    let page = draw::page(&model, &view, width);
    let mut out = io::stdout().lock();
    match out.write_all(page.as_bytes()).and_then(|()| out.flush()) {
        // Nobody reads it to the end (`top --once | head -1`).
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::runtime("cannot write the page", error))
        }
        _ => Ok(()),
    }
}

/// `1s`, `500ms`, `2`: seconds, unless it says otherwise.
fn interval(text: &str) -> std::result::Result<Duration, String> {
    or_seconds(text)
        .ok()
        .filter(|time| (0.1..=3600.0).contains(&time.as_secs_f64()))
        .ok_or_else(|| "a time from 100ms to 3600s".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_a_unit_and_bounds() {
        for (text, ms) in [
            ("1s", 1000),
            ("500ms", 500),
            ("2", 2000),
            ("0.1", 100),
            ("1 s", 1000),
        ] {
            assert_eq!(interval(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "0", "99ms", "3601", "-1", "2h", "NaN", "inf"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
