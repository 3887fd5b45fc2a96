//! Work that waits for a timestamp, and asking the oracle for them.
//!
//! Every write is *registered* at its shard's leader, gets a commit timestamp, and is proposed. One
//! request to the oracle serves all work of all shards that was registered before it left; what
//! comes meanwhile goes with the next one.
//!
//! # Rules
//!
//! - A timestamp serves only work that was registered before it was asked for: so it is above the
//!   timestamp of everything that had been answered when the work arrived.
//! - A few requests are out at a time. One is abandoned when it was not answered for some time, or a
//!   later one was, and all its work is asked for anew; an answer that comes after that is dropped. So
//!   a shard's writes are proposed in the order of their timestamps.
//! - A leader uses only timestamps that were asked for in its own term, after it had applied the
//!   no-op of that term: so they are above all timestamps of entries that it did not propose.
//!
//! # Who is asked
//!
//! The leader of the meta group, as far as it is known. If it does not answer soon, the same request
//! goes out again and again, to the leader and to all other nodes, which pass it on: so a cut link
//! between two nodes stalls nobody, and a link that is mended is used at once. The first answer on
//! any way counts. How long a request is kept grows with how long the last one took, and doubles
//! with every failure: where the network is slow a fixed patience would abandon every request.
//!
//! # Readers
//!
//! Some want a timestamp and write nothing: clients that begin to read at one, reads at a timestamp
//! that this node has not seen passed ([`reading`](super::reading)), and questions for a safe time
//! ([`safe_time`](super::safe_time)). One timestamp of a request serves all of them that came before
//! it left.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use super::forward::Asker;
use super::locking::{Begun, Hold};
use super::reading::Query;
use super::replica::PendingWrite;
use super::requests::PENDING_BYTES_MAX;
use super::safe_time::Question;
use super::{Node, Replica};
use crate::id::{NodeId, RequestHandle, RequestId, ShardId, Term, Timestamp};
use crate::machine::Command;
use crate::mutants::{self, Mutant};
use crate::op::WriteOp;
use crate::oracle::COUNT_MAX;
use crate::raft::ProposeError;
use crate::time::Instant;
use crate::txn::{Decision, TxnId, TxnWrite};
use crate::wire::{
    ClientReply, Elsewhere, Issued, OracleMessage, PeerMessage, Receipt, Refusal, TxnReply,
};

/// Requests that are out at a time.
const OUT_MAX: usize = 4;
/// How long an answer is waited for at least: several times what a healthy oracle takes in one place,
/// and a fraction of an election.
const PATIENCE_MIN: Duration = Duration::from_millis(50);
/// And at most.
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// Readers that may wait.
const READERS_MAX: usize = 65_536;
/// So many times what the last answer took.
const PATIENCE_FACTOR: u32 = 4;

/// Work that waits for its commit timestamp.
#[derive(Debug)]
pub(super) struct Unstamped {
    pub(super) asker: Asker,
    pub(super) work: Work,
    /// What it takes of the node's budget.
    pub(super) bytes: usize,
    /// What it keeps locked until it is applied.
    pub(super) hold: Hold,
}

/// What gets a commit timestamp.
#[derive(Debug)]
pub(super) enum Work {
    /// A write of one key.
    Write { request: RequestId, op: WriteOp },
    /// The decision to commit a transaction.
    Commit {
        request: RequestId,
        txn: TxnId,
        writes: Vec<TxnWrite>,
        participants: Vec<ShardId>,
        min_commit: Timestamp,
    },
}

impl Work {
    /// The least timestamp that it can take.
    fn min_commit(&self) -> Timestamp {
        match self {
            Self::Write { .. } => Timestamp(0),
            Self::Commit { min_commit, .. } => *min_commit,
        }
    }

    fn stamped(self, commit_ts: Timestamp) -> Command {
        match self {
            Self::Write { request, op } => Command::Write { request, op, commit_ts },
            Self::Commit { request, txn, writes, participants, .. } => {
                let decision = Decision::Commit { commit_ts, writes, participants };
                Command::Decide { request, txn, decision }
            }
        }
    }
}

/// Who waits for a timestamp and writes nothing.
#[derive(Debug)]
enum Reader {
    /// A client that is going to read at it.
    Client(RequestHandle),
    /// A read at a timestamp that must be below it.
    Check { shard: ShardId, query: Query },
    /// A replica that wants to know up to when it may be read.
    SafeTime { shard: ShardId, question: Question },
}

