//! Checks of how well the store serves while one kind of fault lasts.
//!
//! A scenario switches them on, because each is sound only if nothing else breaks. They look at
//! what the run left in its [`Timeline`]: each finds the episodes that are long enough to tell, and
//! a run without any proves nothing.

use kv_core::id::ShardId;

use super::timeline::{Episode, SlowDisk, Timeline};
use crate::engine::{Check, FaultKind};
use crate::scenario::AvailabilityCheck;

const SECOND: u64 = 1_000_000_000;
/// An episode is looked at for at least this long, in which the workload must write to every shard
/// many times over.
const WINDOW_MIN: u64 = 2 * SECOND;
/// How soon a slow disk may no longer matter.
const SLOW_DISK_MAX: u64 = 15 * SECOND;
/// Throughput is counted over so long.
const THROUGHPUT_WINDOW: u64 = 5 * SECOND;

/// Judges one check. An episode either cannot tell (none), or holds, or says what is wrong.
pub(super) fn judge(check: AvailabilityCheck, timeline: &Timeline) -> Check {
    let kind = check.fault();
    let episodes = timeline.episodes(kind);
    match check {
        AvailabilityCheck::Bridge => verdict(kind, episodes.map(|it| steady(timeline, it, 0))),
        AvailabilityCheck::MajoritiesRing => {
            verdict(kind, episodes.map(|it| steady(timeline, it, 2)))
        }
        AvailabilityCheck::Flapping | AvailabilityCheck::OneWayPartition => {
            verdict(kind, episodes.map(|it| bounded(timeline, it)))
        }
        AvailabilityCheck::Membership => match timeline.failures() {
            [] => Check::pass(kind.name(), "no call failed"),
            [first, ..] => Check::fail(
                kind.name(),
                format!("{} calls failed, the first at {first}", timeline.failures().len()),
            ),
        },
        AvailabilityCheck::SlowDisk => {
            let slow_disks = timeline.slow_disks().iter();
            verdict(kind, slow_disks.map(|slow| relieved(timeline, slow)))
        }
    }
}

type Judged = Option<Result<(), String>>;

fn verdict(kind: FaultKind, judged: impl Iterator<Item = Judged>) -> Check {
    let name = kind.name();
    let mut count = 0;
    for result in judged.flatten() {
        count += 1;
        if let Err(wrong) = result {
            return Check::fail(name, wrong);
        }
    }
    match count {
        0 => Check::invalid(name, "no episode was long enough to tell"),
        _ => Check::pass(name, format!("{count} episodes")),
    }
}

fn seconds(nanos: u64) -> String {
    format!("{:.3} s", nanos as f64 / 1e9)
}

/// Every shard took a write in a window.
fn all_written(timeline: &Timeline, begin: u64, end: u64) -> Result<(), String> {
    match timeline.shards().find(|shard| timeline.writes(*shard, begin, end) == 0) {
        None => Ok(()),
        Some(shard) => Err(format!(
            "{shard} acknowledged no write from {} to {}",
            seconds(begin),
            seconds(end)
        )),
    }
}

/// No shard had more elections than `most` from a time of its own on.
fn few_elections(
    timeline: &Timeline,
    begin: impl Fn(ShardId) -> u64,
    end: u64,
    most: usize,
) -> Result<(), String> {
    for shard in timeline.groups() {
        let begin = begin(shard);
        let elections = timeline.elections(shard, begin, end);
        if elections.len() > most {
            let times: Vec<String> = elections
                .iter()
                .map(|(at, server)| format!("{server} at {}", seconds(*at)))
                .collect();
            return Err(format!(
                "{shard} changed its leader {} times from {} to {}, at most {most} were expected: {}",
                elections.len(),
                seconds(begin),
                seconds(end),
                times.join(", ")
            ));
        }
    }
    Ok(())
}

/// Once the fault has settled, every shard takes writes and has at most so many new leaders. A leader
/// that is older than that when the fault begins has a majority all the time, so there is nothing to
/// settle.
fn steady(timeline: &Timeline, episode: &Episode, changes_max: usize) -> Judged {
    let settled = episode.begin + timeline.settle;
    if episode.end < settled + WINDOW_MIN {
        return None;
    }
    let begin = |shard| {
        let before = episode.begin.saturating_sub(timeline.settle);
        let is_led = timeline.leader(shard, before).is_some();
        let is_old = timeline.elections(shard, before, episode.begin).is_empty();
        if is_led && is_old { episode.begin } else { settled }
    };
    let few = few_elections(timeline, begin, episode.end, changes_max);
    Some(few.and_then(|()| all_written(timeline, settled, episode.end)))
}

