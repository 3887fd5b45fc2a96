//! The meta group's machine: members come and go, and shards move, in random histories.
//!
//! A tiny executor stands for the shards' leaders. Each has a map of its own that may be old, takes
//! its shard one step further where the rules of [`kv_core::cluster`] let it, and its reports arrive
//! late, more than once and out of order.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use kv_core::cluster::{
    ClusterMap, ClusterRecord, MEMBERS_MAX, Member, MemberState, MetaError, REMOVED_MAX, ShardEntry,
};
use kv_core::id::{Address, ClusterId, Epoch, Incarnation, NodeId, ShardId, Timestamp};
use kv_core::machine::plan::{Change, MOVES_MAX, Move, plan};
use kv_core::machine::{Command, Machine, MetaCommand, Newest, ReadView};
use kv_core::op::Key;
use kv_core::raft::Configuration;
use kv_core::storage::{Entry, Outcome};
use proptest::prelude::*;

struct Nothing;

impl ReadView for Nothing {
    type Error = Infallible;

    fn newest(&self, _: &Key, _: Timestamp) -> Result<Option<Newest>, Infallible> {
        Ok(None)
    }
}

fn apply(machine: &mut Machine, command: Command) -> Outcome {
    let mut id = machine.applied();
    id.index = id.index.next();
    let entry = Entry { id, payload: command.encode().into() };
    let Ok((batch, outcome)) = machine.apply(&Nothing, &entry);
    assert!(batch.writes.is_empty(), "the meta group stores no keys");
    outcome
}

/// Incarnation of the member `id` of the formation.
fn formed(id: u64) -> Incarnation {
    Incarnation(id)
}

fn record(nodes: u64, shard_count: u32, replica_count: u32) -> ClusterRecord {
    let member = |id| Member {
        id: NodeId(id),
        incarnation: formed(id),
        address: Address(format!("n{id}")),
        state: MemberState::Active,
    };
    let members = (1..=nodes).map(member).collect();
    ClusterRecord { id: ClusterId(1), members, shard_count, replica_count }
}

/// The meta group, the shards' own configurations, and what is on its way between them.
#[derive(Clone)]
struct World {
    machine: Machine,
    log: Vec<MetaCommand>,
    /// Every map that ever was.
    maps: Vec<ClusterMap>,
    /// What holds in each shard.
    actual: BTreeMap<ShardId, Configuration>,
    /// Everything that was ever committed in a shard: reports may be delivered again.
    reports: Vec<(ShardId, Configuration)>,
    /// Nodes that catch up with nothing.
    down: BTreeSet<NodeId>,
    /// Ids that were ever given, with their incarnation.
    given: BTreeMap<NodeId, Incarnation>,
    joined: u64,
}

impl World {
    fn new(nodes: u64, shard_count: u32, replica_count: u32) -> Self {
        let record = record(nodes, shard_count, replica_count);
        let given = record.members.iter().map(|member| (member.id, member.incarnation)).collect();
        let mut world = Self {
            machine: Machine::new(),
            log: Vec::new(),
            maps: Vec::new(),
            actual: BTreeMap::new(),
            reports: Vec::new(),
            down: BTreeSet::new(),
            given,
            joined: 0,
        };
        world.command(MetaCommand::Bootstrap { record });
        let entries = world.map().shards.clone();
        let initial = |nodes: Vec<NodeId>| Configuration::initial(nodes);
        world.actual =
            entries.into_iter().map(|entry| (entry.shard, initial(entry.voters))).collect();
        world
    }

    fn map(&self) -> &ClusterMap {
        self.machine.map().expect("it is formed")
    }

    fn active(&self) -> BTreeSet<NodeId> {
        self.map().active().collect()
    }

    fn command(&mut self, command: MetaCommand) -> Outcome {
        let before = self.machine.map().cloned();
        let outcome = apply(&mut self.machine, Command::Meta(command.clone()));
        self.log.push(command);
        self.check(before.as_ref());
        if self.maps.last() != Some(self.map()) {
            self.maps.push(self.map().clone());
        }
        outcome
    }

    fn add(&mut self) -> NodeId {
        self.joined += 1;
        let incarnation = Incarnation(1_000 + self.joined);
        let address = Address(format!("joined {}", self.joined));
        let outcome = self.command(MetaCommand::AddMember { incarnation, address });
        let Outcome::MemberAdded { id, .. } = outcome else {
            panic!("a new node joins: {outcome:?}");
        };
        let before = self.given.insert(id, incarnation);
        assert_eq!(before, None, "rule c54: an id is given once");
        id
    }

