//! Crashes at every disk call, over and over.

use super::*;

/// One step of a script.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Append(Append),
    Release(Floors),
    Idle,
}

/// A script and the state after each prefix of it.
pub(super) struct Script {
    pub(super) steps: Vec<Step>,
    pub(super) states: Vec<Groups>,
}

impl Script {
    pub(super) fn draw(seed: u64, step_count: u64) -> Self {
        let mut rng = Rng::fork(seed, "script");
        let mut state = Groups::new();
        let mut script = Self { steps: Vec::new(), states: vec![state.clone()] };
        for id in 1..=step_count {
            let step = match rng.below(8) {
                0 => Step::Idle,
                1 | 2 => Step::Release(draw_floors(&mut rng, id, &state)),
                _ => {
                    // Each append writes something: one that does not would be answered from thin
                    // air.
                    let mut append = draw_append(&mut rng, id, &state);
                    let mark = last_of(&state, ShardId(9)).index.0 + 1;
                    append.writes.push(group_write(9, entries(id, mark..mark + 1, b"mark")));
                    Step::Append(append)
                }
            };
            model_step(&mut state, &step);
            script.steps.push(step);
            script.states.push(state.clone());
        }
        script
    }

    /// Runs the script until the disk fails. Returns how many steps were answered.
    fn run(&self, disk: &SimDisk) -> usize {
        let Ok((mut log, _)) = open(disk, SMALL) else { return 0 };
        self.steps.iter().take_while(|step| run_step(&mut log, step).is_ok()).count()
    }
}

pub(super) fn model_step(state: &mut Groups, step: &Step) {
    match step {
        Step::Append(append) => model_append(state, append),
        Step::Release(floors) => model_release(state, floors),
        Step::Idle => {}
    }
}

pub(super) fn run_step(log: &mut Log, step: &Step) -> Result<(), LogError> {
    match step {
        Step::Append(append) => log.append(std::slice::from_ref(append)).map(|_| ()),
        Step::Release(floors) => log.release(floors).map(|_| ()),
        Step::Idle => log.write_idle_batch().map(|_| ()),
    }
}

#[test]
fn crash_at_every_call_loses_nothing_that_was_answered() {
    let mut crash_count = 0;
    for script_seed in 0..scale(3, 30) {
        let script = Script::draw(script_seed, 40);
        let disk = SimDisk::new();
        assert_eq!(script.run(&disk), script.steps.len());
        let call_count = disk.counters().calls;
        let mut unanswered_kept = 0;
        for succeed in 0..=call_count {
            for seed in 0..scale(16, 64) {
                let disk = SimDisk::new();
                disk.fail_from_call(succeed);
                let answered = script.run(&disk);
                disk.crash(&mut Rng::fork(seed, "crash"));
                let (_, groups) = open(&disk, SMALL).unwrap();
                let fits = |count: usize| script.states.get(count) == Some(&groups);
                assert!(
                    fits(answered) || fits(answered + 1),
                    "script {script_seed}, call {succeed}, seed {seed}: {answered} were answered, \
                     found {groups:?}"
                );
                unanswered_kept += u64::from(!fits(answered));
                crash_count += 1;
            }
        }
        assert!(unanswered_kept > 0, "the crash kept an unanswered step sometimes");
    }
    assert!(crash_count >= 5000, "{crash_count} crashes");
}

/// What the log may hold: what was answered, and then what is not known to be lost.
struct World {
    disk: SimDisk,
    rng: Rng,
    /// Durable for certain.
    certain: Groups,
    /// With the step in flight when the disk failed.
    in_flight: Option<Groups>,
    next_id: u64,
    recycled: u64,
    reused: u64,
    copied: u64,
    /// Steps for which there was no room.
    refused: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            disk: SimDisk::new(),
            rng: Rng::fork(seed, "world"),
            certain: Groups::new(),
            in_flight: None,
            next_id: 1,
            recycled: 0,
            reused: 0,
            copied: 0,
            refused: 0,
        }
    }

    /// One life: opens, works until the disk fails, and then either the machine crashes or just the
    /// process dies, which leaves its unsynced writes to the next life.
    fn live(&mut self) {
        let succeed = if self.rng.below(4) == 0 { self.rng.below(9) } else { self.rng.below(120) };
        self.disk.fail_from_call(succeed);
        // Sometimes the disk is nearly full.
        let room = (self.rng.below(3) == 0).then(|| self.rng.below(6) * SMALL);
        self.disk.set_capacity(room.map(|room| self.disk.used_space() + room));
        if let Ok((log, groups)) = open(&self.disk, SMALL) {
            self.check(&groups);
            self.work_until_failure(log);
        }
        match self.rng.below(3) {
            0 => self.disk.clear_faults(),
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

    fn draw_step(&mut self) -> Step {
        self.next_id += 1;
        match self.rng.below(8) {
            0 => Step::Idle,
            1 | 2 => Step::Release(draw_floors(&mut self.rng, self.next_id, &self.certain)),
            _ => Step::Append(draw_append(&mut self.rng, self.next_id, &self.certain)),
        }
    }

    fn work_until_failure(&mut self, mut log: Log) {
        loop {
            let step = self.draw_step();
            let mut after = self.certain.clone();
            model_step(&mut after, &step);
            match run_step(&mut log, &step) {
                Ok(()) => self.certain = after,
                Err(error) if error.is_retryable() => self.refused += 1,
                Err(_) => {
                    self.in_flight = Some(after);
                    break;
                }
            }
        }
        self.recycled += log.usage().segments_recycled;
        self.reused += log.usage().segments_reused;
        self.copied += log.usage().entries_copied;
    }
}

#[test]
fn lives_and_crashes_follow_the_model() {
    let mut faults = crate::vfs::SimDiskCounters::default();
    let (mut recycled, mut reused, mut copied, mut refused) = (0, 0, 0, 0);
    for seed in 0..scale(150, 3000) {
        let mut world = World::new(seed);
        for _ in 0..20 {
            world.live();
        }
        world.disk.set_capacity(None);
        let (_, groups) = open(&world.disk, SMALL).unwrap();
        world.check(&groups);
        let counters = world.disk.counters();
        faults.torn += counters.torn;
        faults.zeroed += counters.zeroed;
        faults.dropped += counters.dropped;
        faults.names_dropped += counters.names_dropped;
        recycled += world.recycled;
        reused += world.reused;
        copied += world.copied;
        refused += world.refused;
    }
    for fault in [faults.torn, faults.zeroed, faults.dropped, faults.names_dropped] {
        assert!(fault > 0, "every fault happened: {faults:?}");
    }
    assert!(recycled > 1000, "{recycled} segments were recycled");
    assert!(reused > 500, "{reused} segments were reused");
    assert!(copied > 50, "{copied} entries were copied");
    assert!(refused > 500, "{refused} steps found no room");
}
