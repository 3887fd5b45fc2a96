//! Objects other than registers as Jepsen records them in EDN.
//!
//! What failed did not happen; of an `:info` nobody will ever know whether it did.

use std::collections::HashMap;

use super::edn::Edn;
use super::edn_events::{EdnEvent, EdnEvents};
use super::events::Pairing;
use super::{Recorded, RegisterRecord, SetRecord};
use crate::history::EventKind;
use crate::object::{Access, Call, CounterAction, MutexAction, SetAction};
use crate::parse::ParseError;

/// What the events of a workload mean.
trait Meaning<'t> {
    type Action;

    /// What an invocation asks for.
    fn asks(&mut self, event: &EdnEvent<'t>) -> Result<Self::Action, ParseError>;

    /// Adds what was found.
    fn found(&mut self, action: &mut Self::Action, event: &EdnEvent<'t>) -> Result<(), ParseError>;

    /// The calls of a text.
    fn calls(&mut self, text: &'t str) -> Result<Vec<Call<Self::Action>>, ParseError> {
        let mut pairing = Pairing::new();
        for event in EdnEvents::new(text) {
            let event = event?;
            let (line, process) = (event.line, event.client()?);
            match event.kind {
                EventKind::Invoke => {
                    pairing.invoke(event.at(), process, (event.f, self.asks(&event)?))?
                }
                EventKind::Ok => {
                    let (asked, action) = pairing.complete(event.at(), process)?;
                    if *asked != event.f {
                        return Err(event.expected(&format!("the end of a :{asked}")));
                    }
                    self.found(action, &event)?;
                }
                EventKind::Fail => pairing.fail(line, process)?,
                EventKind::Info => pairing.lose(line, process)?,
            }
        }
        let bare = |call: Call<(&str, Self::Action)>| call.split(|(f, action)| (action, f)).0;
        Ok(pairing.finish().into_iter().map(bare).collect())
    }
}

/// `:acquire` and `:release` of one lock.
pub(super) fn read_mutex(text: &str) -> Result<Recorded, ParseError> {
    Ok(Recorded::Mutex(Locks.calls(text)?))
}

struct Locks;

impl<'t> Meaning<'t> for Locks {
    type Action = MutexAction;

    fn asks(&mut self, event: &EdnEvent<'t>) -> Result<MutexAction, ParseError> {
        match event.f {
            "acquire" => Ok(MutexAction::Acquire),
            "release" => Ok(MutexAction::Release),
            _ => Err(event.expected("an :f of :acquire or :release")),
        }
    }

    fn found(&mut self, _: &mut MutexAction, _: &EdnEvent<'t>) -> Result<(), ParseError> {
        Ok(())
    }
}

/// `:add` of elements to a set, and `:read` of all.
pub(super) fn read_set(text: &str, is_full: bool) -> Result<Recorded, ParseError> {
    let mut sets = Sets::default();
    let calls = sets.calls(text)?;
    let elements = sets.0.names();
    let elements = elements.iter().map(String::as_str).collect();
    Ok(Recorded::Set(SetRecord { calls, elements, is_full }))
}

/// Values by number, in the order in which they came.
#[derive(Default)]
struct Numbers<'t> {
    numbers: HashMap<Edn<'t>, u32>,
    values: Vec<Edn<'t>>,
}

impl<'t> Numbers<'t> {
    fn number(&mut self, value: &Edn<'t>) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let next = u32::try_from(self.values.len()).expect("fewer than bytes of a history");
        self.numbers.insert(value.clone(), next);
        self.values.push(value.clone());
        next
    }

    fn names(&self) -> Vec<String> {
        self.values.iter().map(Edn::to_string).collect()
    }
}

/// The elements.
#[derive(Default)]
struct Sets<'t>(Numbers<'t>);

impl<'t> Meaning<'t> for Sets<'t> {
    type Action = SetAction;

    fn asks(&mut self, event: &EdnEvent<'t>) -> Result<SetAction, ParseError> {
        match (event.f, &event.value) {
            ("add", Edn::Nil) => Err(event.expected("a :value that is added")),
            ("add", element) => Ok(SetAction::Add(self.0.number(element))),
            ("read", _) => Ok(SetAction::Read(None)),
            _ => Err(event.expected("an :f of :add or :read")),
        }
    }

    fn found(&mut self, action: &mut SetAction, event: &EdnEvent<'t>) -> Result<(), ParseError> {
        let SetAction::Read(found) = action else { return Ok(()) };
        *found = match &event.value {
            Edn::Nil => None,
            Edn::Sequence(elements) => {
                let mut numbers: Vec<_> =
                    elements.iter().map(|element| self.0.number(element)).collect();
                numbers.sort_unstable();
                Some(numbers)
            }
            _ => return Err(event.expected("a :value with all elements or nil")),
        };
        Ok(())
    }
}

/// `:add` of amounts to a counter, and `:read` of the sum.
pub(super) fn read_counter(text: &str) -> Result<Recorded, ParseError> {
    Ok(Recorded::Counter(Counters.calls(text)?))
}

struct Counters;

