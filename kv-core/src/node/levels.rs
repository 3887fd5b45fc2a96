//! Reads at any replica of a shard, as fresh as the client wants: `sequential` and `stale`.
//!
//! A replica reads at a safe time of its shard ([`safe_time`](super::safe_time)), once it has applied
//! the index that belongs to it. It need not lead, nor be a member any more: what was true at a safe
//! time stays true.
//!
//! - A *sequential* read names the last timestamp that its session has seen. Any safe time from there
//!   on will do, so many reads need no question.
//! - A *stale* read says how old what it sees may be. All that was acknowledged before a question was
//!   asked lies at or below the timestamp that was issued for it. So what is read at a safe time that
//!   reaches that timestamp is at most as old as the question, and the replica remembers when it
//!   asked, by its own monotonic clock. No other clock counts.
//!
//! # Age while something is prepared
//!
//! The leader may answer with a safe time that ends below the timestamp issued for the question. Such
//! an answer has no age of its own: the replica notes the timestamp and when it asked, and a later
//! safe time that reaches the timestamp is as old as that question at most. A stale read that finds
//! nothing else asks for just that.
//!
//! # Asking
//!
//! One question about a shard is out at a time; what the reads that came meanwhile need is asked for
//! by the next one. It asks for what the most modest of the reads that wait needs: so none waits for
//! the sake of another one, and a timestamp that a client made up delays nobody. Answers count only
//! for the question that is out, from the node that was asked, in the same process.
//!
//! # Bounds
//!
//! A read that could not be served in a good half second is refused, so that its client asks
//! another replica. How many wait is bounded, and so are their bytes. A sequential read after a
//! timestamp that is above one issued since it came is refused, for it would wait for ever.
//!
//! **What this leaves out:** ranges, and asking any other node than the leader.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use super::safe_time::Question;
use super::{Node, Output};
use crate::id::{LogIndex, NodeId, RequestHandle, ShardId, Timestamp};
use crate::mutants::{self, Mutant};
use crate::op::{Found, Key};
use crate::storage::{Read, ReadError, StorageRequest};
use crate::time::Instant;
use crate::wire::{
    ClientReply, Elsewhere, PeerMessage, ReadLevel, Refusal, SafeTime, SafeTimeMessage,
};

/// Reads that may wait on one node.
const READS_WAITING_MAX: usize = 65_536;
/// Bytes that they may take.
const BYTES_WAITING_MAX: usize = 16 * 1024 * 1024;
/// How long a read waits: less than a client waits for one attempt, which then can go elsewhere.
const READ_PATIENCE: Duration = Duration::from_millis(700);
/// How long an answer is waited for before the question is repeated: several times what a healthy
/// leader takes.
const QUESTION_PATIENCE: Duration = Duration::from_millis(200);
/// When somebody else is asked if the one who was asked does not lead.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(50);
/// Timestamps of questions that no safe time has reached yet, of one shard. Of more, the oldest are
/// forgotten.
const UNREACHED_MAX: usize = 16;

/// A read at a replica, as long as it is not answered.
#[derive(Clone, Debug)]
pub(super) struct ReplicaQuery {
    handle: RequestHandle,
    key: Key,
    level: ReadLevel,
    arrived_at: Instant,
    /// When it is refused.
    deadline: Instant,
    /// The last question of this process when it came.
    asked_before: u64,
    /// What can be read, if it was found to lie above the first safe time; else zero.
    oldest: Timestamp,
    /// The safe time at which it is going to be read. It stays, whatever comes: else a replica that
    /// is always a little behind would never serve it.
    chosen: Option<(Timestamp, LogIndex)>,
}

impl ReplicaQuery {
    fn size(&self) -> usize {
        self.key.bytes.len() + size_of::<Self>()
    }

    /// Whether what was acknowledged before a question is fresh enough for it.
    fn accepts(&self, asked_at: Instant) -> bool {
        match self.level {
            ReadLevel::Sequential { .. } => true,
            ReadLevel::Stale { max_age_ms } => {
                asked_at + Duration::from_millis(max_age_ms.into()) >= self.arrived_at
            }
        }
    }

