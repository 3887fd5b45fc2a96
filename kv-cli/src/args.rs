//! What can be typed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use kv_client::Consistency;
use kv_core::id::{NodeId, ShardId, Timestamp};
use kv_core::machine::plan::Change;
use kv_core::op::{Expect, Value};
use kv_core::txn::OutcomeId;

/// Talks to a key-value cluster. Without a command: a prompt.
#[derive(Debug, Parser)]
#[command(name = "kv", version, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Where to find the cluster: one node is enough, more survive its failure.
    #[arg(long, env = "KV_ENDPOINTS", value_name = "HOST:PORT,...", value_delimiter = ',')]
    #[arg(global = true, default_value = "127.0.0.1:7101", value_parser = endpoint)]
    pub(crate) endpoints: Vec<String>,
    /// How to print answers and errors.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    /// How long a command may take, without the time that it waits for shards to be moved; how long
    /// each page of a scan may take.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 key missing, or cas or conditions not met; 2 usage, or refused: nothing changed;
3 cluster unreachable, nothing changed; 4 the outcome of a write or of a change is unknown;
5 transaction aborted, nothing changed. 'kv outcome' answers with 0, 4 or 5; 3 if nobody could tell.
With --output json, a key or value that is not UTF-8 is printed as {\"b64\": \"...\"}.
Keys and values that start with '-' go after '--'.";

/// Commands of the prompt; quotes and backslashes work as in a shell.
#[derive(Debug, Parser)]
#[command(name = "kv", no_binary_name = true, disable_help_flag = true)]
#[command(override_usage = "COMMAND (help, exit)")]
pub(crate) struct Line {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: LineCommand,
}

/// A command of the prompt.
#[derive(Debug, Subcommand)]
pub(crate) enum LineCommand {
    /// What also is a command of its own.
    #[command(flatten)]
    Other(Command),
    /// Begins a transaction: what follows takes effect together at the commit, or not at all.
    Begin,
    /// In a transaction: prints the value of a key that is going to be written, and locks it.
    GetForUpdate {
        /// The key.
        key: OsString,
    },
    /// Makes all writes of the transaction take effect.
    Commit,
    /// Drops all writes of the transaction.
    Rollback,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people; `get` prints the value alone.
    Text,
    /// One object per command; of a scan, one per key.
    Json,
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sets a key to a value.
    Put {
        /// Any bytes, at most 8 KiB.
        key: OsString,
        /// Any bytes, at most 8 MiB.
        #[arg(allow_negative_numbers = true)]
        value: OsString,
    },
    /// Prints the value of a key. Sees every write that was acknowledged before, if --consistency
    /// does not say otherwise.
    Get {
        /// The key.
        key: OsString,
        /// What it held at this version of anything (see `get --output json`), as far back as the
        /// nodes remember.
        #[arg(long, value_name = "VERSION", value_parser = timestamp)]
        at: Option<Timestamp>,
        /// How fresh it must be: linearizable, sequential (what this prompt has seen), or stale: with
        /// an age, as stale:5s. All but the first ask any replica.
        #[arg(long, value_name = "LEVEL", conflicts_with = "at")]
        #[arg(default_value_t = Consistency::Linearizable)]
        consistency: Consistency,
    },
    /// Prints the keys of a range with their values, in order, all as they were at one moment: KEY, a
    /// tab, VALUE.
    Scan(ScanArgs),
    /// Removes a key, and tells whether it existed.
    Delete {
        /// The key.
        key: OsString,
    },
    /// Sets a key if it is as expected: KEY OLD NEW, --version V KEY NEW, or --absent KEY NEW.
    Cas(CasArgs),
    /// Runs the operations of a file as one transaction: all of them take effect, or none. At the
    /// prompt, begin and commit do the same.
    Txn(TxnArgs),
    /// Writes the keys of a file at once, if what the file says of others holds: all of it, or nothing.
    Batch(BatchArgs),
    /// Tells how a transaction ended whose outcome was unknown, with the exit code that it would have
    /// had: 0 committed, 5 aborted; 4 if that is forgotten. One that is undecided is aborted by this.
    Outcome {
        /// The id that the error named, like s3-17-00000000deadbeef-4-9-2dde84a8.
        id: OutcomeId,
    },
    /// About the cluster as a whole.
    Cluster {
        /// What about it.
        #[command(subcommand)]
        command: ClusterCommand,
    },
}

/// A command about the cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Prints a line for each node and for each shard: who votes, who leads, what is being moved, and
    /// how many failures it survives.
    Status,
    /// Prints what a change of the members would move. Nothing is done.
    Plan {
        /// The change.
        #[command(subcommand)]
        change: PlanCommand,
    },
    /// Makes a node a member that was started without --peers and waits: gives it an id and a fair
    /// share of the replicas.
    AddNode {
        /// Where it listens.
        #[arg(value_name = "HOST:PORT", value_parser = endpoint)]
        address: String,
        /// Do not wait until the shards are moved.
        #[arg(long)]
        no_wait: bool,
    },
    /// Lets a member leave: moves its replicas to the others, then drops it.
    RemoveNode {
        /// Its id.
        #[arg(value_parser = node)]
        id: NodeId,
        /// How.
        #[command(flatten)]
        how: How,
    },
    /// Lets a member leave and another one take over its replicas.
    ReplaceNode {
        /// The id of the one that leaves.
        #[arg(value_parser = node)]
        old: NodeId,
        /// The id of the one that takes over.
        #[arg(value_parser = node)]
        new: NodeId,
        /// How.
        #[command(flatten)]
        how: How,
    },
    /// Hands the leadership of a shard to another of its voters.
    TransferLeader {
        /// The shard.
        #[arg(value_parser = shard)]
        shard: ShardId,
        /// The id of the node that is to lead.
        #[arg(value_parser = node)]
        node: NodeId,
    },
}

