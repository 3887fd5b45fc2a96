//! Frames and encodings: what is sent comes back, and what was never sent does no harm.

use bytes::Bytes;
use kv_core::cluster::{
    ClusterMap, ClusterRecord, Identity, Member, MemberState, RemovedMember, Repair, ShardEntry,
};
use kv_core::codec;
use kv_core::gossip::{
    Delta, Digest, Endpoint, Entry, GossipMessage, Load, MemberState as Believed, Release,
    ShardLead, Update, Value as Told, Want,
};
use kv_core::id::{
    Address, ClusterId, Epoch, Generation, Heartbeat, Incarnation, LogId, LogIndex, NodeId,
    RecordVersion, RequestId, Round, SessionId, ShardId, Term, Timestamp,
};
use kv_core::machine::plan::{Change, Move};
use kv_core::machine::{Command, MetaCommand};
use kv_core::op::{
    Expect, Found, Key, KeyRange, Page, PageLimit, Row, Value, WriteOp, WriteResult,
};
use kv_core::oracle::Raise;
use kv_core::raft::Configuration;
use kv_core::ring;
use kv_core::storage::{StateHash, StorageDamage};
use kv_core::txn::{AbortReason, Age, Grant, LockMode, Part, TxnId, TxnOutcome, TxnWrite};
use kv_core::wire::{
    self, AdminReply, AdminRequest, ClientReply, ClientRequest, Confirmation, Elsewhere,
    FormationMessage, ForwardMessage, Frame, FrameError, FrameReader, Hello, HelloReply, Issued,
    Lead, LocalIdentity, MapView, NodeRequest, OracleMessage, PROTOCOL_VERSION, PeerFrame,
    PeerHello, PeerMessage, RaftMessage, ReadLevel, Receipt, Refusal, ReplyFrame, RequestFrame,
    SafeTime, SafeTimeMessage, Standing, TxnMessage, TxnReply, TxnRequest, VoteKind, Wait,
};
use proptest::prelude::*;

fn record() -> ClusterRecord {
    let member = |id| Member {
        id: NodeId(id),
        incarnation: Incarnation(id * 11),
        address: Address(format!("127.0.0.1:{}", 7_100 + id)),
        state: MemberState::Active,
    };
    let members = (1..=3).map(member).collect();
    ClusterRecord { id: ClusterId(0xabcdef), members, shard_count: 4, replica_count: 3 }
}

fn map() -> ClusterMap {
    ring::initial_map(&record())
}

/// A map in which every field holds something.
fn moving_map() -> ClusterMap {
    let mut map = map();
    map.version = LogIndex(30);
    map.members[2].state = MemberState::Leaving;
    map.removed = vec![RemovedMember {
        id: NodeId(4),
        incarnation: Incarnation(44),
        address: Address("127.0.0.1:7104".into()),
    }];
    map.shards[1] = ShardEntry {
        epoch: Epoch(6),
        outgoing: vec![NodeId(1), NodeId(3)],
        learners: vec![NodeId(5)],
        goal: vec![NodeId(2)],
        target: Some(vec![NodeId(2), NodeId(1)]),
        withdrawn: vec![NodeId(6)],
        leader: Some(NodeId(2)),
        ..ShardEntry::new(ShardId(1), vec![NodeId(2), NodeId(1)])
    };
    map
}

fn configuration() -> Configuration {
    Configuration {
        epoch: Epoch(6),
        voters: [NodeId(1), NodeId(2)].into(),
        outgoing: [NodeId(1), NodeId(3)].into(),
        learners: [NodeId(5)].into(),
    }
}

fn request() -> RequestId {
    let session = SessionId { opened_ts: Timestamp(9), nonce: 77 };
    RequestId { session, sequence: 3, acked_below: 2 }
}

fn damage() -> StorageDamage {
    StorageDamage { file: "log/7".into(), offset: 4_096, what: "a wrong checksum".into() }
}

fn key() -> Key {
    Key::new("key")
}

fn peer(messages: Vec<PeerMessage>) -> Frame {
    Frame::Peer(PeerFrame {
        cluster: Some(ClusterId(5)),
        from: NodeId(1),
        from_incarnation: Incarnation(11),
        to: NodeId(2),
        messages,
    })
}

