//! The program as a user sees it: exit codes, where output goes, and its size.
//!
//! Would go wrong without it: a script that takes a broken run for a good one.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use kv_check::{History, write_to};
use support::{Rng, Workload, mutate, record};

const GOOD: &str = r#"{"version":1,"model":"kv","name":"smoke"}
{"index":0,"time_ns":1,"process":1,"type":"invoke","f":"put","ops":[{"op":"put","key":"k","value":"a"}]}
{"index":1,"time_ns":2,"process":"nemesis","type":"info","f":"partition","ops":[]}
{"index":2,"time_ns":3,"process":1,"type":"ok","f":"put","ops":[{"op":"put","key":"k","value":"a","version":1}]}
{"index":3,"time_ns":4,"process":"nemesis","type":"info","f":"partition","ops":[]}
{"index":4,"time_ns":5,"process":1,"type":"invoke","f":"get","ops":[{"op":"get","key":"k"}]}
{"index":5,"time_ns":6,"process":1,"type":"ok","f":"get","ops":[{"op":"get","key":"k","value":"a","version":1}]}
"#;

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kv-check"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends before it reads everything closes the pipe, which is fine here.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[track_caller]
fn expect(arguments: &[&str], input: &str, code: i32, part: &str) {
    let output = run(arguments, input);
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    let text = if code < 2 || code == 4 { &out } else { &err };
    assert!(text.contains(part), "{text:?} contains {part:?}");
    assert!(out.lines().count() <= 25, "{out}");
}

fn bad() -> String {
    GOOD.replace(r#""value":"a","version":1}]}"#, r#""value":"a","version":2}]}"#).replacen(
        r#""version":2}"#,
        r#""version":3}"#,
        1,
    )
}

#[test]
fn verdicts_have_exit_codes() {
    expect(&["-"], GOOD, 0, "model:      kv; keys 1, processes 1, faults 1\noperations: 2 ok");
    expect(&["-"], &bad(), 1, "> process 1: get => \"a\" version 2");
    expect(&["--json", "-"], GOOD, 0, r#"{"verdict":"holds","model":"kv","name":"smoke","keys":1"#);
    expect(&["--json", "-"], &bad(), 1, r#""violations":[{"key":"k","prefix":1,"#);
}

#[test]
fn errors_have_exit_codes() {
    let wrong = GOOD.replace("\"index\":3", "\"index\":2");
    expect(&["-"], &wrong, 2, "kv-check: -: line 5, column 1: expected an `index` above 2");
    expect(&["-"], "", 2, "line 1, column 1: expected a header");
    expect(&[], "", 2, "Usage");
    expect(&["/no/such/file"], "", 3, "cannot open /no/such/file: No such file");
    let folder = tempfile::tempdir().unwrap();
    expect(&[&folder.path().to_string_lossy()], "", 3, "cannot read the history");
}

#[test]
fn a_file_is_read_and_a_budget_can_be_spent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let workload = Workload {
        clients: 10,
        operations: 200,
        keys: 3,
        values: 2,
        unknown: 10,
        unknown_max: 20,
        failed: 0,
        reported: 100,
        versions: 0,
        slow: 80,
    };
    let mut rng = Rng(1);
    let mut history = record(&mut rng, &workload);
    write(&path, &history);
    let path_text = path.to_string_lossy().into_owned();
    expect(&[&path_text], "", 0, "keys 3");
    expect(&["--budget-steps", "0", &path_text], "", 4, "next: try again with a larger");
    for time in ["0ms", "0s", "0m"] {
        expect(&["--budget", time, &path_text], "", 4, "the budget was spent on");
    }
    // Steps count whatever the time is; time counts if no steps are named.
    expect(&["--budget", "60m", "--budget-steps", "0", &path_text], "", 4, "the budget was");
    expect(&["--budget", "60m", &path_text], "", 0, "keys 3");
    for wrong in ["10", "s", "1h", "-1s", "1 s", "999999999999999999m"] {
        let argument = format!("--budget={wrong}");
        expect(&[&argument, &path_text], "", 2, "expected a number");
    }
    for _ in 0..30 {
        mutate(&mut rng, &mut history);
    }
    write(&path, &history);
    expect(&[&path_text], "", 1, "VIOLATED");
}

/// Would go wrong without it: a register that is 0 at first seems to have been written by somebody.
#[test]
fn the_first_value_of_a_register_is_nobodys_write() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (witness, page) = (name("witness.jsonl"), name("page.html"));
    let arguments = ["--model", "cas-register", "--witness", &witness, "--report", &page, "-"];
    let edn = |value: u32| {
        format!(
            "{{:process 3, :type :invoke, :f :read, :value nil}}\n\
             {{:process 3, :type :ok, :f :read, :value {value}}}\n"
        )
    };
    let read = |name: &str| std::fs::read_to_string(name).unwrap();
    let counts = "processes 1, faults 0\noperations: 1 ok, 0 failed, 0 of unknown outcome";
    expect(&arguments, &edn(0), 0, counts);
    let line = r#"{"key":"register","position":0,"index":0,"process":3,"operation":"get","result":"\"0\""}"#;
    assert_eq!(read(&witness), format!("{line}\n"));
    assert!(read(&page).contains("process 3") && !read(&page).contains("1844674407370955"));
    expect(&arguments, &edn(1), 1, "first 0 completed operations");
    expect(&arguments, &edn(1), 1, "Nothing writes the key in one such order.");
    assert!(!read(&page).contains("put") && !read(&page).contains("1844674407370955"));
}

