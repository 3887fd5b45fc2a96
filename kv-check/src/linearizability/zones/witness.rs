//! The order of all operations, from that of the blocks.

use super::blocks::chain;
use super::values::{Bystander, INITIAL, NONE, Values, time};
use crate::operation::{Effect, Operation};

/// The places of all operations in an order; none if what zones do not see fits nowhere in it.
pub(super) fn order(
    operations: &[Operation<'_>],
    values: &Values,
    blocks: &[u32],
) -> Option<Vec<usize>> {
    let order = clusters(values, blocks);
    if values.bystanders.is_empty() && !values.has_found {
        return Some(order);
    }
    with_bystanders(operations, values, &order)
}

/// The operations of the blocks: of each value the write, then those who saw it by invocation.
fn clusters(values: &Values, blocks: &[u32]) -> Vec<usize> {
    let all = &values.values;
    let is_there = |value: u32| value != NONE && all[value as usize].is_taken;
    // First how many operations a value has, then where its next one goes.
    let mut places = vec![0_u32; all.len()];
    let mut count = 0;
    for value in values.of.iter().filter(|value| is_there(**value)) {
        places[*value as usize] += 1;
        count += 1;
    }
    let mut order = vec![0; count];
    let mut end = 0;
    for value in blocks.iter().flat_map(|first| chain(values, *first)) {
        let next = &mut places[value as usize];
        let begin = end;
        end += *next;
        *next = begin;
        // The write is before all others, whoever was invoked first.
        if value != INITIAL {
            order[begin as usize] = all[value as usize].writer as usize;
            *next += 1;
        }
    }
    for (place, value) in values.of.iter().enumerate().filter(|(_, value)| is_there(**value)) {
        if all[*value as usize].writer as usize != place {
            let next = &mut places[*value as usize];
            order[*next as usize] = place;
            *next += 1;
        }
    }
    order
}

/// Puts every bystander where it is right, at the first moment, and sees that a delete which found
/// something could.
///
/// A bystander must come after all that completed before it was invoked, so it may come before
/// the first operation behind which something stands that was invoked later. From there on it may
/// come anywhere, until something would be in front of it that was invoked after its completion.
fn with_bystanders(
    operations: &[Operation<'_>],
    values: &Values,
    order: &[usize],
) -> Option<Vec<usize>> {
    let mut all = Vec::with_capacity(order.len() + values.bystanders.len());
    let mut rest = values.bystanders.iter().copied().peekable();
    let mut waiting: Vec<Bystander> = Vec::new();
    let (mut state, mut now) = (INITIAL, 0);
    for place in order {
        now = now.max(time(operations[*place].invoked())?);
        while let Some(next) = rest.next_if(|next| next.begun < now) {
            waiting.push(next);
        }
        place_those(values, &mut waiting, state, now, &mut all)?;
        let value = values.of[*place];
        if values.values[value as usize].writer as usize == *place {
            if has_found(&operations[*place]) && values.is_absent(state) {
                return None;
            }
            state = value;
        }
        all.push(*place);
    }
    waiting.extend(rest);
    place_those(values, &mut waiting, state, NONE, &mut all)?;
    Some(all)
}

/// Appends to `all` those who are right in `state`; none if one has to be, before `now`, but is not.
fn place_those(
    values: &Values,
    waiting: &mut Vec<Bystander>,
    state: u32,
    now: u32,
    all: &mut Vec<usize>,
) -> Option<()> {
    let mut is_late = false;
    waiting.retain(|bystander| {
        let is_right = match bystander.not {
            INITIAL => !values.is_absent(state),
            not => not != state,
        };
        if is_right {
            all.push(bystander.place as usize);
        }
        is_late |= !is_right && bystander.ended < now;
        !is_right
    });
    (!is_late).then_some(())
}

fn has_found(operation: &Operation<'_>) -> bool {
    operation.effect == Effect::Delete(Some(true))
}
