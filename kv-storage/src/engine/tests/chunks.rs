//! What would go wrong: a chunk that is damaged, is not the one that is due, or belongs elsewhere,
//! and is taken all the same.

use kv_core::machine::{
    ChunkContent, ChunkRefusal, History, RowsBuilder, SnapshotChunk, encode_value,
};
use kv_core::storage::SnapshotId;

use super::exchange::*;
use super::*;

/// Three chunks: the machine, and two of rows.
fn snapshot() -> (SnapshotId, Vec<SnapshotChunk>, Engine) {
    let mut source = new_engine();
    for number in 0..30 {
        apply_op(&mut source, SHARD, put(&format!("k{number}"), vec![1; 10_000]));
    }
    let id = open_snapshot(&mut source, 1);
    let chunks = read_all(&mut source, id);
    assert_eq!(chunks.len(), 3);
    (id, chunks, source)
}

#[test]
fn rule_b40_chunk_that_is_not_due_is_refused_and_changes_nothing() {
    let (id, chunks, source) = snapshot();
    let mut target = new_engine();
    let refused = |due| Err(ChunkRefusal::OutOfOrder { due });
    assert_eq!(stage(&mut target, id, 1, &chunks[1]), refused(0));
    assert_eq!(stage(&mut target, id, 0, &chunks[0]), Ok(()));
    assert_eq!(stage(&mut target, id, 2, &chunks[2]), refused(1));
    assert_eq!(stage(&mut target, id, 1, &chunks[1]), Ok(()));
    assert_eq!(stage(&mut target, id, 0, &chunks[0]), Ok(()), "it was staged before");
    assert_eq!(stage(&mut target, id, 1, &chunks[1]), Ok(()), "it was staged before");
    assert_eq!(stage(&mut target, id, 2, &chunks[2]), Ok(()));
    install(&mut target, id);
    assert_same(&source, &target);
}

#[test]
fn damaged_or_foreign_chunk_is_refused_and_changes_nothing() {
    let (id, chunks, source) = snapshot();
    let mut target = new_engine();
    stage(&mut target, id, 0, &chunks[0]).unwrap();
    let refused = |target: &mut Engine, id, sequence, chunk: &SnapshotChunk| {
        assert_eq!(stage(target, id, sequence, chunk), Err(ChunkRefusal::WrongChecksum));
    };
    for at in (0..chunks[1].bytes.len()).step_by(997) {
        let mut bytes = chunks[1].bytes.to_vec();
        bytes[at] ^= 1 << (at % 8);
        refused(&mut target, id, 1, &SnapshotChunk { bytes: bytes.into(), ..chunks[1].clone() });
    }
    let short = chunks[1].bytes.slice(..1_000);
    refused(&mut target, id, 1, &SnapshotChunk { bytes: short, ..chunks[1].clone() });
    refused(&mut target, id, 1, &SnapshotChunk { is_last: true, ..chunks[1].clone() });
    refused(&mut target, id, 1, &SnapshotChunk { checksum: 7, ..chunks[1].clone() });
    refused(&mut target, id, 1, &chunks[2]);
    for other in [
        SnapshotId { nonce: 2, ..id },
        SnapshotId { shard: ShardId(2), ..id },
        SnapshotId { last: LogId::new(2, 30), ..id },
    ] {
        refused(&mut target, other, 0, &chunks[0]);
    }
    stage_all(&mut target, id, &chunks);
    install(&mut target, id);
    assert_same(&source, &target);
}

/// The encoded machine of a shard that has applied `last`.
fn machine_chunk(id: &SnapshotId, last: u64) -> SnapshotChunk {
    let mut source = new_engine();
    (0..last).for_each(|_| drop(apply_op(&mut source, SHARD, put("k", "v"))));
    let other = open_snapshot(&mut source, 5);
    let chunk = read_chunk(&mut source, other, 0).unwrap();
    let Ok(ChunkContent::Machine(machine)) = chunk.open(&other, 0) else { panic!("no machine") };
    SnapshotChunk::of_machine(&machine, id, 0).0
}

fn row(name: &str, version: u64) -> (Vec<u8>, Bytes) {
    let stored = StoredKey::encode(LocalShardId(0), &key(0, name.as_bytes()), Timestamp(version));
    (stored.0[4..].to_vec(), encode_value(Some(&Value::string("value"))))
}

