//! Registers with compare-and-set as Jepsen records them, in its log or in EDN.
//!
//! The two are read differently, as their tests mean it:
//!
//! | | log | EDN |
//! |---|---|---|
//! | at first | nothing | 0 |
//! | `nil` read | nothing was there | says nothing |
//! | `:fail` of a `cas` | the register was not as wanted | it did not happen |
//!
//! In both, `:info` is an outcome that nobody will ever know.

use std::collections::HashMap;

use super::edn::{Edn, Reader};
use super::edn_events::EdnEvents;
use super::events::{KINDS, at_line, kind_of};
use crate::history::{Event, EventKind, Expect, History, MicroOp, Model, Observed, Process};
use crate::operation;
use crate::parse::ParseError;

/// The only key there is.
const KEY: &str = "register";

/// How a format means what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Log,
    Edn,
}

pub(super) fn read_log(text: &str) -> Result<History, ParseError> {
    let mut events = Events::new(Meaning::Log);
    let mut has_events = false;
    // The first line that tells of an event in another way.
    let mut foreign = None;
    for (number, line) in (1..).zip(text.lines()) {
        let Some(event) = event_of_log(line.trim()) else {
            foreign = foreign.or_else(|| line.contains(":invoke").then_some(number));
            continue;
        };
        let (process, kind, f, value) = event;
        let other = || at_line(number, format!("expected {KINDS}; found :{kind}"));
        let kind = kind_of(kind).ok_or_else(other)?;
        has_events = true;
        let mut reader = Reader::new(value);
        let value = reader.value().map_err(|error| ParseError { line: number, ..error })?;
        events.push(number, process, kind, f, &value)?;
    }
    // Of a log that is written in another way nothing is read, and that would hold for no reason.
    if let Some(line) = foreign.filter(|_| !has_events) {
        let what = "expected a line like 'INFO jepsen.util - 0 :invoke :read nil'";
        return Err(at_line(line, what.to_owned()));
    }
    events.finish()
}

/// `INFO jepsen.util - 3 :ok :read 4`; any other line says nothing.
fn event_of_log<'l>(line: &'l str) -> Option<(u64, &'l str, &'l str, &'l str)> {
    let rest = line.strip_prefix("INFO")?.trim_start().strip_prefix("jepsen.util")?.trim_start();
    let word = |text: &'l str| match text.trim_start().split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text.trim_start(), ""),
    };
    let (process, rest) = word(rest.strip_prefix('-')?);
    let (kind, rest) = word(rest);
    let (f, value) = word(rest);
    let (kind, f) = (kind.strip_prefix(':')?, f.strip_prefix(':')?);
    let is_event = matches!(f, "read" | "write" | "cas");
    let value = if value.is_empty() { "nil" } else { value };
    is_event.then_some((process.parse().ok()?, kind, f, value))
}

/// Reads events of a register, with `cas` if it `has_cas`.
pub(super) fn read_edn(text: &str, has_cas: bool) -> Result<History, ParseError> {
    let mut events = Events::new(Meaning::Edn);
    for event in EdnEvents::new(text) {
        let event = event?;
        if event.f == "cas" && !has_cas {
            return Err(event.expected("an :f of :read or :write; found :cas"));
        }
        events.push(event.line, event.client()?, event.kind, event.f, &event.value)?;
    }
    events.finish()
}

/// Events in the making.
struct Events {
    meaning: Meaning,
    history: History,
    /// The line of each event.
    lines: Vec<usize>,
    /// What each process asked for last.
    asked: HashMap<u64, MicroOp>,
}

impl Events {
    fn new(meaning: Meaning) -> Self {
        let mut events = {
            let (history, lines) = (History::new(Model::Register), Vec::new());
            Self { meaning, history, lines, asked: HashMap::new() }
        };
        if meaning == Meaning::Edn {
            let first = MicroOp::put(KEY, "0");
            events.add(1, u64::MAX, EventKind::Invoke, first.clone());
            events.add(1, u64::MAX, EventKind::Ok, first);
            events.history.events.iter_mut().for_each(Event::make_initial);
        }
        events
    }

    fn add(&mut self, line: usize, process: u64, kind: EventKind, op: MicroOp) {
        if kind == EventKind::Invoke {
            self.asked.insert(process, op.clone());
        }
        let time = self.lines.len() as u64;
        self.history.push(time, Process::Client(process), kind, vec![op]);
        self.lines.push(line);
    }

    fn push(
        &mut self,
        line: usize,
        process: u64,
        mut kind: EventKind,
        f: &str,
        value: &Edn<'_>,
    ) -> Result<(), ParseError> {
        let is_fail = kind == EventKind::Fail;
        let op = match (f, value) {
            ("read", value) => self.read(line, kind, value)?,
            ("write", value) => match number(value) {
                Some(value) => MicroOp::put(KEY, &value),
                None => self.asked(line, process, kind)?,
            },
            ("cas", Edn::Sequence(pair)) => match pair.iter().map(number).collect::<Vec<_>>()[..] {
                [Some(ref from), Some(ref to)] => {
                    let mut op = MicroOp::cas(KEY, Expect::Value(from.clone()), to);
                    if let MicroOp::Cas { applied, .. } = &mut op
                        && (kind == EventKind::Ok || (is_fail && self.meaning == Meaning::Log))
                    {
                        *applied = Some(!is_fail);
                        kind = EventKind::Ok;
                    }
                    op
                }
                _ => return Err(at_line(line, "expected a :value like [0 1]".into())),
            },
            ("cas", _) => self.asked(line, process, kind)?,
            (other, _) => {
                let what = format!("expected an :f of :read, :write or :cas; found :{other}");
                return Err(at_line(line, what));
            }
        };
        self.add(line, process, kind, op);
        Ok(())
    }

    fn read(&self, line: usize, kind: EventKind, value: &Edn<'_>) -> Result<MicroOp, ParseError> {
        let mut op = MicroOp::get(KEY);
        if let (MicroOp::Get { value: seen, .. }, EventKind::Ok) = (&mut op, kind) {
            *seen = match (value, number(value), self.meaning) {
                (_, Some(value), _) => Observed::Value(value),
                (Edn::Nil, _, Meaning::Log) => Observed::Absent,
                (Edn::Nil, _, Meaning::Edn) => Observed::NotReported,
                _ => return Err(at_line(line, "expected a number or nil that was read".into())),
            };
        }
        Ok(op)
    }

    /// What a process has asked for, if the end does not repeat it.
    fn asked(&self, line: usize, process: u64, kind: EventKind) -> Result<MicroOp, ParseError> {
        match (kind, self.asked.get(&process)) {
            (EventKind::Fail | EventKind::Info, Some(asked)) => Ok(asked.clone()),
            _ => Err(at_line(line, "expected a :value with numbers".into())),
        }
    }

    fn finish(self) -> Result<History, ParseError> {
        match operation::verify(&self.history) {
            Ok(()) => Ok(self.history),
            Err(error) => Err(at_line(self.lines[error.event], error.problem.to_string())),
        }
    }
}

fn number(value: &Edn<'_>) -> Option<String> {
    match value {
        Edn::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
