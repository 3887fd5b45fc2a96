//! The stored form of a machine: it comes back as it was, and bytes that are none do no harm.

use std::collections::BTreeMap;
use std::convert::Infallible;

use kv_core::cluster::{ClusterRecord, Member, MemberState};
use kv_core::id::{
    Address, ClusterId, Epoch, Incarnation, LogId, LogIndex, NodeId, RequestId, SessionId, ShardId,
    Timestamp,
};
use kv_core::machine::{
    Command, Machine, MetaCommand, Newest, RESULTS_PER_SESSION_MAX, ReadView,
    SESSIONS_PER_SHARD_MAX, configuration_in,
};
use kv_core::op::{Expect, Key, Value, WriteOp, WriteResult};
use kv_core::raft::Configuration;
use kv_core::storage::{Entry, Outcome};
use proptest::prelude::*;

#[derive(Clone, Default)]
struct View(BTreeMap<Key, Newest>);

impl ReadView for View {
    type Error = Infallible;

    fn newest(&self, key: &Key, at: Timestamp) -> Result<Option<Newest>, Infallible> {
        Ok(self.0.get(key).filter(|(version, _)| *version <= at).cloned())
    }
}

/// A machine with its keys and values.
#[derive(Clone, Default)]
struct Shard {
    machine: Machine,
    view: View,
}

impl Shard {
    fn apply(&mut self, command: &Command) -> Outcome {
        let LogId { term, index } = self.machine.applied();
        let id = LogId { term, index: index.next() };
        let entry = Entry { id, payload: stamped(command, id.index).encode().into() };
        let Ok((batch, outcome)) = self.machine.apply(&self.view, &entry);
        for write in batch.writes {
            self.view.0.insert(write.key, (write.version, write.value));
        }
        outcome
    }

    fn reopened(&self) -> Self {
        let machine = Machine::decode(&self.machine.encode()).expect("it was encoded");
        Self { machine, view: self.view.clone() }
    }
}

fn put(opened: u64, sequence: u64, acked_below: u64) -> Command {
    let session = SessionId { opened_ts: Timestamp(opened), nonce: 7 };
    let op = WriteOp::Put { key: Key::new("k"), value: Value::string("v") };
    let request = RequestId { session, sequence, acked_below };
    Command::Write { request, op, commit_ts: Timestamp(0) }
}

/// The command, if it is a write, at the next timestamp: the index of its entry.
fn stamped(command: &Command, index: LogIndex) -> Command {
    match command.clone() {
        Command::Write { request, op, .. } => {
            Command::Write { request, op, commit_ts: Timestamp(index.0) }
        }
        other => other,
    }
}

fn bootstrap() -> Command {
    let member = |id| Member {
        id: NodeId(id),
        incarnation: Incarnation(id),
        address: Address(format!("n{id}")),
        state: MemberState::Active,
    };
    let members = (1..=3).map(member).collect();
    let record = ClusterRecord { id: ClusterId(1), members, shard_count: 4, replica_count: 3 };
    Command::Meta(MetaCommand::Bootstrap { record })
}

fn op() -> impl Strategy<Value = WriteOp> {
    let key = || (0_u8..4).prop_map(|at| Key::new(vec![b'a' + at]));
    let value = || proptest::collection::vec(any::<u8>(), 0..8).prop_map(Value::string);
    let expect = prop_oneof![
        Just(Expect::Absent),
        value().prop_map(Expect::Value),
        (0_u64..40).prop_map(|version| Expect::Version(Timestamp(version))),
    ];
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| WriteOp::Put { key, value }),
        key().prop_map(|key| WriteOp::Delete { key }),
        (key(), expect, value()).prop_map(|(key, expect, value)| WriteOp::Cas {
            key,
            expect,
            value
        }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let write = (0_u64..6, 1_u64..12, 0_u64..12, op()).prop_map(|(opened, sequence, acked, op)| {
        let session = SessionId { opened_ts: Timestamp(opened), nonce: opened };
        let acked_below = acked.min(sequence);
        let request = RequestId { session, sequence, acked_below };
        Command::Write { request, op, commit_ts: Timestamp(0) }
    });
    prop_oneof![
        8 => write,
        1 => Just(Command::Noop),
        1 => Just(bootstrap()),
        1 => any::<u64>().prop_map(|nonce| Command::Meta(MetaCommand::OpenSession { nonce })),
        1 => (0_u64..9).prop_map(|epoch| Command::Configuration(configuration(epoch))),
        1 => (0_u64..40).prop_map(|at| Command::RaiseWatermark { watermark: Timestamp(at) }),
        2 => meta_command().prop_map(Command::Meta),
    ]
}

fn configuration(epoch: u64) -> Configuration {
    let initial = Configuration::initial([1, 2, 3].map(NodeId));
    let joint = initial.changed([2, 3, 4].map(NodeId).into(), [NodeId(5)].into());
    Configuration { epoch: Epoch(epoch), ..joint.expect("it differs") }
}