fn raft(message: RaftMessage) -> Frame {
    peer(vec![PeerMessage::Raft { shard: ShardId(3), message }])
}

fn ask(body: ClientRequest) -> Frame {
    Frame::Request(RequestFrame { correlation: 8, body })
}

fn answer(body: ClientReply) -> Frame {
    Frame::Reply(ReplyFrame { correlation: 8, body })
}

fn hello(peer: Option<PeerHello>) -> Hello {
    let (version_min, version_max) = (PROTOCOL_VERSION, PROTOCOL_VERSION);
    Hello { version_min, version_max, features: 0, cluster_name: Some("dev".into()), peer }
}

fn gossip(message: GossipMessage) -> Frame {
    peer(vec![PeerMessage::Gossip(message)])
}

fn entry(state: Believed) -> Entry {
    Entry { node: NodeId(3), generation: Generation(2), state, heartbeat: Heartbeat(300) }
}

fn digest() -> GossipMessage {
    let (first, last) = (NodeId(0), Some(NodeId(8)));
    let (entries, versions) = (vec![entry(Believed::Suspect)], vec![RecordVersion(6)]);
    let digest = Digest { first, last, entries, versions };
    GossipMessage::Digest { address: Address("h:1".into()), digest }
}

fn want() -> Want {
    Want { node: NodeId(3), generation: Generation(2), version: RecordVersion(5) }
}

/// With a record that has every kind of value.
fn update() -> Update {
    let (incarnation, address) = (Incarnation(33), Address("h:3".into()));
    let load = Load { replica_count: 5, leader_count: 2, pending_bytes: 400, is_full: true };
    let values = [
        Told::Endpoint(Endpoint { incarnation, address }),
        Told::Release(Release { protocol: 4, software: "0.1.0".into() }),
        Told::Load(load),
        Told::MapVersion(12),
        Told::Leads(vec![ShardLead { shard: ShardId(7), epoch: Epoch(2) }]),
    ];
    let values = values.into_iter().zip(1..).map(|(value, at)| (RecordVersion(at), value));
    let delta = Delta {
        entry: entry(Believed::Alive),
        version: RecordVersion(5),
        base: RecordVersion(0),
        values: values.collect(),
    };
    Update { entries: vec![entry(Believed::Down)], deltas: vec![delta] }
}

fn local() -> LocalIdentity {
    LocalIdentity {
        cluster_name: "dev".into(),
        node: NodeId(2),
        incarnation: Incarnation(22),
        cluster: Some(ClusterId(5)),
    }
}

/// What operators ask and hear, and what is sent on between nodes.
fn frames_of_operators() -> Vec<(&'static str, Frame)> {
    let admin = |request| ask(ClientRequest::Admin(request));
    let done = |reply| answer(ClientReply::Admin(reply));
    let refused = |refusal| answer(ClientReply::Refused(refusal));
    let forward = |message| peer(vec![PeerMessage::Forward(message)]);
    let (id, old, new, force) = (NodeId(2), NodeId(2), NodeId(5), true);
    let (incarnation, address) = (Incarnation(44), Address("db4:7104".into()));
    let seeds = vec![address.clone()];
    let change = Change::Replace { old, new };
    let (from, to) = (vec![NodeId(1), old], vec![NodeId(1), new]);
    let moves = vec![Move { shard: ShardId(3), from, to }];
    let added = AdminReply::NodeAdded { id, cluster: record(), map: moving_map() };
    let opened = ClientReply::SessionOpened(request().session);
    let (boot, number) = (6, 7);
    let open = NodeRequest::OpenSession { nonce: 77 };
    let remove = AdminRequest::RemoveNode { id, force };
    let reason = "s3 would have no quorum".to_owned();
    vec![
        ("add node", admin(AdminRequest::AddNode { incarnation, address })),
        ("remove node", admin(remove.clone())),
        ("replace node", admin(AdminRequest::ReplaceNode { old, new, force })),
        ("transfer leader", admin(AdminRequest::TransferLeader { shard: ShardId(3), to: new })),
        ("plan", admin(AdminRequest::Plan { change })),
        ("join", admin(AdminRequest::Join { seeds })),
        ("node added", done(added)),
        ("done", done(AdminReply::Done)),
        ("planned", done(AdminReply::Plan { moves })),
        ("joined", done(AdminReply::Joined { id, cluster: ClusterId(5) })),
        ("quorum risk", refused(Refusal::QuorumRisk { reason })),
        ("member", refused(Refusal::Member { node: id, cluster: ClusterId(5) })),
        ("unanswered", refused(Refusal::Unanswered { node: id })),
        ("invalid step", refused(Refusal::InvalidStep { reason: "no such shard".to_owned() })),
        (
            "snapshot too old",
            refused(Refusal::SnapshotTooOld { at: Timestamp(3), oldest: Timestamp(4) }),
        ),
        (
            "future timestamp",
            refused(Refusal::FutureTimestamp { at: Timestamp(4), newest: Timestamp(3) }),
        ),
        ("sent on", forward(ForwardMessage::Request { boot, number, request: open })),
        (
            "sent on for an operator",
            forward(ForwardMessage::Request { boot, number, request: NodeRequest::Admin(remove) }),
        ),
        ("passed back", forward(ForwardMessage::Reply { boot, number, body: opened })),
    ]
}

