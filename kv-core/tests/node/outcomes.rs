//! Asking how a transaction ended, before, while and after its commit arrives, of one leader of the
//! anchor after the other.
//!
//! What would go wrong: two answers differ; one says that it was aborted, and it commits later; what
//! is forgotten is told as an abort.

use std::time::Duration;

use kv_core::client::{Answer, Call, CallError};
use kv_core::id::{Epoch, NodeId, RequestHandle, RequestId, SessionId, ShardId, Timestamp};
use kv_core::op::{Key, WriteOp};
use kv_core::ring::shard_of;
use kv_core::txn::{Age, OutcomeId, Part, TxnId, TxnOutcome, TxnWrite};
use kv_core::wire::{ClientReply, ClientRequest, Refusal, TxnReply, TxnRequest};

use crate::support::Cluster;
use crate::transactions::{Transactions, keys, lead, value, write};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn session() -> SessionId {
    SessionId { opened_ts: Timestamp(1), nonce: 1 }
}

fn txn() -> TxnId {
    TxnId { session: session(), number: 1 }
}

fn request() -> RequestId {
    RequestId { session: session(), sequence: 1, acked_below: 1 }
}

fn step(shard: ShardId, step: TxnRequest) -> ClientRequest {
    ClientRequest::Txn { shard, epoch: Epoch(1), txn: txn(), age: Age(9), grant: None, step }
}

fn part(key: &Key) -> Part {
    let writes = vec![TxnWrite { key: key.clone(), value: Some(value("new")) }];
    Part { writes, ..Part::default() }
}

fn prepare(key: &Key, anchor: ShardId) -> ClientRequest {
    let prepare = TxnRequest::Prepare { request: request(), anchor, part: part(key) };
    step(shard_of(key, 4), prepare)
}

fn commit(key: &Key, participants: Vec<ShardId>, min_commit: Timestamp) -> ClientRequest {
    let commit =
        TxnRequest::Commit { request: request(), part: part(key), participants, min_commit };
    step(shard_of(key, 4), commit)
}

fn outcome_id(cluster: &Cluster, anchor: ShardId) -> OutcomeId {
    OutcomeId::new(cluster.id(), anchor, txn(), request())
}

fn ask(cluster: &mut Cluster, anchor: ShardId) -> Result<Answer, CallError> {
    let id = outcome_id(cluster, anchor);
    cluster.call(Call::Outcome { id })
}

/// Two shards: the anchor, and a participant that has prepared, with the commit that would follow.
struct Prepared {
    cluster: Cluster,
    keys: [Key; 2],
    anchor: ShardId,
    commit: ClientRequest,
}

impl Prepared {
    fn new() -> Self {
        let mut cluster = Cluster::formed(3);
        let all = keys();
        let keys = [all[0].clone(), all[1].clone()];
        let [anchor, participant] = [0, 1].map(|at: usize| shard_of(&keys[at], 4));
        for key in &keys {
            cluster.call(write(key, "old")).expect("nothing is broken");
        }
        let leader = cluster.leader(participant).expect("somebody leads");
        let handle = cluster.ask(leader, prepare(&keys[1], anchor));
        cluster.run(Duration::from_millis(50));
        let reply = cluster.replies.remove(&handle);
        let Some(ClientReply::Txn(TxnReply::Prepared { min_commit })) = reply else {
            panic!("{reply:?}")
        };
        let commit = commit(&keys[0], vec![participant], min_commit);
        Self { cluster, keys, anchor, commit }
    }

    /// A copy of the commit arrives, wherever the anchor is led from.
    fn send_commit(&mut self) -> RequestHandle {
        let leader = self.cluster.leader(self.anchor).expect("somebody leads");
        self.cluster.ask(leader, self.commit.clone())
    }

    /// Another node leads the anchor.
    fn change_leader(&mut self) {
        let old = self.cluster.leader(self.anchor).expect("somebody leads");
        let new = NODES.into_iter().find(|id| *id != old).expect("there are three");
        lead(&mut self.cluster, self.anchor, new);
    }

    /// All say the same for ever, and it is what the keys hold.
    fn check(mut self, told: Vec<Result<Answer, CallError>>) -> TxnOutcome {
        let Some(Ok(Answer::Outcome(outcome))) = told.first().cloned() else { panic!("{told:?}") };
        for round in 0..4 {
            assert_eq!(
                ask(&mut self.cluster, self.anchor),
                Ok(Answer::Outcome(outcome)),
                "{round}"
            );
            self.send_commit();
            self.change_leader();
        }
        assert!(told.iter().all(|told| *told == Ok(Answer::Outcome(outcome))), "{told:?}");
        self.cluster.run(Duration::from_secs(4));
        let expected = match outcome {
            TxnOutcome::Committed { .. } => "new",
            TxnOutcome::Aborted => "old",
        };
        for key in &self.keys {
            assert_eq!(self.cluster.get(key).as_deref(), Some(expected), "{outcome:?}");
        }
        assert!(self.cluster.is_quiet(), "everybody has heard of it");
        outcome
    }
}

#[test]
fn question_before_the_commit_aborts_it_for_good() {
    for leader_changes in [false, true] {
        let mut prepared = Prepared::new();
        let first = ask(&mut prepared.cluster, prepared.anchor);
        if leader_changes {
            prepared.change_leader();
        }
        let commit = prepared.send_commit();
        prepared.cluster.run(Duration::from_millis(100));
        let reply = prepared.cluster.replies.remove(&commit);
        assert!(matches!(reply, Some(ClientReply::Txn(TxnReply::Aborted(_)))), "{reply:?}");
        let second = ask(&mut prepared.cluster, prepared.anchor);
        assert_eq!(prepared.check(vec![first, second]), TxnOutcome::Aborted);
    }
}

