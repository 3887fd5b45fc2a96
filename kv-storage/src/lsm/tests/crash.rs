//! Crashes at every disk call of a workload.

use super::*;

const CHECKPOINT: &str = "checkpoint";

/// A step of the workload.
#[derive(Clone, Debug)]
enum Step {
    Do(Op),
    Seal,
    Flush(u64),
    Compact(u64),
    FullCompaction,
    Checkpoint,
    Reopen,
}

fn draw_script(seed: u64, step_count: u64) -> (Vec<Step>, History) {
    let mut rng = Rng::fork(seed, "script");
    let mut history = History::default();
    let mut ids = vec![1, 2];
    let mut script = Vec::new();
    for number in 0..step_count {
        let op = match number % 30 {
            29 => Op::RangeDelete(ids.remove(0)),
            _ => Op::Write(history.draw_batch(&mut rng, &ids)),
        };
        if ids.len() == 1 {
            ids.push(10 + number as u32);
        }
        history.push(op.clone());
        script.push(Step::Do(op));
        if number % 30 == 14 {
            // As installing a snapshot does: the new content and the end of the old one in one edit.
            let new_id = 1_000 + number as u32;
            let content = Op::Write(history.draw_batch(&mut rng, &[new_id]));
            let end = Op::RangeDelete(ids.remove(0));
            ids.push(new_id);
            for op in [content, end] {
                history.push(op.clone());
                script.push(Step::Do(op));
            }
            script.push(Step::Seal);
        }
        match rng.below(12) {
            0..3 => script.push(Step::Seal),
            3..8 => script.push(Step::Flush(200 + rng.below(2000))),
            8..11 => script.push(Step::Compact(200 + rng.below(3000))),
            _ if number == step_count / 2 => script.push(Step::FullCompaction),
            _ if number > step_count / 2 => script.push(Step::Reopen),
            _ => {}
        }
    }
    script.extend([Step::Seal, Step::Flush(u64::MAX), Step::Flush(u64::MAX), Step::Checkpoint]);
    script.extend(std::iter::repeat_n(Step::Compact(u64::MAX), 4));
    (script, history)
}

/// What was certain when a run ended.
#[derive(Debug, Default)]
struct Outcome {
    /// Index of the last flush that was answered.
    flushed: u64,
    /// What the checkpoint holds, if it was answered.
    checkpoint: Option<u64>,
    is_complete: bool,
}

/// A script, what it amounts to, and the tree that runs it.
struct Workload {
    script: Vec<Step>,
    history: History,
    options: TreeOptions,
}

impl Workload {
    fn draw(seed: u64, options: TreeOptions) -> Self {
        let (script, history) = draw_script(seed, 60);
        Self { script, history, options }
    }

    fn open(&self, disk: &SimDisk) -> Result<(Tree, u64), TreeError> {
        let (mut tree, index) = open_with(Arc::new(disk.clone()), self.options)?;
        tree.set_watermarks(Watermarks::everywhere(Timestamp(index / 2)));
        Ok((tree, index))
    }

    /// Runs the script until the disk fails.
    fn run(&self, disk: &SimDisk) -> Outcome {
        let mut outcome = Outcome::default();
        let Ok((mut tree, _)) = self.open(disk) else { return outcome };
        let mut index = 0;
        for step in &self.script {
            let result = self.step(disk, &mut tree, &mut index, step, &mut outcome);
            if tree.metadata().len() == 8 {
                outcome.flushed = u64::from_le_bytes(tree.metadata()[..].try_into().unwrap());
            }
            if result.is_err() {
                return outcome;
            }
        }
        outcome.is_complete = true;
        outcome
    }

    fn step(
        &self,
        disk: &SimDisk,
        tree: &mut Tree,
        index: &mut u64,
        step: &Step,
        outcome: &mut Outcome,
    ) -> Result<(), TreeError> {
        match step {
            Step::Do(op) => {
                *index += 1;
                apply(tree, op);
            }
            Step::Seal => seal(tree, *index, *index / 2),
            Step::Flush(budget) => drop(tree.flush_step(*budget)?),
            Step::Compact(budget) => drop(tree.compact_step(*budget)?),
            Step::FullCompaction => tree.request_full_compaction(),
            Step::Checkpoint => {
                tree.checkpoint(CHECKPOINT)?;
                outcome.checkpoint = Some(outcome.flushed);
            }
            Step::Reopen => {
                let (opened, flushed) = self.open(disk)?;
                assert_eq!(flushed, outcome.flushed);
                *tree = opened;
                for op in &self.history.ops[flushed as usize..*index as usize] {
                    apply(tree, op);
                }
            }
        }
        Ok(())
    }

