//! Small histories whose verdict a person can see, one or more for each kind of operation.
//!
//! Would go wrong without it: a change of what an operation or a result means.
//! A history is written as `process operation` lines: `1 put k a` invokes, `1 ok put k a v5`
//! completes with a version, `1 fail` and `1 info` complete the open operation without results.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;

use kv_check::{
    Event, EventKind, Expect, History, MicroOp, Model, Observed, OperationView, Options, Problem,
    Process, Verdict, check, check_with,
};
use support::without_results;

fn history(script: &str) -> History {
    let mut history = History::new(Model::Kv);
    let mut open: BTreeMap<u64, MicroOp> = BTreeMap::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let process: u64 = words[0].parse().unwrap();
        let (kind, op) = match words[1] {
            "ok" => (EventKind::Ok, micro_op(&words[2..])),
            "fail" => (EventKind::Fail, open[&process].clone()),
            "info" => (EventKind::Info, open[&process].clone()),
            _ => (EventKind::Invoke, without_results(&micro_op(&words[1..]))),
        };
        open.insert(process, without_results(&op));
        let time = history.events.len() as u64 * 1_000_000;
        history.push(time, Process::Client(process), kind, vec![op]);
    }
    history
}

/// `get k [value|-] [v7]`, `put k value [v7]`, `delete k [yes|no]`, `cas k expect value [yes|no]
/// [v7]`
fn micro_op(words: &[&str]) -> MicroOp {
    let key = words[1].to_owned();
    let rest = &words[2..];
    let number = |word: &str| word.strip_prefix('v').and_then(|digits| digits.parse().ok());
    let version = rest.last().and_then(|word| number(word));
    let says = |word: &str| rest.contains(&word);
    let truth = if says("yes") { Some(true) } else { says("no").then_some(false) };
    match words[0] {
        "get" => {
            let value = match rest.first() {
                None => Observed::NotReported,
                Some(&"-") => Observed::Absent,
                Some(word) if number(word).is_some() => Observed::NotReported,
                Some(word) => Observed::Value((*word).to_owned()),
            };
            MicroOp::Get { key, value, version }
        }
        "put" => MicroOp::Put { key, value: rest[0].to_owned(), version },
        "delete" => MicroOp::Delete { key, existed: truth },
        "cas" => {
            let expect = match rest[0] {
                "absent" => Expect::Absent,
                word => {
                    number(word).map_or_else(|| Expect::Value(word.to_owned()), Expect::Version)
                }
            };
            let version = (rest.len() > 2).then_some(version).flatten();
            MicroOp::Cas { key, expect, value: rest[1].to_owned(), applied: truth, version }
        }
        other => panic!("no operation {other}"),
    }
}

#[track_caller]
fn judge(expected: Verdict, script: &str) {
    let report = check(&history(script));
    assert_eq!(report.verdict, expected, "of\n{script}\n{report}");
}

#[track_caller]
fn good(script: &str) {
    judge(Verdict::Holds, script);
}

#[track_caller]
fn bad(script: &str) {
    judge(Verdict::Violated, script);
}

#[test]
fn nothing_happened() {
    good("");
}

#[test]
fn get_and_put() {
    good("1 get k\n 1 ok get k -\n 1 put k a\n 1 ok put k a\n 1 get k\n 1 ok get k a");
    bad("1 put k a\n 1 ok put k a\n 1 get k\n 1 ok get k -");
    bad("1 get k\n 1 ok get k a");
    bad("1 get k\n 1 ok get k a\n 1 put k a\n 1 ok put k a");
    // A read that runs beside a write may see either; two in a row may not go back.
    good("1 put k a\n 2 get k\n 2 ok get k -\n 2 get k\n 2 ok get k a\n 1 ok put k a");
    bad("1 put k a\n 2 get k\n 2 ok get k a\n 2 get k\n 2 ok get k -\n 1 ok put k a");
}

#[test]
fn delete() {
    good("1 put k a\n 1 ok put k a\n 1 delete k\n 1 ok delete k yes\n 1 get k\n 1 ok get k -");
    bad("1 put k a\n 1 ok put k a\n 1 delete k\n 1 ok delete k no");
    bad("1 delete k\n 1 ok delete k yes");
    bad("1 put k a\n 1 ok put k a\n 1 delete k\n 1 ok delete k\n 1 get k\n 1 ok get k a");
}

