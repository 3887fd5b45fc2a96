//! Appending, acknowledging and committing.

use alloc::vec::Vec;

use bytes::Bytes;

use super::progress::{Mode, Progress};
use super::{Contradiction, Envelope, Group, State};
use crate::id::{LogId, LogIndex, NodeId, Term};
use crate::mutants::{self, Mutant};
use crate::time::Instant;
use crate::wire::{RaftMessage, Standing};

/// Payload bytes of one append, unless a single entry is larger.
pub(super) const APPEND_BYTES_MAX: usize = 256 * 1024;

/// What an append tells of the log as a whole, and its answer repeats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// The commit index.
    pub(super) commit: LogIndex,
    /// Every voter holds the entries up to here.
    pub(super) held_by_all: LogIndex,
}

impl Group {
    /// As leader, once per heartbeat while [`Group::needs_heartbeat`]: sends again what may have
    /// been lost.
    pub fn on_heartbeat(&mut self, now: Instant) {
        self.end_late_transfer(now);
        let heartbeat = self.config.timings.heartbeat;
        let (silence, floor) = (self.config.timings.election_max, self.log.floor().index);
        let (commit, held_by_all) = (self.hard_state.commit, self.held_by_all);
        let State::Leader(leadership) = &mut self.state else {
            return;
        };
        let mut uninformed = Vec::new();
        for (peer, progress) in &mut leadership.followers {
            match progress.mode {
                // A replica that was lost before it held anything is made anew by an append only.
                Mode::Snapshot if now > progress.contact + silence => {
                    progress.probe_from(floor.next());
                }
                Mode::Snapshot => {}
                Mode::Replicate if progress.in_flight.is_empty() => {
                    if progress.commit < commit || progress.held_by_all < held_by_all {
                        uninformed.push(*peer);
                    }
                }
                Mode::Replicate if now >= progress.moved_at + heartbeat * 2 => {
                    progress.probe_lost();
                }
                Mode::Probe { sent_at: Some(at) }
                    if now >= at + heartbeat && !mutants::is_active(Mutant::ProbeNotRepeated) =>
                {
                    progress.mode = Mode::Probe { sent_at: None };
                }
                Mode::Replicate | Mode::Probe { .. } => {}
            }
        }
        for peer in uninformed {
            self.send_append(peer, LogIndex(0));
        }
        self.clear_suspects();
        self.send_appends(now);
    }

    /// As leader: tells a follower what is committed, before the next entry or heartbeat would, unless
    /// it knows or entries are on their way to it.
    pub fn tell_commit(&mut self, peer: NodeId) {
        let commit = self.hard_state.commit;
        let is_uninformed = self.progress(peer).is_some_and(|progress| {
            let is_idle = matches!(progress.mode, Mode::Replicate) && progress.in_flight.is_empty();
            is_idle && progress.commit < commit
        });
        if is_uninformed {
            self.send_append(peer, LogIndex(0));
        }
    }

    /// As leader: whether some follower lacks entries, is suspect, or does not know what is committed
    /// or what all hold.
    pub fn needs_heartbeat(&self) -> bool {
        let last = self.log.last().index;
        let commit = self.hard_state.commit;
        match &self.state {
            State::Leader(leadership) => leadership.followers.values().any(|follower| {
                follower.matched < last
                    || follower.commit < commit
                    || follower.held_by_all < self.held_by_all
                    || follower.barrier.is_some()
            }),
            State::Follower | State::PreCandidate { .. } | State::Candidate { .. } => false,
        }
    }

    /// As leader: sends every follower what its window has room for.
    pub(super) fn send_appends(&mut self, now: Instant) {
        for peer in self.peers() {
            self.send_appends_to(now, peer);
        }
    }

    pub(super) fn send_appends_to(&mut self, now: Instant, peer: NodeId) {
        let last = self.log.last().index;
        while let Some(progress) = self.progress_mut(peer) {
            match progress.mode {
                Mode::Probe { sent_at: None } => {
                    progress.mode = Mode::Probe { sent_at: Some(now) };
                    self.send_append(peer, LogIndex(0));
                    return;
                }
                Mode::Replicate if progress.window_is_open() && progress.next <= last => {
                    let Some((sent, bytes)) = self.send_append(peer, last) else {
                        return;
                    };
                    if let Some(progress) = self.progress_mut(peer) {
                        progress.on_sent(sent, bytes, now);
                    }
                }
                Mode::Probe { .. } | Mode::Replicate | Mode::Snapshot => return,
            }
        }
    }

