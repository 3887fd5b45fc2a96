//! Opening a data directory.
//!
//! The log and the applied state are opened each for itself, and then compared ([`recovered`]): the
//! log must go on from what is applied. If something is damaged, all of it is set aside ([`aside`]),
//! and the node starts with an empty store, in another life, and is told of the damage
//! ([`Recovered::damage`]). What belongs to no cluster is opened as it is, so that the node can say
//! so: nobody could repair it.

pub(crate) mod aside;
pub(crate) mod recovered;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use kv_core::cluster::Identity;
use kv_core::id::{Incarnation, NodeId};
use kv_core::storage::{Recovered, StorageDamage};

use crate::engine::{Engine, TREE_FOLDER, damage_of};
use crate::identity::{self, IdentityError, IdentityFile};
use crate::log::{self, Log, LogError, LogOptions, OpenedLog, RecoveryError, SEGMENT_BYTES};
use crate::lsm::{TreeError, TreeOptions};
use crate::vfs::{DirLock, Vfs};
use crate::writer;

/// Whose directory the caller expects, and what to make of an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Name of the cluster.
    pub cluster_name: String,
    /// The node. [`NodeId::UNKNOWN`] is whoever the directory says, and who joins a cluster and has
    /// been given no id yet.
    pub node: NodeId,
    /// Becomes the incarnation of a directory that is used for the first time. Drawn at random by
    /// the caller, for every call.
    pub fresh_incarnation: Incarnation,
    /// Size of a segment of the log, in bytes. The log claims at least two. A simulator uses small
    /// ones, so that they are recycled often.
    pub log_segment_bytes: u64,
    /// The tree of the applied state. Its owner is set here.
    pub tree: TreeOptions,
    /// What a node that ran on the directory found damaged since it was opened.
    pub damage: Option<StorageDamage>,
}

impl OpenOptions {
    /// The options of a node in production.
    pub fn new(
        cluster_name: impl Into<String>,
        node: NodeId,
        fresh_incarnation: Incarnation,
    ) -> Self {
        Self {
            cluster_name: cluster_name.into(),
            node,
            fresh_incarnation,
            log_segment_bytes: SEGMENT_BYTES,
            tree: TreeOptions::new(0),
            damage: None,
        }
    }
}

