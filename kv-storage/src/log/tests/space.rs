//! A full disk.

use super::crash::{Script, run_step};
use super::*;
use crate::vfs::SimError;

fn release_all(groups: &Groups) -> Floors {
    groups.keys().map(|shard| (*shard, last_of(groups, *shard))).collect()
}

/// Appends until the disk is full. Returns the index of the append that was refused.
fn fill_up(log: &mut Log, mut index: u64) -> u64 {
    loop {
        match log.append(&[one(1, 1, index, &[3; 100])]) {
            Ok(_) => index += 1,
            Err(LogError::NoSpace { .. }) => return index,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn full_disk_refuses_ordinary_appends_and_keeps_the_reserve() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(5 * SMALL));
    let (mut log, _) = open(&disk, SMALL).unwrap();
    let refused = fill_up(&mut log, 1);
    assert!(log.has_reserve());
    assert_eq!(log.usage().segment_count, 4, "the fifth is the reserve");
    let before = all_files(&disk);
    let error = log.append(&[one(1, 1, refused, &[3; 100])]).unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(before == all_files(&disk), "nothing was written");
    // What makes room is written all the same, until the reserve is full too.
    let mut index = refused;
    while log.append_from_reserve(&[one(1, 1, index, &[4; 100])]).is_ok() {
        index += 1;
    }
    assert!(index > refused + 10, "the reserve took {}", index - refused);
    assert!(!log.has_reserve());
    let groups = {
        let copy = recycling::disk_with_all(&all_files(&disk));
        open(&copy, SMALL).unwrap().1
    };
    assert_eq!(last_of(&groups, ShardId(1)).index.0 + 1, index, "exactly what was answered");
    // The release finds room for its trim, makes more, and the log goes on.
    assert!(log.release(&release_all(&groups)).unwrap() > 0);
    assert!(log.has_reserve());
    log.append(&[one(1, 1, index, &[5; 100])]).unwrap();
    assert!(fill_up(&mut log, index + 1) > index + 20);
}

#[test]
fn log_goes_on_when_somebody_else_makes_room() {
    let disk = SimDisk::new();
    let other = disk.create("other").unwrap();
    other.preallocate(10 * SMALL).unwrap();
    disk.set_capacity(Some(12 * SMALL));
    let (mut log, _) = open(&disk, SMALL).unwrap();
    let refused = fill_up(&mut log, 1);
    for _ in 0..3 {
        assert_eq!(fill_up(&mut log, refused), refused);
    }
    other.set_len(0).unwrap();
    assert!(fill_up(&mut log, refused) > refused + 100);
}

#[test]
fn refused_append_leaves_no_trace_in_memory() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(2 * SMALL));
    let (mut log, _) = open(&disk, SMALL).unwrap();
    let refused = fill_up(&mut log, 1);
    assert!(log.append(&[one(7, 1, 1, &[3; 2000])]).is_err());
    disk.set_capacity(None);
    log.append(&[one(7, 1, 1, b"first"), one(1, 1, refused, b"next")]).unwrap();
    let (_, groups) = {
        drop(log);
        open(&disk, SMALL).unwrap()
    };
    assert_eq!(last_of(&groups, ShardId(1)).index.0, refused);
    assert_eq!(groups[&ShardId(7)].entries, entries(1, 1..2, b"first"));
}

#[test]
#[should_panic(expected = "leave no gap")]
fn refused_append_does_not_count_for_the_next_one() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(2 * SMALL));
    let (mut log, _) = open(&disk, SMALL).unwrap();
    let refused = append_of(1, vec![group_write(7, entries(1, 1..4, &[3; 1000]))]);
    assert!(matches!(log.append(&[refused]), Err(LogError::NoSpace { .. })));
    log.append(&[one(7, 1, 4, b"behind what was refused")]).unwrap();
}

#[test]
fn log_opens_on_a_full_disk() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(2 * SMALL));
    let (mut log, _) = open(&disk, SMALL).unwrap();
    log.append(&[one(1, 1, 1, b"x")]).unwrap();
    drop(log);
    for name in disk.list("").unwrap().iter().filter(|name| name.starts_with("spare")) {
        disk.remove(name).unwrap();
    }
    disk.sync_dir("").unwrap();
    disk.set_capacity(Some(SMALL));
    let (mut log, groups) = open(&disk, SMALL).unwrap();
    assert_eq!(groups[&ShardId(1)].entries.len(), 1);
    assert!(!log.has_reserve());
    let append = [one(1, 1, 2, b"y")];
    assert!(matches!(log.append(&append), Err(LogError::NoSpace { .. })));
    assert!(matches!(log.write_idle_batch(), Ok(true)));
    log.append_from_reserve(&append).unwrap();
    disk.set_capacity(Some(2 * SMALL));
    log.append(&[one(1, 1, 3, b"z")]).unwrap();
    assert!(log.has_reserve());
}

#[test]
fn first_opening_on_a_full_disk_says_so_and_leaves_nothing() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(SMALL - 1));
    let error = open(&disk, SMALL).unwrap_err();
    assert!(matches!(error, RecoveryError::NoSpace { needed: SMALL }), "{error:?}");
    assert!(disk.list("").unwrap().is_empty());
    disk.set_capacity(None);
    // Lock, two lists, free space, create; then somebody else has claimed the space after all.
    disk.fail_once(5, SimError::NoSpace);
    let error = open(&disk, SMALL).unwrap_err();
    assert!(matches!(error, RecoveryError::NoSpace { .. }), "{error:?}");
    assert!(disk.list("").unwrap().is_empty());
    open(&disk, SMALL).unwrap();
}

/// Whatever call finds the disk full, once: nothing that was answered is lost, what was refused is
/// not there, and everything can be done again, unless the call was a sync.
#[test]
fn no_space_at_every_call_is_survived_without_a_restart() {
    let mut outcomes = (0, 0);
    for script_seed in 0..scale(4, 40) {
        let script = Script::draw(script_seed, 40);
        for succeed in 0..400 {
            let disk = SimDisk::new();
            let Ok((mut log, _)) = open(&disk, SMALL) else { panic!("nothing fails yet") };
            disk.fail_once(succeed, SimError::NoSpace);
            let mut done = 0;
            for step in &script.steps {
                match run_step(&mut log, step) {
                    Ok(()) => {}
                    Err(error) if error.is_retryable() => {
                        outcomes.0 += 1;
                        run_step(&mut log, step).unwrap();
                    }
                    Err(_) => break,
                }
                done += 1;
            }
            let stopped = done < script.steps.len();
            outcomes.1 += u64::from(stopped);
            assert_eq!(stopped, disk.counters().sync_errors > 0, "only a failed sync is the end");
            drop(log);
            disk.clear_faults();
            let (_, groups) = open(&disk, SMALL).unwrap();
            let fits = |count: usize| script.states.get(count) == Some(&groups);
            assert!(
                fits(done) || stopped && fits(done + 1),
                "script {script_seed}, call {succeed}: {done} were answered, found {groups:?}"
            );
        }
    }
    assert!(outcomes.0 > 20 && outcomes.1 > 20, "refused and stopped: {outcomes:?}");
}
