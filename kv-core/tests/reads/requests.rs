//! How what is read at a timestamp is asked for, repeated, redirected and given up.

use std::collections::BTreeSet;

use kv_core::client::{Answer, Call, CallError};
use kv_core::cluster::ShardEntry;
use kv_core::id::{Epoch, NodeId, ShardId, Timestamp};
use kv_core::op::{Found, Key, Page, Value};
use kv_core::ring;
use kv_core::wire::{ClientReply, ClientRequest, Refusal};

use crate::harness::*;

fn empty() -> ClientReply {
    ClientReply::Page(Page::default())
}

fn too_old() -> Refusal {
    Refusal::SnapshotTooOld { at: AT, oldest: Timestamp(90) }
}

#[test]
fn timestamp_comes_from_any_node_and_needs_no_map() {
    let mut harness = Harness::new(3);
    let call = harness.call(Call::Timestamp);
    let mut asked = BTreeSet::new();
    for attempt in 0..12 {
        let sent = harness.only();
        assert_eq!(sent.body, ClientRequest::Timestamp);
        asked.insert(sent.to.clone());
        match attempt % 2 {
            0 => harness.unreachable(&sent),
            _ => harness.refuse(&sent, Refusal::NotReady),
        }
        harness.wait();
    }
    assert!(asked.len() > 1, "others are asked as well: {asked:?}");
    let sent = harness.only();
    // What answers something else counts for nothing.
    harness.reply(&sent, ClientReply::Read(None));
    harness.reply(&sent, empty());
    assert!(harness.done.is_empty());
    harness.reply(&sent, ClientReply::Timestamp(AT));
    assert_eq!(harness.result(call), Ok(Answer::Timestamp(AT)));
    harness.assert_idle();
}

#[test]
fn key_is_read_at_the_leader_of_its_shard() {
    let mut harness = Harness::new(3);
    let key = Key::new("k");
    let found = Some(Found { version: Timestamp(3), value: Value::string("v") });
    let shard = ring::shard_of(&key, 3);
    let call = harness.call(Call::GetAt { key: key.clone(), at: AT });
    let sent = harness.only();
    let ClientRequest::ReadAt { at: AT, shard: asked, .. } = &sent.body else {
        panic!("{sent:?}");
    };
    assert_eq!((*asked, sent.to.0.as_str()), (shard, "n1"));
    harness.refuse(&sent, Refusal::NotLeader { shard, hint: Some(NodeId(2)) });
    let sent = harness.only();
    assert_eq!(sent.to.0, "n2");
    harness.reply(&sent, ClientReply::Read(found.clone()));
    assert_eq!(harness.result(call), Ok(Answer::Got(found)));

    let call = harness.call(Call::GetAt { key, at: AT });
    let sent = harness.only();
    harness.refuse(&sent, too_old());
    assert_eq!(harness.result(call), Err(CallError::Refused(too_old())));
    harness.assert_idle();
}

#[test]
fn scan_asks_all_shards_at_once() {
    let mut harness = Harness::new(16);
    let call = harness.call(scan_of("a".."b", NO_LIMIT));
    let sent = harness.take_sent();
    let shards: Vec<_> = sent.iter().map(|sent| sent.part().0.0).collect();
    assert_eq!(shards, (1..=16).collect::<Vec<_>>());
    assert_eq!(harness.map_count, 1);
    sent.iter().for_each(|sent| harness.reply(sent, empty()));
    assert_eq!(harness.page(call), Page::default());
    harness.assert_idle();
}

#[test]
fn each_part_is_redirected_and_repeated_by_itself() {
    let mut harness = Harness::new(3);
    let call = harness.call(scan_of(.., NO_LIMIT));
    let sent = harness.take_sent();
    harness.refuse(&sent[0], Refusal::NotLeader { shard: ShardId(1), hint: Some(NodeId(2)) });
    let moved = harness.only();
    assert_eq!((moved.to.0.as_str(), moved.part()), ("n2", sent[0].part()));

    let voters = [2, 3].map(NodeId).to_vec();
    let entry = ShardEntry { epoch: Epoch(9), ..ShardEntry::new(ShardId(2), voters) };
    harness.refuse(&sent[1], Refusal::WrongEpoch { entry: Box::new(entry) });
    let placed = harness.only();
    assert_eq!(placed.part(), sent[1].part());
    assert!(matches!(placed.body, ClientRequest::ScanAt { epoch: Epoch(9), .. }), "{placed:?}");
    assert_ne!(placed.to.0, "n1", "it votes no more");

    harness.reply(&moved, empty());
    harness.reply(&placed, empty());
    harness.wait(); // The third does not answer.
    harness.wait(); // The pause.
    let again = harness.only();
    assert_eq!(again.part(), sent[2].part());
    // The first attempt was given up, and its answer comes too late.
    harness.reply(&sent[2], empty());
    assert!(!harness.done.contains_key(&call));
    harness.reply(&again, empty());
    assert_eq!(harness.page(call), Page::default());
    harness.assert_idle();
}

#[test]
fn final_refusal_of_one_shard_ends_the_scan_and_all_its_parts() {
    let full = Refusal::Diverged { shard: ShardId(2), index: kv_core::id::LogIndex(7) };
    let future = Refusal::FutureTimestamp { at: AT, newest: Timestamp(4) };
    for refusal in [too_old(), future, full] {
        let mut harness = Harness::new(3);
        let call = harness.call(scan_of(.., NO_LIMIT));
        let sent = harness.take_sent();
        harness.reply(&sent[0], empty());
        harness.refuse(&sent[1], refusal.clone());
        assert_eq!(harness.result(call), Err(CallError::Refused(refusal)));
        harness.assert_idle();
        harness.reply(&sent[2], empty());
        harness.assert_idle();
    }
}

#[test]
fn deadline_ends_the_scan_with_what_a_silent_shard_said_last() {
    let mut harness = Harness::new(3);
    let call = harness.call(scan_of(.., NO_LIMIT));
    let sent = harness.take_sent();
    harness.reply(&sent[0], empty());
    let last = Refusal::NotLeader { shard: ShardId(2), hint: None };
    harness.refuse(&sent[1], last.clone());
    while !harness.done.contains_key(&call) {
        harness.wait();
        harness.take_sent();
    }
    assert_eq!(harness.result(call), Err(CallError::Unavailable { last: Some(last) }));
    assert_eq!(harness.now, kv_core::time::Instant::ZERO + DEADLINE);
    harness.assert_idle();
}

#[test]
fn scan_without_a_map_waits_for_one_up_to_its_deadline() {
    use kv_core::client::{Router, RouterConfig, RouterInput, RouterOutput};
    use kv_core::time::Instant;
    let config = RouterConfig::new(vec![kv_core::id::Address("n1".into())]);
    let mut router = Router::new(config, 1);
    let call = router.call(Instant::ZERO, scan_of(.., NO_LIMIT), Instant::ZERO + DEADLINE);
    let (mut now, mut result) = (Instant::ZERO, None);
    while result.is_none() {
        while let Some(output) = router.poll_output() {
            match output {
                RouterOutput::Send { request, .. } => assert_eq!(request.body, ClientRequest::Map),
                RouterOutput::Done { call: ended, result: how } => {
                    assert_eq!(ended, call);
                    result = Some(how);
                }
            }
        }
        let Some(at) = router.poll_timeout() else { break };
        now = at;
        router.handle(now, RouterInput::Timeout);
    }
    assert_eq!(result, Some(Err(CallError::Unavailable { last: None })));
    assert!(now >= Instant::ZERO + DEADLINE);
}