#[test]
fn cas_by_value_version_and_absence() {
    good("1 cas k absent a\n 1 ok cas k absent a yes v3\n 1 cas k v3 b\n 1 ok cas k v3 b yes v4");
    good("1 cas k absent a\n 1 ok cas k absent a yes\n 1 cas k a b\n 1 ok cas k a b yes");
    bad("1 cas k a b\n 1 ok cas k a b yes");
    good("1 cas k a b\n 1 ok cas k a b no");
    bad("1 cas k absent a\n 1 ok cas k absent a no");
    bad("1 put k a\n 1 ok put k a v3\n 1 cas k v3 b\n 1 ok cas k v3 b no");
    bad("1 put k a\n 1 ok put k a v3\n 1 cas k v2 b\n 1 ok cas k v2 b yes");
    // Two that expect the same cannot both apply.
    bad("1 cas k absent a\n 2 cas k absent b\n 1 ok cas k absent a yes\n 2 ok cas k absent b yes");
    // Without a result it may or may not have applied.
    good("1 cas k absent a\n 1 ok cas k absent a\n 1 get k\n 1 ok get k a");
    bad("1 cas k absent a\n 1 ok cas k absent a\n 1 get k\n 1 ok get k -");
}

#[test]
fn versions_rise() {
    good("1 put k a\n 1 ok put k a v5\n 1 put k b\n 1 ok put k b v6");
    bad("1 put k a\n 1 ok put k a v5\n 1 put k b\n 1 ok put k b v5");
    bad("1 put k a\n 1 ok put k a v5\n 1 get k\n 1 ok get k a v6");
    bad("1 put k a\n 1 ok put k a v5\n 1 get k\n 1 ok get k v6");
    good("1 put k a\n 1 ok put k a\n 1 get k\n 1 ok get k a v9\n 1 put k b\n 1 ok put k b v10");
    bad("1 put k a\n 1 ok put k a\n 1 get k\n 1 ok get k a v9\n 1 put k b\n 1 ok put k b v8");
    // Between 5 and 7 there is room for the delete, between 5 and 6 there is not.
    let delete = "1 put k a\n 1 ok put k a v5\n 1 delete k\n 1 ok delete k yes\n 1 put k b\n";
    good(&format!("{delete} 1 ok put k b v7"));
    bad(&format!("{delete} 1 ok put k b v6"));
}

#[test]
fn failed_and_unknown_outcomes() {
    bad("1 put k a\n 1 fail\n 1 get k\n 1 ok get k a");
    good("1 put k a\n 1 fail\n 1 get k\n 1 ok get k -");
    for end in ["", "1 info\n"] {
        good(&format!("1 put k a\n {end} 2 get k\n 2 ok get k a"));
        good(&format!("1 put k a\n {end} 2 get k\n 2 ok get k -"));
        // It may take effect long after, but not twice.
        good(&format!("1 put k a\n {end} 2 get k\n 2 ok get k -\n 2 get k\n 2 ok get k a"));
        bad(&format!(
            "1 put k a\n {end} 2 get k\n 2 ok get k a\n 2 delete k\n 2 ok delete k yes\n
             2 get k\n 2 ok get k a"
        ));
    }
    // Not even the value matters to the delete, only that something was there.
    good("1 put k a\n 1 info\n 2 delete k\n 2 ok delete k yes");
    good("1 cas k absent a\n 1 info\n 2 cas k a b\n 2 info\n 3 get k\n 3 ok get k b");
    bad("1 cas k x a\n 1 info\n 2 cas k a b\n 2 info\n 3 get k\n 3 ok get k b");
}

#[test]
fn keys_are_apart() {
    good("1 put k a\n 1 ok put k a v5\n 1 put l b\n 1 ok put l b v1\n 1 get l\n 1 ok get l b v1");
    bad("1 put k a\n 1 ok put k a\n 1 get l\n 1 ok get l a");
}

