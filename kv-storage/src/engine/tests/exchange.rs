//! Sending a shard from one engine to another, step by step.

use kv_core::machine::{ChunkRefusal, SnapshotChunk};
use kv_core::storage::{InstalledState, SnapshotId};

use super::*;
use crate::mutants::Mutants;

pub(super) const SHARD: ShardId = ShardId(1);

/// An engine on a disk of its own, with planted bugs.
pub(super) fn engine_with(mutants: Mutants) -> (SimDisk, Engine) {
    let disk = SimDisk::new();
    let options = TreeOptions { mutants, ..small_options() };
    let engine = Engine::open(Arc::new(disk.clone()), options).unwrap();
    (disk, engine)
}

pub(super) fn open_snapshot(engine: &mut Engine, nonce: u64) -> SnapshotId {
    match engine.open_snapshot(SHARD, nonce) {
        StorageReply::SnapshotOpened { id } => id,
        other => panic!("not opened: {other:?}"),
    }
}

pub(super) fn read_chunk(
    engine: &mut Engine,
    id: SnapshotId,
    sequence: u64,
) -> Option<SnapshotChunk> {
    match engine.read_snapshot(id, sequence) {
        StorageReply::SnapshotRead { id: of, sequence: number, chunk } => {
            assert_eq!((of, number), (id, sequence));
            chunk
        }
        other => panic!("not read: {other:?}"),
    }
}

/// All chunks of a snapshot.
pub(super) fn read_all(engine: &mut Engine, id: SnapshotId) -> Vec<SnapshotChunk> {
    let mut chunks: Vec<SnapshotChunk> = Vec::new();
    while chunks.last().is_none_or(|chunk| !chunk.is_last) {
        chunks.push(read_chunk(engine, id, chunks.len() as u64).unwrap());
    }
    assert_eq!(read_chunk(engine, id, chunks.len() as u64), None, "nothing follows the last one");
    chunks
}

pub(super) fn stage(
    engine: &mut Engine,
    id: SnapshotId,
    sequence: u64,
    chunk: &SnapshotChunk,
) -> Result<(), ChunkRefusal> {
    match engine.stage_chunk(id, sequence, chunk) {
        StorageReply::ChunkStaged { id: of, sequence: number, result } => {
            assert_eq!((of, number), (id, sequence));
            result
        }
        other => panic!("not staged: {other:?}"),
    }
}

pub(super) fn stage_all(engine: &mut Engine, id: SnapshotId, chunks: &[SnapshotChunk]) {
    for (sequence, chunk) in (0..).zip(chunks) {
        assert_eq!(stage(engine, id, sequence, chunk), Ok(()));
        engine.work().unwrap();
    }
}

/// Works until nothing is due. Returns what was told.
pub(super) fn work_off(engine: &mut Engine) -> Vec<StorageReply> {
    let mut replies = Vec::new();
    for steps in 0.. {
        if !engine.is_work_due() {
            break;
        }
        assert!(steps < 10_000, "work comes to an end");
        replies.extend(engine.work().unwrap());
    }
    replies
}

/// Installs what is staged, and waits until it is durable.
pub(super) fn install(engine: &mut Engine, id: SnapshotId) {
    assert_eq!(engine.install_snapshot(id), None);
    let replies = work_off(engine);
    let transactions = engine.transactions(id.shard);
    let state = InstalledState { transactions, ..InstalledState::default() };
    let installed = StorageReply::SnapshotInstalled { id, state };
    let at = replies.iter().position(|reply| *reply == installed).expect("it is told");
    let flushed = replies[at..].iter().find_map(|reply| match reply {
        StorageReply::Flushed { applied } => applied.get(&id.shard),
        _ => None,
    });
    assert_eq!(flushed, Some(&id.last), "and then, what is durable without the log");
}

/// Sends the whole shard.
pub(super) fn send(from: &mut Engine, to: &mut Engine, nonce: u64) -> SnapshotId {
    let id = open_snapshot(from, nonce);
    let chunks = read_all(from, id);
    from.close_snapshot(id);
    stage_all(to, id, &chunks);
    install(to, id);
    id
}

/// Asserts that both have the same state of the shard.
pub(super) fn assert_same(one: &Engine, other: &Engine) {
    assert_eq!(one.applied(SHARD), other.applied(SHARD));
    assert_eq!(one.state_hash(SHARD), other.state_hash(SHARD));
    assert_eq!(one.scan(SHARD).unwrap(), other.scan(SHARD).unwrap());
}

/// Applies the next entry.
pub(super) fn apply_op(engine: &mut Engine, shard: ShardId, op: WriteOp) -> StorageReply {
    let index = engine.applied(shard).index.next().0;
    engine.apply(shard, &[write_entry(index, op)])
}

pub(super) fn put(name: &str, value: impl Into<Vec<u8>>) -> WriteOp {
    WriteOp::Put { key: key(0, name.as_bytes()), value: Value::string(value.into()) }
}

/// Applies `count` random writes.
pub(super) fn apply_random(engine: &mut Engine, shard: ShardId, rng: &mut Rng, count: u64) {
    for _ in 0..count {
        let index = engine.applied(shard).index.next().0;
        let op = match rng.below(3) {
            0 => put(&format!("key{}", rng.below(60)), vec![index as u8; rng.below(90) as usize]),
            1 => WriteOp::Delete { key: key(0, format!("key{}", rng.below(60)).as_bytes()) },
            _ => draw_op(rng, index),
        };
        engine.apply(shard, &[write_entry(index, op)]);
        engine.work().unwrap();
    }
}
