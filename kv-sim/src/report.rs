//! What is told of a run: one JSON object, or at most 25 lines of text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::Exit;
use crate::engine::{Check, CheckVerdict, Measures, Operations, Outcome};
use crate::measured::in_words;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything that was checked holds.
    Pass,
    /// Something is violated.
    Fail,
    /// Nothing is violated, but the run was too short, did too little, or a declared fault did not
    /// strike.
    Invalid,
}

impl Verdict {
    /// The exit code of a single run.
    pub fn exit(self) -> Exit {
        match self {
            Self::Pass => Exit::Holds,
            Self::Fail => Exit::Violated,
            Self::Invalid => Exit::NoVerdict,
        }
    }

    fn of(checks: &[Check]) -> Self {
        let any = |verdict| checks.iter().any(|check| check.verdict == verdict);
        match (any(CheckVerdict::Fail), any(CheckVerdict::Invalid)) {
            (true, _) => Self::Fail,
            (false, true) => Self::Invalid,
            (false, false) => Self::Pass,
        }
    }
}

/// What a run was and what came of it. The field order is that of the JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// Simulated time, both phases.
    pub sim_seconds: f64,
    /// Time on the wall, checks included.
    pub wall_seconds: f64,
    /// Time on a processor, checks included.
    pub cpu_seconds: f64,
    /// Messages delivered.
    pub messages: u64,
    /// What became of the clients' operations.
    pub operations: Operations,
    /// How often each kind of fault struck.
    pub faults: BTreeMap<String, u64>,
    /// What was measured.
    pub measures: Measures,
    /// What was checked.
    pub checks: Vec<Check>,
    /// The hash over all that happened, in 16 hexadecimal digits.
    pub trace_hash: String,
    /// The command that runs it again.
    pub reproduce: String,
}

/// Time that a run took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    pub(crate) wall_seconds: f64,
    pub(crate) cpu_seconds: f64,
}

/// Which run a report is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) scenario: String,
    pub(crate) seed: u64,
    pub(crate) reproduce: String,
}

/// Checks shown in text at most; those that hold are left out first.
const CHECK_LINES_MAX: usize = 12;
/// Characters of a check's detail shown in text at most.
const DETAIL_MAX: usize = 240;

impl Report {
    pub(crate) fn new(subject: Subject, outcome: Outcome, took: Took) -> Self {
        Self {
            scenario: subject.scenario,
            seed: subject.seed,
            verdict: Verdict::of(&outcome.checks),
            sim_seconds: outcome.simulated as f64 / 1e9,
            wall_seconds: rounded(took.wall_seconds),
            cpu_seconds: rounded(took.cpu_seconds),
            messages: outcome.messages,
            operations: outcome.operations,
            faults: outcome
                .faults
                .into_iter()
                .map(|(kind, count)| (kind.name().into(), count))
                .collect(),
            measures: outcome.measures,
            checks: outcome.checks,
            trace_hash: format!("{:016x}", outcome.trace_hash),
            reproduce: subject.reproduce,
        }
    }

    /// A run in which the simulator itself broke.
    pub(crate) fn broken(subject: Subject, message: String) -> Self {
        let outcome = Outcome {
            simulated: 0,
            events: 0,
            messages: 0,
            operations: Operations::default(),
            faults: BTreeMap::new(),
            measures: Measures::default(),
            checks: vec![Check::fail("simulator", message)],
            trace_hash: 0,
        };
        Self::new(subject, outcome, Took::default())
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has only text keys and finite numbers")
    }

    /// The first check that keeps the run from passing.
    pub fn first_finding(&self) -> Option<&Check> {
        let of = |verdict| self.checks.iter().find(move |check| check.verdict == verdict);
        of(CheckVerdict::Fail).or_else(|| of(CheckVerdict::Invalid))
    }

    /// The report in words. `next` is the command that is worth typing next if the run passed.
    pub fn to_text(&self, world: &str, next: &str) -> String {
        let mut text = String::new();
        let speed = if self.cpu_seconds > 0.0 { self.sim_seconds / self.cpu_seconds } else { 0.0 };
        let faults: Vec<String> =
            self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let faults = if faults.is_empty() { "none declared".into() } else { faults.join(", ") };
        let Operations { ok, failed, unknown } = self.operations;
        let _ = writeln!(text, "scenario    {} (seed {})", self.scenario, self.seed);
        let _ = writeln!(
            text,
            "ran         {world}; {:.1} simulated seconds in {:.2} s of CPU time ({speed:.0} per second), {} messages",
            self.sim_seconds, self.cpu_seconds, self.messages
        );
        let _ = writeln!(text, "operations  {ok} ok, {failed} failed, {unknown} unknown");
        let _ = writeln!(text, "injected    {faults}");
        let measured = in_words(&self.measures);
        if !measured.is_empty() {
            let _ = writeln!(text, "measured    {measured}");
        }
        let _ = writeln!(text, "checked");
        self.write_checks(&mut text);
        let _ = writeln!(text, "trace hash  {}", self.trace_hash);
        match self.verdict {
            Verdict::Pass => {
                let _ = writeln!(text, "verdict     pass\nnext        {next}");
            }
            Verdict::Fail | Verdict::Invalid => {
                let verdict = if self.verdict == Verdict::Fail {
                    "FAIL"
                } else {
                    "invalid: it proves nothing"
                };
                let _ = writeln!(text, "verdict     {verdict}");
                let _ = writeln!(text, "seed        {}\nscenario    {}", self.seed, self.scenario);
                let _ = writeln!(text, "rerun       {}", self.reproduce);
            }
        }
        text
    }

