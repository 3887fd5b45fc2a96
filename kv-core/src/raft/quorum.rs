//! Majorities.

use alloc::vec::Vec;

use super::configuration::VoteResult;

/// How many of `voter_count` make a majority.
pub(crate) fn majority(voter_count: usize) -> usize {
    voter_count / 2 + 1
}

/// The largest value that a majority has reached, given what each voter has reached.
pub(crate) fn reached_by_majority<T: Ord + Copy>(
    reached: impl IntoIterator<Item = T>,
) -> Option<T> {
    let mut reached: Vec<T> = reached.into_iter().collect();
    reached.sort_unstable_by(|a, b| b.cmp(a));
    reached.get(majority(reached.len()) - 1).copied()
}

/// What the answers of all voters have come to; none is no answer yet. Nobody's votes are lost.
pub(crate) fn vote_result(votes: impl IntoIterator<Item = Option<bool>>) -> VoteResult {
    let (mut granted, mut refused, mut count) = (0, 0, 0);
    for vote in votes {
        count += 1;
        granted += usize::from(vote == Some(true));
        refused += usize::from(vote == Some(false));
    }
    if granted >= majority(count) {
        VoteResult::Won
    } else if count - refused < majority(count) {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}
