//! Raft: one replica of one group (Ongaro and Ousterhout, "In Search of an Understandable Consensus
//! Algorithm", 2014; Ongaro's thesis, "Consensus: Bridging Theory and Practice", 2014).
//!
//! A group of replicas keeps equal logs. At most one of them leads in a term; it alone appends, and
//! an entry is committed once a majority holds it durably. A [`Group`] is a pure state machine: it
//! is told of messages, time and durable writes, and collects what it wants sent and written. It
//! knows no links, no other groups and no files; that is the business of
//! [`Node`](crate::node::Node).
//!
//! # Elections
//!
//! A replica that hears of no leader for a random time within `election_min..=election_max`, drawn
//! anew each time, first asks for *pre-votes* (thesis 9.6): would you vote for me? That changes
//! nobody's term, so a replica that was cut off cannot disturb the others when it comes back. Only
//! with a majority of pre-votes it starts a term and asks for votes. A replica refuses both while
//! it has a leader that it heard of within `election_min` (thesis 4.2.3); a leader whose connection
//! broke off is not waited for ([`Group::on_leader_lost`]). Votes go to candidates
//! whose log is at least as up to date (paper 5.4.1), one per term, and the vote is durable before
//! it is told.
//!
//! A leader that has not heard from a majority for `election_max` steps down (thesis 6.2), so its
//! clients learn it.
//!
//! # Replication
//!
//! Each follower has a [`Progress`]. Appends are streamed ahead of acknowledgements and of the
//! leader's own sync. A follower acknowledges when the entries are durable. The leader commits the
//! highest entry *of its own term* that a majority has, itself counted by what is durable (paper
//! 5.4.2, figure 8); the first entry of its term is a no-op, so earlier entries get committed
//! without waiting for a client. Lost messages are noticed at heartbeats ([`Group::on_heartbeat`]).
//!
//! # What must wait for the disk
//!
//! A message that tells of a term, a vote or an entry is marked ([`Envelope::after_persist`]) and
//! must not leave before the writes that the group handed out until then are durable. Only a
//! leader's own appends are not marked.
//!
//! # Releasing
//!
//! A log does not grow for ever. Once the applied state is durable without them, entries are
//! released ([`Group::release`]) and the log goes on behind its floor: those that *every* voter
//! holds durably, because none of them will need them sent again, and of the others all but the
//! some more, the *slack*. The leader sees from the acknowledgements what all hold and tells
//! the others (`held_by_all`); a follower repeats what it knows, so that also an idle group learns
//! it. A member that lacks released entries gets a snapshot ([`snapshot`]).
//!
//! # Members
//!
//! Who takes part is an entry of the log like any other ([`changes`], [`Configuration`]), and the
//! leader can hand its leadership to another voter ([`transfer`]).
//!
//! # Damage
//!
//! A replica that lost what it had stored takes part again, but is not counted before that is known
//! to do no harm ([`suspect`]).
//!
//! # Reads
//!
//! A linearizable read (thesis 6.4) is good at [`Group::read_index`] once leadership was confirmed
//! by a majority in a round that began after the read arrived. The confirmation is between nodes,
//! for all their groups at once, so it lives in the node; the group contributes its term and its
//! voters.
//!
//! With leases ([`LeaseConfig`]), which are off unless configured, a leader need not ask. Then a
//! voter that has confirmed a leader refuses all others for `election_min` even if it learns of a
//! newer term, and counts as one that has when it starts; only who campaigns at the leader's wish
//! gets its vote, and a leader that has uttered such a wish holds no lease any more in its term.
//!
//! **What this leaves out:** how snapshots travel, and who should be a member.

mod changes;
mod configuration;
mod election;
mod log;
mod progress;
mod quorum;
mod replication;
mod snapshot;
mod suspect;
mod timings;
mod transfer;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;
use core::{fmt, mem};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{AppendId, LogId, LogIndex, NodeId, ShardId, Term};
use crate::mutants::{self, Mutant};
use crate::rng::Rng;
use crate::storage::{Entry, GroupWrite, HardState, RecoveredGroup};
use crate::time::Instant;
use crate::wire::{RaftMessage, VoteKind};
use changes::Configurations;
use log::Log;
use progress::Progress;
use replication::Told;
use transfer::Transfer;

