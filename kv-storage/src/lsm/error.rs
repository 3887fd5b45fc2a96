//! What can go wrong in a tree.

use std::io;

/// Stored bytes that are not what was written. The replica cannot be trusted until it is repaired
/// from others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged at offset {offset}: {what}")]
pub struct Corruption {
    /// Path of the file below the root of its [`Vfs`](crate::vfs::Vfs).
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// What was found there.
    pub what: &'static str,
}

/// Why a tree cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Stored bytes are damaged, or a file is missing or cut. *Nothing was changed.*
    #[error("the tree is damaged")]
    Corruption(#[from] Corruption),
    /// The disk could not read. *Nothing was changed.*
    #[error("{file} cannot be read")]
    Read {
        /// Path of the file or folder.
        file: String,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// The disk is full. *Nothing was changed; the step may be repeated when there is room.*
    #[error("no space for a step of the tree")]
    NoSpace(#[source] io::Error),
    /// The disk failed to write or to sync. What is durable is unknown. *The node must stop.*
    #[error("the tree cannot be written")]
    Write(#[source] io::Error),
    /// An earlier write failed. *Nothing was written; the node must stop.*
    #[error("the tree failed before")]
    Poisoned,
}

impl TreeError {
    /// Whether the same call can succeed later, on the same open tree.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read { .. } | Self::NoSpace(_) => true,
            Self::Corruption(_) | Self::Write(_) | Self::Poisoned => false,
        }
    }

    /// The error of a failed write of data that nothing refers to yet, so that a full disk is
    /// harmless.
    pub(super) fn from_write(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(error),
            _ => Self::Write(error),
        }
    }
}

/// A piece of stored bytes whose checksum is right but whose content makes no sense. The caller
/// knows the place and makes a [`Corruption`] of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;
