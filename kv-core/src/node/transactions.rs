//! Steps of transactions, at the leader of a shard.
//!
//! A step locks what it needs, waits if it must, and then is read, or proposed, or registered for a
//! timestamp. What happens when a transaction spans shards is in [`finishing`](super::finishing),
//! and who gives way in a deadlock in [`deadlocks`](super::deadlocks).
//!
//! A scan is first told how far to lock ([`scanning`](super::scanning)).
//!
//! # Repetitions
//!
//! A coordinator repeats a step until it is answered, here or at the next leader:
//!
//! - A lock that is held is granted again. One of a transaction that has ended here is not: that is
//!   a late copy.
//! - What is prepared is told again, and prepares once by its request id.
//! - A commit whose locks are gone may have been decided before they went; so may one that waits for
//!   locks again at the next leader and has to give way. So it is answered by an entry that decides
//!   to abort: if the commit was first, that entry tells how it ended, and if not, no copy of the
//!   commit will ever count.

use alloc::vec::Vec;
use core::time::Duration;

use super::locking::{Hold, Live, Owner, Step, WaitingStep};
use super::reading::Query;
use super::requests::{PENDING_BYTES_MAX, check_size};
use super::stamps::{Unstamped, Work};
use super::{Node, Replica};
use crate::id::{Epoch, RequestHandle, RequestId, ShardId, Timestamp};
use crate::locks::{Acquire, LockMode, Target};
use crate::machine::Command;
use crate::mutants::{self, Mutant};
use crate::op::{Key, KeyRange, VALUE_BYTES_MAX, Value};
use crate::time::Instant;
use crate::txn::{self, AbortReason, Age, Decision, Grant, Part, RANGES_PER_SHARD_MAX, TxnId};
use crate::wire::{ClientReply, Refusal, TxnReply, TxnRequest};

/// Transactions that are looked after are looked at so often.
const TICK: Duration = Duration::from_millis(100);
/// The locks of a coordinator that was silent for so long fall: three beats, and some slack.
const SILENCE_MAX: Duration = Duration::from_millis(3_500);
/// A transaction that is older is given up.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// Who waits for a lock for so long gives up: a backstop, for deadlocks are found.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// Steps that a transaction may ask of one shard, repetitions included.
const STEPS_MAX: usize = 4 * txn::OPERATIONS_MAX;
/// Locks on ranges that one transaction may hold on one shard: those that its coordinator knows of,
/// and as many that repetitions have left.
const RANGES_LOCKED_MAX: usize = 2 * RANGES_PER_SHARD_MAX;
/// Bytes that transactions may have prepared on one shard: beyond it others have to wait. What is on
/// its way to the log comes on top of it.
const PREPARED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Transactions that may be alive on one shard.
const LIVE_MAX: usize = 10_000;

/// Where and when a step belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct TxnPlace {
    pub(super) shard: ShardId,
    /// The client's version of the shard's placement.
    pub(super) epoch: Epoch,
    pub(super) txn: TxnId,
    pub(super) age: Age,
    /// What the transaction was given with its first lock here.
    pub(super) grant: Option<Grant>,
}

/// A step that is answered at once, one that needs locks, or one that has to find out which.
enum Taken {
    Answered(TxnReply),
    Needs(Step),
    Probes,
}

impl Node {
    /// A coordinator asks for a step.
    pub(super) fn on_txn(&mut self, handle: RequestHandle, place: TxnPlace, step: TxnRequest) {
        if let Err(refusal) = self.check_txn(place, &step) {
            return self.reply(handle, ClientReply::Refused(refusal));
        }
        match self.take_step(handle, place, step) {
            Taken::Answered(reply) => self.reply(handle, ClientReply::Txn(reply)),
            Taken::Needs(step) => self.lock_for(handle, place, step),
            Taken::Probes => {}
        }
    }

