use super::*;

fn view() -> View {
    let (running, members) = (vec![true; 5], vec![true; 5]);
    View { running, members, leaders: vec![3], clients: 2, leader_crashed: false }
}

fn nemesis(spec: FaultSpec) -> Nemesis {
    Nemesis::new(1, &spec).unwrap()
}

#[test]
fn the_first_crash_is_one_of_a_leader_and_a_majority_survives() {
    let spec = FaultSpec::Crash { interval: 1_000, downtime: 100, target: Target::Any, storm: 0 };
    let crashed = |seed, view: &View| {
        let strike = Nemesis::new(seed, &spec).unwrap().wake(view).0?;
        Some(strike.begin)
    };
    let first: Vec<_> = (0..20).map(|seed| crashed(seed, &view())).collect();
    assert!(first.iter().all(|begin| *begin == Some(vec![Action::Crash(3)])), "{first:?}");
    let later = View { leader_crashed: true, ..view() };
    assert!((0..20).any(|seed| crashed(seed, &later) != Some(vec![Action::Crash(3)])));
    let mut two_down = later;
    two_down.running[0] = false;
    two_down.running[1] = false;
    assert!((0..20).all(|seed| crashed(seed, &two_down).is_none()));
    let mut of_three = View { members: vec![false, true, true, true, false], ..two_down };
    assert!((0..20).any(|seed| crashed(seed, &of_three).is_none()), "one of three is down");
    of_three.running[1] = true;
    assert!((0..20).any(|seed| crashed(seed, &of_three).is_some()), "a spare one is down");
}

#[test]
fn a_restart_storm_ends_with_a_restart() {
    let mut nemesis = nemesis(FaultSpec::Crash {
        interval: 1_000,
        downtime: 100,
        target: Target::Any,
        storm: 1_000_000,
    });
    let strike = nemesis.wake(&view()).0.unwrap();
    assert!(strike.later.len() > 10 && strike.later.is_sorted_by_key(|(at, _)| *at));
    let (_, last) = strike.later.last().unwrap();
    assert!(matches!(last[..], [Action::Restart(3), Action::Tell(_)]), "{last:?}");
}

#[test]
fn every_partition_cuts_both_ways_and_mends_what_it_cut() {
    for shape in [Shape::One, Shape::Minority, Shape::Halves, Shape::Leader, Shape::Random] {
        let spec = FaultSpec::Partition { interval: 1_000, duration: 100, shapes: vec![shape] };
        let strike = nemesis(spec).wake(&view()).0.unwrap();
        let [Action::Cut(links)] = &strike.begin[..] else { panic!("{strike:?}") };
        assert!(links.iter().all(|(from, to)| links.contains(&(*to, *from))), "{shape:?}");
        assert_eq!(strike.later[0].1[0], Action::Mend(links.clone()));
    }
}

#[test]
fn a_one_way_partition_leaves_the_other_direction() {
    let strike = nemesis(one_way(Target::Any, Direction::Any)).wake(&view()).0.unwrap();
    let [Action::Cut(links)] = &strike.begin[..] else { panic!("{strike:?}") };
    assert!(links.iter().all(|(from, to)| !links.contains(&(*to, *from))));
}

#[test]
fn a_power_loss_strikes_all() {
    let strike =
        nemesis(FaultSpec::PowerLoss { interval: 1_000, downtime: 100 }).wake(&view()).0.unwrap();
    assert_eq!(strike.begin.len(), 5);
    assert_eq!(strike.later.len(), 5);
}

fn one_way(target: Target, direction: Direction) -> FaultSpec {
    FaultSpec::OneWayPartition { interval: 1_000, duration: 100, target, direction }
}

/// The strike of a nemesis with each of some seeds.
fn strikes(spec: &FaultSpec) -> Vec<Strike> {
    let strike = |seed| Nemesis::new(seed, spec).unwrap().wake(&view()).0.unwrap();
    (0..50).map(strike).collect()
}

fn cut_by(strike: &Strike) -> &Links {
    let [Action::Cut(links)] = &strike.begin[..] else { panic!("{strike:?}") };
    links
}