fn rows_chunk(id: &SnapshotId, sequence: u64, rows: &[(Vec<u8>, Bytes)]) -> SnapshotChunk {
    let mut builder = RowsBuilder::new(Timestamp(0));
    for (key, value) in rows {
        let mut history = History::default();
        assert!(history.push(key, value, Timestamp(0)) && builder.push(&history));
    }
    builder.seal(id, sequence, false)
}

#[test]
fn senseless_content_behind_a_right_checksum_is_refused_and_changes_nothing() {
    let id = SnapshotId { shard: SHARD, last: LogId::new(1, 9), nonce: 1 };
    let mut target = new_engine();
    let malformed = |what| Err(ChunkRefusal::Malformed(what));
    let no_machine = rows_chunk(&id, 0, &[row("a", 1)]);
    assert_eq!(stage(&mut target, id, 0, &no_machine), malformed("behind no machine"));
    stage(&mut target, id, 0, &machine_chunk(&id, 8)).unwrap();
    let result = stage(&mut target, id, 1, &rows_chunk(&id, 1, &[row("a", 1)]));
    assert_eq!(result, malformed("a machine of another entry"));
    target.drop_staged(SHARD);
    stage(&mut target, id, 0, &machine_chunk(&id, 9)).unwrap();
    stage(&mut target, id, 1, &rows_chunk(&id, 1, &[row("c", 1)])).unwrap();
    let foreign = (row("d", 1).0, Bytes::from_static(b"\x07"));
    let long = (row("d", 1).0, Bytes::from(vec![1; crate::lsm::VALUE_BYTES_MAX + 1]));
    let no_key = (b"short".to_vec(), row("d", 1).1);
    let none = (Vec::new(), row("d", 1).1);
    let rows = [row("b", 1), row("c", 1), row("d", 10), foreign, long, no_key, none];
    for row in rows {
        let result = stage(&mut target, id, 2, &rows_chunk(&id, 2, std::slice::from_ref(&row)));
        assert_eq!(result, malformed("a row that is none"), "{:?}", row.0);
    }
    for (second, first) in [(1, 2), (1, 1)] {
        let rows = rows_chunk(&id, 2, &[row("d", second), row("d", first)]);
        assert_eq!(stage(&mut target, id, 2, &rows), malformed("a row that is none"));
    }
    let early = RowsBuilder::new(Timestamp(10)).seal(&id, 2, true);
    let result = stage(&mut target, id, 2, &early);
    assert_eq!(result, malformed("of a time that is yet to come"));
    stage(&mut target, id, 2, &RowsBuilder::new(Timestamp(0)).seal(&id, 2, true)).unwrap();
    let behind = rows_chunk(&id, 3, &[row("e", 1)]);
    assert_eq!(stage(&mut target, id, 3, &behind), malformed("behind the last chunk"));
    install(&mut target, id);
    let found = Found { version: Timestamp(1), value: Value::string("value") };
    assert_eq!(target.scan(SHARD).unwrap(), [(key(0, b"c"), found)]);
}

#[test]
fn snapshot_of_less_than_was_applied_is_refused() {
    let (id, chunks, mut source) = snapshot();
    apply_op(&mut source, SHARD, put("k", "later"));
    let refusal = ChunkRefusal::Outdated { applied: LogIndex(31) };
    assert_eq!(stage(&mut source, id, 0, &chunks[0]), Err(refusal));
}

#[test]
#[should_panic(expected = "when all of it was staged")]
fn part_of_a_snapshot_is_not_installed() {
    let (id, chunks, _) = snapshot();
    let mut target = new_engine();
    stage_all(&mut target, id, &chunks[..2]);
    target.install_snapshot(id);
}

#[test]
#[should_panic(expected = "never goes back")]
fn what_is_applied_is_not_taken_back() {
    let (id, chunks, _) = snapshot();
    let mut target = new_engine();
    stage_all(&mut target, id, &chunks);
    (0..31).for_each(|_| drop(apply_op(&mut target, SHARD, put("k", "v"))));
    target.install_snapshot(id);
}
