//! `cluster status`.
//!
//! Every member is asked for its own view, all at once and with a short deadline, so that a node
//! that is down costs seconds and not the whole command. Before the cluster is formed there is no
//! list of members; then the endpoints are asked.

use std::io::Write;
use std::thread;
use std::time::Duration;

use kv_client::ClientError;
use kv_client::blocking::Client;
use kv_core::cluster::{ClusterMap, Member, MemberState};
use kv_core::gossip::MemberState as Belief;
use kv_core::id::{NodeId, ShardId};
use kv_core::node::{PeerStatus, Status};
use kv_core::raft::Role;
use serde_json::{Value as Json, json};

use crate::args::Format;
use crate::commands::Session;
use crate::exit::ExitCode;
use crate::failure::Failure;
use crate::shards::Shards;

/// How long one node has for its answer.
pub(crate) const NODE_DEADLINE: Duration = Duration::from_secs(2);

/// One node: what the map says of it, and what it says of itself, or why it says nothing.
pub(crate) struct Row {
    member: Option<Member>,
    address: String,
    status: Result<Status, ClientError>,
}

impl Row {
    /// The member that was asked for; none before the cluster is formed.
    pub(crate) fn member_id(&self) -> Option<NodeId> {
        self.member.as_ref().map(|member| member.id)
    }

    /// What the node says of itself; none if nobody answers, or not the one that was meant.
    pub(crate) fn status(&self) -> Option<&Status> {
        self.status.as_ref().ok().filter(|_| self.stranger().is_none())
    }

    /// Whether the node answers and takes part.
    pub(crate) fn is_well(&self) -> bool {
        self.status().is_some_and(|status| status.damage.is_none())
    }

    /// Another node answers at the member's address: what it says of itself.
    fn stranger(&self) -> Option<&Status> {
        let (member, status) = (self.member.as_ref()?, self.status.as_ref().ok()?);
        (status.incarnation != member.incarnation).then_some(status)
    }

    /// What an operator must look at.
    fn trouble(&self) -> Option<String> {
        let address = &self.address;
        let status = match (&self.status, self.stranger()) {
            (Err(error), _) => return Some(format!("{address} is unreachable: {error}")),
            (Ok(_), Some(stranger)) => {
                let who = match stranger.cluster {
                    None => "an empty node that belongs to no cluster".to_owned(),
                    Some(_) => format!("{} with another data directory", stranger.node),
                };
                return Some(format!("{address} is not the member that was there: it is {who}"));
            }
            (Ok(status), None) => status,
        };
        if let Some(damage) = &status.damage {
            return Some(format!("{address} has damaged data and takes part in nothing: {damage}"));
        }
        let is_full = status.is_full;
        is_full.then(|| format!("{address} has a full disk: only reads and deletes are served"))
    }

    fn state(&self) -> &'static str {
        match self.member.as_ref().map(|member| member.state) {
            None => "-",
            Some(MemberState::Active) => "member",
            Some(MemberState::Leaving) => "leaving",
        }
    }

    fn cells(&self) -> Vec<String> {
        let node = self.member_id();
        let node = node.or_else(|| Some(self.status.as_ref().ok()?.node));
        let node =
            node.filter(|id| *id != NodeId(0)).map_or_else(|| "-".into(), |id| id.to_string());
        let mut cells = vec![node, self.address.clone(), self.state().to_owned()];
        match self.status() {
            None => cells.push("unreachable".into()),
            Some(status) => cells.extend([
                led_shards(status).count().to_string(),
                status.shards.len().to_string(),
                status.log.batch_count.to_string(),
                status.log.sync_count.to_string(),
                status.log.bytes_written.to_string(),
            ]),
        }
        cells
    }

    fn json(&self) -> Json {
        let Some(status) = self.status() else {
            return json!({
                "address": self.address,
                "node": self.member_id().map(|id| id.0),
                "state": self.state(),
                "reachable": false,
                "error": self.trouble(),
            });
        };
        json!({
            "address": self.address,
            "reachable": true,
            "node": status.node.0,
            "state": self.state(),
            "incarnation": status.incarnation.to_string(),
            "leads": led_shards(status).map(|shard| shard.0).collect::<Vec<_>>(),
            "replica_count": status.shards.len(),
            "damage": status.damage,
            "is_full": status.is_full,
            "log": {
                "batch_count": status.log.batch_count,
                "sync_count": status.log.sync_count,
                "bytes_written": status.log.bytes_written,
            },
            "ignored_frame_count": status.ignored_frame_count,
            "pending_bytes": status.pending_bytes,
            "peers": status.peers.iter().map(peer_json).collect::<Vec<_>>(),
        })
    }
}

