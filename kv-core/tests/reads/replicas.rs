//! Which replica is asked, and what a session carries.

use std::collections::BTreeSet;
use std::time::Duration;

use kv_core::client::{Answer, Call, Level};
use kv_core::id::{ClusterId, Timestamp};
use kv_core::op::{Found, Key, Value};
use kv_core::ring;
use kv_core::wire::{ClientReply, ClientRequest, ReadLevel, Refusal};

use crate::harness::*;

fn key() -> Key {
    Key::new("k")
}

fn get(level: Level) -> Call {
    Call::GetReplica { key: key(), level }
}

/// How fresh a request wants it.
#[track_caller]
fn level(sent: &Sent) -> ReadLevel {
    match &sent.body {
        ClientRequest::ReadReplica { level, .. } => *level,
        other => panic!("no read at a replica: {other:?}"),
    }
}

fn not_leader() -> Refusal {
    Refusal::NotLeader { shard: ring::shard_of(&key(), 3), hint: None }
}

fn read(at: u64) -> ClientReply {
    ClientReply::ReplicaRead { found: None, at: Timestamp(at) }
}

/// Reads are spread; who could not serve one is not asked next, and after a few the leader is.
#[test]
fn replica_that_refuses_or_is_silent_is_avoided_and_the_leader_is_asked_in_the_end() {
    let mut harness = Harness::new(3);
    let mut firsts = BTreeSet::new();
    for round in 0..20 {
        let call = harness.call(get(Level::Sequential));
        let mut last = None;
        for attempt in 0..4 {
            let sent = harness.only();
            assert_ne!(last.as_ref(), Some(&sent.to), "attempt {attempt} of {round}");
            last = Some(sent.to.clone());
            if attempt == 0 {
                firsts.insert(sent.to.clone());
            }
            match attempt % 2 {
                0 => harness.refuse(&sent, not_leader()),
                _ => harness.unreachable(&sent),
            }
            while harness.sent.is_empty() {
                harness.wait();
            }
        }
        // Nobody is forgotten for the leader because it could not serve such a read.
        let sent = harness.only();
        assert_eq!(sent.to.0, "n1", "round {round}");
        harness.reply(&sent, read(1));
        let got = Answer::GotReplica { found: None, at: Timestamp(1) };
        assert_eq!(harness.result(call), Ok(got));
    }
    assert_eq!(firsts.len(), 3, "{firsts:?}");
}

#[test]
fn session_names_the_last_timestamp_that_it_has_seen() {
    let mut harness = Harness::new(3);
    let mut expect = |call: Call, reply: ClientReply, token: u64| {
        let id = harness.call(call);
        let sent = harness.only();
        harness.reply(&sent, reply);
        assert!(harness.result(id).is_ok());
        harness.call(get(Level::Sequential));
        let sent = harness.only();
        assert_eq!(level(&sent), ReadLevel::Sequential { after: Timestamp(token) });
        harness.reply(&sent, read(token));
    };
    let found = Found { version: Timestamp(7), value: Value::string("v") };
    expect(Call::Get { key: key() }, ClientReply::Read(Some(found.clone())), 7);
    expect(get(Level::Stale { max_age: Duration::from_millis(1_500) }), read(9), 9);
    expect(get(Level::Stale { max_age: Duration::ZERO }), read(8), 9);
    expect(Call::GetAt { key: key(), at: AT }, ClientReply::Read(Some(found)), AT.0);
    assert_eq!(harness.router.session_token(), Some(AT));
    harness.router.join_session(Timestamp(60));
    harness.router.join_session(Timestamp(55));
    assert_eq!(harness.router.session_token(), Some(Timestamp(60)));
}

#[test]
fn age_is_told_in_milliseconds() {
    let mut harness = Harness::new(3);
    for (max_age, max_age_ms) in [
        (Duration::from_micros(1_999), 1),
        (Duration::from_secs(5), 5_000),
        (Duration::MAX, u32::MAX),
    ] {
        harness.call(get(Level::Stale { max_age }));
        let sent = harness.only();
        assert_eq!(level(&sent), ReadLevel::Stale { max_age_ms });
        harness.reply(&sent, read(1));
    }
}

/// What was seen at an unknown moment is below a timestamp that is taken afterwards.
#[test]
fn session_that_saw_nothing_takes_a_timestamp_first() {
    let mut harness = Harness::new(3);
    harness.call(Call::Get { key: key() });
    let sent = harness.only();
    harness.reply(&sent, ClientReply::Read(None));
    harness.call(get(Level::Sequential));
    let early = harness.only();
    assert_eq!(early.body, ClientRequest::Timestamp);
    // It sees nothing once more, when the timestamp may have been issued.
    harness.call(Call::Get { key: key() });
    let sent = harness.only();
    harness.reply(&sent, ClientReply::Read(None));
    harness.reply(&early, ClientReply::Timestamp(Timestamp(20)));
    assert_eq!(harness.router.session_token(), None);
    let late = harness.only();
    assert_eq!(late.body, ClientRequest::Timestamp);
    harness.reply(&late, ClientReply::Timestamp(Timestamp(30)));
    assert_eq!(level(&harness.only()), ReadLevel::Sequential { after: Timestamp(30) });
    assert_eq!(harness.router.session_token(), Some(Timestamp(30)));
}

/// It has not issued what the session saw of the old one.
#[test]
fn session_begins_anew_with_another_cluster() {
    let mut harness = Harness::new(3);
    harness.call(get(Level::Sequential));
    let sent = harness.only();
    harness.reply(&sent, read(90));
    assert_eq!(harness.router.session_token(), Some(Timestamp(90)));
    harness.cluster = ClusterId(2);
    harness.call(Call::Map);
    assert_eq!(harness.router.session_token(), Some(Timestamp(0)));
}