#[test]
fn question_after_the_commit_tells_its_timestamp() {
    for leader_changes in [false, true] {
        let mut prepared = Prepared::new();
        let commit = prepared.send_commit();
        prepared.cluster.run(Duration::from_millis(100));
        let reply = prepared.cluster.replies.remove(&commit);
        let Some(ClientReply::Txn(TxnReply::Committed { commit_ts })) = reply else {
            panic!("{reply:?}")
        };
        if leader_changes {
            prepared.change_leader();
        }
        let told = ask(&mut prepared.cluster, prepared.anchor);
        assert_eq!(prepared.check(vec![told]), TxnOutcome::Committed { commit_ts });
    }
}

/// What befalls the leader of the anchor when it has the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// None: the question comes behind the commit.
    Nothing,
    /// It was cut off before, so nobody hears of the commit.
    CutOff,
    /// It crashes when the others have the entry, and neither has it durable.
    Crash,
}

/// The commit is between its arrival and its end when it is asked for, of this leader or the next.
fn ask_midway(trouble: Trouble) -> TxnOutcome {
    let mut prepared = Prepared::new();
    let (anchor, commit) = (prepared.anchor, prepared.commit.clone());
    let cluster = &mut prepared.cluster;
    let old = cluster.leader(anchor).expect("somebody leads");
    let others: Vec<_> = NODES.into_iter().filter(|id| *id != old).collect();
    match trouble {
        Trouble::Nothing => {}
        Trouble::CutOff => {
            cluster.cut = others.iter().flat_map(|id| [(old, *id), (*id, old)]).collect();
        }
        Trouble::Crash => cluster.stalled.extend(&others),
    }
    let commit = cluster.ask(old, commit);
    let deadline = cluster.now + Duration::from_secs(20);
    if trouble == Trouble::Crash {
        cluster.run(Duration::from_millis(20));
        cluster.stop(old);
        others.iter().for_each(|id| cluster.resume(*id));
    }
    let question = Call::Outcome { id: outcome_id(cluster, anchor) };
    let call = cluster.router.call(cluster.now, question, deadline);
    cluster.run(Duration::from_secs(8));
    cluster.cut.clear();
    if trouble == Trouble::Crash {
        cluster.start(old);
    }
    cluster.run(Duration::from_secs(2));
    let mut told = vec![cluster.done.remove(&call).expect("it is answered")];
    match cluster.replies.remove(&commit) {
        Some(ClientReply::Txn(TxnReply::Committed { commit_ts })) => {
            told.push(Ok(Answer::Outcome(TxnOutcome::Committed { commit_ts })));
        }
        Some(ClientReply::Txn(TxnReply::Aborted(_))) => {
            told.push(Ok(Answer::Outcome(TxnOutcome::Aborted)));
        }
        Some(ClientReply::Refused(_)) | None => {}
        other => panic!("{other:?}"),
    }
    prepared.check(told)
}

#[test]
fn questions_while_the_commit_is_on_its_way_agree() {
    let outcomes = [Trouble::Nothing, Trouble::CutOff, Trouble::Crash].map(ask_midway);
    let is_committed = outcomes.map(|outcome| matches!(outcome, TxnOutcome::Committed { .. }));
    assert_eq!(is_committed, [false, false, true], "{outcomes:?}");
}

/// The session has gone on and acknowledged the commit, or filled its window.
#[test]
fn forgotten_outcome_is_no_abort() {
    let (mut cluster, keys) = (Cluster::formed(3), keys());
    let anchor = shard_of(&keys[0], 4);
    let leader = cluster.leader(anchor).expect("somebody leads");
    let handle = cluster.ask(leader, commit(&keys[0], Vec::new(), Timestamp(0)));
    cluster.run(Duration::from_millis(100));
    let reply = cluster.replies.remove(&handle);
    assert!(matches!(reply, Some(ClientReply::Txn(TxnReply::Committed { .. }))), "{reply:?}");
    assert!(ask(&mut cluster, anchor).is_ok());
    let op = WriteOp::Put { key: keys[0].clone(), value: value("later") };
    let request = RequestId { sequence: 2, acked_below: 2, ..request() };
    cluster.ask(leader, ClientRequest::Write { shard: anchor, epoch: Epoch(1), request, op });
    cluster.run(Duration::from_millis(100));
    let id = outcome_id(&cluster, anchor);
    assert_eq!(ask(&mut cluster, anchor), Err(CallError::OutcomeForgotten { id }));
}

#[test]
fn question_about_what_is_no_shard_is_refused() {
    let mut cluster = Cluster::formed(3);
    for anchor in [ShardId::META, ShardId(5)] {
        let question = ClientRequest::Outcome { epoch: Epoch(1), anchor, txn: txn(), sequence: 1 };
        let handle = cluster.ask(NodeId(1), question);
        cluster.run(Duration::from_millis(50));
        let reply = cluster.replies.remove(&handle);
        let is_refused = matches!(reply, Some(ClientReply::Refused(Refusal::InvalidStep { .. })));
        assert!(is_refused, "{anchor}: {reply:?}");
    }
}
