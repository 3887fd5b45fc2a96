//! Transactions against brute force: every order of starts and commits is tried.
//!
//! Would go wrong without it: an execution that exists and is called impossible, or the reverse.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;

use kv_check::transactions::{
    Execution, KeyId, Level, NEVER, Step, Txn, TxnHistory, TxnOp, TxnOutcome, Version,
    check_transactions,
};
use kv_check::{Options, Verdict};
use support::Rng;

/// What a key holds: all values that were appended to it, or the one that was written.
type State = BTreeMap<KeyId, Vec<Version>>;

/// Which executions are allowed.
#[derive(Clone, Copy)]
struct Rules {
    /// Whether each transaction commits where it starts.
    is_serial: bool,
    /// Whether one that ended before another was invoked must commit before that starts.
    keeps_time: bool,
    /// The same for those of one process.
    keeps_process: bool,
}

/// A search over all executions.
struct Executions<'h> {
    history: &'h TxnHistory,
    rules: Rules,
}

#[derive(Clone)]
struct Progress {
    state: State,
    /// Of each transaction, whether it started, and what was committed then.
    started: Vec<Option<usize>>,
    committed: Vec<bool>,
    /// For each commit, the keys that it wrote.
    written: Vec<Vec<KeyId>>,
}

impl Executions<'_> {
    fn exist(&self) -> bool {
        let count = self.history.transactions().len();
        let (started, committed) = (vec![None; count], vec![false; count]);
        let progress = Progress { state: State::new(), started, committed, written: vec![] };
        self.go(progress)
    }

    fn go(&self, at: Progress) -> bool {
        let txns = self.history.transactions();
        let is_left = |txn: usize| !at.committed[txn];
        if (0..txns.len()).all(|txn| !is_left(txn) || txns[txn].outcome != TxnOutcome::Committed) {
            return true;
        }
        (0..txns.len()).any(|txn| {
            if !is_left(txn) || txns[txn].outcome == TxnOutcome::Aborted {
                return false;
            }
            match at.started[txn] {
                Some(start) => self.commit(&at, txn, start).is_some_and(|next| self.go(next)),
                None => self.start(&at, txn).is_some_and(|next| self.go(next)),
            }
        })
    }

    fn start(&self, at: &Progress, txn: usize) -> Option<Progress> {
        let txns = self.history.transactions();
        let must_precede = |other: usize| {
            let (one, other) = (&txns[other], &txns[txn]);
            (self.rules.keeps_time && one.completed < other.invoked)
                || (self.rules.keeps_process
                    && one.process == other.process
                    && one.invoked < other.invoked)
        };
        let is_missing =
            |other: usize| txns[other].outcome == TxnOutcome::Committed && !at.committed[other];
        if (0..txns.len()).any(|other| is_missing(other) && must_precede(other)) {
            return None;
        }
        self.run(txn, &at.state)?;
        let mut next = at.clone();
        next.started[txn] = Some(next.written.len());
        let start = next.written.len();
        if self.rules.is_serial { self.commit(&next, txn, start) } else { Some(next) }
    }

    /// What a transaction leaves behind, if its reads are those of this state.
    fn run(&self, txn: usize, state: &State) -> Option<State> {
        let mut state = state.clone();
        for op in self.history.ops(txn) {
            let held = state.entry(self.history.key_of_op(*op)).or_default();
            match *op {
                TxnOp::Append(version) => held.push(version),
                TxnOp::Write(version) => *held = vec![version],
                TxnOp::ReadList(_, list) if self.history.elements(list) == *held => {}
                TxnOp::Read(_, version) if held.last().copied() == version => {}
                TxnOp::ReadList(..) | TxnOp::Read(..) => return None,
            }
        }
        Some(state)
    }

    fn commit(&self, at: &Progress, txn: usize, start: usize) -> Option<Progress> {
        let ops = self.history.ops(txn).iter();
        let written: Vec<_> =
            ops.filter_map(|op| op.written()).map(|it| self.history.key_of(it)).collect();
        let mut since = at.written[start..].iter().flatten();
        if since.any(|key| written.contains(key)) {
            return None;
        }
        let mut next = at.clone();
        write_all(self.history, txn, &mut next.state);
        next.committed[txn] = true;
        next.written.push(written);
        Some(next)
    }
}

