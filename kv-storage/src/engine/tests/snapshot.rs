//! What would go wrong: a shard that is not the same on the receiver, that forgets what it must not
//! run twice, or that loses what is applied while a snapshot is on its way.

use kv_core::machine::{CHECKPOINT_ENTRIES, CHUNK_BYTES_MAX, ChunkContent, SnapshotChunk};
use kv_core::storage::{InstalledState, SnapshotId};

use super::exchange::*;
use super::versions::raise;
use super::*;
use crate::mutants::{Mutant, Mutants, finds};

/// A shard's results of writes, so that a copy of each can be asked for.
fn written(reply: StorageReply) -> Outcome {
    match reply {
        StorageReply::Applied { outcomes, .. } => outcomes[0].1.clone(),
        other => panic!("not applied: {other:?}"),
    }
}

/// A retry of what ran before the snapshot is answered on the receiver, and does not run again.
fn sessions_check(mutants: Mutants) {
    let (_disk, mut source) = engine_with(mutants);
    let (_disk, mut target) = engine_with(mutants);
    apply_op(&mut source, SHARD, put("k", "old"));
    let cas = WriteOp::Cas {
        key: key(0, b"k"),
        expect: Expect::Value(Value::string("old")),
        value: Value::string("new"),
    };
    let entry = write_entry(2, cas);
    let outcome = written(source.apply(SHARD, std::slice::from_ref(&entry)));
    send(&mut source, &mut target, 1);
    let retry = Entry { id: LogId::new(1, 3), ..entry };
    for engine in [&mut source, &mut target] {
        assert_eq!(written(engine.apply(SHARD, std::slice::from_ref(&retry))), outcome);
    }
    assert_same(&source, &target);
}

#[test]
fn rule_b36_a_retry_after_a_snapshot_does_not_run_again() {
    sessions_check(Mutants::NONE);
}

#[test]
fn a_retry_finds_snapshot_without_sessions() {
    finds(Mutant::SnapshotWithoutSessions, sessions_check);
}

/// Who was filled by a snapshot is compared with the others as if it had applied everything itself.
#[test]
fn snapshot_goes_on_with_the_hash_of_its_sender() {
    let (_disk, mut source) = engine_with(Mutants::NONE);
    let (_disk, mut target) = engine_with(Mutants::NONE);
    let states = |engine: &mut Engine, until: u64| {
        let first = engine.applied(SHARD).index.next().0;
        let entries = (first..=until).map(|index| write_entry(index, put("k", index.to_string())));
        match engine.apply(SHARD, &entries.collect::<Vec<_>>()) {
            StorageReply::Applied { states, .. } => states,
            other => panic!("not applied: {other:?}"),
        }
    };
    assert_eq!(states(&mut source, CHECKPOINT_ENTRIES - 1), []);
    send(&mut source, &mut target, 1);
    let told = [&mut source, &mut target].map(|engine| states(engine, 2 * CHECKPOINT_ENTRIES));
    let indexes: Vec<_> = told[0].iter().map(|state| state.index.0).collect();
    assert_eq!(indexes, [CHECKPOINT_ENTRIES, 2 * CHECKPOINT_ENTRIES]);
    assert_eq!(told[0], told[1]);
}

/// How many versions of keys all chunks bring.
fn rows_of(id: &SnapshotId, chunks: &[SnapshotChunk]) -> usize {
    let content = (0..).zip(chunks).map(|(sequence, chunk)| chunk.open(id, sequence).unwrap());
    let count = |content| match content {
        ChunkContent::Machine(_) => 0,
        ChunkContent::Rows { rows, .. } => rows.len(),
    };
    content.map(count).sum()
}

#[test]
fn snapshot_holds_what_can_be_read_and_nothing_else() {
    let mut source = new_engine();
    for name in ["a", "b", "c", "a"] {
        apply_op(&mut source, SHARD, put(name, "value"));
        apply_op(&mut source, ShardId(2), put("of another shard", "value"));
    }
    apply_op(&mut source, SHARD, WriteOp::Delete { key: key(0, b"b") });
    let id = open_snapshot(&mut source, 1);
    let chunks = read_all(&mut source, id);
    assert_eq!(rows_of(&id, &chunks), 5, "all versions, and the tombstone");
    // Those of this shard are at 1, 3, 5, 7 and 8, as both have entries of their own.
    raise(&mut source, 5);
    let id = open_snapshot(&mut source, 2);
    let chunks = read_all(&mut source, id);
    assert_eq!(rows_of(&id, &chunks), 2, "no tombstone, no old version");
}

