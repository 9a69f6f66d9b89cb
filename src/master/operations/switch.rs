//! Switching mode, policy or pause while traffic flows.
//!
//! No connection is lost, because no queue is ever without an owner: the group's program is swapped by
//! one system call, and what is in the queues that it pointed at before is accepted by the dispatcher,
//! which looks after every listener that workers do not.

use crate::{
    dispatch::mode::{Arm, Mode},
    error::Result,
    master::{dispatcher::Rules, supervisor::Supervisor},
};

impl Supervisor {
    /// Can every listener dispatch by `arm`, and does it go with the worker groups that there are?
    pub(super) fn allows(&self, arm: Arm) -> Result<()> {
        let state = self.state.borrow();
        state.settings.cluster.check_groups_in(arm.mode())?;
        let mut groups = state.groups.iter().flatten();
        groups.try_for_each(|group| group.allows(arm.mode()))
    }

    /// Dispatches by `rules` from now on.
    pub(super) async fn switch(&self, rules: Rules) -> Result<()> {
        self.allows(rules.arm)?;
        let dispatcher = self.state.borrow().dispatcher.clone();
        self.state.borrow_mut().rules = rules.clone();
        {
            let mut status = self.status.lock();
            if status.arm != rules.arm {
                status.switch(rules.arm);
            }
            status.paused = rules.paused;
            status.sorter = rules.sorter.clone();
        }
        // Whoever accepts next is there before the one before leaves.
        if rules.arm.mode() == Mode::Handoff || rules.paused {
            self.steer();
            dispatcher.set_rules(rules).await;
            self.open_doors().await;
        } else {
            self.open_doors().await;
            self.steer();
            dispatcher.set_rules(rules).await;
        }
        Ok(())
    }
}
