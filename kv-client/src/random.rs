//! Randomness from the operating system.

use std::fs::File;
use std::io::{self, Read as _};

/// A seed that no other process has: session nonces are drawn from it, and two clients with the
/// same nonce would take each other's requests for their own retries.
pub(crate) fn seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
