//! What was asked for and cannot be.

use std::fmt;

use crate::error::Error;

/// Why something that was asked for cannot be, and by which setting it was asked for. A setting is
/// named as its flag is, without the dashes; so whoever read it somewhere can tell where that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The settings that do not go together, the one to be changed first.
    pub settings: &'static [&'static str],
    /// Which of the first setting's values, where it takes several.
    pub index: usize,
    /// One line that names the culprit and the way out.
    pub message: String,
}

impl Refusal {
    /// A refusal of `settings` as a whole.
    pub fn new(settings: &'static [&'static str], message: impl Into<String>) -> Self {
        Self::of(settings, 0, message)
    }

    /// A refusal of one of the values of a setting.
    pub fn of(settings: &'static [&'static str], index: usize, message: impl Into<String>) -> Self {
        Self {
            settings,
            index,
            message: message.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::usage(refusal.message)
    }
}
