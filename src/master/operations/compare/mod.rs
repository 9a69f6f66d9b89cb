//! A comparison on live traffic: the arms take turns, each for a block, by ordinary switches, which lose
//! nothing; what the scoreboard counts meanwhile is kept. Whatever ends it, the arm that was there before
//! is put back: at its end, when somebody ends it, when whoever asked has gone, when clients fare worse
//! than the guard allows, and when it fails. Only a master that stops is left as it is.

mod design;
mod guard;
mod meter;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    thread,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, oneshot},
    task::spawn_local,
    time::{Instant, sleep, sleep_until},
};

use self::{design::Design, meter::Meter};
use super::Teller;
use crate::{
    compare::{Circumstances, Comparison, Ending, Report},
    control::{Asked, ComparePlan, Line},
    error::{Error, Result},
    master::{dispatcher::Rules, supervisor::Supervisor},
    notice,
};

/// What is measured is judged after each block as long as that takes less than this part of one.
const JUDGING: u32 = 50;

/// Lets the comparison that goes on be ended from outside.
#[derive(Debug, Default)]
pub(in crate::master) struct Halt {
    wanted: Cell<bool>,
    changed: Notify,
}

/// How a comparison came to its end.
enum End {
    /// All blocks are measured.
    Complete,
    /// Somebody ended it, in these words.
    Interrupted(&'static str),
    /// Clients fared worse, in these words.
    Guarded(String),
}

/// A comparison under way.
struct Course {
    design: Design,
    /// What connections are dispatched by, but for the arm; and the arm that will be put back.
    before: Rules,
    began: Instant,
    halt: Rc<Halt>,
    teller: Teller,
    /// What was measured so far. Here, so that it outlives a panic of the measuring.
    comparison: RefCell<Comparison>,
}

impl Supervisor {
    /// Compares as `plan` says, and puts back what was there.
    pub(super) async fn compare(
        self: &Rc<Self>,
        plan: ComparePlan,
        teller: &Teller,
    ) -> Result<String> {
        let before = self.state.borrow().rules.clone();
        if before.paused {
            return Err(Error::usage(
                "nothing is accepted now, so there is nothing to compare: 'pointsman ctl resume' first",
            ));
        }
        let design = Design::of(plan, before.arm, |arm| self.allows(arm))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seed = now.map_or(0, |now| now.as_secs());
        let circumstances = Circumstances::here(design.plan.command(), seed);
        let comparison = design.comparison(self.status.lock().workers, circumstances);
        let halt = Rc::new(Halt::default());
        self.state.borrow_mut().comparing = Some(halt.clone());
        let course = Rc::new(Course {
            design,
            before: before.clone(),
            began: Instant::now(),
            halt,
            teller: teller.clone(),
            comparison: comparison.into(),
        });
        // A task of its own: should it panic, the arm from before must still be put back.
        let measured = spawn_local({
            let (this, course) = (self.clone(), course.clone());
            async move { this.measure(&course).await }
        });
        let end = measured.await.unwrap_or_else(|_| {
            Err(Error::failed(
                "it panicked, which is our fault: please report it",
            ))
        });
        let arm = before.arm;
        let back = self.put_back(before).await;
        let outcome = self.conclude(&course, end).await;
        if self.status.lock().stopping {
            return outcome;
        }
        match (back, outcome) {
            (Ok(()), Ok(text)) => Ok(format!("{text}; mode {arm} as before")),
            (Ok(()), Err(error)) => Err(Error::failed(format!("{error}; mode {arm} is back"))),
            (Err(back), Ok(text)) => Err(Error::failed(format!(
                "{text}, but mode {arm} could not be put back: {back}"
            ))),
            (Err(back), Err(error)) => Err(Error::failed(format!(
                "{error}, and mode {arm} could not be put back: {back}"
            ))),
        }
    }

