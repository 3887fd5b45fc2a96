//! Rules that a workload keeps at some level, checked without looking for an order.
//!
//! - **Bank**: transfers between accounts never change the sum of all balances, so every read of all
//!   accounts has the same sum; and no balance is negative, unless that is allowed.
//! - **Long fork**: each key is written once. Of two reads of the same keys, one saw all that the
//!   other one saw, or they disagree about which write was first, which snapshot isolation forbids.
//! - **Session guarantees** are in [`super::sessions`].

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::anomaly::name;
use crate::report::{Verdict, printable};

/// How many breaches of a rule are told.
const TOLD_MAX: usize = 3;

/// What checks of rules found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rules {
    /// Violated if one is.
    pub verdict: Verdict,
    /// What became of each rule.
    pub rules: Vec<Rule>,
}

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// Whether it was kept.
    pub verdict: Verdict,
    /// How many reads were looked at.
    pub reads: usize,
    /// How often it was broken.
    pub breaches: usize,
    /// The first of these, in sentences.
    pub examples: Vec<String>,
}

impl Rule {
    pub(super) fn new(name: &'static str, reads: usize) -> Self {
        Self { name, verdict: Verdict::Holds, reads, breaches: 0, examples: Vec::new() }
    }

    pub(super) fn broken(&mut self, example: String) {
        self.verdict = Verdict::Violated;
        self.breaches += 1;
        if self.examples.len() < TOLD_MAX {
            self.examples.push(example);
        }
    }

    /// That nothing is known, and why.
    pub(super) fn unknown(name: &'static str, why: String) -> Self {
        Self { verdict: Verdict::Unknown, examples: vec![why], ..Self::new(name, 0) }
    }
}

impl From<Vec<Rule>> for Rules {
    fn from(rules: Vec<Rule>) -> Self {
        let has = |verdict| rules.iter().any(|rule| rule.verdict == verdict);
        let verdict = match (has(Verdict::Violated), has(Verdict::Unknown)) {
            (true, _) => Verdict::Violated,
            (false, true) => Verdict::Unknown,
            (false, false) => Verdict::Holds,
        };
        Self { verdict, rules }
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Rule { name, verdict, reads, breaches, examples } in &self.rules {
            match verdict {
                Verdict::Holds => writeln!(out, "holds       {name}, {reads} reads")?,
                Verdict::Violated => writeln!(out, "VIOLATED    {name}, {breaches} times")?,
                Verdict::Unknown => writeln!(out, "unknown     {name}")?,
            }
            for example in examples {
                writeln!(out, "            {}", printable(example))?;
            }
        }
        Ok(())
    }
}

/// A read of the balances of accounts: the line of the history, and each balance by account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Balances {
    pub(crate) line: usize,
    pub(crate) accounts: Vec<(String, i64)>,
}

/// Checks that the sum of all balances stays the same.
pub(crate) fn bank(reads: &[Balances], allows_negative: bool) -> Rules {
    let mut rule = Rule::new("bank", reads.len());
    let sum = |read: &Balances| read.accounts.iter().map(|(_, it)| i128::from(*it)).sum::<i128>();
    let first = reads.first().map_or(0, sum);
    for read in reads {
        let (line, sum) = (read.line, sum(read));
        if sum != first {
            rule.broken(format!(
                "the read in line {line} has the sum {sum}; the first one {first}"
            ));
        }
        let negative = read.accounts.iter().find(|(_, balance)| *balance < 0);
        if let Some((account, balance)) = negative.filter(|_| !allows_negative) {
            rule.broken(format!("the read in line {line} saw {balance} in account {account}"));
        }
    }
    vec![rule].into()
}

/// A read of a group of keys: the number of its transaction, and each key with whether it was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) txn: u32,
    /// By key.
    pub(crate) keys: Vec<(String, bool)>,
}

/// Checks that of any two reads of the same keys, one saw all that the other one saw.
///
/// Sorted by how much they saw, it is enough to compare neighbours: seeing less or the same is
/// transitive.
pub(crate) fn long_fork(reads: &[Group]) -> Rules {
    let mut rule = Rule::new("long-fork", reads.len());
    let mut groups: BTreeMap<Vec<&str>, Vec<&Group>> = BTreeMap::new();
    for read in reads {
        let keys = read.keys.iter().map(|(key, _)| key.as_str()).collect();
        groups.entry(keys).or_default().push(read);
    }
    for group in groups.values_mut() {
        group.sort_by_key(|read| read.keys.iter().filter(|(_, is_there)| *is_there).count());
        for pair in group.windows(2) {
            let missed = |less: &Group, more: &Group| {
                let mut keys = less.keys.iter().zip(&more.keys);
                keys.find(|(less, more)| less.1 && !more.1).map(|(less, _)| less.0.clone())
            };
            let (one, other) = (pair[0], pair[1]);
            if let (Some(first), Some(second)) = (missed(one, other), missed(other, one)) {
                let (one, other) = (name(one.txn), name(other.txn));
                rule.broken(format!(
                    "{one} saw the write of {first} and not that of {second}; {other} the reverse"
                ));
            }
        }
    }
    vec![rule].into()
}
