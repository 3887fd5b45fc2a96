//! The lock table of one shard, at its leader (strict two-phase locking).
//!
//! A lock is shared or exclusive, on a key or on a range of keys. Its *owner* is a transaction, or a
//! single write that has to wait. Owners take locks one by one and drop them all at once.
//!
//! # One order
//!
//! Who holds a lock and who waits for one are *claims*, and each claim has a [`Place`]. There is one
//! rule: **a claim is granted as soon as no claim before it conflicts with it**, and no write in
//! flight touches it. Holders stand before all waiters, waiters in the order of asking, so a writer
//! is not overtaken for ever by readers. The wait-for graph is the same rule read the other way: an
//! owner waits for the owners of the conflicting claims before its own.
//!
//! Granting a claim moves it among the holders, which lets nobody else pass, since all that conflict
//! with it stand behind it. So it takes one pass over those that a dropped claim held up.
//!
//! # Those who go ahead
//!
//! An owner does not queue behind one that waits for it: each would wait for the other. So its claim
//! goes ahead of all that are queued (PostgreSQL's lock manager does so too). The same holds for an
//! upgrade, shared to exclusive, on what the owner holds: whoever is queued there would mostly wait
//! for it. Owners that hold the same lock and both upgrade it still deadlock, and the graph shows
//! it. Nobody starves by this: while someone is queued for a key, nobody new gets to share it.
//!
//! # Writes without a lock
//!
//! Most writes concern one key that no transaction touches. They need no lock: writes of one key
//! are ordered by the log. Such a write is *in flight* from [`begin_write`](LockTable::begin_write)
//! to [`end_write`](LockTable::end_write), when its effect can be read; until then no lock on the key
//! is granted. A key that somebody holds or waits for takes no more of them: that write has to ask
//! for the lock, and so it queues like anybody else.
//!
//! # Cost
//!
//! Keys are looked up, ranges are gone through. There are at most [`RANGES_MAX`] of them, and none
//! without a transaction that scans.
//!
//! **What this leaves out:** intention locks and escalation; a range that several locks cover
//! together counts as not held; time, so that to give up waiting is the caller's business; deadlocks
//! (see [`deadlock`](crate::deadlock)).

mod line;
mod target;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt::Debug;

use crate::op::{Key, KeyRange};
use line::{Claim, Line, Place, Rank};
pub use target::{LockMode, Target};

/// The most claims that wait for one key: each of them looks at all before it.
pub const WAITERS_PER_KEY_MAX: usize = 128;
/// The most claims on ranges, held or waiting: every request looks at all of them.
pub const RANGES_MAX: usize = 1_024;

/// The answer to a request for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquire {
    /// The owner holds it.
    Granted,
    /// The owner waits for it; [`LockTable::take_granted`] tells when it is granted.
    Waiting,
    /// There are too many claims already. Nothing was changed.
    Full,
}

/// Who holds and who waits for which lock.
///
/// - No two claims that conflict are held.
/// - No held claim touches the key of a write in flight.
/// - Each claim that waits conflicts with one before it, or touches the key of a write in flight.
/// - A claim stands in `owners`, and in one line of `keys` or `ranges`. No line is empty.
#[derive(Debug)]
pub struct LockTable<O> {
    /// The claims on single keys.
    keys: BTreeMap<Key, Line<O>>,
    /// The claims on ranges, none of which is empty.
    ranges: BTreeMap<KeyRange, Line<O>>,
    /// What each owner holds and waits for. No owner has nothing.
    owners: BTreeMap<O, BTreeMap<Place, Target>>,
    /// How many writes without a lock are in flight, where there are any.
    in_flight: BTreeMap<Key, u32>,
    /// What was granted to waiters and has not been told yet.
    granted: Vec<(O, Target)>,
    /// The number of the next claim.
    next_number: u64,
}

impl<O> Default for LockTable<O> {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            ranges: BTreeMap::new(),
            owners: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            granted: Vec::new(),
            next_number: 0,
        }
    }
}

impl<O: Copy + Ord + Debug> LockTable<O> {
    /// Asks for a lock. What the owner holds already, or waits for, is not asked for again.
    pub fn acquire(&mut self, owner: O, target: Target, mode: LockMode) -> Acquire {
        if self.holds(owner, &target, mode) {
            return Acquire::Granted;
        }
        if self.waits_at(owner, &target, mode) {
            return Acquire::Waiting;
        }
        let rank = if self.goes_ahead(owner, &target, mode) { Rank::Ahead } else { Rank::Queued };
        let claim = Claim { place: Place { rank, number: self.next_number }, owner, mode };
        let is_blocked = self.is_blocked(&target, &claim);
        if self.is_full(&target, is_blocked) {
            return Acquire::Full;
        }
        self.next_number += 1;
        if is_blocked {
            self.insert(target, claim);
            return Acquire::Waiting;
        }
        self.insert(target, Claim { place: claim.place.granted(), ..claim });
        Acquire::Granted
    }

