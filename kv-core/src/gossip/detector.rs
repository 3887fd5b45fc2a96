//! Phi-accrual failure detector (Hayashibara et al., "The phi accrual failure detector", SRDS
//! 2004).
//!
//! The detector does not say "dead" or "alive" but how surprising the silence of a node is. It
//! keeps the times between the last signs of life, takes them for samples of a normal distribution,
//! and puts out `phi = -log10(P(silence lasts longer than this))`. At a phi of 8 the distribution
//! gives such a silence one chance in 10^8.
//!
//! A sign of life is an *increment of the heartbeat seen*, from the node itself or through others.
//! So the samples hold the detours of gossip and its losses, and the threshold adapts to the network.
//!
//! Three additions to the paper keep it usable:
//! - the deviation has a minimum, as very regular heartbeats would make any delay a miracle;
//! - an acceptable pause is taken off the silence, for what no sample shows beforehand;
//! - after a reset the window begins with two made-up samples around the interval, and nothing is
//!   suspected in a time of grace.
//!
//! Sums are kept in integers, so that a window that has seen millions of samples is as exact as a
//! new one.
//!
//! **What this leaves out:** any decision. [`Detector::suspect_at`] says when phi crosses the
//! threshold, [`Detector::probe_at`] when it is halfway there; what follows is up to the caller.

use alloc::collections::VecDeque;
use core::f64::consts::{LN_10, PI, SQRT_2};
use core::time::Duration;

use super::GossipConfig;
use crate::time::Instant;

/// The largest phi that is told. It is beyond any use, and finite.
pub const PHI_MAX: f64 = 1_000.0;

/// Below this argument `erfc` is a normal number; above it, its logarithm is taken from the
/// asymptotic series, whose error is below 10^-8 there.
const ERFC_ARGUMENT_MAX: f64 = 25.0;

/// Phi of a silence that is `deviations` standard deviations longer than the mean:
/// `-log10(1 - F(deviations))`, F being the standard normal distribution. Finite, never negative,
/// and never decreasing.
pub fn phi_of(deviations: f64) -> f64 {
    if deviations.is_nan() {
        return 0.0;
    }
    let x = deviations / SQRT_2;
    if x <= ERFC_ARGUMENT_MAX {
        return (-libm::log10(0.5 * libm::erfc(x))).clamp(0.0, PHI_MAX);
    }
    if x > PHI_MAX {
        return PHI_MAX;
    }
    // erfc(x) = exp(-x^2) / (x sqrt(pi)) * (1 - 1/(2x^2) + 3/(4x^4) - ...)
    let inverse = 1.0 / (2.0 * x * x);
    let series = 1.0 - inverse + 3.0 * inverse * inverse;
    let ln_tail = -x * x - libm::log(2.0 * x * libm::sqrt(PI)) + libm::log(series);
    (-ln_tail / LN_10).clamp(0.0, PHI_MAX)
}