fn write(path: &Path, history: &History) {
    write_to(history, std::fs::File::create(path).unwrap()).unwrap();
}

#[test]
fn files_are_written_beside_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (witness, page) = (name("witness.jsonl"), name("page.html"));
    expect(&["--witness", &witness, "--report", &page, "-"], GOOD, 0, "proof:      an order of");
    let expected = r#"{"key":"k","position":0,"index":0,"process":1,"operation":"put \"a\"","result":"ok version 1"}
{"key":"k","position":1,"index":4,"process":1,"operation":"get","result":"\"a\" version 1"}
"#;
    assert_eq!(std::fs::read_to_string(&witness).unwrap(), expected);
    assert!(std::fs::read_to_string(&page).unwrap().ends_with("</html>\n"));
    expect(&["--witness", &witness, "-"], &bad(), 1, "VIOLATED");
    assert_eq!(std::fs::read_to_string(&witness).unwrap(), "");
    let queue = "[7] call enqueue(x)\n[7] return\n[8] call dequeue\n[8] return x\n";
    expect(&["--witness", &witness, "-"], queue, 0, "proof       an order of");
    let lines = std::fs::read_to_string(&witness).unwrap();
    assert!(
        lines.ends_with("\"index\":3,\"operation\":\"dequeue\",\"result\":\"x\"}\n"),
        "{lines}"
    );
    expect(&["--report", &name("none/page.html"), "-"], GOOD, 3, "cannot write");
}

#[test]
fn no_file_is_written_over_the_history_or_over_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (history, page) = (name("history.jsonl"), name("page.html"));
    std::fs::write(&history, GOOD).unwrap();
    let same = name("./history.jsonl");
    for option in ["--witness", "--report"] {
        expect(&[option, &same, &history], "", 2, "would be written over the history");
    }
    assert_eq!(std::fs::read_to_string(&history).unwrap(), GOOD);
    let both = ["--witness", &page, "--report", &page, &history];
    expect(&both, "", 2, "would be written over the page");
    std::fs::write(&page, "").unwrap();
    expect(&both, "", 2, "would be written over the page");
    expect(&["--witness", "/dev/null", "--report", "/dev/null", &history], "", 0, "holds");
}