pub use changes::ProposeChangeError;
pub use configuration::{ChangeError, Configuration, VoteResult};
pub use timings::{LeaseConfig, Timings};
pub use transfer::TransferError;

/// What a replica is doing in its term (Raft paper, section 5.1; PreVote: Raft thesis, section
/// 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected, without touching any term.
    PreCandidate,
    /// Asks for votes in a term of its own.
    Candidate,
    /// Leads its term.
    Leader,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

/// What a group is, how fast it moves and how much it keeps.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The group.
    pub shard: ShardId,
    /// This replica's node.
    pub me: NodeId,
    /// Who takes part as of the last applied entry; nobody if the replica has not been told.
    pub configuration: Configuration,
    /// Timers.
    pub timings: Timings,
    /// Whether leaders rely on it that voters stick to whom they confirmed, come what may.
    pub has_leases: bool,
    /// Bytes.
    pub limits: Limits,
    /// The life that replicas have on the node's store. One that was last whole in an earlier one is
    /// suspect.
    pub life: u64,
}

/// How much a group keeps in memory and on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that a leader proposes beyond what is committed: what a leader without a majority
    /// keeps in memory. Default 64 MiB.
    pub uncommitted_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { uncommitted_bytes_max: 64 * 1024 * 1024 }
    }
}

/// A message that a group wants sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// To whom.
    pub to: NodeId,
    /// What.
    pub message: RaftMessage,
    /// Whether it must wait until all writes that the group handed out, the one of this step
    /// included, are durable.
    pub after_persist: bool,
}

/// Why an entry is not appended. *Nothing was changed.*
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not the leader, or about to hand the leadership over.
    #[error("not the leader")]
    NotLeader {
        /// Who the replica takes for the leader, or makes it.
        hint: Option<NodeId>,
    },
    /// As much as may be uncommitted is.
    #[error("too much is proposed and not committed")]
    Full,
}

/// What a peer said that cannot be true if it is what it claims to be. The message was ignored.
///
/// Replicas that follow the protocol never say such a thing, so it means a defect, a forged frame,
/// or two clusters that were mixed up. It is reported, not a reason to stop: the state of this
/// replica is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// It claims to lead a term of which another leader is known.
    #[error("two leaders in one term")]
    TwoLeaders,
    /// It wants to replace an entry that is committed here.
    #[error("a committed entry would be replaced")]
    CommittedReplaced,
    /// Its term is beyond all that elections can reach.
    #[error("a term out of range")]
    TermOutOfRange,
}

/// Terms from here on are refused: one election every microsecond would take 36,000 years to get
/// there, and the arithmetic on what lies below cannot overflow.
const TERM_MAX: Term = Term(1 << 60);

#[derive(Debug)]
enum State {
    Follower,
    PreCandidate { granted: BTreeSet<NodeId> },
    Candidate { granted: BTreeSet<NodeId> },
    Leader(Leadership),
}

#[derive(Debug)]
struct Leadership {
    /// Index of the no-op that the term started with.
    term_start: LogIndex,
    /// All members but this one.
    followers: BTreeMap<NodeId, Progress>,
    /// Bytes proposed in this term and not committed.
    uncommitted_bytes: usize,
    /// To whom the leadership is being handed over.
    transfer: Option<Transfer>,
    /// Whether somebody was told to campaign in spite of this leader, which may be obeyed at any
    /// time of this term.
    has_named_successor: bool,
}