/// At least one frame of every kind, with every variant that has content.
fn diverged(majority: Option<u64>) -> PeerMessage {
    let (shard, term, index) = (ShardId(3), Term(4), LogIndex(1_024));
    PeerMessage::Diverged { shard, term, index, majority }
}

fn read_replica(level: ReadLevel) -> ClientRequest {
    ClientRequest::ReadReplica { shard: ShardId(3), epoch: Epoch(1), key: key(), level }
}

fn found_9() -> Found {
    Found { version: Timestamp(9), value: Value::string("v") }
}

/// What replicas ask of leaders, and hear.
fn frames_of_safe_times() -> Vec<(&'static str, Frame)> {
    let (shard, boot, number) = (ShardId(3), 7, 9);
    let message = |message| peer(vec![PeerMessage::SafeTime(message)]);
    let ask = SafeTimeMessage::Ask { shard, boot, number, at_least: Timestamp(3) };
    let answer = |result| message(SafeTimeMessage::Answer { shard, boot, number, result });
    let told = SafeTime { safe: Timestamp(8), index: LogIndex(70), issued: Timestamp(9) };
    vec![
        ("safe time, please", message(ask)),
        ("safe time", answer(Ok(told))),
        ("no safe time here", answer(Err(Elsewhere { leader: Some(NodeId(1)) }))),
    ]
}

fn frames_of_oracle() -> Vec<(&'static str, Frame)> {
    let (asker, boot, number, count) = (NodeId(2), 7, 9, 300);
    let first = Timestamp::at_millis(1_767_225_600_000);
    let receipt = Receipt { term: Term(4), count: 5 };
    let oracle = |message| peer(vec![PeerMessage::Oracle(message)]);
    let request = |follows, is_relayed| {
        oracle(OracleMessage::Request { asker, boot, number, count, follows, is_relayed })
    };
    let reply = |result| oracle(OracleMessage::Reply { asker, boot, number, result });
    vec![
        ("timestamps, from a follower", request(Some(receipt), false)),
        ("timestamps, passed on", request(None, true)),
        ("issued", reply(Ok(Issued { first, receipt }))),
        ("not the oracle", reply(Err(Elsewhere { leader: Some(NodeId(1)) }))),
    ]
}

fn txn() -> TxnId {
    TxnId { session: request().session, number: 5 }
}

fn outcome_question() -> ClientRequest {
    let (epoch, anchor, sequence) = (Epoch(1), ShardId(9), request().sequence);
    ClientRequest::Outcome { epoch, anchor, txn: txn(), sequence }
}

fn commit_ts() -> Timestamp {
    Timestamp::at_millis(1_767_225_600_000)
}

