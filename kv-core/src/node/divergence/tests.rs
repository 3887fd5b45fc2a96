//! What hashes of one index come to: who is right is decided by most voters, or not at all.

use super::*;

/// Judges hashes as `node=hash`; voters of both halves of a joint configuration as `1 2 3/4 5`.
#[track_caller]
fn check(voters: &str, told: &str, expected: &Verdict) {
    let (incoming, outgoing) = voters.split_once('/').unwrap_or((voters, ""));
    let ids = |text: &str| text.split_whitespace().map(id).collect();
    let configuration =
        Configuration { outgoing: ids(outgoing), ..Configuration::initial(ids(incoming)) };
    let mut states = States::default();
    for (node, hash) in told.split_whitespace().filter_map(|pair| pair.split_once('=')) {
        let hash = hash.parse().expect("a hash is a number");
        states.note(id(node), StateHash { index: LogIndex(1_024), hash });
    }
    assert_eq!(states.judge(&configuration, LogIndex(1_024)), *expected, "{voters}: {told}");
}

fn id(text: &str) -> NodeId {
    NodeId(text.parse().expect("a node is a number"))
}

fn decided(hash: u64, minority: &[u64]) -> Verdict {
    Verdict::Decided(hash, minority.iter().copied().map(NodeId).collect())
}

#[test]
fn most_voters_decide_and_nobody_else() {
    check("1 2 3", "", &Verdict::Open);
    check("1 2 3", "1=7 2=7", &decided(7, &[]));
    check("1 2 3", "1=7 2=8", &Verdict::Open);
    check("1 2 3", "1=7 2=8 3=8", &decided(8, &[1]));
    check("1 2 3", "1=7 2=8 3=9", &Verdict::Undecidable);
    check("1 2 3 4 5", "1=7 2=7 3=8 4=8", &Verdict::Open);
    check("1 2 3 4 5", "1=7 2=7 3=8 4=8 5=9", &Verdict::Undecidable);
    check("1 2 3 4 5", "1=7 2=8 3=7 4=9 5=7", &decided(7, &[2, 4]));
    check("1 2", "1=7 2=8", &Verdict::Undecidable);
    // A learner is judged, and does not judge.
    check("1 2 3", "1=7 4=8 5=8", &Verdict::Open);
    check("1 2 3", "1=7 2=7 4=8", &decided(7, &[4]));
}

#[test]
fn both_halves_of_a_joint_configuration_must_agree() {
    check("1 2 3/3 4 5", "1=7 2=7 3=7", &Verdict::Open);
    check("1 2 3/3 4 5", "1=7 2=7 3=8 4=7 5=7", &decided(7, &[3]));
    check("1 2 3/3 4 5", "1=7 2=7 4=8 5=8", &Verdict::Undecidable);
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let mut states = States::default();
    for index in (1..=6).map(|number| LogIndex(number * 1_024)) {
        states.note(NodeId(1), StateHash { index, hash: 7 });
    }
    assert_eq!(states.hashes.len(), CHECKPOINTS_MAX);
    assert_eq!(states.of(NodeId(1), LogIndex(2_048)), None);
    assert_eq!(states.of(NodeId(1), LogIndex(3_072)), Some(7));
    states.note(NodeId(2), StateHash { index: LogIndex(1_024), hash: 8 });
    assert_eq!(states.of(NodeId(2), LogIndex(1_024)), None, "what comes late pushes nothing out");
}
