//! Everything that goes wrong on a disk beside a loss of power.

use super::crash::{Script, run_step};
use super::recycling::disk_with_all;
use super::*;
use crate::vfs::SimError;

/// Runs a script until a step fails. Returns how many steps were answered.
fn run(log: &mut Log, script: &Script) -> usize {
    script.steps.iter().take_while(|step| run_step(log, step).is_ok()).count()
}

/// Whatever call fails once, the log either goes on as if nothing had happened or writes nothing
/// more, and nothing that was answered is lost.
#[test]
fn error_at_every_call_loses_nothing_that_was_answered() {
    let (mut stopped, mut went_on) = (0, 0);
    for script_seed in 0..scale(3, 30) {
        let script = Script::draw(script_seed, 40);
        for succeed in 0..400 {
            for seed in 0..scale(2, 16) {
                let disk = SimDisk::new();
                disk.set_faults(Default::default(), Rng::fork(seed, "parts"));
                let (mut log, _) = open(&disk, SMALL).unwrap();
                disk.fail_once(succeed, SimError::Io);
                let answered = run(&mut log, &script);
                let is_done = answered == script.steps.len();
                let before = disk.counters();
                if is_done {
                    went_on += 1;
                } else {
                    stopped += 1;
                    let again = run_step(&mut log, &script.steps[answered]);
                    assert!(matches!(again, Err(LogError::Poisoned)), "{again:?}");
                    assert_eq!(disk.counters(), before, "a poisoned log touches nothing");
                }
                drop(log);
                disk.crash(&mut Rng::fork(seed, "crash"));
                let (_, groups) = open(&disk, SMALL).unwrap();
                let fits = |count: usize| script.states.get(count) == Some(&groups);
                assert!(
                    fits(answered) || !is_done && fits(answered + 1),
                    "script {script_seed}, call {succeed}: {answered} answered, found {groups:?}"
                );
            }
        }
    }
    assert!(stopped > 100 && went_on > 10, "stopped {stopped}, went on {went_on}");
}

/// After a failed sync the kernel takes the page for clean: the next sync succeeds, and the bytes
/// are gone all the same. A log that tried again would answer for them.
#[test]
fn failed_sync_is_never_tried_again() {
    let mut lost = 0;
    for seed in 0..32 {
        let disk = SimDisk::new();
        disk.set_faults(Default::default(), Rng::fork(seed, "sync"));
        let (mut log, _) = open(&disk, SEGMENT_BYTES).unwrap();
        log.append(&[one(1, 1, 1, b"kept")]).unwrap();
        disk.fail_once(1, SimError::Io);
        assert!(matches!(log.append(&[one(1, 1, 2, b"lost?")]), Err(LogError::Io(_))));
        assert_eq!(disk.counters().sync_errors, 1);
        assert!(matches!(log.append(&[one(1, 1, 2, b"again")]), Err(LogError::Poisoned)));
        assert!(matches!(log.write_idle_batch(), Err(LogError::Poisoned)));
        assert!(matches!(log.release(&Floors::new()), Err(LogError::Poisoned)));
        lost += disk.counters().sync_dropped;
        drop(log);
        let (_, groups) = open(&disk, SEGMENT_BYTES).unwrap();
        assert_eq!(groups[&ShardId(1)].entries[0], entries(1, 1..2, b"kept")[0]);
    }
    assert!(lost > 0, "some failed syncs lost the batch");
}

#[test]
fn read_only_disk_stops_the_log() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SMALL).unwrap();
    log.append(&[one(1, 1, 1, b"x")]).unwrap();
    disk.set_read_only(true);
    assert!(matches!(log.append(&[one(1, 1, 2, b"y")]), Err(LogError::Io(_))));
    disk.set_read_only(false);
    assert!(matches!(log.append(&[one(1, 1, 2, b"y")]), Err(LogError::Poisoned)));
    drop(log);
    assert_eq!(open(&disk, SMALL).unwrap().1[&ShardId(1)].entries.len(), 1);
}

/// A log of several segments, recycled ones among them, with every kind of record. Returns the
/// files, what it holds, and what it held before the last batch.
fn rich_log(ends_idle: bool) -> (Vec<(String, Vec<u8>)>, Groups, Groups) {
    let disk = SimDisk::new();
    let (mut log, mut model) = (open(&disk, SMALL / 2).unwrap().0, Groups::new());
    let mut before = Groups::new();
    let floors = [(ShardId(1), LogId::new(1, 35))].into();
    let appends = (1..52).map(|index| one(1, 1 + index / 40, index, &[index as u8; 60]));
    for append in [one(2, 1, 1, b"idle")].into_iter().chain(appends) {
        before = model.clone();
        model_append(&mut model, &append);
        log.append(std::slice::from_ref(&append)).unwrap();
        if append.id == AppendId(39) {
            log.release(&floors).unwrap();
            model_release(&mut model, &floors);
        }
    }
    if ends_idle {
        log.write_idle_batch().unwrap();
        before = model.clone();
    }
    let usage = log.usage();
    assert!(usage.segment_count > 1 && usage.segments_reused > 0 && usage.entries_copied > 0);
    (all_files(&disk), model, before)
}

