//! Replicas that may have forgotten what they promised.
//!
//! A node whose store was damaged begins an empty one, in another *life* ([`HardState::life`]), and
//! so does a single replica that was given up ([`HardState::quarantine`]). Such
//! replicas may have voted, and acknowledged entries that were then counted, and know nothing of it.
//! Until that can do no harm any more they are *suspect*.
//!
//! # What a suspect replica does
//!
//! It takes entries and snapshots like a learner, and acknowledges them under its new life. It does
//! not vote, campaign or confirm, and its acknowledgements do not count. So every majority that
//! elects or commits consists of replicas that know what they promised; it shares one of them with
//! every majority before it, and what was committed stays so. If there is no such majority, there is
//! no leader either: nothing is guessed.
//!
//! # When it is one no more
//!
//! A leader that hears of the new life forgets what the earlier one acknowledged, and appends a
//! no-op, the *barrier*. When the barrier is committed without suspects, and the replica has durably
//! acknowledged the log up to it, the leader says so ([`RaftMessage::Cleared`]), and the replica makes
//! durable, in one write, that it is whole in this life and that its vote of the term is the
//! leader's. Only then it says that it may be counted. Let T be the leader's term, and everything
//! before the announcement the *past*:
//!
//! - *Entries that were acknowledged in the past, and are or will be committed.* Those of a term up
//!   to T are in the leader's log before the barrier: those of older terms because whoever elected
//!   the leader had them, those of T because it appended them itself. Entries of a later term were
//!   not acknowledged: the leader of such a term had been elected by a majority, and one of them
//!   would have refused to acknowledge the barrier, which is newer.
//! - *Votes that were given in the past and may still be counted.* In a term up to T the replica
//!   votes for nobody but the leader. A candidate of a later term that has such a vote asked for it
//!   before the barrier was appended, so its log does not hold it. Among its voters is another one
//!   that acknowledged the barrier, and that one refuses: if it voted first, it would have refused
//!   the barrier. So the candidate loses, and a second vote in its term does no harm.
//! - *A leader that is one no more, and counts or clears all the same.* It cannot commit a barrier:
//!   a majority without suspects knows a newer term, or has not yet elected anybody, and then
//!   elects only who has the barrier.
//!
//! That a majority acknowledged an entry which did not exist before the announcement also says that
//! the leader's term was confirmed after it, so no round of confirmations is needed.
//!
//! (Protocol-aware recovery: Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage",
//! FAST 2018: truncating at the damage can lose what was acknowledged.)
//!
//! **What this leaves out:** using what is still legible of a damaged log.
//!
//! [`HardState::life`]: crate::storage::HardState::life
//! [`HardState::quarantine`]: crate::storage::HardState::quarantine

use super::progress::Progress;
use super::{Envelope, Group, State};
use crate::id::{LogIndex, NodeId, Term};
use crate::machine::Command;
use crate::mutants::{self, Mutant};
use crate::time::Instant;
use crate::wire::{RaftMessage, Standing};

impl Group {
    /// Whether this replica may have promised what it has forgotten.
    pub fn is_suspect(&self) -> bool {
        self.hard_state.is_suspect(self.config.life)
            && !mutants::is_active(Mutant::RepairFromStalePeer)
    }

    /// The present life of the replica.
    pub fn life(&self) -> u64 {
        self.hard_state.present_life(self.config.life)
    }

    /// What this replica's answers are worth.
    pub(super) fn standing(&self) -> Standing {
        Standing { life: self.life(), is_suspect: self.is_suspect() }
    }

    /// As leader: the follower `from` says just now that it is suspect, in this life of it.
    pub fn on_follower_suspect(&mut self, now: Instant, from: NodeId, life: u64) {
        let is_known = self.note_standing(now, from, Standing { life, is_suspect: true });
        if is_known && let Some(progress) = self.progress_mut(from) {
            progress.contact = now;
        }
    }

    /// As leader: notes in which life a follower is, and whether it counts. Whether that life was
    /// known: what is said in an earlier one is of no use any more, and from a later one on the
    /// follower is first asked anew what it has.
    pub(super) fn note_standing(&mut self, now: Instant, from: NodeId, standing: Standing) -> bool {
        let next = self.log.last().index.next();
        let Some(progress) = self.progress_mut(from) else {
            return false;
        };
        let Standing { life, is_suspect } = standing;
        if life == progress.life {
            if !is_suspect {
                progress.barrier = None;
            }
            return true;
        }
        if life > progress.life {
            // Nothing of it counts before the barrier is known, which is in the same step.
            let barrier = is_suspect.then_some(next);
            *progress = Progress::in_another_life(next, now, life, barrier);
            if is_suspect {
                let noop = self.append_as_leader(now, Command::Noop.encode().into());
                assert_eq!(noop.index, next, "the barrier is the next entry");
            }
            self.send_appends_to(now, from);
        }
        false
    }

    /// As leader: tells a suspect follower that has what it must have.
    pub(super) fn clear_suspect(&mut self, follower: NodeId) {
        let commit = self.hard_state.commit;
        let term = self.hard_state.term;
        let Some(Progress { barrier: Some(barrier), life, matched, .. }) = self.progress(follower)
        else {
            return;
        };
        if commit >= *barrier && matched >= barrier {
            let message = RaftMessage::Cleared { term, life: *life, barrier: *barrier };
            self.outbox.push(Envelope { to: follower, message, after_persist: false });
        }
    }

    /// As leader, at a heartbeat: tells again whom it may not have reached.
    pub(super) fn clear_suspects(&mut self) {
        let State::Leader(leadership) = &self.state else {
            return;
        };
        let suspects = leadership.followers.iter().filter(|(_, it)| it.barrier.is_some());
        let suspects: alloc::vec::Vec<_> = suspects.map(|(node, _)| *node).collect();
        suspects.into_iter().for_each(|follower| self.clear_suspect(follower));
    }

    /// The leader of `term` says that this replica, in this life, has all that may have been
    /// promised.
    pub(super) fn on_cleared(&mut self, from: NodeId, term: Term, life: u64, barrier: LogIndex) {
        let is_leaders = term == self.hard_state.term && self.leader == Some(from);
        if !is_leaders || life != self.life() || barrier > self.log.persisted() {
            return;
        }
        if self.is_suspect() {
            self.hard_state.vote = Some(from);
            self.hard_state.life = life;
            self.hard_state_unsaved = true;
        }
        self.accept(from, barrier);
    }
}
