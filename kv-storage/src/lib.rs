//! Blocking storage: a write-ahead log, the applied state, and the disks under them.
//!
//! This crate carries out what a [`Node`](kv_core::node::Node) asks of its store
//! ([`kv_core::storage`]). It has no threads, no clock and no randomness of its own: a call does
//! its work and returns, and the driver decides on which thread and when. The same code runs in
//! production on [`OsVfs`](vfs::OsVfs) and in the simulator on [`SimDisk`](vfs::SimDisk).
//!
//! [`open`] is the entry point. It locks the data directory, checks whose it is, recovers the log,
//! and hands out three independent parts:
//!
//! - [`Log`](log::Log) makes appends durable. It is `Send`: production gives it a thread of its
//!   own.
//! - [`Engine`](engine::Engine) holds the applied state of all shards in a tree ([`lsm`]), brings it
//!   to the disk in bounded steps, and serves reads.
//! - [`IdentityFile`](identity::IdentityFile) says whose directory this is.
//!
//! A directory that is not open can be verified from end to end with [`doctor::check`].
//!
//! Read on in [`vfs`] (what a disk promises), [`log`] (the protocol of durability), [`lsm`],
//! [`engine`], and [`writer`] (full disks).
//!
//! **What this leaves out:** repair of what is damaged, reads of the past, indexes.

pub mod doctor;
pub mod engine;
pub mod identity;
pub mod log;
pub mod lsm;
pub mod mutants;
mod store;
pub mod vfs;
pub mod writer;

pub use store::aside::ASIDE_PREFIX;
pub use store::{OpenError, OpenOptions, Opened, open};
