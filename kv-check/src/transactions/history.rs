//! What transactions did: the types, in flat arrays.
//!
//! A million operations must fit easily, and their reads repeat whole lists, so nothing here has an
//! allocation of its own: names of keys and values are interned to numbers, operations and the
//! elements of lists lie one after the other.
//!
//! A [`Version`] is a value of a key. Each is written at most once in a history that can be decided
//! by what reads saw; who writes one twice makes it unknown which one was read.
//!
//! # Invariants
//!
//! - `invoked < completed`, positions in the order of events.
//! - Transactions of one process do not overlap; readers of formats check that.
//! - Only committed transactions have reads: nobody knows what the others saw.

use std::collections::HashMap;

/// The completion of a transaction whose outcome nobody knows: after everything else.
pub const NEVER: u32 = u32::MAX;

/// How many transactions and operations there may be: graphs have some nodes for each, and two states
/// for each node, which are numbers below 2^32.
const TXNS_MAX: u32 = u32::MAX / 16;

/// A process that has no number: a client of whom events say nothing.
pub const ANYBODY: u32 = u32::MAX;

/// A key, by the order in which keys were named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(crate) u32);

/// A value of a certain key, by the order in which they were named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub(crate) u32);

/// What a read of a list saw: a range of the elements of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List {
    from: u32,
    length: u32,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// It took effect.
    Committed,
    /// It certainly took no effect.
    Aborted,
    /// It took effect or not; if somebody saw a part of it, it did.
    Unknown,
}

/// An operation of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOp {
    /// Appends a value to the list of its key.
    Append(Version),
    /// Reads a list.
    ReadList(KeyId, List),
    /// Overwrites the value of its key.
    Write(Version),
    /// Reads a value; none if the key had none.
    Read(KeyId, Option<Version>),
}

/// A transaction without its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Txn {
    /// Who ran it; at most one at a time.
    pub process: u32,
    /// Position of its invocation among all events.
    pub invoked: u32,
    /// Position of its completion, or [`NEVER`].
    pub completed: u32,
    /// How it ended.
    pub outcome: TxnOutcome,
}

/// Why a history takes no more. *Nothing was added.*
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected fewer than 2^32 operations and elements of lists")]
pub struct HistoryFull;

/// Transactions with all they did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnHistory {
    transactions: Vec<Txn>,
    /// For each transaction, where its operations end; they begin where those before it end.
    ends: Vec<u32>,
    ops: Vec<TxnOp>,
    elements: Vec<Version>,
    keys: Names,
    values: Names,
    versions: Vec<(KeyId, u32)>,
    by_value: HashMap<(KeyId, u32), Version>,
}

/// Texts with numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Names {
    texts: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
}

impl Names {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        // A text has fewer names than bytes, and histories are full before 2^32 of them.
        let number = index(self.texts.len());
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }
}

/// A place in an array that is known to be shorter than 2^32.
pub(crate) fn index(place: usize) -> u32 {
    u32::try_from(place).expect("arrays are shorter than 2^32, or the history was full before")
}

impl TxnHistory {
    /// A history without transactions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The key of this name.
    pub fn key(&mut self, name: &str) -> KeyId {
        KeyId(self.keys.number(name))
    }

    /// The value of a key.
    pub fn version(&mut self, key: KeyId, value: &str) -> Version {
        let value = self.values.number(value);
        let next = Version(index(self.versions.len()));
        let version = *self.by_value.entry((key, value)).or_insert(next);
        if version == next {
            self.versions.push((key, value));
        }
        version
    }

