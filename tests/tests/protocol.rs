//! One real node against everything that is not its protocol.
//!
//! What would go wrong: one bad frame stops a node (it panics, it waits for ever for the rest, it
//! makes room for what a header announces), or it serves somebody who means another cluster. After
//! every case the node must still serve, and the case must have been counted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use kv_core::id::{ClusterId, Incarnation, NodeId};
use kv_core::op::{Key, Value};
use kv_core::ring::shard_of;
use kv_core::wire::{
    self, ClientReply, ClientRequest, FRAME_BODY_BYTES_MAX, Frame, Hello, HelloRefusal, HelloReply,
    PROTOCOL_VERSION, PeerFrame, PeerHello, Refusal, ReplyFrame, RequestFrame,
};
use kv_tests::cluster::Cluster;
use kv_tests::process::Process;
use kv_tests::raw::{Raw, client_hello};
use kv_tests::{ports, wait};
use serde_json::Value as Json;

/// A cluster of one node with an admin address.
struct Fixture {
    cluster: Cluster,
    _node: Process,
    admin: String,
}

impl Fixture {
    fn start() -> Self {
        let mut cluster = Cluster::start(1);
        cluster.kill(0);
        let admin = format!("127.0.0.1:{}", ports::free(1)[0]);
        let mut command = cluster.command(0);
        command.args(["--admin", &admin]);
        let node = Process::start(command, &cluster.path("admin.log"));
        cluster.wait_until_ready();
        Self { cluster, _node: node, admin }
    }

    fn connect(&self) -> Raw {
        Raw::connect(&self.cluster.address(0))
    }

    fn welcomed(&self, hello: Hello) -> Raw {
        Raw::welcomed(&self.cluster.address(0), hello)
    }

    fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn counted(&self, what: &str) -> u64 {
        let answer = self.http("GET /status HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let status: Json = serde_json::from_str(body).unwrap();
        status["connections"][what].as_u64().unwrap()
    }

    /// The case was counted, and the node serves: a client that was connected all the time, and a
    /// new one.
    #[track_caller]
    fn check_counted(&self, what: &str, before: u64, case: &str) {
        wait::until(case, || (self.counted(what) == before + 1).then_some(()));
        assert!(self.cluster.client().put("k", case.to_owned()).is_ok(), "{case}");
        self.welcomed(client_hello()).status();
    }

    /// The node closes the connection at once and without a word, not only when its patience ends.
    #[track_caller]
    fn check_closed(&self, case: &str, mut raw: Raw, bytes: &[u8]) {
        let before = self.counted("malformed_count");
        raw.send(bytes);
        assert_eq!(raw.hear(), [], "{case}");
        self.check_counted("malformed_count", before, case);
    }

    /// The node says that the bytes are no valid frame, and closes.
    #[track_caller]
    fn check_told(&self, case: &str, mut raw: Raw, bytes: &[u8]) {
        let before = self.counted("malformed_count");
        raw.send(bytes);
        let heard = raw.hear();
        let is_told = matches!(
            heard[..],
            [Frame::HelloReply(HelloReply::Refused(HelloRefusal::Malformed { .. }))]
                | [Frame::Reply(ReplyFrame {
                    correlation: 0,
                    body: ClientReply::Refused(Refusal::Malformed { .. }),
                })]
        );
        assert!(is_told, "{case}: {heard:?}");
        self.check_counted("malformed_count", before, case);
    }

    /// The other side closes in the middle of a frame.
    #[track_caller]
    fn check_cut_off(&self, case: &str, mut raw: Raw, bytes: &[u8]) {
        let before = self.counted("malformed_count");
        raw.send(bytes);
        raw.finish();
        assert_eq!(raw.hear(), [], "{case}");
        self.check_counted("malformed_count", before, case);
    }

    /// A handshake that is understood and refused.
    #[track_caller]
    fn check_refused(&self, case: &str, bytes: &[u8], expected: HelloRefusal) {
        let before = self.counted("refused_count");
        let mut raw = self.connect();
        raw.send(bytes);
        assert_eq!(raw.hear(), [Frame::HelloReply(HelloReply::Refused(expected))], "{case}");
        self.check_counted("refused_count", before, case);
    }
}

fn request() -> Vec<u8> {
    wire::encode(&Frame::Request(RequestFrame { correlation: 1, body: ClientRequest::Map }))
}

fn hello() -> Vec<u8> {
    wire::encode(&Frame::Hello(client_hello()))
}

/// A header that announces a body of `length` bytes, and nothing after it.
fn announcing(length: u32) -> Vec<u8> {
    let mut header = request()[..16].to_vec();
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header
}

fn changed(mut bytes: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    assert_ne!(bytes[at], to, "the change is one");
    bytes[at] = to;
    bytes
}

fn peer_hello(cluster: Option<ClusterId>) -> Hello {
    let peer = PeerHello { node: NodeId(9), incarnation: Incarnation(9), cluster };
    Hello { peer: Some(peer), cluster_name: Some("kv".into()), ..client_hello() }
}

#[test]
fn what_is_no_handshake_is_told_so_closed_and_counted() {
    let fixture = Fixture::start();
    let too_long = u32::try_from(FRAME_BODY_BYTES_MAX).unwrap() + 1;
    let last = hello().len() - 1;
    let flipped = hello()[last] ^ 1;
    let closed = |case, bytes: &[u8]| fixture.check_closed(case, fixture.connect(), bytes);
    closed("another protocol", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    closed("zeros", &[0; 4096]);
    closed("wrong magic", &changed(hello(), 0, b'X'));
    let told = |case, bytes: &[u8]| fixture.check_told(case, fixture.connect(), bytes);
    told("unknown kind", &changed(hello(), 5, 77));
    told("unknown flags", &changed(hello(), 6, 1));
    told("damaged", &changed(hello(), last, flipped));
    told("a body beyond the limit", &announcing(too_long));
    told("the longest length", &announcing(u32::MAX));
    told("a long first frame", &announcing(1_000_000));
    told("a request without handshake", &request());
    fixture.check_cut_off("half a header", fixture.connect(), &hello()[..7]);
    fixture.check_cut_off("half a body", fixture.connect(), &hello()[..last]);
}

#[test]
fn who_means_somebody_else_is_told_so() {
    let fixture = Fixture::start();
    let version = HelloRefusal::Version { min: PROTOCOL_VERSION, max: PROTOCOL_VERSION };
    let newer = Hello {
        version_min: PROTOCOL_VERSION + 1,
        version_max: PROTOCOL_VERSION + 2,
        ..client_hello()
    };
    let newer = wire::encode(&Frame::Hello(newer));
    fixture.check_refused(
        "a newer frame",
        &changed(hello(), 4, PROTOCOL_VERSION + 1),
        version.clone(),
    );
    fixture.check_refused("newer versions only", &newer, version);
    let named = Hello { cluster_name: Some("other".into()), ..client_hello() };
    let named = wire::encode(&Frame::Hello(named));
    let name = HelloRefusal::ClusterName { name: "kv".into() };
    fixture.check_refused("another cluster's name", &named, name);
    let status = fixture.welcomed(client_hello()).status();
    let foreign = wire::encode(&Frame::Hello(peer_hello(Some(ClusterId(1)))));
    let cluster = HelloRefusal::Cluster { id: status.cluster.unwrap() };
    fixture.check_refused("another cluster of the same name", &foreign, cluster);
}

#[test]
fn what_does_not_belong_on_an_open_connection_ends_it() {
    let fixture = Fixture::start();
    let longest = u32::try_from(FRAME_BODY_BYTES_MAX).unwrap();
    let client = || fixture.welcomed(client_hello());
    let peer = || fixture.welcomed(peer_hello(None));
    let last = request().len() - 1;
    fixture.check_closed("garbage", client(), b"some bytes that are no frame");
    fixture.check_told("a long frame", client(), &announcing(longest + 1));
    fixture.check_told("another hello", client(), &hello());
    fixture.check_closed("garbage of a peer", peer(), &[255; 64]);
    fixture.check_closed("a request of a peer", peer(), &request());
    fixture.check_cut_off("half a header", client(), &request()[..3]);
    fixture.check_cut_off("half a frame", client(), &request()[..last]);
    fixture.check_cut_off("a long frame that never comes", client(), &announcing(longest));
}

#[test]
fn frames_of_strangers_are_ignored_and_counted() {
    let fixture = Fixture::start();
    let before = fixture.welcomed(client_hello()).status().ignored_frame_count;
    let mut stranger = fixture.welcomed(peer_hello(None));
    let frame = PeerFrame {
        cluster: Some(ClusterId(1)),
        from: NodeId(9),
        from_incarnation: Incarnation(9),
        to: NodeId(1),
        messages: vec![],
    };
    stranger.send(&wire::encode(&Frame::Peer(frame)));
    let mut client = fixture.welcomed(client_hello());
    wait::until("the frame to be counted", || {
        (client.status().ignored_frame_count == before + 1).then_some(())
    });
}

#[test]
fn mutated_bytes_never_stop_a_node() {
    let fixture = Fixture::start();
    let client = fixture.cluster.client();
    client.put("before", "value").unwrap();
    let valid = [hello(), request(), request()].concat();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound as u64).unwrap()
    };
    for _ in 0..300 {
        let mut bytes = valid.clone();
        for _ in 0..=draw(3) {
            let at = draw(bytes.len());
            bytes[at] ^= 1 << draw(8);
        }
        bytes.truncate(bytes.len() - draw(8));
        let mut raw = fixture.connect();
        raw.send(&bytes);
        raw.finish();
        raw.hear();
    }
    let found = client.get("before").unwrap().unwrap();
    assert_eq!(found.value, Value::string("value"));
}

