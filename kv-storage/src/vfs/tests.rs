//! What would go wrong: a disk that promises more in the simulator than in production hides bugs,
//! one that promises less invents them.

mod faults;

use std::io::ErrorKind;

use kv_core::rng::Rng;

use super::*;

fn rng(seed: u64) -> Rng {
    Rng::fork(seed, "disk test")
}

fn content(vfs: &dyn Vfs, path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    read_all(&*vfs.open(path).unwrap(), &mut out).unwrap();
    out
}

fn durable_file(disk: &SimDisk, path: &str, bytes: &[u8]) -> Box<dyn VfsFile> {
    let file = disk.create(path).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir("").unwrap();
    file
}

#[track_caller]
fn check_fails<T: fmt::Debug>(result: io::Result<T>, kind: ErrorKind) {
    assert_eq!(result.unwrap_err().kind(), kind);
}

/// Both disks pass it.
fn check_semantics(vfs: &dyn Vfs) {
    check_files(vfs);
    check_names(vfs);
    check_lock(vfs);
    assert!(vfs.free_space().unwrap() > 0);
}

fn check_files(vfs: &dyn Vfs) {
    let file = vfs.create("a").unwrap();
    check_fails(vfs.create("a"), ErrorKind::AlreadyExists);
    check_fails(vfs.open("b"), ErrorKind::NotFound);
    file.write_at(0, b"hello world").unwrap();
    file.write_at(6, b"W").unwrap();
    file.sync_data().unwrap();
    file.write_at(13, b"!").unwrap();
    assert_eq!(content(vfs, "a"), b"hello World\0\0!");
    let mut buffer = [9; 8];
    assert_eq!(file.read_at(6, &mut buffer).unwrap(), 8);
    assert_eq!(&buffer, b"World\0\0!");
    assert_eq!(file.read_at(12, &mut buffer).unwrap(), 2);
    assert_eq!(file.read_at(99, &mut buffer).unwrap(), 0);
    file.set_len(4).unwrap();
    file.set_len(6).unwrap();
    assert_eq!(content(vfs, "a"), b"hell\0\0");
    file.preallocate(8).unwrap();
    file.preallocate(2).unwrap();
    assert_eq!(file.size().unwrap(), 8);
    file.sync_data().unwrap();
    file.write_at(0, b"").unwrap();
    assert_eq!(content(vfs, "a"), b"hell\0\0\0\0");
}

fn check_names(vfs: &dyn Vfs) {
    vfs.create_dir("d").unwrap();
    check_fails(vfs.create_dir("d"), ErrorKind::AlreadyExists);
    check_fails(vfs.create_dir("x/y"), ErrorKind::NotFound);
    vfs.create("d/one").unwrap().write_at(0, b"1").unwrap();
    vfs.link("d/one", "two").unwrap();
    check_fails(vfs.link("d/one", "a"), ErrorKind::AlreadyExists);
    vfs.open("two").unwrap().write_at(1, b"2").unwrap();
    vfs.sync_dir("d").unwrap();
    vfs.remove("d/one").unwrap();
    assert_eq!(content(vfs, "two"), b"12");
    vfs.rename("two", "a").unwrap();
    assert_eq!(content(vfs, "a"), b"12");
    assert_eq!(vfs.list("").unwrap(), ["a", "d"]);
    assert!(vfs.list("d").unwrap().is_empty());
    assert!(vfs.exists("a").unwrap() && vfs.exists("d").unwrap());
    assert!(!vfs.exists("two").unwrap() && !vfs.exists("x/y").unwrap());
    check_fails(vfs.remove("two"), ErrorKind::NotFound);
    check_fails(vfs.rename("two", "a"), ErrorKind::NotFound);
    check_fails(vfs.rename("a", "d/a"), ErrorKind::InvalidInput);
    for path in ["../a", "/a", "d//a", "d/.", ""] {
        check_fails(vfs.create(path), ErrorKind::InvalidInput);
    }
    let file = vfs.open("a").unwrap();
    vfs.remove("a").unwrap();
    vfs.sync_dir("d").unwrap();
    vfs.sync_dir("").unwrap();
    assert_eq!(file.size().unwrap(), 2, "an open file outlives its name");
}

