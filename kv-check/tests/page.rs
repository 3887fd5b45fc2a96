//! The page for a browser, looked at in one: Chromium without a window.
//!
//! Would go wrong without it: a page that is empty, or that a key with markup takes over.
//! Needs Debian's package `chromium`, or a browser of that name in the path. Where `CI` is set that
//! must be there; elsewhere, without it, only what needs no browser is tested, and the output says so.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::Command;
use std::{env, fs, io};

use kv_check::{EventKind, Format, History, MicroOp, Model, Observed, Options, Process};
use support::{Rng, Workload, record};

/// Ends the element that carries the data, and runs a script that fails, if it is taken for markup.
const KEY: &str = "</script><script>throw 1</script><img src=x onerror='throw 2'>";

/// What the browser made of a page: its elements as text, and what its console said.
struct Seen {
    dom: String,
    console: Vec<String>,
}

/// Nothing without a browser.
fn look(page: &str) -> Option<Seen> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    fs::write(&file, page).unwrap();
    let result = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .output();
    if let Err(error) = &result
        && error.kind() == io::ErrorKind::NotFound
        && env::var_os("CI").is_none()
    {
        eprintln!("not looked at: there is no Chromium, see 'apt-get install chromium'");
        return None;
    }
    let output = result.expect("a Chromium that runs, see 'apt-get install chromium'");
    let text = String::from_utf8_lossy(&output.stderr);
    let console = text.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    Some(Seen { dom: String::from_utf8(output.stdout).unwrap(), console })
}

impl Seen {
    /// How many elements there are whose classes begin so.
    fn count(&self, classes: &str) -> usize {
        self.dom.matches(&format!("class=\"{classes}")).count()
    }

    #[track_caller]
    fn has(&self, part: &str) {
        assert!(self.dom.contains(part), "{part:?} is in {}", self.dom);
    }
}

fn page(history: &History) -> String {
    let mut text = Vec::new();
    kv_check::write_to(history, &mut text).unwrap();
    page_of(Format::JsonLines, &String::from_utf8(text).unwrap())
}

fn page_of(format: Format, text: &str) -> String {
    let recording = format.read(text).unwrap();
    let finding = recording.check(&Options::default());
    let mut page = Vec::new();
    recording.write_page(&finding, &mut page).unwrap();
    String::from_utf8(page).unwrap()
}

/// Two puts one after the other, a get of the first value after both, one of nobody's business
/// before, one beside it that never ended, and a fault.
fn violated() -> History {
    let mut history = History::new(Model::Kv);
    let mut step = |process: u64, kind: EventKind, op: MicroOp| {
        let time = history.events.len() as u64 * 1_000_000;
        history.push(time, Process::Client(process), kind, vec![op]);
        if history.events.len() == 5 {
            history.push_fault(time, "partition");
        }
    };
    let get = |value: &str| {
        let value = Observed::Value(value.to_owned());
        MicroOp::Get { key: KEY.to_owned(), value, version: None }
    };
    step(1, EventKind::Invoke, MicroOp::put(KEY, "a"));
    step(1, EventKind::Ok, MicroOp::put(KEY, "a"));
    step(2, EventKind::Invoke, MicroOp::get(KEY));
    step(2, EventKind::Ok, get("a"));
    step(1, EventKind::Invoke, MicroOp::put(KEY, "<b>"));
    step(1, EventKind::Ok, MicroOp::put(KEY, "<b>"));
    step(2, EventKind::Invoke, MicroOp::get(KEY));
    step(3, EventKind::Invoke, MicroOp::put(KEY, "c"));
    step(2, EventKind::Ok, get("a"));
    step(1, EventKind::Invoke, MicroOp::get(KEY));
    step(1, EventKind::Ok, get("<b>"));
    history
}

