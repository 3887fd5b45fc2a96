//! Histories of every format, cut anywhere or with any byte changed.
//!
//! Would go wrong without it: a reader or a check that trusts what a line before it said, and
//! panics far behind the byte that is wrong. The histories are long, so that numbers, offsets and
//! lists get long as well: a million lines with `KV_TEST_SCALE=full`.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use kv_check::{Format, Options, Verdict};
use support::Rng;

/// What is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    JsonLines,
    Strings,
    Log,
    Register,
    Mutex,
    Transactions,
    Queue,
}

const KINDS: [(Kind, Format); 7] = [
    (Kind::JsonLines, Format::JsonLines),
    (Kind::Strings, Format::PorcupineKv),
    (Kind::Log, Format::JepsenLog),
    (Kind::Register, Format::JepsenEdn),
    (Kind::Mutex, Format::JepsenEdn),
    (Kind::Transactions, Format::JepsenEdn),
    (Kind::Queue, Format::Violin),
];

const CLIENTS: usize = 4;

/// An object that does everything as soon as it is asked.
#[derive(Default)]
struct Store {
    register: Option<usize>,
    /// The transactions' list, and the key that it has.
    list: (usize, Vec<String>),
    is_locked: bool,
    /// The queue's first and the next value.
    queue: (usize, usize),
    lines: usize,
}

impl Kind {
    /// A history of about so many lines that holds.
    fn record(self, rng: &mut Rng, lines: usize) -> String {
        let mut text = match self {
            Self::JsonLines => "{\"version\":1,\"model\":\"kv\"}\n".to_owned(),
            Self::Queue => "# @object atomic-queue\n".to_owned(),
            _ => String::new(),
        };
        let mut store = Store::default();
        let mut open: Vec<Option<String>> = vec![None; CLIENTS];
        while store.lines < lines {
            let client = rng.below(CLIENTS);
            let line = open[client].take().unwrap_or_else(|| {
                let (request, answer) = store.call(self, rng, client);
                open[client] = Some(answer);
                request
            });
            text += &self.line(&line, store.lines);
            text.push('\n');
            store.lines += 1;
        }
        text
    }

    /// JSON lines count themselves.
    fn line(self, line: &str, number: usize) -> String {
        if self != Self::JsonLines {
            return line.to_owned();
        }
        format!("{{\"index\":{number},\"time_ns\":{number},{line}}}")
    }
}

impl Store {
    /// A request and its answer.
    fn call(&mut self, kind: Kind, rng: &mut Rng, client: usize) -> (String, String) {
        let (number, is_read) = (self.lines, rng.percent(50));
        let edn = |of: &str, f: &str, value: &str| {
            format!("{{:process {client}, :type :{of}, :f :{f}, :value {value}}}")
        };
        let seen = self.register.map_or_else(|| "nil".to_owned(), |value| value.to_string());
        if matches!(kind, Kind::Strings | Kind::Log | Kind::Register | Kind::JsonLines) && !is_read
        {
            self.register = Some(number);
        }
        match kind {
            Kind::JsonLines => {
                let line = |of: &str, op: String| {
                    format!("\"process\":{client},\"type\":\"{of}\",\"f\":\"x\",\"ops\":[{{{op}}}]")
                };
                let get = |rest: &str| format!("\"op\":\"get\",\"key\":\"k\"{rest}");
                let put = format!("\"op\":\"put\",\"key\":\"k\",\"value\":\"{number}\"");
                let value = if seen == "nil" { "null".to_owned() } else { format!("\"{seen}\"") };
                match is_read {
                    true => {
                        let answer = line("ok", get(&format!(",\"value\":{value}")));
                        (line("invoke", get("")), answer)
                    }
                    false => (line("invoke", put.clone()), line("ok", put)),
                }
            }
            Kind::Strings => {
                let line = |of: &str, f: &str, value: &str| {
                    let who = format!(":process {client}, :type :{of}, :f :{f}");
                    format!("{{{who}, :key \"0\", :value {value}}}")
                };
                let (put, seen) = (format!("\"x {number}\""), format!("\"x {seen}\""));
                let seen = if seen.ends_with("nil\"") { "\"\"" } else { &seen };
                match is_read {
                    true => (line("invoke", "get", "nil"), line("ok", "get", seen)),
                    false => (line("invoke", "put", &put), line("ok", "put", &put)),
                }
            }
            Kind::Log => {
                let line = |of: &str, f: &str, value: &str| {
                    format!("INFO  jepsen.util - {client}\t:{of}\t:{f}\t{value}")
                };
                let put = number.to_string();
                match is_read {
                    true => (line("invoke", "read", "nil"), line("ok", "read", &seen)),
                    false => (line("invoke", "write", &put), line("ok", "write", &put)),
                }
            }
            Kind::Register => {
                let put = number.to_string();
                match is_read {
                    true => (edn("invoke", "read", "nil"), edn("ok", "read", &seen)),
                    false => (edn("invoke", "write", &put), edn("ok", "write", &put)),
                }
            }
            Kind::Mutex => {
                self.is_locked = !self.is_locked;
                let f = if self.is_locked { "acquire" } else { "release" };
                (edn("invoke", f, "nil"), edn("ok", f, "nil"))
            }
            Kind::Transactions => self.transaction(number, edn),
            Kind::Queue => {
                let (id, is_some) = (number + 1, self.queue.0 < self.queue.1);
                if is_read {
                    let found = if is_some { self.queue.0.to_string() } else { "empty".to_owned() };
                    self.queue.0 += usize::from(is_some);
                    return (format!("[{id}] call remove()"), format!("[{id}] return {found}"));
                }
                self.queue.1 += 1;
                (format!("[{id}] call add({})", self.queue.1 - 1), format!("[{id}] return"))
            }
        }
    }

