//! A B+ tree of places in an arena.
//!
//! All nodes have the same form. Entry `i` of an inner node stands for its child `i` and holds a
//! key that is not above any in it, and above all of the child before it. That of child 0 is never
//! looked at: smaller keys may have come since.

use std::sync::Arc;

use super::arena::Arena;
use super::nodes::{FANOUT, Keyed, NONE, Node, Nodes};
use super::pool::Pool;

/// Depth that 2^32 entries cannot exceed, as nodes are at least half full but for the last ones.
const DEPTH_MAX: usize = 16;

/// A place in a memtable: an entry, or the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    leaf: u32,
    index: u32,
}

/// - `nodes[0]` is the first leaf.
/// - All leaves are `depth` levels below the root.
#[derive(Debug)]
pub(super) struct Tree {
    arena: Arena,
    nodes: Nodes,
    /// Where chunks come from and go to.
    pool: Arc<Pool>,
    root: u32,
    depth: usize,
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.pool.give_back(self.arena.take(), self.nodes.take());
    }
}

impl Tree {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        let mut nodes = Nodes::default();
        nodes.push(Node::new(), &pool);
        Self { arena: Arena::default(), nodes, root: 0, depth: 0, pool }
    }

    pub(super) fn memory(&self) -> u64 {
        self.arena.memory() + (self.nodes.len() * size_of::<Node>()) as u64
    }

    pub(super) fn content_bytes(&self) -> u64 {
        self.arena.content_bytes()
    }

    /// Adds an entry, or replaces the one with the same key.
    pub(super) fn insert(&mut self, key: &[u8], value: &[u8]) {
        let head = head(key);
        let mut path = [(0, 0); DEPTH_MAX];
        let mut number = self.root;
        for step in &mut path[..self.depth] {
            let node = &self.nodes[number];
            let child = self.child_for(node, head, key);
            *step = (number, child);
            number = node.children[child];
        }
        let node = &self.nodes[number];
        let at = self.lower_bound(node, head, key);
        let is_there =
            at < node.len && node.heads[at] == head && self.arena.key(node.keys[at]) == key;
        let keyed = Keyed { head, at: self.arena.push(key, value, &self.pool) };
        if is_there {
            self.nodes[number].keys[at] = keyed.at;
            return;
        }
        self.insert_at(&path[..self.depth], number, at, keyed);
    }

    /// Adds an entry to a leaf, splitting full nodes on the way up.
    fn insert_at(&mut self, path: &[(u32, usize)], leaf: u32, at: usize, key: Keyed) {
        let Some((mut right, mut right_number)) = self.insert_into(leaf, at, key, NONE) else {
            return;
        };
        for (number, child) in path.iter().rev() {
            match self.insert_into(*number, child + 1, right, right_number) {
                Some(split) => (right, right_number) = split,
                None => return,
            }
        }
        let left = self.nodes[self.root].first();
        let mut root = Node::new();
        root.insert(0, left, self.root);
        root.insert(1, right, right_number);
        self.root = self.push(root);
        self.depth += 1;
    }

    /// Adds an entry to a node. If that was full, returns the first key and the number of the new
    /// node to its right.
    fn insert_into(
        &mut self,
        number: u32,
        at: usize,
        key: Keyed,
        child: u32,
    ) -> Option<(Keyed, u32)> {
        let node = &mut self.nodes[number];
        if node.len < FANOUT {
            node.insert(at, key, child);
            return None;
        }
        // Ascending keys leave full nodes behind.
        let is_last = at == FANOUT && node.next == NONE;
        let middle = if is_last { FANOUT } else { FANOUT / 2 };
        let mut right = node.split_off(middle);
        right.next = node.next;
        match at < middle {
            true => node.insert(at, key, child),
            false => right.insert(at - middle, key, child),
        }
        let first = right.first();
        let right = self.push(right);
        self.nodes[number].next = right;
        Some((first, right))
    }

    fn push(&mut self, node: Node) -> u32 {
        self.nodes.push(node, &self.pool)
    }

    pub(super) fn first(&self) -> Place {
        Place { leaf: 0, index: 0 }
    }

    /// The first entry that is not below `target`.
    pub(super) fn seek(&self, target: &[u8]) -> Place {
        let head = head(target);
        let mut leaf = self.root;
        for _ in 0..self.depth {
            let node = &self.nodes[leaf];
            leaf = node.children[self.child_for(node, head, target)];
        }
        let node = &self.nodes[leaf];
        let index = self.lower_bound(node, head, target);
        match index == node.len {
            true => Place { leaf: node.next, index: 0 },
            false => Place { leaf, index: index as u32 },
        }
    }

    pub(super) fn entry(&self, place: Place) -> Option<(&[u8], &[u8])> {
        let node = self.nodes.get(place.leaf)?;
        let index = place.index as usize;
        (index < node.len).then(|| self.arena.entry(node.keys[index]))
    }

    pub(super) fn next(&self, place: Place) -> Place {
        let Place { leaf, index } = place;
        match self.nodes.get(leaf) {
            Some(node) if index as usize + 1 >= node.len => Place { leaf: node.next, index: 0 },
            _ => Place { leaf, index: index + 1 },
        }
    }

    /// How many entries of a node are below a key.
    fn lower_bound(&self, node: &Node, head: u128, key: &[u8]) -> usize {
        let heads = &node.heads[..node.len];
        let mut at = heads.partition_point(|have| *have < head);
        while at < heads.len() && heads[at] == head && self.arena.key(node.keys[at]) < key {
            at += 1;
        }
        at
    }

    /// The child of an inner node in which a key is, or would be.
    fn child_for(&self, node: &Node, head: u128, key: &[u8]) -> usize {
        let heads = &node.heads[..node.len];
        let mut child = heads[1..].partition_point(|have| *have < head);
        while child + 1 < heads.len()
            && heads[child + 1] == head
            && self.arena.key(node.keys[child + 1]) <= key
        {
            child += 1;
        }
        child
    }
}

/// Sixteen bytes of a key as a number that sorts like them.
fn head(key: &[u8]) -> u128 {
    match key.first_chunk() {
        Some(bytes) => u128::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 16];
            bytes[..key.len()].copy_from_slice(key);
            u128::from_be_bytes(bytes)
        }
    }
}
