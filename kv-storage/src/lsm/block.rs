//! A data block: sorted entries whose keys share their beginnings.
//!
//! ```text
//! entry                                        block
//! size  field                                  size  field
//!  1-5  bytes shared with the key before it       *  entries
//!  1-5  bytes that follow them                  4*n  offsets of the restarts
//!  1-5  bytes of the value                        4  n
//!    *  the key's bytes that follow
//!    *  the value
//! ```
//!
//! The first entry and every few after it are *restarts*, which share nothing, so that a search
//! starts near its target. Lengths are LEB128, offsets little endian.
//!
//! A search need not build the keys that it passes. While it walks, it knows how many bytes the
//! last key has in common with the target; an entry that shares more than that with the last key is
//! below the target like it, and one that shares less is above.

use std::ops::Range;

use bytes::Bytes;

use super::error::Malformed;

/// Builds one block after the other in one buffer.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    entry_count: usize,
    last_key: Vec<u8>,
}

impl BlockBuilder {
    /// Adds an entry. Keys come in ascending order.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8], restart_interval: usize) {
        let shared = if self.entry_count.is_multiple_of(restart_interval) {
            self.restarts.push(self.bytes.len() as u32);
            0
        } else {
            common_bytes(key, &self.last_key)
        };
        push_varint(&mut self.bytes, shared);
        push_varint(&mut self.bytes, key.len() - shared);
        push_varint(&mut self.bytes, value.len());
        self.bytes.extend_from_slice(&key[shared..]);
        self.bytes.extend_from_slice(value);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.entry_count += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entry_count == 0
    }

    pub(super) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Size of the block if it ended here.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + 4 * self.restarts.len() + 4
    }

    /// Ends the block. The bytes are valid until [`BlockBuilder::clear`].
    pub(super) fn finish(&mut self) -> &[u8] {
        for restart in &self.restarts {
            self.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        self.bytes.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.restarts.clear();
        self.entry_count = 0;
    }
}

/// The header of one entry, and where its parts are.
#[derive(Clone, Copy, Debug)]
struct Entry {
    shared: usize,
    key_at: usize,
    value_at: usize,
    end: usize,
}

/// Where a block's entries and restarts are.
#[derive(Clone, Copy, Debug)]
struct Shape {
    entries_end: usize,
    restart_count: usize,
}

impl Shape {
    fn of(block: &[u8]) -> Result<Self, Malformed> {
        let count = u32::from_le_bytes(*block.last_chunk().ok_or(Malformed)?) as usize;
        let tail = count.checked_mul(4).and_then(|bytes| bytes.checked_add(4)).ok_or(Malformed)?;
        let entries_end = block.len().checked_sub(tail).ok_or(Malformed)?;
        match count > 0 && entries_end > 0 {
            true => Ok(Self { entries_end, restart_count: count }),
            false => Err(Malformed),
        }
    }

