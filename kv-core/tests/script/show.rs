//! How effects are printed.

use std::fmt::Write as _;

use kv_core::id::NodeId;
use kv_core::machine::Command;
use kv_core::raft::{Envelope, Group};
use kv_core::storage::{Entry, GroupWrite};
use kv_core::wire::{RaftMessage, Standing, VoteKind};

use super::Message;

pub(super) fn label(id: NodeId, group: &Group) -> String {
    format!("{id}@{}", group.term())
}

pub(super) fn send(out: &mut String, from: NodeId, group: &Group, envelope: Envelope) -> Message {
    let Envelope { to, message: body, .. } = envelope;
    writeln!(out, "    {} → {to} {}", label(from, group), show_message(&body)).unwrap();
    Message { from, to, body }
}

fn show_payload(payload: &[u8]) -> String {
    match Command::decode(payload) {
        Ok(Command::Noop) => "noop".into(),
        Ok(Command::Configuration(configuration)) => configuration.to_string(),
        _ if payload.len() > 40 => format!("<{} bytes>", payload.len()),
        _ => String::from_utf8_lossy(payload).into_owned(),
    }
}

pub(super) fn show_entry(entry: &Entry) -> String {
    format!("{} {}", entry.id, show_payload(&entry.payload))
}

pub(super) fn show_write(write: &GroupWrite) -> String {
    let state = write.hard_state.unwrap();
    let vote = state.vote.map_or_else(|| "none".into(), |vote| vote.to_string());
    let entries: Vec<_> = write.entries.iter().map(show_entry).collect();
    format!("term {} vote {vote} commit {} [{}]", state.term, state.commit, entries.join(", "))
}

fn show_message(message: &RaftMessage) -> String {
    match message {
        RaftMessage::Vote { term, last, kind } => {
            let kind = match kind {
                VoteKind::Pre => "PreVote",
                VoteKind::Election => "Vote",
                VoteKind::Transfer => "TransferVote",
            };
            format!("{kind} term {term} last {last}")
        }
        RaftMessage::VoteReply { term, pre, granted } => {
            let kind = if *pre { "PreVote" } else { "Vote" };
            let answer = if *granted { "granted" } else { "refused" };
            format!("{kind}Reply term {term} {answer}")
        }
        RaftMessage::Transfer { term } => format!("Transfer term {term}"),
        RaftMessage::Append { prev, commit, held_by_all, entries, .. } => {
            let indexes = prev.index.0 + 1..;
            let entries: Vec<_> = entries
                .iter()
                .zip(indexes)
                .map(|((term, payload), index)| format!("{index}@{term} {}", show_payload(payload)))
                .collect();
            let entries = entries.join(", ");
            format!("Append base {prev} commit {commit} held {held_by_all} [{entries}]")
        }
        RaftMessage::AppendAccepted { matched, commit, held_by_all, standing, .. } => {
            let Standing { life, is_suspect } = standing;
            let standing = match (life, is_suspect) {
                (0, false) => String::new(),
                (life, false) => format!(" life {life}"),
                (life, true) => format!(" life {life} suspect"),
            };
            format!("Accepted matched {matched} commit {commit} held {held_by_all}{standing}")
        }
        RaftMessage::Cleared { term, life, barrier } => {
            format!("Cleared term {term} life {life} barrier {barrier}")
        }
        RaftMessage::AppendRejected { term, prev, hint } => {
            format!("Rejected term {term} base {prev} hint {hint}")
        }
    }
}