fn peer_json(peer: &PeerStatus) -> Json {
    json!({
        "node": peer.node.0,
        "address": peer.address,
        "state": peer.state,
        "phi": f64::from(peer.phi_hundredths) / 100.0,
        "software": peer.release.software,
    })
}

/// What a node says of a member that it does not hear, if it is so.
fn silence(by: &str, peer: &PeerStatus) -> Option<String> {
    let (node, at) = (peer.node, &peer.address);
    let phi = f64::from(peer.phi_hundredths) / 100.0;
    match peer.state {
        Some(Belief::Alive) => None,
        Some(Belief::Suspect) => Some(format!(
            "{by} suspects {node} at {at}: it has been silent for longer than is likely (phi {phi:.1})"
        )),
        Some(Belief::Down) => Some(format!("{by} believes that {node} at {at} is down")),
        Some(Belief::Left) => Some(format!("{by} heard that {node} at {at} has left")),
        None => Some(format!("{by} has not heard of {node} at {at} since it started")),
    }
}

fn led_shards(status: &Status) -> impl Iterator<Item = ShardId> + '_ {
    let led = status.shards.iter().filter(|shard| shard.role == Role::Leader);
    led.map(|shard| shard.shard)
}

/// Asks the nodes and prints what they say. Fails only if not one of them answers.
pub(crate) fn print(session: &Session, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let asked = session.client.with_deadline(NODE_DEADLINE).map().map(|view| view.map);
    let map = asked.as_ref().ok();
    let mut rows = match map {
        Some(map) => ask_members(&session.client, map),
        None => {
            let endpoints = session.endpoints.iter().map(|address| (None, address.clone()));
            ask_all(&session.client, endpoints.collect())
        }
    };
    if rows.iter().all(|row| row.status.is_err())
        && let Some(Row { status: Err(error), .. }) = rows.pop()
    {
        return Err(error.into());
    }
    let shards = map.map(|map| Shards::new(map, &rows));
    match session.format {
        Format::Json => {
            let without_leader = shards.as_ref().map(Shards::without_leader).unwrap_or_default();
            let answer = json!({
                "cluster": map.map(|map| map.cluster.to_string()),
                "shard_count": map.map(ClusterMap::shard_count),
                "replica_count": map.map(|map| map.replica_count),
                "shards_without_leader": without_leader.iter().map(|shard| shard.0).collect::<Vec<_>>(),
                "nodes": rows.iter().map(Row::json).collect::<Vec<_>>(),
                "shards": shards.as_ref().map(Shards::json),
            });
            writeln!(out, "{answer}")?;
        }
        Format::Text => {
            print_nodes(&rows, out)?;
            match (&shards, &asked) {
                (Some(shards), _) => shards.print(out)?,
                (None, Err(error)) => writeln!(out, "the cluster's map is not known: {error}")?,
                (None, Ok(_)) => {}
            }
        }
    }
    Ok(ExitCode::Done)
}

/// Asks every member for its status.
pub(crate) fn ask_members(client: &Client, map: &ClusterMap) -> Vec<Row> {
    let members = map.members.iter().cloned();
    let members = members.map(|member| (Some(member.clone()), member.address.0));
    ask_all(client, members.collect())
}

fn ask_all(client: &Client, nodes: Vec<(Option<Member>, String)>) -> Vec<Row> {
    let client = client.with_deadline(NODE_DEADLINE);
    thread::scope(|scope| {
        let asked: Vec<_> = nodes
            .into_iter()
            .map(|(member, address)| {
                let client = &client;
                scope.spawn(move || Row { member, status: client.status(&address), address })
            })
            .collect();
        asked.into_iter().map(|row| row.join().expect("asking a node does not panic")).collect()
    })
}

fn print_nodes(rows: &[Row], out: &mut dyn Write) -> Result<(), Failure> {
    let header = ["NODE", "ADDRESS", "STATE", "LEADS", "REPLICAS", "BATCHES", "SYNCS", "LOG BYTES"];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(Row::cells));
    print_table(&table, out)?;
    for trouble in rows.iter().filter_map(Row::trouble) {
        writeln!(out, "{trouble}")?;
    }
    for row in rows {
        let peers = row.status().into_iter().flat_map(|status| &status.peers);
        for silence in peers.filter_map(|peer| silence(&row.address, peer)) {
            writeln!(out, "{silence}")?;
        }
    }
    writeln!(out)?;
    Ok(())
}

/// Prints rows with columns of equal width.
pub(crate) fn print_table(table: &[Vec<String>], out: &mut dyn Write) -> Result<(), Failure> {
    let column_count = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        table.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..column_count).map(width).collect();
    for row in table {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
