//! The session table: results of requests that ran, so that a retry is answered and not run again
//! (Raft thesis, section 6.3).
//!
//! The table is part of the replicated state and bounded. What it forgets, it forgets by the log
//! alone, and it remembers *that* it forgot: a session at or below the `floor` that is not in the
//! table may have been here, so its requests are refused instead of run a second time.

use alloc::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{RequestId, SessionId, Timestamp};
use crate::mutants::{self, Mutant};
use crate::op::WriteResult;
use crate::txn::{TxnId, TxnOutcome};

/// Sessions that one shard remembers. Beyond it the session that was opened first is forgotten.
pub const SESSIONS_PER_SHARD_MAX: usize = 4_096;
/// The same for a mutant that forgets them often.
const SESSIONS_OF_MUTANT: usize = 3;
/// Results that one session may leave unacknowledged on one shard. Beyond it the oldest is
/// forgotten, and its request counts as given up.
pub const RESULTS_PER_SESSION_MAX: usize = 1_024;

/// What a request came to.
///
/// A request is of one kind. The ids come from clients, though, so the same one may be used for
/// something else: that is told by the variant, and for steps of transactions by the [`TxnId`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Remembered {
    /// A write ran.
    Written(WriteResult),
    /// A transaction prepared.
    Prepared {
        /// Which.
        txn: TxnId,
        /// The least commit timestamp that the shard could take.
        min_commit: Timestamp,
    },
    /// A transaction was decided.
    Decided {
        /// Which.
        txn: TxnId,
        /// How.
        outcome: TxnOutcome,
    },
}

/// What the table knows of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It ran, and came to this.
    Before(Remembered),
    /// It did not run, and may.
    Never,
    /// Its client has given it up; whether it ran is forgotten.
    Superseded,
    /// Its session is unknown and may have been forgotten.
    Expired,
}

/// What is remembered of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// Requests below it are superseded.
    acked_below: u64,
    /// Results from `acked_below` up, by sequence.
    results: BTreeMap<u64, Remembered>,
}

/// Results of the sessions that a shard remembers.
///
/// - Every session with `opened_ts > floor` that ever ran a request here is in the table.
/// - At most [`SESSIONS_PER_SHARD_MAX`] sessions, each with at most [`RESULTS_PER_SESSION_MAX`]
///   results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionTable {
    sessions: BTreeMap<SessionId, Session>,
    floor: Timestamp,
}

impl SessionTable {
    /// A table without sessions that has forgotten those up to `floor`.
    pub(super) fn with_floor(floor: Timestamp) -> Self {
        Self { sessions: BTreeMap::new(), floor }
    }

    /// Sessions up to here may have been forgotten.
    pub(super) fn floor(&self) -> Timestamp {
        self.floor
    }

    /// What [`SessionTable::restore`] takes, in order.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (&SessionId, &Session)> {
        self.sessions.iter()
    }

    /// Puts back a session that was there before.
    pub(super) fn restore(&mut self, id: SessionId, session: Session) {
        self.sessions.insert(id, session);
    }

    /// What is known of `request`.
    pub(super) fn look_up(&self, request: &RequestId) -> Seen {
        let Some(session) = self.sessions.get(&request.session) else {
            let may_be_forgotten = request.session.opened_ts <= self.floor
                && !mutants::is_active(Mutant::ForgottenSessionRunsAgain);
            return if may_be_forgotten { Seen::Expired } else { Seen::Never };
        };
        match session.results.get(&request.sequence) {
            Some(result) => Seen::Before(result.clone()),
            None if request.sequence < session.acked_below => Seen::Superseded,
            None => Seen::Never,
        }
    }

    /// Remembers the result of a request that just ran.
    pub(super) fn record(&mut self, request: &RequestId, result: Remembered) {
        let session = self.sessions.entry(request.session).or_default();
        session.results.insert(request.sequence, result);
        session.acked_below = session.acked_below.max(request.acked_below);
        session.results = session.results.split_off(&session.acked_below);
        if session.results.len() > RESULTS_PER_SESSION_MAX
            && let Some((oldest, _)) = session.results.pop_first()
        {
            session.acked_below = oldest + 1;
        }
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        let few = mutants::is_active(Mutant::ForgottenSessionRunsAgain);
        while self.sessions.len() > if few { SESSIONS_OF_MUTANT } else { SESSIONS_PER_SHARD_MAX } {
            if let Some((forgotten, _)) = self.sessions.pop_first() {
                self.floor = self.floor.max(forgotten.opened_ts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opened_ts: u64, sequence: u64, acked_below: u64) -> RequestId {
        let session = SessionId { opened_ts: Timestamp(opened_ts), nonce: 7 };
        RequestId { session, sequence, acked_below }
    }

    fn put(version: u64) -> Remembered {
        Remembered::Written(WriteResult::Put { version: Timestamp(version) })
    }

    #[test]
    fn retry_is_answered_from_the_table() {
        let mut table = SessionTable::default();
        assert_eq!(table.look_up(&request(1, 1, 1)), Seen::Never);
        table.record(&request(1, 1, 1), put(5));
        assert_eq!(table.look_up(&request(1, 1, 1)), Seen::Before(put(5)));
        assert_eq!(table.look_up(&request(1, 2, 1)), Seen::Never);
    }

    #[test]
    fn acknowledged_result_is_forgotten_and_its_late_copy_does_not_run() {
        let mut table = SessionTable::default();
        table.record(&request(1, 1, 1), put(5));
        table.record(&request(1, 2, 2), put(6));
        assert_eq!(table.look_up(&request(1, 1, 1)), Seen::Superseded);
        assert_eq!(table.look_up(&request(1, 2, 2)), Seen::Before(put(6)));
    }

    #[test]
    fn rule_d92_forgotten_session_is_refused_and_newer_ones_run() {
        let mut table = SessionTable::default();
        for opened in 1..=SESSIONS_PER_SHARD_MAX as u64 + 1 {
            table.record(&request(opened, 1, 1), put(opened));
        }
        assert_eq!(table.look_up(&request(1, 1, 1)), Seen::Expired);
        assert_eq!(table.look_up(&request(2, 1, 1)), Seen::Before(put(2)));
        assert_eq!(table.look_up(&request(9_000, 1, 1)), Seen::Never);
    }

    #[test]
    fn results_beyond_the_window_are_forgotten_as_given_up() {
        let mut table = SessionTable::default();
        for sequence in 1..=RESULTS_PER_SESSION_MAX as u64 + 1 {
            table.record(&request(1, sequence, 1), put(sequence));
        }
        assert_eq!(table.look_up(&request(1, 1, 1)), Seen::Superseded);
        assert_eq!(table.look_up(&request(1, 2, 1)), Seen::Before(put(2)));
    }
}
