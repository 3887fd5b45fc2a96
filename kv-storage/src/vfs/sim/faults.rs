//! What goes wrong on a simulated disk beside a loss of power.
//!
//! Faults come in two ways. [`SimDisk::set_faults`] sets a rate for each kind, and a stream of
//! random numbers decides call by call. The other calls here break one thing at one place.
//!
//! - A *read error* fails one read, or all reads of a range until it is written again (a drive
//!   puts another sector in the place of one that cannot be read when it is written).
//! - *Rot* inverts one bit of what is durable. What waits for a sync does not rot.
//! - A *misdirected write* reads as it should until it is synced. Then its place holds the old
//!   bytes, and another place the new ones. A *misdirected read* returns other durable bytes.
//! - A *failed sync* leaves the file clean: each pending write is kept or lost, and later syncs
//!   succeed without it.
//! - A *full disk* refuses whatever needs space that was not claimed. A write that needs some does
//!   the part for which there is room.
//! - *Delays* and *stalls* are numbers: the disk has no clock, so the simulator takes them with
//!   [`SimDisk::take_delay`] and lets its own time pass.

use std::io;
use std::ops::Range;
use std::time::Duration;

use kv_core::rng::Rng;
use rustix::io::Errno;

use super::file::{Place, SECTOR_BYTES, Stray};
use super::{Disk, SimDisk, SimDiskCounters};

const MILLION: u64 = 1_000_000;

/// How often a simulated disk fails. Rates are per million calls of the kind that they strike; all
/// are 0 by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// Reads that fail. Reading again may succeed.
    pub read_error: u32,
    /// Reads that return bytes of another place.
    pub read_misdirected: u32,
    /// Writes that fail. A part may have been written.
    pub write_error: u32,
    /// Writes that reach the disk at another place.
    pub write_misdirected: u32,
    /// Syncs of files that fail and leave the file clean.
    pub sync_error: u32,
    /// Calls of any kind at which one durable bit changes somewhere.
    pub rot: u32,
    /// Slow calls.
    pub slow: Delay,
    /// Calls at which the disk stalls.
    pub stall: Delay,
}

/// How often calls take long, and how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delay {
    /// Calls per million.
    pub rate: u32,
    /// The shortest delay.
    pub min: Duration,
    /// The longest delay.
    pub max: Duration,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimError {
    /// The device does not answer as it should: `EIO`.
    Io,
    /// There is no room: `ENOSPC`.
    NoSpace,
    /// The file system is read-only: `EROFS`.
    ReadOnly,
}

/// A bit that changed at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rot {
    /// A name of the file.
    pub path: String,
    /// The byte.
    pub offset: u64,
    /// The bit, 0 to 7.
    pub bit: u8,
}

impl SimError {
    /// Whether a call can fail so. What changes nothing needs no room.
    fn can_strike(self, call: Call) -> bool {
        self == Self::Io || !matches!(call, Call::Look | Call::Read)
    }
}

impl From<SimError> for io::Error {
    fn from(error: SimError) -> Self {
        match error {
            SimError::Io => Errno::IO.into(),
            SimError::NoSpace => Errno::NOSPC.into(),
            SimError::ReadOnly => Errno::ROFS.into(),
        }
    }
}

/// What kind of call a fault may strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Reads names or sizes.
    Look,
    Read,
    Write,
    /// Changes names or sizes.
    Change,
    SyncFile,
    SyncDir,
}

/// What strikes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    Nothing,
    /// A read or write goes elsewhere.
    Astray,
}

/// Everything that can go wrong. A disk on which nothing was armed has none.
#[derive(Debug)]
pub(super) struct Trouble {
    rates: DiskFaults,
    pub(super) rng: Rng,
    read_only: bool,
    /// The first call from this number on that can fail so does.
    once: Option<(u64, SimError)>,
    next_write: Option<(usize, Option<Place>)>,
    next_read: Option<(usize, Option<Place>)>,
    delay: Duration,
}

impl Default for Trouble {
    fn default() -> Self {
        Self {
            rates: DiskFaults::default(),
            rng: Rng::fork(0, "disk faults"),
            read_only: false,
            once: None,
            next_write: None,
            next_read: None,
            delay: Duration::ZERO,
        }
    }
}

impl Trouble {
    fn draws(&mut self, rate: u32) -> bool {
        rate > 0 && self.rng.below(MILLION) < u64::from(rate)
    }

    fn draw_delays(&mut self, counters: &mut SimDiskCounters) {
        let DiskFaults { slow, stall, .. } = self.rates;
        for (delay, counter) in [(slow, &mut counters.delays), (stall, &mut counters.stalls)] {
            if self.draws(delay.rate) {
                *counter += 1;
                self.delay += self.rng.duration(delay.min, delay.max);
            }
        }
    }

