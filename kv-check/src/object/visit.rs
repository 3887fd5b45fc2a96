//! One thing done to whatever objects a history has.

use super::{Call, Counter, GrowSet, Mutex, Object, Presence, Queue, Registers, Text};
use crate::format::{Recorded, RegisterRecord};
use crate::names::Names;

/// What is done to each object.
pub(crate) trait Visitor {
    /// Does it to an object of this name with all calls of it and the names of its values.
    fn visit<O: Object>(
        &mut self,
        object: &O,
        name: &str,
        calls: &[Call<O::Action>],
        names: &Names,
    );
}

/// Visits all objects of a history, which are those that a check of it names. Keys and transactions are
/// none.
pub(crate) fn visit_objects(recorded: &Recorded, visitor: &mut impl Visitor) {
    let none = &Names::default();
    match recorded {
        Recorded::Strings(keys) => {
            for (name, calls) in keys {
                visitor.visit(&Text, name, calls, none);
            }
        }
        Recorded::Queue(record) => {
            visitor.visit(&Queue(record.side), record.name(), &record.calls, &record.values);
        }
        Recorded::Elements(elements) => {
            for (name, calls) in elements {
                visitor.visit(&Presence, name, calls, none);
            }
        }
        Recorded::Mutex(calls) => visitor.visit(&Mutex, "mutex", calls, none),
        Recorded::Set(record) => visitor.visit(&GrowSet, "set", &record.calls, &record.elements),
        Recorded::Counter(calls) => visitor.visit(&Counter, "counter", calls, none),
        Recorded::Registers(groups) => {
            for RegisterRecord { names, calls } in groups {
                let texts = names.iter().map(String::as_str).collect();
                visitor.visit(&Registers(names.len()), &names.join(" "), calls, &texts);
            }
        }
        Recorded::Keys(_)
        | Recorded::Transactions(_)
        | Recorded::Sessions(_)
        | Recorded::Bank(..)
        | Recorded::LongFork(_)
        | Recorded::Cases(_) => {}
    }
}
