//! Pointsman against its peers, and against itself, by the method of `pointsman bench`.
//!
//! All proxies run at once; blocks of load go to one after the other, round by round. See `README.md`, and
//! `METHODOLOGY.md` at the root.

mod arm;
mod bus;
mod drills;
mod field;
mod guard;
mod launch;
mod machine;
mod peers;
mod ports;
mod probe;
mod programs;
mod progress;
mod relay;
mod rundir;
mod site;
mod splice;
mod table;
mod upstream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Pointsman against its peers.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Peers(Box<peers::Peers>),
    Bus(bus::Bus),
    Splice(splice::Splice),
    #[command(hide = true)]
    Upstream(upstream::Upstream),
    #[command(hide = true)]
    Relay(relay::Relay),
    #[command(hide = true)]
    BusCluster(bus::BusCluster),
    #[command(hide = true)]
    BusNats(bus::NatsActor),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Peers(peers) => peers.run(),
        Command::Bus(bus) => bus.run(),
        Command::Splice(splice) => splice.run(),
        Command::Upstream(upstream) => upstream.run(),
        Command::Relay(relay) => relay.run(),
        Command::BusCluster(cluster) => cluster.run(),
        Command::BusNats(actor) => actor.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_all_has_defaults() {
        Cli::command().debug_assert();
        Cli::try_parse_from(["loadtest", "peers"]).expect("all has defaults");
    }
}
