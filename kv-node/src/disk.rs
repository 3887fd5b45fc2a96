//! The node's disk.
//!
//! A thread of its own owns the log. It takes all appends that have piled up while the previous
//! sync ran, writes them as one batch, syncs once and answers them all: *group commit*. The busier
//! the node, the more appends share a sync.
//!
//! Everything else stays on the executor's thread: the applied state is in memory, so applying and
//! reading are answered before the next input, and the identity is written once in a node's life.
//!
//! A write or sync that fails stops the process. What reached the disk is then unknown, and a node
//! that went on could acknowledge what a crash takes back; recovery sorts it out at the next start.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};

use kv_core::id::Incarnation;
use kv_core::storage::{Append, Recovered, StorageReply, StorageRequest, WRITE_BYTES_MAX};
use kv_storage::engine::Engine;
use kv_storage::identity::IdentityFile;
use kv_storage::log::{IDLE_BATCH_AFTER, Log};
use kv_storage::vfs::OsVfs;
use kv_storage::{OpenOptions, Opened};
use tokio::sync::mpsc::UnboundedSender;

use crate::error::{ExitCode, NodeError, chain};
use crate::random;
use crate::settings::Settings;

/// The executor's end of the disk.
#[derive(Debug)]
pub(crate) struct Disk {
    engine: Engine,
    identity: IdentityFile,
    appends: Sender<Append>,
    thread: JoinHandle<()>,
}

/// Opens the data directory and starts the log's thread, whose answers go to `replies`.
///
/// # Errors
/// [`NodeError`] if the directory cannot be used. *No data was changed.*
pub(crate) fn open(
    settings: &Settings,
    replies: UnboundedSender<StorageReply>,
) -> Result<(Recovered, Disk), NodeError> {
    let path = || settings.data_dir.clone();
    let vfs = OsVfs::new(settings.data_dir.clone())
        .map_err(|source| NodeError::DataDir { path: path(), source })?;
    let options = OpenOptions {
        cluster_name: settings.config.cluster_name.clone(),
        node: settings.config.id,
        fresh_incarnation: Incarnation(random::number()?),
    };
    let Opened { recovered, log, engine, identity } = kv_storage::open(Arc::new(vfs), options)
        .map_err(|source| NodeError::Open { path: path(), source })?;
    let (appends, waiting) = mpsc::channel();
    let thread = thread::Builder::new()
        .name(format!("log-{}", settings.config.id))
        .spawn(move || write_log(log, &waiting, &replies))
        .map_err(|source| NodeError::System { what: "start a thread", source })?;
    Ok((recovered, Disk { engine, identity, appends, thread }))
}

impl Disk {
    /// Carries out a request; what touches memory only is answered at once, an append later.
    pub(crate) fn execute(&mut self, request: StorageRequest) -> Option<StorageReply> {
        match request {
            StorageRequest::Append(append) => {
                // The thread ends before this one only by ending the process.
                let _ = self.appends.send(append);
                None
            }
            StorageRequest::Apply { shard, entries } => Some(self.engine.apply(shard, &entries)),
            StorageRequest::Read(read) => Some(self.engine.read(&read)),
            StorageRequest::StoreIdentity(identity) => {
                Some(self.identity.store(&identity).unwrap_or_else(|error| stop(&error)))
            }
        }
    }

    /// Lets the log's thread finish what it was given.
    pub(crate) fn close(self) {
        drop(self.appends);
        // A panic there has ended the process.
        let _ = self.thread.join();
    }
}

/// The log's thread: ends when the executor's end is gone and everything is written.
fn write_log(mut log: Log, waiting: &Receiver<Append>, replies: &UnboundedSender<StorageReply>) {
    loop {
        let next = if log.owes_idle_batch() {
            waiting.recv_timeout(IDLE_BATCH_AFTER)
        } else {
            waiting.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match next {
            Ok(first) => {
                let mut bytes = first.size();
                let mut batch = vec![first];
                while bytes < WRITE_BYTES_MAX
                    && let Ok(append) = waiting.try_recv()
                {
                    bytes += append.size();
                    batch.push(append);
                }
                for reply in log.append(&batch).unwrap_or_else(|error| stop(&error)) {
                    // An executor that has gone needs no answer.
                    let _ = replies.send(reply);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                log.write_idle_batch().unwrap_or_else(|error| stop(&error));
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn stop(error: &dyn std::error::Error) -> ! {
    tracing::error!(
        "cannot write to the disk: {}; the process stops, because what reached the disk is unknown. \
         Mend the disk, then start it again",
        chain(error)
    );
    std::process::exit(ExitCode::Io as i32)
}

/// A directory for the data of several nodes, removed when it is closed.
pub(crate) fn temporary_dir() -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("kv-node-dev-").tempdir()
}
