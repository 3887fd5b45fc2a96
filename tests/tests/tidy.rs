//! House rules that a machine can check.
//!
//! They keep files readable and promises findable. Where a rule makes code worse, the rule is
//! changed here, for all.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kv_tests::workspace_root;

const FILE_LINES_MAX: usize = 1_000;
const ROOT_LINES_MAX: usize = 100;
const LINE_CHARS_MAX: usize = 120;

/// Folders that hold nothing of ours.
const FOREIGN: [&str; 2] = ["target", ".git"];

/// All files below `dir` with the extension, in order.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("a readable folder").map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !FOREIGN.contains(&name.as_str()) {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|actual| actual == extension) {
            found.push(path);
        }
    }
    found
}

/// Fails with all complaints about all Rust files at once.
#[track_caller]
fn check_rust_files(complain: impl Fn(&Path, &str) -> Vec<String>) {
    let root = workspace_root();
    let all = files(&root, "rs");
    assert!(all.len() > 50, "the workspace is found");
    let complaints: Vec<_> = all
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).expect("source is UTF-8");
            let shown = path.strip_prefix(&root).unwrap_or(path).to_owned();
            complain(path, &text).into_iter().map(move |what| format!("{}{what}", shown.display()))
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Complaints about single lines.
fn lines(text: &str, is_bad: impl Fn(&str) -> bool, what: &str) -> Vec<String> {
    let bad = text.lines().enumerate().filter(|(_, line)| is_bad(line));
    bad.map(|(at, _)| format!(":{}: {what}", at + 1)).collect()
}

#[test]
fn files_are_short_enough_to_be_read() {
    check_rust_files(|path, text| {
        let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
        let (count, max) =
            (text.lines().count(), if is_root { ROOT_LINES_MAX } else { FILE_LINES_MAX });
        if count < max { vec![] } else { vec![format!(": {count} lines, at most {max}")] }
    });
}

#[test]
fn lines_are_short_enough_to_be_read() {
    let is_long = |line: &str| line.chars().count() > LINE_CHARS_MAX;
    check_rust_files(|_, text| lines(text, is_long, "a line of more than 120 characters"));
}

#[test]
fn what_is_left_to_do_has_a_number() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let is_bad = |line: &str| {
        marks.iter().any(|mark| match line.split_once(mark) {
            Some((_, after)) => !after.trim_start_matches(['(', ' ']).starts_with('#'),
            None => false,
        })
    };
    assert!(is_bad(marks[0]) && !is_bad(&format!("{}(#12): x", marks[1])), "the check checks");
    check_rust_files(|_, text| lines(text, is_bad, "left to do, but without a number"));
}

#[test]
fn no_test_is_switched_off() {
    let attribute = concat!("#[ig", "nore");
    check_rust_files(|_, text| {
        lines(text, |line| line.contains(attribute), "a test is switched off")
    });
}

#[test]
fn the_architecture_names_every_folder() {
    let root = workspace_root();
    let text =
        fs::read_to_string(root.join("ARCHITECTURE.md")).expect("there is an ARCHITECTURE.md");
    let folders: BTreeSet<_> = fs::read_dir(&root)
        .expect("a readable folder")
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    assert!(folders.contains("kv-core"), "the workspace is found");
    let missing: Vec<_> = folders.iter().filter(|name| !text.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name {missing:?}");
}
