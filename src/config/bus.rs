//! What was asked for of the bus.

use serde::{Deserialize, Serialize};

use super::{BusOptions, Refusal};

/// The least that may wait for one process, in bytes: a few of the largest messages.
const LEAST_QUEUE: u64 = 256 * 1024;
/// The most that may wait for one process, in bytes.
const LARGEST_QUEUE: u64 = 1024 * 1024 * 1024;
/// The longest name of a machine, in bytes: that of the longest name in DNS.
const LONGEST_NODE: usize = 253;

/// What the bus is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BusConfig {
    /// What this machine is called on the bus; `None`: its host name.
    pub node: Option<String>,
    /// The bytes that may wait for one process.
    pub queue: u64,
    /// What becomes of a process for which more waits than that.
    pub overflow: BusOverflow,
    /// How it meets other masters; `None`: not at all.
    pub nats: Option<BusOptions>,
}

/// What becomes of a process on the bus that is too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BusOverflow {
    /// It loses the oldest messages, and can see that it has.
    #[default]
    LoseOldest,
    /// It is cut off from the bus.
    Cut,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            node: None,
            queue: 4 * 1024 * 1024,
            overflow: BusOverflow::default(),
            nats: None,
        }
    }
}

impl BusConfig {
    /// Checks everything that can be checked without touching the machine.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn check(&self) -> Result<(), Refusal> {
        if let Some(node) = &self.node {
            let odd = |c: char| c.is_whitespace() || c.is_control();
            if node.is_empty() || node.len() > LONGEST_NODE || node.contains(odd) {
                return Err(Refusal::new(
                    &["node"],
                    format!(
                        "node '{}': a name of 1 to {LONGEST_NODE} bytes without blanks is wanted",
                        node.escape_debug()
                    ),
                ));
            }
        }
        if !(LEAST_QUEUE..=LARGEST_QUEUE).contains(&self.queue) {
            return Err(Refusal::new(
                &["bus-queue"],
                format!(
                    "bus-queue {}: it takes {LEAST_QUEUE} to {LARGEST_QUEUE} bytes",
                    self.queue
                ),
            ));
        }
        self.nats.as_ref().map_or(Ok(()), BusOptions::check)
    }

    /// What this machine is called on the bus.
    pub fn node_name(&self) -> String {
        let of_host = || {
            // As uname(2) would say.
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
            let name = name.trim();
            (!name.is_empty()).then(|| name.to_owned())
        };
        let asked_for = self.node.clone();
        asked_for
            .or_else(of_host)
            .unwrap_or_else(|| "localhost".into())
    }
}

impl std::str::FromStr for BusOverflow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lose-oldest" => Ok(Self::LoseOldest),
            "cut" => Ok(Self::Cut),
            other => Err(format!("bus-overflow '{other}': it is lose-oldest or cut")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: BusConfig) -> Refusal {
        config.check().expect_err("refused")
    }

    #[test]
    fn what_cannot_be_is_refused_and_named() {
        assert_eq!(BusConfig::default().check(), Ok(()));
        for queue in [0, LEAST_QUEUE - 1, LARGEST_QUEUE + 1] {
            let refusal = refused(BusConfig {
                queue,
                ..BusConfig::default()
            });
            assert_eq!(refusal.settings, ["bus-queue"]);
            assert!(refusal.message.contains(&queue.to_string()));
        }
        for node in ["", "a b", "a\n", &"a".repeat(LONGEST_NODE + 1)] {
            let refusal = refused(BusConfig {
                node: Some(node.into()),
                ..BusConfig::default()
            });
            assert_eq!(refusal.settings, ["node"]);
        }
        assert!(
            "drop"
                .parse::<BusOverflow>()
                .expect_err("none")
                .contains("'drop'")
        );
    }

    #[test]
    fn a_machine_has_a_name_even_if_nobody_gives_it_one() {
        assert!(!BusConfig::default().node_name().is_empty());
        let named = BusConfig {
            node: Some("web-1".into()),
            ..BusConfig::default()
        };
        assert_eq!(named.node_name(), "web-1");
    }

    #[test]
    fn what_an_older_binary_did_not_know_is_as_usual() {
        let read: BusConfig = serde_json::from_str("{}").expect("all of it may be left out");
        assert_eq!(read, BusConfig::default());
    }
}
