//! The replicated state machine of a shard: what an entry of the log means.
//!
//! [`Machine::apply`] turns one committed [`Command`] into a [`WriteBatch`] and an [`Outcome`]. It
//! is a function of the log alone: it reads no clock and no configuration, draws no randomness, and
//! never fails (Raft keeps replicas equal only if equal logs make equal states). The driver
//! supplies a [`ReadView`] of what was applied before, and stores the batch.
//!
//! A write's entry brings its commit timestamp, which is the version of what it writes. It grows with
//! every write that runs, and all versions of one key grow, which [`Machine::apply`] asserts. Only
//! what a prepared transaction writes may be older than the newest write, never than another one of
//! the same key: its keys are locked from the preparation on ([`transactions`]).
//!
//! # Exactly once
//!
//! A client retries a write until it hears the result, so the same request may be in the log more
//! than once. Each shard keeps the results of the requests of each session ([`sessions`]) and
//! answers a copy from there.
//!
//! # The meta group
//!
//! Group 0 runs the same machine over other commands: it holds the cluster's map, plans what has to
//! move ([`plan`]), opens sessions, and bounds the timestamps that its leader issues
//! ([`oracle`](crate::oracle)).
//!
//! **What this leaves out:** locks, which are the leader's business; lists, sets and hashes.

mod command;
mod meta;
pub mod plan;
mod sessions;
mod snapshot;
mod stored;
mod transactions;

use alloc::vec::Vec;

pub use command::{Command, MetaCommand, configuration_in};
pub use sessions::{RESULTS_PER_SESSION_MAX, SESSIONS_PER_SHARD_MAX, SessionTable};
pub use snapshot::{
    CHUNK_BYTES_MAX, ChunkContent, ChunkRefusal, HISTORY_BYTES_MAX, History, MACHINE_BYTES_MAX,
    RowsBuilder, SnapshotChunk, SnapshotRow,
};
pub use stored::{LocalShardId, StoredKey, StoredKeyError, decode_value, encode_value};
pub use transactions::Transactions;

use crate::cluster::ClusterMap;
use crate::codec;
use crate::id::{LogId, RequestId, SessionId, Timestamp};
use crate::mutants::{self, Mutant};
use crate::op::{Found, Key, Value, WriteOp, WriteResult};
use crate::raft::Configuration;
use crate::storage::{Entry, Outcome, StateHash};
use crate::txn::{Decided, Prepared, TxnId};
use sessions::{Remembered, Seen, Session};

/// Replicas compare their states every so many entries: often enough that a divergence is found
/// while it is small, and rarely enough to cost nothing.
pub const CHECKPOINT_ENTRIES: u64 = 1_024;

/// What was applied so far, as seen by apply and by reads.
pub trait ReadView {
    /// Why the stored state cannot be read.
    type Error;

    /// The newest version of `key` at or below `at`. A deleted key has a version and no value.
    ///
    /// # Errors
    /// If the stored state cannot be read. *Nothing was changed.*
    fn newest(&self, key: &Key, at: Timestamp) -> Result<Option<Newest>, Self::Error>;
}

/// The newest version of a key, with its value unless it is deleted.
pub type Newest = (Timestamp, Option<Value>);

/// Reads `key` at `at`: none if it does not exist there.
///
/// # Errors
/// Those of the view.
pub fn read<V: ReadView>(view: &V, key: &Key, at: Timestamp) -> Result<Option<Found>, V::Error> {
    Ok(view.newest(key, at)?.and_then(found))
}

fn found((version, value): Newest) -> Option<Found> {
    value.map(|value| Found { version, value })
}

/// One version of one key, to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionedWrite {
    /// The key.
    pub key: Key,
    /// Commit timestamp of the write.
    pub version: Timestamp,
    /// The value; none is a tombstone.
    pub value: Option<Value>,
}

/// What one entry changes, all or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// The writes, at most one per key.
    pub writes: Vec<VersionedWrite>,
}

/// Everything of a shard's state that is not keys and values.
///
/// - `applied` moves by exactly one entry per [`Machine::apply`].
/// - Equal logs make equal machines, `state_hash` included.
///
/// A store keeps it with the keys and values that it goes with ([`Machine::encode`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    applied: LogId,
    sessions: SessionTable,
    /// The newest applied configuration; none as long as the group has the one it began with.
    configuration: Option<Configuration>,
    /// In the meta group: the map, from the first command on.
    map: Option<ClusterMap>,
    /// In the meta group: no timestamp above it was ever issued.
    bound: Timestamp,
    /// The newest commit timestamp of all writes that ran.
    newest: Timestamp,
    /// What was true below it may be forgotten.
    watermark: Timestamp,
    transactions: Transactions,
    state_hash: u64,
    /// Room for what is hashed; empty between two entries.
    scratch: Vec<u8>,
}

