//! What a leader knows of one follower.
//!
//! In *replicate* mode entries are streamed ahead of their acknowledgements, within a window of
//! appends and of bytes. After a rejection, or when an acknowledgement stays out, the follower is
//! *probed* with empty appends until one matches. If what it needs is not in the log any more, it
//! gets a *snapshot*, and nothing else until that has arrived.

use alloc::collections::VecDeque;

use super::replication::Told;
use crate::id::LogIndex;
use crate::mutants::{self, Mutant};
use crate::time::Instant;

/// Appends on their way to one follower: enough to hide a round trip; when the window is full,
/// entries gather into larger appends.
pub(super) const IN_FLIGHT_MAX: usize = 8;

/// Bytes on their way to one follower, unless a single append is larger.
pub(super) const IN_FLIGHT_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing but empty appends, one at a time; the instant says when the last one left.
    Probe { sent_at: Option<Instant> },
    /// Streaming.
    Replicate,
    /// Waiting for a snapshot to arrive.
    Snapshot,
}

/// An append on its way to a follower.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    first: LogIndex,
    last: LogIndex,
    bytes: usize,
}

/// - `matched < next`; `matched` shrinks within a term and a life of the follower's store only if the
///   follower rejects a probe of what it acknowledged.
/// - In replicate mode everything in `matched+1 .. next` is in flight.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) mode: Mode,
    /// The follower's log durably equals the leader's up to here.
    pub(super) matched: LogIndex,
    /// Next entry to send.
    pub(super) next: LogIndex,
    /// What the follower last said its commit index is. May shrink: a restart forgets it, and
    /// answers may overtake one another.
    pub(super) commit: LogIndex,
    /// What the follower last said it knows to be held by all. May shrink, too.
    pub(super) held_by_all: LogIndex,
    /// Appends in flight, the oldest first.
    pub(super) in_flight: VecDeque<InFlight>,
    /// Bytes of their entries.
    in_flight_bytes: usize,
    /// When something last moved: an append sent into an empty window, or an acknowledgement.
    pub(super) moved_at: Instant,
    /// When the follower was last heard of as a follower in this term.
    pub(super) contact: Instant,
    /// The life of the follower's store that all of this is about.
    pub(super) life: u64,
    /// The entry that a suspect follower must hold and the others must commit; none if the follower
    /// is not suspect.
    pub(super) barrier: Option<LogIndex>,
}

impl Progress {
    /// A follower that is taken to have all that the leader has before `next`.
    pub(super) fn new(next: LogIndex, now: Instant) -> Self {
        Self {
            mode: Mode::Replicate,
            matched: LogIndex(0),
            next,
            commit: LogIndex(0),
            held_by_all: LogIndex(0),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            moved_at: now,
            contact: now,
            life: 0,
            barrier: None,
        }
    }

    /// A follower of which nothing is known but the life of its store.
    pub(super) fn in_another_life(
        next: LogIndex,
        now: Instant,
        life: u64,
        barrier: Option<LogIndex>,
    ) -> Self {
        let mode = Mode::Probe { sent_at: None };
        Self { mode, life, barrier, ..Self::new(next, now) }
    }

    /// Up to where the follower counts for a majority.
    pub(super) fn counted(&self) -> LogIndex {
        match self.barrier {
            Some(_) => LogIndex(0),
            None => self.matched,
        }
    }

    pub(super) fn window_is_open(&self) -> bool {
        self.mode == Mode::Replicate
            && self.in_flight.len() < IN_FLIGHT_MAX
            && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX
    }

    pub(super) fn on_sent(&mut self, last: LogIndex, bytes: usize, now: Instant) {
        if self.in_flight.is_empty() {
            self.moved_at = now;
        }
        self.in_flight.push_back(InFlight { first: self.next, last, bytes });
        self.in_flight_bytes += bytes;
        self.next = last.next();
    }

    pub(super) fn on_accepted(&mut self, matched: LogIndex, told: Told, now: Instant) {
        self.matched = self.matched.max(matched);
        self.commit = told.commit;
        self.held_by_all = told.held_by_all;
        if !mutants::is_active(Mutant::NextNotRaised) {
            self.next = self.next.max(self.matched.next());
        }
        assert!(self.matched < self.next, "what a follower has is not sent again");
        while let Some(front) = self.in_flight.front()
            && front.last <= self.matched
        {
            self.in_flight_bytes -= front.bytes;
            self.in_flight.pop_front();
        }
        self.mode = Mode::Replicate;
        self.moved_at = now;
    }

    /// The oldest append in flight is taken for lost: probes whether what was before it is there.
    pub(super) fn probe_lost(&mut self) {
        let first = self.in_flight.front().map_or(self.next, |front| front.first);
        self.probe_from(first);
    }

    pub(super) fn probe_from(&mut self, next: LogIndex) {
        self.next = next.max(self.matched.next());
        self.stop_streaming();
        self.mode = Mode::Probe { sent_at: None };
    }

    /// A probe was rejected, and the follower holds entries up to `index` at most, whatever it said
    /// before: its replica was removed and made anew within the term, and an answer of the first one
    /// came late. If it is the rejection that came late, the next probe finds out what is there;
    /// until then the follower counts for less than it could, which harms nothing.
    pub(super) fn forget_beyond(&mut self, index: LogIndex) {
        self.matched = self.matched.min(index);
    }

    /// What the follower needs is not in the log any more.
    pub(super) fn need_snapshot(&mut self) {
        self.stop_streaming();
        self.mode = Mode::Snapshot;
    }

    fn stop_streaming(&mut self) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }
}
