//! The fewest operations that explain why a read of a counter is out of [bounds](super::counter).
//!
//! As for any [conflict](super::conflict()), an addition that is left out may have taken effect at any
//! moment or not at all, unless it was invoked after the read was completed: the history is cut there.
//! Say that the read found too little; too much is the same with all signs turned around. The least sum
//! at a moment within the read is then that of
//!
//! - the amounts above zero that are in the set and whose additions are completed, and
//! - the amounts below zero whose additions are left out or have begun.
//!
//! The read is out of bounds as long as it found less than that at all of its moments. The more
//! additions are left out, the less that is, so it is enough to ask of each addition once whether it
//! can be left out as well: whoever cannot at that time cannot later. Those who count from some moment
//! within the read on are asked first, the latest first, so that the least slack of all moments that they
//! change is known at each; then those who count up to some moment within it, the earliest first; then
//! all others, the smallest amount first.
//!
//! O(n log n).

use super::counter::out_of_bounds;
use super::{Call, CounterAction};
use crate::minimal::Bad;

/// The first read to complete that is out of bounds, and it with the additions because of which it is;
/// none if all are within.
pub(crate) fn read_window(calls: &[Call<CounterAction>]) -> Option<(usize, Bad)> {
    let wrong = out_of_bounds(calls).into_iter().next()?;
    let found = i128::from(wrong.found);
    let sign = if found < wrong.low { 1 } else { -1 };
    let mut slack = Slack::new(calls, &calls[wrong.place], sign, found * sign);
    slack.leave_out_late();
    slack.leave_out_early();
    slack.leave_out_any();
    let mut places = slack.kept;
    places.push(wrong.place);
    places.sort_unstable();
    Some((wrong.place, Bad { places, is_minimal: true }))
}

/// How far a read is from what it could find, as additions are left out.
struct Slack {
    /// At each moment of the read, the first at its invocation: how much less the least sum may be.
    moments: Vec<i128>,
    /// What happens between one moment and the next: an amount above zero is completed, or the addition
    /// of one below zero begins; and its place.
    between: Vec<(i128, usize)>,
    /// The amounts above zero that count at all moments, and their places.
    always: Vec<(i128, usize)>,
    /// Those that cannot be left out.
    kept: Vec<usize>,
}

impl Slack {
    fn new(
        calls: &[Call<CounterAction>],
        read: &Call<CounterAction>,
        sign: i128,
        found: i128,
    ) -> Self {
        let (mut least, mut between, mut always) = (0, Vec::new(), Vec::new());
        for (place, call) in calls.iter().enumerate() {
            let CounterAction::Add(amount) = call.action else { continue };
            let amount = i128::from(amount) * sign;
            // From here on the least sum has the amount.
            let event = if amount > 0 { call.completed } else { call.invoked };
            if event < read.invoked {
                least += amount;
                if amount > 0 {
                    always.push((amount, place));
                }
            } else if event < read.completed && amount != 0 {
                between.push((event, amount, place));
            }
        }
        between.sort_unstable();
        let mut moments = vec![least - found - 1];
        for (_, amount, _) in &between {
            least += amount;
            moments.push(least - found - 1);
        }
        let between = between.into_iter().map(|(_, amount, place)| (amount, place)).collect();
        Self { moments, between, always, kept: Vec::new() }
    }

    /// Leaves out amounts above zero that count from some moment on.
    fn leave_out_late(&mut self) {
        let mut least = i128::MAX;
        let mut left_out = vec![0; self.moments.len()];
        for (number, (amount, place)) in self.between.iter().enumerate().rev() {
            least = least.min(self.moments[number + 1]);
            if *amount > 0 {
                if *amount <= least {
                    least -= amount;
                    left_out[number + 1] = *amount;
                } else {
                    self.kept.push(*place);
                }
            }
        }
        let mut sum = 0;
        for (moment, amount) in self.moments.iter_mut().zip(left_out) {
            sum += amount;
            *moment -= sum;
        }
    }

    /// Leaves out amounts below zero that count up to some moment.
    fn leave_out_early(&mut self) {
        let mut least = i128::MAX;
        let mut left_out = vec![0; self.moments.len()];
        for (number, (amount, place)) in self.between.iter().enumerate() {
            least = least.min(self.moments[number]);
            if *amount < 0 {
                if -amount <= least {
                    least += amount;
                    left_out[number] = -amount;
                } else {
                    self.kept.push(*place);
                }
            }
        }
        let mut sum = 0;
        for (moment, amount) in self.moments.iter_mut().zip(left_out).rev() {
            sum += amount;
            *moment -= sum;
        }
    }

    /// Leaves out amounts that count at all moments.
    fn leave_out_any(&mut self) {
        let mut least = self.moments.iter().copied().min().unwrap_or(0);
        self.always.sort_unstable();
        for (amount, place) in &self.always {
            if *amount <= least {
                least -= amount;
            } else {
                self.kept.push(*place);
            }
        }
    }
}
