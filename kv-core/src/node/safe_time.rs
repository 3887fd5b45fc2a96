//! Safe times: up to when the replicas of a shard may be read, as its leader finds out.
//!
//! A *safe time* is a timestamp together with an index: every write with a timestamp at or below the
//! one is in the log at or below the other, and no other write ever will be. Whoever has applied the
//! index can read at the timestamp, without asking anybody, for what was true then never changes.
//!
//! Nobody makes one before it is wanted, so a shard that nobody reads costs nothing. A replica asks
//! the leader ([`levels`](super::levels)), which may be the same node.
//!
//! # How the leader answers
//!
//! 1. It asks the oracle for a timestamp T, after the question has come. So all that was acknowledged
//!    before the question is at or below T. Once the node is given T, all work here that will have
//!    a lower timestamp has been proposed: timestamps come in order.
//! 2. Then it waits for a confirmation that begins from there on. It shows that no other leader was
//!    elected before T was issued; one that is elected later gets later timestamps, and so do the
//!    decisions about what is prepared under it. And it waits until all is applied that was proposed
//!    when T came.
//! 3. T is safe then, unless a transaction has prepared that may commit at or below it: it may be
//!    decided, and acknowledged, and not be told here yet. So what is safe ends below the least
//!    timestamp that such a one can take. Who prepares later promises to commit above T, which this
//!    node has seen.
//!
//! The index is what the leader has applied at the moment of the answer. Who asked is told with it
//! that so much is committed, if it may not know.
//!
//! A question says what an answer must reach to be of use. While only a prepared transaction is in
//! the way, it is kept. It is forgotten with the leadership, and replaced by the next question of the
//! same node, which asks again until it is answered.
//!
//! **What this leaves out:** leases. A safe time costs a confirmation, but serves many reads.

use alloc::vec::Vec;
use core::mem;

use super::Node;
use super::replica::Replica;
use crate::id::{LogIndex, NodeId, Round, ShardId, Timestamp};
use crate::mutants::{self, Mutant};
use crate::wire::{Elsewhere, PeerMessage, SafeTime, SafeTimeMessage};

/// A question for a safe time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// Who asks; may be this node.
    pub(super) node: NodeId,
    /// Of its process.
    pub(super) boot: u64,
    /// Its number of the question.
    pub(super) number: u64,
    /// What an answer must reach to be of use.
    pub(super) at_least: Timestamp,
}

impl Question {
    /// Whether it is the other one, or has taken its place.
    pub(super) fn is_at_least_as_new_as(&self, other: &Self) -> bool {
        (self.node, self.boot) == (other.node, other.boot) && self.number >= other.number
    }
}

/// A question that has its timestamp.
#[derive(Debug)]
pub(super) struct WaitingQuestion {
    question: Question,
    /// The timestamp, asked for after the question had come.
    issued: Timestamp,
    /// A round of confirmation that begins after the timestamp came.
    pub(super) round: Round,
    /// What was proposed when it came.
    index: LogIndex,
}

impl Node {
    /// A node asks, or answers.
    pub(super) fn on_safe_time_message(&mut self, from: NodeId, message: SafeTimeMessage) {
        match message {
            SafeTimeMessage::Ask { shard, boot, number, at_least } => {
                self.on_question(shard, Question { node: from, boot, number, at_least });
            }
            SafeTimeMessage::Answer { shard, boot, number, result } => {
                if boot == self.rounds.boot {
                    self.on_safe_time(from, shard, number, result);
                }
            }
        }
    }

    /// Takes a question, as the leader of the shard or not. One that cannot be kept is not answered:
    /// it will be asked again.
    pub(super) fn on_question(&mut self, shard: ShardId, question: Question) {
        if !self.gives_safe_times(shard) {
            return self.send_elsewhere(shard, question);
        }
        let replica = self.replicas.get(&shard);
        let is_kept = replica.is_some_and(|it| {
            it.questions.iter().any(|waiting| waiting.question.is_at_least_as_new_as(&question))
        });
        if !is_kept {
            let _ = self.stamp_question(shard, question);
        }
    }

