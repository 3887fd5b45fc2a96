//! Histories with known verdicts: whether this checker agrees.
//!
//! A manifest is a table with a header, as comma-separated values. Of its columns these count:
//! `path`, from where the manifest lies; `format`; and `expected_verdict`.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use kv_check::transactions::Level;
use kv_check::{Format, Options, Verdict, Workload};
use serde::Deserialize;

/// A row of a manifest.
#[derive(Debug, Deserialize)]
struct Row {
    path: String,
    format: String,
    expected_verdict: String,
}

/// How a row came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Agree,
    Disagree,
    Unsupported,
}

/// Checks every row and prints how it came out. Whether no row disagrees.
pub(crate) fn verify(manifest: &Path, options: &Options, out: &mut impl Write) -> Result<bool> {
    let folder = manifest.parent().unwrap_or_else(|| Path::new(""));
    let mut rows = csv::Reader::from_path(manifest)
        .with_context(|| format!("cannot open {}", manifest.display()))?;
    let mut counts = [0; 3];
    for row in rows.deserialize() {
        let row: Row = row.with_context(|| manifest.display().to_string())?;
        let (outcome, found) = check(&row, folder, options)?;
        counts[outcome as usize] += 1;
        let name = match outcome {
            Outcome::Agree => "agree",
            Outcome::Disagree => "DISAGREE",
            Outcome::Unsupported => "unsupported",
        };
        let expected = &row.expected_verdict;
        writeln!(out, "{name:11} {}: expected {expected:?}; found {found}", row.path)?;
    }
    let [agree, disagree, unsupported] = counts;
    writeln!(out, "{agree} agree, {disagree} disagree, {unsupported} unsupported")?;
    Ok(disagree == 0)
}

fn check(row: &Row, folder: &Path, options: &Options) -> Result<(Outcome, String)> {
    let (Some((format, workload)), Some(expected)) =
        (format_of(&row.format), expected(&row.expected_verdict))
    else {
        return Ok((Outcome::Unsupported, "nothing".to_owned()));
    };
    let path = folder.join(&row.path);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let recording = match workload {
        Some(workload) => format.read_as(&text, workload),
        None => format.read(&text),
    };
    Ok(match recording {
        Err(error) => (Outcome::Disagree, error.to_string()),
        Ok(recording) => {
            let mut outcome = Outcome::Agree;
            let mut found = Vec::new();
            for (level, expected) in expected {
                let verdict = recording.check(&Options { level, ..options.clone() }).verdict();
                if expected.is_some_and(|expected| expected != verdict) {
                    outcome = Outcome::Disagree;
                }
                found.push(verdict.to_string());
            }
            (outcome, found.join(", "))
        }
    })
}

/// What a file is in and of, as far as it does not say so by itself.
fn format_of(name: &str) -> Option<(Format, Option<Workload>)> {
    if let Some(workload) = name.strip_prefix("jepsen-edn ") {
        // The size of groups is told by the reads themselves.
        let workload = workload.split(' ').next()?;
        return Some((Format::JepsenEdn, Some(workload.parse().ok()?)));
    }
    let format = match name {
        "porcupine-kv" => Format::PorcupineKv,
        "jepsen-log" => Format::JepsenLog,
        "unit-json" => Format::UnitJson,
        "violin atomic-queue" | "violin atomic-stack" | "violin atomic-set" => Format::Violin,
        _ => return None,
    };
    Some((format, None))
}

/// What texts about transactions say about a level, wherever they say it.
const CLAIMS: [(&str, Level, Verdict); 5] = [
    ("SI yes", Level::SnapshotIsolation, Verdict::Holds),
    ("repeatable-read NO", Level::RepeatableRead, Verdict::Violated),
    ("not serializable", Level::Serializable, Verdict::Violated),
    ("not serializable/SI", Level::SnapshotIsolation, Verdict::Violated),
    // What Elle's tests expect unless they say otherwise.
    ("elle huge-scc-test: invalid", Level::StrictSerializable, Verdict::Violated),
];

/// The verdicts that are expected by level, without one if nobody knows; nothing if the text does not
/// say.
///
/// The levels are those of transactions; other histories know only one verdict.
fn expected(text: &str) -> Option<Vec<(Level, Option<Verdict>)>> {
    let one = |verdict| Some(vec![(Level::Serializable, verdict)]);
    match text {
        "linearizable" | "valid" | "per case" => one(Some(Verdict::Holds)),
        "NOT linearizable" | "invalid" => one(Some(Verdict::Violated)),
        _ if text.starts_with("UNKNOWN") || text.starts_with("not run") => one(None),
        _ => {
            let said = CLAIMS.iter().filter(|(claim, ..)| text.contains(claim));
            let said: Vec<_> = said.map(|(_, level, verdict)| (*level, Some(*verdict))).collect();
            (!said.is_empty()).then_some(said)
        }
    }
}
