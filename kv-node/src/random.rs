//! Randomness from the operating system.

use std::fs::File;
use std::io::Read as _;

use crate::error::NodeError;

/// A number that no other node and no other life of this node has drawn: the seed of the core's
/// generators, and the incarnation of a new data directory.
pub(crate) fn number() -> Result<u64, NodeError> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| NodeError::System { what: "read /dev/urandom", source })?;
    Ok(u64::from_le_bytes(bytes))
}
