//! Runs scripts of Raft groups and prints what they do.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod members;
mod random;
mod setup;
mod show;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use kv_core::id::{AppendId, Epoch, LogId, LogIndex, NodeId, ShardId, Term};
use kv_core::machine::configuration_in;
use kv_core::node::{Limits, Timings};
use kv_core::raft::{Configuration, Envelope, Group, GroupConfig, Role};
use kv_core::rng::Rng;
use kv_core::storage::{Entry, GroupWrite, RecoveredGroup};
use kv_core::time::Instant;
use kv_core::wire::RaftMessage;

pub(crate) use random::run_random;
use show::{label, send, show_entry, show_write};

struct Replica {
    group: Option<Group>,
    /// What survives a crash.
    disk: Disk,
    /// Writes that are not durable yet.
    writes: VecDeque<(AppendId, GroupWrite)>,
    last_append: AppendId,
    /// Writes up to this one were for a log that a snapshot replaced: a start would leave them out.
    replaced: AppendId,
    /// Messages that wait for a write.
    held: Vec<(AppendId, Envelope)>,
    durable: AppendId,
    /// What was applied last.
    applied: LogId,
    /// Who takes part as of that; none if it was never changed.
    configuration: Option<Configuration>,
    /// The snapshot that it has taken, with its term then.
    taken: Option<(Term, Snapshot)>,
    /// The snapshot that is on its way to it.
    arriving: Option<Snapshot>,
    /// The snapshot that is being installed.
    installing: Option<Snapshot>,
    /// Whether it is one of those that the group began with.
    is_initial: bool,
    /// How often it lost its disk.
    life: u64,
    reported: (Role, Term, LogIndex),
}

#[derive(Default)]
struct Disk(RecoveredGroup);

impl Disk {
    fn last(&self) -> LogId {
        self.0.entries.last().map_or(self.0.floor, |entry| entry.id)
    }

    /// Term of the entry at `index`, if it was not released.
    fn term_at(&self, index: LogIndex) -> Option<Term> {
        let found = self.0.entries.iter().find(|entry| entry.id.index == index);
        found.map(|entry| entry.id.term)
    }

    /// What follows an entry that is replaced goes; what was released meanwhile stays away.
    fn append(&mut self, entries: Vec<Entry>) {
        let floor = self.0.floor.index;
        let new: Vec<_> = entries.into_iter().filter(|entry| entry.id.index > floor).collect();
        if let Some(first) = new.first().map(|entry| entry.id.index) {
            self.0.entries.retain(|entry| entry.id.index < first);
        }
        self.0.entries.extend(new);
    }

    fn release(&mut self, floor: LogId) {
        assert_eq!(self.term_at(floor.index), Some(floor.term), "what is released is there");
        assert!(floor.index <= self.0.applied.index, "and durable without the log");
        self.0.entries.retain(|entry| entry.id.index > floor.index);
        self.0.floor = floor;
    }
}

/// The state of a replica, as far as Raft is concerned.
#[derive(Clone)]
struct Snapshot {
    last: LogId,
    configuration: Option<Configuration>,
}

#[derive(Clone)]
struct Message {
    from: NodeId,
    to: NodeId,
    body: RaftMessage,
}

#[derive(Default)]
struct Script {
    now: Instant,
    replicas: BTreeMap<NodeId, Replica>,
    network: VecDeque<Message>,
    aside: Vec<Message>,
    cut: BTreeSet<NodeId>,
    boot_count: u64,
    limits: Limits,
    slack_bytes: usize,
    has_leases: bool,
    /// Who the group began with.
    initial: BTreeSet<NodeId>,
    /// What was applied anywhere.
    history: BTreeMap<LogIndex, Entry>,
    /// Who led each term.
    leaders: BTreeMap<Term, NodeId>,
    out: String,
}

