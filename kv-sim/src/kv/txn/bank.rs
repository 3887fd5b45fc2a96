//! Accounts between which clients transfer.
//!
//! The first client opens all accounts in one transaction, and the others look at one account until it
//! is open. Then they transfer, and now and then read all accounts in one transaction.

use kv_core::op::{Found, Key};

use super::operations::{Source, placed_key, text_of};
use super::transaction::{Op, Style, Transaction};
use crate::engine::Draw;

/// What an account begins with.
pub(super) const BALANCE_FIRST: i64 = 100;

/// What a transfer moves, at most.
const AMOUNT_MAX: u64 = 20;

/// One of so many transactions reads all accounts.
const READ_ONE_IN: u64 = 20;

/// The balance that a read has found.
pub(super) fn balance(found: &Found) -> Option<i64> {
    text_of(found)?.parse().ok()
}

/// The accounts as one client sees them.
#[derive(Debug)]
pub(super) struct Bank {
    accounts: Vec<Key>,
    /// Whether the client has seen that all accounts are open.
    is_open: bool,
    /// How many transactions scan all accounts, in a million.
    scan_rate: u32,
}

impl Bank {
    pub(super) fn new(account_count: u64, shard_count: u32) -> Self {
        let accounts = (0..account_count).map(|number| placed_key("a", number, shard_count));
        Self { accounts: accounts.collect(), is_open: false, scan_rate: 0 }
    }

    /// One in which so many transactions, in a million, are scans.
    pub(super) fn with_scans(self, scan_rate: u32) -> Self {
        Self { scan_rate, ..self }
    }

    pub(super) fn next(&mut self, source: &mut Source) -> Transaction {
        if !self.is_open {
            return if source.client == 0 { self.open() } else { self.look() };
        }
        if self.scan_rate > 0 && source.rng.chance(self.scan_rate) {
            return self.balances().in_style(Style::Scan);
        }
        if source.rng.below(READ_ONE_IN) == 0 {
            let reads = Transaction::drawn_reads(self.balances().ops, &mut source.rng);
            let scans = reads.style == Style::Locking && source.rng.chance(500_000);
            return if scans { reads.in_style(Style::LockingScan) } else { reads };
        }
        let from = source.rng.index(self.accounts.len());
        let to = (from + 1 + source.rng.index(self.accounts.len() - 1)) % self.accounts.len();
        let (from, to) = (self.accounts[from].clone(), self.accounts[to].clone());
        let amount = source.rng.between(1, AMOUNT_MAX) as i64;
        Transaction::new(vec![
            Op::Lock { key: from.clone() },
            Op::Lock { key: to.clone() },
            Op::Debit { key: from, amount },
            Op::Credit { key: to, amount },
        ])
    }

    /// A read has found an account open: so all are.
    pub(super) fn on_found(&mut self) {
        self.is_open = true;
    }

    fn look(&self) -> Transaction {
        Transaction::new(vec![Op::Read { key: self.accounts[0].clone() }])
    }

    fn open(&self) -> Transaction {
        let locks = self.accounts.iter().map(|key| Op::Lock { key: key.clone() });
        let opens = self.accounts.iter().enumerate();
        let opens = opens.map(|(read, key)| Op::Open { key: key.clone(), read });
        Transaction::new(locks.chain(opens).collect())
    }

    pub(super) fn balances(&self) -> Transaction {
        let reads = self.accounts.iter().map(|key| Op::Read { key: key.clone() });
        Transaction::new(reads.collect())
    }

    /// The sum of all balances, at all times.
    pub(super) fn total(&self) -> i64 {
        BALANCE_FIRST * self.accounts.len() as i64
    }

    pub(super) fn accounts(&self) -> &[Key] {
        &self.accounts
    }
}
