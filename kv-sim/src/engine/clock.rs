//! What time a process believes it is.
//!
//! The engine's time is true time. A process only ever sees its own clock: true time, shifted by an
//! offset and running a little fast or slow. Its deadlines are stated on its own clock and are
//! turned back into true time here.

use super::rng::{Draw as _, Rng};

const BILLION: i128 = 1_000_000_000;

/// How the clocks of a run are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockProfile {
    /// Largest offset of a process's clock, in nanoseconds.
    pub offset_max: u64,
    /// Largest drift of a process's clock, in parts per billion, either way.
    pub drift_max: u64,
}

impl Default for ClockProfile {
    /// Offsets of up to an hour, because no process may compare its clock with another's; no drift.
    fn default() -> Self {
        Self { offset_max: 3_600_000_000_000, drift_max: 0 }
    }
}

/// One process's clock: a line that begins anew whenever a fault bends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// What it showed at `since`.
    shown: u64,
    /// When the line began, in true time.
    since: u64,
    /// Deviation of its rate, in parts per billion. Above minus a billion: it never goes back.
    drift: i64,
    /// The same without any fault.
    own_drift: i64,
    /// Whether it stands still.
    is_frozen: bool,
}

impl Clock {
    /// Draws a clock.
    pub(crate) fn draw(profile: ClockProfile, rng: &mut Rng) -> Self {
        let offset = rng.between(0, profile.offset_max);
        let drift = rng.between(0, profile.drift_max * 2) as i64 - profile.drift_max as i64;
        Self { shown: offset, since: 0, drift, own_drift: drift, is_frozen: false }
    }

    /// What this clock shows at true time `now`.
    pub(crate) fn local(&self, now: u64) -> u64 {
        if self.is_frozen { self.shown } else { self.running(now) }
    }

    /// What it would show if it did not stand still.
    fn running(&self, now: u64) -> u64 {
        let elapsed = now.saturating_sub(self.since);
        let skew = if self.drift == 0 {
            0
        } else {
            (i128::from(elapsed) * i128::from(self.drift) / BILLION) as i64
        };
        (self.shown + elapsed).saturating_add_signed(skew)
    }

    /// The first true time at which this clock shows at least `local`; never, if it stands still
    /// before that.
    pub(crate) fn true_time(&self, local: u64) -> u64 {
        let elapsed = local.saturating_sub(self.shown);
        if self.is_frozen && elapsed > 0 {
            return u64::MAX;
        }
        if self.drift == 0 || local == u64::MAX {
            return self.since.saturating_add(elapsed);
        }
        let guess = i128::from(elapsed) * BILLION / (BILLION + i128::from(self.drift));
        let mut guess = self.since + guess as u64;
        // Rounding is off by a few nanoseconds at most.
        while self.local(guess) < local {
            guess += 1;
        }
        guess
    }

    /// Begins a new line where the clock is.
    fn bend(&mut self, now: u64) {
        self.shown = self.local(now);
        self.since = now;
    }

    /// Gives it another rate, in parts per billion.
    pub(crate) fn set_drift(&mut self, now: u64, drift: i64) {
        assert!(i128::from(drift) > -BILLION, "a clock never goes back");
        self.bend(now);
        self.drift = drift;
    }

    /// Makes it stand still.
    pub(crate) fn freeze(&mut self, now: u64) {
        self.bend(now);
        self.is_frozen = true;
    }

    /// Lets it go on: from where it stood or, if it catches up, from where it would be.
    pub(crate) fn thaw(&mut self, now: u64, catches_up: bool) {
        self.shown = if catches_up { self.running(now) } else { self.local(now) };
        self.since = now;
        self.is_frozen = false;
    }

    /// Puts it ahead.
    pub(crate) fn leap(&mut self, now: u64, ahead: u64) {
        self.bend(now);
        self.shown += ahead;
    }

    /// Lets it run as it did before any fault, from where it is.
    pub(crate) fn heal(&mut self, now: u64) {
        if self.is_frozen || self.drift != self.own_drift {
            self.bend(now);
            self.is_frozen = false;
            self.drift = self.own_drift;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_and_not_long_before() {
        for drift in [-500_000, -1, 0, 1, 500_000] {
            let clock = Clock { shown: 17, since: 0, drift, own_drift: drift, is_frozen: false };
            for local in [17, 18, 1_000_000_007, 90_000_000_000] {
                let at = clock.true_time(local);
                assert!(clock.local(at) >= local, "drift {drift}, local {local}");
                assert!(at < 2 || clock.local(at - 2) <= local, "drift {drift}, local {local}");
            }
        }
    }

    const STEADY: Clock =
        Clock { shown: 1_000, since: 0, drift: 0, own_drift: 0, is_frozen: false };

    #[test]
    fn a_bent_clock_goes_on_from_what_it_shows() {
        let mut clock = STEADY;
        clock.set_drift(500, 200_000_000);
        assert_eq!((clock.local(500), clock.local(1_500)), (1_500, 2_700));
        assert_eq!(clock.true_time(2_700), 1_500);
        clock.set_drift(1_500, -200_000_000);
        assert_eq!((clock.local(1_500), clock.local(2_500)), (2_700, 3_500));
        clock.leap(2_500, 10_000);
        assert_eq!((clock.local(2_500), clock.local(3_500)), (13_500, 14_300));
        clock.heal(3_500);
        assert_eq!((clock.local(3_500), clock.local(4_500)), (14_300, 15_300));
    }

    #[test]
    fn a_frozen_clock_reaches_no_deadline_and_may_catch_up() {
        for (catches_up, expected) in [(false, 1_100), (true, 1_600)] {
            let mut clock = STEADY;
            clock.freeze(100);
            assert_eq!((clock.local(100), clock.local(600)), (1_100, 1_100));
            assert_eq!((clock.true_time(1_100), clock.true_time(1_101)), (100, u64::MAX));
            clock.thaw(600, catches_up);
            assert_eq!((clock.local(600), clock.local(700)), (expected, expected + 100));
            assert_eq!(clock.true_time(expected + 100), 700);
        }
    }
}
