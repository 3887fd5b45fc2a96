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

/// One process's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    offset: u64,
    drift: i64,
}

impl Clock {
    /// Draws a clock.
    pub(crate) fn draw(profile: ClockProfile, rng: &mut Rng) -> Self {
        let offset = rng.between(0, profile.offset_max);
        let drift = rng.between(0, profile.drift_max * 2) as i64 - profile.drift_max as i64;
        Self { offset, drift }
    }

    /// What this clock shows at true time `now`.
    pub(crate) fn local(&self, now: u64) -> u64 {
        let skew = if self.drift == 0 {
            0
        } else {
            (i128::from(now) * i128::from(self.drift) / BILLION) as i64
        };
        (self.offset + now).saturating_add_signed(skew)
    }

    /// The first true time at which this clock shows at least `local`.
    pub(crate) fn true_time(&self, local: u64) -> u64 {
        let elapsed = local.saturating_sub(self.offset);
        if self.drift == 0 || local == u64::MAX {
            return elapsed;
        }
        let mut guess = (i128::from(elapsed) * BILLION / (BILLION + i128::from(self.drift))) as u64;
        // Rounding is off by a few nanoseconds at most.
        while self.local(guess) < local {
            guess += 1;
        }
        guess
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_and_not_long_before() {
        for drift in [-500_000, -1, 0, 1, 500_000] {
            let clock = Clock { offset: 17, drift };
            for local in [17, 18, 1_000_000_007, 90_000_000_000] {
                let at = clock.true_time(local);
                assert!(clock.local(at) >= local, "drift {drift}, local {local}");
                assert!(at < 2 || clock.local(at - 2) <= local, "drift {drift}, local {local}");
            }
        }
    }
}
