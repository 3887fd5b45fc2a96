//! The sequential data type: one key that holds an optional value with a version.
//!
//! The key starts absent.
//! Every write that happens (a put, a cas that applied, a delete that found something) takes a
//! version above all versions the key had before, and a get returns the version of the value it
//! saw.
//! A delete that found nothing and a cas that did not apply change nothing and take no version.
//!
//! # Versions that nobody saw
//!
//! A history does not say which version each write got: outcomes are unknown, completions leave
//! the field out, and a delete never returns its version.
//! So a [`State`] stands for a *set* of concrete states that differ in the version only, and
//! [`State::step`] maps the set to exactly the set of states that are possible afterwards:
//!
//! - [`Version::Exactly`] after a write or a get that reported its version.
//! - [`Version::AtLeast`] after a write that did not: any version above that of the replaced value.
//!   A get or a cas that later names a version narrows the set to that one, and a cas that named a
//!   version in vain takes that one out of the set.
//!
//! An operation is illegal when the resulting set is empty.
//! That is strict, a version may not go backwards or change without a write, and never too strict,
//! as every concrete state of the set is one that the key may really have.
//!
//! # Order of knowledge
//!
//! State `a` [covers](State::covers) state `b` if its set includes that of `b`.
//! `step` is monotone: whatever is legal from `b` is legal from `a`, and ends in a state that
//! covers the one that `b` ends in.
//! The search rests on this when it drops one of two configurations.
//!
//! # What this leaves out
//!
//! An upper limit of versions: arithmetic saturates at the end of `u64`, which may accept a history
//! that repeats the last version, but never refuses a good one.

/// A value of one key, numbered by the search; equal numbers are values that nobody can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ValueId(pub(crate) u32);

/// What is known about the version of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    /// The value has this version.
    Exactly(u64),
    /// The value has some version from `floor` up that is not excluded.
    /// For an absent key: the next write takes some version from `floor` up.
    AtLeast {
        /// The least version possible; never itself excluded.
        floor: u64,
        /// Versions above `floor` that it is certainly not, in increasing order.
        excluded: Vec<u64>,
    },
}

/// The set of concrete states that the key may be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// The value, `None` if the key is absent.
    pub(crate) value: Option<ValueId>,
    /// What is known about the version.
    pub(crate) version: Version,
}

/// What a cas demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// This value.
    Value(ValueId),
    /// A value of this version.
    Version(u64),
    /// No value.
    Absent,
}

/// What a get saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not reported.
    Anything,
    /// No value.
    Absent,
    /// This value.
    Value(ValueId),
}

/// An operation together with its results; a missing result does not constrain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// A get that saw this.
    Get {
        /// What it saw.
        seen: Seen,
        /// The version it saw.
        version: Option<u64>,
    },
    /// A put.
    Put {
        /// The new value.
        value: ValueId,
        /// The version it got.
        version: Option<u64>,
    },
    /// A delete.
    Delete {
        /// Whether it found something.
        existed: Option<bool>,
    },
    /// A cas that found what it wanted and wrote.
    CasApplied {
        /// What it wanted.
        wanted: Wanted,
        /// The new value.
        value: ValueId,
        /// The version it got.
        version: Option<u64>,
    },
    /// A cas that did not find what it wanted.
    CasRefused {
        /// What it wanted.
        wanted: Wanted,
    },
}

impl Action {
    /// Whether the action never changes the key, in whatever state it is legal.
    pub(crate) fn is_observation(&self) -> bool {
        match self {
            Self::Get { .. } | Self::CasRefused { .. } | Self::Delete { existed: Some(false) } => {
                true
            }
            Self::Put { .. } | Self::Delete { .. } | Self::CasApplied { .. } => false,
        }
    }

    /// The value that the key has afterwards if the action sets one.
    pub(crate) fn written(&self) -> Option<ValueId> {
        match *self {
            Self::Put { value, .. } | Self::CasApplied { value, .. } => Some(value),
            Self::Get { .. } | Self::Delete { .. } | Self::CasRefused { .. } => None,
        }
    }