fn check_lock(vfs: &dyn Vfs) {
    let lock = vfs.lock_dir("").unwrap();
    check_fails(vfs.lock_dir(""), ErrorKind::ResourceBusy);
    drop(lock);
    drop(vfs.lock_dir("").unwrap());
}

#[test]
fn simulated_disk_has_the_semantics_of_a_file_system() {
    check_semantics(&SimDisk::new());
}

#[test]
fn operating_system_has_the_semantics_of_a_file_system() {
    let dir = tempfile::tempdir().unwrap();
    check_semantics(&OsVfs::new(dir.path().join("not/there/yet")).unwrap());
}

#[test]
fn synced_bytes_survive_and_unsynced_bytes_may_not() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..64 {
        let disk = SimDisk::new();
        let file = durable_file(&disk, "a", b"synced|");
        file.write_at(7, b"unsynced").unwrap();
        drop(file);
        disk.crash(&mut rng(seed));
        match &content(&disk, "a")[..] {
            b"synced|" | b"synced|\0\0\0\0\0\0\0\0" => lost += 1,
            b"synced|unsynced" => kept += 1,
            other => panic!("neither kept nor lost: {other:?}"),
        }
    }
    assert!(lost > 0 && kept > 0, "both happen: lost {lost}, kept {kept}");
}

#[test]
fn large_write_is_torn_at_sectors_only() {
    let mut torn = 0;
    for seed in 0..64 {
        let disk = SimDisk::new();
        let file = durable_file(&disk, "a", &[1; 4096]);
        file.write_at(100, &[2; 3000]).unwrap();
        disk.crash(&mut rng(seed));
        let after = content(&disk, "a");
        for (number, sector) in after[..4096].chunks(SECTOR_BYTES).enumerate() {
            let written = &sector[if number == 0 { 100 } else { 0 }..];
            let written = &written[..written.len().min(3100_usize.saturating_sub(number * 512))];
            assert!(written.iter().all(|byte| *byte == written[0]), "sector {number} is torn");
        }
        torn += disk.counters().torn;
    }
    assert!(torn > 0, "some writes are torn");
}

#[test]
fn later_write_may_survive_an_earlier_one() {
    let seen = (0..64).any(|seed| {
        let disk = SimDisk::new();
        let file = durable_file(&disk, "a", b"....");
        file.write_at(0, b"1").unwrap();
        file.write_at(1, b"2").unwrap();
        disk.crash(&mut rng(seed));
        content(&disk, "a") == b".2.." && disk.counters().reordered == 1
    });
    assert!(seen, "no crash reordered the writes");
}

#[test]
fn unsynced_cut_may_be_undone() {
    let sizes: std::collections::BTreeSet<_> = (0..32)
        .map(|seed| {
            let disk = SimDisk::new();
            durable_file(&disk, "a", b"12345678").set_len(3).unwrap();
            disk.crash(&mut rng(seed));
            content(&disk, "a").len()
        })
        .collect();
    assert_eq!(sizes, [3, 8].into());
}

#[test]
fn name_is_durable_only_after_the_sync_of_its_directory() {
    let mut lost = 0;
    for seed in 0..32 {
        let disk = SimDisk::new();
        let file = disk.create("a").unwrap();
        file.write_at(0, b"x").unwrap();
        file.sync_data().unwrap();
        durable_file(&disk, "b", b"y");
        disk.create("c").unwrap().sync_data().unwrap();
        disk.crash(&mut rng(seed));
        assert_eq!(content(&disk, "a"), b"x", "a was named before the sync");
        lost += u64::from(!disk.exists("c").unwrap());
    }
    assert!(lost > 0 && lost < 32, "the unsynced name is kept or lost: {lost} of 32");
}

