//! What would go wrong: an answered append that is gone after a crash, a group that is in a state
//! it was never in, a discarded batch that comes back, damage that is taken for the end of the log,
//! or bytes on the disk that make the node panic.

mod crash;
mod damage;
mod faults;
mod recycling;
mod space;

use bytes::Bytes;
use kv_core::id::{AppendId, LogIndex, NodeId, Term};
use kv_core::rng::Rng;

use super::segment::segment_name;
use super::*;
use crate::vfs::{SimDisk, read_all};

type Groups = BTreeMap<ShardId, LogGroup>;
type Floors = BTreeMap<ShardId, LogId>;

const INCARNATION: Incarnation = Incarnation(0x77);
/// Small enough that a script goes through many segments.
const SMALL: u64 = 3000;

/// How much a heavy test does: the first number, or the second one with `KV_TEST_SCALE=full`.
fn scale(ci: u64, full: u64) -> u64 {
    match std::env::var("KV_TEST_SCALE").as_deref() {
        Ok("full") => full,
        Ok(_) | Err(_) => ci,
    }
}

fn options(segment_bytes: u64) -> LogOptions {
    let mutants = Mutants::NONE;
    LogOptions { incarnation: INCARNATION, segment_bytes, accept_damage: false, mutants }
}

fn open_as(disk: &SimDisk, options: LogOptions) -> Result<OpenedLog, RecoveryError> {
    let lock = Arc::new(disk.lock_dir("")?);
    Log::open(Arc::new(disk.clone()), lock, options)
}

fn open(disk: &SimDisk, segment_bytes: u64) -> Result<(Log, Groups), RecoveryError> {
    let opened = open_as(disk, options(segment_bytes))?;
    assert!(opened.damage.is_none());
    Ok((opened.log, opened.groups))
}

fn entries(term: u64, indexes: std::ops::Range<u64>, payload: &[u8]) -> Vec<Entry> {
    let payload = Bytes::copy_from_slice(payload);
    indexes.map(|index| Entry { id: LogId::new(term, index), payload: payload.clone() }).collect()
}

fn group_write(shard: u32, entries: Vec<Entry>) -> GroupWrite {
    GroupWrite { shard: ShardId(shard), hard_state: None, entries }
}

fn append_of(id: u64, writes: Vec<GroupWrite>) -> Append {
    Append { id: AppendId(id), writes }
}

/// An append of one entry to one group.
fn one(shard: u32, term: u64, index: u64, payload: &[u8]) -> Append {
    append_of(index, vec![group_write(shard, entries(term, index..index + 1, payload))])
}

/// The last entry of a group, or its floor.
fn last_of(groups: &Groups, shard: ShardId) -> LogId {
    let Some(group) = groups.get(&shard) else { return LogId::default() };
    group.entries.last().map_or(group.floor, |entry| entry.id)
}

/// What a group's log must be after the writes, told another way than recovery does.
fn model_append(groups: &mut Groups, append: &Append) {
    for write in &append.writes {
        let group = groups.entry(write.shard).or_default();
        if let Some(hard_state) = write.hard_state {
            group.hard_state = hard_state;
        }
        if let Some(first) = write.entries.first() {
            group.entries.retain(|entry| entry.id.index < first.id.index);
        }
        group.entries.extend(write.entries.iter().cloned());
    }
    groups.retain(|_, group| *group != LogGroup::default());
}

fn model_release(groups: &mut Groups, floors: &Floors) {
    for (shard, floor) in floors {
        let group = groups.entry(*shard).or_default();
        if *floor == LogId::default() {
            *group = LogGroup { hard_state: group.hard_state, ..LogGroup::default() };
            continue;
        }
        if floor.index <= group.floor.index {
            continue;
        }
        let agrees = group.entries.iter().any(|entry| entry.id == *floor);
        group.entries.retain(|entry| agrees && entry.id.index > floor.index);
        group.floor = *floor;
    }
    groups.retain(|_, group| *group != LogGroup::default());
}

