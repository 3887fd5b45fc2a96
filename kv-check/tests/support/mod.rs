//! What the tests share: a seeded generator, a simulated store that records correct histories, and
//! small changes that make them wrong.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;

use kv_check::{Event, EventKind, Expect, History, MicroOp, Model, Observed, Process};

/// SplitMix64: small, seeded, and the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// What kind of history to record.
#[derive(Clone)]
pub struct Workload {
    pub clients: usize,
    pub operations: usize,
    pub keys: usize,
    /// How many different values there are; 0 makes each one unique.
    pub values: usize,
    /// Of a hundred operations, how many end with an unknown outcome.
    pub unknown: usize,
    /// No more unknown outcomes than this.
    pub unknown_max: usize,
    /// Of a hundred operations, how many fail.
    pub failed: usize,
    /// Of a hundred results, how many are reported.
    pub reported: usize,
    /// Of a hundred versions, how many are reported if results are at all.
    pub versions: usize,
    /// Of a hundred turns of a client in an operation, how many do nothing.
    pub slow: usize,
}

impl Workload {
    /// Few clients and as many operations, with any mixture of the rest.
    pub fn small(rng: &mut Rng, operations: usize) -> Self {
        Self {
            clients: 2 + rng.below(4),
            operations,
            keys: 1 + rng.below(2),
            values: rng.below(4),
            unknown: [0, 20, 50][rng.below(3)],
            unknown_max: 4,
            failed: rng.below(15),
            reported: [100, 80][rng.below(2)],
            versions: [0, 50, 100][rng.below(3)],
            slow: [0, 60][rng.below(2)],
        }
    }
}

enum Phase {
    Idle,
    /// Invoked, not yet in effect.
    Sent(MicroOp),
    /// In effect, with its results.
    Done(MicroOp),
}

struct Client {
    number: u64,
    phase: Phase,
}

/// A correct store with concurrent clients that records what happens.
struct Recorder<'r> {
    rng: &'r mut Rng,
    workload: Workload,
    store: BTreeMap<String, (Option<String>, u64)>,
    history: History,
    clients: Vec<Client>,
    /// Requests of unknown outcome that may still take effect.
    ghosts: Vec<MicroOp>,
    started: usize,
    unknown: usize,
}

/// Records a history that is linearizable.
pub fn record(rng: &mut Rng, workload: &Workload) -> History {
    let clients = (0..workload.clients as u64).map(|number| Client { number, phase: Phase::Idle });
    let mut recorder = Recorder {
        rng,
        workload: workload.clone(),
        store: BTreeMap::new(),
        history: History::new(Model::Kv),
        clients: clients.collect(),
        ghosts: Vec::new(),
        started: 0,
        unknown: 0,
    };
    while recorder.turn() {}
    recorder.history
}

