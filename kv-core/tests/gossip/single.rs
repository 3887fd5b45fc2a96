//! One node, and what others tell it.

use std::time::Duration;

use kv_core::codec;
use kv_core::gossip::{
    Delta, Digest, Endpoint, Entry, Gossip, GossipConfig, GossipMessage, MESSAGE_BYTES_MAX,
    MemberState, Output, To, Update, Value,
};
use kv_core::id::{Address, Generation, Heartbeat, Incarnation, NodeId, RecordVersion};
use kv_core::time::Instant;

use crate::network::introduction;

const START: Instant = Instant::from_nanos(1_000_000_000);

fn gossip() -> Gossip {
    let seeds = vec![Address("10.0.0.2:7400".to_owned())];
    Gossip::new(GossipConfig::default(), introduction(1), seeds, 1, START).expect("a good start")
}

fn entry(node: u64, generation: u64, state: MemberState, heartbeat: u64) -> Entry {
    let (node, heartbeat) = (NodeId(node), Heartbeat(heartbeat));
    Entry { node, generation: Generation(generation), state, heartbeat }
}

/// A whole record of a member.
fn record(entry: Entry) -> Delta {
    let address = Address(format!("10.0.0.{}:7400", entry.node.0));
    let endpoint = Value::Endpoint(Endpoint { incarnation: Incarnation(7), address });
    let version = RecordVersion(1);
    Delta { entry, version, base: RecordVersion(0), values: vec![(version, endpoint)] }
}

fn told(deltas: Vec<Delta>, entries: Vec<Entry>) -> GossipMessage {
    GossipMessage::Update(Update { entries, deltas })
}

fn sent(gossip: &mut Gossip) -> Vec<(To, GossipMessage)> {
    let outputs = std::iter::from_fn(|| gossip.poll_output());
    let sent = outputs.filter_map(|output| match output {
        Output::Send { to, message } => Some((to, message)),
        Output::Changed { .. } | Output::Moved { .. } => None,
    });
    sent.collect()
}

/// A node that knows members 2 to `last`.
fn acquainted(last: u64) -> Gossip {
    let mut gossip = gossip();
    for node in 2..=last {
        let known = record(entry(node, 1, MemberState::Alive, 10));
        gossip.handle(START, NodeId(2), told(vec![known], vec![]));
    }
    sent(&mut gossip);
    gossip
}

/// A member that was heard of once is not suspected before the time of grace is over: it may have
/// started a moment ago.
#[test]
fn a_new_member_has_a_time_of_grace() {
    let grace = Duration::from_secs(20);
    let config = GossipConfig { grace, ..GossipConfig::default() };
    let mut gossip = Gossip::new(config, introduction(1), vec![], 1, START).expect("a good start");
    let known = record(entry(2, 1, MemberState::Alive, 10));
    gossip.handle(START, NodeId(2), told(vec![known], vec![]));
    let mut now = START;
    while gossip.state(NodeId(2)) == Some(MemberState::Alive) {
        let phi = gossip.member(now, NodeId(2)).expect("a member").phi;
        assert!(now >= START + grace || phi == 0.0, "phi is {phi} at {now}");
        now = gossip.poll_timeout().expect("a deadline");
        gossip.on_timeout(now);
        sent(&mut gossip);
    }
    assert_eq!(now, START + grace, "the silence was suspicious long before");
}

/// Of two beliefs the same one wins in either order.
#[test]
fn rule_c59_beliefs_have_one_order() {
    use MemberState::{Alive, Down, Left, Suspect};
    let weights = [
        entry(2, 1, Alive, 10),
        entry(2, 1, Suspect, 10),
        entry(2, 1, Down, 10),
        entry(2, 1, Alive, 11),
        entry(2, 1, Down, 12),
        entry(2, 1, Left, 5),
        entry(2, 1, Left, 12),
        entry(2, 2, Alive, 3),
        entry(2, 2, Suspect, 3),
    ];
    for (light, first) in weights.iter().enumerate() {
        for (heavy, second) in weights.iter().enumerate() {
            let mut gossip = gossip();
            gossip.handle(START, NodeId(3), told(vec![record(*first)], vec![]));
            gossip.handle(START, NodeId(3), told(vec![], vec![*second]));
            let expected = weights[light.max(heavy)];
            let known = gossip.member(START, NodeId(2)).expect("a member");
            let actual = (known.generation, known.state, known.heartbeat);
            let expected = (expected.generation, expected.state, expected.heartbeat);
            assert_eq!(actual, expected, "{first:?}, then {second:?}");
        }
    }
}

