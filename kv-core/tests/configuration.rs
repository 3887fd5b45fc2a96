//! Configurations against what their definitions say, exhaustively for small groups.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;

use kv_core::id::{Epoch, NodeId};
use kv_core::raft::{ChangeError, Configuration, VoteResult};

/// The nodes whose bits are set.
fn nodes(bits: u32) -> BTreeSet<NodeId> {
    (0..8).filter(|bit| bits >> bit & 1 == 1).map(|bit| NodeId(bit + 1)).collect()
}

fn joint(incoming: u32, outgoing: u32) -> Configuration {
    Configuration {
        epoch: Epoch(7),
        voters: nodes(incoming),
        outgoing: nodes(outgoing),
        learners: BTreeSet::new(),
    }
}

fn is_in(bits: u32, node: NodeId) -> bool {
    bits >> (node.0 - 1) & 1 == 1
}

/// What the definition says: more than half of the voters, and of the outgoing ones if there are
/// any.
fn decides(config: &Configuration, agreeing: u32) -> bool {
    let by = |voters: &BTreeSet<NodeId>| {
        2 * voters.iter().filter(|node| is_in(agreeing, **node)).count() > voters.len()
    };
    by(&config.voters) && (config.outgoing.is_empty() || by(&config.outgoing))
}

/// Every pair of voters and outgoing voters among seven nodes, without those that only rename
/// nodes: as many in both, in the first only, in the second only.
fn shapes() -> impl Iterator<Item = Configuration> {
    let shape = |both: u32, incoming: u32, outgoing: u32| {
        let (one, two) = ((1 << incoming) - 1, (1 << outgoing) - 1);
        let shared = (1 << both) - 1;
        joint(shared | one << both, shared | two << (both + incoming))
    };
    let counts = (0..=7_u32).flat_map(|both| {
        (0..=7 - both).flat_map(move |incoming| {
            (0..=7 - both - incoming).map(move |outgoing| (both, incoming, outgoing))
        })
    });
    let joint = counts
        .filter(|(both, incoming, _)| both + incoming > 0)
        .map(move |(both, incoming, outgoing)| shape(both, incoming, outgoing));
    let simple = (1..=7).map(|count| Configuration::initial(nodes((1 << count) - 1)));
    joint.chain(simple)
}

#[test]
fn rule_c49_quorums_match_the_definition_for_all_configurations_of_seven() {
    for config in shapes() {
        for agreeing in 0..1 << 7 {
            let is_quorum = config.is_quorum(|node| is_in(agreeing, node));
            assert_eq!(is_quorum, decides(&config, agreeing), "{config} {agreeing:07b}");
        }
    }
}

#[test]
fn rule_c49_votes_are_won_or_lost_exactly_when_nobody_can_change_it() {
    for config in shapes() {
        let voters: Vec<NodeId> = config.all_voters().collect();
        for case in 0..3_u32.pow(voters.len() as u32) {
            let answer = |node: NodeId| {
                let at = voters.iter().position(|voter| *voter == node).unwrap() as u32;
                [None, Some(true), Some(false)][(case / 3_u32.pow(at) % 3) as usize]
            };
            let bits = |wanted: &[Option<bool>]| {
                let hit = voters.iter().filter(|voter| wanted.contains(&answer(**voter)));
                hit.fold(0, |bits, voter| bits | 1 << (voter.0 - 1))
            };
            let expected = if decides(&config, bits(&[Some(true)])) {
                VoteResult::Won
            } else if decides(&config, bits(&[Some(true), None])) {
                VoteResult::Pending
            } else {
                VoteResult::Lost
            };
            assert_eq!(config.vote_result(answer), expected, "{config} case {case}");
        }
    }
}