/// Executions that are given, against what they mean.
impl Executions<'_> {
    /// Whether these steps are an execution.
    fn allow(&self, steps: &[Step]) -> bool {
        let is_alone = |step: &Step| matches!(step, Step::Run(_));
        if self.rules.is_serial && !steps.iter().all(is_alone) {
            return false;
        }
        let txns = 0..self.history.transactions().len();
        let spans: Option<Vec<_>> = txns.map(|txn| self.span(txn, steps)).collect();
        spans.is_some_and(|spans| self.agree(&spans))
    }

    /// Where a transaction starts and commits, if it does, or none if it may not do so.
    fn span(&self, txn: usize, steps: &[Step]) -> Option<Option<(usize, usize)>> {
        let mut starts = Vec::new();
        let mut commits = Vec::new();
        for (place, step) in steps.iter().enumerate().filter(|it| it.1.txn() as usize == txn) {
            if !matches!(step, Step::Commit(_)) {
                starts.push(2 * place);
            }
            if !matches!(step, Step::Start(_)) {
                commits.push(2 * place + 1);
            }
        }
        let outcome = self.history.transactions()[txn].outcome;
        match (&starts[..], &commits[..]) {
            ([start], [commit]) if start < commit && outcome != TxnOutcome::Aborted => {
                Some(Some((*start, *commit)))
            }
            ([], []) if outcome != TxnOutcome::Committed => Some(None),
            _ => None,
        }
    }

    /// Whether transactions that start and commit there see what is committed and keep the rules.
    fn agree(&self, spans: &[Option<(usize, usize)>]) -> bool {
        let txns = self.history.transactions();
        let written = |txn: usize| {
            let ops = self.history.ops(txn).iter().filter_map(|op| op.written());
            ops.map(|version| self.history.key_of(version)).collect::<Vec<_>>()
        };
        let there = (0..txns.len()).filter_map(|txn| spans[txn].map(|span| (span, txn)));
        let there: Vec<_> = there.collect();
        let is_pair_allowed = |((one_start, one_commit), one),
                               ((start, commit), other): (_, usize)| {
            let (one_keys, keys): (Vec<KeyId>, _) = (written(one), written(other));
            let is_shared = one != other && one_keys.iter().any(|key| keys.contains(key));
            let is_apart = one_commit < start || commit < one_start;
            let is_kept = self.rules.keeps_time
                || (self.rules.keeps_process && txns[one].process == txns[other].process);
            let is_before = is_kept && txns[one].completed < txns[other].invoked;
            (!is_shared || is_apart) && (!is_before || one_commit < start)
        };
        let sees_it = |((start, _), txn): ((usize, usize), usize)| {
            let mut before: Vec<_> =
                there.iter().filter(|((_, commit), _)| *commit < start).collect();
            before.sort_by_key(|((_, commit), _)| *commit);
            let mut state = State::new();
            for (_, txn) in before {
                write_all(self.history, *txn, &mut state);
            }
            self.run(txn, &state).is_some()
        };
        there
            .iter()
            .all(|it| sees_it(*it) && there.iter().all(|other| is_pair_allowed(*it, *other)))
    }
}

fn write_all(history: &TxnHistory, txn: usize, state: &mut State) {
    for op in history.ops(txn) {
        let held = state.entry(history.key_of_op(*op)).or_default();
        match *op {
            TxnOp::Append(version) => held.push(version),
            TxnOp::Write(version) => *held = vec![version],
            TxnOp::ReadList(..) | TxnOp::Read(..) => {}
        }
    }
}

const SERIAL: Rules = Rules { is_serial: true, keeps_time: false, keeps_process: false };
const SNAPSHOT: Rules = Rules { is_serial: false, keeps_time: false, keeps_process: false };

