//! What would go wrong: a disk that fails once and loses what was answered, a process that goes on
//! though nobody knows what is durable, or a full disk that needs a restart.

use super::world::{Met, Stop, World};
use super::*;
use crate::mutants::Mutants;
use crate::vfs::SimError;

const STEP_COUNT: u64 = 150;

fn run(world: &mut World) -> Result<(), Stop> {
    world.open()?;
    for step in 1..=STEP_COUNT {
        world.step()?;
        if step == 100 {
            world.open()?;
        }
    }
    world.flush()?;
    world.release()
}

/// What came of failed calls.
#[derive(Debug, Default)]
struct Tally {
    went_on: u64,
    retried: u64,
    log_stopped: u64,
    tree_stopped: u64,
    /// Those of them whose call was no sync.
    tree_stopped_unsynced: u64,
    damaged: u64,
    not_opened: u64,
}

/// Whatever stopped must write nothing more.
fn check_stopped(world: &mut World, stop: &Stop) {
    let before = world.disk.counters();
    match stop {
        Stop::Log(error) => {
            assert!(!error.is_retryable());
            let log = &mut world.store().log;
            assert!(matches!(append(log, 1), Err(LogError::Poisoned)));
            assert!(matches!(log.append_from_reserve(&[]), Err(LogError::Poisoned)));
            assert!(matches!(log.write_idle_batch(), Err(LogError::Poisoned)));
            assert!(matches!(log.release(&BTreeMap::new()), Err(LogError::Poisoned)));
        }
        Stop::Tree(error) => {
            assert!(matches!(error, TreeError::Write(_)), "{error:?}");
            let engine = &mut world.store().engine;
            // What became durable before the failure may still be told, once.
            let _ = engine.flush();
            assert!(matches!(engine.flush(), Err(TreeError::Poisoned)));
            assert!(matches!(engine.work(), Err(TreeError::Poisoned)));
        }
        Stop::Damaged(damage)
            if world.store.as_ref().is_some_and(|it| it.engine.damage().is_some()) =>
        {
            let engine = &mut world.store().engine;
            let entry = Entry { id: LogId::new(1, 1), payload: Vec::new().into() };
            assert_eq!(engine.apply(ShardId(1), &[entry]), StorageReply::Damaged(damage.clone()));
            assert_eq!(engine.flush().unwrap(), []);
            assert_eq!(engine.work().unwrap(), []);
        }
        Stop::Damaged(_) | Stop::Open(_) => {}
    }
    let after = world.disk.counters();
    assert_eq!((before.bytes_written, before.syncs), (after.bytes_written, after.syncs));
}

/// Fails one call of a run, and checks that nothing is lost by it.
fn fail_at(succeed: u64, error: SimError, power_fails: bool, tally: &mut Tally) {
    let mut world = World::new(3, Mutants::NONE);
    world.disk.fail_once(succeed, error);
    let result = run(&mut world);
    if let Err(stop) = &result {
        let syncs_failed = world.disk.counters().sync_errors > 0;
        let is_log_full = error == SimError::NoSpace && matches!(stop, Stop::Log(_));
        assert!(!is_log_full || syncs_failed, "a full disk stopped the log: {stop:?}");
        check_stopped(&mut world, stop);
    }
    tally.retried += u64::from(world.met.no_space > 0);
    match result {
        Ok(()) => tally.went_on += 1,
        Err(Stop::Log(_)) => tally.log_stopped += 1,
        Err(Stop::Tree(_)) => {
            tally.tree_stopped += 1;
            let syncs_failed = world.disk.counters().sync_errors;
            tally.tree_stopped_unsynced += u64::from(syncs_failed == 0);
        }
        Err(Stop::Damaged(_)) => tally.damaged += 1,
        Err(Stop::Open(error)) => {
            let is_refusal = matches!(error, OpenError::IdentityMissing | OpenError::LogMissing);
            assert!(!is_refusal, "nothing is missing: {error}");
            tally.not_opened += 1;
        }
    }
    world.close();
    world.disk.clear_faults();
    if power_fails {
        world.disk.crash(&mut Rng::fork(succeed, "crash"));
    }
    let recovered = world.open();
    assert!(recovered.is_ok(), "call {succeed}, {error:?}: {recovered:?}");
    (0..5).for_each(|_| world.step().unwrap());
    world.apply_all().unwrap();
    world.open().unwrap();
}

fn fail_everywhere(error: SimError) -> Tally {
    let mut world = World::new(3, Mutants::NONE);
    run(&mut world).unwrap();
    let mut tally = Tally::default();
    for succeed in (0..world.disk.counters().calls).step_by(scaled(2, 1)) {
        for power_fails in [false, true] {
            fail_at(succeed, error, power_fails, &mut tally);
        }
    }
    println!("{error:?}: {tally:?}");
    tally
}

#[test]
fn failed_call_loses_nothing_and_stops_what_may_not_go_on() {
    let tally = fail_everywhere(SimError::Io);
    assert!(tally.log_stopped > 0 && tally.tree_stopped > 0 && tally.damaged > 0, "{tally:?}");
    assert!(tally.not_opened > 0 && tally.went_on > 0, "{tally:?}");
}

#[test]
fn call_that_finds_no_room_loses_nothing() {
    let tally = fail_everywhere(SimError::NoSpace);
    assert!(tally.retried > 0 && tally.went_on > 0, "{tally:?}");
}

/// Runs with a full disk from a step on, for a while.
fn fill_at(step: u64, room: u64) -> Met {
    let mut world = World::new(8, Mutants::NONE);
    world.open().unwrap();
    (0..step).for_each(|_| world.step().unwrap());
    world.disk.set_capacity(Some(world.disk.used_space() + room));
    for _ in 0..30 {
        world.step().unwrap();
        world.append().unwrap();
    }
    let full = world.met;
    world.disk.set_capacity(None);
    world.append().unwrap();
    world.apply_all().unwrap();
    world.flush().unwrap();
    world.release().unwrap();
    (0..10).for_each(|_| world.step().unwrap());
    assert_eq!(world.met.no_space, full.no_space, "there is room");
    assert!(!world.store().engine.is_full() && world.store().log.has_reserve());
    assert!(world.met.flushes > full.flushes);
    assert_eq!(world.met.reopened, 1);
    world.open().unwrap();
    full
}

#[test]
fn full_disk_waits_for_room_without_a_restart() {
    let mut refused = 0;
    for step in (0..120).step_by(scaled(4, 1)) {
        for room in [0, 3_000, 10_000, 30_000] {
            refused += fill_at(step, room).no_space;
        }
    }
    println!("{refused} calls found no room");
    assert!(refused > 100, "only {refused} calls found no room");
}

/// A process that starts on a full disk may be refused, but only until there is room.
#[test]
fn opening_on_a_full_disk_loses_nothing() {
    for step in (0..150).step_by(10) {
        let mut world = World::new(8, Mutants::NONE);
        world.open().unwrap();
        (0..step).for_each(|_| world.step().unwrap());
        world.close();
        world.disk.set_capacity(Some(world.disk.used_space()));
        match world.open() {
            Ok(()) => {}
            Err(Stop::Open(OpenError::Tree(TreeError::NoSpace(_)))) => {}
            Err(other) => panic!("not for want of room: {other:?}"),
        }
        world.disk.set_capacity(None);
        world.open().unwrap();
        (0..10).for_each(|_| world.step().unwrap());
        world.open().unwrap();
    }
}
