//! Opening a data directory.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use kv_core::cluster::Identity;
use kv_core::id::{Incarnation, NodeId};
use kv_core::storage::Recovered;

use crate::engine::Engine;
use crate::identity::{self, IdentityError, IdentityFile};
use crate::log::{self, Log, LogOptions, RecoveryError};
use crate::vfs::{DirLock, Vfs};

/// Whose directory the caller expects, and what to make of an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Name of the cluster.
    pub cluster_name: String,
    /// The node.
    pub node: NodeId,
    /// Becomes the incarnation of a directory that is used for the first time. Drawn at random by
    /// the caller, for every call.
    pub fresh_incarnation: Incarnation,
}

/// An open data directory. It stays locked until both [`Log`] and [`IdentityFile`] are dropped.
#[derive(Debug)]
pub struct Opened {
    /// What the node starts from.
    pub recovered: Recovered,
    /// Carries out appends.
    pub log: Log,
    /// Carries out applies and reads. Empty: the node applies what is committed again.
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
    /// There is a log but no identity: somebody removed the file IDENTITY. *Nothing was changed.*
    #[error("the data directory has a log but no file IDENTITY")]
    IdentityMissing,
    /// The directory belongs to a formed cluster but has no log: somebody removed it, and with it
    /// what the node has promised. *Nothing was changed.*
    #[error("the data directory has a file IDENTITY of a formed cluster but no log")]
    LogMissing,
    /// The identity cannot be read or stored. *An empty directory may have been begun.*
    #[error("the identity cannot be opened")]
    Identity(#[from] IdentityError),
    /// The log cannot be opened. *At most a torn tail was cut.*
    #[error("the log cannot be opened")]
    Log(#[from] RecoveryError),
    /// The disk failed. *Nothing was changed.*
    #[error("the data directory cannot be read")]
    Io(#[from] io::Error),
}

/// Locks and opens the root of `vfs` as the data directory of a node. An empty directory becomes
/// one.
///
/// # Errors
/// [`OpenError`]. Whatever is refused is left as it was.
pub fn open(vfs: Arc<dyn Vfs>, options: OpenOptions) -> Result<Opened, OpenError> {
    open_with(vfs, options, LogOptions::new)
}

/// [`open`] with log options of the caller's.
pub(crate) fn open_with(
    vfs: Arc<dyn Vfs>,
    options: OpenOptions,
    log_options: impl FnOnce(Incarnation) -> LogOptions,
) -> Result<Opened, OpenError> {
    let lock = Arc::new(lock(&*vfs)?);
    let identity = match identity::read(&*vfs)? {
        Some(identity) => check(&*vfs, &options, identity)?,
        None => begin(&*vfs, options)?,
    };
    let log_options = log_options(identity.incarnation);
    // The log's opening also syncs the directory, and with it an identity that a process left
    // renamed but unsynced when it died.
    let (log, groups) = Log::open(vfs.clone(), lock.clone(), log_options)?;
    Ok(Opened {
        recovered: Recovered { identity: identity.clone(), groups },
        log,
        engine: Engine::new(),
        identity: IdentityFile::new(vfs, lock, identity),
    })
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
    if identity.node != options.node {
        return Err(OpenError::WrongNode { expected: options.node, found: identity.node });
    }
    // The first opening made a log durable before the node could join a cluster.
    if identity.cluster.is_some() && !log::exists(vfs)? {
        return Err(OpenError::LogMissing);
    }
    Ok(identity)
}

/// Makes an empty directory the node's.
fn begin(vfs: &dyn Vfs, options: OpenOptions) -> Result<Identity, OpenError> {
    if log::exists(vfs)? {
        return Err(OpenError::IdentityMissing);
    }
    let identity = Identity {
        cluster_name: options.cluster_name,
        node: options.node,
        incarnation: options.fresh_incarnation,
        cluster: None,
    };
    identity::write(vfs, &identity).map_err(IdentityError::from)?;
    Ok(identity)
}