    /// The least timestamp that it can be read at.
    fn after(&self) -> Timestamp {
        match self.level {
            ReadLevel::Sequential { .. } if mutants::is_active(Mutant::SessionTokenIgnored) => {
                self.oldest
            }
            ReadLevel::Sequential { after } => after.max(self.oldest),
            ReadLevel::Stale { .. } => self.oldest,
        }
    }
}

/// A read that the store works on.
#[derive(Debug)]
pub(super) struct ServedQuery {
    shard: ShardId,
    query: ReplicaQuery,
    at: Timestamp,
}

/// A question that is out.
#[derive(Debug)]
struct Asked {
    number: u64,
    /// Who was asked; none if nobody is known to lead.
    to: Option<NodeId>,
    at_least: Timestamp,
    asked_at: Instant,
    /// When it is asked anew.
    until: Instant,
}

/// A safe time that was told.
#[derive(Clone, Copy, Debug)]
struct Known {
    safe: Timestamp,
    index: LogIndex,
    /// When the last question was asked whose timestamp `safe` has reached; none if no such one is
    /// remembered.
    asked_at: Option<Instant>,
}

impl Known {
    fn suffices(&self, query: &ReplicaQuery) -> bool {
        let is_fresh = match query.level {
            ReadLevel::Sequential { .. } => true,
            ReadLevel::Stale { .. } => self.asked_at.is_some_and(|at| query.accepts(at)),
        };
        is_fresh && self.safe >= query.after()
    }
}

/// What is known of one shard, and who waits.
#[derive(Debug, Default)]
struct Level {
    /// The highest safe time that was told.
    known: Option<Known>,
    /// Timestamps issued for questions, and when those were asked, above the highest safe time; in
    /// the order of both.
    unreached: VecDeque<(Timestamp, Instant)>,
    asked: Option<Asked>,
    /// In the order of their deadlines.
    waiting: VecDeque<ReplicaQuery>,
}

impl Level {
    /// Takes an answer to a question that was asked at `asked_at`.
    fn learn(&mut self, told: SafeTime, asked_at: Instant) {
        if self.unreached.back().is_none_or(|(last, _)| *last < told.issued) {
            self.unreached.push_back((told.issued, asked_at));
        }
        if self.unreached.len() > UNREACHED_MAX {
            self.unreached.pop_front();
        }
        if self.known.is_some_and(|known| known.safe >= told.safe) {
            return;
        }
        let mut reached = self.known.and_then(|known| known.asked_at);
        while let Some((issued, at)) = self.unreached.front().copied()
            && issued <= told.safe
        {
            reached = Some(at);
            self.unreached.pop_front();
        }
        self.known = Some(Known { safe: told.safe, index: told.index, asked_at: reached });
    }

    /// The least that an answer must reach to be of use to `query`.
    fn need(&self, query: &ReplicaQuery) -> Timestamp {
        let pending = match query.level {
            ReadLevel::Sequential { .. } => None,
            ReadLevel::Stale { .. } => {
                self.unreached.iter().find(|(_, asked_at)| query.accepts(*asked_at))
            }
        };
        pending.map_or(Timestamp(0), |(issued, _)| *issued).max(query.after())
    }

    /// What the next question asks for; none if nobody waits for one.
    fn least_need(&self) -> Option<Timestamp> {
        let open = self.waiting.iter().filter(|query| query.chosen.is_none());
        open.map(|query| self.need(query)).min()
    }

    /// Chooses safe times for the reads that the known one suffices, and takes those whose index is
    /// applied.
    fn take_ready(&mut self, applied: LogIndex) -> Vec<(ReplicaQuery, Timestamp, LogIndex)> {
        let mut ready = Vec::new();
        let known = self.known;
        for mut query in mem::take(&mut self.waiting) {
            let known = known.filter(|known| known.suffices(&query));
            query.chosen = query.chosen.or_else(|| known.map(|known| (known.safe, known.index)));
            let early = mutants::is_active(Mutant::ReplicaServesBeforeApplied);
            match query.chosen {
                Some((safe, index)) if index <= applied => ready.push((query, safe, index)),
                Some((safe, _)) if early => ready.push((query, safe, LogIndex(0))),
                Some(_) | None => self.waiting.push_back(query),
            }
        }
        ready
    }
}