#[test]
fn chunks_are_bounded_and_hold_at_least_a_row() {
    let (mut source, mut target) = (new_engine(), new_engine());
    let sizes = [1, 100_000, 3 << 20, 100, 8 << 20, 260_000, 200_000, 200_000, 5, 0];
    for (number, size) in (0..).zip(sizes) {
        apply_op(&mut source, SHARD, put(&format!("big{number}"), vec![number; size]));
    }
    for number in 0..20_000 {
        apply_op(&mut source, SHARD, put(&format!("small{number}"), "v"));
    }
    let id = open_snapshot(&mut source, 1);
    let chunks = read_all(&mut source, id);
    let mut large = 0;
    for (sequence, chunk) in (0..).zip(&chunks) {
        if chunk.bytes.len() > CHUNK_BYTES_MAX {
            assert_eq!(rows_of(&id, &chunks[..=sequence]) - rows_of(&id, &chunks[..sequence]), 1);
            large += 1;
        }
    }
    assert_eq!(large, 2, "only what is larger itself");
    assert!(chunks.len() < 20, "{} chunks", chunks.len());
    stage_all(&mut target, id, &chunks);
    install(&mut target, id);
    assert_same(&source, &target);
}

#[test]
fn shard_without_keys_is_sent_too() {
    let (mut source, mut target) = (new_engine(), new_engine());
    apply_op(&mut source, SHARD, WriteOp::Delete { key: key(0, b"absent") });
    send(&mut source, &mut target, 1);
    assert_same(&source, &target);
}

#[test]
fn shard_that_is_not_here_is_not_opened() {
    let mut source = new_engine();
    let id = open_snapshot(&mut source, 9);
    assert_eq!(id, SnapshotId { shard: SHARD, last: LogId::default(), nonce: 9 });
    assert_eq!(read_chunk(&mut source, id, 0), None);
}

#[test]
fn chunk_can_be_read_again_and_others_cannot() {
    let mut source = new_engine();
    for number in 0..30 {
        apply_op(&mut source, SHARD, put(&format!("k{number}"), vec![1; 30_000]));
    }
    let id = open_snapshot(&mut source, 1);
    assert_eq!(open_snapshot(&mut source, 1), id, "opening it again changes nothing");
    assert_eq!(read_chunk(&mut source, id, 1), None);
    let first = read_chunk(&mut source, id, 0).unwrap();
    assert_eq!(read_chunk(&mut source, id, 0), Some(first.clone()));
    let second = read_chunk(&mut source, id, 1).unwrap();
    assert_eq!(read_chunk(&mut source, id, 1), Some(second.clone()));
    assert_ne!(first, second);
    assert_eq!(read_chunk(&mut source, id, 0), None);
    assert_eq!(read_chunk(&mut source, id, 3), None);
    assert!(read_chunk(&mut source, id, 2).is_some());
    source.close_snapshot(id);
    assert_eq!(read_chunk(&mut source, id, 2), None);
}

#[test]
fn the_snapshot_that_was_idle_the_longest_is_closed_for_another() {
    let mut source = new_engine();
    apply_op(&mut source, SHARD, put("k", "v"));
    let ids: Vec<_> = (0..OPEN_MAX as u64).map(|it| open_snapshot(&mut source, it)).collect();
    assert!(read_chunk(&mut source, ids[0], 0).is_some(), "it is not idle");
    open_snapshot(&mut source, 99);
    assert_eq!(read_chunk(&mut source, ids[1], 0), None);
    assert!(read_chunk(&mut source, ids[0], 1).is_some());
    assert!(read_chunk(&mut source, ids[2], 0).is_some());
}

