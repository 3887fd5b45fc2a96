//! What the sockets count. The core counts its own.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts since the process started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Connections accepted, whatever became of them.
    pub(crate) accepted: Counter,
    /// Connections refused in the handshake, or for want of room.
    pub(crate) refused: Counter,
    /// Connections closed because what came was no frame, or none that belongs there.
    pub(crate) malformed: Counter,
    /// Connections closed because a frame or a handshake did not arrive, or a reply did not leave,
    /// in time.
    pub(crate) too_slow: Counter,
    /// Client connections closed because too many replies were waiting to be read.
    pub(crate) overflowed: Counter,
    /// Frames to peers that were dropped because no connection could take them.
    pub(crate) dropped_frames: Counter,
}
