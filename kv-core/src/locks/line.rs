//! The line of those who hold and wait for one target.

use alloc::vec::Vec;

use super::target::LockMode;

/// Where a claim stands among all claims that conflict with it: each waits for those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Comes before the number: holders stand before all waiters.
    pub(super) rank: Rank,
    /// Counts all claims in the order of asking. No two have the same.
    pub(super) number: u64,
}

impl Place {
    /// No claim stands before it.
    pub(super) const FIRST: Self = Self { rank: Rank::Held, number: 0 };
    /// No waiting claim stands before it, and all holders do.
    pub(super) const FIRST_WAITING: Self = Self { rank: Rank::Ahead, number: 0 };

    /// The place of the same claim once it is granted.
    pub(super) fn granted(self) -> Self {
        Self { rank: Rank::Held, number: self.number }
    }
}

/// What a claim's place depends on before its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// It is granted.
    Held,
    /// It waits before others that asked earlier, for one of them would wait for its owner.
    Ahead,
    /// It waits in the order of asking.
    Queued,
}

/// One owner's lock on a target, or its wait for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<O> {
    /// Where it stands, and by that whether it is granted.
    pub(super) place: Place,
    /// Whose it is.
    pub(super) owner: O,
    /// How strong a lock it is.
    pub(super) mode: LockMode,
}

impl<O: Eq> Claim<O> {
    /// Whether both cannot be granted at a time.
    pub(super) fn conflicts_with(&self, other: &Self) -> bool {
        self.owner != other.owner && self.mode.conflicts_with(other.mode)
    }
}

/// All claims on exactly one target, in the order of their places: first the holders.
#[derive(Debug)]
pub(super) struct Line<O>(Vec<Claim<O>>);

impl<O> Default for Line<O> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<O: Copy> Line<O> {
    /// Adds a claim at its place.
    pub(super) fn insert(&mut self, claim: Claim<O>) {
        self.0.insert(self.count_before(claim.place), claim);
    }

    /// Takes out the claim at `place`.
    pub(super) fn remove(&mut self, place: Place) -> Claim<O> {
        let claim = self.at(place);
        self.0.remove(self.count_before(place));
        claim
    }

    /// The claim at `place`, where there must be one.
    pub(super) fn at(&self, place: Place) -> Claim<O> {
        let claim = self.0[self.count_before(place)];
        assert!(claim.place == place, "a claim that an owner has stands in its line");
        claim
    }

    /// Moves the claim at `place` among the holders.
    pub(super) fn grant(&mut self, place: Place) {
        let claim = self.remove(place);
        self.insert(Claim { place: place.granted(), ..claim });
    }

    /// Whether nobody holds or waits for the target.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many hold or wait.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The claims before `place`.
    pub(super) fn before(&self, place: Place) -> &[Claim<O>] {
        &self.0[..self.count_before(place)]
    }

    /// The claims that are granted.
    pub(super) fn holders(&self) -> &[Claim<O>] {
        self.before(Place::FIRST_WAITING)
    }

    /// The claims that wait.
    pub(super) fn waiters(&self) -> &[Claim<O>] {
        &self.0[self.count_before(Place::FIRST_WAITING)..]
    }

    fn count_before(&self, place: Place) -> usize {
        self.0.partition_point(|claim| claim.place < place)
    }
}
