//! What would go wrong: damage that stops the process instead of the node, writes after damage, and
//! a full disk that nobody hears of.

use kv_core::id::{AppendId, Incarnation, NodeId};
use kv_core::storage::{Entry, GroupWrite};

use super::*;
use crate::store::{OpenOptions, open};
use crate::vfs::SimDisk;

const SEGMENT_BYTES: u64 = 4096;
const RESERVE_BYTES: u64 = 64 * 1024;

fn writer(disk: &SimDisk) -> LogWriter {
    let options = OpenOptions {
        log_segment_bytes: SEGMENT_BYTES,
        ..OpenOptions::new("test", NodeId(1), Incarnation(7))
    };
    let opened = open(Arc::new(disk.clone()), options).unwrap();
    LogWriter::new(opened.log, Arc::new(disk.clone()), RESERVE_BYTES)
}

fn append(shard: u32, index: u64) -> Append {
    let entry = Entry {
        id: LogId::new(1, index),
        payload: vec![index as u8; if shard == 1 { 200 } else { 20 }].into(),
    };
    let write = GroupWrite { shard: ShardId(shard), hard_state: None, entries: vec![entry] };
    Append { id: AppendId(index), writes: vec![write] }
}

/// A segment that is recycled is read if a group still needs a little of it.
#[test]
fn damage_met_while_recycling_is_told_and_ends_all_writing() {
    let disk = SimDisk::new();
    let mut writer = writer(&disk);
    writer.append(&[append(2, 1)]).unwrap();
    for index in 1..60 {
        writer.append(&[append(1, index)]).unwrap();
    }
    disk.rot("wal-0000000000000001.log", 300, 1).unwrap();
    let floors = BTreeMap::from([(ShardId(1), LogId::new(1, 59))]);
    let reply = writer.release(&floors).unwrap();
    let Some(StorageReply::Damaged(damage)) = reply else { panic!("{reply:?}") };
    assert_eq!(damage.file, "wal-0000000000000001.log");
    let written = disk.counters().bytes_written;
    assert_eq!(writer.append(&[append(1, 60)]).unwrap(), []);
    assert_eq!(writer.release(&floors).unwrap(), None);
    writer.write_idle_batch().unwrap();
    assert!(!writer.owes_idle_batch());
    assert_eq!(disk.counters().bytes_written, written, "a damaged log takes no writes");
}

#[test]
fn log_that_was_opened_damaged_takes_no_writes_and_no_error_either() {
    let disk = SimDisk::new();
    let mut first = writer(&disk);
    for index in 1..5 {
        first.append(&[append(1, index)]).unwrap();
    }
    drop(first);
    disk.rot("wal-0000000000000001.log", 300, 1).unwrap();
    let mut writer = writer(&disk);
    writer.write_idle_batch().unwrap();
    assert_eq!(writer.append(&[append(1, 5)]).unwrap(), []);
}

#[test]
fn full_disk_is_told_once_and_ends_at_twice_the_reserve() {
    let disk = SimDisk::new();
    let mut writer = writer(&disk);
    let used = disk.used_space();
    assert_eq!(writer.look_at_space().unwrap(), None);
    disk.set_capacity(Some(used + RESERVE_BYTES - 1));
    assert_eq!(writer.look_at_space().unwrap(), Some(StorageReply::Space { is_full: true }));
    assert_eq!(writer.look_at_space().unwrap(), None);
    disk.set_capacity(Some(used + 2 * RESERVE_BYTES - 1));
    assert_eq!(writer.look_at_space().unwrap(), None);
    disk.set_capacity(Some(used + 2 * RESERVE_BYTES));
    assert_eq!(writer.look_at_space().unwrap(), Some(StorageReply::Space { is_full: false }));
}

/// What is promised must be written though the disk counts as full.
#[test]
fn append_takes_the_reserve_and_goes_on_when_there_is_room() {
    let disk = SimDisk::new();
    let mut writer = writer(&disk);
    disk.set_capacity(Some(disk.used_space()));
    let mut index = 0;
    let error = loop {
        match writer.append(&[append(1, index + 1)]) {
            Ok(_) => index += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_retryable(), "{error}");
    assert!(index > SEGMENT_BYTES / 300, "the reserve was used: {index}");
    disk.set_capacity(None);
    assert_eq!(writer.append(&[append(1, index + 1)]).unwrap().len(), 1);
}

/// The log ends before an installed snapshot: what comes behind it fits only after the release.
#[test]
fn append_waits_for_a_release_that_found_no_room() {
    let disk = SimDisk::new();
    let mut writer = writer(&disk);
    writer.append(&[append(1, 1)]).unwrap();
    disk.set_capacity(Some(disk.used_space()));
    let floors = |index| BTreeMap::from([(ShardId(2), LogId::new(1, index))]);
    // Fills the log to its end, the reserve included.
    let mut floor = 0;
    while writer.owed.is_empty() {
        floor += 1;
        assert_eq!(writer.release(&floors(floor)).unwrap(), None);
    }
    assert_eq!(writer.release(&floors(5_000)).unwrap(), None);
    let error = writer.append(&[append(2, 5_001)]).unwrap_err();
    assert!(error.is_retryable(), "{error}");
    disk.set_capacity(None);
    assert_eq!(writer.append(&[append(2, 5_001)]).unwrap().len(), 1);
    drop(writer);
    let options = OpenOptions {
        log_segment_bytes: SEGMENT_BYTES,
        ..OpenOptions::new("test", NodeId(1), Incarnation(7))
    };
    // Nothing is applied, so the join calls it damage: what matters is the log.
    let damage = open(Arc::new(disk), options).unwrap().recovered.damage.unwrap();
    assert!(damage.what.contains("begins behind 5000@1"), "{damage}");
}
