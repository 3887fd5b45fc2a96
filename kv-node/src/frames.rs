//! Frames in and out of a socket, bounded both ways.
//!
//! **In:** [`FrameSource`] knows a frame's size from its header before it makes room for the body,
//! so that a reader can ask for permission first. The header is judged by the codec of the core,
//! not here.
//!
//! **Out:** an [`Outbox`] takes frames without waiting and refuses when too much is unsent;
//! [`write_frames`] is the other end, and writes all that has gathered at once. The executor
//! therefore never waits for a socket.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use kv_core::wire::{self, FRAME_HEADER_BYTES, Frame, FrameError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Room made for each read: memory follows what has arrived, not what was announced.
const CHUNK_BYTES: usize = 64 * 1024;
/// An empty buffer that has grown beyond this is given back.
const IDLE_BUFFER_BYTES_MAX: usize = 4 * CHUNK_BYTES;
/// Bytes written at once.
const WRITE_BYTES_MAX: usize = 1024 * 1024;
/// How long so many may take to leave. A receiver that is slower holds memory that others need.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Why nothing more comes from a socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came is no frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The other side closed in the middle of a frame.
    #[error("closed in the middle of a frame")]
    Truncated,
    /// The other side closed between two frames.
    #[error("closed")]
    Closed,
    /// A frame that has no place on this connection.
    #[error("a frame that does not belong here")]
    Misplaced,
    /// A frame that did not arrive in time.
    #[error("too slow")]
    TooSlow,
}

/// Cuts what arrives into frames.
#[derive(Debug)]
pub(crate) struct FrameSource {
    reader: OwnedReadHalf,
    buffer: BytesMut,
}

impl FrameSource {
    /// A source over the reading half of a connection.
    pub(crate) fn new(reader: OwnedReadHalf) -> Self {
        Self { reader, buffer: BytesMut::new() }
    }

    /// Waits, as long as it takes, for the first byte of the next frame.
    ///
    /// # Errors
    /// [`ReadError::Closed`] if the other side closed instead, or [`ReadError::Io`].
    pub(crate) async fn wait(&mut self) -> Result<(), ReadError> {
        if self.buffer.is_empty() && self.buffer.capacity() > IDLE_BUFFER_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        self.fill_to(1).await.map_err(|error| match error {
            ReadError::Truncated => ReadError::Closed,
            other => other,
        })
    }

    /// Size of the next frame, header included.
    ///
    /// # Errors
    /// [`ReadError`]; also if the header alone shows that no frame follows.
    pub(crate) async fn next_size(&mut self) -> Result<usize, ReadError> {
        self.fill_to(FRAME_HEADER_BYTES).await?;
        match wire::decode(&self.buffer[..FRAME_HEADER_BYTES]) {
            Ok(_) => Ok(FRAME_HEADER_BYTES),
            Err(FrameError::Length { expected, .. }) => Ok(expected),
            Err(error) => Err(error.into()),
        }
    }

    /// The next frame, whose size is `size`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(crate) async fn next_frame(&mut self, size: usize) -> Result<Frame, ReadError> {
        self.fill_to(size).await?;
        let frame = wire::decode(&self.buffer[..size])?;
        self.buffer.advance(size);
        Ok(frame)
    }

    /// Throws away what arrives until the other side closes or has sent much.
    pub(crate) async fn discard(&mut self) {
        let mut budget = 16 * CHUNK_BYTES;
        let mut chunk = vec![0; CHUNK_BYTES];
        while budget > 0 {
            match self.reader.read(&mut chunk).await {
                Ok(count) if count > 0 => budget = budget.saturating_sub(count),
                Ok(_) | Err(_) => return,
            }
        }
    }

    async fn fill_to(&mut self, size: usize) -> Result<(), ReadError> {
        while self.buffer.len() < size {
            self.buffer.reserve(CHUNK_BYTES);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(ReadError::Truncated);
            }
        }
        Ok(())
    }
}

/// Where frames wait to be written. Clones feed the same connection.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    /// Says that there is something to write; its end says that nothing more will come.
    wake: mpsc::Sender<()>,
    bytes_max: usize,
}

/// What both ends of an outbox see.
#[derive(Debug, Default)]
struct Shared {
    /// Encoded frames that the writing end has not taken yet.
    waiting: Mutex<Vec<u8>>,
    /// Bytes that it has taken and not written yet.
    writing_bytes: AtomicUsize,
}

/// More is unsent than allowed. *The frame was not taken.*
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The writing end of an [`Outbox`].
#[derive(Debug)]
pub(crate) struct Unsent {
    shared: Arc<Shared>,
    woken: mpsc::Receiver<()>,
    /// What is being written; between two writes empty, and kept for its room.
    writing: Vec<u8>,
}

