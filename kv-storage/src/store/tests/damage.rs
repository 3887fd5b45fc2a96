//! What would go wrong: a damaged byte that is answered with, or that makes a node forget what it
//! has promised, or panic.
//!
//! A directory with everything in it is damaged in one place, opened, and read from end to end.
//! Either every answer is right, or the damage is told.

use kv_core::id::{RequestHandle, Timestamp};
use kv_core::storage::{Read, RecoveredGroup};

use super::model::{Floors, Logs, expected};
use super::world::{SHARDS, World, small_options};
use super::*;
use crate::mutants::Mutants;

/// A batch of a segment, and the types of its records.
#[derive(Debug)]
struct Batch {
    start: usize,
    end: usize,
    kinds: Vec<u8>,
}

fn number_at<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(out)
}

/// The batches of a segment, as docs/formats.md describes them.
fn batches(bytes: &[u8], segment: u64) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut start = 0;
    while bytes.get(start..start + 4) == Some(b"KVWB")
        && (number_at::<8>(bytes, start + 24), number_at::<8>(bytes, start + 32))
            == (segment, start as u64)
    {
        let end = start + number_at::<4>(bytes, start + 8) as usize;
        let mut at = start + 64;
        let kinds = (0..number_at::<4>(bytes, start + 12)).map(|_| {
            let kind = bytes[at + 4];
            at += 16 + number_at::<4>(bytes, at) as usize;
            kind
        });
        let kinds = kinds.collect();
        batches.push(Batch { start, end, kinds });
        start = end;
    }
    batches
}

/// A directory, and what it must answer.
pub(super) struct Directory {
    files: Vec<(String, Vec<u8>)>,
    world: World,
    /// The last segment.
    head: String,
    /// Its batches.
    batches: Vec<Batch>,
}

/// What became of a damaged directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It holds everything.
    Whole,
    /// It lacks the last changes of the log, and does not know.
    Behind,
    /// It knows.
    Damaged,
}

/// How often each became of it.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    whole: u64,
    behind: u64,
    damaged: u64,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Whole => self.whole += 1,
            Verdict::Behind => self.behind += 1,
            Verdict::Damaged => self.damaged += 1,
        }
    }
}

