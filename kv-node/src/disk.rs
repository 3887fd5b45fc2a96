//! The node's disk.
//!
//! Two threads work on it. The *log's* owns the log: it takes all appends that have piled up while
//! the previous sync ran, writes them as one batch, syncs once and answers them all: *group commit*.
//! The busier the node, the more appends share a sync. The *engine's* owns the applied state: it
//! applies, reads, sends and takes snapshots, and between two requests brings what was applied to
//! the disk, in steps, so that neither a slow read nor a compaction ever delays a heartbeat.
//!
//! The identity is written once in a node's life, on the executor's thread.
//!
//! A write or sync that fails stops the process. What reached the disk is then unknown, and a node
//! that went on could acknowledge what a crash takes back; recovery sorts it out at the next start.
//! A full disk is no failure: appends wait for room, and everything goes on when there is some.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kv_core::id::{Incarnation, LogId, ShardId};
use kv_core::storage::{
    Append, Recovered, StorageDamage, StorageReply, StorageRequest, WRITE_BYTES_MAX,
};
use kv_storage::engine::Engine;
use kv_storage::identity::IdentityFile;
use kv_storage::log::IDLE_BATCH_AFTER;
use kv_storage::vfs::{OsVfs, Vfs};
use kv_storage::writer::LogWriter;
use kv_storage::{OpenOptions, Opened};
use tokio::sync::mpsc::UnboundedSender;

use crate::error::{ExitCode, NodeError, chain};
use crate::random;
use crate::settings::Settings;

/// How often a full disk is looked at, and an append that found no room is tried again.
const SPACE_INTERVAL: Duration = Duration::from_millis(200);
/// How long the engine does nothing between two steps when it is asked for nothing.
const STEP_PAUSE: Duration = Duration::from_millis(1);

/// How many reads in a row put off a step.
const READS_PER_STEP: usize = 256;

/// Where the disk's threads answer: what was done in one go comes in one piece.
pub(crate) type Replies = UnboundedSender<Vec<StorageReply>>;

/// The executor's end of the disk.
#[derive(Debug)]
pub(crate) struct Disk {
    identity: IdentityFile,
    log: Sender<LogWork>,
    engine: Sender<Vec<StorageRequest>>,
    /// Requests for the engine that [`Disk::flush`] hands over.
    gathered: Vec<StorageRequest>,
    threads: [JoinHandle<()>; 2],
}

/// What the log's thread is asked for.
#[derive(Debug)]
enum LogWork {
    Append(Append),
    Release(ShardId, LogId),
}

