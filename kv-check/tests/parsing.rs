//! Reading and writing histories.
//!
//! Would go wrong without it: an error without a position, a field that is silently ignored, or a
//! panic on bytes that are not a history.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use kv_check::{History, MicroOp, Observed, ParseError, ReadError, check, write_to};
use support::{Rng, Workload, record};

const HEADER: &str = r#"{"version":1,"model":"kv"}"#;
const INVOKE: &str = r#"{"index":0,"time_ns":5,"process":1,"type":"invoke","f":"get","ops":[{"op":"get","key":"k"}]}"#;

/// Parses the lines and returns where and why that failed.
#[track_caller]
fn error(lines: &[&str]) -> ParseError {
    let text = lines.join("\n");
    let error = History::parse(&text).expect_err("not a history");
    match History::read(text.as_bytes()) {
        Err(ReadError::Parse(other)) => assert_eq!(other, error, "a stream gives the same"),
        other => panic!("expected {error}, found {other:?}"),
    }
    error
}

#[track_caller]
fn expect(lines: &[&str], line: usize, column: usize, part: &str) {
    let error = error(lines);
    assert_eq!((error.line, error.column), (line, column), "{error}");
    assert!(error.expected.contains(part), "{error:?} contains {part:?}");
}

fn event(process: &str, kind: &str, ops: &str) -> String {
    format!(
        r#"{{"index":1,"time_ns":5,"process":{process},"type":"{kind}","f":"f","ops":[{ops}]}}"#
    )
}

