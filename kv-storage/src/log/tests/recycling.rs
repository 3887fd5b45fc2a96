//! Segments that come and go.

use super::crash::{Step, model_step, run_step};
use super::*;

fn floors(floors: &[(u32, u64, u64)]) -> Floors {
    floors.iter().map(|(shard, term, index)| (ShardId(*shard), LogId::new(*term, *index))).collect()
}

/// Appends `count` entries of 100 bytes to a group.
fn fill(log: &mut Log, shard: u32, first: u64, count: u64) {
    for index in first..first + count {
        log.append(&[one(shard, 1, index, &[7; 100])]).unwrap();
    }
}

#[test]
fn released_segments_are_used_again() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SMALL).unwrap();
    for round in 0..200 {
        let first = 1 + round * 30;
        fill(&mut log, 1, first, 30);
        log.release(&floors(&[(1, 1, first + 29)])).unwrap();
    }
    let usage = log.usage();
    assert!(usage.segments_recycled > 300, "{usage:?}");
    assert!(usage.segments_reused > 300, "{usage:?}");
    assert!(usage.segments_created < 10, "{usage:?}");
    assert_eq!(usage.segment_count, 1);
    assert_eq!(usage.bytes, disk.used_space());
    drop(log);
    let (_, groups) = open(&disk, SMALL).unwrap();
    assert_eq!(groups[&ShardId(1)].floor, LogId::new(1, 6000));
    assert!(groups[&ShardId(1)].entries.is_empty());
}

#[test]
fn nothing_goes_before_the_trim_is_durable() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SMALL).unwrap();
    fill(&mut log, 1, 1, 60);
    let before = all_files(&disk);
    disk.fail_once(1, crate::vfs::SimError::Io);
    assert!(matches!(log.release(&floors(&[(1, 1, 50)])), Err(LogError::Io(_))));
    let names = |files: Vec<(String, Vec<u8>)>| files.into_iter().map(|(name, _)| name);
    assert!(names(before).eq(names(all_files(&disk))), "no file went");
    assert!(matches!(log.release(&floors(&[(1, 1, 50)])), Err(LogError::Poisoned)));
}

#[test]
fn idle_groups_pin_nothing() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SMALL).unwrap();
    let hard_state = HardState {
        term: Term(4),
        vote: Some(NodeId(2)),
        commit: LogIndex(1),
        life: 0,
        quarantine: 0,
        forgotten: LogId::default(),
    };
    let vote = GroupWrite { shard: ShardId(2), hard_state: Some(hard_state), entries: Vec::new() };
    log.append(&[append_of(1, vec![vote]), one(3, 1, 1, b"short"), one(3, 2, 2, b"tail")]).unwrap();
    for round in 0..20 {
        fill(&mut log, 1, 1 + round * 30, 30);
        log.release(&floors(&[(1, 1, 30 + round * 30)])).unwrap();
        assert_eq!(log.usage().segment_count, 1, "in round {round}");
    }
    assert!(log.usage().entries_copied >= 20, "{:?}", log.usage());
    drop(log);
    let (_, groups) = open(&disk, SMALL).unwrap();
    assert_eq!(groups[&ShardId(2)].hard_state, hard_state);
    let mut expected = entries(1, 1..2, b"short");
    expected.extend(entries(2, 2..3, b"tail"));
    assert_eq!(groups[&ShardId(3)].entries, expected);
}

#[test]
fn group_that_needs_much_is_named() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SMALL).unwrap();
    assert!(log.groups_in_oldest_segment().is_empty());
    fill(&mut log, 2, 1, 10);
    fill(&mut log, 1, 1, 60);
    assert_eq!(log.release(&floors(&[(1, 1, 60)])).unwrap(), 0);
    assert_eq!(log.groups_in_oldest_segment(), [ShardId(2)]);
    assert!(log.release(&floors(&[(2, 1, 10)])).unwrap() > 2);
    assert!(log.groups_in_oldest_segment().is_empty());
}

