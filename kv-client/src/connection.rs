//! One connection to one node.
//!
//! A task dials, shakes hands, then reads and writes side by side until either ends. It is made on
//! demand and never mended: when it fails it says so once ([`ConnectionEvent::Lost`]) and the next
//! send makes a new one. When to retry is the router's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_core::id::Address;
use kv_core::wire::{self, Frame, FrameReader, Hello, HelloReply, PROTOCOL_VERSION, ReplyFrame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::ConnectionError;

/// Dialling and handshake together may take this long; then another node is worth a try.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection on which requests stay unanswered and nothing arrives for one to two such periods
/// is taken for dead: TCP itself notices a vanished machine only after minutes.
const SILENCE: Duration = Duration::from_secs(5);
/// Unsent bytes per connection. What goes beyond is dropped, as if lost on the way: the router
/// sends it again later.
const UNSENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of frames that leave together, unless one is larger.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// What a connection tells the driver.
#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    /// The handshake succeeded.
    Opened {
        /// The node's address.
        address: Address,
    },
    /// A reply arrived.
    Reply {
        /// The node's address.
        from: Address,
        /// The reply.
        reply: ReplyFrame,
    },
    /// The connection has ended; comes once.
    Lost {
        /// The node's address.
        address: Address,
        /// Which connection to it.
        connection: u64,
        /// Why.
        error: ConnectionError,
    },
}

/// The driver's end of a connection. Dropping it closes the connection once what was sent is
/// written.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    unsent_bytes: Arc<AtomicUsize>,
}

impl Connection {
    /// Starts to connect; frames may be sent at once.
    pub(crate) fn open(id: u64, address: Address, events: mpsc::Sender<ConnectionEvent>) -> Self {
        let (sender, outgoing) = mpsc::unbounded_channel();
        let unsent_bytes = Arc::new(AtomicUsize::new(0));
        let task = Task { address, outgoing, unsent_bytes: Arc::clone(&unsent_bytes), events };
        tokio::spawn(task.run(id));
        Self { id, outgoing: sender, unsent_bytes }
    }

    /// Which connection this is.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Queues a frame. It is lost if the connection fails or too much is queued already.
    pub(crate) fn send(&self, frame: Vec<u8>) {
        let unsent = self.unsent_bytes.load(Ordering::Relaxed);
        if unsent > 0 && unsent + frame.len() > UNSENT_BYTES_MAX {
            return;
        }
        self.unsent_bytes.fetch_add(frame.len(), Ordering::Relaxed);
        // The task has ended and is about to say so.
        let _ = self.outgoing.send(frame);
    }
}

struct Task {
    address: Address,
    outgoing: mpsc::UnboundedReceiver<Vec<u8>>,
    unsent_bytes: Arc<AtomicUsize>,
    events: mpsc::Sender<ConnectionEvent>,
}

impl Task {
    async fn run(mut self, connection: u64) {
        let error = match self.converse().await {
            Ok(()) => ConnectionError::Closed,
            Err(error) => error,
        };
        let lost = ConnectionEvent::Lost { address: self.address, connection, error };
        // Without a driver there is nobody to tell.
        let _ = self.events.send(lost).await;
    }

    async fn converse(&mut self) -> Result<(), ConnectionError> {
        let open = timeout(OPEN_TIMEOUT, open(&self.address));
        let (reader, frames, writer) = open.await.map_err(|_| ConnectionError::Timeout)??;
        let _ = self.events.send(ConnectionEvent::Opened { address: self.address.clone() }).await;
        let unanswered = AtomicUsize::new(0);
        tokio::select! {
            result = write(writer, &mut self.outgoing, &self.unsent_bytes, &unanswered) => result,
            result = read(reader, frames, &self.address, &self.events, &unanswered) => result,
        }
    }
}

async fn open(
    address: &Address,
) -> Result<(OwnedReadHalf, FrameReader, OwnedWriteHalf), ConnectionError> {
    let stream = TcpStream::connect(&address.0).await?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let hello = Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        features: 0,
        cluster_name: None,
        peer: None,
    };
    writer.write_all(&wire::encode(&Frame::Hello(hello))).await?;
    let mut frames = FrameReader::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match frames.next_frame()? {
            None => fill(&mut reader, &mut frames, &mut chunk).await?,
            Some(Frame::HelloReply(HelloReply::Welcome(_))) => return Ok((reader, frames, writer)),
            Some(Frame::HelloReply(HelloReply::Refused(refusal))) => {
                return Err(ConnectionError::Refused(refusal));
            }
            Some(_) => return Err(ConnectionError::Unexpected),
        }
    }
}

async fn fill(
    reader: &mut OwnedReadHalf,
    frames: &mut FrameReader,
    chunk: &mut [u8],
) -> Result<(), ConnectionError> {
    let count = reader.read(chunk).await?;
    if count == 0 {
        return Err(ConnectionError::Closed);
    }
    frames.push(&chunk[..count]);
    Ok(())
}

/// Writes until the driver drops its end, which is no error.
async fn write(
    mut writer: OwnedWriteHalf,
    outgoing: &mut mpsc::UnboundedReceiver<Vec<u8>>,
    unsent_bytes: &AtomicUsize,
    unanswered: &AtomicUsize,
) -> Result<(), ConnectionError> {
    while let Some(mut frames) = outgoing.recv().await {
        let mut count = 1;
        // Others are about to send, too: one system call does for all.
        tokio::task::yield_now().await;
        while frames.len() < WRITE_BYTES_MAX
            && let Ok(frame) = outgoing.try_recv()
        {
            frames.extend_from_slice(&frame);
            count += 1;
        }
        unanswered.fetch_add(count, Ordering::Relaxed);
        writer.write_all(&frames).await?;
        unsent_bytes.fetch_sub(frames.len(), Ordering::Relaxed);
    }
    Ok(())
}

async fn read(
    mut reader: OwnedReadHalf,
    mut frames: FrameReader,
    from: &Address,
    events: &mpsc::Sender<ConnectionEvent>,
    unanswered: &AtomicUsize,
) -> Result<(), ConnectionError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut was_silent = false;
    loop {
        while let Some(frame) = frames.next_frame()? {
            let Frame::Reply(reply) = frame else {
                return Err(ConnectionError::Unexpected);
            };
            let count = unanswered.load(Ordering::Relaxed);
            unanswered.store(count.saturating_sub(1), Ordering::Relaxed);
            let event = ConnectionEvent::Reply { from: from.clone(), reply };
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        match timeout(SILENCE, fill(&mut reader, &mut frames, &mut chunk)).await {
            Ok(result) => {
                result?;
                was_silent = false;
            }
            Err(_) if unanswered.load(Ordering::Relaxed) == 0 => was_silent = false,
            Err(_) if was_silent => return Err(ConnectionError::Timeout),
            Err(_) => was_silent = true,
        }
    }
}
