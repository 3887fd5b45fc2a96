//! What must hold after every step, over all servers.
//!
//! Everything is checked at the moment at which it could first be wrong, and only for the shard
//! that moved.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::cluster::ClusterMap;
use kv_core::id::{Incarnation, LogId, LogIndex, NodeId, ShardId, Term};
use kv_core::node::{Event, Node};
use kv_core::raft::{Configuration, Role};

use super::replica::Applied;
use crate::engine::{Check, ProcessId, Violation};

/// One life of a server: a crash begins another.
type Life = (ProcessId, u32);

/// One shard's past, as all replicas together have shown it.
#[derive(Debug, Default)]
struct Past {
    /// Who led each term.
    leaders: BTreeMap<Term, Life>,
    /// What was applied at each index, from 1: the entry, and a hash of its payload.
    entries: Vec<(LogId, u64)>,
    /// The state after an index at which some replica stopped to report.
    states: BTreeMap<LogIndex, u64>,
    /// The last entry that somebody found committed before all others, and in which term.
    last_commit: (LogIndex, Term),
    /// Who took part from an entry on, as far as such entries are committed; 0 is the beginning.
    configurations: BTreeMap<LogIndex, Committed>,
    /// How often that gave the shard other voters, from start to finish.
    moves: u64,
}

/// A configuration that is committed.
#[derive(Debug)]
struct Committed {
    /// Its entry.
    entry: LogId,
    configuration: Configuration,
    /// By then it was committed: only leaders of later terms must know it. It may be much later than
    /// the term of the entry, if the leader that made it committed nothing more.
    term: Term,
}

/// The invariants of all shards.
#[derive(Debug, Default)]
pub(super) struct Invariants {
    shards: BTreeMap<ShardId, Past>,
    /// What each server leads.
    leading: BTreeMap<ProcessId, BTreeMap<ShardId, Term>>,
    /// How often each server has crashed.
    crashes: BTreeMap<ProcessId, u32>,
    /// The life of the data directory with which each node took part.
    incarnations: BTreeMap<NodeId, Incarnation>,
    /// Replicas that were made to apply what is not in their logs, and have not forgotten it yet.
    misapplied: BTreeSet<(ProcessId, ShardId)>,
    /// How often that was done, and how often it was found.
    misapplied_count: u64,
    diverged_count: u64,
}

fn violation(check: &'static str, detail: String) -> Result<(), Violation> {
    Err(Violation { check, detail })
}

impl Invariants {
    /// Servers that lead something.
    pub(super) fn leaders(&self) -> Vec<ProcessId> {
        let leads = |(_, shards): &(&ProcessId, &BTreeMap<ShardId, Term>)| !shards.is_empty();
        self.leading.iter().filter(leads).map(|(server, _)| *server).collect()
    }

    pub(super) fn on_crash(&mut self, server: ProcessId) {
        self.leading.remove(&server);
        *self.crashes.entry(server).or_default() += 1;
    }

    /// The disk of a server was emptied.
    pub(super) fn on_wipe(&mut self, server: ProcessId) {
        self.on_crash(server);
    }

    /// The cluster was formed, and this is its first map.
    pub(super) fn on_formed(&mut self, map: &ClusterMap) {
        for entry in &map.shards {
            let first = Configuration::initial(entry.voters.iter().copied());
            let past = self.shards.entry(entry.shard).or_default();
            let (entry, term) = (LogId::default(), Term(0));
            let first = Committed { entry, configuration: first, term };
            past.configurations.insert(LogIndex(0), first);
        }
    }

    /// How often shards got other voters, each time from start to finish.
    pub(super) fn moves(&self) -> u64 {
        self.shards.values().map(|past| past.moves).sum()
    }

    /// How many configurations were committed.
    pub(super) fn configurations(&self) -> usize {
        self.shards.values().map(|past| past.configurations.len().saturating_sub(1)).sum()
    }

