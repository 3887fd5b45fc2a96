//! Why a node does not start or stops, and the exit code that tells it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use kv_core::node::ConfigErrors;
use kv_core::storage::StorageDamage;
use kv_core::wire::Refusal;
use kv_storage::OpenError;
use kv_storage::doctor::DoctorError;
use kv_storage::identity::IdentityError;

/// How the process ends. The numbers are the same in all programs of the project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// What is stored is damaged.
    Damaged = 1,
    /// The configuration cannot work, or is not that of the data directory. Nothing was changed.
    Config = 2,
    /// The operating system refused something.
    Io = 3,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// Why a node does not start or stops.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// This build holds the planted bugs of the simulator. *Nothing was changed.*
    #[error(
        "this build holds planted bugs (feature `mutants`) and serves no data; build it without"
    )]
    Mutants,
    /// What was typed cannot work. *Nothing was changed.*
    #[error("{} mistake(s) in the configuration:\n  {}", mistakes.len(), mistakes.join("\n  "))]
    Config {
        /// All of them.
        mistakes: Vec<String>,
    },
    /// The configuration is not the one of the data directory. *Nothing was changed.*
    #[error("the configuration is not that of the data directory")]
    Mismatch(#[source] ConfigErrors),
    /// The address cannot be listened on. *Nothing was changed.*
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The data directory cannot be made or read. *No data was changed.*
    #[error("cannot use the data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The data directory belongs to another node, is in use, or is damaged. *No data was changed.*
    #[error("cannot use the data directory {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the store says.
        #[source]
        source: OpenError,
    },
    /// The cluster does not take the node. *Nothing was changed.*
    #[error("the cluster does not take this node: {0}")]
    NotTaken(Refusal),
    /// The data directory is damaged, and belongs to no cluster that could mend it. *Nothing was
    /// changed.*
    #[error(
        "the data directory belongs to no cluster and is damaged ({0}); join with an empty one"
    )]
    Unusable(StorageDamage),
    /// The directory cannot be examined. *Nothing was changed.*
    #[error("cannot examine {}", path.display())]
    Doctor {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: DoctorError,
    },
    /// The operating system lacks something else. *No data was changed.*
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
}

impl NodeError {
    /// How the process ends after it.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Mutants | Self::Config { .. } | Self::Mismatch(_) | Self::NotTaken(_) => {
                ExitCode::Config
            }
            Self::Unusable(_) => ExitCode::Damaged,
            Self::Open { source, .. } if is_foreign(source) => ExitCode::Config,
            Self::Open { .. }
            | Self::Listen { .. }
            | Self::DataDir { .. }
            | Self::Doctor { .. }
            | Self::System { .. } => ExitCode::Io,
        }
    }
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Whether the directory is whole but not one for this node and this program: the operator named
/// the wrong one.
fn is_foreign(error: &OpenError) -> bool {
    match error {
        OpenError::WrongCluster { .. }
        | OpenError::WrongNode { .. }
        | OpenError::Identity(IdentityError::UnknownVersion(_)) => true,
        OpenError::InUse(_)
        | OpenError::IdentityMissing
        | OpenError::LogMissing
        | OpenError::Identity(_)
        | OpenError::Log(_)
        | OpenError::Tree(_)
        | OpenError::Trim(_)
        | OpenError::Io(_) => false,
    }
}