/// The levels that brute force decides.
const LEVELS: [(Level, Rules); 6] = [
    (Level::Serializable, SERIAL),
    (Level::StrongSessionSerializable, Rules { keeps_process: true, ..SERIAL }),
    (Level::StrictSerializable, Rules { keeps_time: true, ..SERIAL }),
    (Level::SnapshotIsolation, SNAPSHOT),
    (Level::StrongSessionSnapshotIsolation, Rules { keeps_process: true, ..SNAPSHOT }),
    (Level::StrongSnapshotIsolation, Rules { keeps_time: true, ..SNAPSHOT }),
];

/// What a generated transaction does, by names.
#[derive(Clone, Debug)]
struct Plan {
    txn: Txn,
    /// Key, and what was written or read.
    ops: Vec<(usize, PlanOp)>,
}

#[derive(Clone, Debug)]
enum PlanOp {
    Write(usize),
    Read(Vec<usize>),
}

/// Random transactions, run one at a time or from snapshots, some with wrong results.
fn plans(rng: &mut Rng) -> Vec<Plan> {
    let processes = 2 + rng.below(3);
    let keys = 1 + rng.below(2);
    let mut plans: Vec<Plan> = Vec::new();
    let (mut left, mut position) = (5 + rng.below(4), 0);
    let mut open: Vec<Option<usize>> = vec![None; processes];
    let mut value = 0;
    while left > 0 || open.iter().any(Option::is_some) {
        let process = rng.below(processes);
        position += 1;
        if let Some(ended) = open[process].take() {
            plans[ended].txn.completed = position;
            continue;
        }
        if left == 0 {
            continue;
        }
        let count = (1 + rng.below(4)).min(left);
        left -= count;
        let op = |rng: &mut Rng| {
            value += 1;
            let what =
                if rng.percent(50) { PlanOp::Write(value) } else { PlanOp::Read(Vec::new()) };
            (rng.below(keys), what)
        };
        let mut op = op;
        let ops = (0..count).map(|_| op(rng)).collect();
        let outcome = match rng.below(10) {
            0 => TxnOutcome::Aborted,
            1 => TxnOutcome::Unknown,
            _ => TxnOutcome::Committed,
        };
        open[process] = Some(plans.len());
        let txn = Txn { process: process as u32, invoked: position, completed: NEVER, outcome };
        plans.push(Plan { txn, ops });
    }
    plans.iter_mut().filter(|it| it.txn.outcome == TxnOutcome::Unknown).for_each(|it| {
        it.txn.completed = NEVER;
    });
    run(rng, &mut plans);
    plans
}

/// Lets each plan read from what some others, in a random order near that of time, left behind.
fn run(rng: &mut Rng, plans: &mut [Plan]) {
    let lag = [0, 30, 60, 90][rng.below(4)];
    let mut order: Vec<usize> = (0..plans.len()).collect();
    for place in 1..order.len() {
        let is_concurrent = plans[order[place]].txn.invoked < plans[order[place - 1]].txn.completed;
        if rng.percent(if is_concurrent { 50 } else { 20 }) {
            order.swap(place - 1, place);
        }
    }
    let mut states: Vec<BTreeMap<usize, Vec<usize>>> = vec![BTreeMap::new()];
    for txn in order {
        let behind = if rng.percent(lag) { rng.below(states.len()) } else { 0 };
        let mut seen = states[states.len() - 1 - behind].clone();
        let mut latest = states.last().unwrap().clone();
        for (key, op) in &mut plans[txn].ops {
            match op {
                PlanOp::Write(value) => {
                    seen.entry(*key).or_default().push(*value);
                    latest.entry(*key).or_default().push(*value);
                }
                PlanOp::Read(values) => {
                    let other = rng.below(states.len());
                    let from = if rng.percent(lag / 4) { &states[other] } else { &seen };
                    *values = from.get(key).cloned().unwrap_or_default();
                }
            }
        }
        let takes_effect = match plans[txn].txn.outcome {
            TxnOutcome::Committed => true,
            TxnOutcome::Aborted => rng.percent(20),
            TxnOutcome::Unknown => rng.percent(50),
        };
        if takes_effect {
            states.push(latest);
        }
    }
}

