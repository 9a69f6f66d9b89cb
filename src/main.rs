//! The door: what was asked for, and the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pointsman::cli::run()
}