/// What a damaged log may do: refuse with the place, or, if the damage is in the window or in
/// nothing of the log, answer as before.
struct Judge {
    whole: Groups,
    before: Groups,
    detected: u64,
    in_window: u64,
    harmless: u64,
}

impl Judge {
    fn new(whole: Groups, before: Groups) -> Self {
        Self { whole, before, detected: 0, in_window: 0, harmless: 0 }
    }

    #[track_caller]
    fn judge(&mut self, disk: &SimDisk, what: &dyn std::fmt::Debug) {
        match open_as(disk, options(SMALL / 2)) {
            Ok(opened) if opened.groups == self.whole => self.harmless += 1,
            Ok(opened) if opened.groups == self.before => self.in_window += 1,
            Err(RecoveryError::Damaged(damage)) => {
                assert!(damage.file.starts_with("wal-"), "{damage}");
                self.detected += 1;
                self.judge_accepted(disk);
            }
            other => panic!("{what:?}: {other:?}"),
        }
    }

    /// A damaged log that is opened all the same holds what comes before the damage.
    fn judge_accepted(&self, disk: &SimDisk) {
        let before = disk.counters();
        let accept = LogOptions { accept_damage: true, ..options(SMALL / 2) };
        let opened = open_as(disk, accept).unwrap();
        assert!(opened.damage.is_some());
        let after = disk.counters();
        assert_eq!((before.bytes_written, before.syncs), (after.bytes_written, after.syncs));
        for (shard, group) in &opened.groups {
            for entry in &group.entries {
                let whole = self.whole.get(shard).into_iter().flat_map(|group| &group.entries);
                let same = whole.clone().find(|whole| whole.id.index == entry.id.index);
                assert!(same.is_none_or(|same| same == entry), "group {shard}: {entry:?}");
            }
        }
    }
}

#[test]
fn rot_at_every_byte_is_detected_or_in_the_window() {
    for ends_idle in [false, true] {
        let (files, whole, before) = rich_log(ends_idle);
        let mut judge = Judge::new(whole, before);
        for (number, (name, bytes)) in files.iter().enumerate() {
            for at in 0..bytes.len() {
                let bits = if scale(0, 1) == 1 { 0..8 } else { (at % 8) as u8..(at % 8) as u8 + 1 };
                for bit in bits {
                    let mut files = files.clone();
                    files[number].1[at] ^= 1 << bit;
                    judge.judge(&disk_with_all(&files), &(name, at, bit));
                }
            }
        }
        assert!(judge.detected > 1000, "{}", judge.detected);
        assert!(judge.harmless > 1000, "{}", judge.harmless);
        match ends_idle {
            true => assert_eq!(judge.in_window, 0, "only the idle batch is in the window"),
            false => assert!(judge.in_window > 0),
        }
    }
}

#[test]
fn every_byte_inverted_is_detected_or_in_the_window() {
    let (files, whole, before) = rich_log(true);
    let mut judge = Judge::new(whole, before);
    for (number, (name, bytes)) in files.iter().enumerate() {
        for at in 0..bytes.len() {
            let mut files = files.clone();
            files[number].1[at] ^= 0xff;
            judge.judge(&disk_with_all(&files), &(name, at));
        }
    }
    assert!(judge.detected > 1000 && judge.in_window == 0);
}

/// A cut loses what stated its own durability along with it, so some of what is cut goes unnoticed:
/// what is left then is a prefix of what was there.
#[test]
fn file_cut_at_every_length_is_a_prefix_or_damage() {
    let (files, whole, _) = rich_log(true);
    let (mut shorter, mut detected) = (0, 0);
    let last = files.iter().rposition(|(name, _)| name.starts_with("wal-")).unwrap();
    for (number, (name, bytes)) in files.iter().enumerate() {
        for size in 0..bytes.len() {
            let mut files = files.clone();
            files[number].1.truncate(size);
            match open_as(&disk_with_all(&files), options(SMALL / 2)) {
                Ok(opened) if opened.groups == whole => {}
                Ok(opened) => {
                    assert_eq!(number, last, "only the end of the stream can go unnoticed");
                    assert!(opened.groups.iter().all(|(shard, group)| {
                        let entries = &whole[shard].entries;
                        group.floor == whole[shard].floor && entries.starts_with(&group.entries)
                    }));
                    shorter += 1;
                }
                Err(RecoveryError::Damaged(_)) => detected += 1,
                Err(error) => panic!("{name} cut at {size}: {error}"),
            }
        }
    }
    assert!(shorter > 100 && detected > 1000, "shorter {shorter}, detected {detected}");
}