/// An outbox that takes `bytes_max` bytes, or one frame of any size.
pub(crate) fn outbox(bytes_max: usize) -> (Outbox, Unsent) {
    let (wake, woken) = mpsc::channel(1);
    let shared = Arc::new(Shared::default());
    let unsent = Unsent { shared: Arc::clone(&shared), woken, writing: Vec::new() };
    (Outbox { shared, wake, bytes_max }, unsent)
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Vec<u8>> {
        // Whoever panics in between leaves whole frames.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Queues a frame. A connection that has ended takes everything and sends nothing.
    ///
    /// # Errors
    /// [`Full`] if too much is unsent.
    pub(crate) fn push(&self, frame: &Frame) -> Result<(), Full> {
        let mut waiting = self.shared.waiting();
        let before = waiting.len();
        wire::encode_into(frame, &mut waiting);
        let unsent_before = before + self.shared.writing_bytes.load(Ordering::Relaxed);
        let size = waiting.len() - before;
        if unsent_before > 0 && unsent_before + size > self.bytes_max {
            waiting.truncate(before);
            return Err(Full);
        }
        if before == 0 {
            // It is woken already, or has ended.
            let _ = self.wake.try_send(());
        }
        Ok(())
    }
}

impl Outbox {
    /// Whether the other end is gone: nothing is written any more.
    pub(crate) fn is_ended(&self) -> bool {
        self.wake.is_closed()
    }
}

impl Unsent {
    /// Whether the other end is gone: nothing will come any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.woken.is_closed()
    }

    /// Whether all that was queued is written.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.waiting().is_empty() && self.shared.writing_bytes.load(Ordering::Relaxed) == 0
    }

    /// Forgets what waits, and what was being written when the connection ended.
    pub(crate) fn clear(&mut self) {
        self.shared.waiting().clear();
        self.writing.clear();
        self.shared.writing_bytes.store(0, Ordering::Relaxed);
    }

    /// Takes everything that waits, to be written at once.
    fn take(&mut self) {
        self.writing.clear();
        if self.writing.capacity() > IDLE_BUFFER_BYTES_MAX {
            self.writing = Vec::new();
        }
        let mut waiting = self.shared.waiting();
        std::mem::swap(&mut *waiting, &mut self.writing);
        self.shared.writing_bytes.store(self.writing.len(), Ordering::Relaxed);
    }
}

/// Writes what comes through the outbox until its last sender is gone. All frames that wait leave
/// together.
///
/// # Errors
/// If the socket fails or takes too little in time.
pub(crate) async fn write_frames(
    writer: &mut OwnedWriteHalf,
    unsent: &mut Unsent,
) -> Result<(), ReadError> {
    while unsent.woken.recv().await.is_some() {
        unsent.take();
        for part in unsent.writing.chunks(WRITE_BYTES_MAX) {
            let written = timeout(WRITE_DEADLINE, writer.write_all(part)).await;
            unsent.shared.writing_bytes.fetch_sub(part.len(), Ordering::Relaxed);
            written.map_err(|_| ReadError::TooSlow)??;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kv_core::wire::{ClientRequest, RequestFrame};
    use tokio::net::{TcpListener, TcpStream};

    fn request(correlation: u64) -> Frame {
        Frame::Request(RequestFrame { correlation, body: ClientRequest::Map })
    }

    #[test]
    fn frames_arrive_in_order_and_the_writer_ends_with_the_last_outbox() {
        crate::run::runtime().unwrap().block_on(send_two());
    }

    async fn send_two() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let (_, mut writer) = connected.into_split();
        let (reader, _writer) = accepted.into_split();
        let (outbox, mut unsent) = outbox(1024);
        let (first, second) = (request(1), request(2));
        outbox.push(&first).unwrap();
        outbox.clone().push(&second).unwrap();
        drop(outbox);
        write_frames(&mut writer, &mut unsent).await.unwrap();
        assert!(unsent.is_idle());
        let mut source = FrameSource::new(reader);
        for expected in [first, second] {
            let size = source.next_size().await.unwrap();
            assert_eq!(source.next_frame(size).await.unwrap(), expected);
        }
    }

    #[test]
    fn full_outbox_takes_no_frame_but_an_empty_one_takes_any() {
        let (outbox, mut unsent) = outbox(1);
        assert_eq!(outbox.push(&request(1)), Ok(()));
        assert_eq!(outbox.push(&request(2)), Err(Full));
        unsent.take();
        assert_eq!(outbox.push(&request(3)), Err(Full), "it is not written yet");
        unsent.clear();
        assert!(unsent.is_idle());
        assert_eq!(outbox.push(&request(4)), Ok(()));
    }
}
