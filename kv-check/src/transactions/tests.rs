//! What would go wrong: an anomaly that is missed or misnamed, and a level that it does not touch.
//!
//! A line of a case is a transaction: process, outcome, and operations as `ax1` (append 1 to x) and
//! `rx12` (x was read as 1, 2). They are concurrent, unless `--` ends all that come before.

use super::history::index;
use super::*;
use crate::report::Verdict;

fn lists(text: &str) -> TxnHistory {
    let mut history = TxnHistory::new();
    let mut position = 0;
    for batch in text.split("--") {
        let lines: Vec<_> = batch.lines().map(str::trim).filter(|it| !it.is_empty()).collect();
        let size = index(lines.len());
        for (invoked, line) in (position..).zip(lines) {
            let mut words = line.split_whitespace();
            let process = words.next().unwrap().parse().unwrap();
            let outcome = match words.next().unwrap() {
                "ok" => TxnOutcome::Committed,
                "fail" => TxnOutcome::Aborted,
                _ => TxnOutcome::Unknown,
            };
            let is_known = outcome != TxnOutcome::Unknown;
            let completed = if is_known { invoked + size } else { NEVER };
            let ops: Vec<_> = words.map(|word| op(&mut history, word)).collect();
            history.push(Txn { process, invoked, completed, outcome }, &ops).unwrap();
        }
        position += 2 * size;
    }
    history
}

fn op(history: &mut TxnHistory, word: &str) -> TxnOp {
    let key = history.key(&word[1..2]);
    let values: Vec<_> =
        word[2..].chars().map(|digit| history.version(key, &digit.to_string())).collect();
    match &word[..1] {
        "a" => TxnOp::Append(values[0]),
        "r" => TxnOp::ReadList(key, history.list(&values).unwrap()),
        other => panic!("{other}"),
    }
}

/// The anomalies of a case, and the weakest levels that they rule out.
#[track_caller]
fn expect(text: &str, anomalies: &str, ruled_out: &str, kept: &str) {
    expect_of(&lists(text), anomalies, ruled_out, kept);
}

#[track_caller]
fn expect_of(history: &TxnHistory, anomalies: &str, ruled_out: &str, kept: &str) {
    let report = check_transactions(history, &Options::default());
    let found: Vec<_> = report.anomalies.iter().map(|it| it.kind.to_string()).collect();
    assert_eq!(found.join(" "), anomalies, "{report}");
    for (names, verdict) in [(ruled_out, Verdict::Violated), (kept, Verdict::Holds)] {
        for name in names.split_whitespace() {
            assert_eq!(report.verdict_of(name.parse().unwrap()), verdict, "{name}: {report}");
        }
    }
}

#[test]
fn serial_histories_keep_all_levels() {
    let all = LEVEL_NAMES.map(|(name, _)| name).join(" ");
    expect("", "", "", &all);
    expect("0 ok rx ax1 ax2--1 ok rx12 ax3 rx123--0 ok rx123 ry ay1 ay2", "", "", &all);
    expect("0 ok ax1--1 info ax2 ay1--2 ok rx12 ry1 ax3--3 fail ax4", "", "", &all);
    expect("0 ok ax1--1 info ax2--2 ok rx1 ax3", "", "", &all);
    expect("0 ok ax1--1 ok ax2--2 ok rx12--3 ok ax3--4 ok ax4", "", "", &all);
}

#[test]
fn dirty_writes() {
    let case = "0 ok ax1 ay1\n1 ok ax2 ay2\n2 ok rx12 ry21";
    expect(case, "G0", "read-uncommitted strict-serializable", "");
    expect("0 ok ax1 ax2 ax4\n1 ok ax3 rx1234", "internal G0", "read-uncommitted", "");
}

#[test]
fn what_never_was() {
    let kept = "read-uncommitted";
    expect("0 fail ax1\n1 ok rx1", "G1a", "read-committed", kept);
    expect("0 fail ax1\n1 ok ax2\n2 ok rx12", "dirty-update G1a", "read-committed", kept);
    let case = "0 fail ax1\n1 info ax2\n2 ok ax3\n3 ok rx123";
    expect(case, "dirty-update G1a", "read-committed", kept);
    expect("0 ok rx1 ax1", "future-read", "read-committed", kept);
    expect("0 ok rx1", "garbage-read", "read-uncommitted", "");
    let case = "0 ok ax1 ry1\n1 ok ax2 ay1\n2 ok rx121";
    expect(case, "duplicate-elements G1c", "read-uncommitted", "");
}

