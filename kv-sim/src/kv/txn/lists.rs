//! Lists to which clients append: values that are JSON arrays of unique numbers.
//!
//! There are a few places for lists, over all shards. When a list is full, another one takes its place:
//! a client that reads a full list goes on to the next generation of that place. Nobody appends to a
//! full list, because who appends has locked and read it.

use kv_core::op::{Found, Key};

use super::operations::{Source, placed_key, text_of};
use super::transaction::{Op, Transaction};
use crate::engine::Draw;

/// Elements of a list: longer ones cost time, and show nothing more.
pub(super) const LENGTH_MAX: usize = 100;

/// Transactions that end with a rollback, in a million.
pub(super) const ROLLBACK_RATE: u32 = 20_000;

/// The elements of a list that was read, or what there is instead.
pub(super) fn elements(found: Option<&Found>) -> Result<Vec<u64>, String> {
    let Some(found) = found else { return Ok(Vec::new()) };
    let text = text_of(found).unwrap_or("not text");
    serde_json::from_str(text).map_err(|_| text.to_owned())
}

/// The list with one element more.
pub(super) fn text(list: &[u64], element: u64) -> String {
    let all: Vec<String> = list.iter().chain([&element]).map(u64::to_string).collect();
    format!("[{}]", all.join(","))
}

/// The lists as one client sees them.
#[derive(Debug)]
pub(super) struct Lists {
    operations_max: u64,
    shard_count: u32,
    /// For each place, the keys of all generations that the client has seen; the last is the one
    /// that it appends to.
    places: Vec<Vec<Key>>,
}

impl Lists {
    pub(super) fn new(place_count: u64, operations_max: u64, shard_count: u32) -> Self {
        let places = (0..place_count).map(|place| vec![list_key(place, 0, shard_count)]);
        Self { operations_max, shard_count, places: places.collect() }
    }

    pub(super) fn next(&mut self, source: &mut Source) -> Transaction {
        let mut ops = Vec::new();
        for _ in 0..source.rng.between(1, self.operations_max) {
            let place = source.rng.index(self.places.len());
            let key = self.places[place].last().expect("a place has a list").clone();
            if source.rng.chance(500_000) {
                ops.push(Op::Read { key });
            } else {
                ops.extend(append(key, source.value()));
            }
        }
        Transaction::drawn(ops, &mut source.rng)
    }

    /// A list was read.
    pub(super) fn see(&mut self, key: &Key, found: Option<&Found>) {
        let is_full = elements(found).is_ok_and(|list| list.len() >= LENGTH_MAX);
        let newest =
            |(place, keys): (u64, &mut Vec<Key>)| (keys.last() == Some(key)).then_some(place);
        let place = (0..).zip(&mut self.places).find_map(newest).filter(|_| is_full);
        if let Some(place) = place {
            let keys = &mut self.places[place as usize];
            keys.push(list_key(place, keys.len(), self.shard_count));
        }
    }

    /// The lists of the places that fall to a client, all generations.
    pub(super) fn keys(&self, is_mine: impl Fn(&u64) -> bool) -> Vec<Key> {
        let mine = (0..).zip(&self.places).filter(|(place, _)| is_mine(place));
        mine.flat_map(|(_, keys)| keys.clone()).collect()
    }
}

/// What appends to a list.
pub(super) fn append(key: Key, element: u64) -> [Op; 2] {
    [Op::Lock { key: key.clone() }, Op::Append { key, element }]
}

fn list_key(place: u64, generation: usize, shard_count: u32) -> Key {
    placed_key(&format!("l{generation}-"), place, shard_count)
}
