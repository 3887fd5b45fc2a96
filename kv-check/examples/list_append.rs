//! How long it takes to judge transactions over lists, on one core, and how much memory:
//! `cargo run --release -p kv-check --example list_append -- OPERATIONS`.
//!
//! Ten clients append to a hundred keys at a time, at most a hundred values each, and read whole
//! lists; a store that works answers.

use std::fs;
use std::io::{self, Write as _};
use std::time::Instant;

use kv_check::Options;
use kv_check::transactions::{Txn, TxnHistory, TxnOp, TxnOutcome, Version, check_transactions};

fn main() -> io::Result<()> {
    let operations = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let history = history(operations.unwrap_or(1_000_000));
    let start = Instant::now();
    let report = check_transactions(&history, &Options::default());
    let seconds = start.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("");
    write!(io::stdout(), "{report}time        {seconds:.3} s\nmemory      {memory}\n")
}

/// A history of that many operations or a few more.
fn history(operations: usize) -> TxnHistory {
    let mut state = 7u64;
    let mut below = |end: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    };
    let mut history = TxnHistory::new();
    let mut lists: Vec<(u32, Vec<Version>)> = (0..100).map(|key| (key, Vec::new())).collect();
    let (mut next_key, mut number) = (100, 0);
    while history.op_count() < operations {
        let mut ops = Vec::new();
        for _ in 0..=below(4) {
            let (name, list) = &mut lists[below(100) as usize];
            if list.len() == 100 {
                (*name, *list) = (next_key, Vec::new());
                next_key += 1;
            }
            let key = history.key(&name.to_string());
            if below(2) == 0 {
                list.push(history.version(key, &list.len().to_string()));
                ops.extend(list.last().map(|version| TxnOp::Append(*version)));
            } else {
                let list = history.list(list).expect("the history has room");
                ops.push(TxnOp::ReadList(key, list));
            }
        }
        // Each ends after the nine that come next began.
        let (invoked, completed) = (20 * number, 20 * (number + 9) + 10);
        let (process, outcome) = (number % 10, TxnOutcome::Committed);
        history
            .push(Txn { process, invoked, completed, outcome }, &ops)
            .expect("the history has room");
        number += 1;
    }
    history
}
