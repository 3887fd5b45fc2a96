//! Giving up what no group needs any more.
//!
//! A release raises the floors of groups, or lets a group begin anew. It is made durable by a *trim*
//! record, and only then may anything go. After that the oldest segment goes as long as nothing is
//! needed of it; if little is needed, that is first *copied* to the head of the log, so a group that
//! is idle keeps no old segment alive. (Hard states and floors need no copy: the start of every
//! segment repeats them.) A segment that goes becomes a spare.
//!
//! Segments go one by one, each rename made durable before the next, so that a crash leaves a row
//! of segments without a hole.

use std::collections::BTreeMap;

use kv_core::id::{LogId, LogIndex, ShardId};
use kv_core::storage::Entry;

use super::format::{Batch, FileId, GroupCopy, Record, RecordError};
use super::groups::GroupState;
use super::recovery::{Damage, DamageKind, RecoveryError, read_segment};
use super::segment::{SPARES_MAX, Segment, Spare, margin, segment_name};
use super::{Log, LogError, Urgency};

/// The entries that groups need of a segment.
type Needed = BTreeMap<ShardId, BTreeMap<LogIndex, Entry>>;

impl Log {
    /// Says of groups that they do not need their entries up to a floor any more. When this
    /// returns, the floors are durable, and the segments that only held such entries are free for
    /// reuse. Returns how many went.
    ///
    /// If the log holds another entry than the one named as the floor, its entries behind the floor
    /// are given up too: they continue a history that is not the group's. A floor may lie behind
    /// the last entry; the group's log then continues behind the floor. A floor that is not above
    /// the current one changes nothing, but for [`LogId::default`]: the group then begins anew, and
    /// only its hard state stays.
    ///
    /// # Errors
    /// [`LogError::NoSpace`]: nothing was changed. Otherwise *the node must stop.*
    pub fn release(&mut self, floors: &BTreeMap<ShardId, LogId>) -> Result<usize, LogError> {
        self.check_usable()?;
        self.write_trims(floors)?;
        let mut freed = 0;
        while self.recycle_oldest()? {
            freed += 1;
        }
        Ok(freed)
    }

    fn write_trims(&mut self, floors: &BTreeMap<ShardId, LogId>) -> Result<(), LogError> {
        let blank = GroupState::default();
        let trims: Vec<_> = floors
            .iter()
            .filter_map(|(shard, floor)| {
                self.groups.get(shard).unwrap_or(&blank).trim_to(*shard, *floor)
            })
            .collect();
        if trims.is_empty() {
            return Ok(());
        }
        self.builder.start();
        self.builder.push_trims(&trims);
        self.write_batch(Urgency::Internal)?;
        for trim in &trims {
            self.groups.entry(trim.shard).or_default().trim(trim);
        }
        Ok(())
    }

    /// Frees the oldest segment if little is needed of it. Returns whether it went.
    fn recycle_oldest(&mut self) -> Result<bool, LogError> {
        let Some(oldest) = self.segments.front().cloned() else { return Ok(false) };
        let needs: Vec<_> =
            self.groups.values().filter_map(|group| group.needs(oldest.number)).collect();
        if needs.iter().sum::<u64>() > margin(self.options.segment_bytes) / 2 {
            return Ok(false);
        }
        if !needs.is_empty() {
            match self.copy_what_is_needed(&oldest) {
                Err(LogError::NoSpace { .. }) => return Ok(false),
                result => result?,
            }
        }
        match self.guarded(|log| log.give_up(&oldest)) {
            Err(LogError::NoSpace { .. }) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Writes what groups need of a segment to the head.
    fn copy_what_is_needed(&mut self, oldest: &Segment) -> Result<(), LogError> {
        let copies = self.guarded(|log| log.read_needed(oldest))?;
        self.builder.start();
        let mut entry_count = 0;
        for (shard, entries) in copies {
            let entries: Vec<_> = entries.into_values().collect();
            entry_count += entries.len() as u64;
            self.builder.push_copy(&GroupCopy { shard, entries });
        }
        self.write_batch(Urgency::Internal)?;
        self.usage.entries_copied += entry_count;
        let head = self.head_number();
        self.groups.values_mut().for_each(|group| group.move_runs(oldest.number, head));
        Ok(())
    }

    /// The entries that groups need of a segment.
    fn read_needed(&self, oldest: &Segment) -> Result<Needed, LogError> {
        let segment = oldest.number;
        let corrupt = |position| {
            let kind = DamageKind::Corrupt { durable: self.offset };
            LogError::Damaged(Damage { file: segment_name(segment), position, kind })
        };
        let mut bytes = Vec::new();
        read_segment(&*self.vfs, segment, &mut bytes).map_err(|error| match error {
            RecoveryError::Damaged(damage) => LogError::Damaged(damage),
            RecoveryError::Io(error) => LogError::Io(error),
            _ => corrupt(0),
        })?;
        let file = FileId { incarnation: self.options.incarnation, segment };
        let mut needed = BTreeMap::new();
        let mut position = 0;
        while position < oldest.end {
            let rest = bytes.get(position as usize..).unwrap_or_default();
            let batch = Batch::parse(rest, file, position).map_err(|_| corrupt(position))?;
            self.collect_needed(&batch, &mut needed).map_err(|_| corrupt(position))?;
            position += batch.size() as u64;
        }
        Ok(needed)
    }

    /// Adds the entries that groups need of a batch.
    fn collect_needed(&self, batch: &Batch<'_>, needed: &mut Needed) -> Result<(), RecordError> {
        let segment = batch.info.file.segment;
        let needs_any = |shard: ShardId| {
            self.groups.get(&shard).is_some_and(|group| group.needs(segment).is_some())
        };
        for record in batch.records_of(needs_any)? {
            let (shard, entries) = match record {
                Record::Write(write) => (write.shard, write.entries),
                Record::Copy(copy) => (copy.shard, copy.entries),
                Record::Start(_) | Record::Trim(_) => continue,
            };
            let Some(group) = self.groups.get(&shard) else { continue };
            let live = entries.into_iter().filter(|entry| group.needs_entry(segment, entry.id));
            needed.entry(shard).or_default().extend(live.map(|entry| (entry.id.index, entry)));
        }
        Ok(())
    }

    /// Takes the oldest segment, of which nothing is needed, out of the stream.
    fn give_up(&mut self, oldest: &Segment) -> Result<(), LogError> {
        let name = segment_name(oldest.number);
        if self.keeps(oldest)? {
            let spare = self.spares.draw_name();
            let renamed = self.vfs.rename(&name, &spare);
            renamed.map_err(|error| LogError::of_space(error, 0))?;
            self.spares.add(Spare { name: spare, size: oldest.size, was_segment: true });
            self.usage.segments_recycled += 1;
        } else {
            self.vfs.remove(&name).map_err(|error| LogError::of_space(error, 0))?;
            self.usage.segments_removed += 1;
        }
        self.segments.pop_front();
        self.vfs.sync_dir("")?;
        Ok(())
    }

    /// Whether a segment becomes a spare. A full disk keeps only the reserve.
    fn keeps(&self, segment: &Segment) -> Result<bool, LogError> {
        if segment.size != self.options.segment_bytes || self.spares.len() > SPARES_MAX {
            return Ok(false);
        }
        let is_tight = self.vfs.free_space()? < 2 * self.options.segment_bytes;
        Ok(!is_tight || self.spares.len() == 0)
    }
}
