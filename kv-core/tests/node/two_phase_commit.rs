//! Crashes at every step of two-phase commit.
//!
//! A transaction writes to three shards, each led by a node of its own. At each message of its
//! commit, and at each entry that goes to a disk or is applied, somebody crashes, before it or right
//! after it: the coordinator for good, or the leader of a participant, of the anchor, or of the meta
//! group. A node comes back at once, or another one takes over and it comes back later.
//!
//! What would go wrong: a half of the transaction takes effect; the client is told something else;
//! a key stays locked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kv_core::client::{Answer, Call, CallError, CallId, TxnHandle, TxnOp};
use kv_core::id::{NodeId, ShardId};
use kv_core::machine::Command;
use kv_core::node::NodeConfig;
use kv_core::op::Key;
use kv_core::raft::Timings;
use kv_core::storage::{Entry, StorageRequest};
use kv_core::wire::{
    ClientReply, ClientRequest, OracleMessage, PeerFrame, PeerMessage, RaftMessage, TxnMessage,
    TxnReply, TxnRequest,
};

use crate::crash::{Crash, Moment, Victim};
use crate::support::Cluster;
use crate::transactions::{Transactions, keys, lead, write};

/// The shard that decides, led by [`ANCHOR_LEADER`].
const ANCHOR: ShardId = ShardId(1);
const ANCHOR_LEADER: NodeId = NodeId(1);
/// The participant that is looked at, led by [`LEADER`].
const PARTICIPANT: ShardId = ShardId(2);
const LEADER: NodeId = NodeId(3);
/// The other participant, led by [`OTHER_LEADER`].
const OTHER_PARTICIPANT: ShardId = ShardId(3);
/// Leads the meta group, too, whose oracle gives the commit timestamp.
const OTHER_LEADER: NodeId = NodeId(2);
/// Shards that the transaction writes to.
const SHARD_COUNT: usize = 3;

/// The locks of a coordinator that is gone fall after so long, at a tick.
const SILENCE: Duration = Duration::from_millis(3_500 + 100);
/// A participant that has prepared and heard nothing asks after so long, at a tick.
const DOUBT: Duration = Duration::from_millis(1_500 + 100);
/// Questions and news are repeated after so long, at a tick.
const REPEAT: Duration = Duration::from_millis(500 + 100);
/// The timers of a node that is to lead again.
const EAGER: Timings = Timings {
    heartbeat: Duration::from_millis(10),
    election_min: Duration::from_millis(30),
    election_max: Duration::from_millis(40),
};
/// The longest time until somebody campaigns.
const ELECTION: Duration = Duration::from_secs(2);
/// A client waits so long for the answer of a node, which may be gone, before it asks the next one.
const ATTEMPT: Duration = Duration::from_millis(1_000 + 250);
/// A call on keys that are free takes no longer, even if the client asks thrice for a node that is
/// gone before it looks for another one.
const CALL_MAX: Duration = Duration::from_millis(300);

/// When nothing may be locked any more, counted from the crash.
fn bound(victim: Victim) -> Duration {
    match victim {
        // The anchor does not decide for a coordinator that may live, so a participant asks once
        // more when the locks have fallen.
        Victim::Coordinator => SILENCE + REPEAT,
        // A new leader is found by then, knows what was prepared, and is told or asks.
        Victim::Node(_) => ELECTION.max(ATTEMPT) + DOUBT + REPEAT,
    }
}

/// What happens to a node after its crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Return {
    /// It is back before anybody misses it, and so eager that it leads again.
    Leading,
    /// Another one takes over, and it stays away until nothing may be locked any more.
    Late,
}

/// A kind of moment, and how many of them are let pass.
struct Point {
    name: &'static str,
    is_point: fn(&Moment<'_>) -> bool,
    skip: usize,
}

const fn first(name: &'static str, is_point: fn(&Moment<'_>) -> bool) -> Point {
    Point { name, is_point, skip: 0 }
}

fn is_prepare(command: &Command) -> bool {
    matches!(command, Command::Prepare { .. })
}

fn is_decide(command: &Command) -> bool {
    matches!(command, Command::Decide { .. })
}

fn is_finish(command: &Command) -> bool {
    matches!(command, Command::Finish { .. })
}

fn is_forget(command: &Command) -> bool {
    matches!(command, Command::Forget { .. })
}

fn asks(moment: &Moment<'_>, shard: ShardId, is_step: fn(&TxnRequest) -> bool) -> bool {
    let Moment::Request(ClientRequest::Txn { shard: of, step, .. }) = moment else {
        return false;
    };
    *of == shard && is_step(step)
}

