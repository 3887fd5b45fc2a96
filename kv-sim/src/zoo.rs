//! The zoo: every mutant must be found by the check that is meant to find it, and the seed that
//! finds it must be clean without the mutant.

use std::io::{self, Write};
use std::ops::{ControlFlow, Range};

use crate::Exit;
use crate::engine::CheckVerdict;
use crate::protocol::{Mutant, Protocol};
use crate::report::{Report, Verdict};
use crate::runner::{Job, Loaded, RunError, run_all};

/// What the hunt for one mutant came to.
enum Hunt {
    /// Found by the expected check at this seed, which is clean without the mutant.
    Found(u64),
    /// Found, but the seed does not pass without the mutant.
    NotClean(Box<Report>),
    /// Not found by the expected check; another check may have failed.
    Missed(Option<Box<Report>>),
}

/// Hunts mutants, each in its scenario.
pub(crate) fn run<P: Protocol>(
    protocol: &P,
    mutants: &[(Mutant, Loaded)],
    seeds: &Range<u64>,
    slots: usize,
    out: &mut dyn Write,
) -> io::Result<Result<Exit, RunError>> {
    let mut exit = Exit::Holds;
    for (mutant, loaded) in mutants {
        let found = match hunt(protocol, mutant, loaded, seeds, slots) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let id = mutant.id;
        match found {
            Hunt::Found(seed) => {
                writeln!(
                    out,
                    "found   {id:<28} seed {seed} of {}, by {}",
                    loaded.scenario.name, mutant.check
                )?;
            }
            Hunt::NotClean(report) => {
                exit = Exit::Violated;
                writeln!(
                    out,
                    "UNCLEAN {id:<28} without it the seed does not pass: {}",
                    report.reproduce
                )?;
            }
            Hunt::Missed(other) => {
                exit = Exit::Violated;
                let other =
                    other.map(|report| format!("; another check failed: {}", report.reproduce));
                let Range { start, end } = seeds;
                let missed = format!(
                    "not by {} in seeds {start}..{end}{}",
                    mutant.check,
                    other.unwrap_or_default()
                );
                writeln!(out, "MISSED  {id:<28} {missed}")?;
            }
        }
        out.flush()?;
    }
    let verdict = if exit == Exit::Holds { "pass" } else { "FAIL" };
    writeln!(out, "verdict {verdict}: {} mutants", mutants.len())?;
    Ok(Ok(exit))
}

fn hunt<P: Protocol>(
    protocol: &P,
    mutant: &Mutant,
    loaded: &Loaded,
    seeds: &Range<u64>,
    slots: usize,
) -> Result<Hunt, RunError> {
    let jobs: Vec<Job<'_>> =
        seeds.clone().map(|seed| Job::new(loaded, seed, Some(mutant.id))).collect();
    let mut found = Ok(None);
    let mut other = None;
    run_all(protocol, &jobs, slots, |_, result| {
        match result {
            Ok(report) if is_found(&report, mutant) => found = Ok(Some(report.seed)),
            Ok(report) => {
                if report.verdict == Verdict::Fail {
                    other.get_or_insert_with(|| Box::new(report));
                }
                return ControlFlow::Continue(());
            }
            Err(error) => found = Err(error),
        }
        ControlFlow::Break(())
    });
    let Some(seed) = found? else { return Ok(Hunt::Missed(other)) };
    let clean = Job::new(loaded, seed, None).run(protocol)?;
    Ok(if clean.verdict == Verdict::Pass {
        Hunt::Found(seed)
    } else {
        Hunt::NotClean(Box::new(clean))
    })
}

fn is_found(report: &Report, mutant: &Mutant) -> bool {
    report
        .checks
        .iter()
        .any(|check| check.name == mutant.check && check.verdict == CheckVerdict::Fail)
}