    /// What a cas that applied wanted.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        match *self {
            Self::CasApplied { wanted, .. } => Some(wanted),
            _ => None,
        }
    }

    /// The value that the key must have before.
    pub(crate) fn demanded(&self) -> Option<ValueId> {
        match *self {
            Self::Get { seen: Seen::Value(value), .. }
            | Self::CasApplied { wanted: Wanted::Value(value), .. } => Some(value),
            _ => None,
        }
    }

    /// What the key must hold before, `Some(None)` if nothing; `None` if it need not be one certain
    /// thing.
    pub(crate) fn needed(&self) -> Option<Option<ValueId>> {
        match *self {
            Self::Get { seen: Seen::Absent, .. }
            | Self::Delete { existed: Some(false) }
            | Self::CasApplied { wanted: Wanted::Absent, .. } => Some(None),
            _ => self.demanded().map(Some),
        }
    }

    /// The value that the action can tell from all others.
    pub(crate) fn mentioned(&self) -> Option<ValueId> {
        match *self {
            Self::CasRefused { wanted: Wanted::Value(value) } => Some(value),
            _ => self.demanded(),
        }
    }

    /// The largest [`State::next_version_min`] from which the action may still be legal.
    ///
    /// That bound of a state never decreases along an order, so a state beyond the cap of an
    /// operation that is still to come leads nowhere.
    pub(crate) fn version_cap(&self) -> u64 {
        match *self {
            Self::Get { version: Some(version), .. } => version.saturating_add(1),
            Self::CasApplied { wanted: Wanted::Version(wanted), version, .. } => {
                wanted.saturating_add(1).min(version.unwrap_or(u64::MAX))
            }
            Self::Put { version: Some(version), .. }
            | Self::CasApplied { version: Some(version), .. } => version,
            _ => u64::MAX,
        }
    }

    /// The greatest version that the action names.
    pub(crate) fn version_max(&self) -> Option<u64> {
        match *self {
            Self::Get { version, .. } | Self::Put { version, .. } => version,
            Self::CasApplied { wanted: Wanted::Version(wanted), version, .. } => {
                Some(version.map_or(wanted, |version| version.max(wanted)))
            }
            Self::CasApplied { version, .. } => version,
            Self::CasRefused { wanted: Wanted::Version(wanted) } => Some(wanted),
            Self::CasRefused { .. } | Self::Delete { .. } => None,
        }
    }
}

impl Version {
    fn from(floor: u64) -> Self {
        Self::AtLeast { floor, excluded: Vec::new() }
    }

    /// Whether every version of `other` is also one of `self`.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exactly(version), Self::Exactly(other)) => version == other,
            (Self::Exactly(_), Self::AtLeast { .. }) => false,
            (Self::AtLeast { floor, excluded }, Self::Exactly(version)) => {
                version >= floor && !excluded.contains(version)
            }
            (
                Self::AtLeast { floor, excluded },
                Self::AtLeast { floor: other_floor, excluded: other_excluded },
            ) => {
                let relevant = |version: &&u64| *version >= other_floor;
                floor <= other_floor
                    && excluded.iter().filter(relevant).all(|v| other_excluded.contains(v))
            }
        }
    }

    fn narrowed_to(&self, version: u64) -> Option<Self> {
        let only = Self::Exactly(version);
        self.covers(&only).then_some(only)
    }

    fn without(&self, version: u64) -> Option<Self> {
        match self {
            Self::Exactly(known) => (*known != version).then_some(Self::Exactly(*known)),
            Self::AtLeast { floor, excluded } => {
                let (mut floor, mut excluded) = (*floor, excluded.clone());
                if let Err(place) = excluded.binary_search(&version)
                    && version >= floor
                {
                    excluded.insert(place, version);
                }
                while excluded.first() == Some(&floor) {
                    excluded.remove(0);
                    floor = floor.saturating_add(1);
                }
                Some(Self::AtLeast { floor, excluded })
            }
        }
    }
}

impl State {
    /// The state before the first operation.
    pub(crate) fn initial() -> Self {
        Self { value: None, version: Version::from(0) }
    }

    /// The least version that the next write may take.
    pub(crate) fn next_version_min(&self) -> u64 {
        match (&self.value, &self.version) {
            (Some(_), Version::Exactly(version) | Version::AtLeast { floor: version, .. }) => {
                version.saturating_add(1)
            }
            (None, Version::Exactly(floor) | Version::AtLeast { floor, .. }) => *floor,
        }
    }

