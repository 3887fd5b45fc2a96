//! What a node knows of another, and which of two beliefs wins.
//!
//! A belief about a node is an [`Entry`]. Its *weight* decides, and every node compares weights the
//! same way, so all nodes that have heard the same end up with the same belief, in whatever order
//! they heard it:
//!
//! 1. A newer generation wins. Only the node itself begins one: this is how it refutes.
//! 2. In one generation `Left` wins: who left comes back only in a new one.
//! 3. A newer heartbeat wins: it was sent after the one that the older belief stands on.
//! 4. On the same heartbeat, `Down` wins over `Suspect` over `Alive`: the stale "alive" of a dead
//!    node loses.
//!
//! By rule 3 a node with a bad connection harms only itself: what it suspects too early is refuted
//! by everybody who has heard more, not only by the suspect.
//!
//! Liveness and record are separate. A heartbeat changes every second and says all it has to say in
//! an entry; the record changes rarely, and each of its values has the version of its last change.

use alloc::vec::Vec;

use super::To;
use super::detector::{Criteria, Detector};
use super::message::{Delta, Endpoint, Entry, Load, MemberState, Release, ShardLead, Value};
use crate::id::{Generation, Heartbeat, RecordVersion};
use crate::time::Instant;

/// Longest address that is taken, in bytes: a host name of 255 and a port.
pub const ADDRESS_BYTES_MAX: usize = 261;

/// Longest text of a program's version, in bytes.
pub const SOFTWARE_BYTES_MAX: usize = 64;

/// Most shards that a node tells it leads, so that a whole record fits into one message. Who leads
/// the others is found by asking.
pub const LEADS_MAX: usize = 64;

impl Entry {
    /// What decides between two beliefs about one node; the larger one wins.
    fn weight(&self) -> (Generation, bool, Heartbeat, MemberState) {
        (self.generation, self.state == MemberState::Left, self.heartbeat, self.state)
    }

    /// Whether this belief wins over `other`, and differs from it.
    pub(super) fn wins_over(&self, other: &Self) -> bool {
        self.weight() > other.weight()
    }
}

impl MemberState {
    /// Whether a member in this state is worth talking to.
    pub fn is_live(self) -> bool {
        match self {
            Self::Alive | Self::Suspect => true,
            Self::Down | Self::Left => false,
        }
    }
}

/// A value with the version of its last change.
#[derive(Clone, Debug)]
pub(super) struct Versioned<T> {
    pub(super) version: RecordVersion,
    pub(super) value: T,
}

impl<T: Default> Default for Versioned<T> {
    fn default() -> Self {
        Self { version: RecordVersion(0), value: T::default() }
    }
}

/// What a node tells of itself.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Grows with every change of a value.
    pub(super) version: RecordVersion,
    pub(super) endpoint: Versioned<Endpoint>,
    pub(super) release: Versioned<Release>,
    pub(super) load: Versioned<Load>,
    pub(super) map_version: Versioned<u64>,
    pub(super) leads: Versioned<Vec<ShardLead>>,
}

impl Record {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            version: RecordVersion(0),
            endpoint: Versioned { version: RecordVersion(0), value: endpoint },
            release: Versioned::default(),
            load: Versioned::default(),
            map_version: Versioned::default(),
            leads: Versioned::default(),
        }
    }

    /// All values that changed after `base`.
    pub(super) fn values_after(&self, base: RecordVersion) -> Vec<(RecordVersion, Value)> {
        let values = [
            (self.endpoint.version, Value::Endpoint(self.endpoint.value.clone())),
            (self.release.version, Value::Release(self.release.value.clone())),
            (self.load.version, Value::Load(self.load.value)),
            (self.map_version.version, Value::MapVersion(self.map_version.value)),
            (self.leads.version, Value::Leads(self.leads.value.clone())),
        ];
        values.into_iter().filter(|(version, _)| *version > base).collect()
    }

    /// Sets one value.
    pub(super) fn set(&mut self, version: RecordVersion, value: Value) {
        match value {
            Value::Endpoint(value) => self.endpoint = Versioned { version, value },
            Value::Release(value) => self.release = Versioned { version, value },
            Value::Load(value) => self.load = Versioned { version, value },
            Value::MapVersion(value) => self.map_version = Versioned { version, value },
            Value::Leads(value) => self.leads = Versioned { version, value },
        }
    }
}

