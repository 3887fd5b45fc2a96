//! Session guarantees (Terry et al., PDIS 1994) of registers with unique values.
//!
//! Each says that one write was before another, in the order that all replicas agree on in the end:
//!
//! - **Read your writes**: what a session wrote last to a key is before whatever it reads there, or
//!   is that.
//! - **Monotonic reads**: what a session read is before what it reads later of the same key.
//! - **Monotonic writes**: the writes of a session are in its order.
//! - **Writes follow reads**: what a session read is before what it writes later.
//!
//! A guarantee is broken if that order has a cycle, or puts something before the initial state. The
//! last two show only in reads that are monotonic themselves, so they are checked together with
//! monotonic reads.
//!
//! # What this leaves out
//!
//! Guarantees of all four together across sessions, which is causal consistency.

use std::collections::BTreeMap;

use super::anomaly::name;
use super::cycle::{cycles, whole};
use super::graph::{Edges, Graph, Kind, Link};
use super::history::{TxnHistory, TxnOp, Version, index};
use super::registers::Registers;
use super::rules::{Rule, Rules};
use crate::budget::Options;
use crate::report::Verdict;

const READ_YOUR_WRITES: &str = "read-your-writes";
const MONOTONIC_READS: &str = "monotonic-reads";
const MONOTONIC_WRITES: &str = "monotonic-writes";
const WRITES_FOLLOW_READS: &str = "writes-follow-reads";

/// Checks the guarantees.
pub(crate) fn session_guarantees(history: &TxnHistory) -> Rules {
    let names = [READ_YOUR_WRITES, MONOTONIC_READS, MONOTONIC_WRITES, WRITES_FOLLOW_READS];
    match Registers::new(history) {
        Ok(registers) => names.map(|name| check(name, &registers)).to_vec().into(),
        Err(why) => names.map(|name| Rule::unknown(name, why.clone())).to_vec().into(),
    }
}

/// What a session wrote and read last.
#[derive(Debug, Default)]
struct Session {
    /// By key.
    wrote: BTreeMap<u32, Version>,
    /// By key.
    read: BTreeMap<u32, Version>,
    last_write: Option<Version>,
    reads: Reads,
}

/// A helper in the graph that stands for all that a session has read so far.
#[derive(Debug, Clone, Copy, Default)]
enum Reads {
    #[default]
    None,
    /// More reads may go into it.
    Open(u32),
    /// A write came out of it, so later reads need another one behind it.
    Closed(u32),
}

struct Check<'h> {
    history: &'h TxnHistory,
    name: &'static str,
    rule: Rule,
    edges: Edges,
}

fn check(name: &'static str, registers: &Registers<'_>) -> Rule {
    let history = registers.history;
    let is_read = |op: &&TxnOp| matches!(op, TxnOp::Read(..));
    let reads = history.all_ops().iter().filter(is_read).count();
    let edges = Edges::new(history.version_count());
    let mut check = Check { history, name, rule: Rule::new(name, reads), edges };
    let mut sessions: BTreeMap<u32, Session> = BTreeMap::new();
    let mut order: Vec<usize> = (0..history.transactions().len()).collect();
    order.sort_by_key(|txn| history.transactions()[*txn].invoked);
    for txn in order.into_iter().filter(|txn| registers.committed[*txn]) {
        let about = history.transactions()[txn];
        // One of unknown outcome may take effect after whatever its session does later.
        if about.completed == super::NEVER {
            continue;
        }
        let session = sessions.entry(about.process).or_default();
        for op in history.ops(txn) {
            match *op {
                TxnOp::Write(version) => check.wrote(session, version),
                TxnOp::Read(key, version) => {
                    let version = version.filter(|version| registers.is_written(*version));
                    check.read(session, index(txn), key.0, version);
                }
                TxnOp::Append(_) | TxnOp::ReadList(..) => {}
            }
        }
    }
    check.finish()
}

impl Check<'_> {
    fn before(&mut self, one: Option<Version>, other: Version, kind: Kind) {
        if let Some(one) = one.filter(|one| *one != other) {
            self.edges.add(one.0, other.0, kind, 0);
        }
    }

    fn wrote(&mut self, session: &mut Session, version: Version) {
        match self.name {
            MONOTONIC_WRITES => self.before(session.last_write, version, Kind::Overwritten),
            WRITES_FOLLOW_READS => {
                if let Reads::Open(helper) | Reads::Closed(helper) = session.reads {
                    self.edges.add(helper, version.0, Kind::Onward, 0);
                    session.reads = Reads::Closed(helper);
                }
            }
            _ => {}
        }
        session.wrote.insert(self.history.key_of(version).0, version);
        session.last_write = Some(version);
    }

    fn read(&mut self, session: &mut Session, txn: u32, key: u32, version: Option<Version>) {
        let before = match self.name {
            READ_YOUR_WRITES => session.wrote.get(&key),
            _ => session.read.get(&key),
        };
        let before = before.copied();
        let Some(version) = version else {
            if let Some(before) = before {
                let (key, value) = self.names(before);
                let name = name(txn);
                self.rule
                    .broken(format!("{name} found nothing in {key}, its session knew {value}"));
            }
            return;
        };
        self.before(before, version, Kind::Process);
        session.read.insert(key, version);
        if self.name == WRITES_FOLLOW_READS {
            let helper = self.reads_of(session);
            self.edges.add(version.0, helper, Kind::Read, 0);
        }
    }

    fn reads_of(&mut self, session: &mut Session) -> u32 {
        let before = match session.reads {
            Reads::Open(helper) => return helper,
            Reads::Closed(before) => Some(before),
            Reads::None => None,
        };
        let helper = self.edges.helper();
        if let Some(before) = before {
            self.edges.add(before, helper, Kind::Onward, 0);
        }
        session.reads = Reads::Open(helper);
        helper
    }

    fn names(&self, version: Version) -> (&str, &str) {
        let key = self.history.key_name(self.history.key_of(version));
        (key, self.history.value_name(version))
    }

    fn finish(mut self) -> Rule {
        let graph = Graph::new(self.history.version_count(), &self.edges);
        let cycles = cycles(&graph, &whole(&graph), &Options::default());
        if let Some((_, links)) = cycles.found.first() {
            let told: Vec<_> = links.iter().map(|link| self.sentence(link)).collect();
            self.rule.broken(told.join("; "));
        }
        assert!(cycles.undecided.is_empty() || self.rule.verdict == Verdict::Violated);
        self.rule
    }

    /// Why one write was before another.
    fn sentence(&self, link: &Link) -> String {
        let (from, to) = (self.names(Version(link.from)), self.names(Version(link.to)));
        let why = match link.kind {
            Kind::Overwritten => "wrote",
            Kind::Read => "read and then wrote",
            _ => "knew and then read",
        };
        format!("a session {why} {}={} before {}={}", from.0, from.1, to.0, to.1)
    }
}
