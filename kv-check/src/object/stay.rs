//! Values that are added once and removed at most once: how long each stays in a queue or a stack.
//!
//! A value is *certainly there* from the completion of its addition to the invocation of its
//! removal. An addition whose value is removed is complete at the latest when the removal is, and a
//! removal begins at the earliest when the addition does.
//!
//! # Removals that find nothing
//!
//! Such a removal needs a moment within it at which no value is certainly there. That is also
//! enough. Take one such moment for each of them. Values whose removal had begun by then go before
//! it: both their operations had begun. All others go behind it: the removal had not begun, so the
//! addition was not complete, else the value would certainly be there. So whatever stands before
//! the moment was invoked before it, and whatever stands behind it was completed after it: real
//! time is respected between the parts. What is left is to order the values of each part, which
//! some order of all of them does too, without the others. Any part of a history of a queue or a
//! stack is one, if it has all operations of its values.
//!
//! # Pending operations
//!
//! An addition that nobody saw completed and whose value was not removed is left out, since nothing
//! needs it. A removal that nobody saw completed may have had no effect. So if the rest has an
//! order, all of it has; if not, the rules do not know.

use super::{Call, PENDING, QueueAction, Removal};
use crate::decision::Decision;

/// When a value is removed that never is: after all events.
const NEVER: u32 = PENDING - 1;

/// One value: positions of the events of its addition and removal, and places of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stay {
    pub(super) add: u32,
    pub(super) add_invoked: u32,
    /// At most the end of the removal, if there is one.
    pub(super) add_completed: u32,
    /// None if it is never removed.
    pub(super) remove: Option<u32>,
    /// At least the beginning of the addition.
    pub(super) remove_invoked: u32,
    pub(super) remove_completed: u32,
}

/// What a part of a history came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Its calls stand in the order.
    Ordered,
    /// They have none.
    Impossible,
    /// The steps are used up.
    Spent,
}

/// Whether the calls have an order; nothing if the rules do not know.
///
/// `order` appends the places of calls of some values, which are sorted by their removal, in an
/// order of their own.
pub(super) fn decide(
    calls: &[Call<QueueAction>],
    order: impl FnMut(&[Stay], &mut Vec<usize>) -> Part,
) -> Option<Decision> {
    let mut stays = Stays::default();
    match stays.read(calls) {
        Reading::Ambiguous => return None,
        Reading::Impossible => return Some(Decision::Violated(())),
        Reading::Done => {}
    }
    let mut places = Vec::with_capacity(calls.len());
    match stays.parts(order, &mut places) {
        Part::Ordered => Some(Decision::Holds(Some(places))),
        Part::Impossible => (!stays.is_unsure).then_some(Decision::Violated(())),
        Part::Spent => Some(Decision::Unknown),
    }
}

/// All values, and the removals that found none.
#[derive(Debug, Default)]
struct Stays {
    stays: Vec<Stay>,
    /// Invocation, completion and place of each removal that found nothing.
    empties: Vec<(u32, u32, usize)>,
    /// Whether a removal that nobody saw completed may have had an effect.
    is_unsure: bool,
}

/// What came of reading calls.
enum Reading {
    /// A value was added twice, or nobody knows what a completed removal found.
    Ambiguous,
    /// A value was removed that was not added, or before it was, or twice.
    Impossible,
    Done,
}

impl Stays {
    fn read(&mut self, calls: &[Call<QueueAction>]) -> Reading {
        let value = |call: &Call<QueueAction>| match call.action {
            QueueAction::Add(value) | QueueAction::Remove(Removal::Value(value)) => value as usize,
            QueueAction::Remove(_) => 0,
        };
        // Readers number the values, so the greatest is below the number of calls.
        let count = calls.iter().map(value).max().map_or(0, |greatest| greatest + 1);
        let mut stays: Vec<Option<Stay>> = vec![None; count];
        for (place, call) in (0..).zip(calls) {
            if let QueueAction::Add(value) = call.action {
                let stay = &mut stays[value as usize];
                if stay.is_some() {
                    return Reading::Ambiguous;
                }
                *stay = Some(Stay::new(place, call));
            }
        }
        let mut reading = Reading::Done;
        for (place, call) in calls.iter().enumerate() {
            match call.action {
                QueueAction::Remove(Removal::Value(value)) => {
                    let stay = stays[value as usize].as_mut();
                    if !stay.is_some_and(|stay| stay.remove(place, call)) {
                        reading = Reading::Impossible;
                    }
                }
                QueueAction::Remove(Removal::Empty) => {
                    self.empties.push((call.invoked, call.completed, place));
                }
                QueueAction::Remove(Removal::Unknown) if call.completed == PENDING => {
                    self.is_unsure = true;
                }
                QueueAction::Remove(Removal::Unknown) => return Reading::Ambiguous,
                QueueAction::Add(_) => {}
            }
        }
        let is_there = |stay: &Stay| stay.add_completed != PENDING;
        self.stays = stays.into_iter().flatten().filter(is_there).collect();
        self.stays.sort_unstable_by_key(|stay| (stay.remove_invoked, stay.add));
        reading
    }

