//! The client's router alone, against hand-made replies.

use std::time::Duration;

use kv_core::client::{
    Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput, RouterOutput,
};
use kv_core::cluster::{ClusterMap, ClusterRecord, Member, MemberState};
use kv_core::id::{
    Address, ClusterId, Incarnation, NodeId, RequestId, SessionId, ShardId, Timestamp,
};
use kv_core::machine::plan::Change;
use kv_core::op::{Key, Value, WriteOp, WriteResult};
use kv_core::ring;
use kv_core::storage::StorageDamage;
use kv_core::time::Instant;
use kv_core::wire::{
    AdminReply, AdminRequest, ClientReply, ClientRequest, MapView, Refusal, ReplyFrame,
};

const DEADLINE: Duration = Duration::from_secs(5);

struct Harness {
    router: Router,
    now: Instant,
}

/// A request that the router sent.
#[derive(Debug)]
struct Sent {
    to: Address,
    correlation: u64,
    body: ClientRequest,
}

fn map() -> ClusterMap {
    let member = |id: u64| Member {
        id: NodeId(id),
        incarnation: Incarnation(id),
        address: Address(format!("n{id}")),
        state: MemberState::Active,
    };
    let members = (1..=3).map(member).collect();
    ring::initial_map(&ClusterRecord {
        id: ClusterId(1),
        members,
        shard_count: 1,
        replica_count: 3,
    })
}

fn put() -> Call {
    Call::Write(WriteOp::Put { key: Key::new("k"), value: Value::string("v") })
}

fn not_leader(hint: Option<u64>) -> ClientReply {
    ClientReply::Refused(Refusal::NotLeader { shard: ShardId(1), hint: hint.map(NodeId) })
}

fn written() -> ClientReply {
    ClientReply::Written(WriteResult::Put { version: Timestamp(9) })
}

impl Harness {
    /// A router that has its map, knows that n1 leads everything, and has a session.
    fn ready() -> Self {
        let config = RouterConfig::new(vec![Address("n1".into())]);
        let mut harness = Self { router: Router::new(config, 1), now: Instant::ZERO };
        harness.call(put());
        let ask = harness.sent();
        assert_eq!(ask.body, ClientRequest::Map);
        let leaders = vec![(ShardId(0), NodeId(1)), (ShardId(1), NodeId(1))];
        harness.reply(&ask, ClientReply::Map(MapView { map: map(), leaders }));
        let ask = harness.sent();
        assert!(matches!(ask.body, ClientRequest::OpenSession { .. }), "{ask:?}");
        harness.reply(&ask, ClientReply::SessionOpened(session(1)));
        let ask = harness.sent();
        harness.reply(&ask, written());
        assert!(matches!(harness.done(), Ok(Answer::Written(_))));
        harness
    }

    fn call(&mut self, call: Call) -> CallId {
        self.router.call(self.now, call, self.now + DEADLINE)
    }

    fn sent(&mut self) -> Sent {
        match self.router.poll_output() {
            Some(RouterOutput::Send { to, request }) => {
                Sent { to, correlation: request.correlation, body: request.body }
            }
            other => panic!("expected a request, got {other:?}"),
        }
    }

    fn done(&mut self) -> Result<Answer, CallError> {
        match self.router.poll_output() {
            Some(RouterOutput::Done { result, .. }) => result,
            other => panic!("expected an end, got {other:?}"),
        }
    }

    fn is_quiet(&mut self) -> bool {
        self.router.poll_output().is_none()
    }

    fn reply(&mut self, to: &Sent, body: ClientReply) {
        let reply = ReplyFrame { correlation: to.correlation, body };
        self.router.handle(self.now, RouterInput::Receive { from: to.to.clone(), reply });
    }

    /// Lets the next timer come.
    fn wait(&mut self) {
        self.now = self.router.poll_timeout().expect("the router waits for something");
        self.router.handle(self.now, RouterInput::Timeout);
    }
}

fn session(opened: u64) -> SessionId {
    SessionId { opened_ts: Timestamp(opened), nonce: opened }
}

fn request_of(sent: &Sent) -> RequestId {
    match &sent.body {
        ClientRequest::Write { request, .. } => *request,
        other => panic!("{other:?} is not a write"),
    }
}

#[test]
fn rule_d94_every_retry_carries_the_same_request_id() {
    let mut harness = Harness::ready();
    harness.call(put());
    let first = harness.sent();
    harness.reply(&first, not_leader(Some(2)));
    let second = harness.sent();
    assert_eq!(second.to, Address("n2".into()), "the hint is followed at once");
    harness.wait(); // No answer.
    harness.wait(); // The pause.
    let third = harness.sent();
    assert_eq!(request_of(&first), request_of(&second));
    assert_eq!(request_of(&first), request_of(&third));
    harness.reply(&third, written());
    assert!(harness.done().is_ok());
}

#[test]
fn rule_d93_sent_write_without_an_answer_has_an_unknown_outcome() {
    let mut harness = Harness::ready();
    harness.call(put());
    let request = request_of(&harness.sent());
    let result = loop {
        harness.wait();
        match harness.router.poll_output() {
            Some(RouterOutput::Done { result, .. }) => break result,
            Some(RouterOutput::Send { .. }) | None => {}
        }
    };
    assert_eq!(result, Err(CallError::UnknownOutcome { request, id: None }));
    assert_eq!(harness.now, Instant::ZERO + DEADLINE);
}

