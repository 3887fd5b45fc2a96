//! Checking what any program has recorded.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::budget::Options;
use crate::check::check_with;
use crate::decision::{Decided, Decision, Method};
use crate::format::{QueueRecord, Recorded, Recording, RegisterRecord};
use crate::judge;
use crate::object::{
    Call, Counter, GrowSet, Mutex, Object, PENDING, Presence, Queue, Registers, Side, Text, fifo,
    lifo, observed, search,
};
use crate::report::{Report, Verdict, as_count, printable};
use crate::transactions::{
    Cases, Rules, TxnReport, bank, check_cases, check_transactions, long_fork, session_guarantees,
};
use crate::window::{self, ObjectWindow};
use crate::witness;

/// How many windows are looked for.
const WINDOWS_MAX: usize = 5;

/// What a check of a [`Recording`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Finding {
    /// Of keys with values and versions.
    Keys(Box<Report>),
    /// Of objects of another type.
    Objects(Objects),
    /// Of transactions.
    Transactions(Box<TxnReport>),
    /// Of rules of transactions that need no order.
    Rules(Rules),
    /// Of small histories with known verdicts.
    Cases(Cases),
}

/// What a check of objects found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Objects {
    /// The answer: the worst of all objects.
    pub verdict: Verdict,
    /// What the objects are.
    pub kind: &'static str,
    /// How many there are.
    pub count: usize,
    /// How many operations they have.
    pub operations: usize,
    /// How many of those nobody saw completed.
    pub pending: usize,
    /// How they were decided.
    pub method: Method,
    /// For each one whose operations have an order that was found and replayed: that order, as the
    /// positions of the events that invoked them.
    #[serde(serialize_with = "as_count", rename = "replayed")]
    pub witness: BTreeMap<String, Vec<u64>>,
    /// The names of those whose operations have no order.
    pub violated: Vec<String>,
    /// For some of them, the calls that exclude each other.
    pub windows: Vec<ObjectWindow>,
    /// The names of those whose search was given up.
    pub undecided: Vec<String>,
    /// What is wrong, in words, where that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Orders that did not pass their replay. Each is a defect of this checker, so the verdict is
    /// unknown at best.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flaws: Vec<String>,
}

impl Recording {
    /// Checks it.
    #[must_use]
    pub fn check(&self, options: &Options) -> Finding {
        match &self.0 {
            Recorded::Keys(history) => Finding::Keys(Box::new(check_with(history, options))),
            Recorded::Strings(keys) => {
                let mut objects = Objects::new("strings");
                for (key, calls) in keys {
                    let observed = observed::decide(calls);
                    let decided = match observed {
                        Some(decision) => decision.by(Method::ObservedOrder),
                        None => decided(&Text, calls, options),
                    };
                    objects.add(&Text, key, calls, decided);
                    objects.explain(key, || window::of_text(key, calls, options));
                }
                Finding::Objects(objects)
            }
            Recorded::Queue(record) => {
                let (QueueRecord { side, calls, .. }, name) = (record, record.name());
                let (rules, method) = match side {
                    Side::Oldest => (fifo::decide(calls), Method::QueueRules),
                    Side::Newest => {
                        (lifo::decide(calls, options.steps(calls.len())), Method::StackRules)
                    }
                };
                let mut objects = Objects::new(name);
                let by_search = || decided(&Queue(*side), calls, options);
                let decided = rules.map_or_else(by_search, |rules| rules.by(method));
                objects.add(&Queue(*side), name, calls, decided);
                objects.explain(name, || window::of_queue(record, options));
                Finding::Objects(objects)
            }
            Recorded::Sessions(history) => Finding::Rules(session_guarantees(history)),
            Recorded::Bank(reads, allows_negative) => Finding::Rules(bank(reads, *allows_negative)),
            Recorded::LongFork(reads) => Finding::Rules(long_fork(reads)),
            Recorded::Cases(cases) => Finding::Cases(check_cases(cases, options)),
            Recorded::Transactions(history) => {
                Finding::Transactions(Box::new(check_transactions(history, options)))
            }
            Recorded::Mutex(calls) => {
                let mut objects = Objects::new("mutex");
                objects.add(&Mutex, "mutex", calls, decided(&Mutex, calls, options));
                let find = || window::of_mutex(calls, options);
                objects.explain("mutex", find);
                Finding::Objects(objects)
            }
            Recorded::Elements(elements) => {
                let mut objects = Objects::new("elements of a set");
                for (name, calls) in elements {
                    objects.add(&Presence, name, calls, decided(&Presence, calls, options));
                    objects.explain(name, || window::of_element(name, calls, options));
                }
                Finding::Objects(objects)
            }
            Recorded::Set(record) => {
                let mut objects = Objects::new("set");
                let (decided, notes) = judge::set(record, options);
                objects.add(&GrowSet, "set", &record.calls, decided);
                if objects.verdict == Verdict::Violated {
                    let calls = window::calls_of_set(record);
                    objects.explain("set", || window::of_set(&calls, record, options));
                }
                objects.notes = notes;
                Finding::Objects(objects)
            }
            Recorded::Counter(calls) => {
                let mut objects = Objects::new("counter");
                let (decided, notes) = judge::counter(calls, options);
                objects.add(&Counter, "counter", calls, decided);
                objects.windows.extend(window::of_counter(calls));
                objects.notes = notes;
                Finding::Objects(objects)
            }
            Recorded::Registers(groups) => {
                let mut objects = Objects::new("groups of registers");
                for record @ RegisterRecord { names, calls } in groups {
                    let object = Registers(names.len());
                    let decided = decided(&object, calls, options);
                    let name = names.join(" ");
                    objects.add(&object, &name, calls, decided);
                    objects.explain(&name, || window::of_registers(record, options));
                }
                Finding::Objects(objects)
            }
        }
    }
}