/// A part of a stored machine, behind the first one.
#[derive(serde::Serialize, serde::Deserialize)]
enum StoredPart<S, P, D> {
    Session(SessionId, S),
    Prepared(TxnId, P),
    Decided(TxnId, D),
}

impl Machine {
    /// The machine before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine in the form in which a store keeps it: parts, each behind its length (32 bits,
    /// little endian), so that no part is larger than the codec's limit however many sessions and
    /// transactions there are.
    pub fn encode(&self) -> Vec<u8> {
        type Part<'a> = StoredPart<&'a Session, &'a Prepared, &'a Decided>;
        let mut out = Vec::new();
        let Self { applied, configuration, map, bound, newest, watermark, state_hash, .. } = self;
        let sessions = &self.sessions;
        let times = (bound, newest, watermark);
        let head = (applied, configuration, map, times, state_hash, sessions.floor());
        push_part(&head, &mut out);
        let Transactions { prepared, decided } = &self.transactions;
        let sessions = sessions.sessions().map(|(id, session)| Part::Session(*id, session));
        let prepared = prepared.iter().map(|(txn, prepared)| Part::Prepared(*txn, prepared));
        let decided = decided.iter().map(|(txn, decided)| Part::Decided(*txn, decided));
        sessions.chain(prepared).chain(decided).for_each(|part| push_part(&part, &mut out));
        out
    }

    /// The machine that was encoded.
    ///
    /// # Errors
    /// [`CodecError`](codec::CodecError) if the bytes are no encoded machine. *Nothing was changed.*
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        type Part = StoredPart<Session, Prepared, Decided>;
        let mut rest = bytes;
        let (applied, configuration, map, (bound, newest, watermark), state_hash, floor) =
            codec::decode(take_part(&mut rest)?)?;
        let mut sessions = SessionTable::with_floor(floor);
        let mut transactions = Transactions::default();
        while !rest.is_empty() {
            match codec::decode::<Part>(take_part(&mut rest)?)? {
                Part::Session(id, session) => sessions.restore(id, session),
                Part::Prepared(txn, prepared) => {
                    transactions.prepared.insert(txn, prepared);
                }
                Part::Decided(txn, decided) => {
                    transactions.decided.insert(txn, decided);
                }
            }
        }
        Ok(Self {
            applied,
            sessions,
            configuration,
            map,
            bound,
            newest,
            watermark,
            transactions,
            state_hash,
            scratch: Vec::new(),
        })
    }

    /// The last applied entry.
    pub fn applied(&self) -> LogId {
        self.applied
    }

    /// The newest configuration of the group that was applied; none if it still has the one it began
    /// with. Raft may already know of a newer one, which is not committed.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// In the meta group: the cluster's map.
    pub fn map(&self) -> Option<&ClusterMap> {
        self.map.as_ref()
    }

    /// The newest commit timestamp of all writes that ran: no key has a newer version, and every
    /// later write is of a newer one, except those of transactions that have prepared.
    pub fn newest(&self) -> Timestamp {
        self.newest
    }

    /// The oldest timestamp that can be read: versions that only an older read could see may be
    /// dropped.
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// The transactions that are between two steps here.
    pub fn transactions(&self) -> &Transactions {
        &self.transactions
    }

    /// Rolling hash over everything that was applied. Replicas that applied the same entry agree on
    /// it.
    pub fn state_hash(&self) -> u64 {
        self.state_hash
    }

    /// The state, if the last applied entry is one at which replicas compare theirs.
    pub fn checkpoint(&self) -> Option<StateHash> {
        let index = self.applied.index;
        let is_one = index.0 > 0 && index.0.is_multiple_of(CHECKPOINT_ENTRIES);
        is_one.then_some(StateHash { index, hash: self.state_hash })
    }

    /// Applies the next entry.
    ///
    /// # Errors
    /// If the view cannot be read. The machine has then lost its place and must not be used again.
    ///
    /// # Panics
    /// If the entry does not follow the last applied one, its payload is not a command, or it
    /// writes at a timestamp that its proposer could not have taken: all mean that the log is not
    /// the one that was committed, and the node must stop.
    pub fn apply<V: ReadView>(
        &mut self,
        view: &V,
        entry: &Entry,
    ) -> Result<(WriteBatch, Outcome), V::Error> {
        assert_eq!(entry.id.index, self.applied.index.next(), "entries are applied without a gap");
        assert!(entry.id.term >= self.applied.term, "terms never shrink along the log");
        let command = Command::decode(&entry.payload).expect("a committed payload decodes");
        self.applied = entry.id;
        let (batch, outcome) = match command {
            Command::Noop => (WriteBatch::default(), Outcome::None),
            Command::Write { request, op, commit_ts } => {
                self.apply_request(view, request, op, commit_ts)?
            }
            Command::RaiseBound(raise) => {
                let before = self.bound;
                self.bound = raise.apply(before);
                (WriteBatch::default(), Outcome::BoundRaised { before, bound: self.bound })
            }
            Command::RaiseWatermark { watermark } => {
                self.watermark = self.watermark.max(watermark);
                let watermark = self.watermark;
                (WriteBatch::default(), Outcome::WatermarkRaised { watermark })
            }
            Command::Prepare { request, txn, anchor, part, floor } => {
                (WriteBatch::default(), self.prepare(request, txn, anchor, part, floor))
            }
            Command::Decide { request, txn, decision } => {
                self.decide(view, &request, txn, decision)?
            }
            Command::Finish { txn, outcome } => self.finish(view, txn, outcome)?,
            Command::Forget { txns } => (WriteBatch::default(), Outcome::Forgotten { txns }),
            Command::Meta(command) => {
                let outcome = meta::apply(&mut self.map, entry.id.index, command);
                (WriteBatch::default(), outcome)
            }
            Command::Configuration(configuration) => {
                // It is no part of the outcome, so it goes into the hash by itself.
                codec::encode_into(&configuration, &mut self.scratch);
                self.configuration = Some(configuration);
                (WriteBatch::default(), Outcome::None)
            }
        };
        self.transactions.note(&outcome);
        self.roll_hash(&batch, &outcome);
        Ok((batch, outcome))
    }

    fn apply_request<V: ReadView>(
        &mut self,
        view: &V,
        request: RequestId,
        op: WriteOp,
        commit_ts: Timestamp,
    ) -> Result<(WriteBatch, Outcome), V::Error> {
        let skip_table = mutants::is_active(Mutant::SessionTableIgnored);
        match self.sessions.look_up(&request) {
            Seen::Before(Remembered::Written(result)) if !skip_table => {
                return Ok((WriteBatch::default(), Outcome::Written(result)));
            }
            // The id was used for something else.
            Seen::Before(Remembered::Prepared { .. } | Remembered::Decided { .. })
            | Seen::Superseded
                if !skip_table =>
            {
                return Ok((WriteBatch::default(), Outcome::Superseded));
            }
            Seen::Expired => return Ok((WriteBatch::default(), Outcome::SessionExpired)),
            Seen::Before(_) | Seen::Superseded | Seen::Never => {}
        }
        assert!(commit_ts > self.newest, "a shard's writes come in the order of their timestamps");
        self.newest = commit_ts;
        let (batch, result) = execute(view, op, commit_ts)?;
        self.sessions.record(&request, Remembered::Written(result.clone()));
        Ok((batch, Outcome::Written(result)))
    }

    fn roll_hash(&mut self, batch: &WriteBatch, outcome: &Outcome) {
        codec::encode_into(&(self.applied, outcome), &mut self.scratch);
        for write in &batch.writes {
            codec::encode_into(&(&write.key, write.version, &write.value), &mut self.scratch);
        }
        self.state_hash = xxhash_rust::xxh3::xxh3_64_with_seed(&self.scratch, self.state_hash);
        self.scratch.clear();
    }
}

