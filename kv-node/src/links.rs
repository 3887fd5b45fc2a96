//! Connections to the peers.
//!
//! Each peer has one outgoing link: a task that connects, shakes hands, writes what the executor
//! gives it, and starts over when the connection ends. Frames between nodes may be lost: what does
//! not fit, or comes while there is no connection, is dropped at once, because the core sends anew
//! what still matters and an old heartbeat helps nobody.
//!
//! The end of a connection is told to the core: the operating system ends those of a process that
//! died, however it died, so that nobody has to wait until its silence is noticed.
//!
//! **What this leaves out:** noticing a peer that vanished without a word. The operating system
//! does that, after it has failed to deliver for minutes; until then frames to that peer wait in
//! its socket.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kv_core::cluster::ClusterMap;
use kv_core::id::{Address, NodeId};
use kv_core::node::LinkState;
use kv_core::rng::Rng;
use kv_core::wire::{
    self, Frame, Hello, HelloRefusal, HelloReply, LocalIdentity, PROTOCOL_VERSION, PeerFrame,
    PeerHello,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::counters::Counters;
use crate::frames::{FrameSource, Outbox, ReadError, Unsent, outbox, write_frames};

/// Unsent bytes per link. A burst of entries fits; a peer that is slower for longer gets them again
/// from the core.
const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long connecting and shaking hands may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses that are tried for one peer: the one that it is said to have, the configured one, the
/// one of the map, and one that it had.
const ADDRESS_COUNT_MAX: usize = 4;
/// First pause before connecting again.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause: well below an election timeout, so that a restarted peer is back before anybody
/// campaigns.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// The executor's end of a link.
#[derive(Debug)]
pub(crate) struct Link {
    outbox: Outbox,
    is_connected: Arc<AtomicBool>,
    is_retired: Arc<AtomicBool>,
    counters: Arc<Counters>,
    addresses: watch::Sender<Vec<Address>>,
}

/// Where links tell the executor what becomes of their connections. Bounded by the pauses between
/// two connections.
pub(crate) type LinkStates = mpsc::UnboundedSender<(NodeId, LinkState)>;

/// What a link's task needs.
pub(crate) struct LinkTask {
    /// The peer.
    pub(crate) peer: NodeId,
    /// Where it may listen, the likeliest first.
    pub(crate) addresses: watch::Receiver<Vec<Address>>,
    /// Who this node is.
    pub(crate) identity: watch::Receiver<LocalIdentity>,
    /// Where it is told that the connection broke off or stands.
    pub(crate) states: LinkStates,
    /// What is counted.
    pub(crate) counters: Arc<Counters>,
    /// Draws the pauses, so that nodes do not connect in step.
    pub(crate) rng: Rng,
}

/// Why a link has no connection.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("it is said to be reached elsewhere")]
    Moved,
    #[error("it refuses the connection: {0}")]
    Refused(HelloRefusal),
    #[error("the node at that address is {0}; check --peers")]
    OtherNode(NodeId),
    #[error("the node at that address has joined no cluster yet")]
    NotJoined,
}

impl LinkError {
    /// Whether the peer's side ended a connection that stood, as it does when the peer's process has
    /// ended.
    fn is_end_of_peer(&self) -> bool {
        let is_end = |error: &io::Error| {
            use io::ErrorKind::{BrokenPipe, ConnectionReset};
            matches!(error.kind(), BrokenPipe | ConnectionReset)
        };
        match self {
            Self::Io(error) | Self::Read(ReadError::Io(error)) => is_end(error),
            Self::Read(ReadError::Closed | ReadError::Truncated) => true,
            Self::Read(ReadError::Frame(_) | ReadError::Misplaced | ReadError::TooSlow)
            | Self::Timeout
            | Self::Refused(_)
            | Self::OtherNode(_)
            | Self::NotJoined
            | Self::Moved => false,
        }
    }
}

