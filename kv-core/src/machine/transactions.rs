//! Transactions that are between two steps on a shard: prepared and not finished, or decided and not
//! known to all participants.
//!
//! They are part of the replicated state. A node keeps a copy of those of each of its replicas
//! ([`Transactions::note`]), because whoever leads has to hold the locks of the ones and to tell
//! about the others.
//!
//! # Steps
//!
//! - `Prepare` and `Decide` happen once for each request, by the session table, as writes do. An id
//!   that was used for anything else, or for another transaction, counts as superseded.
//! - `Finish` and `Forget` go by the transaction, and a second one finds nothing to do. A copy of
//!   the `Prepare` that comes later is known by its request, and prepares nothing again.
//!
//! # The fence
//!
//! A participant that has waited for long makes the anchor decide to abort. Whatever the table of
//! the anchor has forgotten, the answer is right for whoever is still prepared:
//!
//! 1. If the transaction was committed, the anchor knows of it until every participant has applied
//!    that (`decided`), so a participant that can still ask finds it there.
//! 2. Otherwise the request says what was decided.
//! 3. If it says nothing, the abort is written down under the request, and a later commit finds it.
//! 4. If the request was given up or its session is forgotten, it was not committed, by 1, or
//!    nobody is prepared any more; and a later commit is refused for the same reason, because what
//!    is forgotten stays forgotten.
//!
//! So only a participant may take every answer to a fence for the outcome. To a client, what is given up
//! or forgotten says nothing about whether it was committed.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::sessions::{Remembered, Seen};
use super::{Machine, ReadView, VersionedWrite, WriteBatch};
use crate::id::{RequestId, ShardId, Timestamp};
use crate::storage::Outcome;
use crate::txn::{Decided, Decision, Part, Prepared, TxnId, TxnOutcome, TxnWrite};

/// The unfinished transactions of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transactions {
    /// Those that have prepared here.
    pub prepared: BTreeMap<TxnId, Prepared>,
    /// Those that were committed here.
    pub decided: BTreeMap<TxnId, Decided>,
}

impl Transactions {
    /// Follows what an entry did.
    pub fn note(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Prepared { txn, prepared: Some(prepared), .. } => {
                self.prepared.insert(*txn, (**prepared).clone());
            }
            Outcome::Decided {
                txn,
                outcome: TxnOutcome::Committed { commit_ts },
                participants,
            } if !participants.is_empty() => {
                let (commit_ts, participants) = (*commit_ts, participants.clone());
                self.decided.insert(*txn, Decided { commit_ts, participants });
            }
            Outcome::Finished { txn } => {
                self.prepared.remove(txn);
            }
            Outcome::Forgotten { txns } => txns.iter().for_each(|txn| {
                self.decided.remove(txn);
            }),
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
    }
}

impl Machine {
    /// Makes a part durable, if its request is new.
    pub(super) fn prepare(
        &mut self,
        request: RequestId,
        txn: TxnId,
        anchor: ShardId,
        part: Part,
        floor: Timestamp,
    ) -> Outcome {
        match self.sessions.look_up(&request) {
            Seen::Before(Remembered::Prepared { txn: of, min_commit }) if of == txn => {
                return Outcome::Prepared { txn, min_commit, prepared: None };
            }
            Seen::Before(_) | Seen::Superseded => return Outcome::Superseded,
            Seen::Expired => return Outcome::SessionExpired,
            Seen::Never if self.transactions.prepared.contains_key(&txn) => {
                return Outcome::Superseded;
            }
            Seen::Never => {}
        }
        let min_commit = self.newest.after(1).max(floor);
        self.sessions.record(&request, Remembered::Prepared { txn, min_commit });
        let prepared = Prepared { request, anchor, part, min_commit };
        Outcome::Prepared { txn, min_commit, prepared: Some(Box::new(prepared)) }
    }

