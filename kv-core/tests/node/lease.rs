//! Reads by lease.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::time::Duration;

use kv_core::id::{Epoch, LogId, LogIndex, NodeId, RequestHandle, Term};
use kv_core::node::{ConfigError, Input, LeaseConfig, LinkState, NodeConfig, ShardStatus};
use kv_core::wire::{
    ClientReply, ClientRequest, MapMessage, PeerFrame, PeerMessage, RaftMessage, VoteKind,
};

use crate::idle::inject;
use crate::support::{Cluster, SHARD, address, key_of_shard, put_of_shard};

const LEASE: LeaseConfig = LeaseConfig { drift_max_ppm: 1_000 };

/// A cluster of three that has served a write, and who leads the shard.
fn served(lease: Option<LeaseConfig>) -> (Cluster, NodeId) {
    let mut cluster = Cluster::with_lease(3, lease);
    cluster.run(Duration::from_secs(5));
    cluster.call(put_of_shard("1")).unwrap();
    cluster.run(Duration::from_millis(500));
    let leader = cluster.leader(SHARD).unwrap();
    (cluster, leader)
}

/// Cuts a node off from the others.
fn cut(cluster: &mut Cluster, node: NodeId) {
    for other in (1..=3).map(NodeId) {
        cluster.cut.extend([(node, other), (other, node)]);
    }
}

fn read(cluster: &mut Cluster, node: NodeId) -> RequestHandle {
    cluster.ask(node, ClientRequest::Read { shard: SHARD, epoch: Epoch(1), key: key_of_shard() })
}

fn is_read(cluster: &Cluster, handle: RequestHandle) -> bool {
    matches!(cluster.replies.get(&handle), Some(ClientReply::Read(Some(_))))
}

#[test]
fn rule_a15_only_with_leases_a_leader_reads_without_asking() {
    for (lease, is_served) in [(None, false), (Some(LEASE), true)] {
        let (mut cluster, leader) = served(lease);
        cut(&mut cluster, leader);
        let handle = read(&mut cluster, leader);
        assert_eq!(is_read(&cluster, handle), is_served, "{lease:?}");
    }
}

fn status(cluster: &Cluster, node: NodeId) -> ShardStatus {
    let shards = cluster.node(node).status().shards;
    shards.into_iter().find(|status| status.shard == SHARD).unwrap()
}

/// The others.
fn followers(leader: NodeId) -> [NodeId; 2] {
    let others: Vec<_> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
    [others[0], others[1]]
}

#[test]
fn rule_a16_lease_counts_from_when_the_voters_were_asked() {
    let (mut cluster, leader) = served(Some(LEASE));
    let [one, other] = followers(leader);
    cluster.cut.extend([(one, leader), (other, leader)]);
    cluster.sent.clear();
    cluster.run(Duration::from_millis(900));
    let is_answer = |frame: &&PeerFrame| {
        let mut messages = frame.messages.iter();
        (frame.from, frame.to) == (one, leader)
            && messages.any(|message| matches!(message, PeerMessage::Confirmed(_)))
    };
    let answer = cluster.sent.iter().find(is_answer).unwrap().clone();
    cut(&mut cluster, leader);
    cluster.input(leader, Input::Receive(answer));
    let early = read(&mut cluster, leader);
    assert!(is_read(&cluster, early), "asked at most 900 ms ago");
    cluster.run(Duration::from_millis(200));
    let late = read(&mut cluster, leader);
    assert!(!is_read(&cluster, late), "asked at least a second ago, and answered 200 ms ago");
}

#[test]
fn rule_a17_only_with_leases_followers_wait_although_the_connection_broke_off() {
    for (lease, is_waiting) in [(None, false), (Some(LEASE), true)] {
        let (mut cluster, leader) = served(lease);
        let term = status(&cluster, leader).term;
        cut(&mut cluster, leader);
        for follower in followers(leader) {
            cluster.input(follower, Input::Link { peer: leader, state: LinkState::Down });
        }
        cluster.run(Duration::from_millis(890));
        let highest = followers(leader).map(|id| status(&cluster, id).term);
        assert_eq!(highest == [term; 2], is_waiting, "{lease:?}");
        cluster.run(Duration::from_millis(3_000));
        assert_ne!(cluster.leader(SHARD), Some(leader), "{lease:?}");
    }
}

