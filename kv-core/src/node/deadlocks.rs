//! Finding deadlocks, at the leader of the meta group.
//!
//! Each leader knows who waits for whom on its shards. Whoever sees a wait that lasts tells the
//! detector, which from then on *polls* everybody who has such waits. What is found on a cycle must
//! have been true at one moment, or somebody would be aborted who was about to go on: so only waits
//! count that were reported before a poll was sent and again in answer to it. Each of them existed
//! when the poll was sent; a wait that ended in between and began again has another number.
//!
//! # Waits of which nobody knows
//!
//! A step may wait that its coordinator has long got an answer to, elsewhere: a copy of it that came
//! late, to who leads the shard by now. If it counted, somebody would be aborted for waiting for a
//! transaction that waits for nothing. So whoever waits is asked, once, and only with the answer the
//! wait counts: the step again, with the grant that this leader has given, which only a coordinator
//! has that has heard of it.
//!
//! The youngest on a cycle gives way ([`deadlock`]).
//!
//! Without a meta leader deadlocks last until a wait takes too long.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use super::locking::{Locking, Owner, WaitingStep};
use super::{Node, Replica};
use crate::deadlock::{self, EDGES_MAX};
use crate::id::{NodeId, ShardId};
use crate::mutants::{self, Mutant};
use crate::time::Instant;
use crate::txn::{AbortReason, Age, TxnId};
use crate::wire::{ClientReply, PeerMessage, TxnMessage, TxnReply, Wait};

/// Shorter waits are not reported.
const WAIT_MIN: Duration = Duration::from_millis(50);
/// An answer to a poll is waited for so long.
const ANSWER_MAX: Duration = Duration::from_millis(300);
/// A node that was polled so lately reports nothing by itself.
const POLLED_LATELY: Duration = Duration::from_millis(500);

/// What the detector knows, and what a node knows of the detector.
#[derive(Debug, Default)]
pub(super) struct Deadlocks {
    /// As detector: the number of the last poll.
    poll: u64,
    /// Who is polled.
    polled: BTreeSet<NodeId>,
    /// Who has not answered the last poll, and since when.
    unanswered: BTreeSet<NodeId>,
    asked_at: Instant,
    /// What was reported before the last poll was sent.
    before: BTreeSet<Wait>,
    /// What was answered to it.
    after: BTreeSet<Wait>,
    /// When this node was last polled.
    polled_at: Option<Instant>,
}

impl Node {
    /// Whether this node is the detector and has somebody to poll.
    pub(super) fn is_detecting(&self) -> bool {
        !self.deadlocks.polled.is_empty()
    }

    /// Tells the detector of waits that last.
    pub(super) fn report_waits(&mut self) {
        let was_polled = |at: Instant| {
            self.now < at + POLLED_LATELY || mutants::is_active(Mutant::DeposedDetectorTrusted)
        };
        if self.deadlocks.polled_at.is_some_and(was_polled) {
            return;
        }
        let waits = self.waits(self.now - WAIT_MIN);
        if !waits.is_empty() {
            self.send_to_detector(TxnMessage::Waits { poll: 0, waits });
        }
    }

