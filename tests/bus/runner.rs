//! Runs tests one after the other, as `cargo test` would: it cannot be used by a program that is run
//! again for each worker.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

/// A test and its name.
pub type Test = (&'static str, fn());

/// Runs those whose names hold one of the words of the command line, or all.
pub fn run(rooms: &[(&str, &[Test])]) -> ExitCode {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let tests = rooms.iter().flat_map(|(room, tests)| {
        let named = tests.iter();
        named.map(move |(name, test)| (format!("{room}::{name}"), *test))
    });
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in tests.filter(|(name, _)| wanted(name)) {
        let outcome = catch_unwind(AssertUnwindSafe(test));
        println!(
            "test {name} ... {}",
            if outcome.is_ok() { "ok" } else { "FAILED" }
        );
        match outcome {
            Ok(()) => passed += 1,
            Err(_) => failed.push(name),
        }
    }
    println!("\n{passed} passed; {} failed {failed:?}", failed.len());
    if failed.is_empty() && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
