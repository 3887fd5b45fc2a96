//! Reads at the leader of a shard: of what is newest, and of what was true at a timestamp.
//!
//! # What every read waits for
//!
//! A confirmation of the leadership that began after the read came, and that the store has applied
//! what the read must see. If a prepared transaction writes what is read, the read waits for its
//! decision, and begins anew.
//!
//! # Reads of what is newest
//!
//! These must see what was committed when they came. If a write of the key is on its way, they wait
//! for it too, although nobody has heard of it: it may have a timestamp below that of a write
//! elsewhere which was acknowledged before the read came. Who then reads at a timestamp between the
//! two sees the one and not the other, so this read may not see it the other way round.
//!
//! # Reads at a timestamp
//!
//! What is read at a timestamp must never change afterwards. So the read waits until no entry with a
//! timestamp at or below its own can be proposed any more, and then for all that were:
//!
//! 1. Until this node has been given a timestamp above that of the read. Timestamps come in order:
//!    what was asked for earlier has come by then, or will never be used. It also shows that the
//!    read's timestamp was issued, whatever a client makes up.
//! 2. Then for a confirmation, so that nobody else has proposed such an entry either: who leads next
//!    asks for timestamps later. And for all entries that were proposed by then.
//!
//! Transactions that prepare later are decided at later timestamps, for the anchor asks for the
//! timestamp when all have prepared. That is why a preparation promises to take none that this node
//! has seen ([`Stamps::used`](super::stamps::Stamps::used)), and only those that prepared before
//! with a lower promise are waited for.
//!
//! Nothing is locked, and no write ever waits for a read.
//!
//! # The watermark
//!
//! A leader raises the watermark of its shard with the timestamps of its writes, by entries of their
//! own. What was true below it cannot be read.

use core::ops::Bound;
use core::time::Duration;

use super::locking::ScanStep;
use super::replica::Replica;
use super::{Node, Output};
use crate::id::{LogIndex, RequestHandle, Round, ShardId, Timestamp};
use crate::machine::Command;
use crate::mutants::{self, Mutant};
use crate::op::{Found, Key, KeyRange, Page, PageLimit};
use crate::storage::{Read, ReadError, Scan, StorageRequest};
use crate::txn::Grant;
use crate::wire::{ClientReply, Refusal, TxnReply};

/// Reads that may wait on one shard.
const READS_WAITING_MAX: usize = 65_536;
/// The watermark is raised by so many parts of the retention at a time.
const WATERMARK_STEPS: u32 = 8;

/// What is read.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    /// One key.
    Key(Key),
    /// The keys of a range that exist, as far as a page holds them.
    Range { range: KeyRange, limit: PageLimit },
}

impl Subject {
    /// The keys among which it is.
    pub(super) fn bounds(&self) -> (Bound<&Key>, Bound<&Key>) {
        match self {
            Self::Key(key) => (Bound::Included(key), Bound::Included(key)),
            Self::Range { range, .. } => {
                let end = range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                (Bound::Included(&range.start), end)
            }
        }
    }
}

/// A read, as long as it is not answered.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) handle: RequestHandle,
    pub(super) subject: Subject,
    /// The newest versions at or below this are read; [`Timestamp::MAX`] for what is newest.
    pub(super) at: Timestamp,
    /// What the transaction is told that has locked the key; none if it is a read by itself.
    pub(super) locked: Option<Grant>,
    /// Where the range goes on that a transaction asked for, behind what it has locked of it.
    pub(super) rest: Option<Key>,
}

impl Query {
    /// A read of what is newest.
    pub(super) fn newest(handle: RequestHandle, key: Key, locked: Option<Grant>) -> Self {
        Self { handle, subject: Subject::Key(key), at: Timestamp::MAX, locked, rest: None }
    }

    /// A read of what a scan has locked.
    pub(super) fn of_scan(handle: RequestHandle, scan: ScanStep, locked: Option<Grant>) -> Self {
        let end = scan.until.clone().or(scan.asked.end);
        let range = KeyRange { start: scan.asked.start, end };
        let subject = Subject::Range { range, limit: scan.limit };
        Self { handle, subject, at: Timestamp::MAX, locked, rest: scan.until }
    }

    /// Whether what is newest is not what is read.
    fn is_of_the_past(&self) -> bool {
        self.at < Timestamp::MAX
    }
}

