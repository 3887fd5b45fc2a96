//! Terms, votes and roles.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::progress::Progress;
use super::{Contradiction, Group, Leadership, State, TERM_MAX, VoteResult};
use crate::id::{LogId, LogIndex, NodeId, Term};
use crate::machine::Command;
use crate::mutants::{self, Mutant};
use crate::time::Instant;
use crate::wire::{RaftMessage, VoteKind};

/// Campaigns that follow each other quickly after the leader's process has ended: enough to get over
/// a split vote or a voter who has not noticed it yet, and few enough to disturb nobody if it has
/// not ended at all.
const HASTY_CAMPAIGN_MAX: u32 = 4;

impl Group {
    /// The deadline has come: campaign, or as leader check that a majority still answers.
    pub fn on_timeout(&mut self, now: Instant) {
        if now < self.deadline {
            return;
        }
        match self.state {
            State::Leader(_) => self.check_quorum(now),
            State::Follower | State::PreCandidate { .. } | State::Candidate { .. } => {
                // Contact does not move the deadline, which would cost a timer operation for every
                // message.
                let deadline = self.leader_contact + self.election_timeout;
                if self.leader.is_some() && deadline > now {
                    self.deadline = deadline;
                } else if self.may_campaign() {
                    self.start_pre_vote(now);
                } else {
                    self.leader = None;
                    self.reset_election_timeout(now);
                }
            }
        }
    }

    /// The node `from` says that it leads this group in `term`, just now. Whether it is taken for
    /// the leader.
    pub fn on_leader_alive(&mut self, now: Instant, from: NodeId, term: Term) -> bool {
        if term < self.hard_state.term {
            return false;
        }
        if term >= TERM_MAX {
            self.contradict(from, Contradiction::TermOutOfRange);
            return false;
        }
        self.follow(now, from, term)
    }

    /// The connection to `peer` broke off. If that is the leader, its process has most probably ended,
    /// and this replica campaigns after a short random time unless it hears of it before. Whether
    /// the replica campaigns.
    ///
    /// Only the waiting is left out. Whoever still hears the leader refuses, so that a leader whom a
    /// majority hears stays, and a term begins only with a majority of pre-votes. With leases it is
    /// the waiting that counts, whatever becomes of connections.
    pub fn on_leader_lost(&mut self, now: Instant, peer: NodeId) -> bool {
        let follows = matches!(self.state, State::Follower) && self.leader == Some(peer);
        if !follows || self.config.has_leases {
            return false;
        }
        self.leader = None;
        self.hasty_campaigns = HASTY_CAMPAIGN_MAX;
        self.reset_election_timeout(now);
        true
    }

    /// Tells `to`, which leads an older term, the term of this replica.
    pub fn tell_term(&mut self, to: NodeId) {
        self.reject_append(to, LogId::default());
    }

    /// The node `from` said at `at` that it leads this group in `term`: counts if this replica follows
    /// it in that term.
    pub fn heard_leader(&mut self, at: Instant, from: NodeId, term: Term) {
        if term == self.hard_state.term && self.leader == Some(from) {
            self.leader_contact = self.leader_contact.max(at);
        }
    }

    /// As leader: the node `from` confirmed the leadership at `at`.
    pub fn on_follower_alive(&mut self, at: Instant, from: NodeId) {
        if let State::Leader(leadership) = &mut self.state
            && let Some(progress) = leadership.followers.get_mut(&from)
        {
            progress.contact = progress.contact.max(at);
        }
    }

    /// As leader: the follower `from` has forgotten what it was told of the commit index and of what
    /// all hold, by a restart.
    pub fn on_follower_forgot(&mut self, from: NodeId) {
        if let State::Leader(leadership) = &mut self.state
            && let Some(progress) = leadership.followers.get_mut(&from)
        {
            progress.commit = LogIndex(0);
            progress.held_by_all = LogIndex(0);
        }
    }

    /// Draws a new election timeout, and waits for it.
    pub(super) fn reset_election_timeout(&mut self, now: Instant) {
        let timings = self.config.timings;
        let (shortest, longest) = match self.hasty_campaigns {
            0 => (timings.election_min, timings.election_max),
            // Longer than a connection takes to come back, and so spread that two seldom collide.
            _ => (timings.heartbeat / 2, timings.heartbeat * 3 / 2),
        };
        self.election_timeout = self.rng.duration(shortest, longest);
        if mutants::is_active(Mutant::ElectionTimeoutFixed) {
            self.election_timeout = timings.election_max;
        }
        self.deadline = now + self.election_timeout;
    }

