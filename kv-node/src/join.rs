//! From an empty data directory to a member of a cluster that is there.
//!
//! The directory got its incarnation when it was opened. The node asks members of the cluster,
//! wherever it was told to look, to be added under that incarnation, until one answers with the id
//! that it has from then on; it makes that durable together with the cluster's record and map, and
//! starts. The cluster knows members by their incarnation and gives each of them one id, so asking
//! again, also after a crash at any point, comes to the same.
//!
//! Who was told nothing waits: for `kv cluster add-node`, which tells it where the cluster is.
//! Meanwhile it answers who it is, and refuses everything else.
//!
//! Whom to ask, how often and what an answer means is decided by the routing core of clients, which
//! is simulated; here are its hands.
//!
//! **What this leaves out:** remembering over a restart what `add-node` said; it is repeated then.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use kv_core::client::{Answer, Call, CallError, Router, RouterConfig, RouterInput, RouterOutput};
use kv_core::cluster::{ClusterMap, ClusterRecord, Identity};
use kv_core::id::{Address, NodeId};
use kv_core::node::Status;
use kv_core::storage::StorageRequest;
use kv_core::wire::{
    self, AdminReply, AdminRequest, ClientReply, ClientRequest, Frame, Hello, HelloRefusal,
    HelloReply, PROTOCOL_VERSION, Refusal, ReplyFrame, RequestFrame,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::disk::Disk;
use crate::error::NodeError;
use crate::executor::{ClientEvent, Clock, ConnectionId, Inbox};
use crate::frames::{FrameSource, ReadError};
use crate::listener::Client;
use crate::settings::Settings;

/// How long one round of asking takes before what went wrong is told.
const ROUND: Duration = Duration::from_secs(2);
/// How long one member may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How far away a timer is that nobody has set.
const FAR_AWAY: Duration = Duration::from_secs(3_600);
/// Answers of members that wait to be looked at.
const ANSWER_COUNT_MAX: usize = 16;
/// Most seeds that `add-node` may name, each at most so long.
const SEEDS_MAX: usize = 1_024;

/// A node that belongs to no cluster.
pub(crate) struct Joiner {
    identity: Identity,
    address: Address,
    clock: Clock,
    seed: u64,
    /// Who asks the cluster; none while the node waits.
    router: Option<Router>,
    /// Whom the router was told to ask.
    seeds: Vec<Address>,
    /// Whether the node was told to join when it was started. Then a refusal ends it.
    is_told: bool,
    answers: (mpsc::Sender<Heard>, mpsc::Receiver<Heard>),
    clients: BTreeMap<ConnectionId, Client>,
    /// Who asked that the node join, and waits for it.
    asking: Vec<Asking>,
    /// What went wrong last, which is told once.
    last_trouble: String,
    last_failure: String,
}

/// What became of a request to a member.
struct Heard {
    from: Address,
    reply: Result<ReplyFrame, AskError>,
}

/// A client that waits until the node is a member.
struct Asking {
    connection: ConnectionId,
    correlation: u64,
    _slot: OwnedSemaphorePermit,
}

/// What a node is once it has joined.
pub(crate) struct Joined {
    /// Durable.
    pub(crate) identity: Identity,
    /// Who is connected.
    pub(crate) clients: BTreeMap<ConnectionId, Client>,
}

/// Why a member did not answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("no answer in time")]
    Timeout,
    #[error("refused: {0}")]
    Refused(HelloRefusal),
}

impl Joiner {
    /// A node that does nothing yet.
    pub(crate) fn new(settings: &Settings, identity: Identity, seed: u64) -> Self {
        let mut joiner = Self {
            identity,
            address: settings.address.clone(),
            clock: Clock::start(),
            seed,
            router: None,
            seeds: Vec::new(),
            is_told: !settings.seeds.is_empty(),
            answers: mpsc::channel(ANSWER_COUNT_MAX),
            clients: BTreeMap::new(),
            asking: Vec::new(),
            last_trouble: String::new(),
            last_failure: String::new(),
        };
        if joiner.is_told {
            joiner.ask(settings.seeds.clone());
        } else {
            tracing::info!(
                "this node belongs to no cluster and waits: add it with 'kv --endpoints MEMBER cluster add-node {}', \
                 or start it with --join MEMBER",
                joiner.address
            );
        }
        joiner
    }