#[test]
fn a_violation_names_the_culprit() {
    let script = "1 put k a\n 1 ok put k a v1\n 2 put k b\n 2 ok put k b v2\n
                  3 get k\n 3 ok get k a\n 4 get k\n 4 ok get k b";
    let report = check(&history(script));
    let [violation] = &report.violations[..] else { panic!("{report}") };
    assert_eq!((violation.prefix, violation.culprit.process), (2, 3));
    assert_eq!(violation.last_write.as_ref().map(|view| view.process), Some(2));
    let expected = r#"model:      kv; keys 1, processes 4, faults 0
operations: 4 ok, 0 failed, 0 of unknown outcome
method:     a search for an order (keys 1)
verdict:    VIOLATED (not linearizable)

key "k": the first 2 completed operations have a legal order,
but none that includes the next one to complete, marked > below.
The last write of one such order: process 2: put "b" => ok version 2 [2.000000 - 3.000000 ms]
These have no order, whatever else was written and when; without any one of them there is one:

  process 1: put "a" => ok version 1 [0.000000 - 1.000000 ms]
  process 2: put "b" => ok version 2 [2.000000 - 3.000000 ms]
> process 3: get => "a" [4.000000 - 5.000000 ms]
"#;
    assert_eq!(report.to_string(), expected);
}

/// The lines of processes in the report.
#[track_caller]
fn window(script: &str, expected: &[&str]) {
    let report = check(&history(script));
    let [violation] = &report.violations[..] else { panic!("{report}") };
    assert!(violation.is_minimal, "{report}");
    let view = |view: &OperationView| format!("{} {}", view.process, view.operation);
    let window: Vec<_> = violation.window.iter().map(view).collect();
    assert_eq!(window, expected, "of {report}");
}

#[test]
fn a_window_has_the_operations_that_exclude_each_other_and_no_others() {
    let many = "5 put k x\n 5 ok put k x\n 6 get k\n 6 ok get k x\n";
    // Nobody wrote it; somebody would have, but failed; somebody did later.
    window(&format!("{many} 1 get k\n 1 ok get k a"), &["1 get"]);
    window(
        &format!("1 put k a\n 1 fail\n {many} 2 get k\n 2 ok get k a"),
        &[r#"1 put "a""#, "2 get"],
    );
    window(
        &format!("{many} 1 get k\n 1 ok get k a\n 1 put k a\n 1 ok put k a"),
        &["1 get", r#"1 put "a""#],
    );
    // A value comes back, whoever wrote the one between; the order of writes shows by reads.
    let begin = "1 put k a\n 1 ok put k a\n 2 put k b\n 3 get k\n 3 ok get k b\n";
    let end = "3 get k\n 3 ok get k a\n 2 ok put k b";
    window(&format!("{begin} {many} {end}"), &[r#"1 put "a""#, "6 get", "3 get"]);
    window(&format!("{begin} {end}"), &[r#"1 put "a""#, "3 get", "3 get"]);
    // Of versions it is enough that they fall.
    window(
        "1 put k a\n 1 ok put k a v5\n 1 get k\n 1 ok get k a v5\n 1 put k b\n 1 ok put k b v4",
        &["1 get", r#"1 put "b""#],
    );
}

#[test]
fn a_spent_budget_is_not_a_verdict() {
    // One value twice: otherwise nothing need be searched.
    let script = "1 put k a\n 2 put k b\n 3 put k a\n 1 ok put k a\n 2 ok put k b\n 3 ok put k a\n
                  1 get k\n 1 ok get k a\n 1 get k\n 1 ok get k b";
    let history = history(script);
    assert_eq!(check(&history).verdict, Verdict::Violated);
    let nothing = Options { budget_steps: Some(0), ..Options::default() };
    let stopped = Options { budget_steps: None, ..Options::default() };
    stopped.stop.stop();
    for options in [nothing, stopped] {
        let report = check_with(&history, &options);
        let undecided = &report.undecided[..];
        assert_eq!((report.verdict, undecided), (Verdict::Unknown, &["k".to_owned()][..]));
    }
}

#[test]
fn a_malformed_history_never_holds() {
    let mut history = history("1 put k a\n 1 ok put k a");
    let event = Event { index: 2, ..history.events[1].clone() };
    history.events.push(event);
    let report = check(&history);
    assert_eq!(report.verdict, Verdict::Unknown);
    let problem = report.malformed.map(|error| (error.event, error.problem));
    assert_eq!(problem, Some((2, Problem::NothingOpen { process: 1 })));
}