/// A change of the members, to be tried out.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// If one more node joined.
    #[command(name = "add-node")]
    Add,
    /// If a member left.
    #[command(name = "remove-node")]
    Remove {
        /// Its id.
        #[arg(value_parser = node)]
        id: NodeId,
    },
    /// If a member left and another one took over its replicas.
    #[command(name = "replace-node")]
    Replace {
        /// The id of the one that leaves.
        #[arg(value_parser = node)]
        old: NodeId,
        /// The id of the one that takes over.
        #[arg(value_parser = node)]
        new: NodeId,
    },
}

impl From<PlanCommand> for Change {
    fn from(command: PlanCommand) -> Self {
        match command {
            PlanCommand::Add => Self::Add,
            PlanCommand::Remove { id } => Self::Remove { id },
            PlanCommand::Replace { old, new } => Self::Replace { old, new },
        }
    }
}

/// How a member leaves.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct How {
    /// Also if a shard loses its quorum by it. Such a shard serves nothing until enough of its nodes
    /// return; if their disks are lost, so is what it held.
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not wait until the shards are moved.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// A range of keys, and when.
#[derive(Debug, ClapArgs)]
pub(crate) struct ScanArgs {
    /// The first key.
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    pub(crate) from: Option<OsString>,
    /// The first key that is not printed.
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    pub(crate) to: Option<OsString>,
    /// All keys that begin so.
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<OsString>,
    /// How many keys, at most.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// As they were at this version of anything (see `get --output json`), as far back as the nodes
    /// remember (`kv-node start --retention`); left out: as they are.
    #[arg(long, value_name = "VERSION", value_parser = timestamp)]
    pub(crate) at: Option<Timestamp>,
}

/// A transaction from a file.
#[derive(Debug, ClapArgs)]
pub(crate) struct TxnArgs {
    /// A line per operation: get, get-for-update, scan, put, delete or cas, as at the prompt; - is
    /// standard input. It is committed at its end, and rolled back at a cas that is not applied.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// How often to run it again if it is aborted; left out: until the time is over.
    #[arg(long, value_name = "COUNT")]
    pub(crate) retries: Option<u32>,
}

/// A batch from a file.
#[derive(Debug, ClapArgs)]
pub(crate) struct BatchArgs {
    /// A line per condition, if-value KEY VALUE, if-version KEY V or if-absent KEY; then a line per
    /// write, put KEY VALUE or delete KEY, or get KEY; then perhaps else, and a line for each that is
    /// done if not all conditions hold, with exit code 1. - is standard input.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) file: PathBuf,
}