/// What coordinators of transactions ask of shards, and hear.
fn frames_of_coordinators() -> Vec<(&'static str, Frame)> {
    let (shard, epoch, age) = (ShardId(3), Epoch(1), Age(1_767_225_600_000));
    let step = |grant, step| ask(ClientRequest::Txn { shard, epoch, txn: txn(), age, grant, step });
    let later = |body| step(Some(Grant(4)), body);
    let reply = |reply| answer(ClientReply::Txn(reply));
    let aborted = |reason| reply(TxnReply::Aborted(reason));
    let write = |name: &'static str, value: Option<&'static str>| TxnWrite {
        key: Key::new(name),
        value: value.map(Value::string),
    };
    let writes = vec![write("kept", Some("value")), write("gone", None)];
    let range = KeyRange::from("a".."b");
    let part = Part { reads: vec![key()], writes, ranges: vec![range.clone()] };
    let prepare =
        TxnRequest::Prepare { request: request(), anchor: ShardId(9), part: part.clone() };
    let commit = TxnRequest::Commit {
        request: request(),
        part,
        participants: vec![ShardId(4), ShardId(5)],
        min_commit: commit_ts(),
    };
    let found = Found { version: Timestamp(12), value: Value::string("value") };
    let scan = TxnRequest::Scan { range, limit: PageLimit { rows: 10, bytes: 1_000 } };
    let rows = vec![Row { key: key(), found: found.clone() }];
    let page = Page { rows, next: Some(Key::new("next")) };
    let cycle = vec![txn(), TxnId { number: 6, ..txn() }];
    vec![
        ("lock shared", step(None, TxnRequest::Lock { key: key(), mode: LockMode::Shared })),
        ("lock exclusive", later(TxnRequest::Lock { key: key(), mode: LockMode::Exclusive })),
        ("beat", later(TxnRequest::Beat)),
        ("roll back", later(TxnRequest::Rollback)),
        ("prepare", later(prepare)),
        ("commit", later(commit)),
        ("scan and lock", later(scan)),
        ("scanned", reply(TxnReply::Scanned { grant: Grant(4), page })),
        ("waiting", reply(TxnReply::Waiting { grant: Grant(4) })),
        ("locked", reply(TxnReply::Locked { grant: Grant(4), found: Some(found) })),
        ("locked, not found", reply(TxnReply::Locked { grant: Grant(4), found: None })),
        ("alive", reply(TxnReply::Alive)),
        ("rolled back", reply(TxnReply::RolledBack)),
        ("prepared", reply(TxnReply::Prepared { min_commit: commit_ts() })),
        ("committed", reply(TxnReply::Committed { commit_ts: commit_ts() })),
        ("deadlock", aborted(AbortReason::Deadlock { cycle })),
        ("lock timeout", aborted(AbortReason::LockTimeout)),
        ("locks lost", aborted(AbortReason::LocksLost { shard })),
        ("given up", aborted(AbortReason::GivenUp)),
        ("too old", aborted(AbortReason::TooOld)),
        ("leader changed", aborted(AbortReason::LeaderChanged { shard })),
    ]
}

/// What nodes say about transactions.
fn frames_of_participants() -> Vec<(&'static str, Frame)> {
    let (anchor, participant) = (ShardId(9), ShardId(3));
    let told = |message| peer(vec![PeerMessage::Txn(message)]);
    let finish = |outcome| told(TxnMessage::Finish { anchor, participant, txn: txn(), outcome });
    let (holder, age) = (TxnId { number: 6, ..txn() }, Age(1_767_225_600_000));
    let waits = vec![Wait { waiter: txn(), age, holder, number: 7 }];
    let resolve = TxnMessage::Resolve { anchor, participant, txn: txn(), request: request() };
    vec![
        ("resolve", told(resolve)),
        ("finish committed", finish(TxnOutcome::Committed { commit_ts: commit_ts() })),
        ("finish aborted", finish(TxnOutcome::Aborted)),
        ("finished", told(TxnMessage::Finished { anchor, participant, txn: txn() })),
        ("waits", told(TxnMessage::Waits { poll: 8, waits })),
        ("poll", told(TxnMessage::Poll { poll: 8 })),
        ("deadlock found", told(TxnMessage::Deadlock { cycle: vec![txn(), holder] })),
    ]
}

fn frames() -> Vec<(&'static str, Frame)> {
    let mut frames = frames_of_members();
    frames.extend(frames_of_oracle());
    frames.extend(frames_of_safe_times());
    frames.extend(frames_of_operators());
    frames.extend(frames_of_coordinators());
    frames.extend(frames_of_participants());
    frames
}

