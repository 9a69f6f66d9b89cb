//! What a process has asked of the bus, told to the hub of another binary. That one would hear it from the
//! process itself, but not before the first messages have come.

use super::Core;
use crate::bus::{ProcessId, control::Ask};

impl<A> Core<A> {
    /// All that this process of ours has asked for and that is to stay so.
    pub(crate) fn wishes(&self, number: u32) -> Vec<Ask> {
        let mut wishes = Vec::new();
        let slot = self.slots.get(&number).copied();
        if let Some(process) = slot.and_then(|slot| self.ports.process(slot)) {
            let patterns = process.patterns.iter();
            wishes.extend(patterns.map(|pattern| Ask::Subscribe(pattern.to_string())));
            if process.watches {
                wishes.push(Ask::Watch(true));
            }
        }
        if let Some(peer) = self.roster.peer(self.own(number)) {
            for (application, description) in &peer.applications {
                wishes.push(Ask::Host(application.clone(), description.clone()));
            }
            wishes.extend(peer.functions.iter().cloned().map(Ask::Offer));
        }
        wishes
    }

    /// This process of ours, which has just [joined](Self::join), wants what it wanted before.
    pub(crate) fn grant(&mut self, number: u32, wishes: Vec<Ask>) {
        let Some(&slot) = self.slots.get(&number) else {
            return;
        };
        let process = self.own(number);
        for wish in wishes {
            // What was granted before is within the limits, unless these have changed; then the process
            // hears so when it asks again.
            let _ = match wish {
                Ask::Subscribe(pattern) => self.subscribe(slot, &pattern),
                Ask::Host(application, description) => self.host(process, application, description),
                Ask::Offer(function) => self.offer(process, function),
                Ask::Watch(watches) => {
                    if let Some(process) = self.ports.process_mut(slot) {
                        process.watches = watches;
                    }
                    Ok(())
                }
                _ => Ok(()),
            };
        }
        self.settle();
    }

    fn own(&self, number: u32) -> ProcessId {
        ProcessId {
            master: self.me,
            number,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        bus::{MasterId, Role},
        hub::core::{Counters, Limits, Newcomer},
    };

    fn core() -> Core<()> {
        let counters = Arc::new(Counters::default());
        let mut core = Core::new(MasterId(1), "a".into(), 1, Limits::default(), counters);
        core.join(Newcomer::Process {
            role: Role::Worker {
                seat: 0,
                generation: 1,
            },
            pid: 2,
            number: Some(7),
            parent: None,
        });
        core
    }

    #[test]
    fn what_was_granted_is_granted_again() {
        let wishes = vec![
            Ask::Subscribe("a.*".into()),
            Ask::Watch(true),
            Ask::Host("app".into(), serde_json::json!({ "kind": "x" })),
            Ask::Offer("sum".into()),
        ];
        let mut before = core();
        assert_eq!(before.wishes(7), []);
        before.grant(7, wishes.clone());
        assert_eq!(before.wishes(7), wishes);
        let mut after = core();
        after.grant(7, before.wishes(7));
        assert_eq!(after.wishes(7), wishes);
        // Nobody is there by this number.
        after.grant(8, wishes);
        assert_eq!(after.wishes(8), []);
    }
}
