//! The end of a transaction that spans shards: among the leaders of its shards.
//!
//! The anchor tells the participants how it ended, at once and then again until each has said that
//! it has applied it; only then the anchor forgets the decision. A participant that has prepared and
//! hears nothing asks the anchor. If nothing is decided there, the anchor decides to abort.
//!
//! - Whoever claims to lead a shard may be deposed. So nothing is said here because something is
//!   *not* in the applied state: that goes through the log first. A decision that is there is one.
//! - All messages may be lost, or come twice. Each is repeated by whoever misses the answer.

use alloc::vec::Vec;
use core::time::Duration;

use super::Node;
use super::locking::{Doubt, Hold, Telling};
use crate::id::{NodeId, RequestId, ShardId};
use crate::machine::Command;
use crate::mutants::{self, Mutant};
use crate::storage::Outcome;
use crate::txn::{Decision, TxnId, TxnOutcome};
use crate::wire::{PeerMessage, TxnMessage};

/// A prepared participant asks when it has heard nothing for so long: one beat that was missed.
const DOUBT_MAX: Duration = Duration::from_millis(1_500);
/// Questions and news are repeated after so long.
const REPEAT: Duration = Duration::from_millis(500);
/// Questions that are answered at a time, on one shard.
const RESOLVING_MAX: usize = 4_096;
/// Decisions that one entry forgets.
const FORGET_MAX: usize = 1_024;

impl Node {
    /// Something about the end of a transaction comes from another node, or from another shard of
    /// this one.
    pub(super) fn on_txn_message(&mut self, from: Option<NodeId>, message: TxnMessage) {
        match message {
            TxnMessage::Resolve { anchor, participant, txn, request } => {
                self.on_resolve(anchor, participant, txn, request);
            }
            TxnMessage::Finish { anchor, participant, txn, outcome } => {
                self.on_finish(from, (anchor, participant), txn, outcome);
            }
            TxnMessage::Finished { anchor, participant, txn } => {
                self.on_finished(anchor, participant, txn);
            }
            TxnMessage::Poll { poll } => self.on_poll(from, poll),
            TxnMessage::Waits { poll, waits } => self.on_waits(from, poll, waits),
            TxnMessage::Deadlock { cycle } => self.on_deadlock(&cycle),
        }
    }

    /// Whether this node leads the shard, knows what was committed there, and may serve it.
    fn serves(&self, shard: ShardId) -> bool {
        let replica = self.replicas.get(&shard);
        replica.is_some_and(super::Replica::knows_its_past) && self.check_states(shard).is_ok()
    }

    /// As anchor: a participant wants to know how a transaction ended.
    fn on_resolve(
        &mut self,
        anchor: ShardId,
        participant: ShardId,
        txn: TxnId,
        request: RequestId,
    ) {
        if !self.serves(anchor) || participant == anchor {
            return;
        }
        let locking = &mut self.replicas.get_mut(&anchor).expect("it is served").locking;
        if let Some(decided) = locking.transactions.decided.get(&txn) {
            let outcome = TxnOutcome::Committed { commit_ts: decided.commit_ts };
            let news = TxnMessage::Finish { anchor, participant, txn, outcome };
            return self.tell_shard(participant, news, true);
        }
        if mutants::is_active(Mutant::FenceSkipped) && !locking.live.contains_key(&txn) {
            let outcome = TxnOutcome::Aborted;
            let news = TxnMessage::Finish { anchor, participant, txn, outcome };
            return self.tell_shard(participant, news, true);
        }
        // Its coordinator lives, and will decide.
        if locking.live.contains_key(&txn)
            || locking.resolving.len() >= RESOLVING_MAX
            || !locking.resolving.insert((txn, participant))
        {
            return;
        }
        let command = Command::Decide { request, txn, decision: Decision::Abort };
        let hold = Hold::Resolve { txn, participant };
        if self.propose_holding(anchor, None, &command, hold).is_err()
            && let Some(replica) = self.replicas.get_mut(&anchor)
        {
            replica.locking.resolving.remove(&(txn, participant));
        }
    }