#[test]
fn every_unreadable_block_is_named() {
    let (files, _, _) = rich_log(true);
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("wal-")) {
        for at in (0..bytes.len() as u64).step_by(100) {
            let disk = disk_with_all(&files);
            disk.fail_reads(name, at..at + 1).unwrap();
            match open_as(&disk, options(SMALL / 2)) {
                Err(RecoveryError::Damaged(damage)) => {
                    assert_eq!((&damage.file, damage.position), (name, at / 4096 * 4096));
                    assert!(matches!(damage.kind, DamageKind::Unreadable(_)), "{damage}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn read_that_fails_once_is_repeated() {
    let (files, whole, _) = rich_log(true);
    let disk = disk_with_all(&files);
    // Lock, list, open, size, read.
    disk.fail_once(4, SimError::Io);
    assert_eq!(open(&disk, SMALL / 2).unwrap().1, whole);
    assert_eq!(disk.counters().calls_failed, 1);
}

#[test]
fn missing_file_is_damage_or_harmless() {
    let (files, whole, _) = rich_log(true);
    let last = files.iter().rposition(|(name, _)| name.starts_with("wal-")).unwrap();
    for (number, (name, _)) in files.iter().enumerate().filter(|(number, _)| *number != last) {
        let mut files = files.clone();
        files.remove(number);
        match open_as(&disk_with_all(&files), options(SMALL / 2)) {
            Ok(opened) => assert!(name.starts_with("spare") && opened.groups == whole),
            Err(RecoveryError::Damaged(damage)) => assert_eq!(damage.file, *name, "{damage}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

/// The write of every step goes astray once, to many places each.
#[test]
fn misdirected_writes_are_detected_or_in_the_window() {
    let script = Script::draw(5, 30);
    let (mut detected, mut harmless, mut in_window) = (0, 0, 0);
    for (at, seed) in (0..30).flat_map(|at| (0..scale(100, 1000)).map(move |seed| (at, seed))) {
        let disk = SimDisk::new();
        disk.set_faults(Default::default(), Rng::fork(seed, "astray"));
        let (mut log, _) = open(&disk, 6 * SMALL).unwrap();
        let mut done = 0;
        for step in &script.steps {
            if done == at {
                let head = segment_name(log.head_number());
                disk.misdirect_write(&head, None).unwrap();
            }
            // What must be copied, and is damaged, is found while the log is open.
            if run_step(&mut log, step).is_err() {
                break;
            }
            done += 1;
        }
        drop(log);
        match open_as(&disk, options(6 * SMALL)) {
            Ok(opened) if opened.groups == script.states[done] => harmless += 1,
            Ok(opened) => {
                // Only the end of the stream goes unnoticed, if nothing was written behind it: the
                // last batch, and what it lands on along with it.
                let last = &script.states[done];
                let wrote = (0..done).rev().find(|step| script.states[*step] != *last).unwrap();
                let is_prefix = script.states[..done].contains(&opened.groups);
                assert!(is_prefix && wrote <= at, "step {at}, seed {seed}: {opened:?}");
                in_window += 1;
            }
            Err(RecoveryError::Damaged(_)) => detected += 1,
            Err(error) => panic!("step {at}, seed {seed}: {error}"),
        }
    }
    assert!(
        detected > 1000 && harmless > 10 && in_window > 0,
        "{detected}, {harmless}, {in_window}"
    );
}

#[test]
fn misdirected_reads_are_detected() {
    let (files, whole, before) = rich_log(true);
    let mut judge = Judge::new(whole, before);
    let names: Vec<_> = files
        .iter()
        .map(|(name, _)| name.clone())
        .filter(|name| name.starts_with("wal-"))
        .collect();
    for name in &names {
        for seed in 0..50 {
            let disk = disk_with_all(&files);
            disk.set_faults(Default::default(), Rng::fork(seed, "astray"));
            disk.misdirect_read(name, None).unwrap();
            match open_as(&disk, options(SMALL / 2)) {
                Ok(opened) => assert_eq!(opened.groups, judge.whole),
                Err(RecoveryError::Damaged(_)) => judge.detected += 1,
                Err(error) => panic!("{error}"),
            }
            assert_eq!(disk.counters().reads_misdirected, 1);
        }
    }
    assert!(judge.detected > 50);
}

/// Damage in what must be copied is found before the last good copy goes.
#[test]
fn damaged_entry_is_not_copied() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SMALL).unwrap();
    log.append(&[one(2, 1, 1, b"idle")]).unwrap();
    for index in 1..60 {
        log.append(&[one(1, 1, index, &[7; 100])]).unwrap();
    }
    let first = segment_name(1);
    let at = file_bytes(&disk, &first).windows(4).position(|bytes| bytes == b"idle").unwrap();
    disk.rot(&first, at as u64, 0).unwrap();
    let floors = [(ShardId(1), LogId::new(1, 59))].into();
    match log.release(&floors) {
        Err(LogError::Damaged(damage)) => assert_eq!(damage.file, first),
        other => panic!("{other:?}"),
    }
    assert!(disk.exists(&first).unwrap());
    assert!(matches!(log.release(&floors), Err(LogError::Poisoned)));
}
