//! Each fault does what it says, and is counted.

use std::time::Duration;

use rustix::io::Errno;

use super::*;

fn armed(faults: DiskFaults, seed: u64) -> SimDisk {
    let disk = SimDisk::new();
    disk.set_faults(faults, rng(seed));
    disk
}

fn read(file: &dyn VfsFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    let count = file.read_at(offset, &mut buffer)?;
    buffer.truncate(count);
    Ok(buffer)
}

#[track_caller]
fn check_errno<T: fmt::Debug>(result: io::Result<T>, errno: Errno) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(errno.raw_os_error()));
}

#[test]
fn unarmed_disk_never_fails() {
    let disk = SimDisk::new();
    let file = durable_file(&disk, "a", &[1; 1000]);
    for _ in 0..1000 {
        file.write_at(0, b"x").unwrap();
        file.sync_data().unwrap();
        file.read_at(0, &mut [0; 10]).unwrap();
    }
    let counters = disk.counters();
    assert_eq!(counters.read_errors + counters.write_errors + counters.sync_errors, 0);
    assert_eq!(disk.take_delay(), Duration::ZERO);
    assert_eq!(disk.free_space().unwrap(), u64::MAX);
}

#[test]
fn range_that_cannot_be_read_fails_until_it_is_written() {
    let disk = SimDisk::new();
    let file = durable_file(&disk, "a", &[1; 1000]);
    disk.fail_reads("a", 100..200).unwrap();
    assert_eq!(read(&*file, 0, 100).unwrap(), [1; 100]);
    assert_eq!(read(&*file, 200, 100).unwrap(), [1; 100]);
    for (offset, len) in [(0, 101), (199, 1), (150, 10), (0, 1000)] {
        check_errno(read(&*file, offset, len), Errno::IO);
    }
    assert_eq!(disk.counters().read_errors, 4);
    disk.crash(&mut rng(1));
    let file = disk.open("a").unwrap();
    check_errno(read(&*file, 100, 1), Errno::IO);
    file.write_at(120, &[2; 50]).unwrap();
    assert_eq!(read(&*file, 120, 50).unwrap(), [2; 50]);
    check_errno(read(&*file, 119, 1), Errno::IO);
    check_errno(read(&*file, 170, 1), Errno::IO);
    file.write_at(100, &[3; 100]).unwrap();
    assert_eq!(read(&*file, 100, 100).unwrap(), [3; 100]);
    check_fails(disk.fail_reads("b", 0..1), ErrorKind::NotFound);
}

#[test]
fn rot_changes_one_durable_bit_and_nothing_pending() {
    let disk = SimDisk::new();
    let file = durable_file(&disk, "a", b"abc");
    disk.rot("a", 1, 0).unwrap();
    assert_eq!(content(&disk, "a"), b"acc");
    file.write_at(1, b"B").unwrap();
    disk.rot("a", 1, 7).unwrap();
    assert_eq!(content(&disk, "a"), b"aBc", "the page cache is sound");
    file.sync_data().unwrap();
    assert_eq!(content(&disk, "a"), b"aBc", "what is written replaces what is rotten");
    check_fails(disk.rot("a", 3, 0), ErrorKind::UnexpectedEof);
    check_fails(disk.rot("b", 0, 0), ErrorKind::NotFound);
    assert_eq!(disk.counters().bits_rotten, 2);
}

#[test]
fn rot_strikes_anywhere() {
    let disk = SimDisk::new();
    assert_eq!(disk.rot_anywhere(&mut rng(1)), None);
    disk.create_dir("d").unwrap();
    durable_file(&disk, "a", &[0; 10]);
    let inner = disk.create("d/b").unwrap();
    inner.write_at(0, &[0; 10]).unwrap();
    inner.sync_data().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..2000 {
        let rot = disk.rot_anywhere(&mut rng(seed)).unwrap();
        let bytes = content(&disk, &rot.path);
        assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1, "{rot:?}");
        assert_eq!(bytes[rot.offset as usize], 1 << rot.bit);
        disk.rot(&rot.path, rot.offset, rot.bit).unwrap();
        seen.insert((rot.path, rot.offset, rot.bit));
    }
    assert_eq!(seen.len(), 2 * 10 * 8, "every bit can rot");
    let disk = armed(DiskFaults { rot: 500_000, ..DiskFaults::default() }, 3);
    let file = durable_file(&disk, "a", &[0; 100]);
    for _ in 0..40 {
        file.size().unwrap();
    }
    assert!((10..35).contains(&disk.counters().bits_rotten), "{:?}", disk.counters());
    assert!(content(&disk, "a").iter().any(|byte| *byte != 0));
}