/// What to say if a compare-and-set has none of its forms.
pub(crate) const CAS_FORMS: &str =
    "cas takes KEY OLD NEW, or --version V KEY NEW, or --absent KEY NEW";

/// The three forms of a compare-and-set.
#[derive(Debug, ClapArgs)]
#[command(
    override_usage = "kv cas KEY OLD NEW\n       kv cas --version V KEY NEW\n       kv cas --absent KEY NEW"
)]
pub(crate) struct CasArgs {
    /// The key must exist at this version (see `get --output json`).
    #[arg(long, value_name = "V", conflicts_with = "absent")]
    version: Option<u64>,
    /// The key must not exist.
    #[arg(long)]
    absent: bool,
    /// KEY OLD NEW; with an option KEY NEW.
    #[arg(required = true, num_args = 2..=3, value_names = ["KEY", "OLD", "NEW"])]
    #[arg(allow_negative_numbers = true)]
    words: Vec<OsString>,
}

/// A compare-and-set, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cas {
    /// The key.
    pub(crate) key: Vec<u8>,
    /// What must hold.
    pub(crate) expect: Expect,
    /// The new value.
    pub(crate) value: Vec<u8>,
}

impl CasArgs {
    /// Which of the three forms it is; none if the words do not fit the options.
    pub(crate) fn parse(self) -> Option<Cas> {
        let mut words = self.words.into_iter().map(OsString::into_vec);
        let (key, second, third) = (words.next()?, words.next()?, words.next());
        let (expect, value) = match (self.version, self.absent, third) {
            (None, false, Some(value)) => (Expect::Value(Value::string(second)), value),
            (Some(version), false, None) => (Expect::Version(Timestamp(version)), second),
            (None, true, None) => (Expect::Absent, second),
            _ => return None,
        };
        Some(Cas { key, expect, value })
    }
}

/// A node's id, as it is printed or as a number alone.
fn node(text: &str) -> Result<NodeId, String> {
    let number = text.strip_prefix('n').unwrap_or(text).parse();
    number.map(NodeId).map_err(|_| "not a node's id, like n2 or 2".to_owned())
}

/// A version.
fn timestamp(text: &str) -> Result<Timestamp, String> {
    text.parse().map(Timestamp).map_err(|_| "not a version, like 467142148096000000".to_owned())
}

/// A shard, as it is printed or as a number alone.
fn shard(text: &str) -> Result<ShardId, String> {
    let number = text.strip_prefix('s').unwrap_or(text).parse();
    number.map(ShardId).map_err(|_| "not a shard, like s3 or 3".to_owned())
}

fn endpoint(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.map(str::parse::<u16>) {
        Some(Ok(port)) if port > 0 => Ok(text.to_owned()),
        _ => Err("not HOST:PORT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<(&str, Expect, &str)>) {
        let words = line.split_whitespace();
        let Args { command: Some(Command::Cas(cas)), .. } = Args::parse_from(words) else {
            panic!("not a cas: {line}")
        };
        let expected = expected.map(|(key, expect, value)| Cas {
            key: key.into(),
            expect,
            value: value.into(),
        });
        assert_eq!(cas.parse(), expected, "{line}");
    }

    #[test]
    fn a_cas_has_three_forms_and_no_others() {
        let old = || Expect::Value(Value::string("old"));
        check("kv cas k old new", Some(("k", old(), "new")));
        check("kv cas --version 7 k new", Some(("k", Expect::Version(Timestamp(7)), "new")));
        check("kv cas --absent k new", Some(("k", Expect::Absent, "new")));
        check("kv cas k -1 -2", Some(("k", Expect::Value(Value::string("-1")), "-2")));
        check("kv cas k new", None);
        check("kv cas --absent k old new", None);
        check("kv cas --version 7 k old new", None);
    }

    #[test]
    fn ids_are_taken_as_they_are_printed() {
        assert_eq!((node("n12"), node("12")), (Ok(NodeId(12)), Ok(NodeId(12))));
        assert_eq!((shard("s0"), shard("3")), (Ok(ShardId(0)), Ok(ShardId(3))));
        for bad in ["", "n", "s1", "-1", "1.5"] {
            assert!(node(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints_need_a_host_and_a_port() {
        for good in ["localhost:7101", "127.0.0.1:1", "[::1]:7101"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", ":7101", "a:0", "a:65536", "a:b"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