/// What is applied, flushed and compacted while a snapshot is read is no part of it, and nothing of
/// what it pins goes.
#[test]
fn rule_b39_snapshot_is_a_cut_while_applying_goes_on() {
    for seed in 0..10 {
        let mut rng = Rng::fork(seed, "cut");
        let (mut source, mut target) = (new_engine(), new_engine());
        apply_random(&mut source, SHARD, &mut rng, 300);
        let mut then = new_engine();
        send(&mut source, &mut then, 1);
        let id = open_snapshot(&mut source, 2);
        let mut chunks = Vec::new();
        while chunks.last().is_none_or(|chunk: &SnapshotChunk| !chunk.is_last) {
            apply_random(&mut source, SHARD, &mut rng, 200);
            source.flush().unwrap();
            work_off(&mut source);
            chunks.push(read_chunk(&mut source, id, chunks.len() as u64).unwrap());
        }
        assert!(source.applied(SHARD).index > id.last.index);
        for (sequence, chunk) in (0..).zip(&chunks) {
            apply_random(&mut target, ShardId(2), &mut rng, 50);
            assert_eq!(stage(&mut target, id, sequence, chunk), Ok(()));
        }
        let other = target.scan(ShardId(2)).unwrap();
        assert_eq!(target.applied(SHARD), LogId::default(), "nothing is visible before");
        assert_eq!(target.install_snapshot(id), None);
        assert_same(&then, &target);
        apply_random(&mut target, ShardId(2), &mut rng, 1);
        apply_random(&mut target, SHARD, &mut rng, 20);
        assert_eq!(target.applied(ShardId(2)).index.0, 50 * chunks.len() as u64 + 1);
        assert!(target.scan(ShardId(2)).unwrap().len().abs_diff(other.len()) <= 1);
    }
}

#[test]
fn rule_b39_two_snapshots_in_quick_succession_leave_the_second() {
    let mut rng = Rng::fork(1, "succession");
    let (disk, mut target) = engine_with(Mutants::NONE);
    let mut source = new_engine();
    apply_random(&mut target, SHARD, &mut rng, 100);
    apply_random(&mut source, SHARD, &mut rng, 200);
    let first = open_snapshot(&mut source, 1);
    let first_chunks = read_all(&mut source, first);
    apply_random(&mut source, SHARD, &mut rng, 100);
    let second = open_snapshot(&mut source, 2);
    let second_chunks = read_all(&mut source, second);
    for (sequence, chunk) in (0..).zip(&first_chunks) {
        assert_eq!(stage(&mut target, first, sequence, chunk), Ok(()));
    }
    assert_eq!(target.install_snapshot(first), None);
    for (sequence, chunk) in (0..).zip(&second_chunks) {
        assert_eq!(stage(&mut target, second, sequence, chunk), Ok(()));
    }
    assert_eq!(target.install_snapshot(second), None);
    let replies = work_off(&mut target);
    for id in [first, second] {
        assert!(
            replies.contains(&StorageReply::SnapshotInstalled {
                id,
                state: InstalledState::default()
            }),
            "{replies:?}"
        );
    }
    assert_same(&source, &target);
    drop(target);
    assert_same(&source, &open(&disk));
}

/// The bytes of all tables and memtables.
fn stored_bytes(engine: &mut Engine) -> u64 {
    engine.flush().unwrap();
    work_off(engine);
    engine.stats().unwrap().level_bytes.iter().sum()
}

#[test]
fn what_is_not_installed_leaves_nothing() {
    let mut source = new_engine();
    for number in 0..200 {
        apply_op(&mut source, SHARD, put(&format!("k{number}"), vec![1; 3_000]));
    }
    let ids = [1, 2].map(|nonce| open_snapshot(&mut source, nonce));
    let chunks = ids.map(|id| read_all(&mut source, id));
    let (disk, mut target) = engine_with(Mutants::NONE);
    stage_all(&mut target, ids[0], &chunks[0][..2]);
    assert!(stored_bytes(&mut target) > 100_000);
    // Another snapshot takes its place,
    stage_all(&mut target, ids[1], &chunks[1][..1]);
    assert_eq!(stored_bytes(&mut target), 0);
    // the receiver gives up,
    stage_all(&mut target, ids[1], &chunks[1]);
    assert!(stored_bytes(&mut target) > 500_000);
    target.drop_staged(SHARD);
    assert_eq!(stored_bytes(&mut target), 0);
    // or the process ends.
    stage_all(&mut target, ids[1], &chunks[1]);
    assert!(stored_bytes(&mut target) > 500_000);
    drop(target);
    let mut target = open(&disk);
    assert_eq!(target.applied(SHARD), LogId::default());
    assert!(target.is_work_due());
    work_off(&mut target);
    assert_eq!(stored_bytes(&mut target), 0);
    assert!(!open(&disk).is_work_due(), "and it is over");
}

