//! Random schedules.

use kv_core::id::{LogIndex, NodeId};
use kv_core::raft::Role;
use kv_core::rng::Rng;

use super::Script;

/// Runs `count` random commands for some replicas, then lets them come to rest, and checks that all
/// members end up with the same log. While it runs, [`Script::collect`] checks that a term has one
/// leader and that all apply the same.
pub(crate) fn run_random(seed: u64, count: usize) {
    let mut rng = Rng::fork(seed, "schedule");
    let mut runner = Script::default();
    runner.say(&format!("slack {}", 1 + rng.below(8)));
    runner.say(if rng.below(3) == 0 { "group 5" } else { "group 3" });
    let changes = rng.below(2) == 0;
    if changes {
        let next = runner.replicas.len() as u64 + 1;
        (next..next + 2).for_each(|id| runner.say(&format!("node {id}")));
    }
    for _ in 0..count {
        if let Some(line) = runner.random_command(&mut rng, changes) {
            runner.say(&line);
        }
    }
    runner.come_to_rest();
}

impl Script {
    /// Carries out one command and prints it with its effects, for whoever looks for what went
    /// wrong.
    pub(super) fn say(&mut self, line: &str) {
        println!("{line}");
        let before = self.out.len();
        self.command(&line.split_whitespace().collect::<Vec<_>>());
        print!("{}", &self.out[before..]);
    }

    /// A command that can be carried out.
    fn random_command(&self, rng: &mut Rng, changes: bool) -> Option<String> {
        let id = NodeId(1 + rng.below(self.replicas.len() as u64));
        let replica = &self.replicas[&id];
        let n = id.0;
        let Some(group) = &replica.group else {
            return (rng.below(3) == 0).then(|| format!("restart {n}"));
        };
        let leads = group.role() == Role::Leader;
        let other = 1 + rng.below(self.replicas.len() as u64);
        Some(match rng.below(if changes { 34 } else { 30 }) {
            0 => format!("timeout {n}"),
            1 => format!("tick {}", 50 + rng.below(400)),
            2..=5 if leads => format!("propose {n} x"),
            6 if leads => format!("alive {n}"),
            7..=8 if leads => format!("heartbeat {n}"),
            9..=12 if !replica.writes.is_empty() => format!("persist-one {n}"),
            13..=16 => format!("deliver to {n}"),
            17 => "deliver".into(),
            18 => format!("deliver to {n} last"),
            19 => "duplicate".into(),
            20 => format!("drop to {n}"),
            21 => format!("hold from {n}"),
            22 => "release".into(),
            23..=24 => format!("flush {n}"),
            25 if rng.below(3) == 0 => format!("crash {n}"),
            26 if self.cut.is_empty() => format!("cut {n}"),
            27 => "heal".into(),
            28 if leads => format!("snapshot {n} {other}"),
            28 if replica.installing.is_some() => format!("install {n}"),
            29 if leads && other != n && rng.below(4) == 0 => format!("transfer {n} {other}"),
            30..=33 if leads => self.random_change(id, rng),
            _ => return None,
        })
    }

    /// A change to other voters, or of who learns.
    fn random_change(&self, leader: NodeId, rng: &mut Rng) -> String {
        let holds = self.replicas[&leader].group.as_ref().unwrap().configuration();
        let mut voters = Vec::new();
        let mut learners = Vec::new();
        for id in self.replicas.keys() {
            let is_voter = holds.voters.contains(id);
            let is_learner = holds.learners.contains(id);
            match rng.below(6) {
                0 if is_voter => {}
                _ if is_voter => voters.push(id.0.to_string()),
                0..=2 if is_learner => voters.push(id.0.to_string()),
                3 | 4 => learners.push(id.0.to_string()),
                _ => {}
            }
        }
        format!("change {} voters {} learners {}", leader.0, voters.join(" "), learners.join(" "))
    }

    fn come_to_rest(&mut self) {
        self.say("release");
        self.say("heal");
        let ids: Vec<_> = self.replicas.keys().copied().collect();
        for id in &ids {
            if self.replicas[id].group.is_none() {
                self.say(&format!("restart {}", id.0));
            }
        }
        let leader_of = |script: &Self| {
            let leads = |id: &&NodeId| script.role(**id) == Role::Leader;
            ids.iter().filter(leads).max_by_key(|id| script.term(**id)).copied()
        };
        for round in 0..60 {
            self.say("settle");
            let Some(leader) = leader_of(self) else {
                self.say("tick 2000");
                self.say(&format!("timeout {}", ids[round % ids.len()].0));
                continue;
            };
            for line in ["alive", "heartbeat"].map(|word| format!("{word} {}", leader.0)) {
                self.say(&line);
            }
            self.bring_snapshots(leader);
            self.say("tick 300");
        }
        self.say("settle");
        let leader = leader_of(self).expect("somebody leads");
        let group = self.replicas[&leader].group.as_ref().unwrap();
        let configuration = group.configuration().clone();
        assert!(!configuration.is_joint(), "{configuration} is left");
        let expected = (group.last(), group.commit_index(), group.last());
        assert!(expected.0.index > LogIndex(0), "somebody was elected");
        for id in configuration.members() {
            self.say(&format!("flush {}", id.0));
            let replica = &self.replicas[&id];
            let group = replica.group.as_ref().unwrap();
            let state = (group.last(), group.commit_index(), replica.disk.last());
            assert_eq!(state, expected, "{id} of {configuration}");
            assert_eq!(*group.configuration(), configuration, "{id}");
        }
    }

    /// Whoever needs a snapshot of the leader gets it.
    fn bring_snapshots(&mut self, leader: NodeId) {
        let group = self.replicas[&leader].group.as_ref().unwrap();
        for to in group.needs_snapshot(self.now) {
            self.say(&format!("snapshot {} {}", leader.0, to.0));
        }
        let installing = |id: &NodeId| self.replicas[id].installing.is_some();
        let installing: Vec<_> = self.replicas.keys().copied().filter(installing).collect();
        for id in installing {
            self.say(&format!("install {}", id.0));
        }
    }
}
