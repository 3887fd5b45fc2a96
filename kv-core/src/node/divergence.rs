//! Replicas that came to different states.
//!
//! Equal logs make equal states, unless something is wrong: a defect, or memory that lies. Each
//! replica keeps a rolling hash of all that it has applied, and its store tells it every
//! [`CHECKPOINT_ENTRIES`] entries. A follower passes that on with the next confirmation
//! ([`Confirmation::states`](crate::wire::Confirmation::states)), so that it costs no message and
//! no timer, and the leader compares hashes of the same index. The *majority* of the voters
//! decides, never the leader as such:
//!
//! - A replica in the minority is *quarantined*: it is given up with its log, as if its data had been
//!   damaged, and comes back suspect, in another life ([`raft`](crate::raft)), to be filled from the
//!   others. A leader in the minority does the same, and so is one no more.
//! - If no hash can have a majority any more, whatever those say that have not told yet, nobody knows
//!   what is right. The leader says so to all, and each refuses to serve the shard, also as the next
//!   leader.
//! - As long as it is open, nothing happens: what was not decided at one checkpoint is at the next.
//!
//! Who is suspect tells nothing: its state is a copy of the leader's. And only who has come to the
//! index in its present life, and to another hash there, obeys a verdict: what is said of an earlier
//! life accuses nobody.
//!
//! # Giving up
//!
//! It begins with a write to the log that says in which life the replica goes on
//! ([`crate::storage::HardState::quarantined`]). When that is durable the applied state is forgotten,
//! and then the log, as of a replica that was removed. One that is started while it is in quarantine is given up
//! once more, into yet another life: it cannot tell which of its data are from before.
//!
//! **What this leaves out:** damage of what is stored and is not applied any more, which the hash
//! does not see; a replica that was filled by a snapshot goes on with the hash of its sender. That a
//! shard is not served is remembered by the processes only: after a restart it is found again at the
//! next checkpoint.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Event, Node, Output};
use crate::id::{LogIndex, NodeId, ShardId, Term};
use crate::machine::CHECKPOINT_ENTRIES;
use crate::mutants::{self, Mutant};
use crate::raft::Configuration;
use crate::storage::StateHash;
use crate::wire::{PeerMessage, Refusal};

/// Checkpoints that are kept: so far replicas may be behind one another and still be compared.
const CHECKPOINTS_MAX: usize = 4;

/// What is known of the states that the replicas of a shard came to.
#[derive(Debug, Default)]
pub(super) struct States {
    /// The newest checkpoints, with who came to which hash there. On a follower only its own.
    hashes: BTreeMap<LogIndex, BTreeMap<NodeId, u64>>,
    /// Where no state can have a majority.
    undecided: Option<LogIndex>,
}

/// What the hashes of one checkpoint come to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Too few have told.
    Open,
    /// A majority has this one; those have another.
    Decided(u64, Vec<NodeId>),
    /// None can have a majority.
    Undecidable,
}

impl States {
    /// After which entry the replicas differ, if no state of theirs has a majority.
    pub(super) fn undecided(&self) -> Option<LogIndex> {
        self.undecided
    }

    fn note(&mut self, node: NodeId, state: StateHash) {
        self.hashes.entry(state.index).or_default().insert(node, state.hash);
        while self.hashes.len() > CHECKPOINTS_MAX {
            self.hashes.pop_first();
        }
    }

    fn of(&self, node: NodeId, index: LogIndex) -> Option<u64> {
        self.hashes.get(&index)?.get(&node).copied()
    }

    fn judge(&self, configuration: &Configuration, index: LogIndex) -> Verdict {
        let told = |node| self.of(node, index);
        let hashes = || self.hashes.get(&index).into_iter().flatten();
        let is_majority = |hash| configuration.is_quorum(|node| told(node) == Some(hash));
        if let Some((_, majority)) = hashes().find(|(_, hash)| is_majority(**hash)) {
            let others = hashes().filter(|(_, hash)| *hash != majority);
            return Verdict::Decided(*majority, others.map(|(node, _)| *node).collect());
        }
        let may_be = |hash| configuration.is_quorum(|node| told(node).is_none_or(|it| it == hash));
        let is_open = hashes().any(|(_, hash)| may_be(*hash))
            || configuration.is_quorum(|node| told(node).is_none());
        if is_open { Verdict::Open } else { Verdict::Undecidable }
    }
}

