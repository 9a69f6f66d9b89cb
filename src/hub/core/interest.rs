//! Who wants which topic: exact ones by hash, patterns by a tree of their words, and what a topic came
//! to the last time by hash again, until anything changes.

use super::hash::FastMap;
use crate::bus::{
    MasterId,
    topic::{is_reserved, is_topic, words},
};

/// Topics whose receivers are remembered. Beyond, all are forgotten: they are found again.
const REMEMBERED: usize = 4_096;

/// Somebody who wants something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// A process of ours, by the slot of its port.
    Own(u32),
    /// Somebody of this master's, by way of the link in this slot.
    Afar(MasterId, u32),
}

/// Who gets a topic.
#[derive(Debug, Default, Clone)]
pub(super) struct Wanted {
    /// Our processes, by slot.
    pub(super) own: Vec<u32>,
    /// The links behind which somebody wants it, each once, by slot.
    pub(super) links: Vec<u32>,
    /// The masters there, with the links that lead to them.
    pub(super) owners: Vec<(MasterId, u32)>,
}

impl Wanted {
    /// Adds `who`, unless it is there.
    pub(super) fn add(&mut self, who: Who) {
        match who {
            Who::Own(slot) if !self.own.contains(&slot) => self.own.push(slot),
            Who::Afar(owner, link) if !self.owners.contains(&(owner, link)) => {
                self.owners.push((owner, link));
                if !self.links.contains(&link) {
                    self.links.push(link);
                }
            }
            _ => {}
        }
    }
}

/// All that is wanted.
#[derive(Debug, Default)]
pub(super) struct Interest {
    exact: FastMap<Box<str>, Vec<Who>>,
    tree: Node,
    /// How many of our own processes want each pattern.
    ours: FastMap<Box<str>, u32>,
    /// Places in `found`.
    remembered: FastMap<Box<str>, u32>,
    found: Vec<(Box<str>, Wanted)>,
    /// The place that was wanted last: a flood has one topic.
    last: usize,
}

/// Where a pattern may go on: below it are all patterns that begin with the words that lead here.
#[derive(Debug, Default)]
struct Node {
    words: FastMap<Box<str>, Node>,
    /// After a `*`.
    any: Option<Box<Node>>,
    /// Those whose pattern ends here.
    here: Vec<Who>,
    /// Those whose pattern goes on with `>`.
    rest: Vec<Who>,
}

impl Interest {
    /// `who` wants `pattern`, which it did not. True: it is the first of our own.
    pub(super) fn add(&mut self, pattern: &str, who: Who) -> bool {
        self.forget();
        if is_topic(pattern) {
            match self.exact.get_mut(pattern) {
                Some(all) => all.push(who),
                None => drop(self.exact.insert(pattern.into(), vec![who])),
            }
        } else {
            self.tree.add(words(pattern), who);
        }
        if matches!(who, Who::Afar(..)) {
            return false;
        }
        match self.ours.get_mut(pattern) {
            Some(count) => *count += 1,
            None => drop(self.ours.insert(pattern.into(), 1)),
        }
        self.ours[pattern] == 1
    }