    /// Decides, or tells what was decided.
    pub(super) fn decide<V: ReadView>(
        &mut self,
        view: &V,
        request: &RequestId,
        txn: TxnId,
        decision: Decision,
    ) -> Result<(WriteBatch, Outcome), V::Error> {
        if let Some(outcome) = self.decided_before(txn) {
            return Ok((WriteBatch::default(), decided(txn, outcome)));
        }
        let (commit_ts, writes, participants) = match decision {
            Decision::Abort => return Ok((WriteBatch::default(), self.fence(request, txn))),
            Decision::Commit { commit_ts, writes, participants } => {
                (commit_ts, writes, participants)
            }
        };
        let known = match self.sessions.look_up(request) {
            Seen::Before(Remembered::Decided { txn: of, outcome }) if of == txn => {
                Some(decided(txn, outcome))
            }
            Seen::Before(_) | Seen::Superseded => Some(Outcome::Superseded),
            Seen::Expired => Some(Outcome::SessionExpired),
            Seen::Never => None,
        };
        if let Some(known) = known {
            return Ok((WriteBatch::default(), known));
        }
        assert!(commit_ts > self.newest, "a decision comes in the order of its timestamp");
        let batch = self.write_at(view, commit_ts, writes)?;
        let outcome = TxnOutcome::Committed { commit_ts };
        self.sessions.record(request, Remembered::Decided { txn, outcome });
        Ok((batch, Outcome::Decided { txn, outcome, participants }))
    }

    /// How a transaction ended of which participants may not know yet.
    fn decided_before(&self, txn: TxnId) -> Option<TxnOutcome> {
        let commit_ts = self.transactions.decided.get(&txn)?.commit_ts;
        Some(TxnOutcome::Committed { commit_ts })
    }

    /// Aborts what is not in `decided`, unless the request has decided it.
    fn fence(&mut self, request: &RequestId, txn: TxnId) -> Outcome {
        match self.sessions.look_up(request) {
            Seen::Before(Remembered::Decided { txn: of, outcome }) if of == txn => {
                decided(txn, outcome)
            }
            Seen::Never => {
                let outcome = TxnOutcome::Aborted;
                self.sessions.record(request, Remembered::Decided { txn, outcome });
                decided(txn, outcome)
            }
            // No commit comes after it under this request, and none of which a participant does not
            // know came before: a participant may take it for an abort. A client may not.
            Seen::Before(_) | Seen::Superseded => Outcome::Superseded,
            Seen::Expired => Outcome::SessionExpired,
        }
    }

    /// Ends a transaction that has prepared here.
    pub(super) fn finish<V: ReadView>(
        &mut self,
        view: &V,
        txn: TxnId,
        outcome: TxnOutcome,
    ) -> Result<(WriteBatch, Outcome), V::Error> {
        let mut batch = WriteBatch::default();
        if let (Some(prepared), TxnOutcome::Committed { commit_ts }) =
            (self.transactions.prepared.remove(&txn), outcome)
        {
            // Only a client that had the anchor decide before this shard had prepared can bring an
            // earlier one, and then its transaction is not applied here.
            if commit_ts >= prepared.min_commit {
                batch = self.write_at(view, commit_ts, prepared.part.writes)?;
            }
        }
        Ok((batch, Outcome::Finished { txn }))
    }

    fn write_at<V: ReadView>(
        &mut self,
        view: &V,
        commit_ts: Timestamp,
        writes: Vec<TxnWrite>,
    ) -> Result<WriteBatch, V::Error> {
        self.newest = self.newest.max(commit_ts);
        // Whatever a client sends, a key has one value at one timestamp: the last one.
        let writes: BTreeMap<_, _> =
            writes.into_iter().map(|write| (write.key, write.value)).collect();
        let mut batch = WriteBatch::default();
        for (key, value) in writes {
            if let Some((version, _)) = view.newest(&key, Timestamp::MAX)? {
                assert!(version < commit_ts, "a commit timestamp exceeds the key's newest version");
            }
            batch.writes.push(VersionedWrite { key, version: commit_ts, value });
        }
        Ok(batch)
    }
}

/// What is told of a decision that was made before, or that nobody has to hear of.
fn decided(txn: TxnId, outcome: TxnOutcome) -> Outcome {
    Outcome::Decided { txn, outcome, participants: Vec::new() }
}