fn push_part<T: serde::Serialize>(part: &T, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    codec::encode_into(part, out);
    let size = u32::try_from(out.len() - start - 4).expect("a part is far smaller than 4 GiB");
    out[start..start + 4].copy_from_slice(&size.to_le_bytes());
}

fn take_part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], codec::CodecError> {
    let ends_early = || codec::CodecError::Malformed("a part ends early".into());
    let (size, behind) = rest.split_first_chunk::<4>().ok_or_else(ends_early)?;
    let size = usize::try_from(u32::from_le_bytes(*size)).map_err(|_| ends_early())?;
    let (part, behind) = behind.split_at_checked(size).ok_or_else(ends_early)?;
    *rest = behind;
    Ok(part)
}

/// What `op` does at `commit_ts` to the keys of `view`.
fn execute<V: ReadView>(
    view: &V,
    op: WriteOp,
    commit_ts: Timestamp,
) -> Result<(WriteBatch, WriteResult), V::Error> {
    let newest = view.newest(op.key(), Timestamp::MAX)?;
    if let Some((version, _)) = &newest {
        assert!(*version < commit_ts, "a commit timestamp exceeds the key's newest version");
    }
    let found = newest.and_then(found);
    let (write, result) = match op {
        WriteOp::Put { key, value } => {
            (Some((key, Some(value))), WriteResult::Put { version: commit_ts })
        }
        WriteOp::Delete { key } => {
            let existed = found.is_some();
            (existed.then_some((key, None)), WriteResult::Delete { existed })
        }
        WriteOp::Cas { key, expect, value } => {
            let applied = expect.is_met(found.as_ref());
            let version = if applied { Some(commit_ts) } else { found.map(|found| found.version) };
            (applied.then_some((key, Some(value))), WriteResult::Cas { applied, version })
        }
    };
    let writes = write
        .map(|(key, value)| VersionedWrite { key, version: commit_ts, value })
        .into_iter()
        .collect();
    Ok((WriteBatch { writes }, result))
}
