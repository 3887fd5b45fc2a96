//! The locks of one replica, and the transactions that hold them or wait for them.
//!
//! Every replica holds the locks of the transactions that have *prepared* on its shard: those are
//! part of the replicated state, and whoever leads next must respect them. Only a leader gives out
//! others, to transactions that are *alive*: these fall when the leadership ends, or when nothing is
//! heard of their coordinator.
//!
//! # Rules
//!
//! - Nothing is locked, and no write begun, before the leader has applied all that earlier leaders
//!   committed: among it are locks.
//! - A write of a single key that nobody has locked takes no lock; the key is in flight until the
//!   write is applied. Any other one waits for the lock like a transaction.
//! - Who waits for a lock is not registered for a timestamp before it has it.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::mem;

use super::forward::Asker;
use super::reading::Query;
use super::stamps::Unstamped;
use crate::id::{NodeId, RequestHandle, RequestId, ShardId, Timestamp};
use crate::locks::{LockMode, LockTable, Target};
use crate::machine::Transactions;
use crate::mutants::{self, Mutant};
use crate::op::{Key, KeyRange, PageLimit};
use crate::storage::Outcome;
use crate::time::Instant;
use crate::txn::{AbortReason, Age, Grant, Part, Prepared, TxnId};

/// Who holds a lock, or waits for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// A transaction.
    Txn(TxnId),
    /// A write of one key that found it locked, by a number of this leader's.
    Write(u64),
}

/// What something that is proposed keeps locked until it is applied.
#[derive(Clone, Debug)]
pub(super) enum Hold {
    /// Nothing.
    Nothing,
    /// A key, by being in flight.
    InFlight(Key),
    /// What a waiting write had to lock.
    Write(u64),
    /// What a transaction has locked. The entry is its preparation or its decision.
    Txn(TxnId),
    /// Nothing; the entry decides to abort a commit, for this reason unless it was decided before.
    Abort(AbortReason),
    /// Nothing; the entry decides a transaction that a participant has asked about.
    Resolve {
        /// The transaction.
        txn: TxnId,
        /// Who is to be told.
        participant: ShardId,
    },
    /// Nothing; the entry ends a transaction here, and its anchor is to be told.
    Finish {
        /// The transaction.
        txn: TxnId,
        /// Its anchor.
        anchor: ShardId,
        /// Who told of the decision; none if it was this node.
        from: Option<NodeId>,
    },
}

/// A write of one key that was to begin.
#[derive(Debug)]
pub(super) enum Begun {
    /// It may go on.
    Free(Unstamped),
    /// It is kept until it has its lock.
    Waits,
    /// Too many wait for the key.
    Full(Unstamped),
}

/// A step of a transaction that may have to wait for locks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Lock a key, and read it.
    Lock { key: Key, mode: LockMode },
    /// Lock the beginning of a range, and read it.
    Scan(ScanStep),
    /// Prepare.
    Prepare { request: RequestId, anchor: ShardId, part: Part },
    /// Decide to commit.
    Commit { request: RequestId, part: Part, participants: Vec<ShardId>, min_commit: Timestamp },
}

/// A step that locks the beginning of a range, as far as a page went when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScanStep {
    /// The range that was asked for.
    pub(super) asked: KeyRange,
    /// How much the page may hold.
    pub(super) limit: PageLimit,
    /// The first key that is not read; none if all of the range is.
    pub(super) until: Option<Key>,
    /// What is locked: the range that is read.
    pub(super) locks: Vec<Target>,
}

impl Step {
    /// What it needs locked, beyond what was locked before.
    pub(super) fn targets(&self) -> Vec<(Target, LockMode)> {
        let exclusive = |key: &Key| (Target::Key(key.clone()), LockMode::Exclusive);
        match self {
            Self::Lock { key, mode } => alloc::vec![(Target::Key(key.clone()), *mode)],
            Self::Scan(scan) => {
                scan.locks.iter().map(|target| (target.clone(), LockMode::Shared)).collect()
            }
            Self::Prepare { part, .. } | Self::Commit { part, .. } => {
                part.writes.iter().map(|write| exclusive(&write.key)).collect()
            }
        }
    }

