//! Frames that a node did not expect: from strangers, from former lives, from deposed leaders.

use std::time::Duration;

use bytes::Bytes;
use kv_core::client::{Answer, Call, CallId};
use kv_core::cluster::ClusterRecord;
use kv_core::id::{
    ClusterId, Epoch, Incarnation, LogId, LogIndex, NodeId, RequestId, SessionId, Term, Timestamp,
};
use kv_core::node::{Event, Input, Status};
use kv_core::op::{Expect, Key, Value, WriteOp};
use kv_core::raft::{Contradiction, Role};
use kv_core::wire::{
    ClientReply, ClientRequest, Confirmation, FormationMessage, Lead, PeerFrame, PeerMessage,
    RaftMessage, Refusal, VoteKind,
};

use super::support::{Cluster, SHARD, key_of_shard};

/// A frame from `from` to `to` as `from` itself would send it.
pub(super) fn frame(
    cluster: &Cluster,
    from: NodeId,
    to: NodeId,
    message: PeerMessage,
) -> PeerFrame {
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
    let message = RaftMessage::Vote {
        term: Term(term),
        last: LogId::new(term, 99),
        kind: VoteKind::Election,
    };
    PeerMessage::Raft { shard: SHARD, message }
}

fn terms(status: &Status) -> Vec<Term> {
    status.shards.iter().map(|shard| shard.term).collect()
}

#[test]
fn rule_a24_frames_of_strangers_and_former_lives_touch_no_term() {
    let mut cluster = Cluster::formed(3);
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
    let mut cluster = Cluster::formed(3);
    let leads = |term| Some(vec![Lead { shard: SHARD, term: Term(term) }]);
    let confirm =
        PeerMessage::Confirm { boot: 1, round: kv_core::id::Round(1), version: 1, leads: leads(0) };
    let asked = frame(&cluster, NodeId(2), NodeId(1), confirm);
    cluster.input(NodeId(1), Input::Receive(asked));
    let answers = cluster.sent.iter().filter(|frame| frame.from == NodeId(1));
    let answers: Vec<_> = answers.flat_map(|frame| &frame.messages).collect();
    let is_answer = |message: &&&PeerMessage| match message {
        PeerMessage::Confirmed(confirmation) => confirmation.boot == 1,
        _ => false,
    };
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
    Confirmation {
        boot,
        round,
        version,
        except: vec![],
        unheard: vec![],
        suspect: vec![],
        states: vec![],
        is_full: false,
        is_unfit: false,
    }
}

#[test]
fn rule_a13_read_waits_for_a_confirmation_of_this_process_and_a_later_round() {
    let mut cluster = Cluster::formed(3);
    let key = key_of_shard();
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
    let mut cluster = Cluster::formed(3);
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
        let (commit, held_by_all) = (LogIndex(0), LogIndex(0));
        let message = RaftMessage::Append { term, prev, commit, held_by_all, entries };
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
    let formed = Cluster::formed(3);
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
    let nonce = nonce_of(&cluster, to);
    for cluster_record in invalid {
        let message = FormationMessage::Status { nonce, cluster: Some(cluster_record) };
        let lie = frame(&cluster, NodeId(2), to, PeerMessage::Formation(message));
        cluster.input(to, Input::Receive(lie));
        assert_eq!(cluster.events(to).last(), Some(&Event::InvalidCluster { from: NodeId(2) }));
    }
    cluster.run(Duration::from_secs(1));
    assert!(cluster.node(to).map().is_some(), "the real cluster is formed all the same");
}

/// The nonce by which `node` last asked whether a cluster can be formed.
fn nonce_of(cluster: &Cluster, node: NodeId) -> u64 {
    let frames = cluster.sent.iter().rev().filter(|frame| frame.from == node);
    let nonce = frames.flat_map(|frame| &frame.messages).find_map(|message| match message {
        PeerMessage::Formation(FormationMessage::Query { nonce }) => Some(*nonce),
        _ => None,
    });
    nonce.expect("the node asked")
}

#[test]
fn rule_c54_answer_to_an_earlier_life_forms_no_second_cluster() {
    let mut cluster = Cluster::new(3);
    let (one, two) = (NodeId(1), NodeId(2));
    cluster.cut.extend([(one, NodeId(3)), (two, NodeId(3))]);
    let nonce = nonce_of(&cluster, one);
    let empty = |cluster: &Cluster, from| {
        let status = FormationMessage::Status { nonce, cluster: None };
        frame(cluster, from, one, PeerMessage::Formation(status))
    };
    let (late, three) = (empty(&cluster, two), empty(&cluster, NodeId(3)));
    cluster.input(one, Input::Receive(three));
    let key = Key::new("a");
    let put = WriteOp::Put { key: key.clone(), value: Value::string("1") };
    assert!(cluster.call(Call::Write(put)).is_ok(), "nodes 1 and 2 formed the cluster");

    cluster.stop(two);
    cluster.stop(one);
    cluster.wipe(one);
    cluster.start(one);
    cluster.cut.clear();
    cluster.input(one, Input::Receive(late));
    cluster.run(Duration::from_secs(5));
    assert!(cluster.node(one).identity().cluster.is_none(), "node 2 has a cluster, and is down");
    cluster.start(two);
    cluster.run(Duration::from_secs(5));
    assert!(cluster.events(one).contains(&Event::WipedNode));
    let found = match cluster.call(Call::Get { key }) {
        Ok(Answer::Got(found)) => found,
        other => panic!("nodes 2 and 3 serve: {other:?}"),
    };
    assert!(found.is_some(), "the acknowledged write is there");
}

