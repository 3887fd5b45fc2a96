//! Majorities.

use alloc::vec::Vec;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the definition says: the largest value that at least a majority is at or above.
    fn brute_force(reached: &[u8]) -> Option<u8> {
        let enough =
            |value: u8| reached.iter().filter(|r| **r >= value).count() > reached.len() / 2;
        reached.iter().copied().filter(|value| enough(*value)).max()
    }

    #[test]
    fn rule_c56_majorities_of_all_sizes_match_the_definition() {
        for size in 0..=7_u32 {
            for case in 0..4_u32.pow(size) {
                let reached: Vec<u8> = (0..size).map(|at| (case >> (2 * at) & 3) as u8).collect();
                assert_eq!(
                    reached_by_majority(reached.clone()),
                    brute_force(&reached),
                    "{reached:?}"
                );
            }
        }
    }
}
