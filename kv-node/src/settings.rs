//! From what was typed to a configuration that was checked, with all mistakes at once.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use kv_core::cluster::Identity;
use kv_core::id::{Address, NodeId};
use kv_core::node::{LeaseConfig, NodeConfig};

use crate::args::StartArgs;
use crate::error::NodeError;

/// Longest name of a cluster: it travels in every handshake, which is short.
const CLUSTER_NAME_BYTES_MAX: usize = 255;
/// Bytes of a MiB.
pub(crate) const MIB: u64 = 1024 * 1024;

/// What was typed, not checked yet.
#[derive(Clone, Debug)]
pub(crate) struct RawSettings {
    /// Id of the node, if it forms a cluster.
    pub(crate) id: Option<u64>,
    /// Its data directory.
    pub(crate) data_dir: PathBuf,
    /// Where it listens.
    pub(crate) listen: String,
    /// All nodes that form the cluster, as `1=HOST:PORT,...`.
    pub(crate) peers: Option<String>,
    /// Members of the cluster to join, as `HOST:PORT,...`.
    pub(crate) join: Option<String>,
    /// Where others reach it, if it joins.
    pub(crate) advertise: Option<String>,
    /// Name of the cluster.
    pub(crate) cluster_name: String,
    /// Where it answers HTTP.
    pub(crate) admin: Option<String>,
    /// Whether addresses beyond this machine are allowed.
    pub(crate) insecure: bool,
    /// Count of user shards.
    pub(crate) shard_count: u32,
    /// Free space below which the disk counts as full, in bytes.
    pub(crate) disk_reserve_bytes: u64,
    /// Whether leaders read by leases, and how bad clocks may be.
    pub(crate) lease: Option<LeaseConfig>,
    /// How long old values stay readable.
    pub(crate) retention: Duration,
}

impl From<StartArgs> for RawSettings {
    fn from(args: StartArgs) -> Self {
        Self {
            id: args.id,
            data_dir: args.data_dir,
            listen: args.listen,
            peers: args.peers,
            join: args.join,
            advertise: args.advertise,
            cluster_name: args.cluster,
            admin: args.admin,
            insecure: args.insecure,
            shard_count: args.shards,
            disk_reserve_bytes: args.disk_reserve * MIB,
            retention: Duration::from_secs(args.retention),
            lease: args
                .leader_lease
                .then_some(LeaseConfig { drift_max_ppm: args.clock_drift_max_ppm }),
        }
    }
}

/// What holds for one node.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// For the core, if the node is one of those that form a cluster. Valid. Else what the data
    /// directory says holds, and what the node is told when it joins.
    pub(crate) config: Option<NodeConfig>,
    /// Name of the cluster.
    pub(crate) cluster_name: String,
    /// Members of the cluster to join; empty if the node is not told to.
    pub(crate) seeds: Vec<Address>,
    /// Where others reach it, if it joins.
    pub(crate) address: Address,
    /// Its data directory.
    pub(crate) data_dir: PathBuf,
    /// Where it listens: what the host's name resolves to.
    pub(crate) listen: Vec<SocketAddr>,
    /// Where it answers HTTP; empty for nowhere.
    pub(crate) admin: Vec<SocketAddr>,
    /// Free space below which the disk counts as full, in bytes.
    pub(crate) disk_reserve_bytes: u64,
    /// Whether leaders read by leases, and how bad clocks may be.
    pub(crate) lease: Option<LeaseConfig>,
    /// How long old values stay readable.
    pub(crate) retention: Duration,
}

impl Settings {
    /// The id that the node was given on the command line.
    pub(crate) fn id(&self) -> NodeId {
        self.config.as_ref().map_or(NodeId::UNKNOWN, |config| config.id)
    }

    /// For the core of a node that belongs to a cluster by its data directory.
    pub(crate) fn config_of(&self, identity: &Identity) -> NodeConfig {
        if let Some(config) = &self.config {
            return config.clone();
        }
        let record = identity.cluster.iter().flat_map(|cluster| &cluster.members);
        let members: Vec<_> = match &identity.map {
            Some(map) => map.members.iter().collect(),
            None => record.collect(),
        };
        let peers = members.iter().map(|member| (member.id, member.address.clone()));
        let mut peers: Vec<_> = peers.collect();
        // Who was removed finds itself in no map.
        if peers.iter().all(|(peer, _)| *peer != identity.node) {
            peers.push((identity.node, self.address.clone()));
        }
        let config = NodeConfig::new(identity.node, &self.cluster_name, peers);
        NodeConfig { lease: self.lease, retention: self.retention, ..config }
    }
}

