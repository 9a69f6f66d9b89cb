//! The claim protocol under every interleaving of master and worker, explored by loom: each
//! connection ends up with exactly one owner. And the proof that this would notice if it did not:
//! protocols broken on purpose, in which a connection is found to have two.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use loom::{
    sync::{
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
        mpsc,
    },
    thread,
};
use pointsman::scoreboard::claim::{Word, claim, claimed, is_claimed, revoke};

/// The real word's operations, on a word that loom watches.
struct Watched(AtomicU64);

impl Word for Watched {
    fn load(&self) -> u64 {
        self.0.load(Acquire)
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, AcqRel, Acquire)
    }
}

/// Broken: looks, then writes, and the other side may write in between.
struct Torn(AtomicU64);

impl Word for Torn {
    fn load(&self) -> u64 {
        self.0.load(Acquire)
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        let now = self.0.load(Acquire);
        if now != current {
            return Err(now);
        }
        self.0.store(new, Release);
        Ok(now)
    }
}

/// What happens, beside when: the master sends the batches `before`, takes back what is not
/// claimed, sends the batches `after`; the worker takes `lifetime` batches and is gone, and the
/// master takes back what is left.
#[derive(Clone, Copy)]
struct Story {
    /// The number of the first connection.
    first: u32,
    before: &'static [u32],
    after: &'static [u32],
    lifetime: usize,
}

/// The two sides, so that either can be replaced by a broken one.
struct Protocol<W> {
    word: fn(AtomicU64) -> W,
    claim: fn(&W, u32, u32) -> u32,
    revoke: fn(&W, u32) -> u32,
}

/// Who owns which connections in the end; connections are counted from 0.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ending {
    worker: Vec<u32>,
    master: Vec<u32>,
}

impl Ending {
    /// Does each of `connections` have exactly one owner?
    fn is_right(&self, connections: u32) -> bool {
        let mut owned = [&self.worker[..], &self.master].concat();
        owned.sort_unstable();
        owned.into_iter().eq(0..connections)
    }
}

/// The master's side as the dispatcher plays it.
struct Master<'a, W> {
    word: &'a W,
    revoke: fn(&W, u32) -> u32,
    line: mpsc::Sender<(u32, u32)>,
    next: u32,
    /// Sent and neither seen to be claimed nor taken back.
    sent: Vec<u32>,
    back: Vec<u32>,
}

impl<W: Word> Master<'_, W> {
    fn send(&mut self, batches: &[u32]) {
        for count in batches {
            self.line
                .send((self.next, *count))
                .expect("the worker's end stays open");
            self.sent
                .extend((0..*count).map(|i| self.next.wrapping_add(i)));
            self.next = self.next.wrapping_add(*count);
        }
    }

    fn settle(&mut self) {
        let claimed = claimed(self.word);
        self.sent.retain(|number| !is_claimed(claimed, *number));
    }

    fn take_back(&mut self) {
        let claimed = (self.revoke)(self.word, self.next.wrapping_sub(1));
        self.sent.retain(|number| !is_claimed(claimed, *number));
        self.back.append(&mut self.sent);
    }
}

/// Plays the story once, in the interleaving that loom is at.
fn play<W: Word + 'static>(story: Story, protocol: &Protocol<W>) -> Ending {
    let old = u64::from(story.first.wrapping_sub(1));
    let word = loom::sync::Arc::new((protocol.word)(AtomicU64::new(old << 32 | old)));
    let (line, inlet) = mpsc::channel();
    let worker = thread::spawn({
        let (word, claim) = (word.clone(), protocol.claim);
        move || {
            let mut mine = Vec::new();
            for _ in 0..story.lifetime {
                let (first, count) = inlet.recv().expect("the master's end stays open");
                let refused = claim(&word, first, count);
                mine.extend((refused..count).map(|i| first.wrapping_add(i)));
            }
            // The line outlives the worker, so that the master can still send.
            (mine, inlet)
        }
    });
    let mut master = Master {
        word: &*word,
        revoke: protocol.revoke,
        line,
        next: story.first,
        sent: Vec::new(),
        back: Vec::new(),
    };
    master.send(story.before);
    master.settle();
    master.take_back();
    master.send(story.after);
    let (mine, _inlet) = worker.join().expect("the worker does not panic");
    // Its death is known, and nobody claims any more.
    master.take_back();
    let from_0 = |numbers: Vec<u32>| {
        let numbers = numbers.into_iter();
        numbers
            .map(|number| number.wrapping_sub(story.first))
            .collect()
    };
    Ending {
        worker: from_0(mine),
        master: from_0(master.back),
    }
}

