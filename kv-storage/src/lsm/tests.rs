//! Tests of the tree as a whole, against a history that forgets nothing.

mod crash;
mod damage;
mod fault;
mod model;
mod mutants;
mod parts;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kv_core::id::{KeyspaceId, Timestamp};
use kv_core::machine::{LocalShardId, StoredKey};
use kv_core::op::Key;
use kv_core::rng::Rng;

use super::{ReadView, Scan, Tree, TreeError, TreeOptions, Watermarks};
use crate::mutants::Mutants;
use crate::vfs::{SimDisk, Vfs};

const FOLDER: &str = "tree";
const OWNER: u64 = 77;

/// Options under which a few hundred entries fill several levels.
fn small_options() -> TreeOptions {
    TreeOptions {
        memtable_bytes: 8 << 10,
        cache_bytes: 6 << 10,
        block_bytes: 200,
        restart_interval: 3,
        table_bytes: 1500,
        base_level_bytes: 2000,
        level_multiplier: 3,
        level0_compact: 2,
        level0_stop: 6,
        ..TreeOptions::new(OWNER)
    }
}

/// How often a heavy test repeats itself, by the environment variable `KV_TEST_SCALE`.
fn scaled(ci: u64, full: u64) -> u64 {
    match std::env::var("KV_TEST_SCALE").as_deref() {
        Ok("full") => full,
        Ok(_) | Err(_) => ci,
    }
}

/// The stored key, without version, of one of the keys that tests use.
fn prefix(local_id: u32, key: &[u8]) -> Vec<u8> {
    let key = Key { keyspace: KeyspaceId(1), bytes: Bytes::copy_from_slice(key) };
    StoredKey::prefix(LocalShardId(local_id), &key)
}

fn stored_key(prefix: &[u8], version: u64) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&(!version).to_be_bytes());
    key
}