impl RawSettings {
    /// Checks everything.
    ///
    /// # Errors
    /// [`NodeError::Config`] with all mistakes. *Nothing was changed.*
    pub(crate) fn check(self) -> Result<Settings, NodeError> {
        let mut mistakes = vec![];
        let config = self.config(&mut mistakes);
        let joins = self.join.iter().flat_map(|join| join.split(','));
        let seeds = joins.filter_map(|seed| parse_address("--join", seed, &mut mistakes)).collect();
        if self.cluster_name.is_empty() || self.cluster_name.len() > CLUSTER_NAME_BYTES_MAX {
            mistakes.push(format!("--cluster takes 1 to {CLUSTER_NAME_BYTES_MAX} bytes"));
        }
        let listen = resolve("--listen", &self.listen, self.insecure, &mut mistakes);
        let is_everywhere = listen.iter().any(|address| address.ip().is_unspecified());
        let address = match &self.advertise {
            Some(address) => parse_address("--advertise", address, &mut mistakes),
            None if is_everywhere && config.is_none() => {
                let listen = &self.listen;
                mistakes.push(format!(
                    "--listen: nobody reaches a node at {listen}; say with --advertise where others do"
                ));
                None
            }
            None => Some(Address(self.listen.clone())),
        };
        let admin = match &self.admin {
            Some(admin) => resolve("--admin", admin, self.insecure, &mut mistakes),
            None => vec![],
        };
        let (true, Some(address)) = (mistakes.is_empty(), address) else {
            return Err(NodeError::Config { mistakes });
        };
        Ok(Settings {
            config,
            cluster_name: self.cluster_name,
            seeds,
            address,
            data_dir: self.data_dir,
            listen,
            admin,
            disk_reserve_bytes: self.disk_reserve_bytes,
            lease: self.lease,
            retention: self.retention,
        })
    }

    /// The configuration of a node that forms a cluster.
    fn config(&self, mistakes: &mut Vec<String>) -> Option<NodeConfig> {
        let (id, peers) = (NodeId(self.id?), parse_peers(self.peers.as_ref()?, mistakes));
        let mut config = NodeConfig::new(id, &self.cluster_name, peers);
        config.shard_count = self.shard_count;
        config.lease = self.lease;
        config.retention = self.retention;
        // A list that does not parse would only repeat itself as missing peers.
        if mistakes.is_empty()
            && let Err(errors) = config.validate()
        {
            mistakes.extend(errors.0.iter().map(ToString::to_string));
        }
        Some(config)
    }
}

fn parse_peers(text: &str, mistakes: &mut Vec<String>) -> Vec<(NodeId, Address)> {
    let mut peers = vec![];
    for item in text.split(',') {
        match parse_peer(item) {
            Some(peer) => peers.push(peer),
            None => mistakes.push(format!("--peers: {item:?} is not ID=HOST:PORT")),
        }
    }
    peers
}

fn parse_peer(item: &str) -> Option<(NodeId, Address)> {
    let (id, address) = item.trim().split_once('=')?;
    let address = host_and_port(address)?;
    Some((NodeId(id.parse().ok()?), address))
}

fn parse_address(option: &str, text: &str, mistakes: &mut Vec<String>) -> Option<Address> {
    let address = host_and_port(text.trim());
    if address.is_none() {
        mistakes.push(format!("{option}: {text:?} is not HOST:PORT"));
    }
    address
}

fn host_and_port(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    (!host.is_empty() && is_port).then(|| Address(text.to_owned()))
}

fn resolve(
    option: &str,
    text: &str,
    insecure: bool,
    mistakes: &mut Vec<String>,
) -> Vec<SocketAddr> {
    let addresses: Vec<_> = match text.to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            mistakes.push(format!("{option}: {text:?} is not HOST:PORT of this machine ({error})"));
            return vec![];
        }
    };
    if !insecure && addresses.iter().any(|address| !address.ip().is_loopback()) {
        mistakes.push(format!(
            "{option}: {text} can be reached from other machines, and connections are neither encrypted nor \
             authenticated yet; listen on 127.0.0.1, or accept that with --insecure"
        ));
    }
    addresses
}