impl<'t> Meaning<'t> for Counters {
    type Action = CounterAction;

    fn asks(&mut self, event: &EdnEvent<'t>) -> Result<CounterAction, ParseError> {
        match (event.f, &event.value) {
            ("add", Edn::Number(amount)) => Ok(CounterAction::Add(*amount)),
            ("add", _) => Err(event.expected("a :value with a number that is added")),
            ("read", _) => Ok(CounterAction::Read(None)),
            _ => Err(event.expected("an :f of :add or :read")),
        }
    }

    fn found(
        &mut self,
        action: &mut CounterAction,
        event: &EdnEvent<'t>,
    ) -> Result<(), ParseError> {
        let CounterAction::Read(found) = action else { return Ok(()) };
        *found = match &event.value {
            Edn::Number(sum) => Some(*sum),
            Edn::Nil => None,
            _ => return Err(event.expected("a :value with a number or nil that was read")),
        };
        Ok(())
    }
}

/// `:txn` of registers, each with `[:read :x nil]` and `[:write :y 2]`.
///
/// Registers that no chain of transactions connects are apart from each other, so that the search
/// has less to do.
pub(super) fn read_registers(text: &str) -> Result<Recorded, ParseError> {
    let mut registers = Accesses::default();
    let mut calls = registers.calls(text)?;
    let names = registers.0.names();
    let groups = groups(names.len(), &calls);
    let mut apart: Vec<RegisterRecord> = Vec::new();
    // For each register: its group, and its number within.
    let mut within = vec![(0, 0); names.len()];
    let mut group_of = vec![None; names.len()];
    for (register, name) in names.into_iter().enumerate() {
        let group = *group_of[groups[register]].get_or_insert(apart.len());
        if group == apart.len() {
            apart.push(RegisterRecord::default());
        }
        let names = &mut apart[group].names;
        within[register] = (group, u32::try_from(names.len()).expect("as many as all at most"));
        names.push(name);
    }
    for mut call in calls.drain(..) {
        let Some(first) = call.action.first() else { continue };
        let (group, _) = within[first.register() as usize];
        for access in &mut call.action {
            let (Access::Read(register, _) | Access::Write(register, _)) = access;
            *register = within[*register as usize].1;
        }
        apart[group].calls.push(call);
    }
    Ok(Recorded::Registers(apart))
}

/// For each register: one of those that transactions connect it with, the same for all of them.
fn groups(count: usize, calls: &[Call<Vec<Access>>]) -> Vec<usize> {
    fn top(parents: &mut [usize], mut register: usize) -> usize {
        while parents[register] != register {
            parents[register] = parents[parents[register]];
            register = parents[register];
        }
        register
    }
    let mut parents: Vec<_> = (0..count).collect();
    for call in calls {
        for pair in call.action.windows(2) {
            let [one, other] = [0, 1].map(|at| top(&mut parents, pair[at].register() as usize));
            parents[one] = other;
        }
    }
    (0..count).map(|register| top(&mut parents, register)).collect()
}

/// The registers.
#[derive(Default)]
struct Accesses<'t>(Numbers<'t>);

impl<'t> Accesses<'t> {
    fn transaction(&mut self, event: &EdnEvent<'t>) -> Result<Vec<Access>, ParseError> {
        let expected = || event.expected("a :value like [[:read :x nil] [:write :y 2]]");
        let Edn::Sequence(accesses) = &event.value else { return Err(expected()) };
        let mut transaction = Vec::with_capacity(accesses.len());
        for access in accesses {
            let Edn::Sequence(access) = access else { return Err(expected()) };
            let [Edn::Keyword(f), register, value] = &access[..] else { return Err(expected()) };
            let register = self.0.number(register);
            transaction.push(match (*f, value) {
                ("read", Edn::Nil) => Access::Read(register, None),
                ("read", Edn::Number(found)) => Access::Read(register, Some(*found)),
                ("write", Edn::Number(value)) => Access::Write(register, *value),
                _ => return Err(expected()),
            });
        }
        Ok(transaction)
    }
}

impl<'t> Meaning<'t> for Accesses<'t> {
    type Action = Vec<Access>;

    fn asks(&mut self, event: &EdnEvent<'t>) -> Result<Vec<Access>, ParseError> {
        if event.f != "txn" {
            return Err(event.expected("an :f of :txn"));
        }
        let mut transaction = self.transaction(event)?;
        for access in &mut transaction {
            if let Access::Read(_, found) = access {
                *found = None;
            }
        }
        Ok(transaction)
    }

    fn found(&mut self, asked: &mut Vec<Access>, event: &EdnEvent<'t>) -> Result<(), ParseError> {
        if event.value == Edn::Nil {
            return Ok(());
        }
        let done = self.transaction(event)?;
        let is_same = |(asked, done): (&Access, &Access)| match (asked, done) {
            (Access::Read(asked, _), Access::Read(done, _)) => asked == done,
            _ => asked == done,
        };
        if asked.len() != done.len() || !asked.iter().zip(&done).all(is_same) {
            return Err(event.expected("the :value that was asked for, with what was found"));
        }
        *asked = done;
        Ok(())
    }
}
