//! One thing done to whatever objects a history has.

use super::{Call, Counter, GrowSet, Mutex, Object, Presence, Queue, Registers, Side, Text};
use crate::format::{Recorded, RegisterRecord};

/// What is done to each object.
pub(crate) trait Visitor {
    /// Does it to an object of this name with all calls of it.
    fn visit<O: Object>(&mut self, object: &O, name: &str, calls: &[Call<O::Action>]);
}

/// Visits all objects of a history, which are those that a check of it names. Keys and transactions are
/// none.
pub(crate) fn visit_objects(recorded: &Recorded, visitor: &mut impl Visitor) {
    match recorded {
        Recorded::Strings(keys) => {
            for (name, calls) in keys {
                visitor.visit(&Text, name, calls);
            }
        }
        Recorded::Queue(side, calls) => {
            let name = match side {
                Side::Oldest => "queue",
                Side::Newest => "stack",
            };
            visitor.visit(&Queue(*side), name, calls);
        }
        Recorded::Elements(elements) => {
            for (name, calls) in elements {
                visitor.visit(&Presence, name, calls);
            }
        }
        Recorded::Mutex(calls) => visitor.visit(&Mutex, "mutex", calls),
        Recorded::Set(record) => visitor.visit(&GrowSet, "set", &record.calls),
        Recorded::Counter(calls) => visitor.visit(&Counter, "counter", calls),
        Recorded::Registers(groups) => {
            for RegisterRecord { names, calls } in groups {
                visitor.visit(&Registers(names.len()), &names.join(" "), calls);
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