    /// Ends the comparison that goes on, and answers when the arm from before is back.
    pub(super) fn end_comparison(self: &Rc<Self>, asked: Asked) {
        let Asked { by, answer, .. } = asked;
        let teller = Teller(answer);
        let Some(halt) = self.state.borrow().comparing.clone() else {
            let error = "no comparison is under way: there is nothing to end".into();
            return teller.tell(Line::Failed { error, busy: false });
        };
        notice(format_args!("compare stop ({by})"));
        halt.wanted.set(true);
        halt.changed.notify_waiters();
        let this = self.clone();
        spawn_local(async move {
            let is_over = |comparing: &Option<Rc<Halt>>| match comparing {
                Some(present) => !Rc::ptr_eq(present, &halt),
                None => true,
            };
            this.until(|state| is_over(&state.comparing).then_some(()))
                .await;
            let arm = this.state.borrow().rules.arm;
            let text = format!("the comparison has ended; mode {arm}");
            teller.tell(Line::Done { text });
        });
    }

    /// Measures block after block.
    async fn measure(&self, course: &Course) -> Result<End> {
        let design = &course.design;
        let blocks = design.plan.rounds as usize * design.arms.len();
        self.publish(course).await?;
        let mut judging = Duration::ZERO;
        for (done, (round, place, arm)) in design.blocks().enumerate() {
            let left = design.plan.block() * (blocks - done) as u32;
            let name = design.arms[arm];
            let rounds = design.plan.rounds;
            course.teller.say(format!(
                "round {round} of {rounds}: {name}, {} left",
                in_words(left)
            ));
            self.status.lock().operation =
                Some(format!("compare: round {round} of {rounds}, {name}"));
            if let Some(end) = self.block(course, round, place, arm).await? {
                return Ok(end);
            }
            // The more there is, the longer it takes to judge: not for every block where blocks are short.
            if judging < design.plan.block() / JUDGING || place as usize == design.arms.len() {
                let begun = Instant::now();
                self.publish(course).await?;
                judging = begun.elapsed();
            }
        }
        Ok(End::Complete)
    }

    /// Measures one block. `Some`: it is the last, for this reason.
    async fn block(
        &self,
        course: &Course,
        round: u32,
        place: u32,
        arm: usize,
    ) -> Result<Option<End>> {
        let design = &course.design;
        let ends = Instant::now() + design.plan.block();
        if let Some(why) = self.is_halted(course) {
            return Ok(Some(End::Interrupted(why)));
        }
        let dispatch = design.arms[arm];
        if self.state.borrow().rules.arm != dispatch {
            let rules = Rules {
                arm: dispatch,
                ..course.before.clone()
            };
            self.switch(rules).await?;
        }
        if design.plan.renew {
            // In every block, whichever arm was there before: what that costs is to be alike.
            self.board.renew();
        }
        tokio::select! {
            why = self.halted(course) => return Ok(Some(End::Interrupted(why))),
            () = sleep(design.settling()) => {}
        }
        let blank = meter::blank(arm, round, place, course.began.elapsed());
        let mut meter = Meter::begin(&self.status, dispatch, blank)?;
        let mut before = None;
        loop {
            meter.look(design.picture());
            let now = Instant::now();
            if now >= ends {
                break;
            }
            tokio::select! {
                why = self.halted(course) => return Ok(Some(End::Interrupted(why))),
                () = sleep_until(ends.min(now + design.look())) => {}
            }
            let so_far = meter.so_far();
            let objection = guard::objection(
                design,
                &course.comparison.borrow().blocks,
                &so_far,
                before.as_ref(),
            );
            before = Some(so_far);
            if let Some(why) = objection {
                // What the guard saw is shown too.
                course.comparison.borrow_mut().blocks.push(meter.end()?);
                return Ok(Some(End::Guarded(why)));
            }
        }
        course.comparison.borrow_mut().blocks.push(meter.end()?);
        Ok(None)
    }

