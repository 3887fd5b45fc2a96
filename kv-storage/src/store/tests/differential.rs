//! What would go wrong: anything that only happens after a long life, in an order that nobody
//! thought of.

use super::world::{Met, World};
use super::*;
use crate::mutants::Mutants;

/// Random operations, with processes that die and power that fails now and then.
fn live(seed: u64, operations: u64) -> Met {
    let mut world = World::new(seed, Mutants::NONE);
    world.options.log_segment_bytes = 32 << 10;
    world.options.tree.memtable_bytes = 16 << 10;
    world.draw.key_count = 300;
    world.open().unwrap();
    while world.met.operations < operations {
        match world.draw.rng.below(300) {
            0 => world.open().unwrap(),
            1 => power_fails(&mut world),
            _ => world.step().unwrap(),
        }
    }
    world.open().unwrap();
    world.met
}

/// Loses power some calls further on, perhaps within one of the store's.
fn power_fails(world: &mut World) {
    let succeed = world.draw.rng.below(150);
    world.disk.fail_from_call(succeed);
    while world.step().is_ok() {}
    world.close();
    let seed = world.draw.rng.next_u64();
    world.disk.crash(&mut Rng::fork(seed, "crash"));
    world.open().unwrap();
}

#[test]
fn directory_equals_its_model_through_a_long_life() {
    let (lives, operations) = scaled((2, 10_000), (20, 50_000));
    let mut all = 0;
    for seed in 0..lives {
        let met = live(seed, operations);
        println!("life {seed}: {met:?}");
        assert!(met.reopened > 10 && met.recycled > 3 && met.compactions > 3, "{met:?}");
        all += met.operations;
    }
    assert!(all >= lives * operations);
}
