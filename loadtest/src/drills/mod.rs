//! What clients see when a part of a proxy fails: one worker is killed, or stands still for a while.

mod clients;
mod record;

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman::processes;
use tokio::time::{Instant, sleep, sleep_until};

use self::clients::Traffic;
pub(crate) use self::record::{Drills, Fault, Record, Times};
use crate::arm::Arm;
use crate::ports::Ports;
use crate::site::{Server, Site};
use crate::upstream::alone;

/// Requests a second: nobody is busy with these.
const RATE: f64 = 400.0;
/// Before the fault.
const LEAD: Duration = Duration::from_secs(1);
/// After the fault, or its end.
const TAIL: Duration = Duration::from_secs(3);
/// How long a stopped worker stands still.
pub(crate) const STOP: Duration = Duration::from_secs(3);
/// How long clients wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(5);
/// Starting and ending a server.
const AROUND: Duration = Duration::from_millis(700);

/// Workers of each proxy: when one fails, the other is there.
pub(crate) const WORKERS: u32 = 2;

/// About how long drills of so many arms take.
pub(crate) fn time(arms: usize, repeats: u32) -> Duration {
    let kill = LEAD + TAIL + AROUND;
    (kill + kill + STOP) * repeats * u32::try_from(arms).unwrap_or(u32::MAX)
}

/// The arms that drills are for: those with parts that can fail, each once.
pub(crate) fn subjects(arms: &[Arm]) -> Vec<Arm> {
    let has_parts = |arm: &&Arm| arm.is_http_proxy() && **arm != Arm::Nginx { tuned: true };
    arms.iter().filter(has_parts).copied().collect()
}

/// Runs the drills, each `repeats` times on a proxy that was started for it. `tell` hears of each before
/// it begins, with what is left to do. What was seen by the time that something fails is in `drills`.
pub(crate) fn run(
    site: &Site<'_>,
    arms: &[Arm],
    repeats: u32,
    drills: &mut Option<Drills>,
    mut tell: impl FnMut(&str, Duration),
) -> Result<()> {
    let all = time(arms.len(), repeats);
    let mut done = Duration::ZERO;
    // One repetition of everything after the other: a slow phase of the machine hits all alike.
    for turn in 0..repeats {
        for arm in arms.iter().copied() {
            for fault in [Fault::Kill, Fault::Stop] {
                site.interrupt.check()?;
                tell(
                    &format!("{arm}: {}", fault.words()),
                    all.saturating_sub(done),
                );
                let dir = site.dir.join(format!("drill-{turn}-{}", fault.name()));
                if !dir.exists() {
                    std::fs::create_dir(&dir)
                        .with_context(|| format!("cannot create {}", dir.display()))?;
                }
                let record = drill(site, &dir, arm, fault)
                    .with_context(|| format!("drill of {arm}, {}", fault.words()))?;
                let drills = drills.get_or_insert_with(|| Drills {
                    workers: WORKERS,
                    rate: RATE,
                    stopped_for: STOP.as_secs_f64(),
                    watched_for: TAIL.as_secs_f64(),
                    records: Vec::new(),
                });
                drills.records.push(record);
                done += time(1, 1) / 2;
            }
        }
    }
    Ok(())
}

/// One drill, on a proxy of its own.
fn drill(site: &Site<'_>, dir: &Path, arm: Arm, fault: Fault) -> Result<Record> {
    let label = arm.to_string();
    let home = dir.join(label.replace(':', "_"));
    std::fs::create_dir(&home).with_context(|| format!("cannot create {}", home.display()))?;
    let site = Site {
        dir: &home,
        workers: WORKERS,
        ..*site
    };
    let mut ports = Ports::new();
    let upstream = site.start_upstream(&mut ports)?;
    let server = site.start(arm, &label, &upstream, &mut ports)?;
    let mut record = None;
    alone(async {
        let interrupt = site.interrupt;
        tokio::select! {
            biased;
            watched = watch(&server, arm, fault) => record = Some(watched?),
            () = interrupt.wait() => interrupt.check()?,
        }
        Ok(())
    })?;
    record.context("a drill without a record")
}

/// Clients, and the fault in the midst of them.
async fn watch(server: &Server, arm: Arm, fault: Fault) -> Result<Record> {
    let duration = match fault {
        Fault::Kill => LEAD + TAIL,
        Fault::Stop => LEAD + STOP + TAIL,
    };
    let traffic = Traffic {
        port: server.port,
        rate: RATE,
        duration,
        patience: PATIENCE,
    };
    let began = Instant::now();
    let clients = tokio::task::spawn_local(traffic.run(began));
    sleep_until(began + LEAD).await;
    let Victim { pid: victim, whole } = victim(server.pid)?;
    let before = pids(server.pid);
    let struck = began.elapsed();
    let replaced = match fault {
        Fault::Kill => {
            signal(victim, Signal::SIGKILL)?;
            successor(server.pid, victim, &before, began + duration).await
        }
        Fault::Stop => {
            signal(victim, Signal::SIGSTOP)?;
            sleep(STOP).await;
            signal(victim, Signal::SIGCONT)?;
            None
        }
    };
    let ledger = clients.await.context("the clients")??;
    let times = Times {
        struck,
        replaced: replaced.map(|at| at.duration_since(began)),
        ended: duration,
    };
    Ok(Record::of(arm, fault, &times, whole, &ledger))
}

/// Who is to fail.
struct Victim {
    pid: i32,
    /// There is nobody else who serves.
    whole: bool,
}

/// The first worker process, or the only process there is.
fn victim(root: i32) -> Result<Victim> {
    let tree = processes::tree(root).context("the proxy's processes")?;
    let workers = || tree.iter().filter(|process| process.parent == root);
    Ok(Victim {
        pid: workers().map(|process| process.pid).min().unwrap_or(root),
        whole: workers().count() <= 1,
    })
}

fn pids(root: i32) -> HashSet<i32> {
    let tree = processes::tree(root).unwrap_or_default();
    tree.iter().map(|process| process.pid).collect()
}

/// Waits for a process that was not there before, until `deadline`.
async fn successor(
    root: i32,
    victim: i32,
    before: &HashSet<i32>,
    deadline: Instant,
) -> Option<Instant> {
    while victim != root && Instant::now() < deadline {
        if pids(root).difference(before).next().is_some() {
            return Some(Instant::now());
        }
        sleep(LOOK).await;
    }
    None
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drills_are_for_proxies_each_once() {
        let arms: Vec<Arm> = ["nginx", "nginx:tuned", "direct", "relay", "envoy"]
            .iter()
            .map(|name| name.parse().expect("a good name"))
            .collect();
        let names: Vec<String> = subjects(&arms).iter().map(Arm::to_string).collect();
        assert_eq!(names, ["nginx", "envoy"]);
        assert_eq!(time(0, 3), Duration::ZERO);
    }
}