#[test]
fn a_violation_is_marked_and_foreign_text_stays_text() {
    let page = page(&violated());
    assert_eq!(page.matches("</script>").count(), 2, "of the data and of the script");
    // Points at the culprit, as a person would.
    let point = "<script>document.querySelector('.culprit').dispatchEvent(new Event('mouseenter'))\
                 </script>";
    let Some(seen) = look(&(page.clone() + point)) else { return };
    assert_eq!(seen.console, Vec::<String>::new());
    seen.has("<h1 id=\"verdict\" class=\"violated\">Linearizability is VIOLATED</h1>");
    seen.has("&lt;/script&gt;&lt;script&gt;throw 1&lt;/script&gt;");
    assert_eq!((seen.count("bar ok window culprit chosen"), seen.count("bar unknown")), (1, 1));
    assert_eq!(seen.count("bar "), 6);
    // Of the others two are marked; all three of before completed before, and one ran beside.
    assert_eq!((seen.count("bar ok window before"), seen.count("bar ok before")), (2, 1));
    assert_eq!((seen.count("bar unknown beside"), seen.count("bar ok after")), (1, 1));
    assert_eq!((seen.count("fault"), seen.count("open")), (1, 1));
    seen.has("3 completed before it began, 1 began after it completed, 1 ran beside it.");
    assert_eq!(seen.dom.matches("<tr").count(), 4, "a head and three rows");
    let broken = look(&(page + "<script>throw new Error('seen')</script>")).unwrap();
    assert!(broken.console.iter().any(|line| line.contains("seen")), "errors are noticed");
}

#[test]
fn a_large_history_that_holds_is_drawn_in_part() {
    let workload = Workload {
        clients: 10,
        operations: 10_000,
        keys: 1,
        values: 0,
        unknown: 1,
        unknown_max: 10,
        failed: 3,
        reported: 100,
        versions: 100,
        slow: 50,
    };
    let Some(seen) = look(&page(&record(&mut Rng(1), &workload))) else { return };
    assert_eq!(seen.console, Vec::<String>::new());
    seen.has("<h1 id=\"verdict\" class=\"holds\">Linearizability holds</h1>");
    seen.has("Drawn are 400 of its 10000 operations");
    assert_eq!((seen.count("bar "), seen.dom.matches(" window").count()), (400, 0));
}

#[test]
fn what_explains_a_violation_is_drawn_however_far_away() {
    let mut history = History::new(Model::Kv);
    let mut step = |request: MicroOp, result: MicroOp| {
        for (kind, op) in [(EventKind::Invoke, request), (EventKind::Ok, result)] {
            history.push(history.events.len() as u64, Process::Client(1), kind, vec![op]);
        }
    };
    let get = |value: &str| {
        let value = Observed::Value(value.to_owned());
        MicroOp::Get { key: "k".to_owned(), value, version: None }
    };
    step(MicroOp::put("k", "a"), MicroOp::put("k", "a"));
    step(MicroOp::put("k", "b"), MicroOp::put("k", "b"));
    for _ in 0..1_000 {
        step(MicroOp::get("k"), get("b"));
    }
    step(MicroOp::get("k"), get("a"));
    let Some(seen) = look(&page(&history)) else { return };
    assert_eq!(seen.console, Vec::<String>::new());
    assert_eq!(seen.count("bar ok window"), seen.dom.matches("<tr").count() - 1);
    seen.has("put \"a\"");
}

#[test]
fn objects_and_transactions_have_pages_too() {
    let queue = "[1] call enqueue(1)\n[1] return\n[2] call dequeue\n[3] call dequeue\n\
                 [2] return 2\n[3] return 1\n";
    let lists = r#"{:process 0, :type :invoke, :f :txn, :value [[:append 1 1] [:r 2 nil]]}
{:process 1, :type :invoke, :f :txn, :value [[:append 2 1] [:r 1 nil]]}
{:process 0, :type :ok, :f :txn, :value [[:append 1 1] [:r 2 []]]}
{:process 1, :type :ok, :f :txn, :value [[:append 2 1] [:r 1 []]]}
{:process 0, :type :invoke, :f :txn, :value [[:r 1 nil] [:r 2 nil]]}
{:process 0, :type :ok, :f :txn, :value [[:r 1 [1]] [:r 2 [1]]]}
"#;
    for (format, text, headline, cycles) in [
        (Format::Violin, queue, "Linearizability is VIOLATED", 0),
        (Format::JepsenEdn, lists, "strict-serializable is VIOLATED", 1),
    ] {
        let Some(seen) = look(&page_of(format, text)) else { return };
        assert_eq!(seen.console, Vec::<String>::new());
        seen.has(headline);
        seen.has("class=\"bar ok window");
        assert_eq!((seen.count("bar "), seen.count("cycle")), (3, cycles));
    }
}

#[test]
fn nothing_of_the_page_comes_from_elsewhere() {
    let page = page(&violated());
    assert!(page.contains("default-src 'none'"), "the browser would load nothing either");
    let own = page.replace("http://www.w3.org/2000/svg", "");
    for foreign in ["http:", "https:", "src=\"", "href=", "@import", "url(h"] {
        assert!(!own.contains(foreign), "{foreign}");
    }
}
