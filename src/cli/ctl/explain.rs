//! Decisions for people: a line for each, or one with everything that could have been chosen.

use std::fmt::Write as _;

use super::show::{arm, table};
use crate::control::{CandidateReport, DecisionReport, DecisionsReport};

/// The answer to `ctl explain`.
pub(super) fn decisions(report: &DecisionsReport) -> String {
    let mut page = match &report.decisions[..] {
        [] => "the master has not chosen a worker yet\n".to_owned(),
        [only] => whole(only),
        several => lines(several),
    };
    if let Some(others) = &report.others {
        let _ = writeln!(
            page,
            "\nIn mode {} {others}: who got such a connection is not shown here.",
            report.mode
        );
    }
    page
}

/// One line for each, the newest first.
fn lines(decisions: &[DecisionReport]) -> String {
    let heads = ["AGO", "CLIENT", "LISTENER", "MODE", "WORKER", "WHY"];
    let rows = decisions.iter().map(|decision| {
        [
            ago(decision.seconds_ago),
            decision.client.clone(),
            decision.listener.clone(),
            arm(&decision.mode, &decision.policy),
            decision.worker.clone(),
            why(decision),
        ]
    });
    table(heads, rows.collect(), &[1, 2, 3, 5])
}

/// Everything about one.
fn whole(decision: &DecisionReport) -> String {
    let mut page = format!(
        "{} at {}, {} ago, {}: worker {}\n{}\n\n",
        decision.client,
        decision.listener,
        ago(decision.seconds_ago),
        arm(&decision.mode, &decision.policy),
        decision.worker,
        why(decision),
    );
    let load = match decision.load_signal.as_deref() {
        None | Some("connections") => "LOAD",
        Some("requests") => "IN FLIGHT",
        Some(_) => "BUSY ‰",
    };
    let heads = ["WORKER", "READY", load, "TURN", "WEIGHT", ""];
    let rows = decision.candidates.iter().map(candidate);
    page.push_str(&table(heads, rows.collect(), &[0, 1, 5]));
    if !decision.shadows.is_empty() {
        let picks = decision.shadows.iter();
        let picks: Vec<_> = picks
            .map(|(policy, worker)| format!("{policy} {worker}"))
            .collect();
        let _ = writeln!(page, "\nWould have been chosen by: {}", picks.join(", "));
    }
    page
}

fn candidate(candidate: &CandidateReport) -> [String; 6] {
    let shown = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        candidate.worker.clone(),
        if candidate.ready { "yes" } else { "no" }.into(),
        shown(candidate.load.map(|load| load.to_string())),
        shown(candidate.turn.map(|turn| turn.to_string())),
        shown(candidate.weight.map(|weight| format!("{weight:.4}"))),
        if candidate.chosen { "chosen" } else { "" }.into(),
    ]
}

fn why(decision: &DecisionReport) -> String {
    let mut text = match (&decision.pin, &decision.group) {
        (Some(pin), Some(group)) => format!("{pin} goes to group {group}: "),
        _ => String::new(),
    };
    text.push_str(&decision.why);
    if decision.redispatched {
        text.push_str("; another worker had it before and did not take it");
    }
    text
}

/// `0.352 s`, `12.1 s`, `340 s`.
fn ago(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.3} s"),
        ..100.0 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision() -> DecisionReport {
        let candidate = |worker: &str, load, turn, chosen| CandidateReport {
            worker: worker.into(),
            ready: true,
            load: Some(load),
            turn: Some(turn),
            weight: None,
            chosen,
        };
        DecisionReport {
            seconds_ago: 0.3524,
            client: "192.0.2.1:5000".into(),
            listener: "127.0.0.1:8080".into(),
            mode: "handoff".into(),
            policy: "least-loaded".into(),
            load_signal: Some("connections".into()),
            redispatched: false,
            worker: "1".into(),
            why: "smallest load 3; tie with worker 0, which was served last".into(),
            pin: None,
            group: None,
            candidates: vec![
                candidate("0", 3, 1, false),
                CandidateReport {
                    ready: false,
                    ..candidate("1", 3, 0, true)
                },
            ],
            shadows: [("round-robin", "0"), ("kernel-hash", "1")]
                .map(|(policy, worker)| (policy.into(), worker.into()))
                .into(),
        }
    }

    fn report(decisions: Vec<DecisionReport>) -> DecisionsReport {
        DecisionsReport {
            mode: "handoff".into(),
            policy: "least-loaded".into(),
            others: None,
            decisions,
        }
    }

    #[test]
    fn one_is_shown_whole() {
        assert_eq!(
            decisions(&report(vec![decision()])),
            "\
192.0.2.1:5000 at 127.0.0.1:8080, 0.352 s ago, handoff, least-loaded: worker 1
smallest load 3; tie with worker 0, which was served last

WORKER  READY  LOAD  TURN  WEIGHT
0       yes       3     1       -
1       no        3     0       -  chosen

Would have been chosen by: kernel-hash 1, round-robin 0
"
        );
    }

    #[test]
    fn what_pins_a_client_is_told_first() {
        let pinned = DecisionReport {
            pin: Some("192.0.2.0/24".into()),
            group: Some("special".into()),
            why: "the only ready worker".into(),
            ..decision()
        };
        let page = decisions(&report(vec![pinned]));
        let line = "\n192.0.2.0/24 goes to group special: the only ready worker\n";
        assert!(page.contains(line), "{page}");
    }

    #[test]
    fn several_are_a_line_each_and_whoever_else_chooses_is_named() {
        let again = DecisionReport {
            redispatched: true,
            seconds_ago: 340.2,
            why: "first in turn".into(),
            ..decision()
        };
        let mut report = report(vec![decision(), again]);
        report.others = Some("somebody else chooses".into());
        assert_eq!(
            decisions(&report),
            // The first line begins with blanks, which a broken line would not.
            "    AGO  CLIENT          LISTENER        MODE                   WORKER  WHY
0.352 s  192.0.2.1:5000  127.0.0.1:8080  handoff, least-loaded       1  smallest load 3; tie with worker 0, which was served last
  340 s  192.0.2.1:5000  127.0.0.1:8080  handoff, least-loaded       1  first in turn; another worker had it before and did not take it

In mode handoff somebody else chooses: who got such a connection is not shown here.
"
        );
        report.decisions.clear();
        assert!(decisions(&report).starts_with("the master has not chosen"));
    }
}