    /// The part that it makes durable.
    pub(super) fn part(&self) -> Option<&Part> {
        match self {
            Self::Lock { .. } | Self::Scan(_) => None,
            Self::Prepare { part, .. } | Self::Commit { part, .. } => Some(part),
        }
    }
}

/// A step that waits for locks.
#[derive(Debug)]
pub(super) struct WaitingStep {
    /// Who is to be answered; none while it is asked whether it still wants the step.
    pub(super) asker: Option<RequestHandle>,
    /// Whether it has shown the grant of this leader, and so knows that it waits here.
    pub(super) is_confirmed: bool,
    pub(super) step: Step,
    /// What it takes of the node's budget.
    pub(super) bytes: usize,
    /// Since when it waits.
    pub(super) since: Instant,
    /// Number of the wait, of this process.
    pub(super) number: u64,
}

/// A transaction that has not ended or prepared on this shard, as its leader knows it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) age: Age,
    pub(super) grant: Grant,
    /// Steps that it has asked for, repetitions included.
    pub(super) step_count: usize,
    pub(super) begun_at: Instant,
    /// When its coordinator last said something.
    pub(super) heard_at: Instant,
    /// The step that waits for locks.
    pub(super) waiting: Option<WaitingStep>,
    /// Whether its preparation or decision is on its way: it keeps its locks until that is applied.
    pub(super) is_ending: bool,
}

/// A prepared transaction, as the shard's leader knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    /// When its coordinator, or its anchor, was last heard of or asked.
    pub(super) quiet_since: Instant,
    /// Whether its end has been proposed.
    pub(super) is_finishing: bool,
}

/// Telling the participants of a decision.
#[derive(Clone, Debug)]
pub(super) struct Telling {
    /// Who has not applied it, as far as is known.
    pub(super) left: BTreeSet<ShardId>,
    /// When they were last told; none before they were.
    pub(super) told_at: Option<Instant>,
    /// Whether an entry is on its way that forgets it.
    pub(super) is_forgetting: bool,
}

/// How many transactions that have ended on a shard its leader remembers: those of about the time
/// for which a copy of a request may be on its way.
const ENDED_MAX: usize = 2_048;

/// Transactions that have ended lately.
#[derive(Debug, Default)]
struct Ended {
    txns: BTreeSet<TxnId>,
    /// The same, the oldest first.
    order: VecDeque<TxnId>,
}

impl Ended {
    fn insert(&mut self, txn: TxnId) {
        if !self.txns.insert(txn) {
            return;
        }
        self.order.push_back(txn);
        if self.order.len() > ENDED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.txns.remove(&oldest);
        }
    }
}

/// The locks of one replica.
///
/// - Every key and range of a transaction in `transactions.prepared` is locked for it.
/// - All else is empty unless the replica leads and has applied what was committed before.
#[derive(Debug, Default)]
pub(super) struct Locking {
    pub(super) table: LockTable<Owner>,
    /// A copy of what the applied state says.
    pub(super) transactions: Transactions,
    /// Who writes which key, of the prepared ones.
    prepared_writes: BTreeMap<Key, TxnId>,
    pub(super) live: BTreeMap<TxnId, Live>,
    ended: Ended,
    pub(super) doubts: BTreeMap<TxnId, Doubt>,
    pub(super) telling: BTreeMap<TxnId, Telling>,
    /// Questions of participants to which the answer is on its way into the log.
    pub(super) resolving: BTreeSet<(TxnId, ShardId)>,
    /// Writes of single keys that wait for a lock.
    pub(super) writes: BTreeMap<u64, Unstamped>,
    last_write: u64,
    /// Bytes of what is prepared.
    pub(super) prepared_bytes: usize,
    /// Writes that came before this leader knew its past.
    pub(super) early: VecDeque<Unstamped>,
    /// Reads of keys that a prepared transaction writes.
    pub(super) blocked: Vec<Query>,
    /// The highest timestamp at which a decision was finished here in this term.
    pub(super) finished_ts: Timestamp,
}

impl Locking {
    /// With what a store says of unfinished transactions.
    pub(super) fn new(transactions: Transactions) -> Self {
        let mut locking = Self { transactions, ..Self::default() };
        locking.lock_prepared();
        locking
    }

