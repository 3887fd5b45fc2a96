//! The metadata of the tree: what the engine knows beside keys and values.
//!
//! ```text
//! empty, or
//!    1  version, 1
//!    4  next local id, little endian
//! then for each shard
//!    4  shard, little endian
//!    4  its local id, little endian
//!    4  size of the machine, little endian
//!    *  the machine
//! ```

use std::collections::BTreeMap;

use kv_core::codec::CodecError;
use kv_core::id::ShardId;
use kv_core::machine::{LocalShardId, Machine};

use super::Shard;

const VERSION: u8 = 1;

/// What metadata hold.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) next_local_id: u32,
    pub(super) shards: BTreeMap<ShardId, Shard>,
}

/// The metadata of these shards.
pub(super) fn encode(next_local_id: u32, shards: &BTreeMap<ShardId, Shard>) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&next_local_id.to_le_bytes());
    for (shard, Shard { local_id, machine }) in shards {
        let machine = machine.encode();
        let size = u32::try_from(machine.len()).expect("a machine is far smaller than 4 GiB");
        for number in [shard.0, local_id.0, size] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&machine);
    }
    out
}

/// What metadata say. Empty ones are those of a tree that was never flushed.
pub(super) fn decode(bytes: &[u8]) -> Result<State, CodecError> {
    let malformed = |what: &str| CodecError::Malformed(what.into());
    let (mut state, mut rest) = match bytes {
        [] => return Ok(State::default()),
        [VERSION, rest @ ..] => (State::default(), rest),
        _ => return Err(malformed("an unknown version of the metadata")),
    };
    let number = |rest: &mut &[u8]| {
        let (number, behind) =
            rest.split_first_chunk::<4>().ok_or_else(|| malformed("a number ends"))?;
        *rest = behind;
        Ok::<_, CodecError>(u32::from_le_bytes(*number))
    };
    state.next_local_id = number(&mut rest)?;
    while !rest.is_empty() {
        let shard = ShardId(number(&mut rest)?);
        let local_id = LocalShardId(number(&mut rest)?);
        let size = number(&mut rest)? as usize;
        let (machine, behind) =
            rest.split_at_checked(size).ok_or_else(|| malformed("a machine ends early"))?;
        rest = behind;
        let machine = Machine::decode(machine)?;
        state.shards.insert(shard, Shard { local_id, machine });
    }
    Ok(state)
}
