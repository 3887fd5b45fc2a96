//! A log-structured merge tree.
//!
//! The tree keeps every version of every key that somebody may still read, sorted, and larger than
//! memory. It has no log of its own: the log of the groups whose state it holds is the log of its
//! memtable. It has no threads and no clock either: writing is in memory, and what must be written
//! to disk later is done in steps of the caller's choice.
//!
//! # The parts
//!
//! - Writes go to the active *memtable*. The caller *seals* it when it is large, and hands over
//!   what it knows at this point of its log: the *metadata*, of which the tree understands nothing,
//!   and the *watermarks* below which nobody reads any more ([`Watermarks`]).
//! - A *flush* writes a sealed memtable to a *table* of level 0. One edit of the *manifest* makes
//!   the table, the metadata and the range deletions part of the tree. So whatever the metadata say
//!   is applied, is in the tables, exactly, and the log below may go.
//! - A *compaction* merges tables into the next level, and leaves out what nobody can read.
//! - A read asks memtables, level 0 and the levels in this order; the first that has a version at
//!   or below its timestamp has the newest. Bloom filters spare most tables, the block cache most
//!   reads.
//!
//! # What is durable when
//!
//! The tables of an edit are synced first, then their names (the directory), then the edit. Tables
//! that an edit removes are deleted after it, when the last [`ReadView`] that may read them is
//! gone. Files that the manifest does not list are leftovers of a crash and are removed when the
//! tree is opened. A listed file that is missing, or of another size, is [`Corruption`].
//!
//! Every checksum covers the content and its place, and is verified on every read, so that damage
//! is an error that names the file and the offset, and never an answer.
//!
//! # What the caller must see to
//!
//! - Versions of one key ascend in the order of writes. Writing the same version again is allowed:
//!   that is what replaying a log does.
//! - Nobody reads a local id below the watermark that the last [`Tree::seal`] was given for it.
//!   Watermarks never go back, except to those of the last flush, when the tree is opened again.
//! - A local id that was deleted is never used again.
//! - A write that follows a [`Debt::pressure`] of 1000 can wait.
//!
//! **What this leaves out:** bounds on open files (each table keeps one open), partitioned filters
//! and indexes (they are in memory, about 2 % of the data), compaction of one level by several
//! jobs, bulk loading of sorted entries.

mod block;
mod bloom;
mod cache;
mod checkpoint;
mod compaction;
mod debt;
mod disk;
mod error;
mod flush;
mod install;
mod key;
mod manifest;
mod memtable;
mod merge;
mod open;
mod options;
mod retention;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod verify;
mod version;
mod view;

pub use debt::{Debt, Share};
pub use error::{Corruption, TreeError};
pub use key::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use options::TreeOptions;
pub use retention::Watermarks;
pub use stats::{TreeCounters, TreeStats};
pub use tree::{Progress, Tree};
pub use verify::{DAMAGE_MAX, Verification, verify};
pub use view::{Page, ReadView, Row, Scan, Visit};

/// The path of `name` in `folder`, which may be the root.
fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}
