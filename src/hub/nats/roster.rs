//! Which masters are on NATS, and what of theirs is to be believed. Pure.
//!
//! Two masters are *met* once each has heard the other say something that names its own present sitting:
//! that is proof that the other is there now, and no recording. Whoever hears a beat of one that it has not
//! met greets it, and a greeting is answered.

use std::collections::{HashMap, hash_map::Entry};

use super::envelope::{Dropped, Envelope, Kind, Sign, Sitting};
use crate::bus::MasterId;

/// The most masters that are remembered, met or not: with them all, no other is listened to.
const MOST: usize = 1024;
/// How long one that has not been met is remembered at the most, whatever it declares: whoever makes masters
/// up is not to keep others out for long. Nanoseconds.
const STRANGER_NS: u64 = 10_000_000_000;
/// An expiry that a master may declare; milliseconds.
const EXPIRY_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;

/// Who is there.
#[derive(Debug)]
pub(crate) struct Roster {
    me: MasterId,
    born: u64,
    /// The present sitting; 0: none yet.
    sitting: u64,
    /// Signs of life sent to all in it.
    beats: u64,
    masters: HashMap<MasterId, Met>,
    /// When it was last looked who is silent.
    looked: Option<u64>,
}

/// What is known of another master.
#[derive(Debug)]
struct Met {
    sitting: u64,
    /// The last counter of what came for all, of what came for us, and of what went there.
    beats: u64,
    came: u64,
    went: u64,
    /// It has named our present sitting in its present one.
    proven: bool,
    /// The hub has a link to it.
    linked: bool,
    /// Something from it has been lost since it was last asked for all it knows.
    missed: bool,
    expiry_ns: u64,
    silent_at: u64,
}

/// What follows from something that was heard.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Heard {
    /// Whoever said it is to be greeted, and told whether it has been heard.
    pub(crate) greet: Option<(Sitting, bool)>,
    /// What becomes of its link.
    pub(crate) link: Option<Link>,
    /// What it says of itself.
    pub(crate) sign: Option<Sign>,
    /// Messages lost on the way before this one.
    pub(crate) lost: u64,
    /// Another has our name, and is the elder: we are to go.
    pub(crate) usurper: bool,
}

/// What becomes of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// It begins.
    Opens,
    /// Something may have been missed: each is to tell the other all it knows.
    Renews,
}

impl Roster {
    /// Nobody is known yet to `me`, which first started at `born`.
    pub(crate) fn new(me: MasterId, born: u64) -> Self {
        Self {
            me,
            born,
            sitting: 0,
            beats: 0,
            masters: HashMap::new(),
            looked: None,
        }
    }

    /// Another sitting begins, at `time`, nanoseconds since 1970. Who was met must be met again; until
    /// then links stay as they are.
    pub(crate) fn sit_down(&mut self, time: u64) {
        // Even if the clock has been set back.
        self.sitting = time.max(self.sitting + 1);
        self.beats = 0;
        // Nothing that these have said was for this sitting: it needs no remembering.
        self.masters.retain(|_, met| met.linked);
        for met in self.masters.values_mut() {
            met.went = 0;
            met.came = 0;
            met.proven = false;
        }
    }

    /// Who we are.
    pub(crate) fn here(&self) -> Sitting {
        Sitting {
            master: self.me,
            number: self.sitting,
        }
    }

    /// The masters that there is a link to.
    pub(crate) fn linked(&self) -> usize {
        self.masters.values().filter(|met| met.linked).count()
    }

    /// The counter for a sign of life to all.
    pub(crate) fn beat(&mut self) -> u64 {
        self.beats += 1;
        self.beats
    }

    /// The sitting and the counter for a packet to `master`; `None`: it has not been met.
    pub(crate) fn address(&mut self, master: MasterId) -> Option<(Sitting, u64)> {
        let met = self.masters.get_mut(&master)?;
        let there = Sitting {
            master,
            number: met.sitting,
        };
        (met.proven && met.linked).then(|| (there, met.next()))
    }

    /// The counter for a greeting; to another with our name there is but one.
    pub(crate) fn greeting(&mut self, master: MasterId) -> u64 {
        self.masters.get_mut(&master).map_or(1, Met::next)
    }

    /// The hub has cut the link; it opens again when the other is next heard.
    pub(crate) fn unlink(&mut self, master: MasterId) {
        if let Some(met) = self.masters.get_mut(&master) {
            met.linked = false;
        }
    }

    /// Those of whom nothing has been heard for too long, `now` on the monotonic clock, in nanoseconds.
    /// To be called at every beat, `every` nanoseconds.
    pub(crate) fn silent(&mut self, now: u64, every: u64) -> Vec<MasterId> {
        let passed = self.looked.map_or(0, |looked| now.saturating_sub(looked));
        let late = if passed > 2 * every {
            passed - every
        } else {
            0
        };
        self.looked = Some(now);
        if late > 0 {
            // It was us who stood still: what they said meanwhile has not been read yet.
            for met in self.masters.values_mut() {
                met.silent_at = met.silent_at.saturating_add(late);
            }
        }
        let mut silent = Vec::new();
        self.masters.retain(|master, met| {
            if now < met.silent_at {
                return true;
            }
            if met.linked {
                silent.push(*master);
            }
            met.linked = false;
            // Who was met is remembered, or what it once said could be said again.
            met.proven
        });
        silent
    }

