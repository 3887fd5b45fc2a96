//! A simulated file's content: what is durable, and what waits for a sync.
//!
//! Pending writes are a list of operations over one byte buffer, both reused from sync to sync: a
//! small write and its sync cost two copies and no allocation, however long the file is.

use kv_core::rng::Rng;

use super::SimDiskCounters;

/// The unit that a disk writes as a whole: a torn write keeps or loses sectors, never parts of one.
pub const SECTOR_BYTES: usize = 512;

/// The content of one file.
///
/// - `size` is the size after all pending operations.
/// - `bytes` holds the bytes of the pending writes, one after the other, in their order.
#[derive(Debug, Default)]
pub(super) struct Content {
    durable: Vec<u8>,
    size: u64,
    pending: Vec<Pending>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Pending {
    Write {
        offset: usize,
        len: usize,
    },
    /// A write that reads as if it were where it should be, and will reach the disk elsewhere.
    Stray {
        offset: usize,
        len: usize,
        to: Place,
    },
    SetLen(usize),
}

/// A place on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of the file.
    pub(super) file: usize,
    /// Where in it.
    pub(super) offset: usize,
}

/// Bytes that reach the disk at a place where they do not belong.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) to: Place,
    pub(super) bytes: Vec<u8>,
}

/// What a crash does to one pending write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Dropped,
    /// Some sectors are kept and some are not.
    Torn,
    /// The file grew, but its new part was never written.
    Zeroed,
}

impl Fate {
    fn draw(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0..3 => Self::Kept,
            3..5 => Self::Dropped,
            5..7 => Self::Torn,
            _ => Self::Zeroed,
        }
    }
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.pending.push(Pending::Write { offset: offset as usize, len: bytes.len() });
        self.bytes.extend_from_slice(bytes);
        if !bytes.is_empty() {
            self.size = self.size.max(offset + bytes.len() as u64);
        }
    }

    /// Writes `bytes` so that they will reach the disk at `to`, and not at `offset`.
    pub(super) fn write_astray(&mut self, offset: u64, bytes: &[u8], to: Place) {
        self.write(offset, bytes);
        let stray = Pending::Stray { offset: offset as usize, len: bytes.len(), to };
        if let Some(last) = self.pending.last_mut() {
            *last = stray;
        }
    }

    pub(super) fn set_len(&mut self, size: u64) {
        self.pending.push(Pending::SetLen(size as usize));
        self.size = size;
    }

    /// Reads what is durable, overlaid by what is pending.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let count = self.size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (start, buffer) = (offset as usize, &mut buffer[..count]);
        buffer.fill(0);
        overlay(buffer, start, 0, &self.durable);
        let mut rest = &self.bytes[..];
        for pending in &self.pending {
            match *pending {
                Pending::Write { offset, len } | Pending::Stray { offset, len, .. } => {
                    let (bytes, after) = rest.split_at(len);
                    overlay(buffer, start, offset, bytes);
                    rest = after;
                }
                Pending::SetLen(size) => {
                    let from = size.saturating_sub(start).min(buffer.len());
                    buffer[from..].fill(0);
                }
            }
        }
        count
    }

    /// Makes everything durable. Returns what went astray.
    pub(super) fn sync(&mut self) -> Vec<Stray> {
        self.settle_all(|_| true)
    }

    /// Makes pending operations durable for which `keeps` holds and forgets the others: the file is
    /// clean afterwards. This is what the kernel does when writing a page back fails. Returns what
    /// went astray.
    pub(super) fn settle_all(&mut self, mut keeps: impl FnMut(usize) -> bool) -> Vec<Stray> {
        let mut strays = Vec::new();
        let mut rest = &self.bytes[..];
        for (number, pending) in self.pending.iter().enumerate() {
            let is_kept = keeps(number);
            let bytes;
            match *pending {
                Pending::Write { offset, len } => {
                    (bytes, rest) = rest.split_at(len);
                    if is_kept {
                        put(&mut self.durable, offset, bytes);
                    }
                }
                Pending::Stray { offset, len, to } => {
                    (bytes, rest) = rest.split_at(len);
                    if is_kept {
                        grow(&mut self.durable, offset + len);
                        strays.push(Stray { to, bytes: bytes.to_vec() });
                    }
                }
                Pending::SetLen(size) if is_kept => resize(&mut self.durable, size),
                Pending::SetLen(_) => {}
            }
        }
        self.pending.clear();
        self.bytes.clear();
        self.size = self.durable.len() as u64;
        strays
    }

    /// How many bytes are durable.
    pub(super) fn durable_len(&self) -> usize {
        self.durable.len()
    }

    /// Inverts one durable bit. Returns whether there is such a byte.
    pub(super) fn rot(&mut self, offset: usize, bit: u8) -> bool {
        let byte = self.durable.get_mut(offset);
        byte.map(|byte| *byte ^= 1 << (bit % 8)).is_some()
    }

    /// Overwrites what is durable at `offset`, as far as the file goes.
    pub(super) fn overwrite(&mut self, offset: usize, bytes: &[u8]) {
        let target = self.durable.get_mut(offset..).unwrap_or_default();
        let len = target.len().min(bytes.len());
        target[..len].copy_from_slice(&bytes[..len]);
    }

    /// Decides by `rng` what of the pending operations reached the disk. Returns what went astray.
    pub(super) fn crash(&mut self, rng: &mut Rng, counters: &mut SimDiskCounters) -> Vec<Stray> {
        let mut strays = Vec::new();
        let mut rest = &self.bytes[..];
        let mut earlier_lost = false;
        for pending in &self.pending {
            let fate = Fate::draw(rng);
            let kept = match *pending {
                Pending::Write { offset, len } => {
                    let (bytes, after) = rest.split_at(len);
                    rest = after;
                    settle(&mut self.durable, offset, bytes, fate, rng, counters)
                }
                Pending::Stray { len, to, .. } => {
                    let (bytes, after) = rest.split_at(len);
                    rest = after;
                    if fate == Fate::Kept {
                        strays.push(Stray { to, bytes: bytes.to_vec() });
                    }
                    false
                }
                Pending::SetLen(size) => settle_size(&mut self.durable, size, fate, counters),
            };
            counters.reordered += u64::from(kept && earlier_lost);
            earlier_lost |= !kept;
        }
        self.pending.clear();
        self.bytes.clear();
        self.size = self.durable.len() as u64;
        strays
    }
}