#[test]
fn misdirected_write_leaves_the_old_bytes_and_lands_elsewhere() {
    let disk = SimDisk::new();
    let file = durable_file(&disk, "a", &[1; 1024]);
    durable_file(&disk, "b", &[2; 1024]);
    disk.misdirect_write("a", Some(("b", 512))).unwrap();
    durable_file(&disk, "c", b"not this one");
    file.write_at(0, &[9; 512]).unwrap();
    assert_eq!(content(&disk, "a")[..512], [9; 512], "the page cache has it");
    assert_eq!(content(&disk, "b"), [2; 1024]);
    file.sync_data().unwrap();
    assert_eq!(content(&disk, "a"), [1; 1024], "the right place keeps the old bytes");
    assert_eq!(content(&disk, "b"), [[2; 512], [9; 512]].concat());
    file.write_at(0, &[8; 512]).unwrap();
    file.sync_data().unwrap();
    assert_eq!(content(&disk, "a")[..512], [8; 512], "only one write went astray");
    assert_eq!(disk.counters().writes_misdirected, 1);
    // The file grows as it should, and has a hole. Nothing lands behind the end of a file.
    disk.misdirect_write("a", Some(("b", 1000))).unwrap();
    file.write_at(2000, &[7; 100]).unwrap();
    file.sync_data().unwrap();
    assert_eq!(content(&disk, "a")[1024..], [0; 1076]);
    assert_eq!(content(&disk, "b")[1000..], [7; 24]);
}

#[test]
fn misdirected_write_may_be_lost_by_a_crash_and_never_reaches_its_place() {
    let (mut delivered, mut lost) = (0, 0);
    for seed in 0..64 {
        let disk = SimDisk::new();
        let file = durable_file(&disk, "a", &[1; 512]);
        durable_file(&disk, "b", &[2; 512]);
        disk.misdirect_write("a", Some(("b", 0))).unwrap();
        file.write_at(0, &[9; 512]).unwrap();
        disk.crash(&mut rng(seed));
        assert_eq!(content(&disk, "a"), [1; 512]);
        match content(&disk, "b")[0] {
            9 => delivered += 1,
            _ => lost += 1,
        }
    }
    assert!(delivered > 0 && lost > 0, "delivered {delivered}, lost {lost}");
}

#[test]
fn misdirected_read_returns_other_bytes() {
    let disk = SimDisk::new();
    let file = durable_file(&disk, "a", &[1; 1024]);
    durable_file(&disk, "b", &[2; 600]);
    disk.misdirect_read("a", Some(("b", 500))).unwrap();
    disk.open("b").unwrap().read_at(0, &mut [0; 10]).unwrap();
    let mut expected = vec![2; 100];
    expected.extend([0; 12]);
    assert_eq!(read(&*file, 512, 112).unwrap(), expected);
    assert_eq!(read(&*file, 512, 112).unwrap(), [1; 112]);
    assert_eq!(disk.counters().reads_misdirected, 1);
}

#[test]
fn calls_go_astray_at_their_rate_and_keep_the_place_in_the_sector() {
    let faults = DiskFaults { write_misdirected: 500_000, ..DiskFaults::default() };
    let disk = armed(faults, 5);
    let file = durable_file(&disk, "a", &[0; 8 * SECTOR_BYTES]);
    for round in 0..100 {
        file.write_at(round % 8 * 512 + 100, &[1; 10]).unwrap();
        file.sync_data().unwrap();
    }
    let strays = disk.counters().writes_misdirected;
    assert!((30..70).contains(&strays), "{strays}");
    for (at, byte) in content(&disk, "a").iter().enumerate() {
        assert!(*byte == 0 || (100..110).contains(&(at % SECTOR_BYTES)), "at {at}");
    }
    let faults = DiskFaults { read_misdirected: 500_000, ..DiskFaults::default() };
    disk.set_faults(faults, rng(6));
    for _ in 0..100 {
        file.read_at(0, &mut [0; 512]).unwrap();
    }
    let strays = disk.counters().reads_misdirected;
    assert!((30..70).contains(&strays), "{strays}");
}

#[test]
fn reads_and_writes_fail_at_their_rate() {
    let faults = DiskFaults { read_error: 300_000, write_error: 300_000, ..DiskFaults::default() };
    let disk = armed(faults, 7);
    let file = disk.create("a").unwrap();
    let (mut failed, mut in_part) = ((0, 0), 0);
    for _ in 0..200 {
        file.set_len(0).unwrap();
        match file.write_at(0, &[1; 100]) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
                failed.1 += 1;
                in_part += u64::from((1..100).contains(&file.size().unwrap()));
            }
        }
        failed.0 += u64::from(file.read_at(0, &mut [0; 10]).is_err());
    }
    let counters = disk.counters();
    assert_eq!((counters.read_errors, counters.write_errors), failed);
    assert!((30..90).contains(&failed.0) && (30..90).contains(&failed.1), "{failed:?}");
    assert!(in_part > 10, "a failed write may be done in part");
}

