//! What reads of lists show (Elle: Kingsbury and Alvaro, VLDB 2020).
//!
//! Transactions append values to lists and read whole lists, and no value is appended twice to a
//! list. A read then shows every version that there was before it, so the longest read of a key
//! gives the order of its versions, and every other read must be a beginning of it. From that order
//! follow all edges between transactions, in linear time.
//!
//! # What is not observed
//!
//! An append that no read saw comes after all that were seen, in an order that nobody knows.
//! Who wrote or read the last version that was seen precedes all such appends; these are edges from
//! many to many, so they go through a helper for each key.
//!
//! A transaction of unknown outcome is committed if a read saw one of its appends. If not, it may
//! be left out: its appends would come last, and nobody would see them.

use super::anomaly::{Anomalies, name};
use super::history::{KeyId, List, TxnHistory, TxnOp, TxnOutcome, Version, index};
use super::level::AnomalyKind;

/// No transaction, operation or rank.
pub(crate) const NONE: u32 = u32::MAX;

/// What the lists of a history show.
#[derive(Debug)]
pub(crate) struct Appends<'h> {
    pub(crate) history: &'h TxnHistory,
    /// Which transactions are committed, as far as anybody can tell.
    pub(crate) committed: Vec<bool>,
    pub(crate) anomalies: Anomalies,
    /// For each key, the transactions whose appends nobody saw, if their order matters.
    pub(crate) unordered: Vec<Vec<u32>>,
    /// By version: who appended it.
    pub(super) writers: Vec<u32>,
    /// By version: whether its transaction appended no more to its key.
    pub(super) is_final: Vec<bool>,
    /// By operation: the one before it in its transaction on the same key.
    pub(super) before: Vec<u32>,
    /// By operation: whether it is a read of a beginning of the longest list.
    pub(super) is_prefix: Vec<bool>,
    pub(super) orders: Orders,
}

/// The order of the versions of each key.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// By key: the longest read.
    pub(super) longest: Vec<Option<List>>,
    /// By key: where its counts begin; one more than its longest list has elements.
    pub(super) begins: Vec<usize>,
    /// For each length of a beginning of the longest list: how many of its elements count, which
    /// are those of committed transactions, once each.
    pub(super) counts: Vec<u32>,
    /// By key, from the same beginnings: the versions that count.
    pub(super) kept: Vec<Version>,
    /// By key: how long the beginning is that holds no aborted append.
    pub(super) clean: Vec<u32>,
    /// By version: its place in the longest list.
    pub(super) places: Vec<u32>,
    /// By version: its place among those that count.
    pub(super) ranks: Vec<u32>,
}

impl<'h> Appends<'h> {
    /// Reads the lists. An error says why they show nothing: a value was appended twice.
    pub(crate) fn new(history: &'h TxnHistory) -> Result<Self, String> {
        let is_committed = |txn: &super::Txn| txn.outcome == TxnOutcome::Committed;
        let mut appends = Self {
            history,
            committed: history.transactions().iter().map(is_committed).collect(),
            anomalies: Anomalies::default(),
            unordered: Vec::new(),
            writers: vec![NONE; history.version_count()],
            is_final: vec![true; history.version_count()],
            before: vec![NONE; history.op_count()],
            is_prefix: vec![false; history.op_count()],
            orders: Orders::default(),
        };
        appends.find_writers()?;
        appends.find_longest();
        appends.compare_reads();
        appends.order();
        Ok(appends)
    }

    fn find_writers(&mut self) -> Result<(), String> {
        let history = self.history;
        let mut last = vec![NONE; history.key_count()];
        let mut last_append = vec![NONE; history.key_count()];
        for txn in 0..history.transactions().len() {
            let range = history.range(txn);
            let begin = index(range.start);
            for at in range {
                let op = history.all_ops()[at];
                let key = history.key_of_op(op).0 as usize;
                if last[key] != NONE && last[key] >= begin {
                    self.before[at] = last[key];
                }
                last[key] = index(at);
                let Some(version) = op.written() else { continue };
                let writer = &mut self.writers[version.0 as usize];
                if *writer != NONE {
                    let (value, key) =
                        (history.value_name(version), history.key_name(KeyId(key as u32)));
                    return Err(format!(
                        "{value} was appended to {key} twice, so nobody knows which one a read saw"
                    ));
                }
                *writer = index(txn);
                if last_append[key] != NONE && last_append[key] >= begin {
                    let earlier = history.all_ops()[last_append[key] as usize].written();
                    earlier.into_iter().for_each(|it| self.is_final[it.0 as usize] = false);
                }
                last_append[key] = index(at);
            }
        }
        Ok(())
    }

