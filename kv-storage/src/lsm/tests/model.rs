//! Random operations, with reopenings that forget what was not flushed.

use super::*;

/// A view, and what it must show.
struct Pinned {
    view: ReadView,
    upto: u64,
    watermarks: BTreeMap<u32, u64>,
}

struct World {
    disk: SimDisk,
    tree: Tree,
    history: History,
    rng: Rng,
    /// Of each local id that was ever written: what the last seal was given.
    watermarks: BTreeMap<u32, u64>,
    /// Those of each seal that may be durable, by its index.
    sealed: BTreeMap<u64, BTreeMap<u32, u64>>,
    pinned: Vec<Pinned>,
    /// Local ids that may be written.
    ids: Vec<u32>,
    next_id: u32,
    options: TreeOptions,
}

impl World {
    fn new(seed: u64, mutants: Mutants) -> Self {
        let mut rng = Rng::fork(seed, "world");
        let disk = SimDisk::new();
        // The smaller the last level may be, the more levels there are above it.
        let options = TreeOptions {
            compression: rng.below(2) == 0,
            base_level_bytes: [100, 400, 2000][seed as usize % 3],
            level_multiplier: 2 + rng.below(3),
            table_bytes: 300 + rng.below(1500),
            ..mutated(mutants)
        };
        let (tree, _) = open_with(Arc::new(disk.clone()), options).unwrap();
        let (history, pinned) = (History::default(), Vec::new());
        let ids = vec![0, 1, u32::MAX];
        let watermarks: BTreeMap<_, _> = ids.iter().map(|id| (*id, 0)).collect();
        let sealed = BTreeMap::from([(0, watermarks.clone())]);
        Self { disk, tree, history, rng, watermarks, sealed, pinned, ids, next_id: 2, options }
    }

    fn step(&mut self) {
        let below = |rng: &mut Rng, bound: u64| rng.below(bound);
        match below(&mut self.rng, 100) {
            0..55 => {
                let batch = self.history.draw_batch(&mut self.rng, &self.ids);
                self.push(Op::Write(batch));
            }
            55..57 if self.tree.sealed_count() < 3 => self.seal(),
            57..72 => {
                let budget = 1 + self.rng.below(3000);
                self.tree.flush_step(budget).unwrap();
            }
            72..88 => {
                let budget = 1 + self.rng.below(3000);
                self.tree.compact_step(budget).unwrap();
            }
            88..90 => drop(self.tree.pay(100).unwrap()),
            90..95 => self.check_one(),
            95 => self.check_all(),
            96 => self.pin_or_unpin(),
            97 => self.replace_id(),
            98 => self.reopen(),
            99 if self.rng.below(10) == 0 => self.tree.request_full_compaction(),
            _ => {}
        }
    }

    fn push(&mut self, op: Op) {
        apply(&mut self.tree, &op);
        self.history.push(op);
    }

    /// Raises some watermarks and ends the memtable.
    fn seal(&mut self) {
        let index = self.history.index();
        for watermark in self.watermarks.values_mut() {
            if self.rng.below(2) == 0 {
                *watermark += self.rng.below(index - *watermark + 1);
            }
        }
        self.seal_as_it_is();
    }

    fn seal_as_it_is(&mut self) {
        let index = self.history.index();
        self.tree.seal(metadata(index), in_tree(&self.watermarks));
        self.sealed.insert(index, self.watermarks.clone());
    }

    /// A time at which reading is allowed.
    fn draw_at(&mut self, watermark: u64, upto: u64) -> u64 {
        match self.rng.below(3) {
            0 => upto.max(watermark),
            _ => watermark + self.rng.below(upto.saturating_sub(watermark) + 1),
        }
    }

    fn check_one(&mut self) {
        let upto = self.history.index();
        let id = self.ids[self.rng.below(self.ids.len() as u64) as usize];
        let at = self.draw_at(self.watermarks[&id], upto);
        let key = prefix(id, &draw_key(&mut self.rng));
        let expected = self.history.get(&key, at, upto).map(|(version, v)| (version, v.clone()));
        assert_eq!(get(&self.tree.view(), &key, at).unwrap(), expected);
    }

    fn check_all(&mut self) {
        let upto = self.history.index();
        self.check_view(&self.tree.view(), upto, &self.watermarks.clone());
        for Pinned { view, upto, watermarks } in std::mem::take(&mut self.pinned) {
            self.check_view(&view, upto, &watermarks);
            self.pinned.push(Pinned { view, upto, watermarks });
        }
    }

