//! Executions of transactions, replayed.
//!
//! Nothing of what decided about levels is used here, only the history and the meaning of a level:
//!
//! - each committed transaction starts once and commits once, after that; one of unknown outcome does
//!   so or is not there at all, and none that aborted is there,
//! - each read is what the last committed writes before the start and those of the transaction
//!   itself give,
//! - where the level is serializable, nothing happens between a start and its commit; else nobody
//!   commits a write to a key to which another one committed since it started,
//! - where the level keeps the order of real time, or that of processes, nobody commits when somebody
//!   started who was invoked, by the same process, after its completion.
//!
//! A key holds nothing at first, or a value that nobody wrote.
//!
//! O(n), where what reads of lists saw counts.

use std::collections::BTreeMap;

use crate::transactions::{
    Execution, Level, Step, Txn, TxnHistory, TxnOp, TxnOutcome, Version, index, name,
};

/// Why an execution does not show its level. If this checker found it, the verdict is unknown.
///
/// Transactions are named by their place in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExecutionFlaw {
    /// A level that no execution shows.
    #[error("no execution shows {0}")]
    NoProof(Level),
    /// A place where there is no transaction, or one that aborted.
    #[error("there is no {} that took effect", name(*.0))]
    NoTransaction(u32),
    /// A transaction starts twice, or commits without having started.
    #[error("{} starts or commits out of turn", name(*.0))]
    OutOfTurn(u32),
    /// A committed transaction does not commit, or one that started.
    #[error("{} does not commit", name(*.0))]
    Missing(u32),
    /// A start is not followed by its commit where no other step may be in between.
    #[error("{} does not run alone", name(*.0))]
    NotAlone(u32),
    /// A transaction commits when one has started that was invoked after it completed.
    #[error("{} comes too late", name(*.0))]
    TooLate(u32),
    /// A read would have another result.
    #[error("{} reads something else", name(*.0))]
    OtherResult(u32),
    /// Another one wrote a key and committed in between.
    #[error("{} writes what another one wrote since it started", name(*.0))]
    Overwrites(u32),
}

/// Whose order in time an execution keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    Nobodys,
    OfProcesses,
    Real,
}

/// What an execution of a level is; whether it is serial, and what order it keeps.
fn meaning(level: Level) -> Option<(bool, Time)> {
    match level {
        Level::StrictSerializable => Some((true, Time::Real)),
        Level::StrongSessionSerializable => Some((true, Time::OfProcesses)),
        Level::Serializable | Level::RepeatableRead => Some((true, Time::Nobodys)),
        Level::StrongSnapshotIsolation => Some((false, Time::Real)),
        Level::StrongSessionSnapshotIsolation => Some((false, Time::OfProcesses)),
        Level::SnapshotIsolation => Some((false, Time::Nobodys)),
        Level::ReadUncommitted
        | Level::ReadCommitted
        | Level::ReadAtomic
        | Level::CursorStability
        | Level::UpdateAtomic
        | Level::ConsistentView
        | Level::StrongSessionReadCommitted => None,
    }
}

impl Execution {
    /// Verifies that it shows its level.
    ///
    /// # Errors
    /// If it does not.
    pub fn replay(&self, history: &TxnHistory) -> Result<(), ExecutionFlaw> {
        let level = self.level;
        let (is_serial, time) = meaning(level).ok_or(ExecutionFlaw::NoProof(level))?;
        let mut replay = Replay {
            history,
            copy: Copy::new(history),
            states: vec![Progress::Waits; history.transactions().len()],
            clock: 0,
            written: vec![0; history.key_count()],
            latest: Latest { time, of_all: 0, of_processes: BTreeMap::new() },
        };
        for step in &self.steps {
            replay.clock += 1;
            match *step {
                Step::Run(txn) if is_serial => {
                    replay.start(txn)?;
                    replay.end(txn)?;
                }
                Step::Start(txn) | Step::Commit(txn) if is_serial => {
                    return Err(ExecutionFlaw::NotAlone(txn));
                }
                Step::Run(txn) => {
                    replay.start(txn)?;
                    replay.copy.take_back(history.ops(txn as usize));
                    replay.commit(txn)?;
                }
                Step::Start(txn) => {
                    replay.start(txn)?;
                    replay.copy.take_back(history.ops(txn as usize));
                }
                Step::Commit(txn) => replay.commit(txn)?,
            }
        }
        replay.finish()
    }
}

/// Where a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It has not started.
    Waits,
    /// It started at this time of the replay.
    Runs(u32),
    /// It is committed.
    Ended,
}

struct Replay<'h> {
    history: &'h TxnHistory,
    copy: Copy<'h>,
    /// By transaction.
    states: Vec<Progress>,
    /// How many steps were taken.
    clock: u32,
    /// By key: when somebody last committed a write to it.
    written: Vec<u32>,
    latest: Latest,
}