    /// Orders the values between one removal that found nothing and the next.
    fn parts(
        &self,
        mut order: impl FnMut(&[Stay], &mut Vec<usize>) -> Part,
        places: &mut Vec<usize>,
    ) -> Part {
        let Some(moments) = self.moments() else { return Part::Impossible };
        let mut rest = &self.stays[..];
        for (moment, place) in moments {
            let (before, behind) =
                rest.split_at(rest.partition_point(|stay| stay.remove_invoked <= moment));
            match order(before, places) {
                Part::Ordered => places.push(place),
                other => return other,
            }
            rest = behind;
        }
        order(rest, places)
    }

    /// For each removal that found nothing: an event within it behind which no value is certainly
    /// there, and its place, in the order of events. Nothing if there is none.
    fn moments(&self) -> Option<Vec<(u32, usize)>> {
        let certain = self.stays.iter().filter(|stay| stay.add_completed < stay.remove_invoked);
        let mut certain: Vec<_> =
            certain.map(|stay| (stay.add_completed, stay.remove_invoked)).collect();
        certain.sort_unstable();
        let mut covered: Vec<(u32, u32)> = Vec::new();
        for (begin, end) in certain {
            match covered.last_mut() {
                Some(last) if begin < last.1 => last.1 = last.1.max(end),
                _ => covered.push((begin, end)),
            }
        }
        let moment = |&(invoked, completed, place): &(u32, u32, usize)| {
            let before = covered.partition_point(|(begin, _)| *begin < invoked);
            let free = covered[..before].last().map_or(invoked, |(_, end)| invoked.max(*end));
            (free < completed).then_some((free, place))
        };
        let mut moments = self.empties.iter().map(moment).collect::<Option<Vec<_>>>()?;
        moments.sort_unstable();
        Some(moments)
    }
}

impl Stay {
    /// A value that is added and not removed.
    fn new(add: u32, call: &Call<QueueAction>) -> Self {
        Self {
            add,
            add_invoked: call.invoked,
            add_completed: call.completed,
            remove: None,
            remove_invoked: NEVER,
            remove_completed: PENDING,
        }
    }

    /// Whether it can be removed by the call at this place.
    fn remove(&mut self, place: usize, call: &Call<QueueAction>) -> bool {
        let is_first = self.remove.is_none();
        self.remove = Some(u32::try_from(place).expect("positions are 32 bits wide"));
        self.remove_invoked = call.invoked.max(self.add_invoked);
        self.remove_completed = call.completed;
        self.add_completed = self.add_completed.min(call.completed);
        is_first && self.add_invoked < call.completed
    }
}

/// Takes one after the other, as long as there is one that may be taken: one that, in both lines,
/// begins before any that is not taken ends. Which of several does not matter: whoever may be taken
/// still may when others are.
///
/// Returns who was taken, in that order. O(n log n).
pub(super) fn take_first(spans: &[[(u32, u32); 2]]) -> Vec<usize> {
    let begins = [0, 1].map(|line| sorted_by(spans.len(), |place| spans[place][line].0));
    let ends = [0, 1].map(|line| sorted_by(spans.len(), |place| spans[place][line].1));
    let (mut begun, mut ended) = ([0; 2], [0; 2]);
    let mut is_taken = vec![false; spans.len()];
    // In how many lines each begins early enough.
    let mut lines = vec![0; spans.len()];
    let (mut ready, mut taken) = (Vec::new(), Vec::new());
    while taken.len() < spans.len() {
        for line in 0..2 {
            while is_taken[ends[line][ended[line]]] {
                ended[line] += 1;
            }
            let end = spans[ends[line][ended[line]]][line].1;
            while let Some(place) = begins[line].get(begun[line])
                && spans[*place][line].0 < end
            {
                begun[line] += 1;
                lines[*place] += 1;
                if lines[*place] == 2 {
                    ready.push(*place);
                }
            }
        }
        let Some(next) = ready.pop() else { break };
        is_taken[next] = true;
        taken.push(next);
    }
    taken
}

/// The first numbers, sorted by a key.
fn sorted_by(count: usize, key: impl Fn(usize) -> u32) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..count).collect();
    numbers.sort_unstable_by_key(|number| key(*number));
    numbers
}