fn answers(moment: &Moment<'_>, from: NodeId, is_answer: fn(&TxnReply) -> bool) -> bool {
    matches!(moment, Moment::Reply(of, ClientReply::Txn(reply)) if *of == from && is_answer(reply))
}

fn is_any(mut entries: impl Iterator<Item = Vec<u8>>, is_kind: fn(&Command) -> bool) -> bool {
    entries.any(|payload| Command::decode(&payload).is_ok_and(|command| is_kind(&command)))
}

fn payloads(entries: &[Entry]) -> impl Iterator<Item = Vec<u8>> {
    entries.iter().map(|entry| entry.payload.to_vec())
}

/// A node writes such an entry to its log.
fn appends(moment: &Moment<'_>, id: NodeId, is_kind: fn(&Command) -> bool) -> bool {
    let Moment::Store(of, StorageRequest::Append(append)) = moment else { return false };
    *of == id && append.writes.iter().any(|write| is_any(payloads(&write.entries), is_kind))
}

/// A node applies such an entry.
fn applies(moment: &Moment<'_>, id: NodeId, is_kind: fn(&Command) -> bool) -> bool {
    let Moment::Store(of, StorageRequest::Apply { entries, .. }) = moment else { return false };
    *of == id && is_any(payloads(entries), is_kind)
}

fn carries(moment: &Moment<'_>, is_it: impl Fn(&PeerFrame, &PeerMessage) -> bool) -> bool {
    let Moment::Frame(frame) = moment else { return false };
    frame.messages.iter().any(|message| is_it(frame, message))
}

/// A leader sends such an entry to a follower.
fn replicates(moment: &Moment<'_>, from: NodeId, is_kind: fn(&Command) -> bool) -> bool {
    carries(moment, |frame, message| {
        let PeerMessage::Raft { message: RaftMessage::Append { entries, .. }, .. } = message else {
            return false;
        };
        frame.from == from && is_any(entries.iter().map(|(_, it)| it.to_vec()), is_kind)
    })
}

/// A follower has what the leader of a shard has sent.
fn accepts(moment: &Moment<'_>, to: NodeId, of: ShardId) -> bool {
    carries(moment, |frame, message| {
        let PeerMessage::Raft { shard, message: RaftMessage::AppendAccepted { .. } } = message
        else {
            return false;
        };
        frame.to == to && *shard == of
    })
}

/// The protocol, in its order.
const POINTS: [Point; 23] = [
    first("prepare is asked for", |moment| {
        asks(moment, PARTICIPANT, |step| matches!(step, TxnRequest::Prepare { .. }))
    }),
    first("prepare goes to the log", |moment| appends(moment, LEADER, is_prepare)),
    first("prepare is replicated", |moment| replicates(moment, LEADER, is_prepare)),
    first("a follower has the prepare", |moment| accepts(moment, LEADER, PARTICIPANT)),
    first("prepare is applied", |moment| applies(moment, LEADER, is_prepare)),
    first("prepare is answered", |moment| {
        answers(moment, LEADER, |reply| matches!(reply, TxnReply::Prepared { .. }))
    }),
    first("commit is asked for", |moment| {
        asks(moment, ANCHOR, |step| matches!(step, TxnRequest::Commit { .. }))
    }),
    first("the oracle is asked", |moment| {
        carries(moment, |frame, message| {
            let is_request = matches!(message, PeerMessage::Oracle(OracleMessage::Request { .. }));
            frame.from == ANCHOR_LEADER && is_request
        })
    }),
    first("the oracle answers", |moment| {
        carries(moment, |frame, message| {
            let is_reply = matches!(message, PeerMessage::Oracle(OracleMessage::Reply { .. }));
            frame.to == ANCHOR_LEADER && is_reply
        })
    }),
    first("decision goes to the log", |moment| appends(moment, ANCHOR_LEADER, is_decide)),
    first("decision is replicated", |moment| replicates(moment, ANCHOR_LEADER, is_decide)),
    first("a follower has the decision", |moment| accepts(moment, ANCHOR_LEADER, ANCHOR)),
    first("decision is applied", |moment| applies(moment, ANCHOR_LEADER, is_decide)),
    first("the client is answered", |moment| {
        answers(moment, ANCHOR_LEADER, |reply| matches!(reply, TxnReply::Committed { .. }))
    }),
    first("a participant is told", |moment| {
        carries(moment, |_, message| {
            let PeerMessage::Txn(TxnMessage::Finish { participant, .. }) = message else {
                return false;
            };
            *participant == PARTICIPANT
        })
    }),
    first("finish goes to the log", |moment| appends(moment, LEADER, is_finish)),
    first("finish is replicated", |moment| replicates(moment, LEADER, is_finish)),
    // Two followers have told that they have the prepare.
    Point {
        name: "a follower has the finish",
        is_point: |moment| accepts(moment, LEADER, PARTICIPANT),
        skip: 2,
    },
    first("finish is applied", |moment| applies(moment, LEADER, is_finish)),
    first("the anchor is told", |moment| {
        carries(moment, |_, message| {
            let PeerMessage::Txn(TxnMessage::Finished { participant, .. }) = message else {
                return false;
            };
            *participant == PARTICIPANT
        })
    }),
    first("forget goes to the log", |moment| appends(moment, ANCHOR_LEADER, is_forget)),
    first("forget is replicated", |moment| replicates(moment, ANCHOR_LEADER, is_forget)),
    first("forget is applied", |moment| applies(moment, ANCHOR_LEADER, is_forget)),
];

