//! Blocks of values that cas lead from one to the next, and their order.

use super::values::{NONE, PENDING, Value, Values};

/// How far blocks are moved one by one on the average, before they are sorted in another way.
const MOVES_MAX: usize = 16;

/// A block, by what counts for the others.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// Its first value.
    first: u32,
    /// The earliest completion in it.
    earliest: u32,
    /// The latest invocation.
    latest: u32,
    /// When the earliest and the latest operation were both over, as far as that is cheap to say.
    shown: u32,
}

impl Block {
    fn left(&self) -> u32 {
        self.earliest.min(self.latest)
    }

    fn right(&self) -> u32 {
        self.earliest.max(self.latest)
    }

    /// Whether something in it saw the value after something else was over.
    fn is_forward(&self) -> bool {
        self.earliest < self.latest
    }
}

/// The first values of all blocks in their order; or, if they have none, where that may show: the
/// position of an event.
pub(super) fn order(values: &Values) -> Result<Vec<u32>, usize> {
    let mut shown = values.unexplained;
    let mut blocks = Vec::new();
    let (mut taken, mut in_blocks) = (0_usize, 0_usize);
    for (first, value) in (0..).zip(&values.values) {
        taken += usize::from(value.is_taken);
        if value.is_taken && value.saw == NONE {
            let (block, length) = block(values, first, &mut shown);
            in_blocks += length;
            blocks.push(block);
        }
    }
    sort(&mut blocks);
    shown = shown.min(conflict(&blocks));
    if shown != PENDING {
        // Times are positions counted from 1.
        return Err(shown as usize - 1);
    }
    // Cas that saw what they lead to have no first value.
    if in_blocks < taken {
        return Err(usize::MAX);
    }
    Ok(blocks.into_iter().map(|block| block.first).collect())
}

/// Sorts the blocks by their left ends.
///
/// They come in the order in which their values were first spoken of. Unless many operations run at
/// the same time, each is but a few places from where it belongs, and is moved there.
fn sort(blocks: &mut [Block]) {
    let mut moves = 0;
    for from in 1..blocks.len() {
        let block = blocks[from];
        let mut to = from;
        while to > 0 && block.left() < blocks[to - 1].left() {
            blocks[to] = blocks[to - 1];
            to -= 1;
        }
        blocks[to] = block;
        moves += from - to;
        if moves > MOVES_MAX * blocks.len() {
            return blocks.sort_unstable_by_key(Block::left);
        }
    }
}

/// The block that begins with `first`, and how many values it has. Lowers `shown` if it disagrees
/// with real time.
fn block(values: &Values, first: u32, shown: &mut u32) -> (Block, usize) {
    let mut block = Block { first, earliest: PENDING, latest: 0, shown: 0 };
    let (mut at, mut length) = (first, 0);
    loop {
        let value = &values.values[at as usize];
        for (ended, begun) in [(value.ended, value.begun), (value.first_seen, value.last_seen)] {
            if ended < block.latest {
                *shown = (*shown).min(over(value).max(ended));
            }
            block.earliest = block.earliest.min(ended);
            block.latest = block.latest.max(begun);
        }
        block.shown = block.shown.max(over(value));
        length += 1;
        if value.next == NONE {
            return (block, length);
        }
        at = value.next;
    }
}

/// When the write of the value was over and someone had seen it, as far as that ever was.
fn over(value: &Value) -> u32 {
    match (value.ended, value.first_seen) {
        (PENDING, PENDING) => 0,
        (PENDING, other) | (other, PENDING) => other,
        (one, other) => one.max(other),
    }
}

/// The least time at which two blocks may be seen to be in conflict; [`PENDING`] if none are.
///
/// `blocks` are sorted by their left ends.
fn conflict(blocks: &[Block]) -> u32 {
    let mut shown = PENDING;
    // Of the forward zones so far, the one that ends last.
    let mut held: Option<&Block> = None;
    for block in blocks {
        if let Some(held) = held
            && block.left() < held.right()
            && (block.is_forward() || block.right() < held.right())
        {
            shown = shown.min(held.latest.max(block.latest).max(held.shown).max(block.shown));
        }
        if block.is_forward() && held.is_none_or(|held| held.right() < block.right()) {
            held = Some(block);
        }
    }
    shown
}

/// The values of a block, in order.
pub(super) fn chain(values: &Values, first: u32) -> impl Iterator<Item = u32> + '_ {
    std::iter::successors(Some(first), |at| {
        let next = values.values[*at as usize].next;
        (next != NONE).then_some(next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::Rng;

    #[test]
    fn blocks_are_sorted_however_far_they_are_from_their_places() {
        for distance in [1, 5, 1_000] {
            let mut rng = Rng(distance as u64);
            let block = |number: usize| {
                let earliest = (number + rng.below(distance)) as u32;
                Block { first: number as u32, earliest, latest: PENDING, shown: 0 }
            };
            let mut blocks: Vec<_> = (0..1_000).map(block).collect();
            let mut lefts: Vec<_> = blocks.iter().map(Block::left).collect();
            lefts.sort_unstable();
            sort(&mut blocks);
            assert_eq!(blocks.iter().map(Block::left).collect::<Vec<_>>(), lefts);
        }
    }
}
