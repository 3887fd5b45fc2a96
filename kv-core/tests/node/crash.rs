//! A crash at a chosen moment: when a message is sent or taken, or a store does something.

use kv_core::id::NodeId;
use kv_core::node::Output;
use kv_core::storage::StorageRequest;
use kv_core::time::Instant;
use kv_core::wire::{ClientReply, ClientRequest, PeerFrame};

/// Who crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The client, which coordinates its transactions. It is never heard of again.
    Coordinator,
    /// A node.
    Node(NodeId),
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment<'a> {
    /// The client asks a node.
    Request(&'a ClientRequest),
    /// A node answers the client.
    Reply(NodeId, &'a ClientReply),
    /// A node's messages for another one: sent, if the sender is to crash, and else taken.
    Frame(&'a PeerFrame),
    /// A node's store is asked for something, which it does at once.
    Store(NodeId, &'a StorageRequest),
}

impl<'a> Moment<'a> {
    /// What a node puts out, if it is something to look at.
    pub(crate) fn of(id: NodeId, output: &'a Output) -> Option<Self> {
        match output {
            Output::Send(frame) => Some(Self::Frame(frame)),
            Output::Reply { body, .. } => Some(Self::Reply(id, body)),
            Output::Store(request) => Some(Self::Store(id, request)),
            Output::Event(_) | Output::Connect { .. } | Output::Reopen(_) => None,
        }
    }
}

/// A crash that is to come.
#[derive(Debug)]
pub(crate) struct Crash {
    /// Who crashes.
    pub(crate) victim: Victim,
    /// Whether it is gone before the moment, so that it neither sends nor takes what is then; else
    /// right after, so that it sees nothing more.
    pub(crate) is_before: bool,
    /// At what.
    pub(crate) is_point: fn(&Moment<'_>) -> bool,
    /// How many such moments are let pass.
    pub(crate) skip: usize,
    /// When it has crashed.
    pub(crate) struck_at: Option<Instant>,
}

impl Crash {
    /// Whether the crash is at this moment.
    pub(crate) fn strikes(&mut self, now: Instant, moment: &Moment<'_>) -> bool {
        if self.struck_at.is_some() || !(self.is_point)(moment) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.struck_at = Some(now);
        true
    }

    /// Whether it is the sender of the frame that is to crash, and not who takes it.
    pub(crate) fn is_of_sender(&self, frame: &PeerFrame) -> bool {
        self.victim == Victim::Node(frame.from)
    }
}

/// What a strike means for the node whose outputs are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// Nothing.
    None,
    /// Somebody else dies once the outputs are carried out; whether without this one.
    Other(Victim, bool),
    /// The node dies, before this output or after it.
    Here(bool),
}

impl Strike {
    /// What the crash, if there is one, does at an output.
    pub(crate) fn at(crash: &mut Option<Crash>, now: Instant, id: NodeId, output: &Output) -> Self {
        let (Some(crash), Some(moment)) = (crash, Moment::of(id, output)) else {
            return Self::None;
        };
        if matches!(moment, Moment::Frame(frame) if !crash.is_of_sender(frame))
            || !crash.strikes(now, &moment)
        {
            return Self::None;
        }
        match crash.victim {
            Victim::Node(node) if node == id => Self::Here(crash.is_before),
            victim => Self::Other(victim, crash.is_before),
        }
    }

    /// Whether an answer to the client is lost, because the client is.
    pub(crate) fn loses_reply(self) -> bool {
        self == Self::Other(Victim::Coordinator, true)
    }
}