    /// As participant: the anchor has decided.
    fn on_finish(
        &mut self,
        from: Option<NodeId>,
        (anchor, participant): (ShardId, ShardId),
        txn: TxnId,
        outcome: TxnOutcome,
    ) {
        if !self.serves(participant) || participant == anchor {
            return;
        }
        let now = self.now;
        let locking = &mut self.replicas.get_mut(&participant).expect("it is served").locking;
        let doubt = locking.doubts.entry(txn);
        let doubt = doubt.or_insert(Doubt { quiet_since: now, is_finishing: false });
        if doubt.is_finishing {
            return;
        }
        (doubt.is_finishing, doubt.quiet_since) = (true, now);
        let command = Command::Finish { txn, outcome };
        let hold = Hold::Finish { txn, anchor, from };
        let result = self.propose_holding(participant, None, &command, hold);
        let locking = &mut self.replicas.get_mut(&participant).expect("it is served").locking;
        match (result, outcome) {
            (Ok(()), TxnOutcome::Committed { commit_ts }) => {
                locking.finished_ts = locking.finished_ts.max(commit_ts);
                self.raise_watermark(participant, commit_ts);
            }
            (Ok(()), TxnOutcome::Aborted) => {}
            (Err(_), _) => {
                locking.doubts.remove(&txn);
            }
        }
    }

    /// As anchor: a participant has applied the decision.
    fn on_finished(&mut self, anchor: ShardId, participant: ShardId, txn: TxnId) {
        if let Some(replica) = self.replicas.get_mut(&anchor)
            && let Some(telling) = replica.locking.telling.get_mut(&txn)
        {
            telling.left.remove(&participant);
        }
    }

    /// What was proposed for a transaction is applied.
    pub(super) fn on_ended(&mut self, shard: ShardId, hold: &Hold, outcome: &Outcome) {
        match (hold, outcome) {
            (Hold::Resolve { txn, participant }, Outcome::Decided { outcome, .. }) => {
                let (anchor, participant, txn, outcome) = (shard, *participant, *txn, *outcome);
                let news = TxnMessage::Finish { anchor, participant, txn, outcome };
                self.tell_shard(participant, news, true);
            }
            // The request is given up or its session forgotten: no decision counts any more.
            (Hold::Resolve { txn, participant }, Outcome::Superseded | Outcome::SessionExpired) => {
                let (anchor, participant, txn) = (shard, *participant, *txn);
                let outcome = TxnOutcome::Aborted;
                let news = TxnMessage::Finish { anchor, participant, txn, outcome };
                self.tell_shard(participant, news, true);
            }
            (Hold::Finish { txn, anchor, from }, _) => {
                let (anchor, participant, txn) = (*anchor, shard, *txn);
                let news = TxnMessage::Finished { anchor, participant, txn };
                match from {
                    Some(from) => self.outbox.send(*from, PeerMessage::Txn(news)),
                    None => self.on_txn_message(None, news),
                }
            }
            (Hold::Txn(txn), Outcome::Decided { participants, .. }) if !participants.is_empty() => {
                self.tell_decision(shard, *txn);
            }
            _ => {}
        }
    }

    /// As participant: asks how a transaction has ended that has prepared here.
    pub(super) fn resolve(&mut self, shard: ShardId, txn: TxnId) {
        let Some(replica) = self.replicas.get(&shard) else { return };
        if let Some(prepared) = replica.locking.transactions.prepared.get(&txn) {
            let (anchor, participant, request) = (prepared.anchor, shard, prepared.request);
            let question = TxnMessage::Resolve { anchor, participant, txn, request };
            self.tell_shard(anchor, question, true);
        }
    }

