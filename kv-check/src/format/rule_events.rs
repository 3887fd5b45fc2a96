//! Banks and long forks as Jepsen records them in EDN.
//!
//! ```text
//! {:process 0, :type :ok, :f :read, :value {0 90, 1 10}}
//! {:process 0, :type :ok, :f :read, :value [[:r 0 1] [:r 1 nil]]}
//! ```
//!
//! Only reads that are `:ok` say something.

use std::collections::BTreeMap;

use super::edn::Edn;
use super::edn_events::{EdnEvent, EdnEvents};
use super::txn_events::name_of;
use crate::history::EventKind;
use crate::parse::ParseError;
use crate::transactions::{Balances, Group, index};

/// Whether an event is of a bank.
pub(super) fn is_of_bank(event: &EdnEvent<'_>) -> bool {
    event.f == "transfer" || (event.f == "read" && matches!(event.value, Edn::Map(_)))
}

/// Whether an event is of long forks.
pub(super) fn is_of_forks(event: &EdnEvent<'_>) -> bool {
    let Edn::Sequence(ops) = &event.value else { return false };
    let is_op = |op: &Edn<'_>| matches!(op, Edn::Sequence(parts) if matches!(parts[..], [Edn::Keyword("r" | "w"), ..]));
    matches!(event.f, "read" | "write") && ops.iter().any(is_op)
}

/// What the reads of a text saw.
fn reads<'t, R>(
    text: &'t str,
    others: &[&str],
    mut read: impl FnMut(&EdnEvent<'t>, usize) -> Result<R, ParseError>,
) -> Result<Vec<R>, ParseError> {
    let mut reads = Vec::new();
    // How many operations began, and which of them each process is at.
    let mut asked = 0;
    let mut open = BTreeMap::new();
    for event in EdnEvents::new(text) {
        let event = event?;
        if event.kind == EventKind::Invoke {
            open.insert(event.process, asked);
            asked += 1;
        }
        if event.f == "read" && event.kind == EventKind::Ok {
            // One whose beginning was not recorded is one more.
            let number = open.remove(&event.process).unwrap_or_else(|| {
                asked += 1;
                asked - 1
            });
            reads.push(read(&event, number)?);
        } else if event.f != "read" && !others.contains(&event.f) {
            return Err(event.expected(&format!("an :f of :read or :{}", others.join(" or :"))));
        }
    }
    Ok(reads)
}

/// Reads the balances of a bank.
pub(super) fn read_bank(text: &str) -> Result<Vec<Balances>, ParseError> {
    reads(text, &["transfer"], |event, _| {
        let Edn::Map(entries) = &event.value else {
            return Err(event.expected("a :value like {0 90, 1 10}"));
        };
        let balance = |(account, balance): &(Edn<'_>, Edn<'_>)| match balance {
            Edn::Number(balance) => Ok((name_of(event, account)?, *balance)),
            _ => Err(event.expected("balances that are whole numbers")),
        };
        let accounts = entries.iter().map(balance).collect::<Result<_, _>>()?;
        Ok(Balances { line: event.line, accounts })
    })
}

/// Reads what groups of keys were seen.
pub(super) fn read_forks(text: &str) -> Result<Vec<Group>, ParseError> {
    let mut values = BTreeMap::new();
    reads(text, &["write", "txn"], |event, number| {
        let expected = "a :value like [[:r 0 1] [:r 1 nil]]";
        let Edn::Sequence(ops) = &event.value else { return Err(event.expected(expected)) };
        let mut keys = Vec::new();
        for op in ops {
            let Edn::Sequence(parts) = op else { return Err(event.expected(expected)) };
            let [Edn::Keyword("r"), key, value] = &parts[..] else {
                return Err(event.expected(expected));
            };
            let key = name_of(event, key)?;
            if *value != Edn::Nil {
                let known = values.entry(key.clone()).or_insert_with(|| value.clone());
                if known != value {
                    return Err(event.expected("each key to have one value, written once"));
                }
            }
            keys.push((key, *value != Edn::Nil));
        }
        keys.sort_unstable();
        Ok(Group { txn: index(number), keys })
    })
}