#[test]
fn rule_c49_what_a_quorum_has_reached_matches_the_definition() {
    for config in shapes() {
        let voters: Vec<NodeId> = config.all_voters().collect();
        for case in 0..3_u64.pow(voters.len() as u32) {
            let reached = |node: NodeId| {
                let at = voters.iter().position(|voter| *voter == node).unwrap() as u32;
                case / 3_u64.pow(at) % 3
            };
            let at_least = |value: u64| {
                let hit = voters.iter().filter(|voter| reached(**voter) >= value);
                decides(&config, hit.fold(0, |bits, voter| bits | 1 << (voter.0 - 1)))
            };
            let expected = (0..3).filter(|value| at_least(*value)).max();
            assert_eq!(config.reached(reached), expected, "{config} case {case}");
        }
    }
}

#[test]
fn rule_c49_no_two_configurations_in_a_row_have_disjoint_quorums() {
    for before in 1..1_u32 << 6 {
        for after in 1..1_u32 << 6 {
            let first = Configuration::initial(nodes(before));
            let Ok(second) = first.changed(nodes(after), BTreeSet::new()) else {
                assert_eq!(before, after);
                continue;
            };
            let third = second.left().unwrap();
            assert_eq!((&third.voters, third.epoch), (&nodes(after), Epoch(3)));
            // If some of the nodes decide in one configuration, the others cannot in the next.
            for agreeing in 0..1 << 6 {
                for (one, other) in [(&first, &second), (&second, &third)] {
                    let both = one.is_quorum(|node| is_in(agreeing, node))
                        && other.is_quorum(|node| !is_in(agreeing, node));
                    assert!(!both, "{one} and {other} split by {agreeing:06b}");
                }
            }
        }
    }
}

#[track_caller]
fn check(from: &str, change: &str, expected: &str) {
    let config = parse(from);
    let result = match change {
        "leave" => config.left(),
        change => {
            let target = parse(change);
            config.changed(target.voters, target.learners)
        }
    };
    let result = result.map_or_else(|error| error.to_string(), |config| config.to_string());
    assert_eq!(result, expected, "{from} to {change}");
}

/// `1 2 3 + 4 & 5 6`: voters, learners, outgoing voters, at epoch 4.
fn parse(text: &str) -> Configuration {
    let (rest, outgoing) = text.split_once('&').unwrap_or((text, ""));
    let (voters, learners) = rest.split_once('+').unwrap_or((rest, ""));
    let list = |text: &str| -> BTreeSet<NodeId> {
        text.split_whitespace().map(|id| NodeId(id.parse().unwrap())).collect()
    };
    Configuration {
        epoch: Epoch(4),
        voters: list(voters),
        outgoing: list(outgoing),
        learners: list(learners),
    }
}

#[test]
fn changes() {
    check("1 2 3", "1 2 3 + 4", "e5(n1 n2 n3) learners(n4)");
    check("1 2 3 + 4", "1 2 3 4", "e5(n1 n2 n3 n4)&(n1 n2 n3)");
    check("1 2 3 + 4", "1 2 4", "e5(n1 n2 n4)&(n1 n2 n3)");
    check("1 2 3 4 & 1 2 3", "leave", "e5(n1 n2 n3 n4)");
    check("1 2 4 + 5 & 1 2 3", "leave", "e5(n1 n2 n4) learners(n5)");
    check("1", "1 2", "e5(n1 n2)&(n1)");
    check("1 2", "2", "e5(n2)&(n1 n2)");
    check("1 2 3", "4 5 6", "e5(n4 n5 n6)&(n1 n2 n3)");
    check("1 2 3", "1 2 3", &ChangeError::Unchanged.to_string());
    check("1 2 3", "", &ChangeError::NoVoters.to_string());
    check("1 2 3", "1 2 3 + 3", &ChangeError::Both { node: NodeId(3) }.to_string());
    check("1 2 3", "leave", &ChangeError::NotJoint.to_string());
    check("1 2 3 & 1 2", "1 2 3 4", &ChangeError::Joint.to_string());
}