#[test]
fn floor_of_another_history_discards_what_follows_it() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SMALL).unwrap();
    fill(&mut log, 1, 1, 5);
    fill(&mut log, 2, 1, 5);
    fill(&mut log, 3, 1, 5);
    log.release(&floors(&[(1, 1, 3), (2, 9, 3), (3, 9, 8), (4, 9, 100)])).unwrap();
    log.release(&floors(&[(1, 1, 2), (4, 8, 100)])).unwrap();
    log.append(&[one(2, 9, 4, b"new"), one(3, 9, 9, b"new"), one(4, 9, 101, b"new")]).unwrap();
    drop(log);
    let (_, groups) = open(&disk, SMALL).unwrap();
    let found = |shard: u32| {
        let group = &groups[&ShardId(shard)];
        (group.floor, group.entries.iter().map(|entry| entry.id).collect::<Vec<_>>())
    };
    assert_eq!(found(1), (LogId::new(1, 3), vec![LogId::new(1, 4), LogId::new(1, 5)]));
    assert_eq!(found(2), (LogId::new(9, 3), vec![LogId::new(9, 4)]));
    assert_eq!(found(3), (LogId::new(9, 8), vec![LogId::new(9, 9)]));
    assert_eq!(found(4), (LogId::new(9, 100), vec![LogId::new(9, 101)]));
}

#[test]
#[should_panic(expected = "leave no gap")]
fn entry_below_the_floor_is_not_written() {
    let (mut log, _) = open(&SimDisk::new(), SMALL).unwrap();
    fill(&mut log, 1, 1, 5);
    log.release(&floors(&[(1, 1, 3)])).unwrap();
    log.append(&[one(1, 2, 3, b"")]).unwrap();
}

/// Everything that stood in a recycled file is there still, batch for batch.
#[test]
fn old_content_of_a_recycled_file_is_no_part_of_the_log() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, SMALL).unwrap();
    // All batches have one size, so the new ones end where old ones begin.
    fill(&mut log, 1, 1, 200);
    log.release(&floors(&[(1, 1, 200)])).unwrap();
    for index in 201..300 {
        log.append(&[one(1, 1, index, &[7; 100])]).unwrap();
        let copy = disk_with_all(&all_files(&disk));
        let (_, groups) = open(&copy, SMALL).unwrap();
        assert_eq!(last_of(&groups, ShardId(1)), LogId::new(1, index));
    }
    assert!(log.usage().segments_reused > 3);
}

pub(super) fn disk_with_all(files: &[(String, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new();
    for (name, bytes) in files {
        let file = disk.create(name).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir("").unwrap();
    disk
}

#[test]
fn spares_of_another_size_are_removed() {
    let disk = SimDisk::new();
    drop(open(&disk, SMALL).unwrap());
    let (log, _) = open(&disk, 2 * SMALL).unwrap();
    assert_eq!(log.usage().bytes, SMALL + 2 * SMALL);
    assert_eq!(disk.list("").unwrap().len(), 2);
}

#[test]
fn long_run_follows_the_model() {
    let (mut recycled, mut copied) = (0, 0);
    for seed in 0..scale(6, 60) {
        let mut rng = Rng::fork(seed, "long run");
        let (disk, mut model) = (SimDisk::new(), Groups::new());
        let mut id = 0;
        for _ in 0..10 {
            let (mut log, groups) = open(&disk, SMALL).unwrap();
            assert_eq!(groups, model);
            for _ in 0..scale(150, 600) {
                id += 1;
                let step = match rng.below(6) {
                    0 => Step::Idle,
                    1 => Step::Release(draw_floors(&mut rng, id, &model)),
                    _ => Step::Append(draw_append(&mut rng, id, &model)),
                };
                model_step(&mut model, &step);
                run_step(&mut log, &step).unwrap();
            }
            recycled += log.usage().segments_recycled;
            copied += log.usage().entries_copied;
            drop(log);
            if rng.below(2) == 0 {
                disk.crash(&mut rng);
            }
        }
    }
    assert!(recycled > 1000 && copied > 50, "recycled {recycled} segments, copied {copied}");
}
