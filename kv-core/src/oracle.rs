//! The timestamp oracle: one order for all writes of all shards.
//!
//! The leader of the meta group issues [`Timestamp`]s. Each is above all that were issued before it,
//! by whichever leader, so whatever asked later is later. The clock only says how far a timestamp
//! runs ahead of the one before; a clock that jumps, stands still or goes back changes no order.
//!
//! # The bound
//!
//! No timestamp above the *bound* is issued, and the bound is replicated: it is part of the meta
//! group's state, raised by entries of its log ([`Raise`]). A leader issues only from the interval
//! by which an entry of its own term raised the bound ([`Issuer`]). Whoever led before issued at or
//! below the lower end of that interval, for this entry comes after all of theirs; so no two leaders
//! issue the same timestamp, and a new one starts above everything that the old ones issued, or
//! would have been allowed to.
//!
//! A raise takes the bound [`AHEAD`] of the leader's clock, so that there is one every few seconds
//! while timestamps are asked for, and none while they are not.
//!
//! # A clock that is wrong
//!
//! Nothing but expiry and retention ever reads the clock part, but it must not be carried off by one
//! wrong clock: it could never come back. A raise moves it by at most twice the time that has
//! passed, on the proposer's monotonic clock, since the last raise was applied there. Where that
//! holds the clock part back, timestamps go on without it, one by one, and it catches up. The first
//! raise of a cluster takes the clock as it is.
//!
//! # When a timestamp may be issued
//!
//! Being the leader in one's own eyes is not enough: another one may have been elected, and have
//! issued higher timestamps to requests that have been answered. So each request waits until a
//! majority has confirmed the leadership after the request was made, which is the business of the
//! [`node`](crate::node).
//!
//! **What this leaves out:** clocks of users; hybrid logical clocks, which need a bound on the
//! deviation of all clocks where this needs a leader.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{Term, Timestamp};
use crate::mutants::{self, Mutant};

/// How far a raise takes the bound ahead of the proposer's clock.
pub const AHEAD: Duration = Duration::from_secs(3);
/// A bound that is less than this ahead of the clock is raised before it is reached.
const LOW: Duration = Duration::from_secs(1);
/// The most timestamps that one request may ask for.
pub const COUNT_MAX: u32 = 65_536;

/// The last millisecond that a clock is believed to show, in the year 3084: beyond it timestamps
/// would run out.
const UNIX_MS_MAX: u64 = 1 << 45;

/// An entry of the meta group that raises the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raise {
    /// Where the proposer wants the clock part of the bound to be, in milliseconds since 1970.
    pub unix_ms: u64,
    /// By how many milliseconds it may move at most, unless it is the first raise.
    pub advance_max_ms: u64,
}

impl Raise {
    /// What a leader proposes whose clock shows `unix_ms`, `elapsed` after the last raise.
    pub fn new(unix_ms: u64, elapsed: Duration) -> Self {
        let advance_max_ms = u64::try_from(2 * elapsed.as_millis()).unwrap_or(u64::MAX);
        Self { unix_ms: unix_ms.saturating_add(millis(AHEAD)), advance_max_ms }
    }

