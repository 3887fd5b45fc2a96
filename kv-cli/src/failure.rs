//! Errors as the user sees them: what happened, whether anything was changed, what to do next.

use std::io::{self, Write as _};

use kv_client::ClientError;
use kv_core::client::CallError;
use kv_core::txn::OutcomeId;
use kv_core::wire::Refusal;
use serde_json::json;

use crate::args::Format;
use crate::exit::ExitCode;

/// Why a command has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It makes no sense as typed.
    Usage(String),
    /// The client could not carry it out.
    Client(ClientError),
    /// A transaction was given up before its commit, because of this.
    RolledBack(String),
    /// A change of the members was decided, and what follows from it cannot be watched.
    Unwatched(ClientError),
    /// The answer could not be printed.
    Output(io::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl Failure {
    /// How the process ends after it.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::Usage,
            Self::Client(error) if error.is_outcome_unknown() => ExitCode::Unknown,
            Self::Client(error) if error.is_aborted() => ExitCode::Aborted,
            Self::Client(ClientError::Call {
                call:
                    CallError::Refused(_)
                    | CallError::NoTransaction
                    | CallError::TxnTooLarge { .. }
                    | CallError::WrongOutcomeId { .. },
                ..
            }) => ExitCode::Usage,
            Self::RolledBack(_) => ExitCode::No,
            Self::Client(_) => ExitCode::Unreachable,
            // It was decided, and is perhaps not finished.
            Self::Unwatched(_) => ExitCode::Unknown,
            // Who closed the pipe has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::Done,
            // The command was carried out, so no code that says otherwise will do.
            Self::Output(_) => ExitCode::Unknown,
        }
    }

    /// Tells the user. `verb` is the command that failed.
    pub(crate) fn report(&self, verb: &str, format: Format) {
        let code = self.exit_code();
        if code == ExitCode::Done {
            return;
        }
        let what = self.what();
        let next = self.next_step(verb);
        let (changed, sentence) = self.changed(verb);
        // Nothing can be done about a standard error that is closed.
        let _ = match format {
            Format::Text => writeln!(io::stderr(), "kv: {what}\n{sentence}. {next}"),
            Format::Json => {
                let error = json!({
                    "error": what,
                    "request": self.request(),
                    "outcome": self.outcome().map(|id| id.to_string()),
                    "changed": changed,
                    "next": next,
                    "exit_code": code as u8,
                });
                writeln!(io::stderr(), "{error}")
            }
        };
    }

    fn what(&self) -> String {
        match self {
            Self::Usage(message) | Self::RolledBack(message) => message.clone(),
            Self::Client(error) => error.to_string(),
            Self::Unwatched(error) => {
                format!("how far the shards have been moved cannot be seen: {error}")
            }
            Self::Output(error) => format!("the answer could not be printed: {error}"),
        }
    }

    fn request(&self) -> Option<String> {
        match self {
            Self::Client(ClientError::Call {
                call: CallError::UnknownOutcome { request, .. },
                ..
            }) => Some(request.to_string()),
            Self::Usage(_)
            | Self::Client(_)
            | Self::RolledBack(_)
            | Self::Unwatched(_)
            | Self::Output(_) => None,
        }
    }

    /// What an unknown outcome can be asked for by.
    fn outcome(&self) -> Option<OutcomeId> {
        match self {
            Self::Client(error) => error.outcome_id(),
            Self::Usage(_) | Self::RolledBack(_) | Self::Unwatched(_) | Self::Output(_) => None,
        }
    }

    /// Whether anything was changed: a word for programs and a sentence for people.
    fn changed(&self, verb: &str) -> (&'static str, &'static str) {
        match self {
            Self::Client(ClientError::Call { call: CallError::WrongOutcomeId { .. }, .. }) => {
                ("nothing", "Nothing was asked")
            }
            Self::Client(_) if verb == "outcome" => {
                ("unknown", "How the transaction ended is not told")
            }
            Self::Client(error) if error.is_outcome_unknown() && is_of_many(verb) => (
                "unknown",
                "All of the transaction may have taken effect, may still do so, or may never",
            ),
            Self::Client(ClientError::Call { call: CallError::AdminUnknown, .. }) => {
                ("unknown", "The change may have been decided, may still be, or may never")
            }
            Self::Unwatched(_) => ("done", "The change was decided and goes on by itself"),
            Self::Client(error) if error.is_outcome_unknown() => {
                ("unknown", "The write may have taken effect, may still do so, or may never")
            }
            Self::Usage(_) | Self::Client(_) | Self::RolledBack(_) => {
                ("nothing", "Nothing was changed")
            }
            Self::Output(_) => ("done", "The command itself was carried out"),
        }
    }

    fn next_step(&self, verb: &str) -> String {
        match self.outcome() {
            Some(id) => format!("Ask how it ended with 'kv outcome {id}'."),
            None => self.next_step_without_id(verb).to_owned(),
        }
    }

    fn next_step_without_id(&self, verb: &str) -> &'static str {
        if let Self::Output(_) = self {
            return "Mend the output; then read what you wanted to know.";
        }
        if let Self::Client(ClientError::Call { call: CallError::Refused(refusal), .. }) = self
            && let Some(next) = next_snapshot(refusal)
        {
            return next;
        }
        if let Self::Unwatched(_) = self {
            return "See 'kv cluster status', or repeat the command, which does no harm.";
        }
        if let Self::Client(ClientError::Call { call, .. }) = self {
            match call {
                CallError::WrongOutcomeId { .. } => {
                    return "Copy the id whole from the error that named it, and ask the cluster that \
                            the transaction was sent to.";
                }
                CallError::TxnTooLarge { .. } => return "Split it into smaller ones.",
                _ => {}
            }
        }
        match (self.exit_code(), verb) {
            (ExitCode::Unknown, "cluster") => {
                "Repeat the command, which does no harm, or see 'kv cluster status'."
            }
            (ExitCode::Usage, "cluster") => {
                "See 'kv cluster status' for members, shards and who can be reached."
            }
            (ExitCode::Unknown, "put") => {
                "Repeating this put is safe as long as nobody writes the key from here on, you included; \
                 else read it first."
            }
            (ExitCode::Unknown, "delete") => {
                "Repeating this delete is safe as long as nobody writes the key from here on, you \
                 included; it may then say 'not found'."
            }
            (ExitCode::Unknown, "txn" | "batch" | "outcome") => {
                "Read what it was to write before you decide whether to run it again."
            }
            (ExitCode::Aborted, _) => "To run it again, from its beginning, is safe.",
            (ExitCode::No, _) => "Read the keys before you decide what to do.",
            (ExitCode::Unknown, _) => {
                "Read the key before you decide whether to repeat the command."
            }
            (ExitCode::Unreachable, _) => {
                "Check --endpoints, and the nodes with 'kv cluster status'; then repeat the command."
            }
            _ => "See 'kv help'.",
        }
    }
}