#[test]
fn failed_sync_leaves_the_file_clean() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..64 {
        let disk = armed(DiskFaults { sync_error: 1_000_000, ..DiskFaults::default() }, seed);
        let file = disk.create("a").unwrap();
        disk.sync_dir("").unwrap();
        file.write_at(0, b"first").unwrap();
        check_errno(file.sync_data(), Errno::IO);
        let after = content(&disk, "a");
        disk.set_faults(DiskFaults::default(), rng(seed));
        file.sync_data().unwrap();
        disk.crash(&mut rng(seed));
        assert_eq!(content(&disk, "a"), after, "the later sync made nothing durable");
        match &after[..] {
            b"first" => kept += 1,
            b"" => lost += 1,
            other => panic!("{other:?}"),
        }
        let counters = disk.counters();
        assert_eq!((counters.sync_errors, counters.sync_dropped), (1, u64::from(after.is_empty())));
    }
    assert!(kept > 10 && lost > 10, "kept {kept}, lost {lost}");
}

#[test]
fn one_call_fails_and_the_next_ones_do_not() {
    for (error, errno) in [
        (SimError::Io, Errno::IO),
        (SimError::NoSpace, Errno::NOSPC),
        (SimError::ReadOnly, Errno::ROFS),
    ] {
        let disk = SimDisk::new();
        let file = durable_file(&disk, "a", b"x");
        disk.fail_once(1, error);
        file.size().unwrap();
        check_errno(disk.create("b"), errno);
        disk.create("b").unwrap();
        disk.fail_once(0, error);
        check_errno(disk.sync_dir(""), errno);
        disk.sync_dir("").unwrap();
        assert_eq!(disk.counters().calls_failed, 2);
        disk.crash(&mut rng(1));
        assert!(disk.exists("b").unwrap());
    }
    let disk = SimDisk::new();
    disk.fail_once(0, SimError::Io);
    disk.crash(&mut rng(1));
    disk.list("").unwrap();
}

#[test]
fn read_only_disk_refuses_every_change() {
    let disk = SimDisk::new();
    let file = durable_file(&disk, "a", b"old");
    file.write_at(0, b"new").unwrap();
    disk.set_read_only(true);
    check_errno(file.write_at(0, b"xxx"), Errno::ROFS);
    check_errno(file.sync_data(), Errno::ROFS);
    check_errno(file.set_len(1), Errno::ROFS);
    check_errno(file.preallocate(10), Errno::ROFS);
    check_errno(disk.create("b"), Errno::ROFS);
    check_errno(disk.rename("a", "b"), Errno::ROFS);
    check_errno(disk.link("a", "b"), Errno::ROFS);
    check_errno(disk.remove("a"), Errno::ROFS);
    check_errno(disk.create_dir("d"), Errno::ROFS);
    check_errno(disk.sync_dir(""), Errno::ROFS);
    assert_eq!(disk.counters().read_only, 10);
    assert_eq!(content(&disk, "a"), b"new");
    assert_eq!(disk.list("").unwrap(), ["a"]);
    drop(disk.lock_dir("").unwrap());
    disk.set_read_only(false);
    file.sync_data().unwrap();
    disk.crash(&mut rng(1));
    assert_eq!(content(&disk, "a"), b"new", "a sync that was refused lost nothing");
}

#[test]
fn full_disk_takes_what_is_claimed_and_nothing_else() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(1000));
    assert_eq!(disk.free_space().unwrap(), 1000);
    let file = disk.create("a").unwrap();
    file.preallocate(600).unwrap();
    assert_eq!((disk.free_space().unwrap(), disk.used_space()), (400, 600));
    assert_eq!(content(&disk, "a"), [0; 600]);
    let other = disk.create("b").unwrap();
    check_fails(other.preallocate(401), ErrorKind::StorageFull);
    assert_eq!((other.size().unwrap(), disk.free_space().unwrap()), (0, 400));
    check_fails(other.write_at(300, &[1; 200]), ErrorKind::StorageFull);
    assert_eq!(content(&disk, "b"), [&[0; 300][..], &[1; 100]].concat(), "there was room for half");
    assert_eq!(disk.free_space().unwrap(), 0);
    file.write_at(0, &[2; 600]).unwrap();
    other.write_at(0, &[3; 400]).unwrap();
    check_fails(file.write_at(600, b"x"), ErrorKind::StorageFull);
    assert_eq!(disk.counters().no_space, 3);
    other.set_len(100).unwrap();
    assert_eq!(disk.free_space().unwrap(), 300);
    disk.set_capacity(Some(500));
    assert_eq!(disk.free_space().unwrap(), 0);
    disk.set_capacity(Some(1000));
    disk.remove("a").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(disk.free_space().unwrap(), 300, "the handle keeps it");
    drop(file);
    disk.create("c").unwrap();
    disk.remove("c").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(disk.free_space().unwrap(), 900);
}

