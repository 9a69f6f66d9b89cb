//! Pointsman: one master, many workers, every dispatch mode measured.
//!
//! A *pointsman* works the points of a railway yard: every arriving train is sent down the right
//! track. This crate does that with TCP connections. A [`Cluster`] is a master process and its
//! workers, all of them this same program. The master accepts connections, or lets the kernel or the
//! workers accept, and every connection goes to one worker, by a [`Mode`] and a [`Policy`]. Each
//! worker hosts an [`Application`]: the built-in reverse proxy of `pointsman serve`, or your own
//! hyper, tower or axum service.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use pointsman::{Policy, bus::Bus};
//!
//! fn axum_router(bus: Bus) -> Router {
//!     Router::new().route("/", get(async move || match bus.publish("seen", "somebody") {
//!         Ok(()) => "the others know\n",
//!         Err(_) => "nobody knows\n",
//!     }))
//! }
//!
//! fn main() -> pointsman::Result<()> {
//!     pointsman::Cluster::new()
//!         .listen("0.0.0.0:8080")
//!         .workers(4)
//!         .policy(Policy::LeastLoaded)
//!         .serve(|worker| async move { axum_router(worker.bus()) })
//! }
//! ```
//!
//! That is one program, run again for each worker; nothing before [`serve`](Cluster::serve) needs to know in
//! which of them it is. Other ways in: [`Cluster::serve_connections`] for any protocol on TCP,
//! [`Worker::send_connection`] to move a live connection to another worker, [`bus::Bus`] for all that
//! processes have to say to each other. `examples/` has a program for each.
//!
//! The modules stand in floor order: each names only those above it.
//!
//! | floor | what is there |
//! | --- | --- |
//! | `sys` | the only `unsafe`: descriptors through sockets, shared memory, children, accept |
//! | [`dispatch`] | pure rules: modes, policies, the bytes of a hand-over, the kernel's program |
//! | `scoreboard` | the shared table: rows, the claim word, histograms |
//! | `processes` | what a program has used, from `/proc` |
//! | `random` | choices that are the same in every run with the same seed |
//! | `compare` | arms, blocks, what can be said of them, and how it is shown; pure |
//! | `machine` | where a comparison is made |
//! | `load` | the clients of a benchmark, a process of its own |
//! | `config` | what was asked for, validated |
//! | `conn`, `listener`, `small_writes`, `channel` | sockets, and the lines between master and worker |
//! | [`bus`] | how processes talk to each other: the words, and a process's end |
//! | `worker` | a worker process: intake, serve, drain |
//! | `proxy` | the built-in application |
//! | `control` | what may be asked of a running master, and what it answers |
//! | `hub` | the bus's middle, a thread of the master |
//! | `status` | what the master knows beyond the scoreboard |
//! | `metrics` | every metric's name and how it is read |
//! | `master` | the master process: dispatcher, supervisor, admin |
//! | `cluster` | the public door |
//! | `demo` | the demo upstream, a process of its own |
//! | `rig` | a cluster seen from outside |
//! | `drill` | faults on purpose, and what clients saw |
//! | `bench` | arms in turn, under load of our own |
//! | `cli` | the command line |
//!
//! `ARCHITECTURE.md` follows a connection through them.

use std::sync::atomic::AtomicU64;

#[doc(hidden)]
pub mod sys;

pub mod dispatch;

mod error;

#[doc(hidden)]
pub mod scoreboard;

#[doc(hidden)]
pub mod processes;

#[doc(hidden)]
pub mod random;

#[doc(hidden)]
pub mod compare;

#[doc(hidden)]
pub mod machine;

#[doc(hidden)]
pub mod load;

mod config;

mod conn;
mod listener;
mod small_writes;

mod channel;

pub mod bus;

mod worker;

mod proxy;

mod control;

mod hub;

mod status;

mod metrics;

mod master;

mod cluster;

#[doc(hidden)]
pub mod demo;

mod rig;

mod drill;

#[doc(hidden)]
pub mod bench;

#[doc(hidden)]
pub mod cli;

#[doc(hidden)]
pub use self::hub::Workbench as HubWorkbench;

pub use self::{
    cluster::{Cluster, is_worker},
    config::{BusOptions, ConnectionTimeouts},
    dispatch::{
        load::LoadSignal,
        mode::{Arm, Mode},
        policy::{Policy, Prefixes},
    },
    error::{Error, Result},
    master::{Master, Ready, WorkerProcess},
    worker::{
        Application, Conn, Moved, NotMoved, Peer, ReceivedListeners, ServiceFn, Worker, service_fn,
    },
};

/// Tells the operator, on standard error. Never waits, never fails and never panics: a log that is
/// closed, or that nobody reads, must not hold up a process that serves. What does not fit is counted.
fn notice(message: std::fmt::Arguments<'_>) {
    use std::io::Write;
    use std::sync::atomic::Ordering::Relaxed;
    // What a pipe that can be written to takes in one piece, so that lines of several processes do not
    // mix (PIPE_BUF, pipe(7)).
    const ROOM: usize = 4096;
    let mut line = match LINES_DROPPED.swap(0, Relaxed) {
        0 => format!("pointsman: {message}"),
        dropped => format!("pointsman: ({dropped} lines before this were lost) {message}"),
    };
    while line.len() >= ROOM {
        line.pop();
    }
    line.push('\n');
    let written = sys::readiness::is_writable_now(std::io::stderr())
        && std::io::stderr().write_all(line.as_bytes()).is_ok();
    if !written {
        LINES_DROPPED.fetch_add(1, Relaxed);
        ALL_LINES_DROPPED.fetch_add(1, Relaxed);
    }
}

/// Lines that could not be written since the last one that was.
static LINES_DROPPED: AtomicU64 = AtomicU64::new(0);
/// All that could not be written, by this process.
static ALL_LINES_DROPPED: AtomicU64 = AtomicU64::new(0);
