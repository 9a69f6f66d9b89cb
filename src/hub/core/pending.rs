//! Requests that wait for their answer, so that the end of whoever was to answer ends them too.

use super::hash::FastMap;
use crate::bus::{MasterId, ProcessId};

/// A request: who made it, and its number there.
pub(super) type Request = (ProcessId, u64);

/// Who may answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// This process.
    Process(ProcessId),
    /// This process, by way of other hubs, each of which may say that it goes no further.
    Routed(ProcessId),
    /// Whoever listens at this master, as its hub finds out.
    Owner(MasterId),
}

/// What an answer, or a failure, means for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is the end of the request: pass it on.
    Last,
    /// Others may still answer.
    NotLast,
    /// Nobody waits for it, or not from there.
    Unknown,
}

/// All requests that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    all: FastMap<Request, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    targets: Targets,
    deadline: u64,
    /// The port that the request came by.
    slot: u32,
    /// Somebody afar may answer that was not known to listen when it was sent.
    is_open: bool,
}

/// Most requests have one target: that takes no memory of its own.
#[derive(Debug)]
enum Targets {
    One(Target),
    Many(Vec<Target>),
}

impl Pending {
    /// A request waits, for any of these.
    pub(super) fn insert(
        &mut self,
        request: Request,
        slot: u32,
        targets: &[Target],
        deadline: u64,
        is_open: bool,
    ) -> Option<u32> {
        let targets = match targets {
            [one] => Targets::One(*one),
            many => Targets::Many(many.to_vec()),
        };
        let waiting = Waiting {
            targets,
            deadline,
            slot,
            is_open,
        };
        self.all.insert(request, waiting).map(|old| old.slot)
    }

    /// Is the request known here?
    pub(super) fn has(&self, request: Request) -> bool {
        self.all.contains_key(&request)
    }

    /// `from` has answered; it is `afar` if another hub says so. The first answer ends a request. With it
    /// comes the port that the request came by.
    pub(super) fn answered(
        &mut self,
        request: Request,
        from: ProcessId,
        afar: bool,
    ) -> Option<u32> {
        let waiting = self.all.get(&request)?;
        let may =
            (afar && waiting.is_open) || waiting.targets.iter().any(|one| one.may_answer(from));
        if !may {
            return None;
        }
        self.all.remove(&request).map(|waiting| waiting.slot)
    }

    /// `from` will not answer. With [`Meaning::Last`] comes the port that the request came by.
    pub(super) fn failed(&mut self, request: Request, from: ProcessId) -> (Meaning, u32) {
        let Some(waiting) = self.all.get_mut(&request) else {
            return (Meaning::Unknown, 0);
        };
        let slot = waiting.slot;
        if !waiting.targets.iter().any(|one| one.is(from)) {
            return (Meaning::Unknown, slot);
        }
        if waiting.targets.drop_all(|one| one.is(from)) {
            self.all.remove(&request);
            return (Meaning::Last, slot);
        }
        (Meaning::NotLast, slot)
    }

    /// None of these will answer any more. Returns the requests that nobody is left for, with the port
    /// that each came by.
    pub(super) fn forsaken(&mut self, gone: impl Fn(Target) -> bool) -> Vec<(Request, u32)> {
        let mut over = Vec::new();
        self.all.retain(|request, waiting| {
            let hit = waiting.targets.iter().any(|one| gone(*one));
            let ended = hit && waiting.targets.drop_all(&gone);
            if ended {
                over.push((*request, waiting.slot));
            }
            !ended
        });
        over
    }

    /// Those who made these requests do not wait any more. Tells the port of each.
    pub(super) fn forget(
        &mut self,
        is_over: impl Fn(ProcessId, u32, u64) -> bool,
        mut freed: impl FnMut(u32),
    ) {
        self.all.retain(|(requester, _), waiting| {
            let over = is_over(*requester, waiting.slot, waiting.deadline);
            if over {
                freed(waiting.slot);
            }
            !over
        });
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

impl Target {
    /// Is it this process alone?
    pub(super) fn is_process(self, process: ProcessId) -> bool {
        matches!(self, Self::Process(id) | Self::Routed(id) if id == process)
    }

    /// Is this process the one, or one of those, that was asked?
    fn may_answer(self, process: ProcessId) -> bool {
        match self {
            Self::Process(id) | Self::Routed(id) => id == process,
            Self::Owner(master) => master == process.master,
        }
    }

    /// Is a failure that this process tells of that of this target?
    fn is(self, process: ProcessId) -> bool {
        match self {
            Self::Process(id) => id == process,
            Self::Routed(id) => id == process || process.is_master(),
            Self::Owner(master) => master == process.master,
        }
    }
}

impl Targets {
    fn iter(&self) -> std::slice::Iter<'_, Target> {
        let all = match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        };
        all.iter()
    }

    /// True: none is left.
    fn drop_all(&mut self, gone: impl Fn(Target) -> bool) -> bool {
        match self {
            Self::One(one) => gone(*one),
            Self::Many(many) => {
                many.retain(|one| !gone(*one));
                many.is_empty()
            }
        }
    }
}