/// A cluster whose leaders are where they are to be, and a transaction that is about to commit.
fn prepare_cluster() -> (Cluster, Vec<Key>, TxnHandle) {
    let mut cluster = Cluster::formed(3);
    let keys: Vec<Key> = keys().into_iter().take(SHARD_COUNT).collect();
    let leaders = [ANCHOR_LEADER, LEADER, OTHER_LEADER];
    for (shard, leader) in (1..).map(ShardId).zip(leaders) {
        lead(&mut cluster, shard, leader);
    }
    lead(&mut cluster, ShardId::META, OTHER_LEADER);
    for key in &keys {
        cluster.call(write(key, "old")).expect("nothing is broken");
    }
    let txn = cluster.begin(1);
    for key in &keys {
        cluster.lock(txn, key).expect("nobody else locks");
        cluster.put(txn, key, "new");
    }
    cluster.run(Duration::from_millis(300));
    (cluster, keys, txn)
}

/// What one crash has led to.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Committed,
    Aborted,
}

/// One crash.
struct Case<'a> {
    point: &'a Point,
    victim: Victim,
    is_before: bool,
    back: Return,
}

impl std::fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let when = if self.is_before { "before" } else { "after" };
        write!(f, "{:?} crashes {when} \"{}\"", self.victim, self.point.name)?;
        match self.victim {
            Victim::Coordinator => Ok(()),
            Victim::Node(_) => write!(f, ", back {:?}", self.back),
        }
    }
}

/// Reads all keys, which must be as one transaction left them, and be free.
fn end_of(cluster: &mut Cluster, keys: &[Key]) -> Result<End, String> {
    let mut held = BTreeSet::new();
    for (key, shard) in keys.iter().zip(1..) {
        let begun = cluster.now;
        let got = cluster.call(Call::Get { key: key.clone() });
        let Ok(Answer::Got(Some(found))) = got else { return Err(format!("s{shard}: {got:?}")) };
        if cluster.now > begun + CALL_MAX {
            return Err(format!(
                "a read of s{shard} took {:?}",
                cluster.now.saturating_since(begun)
            ));
        }
        held.insert(format!("{:?}", found.value));
    }
    match held.into_iter().collect::<Vec<_>>().as_slice() {
        [one] if one.contains("new") => Ok(End::Committed),
        [one] if one.contains("old") => Ok(End::Aborted),
        several => Err(format!("the shards hold {several:?}")),
    }
}

/// Each key takes a write at once.
fn check_free(cluster: &mut Cluster, keys: &[Key]) -> Result<(), String> {
    for (key, shard) in keys.iter().zip(1..) {
        let begun = cluster.now;
        let written = cluster.call(write(key, "next"));
        if written.is_err() || cluster.now > begun + CALL_MAX {
            let elapsed = cluster.now.saturating_since(begun);
            return Err(format!("a write to s{shard} took {elapsed:?}: {written:?}"));
        }
    }
    Ok(())
}

/// Whether what the client was told is what has happened.
fn agrees(told: Option<&Result<Answer, CallError>>, end: &End) -> Result<(), String> {
    match told {
        None => Ok(()),
        Some(Ok(Answer::Committed { .. })) if *end == End::Committed => Ok(()),
        Some(Err(CallError::Aborted(_))) if *end == End::Aborted => Ok(()),
        Some(told) => Err(format!("the client heard {told:?}, and it is {end:?}")),
    }
}