#[cfg(test)]
mod tests {
    use kv_core::id::Incarnation;

    use super::*;

    fn raw() -> RawSettings {
        RawSettings {
            id: Some(1),
            data_dir: "unused".into(),
            listen: "127.0.0.1:7101".into(),
            peers: Some("1=127.0.0.1:7101,2=127.0.0.1:7102,3=127.0.0.1:7103".into()),
            join: None,
            advertise: None,
            cluster_name: "kv".into(),
            admin: None,
            disk_reserve_bytes: 256 * MIB,
            insecure: false,
            shard_count: 16,
            lease: None,
            retention: Duration::from_secs(600),
        }
    }

    #[track_caller]
    fn check(raw: RawSettings, expected: &[&str]) {
        let mistakes = match raw.check() {
            Ok(_) => vec![],
            Err(NodeError::Config { mistakes }) => mistakes,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:?}");
        for (mistake, part) in mistakes.iter().zip(expected) {
            assert!(mistake.contains(part), "{mistake:?} does not say {part:?}");
        }
    }

    #[test]
    fn good_settings_pass() {
        check(raw(), &[]);
        check(RawSettings { listen: "localhost:7101".into(), ..raw() }, &[]);
        check(RawSettings { listen: "0.0.0.0:7101".into(), insecure: true, ..raw() }, &[]);
    }

    #[test]
    fn addresses_beyond_this_machine_need_the_option() {
        check(RawSettings { listen: "0.0.0.0:7101".into(), ..raw() }, &["--insecure"]);
        check(RawSettings { listen: "[::]:7101".into(), ..raw() }, &["--insecure"]);
        check(RawSettings { admin: Some("192.0.2.1:80".into()), ..raw() }, &["--admin"]);
    }

    #[test]
    fn all_mistakes_are_listed_at_once() {
        let peers = "1=127.0.0.1:7101,two=127.0.0.1:7102,3=127.0.0.1,4=:1,,5=a:0".to_owned();
        let parts = ["\"two=", "\"3=", "\"4=", "\"\"", "\"5=", "--cluster", "--listen", "--admin"];
        let raw = RawSettings {
            peers: Some(peers),
            cluster_name: String::new(),
            listen: "127.0.0.1".into(),
            admin: Some("0.0.0.0:1".into()),
            ..raw()
        };
        check(raw, &parts);
    }

    #[test]
    fn who_joins_must_be_reachable() {
        let joining = || RawSettings {
            id: None,
            peers: None,
            join: Some("127.0.0.1:7101,localhost:7102".into()),
            insecure: true,
            ..raw()
        };
        check(joining(), &[]);
        check(RawSettings { join: None, ..joining() }, &[]);
        let everywhere = || RawSettings { listen: "0.0.0.0:7104".into(), ..joining() };
        check(everywhere(), &["--advertise"]);
        check(RawSettings { advertise: Some("db4:7104".into()), ..everywhere() }, &[]);
        check(RawSettings { advertise: Some("db4".into()), ..everywhere() }, &["\"db4\""]);
        check(RawSettings { join: Some("a:1,b".into()), ..joining() }, &["--join: \"b\""]);
    }

    #[test]
    fn the_core_has_its_say() {
        check(RawSettings { id: Some(9), shard_count: 3, ..raw() }, &["itself", "power of two"]);
        let lease = Some(LeaseConfig { drift_max_ppm: 600_000 });
        check(RawSettings { lease, ..raw() }, &["parts per million"]);
    }

    #[test]
    fn leases_and_retention_hold_for_founders_and_for_who_joined() {
        let identity = Identity {
            cluster_name: "kv".into(),
            node: NodeId(1),
            incarnation: Incarnation(1),
            cluster: None,
            map: None,
            life: 0,
            repair: None,
        };
        let lease = Some(LeaseConfig { drift_max_ppm: 7 });
        for lease in [None, lease] {
            for raw in [raw(), RawSettings { id: None, peers: None, ..raw() }] {
                let retention = Duration::from_secs(7);
                let settings = RawSettings { lease, retention, ..raw }.check().unwrap();
                let config = settings.config_of(&identity);
                assert_eq!((config.lease, config.retention), (lease, retention), "{settings:?}");
            }
        }
    }
}
