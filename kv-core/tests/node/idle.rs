//! Many groups on a node: those with nothing to do cost nothing, and wake up when they must.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kv_core::client::{Answer, Call};
use kv_core::id::{Epoch, LogId, LogIndex, NodeId, ShardId, Term};
use kv_core::node::{Input, ShardStatus, TimerReason};
use kv_core::op::Value;
use kv_core::raft::Role;
use kv_core::wire::{
    self, AdminReply, AdminRequest, ClientReply, ClientRequest, Frame, PeerFrame, PeerMessage,
    RaftMessage, Refusal, VoteKind,
};

use super::support::{Cluster, SHARD, key_of_shard, put_of_shard, write_of_shard};

/// Longer than any election timeout and any look at the quorum.
const LONG: Duration = Duration::from_secs(5);

fn read_of_shard() -> ClientRequest {
    ClientRequest::Read { shard: SHARD, epoch: Epoch(1), key: key_of_shard() }
}

fn replica(cluster: &Cluster, node: NodeId, shard: ShardId) -> ShardStatus {
    let shards = cluster.node(node).status().shards;
    shards.into_iter().find(|status| status.shard == shard).expect("it has a replica")
}

/// What a node leads, with the terms.
fn led_by(cluster: &Cluster, node: NodeId) -> BTreeMap<ShardId, Term> {
    let shards = cluster.node(node).status().shards.into_iter();
    shards.filter(|it| it.role == Role::Leader).map(|it| (it.shard, it.term)).collect()
}

/// A cluster that was idle for long, its leader of [`SHARD`], and the others.
fn idle() -> (Cluster, NodeId, [NodeId; 2]) {
    let mut cluster = Cluster::formed(3);
    assert!(cluster.call(put_of_shard("1")).is_ok());
    cluster.run(LONG);
    cluster.timers.clear();
    cluster.run(LONG);
    assert_eq!(raft_timers(&cluster), 0, "all shards sleep");
    let leader = cluster.leader(SHARD).expect("somebody leads");
    let others: Vec<_> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
    (cluster, leader, [others[0], others[1]])
}

fn raft_timers(cluster: &Cluster) -> usize {
    let is_of_shard = |(_, reason): &&_| matches!(reason, TimerReason::Raft(_));
    cluster.timers.iter().filter(is_of_shard).count()
}

fn cut(cluster: &mut Cluster, one: NodeId, other: NodeId) {
    cluster.cut.extend([(one, other), (other, one)]);
}

/// Sends `to` a message of the group of [`SHARD`] in the name of `from`.
pub(crate) fn inject(cluster: &mut Cluster, from: NodeId, to: NodeId, message: RaftMessage) {
    let status = cluster.node(from).status();
    let frame = PeerFrame {
        cluster: status.cluster,
        from,
        from_incarnation: status.incarnation,
        to,
        messages: vec![PeerMessage::Raft { shard: SHARD, message }],
    };
    cluster.input(to, Input::Receive(frame));
}

#[test]
fn thousand_idle_shards_have_no_timers_and_say_nearly_nothing() {
    const SECONDS: u64 = 20;
    let mut cluster = Cluster::with_shape(3, 1_024, None);
    cluster.run(LONG * 2);
    cluster.timers.clear();
    cluster.sent.clear();
    cluster.run(Duration::from_secs(SECONDS));
    assert_eq!(raft_timers(&cluster), 0, "who waits for a leader or a quorum lets the link wait");
    let mut bytes: BTreeMap<(NodeId, NodeId), usize> = BTreeMap::new();
    for frame in cluster.sent.drain(..) {
        let pair = (frame.from, frame.to);
        *bytes.entry(pair).or_default() += wire::encode(&Frame::Peer(frame)).len();
    }
    assert_eq!(bytes.len(), 6, "every node leads something");
    let most = bytes.into_values().max().unwrap();
    assert!(most <= 4 * 1_024 * SECONDS as usize, "{} bytes a second", most / SECONDS as usize);
    let led: usize = (1..=3).map(|id| led_by(&cluster, NodeId(id)).len()).sum();
    assert_eq!(led, 1_025, "every shard and the meta group have leaders");
}

#[test]
fn death_of_a_node_wakes_all_that_follow_it() {
    let mut cluster = Cluster::with_shape(3, 64, None);
    cluster.run(LONG * 2);
    let dead = (1..=3).map(NodeId).max_by_key(|id| led_by(&cluster, *id).len()).unwrap();
    let orphans = led_by(&cluster, dead);
    assert!(orphans.len() > 10);
    cluster.stop(dead);
    cluster.run(LONG);
    let alive: Vec<_> = (1..=3).map(NodeId).filter(|id| *id != dead).collect();
    let led: BTreeSet<ShardId> =
        alive.iter().flat_map(|id| led_by(&cluster, *id).into_keys()).collect();
    assert_eq!(led.len(), 65, "every orphan found a leader, and nobody else lost one");
    cluster.run(LONG);
    cluster.timers.clear();
    cluster.run(LONG);
    assert_eq!(raft_timers(&cluster), 0, "two of three are a quorum that links can watch");
}