#[test]
fn read_without_an_answer_changed_nothing() {
    let mut harness = Harness::ready();
    harness.call(Call::Get { key: Key::new("k") });
    let result = loop {
        match harness.router.poll_output() {
            Some(RouterOutput::Done { result, .. }) => break result,
            Some(RouterOutput::Send { .. }) => {}
            None => harness.wait(),
        }
    };
    assert!(matches!(result, Err(CallError::Unavailable { .. })), "{result:?}");
}

#[test]
fn late_and_foreign_replies_are_ignored() {
    let mut harness = Harness::ready();
    harness.call(put());
    let first = harness.sent();
    let foreign = Sent { to: Address("n3".into()), ..first };
    harness.reply(&foreign, written());
    assert!(harness.is_quiet(), "an answer from a node that was not asked");
    let first = Sent { to: Address("n1".into()), ..foreign };
    harness.wait();
    harness.reply(&first, written());
    assert!(harness.is_quiet(), "an answer to an attempt that was given up");
}

#[test]
fn sequence_is_acknowledged_only_when_all_before_it_have_ended() {
    let mut harness = Harness::ready();
    harness.call(put());
    let first = harness.sent();
    harness.call(put());
    let second = harness.sent();
    assert_eq!(request_of(&second).acked_below, request_of(&first).sequence);
    harness.reply(&first, written());
    assert!(harness.done().is_ok());
    harness.call(put());
    let third = harness.sent();
    assert_eq!(request_of(&third).acked_below, request_of(&second).sequence);
}

#[test]
fn rule_d92_expired_session_is_replaced_only_if_the_write_cannot_have_run() {
    let mut harness = Harness::ready();
    harness.call(put());
    let sent = harness.sent();
    harness.reply(&sent, ClientReply::Refused(Refusal::SessionExpired));
    harness.wait();
    let open = harness.sent();
    assert!(matches!(open.body, ClientRequest::OpenSession { .. }));
    harness.reply(&open, ClientReply::SessionOpened(session(2)));
    let again = harness.sent();
    assert_eq!(request_of(&again).session, session(2));

    harness.reply(&again, not_leader(Some(2)));
    harness.wait();
    let retry = harness.sent();
    harness.reply(&retry, ClientReply::Refused(Refusal::SessionExpired));
    let result = harness.done();
    assert!(matches!(result, Err(CallError::UnknownOutcome { .. })), "{result:?}");
}

#[test]
fn lost_connection_is_retried_elsewhere_after_a_pause() {
    let mut harness = Harness::ready();
    harness.call(put());
    let sent = harness.sent();
    harness.router.handle(harness.now, RouterInput::Unreachable { to: sent.to.clone() });
    assert!(harness.is_quiet());
    harness.wait();
    assert_eq!(request_of(&harness.sent()), request_of(&sent));
    assert!(harness.now < Instant::ZERO + Duration::from_secs(1));
}

/// All members have moved, and one that still answers at the endpoint knows where to.
#[test]
fn member_that_has_moved_is_found_by_a_newer_map() {
    let mut harness = Harness::ready();
    harness.call(put());
    let mut moved = map();
    for member in &mut moved.members {
        member.address = Address(format!("{}'", member.id));
    }
    let ask = loop {
        match harness.router.poll_output() {
            Some(RouterOutput::Send { to, request }) if request.body == ClientRequest::Map => {
                break Sent { to, correlation: request.correlation, body: request.body };
            }
            Some(RouterOutput::Send { to, .. }) => {
                harness.router.handle(harness.now, RouterInput::Unreachable { to });
            }
            Some(other) => panic!("too early: {other:?}"),
            None => harness.wait(),
        }
    };
    let view = MapView { map: moved, leaders: vec![] };
    harness.reply(&ask, ClientReply::Map(view));
    harness.wait();
    assert!(harness.sent().to.0.ends_with('\''), "the old addresses are given up");
}

/// The member that led was removed, its disk was emptied, and the node that begins there wants to
/// join: it knows nothing until somebody else lets it.
#[test]
fn node_that_is_not_ready_is_not_taken_for_the_leader_any_more() {
    let mut harness = Harness::ready();
    harness.call(put());
    let mut asked = Vec::new();
    for _ in 0..8 {
        let sent = harness.sent();
        if sent.to != Address("n1".into()) {
            return;
        }
        asked.push(sent.body.clone());
        harness.reply(&sent, ClientReply::Refused(Refusal::NotReady));
        harness.wait();
    }
    panic!("only n1 was asked: {asked:?}");
}

