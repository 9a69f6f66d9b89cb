//! Which subscriptions of this process a topic is for.

use std::{collections::HashMap, sync::Arc};

use slab::Slab;

use super::{
    super::topic::{self, is_reserved},
    inbox::Inbox,
    message::Message,
};

/// Topics whose subscriptions are remembered.
const REMEMBERED: usize = 4096;

/// Those that a topic is for.
pub(super) type Targets = Arc<[Arc<Inbox<Message>>]>;

/// The subscriptions of this process.
pub(super) struct Interest {
    all: Slab<One>,
    /// Those without wildcards, by their topic.
    exact: HashMap<Arc<str>, Vec<usize>>,
    /// Those with.
    wild: Vec<usize>,
    /// Forgotten when anything changes.
    remembered: HashMap<Box<str>, Targets>,
}

struct One {
    pattern: Arc<str>,
    inbox: Arc<Inbox<Message>>,
}

impl Interest {
    pub(super) fn new() -> Self {
        Self {
            all: Slab::new(),
            exact: HashMap::new(),
            wild: Vec::new(),
            remembered: HashMap::new(),
        }
    }

    /// Adds one; the number says which it is.
    pub(super) fn add(&mut self, pattern: Arc<str>, inbox: Arc<Inbox<Message>>) -> usize {
        self.remembered.clear();
        let key = self.all.insert(One {
            pattern: Arc::clone(&pattern),
            inbox,
        });
        match topic::is_topic(&pattern) {
            true => self.exact.entry(pattern).or_default().push(key),
            false => self.wild.push(key),
        }
        key
    }

    /// Takes one out. True: it was the last with its pattern.
    pub(super) fn remove(&mut self, key: usize) -> bool {
        self.remembered.clear();
        let One { pattern, .. } = self.all.remove(key);
        match self.exact.get_mut(&pattern) {
            Some(keys) if keys.len() > 1 => {
                keys.retain(|other| *other != key);
                false
            }
            Some(_) => {
                self.exact.remove(&pattern);
                true
            }
            None => {
                self.wild.retain(|other| *other != key);
                let same = |other: &usize| self.all[*other].pattern == pattern;
                !self.wild.iter().any(same)
            }
        }
    }

    /// Those that get what is published to `topic`.
    #[inline]
    pub(super) fn targets(&mut self, topic: &str) -> Targets {
        if let Some(targets) = self.remembered.get(topic) {
            return Arc::clone(targets);
        }
        let targets = self.look_up(topic);
        if self.remembered.len() >= REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.insert(topic.into(), Arc::clone(&targets));
        targets
    }

    /// Each pattern that is wanted, once.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &Arc<str>> {
        let wild = self.wild.iter().enumerate().filter_map(|(i, key)| {
            let pattern = &self.all[*key].pattern;
            let before = &self.wild[..i];
            let again = before
                .iter()
                .any(|other| self.all[*other].pattern == *pattern);
            (!again).then_some(pattern)
        });
        self.exact.keys().chain(wild)
    }

    /// The inbox of each.
    pub(super) fn inboxes(&self) -> impl Iterator<Item = &Arc<Inbox<Message>>> {
        self.all.iter().map(|(_, one)| &one.inbox)
    }

    fn look_up(&self, topic: &str) -> Targets {
        let exact = self.exact.get(topic).into_iter().flatten();
        // What is the library's own is nobody else's, however wide the pattern.
        let own = is_reserved(topic);
        let wild = self.wild.iter().filter(|key| {
            let pattern = &self.all[**key].pattern;
            own == is_reserved(pattern) && topic::matches(pattern, topic)
        });
        exact
            .chain(wild)
            .map(|key| Arc::clone(&self.all[*key].inbox))
            .collect()
    }
}
