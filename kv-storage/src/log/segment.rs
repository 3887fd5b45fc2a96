//! The files that a log consists of.
//!
//! A *segment* is part of the stream. A *spare* is a file whose space is claimed and whose content
//! means nothing: a segment that is not needed any more becomes a spare by a rename, and a spare
//! becomes the next segment by a rename.

use std::io;

use super::LogError;
use crate::vfs::Vfs;

/// Number of the first segment.
pub(super) const FIRST_SEGMENT: u64 = 1;
/// The size of a segment unless its first batch needs more: 32 MiB. Large enough that beginning one
/// is rare, small enough to be read into memory when the log is opened.
pub const SEGMENT_BYTES: u64 = 32 * 1024 * 1024;
/// The spares that are kept beside the reserve. What a flush frees in one go is used again soon.
pub(super) const SPARES_MAX: usize = 4;
/// The part of a segment that only the log's own records may use, so that on a full disk there is
/// room for the trim that makes room: one in 16.
const MARGIN: u64 = 16;

/// The bytes at the end of a segment that are for the log's own records.
pub(super) fn margin(segment_bytes: u64) -> u64 {
    segment_bytes / MARGIN
}

/// A segment that is not written any more.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// Size of the file.
    pub(super) size: u64,
    /// Where its last batch ends.
    pub(super) end: u64,
}

/// A file whose space is claimed.
#[derive(Clone, Debug)]
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) size: u64,
    /// Whether it was a segment before, so that its blocks were written.
    pub(super) was_segment: bool,
}

/// All spares of a directory.
#[derive(Debug, Default)]
pub(super) struct Spares {
    files: Vec<Spare>,
    /// A number that no spare has had.
    next: u64,
}

/// The file name of a segment.
pub(super) fn segment_name(number: u64) -> String {
    format!("wal-{number:016x}.log")
}

/// The number in a segment's name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    number_in(name, "wal-", segment_name)
}

fn spare_name(number: u64) -> String {
    format!("spare-{number:016x}.log")
}

/// Whether a file is a spare, by its name.
pub(super) fn is_spare(name: &str) -> bool {
    number_in(name, "spare-", spare_name).is_some()
}

/// The numbers of all segments of the root directory, in order.
pub(super) fn list_segments(vfs: &dyn Vfs) -> io::Result<Vec<u64>> {
    list(vfs, "wal-", segment_name)
}

/// The numbers of all spares of the root directory, in order.
pub(super) fn list_spares(vfs: &dyn Vfs) -> io::Result<Vec<u64>> {
    list(vfs, "spare-", spare_name)
}

fn list(vfs: &dyn Vfs, prefix: &str, name_of: fn(u64) -> String) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<_> =
        vfs.list("")?.iter().filter_map(|name| number_in(name, prefix, name_of)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn number_in(name: &str, prefix: &str, name_of: fn(u64) -> String) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".log")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (name_of(number) == name).then_some(number)
}

impl Spares {
    /// The spares of a directory. Those of another size than segments have, and those that a crash
    /// left half made, are removed.
    pub(super) fn find(vfs: &dyn Vfs, segment_bytes: u64) -> io::Result<Self> {
        let mut spares = Self { files: Vec::new(), next: 1 };
        for number in list_spares(vfs)? {
            let name = spare_name(number);
            let size = vfs.open(&name)?.size()?;
            if size == segment_bytes && spares.files.len() <= SPARES_MAX {
                spares.files.push(Spare { name, size, was_segment: false });
            } else {
                vfs.remove(&name)?;
            }
            spares.next = number.saturating_add(1);
        }
        Ok(spares)
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|spare| spare.size).sum()
    }

    /// A name for another spare.
    pub(super) fn draw_name(&mut self) -> String {
        self.next += 1;
        spare_name(self.next - 1)
    }

    pub(super) fn add(&mut self, spare: Spare) {
        self.files.push(spare);
    }

    /// Takes a spare of at least `size` bytes.
    pub(super) fn take(&mut self, size: u64) -> Option<Spare> {
        let found = self.files.iter().rposition(|spare| spare.size >= size)?;
        Some(self.files.remove(found))
    }

    /// Claims space for another spare of `size` bytes. With an error nothing is left behind.
    pub(super) fn allocate(&mut self, vfs: &dyn Vfs, size: u64) -> Result<(), LogError> {
        if vfs.free_space()? < size {
            return Err(LogError::NoSpace { needed: size });
        }
        let name = self.draw_name();
        let claimed = vfs.create(&name).and_then(|file| file.preallocate(size));
        match claimed {
            Ok(()) => {
                self.add(Spare { name, size, was_segment: false });
                Ok(())
            }
            Err(error) => {
                let error = LogError::of_space(error, size);
                if matches!(error, LogError::NoSpace { .. }) && vfs.exists(&name)? {
                    vfs.remove(&name)?;
                }
                Err(error)
            }
        }
    }
}
