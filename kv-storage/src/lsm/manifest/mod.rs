//! The manifest: which tables are the tree.
//!
//! The manifest is a log of *edits*. The first one describes a whole tree, each later one a step:
//! tables that were added and removed, and the metadata that its caller wants to have changed at
//! the same moment. Everything in one edit counts as a whole or not at all.
//!
//! # Switching
//!
//! A manifest is created at its full size, zero-filled. When the next edit does not fit, and
//! whenever the tree is opened and there is room, a new one is written beside it and synced, renamed over the old
//! one, and the directory is synced. So there is always one whole manifest, a full disk is met only
//! by a switch, which it refuses before anything is changed, and a manifest of another size is one
//! that was cut.
//!
//! # A torn edit, and corruption
//!
//! An edit that was being written in a crash may be there in part. It was not answered, so it is
//! left out. An edit that was durable and is damaged must not be: its tables would be taken for
//! leftovers, and removed. So each record states up to where everything was known durable when it
//! was written, and an edit is followed by a record that has nothing else to say. Damage at or
//! below what any whole record states is corruption. One disk alone cannot tell only if that last
//! small record is damaged together with the edit before it, or did not reach the disk in a crash.

mod format;

use std::io;

use kv_core::codec;
use serde::{Deserialize, Serialize};

use bytes::Bytes;

use super::error::{Corruption, TreeError};
use super::table::TableMeta;
use crate::vfs::{Vfs, VfsFile};
use format::{HEADER_BYTES, Header, Place, RecordKind};

/// Name of the manifest.
pub(super) const NAME: &str = "MANIFEST";
/// Name of a manifest that is being written.
pub(super) const NAME_NEW: &str = "MANIFEST.new";
/// A manifest is at least this large, and at least four times its first edit.
const SIZE_MIN: u64 = 64 * 1024;
/// No manifest is larger: four times an edit with metadata of 1 GiB.
const SIZE_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// A step of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Edit {
    /// Above the number of every file so far.
    pub(super) next_number: u64,
    /// Tables that become part of the tree, with their levels.
    pub(super) added: Vec<(u8, TableMeta)>,
    /// Numbers of tables that stop being part of it.
    pub(super) removed: Vec<u64>,
    /// The caller's metadata, if it changes. Stored behind the rest, because it may be larger than
    /// what the codec decodes.
    #[serde(skip)]
    pub(super) metadata: Option<Bytes>,
    /// Local ids whose keys are deleted from here on.
    pub(super) ids_deleted: Vec<u32>,
    /// Local ids of which no table holds keys any more.
    pub(super) ids_purged: Vec<u32>,
}

/// An edit as it is stored: its size (32 bits), this, and then the metadata.
#[derive(Serialize, Deserialize)]
enum StoredEdit {
    V1 { edit: Edit, has_metadata: bool },
}

/// The manifest of an open tree.
#[derive(Debug)]
pub(super) struct Manifest {
    file: Box<dyn VfsFile>,
    place: Place,
    size: u64,
    /// Where the next record goes.
    position: u64,
    /// Everything before it is durable.
    durable: u64,
}

/// What a manifest held.
#[derive(Debug)]
pub(super) struct Found {
    /// Number of the manifest.
    pub(super) number: u64,
    /// The first edit describes a whole tree.
    pub(super) edits: Vec<Edit>,
    /// Where the whole records end.
    end: u64,
}