fn meta_command() -> impl Strategy<Value = MetaCommand> {
    let id = || (1_u64..6).prop_map(NodeId);
    prop_oneof![
        (1_u64..9).prop_map(|number| MetaCommand::AddMember {
            incarnation: Incarnation(number),
            address: Address(format!("n{number}")),
        }),
        id().prop_map(|id| MetaCommand::RemoveMember { id }),
        (id(), id()).prop_map(|(old, new)| MetaCommand::ReplaceMember { old, new }),
        (0_u32..6, 0_u64..9).prop_map(|(shard, epoch)| MetaCommand::Placed {
            shard: ShardId(shard),
            configuration: configuration(epoch),
        }),
    ]
}

#[test]
fn configuration_is_kept_and_goes_into_the_hash() {
    let mut shard = Shard::default();
    assert_eq!(shard.machine.configuration(), None);
    let mut other = shard.clone();
    assert_eq!(shard.apply(&Command::Configuration(configuration(2))), Outcome::None);
    other.apply(&Command::Configuration(configuration(3)));
    assert_eq!(shard.machine.configuration(), Some(&configuration(2)));
    assert_ne!(shard.machine.state_hash(), other.machine.state_hash());
    shard.apply(&put(1, 1, 1));
    let reopened = shard.reopened().machine;
    assert_eq!(reopened.configuration(), Some(&configuration(2)));
}

#[test]
fn watermark_only_rises_and_is_stored() {
    let mut shard = Shard::default();
    assert_eq!(shard.machine.watermark(), Timestamp(0));
    let mut other = shard.clone();
    for (raised, holds) in [(5, 5), (3, 5), (5, 5), (9, 9)] {
        let outcome = shard.apply(&Command::RaiseWatermark { watermark: Timestamp(raised) });
        let watermark = Timestamp(holds);
        assert_eq!(outcome, Outcome::WatermarkRaised { watermark });
        assert_eq!(shard.machine.watermark(), watermark);
        assert_eq!(shard.reopened().machine.watermark(), watermark);
        other.apply(&Command::Noop);
    }
    assert_eq!(shard.machine.newest(), Timestamp(0), "it is no write");
    assert_ne!(shard.machine.state_hash(), other.machine.state_hash(), "it goes into the hash");
}

#[test]
fn configurations_are_found_among_payloads() {
    let command = Command::Configuration(configuration(2));
    let payload = command.encode();
    assert_eq!(configuration_in(&payload), Some(configuration(2)));
    assert_eq!(configuration_in(&payload[..payload.len() - 1]), None);
    for other in [Command::Noop, put(1, 1, 1), bootstrap()] {
        assert_eq!(configuration_in(&other.encode()), None);
    }
    assert_eq!(configuration_in(&[]), None);
}

fn version_of(result: &WriteResult) -> Timestamp {
    match result {
        WriteResult::Put { version } => *version,
        other => panic!("{other:?} is not of a put"),
    }
}

proptest! {
    /// A machine that was stored in the middle goes on exactly like one that was not.
    #[test]
    fn stored_machine_goes_on_like_the_original(
        before in proptest::collection::vec(command(), 0..40),
        after in proptest::collection::vec(command(), 0..20),
    ) {
        let mut original = Shard::default();
        before.iter().for_each(|command| drop(original.apply(command)));
        let mut reopened = original.reopened();
        prop_assert_eq!(&reopened.machine, &original.machine);
        for command in &after {
            prop_assert_eq!(reopened.apply(command), original.apply(command));
        }
        prop_assert_eq!(reopened.machine, original.machine);
    }

    #[test]
    fn damaged_machines_never_panic(
        commands in proptest::collection::vec(command(), 0..20),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut shard = Shard::default();
        commands.iter().for_each(|command| drop(shard.apply(command)));
        let mut bytes = shard.machine.encode();
        let _ = Machine::decode(&bytes[..cut.index(bytes.len())]);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Machine::decode(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Machine::decode(&bytes);
    }
}

#[test]
fn full_session_table_comes_back_with_what_it_has_forgotten() {
    let mut shard = Shard::default();
    let last = SESSIONS_PER_SHARD_MAX as u64 + 5;
    for opened in 1..=last {
        shard.apply(&put(opened, 1, 1));
    }
    for sequence in 2..=RESULTS_PER_SESSION_MAX as u64 + 1 {
        shard.apply(&put(last, sequence, 1));
    }
    let mut reopened = shard.reopened();
    assert_eq!(reopened.machine, shard.machine);
    let applied = reopened.machine.applied();
    assert_eq!(reopened.apply(&put(5, 1, 1)), Outcome::SessionExpired, "it was forgotten");
    assert_eq!(reopened.apply(&put(last, 1, 1)), Outcome::Superseded, "its result was forgotten");
    for command in [put(6, 1, 1), put(last, 2, 1)] {
        let Outcome::Written(result) = reopened.apply(&command) else {
            panic!("it ran, and its result is kept");
        };
        assert!(version_of(&result).0 <= applied.index.0, "it does not run again");
    }
    let Outcome::Written(result) = reopened.apply(&put(last + 1, 1, 1)) else {
        panic!("a session behind the floor is new");
    };
    assert_eq!(version_of(&result).0, reopened.machine.applied().index.0);
}
