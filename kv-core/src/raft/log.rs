//! A replica's log in memory, and how much of it is durable.
//!
//! Writes to the store are asynchronous and acknowledged late, so the log keeps track of what it
//! may call durable:
//!
//! - `persisted` never exceeds `last`, and never counts an entry that some write on its way to the
//!   disk will replace.
//! - An acknowledgement counts only for the entry that it names, term included, and only below
//!   every later write that is still on its way: an entry may be overwritten and then written again
//!   with the same id, and the acknowledgement of its first copy must not stand for the second.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::id::{AppendId, LogId, LogIndex, Term};
use crate::storage::Entry;

/// A replica's log behind its floor: what the entries before it did is part of the applied state.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// What the entries follow; zero at first.
    floor: LogId,
    /// Entries with consecutive indexes, the first behind the floor.
    entries: VecDeque<Entry>,
    /// Bytes of their payloads.
    bytes: usize,
    /// Entries up to here are durable.
    persisted: LogIndex,
    /// First entry that no write to the store holds yet.
    unsaved_from: Option<LogIndex>,
    /// Writes on their way to the disk, with the first index of each.
    in_flight: VecDeque<(AppendId, LogIndex)>,
}

impl Log {
    /// The log that a store recovered: all of it is durable.
    ///
    /// # Panics
    /// If the entries have a gap: the store promises that they do not.
    pub(super) fn recovered(floor: LogId, entries: Vec<Entry>) -> Self {
        for (entry, index) in entries.iter().zip(floor.index.0 + 1..) {
            assert_eq!(entry.id.index, LogIndex(index), "a recovered log has no gap");
        }
        let persisted = LogIndex(floor.index.0 + entries.len() as u64);
        let bytes = entries.iter().map(|entry| entry.payload.len()).sum();
        Self { floor, entries: entries.into(), bytes, persisted, ..Self::default() }
    }

    /// Bytes of the payloads of all entries.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The payload of the entry at `index`, if the log has it.
    pub(super) fn payload_at(&self, index: LogIndex) -> Option<&Bytes> {
        let at = index.0.checked_sub(self.floor.index.0 + 1)?;
        self.entries.get(usize::try_from(at).ok()?).map(|entry| &entry.payload)
    }

    /// The highest index at most `limit` behind which the log still has `bytes` of payloads; the
    /// floor if there is none.
    pub(super) fn index_before_last(&self, bytes: usize, limit: LogIndex) -> LogIndex {
        let mut behind = self.bytes;
        let mut index = self.floor.index;
        for entry in &self.entries {
            behind -= entry.payload.len();
            if behind < bytes || entry.id.index > limit {
                break;
            }
            index = entry.id.index;
        }
        index
    }

    /// Forgets everything: the log begins anew behind `floor`, which is durable elsewhere.
    pub(super) fn restart_at(&mut self, floor: LogId) {
        self.entries.clear();
        self.bytes = 0;
        self.floor = floor;
        self.persisted = floor.index;
        self.unsaved_from = None;
    }

    pub(super) fn floor(&self) -> LogId {
        self.floor
    }

    pub(super) fn last(&self) -> LogId {
        self.entries.back().map_or(self.floor, |entry| entry.id)
    }

    pub(super) fn persisted(&self) -> LogIndex {
        self.persisted
    }

