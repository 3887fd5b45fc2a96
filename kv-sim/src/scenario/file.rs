//! Scenario files.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::nearest::nearest;
use super::{Problem, Scenario};

/// Why a scenario could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such file.
    #[error("{}: no such scenario{}", path.display(), suggestion(near))]
    Missing {
        /// The file asked for.
        path: PathBuf,
        /// Files with similar names.
        near: Vec<PathBuf>,
    },
    /// The file does not hold a scenario.
    #[error("{}", list(path, problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
    /// The file cannot be read.
    #[error("{}: cannot read the scenario", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn suggestion(near: &[PathBuf]) -> String {
    let names: Vec<String> = near.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}

fn list(path: &Path, problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        let _ = writeln!(text, "{}:{problem}", path.display());
    }
    text.truncate(text.trim_end().len());
    text
}

/// Loads a scenario.
pub fn load(path: &Path) -> Result<Scenario, LoadError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LoadError::Missing { path: path.into(), near: similar(path) });
        }
        Err(source) => return Err(LoadError::Unreadable { path: path.into(), source }),
    };
    let name = path.file_stem().and_then(OsStr::to_str).unwrap_or("scenario");
    Scenario::parse(&text, name)
        .map_err(|problems| LoadError::Wrong { path: path.into(), problems })
}

/// Scenarios with similar names, in the same directory and in those below the nearest directory
/// that exists.
fn similar(path: &Path) -> Vec<PathBuf> {
    let Some(wanted) = path.file_name().and_then(OsStr::to_str) else { return Vec::new() };
    let parents = path
        .ancestors()
        .skip(1)
        .map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
    let Some(directory) = parents.into_iter().find(|parent| parent.is_dir()) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    collect(directory, 2, &mut files);
    files.sort();
    let names: Vec<&str> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    let near = nearest(wanted, names.into_iter());
    let is_near = |file: &&PathBuf| {
        file.file_name().and_then(OsStr::to_str).is_some_and(|name| near.contains(&name))
    };
    files
        .iter()
        .filter(is_near)
        .take(3)
        .map(|file| file.strip_prefix(".").unwrap_or(file).into())
        .collect()
}

fn collect(directory: &Path, depth: u32, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension() == Some(OsStr::new("toml")) {
            files.push(path);
        } else if depth > 0 && path.is_dir() {
            collect(&path, depth - 1, files);
        }
    }
}