#[test]
fn orders_that_do_not_fit() {
    let case = "0 ok ax1 ry1\n1 ok ax2\n2 ok ax3 ay1\n3 ok rx13\n4 ok rx123";
    expect(case, "incompatible-order G1c", "read-committed", "");
    let case = "0 ok ax1 ax2\n1 ok rx21";
    expect(case, "G1b incompatible-order", "read-committed", "");
    let (case, found) = ("0 ok ax1 ax2\n1 ok rx2", "incompatible-order G-single-item");
    expect(case, found, "read-committed", "");
}

#[test]
fn intermediate_reads() {
    let case = "0 ok ax1 ax2\n1 ok rx1";
    expect(case, "G1b G-single-item", "read-committed", "read-uncommitted");
    expect("0 ok ax1 ax2\n1 ok rx1\n2 ok rx12", "G1b G-single-item", "read-committed", "");
}

#[test]
fn information_flows_in_circles() {
    let case = "0 ok ax1 ry1\n1 ok ax2 ay1\n2 ok rx12 ry1";
    expect(case, "G1c", "read-committed", "read-uncommitted");
    let case = "1 ok rx1 ay1\n2 ok ry1--2 ok ax1";
    expect(case, "G1c-process", "strong-session-read-committed", "serializable");
}

#[test]
fn skewed_reads() {
    let (out, kept) = ("consistent-view read-atomic", "cursor-stability");
    expect("0 ok ax1 ay1\n1 ok ax2 ry\n2 ok rx12", "G-single-item", "consistent-view", kept);
    expect("0 ok ax1 ay1\n1 ok rx1 ry", "fractured-read G-single-item", out, kept);
    let case = "0 ok ax1\n1 ok ax2--2 ok rx1--3 ok rx12";
    let (out, kept) = ("strong-snapshot-isolation", "strong-session-serializable");
    expect(case, "G-single-item-realtime", out, kept);
    let case = "0 ok ax1\n1 ok ax2--1 ok rx1\n2 ok rx12";
    let (out, kept) = ("strong-session-snapshot-isolation", "serializable");
    expect(case, "G-single-item-process", out, kept);
}

#[test]
fn long_forks() {
    let (out, kept) = ("snapshot-isolation", "consistent-view");
    let case = "0 ok ax1\n1 ok rx1 ry\n2 ok ay1\n3 ok ry1 rx";
    expect(case, "G-nonadjacent-item", out, kept);
    let case = "0 ok ax1 at1\n1 ok rx1 ry\n2 ok ay1 az2\n3 ok rz2 rt";
    expect(case, "G-nonadjacent-item", out, kept);
    let case = "0 ok rx rz1\n1 ok ax1\n2 ok az1--1 ok rz";
    let (out, kept) = ("strong-session-snapshot-isolation", "serializable");
    expect(case, "G-single-item-realtime G-nonadjacent-item-process", out, kept);
}

#[test]
fn skewed_writes() {
    let (out, kept) = ("repeatable-read serializable", "snapshot-isolation");
    expect("0 ok ax1 ry\n1 ok ay1 rx", "G2-item", out, kept);
    let (out, kept) = ("update-atomic cursor-stability", "read-committed");
    expect("0 ok ax0\n1 ok rx0 ax1\n2 ok rx0 ax2", "lost-update G2-item", out, kept);
    let case = "0 ok ax0\n1 ok rx0 ax1\n2 ok rx0 ax2\n3 ok rx012";
    expect(case, "lost-update G-single-item", out, kept);
}

#[test]
fn reads_that_contradict_their_own_transaction() {
    let (out, kept) = ("read-atomic serializable", "read-uncommitted");
    expect("0 ok ax2\n1 ok rx rx2", "internal", out, kept);
    expect("0 ok ax1 rx", "internal", out, kept);
    // What the second read saw may hide a cycle.
    let hidden = "0 ok rx rx1 ay5\n1 ok ry5 ax1";
    expect(hidden, "internal", out, kept);
    let hidden_too = "0 ok rx rx1 wy5\n1 ok ry5 wx1";
    for history in [lists(hidden), registers(hidden_too)] {
        let report = check_transactions(&history, &Options::default());
        for level in [Level::ReadCommitted, Level::CursorStability] {
            assert_eq!(report.verdict_of(level), Verdict::Unknown, "{report}");
        }
    }
    expect("0 ok ax1 ax2 rx21", "incompatible-order internal", "read-committed", "");
}