    /// Asks those who wait on a shard, and have not shown that they know it, to ask again.
    pub(super) fn confirm_waits(&mut self, shard: ShardId) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let mut asked = Vec::new();
        for live in replica.locking.live.values_mut() {
            let waiting = live.waiting.as_mut().filter(|waiting| !waiting.is_confirmed);
            if let Some(asker) = waiting.and_then(|waiting| waiting.asker.take()) {
                asked.push((asker, live.grant));
            }
        }
        for (asker, grant) in asked {
            self.reply(asker, ClientReply::Txn(TxnReply::Waiting { grant }));
        }
    }

    fn send_to_detector(&mut self, message: TxnMessage) {
        if self.is_meta_leader() {
            self.on_txn_message(None, message);
        } else if let Some(leader) = self.meta_leader() {
            self.outbox.send(leader, PeerMessage::Txn(message));
        }
    }

    /// Who waits for whom here, since `begun_until` at the latest.
    fn waits(&self, begun_until: Instant) -> Vec<Wait> {
        let led = self.replicas.values().filter(|replica| replica.is_leader());
        let waits = led.flat_map(|replica| waits_of(&replica.locking, begun_until));
        waits.take(EDGES_MAX).collect()
    }

    /// The detector asks who waits for whom.
    pub(super) fn on_poll(&mut self, from: Option<NodeId>, poll: u64) {
        let waits = self.waits(self.now);
        // Who has none is polled no more.
        self.deadlocks.polled_at = (!waits.is_empty()).then_some(self.now);
        let answer = TxnMessage::Waits { poll, waits };
        match from {
            Some(from) => self.outbox.send(from, PeerMessage::Txn(answer)),
            None => self.on_txn_message(None, answer),
        }
    }

    /// As detector: somebody reports waits.
    pub(super) fn on_waits(&mut self, from: Option<NodeId>, poll: u64, waits: Vec<Wait>) {
        if !self.is_meta_leader() {
            return;
        }
        let from = from.unwrap_or(self.config.id);
        if waits.is_empty() {
            self.deadlocks.polled.remove(&from);
        } else {
            self.deadlocks.polled.insert(from);
        }
        if poll == self.deadlocks.poll {
            self.deadlocks.unanswered.remove(&from);
            self.deadlocks.after.extend(waits.into_iter().take(EDGES_MAX));
        }
    }

    /// As detector: looks for cycles among what was there before the last poll and after it, and
    /// polls again.
    pub(super) fn find_deadlocks(&mut self) {
        if !self.is_meta_leader() {
            self.deadlocks =
                Deadlocks { polled_at: self.deadlocks.polled_at, ..Default::default() };
            return;
        }
        if !self.deadlocks.unanswered.is_empty() && self.now < self.deadlocks.asked_at + ANSWER_MAX
        {
            // A poll or its answer may be lost. An answer to the second copy is of a later time, and
            // as good: what was reported before the first one and is in it was there all the time.
            return self.send_poll(self.deadlocks.unanswered.clone());
        }
        let silent_since = self.now - self.config.timings.election_max;
        let is_silent = |node: &NodeId| {
            let heard_at = self.links.get(node).and_then(|link| link.heard_at);
            *node != self.config.id && heard_at.is_none_or(|at| at < silent_since)
        };
        self.deadlocks.polled.retain(|node| !is_silent(node));
        let after = mem::take(&mut self.deadlocks.after);
        let mut before = mem::replace(&mut self.deadlocks.before, after.clone());
        if mutants::is_active(Mutant::StaleWaitCounts) {
            before.extend(&after);
            self.deadlocks.before.clone_from(&before);
        } else {
            before.retain(|wait| after.contains(wait));
        }
        let lasting = before;
        let ages: BTreeMap<TxnId, Age> =
            lasting.iter().map(|wait| (wait.waiter, wait.age)).collect();
        let edges = lasting.iter().map(|wait| (wait.waiter, wait.holder));
        let age = |txn| ages.get(&txn).copied().unwrap_or_default();
        for cycle in deadlock::find_victims(edges, age) {
            if mutants::is_active(Mutant::EverybodyGivesWay) {
                let members = cycle.members.clone();
                (1..members.len()).for_each(|at| {
                    let mut members = members.clone();
                    members.rotate_left(at);
                    self.tell_victim(members);
                });
            }
            self.tell_victim(cycle.members);
        }
        self.poll_again();
    }

    fn poll_again(&mut self) {
        self.deadlocks.poll += 1;
        self.deadlocks.asked_at = self.now;
        self.deadlocks.unanswered.clone_from(&self.deadlocks.polled);
        self.send_poll(self.deadlocks.polled.clone());
    }

    fn send_poll(&mut self, nodes: BTreeSet<NodeId>) {
        let poll = self.deadlocks.poll;
        for node in nodes {
            if node == self.config.id {
                self.on_txn_message(None, TxnMessage::Poll { poll });
            } else {
                self.outbox.send(node, PeerMessage::Txn(TxnMessage::Poll { poll }));
            }
        }
    }

    /// Tells everybody who waits: one of them leads the shard where the victim does.
    fn tell_victim(&mut self, cycle: Vec<TxnId>) {
        for node in self.deadlocks.polled.clone() {
            if node != self.config.id {
                let message = TxnMessage::Deadlock { cycle: cycle.clone() };
                self.outbox.send(node, PeerMessage::Txn(message));
            }
        }
        self.on_deadlock(&cycle);
    }

    /// The first of the cycle is to give way, if it waits here.
    pub(super) fn on_deadlock(&mut self, cycle: &[TxnId]) {
        let Some(victim) = cycle.first() else { return };
        let waits = |replica: &Replica| {
            let live = replica.locking.live.get(victim);
            replica.is_leader() && live.is_some_and(|live| live.waiting.is_some())
        };
        let shards = self.replicas.iter().filter(|(_, replica)| waits(replica));
        let shards: Vec<ShardId> = shards.map(|(shard, _)| *shard).collect();
        for shard in shards {
            let reason = AbortReason::Deadlock { cycle: cycle.to_vec() };
            self.drop_transaction(shard, *victim, reason);
        }
    }
}

/// The waits of one shard. Writes of single keys hold nothing elsewhere, so whoever waits for one of
/// them waits for those that it waits for.
fn waits_of(locking: &Locking, begun_until: Instant) -> Vec<Wait> {
    let mut waits = Vec::new();
    for (txn, live) in &locking.live {
        let counts = |it: &&WaitingStep| it.is_confirmed && it.since <= begun_until;
        let Some(waiting) = live.waiting.as_ref().filter(counts) else {
            continue;
        };
        let mut seen = BTreeSet::new();
        let mut left: Vec<Owner> = locking.table.waits_of(Owner::Txn(*txn)).into_iter().collect();
        while let Some(owner) = left.pop() {
            match owner {
                Owner::Txn(holder) if holder != *txn => {
                    let (waiter, age, number) = (*txn, live.age, waiting.number);
                    waits.push(Wait { waiter, age, holder, number });
                }
                Owner::Write(_) if seen.insert(owner) => {
                    left.extend(locking.table.waits_of(owner));
                }
                Owner::Txn(_) | Owner::Write(_) => {}
            }
        }
    }
    waits
}