impl Value {
    /// Whether a record may hold this.
    pub(super) fn is_valid(&self) -> bool {
        match self {
            Self::Endpoint(endpoint) => endpoint.address.0.len() <= ADDRESS_BYTES_MAX,
            Self::Release(release) => release.software.len() <= SOFTWARE_BYTES_MAX,
            Self::Leads(leads) => leads.len() <= LEADS_MAX,
            Self::Load(_) | Self::MapVersion(_) => true,
        }
    }
}

impl Delta {
    /// The endpoint, if this is a whole record.
    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.values.iter().find_map(|(_, value)| match value {
            Value::Endpoint(endpoint) if self.base == RecordVersion(0) => Some(endpoint),
            Value::Endpoint(_)
            | Value::Release(_)
            | Value::Load(_)
            | Value::MapVersion(_)
            | Value::Leads(_) => None,
        })
    }
}

/// What a new belief changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing: what was known weighs as much or more.
    None,
    /// Another sign of life, as expected.
    Heartbeat,
    /// State or generation: news for the others.
    News,
}

/// What a node knows of another.
///
/// `record.version` is 0 while only values of an earlier generation than `entry.generation` are
/// known; those stand until newer ones come.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) entry: Entry,
    pub(super) record: Record,
    pub(super) detector: Detector,
    /// When the present state began, as seen here.
    pub(super) state_since: Instant,
}

impl Member {
    /// A member that was just heard of.
    pub(super) fn new(criteria: &Criteria, now: Instant, entry: Entry, endpoint: Endpoint) -> Self {
        let detector = Detector::new(criteria, now);
        Self { entry, record: Record::new(endpoint), detector, state_since: now }
    }

    /// Takes over a belief if it wins.
    pub(super) fn merge(&mut self, criteria: &Criteria, now: Instant, told: &Entry) -> Change {
        if !told.wins_over(&self.entry) {
            return Change::None;
        }
        let is_reborn = told.generation > self.entry.generation;
        let is_back = !self.entry.state.is_live() && told.state.is_live();
        if is_reborn || is_back {
            self.detector = Detector::new(criteria, now);
        } else if told.heartbeat > self.entry.heartbeat {
            self.detector.on_heartbeat(criteria, now);
        }
        let is_news = is_reborn || told.state != self.entry.state;
        if is_reborn {
            self.record.version = RecordVersion(0);
        }
        self.entry.generation = told.generation;
        self.entry.heartbeat = told.heartbeat;
        self.set_state(now, told.state);
        if is_news { Change::News } else { Change::Heartbeat }
    }

    /// Takes over the values of a delta whose entry was merged. Values that do not join on to what
    /// is known, or are older, change nothing.
    pub(super) fn apply(&mut self, delta: Delta) {
        let held = self.record.version;
        let is_same_life = delta.entry.generation == self.entry.generation;
        if !is_same_life || delta.base > held || delta.version <= held {
            return;
        }
        for (version, value) in delta.values {
            if version > held {
                self.record.set(version, value);
            }
        }
        self.record.version = delta.version;
    }

    /// Where messages to it go.
    pub(super) fn to(&self) -> To {
        let address = self.record.endpoint.value.address.clone();
        To { node: Some(self.entry.node), address }
    }

    pub(super) fn set_state(&mut self, now: Instant, state: MemberState) {
        if state != self.entry.state {
            self.entry.state = state;
            self.state_since = now;
        }
    }
}
