//! The one listener for peers and clients.
//!
//! A connection starts with a handshake: the first frame says what the other side is and which
//! cluster it wants. It must be short, come soon and fit; else the connection is closed, with a
//! refusal if the other side speaks a frame format at all. Then a peer's frames, or a client's
//! requests, go to the executor one by one.
//!
//! # Limits
//!
//! Peers and clients have connection limits of their own, so that clients cannot crowd out peers. A
//! client is read only while the core has budget, with a bound on its unanswered requests and, over
//! all clients, on the bytes of large requests that are being read. A client that does not fetch
//! its replies is closed when too much is unsent.
//!
//! Whatever is wrong with a connection ends that connection, is counted, and touches nothing else.

use std::net;
use std::sync::Arc;
use std::time::Duration;

use kv_core::wire::{
    self, ClientReply, Frame, FrameError, Hello, HelloRefusal, HelloReply, LocalIdentity,
    PROTOCOL_VERSION, PeerFrame, Refusal, ReplyFrame, RequestFrame,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::counters::Counters;
use crate::executor::{ClientEvent, ConnectionId};
use crate::frames::{FrameSource, Outbox, ReadError, Unsent, outbox, write_frames};

/// Connections of peers: one each is normal, a second while the first one's end goes unnoticed.
const PEER_CONNECTION_MAX: usize = 64;
/// Connections of clients. All limits together stay below the usual one of 1,024 open files.
const CLIENT_CONNECTION_MAX: usize = 512;
/// Connections that have not said yet what they are.
const HANDSHAKE_MAX: usize = 256;
/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Largest first frame.
const HELLO_BYTES_MAX: usize = 4 * 1024;
/// How long to wait, after a refusal, for the other side to read it and close.
const LINGER: Duration = Duration::from_secs(1);
/// How long one frame may take to arrive, once begun.
const FRAME_DEADLINE: Duration = Duration::from_secs(30);
/// Unanswered requests per client connection.
const REQUEST_COUNT_MAX: usize = 1_024;
/// Requests beyond this size share [`LARGE_REQUEST_BYTES_MAX`].
const SMALL_REQUEST_BYTES: usize = 64 * 1024;
/// Bytes of large requests that are being read or wait for the executor, over all clients.
const LARGE_REQUEST_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Unsent replies per client connection.
const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pause after the operating system refused to accept, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// Who this node is.
    pub(crate) identity: watch::Receiver<LocalIdentity>,
    /// Whether the core welcomes requests.
    pub(crate) has_budget: watch::Receiver<bool>,
    /// To the executor: what peers say.
    pub(crate) peers: mpsc::Sender<PeerFrame>,
    /// To the executor: what clients say.
    pub(crate) clients: mpsc::Sender<ClientEvent>,
    /// What is counted.
    pub(crate) counters: Arc<Counters>,
    /// Who is let in.
    pub(crate) slots: Slots,
}

/// Room for connections and large requests.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    handshakes: Arc<Semaphore>,
    peers: Arc<Semaphore>,
    clients: Arc<Semaphore>,
    large_request_bytes: Arc<Semaphore>,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            handshakes: Arc::new(Semaphore::new(HANDSHAKE_MAX)),
            peers: Arc::new(Semaphore::new(PEER_CONNECTION_MAX)),
            clients: Arc::new(Semaphore::new(CLIENT_CONNECTION_MAX)),
            large_request_bytes: Arc::new(Semaphore::new(LARGE_REQUEST_BYTES_MAX)),
        }
    }
}

/// Who was let in, with the room that it takes.
enum Admitted {
    Peer(OwnedSemaphorePermit),
    Client(OwnedSemaphorePermit),
}

/// A connection whose handshake is done, taken apart.
struct Open {
    source: FrameSource,
    writer: OwnedWriteHalf,
    admitted: Admitted,
}

impl Listener {
    /// Accepts for ever.
    pub(crate) async fn run(self, listener: TcpListener) {
        for connection in 0.. {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.counters.accepted.add();
            let Ok(slot) = Arc::clone(&self.slots.handshakes).try_acquire_owned() else {
                self.counters.refused.add();
                continue;
            };
            tokio::spawn(self.clone().serve(ConnectionId(connection), stream, slot));
        }
    }

