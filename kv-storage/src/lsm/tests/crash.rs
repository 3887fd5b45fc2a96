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

/// Runs a script until the disk fails.
fn run(script: &[Step], history: &History, disk: &SimDisk) -> Outcome {
    let mut outcome = Outcome::default();
    let Ok((mut tree, _)) = open(disk) else { return outcome };
    let mut index = 0;
    for step in script {
        let watermark = Timestamp(index / 2);
        let result = match step {
            Step::Do(op) => {
                index += 1;
                apply(&mut tree, op);
                Ok(())
            }
            Step::Seal => {
                tree.seal(metadata(index));
                Ok(())
            }
            Step::Flush(budget) => tree.flush_step(*budget, watermark).map(|_| ()),
            Step::Compact(budget) => tree.compact_step(*budget, watermark).map(|_| ()),
            Step::FullCompaction => {
                tree.request_full_compaction();
                Ok(())
            }
            Step::Checkpoint => {
                let result = tree.checkpoint(CHECKPOINT);
                outcome.checkpoint = result.is_ok().then_some(outcome.flushed);
                result
            }
            Step::Reopen => match open(disk) {
                Ok((opened, flushed)) => {
                    assert_eq!(flushed, outcome.flushed);
                    tree = opened;
                    for op in &history.ops[flushed as usize..index as usize] {
                        apply(&mut tree, op);
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
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

/// Opens what a crash left, and checks that it is what a flush wrote.
fn check_recovered(disk: &SimDisk, history: &History, outcome: &Outcome, rng: &mut Rng) -> u64 {
    let (mut tree, index) = open(disk).unwrap();
    assert!(index >= outcome.flushed, "{outcome:?} was answered, but {index} is there");
    let watermark = history.index() / 2;
    check(&tree.view(), history, index.max(watermark), index, rng);
    tree.view().verify().unwrap();
    let listed = tree.view.version.tables().count();
    assert_eq!(table_names(disk).len(), listed, "leftovers were removed");
    replay(&mut tree, history, index);
    let end = history.index();
    check(&tree.view(), history, end, end, rng);
    if let Some(upto) = outcome.checkpoint {
        let disk: Arc<dyn Vfs> = Arc::new(disk.clone());
        let (tree, found) = Tree::open(disk, CHECKPOINT, small_options()).unwrap();
        assert_eq!(found, metadata(upto));
        check(&tree.view(), history, end, upto, rng);
    }
    index
}

#[test]
fn a_crash_at_any_call_keeps_all_flushes_as_a_whole() {
    let mut points = 0;
    let mut ahead = 0;
    for script_seed in 0..scaled(3, 12) {
        let (script, history) = draw_script(script_seed, 60);
        let disk = SimDisk::new();
        let outcome = run(&script, &history, &disk);
        assert!(outcome.is_complete && outcome.checkpoint.is_some());
        let call_count = disk.counters().calls;
        for succeed in 0..=call_count {
            for seed in 0..scaled(10, 20) {
                let disk = SimDisk::new();
                disk.fail_from_call(succeed);
                let outcome = run(&script, &history, &disk);
                let mut rng = Rng::fork(seed, "crash");
                disk.crash(&mut rng);
                let index = check_recovered(&disk, &history, &outcome, &mut rng);
                ahead += u64::from(index > outcome.flushed);
                points += 1;
            }
        }
    }
    assert!(points > scaled(10_000, 80_000), "{points} crash points");
    assert!(ahead > 0, "an unanswered flush was sometimes kept");
}

#[test]
fn a_process_that_dies_again_and_again_gets_on() {
    for seed in 0..scaled(20, 400) {
        let mut rng = Rng::fork(seed, "lives");
        let (script, history) = draw_script(1_000 + seed, 40);
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
            replay(&mut tree, &history, index);
            tree.seal(metadata(history.index()));
            let _ = settle(&mut tree, history.index() / 2);
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
        drop(script);
        disk.crash(&mut rng);
        check_recovered(&disk, &history, &outcome, &mut rng);
    }
}
