//! Connections that speak bytes, right or wrong.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use kv_core::wire::{
    self, ClientReply, ClientRequest, Frame, FrameReader, Hello, HelloReply, PROTOCOL_VERSION,
    RequestFrame,
};

/// How long the other side may take for anything; above every deadline of a node that a test waits
/// for.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    frames: FrameReader,
}

/// The first frame of a client.
pub fn client_hello() -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        features: 0,
        cluster_name: None,
        peer: None,
    }
}

impl Raw {
    /// Connects, and says nothing.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        stream.set_write_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        Self { stream, frames: FrameReader::new() }
    }

    /// Connects and shakes hands with `hello`.
    ///
    /// # Panics
    /// If the node refuses.
    pub fn welcomed(address: &str, hello: Hello) -> Self {
        let mut raw = Self::connect(address);
        raw.send(&wire::encode(&Frame::Hello(hello)));
        match raw.next() {
            Some(Frame::HelloReply(HelloReply::Welcome(_))) => raw,
            other => panic!("expected a welcome, not {other:?}"),
        }
    }

    /// Sends bytes. That the other side has closed already is no failure.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends no more.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next frame; none if the other side closed, in whatever way.
    ///
    /// # Panics
    /// If it says nothing for long, or something that is no frame.
    #[expect(clippy::should_implement_trait, reason = "waits, and panics")]
    pub fn next(&mut self) -> Option<Frame> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(frame) = self.frames.next_frame().expect("nodes send frames") {
                return Some(frame);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.frames.push(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the node neither answers nor closes: {error}"),
            }
        }
    }

    /// Everything up to the end.
    ///
    /// # Panics
    /// As [`Raw::next`].
    pub fn hear(mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Asks for the node's status as a client does, on a connection that was welcomed.
    ///
    /// # Panics
    /// If it does not answer in kind.
    pub fn status(&mut self) -> kv_core::node::Status {
        let request = RequestFrame { correlation: 7, body: ClientRequest::Status };
        self.send(&wire::encode(&Frame::Request(request)));
        match self.next() {
            Some(Frame::Reply(reply)) if reply.correlation == 7 => match reply.body {
                ClientReply::Status(status) => status,
                other => panic!("expected a status, not {other:?}"),
            },
            other => panic!("expected a reply, not {other:?}"),
        }
    }
}
