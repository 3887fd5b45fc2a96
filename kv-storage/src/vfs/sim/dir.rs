//! A simulated directory: durable names, and changes that wait for a sync.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::rng::Rng;

use super::SimDiskCounters;

/// What a name stands for: the number of a file or of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(usize),
    Dir(usize),
}

/// The names of one directory.
///
/// - `current` is `durable` after all of `pending`.
#[derive(Debug, Default)]
pub(super) struct Directory {
    durable: BTreeMap<String, Node>,
    current: BTreeMap<String, Node>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Insert { name: String, node: Node },
    Remove { name: String },
    Rename { from: String, to: String },
}

impl Change {
    fn names(&self) -> Vec<&String> {
        match self {
            Self::Insert { name, .. } | Self::Remove { name } => vec![name],
            Self::Rename { from, to } => vec![from, to],
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Insert { name, node } => {
                names.insert(name.clone(), *node);
            }
            Self::Remove { name } => {
                names.remove(name);
            }
            Self::Rename { from, to } => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Directory {
    pub(super) fn get(&self, name: &str) -> Option<Node> {
        self.current.get(name).copied()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.current.keys().cloned().collect()
    }

    /// Everything that has a name here, durably or not.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node> {
        self.durable.values().chain(self.current.values()).copied()
    }

    pub(super) fn insert(&mut self, name: &str, node: Node) {
        self.change(Change::Insert { name: name.to_owned(), node });
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.change(Change::Remove { name: name.to_owned() });
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        self.change(Change::Rename { from: from.to_owned(), to: to.to_owned() });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    /// Makes all names durable. Returns whether any name was given up, so that content may be free.
    pub(super) fn sync(&mut self) -> bool {
        let mut given_up = false;
        for change in self.pending.drain(..) {
            given_up |= !matches!(change, Change::Insert { .. });
            change.apply(&mut self.durable);
        }
        given_up
    }

    /// Decides by `rng` which pending changes reached the disk. Changes of one name are kept in
    /// order: once one is lost, so is every later one that touches a name of it.
    pub(super) fn crash(&mut self, rng: &mut Rng, counters: &mut SimDiskCounters) {
        let mut lost = BTreeSet::new();
        for change in self.pending.drain(..) {
            let follows_lost = change.names().iter().any(|name| lost.contains(*name));
            if follows_lost || rng.below(2) == 0 {
                counters.names_dropped += 1;
                lost.extend(change.names().into_iter().cloned());
            } else {
                counters.names_kept += 1;
                counters.names_reordered += u64::from(!lost.is_empty());
                change.apply(&mut self.durable);
            }
        }
        self.current = self.durable.clone();
    }
}
