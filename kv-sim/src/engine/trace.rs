//! What happened: a rolling hash over all of it, and on request a line of text for each event.
//!
//! The hash covers the time of each event, the process, the kind, and the full bytes of each
//! message delivered, storage request and result, client call and reply, and fault. It is equal for
//! equal runs, in every build and on every machine, and it differs as soon as one byte differs. The
//! seed itself is not hashed: that two seeds differ must come from what they did.

use std::fmt;
use std::io::{self, Write};

use xxhash_rust::xxh3::xxh3_64;

use super::machine::ProcessId;

/// What kind of event a line of the trace is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A life of a process begins.
    Start = 1,
    /// The run enters another phase.
    Phase = 2,
    /// A message arrived.
    Deliver = 3,
    /// A message was lost.
    Lose = 4,
    /// A deadline came.
    Timer = 5,
    /// The time of a storage operation is over.
    IoDone = 6,
    /// A storage request.
    StorageRequest = 7,
    /// The result of a storage request.
    StorageResult = 8,
    /// A client's call.
    Call = 9,
    /// What a client's call came to.
    Reply = 10,
    /// A fault begins or ends.
    Fault = 11,
    /// A connection broke off or stands again.
    Link = 12,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Phase => "phase",
            Self::Deliver => "deliver",
            Self::Lose => "lose",
            Self::Timer => "timer",
            Self::IoDone => "io-done",
            Self::StorageRequest => "storage-request",
            Self::StorageResult => "storage-result",
            Self::Call => "call",
            Self::Reply => "reply",
            Self::Fault => "fault",
            Self::Link => "link",
        }
    }
}

/// Whom an event is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    /// None for the world as a whole.
    pub(crate) process: Option<ProcessId>,
    /// The sender of a message.
    pub(crate) peer: Option<ProcessId>,
}

impl Who {
    pub(crate) const WORLD: Self = Self { process: None, peer: None };
}

impl From<ProcessId> for Who {
    fn from(process: ProcessId) -> Self {
        Self { process: Some(process), peer: None }
    }
}

fn code(process: Option<ProcessId>) -> u32 {
    process.map_or(u32::MAX, ProcessId::code)
}

/// Collects the trace of one run.
pub struct Tracer {
    state: u64,
    text: Option<Box<dyn Write + Send>>,
    failed: Option<io::Error>,
}

impl Tracer {
    /// A tracer that writes each event to `text`, if there is one.
    pub fn new(text: Option<Box<dyn Write + Send>>) -> Self {
        Self { state: 0, text, failed: None }
    }

    /// Adds one event.
    #[inline]
    pub(crate) fn event(
        &mut self,
        time: u64,
        who: Who,
        kind: Kind,
        bytes: &[u8],
        describe: impl FnOnce() -> String,
    ) {
        let mut header = [0_u8; 33];
        header[..8].copy_from_slice(&self.state.to_le_bytes());
        header[8..16].copy_from_slice(&time.to_le_bytes());
        header[16..24].copy_from_slice(&xxh3_64(bytes).to_le_bytes());
        header[24..28].copy_from_slice(&code(who.process).to_le_bytes());
        header[28..32].copy_from_slice(&code(who.peer).to_le_bytes());
        header[32] = kind as u8;
        self.state = xxh3_64(&header);
        if self.text.is_some() {
            self.write_line(time, who, kind, &describe());
        }
    }

    #[cold]
    fn write_line(&mut self, time: u64, who: Who, kind: Kind, text: &str) {
        let Some(out) = &mut self.text else { return };
        let (seconds, nanos) = (time / 1_000_000_000, time % 1_000_000_000);
        let process = who.process.map_or_else(|| "world".into(), |process| process.to_string());
        if let Err(error) = writeln!(out, "{seconds}.{nanos:09} {process} {} {text}", kind.name()) {
            self.failed = Some(error);
            self.text = None;
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.state
    }

    /// Flushes the text, and says whether all of it could be written.
    pub fn close(&mut self) -> io::Result<()> {
        if let Some(out) = &mut self.text {
            out.flush()?;
        }
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("hash", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(time: u64, process: ProcessId, kind: Kind, bytes: &[u8]) -> u64 {
        let mut tracer = Tracer::new(None);
        tracer.event(time, process.into(), kind, bytes, String::new);
        tracer.event(9, ProcessId::Client(1).into(), Kind::Timer, b"", String::new);
        tracer.hash()
    }

    #[test]
    fn every_part_of_an_event_counts() {
        let base = hash(1, ProcessId::Server(0), Kind::Deliver, b"abc");
        assert_eq!(base, hash(1, ProcessId::Server(0), Kind::Deliver, b"abc"));
        assert_ne!(base, hash(2, ProcessId::Server(0), Kind::Deliver, b"abc"));
        assert_ne!(base, hash(1, ProcessId::Server(1), Kind::Deliver, b"abc"));
        assert_ne!(base, hash(1, ProcessId::Client(0), Kind::Deliver, b"abc"));
        assert_ne!(base, hash(1, ProcessId::Server(0), Kind::Reply, b"abc"));
        assert_ne!(base, hash(1, ProcessId::Server(0), Kind::Deliver, b"abd"));
    }
}
