//! Requests that a node sends on to the leader of the meta group.
//!
//! What would go wrong: a client that is cut off from one node cannot open a session; a request goes
//! round in circles while leaders change; a change of members whose answer is lost is told as if
//! nothing had happened; an answer to an earlier process ends another client's wait.

use std::time::Duration;

use kv_core::client::Call;
use kv_core::id::{NodeId, RequestHandle, ShardId};
use kv_core::node::Input;
use kv_core::storage::StorageDamage;
use kv_core::wire::{
    AdminReply, AdminRequest, ClientReply, ClientRequest, ForwardMessage, NodeRequest, PeerFrame,
    PeerMessage, Refusal,
};

use crate::frames::frame;
use crate::support::{Cluster, SHARD, put_of_shard};

const OPEN: ClientRequest = ClientRequest::OpenSession { nonce: 9 };

/// A cluster of three with its meta leader and the two others.
fn formed() -> (Cluster, NodeId, [NodeId; 2]) {
    let cluster = Cluster::formed(3);
    let leader = cluster.leader(ShardId::META).expect("somebody leads");
    let others: Vec<_> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
    (cluster, leader, [others[0], others[1]])
}

fn ask(cluster: &mut Cluster, of: NodeId, body: ClientRequest, wait: Duration) -> RequestHandle {
    let handle = cluster.ask(of, body);
    cluster.run(wait);
    handle
}

/// Lets `to` hear `message` from `from`.
fn tell(cluster: &mut Cluster, from: NodeId, to: NodeId, message: ForwardMessage) {
    let frame = frame(cluster, from, to, PeerMessage::Forward(message));
    cluster.input(to, Input::Receive(frame));
}

/// All that was sent on or passed back since the first `skipped` frames.
fn forwards(cluster: &Cluster, skipped: usize) -> Vec<(NodeId, NodeId, ForwardMessage)> {
    let frames = cluster.sent.iter().skip(skipped);
    let of = |frame: &PeerFrame| {
        let messages = frame.messages.iter().filter_map(|message| {
            let PeerMessage::Forward(message) = message else {
                return None;
            };
            Some(message.clone())
        });
        messages.map(|message| (frame.from, frame.to, message)).collect::<Vec<_>>()
    };
    frames.flat_map(of).collect()
}

#[test]
fn any_node_opens_sessions_and_changes_members() {
    let (mut cluster, _, others) = formed();
    for other in others {
        let opened = ask(&mut cluster, other, OPEN, Duration::from_millis(200));
        let reply = cluster.replies.remove(&opened);
        assert!(matches!(reply, Some(ClientReply::SessionOpened(_))), "{reply:?}");
    }
    let [other, leaves] = others;
    let remove = ClientRequest::Admin(AdminRequest::RemoveNode { id: leaves, force: false });
    let removed = ask(&mut cluster, other, remove.clone(), Duration::from_millis(200));
    assert_eq!(cluster.replies.remove(&removed), Some(ClientReply::Admin(AdminReply::Done)));
    let unknown = AdminRequest::RemoveNode { id: NodeId(9), force: false };
    let refused =
        ask(&mut cluster, other, ClientRequest::Admin(unknown), Duration::from_millis(200));
    let reply = cluster.replies.remove(&refused);
    assert!(matches!(reply, Some(ClientReply::Refused(Refusal::Meta(_)))), "{reply:?}");
}

#[test]
fn client_that_cannot_reach_the_meta_leader_writes_all_the_same() {
    let (mut cluster, leader, [other, _]) = formed();
    if cluster.leader(SHARD) == Some(leader) {
        let request =
            ClientRequest::Admin(AdminRequest::TransferLeader { shard: SHARD, to: other });
        ask(&mut cluster, leader, request, Duration::from_millis(200));
    }
    assert_ne!(cluster.leader(SHARD), Some(leader));
    cluster.hidden.insert(leader);
    let done = cluster.call(put_of_shard("v"));
    assert!(done.is_ok(), "{done:?}");
    let done = cluster.call(Call::Admin(AdminRequest::RemoveNode { id: NodeId(9), force: false }));
    assert!(done.is_err_and(|error| error.to_string() == "n9 is not a member"));
}