    /// `map` is the newest one that anybody has.
    pub(super) fn on_event(
        &mut self,
        server: ProcessId,
        node: &Node,
        map: Option<&ClusterMap>,
        event: &Event,
    ) -> Result<(), Violation> {
        match event {
            Event::RoleChanged { shard, term, role } => {
                self.check_incarnation(server, node)?;
                if *role == Role::Leader {
                    self.check_leader(node, map, *shard, *term)?;
                }
                self.on_role(server, *shard, *term, *role)
            }
            Event::Committed { shard, committed, term, role: Role::Leader }
                if committed.term != *term =>
            {
                violation(
                    "commit-rule",
                    format!(
                        "{server} leads {shard} in term {term} and committed {committed} by counting"
                    ),
                )
            }
            Event::Contradicted { shard, from, what } => {
                violation("contradiction", format!("{server} of {shard} heard from {from}: {what}"))
            }
            Event::InvalidCluster { from } => violation(
                "contradiction",
                format!("{server} heard of an invalid cluster from {from}"),
            ),
            Event::Diverged { shard, is_decided: true, .. }
                if self.misapplied.contains(&(server, *shard)) =>
            {
                self.diverged_count += 1;
                Ok(())
            }
            Event::Diverged { shard, index, is_decided } => violation(
                "same-states",
                format!(
                    "{server} takes its state of {shard} at {index} for wrong (decided: {is_decided}), \
                     and applied what is in the log"
                ),
            ),
            Event::Damaged(_) | Event::Removed => {
                self.leading.remove(&server);
                Ok(())
            }
            Event::Committed { shard, committed, term, .. } => {
                let past = self.shards.entry(*shard).or_default();
                if committed.index > past.last_commit.0 {
                    past.last_commit = (committed.index, *term);
                }
                Ok(())
            }
            Event::SpaceChanged { .. }
            | Event::Joined
            | Event::Repaired
            | Event::WipedNode
            | Event::MapChanged { .. }
            | Event::ReplicaRemoved { .. }
            | Event::PeerChanged { .. }
            | Event::FrameIgnored { .. } => Ok(()),
        }
    }

    /// Who takes part under an id has the data of that id: a wiped disk begins another one.
    fn check_incarnation(&mut self, server: ProcessId, node: &Node) -> Result<(), Violation> {
        let (id, incarnation) = (node.identity().node, node.identity().incarnation);
        let first = *self.incarnations.entry(id).or_insert(incarnation);
        if first == incarnation {
            return Ok(());
        }
        violation(
            "one-life-per-node",
            format!("{server} takes part as {id} with {incarnation}, which was {first}"),
        )
    }

    /// Who leads knows every change of voters that was committed before its term and is still one of
    /// them (Raft paper, figure 3: leader completeness), and was not removed. Who was paused may hear of
    /// votes only when its term is over: it leads nobody, and may have been removed since.
    fn check_leader(
        &self,
        node: &Node,
        map: Option<&ClusterMap>,
        shard: ShardId,
        term: Term,
    ) -> Result<(), Violation> {
        let id = node.identity().node;
        if map.is_some_and(|map| map.is_removed(id)) && !self.is_over(shard, term) {
            return violation(
                "members-lead",
                format!("{id} leads {shard} in term {term}, but was removed"),
            );
        }
        let status = node.status().shards.into_iter().find(|status| status.shard == shard);
        let past = self.shards.get(&shard);
        let mut committed = past.into_iter().flat_map(|past| past.configurations.values());
        let committed = committed.rfind(|committed| committed.term < term);
        let (Some(status), Some(Committed { entry, configuration: committed, .. })) =
            (status, committed)
        else {
            return Ok(());
        };
        let own = status.configuration;
        if own.is_voter(id) && own.epoch >= committed.epoch {
            return Ok(());
        }
        violation(
            "members-lead",
            format!(
                "{id} leads {shard} in term {term} under {own}; {committed} is committed by {entry}"
            ),
        )
    }

    /// Whether something was committed in a later term of a shard: nobody commits in this one any more.
    fn is_over(&self, shard: ShardId, term: Term) -> bool {
        self.shards.get(&shard).is_some_and(|past| past.last_commit.1 > term)
    }

