//! What a reload can change, and what it takes.

use super::{ClusterConfig, Listen, Settings};

impl ClusterConfig {
    /// The first setting that `new` has otherwise though only a restart can change it, in one line
    /// for whoever asked; `None` if a reload can do it all.
    pub fn cannot_change(&self, new: &Self) -> Option<String> {
        let fixed = [
            ("master-serves", self.master_serves != new.master_serves),
            ("control", self.control != new.control),
            ("user", self.user != new.user),
            ("group", self.group != new.group),
            ("nofile", self.nofile != new.nofile),
            ("node", self.bus.node != new.bus.node),
            ("bus-queue", self.bus.queue != new.bus.queue),
            ("bus-overflow", self.bus.overflow != new.bus.overflow),
            ("bus", self.bus.nats != new.bus.nats),
        ];
        for (setting, changed) in fixed {
            if changed {
                return Some(format!(
                    "'{setting}' cannot be changed by a reload: restart"
                ));
            }
        }
        if self.listen_passed != new.listen_passed {
            return Some(
                "'listen': a reload cannot change between listeners that were passed and \
                 addresses: restart"
                    .into(),
            );
        }
        let without = |one: &Self, other: &Self| -> Option<Listen> {
            let mut passed = one.listen.iter();
            passed
                .find(|l| matches!(l, Listen::Passed(_)) && !other.listen.contains(l))
                .cloned()
        };
        // Only at the start does anybody pass any, and one that was closed is gone for good.
        let how =
            |what, listen| format!("'listen': {listen} cannot be {what} by a reload: restart");
        let added = without(new, self).map(|listen| how("added", listen));
        added.or_else(|| without(self, new).map(|listen| how("removed", listen)))
    }
}

impl Settings {
    /// Does it take new workers to run by `new`? What a worker is born with it keeps for life.
    pub fn needs_new_workers(&self, new: &Self) -> bool {
        self.application != new.application
            || self.endpoints != new.endpoints
            || self.cluster.timeouts != new.cluster.timeouts
            || self.cluster.pin_cpus != new.cluster.pin_cpus
            || self.cluster.pins.groups != new.cluster.pins.groups
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        Arm, LoadSignal, Mode,
        config::{BusOptions, BusOverflow, ControlSocket, HangLimits},
    };

    fn changed(change: impl FnOnce(&mut ClusterConfig)) -> ClusterConfig {
        let mut config = running();
        change(&mut config);
        config
    }

    fn running() -> ClusterConfig {
        ClusterConfig {
            listen: vec![
                Listen::Address("127.0.0.1:80".parse().expect("address")),
                Listen::Passed("web".into()),
            ],
            ..ClusterConfig::default()
        }
    }

    #[test]
    fn what_only_a_restart_can_change_is_named() {
        let refused = |culprit: &str, new: ClusterConfig| {
            let told = running().cannot_change(&new).expect(culprit);
            assert!(told.contains(culprit), "{told}");
            assert!(told.ends_with(": restart"), "{told}");
        };
        refused("'master-serves'", changed(|c| c.master_serves = true));
        refused("'control'", changed(|c| c.control = ControlSocket::Off));
        refused("'user'", changed(|c| c.user = Some("www".into())));
        refused("'group'", changed(|c| c.group = Some("www".into())));
        refused("'nofile'", changed(|c| c.nofile = Some(64)));
        refused("'node'", changed(|c| c.bus.node = Some("a".into())));
        refused("'bus-queue'", changed(|c| c.bus.queue *= 2));
        refused(
            "'bus-overflow'",
            changed(|c| c.bus.overflow = BusOverflow::Cut),
        );
        let nats = Some(BusOptions::nats("nats://a"));
        refused("'bus'", changed(|c| c.bus.nats = nats));
        refused(
            "systemd:api cannot be added",
            changed(|c| c.listen.push(Listen::Passed("api".into()))),
        );
        refused(
            "systemd:web cannot be removed",
            changed(|c| _ = c.listen.pop()),
        );
        refused(
            "listeners that were passed",
            changed(|c| {
                c.listen.clear();
                c.listen_passed = true;
            }),
        );
    }

    #[test]
    fn the_rest_is_for_a_reload_to_change() {
        assert_eq!(running().cannot_change(&running()), None);
        let new = changed(|c| {
            c.listen.reverse();
            c.listen
                .push(Listen::Address("127.0.0.1:81".parse().expect("address")));
            c.workers = Some(9);
            c.max_workers = Some(10);
            c.arm = Arm::new(Mode::Shared, None).expect("valid");
            c.load_signal = LoadSignal::Busy;
            c.shadow = !c.shadow;
            c.pin_cpus = true;
            c.admin = Some("127.0.0.1:1".parse().expect("address"));
            c.drain_timeout = Duration::from_secs(1);
            c.timeouts.idle = Duration::from_secs(1);
            c.hang = HangLimits {
                after: Duration::from_secs(1),
                kill: Duration::from_secs(2),
            };
            c.backoff_limit = Duration::from_secs(1);
        });
        assert_eq!(running().cannot_change(&new), None);
    }

    #[test]
    fn new_workers_are_needed_for_what_a_worker_is_born_with() {
        let running = Settings {
            cluster: running(),
            application: "a".into(),
            endpoints: vec!["a:1".into()],
        };
        let needs = |change: fn(&mut Settings)| {
            let mut new = running.clone();
            change(&mut new);
            running.needs_new_workers(&new)
        };
        assert!(needs(|s| s.application.push('b')));
        assert!(needs(|s| s.endpoints.clear()));
        assert!(needs(|s| s.cluster.timeouts.stall = Duration::from_secs(1)));
        assert!(needs(|s| s.cluster.pin_cpus = true));
        assert!(!needs(|_| {}));
        assert!(!needs(|s| {
            s.cluster.workers = Some(9);
            s.cluster.listen.pop();
            s.cluster.drain_timeout = Duration::from_secs(1);
            s.cluster.hang.after = Duration::from_secs(1);
            s.cluster.arm = Arm::new(Mode::Shared, None).expect("valid");
        }));
    }
}