/// All reads at this node's replicas, by level.
///
/// - `open` holds the shards on which reads wait.
#[derive(Debug, Default)]
pub(super) struct Levels {
    last_number: u64,
    shards: BTreeMap<ShardId, Level>,
    open: BTreeSet<ShardId>,
    waiting_count: usize,
    waiting_bytes: usize,
    served: BTreeMap<RequestHandle, ServedQuery>,
}

impl Levels {
    /// When a read is given up, or a question asked anew.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let open = self.open.iter().filter_map(|shard| self.shards.get(shard));
        let deadlines = open.flat_map(|level| {
            let read = level.waiting.front().map(|query| query.deadline);
            read.into_iter().chain(level.asked.as_ref().map(|asked| asked.until))
        });
        deadlines.min()
    }

    /// The read that the store has answered, if it is one at a replica.
    pub(super) fn take_served(&mut self, handle: RequestHandle) -> Option<ServedQuery> {
        self.served.remove(&handle)
    }

    /// Forgets everything but what the store works on, and returns who waited.
    pub(super) fn clear(&mut self) -> Vec<RequestHandle> {
        let shards = mem::take(&mut self.shards).into_values();
        let waiting = shards.flat_map(|level| level.waiting).map(|query| query.handle).collect();
        self.open.clear();
        (self.waiting_count, self.waiting_bytes) = (0, 0);
        waiting
    }

    /// Lets a read wait.
    fn add(&mut self, shard: ShardId, query: ReplicaQuery) {
        self.waiting_count += 1;
        self.waiting_bytes += query.size();
        self.open.insert(shard);
        self.shards.entry(shard).or_default().waiting.push_back(query);
    }

    /// These wait no more.
    fn note_taken<'a>(&mut self, queries: impl Iterator<Item = &'a ReplicaQuery>) {
        for query in queries {
            self.waiting_count -= 1;
            self.waiting_bytes -= query.size();
        }
    }
}

impl Node {
    /// Takes a read at this node's replica of the shard.
    pub(super) fn start_replica_read(
        &mut self,
        shard: ShardId,
        handle: RequestHandle,
        key: Key,
        level: ReadLevel,
    ) -> Result<(), Refusal> {
        self.check_replica(shard)?;
        let levels = &self.levels;
        if levels.waiting_count + levels.served.len() >= READS_WAITING_MAX
            || levels.waiting_bytes >= BYTES_WAITING_MAX
        {
            return Err(Refusal::Overloaded);
        }
        let query = ReplicaQuery {
            handle,
            key,
            level,
            arrived_at: self.now,
            deadline: self.now + READ_PATIENCE,
            asked_before: levels.last_number,
            oldest: Timestamp(0),
            chosen: None,
        };
        let known = levels.shards.get(&shard).and_then(|level| level.known);
        let is_known = known.is_some_and(|known| known.suffices(&query));
        if !is_known && self.leader_to_ask(shard).is_none() {
            return Err(self.refusal(shard));
        }
        self.levels.add(shard, query);
        self.touched.insert(shard);
        Ok(())
    }

    /// Whether this node has a replica of the shard that holds something and can be trusted.
    fn check_replica(&self, shard: ShardId) -> Result<(), Refusal> {
        let Some(replica) = self.replicas.get(&shard) else {
            return Err(self.refusal(shard));
        };
        if let Some(index) = replica.states.undecided() {
            return Err(Refusal::Diverged { shard, index });
        }
        let has_state = replica.store_applied > LogIndex(0) && !replica.group.is_suspect();
        if has_state { Ok(()) } else { Err(self.refusal(shard)) }
    }