impl Reader {
    /// The request of a client that waits; none if it is a node that does.
    fn handle(&self) -> Option<RequestHandle> {
        match self {
            Self::Client(handle) => Some(*handle),
            Self::Check { query, .. } => Some(query.handle),
            Self::SafeTime { .. } => None,
        }
    }

    /// Whether it is this question about a shard, or one that has taken its place.
    fn is_as_new_as(&self, about: ShardId, other: &Question) -> bool {
        match self {
            Self::Client(_) | Self::Check { .. } => false,
            Self::SafeTime { shard, question } => {
                *shard == about && question.is_at_least_as_new_as(other)
            }
        }
    }

    /// Whether it is an earlier question of a node that asks anew.
    fn is_question_of(&self, node: NodeId, about: ShardId) -> bool {
        match self {
            Self::Client(_) | Self::Check { .. } => false,
            Self::SafeTime { shard, question } => (question.node, *shard) == (node, about),
        }
    }
}

/// A request for timestamps that is out.
#[derive(Debug)]
struct Asked {
    number: u64,
    /// For which shards, in which terms of theirs, and how many.
    shards: Vec<(ShardId, Term, u32)>,
    /// Who gets the first timestamp, before the shards.
    readers: Vec<Reader>,
    count: u32,
    since: Instant,
    /// Whether everybody was asked.
    is_repeated: bool,
    /// When it goes out again.
    repeat_at: Instant,
    /// When it is abandoned.
    until: Instant,
}

/// What a node wants of the oracle.
///
/// - The oldest work of each shard of `asked`, as much as is said there, is what was asked for.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    last_number: u64,
    /// The requests that are out, the oldest first.
    asked: VecDeque<Asked>,
    /// Shards with work that was not asked for.
    waiting: BTreeSet<ShardId>,
    /// Readers that were not asked for.
    readers: Vec<Reader>,
    /// Requests in a row that were not answered with timestamps.
    failure_count: u32,
    /// How long the last one took that was.
    took: Duration,
    /// What the oracle said last of how many requests it had got.
    receipt: Option<Receipt>,
    /// Whether the last answer came by another node: the leader cannot be reached, or not heard.
    is_roundabout: bool,
    /// The last timestamp that was used.
    used: Timestamp,
}

impl Stamps {
    /// When the request that is out goes out again, or is abandoned.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.asked.front().map(|asked| asked.until.min(asked.repeat_at))
    }

    /// When an answer is late.
    fn usual_patience(&self) -> Duration {
        PATIENCE_MIN.max(self.took * PATIENCE_FACTOR).min(PATIENCE_MAX)
    }

    /// How long the next request is kept.
    fn patience(&self) -> Duration {
        (self.usual_patience() * (1 << self.failure_count.min(8))).min(PATIENCE_MAX)
    }

    /// How much of a shard's work was asked for.
    fn asked_for(&self, shard: ShardId, term: Term) -> usize {
        let of = |asked: &Asked| {
            let mut shards = asked.shards.iter();
            let found = shards.find(|(it, of, _)| (*it, *of) == (shard, term));
            found.map_or(0, |(_, _, count)| *count as usize)
        };
        self.asked.iter().map(of).sum()
    }

    /// Nothing of the shard waits any more.
    pub(super) fn forget(&mut self, shard: ShardId) {
        self.waiting.remove(&shard);
    }

    /// The highest timestamp that this node was given. Whatever it is given from now on is higher.
    pub(super) fn used(&self) -> Timestamp {
        self.used
    }

    /// Forgets all work, and returns the readers. No answer to a request so far will count.
    pub(super) fn clear(&mut self) -> Vec<RequestHandle> {
        let asked = self.asked.iter_mut().flat_map(|asked| mem::take(&mut asked.readers));
        let readers: Vec<_> = asked.chain(mem::take(&mut self.readers)).collect();
        *self = Self { last_number: self.last_number, used: self.used, ..Self::default() };
        readers.into_iter().filter_map(|reader| reader.handle()).collect()
    }

    fn add_reader(&mut self, reader: Reader) -> Result<(), Refusal> {
        let asked: usize = self.asked.iter().map(|asked| asked.readers.len()).sum();
        if self.readers.len() + asked >= READERS_MAX {
            return Err(Refusal::Overloaded);
        }
        self.readers.push(reader);
        Ok(())
    }
}

impl Node {
    /// A client wants a timestamp to read at.
    pub(super) fn want_timestamp(&mut self, handle: RequestHandle) -> Result<(), Refusal> {
        self.stamps.add_reader(Reader::Client(handle))
    }

