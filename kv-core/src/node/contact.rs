//! Contact with leaders and followers, computed from what the links know.
//!
//! A follower campaigns when its leader is silent, and a leader steps down when it reaches no
//! quorum. Per group that would be a timer each, and a look at each group for every heartbeat; with a
//! thousand idle groups it is all that a node does. But heartbeats are between nodes, so silence is,
//! too. A group is *watched* while a link would notice the silence that concerns it:
//! - a follower, while its leader's node confirms a list with this leadership on it;
//! - a leader, while a quorum of its voters answers a list with this leadership on it and does not
//!   except it (CheckQuorum, thesis 6.2, stays a matter of each group: one excepted group, or one
//!   with other members, is not watched although the link is well).
//!
//! A watched group has no deadline, so it costs nothing while nothing happens to it. What ends the
//! watch also looks at the group in the same step, and then its own deadline holds again:
//! - a message for it, a request or a write that is durable (it is touched);
//! - the silence of its leader's node for `election_min`: what is left of the group's own election
//!   timeout, drawn at random, then still passes;
//! - the silence of a follower's node for `election_max`: who has no quorum steps down;
//! - a list without it, or an answer that excepts it.
//!
//! What the links know reaches a group before it decides by it ([`Node::sync_contact`]): before its
//! deadline is handled, before it answers who asks for a vote, and before it hands its leadership
//! over. With leases (see [`lease`](super::lease)) also before any other message for it is looked
//! at, which may end what it knows of its leader.

use alloc::vec::Vec;
use core::time::Duration;

use super::{Node, TimerReason};
use crate::id::{NodeId, ShardId};
use crate::raft::Role;
use crate::time::Instant;

impl Node {
    /// How long a leader's node may be silent before its followers look for themselves.
    pub(super) fn signs_patience(&self) -> Duration {
        self.config.timings.election_min
    }

    /// How long a follower's node may be silent before it does not count for a quorum any more: just
    /// longer than CheckQuorum lets pass.
    pub(super) fn answers_patience(&self) -> Duration {
        self.config.timings.election_max + Duration::from_nanos(1)
    }

    /// When to look next whether a peer is silent.
    pub(super) fn contact_timeout(&self) -> Option<(Instant, TimerReason)> {
        let due = self.links.iter().flat_map(|(peer, link)| {
            let dues = [link.signs.due, link.answers.due];
            dues.into_iter().flatten().map(|at| (at, TimerReason::Contact(*peer)))
        });
        due.min()
    }

    /// Looks at all groups for which a peer has become silent.
    pub(super) fn on_contact_timeout(&mut self) {
        let (signs, answers) = (self.signs_patience(), self.answers_patience());
        for (peer, link) in &mut self.links {
            if link.signs.has_fallen_silent(self.now, signs) {
                let follows = |shard: &ShardId| {
                    self.replicas.get(shard)?.group.leader().map(|it| it == *peer)
                };
                let followers = link.their_shards().filter(|shard| follows(shard) == Some(true));
                self.touched.extend(followers);
            }
            if link.answers.has_fallen_silent(self.now, answers) {
                self.touched.extend(link.leads().iter().map(|lead| lead.shard));
            }
        }
    }

    /// Handles the deadlines that have come.
    pub(super) fn on_deadlines(&mut self) {
        let is_due = |(at, _): &&(Instant, ShardId)| *at <= self.now;
        let due = self.deadlines.iter().take_while(is_due).map(|(_, shard)| *shard);
        let due: Vec<_> = due.collect();
        self.touched.extend(due);
    }

    /// Tells the group of `shard` when the nodes of its leader, or of its followers, were last heard
    /// of.
    pub(super) fn sync_contact(&mut self, shard: ShardId) {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        let group = &mut replica.group;
        if group.role() == Role::Leader {
            for (peer, link) in &self.links {
                if let Some(at) = link.answered_at(shard) {
                    group.on_follower_alive(at, *peer);
                }
            }
        } else if let Some(leader) = group.leader()
            && let Some(link) = self.links.get(&leader)
            && let Some(at) = link.confirmed_at(shard, group.term())
        {
            group.heard_leader(at, leader, group.term());
        }
    }

    /// Whether a link would notice the silence that the group of `shard` must notice.
    fn is_watched(&self, shard: ShardId) -> bool {
        let Some(replica) = self.replicas.get(&shard) else {
            return false;
        };
        let (group, term) = (&replica.group, replica.group.term());
        match group.role() {
            Role::Leader => group.configuration().is_quorum(|voter: NodeId| {
                let is_answering = |link: &super::Link| link.is_answering(shard, term);
                voter == self.config.id || self.links.get(&voter).is_some_and(is_answering)
            }),
            Role::Follower => {
                let link = group.leader().and_then(|leader| self.links.get(&leader));
                link.is_some_and(|link| link.is_leading(shard, term))
            }
            Role::PreCandidate | Role::Candidate => false,
        }
    }

    /// Files the deadline of a group that was touched, unless it is watched; handles it if it has
    /// come.
    pub(super) fn file_deadline(&mut self, shard: ShardId) {
        let is_watched = self.is_watched(shard);
        // A replica may have been removed in this step.
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        let mut deadline = (!is_watched).then(|| replica.group.deadline());
        if deadline.is_some_and(|at| at <= self.now) {
            self.sync_contact(shard);
            let replica = self.replicas.get_mut(&shard).expect("it was just there");
            replica.group.on_timeout(self.now);
            // The step goes on with what that changed, and files the next deadline.
            self.touched.insert(shard);
            deadline = None;
        }
        self.set_deadline(shard, deadline);
    }

    fn set_deadline(&mut self, shard: ShardId, deadline: Option<Instant>) {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        let before = core::mem::replace(&mut replica.filed_deadline, deadline);
        if deadline != before {
            before.map(|at| self.deadlines.remove(&(at, shard)));
            deadline.map(|at| self.deadlines.insert((at, shard)));
        }
    }
}