    /// Sends one append with entries up to `to`, none for 0; returns the index of the last entry in
    /// it and the bytes of all. If the log does not reach back that far, the follower needs a
    /// snapshot, and nothing is sent.
    fn send_append(&mut self, peer: NodeId, to: LogIndex) -> Option<(LogIndex, usize)> {
        let commit = self.hard_state.commit;
        let term = self.hard_state.term;
        let from = self.progress(peer)?.next;
        let index = from.prev();
        let Some(prev_term) = self.log.term_at(index) else {
            self.progress_mut(peer)?.need_snapshot();
            return None;
        };
        let prev = LogId { term: prev_term, index };
        let entries: Vec<(Term, Bytes)> = if to < from {
            Vec::new()
        } else {
            let slice = self.log.slice(from, to, APPEND_BYTES_MAX);
            slice.map(|entry| (entry.id.term, entry.payload.clone())).collect()
        };
        let last = LogIndex(prev.index.0 + entries.len() as u64);
        let bytes = entries.iter().map(|(_, payload)| payload.len()).sum();
        let held_by_all = self.held_by_all;
        let message = RaftMessage::Append { term, prev, commit, held_by_all, entries };
        // The term of a leader is durable since before it asked for votes, and what it sends need
        // not be.
        self.outbox.push(Envelope { to: peer, message, after_persist: false });
        Some((last, bytes))
    }

    pub(super) fn on_append(
        &mut self,
        now: Instant,
        from: NodeId,
        term: Term,
        prev: LogId,
        told: Told,
        entries: Vec<(Term, Bytes)>,
    ) {
        if term < self.hard_state.term {
            if !mutants::is_active(Mutant::TermLowered) {
                return self.reject_append(from, prev);
            }
            self.hard_state.term = term;
            self.hard_state.vote = None;
            self.leader = None;
        }
        if !self.follow(now, from, term) {
            return;
        }
        if self.installing.is_some() {
            // What is here is about to be replaced; the leader sends it again.
            return;
        }
        let (prev, entries) = self.skip_released(prev, entries);
        let any_term = mutants::is_active(Mutant::PreviousTermIgnored);
        let present = self.log.term_at(prev.index);
        if present != Some(prev.term) && !(any_term && present.is_some()) {
            if prev.index <= self.hard_state.commit {
                return self.contradict(from, Contradiction::CommittedReplaced);
            }
            return self.reject_append(from, prev);
        }
        if !self.may_append(prev, &entries) {
            return self.contradict(from, Contradiction::CommittedReplaced);
        }
        let matched = LogIndex(prev.index.0 + entries.len() as u64);
        self.append_after(now, prev, entries);
        let sure = match mutants::is_active(Mutant::CommitBeyondMatch) {
            true => self.log.last().index,
            false => matched,
        };
        self.hard_state.commit = self.hard_state.commit.max(told.commit.min(sure));
        self.held_by_all = self.held_by_all.max(told.held_by_all.min(self.hard_state.commit));
        // A late append may say less than the leader takes for known here since before a restart.
        self.heard_append |= self.hard_state.commit == self.log.last().index;
        self.accept(from, matched);
    }

    /// An append without what was released here: it is committed, so it is what the leader has. The
    /// message is then an old one, and if nothing of it lies behind the floor, the floor is left.
    fn skip_released(
        &self,
        prev: LogId,
        mut entries: Vec<(Term, Bytes)>,
    ) -> (LogId, Vec<(Term, Bytes)>) {
        let floor = self.log.floor();
        let released = floor.index.0.saturating_sub(prev.index.0);
        if released == 0 {
            return (prev, entries);
        }
        if mutants::is_active(Mutant::ReleasedAppendedAgain) {
            return (floor, entries);
        }
        match usize::try_from(released) {
            Ok(count) if count <= entries.len() => {
                let behind = entries.split_off(count);
                let term = entries.last().map_or(prev.term, |(term, _)| *term);
                (LogId { term, index: floor.index }, behind)
            }
            Ok(_) | Err(_) => (floor, Vec::new()),
        }
    }

    /// Whether nothing committed would be replaced, and terms do not shrink.
    fn may_append(&self, prev: LogId, entries: &[(Term, Bytes)]) -> bool {
        let mut before = prev.term;
        (prev.index.0 + 1..).map(LogIndex).zip(entries).all(|(index, (term, _))| {
            let is_ordered = *term >= before && *term <= self.hard_state.term;
            before = *term;
            let is_kept = self.log.term_at(index).is_none_or(|present| present == *term);
            is_ordered && (is_kept || index > self.hard_state.commit)
        })
    }

    pub(super) fn reject_append(&mut self, from: NodeId, prev: LogId) {
        let hint = self.log.last_at_most(prev.term, prev.index);
        let term = self.hard_state.term;
        self.send(from, RaftMessage::AppendRejected { term, prev: prev.index, hint });
    }

    /// Takes over the leader's entries behind `prev`. Entries that are already here stay, and so
    /// does everything behind them: the message may be an old, short one.
    fn append_after(&mut self, now: Instant, prev: LogId, entries: Vec<(Term, Bytes)>) {
        let mut index = prev.index;
        let end = LogIndex(prev.index.0 + entries.len() as u64).max(self.hard_state.commit);
        if end < self.log.last().index && mutants::is_active(Mutant::ShortAppendTruncates) {
            self.truncate_from(now, end.next());
        }
        for (term, payload) in entries {
            index = index.next();
            match self.log.term_at(index) {
                Some(_) if mutants::is_active(Mutant::ConflictKept) => continue,
                Some(present) if present == term => continue,
                Some(_) => {
                    assert!(index > self.hard_state.commit, "a committed entry is never replaced");
                    self.truncate_from(now, index);
                }
                None => {}
            }
            self.log.push(term, payload);
            self.note_configuration(now, index);
        }
    }

