//! A whole cluster in one process, to try things out.
//!
//! Every node is a real one, with a thread, sockets and a data directory of its own; only the
//! process is shared. So a panic or a failed disk ends all of them at once: durable, but not
//! available beyond it.

use std::io::{self, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::args::{DISK_RESERVE_MIB_MIN, DevArgs};
use crate::disk;
use crate::error::NodeError;
use crate::run::{self, BoundNode};
use crate::settings::{MIB, RawSettings};

/// Runs the cluster until a signal ends it.
///
/// # Errors
/// [`NodeError`] of the first node that cannot start.
pub(crate) fn run(args: &DevArgs) -> Result<(), NodeError> {
    let temporary =
        match &args.data_dir {
            Some(_) => None,
            None => Some(disk::temporary_dir().map_err(|source| NodeError::System {
                what: "make a temporary directory",
                source,
            })?),
        };
    let root = match (&args.data_dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(dir)) => dir.path().to_owned(),
        (None, None) => unreachable!("without a directory a temporary one was made"),
    };
    let nodes = (1..=args.nodes)
        .map(|id| run::bind(settings(args, &root, id).check()?))
        .collect::<Result<Vec<_>, _>>()?;
    greet(args, &root, temporary.is_some());
    let result = run_all(nodes);
    if let Some(temporary) = temporary
        && let Err(error) = temporary.close()
    {
        tracing::warn!("the temporary directory {} is left over: {error}", root.display());
    }
    result
}

fn address(args: &DevArgs, id: u16) -> String {
    format!("127.0.0.1:{}", args.base_port + id - 1)
}

fn settings(args: &DevArgs, root: &Path, id: u16) -> RawSettings {
    let peers = (1..=args.nodes).map(|peer| format!("{peer}={}", address(args, peer)));
    RawSettings {
        id: Some(id.into()),
        data_dir: root.join(format!("node-{id}")),
        listen: address(args, id),
        peers: Some(peers.collect::<Vec<_>>().join(",")),
        join: None,
        advertise: None,
        cluster_name: "dev".into(),
        admin: None,
        disk_reserve_bytes: DISK_RESERVE_MIB_MIN * MIB,
        insecure: false,
        shard_count: 16,
        lease: None,
        retention: Duration::from_secs(600),
    }
}

fn greet(args: &DevArgs, root: &Path, is_temporary: bool) {
    let endpoints = (1..=args.nodes).map(|id| address(args, id)).collect::<Vec<_>>().join(",");
    let fate = if is_temporary { "temporary, removed at exit" } else { "kept" };
    let first = address(args, 1);
    let option =
        if args.base_port == 7101 { String::new() } else { format!("--endpoints {first} ") };
    let text = format!(
        "{} node(s) in one process: {endpoints}\n\
         data: {} ({fate})\n\
         try, in another terminal:\n\
         \x20 kv {option}put greeting hello\n\
         \x20 kv {option}get greeting\n\
         \x20 kv {option}cluster status\n\
         Ctrl-C ends it.",
        args.nodes,
        root.display(),
    );
    // A closed standard output is no reason not to serve.
    let _ = writeln!(io::stdout(), "{text}");
}

/// Runs every node on a thread of its own, until a signal comes or the first one ends.
fn run_all(nodes: Vec<BoundNode>) -> Result<(), NodeError> {
    let runtime = run::runtime()?;
    let signal = {
        let _guard = runtime.enter();
        run::stop_signal()?
    };
    let (stop, stopped) = watch::channel(false);
    // A node that ends says so.
    let (ends, mut ended) = mpsc::channel::<()>(1);
    let threads = nodes
        .into_iter()
        .map(|node| spawn(node, stopped.clone(), ends.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    drop(ends);
    runtime.block_on(async {
        tokio::select! {
            () = signal => {}
            _ = ended.recv() => {}
        }
    });
    let _ = stop.send(true);
    threads.into_iter().try_for_each(|thread| thread.join().expect("a panic aborts the process"))
}

fn spawn(
    node: BoundNode,
    mut stopped: watch::Receiver<bool>,
    ends: mpsc::Sender<()>,
) -> Result<thread::JoinHandle<Result<(), NodeError>>, NodeError> {
    let body = move || {
        let shutdown = async move {
            // A sender that is gone means the same.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let result = run::runtime().and_then(|runtime| node.run(&runtime, shutdown));
        // Any node's end ends them all.
        let _ = ends.try_send(());
        result
    };
    thread::Builder::new()
        .name("node".into())
        .spawn(body)
        .map_err(|source| NodeError::System { what: "start a thread", source })
}