#[test]
fn values_that_were_appended_twice_say_nothing() {
    let report = check_transactions(&lists("0 ok ax1\n1 ok ax1"), &Options::default());
    assert_eq!(report.verdict, Verdict::Unknown);
    assert!(report.to_string().contains("1 was appended to x twice"), "{report}");
}

#[test]
fn cycles_are_told_in_sentences() {
    let case = "0 ok ax1 ay1\n1 ok ax2 ry\n2 ok rx12";
    let report = check_transactions(&lists(case), &Options::default());
    let text = report.to_string();
    for part in [
        "verdict     VIOLATED",
        "T2 read y as [], without 1, which T1 appended",
        "T1 appended 1 to x, and T2 appended 2 after it",
        "where       T1 of process 0: append x 1; append y 1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Registers: `wx1` writes 1 to x, `rx1` read it, `rx` found nothing.
fn registers(text: &str) -> TxnHistory {
    let lists = lists(&text.replace('w', "a"));
    let mut history = TxnHistory::new();
    for (place, txn) in lists.transactions().iter().enumerate() {
        let op = |op: &TxnOp| {
            let key = history.key(lists.key_name(lists.key_of_op(*op)));
            let mut version = |it: Version| history.version(key, lists.value_name(it));
            match *op {
                TxnOp::Append(it) => TxnOp::Write(version(it)),
                TxnOp::ReadList(_, list) => {
                    TxnOp::Read(key, lists.elements(list).last().map(|it| version(*it)))
                }
                other => other,
            }
        };
        let ops: Vec<_> = lists.ops(place).iter().map(op).collect();
        history.push(*txn, &ops).unwrap();
    }
    history
}

#[track_caller]
fn expect_registers(text: &str, anomalies: &str, ruled_out: &str, kept: &str) {
    expect_of(&registers(text), anomalies, ruled_out, kept);
}

#[test]
fn registers_show_what_is_certain_without_an_order() {
    let all = LEVEL_NAMES.map(|(name, _)| name).join(" ");
    expect_registers("0 ok rx wx1--1 info wx2--2 ok rx2 wx3--3 fail wx4--4 ok rx3", "", "", &all);
    let (out, kept) = ("read-committed", "read-uncommitted");
    expect_registers("0 fail wx1--1 ok rx1", "G1a", out, kept);
    expect_registers("0 ok wx1 wx2--1 ok rx1", "G1b", out, kept);
    expect_registers("0 ok rx1 wx1", "future-read", out, kept);
    expect_registers("0 ok wx1 ry1\n1 ok wy1 rx1", "G1c", out, kept);
    expect_registers("0 ok rx rx1--1 ok wx1", "internal", "read-atomic", "read-uncommitted");
    expect_registers("0 ok rx0\n1 ok wx1 rx0", "internal", "read-atomic", "read-uncommitted");
    expect_registers("0 ok rx1\n1 ok rx", "garbage-read", "read-uncommitted", "");
    let case = "0 ok wx0\n1 ok rx0 wx1\n2 ok rx0 wx2";
    expect_registers(case, "lost-update", "cursor-stability", "read-committed");
    let case = "0 ok wx1 wy1\n1 ok rx1 ry";
    expect_registers(case, "G-single-item", "snapshot-isolation", "read-committed");
}

#[test]
fn orders_of_writes_are_looked_for() {
    let case = "0 ok wx1\n1 ok wx2\n2 ok rx1--2 ok rx2--2 ok rx1";
    expect_registers(case, "no-order", "strong-session-serializable", "serializable");
    let case = "0 ok wx0 wy0--1 ok rx0 wy1\n2 ok ry0 wx1";
    let (out, kept) = ("serializable", "strong-snapshot-isolation");
    expect_registers(case, "no-order", out, kept);
    let report = check_transactions(&registers(case), &Options::default());
    let text = report.to_string();
    assert!(text.contains("no order of the writes is serializable"), "{text}");
    assert!(
        text.contains(
            "one way: T3 read y as 0, before T2 wrote 1; T2 read x as 0, before T3 wrote 1"
        ),
        "{text}"
    );
    let spent = Options { budget_steps: Some(0), ..Options::default() };
    assert_eq!(check_transactions(&registers(case), &spent).verdict, Verdict::Unknown);
}

#[test]
fn what_follows_from_a_level_is_known_even_if_no_steps_are_left() {
    let ring = lists("0 ok ax1 ry\n1 ok ay1 rz\n2 ok az1 rx");
    let spent = Options { budget_steps: Some(0), ..Options::default() };
    let report = check_transactions(&ring, &spent);
    for name in ["snapshot-isolation", "consistent-view"] {
        assert_eq!(report.verdict_of(name.parse().unwrap()), Verdict::Holds, "{name}: {report}");
    }
}

#[test]
fn sessions_have_guarantees() {
    let broken = |text: &str| {
        let rules = session_guarantees(&registers(text)).rules;
        let broken = rules.iter().filter(|rule| rule.verdict == Verdict::Violated);
        broken.map(|rule| rule.name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(broken("0 ok wx1--0 ok rx1--1 ok rx wx2--0 ok rx2"), "");
    assert_eq!(broken("0 ok wx1--0 ok rx"), "read-your-writes");
    let all = "monotonic-reads monotonic-writes writes-follow-reads";
    assert_eq!(broken("0 ok wx1\n1 ok wx2--2 ok rx1--2 ok rx2--2 ok rx1"), all);
    assert_eq!(broken("0 ok wx1\n1 ok wx2--0 ok rx2\n1 ok rx1"), "read-your-writes");
    assert_eq!(broken("0 ok wx1--0 ok wx2--1 ok rx2--1 ok rx1"), "monotonic-writes");
    assert_eq!(broken("0 ok wx1--1 ok rx1--1 ok wx2--2 ok rx2--2 ok rx1"), "writes-follow-reads");
    assert_eq!(broken("0 info wx1--0 ok rx"), "");
    // A value that nobody wrote is the initial one.
    assert_eq!(broken("0 ok wx1--0 ok rx0"), "read-your-writes");
    // All reads count, not only the last one, and for all later writes.
    let all_reads = "0 ok wx1--0 ok wy2--1 ok rx1--1 ok wz3--1 ok ry2--1 ok wx4";
    assert_eq!(broken(&format!("{all_reads}--2 ok rx4--2 ok rx1")), "writes-follow-reads");
}

#[test]
fn a_wrong_execution_is_reported_and_nothing_holds() {
    let history = lists("0 ok ax1\n1 ok rx1 ry\n2 ok ay1--3 ok ry1");
    let level = Level::StrictSerializable;
    let mut report = check_transactions(&history, &Options::default());
    let proof = "proof       an order of all transactions, replayed as strict-serializable";
    assert!(report.to_string().contains(proof), "{report}");
    let steps = vec![Step::Run(1), Step::Run(0), Step::Run(2), Step::Run(3)];
    report.prove(&history, Execution { level, steps });
    assert!(LEVEL_NAMES.iter().all(|(_, level)| report.verdict_of(*level) == Verdict::Unknown));
    assert_eq!(report.verdict, Verdict::Unknown);
    let text = report.to_string();
    let expected = "INTERNAL ERROR of the checker, please report it: the order for \
                    strict-serializable: T2 reads something else";
    assert!(text.contains(expected) && !text.contains("proof"), "{text}");
    assert!(crate::Finding::Transactions(Box::new(report)).flaws()[0].ends_with("else"));
}

#[test]
fn each_level_that_holds_is_shown_by_the_strongest_order() {
    let shown = |text: &str, level: &str| {
        let options = Options { level: level.parse().unwrap(), ..Options::default() };
        let report = check_transactions(&lists(text), &options);
        assert_eq!(report.verdict, Verdict::Holds, "{report}");
        report.execution(report.level).map(|execution| execution.level.name())
    };
    let skew = "0 ok ax1 ry\n1 ok rx ay1";
    assert_eq!(shown(skew, "read-committed"), Some("strong-snapshot-isolation"));
    let stale = "0 ok ax1--0 ok rx--1 ok rx1";
    assert_eq!(shown(stale, "snapshot-isolation"), Some("serializable"));
    let later = "0 ok ax1--1 ok rx--1 ok rx1";
    assert_eq!(shown(later, "read-atomic"), Some("strong-session-serializable"));
    let lost = "0 ok rx ax1\n1 ok rx ax2--2 ok rx12";
    assert_eq!(shown(lost, "read-committed"), None);
    assert_eq!(shown("", "strict-serializable"), Some("strict-serializable"));
}
