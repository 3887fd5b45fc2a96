//! `kv scan`: the keys of a range, page by page, all as they were at one moment.

use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStringExt as _;

use kv_client::blocking::Snapshot;
use kv_core::client::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use kv_core::op::{Key, KeyRange, PageLimit, Row};

use crate::args::{Format, ScanArgs};
use crate::commands::{Session, row_json};
use crate::exit::ExitCode;
use crate::failure::Failure;
use crate::output;

/// The range that the options name.
pub(crate) fn range(args: &ScanArgs) -> KeyRange {
    let key = |option: &Option<OsString>| option.clone().map(OsString::into_vec);
    if let Some(prefix) = key(&args.prefix) {
        return KeyRange::prefix(prefix);
    }
    match (key(&args.from), key(&args.to)) {
        (None, None) => KeyRange::from(..),
        (Some(from), None) => KeyRange::from(from..),
        (None, Some(to)) => KeyRange::from(..to),
        (Some(from), Some(to)) => KeyRange::from(from..to),
    }
}

/// Prints what the range holds.
pub(crate) fn print(
    session: &Session,
    args: &ScanArgs,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let range = range(args);
    let snapshot = session.snapshot(args.at)?;
    print_range(&snapshot, range, args.limit.unwrap_or(u64::MAX), session.format, out)
}

fn print_range(
    snapshot: &Snapshot,
    mut range: KeyRange,
    mut left: u64,
    format: Format,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let mut out = BufWriter::new(out);
    while left > 0 {
        let rows = u32::try_from(left).unwrap_or(u32::MAX).min(PAGE_ROWS_MAX);
        let page = snapshot.page(range.clone(), PageLimit { rows, bytes: PAGE_BYTES_MAX })?;
        page.rows.iter().try_for_each(|row| print_row(row, format, &mut out))?;
        // Whoever reads along sees each page, and whoever has left is noticed.
        out.flush()?;
        left -= page.rows.len() as u64;
        match page.next {
            Some(next) => range.start = next,
            None => break,
        }
    }
    Ok(ExitCode::Done)
}

/// Prints a row.
pub(crate) fn print_row(row: &Row, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
    let Key { bytes: key, .. } = &row.key;
    match format {
        Format::Text => {
            out.write_all(key)?;
            out.write_all(b"\t")?;
            out.write_all(output::content(&row.found.value))?;
            out.write_all(b"\n")?;
        }
        Format::Json => writeln!(out, "{}", row_json(key, Some(&row.found)))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use kv_core::id::Timestamp;
    use kv_core::op::{Found, Value};

    use super::*;
    use crate::args::{Args, Command};

    #[track_caller]
    fn scan_args(line: &str) -> ScanArgs {
        let Args { command: Some(Command::Scan(args)), .. } =
            Args::parse_from(line.split_whitespace())
        else {
            panic!("not a scan: {line}")
        };
        args
    }

    #[test]
    fn options_name_a_range() {
        let check = |line: &str, expected: KeyRange| {
            assert_eq!(range(&scan_args(line)), expected, "{line}");
        };
        check("kv scan", KeyRange::from(..));
        check("kv scan --from b", KeyRange::from("b"..));
        check("kv scan --to d", KeyRange::from(.."d"));
        check("kv scan --from b --to d --limit 3 --at 9", KeyRange::from("b".."d"));
        check("kv scan --prefix b/", KeyRange::from("b/".."b0"));
        let args = scan_args("kv scan --limit 3 --at 9");
        assert_eq!((args.limit, args.at), (Some(3), Some(Timestamp(9))));
        for wrong in
            ["kv scan --prefix a --from b", "kv scan --limit 0", "kv scan a", "kv scan --at x"]
        {
            assert!(Args::try_parse_from(wrong.split_whitespace()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rows_are_bytes_or_an_object_each() {
        let row = |key: &'static [u8]| Row {
            key: Key::new(key),
            found: Found { version: Timestamp(7), value: Value::string("v\tw") },
        };
        let printed = |key, format| {
            let mut out = vec![];
            print_row(&row(key), format, &mut out).map(|()| out).unwrap()
        };
        assert_eq!(printed(b"k\xff", Format::Text), b"k\xff\tv\tw\n");
        assert_eq!(
            printed(b"k", Format::Json),
            b"{\"key\":\"k\",\"value\":\"v\\tw\",\"version\":\"7\"}\n"
        );
    }
}
