//! Requests that only the leader of the meta group carries out, sent on to it by whoever is asked.
//!
//! Opening a session and changing the members is the meta leader's business. A client that cannot
//! reach that node asks any other one, which sends the request on by one hop and passes the answer
//! back, so a cut link between a client and one node stalls nobody.
//!
//! - A request is sent on at most once: who gets it from a node carries it out, or refuses it and
//!   names the leader that it knows of. So nothing goes round in circles while leaders change.
//! - It is sent on only to a leader that was heard of lately; else the client is told who leads, and
//!   tries it itself.
//! - What is on its way is bounded, and so is the time for it. Messages between nodes get lost, and
//!   then nobody here knows whether the request was carried out: the client is told just that
//!   ([`Refusal::Unanswered`]), never that nothing was changed.
//! - An answer counts only for the process that asked and from the node that was asked.
//!
//! **What this leaves out:** requests on keys, which go to the leader of the key's shard; there a hop
//! would double the traffic of every client that does not know the leader.

use alloc::collections::BTreeMap;
use core::mem;
use core::time::Duration;

use super::Node;
use crate::id::{NodeId, RequestHandle, ShardId};
use crate::machine::{Command, MetaCommand};
use crate::time::Instant;
use crate::wire::{ClientReply, ForwardMessage, NodeRequest, PeerMessage, Refusal};

/// Requests that one node has sent on and not heard of: as many as one client may have unanswered.
const FORWARDS_MAX: usize = 1_024;

/// How long an answer is waited for: twice as long as a client waits for one attempt.
const FORWARD_DEADLINE: Duration = Duration::from_secs(2);

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A client of this node.
    Client(RequestHandle),
    /// A node that has sent on what a client of it asked.
    Node {
        /// The node.
        node: NodeId,
        /// Of its process.
        boot: u64,
        /// Its number of the request.
        number: u64,
    },
}

impl From<RequestHandle> for Asker {
    fn from(handle: RequestHandle) -> Self {
        Self::Client(handle)
    }
}

/// A request that was sent on.
#[derive(Debug)]
struct Forward {
    handle: RequestHandle,
    to: NodeId,
    deadline: Instant,
}

/// All requests that were sent on and not answered.
///
/// - Numbers and deadlines grow together.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    last_number: u64,
    waiting: BTreeMap<u64, Forward>,
}

impl Forwards {
    /// When the oldest one is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().next().map(|forward| forward.deadline)
    }
}

impl Node {
    /// A client asks for something that the meta leader does.
    pub(super) fn on_node_request(&mut self, handle: RequestHandle, request: NodeRequest) {
        let Some(to) = self.meta_leader_to_ask() else {
            return self.carry_out(handle.into(), request);
        };
        if self.forwards.waiting.len() >= FORWARDS_MAX {
            return self.reply(handle, ClientReply::Refused(Refusal::Overloaded));
        }
        self.forwards.last_number += 1;
        let number = self.forwards.last_number;
        let deadline = self.now + FORWARD_DEADLINE;
        self.forwards.waiting.insert(number, Forward { handle, to, deadline });
        let message = ForwardMessage::Request { boot: self.rounds.boot, number, request };
        self.outbox.send(to, PeerMessage::Forward(message));
    }

    /// The meta leader, if it is another node and was heard of lately.
    fn meta_leader_to_ask(&self) -> Option<NodeId> {
        let meta = self.replicas.get(&ShardId::META);
        let leader = meta.and_then(|meta| meta.group.leader()).or(self.meta_leader)?;
        let heard_at = self.links.get(&leader)?.heard_at?;
        (self.now <= heard_at + self.config.timings.election_max).then_some(leader)
    }

    fn carry_out(&mut self, asker: Asker, request: NodeRequest) {
        let answer = match request {
            NodeRequest::OpenSession { nonce } => {
                let command = Command::Meta(MetaCommand::OpenSession { nonce });
                let proposed = self.propose(ShardId::META, asker, &command);
                proposed.err().map(ClientReply::Refused)
            }
            NodeRequest::Admin(request) => self.on_admin(asker, request),
        };
        if let Some(body) = answer {
            self.reply(asker, body);
        }
    }

    /// Another node sends a request on, or passes an answer back.
    pub(super) fn on_forward(&mut self, from: NodeId, message: ForwardMessage) {
        match message {
            ForwardMessage::Request { boot, number, request } => {
                self.carry_out(Asker::Node { node: from, boot, number }, request);
            }
            ForwardMessage::Reply { boot, number, body } => {
                let asked = self.forwards.waiting.get(&number);
                if boot == self.rounds.boot && asked.is_some_and(|forward| forward.to == from) {
                    let forward = self.forwards.waiting.remove(&number);
                    let forward = forward.expect("it was just looked at");
                    self.reply(forward.handle, body);
                }
            }
        }
    }

    /// Gives up what was not answered in time.
    pub(super) fn on_forward_timeout(&mut self) {
        while let Some(entry) = self.forwards.waiting.first_entry()
            && entry.get().deadline <= self.now
        {
            let forward = entry.remove();
            self.give_up_forward(&forward);
        }
    }

    /// Gives up everything that was sent on: no answer will reach this node any more.
    pub(super) fn give_up_forwards(&mut self) {
        for forward in mem::take(&mut self.forwards.waiting).into_values() {
            self.give_up_forward(&forward);
        }
    }

    fn give_up_forward(&mut self, forward: &Forward) {
        let refusal = Refusal::Unanswered { node: forward.to };
        self.reply(forward.handle, ClientReply::Refused(refusal));
    }
}
