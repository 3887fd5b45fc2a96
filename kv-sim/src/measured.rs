//! Measures in words, of one run and of many.

use crate::engine::Measures;

/// The measures of a run on one line; empty if nothing was measured.
pub(crate) fn in_words(measures: &Measures) -> String {
    let mut parts = Vec::new();
    let changes = &measures.leader_changes;
    if let Some((group, most)) = changes.iter().max_by_key(|(_, count)| **count) {
        let sum: u64 = changes.values().sum();
        let most = if sum > 0 { format!(", at most {most} ({group})") } else { String::new() };
        parts.push(format!("{sum} leader changes{most}"));
    }
    if let Some(first_writes) = FirstWrites::of(&measures.first_writes_ms) {
        parts.push(first_writes.in_words(measures.first_write_bound_ms));
    }
    parts.extend(deadlocks_in_words(&measures.deadlocks_ms, &measures.deadlocks_calm_ms));
    parts.join("; ")
}

/// How long deadlocks stood, and how long in a row of that nothing was broken; none if there were
/// none.
pub(crate) fn deadlocks_in_words(times_ms: &[f64], calm_ms: &[f64]) -> Option<String> {
    let FirstWrites { count, median, .. } = FirstWrites::of(times_ms)?;
    let calm_p99 = FirstWrites::of(calm_ms)?.p99;
    let [most, calm_most] = [times_ms, calm_ms].map(|all| all.iter().copied().fold(0.0, f64::max));
    Some(format!(
        "deadlock broken: median {median:.0} ms, at most {most:.0} ms, {count} times; \
         in calm p99 {calm_p99:.0} ms, at most {calm_most:.0} ms"
    ))
}

/// The distribution of times to the first write after a heal, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FirstWrites {
    pub(crate) count: usize,
    pub(crate) median: f64,
    pub(crate) p99: f64,
}

impl FirstWrites {
    /// None of nothing.
    pub(crate) fn of(times: &[f64]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        // The nearest rank: the least time that this share of all do not exceed.
        let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1);
        Some(Self { count: sorted.len(), median: *rank(50)?, p99: *rank(99)? })
    }

    /// Whether the 99th percentile is above the bound.
    pub(crate) fn exceeds(&self, bound: Option<f64>) -> bool {
        bound.is_some_and(|bound| self.p99 > bound)
    }

    pub(crate) fn in_words(self, bound: Option<f64>) -> String {
        let Self { count, median, p99 } = self;
        let bound = bound.map(|bound| format!(" (bound {bound:.0} = 2 x election_max)"));
        format!(
            "first write after heal: median {median:.0} ms, p99 {p99:.0} ms{}, {count} times",
            bound.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        assert_eq!(FirstWrites::of(&[]), None);
        let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let all = FirstWrites::of(&times).unwrap();
        assert_eq!((all.count, all.median, all.p99), (200, 100.0, 198.0));
        assert!(all.exceeds(Some(197.5)) && !all.exceeds(Some(198.0)) && !all.exceeds(None));
        let one = FirstWrites::of(&[7.0]).unwrap();
        assert_eq!((one.median, one.p99), (7.0, 7.0));
    }

    #[test]
    fn words_name_the_worst_group_and_the_bound() {
        let measures = Measures {
            leader_changes: BTreeMap::from([("s0".into(), 1), ("s1".into(), 3)]),
            first_writes_ms: vec![12.4],
            first_write_bound_ms: Some(4_000.0),
            deadlocks_ms: vec![310.2, 200.0, 100.0],
            deadlocks_calm_ms: vec![150.0, 200.0, 0.0],
        };
        let expected = "4 leader changes, at most 3 (s1); first write after heal: median 12 ms, \
                        p99 12 ms (bound 4000 = 2 x election_max), 1 times; \
                        deadlock broken: median 200 ms, at most 310 ms, 3 times; \
                        in calm p99 200 ms, at most 200 ms";
        assert_eq!(in_words(&measures), expected);
        assert_eq!(in_words(&Measures::default()), "");
    }
}