/// Searches for an order of `calls`.
fn decided<O: Object>(object: &O, calls: &[Call<O::Action>], options: &Options) -> Decided {
    search(object, calls, options).by(Method::Search)
}

impl Finding {
    /// What this checker got wrong; empty unless it has a defect.
    #[must_use]
    pub fn flaws(&self) -> &[String] {
        match self {
            Self::Keys(report) => &report.flaws,
            Self::Objects(objects) => &objects.flaws,
            Self::Transactions(report) => &report.flaws,
            Self::Rules(_) | Self::Cases(_) => &[],
        }
    }

    /// The answer.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Keys(report) => report.verdict,
            Self::Objects(objects) => objects.verdict,
            Self::Transactions(report) => report.verdict,
            Self::Rules(rules) => rules.verdict,
            Self::Cases(cases) => cases.verdict,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(report) => report.fmt(out),
            Self::Objects(objects) => objects.fmt(out),
            Self::Transactions(report) => report.fmt(out),
            Self::Rules(rules) => rules.fmt(out),
            Self::Cases(cases) => cases.fmt(out),
        }
    }
}

impl Objects {
    fn new(kind: &'static str) -> Self {
        let (verdict, count, operations, pending) = (Verdict::Holds, 0, 0, 0);
        let (violated, undecided) = (Vec::new(), Vec::new());
        let (notes, flaws) = (Vec::new(), Vec::new());
        let (method, witness) = (Method::Search, BTreeMap::new());
        Self {
            verdict,
            kind,
            count,
            operations,
            pending,
            method,
            witness,
            violated,
            windows: Vec::new(),
            undecided,
            notes,
            flaws,
        }
    }

    /// Looks for the calls that exclude each other, if the object that was added last is violated.
    fn explain(&mut self, name: &str, find: impl FnOnce() -> ObjectWindow) {
        let is_violated = self.violated.last().is_some_and(|last| last == name);
        if is_violated && self.windows.len() < WINDOWS_MAX {
            self.windows.push(find());
        }
    }

    fn add<O: Object>(
        &mut self,
        object: &O,
        name: &str,
        calls: &[Call<O::Action>],
        decided: Decided,
    ) {
        self.count += 1;
        self.operations += calls.len();
        self.pending += calls.iter().filter(|call| call.completed == PENDING).count();
        self.method = decided.method;
        match decided.decision {
            Decision::Holds(None) => {}
            Decision::Holds(Some(order)) => match witness::replay_calls(object, calls, &order) {
                Ok(()) => {
                    let index = |place: &usize| u64::from(calls[*place].invoked);
                    self.witness.insert(name.to_owned(), order.iter().map(index).collect());
                }
                Err(flaw) => self.flaws.push(format!("the order of {name:?}: {flaw}")),
            },
            Decision::Violated(()) => self.violated.push(name.to_owned()),
            Decision::Unknown => self.undecided.push(name.to_owned()),
        }
        let is_decided = self.undecided.is_empty() && self.flaws.is_empty();
        self.verdict = match (self.violated.is_empty(), is_decided) {
            (true, true) => Verdict::Holds,
            (true, false) => Verdict::Unknown,
            (false, _) => Verdict::Violated,
        };
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, kind, operations, pending, .. } = self;
        writeln!(out, "history     {count} {kind}, {operations} operations, {pending} pending")?;
        writeln!(out, "method      {}", self.method.name())?;
        writeln!(out, "verdict     {}", self.verdict)?;
        if self.verdict == Verdict::Holds && self.witness.len() == *count {
            writeln!(out, "proof       an order of all operations, replayed")?;
        }
        if let Some(first) = self.flaws.first() {
            writeln!(out, "INTERNAL ERROR of the checker, please report it: {first}")?;
        }
        for (what, names) in [("violated", &self.violated), ("undecided", &self.undecided)] {
            for name in names.iter().take(10) {
                writeln!(out, "{what:11} {}", printable(name))?;
            }
            if names.len() > 10 {
                writeln!(out, "            and {} more", names.len() - 10)?;
            }
        }
        if let Some(window) = self.windows.first() {
            window.fmt(out)?;
        }
        for note in &self.notes {
            writeln!(out, "            {}", printable(note))?;
        }
        Ok(())
    }
}
