//! Scans under locks: how a transaction reads all of its first keys at once.
//!
//! A transaction in the style [`LockingScan`](Style::LockingScan) begins with reads. They are done
//! by a scan over the range in which their keys are, a page after the other. What the scan does not
//! show does not exist, and is as good as read.

use kv_core::client::TxnOp;
use kv_core::op::{Found, Key, KeyRange, Page, PageLimit, Row};

use super::transaction::{Op, Style, Transaction};

/// Rows of a page: few, so that a scan takes some pages.
const PAGE_LIMIT: PageLimit = PageLimit { rows: 5, bytes: 4_096 };

/// The range from the first to the last key of some operations; none if there are none.
pub(super) fn range_of(ops: &[Op]) -> Option<KeyRange> {
    let start = ops.iter().map(Op::key).min()?.clone();
    let last = ops.iter().map(Op::key).max()?;
    let end = Key { bytes: [&last.bytes[..], &[0]].concat().into(), ..last.clone() };
    Some(KeyRange { start, end: Some(end) })
}

/// What the keys of some reads hold, as the rows of a scan have shown it.
pub(super) fn found_in(rows: &[Row], reads: &[Op]) -> Vec<Option<Found>> {
    let is_ordered = rows.windows(2).all(|rows| rows[0].key < rows[1].key);
    assert!(is_ordered, "a scan shows each key once, in order");
    let found = |op: &Op| -> Option<Found> {
        let row = rows.binary_search_by(|row| row.key.cmp(op.key())).ok()?;
        Some(rows[row].found.clone())
    };
    reads.iter().map(found).collect()
}

/// The scan with which an attempt begins.
#[derive(Debug)]
pub(super) struct LockingScan {
    /// How many reads it does.
    read_count: usize,
    /// What is left of the range.
    range: KeyRange,
    rows: Vec<Row>,
}

impl LockingScan {
    /// For a transaction; none if it does not begin with a scan.
    pub(super) fn new(transaction: &Transaction) -> Option<Self> {
        let read_count = transaction.ops.iter().take_while(|op| op.is_read()).count();
        let range = range_of(&transaction.ops[..read_count])?;
        let is_scan = transaction.style == Style::LockingScan;
        is_scan.then(|| Self { read_count, range, rows: Vec::new() })
    }

    /// What to ask for next.
    pub(super) fn op(&self) -> TxnOp {
        TxnOp::Scan { range: self.range.clone(), limit: PAGE_LIMIT }
    }

    /// Takes a page. At the end, returns what the reads have found.
    pub(super) fn take(&mut self, page: Page, ops: &[Op]) -> Option<Vec<Option<Found>>> {
        self.rows.extend(page.rows);
        match page.next {
            Some(next) => {
                self.range.start = next;
                None
            }
            None => Some(found_in(&self.rows, &ops[..self.read_count])),
        }
    }
}
