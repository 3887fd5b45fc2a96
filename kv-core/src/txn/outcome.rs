//! How a transaction ended, and the name under which that can be asked for.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::TxnId;
use crate::id::{RequestId, SessionId, ShardId, Timestamp};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOutcome {
    /// All of it took effect.
    Committed {
        /// At this timestamp, which is the version of what it wrote.
        commit_ts: Timestamp,
    },
    /// None of it did, or will.
    Aborted,
}

/// What a commit goes by whose answer did not come: with it anybody can ask how it ended, from any
/// process.
///
/// Its text is `SHARD-OPENED-NONCE-NUMBER-SEQUENCE`, as in `s3-17-00000000deadbeef-4-9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OutcomeId {
    /// The shard whose log decides.
    pub anchor: ShardId,
    /// The transaction.
    pub txn: TxnId,
    /// Number of the decision's request in the session of the transaction.
    pub sequence: u64,
}

impl OutcomeId {
    /// The id of a transaction whose anchor decides by `request`, which is of the same session.
    pub fn new(anchor: ShardId, txn: TxnId, request: RequestId) -> Self {
        assert_eq!(request.session, txn.session, "a decision is of its transaction's session");
        Self { anchor, txn, sequence: request.sequence }
    }

    /// The request by which the anchor decides. Whoever asks does not know what the client of the
    /// transaction has heard meanwhile, so this one acknowledges nothing.
    pub fn request(&self) -> RequestId {
        RequestId { session: self.txn.session, sequence: self.sequence, acked_below: 0 }
    }
}

impl fmt::Display for OutcomeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.anchor, self.txn.session, self.txn.number, self.sequence)
    }
}

/// A text that is no [`OutcomeId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an outcome id looks like s3-17-00000000deadbeef-4-9")]
pub struct OutcomeIdError;

impl FromStr for OutcomeId {
    type Err = OutcomeIdError;

    /// Takes what `Display` writes, and nothing else: no sign, no leading zero, no other case.
    fn from_str(text: &str) -> Result<Self, OutcomeIdError> {
        let id = parse(text).ok_or(OutcomeIdError)?;
        let mut written = alloc::string::String::new();
        fmt::write(&mut written, format_args!("{id}")).map_err(|_| OutcomeIdError)?;
        if written == text { Ok(id) } else { Err(OutcomeIdError) }
    }
}

fn parse(text: &str) -> Option<OutcomeId> {
    let mut parts = text.split('-');
    let anchor = ShardId(parts.next()?.strip_prefix('s')?.parse().ok()?);
    let opened_ts = Timestamp(parts.next()?.parse().ok()?);
    let nonce = u64::from_str_radix(parts.next()?, 16).ok()?;
    let number = parts.next()?.parse().ok()?;
    let sequence = parts.next()?.parse().ok()?;
    let session = SessionId { opened_ts, nonce };
    let is_whole = parts.next().is_none();
    is_whole.then_some(OutcomeId { anchor, txn: TxnId { session, number }, sequence })
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn id(anchor: u32, opened_ts: u64, nonce: u64, number: u64, sequence: u64) -> OutcomeId {
        let session = SessionId { opened_ts: Timestamp(opened_ts), nonce };
        OutcomeId { anchor: ShardId(anchor), txn: TxnId { session, number }, sequence }
    }

    #[test]
    fn text_of_an_id_is_read_back() {
        assert_eq!(id(3, 17, 0xdead_beef, 4, 9).to_string(), "s3-17-00000000deadbeef-4-9");
        for id in [id(3, 17, 0xdead_beef, 4, 9), id(1, 0, 0, 0, 0), id(u32::MAX, !0, !0, !0, !0)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let bad = [
            "",
            "s3",
            "3-17-00000000deadbeef-4-9",
            "s3-17-deadbeef-4-9",
            "s3-17-00000000DEADBEEF-4-9",
            "s3-17-00000000deadbeef-4",
            "s3-17-00000000deadbeef-4-9-1",
            "s3-17-00000000deadbeef-4-9 ",
            "s3-17-00000000deadbeef-4-+9",
            "s3-17-00000000deadbeef-04-9",
            "s3-17-00000000deadbeef--9",
            "s4294967296-17-00000000deadbeef-4-9",
            "s3-18446744073709551616-00000000deadbeef-4-9",
        ];
        for text in bad {
            assert_eq!(text.parse::<OutcomeId>(), Err(OutcomeIdError), "{text:?}");
        }
    }
}
