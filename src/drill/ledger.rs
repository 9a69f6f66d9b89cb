//! What clients saw, what was done to the cluster meanwhile, and whether the promises were kept.
//! Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::Kind;
use crate::rig::Footprint;

/// From this on an answer is worth a note of its own.
pub(super) const SLOW: Duration = Duration::from_millis(250);
/// New connections that may have to wait for one stopped worker.
const TOUCHED: u64 = 5;
/// By how much the master may have grown: allocators keep a little more or less each time.
const GROWTH_KIB: u64 = 4096;
/// Of so many stopped workers, one may have been in the midst of taking a connection.
const IN_THE_MIDST: u64 = 100;
/// Fact of a kill: by how much `pointsman_connections_lost_total` grew.
pub(super) const LOST: &str = "lost";
/// Fact of a kill: what the worker held when it was looked at.
pub(super) const OPEN: &str = "connections_open";
/// Fact of a kill: what it may have taken after that. Missing: it stood still.
pub(super) const MAY_HAVE_TAKEN: &str = "may_have_taken";
/// Answers for each fault below which nothing would have been shown.
const ANSWERS: u64 = 10;
/// One void attempt in so many, and the machine was too slow to tell anything.
const VOID: u64 = 50;
/// Whether the machine itself stood in the way: what the verdict says first if it did.
pub(super) const FAST_ENOUGH: &str = "the machine was fast enough to tell";

/// How one client's attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// With the right answer.
    Right,
    /// A kept connection closed before the first byte of an answer, and the request, sent once more
    /// over a fresh one as clients do, got the right answer.
    Retried,
    /// With another answer.
    Wrong,
    /// The connection ended without an answer, or within it.
    Reset,
    /// The connection was not even opened.
    Refused,
    /// Nothing came within two seconds.
    Limbo,
    /// It took long or was in vain while the machine itself stood still: nobody can tell why.
    Void,
}

impl Outcome {
    /// What an attempt that ended so counts as, if the machine stood still under it. Slowness explains
    /// slowness and nothing else: no machine makes an answer wrong or resets a connection by being slow,
    /// and an answer that came in time was right on any.
    pub(super) fn excused(self, slow: bool) -> Self {
        match self {
            Self::Limbo => Self::Void,
            Self::Right if slow => Self::Void,
            other => other,
        }
    }
}

/// How many attempts ended how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Ledger {
    pub(super) attempts: u64,
    pub(super) right: u64,
    pub(super) retried: u64,
    pub(super) wrong: u64,
    pub(super) reset: u64,
    pub(super) refused: u64,
    pub(super) limbo: u64,
    pub(super) void: u64,
}

impl Ledger {
    /// One more attempt.
    pub(super) fn count(&mut self, outcome: Outcome) {
        self.attempts += 1;
        *match outcome {
            Outcome::Right => &mut self.right,
            Outcome::Retried => &mut self.retried,
            Outcome::Wrong => &mut self.wrong,
            Outcome::Reset => &mut self.reset,
            Outcome::Refused => &mut self.refused,
            Outcome::Limbo => &mut self.limbo,
            Outcome::Void => &mut self.void,
        } += 1;
    }

    /// Attempts that a client would call failed.
    pub(super) fn failed(&self) -> u64 {
        self.wrong + self.reset + self.refused + self.limbo
    }

    /// Attempts whose connection ended under them.
    fn cut(&self) -> u64 {
        self.reset + self.retried
    }

    fn with(self, other: Self, sum: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            attempts: sum(self.attempts, other.attempts),
            right: sum(self.right, other.right),
            retried: sum(self.retried, other.retried),
            wrong: sum(self.wrong, other.wrong),
            reset: sum(self.reset, other.reset),
            refused: sum(self.refused, other.refused),
            limbo: sum(self.limbo, other.limbo),
            void: sum(self.void, other.void),
        }
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    /// What has come since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }
}

/// An attempt worth a line of its own: it failed, or took long.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Notable {
    /// When its connection was opened, in seconds since the drill began.
    pub(super) opened: f64,
    /// When the request was begun.
    pub(super) begun: f64,
    /// When it ended.
    pub(super) ended: f64,
    /// Was it the first on its connection?
    pub(super) first: bool,
    /// Does its client keep connections?
    pub(super) keeps: bool,
    /// The client's port.
    pub(super) port: u16,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// In words, where there is something to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) detail: String,
}

