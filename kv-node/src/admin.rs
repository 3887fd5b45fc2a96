//! Status over HTTP, for people and probes.
//!
//! `GET /status` answers the node's view of itself as JSON, `GET /healthz` answers 200 if the node
//! belongs to a cluster, knows a leader of each shard that it holds, and has no damaged data and a disk
//! with room, else 503. This is no web
//! server: it reads one request line and headers of bounded size within a second, answers, and
//! closes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kv_core::node::{PeerStatus, Status};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::counters::Counters;

/// Request line and headers.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// From accepting to closing.
const DEADLINE: Duration = Duration::from_secs(1);
/// Connections at a time; more are closed unread.
const CONNECTION_MAX: usize = 16;
/// Pause after the operating system refused to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Ask = mpsc::Sender<oneshot::Sender<Status>>;

/// Answers for ever.
pub(crate) async fn run(listener: TcpListener, executor: Ask, counters: Arc<Counters>) {
    let slots = Arc::new(Semaphore::new(CONNECTION_MAX));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (executor, counters) = (executor.clone(), Arc::clone(&counters));
        tokio::spawn(async move {
            let _slot = slot;
            // Whether a probe got its answer is the probe's business.
            let _ = timeout(DEADLINE, serve(stream, &executor, &counters)).await;
        });
    }
}

async fn serve(mut stream: TcpStream, executor: &Ask, counters: &Counters) -> io::Result<()> {
    let head = read_head(&mut stream).await?;
    let (code, body) = match target(&head) {
        None => ("400 Bad Request", json!({ "error": "not an HTTP request of at most 8 KiB" })),
        Some(("GET", "/status")) => match status(executor).await {
            Some(status) => ("200 OK", status_json(&status, counters)),
            None => ("503 Service Unavailable", json!({ "error": "the node is stopping" })),
        },
        Some(("GET", "/healthz")) => match status(executor).await {
            Some(status) if is_healthy(&status) => ("200 OK", json!({ "healthy": true })),
            _ => ("503 Service Unavailable", json!({ "healthy": false })),
        },
        Some(("GET", _)) => ("404 Not Found", json!({ "error": "try /status or /healthz" })),
        Some(_) => ("405 Method Not Allowed", json!({ "error": "only GET" })),
    };
    let body = format!("{body}\n");
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// Reads until the empty line that ends the headers, the end, or the limit.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut limited = stream.take(REQUEST_BYTES_MAX as u64);
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if limited.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

/// Method and path of a complete request.
fn target(head: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(head).ok()?;
    let (line, _) = text.split_once("\r\n").filter(|_| text.contains("\r\n\r\n"))?;
    match line.split(' ').collect::<Vec<_>>()[..] {
        [method, target, version] if version.starts_with("HTTP/1.") => {
            let path = target.split_once('?').map_or(target, |(path, _)| path);
            Some((method, path))
        }
        _ => None,
    }
}

async fn status(executor: &Ask) -> Option<Status> {
    let (reply, status) = oneshot::channel();
    executor.send(reply).await.ok()?;
    status.await.ok()
}

fn is_healthy(status: &Status) -> bool {
    status.cluster.is_some()
        && status.damage.is_none()
        && !status.is_full
        && status.shards.iter().all(|shard| shard.leader.is_some())
}

fn peer_json(peer: &PeerStatus) -> Value {
    json!({
        "node": peer.node,
        "address": peer.address,
        "state": peer.state,
        "phi": f64::from(peer.phi_hundredths) / 100.0,
        "software": peer.release.software,
        "protocol": peer.release.protocol,
        "map_version": peer.map_version,
    })
}

/// Ids of 64 and 128 bits are hexadecimal strings: JSON numbers of that size lose digits in many
/// readers.
fn status_json(status: &Status, counters: &Counters) -> Value {
    json!({
        "node": status.node,
        "incarnation": status.incarnation.to_string(),
        "cluster_name": status.cluster_name,
        "cluster": status.cluster.map(|cluster| cluster.to_string()),
        "damage": status.damage,
        "is_full": status.is_full,
        "shards": status.shards,
        "peers": status.peers.iter().map(peer_json).collect::<Vec<_>>(),
        "log": status.log,
        "ignored_frame_count": status.ignored_frame_count,
        "pending_bytes": status.pending_bytes,
        "connections": {
            "accepted_count": counters.accepted.value(),
            "refused_count": counters.refused.value(),
            "malformed_count": counters.malformed.value(),
            "too_slow_count": counters.too_slow.value(),
            "overflowed_count": counters.overflowed.value(),
            "dropped_frame_count": counters.dropped_frames.value(),
        },
    })
}
