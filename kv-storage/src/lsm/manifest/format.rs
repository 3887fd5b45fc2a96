//! The bytes of a manifest.
//!
//! All numbers are little endian, and every record starts at a multiple of 8.
//!
//! ```text
//! header                                       record
//! size  field                                  size  field
//!    4  magic "KVTM"                              4  magic "KVTE"
//!    4  format version, 1                         4  size of the content
//!    8  owner                                     8  known durable up to here when written
//!    8  number of the manifest                    4  1 edit, 2 only says what is durable
//!    8  size of the file                          4  crc32c of the 20 bytes before it, the
//!    4  zero                                         owner, the number, its offset, the content
//!    4  crc32c of the 36 bytes before it          *  content
//!                                               0-7  zeros
//! ```

pub(super) const HEADER_BYTES: usize = 40;
const RECORD_HEADER_BYTES: usize = 24;
const ALIGNMENT: usize = 8;
const MAGIC: [u8; 4] = *b"KVTM";
const RECORD_MAGIC: [u8; 4] = *b"KVTE";
const FORMAT_VERSION: u32 = 1;

/// Which manifest a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Owner of the tree.
    pub(crate) owner: u64,
    /// Number of the manifest.
    pub(crate) number: u64,
}

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKind {
    Edit = 1,
    Durable = 2,
}

/// The start of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    pub(super) size: u64,
}

impl Header {
    pub(super) fn encode(self, owner: u64) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[8..16].copy_from_slice(&owner.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.size.to_le_bytes());
        let crc = crc32c::crc32c(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn parse(bytes: &[u8], owner: u64) -> Result<Self, &'static str> {
        let header: &[u8; HEADER_BYTES] =
            bytes.first_chunk().ok_or("the manifest is shorter than its header")?;
        let crc = crc32c::crc32c(&header[..HEADER_BYTES - 4]);
        if header[..4] != MAGIC || header[HEADER_BYTES - 4..] != crc.to_le_bytes() {
            return Err("the header's checksum is wrong");
        }
        if u32_at(header, 4) != FORMAT_VERSION {
            return Err("the manifest has a format of a later version");
        }
        if u64_at(header, 8) != owner {
            return Err("the manifest is of another data directory");
        }
        Ok(Self { number: u64_at(header, 16), size: u64_at(header, 24) })
    }
}

/// Size of a record with a content of `content_bytes`.
pub(super) fn record_bytes(content_bytes: usize) -> u64 {
    (RECORD_HEADER_BYTES + content_bytes).next_multiple_of(ALIGNMENT) as u64
}

/// A record at `offset`, written when everything before `durable` is durable.
pub(super) fn record(
    place: Place,
    offset: u64,
    durable: u64,
    kind: RecordKind,
    content: &[u8],
) -> Vec<u8> {
    let mut out = vec![0; record_bytes(content.len()) as usize];
    out[..4].copy_from_slice(&RECORD_MAGIC);
    out[4..8].copy_from_slice(&(content.len() as u32).to_le_bytes());
    out[8..16].copy_from_slice(&durable.to_le_bytes());
    out[16..20].copy_from_slice(&(kind as u32).to_le_bytes());
    out[RECORD_HEADER_BYTES..][..content.len()].copy_from_slice(content);
    let crc = record_crc(place, offset, &out[..20], content);
    out[20..24].copy_from_slice(&crc.to_le_bytes());
    out
}

fn record_crc(place: Place, offset: u64, header: &[u8], content: &[u8]) -> u32 {
    let crc = crc32c::crc32c(header);
    let crc = crc32c::crc32c_append(crc, &place.owner.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &place.number.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc32c::crc32c_append(crc, content)
}

/// A record whose checksum and place are right.
struct Record<'a> {
    durable: u64,
    is_edit: bool,
    content: &'a [u8],
    size: usize,
}

fn parse(bytes: &[u8], at: usize, place: Place) -> Option<Record<'_>> {
    let rest = bytes.get(at..)?;
    let header: &[u8; RECORD_HEADER_BYTES] = rest.first_chunk()?;
    if header[..4] != RECORD_MAGIC {
        return None;
    }
    let content_bytes = u32_at(header, 4) as usize;
    let content = rest.get(RECORD_HEADER_BYTES..)?.get(..content_bytes)?;
    let size = record_bytes(content_bytes) as usize;
    let padding = rest.get(RECORD_HEADER_BYTES + content_bytes..size)?;
    let crc = record_crc(place, at as u64, &header[..20], content);
    let is_whole = crc == u32_at(header, 20) && padding.iter().all(|byte| *byte == 0);
    let kind = u32_at(header, 16);
    let is_edit = kind == RecordKind::Edit as u32;
    let is_known = is_edit || kind == RecordKind::Durable as u32;
    (is_whole && is_known).then(|| Record { durable: u64_at(header, 8), is_edit, content, size })
}

/// The edits of a manifest with their offsets.
pub(super) type Edits<'a> = Vec<(u64, &'a [u8])>;

/// The edits of a manifest and where its whole records end, or the offset of damage to what was
/// durable.
pub(super) fn records(bytes: &[u8], place: Place) -> Result<(Edits<'_>, u64), u64> {
    let mut edits = Vec::new();
    let mut at = HEADER_BYTES;
    while let Some(record) = parse(bytes, at, place) {
        if record.is_edit {
            edits.push((at as u64, record.content));
        }
        at += record.size;
    }
    // The first edit was durable before the manifest got its name.
    let is_damaged = edits.is_empty()
        || (at + ALIGNMENT..bytes.len()).step_by(ALIGNMENT).any(|behind| {
            parse(bytes, behind, place).is_some_and(|record| record.durable > at as u64)
        });
    if is_damaged { Err(at as u64) } else { Ok((edits, at as u64)) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
