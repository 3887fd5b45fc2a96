//! What reads of registers show.
//!
//! A read names the write that it saw, if no value is written twice to a key, but nothing shows the
//! order of the writes. What is certain without it is found here, in linear time: reads of what
//! never was, contradictions inside a transaction, lost updates, and the edges between a write and
//! its readers, and between a read of the initial state and all writes. The rest is a matter of
//! choices, see [`super::polygraph`].

use super::anomaly::{Anomalies, name};
use super::appends::NONE;
use super::graph::{Kind, Link};
use super::history::{KeyId, TxnHistory, TxnOp, TxnOutcome, Version, index};
use super::level::AnomalyKind;

/// What the registers of a history show.
#[derive(Debug)]
pub(crate) struct Registers<'h> {
    pub(crate) history: &'h TxnHistory,
    /// Which transactions are committed, as far as anybody can tell.
    pub(crate) committed: Vec<bool>,
    pub(crate) anomalies: Anomalies,
    /// By version: who wrote it.
    writers: Vec<u32>,
    /// By version: whether its transaction wrote no more to its key.
    is_final: Vec<bool>,
    /// Reads from outside: the key, the version, and who read; in this order.
    reads: Vec<(u32, Option<Version>, u32)>,
    /// By key: the initial value, if it was read; a value that nobody wrote is one as well as none.
    initials: Vec<Option<Option<Version>>>,
    /// Final writes: the key, the version, and who wrote; in this order.
    pub(crate) writes: Vec<(u32, Version, u32)>,
}

impl<'h> Registers<'h> {
    /// Reads the registers. An error says why they show nothing: a value was written twice.
    pub(crate) fn new(history: &'h TxnHistory) -> Result<Self, String> {
        let is_committed = |txn: &super::Txn| txn.outcome == TxnOutcome::Committed;
        let mut registers = Self {
            history,
            committed: history.transactions().iter().map(is_committed).collect(),
            anomalies: Anomalies::default(),
            writers: vec![NONE; history.version_count()],
            is_final: vec![true; history.version_count()],
            reads: Vec::new(),
            initials: vec![None; history.key_count()],
            writes: Vec::new(),
        };
        registers.find_writers()?;
        registers.look_inside();
        registers.find_writes();
        registers.reads.sort_unstable();
        registers.find_lost_updates();
        Ok(registers)
    }

    fn find_writers(&mut self) -> Result<(), String> {
        let history = self.history;
        let mut last: Vec<Option<(u32, Version)>> = vec![None; history.key_count()];
        for txn in 0..index(history.transactions().len()) {
            for version in history.ops(txn as usize).iter().filter_map(|op| op.written()) {
                let key = history.key_of(version);
                let writer = &mut self.writers[version.0 as usize];
                if *writer != NONE {
                    let (value, key) = (history.value_name(version), history.key_name(key));
                    return Err(format!(
                        "{value} was written to {key} twice, so nobody knows which one a read saw"
                    ));
                }
                *writer = txn;
                if let Some((writer, earlier)) = last[key.0 as usize].replace((txn, version)) {
                    self.is_final[earlier.0 as usize] = writer != txn;
                }
            }
        }
        Ok(())
    }

    /// Compares each read with what its transaction did before, or takes it down as one from outside.
    fn look_inside(&mut self) {
        let history = self.history;
        // By key, what a transaction read or wrote last.
        let mut last: Vec<(u32, Option<Version>)> = vec![(NONE, None); history.key_count()];
        for txn in 0..index(history.transactions().len()) {
            for op in history.ops(txn as usize) {
                let key = history.key_of_op(*op);
                let known = &mut last[key.0 as usize];
                match *op {
                    TxnOp::Write(version) => *known = (txn, Some(version)),
                    TxnOp::Read(_, version) => {
                        let before = std::mem::replace(known, (txn, version));
                        if before.0 != txn {
                            self.read_first(txn, key, version);
                        } else if before.1 != version {
                            self.contradicts(txn, *op);
                            self.see_again(txn, key, version);
                        }
                    }
                    TxnOp::Append(_) | TxnOp::ReadList(..) => {}
                }
            }
        }
    }