/// A read that waits for a confirmation of leadership, and for the entries that it must see.
#[derive(Debug)]
pub(super) struct WaitingRead {
    pub(super) query: Query,
    /// A round that began after the read arrived.
    pub(super) round: Round,
    pub(super) index: LogIndex,
}

/// A read that the store works on, if there is more to its answer than what was found.
#[derive(Debug)]
pub(super) struct ServedRead {
    shard: ShardId,
    query: Query,
    /// Whether it was let go because a lease held.
    is_by_lease: bool,
}

/// What the store has found.
#[derive(Debug)]
pub(super) enum Content {
    /// Of a key.
    Found(Option<Found>),
    /// Of a range.
    Page(Page),
}

impl Node {
    /// Takes a read at a timestamp that a client names.
    pub(super) fn start_read_at(
        &mut self,
        shard: ShardId,
        handle: RequestHandle,
        subject: Subject,
        at: Timestamp,
    ) -> Result<(), Refusal> {
        if at == Timestamp::MAX {
            return Err(Refusal::FutureTimestamp { at, newest: self.stamps.used() });
        }
        self.start_read(shard, Query { handle, subject, at, locked: None, rest: None })
    }

    /// Takes a read as leader of the shard.
    pub(super) fn start_read(&mut self, shard: ShardId, query: Query) -> Result<(), Refusal> {
        self.check_states(shard)?;
        let refusal = self.refusal(shard);
        let is_seen =
            query.at <= self.stamps.used() || mutants::is_active(Mutant::ReadAheadOfStamps);
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return Err(refusal);
        };
        let committed = replica.group.read_index().ok_or(refusal)?;
        let waiting = replica.reads.len() + replica.fenced.len() + replica.locking.blocked.len();
        if waiting >= READS_WAITING_MAX {
            return Err(Refusal::Overloaded);
        }
        if query.is_of_the_past() {
            if !is_seen {
                return self.check_issued(shard, query);
            }
            let proposed = replica.group.last().index;
            let passes = mutants::is_active(Mutant::ReadPassesProposed);
            self.await_round(shard, query, if passes { committed } else { proposed });
        } else if replica.is_being_written(&query) {
            replica.fenced.push_back((replica.registered_count, query));
            self.release_fenced(shard);
        } else {
            self.await_round(shard, query, committed);
        }
        Ok(())
    }

    /// Lets a read wait for the next confirmation, and for an entry to be applied.
    fn await_round(&mut self, shard: ShardId, query: Query, mut index: LogIndex) {
        let round = match mutants::is_active(Mutant::RoundBegunBefore) {
            true => self.rounds.begun,
            false => self.next_round(),
        };
        if mutants::is_active(Mutant::ReadBeforeApplied) {
            index = LogIndex(0);
        }
        if let Some(replica) = self.replicas.get_mut(&shard) {
            replica.reads.push_back(WaitingRead { query, round, index });
            self.reading.insert(shard);
            self.touched.insert(shard);
        }
    }

    /// Lets go the reads that came after writes of their keys, once those are proposed.
    fn release_fenced(&mut self, shard: ShardId) {
        while let Some(replica) = self.replicas.get_mut(&shard) {
            let proposed_count = replica.proposed_count();
            let index = replica.group.last().index;
            if replica.fenced.front().is_none_or(|(fence, _)| *fence > proposed_count) {
                return;
            }
            if let Some((_, query)) = replica.fenced.pop_front() {
                self.await_round(shard, query, index);
            }
        }
    }

    /// Lets go the reads of `shard` that may be served.
    pub(super) fn serve_reads(&mut self, shard: ShardId) {
        self.release_fenced(shard);
        let confirmed = self.confirmed_round(shard);
        let has_lease = self.has_lease(shard);
        let released = if has_lease { Round(u64::MAX) } else { confirmed };
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return;
        };
        for WaitingRead { query, round, index } in replica.take_ready_reads(released) {
            if query.locked.is_none() && replica.locking.is_in_doubt(&query) {
                replica.locking.blocked.push(query);
                continue;
            }
            let is_by_lease = round > confirmed;
            if is_by_lease || query.locked.is_some() || query.is_of_the_past() {
                let served = ServedRead { shard, query: query.clone(), is_by_lease };
                self.served.insert(query.handle, served);
            }
            self.outbox.push(Output::Store(storage_request(shard, query, index)));
        }
        if replica.reads.is_empty() && replica.questions.is_empty() {
            self.reading.remove(&shard);
        }
    }

    /// A transaction has ended: reads that waited for its decision start anew.
    pub(super) fn start_unblocked(&mut self, shard: ShardId) {
        let replica = self.replicas.get_mut(&shard);
        let unblocked = replica.map(|it| it.locking.take_unblocked()).unwrap_or_default();
        for query in unblocked {
            self.restart_read(shard, query);
        }
    }

    /// Begins a read once more that was taken before.
    pub(super) fn restart_read(&mut self, shard: ShardId, query: Query) {
        let handle = query.handle;
        if let Err(refusal) = self.start_read(shard, query) {
            self.reply(handle, ClientReply::Refused(refusal));
        }
    }

    /// The store has answered a read.
    pub(super) fn on_read(&mut self, handle: RequestHandle, result: Result<Content, ReadError>) {
        if let Some(probe) = self.probes.remove(&handle)
            && let Ok(Content::Page(page)) = &result
        {
            return self.on_probed(handle, probe, page);
        }
        let served = self.served.remove(&handle);
        let content = match (result, &served) {
            (Ok(_), Some(read)) if read.is_by_lease && !self.has_lease(read.shard) => {
                let (shard, query) = (read.shard, read.query.clone());
                return self.restart_read(shard, query);
            }
            (Ok(content), _) => content,
            (Err(ReadError::Damaged(damage)), _) => {
                self.become_suspect(damage);
                return self.refuse_damaged(handle.into());
            }
            (Err(ReadError::TooOld { oldest }), served) => {
                let at = served.as_ref().map_or(Timestamp::MAX, |read| read.query.at);
                let refusal = Refusal::SnapshotTooOld { at, oldest };
                return self.reply(handle, ClientReply::Refused(refusal));
            }
            (Err(error @ ReadError::NotApplied { .. }), _) => {
                panic!("a read is handed out only when its index is applied: {error}")
            }
        };
        let (locked, rest) =
            served.map_or((None, None), |read| (read.query.locked, read.query.rest));
        let reply = match (content, locked) {
            (Content::Found(found), Some(grant)) => {
                ClientReply::Txn(TxnReply::Locked { grant, found })
            }
            (Content::Found(found), None) => ClientReply::Read(found),
            (Content::Page(page), Some(grant)) => {
                let page = Page { next: page.next.or(rest), ..page };
                ClientReply::Txn(TxnReply::Scanned { grant, page })
            }
            (Content::Page(page), None) => ClientReply::Page(page),
        };
        self.reply(handle, reply);
    }

    /// A write was proposed at `commit_ts`: raises the watermark, if it lags by a step. The first
    /// write that this node sees only begins to count, so that a new leader adds no entry.
    pub(super) fn raise_watermark(&mut self, shard: ShardId, commit_ts: Timestamp) {
        let retention = self.config.retention;
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let watermark = Timestamp::at_millis(commit_ts.millis().saturating_sub(millis(retention)));
        let step = millis(retention / WATERMARK_STEPS).max(1);
        if replica.watermark == Timestamp(0) {
            replica.watermark = watermark;
        } else if watermark.millis() >= replica.watermark.millis().saturating_add(step) {
            let payload = Command::RaiseWatermark { watermark }.encode();
            if replica.group.propose(self.now, payload.into()).is_ok() {
                replica.watermark = watermark;
                self.touched.insert(shard);
            }
        }
    }
}

fn storage_request(shard: ShardId, query: Query, at_least: LogIndex) -> StorageRequest {
    let Query { handle, subject, at: timestamp, .. } = query;
    match subject {
        Subject::Key(key) => StorageRequest::Read(Read { handle, shard, at_least, timestamp, key }),
        Subject::Range { range, limit } => {
            StorageRequest::Scan(Scan { handle, shard, at_least, timestamp, range, limit })
        }
    }
}

impl Replica {
    /// Whether a write of the key that is read is registered or proposed, and not applied.
    fn is_being_written(&self, query: &Query) -> bool {
        let Subject::Key(key) = &query.subject else { return false };
        query.locked.is_none()
            && self.locking.table.is_being_written(key)
            && !mutants::is_active(Mutant::ReadPassesInFlight)
    }

    /// How much of the registered work has been proposed, given up, or registered anew: that gets a
    /// timestamp above all that was acknowledged so far.
    fn proposed_count(&self) -> u64 {
        self.registered_count - self.unstamped.len() as u64
    }
}