#[test]
fn idle_shard_wakes_up_for_a_write_and_for_a_read() {
    let (mut cluster, leader, _) = idle();
    let handle = cluster.ask(leader, read_of_shard());
    cluster.run(Duration::from_millis(5));
    assert!(
        matches!(&cluster.replies[&handle], ClientReply::Read(Some(found)) if found.value == Value::string("1"))
    );
    cluster.run(LONG);
    assert!(cluster.call(put_of_shard("2")).is_ok());
    let got = cluster.call(Call::Get { key: key_of_shard() });
    assert!(matches!(got, Ok(Answer::Got(Some(found))) if found.value == Value::string("2")));
}

#[test]
fn idle_shard_wakes_up_when_its_leadership_is_handed_over() {
    let (mut cluster, leader, [to, _]) = idle();
    let reply = cluster
        .request(leader, ClientRequest::Admin(AdminRequest::TransferLeader { shard: SHARD, to }));
    assert_eq!(reply, ClientReply::Admin(AdminReply::Done), "a follower that sleeps is in contact");
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.leader(SHARD), Some(to));
}

#[test]
fn sleeping_follower_refuses_its_vote_while_the_leaders_node_confirms() {
    let (mut cluster, leader, [follower, other]) = idle();
    let before = replica(&cluster, follower, SHARD);
    let last = LogId { term: before.term, index: LogIndex(before.last.index.0 + 9) };
    for kind in [VoteKind::Pre, VoteKind::Election] {
        cluster.sent.clear();
        let vote = RaftMessage::Vote { term: before.term.next(), last, kind };
        inject(&mut cluster, other, follower, vote);
        assert_eq!(replica(&cluster, follower, SHARD).term, before.term, "{kind:?}");
        let granted = |message: &PeerMessage| {
            matches!(
                message,
                PeerMessage::Raft { message: RaftMessage::VoteReply { granted: true, .. }, .. }
            )
        };
        assert!(!cluster.sent.iter().flat_map(|frame| &frame.messages).any(granted), "{kind:?}");
    }
    cluster.run(LONG);
    assert_eq!(cluster.leader(SHARD), Some(leader));
}

#[test]
fn sleeping_leader_hears_of_a_newer_term_at_a_follower() {
    let (mut cluster, leader, [follower, other]) = idle();
    let term = replica(&cluster, leader, SHARD).term;
    let append = RaftMessage::Append {
        term: term.next(),
        prev: LogId::default(),
        commit: LogIndex(0),
        held_by_all: LogIndex(0),
        entries: vec![],
    };
    inject(&mut cluster, other, follower, append);
    cluster.run(Duration::from_millis(300));
    assert_ne!(led_by(&cluster, leader).get(&SHARD), Some(&term), "it was excepted, and told");
    cluster.run(LONG);
    assert!(cluster.call(put_of_shard("2")).is_ok());
}

#[test]
fn rule_b46_sleeping_leader_without_a_quorum_refuses_what_it_is_asked() {
    let (mut cluster, leader, others) = idle();
    others.iter().for_each(|other| cut(&mut cluster, leader, *other));
    let asked = [read_of_shard(), write_of_shard(7)].map(|body| cluster.ask(leader, body));
    cluster.run(Duration::from_millis(2_500));
    for handle in asked {
        let reply = &cluster.replies[&handle];
        assert!(
            matches!(reply, ClientReply::Refused(Refusal::NotLeader { shard: SHARD, .. })),
            "{reply:?}"
        );
    }
    assert_eq!(led_by(&cluster, leader), BTreeMap::new(), "none of its shards has a quorum");
}

/// The nodes that follow `leader` in `shard`.
fn followers(cluster: &Cluster, leader: NodeId, shard: ShardId) -> BTreeSet<NodeId> {
    let configuration = replica(cluster, leader, shard).configuration;
    configuration.all_voters().filter(|node| *node != leader).collect()
}

#[test]
fn rule_b46_quorum_is_checked_for_each_group_and_not_for_the_node() {
    let mut cluster = Cluster::with_shape(5, 64, Some(3));
    cluster.run(LONG * 2);
    let (leader, lost, kept) = (1..=5)
        .map(NodeId)
        .find_map(|leader| {
            let led = led_by(&cluster, leader);
            let pairs = led.keys().flat_map(|one| led.keys().map(move |other| (*one, *other)));
            let of = |shard| followers(&cluster, leader, shard);
            pairs
                .filter(|(one, other)| one != other && *one != ShardId::META)
                .find(|(one, other)| of(*one).is_disjoint(&of(*other)))
                .map(|(one, other)| (leader, one, other))
        })
        .unwrap();
    let term = led_by(&cluster, leader)[&kept];
    for node in followers(&cluster, leader, lost) {
        cut(&mut cluster, leader, node);
    }
    cluster.run(LONG);
    let led = led_by(&cluster, leader);
    assert!(!led.contains_key(&lost), "it reaches nobody of this group");
    assert_eq!(led.get(&kept), Some(&term), "and all of that one");
    assert!(cluster.leader(lost).is_some_and(|now| now != leader));
}