#[test]
fn rename_without_sync_leaves_one_of_both_and_never_neither() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let disk = SimDisk::new();
        durable_file(&disk, "new", b"new");
        durable_file(&disk, "it", b"old");
        disk.rename("new", "it").unwrap();
        disk.remove("it").unwrap();
        disk.crash(&mut rng(seed));
        let it = disk.exists("it").unwrap().then(|| content(&disk, "it"));
        outcomes.insert((it, disk.exists("new").unwrap()));
    }
    let (old, new) = (b"old".to_vec(), b"new".to_vec());
    assert_eq!(outcomes, [(None, false), (Some(old), true), (Some(new), false)].into());
}

#[test]
fn crash_makes_handles_stale_and_releases_locks() {
    let disk = SimDisk::new();
    let file = durable_file(&disk, "a", b"x");
    let old_lock = disk.lock_dir("").unwrap();
    disk.crash(&mut rng(1));
    assert!(file.size().is_err());
    assert!(file.write_at(0, b"y").is_err());
    let lock = disk.lock_dir("").unwrap();
    drop(old_lock);
    check_fails(disk.lock_dir(""), ErrorKind::ResourceBusy);
    drop(lock);
    assert_eq!(content(&disk, "a"), b"x");
}

#[test]
fn failing_disk_fails_every_call_until_the_crash() {
    let disk = SimDisk::new();
    let file = durable_file(&disk, "a", b"x");
    disk.fail_from_call(2);
    file.write_at(0, b"y").unwrap();
    file.sync_data().unwrap();
    assert!(file.write_at(0, b"z").is_err());
    assert!(disk.list("").is_err());
    assert!(disk.lock_dir("").is_err());
    assert_eq!(disk.counters().calls_failed, 3);
    disk.crash(&mut rng(1));
    assert_eq!(content(&disk, "a"), b"y");
}

#[test]
fn disk_is_a_function_of_calls_and_seeds() {
    let run = |seed| {
        let disk = SimDisk::new();
        let mut draw = rng(seed);
        for round in 0..20_u64 {
            let name = format!("f{}", draw.below(4));
            let file = disk.open(&name).or_else(|_| disk.create(&name)).unwrap();
            file.write_at(draw.below(4000), &vec![round as u8; draw.below(3000) as usize]).unwrap();
            match draw.below(4) {
                0 => file.sync_data().unwrap(),
                1 => disk.sync_dir("").unwrap(),
                2 => file.set_len(draw.below(2000)).unwrap(),
                _ => disk.crash(&mut draw),
            }
        }
        let names = disk.list("").unwrap();
        let contents: Vec<_> = names.iter().map(|name| content(&disk, name)).collect();
        (names, contents, disk.counters())
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}

/// The disk against a plain byte vector, while nothing crashes.
#[test]
fn file_reads_like_a_byte_vector() {
    for seed in 0..50 {
        let mut draw = rng(seed);
        let file = SimDisk::new().create("a").unwrap();
        let mut model: Vec<u8> = Vec::new();
        for round in 0..40_u8 {
            let (at, len) = (draw.below(3000) as usize, 1 + draw.below(1500) as usize);
            match draw.below(5) {
                0 => file.sync_data().unwrap(),
                1 => {
                    file.set_len(at as u64).unwrap();
                    model.resize(at, 0);
                }
                _ => {
                    file.write_at(at as u64, &vec![round; len]).unwrap();
                    model.resize(model.len().max(at + len), 0);
                    model[at..at + len].fill(round);
                }
            }
            let (at, len) = (draw.below(3000) as usize, 1 + draw.below(1500) as usize);
            let mut buffer = vec![7; len];
            let count = file.read_at(at as u64, &mut buffer).unwrap();
            let end = model.len().min(at + len);
            assert_eq!(buffer[..count], model[at.min(end)..end]);
            assert_eq!(file.size().unwrap(), model.len() as u64);
        }
    }
}
