//! What would go wrong: a version that is dropped while somebody may still read it, one that stays
//! for ever, or a page of a scan that skips a key, or shows one that did not exist then.

use std::ops::Bound;

use kv_core::machine::HISTORY_BYTES_MAX;
use kv_core::op::{KeyRange, Page, PageLimit, Row};
use kv_core::storage::Scan;

use super::exchange::*;
use super::*;
use crate::mutants::{Mutant, Mutants, finds};

const HANDLE: RequestHandle = RequestHandle(5);

fn read_at(engine: &mut Engine, at: u64, key: &Key) -> Result<Option<Found>, ReadError> {
    let (shard, at_least) = (SHARD, engine.applied(SHARD).index);
    let read = Read { handle: HANDLE, shard, at_least, timestamp: Timestamp(at), key: key.clone() };
    match engine.read(&read) {
        StorageReply::Read { handle: HANDLE, result } => result,
        other => panic!("not the reply to a read: {other:?}"),
    }
}

fn scan_of(range: &KeyRange, at: u64, limit: PageLimit) -> Scan {
    let (shard, at_least, timestamp) = (SHARD, LogIndex(0), Timestamp(at));
    Scan { handle: HANDLE, shard, at_least, timestamp, range: range.clone(), limit }
}

fn page(engine: &mut Engine, scan: &Scan) -> Result<Page, ReadError> {
    match engine.scan_page(scan) {
        StorageReply::Scanned { handle: HANDLE, result } => result,
        other => panic!("not the reply to a scan: {other:?}"),
    }
}

fn everything() -> KeyRange {
    KeyRange { start: key(0, b""), end: None }
}

fn too_old(oldest: u64) -> ReadError {
    ReadError::TooOld { oldest: Timestamp(oldest) }
}

/// The value that was put at a version, if it is there.
fn value_of(version: u64) -> Option<Found> {
    (version > 0)
        .then(|| Found { version: Timestamp(version), value: Value::string(format!("v{version}")) })
}

/// Puts the value of the next version.
fn put_next(engine: &mut Engine, key: &Key) {
    let index = engine.applied(SHARD).index.next().0;
    let value = Value::string(format!("v{index}"));
    apply_op(engine, SHARD, WriteOp::Put { key: key.clone(), value });
}

/// Raises the watermark.
pub(super) fn raise(engine: &mut Engine, watermark: u64) {
    let id = LogId::new(1, engine.applied(SHARD).index.next().0);
    let command = Command::RaiseWatermark { watermark: Timestamp(watermark) };
    let entry = Entry { id, payload: command.encode().into() };
    let reply = engine.apply(SHARD, &[entry]);
    assert!(matches!(reply, StorageReply::Applied { .. }), "{reply:?}");
}

/// Brings all tables to the last level, and nothing else to the disk.
fn compact_fully(engine: &mut Engine) {
    engine.tree.as_mut().unwrap().request_full_compaction();
    while engine.tree.as_ref().unwrap().is_compaction_due() {
        engine.tree.as_mut().unwrap().compact_step(u64::MAX).unwrap();
    }
}

fn entry_count(engine: &Engine) -> u64 {
    engine.stats().unwrap().entry_count
}

/// Versions 1 to 9 of a key, of which the first three came with the first flush and the fifth is a
/// deletion.
fn nine_versions(engine: &mut Engine, key: &Key) {
    for index in 1..=9 {
        match index {
            5 => drop(apply_op(engine, SHARD, WriteOp::Delete { key: key.clone() })),
            _ => put_next(engine, key),
        }
        if index % 3 == 0 {
            engine.flush().unwrap();
        }
    }
}

fn version_seen(at: u64) -> u64 {
    if at == 5 { 0 } else { at.min(9) }
}

/// Reads the past before and after everything is on the disk and compacted.
fn past_check(mutants: Mutants) {
    let (disk, mut engine) = engine_with(mutants);
    let key = key(0, b"k");
    nine_versions(&mut engine, &key);
    for round in 0..3 {
        for at in 0..=11 {
            let expected = Ok(value_of(version_seen(at)));
            assert_eq!(read_at(&mut engine, at, &key), expected, "at {at}, round {round}");
        }
        match round {
            0 => compact_fully(&mut engine),
            _ => {
                let options = TreeOptions { mutants, ..small_options() };
                engine = Engine::open(Arc::new(disk.clone()), options).unwrap();
                compact_fully(&mut engine);
            }
        }
    }
    assert_eq!(entry_count(&engine), 9);
}

