//! Every byte damaged, and every file cut at every length.

use super::*;
use crate::vfs::read_all;

/// The files of a tree.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn files(disk: &SimDisk) -> Files {
    let mut files = Files::new();
    for name in disk.list(FOLDER).unwrap() {
        let mut bytes = Vec::new();
        read_all(&*disk.open(&format!("{FOLDER}/{name}")).unwrap(), &mut bytes).unwrap();
        files.insert(name, bytes);
    }
    files
}

pub(super) fn disk_of(files: &Files) -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(FOLDER).unwrap();
    for (name, bytes) in files {
        let file = disk.create(&format!("{FOLDER}/{name}")).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir(FOLDER).unwrap();
    disk
}

/// A tree with tables on three levels, whose manifest has several edits.
pub(super) fn build(compression: bool) -> (Files, History) {
    let options = TreeOptions { compression, ..small_options() };
    let disk = SimDisk::new();
    let (mut tree, _) = open_with(Arc::new(disk.clone()), options).unwrap();
    let mut rng = Rng::fork(9, "damage");
    let mut history = History::default();
    for index in 1..=240 {
        let op = match index {
            100 => Op::RangeDelete(1),
            _ => Op::Write(history.draw_batch(&mut rng, if index < 100 { &[1, 2] } else { &[2] })),
        };
        apply(&mut tree, &op);
        history.push(op);
        if index % 60 == 0 {
            seal(&mut tree, index, 0);
            settle(&mut tree).unwrap();
        }
    }
    let levels = tree.stats().level_tables;
    assert!(levels.iter().filter(|count| **count > 0).count() >= 2, "{levels:?}");
    assert!(levels.iter().sum::<usize>() >= 3, "{levels:?}");
    // No leftovers, and a manifest with edits.
    drop(tree);
    let (mut tree, _) = open_with(Arc::new(disk.clone()), options).unwrap();
    let op = Op::Write(history.draw_batch(&mut rng, &[2]));
    apply(&mut tree, &op);
    history.push(op);
    seal(&mut tree, history.index(), 0);
    tree.flush_step(u64::MAX).unwrap();
    (files(&disk), history)
}

/// Reads everything. Returns whether the damage was found.
fn is_found(files: &Files, history: &History) -> bool {
    let disk = disk_of(files);
    let result = open(&disk).and_then(|(tree, index)| {
        let mut rng = Rng::fork(1, "damage");
        let rows = rows(&tree.view(), index, &mut rng)?;
        // A scan passes over old versions without a look.
        tree.view().verify()?;
        Ok((rows, index))
    });
    match result {
        Ok((rows, index)) => {
            assert_eq!(index, history.index(), "an older state was taken for the newest");
            assert_eq!(rows, history.rows(index, index));
            false
        }
        Err(TreeError::Corruption(damage)) => {
            assert!(damage.file.starts_with(FOLDER), "{damage}");
            true
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// Where a file is damaged: everywhere, but a long tail of zeros only here and there.
fn places(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let content = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 100);
    let stride = scaled(997, 1) as usize;
    (0..bytes.len()).filter(move |at| *at < content || at % stride == 0)
}

#[test]
fn every_damaged_byte_is_found_or_harmless() {
    for compression in [false, true] {
        let (files, history) = build(compression);
        assert!(!is_found(&files, &history));
        let mut rng = Rng::fork(2, "bits");
        let (mut found, mut total, mut harmless) = (0, 0, Vec::new());
        for (name, bytes) in &files {
            for at in places(bytes).collect::<Vec<_>>() {
                if compression && total % scaled(5, 1) != 0 {
                    total += 1;
                    continue;
                }
                let flips = [0xff, 1 << rng.below(8)];
                for flip in flips {
                    let mut damaged = files.clone();
                    damaged.get_mut(name).unwrap()[at] ^= flip;
                    match is_found(&damaged, &history) {
                        true => found += 1,
                        false => harmless.push((name.clone(), at)),
                    }
                }
                total += 1;
            }
        }
        assert!(found > total / 10, "{found} of {total}");
        // Nothing of a table may be damaged unnoticed; of the manifest only what says nothing.
        let in_table = harmless.iter().find(|(name, _)| name.starts_with("table-"));
        assert_eq!(in_table, None);
    }
}

/// Damages tables of a tree with planted bugs, and compacts them: the damage is found, or nothing
/// has changed. `stride` bytes lie between two that are damaged.
pub(super) fn compaction_check(mutants: Mutants, stride: usize) {
    let (files, history) = build(false);
    let mut found = 0;
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("table-")) {
        for at in (0..bytes.len()).step_by(stride) {
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap()[at] ^= 0xff;
            let disk = disk_of(&damaged);
            let result =
                open_with(Arc::new(disk), mutated(mutants)).and_then(|(mut tree, index)| {
                    tree.set_watermarks(Watermarks::everywhere(Timestamp(index)));
                    tree.request_full_compaction();
                    settle(&mut tree)?;
                    rows(&tree.view(), index, &mut Rng::fork(1, "damage"))
                });
            match result {
                Ok(rows) => assert_eq!(rows, history.rows(history.index(), history.index())),
                Err(TreeError::Corruption(damage)) => {
                    assert!(damage.file.ends_with(name), "{damage}");
                    found += 1;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    assert!(found > 0, "damage was met");
}

#[test]
fn a_compaction_never_writes_damage_anew() {
    compaction_check(Mutants::NONE, scaled(3, 1) as usize);
}

#[test]
fn every_cut_is_found() {
    let (files, history) = build(false);
    for (name, bytes) in &files {
        for size in places(bytes).collect::<Vec<_>>() {
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap().truncate(size);
            assert!(is_found(&damaged, &history), "{name} cut to {size}");
        }
        let mut damaged = files.clone();
        damaged.remove(name);
        assert!(is_found(&damaged, &history), "{name} removed");
    }
}

#[test]
fn blocks_of_another_place_are_damage() {
    let (files, history) = build(false);
    let tables: Vec<_> = files.keys().filter(|name| name.starts_with("table-")).collect();
    for from in &tables {
        for to in tables.iter().filter(|to| *to != from) {
            let mut damaged = files.clone();
            let count = files[*from].len().min(files[*to].len()).min(64);
            damaged.get_mut(*to).unwrap()[..count].copy_from_slice(&files[*from][..count]);
            assert!(is_found(&damaged, &history), "{from} over {to}");
        }
    }
    let disk = disk_of(&files);
    let foreign = TreeOptions { owner: OWNER + 1, ..small_options() };
    let error = open_with(Arc::new(disk), foreign).unwrap_err();
    assert!(matches!(error, TreeError::Corruption(_)));
}