/// A follower that heard of its leader only by its node for long learns of a newer term, and is
/// then asked for its vote in it. Whether it gives it.
fn votes_in_a_newer_term(cluster: &mut Cluster, leader: NodeId) -> bool {
    let [voter, candidate] = followers(leader);
    let ShardStatus { term, last, .. } = status(cluster, voter);
    let term = Term(term.0 + 1);
    let (prev, hint) = (LogIndex(0), LogId::default());
    inject(cluster, candidate, voter, RaftMessage::AppendRejected { term, prev, hint });
    cluster.sent.clear();
    let kind = VoteKind::Election;
    inject(cluster, candidate, voter, RaftMessage::Vote { term, last, kind });
    let replies = cluster.sent.iter().flat_map(|frame| &frame.messages);
    let granted = replies.filter_map(|message| match message {
        PeerMessage::Raft { shard: SHARD, message: RaftMessage::VoteReply { granted, .. } } => {
            Some(*granted)
        }
        _ => None,
    });
    granted.last().unwrap()
}

#[test]
fn rule_a17_voter_owes_what_it_confirmed_for_all_shards_of_a_node_at_once() {
    for (lease, votes) in [(None, true), (Some(LEASE), false)] {
        let (mut cluster, leader) = served(lease);
        cluster.run(Duration::from_secs(10));
        assert_eq!(votes_in_a_newer_term(&mut cluster, leader), votes, "{lease:?}");
    }
}

#[test]
fn rule_a17_voter_owes_what_it_confirmed_to_who_is_no_member_any_more() {
    let (mut cluster, leader) = served(Some(LEASE));
    cluster.run(Duration::from_secs(10));
    let [voter, other] = followers(leader);
    let mut map = cluster.map_of(voter);
    map.version = LogIndex(map.version.0 + 1_000);
    map.members.retain(|member| member.id != leader);
    let status = cluster.node(other).status();
    let frame = PeerFrame {
        cluster: status.cluster,
        from: other,
        from_incarnation: status.incarnation,
        to: voter,
        messages: vec![PeerMessage::Map(MapMessage::Map(map))],
    };
    cluster.input(voter, Input::Receive(frame));
    assert!(!votes_in_a_newer_term(&mut cluster, leader));
}

#[test]
fn rule_a17_lease_is_over_before_anybody_else_can_lead() {
    let (mut cluster, leader) = served(Some(LEASE));
    cut(&mut cluster, leader);
    let begin = cluster.now;
    cluster.run(Duration::from_millis(850));
    let handle = read(&mut cluster, leader);
    assert!(is_read(&cluster, handle), "a heartbeat is not older than 100 ms");
    cluster.run(Duration::from_millis(140));
    let late = read(&mut cluster, leader);
    assert!(!is_read(&cluster, late), "the voters were asked before they were cut off");
    let length = LEASE.length(Duration::from_secs(1));
    assert!(cluster.now >= begin + length);
}

#[test]
fn rule_a17_length_allows_for_the_worst_of_both_clocks() {
    for (ppm, millis) in [(0, 990), (1_000, 988), (200_000, 656), (500_000, 323)] {
        let length = LeaseConfig { drift_max_ppm: ppm }.length(Duration::from_secs(1));
        assert_eq!(length.as_millis(), millis, "{ppm} ppm");
        // By the leader's clock at its slowest, and by a voter's at its fastest.
        let share = f64::from(ppm) / 1e6;
        assert!(length.as_secs_f64() / (1.0 - share) < 1.0 / (1.0 + share));
    }
}

#[test]
fn rule_a20_lease_that_ends_while_the_store_reads_lets_nothing_out() {
    let (mut cluster, leader) = served(Some(LEASE));
    cluster.stalled.insert(leader);
    let handle = read(&mut cluster, leader);
    cut(&mut cluster, leader);
    cluster.run(Duration::from_millis(1_000));
    cluster.resume(leader);
    assert!(!cluster.replies.contains_key(&handle), "somebody else may lead by now");
    cluster.cut.clear();
    cluster.run(Duration::from_millis(5));
    assert!(is_read(&cluster, handle), "the leader asked, and still leads");
}

#[test]
fn clocks_without_any_use_are_refused() {
    let peers = vec![(NodeId(1), address(NodeId(1)))];
    let lease = Some(LeaseConfig { drift_max_ppm: LeaseConfig::DRIFT_MAX_PPM + 1 });
    let errors = NodeConfig { lease, ..NodeConfig::new(NodeId(1), "x", peers) }.validate();
    assert_eq!(errors.unwrap_err().0, [ConfigError::Lease { drift_max_ppm: 500_001 }]);
}