    /// Drops everything that the owner holds and waits for.
    pub fn release(&mut self, owner: O) {
        self.granted.retain(|(granted, _)| *granted != owner);
        self.drop_claims(owner, Place::FIRST);
    }

    /// Drops everything that the owner waits for, and nothing that it holds.
    pub fn cancel_waiting(&mut self, owner: O) {
        self.drop_claims(owner, Place::FIRST_WAITING);
    }

    /// Begins a write of one key that needs no lock, unless somebody holds or waits for the key:
    /// then nothing is changed, and the write must acquire it under an owner of its own.
    pub fn begin_write(&mut self, key: &Key) -> bool {
        let is_free = self.is_free(key);
        if is_free {
            *self.in_flight.entry(key.clone()).or_insert(0) += 1;
        }
        is_free
    }

    /// Ends a write that [`begin_write`](Self::begin_write) began: it was applied, or never will be.
    pub fn end_write(&mut self, key: &Key) {
        let count = self.in_flight.get_mut(key).expect("only what has begun ends");
        *count -= 1;
        if *count == 0 {
            self.in_flight.remove(key);
            if !self.owners.is_empty() {
                self.grant_freed(&[Target::Key(key.clone())]);
            }
        }
    }

    /// What has been granted to waiters since this was last asked for, in the order of granting.
    pub fn take_granted(&mut self) -> Vec<(O, Target)> {
        core::mem::take(&mut self.granted)
    }

    /// Whether the owner waits for anything.
    pub fn is_waiting(&self, owner: O) -> bool {
        self.claims_of(owner, Place::FIRST_WAITING).next().is_some()
    }

    /// Whether the owner holds one lock, at least that strong, on all of the target.
    pub fn holds(&self, owner: O, target: &Target, mode: LockMode) -> bool {
        let suffices = |claim: &Claim<O>| claim.owner == owner && claim.mode >= mode;
        let is_held = |line: &Line<O>| line.holders().iter().any(suffices);
        let by_key = match target {
            Target::Key(key) => self.keys.get(key).is_some_and(is_held),
            Target::Range(range) => range.is_empty(),
        };
        by_key || self.ranges.iter().any(|(range, line)| target.is_within(range) && is_held(line))
    }

    /// The ranges on which the owner holds a lock, once for each lock.
    pub fn ranges_of(&self, owner: O) -> impl Iterator<Item = &KeyRange> {
        let held =
            self.owners.get(&owner).into_iter().flat_map(|own| own.range(..Place::FIRST_WAITING));
        held.filter_map(|(_, target)| match target {
            Target::Range(range) => Some(range),
            Target::Key(_) => None,
        })
    }

    /// Who holds a lock on the key, or on a range with it, and how strong. An owner that has several
    /// comes several times.
    pub fn holders(&self, key: &Key) -> impl Iterator<Item = (O, LockMode)> {
        let ranges = self.ranges.iter().filter(|(range, _)| range.contains(key));
        let lines = self.keys.get(key).into_iter().chain(ranges.map(|(_, line)| line));
        lines.flat_map(Line::holders).map(|claim| (claim.owner, claim.mode))
    }

    /// Whether nobody holds or waits for the key or a range with it.
    pub fn is_free(&self, key: &Key) -> bool {
        !self.keys.contains_key(key) && !self.ranges.keys().any(|range| range.contains(key))
    }

    /// Whether a write of the key is in flight, or somebody holds an exclusive lock on it.
    pub fn is_being_written(&self, key: &Key) -> bool {
        let is_exclusive = |(_, mode)| mode == LockMode::Exclusive;
        self.in_flight.contains_key(key) || self.holders(key).any(is_exclusive)
    }

    /// All who hold or wait for anything.
    pub fn owners(&self) -> impl Iterator<Item = O> {
        self.owners.keys().copied()
    }

    /// The wait-for graph: who waits, and for whom. Each edge comes once, in order.
    ///
    /// A waiter has edges to the holders and the earlier waiters that it conflicts with. Writes in
    /// flight wait for no lock, so a wait for one is no edge.
    pub fn edges(&self) -> impl Iterator<Item = (O, O)> {
        self.owners().flat_map(|waiter| {
            self.waits_of(waiter).into_iter().map(move |holder| (waiter, holder))
        })
    }

    /// Whom the owner waits for.
    pub fn waits_of(&self, owner: O) -> BTreeSet<O> {
        self.claims_of(owner, Place::FIRST_WAITING)
            .flat_map(|(target, claim)| self.blockers(target, claim))
            .collect()
    }
}