/// Runs a script and returns it with every effect below the command that caused it.
pub(crate) fn run(script: &str) -> String {
    let mut runner = Script { slack_bytes: usize::MAX, ..Script::default() };
    for line in script.lines() {
        writeln!(runner.out, "{line}").unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        if !line.starts_with('#') && !words.is_empty() {
            runner.command(&words);
        }
    }
    runner.out
}

fn node(word: &str) -> NodeId {
    NodeId(word.parse().unwrap_or_else(|_| panic!("{word:?} is not a node")))
}

/// Whether a message matches `[from n] [to n]`.
fn matches(words: &[&str], message: &Message) -> bool {
    words.windows(2).all(|pair| match pair[0] {
        "from" => message.from == node(pair[1]),
        "to" => message.to == node(pair[1]),
        _ => true,
    })
}

impl Script {
    fn command(&mut self, words: &[&str]) {
        let rest = &words[1..];
        match words[0] {
            "group" => self.start_group(rest[0].parse().unwrap()),
            "leases" => self.has_leases = true,
            "slack" => self.slack_bytes = rest[0].parse().unwrap(),
            "uncommitted" => self.limits.uncommitted_bytes_max = rest[0].parse().unwrap(),
            "node" => self.add_node(node(rest[0]), false),
            "change" => self.change(node(rest[0]), &rest[1..]),
            "transfer" => self.transfer(node(rest[0]), node(rest[1])),
            "snapshot" => self.send_snapshot(node(rest[0]), node(rest[1])),
            "take" => self.take_snapshot(node(rest[0])),
            "offer" => drop(self.offer_snapshot(node(rest[0]), node(rest[1]))),
            "arrive" => self.arrive(node(rest[0])),
            "install" => self.install(node(rest[0])),
            "needs-snapshot" => self.show_needs_snapshot(node(rest[0])),
            "pin" => self.pin(node(rest[0]), rest.get(1).copied()),
            "log" => self.begin_with(node(rest[0]), &rest[1..]),
            "wipe" => self.wipe(node(rest[0])),
            "give-up" => self.give_up(node(rest[0])),
            "configuration" => self.show_configurations(),
            "timeout" => self.timeout(node(rest[0])),
            "tick" => self.now = self.now + Duration::from_millis(rest[0].parse().unwrap()),
            "propose" => self.propose(node(rest[0]), rest[1]),
            "propose-bytes" => self.propose(node(rest[0]), &"x".repeat(rest[1].parse().unwrap())),
            "persist" => rest.iter().for_each(|word| while self.persist_one(node(word)) {}),
            "persist-one" => assert!(self.persist_one(node(rest[0])), "nothing to persist"),
            "deliver" => self.deliver(rest),
            "drop" => self.network.retain(|message| !matches(rest, message)),
            "hold" => {
                let (aside, stay): (Vec<_>, Vec<_>) =
                    self.network.drain(..).partition(|message| matches(rest, message));
                self.network = stay.into();
                self.aside.extend(aside);
            }
            "release" => self.network.extend(self.aside.drain(..)),
            "duplicate" => self.network.clone().into_iter().for_each(|m| self.receive(m)),
            "settle" => self.settle(),
            "cut" => self.cut.extend(rest.iter().map(|word| node(word))),
            "heal" => self.cut.clear(),
            "alive" => self.alive(node(rest[0])),
            "lost" => self.lost(node(rest[0]), node(rest[1])),
            "heartbeat" => self.with(node(rest[0]), |group, now| group.on_heartbeat(now)),
            "read-index" => self.read_index(node(rest[0])),
            "lease" => self.lease(node(rest[0])),
            "crash" => self.crash(node(rest[0])),
            "restart" => self.restart(node(rest[0])),
            "lose" => self.lose(node(rest[0])),
            "flush" => rest.iter().for_each(|word| self.flush(node(word))),
            "forge-append" => self.forge_append(rest),
            "claim-lack" => self.claim_lack(node(rest[0]), node(rest[1]), rest[2]),
            "status" => self.status(),
            other => panic!("unknown command {other:?}"),
        }
    }