    /// Who leads the shard, as far as this node has heard; may be itself.
    fn leader_to_ask(&self, shard: ShardId) -> Option<NodeId> {
        let leader = self.replicas.get(&shard).and_then(|replica| replica.group.leader());
        let leader = leader.or_else(|| self.hinted_leader(shard));
        leader.filter(|leader| *leader == self.config.id || self.links.contains_key(leader))
    }

    /// Lets go the reads of `shard` that can be served, and asks for what the others need.
    pub(super) fn serve_levels(&mut self, shard: ShardId) {
        if !self.levels.open.contains(&shard) {
            return;
        }
        if let Err(refusal) = self.check_replica(shard) {
            return self.refuse_level(shard, &refusal);
        }
        let applied = self.replicas.get(&shard).map_or(LogIndex(0), |it| it.store_applied);
        let Some(level) = self.levels.shards.get_mut(&shard) else { return };
        let ready = level.take_ready(applied);
        let (is_done, is_asked) = (level.waiting.is_empty(), level.asked.is_some());
        let need = level.least_need();
        if need.is_none() {
            level.asked = None;
        }
        if is_done {
            self.levels.open.remove(&shard);
        }
        self.levels.note_taken(ready.iter().map(|(query, ..)| query));
        for (query, at, at_least) in ready {
            let (handle, key) = (query.handle, query.key.clone());
            self.levels.served.insert(handle, ServedQuery { shard, query, at });
            let read = Read { handle, shard, at_least, timestamp: at, key };
            self.outbox.push(Output::Store(StorageRequest::Read(read)));
        }
        if let Some(at_least) = need.filter(|_| !is_asked) {
            self.ask_for_safe_time(shard, at_least);
        }
    }

    fn ask_for_safe_time(&mut self, shard: ShardId, at_least: Timestamp) {
        let to = self.leader_to_ask(shard);
        self.levels.last_number += 1;
        let number = self.levels.last_number;
        let Some(level) = self.levels.shards.get_mut(&shard) else { return };
        let (asked_at, until) = (self.now, self.now + QUESTION_PATIENCE);
        level.asked = Some(Asked { number, to, at_least, asked_at, until });
        self.send_question(shard, number, to, at_least);
    }

    fn send_question(
        &mut self,
        shard: ShardId,
        number: u64,
        to: Option<NodeId>,
        at_least: Timestamp,
    ) {
        let boot = self.rounds.boot;
        match to {
            Some(node) if node == self.config.id => {
                self.on_question(shard, Question { node, boot, number, at_least });
            }
            Some(node) => {
                let question = SafeTimeMessage::Ask { shard, boot, number, at_least };
                self.outbox.send(node, PeerMessage::SafeTime(question));
            }
            None => {}
        }
    }

    /// A leader, or who was taken for one, answers.
    pub(super) fn on_safe_time(
        &mut self,
        from: NodeId,
        shard: ShardId,
        number: u64,
        result: Result<SafeTime, Elsewhere>,
    ) {
        let now = self.now;
        let Some(level) = self.levels.shards.get_mut(&shard) else { return };
        let is_it = |asked: &&mut Asked| asked.number == number && asked.to == Some(from);
        let Some(asked) = level.asked.as_mut().filter(is_it) else { return };
        let told = match result {
            Ok(told) => told,
            Err(Elsewhere { .. }) => {
                (asked.to, asked.until) = (None, now + ELSEWHERE_PAUSE);
                return;
            }
        };
        let asked_at = asked.asked_at;
        level.asked = None;
        level.learn(told, asked_at);
        self.touched.insert(shard);
        self.refuse_future(shard, number, told.issued);
    }

