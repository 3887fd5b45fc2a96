//! Handing the leadership over (Raft thesis, section 3.10).
//!
//! The leader takes no more proposals, brings the chosen voter up to date, and tells it to campaign
//! at once, without waiting for anybody's election timeout. The votes that it asks for say so, and
//! are granted although a leader is alive. If that does not work out within an election timeout, the
//! leader goes on as before; if it does, clients have waited for little more than a round trip.

use super::{Envelope, Group, State};
use crate::id::{NodeId, Term};
use crate::time::Instant;
use crate::wire::RaftMessage;

/// A leadership that is being handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    /// When the leader gives up and goes on.
    deadline: Instant,
    /// Whether the receiver was told to campaign.
    is_told: bool,
}

/// Why a leadership is not handed over. *Nothing was changed.*
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Not the leader.
    #[error("not the leader")]
    NotLeader,
    /// It leads already.
    #[error("{to} leads already")]
    Leads {
        /// The node.
        to: NodeId,
    },
    /// It is no voter.
    #[error("{to} is no voter of the group")]
    NotVoter {
        /// The node.
        to: NodeId,
    },
    /// It lacks too much to lead soon, or has not answered for an election timeout.
    #[error("{to} does not answer or has not caught up")]
    Behind {
        /// The node.
        to: NodeId,
    },
    /// Another transfer is under way.
    #[error("the leadership is being handed over already")]
    UnderWay,
}

impl Group {
    /// As leader: begins to hand the leadership over to `to`.
    ///
    /// # Errors
    /// [`TransferError`]. *Nothing was changed.*
    pub fn transfer(&mut self, now: Instant, to: NodeId) -> Result<(), TransferError> {
        self.end_late_transfer(now);
        let State::Leader(leadership) = &self.state else {
            return Err(TransferError::NotLeader);
        };
        if to == self.config.me {
            return Err(TransferError::Leads { to });
        }
        if leadership.transfer.is_some() {
            return Err(TransferError::UnderWay);
        }
        if !self.configuration().voters.contains(&to) {
            return Err(TransferError::NotVoter { to });
        }
        if !self.is_able_to_lead(now, to) {
            return Err(TransferError::Behind { to });
        }
        let deadline = now + self.config.timings.election_min;
        if let State::Leader(leadership) = &mut self.state {
            leadership.transfer = Some(Transfer { to, deadline, is_told: false });
        }
        self.advance_transfer();
        Ok(())
    }

    /// As leader: the voter that is best suited to lead next among those that `may_lead`, if any
    /// is.
    pub fn best_successor(
        &self,
        now: Instant,
        may_lead: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let State::Leader(leadership) = &self.state else {
            return None;
        };
        let able = leadership.followers.iter().filter(|(node, _)| {
            self.configuration().voters.contains(node)
                && self.is_able_to_lead(now, **node)
                && may_lead(**node)
        });
        able.max_by_key(|(node, progress)| (progress.matched, core::cmp::Reverse(**node)))
            .map(|(node, _)| *node)
    }

    /// As leader: whether a follower is known to hold everything that is committed.
    pub fn holds_committed(&self, node: NodeId) -> bool {
        let commit = self.hard_state.commit;
        self.progress(node).is_some_and(|progress| progress.counted() >= commit)
    }

    fn is_able_to_lead(&self, now: Instant, node: NodeId) -> bool {
        let oldest = now - self.config.timings.election_min;
        let is_heard = self.progress(node).is_some_and(|progress| progress.contact >= oldest);
        is_heard && self.lacks_little(node)
    }

    /// As leader: hands over to the best successor, or else to nobody, and steps down.
    pub(super) fn abdicate(&mut self, now: Instant) {
        if let Some(to) = self.best_successor(now, |_| true) {
            self.tell_to_campaign(to);
        }
        self.step_down(now, self.hard_state.term);
    }

    /// Tells the receiver to campaign once it has the whole log.
    pub(super) fn advance_transfer(&mut self) {
        let last = self.log.last().index;
        let State::Leader(leadership) = &mut self.state else {
            return;
        };
        let Some(Transfer { to, is_told: is_told @ false, .. }) = &mut leadership.transfer else {
            return;
        };
        if leadership.followers.get(to).is_some_and(|progress| progress.counted() == last) {
            *is_told = true;
            let to = *to;
            self.tell_to_campaign(to);
        }
    }

    /// It waits for no write: a leader's term is durable, and a slow disk is why one hands over.
    fn tell_to_campaign(&mut self, to: NodeId) {
        if let State::Leader(leadership) = &mut self.state {
            leadership.has_named_successor = true;
        }
        let message = RaftMessage::Transfer { term: self.hard_state.term };
        self.outbox.push(Envelope { to, message, after_persist: false });
    }

    /// Goes on as leader if the receiver has not taken over in time.
    pub(super) fn end_late_transfer(&mut self, now: Instant) {
        if let State::Leader(leadership) = &mut self.state
            && leadership.transfer.is_some_and(|transfer| now >= transfer.deadline)
        {
            leadership.transfer = None;
        }
    }

    /// The leader of `term` hands the leadership over to this replica.
    pub(super) fn on_transfer(&mut self, now: Instant, from: NodeId, term: Term) {
        let is_leaders = term == self.hard_state.term && self.leader == Some(from);
        if is_leaders && self.may_campaign() {
            self.campaign(now, true);
        }
    }
}
