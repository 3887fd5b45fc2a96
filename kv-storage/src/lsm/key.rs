//! The parts of a stored key and value that the tree looks at.
//!
//! A stored key is what [`kv_core::machine::StoredKey`] describes. The tree relies on three things
//! about it: it begins with the local shard id (4 bytes, big endian), it ends with the inverted
//! version (8 bytes, big endian), and the *prefix* before the version is prefix-free, so that byte
//! order puts all versions of a key together, the newest first. A value is opaque except that the
//! single byte 0 is a tombstone.

use kv_core::id::Timestamp;

/// Size of the inverted version that ends a stored key.
pub(super) const VERSION_BYTES: usize = size_of::<u64>();
/// Size of the local shard id that begins a stored key.
pub(super) const LOCAL_ID_BYTES: usize = size_of::<u32>();
/// The shortest key that has both.
pub(super) const KEY_BYTES_MIN: usize = LOCAL_ID_BYTES + VERSION_BYTES;
/// The longest stored key: a key of 8 KiB of zeros, escaped, fits twice.
pub const KEY_BYTES_MAX: usize = 32 * 1024;
/// The longest stored value: the largest value of a client fits, and so does a collection's chunk.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Everything of a stored key but its version.
pub(super) fn prefix_of(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(VERSION_BYTES)]
}

/// The version of a stored key.
pub(super) fn version_of(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |inverted| !u64::from_be_bytes(*inverted))
}

/// The local shard id of a stored key.
pub(super) fn local_id_of(key: &[u8]) -> u32 {
    key.first_chunk().map_or(0, |id| u32::from_be_bytes(*id))
}

/// Whether a stored value says that its key is absent.
pub(super) fn is_tombstone(value: &[u8]) -> bool {
    value == [0]
}

/// Where the newest version at or below `at` of the key `prefix` is, if there is one: the first
/// stored key that is not smaller.
pub(super) fn seek_key(prefix: &[u8], at: Timestamp, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(prefix);
    out.extend_from_slice(&(!at.0).to_be_bytes());
}