    /// Lets a read wait until this node was given a timestamp above that of the read.
    pub(super) fn check_issued(&mut self, shard: ShardId, query: Query) -> Result<(), Refusal> {
        self.stamps.add_reader(Reader::Check { shard, query })
    }

    /// Lets a question for a safe time wait for a timestamp. It takes the place of an earlier one of
    /// the same node; a repetition adds nothing.
    pub(super) fn stamp_question(
        &mut self,
        shard: ShardId,
        question: Question,
    ) -> Result<(), Refusal> {
        let out = self.stamps.asked.iter().flat_map(|asked| &asked.readers);
        if out.chain(&self.stamps.readers).any(|reader| reader.is_as_new_as(shard, &question)) {
            return Ok(());
        }
        self.stamps.readers.retain(|reader| !reader.is_question_of(question.node, shard));
        self.stamps.add_reader(Reader::SafeTime { shard, question })
    }

    /// Gives readers their timestamp.
    fn serve_readers(&mut self, readers: Vec<Reader>, timestamp: Timestamp) {
        for reader in readers {
            match reader {
                Reader::Client(handle) => self.reply(handle, ClientReply::Timestamp(timestamp)),
                Reader::Check { shard, query } if query.at < timestamp => {
                    self.restart_read(shard, query);
                }
                Reader::SafeTime { shard, question } => {
                    self.on_question_stamped(shard, question, timestamp);
                }
                Reader::Check { query, .. } => {
                    let refusal = Refusal::FutureTimestamp { at: query.at, newest: timestamp };
                    self.reply(query.handle, ClientReply::Refused(refusal));
                }
            }
        }
    }

    /// Takes a write as leader of its shard, to be proposed once it has its timestamp.
    pub(super) fn register(
        &mut self,
        shard: ShardId,
        asker: Asker,
        request: RequestId,
        op: WriteOp,
    ) -> Result<(), Refusal> {
        self.check_states(shard)?;
        let refusal = self.refusal(shard);
        let Some(replica) = self.replicas.get_mut(&shard).filter(|replica| replica.is_leader())
        else {
            return Err(refusal);
        };
        let bytes = op.key().bytes.len() + op.value_size() + size_of::<Unstamped>();
        if self.pending_bytes + bytes > PENDING_BYTES_MAX {
            return Err(Refusal::Overloaded);
        }
        self.pending_bytes += bytes;
        self.touched.insert(shard);
        let work = Work::Write { request, op };
        let write = Unstamped { asker, work, bytes, hold: Hold::Nothing };
        if replica.knows_its_past() {
            self.begin_write(shard, write);
        } else {
            // Among what earlier leaders committed may be locks.
            replica.locking.early.push_back(write);
        }
        Ok(())
    }

    /// Begins what came before this leader knew its past.
    pub(super) fn begin_early_writes(&mut self, shard: ShardId) {
        let knows_its_past = |replica: &&mut Replica| replica.knows_its_past();
        let replica = self.replicas.get_mut(&shard).filter(knows_its_past);
        for write in replica.map(|it| mem::take(&mut it.locking.early)).unwrap_or_default() {
            self.begin_write(shard, write);
        }
    }

    /// A write of one key goes on, or waits for a lock.
    fn begin_write(&mut self, shard: ShardId, write: Unstamped) {
        let Work::Write { op, .. } = &write.work else { return self.register_work(shard, write) };
        let key = op.key().clone();
        let Some(replica) = self.replicas.get_mut(&shard) else { return };
        match replica.locking.begin_write(&key, write) {
            Begun::Free(write) => self.register_work(shard, write),
            Begun::Waits => {}
            Begun::Full(write) => {
                self.pending_bytes -= write.bytes;
                self.reply(write.asker, ClientReply::Refused(Refusal::Overloaded));
            }
        }
    }

    /// Registers work whose locks are held.
    pub(super) fn register_work(&mut self, shard: ShardId, work: Unstamped) {
        if let Some(replica) = self.replicas.get_mut(&shard) {
            replica.unstamped.push_back(work);
            replica.registered_count += 1;
            self.stamps.waiting.insert(shard);
            self.touched.insert(shard);
        }
    }

