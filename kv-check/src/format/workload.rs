//! What a history in EDN is of.

use std::fmt;
use std::str::FromStr;

use super::edn::Edn;
use super::edn_events::{EdnEvent, EdnEvents};
use super::rule_events;
use super::txn_events::{self, Keys};

/// What Jepsen's events are of: which operations there are, and what they promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// One register, 0 at first: `:read` and `:write`.
    Register,
    /// The same with `:cas`.
    CasRegister,
    /// One lock, free at first: `:acquire` and `:release`, by whomever.
    Mutex,
    /// Several registers, 0 at first: `:txn` with `:read` and `:write`.
    MultiRegister,
    /// A set: `:add`, and `:read` of all. Only the last read counts.
    Set,
    /// The same, and every read counts.
    SetFull,
    /// A counter, 0 at first: `:add`, and `:read` of the sum. Each read counts for itself.
    Counter,
    /// Transactions over lists, empty at first: `:txn` with `:append` and `:r`.
    ListAppend,
    /// Transactions over registers, without a value at first: `:txn` with `:w` and `:r`.
    RwRegister,
    /// The same, held to the guarantees of sessions only.
    SessionGuarantees,
    /// A bank whose accounts keep their sum, and are not negative: `:read` and `:transfer`.
    Bank,
    /// The same with negative balances.
    BankNegative,
    /// Groups of keys that are written once: `:read` and `:write`, with `:r` and `:w`.
    LongFork,
}

/// The names of all workloads, for people.
pub(super) const WORKLOAD_NAMES: [(&str, Workload); 13] = [
    ("register", Workload::Register),
    ("cas-register", Workload::CasRegister),
    ("mutex", Workload::Mutex),
    ("multi-register", Workload::MultiRegister),
    ("set", Workload::Set),
    ("set-full", Workload::SetFull),
    ("counter", Workload::Counter),
    ("list-append", Workload::ListAppend),
    ("rw-register", Workload::RwRegister),
    ("session-guarantees", Workload::SessionGuarantees),
    ("bank", Workload::Bank),
    ("bank-negative", Workload::BankNegative),
    ("long-fork", Workload::LongFork),
];

impl Workload {
    /// Which workload a text is of, by the first events that tell.
    ///
    /// A text that does not tell, or cannot be read, is one of a register.
    #[must_use]
    pub fn recognize(text: &str) -> Self {
        let (mut adds, mut sums) = (false, false);
        for event in EdnEvents::new(text).map_while(Result::ok) {
            if let Some(workload) = Self::of(&event) {
                return workload;
            }
            adds |= event.f == "add";
            sums |= event.f == "read" && matches!(event.value, Edn::Number(_));
            if adds && sums {
                return Self::Counter;
            }
        }
        if adds { Self::Set } else { Self::CasRegister }
    }

    /// Which workload has an event like this, if only one has.
    fn of(event: &EdnEvent<'_>) -> Option<Self> {
        if rule_events::is_of_bank(event) {
            return Some(Self::Bank);
        }
        if rule_events::is_of_forks(event) {
            return Some(Self::LongFork);
        }
        match event.f {
            "write" | "cas" => Some(Self::CasRegister),
            "acquire" | "release" => Some(Self::Mutex),
            "read" if is_all_elements(&event.value) => Some(Self::Set),
            "txn" if is_of_registers(&event.value) => Some(Self::MultiRegister),
            _ => txn_events::keys_of(event).map(|keys| match keys {
                Keys::Lists => Self::ListAppend,
                Keys::Registers => Self::RwRegister,
            }),
        }
    }
}

/// Whether a read found the elements of a set, not parts of a transaction.
fn is_all_elements(value: &Edn<'_>) -> bool {
    let Edn::Sequence(elements) = value else { return false };
    !matches!(elements.first(), Some(Edn::Sequence(_)))
}

/// Whether a transaction reads and writes registers.
fn is_of_registers(value: &Edn<'_>) -> bool {
    let Edn::Sequence(accesses) = value else { return false };
    let Some(Edn::Sequence(access)) = accesses.first() else { return false };
    matches!(access.first(), Some(Edn::Keyword("read" | "write")))
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
