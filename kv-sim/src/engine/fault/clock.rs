//! Faults that strike clocks.
//!
//! A process sees a monotonic clock only, and such a clock never goes back while the process lives.
//! So it may run fast or slow, stand still, or leap ahead. Wall clocks, which may do worse, are read
//! by nobody.

use super::{Action, FaultKind, Nemesis, Strike, Target, View, names};
use crate::engine::rng::{Draw as _, MILLION};

/// The deviation of a bad quartz, in parts per million. Half of the drifts are no larger.
const QUARTZ_DRIFT_MAX: u32 = 1_000;

impl Nemesis {
    /// A clock gets another rate, which it keeps until it is struck again.
    pub(super) fn clock_drift(&mut self, view: &View, drift_max: u32) -> Strike {
        let victim = self.rng.index(view.running.len()) as u16;
        let is_small = self.rng.chance(MILLION / 2);
        let most = if is_small { drift_max.min(QUARTZ_DRIFT_MAX) } else { drift_max };
        let drift = self.rng.between(0, u64::from(most)) as i32;
        let drift = if self.rng.chance(MILLION / 2) { drift } else { -drift };
        let detail = format!("{} by {drift} ppm", names(&[victim]));
        Strike { detail, begin: vec![Action::Drift(victim, drift)], later: Vec::new() }
    }

    /// Half of the time the clock then goes on from where it stood, else it shows at once what it
    /// would have shown.
    pub(super) fn clock_freeze(&mut self, view: &View, duration: u64) -> Strike {
        let target = self.clock_target(view);
        let victim = self.one_of(view, target).expect("there is a leader if one is asked for");
        let catches_up = self.rng.chance(MILLION / 2);
        let later = vec![(self.rng.around(duration), vec![Action::Thaw(victim, catches_up)])];
        let detail =
            format!("{}{}", names(&[victim]), if catches_up { ", catches up" } else { "" });
        Strike { detail, begin: vec![Action::Freeze(victim)], later }.ending(FaultKind::ClockFreeze)
    }

    pub(super) fn clock_jump(&mut self, view: &View, ahead: u64) -> Strike {
        let target = self.clock_target(view);
        let victim = self.one_of(view, target).expect("there is a leader if one is asked for");
        let ahead = self.rng.around(ahead);
        let detail = format!("{} by {} ms", names(&[victim]), ahead / 1_000_000);
        Strike { detail, begin: vec![Action::Leap(victim, ahead)], later: Vec::new() }
    }

    /// Leaders half of the time, as far as there are any: their clocks matter most.
    fn clock_target(&mut self, view: &View) -> Target {
        let wants_leader = self.rng.chance(MILLION / 2);
        if wants_leader && !view.leaders.is_empty() { Target::Leader } else { Target::Any }
    }
}