    /// Runs until the node is a member, durably; none if it is told to stop before.
    ///
    /// # Errors
    /// [`NodeError::NotTaken`]. *Nothing was changed.*
    pub(crate) async fn run(
        mut self,
        inbox: &mut Inbox,
        disk: &mut Disk,
        shutdown: &mut Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Joined>, NodeError> {
        loop {
            if let Some(result) = self.drain_router() {
                match self.on_result(result)? {
                    Some(identity) => return Ok(Some(self.finish(identity, disk))),
                    None => continue,
                }
            }
            let timeout = self.router.as_ref().and_then(Router::poll_timeout);
            let pause = timeout.map_or(FAR_AWAY, |at| at.saturating_since(self.clock.now()));
            tokio::select! {
                () = &mut *shutdown => return Ok(None),
                () = tokio::time::sleep(pause) => self.input(RouterInput::Timeout),
                Some(heard) = self.answers.1.recv() => self.on_heard(heard),
                Some(event) = inbox.clients.recv() => self.on_client(event),
                // Members that have heard of this node before it has itself.
                Some(_) = inbox.peers.recv() => {}
                Some(reply) = inbox.admin.recv() => {
                    // Who asked may have gone.
                    let _ = reply.send(self.status());
                }
            }
        }
    }

    /// Begins to ask the cluster that is found at `seeds`.
    fn ask(&mut self, seeds: Vec<Address>) {
        self.seeds = seeds.clone();
        self.router = Some(Router::new(RouterConfig::new(seeds), self.seed));
        self.call();
    }

    fn call(&mut self) {
        let now = self.clock.now();
        let (incarnation, address) = (self.identity.incarnation, self.address.clone());
        if let Some(router) = &mut self.router {
            let call = Call::Admin(AdminRequest::AddNode { incarnation, address });
            router.call(now, call, now + ROUND);
        }
    }

    fn input(&mut self, input: RouterInput) {
        let now = self.clock.now();
        if let Some(router) = &mut self.router {
            router.handle(now, input);
        }
    }

    /// Sends what the router wants sent; returns what the call came to, if it has ended.
    fn drain_router(&mut self) -> Option<Result<Answer, CallError>> {
        while let Some(output) = self.router.as_mut()?.poll_output() {
            match output {
                RouterOutput::Done { result, .. } => return Some(result),
                RouterOutput::Send { to, request } => {
                    let (hello, heard) = (self.hello(), self.answers.0.clone());
                    tokio::spawn(async move {
                        let asked = timeout(ANSWER_TIMEOUT, exchange(&to, hello, request)).await;
                        let reply = asked.unwrap_or(Err(AskError::Timeout));
                        // The node may have joined meanwhile.
                        let _ = heard.send(Heard { from: to, reply }).await;
                    });
                }
            }
        }
        None
    }

    fn hello(&self) -> Hello {
        Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            features: 0,
            cluster_name: Some(self.identity.cluster_name.clone()),
            peer: None,
        }
    }

    fn on_heard(&mut self, Heard { from, reply }: Heard) {
        match reply {
            Ok(reply) => self.input(RouterInput::Receive { from, reply }),
            Err(error) => {
                self.last_failure = format!("; {from}: {error}");
                self.input(RouterInput::Unreachable { to: from });
            }
        }
    }

    /// The identity that the node has from now on, if it was taken. Who cannot be reached is asked
    /// again.
    fn on_result(
        &mut self,
        result: Result<Answer, CallError>,
    ) -> Result<Option<Identity>, NodeError> {
        let trouble = match result {
            Ok(Answer::Admin(AdminReply::NodeAdded { id, cluster, map })) => {
                match self.identity_as(id, cluster, map) {
                    Some(identity) => return Ok(Some(identity)),
                    None => "what it answers is no cluster with this node".to_owned(),
                }
            }
            Ok(_) => "it answers something else".to_owned(),
            Err(CallError::Refused(refusal)) if self.is_told => {
                return Err(NodeError::NotTaken(refusal));
            }
            Err(CallError::Refused(refusal)) => {
                tracing::warn!("the cluster does not take this node: {refusal}");
                self.router = None;
                self.answer_asking(&ClientReply::Refused(refusal));
                return Ok(None);
            }
            Err(error) => format!("{error}{}", self.last_failure),
        };
        if trouble != self.last_trouble {
            tracing::warn!("this node cannot join yet, and goes on trying: {trouble}");
            self.last_trouble = trouble;
        }
        self.call();
        Ok(None)
    }

    fn identity_as(&self, id: NodeId, cluster: ClusterRecord, map: ClusterMap) -> Option<Identity> {
        let is_me = map.member(id)?.incarnation == self.identity.incarnation;
        let is_one = cluster.is_valid() && map.cluster == cluster.id;
        let identity = self.identity.clone();
        let (cluster, map) = (Some(cluster), Some(map));
        (is_me && is_one).then_some(Identity { node: id, cluster, map, ..identity })
    }