    /// Takes up a step that needs locks, of a transaction that was checked.
    pub(super) fn lock_for(&mut self, handle: RequestHandle, place: TxnPlace, step: Step) {
        let result = match self.is_lost(place, &step) {
            true => self.answer_lost(handle, place, step),
            false => self.begin_step(handle, place, step),
        };
        if let Err(refusal) = result {
            self.reply(handle, ClientReply::Refused(refusal));
        }
    }

    /// Answers a step of a transaction whose locks are gone.
    fn answer_lost(
        &mut self,
        handle: RequestHandle,
        place: TxnPlace,
        step: Step,
    ) -> Result<(), Refusal> {
        let TxnPlace { shard, txn, .. } = place;
        match step {
            Step::Commit { request, .. } => {
                let reason = self.reason_of_loss(place);
                self.decide_to_abort(shard, txn, request, handle, reason)
            }
            Step::Lock { .. } | Step::Scan(_) | Step::Prepare { .. } => {
                self.reply(handle, aborted(self.reason_of_loss(place)));
                Ok(())
            }
        }
    }

    /// Why a transaction has no locks here: another leader gave them, or this one took them back.
    fn reason_of_loss(&self, place: TxnPlace) -> AbortReason {
        let TxnPlace { shard, grant, .. } = place;
        let term = self.replicas.get(&shard).map(|replica| replica.group.term());
        match (grant, term) {
            (Some(grant), Some(term)) if !grant.is_of(term) => AbortReason::LeaderChanged { shard },
            (Some(_) | None, _) => AbortReason::LocksLost { shard },
        }
    }

    /// Whether this node can take steps on the shard, and the step belongs there.
    pub(super) fn check_txn(&self, place: TxnPlace, step: &TxnRequest) -> Result<(), Refusal> {
        let TxnPlace { shard, epoch, txn, .. } = place;
        for key in keys_of(step) {
            self.check_placement(shard, epoch, key)?;
        }
        for range in ranges_of(step) {
            self.check_range(shard, epoch, range)?;
        }
        for value in values_of(step) {
            check_size("value", value.size(), VALUE_BYTES_MAX)?;
        }
        if let TxnRequest::Prepare { part, .. } | TxnRequest::Commit { part, .. } = step {
            check_count("keys of a transaction", part.key_count(), txn::OPERATIONS_MAX)?;
            check_count("ranges of a transaction", part.ranges.len(), RANGES_PER_SHARD_MAX)?;
            check_size("a transaction", part.size(), 2 * txn::WRITE_BYTES_MAX)?;
            self.check_txn_space(shard, part)?;
        }
        self.check_session(txn.session)?;
        self.check_shards(shard, txn, step)?;
        self.check_states(shard)?;
        match self.replicas.get(&shard).filter(|replica| replica.is_leader()) {
            Some(replica) if replica.knows_its_past() => Ok(()),
            Some(_) => Err(Refusal::Overloaded),
            None => Err(self.refusal(shard)),
        }
    }

    /// Refuses shards that could never answer, and requests of other sessions: what is prepared or
    /// decided with them would stay for ever.
    fn check_shards(&self, shard: ShardId, txn: TxnId, step: &TxnRequest) -> Result<(), Refusal> {
        let (request, others) = match step {
            TxnRequest::Prepare { request, anchor, .. } => (request, core::slice::from_ref(anchor)),
            TxnRequest::Commit { request, participants, .. } => (request, &participants[..]),
            TxnRequest::Lock { .. }
            | TxnRequest::Scan { .. }
            | TxnRequest::Beat
            | TxnRequest::Rollback => return Ok(()),
        };
        let count = self.map.as_ref().ok_or(Refusal::NotReady)?.shard_count();
        let is_other =
            |other: &ShardId| *other != shard && *other != ShardId::META && other.0 <= count;
        if request.session == txn.session
            && others.len() <= count as usize
            && others.iter().all(is_other)
        {
            return Ok(());
        }
        let reason = "it names a shard or a session that cannot take part";
        Err(Refusal::InvalidStep { reason: reason.into() })
    }

