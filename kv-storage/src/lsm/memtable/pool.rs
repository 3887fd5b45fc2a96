//! Memory of dropped memtables, for the next ones.
//!
//! A memtable takes tens of megabytes in pieces and gives them back at once. A general allocator
//! keeps such pieces, but for whoever comes next, and between what others hold; a tree that takes
//! its own pieces again stays within its budget.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::arena::CHUNK_BYTES;
use super::nodes::{CHUNK_NODES, Node};

/// Pieces of memory that no memtable uses.
///
/// - It holds at most `bytes_max` bytes.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    bytes_max: u64,
    spare: Mutex<Spare>,
}

#[derive(Debug, Default)]
struct Spare {
    /// Each empty, with a capacity of [`CHUNK_BYTES`].
    chunks: Vec<Vec<u8>>,
    /// Each empty, with a capacity of [`CHUNK_NODES`].
    nodes: Vec<Vec<Node>>,
}

impl Spare {
    fn bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK_BYTES + self.nodes.len() * CHUNK_NODES * size_of::<Node>())
            as u64
    }
}

impl Pool {
    /// An empty pool that keeps up to `bytes_max` bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, spare: Mutex::default() }
    }

    /// An empty chunk for entries.
    pub(super) fn chunk(&self) -> Vec<u8> {
        self.lock().chunks.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES))
    }

    /// An empty chunk for nodes.
    pub(super) fn nodes(&self) -> Vec<Node> {
        self.lock().nodes.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK_NODES))
    }

    /// Keeps what is of the usual size, as far as there is room.
    pub(super) fn give_back(&self, chunks: Vec<Vec<u8>>, nodes: Vec<Vec<Node>>) {
        let mut spare = self.lock();
        for mut chunk in chunks.into_iter().filter(|chunk| chunk.capacity() == CHUNK_BYTES) {
            if spare.bytes() < self.bytes_max {
                chunk.clear();
                spare.chunks.push(chunk);
            }
        }
        for mut chunk in nodes.into_iter().filter(|chunk| chunk.capacity() == CHUNK_NODES) {
            if spare.bytes() < self.bytes_max {
                chunk.clear();
                spare.nodes.push(chunk);
            }
        }
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes()
    }

    fn lock(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