    async fn serve(self, id: ConnectionId, stream: TcpStream, slot: OwnedSemaphorePermit) {
        let opened = timeout(HANDSHAKE_DEADLINE, self.open(stream)).await;
        drop(slot);
        let error = match opened.unwrap_or(Err(ReadError::TooSlow)) {
            Ok(None) => return,
            Ok(Some(Open { source, writer, admitted })) => match admitted {
                Admitted::Peer(_slot) => self.serve_peer(source, writer).await,
                Admitted::Client(_slot) => self.serve_client(id, source, writer).await,
            },
            Err(error) => Err(error),
        };
        if let Err(error) = error {
            self.count(&error);
            tracing::debug!("connection closed: {error}");
        }
    }

    fn count(&self, error: &ReadError) {
        match error {
            ReadError::Frame(_) | ReadError::Truncated | ReadError::Misplaced => {
                self.counters.malformed.add();
            }
            ReadError::TooSlow => self.counters.too_slow.add(),
            ReadError::Io(_) | ReadError::Closed => {}
        }
    }

    /// The handshake; none if the other side was refused and told so.
    async fn open(&self, stream: TcpStream) -> Result<Option<Open>, ReadError> {
        stream.set_nodelay(true)?;
        let (reader, mut writer) = stream.into_split();
        let mut source = FrameSource::new(reader);
        let verdict = match read_hello(&mut source).await {
            Ok(hello) => self.admit(&hello),
            Err(error) => match refusal_of(&error) {
                Some(refusal) => Err(refusal),
                None => return Err(error),
            },
        };
        match verdict {
            Ok((reply, admitted)) => {
                writer.write_all(&wire::encode(&Frame::HelloReply(reply))).await?;
                Ok(Some(Open { source, writer, admitted }))
            }
            Err(refusal) => {
                match refusal {
                    HelloRefusal::Malformed { .. } => self.counters.malformed.add(),
                    _ => self.counters.refused.add(),
                }
                let reply = Frame::HelloReply(HelloReply::Refused(refusal));
                writer.write_all(&wire::encode(&reply)).await?;
                linger(&mut source, &mut writer).await;
                Ok(None)
            }
        }
    }

    fn admit(&self, hello: &Hello) -> Result<(HelloReply, Admitted), HelloRefusal> {
        let reply = match self.identity.borrow().accept(hello) {
            HelloReply::Refused(refusal) => return Err(refusal),
            welcome @ HelloReply::Welcome(_) => welcome,
        };
        let slots = if hello.peer.is_some() { &self.slots.peers } else { &self.slots.clients };
        let slot =
            Arc::clone(slots).try_acquire_owned().map_err(|_| HelloRefusal::TooManyConnections)?;
        let admitted =
            if hello.peer.is_some() { Admitted::Peer(slot) } else { Admitted::Client(slot) };
        Ok((reply, admitted))
    }