    /// `who` does not want `pattern` any more, which it did. True: it was the last of our own.
    pub(super) fn remove(&mut self, pattern: &str, who: Who) -> bool {
        self.forget();
        if is_topic(pattern) {
            if let Some(all) = self.exact.get_mut(pattern) {
                drop_one(all, who);
                if all.is_empty() {
                    self.exact.remove(pattern);
                }
            }
        } else {
            self.tree.remove(words(pattern), who);
        }
        if matches!(who, Who::Afar(..)) {
            return false;
        }
        let Some(count) = self.ours.get_mut(pattern) else {
            return false;
        };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.ours.remove(pattern);
        }
        last
    }

    /// Who wants this topic. `None`: it is no topic.
    #[inline]
    pub(super) fn of(&mut self, topic: &str) -> Option<&Wanted> {
        let is_last = self
            .found
            .get(self.last)
            .is_some_and(|(last, _)| **last == *topic);
        if !is_last {
            self.last = match self.remembered.get(topic) {
                Some(&place) => place as usize,
                None => self.find(topic)?,
            };
        }
        Some(&self.found[self.last].1)
    }

    /// The patterns that our own processes want.
    pub(super) fn ours(&self) -> impl Iterator<Item = &str> {
        self.ours.keys().map(|pattern| &**pattern)
    }

    /// How many entries all this has, to see that nothing stays behind.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.exact.values().map(Vec::len).sum::<usize>() + self.tree.size() + self.ours.len()
    }

    fn find(&mut self, topic: &str) -> Option<usize> {
        if !is_topic(topic) {
            return None;
        }
        if self.found.len() >= REMEMBERED {
            self.forget();
        }
        let mut wanted = Wanted::default();
        for who in self.exact.get(topic).into_iter().flatten() {
            wanted.add(*who);
        }
        self.tree.find_top(topic, &mut wanted);
        let place = self.found.len();
        self.found.push((topic.into(), wanted));
        self.remembered.insert(topic.into(), place as u32);
        Some(place)
    }

    fn forget(&mut self) {
        self.remembered.clear();
        self.found.clear();
    }
}

impl Node {
    fn add<'w>(&mut self, mut pattern: impl Iterator<Item = &'w str>, who: Who) {
        let mut node = self;
        loop {
            node = match pattern.next() {
                None => return node.here.push(who),
                Some(">") => return node.rest.push(who),
                Some("*") => node.any.get_or_insert_default(),
                Some(word) => node.words.entry(word.into()).or_default(),
            };
        }
    }

    /// As deep as the pattern has words, at most 128.
    fn remove<'w>(&mut self, mut pattern: impl Iterator<Item = &'w str>, who: Who) {
        match pattern.next() {
            None => drop_one(&mut self.here, who),
            Some(">") => drop_one(&mut self.rest, who),
            Some("*") => {
                if let Some(any) = &mut self.any {
                    any.remove(pattern, who);
                    if any.is_empty() {
                        self.any = None;
                    }
                }
            }
            Some(word) => {
                if let Some(next) = self.words.get_mut(word) {
                    next.remove(pattern, who);
                    if next.is_empty() {
                        self.words.remove(word);
                    }
                }
            }
        }
    }

    /// A topic that begins with `$` is matched only by a pattern whose first word says so: `>` means
    /// everything that is meant for the public.
    fn find_top(&self, topic: &str, wanted: &mut Wanted) {
        if !is_reserved(topic) {
            return self.find(words(topic), wanted);
        }
        let mut words = words(topic);
        if let Some(next) = words.next().and_then(|word| self.words.get(word)) {
            next.find(words, wanted);
        }
    }

    fn find<'w>(&self, mut topic: impl Iterator<Item = &'w str> + Clone, wanted: &mut Wanted) {
        let Some(word) = topic.next() else {
            return self.here.iter().for_each(|who| wanted.add(*who));
        };
        self.rest.iter().for_each(|who| wanted.add(*who));
        if let Some(next) = self.words.get(word) {
            next.find(topic.clone(), wanted);
        }
        if let Some(any) = &self.any {
            any.find(topic, wanted);
        }
    }

    fn is_empty(&self) -> bool {
        self.words.is_empty() && self.any.is_none() && self.here.is_empty() && self.rest.is_empty()
    }

    #[cfg(test)]
    fn size(&self) -> usize {
        let below = self.words.values().chain(self.any.as_deref());
        self.here.len() + self.rest.len() + below.map(|node| 1 + node.size()).sum::<usize>()
    }
}

fn drop_one(all: &mut Vec<Who>, who: Who) {
    if let Some(place) = all.iter().position(|one| *one == who) {
        all.swap_remove(place);
    }
}
