//! What a node has to say, and what of it must wait for the disk.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::mem;

use super::Output;
use crate::gossip::MESSAGE_BYTES_MAX;
use crate::id::{AppendId, ClusterId, Incarnation, NodeId};
use crate::wire::{MapMessage, PeerFrame, PeerMessage, RaftMessage, SnapshotMessage};

/// Bytes of entries in one frame, unless a single message is larger. Small enough that a heartbeat
/// behind it is not late.
const BULK_FRAME_BYTES_MAX: usize = 256 * 1024;

/// Outputs in order, messages by peer, and messages held back until a write is durable.
///
/// - Appends become durable in the order of their ids, so one number says which are.
/// - No message leaves before the append that it depends on is durable.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    outputs: VecDeque<Output>,
    control: BTreeMap<NodeId, Vec<PeerMessage>>,
    bulk: BTreeMap<NodeId, Vec<PeerMessage>>,
    held: BTreeMap<AppendId, Vec<(NodeId, PeerMessage)>>,
    durable: AppendId,
}

/// Who a frame is from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    pub(super) cluster: Option<ClusterId>,
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
}

impl Outbox {
    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(super) fn send(&mut self, to: NodeId, message: PeerMessage) {
        let is_bulk = matches!(
            &message,
            PeerMessage::Raft { message: RaftMessage::Append { .. }, .. }
                | PeerMessage::Snapshot(SnapshotMessage::Chunk { .. })
        );
        let lane = if is_bulk { &mut self.bulk } else { &mut self.control };
        lane.entry(to).or_default().push(message);
    }

    /// Drops everything that is to be sent, also what waits for the disk or for the driver.
    pub(super) fn drop_messages(&mut self) {
        self.control.clear();
        self.bulk.clear();
        self.held.clear();
        self.outputs.retain(|output| !matches!(output, Output::Send(_)));
    }

    /// Sends once `append` is durable.
    pub(super) fn send_after(&mut self, append: AppendId, to: NodeId, message: PeerMessage) {
        if append <= self.durable {
            self.send(to, message);
        } else {
            self.held.entry(append).or_default().push((to, message));
        }
    }

    /// Whether `append` is durable.
    pub(super) fn is_durable(&self, append: AppendId) -> bool {
        append <= self.durable
    }

    /// Everything up to `append` is durable: lets go what waited for it.
    pub(super) fn on_durable(&mut self, append: AppendId) {
        assert!(append > self.durable, "appends are answered once and in order");
        self.durable = append;
        let still_held = self.held.split_off(&AppendId(append.0 + 1));
        for (to, message) in mem::replace(&mut self.held, still_held).into_values().flatten() {
            self.send(to, message);
        }
    }

    /// Makes frames of all messages: per peer one with control messages and what bulk still fits,
    /// then more bulk.
    pub(super) fn pack(&mut self, sender: Sender) {
        let mut control = mem::take(&mut self.control);
        let mut bulk = mem::take(&mut self.bulk);
        for to in bulk.keys() {
            control.entry(*to).or_default();
        }
        for (to, mut messages) in control {
            let mut bytes = 0;
            for message in bulk.remove(&to).unwrap_or_default() {
                let size = size(&message);
                if bytes > 0 && bytes + size > BULK_FRAME_BYTES_MAX {
                    self.push_frame(sender, to, mem::take(&mut messages));
                    bytes = 0;
                }
                bytes += size;
                messages.push(message);
            }
            self.push_frame(sender, to, messages);
        }
    }

    fn push_frame(&mut self, sender: Sender, to: NodeId, messages: Vec<PeerMessage>) {
        self.outputs.push_back(Output::Send(PeerFrame {
            cluster: sender.cluster,
            from: sender.node,
            from_incarnation: sender.incarnation,
            to,
            messages,
        }));
    }
}

fn size(message: &PeerMessage) -> usize {
    match message {
        PeerMessage::Raft { message: RaftMessage::Append { entries, .. }, .. } => {
            64 + entries.iter().map(|(_, payload)| payload.len() + 16).sum::<usize>()
        }
        PeerMessage::Snapshot(SnapshotMessage::Chunk { chunk, .. }) => 64 + chunk.bytes.len(),
        PeerMessage::Map(MapMessage::Map(map)) => 64 * (2 + map.members.len() + map.shards.len()),
        PeerMessage::Map(_)
        | PeerMessage::Snapshot(_)
        | PeerMessage::Forward(_)
        | PeerMessage::Raft { .. }
        | PeerMessage::Formation(_)
        | PeerMessage::Confirm { .. }
        | PeerMessage::Confirmed(_)
        | PeerMessage::Oracle(_)
        | PeerMessage::Txn(_)
        | PeerMessage::SafeTime(_)
        | PeerMessage::Diverged { .. } => 64,
        PeerMessage::Gossip(_) => MESSAGE_BYTES_MAX,
    }
}
