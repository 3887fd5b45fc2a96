//! What would go wrong: a read that misses a write, sees a deleted key or another shard's, or
//! replicas that differ after the same log.

mod chunks;
mod exchange;
mod snapshot;
mod transactions;
mod versions;

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_core::id::{KeyspaceId, LogIndex, RequestHandle, RequestId, SessionId};
use kv_core::machine::Command;
use kv_core::op::{Expect, Found, Key, Value, WriteOp, WriteResult};
use kv_core::rng::Rng;
use kv_core::storage::{Outcome, Read, ReadError};

use super::*;
use crate::lsm::Watermarks;
use crate::vfs::SimDisk;

/// Options under which a few hundred entries fill several tables.
fn small_options() -> TreeOptions {
    TreeOptions { memtable_bytes: 4 << 10, table_bytes: 2 << 10, ..TreeOptions::new(7) }
}

fn open(disk: &SimDisk) -> Engine {
    Engine::open(Arc::new(disk.clone()), small_options()).unwrap()
}

fn new_engine() -> Engine {
    open(&SimDisk::new())
}

fn write_entry(index: u64, op: WriteOp) -> Entry {
    let session = SessionId { opened_ts: Timestamp(1), nonce: 7 };
    let request = RequestId { session, sequence: index, acked_below: index };
    let payload = Command::Write { request, op, commit_ts: Timestamp(index) }.encode().into();
    Entry { id: LogId::new(1, index), payload }
}

fn key(keyspace: u32, bytes: &[u8]) -> Key {
    Key { keyspace: KeyspaceId(keyspace), bytes: Bytes::copy_from_slice(bytes) }
}

fn read(engine: &mut Engine, shard: ShardId, key: &Key) -> Option<Found> {
    let handle = RequestHandle(3);
    let at_least = engine.applied(shard).index;
    let read = Read { handle, shard, at_least, timestamp: Timestamp::MAX, key: key.clone() };
    match engine.read(&read) {
        StorageReply::Read { handle: RequestHandle(3), result } => result.unwrap(),
        other => panic!("not the reply to a read: {other:?}"),
    }
}

type Model = BTreeMap<(ShardId, Key), Found>;

/// Applies `op` to the model and returns what the engine must say.
fn model_write(model: &mut Model, shard: ShardId, index: u64, op: &WriteOp) -> WriteResult {
    let version = Timestamp(index);
    let place = (shard, op.key().clone());
    match op {
        WriteOp::Put { value, .. } => {
            model.insert(place, Found { version, value: value.clone() });
            WriteResult::Put { version }
        }
        WriteOp::Delete { .. } => WriteResult::Delete { existed: model.remove(&place).is_some() },
        WriteOp::Cas { expect, value, .. } => {
            let found = model.get(&place);
            let applied = match expect {
                Expect::Absent => found.is_none(),
                Expect::Version(version) => found.is_some_and(|found| found.version == *version),
                Expect::Value(value) => found.is_some_and(|found| found.value == *value),
            };
            if applied {
                model.insert(place.clone(), Found { version, value: value.clone() });
            }
            let version = model.get(&place).map(|found| found.version);
            WriteResult::Cas { applied, version }
        }
    }
}

fn draw_op(rng: &mut Rng, index: u64) -> WriteOp {
    let keys: [&[u8]; 6] = [b"", b"\0", b"a", b"a\0", b"a\0\xff", b"b"];
    let key = key(rng.below(2) as u32, keys[rng.below(6) as usize]);
    let value = Value::string(format!("v{}", rng.below(3)));
    match rng.below(6) {
        0..2 => WriteOp::Put { key, value },
        2 => WriteOp::Delete { key },
        3 => WriteOp::Cas { key, expect: Expect::Absent, value },
        4 => WriteOp::Cas { key, expect: Expect::Value(Value::string("v1")), value },
        _ => {
            let version = Timestamp(index - rng.below(index.min(20)));
            WriteOp::Cas { key, expect: Expect::Version(version), value }
        }
    }
}

#[test]
fn engine_equals_a_map() {
    for seed in 0..20 {
        let mut rng = Rng::fork(seed, "engine");
        let (mut engine, mut model) = (new_engine(), Model::new());
        let mut logs: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for _ in 0..300 {
            let shard = ShardId([1, 2, u32::MAX][rng.below(3) as usize]);
            let index = engine.applied(shard).index.next().0;
            let op = draw_op(&mut rng, index);
            let expected = model_write(&mut model, shard, index, &op);
            let entry = write_entry(index, op.clone());
            let reply = engine.apply(shard, std::slice::from_ref(&entry));
            logs.entry(shard).or_default().push(entry);
            let outcomes = vec![(LogIndex(index), Outcome::Written(expected))];
            let applied = LogId::new(1, index);
            let states = Vec::new();
            assert_eq!(reply, StorageReply::Applied { shard, applied, outcomes, states });
            let found = model.get(&(shard, op.key().clone())).cloned();
            assert_eq!(read(&mut engine, shard, op.key()), found);
        }
        for (shard, log) in &logs {
            let mine: Vec<_> = engine.scan(*shard).unwrap();
            let same_shard = model.iter().filter(|((of, _), _)| of == shard);
            let expected: Vec<_> =
                same_shard.map(|((_, key), found)| (key.clone(), found.clone())).collect();
            assert_eq!(mine, expected);
            let mut replica = new_engine();
            replica.apply(*shard, log);
            assert_eq!(replica.state_hash(*shard), engine.state_hash(*shard));
            assert_eq!(replica.scan(*shard).unwrap(), mine);
        }
    }
}

