//! The dispatcher's last decisions, explained. What they were made from is asked of the dispatcher, which
//! only copies it; the scores and the words are made here, on the control runtime.

use std::rc::Rc;

use super::{control::Explain, supervisor::Supervisor};
use crate::{
    control::{CandidateReport, DecisionReport, DecisionsReport},
    dispatch::{
        decision::{Decision, Recorded},
        policy::{Candidate, Policy, Score},
        shadow::Shadow,
    },
    status::{Seat, Status, since},
};

impl Supervisor {
    /// What answers who asks for decisions.
    pub(super) fn explainer(self: &Rc<Self>) -> Explain {
        let this = Rc::downgrade(self);
        Box::new(move |last| {
            let this = this.upgrade();
            Box::pin(async move {
                let this = this?;
                // The one that is there now: an upgrade that is given up starts another.
                let dispatcher = this.state.borrow().dispatcher.clone();
                let recorded = dispatcher.decisions(last).await?;
                Some(report(&this.status, &recorded))
            })
        })
    }
}

fn report(status: &Status, recorded: &[Recorded]) -> DecisionsReport {
    let known = status.lock();
    let arm = known.arm;
    let listener = |number: u8| {
        let listener = known.listeners.get(usize::from(number));
        listener.map_or_else(String::new, |listener| listener.address.clone())
    };
    DecisionsReport {
        mode: arm.mode().name().into(),
        policy: arm.policy_name().into(),
        others: arm.mode().other_chooser().map(String::from),
        decisions: recorded
            .iter()
            .map(|(decision, candidates)| {
                explained(decision, candidates, listener(decision.listener))
            })
            .collect(),
    }
}

fn explained(decision: &Decision, candidates: &[Candidate], listener: String) -> DecisionReport {
    let explanation = decision.explain(candidates);
    let name = |i: usize| Seat::label(candidates[i].seat);
    let policy = decision.policy();
    let by_load = policy == Policy::LeastLoaded;
    let reports = candidates.iter().zip(&explanation.scores).enumerate();
    let candidate = |(i, (candidate, score)): (usize, (&Candidate, &Score))| {
        let (load, turn, weight) = match *score {
            Score::Turn(turn) => (None, Some(turn), None),
            Score::Load { load, turn } => (Some(load), Some(turn), None),
            Score::Weight(weight) => (None, None, Some(weight as f64 / u64::MAX as f64)),
        };
        CandidateReport {
            worker: name(i),
            ready: candidate.ready,
            load,
            turn,
            weight,
            chosen: i == decision.chosen,
        }
    };
    let shadow = |shadow: Shadow| {
        let seat = decision.shadows.seat(shadow)?;
        Some((shadow.name().to_owned(), Seat::label(seat)))
    };
    DecisionReport {
        seconds_ago: since(decision.at).as_secs_f64(),
        client: decision.peer.to_string(),
        listener,
        mode: decision.arm.mode().name().into(),
        policy: policy.name().into(),
        load_signal: by_load.then(|| decision.signal.name().into()),
        redispatched: decision.again,
        worker: name(decision.chosen),
        why: explanation.why.words(name),
        pin: decision.pin().map(|pin| pin.from.to_string()),
        group: decision.pin().map(|pin| pin.to.clone()),
        candidates: reports.map(candidate).collect(),
        shadows: Shadow::ALL.into_iter().filter_map(shadow).collect(),
    }
}