#[test]
fn old_version_is_found_after_flush_and_compaction() {
    past_check(Mutants::NONE);
}

#[test]
fn reading_the_past_finds_version_collected_under_a_reader() {
    finds(Mutant::VersionCollectedUnderAReader, past_check);
}

#[test]
fn past_below_the_watermark_is_refused_and_then_gone() {
    let (_disk, mut engine) = engine_with(Mutants::NONE);
    let key = key(0, b"k");
    nine_versions(&mut engine, &key);
    raise(&mut engine, 7);
    raise(&mut engine, 2);
    let check = |engine: &mut Engine| {
        for at in 0..=6 {
            assert_eq!(read_at(engine, at, &key), Err(too_old(7)));
            let scan = scan_of(&everything(), at, PageLimit { rows: 9, bytes: 999 });
            assert_eq!(page(engine, &scan), Err(too_old(7)));
        }
        for at in [7, 8, 9, 10, u64::MAX] {
            assert_eq!(read_at(engine, at, &key), Ok(value_of(at.min(9))));
        }
    };
    check(&mut engine);
    compact_fully(&mut engine);
    assert_eq!(entry_count(&engine), 9, "the watermark is not durable yet");
    check(&mut engine);
    engine.flush().unwrap();
    compact_fully(&mut engine);
    assert_eq!(entry_count(&engine), 3, "what only older reads could see is gone");
    check(&mut engine);
}

/// A crash takes the watermark back, and what it promises then must still be there.
#[test]
fn crash_before_the_flush_loses_nothing_above_the_older_watermark() {
    let (disk, mut engine) = engine_with(Mutants::NONE);
    let key = key(0, b"k");
    nine_versions(&mut engine, &key);
    raise(&mut engine, 3);
    engine.flush().unwrap();
    raise(&mut engine, 8);
    put_next(&mut engine, &key);
    put_next(&mut engine, &key);
    compact_fully(&mut engine);
    // A flush that is not complete has not happened.
    engine.seal();
    engine.tree.as_mut().unwrap().flush_step(1).unwrap();
    assert_eq!(engine.tree.as_ref().unwrap().sealed_count(), 1);
    compact_fully(&mut engine);
    assert_eq!(read_at(&mut engine, 7, &key), Err(too_old(8)));
    drop(engine);
    let mut engine = open(&disk);
    assert_eq!(engine.applied(SHARD), LogId::new(1, 10));
    assert_eq!(read_at(&mut engine, 2, &key), Err(too_old(3)));
    for at in 3..=9 {
        assert_eq!(read_at(&mut engine, at, &key), Ok(value_of(version_seen(at))), "at {at}");
    }
}

/// What was open already when the tree was opened goes by the watermark on the disk too.
#[test]
fn watermark_of_the_last_life_counts_in_compactions() {
    let (disk, mut engine) = engine_with(Mutants::NONE);
    let key = key(0, b"k");
    nine_versions(&mut engine, &key);
    raise(&mut engine, 8);
    engine.flush().unwrap();
    drop(engine);
    let mut engine = open(&disk);
    compact_fully(&mut engine);
    assert_eq!(entry_count(&engine), 2);
    assert_eq!(read_at(&mut engine, 8, &key), Ok(value_of(8)));
}

#[test]
fn deletion_at_the_watermark_equals_absence_and_above_it_does_not() {
    for (watermark, left) in [(4, 2), (5, 0), (6, 0)] {
        let (_disk, mut engine) = engine_with(Mutants::NONE);
        let key = key(0, b"k");
        for _ in 1..=4 {
            put_next(&mut engine, &key);
        }
        apply_op(&mut engine, SHARD, WriteOp::Delete { key: key.clone() });
        raise(&mut engine, watermark);
        engine.flush().unwrap();
        compact_fully(&mut engine);
        assert_eq!(entry_count(&engine), left, "watermark {watermark}");
        assert_eq!(read_at(&mut engine, 6, &key), Ok(None));
        let expected = if watermark == 4 { Ok(value_of(4)) } else { Err(too_old(watermark)) };
        assert_eq!(read_at(&mut engine, 4, &key), expected);
    }
}

