//! The history of a run: what every client asked, what it was told, and when.
//!
//! A history is the only thing the checker knows about the database.
//! It is recorded by the clients, never by the servers, so that a bug in a server cannot hide
//! itself, and it is complete in one sense: an operation that is not in it did not happen.
//!
//! # Shape on disk
//!
//! JSON lines.
//! The first line is the header, each further line is one event (the second one folded here):
//!
//! ```text
//! {"version":1,"model":"kv"}
//! {"index":0,"time_ns":10,"process":3,"type":"invoke","f":"get","ops":[{"op":"get","key":"k"}]}
//! {"index":1,"time_ns":25,"process":3,"type":"ok","f":"get",
//!     "ops":[{"op":"get","key":"k","value":"v","version":8}]}
//! {"index":2,"time_ns":30,"process":"nemesis","type":"info","f":"partition","ops":[]}
//! ```
//!
//! The order of the lines is the order of real time: `index` strictly increases and `time_ns`
//! never decreases.
//! An operation is an `invoke` and a later completion of the same process:
//!
//! - `ok`: it took effect between the two lines, and the completion says what it saw.
//! - `fail`: it certainly had no effect.
//! - `info`, or no completion at all: the outcome is unknown for ever.
//!   The operation may take effect at any later time, or never, so the process number is retired.
//!
//! A field that a completion lacks does not constrain: a `put` without `version` got some version.
//! A `null` version means the same as a missing one, but a `null` value of a `get` means that the
//! key was absent, which is an observation; see [`Observed`].
//!
//! # Keys and values
//!
//! Keys and values are JSON strings and are only ever compared for equality.
//! A recorder whose keys or values are not UTF-8 text writes them in any encoding that keeps
//! different bytes different, by convention `b64:` and the base64 form.
//!
//! # What this leaves out
//!
//! Transactions: `ops` is a list so that they fit later, but a client event with more than one
//! micro-operation is refused (see [`crate::Problem::Transaction`]).

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The one version of the format that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// A recorded run.
///
/// Built in memory by a recorder or read by [`History::parse`].
/// A parsed history is well-formed; one that was built in memory is verified by [`crate::check()`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// What kind of data the events are about.
    pub header: Header,
    /// The events in the order of real time.
    pub events: Vec<Event>,
}

/// The first line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the format, always [`FORMAT_VERSION`].
    pub version: u32,
    /// The sequential data type that the events must agree with.
    pub model: Model,
    /// Free text for reports, for example the scenario and the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The sequential data type of a history.
///
/// Both mean the same to the checker: each key holds an optional value with a version and starts
/// absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// Few keys, each under heavy contention.
    Register,
    /// A key-value store.
    Kv,
}

/// One line of a history after the header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Position in real time, strictly increasing.
    pub index: u64,
    /// Nanoseconds since some fixed start, never decreasing; for people, not for the verdict.
    pub time_ns: u64,
    /// Who did it.
    pub process: Process,
    /// Which part of an operation this is.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// Name of the operation or, for the nemesis, kind of the fault; for people only.
    #[serde(deserialize_with = "name")]
    pub f: Cow<'static, str>,
    /// The operation: one element for clients, none for the nemesis.
    #[serde(deserialize_with = "micro_ops")]
    pub ops: Vec<MicroOp>,
}

impl Event {
    /// Makes the event stand for the value that was there at first: nobody wrote it, and it is not
    /// shown to anybody.
    pub(crate) fn make_initial(&mut self) {
        (self.process, self.f) = (INITIAL_PROCESS, INITIAL.into());
    }

    /// Whether the event stands for the value that was there at first.
    pub(crate) fn is_initial(&self) -> bool {
        self.process == INITIAL_PROCESS && self.f == INITIAL
    }
}

/// What the events of the value that was there at first are called.
const INITIAL: &str = "initial value";

/// Their process, whose number no format reads that has such a value.
const INITIAL_PROCESS: Process = Process::Client(u64::MAX);

/// The author of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// A sequential client; a client that got an unknown outcome goes on under a new number.
    Client(u64),
    /// The source of faults: an `info` event starts a fault, the next one of the same `f` ends it.
    Nemesis,
}

/// Which part of an operation an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// The client is about to send its request.
    Invoke,
    /// The operation took effect and its results are known.
    Ok,
    /// The operation certainly had no effect.
    Fail,
    /// For a client: the outcome is unknown for ever. For the nemesis: a fault starts or ends.
    Info,
}