    /// Becomes, or stays, a follower of `leader` in `term`, which is at least the current one; not
    /// if another leader of that term is known.
    pub(super) fn follow(&mut self, now: Instant, leader: NodeId, term: Term) -> bool {
        let is_other = self.leader.is_some_and(|known| known != leader);
        if term == self.hard_state.term && is_other {
            self.contradict(leader, Contradiction::TwoLeaders);
            return false;
        }
        self.step_down(now, term);
        self.leader = Some(leader);
        self.leader_contact = now;
        if self.hasty_campaigns > 0 {
            self.hasty_campaigns = 0;
            self.reset_election_timeout(now);
        }
        true
    }

    /// Becomes a follower in `term` if that is newer, or if it ran for or held an office in this
    /// one.
    pub(super) fn step_down(&mut self, now: Instant, term: Term) {
        assert!(term >= self.hard_state.term, "terms never shrink");
        if term > self.hard_state.term {
            self.hard_state.term = term;
            self.hard_state.vote = None;
            self.hard_state_unsaved = true;
            self.heard_append = false;
            self.leader = None;
        } else if matches!(self.state, State::Follower) {
            return;
        }
        if matches!(self.state, State::Leader(_)) {
            self.leader = None;
        }
        self.state = State::Follower;
        self.reset_election_timeout(now);
    }

    fn check_quorum(&mut self, now: Instant) {
        let State::Leader(leadership) = &self.state else {
            return;
        };
        let oldest = now - self.config.timings.election_max;
        let answers = |node: NodeId| {
            let follower = leadership.followers.get(&node);
            let is_heard =
                |follower: &Progress| follower.contact >= oldest && follower.barrier.is_none();
            node == self.config.me || follower.is_some_and(is_heard)
        };
        if !self.configuration().is_quorum(answers) && !mutants::is_active(Mutant::QuorumNotChecked)
        {
            self.step_down(now, self.hard_state.term);
        } else {
            self.deadline = now + self.config.timings.election_min;
        }
    }

    fn start_pre_vote(&mut self, now: Instant) {
        self.hasty_campaigns = self.hasty_campaigns.saturating_sub(1);
        if mutants::is_active(Mutant::PreVoteSkipped) {
            return self.campaign(now, false);
        }
        self.reset_election_timeout(now);
        self.leader = None;
        let granted = BTreeSet::from([self.config.me]);
        self.state = State::PreCandidate { granted };
        self.ask_for_votes(self.hard_state.term.next(), VoteKind::Pre);
        self.count_votes(now);
    }

    /// Whether this replica may ask for votes: a learner, a removed or a suspect one may not, nor may
    /// one that lacks of its former log what may be committed, for it would vote for itself.
    pub(super) fn may_campaign(&self) -> bool {
        let is_voter = self.configuration().is_voter(self.config.me);
        (is_voter || mutants::is_active(Mutant::AnyoneCampaigns))
            && self.installing.is_none()
            && !self.is_suspect()
            && self.is_up_to_date(self.log.last())
    }

    /// Starts a term and asks for votes; as `is_transfer` at the wish of the leader that is.
    pub(super) fn campaign(&mut self, now: Instant, is_transfer: bool) {
        assert!(is_transfer || !self.owes_lease(now), "a candidate's own vote counts, too");
        self.leader = None;
        self.hard_state.term = self.hard_state.term.next();
        self.hard_state.vote = Some(self.config.me);
        self.hard_state_unsaved = true;
        self.heard_append = false;
        let mut granted = BTreeSet::from([self.config.me]);
        if let State::PreCandidate { granted: before } = &self.state
            && mutants::is_active(Mutant::PreVotesKept)
        {
            granted.extend(before);
        }
        self.state = State::Candidate { granted };
        self.reset_election_timeout(now);
        let kind = if is_transfer { VoteKind::Transfer } else { VoteKind::Election };
        self.ask_for_votes(self.hard_state.term, kind);
        self.count_votes(now);
    }

    fn ask_for_votes(&mut self, term: Term, kind: VoteKind) {
        let last = self.log.last();
        let me = self.config.me;
        let voters: Vec<_> = self.configuration().all_voters().filter(|node| *node != me).collect();
        for voter in voters {
            self.send(voter, RaftMessage::Vote { term, last, kind });
        }
    }

    fn count_votes(&mut self, now: Instant) {
        let (State::PreCandidate { granted } | State::Candidate { granted }) = &self.state else {
            return;
        };
        let result =
            self.configuration().vote_result(|node| granted.contains(&node).then_some(true));
        if result != VoteResult::Won {
            return;
        }
        match self.state {
            State::PreCandidate { .. } => self.campaign(now, false),
            State::Candidate { .. } => self.lead(now),
            State::Follower | State::Leader(_) => {}
        }
    }

