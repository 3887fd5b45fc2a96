//! The sans-IO core of a distributed key-value store.
//!
//! Everything that decides anything is here, and nothing that touches the world: no files, sockets,
//! clocks, threads or ambient randomness (`no_std` makes the compiler see to it). A driver feeds
//! inputs and the time into a [`Node`](node::Node) or a client [`Router`](client::Router) and
//! carries out what they put out. `kv-node` and `kv-client` are drivers on tokio, `kv-sim` is one
//! on a simulated world; all three run this same code.
//!
//! Start reading at [`node`], then [`raft`], [`machine`], [`client`] and [`wire`].

#![no_std]
#![warn(clippy::wildcard_enum_match_arm)]

extern crate alloc;

pub mod availability;
pub mod client;
pub mod cluster;
pub mod codec;
pub mod deadlock;
pub mod gossip;
pub mod id;
pub mod locks;
pub mod machine;
pub mod mutants;
pub mod node;
pub mod op;
pub mod oracle;
pub mod raft;
pub mod ring;
pub mod rng;
pub mod storage;
pub mod time;
pub mod txn;
pub mod wire;