    /// The error with which a call fails.
    fn error(&mut self, call: Call, counters: &mut SimDiskCounters) -> Option<SimError> {
        let is_due = |(number, error): &mut (u64, SimError)| {
            *number <= counters.calls && error.can_strike(call)
        };
        if let Some((_, error)) = self.once.take_if(is_due) {
            counters.calls_failed += 1;
            return Some(error);
        }
        if self.read_only && !matches!(call, Call::Look | Call::Read) {
            counters.read_only += 1;
            return Some(SimError::ReadOnly);
        }
        let (rate, counter) = match call {
            Call::Read => (self.rates.read_error, Some(&mut counters.read_errors)),
            Call::Write => (self.rates.write_error, Some(&mut counters.write_errors)),
            Call::SyncFile => (self.rates.sync_error, None),
            Call::Look | Call::Change | Call::SyncDir => (0, None),
        };
        let fails = self.draws(rate);
        if let (true, Some(counter)) = (fails, counter) {
            *counter += 1;
        }
        fails.then_some(SimError::Io)
    }

    fn goes_astray(&mut self, call: Call) -> bool {
        let rate = match call {
            Call::Read => self.rates.read_misdirected,
            Call::Write => self.rates.write_misdirected,
            Call::Look | Call::Change | Call::SyncFile | Call::SyncDir => 0,
        };
        self.draws(rate)
    }
}

impl Disk {
    fn trouble(&mut self) -> &mut Trouble {
        self.trouble.get_or_insert_default()
    }

    pub(super) fn disarm_once(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.once = None;
        }
    }

    /// Lets whatever is armed strike a call to `file`.
    pub(super) fn strike(&mut self, call: Call, file: Option<usize>) -> Result<Strike, SimError> {
        let Some(trouble) = &mut self.trouble else { return Ok(Strike::Nothing) };
        trouble.draw_delays(&mut self.counters);
        let error = trouble.error(call, &mut self.counters);
        let next = match call {
            Call::Read => trouble.next_read,
            Call::Write => trouble.next_write,
            Call::Look | Call::Change | Call::SyncFile | Call::SyncDir => None,
        };
        let is_next = file.is_some() && next.map(|(file, _)| file) == file;
        let astray = error.is_none() && (is_next || trouble.goes_astray(call));
        // A disk that turned read-only loses nothing by that.
        let loses = error.is_some_and(|error| error != SimError::ReadOnly);
        self.counters.sync_errors += u64::from(loses && call == Call::SyncDir);
        let rate = trouble.rates.rot;
        if trouble.draws(rate) {
            let mut rng = trouble.rng.clone();
            self.rot_anywhere(&mut rng);
            self.trouble().rng = rng;
        }
        match error {
            Some(error) => Err(error),
            None if astray => Ok(Strike::Astray),
            None => Ok(Strike::Nothing),
        }
    }

    /// Where a write at `offset` of `file` goes instead.
    pub(super) fn stray_target(&mut self, call: Call, file: usize, offset: u64) -> Place {
        let trouble = self.trouble();
        let next = match call {
            Call::Write => &mut trouble.next_write,
            _ => &mut trouble.next_read,
        };
        let armed = next.take_if(|(armed, _)| *armed == file).and_then(|(_, place)| place);
        if let Some(place) = armed {
            return place;
        }
        let mut rng = trouble.rng.clone();
        let place = self.draw_place(&mut rng, offset as usize);
        self.trouble().rng = rng;
        place.unwrap_or(Place { file, offset: usize::MAX })
    }

    /// Another sector of any file with content, and the same place within it.
    fn draw_place(&self, rng: &mut Rng, offset: usize) -> Option<Place> {
        let sizes = || self.files.iter().map(|file| file.content.durable_len()).enumerate();
        let sectors = |size: usize| size.div_ceil(SECTOR_BYTES) as u64;
        let mut sector = rng.below(sizes().map(|(_, size)| sectors(size)).sum());
        for (file, size) in sizes() {
            if sector < sectors(size) {
                let offset = sector as usize * SECTOR_BYTES + offset % SECTOR_BYTES;
                return Some(Place { file, offset });
            }
            sector -= sectors(size);
        }
        None
    }

    /// Lets misdirected writes reach the places to which they went.
    pub(super) fn deliver(&mut self, strays: Vec<Stray>) {
        for Stray { to, bytes } in strays {
            if let Some(file) = self.files.get_mut(to.file) {
                file.content.overwrite(to.offset, &bytes);
            }
        }
    }

    /// Fails the sync of a file, which leaves it clean.
    pub(super) fn fail_sync(&mut self, file: usize) {
        let trouble = self.trouble.get_or_insert_default();
        let (mut dropped, rng) = (0, &mut trouble.rng);
        let strays = self.files[file].content.settle_all(|_| {
            let is_kept = rng.below(2) == 0;
            dropped += u64::from(!is_kept);
            is_kept
        });
        self.counters.sync_errors += 1;
        self.counters.sync_dropped += dropped;
        self.deliver(strays);
    }

    fn rot_anywhere(&mut self, rng: &mut Rng) -> Option<Rot> {
        let files = self.named_files();
        let size = |file: usize| self.files[file].content.durable_len() as u64;
        let mut offset = rng.below(files.iter().map(|(_, file)| size(*file)).sum());
        let bit = rng.below(8) as u8;
        let (path, file) = files.into_iter().find(|(_, file)| {
            let is_here = offset < size(*file);
            offset -= if is_here { 0 } else { size(*file) };
            is_here
        })?;
        self.files[file].content.rot(offset as usize, bit);
        self.counters.bits_rotten += 1;
        Some(Rot { path, offset, bit })
    }
}

