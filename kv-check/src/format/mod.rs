//! Histories of other programs.
//!
//! Each module reads one format into operations; [`Format::detect`] tells them apart by content.
//! Readers trust nothing: any text gives a recording or a [`ParseError`] with a position.

mod cases;
mod edn;
mod edn_events;
mod events;
mod jepsen;
mod jepsen_objects;
mod porcupine;
mod rule_events;
#[cfg(test)]
mod tests;
mod txn_events;
mod violin;
mod workload;

use std::str::FromStr;

use crate::history::History;
use crate::names::Names;
use crate::object::{
    Access, Call, CounterAction, MutexAction, PresenceAction, QueueAction, SetAction, Side,
    StringAction,
};
use crate::parse::ParseError;
use crate::transactions::{Balances, Case, Group, TxnHistory};
use txn_events::Keys;

pub use workload::Workload;

/// A format that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON lines, see [`crate::history`].
    JsonLines,
    /// Events of strings per key, as in the tests of Porcupine: `{:process 0, :type :invoke, :f
    /// :get, :key "0", :value nil}`.
    PorcupineKv,
    /// The log of a Jepsen test of a register: `INFO jepsen.util - 0 :invoke :read nil`.
    JepsenLog,
    /// Jepsen's events in EDN, of any [`Workload`].
    JepsenEdn,
    /// Calls and returns of a queue or a stack, as Violin records them: `[1] call add(2)`.
    Violin,
    /// Small histories of transactions with what is known of each, as one JSON array.
    UnitJson,
}

/// The names of all formats, for people.
pub const FORMAT_NAMES: [(&str, Format); 6] = [
    ("json-lines", Format::JsonLines),
    ("porcupine-kv", Format::PorcupineKv),
    ("jepsen-log", Format::JepsenLog),
    ("jepsen-edn", Format::JepsenEdn),
    ("violin", Format::Violin),
    ("unit-json", Format::UnitJson),
];

/// What was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording(pub(crate) Recorded);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Keys with values and versions.
    Keys(History),
    /// Strings by key.
    Strings(Vec<(String, Vec<Call<StringAction>>)>),
    /// One queue or stack.
    Queue(QueueRecord),
    /// The elements of a set, by name.
    Elements(Vec<(String, Vec<Call<PresenceAction>>)>),
    /// One lock.
    Mutex(Vec<Call<MutexAction>>),
    /// One set.
    Set(SetRecord),
    /// One counter.
    Counter(Vec<Call<CounterAction>>),
    /// Several registers, those apart that no transactions connect.
    Registers(Vec<RegisterRecord>),
    /// Transactions.
    Transactions(Box<TxnHistory>),
    /// Transactions of which only the guarantees of sessions count.
    Sessions(Box<TxnHistory>),
    /// Balances, and whether they may be negative.
    Bank(Vec<Balances>, bool),
    /// Reads of groups of keys.
    LongFork(Vec<Group>),
    /// Small histories with known verdicts.
    Cases(Vec<Case>),
}

/// The history of registers that transactions connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RegisterRecord {
    pub(crate) names: Vec<String>,
    pub(crate) calls: Vec<Call<Vec<Access>>>,
}

/// The history of a queue or a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueRecord {
    pub(crate) side: Side,
    pub(crate) calls: Vec<Call<QueueAction>>,
    /// Each value's text, by its number.
    pub(crate) values: Names,
}

impl QueueRecord {
    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        match self.side {
            Side::Oldest => "queue",
            Side::Newest => "stack",
        }
    }
}

/// The history of a set that grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetRecord {
    pub(crate) calls: Vec<Call<SetAction>>,
    /// Each element's text, by its number.
    pub(crate) elements: Names,
    /// Whether all reads count, not the last alone.
    pub(crate) is_full: bool,
}

impl Format {
    /// Which format a text is in, by what stands in its first lines that say something.
    #[must_use]
    pub fn detect(text: &str) -> Self {
        let first = text.trim_start().strip_prefix('[').map(str::trim_start);
        let first = first.and_then(|rest| rest.strip_prefix('{')).map(str::trim_start);
        if first.is_some_and(|rest| rest.starts_with('"')) {
            return Self::UnitJson;
        }
        for line in text.lines().map(str::trim) {
            if line.starts_with("INFO") || line.starts_with("WARN") {
                return Self::JepsenLog;
            }
            if line.starts_with("{\"") {
                return Self::JsonLines;
            }
            if line.starts_with("# @object") || (line.starts_with('[') && line.contains("] call "))
            {
                return Self::Violin;
            }
            if line.starts_with("{:") && line.contains(":key ") {
                return Self::PorcupineKv;
            }
            if line.starts_with(['{', '[', '(']) || line.starts_with("#jepsen") {
                return Self::JepsenEdn;
            }
        }
        Self::JsonLines
    }

    /// Reads a text of this format.
    ///
    /// # Errors
    /// The position of the first thing that does not belong there.
    pub fn read(self, text: &str) -> Result<Recording, ParseError> {
        Ok(Recording(match self {
            Self::JsonLines => Recorded::Keys(History::parse(text)?),
            Self::PorcupineKv => Recorded::Strings(porcupine::read(text)?),
            Self::JepsenLog => Recorded::Keys(jepsen::read_log(text)?),
            Self::JepsenEdn => return self.read_as(text, Workload::recognize(text)),
            Self::Violin => violin::read(text)?,
            Self::UnitJson => Recorded::Cases(cases::read(text)?),
        }))
    }

    /// Reads a text of this format as a history of this workload. Only Jepsen's EDN has several.
    ///
    /// # Errors
    /// The position of the first thing that does not belong there.
    pub fn read_as(self, text: &str, workload: Workload) -> Result<Recording, ParseError> {
        if self != Self::JepsenEdn {
            let what = format!("expected events in EDN, of which there is a model {workload}");
            return Err(ParseError { line: 1, column: 1, expected: what });
        }
        Ok(Recording(match workload {
            Workload::Register => Recorded::Keys(jepsen::read_edn(text, false)?),
            Workload::CasRegister => Recorded::Keys(jepsen::read_edn(text, true)?),
            Workload::Mutex => jepsen_objects::read_mutex(text)?,
            Workload::MultiRegister => jepsen_objects::read_registers(text)?,
            Workload::Set => jepsen_objects::read_set(text, false)?,
            Workload::SetFull => jepsen_objects::read_set(text, true)?,
            Workload::Counter => jepsen_objects::read_counter(text)?,
            Workload::ListAppend => {
                Recorded::Transactions(Box::new(txn_events::read(text, Keys::Lists)?))
            }
            Workload::RwRegister => {
                Recorded::Transactions(Box::new(txn_events::read(text, Keys::Registers)?))
            }
            Workload::SessionGuarantees => {
                Recorded::Sessions(Box::new(txn_events::read(text, Keys::Registers)?))
            }
            Workload::Bank => Recorded::Bank(rule_events::read_bank(text)?, false),
            Workload::BankNegative => Recorded::Bank(rule_events::read_bank(text)?, true),
            Workload::LongFork => Recorded::LongFork(rule_events::read_forks(text)?),
        }))
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = FORMAT_NAMES.iter().find(|(known, _)| *known == name);
        let names = FORMAT_NAMES.map(|(name, _)| name).join(", ");
        found.map(|(_, format)| *format).ok_or_else(|| format!("expected one of {names}"))
    }
}
