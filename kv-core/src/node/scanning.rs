//! Scans of transactions: what of a range is locked.
//!
//! A scan asks for a range, of which a page may hold only the beginning. To lock all of it would
//! keep others from writing what nobody has read, so no more is locked than a page goes:
//!
//! 1. A *probe* reads one page of what is newest, without a lock and without a confirmation. It is
//!    a hint, and says where such a page goes on.
//! 2. The range up to there is locked, shared, and waited for like any lock.
//! 3. The page is read again, under the lock and confirmed, from what is locked alone. That is the
//!    answer. It goes on where the lock ends, or earlier if more rows have come meanwhile.
//!
//! The lock holds off what would come in between rows, or vanish (no phantoms), until the
//! transaction has ended. What is prepared keeps its ranges in the log, as it does its keys.
//!
//! # Repetitions
//!
//! Another probe may find another end. So a repetition of a scan that waits takes the lock that is
//! waited for and asks the store nothing: it is the same wait. One that comes after the lock was
//! granted may lock a second range; both are kept until the transaction ends.
//!
//! **What this leaves out:** shrinking a lock when the page turns out to be shorter than the
//! probe's; scans that lock for update.

use super::locking::{ScanStep, Step};
use super::transactions::TxnPlace;
use super::{Node, Output};
use crate::id::{LogIndex, RequestHandle, ShardId, Timestamp};
use crate::locks::Target;
use crate::mutants::{self, Mutant};
use crate::op::{KeyRange, Page, PageLimit};
use crate::storage::{Scan, StorageRequest};
use crate::txn::TxnId;
use crate::wire::{ClientReply, Refusal, TxnRequest};

/// Probes that may be out, over all shards: each of them reads a page.
const PROBES_MAX: usize = 256;

/// A scan of which the store is asked how far a page of it goes.
#[derive(Debug)]
pub(super) struct Probe {
    place: TxnPlace,
    range: KeyRange,
    limit: PageLimit,
}

impl Node {
    /// Takes up a scan. Returns the step if it is known what to lock.
    pub(super) fn begin_scan(
        &mut self,
        handle: RequestHandle,
        place: TxnPlace,
        range: KeyRange,
        limit: PageLimit,
    ) -> Option<ScanStep> {
        if let Some(step) = self.waiting_scan(place, &range, limit) {
            return Some(step);
        }
        if self.probes.len() >= PROBES_MAX {
            self.reply(handle, ClientReply::Refused(Refusal::Overloaded));
            return None;
        }
        let shard = place.shard;
        let (at_least, timestamp) = (LogIndex(0), Timestamp::MAX);
        let scan = Scan { handle, shard, at_least, timestamp, range: range.clone(), limit };
        self.outbox.push(Output::Store(StorageRequest::Scan(scan)));
        self.probes.insert(handle, Probe { place, range, limit });
        None
    }

    /// The step of a transaction that waits, if it is this scan.
    fn waiting_scan(
        &self,
        place: TxnPlace,
        range: &KeyRange,
        limit: PageLimit,
    ) -> Option<ScanStep> {
        let live = self.replicas.get(&place.shard)?.locking.live.get(&place.txn)?;
        let Step::Scan(step) = &live.waiting.as_ref()?.step else { return None };
        (step.asked == *range && step.limit == limit).then(|| step.clone())
    }

    /// The store has answered a probe. What was checked before may be so no more.
    pub(super) fn on_probed(&mut self, handle: RequestHandle, probe: Probe, page: &Page) {
        let Probe { place, range, limit } = probe;
        let request = TxnRequest::Scan { range: range.clone(), limit };
        if let Err(refusal) = self.check_txn(place, &request) {
            return self.reply(handle, ClientReply::Refused(refusal));
        }
        let step = self
            .waiting_scan(place, &range, limit)
            .unwrap_or_else(|| ScanStep::up_to_end_of(page, range, limit));
        self.lock_for(handle, place, Step::Scan(step));
    }

    /// A transaction has ended: what its probes find is to bring it back no more.
    pub(super) fn end_probes(&mut self, shard: ShardId, txn: TxnId) {
        let is_of_txn = |probe: &Probe| probe.place.txn == txn && probe.place.shard == shard;
        if self.probes.values().any(is_of_txn)
            && let Some(replica) = self.replicas.get_mut(&shard)
        {
            replica.locking.end_unbegun(txn);
        }
    }
}

impl ScanStep {
    /// Locks what a page of the range has told.
    fn up_to_end_of(page: &Page, asked: KeyRange, limit: PageLimit) -> Self {
        let until = page.next.clone();
        let end = until.clone().or_else(|| asked.end.clone());
        let range = KeyRange { start: asked.start.clone(), end };
        assert!(!range.is_empty(), "a page that goes on has told something");
        let locks = match mutants::is_active(Mutant::ScanLocksRowsOnly) {
            true => page.rows.iter().map(|row| Target::Key(row.key.clone())).collect(),
            false => alloc::vec![Target::Range(range)],
        };
        Self { asked, limit, until, locks }
    }
}
