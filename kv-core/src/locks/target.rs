//! What a lock can be asked for, and how strong.

use core::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::op::{Key, KeyRange};

/// How strong a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LockMode {
    /// For reading: any number of owners share it.
    Shared,
    /// For writing: no other owner has any lock on it.
    Exclusive,
}

impl LockMode {
    /// Whether two owners cannot have locks of these modes on the same key.
    pub fn conflicts_with(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

/// What is locked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// One key.
    Key(Key),
    /// All keys of a range. Such a lock keeps others from writing keys that do not exist yet, so
    /// that a range read twice is the same twice (no phantoms).
    Range(KeyRange),
}

impl Target {
    /// Whether no key is in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Key(_) => false,
            Self::Range(range) => range.is_empty(),
        }
    }

    /// Whether some key is in both; `range` is not empty, and neither is this.
    pub(super) fn overlaps(&self, range: &KeyRange) -> bool {
        match self {
            Self::Key(key) => range.contains(key),
            Self::Range(own) => {
                let begins_before = own.end.as_ref().is_none_or(|end| range.start < *end);
                begins_before && range.end.as_ref().is_none_or(|end| own.start < *end)
            }
        }
    }

    /// Whether all its keys are in `range`; it is not empty.
    pub(crate) fn is_within(&self, range: &KeyRange) -> bool {
        match self {
            Self::Key(key) => range.contains(key),
            Self::Range(own) => {
                let ends_within = match (&own.end, &range.end) {
                    (_, None) => true,
                    (None, Some(_)) => false,
                    (Some(own), Some(end)) => own <= end,
                };
                range.start <= own.start && ends_within
            }
        }
    }

    /// Its place in a map by key. It must not be empty.
    pub(super) fn bounds(&self) -> (Bound<&Key>, Bound<&Key>) {
        match self {
            Self::Key(key) => (Bound::Included(key), Bound::Included(key)),
            Self::Range(range) => {
                let end = range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                (Bound::Included(&range.start), end)
            }
        }
    }
}
