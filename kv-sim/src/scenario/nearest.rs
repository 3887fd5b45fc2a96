//! What somebody may have meant.

/// Suggestions at most.
const SUGGESTIONS_MAX: usize = 3;

/// The candidates that are a few edits away from `word`, nearest first.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (word.chars().count() / 3).max(2);
    let mut near: Vec<(usize, &str)> = candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit || candidate.starts_with(word))
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(SUGGESTIONS_MAX).map(|(_, candidate)| candidate).collect()
}

/// Insertions, deletions and replacements that turn one word into the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, from) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        let candidates = ["happy.toml", "full-load.toml", "hippo.toml"];
        assert_eq!(nearest("hapy.toml", candidates.into_iter()), ["happy.toml", "hippo.toml"]);
        assert!(nearest("zzz", candidates.into_iter()).is_empty());
        assert_eq!(nearest("happy", candidates.into_iter()), ["happy.toml"]);
    }
}