    /// Two configurations in a row must not let two disjoint quorums decide (Raft thesis, 4.1).
    fn on_configuration(
        &mut self,
        shard: ShardId,
        id: LogId,
        configuration: &Configuration,
    ) -> Result<(), Violation> {
        let past = self.shards.entry(shard).or_default();
        if past.configurations.contains_key(&id.index) {
            return Ok(());
        }
        let term = past.last_commit.1;
        if let Some(Committed { entry: before, configuration: last, .. }) =
            past.configurations.values().next_back()
        {
            if !overlap(last, configuration) {
                return violation(
                    "quorums-overlap",
                    format!("{shard} went from {last} ({before}) to {configuration} ({id})"),
                );
            }
            past.moves += u64::from(last.is_joint() && !configuration.is_joint());
        }
        let committed = Committed { entry: id, configuration: configuration.clone(), term };
        past.configurations.insert(id.index, committed);
        Ok(())
    }

    /// Election safety (Raft paper, figure 3): at most one leader in a term.
    fn on_role(
        &mut self,
        server: ProcessId,
        shard: ShardId,
        term: Term,
        role: Role,
    ) -> Result<(), Violation> {
        let leading = self.leading.entry(server).or_default();
        if role != Role::Leader {
            leading.remove(&shard);
            return Ok(());
        }
        leading.insert(shard, term);
        let life = (server, self.crashes.get(&server).copied().unwrap_or_default());
        let leaders = &mut self.shards.entry(shard).or_default().leaders;
        let (first, _) = match *leaders.entry(term).or_insert(life) {
            first if first == life => return Ok(()),
            other => other,
        };
        violation(
            "one-leader-per-term",
            format!("{first} and {server} both led {shard} in term {term}"),
        )
    }

    /// A server applies what is not in its log.
    pub(super) fn on_misapplied(&mut self, server: ProcessId, shard: ShardId) {
        self.misapplied.insert((server, shard));
        self.misapplied_count += 1;
    }

    /// A server has forgotten what it had applied.
    pub(super) fn on_forgotten(&mut self, server: ProcessId, shard: ShardId) {
        self.misapplied.remove(&(server, shard));
    }

    /// How often a server applied what is not in its log.
    pub(super) fn misapplied(&self) -> u64 {
        self.misapplied_count
    }

    /// Every state that was made another one was found to be, by the replicas themselves.
    pub(super) fn judge_misapplied(&self) -> Check {
        let Self { misapplied, misapplied_count, diverged_count, .. } = self;
        let detail =
            format!("{diverged_count} of {misapplied_count} states that differed were found");
        match misapplied.is_empty() && diverged_count == misapplied_count {
            _ if *misapplied_count == 0 => Check::invalid("divergence", detail),
            true => Check::pass("divergence", detail),
            false => Check::fail("divergence", detail),
        }
    }

    /// State machine safety (Raft paper, figure 3), and that equal logs make equal states.
    pub(super) fn on_applied(
        &mut self,
        server: ProcessId,
        applied: &Applied,
    ) -> Result<(), Violation> {
        let Applied { shard, entries, configurations, state_hash } = applied;
        let past = self.shards.entry(*shard).or_default();
        for (id, hash) in entries {
            let at = usize::try_from(id.index.0 - 1).expect("an index fits a vector");
            match past.entries.get(at) {
                Some(known) if *known == (*id, *hash) => {}
                Some((known, _)) => {
                    return violation(
                        "same-entries",
                        format!(
                            "{server} applied {id} of {shard}, where another replica applied {known}"
                        ),
                    );
                }
                None if at == past.entries.len() => past.entries.push((*id, *hash)),
                None => {
                    return violation(
                        "same-entries",
                        format!("{server} skipped entries before {id} of {shard}"),
                    );
                }
            }
        }
        let Some((last, _)) = entries.last() else {
            return Ok(());
        };
        for (id, configuration) in configurations {
            self.on_configuration(*shard, *id, configuration)?;
        }
        let past = self.shards.entry(*shard).or_default();
        if self.misapplied.contains(&(server, *shard)) {
            return Ok(());
        }
        let known = *past.states.entry(last.index).or_insert(*state_hash);
        if known == *state_hash {
            return Ok(());
        }
        violation(
            "same-states",
            format!(
                "{server} has state {state_hash:016x} of {shard} after {last}, another has {known:016x}"
            ),
        )
    }
}

