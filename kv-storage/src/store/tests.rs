//! What would go wrong: a node that starts on somebody else's directory, or on one that lost a
//! part, or that changes a directory it refuses.

mod aside;
mod crash;
mod damage;
mod differential;
mod faults;
mod install;
mod join;
mod model;
mod mutants;
mod world;

use kv_core::cluster::ClusterRecord;
use kv_core::codec;
use kv_core::id::{AppendId, ClusterId, LogId, ShardId};
use kv_core::rng::Rng;
use kv_core::storage::{Append, Entry, GroupWrite, ReadError, StorageReply};

use super::*;
use crate::identity::IDENTITY_FILE;
use crate::vfs::{OsVfs, SimDisk, read_all};

/// How much a heavy test does: the first, or the second with `KV_TEST_SCALE=full`.
fn scaled<T>(ci: T, full: T) -> T {
    match std::env::var("KV_TEST_SCALE").as_deref() {
        Ok("full") => full,
        Ok(_) | Err(_) => ci,
    }
}

fn options() -> OpenOptions {
    let options = OpenOptions::new("test", NodeId(2), Incarnation(0xfeed));
    OpenOptions { log_segment_bytes: 4096, ..options }
}

fn open_on(vfs: &(impl Vfs + Clone + 'static)) -> Result<Opened, OpenError> {
    open(Arc::new(vfs.clone()), options())
}

fn append(log: &mut Log, index: u64) -> Result<(), LogError> {
    let entry = Entry { id: LogId::new(1, index), payload: vec![index as u8; 50].into() };
    let write = GroupWrite { shard: ShardId(1), hard_state: None, entries: vec![entry] };
    log.append(&[Append { id: AppendId(index), writes: vec![write] }]).map(|_| ())
}

fn formed(identity: &Identity, id: u128) -> Identity {
    let (members, shard_count, replica_count) = (Vec::new(), 16, 3);
    let record = ClusterRecord { id: ClusterId(id), members, shard_count, replica_count };
    Identity { cluster: Some(record), ..identity.clone() }
}

fn file_bytes(vfs: &dyn Vfs, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    read_all(&*vfs.open(name).unwrap(), &mut bytes).unwrap();
    bytes
}

/// Paths and contents of all files.
fn files(vfs: &dyn Vfs) -> Vec<(String, Vec<u8>)> {
    let below = |name: String| match vfs.list(&name) {
        Ok(names) => names.into_iter().map(|inner| format!("{name}/{inner}")).collect(),
        Err(_) => vec![name],
    };
    let paths = vfs.list("").unwrap().into_iter().flat_map(below);
    paths.map(|path| (path.clone(), file_bytes(vfs, &path))).collect()
}

fn check_life(vfs: &(impl Vfs + Clone + 'static)) {
    let mut opened = open_on(vfs).unwrap();
    assert_eq!(opened.recovered.identity.incarnation, Incarnation(0xfeed));
    assert!(opened.recovered.groups.is_empty());
    append(&mut opened.log, 1).unwrap();
    let identity = formed(opened.identity.identity(), 5);
    assert_eq!(opened.identity.store(&identity).unwrap(), StorageReply::IdentityStored);
    assert_eq!(opened.identity.identity(), &identity);
    drop(opened);
    let later = OpenOptions { fresh_incarnation: Incarnation(1), ..options() };
    let opened = open(Arc::new(vfs.clone()), later).unwrap();
    assert_eq!(opened.recovered.identity, identity);
    assert_eq!(opened.recovered.groups[&ShardId(1)].entries.len(), 1);
    assert_eq!(opened.engine.applied(ShardId(1)), LogId::default());
}

#[test]
fn directory_remembers_itself_on_the_simulated_disk() {
    check_life(&SimDisk::new());
}

#[test]
fn directory_remembers_itself_on_the_operating_system() {
    let dir = tempfile::tempdir().unwrap();
    check_life(&OsVfs::new(dir.path()).unwrap());
}

#[test]
fn directory_in_use_is_refused_until_log_and_identity_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let vfs = OsVfs::new(dir.path()).unwrap();
    let Opened { log, identity, .. } = open_on(&vfs).unwrap();
    let before = files(&vfs);
    assert!(matches!(open_on(&vfs), Err(OpenError::InUse(_))));
    drop(log);
    assert!(matches!(open_on(&vfs), Err(OpenError::InUse(_))));
    assert_eq!(files(&vfs), before);
    drop(identity);
    let Opened { log, identity, .. } = open_on(&vfs).unwrap();
    drop(identity);
    assert!(matches!(open_on(&vfs), Err(OpenError::InUse(_))));
    drop(log);
    open_on(&vfs).unwrap();
}

/// Opens a directory that must be refused, and sees to it that nothing was changed.
#[track_caller]
fn refused(disk: &SimDisk, options: OpenOptions) -> OpenError {
    let (before, calls) = (files(disk), disk.counters());
    let error = open(Arc::new(disk.clone()), options).unwrap_err();
    let after = disk.counters();
    assert_eq!(files(disk), before);
    assert_eq!((after.bytes_written, after.syncs), (calls.bytes_written, calls.syncs));
    error
}

fn overwrite_identity(disk: &SimDisk, change: impl FnOnce(&mut Vec<u8>)) {
    let file = disk.open(IDENTITY_FILE).unwrap();
    let mut bytes = Vec::new();
    read_all(&*file, &mut bytes).unwrap();
    change(&mut bytes);
    file.set_len(0).unwrap();
    file.write_at(0, &bytes).unwrap();
}

fn used_disk() -> SimDisk {
    let disk = SimDisk::new();
    let mut opened = open_on(&disk).unwrap();
    append(&mut opened.log, 1).unwrap();
    disk
}

#[test]
fn directory_of_another_cluster_or_node_is_refused() {
    let disk = used_disk();
    let error = refused(&disk, OpenOptions { cluster_name: "other".to_owned(), ..options() });
    assert_eq!(error.to_string(), "the data directory belongs to cluster \"test\", not \"other\"");
    let error = refused(&disk, OpenOptions { node: NodeId(3), ..options() });
    assert_eq!(error.to_string(), "the data directory belongs to node n2, not n3");
}

#[test]
fn unknown_version_of_the_identity_is_told_from_damage() {
    let disk = used_disk();
    overwrite_identity(&disk, |bytes| bytes[4] = 0xff);
    let error = refused(&disk, options());
    assert!(matches!(error, OpenError::Identity(IdentityError::Damaged)), "{error:?}");
    overwrite_identity(&disk, |bytes| {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let error = refused(&disk, options());
    assert!(matches!(error, OpenError::Identity(IdentityError::UnknownVersion(0xff))), "{error:?}");
}

#[test]
fn damaged_identity_is_refused() {
    let whole = files(&used_disk())[0].1.clone();
    for bit in 0..whole.len() * 8 {
        let disk = used_disk();
        overwrite_identity(&disk, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let error = refused(&disk, options());
        assert!(matches!(error, OpenError::Identity(IdentityError::Damaged)), "{error:?}");
    }
    for size in 0..whole.len() {
        let disk = used_disk();
        overwrite_identity(&disk, |bytes| bytes.truncate(size));
        let error = refused(&disk, options());
        assert!(matches!(error, OpenError::Identity(IdentityError::Damaged)), "{error:?}");
    }
}

#[test]
fn whole_file_with_another_content_is_refused() {
    let disk = used_disk();
    overwrite_identity(&disk, |bytes| {
        bytes.truncate(16);
        bytes.extend(codec::encode(&7_u8));
        bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let error = refused(&disk, options());
    assert!(matches!(error, OpenError::Identity(IdentityError::Content(_))), "{error:?}");
}

#[test]
fn log_or_tree_without_identity_is_refused() {
    let disk = used_disk();
    disk.remove(IDENTITY_FILE).unwrap();
    assert!(matches!(refused(&disk, options()), OpenError::IdentityMissing));
    for name in disk.list("").unwrap().iter().filter(|name| name.ends_with(".log")) {
        disk.remove(name).unwrap();
    }
    assert_eq!(disk.list("").unwrap(), ["tree"]);
    assert!(matches!(refused(&disk, options()), OpenError::IdentityMissing));
}

#[test]
fn formed_identity_without_log_is_refused() {
    let disk = SimDisk::new();
    let mut opened = open_on(&disk).unwrap();
    let identity = formed(opened.identity.identity(), 5);
    opened.identity.store(&identity).unwrap();
    drop(opened);
    open_on(&disk).unwrap();
    disk.remove("wal-0000000000000001.log").unwrap();
    assert!(matches!(refused(&disk, options()), OpenError::LogMissing));
}

#[test]
fn corrupt_log_is_told_and_takes_no_writes() {
    let disk = SimDisk::new();
    let mut opened = open_on(&disk).unwrap();
    append(&mut opened.log, 1).unwrap();
    append(&mut opened.log, 2).unwrap();
    drop(opened);
    let segment = "wal-0000000000000001.log";
    let whole = file_bytes(&disk, segment);
    let at = whole.windows(20).position(|bytes| bytes == [1; 20]).unwrap() as u64;
    disk.rot(segment, at, 3).unwrap();
    let before = file_bytes(&disk, segment);
    let mut opened = open_on(&disk).unwrap();
    let damage = opened.recovered.damage.unwrap();
    assert_eq!(damage.file, segment);
    assert!(damage.offset < at);
    assert!(opened.recovered.groups.is_empty(), "nobody may go on from what is left");
    assert!(matches!(append(&mut opened.log, 1), Err(LogError::ReadOnly)));
    assert!(matches!(opened.log.write_idle_batch(), Err(LogError::ReadOnly)));
    assert!(!opened.log.owes_idle_batch());
    assert_eq!(file_bytes(&disk, segment), before);
}

/// First start, an append, and two changes of the identity. Returns how many of the four steps were
/// answered.
fn script(disk: &SimDisk) -> usize {
    let Ok(mut opened) = open_on(disk) else { return 0 };
    let first = formed(opened.identity.identity(), 1);
    let second = formed(opened.identity.identity(), 2);
    if append(&mut opened.log, 1).is_err() {
        return 1;
    }
    let steps = [first, second];
    2 + steps.iter().take_while(|identity| opened.identity.store(identity).is_ok()).count()
}

#[test]
fn crash_at_every_call_leaves_the_old_or_the_new_directory() {
    let disk = SimDisk::new();
    assert_eq!(script(&disk), 4);
    for succeed in 0..=disk.counters().calls {
        for seed in 0..40 {
            let disk = SimDisk::new();
            disk.fail_from_call(succeed);
            let answered = script(&disk);
            disk.crash(&mut Rng::fork(seed, "crash"));
            check_after_crash(&disk, answered);
        }
    }
}

/// A process that dies leaves its unsynced changes to the next one, which must make durable what it
/// builds on.
#[test]
fn crash_after_the_death_of_a_process_leaves_what_the_next_one_saw() {
    for succeed in 0..24 {
        for seed in 0..20 {
            let disk = SimDisk::new();
            disk.fail_from_call(succeed);
            script(&disk);
            disk.fail_from_call(u64::from(u32::MAX));
            let later = OpenOptions { fresh_incarnation: Incarnation(1), ..options() };
            let seen = open(Arc::new(disk.clone()), later.clone()).unwrap().recovered;
            disk.crash(&mut Rng::fork(seed, "crash"));
            let later = OpenOptions { fresh_incarnation: Incarnation(2), ..later };
            assert_eq!(open(Arc::new(disk), later).unwrap().recovered, seen);
        }
    }
}

fn check_after_crash(disk: &SimDisk, answered: usize) {
    let later = OpenOptions { fresh_incarnation: Incarnation(1), ..options() };
    let recovered = open(Arc::new(disk.clone()), later).unwrap().recovered;
    let cluster = recovered.identity.cluster.map_or(0, |record| record.id.0);
    let allowed: &[u128] = match answered {
        0 | 1 => &[0],
        2 => &[0, 1],
        3 => &[1, 2],
        _ => &[2],
    };
    assert!(allowed.contains(&cluster), "{answered} steps were answered, found {cluster}");
    let is_first_life = recovered.identity.incarnation == Incarnation(0xfeed);
    assert!(is_first_life || answered == 0, "the incarnation of an answered opening is durable");
    let has_entry = recovered.groups.contains_key(&ShardId(1));
    assert!(has_entry || answered < 2, "an answered append is durable");
}
