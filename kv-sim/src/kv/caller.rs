//! Who calls the servers: clients, and an operator where members change.

use kv_core::client::{Answer, CallError, CallId, Router, RouterOutput};
use kv_core::wire::{self, Frame};

use super::client::Client;
use super::operator::Operator;
use super::replica::{Note, server_at};
use super::sessions::SessionClient;
use super::txn::{Planter, TxnClient};
use crate::engine::{Input, Machine, Outbox};

/// Sends what a router wants sent, until one of its calls has ended.
pub(super) fn next_done(
    router: &mut Router,
    out: &mut Outbox<Note>,
) -> Option<(CallId, Result<Answer, CallError>)> {
    loop {
        match router.poll_output()? {
            RouterOutput::Send { to, request } => {
                out.send(server_at(&to), wire::encode(&Frame::Request(request)).into());
            }
            RouterOutput::Done { call, result } => return Some((call, result)),
        }
    }
}

/// A process that is no server.
#[derive(Debug)]
pub enum Caller {
    /// Works off the workload.
    Client(Box<Client>),
    /// Works off a workload of transactions.
    TxnClient(Box<TxnClient>),
    /// Reads at replicas.
    SessionClient(Box<SessionClient>),
    /// Plants deadlocks.
    Planter(Box<Planter>),
    /// Changes the members.
    Operator(Box<Operator>),
}

impl Caller {
    /// Whether the liveness phase has shown what it is to show.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Client(client) => client.is_done(),
            Self::TxnClient(client) => client.is_done(),
            Self::SessionClient(client) => client.is_done(),
            Self::Planter(client) => client.is_done(),
            Self::Operator(operator) => operator.is_done(),
        }
    }

    /// Whether it was told in the liveness phase that it gets nothing.
    pub(super) fn was_refused(&self) -> bool {
        match self {
            Self::Client(client) => client.was_refused(),
            Self::TxnClient(client) => client.was_refused(),
            Self::SessionClient(client) => client.was_refused(),
            Self::Planter(client) => client.was_refused(),
            Self::Operator(_) => false,
        }
    }
}

impl Machine for Caller {
    type Note = Note;

    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Note>) {
        match self {
            Self::Client(client) => client.handle(now, input, out),
            Self::TxnClient(client) => client.handle(now, input, out),
            Self::SessionClient(client) => client.handle(now, input, out),
            Self::Planter(client) => client.handle(now, input, out),
            Self::Operator(operator) => operator.handle(now, input, out),
        }
    }

    fn deadline(&self) -> Option<u64> {
        match self {
            Self::Client(client) => client.deadline(),
            Self::TxnClient(client) => client.deadline(),
            Self::SessionClient(client) => client.deadline(),
            Self::Planter(client) => client.deadline(),
            Self::Operator(operator) => operator.deadline(),
        }
    }
}