    /// Answers what needs no locks.
    fn take_step(&mut self, handle: RequestHandle, place: TxnPlace, step: TxnRequest) -> Taken {
        let TxnPlace { shard, txn, grant, .. } = place;
        let now = self.now;
        let lost = self.reason_of_loss(place);
        let replica = self.replicas.get_mut(&shard).expect("it was checked");
        if let Some(live) = replica.locking.live.get_mut(&txn) {
            live.heard_at = now;
        }
        if let Some(doubt) = replica.locking.doubts.get_mut(&txn) {
            doubt.quiet_since = now;
        }
        let prepared = replica.locking.transactions.prepared.get(&txn);
        match step {
            TxnRequest::Beat => {
                let live = replica.locking.live.get(&txn);
                let is_here = live.is_some_and(|live| grant == Some(live.grant));
                let reply = match is_here || prepared.is_some() {
                    true => TxnReply::Alive,
                    false => TxnReply::Aborted(lost),
                };
                Taken::Answered(reply)
            }
            TxnRequest::Rollback => {
                if prepared.is_some() {
                    self.resolve(shard, txn);
                }
                self.end_probes(shard, txn);
                self.drop_transaction(shard, txn, AbortReason::GivenUp);
                Taken::Answered(TxnReply::RolledBack)
            }
            TxnRequest::Prepare { request, anchor, part } => match prepared {
                Some(prepared) if prepared.request == request => {
                    Taken::Answered(TxnReply::Prepared { min_commit: prepared.min_commit })
                }
                Some(_) | None => Taken::Needs(Step::Prepare { request, anchor, part }),
            },
            TxnRequest::Commit { request, part, participants, min_commit } => {
                Taken::Needs(Step::Commit { request, part, participants, min_commit })
            }
            TxnRequest::Lock { key, mode } => Taken::Needs(Step::Lock { key, mode }),
            TxnRequest::Scan { range, limit } => {
                match self.begin_scan(handle, place, range, limit.clamped()) {
                    Some(step) => Taken::Needs(Step::Scan(step)),
                    None => Taken::Probes,
                }
            }
        }
    }

    /// Whether the transaction has had locks here that it needs for the step, and has them no more.
    fn is_lost(&self, place: TxnPlace, step: &Step) -> bool {
        let TxnPlace { shard, txn, grant, .. } = place;
        let replica = &self.replicas[&shard];
        let (reads, ranges) =
            step.part().map_or((&[][..], &[][..]), |part| (&part.reads[..], &part.ranges[..]));
        let is_prepared = replica.locking.transactions.prepared.contains_key(&txn);
        let in_force = replica.locking.live.get(&txn).map(|live| live.grant);
        let is_over = grant.is_some() && grant != in_force;
        let holds = |target: Target| {
            replica.locking.table.holds(Owner::Txn(txn), &target, LockMode::Shared)
        };
        let has_locked = |key: &Key| holds(Target::Key(key.clone()));
        let has_locked_range = |range: &KeyRange| {
            holds(Target::Range(range.clone())) || mutants::is_active(Mutant::ScanLocksRowsOnly)
        };
        if step.part().is_some() && mutants::is_active(Mutant::CommitWithoutReadLocks) {
            return is_prepared;
        }
        let is_late = step.part().is_none() && in_force.is_none() && replica.locking.has_ended(txn);
        is_prepared
            || is_over
            || is_late
            || !reads.iter().all(has_locked)
            || !ranges.iter().all(has_locked_range)
    }