impl Notable {
    /// Was its connection opened between `from` and `to`, and did its first answer take long?
    pub(super) fn is_new_and_slow(&self, from: f64, to: f64) -> bool {
        self.first
            && self.outcome != Outcome::Void
            && (from..=to).contains(&self.opened)
            && self.ended - self.opened > SLOW.as_secs_f64()
    }
}

/// One fault and what came of it: a raw row.
#[derive(Debug, Default, Clone, Serialize)]
pub(super) struct Row {
    /// What was done.
    pub(super) fault: String,
    /// When, in seconds since the drill began.
    pub(super) at: f64,
    /// Until the cluster was as it should be again.
    pub(super) seconds: f64,
    /// What clients saw meanwhile.
    pub(super) ledger: Ledger,
    /// What was counted.
    pub(super) facts: BTreeMap<&'static str, u64>,
    /// What went otherwise than it should.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) broken: Vec<String>,
}

/// The faults of one mode.
#[derive(Debug, Default, Serialize)]
pub(super) struct Leg {
    /// The mode that it began in.
    pub(super) mode: String,
    /// Faults that were to happen.
    pub(super) planned: u64,
    /// What clients saw.
    pub(super) ledger: Ledger,
    /// Requests that reached the upstream more than once; `None`: it is not ours to ask.
    pub(super) served_twice: Option<u64>,
    /// By how much `pointsman_connections_lost_total` grew.
    pub(super) lost: u64,
    /// By how much `pointsman_worker_restarts_total{reason="killed"}` grew.
    pub(super) restarts: u64,
    /// How often a worker was found stuck.
    pub(super) hung: u64,
    /// After the first fault, with all clients gone.
    pub(super) before: Option<Footprint>,
    /// After the last one, with all clients gone.
    pub(super) after: Option<Footprint>,
    /// Connections open when all clients were gone.
    pub(super) open_after: Option<u64>,
    /// What went wrong besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) broken: Vec<String>,
    /// Every fault.
    pub(super) faults: Vec<Row>,
    /// Attempts that failed or took long.
    pub(super) notables: Vec<Notable>,
}

/// One promise, kept or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Promise {
    /// What must hold.
    pub(super) promise: &'static str,
    /// Did it?
    pub(super) held: bool,
    /// Where it did not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) broken: Vec<String>,
}

