//! A set that grows, and is read as a whole.
//!
//! # All reads
//!
//! Where each element is added once, reads show the order. In every order that explains them, of
//! two sets that were found the smaller one was found first, and is part of the larger one. The
//! additions of what is only in the larger one stand between, those of what was never found behind
//! all reads. So the calls fall into groups whose order is given: reads of the smallest set, the
//! additions up to the next one, its reads, and so on. Within a group all orders are equal, so they
//! come by invocation, and the calls have an order exactly if this one respects real time. A pending
//! addition that was not found is left out. O(n log n), and one look at each element of each read.
//!
//! # The last read
//!
//! Jepsen's `set` only asks what is there in the end: see [`last_read`].

use std::collections::BTreeSet;

use super::{Call, Object, PENDING, respects_real_time};
use crate::decision::Decision;
use crate::names::Names;

/// An operation of a set. Elements are numbers; there is an array as long as the greatest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum SetAction {
    /// Adds an element.
    Add(u32),
    /// Reads all, in increasing order, each as often as it was found; `None` if nobody knows what.
    Read(Option<Vec<u32>>),
}

/// A set, empty at first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GrowSet;

impl Object for GrowSet {
    type State = BTreeSet<u32>;
    type Action = SetAction;

    fn initial(&self) -> BTreeSet<u32> {
        BTreeSet::new()
    }

    fn step(&self, state: &BTreeSet<u32>, action: &SetAction) -> Option<BTreeSet<u32>> {
        let mut state = state.clone();
        self.apply(&mut state, action).then_some(state)
    }

    fn apply(&self, state: &mut BTreeSet<u32>, action: &SetAction) -> bool {
        match action {
            SetAction::Add(element) => {
                state.insert(*element);
                true
            }
            SetAction::Read(Some(found)) => found.iter().eq(state.iter()),
            SetAction::Read(None) => true,
        }
    }

    fn bytes(&self, state: &Self::State) -> usize {
        state.len() * 2 * size_of::<u32>()
    }

    fn is_observation(&self, action: &SetAction) -> bool {
        matches!(action, SetAction::Read(_))
    }

    fn describe(&self, action: &SetAction, names: &Names) -> (String, String) {
        match action {
            SetAction::Add(element) => (format!("add {}", names.of(*element)), String::new()),
            SetAction::Read(None) => ("read".to_owned(), "unknown".to_owned()),
            SetAction::Read(Some(found)) => {
                let found: Vec<_> = found.iter().map(|element| names.of(*element)).collect();
                ("read".to_owned(), format!("[{}]", found.join(" ")))
            }
        }
    }
}

/// Whether the calls have an order; nothing if an element is added twice, or nobody knows what a
/// completed read found.
pub(crate) fn decide(calls: &[Call<SetAction>]) -> Option<Decision> {
    let adders = Adders::new(calls)?;
    let mut reads = Vec::new();
    for (place, call) in calls.iter().enumerate() {
        match &call.action {
            SetAction::Read(Some(found)) => reads.push((found, call.invoked, place)),
            SetAction::Read(None) if call.completed != PENDING => return None,
            SetAction::Read(None) | SetAction::Add(_) => {}
        }
    }
    reads.sort_unstable_by_key(|(found, invoked, _)| (found.len(), *invoked));
    let decision = adders.order(calls, &reads).filter(|order| respects_real_time(calls, order));
    Some(decision.map_or(Decision::Violated(()), |order| Decision::Holds(Some(order))))
}

/// For each element: the place of the call that adds it.
struct Adders(Vec<Option<u32>>);

impl Adders {
    /// Nothing if an element is added twice.
    fn new(calls: &[Call<SetAction>]) -> Option<Self> {
        let mut adders = Vec::new();
        for (place, call) in (0..).zip(calls) {
            let SetAction::Add(element) = call.action else { continue };
            let element = element as usize;
            if adders.len() <= element {
                adders.resize(element + 1, None);
            }
            if adders[element].replace(place).is_some() {
                return None;
            }
        }
        Some(Self(adders))
    }

    /// The only order of groups, the smallest read first. Nothing if there is none.
    fn order(
        mut self,
        calls: &[Call<SetAction>],
        reads: &[(&Vec<u32>, u32, usize)],
    ) -> Option<Vec<usize>> {
        let mut order = Vec::with_capacity(calls.len());
        let mut known: &[u32] = &[];
        for (found, _, place) in reads {
            let begin = order.len();
            let mut before = known.iter().peekable();
            for element in *found {
                if before.next_if_eq(&element).is_none() {
                    // Whoever is found twice, or comes back, is not there any more.
                    let add = self.0.get_mut(*element as usize)?.take()?;
                    order.push(add as usize);
                }
            }
            // The rest of what was known is missing.
            if before.next().is_some() {
                return None;
            }
            order[begin..].sort_unstable_by_key(|place| calls[*place].invoked);
            order.push(*place);
            known = found;
        }
        let begin = order.len();
        let left = self.0.into_iter().flatten().map(|place| place as usize);
        order.extend(left.filter(|place| calls[*place].completed != PENDING));
        order[begin..].sort_unstable_by_key(|place| calls[*place].invoked);
        Some(order)
    }
}

/// What is wrong with the last read, as elements in increasing order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LastRead {
    /// Not there, though added before the read began, or before something that is there.
    pub(crate) lost: Vec<u32>,
    /// There, and nobody had begun to add it when the read was completed.
    pub(crate) unexpected: Vec<u32>,
    /// There more than once.
    pub(crate) duplicated: Vec<u32>,
}

/// Judges the last completed read alone; nothing if there is none.
///
/// It takes effect at the earliest when the addition of the latest element that it found has begun.
/// What is completed by then must be there, and nothing else need be.
pub(crate) fn last_read(calls: &[Call<SetAction>]) -> Option<LastRead> {
    let reads = calls.iter().filter_map(|call| match &call.action {
        SetAction::Read(Some(found)) => Some((call, found)),
        SetAction::Read(None) | SetAction::Add(_) => None,
    });
    let (read, found) = reads.max_by_key(|(call, _)| call.completed)?;
    let adds = || {
        calls.iter().filter_map(|call| match call.action {
            SetAction::Add(element) => Some((element, call.invoked, call.completed)),
            SetAction::Read(_) => None,
        })
    };
    // The first addition of each element that may be there.
    let mut begun: Vec<_> = adds()
        .filter(|(_, invoked, _)| *invoked < read.completed)
        .map(|(element, invoked, _)| (element, invoked))
        .collect();
    begun.sort_unstable();
    begun.dedup_by_key(|(element, _)| *element);
    let mut result = LastRead::default();
    let mut effect = read.invoked;
    for element in found {
        match begun.binary_search_by_key(element, |(element, _)| *element) {
            Ok(at) => effect = effect.max(begun[at].1),
            Err(_) => result.unexpected.push(*element),
        }
    }
    result.unexpected.dedup();
    let surely = adds().filter(|(_, _, completed)| *completed < effect);
    let is_lost = |element: &u32| found.binary_search(element).is_err();
    result.lost.extend(surely.map(|(element, ..)| element).filter(is_lost));
    result.lost.sort_unstable();
    result.lost.dedup();
    let twice = found.windows(2).filter(|pair| pair[0] == pair[1]);
    result.duplicated.extend(twice.map(|pair| pair[0]));
    result.duplicated.dedup();
    Some(result)
}