#[test]
fn what_was_sent_on_is_not_sent_on_again() {
    let (mut cluster, _, [one, other]) = formed();
    let skipped = cluster.sent.len();
    let request = NodeRequest::OpenSession { nonce: 9 };
    tell(&mut cluster, one, other, ForwardMessage::Request { boot: 5, number: 6, request });
    cluster.run(Duration::from_millis(200));
    let sent = forwards(&cluster, skipped);
    let [(from, to, ForwardMessage::Reply { boot: 5, number: 6, body })] = &sent[..] else {
        panic!("it is answered and nothing else: {sent:?}");
    };
    assert_eq!((*from, *to), (other, one));
    assert!(matches!(body, ClientReply::Refused(Refusal::NotLeader { hint: Some(_), .. })));
}

#[test]
fn lost_request_has_an_unknown_outcome() {
    let (mut cluster, leader, [other, leaves]) = formed();
    cluster.cut.push((leader, other));
    let remove = ClientRequest::Admin(AdminRequest::RemoveNode { id: leaves, force: true });
    let asked = ask(&mut cluster, other, remove, Duration::from_millis(1_900));
    assert_eq!(cluster.replies.get(&asked), None, "there is time left");
    cluster.run(Duration::from_millis(200));
    let unanswered = ClientReply::Refused(Refusal::Unanswered { node: leader });
    assert_eq!(cluster.replies.get(&asked), Some(&unanswered));
    // Only the answer was lost.
    let map = cluster.node(leader).map().expect("it is formed");
    assert!(!map.is_active(leaves));
}

#[test]
fn leader_that_is_silent_is_named_instead_of_asked() {
    let (mut cluster, leader, [other, third]) = formed();
    cluster.cut.extend([(leader, other), (third, other)]);
    // Longer than an election, in which nobody can reach this node.
    cluster.run(Duration::from_secs(5));
    let skipped = cluster.sent.len();
    let asked = ask(&mut cluster, other, OPEN, Duration::from_millis(10));
    let reply = cluster.replies.get(&asked);
    assert!(
        matches!(reply, Some(ClientReply::Refused(Refusal::NotLeader { .. }))),
        "it is answered at once: {reply:?}"
    );
    assert!(forwards(&cluster, skipped).is_empty());
}

#[test]
fn too_many_at_once_are_refused() {
    let (mut cluster, leader, [other, _]) = formed();
    cluster.cut.push((other, leader));
    let asked: Vec<_> = (0..1_025).map(|_| cluster.ask(other, OPEN)).collect();
    let overloaded = ClientReply::Refused(Refusal::Overloaded);
    assert_eq!(cluster.replies.get(&asked[1_024]), Some(&overloaded));
    assert_eq!(cluster.replies.len(), 1);
    cluster.run(Duration::from_millis(2_100));
    assert_eq!(cluster.replies.len(), 1_025, "all of them are answered");
}

#[test]
fn only_the_answer_of_who_was_asked_counts() {
    let (mut cluster, leader, [other, third]) = formed();
    cluster.cut.push((leader, other));
    let skipped = cluster.sent.len();
    let asked = ask(&mut cluster, other, OPEN, Duration::from_millis(10));
    let sent = forwards(&cluster, skipped);
    let Some((_, _, ForwardMessage::Request { boot, number, .. })) = sent.first().cloned() else {
        panic!("it was sent on: {sent:?}");
    };
    let body = || ClientReply::Refused(Refusal::Overloaded);
    let reply = |boot, number| ForwardMessage::Reply { boot, number, body: body() };
    tell(&mut cluster, leader, other, reply(boot + 1, number));
    tell(&mut cluster, leader, other, reply(boot, number + 1));
    tell(&mut cluster, third, other, reply(boot, number));
    assert_eq!(cluster.replies.get(&asked), None, "none of these answers it");
    tell(&mut cluster, leader, other, reply(boot, number));
    assert_eq!(cluster.replies.get(&asked), Some(&body()));
    // A copy of the answer finds nobody who waits.
    tell(&mut cluster, leader, other, reply(boot, number));
    assert_eq!(cluster.replies.len(), 1);
}

#[test]
fn node_with_damaged_data_leaves_nobody_waiting() {
    let (mut cluster, leader, [other, _]) = formed();
    cluster.cut.push((leader, other));
    let asked = ask(&mut cluster, other, OPEN, Duration::from_millis(10));
    let damage = StorageDamage { file: "log/7".into(), offset: 1, what: "a hole".into() };
    cluster.input(other, Input::Stored(kv_core::storage::StorageReply::Damaged(damage)));
    let unanswered = ClientReply::Refused(Refusal::Unanswered { node: leader });
    assert_eq!(cluster.replies.get(&asked), Some(&unanswered));
}