#[test]
fn shards_have_watermarks_of_their_own() {
    let (_disk, mut engine) = engine_with(Mutants::NONE);
    let key = key(0, b"k");
    for _ in 1..=5 {
        put_next(&mut engine, &key);
        apply_op(&mut engine, ShardId(2), put("k", "of the other one"));
    }
    raise(&mut engine, 5);
    engine.flush().unwrap();
    compact_fully(&mut engine);
    assert_eq!(entry_count(&engine), 1 + 5);
}

/// The receiver of a snapshot answers for the past as its sender would.
#[test]
fn installed_shard_is_read_as_its_sender() {
    let (_disk, mut source) = engine_with(Mutants::NONE);
    let (disk, mut target) = engine_with(Mutants::NONE);
    let (first, second) = (key(0, b"first"), key(0, b"second"));
    for key in [&first, &second, &first, &second] {
        put_next(&mut source, key);
    }
    apply_op(&mut source, SHARD, WriteOp::Delete { key: first.clone() });
    raise(&mut source, 2);
    let id = open_snapshot(&mut source, 1);
    let chunks = read_all(&mut source, id);
    // What is staged goes to tables before it is installed.
    stage_all(&mut target, id, &chunks);
    target.flush().unwrap();
    install(&mut target, id);
    // The entry of the watermark has taken index 6.
    for _ in 7..=9 {
        put_next(&mut target, &second);
    }
    let check = |target: &mut Engine| {
        assert_eq!(read_at(target, 1, &second), Err(too_old(2)));
        assert_eq!(read_at(target, 2, &first), Ok(value_of(1)));
        assert_eq!(read_at(target, 4, &first), Ok(value_of(3)));
        assert_eq!(read_at(target, 5, &first), Ok(None));
        let versions = [(2, 2), (3, 2), (4, 4), (6, 4), (7, 7), (8, 8), (u64::MAX, 9)];
        for (at, version) in versions {
            assert_eq!(read_at(target, at, &second), Ok(value_of(version)), "at {at}");
        }
    };
    check(&mut target);
    target.flush().unwrap();
    compact_fully(&mut target);
    check(&mut target);
    let mut target = open(&disk);
    check(&mut target);
    raise(&mut target, 8);
    assert_eq!(read_at(&mut target, 7, &second), Err(too_old(8)));
}

/// Of a key that was overwritten very often the sender leaves the oldest versions out, and what was
/// true then cannot be read on the receiver, nor on the one that gets it from there.
#[test]
fn what_a_snapshot_leaves_out_is_refused() {
    let (_disk, mut source) = engine_with(Mutants::NONE);
    let large = key(0, b"large");
    put_next(&mut source, &key(0, b"small"));
    for _ in 2..=9 {
        let value = Value::string(vec![1; HISTORY_BYTES_MAX / 4]);
        apply_op(&mut source, SHARD, WriteOp::Put { key: large.clone(), value });
    }
    put_next(&mut source, &key(0, b"other"));
    for nonce in 1..=2 {
        let (_disk, mut target) = engine_with(Mutants::NONE);
        send(&mut source, &mut target, nonce);
        assert_eq!(read_at(&mut target, 6, &large), Err(too_old(7)));
        assert_eq!(read_at(&mut target, 7, &key(0, b"small")), Ok(value_of(1)));
        assert!(read_at(&mut target, 7, &large).unwrap().is_some());
        assert_eq!(read_at(&mut target, 9, &key(0, b"other")), Ok(None));
        source = target;
    }
}

/// What an engine must say: the versions of all keys, and from when on they can be read.
#[derive(Default)]
struct Past {
    versions: BTreeMap<Key, BTreeMap<u64, Option<Value>>>,
    watermark: u64,
}

impl Past {
    fn rows(&self, range: &KeyRange, at: u64) -> Vec<Row> {
        let end = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        if range.is_empty() {
            return Vec::new();
        }
        let keys = self.versions.range((Bound::Included(range.start.clone()), end));
        let row = |(key, versions): (&Key, &BTreeMap<u64, Option<Value>>)| {
            let (version, value) = versions.range(..=at).next_back()?;
            let found = Found { version: Timestamp(*version), value: value.clone()? };
            Some(Row { key: key.clone(), found })
        };
        keys.filter_map(row).collect()
    }
}