    fn write_checks(&self, text: &mut String) {
        let mut checks: Vec<&Check> = self.checks.iter().collect();
        checks.sort_by_key(|check| match check.verdict {
            CheckVerdict::Fail => 0,
            CheckVerdict::Invalid => 1,
            CheckVerdict::Skipped => 2,
            CheckVerdict::Pass => 3,
        });
        for check in checks.iter().take(CHECK_LINES_MAX) {
            let detail = shortened(&check.detail);
            let _ = writeln!(text, "  {:<8}{:<20} {detail}", check.verdict, check.name);
        }
        if let Some(more) = checks.len().checked_sub(CHECK_LINES_MAX).filter(|more| *more > 0) {
            let _ = writeln!(text, "  and {more} more");
        }
    }
}

/// The first line, cut to a length that a terminal can show.
pub(crate) fn shortened(detail: &str) -> String {
    let line = detail.lines().next().unwrap_or_default();
    let short: String = line.chars().take(DETAIL_MAX).collect();
    if short.len() < detail.trim_end().len() { format!("{short} …") } else { short }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(checks: Vec<Check>) -> Report {
        let subject =
            Subject { scenario: "happy".into(), seed: 7, reproduce: "cargo run …".into() };
        let outcome = Outcome {
            simulated: 61_500_000_000,
            events: 3,
            messages: 2,
            operations: Operations { ok: 1, failed: 2, unknown: 3 },
            faults: BTreeMap::from([(crate::engine::FaultKind::PowerLoss, 4)]),
            measures: Measures {
                leader_changes: BTreeMap::from([("s1".into(), 2)]),
                first_writes_ms: vec![1.5],
                first_write_bound_ms: Some(4_000.0),
                deadlocks_ms: vec![310.0],
                deadlocks_calm_ms: vec![250.0],
            },
            checks,
            trace_hash: 0xabc,
        };
        Report::new(subject, outcome, Took { wall_seconds: 1.5, cpu_seconds: 1.25 })
    }

    #[test]
    fn json_has_the_fields_that_others_rely_on() {
        let json = report(vec![Check::pass("panic", "none")]).to_json();
        let expected = concat!(
            r#"{"scenario":"happy","seed":7,"verdict":"pass","sim_seconds":61.5,"wall_seconds":1.5,"#,
            r#""cpu_seconds":1.25,"messages":2,"operations":{"ok":1,"failed":2,"unknown":3},"#,
            r#""faults":{"power-loss":4},"measures":{"leader_changes":{"s1":2},"#,
            r#""first_writes_ms":[1.5],"first_write_bound_ms":4000.0,"deadlocks_ms":[310.0],"#,
            r#""deadlocks_calm_ms":[250.0]},"#,
            r#""checks":[{"name":"panic","verdict":"pass","detail":"none"}],"#,
            r#""trace_hash":"0000000000000abc","reproduce":"cargo run …"}"#
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn a_failure_outweighs_an_invalid_run() {
        let both =
            report(vec![Check::invalid("validity", "short"), Check::fail("durability", "lost")]);
        assert_eq!(both.verdict, Verdict::Fail);
        assert_eq!(both.first_finding().unwrap().name, "durability");
        assert_eq!(report(vec![Check::invalid("validity", "short")]).verdict, Verdict::Invalid);
        assert_eq!(report(vec![Check::skipped("x", "")]).verdict, Verdict::Pass);
    }

    #[test]
    fn text_is_short_and_a_failure_ends_with_the_rerun() {
        let mut checks: Vec<Check> =
            (0..30).map(|index| Check::pass(&format!("check-{index}"), "fine")).collect();
        checks.push(Check::fail("durability", "lost\nmuch more"));
        let text = report(checks).to_text("5 servers", "next");
        assert!(text.lines().count() <= 25, "{text}");
        assert!(text.contains("\nmeasured    2 leader changes, at most 2 (s1); first"), "{text}");
        assert!(text.contains("fail    durability           lost …"), "{text}");
        assert!(text.trim_end().ends_with("rerun       cargo run …"), "{text}");
    }
}