/// Whether every quorum of the one has a node in common with every quorum of the other: no nodes can
/// decide by the one while all others decide by the other.
fn overlap(one: &Configuration, other: &Configuration) -> bool {
    let voters: BTreeSet<NodeId> = one.all_voters().chain(other.all_voters()).collect();
    let voters: Vec<NodeId> = voters.into_iter().collect();
    let is_in = |set: u32, node: NodeId| {
        let at = voters.iter().position(|voter| *voter == node);
        at.is_some_and(|at| set & 1 << at != 0)
    };
    (0..1_u32 << voters.len()).all(|set| {
        !(decide(one, |node| is_in(set, node)) && decide(other, |node| is_in(!set, node)))
    })
}

/// Whether nodes can decide by a configuration, by its definition and not by what the product makes
/// of it: a majority of the voters, and of those before them while it is joint.
fn decide(configuration: &Configuration, agrees: impl Fn(NodeId) -> bool) -> bool {
    let Configuration { voters, outgoing, .. } = configuration;
    let is_majority = |side: &BTreeSet<NodeId>| {
        side.iter().filter(|node| agrees(**node)).count() * 2 > side.len()
    };
    is_majority(voters) && (outgoing.is_empty() || is_majority(outgoing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint(epoch: u64, voters: &[u64], outgoing: &[u64]) -> Configuration {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        let initial = Configuration::initial(voters.iter().copied().map(NodeId));
        Configuration { epoch: kv_core::id::Epoch(epoch), outgoing: nodes(outgoing), ..initial }
    }

    #[test]
    fn quorums_of_a_joint_configuration_overlap_with_both_sides_and_a_leap_does_not() {
        let (before, after) = (joint(1, &[1, 2, 3], &[]), joint(3, &[3, 4, 5], &[]));
        let between = joint(2, &[3, 4, 5], &[1, 2, 3]);
        assert!(overlap(&before, &between) && overlap(&between, &after));
        assert!(!overlap(&before, &after));
        assert!(overlap(&before, &joint(2, &[1, 2, 3, 4], &[])), "one more is no leap");
        let two_fewer = overlap(&joint(1, &[1, 2, 3, 4, 5], &[]), &joint(2, &[3, 4, 5], &[]));
        assert!(!two_fewer, "two fewer are");
    }

    #[test]
    fn a_term_is_over_once_something_is_committed_in_a_later_one() {
        let mut invariants = Invariants::default();
        let shard = ShardId(1);
        assert!(!invariants.is_over(shard, Term(12)), "nothing was committed");
        invariants.shards.entry(shard).or_default().last_commit = (LogIndex(5), Term(13));
        assert!(invariants.is_over(shard, Term(12)));
        assert!(!invariants.is_over(shard, Term(13)), "who leads in it was not to be removed");
        assert!(!invariants.is_over(ShardId(2), Term(12)));
    }

    #[test]
    fn a_leap_from_one_configuration_to_the_next_is_found() {
        let mut invariants = Invariants::default();
        let id = |index| LogId { term: Term(1), index: LogIndex(index) };
        let mut commit = |index, configuration: Configuration| {
            let configurations = vec![(id(index), configuration)];
            let entries = (1..=index).map(|at| (id(at), 0)).collect();
            let applied = Applied { shard: ShardId(1), entries, configurations, state_hash: index };
            invariants.on_applied(ProcessId::Server(0), &applied)
        };
        assert_eq!(commit(1, joint(1, &[1, 2, 3], &[])), Ok(()));
        assert_eq!(commit(2, joint(2, &[3, 4, 5], &[1, 2, 3])), Ok(()));
        assert_eq!(commit(3, joint(3, &[3, 4, 5], &[])), Ok(()));
        let found = commit(4, joint(4, &[6], &[])).unwrap_err();
        assert_eq!(found.check, "quorums-overlap");
        assert_eq!(invariants.moves(), 1);
    }
}