#[test]
fn a_client_that_never_reads_is_closed_before_its_replies_fill_the_memory() {
    let fixture = Fixture::start();
    fixture.cluster.client().put("large", vec![b'x'; 1 << 20]).unwrap();
    let map = fixture.cluster.client().map().unwrap().map;
    let key = Key::new("large");
    let shard = shard_of(&key, map.shard_count());
    let body = ClientRequest::Read { shard, epoch: map.entry(shard).unwrap().epoch, key };
    let read = wire::encode(&Frame::Request(RequestFrame { correlation: 1, body }));
    let before = fixture.counted("overflowed_count");
    let mut raw = fixture.welcomed(client_hello());
    raw.send(&read.repeat(64));
    wait::until("the connection to be closed", || {
        (fixture.counted("overflowed_count") == before + 1).then_some(())
    });
    fixture.welcomed(client_hello()).status();
}

#[test]
fn one_client_too_many_is_told_so_and_peers_still_get_in() {
    let fixture = Fixture::start();
    let mut held = vec![];
    let refusal = loop {
        let mut raw = fixture.connect();
        raw.send(&hello());
        match raw.next() {
            Some(Frame::HelloReply(HelloReply::Welcome(_))) => held.push(raw),
            other => break other,
        }
        assert!(held.len() < 1_000, "there is a limit");
    };
    let expected = HelloReply::Refused(HelloRefusal::TooManyConnections);
    assert_eq!(refusal, Some(Frame::HelloReply(expected)));
    fixture.welcomed(peer_hello(None));
    held.pop();
    wait::until("room for a client", || {
        let mut raw = fixture.connect();
        raw.send(&hello());
        matches!(raw.next(), Some(Frame::HelloReply(HelloReply::Welcome(_)))).then_some(())
    });
}

#[test]
fn the_admin_address_answers_http_and_nothing_else() {
    let fixture = Fixture::start();
    let check = |request: &str, code: &str| {
        let answer = fixture.http(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{request:?}: {answer}");
    };
    check("GET /healthz HTTP/1.1\r\n\r\n", "200");
    check("GET /status?pretty HTTP/1.0\r\nHost: x\r\n\r\n", "200");
    check("GET /other HTTP/1.1\r\n\r\n", "404");
    check("POST /status HTTP/1.1\r\n\r\n", "405");
    check("nonsense\r\n\r\n", "400");
    check(&format!("GET /status HTTP/1.1\r\nX: {}", "x".repeat(8 * 1024)), "400");
    // A request that never ends is cut off.
    let mut stream = TcpStream::connect(&fixture.admin).unwrap();
    stream.write_all(b"GET /status").unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.is_empty());
}
