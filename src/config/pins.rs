//! Worker groups and pins that can be.

use super::{ClusterConfig, Refusal};
use crate::dispatch::{
    mode::Mode,
    pins::{Pins, Sorter},
};

/// The most pins. Looking one up takes as long with many as with few, but somebody has to read them.
const MAX_PINS: usize = 10_000;

impl ClusterConfig {
    /// Sorts clients into worker groups; `None` where there are none.
    pub fn sorter(&self) -> Option<Sorter> {
        Sorter::new(&self.pins)
    }

    /// The worker group that a seat is in; `None`: it is one for everybody else.
    pub fn group_of(&self, seat: u16) -> Option<String> {
        let sorter = self.sorter()?;
        sorter.name(sorter.group_of_seat(seat)).map(str::to_owned)
    }

    /// Can connections be dispatched in `mode`?
    ///
    /// # Errors
    /// There are worker groups, and in this mode somebody else than the master chooses.
    pub fn check_groups_in(&self, mode: Mode) -> Result<(), Refusal> {
        match &self.pins.groups[..] {
            [first, ..] if mode != Mode::Handoff => Err(Refusal::new(
                &["mode", "worker-group"],
                format!(
                    "mode '{mode}' cannot keep worker group '{}' to those who are pinned to it: \
                     only in 'handoff' the master chooses for every connection",
                    first.name
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Are `workers` enough for the groups, and somebody besides for everybody else?
    ///
    /// # Errors
    /// They are not.
    pub fn check_groups_of(&self, workers: u16) -> Result<(), Refusal> {
        let groups = &self.pins.groups;
        let taken: u64 = groups.iter().map(|group| u64::from(group.workers)).sum();
        let others = u64::from(workers) + u64::from(self.master_serves);
        if groups.is_empty() || taken < others {
            return Ok(());
        }
        Err(Refusal::new(
            &["worker-group", "workers"],
            format!(
                "{workers} workers: the worker groups take {taken}, and at least one must be left \
                 for everybody else"
            ),
        ))
    }

    pub(super) fn check_pins(&self, workers: u16) -> Result<(), Refusal> {
        let Pins { groups, rules } = &self.pins;
        for (i, group) in groups.iter().enumerate() {
            if groups[..i].iter().any(|other| other.name == group.name) {
                let message = format!("worker group '{}' is given twice", group.name);
                return Err(Refusal::of(&["worker-group"], i, message));
            }
        }
        if rules.len() > MAX_PINS {
            let message = format!("{} pins: at most {MAX_PINS} are possible", rules.len());
            return Err(Refusal::of(&["pin"], MAX_PINS, message));
        }
        for (i, pin) in rules.iter().enumerate() {
            if !groups.iter().any(|group| group.name == pin.to) {
                let message = format!(
                    "pin {} to '{}': there is no such worker group{}",
                    pin.from,
                    pin.to,
                    known(&self.pins)
                );
                return Err(Refusal::of(&["pin"], i, message));
            }
        }
        let mut order: Vec<usize> = (0..rules.len()).collect();
        order.sort_by_key(|i| rules[*i].from);
        for pair in order.windows(2) {
            let network = rules[pair[0]].from;
            if network == rules[pair[1]].from {
                let message = format!("{network} is pinned twice");
                return Err(Refusal::of(&["pin"], pair[0].max(pair[1]), message));
            }
        }
        self.check_groups_of(workers)?;
        self.check_groups_in(self.arm.mode())
    }
}

/// The groups that there are, for whoever named another.
fn known(pins: &Pins) -> String {
    let names: Vec<&str> = pins.groups.iter().map(|group| &*group.name).collect();
    match names.is_empty() {
        true => " (give one: worker-group special=1)".into(),
        false => format!(" (known: {})", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Arm,
        config::Listen,
        dispatch::pins::{Pin, WorkerGroup},
    };

    fn config(workers: u16, groups: &[&str], pins: &[&str]) -> ClusterConfig {
        let group = |text: &&str| text.parse::<WorkerGroup>().expect("a group");
        let pin = |text: &&str| text.parse::<Pin>().expect("a pin");
        ClusterConfig {
            listen: vec![Listen::Passed("web".into())],
            workers: Some(workers),
            pins: Pins {
                groups: groups.iter().map(group).collect(),
                rules: pins.iter().map(pin).collect(),
            },
            ..ClusterConfig::default()
        }
    }

    fn refused(config: &ClusterConfig) -> Refusal {
        config.check().expect_err("not possible")
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        for (groups, pins, setting, index, culprit) in [
            (
                &["a=1", "a=1"][..],
                &[][..],
                "worker-group",
                1,
                "'a' is given twice",
            ),
            (
                &["a=1"],
                &["10.0.0.0/8=a", "::/0=b"],
                "pin",
                1,
                "::/0 to 'b'",
            ),
            (&[], &["10.0.0.0/8=a"], "pin", 0, "worker-group special=1"),
            (
                &["a=1", "b=1"],
                &["::/0=a", "10.0.0.1=b", "10.0.0.1/32=a"],
                "pin",
                2,
                "10.0.0.1/32 is pinned twice",
            ),
            (
                &["a=2", "b=2"],
                &[],
                "worker-group",
                0,
                "4 workers: the worker groups take 4",
            ),
        ] {
            let refusal = refused(&config(4, groups, pins));
            assert_eq!((refusal.settings[0], refusal.index), (setting, index));
            assert!(refusal.message.contains(culprit), "{refusal}");
        }
        let many = ["10.0.0.0/8=a"; MAX_PINS + 1];
        assert!(
            refused(&config(4, &["a=1"], &many))
                .message
                .contains("at most 10000")
        );
    }

    #[test]
    fn somebody_must_be_left_for_everybody_else() {
        assert!(config(4, &["a=2", "b=1"], &[]).check().is_ok());
        let all = config(3, &["a=2", "b=1"], &[]);
        assert!(all.check().is_err());
        let with_master = ClusterConfig {
            master_serves: true,
            ..all
        };
        assert!(with_master.check().is_ok());
        let huge = config(128, &["a=65535", "b=65535"], &[]);
        assert!(refused(&huge).message.contains("131070"));
    }

    #[test]
    fn only_a_mode_in_which_the_master_chooses_goes_with_groups() {
        for arm in Arm::ALL {
            let with = |groups| ClusterConfig {
                arm,
                ..config(2, groups, &[])
            };
            let possible = arm.mode() == Mode::Handoff;
            assert_eq!(with(&["a=1"]).check().is_ok(), possible, "{arm}");
            assert!(with(&[]).check().is_ok(), "{arm}");
        }
    }
}
