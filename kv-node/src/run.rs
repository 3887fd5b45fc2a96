//! The life of one node: from settings to the end of its executor.
//!
//! The order at the start matters: settings, then sockets, then the disk. A mistake or an address
//! in use is noticed before anything is written, and a second process on the same data directory is
//! stopped by the directory's lock. A node that belongs to no cluster and is not to form one joins one
//! first ([`join`](crate::join)).

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;

use kv_core::cluster::Identity;
use kv_core::id::NodeId;
use kv_core::node::{Node, NodeConfig};
use kv_core::wire::LocalIdentity;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::counters::Counters;
use crate::disk;
use crate::error::NodeError;
use crate::executor::{Clock, Executor, Inbox, Published};
use crate::join::Joiner;
use crate::links::Links;
use crate::listener::{self, Listener, Slots};
use crate::settings::{RawSettings, Settings};
use crate::{admin, random};

/// Frames of peers that wait for the executor. Few: each can be large, and waiting ones grow stale.
const PEER_FRAME_COUNT_MAX: usize = 256;
/// Requests of clients that wait for the executor.
const CLIENT_EVENT_COUNT_MAX: usize = 256;
/// Status requests that wait for the executor.
const ADMIN_COUNT_MAX: usize = 16;

/// A node that has its sockets, and nothing else yet.
#[derive(Debug)]
pub(crate) struct BoundNode {
    settings: Settings,
    listener: TcpListener,
    admin: Option<TcpListener>,
}

/// Runs one node in this process until a signal ends it.
///
/// # Errors
/// [`NodeError`] if it cannot start. *No data was changed.*
pub(crate) fn start(raw: RawSettings) -> Result<(), NodeError> {
    let node = bind(raw.check()?)?;
    let runtime = runtime()?;
    let shutdown = {
        let _guard = runtime.enter();
        stop_signal()?
    };
    node.run(&runtime, shutdown)
}

/// Takes the addresses of a node.
///
/// # Errors
/// [`NodeError::Listen`]. *Nothing was changed.*
pub(crate) fn bind(settings: Settings) -> Result<BoundNode, NodeError> {
    let listener = listen(&settings.listen)?;
    let admin = if settings.admin.is_empty() { None } else { Some(listen(&settings.admin)?) };
    Ok(BoundNode { settings, listener, admin })
}

fn listen(addresses: &[SocketAddr]) -> Result<TcpListener, NodeError> {
    TcpListener::bind(addresses).map_err(|source| {
        let names: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        NodeError::Listen { address: names.join(", "), source }
    })
}

/// A runtime on the calling thread.
///
/// # Errors
/// [`NodeError::System`]. *Nothing was changed.*
pub(crate) fn runtime() -> Result<Runtime, NodeError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| NodeError::System { what: "start a runtime", source })
}

/// Done when the process is asked to stop. Signals count from this call on, not only from the first
/// poll.
///
/// # Errors
/// [`NodeError::System`]. *Nothing was changed.*
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>, NodeError> {
    let catch =
        |kind| signal(kind).map_err(|source| NodeError::System { what: "catch signals", source });
    let (mut interrupt, mut terminate) =
        (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("stopping: SIGINT"),
            _ = terminate.recv() => tracing::info!("stopping: SIGTERM"),
        }
    })
}

impl BoundNode {
    /// Opens the data directory and runs the node on `runtime` until `shutdown` is done.
    ///
    /// # Errors
    /// [`NodeError`] if it cannot start. *No data was changed.*
    pub(crate) fn run(
        self,
        runtime: &Runtime,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), NodeError> {
        runtime.block_on(async {
            let mut shutdown = std::pin::pin!(shutdown);
            let Some((executor, inbox)) = self.assemble(&mut shutdown).await? else {
                return Ok(());
            };
            executor.run(inbox, shutdown).await
        })
    }