/// Each time that the links go, each shard may lose a leader that was behind them, and gets another:
/// the server whose links flap cannot win against a leader whom the others hear. What happens from the
/// next such fault on is that one's doing.
fn bounded(timeline: &Timeline, episode: &Episode) -> Judged {
    if episode.end < episode.begin + timeline.settle + WINDOW_MIN {
        return None;
    }
    let mut later = timeline.episodes(episode.kind).map(|it| it.begin);
    let next = later.find(|begin| *begin >= episode.end).unwrap_or(timeline.safety);
    let settled = (episode.end + timeline.settle).min(next);
    let few = few_elections(timeline, |_| episode.begin, settled, episode.strikes as usize);
    Some(few.and_then(|()| all_written(timeline, episode.begin, episode.end)))
}

/// In time, the server with the slow disk leads nothing, and at least half as much is acknowledged as
/// before.
fn relieved(timeline: &Timeline, slow: &SlowDisk) -> Judged {
    let deadline = slow.begin + SLOW_DISK_MAX;
    if slow.end < deadline || slow.begin < THROUGHPUT_WINDOW {
        return None;
    }
    let before = timeline.acknowledged(slow.begin - THROUGHPUT_WINDOW, slow.begin);
    let after = timeline.acknowledged(deadline - THROUGHPUT_WINDOW, deadline);
    if after * 2 < before {
        return Some(Err(format!(
            "{after} operations in {} before {}, {before} before the disk of {} became slow at {}",
            seconds(THROUGHPUT_WINDOW),
            seconds(deadline),
            slow.server,
            seconds(slow.begin)
        )));
    }
    let leads = |shard: &ShardId| timeline.leader(*shard, deadline) == Some(slow.server);
    Some(match timeline.groups().find(leads) {
        None => Ok(()),
        Some(shard) => Err(format!(
            "{} still leads {shard} {} after its disk became slow at {}",
            slow.server,
            seconds(SLOW_DISK_MAX),
            seconds(slow.begin)
        )),
    })
}

#[cfg(test)]
mod tests {
    use kv_core::id::Term;
    use kv_core::node::Event;
    use kv_core::raft::Role;

    use super::super::timeline::tests::{fault, put_key, reply};
    use super::*;
    use crate::engine::{CheckVerdict, FaultEdge, ProcessId};
    use crate::scenario::Scenario;

    const BEGIN: u64 = 10 * SECOND;
    const END: u64 = 30 * SECOND;

    /// A minute on two shards, led by `n1`, each of which takes a write in every 100 ms but for the
    /// time in between; one fault, from [`BEGIN`] to [`END`].
    fn timeline(kind: FaultKind, silence: (u64, u64)) -> Timeline {
        let scenario = Scenario::parse("cluster.shards = 2", "x").unwrap();
        let mut timeline = Timeline::new(&scenario);
        for shard in [0, 1, 2] {
            elect(&mut timeline, shard, SECOND, 0);
        }
        for at in (1..600).map(|count| count * SECOND / 10) {
            if at == BEGIN {
                timeline.on_fault(at, &fault(kind, FaultEdge::Begins), 1);
                timeline.on_slow(at, ProcessId::Server(0), true);
            } else if at == END {
                timeline.on_fault(at, &fault(kind, FaultEdge::Ends), 0);
                timeline.on_slow(at, ProcessId::Server(0), false);
            }
            for shard in [1, 2] {
                if shard == 1 || at <= silence.0 || at > silence.1 {
                    timeline.on_client(at, &reply(0, put_key(shard, 2)));
                }
            }
        }
        timeline
    }

    fn elect(timeline: &mut Timeline, shard: u32, at: u64, server: u16) {
        let (shard, term, role) = (ShardId(shard), Term(1), Role::Leader);
        let event = Event::RoleChanged { shard, term, role };
        timeline.on_event(at, ProcessId::Server(server), &event);
    }

    #[track_caller]
    fn expect(check: AvailabilityCheck, timeline: &Timeline, verdict: CheckVerdict, words: &str) {
        let judged = judge(check, timeline);
        assert_eq!(judged.verdict, verdict, "{judged:?}");
        assert!(judged.detail.contains(words), "{judged:?}");
    }

    const STEADY: [AvailabilityCheck; 4] = [
        AvailabilityCheck::Bridge,
        AvailabilityCheck::MajoritiesRing,
        AvailabilityCheck::Flapping,
        AvailabilityCheck::OneWayPartition,
    ];

    #[test]
    fn a_shard_that_takes_no_write_while_the_fault_lasts_is_found() {
        for check in STEADY {
            expect(check, &timeline(check.fault(), (END, END)), CheckVerdict::Pass, "1 episodes");
            let silent = timeline(check.fault(), (BEGIN, END));
            let words = "s2 acknowledged no write from 1";
            expect(check, &silent, CheckVerdict::Fail, words);
        }
        // What happens while the fault settles is not looked at.
        let settling = timeline(FaultKind::Bridge, (BEGIN, BEGIN + 4 * SECOND));
        expect(AvailabilityCheck::Bridge, &settling, CheckVerdict::Pass, "");
    }

