//! What the bus promises, with real processes. This program is all of them: the test, the masters that it
//! starts, and their workers, which do what they are told (`program`).
//!
//! | room | promises about |
//! | --- | --- |
//! | `life` | births, deaths, restarts, upgrades and hangs, as the bus sees them |

mod harness;

#[path = "bus/cluster.rs"]
mod cluster;
#[path = "bus/life.rs"]
mod life;
#[path = "bus/program.rs"]
mod program;
#[path = "bus/runner.rs"]
mod runner;

use std::process::ExitCode;

fn main() -> ExitCode {
    if program::is_asked_for() {
        return program::run();
    }
    runner::run(&[("life", life::TESTS)])
}
