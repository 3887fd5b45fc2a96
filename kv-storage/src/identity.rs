//! The file that says whose data directory this is.
//!
//! ```text
//! size  field
//!    4  magic "KVID"
//!    1  format version, 3
//!    3  zero
//!    4  length of the content, little endian
//!    4  crc32c of the 12 bytes before it and of the content, little endian
//!    *  content: an Identity in the encoding of kv_core::codec
//! ```
//!
//! The header keeps its layout in every version, so a file of an unknown version is told from a
//! damaged one. The file is replaced as a whole: written under another name, synced, renamed, and
//! the rename synced. A crash leaves the old one or the new one.
//!
//! **What this leaves out:** moving a directory to another node or cluster, which nothing may do.

use std::io;
use std::sync::Arc;

use kv_core::cluster::Identity;
use kv_core::codec::{self, CodecError};
use kv_core::storage::StorageReply;

use crate::store::aside;
use crate::vfs::{DirLock, Vfs, read_all};

pub(crate) const IDENTITY_FILE: &str = "IDENTITY";
const TEMPORARY_FILE: &str = "IDENTITY.tmp";
const FORMAT_VERSION: u8 = 3;
const MAGIC: [u8; 4] = *b"KVID";
const HEADER_BYTES: usize = 16;
/// Where the checksum stands.
const CRC_AT: usize = 12;

/// Why an identity cannot be read or stored.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is not whole. *Nothing was changed.*
    #[error("the file IDENTITY is damaged")]
    Damaged,
    /// A newer program wrote the file. *Nothing was changed.*
    #[error(
        "the file IDENTITY has format version {0}; this program knows version {FORMAT_VERSION}"
    )]
    UnknownVersion(u8),
    /// The file is whole but its content is not an identity. *Nothing was changed.*
    #[error("the content of the file IDENTITY is unknown")]
    Content(#[source] CodecError),
    /// The disk failed. Which of the old and the new identity is durable is unknown. *The node must
    /// stop.*
    #[error("the disk failed at the file IDENTITY")]
    Io(#[from] io::Error),
}

/// The identity file of a locked directory.
#[derive(Debug)]
pub struct IdentityFile {
    vfs: Arc<dyn Vfs>,
    identity: Identity,
    /// Keeps the directory ours.
    _lock: Arc<DirLock>,
}

impl IdentityFile {
    /// The file of a directory whose stored identity is `identity`.
    pub(crate) fn new(vfs: Arc<dyn Vfs>, lock: Arc<DirLock>, identity: Identity) -> Self {
        Self { vfs, identity, _lock: lock }
    }

    /// What is stored.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Replaces the identity, durably. Returns [`StorageReply::IdentityStored`].
    ///
    /// # Errors
    /// [`IdentityError::Io`]. *The node must stop.*
    ///
    /// # Panics
    /// If cluster name or incarnation change, or the node once it belongs to a cluster: a directory
    /// never becomes another one.
    pub fn store(&mut self, identity: &Identity) -> Result<StorageReply, IdentityError> {
        assert_eq!(identity.cluster_name, self.identity.cluster_name, "the cluster name is fixed");
        let is_fixed = self.identity.cluster.is_some();
        assert!(
            !is_fixed || identity.node == self.identity.node,
            "the node of a directory is fixed"
        );
        assert_eq!(identity.incarnation, self.identity.incarnation, "the incarnation is fixed");
        write(&*self.vfs, identity)?;
        if self.identity.repair.is_some() && identity.repair.is_none() {
            aside::remove(&*self.vfs)?;
        }
        self.identity = identity.clone();
        Ok(StorageReply::IdentityStored)
    }
}

/// Reads the stored identity; none if there is no file.
pub(crate) fn read(vfs: &dyn Vfs) -> Result<Option<Identity>, IdentityError> {
    if !vfs.exists(IDENTITY_FILE)? {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    read_all(&*vfs.open(IDENTITY_FILE)?, &mut bytes)?;
    parse(&bytes).map(Some)
}

/// Stores `identity`, durably, in the place of what was there.
pub(crate) fn write(vfs: &dyn Vfs, identity: &Identity) -> io::Result<()> {
    if vfs.exists(TEMPORARY_FILE)? {
        vfs.remove(TEMPORARY_FILE)?;
    }
    let file = vfs.create(TEMPORARY_FILE)?;
    file.write_at(0, &format(identity))?;
    file.sync_data()?;
    vfs.rename(TEMPORARY_FILE, IDENTITY_FILE)?;
    vfs.sync_dir("")
}

fn format(identity: &Identity) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    codec::encode_into(identity, &mut out);
    let length = u32::try_from(out.len() - HEADER_BYTES).expect("an identity is small");
    out[..4].copy_from_slice(&MAGIC);
    out[4] = FORMAT_VERSION;
    out[8..12].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&out);
    out[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    out
}

fn checksum(file: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&file[..CRC_AT]), &file[HEADER_BYTES..])
}

fn parse(bytes: &[u8]) -> Result<Identity, IdentityError> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(IdentityError::Damaged)?;
    let length = (bytes.len() - HEADER_BYTES) as u64;
    let whole = header[..4] == MAGIC
        && header[8..12] == (length as u32).to_le_bytes()
        && header[CRC_AT..] == checksum(bytes).to_le_bytes();
    match (whole, header[4]) {
        (false, _) => Err(IdentityError::Damaged),
        (true, FORMAT_VERSION) => {
            codec::decode(&bytes[HEADER_BYTES..]).map_err(IdentityError::Content)
        }
        (true, version) => Err(IdentityError::UnknownVersion(version)),
    }
}
