//! What travels between processes.
//!
//! Everything is sent in *frames*: a fixed header, then one encoded body ([`frame`]). A connection
//! starts with a handshake ([`handshake`]) that says whether the other side is a peer or a client;
//! then peers exchange [`PeerFrame`]s and clients [`RequestFrame`]s and [`ReplyFrame`]s. The
//! simulator sends the same bytes.
//!
//! There is one way in: [`decode`] checks length and checksum before it allocates, and refuses
//! bytes that are left over.
//!
//! **What this leaves out:** compression, and splitting one value over several frames.

mod client;
mod frame;
mod handshake;
mod peer;

use alloc::vec::Vec;

pub use client::{
    AdminReply, AdminRequest, ClientReply, ClientRequest, MapView, ReadLevel, Refusal, ReplyFrame,
    RequestFrame, TxnReply, TxnRequest,
};
pub use frame::{
    FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameError, FrameReader, PROTOCOL_VERSION,
};
pub use handshake::{Hello, HelloRefusal, HelloReply, LocalIdentity, PeerHello, Welcome};
pub use peer::{
    Confirmation, Elsewhere, FormationMessage, ForwardMessage, Issued, Lead, MapMessage,
    NodeRequest, OracleMessage, PeerFrame, PeerMessage, RaftMessage, Receipt, SafeTime,
    SafeTimeMessage, SnapshotMessage, Standing, TxnMessage, VoteKind, Wait,
};

/// Encodes a frame: header, checksum and body.
pub fn encode(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    frame::encode_into(frame, &mut out);
    out
}

/// Appends an encoded frame to `out`: frames that leave together share a buffer.
pub fn encode_into(frame: &Frame, out: &mut Vec<u8>) {
    frame::encode_into(frame, out);
}

/// Decodes the bytes of exactly one frame.
///
/// # Errors
/// [`FrameError`] if they are anything else. *Nothing was changed.*
pub fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    frame::decode(bytes)
}