const LEADER: ProcessId = ProcessId::Server(3);

#[test]
fn a_one_way_partition_of_a_leader_cuts_what_it_hears_or_what_it_says() {
    for strike in strikes(&one_way(Target::Leader, Direction::Inbound)) {
        assert!(cut_by(&strike).len() == 4 && cut_by(&strike).iter().all(|(_, to)| *to == LEADER));
    }
    for strike in strikes(&one_way(Target::Leader, Direction::Outbound)) {
        let links = cut_by(&strike);
        assert!(links.len() == 4 && links.iter().all(|(from, _)| *from == LEADER));
    }
    let hears = |strike: &Strike| cut_by(strike)[0].0 == LEADER;
    let any = strikes(&one_way(Target::Leader, Direction::Any));
    assert!(any.iter().any(hears) && !any.iter().all(hears));
}

#[test]
fn faults_of_leaders_strike_leaders_and_wait_for_one() {
    let target = Target::Leader;
    let leaderless = View { leaders: vec![], ..view() };
    let specs = [
        FaultSpec::Pause { interval: 1_000, duration: 100, target },
        FaultSpec::SlowDisk { interval: 1_000, duration: 100, delay: 10, target },
        FaultSpec::Flapping { interval: 1_000, duration: 100, period: 10, target },
        one_way(target, Direction::Any),
    ];
    for spec in specs {
        // Without a crash of a leader so far, a fault of any server would strike one, too.
        let later = View { leader_crashed: true, ..view() };
        for seed in 0..50 {
            let strike = Nemesis::new(seed, &spec).unwrap().wake(&later).0.unwrap();
            assert!(strike.detail.starts_with("n4"), "{spec:?}: {}", strike.detail);
        }
        assert!(nemesis(spec.clone()).wake(&leaderless).0.is_none(), "{spec:?}");
    }
}

#[test]
fn a_swizzle_takes_whole_servers_one_by_one_and_gives_them_back_in_another_order() {
    let mut is_reordered = false;
    for strike in strikes(&FaultSpec::Swizzle { interval: 1_000, step: 100 }) {
        let steps: Vec<&Action> = strike
            .begin
            .iter()
            .chain(strike.later.iter().map(|(_, actions)| &actions[0]))
            .collect();
        assert!(steps.len().is_multiple_of(2), "{steps:?}");
        let (cuts, mends) = steps.split_at(steps.len() / 2);
        let cut = |step: &&Action| match step {
            // Four servers and two clients, both ways.
            Action::Cut(links) if links.len() == 12 => links[0].0,
            other => panic!("{other:?}"),
        };
        let mended = |step: &&Action| match step {
            Action::Mend(links) if links.len() == 12 => links[0].0,
            other => panic!("{other:?}"),
        };
        let mut gone: Vec<ProcessId> = cuts.iter().map(cut).collect();
        let mut back: Vec<ProcessId> = mends.iter().map(mended).collect();
        is_reordered |= gone != back;
        gone.sort_unstable();
        back.sort_unstable();
        assert_eq!(gone, back);
        assert!(strike.later.windows(2).all(|pair| pair[0].0 + 50 <= pair[1].0), "{strike:?}");
    }
    assert!(is_reordered);
}

/// Whom each server talks to, itself included, while these links are cut.
fn reachable(links: &Links, count: u16) -> Vec<Vec<u16>> {
    let is_open = |one: u16, other: u16| {
        let (one, other) = (ProcessId::Server(one), ProcessId::Server(other));
        let (there, back) = (links.contains(&(one, other)), links.contains(&(other, one)));
        assert_eq!(there, back, "both directions are alike");
        !there
    };
    (0..count).map(|one| (0..count).filter(|other| is_open(one, *other)).collect()).collect()
}