fn draw_append(rng: &mut Rng, id: u64, groups: &Groups) -> Append {
    let mut writes = Vec::new();
    for shard in 0..3 {
        if rng.below(2) == 0 {
            continue;
        }
        let last = last_of(groups, ShardId(shard)).index.0;
        let floor = groups.get(&ShardId(shard)).map_or(0, |group| group.floor.index.0);
        let replaces = rng.below(4) == 0 && last > floor;
        let first = if replaces { floor + 1 + rng.below(last - floor) } else { last + 1 };
        let payload_bytes = if rng.below(8) == 0 { rng.below(3000) } else { rng.below(200) };
        let payload = vec![id as u8; payload_bytes as usize];
        let hard_state = (rng.below(2) == 0).then(|| HardState {
            term: Term(id),
            vote: (rng.below(2) == 0).then_some(NodeId(1 + rng.below(3))),
            commit: LogIndex(rng.below(last + 1)),
            life: 0,
            quarantine: 0,
            forgotten: LogId { term: Term(id), index: LogIndex(rng.below(last + 1)) },
        });
        let entries = entries(id, first..first + rng.below(4), &payload);
        writes.push(GroupWrite { shard: ShardId(shard), hard_state, entries });
    }
    append_of(id, writes)
}

/// Floors somewhere in the groups' logs; sometimes behind the end, or of a history that is not the
/// log's, as after the installation of a snapshot; or none, as after the removal of a shard.
fn draw_floors(rng: &mut Rng, id: u64, groups: &Groups) -> Floors {
    let mut floors = Floors::new();
    for (shard, group) in groups {
        let ids: Vec<_> = group.entries.iter().map(|entry| entry.id).collect();
        let floor = match rng.below(9) {
            8 => LogId::default(),
            0 | 1 => continue,
            2 => LogId::new(id, last_of(groups, *shard).index.0 + rng.below(3)),
            3 => group.floor,
            _ => match ids.get(rng.below(ids.len() as u64) as usize) {
                Some(id) => *id,
                None => continue,
            },
        };
        floors.insert(*shard, floor);
    }
    floors
}

fn file_bytes(disk: &SimDisk, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    read_all(&*disk.open(name).unwrap(), &mut bytes).unwrap();
    bytes
}

fn all_files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list("").unwrap();
    names.into_iter().map(|name| (name.clone(), file_bytes(disk, &name))).collect()
}

/// A disk whose only durable content is the given segments.
fn disk_with(segments: &[(u64, &[u8])]) -> SimDisk {
    let disk = SimDisk::new();
    for (number, bytes) in segments {
        let file = disk.create(&segment_name(*number)).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir("").unwrap();
    disk
}

#[test]
fn rule_b45_appends_of_many_groups_are_one_write_and_one_sync_and_all_are_answered() {
    let disk = SimDisk::new();
    let (mut log, groups) = open(&disk, SEGMENT_BYTES).unwrap();
    assert!(groups.is_empty());
    let (before, before_log) = (disk.counters(), log.counters());
    let hard_state = Some(HardState {
        term: Term(2),
        vote: None,
        commit: LogIndex(0),
        life: 0,
        quarantine: 0,
        forgotten: LogId::default(),
    });
    let vote = GroupWrite { shard: ShardId(5), hard_state, entries: Vec::new() };
    let appends = [
        append_of(1, vec![group_write(1, entries(2, 1..4, b"x")), vote]),
        append_of(2, vec![group_write(1, entries(3, 2..3, b"y"))]),
    ];
    let replies = log.append(&appends).unwrap();
    let after = disk.counters();
    assert_eq!((after.calls - before.calls, after.syncs - before.syncs), (2, 1));
    let bytes_written = after.bytes_written - before.bytes_written;
    let counters = log.counters();
    let (batch_count, sync_count) = (before_log.batch_count + 1, before_log.sync_count + 1);
    assert_eq!((counters.batch_count, counters.sync_count), (batch_count, sync_count));
    assert_eq!(counters.bytes_written, before_log.bytes_written + bytes_written);
    let reply = |id, last| StorageReply::Appended {
        id: AppendId(id),
        written: vec![(ShardId(1), last)],
        counters,
    };
    assert_eq!(replies, [reply(1, LogId::new(2, 3)), reply(2, LogId::new(3, 2))]);
    drop(log);
    let (_, groups) = open(&disk, SEGMENT_BYTES).unwrap();
    let mut expected = entries(2, 1..2, b"x");
    expected.extend(entries(3, 2..3, b"y"));
    assert_eq!(groups[&ShardId(1)].entries, expected);
    assert_eq!(groups[&ShardId(5)].hard_state.term, Term(2));
}

#[test]
fn append_without_writes_does_not_touch_the_disk() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SEGMENT_BYTES).unwrap();
    let before = disk.counters();
    assert_eq!(log.append(&[append_of(1, vec![]), append_of(2, vec![])]).unwrap().len(), 2);
    assert!(log.append(&[]).unwrap().is_empty());
    assert_eq!(disk.counters(), before);
    assert!(!log.write_idle_batch().unwrap());
}