#[test]
fn rule_a14_read_is_refused_below_what_it_must_see() {
    let mut engine = new_engine();
    let shard = ShardId(4);
    let read = |at_least| Read {
        handle: RequestHandle(9),
        shard,
        at_least: LogIndex(at_least),
        timestamp: Timestamp::MAX,
        key: key(0, b"k"),
    };
    let refused = |at_least, applied| StorageReply::Read {
        handle: RequestHandle(9),
        result: Err(ReadError::NotApplied {
            at_least: LogIndex(at_least),
            applied: LogIndex(applied),
        }),
    };
    assert_eq!(engine.read(&read(1)), refused(1, 0));
    engine.apply(shard, &[write_entry(1, WriteOp::Delete { key: key(0, b"k") })]);
    let none = StorageReply::Read { handle: RequestHandle(9), result: Ok(None) };
    assert_eq!(engine.read(&read(1)), none);
    assert_eq!(engine.read(&read(2)), refused(2, 1));
}

#[test]
fn overwritten_and_deleted_versions_take_no_space_in_tables() {
    let (mut engine, shard, key) = (new_engine(), ShardId(1), key(0, b"k"));
    for index in 1..=9 {
        let value = Value::string("v".repeat(500));
        engine.apply(shard, &[write_entry(index, WriteOp::Put { key: key.clone(), value })]);
    }
    let payload = Command::RaiseWatermark { watermark: Timestamp(9) }.encode().into();
    engine.apply(shard, &[Entry { id: LogId::new(1, 10), payload }]);
    let flushed = StorageReply::Flushed { applied: [(shard, LogId::new(1, 10))].into() };
    assert_eq!(engine.flush().unwrap(), [flushed]);
    let bytes: u64 = engine.stats().unwrap().level_bytes.iter().sum();
    assert!(bytes < 2 * 500, "one of nine versions is kept, in {bytes} bytes");
}

/// A write that could not be applied must not count as applied after a restart.
#[test]
fn flush_after_damage_makes_nothing_durable() {
    let (disk, shard, key) = (SimDisk::new(), ShardId(1), key(0, b"k"));
    let mut engine = open(&disk);
    let value = Value::string("value");
    engine.apply(shard, &[write_entry(1, WriteOp::Put { key: key.clone(), value: value.clone() })]);
    engine.flush().unwrap();
    disk.rot("tree/table-0000000000000001.kvt", 0, 0).unwrap();
    let mut engine = open(&disk);
    let cas = WriteOp::Cas { key, expect: Expect::Value(value.clone()), value };
    let reply = engine.apply(shard, &[write_entry(2, cas)]);
    assert!(matches!(reply, StorageReply::Damaged(_)), "{reply:?}");
    assert_eq!(engine.flush().unwrap(), []);
    assert_eq!(engine.work().unwrap(), []);
    assert_eq!(open(&disk).applied(shard), LogId::new(1, 1));
}

#[test]
fn flush_that_found_no_room_can_be_repeated() {
    let (disk, shard) = (SimDisk::new(), ShardId(1));
    let mut engine = open(&disk);
    let put = WriteOp::Put { key: key(0, b"k"), value: Value::string("value") };
    engine.apply(shard, &[write_entry(1, put)]);
    disk.set_capacity(Some(disk.used_space()));
    for _ in 0..3 {
        assert!(engine.flush().unwrap_err().is_retryable());
        assert!(engine.is_full());
    }
    disk.set_capacity(None);
    let flushed = StorageReply::Flushed { applied: [(shard, LogId::new(1, 1))].into() };
    assert_eq!(engine.flush().unwrap(), [flushed]);
    assert!(!engine.is_full());
}

/// Entries that write nothing fill no memtable, and the log before them could never go.
#[test]
fn log_that_writes_nothing_is_flushed_too() {
    let (disk, shard) = (SimDisk::new(), ShardId(1));
    let mut engine = open(&disk);
    let mut flushed = 0;
    for index in 1..=2_000 {
        engine.apply(shard, &[write_entry(index, WriteOp::Delete { key: key(0, b"absent") })]);
        while engine.is_work_due() {
            flushed += engine.work().unwrap().len();
        }
    }
    assert!(flushed > 3, "{flushed} flushes");
    assert!(open(&disk).applied(shard).index > LogIndex(1_500));
}

/// What is written must be readable, however many sessions the shards remember.
#[test]
fn metadata_beyond_the_limit_of_the_codec_are_read_back() {
    let disk = SimDisk::new();
    let (mut tree, _) = Tree::open(Arc::new(disk.clone()), TREE_FOLDER, small_options()).unwrap();
    let large = Bytes::from(vec![7; kv_core::codec::DECODED_BYTES_MAX + 1]);
    tree.seal(large.clone(), Watermarks::everywhere(Timestamp(0)));
    tree.flush_step(u64::MAX).unwrap();
    drop(tree);
    let (_, metadata) = Tree::open(Arc::new(disk), TREE_FOLDER, small_options()).unwrap();
    assert!(metadata == large);
}

#[test]
fn metadata_of_another_version_are_refused_with_the_reason() {
    let disk = SimDisk::new();
    let (mut tree, _) = Tree::open(Arc::new(disk.clone()), TREE_FOLDER, small_options()).unwrap();
    let metadata = Bytes::from_static(&[1, 0, 0, 0, 0]);
    tree.seal(metadata, Watermarks::everywhere(Timestamp(0)));
    tree.flush_step(u64::MAX).unwrap();
    drop(tree);
    let error = Engine::open(Arc::new(disk), small_options()).unwrap_err();
    let damage = damage_of(error);
    assert_eq!(damage.what, "metadata of a version that this program does not read");
}