    /// What a read saw, the oldest element first.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn list(&mut self, elements: &[Version]) -> Result<List, HistoryFull> {
        let from = u32::try_from(self.elements.len()).map_err(|_| HistoryFull)?;
        let length = u32::try_from(elements.len()).map_err(|_| HistoryFull)?;
        from.checked_add(length).filter(|end| *end < u32::MAX).ok_or(HistoryFull)?;
        self.elements.extend_from_slice(elements);
        Ok(List { from, length })
    }

    /// Adds a transaction. Reads of one that is not committed are left out.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn push(&mut self, txn: Txn, ops: &[TxnOp]) -> Result<(), HistoryFull> {
        let is_known = txn.outcome == TxnOutcome::Committed;
        let kept = |op: &&TxnOp| is_known || op.written().is_some();
        let end = self.ops.len() + ops.iter().filter(kept).count();
        let end = u32::try_from(end).ok().filter(|end| *end < TXNS_MAX).ok_or(HistoryFull)?;
        if self.transactions.len() >= TXNS_MAX as usize {
            return Err(HistoryFull);
        }
        self.ops.extend(ops.iter().filter(kept));
        self.ends.push(end);
        self.transactions.push(txn);
        Ok(())
    }

    /// All transactions, in the order in which they were added.
    #[must_use]
    pub fn transactions(&self) -> &[Txn] {
        &self.transactions
    }

    /// The operations of the transaction at this place.
    #[must_use]
    pub fn ops(&self, txn: usize) -> &[TxnOp] {
        &self.ops[self.range(txn)]
    }

    /// The elements that a read saw.
    #[must_use]
    pub fn elements(&self, list: List) -> &[Version] {
        &self.elements[list.from as usize..][..list.length as usize]
    }

    /// How many keys were named.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.texts.len()
    }

    /// How many values of keys were named.
    #[must_use]
    pub fn version_count(&self) -> usize {
        self.versions.len()
    }

    /// How many operations there are.
    #[must_use]
    pub fn op_count(&self) -> usize {
        self.ops.len()
    }

    /// The name of a key.
    #[must_use]
    pub fn key_name(&self, key: KeyId) -> &str {
        &self.keys.texts[key.0 as usize]
    }

    /// The name of a value.
    #[must_use]
    pub fn value_name(&self, version: Version) -> &str {
        &self.values.texts[self.versions[version.0 as usize].1 as usize]
    }

    /// The key of a value.
    #[must_use]
    pub fn key_of(&self, version: Version) -> KeyId {
        self.versions[version.0 as usize].0
    }

    /// The key of an operation.
    #[must_use]
    pub fn key_of_op(&self, op: TxnOp) -> KeyId {
        match op {
            TxnOp::Append(version) | TxnOp::Write(version) => self.key_of(version),
            TxnOp::ReadList(key, _) | TxnOp::Read(key, _) => key,
        }
    }

    /// An operation for people.
    #[must_use]
    pub fn op_text(&self, op: TxnOp) -> String {
        let key = self.key_name(self.key_of_op(op));
        match op {
            TxnOp::Append(version) => format!("append {key} {}", self.value_name(version)),
            TxnOp::Write(version) => format!("write {key} {}", self.value_name(version)),
            TxnOp::ReadList(_, list) => {
                format!("read {key} {}", self.list_text(self.elements(list)))
            }
            TxnOp::Read(_, None) => format!("read {key} nil"),
            TxnOp::Read(_, Some(version)) => format!("read {key} {}", self.value_name(version)),
        }
    }

    /// A list for people: the end of a long one, which is what tells versions apart.
    pub(crate) fn list_text(&self, elements: &[Version]) -> String {
        let skipped = elements.len().saturating_sub(SHOWN_ELEMENTS_MAX);
        let names = elements[skipped..].iter().map(|element| self.value_name(*element));
        let names: Vec<_> = (skipped > 0).then_some("..").into_iter().chain(names).collect();
        format!("[{}]", names.join(" "))
    }

    /// All operations, one transaction after the other.
    pub(crate) fn all_ops(&self) -> &[TxnOp] {
        &self.ops
    }

    /// Where the operations of a transaction are among all.
    pub(crate) fn range(&self, txn: usize) -> std::ops::Range<usize> {
        let begin = if txn == 0 { 0 } else { self.ends[txn - 1] };
        begin as usize..self.ends[txn] as usize
    }
}

impl TxnOp {
    /// What it writes, if it writes.
    #[must_use]
    pub fn written(self) -> Option<Version> {
        match self {
            Self::Append(version) | Self::Write(version) => Some(version),
            Self::ReadList(..) | Self::Read(..) => None,
        }
    }
}

impl List {
    /// How many elements there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.length as usize
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.length == 0
    }
}

/// How many elements people see.
const SHOWN_ELEMENTS_MAX: usize = 8;