    fn read_first(&mut self, txn: u32, key: KeyId, version: Option<Version>) {
        if version.is_none_or(|version| !self.is_written(version)) {
            self.see_initial(txn, key, version);
            self.reads.push((key.0, None, txn));
            return;
        }
        let Some(writer) = self.see(txn, version) else { return };
        let history = self.history;
        let text = |what: &str| {
            let value = version.map_or("nil", |version| history.value_name(version));
            vec![format!("{} read {value} in {}, {what}", name(txn), history.key_name(key))]
        };
        if writer == txn {
            let what = || text("before it wrote that itself");
            self.anomalies.add(AnomalyKind::FutureRead, &[txn], what);
            return;
        }
        if version.is_some_and(|version| !self.is_final[version.0 as usize]) {
            let what = || text(&format!("which {} replaced itself", name(writer)));
            self.anomalies.add(AnomalyKind::IntermediateRead, &[writer, txn], what);
        }
        self.reads.push((key.0, version, txn));
    }

    /// A value that nobody wrote was there at first, but no two of them.
    fn see_initial(&mut self, txn: u32, key: KeyId, version: Option<Version>) {
        let initial = *self.initials[key.0 as usize].get_or_insert(version);
        if initial != version {
            let history = self.history;
            self.anomalies.add(AnomalyKind::GarbageRead, &[txn], || {
                let text = |it: Option<Version>| it.map_or("nil", |it| history.value_name(it));
                let (one, other) = (text(initial), text(version));
                let key = history.key_name(key);
                vec![format!("{one} and {other} were read in {key}, and nobody wrote them")]
            });
        }
    }

    /// A read that contradicts what its transaction did before is none from outside, but saw what it
    /// saw.
    fn see_again(&mut self, txn: u32, key: KeyId, version: Option<Version>) {
        if version.is_none_or(|version| !self.is_written(version)) {
            self.see_initial(txn, key, version);
        } else {
            self.see(txn, version);
        }
    }

    /// A committed read saw a version. Who wrote it, if it is one that can be seen.
    fn see(&mut self, reader: u32, version: Option<Version>) -> Option<u32> {
        let (history, version) = (self.history, version?);
        let writer = self.writers[version.0 as usize];
        let text = |what: &str| {
            let (value, key) = (history.value_name(version), history.key_of(version));
            vec![format!("{} read {value} in {}, {what}", name(reader), history.key_name(key))]
        };
        if writer == NONE {
            let what = || text("which nobody wrote");
            self.anomalies.add(AnomalyKind::GarbageRead, &[reader], what);
            return None;
        }
        if history.transactions()[writer as usize].outcome == TxnOutcome::Aborted {
            let what = || text(&format!("which {} wrote and aborted", name(writer)));
            self.anomalies.add(AnomalyKind::AbortedRead, &[writer, reader], what);
            return None;
        }
        self.committed[writer as usize] = true;
        Some(writer)
    }

    fn contradicts(&mut self, txn: u32, op: TxnOp) {
        let history = self.history;
        self.anomalies.add(AnomalyKind::Internal, &[txn], || {
            let op = history.op_text(op);
            vec![format!("{} did {op}, against what it read or wrote before", name(txn))]
        });
    }

    fn find_writes(&mut self) {
        let history = self.history;
        for version in (0..index(history.version_count())).map(Version) {
            let writer = self.writers[version.0 as usize];
            if writer != NONE
                && self.committed[writer as usize]
                && self.is_final[version.0 as usize]
            {
                self.writes.push((history.key_of(version).0, version, writer));
            }
        }
        self.writes.sort_unstable();
    }

