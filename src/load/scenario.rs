//! The kinds of load, and their names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::dispatch::name::UnknownName;

/// What kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Small answers on connections that stay.
    Keepalive,
    /// Small answers, each on a connection of its own.
    PerConnection,
    /// Nine small answers in ten, one that takes the upstream long; on connections that stay.
    Mixed,
    /// Connections that are opened one by one, mostly rest, and are closed at random.
    LongLived,
    /// Answers of 64 KiB on connections that stay.
    Bodies,
    /// Many connections at once, then none for a while.
    Bursts,
}

impl Scenario {
    /// Every scenario, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::PerConnection,
        Self::Keepalive,
        Self::Mixed,
        Self::LongLived,
        Self::Bodies,
        Self::Bursts,
    ];

    /// Its name in flags, files and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keepalive => "keepalive",
            Self::PerConnection => "per-connection",
            Self::Mixed => "mixed",
            Self::LongLived => "long-lived",
            Self::Bodies => "bodies",
            Self::Bursts => "bursts",
        }
    }

    /// What clients do in it.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Keepalive => "small answers on connections that stay",
            Self::PerConnection => "small answers, each on a connection of its own",
            Self::Mixed => {
                "nine small answers in ten and one that takes long, on connections that stay"
            }
            Self::LongLived => {
                "connections that are opened one by one, mostly rest, and are closed at random"
            }
            Self::Bodies => "large answers on connections that stay",
            Self::Bursts => "many connections at once, then none for a while",
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scenario {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL
            .into_iter()
            .find(|scenario| scenario.name() == text);
        found.ok_or_else(|| UnknownName::new("scenario", text, Self::ALL.map(Self::name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_known_by_their_names() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(scenario));
            let json = serde_json::to_value(scenario).expect("plain data");
            assert_eq!(json, scenario.name());
        }
        let error = "mix".parse::<Scenario>().expect_err("unknown").to_string();
        assert!(
            error.contains("known: per-connection, keepalive"),
            "{error}"
        );
    }
}
