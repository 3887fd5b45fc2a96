//! From the order of versions to edges, and to what reads show without a cycle.

use std::collections::HashMap;

use super::anomaly::name;
use super::appends::{Appends, NONE};
use super::graph::{Edges, Kind};
use super::history::{KeyId, List, TxnOp, Version, index};
use super::level::AnomalyKind;

/// Who has more operations is looked up by key, not read anew for each of its readers.
const MANY_OPS: usize = 32;

/// What is noted by key while transactions are looked at one after the other.
struct Notes {
    /// By key: who read it last before writing it, and how many elements it saw.
    reads: Vec<(u32, u32)>,
    /// By key and rank: who read that version and then appended.
    updaters: Vec<u32>,
    /// Whom the transaction at hand read from, and in which key.
    sources: Vec<(u32, u32)>,
    /// Of transactions with many operations: their last append to a key.
    finals: HashMap<(u32, u32), Version>,
    /// Reads of the last version of a key: the key and who.
    last_readers: Vec<(u32, u32)>,
    /// Appends that nobody saw: the key and who.
    unseen: Vec<(u32, u32)>,
}

impl Appends<'_> {
    /// Finds what is wrong inside transactions, and adds the edges between them.
    pub(crate) fn add_edges(&mut self, edges: &mut Edges) {
        let mut notes = Notes {
            reads: vec![(NONE, 0); self.history.key_count()],
            updaters: vec![NONE; self.orders.counts.len()],
            sources: Vec::new(),
            finals: HashMap::new(),
            last_readers: Vec::new(),
            unseen: Vec::new(),
        };
        self.add_overwrites(edges);
        for txn in 0..index(self.committed.len()) {
            if !self.committed[txn as usize] {
                continue;
            }
            for at in self.history.range(txn as usize) {
                match self.history.all_ops()[at] {
                    TxnOp::Append(version) => self.appended(txn, at, version, &mut notes),
                    TxnOp::ReadList(key, list) => self.read(txn, at, key, list, &mut notes, edges),
                    TxnOp::Write(_) | TxnOp::Read(..) => {}
                }
            }
            self.find_fractures(txn, &mut notes);
        }
        self.add_unseen(notes, edges);
    }

    /// Edges between the writers of versions that follow each other.
    fn add_overwrites(&self, edges: &mut Edges) {
        for key in 0..index(self.history.key_count()) {
            for pair in self.orders.kept(key).windows(2) {
                let (from, to) = (self.writer(pair[0]), self.writer(pair[1]));
                if from != to {
                    edges.add(from, to, Kind::Overwritten, key);
                }
            }
        }
    }

    fn appended(&mut self, txn: u32, at: usize, version: Version, notes: &mut Notes) {
        let key = self.history.key_of(version).0;
        let rank = self.orders.ranks[version.0 as usize];
        let earlier = self.earlier(at).find_map(|at| match self.history.all_ops()[at] {
            TxnOp::Append(version) => Some(version),
            _ => None,
        });
        if let Some(earlier) = earlier
            && rank != NONE
            && self.orders.ranks[earlier.0 as usize] > rank
        {
            self.against_own_order(txn, earlier, version);
        }
        if rank == NONE {
            notes.unseen.push((key, txn));
        }
        let (reader, length) = notes.reads[key as usize];
        if reader != txn {
            return;
        }
        if self.orders.places[version.0 as usize] < length {
            self.saw_the_future(txn, version);
        }
        if earlier.is_some() {
            return;
        }
        let slot = self.orders.begins[key as usize] + self.orders.count(key, length);
        match notes.updaters[slot] {
            NONE => notes.updaters[slot] = txn,
            other => self.lost(other, txn, key),
        }
    }

    fn read(
        &mut self,
        txn: u32,
        at: usize,
        key: KeyId,
        list: List,
        notes: &mut Notes,
        edges: &mut Edges,
    ) {
        if !self.agrees_with_itself(at, list) {
            self.anomalies.add(AnomalyKind::Internal, &[txn], || {
                let (key, read) = (self.history.key_name(key), self.history.elements(list));
                let read = self.history.list_text(read);
                let name = name(txn);
                vec![format!(
                    "{name} read {key} as {read}, against what it read or appended before"
                )]
            });
        }
        if !self.is_prefix[at] {
            return;
        }
        let dirty = self.orders.clean[key.0 as usize] as usize;
        if let Some(element) = self.history.elements(list).get(dirty) {
            self.saw_aborted(*element, txn);
        }
        if self.before[at] == NONE {
            notes.reads[key.0 as usize] = (txn, index(list.len()));
            self.read_first(txn, key, list, notes, edges);
        }
    }

    /// A read shows a state from outside if nothing came before it in its transaction.
    fn read_first(
        &mut self,
        txn: u32,
        key: KeyId,
        list: List,
        notes: &mut Notes,
        edges: &mut Edges,
    ) {
        let last = self.history.elements(list).last();
        if let Some(last) = last.filter(|last| !self.is_final[last.0 as usize])
            && self.writer(*last) != txn
        {
            self.saw_the_middle(txn, *last);
        }
        let count = self.orders.count(key.0, index(list.len()));
        let kept = self.orders.kept(key.0);
        let before = count.checked_sub(1).map(|last| self.writer(kept[last]));
        if let Some(writer) = before.filter(|writer| *writer != txn) {
            edges.add(writer, txn, Kind::Read, key.0);
            notes.sources.push((writer, key.0));
        }
        match kept.get(count).map(|next| self.writer(*next)) {
            None => notes.last_readers.push((key.0, txn)),
            Some(writer) if writer != txn => edges.add(txn, writer, Kind::Against, key.0),
            Some(_) => {}
        }
    }

    /// Looks for what a transaction missed of those from which it read something.
    fn find_fractures(&mut self, txn: u32, notes: &mut Notes) {
        let mut sources = std::mem::take(&mut notes.sources);
        sources.sort_unstable();
        for group in sources.chunk_by(|one, other| one.0 == other.0) {
            let writer = group[0].0;
            let missed = if self.history.range(writer as usize).len() <= MANY_OPS {
                let written =
                    self.history.ops(writer as usize).iter().filter_map(|op| op.written());
                written.filter(|it| self.misses(txn, *it, notes)).find(|it| !self.is_in(*it, group))
            } else {
                self.note_finals(writer, notes);
                let keys = self.history.ops(txn as usize).iter();
                let keys = keys.map(|op| (writer, self.history.key_of_op(*op).0));
                let mut written = keys.filter_map(|key| notes.finals.get(&key).copied());
                written.find(|it| self.misses(txn, *it, notes) && !self.is_in(*it, group))
            };
            if let Some(missed) = missed {
                self.fractured(writer, txn, group[0].1, missed);
            }
        }
        sources.clear();
        notes.sources = sources;
    }

    /// Whether a transaction read the key of a version as it was before.
    fn misses(&self, txn: u32, version: Version, notes: &Notes) -> bool {
        let key = self.history.key_of(version).0;
        let (reader, length) = notes.reads[key as usize];
        reader == txn && self.rank(version) >= self.orders.count(key, length)
    }

    /// Whether a version is of a key in which the reader saw the same writer.
    fn is_in(&self, version: Version, group: &[(u32, u32)]) -> bool {
        let key = self.history.key_of(version).0;
        group.binary_search(&(group[0].0, key)).is_ok()
    }

    fn note_finals(&self, writer: u32, notes: &mut Notes) {
        let ops = self.history.ops(writer as usize);
        let mut written = ops.iter().filter_map(|op| op.written());
        let key = |version: Version| (writer, self.history.key_of(version).0);
        if written.clone().next().is_some_and(|first| notes.finals.contains_key(&key(first))) {
            return;
        }
        written.by_ref().for_each(|version| {
            notes.finals.insert(key(version), version);
        });
    }

    /// Whether a read is what its transaction read and appended before.
    fn agrees_with_itself(&self, at: usize, list: List) -> bool {
        let mut rest = self.history.elements(list);
        for earlier in self.earlier(at) {
            match self.history.all_ops()[earlier] {
                TxnOp::Append(version) => match rest.split_last() {
                    Some((last, before)) if *last == version => rest = before,
                    _ => return false,
                },
                TxnOp::ReadList(_, before) if self.is_prefix[at] && self.is_prefix[earlier] => {
                    return rest.len() == before.len();
                }
                TxnOp::ReadList(_, before) => return *rest == *self.history.elements(before),
                TxnOp::Write(_) | TxnOp::Read(..) => {}
            }
        }
        true
    }

    /// The operations of the same transaction on the same key before one, backwards.
    fn earlier(&self, at: usize) -> impl Iterator<Item = usize> {
        let before =
            |at: usize| Some(self.before[at]).filter(|at| *at != NONE).map(|at| at as usize);
        std::iter::successors(before(at), move |at| before(*at))
    }

    fn add_unseen(&mut self, notes: Notes, edges: &mut Edges) {
        let Notes { mut last_readers, mut unseen, .. } = notes;
        unseen.sort_unstable();
        unseen.dedup();
        last_readers.sort_unstable();
        let mut readers = last_readers.as_slice();
        for group in unseen.chunk_by(|one, other| one.0 == other.0) {
            let key = group[0].0;
            let writers: Vec<u32> = group.iter().map(|(_, txn)| *txn).collect();
            readers = &readers[readers.partition_point(|(of, _)| *of < key)..];
            let here = &readers[..readers.partition_point(|(of, _)| *of == key)];
            let last = self.orders.kept(key).last().map(|last| self.writer(*last));
            let mut sources: Vec<_> = last.iter().map(|last| (*last, Kind::Overwritten)).collect();
            let others = here.iter().map(|(_, txn)| *txn).filter(|txn| Some(*txn) != last);
            sources.extend(others.map(|txn| (txn, Kind::Against)));
            add_all(key, &sources, &writers, edges);
            if writers.len() > 1 {
                self.unordered.push(writers);
            }
        }
    }

    fn against_own_order(&mut self, txn: u32, earlier: Version, later: Version) {
        let history = self.history;
        self.anomalies.add(AnomalyKind::IncompatibleOrder, &[txn], || {
            let (one, other) = (history.value_name(earlier), history.value_name(later));
            let (key, name) = (history.key_name(history.key_of(later)), name(txn));
            vec![format!(
                "{name} appended {one} and then {other} to {key}, and a read saw {other} without \
                 {one} before it"
            )]
        });
    }

    fn fractured(&mut self, writer: u32, reader: u32, key: u32, missed: Version) {
        let history = self.history;
        self.anomalies.add(AnomalyKind::FracturedRead, &[writer, reader], || {
            let (value, key) = (history.value_name(missed), history.key_name(KeyId(key)));
            let other = history.key_name(history.key_of(missed));
            let (writer, reader) = (name(writer), name(reader));
            vec![format!(
                "{reader} read what {writer} appended to {key}, but not {value}, which it appended \
                 to {other}"
            )]
        });
    }

    fn saw_the_future(&mut self, txn: u32, version: Version) {
        let history = self.history;
        self.anomalies.add(AnomalyKind::FutureRead, &[txn], || {
            let (value, key) =
                (history.value_name(version), history.key_name(history.key_of(version)));
            vec![format!("{} read {value} in {key} before it appended it", name(txn))]
        });
    }

    fn saw_the_middle(&mut self, reader: u32, version: Version) {
        let (history, writer) = (self.history, self.writer(version));
        self.anomalies.add(AnomalyKind::IntermediateRead, &[writer, reader], || {
            let (value, key) =
                (history.value_name(version), history.key_name(history.key_of(version)));
            vec![
                format!("{} appended {value} to {key}, and more after it", name(writer)),
                format!("{} read {key} as it was in between", name(reader)),
            ]
        });
    }

    fn lost(&mut self, one: u32, other: u32, key: u32) {
        let history = self.history;
        self.anomalies.add(AnomalyKind::LostUpdate, &[one, other], || {
            let key = history.key_name(KeyId(key));
            let (one, other) = (name(one), name(other));
            vec![format!(
                "{one} and {other} read the same version of {key}, and both appended to it"
            )]
        });
    }

    pub(super) fn writer(&self, version: Version) -> u32 {
        self.writers[version.0 as usize]
    }
}

