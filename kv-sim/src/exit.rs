//! How the program ends.

/// Exit codes of every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything holds.
    Holds = 0,
    /// Something is violated.
    Violated = 1,
    /// The command line or a scenario makes no sense.
    Usage = 2,
    /// A file could not be read or written.
    Io = 3,
    /// A run was invalid.
    NoVerdict = 4,
}
