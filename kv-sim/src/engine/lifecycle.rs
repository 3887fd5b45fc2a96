//! The lives of the servers, as nodes of madsim.
//!
//! Each server is a madsim node. The node's first task boots the machine from what its disk holds,
//! puts it into the server's slot and then waits for ever, with a guard that empties the slot when
//! the task is dropped. Killing the node drops the task, and with it the machine: nothing of it
//! survives but the disk. Restarting the node runs the first task again. The driver, which steps
//! the machines in their slots, waits for a slot to be filled or emptied, never for a number of
//! turns: madsim picks the next task at random.
//!
//! The system itself is lent to the task that boots a machine, and given back with the outcome.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use madsim::runtime::Handle;
use madsim::task::{NodeId, yield_now};

use super::machine::ProcessId;
use super::panic::catch;
use super::system::{Boot, System, Violation};

/// Turns after which a node that neither starts nor dies is taken for a defect of the simulator.
const TURNS_MAX: u32 = 1_000_000;

pub(crate) struct Lifecycle<S: System> {
    shared: Arc<Shared<S>>,
    nodes: Vec<Option<NodeId>>,
}

struct Shared<S: System> {
    slots: Vec<Mutex<Option<S::Server>>>,
    lent: Mutex<Lent<S>>,
}

enum Lent<S> {
    Nothing,
    Before(S, Boot),
    After(S, Result<(), Violation>),
}

/// Empties the slot when its node's task is dropped.
struct Tenancy<S: System> {
    shared: Arc<Shared<S>>,
    index: usize,
}

impl<S: System> Drop for Tenancy<S> {
    fn drop(&mut self) {
        let machine = lock(&self.shared.slots[self.index]).take();
        // A machine that a panic has left in a strange state may panic again when it is dropped.
        let _ = catch(|| drop(machine));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: System> Lifecycle<S> {
    pub(crate) fn new(servers: u16) -> Self {
        let slots = (0..servers).map(|_| Mutex::new(None)).collect();
        let shared = Arc::new(Shared { slots, lent: Mutex::new(Lent::Nothing) });
        Self { shared, nodes: vec![None; usize::from(servers)] }
    }

    /// A server's machine, none while it is down.
    #[inline]
    pub(crate) fn slot(&self, index: u16) -> MutexGuard<'_, Option<S::Server>> {
        lock(&self.shared.slots[usize::from(index)])
    }

    /// Starts a life of a server, and gives the system back.
    pub(crate) async fn start(
        &mut self,
        index: u16,
        system: S,
        boot: Boot,
    ) -> (S, Result<(), Violation>) {
        *lock(&self.shared.lent) = Lent::Before(system, boot);
        let handle = Handle::current();
        match self.nodes[usize::from(index)] {
            Some(node) => handle.restart(node),
            None => self.nodes[usize::from(index)] = Some(self.create_node(&handle, index)),
        }
        for _ in 0..TURNS_MAX {
            if let Some(result) = self.take_back() {
                return result;
            }
            yield_now().await;
        }
        panic!("the node of {} never ran its first task", ProcessId::Server(index));
    }

    fn create_node(&self, handle: &Handle, index: u16) -> NodeId {
        let shared = Arc::clone(&self.shared);
        let node = handle
            .create_node()
            .name(ProcessId::Server(index).to_string())
            .init(move || live(Arc::clone(&shared), usize::from(index)))
            .build();
        node.id()
    }

    fn take_back(&self) -> Option<(S, Result<(), Violation>)> {
        let mut lent = lock(&self.shared.lent);
        match std::mem::replace(&mut *lent, Lent::Nothing) {
            Lent::After(system, result) => Some((system, result)),
            other => {
                *lent = other;
                None
            }
        }
    }

    /// Ends a life of a server.
    pub(crate) async fn kill(&self, index: u16) {
        let Some(node) = self.nodes[usize::from(index)] else { return };
        Handle::current().kill(node);
        for _ in 0..TURNS_MAX {
            if self.slot(index).is_none() {
                return;
            }
            yield_now().await;
        }
        panic!("the task of {} never died", ProcessId::Server(index));
    }

    /// Stops a server's node from running.
    pub(crate) fn pause(&self, index: u16) {
        if let Some(node) = self.nodes[usize::from(index)] {
            Handle::current().pause(node);
        }
    }

    /// Lets a paused server's node go on.
    pub(crate) fn resume(&self, index: u16) {
        if let Some(node) = self.nodes[usize::from(index)] {
            Handle::current().resume(node);
        }
    }
}

/// The first and only task of a server's node.
async fn live<S: System>(shared: Arc<Shared<S>>, index: usize) {
    let _tenancy = Tenancy { shared: Arc::clone(&shared), index };
    boot(&shared, index);
    drop(shared);
    std::future::pending::<()>().await;
}

fn boot<S: System>(shared: &Shared<S>, index: usize) {
    let mut lent = lock(&shared.lent);
    let Lent::Before(mut system, boot) = std::mem::replace(&mut *lent, Lent::Nothing) else {
        panic!("the driver lends the system before it starts a node");
    };
    let result = match catch(|| system.boot(boot)) {
        Ok(Ok(machine)) => {
            *lock(&shared.slots[index]) = Some(machine);
            Ok(())
        }
        Ok(Err(detail)) => Err(Violation {
            check: "recovery",
            detail: format!("{} cannot start: {detail}", boot.process),
        }),
        Err(panic) => {
            Err(Violation { check: "panic", detail: format!("{} at start: {panic}", boot.process) })
        }
    };
    *lent = Lent::After(system, result);
}
