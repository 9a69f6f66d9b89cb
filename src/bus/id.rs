//! Who is on the bus.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};

/// A master on the bus: a number that it drew when it first started, and keeps through upgrades.
/// Shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterId(pub(crate) u64);

/// A process on the bus: whose it is, and which of all that this master has had. No two processes ever
/// have the same, so a message to one that has died never reaches its successor. Shown as
/// `4f2a…:12`; the master itself is number 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    pub(crate) master: MasterId,
    pub(crate) number: u32,
}

impl ProcessId {
    /// The master that it belongs to, or is.
    pub fn master(self) -> MasterId {
        self.master
    }

    /// Its number among all that the master has had, from 1; 0 is the master itself.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Is it a master?
    pub fn is_master(self) -> bool {
        self.number == 0
    }
}

impl MasterId {
    /// The master as a process.
    pub fn process(self) -> ProcessId {
        ProcessId {
            master: self,
            number: 0,
        }
    }
}

impl fmt::Display for MasterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.master, self.number)
    }
}

/// A text is not the name of a master or a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the id of a process (16 hexadecimal digits, a colon and a number)")
    }
}

impl std::error::Error for NotAnId {}

impl FromStr for MasterId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let plain = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        plain
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
            .ok_or(NotAnId)
    }
}

impl FromStr for ProcessId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let (master, number) = text.split_once(':').ok_or(NotAnId)?;
        let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        Ok(Self {
            master: master.parse()?,
            number: plain
                .then(|| number.parse().ok())
                .flatten()
                .ok_or(NotAnId)?,
        })
    }
}

/// Both travel as their texts: JSON has no 64-bit numbers.
macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(MasterId);
as_text!(ProcessId);