/// Adds an edge from each source to each target but itself, with few edges.
///
/// Who is both goes to the others by a helper of its own; several of those are on a cycle, and a ring
/// says as much.
fn add_all(key: u32, sources: &[(u32, Kind)], targets: &[u32], edges: &mut Edges) {
    let is_target = |txn: u32| targets.binary_search(&txn).is_ok();
    let (both, only): (Vec<_>, Vec<_>) = sources.iter().partition(|(txn, _)| is_target(*txn));
    add_through_helper(key, &only, targets, edges);
    let mut owners: Vec<u32> = both.iter().map(|(txn, _)| *txn).collect();
    owners.sort_unstable();
    let is_other = |txn: &u32| owners.binary_search(txn).is_err();
    let others: Vec<u32> = targets.iter().copied().filter(is_other).collect();
    add_through_helper(key, &both, &others, edges);
    if both.len() > 1 {
        let next = both.iter().skip(1).chain(both.first());
        for ((from, kind), (to, _)) in both.iter().zip(next) {
            edges.add(*from, *to, *kind, key);
        }
    }
}

fn add_through_helper(key: u32, sources: &[(u32, Kind)], targets: &[u32], edges: &mut Edges) {
    if sources.is_empty() || targets.is_empty() {
        return;
    }
    if sources.len() == 1 || targets.len() == 1 {
        for (from, kind) in sources {
            for to in targets {
                edges.add(*from, *to, *kind, key);
            }
        }
        return;
    }
    let helper = edges.helper();
    for (from, kind) in sources {
        edges.add(*from, helper, *kind, key);
    }
    for to in targets {
        edges.add(helper, *to, Kind::Onward, key);
    }
}