    fn transaction(
        &mut self,
        number: usize,
        edn: impl Fn(&str, &str, &str) -> String,
    ) -> (String, String) {
        let (key, list) = &mut self.list;
        if list.len() == 20 {
            *key += 1;
            list.clear();
        }
        list.push(number.to_string());
        let request = format!("[[:append {key} {number}] [:r {key} nil]]");
        let answer = format!("[[:append {key} {number}] [:r {key} [{}]]]", list.join(" "));
        (edn("invoke", "txn", &request), edn("ok", "txn", &answer))
    }
}

/// How much a heavy test does: the first number, or the second one with `KV_TEST_SCALE=full`.
fn scale(few: usize, many: usize) -> usize {
    match std::env::var("KV_TEST_SCALE").as_deref() {
        Ok("full") => many,
        _ => few,
    }
}

/// Cuts the text, or changes some of its bytes to others that may mean something; none if it is not
/// text any more.
fn broken(rng: &mut Rng, text: &str) -> Option<String> {
    let mut bytes = text.as_bytes().to_vec();
    if rng.percent(30) {
        bytes.truncate(rng.below(bytes.len()));
    }
    for _ in 0..rng.below(3) {
        let at = rng.below(bytes.len().max(1));
        let byte = match rng.below(3) {
            0 => rng.next() as u8,
            1 => b"0123456789\"{}[](),:;#\n\t -"[rng.below(24)],
            _ => text.as_bytes()[rng.below(text.len())],
        };
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
    }
    String::from_utf8(bytes).ok()
}

#[test]
fn what_is_whole_is_read_and_holds() {
    for (kind, format) in KINDS {
        let text = kind.record(&mut Rng(5), 400);
        assert_eq!(Format::detect(&text), format, "{kind:?}");
        let finding = format.read(&text).unwrap().check(&Options::default());
        assert_eq!(finding.verdict(), Verdict::Holds, "{kind:?}: {finding}");
    }
}

#[test]
fn long_histories_that_are_broken_are_read_or_refused() {
    let (lines, changes) = (scale(3_000, 1_000_000), scale(40, 12));
    for (kind, format) in KINDS {
        let mut rng = Rng(kind as u64);
        let text = kind.record(&mut rng, lines);
        let mut refused = 0;
        for _ in 0..changes {
            let Some(text) = broken(&mut rng, &text) else { continue };
            if let Err(error) = format.read(&text) {
                assert!((1..=lines + 2).contains(&error.line), "{kind:?}: {error}");
                refused += 1;
            }
        }
        assert!(refused > 0, "{kind:?}: some changes are seen");
    }
}

#[test]
fn short_histories_that_are_broken_are_checked() {
    let options = Options { budget_steps: Some(20_000), ..Options::default() };
    for (kind, format) in KINDS {
        let mut counts = [0; 3];
        for seed in 0..scale(300, 5_000) {
            let mut rng = Rng(seed as u64);
            let text = kind.record(&mut rng, 30);
            let Some(text) = broken(&mut rng, &text) else { continue };
            if let Ok(recording) = format.read(&text) {
                counts[recording.check(&options).verdict() as usize] += 1;
            }
        }
        let [holds, violated, _] = counts;
        assert!(holds > 0, "{kind:?}: {holds} hold, {violated} are violated");
    }
}
