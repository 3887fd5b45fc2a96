//! Changing the members, and handing leaderships over.
//!
//! Whoever changes the members is told first what that moves, and then how it goes, until it is
//! done: a node that is to be switched off may be so only then. The change itself is one command of
//! the meta group; it goes on whether anybody watches or not.

use std::collections::BTreeSet;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use kv_client::ClientError;
use kv_core::availability::{QuorumRisk, would_lose_quorum};
use kv_core::client::CallError;
use kv_core::cluster::{ClusterMap, MetaError};
use kv_core::id::{NodeId, ShardId};
use kv_core::machine::plan::Change;
use kv_core::raft::Role;
use kv_core::wire::{AdminRequest, Refusal};
use serde_json::json;

use crate::args::{Format, How};
use crate::commands::Session;
use crate::exit::ExitCode;
use crate::failure::Failure;
use crate::moves::{self, Planned, tell};
use crate::status;

/// How long a leadership may take to arrive: longer than the leader itself tries.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(5);
/// How often the receiver is asked whether it leads.
const TRANSFER_PAUSE: Duration = Duration::from_millis(50);

/// Prints what a change would move.
pub(crate) fn plan(
    session: &Session,
    change: Change,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let planned = Planned::ask(&session.client, change)?;
    match session.format {
        Format::Json => writeln!(out, "{}", planned.json())?,
        Format::Text => {
            if change == Change::Add {
                writeln!(out, "the next node would be {}", planned.map.next_node)?;
            }
            for line in planned.lines() {
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(ExitCode::Done)
}

/// Makes a node that waits a member.
pub(crate) fn add(
    session: &Session,
    address: &str,
    no_wait: bool,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let map = session.client.map()?.map;
    let there = session.client.status(address)?;
    let is_text = session.format == Format::Text;
    let planned = match there.cluster {
        Some(cluster) if cluster == map.cluster => None,
        Some(cluster) => {
            return Err(Failure::Usage(format!(
                "the node at {address} is {} of another cluster, {cluster}; a data directory belongs to one cluster \
                 for good",
                there.node
            )));
        }
        None if there.node != NodeId::UNKNOWN => {
            return Err(Failure::Usage(format!(
                "the node at {address} was started as {} with --peers, to form a cluster; start it without --id and \
                 --peers to add it to this one",
                there.node
            )));
        }
        None => Some(Planned::ask(&session.client, Change::Add)?),
    };
    if let Some(planned) = planned.as_ref().filter(|_| is_text) {
        tell(&format!("the node at {address} joins the cluster:"));
        planned.lines().iter().for_each(|line| tell(line));
    }
    let id = match &planned {
        None => there.node,
        Some(_) => {
            let seeds = map.members.iter().map(|member| member.address.0.clone());
            session.client.join(address, seeds.collect())?
        }
    };
    if !no_wait {
        moves::watch(&session.client, is_text, |map| map.member(id).is_some())?;
    }
    match (session.format, &planned) {
        (Format::Json, _) => {
            let plan = planned.as_ref().map(Planned::json);
            writeln!(out, "{}", json!({ "added": id.0, "done": !no_wait, "plan": plan }))?;
        }
        (Format::Text, Some(_)) => writeln!(out, "{id} is a member")?,
        (Format::Text, None) => writeln!(out, "{id} was a member already")?,
    }
    Ok(ExitCode::Done)
}

/// Lets a member leave; with a successor if the change names one.
pub(crate) fn leave(
    session: &Session,
    change: Change,
    how: How,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let (old, request) = match change {
        Change::Remove { id } => (id, AdminRequest::RemoveNode { id, force: how.force }),
        Change::Replace { old, new } => {
            (old, AdminRequest::ReplaceNode { old, new, force: how.force })
        }
        Change::Add => return Err(Failure::Usage("nobody leaves when a node is added".into())),
    };
    let planned = match Planned::ask(&session.client, change) {
        Err(error) if is_gone(&error, old) => return finish(session, old, None, out),
        planned => planned?,
    };
    let risk = would_lose_quorum(&planned.map, change, &reachable(session, &planned.map));
    if session.format == Format::Text {
        announce(change, &planned, how, risk.as_ref());
    }
    if let Some(risk) = risk.filter(|_| !how.force) {
        // The meta leader would say the same, once it misses the same nodes.
        let call = CallError::Refused(Refusal::QuorumRisk { reason: risk.to_string() });
        return Err(ClientError::Call { call, connections: Vec::new() }.into());
    }
    match session.client.admin(request).map_err(Failure::from) {
        // An earlier attempt of this very command was not answered, but done.
        Err(error) if is_gone(&error, old) => {}
        answer => drop(answer?),
    }
    if how.no_wait {
        return begun(session, old, &planned, out);
    }
    let is_told = session.format == Format::Text;
    moves::watch(&session.client, is_told, |map| map.member(old).is_none())?;
    finish(session, old, Some(&planned), out)
}

fn is_gone(error: &Failure, old: NodeId) -> bool {
    let Failure::Client(ClientError::Call { call: CallError::Refused(refusal), .. }) = error else {
        return false;
    };
    *refusal == Refusal::Meta(MetaError::RemovedMember { id: old })
}

/// Says what is about to happen, and what is risked.
fn announce(change: Change, planned: &Planned, how: How, risk: Option<&QuorumRisk>) {
    match change {
        Change::Remove { id } => tell(&format!("{id} leaves the cluster:")),
        Change::Replace { old, new } => {
            tell(&format!("{old} leaves the cluster, and {new} takes over:"));
        }
        Change::Add => {}
    }
    planned.lines().iter().for_each(|line| tell(line));
    if how.force {
        match risk {
            Some(risk) => tell(&format!(
                "--force: {risk}; such a shard serves nothing until enough of its nodes return, and if their \
                 disks are lost, so is what it held"
            )),
            None => tell("--force: not needed, as far as can be seen: no shard loses its quorum"),
        }
    }
}

/// The members that answer.
fn reachable(session: &Session, map: &ClusterMap) -> BTreeSet<NodeId> {
    let rows = status::ask_members(&session.client, map);
    rows.iter().filter(|row| row.is_well()).filter_map(|row| row.member_id()).collect()
}

fn begun(
    session: &Session,
    old: NodeId,
    planned: &Planned,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    match session.format {
        Format::Json => {
            let answer = json!({ "leaves": old.0, "done": false, "plan": planned.json() });
            writeln!(out, "{answer}")?;
        }
        Format::Text => writeln!(
            out,
            "decided; leave {old} running until 'kv cluster status' does not list it any more"
        )?,
    }
    Ok(ExitCode::Done)
}

fn finish(
    session: &Session,
    old: NodeId,
    planned: Option<&Planned>,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    match (session.format, planned) {
        (Format::Json, _) => {
            let plan = planned.map(Planned::json);
            writeln!(out, "{}", json!({ "leaves": old.0, "done": true, "plan": plan }))?;
        }
        (Format::Text, Some(_)) => writeln!(
            out,
            "{old} is no member any more; stop its process, and keep nothing of its data directory"
        )?,
        (Format::Text, None) => writeln!(out, "{old} had been removed already")?,
    }
    Ok(ExitCode::Done)
}

/// Hands the leadership of a shard over, and waits until it has arrived.
pub(crate) fn transfer(
    session: &Session,
    shard: ShardId,
    to: NodeId,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let map = session.client.map()?.map;
    let Some(entry) = map.entry(shard) else {
        let count = map.shard_count();
        return Err(Failure::Usage(format!(
            "there is no shard {shard}: they are s0, the meta group, to s{count}"
        )));
    };
    let Some(member) = map.member(to) else {
        return Err(Failure::Usage(format!("{to} is not a member")));
    };
    if !entry.voters.contains(&to) {
        let voters = moves::names(&entry.voters);
        return Err(Failure::Usage(format!("{to} does not vote in {shard}: {voters} do")));
    }
    if !leads(session, &member.address.0, shard) {
        session.client.admin(AdminRequest::TransferLeader { shard, to })?;
    }
    let until = Instant::now() + TRANSFER_PATIENCE;
    let mut has_arrived = leads(session, &member.address.0, shard);
    while !has_arrived && Instant::now() < until {
        thread::sleep(TRANSFER_PAUSE);
        has_arrived = leads(session, &member.address.0, shard);
    }
    match session.format {
        Format::Json => {
            let answer = json!({ "shard": shard.0, "node": to.0, "leads": has_arrived });
            writeln!(out, "{answer}")?;
        }
        Format::Text if has_arrived => writeln!(out, "{to} leads {shard}")?,
        Format::Text => tell(&format!("{to} does not lead {shard}: the leadership stayed")),
    }
    Ok(if has_arrived { ExitCode::Done } else { ExitCode::No })
}

fn leads(session: &Session, address: &str, shard: ShardId) -> bool {
    let client = session.client.with_deadline(status::NODE_DEADLINE);
    client.status(address).is_ok_and(|status| {
        status.shards.iter().any(|held| held.shard == shard && held.role == Role::Leader)
    })
}