    /// Term of the entry at `index`, the floor included; none before the floor and behind the log.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.floor.index {
            return Some(self.floor.term);
        }
        let at = index.0.checked_sub(self.floor.index.0 + 1)?;
        self.entries.get(usize::try_from(at).ok()?).map(|entry| entry.id.term)
    }

    /// The largest index at most `index` whose entry has at most `term`, with its term. Before the
    /// floor there is only the position before all logs, on which all agree.
    pub(super) fn last_at_most(&self, term: Term, index: LogIndex) -> LogId {
        let mut index = index.min(self.last().index);
        while let Some(found) = self.term_at(index) {
            if found <= term {
                return LogId { term: found, index };
            }
            index = index.prev();
        }
        LogId::default()
    }

    /// Entries `from..=to` that exist; at least one, then as many as fit `bytes_max`.
    pub(super) fn slice(
        &self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
    ) -> impl Iterator<Item = &Entry> {
        let start = self.position(from).min(self.entries.len());
        let end = self.position(to.next()).clamp(start, self.entries.len());
        let mut bytes = 0;
        let within = move |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += entry.payload.len().max(1);
            is_first || bytes <= bytes_max
        };
        self.entries.range(start..end).take_while(within)
    }

    /// Forgets the entries up to `floor`, which are durable and applied.
    ///
    /// # Panics
    /// If the log does not hold that entry, durably.
    pub(super) fn release(&mut self, floor: LogId) {
        assert_eq!(self.term_at(floor.index), Some(floor.term), "only what is there is released");
        assert!(floor.index <= self.persisted, "only what is durable is released");
        let count = self.position(floor.index.next()).min(self.entries.len());
        let released = self.entries.drain(..count).map(|entry| entry.payload.len());
        self.bytes -= released.sum::<usize>();
        self.floor = floor;
    }

    /// Appends one entry of `term` and returns its id.
    pub(super) fn push(&mut self, term: Term, payload: Bytes) -> LogId {
        let id = LogId { term, index: self.last().index.next() };
        assert!(term >= self.last().term, "terms never shrink along the log");
        self.bytes += payload.len();
        self.entries.push_back(Entry { id, payload });
        self.unsaved_from.get_or_insert(id.index);
        id
    }

    /// Removes every entry from `index` on.
    pub(super) fn truncate_from(&mut self, index: LogIndex) {
        assert!(index > self.floor.index, "what was released stays");
        let cut = self.entries.drain(self.position(index)..).map(|entry| entry.payload.len());
        self.bytes -= cut.sum::<usize>();
        self.persisted = self.persisted.min(index.prev());
        if self.unsaved_from.is_some_and(|from| from > index) {
            self.unsaved_from = Some(index);
        }
    }

    /// The entries that no write to the store holds yet.
    pub(super) fn unsaved(&self) -> Vec<Entry> {
        self.unsaved_from.map_or_else(Vec::new, |from| {
            self.entries.range(self.position(from)..).cloned().collect()
        })
    }

    /// Notes that [`Log::unsaved`] is on its way to the disk as `append`.
    pub(super) fn mark_in_flight(&mut self, append: AppendId) {
        if let Some(from) = self.unsaved_from.take() {
            self.in_flight.push_back((append, from));
        }
    }

    /// `append` is durable, and `written` was the last entry in it.
    pub(super) fn on_appended(&mut self, append: AppendId, written: LogId) {
        while self.in_flight.front().is_some_and(|(id, _)| *id <= append) {
            self.in_flight.pop_front();
        }
        if self.term_at(written.index) != Some(written.term) {
            return;
        }
        let on_their_way = self.in_flight.iter().map(|(_, from)| *from).chain(self.unsaved_from);
        let safe = on_their_way.min().map_or(written.index, |from| from.prev().min(written.index));
        self.persisted = self.persisted.max(safe);
        assert!(self.persisted <= self.last().index, "only entries that exist are durable");
    }

    /// Position of the entry at `index`, which lies behind the floor.
    fn position(&self, index: LogIndex) -> usize {
        usize::try_from(index.prev().0.saturating_sub(self.floor.index.0)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn log_of(terms: &[u64]) -> Log {
        let mut log = Log::default();
        for term in terms {
            log.push(Term(*term), Bytes::new());
        }
        log
    }

    #[test]
    fn bug_b12_acknowledgement_of_a_replaced_append_does_not_count() {
        let mut log = log_of(&[1, 1]);
        log.mark_in_flight(AppendId(1));
        log.truncate_from(LogIndex(2));
        log.push(Term(2), Bytes::new());
        log.mark_in_flight(AppendId(2));
        log.truncate_from(LogIndex(2));
        log.push(Term(1), Bytes::new()); // The first entry again, under its old id.
        log.mark_in_flight(AppendId(3));
        log.on_appended(AppendId(1), LogId::new(1, 2));
        assert_eq!(log.persisted(), LogIndex(1), "append 2 will remove the durable copy of 2@1");
        log.on_appended(AppendId(2), LogId::new(2, 2));
        assert_eq!(log.persisted(), LogIndex(1));
        log.on_appended(AppendId(3), LogId::new(1, 2));
        assert_eq!(log.persisted(), LogIndex(2));
    }

    #[test]
    fn truncation_takes_durability_back() {
        let mut log = log_of(&[1, 1, 1]);
        log.mark_in_flight(AppendId(1));
        log.on_appended(AppendId(1), LogId::new(1, 3));
        assert_eq!(log.persisted(), LogIndex(3));
        log.truncate_from(LogIndex(2));
        assert_eq!((log.persisted(), log.last()), (LogIndex(1), LogId::new(1, 1)));
    }

    #[test]
    fn slice_holds_at_least_one_entry_and_respects_the_limit() {
        let mut log = Log::default();
        for _ in 0..4 {
            log.push(Term(1), Bytes::from(vec![0; 10]));
        }
        let count = |from, to, bytes| log.slice(LogIndex(from), LogIndex(to), bytes).count();
        assert_eq!(count(1, 4, 1), 1);
        assert_eq!(count(1, 4, 20), 2);
        assert_eq!(count(2, 9, 100), 3);
        assert_eq!(count(5, 9, 100), 0);
    }

    #[test]
    fn released_entries_leave_their_last_id() {
        let mut log = log_of(&[1, 1, 3, 3]);
        log.mark_in_flight(AppendId(1));
        log.on_appended(AppendId(1), LogId::new(3, 4));
        log.release(LogId::new(3, 3));
        assert_eq!((log.floor(), log.last()), (LogId::new(3, 3), LogId::new(3, 4)));
        let terms = [2, 3, 4, 5].map(|index| log.term_at(LogIndex(index)));
        assert_eq!(terms, [None, Some(Term(3)), Some(Term(3)), None]);
        assert_eq!(log.last_at_most(Term(2), LogIndex(4)), LogId::default());
        assert_eq!(log.slice(LogIndex(4), LogIndex(9), 100).count(), 1);
        log.truncate_from(LogIndex(4));
        assert_eq!(log.push(Term(5), Bytes::new()), LogId::new(5, 4));
        log.release(LogId::new(3, 3));
    }

    #[test]
    fn last_at_most_skips_newer_terms() {
        let log = log_of(&[1, 1, 3, 3, 5]);
        assert_eq!(log.last_at_most(Term(4), LogIndex(5)), LogId::new(3, 4));
        assert_eq!(log.last_at_most(Term(2), LogIndex(9)), LogId::new(1, 2));
        assert_eq!(log.last_at_most(Term(0), LogIndex(3)), LogId::new(0, 0));
    }
}