impl SimDisk {
    /// Fails at the given rates from here on. `rng` decides which calls.
    pub fn set_faults(&self, faults: DiskFaults, rng: Rng) {
        let disk = &mut *self.lock();
        let trouble = disk.trouble();
        trouble.rates = faults;
        trouble.rng = rng;
    }

    /// Disarms every fault. What is damaged stays damaged, and what is full stays full.
    pub fn clear_faults(&self) {
        let disk = &mut *self.lock();
        disk.fail_from = None;
        disk.trouble = None;
    }

    /// Lets `succeed` more calls through and fails the first one after them that can fail so, and
    /// only that one, unless a crash comes first. A write may be done in part. A sync of a file
    /// leaves the file clean. Any other call changes nothing.
    pub fn fail_once(&self, succeed: u64, error: SimError) {
        let disk = &mut *self.lock();
        let call = disk.counters.calls + succeed + 1;
        disk.trouble().once = Some((call, error));
    }

    /// Makes the file system read-only, or writable again. Syncs fail too, and lose nothing.
    pub fn set_read_only(&self, read_only: bool) {
        self.lock().trouble().read_only = read_only;
    }

    /// Limits the bytes that all files together may claim.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.lock().capacity = capacity;
    }

    /// Bytes claimed by all files.
    pub fn used_space(&self) -> u64 {
        self.lock().used
    }

    /// Fails every read that touches a range of a file, until it is written again.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`].
    pub fn fail_reads(&self, path: &str, range: Range<u64>) -> io::Result<()> {
        let disk = &mut *self.lock();
        let file = disk.file(path)?;
        disk.files[file].unreadable.push(range);
        Ok(())
    }

    /// Inverts one durable bit.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or [`io::ErrorKind::UnexpectedEof`] beyond the durable size.
    pub fn rot(&self, path: &str, offset: u64, bit: u8) -> io::Result<()> {
        let disk = &mut *self.lock();
        let file = disk.file(path)?;
        if !disk.files[file].content.rot(offset as usize, bit) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        disk.counters.bits_rotten += 1;
        Ok(())
    }

    /// Inverts one durable bit of a file with a name. None if there is no such bit.
    pub fn rot_anywhere(&self, rng: &mut Rng) -> Option<Rot> {
        self.lock().rot_anywhere(rng)
    }

    /// Sends the next write to the file at `path` to another file and offset, or to one drawn at
    /// random.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`].
    pub fn misdirect_write(&self, path: &str, to: Option<(&str, u64)>) -> io::Result<()> {
        let disk = &mut *self.lock();
        disk.trouble().next_write = Some(disk.detour(path, to)?);
        Ok(())
    }

    /// Lets the next read of the file at `path` return what is durable at another file and offset,
    /// or at one drawn at random.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`].
    pub fn misdirect_read(&self, path: &str, from: Option<(&str, u64)>) -> io::Result<()> {
        let disk = &mut *self.lock();
        disk.trouble().next_read = Some(disk.detour(path, from)?);
        Ok(())
    }

    /// How much longer than usual the calls since the last question took.
    pub fn take_delay(&self) -> Duration {
        let disk = &mut *self.lock();
        disk.trouble.as_mut().map(|trouble| std::mem::take(&mut trouble.delay)).unwrap_or_default()
    }
}

impl Disk {
    fn detour(
        &mut self,
        path: &str,
        to: Option<(&str, u64)>,
    ) -> io::Result<(usize, Option<Place>)> {
        let file = self.file(path)?;
        let place = match to {
            Some((path, offset)) => Some(Place { file: self.file(path)?, offset: offset as usize }),
            None => None,
        };
        Ok((file, place))
    }
}