/// Keys that stand next to one another in many ways.
fn draw_key(rng: &mut Rng) -> Key {
    const NAMES: [&[u8]; 10] =
        [b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", b"a\0\0b", b"a\0\xff", b"b", b"\xff"];
    let keyspace = [0, 1, 255, u32::MAX][rng.below(4) as usize];
    key(keyspace, NAMES[rng.below(10) as usize])
}

fn draw_range(rng: &mut Rng) -> KeyRange {
    let end = (rng.below(3) > 0).then(|| draw_key(rng));
    KeyRange { start: draw_key(rng), end }
}

/// Follows a scan page by page, and compares it with the model.
fn check_scan(engine: &mut Engine, past: &Past, rng: &mut Rng) {
    let newest = engine.applied(SHARD).index.0;
    let at = match rng.below(4) {
        0 => u64::MAX,
        1 => rng.below(newest + 2),
        _ => past.watermark + rng.below(newest.saturating_sub(past.watermark) + 2),
    };
    let mut range = draw_range(rng);
    let expected = past.rows(&range, at);
    let mut found = Vec::new();
    loop {
        let limit = PageLimit { rows: rng.below(6) as u32, bytes: rng.below(300) as u32 };
        let page = page(engine, &scan_of(&range, at, limit));
        if at < past.watermark {
            assert_eq!(page, Err(too_old(past.watermark)));
            return;
        }
        let page = page.unwrap();
        let bytes = |row: &Row| (row.key.bytes.len() + row.found.value.size()) as u32;
        assert!(page.rows.len() as u32 <= limit.rows.max(1), "{limit:?}");
        let is_within = page.rows.iter().map(bytes).sum::<u32>() <= limit.bytes;
        assert!(is_within || page.rows.len() == 1, "{limit:?}");
        assert!(page.next.is_none() || !page.rows.is_empty(), "a page holds something");
        found.extend(page.rows);
        match page.next {
            Some(next) => range.start = next,
            None => break,
        }
    }
    assert_eq!(found, expected, "at {at}");
}

fn draw_change(engine: &mut Engine, past: &mut Past, rng: &mut Rng) {
    let index = engine.applied(SHARD).index.next().0;
    let key = draw_key(rng);
    match rng.below(10) {
        0 => {
            past.watermark = past.watermark.max(index - rng.below(index.min(40)));
            raise(engine, past.watermark);
        }
        1..4 => {
            let exists = past.rows(&everything(), u64::MAX).iter().any(|row| row.key == key);
            if exists {
                past.versions.entry(key.clone()).or_default().insert(index, None);
            }
            apply_op(engine, SHARD, WriteOp::Delete { key });
        }
        _ => {
            let value = Value::string(vec![index as u8; rng.below(90) as usize]);
            past.versions.entry(key.clone()).or_default().insert(index, Some(value.clone()));
            apply_op(engine, SHARD, WriteOp::Put { key, value });
        }
    }
}

#[test]
fn scans_of_any_range_at_any_time_equal_a_map() {
    for seed in 0..4 {
        let mut rng = Rng::fork(seed, "scans");
        let (mut engine, mut past) = (new_engine(), Past::default());
        for _ in 0..600 {
            draw_change(&mut engine, &mut past, &mut rng);
            engine.work().unwrap();
            match rng.below(60) {
                0 => drop(engine.flush().unwrap()),
                1 => compact_fully(&mut engine),
                _ => {}
            }
            check_scan(&mut engine, &past, &mut rng);
        }
        let counters = engine.stats().unwrap().counters;
        assert!(counters.flush_count > 3 && counters.compaction_count > 3, "{counters:?}");
    }
}

/// A new engine with the shard of another one. Every chunk goes to a table of its own.
fn moved(source: &mut Engine) -> Engine {
    let mut target = new_engine();
    let id = open_snapshot(source, 1);
    for (sequence, chunk) in (0..).zip(&read_all(source, id)) {
        stage(&mut target, id, sequence, chunk).unwrap();
        target.flush().unwrap();
    }
    install(&mut target, id);
    target
}

#[test]
fn scans_of_a_shard_that_moves_equal_a_map() {
    for seed in 0..4 {
        let mut rng = Rng::fork(seed, "moves");
        let (mut engine, mut past) = (new_engine(), Past::default());
        for _ in 0..600 {
            draw_change(&mut engine, &mut past, &mut rng);
            engine.work().unwrap();
            match rng.below(40) {
                0 if engine.applied(SHARD) != LogId::default() => engine = moved(&mut engine),
                1 => compact_fully(&mut engine),
                _ => {}
            }
            check_scan(&mut engine, &past, &mut rng);
        }
    }
}

/// However many chunks it takes, and whatever goes to tables between them.
#[test]
fn large_shard_that_moves_keeps_its_past() {
    let mut source = new_engine();
    let keys: Vec<_> = (0..40).map(|number| key(0, format!("k{number}").as_bytes())).collect();
    let mut past = Past::default();
    for index in 1..=400 {
        let key = &keys[index as usize * 7 % keys.len()];
        let value = Value::string(vec![index as u8; 9_000]);
        past.versions.entry(key.clone()).or_default().insert(index, Some(value.clone()));
        apply_op(&mut source, SHARD, WriteOp::Put { key: key.clone(), value });
    }
    let mut target = moved(&mut source);
    for at in (1..=400).step_by(13) {
        let limit = PageLimit { rows: 100, bytes: 10 << 20 };
        let page = page(&mut target, &scan_of(&everything(), at, limit)).unwrap();
        assert_eq!(page.rows, past.rows(&everything(), at), "at {at}");
    }
}

#[test]
fn page_over_tombstones_ends_in_time_and_goes_on() {
    let mut engine = new_engine();
    put_next(&mut engine, &key(0, b"a"));
    put_next(&mut engine, &key(7, b"z"));
    let local_id = engine.state.shards[&SHARD].local_id;
    let tree = engine.tree.as_mut().unwrap();
    for number in 0..250_000_u32 {
        let gone = key(3, &number.to_be_bytes());
        tree.write(&[(StoredKey::encode(local_id, &gone, Timestamp(2)).0, [0])]);
    }
    let (mut range, mut sizes) = (everything(), Vec::new());
    loop {
        let limit = PageLimit { rows: 10, bytes: 1_000 };
        let page = page(&mut engine, &scan_of(&range, u64::MAX, limit)).unwrap();
        sizes.push(page.rows.len());
        match page.next {
            Some(next) => range.start = next,
            None => break,
        }
    }
    assert_eq!(sizes, [1, 0, 1], "100,000 entries at a time");
}

#[test]
fn scan_is_refused_below_what_it_must_see() {
    let mut engine = new_engine();
    put_next(&mut engine, &key(0, b"a"));
    let limit = PageLimit { rows: 1, bytes: 1 };
    let scan = |at_least| Scan { at_least, ..scan_of(&everything(), u64::MAX, limit) };
    let (at_least, applied) = (LogIndex(2), LogIndex(1));
    let refused = Err(ReadError::NotApplied { at_least, applied });
    assert_eq!(page(&mut engine, &scan(at_least)), refused);
    assert_eq!(page(&mut engine, &scan(applied)).unwrap().rows.len(), 1);
    let elsewhere = Scan { shard: ShardId(9), ..scan(LogIndex(0)) };
    assert_eq!(page(&mut engine, &elsewhere), Ok(Page::default()));
}

#[test]
fn scan_of_what_is_no_row_tells_the_damage() {
    let mut engine = new_engine();
    put_next(&mut engine, &key(0, b"a"));
    let local_id = engine.state.shards[&SHARD].local_id;
    let stored = StoredKey::encode(local_id, &key(0, b"b"), Timestamp(1));
    engine.tree.as_mut().unwrap().write(&[(stored.0, [9])]);
    let scan = scan_of(&everything(), u64::MAX, PageLimit { rows: 9, bytes: 999 });
    let Err(ReadError::Damaged(damage)) = page(&mut engine, &scan) else { panic!("not told") };
    assert_eq!(damage.what, "a row that is none");
    assert_eq!(engine.damage(), Some(&damage));
    assert_eq!(page(&mut engine, &scan), Err(ReadError::Damaged(damage)));
}
