//! The blocks that stay in memory.
//!
//! Every table knows, for each of its blocks, in which slot of the cache the block is, so a lookup
//! needs no hash map. When memory runs out, a hand goes round the slots: it spares each block that
//! was used since it came by last, once, and throws out the first that was not (the CLOCK
//! approximation of least recently used).

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

/// What a slot costs besides the bytes of its block.
const SLOT_BYTES: u64 = 96;
const NO_SLOT: u32 = u32::MAX;

/// In which slot each block of a table is, as far as it is known: a slot may have been given away
/// since.
pub(super) struct Slots(Vec<AtomicU32>);

impl Slots {
    pub(super) fn new(block_count: usize) -> Self {
        Self((0..block_count).map(|_| AtomicU32::new(NO_SLOT)).collect())
    }

    pub(super) fn memory(&self) -> u64 {
        4 * self.0.len() as u64
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slots({})", self.0.len())
    }
}

/// A cache of blocks with a budget.
#[derive(Debug)]
pub(super) struct BlockCache(Mutex<Ring>);

/// - `used` is the cost of all slots that are taken, at most `capacity` after an insertion.
#[derive(Debug, Default)]
struct Ring {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    hand: usize,
    used: u64,
    capacity: u64,
    hit_count: u64,
    miss_count: u64,
}

#[derive(Debug)]
struct Slot {
    owner: Weak<Slots>,
    block: u32,
    content: Bytes,
    was_used: bool,
}

impl Slot {
    fn cost(&self) -> u64 {
        self.content.len() as u64 + SLOT_BYTES
    }
}

impl BlockCache {
    pub(super) fn new(capacity: u64) -> Self {
        Self(Mutex::new(Ring { capacity, ..Ring::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block `block` of the table with `owner`, if it is here.
    pub(super) fn lookup(&self, owner: &Arc<Slots>, block: usize) -> Option<Bytes> {
        let number = owner.0[block].load(Ordering::Relaxed);
        let mut ring = self.lock();
        let slot = match number {
            NO_SLOT => None,
            number => ring.slots.get_mut(number as usize).and_then(Option::as_mut),
        };
        let found = slot
            .filter(|slot| {
                slot.block as usize == block && slot.owner.as_ptr() == Arc::as_ptr(owner)
            })
            .map(|slot| {
                slot.was_used = true;
                slot.content.clone()
            });
        match found {
            Some(_) => ring.hit_count += 1,
            None => ring.miss_count += 1,
        }
        found
    }

    /// Keeps a block that [`BlockCache::lookup`] did not find.
    pub(super) fn insert(&self, owner: &Arc<Slots>, block: usize, content: Bytes) {
        let owner_of_slot = Arc::downgrade(owner);
        let slot = Slot { owner: owner_of_slot, block: block as u32, content, was_used: false };
        let mut ring = self.lock();
        let cost = slot.cost();
        if cost > ring.capacity {
            return;
        }
        ring.used += cost;
        ring.evict();
        let number = match ring.free.pop() {
            Some(number) => number,
            None => {
                ring.slots.push(None);
                ring.slots.len() as u32 - 1
            }
        };
        ring.slots[number as usize] = Some(slot);
        owner.0[block].store(number, Ordering::Relaxed);
    }

    /// Changes the budget.
    pub(super) fn set_capacity(&self, capacity: u64) {
        let mut ring = self.lock();
        ring.capacity = capacity;
        ring.evict();
    }

    /// Memory in use.
    pub(super) fn used(&self) -> u64 {
        self.lock().used
    }

    /// How many lookups found their block, and how many did not.
    pub(super) fn hits_and_misses(&self) -> (u64, u64) {
        let ring = self.lock();
        (ring.hit_count, ring.miss_count)
    }
}

impl Ring {
    fn evict(&mut self) {
        let mut steps_left = 2 * self.slots.len();
        while self.used > self.capacity && steps_left > 0 {
            steps_left -= 1;
            let at = self.hand;
            self.hand = (at + 1) % self.slots.len();
            let Some(slot) = &mut self.slots[at] else { continue };
            // Of a table that is gone nobody will ask again.
            let is_orphan = slot.owner.strong_count() == 0;
            if slot.was_used && !is_orphan {
                slot.was_used = false;
                continue;
            }
            self.used -= slot.cost();
            self.slots[at] = None;
            self.free.push(at as u32);
        }
    }
}
