//! A worker is killed, as by the kernel when memory runs out: it can do nothing about it.
//!
//! Every other one stands still for a moment before, as one does that gets no core, and has then been
//! handed connections that it will never claim. What it held is known exactly then.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::{Findings, Site, Stopped, has_ended, seat_of, send, stands_still};
use crate::{
    control::WorkerReport,
    drill::ledger::{LOST, MAY_HAVE_TAKEN, OPEN},
    error::{Error, Result},
    rig::until,
};

/// For how long one stands still at least before it is killed: some are handed to it …
const STANDSTILL: Duration = Duration::from_millis(5);
/// … and how much longer at most: soon it gets no more, and what it did not claim is taken back.
const LONGER: Duration = Duration::from_millis(25);

pub(super) async fn inject(site: &mut Site<'_>) -> Result<Findings> {
    let lost_before = lost(site).await?;
    // What others than the drill's clients open, nobody knows.
    let moves = site.subject.is_own() && site.random.once_in(2);
    let known_before = site.tallies.lock().known;
    let mut victim = site.any_worker().await?;
    let mut findings = Findings::of(format!("SIGKILL to worker {}", victim.worker));
    if moves {
        send(&victim, Signal::SIGKILL)?;
    } else {
        findings.fault += ", which stood still";
        victim = at_a_standstill(site, victim, &mut findings).await?;
    }
    let facts = &mut findings.facts;
    facts.insert(OPEN, victim.connections_open);
    if moves {
        let pid = victim.pid.unwrap_or_default();
        let what = format!("worker {} is dead", victim.worker);
        until(&what, async || Ok(has_ended(pid).then_some(()))).await?;
        // Connections whose first exchange had not ended before we looked, and all of those since.
        let taken = site.tallies.lock().opened - known_before;
        facts.insert(MAY_HAVE_TAKEN, taken);
    }
    let what = format!("worker {} has a successor that is ready", victim.worker);
    let successor = until(&what, async || {
        let report = site.subject.workers().await?;
        let now = seat_of(&report, &victim).cloned();
        Ok(now.filter(|now| now.generation > victim.generation && now.state == "ready"))
    })
    .await?;
    findings.hold(successor.generation == victim.generation + 1, || {
        format!(
            "generation {} came after {}: more than one worker died",
            successor.generation, victim.generation
        )
    });
    // It was counted before there was a successor.
    let lost = lost(site).await?.saturating_sub(lost_before);
    findings.facts.insert(LOST, lost);
    Ok(findings)
}

/// Stops `victim`, lets connections come to it, and kills it. Returns what was to be seen of it in
/// between.
async fn at_a_standstill(
    site: &mut Site<'_>,
    victim: WorkerReport,
    findings: &mut Findings,
) -> Result<WorkerReport> {
    let stopped = Stopped::stop(&victim)?;
    let pid = victim.pid.unwrap_or_default();
    let what = format!("worker {} stands still", victim.worker);
    until(&what, async || Ok(stands_still(pid).then_some(()))).await?;
    sleep(STANDSTILL + site.random.time_up_to(LONGER)).await;
    let report = site.subject.workers().await?;
    let now = seat_of(&report, &victim).filter(|now| now.pid == victim.pid);
    let now = now.cloned().ok_or_else(|| {
        Error::failed(format!(
            "worker {} was replaced uncalled for",
            victim.worker
        ))
    })?;
    send(&now, Signal::SIGKILL)?;
    drop(stopped);
    let unclaimed = u64::from(now.load).saturating_sub(now.connections_open);
    findings.facts.insert("unclaimed", unclaimed);
    Ok(now)
}

/// Connections that died with their workers so far.
async fn lost(site: &Site<'_>) -> Result<u64> {
    Ok(site.subject.status().await?.connections_lost)
}