#[test]
fn rule_a8_replica_of_a_newer_term_is_heard_by_an_idle_leader() {
    let mut cluster = Cluster::formed(3);
    let leader = cluster.leader(SHARD).unwrap();
    let others: Vec<_> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
    let (x, voter) = (others[0], others[1]);
    let shard = |cluster: &Cluster, id| {
        let shards = cluster.node(id).status().shards;
        shards.into_iter().find(|status| status.shard == SHARD).unwrap()
    };
    cluster.cut.push((leader, x));
    while shard(&cluster, x).role != Role::PreCandidate {
        cluster.run(Duration::from_millis(10));
    }
    let term = Term(shard(&cluster, x).term.0 + 1);
    let message = RaftMessage::VoteReply { term, pre: true, granted: true };
    let granted = frame(&cluster, voter, x, PeerMessage::Raft { shard: SHARD, message });
    cluster.input(x, Input::Receive(granted));
    assert_eq!(shard(&cluster, x).term, term, "x is alone in a newer term");
    cluster.cut.clear();
    cluster.run(Duration::from_secs(10));
    assert!(cluster.leader(SHARD).is_some());
    assert_eq!(shard(&cluster, x).leader, cluster.leader(SHARD));
}

#[test]
fn restarted_follower_learns_the_commit_index_even_if_an_old_append_comes_first() {
    let mut cluster = Cluster::formed(3);
    let leader = cluster.leader(SHARD).unwrap();
    let follower = (1..=3).map(NodeId).find(|id| *id != leader).unwrap();
    let is_early = |frame: &&PeerFrame| {
        let early = |message: &PeerMessage| match message {
            PeerMessage::Raft { shard, message: RaftMessage::Append { entries, .. } } => {
                *shard == SHARD && !entries.is_empty()
            }
            _ => false,
        };
        (frame.from, frame.to) == (leader, follower) && frame.messages.iter().any(early)
    };
    let old = cluster.sent.iter().find(is_early).unwrap().clone();
    let applied = cluster.applied(leader, SHARD);
    cluster.stop(follower);
    cluster.start(follower);
    cluster.input(follower, Input::Receive(old));
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.leader(SHARD), Some(leader), "nothing else has moved the shard");
    assert_eq!(cluster.applied(follower, SHARD), applied);
}

#[test]
fn session_from_the_future_is_refused_before_it_can_push_others_out() {
    let mut cluster = Cluster::formed(3);
    let leader = cluster.leader(SHARD).unwrap();
    let key = key_of_shard();
    let session = SessionId { opened_ts: Timestamp(u64::MAX), nonce: 1 };
    let request = RequestId { session, sequence: 1, acked_below: 1 };
    let op = WriteOp::Put { key, value: Value::string("v") };
    let last = |cluster: &Cluster| {
        let shards = cluster.node(leader).status().shards;
        shards.into_iter().find(|status| status.shard == SHARD).unwrap().last
    };
    let before = last(&cluster);
    let body = ClientRequest::Write { shard: SHARD, epoch: Epoch(1), request, op };
    let replies = cluster.request(leader, body);
    assert_eq!(replies, ClientReply::Refused(Refusal::SessionExpired));
    assert_eq!(last(&cluster), before, "nothing was proposed");
}

#[test]
fn expected_value_is_limited_like_a_written_one() {
    let mut cluster = Cluster::formed(3);
    let leader = cluster.leader(SHARD).unwrap();
    let session = SessionId { opened_ts: Timestamp(1), nonce: 1 };
    let request = RequestId { session, sequence: 1, acked_below: 1 };
    let large = Value::string(vec![0; kv_core::op::VALUE_BYTES_MAX + 1]);
    let expect = Expect::Value(large);
    let op = WriteOp::Cas { key: key_of_shard(), expect, value: Value::string("v") };
    let body = ClientRequest::Write { shard: SHARD, epoch: Epoch(1), request, op };
    let reply = cluster.request(leader, body);
    assert!(matches!(reply, ClientReply::Refused(Refusal::TooLarge { .. })), "{reply:?}");
}
