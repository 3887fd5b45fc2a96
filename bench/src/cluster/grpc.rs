//! As much of gRPC and of Protocol Buffers as etcd's calls need, over HTTP/2.
//!
//! etcd is measured through this and not through a client library so that it is not held back by
//! one: a call is one stream with one message each way, and clones of a [`Connection`] share it
//! without a queue of their own.
//!
//! # What this leaves out
//!
//! TLS, compression, streams of messages, and every part of a message that no caller here needs.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

/// Room for answers per stream and per connection, so that flow control never slows them down.
const WINDOW_BYTES: u32 = 16 << 20;
/// What precedes a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A connection to a server. Clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    /// `http://HOST:PORT`.
    origin: String,
}

impl Connection {
    /// Connects to `address`, with a task of its own on the current runtime.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(stream)
            .await?;
        // Whoever calls notices when it has ended.
        tokio::spawn(connection);
        Ok(Self { sender, origin: format!("http://{address}") })
    }

    /// Calls a method, given as `/SERVICE/METHOD`, and returns the message of its answer.
    pub async fn call(&self, method: &str, message: &Message) -> Result<Bytes> {
        let request = Request::post(format!("{}{method}", self.origin))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, false)?;
        stream.send_data(message.framed(), true)?;
        let response = response.await?;
        ensure!(response.status().is_success(), "HTTP status {}", response.status());
        check_status(response.headers())?;
        let mut body = response.into_body();
        let mut answer = vec![];
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            answer.extend_from_slice(&chunk);
        }
        if let Some(trailers) = body.trailers().await? {
            check_status(&trailers)?;
        }
        ensure!(answer.len() >= PREFIX_BYTES, "an answer without a message");
        Ok(Bytes::from(answer).slice(PREFIX_BYTES..))
    }
}

fn check_status(headers: &HeaderMap) -> Result<()> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => {
            let text = headers.get("grpc-message").map(|text| text.to_str().unwrap_or_default());
            bail!("gRPC status {}: {}", status.to_str()?, text.unwrap_or_default())
        }
        _ => Ok(()),
    }
}

/// A message that is being put together.
pub struct Message(Vec<u8>);

impl Message {
    /// A message without fields.
    pub fn new() -> Self {
        Self(vec![0; PREFIX_BYTES])
    }

    /// Adds a field of bytes.
    #[must_use]
    pub fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn framed(&self) -> Bytes {
        let mut bytes = self.0.clone();
        let length = (bytes.len() - PREFIX_BYTES) as u32;
        bytes[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        bytes.into()
    }
}

/// A field's value.
pub enum Value {
    /// An integer.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(Bytes),
}

/// The fields of a message, in its order.
pub fn fields(mut message: Bytes) -> Result<Vec<(u64, Value)>> {
    let mut fields = vec![];
    while message.has_remaining() {
        let tag = read_varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Number(read_varint(&mut message)?),
            2 => {
                let length = read_varint(&mut message)? as usize;
                ensure!(length <= message.len(), "a field beyond its message");
                Value::Bytes(message.split_to(length))
            }
            other => bail!("a field of wire type {other}"),
        };
        fields.push((tag >> 3, value));
    }
    Ok(fields)
}

/// The integer in a field, 0 if it is missing, as the format wants it.
pub fn number(fields: &[(u64, Value)], field: u64) -> u64 {
    let found = fields.iter().find_map(|(at, value)| match value {
        Value::Number(number) if *at == field => Some(*number),
        Value::Number(_) | Value::Bytes(_) => None,
    });
    found.unwrap_or(0)
}

/// The bytes in a field.
pub fn bytes(fields: &[(u64, Value)], field: u64) -> Option<Bytes> {
    fields.iter().find_map(|(at, value)| match value {
        Value::Bytes(bytes) if *at == field => Some(bytes.clone()),
        Value::Number(_) | Value::Bytes(_) => None,
    })
}

fn read_varint(message: &mut Bytes) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = message.try_get_u8().context("a number beyond its message")?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    bail!("a number of more than ten bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_holds_is_read_back() {
        let long = [7; 300];
        let framed = Message::new().bytes(1, b"key").bytes(20, &long).framed();
        assert_eq!(framed[..PREFIX_BYTES], [0, 0, 0, 1, 53], "3 + 2 bytes, and 300 + 4");
        let fields = fields(framed.slice(PREFIX_BYTES..)).expect("a message");
        assert_eq!(bytes(&fields, 1).as_deref(), Some(&b"key"[..]));
        assert_eq!(bytes(&fields, 20).as_deref(), Some(&long[..]));
        assert_eq!(bytes(&fields, 2), None);
    }

    #[test]
    fn a_message_that_is_cut_is_no_message() {
        let framed = Message::new().bytes(1, b"key").framed();
        for length in 1..framed.len() - PREFIX_BYTES {
            assert!(fields(framed.slice(PREFIX_BYTES..PREFIX_BYTES + length)).is_err());
        }
    }
}
