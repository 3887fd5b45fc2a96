//! The metadata of the tree: what the engine knows beside keys and values.
//!
//! ```text
//! empty, or
//!    1  version, 6
//!    4  next local id
//!    4  how many local ids are staged, then 4 for each
//!    4  how many shards were removed, then 4 for each
//! then for each shard
//!    4  shard
//!    4  its local id
//!   16  term and index of the entry at which its state was installed
//!    8  the timestamp from which on it can be read because of that
//!    4  size of the machine
//!    *  the machine
//! ```
//!
//! All numbers are little endian. Nobody goes on with what is staged, so whoever opens the tree
//! deletes it.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::id::{LogId, ShardId, Timestamp};
use kv_core::machine::{LocalShardId, Machine};

use super::Shard;
use super::staging::Staged;
use crate::lsm::Watermarks;
use crate::mutants::{Mutant, Mutants};

const VERSION: u8 = 6;

/// What metadata hold.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Above every local id that was ever given to a shard.
    pub(super) next_local_id: u32,
    /// A shard is here from its first applied entry, or from an installed snapshot on.
    pub(super) shards: BTreeMap<ShardId, Shard>,
    /// Shards that were here. What the log holds of them may be from before.
    pub(super) removed: BTreeSet<ShardId>,
}

impl State {
    /// A local id that was never used.
    pub(super) fn draw_local_id(&mut self) -> LocalShardId {
        self.next_local_id += 1;
        LocalShardId(self.next_local_id - 1)
    }

    /// A shard, which is made if it is not here.
    pub(super) fn shard_or_new(&mut self, shard: ShardId) -> &mut Shard {
        let Self { next_local_id, shards, removed } = self;
        shards.entry(shard).or_insert_with(|| {
            removed.remove(&shard);
            let local_id = LocalShardId(*next_local_id);
            *next_local_id += 1;
            let (machine, installed) = (Machine::new(), LogId::default());
            Shard { local_id, machine, installed, readable_from: Timestamp(0) }
        })
    }

    /// From when on the versions of each local id can be read, with those of what is staged. Of what
    /// is deleted, nothing is read.
    pub(super) fn watermarks<'a>(
        &self,
        staged: impl IntoIterator<Item = &'a Staged>,
        mutants: Mutants,
    ) -> Watermarks {
        if mutants.has(Mutant::VersionCollectedUnderAReader) {
            return Watermarks::everywhere(Timestamp::MAX);
        }
        let watermark = |shard: &Shard| (shard.local_id.0, shard.machine.watermark());
        let staged = staged.into_iter().map(|staged| (staged.local_id.0, staged.watermark()));
        Watermarks::of(self.shards.values().map(watermark).chain(staged).collect())
    }

    /// The metadata, with the local ids that are staged.
    pub(super) fn encode(&self, staged: &[LocalShardId]) -> Vec<u8> {
        let mut out = vec![VERSION];
        let mut push = |number: u32| out.extend_from_slice(&number.to_le_bytes());
        push(self.next_local_id);
        push(count(staged.len()));
        staged.iter().for_each(|id| push(id.0));
        push(count(self.removed.len()));
        self.removed.iter().for_each(|shard| push(shard.0));
        for (shard, Shard { local_id, machine, installed, readable_from }) in &self.shards {
            let machine = machine.encode();
            out.extend_from_slice(&shard.0.to_le_bytes());
            out.extend_from_slice(&local_id.0.to_le_bytes());
            out.extend_from_slice(&installed.term.0.to_le_bytes());
            out.extend_from_slice(&installed.index.0.to_le_bytes());
            out.extend_from_slice(&readable_from.0.to_le_bytes());
            out.extend_from_slice(&count(machine.len()).to_le_bytes());
            out.extend_from_slice(&machine);
        }
        out
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).expect("metadata are far smaller than 4 GiB")
}

/// What metadata say, and which local ids were staged. Empty ones are those of a tree that was
/// never flushed. What is wrong with others is told.
pub(super) fn decode(bytes: &[u8]) -> Result<(State, Vec<LocalShardId>), &'static str> {
    let mut rest = match bytes {
        [] => return Ok(Default::default()),
        [VERSION, rest @ ..] => rest,
        _ => return Err("metadata of a version that this program does not read"),
    };
    parse(&mut rest).ok_or("metadata that are none")
}

fn parse(rest: &mut &[u8]) -> Option<(State, Vec<LocalShardId>)> {
    let mut state = State { next_local_id: number(rest)?, ..State::default() };
    let mut staged = Vec::new();
    for _ in 0..number(rest)? {
        staged.push(LocalShardId(number(rest)?));
    }
    for _ in 0..number(rest)? {
        state.removed.insert(ShardId(number(rest)?));
    }
    while !rest.is_empty() {
        let shard = ShardId(number(rest)?);
        let local_id = LocalShardId(number(rest)?);
        let installed = LogId::new(long(rest)?, long(rest)?);
        let readable_from = Timestamp(long(rest)?);
        let size = usize::try_from(number(rest)?).ok()?;
        let (machine, behind) = rest.split_at_checked(size)?;
        *rest = behind;
        let machine = Machine::decode(machine).ok()?;
        state.shards.insert(shard, Shard { local_id, machine, installed, readable_from });
    }
    Some((state, staged))
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (number, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(u32::from_le_bytes(*number))
}

fn long(rest: &mut &[u8]) -> Option<u64> {
    let (number, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(u64::from_le_bytes(*number))
}
