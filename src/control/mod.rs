//! What may be asked of a running master, and what it answers: the words of the control socket.
//! The words are plain data; `path` finds the socket's place and binds it, the master's end is
//! `master/control.rs`, the asking end [`client`].
//!
//! HTTP over a Unix socket. `GET /status`, `GET /workers`, `GET /live`, `GET /decisions` and
//! `GET /comparison` answer with a [`StatusReport`], a [`WorkersReport`], a [`LiveReport`], a
//! [`DecisionsReport`] and a [`Report`](crate::compare::Report). Every other verb is a `POST /<verb>` whose body is a JSON object with the
//! fields of that [`Verb`] (or nothing), and the answer a stream of [`Line`]s, one JSON object per
//! line, the last of them [`Line::Done`] or [`Line::Failed`].

pub(crate) mod bus;
pub(crate) mod client;
pub(crate) mod path;
mod plan;
mod report;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use self::{
    plan::ComparePlan,
    report::{
        BusReport, CandidateReport, DecisionReport, DecisionsReport, DrainReport, ListenerReport,
        LiveArm, LiveReport, LiveWorker, ReloadReport, StatusReport, WorkerReport, WorkersReport,
    },
};
use crate::dispatch::{mode::Mode, policy::Policy};

/// The text of the last [`Line::Progress`] before the master becomes another binary. Connections do
/// not survive that, the listening socket does: whoever asked connects anew and looks how it went on.
pub(crate) const EXEC_LINE: &str = "becoming the new binary";

/// What a master can be told to do. In JSON: `{"verb": "mode", "mode": "shared"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Verb {
    /// Dispatch in another mode, or by another policy, from now on.
    Mode {
        /// The mode.
        mode: Mode,
        /// The policy; none: the mode's usual one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        policy: Option<Policy>,
    },
    /// Run this many workers.
    Workers {
        /// 1 to 128.
        count: u16,
    },
    /// Drain one worker; its seat is filled again.
    Drain {
        /// Its seat.
        worker: u16,
    },
    /// Replace all workers, one after the other, each successor ready before its predecessor drains.
    Restart,
    /// Read the configuration again, check all of it, and go by it.
    Reload,
    /// Become another binary in place, and replace all workers by its own.
    Upgrade {
        /// The binary; none: the one at the path from which this one was started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// Accept nothing for now: connections wait in the kernel.
    Pause,
    /// Accept again.
    Resume,
    /// Measure several modes and policies in turn, on the traffic that there is, and put back the one
    /// that was there.
    Compare(ComparePlan),
    /// End the comparison that goes on.
    CompareStop,
    /// Finish what is open and end.
    Stop,
}

impl Verb {
    /// Its name: the path of its request.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Mode { .. } => "mode",
            Self::Workers { .. } => "workers",
            Self::Drain { .. } => "drain",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Upgrade { .. } => "upgrade",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Compare(_) => "compare",
            Self::CompareStop => "compare-stop",
            Self::Stop => "stop",
        }
    }
}

/// A piece of the master's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Line {
    /// How far it is.
    Progress {
        /// In words.
        text: String,
    },
    /// It is done. The last line.
    Done {
        /// What was done, in words.
        text: String,
    },
    /// It could not be done, and nothing has changed unless the text says so. The last line.
    Failed {
        /// Why, and the way out.
        error: String,
        /// Was something else in progress, so that asking again later may help?
        #[serde(default)]
        busy: bool,
    },
}

/// A verb on its way to the master's supervisor, and where the answer goes. A receiver that has gone
/// does not stop what was begun.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What to do.
    pub(crate) verb: Verb,
    /// Who asks, in words, for the log: `uid 1000`, `SIGHUP`.
    pub(crate) by: String,
    /// Takes the lines of the answer. `None`: nobody can be told, for a signal asked.
    pub(crate) answer: Option<tokio::sync::mpsc::UnboundedSender<Line>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_read_back_and_what_is_unknown_is_refused() {
        let verbs = [
            Verb::Mode {
                mode: Mode::Hybrid,
                policy: Some(Policy::RoundRobin),
            },
            Verb::Workers { count: 3 },
            Verb::Drain { worker: 0 },
            Verb::Upgrade { path: None },
            Verb::Compare(ComparePlan::default()),
            Verb::CompareStop,
            Verb::Stop,
        ];
        for verb in verbs {
            let json = serde_json::to_value(&verb).expect("plain data");
            assert_eq!(json["verb"], verb.name());
            assert_eq!(serde_json::from_value::<Verb>(json).expect("valid"), verb);
        }
        for text in [
            r#"{"verb":"fly"}"#,
            r#"{"verb":"mode","mode":"fast"}"#,
            r#"{"verb":"workers"}"#,
            r#"{"verb":"drain","worker":1,"now":true}"#,
            r#"{"verb":"compare","round":1}"#,
            r#"{"verb":"compare","rounds":-1}"#,
        ] {
            assert!(serde_json::from_str::<Verb>(text).is_err(), "{text}");
        }
    }
}
