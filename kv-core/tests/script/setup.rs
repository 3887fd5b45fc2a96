//! Logs that a script begins with, and messages that no replica of the script has sent.

use std::collections::BTreeSet;

use bytes::Bytes;
use kv_core::id::{Epoch, LogId, LogIndex, NodeId, Term};
use kv_core::machine::Command;
use kv_core::raft::Configuration;
use kv_core::storage::{Entry, HardState, RecoveredGroup};
use kv_core::wire::RaftMessage;

use super::{Disk, Message, Script, node};

/// `INDEX@TERM`
fn log_id(word: &str) -> LogId {
    let (index, term) = word.split_once('@').unwrap();
    LogId { term: Term(term.parse().unwrap()), index: LogIndex(index.parse().unwrap()) }
}

/// `1,2,3`
fn nodes(words: &str) -> BTreeSet<NodeId> {
    words.split(',').map(node).collect()
}

/// `VOTERS` or, if joint, `VOTERS&OUTGOING`
fn configuration(words: &str, epoch: Epoch) -> Configuration {
    let (voters, outgoing) = words.split_once('&').unwrap_or((words, ""));
    let outgoing = if outgoing.is_empty() { BTreeSet::new() } else { nodes(outgoing) };
    Configuration { epoch, voters: nodes(voters), outgoing, ..Configuration::default() }
}

/// Entries of terms, or configurations as `TERM=VOTERS`, behind `base`. Equal ids have equal
/// contents, as Raft promises.
fn entries(words: &[&str], base: LogIndex) -> Vec<Entry> {
    let mut epoch = Epoch(1);
    let mut entry = |(index, word): (u64, &&str)| {
        let (term, voters) = word.split_once('=').unwrap_or((*word, ""));
        let payload = if voters.is_empty() {
            Bytes::from_static(b"x")
        } else {
            epoch = Epoch(epoch.0 + 1);
            Command::Configuration(configuration(voters, epoch)).encode().into()
        };
        let id = LogId { term: Term(term.parse().unwrap()), index: LogIndex(index) };
        Entry { id, payload }
    };
    (base.0 + 1..).zip(words).map(&mut entry).collect()
}

impl Script {
    /// `log 1 8 1 1 4`: replica 1 comes back in term 8 with a log of these terms.
    pub(super) fn begin_with(&mut self, id: NodeId, words: &[&str]) {
        self.crash(id);
        let term = Term(words[0].parse().unwrap());
        let hard_state = HardState { term, ..HardState::default() };
        let entries = entries(&words[1..], LogIndex(0));
        let disk = RecoveredGroup { hard_state, entries, ..RecoveredGroup::default() };
        self.replicas.get_mut(&id).unwrap().disk = Disk(disk);
        self.restart(id);
    }

    /// A replica that is down loses its disk. Nobody tells it again who the group began with.
    pub(super) fn wipe(&mut self, id: NodeId) {
        let replica = self.replicas.get_mut(&id).unwrap();
        assert!(replica.group.is_none(), "{id} is running");
        replica.disk = Disk::default();
        replica.is_initial = false;
    }

    /// A running replica was removed and gives up its log, and then a late append makes it anew.
    pub(super) fn give_up(&mut self, id: NodeId) {
        let replica = self.replicas.get_mut(&id).unwrap();
        let hard_state = replica.group.as_ref().unwrap().hard_state_without_log();
        self.crash(id);
        self.wipe(id);
        let hard_state = HardState { commit: LogIndex(0), ..hard_state };
        let disk = RecoveredGroup { hard_state, ..RecoveredGroup::default() };
        self.replicas.get_mut(&id).unwrap().disk = Disk(disk);
        self.restart(id);
    }

    /// `forge-append 1 2 5 3@4 2 5 5`: an append from 1 to 2 of term 5, behind 3@4, with commit
    /// index 2 and entries of these terms.
    pub(super) fn forge_append(&mut self, words: &[&str]) {
        let prev = log_id(words[3]);
        let entries = entries(&words[5..], prev.index);
        let body = RaftMessage::Append {
            term: Term(words[2].parse().unwrap()),
            prev,
            commit: LogIndex(words[4].parse().unwrap()),
            held_by_all: LogIndex(0),
            entries: entries.into_iter().map(|entry| (entry.id.term, entry.payload)).collect(),
        };
        self.receive(Message { from: node(words[0]), to: node(words[1]), body });
    }

    /// `from` tells leader `to` that it lacks the entry at `base` and everything before it.
    pub(super) fn claim_lack(&mut self, from: NodeId, to: NodeId, base: &str) {
        let term = self.replicas[&to].group.as_ref().unwrap().term();
        let prev = LogIndex(base.parse().unwrap());
        let body = RaftMessage::AppendRejected { term, prev, hint: LogId::default() };
        self.receive(Message { from, to, body });
    }
}