#[test]
fn orders_of_transactions_are_written_for_levels_that_have_one() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness.jsonl").to_string_lossy().into_owned();
    let lines = || std::fs::read_to_string(&witness).unwrap();
    let txn = |process: u32, ops: &str| {
        let event = |kind: &str| {
            format!("{{:process {process}, :type :{kind}, :f :txn, :value [{ops}]}}\n")
        };
        [event("invoke"), event("ok")]
    };
    let ([begin, end], [other, other_end]) =
        (txn(0, "[:append :x 1] [:r :y []]"), txn(1, "[:append :y 1] [:r :x []]"));
    let proof = "proof       an order of all transactions, replayed as strict-serializable";
    expect(&["--witness", &witness, "-"], &format!("{begin}{end}"), 0, proof);
    let expected = [
        r#"{"level":"strict-serializable","position":0,"transaction":"T1","index":0,"#,
        r#""process":0,"operations":"append x 1; read y []"}"#,
        "\n",
    ];
    assert_eq!(lines(), expected.concat());
    let skew = [&*begin, &other, &end, &other_end].concat();
    let arguments = ["--witness", &witness, "--level", "read-committed", "-"];
    expect(&arguments, &skew, 0, "an order of starts and commits, replayed as strong-snapshot-iso");
    let steps: Vec<_> = [r#""step":"start""#, r#""step":"commit""#].map(str::to_owned).to_vec();
    assert!(steps.iter().all(|step| lines().matches(step.as_str()).count() == 2), "{}", lines());
    let update = |process, value| txn(process, &format!("[:r :x []] [:append :x {value}]"));
    let (one, two, all) = (update(0, 1).concat(), update(1, 2), txn(2, "[:r :x [1 2]]"));
    let lost = [one, two.concat(), all.concat()].concat();
    expect(&["--witness", &witness, "-"], &lost, 1, "lost-update");
    assert_eq!(lines(), "");
    expect(&arguments, &lost, 0, "proof       no forbidden cycle; no order shows this level");
    let output = run(&arguments, &lost);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("no order shows it; orders show snapshot-isolation, rep"), "{told}");
    assert_eq!(lines(), "");
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kv-check"))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(GOOD.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn histories_of_others_are_told_by_their_content_or_by_name() {
    let queue =
        "# @object atomic-queue\n[1] call add(1)\n[1] return\n[2] call remove\n[2] return 1\n";
    expect(&["-"], queue, 0, "method      the rules of queues");
    expect(&["-"], &queue.replace("return 1", "return empty"), 1, "violated    queue");
    let story = "because     of queue these have no order, whatever else was done and when;\n            \
                 without any one of them there is one:\n            enqueue 1 [lines 2 - 3]\n          \
                 > dequeue => empty [lines 4 - 5]\n";
    expect(&["-"], &queue.replace("return 1", "return empty"), 1, story);
    expect(&["--json", "-"], queue, 0, r#""method":"queue-rules""#);
    expect(&["--format", "jepsen-edn", "-"], queue, 2, "line 1, column 1");
    expect(&["--format", "xml", "-"], queue, 2, "expected one of json-lines, porcupine-kv");
    expect(&[], queue, 2, "<HISTORY>");
    let lock = "{:process 1, :type :invoke, :f :release}\n{:process 1, :type :ok, :f :release}\n";
    expect(&["-"], lock, 1, "violated    mutex");
    expect(&["--model", "mutex", "-"], lock, 1, "violated    mutex");
    expect(&["--model", "register", "-"], lock, 2, "expected an :f of :read, :write or :cas");
    expect(&["--model", "mutex", "-"], queue, 2, "expected events in EDN");
    expect(&["--model", "mutexes", "-"], lock, 2, "expected one of register, cas-register");
}

#[test]
fn verify_says_for_each_row_whether_it_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    file("queue.log", "[1] call dequeue\n[1] return empty\n");
    file("broken.log", "[1] call take\n");
    let manifest = |rows: &str| {
        file("manifest.csv", &format!("path,format,expected_verdict\n{rows}"));
        run(&["verify", folder.path().join("manifest.csv").to_str().unwrap()], "")
    };
    let known = "queue.log,violin atomic-queue,linearizable\nqueue.log,violin atomic-queue,UNKNOWN (big)\n\
                 queue.log,some other,valid\n";
    let output = manifest(known);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("2 agree, 0 disagree, 1 unsupported\n"), "{text}");
    for row in [
        "queue.log,violin atomic-queue,NOT linearizable",
        "broken.log,violin atomic-queue,linearizable",
    ] {
        let output = manifest(row);
        assert_eq!(output.status.code(), Some(1), "{row}");
        assert!(String::from_utf8(output.stdout).unwrap().starts_with("DISAGREE"), "{row}");
    }
    assert_eq!(manifest("none.log,violin atomic-queue,linearizable").status.code(), Some(3));
}