/// A disk that holds these files.
fn disk_of(files: &[(String, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir("tree").unwrap();
    for (path, bytes) in files {
        disk.create(path).unwrap().write_at(0, bytes).unwrap();
    }
    disk
}

impl Directory {
    /// A directory with tables on several levels, segments, and every kind of record. The log ends
    /// with entries, or with an idle batch.
    pub(super) fn build(ends_idle: bool, mutants: Mutants) -> Self {
        let mut world = World::new(5, mutants);
        world.history = Some(vec![Logs::new()]);
        world.draw.key_count = 60;
        world.open().unwrap();
        while !has_everything(&world) {
            world.step().unwrap();
        }
        for _ in 0..6 {
            world.append().unwrap();
            world.apply_all().unwrap();
        }
        world.append().unwrap();
        if ends_idle {
            world.idle().unwrap();
        }
        let usage = world.store().log.usage();
        assert!(usage.segment_count >= 2, "{usage:?}");
        world.close();
        let mut files = files(&world.disk);
        let disk = disk_of(&files);
        drop(open(Arc::new(disk.clone()), world.options.clone()).unwrap());
        // A table that a compaction under way has begun counts for nothing.
        let listed = disk.list("tree").unwrap();
        files.retain(|(path, _)| match path.strip_prefix("tree/") {
            Some(name) => !name.starts_with("table-") || listed.iter().any(|it| it == name),
            None => true,
        });
        let segment = |name: &str| {
            let digits = name.strip_prefix("wal-")?.strip_suffix(".log")?;
            u64::from_str_radix(digits, 16).ok()
        };
        let all = || files.iter().filter_map(|(name, bytes)| Some((name, segment(name)?, bytes)));
        let kinds = all().flat_map(|(_, number, bytes)| batches(bytes, number));
        let kinds: Vec<_> = kinds.flat_map(|batch| batch.kinds).collect();
        assert!((1..=4).all(|kind| kinds.contains(&kind)), "every kind of record is there");
        let (head, number, bytes) = all().next_back().unwrap();
        let (head, batches) = (head.clone(), batches(bytes, number));
        assert!(batches.len() > 5, "the last segment is in use");
        assert_eq!(batches.last().unwrap().kinds.is_empty(), ends_idle);
        Self { files, world, head, batches }
    }

    /// Opens the directory with another content of one file, and reads everything.
    fn judge(&self, file: usize, content: &[u8]) -> Verdict {
        let disk = disk_of(&self.files);
        let path = &self.files[file].0;
        disk.remove(path).unwrap();
        disk.create(path).unwrap().write_at(0, content).unwrap();
        let opened = open(Arc::new(disk), self.world.options.clone());
        let (recovered, mut engine) = match opened {
            Ok(Opened { recovered, engine, .. }) => (recovered, engine),
            Err(OpenError::Identity(IdentityError::Damaged) | OpenError::Log(_)) => {
                return Verdict::Damaged;
            }
            Err(other) => panic!("not the error of a damaged directory: {other:?}"),
        };
        if recovered.damage.is_some() {
            return Verdict::Damaged;
        }
        match self.read(&recovered, &mut engine) {
            Err(_) => Verdict::Damaged,
            Ok(()) if recovered.groups == self.expected(&engine, 0) => Verdict::Whole,
            Ok(()) => Verdict::Behind,
        }
    }

    /// What is recovered when `missing` changes of the log are gone, as far as they are no longer
    /// than what the tables hold.
    fn expected(&self, engine: &Engine, missing: usize) -> BTreeMap<ShardId, RecoveredGroup> {
        let history = self.world.history.as_ref().unwrap();
        let flushed = self.world.shards.iter().map(|(shard, it)| (*shard, it.flushed.applied));
        let flushed: Floors = flushed.filter(|(_, id)| *id != LogId::default()).collect();
        for (shard, applied) in &flushed {
            assert!(engine.applied(*shard) >= *applied);
        }
        expected(&history[history.len() - 1 - missing], &flushed)
    }

    /// Reads everything, and applies what the tables do not hold.
    fn read(&self, recovered: &Recovered, engine: &mut Engine) -> Result<(), StorageDamage> {
        for shard in SHARDS {
            let model = &self.world.shards[&shard];
            let found = engine.applied(shard);
            assert_eq!(found, model.flushed.applied);
            assert_eq!(engine.scan(shard)?, model.flushed.rows());
            let Some(group) = recovered.groups.get(&shard) else { continue };
            let count = (found.index.0 - group.floor.index.0) as usize;
            // A log that lost its end may hold what was overwritten before anything was applied.
            let was_applied = |entry: &&Entry| model.since.iter().any(|it| it.entry == **entry);
            let rest = group.entries.iter().skip(count).take_while(was_applied);
            for entry in rest {
                if let StorageReply::Damaged(damage) =
                    engine.apply(shard, std::slice::from_ref(entry))
                {
                    return Err(damage);
                }
            }
            let state = model.state_at(engine.applied(shard).index);
            assert_eq!(engine.applied(shard), state.applied);
            for (key, expected) in &state.keys {
                let (handle, at_least) = (RequestHandle(1), state.applied.index);
                let (key, timestamp) = (key.clone(), Timestamp::MAX);
                match engine.read(&Read { handle, shard, at_least, timestamp, key }) {
                    StorageReply::Read { result: Ok(found), .. } => {
                        assert_eq!(found.as_ref(), Some(expected));
                    }
                    StorageReply::Read { result: Err(ReadError::Damaged(damage)), .. } => {
                        return Err(damage);
                    }
                    other => panic!("not the reply to a read: {other:?}"),
                }
            }
            assert_eq!(engine.scan(shard)?, state.rows());
        }
        Ok(())
    }

    /// Whether damage here can look like a torn tail: in the last batch, which nothing states to be
    /// durable, unless it states so much itself.
    fn is_window(&self, file: usize, at: usize) -> bool {
        let last = self.batches.last().unwrap();
        self.files[file].0 == self.head && !last.kinds.is_empty() && at >= last.start
    }

    /// Damages single bytes of the files for which `wanted` holds.
    fn flip(&self, stride: usize, wanted: impl Fn(&str) -> bool) -> Tally {
        let mut rng = Rng::fork(1, "flip");
        let (mut tally, mut window) = (Tally::default(), 0);
        for (file, (path, bytes)) in self.files.iter().enumerate() {
            for at in places(bytes.len(), stride).filter(|_| wanted(path)) {
                for mask in [0xff, 1 << rng.below(8)] {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= mask;
                    let verdict = self.judge(file, &damaged);
                    let is_window = self.is_window(file, at);
                    assert!(verdict != Verdict::Behind || is_window, "{path} at {at}: loss");
                    window += u64::from(is_window);
                    tally.add(verdict);
                }
            }
        }
        assert!(tally.behind <= window);
        tally
    }

    /// Cuts each file. Only the last segment can lose its end unnoticed.
    fn cut(&self, stride: usize) -> Tally {
        let mut tally = Tally::default();
        for (file, (path, bytes)) in self.files.iter().enumerate() {
            for size in places(bytes.len(), stride) {
                let verdict = self.judge(file, &bytes[..size]);
                let cuts_batches = *path == self.head && size < self.batches.last().unwrap().end;
                assert!(verdict != Verdict::Behind || cuts_batches, "{path} cut to {size}: loss");
                let is_spare = path.starts_with("spare-");
                let is_rest = path.starts_with("wal-") && !cuts_batches;
                assert!(verdict != Verdict::Whole || is_spare || is_rest, "{path} cut to {size}");
                tally.add(verdict);
            }
        }
        tally
    }
}

/// Every place in a file, or the first and last ones and some between.
fn places(size: usize, stride: usize) -> impl Iterator<Item = usize> {
    let edge = 96;
    (0..size).filter(move |at| *at < edge || *at + edge >= size || at % stride == 0)
}

fn has_everything(world: &World) -> bool {
    let store = world.store.as_ref().unwrap();
    let tables = store.engine.stats().unwrap().level_tables;
    let usage = store.log.usage();
    let levels = tables.iter().filter(|count| **count > 0).count();
    levels >= 2
        && tables.iter().sum::<usize>() >= 3
        && usage.segment_count >= 2
        && usage.entries_copied > 0
        && world.met.flushes > 3
}

/// Damages the last segment here and there.
pub(super) fn middle_check(mutants: Mutants) {
    let directory = Directory::build(false, mutants);
    directory.flip(29, |path| path == directory.head);
}

#[test]
fn damaged_byte_is_told_or_harmless() {
    let stride = scaled(101, 1);
    for ends_idle in [false, true] {
        let directory = Directory::build(ends_idle, Mutants::NONE);
        let tally = directory.flip(stride, |_| true);
        let size: usize = directory.files.iter().map(|(_, bytes)| bytes.len()).sum();
        println!("{} files, {size} bytes, idle: {ends_idle}: {tally:?}", directory.files.len());
        assert!(tally.whole > 0 && tally.damaged > 0);
        assert_eq!(tally.behind == 0, ends_idle, "an idle batch closes the window");
        let last = directory.batches.last().unwrap();
        assert!(tally.behind <= 2 * (last.end - last.start) as u64);
    }
}

#[test]
fn cut_file_is_told_or_was_the_end_of_the_log() {
    let directory = Directory::build(false, Mutants::NONE);
    let tally = directory.cut(scaled(101, 1));
    println!("cuts: {tally:?}");
    assert!(tally.whole > 0 && tally.behind > 0 && tally.damaged > 0);
    let end = directory.batches.last().unwrap().end;
    let start = directory.batches[0].end;
    assert!(tally.behind <= (end - start) as u64, "the start of a segment is never torn");
}

/// Each loss at the end of the log is a loss of whole batches.
#[test]
fn cut_log_holds_whole_batches_only() {
    let directory = Directory::build(false, Mutants::NONE);
    let file = directory.files.iter().position(|(path, _)| *path == directory.head).unwrap();
    let bytes = &directory.files[file].1;
    for batch in &directory.batches[1..] {
        let before = directory.judge(file, &bytes[..batch.end - 1]);
        let disk = SimDisk::new();
        disk.create_dir("tree").unwrap();
        for (number, (path, bytes)) in directory.files.iter().enumerate() {
            let size = if number == file { batch.end - 1 } else { bytes.len() };
            disk.create(path).unwrap().write_at(0, &bytes[..size]).unwrap();
        }
        let opened = open(Arc::new(disk), small_options(Mutants::NONE)).unwrap();
        if opened.recovered.damage.is_some() {
            assert_eq!(before, Verdict::Damaged);
            continue;
        }
        let found = (0..directory.world.history.as_ref().unwrap().len()).find(|missing| {
            opened.recovered.groups == directory.expected(&opened.engine, *missing)
        });
        assert!(found.is_some(), "cut in the batch at {}", batch.start);
    }
}
