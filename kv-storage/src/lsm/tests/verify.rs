//! Finding all damage of a tree that is not open.

use super::damage::{Files, build, disk_of, files};
use super::*;
use crate::lsm::{Verification, verify};

/// Verifies a folder with these files, and asserts that nothing was changed.
fn verified(files_before: &Files) -> Verification {
    let disk = disk_of(files_before);
    let before = disk.counters();
    let verification = verify(&disk, FOLDER, OWNER).unwrap();
    let after = disk.counters();
    assert_eq!((after.bytes_written, after.syncs), (before.bytes_written, before.syncs));
    assert_eq!(files(&disk), *files_before);
    verification
}

fn tables(files: &Files) -> Vec<String> {
    files.keys().filter(|name| name.starts_with("table-")).cloned().collect()
}

/// The files in which damage was found, without their folder.
fn damaged_files(verification: &Verification) -> Vec<&str> {
    let names = verification.damage.iter().map(|damage| damage.file.as_str());
    names.filter_map(|path| path.strip_prefix("tree/")).collect()
}

#[test]
fn a_whole_tree_is_read_whole() {
    for compression in [false, true] {
        let (files, _) = build(compression);
        let verification = verified(&files);
        assert_eq!(verification.damage, []);
        assert_eq!(verification.file_count, files.len() as u64);
        let total: usize = files.values().map(Vec::len).sum();
        assert_eq!(verification.bytes_read, total as u64);
    }
}

#[test]
fn no_tree_has_no_damage() {
    let disk = SimDisk::new();
    assert_eq!(verify(&disk, FOLDER, OWNER).unwrap(), Verification::default());
    disk.create_dir(FOLDER).unwrap();
    assert_eq!(verify(&disk, FOLDER, OWNER).unwrap(), Verification::default());
}

#[test]
fn any_damaged_byte_of_a_table_is_found_where_it_is() {
    let (files, _) = build(false);
    for name in tables(&files) {
        for at in (0..files[&name].len()).step_by(scaled(7, 1) as usize) {
            let mut damaged = files.clone();
            damaged.get_mut(&name).unwrap()[at] ^= 0xff;
            let verification = verified(&damaged);
            assert_eq!(damaged_files(&verification), [&name], "{name} at {at}");
            assert!(verification.damage[0].offset <= at as u64);
        }
    }
}

#[test]
fn damage_does_not_hide_other_damage() {
    let (mut files, _) = build(false);
    let names = tables(&files);
    for name in &names {
        files.get_mut(name).unwrap()[10] ^= 1;
    }
    let first = files.get_mut(&names[0]).unwrap();
    // In the filter, which lies before an index and the footer.
    let filter_at = first[first.len() - 32..].first_chunk().map(|at| u64::from_le_bytes(*at));
    first[filter_at.unwrap() as usize] ^= 1;
    files.remove(&names[1]);
    let mut expected: Vec<_> = names.iter().map(String::as_str).collect();
    expected.insert(0, &names[0]);
    assert_eq!(damaged_files(&verified(&files)), expected);
    // Without a manifest the tables that are there are verified all the same.
    files.get_mut("MANIFEST").unwrap()[0] ^= 1;
    expected.remove(2);
    expected.insert(0, "MANIFEST");
    assert_eq!(damaged_files(&verified(&files)), expected);
    files.remove("MANIFEST");
    assert_eq!(damaged_files(&verified(&files)), expected);
}

#[test]
fn leftovers_are_no_damage() {
    let (mut files, _) = build(false);
    files.insert("table-00000000000fffff.kvt".into(), b"begun".to_vec());
    let verification = verified(&files);
    assert_eq!((verification.damage_count, verification.leftover_count), (0, 1));
}