impl Link {
    /// Starts to connect to one of `addresses`.
    fn open(task: LinkTask, addresses: watch::Sender<Vec<Address>>) -> Self {
        let (outbox, unsent) = outbox(UNSENT_BYTES_MAX);
        let is_connected = Arc::new(AtomicBool::new(false));
        let is_retired = Arc::new(AtomicBool::new(false));
        let counters = Arc::clone(&task.counters);
        tokio::spawn(task.run(unsent, Arc::clone(&is_connected), Arc::clone(&is_retired)));
        Self { outbox, is_connected, is_retired, counters, addresses }
    }

    /// Sends a frame, or drops it.
    pub(crate) fn send(&self, frame: PeerFrame) {
        let is_taken = self.is_connected.load(Ordering::Relaxed)
            && self.outbox.push(&Frame::Peer(frame)).is_ok();
        if !is_taken {
            self.counters.dropped_frames.add();
        }
    }
}

/// The links of a node.
#[derive(Debug)]
pub(crate) struct Links {
    /// By peer.
    pub(crate) peers: BTreeMap<NodeId, Link>,
    identity: watch::Receiver<LocalIdentity>,
    states: LinkStates,
    counters: Arc<Counters>,
    seed: u64,
}

impl Links {
    /// No links yet.
    pub(crate) fn new(
        identity: watch::Receiver<LocalIdentity>,
        states: LinkStates,
        counters: Arc<Counters>,
        seed: u64,
    ) -> Self {
        Self { peers: BTreeMap::new(), identity, states, counters, seed }
    }

    /// Starts to connect to a peer, which may listen at one of `addresses`, the likeliest first.
    pub(crate) fn open(&mut self, peer: NodeId, addresses: &[&Address]) {
        let mut distinct = Vec::new();
        for address in addresses {
            if !distinct.contains(*address) {
                distinct.push((*address).clone());
            }
        }
        let (sender, addresses) = watch::channel(distinct);
        let task = LinkTask {
            peer,
            addresses,
            identity: self.identity.clone(),
            states: self.states.clone(),
            counters: Arc::clone(&self.counters),
            rng: Rng::fork(self.seed, &format!("link to {peer}")),
        };
        self.peers.insert(peer, Link::open(task, sender));
    }

    /// A peer is said to be reached at `address`, which is tried first from here on. The others stay:
    /// what is said may be out of date.
    pub(crate) fn redirect(&mut self, peer: NodeId, address: Address) {
        let Some(link) = self.peers.get(&peer) else {
            return self.open(peer, &[&address]);
        };
        link.addresses.send_if_modified(|addresses| {
            let is_new = addresses.first() != Some(&address);
            addresses.retain(|known| *known != address);
            addresses.insert(0, address);
            addresses.truncate(ADDRESS_COUNT_MAX);
            is_new
        });
    }

    /// Opens links to all members that have none, and closes the others. A node that was removed has
    /// to be told so, and keeps its connection as long as it stands.
    pub(crate) fn follow(&mut self, map: &ClusterMap, me: NodeId) {
        self.peers.retain(|peer, link| {
            if map.member(*peer).is_none() {
                link.is_retired.store(true, Ordering::Relaxed);
            }
            map.address(*peer).is_some() && !link.outbox.is_ended()
        });
        for member in map.members.iter().filter(|member| member.id != me) {
            if !self.peers.contains_key(&member.id) {
                self.open(member.id, &[&member.address]);
            }
        }
    }

    /// The link to a node that the map has, or had; opened if there is none.
    pub(crate) fn to(&mut self, peer: NodeId, map: Option<&ClusterMap>) -> Option<&Link> {
        let is_open = self.peers.get(&peer).is_some_and(|link| !link.outbox.is_ended());
        if !is_open && let Some(map) = map {
            self.open(peer, &[map.address(peer)?]);
            let is_retired = map.member(peer).is_none();
            self.peers.get(&peer)?.is_retired.store(is_retired, Ordering::Relaxed);
        }
        self.peers.get(&peer)
    }
}

