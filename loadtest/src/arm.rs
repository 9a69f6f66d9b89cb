//! The names of what can be compared.

use std::fmt;
use std::str::FromStr;

use pointsman::{Mode, Policy};

/// What `--arms` can name.
pub(crate) const NAMES: &str = "nginx, nginx:tuned, haproxy, envoy, caddy, node:rr, node:shared, direct, relay, \
                                pointsman:MODE or pointsman:MODE:POLICY";

/// Something under test, as `--arms` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arm {
    Nginx {
        /// With response buffers sized for the bodies of this test, rather than nginx's defaults.
        tuned: bool,
    },
    Haproxy,
    Envoy,
    Caddy,
    /// A proxy on Node's cluster module.
    Node {
        /// The primary accepts and hands out in turn; else all workers accept.
        round_robin: bool,
    },
    /// No proxy at all: the control. What it costs is the upstream.
    Direct,
    /// Bytes from one socket to the other: the floor.
    Relay,
    Pointsman(pointsman::Arm),
}

impl Arm {
    /// The lines of its configuration that choose it, where it is ours.
    pub(crate) fn configuration(self) -> Option<String> {
        match self {
            Self::Pointsman(arm) => Some(arm.configuration()),
            _ => None,
        }
    }

    /// Does it speak HTTP, so that it can keep its connections to the upstream apart from those of its
    /// clients, and add a header?
    pub(crate) fn is_http_proxy(self) -> bool {
        !matches!(self, Self::Direct | Self::Relay)
    }

    /// What it is made of, as far as that matters when a part of it fails.
    pub(crate) fn architecture(self) -> &'static str {
        match self {
            Self::Nginx { .. } => "master, worker processes, one listener",
            Self::Haproxy => "master, one process of threads; the master ends with it",
            Self::Envoy => "one process of threads",
            Self::Caddy => "one process, Go's scheduler",
            Self::Node { round_robin: true } => "primary hands connections to worker processes",
            Self::Node { round_robin: false } => "worker processes, one listener",
            Self::Direct => "nothing in between",
            Self::Relay => "one process, one thread",
            Self::Pointsman(arm) => match arm.mode() {
                Mode::Handoff => "master hands connections to worker processes",
                Mode::Hybrid => "master hands over, worker processes accept too",
                Mode::Shared => "worker processes, one listener",
                Mode::Reuseport => "worker processes, a listener for each",
                _ => "worker processes",
            },
        }
    }
}

impl FromStr for Arm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ours = |rest: &str| {
            let (mode, policy) = match rest.split_once(':') {
                Some((mode, policy)) => (mode, Some(policy)),
                None => (rest, None),
            };
            let mode: Mode = mode.parse().map_err(|error| format!("{error}"))?;
            let policy: Option<Policy> = policy
                .map(str::parse)
                .transpose()
                .map_err(|error| format!("{error}"))?;
            pointsman::Arm::new(mode, policy).map_err(|error| error.to_string())
        };
        match text {
            "nginx" => Ok(Self::Nginx { tuned: false }),
            "nginx:tuned" => Ok(Self::Nginx { tuned: true }),
            "haproxy" => Ok(Self::Haproxy),
            "envoy" => Ok(Self::Envoy),
            "caddy" => Ok(Self::Caddy),
            "node:rr" => Ok(Self::Node { round_robin: true }),
            "node:shared" => Ok(Self::Node { round_robin: false }),
            "direct" => Ok(Self::Direct),
            "relay" => Ok(Self::Relay),
            _ => match text.strip_prefix("pointsman:") {
                Some(rest) => ours(rest).map(Self::Pointsman),
                None => Err(format!("{text:?} is none of {NAMES}")),
            },
        }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx { tuned: false } => "nginx",
            Self::Nginx { tuned: true } => "nginx:tuned",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
            Self::Node { round_robin: true } => "node:rr",
            Self::Node { round_robin: false } => "node:shared",
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Pointsman(arm) => {
                write!(f, "pointsman:{}", arm.mode())?;
                // The usual one goes without saying.
                let policy = arm.policy().filter(|policy| *policy != Policy::default());
                return policy.iter().try_for_each(|policy| write!(f, ":{policy}"));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_way_there_and_back() {
        for name in [
            "nginx",
            "nginx:tuned",
            "haproxy",
            "envoy",
            "caddy",
            "node:rr",
            "node:shared",
            "direct",
            "relay",
            "pointsman:shared",
            "pointsman:handoff:round-robin",
        ] {
            assert_eq!(name.parse::<Arm>().expect("a good name").to_string(), name);
        }
        let long: Arm = "pointsman:handoff:least-loaded"
            .parse()
            .expect("a good name");
        assert_eq!(long.to_string(), "pointsman:handoff", "the usual policy");
        let configuration = long.configuration().expect("it is ours");
        assert!(configuration.contains("least-loaded"), "{configuration}");
    }

    #[test]
    fn bad_names_are_refused_with_the_culprit() {
        for (name, culprit) in [
            ("", "nginx:tuned"),
            ("apache", "apache"),
            ("nginx:fast", "nginx:fast"),
            ("node", "node:rr"),
            ("pointsman", "pointsman:MODE"),
            ("pointsman:", "mode"),
            ("pointsman:hand", "handoff"),
            ("pointsman:shared:round-robin", "no say"),
            ("pointsman:handoff:a:b", "a:b"),
        ] {
            let error = name.parse::<Arm>().expect_err(name);
            assert!(error.contains(culprit), "{name:?}: {error}");
        }
    }

    #[test]
    fn only_ours_has_lines_of_configuration() {
        let lines = |name: &str| name.parse::<Arm>().expect("a good name").configuration();
        assert_eq!(lines("nginx"), None);
        assert_eq!(
            lines("pointsman:hybrid:round-robin").as_deref(),
            Some("mode = \"hybrid\"\npolicy = \"round-robin\"\n")
        );
        assert_eq!(
            lines("pointsman:shared").as_deref(),
            Some("mode = \"shared\"\n")
        );
    }
}