#[test]
fn removed_shard_is_gone_and_comes_back_empty() {
    let mut rng = Rng::fork(1, "removed");
    let (disk, mut engine) = engine_with(Mutants::NONE);
    apply_random(&mut engine, SHARD, &mut rng, 200);
    apply_random(&mut engine, ShardId(2), &mut rng, 200);
    let other = engine.scan(ShardId(2)).unwrap();
    let id = open_snapshot(&mut engine, 1);
    assert_eq!(engine.remove_shard(SHARD), None);
    let removed = StorageReply::ShardRemoved { shard: SHARD };
    assert!(work_off(&mut engine).contains(&removed));
    assert_eq!(read_chunk(&mut engine, id, 0), None);
    drop(engine);
    let mut engine = open(&disk);
    let held = Held { is_removed: true, ..Held::default() };
    assert_eq!(engine.held()[&SHARD], held);
    assert_eq!(engine.scan(SHARD).unwrap(), []);
    assert_eq!(engine.scan(ShardId(2)).unwrap(), other);
    apply_op(&mut engine, SHARD, put("k", "v"));
    engine.flush().unwrap();
    assert_eq!(open(&disk).held()[&SHARD], Held { applied: LogId::new(1, 1), ..Held::default() });
}

#[test]
fn engines_equal_each_other_after_random_snapshots() {
    let mut sent = 0;
    for seed in 0..30 {
        let mut rng = Rng::fork(seed, "snapshots");
        let (_disk, mut source) = engine_with(Mutants::NONE);
        let (disk, mut target) = engine_with(Mutants::NONE);
        let mut logs: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for round in 0..60 {
            let shard = [SHARD, ShardId(2)][rng.below(2) as usize];
            let index = source.applied(shard).index.next().0;
            let log: Vec<_> = (index..index + 1 + rng.below(30))
                .map(|index| write_entry(index, draw_op(&mut rng, index)))
                .collect();
            source.apply(shard, &log);
            source.work().unwrap();
            logs.entry(shard).or_default().extend(log);
            match rng.below(4) {
                // The target falls behind, or applies what it lacks,
                0 => {}
                1 | 2 => {
                    let log = logs.get(&shard).cloned().unwrap_or_default();
                    let lacks = &log[target.applied(shard).index.0 as usize..];
                    target.apply(shard, lacks);
                    target.work().unwrap();
                }
                // or gets a snapshot.
                _ if source.applied(SHARD) > target.applied(SHARD) => {
                    send(&mut source, &mut target, round);
                    assert_same(&source, &target);
                    sent += 1;
                }
                _ => {}
            }
            if rng.below(10) == 0 {
                target.flush().unwrap();
                drop(target);
                target = open(&disk);
            }
        }
    }
    assert!(sent > 100, "{sent} snapshots");
}

/// What is stored cannot be read: nobody gets a part of it for the whole.
#[test]
fn damage_met_while_sending_is_told_and_ends_everything() {
    let (disk, mut source) = engine_with(Mutants::NONE);
    for number in 0..200 {
        apply_op(&mut source, SHARD, put(&format!("k{number}"), vec![1; 3_000]));
        source.work().unwrap();
    }
    source.flush().unwrap();
    work_off(&mut source);
    let name = disk.list("tree").unwrap().into_iter().rfind(|it| it.starts_with("table-")).unwrap();
    let id = open_snapshot(&mut source, 1);
    assert!(read_chunk(&mut source, id, 0).is_some());
    disk.rot(&format!("tree/{name}"), 100, 1).unwrap();
    let mut replies = (1..9).map(|sequence| source.read_snapshot(id, sequence));
    let damaged = replies.find(|reply| matches!(reply, StorageReply::Damaged(_)));
    let damaged = damaged.expect("all of it is read");
    assert_eq!(source.open_snapshot(SHARD, 2), damaged);
    assert_eq!(source.install_snapshot(id), Some(damaged.clone()));
    assert_eq!(source.remove_shard(SHARD), Some(damaged));
}
