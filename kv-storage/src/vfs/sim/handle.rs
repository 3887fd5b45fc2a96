//! An open simulated file.

use std::io;
use std::sync::{Arc, MutexGuard};

use super::faults::{Call, SimError, Strike};
use super::{Disk, SimDisk};
use crate::vfs::VfsFile;

/// An open file. Dropping it syncs nothing.
#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) file: usize,
    pub(super) life: u64,
    pub(super) _handle: Arc<()>,
}

impl SimFile {
    /// Starts a call. The inner result is what strikes it.
    fn call(&self, call: Call) -> io::Result<(MutexGuard<'_, Disk>, Result<Strike, SimError>)> {
        let mut disk = self.disk.start_call()?;
        if disk.life != self.life {
            return Err(io::Error::other("the file was opened before a crash"));
        }
        let strike = match disk.trouble {
            None => Ok(Strike::Nothing),
            Some(_) => disk.strike(call, Some(self.file)),
        };
        Ok((disk, strike))
    }

    /// Starts a call that a strike just fails.
    fn plain_call(&self, call: Call) -> io::Result<MutexGuard<'_, Disk>> {
        let (disk, strike) = self.call(call)?;
        strike?;
        Ok(disk)
    }
}

impl VfsFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let (mut disk, strike) = self.call(Call::Read)?;
        let disk = &mut *disk;
        let strike = strike?;
        let file = &disk.files[self.file];
        if !file.unreadable.is_empty() && file.is_unreadable(offset, buffer.len()) {
            disk.counters.read_errors += 1;
            return Err(SimError::Io.into());
        }
        let count = file.content.read(offset, buffer);
        disk.counters.bytes_read += count as u64;
        if strike == Strike::Astray {
            let from = disk.stray_target(Call::Read, self.file, offset);
            disk.counters.reads_misdirected += 1;
            buffer[..count].fill(0);
            if let Some(other) = disk.files.get(from.file) {
                other.content.read(from.offset as u64, &mut buffer[..count]);
            }
        }
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut disk, strike) = self.call(Call::Write)?;
        match strike {
            Ok(Strike::Nothing) => disk.write(self.file, offset, bytes),
            Ok(Strike::Astray) => {
                disk.write_astray(self.file, offset, bytes);
                Ok(())
            }
            // A disk that turned read-only takes nothing.
            Err(SimError::ReadOnly) => Err(SimError::ReadOnly.into()),
            Err(error) => {
                let part = disk.draw_part(bytes.len());
                disk.write(self.file, offset, &bytes[..part])?;
                Err(error.into())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.start_sync();
        let (mut disk, strike) = self.call(Call::SyncFile)?;
        disk.counters.syncs += 1;
        match strike {
            Ok(_) => {
                let strays = disk.files[self.file].content.sync();
                if !strays.is_empty() {
                    disk.deliver(strays);
                }
                Ok(())
            }
            Err(SimError::ReadOnly) => Err(SimError::ReadOnly.into()),
            Err(error) => {
                disk.fail_sync(self.file);
                Err(error.into())
            }
        }
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        let mut disk = self.plain_call(Call::Change)?;
        disk.files[self.file].content.set_len(size);
        disk.unclaim(self.file, size);
        Ok(())
    }

    fn preallocate(&self, size: u64) -> io::Result<()> {
        let mut disk = self.plain_call(Call::Change)?;
        disk.preallocate(self.file, size)
    }

    fn size(&self) -> io::Result<u64> {
        let disk = self.plain_call(Call::Look)?;
        Ok(disk.files[self.file].content.size())
    }
}