    /// Opens what a crash left, and checks that it is what a flush wrote.
    fn check_recovered(&self, disk: &SimDisk, outcome: &Outcome, rng: &mut Rng) -> u64 {
        let history = &self.history;
        let (mut tree, index) = self.open(disk).unwrap();
        assert!(index >= outcome.flushed, "{outcome:?} was answered, but {index} is there");
        // What was sealed or compacted later has dropped nothing that can be read again.
        for at in index / 2..=index {
            check(&tree.view(), history, at, index, rng);
        }
        tree.view().verify().unwrap();
        let listed = tree.view.version.tables().count();
        assert_eq!(table_names(disk).len(), listed, "leftovers were removed");
        replay(&mut tree, history, index);
        let end = history.index();
        check(&tree.view(), history, end, end, rng);
        if let Some(upto) = outcome.checkpoint {
            let disk: Arc<dyn Vfs> = Arc::new(disk.clone());
            let (tree, found) = Tree::open(disk, CHECKPOINT, self.options).unwrap();
            assert_eq!(found, metadata(upto));
            check(&tree.view(), history, end, upto, rng);
        }
        index
    }

    /// Crashes before and after each call, `outcomes` times each. Returns the count of crashes, and
    /// of those after which more was there than was answered.
    fn crash_everywhere(&self, outcomes: u64) -> (u64, u64) {
        let disk = SimDisk::new();
        let outcome = self.run(&disk);
        assert!(outcome.is_complete && outcome.checkpoint.is_some());
        let (mut points, mut ahead) = (0, 0);
        for succeed in 0..=disk.counters().calls {
            for seed in 0..outcomes {
                let disk = SimDisk::new();
                disk.fail_from_call(succeed);
                let outcome = self.run(&disk);
                let mut rng = Rng::fork(seed, "crash");
                disk.crash(&mut rng);
                let index = self.check_recovered(&disk, &outcome, &mut rng);
                ahead += u64::from(index > outcome.flushed);
                points += 1;
            }
        }
        (points, ahead)
    }
}

/// Crashes one workload everywhere, on a tree with planted bugs.
pub(super) fn crash_check(mutants: Mutants) {
    Workload::draw(0, mutated(mutants)).crash_everywhere(2);
}

#[test]
fn a_crash_at_any_call_keeps_all_flushes_as_a_whole() {
    let (mut points, mut ahead) = (0, 0);
    for script_seed in 0..scaled(3, 12) {
        let workload = Workload::draw(script_seed, small_options());
        let (more_points, more_ahead) = workload.crash_everywhere(scaled(10, 20));
        (points, ahead) = (points + more_points, ahead + more_ahead);
    }
    assert!(points >= scaled(10_000, 80_000), "{points} crash points");
    assert!(ahead > 0, "an unanswered flush was sometimes kept");
}

#[test]
fn a_process_that_dies_again_and_again_gets_on() {
    for seed in 0..scaled(20, 400) {
        let mut rng = Rng::fork(seed, "lives");
        let (_, history) = draw_script(1_000 + seed, 40);
        let workload = Workload { script: Vec::new(), history, options: small_options() };
        let history = &workload.history;
        let disk = SimDisk::new();
        let mut outcome = Outcome::default();
        for _ in 0..6 {
            disk.fail_from_call(rng.below(60));
            let Ok((mut tree, index)) = open(&disk) else {
                disk.crash(&mut rng);
                continue;
            };
            assert!(index >= outcome.flushed);
            outcome.flushed = index;
            replay(&mut tree, history, index);
            seal(&mut tree, history.index(), history.index() / 2);
            let _ = settle(&mut tree);
            if !tree.metadata().is_empty() {
                outcome.flushed = u64::from_le_bytes(tree.metadata()[..].try_into().unwrap());
            }
            drop(tree);
            match rng.below(2) {
                // The unsynced writes of the process are left to the next one.
                0 => disk.fail_from_call(u64::from(u32::MAX)),
                _ => disk.crash(&mut rng),
            }
        }
        disk.crash(&mut rng);
        workload.check_recovered(&disk, &outcome, &mut rng);
    }
}
