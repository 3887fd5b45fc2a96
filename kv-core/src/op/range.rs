//! Ranges of keys, as programs say them.
//!
//! Ranges of Rust stand for ranges of the default keyspace: `..` is all of its keys, `"a".."b"` those
//! from `a` on and before `b`. Keys are ordered by their bytes; no encoding counts.

use alloc::vec::Vec;
use core::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use bytes::Bytes;

use super::{Key, KeyRange};
use crate::id::KeyspaceId;

impl KeyRange {
    /// All keys of the default keyspace that begin so.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = Key::new(prefix);
        let end = end_of_prefix(&start.bytes).map_or_else(end_of_keyspace, Key::new);
        Self { start, end: Some(end) }
    }
}

/// The first byte string behind all that begin so; none if there is none.
fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// The first key behind the default keyspace.
fn end_of_keyspace() -> Key {
    Key { keyspace: KeyspaceId(1), bytes: Bytes::new() }
}

/// The first key behind this one.
fn successor(key: impl Into<Bytes>) -> Key {
    let key: Bytes = key.into();
    Key::new([&key[..], &[0]].concat())
}

impl From<RangeFull> for KeyRange {
    fn from(_: RangeFull) -> Self {
        Self { start: Key::new(Bytes::new()), end: Some(end_of_keyspace()) }
    }
}

impl<K: Into<Bytes>> From<RangeFrom<K>> for KeyRange {
    fn from(range: RangeFrom<K>) -> Self {
        Self { start: Key::new(range.start), end: Some(end_of_keyspace()) }
    }
}

impl<K: Into<Bytes>> From<RangeTo<K>> for KeyRange {
    fn from(range: RangeTo<K>) -> Self {
        Self { start: Key::new(Bytes::new()), end: Some(Key::new(range.end)) }
    }
}

impl<K: Into<Bytes>> From<Range<K>> for KeyRange {
    fn from(range: Range<K>) -> Self {
        Self { start: Key::new(range.start), end: Some(Key::new(range.end)) }
    }
}

impl<K: Into<Bytes>> From<RangeToInclusive<K>> for KeyRange {
    fn from(range: RangeToInclusive<K>) -> Self {
        Self { start: Key::new(Bytes::new()), end: Some(successor(range.end)) }
    }
}

impl<K: Into<Bytes>> From<RangeInclusive<K>> for KeyRange {
    fn from(range: RangeInclusive<K>) -> Self {
        let (start, end) = range.into_inner();
        Self { start: Key::new(start), end: Some(successor(end)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(range: &KeyRange, inside: &[&'static [u8]], outside: &[&'static [u8]]) {
        for key in inside {
            assert!(range.contains(&Key::new(*key)), "{key:?} is in {range:?}");
        }
        for key in outside {
            assert!(!range.contains(&Key::new(*key)), "{key:?} is not in {range:?}");
        }
        let other = Key { keyspace: KeyspaceId(1), bytes: Bytes::from_static(b"b") };
        assert!(!range.contains(&other), "{range:?} is of the default keyspace");
    }

    #[test]
    fn ranges_hold_what_those_of_rust_hold() {
        check(&KeyRange::from(..), &[b"", b"b", b"\xff\xff"], &[]);
        check(&KeyRange::from("b".."d"), &[b"b", b"b\0", b"c\xff"], &[b"", b"a\xff", b"d"]);
        check(&KeyRange::from("b"..), &[b"b", b"\xff\xff"], &[b"", b"a\xff"]);
        check(&KeyRange::from(.."b"), &[b"", b"a\xff"], &[b"b"]);
        check(&KeyRange::from("b"..="d"), &[b"b", b"d"], &[b"a", b"d\0"]);
        check(&KeyRange::from(..="b"), &[b"", b"b"], &[b"b\0", b"c"]);
        assert!(KeyRange::from("d".."b").is_empty());
    }

    #[test]
    fn prefix_ends_where_its_last_byte_that_can_be_raised_is() {
        check(&KeyRange::prefix("b"), &[b"b", b"b\xff\xff"], &[b"a\xff", b"c"]);
        check(&KeyRange::prefix(""), &[b"", b"\xff"], &[]);
        check(&KeyRange::prefix(&b"b\xff"[..]), &[b"b\xff", b"b\xff\xff"], &[b"b\xfe", b"c"]);
        check(&KeyRange::prefix(&b"\xff\xff"[..]), &[b"\xff\xff", b"\xff\xff\0"], &[b"\xff\xfe"]);
    }
}
