//! The order that processes and real time give, in O(n) edges.
//!
//! A process runs one transaction after the other: an edge from each to the next. In real time, a
//! transaction comes before all that were invoked after it completed. These are O(n^2) pairs, so
//! each run of completions has a helper, a barrier: who completes goes to it, each barrier goes
//! to the next, and the last barrier before an invocation goes to who was invoked. Whoever comes
//! through barriers completed before the invocation, and nobody else does.

use super::graph::{Edges, Kind};
use super::history::{NEVER, TxnHistory, index};
use super::level::Variant;

/// Adds the edges of a variant between the transactions of `is_kept`; only those count.
pub(crate) fn add_edges(
    history: &TxnHistory,
    is_kept: &[bool],
    variant: Variant,
    edges: &mut Edges,
) {
    let kept = |txn: &u32| is_kept[*txn as usize];
    let mut begins: Vec<u32> = (0..index(is_kept.len())).filter(kept).collect();
    let transactions = history.transactions();
    begins.sort_by_key(|txn| transactions[*txn as usize].invoked);
    if variant >= Variant::Process {
        sessions(history, &begins, edges);
    }
    if variant >= Variant::RealTime {
        real_time(history, &begins, edges);
    }
}

/// Edges through barriers from each transaction to all that were invoked after it completed.
fn real_time(history: &TxnHistory, begins: &[u32], edges: &mut Edges) {
    let transactions = history.transactions();
    let is_completed = |txn: &u32| transactions[*txn as usize].completed != NEVER;
    let mut ends: Vec<u32> = begins.iter().copied().filter(is_completed).collect();
    ends.sort_by_key(|txn| transactions[*txn as usize].completed);

    let mut next = begins.iter().peekable();
    let mut barrier = None;
    let mut is_closed = true;
    for end in ends {
        let completed = transactions[end as usize].completed;
        while let Some(begin) =
            next.next_if(|begin| transactions[**begin as usize].invoked < completed)
        {
            if let Some(barrier) = barrier {
                edges.add(barrier, *begin, Kind::Onward, 0);
                is_closed = true;
            }
        }
        if is_closed {
            let fresh = edges.helper();
            if let Some(before) = barrier.replace(fresh) {
                edges.add(before, fresh, Kind::Onward, 0);
            }
            is_closed = false;
        }
        if let Some(barrier) = barrier {
            edges.add(end, barrier, Kind::RealTime, 0);
        }
    }
    for begin in next {
        if let Some(barrier) = barrier {
            edges.add(barrier, *begin, Kind::Onward, 0);
        }
    }
}

/// Edges from each transaction of a process to its next. One of unknown outcome may take effect at
/// any later time, so nothing comes after it.
fn sessions(history: &TxnHistory, begins: &[u32], edges: &mut Edges) {
    let txn = |txn: u32| &history.transactions()[txn as usize];
    let mut by_process = begins.to_vec();
    by_process.sort_by_key(|it| txn(*it).process);
    let mut last: Option<u32> = None;
    for next in by_process {
        if let Some(last) = last.filter(|last| txn(*last).process == txn(next).process) {
            edges.add(last, next, Kind::Process, 0);
        }
        if txn(next).completed != NEVER {
            last = Some(next);
        }
    }
}
