//! The segment that is being written, and the files that the next ones are made of.

use kv_core::id::ShardId;

use super::format::{BatchInfo, FileId};
use super::groups::GroupState;
use super::segment::{FIRST_SEGMENT, Segment, Spare, margin, segment_name};
use super::{Log, LogError, Urgency};
use crate::vfs::VfsFile;

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) file: Box<dyn VfsFile>,
    pub(super) number: u64,
    /// Where the next batch goes.
    pub(super) position: u64,
    /// Size of the file.
    pub(super) size: u64,
}

impl Log {
    pub(super) fn fits(&self, size: u64, urgency: Urgency) -> bool {
        let kept = match urgency {
            Urgency::Ordinary | Urgency::Reserved => margin(self.options.segment_bytes),
            Urgency::Internal => 0,
        };
        self.head.as_ref().is_some_and(|head| head.position + size + kept <= head.size)
    }

    /// Sees to it that there is a spare.
    pub(super) fn hold_reserve(&mut self) -> Result<(), LogError> {
        match self.spares.len() {
            0 => self.spares.allocate(&*self.vfs, self.options.segment_bytes),
            _ => Ok(()),
        }
    }

    /// Begins the next segment, with room for a batch of `size` bytes. The one before it is durable
    /// to its end.
    pub(super) fn begin_segment(&mut self, size: u64, urgency: Urgency) -> Result<(), LogError> {
        let blank = |(_, group): &(&ShardId, &GroupState)| !group.is_blank();
        let marks: Vec<_> =
            self.groups.iter().filter(blank).map(|(shard, group)| group.mark(*shard)).collect();
        self.start_builder.start();
        self.start_builder.push_start(&marks);
        let start_size = self.start_builder.size() as u64;
        let spare = self.take_spare(start_size + size, urgency)?;
        let number = self.head.as_ref().map_or(FIRST_SEGMENT, |head| head.number + 1);
        let head = match self.write_start(&spare, number) {
            Ok(head) => head,
            Err(error) => {
                self.spares.add(spare);
                return Err(error);
            }
        };
        match spare.was_segment {
            false => self.usage.segments_created += 1,
            true => self.usage.segments_reused += 1,
        }
        self.note_batch(start_size);
        // The start of a segment states everything before it.
        self.owes_idle_batch = false;
        if let Some(Head { number, position: end, size, .. }) = self.head.replace(head) {
            self.segments.push_back(Segment { number, size, end });
        }
        Ok(())
    }

    /// Takes a spare with room for `size` bytes, and claims space for one if need be.
    fn take_spare(&mut self, size: u64, urgency: Urgency) -> Result<Spare, LogError> {
        let segment_bytes = self.options.segment_bytes;
        let size = segment_bytes.max(size + margin(segment_bytes));
        let kept = usize::from(urgency == Urgency::Ordinary);
        if self.spares.len() <= kept || size > segment_bytes {
            match self.spares.allocate(&*self.vfs, size) {
                // The reserve is for this.
                Err(LogError::NoSpace { .. }) if self.spares.len() > kept => {}
                result => result?,
            }
        }
        self.spares.take(size).ok_or(LogError::NoSpace { needed: size })
    }

    /// Writes the start of a segment into a spare and gives it the segment's name, durably.
    fn write_start(&mut self, spare: &Spare, number: u64) -> Result<Head, LogError> {
        let of_space = |error| LogError::of_space(error, spare.size);
        let file = self.vfs.open(&spare.name)?;
        let bytes = self.start_builder.seal(&BatchInfo {
            file: FileId { incarnation: self.options.incarnation, segment: number },
            position: 0,
            offset: self.offset,
            durable: self.offset,
            life: self.life,
        });
        let position = bytes.len() as u64;
        file.write_at(0, bytes).map_err(of_space)?;
        file.sync_data()?;
        self.vfs.rename(&spare.name, &segment_name(number)).map_err(of_space)?;
        self.vfs.sync_dir("")?;
        Ok(Head { file, number, position, size: spare.size })
    }

    pub(super) fn head_number(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.number)
    }
}
