//! One ordered walk over several sorted sources.
//!
//! The sources stand in a binary heap, the one with the smallest key on top. When two have the same
//! key, version included, the one that was named first is newer and comes first. A walk mostly
//! takes several entries in a row from one source, so going on costs two comparisons.

use bytes::Bytes;

use super::error::TreeError;
use super::memtable::{MemtableGuard, Place};
use super::table::RunCursor;

/// A sorted source.
#[derive(Debug)]
pub(super) enum Source<'a> {
    /// A memtable, and where the walk is in it.
    Memtable(&'a MemtableGuard<'a>, Place),
    /// A run.
    Run(RunCursor<'a>),
}

impl Source<'_> {
    fn is_at_end(&self) -> bool {
        match self {
            Self::Memtable(memtable, place) => memtable.entry(*place).is_none(),
            Self::Run(cursor) => cursor.is_at_end(),
        }
    }

    fn key(&self) -> &[u8] {
        match self {
            Self::Memtable(memtable, place) => {
                memtable.entry(*place).map_or(&[][..], |(key, _)| key)
            }
            Self::Run(cursor) => cursor.key(),
        }
    }

    fn value(&self) -> &[u8] {
        match self {
            Self::Memtable(memtable, place) => {
                memtable.entry(*place).map_or(&[][..], |(_, value)| value)
            }
            Self::Run(cursor) => cursor.value(),
        }
    }

    fn value_bytes(&self) -> Bytes {
        match self {
            Self::Memtable(..) => Bytes::copy_from_slice(self.value()),
            Self::Run(cursor) => cursor.value_bytes(),
        }
    }

    fn advance(&mut self) -> Result<(), TreeError> {
        match self {
            Self::Memtable(memtable, place) => {
                *place = memtable.next(*place);
                Ok(())
            }
            Self::Run(cursor) => cursor.advance(),
        }
    }
}

/// A walk over the entries of several sources.
///
/// - `heap` holds the numbers of the sources that are not at their end, in heap order.
#[derive(Debug)]
pub(super) struct Merge<'a> {
    sources: Vec<Source<'a>>,
    heap: Vec<usize>,
}

impl<'a> Merge<'a> {
    /// A walk over `sources`, the newest first.
    pub(super) fn new(sources: Vec<Source<'a>>) -> Self {
        let heap = (0..sources.len()).filter(|number| !sources[*number].is_at_end()).collect();
        let mut merge = Self { sources, heap };
        for at in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(at);
        }
        merge
    }

    /// Key and value where the walk is, or none at the end.
    pub(super) fn entry(&self) -> Option<(&[u8], &[u8])> {
        let source = &self.sources[*self.heap.first()?];
        Some((source.key(), source.value()))
    }

    /// The value where the walk is, which must not be the end, without a copy if possible.
    pub(super) fn value_bytes(&self) -> Bytes {
        self.heap.first().map_or_else(Bytes::new, |top| self.sources[*top].value_bytes())
    }

    /// Goes to the next entry. The same key may come again, from an older source.
    pub(super) fn advance(&mut self) -> Result<(), TreeError> {
        let Some(top) = self.heap.first() else { return Ok(()) };
        let source = &mut self.sources[*top];
        source.advance()?;
        if source.is_at_end() {
            self.heap.swap_remove(0);
        }
        self.sift_down(0);
        Ok(())
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.is_before(child, least) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }

    fn is_before(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.heap[a], self.heap[b]);
        (self.sources[a].key(), a) < (self.sources[b].key(), b)
    }
}
