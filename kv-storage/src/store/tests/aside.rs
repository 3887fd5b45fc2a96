//! What would go wrong: damaged data that are taken for data after a restart, or are gone before
//! anybody has them again.

use kv_core::cluster::Repair;

use super::*;
use crate::store::aside::ASIDE_PREFIX;

const SEGMENT: &str = "wal-0000000000000001.log";

/// A directory of a member with an entry, and the segment that holds it.
fn member() -> (SimDisk, Vec<u8>) {
    let disk = SimDisk::new();
    let mut opened = open_on(&disk).unwrap();
    let identity = formed(opened.identity.identity(), 5);
    opened.identity.store(&identity).unwrap();
    append(&mut opened.log, 1).unwrap();
    append(&mut opened.log, 2).unwrap();
    drop(opened);
    let bytes = file_bytes(&disk, SEGMENT);
    (disk, bytes)
}

/// Damages the entry, so that the next opening finds it.
fn rot(disk: &SimDisk) {
    let bytes = file_bytes(disk, SEGMENT);
    let at = bytes.windows(20).position(|bytes| bytes == [1; 20]).unwrap() as u64;
    disk.rot(SEGMENT, at, 3).unwrap();
}

fn told() -> StorageDamage {
    StorageDamage { file: "tree/x".into(), offset: 1, what: "a checksum".into() }
}

/// Opens a directory on which a node had found damage.
fn open_told(disk: &SimDisk) -> Result<Opened, OpenError> {
    open(Arc::new(disk.clone()), OpenOptions { damage: Some(told()), ..options() })
}

fn aside(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    files(disk).into_iter().filter(|(name, _)| name.contains(ASIDE_PREFIX)).collect()
}

#[test]
fn damaged_directory_of_a_member_is_set_aside_and_begun_anew_until_it_is_repaired() {
    let (disk, _) = member();
    rot(&disk);
    let before = file_bytes(&disk, SEGMENT);
    let mut opened = open_on(&disk).unwrap();
    let Recovered { identity, groups, damage } = opened.recovered.clone();
    assert!(groups.is_empty());
    assert_eq!(damage.as_ref().map(|damage| damage.file.as_str()), Some(SEGMENT));
    assert_eq!(identity.life, 1);
    assert_eq!(identity.repair, damage.map(|damage| Repair { damage, is_set_aside: true }));
    assert_eq!(file_bytes(&disk, &format!("damaged-0-{SEGMENT}")), before);
    append(&mut opened.log, 1).unwrap();
    drop(opened);

    let mut opened = open_on(&disk).unwrap();
    assert_eq!(opened.recovered.damage, None, "it is told once");
    assert_eq!(opened.recovered.identity, identity, "and remembered");
    assert_eq!(opened.recovered.groups[&ShardId(1)].entries.len(), 1);
    assert_ne!(aside(&disk), []);
    let whole = Identity { repair: None, ..identity };
    opened.identity.store(&whole).unwrap();
    assert_eq!(aside(&disk), []);
    drop(opened);
    assert_eq!(open_on(&disk).unwrap().recovered.identity, whole);
}

#[test]
fn what_a_running_node_found_sets_aside_a_directory_that_looks_whole() {
    let (disk, before) = member();
    let in_tree = |disk: &SimDisk| {
        let all = files(disk).into_iter();
        all.filter_map(|(name, bytes)| Some((name.strip_prefix("tree/")?.to_owned(), bytes)))
    };
    let tree: Vec<_> = in_tree(&disk).collect();
    assert_ne!(tree, [], "there is a manifest at least");
    let opened = open_told(&disk).unwrap();
    for (name, bytes) in tree {
        let aside = (format!("{ASIDE_PREFIX}0-{name}"), bytes);
        assert!(in_tree(&disk).any(|file| file == aside), "{name}");
    }
    assert_eq!(opened.recovered.damage, None, "the node knows");
    assert!(opened.recovered.groups.is_empty());
    let repair = Repair { damage: told(), is_set_aside: true };
    assert_eq!(opened.recovered.identity.repair, Some(repair));
    drop(opened);
    assert_eq!(file_bytes(&disk, &format!("damaged-0-{SEGMENT}")), before);
    let opened = open_told(&disk).unwrap();
    assert_eq!(opened.recovered.identity.life, 2);
    drop(opened);
    assert_eq!(file_bytes(&disk, &format!("damaged-0-{SEGMENT}")), before);
    assert!(disk.exists(&format!("damaged-1-{SEGMENT}")).unwrap());
}

#[test]
fn crash_at_every_call_leaves_all_data_and_never_takes_them_for_whole() {
    let calls = |disk: &SimDisk| disk.counters().calls;
    let (disk, _) = member();
    let before = calls(&disk);
    drop(open_told(&disk).unwrap());
    let count = calls(&disk) - before;
    assert!(count > 20, "{count} calls");
    for (succeed, seed) in (0..=count).flat_map(|at| (0..20).map(move |seed| (at, seed))) {
        for is_told in [false, true] {
            let (disk, _) = member();
            if !is_told {
                rot(&disk);
            }
            let before = file_bytes(&disk, SEGMENT);
            disk.fail_from_call(succeed);
            let answered = if is_told { open_told(&disk) } else { open_on(&disk) }.is_ok();
            disk.crash(&mut Rng::fork(seed, "crash"));
            let recovered = open_on(&disk).unwrap().recovered;
            let context = format!("after {succeed} calls, {seed}, {is_told}: {recovered:?}");
            let is_marked = recovered.identity.life == 1;
            assert!(is_marked || (is_told && !answered), "{context}");
            assert_eq!(is_marked, recovered.groups.is_empty(), "{context}");
            let is_there =
                |(name, bytes): &(String, Vec<u8>)| name.ends_with(SEGMENT) && *bytes == before;
            assert!(files(&disk).iter().any(is_there), "{context}");
        }
    }
}
