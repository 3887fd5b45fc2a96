//! Groups of keys, of which nobody knows what is there but by reading all of it.
//!
//! Whoever puts a key into a group has scanned it, and does so only if there is room: if two of
//! them do not see each other, no order explains both, and the group may get too full. Others read
//! one key of a group and write another one, or write one without a transaction; and some only
//! read.
//!
//! A group is used for a while, and then others are.

use kv_core::op::Key;

use super::operations::{Source, placed_key};
use super::transaction::{Op, Style, Transaction};
use crate::engine::Draw;

/// Keys of a group, on as many shards.
const GROUP_SIZE: u64 = 6;
/// Keys that a group is to have, at most.
const ROWS_MAX: usize = 4;
/// Groups that are used at a time.
const GROUPS_AT_A_TIME: u64 = 5;
/// Transactions of one client after which it goes on to the next groups. Clients are not in step,
/// but close enough to meet.
const GROUP_TRANSACTIONS: u64 = 10;

/// The groups as one client sees them.
#[derive(Debug)]
pub(super) struct Phantoms {
    shard_count: u32,
    /// Transactions so far.
    count: u64,
}

impl Phantoms {
    pub(super) fn new(shard_count: u32) -> Self {
        Self { shard_count, count: 0 }
    }

    pub(super) fn next(&mut self, source: &mut Source) -> Transaction {
        let round = self.count / GROUP_TRANSACTIONS;
        self.count += 1;
        let group = round * GROUPS_AT_A_TIME + source.rng.below(GROUPS_AT_A_TIME);
        let key = self.key(group, source.rng.below(GROUP_SIZE));
        match source.rng.below(10) {
            0..4 => {
                let insert = Op::Insert { key, value: source.value(), rows_max: ROWS_MAX };
                let ops = self.reads(group).into_iter().chain([insert]);
                Transaction::new(ops.collect()).in_style(Style::LockingScan)
            }
            4..6 => {
                let read = Op::Read { key: self.key(group, source.rng.below(GROUP_SIZE)) };
                Transaction::new(vec![read, Op::Write { key, value: source.value() }])
            }
            6 => {
                let write = Op::Write { key, value: source.value() };
                Transaction::new(vec![write]).in_style(Style::Plain)
            }
            7 => Transaction::new(self.reads(group)).in_style(Style::LockingScan),
            _ => Transaction::drawn_reads(self.reads(group), &mut source.rng),
        }
    }

    fn reads(&self, group: u64) -> Vec<Op> {
        (0..GROUP_SIZE).map(|member| Op::Read { key: self.key(group, member) }).collect()
    }

    /// The keys of the last groups that the client came to.
    pub(super) fn last(&self) -> Vec<Key> {
        let first = self.count.saturating_sub(1) / GROUP_TRANSACTIONS * GROUPS_AT_A_TIME;
        let groups = first..first + GROUPS_AT_A_TIME;
        let members = |group| (0..GROUP_SIZE).map(move |member| (group, member));
        groups.flat_map(members).map(|(group, member)| self.key(group, member)).collect()
    }

    /// The keys of a group are on shards of their own, and begin with the same text.
    fn key(&self, group: u64, member: u64) -> Key {
        placed_key(&format!("p{group}-"), group + member, self.shard_count)
    }
}