/// How many standard deviations above the mean phi reaches `threshold`: the inverse of [`phi_of`].
pub fn deviations_at(threshold: f64) -> f64 {
    // phi grows from 0 to PHI_MAX in this range; 64 halvings leave no bit to gain.
    let (mut low, mut high) = (-10.0, 100.0);
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if phi_of(middle) < threshold {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The last times between signs of life, in microseconds.
///
/// - Never empty; at most the configured number.
/// - `sum` and `square_sum` are those of `samples`.
#[derive(Clone, Debug)]
struct SamplingWindow {
    samples: VecDeque<u32>,
    sum: u64,
    square_sum: u128,
}

impl SamplingWindow {
    /// Two samples around `interval`, half of it apart from it: as little known as can be.
    fn new(interval: Duration) -> Self {
        let mut window = Self { samples: VecDeque::new(), sum: 0, square_sum: 0 };
        window.push(interval / 2, 2);
        window.push(interval + interval / 2, 2);
        window
    }

    fn push(&mut self, sample: Duration, count_max: usize) {
        if self.samples.len() >= count_max
            && let Some(oldest) = self.samples.pop_front()
        {
            self.sum -= u64::from(oldest);
            self.square_sum -= u128::from(oldest) * u128::from(oldest);
        }
        let micros = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX);
        self.samples.push_back(micros);
        self.sum += u64::from(micros);
        self.square_sum += u128::from(micros) * u128::from(micros);
    }

    /// Mean and standard deviation, in seconds.
    fn distribution(&self) -> (f64, f64) {
        let count = self.samples.len() as u128;
        let sum = u128::from(self.sum);
        // Exact: n * sum(x^2) - (sum x)^2 is never negative in integers.
        let variance = (count * self.square_sum - sum * sum) as f64 / (count * count) as f64;
        (sum as f64 / count as f64 / 1e6, libm::sqrt(variance) / 1e6)
    }
}

/// By what a silence is judged: a configuration, worked out once.
#[derive(Clone, Debug)]
pub(super) struct Criteria {
    config: GossipConfig,
    /// How many deviations above the mean a node is probed.
    probe_deviations: f64,
    /// How many deviations above the mean a node is suspected.
    suspect_deviations: f64,
}

impl Criteria {
    pub(super) fn new(config: GossipConfig) -> Self {
        Self {
            probe_deviations: deviations_at(config.phi_threshold / 2.0),
            suspect_deviations: deviations_at(config.phi_threshold),
            config,
        }
    }
}

/// How surprising the silence of one node is.
///
/// `probe_at` and `suspect_at` follow from the window: they are kept, as they are asked for much
/// more often than they change.
#[derive(Clone, Debug)]
pub(super) struct Detector {
    window: SamplingWindow,
    /// The last sign of life, or the reset.
    heard_at: Instant,
    /// Until then phi is 0.
    grace_until: Instant,
    probe_at: Instant,
    suspect_at: Instant,
}

impl Detector {
    /// A detector of a node that was just heard of.
    pub(super) fn new(criteria: &Criteria, now: Instant) -> Self {
        let mut detector = Self {
            window: SamplingWindow::new(criteria.config.interval),
            heard_at: now,
            grace_until: now + criteria.config.grace,
            probe_at: now,
            suspect_at: now,
        };
        detector.judge(criteria);
        detector
    }

    /// A sign of life arrived.
    pub(super) fn on_heartbeat(&mut self, criteria: &Criteria, now: Instant) {
        self.window.push(now.saturating_since(self.heard_at), criteria.config.window);
        self.heard_at = now;
        self.judge(criteria);
    }

    /// The node was asked for a sign of life; it is asked again after a while.
    pub(super) fn on_probe(&mut self, now: Instant, pause: Duration) {
        self.probe_at = now + pause;
    }

    /// Suspects nothing for the time of grace.
    pub(super) fn grant_grace(&mut self, criteria: &Criteria, now: Instant) {
        self.grace_until = now + criteria.config.grace;
        self.judge(criteria);
    }

    fn judge(&mut self, criteria: &Criteria) {
        let (mean, deviation) = self.distribution(criteria);
        let after = |deviations: f64| {
            // The clamp keeps the conversion from failing; a day of silence needs no detector.
            let tolerated = (mean + deviations * deviation).clamp(0.0, 86_400.0);
            let silence = Duration::from_secs_f64(tolerated) + criteria.config.acceptable_pause;
            (self.heard_at + silence).max(self.grace_until)
        };
        (self.probe_at, self.suspect_at) =
            (after(criteria.probe_deviations), after(criteria.suspect_deviations));
    }

    /// Mean and assumed standard deviation of the times between signs of life, in seconds.
    fn distribution(&self, criteria: &Criteria) -> (f64, f64) {
        let (mean, deviation) = self.window.distribution();
        (mean, deviation.max(criteria.config.deviation_min.as_secs_f64()))
    }

    /// The last sign of life, or when the node was first heard of, or was back.
    pub(super) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Phi: 0 for no surprise, at most [`PHI_MAX`].
    pub(super) fn phi(&self, criteria: &Criteria, now: Instant) -> f64 {
        if now < self.grace_until {
            return 0.0;
        }
        let (mean, deviation) = self.distribution(criteria);
        let silence = now.saturating_since(self.heard_at).as_secs_f64();
        let pause = criteria.config.acceptable_pause.as_secs_f64();
        phi_of((silence - pause - mean) / deviation)
    }

    /// When to ask the node for a sign of life, if it gives none by itself: halfway to a suspicion.
    pub(super) fn probe_at(&self) -> Instant {
        self.probe_at
    }

    /// When phi reaches the threshold, if the silence lasts.
    pub(super) fn suspect_at(&self) -> Instant {
        self.suspect_at
    }
}
