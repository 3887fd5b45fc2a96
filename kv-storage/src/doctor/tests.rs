//! What would go wrong: damage that nobody is told of, a healthy directory that is called damaged,
//! or a doctor that changes what it examines.

use kv_core::id::{AppendId, Incarnation, NodeId};
use kv_core::machine::Command;
use kv_core::op::{Key, Value, WriteOp};
use kv_core::rng::Rng;
use kv_core::storage::{Append, Entry, GroupWrite};
use std::time::Duration;

use super::*;
use crate::vfs::{SimDisk, SimError, read_all};
use crate::{OpenOptions, Opened, open};

const SHARD: ShardId = ShardId(3);

fn options() -> OpenOptions {
    let mut options = OpenOptions::new("test", NodeId(2), Incarnation(0xfeed));
    options.log_segment_bytes = 4096;
    options.tree = TreeOptions { memtable_bytes: 4 << 10, block_bytes: 256, ..options.tree };
    options
}

fn entry(index: u64) -> Entry {
    use kv_core::id::{RequestId, SessionId, Timestamp};
    let session = SessionId { opened_ts: Timestamp(1), nonce: 7 };
    let request = RequestId { session, sequence: index, acked_below: index };
    let key = Key::new(format!("key{index}"));
    let value = Value::string(vec![index as u8; 100]);
    let (op, commit_ts) = (WriteOp::Put { key, value }, Timestamp(index));
    let payload = Command::Write { request, op, commit_ts }.encode().into();
    Entry { id: LogId::new(1, index), payload }
}

fn open_on(disk: &SimDisk) -> Opened {
    open(Arc::new(disk.clone()), options()).unwrap()
}

/// Appends and applies entries, and flushes what was applied.
fn fill(opened: &mut Opened, indexes: std::ops::RangeInclusive<u64>) {
    for index in indexes {
        let write = GroupWrite { shard: SHARD, hard_state: None, entries: vec![entry(index)] };
        opened.log.append(&[Append { id: AppendId(index), writes: vec![write] }]).unwrap();
        opened.engine.apply(SHARD, &[entry(index)]);
    }
    opened.engine.flush().unwrap();
}

/// Three segments and two tables.
fn used_disk() -> SimDisk {
    let disk = SimDisk::new();
    let mut opened = open_on(&disk);
    fill(&mut opened, 1..=20);
    fill(&mut opened, 21..=40);
    assert_eq!(opened.log.usage().segment_count, 3);
    disk
}

fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let mut names = disk.list("").unwrap();
    names.retain(|name| name != TREE_FOLDER);
    let tables = disk.list(TREE_FOLDER).unwrap_or_default();
    names.extend(tables.iter().map(|name| format!("{TREE_FOLDER}/{name}")));
    let content = |name: String| {
        let mut bytes = Vec::new();
        read_all(&*disk.open(&name).unwrap(), &mut bytes).unwrap();
        (name, bytes)
    };
    names.into_iter().map(content).collect()
}

/// Examines a directory, and sees to it that nothing was changed.
#[track_caller]
fn examine(disk: &SimDisk) -> Report {
    let (before, calls) = (files(disk), disk.counters());
    let report = check(Arc::new(disk.clone())).unwrap();
    let after = disk.counters();
    assert_eq!(files(disk), before);
    assert_eq!((after.bytes_written, after.syncs), (calls.bytes_written, calls.syncs));
    for finding in &report.findings {
        assert!(!finding.meaning.is_empty() && !finding.advice.is_empty());
        assert!(!finding.what.contains("  ") && !finding.advice.contains("  "), "{finding:?}");
    }
    report
}

/// The files and offsets of all findings.
fn places(report: &Report) -> Vec<(&str, u64)> {
    report.findings.iter().map(|it| (it.file.as_str(), it.offset)).collect()
}

fn segment(number: u64) -> String {
    format!("wal-{number:016x}.log")
}

fn table(number: u64) -> String {
    format!("tree/table-{number:016x}.kvt")
}