    fn finish(mut self, identity: Identity, disk: &mut Disk) -> Joined {
        // Answered at once, when it is durable.
        disk.execute(StorageRequest::StoreIdentity(identity.clone()));
        let id = identity.node;
        if let Some(record) = &identity.cluster {
            tracing::info!("{id} has joined cluster {}", record.id);
            let joined = AdminReply::Joined { id, cluster: record.id };
            self.answer_asking(&ClientReply::Admin(joined));
        }
        Joined { identity, clients: self.clients }
    }

    fn on_client(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Opened { connection, client } => {
                self.clients.insert(connection, client);
            }
            ClientEvent::Closed { connection } => {
                self.clients.remove(&connection);
                self.asking.retain(|asking| asking.connection != connection);
            }
            ClientEvent::Request { connection, frame, slot, .. } => {
                let RequestFrame { correlation, body } = *frame;
                match body {
                    ClientRequest::Status => {
                        let status = ClientReply::Status(self.status());
                        self.reply(connection, correlation, status);
                    }
                    ClientRequest::Admin(AdminRequest::Join { seeds })
                        if (1..=SEEDS_MAX).contains(&seeds.len()) =>
                    {
                        self.asking.push(Asking { connection, correlation, _slot: slot });
                        // A question that is repeated is being asked already.
                        let is_asked = self.router.is_some() && self.seeds == seeds;
                        if !self.is_told && !is_asked {
                            tracing::info!("told to join a cluster");
                            self.ask(seeds);
                        }
                    }
                    ClientRequest::Map
                    | ClientRequest::OpenSession { .. }
                    | ClientRequest::Read { .. }
                    | ClientRequest::Timestamp
                    | ClientRequest::ReadAt { .. }
                    | ClientRequest::ScanAt { .. }
                    | ClientRequest::Outcome { .. }
                    | ClientRequest::ReadReplica { .. }
                    | ClientRequest::Write { .. }
                    | ClientRequest::Txn { .. }
                    | ClientRequest::Admin(_) => {
                        let refused = ClientReply::Refused(Refusal::NotReady);
                        self.reply(connection, correlation, refused);
                    }
                }
            }
        }
    }

    fn answer_asking(&mut self, body: &ClientReply) {
        for asking in std::mem::take(&mut self.asking) {
            self.reply(asking.connection, asking.correlation, body.clone());
        }
    }

    fn reply(&mut self, connection: ConnectionId, correlation: u64, body: ClientReply) {
        let frame = Frame::Reply(ReplyFrame { correlation, body });
        let client = self.clients.get(&connection);
        if client.is_some_and(|client| client.outbox.push(&frame).is_err()) {
            self.clients.remove(&connection);
        }
    }

    fn status(&self) -> Status {
        Status {
            node: self.identity.node,
            incarnation: self.identity.incarnation,
            cluster_name: self.identity.cluster_name.clone(),
            cluster: None,
            damage: None,
            is_full: false,
            shards: Vec::new(),
            peers: vec![],
            log: Box::default(),
            ignored_frame_count: 0,
            pending_bytes: 0,
        }
    }
}

/// Asks one member one thing, on a connection of its own.
async fn exchange(
    to: &Address,
    hello: Hello,
    request: RequestFrame,
) -> Result<ReplyFrame, AskError> {
    let stream = TcpStream::connect(&to.0).await?;
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    writer.write_all(&wire::encode(&Frame::Hello(hello))).await?;
    let mut source = FrameSource::new(reader);
    match next(&mut source).await? {
        Frame::HelloReply(HelloReply::Welcome(_)) => {}
        Frame::HelloReply(HelloReply::Refused(refusal)) => return Err(AskError::Refused(refusal)),
        Frame::Hello(_) | Frame::Peer(_) | Frame::Request(_) | Frame::Reply(_) => {
            return Err(ReadError::Misplaced.into());
        }
    }
    writer.write_all(&wire::encode(&Frame::Request(request))).await?;
    match next(&mut source).await? {
        Frame::Reply(reply) => Ok(reply),
        Frame::Hello(_) | Frame::HelloReply(_) | Frame::Peer(_) | Frame::Request(_) => {
            Err(ReadError::Misplaced.into())
        }
    }
}

async fn next(source: &mut FrameSource) -> Result<Frame, ReadError> {
    let size = source.next_size().await?;
    source.next_frame(size).await
}
