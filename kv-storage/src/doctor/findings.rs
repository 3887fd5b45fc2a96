//! What is wrong with a directory, in words.

use kv_core::id::ShardId;

use crate::engine::damage_of;
use crate::identity::{IDENTITY_FILE, IdentityError};
use crate::log::{Damage, DamageKind, RecoveryError};
use crate::lsm::TreeError;
use crate::store::chain;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, below the data directory.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// What was found there.
    pub what: String,
    /// What that means for the node.
    pub meaning: &'static str,
    /// What to do.
    pub advice: &'static str,
}

const REPLACE: &str = "Keep the directory as it is, check the drive, and leave the node stopped: the \
    others go on without it as long as they are a majority. Do not bring back an older copy of it, \
    which has forgotten what the node promised since.";
const REPAIR: &str = "Check the drive, then start the node: it sets its data aside, under names that \
    begin with `damaged-`, and is filled again from the other nodes. It counts for nothing until \
    then, so the others must be a majority of every shard. If they are not, keep the directory as \
    it is. Do not bring back an older copy of it, which has forgotten what the node promised since.";
const LOG_LOST: &str = "The node has promised to others what stood here: votes, and entries that \
    may be committed.";
const TREE_LOST: &str = "Part of the applied state is lost, and the log may not reach back far \
    enough to apply it again.";

fn finding(file: &str, offset: u64, what: String, texts: (&'static str, &'static str)) -> Finding {
    let (meaning, advice) = texts;
    Finding { file: file.to_owned(), offset, what, meaning, advice }
}

pub(super) fn identity_missing() -> Finding {
    let what = "the file is missing, but the directory has a log or a tree".to_owned();
    let meaning = "Nobody knows whose directory this is. The node refuses to start, and nothing \
        else could be verified.";
    let advice = "Put the file back if somebody moved it. If it is lost, leave the node stopped: \
        the others go on without it as long as they are a majority.";
    finding(IDENTITY_FILE, 0, what, (meaning, advice))
}

pub(super) fn identity(error: &IdentityError) -> Finding {
    let meaning = "Nobody knows whose directory this is. The node refuses to start, and nothing \
        else could be verified.";
    let advice = match error {
        IdentityError::UnknownVersion(_) => "Use the version of the program that wrote it.",
        IdentityError::Damaged | IdentityError::Content(_) | IdentityError::Io(_) => REPLACE,
    };
    finding(IDENTITY_FILE, 0, chain(error), (meaning, advice))
}

pub(super) fn log_missing() -> Finding {
    let what = "the node belongs to a cluster, but the directory has no log".to_owned();
    let meaning = "The node has forgotten what it promised to others. It refuses to start.";
    let advice = "Put the files back if somebody moved them. If they are lost, leave the node \
        stopped: the others go on without it as long as they are a majority.";
    finding("wal-*.log", 0, what, (meaning, advice))
}

pub(super) fn log(error: &RecoveryError) -> Finding {
    match error {
        RecoveryError::Damaged(damage) => log_damage(damage),
        RecoveryError::Foreign { file, position } => {
            let meaning = "The file was brought here from the directory of another node, or from \
                an earlier life of this one. The node refuses to start.";
            let advice = "Put back the file that belongs here, and find out what exchanged it.";
            finding(file, *position, chain(error), (meaning, advice))
        }
        RecoveryError::UnknownVersion { file, position, .. }
        | RecoveryError::Record { file, position, .. } => {
            let meaning = "The bytes are as they were written, but by a program that knows another \
                format, or is faulty. The node refuses to start.";
            let advice = "Use the version of the program that wrote it. If it is this one, report \
                a bug, and keep the directory.";
            finding(file, *position, chain(error), (meaning, advice))
        }
        RecoveryError::NoSpace { .. } | RecoveryError::Io(_) => {
            let texts = ("The disk does not answer as it should.", "Check the drive.");
            finding("wal-*.log", 0, chain(error), texts)
        }
    }
}

fn log_damage(damage: &Damage) -> Finding {
    let advice = match damage.kind {
        DamageKind::Misplaced { .. } | DamageKind::Missing | DamageKind::Incomplete { .. } => {
            "Put the file back if somebody moved or removed it. If it is lost, leave the node \
                stopped: the others go on without it as long as they are a majority."
        }
        DamageKind::Corrupt { .. } | DamageKind::Unreadable(_) => REPAIR,
    };
    finding(&damage.file, damage.position, chain(&damage.kind), (LOG_LOST, advice))
}

pub(super) fn tree(error: TreeError) -> Finding {
    let damage = damage_of(error);
    finding(&damage.file, damage.offset, damage.what, (TREE_LOST, REPAIR))
}

pub(super) fn join(file: String, offset: u64, what: String) -> Finding {
    let meaning = "Log and applied state are each whole, but one of them has lost its end.";
    finding(&file, offset, what, (meaning, REPAIR))
}

pub(super) fn reset(shard: ShardId, is_removed: bool) -> Finding {
    let (what, meaning) = match is_removed {
        true => (
            format!("the log of {shard} holds entries, but its applied state was removed"),
            "The node has no replica of the shard any more, and the log was not told before a \
                crash. The next start gives the entries up.",
        ),
        false => (
            format!("the log of {shard} does not hold the entries that were applied"),
            "The applied state came from elsewhere, and the log was not told before a crash. The \
                next start gives the entries up.",
        ),
    };
    let advice = "Nothing, unless the drive is known to lose data.";
    finding("wal-*.log", 0, what, (meaning, advice))
}
