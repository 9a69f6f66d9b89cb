//! Mode and policy change under load.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Findings, Site};
use crate::{control::Verb, dispatch::mode::Arm, error::Result};

/// From one switch to the next.
const PERIOD: Duration = Duration::from_millis(100);

/// The words by which a master is told to dispatch by `arm`.
pub(in crate::drill) fn verb(arm: Arm) -> Verb {
    Verb::Mode {
        mode: arm.mode(),
        policy: arm.policy(),
    }
}

pub(super) async fn inject(site: &mut Site<'_>, arm: Arm) -> Result<Findings> {
    let begun = Instant::now();
    let mut findings = Findings::of(format!("switch to {arm}"));
    site.subject.ask(&verb(arm)).await?;
    let report = site.subject.workers().await?;
    let is_in_force = report.mode == arm.mode().name() && report.policy == arm.policy_name();
    findings.hold(is_in_force, || {
        format!("{}/{} is in force", report.mode, report.policy)
    });
    sleep(PERIOD.saturating_sub(begun.elapsed())).await;
    Ok(findings)
}
