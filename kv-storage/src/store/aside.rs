//! Setting a damaged store aside.
//!
//! The identity says first, durably, that the store is damaged ([`Identity::after_damage`]). Then
//! every file of log and tree gets another name, and an empty log and an empty tree are begun. Only
//! then the identity says that this is done. A crash in between leaves an identity that says that it
//! is not, and the next opening does the same again: what then has the name of a file that was set
//! aside before belongs to the empty store, and is removed.
//!
//! What was set aside is kept until the node is whole again: should too many nodes be damaged, it is
//! all that is left of the data. Nothing here reads it.

use std::io;

use kv_core::cluster::{Identity, Repair};
use kv_core::storage::StorageDamage;

use crate::engine::TREE_FOLDER;
use crate::identity;
use crate::log;
use crate::vfs::Vfs;

/// How the names of files begin that were set aside; the life in which they were used follows.
pub const ASIDE_PREFIX: &str = "damaged-";

/// Notes that the store is damaged, durably.
pub(super) fn mark(
    vfs: &dyn Vfs,
    identity: &Identity,
    damage: StorageDamage,
) -> io::Result<Identity> {
    let identity = identity.after_damage(damage);
    identity::write(vfs, &identity)?;
    Ok(identity)
}

/// Whether the store must be set aside before anything of it is opened.
pub(super) fn is_due(identity: &Identity) -> bool {
    identity.repair.as_ref().is_some_and(|repair| !repair.is_set_aside)
}

/// Sets the store aside.
pub(super) fn set_aside(vfs: &dyn Vfs, identity: &Identity) -> io::Result<()> {
    for folder in folders(vfs)? {
        for name in vfs.list(folder)? {
            let is_data = match folder.is_empty() {
                true => log::is_file_of_log(&name),
                false => !name.starts_with(ASIDE_PREFIX),
            };
            if is_data {
                let life = identity.life - 1;
                let aside = join(folder, &format!("{ASIDE_PREFIX}{life}-{name}"));
                match vfs.exists(&aside)? {
                    true => vfs.remove(&join(folder, &name))?,
                    false => vfs.rename(&join(folder, &name), &aside)?,
                }
            }
        }
        vfs.sync_dir(folder)?;
    }
    Ok(())
}

/// Notes that the store was set aside and an empty one begun, durably.
pub(super) fn finish(vfs: &dyn Vfs, identity: &Identity) -> io::Result<Identity> {
    let repair = identity.repair.clone();
    let repair = repair.map(|repair| Repair { is_set_aside: true, ..repair });
    let identity = Identity { repair, ..identity.clone() };
    identity::write(vfs, &identity)?;
    Ok(identity)
}

/// Removes what was set aside: the node is whole.
pub(crate) fn remove(vfs: &dyn Vfs) -> io::Result<()> {
    for folder in folders(vfs)? {
        for name in vfs.list(folder)?.iter().filter(|name| name.starts_with(ASIDE_PREFIX)) {
            vfs.remove(&join(folder, name))?;
        }
    }
    Ok(())
}

/// The folders that a store lies in.
fn folders(vfs: &dyn Vfs) -> io::Result<Vec<&'static str>> {
    Ok(match vfs.exists(TREE_FOLDER)? {
        true => vec!["", TREE_FOLDER],
        false => vec![""],
    })
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
