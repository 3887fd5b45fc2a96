//! The part of `cluster status` about shards.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use kv_core::availability::survives;
use kv_core::cluster::{ClusterMap, ShardEntry};
use kv_core::id::{NodeId, ShardId, Term};
use kv_core::raft::Role;
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::moves::{names, progress};
use crate::status::{Row, print_table};

/// What is known of all shards: what the map says, and what the nodes that answered do.
pub(crate) struct Shards<'a> {
    map: &'a ClusterMap,
    leaders: BTreeMap<ShardId, (Term, NodeId)>,
    reachable: BTreeSet<NodeId>,
}

impl<'a> Shards<'a> {
    /// Puts the map and the answers together.
    pub(crate) fn new(map: &'a ClusterMap, rows: &[Row]) -> Self {
        let mut leaders = BTreeMap::new();
        for status in rows.iter().filter_map(Row::status) {
            for held in status.shards.iter().filter(|held| held.role == Role::Leader) {
                // Who leads an older term does not know yet that it does no more.
                let newest = leaders.entry(held.shard).or_insert((held.term, status.node));
                *newest = (*newest).max((held.term, status.node));
            }
        }
        let well = rows.iter().filter(|row| row.is_well());
        Self { map, leaders, reachable: well.filter_map(Row::member_id).collect() }
    }

    /// Who leads the shard, if a node that answers says that it does.
    fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.leaders.get(&shard).map(|(_, node)| *node)
    }

    /// The shards that nobody who answers leads.
    pub(crate) fn without_leader(&self) -> Vec<ShardId> {
        let shards = self.map.shards.iter().map(|entry| entry.shard);
        shards.filter(|shard| self.leader(*shard).is_none()).collect()
    }

    /// For programs.
    pub(crate) fn json(&self) -> Json {
        self.map.shards.iter().map(|entry| self.entry_json(entry)).collect()
    }

    fn entry_json(&self, entry: &ShardEntry) -> Json {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|id| id.0).collect::<Vec<_>>();
        json!({
            "shard": entry.shard.0,
            "epoch": entry.epoch.0,
            "leader": self.leader(entry.shard).map(|id| id.0),
            "voters": ids(&entry.voters),
            "outgoing": ids(&entry.outgoing),
            "learners": ids(&entry.learners),
            "goal": ids(&entry.goal),
            "move": progress(entry).map(|(word, _)| word),
            "survives": survives(entry, &self.reachable),
        })
    }

    /// For people: a table, and a summary.
    pub(crate) fn print(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let header = ["SHARD", "EPOCH", "LEADER", "SURVIVES", "VOTERS", "MOVE"];
        let mut table = vec![header.map(str::to_owned).to_vec()];
        table.extend(self.map.shards.iter().map(|entry| self.cells(entry)));
        print_table(&table, out)?;
        let map = self.map;
        let mut summary =
            format!("cluster {}: {} shards and the meta group s0", map.cluster, map.shard_count());
        let without_leader = self.without_leader();
        if without_leader.is_empty() {
            summary.push_str(", all with a leader");
        } else {
            let shards: Vec<_> = without_leader.iter().map(ToString::to_string).collect();
            summary.push_str(&format!("; without a leader that answers: {}", shards.join(" ")));
        }
        writeln!(out, "{summary}")?;
        let survived = map.shards.iter().map(|entry| survives(entry, &self.reachable));
        match survived.clone().min().flatten() {
            None => {
                let lost = survived.filter(Option::is_none).count();
                writeln!(out, "{lost} without a quorum of nodes that answer: they serve nothing")?;
            }
            Some(0) => {
                let bare = survived.filter(|count| *count == Some(0)).count();
                writeln!(out, "{bare} survive no further failure")?;
            }
            Some(1) => writeln!(out, "every shard survives 1 more failure at least")?,
            Some(count) => writeln!(out, "every shard survives {count} more failures at least")?,
        }
        let moving = map.shards.iter().filter(|entry| progress(entry).is_some()).count();
        if moving > 0 {
            writeln!(out, "{moving} still to be moved")?;
        }
        Ok(())
    }

    fn cells(&self, entry: &ShardEntry) -> Vec<String> {
        let leader = self.leader(entry.shard).map_or_else(|| "-".to_owned(), |id| id.to_string());
        let survived = match survives(entry, &self.reachable) {
            None => "no quorum".to_owned(),
            Some(count) => count.to_string(),
        };
        vec![
            entry.shard.to_string(),
            entry.epoch.0.to_string(),
            leader,
            survived,
            names(&entry.voters),
            progress(entry).map(|(_, sentence)| sentence).unwrap_or_default(),
        ]
    }
}