impl Replay<'_> {
    /// Does what a transaction does, on the copy as it is.
    fn start(&mut self, txn: u32) -> Result<(), ExecutionFlaw> {
        let about = self.history.transactions().get(txn as usize);
        let about = about.filter(|about| about.outcome != TxnOutcome::Aborted);
        let about = about.ok_or(ExecutionFlaw::NoTransaction(txn))?;
        let state = &mut self.states[txn as usize];
        if *state != Progress::Waits {
            return Err(ExecutionFlaw::OutOfTurn(txn));
        }
        *state = Progress::Runs(self.clock);
        self.latest.note(about);
        let mut ops = self.history.ops(txn as usize).iter();
        match ops.all(|op| self.copy.apply(*op)) {
            true => Ok(()),
            false => Err(ExecutionFlaw::OtherResult(txn)),
        }
    }

    /// Writes what a transaction wrote, unless another one did so since it started.
    fn commit(&mut self, txn: u32) -> Result<(), ExecutionFlaw> {
        let Some(Progress::Runs(start)) = self.states.get(txn as usize).copied() else {
            return Err(ExecutionFlaw::OutOfTurn(txn));
        };
        let ops = self.history.ops(txn as usize).iter();
        let writes = ops.filter_map(|op| op.written().map(|version| (*op, version)));
        let mut keys = writes.clone().map(|(_, version)| self.history.key_of(version).0 as usize);
        if keys.any(|key| self.written[key] > start) {
            return Err(ExecutionFlaw::Overwrites(txn));
        }
        for (op, version) in writes {
            self.copy.apply(op);
            self.written[self.history.key_of(version).0 as usize] = self.clock;
        }
        self.end(txn)
    }

    fn end(&mut self, txn: u32) -> Result<(), ExecutionFlaw> {
        self.states[txn as usize] = Progress::Ended;
        match self.latest.is_late(&self.history.transactions()[txn as usize]) {
            true => Err(ExecutionFlaw::TooLate(txn)),
            false => Ok(()),
        }
    }

    fn finish(&self) -> Result<(), ExecutionFlaw> {
        let transactions = self.history.transactions();
        let is_missing = |txn: &usize| match self.states[*txn] {
            Progress::Waits => transactions[*txn].outcome == TxnOutcome::Committed,
            Progress::Runs(_) => true,
            Progress::Ended => false,
        };
        let missing = (0..transactions.len()).find(is_missing);
        missing.map_or(Ok(()), |txn| Err(ExecutionFlaw::Missing(index(txn))))
    }
}

/// The latest invocation of those that have started.
struct Latest {
    time: Time,
    of_all: u32,
    of_processes: BTreeMap<u32, u32>,
}

impl Latest {
    fn note(&mut self, txn: &Txn) {
        let latest = match self.time {
            Time::Nobodys => return,
            Time::OfProcesses => self.of_processes.entry(txn.process).or_default(),
            Time::Real => &mut self.of_all,
        };
        *latest = txn.invoked.max(*latest);
    }

    /// Whether somebody has started who must come later.
    fn is_late(&self, txn: &Txn) -> bool {
        let latest = match self.time {
            Time::Nobodys => 0,
            Time::OfProcesses => self.of_processes.get(&txn.process).copied().unwrap_or_default(),
            Time::Real => self.of_all,
        };
        // One of unknown outcome may take effect at any later time.
        txn.outcome == TxnOutcome::Committed && txn.completed < latest
    }
}

/// A single copy of all keys.
struct Copy<'h> {
    history: &'h TxnHistory,
    /// By key: where its values begin. There is room for all that anybody writes.
    begins: Vec<usize>,
    /// Key by key, what was written, the oldest first.
    values: Vec<Version>,
    /// By key: how many values it has. A register holds the last of them, a list holds all.
    lengths: Vec<usize>,
    /// By key: what it held at first, once it was read.
    initials: Vec<Option<Option<Version>>>,
    /// By version: whether anybody wrote it.
    is_written: Vec<bool>,
}

impl<'h> Copy<'h> {
    fn new(history: &'h TxnHistory) -> Self {
        let mut begins = vec![0; history.key_count() + 1];
        let mut is_written = vec![false; history.version_count()];
        for version in history.all_ops().iter().filter_map(|op| op.written()) {
            begins[history.key_of(version).0 as usize + 1] += 1;
            is_written[version.0 as usize] = true;
        }
        let mut count = 0;
        for begin in &mut begins {
            count += *begin;
            *begin = count;
        }
        let (values, lengths) = (vec![Version(0); count], vec![0; history.key_count()]);
        let initials = vec![None; history.key_count()];
        Self { history, begins, values, lengths, initials, is_written }
    }

    /// Whether the result of an operation is what the copy holds.
    fn apply(&mut self, op: TxnOp) -> bool {
        let key = self.history.key_of_op(op).0 as usize;
        let (begin, length) = (self.begins[key], self.lengths[key]);
        match op {
            TxnOp::Append(version) | TxnOp::Write(version) => {
                self.values[begin + length] = version;
                self.lengths[key] += 1;
                true
            }
            TxnOp::ReadList(_, list) => {
                *self.history.elements(list) == self.values[begin..begin + length]
            }
            TxnOp::Read(_, found) if length > 0 => found == Some(self.values[begin + length - 1]),
            TxnOp::Read(_, found) => {
                let is_initial = found.is_none_or(|found| !self.is_written[found.0 as usize]);
                is_initial && *self.initials[key].get_or_insert(found) == found
            }
        }
    }

    /// Takes back what was written last by these operations.
    fn take_back(&mut self, ops: &[TxnOp]) {
        for version in ops.iter().filter_map(|op| op.written()) {
            self.lengths[self.history.key_of(version).0 as usize] -= 1;
        }
    }
}
