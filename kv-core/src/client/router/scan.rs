//! Scans: one call, and a job for each shard that is asked for its part.
//!
//! The call stays parked while its parts are out. It ends when the page is made, with the first
//! refusal of a shard that no retry mends, or at its deadline; its parts end with it. A part follows
//! redirects and is repeated as any job: it reads at a timestamp, so it may be asked any number of
//! times, of any leader.

use alloc::collections::BTreeMap;

use super::{NEVER, Router};
use crate::client::job::{Goal, Part};
use crate::client::scan::{Merge, Turn};
use crate::client::{Answer, Call, CallError, CallId};
use crate::id::{ShardId, Timestamp};
use crate::op::Page;
use crate::wire::Refusal;

/// A scan that is under way.
#[derive(Debug)]
pub(super) struct Scan {
    at: Timestamp,
    merge: Merge,
    /// The jobs of the shards that are asked.
    parts: BTreeMap<ShardId, CallId>,
}

impl Router {
    /// Begins a scan, unless it has begun. Without a map it waits for one.
    pub(super) fn advance_scan(&mut self, call: CallId) {
        let Some(Goal::User(Call::ScanAt { range, at, limit })) =
            self.jobs.get(&call).map(|job| &job.goal)
        else {
            return;
        };
        if self.scans.contains_key(&call) {
            return;
        }
        let Some(map) = &self.map else {
            return self.ensure_own_job(&|goal| matches!(goal, Goal::FetchMap), |_| Goal::FetchMap);
        };
        let merge = Merge::new(range.clone(), *limit, map.shard_count());
        self.scans.insert(call, Scan { at: *at, merge, parts: BTreeMap::new() });
        self.turn_scan(call);
    }

    /// Does what the scan needs next.
    fn turn_scan(&mut self, call: CallId) {
        let Some(scan) = self.scans.get_mut(&call) else {
            return;
        };
        let at = scan.at;
        match scan.merge.turn() {
            Turn::Wait => {}
            Turn::Page(page) => self.end_scan(call, Ok(Answer::Page(page))),
            Turn::Ask(asked) => {
                for (shard, range, limit) in asked {
                    let part = Part { call, shard, at, range, limit };
                    let id = self.add_job(Goal::Part(part), NEVER);
                    if let Some(scan) = self.scans.get_mut(&call) {
                        scan.parts.insert(shard, id);
                    }
                    self.advance(id);
                }
            }
        }
    }

    /// A shard answers its part. An answer to something else counts as none.
    pub(super) fn on_page(&mut self, id: CallId, page: Page) {
        let Some((call, shard)) = self.part_of(id) else {
            return;
        };
        let Some(scan) = self.scans.get_mut(&call) else {
            return;
        };
        if scan.merge.take(shard, page) {
            scan.parts.remove(&shard);
            self.remove_job(id);
            self.turn_scan(call);
        }
    }

    /// A shard refuses its part for a reason that another attempt does not mend.
    pub(super) fn on_part_fatal(&mut self, id: CallId, refusal: Refusal) {
        if let Some((call, _)) = self.part_of(id) {
            self.end_scan(call, Err(CallError::Refused(refusal)));
        }
    }

    /// The time of the call is over. It says what a shard that did not answer was told last.
    pub(super) fn on_scan_deadline(&mut self, call: CallId, last: Option<Refusal>) {
        let parts = self.scans.get(&call).into_iter().flat_map(|scan| scan.parts.values());
        let mut refusals = parts.filter_map(|id| self.jobs.get(id)?.last_refusal.clone());
        let last = refusals.next().or(last);
        self.end_scan(call, Err(CallError::Unavailable { last }));
    }

    fn end_scan(&mut self, call: CallId, result: Result<Answer, CallError>) {
        let parts = self.scans.remove(&call).map(|scan| scan.parts).unwrap_or_default();
        for id in parts.into_values() {
            self.remove_job(id);
        }
        self.finish(call, result);
    }

    /// The scan of which the job asks for a part, and the shard that it asks.
    pub(super) fn part_of(&self, id: CallId) -> Option<(CallId, ShardId)> {
        let part = self.jobs.get(&id)?.part()?;
        Some((part.call, part.shard))
    }
}