    /// The state came from elsewhere.
    pub(super) fn install(&mut self, transactions: Transactions) {
        let blocked = mem::take(&mut self.blocked);
        *self = Self { blocked, ..Self::new(transactions) };
    }

    fn lock_prepared(&mut self) {
        for (txn, prepared) in &self.transactions.prepared {
            lock(&mut self.table, *txn, prepared);
            let keys = prepared.part.writes.iter().map(|write| write.key.clone());
            self.prepared_writes.extend(keys.map(|key| (key, *txn)));
            self.prepared_bytes += prepared.part.size();
        }
    }

    /// Whether there is nothing to look after.
    pub(super) fn is_idle(&self) -> bool {
        let Transactions { prepared, decided } = &self.transactions;
        self.live.is_empty() && prepared.is_empty() && decided.is_empty()
    }

    /// Whether a transaction has ended here lately. A late copy of its first lock must not bring it
    /// back: it would hold and wait for locks of which its coordinator knows nothing, and others
    /// would be in a deadlock with it.
    pub(super) fn has_ended(&self, txn: TxnId) -> bool {
        self.ended.txns.contains(&txn)
    }

    /// Whether a prepared transaction writes what is read: whoever reads it must wait for the
    /// decision, which may have been told to somebody already. A transaction that promised to commit
    /// after the time of the read does not concern it.
    pub(super) fn is_in_doubt(&self, query: &Query) -> bool {
        let may_be_seen = |txn: &TxnId| {
            let prepared = self.transactions.prepared.get(txn);
            prepared.is_none_or(|prepared| prepared.min_commit <= query.at)
        };
        !mutants::is_active(Mutant::ReaderPassesPrepared)
            && !self.prepared_writes.is_empty()
            && self
                .prepared_writes
                .range::<Key, _>(query.subject.bounds())
                .any(|(_, txn)| may_be_seen(txn))
    }

