//! The operations of a key by the values that they wrote or saw.

use crate::linearizability::zones::absence;
use crate::operation::{Effect, Operation, Outcome};

/// No value, no operation.
pub(super) const NONE: u32 = u32::MAX;

/// The end of what nobody saw completed.
pub(super) const PENDING: u32 = u32::MAX;

/// The value that is there at first: nothing.
pub(super) const INITIAL: u32 = 0;

/// A value, and who wrote and saw it. Times are positions of events, counted from 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    /// Place of the write; [`NONE`] if there is none.
    pub(super) writer: u32,
    /// When the write began and ended.
    pub(super) begun: u32,
    pub(super) ended: u32,
    /// The value that the write replaced, if it was a cas.
    pub(super) saw: u32,
    /// The value of the cas that saw this one.
    pub(super) next: u32,
    /// The earliest completion among those who saw it and left it; [`PENDING`] if there are none.
    pub(super) first_seen: u32,
    /// The latest invocation among them.
    pub(super) last_seen: u32,
    /// Whether the write, if there is one, perhaps did not happen.
    is_possible: bool,
    /// Whether the write certainly happened.
    pub(super) is_taken: bool,
}

/// An operation that only says which value was not there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bystander {
    pub(super) place: u32,
    pub(super) begun: u32,
    pub(super) ended: u32,
    /// The value; [`NONE`] if it says nothing at all.
    pub(super) not: u32,
}

/// All values of a key.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) values: Vec<Value>,
    /// For each operation, the value that it wrote or saw.
    pub(super) of: Vec<u32>,
    /// By invocation.
    pub(super) bystanders: Vec<Bystander>,
    /// The deletes, each with a value of its own from here on.
    pub(super) first_delete: u32,
    /// Whether some delete found something.
    pub(super) has_found: bool,
    /// The earliest completion that shows a result which nothing explains; [`PENDING`] if there is
    /// none.
    pub(super) unexplained: u32,
}

impl Default for Value {
    fn default() -> Self {
        Self {
            writer: NONE,
            begun: 0,
            ended: PENDING,
            saw: NONE,
            next: NONE,
            first_seen: PENDING,
            last_seen: 0,
            is_possible: false,
            is_taken: false,
        }
    }
}

impl Value {
    fn write(&mut self, call: Call) -> Option<()> {
        if self.writer != NONE {
            return None;
        }
        (self.writer, self.begun, self.ended) = (call.place, call.begun, call.ended);
        self.is_possible = call.ended == PENDING;
        Some(())
    }

    pub(super) fn see(&mut self, call: Call) {
        self.first_seen = self.first_seen.min(call.ended);
        self.last_seen = self.last_seen.max(call.begun);
    }

    fn is_seen(&self) -> bool {
        self.first_seen != PENDING
    }

    /// Whether the write is known to have taken effect, without asking who saw its value.
    pub(super) fn is_certain(&self) -> bool {
        self.writer != NONE && !self.is_possible
    }
}

/// An operation with its place in real time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) place: u32,
    pub(super) begun: u32,
    pub(super) ended: u32,
}

/// Values in the making.
struct Reader {
    values: Vec<Value>,
    of: Vec<u32>,
    bystanders: Vec<Bystander>,
    /// The deletes that may have found something, and whether they say so.
    deletes: Vec<Call>,
    has_found: bool,
    /// Those that found nothing: gets, deletes and, with the value that they wrote, cas.
    found_nothing: Vec<(Call, u32)>,
}