    /// Makes the core and everything around it; none if the node is told to stop before it belongs to
    /// a cluster.
    async fn assemble(
        self,
        shutdown: &mut Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<(Executor, Inbox)>, NodeError> {
        let Self { settings, listener, admin } = self;
        let (stored_sender, stored) = mpsc::unbounded_channel();
        let seed = random::number()?;
        let (mut recovered, mut disk) = disk::open(&settings, stored_sender, None)?;
        let (identity_sender, identity) = watch::channel(local(&recovered.identity));
        let counters = Arc::new(Counters::default());
        let (link_sender, link_states) = mpsc::unbounded_channel();
        let (budget_sender, has_budget) = watch::channel(true);
        let published = Published { identity: identity_sender, has_budget: budget_sender };
        let (peers_sender, peers) = mpsc::channel(PEER_FRAME_COUNT_MAX);
        let (clients_sender, clients) = mpsc::channel(CLIENT_EVENT_COUNT_MAX);
        let (admin_sender, admin_receiver) = mpsc::channel(ADMIN_COUNT_MAX);
        let acceptor = Listener {
            identity: identity.clone(),
            has_budget,
            peers: peers_sender,
            clients: clients_sender,
            counters: Arc::clone(&counters),
            slots: Slots::default(),
        };
        tokio::spawn(acceptor.run(prepare(listener)?));
        if let Some(admin) = admin {
            tokio::spawn(admin::run(prepare(admin)?, admin_sender, Arc::clone(&counters)));
        }
        let names: Vec<_> = settings.listen.iter().map(ToString::to_string).collect();
        tracing::info!("{} listens on {}", who(recovered.identity.node), names.join(", "));
        let mut inbox = Inbox { stored, links: link_states, peers, clients, admin: admin_receiver };
        let mut joined_clients = BTreeMap::new();
        if settings.config.is_none() && recovered.identity.cluster.is_none() {
            if let Some(damage) = recovered.damage {
                return Err(NodeError::Unusable(damage));
            }
            let joiner = Joiner::new(&settings, recovered.identity, seed);
            let Some(joined) = joiner.run(&mut inbox, &mut disk, shutdown).await? else {
                disk.close();
                return Ok(None);
            };
            (recovered.identity, joined_clients) = (joined.identity, joined.clients);
            published.identity.send_modify(|identity| *identity = local(&recovered.identity));
        }
        let config = settings.config_of(&recovered.identity);
        let clock = Clock::start();
        let node = Node::new(config.clone(), recovered, clock.node_start(seed))
            .map_err(NodeError::Mismatch)?;
        let links = Links::new(identity, link_sender, counters, seed);
        let links = open_links(&node, &config, links);
        let executor = Executor::new(settings, node, clock, disk, links, published, joined_clients);
        Ok(Some((executor, inbox)))
    }
}

/// Links to whom the configuration and the map name. Who starts a node may know addresses better
/// than the map does.
fn open_links(node: &Node, config: &NodeConfig, mut links: Links) -> Links {
    for (peer, address) in config.peers.iter().filter(|(peer, _)| *peer != config.id) {
        let mapped = node.map().and_then(|map| map.member(*peer)).map(|member| &member.address);
        links.open(*peer, &[&[address], mapped.as_slice()].concat());
    }
    if let Some(map) = node.map() {
        links.follow(map, config.id);
    }
    links
}

/// What others are told of who this node is.
fn local(identity: &Identity) -> LocalIdentity {
    LocalIdentity {
        cluster_name: identity.cluster_name.clone(),
        node: identity.node,
        incarnation: identity.incarnation,
        cluster: identity.cluster.as_ref().map(|record| record.id),
    }
}

/// The node's name in logs.
fn who(node: NodeId) -> String {
    if node == NodeId::UNKNOWN { "a node without an id".to_owned() } else { node.to_string() }
}

fn prepare(listener: TcpListener) -> Result<tokio::net::TcpListener, NodeError> {
    listener::prepare(listener)
        .map_err(|source| NodeError::System { what: "use the listening socket", source })
}