    fn lead(&mut self, now: Instant) {
        assert!(matches!(self.state, State::Candidate { .. }), "only a candidate is elected");
        let next = self.log.last().index.next();
        let followers =
            self.peers().into_iter().map(|peer| (peer, Progress::new(next, now))).collect();
        self.hasty_campaigns = 0;
        self.state = State::Leader(Leadership {
            term_start: next,
            followers,
            uncommitted_bytes: 0,
            transfer: None,
            has_named_successor: false,
        });
        self.leader = Some(self.config.me);
        self.pinned = None;
        self.deadline = now + self.config.timings.election_min;
        let noop = self.append_as_leader(now, Command::Noop.encode().into());
        assert_eq!(noop.index, next, "a term starts with its no-op");
    }

    /// Whether some leader may hold a lease that this replica has confirmed, be it of an earlier
    /// term.
    fn owes_lease(&self, now: Instant) -> bool {
        self.config.has_leases && now < self.leader_contact + self.config.timings.election_min
    }

    /// Whether a leader was heard of so recently that nobody else may be elected (thesis 4.2.3).
    fn has_live_leader(&self, now: Instant) -> bool {
        let sticky_until = self.leader_contact + self.config.timings.election_min;
        if self.owes_lease(now) {
            return true;
        }
        match self.state {
            State::Leader(_) => true,
            State::Follower if mutants::is_active(Mutant::LeaderNotStuckTo) => false,
            State::Follower => self.leader.is_some() && now < sticky_until,
            State::PreCandidate { .. } | State::Candidate { .. } => false,
        }
    }

    /// Whether a log that ends with `last` has all that is committed and that this one has, or had
    /// when it was counted (paper 5.4.1).
    fn is_up_to_date(&self, last: LogId) -> bool {
        if mutants::is_active(Mutant::VoteByLength) {
            return last.index >= self.log.last().index;
        }
        last >= self.log.last().max(self.hard_state.forgotten)
    }

    pub(super) fn on_pre_vote(&mut self, now: Instant, from: NodeId, term: Term, last: LogId) {
        if self.is_suspect() {
            return;
        }
        let granted =
            term > self.hard_state.term && self.is_up_to_date(last) && !self.has_live_leader(now);
        let term = if granted { term } else { self.hard_state.term };
        self.send(from, RaftMessage::VoteReply { term, pre: true, granted });
    }

    /// Someone asks for a vote; as `is_transfer` at the wish of the leader that was.
    pub(super) fn on_vote(
        &mut self,
        now: Instant,
        from: NodeId,
        term: Term,
        last: LogId,
        is_transfer: bool,
    ) {
        if self.is_suspect() {
            return;
        }
        let unsaved_before = self.hard_state_unsaved;
        if term > self.hard_state.term {
            if self.has_live_leader(now) && !is_transfer {
                return;
            }
            self.step_down(now, term);
        }
        let is_free = self.hard_state.vote.is_none_or(|vote| vote == from)
            || mutants::is_active(Mutant::TwoVotesInATerm);
        let granted = term == self.hard_state.term
            && is_free
            && self.leader.is_none()
            && (is_transfer || !self.owes_lease(now))
            && self.is_up_to_date(last);
        if granted && self.hard_state.vote.is_none() {
            self.hard_state.vote = Some(from);
            self.hard_state_unsaved = true;
            self.reset_election_timeout(now);
        }
        if mutants::is_active(Mutant::VoteNotPersisted) {
            self.hard_state_unsaved = unsaved_before;
        }
        let term = self.hard_state.term;
        self.send(from, RaftMessage::VoteReply { term, pre: false, granted });
    }

    pub(super) fn on_vote_reply(
        &mut self,
        now: Instant,
        from: NodeId,
        term: Term,
        pre: bool,
        granted: bool,
    ) {
        if !granted {
            if term > self.hard_state.term {
                self.step_down(now, term);
            }
            return;
        }
        let own_term = self.hard_state.term;
        match &mut self.state {
            State::PreCandidate { granted } if pre && term == own_term.next() => {
                granted.insert(from);
            }
            State::Candidate { granted }
                if !pre && (term == own_term || mutants::is_active(Mutant::StaleVoteCounted)) =>
            {
                granted.insert(from);
            }
            State::Follower
            | State::PreCandidate { .. }
            | State::Candidate { .. }
            | State::Leader(_) => return,
        }
        self.count_votes(now);
    }
}
