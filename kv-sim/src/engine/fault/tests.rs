use super::*;

fn view() -> View {
    View { running: vec![true; 5], leaders: vec![3], clients: 2, leader_crashed: false }
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
    assert!(matches!(last[..], [Action::Restart(3), Action::End(_)]), "{last:?}");
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
    let strike = nemesis(FaultSpec::OneWayPartition { interval: 1_000, duration: 100 })
        .wake(&view())
        .0
        .unwrap();
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
