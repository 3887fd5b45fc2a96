//! Frames that a node did not expect: from strangers, from former lives, from deposed leaders.

use std::time::Duration;

use super::support::Cluster;
use bytes::Bytes;
use kv_core::client::{Call, CallId};
use kv_core::cluster::ClusterRecord;
use kv_core::id::{ClusterId, Incarnation, LogId, LogIndex, NodeId, ShardId, Term};
use kv_core::node::{Event, Input, Status};
use kv_core::op::Key;
use kv_core::raft::Contradiction;
use kv_core::wire::{Confirmation, FormationMessage, Lead, PeerFrame, PeerMessage, RaftMessage};

const SHARD: ShardId = ShardId(1);

fn formed() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.run(Duration::from_secs(5));
    cluster
}

/// A frame from `from` to `to` as `from` itself would send it.
fn frame(cluster: &Cluster, from: NodeId, to: NodeId, message: PeerMessage) -> PeerFrame {
    let identity = cluster.node(from).identity();
    PeerFrame {
        cluster: identity.cluster.as_ref().map(|cluster| cluster.id),
        from,
        from_incarnation: identity.incarnation,
        to,
        messages: vec![message],
    }
}

fn vote(term: u64) -> PeerMessage {
    let message = RaftMessage::Vote { term: Term(term), last: LogId::new(term, 99), pre: false };
    PeerMessage::Raft { shard: SHARD, message }
}

fn terms(status: &Status) -> Vec<Term> {
    status.shards.iter().map(|shard| shard.term).collect()
}

#[test]
fn rule_a24_frames_of_strangers_and_former_lives_touch_no_term() {
    let mut cluster = formed();
    let (from, to) = (NodeId(2), NodeId(1));
    let right = frame(&cluster, from, to, vote(99));
    let wrong = [
        ("another cluster", PeerFrame { cluster: Some(ClusterId(1)), ..right.clone() }),
        ("another life", PeerFrame { from_incarnation: Incarnation(1), ..right.clone() }),
        ("an unknown node", PeerFrame { from: NodeId(9), ..right.clone() }),
        ("for another node", PeerFrame { to: NodeId(3), ..right }),
    ];
    // Without a live leader every one of them would be answered with a vote, in term 99.
    for other in [NodeId(2), NodeId(3)] {
        cluster.stop(other);
    }
    cluster.run(Duration::from_secs(10));
    let before = cluster.node(to).status();
    for (at, (case, frame)) in wrong.into_iter().enumerate() {
        cluster.input(to, Input::Receive(frame));
        let status = cluster.node(to).status();
        assert_eq!(terms(&status), terms(&before), "{case}");
        assert_eq!(
            status.ignored_frame_count,
            before.ignored_frame_count + at as u64 + 1,
            "{case}"
        );
    }
}

#[test]
fn rule_a13_leadership_of_an_older_term_is_not_confirmed() {
    let mut cluster = formed();
    let leads = |term| Some(vec![Lead { shard: SHARD, term: Term(term) }]);
    let confirm =
        PeerMessage::Confirm { boot: 1, round: kv_core::id::Round(1), version: 1, leads: leads(0) };
    let asked = frame(&cluster, NodeId(2), NodeId(1), confirm);
    cluster.input(NodeId(1), Input::Receive(asked));
    let answers = cluster.sent.iter().filter(|frame| frame.from == NodeId(1));
    let answers: Vec<_> = answers.flat_map(|frame| &frame.messages).collect();
    let is_answer = |message: &&&PeerMessage| matches!(message, PeerMessage::Confirmed(confirmation) if confirmation.boot == 1);
    let Some(PeerMessage::Confirmed(answer)) = answers.iter().find(is_answer) else {
        panic!("an answer was sent");
    };
    assert_eq!(answer.except, [SHARD]);
}

/// What the leader of [`SHARD`] last asked `to` to confirm.
fn last_asked(cluster: &Cluster, leader: NodeId, to: NodeId) -> Confirmation {
    let frames = cluster.sent.iter().rev().filter(|frame| (frame.from, frame.to) == (leader, to));
    let asked = frames.flat_map(|frame| &frame.messages).find_map(|message| match message {
        PeerMessage::Confirm { boot, round, version, .. } => Some((*boot, *round, *version)),
        _ => None,
    });
    let (boot, round, version) = asked.expect("the leader asked");
    Confirmation { boot, round, version, except: vec![], unheard: vec![] }
}