    /// What must hold after every command.
    fn check(&self, before: Option<&ClusterMap>) {
        let map = self.map();
        let index = self.machine.applied().index;
        match before {
            Some(before) if before == map => {}
            Some(before) => {
                assert!(before.version < map.version, "the version grows with each change");
                assert_eq!(map.version, index, "it is the index of the entry");
            }
            None => assert_eq!(map.version, index, "the first map has a version, too"),
        }
        let targets = map.shards.iter().filter(|entry| entry.target.is_some()).count();
        assert!(targets <= MOVES_MAX, "{targets} shards move at a time");
        for member in &map.members {
            assert!(member.id < map.next_node);
            let is_named = map.shards.iter().any(|entry| entry.names(member.id));
            let is_leaving = member.state == MemberState::Leaving;
            assert!(is_named || !is_leaving, "{} leaves and nothing names it", member.id);
        }
        for removed in &map.removed {
            assert!(map.member(removed.id).is_none());
            assert!(!map.shards.iter().any(|entry| entry.names(removed.id)), "{}", removed.id);
        }
        for entry in &map.shards {
            assert!(entry.goal.iter().all(|node| map.is_active(*node)), "goals are on who stays");
            assert!(entry.leader.is_some_and(|leader| entry.voters.contains(&leader)));
            let stale = entry.target.iter().flatten().any(|node| !map.is_active(*node));
            assert!(entry.is_joint() || !stale, "a target on who leaves is withdrawn");
        }
        for (shard, configuration) in &self.actual {
            for node in configuration.members() {
                assert!(map.member(node).is_some(), "{node} was dropped, and is in {shard}");
            }
        }
    }

    /// The leader of `shard`, which knows the map `seen`, takes one step if it may.
    fn step(&mut self, shard: ShardId, seen: &ClusterMap) -> bool {
        let configuration = &self.actual[&shard];
        let entry = seen.entry(shard).expect("all shards are in all maps");
        let next = if configuration.is_joint() {
            configuration.left()
        } else if let Some(target) = &entry.target
            && entry.epoch == configuration.epoch
        {
            let voters: BTreeSet<_> = target.iter().copied().collect();
            let newcomers: BTreeSet<_> = &voters - &configuration.voters;
            if voters == configuration.voters && configuration.learners.is_empty() {
                let epoch = Epoch(configuration.epoch.0 + 1);
                Ok(Configuration { epoch, ..configuration.clone() })
            } else if newcomers != configuration.learners && !newcomers.is_empty() {
                configuration.changed(configuration.voters.clone(), newcomers)
            } else if newcomers.is_disjoint(&self.down) {
                configuration.changed(voters, BTreeSet::new())
            } else {
                return false;
            }
        } else {
            return false;
        };
        let next = next.expect("the step is one that Raft takes");
        self.reports.push((shard, next.clone()));
        self.actual.insert(shard, next);
        true
    }

    fn report(&mut self, at: usize) {
        let (shard, configuration) = self.reports[at].clone();
        let is_new = self.map().entry(shard).is_some_and(|entry| entry.epoch < configuration.epoch);
        let before = self.map().clone();
        self.command(MetaCommand::Placed { shard, configuration });
        assert_eq!(*self.map() != before, is_new, "a report counts once, and only if it is new");
    }

    /// Every leader knows the newest map and reports what it has, until nothing moves.
    fn finish(&mut self) {
        for _ in 0..100 * self.actual.len() {
            let shards: Vec<_> = self.actual.keys().copied().collect();
            let seen = self.map().clone();
            let mut is_moving = false;
            for shard in shards {
                is_moving |= self.step(shard, &seen);
                let configuration = self.actual[&shard].clone();
                if self.map().entry(shard).is_some_and(|entry| entry.epoch < configuration.epoch) {
                    self.command(MetaCommand::Placed { shard, configuration });
                    is_moving = true;
                }
            }
            if !is_moving {
                return self.check_finished();
            }
        }
        panic!("the plan does not end: {:#?}", self.map());
    }

