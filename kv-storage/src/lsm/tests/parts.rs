//! Single promises.

use super::*;
use crate::vfs::read_all;

fn filled(disk: &SimDisk, count: u64) -> (Tree, History) {
    let (mut tree, _) = open(disk).unwrap();
    let mut history = History::default();
    let mut rng = Rng::fork(3, "filled");
    for _ in 0..count {
        let op = Op::Write(history.draw_batch(&mut rng, &[1, 2]));
        apply(&mut tree, &op);
        history.push(op);
    }
    seal(&mut tree, count, 0);
    settle(&mut tree).unwrap();
    (tree, history)
}

#[test]
fn tables_live_as_long_as_a_view_of_them() {
    view_check(Mutants::NONE);
}

/// Compacts under a view of a tree with planted bugs.
pub(super) fn view_check(mutants: Mutants) {
    let disk = SimDisk::new();
    let (tree, history) = filled(&disk, 100);
    drop(tree);
    let (mut tree, _) = open_with(Arc::new(disk.clone()), mutated(mutants)).unwrap();
    let view = tree.view();
    let pinned = table_names(&disk);
    tree.set_watermarks(Watermarks::everywhere(Timestamp(100)));
    tree.request_full_compaction();
    settle(&mut tree).unwrap();
    tree.compact_step(1).unwrap();
    assert!(pinned.is_subset(&table_names(&disk)));
    check(&view, &history, 50, 100, &mut Rng::fork(1, "view"));
    drop(view);
    tree.compact_step(1).unwrap();
    assert!(pinned.is_disjoint(&table_names(&disk)));
}

#[test]
fn a_deleted_local_id_is_gone_from_the_disk_in_the_end() {
    let disk = SimDisk::new();
    let (mut tree, mut history) = filled(&disk, 100);
    let view = tree.view();
    let op = Op::RangeDelete(1);
    apply(&mut tree, &op);
    history.push(op);
    let mut rng = Rng::fork(1, "gone");
    check(&tree.view(), &history, 100, 101, &mut rng);
    check(&view, &history, 100, 100, &mut rng);
    // Not durable yet, so no compaction may act on it.
    tree.request_full_compaction();
    settle(&mut tree).unwrap();
    let (reopened, index) = open(&disk).unwrap();
    assert_eq!(index, 100);
    check(&reopened.view(), &history, 100, 100, &mut rng);
    drop(reopened);
    drop(view);
    let (mut tree, _) = open(&disk).unwrap();
    apply(&mut tree, &history.ops[100]);
    seal(&mut tree, 101, 0);
    settle(&mut tree).unwrap();
    tree.compact_step(1).unwrap();
    assert!(!tree.view.version.may_hold(1, u64::MAX));
    assert!(tree.view.deleted.is_empty(), "nothing has to be remembered any more");
    check(&tree.view(), &history, 101, 101, &mut rng);
}

/// A table says only its first and last key, and what was deleted may lie between them.
#[test]
fn a_local_id_deleted_between_others_is_forgotten_in_the_end() {
    for under_way in [false, true] {
        let disk = SimDisk::new();
        let (mut tree, _) = open(&disk).unwrap();
        let key = |id: u32, version: u64| {
            let key = Key::new(format!("key{version}"));
            StoredKey::encode(LocalShardId(id), &key, Timestamp(version)).0
        };
        for round in 0..8 {
            for id in 1..=3 {
                tree.write(&[(key(id, round), &b"\x01value"[..])]);
            }
            seal(&mut tree, round, u64::MAX);
            tree.flush_step(u64::MAX).unwrap();
        }
        if under_way {
            tree.request_full_compaction();
            tree.compact_step(1).unwrap();
        }
        tree.range_delete(2);
        seal(&mut tree, 9, u64::MAX);
        tree.flush_step(u64::MAX).unwrap();
        for _ in 0..100 {
            tree.compact_step(1_000).unwrap();
        }
        assert!(!tree.is_compaction_due());
        assert!(tree.view.deleted.is_empty());
        let mut count = 0;
        let all = Scan { from: &[], to: None, at: Timestamp::MAX };
        let visit = |_: &[u8], _: &[u8]| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        };
        tree.view().scan_with(all, visit).unwrap();
        assert_eq!(count, 2 * 8);
    }
}

#[test]
fn a_flush_without_entries_stores_its_metadata() {
    let disk = SimDisk::new();
    let (mut tree, index) = open(&disk).unwrap();
    assert_eq!(index, 0);
    seal(&mut tree, 5, 0);
    settle(&mut tree).unwrap();
    assert_eq!(open(&disk).unwrap().1, 5);
    assert_eq!(table_names(&disk).len(), 0);
}

#[test]
fn large_metadata_and_many_edits_make_new_manifests() {
    let disk = SimDisk::new();
    let (mut tree, _) = open(&disk).unwrap();
    for index in 1..200_u64 {
        let mut large = metadata(index).to_vec();
        large.resize(5_000 + 100 * index as usize, 7);
        tree.seal(large.clone().into(), Watermarks::everywhere(Timestamp(0)));
        settle(&mut tree).unwrap();
        if index % 23 == 0 {
            let (_, found) = Tree::open(Arc::new(disk.clone()), FOLDER, small_options()).unwrap();
            assert_eq!(found, large);
            (tree, _) = open(&disk).unwrap();
        }
    }
    assert_eq!(disk.list(FOLDER).unwrap(), ["MANIFEST"]);
}

#[test]
fn the_cache_keeps_to_its_budget() {
    let disk = SimDisk::new();
    let (tree, history) = filled(&disk, 400);
    let pinned = tree.stats().pinned_bytes;
    let mut rng = Rng::fork(4, "cache");
    for _ in 0..3 {
        check(&tree.view(), &history, 400, 400, &mut rng);
        let stats = tree.stats();
        let budget = small_options().cache_bytes;
        assert!(stats.cached_bytes <= budget.saturating_sub(pinned).max(budget / 8));
        assert!(stats.cache_misses > 0);
    }
}

#[test]
fn paying_evenly_keeps_level_0_small() {
    let disk = SimDisk::new();
    let (mut tree, _) = open(&disk).unwrap();
    let mut rng = Rng::fork(6, "pay");
    let mut worst = 0;
    for version in 1..20_000_u64 {
        let key = stored_key(&prefix(1, &rng.below(3_000).to_be_bytes()), version);
        let value = [1; 40];
        tree.write(&[(&key, &value[..])]);
        tree.pay((key.len() + value.len()) as u64).unwrap();
        if tree.should_seal() {
            assert_eq!(tree.sealed_count(), 0, "the flush before was complete in time");
            seal(&mut tree, version, version);
        }
        worst = worst.max(tree.stats().level_tables[0]);
    }
    assert!(worst <= small_options().level0_stop, "{worst} tables in level 0");
}

#[test]
fn the_format_does_not_change_by_accident() {
    let disk = SimDisk::new();
    let (_tree, _) = filled(&disk, 20);
    let mut bytes = Vec::new();
    for name in disk.list(FOLDER).unwrap() {
        let mut file = Vec::new();
        read_all(&*disk.open(&format!("{FOLDER}/{name}")).unwrap(), &mut file).unwrap();
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&file);
    }
    assert_eq!(crc32c::crc32c(&bytes), 2_636_702_278, "{} bytes", bytes.len());
}
