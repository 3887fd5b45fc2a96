//! The frame: what makes a byte stream into messages.
//!
//! ```text
//! offset  size  field
//!      0     4  magic "KVDB"
//!      4     1  protocol version
//!      5     1  kind: 1 hello, 2 hello reply, 3 peer, 4 request, 5 reply
//!      6     2  flags, zero
//!      8     4  length of the body in bytes, little endian
//!     12     4  crc32c of bytes 0..12 and the body, little endian
//!     16        body
//! ```
//!
//! The length is checked before anything is allocated for the body, and the checksum before the
//! body is decoded.

use alloc::vec::Vec;

use super::{Hello, HelloReply, PeerFrame, ReplyFrame, RequestFrame};
use crate::codec::{self, CodecError};
use crate::op::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// Version of everything that is sent. Until the first release it may change with every commit.
pub const PROTOCOL_VERSION: u8 = 8;
/// Size of the header.
pub const FRAME_HEADER_BYTES: usize = 16;
/// The largest body: a request with the largest key and value, with room for what stands around
/// them.
pub const FRAME_BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

// The largest entry, a compare-and-set of the largest value with another one, fits a frame between
// nodes with what stands around it.
const _: () = assert!(2 * VALUE_BYTES_MAX + KEY_BYTES_MAX + 64 * 1024 < FRAME_BODY_BYTES_MAX);

const MAGIC: [u8; 4] = *b"KVDB";

/// Any frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame on a connection.
    Hello(Hello),
    /// Its answer.
    HelloReply(HelloReply),
    /// Between nodes.
    Peer(PeerFrame),
    /// From a client.
    Request(RequestFrame),
    /// To a client.
    Reply(ReplyFrame),
}

/// Bytes that are not a frame. The connection cannot be used further: where the next frame starts
/// is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not ours.
    #[error("not a frame of this protocol (magic {0:02x?})")]
    Magic([u8; 4]),
    /// Another version of the protocol.
    #[error("protocol version {0}, this side speaks {PROTOCOL_VERSION}; upgrade the older side")]
    Version(u8),
    /// A kind or flag that this version does not know.
    #[error("unknown frame kind {kind} with flags {flags:#06x}")]
    Kind {
        /// The kind byte.
        kind: u8,
        /// The flags.
        flags: u16,
    },
    /// The body is longer than allowed. Nothing was allocated for it.
    #[error("frame body of {0} bytes exceeds the limit of {FRAME_BODY_BYTES_MAX}")]
    TooLong(u32),
    /// Damaged on the way.
    #[error("frame checksum does not match")]
    Checksum,
    /// The body does not decode.
    #[error("frame body: {0}")]
    Body(#[from] CodecError),
    /// The bytes end within the frame, or go on after it.
    #[error("expected exactly one frame of {expected} bytes, got {actual}")]
    Length {
        /// Bytes of the frame, or of a header if that is incomplete.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
}

struct Header {
    kind: u8,
    length: usize,
    checksum: u32,
}

impl Header {
    fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let [m0, m1, m2, m3, version, kind, f0, f1, l0, l1, l2, l3, c0, c1, c2, c3] = *bytes;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        if version != PROTOCOL_VERSION {
            return Err(FrameError::Version(version));
        }
        let flags = u16::from_le_bytes([f0, f1]);
        if !(1..=5).contains(&kind) || flags != 0 {
            return Err(FrameError::Kind { kind, flags });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        Ok(Self { kind, length: length as usize, checksum: u32::from_le_bytes([c0, c1, c2, c3]) })
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}

pub(super) fn encode_into(frame: &Frame, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[PROTOCOL_VERSION, kind(frame), 0, 0]);
    out.extend_from_slice(&[0; 8]);
    match frame {
        Frame::Hello(body) => codec::encode_into(body, out),
        Frame::HelloReply(body) => codec::encode_into(body, out),
        Frame::Peer(body) => codec::encode_into(body, out),
        Frame::Request(body) => codec::encode_into(body, out),
        Frame::Reply(body) => codec::encode_into(body, out),
    }
    let (head, body) = out[start..].split_at_mut(FRAME_HEADER_BYTES);
    let length = u32::try_from(body.len()).expect("a body is bounded by the limits");
    head[8..12].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&head[..12], body);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn kind(frame: &Frame) -> u8 {
    match frame {
        Frame::Hello(_) => 1,
        Frame::HelloReply(_) => 2,
        Frame::Peer(_) => 3,
        Frame::Request(_) => 4,
        Frame::Reply(_) => 5,
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    let actual = bytes.len();
    let Some((head, body)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Err(FrameError::Length { expected: FRAME_HEADER_BYTES, actual });
    };
    let header = Header::parse(head)?;
    if body.len() != header.length {
        let expected = FRAME_HEADER_BYTES + header.length;
        return Err(FrameError::Length { expected, actual });
    }
    if checksum(&head[..12], body) != header.checksum {
        return Err(FrameError::Checksum);
    }
    Ok(match header.kind {
        1 => Frame::Hello(codec::decode(body)?),
        2 => Frame::HelloReply(codec::decode(body)?),
        3 => Frame::Peer(codec::decode(body)?),
        4 => Frame::Request(codec::decode(body)?),
        _ => Frame::Reply(codec::decode(body)?),
    })
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
}

impl FrameReader {
    /// An empty reader.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they come from the stream. The caller bounds how much it pushes before it
    /// drains [`FrameReader::next_frame`]; a frame that is too long is refused from its header
    /// alone.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame; none if more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]: the stream is unusable from here on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let pending = &self.buffer[self.start..];
        let Some(head) = pending.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let end = FRAME_HEADER_BYTES + Header::parse(head)?.length;
        let Some(bytes) = pending.get(..end) else {
            return Ok(None);
        };
        let frame = decode(bytes)?;
        self.start += end;
        Ok(Some(frame))
    }
}