#[test]
fn healthy_directory_has_no_findings() {
    assert_eq!(examine(&SimDisk::new()), Report::default());
    let disk = used_disk();
    let report = examine(&disk);
    assert_eq!(report.findings, []);
    assert_eq!(report.identity.unwrap().node, NodeId(2));
    assert_eq!((report.identity_file.file_count, report.log.file_count), (1, 3));
    assert_eq!(report.tree.file_count, 3, "the manifest and two tables");
    let tree: usize =
        files(&disk).iter().filter(|it| it.0.contains('/')).map(|it| it.1.len()).sum();
    assert_eq!(report.tree.bytes_verified, tree as u64);
    assert!(report.log.bytes_verified > 40 * 100);
    let (floor, last) = (LogId::default(), LogId::new(1, 40));
    assert_eq!(report.groups, [(SHARD, GroupReport { floor, last, applied: Some(last) })].into());
}

#[test]
fn directory_after_a_crash_is_healthy() {
    for succeed in (0..400).step_by(7) {
        let disk = SimDisk::new();
        disk.fail_from_call(succeed);
        if let Ok(mut opened) = open(Arc::new(disk.clone()), options()) {
            for index in 1..=40 {
                let write =
                    GroupWrite { shard: SHARD, hard_state: None, entries: vec![entry(index)] };
                if opened.log.append(&[Append { id: AppendId(0), writes: vec![write] }]).is_err() {
                    break;
                }
                opened.engine.apply(SHARD, &[entry(index)]);
                let _ = opened.engine.work();
            }
        }
        disk.crash(&mut Rng::fork(succeed, "crash"));
        assert_eq!(examine(&disk).findings, [], "after {succeed} calls");
    }
}

#[test]
fn directory_in_use_is_left_alone() {
    let disk = SimDisk::new();
    let _opened = open_on(&disk);
    let result = check(Arc::new(disk.clone()));
    assert!(matches!(result, Err(DoctorError::InUse(_))), "{result:?}");
    let result = probe(&disk, &mut Duration::default);
    assert!(matches!(result, Err(DoctorError::InUse(_))), "{result:?}");
}

#[test]
fn damage_in_several_segments_and_tables_is_all_found() {
    let disk = used_disk();
    disk.rot(&segment(1), 1000, 1).unwrap();
    disk.rot(&segment(2), 1000, 1).unwrap();
    disk.rot(&table(1), 10, 1).unwrap();
    disk.rot(&table(1), 1000, 1).unwrap();
    disk.rot(&table(2), 10, 1).unwrap();
    let report = examine(&disk);
    let found = places(&report);
    assert_eq!(found.len(), 5, "{:?}", report.findings);
    assert!(found[0].0 == segment(1) && found[0].1 <= 1000 && found[0].1 > 800, "{found:?}");
    assert!(found[1].0 == segment(2) && found[1].1 <= 1000 && found[1].1 > 800, "{found:?}");
    assert_eq!(found[2], (table(1).as_str(), 0));
    assert!(found[3].0 == table(1) && found[3].1 > 0);
    assert_eq!(found[4], (table(2).as_str(), 0));
    let last = report.groups[&SHARD].last;
    assert!(last > LogId::default() && last < LogId::new(1, 20), "up to the damage: {last}");
}

/// Whatever makes an opening refuse or tell damage is found, and nothing else is.
#[test]
fn findings_agree_with_an_opening() {
    let whole = files(&used_disk());
    let mut rng = Rng::fork(1, "doctor");
    let (mut found, mut harmless) = (0, 0);
    for _ in 0..600 {
        let disk = used_disk_of(&whole);
        let (path, bytes) = &whole[rng.below(whole.len() as u64) as usize];
        let at = rng.below(bytes.len() as u64);
        let file = disk.open(path).unwrap();
        file.write_at(at, &[bytes[at as usize] ^ (1 << rng.below(8))]).unwrap();
        let report = examine(&disk);
        let opened = open(Arc::new(disk.clone()), options());
        let is_told = opened.as_ref().map_or(true, |it| it.recovered.damage.is_some());
        let is_read = opened.is_ok_and(|it| it.engine.scan(SHARD).is_ok());
        assert_eq!(report.findings.is_empty(), !is_told && is_read, "{path} at {at}: {report:?}");
        match report.findings.is_empty() {
            true => harmless += 1,
            false => found += 1,
        }
    }
    assert!(found > 100 && harmless > 50, "{found} {harmless}");
}