    /// Follows what an entry did.
    pub(super) fn note(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Prepared { txn, prepared: Some(prepared), .. } => {
                lock(&mut self.table, *txn, prepared);
                for write in &prepared.part.writes {
                    self.prepared_writes.insert(write.key.clone(), *txn);
                }
                self.prepared_bytes += prepared.part.size();
            }
            Outcome::Finished { txn } => {
                self.ended.insert(*txn);
                if let Some(prepared) = self.transactions.prepared.get(txn) {
                    for write in &prepared.part.writes {
                        self.prepared_writes.remove(&write.key);
                    }
                    self.prepared_bytes -= prepared.part.size();
                    self.table.release(Owner::Txn(*txn));
                }
                self.doubts.remove(txn);
            }
            Outcome::Forgotten { txns } => {
                self.telling.retain(|txn, _| !txns.contains(txn));
            }
            Outcome::Prepared { .. }
            | Outcome::Decided { .. }
            | Outcome::None
            | Outcome::Written(_)
            | Outcome::SessionExpired
            | Outcome::Superseded
            | Outcome::SessionOpened(_)
            | Outcome::MapChanged(_)
            | Outcome::MemberAdded { .. }
            | Outcome::MetaRefused(_)
            | Outcome::BoundRaised { .. }
            | Outcome::WatermarkRaised { .. } => {}
        }
        self.transactions.note(outcome);
    }

    /// Takes the reads that need not wait for a decision any more.
    pub(super) fn take_unblocked(&mut self) -> Vec<Query> {
        let (blocked, free) = mem::take(&mut self.blocked)
            .into_iter()
            .partition(|query: &Query| self.is_in_doubt(query));
        self.blocked = blocked;
        free
    }

    /// What is proposed is applied, or never will be: it locks nothing any more.
    pub(super) fn end(&mut self, hold: &Hold) {
        match hold {
            Hold::InFlight(key) => self.table.end_write(key),
            Hold::Write(number) => self.table.release(Owner::Write(*number)),
            Hold::Txn(txn) => {
                let was_alive = self.live.remove(txn).is_some();
                let prepared = self.transactions.prepared.get(txn);
                if was_alive && prepared.is_none() {
                    self.ended.insert(*txn);
                }
                let only_reads = prepared.is_some_and(|prepared| prepared.part.writes.is_empty());
                let drops = mutants::is_active(Mutant::ReadLocksDroppedAtPrepare) && only_reads;
                if prepared.is_none() || drops {
                    self.table.release(Owner::Txn(*txn));
                }
            }
            Hold::Resolve { txn, participant } => {
                self.resolving.remove(&(*txn, *participant));
            }
            Hold::Nothing | Hold::Abort(_) | Hold::Finish { .. } => {}
        }
    }

    /// Begins a write of one key, or keeps it if it has to wait for a lock.
    pub(super) fn begin_write(&mut self, key: &Key, mut write: Unstamped) -> Begun {
        use crate::locks::Acquire;
        if mutants::is_active(Mutant::LockOverInFlightPut) && self.table.is_free(key) {
            return Begun::Free(write);
        }
        if self.table.begin_write(key) {
            write.hold = Hold::InFlight(key.clone());
            return Begun::Free(write);
        }
        self.last_write += 1;
        let number = self.last_write;
        write.hold = Hold::Write(number);
        let target = Target::Key(key.clone());
        match self.table.acquire(Owner::Write(number), target, LockMode::Exclusive) {
            Acquire::Granted => Begun::Free(write),
            Acquire::Waiting => {
                self.writes.insert(number, write);
                Begun::Waits
            }
            Acquire::Full => Begun::Full(write),
        }
    }

    /// A transaction ends of which only a probe for a scan is here.
    pub(super) fn end_unbegun(&mut self, txn: TxnId) {
        self.ended.insert(txn);
    }

    /// Drops a transaction that is alive, unless its end is on its way. Returns the step that waited.
    pub(super) fn drop_live(&mut self, txn: TxnId) -> Option<WaitingStep> {
        if self.live.get(&txn).is_none_or(|live| live.is_ending) {
            return None;
        }
        let live = self.live.remove(&txn)?;
        self.ended.insert(txn);
        self.table.release(Owner::Txn(txn));
        live.waiting
    }

    /// The leadership is over: drops all that only a leader has. Returns who waited, and for how many
    /// bytes.
    pub(super) fn close(&mut self) -> (Vec<Asker>, usize) {
        let Self { live, writes, early, blocked, transactions, .. } = mem::take(self);
        *self = Self::new(transactions);
        let steps: Vec<_> = live.into_values().filter_map(|live| live.waiting).collect();
        let step_bytes: usize = steps.iter().map(|waiting| waiting.bytes).sum();
        let steps = steps.into_iter().filter_map(|waiting| Some((waiting.asker?.into(), 0)));
        let writes = writes.into_values().chain(early);
        let writes = writes.map(|write| (write.asker, write.bytes));
        let reads = blocked.into_iter().map(|query| (query.handle.into(), 0));
        let (askers, bytes): (Vec<_>, Vec<usize>) = steps.chain(writes).chain(reads).unzip();
        (askers, step_bytes + bytes.iter().sum::<usize>())
    }
}

/// Locks what a transaction has prepared. Nobody else can have locked it, and there is room: a
/// leader prepares just the locks on ranges that its own table holds, and no table has room for
/// more.
fn lock(table: &mut LockTable<Owner>, txn: TxnId, prepared: &Prepared) {
    use crate::locks::Acquire;
    if mutants::is_active(Mutant::PreparedLocksForgotten) {
        return;
    }
    let Part { reads, writes, ranges } = &prepared.part;
    let point = |key: &Key| Target::Key(key.clone());
    let reads = reads.iter().map(|key| (point(key), LockMode::Shared));
    let writes = writes.iter().map(|write| (point(&write.key), LockMode::Exclusive));
    let is_forgotten = mutants::is_active(Mutant::PreparedRangesForgotten);
    let ranges = ranges.iter().filter(|_| !is_forgotten);
    let ranges = ranges.map(|range| (Target::Range(range.clone()), LockMode::Shared));
    for (target, mode) in ranges.chain(writes).chain(reads) {
        let acquired = table.acquire(Owner::Txn(txn), target, mode);
        assert_eq!(acquired, Acquire::Granted, "what is prepared was locked before");
    }
}