    fn find_lost_updates(&mut self) {
        let history = self.history;
        let mut writes: Vec<_> = self.writes.iter().map(|(key, _, txn)| (*key, *txn)).collect();
        writes.sort_unstable();
        let is_update = |(key, _, txn): &&(u32, Option<Version>, u32)| {
            writes.binary_search(&(*key, *txn)).is_ok()
        };
        let updates: Vec<_> = self.reads.iter().filter(is_update).copied().collect();
        for pair in updates.windows(2) {
            let ((key, version, one), (other_key, other_version, other)) = (pair[0], pair[1]);
            if (key, version) == (other_key, other_version) {
                self.anomalies.add(AnomalyKind::LostUpdate, &[one, other], || {
                    let value = version.map_or("nil", |version| history.value_name(version));
                    let (one, other) = (name(one), name(other));
                    let key = history.key_name(KeyId(key));
                    vec![format!("{one} and {other} read {value} in {key}, and both wrote over it")]
                });
            }
        }
    }

    /// Whether a transaction wrote a version. Else it is the initial state of its key.
    pub(crate) fn is_written(&self, version: Version) -> bool {
        self.writers[version.0 as usize] != NONE
    }

    /// The writers of a key, with the version of each.
    pub(crate) fn writers_of(&self, key: u32) -> &[(u32, Version, u32)] {
        let begin = self.writes.partition_point(|write| write.0 < key);
        let end = self.writes.partition_point(|write| write.0 <= key);
        &self.writes[begin..end]
    }

    /// The reads from outside of a version, or of the initial state of a key.
    pub(crate) fn readers_of(
        &self,
        key: u32,
        version: Option<Version>,
    ) -> &[(u32, Option<Version>, u32)] {
        let begin = self.reads.partition_point(|read| (read.0, read.1) < (key, version));
        let end = self.reads.partition_point(|read| (read.0, read.1) <= (key, version));
        &self.reads[begin..end]
    }

    /// How many edges from reads of initial states to writes there are.
    pub(crate) fn first_count(&self) -> u64 {
        let firsts = self.reads.iter().filter(|read| read.1.is_none());
        firsts.map(|read| self.writers_of(read.0).len() as u64).sum()
    }

    /// All edges that are certain: from writes to their reads, and from reads of initial states to
    /// writes.
    pub(crate) fn certain(&self) -> impl Iterator<Item = Link> {
        self.reads.iter().flat_map(|(key, version, reader)| {
            let writer = version.map(|version| self.writers[version.0 as usize]);
            let read = writer.map(|writer| (writer, *reader, Kind::Read));
            let all: &[_] = if version.is_none() { self.writers_of(*key) } else { &[] };
            let over = all.iter().map(|(_, _, writer)| (*reader, *writer, Kind::Against));
            let links = read.into_iter().chain(over).filter(|(from, to, _)| from != to);
            links.map(|(from, to, kind)| Link { from, to, kind, key: *key })
        })
    }

    /// What an edge between transactions says.
    pub(crate) fn sentence(&self, link: &Link) -> String {
        let (from, to) = (name(link.from), name(link.to));
        let key = self.history.key_name(KeyId(link.key));
        let written = |txn: u32| {
            let is_it = |write: &&(u32, Version, u32)| write.2 == txn;
            let found = self.writers_of(link.key).iter().find(is_it);
            found.map_or("a value", |write| self.history.value_name(write.1))
        };
        let read = |txn: u32| {
            let ops = self.history.ops(txn as usize).iter();
            let mut read = ops.filter_map(|op| match op {
                TxnOp::Read(of, version) if of.0 == link.key => Some(*version),
                _ => None,
            });
            read.next().flatten().map_or("nil", |version| self.history.value_name(version))
        };
        match link.kind {
            Kind::Overwritten => {
                let (before, after) = (written(link.from), written(link.to));
                format!("{from} wrote {before} to {key}, and {to} wrote {after} over it")
            }
            Kind::Read => format!("{from} wrote {} to {key}, and {to} read it", read(link.to)),
            Kind::Against => {
                let (read, after) = (read(link.from), written(link.to));
                format!("{from} read {key} as {read}, before {to} wrote {after}")
            }
            Kind::Process => format!("{from} ran before {to} in the same process"),
            Kind::RealTime | Kind::Onward => format!("{from} completed before {to} was invoked"),
        }
    }
}