    /// Locks what the step needs, and takes it or lets it wait.
    fn begin_step(
        &mut self,
        handle: RequestHandle,
        place: TxnPlace,
        step: Step,
    ) -> Result<(), Refusal> {
        let TxnPlace { shard, txn, age, .. } = place;
        let bytes = step.part().map_or(0, Part::size) + size_of::<WaitingStep>();
        if self.pending_bytes + bytes > PENDING_BYTES_MAX {
            return Err(Refusal::Overloaded);
        }
        let now = self.now;
        let replica = self.replicas.get_mut(&shard).expect("it was checked");
        let locking = &mut replica.locking;
        let has_room = match &step {
            Step::Prepare { part, .. } => {
                locking.prepared_bytes + part.size() <= PREPARED_BYTES_MAX
            }
            Step::Scan(_) => {
                let count = locking.table.ranges_of(Owner::Txn(txn)).count();
                check_count("scanned ranges", count + 1, RANGES_LOCKED_MAX)?;
                true
            }
            Step::Lock { .. } | Step::Commit { .. } => true,
        };
        let is_known = locking.live.contains_key(&txn);
        if !has_room || (locking.live.len() >= LIVE_MAX && !is_known) {
            return Err(Refusal::Overloaded);
        }
        // No other process leads in the same term.
        self.last_grant += 1;
        let grant = Grant::new(replica.group.term(), self.last_grant);
        let live = locking.live.entry(txn).or_insert(Live {
            age,
            grant,
            step_count: 0,
            begun_at: now,
            heard_at: now,
            waiting: None,
            is_ending: false,
        });
        if live.is_ending {
            // A copy of what is on its way already: it is answered when that is applied.
            return Err(Refusal::Overloaded);
        }
        let live_grant = live.grant;
        live.step_count += 1;
        check_count("steps", live.step_count, STEPS_MAX)?;
        let before = live.waiting.take();
        if before.as_ref().is_some_and(|before| before.step != step) {
            // Its user has given up what it waits for.
            locking.table.cancel_waiting(Owner::Txn(txn));
        }
        self.touched.insert(shard);
        for (target, mode) in step.targets() {
            if locking.table.acquire(Owner::Txn(txn), target, mode) == Acquire::Full {
                locking.table.cancel_waiting(Owner::Txn(txn));
                self.give_up_step(before);
                return Err(Refusal::Overloaded);
            }
        }
        self.pending_bytes += bytes;
        // A repetition is the same wait: else nobody who repeats would ever wait for too long.
        let repeated = before.as_ref().filter(|before| before.step == step);
        let (since, number) =
            repeated.map_or((now, self.last_wait + 1), |before| (before.since, before.number));
        self.last_wait = self.last_wait.max(number);
        let is_confirmed =
            place.grant == Some(live_grant) || repeated.is_some_and(|before| before.is_confirmed);
        let asker = Some(handle);
        let waiting = WaitingStep { asker, is_confirmed, step, bytes, since, number };
        let is_waiting = locking.table.is_waiting(Owner::Txn(txn));
        if let Some(live) = locking.live.get_mut(&txn).filter(|_| is_waiting) {
            live.waiting = Some(waiting);
        } else {
            self.run_step(shard, txn, handle, waiting);
        }
        self.give_up_step(before);
        Ok(())
    }

    /// A repetition has taken the place of a step that waited.
    fn give_up_step(&mut self, step: Option<WaitingStep>) {
        if let Some(WaitingStep { asker, bytes, .. }) = step {
            self.pending_bytes -= bytes;
            if let Some(asker) = asker {
                self.reply(asker, ClientReply::Refused(Refusal::Overloaded));
            }
        }
    }