/// Whether a command writes any keys.
fn is_of_many(verb: &str) -> bool {
    matches!(verb, "txn" | "batch")
}

/// What to do if a read is at a moment that cannot be read.
fn next_snapshot(refusal: &Refusal) -> Option<&'static str> {
    if let Refusal::SnapshotTooOld { .. } = refusal {
        return Some("Repeat the command with a later --at, or without it: then it reads what is.");
    }
    if let Refusal::FutureTimestamp { .. } = refusal {
        return Some("Give --at a version that the store has answered, or leave it out.");
    }
    None
}

#[cfg(test)]
mod tests {
    use kv_core::id::{ClusterId, RequestId, SessionId, ShardId, Timestamp};
    use kv_core::txn::TxnId;

    use super::*;

    fn failed(call: CallError) -> Failure {
        Failure::Client(ClientError::Call { call, connections: vec![] })
    }

    #[test]
    fn unknown_outcome_of_a_transaction_says_what_to_ask() {
        let session = SessionId { opened_ts: Timestamp(17), nonce: 0xab };
        let request = RequestId { session, sequence: 9, acked_below: 3 };
        let id = OutcomeId::new(ClusterId(7), ShardId(2), TxnId { session, number: 4 }, request);
        let failure = failed(CallError::UnknownOutcome { request, id: Some(id) });
        assert_eq!(failure.exit_code(), ExitCode::Unknown);
        let next = "Ask how it ended with 'kv outcome s2-17-00000000000000ab-4-9-5bb7d60f'.";
        assert_eq!(failure.next_step("txn"), next);
        let plain = failed(CallError::UnknownOutcome { request, id: None });
        assert!(plain.next_step("put").contains("put is safe"));

        let forgotten = failed(CallError::OutcomeForgotten { id });
        assert_eq!(forgotten.exit_code(), ExitCode::Unknown);
        assert_eq!(forgotten.changed("outcome").0, "unknown");
        let wrong = failed(CallError::WrongOutcomeId { id });
        assert_eq!(wrong.exit_code(), ExitCode::Usage);
        assert_eq!(wrong.changed("outcome"), ("nothing", "Nothing was asked"));
        assert!(wrong.next_step("outcome").starts_with("Copy the id whole"));
        let too_large = CallError::TxnTooLarge { what: "bytes".into(), size: 2, size_max: 1 };
        assert_eq!(failed(too_large).next_step("batch"), "Split it into smaller ones.");
        let unanswered = failed(CallError::Unavailable { last: None });
        assert_eq!(unanswered.exit_code(), ExitCode::Unreachable);
        assert_eq!(unanswered.changed("outcome").0, "unknown");
    }

    #[test]
    fn read_at_a_wrong_moment_says_what_to_do_next() {
        let at = Timestamp(5);
        let refusals = [
            (Refusal::SnapshotTooOld { at, oldest: Timestamp(9) }, "a later --at"),
            (Refusal::FutureTimestamp { at, newest: Timestamp(4) }, "or leave it out"),
        ];
        for (refusal, next) in refusals {
            let call = CallError::Refused(refusal);
            let failure = Failure::Client(ClientError::Call { call, connections: vec![] });
            assert_eq!(failure.exit_code(), ExitCode::Usage);
            assert_eq!(failure.changed("scan"), ("nothing", "Nothing was changed"));
            assert!(failure.next_step("scan").contains(next), "{}", failure.next_step("scan"));
        }
    }
}
