//! What must hold after every step, over all servers.
//!
//! Everything is checked at the moment at which it could first be wrong, and only for the shard
//! that moved.

use std::collections::BTreeMap;

use kv_core::id::{LogId, LogIndex, ShardId, Term};
use kv_core::node::Event;
use kv_core::raft::Role;

use super::replica::Applied;
use crate::engine::{ProcessId, Violation};

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
}

/// The invariants of all shards.
#[derive(Debug, Default)]
pub(super) struct Invariants {
    shards: BTreeMap<ShardId, Past>,
    /// What each server leads.
    leading: BTreeMap<ProcessId, BTreeMap<ShardId, Term>>,
    /// How often each server has crashed.
    crashes: BTreeMap<ProcessId, u32>,
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

    pub(super) fn on_event(&mut self, server: ProcessId, event: &Event) -> Result<(), Violation> {
        match event {
            Event::RoleChanged { shard, term, role } => self.on_role(server, *shard, *term, *role),
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
            Event::Damaged(_) => {
                self.leading.remove(&server);
                Ok(())
            }
            Event::Committed { .. }
            | Event::SpaceChanged { .. }
            | Event::Joined
            | Event::Repaired
            | Event::WipedNode
            | Event::MapChanged { .. }
            | Event::ReplicaRemoved { .. }
            | Event::Removed
            | Event::PeerChanged { .. }
            | Event::FrameIgnored { .. } => Ok(()),
        }
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

    /// State machine safety (Raft paper, figure 3), and that equal logs make equal states.
    pub(super) fn on_applied(
        &mut self,
        server: ProcessId,
        applied: &Applied,
    ) -> Result<(), Violation> {
        let Applied { shard, entries, state_hash } = applied;
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