/// One replica of a Raft group.
///
/// - `applied <= commit <= last`; what is handed out to be applied is durable here, too.
/// - The term never shrinks, and within a term the vote never changes once given.
#[derive(Debug)]
pub struct Group {
    config: GroupConfig,
    rng: Rng,
    hard_state: HardState,
    log: Log,
    configurations: Configurations,
    state: State,
    leader: Option<NodeId>,
    /// When a leader was last heard of, be it of an earlier term.
    leader_contact: Instant,
    deadline: Instant,
    /// How long to wait for a leader, drawn anew for each candidacy and each leader.
    election_timeout: Duration,
    /// Campaigns that may still follow each other quickly: the leader's connection broke off.
    hasty_campaigns: u32,
    /// Whether an append of this term has said, since the process started, that all that is here is
    /// committed.
    heard_append: bool,
    /// Whether term or vote changed since the last write that was handed out.
    hard_state_unsaved: bool,
    /// Entries up to here were handed out to be applied.
    applied: LogIndex,
    /// Every voter durably holds the committed entries up to here, so none of them needs them sent
    /// again.
    held_by_all: LogIndex,
    /// Entries up to here may not be released: a snapshot is on its way that they follow.
    pinned: Option<LogIndex>,
    /// The snapshot that the store is installing. Until it has, nothing is appended or applied.
    installing: Option<LogId>,
    /// Whether entries were proposed and offered to no follower yet.
    appends_due: bool,
    outbox: Vec<Envelope>,
    contradictions: Vec<(NodeId, Contradiction)>,
}

impl Group {
    /// A replica with what its store recovered: a follower that waits for a leader.
    pub fn new(config: GroupConfig, recovered: RecoveredGroup, rng: Rng, now: Instant) -> Self {
        let log = Log::recovered(recovered.floor, recovered.entries);
        let applied = recovered.applied;
        assert_eq!(
            log.term_at(applied.index),
            Some(applied.term),
            "the log goes on from the applied state"
        );
        assert!(
            recovered.hard_state.commit <= log.last().index,
            "what was committed is in the log"
        );
        // What was applied is committed, whatever the hard state remembers.
        let commit = recovered.hard_state.commit.max(applied.index);
        let behind = log.slice(applied.index.next(), log.last().index, usize::MAX);
        let configurations = Configurations::recovered(config.configuration.clone(), behind);
        // A former life may have confirmed a leader just now.
        let leader_contact = if config.has_leases { now } else { Instant::ZERO };
        let mut group = Self {
            config,
            rng,
            hard_state: HardState { commit, ..recovered.hard_state },
            log,
            configurations,
            state: State::Follower,
            leader: None,
            leader_contact,
            deadline: now,
            election_timeout: Duration::ZERO,
            hasty_campaigns: 0,
            heard_append: false,
            hard_state_unsaved: false,
            applied: applied.index,
            held_by_all: LogIndex(0),
            pinned: None,
            installing: None,
            appends_due: false,
            outbox: Vec::new(),
            contradictions: Vec::new(),
        };
        group.reset_election_timeout(now);
        group
    }

