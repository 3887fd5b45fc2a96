//! What would go wrong: a snapshot with a write of a transaction that finished after it, or a
//! transaction that is forgotten by a flush or on the way to another node.

use kv_core::machine::SnapshotChunk;
use kv_core::op::KeyRange;
use kv_core::storage::InstalledState;
use kv_core::txn::{Part, TxnId, TxnOutcome, TxnWrite};

use super::exchange::*;
use super::*;

const SESSION: SessionId = SessionId { opened_ts: Timestamp(1), nonce: 8 };

fn entry(engine: &Engine, command: &Command) -> Entry {
    let index = engine.applied(SHARD).index.next().0;
    Entry { id: LogId::new(1, index), payload: command.encode().into() }
}

fn apply(engine: &mut Engine, command: &Command) -> Entry {
    let entry = entry(engine, command);
    engine.apply(SHARD, std::slice::from_ref(&entry));
    entry
}

fn txn(number: u64) -> TxnId {
    TxnId { session: SESSION, number }
}

fn prepare(number: u64, names: &[&str]) -> Command {
    let request = RequestId { session: SESSION, sequence: number, acked_below: 1 };
    let value = Some(Value::string(format!("of transaction {number}")));
    let write = |name: &&str| TxnWrite { key: key(0, name.as_bytes()), value: value.clone() };
    let range = KeyRange::from("a".."b");
    let writes = names.iter().map(write).collect();
    let part = Part { reads: Vec::new(), writes, ranges: vec![range] };
    let floor = Timestamp(0);
    Command::Prepare { request, txn: txn(number), anchor: ShardId(2), part, floor }
}

fn finish(number: u64, commit_ts: u64) -> Command {
    let outcome = TxnOutcome::Committed { commit_ts: Timestamp(commit_ts) };
    Command::Finish { txn: txn(number), outcome }
}

/// Keys with and without older versions, and a prepared transaction that writes to both.
fn source_with_prepared() -> Engine {
    let mut source = new_engine();
    for number in 0..40 {
        apply_op(&mut source, SHARD, put(&format!("key{number:02}"), vec![1; 200]));
    }
    apply(&mut source, &prepare(1, &["absent", "key05", "key39"]));
    for number in 0..9 {
        apply_op(&mut source, SHARD, put(&format!("later{number}"), "v"));
    }
    source
}

/// The snapshot is the state at the cut, though what is applied while it is read has an older
/// version than the newest write of the cut.
#[test]
fn transaction_finished_while_a_snapshot_is_read_is_no_part_of_it() {
    for flushes in [false, true] {
        let (mut source, mut then) = (source_with_prepared(), new_engine());
        send(&mut source, &mut then, 1);
        let id = open_snapshot(&mut source, 2);
        let mut log = vec![apply(&mut source, &finish(1, 45))];
        let mut chunks: Vec<SnapshotChunk> = Vec::new();
        while chunks.last().is_none_or(|chunk| !chunk.is_last) {
            let value = vec![2; 100];
            let entry = write_entry(source.applied(SHARD).index.next().0, put("key07", value));
            source.apply(SHARD, std::slice::from_ref(&entry));
            log.push(entry);
            if flushes {
                source.flush().unwrap();
                work_off(&mut source);
            }
            chunks.push(read_chunk(&mut source, id, chunks.len() as u64).unwrap());
        }
        let mut target = new_engine();
        stage_all(&mut target, id, &chunks);
        assert_eq!(target.install_snapshot(id), None);
        let transactions = then.transactions(SHARD);
        assert!(transactions.prepared.contains_key(&txn(1)));
        let state = InstalledState { transactions, ..InstalledState::default() };
        let installed = StorageReply::SnapshotInstalled { id, state };
        assert!(work_off(&mut target).contains(&installed));
        assert_same(&then, &target);
        target.apply(SHARD, &log);
        assert_same(&source, &target);
        assert_eq!(source.transactions(SHARD), target.transactions(SHARD));
        assert!(read(&mut target, SHARD, &key(0, b"absent")).is_some());
    }
}

#[test]
fn prepared_transactions_come_back_after_a_flush() {
    let disk = SimDisk::new();
    let mut engine = open(&disk);
    apply_op(&mut engine, SHARD, put("k", "v"));
    apply(&mut engine, &prepare(1, &["k"]));
    let transactions = engine.transactions(SHARD);
    engine.flush().unwrap();
    drop(engine);
    let mut engine = open(&disk);
    assert_eq!(engine.transactions(SHARD), transactions);
    assert_eq!(transactions.prepared.len(), 1);
    apply(&mut engine, &finish(1, 10));
    let found = read(&mut engine, SHARD, &key(0, b"k")).unwrap();
    assert_eq!(found.version, Timestamp(10));
}

/// Snapshots that are opened while no flush goes on take bounded memory, and every one that is open
/// is the state of its time.
#[test]
fn snapshots_in_a_row_seal_a_bounded_number_of_memtables() {
    let mut source = new_engine();
    let mut ids = Vec::new();
    for nonce in 0..3 * OPEN_MAX as u64 {
        apply_op(&mut source, SHARD, put("k", vec![nonce as u8]));
        ids.push((open_snapshot(&mut source, nonce), source.state_hash(SHARD)));
        assert!(source.tree.as_ref().unwrap().sealed_count() <= outgoing::SEALED_MAX);
    }
    let open_then: Vec<_> =
        ids.iter().filter(|(id, _)| read_chunk(&mut source, *id, 0).is_some()).collect();
    assert_eq!(open_then.len(), OPEN_MAX);
    for (id, hash) in open_then {
        let mut chunks = vec![read_chunk(&mut source, *id, 0).unwrap()];
        chunks.push(read_chunk(&mut source, *id, 1).unwrap());
        let mut target = new_engine();
        stage_all(&mut target, *id, &chunks);
        install(&mut target, *id);
        assert_eq!(target.state_hash(SHARD), *hash);
        let found = read(&mut target, SHARD, &key(0, b"k")).unwrap();
        assert_eq!(found.version.0, id.last.index.0);
    }
    work_off(&mut source);
    apply_op(&mut source, SHARD, put("k", "more"));
    let mut target = new_engine();
    send(&mut source, &mut target, 99);
    assert_same(&source, &target);
}
