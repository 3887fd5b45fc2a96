//! Exit codes.

/// How a command ended. The numbers are the same in all programs of the project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// It was done.
    Done = 0,
    /// It was decided, and the answer is no: the key is missing, the compare-and-set was not
    /// applied.
    No = 1,
    /// It makes no sense as typed, or exceeds a limit. Nothing was changed.
    Usage = 2,
    /// The cluster cannot be reached or does not answer in time. Nothing was changed.
    Unreachable = 3,
    /// A write was sent and not answered in time: it may or may not take effect.
    Unknown = 4,
    /// A transaction was aborted. Nothing was changed, and running it again is safe.
    Aborted = 5,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
