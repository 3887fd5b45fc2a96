//! Reading a log only to find damage.

use std::collections::BTreeMap;
use std::io;

use kv_core::id::{Incarnation, ShardId};

use super::recovery::{DamageKind, RecoveryError, Scan, scan_segments};
use super::segment::{list_segments, segment_number};
use super::{LogGroup, LogOptions, SEGMENT_BYTES};
use crate::mutants::Mutants;
use crate::vfs::Vfs;

/// What a log holds that is not open.
#[derive(Debug, Default)]
pub(crate) struct LogCheck {
    /// The groups, up to the first damage.
    pub(crate) groups: BTreeMap<ShardId, LogGroup>,
    /// Everything that is wrong, in the order of the stream, at most once for each segment.
    pub(crate) errors: Vec<RecoveryError>,
    /// Segments.
    pub(crate) file_count: u64,
    /// Bytes of whole batches.
    pub(crate) bytes_verified: u64,
}

/// Verifies every batch of every segment of a directory that the caller has locked. Changes
/// nothing. Goes on behind damage with the next segment, whose start says where the stream stands;
/// so whether the segment before a damaged start is whole to its end is not known.
///
/// # Errors
/// The disk's, if it cannot even list or open the files.
pub(crate) fn check(vfs: &dyn Vfs, incarnation: Incarnation) -> io::Result<LogCheck> {
    let mutants = Mutants::NONE;
    let options =
        LogOptions { incarnation, segment_bytes: SEGMENT_BYTES, accept_damage: true, mutants };
    let mut segments = list_segments(vfs)?;
    let mut check = LogCheck { file_count: segments.len() as u64, ..LogCheck::default() };
    let mut is_first = true;
    while is_first || !segments.is_empty() {
        let mut found = match scan_segments(vfs, options, &segments) {
            Ok(found) => found,
            Err(RecoveryError::Io(error)) => return Err(error),
            // What another program or another node wrote cannot be judged any further.
            Err(error) => {
                check.errors.push(error);
                break;
            }
        };
        check.bytes_verified += found.segments.iter().map(|segment| segment.end).sum::<u64>();
        let damaged = check.note_damage(&mut found, is_first);
        if is_first {
            check.groups = found.held.groups;
        }
        is_first = false;
        segments.retain(|segment| damaged.is_some_and(|damaged| *segment > damaged));
    }
    Ok(check)
}

impl LogCheck {
    /// Takes the damage out of a scan. Returns in which segment it is.
    fn note_damage(&mut self, found: &mut Scan, is_first: bool) -> Option<u64> {
        let damage = found.damage.take()?;
        let segment = segment_number(&damage.file);
        // A scan that begins in the middle lacks what came before.
        if matches!(damage.kind, DamageKind::Incomplete { .. }) {
            if is_first {
                self.errors.push(damage.into());
            }
            return None;
        }
        self.errors.push(damage.into());
        segment
    }
}