    /// Asks for the timestamps that all registered work needs, unless a request is out.
    pub(super) fn ask_for_stamps(&mut self) {
        let is_idle = self.stamps.waiting.is_empty() && self.stamps.readers.is_empty();
        if self.stamps.asked.len() >= OUT_MAX || is_idle {
            return;
        }
        let mut shards = Vec::new();
        let mut count = u32::from(!self.stamps.readers.is_empty());
        for shard in &self.stamps.waiting {
            let replica = self.replicas.get(shard).filter(|replica| replica.knows_its_past());
            let Some(replica) = replica else { continue };
            let unasked =
                replica.unstamped.len() - self.stamps.asked_for(*shard, replica.group.term());
            let wanted = u32::try_from(unasked).unwrap_or(COUNT_MAX);
            let wanted = wanted.min(COUNT_MAX - count);
            count += wanted;
            if wanted > 0 {
                shards.push((*shard, replica.group.term(), wanted));
            }
        }
        if count == 0 {
            return;
        }
        for (shard, term, wanted) in &shards {
            let asked = self.stamps.asked_for(*shard, *term) + *wanted as usize;
            if self.replicas[shard].unstamped.len() == asked {
                self.stamps.waiting.remove(shard);
            }
        }
        self.stamps.last_number += 1;
        let number = self.stamps.last_number;
        let is_usual = self.stamps.failure_count == 0 && !self.stamps.is_roundabout;
        let leader = self.meta_leader().filter(|_| is_usual);
        let (since, is_repeated) = (self.now, leader.is_none() && !self.is_meta_leader());
        let repeat_at = since + self.stamps.usual_patience();
        let until = repeat_at + self.stamps.patience().max(self.config.timings.election_max / 2);
        let readers = mem::take(&mut self.stamps.readers);
        let asked = Asked { number, shards, readers, count, since, is_repeated, repeat_at, until };
        self.stamps.asked.push_back(asked);
        self.send_stamp_request(number, count, leader);
    }

    /// Sends a request to `to`, or else to everybody.
    fn send_stamp_request(&mut self, number: u64, count: u32, to: Option<NodeId>) {
        if self.is_meta_leader() {
            return self.on_own_stamps_wanted(number, count);
        }
        let meta = self.replicas.get(&ShardId::META).map(|meta| &meta.group);
        let followed = meta.filter(|meta| !meta.is_suspect());
        let followed = followed.and_then(|meta| Some((meta.leader()?, meta.term())));
        let (asker, boot, is_relayed) = (self.config.id, self.rounds.boot, false);
        let all = self.links.keys().copied().filter(|node| to.is_none_or(|to| to == *node));
        let count_in = |term| match self.stamps.receipt {
            Some(receipt) if receipt.term == term => receipt.count,
            Some(_) | None => 0,
        };
        let followed =
            followed.map(|(leader, term)| (leader, Receipt { term, count: count_in(term) }));
        for node in all.collect::<Vec<_>>() {
            let follows = followed.and_then(|(leader, of)| (leader == node).then_some(of));
            let request =
                OracleMessage::Request { asker, boot, number, count, follows, is_relayed };
            self.outbox.send(node, PeerMessage::Oracle(request));
        }
    }

    /// Who leads the meta group, if it is another node; a hint.
    pub(super) fn meta_leader(&self) -> Option<NodeId> {
        let meta = self.replicas.get(&ShardId::META);
        let leader = meta.and_then(|meta| meta.group.leader());
        let hinted = || self.hinted_leader(ShardId::META);
        let leader = leader.or(self.meta_leader).or_else(hinted);
        leader.filter(|leader| self.links.contains_key(leader))
    }

    /// The oracle answers. Requests before the one that is answered are abandoned: their answers
    /// would come out of order.
    pub(super) fn on_stamps(
        &mut self,
        from: Option<NodeId>,
        number: u64,
        result: Result<Issued, Elsewhere>,
    ) {
        let takes_any = mutants::is_active(Mutant::AbandonedAnswerUsed);
        let is_due = |asked: &Asked| asked.number == number || takes_any;
        let Some(at) = self.stamps.asked.iter().position(is_due) else {
            return;
        };
        match result {
            Ok(Issued { first, receipt }) => {
                self.stamps.receipt = Some(receipt);
                self.stamps.is_roundabout = from.is_some() && from != self.meta_leader();
                for _ in 0..at {
                    self.abandon_oldest();
                }
                let mut asked = self.stamps.asked.pop_front().expect("it was found there");
                let is_next = first > self.stamps.used;
                if let Some(last) = first.0.checked_add(u64::from(asked.count)).filter(|_| is_next)
                {
                    self.stamps.used = Timestamp(last - 1);
                    self.stamps.failure_count = 0;
                    self.stamps.took = self.now.saturating_since(asked.since);
                    let readers = mem::take(&mut asked.readers);
                    let after_readers = first.after(u64::from(!readers.is_empty()));
                    self.use_stamps(&asked, after_readers);
                    self.serve_readers(readers, first);
                }
                self.wait_anew(asked);
            }
            Err(Elsewhere { leader }) => {
                self.meta_leader = leader.or(self.meta_leader);
                if !self.stamps.asked[at].is_repeated {
                    self.repeat_stamp_request(at);
                }
            }
        }
    }