#[test]
fn transactions_are_held_to_the_level_that_is_asked_for() {
    let skew = "{:process 0, :type :invoke, :f :txn, :value [[:append :x 1] [:r :y nil]]}
        {:process 1, :type :invoke, :f :txn, :value [[:append :y 1] [:r :x nil]]}
        {:process 0, :type :ok, :f :txn, :value [[:append :x 1] [:r :y nil]]}
        {:process 1, :type :ok, :f :txn, :value [[:append :y 1] [:r :x []]]}";
    expect(&["-"], skew, 1, "T1 read y as [], without 1, which T2 appended");
    expect(&["--level", "serializable", "-"], skew, 1, "anomaly     G2-item");
    let holds = "holds       read-uncommitted, read-committed";
    expect(&["--level", "snapshot-isolation", "-"], skew, 0, holds);
    expect(&["--json", "-"], skew, 1, r#"{"level":"serializable","verdict":"violated"}"#);
    expect(&["--level", "eventual", "-"], skew, 2, "expected one of read-uncommitted");
    expect(&["--model", "list-append", "-"], "{:type :ok, :f :txn, :process 1}", 2, "line 1, col");
    let twice = skew.replace(":y 1", ":x 1");
    expect(&["-"], &twice, 4, "because     1 was appended to x twice");
}

#[test]
fn what_a_reader_or_a_terminal_would_misread_is_refused_or_escaped() {
    expect(&["-"], &format!("\u{feff}{GOOD}"), 2, "expected no byte order mark");
    expect(&["-"], "[1] call add(empty)\n[1] return\n", 2, "expected a value other than empty");
    let key = "{:process 0, :type :invoke, :f :get, :key \"\u{1b}[31m\", :value nil}\n";
    let found = key.replace("invoke", "ok").replace("nil", "\"\u{1b}[0m\"");
    let text = format!("{key}{found}");
    expect(&["-"], &text, 1, "violated    \\u{1b}[31m\n");
    expect(&["-"], &text, 1, "because     of \\u{1b}[31m this one");
}

#[test]
fn neither_transactions_nor_errors_tell_a_terminal_what_to_do() {
    let key = "\u{1b}[31m";
    let event =
        |kind: &str, op: &str| format!("{{:process 0, :type :{kind}, :f :txn, :value [[{op}]]}}\n");
    let append = format!(":append \"{key}\" 1");
    let read = |found: &str| format!(":r \"{key}\" {found}");
    let text = event("invoke", &append)
        + &event("ok", &append)
        + &event("invoke", &read("nil"))
        + &event("ok", &read("[]"));
    expect(&["-"], &text, 1, "T2 read \"\\u{1b}[31m\" as [], without 1");
    expect(&["-"], &text, 1, "where       T1 of process 0: append \"\\u{1b}[31m\" 1\n");
    let twice = text.replace(&read("nil"), &append).replace(&read("[]"), &append);
    expect(&["-"], &twice, 4, "because     1 was appended to \"\\u{1b}[31m\" twice");
    let accounts = format!("{{:process 0, :type :ok, :f :read, :value {{\"{key}\" -5}}}}\n");
    let accounts = "{:process 0, :type :invoke, :f :read, :value nil}\n".to_owned() + &accounts;
    expect(&["--model", "bank", "-"], &accounts, 1, "in account \"\\u{1b}[31m\"");
    let case = r#"[{"name": "\u001b[31m", "ser": false,
        "sessions": [[{"committed": true, "events": [["w", "x", 1]]}]]}]"#;
    expect(&["-"], case, 1, "wrong       \\u{1b}[31m: ");
    let header = r#"{"version":1,"model":"\u001b[31m"}"#;
    expect(&["-"], header, 2, "unknown variant `\\u{1b}[31m`");
    let kind = text.replace(":type :ok", ":type :\u{1b}ok");
    expect(&["-"], &kind, 2, "found :\\u{1b}ok");
}
