//! Registers whose values are written once: decided by zones, without a search.
//!
//! If no value is written twice, every result says which write it saw. A write and the operations
//! that saw its value form a *cluster*, and in any order they stand together, as another write
//! between them would hide the value. So only the order of clusters is to be found
//! (Gibbons and Korach, "Testing shared memories", SICOMP 1997, section 4).
//!
//! Let `f` be the earliest completion in a cluster and `s` the latest invocation. Cluster `A` must
//! be before `B` exactly if some operation of `A` completed before one of `B` was invoked, that is
//! if `f(A) < s(B)`. The *zone* of a cluster lies between the two; it is *forward* if `f < s`: then
//! the register held the value all that time. Clusters have an order exactly if
//!
//! - no two forward zones overlap, and
//! - no other zone lies inside a forward one,
//!
//! and then the order of the zones' left ends is one. (If `A` must be before `B`, and neither
//! of the two is broken, then the left end of `A` is left of that of `B`: see which of both are
//! forward.)
//!
//! # Compare and set
//!
//! A cas that applied saw one value and wrote another, with nothing between. So the cluster of what
//! it wrote stands right behind the cluster of what it saw, and both are one *block*. A block has
//! its own order: the first write, those who saw its value, the first cas, those who saw what that
//! wrote, and so on. It must agree with real time; and to others a block is what a cluster is, since
//! the argument above speaks only of the earliest completion, the latest invocation, and of
//! standing together.
//!
//! Two cas that saw the same value have no order, nor have cas that saw what they lead to.
//!
//! # What nobody completed
//!
//! An operation of unknown outcome that wrote a value which is seen certainly took effect, by the
//! same argument, and one whose value nobody saw can be left out of any order. What it leaves is
//! a value that was seen by none but those who are left out, too.
//!
//! # Absence
//!
//! Nothing is what a key holds at first, and what a delete leaves, so it is written more than once.
//! But mostly real time leaves only one of these to an operation that found nothing: a source that
//! began before the operation ended, with no write entirely between the two. If it leaves
//! several, zones do not know.
//!
//! # What zones do not see
//!
//! That a cas was refused, or that a delete found something, says which value was *not* there. Zones
//! ignore it. If there is no order without these, there is none with them. Otherwise they are put
//! into the order at the first moment at which they are right, and if there is none, zones do not
//! know.
//!
//! O(n log n), and the logarithm is that of a sort of integers.
//!
//! # What this leaves out
//!
//! Versions. They order the writes, so there is a [rule of their own](super::versions).

mod absence;
mod blocks;
mod values;
mod witness;

#[cfg(test)]
mod tests;

use crate::decision::Decision;
use crate::operation::Operation;
use values::Values;

/// Decides whether the operations have an order, as far as they happened before the event at `cut`;
/// none if zones do not know.
///
/// If there is none, the result is a guess where that shows: the position of a completion.
pub(super) fn decide(operations: &[Operation<'_>], cut: usize) -> Option<Decision<usize>> {
    let values = Values::new(operations, cut)?;
    Some(match blocks::order(&values) {
        Ok(blocks) => Decision::Holds(Some(witness::order(operations, &values, &blocks)?)),
        Err(conflict) => Decision::Violated(conflict),
    })
}
