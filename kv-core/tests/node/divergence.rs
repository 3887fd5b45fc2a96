//! Replicas whose states differ are found by comparison at common indexes, and most decide.

use std::time::Duration;

use kv_core::client::{Call, CallError};
use kv_core::id::{Epoch, LogId, LogIndex, NodeId, Term};
use kv_core::machine::CHECKPOINT_ENTRIES;
use kv_core::node::{Event, Input, TimerReason};
use kv_core::raft::Role;
use kv_core::wire::{ClientReply, ClientRequest, PeerMessage, Refusal};

use super::frames::frame;
use super::support::{
    Cluster, SHARD, check_value, key_of_shard, put_of_shard, write_of_shard, written,
};

/// Writes until the shard has passed `count` more indexes at which replicas are compared, and lets
/// them be.
fn pass(cluster: &mut Cluster, count: u64) {
    let leader = cluster.leader(SHARD).expect("the shard is led");
    let mut next = cluster.applied(leader, SHARD).0;
    let end = (next / CHECKPOINT_ENTRIES + count) * CHECKPOINT_ENTRIES;
    while next < end {
        let batch = (next..end.min(next + 128)).map(write_of_shard).collect();
        cluster.ask_all(leader, batch);
        cluster.run(Duration::from_millis(1));
        next = cluster.applied(leader, SHARD).0.max(next + 1);
    }
    cluster.run(Duration::from_secs(3));
}

/// What `id` said of states that differ, and of which shard.
fn found(cluster: &Cluster, id: NodeId) -> Vec<(LogIndex, bool)> {
    let of = |event: &Event| match event {
        Event::Diverged { shard, index, is_decided } => {
            assert_eq!(*shard, SHARD);
            Some((*index, *is_decided))
        }
        _ => None,
    };
    cluster.events(id).iter().filter_map(of).collect()
}

#[track_caller]
fn check_equal(cluster: &Cluster) {
    let ids = [1, 2, 3].map(NodeId);
    let states = ids.map(|id| (cluster.applied(id, SHARD), cluster.state_hash(id, SHARD)));
    assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
    let shards = ids.map(|id| cluster.node(id).status().shards);
    assert!(shards.iter().flatten().all(|shard| !shard.is_suspect), "all are whole");
}

#[test]
fn follower_with_another_state_is_given_up_and_filled_again() {
    let (mut cluster, leader, [node, other]) = written();
    cluster.lie(node, SHARD, "lie");
    assert!(cluster.call(put_of_shard("2")).is_ok());
    cluster.run(Duration::from_secs(1));
    assert_ne!(cluster.state_hash(node, SHARD), cluster.state_hash(leader, SHARD));
    pass(&mut cluster, 1);
    assert_eq!(found(&cluster, node), [(LogIndex(CHECKPOINT_ENTRIES), true)]);
    check_equal(&cluster);
    assert_eq!(cluster.leader(SHARD), Some(leader), "whose state is right goes on");
    // It counts again, and what is compared next is equal.
    cluster.stop(other);
    assert!(cluster.call(put_of_shard("3")).is_ok());
    cluster.start(other);
    pass(&mut cluster, 2);
    check_equal(&cluster);
    assert_eq!(found(&cluster, node).len(), 1);
    // And the shard is as silent as before when it has nothing to do.
    cluster.run(Duration::from_secs(5));
    cluster.timers.clear();
    cluster.run(Duration::from_secs(5));
    let of_raft = |(_, reason): &&(NodeId, TimerReason)| matches!(reason, TimerReason::Raft(_));
    assert_eq!(cluster.timers.iter().filter(of_raft).count(), 0);
    assert!([leader, other].iter().all(|id| found(&cluster, *id).is_empty()));
}

#[test]
fn leader_with_another_state_than_most_is_given_up_and_no_leader_any_more() {
    let (mut cluster, leader, _) = written();
    cluster.lie(leader, SHARD, "lie");
    assert!(cluster.call(put_of_shard("2")).is_ok());
    pass(&mut cluster, 1);
    assert_eq!(found(&cluster, leader), [(LogIndex(CHECKPOINT_ENTRIES), true)]);
    let ended =
        Event::RoleChanged { shard: SHARD, term: term_of(&cluster, leader), role: Role::Follower };
    assert!(cluster.events(leader).contains(&ended), "it stepped down");
    assert!(cluster.leader(SHARD).is_some_and(|now| now != leader));
    cluster.run(Duration::from_secs(3));
    check_equal(&cluster);
    assert!(cluster.call(put_of_shard("3")).is_ok());
    check_value(&mut cluster, "3");
}

/// The first term in which `id` led the shard.
fn term_of(cluster: &Cluster, id: NodeId) -> Term {
    let led = |event: &Event| match event {
        Event::RoleChanged { shard: SHARD, term, role: Role::Leader } => Some(*term),
        _ => None,
    };
    cluster.events(id).iter().find_map(led).expect("it led")
}

#[test]
fn who_is_given_up_counts_for_nothing_before_it_is_whole() {
    let (mut cluster, leader, [node, other]) = written();
    cluster.lie(node, SHARD, "lie");
    assert!(cluster.call(put_of_shard("2")).is_ok());
    pass_until_found(&mut cluster, node);
    // Without the other one that is right it is filled, and nothing is committed behind that.
    cluster.stop(other);
    cluster.run(Duration::from_millis(300));
    let (_, last) = cluster.stored_log(node, SHARD);
    assert!(last.index > LogIndex(CHECKPOINT_ENTRIES), "it has the log again: {last}");
    cluster.stop(leader);
    cluster.stop(node);
    cluster.start(node);
    assert_eq!(cluster.stored_log(node, SHARD).1, LogId::default(), "it begins once more");
    cluster.start(other);
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(SHARD), None, "its vote would make a majority");
    cluster.start(leader);
    cluster.run(Duration::from_secs(5));
    check_equal(&cluster);
}

