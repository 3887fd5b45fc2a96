//! A panic inside a machine is a finding, not the end of the simulator.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs `step`. A panic becomes an error with the place and the message, and prints nothing.
/// What `step` was changing must not be used afterwards except to be looked at.
pub(crate) fn catch<T>(step: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(install);
    let outer = CATCHING.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(step));
    CATCHING.set(outer);
    result.map_err(|_| MESSAGE.take().unwrap_or_else(|| "a panic without a message".into()))
}

fn install() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if CATCHING.get() {
            MESSAGE.set(Some(describe(info)));
        } else {
            previous(info);
        }
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let message = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("a panic whose message is not text");
    match info.location() {
        Some(place) => format!("{}:{}: {message}", place.file(), place.line()),
        None => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(catch(|| 5), Ok(5));
        let error = catch(|| panic!("expected {}", 3)).unwrap_err();
        assert!(error.contains("panic.rs:") && error.ends_with(": expected 3"), "{error}");
    }
}