impl Case<'_> {
    fn check(&self) -> Result<(End, Option<NodeId>), String> {
        let (mut cluster, keys, txn) = prepare_cluster();
        let &Self { point, victim, is_before, back } = self;
        let Point { is_point, skip, .. } = *point;
        cluster.crash = Some(Crash { victim, is_before, is_point, skip, struck_at: None });
        let deadline = cluster.now + Duration::from_secs(20);
        let call = cluster.router.call(cluster.now, Call::Txn { txn, op: TxnOp::Commit }, deadline);
        // The rest of a commit follows at ticks.
        let end = cluster.now + Duration::from_secs(1);
        while struck_at(&cluster).is_none() && cluster.now < end {
            cluster.run(Duration::from_millis(1));
        }
        let Some(crashed_at) = struck_at(&cluster) else { return Err("nothing crashed".into()) };
        if let (Victim::Node(id), Return::Leading) = (victim, back) {
            cluster.run(Duration::from_millis(20));
            let config = NodeConfig { timings: EAGER, ..cluster.config(id) };
            cluster.start_with(id, config);
        }
        while cluster.now < crashed_at + bound(victim) {
            cluster.run(Duration::from_millis(1));
        }
        let leader = cluster.leader(self.shard());
        let end = end_of(&mut cluster, &keys)?;
        check_free(&mut cluster, &keys)?;
        self.check_later(&mut cluster, &keys)?;
        agrees(self.told(&mut cluster, call).as_ref(), &end)?;
        Ok((end, leader))
    }

    /// The shard that the victim leads.
    fn shard(&self) -> ShardId {
        match self.victim {
            Victim::Node(LEADER) => PARTICIPANT,
            Victim::Node(OTHER_LEADER) => OTHER_PARTICIPANT,
            Victim::Node(_) | Victim::Coordinator => ANCHOR,
        }
    }

    /// Nothing changes with the return of who was away, and nothing is unfinished.
    fn check_later(&self, cluster: &mut Cluster, keys: &[Key]) -> Result<(), String> {
        if let (Victim::Node(id), Return::Late) = (self.victim, self.back) {
            cluster.start(id);
        }
        cluster.run(Duration::from_secs(3));
        for key in keys {
            let held = cluster.get(key);
            if held.as_deref() != Some("next") {
                return Err(format!("a later write was lost: {held:?}"));
            }
        }
        cluster.is_quiet().then_some(()).ok_or_else(|| "something is unfinished".into())
    }

    /// What the client is told in the end. Who lives is told.
    fn told(&self, cluster: &mut Cluster, call: CallId) -> Option<Result<Answer, CallError>> {
        if self.victim != Victim::Coordinator {
            assert!(cluster.done.contains_key(&call), "{self}: it is not told");
        }
        cluster.done.remove(&call)
    }
}

fn struck_at(cluster: &Cluster) -> Option<kv_core::time::Instant> {
    cluster.crash.as_ref().and_then(|crash| crash.struck_at)
}

/// How many cases ended in a way, with such a leader of the shard of the victim.
type Ends = BTreeMap<(End, Option<NodeId>), usize>;

/// Goes through all points.
#[track_caller]
fn check_all(victim: Victim, returns: &[Return]) -> Ends {
    let (mut ends, mut failures) = (Ends::new(), Vec::new());
    for point in &POINTS {
        for is_before in [true, false] {
            for back in returns.iter().copied() {
                let case = Case { point, victim, is_before, back };
                match case.check() {
                    Ok(end) => *ends.entry(end).or_default() += 1,
                    Err(wrong) => failures.push(format!("{case}: {wrong}")),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
    ends
}

/// Both ends are seen, and the node that crashed leads again in most of the cases in which it is
/// to.
#[track_caller]
fn check_node(id: NodeId) {
    let ends = check_all(Victim::Node(id), &[Return::Leading, Return::Late]);
    let has_end = |end| ends.keys().any(|(of, _)| *of == end);
    assert!(has_end(End::Committed), "{ends:?}");
    assert!(has_end(End::Aborted), "{ends:?}");
    let again = ends.iter().filter(|((_, leader), _)| *leader == Some(id));
    let again = again.map(|(_, count)| count).sum::<usize>();
    assert!(again >= POINTS.len(), "{ends:?}");
}

#[test]
fn crash_of_the_coordinator() {
    let ends = check_all(Victim::Coordinator, &[Return::Late]);
    let ends: Vec<_> = ends.into_keys().map(|(end, _)| end).collect();
    assert_eq!(ends, [End::Committed, End::Aborted]);
}

#[test]
fn crash_of_the_leader_of_a_participant() {
    check_node(LEADER);
}

#[test]
fn crash_of_the_leader_of_the_anchor() {
    check_node(ANCHOR_LEADER);
}

/// It also leads the other participant.
#[test]
fn crash_of_the_leader_of_the_meta_group() {
    check_node(OTHER_LEADER);
}