/// The history of the plans, whose operations are what `op` makes of them.
fn history_of(plans: &[Plan], op: impl Fn(&mut TxnHistory, KeyId, &PlanOp) -> TxnOp) -> TxnHistory {
    let mut history = TxnHistory::new();
    for plan in plans {
        let mut ops = Vec::new();
        for (key, planned) in &plan.ops {
            let key = history.key(&key.to_string());
            ops.push(op(&mut history, key, planned));
        }
        history.push(plan.txn, &ops).unwrap();
    }
    history
}

fn lists(plans: &[Plan]) -> TxnHistory {
    history_of(plans, |history, key, op| match op {
        PlanOp::Write(value) => TxnOp::Append(history.version(key, &value.to_string())),
        PlanOp::Read(values) => {
            let version = |value: &usize| history.version(key, &value.to_string());
            let values: Vec<_> = values.iter().map(version).collect();
            TxnOp::ReadList(key, history.list(&values).unwrap())
        }
    })
}

fn registers(plans: &[Plan]) -> TxnHistory {
    history_of(plans, |history, key, op| match op {
        PlanOp::Write(value) => TxnOp::Write(history.version(key, &value.to_string())),
        PlanOp::Read(values) => {
            TxnOp::Read(key, values.last().map(|it| history.version(key, &it.to_string())))
        }
    })
}

fn histories() -> u64 {
    let is_full = std::env::var("KV_TEST_SCALE").is_ok_and(|scale| scale == "full");
    if is_full { 30_000 } else { 2_000 }
}

/// Compares the levels of a history. Returns which hold, and how many are undecided.
fn compare(history: &TxnHistory, seed: u64) -> ([bool; 6], u32) {
    let mut undecided = 0;
    let holds = LEVELS.map(|(level, rules)| {
        let holds = Executions { history, rules }.exist();
        let report = check_transactions(history, &Options { level, ..Options::default() });
        match report.verdict {
            Verdict::Holds => assert!(holds, "seed {seed}: {level} {history:?} {report}"),
            Verdict::Violated => assert!(!holds, "seed {seed}: {level} {history:?} {report}"),
            Verdict::Unknown => undecided += 1,
        }
        assert!(report.flaws.is_empty(), "seed {seed}: {level} {history:?} {report}");
        if report.verdict == Verdict::Holds {
            let execution = report.execution(level).unwrap();
            let is_one = Executions { history, rules }.allow(&execution.steps);
            assert!(is_one, "seed {seed}: {level} {history:?} {execution:?}");
        }
        if rules.is_serial {
            assert_ne!(report.verdict, Verdict::Unknown, "seed {seed}: {level} {report}");
        }
        holds
    });
    (holds, undecided)
}

#[test]
fn lists_are_judged_as_by_trying_all_executions() {
    compare_all(lists);
}

#[test]
fn registers_are_judged_as_by_trying_all_executions() {
    compare_all(registers);
}

fn compare_all(history: impl Fn(&[Plan]) -> TxnHistory) {
    let mut counts = [0; 6];
    let mut undecided = 0;
    for seed in 0..histories() {
        let plans = plans(&mut Rng(seed));
        let (holds, unknown) = compare(&history(&plans), seed);
        undecided += unknown;
        for (count, holds) in counts.iter_mut().zip(holds) {
            *count += u64::from(holds);
        }
    }
    let enough = histories() / 20..histories() * 19 / 20;
    println!("{counts:?} of {} hold, {undecided} are undecided", histories());
    assert!(counts.iter().all(|count| enough.contains(count)), "{counts:?}");
    assert!(u64::from(undecided) < histories() / 10, "{undecided} are undecided");
}

