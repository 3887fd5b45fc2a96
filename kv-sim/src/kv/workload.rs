//! What a client asks for.
//!
//! Values are unique over a run, so a read tells which write it saw. A compare-and-set expects what
//! the client last saw of the key, by value or by version, so that some succeed and some do not.

use std::collections::BTreeMap;

use kv_core::client::Call;
use kv_core::id::ShardId;
use kv_core::op::{Expect, Found, Key, Value, WriteOp};
use kv_core::ring;

use crate::engine::{Draw, Rng};
use crate::scenario::{Mix, Workload};

/// The operations of one client.
#[derive(Debug)]
pub(super) struct Operations {
    rng: Rng,
    client: u16,
    keys: u64,
    value_bytes: usize,
    mix: Mix,
    value_count: u64,
    /// What was last seen of a key.
    seen: BTreeMap<Key, Found>,
}

impl Operations {
    pub(super) fn new(workload: &Workload, client: u16, seed: u64) -> Self {
        Self {
            rng: Rng::fork(seed, "operations", 0),
            client,
            keys: workload.keys,
            value_bytes: workload.value_bytes as usize,
            mix: workload.mix,
            value_count: 0,
            seen: BTreeMap::new(),
        }
    }

    /// The next operation.
    pub(super) fn next_call(&mut self) -> Call {
        let Mix { get, put, delete, cas } = self.mix;
        let key = key(self.rng.below(self.keys));
        let mut choice =
            self.rng.below(u64::from(get) + u64::from(put) + u64::from(delete) + u64::from(cas));
        for (weight, kind) in [(get, 0), (put, 1), (delete, 2)] {
            if choice < u64::from(weight) {
                return match kind {
                    0 => Call::Get { key },
                    1 => Call::Write(WriteOp::Put { key, value: self.next_value() }),
                    _ => Call::Write(WriteOp::Delete { key }),
                };
            }
            choice -= u64::from(weight);
        }
        let expect = self.expectation(&key);
        Call::Write(WriteOp::Cas { key, expect, value: self.next_value() })
    }

    fn expectation(&mut self, key: &Key) -> Expect {
        match self.seen.get(key) {
            None => Expect::Absent,
            Some(found) if self.rng.chance(500_000) => Expect::Version(found.version),
            Some(found) => Expect::Value(found.value.clone()),
        }
    }

    fn next_value(&mut self) -> Value {
        self.value_count += 1;
        let text = format!("c{}-{}", self.client, self.value_count);
        Value::string(format!("{text:<width$}", width = self.value_bytes).into_bytes())
    }

    /// Notes what a read or a write showed of a key.
    pub(super) fn see(&mut self, key: &Key, found: Option<Found>) {
        match found {
            Some(found) => self.seen.insert(key.clone(), found),
            None => self.seen.remove(key),
        };
    }
}

/// Key number `number` of the workload.
pub(super) fn key(number: u64) -> Key {
    Key::new(format!("k{number}").into_bytes())
}

/// A write to `shard`, which shows that it takes writes.
pub(super) fn final_write(shard: u32, shard_count: u32) -> Call {
    let key = final_key(shard, shard_count);
    Call::Write(WriteOp::Put { key, value: Value::string("final") })
}

/// The key of `shard` that is written at the end.
pub(super) fn final_key(shard: u32, shard_count: u32) -> Key {
    let keys = (0_u64..).map(|number| Key::new(format!("final{number}").into_bytes()));
    let mut keys = keys.filter(|key| ring::shard_of(key, shard_count) == ShardId(shard));
    keys.next().expect("every shard has keys")
}