#[test]
fn idle_log_states_once_that_all_is_durable() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SEGMENT_BYTES).unwrap();
    assert!(!log.write_idle_batch().unwrap(), "an empty log has nothing to state");
    log.append(&[append_of(1, vec![group_write(1, entries(1, 1..2, b""))])]).unwrap();
    assert!(log.owes_idle_batch());
    assert!(log.write_idle_batch().unwrap());
    assert!(!log.write_idle_batch().unwrap());
    let begun = 1;
    assert_eq!((log.counters().batch_count, log.counters().sync_count), (begun + 2, begun + 2));
    drop(log);
    let (mut log, _) = open(&disk, SEGMENT_BYTES).unwrap();
    assert!(!log.write_idle_batch().unwrap(), "stated in the life before");
    log.append(&[append_of(1, vec![group_write(1, entries(1, 2..3, b""))])]).unwrap();
    drop(log);
    let (mut log, _) = open(&disk, SEGMENT_BYTES).unwrap();
    assert!(log.write_idle_batch().unwrap(), "the life before died too early");
}

#[test]
fn log_goes_on_over_many_segments() {
    for seed in 0..10 {
        let mut rng = Rng::fork(seed, "segments");
        let (disk, mut model) = (SimDisk::new(), Groups::new());
        for life in 0..3 {
            let (mut log, groups) = open(&disk, 2048).unwrap();
            assert_eq!(groups, model);
            for number in 0..20 {
                let append = draw_append(&mut rng, 1 + life * 20 + number, &model);
                model_append(&mut model, &append);
                log.append(&[append]).unwrap();
            }
        }
        let names = disk.list("").unwrap();
        assert!(names.len() > 5, "{names:?}");
        assert_eq!(names[1..3], ["wal-0000000000000001.log", "wal-0000000000000002.log"]);
        assert_eq!(open(&disk, 2048).unwrap().1, model);
    }
}

#[test]
fn failed_log_writes_nothing_more() {
    for succeed in 0..2 {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk, SEGMENT_BYTES).unwrap();
        let append = append_of(1, vec![group_write(1, entries(1, 1..2, b"x"))]);
        disk.fail_from_call(succeed);
        assert!(matches!(log.append(std::slice::from_ref(&append)), Err(LogError::Io(_))));
        let before = disk.counters();
        let again = append_of(2, vec![group_write(1, entries(1, 2..3, b"y"))]);
        assert!(matches!(log.append(&[again]), Err(LogError::Poisoned)));
        assert!(matches!(log.append(&[append_of(3, vec![])]), Err(LogError::Poisoned)));
        assert_eq!(disk.counters(), before);
    }
}

#[test]
fn record_that_recovery_would_not_read_is_not_written() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SEGMENT_BYTES).unwrap();
    let before = disk.counters();
    let huge = entries(1, 1..10, &vec![0; 8 * 1024 * 1024]);
    let result = log.append(&[append_of(1, vec![group_write(1, huge)])]);
    assert!(matches!(result, Err(LogError::TooLarge { .. })), "{result:?}");
    assert_eq!(disk.counters(), before);
}

#[test]
#[should_panic(expected = "leave no gap")]
fn gap_in_a_group_is_not_written() {
    let (mut log, _) = open(&SimDisk::new(), SEGMENT_BYTES).unwrap();
    log.append(&[append_of(1, vec![group_write(1, entries(1, 2..3, b""))])]).unwrap();
}

#[test]
fn log_can_move_to_a_thread_of_its_own() {
    fn check<T: Send>() {}
    check::<Log>();
}
