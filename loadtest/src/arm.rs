//! The names of what can be compared.

use std::fmt;
use std::str::FromStr;

/// A proxy under test, as `--arms` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arm {
    Nginx {
        /// With response buffers sized for the bodies of this test, rather than nginx's defaults.
        tuned: bool,
    },
    Haproxy,
    /// Mode and policy are passed on as they are: Pointsman itself knows which of them exist.
    Pointsman {
        mode: String,
        policy: Option<String>,
    },
}

impl FromStr for Arm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let mode = parts.next().map(str::to_owned);
        let policy = parts.next().map(str::to_owned);
        let empty = |part: &Option<String>| part.as_deref() == Some("");
        if parts.next().is_some() || empty(&mode) || empty(&policy) {
            return Err(format!("{text:?} is not NAME[:MODE[:POLICY]]"));
        }
        match (name, mode) {
            ("nginx", None) => Ok(Self::Nginx { tuned: false }),
            ("nginx", Some(kind)) if kind == "tuned" && policy.is_none() => {
                Ok(Self::Nginx { tuned: true })
            }
            ("haproxy", None) => Ok(Self::Haproxy),
            ("pointsman", Some(mode)) => Ok(Self::Pointsman { mode, policy }),
            ("pointsman", None) => Err("pointsman needs a mode, as in pointsman:reuseport".into()),
            ("nginx" | "haproxy", Some(_)) => Err(format!("{name} has no such mode")),
            _ => Err(format!(
                "unknown arm {text:?}: nginx, nginx:tuned, haproxy or pointsman:MODE[:POLICY]"
            )),
        }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nginx { tuned: false } => f.write_str("nginx"),
            Self::Nginx { tuned: true } => f.write_str("nginx:tuned"),
            Self::Haproxy => f.write_str("haproxy"),
            Self::Pointsman { mode, policy } => {
                write!(f, "pointsman:{mode}")?;
                policy.iter().try_for_each(|policy| write!(f, ":{policy}"))
            }
        }
    }
}

/// A label for each arm; one that is named again (to see the noise between equals) gets a number.
pub(crate) fn labels(arms: &[Arm]) -> Vec<String> {
    arms.iter()
        .enumerate()
        .map(
            |(index, arm)| match arms[..index].iter().filter(|other| *other == arm).count() {
                0 => arm.to_string(),
                before => format!("{arm}#{}", before + 1),
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NGINX: Arm = Arm::Nginx { tuned: false };

    #[test]
    fn names_survive_the_way_there_and_back() {
        for name in [
            "nginx",
            "nginx:tuned",
            "haproxy",
            "pointsman:shared",
            "pointsman:handoff:least-loaded",
        ] {
            assert_eq!(name.parse::<Arm>().expect("a good name").to_string(), name);
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for name in [
            "",
            "apache",
            "nginx:fast",
            "pointsman",
            "pointsman:",
            "pointsman:a:b:c",
        ] {
            assert!(name.parse::<Arm>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_same_arm_again_gets_a_number() {
        assert_eq!(
            labels(&[NGINX, Arm::Haproxy, NGINX]),
            ["nginx", "haproxy", "nginx#2"]
        );
    }
}
