//! Switching mode, policy or pause while traffic flows.
//!
//! No connection is lost, because no queue is ever without an owner: the group's program is swapped by
//! one system call, and what is in the queues that it pointed at before is accepted by the dispatcher,
//! which looks after every listener that workers do not.

use crate::{
    dispatch::mode::Mode,
    error::Result,
    master::{dispatcher::Rules, supervisor::Supervisor},
};

impl Supervisor {
    /// Dispatches by `rules` from now on.
    pub(super) async fn switch(&self, rules: Rules) -> Result<()> {
        let dispatcher = {
            let state = self.state.borrow();
            for group in state.groups.iter().flatten() {
                group.allows(rules.arm.mode())?;
            }
            state.dispatcher.clone()
        };
        self.state.borrow_mut().rules = rules;
        {
            let mut status = self.status.lock();
            if status.arm != rules.arm {
                status.switch(rules.arm);
            }
            status.paused = rules.paused;
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