#[test]
fn rule_c59_an_accused_node_refutes_at_once() {
    for state in [MemberState::Suspect, MemberState::Down, MemberState::Left] {
        let mut gossip = acquainted(5);
        gossip.handle(START, NodeId(3), told(vec![], vec![entry(1, 6, state, 0)]));
        // News were sent only now; the refutation follows a tenth of an interval later.
        let later = START + Duration::from_millis(100);
        gossip.on_timeout(later);
        assert_eq!(gossip.generation(), Generation(7));
        let own = entry(1, 7, MemberState::Alive, 0);
        let says_so = |message: &GossipMessage| match message {
            GossipMessage::Update(update) => update.entries.iter().any(|told| {
                (told.node, told.generation, told.state) == (own.node, own.generation, own.state)
            }),
            GossipMessage::Digest { .. } | GossipMessage::Reply { .. } => false,
        };
        assert!(sent(&mut gossip).iter().any(|(_, message)| says_so(message)), "{state:?}");
        // The accusation that is still around is old by now.
        gossip.handle(later, NodeId(4), told(vec![], vec![entry(1, 6, state, 0)]));
        assert_eq!(gossip.generation(), Generation(7));
    }
}

#[test]
fn a_silent_member_is_probed_then_suspect_then_down() {
    let mut gossip = acquainted(2);
    let mut now = START;
    let mut seen = vec![];
    for beat in 11..100 {
        now = now + Duration::from_millis(500);
        gossip.handle(now, NodeId(2), told(vec![], vec![entry(2, 1, MemberState::Alive, beat)]));
        gossip.on_timeout(now);
    }
    sent(&mut gossip);
    let heard_at = now;
    while now < heard_at + Duration::from_secs(30) {
        now = gossip.poll_timeout().expect("a deadline").min(heard_at + Duration::from_secs(30));
        gossip.on_timeout(now);
        while let Some(output) = gossip.poll_output() {
            let silence = now.saturating_since(heard_at).as_millis();
            match output {
                Output::Changed { state, .. } => seen.push((format!("{state:?}"), silence)),
                Output::Send { message: GossipMessage::Digest { digest, .. }, .. }
                    if digest.last == Some(NodeId(2)) =>
                {
                    seen.push(("probe".to_owned(), silence));
                }
                Output::Send { .. } | Output::Moved { .. } => {}
            }
        }
    }
    // Mean 0.5 s, least deviation 0.2 s, pause 0.25 s: phi is 4 after 3.72 deviations and 8 after
    // 5.61 of them.
    let at = |name: &str| seen.iter().find(|(seen, _)| seen == name).expect(name).1;
    assert!((1_440..=1_560).contains(&at("probe")), "{seen:?}");
    assert!((1_850..=1_950).contains(&at("Suspect")), "{seen:?}");
    assert_eq!(at("Down") - at("Suspect"), 10_000, "{seen:?}");
    assert_eq!(gossip.member(now, NodeId(2)).expect("still a member").phi, 0.0);
}

/// Nothing was heard while this node did not run, which says nothing of the others.
#[test]
fn a_node_that_slept_blames_nobody() {
    let mut gossip = acquainted(10);
    let mut now = START;
    while now < START + Duration::from_secs(4) {
        now = gossip.poll_timeout().expect("a deadline");
        for node in 2..=10 {
            let beat = 10 + now.as_nanos() / 100_000_000;
            let alive = entry(node, 1, MemberState::Alive, beat);
            gossip.handle(now, NodeId(node), told(vec![], vec![alive]));
        }
        gossip.on_timeout(now);
    }
    now = now + Duration::from_secs(60);
    gossip.on_timeout(now);
    for node in 2..=10 {
        assert_eq!(gossip.state(NodeId(node)), Some(MemberState::Alive), "{node}");
        assert_eq!(gossip.member(now, NodeId(node)).expect("a member").phi, 0.0);
    }
    // Whoever stays silent is suspect later all the same.
    gossip.on_timeout(now + Duration::from_millis(1_400));
    gossip.on_timeout(now + Duration::from_millis(2_300));
    gossip.on_timeout(now + Duration::from_millis(3_100));
    assert_eq!(gossip.state(NodeId(2)), Some(MemberState::Suspect));
}

/// After days, with large numbers in all entries.
#[test]
fn a_digest_of_50_nodes_has_far_less_than_700_bytes() {
    let entries = (1..=50).map(|node| entry(node, 40, MemberState::Alive, 2_000_000)).collect();
    let mut digest = Digest { first: NodeId(0), last: None, entries, versions: vec![] };
    let address = Address("10.0.0.1:7400".to_owned());
    let bytes = |digest: &Digest| {
        let (address, digest) = (address.clone(), digest.clone());
        codec::encode(&GossipMessage::Digest { address, digest }).len()
    };
    assert_eq!(bytes(&digest), 419);
    digest.versions = vec![RecordVersion(10_000); 50];
    assert_eq!(bytes(&digest), 569);
}