/// Looks at `legs` for whatever must hold in a drill of this kind.
pub(super) fn judge(kind: Kind, legs: &[Leg]) -> Vec<Promise> {
    let mut promises = Vec::new();
    let mut hold = |promise, check: &dyn Fn(&Leg) -> Vec<String>| {
        let broken: Vec<String> = legs
            .iter()
            .flat_map(|leg| {
                check(leg)
                    .into_iter()
                    .map(|text| format!("{}: {text}", leg.mode))
            })
            .collect();
        promises.push(Promise {
            promise,
            held: broken.is_empty() && !legs.is_empty(),
            broken,
        });
    };
    let none = |n: u64, what: &str| -> Vec<String> {
        (n > 0).then(|| format!("{n} {what}")).into_iter().collect()
    };

    hold("no client was refused", &|leg| {
        none(leg.ledger.refused, "refused")
    });
    hold("no client waited in vain", &|leg| {
        none(leg.ledger.limbo, "without an answer or a close in 2 s")
    });
    hold(FAST_ENOUGH, &|leg| {
        let Ledger { void, attempts, .. } = leg.ledger;
        let text = format!("{void} of {attempts} attempts met a machine that stood still itself");
        (void * VOID > attempts)
            .then_some(text)
            .into_iter()
            .collect()
    });
    hold("no client got a wrong answer", &|leg| {
        none(leg.ledger.wrong, "wrong answers")
    });
    if legs.iter().any(|leg| leg.served_twice.is_some()) {
        hold("no request was served twice", &|leg| {
            none(leg.served_twice.unwrap_or(0), "served twice")
        });
    }
    match kind {
        Kind::Kill => {
            hold(
                "every connection that a client lost is counted as lost",
                &|leg| {
                    let Leg { ledger, lost, .. } = leg;
                    let text = format!(
                        "{} reset and {} retried, but {lost} counted as lost",
                        ledger.reset, ledger.retried
                    );
                    (ledger.cut() > *lost).then_some(text).into_iter().collect()
                },
            );
            hold(
                "nothing is counted as lost that no worker held",
                &more_lost_than_held,
            );
            hold("every death is counted as a restart", &|leg| {
                let (deaths, restarts) = (leg.faults.len() as u64, leg.restarts);
                let text = format!("{deaths} killed, {restarts} restarts counted");
                (deaths != restarts).then_some(text).into_iter().collect()
            });
        }
        Kind::Stop
        | Kind::Healthy
        | Kind::Restart
        | Kind::Reload
        | Kind::Upgrade
        | Kind::Switch => {
            hold("no connection ended under a client", &|leg| {
                none(leg.ledger.reset, "reset")
            });
            // Many a client sends such a request again by itself, but not if it is a POST.
            hold("no request met a closing connection", &|leg| {
                none(leg.ledger.retried, "had to be sent again")
            });
        }
    }
    if kind != Kind::Kill {
        // Clients may not have noticed: kept connections may end between two requests.
        hold("no worker died", &|leg| {
            none(leg.restarts, "killed")
                .into_iter()
                .chain(none(leg.lost, "connections lost with a worker"))
                .collect()
        });
    }
    match kind {
        Kind::Stop => hold(
            "at most 5 new connections met each stopped worker",
            &|leg| {
                let too_many = |row: &Row| {
                    let fact = |name| row.facts.get(name).copied().unwrap_or(0);
                    let (slow, given) = (fact("new_and_slow"), fact("given"));
                    let text = format!(
                        "{}: {slow} new ones waited, {given} were left with it",
                        row.fault
                    );
                    (slow.max(given) > TOUCHED).then_some(text)
                };
                leg.faults.iter().filter_map(too_many).collect()
            },
        ),
        Kind::Healthy => hold("no worker was taken for stuck", &|leg| {
            none(leg.hung, "false evictions")
        }),
        _ => {}
    }
    hold("everything happened as it should", &|leg| {
        let rows = leg.faults.iter().enumerate().flat_map(|(i, row)| {
            let name = move |text: &String| format!("fault {} ({}): {text}", i + 1, row.fault);
            row.broken.iter().map(name)
        });
        rows.chain(leg.broken.iter().cloned()).collect()
    });
    hold("every fault took place, under load", &|leg| {
        let (planned, done, right) = (leg.planned, leg.faults.len() as u64, leg.ledger.right);
        let fewer = (done != planned).then(|| format!("{done} of {planned} faults took place"));
        let idle = (right < ANSWERS * planned)
            .then(|| format!("only {right} answers around {planned} faults"));
        fewer.into_iter().chain(idle).collect()
    });
    hold("descriptors, memory and processes are back", &|leg| {
        let (Some(before), Some(after)) = (leg.before, leg.after) else {
            return vec!["they could not be looked at".into()];
        };
        let grown = [
            (
                "descriptors of the master",
                before.descriptors,
                after.descriptors,
                0,
            ),
            (
                "KiB of the master's memory",
                before.rss_kib,
                after.rss_kib,
                GROWTH_KIB,
            ),
            ("processes", before.processes, after.processes, 0),
            ("zombies", 0, after.zombies, 0),
        ];
        grown
            .into_iter()
            .filter(|(_, before, after, more)| *after > before + more)
            .map(|(what, before, after, _)| format!("{before} {what} before, {after} after"))
            .collect()
    });
    hold("no connection is left open", &|leg| match leg.open_after {
        Some(n) => none(n, "open after all clients had gone"),
        None => vec!["it could not be looked at".into()],
    });
    promises
}