/// An open data directory. It stays locked until both [`Log`] and [`IdentityFile`] are dropped.
#[derive(Debug)]
pub struct Opened {
    /// What the node starts from.
    pub recovered: Recovered,
    /// Carries out appends and releases. Takes none if anything is damaged.
    pub log: Log,
    /// Carries out applies and reads.
    pub engine: Engine,
    /// Carries out changes of the identity.
    pub identity: IdentityFile,
}

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory. *Nothing was changed.*
    #[error("the data directory is in use")]
    InUse(#[source] io::Error),
    /// The directory belongs to another cluster. *Nothing was changed.*
    #[error("the data directory belongs to cluster {found:?}, not {expected:?}")]
    WrongCluster {
        /// What the caller expects.
        expected: String,
        /// What the directory says.
        found: String,
    },
    /// The directory belongs to another node. *Nothing was changed.*
    #[error("the data directory belongs to node {found}, not {expected}")]
    WrongNode {
        /// What the caller expects.
        expected: NodeId,
        /// What the directory says.
        found: NodeId,
    },
    /// There is a log or a tree but no identity: somebody removed the file IDENTITY. *Nothing was
    /// changed.*
    #[error("the data directory has a log or a tree but no file IDENTITY")]
    IdentityMissing,
    /// The directory belongs to a formed cluster but has no log: somebody removed it, and with it
    /// what the node has promised. *Nothing was changed.*
    #[error("the data directory has a file IDENTITY of a formed cluster but no log")]
    LogMissing,
    /// The identity cannot be read or stored. *An empty directory may have been begun.*
    #[error("the identity cannot be opened")]
    Identity(#[from] IdentityError),
    /// The log cannot be opened. *At most a torn tail was made unreadable.*
    #[error("the log cannot be opened")]
    Log(#[from] RecoveryError),
    /// The applied state cannot be opened, for another reason than damage. *Nothing that was
    /// durable was changed.*
    #[error("the applied state cannot be opened")]
    Tree(#[source] TreeError),
    /// The log cannot be made to agree with the applied state. *Nothing that was durable and is
    /// needed was changed.*
    #[error("the log cannot be trimmed")]
    Trim(#[from] LogError),
    /// The disk failed. *Nothing was changed.*
    #[error("the data directory cannot be read")]
    Io(#[from] io::Error),
}

/// Locks and opens the root of `vfs` as the data directory of a node. An empty directory becomes
/// one. A damaged one is set aside and begun anew, if the node is a member of a cluster.
///
/// # Errors
/// [`OpenError`]. Whatever is refused is left as it was.
pub fn open(vfs: Arc<dyn Vfs>, mut options: OpenOptions) -> Result<Opened, OpenError> {
    let lock = Arc::new(lock(&*vfs)?);
    let (told, mut found) = (options.damage.take(), None);
    let (segment_bytes, tree) = (options.log_segment_bytes, options.tree);
    let mut identity = match identity::read(&*vfs)? {
        Some(identity) => check(&*vfs, &options, identity)?,
        None => begin(&*vfs, options)?,
    };
    let parts = Parts { vfs: &vfs, lock: &lock, segment_bytes, tree };
    if identity.repair.is_none() {
        aside::remove(&*vfs)?;
    }
    if let Some(damage) = told.filter(|_| identity.cluster.is_some()) {
        identity = aside::mark(&*vfs, &identity, damage)?;
    }
    if !aside::is_due(&identity) {
        let opened = parts.open(&identity)?;
        let Some(damage) = opened.recovered.damage.clone() else { return Ok(opened) };
        if identity.cluster.is_none() {
            return Ok(opened);
        }
        drop(opened);
        identity = aside::mark(&*vfs, &identity, damage.clone())?;
        found = Some(damage);
    }
    aside::set_aside(&*vfs, &identity)?;
    let mut opened = parts.open(&identity)?;
    // Damage to what was just begun is no news, and the node stays suspect.
    if opened.recovered.damage.is_none() {
        let identity = aside::finish(&*vfs, &identity)?;
        opened.recovered.identity = identity.clone();
        opened.recovered.damage = found;
        opened.identity = IdentityFile::new(vfs.clone(), lock.clone(), identity);
    }
    Ok(opened)
}

/// What the parts of a directory are opened with.
struct Parts<'a> {
    vfs: &'a Arc<dyn Vfs>,
    lock: &'a Arc<DirLock>,
    segment_bytes: u64,
    tree: TreeOptions,
}

impl Parts<'_> {
    fn open(&self, identity: &Identity) -> Result<Opened, OpenError> {
        let (vfs, lock) = (self.vfs.clone(), self.lock.clone());
        let incarnation = identity.incarnation;
        let tree = TreeOptions { owner: incarnation.0, ..self.tree };
        let mutants = tree.mutants;
        let segment_bytes = self.segment_bytes;
        let log_options = LogOptions { incarnation, segment_bytes, accept_damage: true, mutants };
        // The log's opening also syncs the directory, and with it an identity that a process left
        // renamed but unsynced when it died.
        let OpenedLog { mut log, groups, damage } =
            Log::open(vfs.clone(), lock.clone(), log_options)?;
        let damage = damage.map(|damage| writer::damage_of(&damage));
        let engine = match Engine::open(vfs.clone(), tree) {
            Ok(engine) => engine,
            Err(TreeError::Corruption(error)) => Engine::damaged(damage_of(error.into())),
            Err(error) => return Err(OpenError::Tree(error)),
        };
        let recovered = match damage.or_else(|| engine.damage().cloned()) {
            Some(damage) => damaged(identity.clone(), damage),
            None => match recovered::join(groups, &engine.held(), mutants) {
                Ok(recovered::Joined { mut groups, resets }) => {
                    log.release(&resets)?;
                    for (shard, group) in &mut groups {
                        group.configuration = engine.configuration(*shard).cloned();
                        group.transactions = engine.transactions(*shard);
                    }
                    Recovered { identity: identity.clone(), groups, damage: None }
                }
                Err(damage) => damaged(identity.clone(), damage),
            },
        };
        let identity = IdentityFile::new(vfs, lock, identity.clone());
        Ok(Opened { recovered, log, engine, identity })
    }
}

fn damaged(identity: Identity, damage: StorageDamage) -> Recovered {
    Recovered { identity, groups: BTreeMap::new(), damage: Some(damage) }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    let texts = std::iter::once(error.to_string()).chain(sources.map(ToString::to_string));
    texts.collect::<Vec<_>>().join(": ")
}

fn lock(vfs: &dyn Vfs) -> Result<DirLock, OpenError> {
    vfs.lock_dir("").map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => OpenError::InUse(error),
        _ => OpenError::Io(error),
    })
}

fn check(vfs: &dyn Vfs, options: &OpenOptions, identity: Identity) -> Result<Identity, OpenError> {
    if identity.cluster_name != options.cluster_name {
        let (expected, found) = (options.cluster_name.clone(), identity.cluster_name);
        return Err(OpenError::WrongCluster { expected, found });
    }
    if options.node != NodeId::UNKNOWN && identity.node != options.node {
        return Err(OpenError::WrongNode { expected: options.node, found: identity.node });
    }
    // The first opening made a log durable before the node could join a cluster.
    if identity.cluster.is_some() && !aside::is_due(&identity) && !log::exists(vfs)? {
        return Err(OpenError::LogMissing);
    }
    Ok(identity)
}

/// Makes an empty directory the node's.
fn begin(vfs: &dyn Vfs, options: OpenOptions) -> Result<Identity, OpenError> {
    if log::left_anything(vfs)? || vfs.exists(TREE_FOLDER)? {
        return Err(OpenError::IdentityMissing);
    }
    let identity = Identity {
        cluster_name: options.cluster_name,
        node: options.node,
        incarnation: options.fresh_incarnation,
        cluster: None,
        map: None,
        life: 0,
        repair: None,
    };
    identity::write(vfs, &identity).map_err(IdentityError::from)?;
    Ok(identity)
}
