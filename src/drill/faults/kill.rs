//! A worker is killed, as by the kernel when memory runs out: it can do nothing about it.

use nix::sys::signal::Signal;

use super::{Findings, Site, seat_of, send};
use crate::{drill::cluster::until, error::Result};

pub(super) async fn inject(site: &mut Site<'_>) -> Result<Findings> {
    let victim = site.any_worker().await?;
    let mut findings = Findings::of(format!("SIGKILL to worker {}", victim.worker));
    findings
        .facts
        .insert("connections_open", victim.connections_open);
    send(&victim, Signal::SIGKILL)?;
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
    Ok(findings)
}