impl Values {
    /// Sorts the operations by values, as far as they happened before the event at `cut`; none if
    /// that is more than zones can tell.
    pub(super) fn new(operations: &[Operation<'_>], cut: usize) -> Option<Self> {
        let count = operations.partition_point(|operation| operation.invoked() < cut);
        let mut reader = Reader {
            values: vec![Value::default()],
            of: vec![NONE; count],
            bystanders: Vec::new(),
            deletes: Vec::new(),
            has_found: false,
            found_nothing: Vec::new(),
        };
        // At time 0.
        reader.values[0].ended = 0;
        for (place, operation) in operations[..count].iter().enumerate() {
            let is_later = operation.completed().is_some_and(|completed| completed >= cut);
            let operation = if is_later { &operation.without_outcome() } else { operation };
            let ended = match operation.outcome() {
                Outcome::Failed => continue,
                Outcome::Unknown => PENDING,
                Outcome::Ok(_) => time(operation.completed()?)?,
            };
            let begun = time(operation.invoked())?;
            let call = Call { place: u32::try_from(place).ok()?, begun, ended };
            reader.add(operation, call)?;
        }
        reader.finish()
    }

    pub(super) fn is_absent(&self, value: u32) -> bool {
        value == INITIAL || value >= self.first_delete
    }

    /// Marks the writes that took effect, and what cas follow them.
    fn take(&mut self) {
        for first in 0..self.values.len() {
            let value = self.values[first];
            if !(value.is_certain() || value.is_seen()) {
                continue;
            }
            let (mut at, mut shown) = (first, value.first_seen.min(value.ended));
            loop {
                let value = &mut self.values[at];
                if value.is_taken {
                    break;
                }
                value.is_taken = true;
                let (saw, number) = (value.saw, at);
                if value.writer == NONE && at != INITIAL as usize {
                    self.unexplained = self.unexplained.min(shown);
                }
                if saw == NONE {
                    break;
                }
                at = saw as usize;
                let before = &mut self.values[at];
                if before.next == NONE {
                    before.next = u32::try_from(number).expect("values are numbered in 32 bits");
                } else {
                    let other = before.next as usize;
                    shown = shown.max(self.values[other].ended.min(self.values[other].first_seen));
                    // The other one may be known by what follows it only.
                    shown = shown.min(PENDING - 1);
                    self.unexplained = self.unexplained.min(shown);
                }
            }
        }
        self.values[INITIAL as usize].is_taken = true;
    }
}

/// The time of the event at `position`.
pub(super) fn time(position: usize) -> Option<u32> {
    u32::try_from(position + 1).ok().filter(|time| *time != PENDING)
}

impl Reader {
    /// The number of a value here, where no value is [`INITIAL`].
    fn value(&mut self, number: u32) -> u32 {
        let number = number.wrapping_add(1);
        if self.values.len() <= number as usize {
            self.values.resize(number as usize + 1, Value::default());
        }
        number
    }

    fn add(&mut self, operation: &Operation<'_>, call: Call) -> Option<()> {
        match operation.effect {
            Effect::Versioned => return None,
            // One of unknown outcome saw nothing that anybody knows of.
            Effect::Get if call.ended == PENDING => {}
            Effect::Get => self.bystander(call, NONE),
            Effect::SawNothing | Effect::Delete(Some(false)) => {
                self.found_nothing.push((call, NONE));
            }
            Effect::SawValue => {
                let value = self.value(operation.sees);
                self.of[call.place as usize] = value;
                self.values[value as usize].see(call);
            }
            Effect::Put => {
                self.write(operation, call)?;
            }
            Effect::Delete(existed) => {
                self.has_found |= existed.is_some();
                self.deletes.push(call);
            }
            Effect::Cas(applied) => self.cas(operation, applied, call)?,
        }
        Some(())
    }

    /// The operation wrote its value, or perhaps did if it is pending.
    fn write(&mut self, operation: &Operation<'_>, call: Call) -> Option<u32> {
        let value = self.value(operation.writes);
        self.of[call.place as usize] = value;
        self.values[value as usize].write(call)?;
        Some(value)
    }

    fn cas(&mut self, operation: &Operation<'_>, applied: Option<bool>, call: Call) -> Option<()> {
        let saw = self.value(operation.sees);
        if applied == Some(false) {
            self.bystander(call, saw);
            return Some(());
        }
        let value = self.write(operation, call)?;
        self.values[value as usize].saw = saw;
        if saw == INITIAL {
            self.found_nothing.push((call, value));
        }
        if applied.is_none() && call.ended != PENDING {
            self.values[value as usize].is_possible = true;
            self.bystander(call, saw);
        }
        Some(())
    }

    fn bystander(&mut self, call: Call, not: u32) {
        let Call { place, begun, ended } = call;
        self.bystanders.push(Bystander { place, begun, ended, not });
    }

    fn finish(self) -> Option<Values> {
        let Self { mut values, mut of, bystanders, deletes, has_found, found_nothing, .. } = self;
        let sources = absence::sources(&values, &deletes, &found_nothing)?;
        let first_delete = u32::try_from(values.len()).ok()?;
        for (number, call) in (first_delete..).zip(&deletes) {
            let mut value = Value::default();
            value.write(*call)?;
            values.push(value);
            of[call.place as usize] = number;
        }
        for ((call, written), source) in found_nothing.into_iter().zip(sources) {
            let source = source.map_or(INITIAL, |delete| first_delete + delete);
            if written == NONE {
                of[call.place as usize] = source;
                values[source as usize].see(call);
            } else {
                values[written as usize].saw = source;
            }
        }
        let unexplained = PENDING;
        let mut values = Values { values, of, bystanders, first_delete, has_found, unexplained };
        values.take();
        // Who is in a cluster needs no other place.
        let Values { values: all, of, bystanders, .. } = &mut values;
        bystanders.retain(|bystander| {
            let value = of[bystander.place as usize];
            value == NONE || !all[value as usize].is_taken
        });
        Some(values)
    }
}
