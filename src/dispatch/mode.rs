//! Modes, and the arms of the comparison: a mode together with a policy.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{name::UnknownName, policy::Policy};

/// How a connection reaches its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Mode {
    /// The master accepts and hands over; the policy chooses.
    Handoff,
    /// The master and the workers accept from the shared listener; the policy chooses for the master's share.
    Hybrid,
    /// The workers accept from the shared listener; whoever has waited longest gets the connection.
    Shared,
    /// Each worker accepts from a listener of its own; a hash in the kernel chooses.
    Reuseport,
}

impl Mode {
    /// Every mode, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Handoff, Self::Hybrid, Self::Shared, Self::Reuseport];

    /// Its name in flags, metrics and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handoff => "handoff",
            Self::Hybrid => "hybrid",
            Self::Shared => "shared",
            Self::Reuseport => "reuseport",
        }
    }

    /// Does a policy of ours choose the worker, for some connections at least?
    pub const fn takes_policy(self) -> bool {
        matches!(self, Self::Handoff | Self::Hybrid)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| UnknownName::new("mode", text, Self::ALL.map(Self::name)))
    }
}

/// One way to dispatch that can be measured against the others: a mode, with the policy where the
/// mode takes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Arm {
    mode: Mode,
    policy: Option<Policy>,
}

/// A policy was asked for in a mode in which nobody would consult it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyHasNoSay {
    mode: Mode,
    policy: Policy,
}

impl fmt::Display for PolicyHasNoSay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, policy } = self;
        let chooser = match mode {
            Mode::Reuseport => "the kernel's hash chooses the worker",
            _ => "the worker that has waited longest takes the connection",
        };
        write!(
            f,
            "policy '{policy}' has no say in mode '{mode}', where {chooser}; \
             leave the policy out, or use mode 'handoff' or 'hybrid'"
        )
    }
}

impl std::error::Error for PolicyHasNoSay {}

impl Arm {
    /// Every valid combination; [`index`](Self::index) counts along it.
    pub const ALL: [Self; 8] = [
        Self::with(Mode::Handoff, Policy::RoundRobin),
        Self::with(Mode::Handoff, Policy::LeastLoaded),
        Self::with(Mode::Handoff, Policy::RemoteAddress),
        Self::with(Mode::Hybrid, Policy::RoundRobin),
        Self::with(Mode::Hybrid, Policy::LeastLoaded),
        Self::with(Mode::Hybrid, Policy::RemoteAddress),
        Self {
            mode: Mode::Shared,
            policy: None,
        },
        Self {
            mode: Mode::Reuseport,
            policy: None,
        },
    ];

    /// Their names, in the same order.
    const NAMES: [&str; 8] = [
        "handoff/round-robin",
        "handoff/least-loaded",
        "handoff/remote-address",
        "hybrid/round-robin",
        "hybrid/least-loaded",
        "hybrid/remote-address",
        "shared",
        "reuseport",
    ];

    const fn with(mode: Mode, policy: Policy) -> Self {
        Self {
            mode,
            policy: Some(policy),
        }
    }

    /// Puts mode and policy together. Where the mode takes a policy and none is given, it is
    /// [`Policy::LeastLoaded`].
    ///
    /// # Errors
    /// A policy was given that the mode would never consult.
    pub fn new(mode: Mode, policy: Option<Policy>) -> Result<Self, PolicyHasNoSay> {
        match (mode.takes_policy(), policy) {
            (true, policy) => Ok(Self::with(mode, policy.unwrap_or_default())),
            (false, None) => Ok(Self { mode, policy: None }),
            (false, Some(policy)) => Err(PolicyHasNoSay { mode, policy }),
        }
    }

    /// The mode.
    pub const fn mode(self) -> Mode {
        self.mode
    }

    /// The policy, where the mode takes one.
    pub const fn policy(self) -> Option<Policy> {
        self.policy
    }

    /// The value of the `policy` label: `none` where the mode takes no policy.
    pub const fn policy_name(self) -> &'static str {
        match self.policy {
            Some(policy) => policy.name(),
            None => "none",
        }
    }

    /// Its place in [`ALL`](Self::ALL): the column of the scoreboard that counts for it.
    pub fn index(self) -> usize {
        match (self.mode, self.policy) {
            (Mode::Handoff, policy) => policy.unwrap_or_default() as usize,
            (Mode::Hybrid, policy) => 3 + policy.unwrap_or_default() as usize,
            (Mode::Shared, _) => 6,
            (Mode::Reuseport, _) => 7,
        }
    }

    /// The arm with this [`index`](Self::index).
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES[self.index()])
    }
}

impl FromStr for Arm {
    type Err = UnknownName;

    /// Reads what [`Display`](fmt::Display) writes, also with a colon (`handoff:least-loaded`), and a mode alone
    /// for that mode with its usual policy.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        if let Ok(Ok(arm)) = text.parse().map(|mode| Self::new(mode, None)) {
            return Ok(arm);
        }
        let name = text.replacen(':', "/", 1);
        let index = Self::NAMES.iter().position(|known| *known == name);
        index
            .and_then(Self::from_index)
            .ok_or_else(|| UnknownName::new("arm", text, Self::NAMES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_stands_at_its_own_index() {
        for (i, arm) in Arm::ALL.into_iter().enumerate() {
            assert_eq!(arm.index(), i);
            assert_eq!(Arm::from_index(i), Some(arm));
            assert_eq!(Arm::new(arm.mode(), arm.policy()), Ok(arm));
            let name = arm.to_string();
            assert_eq!(name.split('/').next(), Some(arm.mode().name()));
            let policy = name.split('/').nth(1);
            assert_eq!(policy, arm.policy().map(Policy::name));
            assert_eq!(name.parse(), Ok(arm));
            assert_eq!(name.replace('/', ":").parse(), Ok(arm));
        }
        assert_eq!(Arm::from_index(Arm::ALL.len()), None);
    }

    #[test]
    fn a_policy_that_nobody_would_consult_is_refused_by_name() {
        let error = Arm::new(Mode::Reuseport, Some(Policy::LeastLoaded)).expect_err("no say");
        let text = error.to_string();
        assert!(
            text.contains("least-loaded") && text.contains("reuseport"),
            "{text}"
        );
    }

    #[test]
    fn an_arm_may_leave_out_the_usual_policy_and_nothing_else() {
        let usual = Arm::new(Mode::Hybrid, None).expect("it has a usual policy");
        assert_eq!("hybrid".parse(), Ok(usual));
        for text in [
            "",
            "least-loaded",
            "shared/least-loaded",
            "hybrid/",
            "hybrid/fast",
        ] {
            let error = text.parse::<Arm>().expect_err(text).to_string();
            assert!(
                error.contains("unknown arm") && error.contains("reuseport"),
                "{error}"
            );
        }
    }

    #[test]
    fn names_parse_back_and_unknown_ones_list_the_known() {
        for mode in Mode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        let error = "handof".parse::<Mode>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown mode 'handof' (known: handoff, hybrid, shared, reuseport)"
        );
    }
}