impl LinkTask {
    async fn run(
        mut self,
        mut unsent: Unsent,
        is_connected: Arc<AtomicBool>,
        is_retired: Arc<AtomicBool>,
    ) {
        let mut pause = BACKOFF_MIN;
        let mut last_reason = String::new();
        for attempt in 0.. {
            let address = self.next_address(attempt);
            let error = match timeout(OPEN_TIMEOUT, self.open(&address)).await {
                Err(_) => LinkError::Timeout,
                Ok(Err(error)) => error,
                Ok(Ok((source, mut writer))) => {
                    let me = self.identity.borrow().node;
                    tracing::info!("{me} is connected to {} at {address}", self.peer);
                    last_reason.clear();
                    pause = BACKOFF_MIN;
                    is_connected.store(true, Ordering::Relaxed);
                    self.tell(LinkState::Up);
                    let error = tokio::select! {
                        error = converse(source, &mut writer, &mut unsent) => error,
                        Some(()) = moved(&mut self.addresses, &address) => LinkError::Moved,
                    };
                    is_connected.store(false, Ordering::Relaxed);
                    unsent.clear();
                    if error.is_end_of_peer() {
                        self.tell(LinkState::Down);
                    }
                    error
                }
            };
            if is_retired.load(Ordering::Relaxed) || unsent.is_abandoned() {
                return;
            }
            // The same reason again and again is told once.
            let reason = format!("{address}: {error}");
            if reason != last_reason {
                let me = self.identity.borrow().node;
                tracing::warn!("{me} has no connection to {} at {reason}", self.peer);
                last_reason = reason;
            }
            sleep(self.rng.duration(pause / 2, pause)).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    fn tell(&self, state: LinkState) {
        // Without an executor there is nobody to tell.
        let _ = self.states.send((self.peer, state));
    }

    /// One address after another; every other time the likeliest, which is the one that was told last.
    fn next_address(&mut self, attempt: usize) -> Address {
        let addresses = self.addresses.borrow_and_update();
        let at = if attempt.is_multiple_of(2) { 0 } else { (attempt / 2) % addresses.len() };
        addresses[at].clone()
    }

    async fn open(&self, address: &Address) -> Result<(FrameSource, OwnedWriteHalf), LinkError> {
        let stream = TcpStream::connect(&address.0).await?;
        stream.set_nodelay(true)?;
        let (reader, mut writer) = stream.into_split();
        let hello = hello(&self.identity.borrow());
        writer.write_all(&wire::encode(&Frame::Hello(hello))).await?;
        let mut source = FrameSource::new(reader);
        let size = source.next_size().await?;
        match source.next_frame(size).await? {
            Frame::HelloReply(HelloReply::Welcome(welcome)) if welcome.node == self.peer => {
                Ok((source, writer))
            }
            Frame::HelloReply(HelloReply::Welcome(welcome)) if welcome.node == NodeId::UNKNOWN => {
                Err(LinkError::NotJoined)
            }
            Frame::HelloReply(HelloReply::Welcome(welcome)) => {
                Err(LinkError::OtherNode(welcome.node))
            }
            Frame::HelloReply(HelloReply::Refused(refusal)) => Err(LinkError::Refused(refusal)),
            Frame::Hello(_) | Frame::Peer(_) | Frame::Request(_) | Frame::Reply(_) => {
                Err(ReadError::Misplaced.into())
            }
        }
    }
}

fn hello(identity: &LocalIdentity) -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        features: 0,
        cluster_name: Some(identity.cluster_name.clone()),
        peer: Some(PeerHello {
            node: identity.node,
            incarnation: identity.incarnation,
            cluster: identity.cluster,
        }),
    }
}

/// Done when the peer is said to be reached elsewhere than at `address`; none if that cannot be said
/// any more.
async fn moved(addresses: &mut watch::Receiver<Vec<Address>>, address: &Address) -> Option<()> {
    let is_elsewhere = |known: &Vec<Address>| known.first() != Some(address);
    addresses.changed().await.ok()?;
    addresses.wait_for(is_elsewhere).await.ok().map(|_| ())
}

/// Writes until the connection ends. The peer sends nothing on it, so anything to be read is its
/// end.
async fn converse(
    mut source: FrameSource,
    writer: &mut OwnedWriteHalf,
    unsent: &mut Unsent,
) -> LinkError {
    let error = tokio::select! {
        result = write_frames(writer, unsent) => result.err().unwrap_or(ReadError::Closed),
        result = source.wait() => result.err().unwrap_or(ReadError::Misplaced),
    };
    error.into()
}