impl Recorder<'_> {
    /// Lets one client act; false if there is nothing left to do.
    fn turn(&mut self) -> bool {
        if !self.ghosts.is_empty() && self.rng.percent(10) {
            let ghost = self.rng.below(self.ghosts.len());
            let ghost = self.ghosts.swap_remove(ghost);
            self.apply(&ghost);
        }
        let which = self.rng.below(self.clients.len());
        match std::mem::replace(&mut self.clients[which].phase, Phase::Idle) {
            Phase::Idle => {
                if self.started < self.workload.operations {
                    self.started += 1;
                    let request = self.request();
                    self.event(which, EventKind::Invoke, request.clone());
                    self.clients[which].phase = Phase::Sent(request);
                }
            }
            phase if self.rng.percent(self.workload.slow) => self.clients[which].phase = phase,
            Phase::Sent(request) => self.sent(which, request),
            Phase::Done(answer) => self.done(which, answer),
        }
        let is_open = |client: &Client| !matches!(client.phase, Phase::Idle);
        self.started < self.workload.operations || self.clients.iter().any(is_open)
    }

    fn sent(&mut self, which: usize, request: MicroOp) {
        if self.rng.percent(self.workload.failed) {
            self.event(which, EventKind::Fail, request);
        } else if self.is_unknown() {
            self.lose(which, &request);
            self.ghosts.push(request);
        } else {
            let answer = self.apply(&request);
            self.clients[which].phase = Phase::Done(answer);
        }
    }

    fn done(&mut self, which: usize, answer: MicroOp) {
        if self.is_unknown() {
            self.lose(which, &answer);
        } else {
            let answer = self.forget(answer);
            self.event(which, EventKind::Ok, answer);
        }
    }

    fn is_unknown(&mut self) -> bool {
        let is_unknown = self.unknown < self.workload.unknown_max
            && self.rng.percent(self.workload.unknown.div_ceil(2));
        self.unknown += usize::from(is_unknown);
        is_unknown
    }

    /// Ends an operation with an unknown outcome, half of the time without any event.
    fn lose(&mut self, which: usize, request: &MicroOp) {
        if self.rng.percent(50) {
            let request = without_results(request);
            self.event(which, EventKind::Info, request);
        }
        let number = self.clients.iter().map(|client| client.number).max().unwrap() + 1;
        self.clients[which].number = number;
    }

    fn event(&mut self, which: usize, kind: EventKind, op: MicroOp) {
        let time = self.history.events.len() as u64 * 1_000;
        self.history.push(time, Process::Client(self.clients[which].number), kind, vec![op]);
    }

    fn request(&mut self) -> MicroOp {
        let key = format!("k{}", self.rng.below(self.workload.keys));
        let value = self.value(self.started);
        match self.rng.below(10) {
            0..4 => MicroOp::get(&key),
            4..7 => MicroOp::put(&key, &value),
            7 => MicroOp::delete(&key),
            _ => {
                let expect = self.expect(&key);
                MicroOp::cas(&key, expect, &value)
            }
        }
    }

    fn value(&mut self, unique: usize) -> String {
        match self.workload.values {
            0 => format!("v{unique}"),
            count => format!("v{}", self.rng.below(count)),
        }
    }

    /// Mostly what the key holds, so that some cas apply.
    fn expect(&mut self, key: &str) -> Expect {
        let (value, version) = self.store.get(key).cloned().unwrap_or_default();
        let other = self.rng.below(self.started + 1);
        match (self.rng.below(6), value) {
            (0 | 1, Some(value)) => Expect::Value(value),
            (2 | 3, Some(_)) if self.workload.versions > 0 => Expect::Version(version),
            (4, _) => Expect::Value(self.value(other)),
            (5, _) if self.workload.versions > 0 => {
                Expect::Version(version.saturating_sub(1) + self.rng.below(3) as u64)
            }
            _ => Expect::Absent,
        }
    }

    fn apply(&mut self, request: &MicroOp) -> MicroOp {
        let step = 1 + self.rng.below(2) as u64;
        let (held, last) = self.store.entry(request.key().to_owned()).or_default();
        let mut answer = request.clone();
        match &mut answer {
            MicroOp::Get { value, version, .. } => {
                *version = held.is_some().then_some(*last);
                *value = held.clone().map_or(Observed::Absent, Observed::Value);
            }
            MicroOp::Put { value, version, .. } => {
                *last += step;
                *held = Some(value.clone());
                *version = Some(*last);
            }
            MicroOp::Delete { existed, .. } => {
                *last += if held.is_some() { step } else { 0 };
                *existed = Some(held.take().is_some());
            }
            MicroOp::Cas { expect, value, applied, version, .. } => {
                let is_met = match expect {
                    Expect::Value(value) => held.as_ref() == Some(value),
                    Expect::Version(version) => held.is_some() && last == version,
                    Expect::Absent => held.is_none(),
                };
                *applied = Some(is_met);
                if is_met {
                    *last += step;
                    *held = Some(value.clone());
                    *version = Some(*last);
                }
            }
        }
        answer
    }

    /// Leaves out some of the results.
    fn forget(&mut self, answer: MicroOp) -> MicroOp {
        let is_reported = self.rng.percent(self.workload.reported);
        let mut answer = if is_reported { answer } else { without_results(&answer) };
        if !self.rng.percent(self.workload.versions)
            && let MicroOp::Get { version, .. }
            | MicroOp::Put { version, .. }
            | MicroOp::Cas { version, .. } = &mut answer
        {
            *version = None;
        }
        answer
    }
}

pub fn without_results(op: &MicroOp) -> MicroOp {
    match op {
        MicroOp::Get { key, .. } => MicroOp::get(key),
        MicroOp::Put { key, value, .. } => MicroOp::put(key, value),
        MicroOp::Delete { key, .. } => MicroOp::delete(key),
        MicroOp::Cas { key, expect, value, .. } => MicroOp::cas(key, expect.clone(), value),
    }
}

/// Changes one result, which often makes the history wrong.
pub fn mutate(rng: &mut Rng, history: &mut History) {
    let is_answer = |event: &Event| event.kind == EventKind::Ok;
    let answers: Vec<usize> =
        (0..history.events.len()).filter(|at| is_answer(&history.events[*at])).collect();
    if answers.is_empty() {
        return;
    }
    let values: Vec<String> = history.events.iter().filter_map(written).collect();
    let at = answers[rng.below(answers.len())];
    let other = |rng: &mut Rng| match rng.below(values.len() + 1) {
        0 => Observed::Absent,
        which => Observed::Value(values[which - 1].clone()),
    };
    match &mut history.events[at].ops[0] {
        MicroOp::Get { value, version, .. } if version.is_none() || rng.percent(70) => {
            *value = other(rng);
            if *value == Observed::Absent {
                *version = None;
            }
        }
        MicroOp::Cas { applied, version, .. } if version.is_none() || rng.percent(50) => {
            *applied = applied.map(|applied| !applied);
            *version = None;
        }
        MicroOp::Get { version, .. }
        | MicroOp::Put { version, .. }
        | MicroOp::Cas { version, .. } => {
            *version = version.map(|version| (version + rng.below(5) as u64).saturating_sub(2));
        }
        MicroOp::Delete { existed, .. } => *existed = existed.map(|existed| !existed),
    }
}

fn written(event: &Event) -> Option<String> {
    match event.ops.first()? {
        MicroOp::Put { value, .. } | MicroOp::Cas { value, .. } => Some(value.clone()),
        MicroOp::Get { .. } | MicroOp::Delete { .. } => None,
    }
}