    /// Takes a step that has its locks.
    fn run_step(&mut self, shard: ShardId, txn: TxnId, asker: RequestHandle, step: WaitingStep) {
        let WaitingStep { step, bytes, .. } = step;
        let replica = self.replicas.get_mut(&shard).expect("steps are taken at a replica");
        if let Some(live) = replica.locking.live.get_mut(&txn) {
            live.is_ending = step.part().is_some();
        }
        let result = match step {
            Step::Lock { key, .. } => {
                self.pending_bytes -= bytes;
                let grant = replica.locking.live.get(&txn).map(|live| live.grant);
                self.start_read(shard, Query::newest(asker, key, grant))
            }
            Step::Scan(scan) => {
                self.pending_bytes -= bytes;
                let grant = replica.locking.live.get(&txn).map(|live| live.grant);
                self.start_read(shard, Query::of_scan(asker, scan, grant))
            }
            Step::Prepare { request, anchor, mut part } => {
                self.pending_bytes -= bytes;
                part.ranges = replica.locking.table.ranges_of(Owner::Txn(txn)).cloned().collect();
                // The decision comes later than all timestamps that are known by now.
                let floor = self.stamps.used().after(1);
                let command = Command::Prepare { request, txn, anchor, part, floor };
                let early = mutants::is_active(Mutant::PreparedBeforeApplied);
                let told = (!early).then_some(asker.into());
                let result = self.propose_holding(shard, told, &command, Hold::Txn(txn));
                if early && result.is_ok() {
                    let min_commit = Timestamp::default();
                    self.reply(asker, ClientReply::Txn(TxnReply::Prepared { min_commit }));
                }
                result
            }
            Step::Commit { request, part, participants, min_commit } => {
                let Part { writes, .. } = part;
                let work = Work::Commit { request, txn, writes, participants, min_commit };
                let (asker, hold) = (asker.into(), Hold::Txn(txn));
                self.register_work(shard, Unstamped { asker, work, bytes, hold });
                Ok(())
            }
        };
        if let Err(refusal) = result {
            if let Some(replica) = self.replicas.get_mut(&shard)
                && let Some(live) = replica.locking.live.get_mut(&txn)
            {
                live.is_ending = false;
            }
            self.reply(asker, ClientReply::Refused(refusal));
        }
    }

    /// Takes the steps and writes that have got the locks that they waited for.
    pub(super) fn serve_locks(&mut self, shard: ShardId) {
        loop {
            let Some(replica) = self.replicas.get_mut(&shard) else { return };
            let granted = replica.locking.table.take_granted();
            if granted.is_empty() {
                return;
            }
            for (owner, _) in granted {
                self.on_granted(shard, owner);
            }
        }
    }

    fn on_granted(&mut self, shard: ShardId, owner: Owner) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let locking = &mut replica.locking;
        match owner {
            Owner::Write(number) => {
                if let Some(write) = locking.writes.remove(&number) {
                    self.register_work(shard, write);
                }
            }
            Owner::Txn(_) if locking.table.is_waiting(owner) => {}
            Owner::Txn(txn) => {
                let live = locking.live.get_mut(&txn);
                let Some(waiting) = live.and_then(|live| live.waiting.take()) else { return };
                match waiting.asker {
                    Some(asker) => self.run_step(shard, txn, asker, waiting),
                    // It has been asked, and finds its locks if it asks again.
                    None => self.pending_bytes -= waiting.bytes,
                }
            }
        }
    }

    /// Answers a commit that has no locks by how it ended, or by that it never will have, for a
    /// reason.
    pub(super) fn decide_to_abort(
        &mut self,
        shard: ShardId,
        txn: TxnId,
        request: RequestId,
        asker: RequestHandle,
        reason: AbortReason,
    ) -> Result<(), Refusal> {
        let command = Command::Decide { request, txn, decision: Decision::Abort };
        self.propose_holding(shard, Some(asker.into()), &command, Hold::Abort(reason))
    }

    /// Frees what a transaction has locked, unless its end is on its way, and tells who waits.
    pub(super) fn drop_transaction(&mut self, shard: ShardId, txn: TxnId, reason: AbortReason) {
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        self.touched.insert(shard);
        if let Some(WaitingStep { asker, step, bytes, .. }) = replica.locking.drop_live(txn) {
            self.pending_bytes -= bytes;
            let Some(asker) = asker else { return };
            let result = match step {
                Step::Commit { request, .. } => {
                    self.decide_to_abort(shard, txn, request, asker, reason)
                }
                Step::Lock { .. } | Step::Scan(_) | Step::Prepare { .. } => {
                    self.reply(asker, aborted(reason));
                    Ok(())
                }
            };
            if let Err(refusal) = result {
                self.reply(asker, ClientReply::Refused(refusal));
            }
        }
    }

    /// Transactions are to be looked after.
    pub(super) fn on_txn_tick(&mut self) {
        if self.txn_tick_at.is_none_or(|at| self.now < at) {
            return;
        }
        self.txn_tick_at = None;
        for shard in self.shards_with_transactions() {
            self.drop_silent(shard);
            self.resolve_overdue(shard);
            self.tell_decisions(shard);
            self.confirm_waits(shard);
        }
        self.report_waits();
        self.find_deadlocks();
    }

    /// Sees to it that there is a tick as long as there is anything to look after.
    pub(super) fn arm_txn_tick(&mut self) {
        if self.txn_tick_at.is_none()
            && (self.is_detecting() || !self.shards_with_transactions().is_empty())
        {
            self.txn_tick_at = Some(self.now + TICK);
        }
    }

    fn shards_with_transactions(&self) -> Vec<ShardId> {
        let is_busy = |replica: &Replica| !replica.locking.is_idle() && replica.is_leader();
        let busy = self.replicas.iter().filter(|(_, replica)| is_busy(replica));
        busy.map(|(shard, _)| *shard).collect()
    }

    /// Gives up the locks of whoever has not been heard of, and of who lives or waits for too long.
    fn drop_silent(&mut self, shard: ShardId) {
        let locking = &self.replicas[&shard].locking;
        let dropped = |(txn, live): (&TxnId, &Live)| Some((*txn, overdue(self.now, shard, live)?));
        let dropped: Vec<_> = locking.live.iter().filter_map(dropped).collect();
        for (txn, reason) in dropped {
            self.drop_transaction(shard, txn, reason);
        }
    }
}

