//! Many seeds over several scenarios.
//!
//! A count of seeds is for the whole list: seed `s` runs scenario number `s mod count` of the
//! command line. So the seeds are spread evenly, and a range that is split over several machines
//! runs the same pairs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::{ControlFlow, Range};

use crate::Exit;
use crate::measured::{FirstWrites, deadlocks_in_words};
use crate::protocol::Protocol;
use crate::report::{Report, Verdict, shortened};
use crate::runner::{Job, Loaded, RunError, run_all};

/// Findings shown at most.
const FINDINGS_MAX: usize = 6;
/// Scenarios shown one by one at most.
const SCENARIOS_MAX: usize = 10;

pub(crate) struct Sweep<'a> {
    pub(crate) scenarios: &'a [Loaded],
    pub(crate) seeds: Range<u64>,
    pub(crate) slots: usize,
    pub(crate) json: bool,
    /// Whether the first write after a heal may take no longer than promised, at the 99th
    /// percentile over all seeds of a scenario.
    pub(crate) check_heals: bool,
}

#[derive(Default)]
struct Tally {
    pass: u64,
    fail: u64,
    invalid: u64,
    sim_seconds: f64,
    cpu_seconds: f64,
    /// Of all seeds; see [`Measures`](crate::engine::Measures).
    first_writes_ms: Vec<f64>,
    first_write_bound_ms: Option<f64>,
    deadlocks_ms: Vec<f64>,
    deadlocks_calm_ms: Vec<f64>,
}

impl Tally {
    fn add(&mut self, report: &Report) {
        match report.verdict {
            Verdict::Pass => self.pass += 1,
            Verdict::Fail => self.fail += 1,
            Verdict::Invalid => self.invalid += 1,
        }
        self.sim_seconds += report.sim_seconds;
        self.cpu_seconds += report.cpu_seconds;
        self.first_writes_ms.extend(&report.measures.first_writes_ms);
        self.first_write_bound_ms = report.measures.first_write_bound_ms;
        self.deadlocks_ms.extend(&report.measures.deadlocks_ms);
        self.deadlocks_calm_ms.extend(&report.measures.deadlocks_calm_ms);
    }

    /// Whether the first writes after heals took longer than promised.
    fn is_slow(&self) -> bool {
        let first_writes = FirstWrites::of(&self.first_writes_ms);
        first_writes.is_some_and(|times| times.exceeds(self.first_write_bound_ms))
    }

    fn sum<'a>(tallies: impl Iterator<Item = &'a Self>) -> Self {
        tallies.fold(Self::default(), |mut sum, tally| {
            sum.pass += tally.pass;
            sum.fail += tally.fail;
            sum.invalid += tally.invalid;
            sum.sim_seconds += tally.sim_seconds;
            sum.cpu_seconds += tally.cpu_seconds;
            sum
        })
    }
}

