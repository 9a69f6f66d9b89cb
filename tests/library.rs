//! The library's own doors: raw connections, options, hooks, connections moved by hand.
//!
//! This program is all of them: the tests, the masters that they start, and those masters' workers. A test
//! is run by its name: `cargo test --test library -- NAME`.
//!
//! | room | promises about |
//! | --- | --- |
//! | `programs` | (the programs that the tests run) |
//! | `running` | (a program under test) |
//! | `raw` | `serve_connections` in every mode |
//! | `options` | options and hooks |
//! | `moving` | connections and listeners moved by hand |

mod harness;

#[path = "library/moving.rs"]
mod moving;
#[path = "library/options.rs"]
mod options;
#[path = "library/programs.rs"]
mod programs;
#[path = "library/raw.rs"]
mod raw;
#[path = "library/running.rs"]
mod running;

use std::process::ExitCode;

/// Every test, by its name.
const TESTS: &[(&str, fn())] = &[
    ("raw_in_every_mode", raw::in_every_mode),
    ("raw_panic", raw::a_panic_costs_one_connection),
    ("raw_other_tasks", raw::other_tasks_and_threads_count_too),
    ("raw_drain", raw::drain_is_told_and_ends),
    ("raw_killed", raw::what_a_killed_worker_held_is_counted),
    ("moving_works", moving::a_connection_goes_on_elsewhere),
    ("moving_unread", moving::what_nobody_has_read_comes_along),
    ("moving_nobody", moving::who_cannot_be_reached_gives_it_back),
    ("moving_stopped", moving::a_receiver_that_stands_still),
    ("moving_killed", moving::a_receiver_that_is_killed),
    ("moving_forsaken", moving::a_sender_that_does_not_wait),
    ("moving_drained", moving::a_receiver_that_drains),
    ("moving_listener", moving::a_listener_and_its_connections),
    ("moving_http", moving::to_an_application),
    ("moving_master", moving::from_the_master),
    ("options_nodes", options::nodes_count_the_master),
    ("options_refused", options::what_cannot_be_is_refused),
    ("options_hooks", options::hooks_hear_of_starts_and_ends),
    ("options_drain", options::workers_hear_that_they_drain),
    ("options_restart", options::an_empty_seat_stays_empty),
];

fn main() -> ExitCode {
    if let Ok(program) = std::env::var(programs::PROGRAM) {
        return match programs::run(&program) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str())) {
            // A panic ends this program, and its code says so.
            test();
            println!("{name}: ok");
        }
    }
    ExitCode::SUCCESS
}
