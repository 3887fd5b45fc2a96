//! `cluster status`.
//!
//! Every member is asked for its own view, all at once and with a short deadline, so that a node
//! that is down costs seconds and not the whole command. Before the cluster is formed there is no
//! list of members; then the endpoints are asked.

use std::collections::BTreeSet;
use std::io::Write;
use std::thread;
use std::time::Duration;

use kv_client::ClientError;
use kv_client::blocking::Client;
use kv_core::cluster::ClusterMap;
use kv_core::id::ShardId;
use kv_core::node::Status;
use kv_core::raft::Role;
use serde_json::{Value as Json, json};

use crate::args::Format;
use crate::commands::Session;
use crate::exit::ExitCode;
use crate::failure::Failure;

/// How long one node has for its answer.
const NODE_DEADLINE: Duration = Duration::from_secs(2);

/// What one node says of itself, or why it says nothing.
struct Row {
    address: String,
    status: Result<Status, ClientError>,
}

/// Asks the nodes and prints what they say. Fails only if not one of them answers.
pub(crate) fn print(session: &Session, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let map = session.client.with_deadline(NODE_DEADLINE).map().map(|view| view.map).ok();
    let addresses = match &map {
        Some(map) => map.members.iter().map(|member| member.address.0.clone()).collect(),
        None => session.endpoints.clone(),
    };
    let mut rows = ask_all(&session.client, addresses);
    if rows.iter().all(|row| row.status.is_err())
        && let Some(Row { status: Err(error), .. }) = rows.pop()
    {
        return Err(error.into());
    }
    let without_leader = without_leader(map.as_ref(), &rows);
    match session.format {
        Format::Json => {
            let nodes: Vec<_> = rows.iter().map(row_json).collect();
            let answer = json!({
                "cluster": map.as_ref().map(|map| map.cluster.to_string()),
                "shard_count": map.as_ref().map(ClusterMap::shard_count),
                "shards_without_leader": without_leader.iter().map(|shard| shard.0).collect::<Vec<_>>(),
                "nodes": nodes,
            });
            writeln!(out, "{answer}")?;
        }
        Format::Text => print_text(map.as_ref(), &rows, &without_leader, out)?,
    }
    Ok(ExitCode::Done)
}

fn ask_all(client: &Client, addresses: Vec<String>) -> Vec<Row> {
    let client = client.with_deadline(NODE_DEADLINE);
    thread::scope(|scope| {
        let asked: Vec<_> = addresses
            .into_iter()
            .map(|address| {
                let client = &client;
                scope.spawn(move || Row { status: client.status(&address), address })
            })
            .collect();
        asked.into_iter().map(|row| row.join().expect("asking a node does not panic")).collect()
    })
}

fn without_leader(map: Option<&ClusterMap>, rows: &[Row]) -> Vec<ShardId> {
    let led: BTreeSet<_> = rows.iter().flat_map(led_shards).collect();
    let shards = map.iter().flat_map(|map| map.shards.iter().map(|entry| entry.shard));
    shards.filter(|shard| !led.contains(shard)).collect()
}

fn led_shards(row: &Row) -> impl Iterator<Item = ShardId> + '_ {
    let shards = row.status.iter().flat_map(|status| &status.shards);
    shards.filter(|shard| shard.role == Role::Leader).map(|shard| shard.shard)
}

fn row_json(row: &Row) -> Json {
    match &row.status {
        Ok(status) => json!({
            "address": row.address,
            "reachable": true,
            "node": status.node.0,
            "incarnation": status.incarnation.to_string(),
            "leads": led_shards(row).map(|shard| shard.0).collect::<Vec<_>>(),
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
        }),
        Err(error) => json!({
            "address": row.address,
            "reachable": false,
            "error": error.to_string(),
        }),
    }
}

/// What an operator must look at.
fn print_trouble(row: &Row, out: &mut dyn Write) -> Result<(), Failure> {
    let address = &row.address;
    match &row.status {
        Err(error) => writeln!(out, "{address} is unreachable: {error}")?,
        Ok(status) => {
            if let Some(damage) = &status.damage {
                writeln!(out, "{address} has damaged data and takes part in nothing: {damage}")?;
            }
            if status.is_full {
                writeln!(out, "{address} has a full disk: only reads and deletes are served")?;
            }
        }
    }
    Ok(())
}

fn print_text(
    map: Option<&ClusterMap>,
    rows: &[Row],
    without_leader: &[ShardId],
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let header = ["ADDRESS", "NODE", "LEADS", "REPLICAS", "BATCHES", "SYNCS", "LOG BYTES"];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(row_cells));
    print_table(&table, out)?;
    for row in rows {
        print_trouble(row, out)?;
    }
    let Some(map) = map else {
        writeln!(out, "no node knows the cluster map: the cluster is not formed yet")?;
        return Ok(());
    };
    let counted =
        format!("cluster {}: {} shards and the meta group", map.cluster, map.shard_count());
    if without_leader.is_empty() {
        writeln!(out, "{counted}, all with a leader")?;
    } else {
        let names: Vec<_> = without_leader.iter().map(ToString::to_string).collect();
        writeln!(out, "{counted}; without a leader that answers: {}", names.join(", "))?;
    }
    Ok(())
}

fn row_cells(row: &Row) -> Vec<String> {
    let Ok(status) = &row.status else {
        return vec![row.address.clone(), "unreachable".into()];
    };
    vec![
        row.address.clone(),
        status.node.to_string(),
        led_shards(row).count().to_string(),
        status.shards.len().to_string(),
        status.log.batch_count.to_string(),
        status.log.sync_count.to_string(),
        status.log.bytes_written.to_string(),
    ]
}

fn print_table(table: &[Vec<String>], out: &mut dyn Write) -> Result<(), Failure> {
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