    /// Refuses the reads after a timestamp that was not issued when they came.
    fn refuse_future(&mut self, shard: ShardId, number: u64, issued: Timestamp) {
        let Some(level) = self.levels.shards.get_mut(&shard) else { return };
        let is_future = |query: &ReplicaQuery| {
            query.asked_before < number && query.after() > issued && query.chosen.is_none()
        };
        let (refused, waiting): (VecDeque<_>, _) =
            mem::take(&mut level.waiting).into_iter().partition(is_future);
        level.waiting = waiting;
        self.levels.note_taken(refused.iter());
        for query in refused {
            let refusal = Refusal::FutureTimestamp { at: query.after(), newest: issued };
            self.reply(query.handle, ClientReply::Refused(refusal));
        }
    }

    /// The store has answered a read at a replica.
    pub(super) fn on_replica_read(
        &mut self,
        served: ServedQuery,
        result: Result<Option<Found>, ReadError>,
    ) {
        let ServedQuery { shard, query, at } = served;
        match result {
            Ok(found) => self.reply(query.handle, ClientReply::ReplicaRead { found, at }),
            Err(ReadError::Damaged(damage)) => {
                self.become_suspect(damage);
                self.refuse_damaged(query.handle.into());
            }
            Err(ReadError::TooOld { oldest }) => self.on_replica_too_old(shard, query, oldest),
            Err(error @ ReadError::NotApplied { .. }) => {
                panic!("a replica is read only when it has applied what belongs to it: {error}")
            }
        }
    }

    /// The safe time lies below what this replica remembers: another one is asked for, once.
    fn on_replica_too_old(&mut self, shard: ShardId, query: ReplicaQuery, oldest: Timestamp) {
        if query.oldest > Timestamp(0) || self.check_replica(shard).is_err() {
            let refusal = self.refusal(shard);
            return self.reply(query.handle, ClientReply::Refused(refusal));
        }
        let deadline = self.now + READ_PATIENCE;
        let asked_before = self.levels.last_number;
        let query = ReplicaQuery { oldest, deadline, asked_before, chosen: None, ..query };
        self.levels.add(shard, query);
        self.touched.insert(shard);
    }

    /// Gives up reads that waited too long, and asks anew what was not answered.
    pub(super) fn on_levels_timeout(&mut self) {
        let now = self.now;
        let open: Vec<_> = self.levels.open.iter().copied().collect();
        for shard in open {
            let refusal = self.refusal(shard);
            self.ask_again(shard);
            let Some(level) = self.levels.shards.get_mut(&shard) else { continue };
            let late_count = level.waiting.iter().take_while(|it| it.deadline <= now).count();
            let late: Vec<_> = level.waiting.drain(..late_count).collect();
            self.levels.note_taken(late.iter());
            for query in late {
                self.reply(query.handle, ClientReply::Refused(refusal.clone()));
            }
            self.touched.insert(shard);
        }
    }

    /// Repeats a question that was not answered in time, under its number, so that an answer counts
    /// however long it takes. If somebody else leads, or less would do by now, another one is asked.
    fn ask_again(&mut self, shard: ShardId) {
        let leader = self.leader_to_ask(shard);
        let until = self.now + QUESTION_PATIENCE;
        let Some(level) = self.levels.shards.get_mut(&shard) else { return };
        let need = level.least_need();
        let Some(asked) = level.asked.as_mut().filter(|asked| asked.until <= self.now) else {
            return;
        };
        let (number, to, at_least) = (asked.number, asked.to, asked.at_least);
        if to.is_none() || to != leader || need.is_none_or(|need| need < at_least) {
            level.asked = None;
            return;
        }
        asked.until = until;
        self.send_question(shard, number, to, at_least);
    }

    /// This node has no replica of the shard any more.
    pub(super) fn refuse_levels(&mut self, shard: ShardId) {
        let refusal = self.refusal(shard);
        self.refuse_level(shard, &refusal);
    }

    fn refuse_level(&mut self, shard: ShardId, refusal: &Refusal) {
        let level = self.levels.shards.remove(&shard).unwrap_or_default();
        self.levels.open.remove(&shard);
        self.levels.note_taken(level.waiting.iter());
        for query in level.waiting {
            self.reply(query.handle, ClientReply::Refused(refusal.clone()));
        }
    }
}
