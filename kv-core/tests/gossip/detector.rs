//! Phi against known values of the normal distribution.

use std::f64::consts::LOG10_2;

use kv_core::gossip::detector::{PHI_MAX, deviations_at, phi_of};

/// `-log10` of the upper tail of the standard normal distribution, from tables of 30 digits.
const TAILS: [(f64, f64); 10] = [
    (-1.0, 0.075026012958),
    (0.0, LOG10_2),
    (1.0, 0.799545541492),
    (2.0, 1.643016080141),
    (3.0, 2.869699035929),
    (5.0, 6.542645672391),
    (6.0, 9.005864327477),
    (10.0, 23.118053405486),
    (37.0, 299.242181178610),
    (47.0, 481.749639434551),
];

#[test]
fn phi_is_the_logarithm_of_the_normal_tail() {
    for (deviations, expected) in TAILS {
        let phi = phi_of(deviations);
        let error = (phi - expected).abs() / expected.max(1e-3);
        assert!(error < 1e-7, "{deviations}: {phi}, not {expected}");
    }
}

/// A direct tail underflows at 38 deviations and would make phi infinite.
#[test]
fn phi_grows_without_a_jump_and_is_always_a_number() {
    let mut last = 0.0;
    for step in -10_000..200_000_i32 {
        let phi = phi_of(f64::from(step) / 1_000.0);
        assert!(phi.is_finite(), "finite at {step}");
        assert!(phi >= last, "{step}: {phi} after {last}");
        assert!(phi - last < 0.1, "{step}: {phi} after {last}");
        last = phi;
    }
    assert_eq!(last, PHI_MAX);
    assert_eq!(phi_of(f64::INFINITY), PHI_MAX);
    assert_eq!(phi_of(f64::MAX), PHI_MAX);
    assert_eq!(phi_of(f64::NEG_INFINITY), 0.0);
    assert_eq!(phi_of(f64::NAN), 0.0);
}

#[test]
fn the_threshold_is_found_in_deviations() {
    for threshold in [1.0, 4.0, 8.0, 12.0, 100.0] {
        let phi = phi_of(deviations_at(threshold));
        assert!((phi - threshold).abs() < 1e-9, "{phi}, not {threshold}");
    }
    assert!((deviations_at(8.0) - 5.612).abs() < 1e-3);
}