    pub(super) fn on_append_accepted(
        &mut self,
        now: Instant,
        from: NodeId,
        term: Term,
        matched: LogIndex,
        told: Told,
        standing: Standing,
    ) {
        if self.is_foreign_answer(now, term)
            || matched > self.log.last().index
            || !self.note_standing(now, from, standing)
        {
            return;
        }
        let Some(progress) = self.progress_mut(from) else {
            return;
        };
        progress.contact = now;
        progress.on_accepted(matched, told, now);
        self.advance_commit(now);
        self.advance_transfer();
        self.clear_suspect(from);
        self.send_appends_to(now, from);
    }

    pub(super) fn on_append_rejected(
        &mut self,
        now: Instant,
        from: NodeId,
        term: Term,
        prev: LogIndex,
        hint: LogId,
    ) {
        if self.is_foreign_answer(now, term) {
            return;
        }
        // Where the leader's own log stops being newer than the follower's is the next candidate.
        let candidate = self.log.last_at_most(hint.term, hint.index.min(prev)).index;
        let floor = self.log.floor().index;
        let Some(progress) = self.progress_mut(from) else {
            return;
        };
        progress.contact = now;
        let (is_stale, is_probed) = match progress.mode {
            Mode::Replicate => (prev <= progress.matched || prev >= progress.next, false),
            Mode::Probe { .. } => (prev != progress.next.prev(), true),
            Mode::Snapshot => (true, false),
        };
        if is_stale || prev == LogIndex(0) {
            return;
        }
        if is_probed {
            progress.forget_beyond(candidate.min(prev.prev()));
        }
        if is_probed && prev <= floor {
            return progress.need_snapshot();
        }
        // An answer to an append of an earlier term may deny what is there, so only a probe finds
        // out that even the floor is missing.
        progress.probe_from(candidate.max(floor).next().min(prev.max(floor.next())));
        self.send_appends_to(now, from);
    }

    /// Whether an answer is not for this leadership. One of a newer term ends it.
    fn is_foreign_answer(&mut self, now: Instant, term: Term) -> bool {
        if term > self.hard_state.term {
            self.step_down(now, term);
        }
        term != self.hard_state.term
    }

    /// As leader: commits what a quorum holds durably, if it is of this term (paper 5.4.2).
    pub(super) fn advance_commit(&mut self, now: Instant) {
        let State::Leader(leadership) = &self.state else {
            return;
        };
        let own = self.own_acknowledged();
        let holds = |node: NodeId| match leadership.followers.get(&node) {
            Some(progress) => progress.counted(),
            None if node == self.config.me => own,
            None => LogIndex(0),
        };
        let Some(reached) = self.configuration().reached(holds) else {
            return;
        };
        let by_all = self.configuration().all_voters().map(holds).min().unwrap_or(own);
        let any_term = mutants::is_active(Mutant::OldTermCommitted);
        let asked = match mutants::is_active(Mutant::CommitStopsAtOldTerm) {
            true => self.hard_state.commit.next(),
            false => reached,
        };
        let is_own_term = self.log.term_at(asked) == Some(self.hard_state.term);
        if reached > self.hard_state.commit && (is_own_term || any_term) {
            self.commit_to(reached);
        }
        self.held_by_all = self.held_by_all.max(by_all.min(self.hard_state.commit));
        self.advance_configuration(now);
    }

    /// As leader: everything up to `index` is committed.
    fn commit_to(&mut self, index: LogIndex) {
        let behind = self.log.slice(self.hard_state.commit.next(), index, usize::MAX);
        let bytes: usize = behind.map(|entry| entry.payload.len()).sum();
        self.hard_state.commit = index;
        if let State::Leader(leadership) = &mut self.state {
            // Entries of earlier terms were not counted.
            leadership.uncommitted_bytes = leadership.uncommitted_bytes.saturating_sub(bytes);
        }
    }

    /// As leader: what is known of a follower.
    pub(super) fn progress(&self, peer: NodeId) -> Option<&Progress> {
        match &self.state {
            State::Leader(leadership) => leadership.followers.get(&peer),
            State::Follower | State::PreCandidate { .. } | State::Candidate { .. } => None,
        }
    }

    pub(super) fn progress_mut(&mut self, peer: NodeId) -> Option<&mut Progress> {
        match &mut self.state {
            State::Leader(leadership) => leadership.followers.get_mut(&peer),
            State::Follower | State::PreCandidate { .. } | State::Candidate { .. } => None,
        }
    }
}