    #[test]
    fn leaders_that_change_too_often_are_found() {
        for (check, most) in STEADY.into_iter().zip([0, 2, 1, 1]) {
            let mut timeline = timeline(check.fault(), (END, END));
            elect(&mut timeline, 0, BEGIN - SECOND, 1);
            for count in 0..most {
                elect(&mut timeline, 0, BEGIN + 5 * SECOND, count % 2);
            }
            expect(check, &timeline, CheckVerdict::Pass, "");
            elect(&mut timeline, 0, END - SECOND, 4);
            let words = format!("s0 changed its leader {} times", most + 1);
            expect(check, &timeline, CheckVerdict::Fail, &words);
        }
    }

    #[test]
    fn an_old_leader_must_last_from_the_begin_and_a_young_one_once_settled() {
        for (at, verdict) in [(BEGIN - SECOND, CheckVerdict::Pass), (SECOND, CheckVerdict::Fail)] {
            let mut timeline = timeline(FaultKind::Bridge, (END, END));
            elect(&mut timeline, 2, at, 1);
            elect(&mut timeline, 2, BEGIN + SECOND, 2);
            expect(AvailabilityCheck::Bridge, &timeline, verdict, "");
        }
    }

    #[test]
    fn each_time_that_links_go_may_cost_a_leader() {
        let mut timeline = timeline(FaultKind::Flapping, (END, END));
        elect(&mut timeline, 1, END - SECOND, 1);
        elect(&mut timeline, 1, END + SECOND, 2);
        expect(AvailabilityCheck::Flapping, &timeline, CheckVerdict::Fail, "s1 changed");
        timeline.on_fault(END, &fault(FaultKind::Flapping, FaultEdge::Repeats), 1);
        expect(AvailabilityCheck::Flapping, &timeline, CheckVerdict::Pass, "");
    }

    #[test]
    fn what_the_next_fault_costs_is_not_laid_on_the_one_before() {
        for check in [AvailabilityCheck::Flapping, AvailabilityCheck::OneWayPartition] {
            let mut timeline = timeline(check.fault(), (END, END));
            elect(&mut timeline, 1, END - SECOND, 1);
            timeline.on_fault(END + SECOND, &fault(check.fault(), FaultEdge::Begins), 1);
            timeline.on_fault(END + 20 * SECOND, &fault(check.fault(), FaultEdge::Ends), 0);
            elect(&mut timeline, 1, END + 2 * SECOND, 2);
            expect(check, &timeline, CheckVerdict::Pass, "2 episodes");
            elect(&mut timeline, 1, END + 3 * SECOND, 1);
            expect(check, &timeline, CheckVerdict::Fail, "s1 changed its leader 2 times");
        }
    }

    #[test]
    fn a_slow_disk_must_cost_the_leadership_and_not_the_throughput() {
        let check = AvailabilityCheck::SlowDisk;
        let mut relieved = timeline(FaultKind::SlowDisk, (END, END));
        expect(check, &relieved, CheckVerdict::Fail, "n1 still leads s0");
        for shard in [0, 1] {
            elect(&mut relieved, shard, BEGIN + SECOND, 1);
        }
        expect(check, &relieved, CheckVerdict::Fail, "n1 still leads s2");
        elect(&mut relieved, 2, BEGIN + 14 * SECOND, 1);
        expect(check, &relieved, CheckVerdict::Pass, "1 episodes");
        let mut half = timeline(FaultKind::SlowDisk, (BEGIN, END));
        for shard in [0, 1, 2] {
            elect(&mut half, shard, BEGIN + SECOND, 1);
        }
        expect(check, &half, CheckVerdict::Pass, "");
        // The other shard, too, was written in fewer than half of the seconds that are looked at.
        let mut slow = Timeline::new(&Scenario::parse("cluster.shards = 2", "x").unwrap());
        for at in (1..600).map(|count| count * SECOND / 10) {
            if at <= BEGIN || at % SECOND == 0 {
                slow.on_client(at, &reply(0, put_key(1, 2)));
            }
        }
        slow.on_slow(BEGIN, ProcessId::Server(0), true);
        expect(
            check,
            &slow,
            CheckVerdict::Fail,
            "5 operations in 5.000 s before 25.000 s, 50 before",
        );
    }

    #[test]
    fn a_run_without_an_episode_that_is_long_enough_proves_nothing() {
        for check in STEADY {
            let mut timeline = Timeline::new(&Scenario::parse("", "x").unwrap());
            timeline.on_fault(BEGIN, &fault(check.fault(), FaultEdge::Begins), 1);
            timeline.on_fault(BEGIN + 5 * SECOND, &fault(check.fault(), FaultEdge::Ends), 0);
            expect(check, &timeline, CheckVerdict::Invalid, "no episode");
        }
        let mut timeline = Timeline::new(&Scenario::parse("", "x").unwrap());
        timeline.on_slow(BEGIN, ProcessId::Server(0), true);
        timeline.on_slow(BEGIN + 14 * SECOND, ProcessId::Server(0), false);
        expect(AvailabilityCheck::SlowDisk, &timeline, CheckVerdict::Invalid, "no episode");
    }
}
