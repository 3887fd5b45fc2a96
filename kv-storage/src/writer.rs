//! The log as a driver uses it: with an eye on the room that is left, and on damage.
//!
//! Fullness is noticed before there is no room at all: below the *reserve* a node still writes what
//! makes room, and everything that was promised before. The core judges what that is
//! (`Refusal::NoSpace`); here it is only noticed. It ends at twice the reserve, so that a node at the
//! edge does not change its mind with every write.
//!
//! A log that turns out to be damaged takes no more writes: the node is told, and what it asked for
//! before it knew is dropped, like what a crash loses.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use kv_core::id::{LogId, ShardId};
use kv_core::storage::{Append, StorageDamage, StorageReply};

use crate::log::{Damage, Log, LogError};
use crate::store::chain;
use crate::vfs::Vfs;

/// A log and its disk.
#[derive(Debug)]
pub struct LogWriter {
    log: Log,
    vfs: Arc<dyn Vfs>,
    reserve_bytes: u64,
    /// Releases for which there was no room. Appends wait for them: an installed snapshot may lie
    /// behind the end of the log, and the entries behind it fit only then.
    owed: BTreeMap<ShardId, LogId>,
    is_full: bool,
    is_damaged: bool,
}

impl LogWriter {
    /// A writer of a log on the disk under `vfs`, which counts as full when less than
    /// `reserve_bytes` are left.
    pub fn new(log: Log, vfs: Arc<dyn Vfs>, reserve_bytes: u64) -> Self {
        let is_damaged = log.is_read_only();
        Self { log, vfs, reserve_bytes, owed: BTreeMap::new(), is_full: false, is_damaged }
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Writes appends as one batch, if need be into the log's reserve. Returns only
    /// [`StorageReply::Damaged`] if a release that comes before them finds damage.
    ///
    /// # Errors
    /// As [`Log::append_from_reserve`].
    pub fn append(&mut self, appends: &[Append]) -> Result<Vec<StorageReply>, LogError> {
        let damage = self.release_owed()?;
        if self.is_damaged {
            return Ok(damage.into_iter().collect());
        }
        match self.log.append(appends) {
            Err(error) if error.is_retryable() => self.log.append_from_reserve(appends),
            result => result,
        }
    }

    /// [`Log::release`]. Where there is no room even for that, the next release or append does it.
    /// Returns [`StorageReply::Damaged`] if what is needed of a segment is damaged.
    ///
    /// # Errors
    /// As [`Log::release`].
    pub fn release(
        &mut self,
        floors: &BTreeMap<ShardId, LogId>,
    ) -> Result<Option<StorageReply>, LogError> {
        self.owed.extend(floors);
        match self.release_owed() {
            Err(error) if error.is_retryable() => Ok(None),
            result => result,
        }
    }

    fn release_owed(&mut self) -> Result<Option<StorageReply>, LogError> {
        if self.is_damaged || self.owed.is_empty() {
            return Ok(None);
        }
        match self.log.release(&self.owed) {
            Ok(_) => {
                self.owed.clear();
                Ok(None)
            }
            Err(LogError::Damaged(damage)) => {
                self.is_damaged = true;
                Ok(Some(StorageReply::Damaged(damage_of(&damage))))
            }
            Err(error) => Err(error),
        }
    }

    /// [`Log::write_idle_batch`].
    ///
    /// # Errors
    /// As there.
    pub fn write_idle_batch(&mut self) -> Result<(), LogError> {
        if !self.is_damaged {
            self.log.write_idle_batch()?;
        }
        Ok(())
    }

    /// Whether [`LogWriter::write_idle_batch`] would write.
    pub fn owes_idle_batch(&self) -> bool {
        !self.is_damaged && self.log.owes_idle_batch()
    }

    /// Whether the disk counts as full.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Looks at the disk. Returns [`StorageReply::Space`] if it became full or has room again.
    ///
    /// # Errors
    /// The disk's. *Nothing was changed.*
    pub fn look_at_space(&mut self) -> io::Result<Option<StorageReply>> {
        let free = self.vfs.free_space()?;
        let enough = if self.is_full { 2 * self.reserve_bytes } else { self.reserve_bytes };
        let is_full = free < enough;
        if is_full == self.is_full {
            return Ok(None);
        }
        self.is_full = is_full;
        Ok(Some(StorageReply::Space { is_full }))
    }
}

/// What is damaged, as the node tells it.
pub(crate) fn damage_of(damage: &Damage) -> StorageDamage {
    StorageDamage { file: damage.file.clone(), offset: damage.position, what: chain(&damage.kind) }
}