/// Keys at the edges of what a key may be, and some in between.
fn draw_key(rng: &mut Rng) -> Vec<u8> {
    const EDGES: [&[u8]; 9] =
        [b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", b"\xff", b"\xff\xff", b"\xff\0"];
    match rng.below(4) {
        0 => EDGES[rng.below(9) as usize].to_vec(),
        _ => format!("key{:03}", rng.below(60)).into_bytes(),
    }
}

/// A value; none is a tombstone.
fn draw_value(rng: &mut Rng) -> Vec<u8> {
    match rng.below(4) {
        0 => vec![0],
        1 => vec![1],
        _ => std::iter::once(1).chain((0..rng.below(60)).map(|_| rng.next_u64() as u8)).collect(),
    }
}

/// What a log would hold.
#[derive(Clone, Debug)]
enum Op {
    Write(Vec<(Vec<u8>, Vec<u8>)>),
    RangeDelete(u32),
}

/// Key without version, version, value.
type LiveRow = (Vec<u8>, u64, Vec<u8>);

/// Everything that was ever done. The index of an operation, from 1 on, is the version of its
/// entries.
#[derive(Clone, Debug, Default)]
struct History {
    ops: Vec<Op>,
    /// Versions of each key, without the version.
    entries: BTreeMap<Vec<u8>, BTreeMap<u64, Vec<u8>>>,
    /// Deleted local ids, and by which operation.
    deleted: BTreeMap<u32, u64>,
}

impl History {
    fn index(&self) -> u64 {
        self.ops.len() as u64
    }

    fn push(&mut self, op: Op) {
        self.ops.push(op);
        let index = self.index();
        match self.ops.last().unwrap() {
            Op::Write(batch) => {
                for (key, value) in batch {
                    let (prefix, _) = key.split_last_chunk::<8>().unwrap();
                    self.entries.entry(prefix.to_vec()).or_default().insert(index, value.clone());
                }
            }
            Op::RangeDelete(id) => {
                self.deleted.insert(*id, index);
            }
        }
    }

    /// A batch for the next operation.
    fn draw_batch(&self, rng: &mut Rng, ids: &[u32]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let version = self.index() + 1;
        let count = 1 + rng.below(6);
        let mut batch = BTreeMap::new();
        for _ in 0..count {
            let id = ids[rng.below(ids.len() as u64) as usize];
            let key = stored_key(&prefix(id, &draw_key(rng)), version);
            batch.insert(key, draw_value(rng));
        }
        batch.into_iter().collect()
    }

    /// The live value of a key at a time, when the operations up to `upto` were done.
    fn get(&self, prefix: &[u8], at: u64, upto: u64) -> Option<(u64, &Vec<u8>)> {
        let id = u32::from_be_bytes(*prefix.first_chunk().unwrap());
        if self.deleted.get(&id).is_some_and(|index| *index <= upto) {
            return None;
        }
        let versions = self.entries.get(prefix)?;
        let (version, value) = versions.range(..=at.min(upto)).next_back()?;
        (**value != [0]).then_some((*version, value))
    }

    /// All live keys at a time, when the operations up to `upto` were done.
    fn rows(&self, at: u64, upto: u64) -> Vec<LiveRow> {
        let rows = self.entries.keys().filter_map(|prefix| {
            let (version, value) = self.get(prefix, at, upto)?;
            Some((prefix.clone(), version, value.clone()))
        });
        rows.collect()
    }
}

fn open(disk: &SimDisk) -> Result<(Tree, u64), TreeError> {
    open_with(Arc::new(disk.clone()), small_options())
}

/// Small options with planted bugs.
fn mutated(mutants: Mutants) -> TreeOptions {
    TreeOptions { mutants, ..small_options() }
}

/// Opens a tree. Returns the index in its metadata.
fn open_with(vfs: Arc<dyn Vfs>, options: TreeOptions) -> Result<(Tree, u64), TreeError> {
    let (tree, metadata) = Tree::open(vfs, FOLDER, options)?;
    let index = metadata.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    Ok((tree, index))
}

fn metadata(index: u64) -> Bytes {
    Bytes::copy_from_slice(&index.to_le_bytes())
}

/// Ends the memtable of everything up to `index`; nobody reads below `watermark`.
fn seal(tree: &mut Tree, index: u64, watermark: u64) {
    tree.seal(metadata(index), Watermarks::everywhere(Timestamp(watermark)));
}

fn apply(tree: &mut Tree, op: &Op) {
    match op {
        Op::Write(batch) => tree.write(batch),
        Op::RangeDelete(id) => tree.range_delete(*id),
    }
}

/// Writes what the tree does not hold, as from a log.
fn replay(tree: &mut Tree, history: &History, from: u64) {
    for op in &history.ops[from as usize..] {
        apply(tree, op);
    }
}

/// Flushes and compacts until nothing is due.
fn settle(tree: &mut Tree) -> Result<(), TreeError> {
    while tree.flush_step(1000)?.is_more_due {}
    while tree.is_compaction_due() {
        tree.compact_step(1000)?;
    }
    Ok(())
}

/// All live rows of a view at a time, by scans of random length.
fn rows(view: &ReadView, at: u64, rng: &mut Rng) -> Result<Vec<LiveRow>, TreeError> {
    rows_in(view, Scan { from: &[], to: None, at: Timestamp(at) }, rng)
}

/// All rows of a scan, by scans of random length.
fn rows_in(view: &ReadView, scan: Scan<'_>, rng: &mut Rng) -> Result<Vec<LiveRow>, TreeError> {
    let mut from = scan.from.to_vec();
    let mut rows = Vec::new();
    loop {
        let mut draw = |bound| 1 + rng.below(bound) as usize;
        let (rows_max, bytes_max, entries_max) = (draw(40), draw(4000), draw(80));
        let scan = Scan { from: &from, ..scan };
        let page = view.scan_bounded(scan, rows_max, bytes_max, entries_max)?;
        assert!(page.rows.len() <= rows_max);
        assert!(page.next.as_ref().is_none_or(|next| *next > from), "a page gets on");
        rows.extend(
            page.rows
                .into_iter()
                .map(|row| (row.prefix.to_vec(), row.version.0, row.value.to_vec())),
        );
        match page.next {
            Some(next) => from = next,
            None => return Ok(rows),
        }
    }
}

/// The live value of a key.
fn get(view: &ReadView, prefix: &[u8], at: u64) -> Result<Option<(u64, Vec<u8>)>, TreeError> {
    let found = view.get(prefix, Timestamp(at))?;
    Ok(found
        .filter(|(_, value)| **value != [0])
        .map(|(version, value)| (version.0, value.to_vec())))
}

/// Asserts that a view shows the history up to `upto`, read at `at`.
#[track_caller]
fn check(view: &ReadView, history: &History, at: u64, upto: u64, rng: &mut Rng) {
    let expected = history.rows(at, upto);
    assert_eq!(rows(view, at, rng).unwrap(), expected, "scan at {at} of {upto}");
    for key in history.entries.keys() {
        let expected = history.get(key, at, upto).map(|(version, value)| (version, value.clone()));
        assert_eq!(get(view, key, at).unwrap(), expected, "get of {key:?} at {at} of {upto}");
    }
}

/// Asserts that a view shows the history of one local id up to `upto`, read at `at`.
#[track_caller]
fn check_id(view: &ReadView, history: &History, id: u32, (at, upto): (u64, u64), rng: &mut Rng) {
    let (from, to) = (id.to_be_bytes(), id.wrapping_add(1).to_be_bytes());
    let to = (id != u32::MAX).then_some(&to[..]);
    let mut expected = history.rows(at, upto);
    expected.retain(|(key, _, _)| key.starts_with(&from));
    let scan = Scan { from: &from, to, at: Timestamp(at) };
    assert_eq!(rows_in(view, scan, rng).unwrap(), expected, "scan of {id} at {at} of {upto}");
    for key in history.entries.keys().filter(|key| key.starts_with(&from)) {
        let expected = history.get(key, at, upto).map(|(version, value)| (version, value.clone()));
        assert_eq!(get(view, key, at).unwrap(), expected, "get of {key:?} at {at} of {upto}");
    }
}

/// Names of the table files.
fn table_names(disk: &SimDisk) -> BTreeSet<String> {
    let names = disk.list(FOLDER).unwrap();
    names.into_iter().filter(|name| name.starts_with("table-")).collect()
}

/// A counter has any number of versions, and whoever reads past it must not look at all of them.
#[test]
fn scan_does_not_walk_all_versions_of_a_key() {
    let options = TreeOptions::new(1);
    let (mut tree, _) = Tree::open(Arc::new(SimDisk::new()), FOLDER, options).unwrap();
    tree.set_watermarks(Watermarks::everywhere(Timestamp(0)));
    let key = |name: &str, version: u64| {
        let mut key = format!("\0\0\0\x01{name}\0\0").into_bytes();
        key.extend_from_slice(&(!version).to_be_bytes());
        key
    };
    for version in 1..=2_000 {
        tree.write(&[(key("counter", version), b"\x01v")]);
    }
    for name in ["a", "z"] {
        tree.write(&[(key(name, 1_000), b"\x01v")]);
    }
    for at in [500, 1_000, 2_000, u64::MAX] {
        let scan = Scan { from: b"\0\0\0\x01", to: None, at: Timestamp(at) };
        let page = tree.view().scan_bounded(scan, 10, 10_000, 100).unwrap();
        let versions: Vec<_> = page.rows.iter().map(|row| row.version.0).collect();
        let expected = if at == 500 { vec![500] } else { vec![1_000, at.min(2_000), 1_000] };
        assert_eq!((versions, page.next), (expected, None), "at {at}");
    }
}