    /// Is there no room for anybody new because of those who were here and have gone? Only another sitting
    /// can forget them.
    pub(crate) fn is_worn(&self) -> bool {
        let gone = self
            .masters
            .values()
            .filter(|met| met.proven && !met.linked);
        self.masters.len() >= MOST && gone.count() >= MOST / 2
    }

    /// All links end, and nobody is known any more. Who had one?
    pub(crate) fn clear(&mut self) -> Vec<MasterId> {
        let linked = self.masters.drain().filter(|(_, met)| met.linked);
        linked.map(|(master, _)| master).collect()
    }

    /// Takes in what came.
    ///
    /// # Errors
    /// It is not to be believed, or not for us.
    pub(crate) fn receive(&mut self, envelope: &Envelope<'_>, now: u64) -> Result<Heard, Dropped> {
        let sign = match envelope.kind {
            Kind::Sign => Some(Sign::decode(envelope.body)?),
            Kind::Packet => None,
        };
        if envelope.to.is_some_and(|to| to.master != self.me) {
            return Err(Dropped::Misdirected);
        }
        if envelope.to.is_some_and(|to| to.number != self.sitting) {
            return Err(Dropped::Stale);
        }
        if envelope.from.master == self.me {
            return self.hear_namesake(envelope, sign);
        }
        let crowded = self.masters.len() >= MOST;
        let met = match self.masters.entry(envelope.from.master) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if crowded => return Err(Dropped::Crowded),
            Entry::Vacant(entry) => entry.insert(Met::new(envelope.from.number)),
        };
        met.take(envelope, sign, now)
    }

    /// Somebody else has our name: a copy of a machine, say. It is asked whether it is there now, and if
    /// it says so to our face, the younger of us goes.
    fn hear_namesake(&self, envelope: &Envelope<'_>, sign: Option<Sign>) -> Result<Heard, Dropped> {
        let Some(sign) = sign.filter(|_| envelope.from.number != self.sitting) else {
            return Err(Dropped::Replayed);
        };
        let to_us = envelope.to.is_some();
        let elder = (sign.born, envelope.from.number) < (self.born, self.sitting);
        Ok(Heard {
            greet: (!to_us || !sign.heard).then_some((envelope.from, to_us)),
            usurper: to_us && elder,
            ..Heard::default()
        })
    }
}

impl Met {
    fn new(sitting: u64) -> Self {
        Self {
            sitting,
            beats: 0,
            came: 0,
            went: 0,
            proven: false,
            linked: false,
            missed: false,
            expiry_ns: *EXPIRY_MS.start() * 1_000_000,
            silent_at: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.went += 1;
        self.went
    }

    fn take(
        &mut self,
        envelope: &Envelope<'_>,
        sign: Option<Sign>,
        now: u64,
    ) -> Result<Heard, Dropped> {
        if envelope.from.number < self.sitting {
            return Err(Dropped::Stale);
        }
        if envelope.from.number > self.sitting {
            // It has come anew. Its link stays, if it is soon met again.
            self.sitting = envelope.from.number;
            (self.beats, self.came, self.went) = (0, 0, 0);
            self.proven = false;
        }
        let to_us = envelope.to.is_some();
        let last = if to_us {
            &mut self.came
        } else {
            &mut self.beats
        };
        if envelope.counter <= *last {
            return Err(Dropped::Replayed);
        }
        let lost = if to_us {
            envelope.counter - *last - 1
        } else {
            0
        };
        *last = envelope.counter;
        if let Some(sign) = &sign {
            let declared = sign.expiry_ms.clamp(*EXPIRY_MS.start(), *EXPIRY_MS.end());
            self.expiry_ns = declared * 1_000_000;
        }
        let first = to_us && !self.proven;
        self.proven |= to_us;
        // What counts before the first is no loss: it was for one who was not there yet.
        let lost = if first { 0 } else { lost };
        self.missed |= lost > 0;
        if self.proven {
            self.silent_at = now.saturating_add(self.expiry_ns);
        } else if !self.linked {
            self.silent_at = now.saturating_add(self.expiry_ns.min(STRANGER_NS));
        }
        let greet = match &sign {
            Some(sign) if to_us => (!sign.heard).then_some((envelope.from, true)),
            Some(_) => (!self.proven).then_some((envelope.from, false)),
            None => None,
        };
        let link = self.link(first, !to_us);
        if envelope.kind == Kind::Packet && !self.linked {
            return Err(Dropped::Down);
        }
        Ok(Heard {
            greet,
            link,
            sign,
            lost,
            usurper: false,
        })
    }

    /// What becomes of the link: it opens with the first proof, and renews with each other. What was
    /// lost, or cut, waits for the next beat, so that a flood of it is not answered by one of facts.
    fn link(&mut self, first: bool, beat: bool) -> Option<Link> {
        if !self.proven || !(first || beat) {
            None
        } else if !self.linked {
            (self.linked, self.missed) = (true, false);
            Some(Link::Opens)
        } else if first || std::mem::take(&mut self.missed) {
            Some(Link::Renews)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