    fn check_finished(&self) {
        let map = self.map();
        assert!(!map.is_moving(), "nothing is left to move: {map:#?}");
        let active = self.active();
        assert_eq!(map.members.len(), active.len(), "who leaves has left");
        let replicas = (map.replica_count as usize).min(active.len());
        let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
        for entry in &map.shards {
            assert_eq!((entry.target.as_ref(), entry.withdrawn.len()), (None, 0));
            let voters: BTreeSet<_> = entry.voters.iter().copied().collect();
            assert_eq!(voters.len(), replicas, "{}", entry.shard);
            assert!(voters.is_subset(&active), "{}", entry.shard);
            let actual = &self.actual[&entry.shard];
            assert_eq!((&voters, entry.epoch), (&actual.voters, actual.epoch));
            for voter in voters.into_iter().filter(|_| entry.shard != ShardId::META) {
                *load.entry(voter).or_default() += 1;
            }
        }
        let bound = (5 * map.shard_count() as usize * replicas).div_ceil(4 * active.len());
        assert!(load.values().all(|load| *load <= bound), "{load:?} exceeds {bound}");
    }

    fn act(&mut self, action: Action) {
        let members: Vec<_> = self.map().members.iter().map(|member| member.id).collect();
        match action {
            Action::Add if members.len() < 9 => drop(self.add()),
            Action::Add => {}
            Action::AddAgain { at } => {
                let (id, incarnation) =
                    *at.get(&self.given.clone().into_iter().collect::<Vec<_>>());
                let before = self.map().clone();
                let address = Address("elsewhere".into());
                let outcome = self.command(MetaCommand::AddMember { incarnation, address });
                assert_eq!(*self.map(), before, "a copy changes nothing");
                match outcome {
                    Outcome::MemberAdded { id: again, .. } => assert_eq!(again, id),
                    refused => {
                        let error = MetaError::RemovedMember { id };
                        assert_eq!(refused, Outcome::MetaRefused(error));
                    }
                }
            }
            Action::Remove { at } => {
                self.command(MetaCommand::RemoveMember { id: *at.get(&members) });
            }
            Action::Replace { old, new } => {
                let (old, new) = (*old.get(&members), *new.get(&members));
                self.command(MetaCommand::ReplaceMember { old, new });
            }
            Action::Down { at } => {
                self.down.insert(*at.get(&members));
            }
            Action::Step { shard, map } => {
                let shards: Vec<_> = self.actual.keys().copied().collect();
                // Mostly a recent map; any older one may be seen, too.
                let seen = self.maps[self.maps.len() - 1 - map.index(self.maps.len())].clone();
                self.step(*shard.get(&shards), &seen);
            }
            Action::Work => {
                let seen = self.map().clone();
                for shard in self.actual.keys().copied().collect::<Vec<_>>() {
                    self.step(shard, &seen);
                }
            }
            Action::Report { at } if !self.reports.is_empty() => {
                self.report(at.index(self.reports.len()));
            }
            Action::ReportLast if !self.reports.is_empty() => self.report(self.reports.len() - 1),
            Action::Report { .. } | Action::ReportLast => {}
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Add,
    AddAgain { at: prop::sample::Index },
    Remove { at: prop::sample::Index },
    Replace { old: prop::sample::Index, new: prop::sample::Index },
    Down { at: prop::sample::Index },
    Step { shard: prop::sample::Index, map: prop::sample::Index },
    Work,
    Report { at: prop::sample::Index },
    ReportLast,
}

fn action() -> impl Strategy<Value = Action> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => Just(Action::Add),
        1 => index().prop_map(|at| Action::AddAgain { at }),
        3 => index().prop_map(|at| Action::Remove { at }),
        2 => (index(), index()).prop_map(|(old, new)| Action::Replace { old, new }),
        1 => index().prop_map(|at| Action::Down { at }),
        12 => (index(), index()).prop_map(|(shard, map)| Action::Step { shard, map }),
        4 => Just(Action::Work),
        12 => index().prop_map(|at| Action::Report { at }),
        6 => Just(Action::ReportLast),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happens, the invariants of `World::check` hold, every plan ends, and nobody who may
    /// still take part in a shard is dropped (rule c54 on ids is checked where they are given).
    #[test]
    fn rule_c54_random_histories_of_members_end_well(
        (nodes, replica_count) in (1_u64..=5).prop_flat_map(|nodes| {
            (Just(nodes), (0..nodes.div_ceil(2)).prop_map(|half| 2 * u32::try_from(half).unwrap() + 1))
        }),
        shards in 0_u32..4,
        actions in proptest::collection::vec(action(), 0..120),
    ) {
        let mut world = World::new(nodes, 1 << shards, replica_count);
        for action in actions {
            world.act(action);
        }
        // Who is down is removed, or gets up if it is the last.
        for id in std::mem::take(&mut world.down) {
            world.down.insert(id);
            if let Outcome::MetaRefused(MetaError::LastMember { .. }) =
                world.command(MetaCommand::RemoveMember { id })
            {
                world.down.remove(&id);
            }
        }
        world.finish();
        world.check_rule_b34();
    }
}

impl World {
    /// Equal logs make equal maps, also when the machine was stored halfway.
    fn check_rule_b34(&self) {
        let mut again = Machine::new();
        for (at, command) in self.log.iter().enumerate() {
            if at == self.log.len() / 2 {
                again = Machine::decode(&again.encode()).expect("it was encoded");
            }
            apply(&mut again, Command::Meta(command.clone()));
        }
        assert_eq!(again.state_hash(), self.machine.state_hash(), "rule b34");
        assert_eq!(again, self.machine, "rule b34");
    }
}

fn refused(outcome: Outcome) -> MetaError {
    match outcome {
        Outcome::MetaRefused(error) => error,
        other => panic!("it was not refused: {other:?}"),
    }
}

fn remove(id: u64) -> MetaCommand {
    MetaCommand::RemoveMember { id: NodeId(id) }
}

fn replace(old: u64, new: u64) -> MetaCommand {
    MetaCommand::ReplaceMember { old: NodeId(old), new: NodeId(new) }
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason_and_changes_nothing() {
    let mut empty = Machine::new();
    let before_all = apply(&mut empty, Command::Meta(remove(1)));
    assert_eq!(refused(before_all), MetaError::NotFormed);

    let mut world = World::new(3, 4, 3);
    world.command(remove(3));
    world.finish();
    let id = NodeId;
    let newcomer = MetaCommand::AddMember { incarnation: formed(3), address: Address("n3".into()) };
    for (command, error) in [
        (remove(9), MetaError::UnknownMember { id: id(9) }),
        (remove(3), MetaError::RemovedMember { id: id(3) }),
        (newcomer, MetaError::RemovedMember { id: id(3) }),
        (replace(1, 9), MetaError::UnknownMember { id: id(9) }),
        (replace(1, 3), MetaError::RemovedMember { id: id(3) }),
        (replace(1, 1), MetaError::SameMember { id: id(1) }),
    ] {
        let before = world.map().clone();
        assert_eq!(refused(world.command(command)), error);
        assert_eq!(*world.map(), before);
    }
    world.command(remove(2));
    assert_eq!(refused(world.command(remove(1))), MetaError::LastMember { id: id(1) });
    assert_eq!(refused(world.command(replace(1, 2))), MetaError::LeavingMember { id: id(2) });
    let before = world.map().clone();
    assert_eq!(world.command(remove(2)), Outcome::MapChanged(before), "it leaves already");
}

#[test]
fn rule_c54_the_largest_id_is_not_given_twice() {
    let mut record = record(1, 1, 1);
    record.members[0].id = NodeId(u64::MAX - 1);
    let mut machine = Machine::new();
    apply(&mut machine, Command::Meta(MetaCommand::Bootstrap { record }));
    let address = Address("late".into());
    let add = MetaCommand::AddMember { incarnation: Incarnation(5), address };
    assert_eq!(refused(apply(&mut machine, Command::Meta(add))), MetaError::IdsExhausted);
}

#[test]
fn members_and_what_is_remembered_of_removed_ones_are_bounded() {
    let mut world = World::new(1, 1, 1);
    for _ in 1..MEMBERS_MAX {
        world.add();
    }
    let address = Address("late".into());
    let add = MetaCommand::AddMember { incarnation: Incarnation(5), address };
    assert_eq!(refused(world.command(add)), MetaError::TooManyMembers);

    let mut world = World::new(1, 1, 1);
    let last = REMOVED_MAX as u64 + 5;
    for _ in 0..last {
        let id = world.add();
        world.command(MetaCommand::RemoveMember { id });
        world.finish();
    }
    let removed: Vec<_> = world.map().removed.iter().map(|removed| removed.id.0).collect();
    assert_eq!(removed, (7..=last + 1).collect::<Vec<_>>(), "the oldest are forgotten first");
}

/// What `plan` says is what happens when the change is made and nothing else does.
#[track_caller]
fn check_plan(world: &World, change: Change) -> Vec<Move> {
    let moves = plan(world.map(), change).expect("it is possible");
    let mut changed = world.clone();
    match change {
        Change::Add => drop(changed.add()),
        Change::Remove { id } => drop(changed.command(MetaCommand::RemoveMember { id })),
        Change::Replace { old, new } => {
            drop(changed.command(MetaCommand::ReplaceMember { old, new }));
        }
    }
    changed.finish();
    for (before, after) in world.map().shards.iter().zip(&changed.map().shards) {
        let planned = moves.iter().find(|step| step.shard == before.shard);
        let to = planned.map_or(&before.voters, |step| &step.to);
        assert_eq!(*to, after.voters, "{}", before.shard);
    }
    moves
}

#[test]
fn plan_is_what_happens() {
    let world = World::new(5, 16, 3);
    check_plan(&world, Change::Add);
    check_plan(&world, Change::Remove { id: NodeId(2) });
    check_plan(&world, Change::Replace { old: NodeId(1), new: NodeId(4) });
    let unknown = Change::Remove { id: NodeId(9) };
    assert_eq!(plan(world.map(), unknown), Err(MetaError::UnknownMember { id: NodeId(9) }));
    let unmoved = check_plan(&World::new(1, 1, 1), Change::Add);
    assert!(unmoved.len() <= 1, "{unmoved:?}");
}

/// A node that is added only to replace another one gets that one's replicas, and what it was to get
/// by itself is forgotten but for the moves that have begun.
#[test]
fn replacing_by_a_node_that_has_just_joined_moves_little_more_than_one_node() {
    for (nodes, shard_count) in [(3, 16), (5, 64), (9, 256)] {
        let mut world = World::new(nodes, shard_count, 3);
        let old = NodeId(2);
        let held = |entry: &&ShardEntry| entry.voters.contains(&old);
        let held = world.map().shards.iter().filter(held).count();
        let new = world.add();
        let moves = check_plan(&world, Change::Replace { old, new });
        let copies: usize = moves.iter().map(|step| step.added().count()).sum();
        assert!((held..=held + MOVES_MAX).contains(&copies), "{copies} copies for {held}");
        assert!(moves.iter().all(|step| !step.to.contains(&old)));

        world.command(MetaCommand::ReplaceMember { old, new });
        world.finish();
        assert_eq!(world.map().member(old), None);
        assert!(world.map().is_removed(old), "it can be told so");
    }
}

/// Where the bound on the load allows it, exactly the replicas of the old node are moved.
#[test]
fn new_node_takes_over_every_replica_of_the_one_it_replaces() {
    let mut world = World::new(3, 16, 3);
    let (old, new) = (NodeId(2), world.add());
    for step in check_plan(&world, Change::Replace { old, new }) {
        let added: Vec<_> = step.added().collect();
        let removed: Vec<_> = step.removed().collect();
        assert_eq!((added, removed), (vec![new], vec![old]), "{}", step.shard);
    }
}

#[test]
fn rule_c56_shards_shrink_with_the_cluster_and_grow_again() {
    let mut world = World::new(3, 4, 3);
    let sizes = |world: &World| -> BTreeSet<usize> {
        world.map().shards.iter().map(|entry| entry.voters.len()).collect()
    };
    for (gone, left) in [(1, 2), (3, 1)] {
        world.command(remove(gone));
        world.finish();
        assert_eq!(sizes(&world), BTreeSet::from([left]));
    }
    for grown in [2, 3, 3] {
        world.add();
        world.finish();
        assert_eq!(sizes(&world), BTreeSet::from([grown]), "never above what it was formed with");
    }
}

#[test]
fn meta_group_moves_first_then_who_is_short_of_replicas() {
    let mut world = World::new(2, 8, 1);
    world.add();
    let moving = |world: &World| -> Vec<ShardId> {
        let targeted = world.map().shards.iter().filter(|entry| entry.target.is_some());
        targeted.map(|entry| entry.shard).collect()
    };
    let balancing = moving(&world);
    assert!(!balancing.is_empty() && balancing.len() < MOVES_MAX, "{balancing:?}");
    let home = world.map().shards[0].voters[0];
    world.command(MetaCommand::RemoveMember { id: home });
    let targets = moving(&world);
    assert_eq!((targets[0], targets.len()), (ShardId::META, MOVES_MAX));
    for shard in targets.iter().skip(1).filter(|shard| !balancing.contains(shard)) {
        let entry = world.map().entry(*shard).expect("it exists");
        assert!(entry.voters.contains(&home), "{shard} could wait");
    }
}
