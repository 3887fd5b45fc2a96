//! What a change of members moves: told before, and watched until it is done.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use kv_client::blocking::Client;
use kv_core::cluster::{ClusterMap, ShardEntry};
use kv_core::id::NodeId;
use kv_core::machine::plan::{Change, Move};
use kv_core::wire::{AdminReply, AdminRequest};
use serde_json::{Value as Json, json};

use crate::failure::Failure;

/// How often the map is asked for while shards are moved.
const POLL_PAUSE: Duration = Duration::from_millis(300);
/// After so long without progress the user is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a change would move, together with the map that it was planned on.
pub(crate) struct Planned {
    /// The map before the change.
    pub(crate) map: ClusterMap,
    /// What is to be moved.
    pub(crate) moves: Vec<Move>,
}

impl Planned {
    /// Asks any node.
    pub(crate) fn ask(client: &Client, change: Change) -> Result<Self, Failure> {
        let moves = match client.admin(AdminRequest::Plan { change })? {
            AdminReply::Plan { moves } => moves,
            AdminReply::Done | AdminReply::NodeAdded { .. } | AdminReply::Joined { .. } => vec![],
        };
        Ok(Self { map: client.map()?.map, moves })
    }

    /// How many failures every shard survives, whichever nodes fail: before, and after the change.
    /// Both as if all nodes were there.
    fn survived(&self) -> (usize, usize) {
        let failures = |voter_count: usize| voter_count.saturating_sub(1) / 2;
        let before = self.map.shards.iter().map(|entry| failures(entry.voters.len())).min();
        let after = self.map.shards.iter().map(|entry| {
            let step = self.moves.iter().find(|step| step.shard == entry.shard);
            failures(step.map_or(&entry.voters, |step| &step.to).len())
        });
        (before.unwrap_or(0), after.min().unwrap_or(0))
    }

    /// For people: a line per shard, then what it means.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |step: &Move| {
            format!("  {:<5} {} -> {}", step.shard.to_string(), names(&step.from), names(&step.to))
        };
        let mut lines: Vec<_> = self.moves.iter().map(line).collect();
        let (before, after) = self.survived();
        let counted = match self.moves.len() {
            0 => "no shard moves".to_owned(),
            1 => "1 shard moves".to_owned(),
            count => format!("{count} shards move"),
        };
        let compared = match after.cmp(&before) {
            Ordering::Equal => "as before".to_owned(),
            Ordering::Greater => format!("before {before}"),
            Ordering::Less => format!("before {before}: fewer nodes are left than replicas wanted"),
        };
        lines.push(format!(
            "{counted}; with all nodes up every shard then survives {}, {compared}",
            failures(after)
        ));
        lines
    }

    /// For programs.
    pub(crate) fn json(&self) -> Json {
        let ids =
            |nodes: &mut dyn Iterator<Item = NodeId>| nodes.map(|id| id.0).collect::<Vec<_>>();
        let step = |step: &Move| {
            json!({
                "shard": step.shard.0,
                "from": ids(&mut step.from.iter().copied()),
                "to": ids(&mut step.to.iter().copied()),
                "added": ids(&mut step.added()),
                "removed": ids(&mut step.removed()),
            })
        };
        let (before, after) = self.survived();
        json!({
            "moves": self.moves.iter().map(step).collect::<Vec<_>>(),
            "survives_before": before,
            "survives_after": after,
        })
    }
}

fn failures(count: usize) -> String {
    if count == 1 { "1 failure".into() } else { format!("{count} failures") }
}

/// Names of nodes, by id, with blanks between them.
pub(crate) fn names(nodes: &[NodeId]) -> String {
    let nodes: BTreeSet<_> = nodes.iter().collect();
    nodes.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// What is happening to a shard: a word for programs, and a sentence for people.
pub(crate) fn progress(entry: &ShardEntry) -> Option<(&'static str, String)> {
    if entry.is_settled_on(&entry.goal) {
        return None;
    }
    let to = names(entry.target.as_ref().unwrap_or(&entry.goal));
    Some(if entry.is_joint() {
        ("joint", format!("{} -> {to}, voters change", names(&entry.outgoing)))
    } else if !entry.learners.is_empty() {
        ("learning", format!("-> {to}, {} catches up", names(&entry.learners)))
    } else if entry.target.is_some() {
        ("begun", format!("-> {to}"))
    } else {
        ("waiting", format!("-> {to}, waits for others"))
    })
}

/// Watches until nothing is to be moved any more and `is_done`, and tells how it goes if
/// `is_told`. Whoever stops watching stops nothing else.
pub(crate) fn watch(
    client: &Client,
    is_told: bool,
    is_done: impl Fn(&ClusterMap) -> bool,
) -> Result<ClusterMap, Failure> {
    let mut newest: Option<ClusterMap> = None;
    let (mut told, mut moved_at) = (usize::MAX, Instant::now());
    loop {
        let map = client.map().map_err(Failure::Unwatched)?.map;
        // Nodes may be behind one another.
        if newest.as_ref().is_none_or(|held| held.version < map.version) {
            moved_at = Instant::now();
            newest = Some(map);
        }
        let map = newest.as_ref().expect("a map was just taken");
        let left: Vec<_> = map.shards.iter().filter(|entry| progress(entry).is_some()).collect();
        if left.is_empty() && is_done(map) {
            return Ok(map.clone());
        }
        let is_stuck = moved_at.elapsed() > PATIENCE;
        if is_told && (left.len() != told || is_stuck) {
            told = left.len();
            tell(&format!("{told} of {} shards still to be moved", map.shards.len()));
        }
        if is_told && is_stuck {
            tell_what_waits(&left);
            moved_at = Instant::now();
        }
        thread::sleep(POLL_PAUSE);
    }
}

/// Names the nodes that those shards that are being moved wait for.
fn tell_what_waits(left: &[&ShardEntry]) {
    let begun = left.iter().filter(|entry| entry.target.is_some());
    let nodes: BTreeSet<_> =
        begun.flat_map(|entry| entry.target.iter().flatten().chain(&entry.voters)).collect();
    let nodes: Vec<_> = nodes.into_iter().copied().collect();
    tell(&format!(
        "no progress for {} s; see whether all of {} run and reach each other: kv cluster status",
        PATIENCE.as_secs(),
        names(&nodes)
    ));
}

/// What is no answer goes to standard error.
pub(crate) fn tell(line: &str) {
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}