    /// Is it to end before its time? Why, then.
    fn is_halted(&self, course: &Course) -> Option<&'static str> {
        if self.status.lock().stopping {
            return Some("the master stops");
        }
        if course.halt.wanted.get() {
            return Some("somebody ended it");
        }
        (course.teller.is_gone() && !course.design.plan.unattended)
            .then_some("whoever asked has gone")
    }

    /// Waits until it is to end before its time.
    async fn halted(&self, course: &Course) -> &'static str {
        loop {
            let (halted, changed) = (course.halt.changed.notified(), self.changed.notified());
            if let Some(why) = self.is_halted(course) {
                return why;
            }
            tokio::select! {
                () = halted => {}
                () = changed => {}
                () = course.teller.gone(), if !course.design.plan.unattended => {}
            }
        }
    }

    /// The arm from before is in force again; unless the master stops, where that would only disturb.
    async fn put_back(&self, before: Rules) -> Result<()> {
        let differs = self.state.borrow().rules != before;
        if !differs || self.status.lock().stopping {
            return Ok(());
        }
        self.switch(before).await
    }

    /// Says how it ended, in the report and in words.
    async fn conclude(&self, course: &Course, end: Result<End>) -> Result<String> {
        let (ending, outcome) = match end {
            Ok(End::Complete) => (Ending::Complete, Ok(String::from("compared"))),
            Ok(End::Interrupted(why)) => (
                Ending::Interrupted,
                Ok(format!("ended early, for {why}: compared")),
            ),
            Ok(End::Guarded(why)) => (
                Ending::Guarded { why: why.clone() },
                Err(Error::failed(why)),
            ),
            Err(error) => {
                let why = error.to_string();
                (Ending::Failed { why }, Err(error))
            }
        };
        course.comparison.borrow_mut().ending = ending.clone();
        if self.status.lock().stopping {
            self.end_shown(ending);
            return Err(Error::failed(
                "the comparison ended early, for the master stops",
            ));
        }
        if let Err(error) = self.publish(course).await {
            self.end_shown(ending);
            return Err(outcome.err().unwrap_or(error));
        }
        let text = outcome?;
        let comparison = course.comparison.borrow();
        let requests: u64 = comparison
            .blocks
            .iter()
            .map(|b| b.requests + b.errors)
            .sum();
        let nothing = match requests {
            0 => ", and no request came meanwhile, so nothing can be said",
            _ => "",
        };
        let (arms, blocks) = (comparison.arms.len(), comparison.blocks.len());
        Ok(format!("{text} {arms} arms in {blocks} blocks{nothing}"))
    }

    /// What was shown last stays, but must not seem to go on.
    fn end_shown(&self, ending: Ending) {
        if let Some(report) = &mut self.status.lock().comparison {
            report.comparison.ending = ending;
        }
    }

    /// Shows what was measured so far, and what it says, at `/comparison`.
    async fn publish(&self, course: &Course) -> Result<()> {
        let comparison = course.comparison.borrow().clone();
        let report = judged(comparison).await?;
        self.status.lock().comparison = Some(report);
        Ok(())
    }
}

/// What the comparison says. That takes a while, in which the supervisor has other things to do: a
/// thread of its own finds out, and has ended when this returns, so that no block measures it.
async fn judged(comparison: Comparison) -> Result<Report> {
    let (tell, told) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name("summary".into());
    let thread = thread
        .spawn(move || {
            let report = comparison.report();
            drop(tell);
            report
        })
        .map_err(|error| {
            Error::runtime("cannot start a thread to judge what was measured", error)
        })?;
    // It is dropped, whether there is a report or a panic.
    let _ = told.await;
    thread
        .join()
        .map_err(|_| Error::failed("what was measured could not be judged: that is our fault"))
}

/// `41 s`, `12 min`.
fn in_words(left: Duration) -> String {
    match left.as_secs() {
        0..100 => format!("{:.0} s", left.as_secs_f64().ceil()),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}
