//! Read-only transactions: reads at one timestamp, without locks.
//!
//! A client first takes a timestamp, then reads its keys one by one, or scans the range that they are
//! in. Nothing is to be committed; what was read too late is read again at a newer timestamp.

use kv_core::client::{Answer, Call, CallError, TxnOp};
use kv_core::id::Timestamp;
use kv_core::op::{KeyRange, PageLimit, Row};
use kv_core::wire::Refusal;

use super::attempt::Attempt;
use super::scan::{found_in, range_of};
use super::transaction::{Op, Style, TxnEnd};

/// Rows of a page: few, so that a scan takes some pages.
const PAGE_LIMIT: PageLimit = PageLimit { rows: 7, bytes: 4_096 };

/// The reads of a transaction at one timestamp.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// None until the oracle has answered.
    at: Option<Timestamp>,
    is_scan: bool,
    /// What is left to be scanned.
    range: KeyRange,
    /// What the scan has found.
    rows: Vec<Row>,
}

/// What an answer leads to.
#[derive(Debug)]
pub(super) enum Turn {
    Ask(Call),
    End(TxnEnd),
    /// What was to be read is forgotten.
    Retry(TxnEnd),
}

impl Snapshot {
    /// For a transaction of reads; none if it is not to be read at a timestamp.
    pub(super) fn new(style: Style, ops: &[Op]) -> Option<Self> {
        let is_scan = match style {
            Style::Locking | Style::LockingScan | Style::Plain => return None,
            Style::Snapshot => false,
            Style::Scan => true,
        };
        Some(Self { at: None, is_scan, range: range_of(ops)?, rows: Vec::new() })
    }

    /// What to ask for next; none when all is read.
    pub(super) fn call(&self, op: &TxnOp) -> Option<Call> {
        let Some(at) = self.at else { return Some(Call::Timestamp) };
        match op {
            _ if self.is_scan => {
                Some(Call::ScanAt { range: self.range.clone(), at, limit: PAGE_LIMIT })
            }
            TxnOp::Get { key } => Some(Call::GetAt { key: key.clone(), at }),
            TxnOp::Commit => None,
            op => unreachable!("{op:?} does not only read"),
        }
    }

    /// Takes an answer to what was asked for. `op` is the next operation of the attempt.
    pub(super) fn turn(
        &mut self,
        result: Result<Answer, CallError>,
        attempt: &mut Attempt,
        op: &mut TxnOp,
    ) -> Turn {
        match result {
            Ok(Answer::Timestamp(at)) => self.at = Some(at),
            Ok(Answer::Got(found)) => {
                attempt.found.push(found);
                *op = attempt.next_op();
            }
            Ok(Answer::Page(page)) => {
                self.rows.extend(page.rows);
                match page.next {
                    Some(next) => self.range.start = next,
                    None => return Turn::End(self.end_of_scan(attempt)),
                }
            }
            Ok(answer) => panic!("a read at a timestamp was answered with {answer:?}"),
            Err(error @ CallError::Refused(Refusal::SnapshotTooOld { .. })) => {
                return Turn::Retry(TxnEnd::failed(error.to_string()));
            }
            Err(error) => return Turn::End(TxnEnd::failed(error.to_string())),
        }
        match self.call(op) {
            Some(call) => Turn::Ask(call),
            None => Turn::End(TxnEnd::Committed {
                found: std::mem::take(&mut attempt.found),
                commit_ts: None,
                at: self.at,
            }),
        }
    }

    /// What the transaction's keys hold, as the scan has shown it.
    fn end_of_scan(&self, attempt: &Attempt) -> TxnEnd {
        let found = found_in(&self.rows, &attempt.transaction.ops);
        TxnEnd::Committed { found, commit_ts: None, at: self.at }
    }
}
