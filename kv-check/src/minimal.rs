//! The fewest operations that have no order.
//!
//! A violation is explained by a few operations of a history and not by all of it. Let a set of
//! operations be *bad* if they have no order whatever the others did; each type of object says what
//! that means. It must be *monotone*: a set with a bad subset is bad. Then a bad set of which no
//! operation can be left out, a minimal one, is found with few questions, in the manner of QuickXplain
//! (Junker, AAAI 2004):
//!
//! Put the operations into a list, those first that one would like to see. Find the shortest part
//! from the front that is bad together with those already chosen. Its last operation belongs to each
//! bad subset of it; choose that one, cut the list before it, and repeat until the chosen ones are bad
//! by themselves. Without any one of them the set is not bad, because it was not when that one was
//! chosen, and all others that were chosen later come from the part before it.
//!
//! The length of a part is found by doubling and then by halving, so `m` operations out of a list of
//! `n` need about `2 m log n` questions, most of them about small sets.

/// How many questions are asked before a set is taken as it is.
const QUESTIONS_MAX: u32 = 2_000;

/// A bad set of operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bad {
    /// Their places in the list of operations, in increasing order.
    pub(crate) places: Vec<usize>,
    /// Whether without any one of them the others are certainly not bad.
    pub(crate) is_minimal: bool,
}

/// How often `is_bad` may not know before a set is taken as it is: each time costs a whole budget.
const UNDECIDED_MAX: u32 = 8;

/// The length of the shortest part from the front of the list, which is bad as a whole, that is known to
/// be bad; none if that takes too long.
pub(crate) fn shortest(
    list: &[usize],
    is_bad: impl FnMut(&[usize]) -> Option<bool>,
) -> Option<usize> {
    Search::new(list.to_vec(), is_bad).shortest()
}

/// Finds a minimal bad set among `list`, which is bad as a whole and lists what one would like to see
/// first.
///
/// `is_bad` says whether a set of places in increasing order is bad, or none if it cannot decide that.
pub(crate) fn minimal(list: Vec<usize>, is_bad: impl FnMut(&[usize]) -> Option<bool>) -> Bad {
    let mut search = Search::new(list, is_bad);
    let is_complete = search.choose();
    let mut places = search.chosen.clone();
    places.append(&mut search.list);
    places.sort_unstable();
    let is_minimal = is_complete && search.is_minimal(&places);
    Bad { places, is_minimal }
}

struct Search<F> {
    list: Vec<usize>,
    chosen: Vec<usize>,
    is_bad: F,
    questions: u32,
    undecided: u32,
}

impl<F: FnMut(&[usize]) -> Option<bool>> Search<F> {
    fn new(list: Vec<usize>, is_bad: F) -> Self {
        Self { list, chosen: Vec::new(), is_bad, questions: 0, undecided: 0 }
    }

    /// Chooses until what was chosen is bad; `false` if there were too many questions.
    ///
    /// The chosen ones and the list are always bad together.
    fn choose(&mut self) -> bool {
        while let Some(length) = self.shortest() {
            self.list.truncate(length);
            match self.list.pop() {
                Some(last) => self.chosen.push(last),
                None => return true,
            }
        }
        false
    }

    /// The length of the shortest part of the list that is bad together with the chosen ones.
    fn shortest(&mut self) -> Option<usize> {
        if self.asks(0)? {
            return Some(0);
        }
        // The part of length `good` is not known to be bad, that of length `bad` is.
        let (mut good, mut bad) = (0, self.list.len());
        let mut step = 4;
        while good + 1 < bad {
            let planned = good + step;
            let length = if planned < bad { planned } else { good.midpoint(bad) };
            if self.asks(length)? {
                (bad, step) = (length, bad);
            } else {
                good = length;
                step = step.saturating_mul(2);
            }
        }
        Some(bad)
    }

    /// Whether the first `length` of the list are known to be bad together with the chosen ones.
    fn asks(&mut self, length: usize) -> Option<bool> {
        if self.questions == QUESTIONS_MAX || self.undecided == UNDECIDED_MAX {
            return None;
        }
        self.questions += 1;
        let mut places = self.chosen.clone();
        places.extend(&self.list[..length]);
        places.sort_unstable();
        let answer = (self.is_bad)(&places);
        self.undecided += u32::from(answer.is_none());
        Some(answer == Some(true))
    }

    /// Whether no place can be left out, for certain.
    fn is_minimal(&mut self, places: &[usize]) -> bool {
        let is_needed = |left_out: &usize| {
            let others: Vec<_> = places.iter().copied().filter(|at| at != left_out).collect();
            (self.is_bad)(&others) == Some(false)
        };
        places.iter().all(is_needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets are bad if they include one of `bad`.
    #[track_caller]
    fn check(list: &[usize], bad: &[&[usize]], expected: &[usize]) {
        let includes = |set: &[usize], part: &[usize]| part.iter().all(|at| set.contains(at));
        let is_bad = |set: &[usize]| Some(bad.iter().any(|part| includes(set, part)));
        let found = minimal(list.to_vec(), is_bad);
        assert_eq!((&found.places[..], found.is_minimal), (expected, true));
    }

    #[test]
    fn what_is_listed_first_is_preferred() {
        let list: Vec<usize> = (0..100).rev().collect();
        check(&list, &[&[3, 50, 98]], &[3, 50, 98]);
        check(&list, &[&[3, 50, 98], &[60, 97]], &[60, 97]);
        check(&list, &[&[0]], &[0]);
        check(&list, &[&[]], &[]);
        check(&list, &[&list], &(0..100).collect::<Vec<_>>());
        check(&[7], &[&[7]], &[7]);
    }

    #[test]
    fn few_questions_are_asked() {
        let mut questions = 0;
        let found = minimal((0..1_000_000).collect(), |set| {
            questions += 1;
            Some(set.contains(&10) && set.contains(&999_999) && set.contains(&500_000))
        });
        assert_eq!(found, Bad { places: vec![10, 500_000, 999_999], is_minimal: true });
        assert!(questions < 150, "{questions}");
    }

    #[test]
    fn what_cannot_be_decided_is_not_called_minimal() {
        let list: Vec<usize> = (0..10).collect();
        let found = minimal(list.clone(), |set| (set.len() > 5).then(|| set.contains(&3)));
        assert!(!found.is_minimal && found.places.contains(&3), "{found:?}");
        let found = minimal((0..QUESTIONS_MAX as usize).collect(), |set| Some(set.len() > 1_990));
        assert!(!found.is_minimal && found.places.len() > 1_990, "{}", found.places.len());
    }
}
