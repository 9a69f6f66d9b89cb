//! A worker stands still, as one does in an endless loop or a blocked call. It must get nothing new,
//! and go on as if nothing had been when it moves again.

use std::time::Duration;

use tokio::time::sleep;

use super::{Findings, Site, Stopped, seat_of};
use crate::{
    control::{WorkerReport, WorkersReport},
    error::Result,
    rig::until,
};

/// For how long it stands still.
const STANDSTILL: Duration = Duration::from_millis(500);

pub(super) async fn inject(site: &mut Site<'_>) -> Result<Findings> {
    let redispatched_before = redispatched(site).await?;
    let victim = site.any_worker().await?;
    let mut findings = Findings::of(format!("SIGSTOP to worker {}", victim.worker));
    let stopped = Stopped::stop(&victim)?;
    let from = site.now();
    sleep(STANDSTILL).await;
    let report = site.subject.workers().await?;
    let redispatched_after = redispatched(site).await?;
    let to = site.now();
    drop(stopped);

    // What it was given and nobody took back.
    let taken_back = redispatched_after.saturating_sub(redispatched_before);
    let given = given_since(&victim, &report).saturating_sub(taken_back);
    findings.facts.insert("given", given);
    findings.facts.insert("redispatched", taken_back);

    let what = format!("worker {} is ready again", victim.worker);
    let now = until(&what, async || {
        let report = site.subject.workers().await?;
        Ok(seat_of(&report, &victim)
            .filter(|now| now.state == "ready")
            .cloned())
    })
    .await?;
    findings
        .facts
        .insert("hung", now.hung - victim.hung.min(now.hung));
    findings.hold(now.pid == victim.pid, || {
        format!("worker {} was replaced", victim.worker)
    });
    // Those that waited for it have their answers once clients have gone on for a moment.
    let ledger = site.tallies.ledger();
    crate::drill::served(site.tallies, ledger, 20).await?;
    // And once it is known for which of them the machine is to blame.
    crate::drill::judged(site.tallies, site.now()).await?;
    let tally = site.tallies.lock();
    let slow = tally
        .notables
        .iter()
        .filter(|n| n.is_new_and_slow(from, to));
    findings.facts.insert("new_and_slow", slow.count() as u64);
    drop(tally);
    Ok(findings)
}

/// Connections that went to another worker because the first had not claimed them.
async fn redispatched(site: &Site<'_>) -> Result<u64> {
    let metrics = site.subject.metrics().await?;
    Ok(metrics.sum("pointsman_handoff_redispatched_total", ""))
}

/// Connections that came to `worker` since it was looked at.
fn given_since(worker: &WorkerReport, report: &WorkersReport) -> u64 {
    let sum = |w: &WorkerReport| w.connections_assigned + w.connections_self_accepted;
    seat_of(report, worker)
        .filter(|now| now.generation == worker.generation)
        .map_or(0, |now| sum(now).saturating_sub(sum(worker)))
}
