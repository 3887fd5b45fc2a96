//! Objects other than registers as Jepsen records them in EDN.
//!
//! What failed did not happen; of an `:info` nobody will ever know whether it did.

use super::Recorded;
use super::edn_events::{EdnEvent, EdnEvents};
use super::events::Pairing;
use crate::history::EventKind;
use crate::object::{Call, MutexAction};
use crate::parse::ParseError;

/// The calls of a text: what each `asks` for, and what it `found`.
fn calls<'t, A>(
    text: &'t str,
    mut asks: impl FnMut(&EdnEvent<'t>) -> Result<A, ParseError>,
    mut found: impl FnMut(&mut A, &EdnEvent<'t>) -> Result<(), ParseError>,
) -> Result<Vec<Call<A>>, ParseError> {
    let mut pairing = Pairing::new();
    for event in EdnEvents::new(text) {
        let event = event?;
        let (line, process) = (event.line, event.client()?);
        match event.kind {
            EventKind::Invoke => pairing.invoke(line, process, asks(&event)?)?,
            EventKind::Ok => found(pairing.complete(line, process)?, &event)?,
            EventKind::Fail => pairing.fail(line, process)?,
            EventKind::Info => pairing.lose(line, process)?,
        }
    }
    Ok(pairing.finish())
}

/// `:acquire` and `:release` of one lock.
pub(super) fn read_mutex(text: &str) -> Result<Recorded, ParseError> {
    let asks = |event: &EdnEvent<'_>| match event.f {
        "acquire" => Ok(MutexAction::Acquire),
        "release" => Ok(MutexAction::Release),
        _ => Err(event.expected("an :f of :acquire or :release")),
    };
    Ok(Recorded::Mutex(calls(text, asks, |_, _| Ok(()))?))
}