    /// Proposes the work that was asked for, in the order of its timestamps.
    fn use_stamps(&mut self, asked: &Asked, mut next: Timestamp) {
        for (shard, term, count) in &asked.shards {
            let is_led = |replica: &Replica| replica.is_leader() && replica.group.term() == *term;
            for commit_ts in (0..u64::from(*count)).map(|at| next.after(at)) {
                let replica = self.replicas.get_mut(shard).filter(|replica| is_led(replica));
                if let Some(work) = replica.and_then(|replica| replica.unstamped.pop_front()) {
                    self.propose_stamped(*shard, work, commit_ts);
                }
            }
            next = next.after(u64::from(*count));
        }
    }

    fn propose_stamped(&mut self, shard: ShardId, work: Unstamped, commit_ts: Timestamp) {
        let replica = self.replicas.get_mut(&shard).expect("work waits only at a replica");
        if commit_ts <= replica.locking.finished_ts {
            // A decision of another shard came between; the work is asked for anew.
            return self.register_work(shard, work);
        }
        self.touched.insert(shard);
        let Unstamped { asker, work, bytes, hold } = work;
        let min_commit = work.min_commit();
        let payload = work.stamped(commit_ts).encode();
        let proposed = match commit_ts < min_commit {
            // No participant has promised it: a timestamp that is asked for afterwards is higher.
            true => {
                Err(Refusal::InvalidStep { reason: "no participant can have promised that".into() })
            }
            false => replica.group.propose(self.now, payload.into()).map_err(|error| match error {
                ProposeError::NotLeader { hint } => Refusal::NotLeader { shard, hint },
                ProposeError::Full => Refusal::Overloaded,
            }),
        };
        let refusal = match proposed {
            Ok(id) => {
                let is_early = matches!(hold, Hold::Txn(_))
                    && mutants::is_active(Mutant::DecisionBeforeApplied);
                let told = (!is_early).then_some(asker);
                replica.pending.insert(id.index, PendingWrite { asker: told, bytes, hold });
                if is_early {
                    self.reply(asker, ClientReply::Txn(TxnReply::Committed { commit_ts }));
                }
                return self.raise_watermark(shard, commit_ts);
            }
            Err(refusal) => refusal,
        };
        replica.locking.end(&hold);
        self.pending_bytes -= bytes;
        self.reply(asker, ClientReply::Refused(refusal));
    }

    pub(super) fn on_stamps_timeout(&mut self) {
        let now = self.now;
        let is_over = |asked: &Asked| asked.until <= now;
        if self.stamps.asked.front().is_some_and(is_over) {
            self.stamps.failure_count = self.stamps.failure_count.saturating_add(1);
            while !self.stamps.asked.is_empty() {
                self.abandon_oldest();
            }
        }
        for at in 0..self.stamps.asked.len() {
            if self.stamps.asked[at].repeat_at <= now {
                self.repeat_stamp_request(at);
            }
        }
    }

    /// Asks everybody for what is out.
    fn repeat_stamp_request(&mut self, at: usize) {
        let pause = self.stamps.usual_patience();
        let asked = &mut self.stamps.asked[at];
        (asked.is_repeated, asked.repeat_at) = (true, self.now + pause);
        let (number, count) = (asked.number, asked.count);
        self.send_stamp_request(number, count, None);
    }

    /// Gives the oldest request up: all its work is asked for anew.
    fn abandon_oldest(&mut self) {
        if let Some(asked) = self.stamps.asked.pop_front() {
            self.wait_anew(asked);
        }
    }

    /// Work of a request that is out no more waits again, if it got no timestamps.
    fn wait_anew(&mut self, asked: Asked) {
        self.stamps.readers.extend(asked.readers);
        for (shard, _, _) in asked.shards {
            let Some(replica) = self.replicas.get(&shard) else { continue };
            if replica.unstamped.len() > self.stamps.asked_for(shard, replica.group.term()) {
                self.stamps.waiting.insert(shard);
            }
        }
    }
}
