//! Writing what was found.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use kv_check::{Finding, Recording};

use crate::args::Arguments;

/// Writes the files that were asked for.
pub(crate) fn files(arguments: &Arguments, recording: &Recording, finding: &Finding) -> Result<()> {
    if let Some(path) = &arguments.report {
        write(path, |out| recording.write_page(finding, out))?;
    }
    if let Some(path) = &arguments.witness {
        write(path, |out| recording.write_witness(finding, out))?;
        if let Some(why) = finding.without_witness() {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(io::stderr(), "kv-check: {}: {why}", path.display());
        }
    }
    Ok(())
}

/// Why files cannot be written where they were asked for: something else would be lost.
pub(crate) fn clash(arguments: &Arguments, history: &Path) -> Option<String> {
    let (page, witness) = (arguments.report.as_deref(), arguments.witness.as_deref());
    let pairs = [
        ("page", page, "history", Some(history)),
        ("order", witness, "history", Some(history)),
        ("order", witness, "page", page),
    ];
    pairs.into_iter().find_map(|(one, path, other, other_path)| {
        let path = path.filter(|path| other_path.is_some_and(|other| is_same_file(path, other)))?;
        Some(format!("{}: the {one} would be written over the {other}", path.display()))
    })
}

/// Whether two paths are the same, if it is not that of a device.
fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other && one.is_file(),
        _ => one == other,
    }
}

fn write(path: &Path, write: impl FnOnce(BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let written = File::create(path).and_then(|file| write(BufWriter::new(file)));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Prints the finding; a reader that went away early has seen what it wanted.
pub(crate) fn print(finding: &Finding, is_json: bool) -> io::Result<()> {
    let text = if is_json { serde_json::to_string(finding)? + "\n" } else { finding.to_string() };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