impl Node {
    /// The store has passed checkpoints of a shard: tells the leader, or as leader compares.
    pub(super) fn on_own_states(&mut self, shard: ShardId, states: Vec<StateHash>) {
        let me = self.config.id;
        for state in states {
            let Some(replica) = self.replicas.get_mut(&shard) else {
                return;
            };
            replica.states.note(me, state);
            if replica.is_leader() {
                self.compare_states(shard, state.index);
            } else if !replica.group.is_suspect()
                && let Some(leader) = replica.group.leader()
                && let Some(link) = self.links.get_mut(&leader)
            {
                link.untold.insert(shard, state);
            }
        }
    }

    /// A member tells what its replica came to.
    pub(super) fn on_peer_state(&mut self, from: NodeId, shard: ShardId, state: StateHash) {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        let is_checkpoint = state.index.0.is_multiple_of(CHECKPOINT_ENTRIES)
            && state.index <= replica.group.commit_index();
        let is_member = replica.group.configuration().is_member(from);
        if replica.is_leader() && is_member && is_checkpoint {
            replica.states.note(from, state);
            self.compare_states(shard, state.index);
        }
    }

    fn compare_states(&mut self, shard: ShardId, index: LogIndex) {
        let me = self.config.id;
        let Some(replica) = self.replicas.get(&shard) else {
            return;
        };
        let (configuration, term) = (replica.group.configuration(), replica.group.term());
        match replica.states.judge(configuration, index) {
            Verdict::Open => {}
            Verdict::Decided(_, minority) if minority.contains(&me) => {
                self.quarantine(shard, index);
            }
            Verdict::Decided(hash, minority) => {
                let majority = Some(hash);
                for node in minority {
                    let verdict = PeerMessage::Diverged { shard, term, index, majority };
                    self.outbox.send(node, verdict);
                }
            }
            Verdict::Undecidable => {
                let others: Vec<_> = configuration.all_voters().filter(|it| *it != me).collect();
                for node in others {
                    let verdict = PeerMessage::Diverged { shard, term, index, majority: None };
                    self.outbox.send(node, verdict);
                }
                self.stop_serving(shard, index);
            }
        }
    }

    /// The leader says that this replica's state is not that of the majority, or that there is none.
    pub(super) fn on_diverged(
        &mut self,
        from: NodeId,
        shard: ShardId,
        term: Term,
        index: LogIndex,
        majority: Option<u64>,
    ) {
        let Some(replica) = self.replicas.get(&shard) else {
            return;
        };
        if replica.group.leader() != Some(from) || replica.group.term() != term {
            return;
        }
        match (replica.states.of(self.config.id, index), majority) {
            (Some(own), Some(hash)) if own != hash => self.quarantine(shard, index),
            (_, Some(_)) => {}
            (_, None) => self.stop_serving(shard, index),
        }
    }

    /// Gives up a replica whose state is not that of the majority.
    fn quarantine(&mut self, shard: ShardId, index: LogIndex) {
        if mutants::is_active(Mutant::DivergenceIgnored) {
            return;
        }
        let event = Event::Diverged { shard, index, is_decided: true };
        self.outbox.push(Output::Event(event));
        if let Some(hard_state) = self.drop_replica(shard) {
            self.give_up(shard, hard_state.quarantined(self.identity.replica_life()));
        }
    }

    fn stop_serving(&mut self, shard: ShardId, index: LogIndex) {
        if let Some(replica) = self.replicas.get_mut(&shard)
            && replica.states.undecided.replace(index).is_none()
        {
            let event = Event::Diverged { shard, index, is_decided: false };
            self.outbox.push(Output::Event(event));
        }
    }

    /// As leader: refuses a shard of which nobody knows what it holds.
    pub(super) fn check_states(&self, shard: ShardId) -> Result<(), Refusal> {
        let replica = self.replicas.get(&shard).filter(|replica| replica.is_leader());
        match replica.and_then(|replica| replica.states.undecided) {
            Some(index) => Err(Refusal::Diverged { shard, index }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