    /// The bound after the entry. It always grows, by a millisecond's timestamps at least.
    pub fn apply(self, before: Timestamp) -> Timestamp {
        let unix_ms = self.unix_ms.min(UNIX_MS_MAX);
        if before == Timestamp(0) {
            return Timestamp::at_millis(unix_ms.max(1));
        }
        let highest = before.millis().saturating_add(self.advance_max_ms);
        let lowest = before.millis().saturating_add(1);
        Timestamp::at_millis(unix_ms.min(highest).max(lowest))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Issues timestamps at one leader of the meta group in one term.
///
/// - Whatever is issued is above `last` and at most `bound`.
/// - All of that interval belongs to this term: its lower end at the beginning was the bound before.
#[derive(Debug)]
pub(crate) struct Issuer {
    term: Term,
    last: Timestamp,
    bound: Timestamp,
    /// Whether the last raise did not take the bound as far as the clock wanted.
    is_held_back: bool,
}

impl Issuer {
    /// Begins to issue in `term`, in which an entry of this leader raised the bound.
    pub(crate) fn new(term: Term, raise: Raise, before: Timestamp, bound: Timestamp) -> Self {
        let mut issuer = Self { term, last: before, bound: before, is_held_back: false };
        if mutants::is_active(Mutant::OracleStartsBelow) {
            issuer.last = Timestamp(0);
        }
        issuer.on_raised(raise, bound);
        issuer
    }

    /// The term in which this leader issues.
    pub(crate) fn term(&self) -> Term {
        self.term
    }

    /// Another raise of this leader was applied.
    pub(crate) fn on_raised(&mut self, raise: Raise, bound: Timestamp) {
        assert!(bound > self.bound, "the bound grows with every raise, for millennia");
        self.bound = bound;
        self.is_held_back = bound.millis() < raise.unix_ms;
    }

    /// Issues `count` timestamps in a row and returns the first; none until the bound is raised.
    pub(crate) fn issue(&mut self, unix_ms: u64, count: u32) -> Option<Timestamp> {
        assert!(count > 0 && count <= COUNT_MAX, "a request asks for some timestamps");
        let clock = Timestamp::at_millis(unix_ms);
        let next = self.last.after(1);
        let first = if clock <= self.bound {
            next.max(clock)
        } else if self.is_held_back {
            next
        } else {
            return None;
        };
        // A clock right below the bound must not use up what the counter still has.
        let first = if fits(first, count, self.bound) { first } else { next };
        if !fits(first, count, self.bound) {
            return None;
        }
        self.last = first.after(u64::from(count) - 1);
        Some(first)
    }

    /// Whether the bound is so near that it should be raised.
    pub(crate) fn is_low(&self, unix_ms: u64) -> bool {
        let near = Timestamp::at_millis(unix_ms.saturating_add(millis(LOW)));
        near > self.bound || !fits(self.last, COUNT_MAX, self.bound)
    }
}

fn fits(first: Timestamp, count: u32, bound: Timestamp) -> bool {
    first.after(u64::from(count) - 1) <= bound
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn issuer(clock: u64) -> Issuer {
        let raise = Raise::new(clock, SECOND);
        Issuer::new(Term(1), raise, Timestamp(0), raise.apply(Timestamp(0)))
    }

    #[test]
    fn timestamps_grow_whatever_the_clock_does() {
        let mut issuer = issuer(10_000);
        let clocks = [10_000, 10_000, 12_999, 500, 0, 11_000, 10_001];
        let mut last = Timestamp(0);
        for clock in clocks {
            let first = issuer.issue(clock, 3).expect("the bound is at 13 s");
            assert!(first > last, "{first} after {last} at {clock}");
            last = first.after(2);
        }
        assert_eq!(last.millis(), 12_999, "the clock part does not go back either");
    }

    #[test]
    fn nothing_is_issued_above_the_bound() {
        let mut issuer = issuer(10_000);
        assert_eq!(issuer.issue(13_001, 1), None);
        assert_eq!(issuer.issue(14_000, 1), None);
        let mut issued = 0;
        while let Some(first) = issuer.issue(12_999, COUNT_MAX) {
            assert!(first.after(u64::from(COUNT_MAX) - 1) <= Timestamp::at_millis(13_000));
            issued += 1;
        }
        assert_eq!(issued, 4, "a millisecond has as many as four of the largest requests");
    }

    #[test]
    fn a_new_leader_starts_above_all_that_an_old_one_may_issue() {
        let raise = Raise::new(10_000, SECOND);
        let bound = raise.apply(Timestamp(0));
        let mut old = Issuer::new(Term(1), raise, Timestamp(0), bound);
        // Its clock is far behind.
        let raise = Raise::new(0, SECOND);
        let above = raise.apply(bound);
        let mut new = Issuer::new(Term(2), raise, bound, above);
        let first = new.issue(0, 1).expect("there is room above the old bound");
        while let Some(stale) = old.issue(12_990, COUNT_MAX) {
            assert!(stale.after(u64::from(COUNT_MAX) - 1) < first);
        }
    }

    #[test]
    fn a_clock_that_jumps_does_not_carry_the_bound_off() {
        let bound = Raise::new(10_000, SECOND).apply(Timestamp(0));
        let year = 31_536_000_000;
        let raise = Raise::new(10_000 + year, 2 * SECOND);
        let after = raise.apply(bound);
        assert_eq!(after.millis() - bound.millis(), 4_000, "twice the time since the last raise");
        let mut issuer = Issuer::new(Term(2), raise, bound, after);
        let first = issuer.issue(10_000 + year, 2).expect("order needs no clock");
        assert_eq!(first, bound.after(1));
        assert!(issuer.is_low(10_000 + year), "it goes on catching up");
    }

    #[test]
    fn every_raise_makes_room() {
        let mut bound = Raise { unix_ms: 0, advance_max_ms: 0 }.apply(Timestamp(0));
        for _ in 0..10 {
            let after = Raise { unix_ms: 0, advance_max_ms: 0 }.apply(bound);
            assert!(after > bound);
            bound = after;
        }
    }
}