    /// Whether it leads the shard, as far as it knows, and can say what the shard holds.
    fn gives_safe_times(&self, shard: ShardId) -> bool {
        let leads = self.replicas.get(&shard).is_some_and(Replica::is_leader);
        leads && self.check_states(shard).is_ok()
    }

    /// The timestamp of a question has come.
    pub(super) fn on_question_stamped(
        &mut self,
        shard: ShardId,
        question: Question,
        issued: Timestamp,
    ) {
        let round = self.next_round();
        let leads = self.gives_safe_times(shard);
        let Some(replica) = self.replicas.get_mut(&shard).filter(|_| leads) else {
            return self.send_elsewhere(shard, question);
        };
        let passes = mutants::is_active(Mutant::SafeTimeBeforeProposed);
        let index = if passes { LogIndex(0) } else { replica.group.last().index };
        if replica.questions.iter().any(|it| it.question.is_at_least_as_new_as(&question)) {
            return;
        }
        replica.questions.retain(|waiting| waiting.question.node != question.node);
        replica.questions.push(WaitingQuestion { question, issued, round, index });
        self.reading.insert(shard);
        self.touched.insert(shard);
    }

    /// Answers the questions about `shard` that can be answered.
    pub(super) fn serve_safe_times(&mut self, shard: ShardId) {
        if self.replicas.get(&shard).is_none_or(|replica| replica.questions.is_empty()) {
            return;
        }
        let confirmed = self.confirmed_round(shard);
        for (question, safe_time) in self.take_safe_times(shard, confirmed) {
            if let Some(replica) = self.replicas.get_mut(&shard) {
                replica.group.tell_commit(question.node);
                self.touched.insert(shard);
            }
            self.send_answer(shard, question, Ok(safe_time));
        }
    }

    fn take_safe_times(&mut self, shard: ShardId, confirmed: Round) -> Vec<(Question, SafeTime)> {
        let Some(replica) = self.replicas.get_mut(&shard) else { return Vec::new() };
        let bound = replica.safe_bound();
        let applied = replica.store_applied;
        let mut answers = Vec::new();
        replica.questions.retain(|waiting| {
            let WaitingQuestion { question, issued, round, index } = waiting;
            let safe = bound.min(*issued);
            // Who wants what was not issued yet is told so, and need not wait for that.
            let is_of_use = safe >= question.at_least || question.at_least > *issued;
            let is_ready = *round <= confirmed && *index <= applied && is_of_use;
            if is_ready {
                answers.push((*question, SafeTime { safe, index: applied, issued: *issued }));
            }
            !is_ready
        });
        if replica.questions.is_empty() && replica.reads.is_empty() {
            self.reading.remove(&shard);
        }
        answers
    }

    /// The leadership of `shard` is over: others are to be asked.
    pub(super) fn drop_safe_questions(&mut self, shard: ShardId) {
        let replica = self.replicas.get_mut(&shard);
        let questions = replica.map(|it| mem::take(&mut it.questions)).unwrap_or_default();
        for waiting in questions {
            self.send_elsewhere(shard, waiting.question);
        }
    }

    fn send_elsewhere(&mut self, shard: ShardId, question: Question) {
        let leader = self.replicas.get(&shard).and_then(|replica| replica.group.leader());
        self.send_answer(shard, question, Err(Elsewhere { leader }));
    }

    fn send_answer(
        &mut self,
        shard: ShardId,
        question: Question,
        result: Result<SafeTime, Elsewhere>,
    ) {
        let Question { node, boot, number, .. } = question;
        if node == self.config.id {
            return self.on_safe_time(node, shard, number, result);
        }
        let answer = SafeTimeMessage::Answer { shard, boot, number, result };
        self.outbox.send(node, PeerMessage::SafeTime(answer));
    }
}

impl Replica {
    /// Below everything that the transactions which have prepared here may commit at.
    fn safe_bound(&self) -> Timestamp {
        if mutants::is_active(Mutant::SafeTimePassesPrepared) {
            return Timestamp::MAX;
        }
        let prepared = self.locking.transactions.prepared.values();
        let least = prepared.map(|prepared| prepared.min_commit).min();
        least.map_or(Timestamp::MAX, |least| Timestamp(least.0.saturating_sub(1)))
    }
}