fn frames_of_members() -> Vec<(&'static str, Frame)> {
    let identity =
        PeerHello { node: NodeId(1), incarnation: Incarnation(11), cluster: Some(ClusterId(5)) };
    let lead = Lead { shard: ShardId(3), term: Term(4) };
    let entries = vec![(Term(4), Bytes::from_static(b"one")), (Term(4), Bytes::new())];
    let put = WriteOp::Put { key: key(), value: Value::string("value") };
    let write =
        |op| ClientRequest::Write { shard: ShardId(3), epoch: Epoch(1), request: request(), op };
    let cas = |expect| WriteOp::Cas { key: key(), expect, value: Value::string("new") };
    let found = Found { version: Timestamp(12), value: Value::string("value") };
    let row = Row { key: key(), found: found.clone() };
    let page = Page { rows: vec![row], next: Some(key()) };
    let confirm = |leads| PeerMessage::Confirm { boot: 6, round: Round(7), version: 2, leads };
    let (boot, round, version) = (6, Round(7), 2);
    vec![
        ("hello of a peer", Frame::Hello(hello(Some(identity)))),
        ("hello of a client", Frame::Hello(hello(None))),
        ("welcome", Frame::HelloReply(local().accept(&hello(None)))),
        ("query", peer(vec![PeerMessage::Formation(FormationMessage::Query { nonce: 6 })])),
        (
            "status",
            peer(vec![PeerMessage::Formation(FormationMessage::Status {
                nonce: 6,
                cluster: Some(record()),
            })]),
        ),
        ("confirm", peer(vec![confirm(None)])),
        ("confirm with list", peer(vec![confirm(Some(vec![lead]))])),
        (
            "confirmed",
            peer(vec![PeerMessage::Confirmed(Confirmation {
                boot,
                round,
                version,
                except: vec![ShardId(1)],
                unheard: vec![ShardId(2)],
                suspect: vec![(ShardId(1), 3)],
                states: vec![(ShardId(3), StateHash { index: LogIndex(1_024), hash: 0x77 })],
                is_full: true,
                is_unfit: false,
            })]),
        ),
        (
            "vote",
            raft(RaftMessage::Vote { term: Term(4), last: LogId::new(3, 9), kind: VoteKind::Pre }),
        ),
        ("transfer", raft(RaftMessage::Transfer { term: Term(4) })),
        ("vote reply", raft(RaftMessage::VoteReply { term: Term(4), pre: false, granted: true })),
        (
            "append",
            raft(RaftMessage::Append {
                term: Term(4),
                prev: LogId::new(3, 9),
                commit: LogIndex(8),
                held_by_all: LogIndex(7),
                entries,
            }),
        ),
        (
            "accepted",
            raft(RaftMessage::AppendAccepted {
                term: Term(4),
                matched: LogIndex(11),
                commit: LogIndex(8),
                held_by_all: LogIndex(7),
                standing: Standing { life: 3, is_suspect: true },
            }),
        ),
        ("cleared", raft(RaftMessage::Cleared { term: Term(4), life: 3, barrier: LogIndex(11) })),
        (
            "rejected",
            raft(RaftMessage::AppendRejected {
                term: Term(4),
                prev: LogIndex(9),
                hint: LogId::new(2, 5),
            }),
        ),
        ("gossip digest", gossip(digest())),
        ("gossip reply", gossip(GossipMessage::Reply { update: update(), wants: vec![want()] })),
        ("gossip update", gossip(GossipMessage::Update(update()))),
        ("diverged", peer(vec![diverged(Some(0x77))])),
        ("diverged without a majority", peer(vec![diverged(None)])),
        ("map request", ask(ClientRequest::Map)),
        ("open session", ask(ClientRequest::OpenSession { nonce: 77 })),
        ("read", ask(ClientRequest::Read { shard: ShardId(3), epoch: Epoch(1), key: key() })),
        ("timestamp", ask(ClientRequest::Timestamp)),
        (
            "read at",
            ask(ClientRequest::ReadAt {
                shard: ShardId(3),
                epoch: Epoch(1),
                at: Timestamp(9),
                key: key(),
            }),
        ),
        (
            "scan at",
            ask(ClientRequest::ScanAt {
                shard: ShardId(3),
                epoch: Epoch(1),
                at: Timestamp(9),
                range: KeyRange { start: key(), end: None },
                limit: PageLimit { rows: 5, bytes: 70 },
            }),
        ),
        ("outcome", ask(outcome_question())),
        ("read in a session", ask(read_replica(ReadLevel::Sequential { after: Timestamp(9) }))),
        ("read of an age", ask(read_replica(ReadLevel::Stale { max_age_ms: 5_000 }))),
        ("put", ask(write(put))),
        ("delete", ask(write(WriteOp::Delete { key: key() }))),
        ("cas by value", ask(write(cas(Expect::Value(Value::string("old")))))),
        ("cas by version", ask(write(cas(Expect::Version(Timestamp(12)))))),
        ("cas if absent", ask(write(cas(Expect::Absent)))),
        (
            "map",
            answer(ClientReply::Map(MapView {
                map: map(),
                leaders: vec![(ShardId(1), NodeId(2))],
            })),
        ),
        ("moving map", answer(ClientReply::Map(MapView { map: moving_map(), leaders: vec![] }))),
        ("session opened", answer(ClientReply::SessionOpened(request().session))),
        ("found", answer(ClientReply::Read(Some(found)))),
        ("not found", answer(ClientReply::Read(None))),
        ("timestamp issued", answer(ClientReply::Timestamp(Timestamp(9)))),
        ("page", answer(ClientReply::Page(page))),
        (
            "read at a replica",
            answer(ClientReply::ReplicaRead { found: Some(found_9()), at: Timestamp(9) }),
        ),
        (
            "cas result",
            answer(ClientReply::Written(WriteResult::Cas {
                applied: true,
                version: Some(Timestamp(13)),
            })),
        ),
        (
            "not leader",
            answer(ClientReply::Refused(Refusal::NotLeader {
                shard: ShardId(3),
                hint: Some(NodeId(1)),
            })),
        ),
        (
            "wrong epoch",
            answer(ClientReply::Refused(Refusal::WrongEpoch {
                entry: Box::new(map().shards[1].clone()),
            })),
        ),
        ("no space", answer(ClientReply::Refused(Refusal::NoSpace { node: NodeId(1) }))),
        (
            "shard diverged",
            answer(ClientReply::Refused(Refusal::Diverged {
                shard: ShardId(3),
                index: LogIndex(1_024),
            })),
        ),
        (
            "damaged",
            answer(ClientReply::Refused(Refusal::Damaged { node: NodeId(1), damage: damage() })),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes themselves: whoever changes them changes the format, and must raise its version.
#[test]
fn golden_bytes_of_frames() {
    let lines: Vec<_> = frames()
        .iter()
        .map(|(name, frame)| format!("{name}: {}", hex(&wire::encode(frame))))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn golden_bytes_of_stored_values() {
    let identity = Identity {
        cluster_name: "dev".into(),
        node: NodeId(2),
        incarnation: Incarnation(22),
        cluster: Some(record()),
        map: None,
        life: 1,
        repair: Some(Repair {
            damage: StorageDamage { file: "wal".into(), offset: 7, what: "a checksum".into() },
            is_set_aside: true,
        }),
    };
    let put = WriteOp::Put { key: key(), value: Value::string("value") };
    let incarnation = Incarnation(44);
    let address = Address("127.0.0.1:7104".into());
    let meta = |command| hex(&Command::Meta(command).encode());
    let commit_ts = Timestamp::at_millis(1_767_225_600_000).after(5);
    let raise = Raise { unix_ms: 1_767_225_600_000, advance_max_ms: 4_000 };
    let placed = MetaCommand::Placed { shard: ShardId(3), configuration: configuration() };
    let lines = [
        format!("add member: {}", meta(MetaCommand::AddMember { incarnation, address })),
        format!("remove member: {}", meta(MetaCommand::RemoveMember { id: NodeId(2) })),
        format!(
            "replace member: {}",
            meta(MetaCommand::ReplaceMember { old: NodeId(2), new: NodeId(4) })
        ),
        format!("placed: {}", meta(placed)),
        format!("noop: {}", hex(&Command::Noop.encode())),
        format!(
            "write: {}",
            hex(&Command::Write { request: request(), op: put, commit_ts }.encode())
        ),
        format!("raise bound: {}", hex(&Command::RaiseBound(raise).encode())),
        format!(
            "bootstrap: {}",
            hex(&Command::Meta(MetaCommand::Bootstrap { record: record() }).encode())
        ),
        format!(
            "open session: {}",
            hex(&Command::Meta(MetaCommand::OpenSession { nonce: 77 }).encode())
        ),
        format!("configuration: {}", hex(&Command::Configuration(configuration()).encode())),
        format!("identity: {}", hex(&codec::encode(&identity))),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn every_frame_comes_back() {
    for (name, frame) in frames() {
        assert_eq!(wire::decode(&wire::encode(&frame)), Ok(frame), "{name}");
    }
}

#[test]
fn reader_cuts_a_stream_anywhere() {
    let stream: Vec<u8> = frames().iter().flat_map(|(_, frame)| wire::encode(frame)).collect();
    for size in [1, 7, 64, stream.len()] {
        let mut reader = FrameReader::new();
        let mut read = Vec::new();
        for chunk in stream.chunks(size) {
            reader.push(chunk);
            while let Some(frame) = reader.next_frame().expect("the stream is whole") {
                read.push(frame);
            }
        }
        let sent: Vec<_> = frames().into_iter().map(|(_, frame)| frame).collect();
        assert_eq!(read, sent, "in chunks of {size}");
    }
}

#[test]
fn rule_f104_any_changed_bit_is_noticed() {
    for (name, frame) in frames() {
        let bytes = wire::encode(&frame);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(wire::decode(&damaged).is_err(), "{name}, bit {bit}");
        }
    }
}

#[test]
fn length_is_refused_before_the_body_is_awaited() {
    let mut bytes = wire::encode(&ask(ClientRequest::Map));
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut reader = FrameReader::new();
    reader.push(&bytes[..wire::FRAME_HEADER_BYTES]);
    assert_eq!(reader.next_frame(), Err(FrameError::TooLong(u32::MAX)));
}

#[test]
fn trailing_bytes_are_refused() {
    let mut command = Command::Noop.encode();
    command.push(0);
    assert!(Command::decode(&command).is_err());
}

#[test]
fn handshake_refuses_what_does_not_fit() {
    let refuses = |hello: &Hello| matches!(local().accept(hello), HelloReply::Refused(_));
    assert!(!refuses(&hello(None)));
    assert!(refuses(&Hello { version_min: 9, version_max: 9, ..hello(None) }));
    assert!(refuses(&Hello { cluster_name: Some("other".into()), ..hello(None) }));
    let foreign =
        PeerHello { node: NodeId(1), incarnation: Incarnation(1), cluster: Some(ClusterId(6)) };
    assert!(refuses(&hello(Some(foreign.clone()))));
    assert!(
        !refuses(&hello(Some(PeerHello { cluster: None, ..foreign }))),
        "it may be about to join"
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = wire::decode(&bytes);
        let _ = Command::decode(&bytes);
        let mut reader = FrameReader::new();
        reader.push(&bytes);
        while let Ok(Some(_)) = reader.next_frame() {}
    }

    /// Bodies that are damaged behind a right checksum: the decoder itself must hold.
    #[test]
    fn damaged_bodies_never_panic(
        at in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let frames = frames();
        let (_, frame) = &frames[at.index(frames.len())];
        let body = wire::encode(frame)[wire::FRAME_HEADER_BYTES..].to_vec();
        let mut damaged = body.clone();
        if let Some(slot) = damaged.get_mut(cut.index(body.len())) {
            *slot = byte;
        }
        let _ = codec::decode::<PeerFrame>(&damaged);
        let _ = codec::decode::<RequestFrame>(&damaged);
        let _ = codec::decode::<ReplyFrame>(&damaged);
        let _ = codec::decode::<Hello>(&damaged);
        let _ = codec::decode::<PeerFrame>(&body[..cut.index(body.len())]);
    }
}
