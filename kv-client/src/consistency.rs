//! Reads that need not be the newest, and the session of a client.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use kv_core::client::{Call, Level};
use kv_core::id::Timestamp;
use kv_core::op::{Found, Key};

use crate::client::Client;
use crate::driver;
use crate::error::ClientError;

/// How fresh what a read sees must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began, whoever wrote. The leader of the
    /// key's shard answers.
    #[default]
    Linearizable,
    /// It sees at least what the session of the client has seen: its own writes, and what it has read,
    /// at any level. Any replica answers.
    Sequential,
    /// It sees every write that was acknowledged longer than `max_age` ago. Any replica answers.
    Stale {
        /// In whole milliseconds, by the clock of the node that answers; what is left of one is cut
        /// off.
        max_age: Duration,
    },
}

/// A text that is no [`Consistency`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not linearizable, sequential, or stale: with an age in ms, s or min, like stale:5s")]
pub struct UnknownConsistency;

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => f.write_str("linearizable"),
            Self::Sequential => f.write_str("sequential"),
            Self::Stale { max_age } => write!(f, "stale:{}ms", max_age.as_millis()),
        }
    }
}

impl FromStr for Consistency {
    type Err = UnknownConsistency;

    fn from_str(text: &str) -> Result<Self, UnknownConsistency> {
        match text {
            "linearizable" => Ok(Self::Linearizable),
            "sequential" => Ok(Self::Sequential),
            _ => {
                let age = text.strip_prefix("stale:").and_then(age).ok_or(UnknownConsistency)?;
                Ok(Self::Stale { max_age: age })
            }
        }
    }
}

/// An age with its unit.
fn age(text: &str) -> Option<Duration> {
    let digits = text.find(|char: char| !char.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let millis_each = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        _ => return None,
    };
    let millis = number.parse::<u64>().ok()?.checked_mul(millis_each)?;
    Some(Duration::from_millis(millis))
}

/// The call that reads a key so.
pub(crate) fn get_call(key: impl Into<Bytes>, consistency: Consistency) -> Call {
    let key = Key::new(key);
    match consistency {
        Consistency::Linearizable => Call::Get { key },
        Consistency::Sequential => Call::GetReplica { key, level: Level::Sequential },
        Consistency::Stale { max_age } => Call::GetReplica { key, level: Level::Stale { max_age } },
    }
}

impl Client {
    /// The value of `key`, with its version, as fresh as `consistency` says; none if the key does not
    /// exist, or did not.
    ///
    /// All clones of a client are one session.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Option<Found>, ClientError> {
        self.call(get_call(key, consistency)).await.map(driver::found_at_any)
    }

    /// What the session of this client has seen so far, as one number. A client that joins with it
    /// ([`Client::join_session`]), anywhere, sees all of that by its sequential reads.
    ///
    /// If the session has seen something and was not told when, as that a key does not exist, the
    /// cluster is asked for a timestamp.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn session_token(&self) -> Result<Timestamp, ClientError> {
        match self.known_token().await? {
            Some(token) => Ok(token),
            None => self.call(Call::Timestamp).await.map(driver::timestamp),
        }
    }

    /// Sequential reads of this client, and of its clones, see from here on all that a session has
    /// seen that had this token. A token that the store never reached makes every later one of them
    /// fail with `FutureTimestamp`.
    ///
    /// # Errors
    /// [`ClientError::Closed`] if the client's task has ended.
    pub async fn join_session(&self, token: Timestamp) -> Result<(), ClientError> {
        self.send_token(token).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_they_are_printed() {
        let stale = |millis| Consistency::Stale { max_age: Duration::from_millis(millis) };
        let known = [
            ("linearizable", Consistency::Linearizable),
            ("sequential", Consistency::Sequential),
            ("stale:0s", stale(0)),
            ("stale:5s", stale(5_000)),
            ("stale:250ms", stale(250)),
            ("stale:2min", stale(120_000)),
        ];
        for (text, level) in known {
            assert_eq!(text.parse(), Ok(level), "{text}");
            assert_eq!(level.to_string().parse(), Ok(level), "{text}");
        }
        let wrong =
            ["", "stale", "stale:", "stale:5", "stale:s", "stale:-1s", "stale:1h", "Stale:1s"];
        let far = format!("stale:{}min", u64::MAX);
        for text in wrong.into_iter().chain([far.as_str()]) {
            assert_eq!(text.parse::<Consistency>(), Err(UnknownConsistency), "{text}");
        }
    }
}