    fn role(&self, id: NodeId) -> Role {
        self.replicas[&id].group.as_ref().unwrap().role()
    }

    fn term(&self, id: NodeId) -> Term {
        self.replicas[&id].group.as_ref().unwrap().term()
    }

    fn start_group(&mut self, count: u64) {
        self.initial = (1..=count).map(NodeId).collect();
        for id in self.initial.clone() {
            self.add_node(id, true);
        }
    }

    fn add_node(&mut self, id: NodeId, is_initial: bool) {
        let replica = Replica {
            group: None,
            disk: Disk::default(),
            writes: VecDeque::new(),
            last_append: AppendId(0),
            replaced: AppendId(0),
            held: Vec::new(),
            durable: AppendId(0),
            applied: LogId::default(),
            configuration: None,
            taken: None,
            arriving: None,
            installing: None,
            is_initial,
            life: 0,
            reported: (Role::Follower, Term(0), LogIndex(0)),
        };
        self.replicas.insert(id, replica);
        self.restart(id);
    }

    /// What holds if no entry says anything else.
    fn first_configuration(&self, id: NodeId) -> Configuration {
        match self.replicas[&id].is_initial {
            true => Configuration::initial(self.initial.iter().copied()),
            false => Configuration::default(),
        }
    }

    fn restart(&mut self, id: NodeId) {
        self.boot_count += 1;
        let stored = self.replicas[&id].disk.0.configuration.clone();
        let config = GroupConfig {
            shard: ShardId(1),
            me: id,
            configuration: stored.clone().unwrap_or_else(|| self.first_configuration(id)),
            timings: Timings::default(),
            has_leases: self.has_leases,
            limits: self.limits,
            life: self.replicas[&id].life,
        };
        let rng = Rng::fork(self.boot_count, "script");
        let replica = self.replicas.get_mut(&id).unwrap();
        assert!(replica.group.is_none(), "{id} is running");
        let group = Group::new(config, replica.disk.0.clone(), rng, self.now);
        replica.applied = replica.disk.0.applied;
        replica.configuration = stored;
        (replica.arriving, replica.installing) = (None, None);
        replica.reported = (Role::Follower, group.term(), group.commit_index());
        replica.group = Some(group);
    }

    fn crash(&mut self, id: NodeId) {
        let replica = self.replicas.get_mut(&id).unwrap();
        replica.group = None;
        replica.writes.clear();
        replica.held.clear();
        replica.last_append = replica.durable;
        self.network.retain(|message| message.to != id);
    }

    /// The disk of a crashed node is lost: its next start is another life.
    fn lose(&mut self, id: NodeId) {
        let replica = self.replicas.get_mut(&id).unwrap();
        assert!(replica.group.is_none(), "{id} is running");
        replica.disk = Disk::default();
        replica.life += 1;
    }

    fn timeout(&mut self, id: NodeId) {
        // A follower that heard of its leader only files a later deadline at first.
        for _ in 0..3 {
            let group = self.replicas[&id].group.as_ref().unwrap();
            self.now = self.now.max(group.deadline());
            self.with(id, |group, now| group.on_timeout(now));
            if self.replicas[&id].group.as_ref().unwrap().role() != Role::Follower {
                return;
            }
        }
    }

    fn propose(&mut self, id: NodeId, text: &str) {
        let payload = bytes::Bytes::copy_from_slice(text.as_bytes());
        let mut result = None;
        self.with(id, |group, now| result = Some(group.propose(now, payload)));
        if let Some(Err(error)) = result {
            writeln!(self.out, "    {id} refuses: {error:?}").unwrap();
        }
    }

    fn read_index(&mut self, id: NodeId) {
        let index = self.replicas[&id].group.as_ref().unwrap().read_index();
        let index = index.map_or_else(|| "none".into(), |index| index.to_string());
        writeln!(self.out, "    n{} may serve a read at {index}", id.0).unwrap();
    }