/// Why a transaction is given up, if it is.
fn overdue(now: Instant, shard: ShardId, live: &Live) -> Option<AbortReason> {
    let is_over = |since: Instant, longest: Duration| now >= since + longest;
    let is_kept = live.waiting.is_none() && mutants::is_active(Mutant::LocksOutliveCoordinator);
    if live.is_ending || is_kept {
        None
    } else if is_over(live.heard_at, SILENCE_MAX) {
        Some(AbortReason::LocksLost { shard })
    } else if is_over(live.begun_at, LIFE_MAX) {
        Some(AbortReason::TooOld)
    } else {
        let waiting = live.waiting.as_ref()?;
        is_over(waiting.since, LOCK_WAIT_MAX).then_some(AbortReason::LockTimeout)
    }
}

/// Refuses more of something than there may be.
fn check_count(what: &str, count: usize, count_max: usize) -> Result<(), Refusal> {
    if count <= count_max {
        return Ok(());
    }
    Err(Refusal::InvalidStep {
        reason: alloc::format!("{count} {what} exceed the limit of {count_max}"),
    })
}

pub(super) fn aborted(reason: AbortReason) -> ClientReply {
    ClientReply::Txn(TxnReply::Aborted(reason))
}

fn keys_of(step: &TxnRequest) -> Vec<&Key> {
    match step {
        TxnRequest::Lock { key, .. } => alloc::vec![key],
        TxnRequest::Prepare { part, .. } | TxnRequest::Commit { part, .. } => {
            part.reads.iter().chain(part.writes.iter().map(|write| &write.key)).collect()
        }
        TxnRequest::Scan { .. } | TxnRequest::Beat | TxnRequest::Rollback => Vec::new(),
    }
}

fn ranges_of(step: &TxnRequest) -> &[KeyRange] {
    match step {
        TxnRequest::Scan { range, .. } => core::slice::from_ref(range),
        TxnRequest::Prepare { part, .. } | TxnRequest::Commit { part, .. } => &part.ranges,
        TxnRequest::Lock { .. } | TxnRequest::Beat | TxnRequest::Rollback => &[],
    }
}

fn values_of(step: &TxnRequest) -> impl Iterator<Item = &Value> {
    let part = match step {
        TxnRequest::Prepare { part, .. } | TxnRequest::Commit { part, .. } => Some(part),
        TxnRequest::Lock { .. }
        | TxnRequest::Scan { .. }
        | TxnRequest::Beat
        | TxnRequest::Rollback => None,
    };
    part.into_iter().flat_map(|part| &part.writes).filter_map(|write| write.value.as_ref())
}