    /// All reads, each with its transaction and its place.
    fn reads(&self) -> impl Iterator<Item = (u32, usize, KeyId, List)> + use<'h> {
        let history = self.history;
        (0..history.transactions().len()).flat_map(move |txn| {
            history.range(txn).filter_map(move |at| match history.all_ops()[at] {
                TxnOp::ReadList(key, list) => Some((index(txn), at, key, list)),
                _ => None,
            })
        })
    }

    fn find_longest(&mut self) {
        self.orders.longest = vec![None; self.history.key_count()];
        for (_, _, key, list) in self.reads() {
            let longest = &mut self.orders.longest[key.0 as usize];
            if longest.is_none_or(|longest| longest.len() < list.len()) {
                *longest = Some(list);
            }
        }
    }

    /// Tells beginnings of the longest list from other reads. What those saw is looked at here, as
    /// nothing else looks at it.
    fn compare_reads(&mut self) {
        let history = self.history;
        for (txn, at, key, list) in self.reads() {
            let Some(longest) = self.orders.longest[key.0 as usize] else { continue };
            let (read, order) = (history.elements(list), history.elements(longest));
            self.is_prefix[at] = *read == order[..list.len()];
            if self.is_prefix[at] {
                continue;
            }
            self.anomalies.add(AnomalyKind::IncompatibleOrder, &[txn], || {
                let (key, read) = (history.key_name(key), history.list_text(read));
                let order = history.list_text(order);
                vec![format!("{} read {key} as {read}, another read saw {order}", name(txn))]
            });
            for element in read {
                self.see(*element, Some(txn));
            }
        }
    }

    /// A committed read saw an element. Whether its transaction is committed.
    fn see(&mut self, element: Version, reader: Option<u32>) -> bool {
        let history = self.history;
        let writer = self.writers[element.0 as usize];
        let value = || history.value_name(element);
        let key = || history.key_name(history.key_of(element));
        if writer == NONE {
            self.anomalies.add(AnomalyKind::GarbageRead, &[], || {
                vec![format!("{} was read in {}, and nobody appended it", value(), key())]
            });
            return false;
        }
        let is_aborted = history.transactions()[writer as usize].outcome == TxnOutcome::Aborted;
        if let (true, Some(reader)) = (is_aborted, reader) {
            self.saw_aborted(element, reader);
        }
        self.committed[writer as usize] |= !is_aborted;
        !is_aborted
    }

    pub(super) fn saw_aborted(&mut self, element: Version, reader: u32) {
        let (history, writer) = (self.history, self.writers[element.0 as usize]);
        self.anomalies.add(AnomalyKind::AbortedRead, &[writer, reader], || {
            let (value, key) =
                (history.value_name(element), history.key_name(history.key_of(element)));
            let (writer, reader) = (name(writer), name(reader));
            vec![
                format!("{writer} appended {value} to {key} and aborted"),
                format!("{reader} read {value} in {key}"),
            ]
        });
    }

    /// Orders the versions of each key by its longest list.
    fn order(&mut self) {
        let history = self.history;
        self.orders.places = vec![NONE; history.version_count()];
        self.orders.ranks = vec![NONE; history.version_count()];
        self.orders.clean = vec![NONE; history.key_count()];
        for key in 0..history.key_count() {
            self.orders.begins.push(self.orders.counts.len());
            let mut count = 0;
            self.orders.counts.push(0);
            let Some(longest) = self.orders.longest[key] else {
                self.orders.kept.push(Version(NONE));
                continue;
            };
            let begin = self.orders.kept.len();
            for (place, element) in history.elements(longest).iter().enumerate() {
                if self.takes(key, index(place), *element) {
                    self.orders.ranks[element.0 as usize] = count;
                    self.orders.kept.push(*element);
                    count += 1;
                }
                self.orders.counts.push(count);
            }
            self.orders.kept.resize(begin + longest.len() + 1, Version(NONE));
        }
    }

    /// Whether an element of a longest list counts.
    fn takes(&mut self, key: usize, place: u32, element: Version) -> bool {
        let history = self.history;
        let known = &mut self.orders.places[element.0 as usize];
        if *known != NONE {
            self.anomalies.add(AnomalyKind::DuplicateElements, &[], || {
                let (value, key) =
                    (history.value_name(element), history.key_name(KeyId(index(key))));
                vec![format!("{value} was read in {key} twice")]
            });
            return false;
        }
        *known = place;
        let counts = self.see(element, None);
        let writer = self.writers[element.0 as usize];
        let clean = &mut self.orders.clean[key];
        match (counts, *clean) {
            (false, NONE) if writer != NONE => *clean = place,
            (true, dirty) if dirty != NONE => {
                self.anomalies.add(AnomalyKind::DirtyUpdate, &[writer], || {
                    let (value, key) =
                        (history.value_name(element), history.key_name(KeyId(index(key))));
                    vec![format!(
                        "{} appended {value} to {key} after an append that was aborted",
                        name(writer)
                    )]
                })
            }
            _ => {}
        }
        counts
    }
}

impl Orders {
    /// How many elements count of the first ones of a key's longest list.
    pub(super) fn count(&self, key: u32, length: u32) -> usize {
        self.counts[self.begins[key as usize] + length as usize] as usize
    }

    /// The versions of a key that count, in their order.
    pub(super) fn kept(&self, key: u32) -> &[Version] {
        let begin = self.begins[key as usize];
        let length = self.longest[key as usize].map_or(0, List::len);
        let count = self.count(key, index(length));
        &self.kept[begin..begin + count]
    }
}
