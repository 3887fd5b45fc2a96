//! That the checks of sessions find what is wrong, and nothing else.

use std::time::Duration;

use kv_core::id::{ShardId, Term, Timestamp};
use kv_core::node::Event;
use kv_core::op::{Found, Key, Value};
use kv_core::raft::Role;
use kv_core::ring;

use super::{Freshness, SessionEnd, SessionEvent, SessionOp, SessionRecorder};
use crate::engine::{Check, CheckVerdict as Verdict, ProcessId};

const SECOND: u64 = 1_000_000_000;
/// A tenth.
const DRIFT_MAX: u32 = 100_000;

/// What sessions did, as a test tells it.
#[derive(Default)]
struct Story(SessionRecorder);

impl Story {
    fn tell(&mut self, now: u64, session: u64, op: SessionOp, end: Option<SessionEnd>) {
        self.0.record(now, &SessionEvent { session, op, end }, 4);
    }

    /// A write from one second to the next.
    fn write(&mut self, second: u64, session: u64, value: u64, version: u64) {
        self.write_ending(
            second,
            session,
            value,
            |version| SessionEnd::Written { version },
            version,
        );
    }

    fn write_ending(
        &mut self,
        second: u64,
        session: u64,
        value: u64,
        end: fn(Timestamp) -> SessionEnd,
        version: u64,
    ) {
        let op = SessionOp::Write { keys: vec![key()], value };
        self.tell(second * SECOND, session, op.clone(), None);
        self.tell((second + 1) * SECOND, session, op, Some(end(Timestamp(version))));
    }

    /// A read from one second to the next: of which value and version, and at which timestamp.
    fn read(
        &mut self,
        second: u64,
        session: u64,
        freshness: Freshness,
        found: Option<(u64, u64)>,
        at: Option<u64>,
    ) {
        let op = SessionOp::Read { key: key(), freshness };
        self.tell(second * SECOND, session, op.clone(), None);
        let found = found.map(|(value, version)| Found {
            version: Timestamp(version),
            value: Value::string(value.to_string().into_bytes()),
        });
        let (at, by) = (at.map(Timestamp), ProcessId::Server(0));
        let end = SessionEnd::Read { found, at, by };
        self.tell((second + 1) * SECOND, session, op, Some(end));
    }

    #[track_caller]
    fn check(&self, sessions: Verdict, reads: Verdict) {
        let verdicts = [self.0.judge_sessions(), self.0.judge_reads(DRIFT_MAX)];
        let found = verdicts.each_ref().map(|check: &Check| check.verdict);
        assert_eq!(found, [sessions, reads], "{verdicts:?}");
    }
}

fn key() -> Key {
    Key::new("k")
}

fn stale(seconds: u64) -> Freshness {
    Freshness::Stale(Duration::from_secs(seconds))
}

/// Two writes, the first acknowledged after a second and the other after eleven.
fn written() -> Story {
    let mut story = Story::default();
    story.write(0, 1, 5, 100);
    story.write(10, 1, 6, 200);
    story
}

#[test]
fn what_is_right_passes() {
    let mut story = written();
    story.read(11, 1, Freshness::Sequential, Some((6, 200)), Some(200));
    story.read(12, 2, Freshness::Sequential, Some((5, 100)), Some(199));
    story.read(13, 2, Freshness::Linearizable, Some((6, 200)), None);
    story.read(15, 2, stale(5), Some((5, 100)), Some(150));
    story.read(16, 1, Freshness::Sequential, Some((6, 200)), Some(250));
    story.check(Verdict::Pass, Verdict::Pass);
}

#[test]
fn session_that_goes_back_is_found() {
    let mut story = written();
    story.read(11, 1, Freshness::Sequential, Some((5, 100)), Some(199));
    story.check(Verdict::Fail, Verdict::Pass);
    // Behind what it has read elsewhere, though it sees the same.
    let mut story = written();
    story.read(11, 2, stale(60), Some((6, 200)), Some(300));
    story.read(12, 2, Freshness::Sequential, Some((6, 200)), Some(299));
    story.check(Verdict::Fail, Verdict::Pass);
}

#[test]
fn write_below_what_its_session_saw_is_found() {
    let mut story = written();
    story.read(11, 2, stale(60), Some((6, 200)), Some(300));
    story.write(12, 2, 7, 299);
    assert_eq!(story.0.judge_sessions().verdict, Verdict::Fail);
}

#[test]
fn read_that_is_not_as_of_its_timestamp_is_found() {
    for (found, at) in [(Some((5, 100)), 200), (None, 100), (Some((6, 200)), 199)] {
        let mut story = written();
        story.read(11, 2, Freshness::Sequential, found, Some(at));
        story.check(Verdict::Pass, Verdict::Fail);
    }
    // Of a write that was not answered, somebody has seen that it is there.
    let mut story = written();
    story.write_ending(12, 3, 7, |_| SessionEnd::Unknown, 0);
    story.read(14, 2, Freshness::Sequential, Some((7, 300)), Some(300));
    story.check(Verdict::Pass, Verdict::Pass);
    story.read(15, 3, Freshness::Sequential, Some((6, 200)), Some(301));
    story.check(Verdict::Pass, Verdict::Fail);
}

#[test]
fn read_that_is_too_old_is_found() {
    let mut story = written();
    story.read(16, 2, stale(5), Some((5, 100)), Some(150));
    story.check(Verdict::Pass, Verdict::Pass);
    let mut story = written();
    story.read(17, 2, stale(5), Some((5, 100)), Some(150));
    story.check(Verdict::Pass, Verdict::Fail);
    let mut story = written();
    story.read(12, 2, Freshness::Linearizable, Some((5, 100)), None);
    story.check(Verdict::Pass, Verdict::Fail);
}

#[test]
fn value_that_is_not_of_its_version_is_found() {
    for found in [(5, 200), (9, 200)] {
        let mut story = written();
        story.read(12, 2, Freshness::Linearizable, Some(found), None);
        story.check(Verdict::Pass, Verdict::Fail);
    }
}

#[test]
fn reads_are_to_be_served_by_followers() {
    let (server, term) = (ProcessId::Server(0), Term(1));
    let shard = ring::shard_of(&key(), 4);
    let mut story = written();
    story.read(12, 2, stale(60), Some((6, 200)), Some(200));
    assert_eq!(story.0.judge_followers().verdict, Verdict::Pass);
    for (shard, verdict) in [(ShardId(shard.0 % 4 + 1), Verdict::Pass), (shard, Verdict::Fail)] {
        let mut story = written();
        story.0.on_node_event(server, &Event::RoleChanged { shard, term, role: Role::Leader });
        story.read(12, 2, stale(60), Some((6, 200)), Some(200));
        assert_eq!(story.0.judge_followers().verdict, verdict);
    }
    assert_eq!(Story::default().0.judge_followers().verdict, Verdict::Fail, "none was served");
}
