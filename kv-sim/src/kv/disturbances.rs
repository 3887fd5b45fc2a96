//! When something was broken, and when nothing was: what takes time only then is the store's own
//! slowness.

/// The times at which something was broken. Times are true times in nanoseconds.
#[derive(Debug)]
pub(super) struct Disturbances {
    /// How long it is felt afterwards: members find new leaders, and clients find those.
    settle: u64,
    /// From its begin to its end, in order.
    past: Vec<(u64, u64)>,
    /// Something has been broken since then.
    since: Option<u64>,
}

impl Disturbances {
    pub(super) fn new(settle: u64) -> Self {
        Self { settle, past: Vec::new(), since: None }
    }

    pub(super) fn settle(&self) -> u64 {
        self.settle
    }

    /// A fault has struck or ended, after which `lasting` of them last.
    pub(super) fn on_fault(&mut self, now: u64, lasting: u32) {
        let begin = *self.since.get_or_insert(now);
        if lasting == 0 {
            self.past.push((begin, now));
            self.since = None;
        }
    }

    /// The longest time in a row, of that from `begin` to `end`, in which nothing was broken, or had
    /// been a short time before; moments of `others` count as broken too.
    pub(super) fn longest_calm(
        &self,
        begin: u64,
        end: u64,
        others: impl IntoIterator<Item = u64>,
    ) -> u64 {
        let now = self.since.map(|since| (since, u64::MAX - self.settle));
        let moments = others.into_iter().map(|at| (at, at));
        let mut broken: Vec<(u64, u64)> =
            self.past.iter().copied().chain(now).chain(moments).collect();
        broken.sort_unstable();
        let (mut calm_since, mut longest) = (begin, 0);
        for (from, to) in broken {
            longest = longest.max(from.min(end).saturating_sub(calm_since));
            calm_since = calm_since.max(to + self.settle);
        }
        longest.max(end.saturating_sub(calm_since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Faults from 10 to 14 s, of which one overlaps the other, one moment at 20 s, and one from 30 s
    /// on.
    fn disturbances() -> Disturbances {
        let mut disturbances = Disturbances::new(2 * SECOND);
        for (at, lasting) in [(10, 1), (11, 2), (12, 1), (14, 0), (20, 0), (30, 1)] {
            disturbances.on_fault(at * SECOND, lasting);
        }
        disturbances
    }

    #[test]
    fn calm_lasts_until_the_next_fault_and_begins_when_the_last_has_settled() {
        let calm = |begin: u64, end: u64| {
            disturbances().longest_calm(begin * SECOND, end * SECOND, []) / SECOND
        };
        assert_eq!(calm(3, 5), 2);
        assert_eq!(calm(3, 12), 7);
        assert_eq!(calm(11, 13), 0);
        assert_eq!(calm(11, 16), 0);
        assert_eq!(calm(11, 17), 1);
        assert_eq!(calm(17, 19), 2);
        assert_eq!(calm(19, 29), 7);
        assert_eq!(calm(11, 29), 7);
        assert_eq!(calm(31, 99), 0);
    }

    #[test]
    fn other_moments_end_a_calm_too() {
        let calm = |others: &[u64]| {
            let others = others.iter().map(|at| at * SECOND);
            disturbances().longest_calm(SECOND, 9 * SECOND, others) / SECOND
        };
        assert_eq!(calm(&[]), 8);
        assert_eq!(calm(&[4]), 3);
        assert_eq!(calm(&[8, 4, 30]), 3);
    }
}
