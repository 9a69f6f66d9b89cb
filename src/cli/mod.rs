//! The command line: one file for each subcommand.

mod bench;
mod check;
mod ctl;
mod demo;
mod drill;
mod file;
mod load;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;

/// A reverse-proxy load balancer that hands every connection to one of several worker processes, by
/// a mode and a policy of your choice, and measures each of them on your traffic.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, max_term_width = 100)]
#[command(after_help = "\
Try it, with nothing to install or configure:
  pointsman serve --demo

Exit codes: 0 stopped as asked, 1 something failed while running, 2 wrong usage,
3 (of ctl) there is no master to talk to.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Given>),
    Check(Box<check::Check>),
    Bench(Box<bench::Bench>),
    Ctl(ctl::Ctl),
    Drill(Box<drill::Drill>),
    DemoUpstream(demo::DemoUpstream),
    #[command(hide = true)]
    Load(load::Load),
}

/// Does what the command line says. The exit code tells wrong usage (2) from failure (1).
pub fn run() -> ExitCode {
    match dispatch(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::notice(format_args!("{error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Serve(given) => serve::run(*given),
        Command::Check(check) => check.run(),
        Command::Bench(bench) => bench.run(),
        Command::Ctl(ctl) => ctl.run(),
        Command::Drill(drill) => drill.run(),
        Command::DemoUpstream(demo) => demo.run(),
        Command::Load(load) => load.run(),
    }
}
