//! What people see of objects: who did what, with which values, and where in the file.
//!
//! Would go wrong without it: the lines that a report names are not those where it happened.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use kv_check::{Finding, Format, ObjectWindow, Options, Recording, Workload};

/// The lines of the report from that of the window on.
fn window(recording: &Recording) -> String {
    let text = recording.check(&Options::default()).to_string();
    let lines = text.lines().skip_while(|line| !line.starts_with("because")).map(str::trim);
    lines.collect::<Vec<_>>().join("\n")
}

/// Events in EDN: those of what failed, was lost, or is of the nemesis count as well.
fn edn(events: &str) -> String {
    let event = |line: &str| {
        let mut words = line.trim().splitn(4, ' ');
        let [process, kind, f, value] = [0; 4].map(|_| words.next().unwrap());
        format!("{{:process {process}, :type :{kind}, :f :{f}, :value {value}}}\n")
    };
    events.trim().lines().map(event).collect()
}

#[track_caller]
fn check(workload: Workload, events: &str, expected: &str) {
    let recording = Format::JepsenEdn.read_as(&edn(events), workload).unwrap();
    assert_eq!(window(&recording), expected);
}

#[test]
fn windows_of_counters_and_sets_name_processes_and_events_of_the_file() {
    check(
        Workload::Counter,
        "0 invoke add 5
         0 fail add 5
         :nemesis info kill nil
         1 invoke add 7
         1 info add 7
         2 invoke add 3
         2 ok add 3
         3 invoke read nil
         3 ok read 1",
        "because     of counter these have no order, whatever else was added until it ended;\n\
         without any one of them the read is within its bounds:\n\
         process 2: add 3 [events 5 - 6]\n\
         > process 3: read => 1 [events 7 - 8]\n\
         the read that event 7 invoked found 1, not 3 to 10",
    );
    let story = "because     of set these have no order, whatever else was done and when;\n\
                 without any one of them there is one:\n\
                 process 0: add :a [events 1 - 2]\n\
                 > process 3: read => [\"b\"] [events 5 - 6]\n\
                 1 lost in the last read: :a";
    let events = ":nemesis info kill nil
                  0 invoke add :a
                  0 ok add :a
                  1 invoke add \"b\"
                  1 ok add \"b\"
                  3 invoke read nil
                  3 ok read [\"b\"]";
    check(Workload::Set, events, story);
    check(Workload::SetFull, events, story);
}

/// Each read of a large set is told by what is different.
#[test]
fn of_large_sets_only_that_is_told_which_matters() {
    let all: Vec<_> = (0..30).collect();
    let text = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let adds = |number: &u32| format!("0 invoke add {number}\n0 ok add {number}\n");
    let adds: String = all.iter().map(adds).collect();
    let read = |found: &str| format!("1 invoke read nil\n1 ok read [{found}]\n");
    let lost = read(&text(&all[1..]));
    check(
        Workload::SetFull,
        &format!("{adds}{lost}"),
        "because     of set these have no order, whatever else was done and when;\n\
         without any one of them there is one:\n\
         process 0: add 0 [events 0 - 1]\n\
         > process 1: read => 29 elements, without 0 [events 60 - 61]\n\
         1 lost in the last read: 0",
    );
    let twice = read(&format!("{} 7", text(&all)));
    check(
        Workload::SetFull,
        &format!("{adds}{twice}{}", read(&text(&all))),
        "because     of set this one has no order, whatever else was done and when:\n\
         > process 1: read => 31 elements, twice 7 [events 60 - 61]",
    );
    let foreign = read(&format!("{} 99", text(&all)));
    check(
        Workload::SetFull,
        &format!("{adds}{foreign}{}", read(&text(&all))),
        "because     of set this one has no order, whatever else was done and when:\n\
         > process 1: read => 31 elements, with 99 [events 60 - 61]",
    );
}

#[test]
fn windows_of_locks_and_registers_are_told_in_words() {
    check(
        Workload::Mutex,
        "4 invoke acquire nil
         4 ok acquire nil
         5 invoke acquire nil
         5 ok acquire nil",
        "because     of mutex these have no order, whatever else was done and when;\n\
         without any one of them there is one:\n\
         process 4: acquire [events 0 - 1]\n\
         > process 5: acquire [events 2 - 3]",
    );
    check(
        Workload::MultiRegister,
        "0 invoke txn [[:write :x 1] [:read :y nil]]
         0 ok txn [[:write :x 1] [:read :y 0]]
         1 invoke txn [[:read :x nil] [:read :y nil]]
         1 ok txn [[:read :x 0] [:read :y 0]]",
        "because     of :x :y these have no order, whatever else was done and when;\n\
         without any one of them there is one:\n\
         process 0: write :x 1, read :y => :y 0 [events 0 - 1]\n\
         > process 1: read :x, read :y => :x 0, :y 0 [events 2 - 3]",
    );
}

#[test]
fn windows_of_violin_name_values_and_lines_and_threads_if_there_are() {
    let text = "# @object atomic-stack\n\n[1] call push(tea)\n[1] return\n# a comment\n\
                [2] call push(milk)\n[2] return\n[3] call pop\n[3] return tea\n";
    let story = "because     of stack these have no order, whatever else was done and when;\n\
                 without any one of them there is one:\n\
                 push tea [lines 3 - 4]\n\
                 push milk [lines 6 - 7]\n\
                 > pop => tea [lines 8 - 9]";
    assert_eq!(window(&Format::Violin.read(text).unwrap()), story);
    let by_thread = text.replace("[3]", "[1]");
    let story = story.replace("push tea", "process 1: push tea");
    let story = story.replace("push milk", "process 2: push milk");
    let story = story.replace("pop =>", "process 1: pop =>");
    assert_eq!(window(&Format::Violin.read(&by_thread).unwrap()), story);
    let set = "# @object atomic-set\n[1] call add(9)\n[1] return true\n\
               [2] call contains(9)\n[2] return false\n";
    assert_eq!(
        window(&Format::Violin.read(set).unwrap()),
        "because     of 9 this one has no order, whatever the others found:\n\
         > contains => false [lines 4 - 5]"
    );
}

#[test]
fn orders_name_who_did_what() {
    let text = edn("3 invoke add 2\n3 ok add 2\n4 invoke read nil\n4 ok read [2]");
    let recording = Format::JepsenEdn.read_as(&text, Workload::SetFull).unwrap();
    let mut witness = Vec::new();
    recording.write_witness(&recording.check(&Options::default()), &mut witness).unwrap();
    assert_eq!(
        String::from_utf8(witness).unwrap(),
        r#"{"key":"set","position":0,"index":0,"process":3,"operation":"add 2","result":""}
{"key":"set","position":1,"index":2,"process":4,"operation":"read","result":"[2]"}
"#
    );
    let mut page = Vec::new();
    recording.write_page(&recording.check(&Options::default()), &mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    assert!(page.contains(r#""lanes":["process 3","process 4"]"#), "{page}");
    assert!(page.contains(r#""unit":"event""#), "{page}");
}

#[test]
fn strings_of_porcupine_name_processes_and_lines() {
    let text = r#"{:process 0, :type :invoke, :f :put, :key "k", :value "a"}
{:process 0, :type :ok, :f :put, :key "k", :value "a"}

{:process 7, :type :invoke, :f :get, :key "k", :value nil}
{:process 7, :type :ok, :f :get, :key "k", :value "b"}
"#;
    assert_eq!(
        window(&Format::PorcupineKv.read(text).unwrap()),
        "because     of k this one has no order, whatever else was done and when:\n\
         > process 7: get => \"b\" [lines 4 - 5]"
    );
}

/// A queue or a stack of Violin, one operation after the other: each line a method with what it returned.
fn violin(operations: &[(String, String)]) -> Recording {
    let operation = |(number, (call, found)): (usize, &(String, String))| {
        format!("[{number}] call {call}\n[{number}] return {found}\n")
    };
    let text: String = (1..).zip(operations).map(operation).collect();
    Format::Violin.read(&text).unwrap()
}

/// Rounds of two values that are added and removed, but two of them in the wrong order.
fn swapped(rounds: usize, value: impl Fn(usize) -> usize) -> Vec<(String, String)> {
    let mut operations = Vec::new();
    for round in 0..rounds {
        let [one, other] = [2 * round, 2 * round + 1].map(&value);
        operations.extend([one, other].map(|it| (format!("enqueue({it})"), String::new())));
        operations.extend([one, other].map(|it| ("dequeue".to_owned(), it.to_string())));
    }
    let wrong = 4 * (rounds * 2 / 3) + 2;
    operations.swap(wrong, wrong + 1);
    operations
}

/// The only window.
fn window_of(operations: &[(String, String)]) -> ObjectWindow {
    let Finding::Objects(found) = violin(operations).check(&Options::default()) else { panic!() };
    let [window] = &found.windows[..] else { panic!("{found}") };
    window.clone()
}

#[test]
fn windows_of_long_queues_that_are_searched_are_short() {
    // Values come back: all calls on two of them, or fewer.
    let window = window_of(&swapped(500, |number| number % 100));
    assert!(window.calls.len() <= 40, "{window}");
    // Somebody removed a value and does not say which.
    let mut silent = swapped(500, |number| number);
    silent[43].1 = String::new();
    let window = window_of(&silent);
    assert!(window.is_minimal && window.calls.len() <= 6, "{window}");
}