    /// Checks the whole view where all of it can be read, and each local id by itself.
    fn check_view(&mut self, view: &ReadView, upto: u64, watermarks: &BTreeMap<u32, u64>) {
        let highest = watermarks.values().max().copied().unwrap_or_default();
        let at = self.draw_at(highest, upto);
        check(view, &self.history, at, upto, &mut self.rng);
        for (id, watermark) in watermarks {
            let at = self.draw_at(*watermark, upto);
            check_id(view, &self.history, *id, (at, upto), &mut self.rng);
        }
    }

    fn pin_or_unpin(&mut self) {
        if self.pinned.len() == 3 {
            self.pinned.remove(0);
        }
        let (upto, watermarks) = (self.history.index(), self.watermarks.clone());
        self.pinned.push(Pinned { view: self.tree.view(), upto, watermarks });
    }

    /// As installing a snapshot does: a new local id is filled, and the old one deleted.
    fn replace_id(&mut self) {
        let old = self.ids.remove(0);
        let new = self.next_id;
        self.next_id += 1;
        self.ids.push(new);
        self.watermarks.insert(new, 0);
        let batch = self.history.draw_batch(&mut self.rng, &[new]);
        self.push(Op::Write(batch));
        self.push(Op::RangeDelete(old));
    }

    /// The process dies. What was flushed comes back, the rest is replayed, and what could be read
    /// at the flush can be read again.
    fn reopen(&mut self) {
        self.pinned.clear();
        let durable = self.tree.metadata().clone();
        let (tree, index) = open_with(Arc::new(self.disk.clone()), self.options).unwrap();
        self.tree = tree;
        let known = self.sealed[&index].clone();
        self.tree.set_watermarks(in_tree(&known));
        self.sealed = BTreeMap::from([(index, known.clone())]);
        // Local ids that came later begin anew.
        self.watermarks.values_mut().for_each(|watermark| *watermark = 0);
        self.watermarks.extend(known);
        assert_eq!(metadata(index), if durable.is_empty() { metadata(0) } else { durable });
        replay(&mut self.tree, &self.history, index);
        assert!(self.tree.stats().level_bytes.iter().sum::<u64>() < 1 << 20);
    }
}

/// Watermarks as the tree is given them.
fn in_tree(watermarks: &BTreeMap<u32, u64>) -> Watermarks {
    Watermarks::of(watermarks.iter().map(|(id, at)| (*id, Timestamp(*at))).collect())
}

/// Compares a tree with planted bugs with a history.
pub(super) fn model_check(mutants: Mutants) {
    for seed in 0..3 {
        let mut world = World::new(seed, mutants);
        for _ in 0..2_000 {
            world.step();
        }
        world.check_all();
    }
}

#[test]
fn agrees_with_a_history() {
    let mut step_counts = [0; 3];
    for seed in 0..scaled(6, 100) {
        let mut world = World::new(seed, Mutants::NONE);
        for _ in 0..scaled(3_000, 10_000) {
            world.step();
        }
        world.check_all();
        let end = world.history.index();
        world.watermarks.values_mut().for_each(|watermark| *watermark = end);
        world.pinned.clear();
        world.seal_as_it_is();
        settle(&mut world.tree).unwrap();
        world.tree.request_full_compaction();
        settle(&mut world.tree).unwrap();
        world.check_all();
        let live = world.history.rows(end, end).len() as u64;
        let stored: u64 = world.tree.view.version.tables().map(|(_, t)| t.meta.entry_count).sum();
        assert_eq!(stored, live, "a full compaction leaves one version of what exists");
        let stats = world.tree.stats();
        step_counts[0] += stats.counters.flush_count;
        step_counts[1] += stats.counters.compaction_count;
        step_counts[2] += stats.cache_hits;
    }
    assert!(step_counts.iter().all(|count| *count > 10), "{step_counts:?}");
}

#[test]
fn levels_keep_their_order() {
    let mut world = World::new(1000, Mutants::NONE);
    let mut deepest = 0;
    for _ in 0..scaled(4_000, 40_000) {
        world.step();
        if world.tree.should_seal() && world.tree.sealed_count() == 0 {
            world.seal();
        }
        let version = world.tree.view.version.clone();
        deepest = deepest.max(version.levels.iter().filter(|run| !run.is_empty()).count());
        for run in &version.levels {
            for pair in run.windows(2) {
                let (left, right) = (&pair[0].meta, &pair[1].meta);
                assert!(left.largest[..left.largest.len() - 8] < *right.smallest);
            }
        }
    }
    assert!(deepest >= 2, "several levels were in use");
}