/// Reads the manifest in `folder`. None if there is none.
pub(super) fn read(vfs: &dyn Vfs, folder: &str, owner: u64) -> Result<Option<Found>, TreeError> {
    let path = super::join(folder, NAME);
    let unreadable = |source| TreeError::Read { file: path.clone(), source };
    let corrupt =
        |offset, what| -> TreeError { Corruption { file: path.clone(), offset, what }.into() };
    let file = match vfs.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let size = file.size().map_err(unreadable)?;
    if !(SIZE_MIN..=SIZE_MAX).contains(&size) {
        return Err(corrupt(size, "the manifest has a size that no manifest has"));
    }
    let mut bytes = Vec::new();
    crate::vfs::read_all(&*file, &mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 != size {
        return Err(corrupt(bytes.len() as u64, "the manifest ends early"));
    }
    let header = Header::parse(&bytes, owner).map_err(|what| corrupt(0, what))?;
    if header.size != size {
        return Err(corrupt(size.min(header.size), "the manifest was cut"));
    }
    let place = Place { owner, number: header.number };
    let (records, end) = format::records(&bytes, place)
        .map_err(|offset| corrupt(offset, "an edit that was durable is damaged"))?;
    let mut edits = Vec::new();
    for (offset, content) in records {
        let senseless = || corrupt(offset, "the checksum is right, but the edit makes no sense");
        edits.push(decode(content).ok_or_else(senseless)?);
    }
    Ok(Some(Found { number: header.number, edits, end }))
}

impl Manifest {
    /// Writes a new manifest with one edit, which describes the whole tree, and makes it the one in
    /// `folder`.
    pub(super) fn create(
        vfs: &dyn Vfs,
        folder: &str,
        place: Place,
        edit: &Edit,
    ) -> Result<Self, TreeError> {
        let path = super::join(folder, NAME_NEW);
        let prepared = Self::prepare(vfs, &path, place, edit);
        let manifest = match prepared {
            Ok(manifest) => manifest,
            Err(error @ TreeError::NoSpace(_)) => {
                // Whatever is there takes up space; the next attempt removes it too.
                let _ = vfs.remove(&path);
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        if let Err(error) = vfs.rename(&path, &super::join(folder, NAME)) {
            let _ = vfs.remove(&path);
            return Err(TreeError::from_write(error));
        }
        vfs.sync_dir(folder).map_err(TreeError::Write)?;
        Ok(manifest)
    }

    /// Goes on with the manifest in `folder`, which was just read, where there is no room for a new
    /// one. What its whole records say becomes durable, and what a crash left of others is removed.
    pub(super) fn resume(
        vfs: &dyn Vfs,
        folder: &str,
        owner: u64,
        found: &Found,
    ) -> Result<Self, TreeError> {
        let path = super::join(folder, NAME);
        let file = vfs.open(&path).map_err(|source| TreeError::Read { file: path, source })?;
        let size = file.size().map_err(TreeError::Write)?;
        let rest = vec![0; usize::try_from(size - found.end).unwrap_or(0)];
        // The space was claimed when the manifest was made.
        file.write_at(found.end, &rest).map_err(TreeError::Write)?;
        file.sync_data().map_err(TreeError::Write)?;
        vfs.sync_dir(folder).map_err(TreeError::Write)?;
        let place = Place { owner, number: found.number };
        Ok(Self { file, place, size, position: found.end, durable: found.end })
    }

    fn prepare(vfs: &dyn Vfs, path: &str, place: Place, edit: &Edit) -> Result<Self, TreeError> {
        match vfs.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(TreeError::Write(error));
            }
            Ok(()) | Err(_) => {}
        }
        let content = encode(edit);
        let first = format::record(place, HEADER_BYTES as u64, 0, RecordKind::Edit, &content);
        let size = (4 * first.len() as u64).next_multiple_of(SIZE_MIN).max(SIZE_MIN);
        assert!(size <= SIZE_MAX, "metadata are far smaller than 1 GiB");
        let file = vfs.create(path).map_err(TreeError::from_write)?;
        file.preallocate(size).map_err(TreeError::from_write)?;
        let mut bytes = Header { number: place.number, size }.encode(place.owner).to_vec();
        bytes.extend_from_slice(&first);
        // The manifest gets its name when all of this is durable.
        let mark = bytes.len() as u64;
        bytes.extend_from_slice(&format::record(place, mark, mark, RecordKind::Durable, &[]));
        file.write_at(0, &bytes).map_err(TreeError::from_write)?;
        file.sync_data().map_err(TreeError::Write)?;
        let position = bytes.len() as u64;
        Ok(Self { file, place, size, position, durable: position })
    }

    /// Whether an edit fits. If not, a new manifest is due.
    pub(super) fn has_room_for(&self, edit: &Edit) -> bool {
        let mark = format::record_bytes(0);
        self.position + format::record_bytes(encode(edit).len()) + mark <= self.size
    }

    /// Adds an edit, durably.
    pub(super) fn append(&mut self, edit: &Edit) -> Result<(), TreeError> {
        // The space was claimed, but a file system that copies on write may want more. A part of a
        // record is none, and the next record is written over it.
        self.write(RecordKind::Edit, &encode(edit)).map_err(TreeError::from_write)?;
        self.file.sync_data().map_err(TreeError::Write)?;
        self.durable = self.position;
        // Becomes durable with the next edit, or whenever the disk gets to it.
        match self.write(RecordKind::Durable, &[]).map_err(TreeError::from_write) {
            Err(TreeError::NoSpace(_)) => Ok(()),
            result => result,
        }
    }

    fn write(&mut self, kind: RecordKind, content: &[u8]) -> io::Result<()> {
        let record = format::record(self.place, self.position, self.durable, kind, content);
        self.file.write_at(self.position, &record)?;
        self.position += record.len() as u64;
        Ok(())
    }

    /// Number of the next manifest.
    pub(super) fn next_place(&self) -> Place {
        Place { owner: self.place.owner, number: self.place.number + 1 }
    }
}

/// The place of a first manifest.
pub(super) fn first_place(owner: u64) -> Place {
    Place { owner, number: 1 }
}

/// The place of the manifest that follows `number`.
pub(super) fn place_after(owner: u64, number: u64) -> Place {
    Place { owner, number: number + 1 }
}

fn encode(edit: &Edit) -> Vec<u8> {
    #[derive(Serialize)]
    enum Stored<'a> {
        V1 { edit: &'a Edit, has_metadata: bool },
    }
    let mut out = vec![0; 4];
    codec::encode_into(&Stored::V1 { edit, has_metadata: edit.metadata.is_some() }, &mut out);
    let size = u32::try_from(out.len() - 4).expect("an edit is far smaller than 4 GiB");
    out[..4].copy_from_slice(&size.to_le_bytes());
    out.extend_from_slice(edit.metadata.as_deref().unwrap_or_default());
    out
}

fn decode(content: &[u8]) -> Option<Edit> {
    let (size, rest) = content.split_first_chunk::<4>()?;
    let (edit, metadata) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
    let StoredEdit::V1 { edit, has_metadata } = codec::decode(edit).ok()?;
    match has_metadata {
        true => Some(Edit { metadata: Some(Bytes::copy_from_slice(metadata)), ..edit }),
        false => metadata.is_empty().then_some(edit),
    }
}
