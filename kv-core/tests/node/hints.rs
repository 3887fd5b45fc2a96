//! What gossip tells a node: newer maps, other addresses, who is silent. And what it costs.

use std::collections::BTreeMap;
use std::time::Duration;

use kv_core::gossip::MemberState;
use kv_core::id::{Address, NodeId, ShardId};
use kv_core::node::{NodeConfig, PeerStatus};
use kv_core::wire::{self, Frame};

use crate::cluster::put;
use crate::membership::join;
use crate::support::Cluster;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn peer(cluster: &Cluster, by: NodeId, of: NodeId) -> PeerStatus {
    let status = cluster.node(by).status();
    status.peers.into_iter().find(|peer| peer.node == of).expect("it is a member")
}

/// The configuration of `id` with another address of its own, and with the peers `known` only.
fn config(cluster: &Cluster, id: NodeId, own: &str, known: &[NodeId]) -> NodeConfig {
    let config = cluster.config(id);
    let mut peers = config.peers.clone();
    peers.retain(|(peer, _)| *peer == id || known.contains(peer));
    for (peer, address) in &mut peers {
        if *peer == id {
            *address = Address(own.into());
        }
    }
    NodeConfig { peers, ..config }
}

/// Members join while the meta leader and one node do not hear each other.
#[test]
fn node_that_the_meta_leader_does_not_reach_learns_the_map_from_others() {
    let mut cluster = Cluster::formed(5);
    let leader = cluster.leader(ShardId::META).unwrap();
    let cut_off = (1..=5).map(NodeId).find(|id| *id != leader).unwrap();
    cluster.cut = vec![(leader, cut_off), (cut_off, leader)];
    join(&mut cluster, 6);
    assert_eq!(cluster.leader(ShardId::META), Some(leader), "it has the other three");
    cluster.run(seconds(10));
    let map = cluster.node(cut_off).map().unwrap();
    assert!(map.member(NodeId(6)).is_some(), "{:?}", map.members);
    assert_eq!(map.version, cluster.node(leader).map().unwrap().version);
}

/// It comes back at another address. Then a second one, which knows only the third, also does.
#[test]
fn members_are_found_at_other_addresses_by_one_seed() {
    let mut cluster = Cluster::formed(3);
    let [one, two, three] = [1, 2, 3].map(NodeId);
    cluster.run(seconds(5));
    for (by, of) in [(one, two), (two, one), (three, one)] {
        assert_eq!(cluster.connect(by, of), None, "nobody has moved");
    }
    cluster.stop(two);
    let moved = config(&cluster, two, "2'", &[one]);
    cluster.start_with(two, moved);
    cluster.run(seconds(5));
    assert_eq!(cluster.connect(one, two), Some(&Address("2'".into())));
    assert_eq!(cluster.connect(three, two), Some(&Address("2'".into())));
    assert_eq!(cluster.connect(two, three), None, "the map knows where it is");
    // Who restarts does not know that the other one has moved, and is not reached by it.
    cluster.stop(one);
    cluster.cut = vec![(two, one)];
    let moved = config(&cluster, one, "1'", &[three]);
    cluster.start_with(one, moved);
    cluster.run(seconds(8));
    assert_eq!(cluster.connect(one, two), Some(&Address("2'".into())), "the third one says so");
    assert_eq!(cluster.connect(two, one), Some(&Address("1'".into())));
    assert_eq!(peer(&cluster, three, one).address, Address("1'".into()));
    // Clients are told as well.
    let map = cluster.map_of(three);
    let addresses: Vec<_> = map.members.iter().map(|member| member.address.0.as_str()).collect();
    assert_eq!(addresses, ["1'", "2'", "n3"]);
}

/// A member that is down is still a member, a voter, and the owner of what it holds.
#[test]
fn rule_c57_a_silent_member_is_told_and_nothing_follows() {
    let mut cluster = Cluster::formed(5);
    let silent = NodeId(5);
    cluster.run(seconds(10));
    let before = peer(&cluster, NodeId(1), silent);
    assert_eq!(before.state, Some(MemberState::Alive));
    assert!(before.phi_hundredths < 800, "{before:?}");
    assert_eq!(before.release.software, env!("CARGO_PKG_VERSION"));
    cluster.stop(silent);
    cluster.run(seconds(5));
    let suspect = peer(&cluster, NodeId(1), silent);
    assert_eq!(suspect.state, Some(MemberState::Suspect));
    assert!(suspect.phi_hundredths >= 800, "{suspect:?}");
    let map = cluster.node(NodeId(1)).map().unwrap().clone();
    cluster.run(seconds(120));
    assert_eq!(peer(&cluster, NodeId(1), silent).state, Some(MemberState::Down));
    assert_eq!(cluster.node(NodeId(1)).map().unwrap(), &map, "the map is what it was");
    for status in cluster.node(NodeId(1)).status().shards {
        assert!(status.configuration.voters.contains(&silent), "{status:?}");
        assert_eq!(status.configuration.voters.len(), 5, "{status:?}");
    }
    cluster.start(silent);
    cluster.run(seconds(5));
    assert_eq!(peer(&cluster, NodeId(1), silent).state, Some(MemberState::Alive));
}

/// Two of four replicas' nodes are down for long. A quorum is still one of all of them.
#[test]
fn rule_c57_a_quorum_counts_who_is_down() {
    let mut cluster = Cluster::formed(5);
    cluster.stop(NodeId(4));
    cluster.stop(NodeId(5));
    cluster.run(seconds(60));
    assert_eq!(peer(&cluster, NodeId(1), NodeId(5)).state, Some(MemberState::Down));
    assert!(cluster.call(put("a", "1")).is_ok(), "three of five are a majority");
    cluster.stop(NodeId(3));
    cluster.run(seconds(60));
    assert_eq!(peer(&cluster, NodeId(1), NodeId(3)).state, Some(MemberState::Down));
    assert!(cluster.call(put("a", "2")).is_err(), "two of five are none, whoever is down");
}

#[test]
fn idle_cluster_of_three_sends_less_than_four_kib_per_second_and_peer() {
    let mut cluster = Cluster::formed(3);
    cluster.run(seconds(10));
    cluster.sent.clear();
    cluster.run(seconds(60));
    let mut bytes = BTreeMap::<_, usize>::new();
    for frame in std::mem::take(&mut cluster.sent) {
        let link = (frame.from, frame.to);
        *bytes.entry(link).or_default() += wire::encode(&Frame::Peer(frame)).len();
    }
    let most = bytes.values().max().unwrap() / 60;
    println!("at most {most} bytes per second from one node to another");
    assert_eq!(bytes.len(), 6, "everybody talks to everybody");
    assert!(most < 4 * 1024, "{bytes:?}");
}
