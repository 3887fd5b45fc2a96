//! How the system's scheduler treats this process.
//!
//! A node's threads wake each other several times for each write. Under the normal policy of Linux
//! a thread that is woken often takes the core from the one that woke it, which has then handed over
//! one piece of work where a moment later it would have been ten. Under `SCHED_BATCH` (sched(7)) it
//! waits for its turn, so under load each step, frame and sync carries more. A core that is idle is
//! taken at once under both, and both have the same share of the processor.

use clap::ValueEnum;
use rustix::process::getpriority_process;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

const BATCH: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);

/// A policy of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scheduling {
    /// Who is woken does not interrupt others: `SCHED_BATCH`.
    Batch,
    /// What the process was started with.
    Normal,
}

/// Chooses the policy of this thread and of those that it will start.
///
/// Without the right to choose, as in some sandboxes, a node is slower and works all the same.
pub(crate) fn choose(scheduling: Scheduling) {
    if scheduling == Scheduling::Normal {
        return;
    }
    if let Err(reason) = choose_batch() {
        tracing::warn!("cannot choose batch scheduling, the node is slower under load: {reason}");
    }
}

fn choose_batch() -> Result<(), String> {
    let niceness = getpriority_process(None).map_err(|error| error.to_string())?;
    // A policy comes with a niceness. It stays what it is.
    let priority = (0..=100_u8)
        .filter_map(|value| ThreadPriorityValue::try_from(value).ok())
        .map(ThreadPriority::Crossplatform)
        .find(|priority| priority.to_posix(BATCH) == Ok(niceness))
        .ok_or_else(|| format!("no priority stands for the niceness {niceness}"))?;
    set_thread_priority_and_policy(thread_native_id(), priority, BATCH)
        .map_err(|error| format!("{error:?}"))
}