    fn lease(&mut self, id: NodeId) {
        let may_hold = self.replicas[&id].group.as_ref().unwrap().may_hold_lease();
        let verb = if may_hold { "may" } else { "may not" };
        writeln!(self.out, "    n{} {verb} hold a lease", id.0).unwrap();
    }

    fn alive(&mut self, leader: NodeId) {
        let group = self.replicas[&leader].group.as_ref().unwrap();
        assert_eq!(group.role(), Role::Leader, "{leader} leads");
        let term = group.term();
        let others: Vec<_> = self.replicas.keys().copied().filter(|id| *id != leader).collect();
        for other in others {
            let is_up = self.replicas[&other].group.is_some();
            if is_up && self.cut.contains(&leader) == self.cut.contains(&other) {
                self.with(other, |group, now| {
                    group.on_leader_alive(now, leader, term);
                });
                let life = self.replicas[&other].life;
                let group = self.replicas[&other].group.as_ref().unwrap();
                let (is_suspect, has_heard) = (group.is_suspect(), group.has_heard_append());
                self.with(leader, |group, now| match is_suspect {
                    true => group.on_follower_suspect(now, other, life),
                    false => group.on_follower_alive(now, other),
                });
                if !is_suspect && !has_heard {
                    self.with(leader, |group, _| group.on_follower_forgot(other));
                }
            }
        }
    }

    /// The connection from `id` to `peer` broke off.
    fn lost(&mut self, id: NodeId, peer: NodeId) {
        self.with(id, |group, now| {
            group.on_leader_lost(now, peer);
        });
    }

    fn with(&mut self, id: NodeId, change: impl FnOnce(&mut Group, Instant)) {
        let now = self.now;
        if let Some(group) = &mut self.replicas.get_mut(&id).unwrap().group {
            change(group, now);
            self.collect(id);
        }
    }

    /// Prints and queues what the group wants.
    fn collect(&mut self, id: NodeId) {
        let replica = self.replicas.get_mut(&id).unwrap();
        let group = replica.group.as_mut().unwrap();
        let append = AppendId(replica.last_append.0 + 1);
        if let Some(write) = group.take_write(append) {
            writeln!(self.out, "    {} writes {}", label(id, group), show_write(&write)).unwrap();
            replica.last_append = append;
            replica.writes.push_back((append, write));
        }
        for envelope in group.take_messages(self.now) {
            if envelope.after_persist && replica.last_append > replica.durable {
                replica.held.push((replica.last_append, envelope));
            } else {
                self.network.push_back(send(&mut self.out, id, group, envelope));
            }
        }
        for (from, what) in group.take_contradictions() {
            writeln!(self.out, "    {} is contradicted by {from}: {what}", label(id, group))
                .unwrap();
        }
        let state = (group.role(), group.term(), group.commit_index());
        if (state.0, state.1) != (replica.reported.0, replica.reported.1) {
            writeln!(self.out, "    {} is {}", label(id, group), state.0).unwrap();
        }
        if state.0 == Role::Leader {
            let first = *self.leaders.entry(state.1).or_insert(id);
            assert_eq!(first, id, "one leader in term {}", state.1);
        }
        if state.2 != replica.reported.2 {
            writeln!(self.out, "    {} commits {}", label(id, group), group.committed()).unwrap();
        }
        replica.reported = state;
        for entry in group.take_committed(usize::MAX) {
            writeln!(self.out, "    {} applies {}", label(id, group), show_entry(&entry)).unwrap();
            assert_eq!(entry.id.index, replica.applied.index.next(), "{id} applies without a gap");
            replica.applied = entry.id;
            if let Some(configuration) = configuration_in(&entry.payload) {
                replica.configuration = Some(configuration);
            }
            let first = self.history.entry(entry.id.index).or_insert_with(|| entry.clone());
            assert_eq!(*first, entry, "{id} applies what the others do");
        }
        let (held_by_all, voters) = (group.held_by_all(), group.configuration().clone());
        self.check_held(held_by_all, &voters);
    }

