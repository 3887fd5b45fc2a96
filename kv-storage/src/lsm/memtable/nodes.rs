//! The nodes of a memtable's B+ tree, by number, in chunks that never move.

use std::ops::{Index, IndexMut};

use super::arena::EntryAt;
use super::pool::Pool;

/// Entries of a node. Nodes are split when they are full.
pub(super) const FANOUT: usize = 32;
pub(super) const NONE: u32 = u32::MAX;

/// - The first `len` entries are in use and in ascending order of their keys.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) len: usize,
    pub(super) heads: [u128; FANOUT],
    pub(super) keys: [EntryAt; FANOUT],
    /// Of an inner node: numbers of the nodes below.
    pub(super) children: [u32; FANOUT],
    /// The number of the next node of the same level.
    pub(super) next: u32,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            len: 0,
            heads: [0; FANOUT],
            keys: [EntryAt::default(); FANOUT],
            children: [NONE; FANOUT],
            next: NONE,
        }
    }

    pub(super) fn insert(&mut self, at: usize, key: Keyed, child: u32) {
        self.heads.copy_within(at..self.len, at + 1);
        self.keys.copy_within(at..self.len, at + 1);
        self.children.copy_within(at..self.len, at + 1);
        self.heads[at] = key.head;
        self.keys[at] = key.at;
        self.children[at] = child;
        self.len += 1;
    }

    /// Moves the entries from `at` on to a new node.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        let mut right = Self::new();
        right.len = self.len - at;
        right.heads[..right.len].copy_from_slice(&self.heads[at..self.len]);
        right.keys[..right.len].copy_from_slice(&self.keys[at..self.len]);
        right.children[..right.len].copy_from_slice(&self.children[at..self.len]);
        self.len = at;
        right
    }

    pub(super) fn first(&self) -> Keyed {
        Keyed { head: self.heads[0], at: self.keys[0] }
    }
}

/// A key in the arena and its first bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed {
    pub(super) head: u128,
    pub(super) at: EntryAt,
}

/// Nodes of a chunk. The first one grows to that size, so that a small memtable takes little.
pub(super) const CHUNK_NODES: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 8;

/// Nodes, numbered from 0 on. Every chunk but the last is full.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    chunks: Vec<Vec<Node>>,
}

impl Nodes {
    /// Adds a node and returns its number.
    pub(super) fn push(&mut self, node: Node, pool: &Pool) -> u32 {
        let number = self.len() as u32;
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_NODES => chunk.push(node),
            last => {
                let mut chunk = if last.is_some() { pool.nodes() } else { Vec::new() };
                chunk.push(node);
                self.chunks.push(chunk);
            }
        }
        number
    }

    pub(super) fn get(&self, number: u32) -> Option<&Node> {
        self.chunks.get((number >> CHUNK_BITS) as usize)?.get(number as usize % CHUNK_NODES)
    }

    pub(super) fn len(&self) -> usize {
        let full = self.chunks.len().saturating_sub(1) * CHUNK_NODES;
        full + self.chunks.last().map_or(0, Vec::len)
    }

    /// The chunks, for whoever takes them over.
    pub(super) fn take(&mut self) -> Vec<Vec<Node>> {
        std::mem::take(&mut self.chunks)
    }
}

impl Index<u32> for Nodes {
    type Output = Node;

    fn index(&self, number: u32) -> &Node {
        &self.chunks[(number >> CHUNK_BITS) as usize][number as usize % CHUNK_NODES]
    }
}

impl IndexMut<u32> for Nodes {
    fn index_mut(&mut self, number: u32) -> &mut Node {
        &mut self.chunks[(number >> CHUNK_BITS) as usize][number as usize % CHUNK_NODES]
    }
}