#[test]
fn a_bridge_leaves_one_server_between_two_halves() {
    for strike in strikes(&FaultSpec::Bridge { interval: 1_000, duration: 100 }) {
        let mut reachable = reachable(cut_by(&strike), 5);
        reachable.sort_by_key(Vec::len);
        let (middle, halves) = reachable.split_last().unwrap();
        assert_eq!(*middle, [0, 1, 2, 3, 4]);
        assert!(halves.iter().all(|side| side.len() == 3), "{halves:?}");
        let same = |side: &&Vec<u16>| **side == halves[0];
        assert_eq!(halves.iter().filter(same).count(), 2, "{halves:?}");
    }
}

#[test]
fn on_a_ring_each_server_sees_a_majority_and_no_two_the_same() {
    let spec = FaultSpec::MajoritiesRing { interval: 1_000, duration: 100 };
    for strike in strikes(&spec) {
        let mut reachable = reachable(cut_by(&strike), 5);
        assert!(reachable.iter().all(|majority| majority.len() == 3), "{reachable:?}");
        reachable.sort();
        reachable.dedup();
        assert_eq!(reachable.len(), 5);
    }
    let three = View { running: vec![true; 3], ..view() };
    assert!(nemesis(spec).wake(&three).0.is_none(), "three servers all see each other");
}

#[test]
fn links_that_flap_are_cut_and_mended_in_turns_and_end_mended() {
    let target = Target::Any;
    let spec = FaultSpec::Flapping { interval: 1_000, duration: 10_000, period: 1_000, target };
    for strike in strikes(&spec) {
        let mut last = 0;
        for (position, (at, actions)) in strike.later.iter().enumerate() {
            assert!((250..=750).contains(&(at - last)), "{strike:?}");
            last = *at;
            match (position % 2, &actions[..]) {
                (0, [Action::Mend(links), ..]) => assert_eq!(links, cut_by(&strike)),
                (1, [Action::Cut(links), Action::Tell(event)]) => {
                    assert_eq!((links, event.edge), (cut_by(&strike), FaultEdge::Repeats));
                }
                other => panic!("{other:?}"),
            }
        }
        let (_, end) = strike.later.last().unwrap();
        assert!(matches!(end[..], [Action::Mend(_), Action::Tell(_)]), "{end:?}");
        assert!(strike.later.len() > 5, "{strike:?}");
    }
}

#[test]
fn clocks_drift_within_bounds_and_often_by_little() {
    let spec = FaultSpec::ClockDrift { interval: 1_000, drift_max: 200_000 };
    let drift = |strike: &Strike| match strike.begin[..] {
        [Action::Drift(_, drift)] => drift,
        _ => panic!("{strike:?}"),
    };
    let drifts: Vec<i32> = strikes(&spec).iter().map(drift).collect();
    assert!(drifts.iter().all(|drift| drift.abs() <= 200_000), "{drifts:?}");
    let small = drifts.iter().filter(|drift| drift.abs() <= 1_000).count();
    assert!((10..40).contains(&small), "{drifts:?}");
    assert!(drifts.iter().any(|drift| *drift > 50_000), "{drifts:?}");
    assert!(drifts.iter().any(|drift| *drift < -50_000), "{drifts:?}");
}

#[test]
fn a_frozen_clock_thaws_and_half_of_them_catch_up() {
    let mut caught_up = 0;
    for strike in strikes(&FaultSpec::ClockFreeze { interval: 1_000, duration: 100 }) {
        let [Action::Freeze(frozen)] = strike.begin[..] else { panic!("{strike:?}") };
        let [Action::Thaw(thawed, catches_up), Action::Tell(_)] = strike.later[0].1[..] else {
            panic!("{strike:?}")
        };
        assert_eq!(frozen, thawed);
        caught_up += u32::from(catches_up);
    }
    assert!((10..40).contains(&caught_up), "{caught_up}");
}

#[test]
fn a_strike_that_is_looked_at_alone_ends_before_the_next() {
    let spec = FaultSpec::Bridge { interval: 1_000, duration: 1_000_000 };
    for seed in 0..20 {
        let (strike, pause) = Nemesis::new(seed, &spec).unwrap().wake(&view());
        let end = strike.unwrap().length();
        assert!((end + 300..end + 2_000).contains(&pause), "{end} {pause}");
    }
}
