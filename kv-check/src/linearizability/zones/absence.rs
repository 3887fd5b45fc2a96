//! Who left the key absent that an operation found so.

use super::values::{Call, PENDING, Value};

/// For each operation that found nothing, the number of the delete that left nothing, or none if
/// it is the state at the beginning; nothing at all if there are several for some operation.
///
/// An operation without any source gets the beginning, which then is a contradiction.
pub(super) fn sources(
    values: &[Value],
    deletes: &[Call],
    found_nothing: &[(Call, u32)],
) -> Option<Vec<Option<u32>>> {
    if deletes.is_empty() {
        return Some(vec![None; found_nothing.len()]);
    }
    let sources = Sources::new(values, deletes);
    found_nothing.iter().map(|(call, _)| sources.of(*call)).collect()
}

/// What was written when.
struct Sources {
    /// By completion: the completion of a certain write, and the latest invocation of all up to it.
    hidden: Vec<(u32, u32)>,
    /// When deletes began, with the sum of the numbers of those before each.
    begun: Vec<(u32, u64)>,
    /// When they ended, likewise.
    ended: Vec<(u32, u64)>,
}

impl Sources {
    fn new(values: &[Value], deletes: &[Call]) -> Self {
        let written = values.iter().filter(|value| value.is_certain());
        let written = written.map(|value| (value.ended, value.begun));
        let deleted = deletes.iter().map(|call| (call.ended, call.begun));
        let mut hidden: Vec<_> = written.chain(deleted).collect();
        hidden.sort_unstable();
        let mut latest = 0;
        for (_, begun) in &mut hidden {
            latest = latest.max(*begun);
            *begun = latest;
        }
        let sums = |time: fn(&Call) -> u32| {
            let mut times: Vec<(u32, u64)> = deletes.iter().map(time).zip(0..).collect();
            times.sort_unstable();
            let mut sum = 0;
            for (_, number) in &mut times {
                (*number, sum) = (sum, sum + *number);
            }
            times.push((PENDING, sum));
            times
        };
        Self { hidden, begun: sums(|call| call.begun), ended: sums(|call| call.ended) }
    }

    /// The source of an operation; the outer option as in [`sources`].
    #[expect(clippy::option_option, reason = "no source that is known is not the beginning")]
    fn of(&self, call: Call) -> Option<Option<u32>> {
        let before = self.hidden.partition_point(|(ended, _)| *ended < call.begun);
        // A source that ended before this is hidden by another write.
        let limit = before.checked_sub(1).map(|last| self.hidden[last].1);
        let begun = self.begun.partition_point(|(begun, _)| *begun < call.ended);
        let ended = self.ended.partition_point(|(ended, _)| *ended < limit.unwrap_or(0));
        let deletes = begun.saturating_sub(ended);
        match (limit, deletes) {
            (_, 0) => Some(None),
            (Some(_), 1) => {
                let number = self.begun[begun].1 - self.ended[ended].1;
                u32::try_from(number).ok().map(Some)
            }
            _ => None,
        }
    }
}