/// One operation on one key, with the results that its completion reports.
///
/// In an `invoke` event the result fields are not reported; the constructors make that form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum MicroOp {
    /// Reads a key.
    Get {
        /// The key.
        key: String,
        /// Result: what was there.
        #[serde(skip_serializing_if = "Observed::is_not_reported")]
        value: Observed,
        /// Result: the version of the value; an absent key has none.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    /// Sets a key, whatever it held.
    Put {
        /// The key.
        key: String,
        /// The new value.
        value: String,
        /// Result: the version that the write got.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    /// Makes a key absent.
    Delete {
        /// The key.
        key: String,
        /// Result: whether there was something to delete.
        #[serde(skip_serializing_if = "Option::is_none")]
        existed: Option<bool>,
    },
    /// Sets a key if it is as expected.
    Cas {
        /// The key.
        key: String,
        /// What the key must be for the write to happen.
        expect: Expect,
        /// The new value.
        value: String,
        /// Result: whether the key was as expected, and so the write happened.
        #[serde(skip_serializing_if = "Option::is_none")]
        applied: Option<bool>,
        /// Result: the version that the write got, if it happened.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
}

/// What a `cas` demands of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// The key holds this value.
    Value(String),
    /// The key holds a value of this version.
    Version(u64),
    /// The key holds nothing.
    Absent,
}

/// What a `get` saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Observed {
    /// The event does not say, so it does not constrain; the field is left out.
    #[default]
    NotReported,
    /// The key was absent; written as `null`.
    Absent,
    /// The key held this value.
    Value(String),
}

impl History {
    /// Creates a history of `model` without events.
    #[must_use]
    pub fn new(model: Model) -> Self {
        let header = Header { version: FORMAT_VERSION, model, name: None };
        Self { header, events: Vec::new() }
    }

    /// Appends an event and numbers it.
    ///
    /// `time_ns` must not be less than that of the event before.
    pub fn push(&mut self, time_ns: u64, process: Process, kind: EventKind, ops: Vec<MicroOp>) {
        let f = Cow::Borrowed(ops.first().map_or("", MicroOp::name));
        let index = self.next_index();
        self.events.push(Event { index, time_ns, process, kind, f, ops });
    }

    /// Appends the start or the end of a fault of the given kind.
    pub fn push_fault(&mut self, time_ns: u64, kind: &str) {
        let index = self.next_index();
        self.events.push(Event {
            index,
            time_ns,
            process: Process::Nemesis,
            kind: EventKind::Info,
            f: Cow::Owned(kind.to_owned()),
            ops: Vec::new(),
        });
    }

    /// The index of the next event, above all others.
    pub(crate) fn next_index(&self) -> u64 {
        self.events.last().map_or(0, |event| event.index.saturating_add(1))
    }
}

/// Writes `history` as JSON lines.
///
/// # Errors
///
/// The error of `out`; what was written before it stays written.
pub fn write_to(history: &History, mut out: impl Write) -> io::Result<()> {
    write_line(&history.header, &mut out)?;
    for event in &history.events {
        write_line(event, &mut out)?;
    }
    out.flush()
}

fn write_line(line: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

impl MicroOp {
    /// Creates the request to read `key`.
    #[must_use]
    pub fn get(key: &str) -> Self {
        Self::Get { key: key.to_owned(), value: Observed::NotReported, version: None }
    }

    /// Creates the request to set `key` to `value`.
    #[must_use]
    pub fn put(key: &str, value: &str) -> Self {
        Self::Put { key: key.to_owned(), value: value.to_owned(), version: None }
    }

    /// Creates the request to make `key` absent.
    #[must_use]
    pub fn delete(key: &str) -> Self {
        Self::Delete { key: key.to_owned(), existed: None }
    }

    /// Creates the request to set `key` to `value` if it is as in `expect`.
    #[must_use]
    pub fn cas(key: &str, expect: Expect, value: &str) -> Self {
        let (key, value) = (key.to_owned(), value.to_owned());
        Self::Cas { key, expect, value, applied: None, version: None }
    }

    /// The key that the operation is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Get { key, .. }
            | Self::Put { key, .. }
            | Self::Delete { key, .. }
            | Self::Cas { key, .. } => key,
        }
    }

    /// The name of the operation as in the field `op`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
            Self::Delete { .. } => "delete",
            Self::Cas { .. } => "cas",
        }
    }

    /// Whether both are the same request, whatever their results.
    #[must_use]
    pub fn is_same_request(&self, other: &Self) -> bool {
        if self.key() != other.key() {
            return false;
        }
        match (self, other) {
            (Self::Get { .. }, Self::Get { .. }) | (Self::Delete { .. }, Self::Delete { .. }) => {
                true
            }
            (Self::Put { value, .. }, Self::Put { value: other, .. }) => value == other,
            (
                Self::Cas { expect, value, .. },
                Self::Cas { expect: other_expect, value: other, .. },
            ) => value == other && expect == other_expect,
            _ => false,
        }
    }
}