    /// As participant: asks about all transactions of which nothing was heard for long.
    pub(super) fn resolve_overdue(&mut self, shard: ShardId) {
        let now = self.now;
        let replica = self.replicas.get_mut(&shard).expect("the shard was just listed");
        let mut overdue = Vec::new();
        for txn in replica.locking.transactions.prepared.keys() {
            let unheard = Doubt { quiet_since: now, is_finishing: false };
            let doubt = replica.locking.doubts.entry(*txn).or_insert(unheard);
            if !doubt.is_finishing && now >= doubt.quiet_since + DOUBT_MAX {
                doubt.quiet_since = doubt.quiet_since.max(now) - (DOUBT_MAX - REPEAT);
                overdue.push(*txn);
            }
        }
        for txn in overdue {
            if mutants::is_active(Mutant::NeverAsks) {
                continue;
            }
            if mutants::is_active(Mutant::AbortsAlone) {
                self.on_finish(None, (ShardId::META, shard), txn, TxnOutcome::Aborted);
                continue;
            }
            self.resolve(shard, txn);
        }
    }

    /// As anchor: tells participants what they have not applied, and forgets what all have.
    pub(super) fn tell_decisions(&mut self, shard: ShardId) {
        if !self.serves(shard) {
            return;
        }
        let replica = &self.replicas[&shard];
        let txns: Vec<_> = replica.locking.transactions.decided.keys().copied().collect();
        let mut known: Vec<_> =
            txns.into_iter().filter(|txn| self.tell_decision(shard, *txn)).collect();
        known.truncate(FORGET_MAX);
        if !known.is_empty() {
            self.forget(shard, known);
        }
    }

    /// As anchor: tells the participants of one decision that have not applied it, if it is time.
    /// Returns whether all have, and nobody has noted that.
    fn tell_decision(&mut self, shard: ShardId, txn: TxnId) -> bool {
        let now = self.now;
        let replica = self.replicas.get_mut(&shard).expect("its leader is here");
        let Some(decided) = replica.locking.transactions.decided.get(&txn) else { return false };
        let outcome = TxnOutcome::Committed { commit_ts: decided.commit_ts };
        let telling = replica.locking.telling.entry(txn).or_insert_with(|| Telling {
            left: decided.participants.iter().copied().collect(),
            told_at: None,
            is_forgetting: false,
        });
        if telling.told_at.is_some() && mutants::is_active(Mutant::DecisionForgottenEarly) {
            telling.left.clear();
        }
        if telling.left.is_empty() || telling.told_at.is_some_and(|at| now < at + REPEAT) {
            return telling.left.is_empty() && !telling.is_forgetting;
        }
        let is_repeat = telling.told_at.replace(now).is_some();
        for participant in telling.left.clone() {
            let message = TxnMessage::Finish { anchor: shard, participant, txn, outcome };
            self.tell_shard(participant, message, is_repeat);
        }
        false
    }

    fn forget(&mut self, shard: ShardId, txns: Vec<TxnId>) {
        let command = Command::Forget { txns: txns.clone() };
        let is_proposed = self.propose_holding(shard, None, &command, Hold::Nothing).is_ok();
        let Some(replica) = self.replicas.get_mut(&shard).filter(|_| is_proposed) else { return };
        for txn in txns {
            if let Some(telling) = replica.locking.telling.get_mut(&txn) {
                telling.is_forgetting = true;
            }
        }
    }

    /// Sends to who is believed to lead a shard, or to all its voters.
    fn tell_shard(&mut self, shard: ShardId, message: TxnMessage, to_all: bool) {
        let replica = self.replicas.get(&shard);
        if replica.is_some_and(super::Replica::is_leader) {
            return self.on_txn_message(None, message);
        }
        let known = replica.and_then(|replica| replica.group.leader());
        let known = known.or_else(|| self.hinted_leader(shard));
        if let Some(leader) = known.filter(|leader| self.links.contains_key(leader)) {
            self.outbox.send(leader, PeerMessage::Txn(message.clone()));
            if !to_all {
                return;
            }
        }
        let entry = self.map.as_ref().and_then(|map| map.entry(shard));
        let voters = entry.map(|entry| entry.voters.clone()).unwrap_or_default();
        for voter in voters {
            if Some(voter) != known && self.links.contains_key(&voter) {
                self.outbox.send(voter, PeerMessage::Txn(message.clone()));
            }
        }
    }
}