    /// Hands a peer's frames to the executor. Nothing is ever sent back: this node's own frames
    /// leave on the connection that it made itself, which is kept open here only so that the peer
    /// notices when this process ends.
    async fn serve_peer(
        &self,
        mut source: FrameSource,
        _writer: OwnedWriteHalf,
    ) -> Result<(), ReadError> {
        loop {
            source.wait().await?;
            let read = async {
                let size = source.next_size().await?;
                source.next_frame(size).await
            };
            let frame = timeout(FRAME_DEADLINE, read).await.map_err(|_| ReadError::TooSlow)??;
            let Frame::Peer(frame) = frame else { return Err(ReadError::Misplaced) };
            if self.peers.send(frame).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn serve_client(
        &self,
        connection: ConnectionId,
        source: FrameSource,
        writer: OwnedWriteHalf,
    ) -> Result<(), ReadError> {
        let (outbox, unsent) = outbox(UNSENT_BYTES_MAX);
        let (overflow, overflowed) = oneshot::channel();
        let opened =
            ClientEvent::Opened { connection, client: Client { outbox, _overflow: overflow } };
        if self.clients.send(opened).await.is_err() {
            return Ok(());
        }
        let result = self.converse(connection, source, writer, unsent, overflowed).await;
        // Without an executor there is nobody to tell.
        let _ = self.clients.send(ClientEvent::Closed { connection }).await;
        result
    }

    async fn converse(
        &self,
        connection: ConnectionId,
        mut source: FrameSource,
        mut writer: OwnedWriteHalf,
        mut unsent: Unsent,
        overflowed: oneshot::Receiver<()>,
    ) -> Result<(), ReadError> {
        let result = tokio::select! {
            result = self.read_requests(connection, &mut source) => result,
            result = write_frames(&mut writer, &mut unsent) => result,
            // The executor has dropped its end.
            _ = overflowed => {
                self.counters.overflowed.add();
                Ok(())
            }
        };
        // Only between two frames: in the middle of one it could not be told from that frame.
        if let Some(reason) = result.as_ref().err().and_then(malformed)
            && unsent.is_idle()
        {
            let body = ClientReply::Refused(Refusal::Malformed { reason });
            let reply = Frame::Reply(ReplyFrame { correlation: 0, body });
            writer.write_all(&wire::encode(&reply)).await?;
            linger(&mut source, &mut writer).await;
        }
        result
    }

    async fn read_requests(
        &self,
        connection: ConnectionId,
        source: &mut FrameSource,
    ) -> Result<(), ReadError> {
        let mut has_budget = self.has_budget.clone();
        let unanswered = Arc::new(Semaphore::new(REQUEST_COUNT_MAX));
        loop {
            source.wait().await?;
            if has_budget.wait_for(|has_budget| *has_budget).await.is_err() {
                return Ok(());
            }
            let Ok(slot) = Arc::clone(&unanswered).acquire_owned().await else { return Ok(()) };
            let read = timeout(FRAME_DEADLINE, self.read_request(source)).await;
            let (frame, bytes) = read.map_err(|_| ReadError::TooSlow)??;
            let frame = Box::new(frame);
            let request = ClientEvent::Request { connection, frame, slot, _bytes: bytes };
            if self.clients.send(request).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn read_request(
        &self,
        source: &mut FrameSource,
    ) -> Result<(RequestFrame, Option<OwnedSemaphorePermit>), ReadError> {
        let size = source.next_size().await?;
        let bytes = if size > SMALL_REQUEST_BYTES {
            let permits = u32::try_from(size).map_err(|_| ReadError::Misplaced)?;
            let room = Arc::clone(&self.slots.large_request_bytes);
            room.acquire_many_owned(permits).await.ok()
        } else {
            None
        };
        match source.next_frame(size).await? {
            Frame::Request(frame) => Ok((frame, bytes)),
            Frame::Hello(_) | Frame::HelloReply(_) | Frame::Peer(_) | Frame::Reply(_) => {
                Err(ReadError::Misplaced)
            }
        }
    }
}

/// The executor's end of a client connection. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Where replies go.
    pub(crate) outbox: Outbox,
    _overflow: oneshot::Sender<()>,
}

async fn read_hello(source: &mut FrameSource) -> Result<Hello, ReadError> {
    source.wait().await?;
    let size = source.next_size().await?;
    if size > HELLO_BYTES_MAX {
        return Err(ReadError::Misplaced);
    }
    match source.next_frame(size).await? {
        Frame::Hello(hello) => Ok(hello),
        Frame::HelloReply(_) | Frame::Peer(_) | Frame::Request(_) | Frame::Reply(_) => {
            Err(ReadError::Misplaced)
        }
    }
}

/// What the other side is told; none if it would not understand.
fn refusal_of(error: &ReadError) -> Option<HelloRefusal> {
    match error {
        ReadError::Frame(FrameError::Version(_)) => {
            Some(HelloRefusal::Version { min: PROTOCOL_VERSION, max: PROTOCOL_VERSION })
        }
        error => malformed(error).map(|reason| HelloRefusal::Malformed { reason }),
    }
}

/// What is wrong with a frame, for a sender that seems to speak this protocol.
fn malformed(error: &ReadError) -> Option<String> {
    match error {
        ReadError::Frame(FrameError::Magic(_) | FrameError::Version(_)) => None,
        ReadError::Frame(error) => Some(error.to_string()),
        ReadError::Misplaced => Some(error.to_string()),
        ReadError::Io(_) | ReadError::Truncated | ReadError::Closed | ReadError::TooSlow => None,
    }
}

/// Ends a connection so that the refusal arrives: closing while bytes are unread would reset the
/// connection, and a reset overtakes what was sent before it.
async fn linger(source: &mut FrameSource, writer: &mut OwnedWriteHalf) {
    if writer.shutdown().await.is_ok() {
        let _ = timeout(LINGER, source.discard()).await;
    }
}

/// A listening socket that a runtime can use.
pub(crate) fn prepare(listener: net::TcpListener) -> std::io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
