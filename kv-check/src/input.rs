//! Reading a history as text.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::string::FromUtf8Error;

use anyhow::Context;
use kv_check::ParseError;

/// The text of a file, or of standard input if the path is `-`.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes).context("cannot read the history")?;
    } else {
        let mut file =
            File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let read = file.read_to_end(&mut bytes).context("cannot read the history");
        read.with_context(|| path.display().to_string())?;
    }
    match String::from_utf8(bytes) {
        Ok(text) if text.starts_with('\u{feff}') => {
            let expected = "expected no byte order mark at the beginning".to_owned();
            let error = ParseError { line: 1, column: 1, expected };
            Err(error).with_context(|| path.display().to_string())
        }
        Ok(text) => Ok(text),
        Err(error) => Err(not_text(&error)).with_context(|| path.display().to_string()),
    }
}

/// The first bytes that are not UTF-8, as what is wrong with the history.
fn not_text(error: &FromUtf8Error) -> ParseError {
    let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let column = before.len() - begin + 1;
    ParseError { line, column, expected: "expected text in UTF-8".to_owned() }
}
