//! What would go wrong: a power failure after which an answered append is missing, a half-written
//! one is there, or the tables do not fit the log.
//!
//! A workload on log and engine is run again and again, each time up to another call of the disk,
//! and what that leaves is opened.

use super::world::{Met, World};
use super::*;
use crate::mutants::Mutants;

const STEP_COUNT: u64 = 180;

/// Runs the workload until the disk fails. Returns whether it went to the end.
fn run(world: &mut World) -> bool {
    let mut run = || {
        world.open()?;
        for step in 1..=STEP_COUNT {
            world.step()?;
            // A process that dies leaves what it did not sync to the next one.
            if step % 60 == 0 {
                world.open()?;
            }
        }
        world.flush()?;
        world.release()
    };
    let is_complete = run().is_ok();
    world.close();
    is_complete
}

/// Opens what a crash left, and goes on with it.
fn check_recovered(world: &mut World, context: (u64, u64)) {
    let recovered = world.open();
    assert!(recovered.is_ok(), "at {context:?}: {recovered:?}");
    for _ in 0..6 {
        world.step().unwrap();
    }
    world.apply_all().unwrap();
    world.open().unwrap();
}

/// Crashes before and after each call, `outcomes` times each. Returns the count of crashes, what
/// one run without a crash went through, and how often more was found than was answered.
fn crash_everywhere(seed: u64, outcomes: u64, mutants: Mutants) -> (u64, Met, u64) {
    let mut world = World::new(seed, mutants);
    assert!(run(&mut world));
    let (calls, met) = (world.disk.counters().calls, world.met);
    let (mut points, mut ahead) = (0, 0);
    for succeed in 0..=calls {
        for outcome in 0..outcomes {
            let mut world = World::new(seed, mutants);
            world.disk.fail_from_call(succeed);
            assert_eq!(run(&mut world), succeed == calls);
            let before = world.met.ahead;
            world.disk.crash(&mut Rng::fork(outcome, "crash"));
            check_recovered(&mut world, (succeed, outcome));
            points += 1;
            ahead += world.met.ahead - before;
        }
    }
    (points, met, ahead)
}

#[test]
fn crash_at_every_call_loses_nothing_that_was_answered() {
    let (seeds, outcomes) = scaled((2, 3), (6, 8));
    let (mut all, mut all_met) = (0, Met::default());
    for seed in 0..seeds {
        let (points, met, ahead) = crash_everywhere(seed, outcomes, Mutants::NONE);
        println!("seed {seed}: {points} crashes, {ahead} found more than was answered, {met:?}");
        assert!(met.flushes > 2 && met.compactions > 0 && met.reopened > 2, "{met:?}");
        assert!(ahead > 0, "no crash kept what was not answered");
        all += points;
        all_met.recycled += met.recycled;
        all_met.copied += met.copied;
        all_met.overwritten += met.overwritten;
    }
    let Met { recycled, copied, overwritten, .. } = all_met;
    assert!(recycled > 0 && copied > 0 && overwritten > 0, "{all_met:?}");
    assert!(all >= 3_000, "only {all} crashes");
}
