//! All workers are replaced, one after the other.

use super::{Findings, Site, Standing};
use crate::{control::Verb, error::Result, rig::processes};

pub(super) async fn inject(site: &mut Site<'_>) -> Result<Findings> {
    let mut findings = Findings::of("rolling restart");
    let before = site.subject.workers().await?;
    let count = processes(&before).count();
    site.subject.ask(&Verb::Restart).await?;
    let after = site.subject.settled(count).await?;
    let left = Standing::of(&after).left_of(&Standing::of(&before));
    findings.hold(left == 0, || format!("{left} workers were not replaced"));
    for (old, new) in processes(&before).zip(processes(&after)) {
        findings.hold(
            old.worker == new.worker && new.generation == old.generation + 1,
            || {
                format!(
                    "worker {} went from generation {} to {}",
                    old.worker, old.generation, new.generation
                )
            },
        );
    }
    Ok(findings)
}