/// What is counted as lost with each killed worker, against what that worker can have held.
///
/// A moving worker takes connections between the look at it and its end; any that clients were just
/// opening may be its own ([`MAY_HAVE_TAKEN`]). That bound is sound and loose: a dispatcher that drops
/// what a dead worker had not claimed, and calls it lost, would stay below it. So every other worker
/// stands still when it is looked at, long enough to be handed some, and takes nothing from then on:
/// what it held is known exactly, and what it was handed meanwhile is unclaimed. Such a dispatcher
/// would count some of these too, at nearly every fault of a leg. What may rightly come on top is a
/// connection in the midst of being taken when the worker stopped: that is a microsecond of it, hence
/// hardly ever, and more than that in a leg are no accident.
fn more_lost_than_held(leg: &Leg) -> Vec<String> {
    let fact = |row: &Row, name| row.facts.get(name).copied();
    let mut broken = Vec::new();
    let (mut stood, mut above) = (0, 0);
    for (i, row) in leg.faults.iter().enumerate() {
        let (lost, open) = (fact(row, LOST), fact(row, OPEN));
        let (Some(lost), Some(open)) = (lost, open) else {
            broken.push(format!("fault {}: nobody knows what was lost", i + 1));
            continue;
        };
        match fact(row, MAY_HAVE_TAKEN) {
            Some(taken) if lost > open + taken => broken.push(format!(
                "fault {} ({}): {lost} counted as lost, but it held {open} and took {taken} at most",
                i + 1,
                row.fault
            )),
            Some(_) => {}
            None => {
                stood += 1;
                above += lost.saturating_sub(open);
            }
        }
    }
    if above > 1 + stood / IN_THE_MIDST {
        broken.push(format!(
            "{above} counted as lost beyond what {stood} workers that stood still held"
        ));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kind; 7] = [
        Kind::Kill,
        Kind::Stop,
        Kind::Healthy,
        Kind::Restart,
        Kind::Reload,
        Kind::Upgrade,
        Kind::Switch,
    ];

    /// A worker that held so many was killed, and so many were lost.
    fn kill(open: u64, lost: u64, taken: Option<u64>) -> Row {
        let facts = [
            (OPEN, Some(open)),
            (LOST, Some(lost)),
            (MAY_HAVE_TAKEN, taken),
        ];
        let facts = facts.into_iter().filter_map(|(name, n)| Some((name, n?)));
        Row {
            facts: facts.collect(),
            ..Row::default()
        }
    }

    /// A leg in which every promise is kept.
    fn good() -> Leg {
        let ledger = Ledger {
            attempts: 100,
            right: 100,
            ..Ledger::default()
        };
        let footprint = Footprint {
            descriptors: 30,
            rss_kib: 9000,
            processes: 4,
            zombies: 0,
        };
        Leg {
            mode: "handoff".into(),
            planned: 2,
            ledger,
            served_twice: Some(0),
            restarts: 2,
            before: Some(footprint),
            after: Some(footprint),
            open_after: Some(0),
            faults: vec![kill(2, 2, Some(3)), kill(1, 1, None)],
            ..Leg::default()
        }
    }

    /// The promises that `spoil` breaks, in a drill of this kind.
    fn broken(kind: Kind, spoil: impl Fn(&mut Leg)) -> Vec<&'static str> {
        let good = || Leg {
            restarts: if kind == Kind::Kill { 2 } else { 0 },
            ..good()
        };
        let mut bad = good();
        spoil(&mut bad);
        // One bad leg among good ones is enough.
        let promises = judge(kind, &[good(), bad, good()]);
        promises
            .iter()
            .filter(|p| !p.held)
            .map(|p| p.promise)
            .collect()
    }

    #[test]
    fn what_is_kept_is_kept() {
        for kind in ALL {
            assert_eq!(broken(kind, |_| {}), [""; 0], "{kind:?}");
        }
    }

    #[test]
    fn nothing_at_all_keeps_no_promise() {
        for kind in ALL {
            assert!(judge(kind, &[]).iter().all(|p| !p.held), "{kind:?}");
        }
    }

    #[test]
    fn what_breaks_a_promise_in_every_drill_is_noticed() {
        type Spoil = fn(&mut Leg);
        let spoils: [(&str, Spoil); 15] = [
            ("no client was refused", |leg| leg.ledger.refused = 1),
            ("no client waited in vain", |leg| leg.ledger.limbo = 1),
            ("no client got a wrong answer", |leg| leg.ledger.wrong = 1),
            ("no request was served twice", |leg| {
                leg.served_twice = Some(1);
            }),
            ("everything happened as it should", |leg| {
                leg.faults[1].broken.push("pid changed".into());
            }),
            ("everything happened as it should", |leg| {
                leg.broken.push("the master is gone".into());
            }),
            ("every fault took place, under load", |leg| leg.planned = 3),
            ("every fault took place, under load", |leg| {
                leg.ledger.right = 19;
            }),
            ("descriptors, memory and processes are back", |leg| {
                leg.after = None;
            }),
            ("no connection is left open", |leg| leg.open_after = None),
            ("no connection is left open", |leg| leg.open_after = Some(1)),
            ("descriptors, memory and processes are back", |leg| {
                leg.after.as_mut().expect("good").descriptors += 1;
            }),
            ("descriptors, memory and processes are back", |leg| {
                leg.after.as_mut().expect("good").rss_kib += GROWTH_KIB + 1;
            }),
            ("descriptors, memory and processes are back", |leg| {
                leg.after.as_mut().expect("good").processes += 1;
            }),
            ("descriptors, memory and processes are back", |leg| {
                leg.after.as_mut().expect("good").zombies += 1;
            }),
        ];
        for kind in ALL {
            for (promise, spoil) in spoils {
                assert_eq!(broken(kind, spoil), [promise], "{kind:?}");
            }
        }
    }

    #[test]
    fn a_reset_is_forgiven_only_to_a_killed_worker_and_only_if_it_is_counted() {
        let ended = "no connection ended under a client";
        for kind in ALL {
            let expected: &[&str] = match kind {
                Kind::Kill => &[],
                _ => &[ended],
            };
            let counted = |leg: &mut Leg| {
                (leg.ledger.reset, leg.lost) = (1, u64::from(kind == Kind::Kill));
            };
            assert_eq!(broken(kind, counted), expected, "{kind:?}");
            let expected: &[&str] = match kind {
                Kind::Kill => &[],
                _ => &["no request met a closing connection"],
            };
            let retried = |leg: &mut Leg| {
                (leg.ledger.retried, leg.lost) = (1, u64::from(kind == Kind::Kill));
            };
            assert_eq!(broken(kind, retried), expected, "{kind:?}");
        }
        let uncounted = ["every connection that a client lost is counted as lost"];
        assert_eq!(broken(Kind::Kill, |leg| leg.ledger.reset = 1), uncounted);
        let both = |leg: &mut Leg| {
            (leg.ledger.reset, leg.ledger.retried, leg.lost) = (1, 1, 1);
        };
        assert_eq!(broken(Kind::Kill, both), uncounted);
        for restarts in [1, 3] {
            assert_eq!(
                broken(Kind::Kill, |leg| leg.restarts = restarts),
                ["every death is counted as a restart"]
            );
        }
    }

    #[test]
    fn what_a_dead_worker_had_not_claimed_may_not_be_counted_as_lost() {
        let promise = ["nothing is counted as lost that no worker held"];
        let with = |faults: Vec<Row>| {
            broken(Kind::Kill, move |leg| {
                leg.planned = faults.len() as u64;
                leg.restarts = leg.planned;
                leg.ledger.right = 10 * leg.planned;
                leg.faults.clone_from(&faults);
            })
        };
        // One that moves may have taken those that were on their way, and no more than those.
        assert_eq!(with(vec![kill(2, 5, Some(3))]), [""; 0]);
        assert_eq!(with(vec![kill(2, 6, Some(3))]), promise);
        // One that stands still takes none, but for one that it was just taking, once in a leg.
        assert_eq!(with(vec![kill(2, 3, None), kill(2, 2, None)]), [""; 0]);
        assert_eq!(with(vec![kill(2, 4, None)]), promise);
        // A dispatcher that drops one of them every time hides behind no bound for a whole leg.
        let legs = |n| {
            (0..n)
                .map(|i| kill(2, 3, (i % 2 == 0).then_some(4)))
                .collect()
        };
        for n in [4, 25, 250] {
            assert_eq!(with(legs(n)), promise, "{n}");
        }
        assert_eq!(with(vec![Row::default()]), promise);
    }

    #[test]
    fn a_slow_machine_is_blamed_for_slowness_alone_and_not_for_much_of_it() {
        for outcome in [
            Outcome::Wrong,
            Outcome::Reset,
            Outcome::Refused,
            Outcome::Retried,
        ] {
            assert_eq!(outcome.excused(true), outcome);
        }
        assert_eq!(Outcome::Right.excused(false), Outcome::Right);
        assert_eq!(Outcome::Right.excused(true), Outcome::Void);
        assert_eq!(Outcome::Limbo.excused(true), Outcome::Void);
        for kind in ALL {
            assert_eq!(broken(kind, |leg| leg.ledger.void = 2), [""; 0]);
            assert_eq!(broken(kind, |leg| leg.ledger.void = 3), [FAST_ENOUGH]);
        }
    }

    #[test]
    fn a_worker_that_died_uncalled_for_is_noticed_even_if_no_client_did() {
        for kind in ALL.into_iter().filter(|kind| *kind != Kind::Kill) {
            let spoils: [fn(&mut Leg); 2] = [|leg| leg.restarts = 1, |leg| leg.lost = 1];
            for spoil in spoils {
                assert_eq!(broken(kind, spoil), ["no worker died"], "{kind:?}");
            }
        }
    }

    #[test]
    fn a_stopped_worker_may_hold_up_five_and_a_healthy_one_may_not_be_evicted() {
        for fact in ["new_and_slow", "given"] {
            let with = |n| {
                broken(Kind::Stop, move |leg| {
                    _ = leg.faults[0].facts.insert(fact, n)
                })
            };
            assert_eq!(with(5), [""; 0]);
            assert_eq!(
                with(6),
                ["at most 5 new connections met each stopped worker"]
            );
        }
        assert_eq!(broken(Kind::Stop, |leg| leg.hung = 1), [""; 0]);
        assert_eq!(
            broken(Kind::Healthy, |leg| leg.hung = 1),
            ["no worker was taken for stuck"]
        );
    }

    #[test]
    fn an_upstream_of_somebody_elses_is_not_said_to_have_served_once() {
        let mut leg = good();
        leg.served_twice = None;
        let promises = judge(Kind::Kill, &[leg]);
        assert!(promises.iter().all(|p| p.held));
        assert!(!promises.iter().any(|p| p.promise.contains("twice")));
    }

    #[test]
    fn every_attempt_is_counted_once_and_under_its_own_name() {
        let outcomes = [
            Outcome::Right,
            Outcome::Retried,
            Outcome::Wrong,
            Outcome::Reset,
            Outcome::Refused,
            Outcome::Limbo,
            Outcome::Void,
        ];
        for outcome in outcomes {
            let mut ledger = Ledger::default();
            ledger.count(outcome);
            let json = serde_json::to_value(ledger).expect("plain data");
            let name = serde_json::to_value(outcome).expect("plain data");
            assert_eq!(json[name.as_str().expect("a name")], 1);
            let fields = json.as_object().expect("an object").values();
            assert_eq!(fields.filter_map(|v| v.as_u64()).sum::<u64>(), 2, "{json}");
            let twice = ledger.plus(ledger);
            assert_eq!((twice.attempts, twice.since(ledger)), (2, ledger));
            let failed = !matches!(outcome, Outcome::Right | Outcome::Retried | Outcome::Void);
            assert_eq!(ledger.failed(), u64::from(failed));
        }
    }

    #[test]
    fn only_a_new_connection_opened_in_time_counts_as_held_up() {
        let notable = |opened, ended, first| Notable {
            opened,
            begun: opened,
            ended,
            first,
            keeps: false,
            port: 1,
            outcome: Outcome::Right,
            detail: String::new(),
        };
        assert!(notable(1.1, 1.4, true).is_new_and_slow(1.0, 1.5));
        assert!(!notable(1.1, 1.3, true).is_new_and_slow(1.0, 1.5));
        assert!(!notable(0.9, 1.4, true).is_new_and_slow(1.0, 1.5));
        assert!(!notable(1.6, 2.0, true).is_new_and_slow(1.0, 1.5));
        assert!(!notable(1.1, 1.4, false).is_new_and_slow(1.0, 1.5));
        let mut void = notable(1.1, 1.4, true);
        void.outcome = Outcome::Void;
        assert!(!void.is_new_and_slow(1.0, 1.5));
    }
}