fn used_disk_of(files: &[(String, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(TREE_FOLDER).unwrap();
    for (path, bytes) in files {
        disk.create(path).unwrap().write_at(0, bytes).unwrap();
    }
    disk
}

#[test]
fn missing_and_unreadable_files_are_named() {
    let disk = used_disk();
    disk.fail_reads(&segment(2), 0..4096).unwrap();
    disk.fail_reads(&table(1), 0..100).unwrap();
    let report = check(Arc::new(disk)).unwrap();
    assert_eq!(places(&report), [(segment(2).as_str(), 0), (table(1).as_str(), 0)]);
    let disk = used_disk();
    disk.remove(&table(1)).unwrap();
    assert_eq!(places(&examine(&disk)), [(table(1).as_str(), 0)]);
    let disk = used_disk();
    disk.remove(&segment(2)).unwrap();
    let report = examine(&disk);
    assert_eq!(places(&report), [(segment(2).as_str(), 0)]);
    assert!(report.findings[0].what.contains("missing"), "{:?}", report.findings);
    let disk = used_disk();
    disk.remove(IDENTITY_FILE).unwrap();
    assert_eq!(places(&examine(&disk)), [(IDENTITY_FILE, 0)]);
    let disk = used_disk();
    disk.rot(IDENTITY_FILE, 20, 0).unwrap();
    assert_eq!(places(&examine(&disk)), [(IDENTITY_FILE, 0)]);
}

#[test]
fn log_that_does_not_fit_the_tables_is_found() {
    let disk = SimDisk::new();
    let mut opened = open_on(&disk);
    opened.engine.apply(SHARD, &[entry(1), entry(2)]);
    opened.engine.flush().unwrap();
    drop(opened);
    let report = examine(&disk);
    assert_eq!(places(&report), [("wal-*.log", 0)]);
    assert!(report.findings[0].what.contains("the log ends at"), "{:?}", report.findings);
    let disk = used_disk();
    for name in disk.list(TREE_FOLDER).unwrap() {
        disk.remove(&format!("{TREE_FOLDER}/{name}")).unwrap();
    }
    assert_eq!(places(&examine(&disk)), [], "the log holds everything");
}

/// A clock that a step of it takes longer than the one before.
fn clock() -> impl FnMut() -> Duration {
    let (mut now, mut step) = (Duration::ZERO, Duration::ZERO);
    move || {
        step += Duration::from_micros(1);
        now += step;
        now
    }
}

#[test]
fn probe_measures_and_leaves_nothing() {
    let disk = SimDisk::new();
    disk.create(PROBE_FILE).unwrap().write_at(0, b"left by a crash").unwrap();
    let before = disk.counters();
    let found = probe(&disk, &mut clock()).unwrap();
    // Every second step of the clock, from the second one on, is a measurement.
    let micros = |number: u64| Duration::from_micros(2 + 2 * number);
    assert_eq!(found.sequential_bytes_per_second, PROBE_BYTES * 1_000_000 / 2);
    assert_eq!(found.append_median, micros(100));
    assert_eq!(found.append_p99, micros(198));
    assert_eq!(found.append_max, micros(200));
    let after = disk.counters();
    assert_eq!(after.bytes_written - before.bytes_written, PROBE_BYTES + 200 * 4096);
    assert_eq!(after.syncs - before.syncs, 201);
    assert_eq!(disk.list("").unwrap(), [""; 0]);
}

#[test]
fn probe_removes_its_file_after_an_error() {
    for succeed in [3, 4, 40, 68, 70, 468] {
        for error in [SimError::Io, SimError::NoSpace] {
            let disk = SimDisk::new();
            disk.fail_once(succeed, error);
            let result = probe(&disk, &mut clock());
            assert_eq!(disk.counters().calls_failed, 1, "call {succeed}");
            assert!(matches!(result, Err(DoctorError::Io(_))), "call {succeed}: {result:?}");
            assert_eq!(disk.list("").unwrap(), [""; 0], "call {succeed}");
        }
    }
    let disk = SimDisk::new();
    disk.set_capacity(Some(PROBE_BYTES));
    let result = probe(&disk, &mut clock());
    assert!(matches!(result, Err(DoctorError::NoSpace { .. })), "{result:?}");
    assert_eq!(disk.used_space(), 0);
}