#[test]
fn call_that_waits_for_a_session_says_what_the_session_waits_for() {
    let config = RouterConfig::new(vec![Address("n1".into())]);
    let mut harness = Harness { router: Router::new(config, 1), now: Instant::ZERO };
    harness.call(put());
    let result = loop {
        match harness.router.poll_output() {
            Some(RouterOutput::Done { result, .. }) => break result,
            Some(RouterOutput::Send { to, request }) => {
                let sent = Sent { to, correlation: request.correlation, body: request.body };
                harness.reply(&sent, ClientReply::Refused(Refusal::NotReady));
            }
            None => harness.wait(),
        }
    };
    assert_eq!(result, Err(CallError::Unavailable { last: Some(Refusal::NotReady) }));
}

fn no_space() -> Refusal {
    Refusal::NoSpace { node: NodeId(1) }
}

#[test]
fn full_disk_is_told_at_once_if_nothing_was_sent_before() {
    let mut harness = Harness::ready();
    harness.call(put());
    let sent = harness.sent();
    harness.reply(&sent, ClientReply::Refused(no_space()));
    assert_eq!(harness.done(), Err(CallError::Refused(no_space())));
    assert_eq!(harness.now, Instant::ZERO);
}

#[test]
fn full_disk_after_an_attempt_that_may_have_run_is_retried_until_the_deadline() {
    let mut harness = Harness::ready();
    harness.call(put());
    let request = request_of(&harness.sent());
    harness.wait(); // No answer.
    let result = loop {
        match harness.router.poll_output() {
            Some(RouterOutput::Done { result, .. }) => break result,
            Some(RouterOutput::Send { to, request }) => {
                let sent = Sent { to, correlation: request.correlation, body: request.body };
                harness.reply(&sent, ClientReply::Refused(no_space()));
            }
            None => harness.wait(),
        }
    };
    assert_eq!(result, Err(CallError::UnknownOutcome { request, id: None }));
    assert_eq!(harness.now, Instant::ZERO + DEADLINE);
}

#[test]
fn full_disk_after_an_attempt_that_ran_ends_with_its_result() {
    let mut harness = Harness::ready();
    harness.call(put());
    harness.sent();
    harness.wait(); // No answer.
    harness.wait(); // The pause.
    let second = harness.sent();
    harness.reply(&second, ClientReply::Refused(no_space()));
    harness.wait();
    let third = harness.sent();
    harness.reply(&third, written());
    assert!(harness.done().is_ok());
}

#[test]
fn damaged_node_is_not_asked_again_while_there_are_others() {
    let mut harness = Harness::ready();
    harness.call(put());
    let mut sent = harness.sent();
    assert_eq!(sent.to, Address("n1".into()), "the leader, as far as is known");
    let request = request_of(&sent);
    for _ in 0..10 {
        let damage = StorageDamage { file: "log/1".into(), offset: 1, what: "a checksum".into() };
        let node = NodeId(sent.to.0[1..].parse().unwrap());
        harness.reply(&sent, ClientReply::Refused(Refusal::Damaged { node, damage }));
        assert!(harness.is_quiet(), "a pause comes first");
        harness.wait();
        let next = harness.sent();
        assert_ne!(next.to, sent.to);
        assert_eq!(request_of(&next), request);
        sent = next;
    }
    harness.reply(&sent, written());
    assert!(harness.done().is_ok());
}

#[test]
fn change_whose_answer_was_lost_between_nodes_is_asked_for_again_and_else_unknown() {
    let mut harness = Harness::ready();
    let remove = || AdminRequest::RemoveNode { id: NodeId(2), force: false };
    let unanswered = || ClientReply::Refused(Refusal::Unanswered { node: NodeId(1) });
    harness.call(Call::Admin(remove()));
    let first = harness.sent();
    harness.reply(&first, unanswered());
    harness.wait();
    let second = harness.sent();
    assert_eq!(second.body, ClientRequest::Admin(remove()));
    harness.reply(&second, ClientReply::Admin(AdminReply::Done));
    assert_eq!(harness.done(), Ok(Answer::Admin(AdminReply::Done)));

    harness.call(Call::Admin(remove()));
    harness.sent();
    harness.now = harness.now + DEADLINE;
    harness.router.handle(harness.now, RouterInput::Timeout);
    assert_eq!(harness.done(), Err(CallError::AdminUnknown));
}

#[test]
fn plan_that_nobody_answers_changed_nothing() {
    let mut harness = Harness::ready();
    harness.call(Call::Admin(AdminRequest::Plan { change: Change::Add }));
    harness.sent();
    harness.now = harness.now + DEADLINE;
    harness.router.handle(harness.now, RouterInput::Timeout);
    assert_eq!(harness.done(), Err(CallError::Unavailable { last: None }));
}

#[test]
fn node_that_is_to_join_is_asked_itself() {
    let mut harness = Harness::ready();
    let (address, seeds) = (Address("n7".into()), vec![Address("n1".into())]);
    harness.call(Call::Join { address: address.clone(), seeds: seeds.clone() });
    let sent = harness.sent();
    assert_eq!(sent.to, address);
    assert_eq!(sent.body, ClientRequest::Admin(AdminRequest::Join { seeds }));
    let refusal = Refusal::Member { node: NodeId(7), cluster: ClusterId(2) };
    harness.reply(&sent, ClientReply::Refused(refusal.clone()));
    assert_eq!(harness.done(), Err(CallError::Refused(refusal)));
}
