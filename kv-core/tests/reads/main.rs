//! Reads at a timestamp: single keys, and scans that are merged from the answers of many shards. And
//! reads at replicas.
//!
//! What would go wrong: a row that is given out before a shard has told a lower one, a key that falls
//! between two pages, a page that never ends, a shard that stays asked after its call is over.

mod harness;
mod pages;
mod replicas;
mod requests;