impl Sweep<'_> {
    /// Runs all seeds. The first run that cannot be done ends the sweep.
    pub(crate) fn run<P: Protocol>(
        &self,
        protocol: &P,
        out: &mut dyn Write,
    ) -> io::Result<Result<Exit, RunError>> {
        let count = self.scenarios.len() as u64;
        let jobs: Vec<Job<'_>> = self
            .seeds
            .clone()
            .map(|seed| Job::new(&self.scenarios[(seed % count) as usize], seed, None))
            .collect();
        let mut tallies: BTreeMap<usize, Tally> = BTreeMap::new();
        let mut findings: Vec<Report> = Vec::new();
        let mut broken = Ok(());
        run_all(protocol, &jobs, self.slots, |index, result| {
            match result {
                Ok(report) => {
                    let scenario = (jobs[index].seed % count) as usize;
                    tallies.entry(scenario).or_default().add(&report);
                    if self.json {
                        broken = writeln!(out, "{}", report.to_json()).map_err(Err);
                    }
                    if report.verdict != Verdict::Pass {
                        findings.push(report);
                    }
                }
                Err(error) => broken = Err(Ok(error)),
            }
            if broken.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        match broken {
            Err(Ok(error)) => return Ok(Err(error)),
            Err(Err(error)) => return Err(error),
            Ok(()) => {}
        }
        let sum = Tally::sum(tallies.values());
        if !self.json {
            self.write_summary(out, &tallies, &sum, &findings)?;
        }
        if self.check_heals && tallies.values().any(Tally::is_slow) {
            return Ok(Ok(Exit::Violated));
        }
        Ok(Ok(match (sum.fail, sum.invalid) {
            (1.., _) => Exit::Violated,
            (0, 1..) => Exit::NoVerdict,
            (0, 0) => Exit::Holds,
        }))
    }

    fn write_summary(
        &self,
        out: &mut dyn Write,
        tallies: &BTreeMap<usize, Tally>,
        sum: &Tally,
        findings: &[Report],
    ) -> io::Result<()> {
        let Range { start, end } = self.seeds;
        let scenarios = self.scenarios.len();
        writeln!(
            out,
            "swept       seeds {start}..{end} over {scenarios} scenarios, {} at a time",
            self.slots
        )?;
        for (index, tally) in tallies.iter().take(SCENARIOS_MAX) {
            let name = &self.scenarios[*index].scenario.name;
            let Tally { pass, fail, invalid, .. } = tally;
            writeln!(out, "  {name:<20} {pass:>6} pass {fail:>6} fail {invalid:>6} invalid")?;
        }
        if scenarios > 1 {
            let Tally { pass, fail, invalid, .. } = sum;
            writeln!(out, "  {:<20} {pass:>6} pass {fail:>6} fail {invalid:>6} invalid", "all")?;
        }
        writeln!(
            out,
            "time        {:.0} simulated seconds in {:.1} s of CPU time",
            sum.sim_seconds, sum.cpu_seconds
        )?;
        self.write_heals(out, tallies)?;
        self.write_deadlocks(out, tallies)?;
        let mut worst: Vec<&Report> = findings.iter().collect();
        worst.sort_by_key(|report| report.verdict != Verdict::Fail);
        for report in worst.iter().take(FINDINGS_MAX) {
            let finding = report
                .first_finding()
                .map(|check| format!("{}: {}", check.name, shortened(&check.detail)));
            writeln!(
                out,
                "  seed {} {}: {}",
                report.seed,
                report.scenario,
                finding.unwrap_or_default()
            )?;
        }
        if let Some(first) = worst.first() {
            let verdict = if first.verdict == Verdict::Fail {
                "FAIL"
            } else {
                "invalid: some runs prove nothing"
            };
            writeln!(out, "verdict     {verdict}")?;
            writeln!(out, "seed        {}\nscenario    {}", first.seed, first.scenario)?;
            writeln!(out, "rerun       {}", first.reproduce)
        } else if self.check_heals && tallies.values().any(Tally::is_slow) {
            writeln!(out, "verdict     FAIL: the first write after a heal takes too long")
        } else {
            writeln!(out, "verdict     pass")?;
            writeln!(out, "next        the same with --seeds {end}..{}", end + (end - start))
        }
    }

    fn write_heals(&self, out: &mut dyn Write, tallies: &BTreeMap<usize, Tally>) -> io::Result<()> {
        let with_heals = tallies.iter().filter_map(|(index, tally)| {
            Some((index, tally, FirstWrites::of(&tally.first_writes_ms)?))
        });
        for (index, tally, times) in with_heals.take(SCENARIOS_MAX) {
            let name = &self.scenarios[*index].scenario.name;
            writeln!(out, "  {name:<20} {}", times.in_words(tally.first_write_bound_ms))?;
        }
        Ok(())
    }

    fn write_deadlocks(
        &self,
        out: &mut dyn Write,
        tallies: &BTreeMap<usize, Tally>,
    ) -> io::Result<()> {
        let words = |(index, tally): (&usize, &Tally)| {
            Some((*index, deadlocks_in_words(&tally.deadlocks_ms, &tally.deadlocks_calm_ms)?))
        };
        for (index, words) in tallies.iter().filter_map(words).take(SCENARIOS_MAX) {
            let name = &self.scenarios[index].scenario.name;
            writeln!(out, "  {name:<20} {words}")?;
        }
        Ok(())
    }
}