impl Observed {
    /// Whether the event says nothing about the value.
    #[must_use]
    pub fn is_not_reported(&self) -> bool {
        matches!(self, Self::NotReported)
    }
}

impl Serialize for Observed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::NotReported | Self::Absent => serializer.serialize_none(),
            Self::Value(value) => serializer.serialize_str(value),
        }
    }
}

impl<'de> Deserialize<'de> for Observed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Absent, Self::Value))
    }
}

impl Serialize for Process {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Client(number) => serializer.serialize_u64(*number),
            Self::Nemesis => serializer.serialize_str("nemesis"),
        }
    }
}

impl<'de> Deserialize<'de> for Process {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ProcessVisitor)
    }
}

struct ProcessVisitor;

impl Visitor<'_> for ProcessVisitor {
    type Value = Process;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a client number or \"nemesis\"")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Process, E> {
        Ok(Process::Client(number))
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Process, E> {
        match name {
            "nemesis" => Ok(Process::Nemesis),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(name), &self)),
        }
    }
}

/// Reads the name of an operation; those that are known need no memory of their own.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, str>, D::Error> {
    deserializer.deserialize_str(NameVisitor)
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Cow<'static, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Cow<'static, str>, E> {
        Ok(match name {
            "get" => Cow::Borrowed("get"),
            "put" => Cow::Borrowed("put"),
            "delete" => Cow::Borrowed("delete"),
            "cas" => Cow::Borrowed("cas"),
            other => Cow::Owned(other.to_owned()),
        })
    }
}

/// Reads micro-operations into a list without room for more, as nearly every event has one.
fn micro_ops<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<MicroOp>, D::Error> {
    deserializer.deserialize_seq(MicroOpsVisitor)
}

struct MicroOpsVisitor;

impl<'de> Visitor<'de> for MicroOpsVisitor {
    type Value = Vec<MicroOp>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut ops: A) -> Result<Vec<MicroOp>, A::Error> {
        let Some(first) = ops.next_element()? else { return Ok(Vec::new()) };
        let mut all = vec![first];
        while let Some(next) = ops.next_element()? {
            all.push(next);
        }
        Ok(all)
    }
}

impl fmt::Display for Model {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Register => "register",
            Self::Kv => "kv",
        })
    }
}

/// A micro-operation with every field that any kind has.
///
/// Reading into one flat struct keeps the column of an error exact and refuses a misspelt result
/// field, which would otherwise silently stop to constrain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a micro-operation")]
struct RawMicroOp {
    op: OpName,
    key: String,
    #[serde(default)]
    value: Observed,
    version: Option<u64>,
    existed: Option<bool>,
    expect: Option<Expect>,
    applied: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OpName {
    Get,
    Put,
    Delete,
    Cas,
}

impl<'de> Deserialize<'de> for MicroOp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawMicroOp::deserialize(deserializer)?;
        raw.refuse_foreign_fields().map_err(D::Error::custom)?;
        raw.into_micro_op().map_err(D::Error::custom)
    }
}

impl RawMicroOp {
    fn refuse_foreign_fields(&self) -> Result<(), &'static str> {
        if self.existed.is_some() && self.op != OpName::Delete {
            return Err("only a delete has the field `existed`");
        }
        if (self.expect.is_some() || self.applied.is_some()) && self.op != OpName::Cas {
            return Err("only a cas has the fields `expect` and `applied`");
        }
        if self.op == OpName::Delete && !(self.value.is_not_reported() && self.version.is_none()) {
            return Err("a delete has neither `value` nor `version`");
        }
        Ok(())
    }

    fn into_micro_op(self) -> Result<MicroOp, &'static str> {
        let Self { op, key, value, version, existed, expect, applied } = self;
        Ok(match op {
            OpName::Get => MicroOp::Get { key, value, version },
            OpName::Put => MicroOp::Put { key, value: written(value)?, version },
            OpName::Delete => MicroOp::Delete { key, existed },
            OpName::Cas => {
                let expect = expect.ok_or("a cas needs the field `expect`")?;
                MicroOp::Cas { key, expect, value: written(value)?, applied, version }
            }
        })
    }
}

fn written(value: Observed) -> Result<String, &'static str> {
    match value {
        Observed::Value(value) => Ok(value),
        Observed::NotReported | Observed::Absent => {
            Err("a put and a cas need the field `value` with a string")
        }
    }
}