    /// The replica's role.
    pub fn role(&self) -> Role {
        match self.state {
            State::Follower => Role::Follower,
            State::PreCandidate { .. } => Role::PreCandidate,
            State::Candidate { .. } => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }

    /// The latest term that it has seen.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Term, vote and commit index.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The hard state of a replica whose log is about to be given up.
    pub fn hard_state_without_log(&self) -> HardState {
        let forgotten = self.hard_state.forgotten.max(self.log.last());
        HardState { forgotten, ..self.hard_state }
    }

    /// The leader of the current term, if it is known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Who takes part: the last configuration in the log, committed or not.
    pub fn configuration(&self) -> &Configuration {
        self.configurations.current()
    }

    /// Whether an append of this term has said, since the process started, that all that was here is
    /// committed. Until then a follower may not know what the leader has told it before.
    pub fn has_heard_append(&self) -> bool {
        self.heard_append
    }

    /// The last entry.
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// What is known to be committed.
    pub fn commit_index(&self) -> LogIndex {
        self.hard_state.commit
    }

    /// The last committed entry.
    pub fn committed(&self) -> LogId {
        let index = self.hard_state.commit;
        LogId { term: self.log.term_at(index).unwrap_or_default(), index }
    }

    /// The last entry that is durable here.
    pub fn persisted_index(&self) -> LogIndex {
        self.log.persisted()
    }

    /// What was handed out to be applied.
    pub fn applied_index(&self) -> LogIndex {
        self.applied
    }

    /// When to call [`Group::on_timeout`].
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// As leader: the index at which a read that arrives now is linearizable, once it is applied
    /// and leadership is confirmed. It is at least the no-op's, because what came before is known
    /// to be committed only with it (thesis 6.4, step 1).
    pub fn read_index(&self) -> Option<LogIndex> {
        match &self.state {
            State::Leader(_) if mutants::is_active(Mutant::ReadBeforeOwnTerm) => {
                Some(self.hard_state.commit)
            }
            State::Leader(leadership) => Some(self.hard_state.commit.max(leadership.term_start)),
            State::Follower | State::PreCandidate { .. } | State::Candidate { .. } => None,
        }
    }

    /// As leader: where its no-op stands. Once that is applied, so is all that earlier leaders
    /// committed.
    pub fn term_start(&self) -> Option<LogIndex> {
        match &self.state {
            State::Leader(leadership) => Some(leadership.term_start),
            State::Follower | State::PreCandidate { .. } | State::Candidate { .. } => None,
        }
    }

    /// Whether voters refuse others for the sake of this leader: it leads, and did not ask anybody to
    /// take over.
    pub fn may_hold_lease(&self) -> bool {
        match &self.state {
            State::Leader(leadership) => {
                leadership.transfer.is_none() && !leadership.has_named_successor
            }
            State::Follower | State::PreCandidate { .. } | State::Candidate { .. } => false,
        }
    }

    /// Appends an entry as leader.
    ///
    /// # Errors
    /// [`ProposeError`]. *Nothing was changed.*
    pub fn propose(&mut self, now: Instant, payload: Bytes) -> Result<LogId, ProposeError> {
        self.end_late_transfer(now);
        let State::Leader(leadership) = &mut self.state else {
            return Err(ProposeError::NotLeader { hint: self.leader });
        };
        if let Some(transfer) = &leadership.transfer {
            return Err(ProposeError::NotLeader { hint: Some(transfer.to) });
        }
        let bytes = leadership.uncommitted_bytes + payload.len();
        if leadership.uncommitted_bytes > 0 && bytes > self.config.limits.uncommitted_bytes_max {
            return Err(ProposeError::Full);
        }
        Ok(self.append_as_leader(now, payload))
    }

    /// Appends an entry as leader, whatever else is under way.
    fn append_as_leader(&mut self, now: Instant, payload: Bytes) -> LogId {
        if let State::Leader(leadership) = &mut self.state {
            leadership.uncommitted_bytes += payload.len();
        }
        let id = self.log.push(self.hard_state.term, payload);
        self.note_configuration(now, id.index);
        self.appends_due = true;
        id
    }

    /// Takes a message of the group from a node of the cluster, whether or not this replica takes
    /// it for a member: who is behind does not know all members (thesis 4.1).
    pub fn on_message(&mut self, now: Instant, from: NodeId, message: RaftMessage) {
        if from == self.config.me {
            return;
        }
        if message.term() >= TERM_MAX {
            return self.contradict(from, Contradiction::TermOutOfRange);
        }
        match message {
            RaftMessage::Vote { term, last, kind: VoteKind::Pre } => {
                self.on_pre_vote(now, from, term, last);
            }
            RaftMessage::Vote { term, last, kind: VoteKind::Election } => {
                self.on_vote(now, from, term, last, false);
            }
            RaftMessage::Vote { term, last, kind: VoteKind::Transfer } => {
                self.on_vote(now, from, term, last, true);
            }
            RaftMessage::VoteReply { term, pre, granted } => {
                self.on_vote_reply(now, from, term, pre, granted);
            }
            RaftMessage::Append { term, prev, commit, held_by_all, entries } => {
                let told = Told { commit, held_by_all };
                self.on_append(now, from, term, prev, told, entries);
            }
            RaftMessage::AppendAccepted { term, matched, commit, held_by_all, standing } => {
                let told = Told { commit, held_by_all };
                self.on_append_accepted(now, from, term, matched, told, standing);
            }
            RaftMessage::AppendRejected { term, prev, hint } => {
                self.on_append_rejected(now, from, term, prev, hint);
            }
            RaftMessage::Transfer { term } => self.on_transfer(now, from, term),
            RaftMessage::Cleared { term, life, barrier } => {
                self.on_cleared(from, term, life, barrier);
            }
        }
    }

    /// The write `append`, whose last entry of this group was `written`, is durable.
    pub fn on_appended(&mut self, now: Instant, append: AppendId, written: LogId) {
        self.log.on_appended(append, written);
        self.advance_commit(now);
    }

    /// What must be written since the last call, and notes that it is on its way as `append`.
    pub fn take_write(&mut self, append: AppendId) -> Option<GroupWrite> {
        let entries = self.log.unsaved();
        if entries.is_empty() && !self.hard_state_unsaved {
            return None;
        }
        self.log.mark_in_flight(append);
        // Entries carry the hard state along: it is small, and spares re-confirming the commit
        // index after a restart.
        self.hard_state_unsaved = false;
        let shard = self.config.shard;
        Some(GroupWrite { shard, hard_state: Some(self.hard_state), entries })
    }

    /// What the group wants sent since the last call. Entries that were proposed since then leave
    /// here, so that those of one step share their appends.
    pub fn take_messages(&mut self, now: Instant) -> Vec<Envelope> {
        if mem::take(&mut self.appends_due) {
            self.send_appends(now);
        }
        mem::take(&mut self.outbox)
    }

    /// What peers contradicted since the last call.
    pub fn take_contradictions(&mut self) -> Vec<(NodeId, Contradiction)> {
        mem::take(&mut self.contradictions)
    }

    /// Committed entries that were not handed out yet, at most about `bytes_max`, and notes that
    /// they are. Only what is durable here is handed out, so that the applied state never runs
    /// ahead of the log after a crash.
    pub fn take_committed(&mut self, bytes_max: usize) -> Vec<Entry> {
        let to = self.hard_state.commit.min(self.own_acknowledged());
        if to <= self.applied || self.installing.is_some() {
            return Vec::new();
        }
        let entries: Vec<_> = self.log.slice(self.applied.next(), to, bytes_max).cloned().collect();
        if let Some(last) = entries.last() {
            self.applied = last.id.index;
        }
        entries
    }

    /// Up to where every voter is known to hold the committed entries durably.
    pub fn held_by_all(&self) -> LogIndex {
        self.held_by_all
    }

    /// What the log follows: entries up to here were released.
    pub fn floor(&self) -> LogId {
        self.log.floor()
    }

    /// Forgets entries that the applied state, durable without the log up to `flushed`, has: those
    /// that every voter holds, and also others as far as `slack_bytes` of payloads are left, for who
    /// lacks more gets a snapshot. Returns the new floor if it rose.
    pub fn release(&mut self, flushed: LogIndex, slack_bytes: usize) -> Option<LogId> {
        let durable = flushed.min(self.applied).min(self.log.persisted());
        let beyond_slack = self.log.index_before_last(slack_bytes, durable);
        let index = self.held_by_all.min(durable).max(beyond_slack);
        let index = self.pinned.map_or(index, |pinned| index.min(pinned));
        if index <= self.log.floor().index || self.installing.is_some() {
            return None;
        }
        let term = self.log.term_at(index).expect("what is persisted is in the log");
        let floor = LogId { term, index };
        self.log.release(floor);
        self.configurations.forget_before(index);
        Some(floor)
    }

    /// Whether [`Group::release`] has something to give up that makes the effort worth while.
    pub fn is_release_due(&self, flushed: LogIndex, slack_bytes: usize) -> bool {
        let floor = self.log.floor().index;
        let is_held = flushed > floor && flushed <= self.held_by_all;
        is_held || (flushed > floor && self.log.bytes() / 2 > slack_bytes)
    }

    /// Up to where this replica may count and tell its own log: as far as it is durable.
    fn own_acknowledged(&self) -> LogIndex {
        if mutants::is_active(Mutant::AcknowledgedBeforeSync)
            || mutants::is_active(Mutant::LeaderCountsUnsynced)
        {
            return self.log.last().index;
        }
        self.log.persisted()
    }

    fn contradict(&mut self, from: NodeId, what: Contradiction) {
        self.contradictions.push((from, what));
    }

    fn send(&mut self, to: NodeId, message: RaftMessage) {
        self.outbox.push(Envelope { to, message, after_persist: true });
    }

    /// All other members.
    fn peers(&self) -> Vec<NodeId> {
        let me = self.config.me;
        self.configuration().members().filter(|member| *member != me).collect()
    }
}
