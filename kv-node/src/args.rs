//! What can be typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::scheduling::Scheduling;

/// A node of a key-value cluster.
#[derive(Debug, Parser)]
#[command(name = "kv-node", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 asked to stop, nothing found; 1 damage found; 2 usage or configuration; 3 I/O. \
                  Logs go to standard error (RUST_LOG sets the level)."
)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs one node until it is told to stop by SIGINT or SIGTERM.
    Start(StartArgs),
    /// Runs a whole cluster in one process, to try things out.
    Dev(DevArgs),
    /// Verifies everything in the data directory of a node that is stopped, and measures its disk.
    /// Changes and repairs nothing.
    Doctor(DoctorArgs),
}

/// Least room that a node needs when its disk is full: two segments of the log.
pub(crate) const DISK_RESERVE_MIB_MIN: u64 = 64;

/// One node.
#[derive(Debug, ClapArgs)]
pub(crate) struct StartArgs {
    /// Id of this node, at least 1; one of --peers. Never give it to another node. For the nodes that
    /// form a cluster; who joins one is given an id.
    #[arg(long, requires = "peers")]
    pub(crate) id: Option<u64>,
    /// Where the node keeps its data. Made if missing; belongs to this node alone.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Where peers and clients connect.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: String,
    /// All nodes that form the cluster, this one included, the same on each:
    /// 1=HOST:PORT,2=HOST:PORT,... Later, this node and any that it can reach are enough.
    #[arg(long, value_name = "ID=HOST:PORT,...", requires = "id")]
    pub(crate) peers: Option<String>,
    /// Join the cluster of which these are members, one is enough. A node that is a member already
    /// just starts; without --join and --peers, one that is none waits for 'kv cluster add-node'.
    #[arg(long, value_name = "HOST:PORT,...", conflicts_with = "peers")]
    pub(crate) join: Option<String>,
    /// Where others reach this node, if it joins. Default: --listen.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "peers")]
    pub(crate) advertise: Option<String>,
    /// Name of the cluster, the same on each node.
    #[arg(long, value_name = "NAME", default_value = "kv")]
    pub(crate) cluster: String,
    /// Where to answer GET /status and GET /healthz over HTTP. Default: nowhere.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<String>,
    /// Allow addresses beyond this machine. There is no encryption and no authentication: everybody
    /// who can connect can read and write everything.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Count of shards, a power of two. Fixed when the cluster is formed.
    #[arg(long, value_name = "COUNT", default_value_t = 16, requires = "peers")]
    pub(crate) shards: u32,
    /// Below how much free space the disk counts as full, in MiB, until there is twice as much. It is
    /// kept for what must go on when the disk is full.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u64).range(DISK_RESERVE_MIB_MIN..=1_048_576))]
    pub(crate) disk_reserve: u64,
    /// For how many seconds old values stay readable at their timestamps, behind the newest write of
    /// their shard. They take space on the disk for as long.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(crate) retention: u64,
    /// How the system's scheduler treats the node: batch, where a thread that is woken does not
    /// interrupt another, which costs fewer switches and so serves more requests; or normal, which
    /// answers sooner where other programs keep all cores busy.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Scheduling::Batch)]
    pub(crate) scheduling: Scheduling,
    /// Let leaders read by a lease, without asking the others for each batch of reads. The same on
    /// each node, also on those that join; changed only while all are stopped. A read may be stale if
    /// a clock is worse than --clock-drift-max-ppm says, or if the machine of a node is suspended and
    /// resumed.
    #[arg(long)]
    pub(crate) leader_lease: bool,
    /// By how much the monotonic clock of any node may run fast or slow, in parts per million.
    #[arg(long, value_name = "PPM", default_value_t = 10_000, requires = "leader_lease")]
    pub(crate) clock_drift_max_ppm: u32,
}

/// A data directory to examine.
#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// The directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Do not measure the disk, which writes and removes a file of 64 MiB.
    #[arg(long)]
    pub(crate) skip_probe: bool,
}

/// A cluster in one process.
#[derive(Debug, ClapArgs)]
pub(crate) struct DevArgs {
    /// Count of nodes.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// Port of the first node; the others follow.
    #[arg(long, value_name = "PORT", default_value_t = 7101)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=65_500))]
    pub(crate) base_port: u16,
    /// Where to keep the data. Default: a temporary directory, removed at exit.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}
