//! Members that lack entries which the log does not hold any more.
//!
//! They get the state itself: a *snapshot* of what the leader has applied, then the entries behind
//! it. The group only says who needs one, and what an offered or installed snapshot means for its
//! log; how it travels is the node's business.
//!
//! A snapshot that is older than what is committed here is of no use and is answered with what is
//! here. While the store installs one, nothing is appended, applied or campaigned for. When it is
//! durable, it replaces the log, unless the log holds its last entry: then what follows stays.

use alloc::vec::Vec;

use super::progress::Mode;
use super::{Configuration, Group, State};
use crate::id::{LogId, LogIndex, NodeId, Term};
use crate::mutants::{self, Mutant};
use crate::time::Instant;
use crate::wire::RaftMessage;

impl Group {
    /// As leader: whether a member needs a snapshot, be it in contact or not.
    pub fn misses_snapshot(&self) -> bool {
        let State::Leader(leadership) = &self.state else {
            return false;
        };
        leadership.followers.values().any(|progress| matches!(progress.mode, Mode::Snapshot))
    }

    /// As leader: members that answer and need a snapshot.
    pub fn needs_snapshot(&self, now: Instant) -> Vec<NodeId> {
        let State::Leader(leadership) = &self.state else {
            return Vec::new();
        };
        let oldest = now - self.config.timings.election_max;
        let needs = leadership.followers.iter().filter(|(_, progress)| {
            matches!(progress.mode, Mode::Snapshot) && progress.contact >= oldest
        });
        needs.map(|(node, _)| *node).collect()
    }

    /// As leader: entries behind `last` are kept until a snapshot up to there has arrived; none:
    /// they need not be kept any more.
    pub fn pin(&mut self, last: Option<LogIndex>) {
        self.pinned = last;
    }

    /// The leader of `term` offers a snapshot that holds everything up to `last`. Whether it is
    /// wanted; if not, the leader was told why.
    pub fn on_snapshot_offer(
        &mut self,
        now: Instant,
        from: NodeId,
        term: Term,
        last: LogId,
    ) -> bool {
        if term < self.hard_state.term {
            if !mutants::is_active(Mutant::SnapshotTermUnguarded) {
                self.reject_append(from, last);
                return false;
            }
            self.hard_state.term = term;
            self.leader = None;
        }
        if !self.follow(now, from, term) || self.installing.is_some() {
            return false;
        }
        if last.index <= self.hard_state.commit {
            self.accept(from, self.hard_state.commit);
            return false;
        }
        true
    }

    /// The store begins to install a snapshot that was wanted. False if it is wanted no more.
    pub fn begin_install(&mut self, last: LogId) -> bool {
        if self.installing.is_some() || last.index <= self.hard_state.commit {
            return false;
        }
        self.installing = Some(last);
        true
    }

    /// Whether the store is installing a snapshot.
    pub fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// The snapshot is installed, durably: it is what this replica has committed and applied.
    ///
    /// # Panics
    /// If no install up to `last` had begun.
    pub fn on_installed(&mut self, now: Instant, last: LogId, configuration: Configuration) {
        assert_eq!(self.installing.take(), Some(last), "what was begun is installed");
        assert!(last.index > self.hard_state.commit, "nothing is committed meanwhile");
        let present = self.log.term_at(last.index);
        let any_term = mutants::is_active(Mutant::DivergentSuffixKept);
        let is_here = present == Some(last.term) || (any_term && present.is_some());
        if is_here && last.index <= self.log.persisted() {
            self.log.release(last);
            self.configurations.forget_before(last.index);
        } else {
            self.log.restart_at(last);
            self.restore_configuration(now, configuration);
        }
        self.hard_state.commit = last.index;
        self.hard_state_unsaved = true;
        self.applied = last.index;
        if let Some(leader) = self.leader {
            self.accept(leader, last.index);
        }
    }

    /// Tells the leader that everything up to `matched` is here.
    pub(super) fn accept(&mut self, leader: NodeId, matched: LogIndex) {
        let (term, commit) = (self.hard_state.term, self.hard_state.commit);
        let (held_by_all, standing) = (self.held_by_all, self.standing());
        let accepted = RaftMessage::AppendAccepted { term, matched, commit, held_by_all, standing };
        self.send(leader, accepted);
    }
}
