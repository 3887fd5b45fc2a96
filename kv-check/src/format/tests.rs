//! What would go wrong: a history that says something else than its author meant, or bytes that end
//! the program.

use super::*;
use crate::budget::Options;
use crate::report::Verdict;

#[track_caller]
fn check(format: Format, text: &str, verdict: Verdict) {
    assert_eq!(Format::detect(text), format, "{text}");
    let recording = format.read(text).expect("it is well-formed");
    assert_eq!(recording.check(&Options::default()).verdict(), verdict, "{text}");
}

#[track_caller]
fn refused(format: Format, text: &str, line: usize, column: usize, expected: &str) {
    let error = format.read(text).expect_err("it is not well-formed");
    assert_eq!((error.line, error.column), (line, column), "{error}");
    assert!(error.expected.contains(expected), "{error}");
}

fn porcupine(value: &str) -> String {
    [
        r#"{:process 0, :type :invoke, :f :append, :key "a", :value "x 1"}"#,
        r#"{:process 1, :type :invoke, :f :put, :key "b", :value "y"}"#,
        r#"{:process 0, :type :ok, :f :append, :key "a", :value "x 1"}"#,
        r#"{:process 0, :type :invoke, :f :get, :key "a", :value nil}"#,
        &format!(r#"{{:process 0, :type :ok, :f :get, :key "a", :value {value}}}"#),
    ]
    .join("\n")
}

#[test]
fn strings_are_read_per_key() {
    check(Format::PorcupineKv, &porcupine(r#""x 1""#), Verdict::Holds);
    check(Format::PorcupineKv, &porcupine("nil"), Verdict::Violated);
    check(Format::PorcupineKv, &porcupine(r#""y""#), Verdict::Violated);
    refused(Format::PorcupineKv, &porcupine(r#""x"#), 5, 51, "a string with an end");
    refused(Format::PorcupineKv, "{:process 0}", 1, 1, ":type");
    let end = r#"{:process 0, :type :ok, :f :get, :key "a", :value nil}"#;
    refused(Format::PorcupineKv, end, 1, 1, "before its end");
}

fn log(lines: &[&str]) -> String {
    let line = |line: &&str| format!("INFO  jepsen.util - {}\n", line.replace(' ', "\t"));
    lines.iter().map(line).collect::<String>() + "INFO  jepsen.core - done\n"
}

#[test]
fn failed_cas_of_a_log_says_what_the_register_is_not() {
    let cas = |end: &str| {
        let write = ["0 :invoke :write 1", "0 :ok :write 1", "1 :invoke :cas [1,2]"];
        log(&[&write[..], &[end]].concat())
    };
    check(Format::JepsenLog, &cas("1 :ok :cas [1,2]"), Verdict::Holds);
    check(Format::JepsenLog, &cas("1 :fail :cas [1,2]"), Verdict::Violated);
    check(Format::JepsenLog, &cas("1 :info :cas :timed-out"), Verdict::Holds);
    check(Format::JepsenLog, &log(&["0 :invoke :read nil", "0 :ok :read nil"]), Verdict::Holds);
    check(Format::JepsenLog, &log(&["0 :invoke :read nil", "0 :ok :read 1"]), Verdict::Violated);
    refused(Format::JepsenLog, &log(&["0 :ok :read 1"]), 1, 1, "process 0");
}

#[test]
fn failed_cas_of_edn_did_not_happen() {
    let cas = |end: &str| {
        let events = [
            "; a comment",
            "[{:process :nemesis, :type :info, :f :start, :value nil}",
            "{:process 1, :type :invoke, :f :cas, :value [0 2]}",
            end,
            "{:process 2, :type :invoke, :f :read, :value nil}",
            "#jepsen.history.Op{:process 2, :type :ok, :f :read, :value 0}]",
        ];
        events.join("\n")
    };
    let end = |kind: &str| cas(&format!("{{:process 1, :type :{kind}, :f :cas, :value [0 2]}}"));
    check(Format::JepsenEdn, &end("fail"), Verdict::Holds);
    check(Format::JepsenEdn, &end("info"), Verdict::Holds);
    check(Format::JepsenEdn, &end("ok"), Verdict::Violated);
    let read = |value: &str| {
        format!(
            "{{:process 1, :type :invoke, :f :read, :value nil}}\n\
             {{:process 1, :type :ok, :f :read, :value {value}}}"
        )
    };
    check(Format::JepsenEdn, &read("0"), Verdict::Holds);
    check(Format::JepsenEdn, &read("nil"), Verdict::Holds);
    check(Format::JepsenEdn, &read("1"), Verdict::Violated);
    refused(Format::JepsenEdn, &read("(("), 2, 44, "a value");
    refused(Format::JepsenEdn, "[{:process 1}", 1, 2, ":type");
    refused(Format::JepsenEdn, "[] 1", 1, 4, "nothing behind");
    refused(Format::JepsenEdn, &"[".repeat(100_000), 1, 67, "nested");
}

#[test]
fn locks_are_told_by_their_events() {
    let lock = |middle: &str| {
        let event = |(process, kind, f): (u32, &str, &str)| {
            format!("{{:process {process}, :type :{kind}, :f :{f}, :error \"no \\\"lock\\\"\"}}\n")
        };
        let events = [
            (1, "invoke", "acquire"),
            (1, "ok", "acquire"),
            (1, "invoke", "release"),
            (1, middle, "release"),
            (2, "invoke", "acquire"),
            (2, "ok", "acquire"),
        ];
        events.map(event).concat()
    };
    check(Format::JepsenEdn, &lock("ok"), Verdict::Holds);
    check(Format::JepsenEdn, &lock("info"), Verdict::Holds);
    check(Format::JepsenEdn, &lock("fail"), Verdict::Violated);
    refused(Format::JepsenEdn, &lock("won"), 4, 1, ":fail or :info; found :won");
    refused(
        Format::JepsenEdn,
        &lock("ok").replacen("2, :type :ok", "1, :type :ok", 1),
        6,
        1,
        "of 1",
    );
    let again = lock("info").replace(":process 2", ":process 1");
    refused(Format::JepsenEdn, &again, 5, 1, "outcome is unknown");
    let error = Format::Violin.read_as("", Workload::Mutex).expect_err("it has one model");
    assert_eq!(error.expected, "expected events in EDN, of which there is a model mutex");
    for (name, workload) in workload::WORKLOAD_NAMES {
        assert_eq!((name.parse(), workload.to_string()), (Ok(workload), name.to_owned()));
    }
}

/// Events of one process after the other, each `f value` with what was found.
fn events(operations: &[(&str, &str, &str)]) -> String {
    let event = |process: usize, kind: &str, f: &str, value: &str| {
        format!("{{:process {process}, :type {kind}, :f :{f}, :value {value}}}\n")
    };
    let both = |(process, (f, asked, found)): (usize, &(&str, &str, &str))| {
        let (kind, found) = found.split_once(' ').unwrap_or((found, asked));
        event(process, ":invoke", f, asked) + &event(process, kind, f, found)
    };
    operations.iter().enumerate().map(both).collect()
}

#[test]
fn sets_are_told_by_their_events() {
    let set = |ends: &[(&str, &str, &str)]| {
        let begin = [
            ("read", "nil", ":ok #{}"),
            ("add", "0", ":ok"),
            ("add", "\"b\"", ":info"),
            ("add", "[2 :c]", ":fail"),
            ("read", "nil", ":fail"),
        ];
        events(&[&begin[..], ends].concat())
    };
    check(Format::JepsenEdn, &set(&[("read", "nil", ":ok (0)")]), Verdict::Holds);
    check(Format::JepsenEdn, &set(&[("read", "nil", ":ok (\"b\" 0)")]), Verdict::Holds);
    for (found, note) in [
        ("(0 0)", "1 duplicated in the last read: 0"),
        ("[\"b\"]", "1 lost in the last read: 0"),
        ("[0 [2 :c]]", "1 unexpected in the last read: [2 :c]"),
        ("#{0 7 8 9 4 5 6}", "6 unexpected in the last read: 7, 8, 9, 4, 5, ..."),
    ] {
        let text = set(&[("read", "nil", &format!(":ok {found}"))]);
        check(Format::JepsenEdn, &text, Verdict::Violated);
        let finding = Format::JepsenEdn.read(&text).expect("it is one");
        let finding = finding.check(&Options::default()).to_string();
        assert!(finding.contains("the last read") && finding.contains(note), "{finding}");
    }
    // Only the last read counts, unless all do.
    let back = set(&[("read", "nil", ":ok [\"b\" 0]"), ("read", "nil", ":ok [0]")]);
    check(Format::JepsenEdn, &back, Verdict::Holds);
    let full = Format::JepsenEdn.read_as(&back, Workload::SetFull).expect("it is one");
    assert_eq!(full.check(&Options::default()).verdict(), Verdict::Violated);
    check(Format::JepsenEdn, &events(&[("add", "1", ":ok")]), Verdict::Unknown);
    refused(Format::JepsenEdn, &events(&[("add", "nil", ":ok")]), 1, 1, "that is added");
    refused(Format::JepsenEdn, &set(&[("read", "nil", ":ok 3")]), 12, 1, "all elements or nil");
    refused(Format::JepsenEdn, &set(&[("pop", "nil", ":ok")]), 11, 1, "an :f of :add or :read");
}

#[test]
fn counters_are_told_by_their_events() {
    let counter = |found: &str| {
        events(&[
            ("read", "nil", ":ok nil"),
            ("add", "2", ":ok"),
            ("add", "3", ":info"),
            ("add", "9", ":fail"),
            ("read", "nil", &format!(":ok {found}")),
        ])
    };
    check(Format::JepsenEdn, &counter("2"), Verdict::Holds);
    check(Format::JepsenEdn, &counter("5"), Verdict::Holds);
    check(Format::JepsenEdn, &counter("1"), Verdict::Violated);
    check(Format::JepsenEdn, &counter("6"), Verdict::Violated);
    let reads = [("read", "nil", ":ok 6"); 7];
    let text = events(&[&[("add", "2", ":ok"), ("add", "3", ":ok")], &reads[..]].concat());
    let finding = Format::JepsenEdn.read(&text).expect("it is one");
    let finding = finding.check(&Options::default()).to_string();
    assert!(finding.contains("the read that event 4 invoked found 6, not 5 to 5"), "{finding}");
    assert!(finding.contains("and 2 reads more"), "{finding}");
    let either = Format::JepsenEdn.read_as(&counter("[]"), Workload::Counter);
    assert_eq!(either.expect_err("it is a set").line, 10);
    refused(Format::JepsenEdn, &counter("6").replacen("3", "1.5", 1), 5, 1, "a number that is");
}

#[test]
fn registers_that_no_transaction_connects_are_apart() {
    let text = |found: &str| {
        events(&[
            ("txn", "[[:write :x 1] [:read :y nil]]", ":ok [[:write :x 1] [:read :y 0]]"),
            ("txn", "[[:write :z 1]]", ":info"),
            ("txn", "[]", ":ok"),
            ("txn", "[[:write :y 2] [:read :y 7]]", ":ok nil"),
            ("txn", "[[:read :y nil] [:read :x nil]]", &format!(":ok {found}")),
        ])
    };
    let of = |found: &str| text(&format!("[[:read :y {found}]]"));
    check(Format::JepsenEdn, &of("2] [:read :x 1"), Verdict::Holds);
    check(Format::JepsenEdn, &of("2] [:read :x nil"), Verdict::Holds);
    check(Format::JepsenEdn, &of("0] [:read :x 1"), Verdict::Violated);
    let finding = Format::JepsenEdn.read(&of("2] [:read :x 0")).expect("it is one");
    let finding = finding.check(&Options::default()).to_string();
    assert!(finding.contains("2 groups of registers, 4 operations, 1 pending"), "{finding}");
    assert!(finding.contains("violated    :x :y\n"), "{finding}");
    refused(Format::JepsenEdn, &of("2] [:read :z 1"), 10, 1, "that was asked for");
    refused(Format::JepsenEdn, &of("2] [:write :x 1"), 10, 1, "that was asked for");
    refused(Format::JepsenEdn, &of("2"), 10, 1, "that was asked for");
    refused(Format::JepsenEdn, &of("two"), 10, 1, "[[:read :x nil] [:write :y 2]]");
}

#[test]
fn what_edn_has_that_histories_do_not_need_is_passed_over_or_refused() {
    let read = |more: &str| {
        format!(
            "[{{:process 1, :type :invoke, :f :read}},\n\
             {{:process 1, :type :ok, :f :read, :value 0, {more}}}]"
        )
    };
    for more in [
        r#":error "a \"b""#,
        r#":error "a \\""#,
        r#":char \""#,
        ":time 1.5",
        ":x #a #{1 2}",
        ":x 1e999",
    ] {
        check(Format::JepsenEdn, &read(more), Verdict::Holds);
    }
    refused(Format::JepsenEdn, &read("#_ :x"), 2, 45, "discarded");
    refused(Format::JepsenEdn, &read(":x"), 2, 1, "a value for each key");
    refused(Format::JepsenEdn, &read(":process 1.5"), 2, 1, ":process with a number");
    refused(Format::JepsenEdn, &read(":process -1"), 2, 1, "not negative");
    refused(Format::JepsenEdn, &read(":type 1, :type :won"), 2, 1, ":type");
    refused(Format::JepsenEdn, "[{:process 1, :type :ok, :f :read} 3]", 1, 36, "an event");
}

#[test]
fn transactions_over_lists_are_read_and_refused() {
    let txns = |appends: &str, read: &str| {
        format!(
            "{{:process 0, :type :invoke, :f :txn, :value [[:append :x 1] [:append 2 \"a b\"]]}}\n\
             {{:process 0, :type :ok, :f :txn, :value {appends}}}\n\
             {{:process 1, :type :invoke, :f :txn, :value [[:r :x nil]]}}\n\
             {{:process 1, :type :ok, :f :txn, :value {read}}}\n"
        )
    };
    let (appends, format) = ("[[:append :x 1] [:append 2 \"a b\"]]", Format::JepsenEdn);
    check(format, &txns(appends, "[[:r :x [1]]]"), Verdict::Holds);
    check(format, &txns(appends, "[[:r :x nil]]"), Verdict::Violated);
    let unknown = txns(appends, "[[:r :x nil]]").replacen(":type :ok", ":type :info", 1);
    check(format, &unknown, Verdict::Holds);
    let aborted = txns(appends, "[[:r :x [1]]]").replacen(":type :ok", ":type :fail", 1);
    check(format, &aborted, Verdict::Violated);
    let other = "the operations that this process invoked";
    refused(format, &txns("[[:append :x 1]]", "[[:r :x [1]]]"), 2, 1, other);
    refused(format, &txns(appends, "[[:r :y [1]]]"), 4, 1, other);
    refused(format, &txns(appends, "[[:r :x 1]]"), 4, 1, "an operation like [:append :x 1]");
    refused(format, &txns(appends, "[[:r :x [[1]]]]"), 4, 1, "keys and values that are");
    let twice = txns(appends, "[]").replace("0, :type :ok", "0, :type :invoke");
    refused(format, &twice, 2, 1, "the end of the open transaction");
    let none = txns(appends, "[]").replace(":process 1, :type :ok", ":process 2, :type :ok");
    refused(format, &none, 4, 1, "a transaction of this process before its end");
}

#[test]
fn transactions_over_registers_are_read_and_refused() {
    let txns = |read: &str| {
        format!(
            "{{:process 0, :type :invoke, :f :txn, :value [[:w :x 1] [:r :y nil]]}}\n\
             {{:process 0, :type :ok, :f :txn, :value [[:w :x 1] [:r :y nil]]}}\n\
             {{:process 1, :type :invoke, :f :txn, :value [[:r :x nil]]}}\n\
             {{:process 1, :type :ok, :f :txn, :value [{read}]}}\n"
        )
    };
    let format = Format::JepsenEdn;
    check(format, &txns("[:r :x 1]"), Verdict::Holds);
    check(format, &txns("[:r :x nil]"), Verdict::Violated);
    refused(format, &txns("[:r :x [1]]"), 4, 1, "keys and values that are");
    refused(format, &txns("[:append :x 1]"), 4, 1, "an operation like [:w :x 1]");
    let judge = |text: &str| {
        let recording = format.read_as(text, Workload::SessionGuarantees).expect("it is read");
        recording.check(&Options::default()).verdict()
    };
    assert_eq!(judge(&txns("[:r :x nil]")), Verdict::Holds);
    assert_eq!(judge(&txns("[:r :x nil]").replace(":process 1", ":process 0")), Verdict::Violated);
}

#[test]
fn banks_and_long_forks_are_read_and_refused() {
    let reads = |one: &str, other: &str| {
        format!(
            "[{{:type :ok, :process 1, :f :read, :value {one}}}\n\
             {{:type :invoke, :process 1, :f :transfer, :value {{:from 0, :to 1, :amount 5}}}}\n\
             {{:type :ok, :process 2, :f :read, :value {other}}}]"
        )
    };
    let format = Format::JepsenEdn;
    check(format, &reads("{0 9, 1 1}", "{0 4, 1 6}"), Verdict::Holds);
    check(format, &reads("{0 9, 1 1}", "{0 4, 1 5}"), Verdict::Violated);
    let negative = reads("{0 9, 1 1}", "{0 -1, 1 11}");
    check(format, &negative, Verdict::Violated);
    let read = format.read_as(&negative, Workload::BankNegative).expect("it is read");
    assert_eq!(read.check(&Options::default()).verdict(), Verdict::Holds);
    refused(format, &reads("{0 9}", "{0 nil}"), 3, 1, "balances that are whole numbers");
    refused(format, &reads("{0 9}", "3"), 3, 1, "a :value like {0 90, 1 10}");

    let forks = |one: &str, other: &str| reads(one, other).replace(":transfer", ":write");
    let seen = "[[:r 0 1] [:r 1 nil]]";
    check(format, &forks(seen, "[[:r 1 1] [:r 0 1]]"), Verdict::Holds);
    check(format, &forks(seen, "[[:r 1 1] [:r 0 nil]]"), Verdict::Violated);
    check(format, &forks(seen, "[[:r 1 1] [:r 2 nil]]"), Verdict::Holds);
    refused(format, &forks(seen, "[[:r 1 1] [:r 0 2]]"), 3, 1, "one value, written once");
    refused(format, &reads(seen, seen), 2, 1, "an :f of :read or :write");
    // One that begins with a write, and whose reads are concurrent.
    let both = "{:type :invoke, :process 0, :f :write, :value [[:w 0 1]]}\n\
                {:type :invoke, :process 1, :f :read, :value [[:r 0 nil] [:r 1 nil]]}\n\
                {:type :invoke, :process 2, :f :read, :value [[:r 0 nil] [:r 1 nil]]}\n\
                {:type :ok, :process 1, :f :read, :value [[:r 0 1] [:r 1 nil]]}\n\
                {:type :ok, :process 2, :f :read, :value [[:r 0 nil] [:r 1 1]]}\n";
    let found = format.read(both).expect("it is read").check(&Options::default()).to_string();
    assert!(found.contains("T2 saw the write of 0 and not that of 1; T3 the reverse"), "{found}");
}

#[test]
fn the_end_of_a_call_is_that_of_what_was_asked_for() {
    let text = "{:type :invoke, :process 0, :f :acquire}\n{:type :ok, :process 0, :f :release}\n";
    refused(Format::JepsenEdn, text, 2, 1, "the end of a :acquire");
    for (f, value) in [(":append", "\"z\""), (":put", "\"z\""), (":get", "\"b\"")] {
        let ok = format!("{{:process 0, :type :ok, :f {f}, :key \"k\", :value {value}}}");
        let put = "{:process 0, :type :invoke, :f :put, :key \"k\", :value \"a\"}";
        refused(Format::PorcupineKv, &format!("{put}\n{ok}\n"), 2, 1, "what was asked for");
        let get = put.replace(":put", ":get");
        if f != ":get" {
            refused(Format::PorcupineKv, &format!("{get}\n{ok}\n"), 2, 1, "what was asked for");
        }
    }
}

#[test]
fn logs_that_say_nothing_hold_for_no_reason() {
    check(
        Format::JepsenLog,
        "  INFO jepsen.util - 0 :invoke :read nil\n  INFO jepsen.util - 0 :ok :read 7\n",
        Verdict::Violated,
    );
    let dated = "INFO hello\nINFO  [2024-01-01 10:00:00,000] jepsen.util 0\t:invoke\t:read\tnil\n";
    refused(Format::JepsenLog, dated, 2, 1, "a line like");
    check(Format::JepsenLog, "INFO hello\n", Verdict::Holds);
    let wide =
        "INFO  jepsen.util - 1   :invoke :read  nil\nINFO  jepsen.util - 1   :ok     :read  7\n";
    check(Format::JepsenLog, wide, Verdict::Violated);
    let typo = "INFO jepsen.util - 0 :invoke :write 1\nINFO jepsen.util - 0 :okk :write 1\n";
    refused(Format::JepsenLog, typo, 2, 1, ":invoke, :ok, :fail or :info; found :okk");
}

#[test]
fn cases_are_compared_with_what_is_known_of_them() {
    let registers = |ser: bool| {
        format!(
            "[\n {{\"name\": \"skew\", \"ser\": {ser}, \"si\": true, \"sessions\": [\
             [{{\"committed\": true, \"events\": [[\"w\", \"x\", 1], [\"r\", \"y\", 0]]}}],\
             [{{\"committed\": true, \"events\": [[\"w\", \"y\", 1], [\"r\", \"x\", 0]]}}]]}}]"
        )
    };
    check(Format::UnitJson, &registers(false), Verdict::Holds);
    check(Format::UnitJson, &registers(true), Verdict::Violated);
    let lists = |anomaly: &str, level: &str| {
        format!(
            r#"[{{"name":"G2","anomalies":["{anomaly}"],"not_":["{level}"],"ops":[
               {{"process":0,"type":"ok","txn":"ax1ry"}},
               {{"process":1,"type":"ok","txn":"ay1rx"}}]}}]"#
        )
    };
    check(Format::UnitJson, &lists("G2-item", "repeatable-read"), Verdict::Holds);
    check(Format::UnitJson, &lists("G0", "repeatable-read"), Verdict::Violated);
    check(Format::UnitJson, &lists("G2-item", "snapshot-isolation"), Verdict::Violated);
    refused(Format::UnitJson, &lists("G2-item", "none"), 1, 1, "one of read-uncommitted");
    refused(Format::UnitJson, &lists("", "").replace("ay1", "a1"), 1, 1, "operations like ax1");
    refused(Format::UnitJson, "[{\"name\": 3}]", 1, 11, "an array of cases");
    refused(Format::UnitJson, &registers(true).replace("[\"r\"", "[\"R\""), 1, 1, "r or w, not R");
}

#[test]
fn queues_and_stacks_are_told_apart() {
    let calls = |object: &str, first: u32| {
        format!(
            "# @object {object}\n[1] call add(1)\n[1] return\n[2] call add(2)\n[2] return\n\
             [3] call remove\n[3] return {first}\n[4] call remove\n"
        )
    };
    check(Format::Violin, &calls("atomic-queue", 1), Verdict::Holds);
    check(Format::Violin, &calls("atomic-queue", 2), Verdict::Violated);
    check(Format::Violin, &calls("atomic-stack", 1), Verdict::Violated);
    check(Format::Violin, &calls("atomic-stack", 2), Verdict::Holds);
    check(Format::Violin, "[1] call pop()\n[1] return empty", Verdict::Holds);
    refused(Format::Violin, &calls("atomic-list", 2), 1, 1, "atomic-queue, atomic-stack or");
    refused(Format::Violin, "[1] call push", 1, 1, "push(VALUE)");
    refused(Format::Violin, "[1] call add(1)\n[1] return 1", 2, 1, "adds one");
    refused(Format::Violin, "[1] call add(1)\n[1] call add(2)", 2, 1, "open call of 1");
}

#[test]
fn sets_are_decided_element_by_element() {
    let set = |third: &str, fourth: &str| {
        format!(
            "# @object atomic-set\n[1] call add(a)\n[1] return true\n[2] call insert( b )\n\
             [2] return\n[3] call contains(a)\n[3] return {third}\n[4] call remove(b)\n\
             [4] return {fourth}\n[5] call delete(a)\n"
        )
    };
    check(Format::Violin, &set("true", "true"), Verdict::Holds);
    check(Format::Violin, &set("", "true"), Verdict::Holds);
    check(Format::Violin, &set("false", "true"), Verdict::Violated);
    let absent = "# @object atomic-set\n[1] call remove(a)\n[1] return ";
    check(Format::Violin, &format!("{absent}false\n"), Verdict::Holds);
    check(Format::Violin, &format!("{absent}true\n"), Verdict::Violated);
    let finding = Format::Violin.read(&set("true", "false")).expect("it is one");
    let finding = finding.check(&Options::default()).to_string();
    assert!(finding.contains("2 elements of a set, 5 operations, 1 pending"), "{finding}");
    assert!(finding.contains("violated    b\n"), "{finding}");
    refused(Format::Violin, &set("yes", "true"), 7, 1, "true, false or nothing");
    refused(Format::Violin, &set("", "").replace("delete(a)", "delete"), 10, 1, "remove(VALUE)");
}

#[test]
fn no_cut_and_no_changed_byte_ends_the_program() {
    let texts = [
        porcupine(r#""x 1""#),
        log(&["0 :invoke :cas [1 2]", "0 :info :cas :timed-out"]),
        "[{:process 1, :type :invoke, :f :cas, :value #{0 2}}]".to_owned(),
        r#"({:process 1, :type :invoke, :f :acquire} #op {:process 1 :type :info :error "\"" :f :release})"#
            .to_owned(),
        "# @object atomic-queue\n[1] call add(1)\n[1] return\n[2] call remove\n".to_owned(),
        "# @object atomic-set\n[1] call add(1)\n[1] return true\n[2] call remove(1)\n".to_owned(),
        events(&[("add", "1", ":ok"), ("read", "nil", ":ok [1]")]),
        events(&[("txn", "[[:write :x 1]]", ":ok"), ("read", "nil", ":ok 1")]),
        r#"{"version":1,"model":"kv"}"#.to_owned(),
        "{:type :ok :f :read :value {0 1}} {:type :ok :f :read :value [[:r 0 1] [:r 1 nil]]}"
            .to_owned(),
        r#"[{"name":"a","ser":true,"sessions":[[{"committed":true,"events":[["w","x",0]]}]]},"#
            .to_owned()
            + r#"{"name":"b","ops":[{"process":0,"type":"ok","txn":"ax1rx1"}]}]"#,
        "{:type :invoke, :f :txn, :value [[:w :x 1] [:r :y nil]]}\n{:type :ok, :value []}\n\
         {:type :invoke, :value [[:r :x nil]]}{:type :ok, :value [[:r :x 1]]}"
            .to_owned(),
        "{:type :invoke, :f :txn, :value [[:append :x 1]]}\n{:type :info, :value []}\n\
         {:type :invoke, :value [[:r :x nil]]}{:type :ok, :value [[:r :x [1]]]}"
            .to_owned(),
    ];
    let options = Options { budget_steps: Some(1_000), ..Options::default() };
    for text in texts {
        for (_, format) in FORMAT_NAMES {
            for cut in 0..text.len() {
                let _ = format.read(&text[..cut]);
                for byte in ["\"", "[", "}", "(", "0", "é", "#", " ", "\n"] {
                    let changed = [&text[..cut], byte, &text[cut + 1..]].concat();
                    let _ = Format::detect(&changed);
                    let read = |(_, workload)| format.read_as(&changed, workload);
                    let others = workload::WORKLOAD_NAMES.map(read);
                    for recording in others.into_iter().chain([format.read(&changed)]).flatten() {
                        let _ = recording.check(&options);
                    }
                }
            }
        }
    }
}