/// All endings that the story has over all interleavings.
fn endings<W: Word + 'static>(story: Story, protocol: Protocol<W>) -> BTreeSet<Ending> {
    let endings = Arc::new(Mutex::new(BTreeSet::new()));
    loom::model({
        let endings = endings.clone();
        move || {
            let ending = play(story, &protocol);
            endings.lock().expect("nobody panics").insert(ending);
        }
    });
    std::mem::take(&mut endings.lock().expect("nobody panics"))
}

const REAL: Protocol<Watched> = Protocol {
    word: Watched,
    claim,
    revoke,
};

/// The story must end in these ways and in no other, wherever the numbers begin. `worker`: how many
/// connections, from which on, are the worker's; the rest is the master's.
#[track_caller]
fn ends(story: Story, worker: &[std::ops::Range<u32>]) {
    let connections: u32 = story.before.iter().chain(story.after).sum();
    let expected: BTreeSet<_> = worker
        .iter()
        .map(|mine| Ending {
            worker: mine.clone().collect(),
            master: (0..connections).filter(|i| !mine.contains(i)).collect(),
        })
        .collect();
    // From the start, and over the wrap of the numbers.
    for first in [1, u32::MAX, u32::MAX - 1] {
        let found = endings(Story { first, ..story }, REAL);
        assert!(
            found.iter().all(|ending| ending.is_right(connections)),
            "{found:?}"
        );
        // Were an ending missing, loom would not have seen the race that this is about.
        assert_eq!(found, expected, "beginning with {first}");
    }
}

const ONE_BATCH: Story = Story {
    first: 1,
    before: &[2],
    after: &[],
    lifetime: 1,
};

#[test]
fn a_batch_that_is_claimed_while_it_is_revoked_has_one_owner() {
    ends(ONE_BATCH, &[0..2, 0..0]);
}

#[test]
fn of_two_batches_the_worker_keeps_those_that_it_claimed_before_the_revocation() {
    let story = Story {
        before: &[2, 1],
        lifetime: 2,
        ..ONE_BATCH
    };
    ends(story, &[0..3, 0..2, 0..0]);
}

#[test]
fn what_is_sent_after_a_revocation_is_the_workers() {
    let story = Story {
        after: &[1],
        lifetime: 2,
        ..ONE_BATCH
    };
    ends(story, &[0..3, 2..3]);
}

#[test]
fn a_worker_that_dies_between_two_batches_keeps_what_it_claimed_and_no_more() {
    let story = Story {
        before: &[1],
        after: &[2],
        ..ONE_BATCH
    };
    ends(story, &[0..1, 0..0]);
}

/// Loom has to find an ending in which some connection is owned by both.
#[track_caller]
fn goes_wrong<W: Word + 'static>(protocol: Protocol<W>) {
    let found = endings(ONE_BATCH, protocol);
    let both = |ending: &Ending| ending.worker.iter().any(|i| ending.master.contains(i));
    assert!(found.iter().any(both), "not noticed: {found:?}");
}

#[test]
fn a_compare_and_swap_in_two_steps_is_noticed() {
    goes_wrong(Protocol {
        word: Torn,
        claim,
        revoke,
    });
}

#[test]
fn a_worker_that_does_not_look_at_what_is_revoked_is_noticed() {
    goes_wrong(Protocol {
        claim: |word: &Watched, first, count| {
            let last = u64::from(first + count - 1);
            let mut current = word.load();
            while let Err(now) = word.compare_exchange(current, last << 32 | last) {
                current = now;
            }
            0
        },
        ..REAL
    });
}

#[test]
fn a_master_that_looks_before_it_revokes_is_noticed() {
    goes_wrong(Protocol {
        revoke: |word: &Watched, sent| {
            let before = claimed(word);
            revoke(word, sent);
            before
        },
        ..REAL
    });
}