/// The order of claims.
impl<O: Copy + Ord + Debug> LockTable<O> {
    /// The lines of all targets that have a key in common with this one.
    fn lines<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = &'a Line<O>> {
        let keys = self.keys.range::<Key, _>(target.bounds()).map(|(_, line)| line);
        let ranges = self.ranges.iter().filter(|(range, _)| target.overlaps(range));
        keys.chain(ranges.map(|(_, line)| line))
    }

    /// The owners that a claim on the target waits for, or would wait for.
    fn blockers<'a>(&'a self, target: &'a Target, claim: Claim<O>) -> impl Iterator<Item = O> + 'a {
        self.lines(target)
            .flat_map(move |line| line.before(claim.place))
            .filter(move |other| other.conflicts_with(&claim))
            .map(|other| other.owner)
    }

    fn is_blocked(&self, target: &Target, claim: &Claim<O>) -> bool {
        self.in_flight.range::<Key, _>(target.bounds()).next().is_some()
            || self.blockers(target, *claim).next().is_some()
    }

    /// Whether the owner must not queue for the lock: it would upgrade what it holds, or wait behind
    /// one that waits for it.
    fn goes_ahead(&self, owner: O, target: &Target, mode: LockMode) -> bool {
        // Nobody waits for an owner that has nothing, and so most that ask are done here.
        if !self.owners.contains_key(&owner) {
            return false;
        }
        if self.holds(owner, target, LockMode::Shared) {
            return true;
        }
        self.lines(target)
            .flat_map(Line::waiters)
            .filter(|waiter| waiter.owner != owner && waiter.mode.conflicts_with(mode))
            .any(|waiter| {
                let target = &self.owners[&waiter.owner][&waiter.place];
                self.blockers(target, *waiter).any(|blocker| blocker == owner)
            })
    }

    /// Whether the owner waits already for just this target, for a lock at least that strong.
    fn waits_at(&self, owner: O, target: &Target, mode: LockMode) -> bool {
        self.line(target).is_some_and(|line| {
            line.waiters().iter().any(|claim| claim.owner == owner && claim.mode >= mode)
        })
    }

    fn is_full(&self, target: &Target, is_blocked: bool) -> bool {
        match target {
            Target::Key(_) => {
                let waiters_count = self.line(target).map_or(0, |line| line.waiters().len());
                is_blocked && waiters_count >= WAITERS_PER_KEY_MAX
            }
            Target::Range(_) => self.ranges.values().map(Line::len).sum::<usize>() >= RANGES_MAX,
        }
    }

    fn line(&self, target: &Target) -> Option<&Line<O>> {
        match target {
            Target::Key(key) => self.keys.get(key),
            Target::Range(range) => self.ranges.get(range),
        }
    }

    /// The owner's claims from a place on.
    fn claims_of(&self, owner: O, from: Place) -> impl Iterator<Item = (&Target, Claim<O>)> {
        let claims = self.owners.get(&owner).into_iter().flat_map(move |own| own.range(from..));
        claims.map(|(place, target)| {
            let line = self.line(target).expect("the target of a claim has a line");
            (target, line.at(*place))
        })
    }
}

/// Changes of claims.
impl<O: Copy + Ord + Debug> LockTable<O> {
    fn insert(&mut self, target: Target, claim: Claim<O>) {
        match &target {
            Target::Key(key) => self.keys.entry(key.clone()).or_default().insert(claim),
            Target::Range(range) => self.ranges.entry(range.clone()).or_default().insert(claim),
        }
        self.owners.entry(claim.owner).or_default().insert(claim.place, target);
    }

    /// Drops the owner's claims from a place on, and grants what they held up.
    fn drop_claims(&mut self, owner: O, from: Place) {
        let Some(claims) = self.owners.get_mut(&owner) else { return };
        let dropped = claims.split_off(&from);
        if claims.is_empty() {
            self.owners.remove(&owner);
        }
        for (place, target) in &dropped {
            match target {
                Target::Key(key) => remove(&mut self.keys, key, *place),
                Target::Range(range) => remove(&mut self.ranges, range, *place),
            }
        }
        let freed: Vec<Target> = dropped.into_values().collect();
        self.grant_freed(&freed);
    }

    /// Grants what can be granted now that something on these targets is gone.
    fn grant_freed(&mut self, freed: &[Target]) {
        let waiters: BTreeMap<Place, O> = freed
            .iter()
            .flat_map(|target| self.lines(target))
            .flat_map(Line::waiters)
            .map(|claim| (claim.place, claim.owner))
            .collect();
        for (place, owner) in waiters {
            let target = &self.owners[&owner][&place];
            let line = self.line(target).expect("the target of a claim has a line");
            if !self.is_blocked(target, &line.at(place)) {
                self.grant(owner, place);
            }
        }
    }

    /// Moves a claim that waits among the holders.
    fn grant(&mut self, owner: O, place: Place) {
        let claims = self.owners.get_mut(&owner).expect("who waits is an owner");
        let target = claims.remove(&place).expect("a claim that waits is its owner's");
        claims.insert(place.granted(), target.clone());
        let line = match &target {
            Target::Key(key) => self.keys.get_mut(key),
            Target::Range(range) => self.ranges.get_mut(range),
        };
        line.expect("the target of a claim has a line").grant(place);
        self.granted.push((owner, target));
    }
}

/// Takes a claim out of the line of `target`, and the line away if it was the last one.
fn remove<T: Ord, O: Copy>(lines: &mut BTreeMap<T, Line<O>>, target: &T, place: Place) {
    let line = lines.get_mut(target).expect("the target of a claim has a line");
    line.remove(place);
    if line.is_empty() {
        lines.remove(target);
    }
}