#[test]
fn crash_frees_what_was_not_durable() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(1000));
    durable_file(&disk, "a", &[1; 100]);
    disk.create("lost").unwrap().write_at(0, &[1; 500]).unwrap();
    let seed = (0..).find(|seed| {
        // The name is lost or kept by the seed.
        let probe = SimDisk::new();
        probe.create("lost").unwrap();
        probe.crash(&mut rng(*seed));
        !probe.exists("lost").unwrap()
    });
    for _ in 0..20 {
        disk.crash(&mut rng(seed.unwrap()));
        let names = disk.list("").unwrap();
        let sizes = names.iter().map(|name| content(&disk, name).len() as u64);
        assert_eq!(disk.used_space(), sizes.sum::<u64>());
    }
}

#[test]
fn delays_are_drawn_and_taken_once() {
    let (short, long) = (Duration::from_millis(1), Duration::from_millis(5));
    let slow = Delay { rate: 500_000, min: short, max: long };
    let stall = Delay { rate: 10_000, min: Duration::from_secs(1), max: Duration::from_secs(20) };
    let disk = armed(DiskFaults { slow, stall, ..DiskFaults::default() }, 9);
    let mut seen = (0, 0);
    for _ in 0..2000 {
        disk.list("").unwrap();
        let delay = disk.take_delay();
        seen.0 += u64::from((short..=long).contains(&delay));
        seen.1 += u64::from(delay >= Duration::from_secs(1));
        assert_eq!(disk.take_delay(), Duration::ZERO);
    }
    let counters = disk.counters();
    assert!((900..1100).contains(&counters.delays) && (5..50).contains(&counters.stalls));
    assert!(seen.0 >= counters.delays - counters.stalls && seen.1 == counters.stalls, "{seen:?}");
}

#[test]
fn cleared_faults_strike_no_more_and_damage_stays() {
    let everything = DiskFaults {
        read_error: 1_000_000,
        write_error: 1_000_000,
        sync_error: 1_000_000,
        ..DiskFaults::default()
    };
    let disk = SimDisk::new();
    let file = durable_file(&disk, "a", b"x");
    disk.rot("a", 0, 0).unwrap();
    disk.set_faults(everything, rng(1));
    disk.set_read_only(true);
    disk.fail_from_call(0);
    disk.clear_faults();
    assert_eq!(content(&disk, "a"), b"y");
    file.write_at(0, b"z").unwrap();
    file.sync_data().unwrap();
}

#[test]
fn faults_are_a_function_of_calls_and_seeds() {
    let delay = Delay { rate: 200_000, min: Duration::ZERO, max: Duration::from_secs(1) };
    let faults = DiskFaults {
        read_error: 100_000,
        read_misdirected: 100_000,
        write_error: 100_000,
        write_misdirected: 100_000,
        sync_error: 100_000,
        rot: 100_000,
        slow: delay,
        stall: delay,
    };
    let run = |seed| {
        let disk = armed(faults, seed);
        let mut draw = rng(seed + 1000);
        let mut log = Vec::new();
        for round in 0..60_u64 {
            let name = format!("f{}", draw.below(4));
            let file = disk.open(&name).or_else(|_| disk.create(&name)).unwrap();
            let bytes = vec![round as u8; draw.below(3000) as usize];
            log.push(file.write_at(draw.below(4000), &bytes).is_ok());
            log.push(match draw.below(4) {
                0 | 1 => file.sync_data().is_ok(),
                2 => read(&*file, 0, 3000).is_ok_and(|bytes| bytes.contains(&1)),
                _ => disk.sync_dir("").is_ok(),
            });
        }
        (log, disk.take_delay(), disk.counters())
    };
    for seed in 0..10 {
        assert_eq!(run(seed), run(seed));
    }
    let sum =
        |count: fn(SimDiskCounters) -> u64| (0..10).map(|seed| count(run(seed).2)).sum::<u64>();
    assert!(sum(|counters| counters.read_errors) > 0);
    assert!(sum(|counters| counters.write_errors) > 0);
    assert!(sum(|counters| counters.sync_errors) > 0);
}
