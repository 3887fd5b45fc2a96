//! Random operations, with reopenings that forget what was not flushed.

use super::*;

/// A view, and what it must show.
struct Pinned {
    view: ReadView,
    upto: u64,
    watermark: u64,
}

struct World {
    disk: SimDisk,
    tree: Tree,
    history: History,
    rng: Rng,
    /// Highest that a step was given.
    watermark: u64,
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
        Self { disk, tree, history, rng, watermark: 0, pinned, ids, next_id: 2, options }
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
                let watermark = self.draw_watermark();
                self.tree.flush_step(budget, watermark).unwrap();
            }
            72..88 => {
                let budget = 1 + self.rng.below(3000);
                let watermark = self.draw_watermark();
                self.tree.compact_step(budget, watermark).unwrap();
            }
            88..90 => {
                let watermark = self.draw_watermark();
                self.tree.pay(100, watermark).unwrap();
            }
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

    fn seal(&mut self) {
        self.tree.seal(metadata(self.history.index()));
    }

    fn draw_watermark(&mut self) -> Timestamp {
        let behind = self.history.index() - self.watermark;
        if self.rng.below(3) == 0 {
            self.watermark += self.rng.below(behind + 1);
        }
        Timestamp(self.watermark)
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
        let at = self.draw_at(self.watermark, upto);
        let id = self.ids[self.rng.below(self.ids.len() as u64) as usize];
        let key = prefix(id, &draw_key(&mut self.rng));
        let expected = self.history.get(&key, at, upto).map(|(version, v)| (version, v.clone()));
        assert_eq!(get(&self.tree.view(), &key, at).unwrap(), expected);
    }

    fn check_all(&mut self) {
        let upto = self.history.index();
        let at = self.draw_at(self.watermark, upto);
        check(&self.tree.view(), &self.history, at, upto, &mut self.rng);
        for number in 0..self.pinned.len() {
            let Pinned { upto, watermark, ref view } = self.pinned[number];
            let view = view.clone();
            let at = self.draw_at(watermark, upto).min(upto);
            if at >= watermark {
                check(&view, &self.history, at, upto, &mut self.rng);
            }
        }
    }

    fn pin_or_unpin(&mut self) {
        if self.pinned.len() == 3 {
            self.pinned.remove(0);
        }
        let (upto, watermark) = (self.history.index(), self.watermark);
        self.pinned.push(Pinned { view: self.tree.view(), upto, watermark });
    }

    /// As installing a snapshot does: a new local id is filled, and the old one deleted.
    fn replace_id(&mut self) {
        let old = self.ids.remove(0);
        let new = self.next_id;
        self.next_id += 1;
        self.ids.push(new);
        let batch = self.history.draw_batch(&mut self.rng, &[new]);
        self.push(Op::Write(batch));
        self.push(Op::RangeDelete(old));
    }

    /// The process dies. What was flushed comes back, the rest is replayed.
    fn reopen(&mut self) {
        self.pinned.clear();
        let durable = self.tree.metadata().clone();
        let (tree, index) = open_with(Arc::new(self.disk.clone()), self.options).unwrap();
        self.tree = tree;
        assert_eq!(metadata(index), if durable.is_empty() { metadata(0) } else { durable });
        replay(&mut self.tree, &self.history, index);
        assert!(self.tree.stats().level_bytes.iter().sum::<u64>() < 1 << 20);
    }
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
        world.seal();
        let watermark = world.history.index();
        (world.watermark, world.pinned) = (watermark, Vec::new());
        settle(&mut world.tree, watermark).unwrap();
        world.tree.request_full_compaction();
        settle(&mut world.tree, watermark).unwrap();
        world.check_all();
        let live = world.history.rows(watermark, watermark).len() as u64;
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