/// More nodes than fit: the parts of the digests cover all of them in the end, and no message is too
/// long.
#[test]
fn what_does_not_fit_into_a_message_is_sent_later() {
    let mut gossip = acquainted(900);
    let mut now = START;
    let mut listed = std::collections::BTreeSet::new();
    for _ in 0..200 {
        now = gossip.poll_timeout().expect("a deadline");
        gossip.on_timeout(now);
        for (_, message) in sent(&mut gossip) {
            assert!(codec::encode(&message).len() <= MESSAGE_BYTES_MAX);
            if let GossipMessage::Digest { digest, .. } = message {
                assert!(digest.entries.iter().all(|entry| digest.covers(entry.node)));
                listed.extend(digest.entries.iter().map(|entry| entry.node));
            }
        }
    }
    assert_eq!(listed.len(), 900);
    // Who knows nothing gets as much as fits, the most recent first.
    let digest = Digest { first: NodeId(0), last: None, entries: vec![], versions: vec![] };
    let address = Address("10.0.0.2:7400".to_owned());
    gossip.handle(now, NodeId(2), GossipMessage::Digest { address, digest });
    let (_, reply) = sent(&mut gossip).pop().expect("a reply");
    assert!(codec::encode(&reply).len() <= MESSAGE_BYTES_MAX);
    assert!(codec::encode(&reply).len() > MESSAGE_BYTES_MAX - 100);
    let GossipMessage::Reply { update, .. } = reply else { panic!("not a reply: {reply:?}") };
    assert!(update.deltas.iter().any(|delta| delta.entry.node == NodeId(1)), "its own first");
}

#[test]
fn what_cannot_be_is_ignored_and_counted() {
    let mut gossip = acquainted(3);
    let before = gossip.ignored_count();
    let huge = entry(2, u64::MAX, MemberState::Alive, 1);
    gossip.handle(START, NodeId(2), told(vec![], vec![huge]));
    gossip.handle(START, NodeId(2), told(vec![record(entry(0, 1, MemberState::Alive, 1))], vec![]));
    let mut long = record(entry(4, 1, MemberState::Alive, 1));
    let address = Address("x".repeat(10_000));
    let endpoint = Value::Endpoint(Endpoint { incarnation: Incarnation(7), address });
    long.values = vec![(RecordVersion(1), endpoint)];
    gossip.handle(START, NodeId(2), told(vec![long], vec![]));
    // A message that claims to come from this node itself.
    gossip.handle(START, NodeId(1), told(vec![], vec![entry(2, 9, MemberState::Down, 1)]));
    assert_eq!(gossip.ignored_count() - before, 4);
    assert_eq!(gossip.members(START).count(), 2);
    assert_eq!(gossip.state(NodeId(2)), Some(MemberState::Alive));
}

/// A delta that builds on values that are missing here must not pass for the whole.
#[test]
fn a_delta_that_does_not_join_on_changes_no_value() {
    let mut gossip = acquainted(2);
    let entry = entry(2, 1, MemberState::Alive, 11);
    let values = vec![(RecordVersion(9), Value::MapVersion(5))];
    let delta = Delta { entry, version: RecordVersion(9), base: RecordVersion(8), values };
    gossip.handle(START, NodeId(2), told(vec![delta.clone()], vec![]));
    let known = gossip.member(START, NodeId(2)).expect("a member");
    assert_eq!((known.heartbeat, known.map_version), (Heartbeat(11), 0));
    let delta = Delta { base: RecordVersion(1), ..delta };
    gossip.handle(START, NodeId(2), told(vec![delta], vec![]));
    assert_eq!(gossip.member(START, NodeId(2)).expect("a member").map_version, 5);
}

#[test]
fn a_tombstone_ends() {
    let mut gossip = acquainted(3);
    gossip.forget(START, NodeId(2));
    let back = told(vec![record(entry(2, 9, MemberState::Alive, 1))], vec![]);
    gossip.handle(START, NodeId(3), back.clone());
    gossip.handle(START, NodeId(2), back.clone());
    assert_eq!(gossip.state(NodeId(2)), None);
    let later = START + Duration::from_secs(3_601);
    gossip.on_timeout(later);
    gossip.handle(later, NodeId(3), back);
    assert_eq!(gossip.state(NodeId(2)), Some(MemberState::Alive));
}

#[test]
fn a_configuration_out_of_range_is_refused_with_all_mistakes() {
    let config = GossipConfig {
        interval: Duration::from_millis(1),
        fanout: 0,
        phi_threshold: f64::NAN,
        window: 1,
        ..GossipConfig::default()
    };
    let errors = Gossip::new(config, introduction(1), vec![], 1, START).expect_err("refused");
    let fields: Vec<_> = errors.0.iter().map(|error| error.field).collect();
    let expected = ["interval", "fanout", "phi_threshold", "deviation_min", "window"];
    for field in expected {
        assert!(fields.contains(&field), "{field} is missing in {fields:?}");
    }
    assert!(errors.to_string().contains("fanout of gossip must be from 1 to 8"), "{errors}");
    assert_eq!(GossipConfig::default().validate(), Ok(()));
    assert_eq!(GossipConfig::with_interval(Duration::from_secs(60)).validate(), Ok(()));
}