/// Opens the data directory and starts the disk's threads, whose answers go to `replies`. `damage`
/// is what a node that ran on it before has found.
///
/// # Errors
/// [`NodeError`] if the directory cannot be used. *No data was changed.*
pub(crate) fn open(
    settings: &Settings,
    replies: Replies,
    damage: Option<StorageDamage>,
) -> Result<(Recovered, Disk), NodeError> {
    let path = || settings.data_dir.clone();
    let vfs: Arc<dyn Vfs> = Arc::new(
        OsVfs::new(settings.data_dir.clone())
            .map_err(|source| NodeError::DataDir { path: path(), source })?,
    );
    let incarnation = Incarnation(random::number()?);
    let name = settings.cluster_name.clone();
    let options = OpenOptions { damage, ..OpenOptions::new(name, settings.id(), incarnation) };
    let Opened { recovered, log, engine, identity } = kv_storage::open(vfs.clone(), options)
        .map_err(|source| NodeError::Open { path: path(), source })?;
    let (log_sender, log_waiting) = mpsc::channel();
    let (engine_sender, engine_waiting) = mpsc::channel();
    let log = LogWriter::new(log, vfs, settings.disk_reserve_bytes);
    let log_thread = LogThread { log, waiting: log_waiting, replies: replies.clone(), later: None };
    let id = settings.id();
    let threads = [
        spawn(format!("log-{id}"), move || log_thread.run())?,
        spawn(format!("engine-{id}"), move || run_engine(engine, &engine_waiting, &replies))?,
    ];
    Ok((
        recovered,
        Disk { identity, log: log_sender, engine: engine_sender, gathered: Vec::new(), threads },
    ))
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, NodeError> {
    thread::Builder::new()
        .name(name)
        .spawn(run)
        .map_err(|source| NodeError::System { what: "start a thread", source })
}

impl Disk {
    /// Carries out a request, what is the engine's at the next [`Disk::flush`]. Only the identity is
    /// answered at once.
    pub(crate) fn execute(&mut self, request: StorageRequest) -> Option<StorageReply> {
        // The threads end before this one only by ending the process.
        match request {
            StorageRequest::Append(append) => {
                let _ = self.log.send(LogWork::Append(append));
            }
            StorageRequest::Release { shard, floor } => {
                let _ = self.log.send(LogWork::Release(shard, floor));
            }
            StorageRequest::StoreIdentity(identity) => {
                return Some(self.identity.store(&identity).unwrap_or_else(|error| stop(&error)));
            }
            StorageRequest::Apply { .. }
            | StorageRequest::Read(_)
            | StorageRequest::Scan(_)
            | StorageRequest::OpenSnapshot { .. }
            | StorageRequest::ReadSnapshot { .. }
            | StorageRequest::CloseSnapshot { .. }
            | StorageRequest::StageChunk { .. }
            | StorageRequest::InstallSnapshot { .. }
            | StorageRequest::DropStaged { .. }
            | StorageRequest::RemoveShard { .. } => {
                self.gathered.push(request);
            }
        }
        None
    }

    /// Hands over what was gathered for the engine: one wake-up for all.
    pub(crate) fn flush(&mut self) {
        if !self.gathered.is_empty() {
            let _ = self.engine.send(std::mem::take(&mut self.gathered));
        }
    }

    /// Lets the threads finish what they were given.
    pub(crate) fn close(self) {
        drop((self.log, self.engine));
        for thread in self.threads {
            // A panic there has ended the process.
            let _ = thread.join();
        }
    }
}

/// The log's thread.
#[derive(Debug)]
struct LogThread {
    log: LogWriter,
    waiting: Receiver<LogWork>,
    replies: Replies,
    /// What was taken from `waiting` and does not belong to the batch before it.
    later: Option<LogWork>,
}

impl LogThread {
    /// Ends when the executor's end is gone and everything is written.
    fn run(mut self) {
        loop {
            let next = match self.later.take() {
                Some(work) => Ok(work),
                None => self.waiting.recv_timeout(self.patience()),
            };
            match next {
                Ok(LogWork::Append(first)) => self.append(first),
                Ok(LogWork::Release(shard, floor)) => self.release(shard, floor),
                Err(RecvTimeoutError::Timeout) => {
                    self.log.write_idle_batch().unwrap_or_else(|error| stop(&error));
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look_at_space();
        }
    }

    fn patience(&self) -> Duration {
        if self.log.owes_idle_batch() { IDLE_BATCH_AFTER } else { SPACE_INTERVAL }
    }

    fn append(&mut self, first: Append) {
        let mut bytes = first.size();
        let mut batch = vec![first];
        while bytes < WRITE_BYTES_MAX && self.later.is_none() {
            match self.waiting.try_recv() {
                Ok(LogWork::Append(append)) => {
                    bytes += append.size();
                    batch.push(append);
                }
                Ok(work @ LogWork::Release(..)) => self.later = Some(work),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        loop {
            match self.log.append(&batch) {
                Ok(replies) => return self.reply(replies),
                Err(error) if error.is_retryable() => {
                    tracing::warn!("{}; waiting for room", chain(&error));
                    self.look_at_space();
                    thread::sleep(SPACE_INTERVAL);
                }
                Err(error) => stop(&error),
            }
        }
    }

    /// Gives up all entries that are given up in a row.
    fn release(&mut self, shard: ShardId, floor: LogId) {
        let mut floors = BTreeMap::from([(shard, floor)]);
        while self.later.is_none() {
            match self.waiting.try_recv() {
                Ok(LogWork::Release(shard, floor)) => {
                    floors.insert(shard, floor);
                }
                Ok(work @ LogWork::Append(_)) => self.later = Some(work),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        match self.log.release(&floors) {
            Ok(reply) => self.reply(reply.into_iter().collect()),
            Err(error) => stop(&error),
        }
    }

    fn look_at_space(&mut self) {
        match self.log.look_at_space() {
            Ok(reply) => self.reply(reply.into_iter().collect()),
            Err(error) => stop(&error),
        }
    }

    fn reply(&self, replies: Vec<StorageReply>) {
        answer(&self.replies, replies);
    }
}

fn answer(to: &Replies, replies: Vec<StorageReply>) {
    if !replies.is_empty() {
        // An executor that has gone needs no answer.
        let _ = to.send(replies);
    }
}

/// The engine's thread: ends when the executor's end is gone.
fn run_engine(mut engine: Engine, waiting: &Receiver<Vec<StorageRequest>>, replies: &Replies) {
    // Reads since the last step.
    let mut read_count = 0;
    loop {
        let next = if engine.is_full() {
            waiting.recv_timeout(SPACE_INTERVAL)
        } else if engine.is_work_due() {
            waiting.recv_timeout(STEP_PAUSE)
        } else {
            waiting.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let requests = match next {
            Ok(requests) => requests,
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        answer(replies, requests.iter().filter_map(|request| engine.execute(request)).collect());
        read_count += requests.len();
        let is_step_put_off =
            !requests.is_empty() && requests.iter().all(only_reads) && read_count < READS_PER_STEP;
        if !is_step_put_off {
            read_count = 0;
            answer(replies, engine.work().unwrap_or_else(|error| stop(&error)));
        }
    }
}

/// Whether a request adds nothing that must be brought to the disk.
fn only_reads(request: &StorageRequest) -> bool {
    matches!(
        request,
        StorageRequest::Read(_)
            | StorageRequest::Scan(_)
            | StorageRequest::OpenSnapshot { .. }
            | StorageRequest::ReadSnapshot { .. }
            | StorageRequest::CloseSnapshot { .. }
    )
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