#[test]
fn headers() {
    expect(&[], 1, 1, "expected a header");
    expect(&["", HEADER], 1, 1, "empty line");
    expect(&[r#"{"version":2,"model":"kv"}"#], 1, 1, "expected `version` 1; found 2");
    expect(&[r#"{"version":1,"model":"queue"}"#], 1, 28, "expected `register` or `kv`");
    expect(&[r#"{"version":1}"#], 1, 13, "missing field `model`");
    expect(&[r#"{"version":1,"model":"kv","seed":3}"#], 1, 32, "unknown field `seed`");
    let named = History::parse(r#"{"version":1,"model":"register","name":"n"}"#).unwrap();
    assert_eq!(named.header.name.as_deref(), Some("n"));
}

#[test]
fn lines_that_are_no_events() {
    expect(&[HEADER, "", INVOKE], 2, 1, "expected an event; found an empty line");
    expect(&[HEADER, INVOKE, &INVOKE[..40]], 3, 40, "EOF");
    expect(&[HEADER, r#"{"index":-1"#], 2, 11, "expected u64");
    expect(&[HEADER, &event("\"n\"", "info", "")], 2, 36, "a client number or \"nemesis\"");
    expect(&[HEADER, &event("1", "done", "")], 2, 48, "expected one of `invoke`, `ok`");
}

#[test]
fn operations_that_are_none() {
    let expect_op = |op: &str, part: &str| {
        let error = error(&[HEADER, &event("1", "invoke", op)]);
        assert!(error.line == 2 && error.column > 60, "{error}");
        assert!(error.expected.contains(part), "{error:?} contains {part:?}");
    };
    expect_op(r#"{"op":"scan","key":"k"}"#, "expected one of `get`, `put`");
    expect_op(r#"{"op":"get"}"#, "missing field `key`");
    expect_op(r#"{"op":"put","key":"k"}"#, "need the field `value`");
    expect_op(r#"{"op":"put","key":"k","value":null}"#, "need the field `value`");
    expect_op(r#"{"op":"cas","key":"k","value":"v"}"#, "needs the field `expect`");
    expect_op(r#"{"op":"delete","key":"k","exist":true}"#, "unknown field `exist`");
    expect_op(r#"{"op":"delete","key":"k","version":1}"#, "neither");
    expect_op(r#"{"op":"get","key":"k","existed":true}"#, "only a delete");
    expect_op(r#"{"op":"put","key":"k","value":"v","applied":true}"#, "only a cas");
}

#[test]
fn events_that_do_not_fit_together() {
    let get = r#"{"op":"get","key":"k"}"#;
    let late = event("1", "ok", get);
    expect(&[HEADER, INVOKE, INVOKE], 3, 1, "`index` above 0, the one before; found 0");
    expect(&[HEADER, INVOKE, &late.replace(":5,", ":4,")], 3, 1, "`time_ns` of at least 5");
    expect(&[HEADER, INVOKE, &event("1", "invoke", get)], 3, 1, "no open operation");
    expect(&[HEADER, INVOKE, &event("2", "ok", get)], 3, 1, "an open operation of process 2");
    expect(&[HEADER, INVOKE, &event("1", "ok", "")], 3, 1, "found none");
    expect(&[HEADER, INVOKE, &late.replace("\"k\"", "\"l\"")], 3, 1, "same arguments");
    expect(&[HEADER, INVOKE, &event("\"nemesis\"", "ok", "")], 3, 1, "empty `ops`");
    let two = event("1", "invoke", &format!("{get},{get}"));
    expect(&[HEADER, &two], 2, 1, "unsupported: transactions");
    let absent = event("1", "ok", r#"{"op":"get","key":"k","value":null,"version":1}"#);
    expect(&[HEADER, INVOKE, &absent], 3, 1, "no `version` where nothing was read");
    let info = event("1", "info", "");
    let again = event("1", "invoke", get).replace("\"index\":1", "\"index\":2");
    expect(&[HEADER, INVOKE, &info, &again], 4, 1, "after `info` it is retired");
}

#[test]
fn null_is_absent_and_missing_is_not_reported() {
    let parse = |text: &str| serde_json::from_str::<MicroOp>(text).unwrap();
    let get = |value| MicroOp::Get { key: "k".into(), value, version: None };
    assert_eq!(parse(r#"{"op":"get","key":"k"}"#), get(Observed::NotReported));
    let absent = r#"{"op":"get","key":"k","value":null}"#;
    assert_eq!(parse(absent), get(Observed::Absent));
    assert_eq!(
        parse(r#"{"op":"get","key":"k","value":null,"version":null}"#),
        get(Observed::Absent)
    );
    assert_eq!(serde_json::to_string(&get(Observed::Absent)).unwrap(), absent);
}

fn sample(seed: u64, operations: usize) -> (History, Vec<u8>) {
    let workload = Workload {
        clients: 4,
        operations,
        keys: 2,
        values: 3,
        unknown: 20,
        unknown_max: 10,
        failed: 10,
        reported: 80,
        versions: 70,
        slow: 50,
    };
    let mut history = record(&mut Rng(seed), &workload);
    history.push_fault(u64::MAX, "partition");
    let mut text = Vec::new();
    write_to(&history, &mut text).unwrap();
    (history, text)
}

#[test]
fn what_is_written_is_read() {
    for seed in 0..200 {
        let (history, text) = sample(seed, 30);
        assert_eq!(History::read(&text[..]).unwrap(), history);
        assert_eq!(History::parse(std::str::from_utf8(&text).unwrap()).unwrap(), history);
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut parsed = 0;
    for seed in 0..4_000 {
        let mut rng = Rng(seed);
        let (_, mut text) = sample(seed, 5);
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(text.len());
            let with = rng.below(text.len());
            match rng.below(5) {
                0 => text.truncate(at + 1),
                1 => text[at] = rng.next() as u8,
                2 => text[at] = b"0123456789\"{}[],:\n"[rng.below(18)],
                3 => text.swap(at, with),
                _ => drop(text.drain(at.min(with)..at.max(with).min(at.min(with) + 20))),
            }
        }
        match History::read(&text[..]) {
            Ok(history) => {
                parsed += 1;
                assert_eq!(check(&history).malformed, None, "what was read is well-formed");
            }
            Err(error) => assert!(error.to_string().starts_with("line "), "{error}"),
        }
    }
    assert!(parsed > 40, "some changes leave a history: {parsed}");
    let mut rng = Rng(1);
    for _ in 0..1_000 {
        let bytes: Vec<u8> = (0..rng.below(200)).map(|_| rng.next() as u8).collect();
        assert!(History::read(&bytes[..]).is_err());
    }
    let deep = format!("{HEADER}\n{}", "[".repeat(100_000));
    assert!(History::parse(&deep).is_err());
}
