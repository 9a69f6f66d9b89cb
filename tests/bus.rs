//! What the bus promises, with real processes. This program is all of them: the test, the masters that it
//! starts, and their workers, which do what they are told (`program`).
//!
//! | room | promises about |
//! | --- | --- |
//! | `addressing` | who gets what is addressed to whom, in a tree of trees |
//! | `hostile` | what a worker can do that says what none would |
//! | `slow` | who does not keep up, and everybody else |
//! | `streams` | streams of bytes between two workers |
//! | `life` | births, deaths, restarts, upgrades and hangs, as the bus sees them |

mod harness;

#[path = "bus/addressing.rs"]
mod addressing;
#[path = "bus/cluster.rs"]
mod cluster;
#[path = "bus/hostile.rs"]
mod hostile;
#[path = "bus/life.rs"]
mod life;
#[path = "bus/program.rs"]
mod program;
#[path = "bus/runner.rs"]
mod runner;
#[path = "bus/slow.rs"]
mod slow;
#[path = "bus/streams.rs"]
mod streams;

use std::process::ExitCode;

fn main() -> ExitCode {
    if program::is_asked_for() {
        return program::run();
    }
    runner::run(&[
        ("addressing", addressing::TESTS),
        ("hostile", hostile::TESTS),
        ("life", life::TESTS),
        ("slow", slow::TESTS),
        ("streams", streams::TESTS),
    ])
}