    fn restart(&self, block: &[u8], number: usize) -> Result<usize, Malformed> {
        let at = self.entries_end + 4 * number;
        let bytes = block.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Malformed)?;
        Ok(u32::from_le_bytes(*bytes) as usize)
    }

    fn entry(&self, block: &[u8], at: usize) -> Result<Entry, Malformed> {
        let entries = block.get(..self.entries_end).ok_or(Malformed)?;
        let (shared, at) = varint(entries, at)?;
        let (unshared, at) = varint(entries, at)?;
        let (value, key_at) = varint(entries, at)?;
        let value_at = key_at + unshared;
        let end = value_at + value;
        match end <= entries.len() {
            true => Ok(Entry { shared, key_at, value_at, end }),
            false => Err(Malformed),
        }
    }

    /// Where to start walking for the first entry that is not below `target`.
    fn start_for(&self, block: &[u8], target: &[u8]) -> Result<usize, Malformed> {
        // Invariant: the restart `low` is below the target or the first; `high` is not below it.
        let (mut low, mut high) = (0, self.restart_count);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let entry = self.entry(block, self.restart(block, middle)?)?;
            match &block[entry.key_at..entry.value_at] < target {
                true => low = middle,
                false => high = middle,
            }
        }
        self.restart(block, low)
    }

    /// The first entry that is not below `target`; its first `shared` bytes are those of `target`.
    fn seek(&self, block: &[u8], target: &[u8]) -> Result<Option<Entry>, Malformed> {
        let mut at = self.start_for(block, target)?;
        let mut matched = 0;
        let mut is_first = true;
        while at < self.entries_end {
            let entry = self.entry(block, at)?;
            if is_first && entry.shared != 0 {
                return Err(Malformed);
            }
            is_first = false;
            if entry.shared < matched {
                return Ok(Some(entry));
            }
            if entry.shared == matched {
                let (suffix, rest) = (&block[entry.key_at..entry.value_at], &target[matched..]);
                let common = common_bytes(suffix, rest);
                let is_below = match (suffix.get(common), rest.get(common)) {
                    (Some(have), Some(want)) => have < want,
                    (have, want) => have.is_none() && want.is_some(),
                };
                if !is_below {
                    return Ok(Some(entry));
                }
                matched += common;
            }
            at = entry.end;
        }
        Ok(None)
    }
}

/// What [`find`] found: the first entry of a block that is not below its target.
#[derive(Debug)]
pub(super) struct Found {
    /// The version of its key.
    pub(super) inverted_version: u64,
    /// Where its value is in the block.
    pub(super) value: Range<usize>,
}

/// What a block knows about a key.
#[derive(Debug)]
pub(super) enum Lookup {
    /// Its newest version that is not above the target's.
    Found(Found),
    /// The first entry at or after the target is of another key.
    OtherKey,
    /// All entries are below the target.
    Below,
}

/// Looks up the first entry that is not below `target`, a stored key whose prefix has
/// `prefix_bytes` bytes, without building any key.
pub(super) fn find(block: &[u8], target: &[u8], prefix_bytes: usize) -> Result<Lookup, Malformed> {
    let Some(entry) = Shape::of(block)?.seek(block, target)? else { return Ok(Lookup::Below) };
    let suffix = &block[entry.key_at..entry.value_at];
    if entry.shared > target.len() || entry.shared + suffix.len() != target.len() {
        return Ok(Lookup::OtherKey);
    }
    let split = prefix_bytes.saturating_sub(entry.shared);
    if split > suffix.len() || suffix[..split] != target[target.len() - suffix.len()..][..split] {
        return Ok(Lookup::OtherKey);
    }
    let mut version = [0; 8];
    let from_target = entry.shared.saturating_sub(prefix_bytes);
    version[..from_target].copy_from_slice(&target[prefix_bytes..prefix_bytes + from_target]);
    version[from_target..].copy_from_slice(&suffix[split..]);
    let inverted_version = u64::from_be_bytes(version);
    Ok(Lookup::Found(Found { inverted_version, value: entry.value_at..entry.end }))
}

/// A walk over the entries of a block.
///
/// - After a call that returned true, `key` and `value` are those of one entry.
#[derive(Debug)]
pub(super) struct BlockCursor {
    block: Bytes,
    shape: Shape,
    next: usize,
    key: Vec<u8>,
    value: Range<usize>,
}

impl BlockCursor {
    pub(super) fn new(block: Bytes) -> Result<Self, Malformed> {
        let shape = Shape::of(&block)?;
        Ok(Self { block, shape, next: 0, key: Vec::new(), value: 0..0 })
    }

    /// Starts over with another block.
    pub(super) fn reset(&mut self, block: Bytes) -> Result<(), Malformed> {
        self.shape = Shape::of(&block)?;
        self.block = block;
        self.next = 0;
        Ok(())
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.block[self.value.clone()]
    }

    /// The value without a copy; it keeps the whole block in memory.
    pub(super) fn value_bytes(&self) -> Bytes {
        self.block.slice(self.value.clone())
    }

