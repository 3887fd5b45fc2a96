//! The one place that turns values into bytes and back.
//!
//! The format is bincode 2 (variable-length integers, little endian) over serde. What the rest of
//! the project relies on:
//!
//! - **Bounded.** No value may claim more than [`DECODED_BYTES_MAX`] bytes, checked before anything
//!   is allocated.
//! - **Exact.** Bytes left over after a value are an error, so a frame or record holds one value
//!   and nothing else.
//! - **Total.** Any bytes decode to a value or an error; decoding never panics and never recurses
//!   (no type that is decoded contains itself, and no container holds zero-sized elements).
//!
//! bincode is not self-describing and tolerates no added field, so every stored or sent type is an
//! enum of versions or stands under a version byte. Byte strings are [`bytes::Bytes`]: a plain
//! `Vec<u8>` is encoded one element at a time.

use alloc::vec::Vec;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most that one decoded value may claim: 64 MiB, above the largest frame.
pub const DECODED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes that are not an encoding of the expected type. *Nothing was changed.*
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end early, claim too much, or hold a value that the type does not have.
    #[error("not a valid encoding: {0}")]
    Malformed(alloc::string::String),
    /// The value was complete, but bytes follow it.
    #[error("{extra} bytes follow the value")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>()
}

/// Encodes `value`.
///
/// # Panics
/// Never for the types of this crate: writing to memory cannot fail, and no type has a sequence of
/// unknown length.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, config()).expect("encoding into memory cannot fail")
}

/// Appends the encoding of `value` to `out`.
///
/// # Panics
/// Never for the types of this crate, as [`encode`].
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    struct Sink<'a>(&'a mut Vec<u8>);
    impl bincode::enc::write::Writer for Sink<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    bincode::serde::encode_into_writer(value, Sink(out), config())
        .expect("encoding into memory cannot fail");
}

/// How many bytes the encoding of `value` has.
///
/// # Panics
/// Never for the types of this crate, as [`encode`].
pub fn encoded_bytes<T: Serialize>(value: &T) -> usize {
    struct Count<'a>(&'a mut usize);
    impl bincode::enc::write::Writer for Count<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
            *self.0 += bytes.len();
            Ok(())
        }
    }
    let mut count = 0;
    bincode::serde::encode_into_writer(value, Count(&mut count), config())
        .expect("counting cannot fail");
    count
}

/// Decodes exactly one value.
///
/// # Errors
/// [`CodecError`] if the bytes are anything else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    use alloc::string::ToString as _;
    let (value, used) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        extra => Err(CodecError::TrailingBytes { extra }),
    }
}
