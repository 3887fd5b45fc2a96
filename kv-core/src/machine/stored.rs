//! The stored form of keys and values.
//!
//! A stored key is `(local shard id, keyspace, key, !version)`, encoded so that bytes sort like the
//! tuple: all of a shard lies together, then all of a keyspace, then a key's versions, newest
//! first.
//!
//! ```text
//! size  field
//!    4  local shard id, big endian
//!    4  keyspace, big endian
//!    *  key, each 0x00 written as 0x00 0xff, ended by 0x00 0x00 (so no key is a prefix of another)
//!    8  !version, big endian
//! ```
//!
//! A stored value is a type byte (0 tombstone, 1 string) and the content.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::id::{KeyspaceId, Timestamp};
use crate::op::{Key, Value};

/// The number under which a store keeps a shard. Replacing a shard's content gives it a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalShardId(pub u32);

/// A key as it is stored. Its byte order is the order of the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredKey(pub Vec<u8>);

/// Bytes that are not a stored key or value. *Nothing was changed.*
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a stored {0}")]
pub struct StoredKeyError(&'static str);

impl StoredKey {
    /// The stored form of one version of `key`.
    pub fn encode(shard: LocalShardId, key: &Key, version: Timestamp) -> Self {
        let mut out = Self::prefix(shard, key);
        out.extend_from_slice(&(!version.0).to_be_bytes());
        Self(out)
    }

    /// What all versions of `key` start with, and nothing else does.
    pub fn prefix(shard: LocalShardId, key: &Key) -> Vec<u8> {
        let mut out = Vec::with_capacity(key.bytes.len() + 18);
        out.extend_from_slice(&shard.0.to_be_bytes());
        out.extend_from_slice(&key.keyspace.0.to_be_bytes());
        for byte in &key.bytes {
            out.push(*byte);
            if *byte == 0 {
                out.push(0xff);
            }
        }
        out.extend_from_slice(&[0, 0]);
        out
    }

    /// The version that the key is of.
    ///
    /// # Errors
    /// [`StoredKeyError`] if the bytes are too short for a stored key.
    pub fn version(&self) -> Result<Timestamp, StoredKeyError> {
        let (_, version) = self.0.split_last_chunk::<8>().ok_or(StoredKeyError("key"))?;
        Ok(Timestamp(!u64::from_be_bytes(*version)))
    }

    /// Takes the stored form apart.
    ///
    /// # Errors
    /// [`StoredKeyError`] if the bytes are not a stored key.
    pub fn decode(&self) -> Result<(LocalShardId, Key, Timestamp), StoredKeyError> {
        let error = StoredKeyError("key");
        let (shard, rest) = self.0.split_first_chunk::<4>().ok_or(error)?;
        let (keyspace, rest) = rest.split_first_chunk::<4>().ok_or(error)?;
        let (escaped, version) = rest.split_last_chunk::<8>().ok_or(error)?;
        let key = Key {
            keyspace: KeyspaceId(u32::from_be_bytes(*keyspace)),
            bytes: unescape(escaped).ok_or(error)?,
        };
        let version = Timestamp(!u64::from_be_bytes(*version));
        Ok((LocalShardId(u32::from_be_bytes(*shard)), key, version))
    }
}

fn unescape(escaped: &[u8]) -> Option<Bytes> {
    let mut out = Vec::with_capacity(escaped.len());
    let mut rest = escaped.iter();
    while let Some(byte) = rest.next() {
        match (*byte, if *byte == 0 { rest.next() } else { None }) {
            (0, Some(0xff)) => out.push(0),
            (0, Some(0)) => return rest.next().is_none().then(|| out.into()),
            (0, _) => return None,
            (byte, _) => out.push(byte),
        }
    }
    None
}

/// The stored form of a value; none is a tombstone.
pub fn encode_value(value: Option<&Value>) -> Bytes {
    match value {
        None => Bytes::from_static(&[0]),
        Some(Value::String(content)) => {
            let mut out = Vec::with_capacity(content.len() + 1);
            out.push(1);
            out.extend_from_slice(content);
            out.into()
        }
    }
}

/// Takes the stored form of a value apart.
///
/// # Errors
/// [`StoredKeyError`] if the bytes are not a stored value.
pub fn decode_value(stored: &Bytes) -> Result<Option<Value>, StoredKeyError> {
    match stored.first() {
        Some(0) if stored.len() == 1 => Ok(None),
        Some(1) => Ok(Some(Value::String(stored.slice(1..)))),
        _ => Err(StoredKeyError("value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn stored_keys_sort_by_shard_keyspace_key_and_newest_version_first() {
        let keys: [&[u8]; 6] = [b"", b"\0", b"\0\xff", b"a", b"a\0", b"b"];
        let mut expected = vec![];
        for shard in [1, 2] {
            for keyspace in [0, 9] {
                for key in keys {
                    for version in [7, 3] {
                        let key = Key {
                            keyspace: KeyspaceId(keyspace),
                            bytes: Bytes::copy_from_slice(key),
                        };
                        expected.push((LocalShardId(shard), key, Timestamp(version)));
                    }
                }
            }
        }
        let encoded: Vec<_> =
            expected.iter().map(|(shard, key, ts)| StoredKey::encode(*shard, key, *ts)).collect();
        assert!(encoded.is_sorted());
        let decoded: Vec<_> = encoded.iter().map(|key| key.decode().unwrap()).collect();
        assert_eq!(decoded, expected);
        assert_eq!(encoded[0].version(), Ok(Timestamp(7)));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&b""[..], b"12345678", b"12345678a00000000", b"12345678a\0x12345678"] {
            assert!(StoredKey(bytes.to_vec()).decode().is_err(), "{bytes:?}");
        }
        assert!(decode_value(&Bytes::from_static(b"")).is_err());
        assert!(decode_value(&Bytes::from_static(b"\x02x")).is_err());
        assert!(decode_value(&Bytes::from_static(b"\x00x")).is_err());
    }
}