    /// About what it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let excluded = match &self.version {
            Version::AtLeast { excluded, .. } => size_of_val(&excluded[..]),
            Version::Exactly(_) => 0,
        };
        size_of::<Self>() + excluded
    }

    /// Whether every concrete state of `other` is also one of `self`.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.value == other.value && self.version.covers(&other.version)
    }

    /// The state after `action`, or `None` if it is not legal here.
    pub(crate) fn step(&self, action: &Action) -> Option<Self> {
        match *action {
            Action::Get { seen, version } => self.get(seen, version),
            Action::Put { value, version } => self.write(value, version),
            Action::Delete { existed } => self.delete(existed),
            Action::CasApplied { wanted, value, version } => {
                self.narrowed_to(wanted)?.write(value, version)
            }
            Action::CasRefused { wanted } => self.without(wanted),
        }
    }

    fn get(&self, seen: Seen, version: Option<u64>) -> Option<Self> {
        let is_legal = match seen {
            Seen::Anything => true,
            Seen::Absent => self.value.is_none(),
            Seen::Value(value) => self.value == Some(value),
        };
        if !is_legal {
            return None;
        }
        match version {
            Some(version) => self.narrowed_to(Wanted::Version(version)),
            None => Some(self.clone()),
        }
    }

    fn write(&self, value: ValueId, version: Option<u64>) -> Option<Self> {
        let next = self.next_version_min();
        let version = match version {
            Some(version) if version < next => return None,
            Some(version) => Version::Exactly(version),
            None => Version::from(next),
        };
        Some(Self { value: Some(value), version })
    }

    fn delete(&self, existed: Option<bool>) -> Option<Self> {
        if existed.is_some_and(|existed| existed != self.value.is_some()) {
            return None;
        }
        if self.value.is_none() {
            return Some(self.clone());
        }
        // The delete takes a version of its own, so the next write is above that one too.
        let floor = self.next_version_min().saturating_add(1);
        Some(Self { value: None, version: Version::from(floor) })
    }

    /// The states of the set that are as wanted.
    fn narrowed_to(&self, wanted: Wanted) -> Option<Self> {
        match wanted {
            Wanted::Value(value) => (self.value == Some(value)).then(|| self.clone()),
            Wanted::Absent => self.value.is_none().then(|| self.clone()),
            Wanted::Version(version) => {
                self.value?;
                let version = self.version.narrowed_to(version)?;
                Some(Self { value: self.value, version })
            }
        }
    }

    /// The states of the set that are not as wanted.
    fn without(&self, wanted: Wanted) -> Option<Self> {
        match wanted {
            Wanted::Value(value) => (self.value != Some(value)).then(|| self.clone()),
            Wanted::Absent => self.value.is_some().then(|| self.clone()),
            Wanted::Version(_) if self.value.is_none() => Some(self.clone()),
            Wanted::Version(version) => {
                let version = self.version.without(version)?;
                Some(Self { value: self.value, version })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(version: Option<u64>) -> Action {
        Action::Put { value: ValueId(1), version }
    }

    fn get(version: u64) -> Action {
        Action::Get { seen: Seen::Value(ValueId(1)), version: Some(version) }
    }

    #[track_caller]
    fn check(actions: &[Action], is_legal: bool) {
        let end = actions.iter().try_fold(State::initial(), |state, action| state.step(action));
        assert_eq!(end.is_some(), is_legal, "ended in {end:?}");
    }

    #[test]
    fn an_unseen_version_is_narrowed_once() {
        check(&[put(Some(5)), put(None), get(7), get(7)], true);
        check(&[put(Some(5)), put(None), get(7), get(8)], false);
        check(&[put(Some(5)), put(None), get(5)], false);
    }

    #[test]
    fn writes_that_nobody_saw_need_room_between_the_versions() {
        check(&[put(Some(5)), put(None), put(Some(7))], true);
        check(&[put(Some(5)), put(None), put(None), put(Some(7))], false);
        check(&[put(Some(5)), Action::Delete { existed: None }, put(Some(6))], false);
        check(&[put(Some(5)), Action::Delete { existed: Some(true) }, put(Some(7))], true);
        check(&[Action::Delete { existed: Some(false) }, put(Some(0))], true);
    }

    #[test]
    fn a_refused_cas_excludes_its_version() {
        let refused = |version| Action::CasRefused { wanted: Wanted::Version(version) };
        check(&[put(None), refused(5), get(5)], false);
        check(&[put(None), refused(5), get(6)], true);
        check(&[put(Some(5)), put(None), refused(7), refused(6), get(8)], true);
        check(&[put(Some(5)), put(None), refused(7), refused(6), put(Some(8))], false);
        check(&[put(Some(5)), refused(5)], false);
    }

    #[test]
    fn covering_follows_the_sets() {
        let least = |floor, excluded: &[u64]| Version::AtLeast { floor, excluded: excluded.into() };
        assert!(least(3, &[]).covers(&least(5, &[7])));
        assert!(least(3, &[4]).covers(&least(5, &[])));
        assert!(!least(3, &[7]).covers(&least(5, &[])));
        assert!(!least(5, &[]).covers(&least(3, &[])));
        assert!(least(3, &[]).covers(&Version::Exactly(3)));
        assert!(!least(3, &[4]).covers(&Version::Exactly(4)));
        assert!(!Version::Exactly(3).covers(&least(3, &[])));
    }
}
