//! What a client asks for, by the kind of its workload.

use kv_core::id::ShardId;
use kv_core::op::{Found, Key, Value};
use kv_core::ring;

use super::bank::Bank;
use super::lists::{self, Lists};
use super::phantoms::Phantoms;
use super::registers::{self, Groups, Registers};
use super::transaction::{Op, Transaction};
use crate::engine::Rng;
use crate::scenario::{Scenario, WorkloadKind};

/// Keys that one transaction reads at the end.
const FINAL_READS_PER_TXN: usize = 5;

/// What a client draws from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) rng: Rng,
    pub(super) client: u64,
    pub(super) client_count: u64,
    value_count: u64,
}

impl Source {
    /// A value that is written once in a run.
    pub(super) fn value(&mut self) -> u64 {
        self.value_count += 1;
        self.value_count * self.client_count + self.client
    }
}

/// The transactions of one client.
#[derive(Debug)]
pub(super) struct Operations {
    source: Source,
    shard_count: u32,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Bank(Bank),
    Lists(Lists),
    Registers(Registers),
    Pairs(Registers),
    Groups(Groups),
    Chains(Groups),
    Phantoms(Phantoms),
    Ordered(Registers),
    HotKeys(Registers),
}

impl Operations {
    pub(super) fn new(scenario: &Scenario, client: u16, seed: u64) -> Self {
        let (workload, shard_count) = (&scenario.workload, scenario.cluster.shards);
        let operations_max = u64::from(workload.operations_max);
        let kind = match workload.kind {
            WorkloadKind::Bank => {
                let bank = Bank::new(workload.keys, shard_count);
                Kind::Bank(bank.with_scans(workload.scan_rate))
            }
            WorkloadKind::ListAppend => {
                Kind::Lists(Lists::new(workload.keys, operations_max, shard_count))
            }
            WorkloadKind::RwRegister => {
                Kind::Registers(Registers::new(workload.keys, operations_max, shard_count))
            }
            WorkloadKind::WriteSkew => {
                Kind::Pairs(Registers::new(workload.keys, operations_max, shard_count))
            }
            WorkloadKind::LongFork => Kind::Groups(Groups::new(shard_count)),
            WorkloadKind::CausalReverse => Kind::Chains(Groups::new(shard_count)),
            WorkloadKind::Phantom => Kind::Phantoms(Phantoms::new(shard_count)),
            WorkloadKind::Ordered => {
                Kind::Ordered(Registers::new(workload.keys, operations_max, shard_count))
            }
            WorkloadKind::HotKeys => {
                Kind::HotKeys(Registers::new(workload.keys, operations_max, shard_count))
            }
            WorkloadKind::Deadlock => unreachable!("who plants deadlocks is another client"),
            WorkloadKind::Register | WorkloadKind::Kv | WorkloadKind::Sessions => {
                unreachable!("workloads of single keys have no transactions")
            }
        };
        let source = Source {
            rng: Rng::fork(seed, "transactions", 0),
            client: u64::from(client),
            client_count: u64::from(workload.clients),
            value_count: 0,
        };
        Self { source, shard_count, kind }
    }

    /// The next transaction.
    pub(super) fn next(&mut self) -> Transaction {
        let source = &mut self.source;
        match &mut self.kind {
            Kind::Bank(bank) => bank.next(source),
            Kind::Lists(lists) => lists.next(source),
            Kind::Registers(registers) => registers.next(source),
            Kind::Pairs(pairs) => pairs.next_of_pair(source),
            Kind::Groups(groups) => groups.next(source),
            Kind::Chains(groups) => groups.next_of_chain(source),
            Kind::Phantoms(groups) => groups.next(source),
            Kind::Ordered(registers) => registers.next_in_order(source),
            Kind::HotKeys(registers) => registers.next_hot(source),
        }
    }

    /// The same transaction as another attempt.
    pub(super) fn again(&mut self, transaction: &Transaction) -> Transaction {
        let mut transaction = transaction.clone();
        transaction.renew(|| self.source.value());
        transaction
    }

    /// A transaction has read a key.
    pub(super) fn see(&mut self, key: &Key, found: Option<&Found>) {
        match &mut self.kind {
            Kind::Bank(bank) if found.is_some() => bank.on_found(),
            Kind::Lists(lists) => lists.see(key, found),
            Kind::Bank(_)
            | Kind::Registers(_)
            | Kind::Pairs(_)
            | Kind::Groups(_)
            | Kind::Chains(_)
            | Kind::Phantoms(_)
            | Kind::Ordered(_)
            | Kind::HotKeys(_) => {}
        }
    }

    /// What falls to the client when all faults are healed: a transaction for each of its shards, and
    /// reads.
    pub(super) fn final_transactions(&mut self) -> Vec<Transaction> {
        let (client, client_count) = (self.source.client, self.source.client_count);
        let is_mine = move |number: &u64| number % client_count == client;
        let shards = (1..=self.shard_count).filter(|shard| is_mine(&u64::from(*shard)));
        let writes: Vec<_> = shards.map(|shard| self.final_write(shard)).collect();
        let keys = match &self.kind {
            Kind::Bank(bank) => return writes.into_iter().chain([bank.balances()]).collect(),
            Kind::Lists(lists) => lists.keys(is_mine),
            Kind::Registers(registers)
            | Kind::Pairs(registers)
            | Kind::Ordered(registers)
            | Kind::HotKeys(registers) => {
                let keys = (0..).zip(&registers.keys).filter(|(number, _)| is_mine(number));
                keys.map(|(_, key)| key.clone()).collect()
            }
            Kind::Groups(groups) | Kind::Chains(groups) => groups.last(),
            Kind::Phantoms(groups) => groups.last(),
        };
        let reads = keys.chunks(FINAL_READS_PER_TXN).map(|keys| {
            Transaction::new(keys.iter().map(|key| Op::Read { key: key.clone() }).collect())
        });
        writes.into_iter().chain(reads).collect()
    }

    /// A transaction over a shard and the next one, the lower first, so that the last ones of all
    /// clients wait for each other and nothing else.
    fn final_write(&mut self, shard: u32) -> Transaction {
        let mut shards = vec![shard, shard % self.shard_count + 1];
        shards.sort_unstable();
        shards.dedup();
        let mut ops = Vec::new();
        for shard in shards {
            let key = placed_key("final", u64::from(shard - 1), self.shard_count);
            let value = self.source.value();
            match &self.kind {
                Kind::Lists(_) => ops.extend(lists::append(key, value)),
                Kind::Ordered(_) => ops.extend(registers::overwrite(key, value)),
                Kind::Bank(_)
                | Kind::Registers(_)
                | Kind::Pairs(_)
                | Kind::Groups(_)
                | Kind::Chains(_)
                | Kind::Phantoms(_)
                | Kind::HotKeys(_) => ops.push(Op::Write { key, value }),
            }
        }
        Transaction::new(ops)
    }
}

/// Key number `number` with a prefix. Neighbours are on different shards.
pub(super) fn placed_key(prefix: &str, number: u64, shard_count: u32) -> Key {
    let shard = ShardId((number % u64::from(shard_count)) as u32 + 1);
    let keys = (0_u64..).map(|salt| Key::new(format!("{prefix}{number}-{salt}").into_bytes()));
    let mut keys = keys.filter(|key| ring::shard_of(key, shard_count) == shard);
    keys.next().expect("every shard has keys")
}

/// What was read, as text.
pub(super) fn text_of(found: &Found) -> Option<&str> {
    match &found.value {
        Value::String(bytes) => str::from_utf8(bytes).ok(),
    }
}