    fn persist_one(&mut self, id: NodeId) -> bool {
        let replica = self.replicas.get_mut(&id).unwrap();
        let Some((append, write)) = replica.writes.pop_front() else {
            return false;
        };
        let last = write.entries.last().map(|entry| entry.id);
        if append > replica.replaced {
            replica.disk.append(write.entries);
        }
        replica.disk.0.hard_state = write.hard_state.unwrap_or(replica.disk.0.hard_state);
        replica.durable = append;
        let group = replica.group.as_mut().unwrap();
        if let Some(last) = last {
            group.on_appended(self.now, append, last);
        }
        let held = std::mem::take(&mut replica.held);
        let (free, held) = held.into_iter().partition(|(needs, _)| *needs <= append);
        replica.held = held;
        for (_, envelope) in free {
            self.network.push_back(send(&mut self.out, id, group, envelope));
        }
        self.collect(id);
        true
    }

    /// The applied state of `id` is durable without the log.
    fn flush(&mut self, id: NodeId) {
        let replica = self.replicas.get_mut(&id).unwrap();
        replica.disk.0.applied = replica.applied;
        replica.disk.0.configuration = replica.configuration.clone();
        let group = replica.group.as_mut().unwrap();
        if let Some(floor) = group.release(replica.applied.index, self.slack_bytes) {
            writeln!(self.out, "    {} releases up to {floor}", label(id, group)).unwrap();
            replica.disk.release(floor);
        }
    }

    /// Every voter durably holds the log up to `index`, and the same one. Who became a voter later
    /// may not, nor may who lost its disk and was not repaired.
    fn check_held(&self, index: LogIndex, configuration: &Configuration) {
        if configuration.epoch > Epoch(1) {
            return;
        }
        let voters = |(id, replica): &(&NodeId, &Replica)| {
            configuration.is_voter(**id) && !replica.disk.0.hard_state.is_suspect(replica.life)
        };
        for (id, replica) in self.replicas.iter().filter(voters) {
            let held = replica.disk.last().index;
            assert!(held >= index, "{id} durably holds {held}, {index} is said to be held by all");
        }
        let voters = self.replicas.iter().filter(voters);
        let terms: BTreeSet<_> =
            voters.filter_map(|(_, replica)| replica.disk.term_at(index)).collect();
        assert!(terms.len() <= 1, "replicas differ at {index}: {terms:?}");
    }

    fn deliver(&mut self, words: &[&str]) {
        let (mut now, later): (Vec<_>, Vec<_>) =
            self.network.drain(..).partition(|message| matches(words, message));
        self.network = later.into();
        if words.contains(&"last") {
            let last = now.pop();
            self.network.extend(now.drain(..));
            now.extend(last);
        }
        for message in now {
            self.receive(message);
        }
    }

    fn receive(&mut self, message: Message) {
        let is_cut = self.cut.contains(&message.from) != self.cut.contains(&message.to);
        if !is_cut {
            self.with(message.to, |group, now| group.on_message(now, message.from, message.body));
        }
    }

    fn settle(&mut self) {
        for _ in 0..1_000 {
            let ids: Vec<_> = self.replicas.keys().copied().collect();
            let mut is_quiet = self.network.is_empty();
            for id in ids {
                while self.persist_one(id) {
                    is_quiet = false;
                }
            }
            if is_quiet {
                return;
            }
            self.deliver(&[]);
        }
        panic!("the group does not settle");
    }

    fn status(&mut self) {
        for (id, replica) in &self.replicas {
            let Some(group) = &replica.group else {
                writeln!(self.out, "    n{} is down", id.0).unwrap();
                continue;
            };
            let leader = group.leader().map_or_else(|| "none".into(), |leader| leader.to_string());
            writeln!(
                self.out,
                "    {} {}, leader {leader}, last {}, commit {}, durable {}",
                label(*id, group),
                group.role(),
                group.last(),
                group.commit_index(),
                group.persisted_index(),
            )
            .unwrap();
        }
    }
}
