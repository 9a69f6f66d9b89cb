//! One error for everything that can keep a cluster from starting or running.

use std::{fmt, io};

/// The result of most fallible functions here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in one line that names the culprit.
#[derive(Debug)]
pub struct Error {
    fault: Fault,
    message: String,
    source: Option<io::Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Something that was asked for cannot be.
    Usage,
    /// The machine or the environment did not let it happen.
    Runtime,
    /// Nobody is there to be asked.
    Absent,
    /// Somebody ended it before there was anything to show.
    Interrupted,
}

impl Error {
    /// What was asked for cannot be: asking again will not help.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            fault: Fault::Usage,
            message: message.into(),
            source: None,
        }
    }

    /// The machine or the environment did not let `message` happen.
    pub(crate) fn runtime(message: impl Into<String>, source: io::Error) -> Self {
        Self {
            fault: Fault::Runtime,
            message: message.into(),
            source: Some(source),
        }
    }

    /// Something here failed with no operating-system error behind it.
    #[doc(hidden)]
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            fault: Fault::Runtime,
            message: message.into(),
            source: None,
        }
    }

    /// There is no master to talk to.
    pub(crate) fn absent(message: impl Into<String>) -> Self {
        Self {
            fault: Fault::Absent,
            message: message.into(),
            source: None,
        }
    }

    /// It was ended, by Ctrl-C say, before there was anything to show.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self {
            fault: Fault::Interrupted,
            message: message.into(),
            source: None,
        }
    }

    /// Is the caller's request at fault, rather than the machine?
    pub fn is_usage(&self) -> bool {
        self.fault == Fault::Usage
    }

    /// The exit code for it: 2 for a usage error, 1 for a run-time error, 3 where there is no master
    /// to talk to, 130 (as shells have it for SIGINT) if it was interrupted.
    pub fn exit_code(&self) -> u8 {
        match self.fault {
            Fault::Runtime => 1,
            Fault::Usage => 2,
            Fault::Absent => 3,
            Fault::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {}", describe(source)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

/// An operating-system error in plain words, without the number that the standard library appends.
pub(crate) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) if error.raw_os_error().is_some() => text[..end].to_lowercase(),
        _ => text,
    }
}
