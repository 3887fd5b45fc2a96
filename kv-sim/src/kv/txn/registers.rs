//! Registers that hold unique values, used in three ways.
//!
//! A value tells which transaction wrote it, so the history shows what depends on what. The order of
//! writes to one register does not show by itself; transactions that read what they overwrite show
//! it.

use std::collections::BTreeSet;

use kv_core::op::Key;

use super::operations::{Source, placed_key};
use super::transaction::{Op, Style, Transaction};
use crate::engine::Draw;

/// Keys of a group of which each is written once.
const GROUP_SIZE: u64 = 3;

/// Transactions of one client after which it goes on to the next group. Clients are not in step, but
/// close enough to meet.
const GROUP_TRANSACTIONS: u64 = 4;

/// Of those that do not write to a group so many read a single key of it, in a million.
const PLAIN_READ_RATE: u32 = 250_000;
/// So many registers of an ordered transaction are only read, in a million.
const READ_RATE: u32 = 300_000;

/// Registers that are read and overwritten.
#[derive(Debug)]
pub(super) struct Registers {
    operations_max: u64,
    pub(super) keys: Vec<Key>,
}

impl Registers {
    pub(super) fn new(key_count: u64, operations_max: u64, shard_count: u32) -> Self {
        let keys = (0..key_count).map(|number| placed_key("r", number, shard_count));
        Self { operations_max, keys: keys.collect() }
    }

    /// Reads, writes, and writes of what was just read and locked, of keys in no order.
    pub(super) fn next(&mut self, source: &mut Source) -> Transaction {
        let mut ops = Vec::new();
        for _ in 0..source.rng.between(1, self.operations_max) {
            let key = self.keys[source.rng.index(self.keys.len())].clone();
            match source.rng.below(4) {
                0 | 1 => ops.push(Op::Read { key }),
                2 => ops.push(Op::Write { key, value: source.value() }),
                _ => {
                    ops.push(Op::Lock { key: key.clone() });
                    ops.push(Op::Write { key, value: source.value() });
                }
            }
        }
        Transaction::drawn(ops, &mut source.rng)
    }

    /// Reads both keys of a pair and writes one of them: if two of these do not see each other, no
    /// order explains both.
    pub(super) fn next_of_pair(&mut self, source: &mut Source) -> Transaction {
        let pair = 2 * source.rng.index(self.keys.len() / 2);
        let (one, other) = (self.keys[pair].clone(), self.keys[pair + 1].clone());
        let written = if source.rng.chance(500_000) { one.clone() } else { other.clone() };
        let reads = [Op::Read { key: one }, Op::Read { key: other }];
        let write = Op::Write { key: written, value: source.value() };
        Transaction::new(reads.into_iter().chain([write]).collect())
    }

    /// Reads and overwrites some registers, in the one order that all keep to: so no two can ever
    /// wait for each other. What is written is locked before, or the commit would lock it in no
    /// order.
    pub(super) fn next_in_order(&self, source: &mut Source) -> Transaction {
        let mut drawn = BTreeSet::new();
        for _ in 0..source.rng.between(2, self.operations_max.max(2)) {
            drawn.insert(source.rng.index(self.keys.len()));
        }
        let mut ops = Vec::new();
        for at in drawn {
            let key = self.keys[at].clone();
            match source.rng.chance(READ_RATE) {
                true => ops.push(Op::Read { key }),
                false => ops.extend(overwrite(key, source.value())),
            }
        }
        Transaction::new(ops)
    }

    /// Overwrites one register.
    pub(super) fn next_hot(&self, source: &mut Source) -> Transaction {
        let key = self.keys[source.rng.index(self.keys.len())].clone();
        Transaction::new(overwrite(key, source.value()).into())
    }
}

/// Locks a register and overwrites it.
pub(super) fn overwrite(key: Key, value: u64) -> [Op; 2] {
    [Op::Lock { key: key.clone() }, Op::Write { key, value }]
}

/// Groups of registers that are written once.
#[derive(Debug)]
pub(super) struct Groups {
    shard_count: u32,
    /// Transactions so far.
    count: u64,
}

impl Groups {
    pub(super) fn new(shard_count: u32) -> Self {
        Self { shard_count, count: 0 }
    }

    /// The client whose turn it is writes one key of a group, once; all others read all of them,
    /// each from another one on, or a single one.
    pub(super) fn next(&mut self, source: &mut Source) -> Transaction {
        let (group, turn) = (self.count / GROUP_TRANSACTIONS, self.count % GROUP_TRANSACTIONS);
        self.count += 1;
        let writer_of = |member: u64| (group * GROUP_SIZE + member) % source.client_count;
        let mine = (0..GROUP_SIZE).find(|member| writer_of(*member) == source.client);
        match mine.filter(|_| turn == GROUP_TRANSACTIONS / 2) {
            Some(member) => {
                let key = self.key(group, member);
                let write = Transaction::new(vec![Op::Write { key, value: source.value() }]);
                let style = if source.rng.chance(500_000) { Style::Plain } else { Style::Locking };
                write.in_style(style)
            }
            None if source.rng.chance(PLAIN_READ_RATE) => {
                let key = self.key(group, source.rng.below(GROUP_SIZE));
                Transaction::new(vec![Op::Read { key }]).in_style(Style::Plain)
            }
            None => {
                let first = source.rng.below(GROUP_SIZE);
                let members = (first..first + GROUP_SIZE).map(|member| member % GROUP_SIZE);
                let reads = members.map(|member| Op::Read { key: self.key(group, member) });
                Transaction::drawn_reads(reads.collect(), &mut source.rng)
            }
        }
    }

    /// The client whose turn it is writes the keys of a group one after the other, each by a call of
    /// its own; all others read all of them at a timestamp, the last first. Who talks to others
    /// outside the store does as the writer here: it begins a write when another one has ended.
    pub(super) fn next_of_chain(&mut self, source: &mut Source) -> Transaction {
        let (group, turn) = (self.count / GROUP_TRANSACTIONS, self.count % GROUP_TRANSACTIONS);
        self.count += 1;
        if group % source.client_count == source.client && turn < GROUP_SIZE {
            let key = self.key(group, turn);
            let write = Op::Write { key, value: source.value() };
            return Transaction::new(vec![write]).in_style(Style::Plain);
        }
        let reads = (0..GROUP_SIZE).rev().map(|member| Op::Read { key: self.key(group, member) });
        let style = if source.rng.chance(500_000) { Style::Snapshot } else { Style::Scan };
        Transaction::new(reads.collect()).in_style(style)
    }

    /// The keys of the last group that the client came to.
    pub(super) fn last(&self) -> Vec<Key> {
        let group = self.count.saturating_sub(1) / GROUP_TRANSACTIONS;
        (0..GROUP_SIZE).map(|member| self.key(group, member)).collect()
    }

    /// The keys of a group are on shards of their own.
    fn key(&self, group: u64, member: u64) -> Key {
        placed_key(&format!("g{group}-"), group + member, self.shard_count)
    }
}
