//! Crashes at every disk call, over and over.

use super::*;

const SEGMENT: u64 = 3000;

/// A script of appends and the state after each prefix of it.
struct Script {
    appends: Vec<Append>,
    states: Vec<Groups>,
}

impl Script {
    fn draw(seed: u64, append_count: u64) -> Self {
        let mut rng = Rng::fork(seed, "script");
        let mut states = vec![Groups::new()];
        let mut appends = Vec::new();
        for id in 1..=append_count {
            let mut state = states.last().unwrap().clone();
            // Each append writes something: one that does not would be answered from thin air.
            let mut append = draw_append(&mut rng, id, &state);
            append.writes.push(group_write(9, entries(id, id..id + 1, b"mark")));
            model_append(&mut state, &append);
            states.push(state);
            appends.push(append);
        }
        Self { appends, states }
    }

    /// Runs the script until the disk fails. Returns how many appends were answered.
    fn run(&self, disk: &SimDisk) -> usize {
        let Ok((mut log, _)) = open(disk, SEGMENT) else { return 0 };
        let mut answered = 0;
        for append in &self.appends {
            let id = append.id.0;
            if id.is_multiple_of(4) && log.write_idle_batch().is_err() {
                return answered;
            }
            if log.append(std::slice::from_ref(append)).is_err() {
                return answered;
            }
            answered += 1;
        }
        answered
    }
}

#[test]
fn crash_at_every_call_loses_nothing_that_was_answered() {
    let script = Script::draw(1, 14);
    let disk = SimDisk::new();
    assert_eq!(script.run(&disk), script.appends.len());
    let call_count = disk.counters().calls;
    let mut unanswered_kept = 0;
    for succeed in 0..=call_count {
        for seed in 0..24 {
            let disk = SimDisk::new();
            disk.fail_from_call(succeed);
            let answered = script.run(&disk);
            disk.crash(&mut Rng::fork(seed, "crash"));
            let (_, groups) = open(&disk, SEGMENT).unwrap();
            let fits = |count: usize| script.states.get(count) == Some(&groups);
            assert!(
                fits(answered) || fits(answered + 1),
                "call {succeed}, seed {seed}: {answered} were answered, found {groups:?}"
            );
            unanswered_kept += u64::from(fits(answered + 1));
        }
    }
    assert!(unanswered_kept > 0, "the crash kept an unanswered append sometimes");
}

/// What the log may hold: what was answered, and then what is not known to be lost.
struct World {
    disk: SimDisk,
    rng: Rng,
    /// Durable for certain.
    certain: Groups,
    /// The append in flight when the disk failed.
    in_flight: Option<Groups>,
    next_id: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let rng = Rng::fork(seed, "world");
        Self { disk: SimDisk::new(), rng, certain: Groups::new(), in_flight: None, next_id: 1 }
    }

    /// One life: opens, appends until the disk fails, and then either the machine crashes or just
    /// the process dies, which leaves its unsynced writes to the next life.
    fn live(&mut self) {
        let succeed = if self.rng.below(4) == 0 { self.rng.below(9) } else { self.rng.below(40) };
        self.disk.fail_from_call(succeed);
        if let Ok((log, groups)) = open(&self.disk, SEGMENT) {
            self.check(&groups);
            self.append_until_failure(log);
        }
        match self.rng.below(3) {
            0 => self.disk.fail_from_call(u64::from(u32::MAX)),
            _ => self.disk.crash(&mut self.rng),
        }
    }

    fn check(&mut self, groups: &Groups) {
        assert!(
            *groups == self.certain || Some(groups) == self.in_flight.as_ref(),
            "found {groups:?}, expected {:?} or {:?}",
            self.certain,
            self.in_flight
        );
        // From here on the node has seen it: it must not change any more.
        self.certain = groups.clone();
        self.in_flight = None;
    }

    fn append_until_failure(&mut self, mut log: Log) {
        loop {
            if self.rng.below(6) == 0 && log.write_idle_batch().is_err() {
                return;
            }
            let mut after = self.certain.clone();
            let append = draw_append(&mut self.rng, self.next_id, &after);
            self.next_id += 1;
            model_append(&mut after, &append);
            let writes_something = !append.writes.is_empty();
            match log.append(&[append]) {
                Ok(_) => self.certain = after,
                Err(_) => {
                    self.in_flight = writes_something.then_some(after);
                    return;
                }
            }
        }
    }
}

#[test]
fn lives_and_crashes_follow_the_model() {
    let mut faults = crate::vfs::SimDiskCounters::default();
    for seed in 0..250 {
        let mut world = World::new(seed);
        for _ in 0..12 {
            world.live();
        }
        let (_, groups) = open(&world.disk, SEGMENT).unwrap();
        world.check(&groups);
        let counters = world.disk.counters();
        faults.torn += counters.torn;
        faults.zeroed += counters.zeroed;
        faults.dropped += counters.dropped;
        faults.names_dropped += counters.names_dropped;
    }
    for fault in [faults.torn, faults.zeroed, faults.dropped, faults.names_dropped] {
        assert!(fault > 0, "every fault happened: {faults:?}");
    }
}
