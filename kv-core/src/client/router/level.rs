//! Reads at any replica, and what the session of a router has seen.
//!
//! The session has one *token*: a timestamp at or above everything that it has seen. A sequential
//! read names it, and is answered as of that timestamp or a later one. So it sees all that the
//! session wrote or read before, on whatever node.
//!
//! The token rises with the versions of what was written and read, and with the timestamps at which
//! something was read. A linearizable read that finds nothing, a delete, and a scan of a transaction
//! tell no timestamp: the
//! session then has seen something and does not know when, a *gap*. The next sequential read first
//! takes a timestamp of the oracle, which is above all that was acknowledged, and closes it.
//!
//! A replica is drawn at random. One that refuses or is silent is avoided by the next attempt, and
//! after a few the leader is asked.

use alloc::vec::Vec;
use core::time::Duration;

use super::Router;
use crate::client::job::{Goal, Job, Stage};
use crate::client::{Answer, Call, CallError, CallId, Level};
use crate::id::Timestamp;
use crate::op::WriteResult;
use crate::txn::TxnOutcome;
use crate::wire::ReadLevel;

/// So many attempts go to replicas at random before the leader is asked.
const REPLICA_ATTEMPTS: u32 = 4;

/// What a session has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The token.
    at: Timestamp,
    /// How often it has seen something and was not told when.
    gap_count: u64,
    /// So many of those are below `at`.
    closed_count: u64,
}

impl Seen {
    pub(super) fn at(&self) -> Timestamp {
        self.at
    }

    pub(super) fn gap_count(&self) -> u64 {
        self.gap_count
    }

    /// Whether it has seen what may be above its token.
    pub(super) fn has_gap(&self) -> bool {
        self.closed_count < self.gap_count
    }

    fn raise(&mut self, at: Timestamp) {
        self.at = self.at.max(at);
    }

    /// It has seen a version, or that there is none.
    fn see(&mut self, version: Option<Timestamp>) {
        match version {
            Some(version) => self.raise(version),
            None => self.gap_count += 1,
        }
    }
}

/// What a request asks for, in a session that has seen what is up to `seen`.
pub(super) fn read_level(level: Level, seen: Timestamp) -> ReadLevel {
    match level {
        Level::Sequential => ReadLevel::Sequential { after: seen },
        Level::Stale { max_age } => ReadLevel::Stale { max_age_ms: millis(max_age) },
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl Job {
    /// Whether it is a read that goes to whichever replica was drawn.
    pub(super) fn asks_any_replica(&self) -> bool {
        self.level().is_some() && self.failure_count < REPLICA_ATTEMPTS
    }
}

impl Router {
    /// What the session has seen: sequential reads of whoever joins it see all of that. None while it
    /// has seen something and was not told when; the next sequential read ends that.
    pub fn session_token(&self) -> Option<Timestamp> {
        (!self.seen.has_gap()).then_some(self.seen.at)
    }

    /// Sequential reads see from here on what a session has seen that had this token.
    pub fn join_session(&mut self, token: Timestamp) {
        self.seen.raise(token);
    }

    /// A call has ended: notes what the session has seen by it.
    pub(super) fn note_seen(&mut self, goal: &Goal, result: &Result<Answer, CallError>) {
        let Ok(answer) = result else { return };
        if let Goal::User(Call::GetAt { at, .. } | Call::ScanAt { at, .. }) = goal {
            return self.seen.raise(*at);
        }
        match answer {
            Answer::Got(found) => self.seen.see(found.as_ref().map(|found| found.version)),
            Answer::GotReplica { at, .. } => self.seen.raise(*at),
            Answer::Written(WriteResult::Put { version }) => self.seen.raise(*version),
            Answer::Written(WriteResult::Delete { .. }) => self.seen.see(None),
            Answer::Written(WriteResult::Cas { version, .. }) => self.seen.see(*version),
            Answer::Outcome(TxnOutcome::Committed { commit_ts }) => self.seen.raise(*commit_ts),
            Answer::Committed { commit_ts } => commit_ts.iter().for_each(|ts| self.seen.raise(*ts)),
            // By a transaction: it was told no timestamp.
            Answer::Page(_) => self.seen.see(None),
            Answer::Timestamp(_)
            | Answer::Outcome(TxnOutcome::Aborted)
            | Answer::Buffered
            | Answer::RolledBack
            | Answer::Status(_)
            | Answer::Map(_)
            | Answer::Admin(_) => {}
        }
    }

    /// The session is one of another cluster from here on, which has issued nothing that it has seen.
    pub(super) fn forget_seen(&mut self) {
        self.seen = Seen::default();
        let is_closing = |job: &Job| matches!(job.goal, Goal::CloseGap { .. });
        let closing: Vec<_> =
            self.jobs.iter().filter(|(_, job)| is_closing(job)).map(|(id, _)| *id).collect();
        for id in closing {
            self.remove_job(id);
        }
    }

    /// The oracle's timestamp has come, for the user or to close gaps.
    pub(super) fn on_timestamp(&mut self, id: CallId, at: Timestamp) {
        let Some(Goal::CloseGap { gap_count }) = self.jobs.get(&id).map(|job| job.goal.clone())
        else {
            return self.finish(id, Ok(Answer::Timestamp(at)));
        };
        self.remove_job(id);
        self.seen.raise(at);
        self.seen.closed_count = self.seen.closed_count.max(gap_count);
        self.advance_parked();
    }

    /// Whoever was asked last is not asked by the next attempt.
    pub(super) fn avoid_asked(&mut self, id: CallId) {
        let (Some(job), Some(map)) = (self.jobs.get_mut(&id), &self.map) else { return };
        if let Stage::Sent { to, .. } = &job.stage {
            let asked = map.members.iter().find(|member| member.address == *to);
            job.avoided = asked.map(|member| member.id).or(job.avoided);
        }
    }
}
