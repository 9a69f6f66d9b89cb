//! No fault at all: the machine is busy with other things, and workers that get little of it must
//! not be taken for stuck.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{Findings, Site};
use crate::error::{Error, Result};

/// Each core is kept busy for this much …
const BUSY: Duration = Duration::from_millis(9);
/// … and then left alone for this much.
const REST: Duration = Duration::from_millis(1);

pub(super) async fn inject(_: &mut Site<'_>, time: Duration) -> Result<Findings> {
    let hogs = Hogs::start()?;
    sleep(time).await;
    drop(hogs);
    let seconds = time.as_secs_f64();
    Ok(Findings::of(format!(
        "{seconds:.1} s beside a hog on each core"
    )))
}

/// A thread for each core that keeps it busy. Dropping it ends them.
struct Hogs {
    enough: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Hogs {
    fn start() -> Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut hogs = Self {
            enough: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..cores {
            let enough = hogs.enough.clone();
            let hog = move || {
                while !enough.load(Relaxed) {
                    let begun = Instant::now();
                    while begun.elapsed() < BUSY {
                        std::hint::spin_loop();
                    }
                    thread::sleep(REST);
                }
            };
            let thread = thread::Builder::new()
                .name("hog".into())
                .spawn(hog)
                .map_err(|error| Error::runtime("cannot start a thread", error))?;
            hogs.threads.push(thread);
        }
        Ok(hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.enough.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