/// Writes until `node` has found out that its state is another one.
fn pass_until_found(cluster: &mut Cluster, node: NodeId) {
    let leader = cluster.leader(SHARD).expect("the shard is led");
    for first in (10..2 * CHECKPOINT_ENTRIES).step_by(64) {
        if !found(cluster, node).is_empty() {
            return;
        }
        cluster.ask_all(leader, (first..first + 64).map(write_of_shard).collect());
        cluster.run(Duration::from_millis(20));
    }
    panic!("{node} was not found to differ");
}

#[test]
fn without_a_majority_the_shard_is_refused_whoever_leads_it() {
    let (mut cluster, leader, [node, other]) = written();
    cluster.lie(node, SHARD, "lie");
    cluster.lie(other, SHARD, "another lie");
    assert!(cluster.call(put_of_shard("2")).is_ok());
    pass(&mut cluster, 1);
    let index = LogIndex(CHECKPOINT_ENTRIES);
    for id in [leader, node, other] {
        assert_eq!(found(&cluster, id), [(index, false)]);
    }
    let refused = || Err(CallError::Refused(Refusal::Diverged { shard: SHARD, index }));
    assert_eq!(cluster.call(put_of_shard("3")), refused());
    assert_eq!(cluster.call(Call::Get { key: key_of_shard() }), refused());
    cluster.stop(leader);
    cluster.run(Duration::from_secs(3));
    let next = cluster.leader(SHARD).expect("there is another leader");
    let read = ClientRequest::Read { shard: SHARD, epoch: Epoch(1), key: key_of_shard() };
    let refused = ClientReply::Refused(Refusal::Diverged { shard: SHARD, index });
    assert_eq!(cluster.request(next, read), refused);
    assert_ne!(cluster.state_hash(node, SHARD), cluster.state_hash(other, SHARD), "as they were");
}

#[test]
fn two_of_three_that_differ_decide_nothing_before_the_third_has_told() {
    let (mut cluster, leader, [node, other]) = written();
    cluster.lie(node, SHARD, "lie");
    assert!(cluster.call(put_of_shard("2")).is_ok());
    cluster.run(Duration::from_secs(1));
    cluster.stop(other);
    pass(&mut cluster, 1);
    assert_eq!(found(&cluster, node), []);
    assert!(cluster.call(put_of_shard("3")).is_ok(), "the shard is served");
    cluster.start(other);
    cluster.run(Duration::from_secs(3));
    assert_eq!(found(&cluster, node), [(LogIndex(CHECKPOINT_ENTRIES), true)]);
    assert_eq!(cluster.leader(SHARD), Some(leader));
    check_equal(&cluster);
}

#[test]
fn verdict_about_another_index_or_of_another_node_accuses_nobody() {
    let (mut cluster, leader, [node, other]) = written();
    pass(&mut cluster, 1);
    let term = cluster.node(node).status().shards.iter().find(|it| it.shard == SHARD).unwrap().term;
    let index = LogIndex(CHECKPOINT_ENTRIES);
    let own = cluster.state_hash(node, SHARD);
    let verdict = |cluster: &mut Cluster, from, term, index: LogIndex, hash| {
        let majority = Some(hash);
        let message = PeerMessage::Diverged { shard: SHARD, term, index, majority };
        let frame = frame(cluster, from, node, message);
        cluster.input(node, Input::Receive(frame));
    };
    // Of an index that the replica has not told of, or not in this life of it.
    verdict(&mut cluster, leader, term, LogIndex(512), 7);
    verdict(&mut cluster, leader, term, LogIndex(2 * CHECKPOINT_ENTRIES), 7);
    verdict(&mut cluster, other, term, index, 7);
    verdict(&mut cluster, leader, Term(term.0 - 1), index, 7);
    verdict(&mut cluster, leader, term, index, own);
    assert_eq!(found(&cluster, node), []);
    verdict(&mut cluster, leader, term, index, 7);
    assert_eq!(found(&cluster, node), [(index, true)]);
    // It was given up: what is said of its earlier life concerns it no more.
    cluster.run(Duration::from_secs(3));
    check_equal(&cluster);
    verdict(&mut cluster, leader, term, LogIndex(512), 7);
    assert_eq!(found(&cluster, node).len(), 1);
}

#[test]
fn states_are_told_once_with_confirmations_and_by_nothing_else() {
    let (mut cluster, leader, others) = written();
    pass(&mut cluster, 2);
    let told = |cluster: &Cluster, id: NodeId| {
        let frames = cluster.sent.iter().filter(|frame| (frame.from, frame.to) == (id, leader));
        let states = frames.flat_map(|frame| &frame.messages).filter_map(|message| match message {
            PeerMessage::Confirmed(confirmation) => Some(confirmation.states.clone()),
            _ => None,
        });
        states.flatten().collect::<Vec<_>>()
    };
    for id in others {
        let told = told(&cluster, id);
        let indexes: Vec<_> = told.iter().map(|(shard, state)| (*shard, state.index.0)).collect();
        let of_shard = |count: u64| (SHARD, count * CHECKPOINT_ENTRIES);
        assert_eq!(indexes.last(), Some(&of_shard(2)));
        assert!(indexes == [of_shard(1), of_shard(2)] || indexes == [of_shard(2)], "{indexes:?}");
    }
    let verdicts = cluster.sent.iter().flat_map(|frame| &frame.messages);
    let is_verdict = |message: &&PeerMessage| matches!(message, PeerMessage::Diverged { .. });
    assert_eq!(verdicts.filter(is_verdict).count(), 0);
}
