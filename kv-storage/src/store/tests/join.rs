//! What would go wrong: a node that goes on from a log that is not the one it applied, or that
//! takes what the disk has lost for a log that is merely short.

use kv_core::id::{LogIndex, Term};
use kv_core::machine::Command;
use kv_core::storage::{HardState, RecoveredGroup};

use super::*;
use crate::log::LogGroup;
use crate::mutants::Mutants;
use crate::store::recovered::{Held, Joined, join};

const SHARD: ShardId = ShardId(1);

/// `7@3` is index 7 of term 3.
fn id(text: &str) -> LogId {
    let (index, term) = text.split_once('@').unwrap();
    LogId::new(term.parse().unwrap(), index.parse().unwrap())
}

fn entry(id: LogId) -> Entry {
    Entry { id, payload: Command::Noop.encode().into() }
}

/// A log as `floor: entries`.
fn log_of(text: &str, commit: u64) -> LogGroup {
    let (floor, entries) = text.split_once(':').unwrap();
    let hard_state = HardState {
        term: Term(9),
        vote: None,
        commit: LogIndex(commit),
        life: 0,
        quarantine: 0,
        forgotten: LogId::default(),
    };
    let entries = entries.split_whitespace().map(|text| entry(id(text))).collect();
    LogGroup { hard_state, floor: id(floor), entries }
}

/// The log of a group in the same form.
fn shown(group: &RecoveredGroup) -> String {
    let entry = |id: LogId| format!(" {}@{}", id.index.0, id.term.0);
    let entries = group.entries.iter().map(|found| entry(found.id));
    let floor = entry(group.floor);
    format!("{}:{}", floor.trim_start(), entries.collect::<String>())
}

fn join_one(log: Option<LogGroup>, applied: &str) -> Result<Joined, StorageDamage> {
    let logs = log.into_iter().map(|log| (SHARD, log)).collect();
    let held = Held { applied: id(applied), ..Held::default() };
    let held = [(SHARD, held)].into_iter().filter(|(_, held)| *held != Held::default());
    join(logs, &held.collect(), Mutants::NONE)
}

#[track_caller]
fn goes_on(log: &str, commit: u64, applied: &str, expected_commit: u64) {
    let joined = join_one(Some(log_of(log, commit)), applied).unwrap();
    let group = &joined.groups[&SHARD];
    assert_eq!((shown(group).as_str(), group.applied), (log, id(applied)));
    assert_eq!(group.hard_state.commit, LogIndex(expected_commit));
    assert!(joined.resets.is_empty());
}

#[test]
fn log_goes_on_from_what_is_applied() {
    goes_on("0@0:", 0, "0@0", 0);
    goes_on("0@0: 1@1 2@1", 0, "0@0", 0);
    goes_on("0@0: 1@1 2@1", 2, "1@1", 2);
    goes_on("0@0: 1@1 2@2", 0, "2@2", 2);
    goes_on("5@2:", 0, "5@2", 5);
    goes_on("5@2: 6@2 7@3", 5, "5@2", 5);
    goes_on("5@2: 6@2 7@3", 5, "6@2", 6);
    goes_on("5@2: 6@2 7@3", 9, "7@3", 7);
}

#[test]
fn rule_b38_log_of_another_history_is_given_up() {
    for (log, applied) in [
        ("0@0: 1@1 2@1 3@1", "2@2"),
        ("0@0: 1@1 2@1", "2@2"),
        ("5@2: 6@2 7@2", "6@3"),
        ("5@2: 6@2 7@3", "7@2"),
    ] {
        let joined = join_one(Some(log_of(log, 1)), applied).unwrap();
        let group = &joined.groups[&SHARD];
        assert_eq!(shown(group), format!("{applied}:"), "{log}");
        assert_eq!(group.hard_state.commit, id(applied).index);
        assert_eq!(group.hard_state.term, Term(9), "votes are kept");
        assert_eq!(joined.resets, [(SHARD, id(applied))].into());
    }
}

#[track_caller]
fn is_damage(log: Option<&str>, applied: &str, file: &str, what: &str) {
    let damage = join_one(log.map(|log| log_of(log, 0)), applied).unwrap_err();
    assert_eq!((&damage.file[..], damage.what.contains(what)), (file, true), "{damage}");
}

#[test]
fn log_that_ends_before_what_is_applied_is_damage() {
    is_damage(Some("0@0:"), "1@1", "wal-*.log", "ends at 0@0");
    is_damage(Some("0@0: 1@1 2@1"), "3@1", "wal-*.log", "ends at 2@1");
    is_damage(Some("5@1: 6@1"), "9@1", "wal-*.log", "ends at 6@1");
    is_damage(None, "1@1", "wal-*.log", "ends at 0@0");
}

#[test]
fn tree_behind_or_beside_the_floor_is_damage() {
    is_damage(Some("5@1: 6@1"), "0@0", "tree", "begins behind 5@1");
    is_damage(Some("5@1: 6@1"), "4@1", "tree", "begins behind 5@1");
    is_damage(Some("5@1:"), "4@1", "tree", "begins behind 5@1");
    is_damage(Some("5@2: 6@2"), "5@1", "tree", "begins behind 5@2");
    is_damage(Some("5@1: 6@1"), "5@2", "tree", "begins behind 5@1");
}

/// Applies another history than that of the log, flushes it, and crashes. What is opened afterwards
/// must go on from it, however often.
pub(super) fn reset_check(mutants: Mutants) {
    let disk = SimDisk::new();
    let open_it = || {
        let mut options = options();
        options.tree.mutants = mutants;
        open(Arc::new(disk.clone()), options).unwrap()
    };
    let mut opened = open_it();
    (1..=8).for_each(|index| append(&mut opened.log, index).unwrap());
    let others: Vec<_> = (1..=5).map(|index| entry(LogId::new(2, index))).collect();
    opened.engine.apply(SHARD, &others);
    opened.engine.flush().unwrap();
    drop(opened);
    let mut expected = "5@2:".to_owned();
    for life in 0..4 {
        disk.crash(&mut Rng::fork(life, "reset"));
        let mut opened = open_it();
        assert_eq!(opened.recovered.damage, None);
        assert_eq!(shown(&opened.recovered.groups[&SHARD]), expected);
        if life == 1 {
            let entries = vec![entry(id("6@3"))];
            let write = GroupWrite { shard: SHARD, hard_state: None, entries };
            opened.log.append(&[Append { id: AppendId(1), writes: vec![write] }]).unwrap();
            expected = "5@2: 6@3".to_owned();
        }
    }
}

#[test]
fn log_that_was_reset_stays_reset() {
    reset_check(Mutants::NONE);
}
