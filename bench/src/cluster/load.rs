//! Closed-loop clients: each asks, waits for the answer, and asks again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::Client;
use crate::stats::mix;

/// How many keys there are.
pub const KEY_COUNT: u64 = 10_000;
/// Bytes of each value.
pub const VALUE_BYTES: usize = 256;
/// Bytes that values are cut from, and which no compression makes smaller.
const POOL_BYTES: u64 = 64 * 1024;
/// How long clients run before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// Pause after a failed call.
const PAUSE: Duration = Duration::from_millis(2);

/// What clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes.
    Put,
    /// Linearizable reads.
    Get,
}

/// What was measured of some seconds of load.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Operations that succeeded, per second.
    pub rate: f64,
    /// Operations that succeeded.
    pub count: u64,
    /// Calls that failed.
    pub failure_count: u64,
    /// Time that half of the operations took at most, in milliseconds.
    pub p50_ms: f64,
    /// Time that 99 of 100 operations took at most, in milliseconds.
    pub p99_ms: f64,
}

/// One operation that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Success {
    /// When it began.
    pub begin: Instant,
    /// When the client knew.
    pub end: Instant,
}

/// Clients that run until this is dropped.
pub struct Load {
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
    successes: Vec<Arc<Mutex<Vec<Success>>>>,
}

#[derive(Default)]
struct Shared {
    is_counting: AtomicBool,
    failures: Mutex<Vec<String>>,
}

/// All keys: 16 bytes each, in no order.
pub fn keys() -> Vec<Bytes> {
    (0..KEY_COUNT).map(|number| Bytes::from(format!("{:016x}", mix(number)))).collect()
}

fn values() -> Bytes {
    (0..POOL_BYTES / 8).flat_map(|at| mix(at).to_le_bytes()).collect::<Vec<_>>().into()
}

impl Load {
    /// Starts clients, each with the keys that it asks for.
    pub fn start(clients: Vec<(Client, Arc<[Bytes]>)>, operation: Operation) -> Self {
        let (mut tasks, shared) = (JoinSet::new(), Arc::new(Shared::default()));
        let (values, mut successes) = (values(), vec![]);
        for (at, (client, keys)) in clients.into_iter().enumerate() {
            let found = Arc::new(Mutex::new(vec![]));
            successes.push(Arc::clone(&found));
            let random = mix(at as u64 + 1);
            let (shared, values) = (Arc::clone(&shared), values.clone());
            tasks.spawn(run(Task { client, keys, values, operation, random, shared, found }));
        }
        Self { tasks, shared, successes }
    }

    /// Begins to note successes and failures.
    pub fn count(&self) {
        self.shared.is_counting.store(true, Ordering::Relaxed);
    }

    /// What succeeded since, for each client.
    pub fn successes(&self) -> Vec<Vec<Success>> {
        let copy = |found: &Arc<Mutex<Vec<Success>>>| lock(found).clone();
        self.successes.iter().map(copy).collect()
    }

    /// What failed since.
    pub fn failures(&self) -> Vec<String> {
        lock(&self.shared.failures).clone()
    }

    /// Ends all clients.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Task {
    client: Client,
    keys: Arc<[Bytes]>,
    values: Bytes,
    operation: Operation,
    random: u64,
    shared: Arc<Shared>,
    found: Arc<Mutex<Vec<Success>>>,
}

async fn run(mut task: Task) {
    loop {
        task.random = mix(task.random);
        let key = &task.keys[(task.random >> 32) as usize % task.keys.len()];
        let from = task.random as usize % (task.values.len() - VALUE_BYTES);
        let begin = Instant::now();
        let done = match task.operation {
            Operation::Put => {
                task.client.put(key, &task.values.slice(from..from + VALUE_BYTES)).await
            }
            Operation::Get => check(task.client.get(key).await),
        };
        if task.shared.is_counting.load(Ordering::Relaxed) {
            match &done {
                Ok(()) => lock(&task.found).push(Success { begin, end: Instant::now() }),
                Err(error) => lock(&task.shared.failures).push(format!("{error:#}")),
            }
        }
        if done.is_err() {
            sleep(PAUSE).await;
        }
    }
}

fn check(found: Result<Option<usize>>) -> Result<()> {
    let size = found?.context("a key is missing")?;
    ensure!(size == VALUE_BYTES, "a value has the wrong size");
    Ok(())
}

/// Writes every key once.
pub async fn fill(clients: &[Client]) -> Result<()> {
    let (keys, value) = (keys(), values().slice(..VALUE_BYTES));
    let mut tasks = JoinSet::new();
    for (at, client) in clients.iter().enumerate() {
        let mine: Vec<_> = keys.iter().skip(at).step_by(clients.len()).cloned().collect();
        let (mut client, value) = (client.clone(), value.clone());
        tasks.spawn(async move {
            for key in mine {
                client.put(&key, &value).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Lets clients ask for any key, and measures for `duration` after they have warmed up. `before` is
/// called when the measurement begins.
pub async fn measure(
    clients: &[Client],
    operation: Operation,
    duration: Duration,
    before: impl FnOnce(),
) -> Measured {
    let keys: Arc<[Bytes]> = keys().into();
    let clients = clients.iter().map(|client| (client.clone(), Arc::clone(&keys)));
    let load = Load::start(clients.collect(), operation);
    sleep(WARM_UP).await;
    before();
    load.count();
    let begin = Instant::now();
    sleep(duration).await;
    let elapsed = begin.elapsed();
    let (successes, failures) = (load.successes().concat(), load.failures());
    load.stop().await;
    if let Some(failure) = failures.first() {
        eprintln!("{} calls failed, the first: {failure}", failures.len());
    }
    let mut took: Vec<_> = successes.iter().map(|success| success.end - success.begin).collect();
    took.sort();
    let at = |share: f64| {
        let found = took.get((took.len() as f64 * share) as usize);
        found.map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
    };
    Measured {
        rate: took.len() as f64 / elapsed.as_secs_f64(),
        count: took.len() as u64,
        failure_count: failures.len() as u64,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    }
}