/// Changes some steps of an execution.
fn change(rng: &mut Rng, history: &TxnHistory, steps: &mut Vec<Step>) {
    for _ in 0..rng.below(3) {
        let txn = rng.below(history.transactions().len()) as u32;
        let (one, other) = (rng.below(steps.len().max(1)), rng.below(steps.len() + 1));
        let last = steps.len().saturating_sub(1);
        let step = [Step::Run(txn), Step::Start(txn), Step::Commit(txn)][rng.below(3)];
        match rng.below(10) {
            0 => steps.insert(other, step),
            1 => steps.insert(other, Step::Run(txn)),
            _ if steps.is_empty() => {}
            2 => steps.push(steps[one]),
            8 | 9 => {
                // One that ran alone commits later, behind others.
                let Step::Run(txn) = steps[one] else { continue };
                steps.insert((one + 1 + rng.below(3)).min(last + 1), Step::Commit(txn));
                steps[one] = Step::Start(txn);
            }
            3 => drop(steps.remove(one)),
            4 | 5 => steps.swap(one, other.min(last)),
            _ => steps.swap(one, (one + 1).min(last)),
        }
    }
}

/// Executions that were found, changed, and held to every level: the replay takes those that
/// are executions, and refuses the others.
#[test]
fn executions_are_replayed_as_they_are_meant() {
    let mut counts = [[0; 2]; 6];
    for seed in 0..histories() {
        let mut rng = Rng(seed);
        let plans = plans(&mut rng);
        for history in [lists(&plans), registers(&plans)] {
            let found = LEVELS.map(|(level, _)| {
                let report = check_transactions(&history, &Options { level, ..Options::default() });
                report.execution(level).cloned()
            });
            for Execution { mut steps, .. } in found.into_iter().flatten() {
                change(&mut rng, &history, &mut steps);
                for ((level, rules), count) in LEVELS.into_iter().zip(&mut counts) {
                    let execution = Execution { level, steps: steps.clone() };
                    let replayed = execution.replay(&history);
                    let is_one = Executions { history: &history, rules }.allow(&steps);
                    let told = || format!("seed {seed}: {history:?} {execution:?} {replayed:?}");
                    assert_eq!(replayed.is_ok(), is_one, "{}", told());
                    count[usize::from(is_one)] += 1;
                }
            }
        }
    }
    println!("{counts:?} executions by level were refused and taken");
    assert!(counts.as_flattened().iter().all(|count| *count > histories() / 4), "{counts:?}");
}

/// Transactions one after the other, each of which sees all before it.
fn serial(rng: &mut Rng) -> Vec<Plan> {
    let mut plans = plans(rng);
    let mut state: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, plan) in plans.iter_mut().enumerate() {
        let invoked = 2 * number as u32;
        plan.txn = Txn { invoked, completed: invoked + 1, ..plan.txn };
        plan.txn.outcome = TxnOutcome::Committed;
        for (key, op) in &mut plan.ops {
            let held = state.entry(*key).or_default();
            match op {
                PlanOp::Write(value) => held.push(*value),
                PlanOp::Read(values) => values.clone_from(held),
            }
        }
    }
    plans
}

#[test]
fn each_stale_or_lost_read_of_a_good_history_is_found() {
    let mut mutations = 0;
    for seed in 0..histories() / 10 {
        let good = serial(&mut Rng(seed));
        let judge = |plans: &[Plan]| {
            [lists(plans), registers(plans)]
                .map(|history| check_transactions(&history, &Options::default()).verdict)
        };
        assert_eq!(judge(&good), [Verdict::Holds; 2], "seed {seed}: {good:?}");
        for (txn, plan) in good.iter().enumerate() {
            for (place, (_, op)) in plan.ops.iter().enumerate() {
                let PlanOp::Read(values) = op else { continue };
                for length in 0..values.len() {
                    let mut bad = good.clone();
                    bad[txn].ops[place].1 = PlanOp::Read(values[..length].to_vec());
                    assert_eq!(judge(&bad), [Verdict::Violated; 2], "seed {seed}: {bad:?}");
                    mutations += 1;
                }
            }
        }
    }
    assert!(mutations > histories() / 10, "{mutations}");
}