    /// Goes to the next entry. Returns false at the end.
    pub(super) fn advance(&mut self) -> Result<bool, Malformed> {
        if self.next >= self.shape.entries_end {
            return Ok(false);
        }
        let entry = self.shape.entry(&self.block, self.next)?;
        if entry.shared > self.key.len() {
            return Err(Malformed);
        }
        self.key.truncate(entry.shared);
        self.take(entry);
        Ok(true)
    }

    /// Goes to the first entry that is not below `target`. Returns false if all are.
    pub(super) fn seek(&mut self, target: &[u8]) -> Result<bool, Malformed> {
        let Some(entry) = self.shape.seek(&self.block, target)? else { return Ok(false) };
        self.key.clear();
        self.key.extend_from_slice(target.get(..entry.shared).ok_or(Malformed)?);
        self.take(entry);
        Ok(true)
    }

    fn take(&mut self, entry: Entry) {
        self.key.extend_from_slice(&self.block[entry.key_at..entry.value_at]);
        self.value = entry.value_at..entry.end;
        self.next = entry.end;
    }
}

/// How many bytes two keys have in common at the start.
pub(super) fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    let whole = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(a, b)| a == b).count();
    let from = whole * 8;
    from + a[from..].iter().zip(&b[from..]).take_while(|(a, b)| a == b).count()
}

fn push_varint(out: &mut Vec<u8>, number: usize) {
    let mut rest = u32::try_from(number).expect("keys and values are bounded");
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The number at `at`, and where it ends.
#[inline]
fn varint(bytes: &[u8], at: usize) -> Result<(usize, usize), Malformed> {
    match bytes.get(at) {
        Some(byte) if *byte < 0x80 => Ok((usize::from(*byte), at + 1)),
        _ => long_varint(bytes, at),
    }
}

fn long_varint(bytes: &[u8], at: usize) -> Result<(usize, usize), Malformed> {
    let mut number = 0_u32;
    for (position, byte) in bytes.get(at..).ok_or(Malformed)?.iter().take(5).enumerate() {
        number |= u32::from(byte & 0x7f).checked_shl(7 * position as u32).ok_or(Malformed)?;
        if *byte < 0x80 {
            return Ok((number as usize, at + position + 1));
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn block_of(keys: &BTreeSet<Vec<u8>>, interval: usize) -> Bytes {
        let mut builder = BlockBuilder::default();
        for key in keys {
            builder.add(key, &key[..key.len() / 2], interval);
        }
        Bytes::copy_from_slice(builder.finish())
    }

    proptest! {
        #[test]
        fn a_seek_finds_the_first_entry_that_is_not_below(
            keys in proptest::collection::btree_set(
                proptest::collection::vec(0_u8..3, 0..20), 1..40),
            targets in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..20), 1..40),
            interval in 1_usize..9,
        ) {
            let mut cursor = BlockCursor::new(block_of(&keys, interval)).unwrap();
            for target in targets.iter().chain(&keys) {
                let expected = keys.range(target.clone()..).next();
                let is_found = cursor.seek(target).unwrap();
                let found = is_found.then(|| cursor.key().to_vec());
                prop_assert_eq!(found.as_ref(), expected);
                let mut rest = keys.range(target.clone()..).skip(1);
                while is_found && cursor.advance().unwrap() {
                    let key = rest.next().unwrap();
                    prop_assert_eq!(cursor.key(), key);
                    prop_assert_eq!(cursor.value(), &key[..key.len() / 2]);
                }
                prop_assert!(!is_found || rest.next().is_none());
            }
        }

        #[test]
        fn foreign_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            count in 0_u32..4,
            target in proptest::collection::vec(any::<u8>(), 8..20),
        ) {
            let mut bytes = bytes;
            bytes.extend_from_slice(&count.to_le_bytes());
            let _ = find(&bytes, &target, target.len() - 8);
            if let Ok(mut cursor) = BlockCursor::new(bytes.into()) {
                let _ = cursor.seek(&target);
                while cursor.advance() == Ok(true) {}
            }
        }
    }
}
