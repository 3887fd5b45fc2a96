//! Scans of transactions: one call, and a step for each shard that is asked for its part.
//!
//! It is made like a scan at a timestamp, from what all shards hold, but each part is locked where
//! it is read: up to where the shard's page goes on, which may be behind the end of the merged
//! page. What is locked is remembered, and every shard that was asked takes part in the commit.

use super::Router;
use crate::client::scan::{Merge, Turn};
use crate::client::transaction::TxnScan;
use crate::client::{Answer, CallId, TxnHandle};
use crate::op::{Key, KeyRange, Page, PageLimit};
use crate::txn::Grant;
use crate::wire::TxnRequest;

impl Router {
    /// Begins a scan, unless it has begun.
    pub(super) fn scan_locking(&mut self, handle: TxnHandle, range: KeyRange, limit: PageLimit) {
        if self.txns.get(&handle).is_none_or(|txn| txn.scan.is_some()) {
            return;
        }
        let Some((_, shard_count)) = self.identify(handle) else {
            return;
        };
        let merge = Merge::new(range.clone(), limit, shard_count);
        if let Some(txn) = self.txns.get_mut(&handle) {
            txn.scan = Some(TxnScan { range, limit, merge, page: None });
        }
        self.turn_locking(handle);
    }

    /// Does what the scan needs next.
    fn turn_locking(&mut self, handle: TxnHandle) {
        let Some(scan) = self.txns.get_mut(&handle).and_then(|txn| txn.scan.as_mut()) else {
            return;
        };
        let turn = if scan.page.is_some() { Turn::Wait } else { scan.merge.turn() };
        match turn {
            Turn::Wait => {}
            Turn::Page(page) => scan.page = Some(page),
            Turn::Ask(asked) => {
                let Some(txn) = self.txns.get(&handle) else {
                    return;
                };
                let admitted = asked.iter().try_for_each(|(shard, ..)| txn.admit_range(*shard));
                if let Err(error) = admitted {
                    return self.fail(handle, error);
                }
                for (shard, range, limit) in asked {
                    self.send_step(handle, shard, TxnRequest::Scan { range, limit });
                }
            }
        }
        self.end_locking(handle);
    }

    /// Answers the call if the page is made and no shard is out.
    fn end_locking(&mut self, handle: TxnHandle) {
        let is_out = self.has_main_step(handle);
        let Some(txn) = self.txns.get_mut(&handle) else {
            return;
        };
        if let Some(mut scan) = txn.scan.take_if(|scan| scan.page.is_some() && !is_out)
            && let Some(page) = scan.page.take()
        {
            let page = txn.with_own_writes(scan, page);
            self.end_call(handle, Ok(Answer::Page(page)));
        }
    }

    /// A shard has locked its part. What cannot be the answer to what it was asked counts as none.
    pub(super) fn on_scanned(&mut self, id: CallId, range: KeyRange, grant: Grant, page: Page) {
        let Some(step) = self.jobs.get(&id).and_then(|job| job.step()) else {
            return;
        };
        let (handle, shard) = (step.handle, step.shard);
        let is_before_end = |next: &Key| range.end.as_ref().is_none_or(|end| next < end);
        let end = page.next.clone().filter(is_before_end).or_else(|| range.end.clone());
        let Some(scan) = self.txns.get_mut(&handle).and_then(|txn| txn.scan.as_mut()) else {
            return;
        };
        if !scan.merge.take(shard, page) {
            return;
        }
        self.drop_step(id);
        if let Some(txn) = self.take_grant(handle, shard, grant) {
            txn.see_range(shard, KeyRange { start: range.start, end });
            self.turn_locking(handle);
        }
    }
}
