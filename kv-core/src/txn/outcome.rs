//! How a transaction ended, and the name under which that can be asked for.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::TxnId;
use crate::id::{ClusterId, RequestId, SessionId, ShardId, Timestamp};

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
/// Its text is `SHARD-OPENED-NONCE-NUMBER-SEQUENCE-CHECK`, as in
/// `s3-17-00000000deadbeef-4-9-2dde84a8`. The *check* is a hash over the others and the cluster. Asking
/// settles what is undecided as aborted, so an id that was mistyped, or is of another cluster, would be
/// answered, and wrongly; with the check it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutcomeId {
    /// The shard whose log decides.
    pub anchor: ShardId,
    /// The transaction.
    pub txn: TxnId,
    /// Number of the decision's request in the session of the transaction.
    pub sequence: u64,
    check: u32,
}

impl OutcomeId {
    /// The id of a transaction of a cluster whose anchor decides by `request`, which is of the same
    /// session.
    pub fn new(cluster: ClusterId, anchor: ShardId, txn: TxnId, request: RequestId) -> Self {
        assert_eq!(request.session, txn.session, "a decision is of its transaction's session");
        let id = Self { anchor, txn, sequence: request.sequence, check: 0 };
        Self { check: id.check_in(cluster), ..id }
    }

    /// Whether it was given out in this cluster, as it is.
    pub fn is_of(&self, cluster: ClusterId) -> bool {
        self.check == self.check_in(cluster)
    }

    fn check_in(&self, cluster: ClusterId) -> u32 {
        let Self { anchor, txn, sequence, check: _ } = self;
        let numbers = [txn.session.opened_ts.0, txn.session.nonce, txn.number, *sequence];
        let mut hash = Xxh3::new();
        hash.update(&cluster.0.to_le_bytes());
        hash.update(&anchor.0.to_le_bytes());
        for number in numbers {
            hash.update(&number.to_le_bytes());
        }
        (hash.digest() >> 32) as u32
    }
}

impl fmt::Display for OutcomeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { anchor, txn, sequence, check } = self;
        write!(f, "{anchor}-{}-{}-{sequence}-{check:08x}", txn.session, txn.number)
    }
}

/// A text that is no [`OutcomeId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an outcome id looks like s3-17-00000000deadbeef-4-9-2dde84a8; copy it whole from the error that named it"
)]
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
    let check = u32::from_str_radix(parts.next()?, 16).ok()?;
    let session = SessionId { opened_ts, nonce };
    let is_whole = parts.next().is_none();
    is_whole.then_some(OutcomeId { anchor, txn: TxnId { session, number }, sequence, check })
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    fn id(anchor: u32, opened_ts: u64, nonce: u64, number: u64, sequence: u64) -> OutcomeId {
        let session = SessionId { opened_ts: Timestamp(opened_ts), nonce };
        let request = RequestId { session, sequence, acked_below: 0 };
        OutcomeId::new(CLUSTER, ShardId(anchor), TxnId { session, number }, request)
    }

    #[test]
    fn text_of_an_id_is_read_back() {
        let text = id(3, 17, 0xdead_beef, 4, 9).to_string();
        assert_eq!(text, "s3-17-00000000deadbeef-4-9-2dde84a8");
        for id in [id(3, 17, 0xdead_beef, 4, 9), id(1, 0, 0, 0, 0), id(u32::MAX, !0, !0, !0, !0)] {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert!(id.is_of(CLUSTER));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let bad = [
            "",
            "s3",
            "3-17-00000000deadbeef-4-9-2dde84a8",
            "s3-17-deadbeef-4-9-2dde84a8",
            "s3-17-00000000DEADBEEF-4-9-2dde84a8",
            "s3-17-00000000deadbeef-4-2dde84a8",
            "s3-17-00000000deadbeef-4-9",
            "s3-17-00000000deadbeef-4-9-e84a8",
            "s3-17-00000000deadbeef-4-9-2DDE84A8",
            "s3-17-00000000deadbeef-4-9-2dde84a8-1",
            "s3-17-00000000deadbeef-4-9-2dde84a8 ",
            "s3-17-00000000deadbeef-4-+9-2dde84a8",
            "s3-17-00000000deadbeef-04-9-2dde84a8",
            "s3-17-00000000deadbeef--9-2dde84a8",
            "s4294967296-17-00000000deadbeef-4-9-2dde84a8",
            "s3-18446744073709551616-00000000deadbeef-4-9-2dde84a8",
            "s3-17-00000000deadbeef-4-9-12dde84a8",
        ];
        for text in bad {
            assert_eq!(text.parse::<OutcomeId>(), Err(OutcomeIdError), "{text:?}");
        }
    }

    #[test]
    fn id_of_another_cluster_or_with_another_digit_is_not_of_this_one() {
        let id = id(3, 17, 0xdead_beef, 4, 9);
        assert!(!id.is_of(ClusterId(8)));
        let text = id.to_string();
        let mut read_count = 0;
        for (at, old) in text.char_indices().filter(|(_, char)| char.is_ascii_hexdigit()) {
            for new in "0123456789abcdef".chars().filter(|new| *new != old) {
                let mut mistyped = text.clone();
                mistyped.replace_range(at..=at, new.encode_utf8(&mut [0; 4]));
                if let Ok(mistyped) = mistyped.parse::<OutcomeId>() {
                    assert!(!mistyped.is_of(CLUSTER), "{mistyped}");
                    read_count += 1;
                }
            }
        }
        assert!(read_count > 200, "{read_count}");
    }
}
