//! Changes of the configuration, transfers and snapshots.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use kv_core::id::{LogIndex, NodeId};
use kv_core::storage::RecoveredGroup;

use super::{Script, Snapshot, label, node};

impl Script {
    /// `change 1 voters 1 2 3 learners 4`
    pub(super) fn change(&mut self, leader: NodeId, words: &[&str]) {
        let is_learner = |at: &usize| words.iter().position(|word| *word == "learners") < Some(*at);
        let (mut voters, mut learners) = (BTreeSet::new(), BTreeSet::new());
        for (at, word) in words.iter().enumerate() {
            match *word {
                "voters" | "learners" => {}
                id if words.contains(&"learners") && is_learner(&at) => {
                    learners.insert(node(id));
                }
                id => {
                    voters.insert(node(id));
                }
            }
        }
        let mut result = None;
        self.with(leader, |group, now| result = Some(group.propose_change(now, voters, learners)));
        if let Some(Err(error)) = result {
            writeln!(self.out, "    {leader} refuses: {error}").unwrap();
        }
    }

    pub(super) fn transfer(&mut self, leader: NodeId, to: NodeId) {
        let mut result = None;
        self.with(leader, |group, now| result = Some(group.transfer(now, to)));
        if let Some(Err(error)) = result {
            writeln!(self.out, "    {leader} refuses: {error}").unwrap();
        }
    }

    /// What `leader` has applied arrives at `to`, whose store begins to install it if it is wanted.
    pub(super) fn send_snapshot(&mut self, leader: NodeId, to: NodeId) {
        self.take_snapshot(leader);
        if self.offer_snapshot(leader, to) {
            self.arrive(to);
        }
    }

    /// Sets aside what `id` has applied.
    pub(super) fn take_snapshot(&mut self, id: NodeId) {
        let replica = self.replicas.get_mut(&id).unwrap();
        let term = replica.group.as_ref().unwrap().term();
        let (last, configuration) = (replica.applied, replica.configuration.clone());
        replica.taken = Some((term, Snapshot { last, configuration }));
    }

    /// `to` hears of the snapshot that `leader` took, and may want it.
    pub(super) fn offer_snapshot(&mut self, leader: NodeId, to: NodeId) -> bool {
        let (term, snapshot) = self.replicas[&leader].taken.clone().unwrap();
        let last = snapshot.last;
        let mut is_wanted = false;
        self.with(to, |group, now| {
            is_wanted = group.on_snapshot_offer(now, leader, term, last);
        });
        if is_wanted {
            self.replicas.get_mut(&to).unwrap().arriving = Some(snapshot);
        } else {
            writeln!(self.out, "    {to} does not want {last}").unwrap();
        }
        is_wanted
    }

    /// All of the snapshot has arrived at `id`, whose store begins to install it.
    pub(super) fn arrive(&mut self, id: NodeId) {
        let replica = self.replicas.get_mut(&id).unwrap();
        let snapshot = replica.arriving.take().unwrap();
        let last = snapshot.last;
        if let Some(group) = &mut replica.group
            && group.begin_install(last)
        {
            writeln!(self.out, "    {} installs {last}", label(id, group)).unwrap();
            replica.installing = Some(snapshot);
        } else {
            writeln!(self.out, "    {id} does not want {last}").unwrap();
        }
    }

    pub(super) fn show_needs_snapshot(&mut self, leader: NodeId) {
        let needs = self.replicas[&leader].group.as_ref().unwrap().needs_snapshot(self.now);
        let needs: Vec<_> = needs.iter().map(ToString::to_string).collect();
        writeln!(self.out, "    {leader} owes a snapshot to [{}]", needs.join(", ")).unwrap();
    }

    /// `pin 1 4` keeps the entries behind 4, `pin 1` none.
    pub(super) fn pin(&mut self, id: NodeId, index: Option<&str>) {
        let index = index.map(|word| LogIndex(word.parse().unwrap()));
        self.with(id, |group, _| group.pin(index));
    }

    /// The snapshot that `id` installs is durable.
    pub(super) fn install(&mut self, id: NodeId) {
        let first = self.first_configuration(id);
        let replica = self.replicas.get_mut(&id).unwrap();
        let Some(Snapshot { last, configuration }) = replica.installing.take() else {
            writeln!(self.out, "    {id} has nothing to install").unwrap();
            return;
        };
        let disk: &mut RecoveredGroup = &mut replica.disk.0;
        let keeps = disk.entries.iter().any(|entry| entry.id == last);
        if !keeps {
            replica.replaced = replica.last_append;
        }
        disk.entries.retain(|entry| keeps && entry.id.index > last.index);
        disk.floor = last;
        disk.applied = last;
        disk.configuration = configuration.clone();
        replica.applied = last;
        replica.configuration = configuration.clone();
        let configuration = configuration.unwrap_or(first);
        self.with(id, |group, now| group.on_installed(now, last, configuration));
    }

    pub(super) fn show_configurations(&mut self) {
        for (id, replica) in &self.replicas {
            if let Some(group) = &replica.group {
                let configuration = group.configuration();
                writeln!(self.out, "    {} has {configuration}", label(*id, group)).unwrap();
            }
        }
    }
}
