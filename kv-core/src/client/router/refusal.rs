//! What a refusal means for the job and for what the router believes.

use super::Router;
use crate::client::job::Job;
use crate::client::{CallError, CallId};
use crate::cluster::ShardEntry;
use crate::id::{NodeId, ShardId};
use crate::wire::Refusal;

impl Router {
    /// A node did not carry the request out.
    pub(super) fn on_refused(&mut self, id: CallId, refusal: Refusal) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.last_refusal = Some(refusal.clone());
        }
        if self.jobs.get(&id).is_some_and(|job| job.step().is_some()) {
            if is_final(&refusal) {
                return self.on_step_fatal(id, refusal);
            }
            if !self.may_retry(id) {
                // What the refusal says of the shard is learned all the same.
                self.drop_step(id);
            }
        }
        if let Some(asked) = self.outcome_of(id).filter(|_| is_final(&refusal)) {
            return self.on_outcome_refused(id, asked, refusal);
        }
        if is_final(&refusal) && self.part_of(id).is_some() {
            return self.on_part_fatal(id, refusal);
        }
        if self.jobs.get(&id).is_some_and(Job::asks_any_replica) {
            self.avoid_asked(id);
        }
        match refusal {
            Refusal::NotLeader { shard, hint } => self.on_not_leader(id, shard, hint),
            Refusal::WrongEpoch { entry } => self.on_wrong_epoch(id, *entry),
            // Perhaps it never will be: whoever led from that address may be gone, and another node
            // have begun there.
            Refusal::NotReady => self.on_attempt_failed(id),
            Refusal::Overloaded | Refusal::Malformed { .. } | Refusal::Unanswered { .. } => {
                self.pause(id)
            }
            Refusal::Damaged { node, .. } => {
                self.leaders.retain(|_, leader| *leader != node);
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.avoided = Some(node);
                }
                self.pause(id);
            }
            Refusal::Removed { node } => {
                self.leaders.retain(|_, leader| *leader != node);
                self.map = None;
                self.pause(id);
            }
            refusal @ (Refusal::NoSpace { .. } | Refusal::Diverged { .. }) => {
                self.on_no_space(id, refusal);
            }
            Refusal::SessionExpired => self.on_session_expired(id),
            Refusal::Superseded => self.give_up(id),
            refusal @ (Refusal::TooLarge { .. }
            | Refusal::WrongShard { .. }
            | Refusal::Meta(_)
            | Refusal::QuorumRisk { .. }
            | Refusal::Transfer { .. }
            | Refusal::InvalidStep { .. }
            | Refusal::SnapshotTooOld { .. }
            | Refusal::FutureTimestamp { .. }
            | Refusal::Member { .. }) => {
                self.finish(id, Err(CallError::Refused(refusal)));
            }
        }
    }

    /// A full disk, or a shard that nobody serves, is told at once, unless an earlier attempt may
    /// have taken effect.
    fn on_no_space(&mut self, id: CallId, refusal: Refusal) {
        if self.jobs.get(&id).is_some_and(|job| job.sent_count > 1) {
            return self.pause(id);
        }
        self.finish(id, Err(CallError::Refused(refusal)));
    }

    fn on_not_leader(&mut self, id: CallId, shard: ShardId, hint: Option<NodeId>) {
        let asks_any = self.jobs.get(&id).is_some_and(Job::asks_any_replica);
        let known = match hint {
            Some(node) => self.leaders.insert(shard, node),
            // A replica that knows no leader may be cut off: that says nothing about the leader.
            None if asks_any => None,
            None => self.leaders.remove(&shard),
        };
        hint.into_iter().for_each(|node| self.check_known(node));
        let is_first = self.jobs.get(&id).is_some_and(|job| job.failure_count == 0);
        if self.map.is_none() {
            self.pause(id);
        } else if is_first && (asks_any || (hint.is_some() && hint != known)) {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.failure_count += 1;
            }
            self.send(id);
        } else {
            self.pause(id);
        }
    }

    /// If the map does not have the node, it is out of date: forgets it, so that it is fetched.
    fn check_known(&mut self, node: NodeId) {
        if self.map.as_ref().is_some_and(|map| map.member(node).is_none()) {
            self.map = None;
        }
    }

    fn on_wrong_epoch(&mut self, id: CallId, entry: ShardEntry) {
        self.leaders.remove(&entry.shard);
        entry.voters.iter().for_each(|voter| self.check_known(*voter));
        let slot = self.map.as_mut().and_then(|map| map.shards.get_mut(entry.shard.0 as usize));
        if let Some(slot) = slot
            && slot.epoch < entry.epoch
        {
            *slot = entry;
            self.send(id);
        } else {
            self.pause(id);
        }
    }

    /// The shard has forgotten the session: the next write opens another one.
    fn on_session_expired(&mut self, id: CallId) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let error = job.give_up();
        let is_unsure = job.sent_count > 1;
        let session = job.request.map(|request| request.session);
        if let Some(session) = session
            && self.session == Some(session)
        {
            self.session = None;
            self.on_session_lost(session);
        }
        if is_unsure {
            return self.finish(id, Err(error));
        }
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.sent_count = 0;
        if let Some(request) = job.request.take() {
            self.unfinished.remove(&request.sequence);
        }
        // The pause keeps a client whose sessions never last from flooding the meta group.
        self.pause(id);
    }
}

/// Whether another attempt cannot be expected to fare better.
fn is_final(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::NotLeader { .. }
        | Refusal::WrongEpoch { .. }
        | Refusal::NotReady
        | Refusal::Overloaded
        | Refusal::Malformed { .. }
        | Refusal::Unanswered { .. }
        | Refusal::Damaged { .. }
        | Refusal::Removed { .. } => false,
        Refusal::NoSpace { .. }
        | Refusal::Diverged { .. }
        | Refusal::SessionExpired
        | Refusal::Superseded
        | Refusal::TooLarge { .. }
        | Refusal::WrongShard { .. }
        | Refusal::Meta(_)
        | Refusal::QuorumRisk { .. }
        | Refusal::Transfer { .. }
        | Refusal::InvalidStep { .. }
        | Refusal::SnapshotTooOld { .. }
        | Refusal::FutureTimestamp { .. }
        | Refusal::Member { .. } => true,
    }
}