/// Settles one pending write. Returns whether any of its bytes are kept.
fn settle(
    durable: &mut Vec<u8>,
    offset: usize,
    bytes: &[u8],
    fate: Fate,
    rng: &mut Rng,
    counters: &mut SimDiskCounters,
) -> bool {
    match fate {
        Fate::Kept => {
            counters.kept += 1;
            put(durable, offset, bytes);
            true
        }
        Fate::Dropped => {
            counters.dropped += 1;
            false
        }
        Fate::Torn => tear(durable, offset, bytes, rng, counters),
        Fate::Zeroed => {
            counters.zeroed += 1;
            grow(durable, offset + bytes.len());
            false
        }
    }
}

fn tear(
    durable: &mut Vec<u8>,
    offset: usize,
    bytes: &[u8],
    rng: &mut Rng,
    counters: &mut SimDiskCounters,
) -> bool {
    let (mut at, mut kept, mut lost) = (0, 0, 0);
    while at < bytes.len() {
        let sector_end = (offset + at) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
        let end = (sector_end - offset).min(bytes.len());
        if rng.below(2) == 0 {
            put(durable, offset + at, &bytes[at..end]);
            kept += 1;
        } else {
            lost += 1;
        }
        at = end;
    }
    match (kept, lost) {
        (0, _) => counters.dropped += 1,
        (_, 0) => counters.kept += 1,
        _ => counters.torn += 1,
    }
    kept > 0
}

fn settle_size(
    durable: &mut Vec<u8>,
    size: usize,
    fate: Fate,
    counters: &mut SimDiskCounters,
) -> bool {
    let kept = fate == Fate::Kept || fate == Fate::Zeroed;
    if kept {
        counters.kept += 1;
        resize(durable, size);
    } else {
        counters.dropped += 1;
    }
    kept
}

/// Writes `bytes` at `offset`, filling a hole with zeros.
fn put(durable: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if offset == durable.len() {
        return durable.extend_from_slice(bytes);
    }
    let end = offset + bytes.len();
    if !bytes.is_empty() {
        grow(durable, end);
        durable[offset..end].copy_from_slice(bytes);
    }
}

/// Cuts `durable`, or fills it up with zeros.
fn resize(durable: &mut Vec<u8>, size: usize) {
    if durable.is_empty() {
        // Fresh zeros cost nothing until they are touched: a large preallocated file is cheap.
        *durable = vec![0; size];
    } else {
        durable.resize(size, 0);
    }
}

fn grow(durable: &mut Vec<u8>, size: usize) {
    if durable.len() < size {
        resize(durable, size);
    }
}

/// Copies what overlaps of `source`, which stands at `offset`, over `target`, which stands at
/// `start`.
fn overlay(target: &mut [u8], start: usize, offset: usize, source: &[u8]) {
    let from = start.max(offset);
    let to = (start + target.len()).min(offset + source.len());
    if from < to {
        target[from - start..to - start].copy_from_slice(&source[from - offset..to - offset]);
    }
}
