//! The ledger for people.

use std::fmt::Write;

use super::{Report, ledger::Leg};

const COLUMNS: [&str; 12] = [
    "mode", "faults", "attempts", "right", "retried", "wrong", "reset", "refused", "limbo", "void",
    "twice", "lost",
];

/// A table with a line for each mode, then every promise.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!(
        "drill {}: seed {}, {} clients that keep their connections, {} that open one for each \
         request, {:.0} s\n\n",
        report.drill.name(),
        report.seed,
        report.keep_alive_clients,
        report.per_connection_clients,
        report.seconds,
    );
    let mut lines = vec![COLUMNS.map(String::from)];
    lines.extend(report.legs.iter().map(line));
    if report.legs.len() > 1 {
        let all = Leg {
            mode: "all".into(),
            ledger: report.ledger,
            served_twice: report.legs.iter().map(|leg| leg.served_twice).sum(),
            lost: report.legs.iter().map(|leg| leg.lost).sum(),
            ..Leg::default()
        };
        let mut all = line(&all);
        let faults: usize = report.legs.iter().map(|leg| leg.faults.len()).sum();
        all[1] = faults.to_string();
        lines.push(all);
    }
    for line in &lines {
        for (i, field) in line.iter().enumerate() {
            let width = lines.iter().map(|l| l[i].len()).max().unwrap_or(0);
            // Names to the left, numbers to the right. Writing to a string cannot fail.
            let _ = match i {
                0 => write!(text, "{field:<width$}"),
                _ => write!(text, "  {field:>width$}"),
            };
        }
        text.push('\n');
    }
    text.push('\n');
    for promise in &report.promises {
        let word = if promise.held { "kept  " } else { "BROKEN" };
        let _ = writeln!(text, "{word}  {}", promise.promise);
        for detail in promise.broken.iter().take(10) {
            let _ = writeln!(text, "        {detail}");
        }
        if let more @ 1.. = promise.broken.len().saturating_sub(10) {
            let _ = writeln!(text, "        and {more} more (--json has them all)");
        }
    }
    if report.legs.iter().any(|leg| leg.served_twice.is_none()) {
        text.push_str("not checked: whether a request was served twice; the upstream is not the drill's own\n");
    }
    if report.interrupted {
        text.push_str("interrupted: this is what there was so far\n");
    }
    text
}

fn line(leg: &Leg) -> [String; 12] {
    let ledger = &leg.ledger;
    let twice = leg.served_twice.map_or("?".into(), |n| n.to_string());
    [
        leg.mode.clone(),
        leg.faults.len().to_string(),
        ledger.attempts.to_string(),
        ledger.right.to_string(),
        ledger.retried.to_string(),
        ledger.wrong.to_string(),
        ledger.reset.to_string(),
        ledger.refused.to_string(),
        ledger.limbo.to_string(),
        ledger.void.to_string(),
        twice,
        leg.lost.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Kind,
            ledger::{Ledger, judge},
        },
        *,
    };

    fn report(legs: Vec<Leg>) -> Report {
        Report {
            drill: Kind::Kill,
            version: "1",
            machine: String::new(),
            seed: 7,
            count: 2,
            keep_alive_clients: 8,
            per_connection_clients: 4,
            own_cluster: true,
            seconds: 1.0,
            interrupted: false,
            held: false,
            ledger: legs
                .iter()
                .map(|l| l.ledger)
                .fold(Ledger::default(), Ledger::plus),
            promises: judge(Kind::Kill, &legs),
            legs,
            log: Vec::new(),
        }
    }

    #[test]
    fn a_broken_promise_stands_out_and_is_named_in_the_verdict() {
        let leg = |mode: &str, refused| Leg {
            mode: mode.into(),
            ledger: Ledger {
                attempts: 1000 + refused,
                right: 1000,
                refused,
                ..Ledger::default()
            },
            served_twice: Some(0),
            ..Leg::default()
        };
        let report = report(vec![leg("handoff", 0), leg("shared", 3)]);
        let text = report.table();
        assert!(
            text.contains("BROKEN  no client was refused\n        shared: 3 refused\n"),
            "{text}"
        );
        assert!(
            text.contains("kept    no client waited in vain\n"),
            "{text}"
        );
        let all = text
            .lines()
            .find(|line| line.starts_with("all"))
            .expect("a sum");
        assert!(all.contains("2003") && all.contains("2000"), "{all}");
        let verdict = report.verdict().expect("broken");
        assert!(verdict.contains("'no client was refused'"), "{verdict}");
        assert!(!verdict.contains("in vain"), "{verdict}");
    }

    #[test]
    fn a_machine_that_is_too_slow_is_named_first_in_the_verdict() {
        let leg = |void| Leg {
            ledger: Ledger {
                attempts: 100,
                right: 100 - void,
                void,
                ..Ledger::default()
            },
            ..Leg::default()
        };
        let slow = report(vec![leg(3)]);
        let verdict = slow.verdict().expect("broken");
        assert!(verdict.starts_with("the machine was too slow to tell"));
        assert!(slow.table().contains("3 of 100 attempts met a machine"));
        let fast = report(vec![leg(2)]).verdict().expect("no fault took place");
        assert!(!fast.contains("machine was"), "{fast}");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let text = report(vec![Leg {
            mode: "reuseport".into(),
            ..Leg::default()
        }])
        .table();
        let lines: Vec<&str> = text.lines().skip(2).take(2).collect();
        assert_eq!(lines[0].len(), lines[1].len(), "{text}");
    }
}