#[test]
fn rule_a13_read_waits_for_a_confirmation_of_this_process_and_a_later_round() {
    let mut cluster = formed();
    let name = (0..)
        .map(|at| format!("k{at}"))
        .find(|name| kv_core::ring::shard_of(&Key::new(name.clone().into_bytes()), 4) == SHARD);
    let key = Key::new(name.unwrap().into_bytes());
    assert!(cluster.call(Call::Get { key: key.clone() }).is_ok());
    let leader = cluster.leader(SHARD).unwrap();
    let follower = (1..=3).map(NodeId).find(|id| *id != leader).unwrap();
    for other in (1..=3).map(NodeId) {
        cluster.cut.extend([(leader, other), (other, leader)]);
    }
    cluster.run(Duration::from_millis(200));
    let earlier = last_asked(&cluster, leader, follower);
    let deadline = cluster.now + Duration::from_secs(10);
    let call = cluster.router.call(cluster.now, Call::Get { key }, deadline);
    cluster.run(Duration::from_millis(200));
    let later = last_asked(&cluster, leader, follower);
    assert!(later.round > earlier.round, "the read began a round");

    let former = Confirmation { boot: later.boot + 1, ..later.clone() };
    let excepted = Confirmation { except: vec![SHARD], ..later.clone() };
    for (case, answer) in
        [("an earlier round", earlier), ("a former process", former), ("excepted", excepted)]
    {
        assert!(!is_served(&mut cluster, call, leader, follower, answer), "{case}");
    }
    assert!(is_served(&mut cluster, call, leader, follower, later), "confirmed");
}

fn is_served(
    cluster: &mut Cluster,
    call: CallId,
    leader: NodeId,
    follower: NodeId,
    answer: Confirmation,
) -> bool {
    let answer = frame(cluster, follower, leader, PeerMessage::Confirmed(answer));
    cluster.input(leader, Input::Receive(answer));
    cluster.run(Duration::from_millis(1));
    cluster.done.contains_key(&call)
}

#[test]
fn what_contradicts_raft_is_reported_and_changes_nothing() {
    let mut cluster = formed();
    let leader = cluster.leader(SHARD).unwrap();
    let others: Vec<_> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
    let (to, liar) = (others[0], others[1]);
    let shard = |cluster: &Cluster| {
        let shards = cluster.node(to).status().shards;
        shards.into_iter().find(|status| status.shard == SHARD).unwrap()
    };
    let before = shard(&cluster);
    assert!(before.commit_index >= LogIndex(1), "the no-op is committed");
    let append = |term, from| {
        let entries = vec![(term, Bytes::from_static(b"other"))];
        let prev = LogId::new(0, 0);
        let message = RaftMessage::Append { term, prev, commit: LogIndex(0), entries };
        (from, PeerMessage::Raft { shard: SHARD, message })
    };
    let beyond = Term(u64::MAX);
    let leads = Some(vec![Lead { shard: SHARD, term: beyond }]);
    let round = kv_core::id::Round(1);
    let cases = [
        (append(before.term, liar), Contradiction::TwoLeaders),
        (append(Term(before.term.0 + 1), leader), Contradiction::CommittedReplaced),
        (append(beyond, liar), Contradiction::TermOutOfRange),
        ((liar, vote(u64::MAX)), Contradiction::TermOutOfRange),
        (
            (liar, PeerMessage::Confirm { boot: 1, round, version: 1, leads }),
            Contradiction::TermOutOfRange,
        ),
    ];
    for ((from, message), what) in cases {
        let lie = frame(&cluster, from, to, message);
        let told = cluster.events(to).len();
        cluster.input(to, Input::Receive(lie));
        let event = Event::Contradicted { shard: SHARD, from, what };
        assert!(cluster.events(to)[told..].contains(&event), "{event:?}");
    }
    let after = shard(&cluster);
    assert_eq!((after.last, after.commit_index), (before.last, before.commit_index));
}

#[test]
fn cluster_that_cannot_be_is_not_adopted() {
    let formed = formed();
    let record = formed.node(NodeId(1)).identity().cluster.clone().unwrap();
    let invalid = [
        ClusterRecord { shard_count: u32::MAX, ..record.clone() },
        ClusterRecord { shard_count: 0, ..record.clone() },
        ClusterRecord { replica_count: 0, ..record.clone() },
        ClusterRecord { replica_count: 5, ..record.clone() },
        ClusterRecord { members: vec![], ..record },
    ];
    let mut cluster = Cluster::new(3);
    let to = NodeId(3);
    for cluster_record in invalid {
        let message = FormationMessage::Formed { cluster: cluster_record };
        let lie = frame(&cluster, NodeId(2), to, PeerMessage::Formation(message));
        cluster.input(to, Input::Receive(lie));
        assert_eq!(cluster.events(to).last(), Some(&Event::InvalidCluster { from: NodeId(2) }));
    }
    cluster.run(Duration::from_secs(1));
    assert!(cluster.node(to).map().is_some(), "the real cluster is formed all the same");
}
