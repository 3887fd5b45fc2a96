//! Strings by key, as in the tests of Porcupine: an event per line,
//! `{:process 0, :type :ok, :f :get, :key "0", :value "x"}`.
//!
//! A `get` of nothing reads the empty string. A process without an `:ok` is pending.

use std::collections::BTreeMap;

use super::edn::{Edn, Reader};
use super::events::{At, Pairing, at_line};
use crate::object::{Call, StringAction};
use crate::parse::ParseError;

/// The calls of each key, by key.
type Strings = Vec<(String, Vec<Call<StringAction>>)>;

pub(super) fn read(text: &str) -> Result<Strings, ParseError> {
    let mut pairing: Pairing<i64, (String, StringAction)> = Pairing::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let mut reader = Reader::new(line);
        let event = reader.value().map_err(|error| ParseError { line: number, ..error })?;
        if !reader.is_at_end() {
            return Err(at_line(number, "expected one event per line".into()));
        }
        add(number, &event, &mut pairing)?;
    }
    let mut keys = BTreeMap::<_, Vec<_>>::new();
    for call in pairing.finish() {
        let (call, key) = call.split(|(key, action)| (action, key));
        keys.entry(key).or_default().push(call);
    }
    Ok(keys.into_iter().collect())
}

fn add(
    number: usize,
    event: &Edn<'_>,
    pairing: &mut Pairing<i64, (String, StringAction)>,
) -> Result<(), ParseError> {
    let expected = |what: &str| at_line(number, format!("expected {what}"));
    let Some(Edn::Number(process)) = event.get("process") else {
        return Err(expected("a :process with a number"));
    };
    let (Some(Edn::Keyword(kind)), Some(Edn::Keyword(f))) = (event.get("type"), event.get("f"))
    else {
        return Err(expected("a :type and an :f with keywords"));
    };
    let Some(Edn::Text(key)) = event.get("key") else {
        return Err(expected("a :key with a string"));
    };
    let value = match event.get("value") {
        Some(Edn::Text(value)) => Some((*value).to_owned()),
        Some(Edn::Nil) | None => None,
        Some(_) => return Err(expected("a :value with a string or nil")),
    };
    match *kind {
        "invoke" => {
            let action = match (*f, value) {
                ("get", _) => StringAction::Get(None),
                ("put", Some(value)) => StringAction::Put(value),
                ("append", Some(value)) => StringAction::Append(value),
                ("put" | "append", None) => return Err(expected("a :value with a string")),
                _ => return Err(expected("an :f of :get, :put or :append")),
            };
            pairing.invoke(At::line(number), *process, ((*key).to_owned(), action))
        }
        "ok" => {
            let (asked, action) = pairing.complete(At::line(number), *process)?;
            if asked != key {
                return Err(expected("the :key that was asked for"));
            }
            match (action, *f) {
                (StringAction::Get(seen), "get") => *seen = Some(value.unwrap_or_default()),
                (StringAction::Put(asked), "put") | (StringAction::Append(asked), "append")
                    if value.as_ref().is_none_or(|value| value == asked) => {}
                _ => return Err(expected("the end of what was asked for")),
            }
            Ok(())
        }
        _ => Err(expected("a :type of :invoke or :ok")),
    }
}
