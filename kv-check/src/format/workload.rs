//! What a history in EDN is of.

use std::fmt;
use std::str::FromStr;

use super::edn_events::{EdnEvent, EdnEvents};
use super::txn_events;

/// What Jepsen's events are of: which operations there are, and what they promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// One register, 0 at first: `:read` and `:write`.
    Register,
    /// The same with `:cas`.
    CasRegister,
    /// One lock, free at first: `:acquire` and `:release`, by whomever.
    Mutex,
    /// Transactions over lists, empty at first: `:txn` with `:append` and `:r`.
    ListAppend,
}

/// The names of all workloads, for people.
pub(super) const WORKLOAD_NAMES: [(&str, Workload); 4] = [
    ("register", Workload::Register),
    ("cas-register", Workload::CasRegister),
    ("mutex", Workload::Mutex),
    ("list-append", Workload::ListAppend),
];

impl Workload {
    /// Which workload a text is of, by the first event that tells.
    ///
    /// A text that does not tell, or cannot be read, is one of a register.
    #[must_use]
    pub fn recognize(text: &str) -> Self {
        let mut events = EdnEvents::new(text).map_while(Result::ok);
        events.find_map(|event| Self::of(&event)).unwrap_or(Self::CasRegister)
    }

    /// Which workload has an event like this, if only one has.
    fn of(event: &EdnEvent<'_>) -> Option<Self> {
        match event.f {
            "write" | "cas" => Some(Self::CasRegister),
            "acquire" | "release" => Some(Self::Mutex),
            _ => txn_events::is_of_lists(event).then_some(Self::ListAppend),
        }
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = WORKLOAD_NAMES.iter().find(|(known, _)| *known == name);
        let names = WORKLOAD_NAMES.map(|(name, _)| name).join(", ");
        found.map(|(_, workload)| *workload).ok_or_else(|| format!("expected one of {names}"))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = WORKLOAD_NAMES.iter().find(|(_, known)| known == self);
        out.write_str(found.map_or("", |(name, _)| name))
    }
}
